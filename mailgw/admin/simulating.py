"""A client that is not there: plays an attempt to send mail through the real engine, conversation and policies, and keeps nothing."""

import re
from collections.abc import Awaitable, Sequence
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import connectionDone
from zope.interface import implementer

from mailgw.assemble import House, Parts, guard_of, observing, porter_of, reception_of
from mailgw.config.model import Configuration, Listener
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IObserver
from mailgw.journal import Fault, Journal
from mailgw.login.porter import Porter
from mailgw.policies.concurrency import Concurrency
from mailgw.receive.asking import Rules
from mailgw.receive.in_memory import connect
from mailgw.receive.intake import ENDLESS, Room
from mailgw.receive.protocol import SmtpFactory
from mailgw.smtp.sasl import Channel
from mailgw.values.address import NULL
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.facts import ClientFacts, SenderFacts
from mailgw.values.ledger import Put
from mailgw.values.record import Record, Way

__all__ = ["DEFERRED", "Attempt", "Simulated", "counts_sessions", "simulate"]

DEFERRED = 75  # exit status: EX_TEMPFAIL of sysexits.h
_PORT = 40000  # of the client
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


@frozen
class Simulated:
    """What came of it."""

    dialogue: tuple[tuple[str, str], ...]  # ("C", line) and ("S", line)
    replies: tuple[str, ...]  # for each recipient the one that decided: "550 5.7.1 relaying denied"
    records: tuple[Record, ...]
    faults: tuple[str, ...]  # "spf: cannot be answered at mail: ..."
    added: str  # the header fields on top of the message, if it came so far
    outside: tuple[str, ...] = ()  # other servers that policies wanted to ask

    @property
    def status(self) -> int:
        """0: accepted for all; 1: refused permanently for some; `DEFERRED`: refused for now."""
        kinds = {reply[0] for reply in self.replies}
        return 1 if "5" in kinds else DEFERRED if "4" in kinds else 0

    @property
    def by(self) -> str:
        """The policy or rule that refused, held or discarded; empty: none."""
        return next((record.by for record in self.records if record.by), "")

    @property
    def outcome(self) -> str:
        """One of "accepted", "held", "discarded" or "refused": of the last record, that of the transaction if it came so far."""
        return self.records[-1].outcome if self.records else "refused" if self.status else "accepted"

    @property
    def gateways(self) -> tuple[str, ...]:
        """Where the recipients that were accepted would go."""
        ways: Sequence[Way] = self.records[-1].ways if self.records else ()
        return tuple(way.gateway for way in ways if way.reply.is_positive)


@implementer(IObserver)
@define
class _Faults:
    heard: list[str] = field(factory=list)

    def note(self, event: Any) -> None:
        if type(event) is Fault:
            self.heard.append(f"{event.component}: {event.problem}")


@define
class _NoStore:
    """Takes messages and keeps none."""

    incoming: Path
    room: Room = ENDLESS
    added: bytes = b""

    async def put(
        self,
        envelope: Envelope,  # noqa: ARG002 - a store's arguments
        content: Content,
        recipients: Sequence[tuple[Recipient, Destination]],  # noqa: ARG002
        hold: str = "",  # noqa: ARG002
    ) -> Put:
        self.added = content.added
        return Put(0, ())


@frozen
class _Believing:
    """Lets the client in by the name that the attempt says; what is offered is what the listener offers."""

    porter: Porter
    name: str

    def offers(self, client: ClientFacts, channel: Channel) -> tuple[str, ...]:
        offered = self.porter.offers(client, channel)
        if not offered and (client.tls is not None or self.porter.allow_cleartext):
            return ("PLAIN",)  # accounts elsewhere, which are not asked what they offer
        return offered

    async def login(self, *_: Any) -> str:
        return self.name


class _Refused(Exception):
    """The client gives up; the message is the reply."""


@define(eq=False)
class _Client:
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


async def simulate(
    configuration: Configuration, house: House, parts: Parts, attempt: Attempt, reactor: Any, folder: Path
) -> Simulated:
    """Play an attempt. ``house`` is that of `mailgw.admin.simulated_house`; ``folder`` is for content while it arrives.

    The listener must be there, and one that speaks SMTP.
    """
    listener = configuration.listen[attempt.listener]
    faults, records, store = _Faults(), list[Record](), _NoStore(folder)
    journal = Journal((faults, *observing(parts)))
    memory: Any = house[IMemory]
    clock: Any = house[IClock]
    guard = guard_of(configuration, memory, reactor, journal)
    porter = porter_of(listener, parts, journal, reactor, configuration.server.hostname, guard)
    reception = reception_of(
        listener,
        configuration,
        parts,
        store=store,
        offer=lambda _: None,
        journal=journal,
        identity=house[IIdentity],
        clock=reactor,
        logins=None if porter is None else _Believing(porter, attempt.login),
        record=records.append,
    )
    tls: Any = object() if listener.tls else None  # nothing is encrypted
    _count_present(parts, attempt.beside)
    factory = SmtpFactory(reception, Random(), tls=tls)
    implicit = _begins_with_tls(listener, attempt)
    client = _Client(connect(factory, str(attempt.client), _PORT, implicit), reactor)
    if implicit:
        client.shake_hands()
    content = _with_line_ends(attempt.content or _small_message(attempt, clock))
    wants_tls = attempt.tls or bool(attempt.login and listener.tls)
    replies = await _play(client, attempt, wants_tls, content)
    client.hang_up()
    await factory.stop(0)
    told = [one for one in records if one.outcome != "abandoned"]  # which it was only because of what was refused
    outside: Any = house[IDialer]
    added = store.added.decode("utf-8", "replace")
    return Simulated(tuple(client.dialogue), replies, tuple(told), tuple(faults.heard), added, tuple(outside.wanted))


def counts_sessions(parts: Parts, listener: str) -> bool:
    """Whether a policy of the listener wants to know who is there at the same time."""
    return any(isinstance(asked.component, Concurrency) for asked in parts.rules[listener].client)


def _count_present(parts: Parts, present: Sequence[ClientFacts]) -> None:
    """Let those policies that count sessions know of the ones that are there."""
    for client in present:
        rules = parts.rules.get(client.listener, Rules())
        for asked in rules.client:
            if isinstance(asked.component, Concurrency) and not asked.skips(client):
                asked.component.check_client(client)
                asked.component.check_sender(SenderFacts(client=client, sender=NULL))


def _begins_with_tls(listener: Listener, attempt: Attempt) -> bool:
    implicit = [listener.is_implicit_tls(endpoint) for endpoint in listener.endpoint]
    return all(implicit) or (attempt.tls and listener.starttls == "never" and any(implicit))


async def _play(client: _Client, attempt: Attempt, wants_tls: bool, content: bytes) -> tuple[str, ...]:
    """The whole session; gives the reply that decided about each recipient."""
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


async def _introduce(client: _Client, attempt: Attempt, wants_tls: bool) -> str:
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
