"""Hand everything to one server, or to the first of several that can be reached."""

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.access_token import AccessTokens, OAuth
from mailgw.gateways.connections import ATTEMPT_TIMEOUT, Connections, kept_connections
from mailgw.gateways.naming import a_next_hop, next_hops
from mailgw.gateways.outgoing_tls import VERIFIED, ClientCertificate, TlsMode, authorities_there
from mailgw.gateways.server_login import ServerLogin, is_loopback
from mailgw.given import given
from mailgw.interfaces import IAskableGateway, IDialer, IIdentity, IResolver, LookupFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, later
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply
from mailgw.values.secret import Secret

__all__ = ["Smarthost"]


def _login(smarthost: "Smarthost") -> ServerLogin | None:
    tokens = AccessTokens(smarthost.oauth, smarthost.dialer, smarthost.clock) if smarthost.oauth else None
    if smarthost.password is None and tokens is None and smarthost.certificate is None:
        return None
    return ServerLogin(smarthost.login, smarthost.password, tokens, smarthost.certificate is not None)


def _certificate(smarthost: "Smarthost") -> ClientCertificate | None:
    if smarthost.certificate is None or smarthost.key is None:
        return None
    return ClientCertificate(smarthost.certificate, smarthost.key)


@implementer(IAskableGateway)
@frozen
class Smarthost:
    """``type = "smarthost"``: the servers of ``address`` are tried in order until one takes or refuses the mail.

    The next one is tried when a server cannot be reached, greets with 4yz, says 421 or is lost; a permanent refusal stands.
    """

    address: str | list[str] = field(validator=a_next_hop)  # "host", "host:587", "192.0.2.1", "[2001:db8::1]:25"; default port 25
    tls: TlsMode = "offered"  # never | offered | require | implicit
    # A PEM file of authorities for require and implicit; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)
    login: str = ""  # the name that we log in with; the strongest mechanism that both sides have is used
    password: Secret | None = None
    oauth: OAuth | None = None  # in place of a password: where access tokens come from
    certificate: Path | None = None  # a PEM file with our own certificate, shown to the server; the login is then EXTERNAL
    key: Secret | None = None  # its key
    connect_timeout: Duration = 30.0
    max_idle: Duration = 30.0  # how long an unused connection is kept
    max_messages: int = 100  # on one connection
    attempt_timeout: Duration = ATTEMPT_TIMEOUT  # for all servers that are tried together; each reply has less (RFC 5321 §4.5.3.2)
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _connections: Connections = kept_connections(login=_login, shown=_certificate)

    def __attrs_post_init__(self) -> None:
        if self.login and self.password is None and self.oauth is None and self.certificate is None:
            raise ValueError("login needs a password, oauth or a certificate")
        if self.password is not None and self.oauth is not None:
            raise ValueError("password and oauth: leave one of them out")
        if (self.password is not None or self.oauth is not None) and not self.login:
            raise ValueError("whose password or token is it? say login")
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together: say both")
        if self.certificate is not None and self.tls not in VERIFIED:
            raise ValueError('a certificate is shown under verified TLS only: say tls = "require" or "implicit"')
        shown = _certificate(self)
        if shown is not None:
            shown.read()  # what cannot be used is a mistake, not an outage
        addresses = [self.address] if isinstance(self.address, str) else self.address
        if self.login and self.tls not in VERIFIED and not all(map(is_loopback, addresses)):
            raise ValueError('a login needs tls = "require" or "implicit": nothing is said to a server that nobody has verified')

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, [shipment.next_hop] if shipment.next_hop else addresses, 25)
        except LookupFailed as problem:
            outcome = later(Reply(451, "4.4.3", str(problem)), unreachable=True)
            return {recipient.address: outcome for recipient in shipment.recipients}
        return await self._connections.deliver(shipment, hops)

    async def ask(self, recipient: Address, next_hop: str = "") -> Outcome:
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, [next_hop] if next_hop else addresses, 25)
        except LookupFailed as problem:
            return later(Reply(451, "4.4.3", str(problem)), unreachable=True)
        return await self._connections.ask(recipient, hops)

    def close(self) -> None:
        """Close the kept connections; those in use follow when their message is over."""
        self._connections.close()
