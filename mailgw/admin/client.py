"""The operator's end of the Unix socket: plain blocking calls with time limits, no reactor."""

import json
import socket
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any

__all__ = ["Daemon", "NoAnswer", "NotRunning", "Refused"]

CONNECT = 5.0  # seconds
ANSWER = 60.0  # seconds: an order over a million recipients takes some
MOST_OCTETS = 64 * 1024 * 1024  # of one answer


class NotRunning(Exception):
    """Nobody listens at the socket."""


class NoAnswer(Exception):
    """Somebody may be there, but no sensible answer came: no permission, a time-out, a lost connection."""


class Refused(Exception):
    """The daemon answered that it did not do it; ``kind`` is one of those of `mailgw.admin.operations.Refusal`."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Daemon:
    """The daemon that listens at ``path``; a context manager. Making it raises NotRunning or NoAnswer."""

    def __init__(self, path: Path, timeout: float = ANSWER) -> None:
        self.path = path
        self._timeout = timeout
        self._number = 0
        self._heard = bytearray()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(CONNECT)
        try:
            self._socket.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as problem:
            self._socket.close()
            raise NotRunning(f"no daemon listens at {path}") from problem
        except OSError as problem:
            self._socket.close()
            raise NoAnswer(f"{path}: {problem.strerror or problem}") from problem

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._socket.close()

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one operation (see `mailgw.admin.operations.Operations`). Raises Refused or NoAnswer."""
        self._number += 1
        request = {"id": self._number, "operation": operation, "arguments": arguments}
        try:
            self._socket.settimeout(self._timeout)
            self._socket.sendall(json.dumps(request).encode("ascii") + b"\n")
            line = self._line(monotonic() + self._timeout)
        except TimeoutError as problem:
            raise NoAnswer(f"{self.path}: no answer within {self._timeout:g} seconds") from problem
        except OSError as problem:
            raise NoAnswer(f"{self.path}: {problem.strerror or problem}") from problem
        try:
            said = json.loads(line)
            if "error" in said:
                raise Refused(said["error"]["kind"], said["error"]["text"])
            answer: dict[str, Any] = said["answer"]
        except (ValueError, KeyError, TypeError) as problem:
            raise NoAnswer(f"{self.path}: what came is no answer") from problem
        return answer

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._heard.find(b"\n", searched)) < 0:
            searched = len(self._heard)
            if searched > MOST_OCTETS:
                raise NoAnswer(f"{self.path}: the answer is too long")
            left = deadline - monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            chunk = self._socket.recv(256 * 1024)
            if not chunk:
                raise NoAnswer(f"{self.path}: the connection was closed before the answer came")
            self._heard += chunk
        line = bytes(self._heard[:end])
        del self._heard[: end + 1]
        return line


def pieces(ask: Any, message: int) -> Iterator[bytes]:
    """The whole content of a message, piece by piece; ``ask`` is `Daemon.ask` or does what it does."""
    offset = 0
    while True:
        piece = b64decode(ask("queue_content", message=message, offset=offset)["piece"])
        if not piece:
            return
        yield piece
        offset += len(piece)
