"""Several processes at one listening socket: whose turn it is to take the next connection, and ports that keep to it."""

import os
import socket
from collections.abc import Callable
from mmap import mmap
from typing import Any

from twisted.internet import tcp, unix
from twisted.python.failure import Failure

__all__ = ["Crowd", "take_over"]

_MOST = 64  # workers
_ABSENT = -1
_WAIT = 0.001  # seconds that the others have to take a connection, when it is their turn
_WAITS = 5  # after so many of them it is taken all the same: they may be stuck


class Crowd:
    """How many sessions each worker has, in memory that all of them and their parent see.

    Idle processes that wait at one socket are all woken by a connection, and the first to come takes it: of a burst, one of them
    would get nearly all. So who has clearly more than another leaves it to him for a moment.
    """

    def __init__(self, descriptor: int, number: int, sessions: Callable[[], int]) -> None:
        """Join; ``descriptor`` is of the memory, ``sessions`` counts our own. The parent has the number 0."""
        self.descriptor = descriptor
        self._numbers = memoryview(mmap(descriptor, 8 * (_MOST + 1))).cast("q")
        self._own = number
        self._sessions = sessions

    @classmethod
    def gather(cls) -> "Crowd":
        """The parent's: nobody is there yet. Raises OSError."""
        descriptor = os.memfd_create("mailgw-workers", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, 8 * (_MOST + 1))
        crowd = cls(descriptor, 0, lambda: _ABSENT)
        for number in range(_MOST + 1):
            crowd.leave(number)
        return crowd

    def leave(self, number: int) -> None:
        """A worker is gone."""
        self._numbers[number] = _ABSENT

    def tell(self) -> int:
        """Let the others see how many sessions we have."""
        self._numbers[self._own] = sessions = self._sessions()
        return sessions

    def is_others_turn(self) -> bool:
        """Whether another worker has clearly fewer sessions: two less, of many an eighth."""
        own = self.tell()
        least = min((one for number, one in enumerate(self._numbers) if one != _ABSENT and number != self._own), default=own)
        return own > 1 + least + least // 8


class _Turns:
    """One connection in each turn of the reactor, and none while it is another's turn."""

    crowd: Crowd
    _waits = 0

    def doRead(self: Any) -> None:  # noqa: N802
        if self._waits < _WAITS and self.crowd.is_others_turn():
            self._waits += 1
            self.stopReading()
            self.reactor.callLater(_WAIT, self._look_again)
            return
        self._waits = 0
        self.numberAccepts = 1
        super().doRead()  # type: ignore[misc]
        self.crowd.tell()

    def _look_again(self: Any) -> None:
        if self.connected and not self.disconnecting:
            self.startReading()


class _TcpPort(_Turns, tcp.Port):
    pass


class _UnixPort(_Turns, unix.Port):
    """The path and its mode belong to the process that bound it."""

    _shouldShutdown = False  # noqa: N815

    def startListening(self) -> None:  # noqa: N802
        listening: Any = self._preexistingSocket
        self._preexistingSocket = None
        factory: Any = self.factory
        factory.doStart()
        self.socket, self.connected = listening, True
        self.fileno = listening.fileno  # type: ignore[method-assign]
        self.startReading()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure) -> None:  # noqa: N802
        tcp.Port.connectionLost(self, reason)  # type: ignore[no-untyped-call]


def take_over(descriptor: int, factory: Any, crowd: Crowd, reactor: Any) -> Any:
    """A port on a listening socket that other processes have, too; the descriptor is closed.

    As `reactor.adoptStreamPort` does, which knows neither turns nor that a Unix socket is somebody else's.
    """
    with socket.socket(fileno=descriptor) as inherited:
        inherited.setblocking(False)
        if inherited.family == socket.AF_UNIX:
            port: Any = _UnixPort._fromListeningDescriptor(reactor, descriptor, factory)  # type: ignore[no-untyped-call]
        else:
            port = _TcpPort._fromListeningDescriptor(reactor, descriptor, inherited.family, factory)  # type: ignore[no-untyped-call]
    port.crowd = crowd
    port.startListening()
    return port
