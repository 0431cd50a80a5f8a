"""What is known when a policy, a permit rule or a route is asked. Frozen; passwords never enter a fact."""

from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from attrs import frozen

from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import AuthResult
from mailgw.values.reply import Reply

__all__ = ["UNKNOWN_IP", "ClientFacts", "ContentFacts", "RecipientFacts", "RefusalFacts", "SenderFacts", "TlsFacts", "one_client"]

UNKNOWN_IP = IPv4Address("0.0.0.0")  # noqa: S104  # nobody's address (RFC 1122 §3.2.1.3), so in nobody's network
"""The address of a client for which a load balancer or proxy speaks without knowing it."""


def one_client(ip: IPv4Address | IPv6Address) -> IPv4Address | int:
    """What counts as one client: an IPv4 address, or the /64 that an IPv6 client has to come from (RFC 6177), as a number."""
    return ip if isinstance(ip, IPv4Address) else int(ip) >> 64


@frozen(kw_only=True)
class TlsFacts:
    """The TLS session of a connection."""

    version: str  # "TLSv1.3"
    cipher: str  # "TLS_AES_256_GCM_SHA384"
    server_name: str = ""  # what the client takes us for (RFC 6066 §3), in lower case; empty: it did not say


@frozen(kw_only=True)
class ClientFacts:
    """Who is connected. Grows as the session goes on: after EHLO, after STARTTLS, after AUTH."""

    session: str  # the id that every log line of this session carries
    listener: str  # name of the [listen.NAME] table
    ip: IPv4Address | IPv6Address  # IPv4-mapped IPv6 addresses arrive as IPv4; see `UNKNOWN_IP`
    port: int
    kind: Literal["relay", "submission"] = "relay"
    helo: str = ""  # as the client said it; empty before HELO or EHLO
    esmtp: bool = False  # EHLO, not HELO
    tls: TlsFacts | None = None
    login: str = ""  # the authenticated identity; empty: not authenticated
    early_talker: bool = False  # it has sent something before it was greeted (RFC 5321 §3.1 has it wait)

    @property
    def is_authenticated(self) -> bool:
        """Whether the client has logged in."""
        return bool(self.login)


@frozen(kw_only=True)
class SenderFacts:
    """A MAIL command (RFC 5321 §4.1.1.2)."""

    client: ClientFacts
    sender: Address  # NULL for the null reverse-path
    size: int | None = None  # octets, as declared with SIZE= (RFC 1870)
    tags: frozenset[str] = frozenset()
    results: tuple[AuthResult, ...] = ()


@frozen(kw_only=True)
class RecipientFacts:
    """A RCPT command (RFC 5321 §4.1.1.3), or one recipient of a queued message that is routed again."""

    client: ClientFacts
    sender: Address
    recipient: Address
    size: int | None = None  # octets, as declared with SIZE= at MAIL (RFC 1870)
    tags: frozenset[str] = frozenset()
    results: tuple[AuthResult, ...] = ()
    gateway: str = ""  # of the recipient's route; known to recipient policies only
    next_hop: str = ""  # of the route, or the recipient's domain where the gateway delivers by domain


@frozen(kw_only=True)
class ContentFacts:
    """A whole message, before it is accepted."""

    client: ClientFacts
    sender: Address
    recipients: tuple[Address, ...]
    content: Content
    arrived: datetime
    tags: frozenset[str] = frozenset()
    results: tuple[AuthResult, ...] = ()


@frozen(kw_only=True)
class RefusalFacts:
    """A 4yz or 5yz that a client is about to hear."""

    client: ClientFacts
    stage: str  # "mail", "rcpt" or "data"
    reply: Reply
    count: int  # refusals in this session, this one included; not those of commands that the syntax or the order forbids
    tags: frozenset[str] = frozenset()
