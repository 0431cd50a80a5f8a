"""A message on its way: envelope, recipients, route, shipment, outcome."""

from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Literal, NamedTuple

from attrs import frozen

from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.reply import Reply

__all__ = [
    "AskedGateway",
    "Body",
    "Destination",
    "Envelope",
    "Fate",
    "GatewayName",
    "Handed",
    "Outcome",
    "Recipient",
    "Route",
    "Shipment",
    "delivered",
    "later",
    "never",
    "unknown",
]

Body = Literal["7BIT", "8BITMIME", "BINARYMIME"]


@frozen
class Recipient:
    """A forward-path with its DSN parameters (RFC 3461 §4.1-4.2)."""

    address: Address
    notify: frozenset[str] = frozenset()  # {"NEVER"} or some of SUCCESS, FAILURE, DELAY; empty: not given
    orcpt: str = ""  # "rfc822;user@example.org", decoded from xtext; empty: not given


@frozen(kw_only=True)
class Envelope:
    """A mail transaction without its recipients: the reverse-path, its parameters, and who brought it."""

    sender: Address
    arrived: float  # POSIX seconds
    body: Body = "7BIT"  # RFC 6152, RFC 3030
    smtputf8: bool = False  # RFC 6531
    requiretls: bool = False  # RFC 8689
    ret: Literal["", "FULL", "HDRS"] = ""  # RFC 3461 §4.3
    envid: str = ""  # RFC 3461 §4.4, decoded from xtext
    session: str = ""  # the session that brought it; its log id
    listener: str = ""
    client_ip: IPv4Address | IPv6Address | None = None  # None: made here (a DSN)
    helo: str = ""
    login: str = ""
    tags: frozenset[str] = frozenset()


class Destination(NamedTuple):
    """Where a recipient's mail is waiting to go: the unit of fairness, back-off and connection reuse.

    ``Destination("", "")`` means: not routed yet, or its route is gone; ask the routes again.
    """

    gateway: str
    next_hop: str = ""  # the recipient's domain for gateways that deliver by domain, else empty unless a route says


class GatewayName(str):
    """A setting that names another [gateway.NAME]: that there is one, and that no names lead in a circle, is checked at the start."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> "GatewayName":
        """Take the text as it is."""
        return cls(text)


class AskedGateway(GatewayName):
    """A `GatewayName` of one that is asked about addresses: that it can be (IAskableGateway) is checked, too."""

    __slots__ = ()


@frozen
class Route:
    """A route's answer: which gateway, and, if the route knows better than the gateway, which next hop."""

    gateway: str
    next_hop: str = ""
    because: str = ""  # which rule, for `mailgw route`


@frozen
class Shipment:
    """What a gateway is asked to deliver: one message for some recipients at one next hop."""

    message: int
    envelope: Envelope
    content: Content
    recipients: tuple[Recipient, ...]
    next_hop: str = ""

    @property
    def sender(self) -> Address:
        """The reverse-path."""
        return self.envelope.sender


class Fate(Enum):
    """What became of one recipient in one attempt."""

    DELIVERED = "delivered"
    LATER = "later"
    NEVER = "never"
    UNKNOWN = "unknown"  # the connection died after the final dot: perhaps delivered; tried again


class Handed(Enum):
    """Into whose hands a delivered message went: decides which DSN is due (RFC 3461 §5.2)."""

    MAILBOX = "delivered"  # final delivery: we say "delivered" if asked
    RELAY = "relayed"  # to a server that does not know DSN: we say "relayed" if asked
    DSN_RELAY = "passed on"  # to a server that took over the DSN duty: we say nothing


@frozen
class Outcome:
    """What a gateway reports for one recipient. Make it with `delivered`, `later`, `never` or `unknown`."""

    fate: Fate
    reply: Reply
    peer: str = ""  # the server that said so, for the journal and the DSN's Remote-MTA
    handed: Handed = Handed.MAILBOX
    unreachable: bool = False  # with LATER: the destination as a whole is down, other messages need not try
    retry_after: float | None = None  # seconds; with LATER: the destination asked not to be tried again before
    heard: bool = True  # whether the reply is what ``peer`` said; else our own words about it, which no DSN may put into its mouth


_DELIVERED = Reply(250, "2.0.0", "delivered")


def delivered(reply: Reply | str = _DELIVERED, peer: str = "", handed: Handed = Handed.MAILBOX) -> Outcome:
    """It is in other hands now; a text becomes a 250 2.0.0 reply of our own."""
    return Outcome(Fate.DELIVERED, Reply(250, "2.0.0", reply) if isinstance(reply, str) else reply, peer, handed)


def later(reply: Reply | str, peer: str = "", unreachable: bool = False, retry_after: float | None = None) -> Outcome:
    """Not this time; a text becomes a 451 4.4.0 reply of our own."""
    reply = Reply(451, "4.4.0", reply) if isinstance(reply, str) else reply
    return Outcome(Fate.LATER, reply, peer, unreachable=unreachable, retry_after=retry_after)


def never(reply: Reply | str, peer: str = "") -> Outcome:
    """Permanently refused; a text becomes a 550 5.0.0 reply of our own."""
    return Outcome(Fate.NEVER, Reply(550, "5.0.0", reply) if isinstance(reply, str) else reply, peer)


def unknown(reply: Reply | str, peer: str = "") -> Outcome:
    """The connection died between our final dot and the answer: RFC 1047. A text becomes a 451 4.4.2 reply of our own."""
    return Outcome(Fate.UNKNOWN, Reply(451, "4.4.2", reply) if isinstance(reply, str) else reply, peer)
