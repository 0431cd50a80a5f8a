"""A file that a policy reads again when it changed, and whose last good state stays in force while it cannot be read."""

from collections.abc import Callable
from os import fstat, stat_result
from pathlib import Path
from typing import IO, Generic, TypeVar

from attrs import define, field
from twisted.logger import Logger

from mailgw.interfaces import IClock

__all__ = ["KeptFile"]

log = Logger()

_CHECK_EVERY = 1.0  # seconds
_SETTLED_AFTER = 1.0  # seconds

_Content = TypeVar("_Content")


@define(eq=False)
class KeptFile(Generic[_Content]):
    """What ``parse`` makes of the file at ``path``; it is looked at once a second at most, when somebody asks.

    Making one raises ValueError when the file cannot be read; ``parse`` raises ValueError, with file and line, for what is wrong in it.
    """

    path: Path
    parse: Callable[[IO[bytes], Path], _Content]
    clock: IClock
    _content: _Content = field(init=False)
    _stamp: tuple[int, ...] = field(init=False)
    _changed: tuple[int, ...] | None = field(default=None, init=False)  # a change that was seen, but perhaps is not finished yet
    _checked: float = field(default=0.0, init=False)  # POSIX seconds

    def __attrs_post_init__(self) -> None:
        try:
            self._read()
        except OSError as problem:
            raise ValueError(f"{self.path}: {problem.strerror}") from problem

    def content(self) -> _Content:
        """As it is now."""
        now = self.clock.now().timestamp()
        if not 0 <= now - self._checked < _CHECK_EVERY:
            self._checked = now
            self._look_again(now)
        return self._content

    def _read(self) -> None:
        with self.path.open("rb") as file:
            stamp = _stamp_of(fstat(file.fileno()))
            self._content = self.parse(file, self.path)
            self._stamp = stamp

    def _look_again(self, now: float) -> None:
        try:
            found = self.path.stat()
        except OSError as problem:
            if self._changed != ():
                self._changed = ()
                self._complain(problem)
            return
        stamp = _stamp_of(found)
        if stamp == self._stamp:
            self._changed = None
            return
        # A file that changed a moment ago may be half written, and half a list would refuse good mail for ever.
        if stamp != self._changed and not now - found.st_mtime > _SETTLED_AFTER:
            self._changed = stamp
            return
        try:
            self._read()
        except (OSError, ValueError) as problem:
            self._stamp = stamp  # complain once for each change
            self._complain(problem)
        self._changed = None

    def _complain(self, problem: Exception) -> None:
        log.error(
            "{path} cannot be read, the last good list of {count} stays in force: {problem}",
            path=str(self.path),
            count=len(self._content),  # type: ignore[arg-type]  # lists and tables have a length
            problem=str(problem),
        )


def _stamp_of(found: stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_size, found.st_ino
