"""What a client session learns from the server: the events that `mailgw.smtp.client.ClientSession` gives."""

from collections.abc import Mapping

from attrs import frozen

from mailgw.smtp.extensions import Extensions
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome
from mailgw.values.reply import Reply

__all__ = [
    "Asked",
    "Challenged",
    "ContentWanted",
    "Event",
    "Finished",
    "LoggedIn",
    "LoginRefused",
    "Ready",
    "Refused",
    "TlsAgreed",
    "TlsRefused",
]


@frozen
class Ready:
    """The server has told its extensions: a transaction, or STARTTLS, may begin."""

    extensions: Extensions


@frozen
class Refused:
    """The server wants no session: its greeting or its answer to EHLO was 4yz or 5yz, or an idle session got a 421."""

    reply: Reply


@frozen
class TlsAgreed:
    """Start the TLS handshake now, then call `ClientSession.tls_started`."""


@frozen
class TlsRefused:
    """The server offers STARTTLS but will not begin it now. The session goes on in clear."""

    reply: Reply


@frozen
class Challenged:
    """The server asks something in a login: say the response with `ClientSession.answer`, or `ClientSession.cancel_login`."""

    challenge: bytes


@frozen
class LoggedIn:
    """The server knows who we are, and has proved itself as far as the mechanism wants it: a transaction may begin."""


@frozen
class LoginRefused:
    """The server does not let us in, or we do not trust it. No secret is in the texts, whatever the server said."""

    reply: Reply
    reason: str = ""  # what the server said inside of the exchange


@frozen
class ContentWanted:
    """Send the content now, through `ClientSession.add_content` and `ClientSession.end_content`."""


@frozen
class Finished:
    """The transaction is over: an outcome for each recipient of the shipment."""

    outcomes: Mapping[Address, Outcome]
    untouched: bool = False  # the session ended before the server said a word about it: repeat it on another connection


@frozen
class Asked:
    """The server's word about the recipient it was asked about with `ClientSession.ask`."""

    reply: Reply
    is_final: bool  # it answered RCPT; else it is about us, the session or the null reverse-path, not about the recipient


Event = Ready | Refused | TlsAgreed | TlsRefused | Challenged | LoggedIn | LoginRefused | ContentWanted | Finished | Asked
