import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.storage.memory_rules import name_of, poured, surplus
from mailgw.values.quantities import Rate


@pytest.mark.parametrize(
    ("rows", "room", "losing"),
    [
        pytest.param({}, 10, {}, id="nothing"),
        pytest.param({"a": 5, "b": 5}, 10, {}, id="just enough"),
        pytest.param({"a": 20}, 10, {"a": 10}, id="alone"),
        pytest.param({"a": 2, "b": 20}, 10, {"b": 12}, id="the big one gives"),
        pytest.param({"a": 2, "b": 20, "c": 30}, 10, {"b": 16, "c": 26}, id="the big ones share"),
        pytest.param({"a": 1, "b": 1, "c": 1}, 2, {"c": 1}, id="more names than room"),
        pytest.param({"a": 1, "b": 9, "c": 1}, 0, {"a": 1, "b": 9, "c": 1}, id="no room at all"),
    ],
)
def test_surplus(rows, room, losing):
    assert surplus(rows, room) == losing


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 50), max_size=8), st.integers(0, 100))
def test_surplus_fits_and_is_fair(rows, room):
    losing = surplus(rows, room)
    kept = {name: count - losing.get(name, 0) for name, count in rows.items()}
    assert sum(kept.values()) <= room
    assert all(0 <= count <= rows[name] for name, count in kept.items())
    if losing and room >= len(rows):
        share = max(kept[name] for name in losing)
        assert all(kept[name] == share for name in losing)  # who loses is left with as much as others who lose
        assert all(count <= share for name, count in rows.items() if name not in losing)  # and with no less than anybody
        assert sum(kept.values()) > room - len(rows)  # nobody loses for nothing


@given(st.lists(st.tuples(st.integers(0, 12), st.floats(0, 20)), max_size=30), st.integers(1, 10), st.floats(0.1, 100), st.integers(1, 10))
def test_nobody_gets_more_than_burst_and_rate_allow(steps, count, seconds, burst):
    rate, tokens, since, now, taken = Rate(count, seconds), float(burst), 0.0, 0.0, 0
    for amount, pause in steps:
        now += pause
        wait, tokens, full_in = poured(tokens, since, now, amount, rate, burst)
        since = now
        assert 0 <= tokens <= burst
        assert full_in == pytest.approx((burst - tokens) * seconds / count)
        taken += 0 if wait else min(amount, burst)
        assert taken <= burst + now * count / seconds + 1e-6 * (len(steps) + 1)


def test_a_clock_that_goes_back_pours_nothing_out():
    assert poured(1.0, 100.0, 50.0, 1, Rate(1, 1.0), 5)[:2] == (0.0, 0.0)


@pytest.mark.parametrize(("key", "name"), [("a:b:c", "a"), ("a", "a"), (":b", "")])
def test_name(key, name):
    assert name_of(key) == name
