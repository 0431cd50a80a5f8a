"""Facts with defaults: a test says only what matters to it.

Addresses and IP addresses may be given as text. What is told about the client (``ip``, ``helo``, ``login``, ``tls``, ...) may be
told to every function that makes facts, or a whole ``client`` may be given instead.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal, TypedDict, Unpack

from mailgw.values.address import NULL, Address
from mailgw.values.content import Content
from mailgw.values.decision import AuthResult
from mailgw.values.delivery import Body, Envelope, Recipient, Shipment
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts, TlsFacts

__all__ = ["a_client", "a_message", "a_recipient", "a_sender", "a_shipment", "an_address", "an_envelope"]

SENDER = "sender@example.com"
RECIPIENT = "recipient@example.org"
MESSAGE = b"From: sender@example.com\r\nTo: recipient@example.org\r\nSubject: Hello\r\n\r\nHello.\r\n"
ARRIVED = datetime(2026, 1, 5, 10, tzinfo=UTC)
_TLS = TlsFacts(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")


class AboutClient(TypedDict, total=False):
    """What `a_client` can be told, and with it every other function that needs a client."""

    ip: str | IPv4Address | IPv6Address
    helo: str
    login: str
    tls: bool | TlsFacts
    session: str
    listener: str
    port: int
    kind: Literal["relay", "submission"]
    esmtp: bool
    early_talker: bool


def an_address(address: str | Address) -> Address:
    """Read an address; ``""`` and ``"<>"`` are the null reverse-path, ``"postmaster"`` needs no domain. Raises BadAddress."""
    if isinstance(address, Address):
        return address
    if address in ("", "<>"):
        return NULL
    if address.lower() == "postmaster":  # RFC 5321 §4.5.1
        return Address(address, "")
    return Address.parse(address)


def a_client(
    *,
    ip: str | IPv4Address | IPv6Address = "192.0.2.99",
    helo: str = "client.example.com",
    login: str = "",
    tls: bool | TlsFacts = False,
    session: str = "test",
    listener: str | None = None,
    port: int = 40000,
    kind: Literal["relay", "submission"] | None = None,
    esmtp: bool = True,
    early_talker: bool = False,
) -> ClientFacts:
    """Someone who is connected: by default another server, on listener "mx"; with a ``login`` a user, on "submission"."""
    kind = kind or ("submission" if login else "relay")
    return ClientFacts(
        session=session,
        listener=listener if listener is not None else {"relay": "mx", "submission": "submission"}[kind],
        ip=ip_address(ip),
        port=port,
        kind=kind,
        helo=helo,
        esmtp=esmtp,
        tls=tls if isinstance(tls, TlsFacts) else _TLS if tls else None,
        login=login,
        early_talker=early_talker,
    )


def a_sender(
    sender: str | Address = SENDER,
    *,
    size: int | None = None,
    tags: Iterable[str] = (),
    results: tuple[AuthResult, ...] = (),
    client: ClientFacts | None = None,
    **about_client: Unpack[AboutClient],
) -> SenderFacts:
    """A MAIL command."""
    return SenderFacts(
        client=_client(client, about_client), sender=an_address(sender), size=size, tags=frozenset(tags), results=results
    )


def a_recipient(
    to: str | Address = RECIPIENT,
    *,
    sender: str | Address = SENDER,
    size: int | None = None,
    tags: Iterable[str] = (),
    results: tuple[AuthResult, ...] = (),
    client: ClientFacts | None = None,
    **about_client: Unpack[AboutClient],
) -> RecipientFacts:
    """A RCPT command."""
    return RecipientFacts(
        client=_client(client, about_client),
        sender=an_address(sender),
        recipient=an_address(to),
        size=size,
        tags=frozenset(tags),
        results=results,
    )


def a_message(
    content: bytes | Content = MESSAGE,
    *,
    sender: str | Address = SENDER,
    recipients: Iterable[str | Address] = (RECIPIENT,),
    arrived: datetime = ARRIVED,
    tags: Iterable[str] = (),
    results: tuple[AuthResult, ...] = (),
    client: ClientFacts | None = None,
    **about_client: Unpack[AboutClient],
) -> ContentFacts:
    """A whole message; its lines end with CRLF."""
    return ContentFacts(
        client=_client(client, about_client),
        sender=an_address(sender),
        recipients=tuple(an_address(recipient) for recipient in recipients),
        content=_content(content),
        arrived=arrived,
        tags=frozenset(tags),
        results=results,
    )


def an_envelope(
    sender: str | Address = SENDER,
    *,
    arrived: float | datetime = ARRIVED,
    body: Body = "7BIT",
    smtputf8: bool = False,
    requiretls: bool = False,
    ret: Literal["", "FULL", "HDRS"] = "",
    envid: str = "",
    session: str = "test",
    listener: str = "mx",
    client_ip: str | IPv4Address | IPv6Address | None = "192.0.2.99",
    helo: str = "client.example.com",
    login: str = "",
    tags: Iterable[str] = (),
) -> Envelope:
    """A mail transaction, as the queue keeps it; ``arrived`` is a datetime or POSIX seconds."""
    return Envelope(
        sender=an_address(sender),
        arrived=arrived.timestamp() if isinstance(arrived, datetime) else arrived,
        body=body,
        smtputf8=smtputf8,
        requiretls=requiretls,
        ret=ret,
        envid=envid,
        session=session,
        listener=listener,
        client_ip=None if client_ip is None else ip_address(client_ip),
        helo=helo,
        login=login,
        tags=frozenset(tags),
    )


def a_shipment(
    *recipients: str | Address | Recipient,
    content: bytes | Content = MESSAGE,
    sender: str | Address = SENDER,
    envelope: Envelope | None = None,
    message: int = 1,
    next_hop: str = "",
) -> Shipment:
    """What a gateway is asked to deliver: ``a_shipment("anna@example.org", "ben@example.org")``; one recipient if none is given.

    A whole ``envelope`` goes before ``sender``.
    """
    return Shipment(
        message=message,
        envelope=envelope or an_envelope(sender),
        content=_content(content),
        recipients=tuple(_recipient(recipient) for recipient in recipients or (RECIPIENT,)),
        next_hop=next_hop,
    )


def _client(client: ClientFacts | None, about_client: AboutClient) -> ClientFacts:
    if client is None:
        return a_client(**about_client)
    if about_client:
        raise TypeError(f"say {', '.join(sorted(about_client))} to a_client: a whole client was given")
    return client


def _content(content: bytes | Content) -> Content:
    return content if isinstance(content, Content) else Content.of(content)


def _recipient(recipient: str | Address | Recipient) -> Recipient:
    return recipient if isinstance(recipient, Recipient) else Recipient(an_address(recipient))
