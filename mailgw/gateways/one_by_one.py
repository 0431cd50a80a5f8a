"""Serving the recipients of a shipment one after the other, as far as the time for an attempt goes."""

from collections.abc import Awaitable, Callable, Iterable

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IReactorTime

from mailgw.patience import CutOff
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Recipient, later
from mailgw.values.reply import Reply

__all__ = ["one_by_one"]

_LONGEST = 3300.0  # seconds: below the dispatcher's own limit, where it would be forgotten who has got the message
_NO_TIME_LEFT = later(Reply(451, "4.4.7", "the recipients before took all the time of this attempt"))


async def one_by_one(
    groups: Iterable[tuple[Recipient, ...]],
    serve: Callable[[tuple[Recipient, ...]], Awaitable[Outcome]],
    clock: IReactorTime,
    seconds: float,
) -> dict[Address, Outcome]:
    """``serve`` each group, and give its outcome for all in it.

    Where less than ``seconds``, which one may take, are left of an attempt, the rest is "later"; the first is always served.
    Raises CutOff, with the outcomes so far, when it is cancelled.
    """
    began = clock.seconds()
    outcomes: dict[Address, Outcome] = {}
    for group in groups:
        has_time = not outcomes or clock.seconds() - began + seconds <= _LONGEST
        try:
            outcome = await serve(group) if has_time else _NO_TIME_LEFT
        except CancelledError:
            raise CutOff(outcomes) from None
        outcomes.update((recipient.address, outcome) for recipient in group)
    return outcomes
