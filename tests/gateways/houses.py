"""What gateways are given, for tests: others by name, a thread to come back to, the real reactor."""
# ruff: noqa: A002, N802  Twisted names its methods and arguments so.

from queue import Empty, Queue
from time import monotonic
from typing import Any

from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.process import reapAllProcesses
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.config.members import Gateways


def others(**by_name: Any) -> Gateways:
    """An `IGateways`; "_" in a name stands for "-"."""
    return Gateways({name.replace("_", "-"): gateway for name, gateway in by_name.items()})


@implementer(IReactorThreads)
class OneThread:
    """What threads have to say is done by whoever is in `run`."""

    def __init__(self) -> None:
        self.calls: Queue[Any] = Queue()

    def callFromThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:
        self.calls.put((callable, args, kwargs))

    def callInThread(self, callable: Any, *args: Any, **kwargs: Any) -> None:
        callable(*args, **kwargs)

    def getThreadPool(self) -> Any:
        raise NotImplementedError

    def suggestThreadPoolSize(self, size: int) -> None:
        pass

    def turn(self) -> None:
        """Do the next thing that a thread has to say."""
        try:
            function, args, kwargs = self.calls.get(timeout=60)
        except Empty:
            raise AssertionError("no thread has anything to say") from None
        function(*args, **kwargs)

    def run(self, awaitable: Any) -> Any:
        """Drive it to its end."""
        waiting = awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)
        results: list[Any] = []
        waiting.addBoth(results.append)
        while not results:
            self.turn()
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]


class Loop:
    """The real reactor, turned by hand; closes in the end what was opened."""

    def __init__(self) -> None:
        self.reactor: Any = _reactor
        self.gateways: list[Any] = []
        self._ports: list[Any] = []

    def listen(self, factory: Any) -> int:
        """A port on 127.0.0.1."""
        port = self.reactor.listenTCP(0, factory, interface="127.0.0.1")
        self._ports.append(port)
        return int(port.getHost().port)

    def run(self, awaitable: Any) -> Any:
        """Drive it to its end."""
        results: list[Any] = []
        (awaitable if isinstance(awaitable, Deferred) else Deferred.fromCoroutine(awaitable)).addBoth(results.append)
        self.until(lambda: results)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def until(self, done: Any) -> None:
        """Turn until something holds."""
        end = monotonic() + 60  # only reached by a fault
        while not done():
            assert monotonic() < end, "it does not come to an end"
            self.reactor.iterate(0.01)
            reapAllProcesses()  # without its own loop the reactor hears of no SIGCHLD

    def close(self) -> None:
        """See that nothing is left."""
        for gateway in self.gateways:
            gateway.close()
        closed = [port.stopListening() for port in self._ports]
        self.until(lambda: all(one is None or one.called for one in closed) and not self.reactor.getReaders()[1:])
        self.until(lambda: not self.reactor.getDelayedCalls())
