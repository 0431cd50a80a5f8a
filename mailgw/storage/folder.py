"""The state folder: who owns it, the files being received, and the big messages that lie beside the database."""

import errno
import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path

from attrs import define, field

from mailgw.interfaces import StoreUnavailable

__all__ = ["Folder", "FolderInUse"]

# link(2) says these where another name cannot be made: another file system, or one without hard links.
_NO_LINK = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP)


class FolderInUse(StoreUnavailable):
    """Another process owns the folder."""


@define
class Folder:
    """A state folder: ``queue.db``, ``lock``, ``content/`` (big messages by number) and ``incoming/`` (being received)."""

    path: Path
    _lock: int = field(default=-1, init=False)

    @property
    def database(self) -> Path:
        """The database."""
        return self.path / "queue.db"

    @property
    def incoming(self) -> Path:
        """Where receivers create their files."""
        return self.path / "incoming"

    @property
    def content(self) -> Path:
        """Where the big messages lie."""
        return self.path / "content"

    @property
    def suspect(self) -> Path:
        """A file that is there where the database was found damaged while it was used; it says what was found."""
        return self.path / "queue.db.suspect"

    def own(self) -> None:
        """Make the folder if needed, lock it for this process and empty ``incoming/``. Raises FolderInUse, OSError."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.disown()
            raise FolderInUse(f"{self.path} is in use by another mailgw") from None
        self.make()
        for leftover in self.incoming.iterdir():
            leftover.unlink()

    def make(self) -> None:
        """Make what is missing in the folder. Raises OSError."""
        for folder in (self.content, self.incoming):
            folder.mkdir(mode=0o700, exist_ok=True)
        os.close(os.open(self.database, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite would take its mode from the umask
        sync(self.path)

    def disown(self) -> None:
        """Give the lock back."""
        os.close(self._lock)
        self._lock = -1

    def file(self, message: int) -> Path:
        """Where the original of a big message lies."""
        return self.content / str(message)

    def keep(self, original: Path, message: int) -> Path:
        """Bring a file safely to the disk under the message's number; the old name stays until `let_go`. Raises OSError.

        The new name itself is safe only after `sync_names`.
        """
        target = self.file(message)
        sync(original)
        with suppress(FileNotFoundError):
            target.unlink()  # numbers are never used twice: what is there belongs to a commit that did not happen
        try:
            target.hardlink_to(original)
        except OSError as problem:
            if problem.errno not in _NO_LINK:
                raise
            try:
                shutil.copyfile(original, target)
                target.chmod(0o600)
                sync(target)
            except OSError:
                target.unlink(missing_ok=True)
                raise
        return target

    def sync_names(self) -> None:
        """Bring the names in ``content/`` safely to the disk. Raises OSError."""
        sync(self.content)

    def let_go(self, original: Path) -> None:
        """Remove the name under which a file was received; another message's file stays."""
        if original.parent != self.content:
            with suppress(OSError):
                original.unlink()

    def remove(self, message: int) -> None:
        """Remove the file of a message that is no longer there. What cannot be removed now is found at the next start."""
        with suppress(OSError):
            self.file(message).unlink()


def sync(path: Path) -> None:
    """Bring a file or a folder's names safely to the disk (fsync). Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
