"""A password file that is changed: line by line, as a whole or not at all, by one at a time."""

import fcntl
import os
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from attrs import define, field

from mailgw.login.password_lines import Entry, key_of, lines_of

__all__ = ["CannotWrite", "Page", "changing", "reading"]

_PATIENCE = 10.0  # seconds for others who are writing
_MODE = 0o640  # of a new file; its group is the folder's


class CannotWrite(Exception):
    """The file is as it was; the message says why."""


@define
class Page:
    """What stands in the file; comments, order and all that is not changed stay as they are."""

    text: str = field(repr=False)
    case_sensitive: bool = False

    @property
    def entries(self) -> list[Entry]:
        """The accounts, in order."""
        return list(lines_of(self.text))

    def find(self, user: str) -> Entry | None:
        """The line of a user. Raises CannotWrite where there are two, ValueError where there can be no such user."""
        key = key_of(user, self.case_sensitive)
        found = [entry for entry in self.entries if _is(entry, key, self.case_sensitive)]
        if len(found) > 1:
            raise CannotWrite(f"{user} is there twice, in lines {' and '.join(str(entry.number) for entry in found)}")
        return found[0] if found else None

    def add(self, user: str, password: str) -> None:
        """Put a line at the end."""
        if self.text and not self.text.endswith("\n"):
            self.text += "\n"
        self.text += f"{user}:{password}\n"

    def replace(self, entry: Entry, password: str) -> None:
        """Another password field in a line; its other fields stay."""
        self._put(entry, [":".join([entry.name, password, *entry.fields[2:]])])

    def remove(self, entry: Entry) -> None:
        """Take a line out."""
        self._put(entry, [])

    def _put(self, entry: Entry, instead: list[str]) -> None:
        lines = self.text.split("\n")
        end = "\r" if lines[entry.number - 1].endswith("\r") else ""
        lines[entry.number - 1 : entry.number] = [line + end for line in instead]
        self.text = "\n".join(lines)


def _is(entry: Entry, key: str, case_sensitive: bool) -> bool:
    try:
        return key_of(entry.name, case_sensitive) == key
    except ValueError:
        return False


def reading(path: Path, case_sensitive: bool = False) -> Page:
    """The file as it is. Raises OSError, CannotWrite where it is no text."""
    octets = path.read_bytes()
    try:
        return Page(octets.decode(), case_sensitive)
    except UnicodeDecodeError as problem:
        line = octets.count(b"\n", 0, problem.start) + 1
        raise CannotWrite(f"{path}:{line}: is not UTF-8") from None


@contextmanager
def changing(path: Path, case_sensitive: bool = False) -> Iterator[Page]:
    """The file, to be changed; it is written at the end, unless an exception comes before. One that is not there is empty.

    Who reads it meanwhile sees the old one or the new one, whatever happens. Raises OSError, CannotWrite.
    """
    path = path.resolve()  # a link stays one
    with _alone_in(path.parent):
        try:
            found = path.stat()
            page = reading(path, case_sensitive)
        except FileNotFoundError:
            found, page = None, Page("", case_sensitive)
        before = page.text
        yield page
        if page.text != before:
            _write(path, page.text.encode(), found)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    # The folder and not the file, which is another one after each writing.
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise CannotWrite(f"somebody else has been writing in {folder} for {_PATIENCE:g} seconds") from None
                time.sleep(0.05)
        yield
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write(path: Path, octets: bytes, found: os.stat_result | None) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _dress(descriptor, path, found)
            file.write(octets)
            file.flush()
            os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _dress(descriptor: int, path: Path, found: os.stat_result | None) -> None:
    """The owner and the mode of the old file, without which the daemon might not be able to read the new one."""
    mine = os.fstat(descriptor)
    if found is None:
        with suppress(PermissionError):
            os.fchown(descriptor, -1, path.parent.stat().st_gid)
        os.fchmod(descriptor, _MODE)
        return
    if (mine.st_uid, mine.st_gid) != (found.st_uid, found.st_gid):
        try:
            os.fchown(descriptor, found.st_uid, found.st_gid)
        except PermissionError:
            raise CannotWrite(f"{path} belongs to user {found.st_uid}, group {found.st_gid}: only they and root can replace it") from None
    os.fchmod(descriptor, stat.S_IMODE(found.st_mode))
