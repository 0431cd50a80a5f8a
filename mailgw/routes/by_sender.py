"""A route by the reverse-path."""

from attrs import field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.routes.patterns import Patterns
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["BySender"]


@implementer(IRoute)
@frozen
class BySender:
    """Mail from these senders, written as in `ByDomain`; ``<>`` is the null reverse-path."""

    senders: frozenset[str] = field(converter=frozenset)
    gateway: str
    next_hop: str = ""
    _patterns: Patterns = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_patterns", Patterns.of(self.senders))

    def route(self, facts: RecipientFacts) -> Route | None:
        pattern = self._patterns.match(facts.sender)
        return Route(self.gateway, self.next_hop, f"from {pattern}") if pattern else None
