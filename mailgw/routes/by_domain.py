"""A route by the recipient: its domain, a parent domain, or the whole address."""

from attrs import field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.routes.patterns import Patterns
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["ByDomain"]


@implementer(IRoute)
@frozen
class ByDomain:
    """Recipients in these domains: ``example.org`` exactly, ``.example.org`` for all subdomains, ``user@example.org`` alone."""

    domains: frozenset[str] = field(converter=frozenset)
    gateway: str
    next_hop: str = ""
    _patterns: Patterns = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_patterns", Patterns.of(self.domains))

    def route(self, facts: RecipientFacts) -> Route | None:
        pattern = self._patterns.match(facts.recipient)
        return Route(self.gateway, self.next_hop, f"to {pattern}") if pattern else None
