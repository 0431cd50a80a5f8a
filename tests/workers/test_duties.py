"""Parts whose worker cannot be started for a while: who looks after them, and how they come back."""

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from mailgw.admin.reading import Refusal
from mailgw.testing import run
from mailgw.workers.duty import Duties


@define
class Worker:
    state: str = "ready"
    until: float = 0.0


@define
class Desk:
    """Takes what it is told, or refuses."""

    heard: list = field(factory=list)
    refuses: bool = False
    waits: list = field(factory=list)  # answers that are still to come; empty: at once

    async def perform(self, operation, arguments):
        self.heard.append((operation, arguments["part"]))
        if self.waits:
            await self.waits.pop()
        if self.refuses:
            raise Refusal("unavailable", "the folder cannot be used")
        return {}


@define
class House:
    number: int = 3
    also: list = field(factory=list)
    clock: Clock = field(factory=Clock)
    workers: dict = field(init=False)
    desks: dict = field(init=False)
    duties: Duties = field(init=False)

    def __attrs_post_init__(self):
        self.workers = {number: Worker() for number in range(1, self.number + 1)}
        self.desks = {number: Desk() for number in self.workers}
        self.duties = Duties(self.workers, self.desks, self.clock, [*self.workers, *self.also], is_on=True)

    def dies(self, number, seconds):
        self.workers[number] = Worker("waiting", self.clock.seconds() + seconds)
        self.duties.workers = self.workers
        self.duties.leave(number)
        self.duties.balance()

    def heard(self):
        return {number: desk.heard for number, desk in self.desks.items() if desk.heard}


def test_all_is_well():
    house = House()
    house.duties.balance()
    assert house.heard() == {}
    assert house.duties.unattended() == []
    assert [house.duties.who_has(part) for part in (1, 2, 3, 4)] == [1, 2, 3, None]


@pytest.mark.parametrize(("seconds", "heard"), [(0.0, {}), (5.0, {}), (8.0, {1: [("part_take", 3)]})])
def test_only_who_is_away_for_long_is_stood_in_for(seconds, heard):
    house = House()
    house.dies(3, seconds)
    assert house.heard() == heard
    assert house.duties.unattended() == ([] if heard else [3])


def test_nobody_is_asked_before_all_is_up():
    house = House()
    house.duties.is_on = False
    house.dies(3, 60.0)
    assert house.heard() == {}


def test_parts_without_a_worker_are_shared():
    house = House(2, [7, 9, 11])
    house.duties.balance()
    house.duties.balance()
    assert house.heard() == {1: [("part_take", 7), ("part_take", 11)], 2: [("part_take", 9)]}
    assert house.duties.others_of(1) == [7, 11]
    assert house.duties.who_has(9) == 2


def test_it_is_given_back():
    house = House()
    house.dies(3, 8.0)
    run(house.duties.take_back(3))
    assert house.heard() == {1: [("part_take", 3), ("part_give", 3)]}
    assert house.duties.who_has(3) == 3
    run(house.duties.take_back(2))
    assert house.heard() == {1: [("part_take", 3), ("part_give", 3)]}


def test_what_was_asked_for_and_not_answered_is_taken_back_too():
    house = House()
    answer = Deferred()
    house.desks[1].waits.append(answer)
    house.dies(3, 8.0)
    assert house.duties.unattended() == [3]
    run(house.duties.take_back(3))
    assert house.heard() == {1: [("part_take", 3), ("part_give", 3)]}
    answer.callback(None)
    assert house.duties.who_has(3) == 3


def test_who_stands_in_may_die_too():
    house = House()
    house.dies(3, 8.0)
    house.dies(1, 0.0)
    assert house.heard() == {1: [("part_take", 3)], 2: [("part_take", 3)]}
    house.dies(2, 0.0)
    assert house.duties.unattended() == [1, 2, 3]
    run(house.duties.take_back(3))
    assert house.heard() == {1: [("part_take", 3)], 2: [("part_take", 3)]}


def test_a_part_that_nobody_can_open_is_tried_again_after_a_while():
    house = House(2, [7])
    for desk in house.desks.values():
        desk.refuses = True
    house.duties.balance()
    house.duties.balance()
    assert house.heard() == {1: [("part_take", 7)]}
    assert house.duties.unattended() == [7]
    house.clock.advance(5.0)
    assert house.heard() == {1: [("part_take", 7)] * 2}
    house.desks[1].refuses = False
    house.clock.advance(5.0)
    assert house.duties.others_of(1) == [7]


def test_a_part_that_is_not_given_back_is_left_to_the_lock():
    house = House()
    house.dies(3, 8.0)
    house.desks[1].refuses = True
    run(house.duties.take_back(3))
    assert house.duties.who_has(3) == 3
