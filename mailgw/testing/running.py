"""Run what a plugin gives back, without a reactor."""

from collections.abc import Awaitable, Coroutine
from typing import Any, TypeVar, overload

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

__all__ = ["run"]

T = TypeVar("T")


@overload
def run(awaitable: Awaitable[T]) -> T: ...


@overload
def run(awaitable: T) -> T: ...


def run(awaitable: Any) -> Any:
    """Drive a coroutine or a Deferred that needs no reactor, and give its result.

    What a plain method gave is given back as it is, so a test need not know whether a plugin's method is ``async``. Raises
    what the awaitable raises, and AssertionError where it has not finished: it waits for something that only a reactor, or
    a clock that the test did not advance, can bring.
    """
    if not isinstance(awaitable, Awaitable):
        return awaitable
    outcome: list[Any] = []
    deferred: Deferred[Any]
    if isinstance(awaitable, Deferred):
        deferred = awaitable
    elif isinstance(awaitable, Coroutine):
        deferred = Deferred.fromCoroutine(awaitable)
    else:
        deferred = Deferred.fromCoroutine(_wait(awaitable))
    deferred.addBoth(outcome.append)
    if not outcome:
        waiting = f"{awaitable!r} has not finished: it waits for something that needs a reactor or a clock that moves"
        deferred.cancel()  # lets its ``finally`` clauses run now, not when the garbage is collected
        raise AssertionError(waiting)
    result = outcome[0]
    if isinstance(result, Failure):
        result.raiseException()
    return result


async def _wait(awaitable: Awaitable[T]) -> T:
    return await awaitable
