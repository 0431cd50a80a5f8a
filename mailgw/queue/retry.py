"""When to try again, when to warn, when to give up: pure functions of a gateway's schedule."""

from typing import NamedTuple

from attrs import frozen

__all__ = ["LONGEST_BACK_OFF", "LONGEST_WISH", "Next", "Schedule", "back_off", "earliest", "next_attempt"]

JITTER = 0.05  # of the interval, added only: messages that failed together need not come back together
LONGEST_BACK_OFF = 900.0  # seconds: a dead destination is cheap to try, and its mail should flow soon after it came back
LONGEST_WISH = 86400.0  # seconds: a destination that asks for more patience is asked again after this all the same


@frozen
class Schedule:
    """A gateway's patience. All values in seconds; the last retry interval repeats until ``give_up``.

    Raises ValueError for a schedule without an interval, or with an interval that is not positive.
    """

    retry: tuple[float, ...] = (300.0, 900.0, 3600.0, 14400.0)
    warn_after: float | None = 14400.0  # None: no delay warnings
    give_up: float = 432000.0

    def __attrs_post_init__(self) -> None:
        if not self.retry or min(self.retry) <= 0:
            raise ValueError("retry needs at least one interval, and each must be longer than nothing")


class Next(NamedTuple):
    """What follows from an attempt that did not succeed."""

    due: float | None  # POSIX seconds of the next attempt; None: the recipient is given up
    warn: bool = False  # whether a delay warning is due now, if the sender wants one


def next_attempt(
    schedule: Schedule,
    *,
    arrived: float,
    now: float,
    attempts: int,
    delay_told: bool = False,
    not_before: float = 0.0,
    chance: float = 0.0,
) -> Next:
    """What to do after a deferral.

    ``arrived``, ``now`` and ``not_before`` (the end of the destination's back-off) are POSIX seconds, ``attempts`` counts the
    one that just ended, ``chance`` is a random number from 0 up to 1. A deferral is given up for one reason only: at ``now`` the
    message is as old as ``give_up``. The last attempt falls on that very moment, and one on the moment of the warning.
    """
    expires = arrived + schedule.give_up
    if now >= expires:
        return Next(None)
    interval = schedule.retry[min(max(attempts, 1), len(schedule.retry)) - 1]
    due = max(now + interval * (1.0 + JITTER * chance), not_before)
    warn = False
    if schedule.warn_after is not None and not delay_told:
        warn_at = arrived + schedule.warn_after
        warn = now >= warn_at
        if not warn:
            due = min(due, warn_at)
    return Next(min(due, expires), warn)


def back_off(schedule: Schedule, failures: int) -> float:
    """For how many seconds a destination is left alone after it was unreachable ``failures`` times in a row."""
    return min(schedule.retry[min(max(failures, 1), len(schedule.retry)) - 1], LONGEST_BACK_OFF)


def earliest(now: float, retry_after: float | None) -> float:
    """Before which moment, in POSIX seconds, a destination that asked for ``retry_after`` seconds of peace is not tried; 0.0: none."""
    return now + min(max(0.0, retry_after), LONGEST_WISH) if retry_after else 0.0
