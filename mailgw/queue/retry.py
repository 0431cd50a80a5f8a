"""When to try again, when to warn, when to give up: pure functions of a gateway's schedule."""

from attrs import frozen

__all__ = ["Schedule"]


@frozen
class Schedule:
    """A gateway's patience. All values in seconds; the last retry interval repeats until ``give_up``."""

    retry: tuple[float, ...] = (300.0, 900.0, 3600.0, 14400.0)
    warn_after: float | None = 14400.0  # None: no delay warnings
    give_up: float = 432000.0
