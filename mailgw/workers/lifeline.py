"""The worker's end of the pipe that its parent holds: when the parent is gone, it is not for the worker to go on."""

import os
import select
from collections.abc import Callable
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.main import CONNECTION_DONE
from twisted.python.failure import Failure

__all__ = ["Lifeline", "is_cut"]


def is_cut(descriptor: int) -> bool:
    """Whether the parent is gone, for those who have no reactor yet."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


class Lifeline(FileDescriptor):
    """Watches a descriptor until its other end is closed, or the reactor ends, and then calls ``cut``. Nothing comes through it."""

    def __init__(self, descriptor: int, reactor: Any, cut: Callable[[], object]) -> None:
        super().__init__(reactor)
        self._descriptor = descriptor
        self._cut = cut
        os.set_blocking(descriptor, False)
        self.connected = 1
        self.startReading()  # type: ignore[no-untyped-call]
        if is_cut(descriptor):  # before anything else is done in the first turn of the reactor
            cut()

    def fileno(self) -> int:
        """See twisted's IFileDescriptor."""
        return self._descriptor

    def doRead(self) -> Exception | None:  # noqa: N802
        """See twisted's IReadDescriptor."""
        try:
            return None if os.read(self._descriptor, 4096) else CONNECTION_DONE
        except BlockingIOError:
            return None

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        """See twisted's IFileDescriptor: also when the reactor ends."""
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self._cut()
