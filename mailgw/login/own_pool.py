"""A few threads of one's own, for work that holds them for a while: others' work does not wait for it, nor it for theirs."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.python.failure import Failure

from mailgw.credentials import AccountsUnavailable

__all__ = ["OwnPool"]

_NICENESS = 5  # of the threads: when the machine is busy, the reactor's thread goes first

T = TypeVar("T")


@define(eq=False)
class OwnPool:
    """Does what it is given in order, so many at once; the threads are started when there is something to do."""

    reactor: IReactorFromThreads
    name: str
    at_once: int
    waiting: int  # so many more may wait for their turn
    _busy: int = field(default=0, init=False)
    _threads: ThreadPoolExecutor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._threads = ThreadPoolExecutor(self.at_once, self.name, _be_nice)

    def call(self, work: Callable[[], T]) -> Deferred[T]:
        """Call ``work`` in a thread; its result, or what it raises, arrives in the reactor's, from where this must be called.

        Whoever cancels leaves the queue. Raises AccountsUnavailable where too many are waiting already, and after `close`.
        """
        if self._busy >= self.at_once + self.waiting:
            raise AccountsUnavailable(f"more than {self.waiting} are waiting for {self.name}")
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            raise AccountsUnavailable(f"{self.name} is closed") from None
        self._busy += 1
        result: Deferred[T] = Deferred(partial(_leave, future))
        future.add_done_callback(lambda future: self._tell(result, future))
        return result

    def _tell(self, result: Deferred[T], future: "Future[T]") -> None:
        self.reactor.callFromThread(self._over, result, future)

    def _over(self, result: Deferred[Any], future: "Future[Any]") -> None:
        self._busy -= 1
        if result.called:
            return  # nobody waits for it any more
        if future.cancelled():
            result.errback(AccountsUnavailable(f"{self.name} is closed"))
            return
        problem = future.exception()
        if problem is None:
            result.callback(future.result())
        else:
            result.errback(Failure(problem))  # type: ignore[no-untyped-call]

    def close(self) -> None:
        """Begin nothing more; what is waiting gets AccountsUnavailable."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _leave(future: "Future[Any]", _: object) -> None:
    future.cancel()


def _be_nice() -> None:
    with suppress(AttributeError, OSError):  # on Linux, the priority is that of one thread
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
