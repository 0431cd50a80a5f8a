"""A client that is not there: what it does in an attempt to send mail, and what it hears."""

import re
from collections.abc import Awaitable, Sequence
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone

from mailgw.interfaces import IClock
from mailgw.values.facts import ClientFacts

__all__ = ["Attempt", "Client", "play"]

_CLOSED = "421 4.4.2 (the server closed the connection without a reply)"
_REPLY = re.compile(r"(?:(\d{3})-[^\r\n]*\r\n)*\d{3}(?: [^\r\n]*)?\r\n")


@frozen(kw_only=True)
class Attempt:
    """What the client does. Addresses are sent as they are written: whether they are any good the server says."""

    listener: str
    client: IPv4Address | IPv6Address
    mail_from: str  # "" or "<>": the null reverse-path
    rcpt_to: tuple[str, ...]
    helo: str = "client.example"
    login: str = ""  # is believed without a proof
    tls: bool = False
    early_talker: bool = False  # it does not wait for the greeting
    beside: tuple[ClientFacts, ...] = ()  # sessions that are there already
    content: bytes = b""  # lines may end with LF; empty: a small message


@define(eq=False)
class Client:
    """The client's end of the connection."""

    transport: Any
    reactor: Any
    dialogue: list[tuple[str, str]] = field(factory=list)
    in_tls: bool = False
    _heard: str = ""
    _waiting: "Deferred[None] | None" = None

    def __attrs_post_init__(self) -> None:
        # In a turn of its own: the server must not be spoken to while it speaks.
        self.transport.changed = lambda: self.reactor.callLater(0, self._wake)

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    async def hear(self) -> str:
        """The next whole reply, its lines joined; one of our own where the server just hung up."""
        while True:
            self._heard += self.transport.value().decode("utf-8", "replace")
            self.transport.clear()
            match = _REPLY.match(self._heard)
            if match is not None:
                self._heard = self._heard[match.end() :]
                lines = match[0].removesuffix("\r\n").split("\r\n")
                self.dialogue += [("S", line) for line in lines]
                return _joined(lines)
            if self.transport.disconnecting:
                return _CLOSED
            self._waiting = Deferred()
            await self._waiting

    async def say(self, line: str) -> str:
        """Say a line and give the reply."""
        self.dialogue.append(("C", line))
        return await self._send(line.encode("utf-8", "surrogateescape") + b"\r\n")

    def blurt(self, line: str) -> None:
        """Say a line without waiting for anything."""
        self.dialogue.append(("C", line))
        self.transport.protocol.dataReceived(line.encode("utf-8", "surrogateescape") + b"\r\n")

    async def send(self, content: bytes) -> str:
        """Send a message and give the reply to it."""
        self.dialogue.append(("C", f"({len(content)} octets of content)"))
        return await self._send(re.sub(rb"(?m)^\.", b"..", content) + b".\r\n")

    async def _send(self, data: bytes) -> str:
        if self.transport.disconnecting:
            return _CLOSED
        self.transport.protocol.dataReceived(data)
        return await self.hear()

    def shake_hands(self) -> None:
        """TLS begins."""
        self.in_tls = True
        self.dialogue.append(("C", "(TLS begins)"))
        self.transport.protocol.handshakeCompleted()

    def hang_up(self) -> None:
        """The client is gone."""
        self.transport.protocol.connectionLost(connectionDone)


def _joined(lines: Sequence[str]) -> str:
    """A reply on one line: as `Reply` is written."""
    first = lines[0].replace("-", " ", 1) if lines[0][3:4] == "-" else lines[0]
    status = re.match(r"\d\.\d{1,3}\.\d{1,3} ", first[4:])
    return " / ".join([first, *(line[4:].removeprefix(status[0] if status else "") for line in lines[1:])])


class _Refused(Exception):
    """The client gives up; the message is the reply."""


async def play(client: Client, attempt: Attempt, wants_tls: bool, clock: IClock) -> tuple[str, ...]:
    """The whole session; gives the reply that decided about each recipient."""
    content = _with_line_ends(attempt.content or _small_message(attempt, clock))
    replies: list[str] = []
    try:
        if attempt.early_talker:
            client.blurt(f"EHLO {attempt.helo}")
        await _must(client.hear())
        offered = await _introduce(client, attempt, wants_tls)
        extras = _extras(attempt, content, offered)
        await _must(client.say(f"MAIL FROM:<{attempt.mail_from.strip('<>')}>{extras}"))
        replies = [await client.say(f"RCPT TO:<{one.strip('<>')}>") for one in attempt.rcpt_to]
        if any(reply[0] == "2" for reply in replies):
            await _must(client.say("DATA"))
            final = await client.send(content)
            replies = [final if reply[0] == "2" else reply for reply in replies]
        await client.say("QUIT")
    except _Refused as refused:
        reply = str(refused)
        if not client.transport.disconnecting:
            await client.say("QUIT")
        return tuple(reply if one[0] == "2" else one for one in replies) or (reply,) * len(attempt.rcpt_to)
    return tuple(replies)


async def _introduce(client: Client, attempt: Attempt, wants_tls: bool) -> str:
    """EHLO, TLS, login; gives what EHLO has offered at last."""
    offered = await _must(client.hear() if attempt.early_talker else client.say(f"EHLO {attempt.helo}"))
    if wants_tls and not client.in_tls:
        await _must(client.say("STARTTLS"))
        client.shake_hands()
        offered = await _must(client.say(f"EHLO {attempt.helo}"))
    if attempt.login:
        mechanisms = re.search(r" / AUTH ([A-Z0-9_-]+)", offered)
        client.dialogue.append(("C", f"(logs in as {attempt.login}, without a proof)"))
        await _must(client.say(f"AUTH {mechanisms[1] if mechanisms else 'PLAIN'}"))
    return offered


async def _must(reply: Awaitable[str]) -> str:
    text = await reply
    if text[0] not in "23":
        raise _Refused(text)
    return text


def _extras(attempt: Attempt, content: bytes, offered: str) -> str:
    """The parameters that a good client gives to MAIL."""
    extras = ""
    if " / SIZE" in offered:
        extras += f" SIZE={len(content)}"
    if not content.isascii() and " / 8BITMIME" in offered:
        extras += " BODY=8BITMIME"
    if not "".join([attempt.mail_from, *attempt.rcpt_to]).isascii() and " / SMTPUTF8" in offered:
        extras += " SMTPUTF8"
    return extras


def _with_line_ends(content: bytes) -> bytes:
    """Each line ends with CRLF, as a client would send it; a file on the disk has LF."""
    content = re.sub(rb"\r?\n", b"\r\n", content)
    return content if content.endswith(b"\r\n") else content + b"\r\n"


def _small_message(attempt: Attempt, clock: IClock) -> bytes:
    sender = attempt.mail_from.strip("<>")
    lines = [
        f"From: {sender or 'mailer-daemon@' + attempt.helo}",
        f"To: {', '.join(one.strip('<>') for one in attempt.rcpt_to)}",
        f"Date: {format_datetime(clock.now())}",
        f"Message-ID: <simulated.{int(clock.now().timestamp())}@{attempt.helo}>",
        "Subject: Simulated",
        "",
        "This message exists only in a simulation.",
    ]
    return "\n".join(lines).encode("utf-8", "surrogateescape")
