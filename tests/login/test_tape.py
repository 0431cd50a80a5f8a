"""How long accounts are waited for, while the client's time does not count."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import capturedLogs

from mailgw.login.tape import Patience


def raises(_):
    raise KeyError("hunter2")


CANCELLERS = {"heeds": None, "raises": raises}


def watched(canceller=None):
    clock = Clock()
    patience = Patience(clock, 5.0)
    promise, seen = Deferred(canceller), []
    waiting = patience.watch(promise)
    waiting.addBoth(lambda result: seen.append(getattr(result, "type", result)))
    return clock, patience, promise, waiting, seen


@pytest.mark.parametrize("canceller", CANCELLERS.values(), ids=CANCELLERS)
def test_the_time_is_over(canceller):
    clock, patience, _, _, seen = watched(canceller)
    clock.advance(4.9)
    assert (seen, patience.ran_out) == ([], False)
    with capturedLogs() as captured:
        clock.advance(0.2)
    assert (seen, patience.ran_out) == ([CancelledError], True)
    assert captured == []  # what a canceller says may be the password
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("canceller", CANCELLERS.values(), ids=CANCELLERS)
def test_who_waits_may_give_up_himself(canceller):
    _, patience, _, waiting, seen = watched(canceller)
    waiting.cancel()
    assert (seen, patience.ran_out) == ([CancelledError], False)


def test_what_comes_in_time_comes_through_and_the_clients_time_does_not_count():
    clock, patience, promise, _, seen = watched()
    clock.advance(4)
    patience.pause()
    clock.advance(1000)
    patience.go_on()
    clock.advance(4)
    promise.callback("anna")
    assert (seen, patience.ran_out) == (["anna"], False)
    patience.pause()
    assert clock.getDelayedCalls() == []


def test_what_comes_late_is_forgotten():
    clock, patience, promise, _, seen = watched(raises)
    clock.advance(5)
    promise.errback(KeyError("hunter2"))
    assert (seen, patience.ran_out) == ([CancelledError], True)
