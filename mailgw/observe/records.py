"""The decision records on the disk: appended to files of an hour, kept for a time, bounded in size.

They lie in ``state/records/``, begin with their hour (``2026-01-05T10-4711-0000.jsonl``; then the process, and a number), and are of use to
everybody who may read them: `mailgw explain`, ``grep``, whatever reads JSON lines. Each process writes files of its own.
"""

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Literal

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.observe.stories import DELIVERIES, line_of_delivery, line_of_record
from mailgw.values.record import Record

__all__ = ["Records", "Redaction", "make_reference", "pseudonym", "record_files"]

Redaction = Literal["nothing", "local-parts"]

_WRITE_AFTER = 0.25  # seconds: who asks about a refusal finds it
_MOST_WAITING = 500  # records
_PARTS = 16  # files that the bound on the size is kept with
_CHARACTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # without those that look like another
_LOCAL_PART = re.compile(r'[^\s"<>@,;:\\()\[\]]+(?=@)')

log = Logger(namespace="mailgw.records")


def make_reference(randomness: Random) -> str:
    """A name for a refusal: five characters that can be read out over the phone, one of 24 million."""
    return "".join(randomness.choices(_CHARACTERS, k=5))


def record_files(folder: Path) -> list[Path]:
    """The files of records in a folder, oldest first; their names begin with their time."""
    return sorted(folder.glob("*.jsonl"))


def pseudonym(local_part: str, key: bytes) -> str:
    """What stands for a local-part where they are redacted: always the same for the same one, and it tells nothing."""
    return f"~{blake2b(local_part.lower().encode(), key=key, digest_size=6).hexdigest()}"


@implementer(IObserver)
@define(eq=False)
class Records:
    """Takes decision records by `keep_record`, and deliveries from the journal.

    What was told is written 0.25 s later at the latest, and by `close`. When a file cannot be written, records are lost, the log
    says so once, and mail goes on. Raises OSError where the folder cannot be made.
    """

    folder: Path
    clock: IReactorTime  # its seconds() are POSIX seconds
    keep: float  # seconds
    max_size: int  # octets of all files
    redact: Redaction = "nothing"
    _key: bytes = field(init=False, default=b"")
    _file: Any = field(init=False, default=None)
    _path: Path = field(init=False, factory=Path)
    _hour: int = field(init=False, default=-1)
    _count: int = field(init=False, default=0)
    _size: int = field(init=False, default=0)
    _waiting: list[Record | tuple[Any, float]] = field(init=False, factory=list)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _complained: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.redact != "nothing":
            self._key = read_key(self.folder)

    def keep_record(self, record: Record) -> None:
        """Write a record down."""
        self._waiting.append(record)
        self._plan()

    def note(self, event: Any) -> None:
        if type(event) in DELIVERIES:
            self._waiting.append((event, self.clock.seconds()))
            self._plan()

    def _plan(self) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self.write()
        elif self._timer is None:
            self._timer = self.clock.callLater(_WRITE_AFTER, self.write)

    def write(self) -> None:
        """Write what is waiting."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        text = "".join([line_of_record(one) if isinstance(one, Record) else line_of_delivery(*one) for one in waiting])
        if self._key:
            text = _LOCAL_PART.sub(lambda match: pseudonym(match[0], self._key), text)
        rest = memoryview(text.encode("ascii"))
        try:
            self._begin_file_if_needed()
            self._size += len(rest)
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
            self._complained = False
        except OSError as problem:
            if not self._complained:
                self._complained = True
                log.error("decision records cannot be written to {folder}, they are lost: {problem}", folder=self.folder, problem=problem)

    def _begin_file_if_needed(self) -> None:
        hour = int(self.clock.seconds() // 3600)
        if self._file is not None and hour == self._hour and self._size < self.max_size // _PARTS:
            return
        self._close_file()
        self._sweep()
        stamp = f"{datetime.fromtimestamp(hour * 3600, UTC):%Y-%m-%dT%H}"
        while True:
            path = self.folder / f"{stamp}-{os.getpid()}-{self._count:04}.jsonl"
            self._count += 1
            try:
                self._file = os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "ab", 0)
            except FileExistsError:
                continue
            self._path, self._hour, self._size = path, hour, 0
            return

    def _sweep(self) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        too_old = self.clock.seconds() - self.keep
        left = self.max_size - self.max_size // _PARTS  # the file that begins now will need its part
        for path, status in reversed(_with_status(record_files(self.folder))):
            left -= status.st_size
            if left < 0 or status.st_mtime < too_old:
                path.unlink(missing_ok=True)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self.write()
        self._close_file()


def _with_status(paths: Sequence[Path]) -> list[tuple[Path, os.stat_result]]:
    found = []
    for path in paths:
        try:
            found.append((path, path.stat()))
        except FileNotFoundError:  # another process swept it
            continue
    return found


def read_key(folder: Path) -> bytes:
    """The secret that pseudonyms are made with; made when it is not there yet. Raises OSError."""
    path = folder / "key"
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(descriptor, "wb") as file:
        key = os.urandom(32)
        file.write(key)
    return key
