"""What keeps the database and its folder small, without making mail wait.

The writer brings its log home itself: at each 16 MiB, a commit takes some 20 ms longer (a thread beside it, as was tried, only took
the disk away from it, and the log grew to four times the size). What is left to do goes on in a thread, also when nothing else happens.
"""

import sqlite3
import struct
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.desk import Desk
from mailgw.storage.folder import Folder
from mailgw.storage.schema import PAGE_SIZE, connect_read_only
from mailgw.storage.writer import Writer

__all__ = ["Housekeeper", "frames_in_use", "remove_strays"]

_PAUSE = 1.0  # seconds between two looks
_BREATH = 0.05  # seconds between two pieces of work for the writer
_TOO_MUCH = 256 * 2**20 // PAGE_SIZE  # pages of a log that somebody who reads keeps from beginning anew
_LEAST_FREE = 1000  # pages
_AT_ONCE = 100  # pages given back: some 10 ms for the writer

_log = Logger(namespace="mailgw.store")


def frames_in_use(database: Path) -> int:
    """How many pages the log holds, as its index says (sqlite.org/walformat.html §2.1); 0 where there is none."""
    try:
        with open(f"{database}-shm", "rb", buffering=0) as index:
            index.seek(16)
            return int(struct.unpack("=I", index.read(4))[0])
    except (OSError, struct.error):
        return 0


class Housekeeper:
    """Works from `start` to `stop`.

    It gives the room that a passed crowd has left back to the file system, in small pieces. And it looks after the log, which cannot
    begin anew while somebody reads: an operator's question that makes it too long is ended.
    """

    def __init__(self, folder: Folder, database: sqlite3.Connection, writer: Writer, desk: Desk, reactor: IReactorFromThreads) -> None:
        """``database`` is the writer's connection. Raises StoreUnavailable."""
        self._path = folder.database
        self._writers = database
        self._writer = writer
        self._desk = desk
        self._reactor = reactor
        self._own = connect_read_only(folder.database)
        self._is_long = False
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mailgw-housekeeping", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End, and close the connection."""
        self._ending.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._own.close()

    def _run(self) -> None:
        pause = _PAUSE
        while not self._ending.wait(pause):
            pause = _PAUSE
            with suppress(sqlite3.Error):  # the disk has its troubles: next time
                self._look_after_log()
                if self._has_much_free():
                    self._give_back()
                    pause = _BREATH

    def _look_after_log(self) -> None:
        frames = frames_in_use(self._path)
        if frames > _TOO_MUCH:
            self._desk.interrupt()
            if not self._is_long:
                text = "the log of the queue has grown to {size} MiB: somebody has been reading {path} for long"
                self._reactor.callFromThread(_log.warn, text, size=frames * PAGE_SIZE // 2**20, path=self._path)
        self._is_long = frames > _TOO_MUCH

    def _has_much_free(self) -> bool:
        (free,) = self._own.execute("PRAGMA freelist_count").fetchone()
        (pages,) = self._own.execute("PRAGMA page_count").fetchone()
        return bool(free > max(pages // 2, _LEAST_FREE))

    def _give_back(self) -> None:
        """Have the writer do it, and wait until it is done, or until the end."""
        done = threading.Event()

        def ask() -> None:
            self._writer.ask(partial(_shrink, self._writers)).addBoth(lambda _: done.set())

        self._reactor.callFromThread(ask)
        while not done.wait(_BREATH) and not self._ending.is_set():
            pass


def _shrink(database: sqlite3.Connection) -> None:
    # `execute` would stop after the first page.
    database.executescript(f"PRAGMA incremental_vacuum({_AT_ONCE})")


def remove_strays(folder: Folder, desk: Desk, last_message: int) -> None:
    """Remove files that a crash left without a row; numbers above ``last_message`` are being given out now."""
    with suppress(OSError, StoreUnavailable):  # the next start tries again
        numbers = [int(file.name) for file in folder.content.iterdir() if file.name.isdigit()]
        old = [number for number in numbers if number <= last_message]
        for start in range(0, len(old), 500):
            for number in desk.missing(old[start : start + 500]):
                folder.remove(number)
