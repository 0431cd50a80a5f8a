"""What gateways are given, for tests: others by name, and a thread to come back to."""
# ruff: noqa: A002, N802  Twisted names its methods and arguments so.

from queue import Empty, Queue
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
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
            function, args, kwargs = self.calls.get(timeout=10)
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
