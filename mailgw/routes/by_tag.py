"""A route by the tags that policies put on the message."""

from attrs import field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["ByTag"]


@implementer(IRoute)
@frozen
class ByTag:
    """Mail that carries at least one of these tags."""

    tags: frozenset[str] = field(converter=frozenset)
    gateway: str
    next_hop: str = ""

    def route(self, facts: RecipientFacts) -> Route | None:
        found = self.tags & facts.tags
        return Route(self.gateway, self.next_hop, f"tag {min(found)}") if found else None
