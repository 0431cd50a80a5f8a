"""A clock that stands until it is told to go."""

from datetime import datetime, timedelta

from zope.interface import implementer

from mailgw.interfaces import IClock

__all__ = ["StandingClock", "at"]


@implementer(IClock)
class StandingClock:
    """A time of day that only a test moves."""

    def __init__(self, now: datetime) -> None:
        """``now`` needs a time zone, as every `IClock` has one. Raises ValueError."""
        if now.tzinfo is None:
            raise ValueError(f"{now} has no time zone; write it like 2026-01-05T10:00+00:00")
        self._now = now

    def now(self) -> datetime:
        return self._now

    def advance(self, by: float | timedelta) -> None:
        """Move on, by a timedelta or by seconds."""
        self._now += by if isinstance(by, timedelta) else timedelta(seconds=by)


def at(moment: str) -> StandingClock:
    """Give a clock that stands at an ISO 8601 moment with a time zone: ``at("2026-01-05T10:00+00:00")``. Raises ValueError."""
    return StandingClock(datetime.fromisoformat(moment))
