"""What keeps the database and its folder small: done in small pieces, between transactions."""

import sqlite3
from contextlib import suppress

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.desk import Desk
from mailgw.storage.folder import Folder

__all__ = ["remove_strays", "tidy"]

_PAGES = 500  # given back to the file system at once


def tidy(database: sqlite3.Connection) -> None:
    """Give some of the room that a passed crowd took back to the file system, when more than half is free."""
    with suppress(sqlite3.Error):  # it is only a kindness, and is tried again
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        if free > max(pages // 2, 2 * _PAGES):
            # `execute` would stop after the first page.
            database.executescript(f"PRAGMA incremental_vacuum({_PAGES})")


def remove_strays(folder: Folder, desk: Desk, last_message: int) -> None:
    """Remove files that a crash left without a row; numbers above ``last_message`` are being given out now."""
    with suppress(OSError, StoreUnavailable):  # the next start tries again
        numbers = [int(file.name) for file in folder.content.iterdir() if file.name.isdigit()]
        old = [number for number in numbers if number <= last_message]
        for start in range(0, len(old), 500):
            for number in desk.missing(old[start : start + 500]):
                folder.remove(number)
