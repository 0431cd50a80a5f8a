"""What all workers have counted, the dead ones too: a counter that went back would be taken for a restart of the whole gateway."""

from collections.abc import Sequence
from typing import Any

from attrs import define, field

from mailgw.observe.metrics import Samples

__all__ = ["Tally"]


@define
class Tally:
    """Counters by worker, as each told them last."""

    _living: dict[int, Samples] = field(factory=dict, init=False)
    _dead: Samples = field(factory=dict, init=False)

    def count(self, worker: int, samples: Sequence[Sequence[Any]]) -> None:
        """A worker's counters, as JSON carries them: ``[["mailgw_deliveries", "internet"], 12]``."""
        self._living[worker] = {tuple(key): value for key, value in samples}

    def bury(self, worker: int) -> None:
        """It has ended, and its next life counts from the beginning."""
        _add(self._dead, self._living.pop(worker, {}))

    def sum(self) -> Samples:
        """All together."""
        whole = dict(self._dead)
        for samples in self._living.values():
            _add(whole, samples)
        return whole


def _add(whole: Samples, samples: Samples) -> None:
    for key, value in samples.items():
        whole[key] = whole.get(key, 0) + value
