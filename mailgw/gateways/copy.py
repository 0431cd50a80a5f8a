"""Deliver to several gateways: each recipient's mail goes to every one of them."""

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import Factory, evolve, field, frozen
from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from mailgw.gateways.members import Member, Members, is_down, some_names
from mailgw.given import given
from mailgw.interfaces import IGateway, IGateways
from mailgw.patience import CutOff
from mailgw.values.address import Address
from mailgw.values.delivery import Fate, GatewayName, Outcome, Recipient, Shipment

__all__ = ["Copy"]

_MOST_KEPT = 100_000  # outcomes that are remembered, some 20 MB
_Key: TypeAlias = tuple[int, float, Address, str]


@implementer(IGateway)
@frozen
class Copy:
    """``type = "copy"``: every recipient's mail goes to all of ``gateways``, and counts as delivered when all have taken it.

    Where one is "later", the recipient is tried again, but only with those gateways that have not decided yet; that is remembered
    in memory, so after a restart a copy may come twice. When all have decided and one has refused, the recipient has failed.
    """

    gateways: list[GatewayName] = field(validator=some_names)  # the first one's answer is told to the sender
    others: IGateways = given(IGateways)
    _members: Members = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: Members(self.others, self.gateways), takes_self=True)
    )
    _decided: OrderedDict[_Key, Outcome] = field(init=False, repr=False, eq=False, factory=OrderedDict)

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        attempts = [Deferred.fromCoroutine(self._deliver(member, shipment)) for member in self._members]
        answers: list[Mapping[Address, Outcome]] = []
        is_cut_off = False
        results: Iterable[tuple[bool, Any]] = await DeferredList(attempts, consumeErrors=True)
        for succeeded, result in results:  # when this is cancelled, too, all have their say
            if not succeeded:
                result.trap(CutOff)
                is_cut_off = True
            answers.append(result if succeeded else result.value.outcomes)
        decided = [r.address for r in shipment.recipients if all(r.address in answer for answer in answers)]
        outcomes = {address: _together([answer[address] for answer in answers]) for address in decided}
        for address, outcome in outcomes.items():
            if outcome.fate in (Fate.DELIVERED, Fate.NEVER):
                for member in self._members:
                    self._decided.pop(_key(shipment, address, member), None)
        if is_cut_off:
            raise CutOff(outcomes)
        return outcomes

    async def _deliver(self, member: Member, shipment: Shipment) -> dict[Address, Outcome]:
        """What the member says now, or has said before. Raises CutOff."""
        outcomes: dict[Address, Outcome] = {}
        left: list[Recipient] = []
        for recipient in shipment.recipients:
            said = self._decided.get(_key(shipment, recipient.address, member))
            if said is None:
                left.append(recipient)
            else:
                outcomes[recipient.address] = said
        if not left:
            return outcomes
        is_cut_off = False
        answers: Mapping[Address, Outcome]
        try:
            answers = await member.deliver(shipment, tuple(left))
        except CutOff as end:
            is_cut_off, answers = True, end.outcomes
        # At once, not when the others have answered too: the attempt may be cancelled before.
        for address, outcome in answers.items():
            if outcome.fate in (Fate.DELIVERED, Fate.NEVER):
                self._decided[_key(shipment, address, member)] = outcome
        while len(self._decided) > _MOST_KEPT:
            self._decided.popitem(last=False)
        outcomes.update(answers)
        if is_cut_off:
            raise CutOff(outcomes)
        return outcomes


def _key(shipment: Shipment, address: Address, member: Member) -> _Key:
    return shipment.message, shipment.envelope.arrived, address, member.name


def _together(answers: Sequence[Outcome]) -> Outcome:
    """One outcome for a recipient of several, in the order of the members: what is open first, then what has failed."""
    waiting = [one for one in answers if one.fate in (Fate.LATER, Fate.UNKNOWN)]
    if waiting:
        wishes = [one.retry_after for one in waiting if one.retry_after is not None]
        # One member that is down must not keep other messages from those that are not.
        return evolve(waiting[0], unreachable=all(map(is_down, answers)), retry_after=max(wishes, default=None))
    return next((one for one in answers if one.fate is Fate.NEVER), answers[0])
