"""How long we wait for what somebody else has promised, whatever becomes of it."""

from collections.abc import Mapping
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgw.values.address import Address
from mailgw.values.delivery import Outcome

__all__ = ["CutOff", "within"]

T = TypeVar("T")

_log = Logger(namespace="mailgw.patience")


class CutOff(CancelledError):
    """A delivery was cancelled on its way; ``outcomes``: what had become of some of its recipients by then."""

    def __init__(self, outcomes: Mapping[Address, Outcome]) -> None:
        super().__init__(f"cancelled, with {len(outcomes)} outcomes")
        self.outcomes = outcomes


def within(promise: "Deferred[T]", seconds: float, clock: IReactorTime) -> "Deferred[T]":
    """What ``promise`` brings, or twisted.internet.defer.TimeoutError after so many seconds; it is cancelled then.

    `Deferred.addTimeout` would go on waiting for a coroutine that does not heed that: ``except Exception`` around an ``await``
    catches CancelledError, too; nor would it wake up where a canceller raises. What such a one brings later is forgotten.
    """
    timer: IDelayedCall | None = None

    def end() -> None:
        try:
            promise.cancel()
        except Exception:
            _log.failure("what nobody waits for any more could not be cancelled")

    def give_up() -> None:
        end()
        if not result.called:
            result.errback(TimeoutError(seconds, "Deferred"))

    def arrive(outcome: Any) -> None:
        if timer is not None and timer.active():
            timer.cancel()
        elif timer is not None and isinstance(outcome, Failure) and outcome.check(CancelledError):  # type: ignore[no-untyped-call]
            return
        if not result.called:
            result.callback(outcome)

    def cancel(_: "Deferred[T]") -> None:
        if timer is not None and timer.active():
            timer.cancel()
        end()

    result: Deferred[T] = Deferred(cancel)
    promise.addBoth(arrive)
    if not result.called:
        timer = clock.callLater(seconds, give_up)
    return result
