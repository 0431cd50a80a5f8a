"""The providers for `given` fields while no daemon runs: everything is there, nothing reaches out of this process."""
# ruff: noqa: A002, N802  Twisted names its methods and arguments so.

import time
from collections.abc import Callable
from datetime import UTC, datetime
from random import Random
from typing import Any

from attrs import frozen
from twisted.internet.defer import fail
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.assemble import House, Identity
from mailgw.config.model import Configuration
from mailgw.interfaces import (
    Answer,
    IClock,
    IDialer,
    IIdentity,
    IMemory,
    IPostOffice,
    IResolver,
    LookupFailed,
    MemoryUnavailable,
)
from mailgw.queue.post_office import PostOffice
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.values.address import Address

__all__ = ["NoAgent", "NoDialer", "NoProcesses", "still_house"]

_POSTMASTER = Address("postmaster", "localhost")
_NOTHING_KNOWN = "what policies remember is not looked at while mailgw is not running"
WHY = "no network is used while mailgw is not running"


def still_house(configuration: Configuration | None = None) -> House:
    """A house for building and asking components; what would need the network fails at once, as an outage would."""
    server = configuration.server if configuration is not None else None
    clock = Clock()
    clock.advance(time.time())
    time_of_day = _TimeOfDay()
    identity = Identity(server.hostname, server.postmaster) if server is not None else Identity("localhost", _POSTMASTER)
    return {
        IAgent: NoAgent(WHY),
        IClock: time_of_day,
        IReactorTime: clock,
        IReactorThreads: _NoThreads(),
        IReactorProcess: NoProcesses("no program is run while mailgw is not running"),
        IResolver: _NoResolver(),
        IDialer: NoDialer(WHY),
        IMemory: InProcessMemory(time_of_day, trouble=MemoryUnavailable(_NOTHING_KNOWN)),
        IPostOffice: PostOffice(identity, time_of_day, Random()),
        IIdentity: identity,
    }


@implementer(IClock)
class _TimeOfDay:
    def now(self) -> datetime:
        return datetime.now(UTC).astimezone()


@implementer(IResolver)
class _NoResolver:
    async def lookup(self, name: str, kind: str) -> Answer:
        raise LookupFailed(f"{name} {kind}: {WHY}")


@implementer(IDialer)
@frozen
class NoDialer:
    """Opens no connection, and says why."""

    why: str

    async def dial(self, where: str, factory: Any, timeout: float) -> Any:  # noqa: ARG002
        """Raises ConnectError."""
        raise ConnectError(string=f"{where}: {self.why}")  # type: ignore[no-untyped-call]


@implementer(IAgent)
@frozen
class NoAgent:
    """Asks no web server, and says why."""

    why: str

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:  # noqa: ARG002, N803
        """Fails with ConnectError."""
        return fail(ConnectError(string=self.why))  # type: ignore[no-untyped-call]


@implementer(IReactorProcess)
@frozen
class NoProcesses:
    """Starts no program, and says why."""

    why: str

    def spawnProcess(self, *_: Any, **__: Any) -> Any:
        """Raises OSError."""
        raise OSError(self.why)


@implementer(IReactorThreads)
class _NoThreads:
    """There is only this thread, and it may wait: everything is done at once. It is its own thread pool."""

    def getThreadPool(self) -> Any:
        return self

    def callInThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)

    def callFromThread(self, callable: Callable[..., Any], *args: object, **kwargs: object) -> None:
        callable(*args, **kwargs)

    def suggestThreadPoolSize(self, size: int) -> None:
        """There is no pool."""

    def callInThreadWithCallback(
        self, done: Callable[[bool, Any], Any] | None, function: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        """See `twisted.python.threadpool.ThreadPool`."""
        try:
            succeeded, result = True, function(*args, **kwargs)
        except Exception as problem:
            succeeded, result = False, Failure(problem)  # type: ignore[no-untyped-call]
        if done is not None:
            done(succeeded, result)
