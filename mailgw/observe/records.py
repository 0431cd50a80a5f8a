"""The decision records on the disk: appended to files of an hour, kept for a time, bounded in size.

They lie in ``state/records/``, begin with their hour (``2026-01-05T10-4711-0000.jsonl``; then the process, and a number), and are of use to
everybody who may read them: `mailgw explain`, ``grep``, whatever reads JSON lines. Each process writes files of its own.
"""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any, Literal

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.observe.stories import DELIVERIES, Scribe
from mailgw.values.record import Record

__all__ = ["PORTION", "Records", "Redaction", "make_reference", "pseudonym", "record_files", "redacted"]

Redaction = Literal["nothing", "local-parts"]

PORTION = 32 * 1024
"""Octets after which waiting records are written: 0.1 ms, which no session notices."""

_WRITE_AFTER = 0.25  # seconds: who asks about a refusal finds it
_KEY = 32  # octets
_PARTS = 16  # files that the bound on the size is kept with
_CHARACTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # without those that look like another
# A quoted local-part (RFC 5321 §4.1.2) only where a word begins: between two quoted names it would be what stands between them.
_LOCAL_PART = re.compile(r'((?<![^\s<:,(])"(?:[^"\\]|\\.){1,130}+"(?=@)|[^\s"<>@,;:\\()\[\]]++)(@?)')

log = Logger(namespace="mailgw.records")


def make_reference(randomness: Random) -> str:
    """A name for a refusal: five characters that can be read out over the phone, one of 24 million."""
    return "".join(randomness.choices(_CHARACTERS, k=5))


def record_files(folder: Path) -> list[Path]:
    """The files of records in a folder, oldest first; their names begin with their time."""
    return sorted(folder.glob("*.jsonl"))


def pseudonym(local_part: str, key: bytes) -> str:
    """What stands for a local-part where they are redacted: always the same for the same one, and it tells nothing."""
    return f"~{blake2b(local_part.lower().encode(errors='surrogatepass'), key=key, digest_size=6).hexdigest()}"


def redacted(text: str, key: bytes) -> str:
    """The text with pseudonyms for the local-parts of all addresses in it."""
    if "@" not in text:
        return text
    return _LOCAL_PART.sub(lambda found: f"{pseudonym(found[1], key)}@" if found[2] else found[0], text)


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
    _file: Any = field(init=False, default=None)
    _path: Path = field(init=False, factory=Path)
    _hour: int = field(init=False, default=-1)
    _count: int = field(init=False, default=0)
    _size: int = field(init=False, default=0)
    _scribe: Scribe = field(init=False, factory=Scribe)
    _waiting: list[str] = field(init=False, factory=list)
    _length: int = field(init=False, default=0)  # of what is waiting
    _timer: IDelayedCall | None = field(init=False, default=None)
    _complained: bool = field(init=False, default=False)
    _puzzled: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.redact != "nothing":
            self._scribe = Scribe(partial(redacted, key=read_key(self.folder)))

    def keep_record(self, record: Record) -> None:
        """Write a record down."""
        # At once, while all of it is at hand: a record that waits costs more to find again than to write.
        try:
            line = self._scribe.line_of_record(record)
        except Exception as problem:  # a plugin gave what is no text: its fault must not cost mail
            if not self._puzzled:
                self._puzzled = True
                log.error("a decision record has what cannot be written, it is lost: {problem!r}", problem=problem)
            return
        self._add(line)

    def note(self, event: Any) -> None:
        if type(event) in DELIVERIES:
            self._add(self._scribe.line_of_delivery(event, self.clock.seconds()))

    def _add(self, line: str) -> None:
        self._waiting.append(line)
        self._length += len(line)
        if self._length >= PORTION:
            self.write()
        elif self._timer is None:
            self._timer = self.clock.callLater(_WRITE_AFTER, self._write_in_time)

    def _write_in_time(self) -> None:
        self._timer = None
        self.write()

    def write(self) -> None:
        """Write what is waiting."""
        if not self._waiting:
            return
        rest = memoryview("".join(self._waiting).encode("ascii"))
        self._waiting.clear()
        self._length = 0
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
        if self._file is not None and hour == self._hour and self._size < self.max_size // _PARTS and self._is_there():
            return
        self._close_file()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
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

    def _is_there(self) -> bool:
        """Whether nobody has removed our file, as another process does that makes room, and whoever tidies up."""
        return os.fstat(self._file.fileno()).st_nlink > 0

    def _sweep(self) -> None:
        """Remove what is too old, and the oldest of what is too much."""
        too_old = self.clock.seconds() - self.keep
        left = self.max_size - self.max_size // _PARTS  # the file that begins now will need its part
        # By time and not by name: in one hour, the names of one process come before those of the other.
        for path, status in sorted(_with_status(record_files(self.folder)), key=lambda one: one[1].st_mtime_ns, reverse=True):
            left -= status.st_size
            if left < 0 or status.st_mtime < too_old:
                path.unlink(missing_ok=True)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Write what is waiting and close the file."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
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
    if not path.exists():
        # It gets its name when it is whole: half of one, or none, would make pseudonyms that everybody can work out.
        made = folder / f"key-{os.getpid()}"
        with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(os.urandom(_KEY))
        with suppress(FileExistsError):  # another process was first
            os.link(made, path)
        made.unlink()
    key = path.read_bytes()
    if len(key) != _KEY:
        raise OSError(f"{path} is no key; remove it, and a new one is made")
    return key
