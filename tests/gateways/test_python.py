"""Functions that get mail."""

import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from houses import OneThread
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from mailgw.gateways import own_threads
from mailgw.gateways.python import Python
from mailgw.testing import a_shipment, run
from mailgw.testing.contracts import GatewayContract
from mailgw.values.delivery import Fate, Handed, Outcome, Shipment, delivered, later, never

THERE = "test_python_functions"
SHIPMENTS: list[tuple[Shipment, threading.Thread]] = []
NO = never("no")


def everything(shipment: Shipment) -> None:
    SHIPMENTS.append((shipment, threading.current_thread()))


async def coroutine(shipment: Shipment) -> None:
    everything(shipment)


class Callable:
    async def __call__(self, shipment: Shipment) -> None:
        everything(shipment)

    def method(self, shipment: Shipment) -> Outcome:
        return later("method")


an_object = Callable()
nothing = 5


def one_for_all(shipment: Shipment) -> Outcome:
    return NO


def mapping(shipment: Shipment) -> dict[Any, Outcome]:
    return {recipient.address: delivered() for recipient in shipment.recipients}


def nonsense(shipment: Shipment) -> int:
    return 5


def raises(shipment: Shipment) -> None:
    raise LookupError("out of order")


def sync_that_gives_a_coroutine(shipment: Shipment) -> Any:
    return coroutine(shipment)


def a_deferred(shipment: Shipment) -> Any:
    everything(shipment)
    return succeed(NO)


WAITING: list[Any] = []


def hangs(shipment: Shipment) -> None:
    event = threading.Event()
    WAITING.append(event)
    event.wait(20)


async def hangs_too(shipment: Shipment) -> None:
    WAITING.append(Deferred())
    await WAITING[-1]


async def hangs_whatever_it_is_told(shipment: Shipment) -> None:
    while True:
        with suppress(Exception):
            await Deferred()


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(sys.modules, THERE, sys.modules[__name__])
    SHIPMENTS.clear()
    yield
    for one in WAITING:
        if isinstance(one, threading.Event):
            one.set()
    WAITING.clear()


def a_python(name: str, threads: Any = None, clock: Clock | None = None, **settings: Any) -> Python:
    return Python(f"{THERE}:{name}", **settings, clock=clock or Clock(), threads=threads or OneThread())


def deliver(name: str, **settings: Any) -> Any:
    threads = OneThread()
    return threads.run(a_python(name, threads, **settings).deliver(a_shipment("a@example.org", "b@example.org")))


class TestCoroutine(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return a_python("coroutine")


class TestThread(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        self.threads = OneThread()
        return a_python("everything", self.threads)

    def run(self, awaitable: Any) -> Any:
        return self.threads.run(awaitable)


del GatewayContract


@pytest.mark.parametrize(
    ("name", "settings", "in_thread"),
    [
        ("everything", {}, True),
        ("everything", {"thread": False}, False),
        ("coroutine", {}, False),
        ("an_object", {}, False),
        ("sync_that_gives_a_coroutine", {}, False),
    ],
)
def test_none_is_delivered(name: str, settings: Any, in_thread: bool) -> None:
    outcomes = deliver(name, **settings)
    assert {(o.fate, o.handed, o.reply.text) for o in outcomes.values()} == {(Fate.DELIVERED, Handed.RELAY, f"taken by {THERE}:{name}")}
    [(shipment, thread)] = SHIPMENTS
    assert set(outcomes) == {recipient.address for recipient in shipment.recipients}
    assert (thread is not threading.main_thread()) == in_thread


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("one_for_all", {}, NO),
        ("an_object.method", {}, later("method")),
        ("mapping", {}, delivered()),
        ("a_deferred", {"thread": False}, NO),
        ("everything", {"final": True}, Handed.MAILBOX),
    ],
)
def test_answers(name: str, settings: Any, expected: Any) -> None:
    outcomes = list(deliver(name, **settings).values())
    assert [one.handed if isinstance(expected, Handed) else one for one in outcomes] == [expected] * 2


def test_what_is_raised_reaches_the_queue_which_logs_it() -> None:
    with pytest.raises(LookupError, match="out of order"):
        deliver("raises")
    assert deliver("nonsense") == 5  # so does what is no answer


@pytest.mark.parametrize("name", ["hangs", "hangs_too", "hangs_whatever_it_is_told"])
def test_what_takes_too_long_is_later(name: str) -> None:
    clock, threads = Clock(), OneThread()
    gateway = a_python(name, threads, clock, timeout=5.0)
    waiting = Deferred.fromCoroutine(gateway.deliver(a_shipment()))
    clock.advance(4.9)
    assert not waiting.called
    clock.advance(0.2)
    (outcome,) = run(waiting).values()
    assert (outcome.fate, outcome.reply.enhanced) == (Fate.LATER, "4.4.7")
    assert not clock.getDelayedCalls()


def test_functions_that_do_not_come_back_are_not_called_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_threads, "_MOST", 3)
    clock, threads = Clock(), OneThread()
    gateway = a_python("hangs", threads, clock, timeout=5.0)
    for _ in range(3):
        waiting = Deferred.fromCoroutine(gateway.deliver(a_shipment()))
        clock.advance(5)
        run(waiting)
    (outcome,) = run(gateway.deliver(a_shipment())).values()
    assert (str(outcome.reply), outcome.unreachable) == ("451 4.3.2 too many calls of the function have not come back", True)
    assert all(thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    for event in WAITING:
        event.set()
    for _ in range(3):
        threads.turn()
    assert gateway._own.is_free


def test_threads_that_cannot_be_had_do_not_count_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_threads, "_MOST", 3)
    threads = OneThread()
    gateway = a_python("everything", threads, Clock())
    before = threading.stack_size(2**47)  # more than there is
    try:
        for _ in range(5):
            with pytest.raises(RuntimeError, match="thread"):
                run(gateway.deliver(a_shipment()))
    finally:
        threading.stack_size(before)
    assert gateway._own.is_free


@pytest.mark.parametrize(
    ("call", "kind", "text"),
    [
        ("no_such_module:f", ImportError, 'call = "no_such_module:f" cannot be imported: ModuleNotFoundError('),
        (f"{THERE}:no_such_function", ImportError, "no_such_function"),
        (f"{THERE}:nothing", ValueError, "cannot be called"),
        ("function", ValueError, 'write it like "module:function"'),
        (":function", ValueError, 'write it like "module:function"'),
    ],
)
def test_a_function_that_is_not_there_stops_the_start(call: str, kind: Any, text: str) -> None:
    with pytest.raises(kind) as caught:
        Python(call, clock=Clock(), threads=OneThread())
    assert text in str(caught.value)


def test_a_module_that_is_broken_stops_the_start_with_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_functions.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match=r"broken_functions:f.*ZeroDivisionError") as caught:
        Python("broken_functions:f", clock=Clock(), threads=OneThread())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)
