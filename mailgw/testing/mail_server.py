"""A mail server that does what a test tells it, on any Twisted transport: the other side of a gateway."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.internet.protocol import Factory, Protocol

__all__ = ["BROKEN", "DROP", "SILENCE", "MailServer", "Taken"]

DROP = "drop"  # in ``replies``: close the connection instead of answering
BROKEN = "broken"  # as ``tls``: agree to STARTTLS, then speak something else
SILENCE = "silence"  # in ``replies``: say nothing

_OFFERS = ("PIPELINING", "8BITMIME", "SIZE 100000000", "ENHANCEDSTATUSCODES")


@frozen
class Taken:
    """A message the server said 250 to."""

    mail: str  # the MAIL command
    recipients: tuple[str, ...]  # those accepted
    content: bytes  # without dot-stuffing


@define(eq=False)
class MailServer(Factory):
    """A factory of scripted sessions::

        server = MailServer(replies={"RCPT TO:<ben@example.org>": "550 5.1.1 no such user", ".": "451 4.3.0 disk full"})

    ``replies`` gives the answer for a command line, for its verb, for ``"greeting"`` and for ``"."`` (the end of the content);
    a list has one for each time, of which the last one repeats. It may be `DROP` or `SILENCE`.
    """

    replies: Mapping[str, str | list[str]] = field(factory=dict)
    offers: tuple[str, ...] = _OFFERS
    lmtp: bool = False
    tls: Any = None  # an IOpenSSLServerConnectionCreator for STARTTLS, or `BROKEN`
    heard: list[str] = field(factory=list)  # all commands
    taken: list[Taken] = field(factory=list)
    sessions: list[Any] = field(factory=list)
    noisy = False
    _times: dict[str, int] = field(factory=dict, init=False)

    def buildProtocol(self, _: Any) -> Protocol:  # noqa: N802 - named by Twisted
        """See twisted's IProtocolFactory."""
        session = _Session(self)
        self.sessions.append(session)
        return session

    def reply(self, key: str, otherwise: str) -> str:
        """The scripted answer to a command."""
        for known in (key, key.split(" ")[0].upper()):
            if known in self.replies:
                script = self.replies[known]
                if isinstance(script, str):
                    return script
                times = self._times.get(known, 0)
                self._times[known] = times + 1
                return script[min(times, len(script) - 1)]
        return otherwise


class _Session(Protocol):
    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._buffer = b""
        self._mail = ""
        self._recipients: list[tuple[str, str]] = []
        self._content: bytes | None = None  # by DATA, so far
        self._chunk: int | None = None  # octets that are still to come by BDAT
        self.in_tls = False

    def connectionMade(self) -> None:  # noqa: N802
        self._say("greeting", "220 mail.example ready")

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if data.startswith(b"\x16\x03") and not self.in_tls:  # the beginning of a TLS handshake
            self.transport.write(b"no TLS here\r\n")  # type: ignore[union-attr]
            return
        self._buffer += data
        while self._buffer:
            if self._content is not None:
                # Only CRLF.CRLF ends it, and what came before counts as the first line's CRLF.
                whole = b"\r\n" + self._buffer
                end = whole.find(b"\r\n.\r\n")
                if end < 0:
                    return
                content, self._buffer = whole[2 : end + 2], whole[end + 5 :]
                self._content = None
                self._take((b"\r\n" + content).replace(b"\r\n.", b"\r\n")[2:])
            elif self._chunk is not None:
                if len(self._buffer) < self._chunk:
                    return
                content, self._buffer = self._buffer[: self._chunk], self._buffer[self._chunk :]
                self._chunk = None
                self._take(content)
            else:
                line, crlf, rest = self._buffer.partition(b"\r\n")
                if not crlf:
                    return
                self._buffer = rest
                self._command(line.decode())

    def _command(self, line: str) -> None:
        server = self._server
        server.heard.append(line)
        verb = line.split(" ")[0].upper()
        match verb:
            case "EHLO" | "LHLO":
                offers = [*server.offers, *(["STARTTLS"] if server.tls and not self.in_tls else [])]
                lines = ["mail.example", *offers]
                text = "\r\n".join(f"250{'-' if n < len(lines) - 1 else ' '}{offer}" for n, offer in enumerate(lines))
                self._say(line, text)
            case "MAIL":
                if self._say(line, "250 2.1.0 ok").startswith("2"):
                    self._mail, self._recipients = line, []
            case "RCPT":
                answer = self._say(line, "250 2.1.5 ok" if self._mail else "503 5.5.1 MAIL first")
                if answer.startswith("2"):
                    self._recipients.append((line[9 : line.index(">")], line))
            case "DATA":
                if self._say(line, "354 go ahead" if self._recipients else "554 5.5.1 no recipients").startswith("3"):
                    self._content = b""
            case "BDAT":
                self._chunk = int(line.split(" ")[1])
            case "RSET":
                self._mail, self._recipients = "", []
                self._say(line, "250 2.0.0 ok")
            case "QUIT":
                self._say(line, "221 2.0.0 bye")
                self.transport.loseConnection()  # type: ignore[union-attr]
            case "STARTTLS":
                if not self._say(line, "220 2.0.0 go ahead").startswith("2"):
                    return
                self.in_tls = self._server.tls != BROKEN
                if self.in_tls:
                    self.transport.startTLS(self._server.tls)  # type: ignore[union-attr]
            case _:
                self._say(line, "250 2.0.0 ok")

    def _take(self, content: bytes) -> None:
        recipients = [address for address, _ in self._recipients]
        mail, self._mail, self._recipients = self._mail, "", []
        if not self._server.lmtp:
            if self._say(".", "250 2.0.0 taken").startswith("2"):
                self._server.taken.append(Taken(mail, tuple(recipients), content))
            return
        good = [r for r in recipients if self._say(f". {r}", "250 2.0.0 taken").startswith("2")]
        if good:
            self._server.taken.append(Taken(mail, tuple(good), content))

    def _say(self, key: str, otherwise: str) -> str:
        answer = self._server.reply(key, otherwise)
        if answer == DROP:
            self.transport.abortConnection()  # type: ignore[union-attr]
        elif answer != SILENCE:
            self.transport.write(answer.encode() + b"\r\n")  # type: ignore[union-attr]
        return answer
