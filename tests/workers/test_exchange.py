"""A reload of several workers, as the parent leads it: who is asked what, and what happens where one refuses."""

import os
import signal
from contextlib import contextmanager

import pytest
from attrs import define, field
from few_descriptors import room_for

from mailgw.admin.reading import Refusal
from mailgw.listening import CannotBind
from mailgw.problems import BadConfiguration, Problem
from mailgw.testing import run
from mailgw.workers.command import CROWD, TRANSCRIPT
from mailgw.workers.exchange import Exchange
from mailgw.workers.transcript import text_in


@define
class Settings:
    text: str


@define
class Parts:
    warnings: tuple = ()


@define
class Plan:
    configuration: Settings
    house: str = "new house"
    parts: Parts = field(factory=Parts)
    opened: tuple = ()
    changes: tuple = ("something changes",)
    keep: bool = False


@define
class Source:
    plans: list
    over: list = field(factory=list)

    @contextmanager
    def plan(self, old, house, parts):
        plan = self.plans.pop()
        if isinstance(plan, Exception):
            raise plan
        yield plan
        self.over.append(plan.keep)


@define
class Sockets:
    opened: tuple = ()
    heard: list = field(factory=list)
    taken: bool = False

    def bind_also(self, opened):
        if self.taken:
            raise CannotBind("the port is taken")
        self.heard.append("bind")

    async def keep(self, opened):
        self.heard.append("keep")

    async def drop(self, opened):
        self.heard.append("drop")


@define(eq=False)
class Worker:
    number: int
    state: str = "ready"
    pid: int = 1
    edition: int = 1
    is_told: bool = False
    signals: list = field(factory=list)
    handed: dict = field(factory=dict)

    def tell(self, number):
        self.signals.append(number)

    def start(self, handed, edition):
        self.handed, self.edition = dict(handed), edition


@define
class Remote:
    refuses: dict = field(factory=dict)  # by operation
    heard: list = field(factory=list)
    texts: list = field(factory=list)
    then: object = None  # called when it is to make itself ready

    async def perform(self, operation, arguments, descriptors=()):
        self.heard.append(operation.removeprefix("reload_"))
        if operation == "reload_prepare":
            self.texts.append(text_in(descriptors[0]))
            if self.then:
                self.then()
        if operation in self.refuses:
            raise self.refuses[operation]
        return {}


class Gateway:
    """Two workers and all that is around them."""

    def __init__(self, *plans):
        self.sockets, self.source = Sockets(), Source(list(plans) or [Plan(Settings("new"))])
        self.workers, self.remotes = {1: Worker(1), 2: Worker(2)}, {1: Remote(), 2: Remote()}
        self.exchange = Exchange(Settings("old"), "house", Parts(), self.source, self.sockets, 0, self.workers, self.remotes)

    def heard(self):
        return [remote.heard for remote in self.remotes.values()]

    def in_force(self):
        """The text that a worker would be started with."""
        worker = Worker(9)
        self.exchange.start(worker)
        assert set(worker.handed) == {CROWD, TRANSCRIPT}
        return text_in(worker.handed[TRANSCRIPT])


@pytest.fixture(autouse=True)
def _nothing_stays_open():
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) <= before + 1  # the transcript that is in force


def test_all_of_them():
    gateway = Gateway()
    answer = run(gateway.exchange.reload(False))
    assert answer == {"changes": ["something changes"], "warnings": [], "applied": True}
    assert gateway.heard() == [["prepare", "keep"], ["prepare", "keep"]]
    assert gateway.remotes[2].texts == ["new"]
    assert gateway.sockets.heard == ["bind", "keep"]
    assert gateway.source.over == [True]
    assert gateway.in_force() == "new"
    assert [worker.edition for worker in gateway.workers.values()] == [2, 2]


def test_only_to_be_said():
    gateway = Gateway()
    assert run(gateway.exchange.reload(True))["applied"] is False
    assert (gateway.heard(), gateway.sockets.heard, gateway.in_force()) == ([[], []], [], "old")


@pytest.mark.parametrize("kind", ["configuration", "unavailable"])
def test_none_where_one_cannot(kind):
    gateway = Gateway()
    gateway.remotes[2].refuses["reload_prepare"] = Refusal(kind, "no such key")
    with pytest.raises(Refusal, match="worker 2: no such key") as caught:
        run(gateway.exchange.reload(False))
    assert caught.value.kind == kind
    assert gateway.heard() == [["prepare", "drop"], ["prepare", "drop"]]
    assert gateway.sockets.heard == ["bind", "drop"]
    assert gateway.in_force() == "old"
    assert [worker.signals for worker in gateway.workers.values()] == [[], []]


def test_nobody_is_asked_where_the_parent_cannot():
    gateway = Gateway(Plan(Settings("new")), BadConfiguration([Problem("file", 3, "nonsense")]))
    with pytest.raises(Refusal, match="nonsense"):
        run(gateway.exchange.reload(False))
    gateway.sockets.taken = True
    with pytest.raises(Refusal, match="the port is taken"):
        run(gateway.exchange.reload(False))
    assert (gateway.heard(), gateway.in_force()) == ([[], []], "old")


def test_what_was_bound_is_given_up_where_workers_cannot_be_told():
    gateway = Gateway()
    with room_for(0), pytest.raises(Refusal, match="workers cannot be told of it: Too many open files") as caught:
        run(gateway.exchange.reload(False))
    assert caught.value.kind == "unavailable"
    assert gateway.sockets.heard == ["bind", "drop"]
    assert (gateway.heard(), gateway.in_force(), gateway.source.over) == ([[], []], "old", [])


def test_who_was_ready_and_then_is_not_starts_again():
    gateway = Gateway()
    gateway.remotes[1].refuses["reload_keep"] = Refusal("unavailable", "it does not answer")
    assert run(gateway.exchange.reload(False))["applied"] is True
    assert [worker.signals for worker in gateway.workers.values()] == [[signal.SIGTERM], []]
    assert gateway.in_force() == "new"
    gateway.exchange.look_at(gateway.workers[1])  # while it ends
    assert gateway.remotes[1].heard == ["prepare", "keep"]


def test_who_is_starting_is_told_when_it_is_ready():
    gateway = Gateway()
    gateway.workers[2].state = "starting"
    run(gateway.exchange.reload(False))
    assert gateway.heard() == [["prepare", "keep"], []]
    gateway.workers[2].state = "ready"
    gateway.exchange.look_at(gateway.workers[2])
    gateway.exchange.look_at(gateway.workers[2])
    assert gateway.heard() == [["prepare", "keep"], ["prepare", "keep"]]
    assert gateway.remotes[2].texts == ["new"]
    assert gateway.workers[2].edition == 2


def test_who_becomes_ready_meanwhile_is_told_at_once():
    gateway = Gateway()
    gateway.workers[2].state = "starting"

    def becomes_ready():
        gateway.workers[2].state = "ready"

    gateway.remotes[1].then = becomes_ready
    run(gateway.exchange.reload(False))
    assert gateway.heard() == [["prepare", "keep"], ["prepare", "keep"]]


def test_who_died_meanwhile_is_not_taken_for_its_successor():
    gateway = Gateway()

    def another():
        gateway.workers[2].pid, gateway.workers[2].state = 2, "starting"

    gateway.remotes[2].then = another
    run(gateway.exchange.reload(False))
    assert gateway.heard() == [["prepare", "keep"], ["prepare"]]
    assert gateway.workers[2].edition == 1
