"""Hand everything to one server, or to the first of several that can be reached."""

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.connections import ATTEMPT_TIMEOUT, Connections, kept_connections
from mailgw.gateways.naming import a_next_hop, next_hops
from mailgw.gateways.outgoing_tls import TlsMode, authorities_there
from mailgw.given import given
from mailgw.interfaces import IDialer, IGateway, IIdentity, IResolver, LookupFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, later
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Smarthost"]


@implementer(IGateway)
@frozen
class Smarthost:
    """``type = "smarthost"``: the servers of ``address`` are tried in order until one takes or refuses the mail.

    The next one is tried when a server cannot be reached, greets with 4yz, says 421 or is lost; a permanent refusal stands.
    """

    address: str | list[str] = field(validator=a_next_hop)  # "host", "host:587", "192.0.2.1", "[2001:db8::1]:25"; default port 25
    tls: TlsMode = "offered"  # never | offered | require | implicit
    # A PEM file of authorities for require and implicit; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)
    connect_timeout: Duration = 30.0
    max_idle: Duration = 30.0  # how long an unused connection is kept
    max_messages: int = 100  # on one connection
    attempt_timeout: Duration = ATTEMPT_TIMEOUT  # for all servers that are tried together; each reply has less (RFC 5321 §4.5.3.2)
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _connections: Connections = kept_connections()

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, [shipment.next_hop] if shipment.next_hop else addresses, 25)
        except LookupFailed as problem:
            outcome = later(Reply(451, "4.4.3", str(problem)), unreachable=True)
            return {recipient.address: outcome for recipient in shipment.recipients}
        return await self._connections.deliver(shipment, hops)

    def close(self) -> None:
        """Close the kept connections; those in use follow when their message is over."""
        self._connections.close()
