"""The filter for fail2ban, read by fail2ban's own tester: it finds every failure, and nobody can be framed."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from mailgw.journal import Banned, Connected, LoggedIn, LoginFailed, Refused
from mailgw.observe.log import line_of
from mailgw.values.reply import Reply

FILTER = Path(__file__).parents[2] / "etc/fail2ban/filter.d/mailgw.conf"
WRONG = "wrong name or proof"
FORGED = 'x\n2026-11-22T05:00:00+0000 [mailgw#info] session=A login failed: client=198.51.100.1 mechanism=PLAIN listener=mx reason="x"'

FAILURES = [
    LoginFailed("ABCD2345", "192.0.2.1", "anna", "PLAIN", "submission", WRONG),
    LoginFailed("ABCD2345", "192.0.2.2", "", "EXTERNAL", "submission", WRONG),
    LoginFailed("ABCD2345", "2001:db8::1", "anna@example.org", "SCRAM-SHA-256-PLUS", "submission", "refused by the guard"),
    LoginFailed("ABCD2345", "192.0.2.3", 'an"n\\a= b', "LOGIN", "submission", "bad response: no name"),
    LoginFailed("ABCD2345", "192.0.2.4", "x client=198.51.100.1", "PLAIN", "submission", WRONG),
    LoginFailed("ABCD2345", "192.0.2.5", FORGED, "PLAIN", "submission", WRONG),
    LoginFailed("ABCD2345", "192.0.2.6", "Ünal", "PLAIN", "odd name", WRONG),
    LoginFailed("ABCD2345", "192.0.2.7", "unavailable", "PLAIN", "submission", WRONG),
]
OTHERS = [
    Connected("ABCD2345", "submission", "198.51.100.1:40000"),
    LoggedIn("ABCD2345", "198.51.100.1", "PLAIN", "anna", "submission"),
    LoginFailed("ABCD2345", "198.51.100.1", "anna", "PLAIN", "submission", "unavailable: the directory is down"),
    LoginFailed("ABCD2345", "198.51.100.1", "anna", "PLAIN", "submission", "unavailable"),
    Banned("ABCD2345", "198.51.100.1", "198.51.100.1/32", 20, 3600.0),
    Refused("ABCD2345", "mail", Reply(550, "5.7.1", FORGED), "policy", FORGED, FORGED, FORGED),
]


@pytest.fixture(scope="module")
def tester():
    found = shutil.which("fail2ban-regex")
    if found is None:
        pytest.skip("fail2ban is not installed")
    return found


def matched(tester, tmp_path, lines):
    """The addresses that fail2ban finds in a log, in order."""
    log = tmp_path / "log"
    log.write_text("".join(f"{line}\n" for line in lines))
    words = [tester, "--out", "ip", str(log), str(FILTER)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.split()


def stamped(event, who=""):
    return f"2026-11-22T05:00:00+0000 {who}[mailgw#info] {line_of(event)}"


@pytest.mark.parametrize("who", ["", "worker=12 "])
def test_failures_are_found_and_nothing_else(tester, tmp_path, who):
    lines = [stamped(event, who) for pair in zip(OTHERS, FAILURES, strict=False) for event in pair]
    lines += [stamped(event, who) for event in (*OTHERS[len(FAILURES) :], *FAILURES[len(OTHERS) :])]
    assert matched(tester, tmp_path, lines) == [event.client for event in FAILURES]


def test_the_time_is_understood(tester, tmp_path):
    log = tmp_path / "log"
    log.write_text(stamped(FAILURES[0]) + "\n")
    done = subprocess.run([tester, str(log), str(FILTER)], capture_output=True, text=True, timeout=60)
    assert re.search(r"Lines: 1 lines, 0 ignored, 1 matched, 0 missed", done.stdout), done.stdout
    assert "ExYear" in done.stdout or "Year-Month-Day" in done.stdout, done.stdout
