"""A disk that is full, read-only or damaged under the real gateway: nothing acknowledged is lost, and it recovers by itself."""

import json
import os
import smtplib
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from processes import PATIENCE, SmtpSink, gateway_in, mails, need, wait_until

pytestmark = pytest.mark.live

REST = """
[[route]]
otherwise = true
gateway = "next"
[gateway.next]
type = "smarthost"
address = "{address}"
tls = "never"
retry = ["1s"]
"""
INTO_FILES = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "{path}"
retry = ["1s"]
"""
FULL = 452


@pytest.fixture
def mounted():
    """Mounts file systems, and takes them away at the end."""
    done = []

    def mount(where, *options):
        where.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run([need("mount"), *options, where], check=True, capture_output=True)
        except subprocess.CalledProcessError as problem:
            pytest.skip(f"cannot mount here: {problem.stderr.decode().strip()}")
        done.append(where)
        return where

    yield mount
    for where in reversed(done):
        subprocess.run(["umount", "-l", where], check=True)


@pytest.fixture
def sink():
    """A next hop, and a word to say instead of taking mail: ``sink.instead``."""
    with SmtpSink(lambda command, argument: sink.instead if command == "MAIL" else None) as sink:
        sink.instead = None
        yield sink


def text_of(name, size):
    return f"Message-ID: <{name}@load.example>\r\n\r\n" + ("x" * 70 + "\r\n") * (size // 72) + "end\r\n"


def name_of(content):
    assert content.endswith(b"\r\nend\r\n"), "a message has lost its end"
    return content.partition(b"Message-ID: <")[2].partition(b"@")[0].decode()


class Load:
    """Sends message after message from threads of its own, until told to stop; remembers what was acknowledged and what refused."""

    def __init__(self, gateway, sizes, name="t"):
        self.gateway, self.acknowledged, self.refused = gateway, [], []
        self.stop = threading.Event()
        self.threads = [threading.Thread(target=self._run, args=(f"{name}{n}", size)) for n, size in enumerate(sizes)]

    def _run(self, thread, size):
        number = 0
        while not self.stop.is_set():
            with suppress(smtplib.SMTPServerDisconnected), self.gateway.client() as client:
                while not self.stop.is_set():
                    number += 1
                    self._send(client, f"{thread}.{number}", size)

    def _send(self, client, name, size):
        try:
            client.sendmail("load@example.com", ["you@example.org"], text_of(name, size))
        except (smtplib.SMTPSenderRefused, smtplib.SMTPDataError) as problem:
            if problem.smtp_code != 421:  # too many errors in this session
                self.refused.append((problem.smtp_code, problem.smtp_error.decode()))
            self.stop.wait(0.02)
        else:
            self.acknowledged.append(name)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join(PATIENCE)


def send(gateway, name, size=500):
    with gateway.client() as client:
        client.sendmail("load@example.com", ["you@example.org"], text_of(name, size))


def send_when_possible(gateway, name):
    def taken():
        try:
            send(gateway, name)
        except smtplib.SMTPResponseException:
            return False
        return True

    wait_until(taken, "the acceptance of new mail")


def status(gateway):
    answer = gateway.cli("--json", "status")
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


def no_fault_of_ours(gateway):
    assert "Traceback" not in gateway.log.read_text()


def test_disk_full_under_load(tmp_path, mounted, sink):
    state = mounted(tmp_path / "gateway" / "state", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs")
    sink.instead = "451 4.3.2 not now"
    with gateway_in(tmp_path / "gateway", REST.format(address=sink.address), server='min_free = "8 MiB"') as gateway:
        with Load(gateway, [2000, 2000, 50_000, 1_000_000]) as load:
            wait_until(lambda: len(load.refused) > 50, "a full disk")
            # Full for new mail, but not for what becomes of the old: attempts are still written down.
            assert os.statvfs(state).f_bavail * os.statvfs(state).f_frsize > 2 * 2**20
        assert set(load.refused) == {(FULL, "4.3.1 out of space, try again later")}
        with Load(gateway, [2000], "rest") as rest:  # small ones may have found some still
            wait_until(lambda: rest.refused and status(gateway)["store"]["room"] <= 0, "a disk that is full for all")
        assert list((state / "incoming").iterdir()) == []
        with gateway.client() as client:
            client.ehlo()
            assert client.docmd("MAIL FROM:<a@example.com>")[0] == FULL
        sink.instead = None
        gateway.cli("queue", "retry", "--all")
        acknowledged = sorted([*load.acknowledged, *rest.acknowledged])
        wait_until(lambda: len(sink.messages) >= len(acknowledged), "the delivery of all that was acknowledged")
        arrived = [name_of(content) for _, _, content in sink.messages]
        assert sorted(arrived) == acknowledged
        send_when_possible(gateway, "after")
        wait_until(lambda: name_of(sink.messages[-1][2]) == "after", "the delivery of new mail")
        assert "new mail is refused" in gateway.log.read_text()
        assert "there is room for new mail again" in gateway.log.read_text()
        no_fault_of_ours(gateway)


def test_disk_filled_by_others(tmp_path, mounted, sink):
    """Not even the reserve is left: nothing can be written down, so nothing more is delivered, and nothing twice."""
    state = mounted(tmp_path / "gateway" / "state", "-t", "tmpfs", "-o", "size=24m,mode=700", "tmpfs")
    with gateway_in(tmp_path / "gateway", REST.format(address=sink.address), server='min_free = "1 MiB"') as gateway:
        with Load(gateway, [2000, 2000, 300_000]) as load:
            wait_until(lambda: len(load.acknowledged) > 100, "mail")
            with open(state / "filler", "wb", buffering=0) as filler:
                try:
                    while filler.write(bytes(65536)):
                        pass
                except OSError:
                    pass
            wait_until(lambda: len(load.refused) > 50, "a full disk")
        assert {code for code, _ in load.refused} <= {FULL}
        (state / "filler").unlink()
        send_when_possible(gateway, "after")
        expected = sorted([*load.acknowledged, "after"])

        wait_until(lambda: len(sink.messages) >= len(expected), "the delivery of all that was acknowledged")
        wait_until(lambda: status(gateway)["queue"]["waiting"] == 0, "an empty queue")
        assert sorted(name_of(content) for _, _, content in sink.messages) == expected
        no_fault_of_ours(gateway)


def test_maildir_full(tmp_path, mounted):
    mail = mounted(tmp_path / "mail", "-t", "tmpfs", "-o", "size=1m", "tmpfs")
    with gateway_in(tmp_path / "gateway", INTO_FILES.format(path=mail / "box")) as gateway:
        names = [f"n{number}" for number in range(6)]
        for name in names:
            send(gateway, name, 300_000)
        wait_until(lambda: "no room left for the mailbox" in gateway.cli("queue", "list").stdout, "a deferral")
        subprocess.run(["mount", "-o", "remount,size=8m", mail], check=True)
        wait_until(lambda: len(mails(mail / "box")) == len(names), "the delivery of all")
        assert list((mail / "box" / "tmp").iterdir()) == []
        no_fault_of_ours(gateway)


def test_read_only(tmp_path, mounted, sink):
    """As the kernel makes a file system read-only when its disk fails: at once, under open files."""
    image = tmp_path / "image"
    with open(image, "wb") as file:
        file.truncate(48 * 2**20)
    subprocess.run([need("mkfs.ext4"), "-q", "-O", "^has_journal", image], check=True)
    state = mounted(tmp_path / "gateway" / "state", "-o", "loop", image)
    with gateway_in(tmp_path / "gateway", REST.format(address=sink.address), server='min_free = "1 MiB"') as gateway:
        sink.instead = "451 4.3.2 not now"
        for number in range(5):
            send(gateway, f"before{number}")
        wait_until(lambda: "not now" in gateway.cli("queue", "list").stdout, "a deferral")
        subprocess.run(["mount", "-o", "remount,abort", state], check=True)
        sink.instead = None
        with pytest.raises(smtplib.SMTPDataError, match=r"451, b'4.3.0 local problem"):
            send(gateway, "refused")
        with pytest.raises(smtplib.SMTPDataError, match=r"451, b'4.3.0 local problem"):
            send(gateway, "refused", 400_000)
        wait_until(lambda: status(gateway)["dispatcher"]["store_blocked"], "the end of deliveries")
        taken = len(sink.messages)
        time.sleep(1.5)  # more than the retry interval: what cannot be written down must not be delivered again and again
        assert len(sink.messages) == taken
        assert "it will be tried again" in gateway.log.read_text()
        gateway.kill()  # an orderly end would wait for the disk
    names = [name_of(content) for _, _, content in sink.messages]
    assert len(names) == len(set(names))
    subprocess.run(["umount", state], check=True)
    subprocess.run(["mount", "-o", "loop", image, state], check=True)
    with gateway:
        send(gateway, "after")
        wanted = {f"before{number}" for number in range(5)} | {"after"}
        wait_until(lambda: {name_of(content) for _, _, content in sink.messages} == wanted, "the delivery of all")
        no_fault_of_ours(gateway)
