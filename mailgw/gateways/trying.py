"""Trying one gateway after the other, those that were down not before those that were not."""

from collections.abc import Iterable, Sequence

from attrs import define, field
from twisted.internet.interfaces import IReactorTime

from mailgw.gateways.members import Member, is_down
from mailgw.patience import CutOff
from mailgw.values.address import Address
from mailgw.values.delivery import Fate, Outcome, Shipment

__all__ = ["Trying"]

_MOST_KEPT = 10_000  # next hops that are known to be down


@define(eq=False)
class Trying:
    """Hands shipments to the first member that can be reached, and remembers for ``rest`` seconds which ones could not."""

    clock: IReactorTime
    rest: float
    on_any_deferral: bool = False  # whether the next one is tried after every "later", not only where the first is down
    _down: dict[tuple[str, str], float] = field(factory=dict, init=False)  # until when, in seconds of the clock

    def awake(self, members: Iterable[Member], shipment: Shipment) -> list[Member]:
        """Those that are not known to be down."""
        now = self.clock.seconds()
        return [member for member in members if self._down.get(_hop(member, shipment), 0.0) <= now]

    async def deliver(self, members: Sequence[Member], shipment: Shipment) -> dict[Address, Outcome]:
        """Try the members in this order, but those that are known to be down last, with what the ones before could not deliver.

        An "unknown" is never given to another one: it may have been delivered. Raises CutOff when it is cancelled.
        """
        awake = self.awake(members, shipment)
        outcomes: dict[Address, Outcome] = {}
        left = shipment.recipients
        for member in [*awake, *(one for one in members if one not in awake)]:
            try:
                answers = await member.deliver(shipment, left)
            except CutOff as end:
                raise CutOff({**outcomes, **end.outcomes}) from None
            self._remember(_hop(member, shipment), all(map(is_down, answers.values())))
            for address, outcome in answers.items():
                # What a living one said counts for more: the destination as a whole is down only where all are.
                if not is_down(outcome) or is_down(outcomes.get(address, outcome)):
                    outcomes[address] = outcome
            left = tuple(one for one in left if self._goes_on(answers[one.address]))
            if not left:
                break
        return outcomes

    def _goes_on(self, outcome: Outcome) -> bool:
        return outcome.fate is Fate.LATER and (outcome.unreachable or self.on_any_deferral)

    def _remember(self, hop: tuple[str, str], down: bool) -> None:
        self._down.pop(hop, None)
        if down:
            self._down[hop] = self.clock.seconds() + self.rest
            if len(self._down) > _MOST_KEPT:
                del self._down[next(iter(self._down))]


def _hop(member: Member, shipment: Shipment) -> tuple[str, str]:
    return member.name, shipment.next_hop if member.wants_next_hop else ""
