"""PAM, with a real libpam: in a mount namespace of its own, where /etc/pam.d is ours."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import pytest
from zope.interface.verify import verifyClass

from mailgw.components import find
from mailgw.credentials import IAccounts
from mailgw.login.pam import Pam
from mailgw.testing.stores import Pump

# pam_exec hands the password to a program, which also sees $PAM_USER; a deny in "account" is an account that has expired.
SERVICES = {
    "mailgw": """
        auth [success=1 default=ignore] pam_exec.so expose_authtok quiet {folder}/judge
        auth requisite pam_deny.so
        auth required pam_permit.so
        account [success=1 default=ignore] pam_exec.so quiet {folder}/judge-account
        account requisite pam_deny.so
        account required pam_permit.so
    """,
    "down": "auth required pam_nowhere.so\naccount required pam_permit.so\n",
}
JUDGE = """#!/bin/sh
read -r password
[ "$PAM_USER:$password" = "anna:geheim ü" ] || [ "$PAM_USER:$password" = "gone:geheim ü" ]
"""
JUDGE_ACCOUNT = """#!/bin/sh
[ "$PAM_USER" = anna ]
"""
PROGRAM = """
import json, sys
from twisted.cred.credentials import UsernamePassword
from mailgw.login.pam import Pam
from mailgw.testing.stores import Pump

pump = Pump()
stores = {service: Pam(service, threads=pump) for service in ("mailgw", "down", "nowhere")}
asked = [stores[service].requestAvatarId(UsernamePassword(name, password)) for service, name, password in json.load(sys.stdin)]
answers = pump.run_all(asked)
print(json.dumps([answer if isinstance(answer, str) else type(answer).__name__ for answer in answers]))
for store in stores.values():
    store.close()
"""
NO, DOWN = "UnauthorizedLogin", "AccountsUnavailable"
TABLE = [
    ("mailgw", "anna", "geheim ü", "anna"),
    ("mailgw", "anna", "geheim", NO),
    ("mailgw", "anna", "", NO),
    ("mailgw", "anna", "geheim ü\0x", NO),
    ("mailgw", "gone", "geheim ü", NO),
    ("mailgw", "nobody", "geheim ü", NO),
    ("mailgw", "", "geheim ü", NO),
    ("mailgw", "an\0na", "geheim ü", NO),
    ("down", "anna", "geheim ü", DOWN),
    ("nowhere", "anna", "geheim ü", DOWN),
]


def inside(folder, program, said):
    """Run a Python program where the folder is /etc/pam.d."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root can have a mount namespace")
    command = ["unshare", "-m", "--propagation", "private", "sh", "-c", 'mount --bind "$0" /etc/pam.d && exec "$@"', str(folder)]
    try_out = subprocess.run([*command, "true"], capture_output=True, text=True)
    if try_out.returncode:
        pytest.skip(f"there are no mount namespaces here: {try_out.stderr.strip()}")
    return subprocess.run([*command, sys.executable, "-c", program], input=said, capture_output=True, text=True, timeout=60)


@pytest.mark.live
def test_real_pam(tmp_path):
    pytest.importorskip("pam", reason="python-pam is not installed", exc_type=ImportError)
    for name, text in (("judge", JUDGE), ("judge-account", JUDGE_ACCOUNT)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    services = tmp_path / "pam.d"
    services.mkdir()
    for name, text in SERVICES.items():
        (services / name).write_text(textwrap.dedent(text.format(folder=tmp_path)))
    done = inside(services, PROGRAM, json.dumps([row[:3] for row in TABLE] * 3))
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)
    assert [(*row[:3], answer) for row, answer in zip(TABLE * 3, answers, strict=True)] == TABLE * 3
    assert "geheim" not in done.stderr


def test_the_contract():
    assert find("pam", IAccounts) is Pam
    assert verifyClass(IAccounts, Pam)


@pytest.mark.parametrize("service", ["", "../shadow", "a\nb"])
def test_bad_services(service):
    pytest.importorskip("pam", reason="python-pam is not installed", exc_type=ImportError)
    with pytest.raises(ValueError, match=r"is no name of a file in /etc/pam.d"):
        Pam(service, threads=Pump())
