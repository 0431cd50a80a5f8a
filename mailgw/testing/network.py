"""A network in memory: an `IDialer` whose connections lead to the protocols of a test, moved on by hand."""

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from twisted.internet import error
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IProtocolFactory, IPullProducer, IReactorThreads, ITransport
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.interfaces import IDialer

__all__ = ["Network", "SameThread"]

T = TypeVar("T")
_NOWHERE = IPv4Address("TCP", "192.0.2.0", 0)


@implementer(IReactorThreads)
class SameThread:
    """Does at once what should be done in a thread."""

    def getThreadPool(self) -> Any:  # noqa: N802 - named by Twisted
        """There is none."""
        raise NotImplementedError

    def callInThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: A002, N802
        """Call it."""
        callable(*args, **kwargs)

    def callFromThread(self, callable: Callable[..., Any], *args: Any, **kwargs: Any) -> None:  # noqa: A002, N802
        """Call it."""
        callable(*args, **kwargs)

    def suggestThreadPoolSize(self, size: int) -> None:  # noqa: N802
        """Take no notice."""


@implementer(IDialer)
class Network:
    """Servers by where they are dialled; everything else refuses connections::

        network = Network({"192.0.2.1:25": MailServer()})
        outcomes = network.run(gateway.deliver(a_shipment()))

    A ``Deferred`` in place of a server never answers. ``clock`` is advanced by hand. ``step`` is how many octets arrive at once.
    """

    def __init__(self, servers: Mapping[str, Any], step: int = 65536) -> None:
        self.servers = dict(servers)
        self.clock = Clock()
        self.threads = SameThread()
        self.dialled: list[str] = []
        self._step = step
        self._ends: list[_End] = []

    async def dial(self, where: str, factory: IProtocolFactory, timeout: float) -> Any:
        """See `IDialer`."""
        self.dialled.append(where)
        server = self.servers.get(where)
        if isinstance(server, Deferred):
            never: Deferred[None] = Deferred()
            await never.addTimeout(timeout, self.clock, onTimeoutCancel=_timed_out)
        if server is None:
            raise error.ConnectionRefusedError
        if isinstance(server, Exception):
            raise server
        client, served = factory.buildProtocol(_NOWHERE), server.buildProtocol(_NOWHERE)
        ours, theirs = _End(client), _End(served)
        ours.other, theirs.other = theirs, ours
        self._ends += [ours, theirs]
        client.makeConnection(ours)  # type: ignore[union-attr]
        served.makeConnection(theirs)
        return client

    def pump(self) -> None:
        """Let everything arrive that is under way."""
        while sum(end.move(self._step) for end in self._ends):
            pass
        self._ends = [end for end in self._ends if not end.is_over]

    def run(self, awaitable: Awaitable[T] | T) -> T:
        """Run it to its end; AssertionError where it waits for time to pass."""
        waiting = self.start(awaitable)
        if not waiting.called:
            waiting.cancel()
            self.pump()
            raise AssertionError(f"{awaitable!r} waits for something that does not come")
        return self.result(waiting)

    def start(self, awaitable: Awaitable[T] | T) -> "Deferred[T]":
        """Begin it, and let everything arrive; take its end with `result`."""
        if isinstance(awaitable, Coroutine):
            deferred: Deferred[Any] = Deferred.fromCoroutine(awaitable)
        elif isinstance(awaitable, Deferred):
            deferred = awaitable
        else:
            deferred = Deferred()
            deferred.callback(awaitable)
        self.pump()
        return deferred

    def result(self, deferred: "Deferred[T]") -> T:
        """The result of what has ended by now; raises what it raised."""
        self.pump()
        results: list[Any] = []
        deferred.addBoth(results.append)
        assert results, "it has not ended yet"
        if isinstance(results[0], Failure):
            results[0].raiseException()
        end: T = results[0]
        return end

    @property
    def open_connections(self) -> int:
        """How many connections there are."""
        self.pump()
        return len(self._ends) // 2


def _timed_out(_: object, __: float) -> None:
    raise error.TimeoutError


@implementer(ITransport)
class _End:
    """One end of a connection; what it writes waits until `move`."""

    other: "_End"

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.is_over = False
        self.disconnecting = False
        self.reads = True
        self._out: deque[bytes] = deque()
        self._producer: IPullProducer | None = None
        self._aborted = False

    def move(self, step: int) -> bool:
        """Bring some octets, or the end, to the other side; true if anything moved."""
        if self.is_over:
            return False
        if self._aborted:
            self._end(ConnectionLost())
            return True
        if not self._out and self._producer:
            self._producer.resumeProducing()
        if self._out:
            if not self.other.reads:
                return False
            data = self._out.popleft()
            if len(data) > step:
                self._out.appendleft(data[step:])
            self.other.protocol.dataReceived(data[:step])
            return True
        if self.disconnecting and not self._producer:
            self._end(ConnectionDone())
            return True
        return False

    def _end(self, reason: Exception) -> None:
        for end in (self, self.other):
            if not end.is_over:
                end.is_over = True
                end.protocol.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]

    def write(self, data: bytes) -> None:
        if data and not self.disconnecting:
            self._out.append(data)

    def writeSequence(self, data: Any) -> None:  # noqa: N802
        self.write(b"".join(data))

    def loseConnection(self) -> None:  # noqa: N802
        self.disconnecting = True

    def abortConnection(self) -> None:  # noqa: N802
        self._aborted = self.disconnecting = True

    def pauseProducing(self) -> None:  # noqa: N802
        self.reads = False

    def resumeProducing(self) -> None:  # noqa: N802
        self.reads = True

    def registerProducer(self, producer: IPullProducer, streaming: bool) -> None:  # noqa: N802
        assert not streaming, "only pull producers are known here"
        self._producer = producer

    def unregisterProducer(self) -> None:  # noqa: N802
        self._producer = None

    def getPeer(self) -> Any:  # noqa: N802
        return None

    def getHost(self) -> Any:  # noqa: N802
        return None
