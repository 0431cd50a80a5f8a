"""Collects a message as it arrives: small ones in memory, big ones in a file, so that many big ones at once cost little."""

import errno
import os
from contextlib import suppress
from pathlib import Path
from tempfile import mkstemp
from typing import Protocol

from mailgw.values.content import Content

__all__ = ["ENDLESS", "IN_MEMORY", "NO_ROOM", "Intake", "Memory", "Room"]

IN_MEMORY = 256 * 1024  # octets of one message; what is larger goes to the disk as it comes
_MOST_PIECES = 256  # of one message in memory: a piece of two octets takes fifty, which nobody counts


NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class Room(Protocol):
    """How much may be written to the disk."""

    def has(self, size: int) -> bool:
        """Whether so many octets may be written."""

    def claim(self, size: int) -> bool:
        """The same, and from now on they count as used if they may."""


class _Endless:
    def has(self, size: int) -> bool:  # noqa: ARG002
        return True

    def claim(self, size: int) -> bool:  # noqa: ARG002
        return True


ENDLESS: Room = _Endless()


class Memory:
    """Octets in memory of all messages that are arriving at a listener: thousands of slow clients share them."""

    def __init__(self, limit: int = 64 * 2**20) -> None:
        """Make one; messages that find it used up go to the disk, however small."""
        self.left = limit


class Intake:
    """One message on its way in."""

    def __init__(self, folder: Path, room: Room = ENDLESS, memory: Memory | None = None) -> None:
        """Make one; ``folder`` is where the file goes if there must be one, and ``room`` says how much may go there."""
        self._folder = folder
        self._room = room
        self._memory = memory or Memory()
        self._pieces: list[bytes] = []
        self._held = 0  # octets in memory
        self._size = 0
        self._path: Path | None = None
        self._file = -1

    def write(self, data: bytes) -> None:
        """Take a piece. Raises OSError, with ENOSPC also where the disk has no room for new mail."""
        self._size += len(data)
        if self._file < 0:
            self._pieces.append(data)
            if len(self._pieces) == _MOST_PIECES:
                self._pieces = [b"".join(self._pieces)]
            self._held += len(data)
            self._memory.left -= len(data)
            if self._size <= IN_MEMORY and self._memory.left >= 0:
                return
            self._claim(self._size)
            self._file, name = mkstemp(prefix="message-", dir=self._folder)
            self._path = Path(name)
            data = b"".join(self._pieces)
            self._let_go()
        else:
            self._claim(len(data))
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def _claim(self, size: int) -> None:
        if not self._room.claim(size):
            raise OSError(errno.ENOSPC, "no room for new mail")

    def content(self) -> Content:
        """All of it. The store takes the file over; `discard` what it did not get. Raises OSError."""
        if self._path is None:
            whole = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._let_go()
            return Content.of(whole)
        self._close()
        return Content(self._path, self._size)

    def discard(self) -> None:
        """Throw away what is left of it. A file that the disk does not let go is removed at the next start."""
        path, self._path = self._path, None
        self._let_go()
        with suppress(OSError):
            self._close()
        if path is not None:
            with suppress(OSError):
                path.unlink()

    def _close(self) -> None:
        # Once, whatever it says: by then the number may be another's.
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _let_go(self) -> None:
        self._memory.left += self._held
        self._held, self._pieces = 0, []
