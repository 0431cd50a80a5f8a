"""Collects a message as it arrives: small ones in memory, big ones in a file, so that many big ones at once cost little."""

import os
from pathlib import Path
from tempfile import mkstemp

from mailgw.values.content import Content

__all__ = ["IN_MEMORY", "Intake"]

IN_MEMORY = 256 * 1024  # octets of one message; what is larger goes to the disk as it comes


class Intake:
    """One message on its way in."""

    def __init__(self, folder: Path) -> None:
        """Make one; ``folder`` is where the file goes if there must be one."""
        self._folder = folder
        self._pieces: list[bytes] = []
        self._size = 0
        self._path: Path | None = None
        self._file = -1

    def write(self, data: bytes) -> None:
        """Take a piece. Raises OSError, for example when the disk is full."""
        self._size += len(data)
        if self._file < 0:
            self._pieces.append(data)
            if self._size <= IN_MEMORY:
                return
            self._file, name = mkstemp(prefix="message-", dir=self._folder)
            self._path = Path(name)
            data = b"".join(self._pieces)
            self._pieces = []
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view) :]

    def content(self) -> Content:
        """All of it. The store takes the file over; `discard` what it did not get. Raises OSError."""
        if self._path is None:
            return Content.of(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))
        os.close(self._file)
        self._file = -2
        return Content(self._path, self._size)

    def discard(self) -> None:
        """Throw away what is left of it."""
        if self._file >= 0:
            os.close(self._file)
        self._file, self._pieces = -1, []
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None
