"""A mail server that does what a test tells it, on any Twisted transport: the other side of a gateway."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.internet.interfaces import IPullProducer
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from mailgw.testing.logins import Logins, LoginSession

__all__ = ["BROKEN", "DROP", "SILENCE", "Endless", "MailServer", "Taken"]

DROP = "drop"  # in ``replies``: close the connection instead of answering; as ``tls``: agree to STARTTLS, then close
BROKEN = "broken"  # as ``tls``: agree to STARTTLS, then speak something else
SILENCE = "silence"  # in ``replies``: say nothing, from then on to nothing; as ``tls``: agree to STARTTLS, then say nothing

_OFFERS = ("PIPELINING", "8BITMIME", "SIZE 100000000", "ENHANCEDSTATUSCODES")


@frozen
class Taken:
    """A message the server said 250 to."""

    mail: str  # the MAIL command
    recipients: tuple[str, ...]  # those accepted
    content: bytes  # without dot-stuffing


@frozen
class Endless:
    """In ``replies``: octets that are said again and again, as fast as they are read, until the connection is gone."""

    octets: bytes


Answer = str | bytes | Endless


@define(eq=False)
class MailServer(Factory):
    """A factory of scripted sessions::

        server = MailServer(replies={"RCPT TO:<ben@example.org>": "550 5.1.1 no such user", ".": "451 4.3.0 disk full"})

    ``replies`` gives the answer for a command line, for its verb, for ``"greeting"`` and for ``"."`` (the end of the content);
    a list has one for each time, of which the last one repeats. A text becomes a line, octets are said as they are. It may be
    `DROP`, `SILENCE` or `Endless`. ``"content"`` is said when the first octets of content by DATA arrive, and
    then the connection is closed; with `SILENCE` no more is read instead.
    """

    replies: Mapping[str, Answer | list[Answer] | list[str]] = field(factory=dict)
    offers: tuple[str, ...] = _OFFERS
    lmtp: bool = False
    tls: Any = None  # an IOpenSSLServerConnectionCreator for STARTTLS, or `BROKEN`, `DROP`, `SILENCE`
    logins: Logins | None = None  # who may send mail, after AUTH; None: everybody, without
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

    def reply(self, key: str, otherwise: str) -> Answer:
        """The scripted answer to a command."""
        for known in (key, key.split(" ")[0].upper()):
            if known in self.replies:
                script = self.replies[known]
                if not isinstance(script, list):
                    return script
                times = self._times.get(known, 0)
                self._times[known] = times + 1
                return script[min(times, len(script) - 1)]
        return otherwise


@implementer(IPullProducer)
class _Session(Protocol):
    def __init__(self, server: MailServer) -> None:
        self._server = server
        self._buffer = b""
        self._mail = ""
        self._recipients: list[tuple[str, str]] = []
        self._content: bytes | None = None  # by DATA, so far
        self._chunk: int | None = None  # octets that are still to come by BDAT
        self._is_new = False  # no octet of the content has come yet
        self._endless = b""
        self._is_silent = False
        self._login: LoginSession | None = None
        self.in_tls = False

    def connectionMade(self) -> None:  # noqa: N802
        self._say("greeting", "220 mail.example ready")

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if data.startswith(b"\x16\x03") and not self.in_tls:  # the beginning of a TLS handshake
            if self._server.tls == DROP:
                self.transport.abortConnection()  # type: ignore[union-attr]
            elif self._server.tls != SILENCE:
                self.transport.write(b"no TLS here\r\n")  # type: ignore[union-attr]
            return
        self._buffer += data
        while self._buffer:
            if self._content is not None:
                if self._is_new:
                    self._is_new = False
                    if "content" in self._server.replies:
                        self._break_off(self._say("content", ""))
                        return
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
        if self._login and self._login.is_asking:
            self._say("AUTH", self._login.go_on(line))
            return
        match verb:
            case "AUTH" if server.logins:
                self._login = LoginSession(server.logins, self.transport)
                self._say(line, self._login.begin(line))
            case "MAIL" if server.logins and not (self._login and self._login.is_done):
                self._say(line, "530 5.7.0 log in first")
            case "EHLO" | "LHLO":
                offers = [*server.offers, *(["STARTTLS"] if server.tls and not self.in_tls else [])]
                if server.logins:
                    offers.append(f"AUTH {' '.join(server.logins.mechanisms)}")
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
                    self._content, self._is_new = b"", True
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
                self.in_tls = self._server.tls not in (BROKEN, DROP, SILENCE)
                if self.in_tls:
                    self.transport.startTLS(self._server.tls)  # type: ignore[union-attr]
            case _:
                self._say(line, "250 2.0.0 ok")

    def _break_off(self, answer: str) -> None:
        transport: Any = self.transport
        transport.pauseProducing()
        if answer != SILENCE:
            transport.loseConnection()

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
        transport: Any = self.transport
        self._is_silent = self._is_silent or answer == SILENCE
        if self._is_silent:
            return SILENCE
        if isinstance(answer, Endless):
            self._endless = answer.octets * max(1, 65536 // len(answer.octets))
            transport.registerProducer(self, False)
            return ""
        if answer == DROP:
            transport.abortConnection()
        else:
            transport.write(answer if isinstance(answer, bytes) else answer.encode() + b"\r\n")
        return answer.decode("latin-1") if isinstance(answer, bytes) else answer

    def resumeProducing(self) -> None:  # noqa: N802
        self.transport.write(self._endless)  # type: ignore[union-attr]

    def stopProducing(self) -> None:  # noqa: N802
        pass
