"""The journal as JSON lines in a file, for ``--json-log``: one object for each event, with all its fields."""

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.observe.log import names_of, word_of
from mailgw.values.address import Address
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

__all__ = ["JsonLines"]

log = Logger()

_WRITE_AFTER = 1.0  # seconds
_MOST_WAITING = 1000  # events


def _plain(value: Any) -> Any:
    if isinstance(value, Reply):
        return {"code": value.code, "enhanced": value.enhanced, "text": value.text}
    if isinstance(value, Recipient):
        return str(value.address)
    if isinstance(value, Address):
        return str(value)
    return repr(value)


_encode: Callable[[Any], str] = json.JSONEncoder(default=_plain, separators=(",", ":"), check_circular=False).encode


@implementer(IObserver)
@define(eq=False)
class JsonLines:
    """Appends each event to a file: ``{"time": "2026-01-05T10:00:00.000000+00:00", "event": "accepted", "session": ...}``.

    What was noted is written at the latest one second later, and by `close`. A file that was moved or removed (logrotate) is
    begun anew. When the file cannot be written, events are lost, the log says so once, and mail goes on. Raises OSError when
    the file cannot be opened at the start.
    """

    path: Path
    clock: IReactorTime  # its seconds() are POSIX seconds
    worker: int | None = None  # who we are, where several processes append to the file
    _file: FileIO = field(init=False)
    _waiting: list[str] = field(init=False, factory=list)
    _timer: IDelayedCall | None = field(init=False, default=None)
    _complained: bool = field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self._file = self._opened()

    def note(self, event: Any) -> None:
        kind = type(event)
        time = datetime.fromtimestamp(self.clock.seconds(), UTC).isoformat(timespec="microseconds")
        told: dict[str, Any] = {"time": time, "event": word_of(kind)}
        if self.worker is not None:
            told["worker"] = self.worker
        for name in names_of(kind):
            told[name] = getattr(event, name)
        self._waiting.append(_encode(told))
        if len(self._waiting) >= _MOST_WAITING:
            self.write()
        elif self._timer is None:
            self._timer = self.clock.callLater(_WRITE_AFTER, self.write)

    def write(self) -> None:
        """Write what is waiting."""
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
        if not self._waiting:
            return
        rest = memoryview("".join(f"{line}\n" for line in self._waiting).encode("ascii"))
        self._waiting.clear()
        try:
            if self._is_rotated():
                self._file.close()
                self._file = self._opened()
            while rest:
                rest = rest[self._file.write(rest) :]
            self._complained = False
        except OSError as problem:
            if not self._complained:
                self._complained = True
                log.error("{path} cannot be written, events are lost: {problem}", path=str(self.path), problem=str(problem))

    def close(self) -> None:
        """Write what is waiting and close the file; nothing can be noted after this."""
        self.write()
        self._file.close()

    def _opened(self) -> FileIO:
        return FileIO(self.path, "a")

    def _is_rotated(self) -> bool:
        if self._file.closed:
            return True
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            return True
