"""Deliver to a domain's mail servers, as the DNS names them (RFC 5321 §5)."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from random import Random, SystemRandom
from typing import Literal

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.connections import ATTEMPT_TIMEOUT, Connections, kept_connections
from mailgw.gateways.naming import addresses_of, dialled
from mailgw.gateways.next_hop import NextHop
from mailgw.gateways.outgoing_tls import authorities_there
from mailgw.given import given
from mailgw.interfaces import IAskableGateway, IDialer, IDomainGateway, IIdentity, IResolver, LookupFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, later, never
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Mx", "by_preference"]


class _NoWay(Exception):
    """There is nobody to hand the mail to, for all that the DNS says."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@implementer(IDomainGateway, IAskableGateway)
@frozen
class Mx:
    """``type = "mx"``: the mail servers of the recipient's domain, best preference first."""

    port: int = 25
    tls: Literal["never", "offered", "require"] = "offered"
    # A PEM file of authorities for require; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)
    max_addresses: int = 10  # tried in one attempt (RFC 5321 §5.1 wants two at least)
    connect_timeout: Duration = 30.0
    max_idle: Duration = 5.0  # how long an unused connection is kept
    max_messages: int = 100  # on one connection
    attempt_timeout: Duration = ATTEMPT_TIMEOUT  # for all servers that are tried together; each reply has less (RFC 5321 §4.5.3.2)
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _dice: Random = field(init=False, repr=False, factory=SystemRandom)
    _connections: Connections = kept_connections()

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        domain = shipment.next_hop or shipment.recipients[0].address.domain
        try:
            hops = await self._next_hops(domain, shipment.envelope.requiretls)
        except _NoWay as problem:
            return {recipient.address: problem.outcome for recipient in shipment.recipients}
        except LookupFailed as problem:
            outcome = later(Reply(451, "4.4.3", f"the DNS has no answer for {domain} now: {problem}"), unreachable=True)
            return {recipient.address: outcome for recipient in shipment.recipients}
        return await self._connections.deliver(shipment, hops)

    async def ask(self, recipient: Address, next_hop: str = "") -> Outcome:
        domain = next_hop or recipient.domain
        try:
            hops = await self._next_hops(domain, requiretls=False)
        except _NoWay as problem:
            # That we are the domain's best server ourselves says nothing about its mailboxes.
            reply = problem.outcome.reply
            return later(Reply(451, "4.4.6", reply.text)) if reply.enhanced == "5.4.6" else problem.outcome
        except LookupFailed as problem:
            return later(Reply(451, "4.4.3", f"the DNS has no answer for {domain} now: {problem}"), unreachable=True)
        return await self._connections.ask(recipient, hops)

    def close(self) -> None:
        """Close the kept connections; those in use follow when their message is over."""
        self._connections.close()

    async def _next_hops(self, domain: str, requiretls: bool) -> list[NextHop]:
        literal = Address("", domain).ip_literal
        if literal is not None:
            return [NextHop(dialled(str(literal), self.port), str(literal))]
        if not domain:
            raise _NoWay(never(Reply(550, "5.1.2", "the address has no domain")))
        answer = await self.resolver.lookup(domain, "MX")
        if not answer.name_exists:
            raise _NoWay(never(Reply(550, "5.1.2", f"the domain {domain} does not exist")))
        records = [(preference, host.rstrip(".").lower()) for preference, host in answer.records]
        if [host for _, host in records] == [""]:
            raise _NoWay(never(Reply(556, "5.1.10", f"the domain {domain} takes no mail")))  # null MX: RFC 7505 §4
        if records and requiretls:
            # RFC 8689 §4.2.1: the names must be vouched for, and we cannot yet know that DNSSEC or MTA-STS does it.
            raise _NoWay(never(Reply(550, "5.7.30", "the sender requires TLS on the whole way, and the MX records are not authenticated")))
        # RFC 5321 §5.1: without MX records the domain itself is its mail server.
        hosts = by_preference(records or [(0, domain)], self.identity.hostname.lower(), self._dice)
        if not hosts:
            raise _NoWay(never(Reply(554, "5.4.6", f"mail for {domain} loops back to {self.identity.hostname}")))
        hops: list[NextHop] = []
        failed: LookupFailed | None = None
        for host in hosts:
            try:
                addresses = await addresses_of(self.resolver, host)
            except LookupFailed as problem:
                failed = problem
                continue
            hops += [NextHop(dialled(ip, self.port), host, f"{host} ({ip})") for ip in addresses]
            if len(hops) >= self.max_addresses:
                break
        if hops:
            return hops[: self.max_addresses]
        if failed:
            raise failed
        what = f"none of the mail servers of {domain} has an address" if records else f"{domain} has neither mail servers nor an address"
        raise _NoWay(never(Reply(550, "5.4.4", what)))


def by_preference(records: Iterable[tuple[int, str]], ourselves: str, dice: Random) -> list[str]:
    """Hosts in the order in which to try them: RFC 5321 §5.1.

    Equals in random order. If we are among them, we and all that are not better than us are left out, lest mail run in
    circles; so an empty list means that we are the best.
    """
    servers = [(preference, dice.random(), host) for preference, host in records if host]
    ours = min((preference for preference, _, host in servers if host == ourselves), default=None)
    hosts = [host for preference, _, host in sorted(servers) if ours is None or preference < ours]
    return list(dict.fromkeys(hosts))
