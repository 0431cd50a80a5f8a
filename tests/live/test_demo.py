"""The first minute: the demo, and the clients that people have at hand."""

import json
import re
import smtplib
import subprocess

import pytest
from processes import BIN, PATIENCE, answers, mails, need, wait_until

MESSAGE = "From: me@example.com\nTo: you@example.org\nSubject: first\n\nhello\n.dot\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    if answers(2525) or answers(2587):
        pytest.skip("something else listens on the demo's ports")
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([BIN / "twistd", "-n", "--pidfile=", "mailgw"], cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        try:
            wait_until(lambda: answers(2525), "the demo's greeting")
            yield folder
        finally:
            process.terminate()
            process.wait(PATIENCE)


def arrived(folder, who):
    return wait_until(lambda: mails(folder / "demo" / "mail" / who), f"mail for {who}")


def test_it_says_how_to_send_the_first_message(demo):
    said = wait_until(lambda: "Send a message" in (demo / "out").read_text() and (demo / "out").read_text(), "the instructions")
    assert "127.0.0.1:2525" in said
    assert "listener mx starting on 2525" in said
    assert "admin socket starting on " in said
    assert "Traceback" not in said


def test_smtplib(demo):
    with smtplib.SMTP("127.0.0.1", 2525, timeout=PATIENCE) as client:
        assert client.sendmail("me@example.com", ["smtplib@example.org"], MESSAGE) == {}
    [mail] = arrived(demo, "smtplib")
    assert mail.startswith(b"Return-Path: <me@example.com>\nDelivered-To: smtplib@example.org\nReceived: from ")
    assert mail.endswith(b"\n\nhello\n.dot\n")


def test_curl(demo, tmp_path):
    curl = need("curl")
    (tmp_path / "mail.txt").write_text(MESSAGE)
    words = ["--silent", "--show-error", "smtp://127.0.0.1:2525", "--mail-from", "me@example.com", "--mail-rcpt", "curl@example.org"]
    subprocess.run([curl, *words, "-T", tmp_path / "mail.txt"], check=True, timeout=PATIENCE)
    [mail] = arrived(demo, "curl")
    assert b"\nSubject: first\n\nhello\n.dot\n" in mail


@pytest.mark.parametrize("tls", [[], ["--tls"]], ids=["clear", "starttls"])
def test_swaks(demo, tls):
    swaks = need("swaks")
    who = f"swaks{len(tls)}"
    words = ["--server", "127.0.0.1:2525", "--from", "me@example.com", "--to", f"{who}@example.org", *tls]
    subprocess.run([swaks, *words], check=True, timeout=PATIENCE, stdout=subprocess.DEVNULL)
    [mail] = arrived(demo, who)
    assert (b"with ESMTPS" in mail) == bool(tls)


def test_a_stranger_cannot_relay(demo):
    with smtplib.SMTP("127.0.0.1", 2525, timeout=PATIENCE) as client:
        client.ehlo("stranger.example")
        client.mail("me@example.com")
        refused = [client.rcpt(to) for to in ("you@elsewhere.example", "you%elsewhere.example@example.org")]
    for code, text in refused:
        assert code == 550
        assert re.fullmatch(rb"5\.7\.1 relaying denied \[ref [0-9A-Z]{5}\]", text)
    ref = refused[0][1].decode()[-6:-1]
    told = wait_until(lambda: explained(demo, ref), "the refusal in the decision records")
    assert 'rule       permit to "@ours" does not match, demo/mailgw.toml:' in told
    assert "fact       recipient: you@elsewhere.example  (the client's RCPT command)" in told


def explained(demo, ref):
    return subprocess.run([BIN / "mailgw", "explain", ref], cwd=demo, capture_output=True, text=True, timeout=PATIENCE, check=False).stdout


def test_submission_wants_tls_and_a_login(demo):
    with smtplib.SMTP("127.0.0.1", 2587, timeout=PATIENCE) as client:
        client.ehlo("me.example")
        assert client.mail("me@example.com") == (530, b"5.7.0 say STARTTLS first")
        client.starttls()
        client.ehlo("me.example")
        assert client.mail("me@example.com") == (530, b"5.7.0 authentication required")


def test_who_logs_in_may_send_anywhere(demo):
    said = wait_until(lambda: "Log in:" in (demo / "out").read_text() and (demo / "out").read_text(), "the instructions")
    user, password = re.search(r"--auth-user (\S+) --auth-password (\S+) ", said).groups()
    assert (demo / "demo" / "password").stat().st_mode & 0o777 == (demo / "demo" / "users").stat().st_mode & 0o777 == 0o600
    assert password not in (demo / "demo" / "users").read_text()
    with smtplib.SMTP("127.0.0.1", 2587, timeout=PATIENCE) as client:
        client.starttls()
        client.login(user, password)
        client.sendmail(user, ["you@elsewhere.example"], MESSAGE.replace("\n", "\r\n"))
    [mail] = wait_until(lambda: mails(demo / "demo" / "outbox"), "mail in the outbox")
    assert b" with ESMTPSA\n" in mail


def test_the_command_line_finds_the_demo(demo):
    def ask(*words):
        return subprocess.run([BIN / "mailgw", *words], cwd=demo, capture_output=True, text=True, timeout=PATIENCE, check=True).stdout

    assert set(json.loads(ask("status", "--json"))["listeners"]) == {"mx", "submission"}
    assert "mailboxes" in ask("route", "you@example.org")
