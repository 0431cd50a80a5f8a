"""One run of a program: from its start to its exit status, within a time limit."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import IO, Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

__all__ = ["Ended", "Program"]

_MOST_HEARD = 4096  # octets of output that are kept; the rest is read and forgotten, so that the program can end
_LAST_WORDS = 1.0  # seconds for which the output of a program that has exited is waited for: a child of its may hold it open
_GRACE = 5.0  # seconds from SIGTERM to SIGKILL


@frozen
class Ended:
    """How a program ended: with a status, or by a signal."""

    status: int | None
    signal: int | None
    output: bytes  # what came on standard output and standard error, as it came; the beginning of it
    too_slow: bool = False  # the time was up before

    @property
    def first_line(self) -> str:
        """The first line of the output that is not empty, fit for a reply."""
        for line in self.output.decode("utf-8", "replace").splitlines():
            text = "".join(character if character.isprintable() else "?" for character in line).strip()
            if text:
                return text[:200]
        return ""


class Program(ProcessProtocol):
    """Start it with `run`; once."""

    def __init__(self, clock: IReactorTime, timeout: float) -> None:
        self._clock = clock
        self._timeout = timeout
        self._ended: Deferred[Ended] = Deferred(lambda _: self._terminate())
        self._output = b""
        self._too_slow = False
        self._timer: IDelayedCall | None = None
        self._reason: Any = None

    def run(
        self,
        processes: IReactorProcess,
        executable: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdin: IO[bytes],
        directory: str | None,
        uid: int | None,
        gid: int | None,
    ) -> "Deferred[Ended]":
        """Start it with a file as its standard input. Cancelling ends the program. Raises OSError."""
        processes.spawnProcess(
            self,
            executable.encode(),
            [argument.encode() for argument in arguments],
            {name.encode(): value.encode() for name, value in environment.items()},
            None if directory is None else directory.encode(),
            uid,
            gid,
            childFDs={0: stdin.fileno(), 1: "r", 2: "r"},
        )
        if self._reason is None:
            self._timer = self._clock.callLater(self._timeout, self._time_is_up)
        return self._ended

    def childDataReceived(self, childFD: int, data: bytes) -> None:  # noqa: ARG002, N802, N803 - named by Twisted
        self._output += data[: _MOST_HEARD - len(self._output)]

    def processExited(self, reason: Failure) -> None:  # noqa: N802
        self._reason = reason.value
        self._set_timer(_LAST_WORDS, self._finish)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        self._reason = reason.value
        self._finish()

    def _time_is_up(self) -> None:
        self._too_slow = True
        self._terminate()

    def _terminate(self) -> None:
        if self._reason is None:
            self._signal("TERM")
            self._set_timer(_GRACE, lambda: self._signal("KILL"))

    def _signal(self, name: str) -> None:
        with suppress(ProcessExitedAlready, PermissionError):  # a program that has become another user's cannot be ended by us
            self.transport.signalProcess(name)  # type: ignore[union-attr]

    def _set_timer(self, seconds: float, call: Callable[[], None]) -> None:
        self._clear_timer()
        self._timer = self._clock.callLater(seconds, call)

    def _clear_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()

    def _finish(self) -> None:
        self._clear_timer()
        self.transport.loseConnection()  # type: ignore[union-attr]
        if not self._ended.called:
            self._ended.callback(Ended(self._reason.exitCode, self._reason.signal, self._output, self._too_slow))
