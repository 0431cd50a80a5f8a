"""An attempt to send mail, played through the real engine, conversation and policies: nothing is kept, and nobody is there."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field, frozen
from zope.interface import implementer

from mailgw.admin.simulated_client import Attempt, Client, play
from mailgw.assemble import House, Parts, observing
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
from mailgw.staff import guard_of, porter_of, reception_of
from mailgw.values.address import NULL
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.facts import ClientFacts, SenderFacts
from mailgw.values.ledger import Put
from mailgw.values.record import Record, Way

__all__ = ["DEFERRED", "Simulated", "counts_sessions", "simulate"]

DEFERRED = 75  # exit status: EX_TEMPFAIL of sysexits.h
_PORT = 40000  # of the client


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
    client = Client(connect(factory, str(attempt.client), _PORT, implicit), reactor)
    if implicit:
        client.shake_hands()
    wants_tls = attempt.tls or bool(attempt.login and listener.tls)
    replies = await play(client, attempt, wants_tls, clock)
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
