"""The limit that the accept path is measured against: a bare Twisted SMTP receiver with a durable SQLite store.

    python benchmarks/bare_protocol.py PORT --database FILE

It knows no policies, no routes, no limits, no errors: only the cheapest correct-looking dialogue, group commit with synchronous=FULL
before every 250, and immediate writes. Nothing is delivered. For side-by-side figures only. Listens on 127.0.0.1.
"""

import argparse
import sqlite3
import time
from collections.abc import Callable
from typing import Any, ClassVar

from twisted.internet import protocol
from twisted.internet import reactor as installed

reactor: Any = installed
_Waiting = tuple[bytes, list[bytes], bytes, Callable[[], None]]


class Store:
    """Commit whatever is waiting in one transaction on a thread, then answer all of it."""

    def __init__(self, path: str) -> None:
        self.waiting: list[_Waiting] = []
        self.busy = False
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "pragma journal_mode=wal",
            "pragma synchronous=full",
            "pragma wal_autocheckpoint=4000",
            "create table message(id integer primary key, sender blob, content blob, arrived real)",
            "create table recipient(id integer primary key, message int, address blob, due real, state int)",
            "create index due on recipient(state, due)",
        ):
            self.database.execute(statement)

    def put(self, sender: bytes, recipients: list[bytes], content: bytes, done: Callable[[], None]) -> None:
        self.waiting.append((sender, recipients, content, done))
        if not self.busy:
            self.busy = True
            reactor.callLater(0, self.flush)

    def flush(self) -> None:
        group, self.waiting = self.waiting, []
        reactor.callInThread(self.commit, group)

    def commit(self, group: list[_Waiting]) -> None:
        execute, now = self.database.execute, time.time()
        execute("begin immediate")
        for sender, recipients, content, _ in group:
            number = execute("insert into message(sender, content, arrived) values(?,?,?)", (sender, content, now)).lastrowid
            for address in recipients:
                execute("insert into recipient(message, address, due, state) values(?,?,?,0)", (number, address, now))
        execute("commit")
        reactor.callFromThread(self.answer, group)

    def answer(self, group: list[_Waiting]) -> None:
        for *_, done in group:
            done()
        if self.waiting:
            self.flush()
        else:
            self.busy = False


class Bare(protocol.Protocol):
    store: ClassVar[Store]

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        self.buffer, self.in_data = b"", False
        self.recipients: list[bytes] = []
        self.say(b"220 limit ESMTP\r\n")

    def say(self, reply: bytes) -> None:
        transport: Any = self.transport
        if transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
            transport.write(reply)
            return
        sent = transport.writeSomeData(reply)
        if not isinstance(sent, int):
            transport.write(reply)
        elif sent < len(reply):
            transport.write(reply[sent:])

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - named by Twisted
        buffer, replies = self.buffer + data, []
        while True:
            if self.in_data:
                end = buffer.find(b"\r\n.\r\n")
                if end < 0:
                    break
                content, buffer, self.in_data = buffer[: end + 2], buffer[end + 5 :], False
                content = content.replace(b"\r\n..", b"\r\n.")
                self.store.put(self.sender, self.recipients, content, self.queued)
                continue
            end = buffer.find(b"\r\n")
            if end < 0:
                break
            verb, _, argument = buffer[:end].partition(b" ")
            buffer = buffer[end + 2 :]
            answer = self.verbs.get(verb.upper())
            replies.append(answer(self, argument) if answer else b"500 5.5.1 unknown\r\n")
        self.buffer = buffer
        if replies:
            self.say(b"".join(replies))

    def queued(self) -> None:
        self.say(b"250 2.0.0 queued\r\n")

    def ehlo(self, _: bytes) -> bytes:
        return b"250-limit\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n"

    def mail(self, argument: bytes) -> bytes:
        self.sender, self.recipients = argument[6:-1], []
        return b"250 2.1.0 ok\r\n"

    def rcpt(self, argument: bytes) -> bytes:
        self.recipients.append(argument[4:-1])
        return b"250 2.1.5 ok\r\n"

    def data(self, _: bytes) -> bytes:
        self.in_data = True
        return b"354 go\r\n"

    def rset(self, _: bytes) -> bytes:
        return b"250 2.0.0 ok\r\n"

    def leave(self, _: bytes) -> bytes:
        transport: Any = self.transport
        reactor.callLater(0, transport.loseConnection)
        return b"221 2.0.0 bye\r\n"

    verbs: ClassVar = {b"EHLO": ehlo, b"HELO": ehlo, b"MAIL": mail, b"RCPT": rcpt, b"DATA": data, b"RSET": rset, b"QUIT": leave}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int)
    options.add_argument("--database", required=True, help="a file that does not exist yet")
    chosen = options.parse_args()
    Bare.store = Store(chosen.database)
    factory = protocol.ServerFactory()
    factory.protocol, factory.noisy = Bare, False
    reactor.listenTCP(chosen.port, factory, backlog=500, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
