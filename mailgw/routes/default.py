"""The last route: it takes everything."""

from attrs import frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["Default"]


@implementer(IRoute)
@frozen
class Default:
    """Every recipient: what the configuration calls ``otherwise``."""

    gateway: str
    next_hop: str = ""

    def route(self, facts: RecipientFacts) -> Route:  # noqa: ARG002
        return Route(self.gateway, self.next_hop, "otherwise")
