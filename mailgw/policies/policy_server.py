"""The Postfix policy delegation protocol, as its client: https://www.postfix.org/SMTPD_POLICY_README.html."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgw.interfaces import IDialer, LookupFailed

__all__ = ["NoPolicyServer", "PolicyServer", "encoded"]

_MOST_ANSWER = 64 * 1024  # octets


class NoPolicyServer(LookupFailed):
    """The policy server gave no answer, or one that is none: nobody's mistake here, and `on_error` says what follows."""


def encoded(attributes: Mapping[str, str]) -> bytes:
    """A request. Nothing that a client said can add an attribute or end the request."""
    lines = []
    for name, value in attributes.items():
        clean = "".join("?" if c < " " or c == "\x7f" else c for c in value)
        lines.append(f"{name}={clean}\n")
    return "".join(lines).encode("utf-8", "replace") + b"\n"


class _Connection(Protocol):
    """One connection; one question at a time."""

    def __init__(self) -> None:
        self.is_open = False
        self.idle: IDelayedCall | None = None
        self._buffer = b""
        self._waiting: Deferred[str] | None = None

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        self.is_open = True

    def ask(self, request: bytes) -> Deferred[str]:
        """The answer's action. Fails with NoPolicyServer; cancelling drops the connection, lest a late answer be taken for another's."""
        waiting: Deferred[str] = Deferred(lambda _: self.drop())
        self._waiting = waiting
        self.transport.write(request)  # type: ignore[union-attr]
        return waiting

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if not self.is_open:
            return
        self._buffer += data
        if self._waiting is None:
            self.drop()  # it speaks without having been asked
            return
        text, end, rest = self._buffer.partition(b"\n\n")
        if not end and len(text) <= _MOST_ANSWER:
            return
        waiting, self._waiting, self._buffer = self._waiting, None, b""
        actions = [line.partition(b"=")[2] for line in text.split(b"\n") if line.startswith(b"action=")]
        if not end or rest or len(actions) != 1:
            self.drop()
            waiting.errback(NoPolicyServer("it did not answer as a policy server does"))
        else:
            waiting.callback(actions[0].decode("utf-8", "replace").strip())

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        self.is_open = False
        if self.idle is not None and self.idle.active():
            self.idle.cancel()
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.errback(NoPolicyServer("the connection was lost"))

    def drop(self) -> None:
        """Close at once."""
        self.is_open, self._waiting = False, None
        self.transport.abortConnection()  # type: ignore[union-attr]


class _Connections(Factory):
    noisy = False
    protocol = _Connection


@define(eq=False)
class PolicyServer:
    """Kept connections to one policy server."""

    where: str  # as `IDialer.dial` wants it
    dialer: IDialer
    clock: IReactorTime
    connect_timeout: float  # seconds
    max_idle: float  # seconds
    connections: int  # at once
    _free: list[_Connection] = field(factory=list, init=False)
    _places: DeferredSemaphore = field(init=False)
    _closing: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._places = DeferredSemaphore(self.connections)

    async def ask(self, attributes: Mapping[str, str]) -> str:
        """The action that it answers, as it stands. Raises NoPolicyServer."""
        request = encoded(attributes)
        await self._places.acquire()
        try:
            while self._free:
                kept = self._free.pop()
                if kept.idle is not None and kept.idle.active():
                    kept.idle.cancel()
                if not kept.is_open:
                    continue
                try:
                    return self._keep(kept, await kept.ask(request))
                except NoPolicyServer:
                    break  # it may have been closed just when we began; a new one knows
            new = await self._dial()
            return self._keep(new, await new.ask(request))
        finally:
            self._places.release()

    def close(self) -> None:
        """Close the unused connections; those in use follow when they have answered."""
        self._closing = True
        for connection in self._free:
            connection.drop()
        self._free.clear()

    def _keep(self, connection: _Connection, answer: str) -> str:
        if self._closing or not self.max_idle:
            connection.drop()
        elif connection.is_open:
            connection.idle = self.clock.callLater(self.max_idle, self._forget, connection)
            self._free.append(connection)
        return answer

    def _forget(self, connection: _Connection) -> None:
        if connection in self._free:
            self._free.remove(connection)
        connection.drop()

    async def _dial(self) -> _Connection:
        try:
            dialled: Any = await self.dialer.dial(self.where, _Connections(), self.connect_timeout)
        except (ConnectError, DNSLookupError, OSError) as problem:
            raise NoPolicyServer(f"{self.where} cannot be reached: {problem}") from None
        connection: _Connection = dialled
        return connection
