"""A load generator for SMTP: one process, one epoll, as many sessions as asked; every session sends as fast as it is answered.

    python benchmarks/load.py PORT --sessions 10 --messages 20000 --size 1024

Prints one JSON object: what was acknowledged and what failed, messages per second, and latencies. Exit status 1 if a message failed.
All messages of a run are alike, and are made before it begins: the generator is to cost less than what it measures.
"""

import argparse
import json
import select
import socket
import sys
import time
from math import ceil
from typing import Any, NamedTuple

STALLED = 30.0  # seconds without a sign of life from the server, after which all that is open counts as failed
_READ = 65536  # octets


class Step(NamedTuple):
    """What is sent at once, and the reply codes that must follow."""

    octets: bytes
    codes: tuple[bytes, ...]


class Script(NamedTuple):
    """All that sessions say; `message` is repeated."""

    opening: tuple[Step, ...]
    message: tuple[Step, ...]
    closing: tuple[Step, ...]


def content(size: int) -> bytes:
    """A message of about ``size`` octets as it stands on the wire: header, text, a line that needs dot-stuffing, end of data."""
    header = (
        b"From: Anna <anna@example.com>\r\nTo: Ben <ben@example.org>\r\nSubject: benchmark\r\n"
        b"Date: Mon, 05 Jan 2026 10:00:00 +0000\r\nMessage-ID: <benchmark@example.com>\r\n\r\n"
    )
    line = b"The quick brown fox jumps over the lazy dog, again and again and ag.\r\n"
    lines = max(0, size - len(header)) // len(line)
    return header + line * lines + b"..\r\n.\r\n"


def script(how: str, size: int) -> Script:
    """``how``: "one-by-one" waits for each reply, "pipelined" sends MAIL, RCPT and DATA at once (RFC 2920), "bdat" all of it (RFC 3030)."""
    mail, rcpt, body = b"MAIL FROM:<anna@example.com>\r\n", b"RCPT TO:<ben@example.org>\r\n", content(size)
    ok = b"250"
    if how == "bdat":
        plain = body.removesuffix(b"..\r\n.\r\n") + b".\r\n"
        message: tuple[Step, ...] = (Step(mail + rcpt + b"BDAT %d LAST\r\n" % len(plain) + plain, (ok, ok, ok)),)
    elif how == "pipelined":
        message = (Step(mail + rcpt + b"DATA\r\n", (ok, ok, b"354")), Step(body, (ok,)))
    else:
        message = (Step(mail, (ok,)), Step(rcpt, (ok,)), Step(b"DATA\r\n", (b"354",)), Step(body, (ok,)))
    return Script((Step(b"", (b"220",)), Step(b"EHLO client.example.com\r\n", (ok,))), message, (Step(b"QUIT\r\n", (b"221",)),))


class Load:
    """One run. `run` it; what came of it is in the attributes."""

    def __init__(self, port: int, script: Script, sessions: int, messages: int, per_connection: int) -> None:
        self.port, self.script, self.per_connection = port, script, per_connection
        self.left = messages  # not begun yet
        self.failed = 0
        self.first_failure = ""
        self.connections = 0
        self.latencies: list[float] = []  # seconds; one for each acknowledged message
        self.poll = select.epoll()
        self.open: dict[int, Session] = {}
        self.sessions = min(sessions, messages)

    def run(self) -> dict[str, Any]:
        """Send everything, and give the result as plain values."""
        began, used = time.monotonic(), time.process_time()
        for _ in range(self.sessions):
            self.connect()
        while self.open:
            ready = self.poll.poll(STALLED)
            if not ready:
                self.failed, self.left = self.failed + self.left, 0
                for session in list(self.open.values()):
                    session.fail("no answer")
            for number, events in ready:
                session = self.open[number]
                if events & select.EPOLLOUT:
                    session.send_rest()
                else:
                    session.receive()
        ended = time.monotonic()
        return {
            "acknowledged": len(self.latencies),
            "failed": self.failed,
            "first_failure": self.first_failure,
            "connections": self.connections,
            "began": began,  # CLOCK_MONOTONIC, as the sink's times
            "seconds": ended - began,
            "rate": len(self.latencies) / (ended - began),
            "p50_ms": percentile(self.latencies, 0.50) * 1000,
            "p99_ms": percentile(self.latencies, 0.99) * 1000,
            "load_cpu_seconds": time.process_time() - used,
        }

    def connect(self) -> None:
        """Open a session for the next message, if one is left."""
        if self.left:
            self.left -= 1
            self.connections += 1
            session = Session(self)
            self.open[session.number] = session


class Session:
    """A connection and what is said on it."""

    __slots__ = ("began", "buffer", "codes", "load", "number", "sent", "socket", "steps", "unsent")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.began = time.monotonic()  # of the message; of the connection, if it is for one message only
        self.socket = socket.create_connection(("127.0.0.1", load.port), timeout=STALLED)
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.number = self.socket.fileno()
        load.poll.register(self.number, select.EPOLLIN)
        self.buffer = b""
        self.unsent: bytes | memoryview = b""
        self.sent = 0  # messages, with the one that is being sent
        self.steps = iter(load.script.opening)
        self.codes = list(next(self.steps).codes)

    def receive(self) -> None:
        try:
            octets = self.socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError as problem:
            self.fail(str(problem))
            return
        if not octets:
            self.fail("connection closed")
            return
        buffer = self.buffer + octets if self.buffer else octets
        start = 0
        while (end := buffer.find(b"\n", start) + 1) > 0:
            if buffer[start + 3 : start + 4] != b"-":  # the last line of its reply
                if not self.codes or not buffer.startswith(self.codes[0], start):
                    self.fail(buffer[start:end].decode(errors="replace").strip())
                    return
                del self.codes[0]
            start = end
        self.buffer = buffer[start:]
        if not self.codes:
            self.advance()

    def advance(self) -> None:
        step = next(self.steps, None)
        if step is None:
            step = self.begin()
            if step is None:
                self.close()
                self.load.connect()
                return
        self.codes.extend(step.codes)
        self.send(step.octets)

    def begin(self) -> Step | None:
        """The opening, a message or the closing is over: what comes now?"""
        load = self.load
        if self.sent < 0:
            return None
        now = time.monotonic()
        if self.sent:
            load.latencies.append(now - self.began)
            if self.sent == load.per_connection or not load.left:
                self.sent = -1
                self.steps = iter(load.script.closing)
                return next(self.steps)
            load.left -= 1
        if load.per_connection != 1:
            self.began = now
        self.sent += 1
        self.steps = iter(load.script.message)
        return next(self.steps)

    def send(self, octets: bytes | memoryview) -> None:
        try:
            sent = self.socket.send(octets)
        except BlockingIOError:
            sent = 0
        except OSError as problem:
            self.fail(str(problem))
            return
        if sent < len(octets):
            self.unsent = memoryview(octets)[sent:]  # of 25 MiB nothing is to be copied again and again
            self.load.poll.modify(self.number, select.EPOLLIN | select.EPOLLOUT)

    def send_rest(self) -> None:
        self.load.poll.modify(self.number, select.EPOLLIN)
        self.send(self.unsent)

    def fail(self, why: str) -> None:
        """The message is lost, or has been acknowledged and only the end went wrong; a new session goes on with the next one."""
        load = self.load
        if self.sent >= 0:
            load.failed += 1
            load.first_failure = load.first_failure or why
        self.close()
        load.connect()

    def close(self) -> None:
        self.load.poll.unregister(self.number)
        del self.load.open[self.number]
        self.socket.close()


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of all values do not exceed; 0 if there are none."""
    return sorted(values)[max(0, ceil(share * len(values)) - 1)] if values else 0.0


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int, help="on 127.0.0.1")
    options.add_argument("--sessions", type=int, default=10, help="at the same time (%(default)s)")
    options.add_argument("--messages", type=int, default=10000, help="in all (%(default)s)")
    options.add_argument("--per-connection", type=int, default=0, help="messages before QUIT; 0: no end (%(default)s)")
    options.add_argument("--size", type=int, default=1024, help="octets of a message (%(default)s)")
    options.add_argument("--how", choices=["one-by-one", "pipelined", "bdat"], default="one-by-one")
    chosen = options.parse_args()
    spoken = script(chosen.how, chosen.size)
    load = Load(chosen.port, spoken, chosen.sessions, chosen.messages, chosen.per_connection)
    result = load.run()
    print(json.dumps(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
