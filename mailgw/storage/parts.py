"""The parts of a queue: each worker owns one, in a folder of its own, and a message's number says in which part it lies.

Part 1 is the state folder itself, so that one process and many find the same mail; part K lies in ``worker-K/`` below it.
"""

import re
from pathlib import Path

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.desk import read_only_desk
from mailgw.values.ledger import Selection

__all__ = ["NUMBERS", "base_of", "folder_of", "has_mail", "part_of", "parts_in"]

NUMBERS = 10**12
"""How many message numbers a part has: those of part K begin after (K - 1) times this."""

_NAME = re.compile(r"worker-([1-9]\d{0,3})\Z")


def folder_of(state: Path, part: int) -> Path:
    """Where a part lies; ``state`` is the state folder."""
    return state if part == 1 else state / f"worker-{part}"


def base_of(part: int) -> int:
    """The number after which the message numbers of a part begin."""
    return (part - 1) * NUMBERS


def part_of(message: int) -> int:
    """The part in which the message with this number lies."""
    return (message - 1) // NUMBERS + 1


def parts_in(state: Path) -> list[int]:
    """The numbers of the parts that have a queue, in their order. Raises OSError."""
    found = [1] if (state / "queue.db").exists() else []
    if state.is_dir():
        names = [_NAME.match(path.name) for path in state.iterdir() if (path / "queue.db").exists()]
        found += [int(name[1]) for name in names if name and int(name[1]) > 1]
    return sorted(found)


def has_mail(state: Path, part: int) -> bool:
    """Whether anything lies in a part that nobody has open. What cannot be read counts as mail: whoever opens it will say why."""
    try:
        with read_only_desk(folder_of(state, part)) as desk:
            return bool(desk.find(Selection(limit=1)))
    except StoreUnavailable:
        return True
