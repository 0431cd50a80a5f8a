"""One worker, as its parent sees it: a process that comes and goes, what it says, and whether it is well."""

import fcntl
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from attrs import define, field
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import ILoggingContext
from twisted.internet.protocol import DatagramProtocol, ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.notify import Summary
from mailgw.observe.log import pass_on
from mailgw.workers.command import Command
from mailgw.workers.patience import Patience

__all__ = ["Ending", "Worker"]

# Not for a worker: sockets and watchdog are its parent's.
_NOT_HANDED_ON = ("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
_NO_SIGN = "gives no sign of life"
_PIPE = 2**20  # octets of a worker's log that may wait for us
_CHUNK = 8192  # octets that Twisted reads at once
_PAUSE = 0.05  # seconds
_START = 60.0  # seconds until a worker that was started must be ready

_log = Logger(namespace="mailgw.workers")


@define
class Ending:
    """How a process ended: by a signal, or with a status."""

    signal: int | None
    status: int | None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"signal {self.signal} ({signal.Signals(self.signal).name})"
        return f"status {self.status}"


class _Process(ProcessProtocol):
    """One life of a worker."""

    def __init__(self, worker: "Worker") -> None:
        self._worker = worker
        self._heard = {1: b"", 2: b""}
        self._pause: Any = None

    def connectionMade(self) -> None:  # noqa: N802
        for reader in (self._transport.pipes[one] for one in (1, 2) if one in self._transport.pipes):
            with suppress(OSError):  # the system gives a user so much and no more
                fcntl.fcntl(reader.fileno(), fcntl.F_SETPIPE_SZ, _PIPE)

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: N802, N803
        if len(data) < _CHUNK and self._pause is None:
            # All of it is read: let some more come together. Gain, measured: 15 µs of our CPU for each message that they take.
            self._transport.pauseProducing()
            self._pause = self._worker.reactor.callLater(_PAUSE, self._read_on)
        self._take(childFD, data)

    def _take(self, childFD: int, data: bytes) -> None:  # noqa: N803
        whole, line_end, rest = (self._heard[childFD] + data).rpartition(b"\n")
        self._heard[childFD] = rest
        self._pass_on(childFD, whole + line_end)

    def _read_on(self) -> None:
        self._pause = None
        self._transport.resumeProducing()

    @property
    def _transport(self) -> Any:
        return self.transport

    def childConnectionLost(self, childFD: int) -> None:  # noqa: N802, N803
        if self._heard.get(childFD):
            self._pass_on(childFD, self._heard[childFD] + b"\n")
            self._heard[childFD] = b""

    def processExited(self, reason: Failure) -> None:  # noqa: N802
        # Now, and not when its pipes are closed: a program that it started may still have them. But its last words are in them.
        for descriptor in (1, 2):
            if descriptor in self._transport.pipes:
                with suppress(OSError):
                    self._take(descriptor, os.read(self._transport.pipes[descriptor].fileno(), 2 * _PIPE))
        problem: Any = reason.value
        self._worker.has_ended(Ending(problem.signal, problem.exitCode))

    def _pass_on(self, descriptor: int, lines: bytes) -> None:
        text = lines.decode("utf-8", "backslashreplace")
        if descriptor == 1 and text:
            pass_on(text)
        elif text:
            _log.warn("worker {number} says: {text}", number=self._worker.number, text=text.rstrip())


@implementer(ILoggingContext)
class _Ear(DatagramProtocol):
    """Hears a worker's notifications, which it believes to be for its service manager."""

    noisy = False

    def logPrefix(self) -> str:  # noqa: N802 - what Twisted says is starting
        return "notify socket"

    def __init__(self, hear: Callable[[Sequence[str]], object]) -> None:
        self._hear = hear

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: ARG002, N802
        self._hear(datagram.decode("utf-8", "replace").splitlines())


@define(eq=False)
class Worker:
    """A worker and its lives. The parent is told by ``changed`` of its news, and by ``ended`` of its ends."""

    number: int
    command: Command
    notify: Path  # where its notifications are heard
    watchdog: float  # seconds without a sign of life after which it is killed
    reactor: Any
    changed: Callable[["Worker"], object]
    ended: Callable[["Worker", Ending], object]
    state: Literal["starting", "ready", "waiting", "stopped"] = "stopped"
    restarts: int = 0
    patience: Patience = field(factory=Patience)
    started: float = 0.0  # POSIX seconds
    until: float = 0.0  # POSIX seconds: when it is started again
    is_fed: bool = False  # its watchdog, since the parent fed its own
    summary: Summary | None = None
    edition: int = 0  # of what is in force, see `mailgw.workers.exchange`: what it has
    is_told: bool = False  # to go on with another edition
    trouble: str = ""  # what it says of itself, if it is not well
    _seen: float = 0.0  # when its watchdog was fed
    _process: Any = None
    _port: Any = None
    _check: Any = None

    @property
    def socket_length(self) -> int:
        """Octets in the path of the longest of its sockets."""
        return len(os.fsencode(self.notify.absolute()))

    @property
    def pid(self) -> int | None:
        """Its process, while there is one."""
        return self._process.pid if self._process is not None else None

    def start(self, handed: Mapping[str, int], edition: int) -> None:
        """Spawn its process; ``handed``: descriptors for it, see `Command.descriptors`."""
        self.edition, self.is_told = edition, False
        if self._port is None:
            self.notify.unlink(missing_ok=True)
            self._port = self.reactor.listenUNIXDatagram(str(self.notify), _Ear(self._hear), maxPacketSize=65536, mode=0o600)
        with suppress(BlockingIOError):
            while True:  # the last words of its last life
                self._port.socket.recv(65536)
        files, sockets = self.command.descriptors(handed)
        words = self.command.words(self.number, sockets)
        environment = {name: value for name, value in os.environ.items() if name not in _NOT_HANDED_ON}
        environment |= {"NOTIFY_SOCKET": str(self.notify.absolute()), "WATCHDOG_USEC": str(int(self.watchdog * 1e6))}
        self.state, self.started, self.is_fed, self.trouble, self.summary = "starting", self.reactor.seconds(), False, "", None
        try:
            self._process = self.reactor.spawnProcess(_Process(self), words[0], words, environment, childFDs=files)
        except OSError as problem:
            _log.critical("worker {number} cannot be started: {problem}", number=self.number, problem=problem)
            self.has_ended(Ending(None, os.EX_OSERR))
            return
        self._expect(_START, "is not ready")

    def tell(self, number: int) -> None:
        """Send it a signal, if it is there."""
        if self._process is not None:
            with suppress(ProcessExitedAlready):  # its end is heard of soon
                self._process.signalProcess(number)

    def forget(self) -> None:
        """Hear no more of it."""
        if self._port is not None:
            self._port.stopListening()
            self._port = None
            self.notify.unlink(missing_ok=True)

    def has_ended(self, ending: Ending) -> None:
        """Its process is over."""
        self._process, self.state = None, "stopped"
        if self._check is not None and self._check.active():
            self._check.cancel()
        self.ended(self, ending)

    def _hear(self, news: Sequence[str]) -> None:
        if self._process is not None:  # else the last words of one who is gone
            for one in news:
                self._take_notice(one)
            self.changed(self)

    def _take_notice(self, news: str) -> None:
        if news == "READY=1":
            self.state = "ready"
            self._expect(self.watchdog, _NO_SIGN)
        elif news == "WATCHDOG=1":
            self.is_fed, self.trouble = True, ""
            self._expect(self.watchdog, _NO_SIGN)
        elif news.startswith("EXTEND_TIMEOUT_USEC=") and news[20:].isdecimal():
            self._expect(int(news[20:]) / 1e6, "does not end")
        elif news.startswith("STATUS="):
            text = news.removeprefix("STATUS=")
            self.summary = Summary.parse(text) or self.summary
            self.trouble = text if text.startswith("Unwell") else ""

    def _expect(self, seconds: float, otherwise: str) -> None:
        if self._check is not None and self._check.active():
            self._check.cancel()
        self._check = self.reactor.callLater(seconds, self._give_up, otherwise, seconds)

    def _give_up(self, why: str, seconds: float) -> None:
        who = f"worker {self.number} (process {self.pid})"
        _log.critical("{who} {why}, after {seconds:g} seconds; it is killed", who=who, why=why, seconds=seconds)
        self.tell(signal.SIGKILL)
