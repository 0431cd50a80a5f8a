"""What a client asks for: one event at a time, for somebody to decide about."""

from ipaddress import IPv4Address, IPv6Address
from typing import Literal

from attrs import field, frozen

from mailgw.values.address import Address
from mailgw.values.delivery import Body, Recipient
from mailgw.values.reply import Reply

__all__ = [
    "Auth",
    "AuthEnd",
    "AuthResponse",
    "Closing",
    "Data",
    "Event",
    "Expand",
    "Hello",
    "Mail",
    "Piece",
    "Quit",
    "Rcpt",
    "Reset",
    "StartTls",
    "XClient",
]


@frozen
class Hello:
    """HELO or EHLO."""

    name: str
    esmtp: bool


@frozen
class Mail:
    """MAIL FROM, with the parameters of SIZE, 8BITMIME, BINARYMIME, SMTPUTF8, DSN and REQUIRETLS."""

    sender: Address
    size: int | None = None
    body: Body = "7BIT"
    smtputf8: bool = False
    requiretls: bool = False
    ret: Literal["", "FULL", "HDRS"] = ""
    envid: str = ""


@frozen
class Rcpt:
    """RCPT TO, with its DSN parameters."""

    recipient: Recipient


@frozen
class Data:
    """DATA, or the first BDAT of a message: the transaction is complete but for its content."""

    chunking: bool


@frozen
class Piece:
    """Some content, in order. With ``last`` the message is complete, or broken: then ``problem`` says what it will get."""

    data: bytes
    last: bool
    problem: Reply | None = None
    is_ascii: bool = True


@frozen
class Reset:
    """RSET: the mail transaction is off."""


@frozen
class StartTls:
    """STARTTLS, allowed now (RFC 3207)."""


@frozen
class Auth:
    """AUTH, allowed now (RFC 4954). ``initial`` is None where the client gave no initial response."""

    mechanism: str  # in upper case, one of those that are offered
    initial: bytes | None = field(repr=False)


@frozen
class AuthResponse:
    """What the client answers to a challenge."""

    response: bytes = field(repr=False)


@frozen
class AuthEnd:
    """The client cancels the exchange, or says what is no response: it is to be answered with ``reply``."""

    reply: Reply


@frozen
class Expand:
    """EXPN of a mailing list or alias."""

    name: str


@frozen
class XClient:
    """XCLIENT from somebody who may say it: for whom it speaks. None: it does not say."""

    ip: IPv4Address | IPv6Address | None = None  # `UNKNOWN_IP` where the proxy does not know it
    port: int | None = None  # 0 where the proxy does not know it
    helo: str | None = None
    esmtp: bool | None = None
    login: str | None = None  # empty: not authenticated


@frozen
class Quit:
    """QUIT."""


@frozen
class Closing:
    """The engine ends the session: ``reply``, a 421 or 521, is said already."""

    reply: Reply


Event = Hello | Mail | Rcpt | Data | Piece | Reset | StartTls | Auth | AuthResponse | AuthEnd | Expand | XClient | Quit | Closing
