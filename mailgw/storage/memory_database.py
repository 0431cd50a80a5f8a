"""The file in which policies remember, shared by all processes of the machine; everything here blocks, and belongs to one thread.

It is only memory: a file that is damaged is moved aside, and a new one is begun.
"""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.logger import Logger

from mailgw.interfaces import MemoryUnavailable
from mailgw.storage.memory_rules import name_of, poured, surplus
from mailgw.values.quantities import Rate

__all__ = ["MemoryDatabase"]

log = Logger()

APPLICATION_ID = 0x6D67776D  # "mgwm"
VERSION = 1

_PATIENCE = 5.0  # seconds to wait for another process
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_COUNTER, _BUCKET, _TIME, _TEXT = range(4)

_TABLES = (
    """CREATE TABLE remembered(
        key TEXT NOT NULL,
        kind INTEGER NOT NULL,          -- 0 counter, 1 bucket, 2 time, 3 text
        name TEXT NOT NULL,             -- of the key: what stands before its first ":"
        ends REAL NOT NULL,             -- POSIX seconds
        number REAL NOT NULL,           -- the sum of a counter, the tokens of a bucket
        since REAL NOT NULL,            -- POSIX seconds: when the bucket was looked at, when the key was seen first
        text TEXT NOT NULL,
        PRIMARY KEY(key, kind)) STRICT, WITHOUT ROWID""",
    "CREATE INDEX endings ON remembered(name, ends)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

_LOOK = "SELECT number, since, text FROM remembered WHERE key = ? AND kind = ? AND ends > ?"
_KEEP = "INSERT OR REPLACE INTO remembered(key, kind, name, ends, number, since, text) VALUES(?, ?, ?, ?, ?, ?, ?)"
_COUNT_ON = "UPDATE remembered SET number = number + ? WHERE key = ? AND kind = ? AND ends > ? RETURNING number"
# Never later than now: the clock may have been set back.
_LIVE_ON = "UPDATE remembered SET ends = max(ends, ?), since = min(since, ?) WHERE key = ? AND kind = ? AND ends > ? RETURNING since"
_FIND = "SELECT key, text FROM remembered WHERE key >= ? AND kind = ? AND ends > ? ORDER BY key"
_FORGET = "DELETE FROM remembered WHERE key = ?"
_NAMES = "SELECT name, count(*) FROM remembered GROUP BY name"
_SWEEP = "DELETE FROM remembered WHERE name = ? AND ends <= ?"
_MAKE_ROOM = "DELETE FROM remembered WHERE (key, kind) IN (SELECT key, kind FROM remembered WHERE name = ? ORDER BY ends, key LIMIT ?)"


@define
class MemoryDatabase:
    """``path``: the file; ``room``: about how many rows it may hold. It is opened by the first `transact`."""

    path: Path
    room: int
    _connection: Any = field(default=None, init=False)
    _inode: int = field(default=0, init=False)
    _written: int = field(default=0, init=False)  # operations since the last sweep

    def transact(self, works: Sequence[Callable[[], Any]], now: float, writes: bool) -> list[Any]:
        """Do all of it in one transaction at ``now`` (POSIX seconds), and give the results; ``works`` call the methods below.

        ``writes``: whether any of them changes something. Raises MemoryUnavailable; nothing is done then.
        """
        try:
            try:
                return self._transact(works, now, writes)
            except sqlite3.DatabaseError as problem:
                if _kind_of(problem) not in _DAMAGED:
                    raise
                self._put_aside(str(problem))
                return self._transact(works, now, writes)
        except (sqlite3.Error, OSError) as problem:
            raise MemoryUnavailable(f"{self.path}: {problem}") from problem

    def close(self) -> None:
        """Close the file; `transact` would open it again."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(sqlite3.Error):
                connection.close()

    # ── Inside of `transact` ──

    def count(self, now: float, key: str, amount: int, lifetime: float) -> int:
        """See `IMemory`."""
        if not amount:
            row = self._look(now, key, _COUNTER)
            return int(row[0]) if row else 0
        # All rows are fetched: a statement that is not at its end would hold the transaction open.
        rows = self._connection.execute(_COUNT_ON, (amount, key, _COUNTER, now)).fetchall()
        if rows:
            return int(rows[0][0])
        self._keep(key, _COUNTER, now + lifetime, number=amount)
        return amount

    def take(self, now: float, key: str, amount: int, rate: Rate, burst: int) -> float:
        """See `IMemory`."""
        tokens, since, _ = self._look(now, key, _BUCKET) or (burst, now, "")
        wait, tokens, full_in = poured(tokens, since, now, amount, rate, burst)
        self._keep(key, _BUCKET, now + full_in, number=tokens, since=now)
        return wait

    def first_seen(self, now: float, key: str, lifetime: float) -> float:
        """See `IMemory`."""
        rows = self._connection.execute(_LIVE_ON, (now + lifetime, now, key, _TIME, now)).fetchall()
        if rows:
            return float(rows[0][0])
        self._keep(key, _TIME, now + lifetime, since=now)
        return now

    def remember(self, now: float, key: str, value: str, lifetime: float) -> None:
        """See `IMemory`."""
        self._keep(key, _TEXT, now + lifetime, text=value)

    def recall(self, now: float, key: str) -> str | None:
        """See `IMemory`."""
        row = self._look(now, key, _TEXT)
        return row[2] if row else None

    def find(self, now: float, prefix: str, limit: int) -> Mapping[str, str]:
        """See `IMemory`."""
        found: dict[str, str] = {}
        rows = self._connection.execute(_FIND, (prefix, _TEXT, now))
        for key, text in rows:
            if len(found) >= limit or not key.startswith(prefix):
                break
            found[key] = text
        rows.close()
        return found

    def forget(self, now: float, key: str) -> None:  # noqa: ARG002  like the others
        """See `IMemory`."""
        self._connection.execute(_FORGET, (key,))

    def _look(self, now: float, key: str, kind: int) -> Any:
        return self._connection.execute(_LOOK, (key, kind, now)).fetchone()

    def _keep(self, key: str, kind: int, ends: float, number: float = 0.0, since: float = 0.0, text: str = "") -> None:
        self._connection.execute(_KEEP, (key, kind, name_of(key), ends, number, since, text))
        self._written += 1

    # ── Around it ──

    def _transact(self, works: Sequence[Callable[[], Any]], now: float, writes: bool) -> list[Any]:
        if self._connection is not None and _inode_of(self.path) != self._inode:
            self.close()  # somebody has moved it aside or removed it
        if self._connection is None:
            self._open()
        connection = self._connection
        try:
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            results = [work() for work in works]
            if writes and self._written > self.room // 50:
                self._make_room(now)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise
        return results

    def _make_room(self, now: float) -> None:
        self._written = 0
        names = [name for name, _ in self._connection.execute(_NAMES).fetchall()]
        self._connection.executemany(_SWEEP, [(name, now) for name in names])
        losing = surplus(dict(self._connection.execute(_NAMES).fetchall()), self.room)
        self._connection.executemany(_MAKE_ROOM, losing.items())

    def _open(self) -> None:
        """Open the file, making it if needed. Raises sqlite3.Error, OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # One process at a time: SQLite does not wait for others when it goes over to WAL.
        with self._alone():
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))  # SQLite would take its mode from the umask
            self._inode = _inode_of(self.path)
            connection = sqlite3.connect(self.path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self._written = self.room  # what has ended meanwhile goes with the first transaction that writes

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        connection.execute("PRAGMA journal_mode = WAL")
        # With WAL this is safe against a power cut but for the last moments, and no policy waits for the disk.
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA journal_size_limit = 16777216")
        if not (application or version or tables):
            connection.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                connection.execute(statement)
            connection.execute("COMMIT")
        elif (application, version) != (APPLICATION_ID, VERSION):
            problem = sqlite3.DatabaseError("it is no memory of this version of mailgw")
            problem.sqlite_errorcode = sqlite3.SQLITE_NOTADB
            raise problem

    def _put_aside(self, why: str) -> None:
        """Move the file away, unless another process has done so already; the one moved away last is kept."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with self._alone():
            if _inode_of(self.path) != self._inode:
                return
            for ending in ("", "-wal"):
                with suppress(FileNotFoundError):
                    os.replace(f"{self.path}{ending}", f"{aside}{ending}")
            Path(f"{self.path}-shm").unlink(missing_ok=True)
        log.error(
            "{path} cannot be used ({why}): it is moved to {aside}, and all that policies remembered is forgotten",
            path=str(self.path),
            aside=str(aside),
            why=why,
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        lock = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            tries = round(_PATIENCE / 0.02)
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    tries -= 1
                    if not tries:
                        raise
                time.sleep(0.02)  # in the memory's own thread
            yield
        finally:
            os.close(lock)


def _kind_of(problem: sqlite3.Error) -> int:
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF  # the lower octet is the kind (sqlite.org/rescode.html)


def _inode_of(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
