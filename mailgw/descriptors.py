"""How many files and connections the process may have open, and how many of them sessions may take."""

import resource
from collections.abc import Callable, Sequence

from attrs import frozen

__all__ = ["Descriptors", "raise_limit"]

_RESERVE = 500  # for deliveries, the queue, logs, messages on their way in; of a small limit half of it


def raise_limit() -> int:
    """Raise the limit of open files as far as the process may, and give it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # "unlimited" is more than some systems can do
            return soft
    return hard


@frozen
class Descriptors:
    """What a process with this ``limit`` can hold; ``sessions`` counts those of each listener."""

    limit: int
    sessions: Sequence[Callable[[], int]]

    @property
    def seats(self) -> int:
        """How many sessions there may be, of all listeners together."""
        return self.limit - min(_RESERVE, self.limit // 2)

    def is_full(self) -> bool:
        """Whether one more session would take what deliveries and the queue need."""
        return sum([count() for count in self.sessions]) >= self.seats

    def warning(self, wanted: int) -> str:
        """What to say at the start where listeners want so many sessions; empty if they can have them."""
        if wanted <= self.seats:
            return ""
        return (
            f"the limit of {self.limit} open files leaves room for {self.seats} sessions, and the listeners would take {wanted}: "
            "those beyond hear 421; raise LimitNOFILE= of the unit, or lower max_sessions"
        )
