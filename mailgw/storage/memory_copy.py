"""A copy of what policies remember, to play with: the file itself is only read."""

import sqlite3
from contextlib import closing
from pathlib import Path

from mailgw.interfaces import MemoryUnavailable

__all__ = ["copy_memory"]

_PATIENCE = 5.0  # seconds to wait for another process


def copy_memory(path: Path, to: Path) -> None:
    """Copy the file as it is at one moment, also while it is in use; nothing if there is none. Raises MemoryUnavailable."""
    try:
        if not path.exists():
            return
        # Not writable: a file that another user made beside it could lock its owner out.
        source = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=_PATIENCE)
        with closing(source), closing(sqlite3.connect(to)) as copy:
            source.backup(copy)
    except OSError as problem:
        raise MemoryUnavailable(f"{path} cannot be read: {problem.strerror}") from problem
    except sqlite3.Error as problem:
        raise MemoryUnavailable(f"{path} cannot be read: {problem}") from problem
