"""Spread mail over several gateways that are as good as each other."""

from collections.abc import Mapping

from attrs import Factory, field, frozen
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.gateways.members import Member, Members, some_names
from mailgw.gateways.trying import Trying
from mailgw.given import given
from mailgw.interfaces import IGateway, IGateways
from mailgw.values.address import Address
from mailgw.values.delivery import GatewayName, Outcome, Shipment
from mailgw.values.quantities import Duration

__all__ = ["Balance"]


@implementer(IGateway)
@frozen
class Balance:
    """``type = "balance"``: each message goes to one of ``gateways``, in turn; to another one where that cannot be reached.

    ``weights = [3, 1]`` gives the first three times as much. One that was down gets no turn for the time of ``rest``.
    """

    gateways: list[GatewayName] = field(validator=some_names)
    weights: list[int] = field(factory=list)  # one for each gateway; empty: all the same
    rest: Duration = 60.0
    others: IGateways = given(IGateways)
    clock: IReactorTime = given(IReactorTime)
    _members: Members = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: Members(self.others, self.gateways), takes_self=True)
    )
    _trying: Trying = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: Trying(self.clock, self.rest), takes_self=True)
    )
    _credit: dict[str, int] = field(init=False, repr=False, eq=False, factory=dict)  # who has waited how long for a turn

    def __attrs_post_init__(self) -> None:
        if self.weights and (len(self.weights) != len(self.gateways) or min(self.weights) < 1):
            raise ValueError("weights needs one whole number for each of gateways, 1 at least")

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        return await self._trying.deliver(self._in_turn(shipment), shipment)

    def _in_turn(self, shipment: Shipment) -> list[Member]:
        """All members, the one whose turn it is first: each gains its weight, and the first pays for all.

        So the turns of a heavy one are spread among those of the others.
        """
        members = list(self._members)
        weights = dict(zip(self.gateways, self.weights or [1] * len(members), strict=True))
        awake = self._trying.awake(members, shipment) or members
        for member in awake:
            self._credit[member.name] = self._credit.get(member.name, 0) + weights[member.name]
        order = sorted(members, key=lambda member: (member not in awake, -self._credit.get(member.name, 0)))
        self._credit[order[0].name] -= sum(weights[member.name] for member in awake)
        return order
