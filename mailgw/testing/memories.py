"""The contract of an `IMemory` as a suite of tests.

A memory of your own passes it like this::

    class TestMyMemory(MemoryContract):
        def make_memory(self, folder, reactor, clock, room):
            return MyMemory(clock)

        def close(self, memory, pump):
            pump.run(memory.close())
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailgw.interfaces import IMemory
from mailgw.testing.clock import StandingClock, at
from mailgw.testing.stores import Pump
from mailgw.values.quantities import Rate

__all__ = ["MemoryContract"]

ODD_KEYS = ("x:", "x:%", "x:_", "x:*", "x:a'b\"", "x:\0y", "x:ü", "x:\U0001f4ee", "x:" + "k" * 998, "no name", "a:b:c:" + " ")


class MemoryContract:
    """What every `IMemory` must do. Give it a `make_memory`, and a `close` where there is something to close."""

    def make_memory(self, folder: Path, reactor: Pump, clock: StandingClock, room: int) -> Any:
        """A new, empty memory; ``folder`` is its own. ``room`` is about how many keys it may hold."""
        raise NotImplementedError("a contract needs a method make_memory")

    def close(self, memory: Any, pump: Pump) -> None:
        """End it."""

    @pytest.fixture
    def pump(self) -> Pump:
        """What drives the memory."""
        return Pump()

    @pytest.fixture
    def clock(self) -> StandingClock:
        """The memory's time."""
        return at("2026-01-05T10:00+00:00")

    @pytest.fixture
    def room(self) -> int:
        """So many keys."""
        return 100

    @pytest.fixture
    def memory(self, tmp_path: Path, pump: Pump, clock: StandingClock, room: int) -> Iterator[Any]:
        """The memory to be asked; every answer is awaited with ``pump.run``."""
        memory = self.make_memory(tmp_path / "memory", pump, clock, room)
        yield memory
        self.close(memory, pump)

    def test_provides_the_interface(self, memory: Any) -> None:
        assert verifyObject(IMemory, memory)

    # ── Counters ──

    def test_a_counter_gives_its_sum(self, memory: Any, pump: Pump) -> None:
        assert [pump.run(memory.count("c:a", amount, 60.0)) for amount in (1, 2, 10)] == [1, 3, 13]
        assert pump.run(memory.count("c:b", 1, 60.0)) == 1

    def test_a_look_changes_nothing(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        assert pump.run(memory.count("c:a", 0, 5.0)) == 0
        clock.advance(4.0)
        assert pump.run(memory.count("c:a", 7, 5.0)) == 7
        clock.advance(4.0)
        assert pump.run(memory.count("c:a", 0, 5.0)) == 7

    def test_a_counter_ends_when_its_first_count_said(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        pump.run(memory.count("c:a", 1, 60.0))
        clock.advance(59.0)
        assert pump.run(memory.count("c:a", 1, 60.0)) == 2
        clock.advance(1.0)
        assert pump.run(memory.count("c:a", 0, 60.0)) == 0
        assert pump.run(memory.count("c:a", 5, 60.0)) == 5

    def test_counts_of_one_turn(self, memory: Any, pump: Pump) -> None:
        assert sorted(pump.run_all([memory.count("c:a", 1, 60.0) for _ in range(50)])) == list(range(1, 51))

    # ── Buckets ──

    def test_a_bucket_is_full_at_first(self, memory: Any, pump: Pump) -> None:
        rate = Rate(1, 10.0)
        assert [pump.run(memory.take("b:a", 1, rate, 3)) for _ in range(5)] == [0.0, 0.0, 0.0, 10.0, 10.0]

    def test_who_waits_as_told_gets_it(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        rate = Rate(3, 7.0)
        assert pump.run(memory.take("b:a", 5, rate, 5)) == 0.0
        for amount in (1, 2, 3, 4, 5):
            wait = pump.run(memory.take("b:a", amount, rate, 5))
            assert wait == pytest.approx(amount * 7 / 3, abs=1e-5)
            clock.advance(wait)
            assert pump.run(memory.take("b:a", amount, rate, 5)) == 0.0

    def test_who_may_not_take_takes_nothing(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        rate = Rate(1, 1.0)
        pump.run(memory.take("b:a", 10, rate, 10))
        clock.advance(4.0)
        assert pump.run(memory.take("b:a", 5, rate, 10)) == 1.0
        assert pump.run(memory.take("b:a", 4, rate, 10)) == 0.0

    def test_a_bucket_never_holds_more_than_its_burst(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        rate = Rate(1, 1.0)
        pump.run(memory.take("b:a", 1, rate, 10))
        clock.advance(1000.0)
        assert pump.run(memory.take("b:a", 10, rate, 10)) == 0.0
        assert pump.run(memory.take("b:a", 1, rate, 10)) == 1.0

    def test_more_than_the_burst_takes_all_of_a_full_bucket(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        rate = Rate(1, 1.0)
        pump.run(memory.take("b:a", 1, rate, 5))
        assert pump.run(memory.take("b:a", 100, rate, 5)) == 1.0
        clock.advance(1.0)
        assert pump.run(memory.take("b:a", 100, rate, 5)) == 0.0
        assert pump.run(memory.take("b:a", 1, rate, 5)) == 1.0

    # ── Times and texts ──

    def test_first_seen(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        began = clock.now().timestamp()
        assert pump.run(memory.first_seen("t:a", 60.0)) == began
        clock.advance(59.0)
        assert pump.run(memory.first_seen("t:a", 60.0)) == began
        clock.advance(59.0)
        assert pump.run(memory.first_seen("t:a", 60.0)) == began  # the look before let it live on
        clock.advance(60.0)
        assert pump.run(memory.first_seen("t:a", 60.0)) == began + 178.0

    def test_nothing_was_seen_later_than_now(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        began = clock.now().timestamp()
        pump.run(memory.first_seen("t:a", 60.0))
        clock.advance(-36_000.0)  # somebody has set the clock right
        assert pump.run(memory.first_seen("t:a", 60.0)) == began - 36_000.0
        clock.advance(30.0)
        assert pump.run(memory.first_seen("t:a", 60.0)) == began - 36_000.0

    def test_texts(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        assert pump.run(memory.recall("x:a")) is None
        pump.run(memory.remember("x:a", "one", 60.0))
        pump.run(memory.remember("x:a", "zwölf\n", 10.0))
        assert pump.run(memory.recall("x:a")) == "zwölf\n"
        clock.advance(10.0)
        assert pump.run(memory.recall("x:a")) is None

    @pytest.mark.parametrize("key", ODD_KEYS, ids=[ascii(key)[:12] for key in ODD_KEYS])
    def test_any_key(self, memory: Any, pump: Pump, key: str) -> None:
        pump.run(memory.remember(key, key, 60.0))
        pump.run(memory.count(key, 3, 60.0))
        assert pump.run(memory.recall(key)) == key
        assert pump.run(memory.find(key, 10)) == {key: key}
        assert pump.run(memory.recall(key[:-1] or "y")) is None

    def test_find(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        for key in ("f:b", "f:a", "f:%", "f:_a", "f:ü", "f:\U0001f4ee", "f:", "g:a", "F:a", "e:\U0010ffff"):
            pump.run(memory.remember(key, key.upper(), 60.0))
        pump.run(memory.remember("f:over", "", 5.0))
        pump.run(memory.count("f:counter", 1, 60.0))
        clock.advance(5.0)
        found = pump.run(memory.find("f:", 100))
        assert list(found) == ["f:", "f:%", "f:_a", "f:a", "f:b", "f:ü", "f:\U0001f4ee"]
        assert found["f:a"] == "F:A"
        assert list(pump.run(memory.find("f:", 2))) == ["f:", "f:%"]
        assert list(pump.run(memory.find("f:%", 2))) == ["f:%"]
        assert not pump.run(memory.find("h:", 2))
        assert not pump.run(memory.find("f:", 0))

    # ── All of them ──

    def test_counter_bucket_time_and_text_of_one_key_are_four_things(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        began = clock.now().timestamp()
        pump.run(memory.remember("k:a", "text", 60.0))
        assert pump.run(memory.count("k:a", 2, 60.0)) == 2
        assert pump.run(memory.take("k:a", 1, Rate(1, 1.0), 1)) == 0.0
        assert pump.run(memory.first_seen("k:a", 60.0)) == began
        assert pump.run(memory.recall("k:a")) == "text"
        assert pump.run(memory.count("k:a", 0, 60.0)) == 2
        assert pump.run(memory.take("k:a", 1, Rate(1, 1.0), 1)) == 1.0

    def test_forget(self, memory: Any, pump: Pump, clock: StandingClock) -> None:
        for key in ("k:a", "k:ab"):
            pump.run(memory.remember(key, "text", 60.0))
            pump.run(memory.count(key, 2, 60.0))
            pump.run(memory.take(key, 1, Rate(1, 1.0), 1))
            pump.run(memory.first_seen(key, 60.0))
        clock.advance(0.5)
        pump.run(memory.forget("k:a"))
        pump.run(memory.forget("k:never was"))
        assert pump.run(memory.recall("k:a")) is None
        assert pump.run(memory.count("k:a", 0, 60.0)) == 0
        assert pump.run(memory.take("k:a", 1, Rate(1, 1.0), 1)) == 0.0
        assert pump.run(memory.first_seen("k:a", 60.0)) == clock.now().timestamp()
        assert pump.run(memory.recall("k:ab")) == "text"
        assert pump.run(memory.count("k:ab", 0, 60.0)) == 2

    def test_what_ends_soonest_is_forgotten(self, memory: Any, pump: Pump, room: int) -> None:
        for number in range(room):
            pump.run(memory.remember(f"r:{number:04}", "", 1000.0 - number))
        for number in range(room // 2):
            pump.run(memory.remember(f"r:new{number:04}", "", 5000.0))
        kept = pump.run(memory.find("r:", 10 * room))
        assert 0.9 * room <= len(kept) <= 1.1 * room
        assert len([key for key in kept if key.startswith("r:new")]) == room // 2
        old = [key for key in kept if not key.startswith("r:new")]
        assert old == [f"r:{number:04}" for number in range(len(old))]

    def test_one_name_cannot_crowd_out_another(self, memory: Any, pump: Pump, room: int) -> None:
        for number in range(room // 4):
            pump.run(memory.remember(f"few:{number}", "", 10.0))
        for number in range(3 * room):
            pump.run(memory.count(f"many:{number}", 1, 5000.0))
        assert len(pump.run(memory.find("few:", room))) == room // 4

    def test_what_has_ended_goes_first(self, memory: Any, pump: Pump, clock: StandingClock, room: int) -> None:
        for number in range(room - 10):
            pump.run(memory.count(f"r:{number}", 1, 5.0))
        clock.advance(5.0)
        for number in range(room - 10):
            pump.run(memory.remember(f"r:{number}", "", 1.0))
        assert len(pump.run(memory.find("r:", room))) == room - 10

    @pytest.mark.parametrize(
        ("method", "arguments"),
        [
            pytest.param("count", ("", 1, 1.0), id="empty key"),
            pytest.param("count", ("x:" + "k" * 999, 1, 1.0), id="long key"),
            pytest.param("count", ("x:\udcff", 1, 1.0), id="key that is no text"),
            pytest.param("count", ("x:", -1, 1.0), id="negative amount"),
            pytest.param("count", ("x:", 1, 0.0), id="counter without a life"),
            pytest.param("take", ("x:", -1, Rate(1, 1.0), 1), id="giving back"),
            pytest.param("take", ("x:", 1, Rate(1, 1.0), 0), id="bucket that holds nothing"),
            pytest.param("first_seen", ("x:", float("nan")), id="time without a life"),
            pytest.param("remember", ("x:", "x", -1.0), id="text without a life"),
            pytest.param("remember", ("x:", "x" * 65537, 1.0), id="long text"),
            pytest.param("recall", ("",), id="recall nothing"),
            pytest.param("find", ("", 1), id="find everything"),
            pytest.param("forget", ("",), id="forget nothing"),
        ],
    )
    def test_nonsense(self, memory: Any, pump: Pump, method: str, arguments: tuple[Any, ...]) -> None:
        with pytest.raises(ValueError, match=r"key|text|amount|lifetime|bucket|surrogates"):
            pump.run(getattr(memory, method)(*arguments))
