import pytest
from mailgw_attachments import Attachments

from mailgw.api import Verdict
from mailgw.testing import a_message, run

MESSAGE = b"""\
From: anna@example.org\r
Content-Type: multipart/mixed; boundary=x\r
\r
--x\r
Content-Type: application/octet-stream\r
Content-Disposition: attachment; filename="%b"\r
\r
MZ\r
--x--\r
"""


@pytest.mark.parametrize(
    ("name", "verdict"),
    [(b"holiday.jpg", Verdict.PROCEED), (b"holiday.jpg.EXE", Verdict.QUARANTINE), (b"exe.txt", Verdict.PROCEED)],
)
def test_attachments(name, verdict):
    assert run(Attachments().check_content(a_message(MESSAGE % name))).verdict is verdict


def test_the_endings_are_a_setting():
    assert run(Attachments(endings=(".zip",)).check_content(a_message(MESSAGE % b"a.zip"))).why == "attachment a.zip"
