"""Who looks after the parts of the queue whose own worker cannot."""

from collections.abc import Collection, Mapping

__all__ = ["hand_out"]


def hand_out(orphans: Collection[int], load: Mapping[int, int]) -> dict[int, int]:
    """The worker for each part: whoever has the fewest parts, the lowest number first.

    ``load``: how many parts each worker that is there looks after already. Nothing is handed out where there is none.
    """
    loads = dict(load)
    given: dict[int, int] = {}
    for part in sorted(orphans) if loads else ():
        worker = min(loads, key=lambda number: (loads[number], number))
        loads[worker] += 1
        given[part] = worker
    return given
