"""Whether an answer to the sender could be delivered at all."""

from collections.abc import Awaitable, Sequence
from ipaddress import IPv4Address, IPv6Address

from attrs import frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IResolver, ISenderPolicy, LookupFailed
from mailgw.policies.action import Action, act
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import SenderFacts

__all__ = ["SenderDomain"]


@implementer(ISenderPolicy)
@frozen
class SenderDomain:
    """``type = "sender-domain"``: the domain of MAIL FROM must be able to take an answer. The null reverse-path needs none.

    Each fault has its action: reject, defer, quarantine, discard, tag (with ``tag``), pass.
    """

    unknown: Action = "reject"  # no such domain, or one without MX and address records
    null_mx: Action = "reject"  # it says that it takes no mail (RFC 7505)
    unreachable: Action = "reject"  # all its mail servers have addresses that nobody can reach: private, loopback, ...
    literal: Action = "reject"  # an address literal in place of a domain
    tag: str = "odd-sender"
    resolver: IResolver = given(IResolver)

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        domain = facts.sender.domain
        if not domain:
            return _FINE
        if domain.startswith("["):
            said = (Evidence("sender", str(facts.sender), "the client's MAIL command"),)
            return act(
                self.literal, "sender has an address literal", status="1.8", tag=self.tag, evidence=said, remedy="a sender with a domain"
            )
        return self._ask(domain)

    async def _ask(self, domain: str) -> Decision:
        found = await self.resolver.lookup(domain, "MX")
        if found.records:
            hosts = [host for _, host in sorted(found.records)]
            if hosts in ([""], ["."]):
                null = (Evidence("MX", "null MX (RFC 7505)", f"MX {domain}"),)
                # RFC 7505 §4.2 has the status for it.
                text = f"{domain} takes no mail, so an answer would be lost"
                return act(self.null_mx, text, status="7.27", tag=self.tag, evidence=null, remedy="an MX record that names a mail server")
        elif not found.name_exists:
            return self._unknown(domain, "no such domain")
        else:
            hosts = [domain]  # RFC 5321 §5.1: the implicit MX
        if self.unreachable == self.unknown == "pass" and found.records:
            return _FINE
        addresses = await self._addresses(hosts)
        if not addresses:
            return self._unknown(domain, "no mail server with an address")
        if self.unreachable == "pass" or any(ip.is_global for ip in addresses):
            return _FINE
        said = (
            Evidence("mail servers", ", ".join(hosts[:10]), f"MX {domain}"),
            Evidence("addresses", ", ".join(map(str, addresses[:10])), "A, AAAA"),
        )
        text = f"mail servers of {domain} cannot be reached from here"
        return act(self.unreachable, text, status="1.8", tag=self.tag, evidence=said, remedy="a mail server with a public address")

    async def _addresses(self, hosts: Sequence[str]) -> list[IPv4Address | IPv6Address]:
        """Of the first hosts, until one of them can be reached. Raises LookupFailed where none can, and one is not known."""
        found: list[IPv4Address | IPv6Address] = []
        trouble: LookupFailed | None = None
        for host in hosts[:_MOST_HOSTS]:
            for kind in ("A", "AAAA"):
                try:
                    found += (await self.resolver.lookup(host, kind)).records
                except LookupFailed as problem:  # another server may take the answer all the same
                    trouble = trouble or problem
                if any(ip.is_global for ip in found):
                    return found
        if trouble is not None:
            raise trouble
        return found

    def _unknown(self, domain: str, what: str) -> Decision:
        said = (Evidence("sender's domain", what, f"MX, A, AAAA {domain}"),)
        text = f"sender's domain {domain} cannot take an answer"
        return act(self.unknown, text, status="1.8", tag=self.tag, evidence=said, remedy="a domain with MX or address records")


_FINE = proceed()
_MOST_HOSTS = 10
