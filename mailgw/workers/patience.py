"""How long to wait before a worker that died is started again."""

from attrs import define

__all__ = ["Patience"]

_SOON = 10.0  # seconds: who dies within them of its start keeps dying
_MOST = 60.0  # seconds


@define
class Patience:
    """Of the parent with one worker."""

    deaths: int = 0  # one soon after the other

    def delay(self, lived: float) -> float:
        """Seconds to wait after a death: none after a life of some length, then 1, 2, 4, ... 60. ``lived``: seconds."""
        if lived >= _SOON:
            self.deaths = 0
        self.deaths += 1
        return 0.0 if self.deaths == 1 else min(2.0 ** (self.deaths - 2), _MOST)
