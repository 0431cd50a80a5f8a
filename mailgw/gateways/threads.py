"""Work that may wait for a disk, done where it holds nobody up."""

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.python.failure import Failure

__all__ = ["in_thread"]

T = TypeVar("T")


def in_thread(threads: IReactorThreads, work: Callable[[], T]) -> Deferred[T]:
    """Call ``work`` in a thread; its result, or what it raises, arrives in the reactor's."""
    result: Deferred[T] = Deferred()

    def call() -> None:
        try:
            value = work()
        except Exception:
            threads.callFromThread(result.errback, Failure())  # type: ignore[no-untyped-call]
        else:
            threads.callFromThread(result.callback, value)

    threads.callInThread(call)
    return result
