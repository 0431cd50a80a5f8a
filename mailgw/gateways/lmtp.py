"""Hand mail to a mailbox server, with an answer of its own for each recipient (RFC 2033)."""

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.connections import ATTEMPT_TIMEOUT, Connections, kept_connections
from mailgw.gateways.naming import a_next_hop, next_hops
from mailgw.gateways.outgoing_tls import TlsMode, authorities_there
from mailgw.given import given
from mailgw.interfaces import IAskableGateway, IDialer, IIdentity, IResolver, LookupFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, later
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Lmtp"]


@implementer(IAskableGateway)
@frozen
class Lmtp:
    """``type = "lmtp"``: final delivery by the servers of ``address``, tried in order until one can be reached."""

    address: str | list[str] = field(validator=a_next_hop)  # "unix:/run/dovecot/lmtp", "127.0.0.1:24"; default port 24
    tls: TlsMode = "never"  # never | offered | require | implicit
    # A PEM file of authorities for require and implicit; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)
    connect_timeout: Duration = 30.0
    max_idle: Duration = 30.0  # how long an unused connection is kept
    max_messages: int = 1000  # on one connection
    attempt_timeout: Duration = ATTEMPT_TIMEOUT  # for all servers that are tried together; each reply has less (RFC 5321 §4.5.3.2)
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _connections: Connections = kept_connections(lmtp=True)

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, addresses, 24)
        except LookupFailed as problem:
            outcome = later(Reply(451, "4.4.3", str(problem)), unreachable=True)
            return {recipient.address: outcome for recipient in shipment.recipients}
        return await self._connections.deliver(shipment, hops)

    async def ask(self, recipient: Address, next_hop: str = "") -> Outcome:  # noqa: ARG002 - the contract's
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, addresses, 24)
        except LookupFailed as problem:
            return later(Reply(451, "4.4.3", str(problem)), unreachable=True)
        return await self._connections.ask(recipient, hops)

    def close(self) -> None:
        """Close the kept connections; those in use follow when their message is over."""
        self._connections.close()
