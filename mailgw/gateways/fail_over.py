"""Deliver to the first of several gateways that can be reached."""

from collections.abc import Mapping
from typing import Literal

from attrs import Factory, field, frozen
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.gateways.members import Members, some_names
from mailgw.gateways.trying import Trying
from mailgw.given import given
from mailgw.interfaces import IGateway, IGateways
from mailgw.values.address import Address
from mailgw.values.delivery import GatewayName, Outcome, Shipment
from mailgw.values.quantities import Duration

__all__ = ["FailOver"]


@implementer(IGateway)
@frozen
class FailOver:
    """``type = "fail-over"``: ``gateways`` are tried in order until one can be reached; what that one says stands.

    ``after = "later"`` goes on to the next one after every deferral, also where the first can be reached but has no room. One that
    was down is tried last for the time of ``rest``.
    """

    gateways: list[GatewayName] = field(validator=some_names)
    after: Literal["unreachable", "later"] = "unreachable"
    rest: Duration = 60.0
    others: IGateways = given(IGateways)
    clock: IReactorTime = given(IReactorTime)
    _members: Members = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: Members(self.others, self.gateways), takes_self=True)
    )
    _trying: Trying = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: Trying(self.clock, self.rest, on_any_deferral=self.after == "later"), takes_self=True),
    )

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        return await self._trying.deliver(list(self._members), shipment)
