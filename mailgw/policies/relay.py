"""[[permit]]: who may have mail relayed to whom. Nothing else is relayed."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from attrs import field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRelayPolicy
from mailgw.policies.who import unmapped
from mailgw.values.address import parse_domain
from mailgw.values.decision import Decision, permit, proceed
from mailgw.values.facts import RecipientFacts

__all__ = ["Permit"]


def _domains(given: Iterable[str] | str) -> frozenset[str]:
    """Bring domains into their one spelling; a leading dot stays. Raises BadAddress."""
    texts = [given] if isinstance(given, str) else given
    return frozenset(f".{parse_domain(text[1:])}" if text.startswith(".") else parse_domain(text) for text in texts)


def _networks(given: Iterable[IPv4Network | IPv6Network]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(unmapped(network) for network in given)


@implementer(IRelayPolicy)
@frozen
class Permit:
    """One rule: all conditions that are given must hold; a rule without any cannot be made (ValueError).

    It has no opinion on whatever it does not permit: other rules can add to it, none can take away.
    """

    to: frozenset[str] = field(default=frozenset(), converter=_domains)
    """The recipient's domain is one of these; ``".example.org"`` means every subdomain of it. Empty: any."""
    networks: tuple[IPv4Network | IPv6Network, ...] = field(default=(), converter=_networks)
    """The client's address is in one of these. Empty: any."""
    authenticated: bool = False
    """The client has logged in."""
    name: str = ""
    """What the journal calls this rule."""

    def __attrs_post_init__(self) -> None:
        if not (self.to or self.networks or self.authenticated):
            raise ValueError("a permit rule without a condition would make an open relay")

    def may_relay(self, facts: RecipientFacts) -> Decision:
        """Permit where all conditions hold."""
        trusted = False
        if self.authenticated:
            if not facts.client.is_authenticated:
                return proceed()
            trusted = True
        if self.networks:
            if not self._has_network(facts.client.ip):
                return proceed()
            trusted = True
        if self.to and not self._has_domain(facts.recipient.domain):
            return proceed()
        if facts.recipient.is_routed and not trusted:
            # user%elsewhere@ours, elsewhere!user@ours, "user@elsewhere"@ours: the domain is ours, but a server behind us
            # may send it on, and strangers would relay through us (RFC 5321 §3.6.1, appendix C; RFC 1123 §5.2.16).
            return proceed()
        return permit(self.name or "permit rule")

    def _has_domain(self, domain: str) -> bool:
        if domain in self.to:
            return True
        dot = domain.find(".")
        while dot >= 0:
            if domain[dot:] in self.to:
                return True
            dot = domain.find(".", dot + 1)
        return False

    def _has_network(self, ip: IPv4Address | IPv6Address) -> bool:
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        return any(ip in network for network in self.networks)
