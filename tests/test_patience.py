"""Waiting has an end, whatever is waited for."""

from contextlib import suppress

import pytest
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed  # noqa: A004
from twisted.internet.task import Clock

from mailgw.patience import within


async def stubborn():
    while True:
        with suppress(Exception):
            await Deferred()


async def polite():
    try:
        await Deferred()
    except CancelledError:
        return "what I have"


async def hanging():
    await Deferred()


def chained():
    return succeed(None).addCallback(lambda _: Deferred())  # called, and without a result


def failing(_):
    raise KeyError("x")


def a_result(promise):
    """Everything that somebody waiting sees, in order, and the clock he waits by."""
    clock, seen = Clock(), []
    waiting = within(promise, 30, clock)
    waiting.addCallbacks(seen.append, lambda failure: seen.append(type(failure.value)))
    return waiting, clock, seen


PROMISES = {
    "a Deferred": (Deferred, TimeoutError),
    "a Deferred that waits for another": (chained, TimeoutError),
    "a Deferred that cannot be cancelled": (lambda: Deferred(failing), TimeoutError),
    "a coroutine": (lambda: Deferred.fromCoroutine(hanging()), TimeoutError),
    "a coroutine that has an answer when it is cancelled": (lambda: Deferred.fromCoroutine(polite()), "what I have"),
    "a coroutine that goes on when it is cancelled": (lambda: Deferred.fromCoroutine(stubborn()), TimeoutError),
}


@pytest.mark.parametrize(("make", "seen"), PROMISES.values(), ids=PROMISES)
def test_waiting_has_an_end(make, seen):
    _, clock, heard = a_result(make())
    clock.advance(29)
    assert heard == []
    clock.advance(1)
    assert heard == [seen]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(("make", "_"), PROMISES.values(), ids=PROMISES)
def test_who_waits_may_give_up_himself(make, _):
    waiting, clock, heard = a_result(make())
    waiting.cancel()
    assert len(heard) == 1
    assert heard[0] in (CancelledError, "what I have")
    clock.advance(100)
    assert len(heard) == 1
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(
    ("promise", "seen"),
    [(succeed(5), 5), (fail(KeyError("x")), KeyError), (fail(CancelledError()), CancelledError)],
    ids=["a value", "a failure", "cancelled by somebody else"],
)
def test_what_is_there_is_there(promise, seen):
    _, clock, heard = a_result(promise)
    assert heard == [seen]
    assert clock.getDelayedCalls() == []


FIRE = [(lambda promise: promise.callback(5), 5), (lambda promise: promise.errback(KeyError("x")), KeyError)]


@pytest.mark.parametrize(("fire", "seen"), FIRE, ids=["a value", "a failure"])
def test_what_comes_in_time_comes_through(fire, seen):
    promise = Deferred()
    _, clock, heard = a_result(promise)
    fire(promise)
    assert heard == [seen]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize(("fire", "seen"), FIRE, ids=["a value", "a failure"])
def test_what_comes_late_is_forgotten(fire, seen):
    last = Deferred()

    async def late():
        try:
            await Deferred()
        except CancelledError:
            return await last

    _, clock, heard = a_result(Deferred.fromCoroutine(late()))
    clock.advance(30)
    fire(last)
    assert heard == [TimeoutError]
