"""Whose turn it is to take the next connection."""

import pytest

from mailgw.sharing import Crowd


class Workers:
    """Some workers with so many sessions; all see the same memory."""

    def __init__(self, sessions):
        self.sessions = dict(enumerate(sessions, 1))
        self.parent = Crowd.gather()
        self.crowds = {number: Crowd(self.parent.descriptor, number, lambda n=number: self.sessions[n]) for number in self.sessions}
        for crowd in self.crowds.values():
            crowd.tell()

    def who_waits(self):
        return [number for number, crowd in self.crowds.items() if crowd.is_others_turn()]


@pytest.mark.parametrize(
    ("sessions", "waiting"),
    [
        ([0], []),
        ([7], []),
        ([0, 0], []),
        ([1, 0], []),
        ([2, 0], [1]),
        ([3, 5], [2]),
        ([4, 5], []),
        ([3, 1, 1], [1]),
        ([5, 9, 9, 3], [1, 2, 3]),
        ([1000, 1100], []),
        ([1000, 1127], [2]),
    ],
)
def test_who_has_clearly_more_waits(sessions, waiting):
    assert Workers(sessions).who_waits() == waiting


def test_who_is_gone_is_not_waited_for():
    workers = Workers([5, 0])
    assert workers.who_waits() == [1]
    workers.parent.leave(2)
    assert workers.crowds[1].is_others_turn() is False


def test_who_has_not_come_yet_is_not_waited_for():
    parent = Crowd.gather()
    assert Crowd(parent.descriptor, 1, lambda: 50).is_others_turn() is False


def test_sessions_that_end_are_seen():
    workers = Workers([5, 5])
    workers.sessions[2] = 0
    workers.crowds[2].tell()
    assert workers.who_waits() == [1]
