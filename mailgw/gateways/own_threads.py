"""Threads for the work of others, which may never come back: neither the house's threads nor the end of the process wait for it."""

from collections.abc import Callable
from threading import Thread
from typing import TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.python.failure import Failure

__all__ = ["OwnThreads"]

_MOST = 50  # threads at once, those that were given up included

T = TypeVar("T")


@define(eq=False)
class OwnThreads:
    """Starts a daemon thread for each call."""

    reactor: IReactorThreads
    _running: int = field(default=0, init=False)

    @property
    def is_free(self) -> bool:
        """Whether one more call should be made: not too many have failed to come back."""
        return self._running < _MOST

    def call(self, work: Callable[[], T]) -> Deferred[T]:
        """Call ``work`` in a thread; its result, or what it raises, arrives in the reactor's, from where this must be called.

        Raises RuntimeError where no thread can be had.
        """
        result: Deferred[T] = Deferred()

        def run() -> None:
            try:
                value = work()
            except BaseException:
                self.reactor.callFromThread(self._over, result.errback, Failure())  # type: ignore[no-untyped-call]
            else:
                self.reactor.callFromThread(self._over, result.callback, value)

        self._running += 1
        try:
            Thread(target=run, daemon=True).start()
        except RuntimeError:  # the system has none left: this one will not come back, but never went away
            self._running -= 1
            raise
        return result

    def _over(self, tell: Callable[[object], None], result: object) -> None:
        self._running -= 1
        tell(result)
