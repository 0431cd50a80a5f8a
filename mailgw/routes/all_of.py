"""Several conditions in one route."""

from inspect import isawaitable

from attrs import field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["AllOf"]


@implementer(IRoute)
@frozen
class AllOf:
    """Recipients that every one of these routes takes; they go where the first one says."""

    routes: tuple[IRoute, ...] = field(converter=tuple)

    def __attrs_post_init__(self) -> None:
        if not self.routes:
            raise ValueError("a route needs at least one condition")

    async def route(self, facts: RecipientFacts) -> Route | None:
        answers = []
        for route in self.routes:
            answer = route.route(facts)
            if isawaitable(answer):
                answer = await answer
            if answer is None:
                return None
            answers.append(answer)
        first: Route = answers[0]
        return Route(first.gateway, first.next_hop, " and ".join(answer.because for answer in answers))
