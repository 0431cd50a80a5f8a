import pytest
from attrs import define, field
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.journal import Connected, Fault, Journal

EVENT = Connected("k7", "mx", "192.0.2.1:40000")


@implementer(IObserver)
@define
class Keeps:
    events: list = field(factory=list)

    def note(self, event):
        self.events.append(event)


@implementer(IObserver)
@define
class Raises:
    problem: BaseException = field(factory=lambda: RuntimeError("broken"))

    def note(self, event):
        raise self.problem


def test_all_observers_are_told():
    first, second = Keeps(), Keeps()
    Journal((first, second)).note(EVENT)
    assert first.events == second.events == [EVENT]


def test_a_journal_without_observers():
    Journal().note(EVENT)


@pytest.mark.parametrize("problem", [RuntimeError("broken"), SystemExit(3)], ids=repr)
def test_what_an_observer_raises_is_noted_once_and_keeps_nothing_from_the_others(problem):
    before, after = Keeps(), Keeps()
    journal = Journal((before, Raises(problem), after))
    journal.note(EVENT)
    journal.note(EVENT)
    fault = Fault("", "Raises", f"observer failed: {problem!r}")
    assert before.events == [EVENT, fault, EVENT]
    assert after.events == [fault, EVENT, EVENT]


def test_two_that_raise_are_noted_once_each():
    keeps = Keeps()
    journal = Journal((Raises(), Raises(), keeps))
    journal.note(EVENT)
    journal.note(EVENT)
    assert [type(event) for event in keeps.events].count(Fault) == 2
    assert keeps.events.count(EVENT) == 2
