"""Are we well? A look at ourselves from outside, again and again, of which the service manager is told while all is well.

Each round connects to every listener as a client would, reads the greeting and says QUIT, and asks the store a question. A process
whose reactor, store or listeners are stuck is not heard of, and the service manager starts another one.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from attrs import define, field, frozen
from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, connectionDone
from twisted.internet.ssl import CertificateOptions
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.protocols.basic import LineOnlyReceiver
from twisted.protocols.tls import BufferingTLSTransport, TLSMemoryBIOFactory
from twisted.python.failure import Failure

from mailgw.notify import ServiceManager

__all__ = ["Entrance", "Unwell", "Visitor", "Watchdog", "where_to_dial"]

# Shares of the watchdog's time. One round may fail and the next still comes in time: 1/3 + 1/4 + 1/3 is less than all of it.
_LONGEST_ROUND = 1 / 3
_PAUSE = 1 / 4

_log = Logger(namespace="mailgw.watchdog")


class Unwell(Exception):
    """The look at ourselves found something; the text says what."""


@frozen
class Entrance:
    """A listener, as we knock at it."""

    name: str  # of the listener
    where: str  # as `IDialer` has it
    is_tls: bool = False  # from the first byte
    preface: bytes = b""  # what is sent before all else, also before TLS


def where_to_dial(address: IAddress) -> str:
    """Where to dial for a port that is bound to this address: on loopback where it is bound to all."""
    path: bytes | None = getattr(address, "name", None)
    if path is not None:
        return f"unix:{path.decode()}"
    bound: Any = address
    if ":" in bound.host:
        return f"[{'::1' if bound.host == '::' else bound.host}]:{bound.port}"
    return f"{'127.0.0.1' if bound.host == '0.0.0.0' else bound.host}:{bound.port}"  # noqa: S104 - nothing is bound here


class Visitor(LineOnlyReceiver):
    """A client that wants to hear a greeting, says QUIT and is gone: then `over` fires, with the reason where it heard none.

    Any reply is a greeting: a listener that refuses us (421 where it is full, 4yz or 5yz from a policy) is alive.
    """

    def __init__(self, preface: bytes = b"") -> None:
        self.over: Deferred[None] = Deferred(lambda _: self._give_up())
        self._preface = preface
        self._heard = False
        self._problem = Unwell("closed the connection without a greeting")

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        if self._preface:
            self._transport.write(self._preface)

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        if self._heard or line[3:4] == b"-":
            return
        if line[:3].isdigit():
            self._heard = True
            # RFC 5321 §4.1.1.10: the server closes after its 221.
            self._transport.write(b"QUIT\r\n")
        else:
            self._problem = Unwell(f"said {line[:40]!r}, which is no reply")
            self._leave()

    def lineLengthExceeded(self, line: bytes) -> None:  # noqa: N802
        self.lineReceived(line)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        if self.over.called:
            return
        if self._heard:
            self.over.callback(None)
        else:
            self.over.errback(self._problem)

    def _give_up(self) -> None:
        self._heard, self._problem = False, Unwell("does not answer")
        self._leave()

    def _leave(self) -> None:
        if self.transport is not None:
            self._transport.abortConnection()

    @property
    def _transport(self) -> Any:
        return self.transport


class _Prefaced(BufferingTLSTransport):
    # Says something in clear before the handshake.
    def makeConnection(self, transport: Any) -> None:  # noqa: N802
        factory: Any = self.factory
        transport.write(factory.preface)
        super().makeConnection(transport)  # type: ignore[no-untyped-call]


async def _knock(entrance: Entrance, dialer: Any, seconds: float) -> None:
    visitor = Visitor(b"" if entrance.is_tls else entrance.preface)
    factory: Any = Factory.forProtocol(lambda: visitor)
    factory.noisy = False
    if entrance.is_tls:
        # Our own certificate has other names than "127.0.0.1", and nothing is said that it should protect.
        factory = TLSMemoryBIOFactory(CertificateOptions(), True, factory)
        factory.protocol, factory.preface = _Prefaced, entrance.preface
        factory.noisy = False
    await dialer.dial(entrance.where, factory, seconds)
    await visitor.over


@define
class Watchdog:
    """Looks and tells, from `start` to `stop`; does nothing where the service manager has no watchdog."""

    manager: ServiceManager
    entrances: Sequence[Entrance]
    question: Callable[[], Awaitable[Any]]  # to the store; any answer is good, an exception is not
    condition: Callable[[], str]  # one line for `systemctl status`
    dialer: Any  # provides IDialer
    clock: IReactorTime
    _running: "Deferred[None] | None" = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def start(self) -> None:
        """Begin, now."""
        if self.manager.watchdog:
            self._running = Deferred.fromCoroutine(self._run())
            self._running.addErrback(lambda failure: _log.failure("the watchdog has ended", failure))

    def stop(self) -> None:
        """Tell nothing more."""
        self._stopped = True
        if self._running is not None:
            self._running.cancel()

    async def look(self, seconds: float) -> None:
        """One round, in at most so many seconds. Raises Unwell with all that was found."""
        asked = [
            *((f"listener {entrance.name} at {entrance.where}", _knock(entrance, self.dialer, seconds)) for entrance in self.entrances),
            ("store", _ask(self.question)),
        ]
        rounds = []
        for _, coroutine in asked:
            answer: Deferred[Any] = Deferred.fromCoroutine(coroutine)
            rounds.append(answer.addTimeout(seconds, self.clock))
        results = await DeferredList(rounds, consumeErrors=True)
        wrong = [f"{name}: {_reason(result)}" for (name, _), (good, result) in zip(asked, results, strict=True) if not good]
        if wrong:
            raise Unwell("; ".join(wrong))

    async def _run(self) -> None:
        whole = self.manager.watchdog
        while True:
            try:
                await self.look(whole * _LONGEST_ROUND)
            except Unwell as problem:
                if self._stopped:
                    return
                _log.error("the look at ourselves failed, the watchdog is not fed: {problem}", problem=problem)
                self.manager.tell(f"STATUS=Unwell: {problem}")
            else:
                self.manager.tell("WATCHDOG=1", f"STATUS={self.condition()}")
            try:
                await deferLater(self.clock, whole * _PAUSE)
            except CancelledError:
                return


async def _ask(question: Callable[[], Awaitable[Any]]) -> None:
    await question()


def _reason(failure: Failure) -> str:
    if isinstance(failure.value, defer.TimeoutError):
        return "does not answer"
    return str(failure.value) or type(failure.value).__name__
