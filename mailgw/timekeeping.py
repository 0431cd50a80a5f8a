"""A reactor whose timers run at their pace whatever is done to the clock of the machine.

Twisted's timers wait for a time of day. Where the clock is set back by an hour, all of them, down to those of a few milliseconds,
would be an hour late; where it is set forward, all would be over at once.
"""

from collections.abc import Callable
from time import monotonic, time
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall

__all__ = ["Timekeeper"]

_LOOK_EVERY = 1.0  # seconds
_LEAST = 1.0  # seconds of difference that count as a clock that was set; less is followed without a word


@define
class Timekeeper:
    """From `start` to `stop`, ``reactor.seconds()`` is POSIX time that passes evenly; it follows a clock that was set in one step.

    That step leaves every timer its time. ``tell`` is called with it, in seconds, after it was made: whoever keeps times by
    ``seconds()`` has to move them. ``wall`` is the machine's POSIX time, ``steady`` one that nobody sets.
    """

    reactor: Any
    tell: Callable[[float], object]
    wall: Callable[[], float] = time
    steady: Callable[[], float] = monotonic
    _difference: float = field(default=0.0, init=False)
    _timer: IDelayedCall | None = field(default=None, init=False)

    def start(self) -> None:
        """Begin."""
        self._difference = self.wall() - self.steady()
        self.reactor.seconds = self.seconds
        self._timer = self.reactor.callLater(_LOOK_EVERY, self._look)

    def stop(self) -> None:
        """Leave the reactor as it was."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            del self.reactor.seconds

    def seconds(self) -> float:
        """POSIX time."""
        return self.steady() + self._difference

    def _look(self) -> None:
        self._timer = self.reactor.callLater(_LOOK_EVERY, self._look)
        by = self.wall() - self.seconds()
        if abs(by) < _LEAST:
            self._difference += by
        else:
            # Not among the timers: the reactor compares all that are due in this turn with the time at which it began.
            self.reactor.callFromThread(self._step, by)

    def _step(self, by: float) -> None:
        if self._timer is None:
            return
        self._difference += by
        for call in self.reactor.getDelayedCalls():
            call.delay(by)
        self.tell(by)
