import email
import email.policy
from email.utils import parsedate_to_datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.queue.bounce import RETURNED_AT_MOST, RETURNED_IN_FULL, Report, compose, wanted
from mailgw.testing.facts import MESSAGE, an_address, an_envelope
from mailgw.values.content import Content
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

NOW = 1_767_700_000.0
REFUSED = Reply(550, "5.1.1", "no such user")
BUSY = Reply(451, "4.2.1", "busy")


def report(address="anna@example.org", action="failed", reply=REFUSED, *, notify=(), orcpt="", **rest):
    return Report(recipient=Recipient(an_address(address), frozenset(notify), orcpt), action=action, reply=reply, **rest)


def dsn(envelope=None, content=MESSAGE, reports=None):
    return compose(
        envelope or an_envelope("sender@example.com"),
        content if isinstance(content, Content) else Content.of(content),
        reports or [report()],
        hostname="mx.example.net",
        postmaster=an_address("postmaster@example.net"),
        now=NOW,
        randomness=Random(1),
    )


def parse(made):
    """The three parts of a DSN, and its header; checks what is true for every DSN."""
    raw = made.content.read()
    assert raw.count(b"\n") == raw.count(b"\r\n") == raw.count(b"\r")
    assert raw.endswith(b"--\r\n")
    assert made.content.original_size == len(raw)
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert made.envelope.body == ("7BIT" if raw.isascii() else "8BITMIME")
    message = email.message_from_bytes(raw)
    assert not message.defects
    assert message["Content-Transfer-Encoding"] == (None if raw.isascii() else "8bit")
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    parts = message.get_payload()
    assert parts[0].get_content_type() == "text/plain"
    assert parts[1].get_content_type() in ("message/delivery-status", "message/global-delivery-status")
    assert message.epilogue == ""
    return message, parts


def status(part):
    """The blocks of the second part as lists of (field, value)."""
    if part.get_content_type() == "message/global-delivery-status":
        text = part.get_payload()[0].as_bytes(policy=email.policy.SMTPUTF8).decode()
        text = text if isinstance(text, str) else text.decode()
        blocks = [block for block in text.replace("\r\n", "\n").split("\n\n") if block.strip()]
        return [[tuple(line.split(": ", 1)) for line in block.splitlines()] for block in blocks]
    return [block.items() for block in part.get_payload() if block.items()]


def test_the_whole_of_a_failed_dsn():
    envelope = an_envelope("sender@example.com", envid="QQ314159", arrived=NOW - 60, session="s7")
    made = dsn(
        envelope,
        reports=[
            report("anna@example.org", peer="mx.example.org", attempted=NOW, orcpt="rfc822;anna@alias.example"),
            report("ben@example.org", reply=Reply(550, "5.4.4", "no route to this recipient")),
            report("carl@example.org", reply=BUSY, peer="unix:/run/lmtp", attempted=NOW, expired=True),
        ],
    )
    assert not made.envelope.sender
    assert made.envelope.arrived == NOW
    assert made.envelope.envid == ""
    assert made.envelope.session == "s7"
    assert not made.envelope.smtputf8
    assert made.recipient == Recipient(an_address("sender@example.com"), frozenset({"NEVER"}))
    message, parts = parse(made)
    assert message["From"] == "Mail Delivery System <MAILER-DAEMON@mx.example.net>"
    assert message["To"] == "<sender@example.com>"
    assert message["Subject"] == "Undelivered mail"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["MIME-Version"] == "1.0"
    assert message["Message-ID"].endswith("@mx.example.net>")
    assert parsedate_to_datetime(message["Date"]).timestamp() == NOW
    text = parts[0].get_payload()
    for words in ("<anna@example.org>", "mx.example.org said: 550 5.1.1 no such user", "<ben@example.org>", "postmaster@example.net"):
        assert words in text
    date = "Tue, 06 Jan 2026 11:46:40 +0000"
    assert status(parts[1]) == [
        [
            ("Reporting-MTA", "dns; mx.example.net"),
            ("Original-Envelope-Id", "QQ314159"),
            ("Arrival-Date", "Tue, 06 Jan 2026 11:45:40 +0000"),
        ],
        [
            ("Original-Recipient", "rfc822;anna@alias.example"),
            ("Final-Recipient", "rfc822;anna@example.org"),
            ("Action", "failed"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; mx.example.org"),
            ("Diagnostic-Code", "smtp; 550 5.1.1 no such user"),
            ("Last-Attempt-Date", date),
        ],
        [
            ("Final-Recipient", "rfc822;ben@example.org"),
            ("Action", "failed"),
            ("Status", "5.4.4"),
            ("Diagnostic-Code", "x-mailgw; 550 5.4.4 no route to this recipient"),
        ],
        [
            ("Final-Recipient", "rfc822;carl@example.org"),
            ("Action", "failed"),
            ("Status", "4.4.7"),
            ("Remote-MTA", "x-mailgw; unix:/run/lmtp"),
            ("Diagnostic-Code", "smtp; 451 4.2.1 busy"),
            ("Last-Attempt-Date", date),
        ],
    ]
    assert parts[2].get_content_type() == "message/rfc822"
    assert MESSAGE in made.content.read()


def test_delayed():
    made = dsn(reports=[report(action="delayed", reply=BUSY, peer="mx.example.org", attempted=NOW, retry_until=NOW + 100)])
    message, parts = parse(made)
    assert message["Subject"].startswith("Delayed mail")
    fields = dict(status(parts[1])[1])
    assert fields["Action"] == "delayed"
    assert fields["Status"] == "4.2.1"
    assert parsedate_to_datetime(fields["Will-Retry-Until"]).timestamp() == NOW + 100
    assert "need not send it again" in parts[0].get_payload()
    assert parts[2].get_content_type() == "text/rfc822-headers"
    assert "Hello.\n" not in parts[2].as_string()


@pytest.mark.parametrize("action", ["delivered", "relayed", "expanded"])
def test_success(action):
    _, parts = parse(dsn(reports=[report(action=action, reply=Reply(250, "", "ok"), peer="mx.example.org")]))
    fields = dict(status(parts[1])[1])
    assert (fields["Action"], fields["Status"], fields["Diagnostic-Code"]) == (action, "2.0.0", "smtp; 250 ok")
    assert parts[2].get_content_type() == "text/rfc822-headers"


@pytest.mark.parametrize(
    ("action", "reply", "code"),
    [
        ("failed", Reply(451, "4.2.2", "full"), "5.2.2"),
        ("delayed", Reply(550, "5.1.1", "odd"), "4.1.1"),
        ("delivered", Reply(250, "2.6.0", "ok"), "2.6.0"),
        ("relayed", Reply(550, "5.1.1", "odd"), "2.1.1"),
    ],
)
def test_the_status_agrees_with_the_action(action, reply, code):
    assert report(action=action, reply=reply).status == code


@pytest.mark.parametrize(
    ("sender", "notify", "told"),
    [
        ("sender@example.com", (), {"failed", "delayed"}),
        ("sender@example.com", ("NEVER",), set()),
        ("sender@example.com", ("FAILURE",), {"failed"}),
        ("sender@example.com", ("DELAY",), {"delayed"}),
        ("sender@example.com", ("SUCCESS",), {"delivered", "relayed", "expanded"}),
        ("sender@example.com", ("SUCCESS", "FAILURE", "DELAY"), {"failed", "delayed", "delivered", "relayed", "expanded"}),
        ("<>", (), set()),
        ("<>", ("SUCCESS", "FAILURE", "DELAY"), set()),
    ],
)
def test_who_is_told_what(sender, notify, told):
    recipient = Recipient(an_address("anna@example.org"), frozenset(notify))
    actions = ("failed", "delayed", "delivered", "relayed", "expanded")
    assert {action for action in actions if wanted(an_address(sender), recipient, action)} == told


def test_nobody_to_tell_and_nothing_to_say():
    with pytest.raises(ValueError, match="somebody to tell"):
        dsn(an_envelope(""))
    with pytest.raises(ValueError, match="something to say"):
        compose(
            an_envelope(), Content.of(b""), [], hostname="h", postmaster=an_address("p@example.org"), now=NOW, randomness=Random(1)
        )


BIG = MESSAGE + b"x" * 70 + b"\r\n" + b"line\r\n" * (RETURNED_IN_FULL // 6)
HUGE = MESSAGE + b"line\r\n" * (RETURNED_AT_MOST // 6)


@pytest.mark.parametrize(
    ("content", "settings", "kind"),
    [
        (MESSAGE, {}, "message/rfc822"),
        (MESSAGE, {"ret": "FULL"}, "message/rfc822"),
        (MESSAGE, {"ret": "HDRS"}, "text/rfc822-headers"),
        (MESSAGE, {"requiretls": True}, "text/rfc822-headers"),
        (BIG, {}, "text/rfc822-headers"),
        (BIG, {"ret": "FULL"}, "message/rfc822"),
        (HUGE, {"ret": "FULL"}, "text/rfc822-headers"),
        (MESSAGE + b"bare\nlf\r\n", {"body": "BINARYMIME"}, "text/rfc822-headers"),
        (MESSAGE + b"bare\rcr\r\n", {"body": "BINARYMIME"}, "text/rfc822-headers"),
        (MESSAGE + b"nul\0\r\n", {"body": "BINARYMIME"}, "text/rfc822-headers"),
        (MESSAGE + b"x" * 999 + b"\r\n", {}, "text/rfc822-headers"),
        (MESSAGE + b"x" * 998, {}, "message/rfc822"),
        (MESSAGE + "Grüße\r\n".encode(), {"body": "8BITMIME"}, "message/rfc822"),
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), {"body": "8BITMIME"}, "message/rfc822"),
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), {"body": "8BITMIME", "ret": "HDRS"}, "text/rfc822-headers"),
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), {"smtputf8": True}, "message/global"),
        ("Subject: Grüße\r\n\r\nx\r\n".encode(), {"smtputf8": True, "ret": "HDRS"}, "message/global-headers"),
        (MESSAGE + "Grüße\r\n".encode(), {"smtputf8": True}, "message/rfc822"),
    ],
)
def test_what_is_returned(content, settings, kind):
    made = dsn(an_envelope(**settings), content)
    _, parts = parse(made)
    assert parts[2].get_content_type() == kind
    assert made.envelope.requiretls is settings.get("requiretls", False)
    returned = made.content.read()
    assert (content in returned) == kind.endswith(("rfc822", "global"))
    if kind == "text/rfc822-headers" and not content.isascii():
        assert made.envelope.body == "7BIT"
        assert parts[2].get_payload(decode=True).replace(b"\r\n", b"\n") == "Subject: Grüße\n".encode()


def test_a_big_file_is_not_read_and_a_missing_one_does_not_matter(tmp_path: Path):
    path = tmp_path / "big"
    with path.open("wb") as file:
        file.write(MESSAGE)
        file.truncate(50_000_000_000)  # sparse: nobody could read it into memory
    _, parts = parse(dsn(an_envelope(ret="FULL"), Content(path, 50_000_000_000, b"Received: from here\r\n")))
    header = MESSAGE.partition(b"\r\n\r\n")[0].decode()
    assert parts[2].get_payload().splitlines() == ["Received: from here", *header.splitlines()]
    path.unlink()
    _, parts = parse(dsn(an_envelope(), Content(path, 100)))
    assert len(parts) == 2


def test_a_message_without_an_empty_line_does_not_leak_its_body():
    _, parts = parse(dsn(an_envelope(ret="HDRS"), b"Subject: x\r\n folded\r\nsecret words\r\nTo: y\r\n"))
    assert parts[2].get_payload().split() == ["Subject:", "x", "folded"]


def test_nothing_that_was_said_can_forge_a_field():
    envelope = an_envelope(envid="x\r\nStatus: 2.0.0\r\n\r\n--")
    reply = Reply(550, "5.0.0", "no\nAction: delivered\r\n\r\nx\x1b" + "y" * 5000)
    forged = report(orcpt="rfc822;a\r\nAction: delivered\0", reply=reply, peer="a\r\nb")
    _, parts = parse(dsn(envelope, reports=[forged]))
    blocks = status(parts[1])
    assert len(blocks) == 2
    assert [name for block in blocks for name, _ in block] == [
        "Reporting-MTA",
        "Original-Envelope-Id",
        "Arrival-Date",
        "Original-Recipient",
        "Final-Recipient",
        "Action",
        "Status",
        "Remote-MTA",
        "Diagnostic-Code",
    ]


def test_internationalized():
    envelope = an_envelope("grüße@example.com", smtputf8=True)
    made = dsn(envelope, reports=[report("jürgen@bücher.example", peer="mx.example.org")])
    _, parts = parse(made)
    assert made.envelope.smtputf8
    assert made.recipient.address == envelope.sender
    assert parts[1].get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8;jürgen@xn--bcher-kva.example\r\n".encode() in made.content.read()
    assert "To: <grüße@example.com>\r\n".encode() in made.content.read()


def test_an_international_recipient_told_to_somebody_without_smtputf8():
    made = dsn(an_envelope("sender@example.com"), reports=[report("jürgen@example.org", reply=Reply(550, "5.1.1", "nö"))])
    _, parts = parse(made)
    assert made.envelope.body == "7BIT"
    assert parts[1].get_content_type() == "message/delivery-status"
    fields = dict(status(parts[1])[1])
    assert fields["Final-Recipient"] == "utf-8;j\\x{FC}rgen@example.org"
    assert fields["Diagnostic-Code"] == "x-mailgw; 550 5.1.1 n\\x{F6}"


class Stubborn(Random):
    """Gives the same word three times."""

    def __init__(self):
        super().__init__(0)
        self.words = [0xABC, 0xABC, 0xABC, 0xDEF, 0x123]

    def getrandbits(self, k):
        return self.words.pop(0)


def test_the_boundary_does_not_occur_in_the_content():
    content = Content.of(MESSAGE + b"--%024x--\r\n" % 0xABC)
    made = compose(
        an_envelope(), content, [report()], hostname="h", postmaster=an_address("p@example.org"), now=NOW, randomness=Stubborn()
    )
    message, parts = parse(made)
    assert message.get_boundary() == f"{0xDEF:024x}"
    assert len(parts) == 3


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
lines = st.lists(st.binary(max_size=80), max_size=12).map(b"\r\n".join)
contents = st.one_of(
    st.binary(max_size=300),
    lines,
    lines.map(lambda body: MESSAGE + body),
    lines.map(lambda body: b"Content-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n" + body),
    text.map(lambda subject: b"Subject: " + subject.encode() + b"\r\n\r\nbody"),
)


@given(
    contents,
    st.lists(st.tuples(text, text, text, st.booleans()), min_size=1, max_size=3),
    text,
    st.sampled_from(["", "FULL", "HDRS"]),
    st.booleans(),
    st.sampled_from(["failed", "delayed", "relayed"]),
)
def test_whatever_comes_back_the_report_is_whole(content, said, envid, ret, smtputf8, action):
    envelope = an_envelope(ret=ret, smtputf8=smtputf8, envid=envid)
    reports = [
        report(reply=Reply(550, "5.0.0", words), orcpt=orcpt, peer=peer, expired=expired, action=action)
        for words, orcpt, peer, expired in said
    ]
    made = dsn(envelope, content, reports)
    raw = made.content.read()
    message, parts = parse(made)
    assert len(parts) == 3
    boundary = message.get_boundary().encode()
    assert raw.count(boundary) == 5  # where it is declared, before each part, at the end
    assert raw.count(b"\r\nAction: ") == len(reports)
