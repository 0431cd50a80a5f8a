import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.queue.retry import JITTER, LONGEST_BACK_OFF, LONGEST_WISH, Next, Schedule, back_off, earliest, next_attempt

HOUR = 3600.0
PLAIN = Schedule(retry=(300.0, 900.0, HOUR, 4 * HOUR), warn_after=4 * HOUR, give_up=120 * HOUR)


@pytest.mark.parametrize(
    ("now", "attempts", "told", "expected"),
    [
        (0.0, 1, False, Next(300.0)),
        (300.0, 2, False, Next(1200.0)),
        (1200.0, 3, False, Next(4800.0)),
        (4800.0, 4, False, Next(4 * HOUR)),  # the interval is cut at the moment of the warning
        (4 * HOUR, 5, False, Next(8 * HOUR, warn=True)),
        (4 * HOUR, 5, True, Next(8 * HOUR)),  # told already
        (50 * HOUR, 5, False, Next(54 * HOUR, warn=True)),  # we were down for two days
        (8 * HOUR, 99, True, Next(12 * HOUR)),  # the last interval repeats
        (118 * HOUR, 40, True, Next(120 * HOUR)),  # the last attempt falls on the very end
        (120 * HOUR, 41, True, Next(None)),
        (120 * HOUR, 41, False, Next(None)),  # a bounce, not a warning
        (400 * HOUR, 1, False, Next(None)),
    ],
)
def test_next_attempt(now, attempts, told, expected):
    assert next_attempt(PLAIN, arrived=0.0, now=now, attempts=attempts, delay_told=told) == expected


def test_without_warnings():
    silent = Schedule(retry=(60.0,), warn_after=None, give_up=600.0)
    assert next_attempt(silent, arrived=0.0, now=500.0, attempts=9) == Next(560.0)
    assert next_attempt(silent, arrived=0.0, now=599.0, attempts=9) == Next(600.0)
    assert next_attempt(silent, arrived=0.0, now=600.0, attempts=9) == Next(None)


def test_the_back_off_of_the_destination_is_waited_for_but_not_beyond_the_end():
    assert next_attempt(PLAIN, arrived=0.0, now=0.0, attempts=1, not_before=800.0).due == 800.0
    assert next_attempt(PLAIN, arrived=0.0, now=119 * HOUR, attempts=1, delay_told=True, not_before=1e9).due == 120 * HOUR


def test_chance_only_adds():
    assert next_attempt(PLAIN, arrived=0.0, now=0.0, attempts=1, chance=1.0).due == 300.0 * (1 + JITTER)


seconds = st.floats(1.0, 1e6)
schedules = st.builds(
    Schedule, retry=st.lists(seconds, min_size=1, max_size=5).map(tuple), warn_after=st.none() | seconds, give_up=st.floats(1.0, 1e7)
)


@given(schedules, st.floats(0, 2e9), st.floats(0, 2e7), st.integers(0, 1000), st.booleans(), st.floats(0, 3e9), st.floats(0, 0.999))
def test_a_deferral_becomes_a_bounce_by_age_alone(schedule, arrived, age, attempts, told, not_before, chance):
    now = arrived + age
    following = next_attempt(
        schedule, arrived=arrived, now=now, attempts=attempts, delay_told=told, not_before=not_before, chance=chance
    )
    assert (following.due is None) == (now >= arrived + schedule.give_up)
    if following.due is not None:
        assert now < following.due <= arrived + schedule.give_up
    assert not (following.warn and (told or schedule.warn_after is None or following.due is None))


@given(schedules, st.floats(0, 0.999))
def test_a_message_that_is_always_deferred_ends_and_is_warned_about_once(schedule, chance):
    schedule = Schedule(tuple(max(interval, schedule.give_up / 200) for interval in schedule.retry), schedule.warn_after, schedule.give_up)
    now, attempts, told, warnings = 0.0, 0, False, 0
    while True:
        attempts += 1
        following = next_attempt(schedule, arrived=0.0, now=now, attempts=attempts, delay_told=told, chance=chance)
        if following.due is None:
            break
        warnings += following.warn
        told = told or following.warn
        now = following.due
    assert now == schedule.give_up
    assert attempts <= 203
    assert warnings == (schedule.warn_after is not None and schedule.warn_after < schedule.give_up)


@pytest.mark.parametrize("retry", [(), (0.0,), (300.0, -1.0)], ids=repr)
def test_a_schedule_without_patience_cannot_be_made(retry):
    with pytest.raises(ValueError, match="interval"):
        Schedule(retry=retry)


def test_back_off_grows_and_is_bounded():
    assert [back_off(PLAIN, failures) for failures in (1, 2, 3, 99)] == [300.0, 900.0, LONGEST_BACK_OFF, LONGEST_BACK_OFF]
    assert back_off(Schedule(retry=(5.0,)), 7) == 5.0


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        pytest.param(None, 0.0, id="nothing"),
        pytest.param(0.0, 0.0, id="no time at all"),
        pytest.param(90.0, 1090.0, id="a minute and a half"),
        pytest.param(-5.0, 1000.0, id="the past"),
        pytest.param(1e12, 1000.0 + LONGEST_WISH, id="for ever"),
        pytest.param(float("inf"), 1000.0 + LONGEST_WISH, id="infinity"),
        pytest.param(float("nan"), 1000.0, id="no number"),
    ],
)
def test_the_wish_of_a_destination_is_bounded(asked, expected):
    assert earliest(1000.0, asked) == expected
