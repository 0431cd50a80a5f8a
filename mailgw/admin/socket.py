"""The daemon's end of the Unix socket: one JSON object a line asks, one a line answers, in the same order.

    {"id": 1, "operation": "queue_show", "arguments": {"message": 12}}
    {"id": 1, "answer": {...}}
    {"id": 2, "error": {"kind": "not-found", "text": "there is no message 13 in the queue"}}

The socket belongs to the daemon's user and to nobody else: who can open it may do everything.
"""
# ruff: noqa: N802  Twisted names its methods so.

import json
import os
import socket
import stat
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IFileDescriptorReceiver, IListeningPort, ILoggingContext, IPushProducer, IReactorUNIX
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.admin.reading import Performer, Refusal

__all__ = ["AdminProtocol", "AdminSocket", "SocketInUse"]

log = Logger()


class SocketInUse(Exception):
    """Another process answers at the socket's path, or something that is no socket lies there; the text says which."""


@implementer(IPushProducer, IFileDescriptorReceiver)
class AdminProtocol(LineOnlyReceiver):
    """One client. Its requests are answered one after the other; while one is worked on, no more is read.

    Descriptors that come with a request are its argument "descriptors"; they are closed when it is answered.
    """

    transport: Any  # an ITCPTransport that is also an IConsumer
    delimiter = b"\n"
    MAX_LENGTH = 64 * 1024  # an order with a thousand message numbers has 8 KB

    def __init__(self, operations: Performer, connected: "set[AdminProtocol]") -> None:
        self._operations = operations
        self._connected = connected
        self._asked: deque[bytes | None] = deque()  # None: a line that was too long
        self._descriptors: list[int] = []
        self._busy = False
        self._full = False  # the client does not read what we write

    def connectionMade(self) -> None:
        self._connected.add(self)
        self.transport.registerProducer(self, True)

    def connectionLost(self, reason: Failure | None = None) -> None:  # noqa: ARG002
        self._connected.discard(self)
        self._asked.clear()
        if not self._busy:
            self._close_descriptors()

    def hang_up(self) -> None:
        """Close the connection as soon as what was written is sent."""
        # Twisted does not close a connection whose producer it paused.
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def fileDescriptorReceived(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)
        self._descriptors.append(descriptor)

    def _close_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def lineReceived(self, line: bytes) -> None:
        self._asked.append(line)
        self._work()

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: ARG002
        self._asked.append(None)
        self._work()

    def pauseProducing(self) -> None:
        """Our answers wait to be read: give no more."""
        self._full = True

    def resumeProducing(self) -> None:
        """Our answers were read."""
        self._full = False
        self._work()

    def stopProducing(self) -> None:
        """Nobody will read our answers."""
        self._asked.clear()

    def _work(self) -> None:
        if self._busy or self._full:
            return
        if self._asked:
            self._busy = True
            self.transport.pauseProducing()
            Deferred.fromCoroutine(self._answer_all()).addErrback(self._broken)
        else:
            self.transport.resumeProducing()

    async def _answer_all(self) -> None:
        try:
            while self._asked and not self._full:
                line = self._asked.popleft()
                answer = await self._answer(line)
                if self not in self._connected:
                    return
                self.transport.write(json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
                if line is None:
                    # What follows is the rest of that line: nothing that could be understood.
                    self._asked.clear()
                    self.hang_up()
                    return
        finally:
            self._busy = False
        self._work()

    async def _answer(self, line: bytes | None) -> dict[str, Any]:
        number: object = None
        try:
            if line is None:
                raise Refusal("bad-request", f"a request must not be longer than {self.MAX_LENGTH} octets")
            try:
                request = json.loads(line)
            except (ValueError, RecursionError) as problem:
                raise Refusal("bad-request", f"a request must be one JSON object on one line: {problem}") from None
            if not isinstance(request, dict):
                raise Refusal("bad-request", "a request must be a JSON object")
            number = request.get("id")
            operation, arguments = request.get("operation"), request.get("arguments", {})
            if not isinstance(operation, str) or not isinstance(arguments, Mapping):
                raise Refusal("bad-request", 'a request must have an "operation", a text, and may have "arguments", an object')
            if "descriptors" in arguments:
                raise Refusal("bad-request", "descriptors are handed over beside a request, not named in it")
            if self._descriptors:
                arguments = {**arguments, "descriptors": tuple(self._descriptors)}
            return {"id": number, "answer": await self._operations.perform(operation, arguments)}
        except Refusal as refusal:
            return {"id": number, "error": {"kind": refusal.kind, "text": str(refusal)}}
        finally:
            self._close_descriptors()

    def _broken(self, failure: Failure) -> None:
        log.failure("the admin socket could not answer", failure)
        self.transport.abortConnection()


@implementer(ILoggingContext)
class _Clients(Factory):
    noisy = False

    def __init__(self, operations: Performer) -> None:
        self._operations = operations
        self.connected: set[AdminProtocol] = set()

    def logPrefix(self) -> str:  # what Twisted says is starting
        return "admin socket"

    def buildProtocol(self, addr: object) -> AdminProtocol:  # noqa: ARG002
        return AdminProtocol(self._operations, self.connected)


class AdminSocket(Service):
    """Listens at ``path`` while it runs; the socket is made at the start and removed at the stop.

    A folder that is missing is made with mode 0700; the socket has mode 0600. A socket that a dead process left behind is
    replaced. `startService` raises SocketInUse where somebody answers, and CannotListenError or OSError where it cannot be made.
    """

    name = "admin"

    def __init__(self, path: Path, operations: Performer, reactor: IReactorUNIX) -> None:
        self.path = path
        self._clients = _Clients(operations)
        self._reactor = reactor
        self._port: IListeningPort | None = None

    def startService(self) -> None:
        """Bind and listen."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _clear(self.path)
        # Twisted sets the mode between bind() and listen(): nobody can connect before. Its own lock file (wantPID) trusts
        # process numbers, which come again, above all in containers; we ask whoever listens instead.
        self._port = self._reactor.listenUNIX(str(self.path), self._clients, mode=0o600)
        super().startService()  # type: ignore[no-untyped-call]

    def stopService(self) -> "Deferred[None]":
        """Stop listening, hang up, remove the socket."""
        super().stopService()  # type: ignore[no-untyped-call]
        port, self._port = self._port, None
        for protocol in tuple(self._clients.connected):
            protocol.hang_up()
        return succeed(None) if port is None else port.stopListening() or succeed(None)


def _clear(path: Path) -> None:
    """Remove a socket on which nobody listens. Raises SocketInUse."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise SocketInUse(f"{path} is no socket; it is left alone")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as problem:
            raise SocketInUse(f"{path} cannot be tried: {problem}") from problem
    raise SocketInUse(f"a running daemon answers at {path}")
