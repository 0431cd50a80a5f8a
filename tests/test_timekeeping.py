"""The clock of the machine is set, and no timer minds."""

import pytest
from twisted.internet.selectreactor import SelectReactor

from mailgw.timekeeping import Timekeeper

NOON = 1_767_600_000.0


class Machine:
    """A reactor in its hands, a clock that somebody sets, and the time that has really passed."""

    def __init__(self):
        self.passed, self.set_by, self.steps, self.rung = 0.0, 0.0, [], []
        self.reactor = SelectReactor()
        self.keeper = Timekeeper(self.reactor, self.steps.append, lambda: NOON + self.passed + self.set_by, lambda: self.passed)
        self.keeper.start()

    def ring_after(self, seconds):
        return self.reactor.callLater(seconds, lambda: self.rung.append((seconds, self.passed)))

    def wait(self, seconds):
        end = self.passed + seconds
        while self.passed < end:
            self.passed += 0.25
            self.reactor.runUntilCurrent()


@pytest.fixture
def machine():
    machine = Machine()
    yield machine
    machine.keeper.stop()
    machine.reactor.disconnectAll()
    for reader in machine.reactor.removeAll():
        reader.connectionLost(None)


@pytest.mark.parametrize("by", [36000.0, -36000.0, 1.5, -1.5, 0.5, -0.5, 0.0], ids=lambda by: f"{by:+g} s")
def test_timers_keep_their_pace(machine, by):
    for seconds in (0.5, 30, 5, 20, 10, 25):
        machine.ring_after(seconds)
    machine.wait(7)
    machine.set_by = by
    machine.ring_after(4)
    machine.wait(40)
    assert [seconds for seconds, _ in machine.rung] == [0.5, 5, 10, 4, 20, 25, 30]
    due = {0.5: 0.5, 5: 5, 10: 10, 4: 11, 20: 20, 25: 25, 30: 30}
    assert all(abs(rung - due[seconds]) <= 1.0 for seconds, rung in machine.rung)
    assert machine.steps == ([pytest.approx(by)] if abs(by) >= 1 else [])
    assert machine.reactor.seconds() == pytest.approx(NOON + machine.passed + by)


def test_timers_that_were_moved_or_cancelled_stay_so(machine):
    late, gone = machine.ring_after(5), machine.ring_after(6)
    late.delay(10)
    gone.cancel()
    machine.set_by = -7200.0
    machine.wait(3)
    late.reset(20)
    machine.wait(30)
    assert machine.rung == [(5, pytest.approx(23, abs=0.5))]


def test_it_leaves_the_reactor_as_it_was(machine):
    assert machine.reactor.seconds() == NOON
    machine.keeper.stop()
    assert machine.reactor.seconds() > NOON
    assert machine.reactor.getDelayedCalls() == []
