"""How much room is left on the file system of the queue, and the reserve that new mail does not get.

Writing down that a message was delivered needs room, too, before it gives any back. So new mail is refused while there is still some.
"""

import os
from collections.abc import Callable
from pathlib import Path
from time import monotonic

from attrs import define, field

__all__ = ["Room"]

_LOOK_EVERY = 1.0  # seconds between two looks at the file system
_FEWEST_FILES = 16  # that can still be made
_LEAST = 64 * 1024  # octets that count as room: with less, only some would be refused, and nobody would be told


@define
class Room:
    """The room for new mail: what is free on ``path``'s file system, without the ``reserve``; both in octets.

    ``seconds`` gives a time that only goes forward. Between two looks, what was claimed counts as used. ``tell`` is called with
    False when there is none left, and with True when there is some again. Where the ``database`` that was there at first has been
    removed or replaced, there is none: what is written to it goes on, into a file that nobody will find again.
    """

    path: Path
    reserve: int = 0
    database: Path | None = None
    seconds: Callable[[], float] = monotonic
    tell: Callable[[bool], None] = lambda _: None
    _left: int = field(default=0, init=False)
    _looked: float = field(default=float("-inf"), init=False)
    _is_full: bool = field(default=False, init=False)
    _file: tuple[int, int] | None = field(default=None, init=False)
    is_gone: bool = field(default=False, init=False)  # as of the last look

    def __attrs_post_init__(self) -> None:
        self._file = self._identity()

    def has(self, size: int) -> bool:
        """Whether so many octets of new mail may be written."""
        if self.seconds() - self._looked >= _LOOK_EVERY:
            self._look()
        return self._left >= size and self._left > 0

    def claim(self, size: int) -> bool:
        """The same, and from now on they count as used if they may."""
        if not self.has(size):
            return False
        self._left -= size
        return True

    @property
    def left(self) -> int:
        """Octets, as far as known; negative where the reserve is in use."""
        self.has(0)
        return self._left

    def _look(self) -> None:
        self._looked = self.seconds()
        try:
            self.is_gone = self._identity() != self._file
            self._left = 0 if self.is_gone else self._free()
        except OSError:
            return  # what is to be written will meet the same trouble, and say what it is
        is_full = self._left <= 0
        if is_full != self._is_full:
            self._is_full = is_full
            self.tell(not is_full)

    def _free(self) -> int:
        found = os.statvfs(self.path)
        left = found.f_bavail * found.f_frsize - self.reserve
        return min(left, 0) if left < _LEAST or (found.f_files and found.f_favail < _FEWEST_FILES) else left

    def _identity(self) -> tuple[int, int] | None:
        """Which file the database is, or None where there is none. Raises OSError where that cannot be seen."""
        if self.database is None:
            return None
        try:
            found = self.database.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return found.st_dev, found.st_ino
