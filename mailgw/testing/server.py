"""A whole server in memory: the real engine, conversation and policies, without a socket and without a reactor."""

from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, evolve, field, frozen
from twisted.internet.protocol import connectionDone
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgw.credentials import IAccounts, ILoginGuard
from mailgw.interfaces import IIdentity, IObserver, IQueueStore
from mailgw.journal import Journal
from mailgw.login.portal import Accounts
from mailgw.login.porter import Porter
from mailgw.receive.asking import Asked, Rules
from mailgw.receive.in_memory import connect
from mailgw.receive.protocol import SmtpFactory
from mailgw.receive.proxying import ProxyFactory
from mailgw.receive.reception import Reception
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.settings import Network
from mailgw.smtp.server import ServerSettings
from mailgw.storage.in_process import InProcessStore
from mailgw.values.address import Address
from mailgw.values.ledger import Parcel, Put

__all__ = ["Identity", "MemoryServer", "Notes", "Talk"]


@implementer(IIdentity)
@frozen
class Identity:
    """Who the server says it is."""

    hostname: str = "mx.example.org"
    postmaster: Address = field(factory=lambda: Address("postmaster", "example.org"))


@implementer(IObserver)
@define
class Notes:
    """An observer that keeps all events: ``notes.of(Refused)``."""

    events: list[Any] = field(factory=list)

    def note(self, event: Any) -> None:
        """Keep it."""
        self.events.append(event)

    def of(self, kind: type) -> list[Any]:
        """The events of one kind, in order."""
        return [event for event in self.events if type(event) is kind]


@define
class Talk:
    """One connection to a `MemoryServer`."""

    transport: Any

    @property
    def protocol(self) -> Any:
        """What is at work on the connection at this moment."""
        return self.transport.protocol

    def say(self, data: bytes | str) -> str:
        """Send octets and give what the server answers to them. A text is sent as a line."""
        if isinstance(data, str):
            data = data.encode() + b"\r\n"
        if not self.is_over:
            self.protocol.dataReceived(data)
        return self.heard()

    def heard(self) -> str:
        """What the server has said since this was last asked."""
        said = self.transport.value()
        self.transport.clear()
        if self.transport.in_tls is not None:
            self.transport.in_tls = None
            self.protocol.handshakeCompleted()
        return str(said, "utf-8")

    def shake_hands(self) -> None:
        """Begin TLS, where the connection begins with it."""
        self.protocol.handshakeCompleted()

    def hang_up(self) -> None:
        """The client goes away."""
        self.protocol.connectionLost(connectionDone)

    @property
    def is_over(self) -> bool:
        """Whether the server has ended the connection."""
        return bool(self.transport.disconnecting)


class MemoryServer:
    """A listener in memory::

        server = MemoryServer(policies=[MyPolicy()], permits=[Permit(to=frozenset({"example.org"}), name="ours")])
        talk = server.connect(ip="203.0.113.7")
        assert talk.say("MAIL FROM:<a@example.com>").startswith("250 ")
    """

    def __init__(
        self,
        *,
        policies: Sequence[Any] = (),
        permits: Sequence[Any] = (),
        routing: Routing | None = None,
        settings: ServerSettings | None = None,
        store: IQueueStore | None = None,
        timeout: float = 30.0,
        max_sessions: int = 100,
        max_sessions_per_client: int = 50,
        proxy: Sequence[Network] = (),
        accounts: Sequence[IAccounts] = (),
        guard: ILoginGuard | None = None,
        nonce: str = "nonce",
        allow_cleartext_auth: bool = False,
        **more: Any,
    ) -> None:
        """Make one; ``more`` goes to `Reception`. Without ``routing`` everything goes to the gateway "anywhere".

        ``proxy``: clients from these networks must begin with a PROXY header. ``accounts``: who can log in, asked in this order;
        ``nonce`` is in all challenges.
        """
        self.clock = Clock()
        self.clock.advance(1767607200)  # 2026-01-05T10:00Z
        self.notes = Notes()
        self.store = store if store is not None else InProcessStore()
        self.offered: list[Put] = []
        asked = [Asked(type(one).__name__, one, timeout) for one in policies]
        rules = Rules(
            client=tuple(one for one in asked if hasattr(one.component, "check_client")),
            sender=tuple(one for one in asked if hasattr(one.component, "check_sender")),
            relay=tuple(Asked(type(one).__name__, one, timeout) for one in permits),
            recipient=tuple(one for one in asked if hasattr(one.component, "check_recipient")),
            content=tuple(one for one in asked if hasattr(one.component, "check_content")),
            refusal=tuple(one for one in asked if hasattr(one.component, "check_refusal")),
        )
        identity = Identity()
        settings = settings or ServerSettings(hostname=identity.hostname, starttls=True)
        journal = Journal((self.notes, *(one for one in policies if IObserver.providedBy(one))))
        if accounts:
            settings = evolve(settings, authenticates=True)
            more["logins"] = Porter(
                accounts=[Accounts(f"{type(one).__name__} {number}", one, timeout) for number, one in enumerate(accounts, 1)],
                journal=journal,
                clock=self.clock,
                hostname=identity.hostname,
                guard=guard,
                allow_cleartext=allow_cleartext_auth,
                nonce=lambda: nonce,
            )
        self.reception = Reception(
            listener="mx",
            engine=settings,
            rules=rules,
            routing=routing or Routing([Rule("otherwise", Default("anywhere"))]),
            store=self.store,
            offer=self.offered.append,
            journal=journal,
            identity=identity,
            clock=self.clock,
            incoming=more.pop("incoming", Path(getattr(self.store, "incoming", "/nowhere"))),
            **more,
        )
        self.factory = SmtpFactory(
            self.reception,
            Random(1),
            tls=object(),  # type: ignore[arg-type]
            max_sessions=max_sessions,
            max_sessions_per_client=max_sessions_per_client,
        )
        self.entrance = ProxyFactory(self.factory, "mx", proxy, self.reception.journal, self.clock)

    @property
    def parcels(self) -> list[Parcel]:
        """What was accepted, in order."""
        return [parcel for put in self.offered for parcel in put.parcels]

    def follow(self, rules: Rules) -> None:
        """Ask others, and in other ways than `__init__` knows, from the next session on."""
        self.reception = self.factory.reception = evolve(self.reception, rules=rules)

    def connect(self, ip: str = "192.0.2.99", port: int = 40000, tls: bool = False) -> Talk:
        """Connect a client; the greeting is the first thing to be heard, with implicit ``tls`` after `Talk.shake_hands`."""
        return Talk(connect(self.entrance, ip, port, tls))
