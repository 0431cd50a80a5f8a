"""The machine under the real gateway: descriptors that run out, a clock that is set, a database that is damaged."""

import random
import re
import smtplib
import socket
import sqlite3
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from processes import PATIENCE, SmtpSink, gateway_in, mails, need, wait_until

pytestmark = pytest.mark.live

REST = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
retry = ["1s"]
"""
TO_SINK = """
[[route]]
otherwise = true
gateway = "next"
[gateway.next]
type = "smarthost"
address = "{address}"
tls = "never"
retry = ["{retry}"]
"""
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)


def send(gateway, name, size=500):
    text = f"Message-ID: <{name}@load.example>\r\n\r\n" + ("x" * 70 + "\r\n") * (size // 72)
    with gateway.client() as client:
        client.sendmail("load@example.com", ["you@example.org"], text)


def names(contents):
    return sorted(re.search(rb"Message-ID: <(.*)@load", content)[1].decode() for content in contents)


def nobody_is_in(gateway):
    return not any(one["sessions"] for one in gateway.ask("status")["listeners"].values())


# ── Descriptors ──


def test_too_many_open_files(tmp_path):
    gateway = gateway_in(tmp_path / "gateway", REST, listen="max_sessions_per_client = 1000")
    gateway.before = (need("prlimit"), "--nofile=64:64")
    with gateway, ExitStack() as crowd:
        assert "leaves room for 32 sessions" in gateway.log.read_text()
        send(gateway, "before")
        wait_until(lambda: nobody_is_in(gateway), "the end of the first session")
        crowds = [crowd.enter_context(socket.create_connection(("127.0.0.1", gateway.port), timeout=PATIENCE)) for _ in range(100)]
        heard = [one.recv(3) for one in crowds]
        assert heard[:32] == [b"220"] * 32
        assert set(heard[32:]) <= {b"421", b""}  # who finds no descriptor at all is hung up on
        crowds[0].sendall(b"MAIL FROM:<a@example.com>\r\n")  # those inside go on
        # A message that needs a file, from one who was inside already; its deliverer needs descriptors, too.
        crowds[1].settimeout(PATIENCE)
        with crowds[1].makefile("rwb") as stream:
            stream.readline()
            for line in (b"EHLO me", b"MAIL FROM:<a@example.com>", b"RCPT TO:<you@example.org>", b"DATA"):
                stream.write(line + b"\r\n")
                stream.flush()
                while stream.readline()[3:4] == b"-":
                    pass
            stream.write(b"Message-ID: <inside@load.example>\r\n\r\n" + b"x" * 70 + b"\r\n" + (b"y" * 70 + b"\r\n") * 6000 + b".\r\n")
            stream.flush()
            reply = stream.readline()
        assert reply[:3] in (b"250", b"451")
        crowd.close()
        wait_until(lambda: nobody_is_in(gateway), "the end of the crowd")
        send(gateway, "after", 500_000)
        expected = sorted(["before", "after", *(["inside"] if reply.startswith(b"250") else [])])
        wait_until(lambda: names(mails(gateway.folder / "mail")) == expected, "the delivery of all")
        # Twisted itself says with a traceback that somebody was quicker to take the descriptor that it keeps for refusing.
        assert not re.search(r'File ".*/mailgw/', gateway.log.read_text())


# ── The clock ──


def set_clock(file, hours):
    new = file.with_name("new clock")
    new.write_text(f"{hours:+d}h\n")
    new.rename(file)  # it is read at each look at the clock


@pytest.mark.parametrize("hours", [10, -10], ids=["forward", "back"])
def test_the_clock_is_set(tmp_path, hours):
    if FAKETIME is None:
        pytest.skip("libfaketime is not installed")
    clock = tmp_path / "clock"
    set_clock(clock, 0)
    with SmtpSink(lambda command, argument: sink.instead if command == "MAIL" else None) as sink:
        sink.instead = "451 4.3.2 not now"
        gateway = gateway_in(tmp_path / "gateway", TO_SINK.format(address=sink.address, retry="3s"))
        faked = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": 1, "FAKETIME_DONT_FAKE_MONOTONIC": 1}
        gateway.before = ("/usr/bin/env", *(f"{name}={value}" for name, value in faked.items()))
        with gateway, gateway.client() as client:
            client.ehlo()
            send(gateway, "waits")
            wait_until(lambda: "not now" in gateway.cli("queue", "list").stdout, "a deferral")
            set_clock(clock, hours)
            wait_until(lambda: "the clock was set" in gateway.log.read_text(), "the notice of the clock")
            sink.instead = None
            assert client.noop()[0] == 250  # the session did not mind
            send(gateway, "new")
            wait_until(lambda: names(content for _, _, content in sink.messages) == ["new", "waits"], "the delivery of both")
            wait_until(lambda: gateway.waiting() == 0, "an empty queue")
            word = "forward" if hours > 0 else "back"
            assert f"the clock was set {word} by 36000 seconds" in gateway.log.read_text()
            assert "Traceback" not in gateway.log.read_text()


# ── A damaged queue ──


def queue_of(tmp_path, server, sink):
    """A gateway that was stopped with five messages in its queue, one of them big."""
    sink.instead = "451 4.3.2 not now"
    gateway = gateway_in(tmp_path / "gateway", TO_SINK.format(address=sink.address, retry="1s"), server=server)
    with gateway:
        for number in range(4):
            send(gateway, f"old{number}")
        send(gateway, "old4", 300_000)
    sink.instead = None
    return gateway


def drop_header(database):
    with open(database, "r+b") as file:
        file.write(b"\xff" * 100)


@pytest.fixture
def sink():
    with SmtpSink(lambda command, argument: sink.instead if command == "MAIL" else None) as sink:
        sink.instead = None
        yield sink


def test_a_damaged_queue_is_refused(tmp_path, sink):
    gateway = queue_of(tmp_path, "", sink)
    database = gateway.folder / "state" / "queue.db"
    drop_header(database)
    before = database.read_bytes()
    gateway.launch()
    assert gateway.process.wait(PATIENCE) == 1
    said = gateway.process.stderr.read().decode()
    gateway.process.stderr.close()
    assert "queue.db is damaged: " in said
    assert 'damaged_queue = "start-new"' in said
    assert database.read_bytes() == before


def test_a_damaged_queue_is_set_aside_and_recovered(tmp_path, sink):
    gateway = queue_of(tmp_path, 'damaged_queue = "start-new"', sink)
    with sqlite3.connect(gateway.folder / "state" / "queue.db") as database:
        (page,) = database.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'queue'").fetchone()
    database.close()
    with open(gateway.folder / "state" / "queue.db", "r+b") as file:
        file.seek((page - 1) * 8192)
        file.write(b"\xff" * 8192)
    with gateway:
        (aside,) = (gateway.folder / "state").glob("damaged-*")
        assert "THE QUEUE WAS DAMAGED" in gateway.log.read_text()
        assert gateway.ask("status")["store"]["set_aside"] == [str(aside)]
        assert [file.name for file in (aside / "content").iterdir()] == ["5"]
        send(gateway, "new")
        wait_until(lambda: names(content for _, _, content in sink.messages) == ["new"], "the delivery of new mail")
        recovered = gateway.cli("queue", "recover", aside.name)
        assert (recovered.returncode, recovered.stdout) == (0, "5 messages queued again, 0 could not be read\n")
        old = [f"old{number}" for number in range(5)]
        wait_until(lambda: names(content for _, _, content in sink.messages) == ["new", *old], "the delivery of old mail")
        assert gateway.cli("queue", "recover", aside.name).returncode == 1


def test_damage_while_running_ends_and_begins_anew(tmp_path, sink):
    gateway = queue_of(tmp_path, 'damaged_queue = "start-new"', sink)
    database = gateway.folder / "state" / "queue.db"
    sink.instead = "451 4.3.2 not now"
    gateway.start()
    # Behind its back, pages that it has to write.
    pages = database.stat().st_size // 8192
    dice = random.Random(1)
    with open(database, "r+b") as file:
        for page in range(2, pages):
            file.seek(page * 8192)
            file.write(dice.randbytes(8192))
    with sqlite3.connect(database) as other:  # its pages in memory are not those on the disk
        other.execute("PRAGMA user_version = 1")
    other.close()

    def is_over():
        with suppress(OSError, smtplib.SMTPException):
            send(gateway, "lost?")
        return gateway.process.poll() is not None

    wait_until(is_over, "the end")
    gateway.process.stderr.close()
    assert gateway.process.returncode == 1
    assert "THE QUEUE IS DAMAGED" in gateway.log.read_text()
    sink.instead = None
    with gateway:
        assert list((gateway.folder / "state").glob("damaged-*"))
        send(gateway, "new")
        wait_until(lambda: "new" in names(content for _, _, content in sink.messages), "the delivery of new mail")
