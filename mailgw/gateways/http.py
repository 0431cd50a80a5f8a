"""Post mail to a web service."""

import hashlib
import hmac
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import attrs
from attrs import Factory, field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.http_answers import TRANSIENT, outcome_of, retry_after
from mailgw.gateways.http_body import Body
from mailgw.gateways.http_client import Answer, Client, NoAnswer
from mailgw.gateways.http_redirects import BadRedirect, Target, followed
from mailgw.gateways.one_by_one import one_by_one
from mailgw.gateways.outgoing_tls import OutgoingTls
from mailgw.gateways.threads import in_thread
from mailgw.given import given
from mailgw.interfaces import IDialer, IGateway, IIdentity, IResolver
from mailgw.values.address import Address
from mailgw.values.delivery import Handed, Outcome, Recipient, Shipment, later, never, unknown
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply
from mailgw.values.secret import Secret

__all__ = ["Http"]

_MOST_REDIRECTS = 3
_KEEPS_THE_MESSAGE = (307, 308)  # RFC 9110 §15.4.8-9; the others turn a POST into a GET


def _a_url(_: Any, attribute: "attrs.Attribute[Any]", value: str) -> None:
    try:
        Target(value)
    except ValueError as problem:
        raise ValueError(f"{attribute.name} {problem}") from None


def _client_errors(_: Any, attribute: "attrs.Attribute[Any]", value: list[int]) -> None:
    for status in value:
        if not 400 <= status < 500:
            raise ValueError(f"{attribute.name}: {status} is none of 400 to 499")


def _one_at_least(_: Any, attribute: "attrs.Attribute[Any]", value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1")


@implementer(IGateway)
@frozen
class Http:
    """``type = "http"``: the message is posted to ``url``, for up to ``max_recipients`` at once, and the status decides for all of them.

    2xx is "delivered". 5xx, those of 4xx that are in ``transient``, and all trouble with the connection are "later"; other 4xx "never".
    """

    url: str = field(validator=_a_url)
    format: Literal["raw", "json"] = "raw"  # the message itself, or an object with the envelope and the message in base64
    max_recipients: int = field(default=50, validator=_one_at_least)  # in one request
    authorization: Secret | None = None  # the value of the Authorization field: "Bearer ..."
    signature_key: Secret | None = None  # requests are signed with it
    transient: list[int] = field(default=Factory(lambda: list(TRANSIENT)), validator=_client_errors)
    allow_private: bool = False  # follow redirects to private addresses; ``url`` itself may be anywhere
    trust: Path | None = None  # a PEM file of authorities for https; none: those that the system trusts
    connect_timeout: Duration = 30.0
    timeout: Duration = 60.0  # without progress
    max_idle: Duration = 4.0  # how long an unused connection is kept; many servers close theirs after 5 seconds
    final: bool = False  # whether 2xx means that it lies in a mailbox, which a DSN calls "delivered", not "relayed"
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _client: Client = field(
        init=False,
        repr=False,
        default=Factory(
            lambda self: Client(
                self.dialer,
                self.clock,
                OutgoingTls(self.trust),
                timeout=self.timeout,
                connect_timeout=self.connect_timeout,
                max_idle=self.max_idle,
            ),
            takes_self=True,
        ),
    )

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        recipients, size = shipment.recipients, self.max_recipients
        last: Outcome | None = None

        async def post(group: tuple[Recipient, ...]) -> Outcome:
            nonlocal last
            if last is None or not last.unreachable:
                last = await self._post(shipment, group)
            return last

        groups = [recipients[start : start + size] for start in range(0, len(recipients), size)]
        return await one_by_one(groups, post, self.clock, self.timeout)

    def close(self) -> None:
        """Close the kept connections."""
        self._client.close()

    async def _post(self, shipment: Shipment, recipients: tuple[Recipient, ...]) -> Outcome:
        target = Target(self.url)
        if shipment.envelope.requiretls and not target.is_encrypted:
            # RFC 8689 §4.2.1
            return never(Reply(550, "5.7.30", "the sender requires TLS on the whole way, and the next hop has none"))
        body = Body.of(shipment, recipients, self.format)
        try:
            headers = await self._headers(shipment, recipients, body)
            own = {"Authorization": self.authorization.read().decode("latin-1")} if self.authorization else {}
        except OSError as problem:
            return later(Reply(451, "4.3.0", f"message or key cannot be read: {problem.strerror or problem}"))
        try:
            answer = await self._follow(target, headers, own, body)
        except BadRedirect as problem:
            return later(Reply(451, "4.3.5", str(problem)))
        except NoAnswer as problem:
            if problem.what == "unknown":
                return unknown(str(problem))
            if problem.what == "unread":
                return later(Reply(451, "4.3.0", str(problem)))
            return later(Reply(451, "4.4.1" if problem.what == "unreached" else "4.4.2", str(problem)), unreachable=True)
        return outcome_of(
            answer.status,
            answer.first_line,
            transient=self.transient,
            handed=Handed.MAILBOX if self.final else Handed.RELAY,
            wait=retry_after(answer.field("Retry-After"), self.clock.seconds()),
        )

    async def _follow(self, first: Target, headers: Mapping[str, str], own: Mapping[str, str], body: Body) -> Answer:
        """Post it, and where an answer says so, elsewhere; ``own`` header fields only where the administrator said.

        Raises BadRedirect and NoAnswer.
        """
        target = first
        for _ in range(_MOST_REDIRECTS + 1):
            fields = {**headers, **own} if target.origin == first.origin else headers
            answer = await self._client.post(target, fields, body)
            location = answer.field("Location")
            if answer.status not in _KEEPS_THE_MESSAGE or not location:
                return answer
            target = await followed(location, target, first, self.resolver, self.allow_private)
        raise BadRedirect(f"redirected more than {_MOST_REDIRECTS} times")

    async def _headers(self, shipment: Shipment, recipients: tuple[Recipient, ...], body: Body) -> dict[str, str]:
        """The envelope, the idempotency key, and the signature. Raises OSError."""
        envelope = shipment.envelope
        names = ", ".join(_encoded(recipient.address) for recipient in recipients)
        headers = {
            "X-Mailgw-Message": str(shipment.message),
            "X-Mailgw-Session": quote(envelope.session),
            "X-Mailgw-Sender": _encoded(envelope.sender),
            "X-Mailgw-Recipients": names,
            "Idempotency-Key": f'"{self._key(shipment, names)}"',  # draft-ietf-httpapi-idempotency-key-header §2.1: a string of RFC 9651
        }
        signature = None
        if self.signature_key is not None:
            headers["X-Mailgw-Timestamp"] = timestamp = str(int(self.clock.seconds()))
            signed = f"{timestamp}\n{headers['X-Mailgw-Sender']}\n{names}\n".encode()
            signature = hmac.new(self.signature_key.read(), signed, hashlib.sha256)
        if isinstance(body.content.original, Path):
            # The pass over the file also brings it into memory, so that sending it does not wait for the disk.
            await in_thread(self.threads, lambda: _pass_over(body, signature))
        elif signature is not None:
            _pass_over(body, signature)
        if signature is not None:
            headers["X-Mailgw-Signature"] = f"sha256={signature.hexdigest()}"
        return headers

    def _key(self, shipment: Shipment, names: str) -> str:
        """The same for each attempt with these recipients, and never for another message: a new store counts from 1 again."""
        envelope = shipment.envelope
        parts = (self.identity.hostname, str(shipment.message), envelope.session, repr(envelope.arrived), names)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _encoded(address: Address) -> str:
    """An address in a header field: percent-encoded UTF-8 (RFC 3986 §2.1), where every decoder reads the same."""
    return quote(str(address), safe="@")


def _pass_over(body: Body, signature: "hmac.HMAC | None") -> None:
    for chunk in body.chunks():
        if signature is not None:
            signature.update(chunk)
