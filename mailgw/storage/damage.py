"""Is the database whole? A look at one that nobody has open, before anything is written to it; and where a damaged one goes.

SQLite says itself what is wrong with the database. About its log it says nothing: frames that it cannot use are left out, as after
a loss of power, so what was committed with them would be gone without a word. But a commit is on the disk before the next one is
begun (``synchronous = FULL``): frames of this log behind a commit that cannot be used mean damage (sqlite.org/fileformat2.html §4).
"""

import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import BinaryIO

from mailgw.interfaces import StoreDamaged, StoreUnavailable
from mailgw.storage.folder import Folder, sync
from mailgw.storage.housekeeping import frames_in_use
from mailgw.storage.schema import TABLE_NAMES, connect_read_only
from mailgw.storage.trouble import translated

__all__ = ["damage", "damaged_folders", "highest_number", "mark", "set_aside"]

_PATIENCE = 1.0  # seconds for looking into it at the start; what is not seen by then is found when it is read
_STEPS = 20_000  # of SQLite's machine between two looks at the time
_MARGIN = 1_000_000  # message numbers left out behind what can still be read: some may not be seen any more
_MAGIC = (0x377F0682, 0x377F0683)
_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")


def damage(folder: Folder) -> str:
    """What is wrong with the database in ``folder``, or the empty string. Raises StoreUnavailable where it cannot be asked."""
    if folder.suspect.exists():
        return folder.suspect.read_text(errors="replace") or "found while running"
    log = Path(f"{folder.database}-wal")
    if not folder.database.stat().st_size:
        return "it is empty, but its log is not" if log.exists() and log.stat().st_size else ""
    try:
        with closing(connect_read_only(folder.database)) as database:
            return _look_into(database) or _lost_commits(folder.database, log)
    except StoreDamaged as problem:
        return str(problem)
    except sqlite3.Error as problem:
        kind = translated(problem, folder.database)
        if isinstance(kind, StoreDamaged):
            return str(kind)
        raise kind from problem


def _look_into(database: sqlite3.Connection) -> str:
    names = {name for (name,) in database.execute("SELECT name FROM sqlite_schema")}
    if not names >= TABLE_NAMES:
        return f"it has no {', '.join(sorted(TABLE_NAMES - names))}"
    end = monotonic() + _PATIENCE
    database.set_progress_handler(lambda: monotonic() > end, _STEPS)
    try:
        (found,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.OperationalError as problem:
        if problem.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
        return ""
    finally:
        database.set_progress_handler(None, 0)
    return "" if found == "ok" else str(found)


def _lost_commits(path: Path, log: Path) -> str:
    if not log.exists() or log.stat().st_size < _HEADER.size:
        return ""
    with open(log, "rb") as file:
        header = file.read(_HEADER.size)
        if not any(header):
            return ""  # its room was made, and then the power was lost
        magic, _, page_size, _, *salts, first, second = _HEADER.unpack(header)
        if magic not in _MAGIC or _sums(header[:24], "<" if magic == _MAGIC[0] else ">") != (first, second):
            return "the header of its log cannot be read"
        used = frames_in_use(path)
        committed = False
        for commits in _frames(file, page_size, used, tuple(salts)):
            if committed:
                return f"commits in its log cannot be read, from frame {used + 1} on"
            committed = commits
    return ""


def _frames(file: BinaryIO, page_size: int, used: int, salts: tuple[int, ...]) -> Iterator[bool]:
    """For each frame of this log behind those in use: whether it ends a commit."""
    number = used
    while True:
        file.seek(_HEADER.size + number * (_FRAME.size + page_size))
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return
        _, commit, *rest = _FRAME.unpack(head)
        if tuple(rest[:2]) == salts:
            yield commit != 0
        number += 1


def _sums(data: bytes, order: str) -> tuple[int, int]:
    # sqlite.org/fileformat2.html §4.2
    first = second = 0
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second


def mark(folder: Folder, why: str) -> None:
    """Say to the next start that the database is damaged, wherever it looks. Raises OSError."""
    folder.suspect.write_text(why)
    sync(folder.suspect)
    sync(folder.path)


def highest_number(folder: Folder, base: int, now: float) -> int:
    """Behind this message number none was given out by a damaged database whose numbers began after ``base``."""
    numbers = [base, *(int(file.name) for file in folder.content.iterdir() if file.name.isdigit())]
    try:
        if not folder.database.stat().st_size:
            raise StoreDamaged("it is empty")  # not looked into: SQLite would remove the log
        with closing(connect_read_only(folder.database)) as database:
            numbers += database.execute("SELECT message FROM counter").fetchone()
    except (sqlite3.Error, StoreUnavailable, TypeError):
        # Nothing can be known. Less than one message came in for each second since 1970.
        numbers.append(base + int(now))
    return max(numbers) + _MARGIN


def set_aside(folder: Folder, why: str) -> Path:
    """Move a damaged database, its log and the big messages into a folder of their own, a state folder again, and give that.

    Whoever died in the midst of it is followed by the next start, which goes on with the same folder. Raises OSError.
    """
    with suppress(OSError):  # a disk that takes nothing more
        mark(folder, why)  # what is left of it may look whole
    log = Path(f"{folder.database}-wal")
    aside = _begun(folder, log) or folder.path / f"damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}"
    aside.mkdir(mode=0o700, exist_ok=True)
    # The database last: with it, the folder is complete.
    for path in (folder.content, log):
        if path.exists() and not (aside / path.name).exists():
            path.rename(aside / path.name)
    folder.database.rename(aside / folder.database.name)
    sync(aside)
    for left in (log, Path(f"{folder.database}-shm"), folder.suspect):
        left.unlink(missing_ok=True)
    folder.make()
    return aside


def _begun(folder: Folder, log: Path) -> Path | None:
    """The folder in which somebody before us has begun, and not ended: what it has already, here is none of but an empty one."""
    full = {folder.content.name: any(folder.content.iterdir()), log.name: log.exists() and log.stat().st_size > 0}
    for path in map(Path, damaged_folders(folder.path)):
        if not (path / folder.database.name).exists() and not any(full[name] and (path / name).exists() for name in full):
            return path
    return None


def damaged_folders(folder: Path) -> list[str]:
    """The paths of those that were set aside in a state folder, by time."""
    return sorted(str(path) for path in folder.absolute().glob("damaged-*") if path.is_dir())
