"""Real policy servers behind the real gateway, and verdicts seen to their end: held and released, tagged, thrown away, marked."""

import json
import os
import shutil
import smtplib
import socket
import socketserver
import subprocess
import tempfile
import threading
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from processes import gateway_in, mails, need, wait_until

pytestmark = pytest.mark.live

NOBODY = 65534
BOX = """
[[route]]
otherwise = true
gateway = "box"
[gateway.box]
type = "maildir"
path = "box"
"""
LISTEN = """
xclient = ["127.0.0.0/8"]
policies = {policies}
[[permit]]
on = "mx"
to = "example.org"
"""


def send(gateway, sender="a@b.example", to="c@example.org", content=b"Date: x\r\nFrom: a@b.example\r\nSubject: x\r\n\r\nx\r\n", ip=""):
    with gateway.client() as client:
        client.ehlo("client.example")
        if ip:
            assert client.docmd("XCLIENT", f"ADDR={ip} NAME=[UNAVAILABLE]")[0] == 220
            client.ehlo("client.example")
        for command in (client.mail(sender), client.rcpt(to)):
            if command[0] >= 400:
                return command
        try:
            return client.data(content)
        except smtplib.SMTPDataError as problem:
            return problem.smtp_code, problem.smtp_error


def listens(path):
    with suppress(OSError), socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        return True
    return False


@contextmanager
def running(command, path):
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: listens(path) or process.poll() is not None, f"the socket of {command[0]}")
        assert process.poll() is None
        yield process
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def public():
    """A folder that other users may walk through, which pytest's are not."""
    folder = Path(tempfile.mkdtemp(prefix="policies"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_postgrey(tmp_path, public):
    postgrey = need("postgrey")
    if os.geteuid() != 0:
        pytest.skip("postgrey wants to change its user")
    state = public / "state"
    state.mkdir()
    os.chown(state, NOBODY, NOBODY)
    path = state / "socket"
    command = [postgrey, f"--unix={path}", f"--dbdir={state}", f"--user={NOBODY}", f"--group={NOBODY}", "--delay=1"]
    policy = f'[policy.grey]\ntype = "delegated"\naddress = "unix:{path}"\nlook_up_names = false\n'
    with gateway_in(tmp_path / "gateway", policy + BOX, listen=LISTEN.format(policies='["grey"]')) as gateway:
        code, text = send(gateway)
        assert (code, text.split(b" [ref ")[0]) == (451, b"4.3.0 local problem, try again later"), "it does not run yet"
        with running(command, path):
            code, text = send(gateway, ip="192.0.2.9")
            assert code == 450
            assert text.startswith(b"4.2.0 Greylisted, see http")
            reference = text.decode().rpartition("[ref ")[2].rstrip("]")
            told = wait_until(lambda: gateway.cli("explain", reference).stdout, "the refusal in the records")
            wait_until(lambda: send(gateway, ip="192.0.2.9")[0] == 250, "the end of the greylisting")
            envelope = ("--client", "198.51.100.7", "--mail-from", "a@b.example", "--rcpt-to", "c@example.org")
            simulated = gateway.cli("simulate", "--listener", "mx", *envelope, "--ask-others").stdout
        [mail] = wait_until(lambda: mails(gateway.folder / "box"), "the mail")
        assert b"\nX-Greylist: delayed " in mail
        assert send(gateway, ip="192.0.2.10")[0] == 451, "it runs no more, and its connection is not used any more"
    assert f"policy server unix:{path}, at RCPT" in told
    assert "DEFER_IF_PERMIT 4.2.0 Greylisted" in told
    assert "\nS: 450 4.2.0 Greylisted, see http" in simulated
    assert f"\noutside    unix:{path} was asked\n" in simulated


class _Spawning(socketserver.BaseRequestHandler):
    """What Postfix' spawn(8) does: a process for each connection."""

    def handle(self):
        file = self.request.fileno()
        subprocess.run(self.server.command, stdin=file, stdout=file, stderr=subprocess.DEVNULL, check=False)


class _Spawner(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@contextmanager
def spawning(path, command):
    with _Spawner(str(path), _Spawning) as server:
        server.command = command
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def test_policyd_spf(tmp_path):
    policyd = need("policyd-spf")
    settings = tmp_path / "policyd-spf.conf"
    settings.write_text("debugLevel = 0\nskip_addresses = 127.0.0.0/8\nWhitelist = 192.0.2.0/24\n")
    path = tmp_path / "spf"
    policy = f'[policy.policyd]\ntype = "delegated"\naddress = "unix:{path}"\nlook_up_names = false\n'
    with (
        spawning(path, [policyd, settings]),
        gateway_in(tmp_path / "gateway", policy + BOX, listen=LISTEN.format(policies='["policyd"]')) as gateway,
    ):
        assert send(gateway)[0] == 250
        assert send(gateway, ip="192.0.2.9")[0] == 250
        found = wait_until(lambda: len(both := mails(gateway.folder / "box")) == 2 and both, "two mails")
    fields = sorted(line for mail in found for line in mail.replace(b"\r\n", b"\n").split(b"\n") if line.startswith(b"X-Comment: SPF"))
    assert [b"local connections" in one for one in fields] == [True, False]
    assert b"client-ip=192.0.2.9; helo=client.example; envelope-from=a@b.example" in fields[1]


VERDICTS = """
[policy.files]
type = "attachment"
action = "quarantine"
[policy.fields]
type = "headers"
rules = [
    { field = "Subject", matches = "newsletter", action = "tag", tag = "bulk" },
    { field = "Subject", matches = "worm", action = "discard" },
    { field = "Subject", matches = "lottery", text = "no lotteries" },
]
[[route]]
tag = "bulk"
gateway = "bulk"
[gateway.bulk]
type = "maildir"
path = "bulk"
"""
PROGRAM = b"""\
Date: x\r
From: a@b.example\r
Subject: a program\r
Content-Type: application/octet-stream; name=run.exe\r
\r
x\r
"""


def subject(text):
    return b"Date: x\r\nFrom: a@b.example\r\nSubject: " + text + b"\r\n\r\nx\r\n"


def test_verdicts_to_their_end(tmp_path):
    listen = LISTEN.format(policies='["files", "fields"]')
    with gateway_in(tmp_path / "gateway", VERDICTS + BOX, listen=listen) as gateway:
        assert send(gateway, content=subject(b"You won the LOTTERY"))[1].startswith(b"5.7.1 no lotteries [ref ")
        for text in (b"our newsletter", b"a worm", b"hello"):
            assert send(gateway, content=subject(text))[0] == 250
        assert send(gateway, content=PROGRAM)[0] == 250
        [held] = wait_until(lambda: json.loads(gateway.cli("queue", "list", "--state", "held", "--json").stdout)["entries"], "the held one")
        assert held["reason"] == "files: files with names that end with .exe are not accepted here: run.exe"
        assert "run.exe" in " ".join(gateway.cli("queue", "list").stdout.split())
        [bulk] = wait_until(lambda: mails(gateway.folder / "bulk"), "the tagged one")
        assert b"our newsletter" in bulk
        [plain] = wait_until(lambda: mails(gateway.folder / "box"), "the plain one")
        assert b"hello" in plain
        assert gateway.cli("queue", "release", str(held["message"])).returncode == 0
        wait_until(lambda: any(b"a program" in mail for mail in mails(gateway.folder / "box")), "the released one")
        wait_until(lambda: gateway.waiting() == 0, "an empty queue")
        assert len(mails(gateway.folder / "box")) == 2, "the worm was thrown away"
