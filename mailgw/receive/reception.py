"""What a conversation is given: what all those of a listener share, and the connection under it."""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Literal, Protocol

from attrs import field, frozen
from twisted.internet.interfaces import IReactorTime

from mailgw.interfaces import IIdentity, IQueueStore
from mailgw.journal import Journal
from mailgw.receive.asking import Asker, Rules
from mailgw.receive.authentication import Logins
from mailgw.receive.intake import ENDLESS, Memory, Room
from mailgw.receive.relaying import Relay
from mailgw.receive.telling import Teller
from mailgw.routing import Routing
from mailgw.settings import Network
from mailgw.smtp.sasl import Channel
from mailgw.smtp.server import ServerSettings
from mailgw.values.address import Address
from mailgw.values.facts import TlsFacts
from mailgw.values.ledger import Put
from mailgw.values.record import Record
from mailgw.values.reply import Reply

__all__ = ["Gone", "Reception", "Wire"]


class Gone(Exception):
    """There is nobody to talk to any more; the message says why: "lost", "time-out", "shutdown", "refused"."""


class Wire(Protocol):
    """What a conversation needs of the connection under it."""

    @property
    def closing(self) -> bool:
        """Whether the server is shutting down."""

    def say(self) -> None:
        """Send what the engine has to say."""

    async def more(self) -> None:
        """Send what the engine has to say, and wait until more has arrived. Raises Gone."""

    async def drained(self) -> None:
        """Send what the engine has to say, and wait until the client has read most of what was said. Raises Gone."""

    def until(self, deadline: float) -> None:
        """So long, in POSIX seconds, the client may take to send what is waited for."""

    def channel(self) -> Channel:
        """What the connection can prove about itself and its client. Raises Gone."""

    async def start_tls(self) -> TlsFacts:
        """Send what the engine has to say in clear, then encrypt. Raises Gone."""

    def recount(self, ip: IPv4Address | IPv6Address) -> Reply | None:
        """Count the session under another client's address; gives a 421 where that client has too many."""


@frozen(kw_only=True)
class Reception:
    """What all conversations of a listener share."""

    listener: str
    engine: ServerSettings
    rules: Rules
    routing: Routing
    store: IQueueStore
    offer: Callable[[Put], None]  # hands a committed message to the dispatcher
    journal: Journal
    identity: IIdentity
    clock: IReactorTime
    incoming: Path  # folder for messages that are too big for the memory
    room: Room = ENDLESS  # on the disk
    kind: Literal["relay", "submission"] = "relay"
    max_hops: int = 50
    command_timeout: float = 300.0  # seconds; for each whole command (RFC 5321 §4.5.3.2.7)
    data_timeout: float = 300.0  # between two pieces of content
    message_timeout: float = 3600.0  # for all content of a message
    session_timeout: float = 3600.0  # for commands that bring no message; each message begins it anew
    memory: Memory = field(factory=Memory)
    aliases: Mapping[str, tuple[Address, ...]] | None = None  # for EXPN
    xclient: tuple[Network, ...] = ()  # who may say for which client it speaks
    logins: Logins | None = None  # who lets clients log in; None: nobody can
    record: Callable[[Record], None] | None = None  # takes the decision records; None: none are made
    reference: Callable[[], str] | None = None  # makes the names of refusals; None: they have none
    asker: Asker = field(init=False)
    teller: Teller = field(init=False)
    relay: Relay = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "asker", Asker(self.clock, self.journal))
        object.__setattr__(self, "teller", Teller(self.clock, self.record, self.reference))
        object.__setattr__(self, "relay", Relay(self.rules.relay, self.routing, self.asker, self.teller, self.journal))
