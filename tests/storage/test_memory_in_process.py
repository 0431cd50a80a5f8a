"""The memory without a disk."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.interfaces import MemoryUnavailable
from mailgw.storage import memory_in_process
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run
from mailgw.testing.memories import MemoryContract
from mailgw.values.quantities import Rate


class TestInProcessMemory(MemoryContract):
    def make_memory(self, folder, reactor, clock, room):
        return InProcessMemory(clock, room)


def test_trouble_can_be_asked_for():
    memory = InProcessMemory(at("2026-01-05T10:00+00:00"))
    memory.trouble = MemoryUnavailable("gone")
    with pytest.raises(MemoryUnavailable, match="gone"):
        run(memory.count("x:", 1, 1.0))
    memory.trouble = None
    assert run(memory.count("x:", 1, 1.0)) == 1


LIVES = st.sampled_from([0.5, 1.0, 3.0, 60.0])
ORDERS = st.lists(
    st.tuples(
        st.sampled_from(["count", "take", "first_seen", "remember", "forget", "pass"]),
        st.sampled_from("abc"),
        st.integers(0, 9),
        LIVES,
    ),
    max_size=120,
)


async def carry_out(memory, order, key, life):
    if order == "count":
        await memory.count(key, 1, life)
    elif order == "take":
        await memory.take(key, 1, Rate(1, life), 3)
    elif order == "first_seen":
        await memory.first_seen(key, life)
    elif order == "remember":
        await memory.remember(key, "text", life)
    elif order == "forget":
        await memory.forget(key)
    else:
        memory.clock.advance(life)


@settings(max_examples=150, deadline=None)
@given(ORDERS)
def test_its_books_are_in_order(orders):
    memory = InProcessMemory(at("2026-01-05T10:00+00:00"), room=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory_in_process, "_STALE", 2)  # as if there were many
        for order, name, number, life in orders:
            run(carry_out(memory, order, f"{name}:{number}", life))
            there = [(kind, key, row) for kind, rows in enumerate(memory._rows) for key, row in rows.items()]
            assert len(there) <= memory.room
            assert {name: shelf.count for name, shelf in memory._shelves.items()} == {
                name: sum(key.startswith(name) for _, key, _ in there) for name in {key[0] for _, key, _ in there}
            }
            for kind, key, row in there:  # what is there will be found when it ends, and not later
                assert row.listed <= row.ends
                assert (row.listed, kind, key) in memory._shelves[key[0]].soonest
            assert all(len(shelf.soonest) <= 2 * memory.room + 2 for shelf in memory._shelves.values())


def test_of_one_name_only_the_newest_is_spared():
    memory = InProcessMemory(at("2026-01-05T10:00+00:00"), room=1)
    for number in range(5):
        run(memory.remember(f"a:{number}", "", 10.0 - number))
        assert list(run(memory.find("a:", 9))) == [f"a:{number}"]
    run(memory.remember("b:", "", 1.0))
    assert run(memory.recall("b:")) == ""
    assert run(memory.find("a:", 9)) == {}
