"""The limit that the accept path is measured against: a bare Twisted SMTP receiver with a durable SQLite store.

    python benchmarks/bare_protocol.py PORT --database FILE [--certificate FILE]

It knows no policies, no routes, no limits, no errors: only the cheapest correct-looking dialogue, group commit with synchronous=FULL
before every 250, and immediate writes. Nothing is delivered. For side-by-side figures only. Listens on 127.0.0.1.
"""

import argparse
from functools import partial
from typing import Any, ClassVar

from store import Store
from twisted.internet import protocol, ssl
from twisted.internet import reactor as installed

reactor: Any = installed


class Bare(protocol.Protocol):
    store: ClassVar[Store]
    certificate: ClassVar[Any] = None  # a context factory; STARTTLS works with it
    encrypted = False

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        self.buffer, self.in_data = b"", False
        self.recipients: list[bytes] = []
        self.say(b"220 limit ESMTP\r\n")

    def say(self, reply: bytes) -> None:
        transport: Any = self.transport
        if self.encrypted or transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting:
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
        if reply := b"".join(replies):
            self.say(reply)

    def queued(self) -> None:
        self.say(b"250 2.0.0 queued\r\n")

    def ehlo(self, _: bytes) -> bytes:
        starttls = b"250-STARTTLS\r\n" if self.certificate and not self.encrypted else b""
        return b"250-limit\r\n" + starttls + b"250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 104857600\r\n"

    def starttls(self, _: bytes) -> bytes:
        transport: Any = self.transport
        self.say(b"220 2.0.0 go ahead\r\n")
        self.encrypted = True
        transport.startTLS(self.certificate)
        return b""

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

    verbs: ClassVar = {
        b"EHLO": ehlo,
        b"HELO": ehlo,
        b"STARTTLS": starttls,
        b"MAIL": mail,
        b"RCPT": rcpt,
        b"DATA": data,
        b"RSET": rset,
        b"QUIT": leave,
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int)
    options.add_argument("--database", required=True, help="a file that does not exist yet")
    options.add_argument("--certificate", help="PEM: key and certificate")
    chosen = options.parse_args()
    Bare.store = Store(chosen.database, partial(reactor.callLater, 0), reactor.callInThread, reactor.callFromThread)
    if chosen.certificate:
        factory_of: Any = ssl.DefaultOpenSSLContextFactory
        Bare.certificate = factory_of(chosen.certificate, chosen.certificate)
    factory = protocol.ServerFactory()
    factory.protocol, factory.noisy = Bare, False
    reactor.listenTCP(chosen.port, factory, backlog=1024, interface="127.0.0.1")
    reactor.run()


if __name__ == "__main__":
    main()
