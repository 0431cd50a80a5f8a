"""A reactor for one command: made for it, never installed, gone with it."""

import signal
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.selectreactor import SelectReactor
from twisted.python.failure import Failure

__all__ = ["run"]

T = TypeVar("T")


def run(work: Callable[[Any], Coroutine[Any, Any, T]]) -> T:
    """Call ``work`` with a reactor of its own and give what the coroutine returns.

    The reactor provides what the global one does (IReactorTime, IReactorUDP, IReactorTCP, IReactorThreads, ...). Raises what the
    coroutine raises, and KeyboardInterrupt; the coroutine is then cancelled.
    """
    reactor: Any = SelectReactor()
    outcome: list[Any] = []
    working: list[Deferred[Any]] = []

    def begin() -> None:
        working.append(Deferred.fromCoroutine(work(reactor)))
        working[0].addBoth(outcome.append).addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    with _interrupting(lambda: reactor.callFromThread(working[0].cancel)) as interrupted:
        try:
            reactor.run(installSignalHandlers=False)
        finally:
            _close(reactor)
    if interrupted:
        raise KeyboardInterrupt
    [result] = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


@contextmanager
def _interrupting(stop: Callable[[], None]) -> Iterator[list[int]]:
    """Let Ctrl-C call ``stop``: the reactor would take KeyboardInterrupt for one more error in its loop."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def on_interrupt(number: int, frame: Any) -> None:  # noqa: ARG001
        caught.append(number)
        stop()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, before)


def _close(reactor: Any) -> None:
    for reader in reactor.removeAll():
        with suppress(Exception):
            reader.connectionLost(Failure(ConnectionAbortedError()))  # type: ignore[no-untyped-call]
    # What wakes it up is its own: nobody else closes it.
    for waker in list(reactor._internalReaders):
        waker.connectionLost(None)
