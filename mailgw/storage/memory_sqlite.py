"""What policies remember, in a file of its own: shared by all processes of the machine, there again after a restart."""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailgw.interfaces import IClock, IMemory, MemoryUnavailable
from mailgw.storage.memory_database import MemoryDatabase
from mailgw.storage.memory_rules import check
from mailgw.values.quantities import Rate

__all__ = ["ROOM", "SqliteMemory"]

ROOM = 500_000  # rows: about 100 MB


class _Job(NamedTuple):
    work: Callable[[float], Any]
    writes: bool
    answer: "Deferred[Any]"


@implementer(IMemory)
class SqliteMemory:
    """`MemoryDatabase` behind a thread of its own: what is asked while it is busy, or in one turn of the reactor, is one transaction.

    Nothing may be asked before `open`, and no file is touched and no thread started before something is asked.
    """

    def __init__(self, path: Path, reactor: IReactorFromThreads, clock: IClock, room: int = ROOM) -> None:
        """``reactor`` is used for `callFromThread` only; ``clock`` is asked in the thread."""
        self._database = MemoryDatabase(path, room)
        self._reactor = reactor
        self._clock = clock
        self._is_open = False
        self._busy = False
        self._waiting: list[_Job] = []
        self._threads: ThreadPool | None = None
        self._closed: list[Deferred[None]] = []  # who waits for the end

    def open(self) -> None:
        """From here on it may be asked: this process starts threads no more too early, and makes files as the right user."""
        self._is_open = True

    async def close(self) -> None:
        """Write what is waiting, then close the file. A second call does nothing."""
        if self._closed or not self._is_open:
            return
        self._is_open = False
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        if not self._busy:
            self._hand_over()
        await closed

    # ── IMemory ──

    async def count(self, key: str, amount: int, lifetime: float) -> int:
        """See `IMemory`."""
        check(key, amount=amount, lifetime=lifetime)
        return int(await self._ask(partial(self._database.count, key=key, amount=amount, lifetime=lifetime), amount > 0))

    async def take(self, key: str, amount: int, rate: Rate, burst: int) -> float:
        """See `IMemory`."""
        check(key, amount=amount, burst=burst)
        return float(await self._ask(partial(self._database.take, key=key, amount=amount, rate=rate, burst=burst)))

    async def first_seen(self, key: str, lifetime: float) -> float:
        """See `IMemory`."""
        check(key, lifetime=lifetime)
        return float(await self._ask(partial(self._database.first_seen, key=key, lifetime=lifetime)))

    async def remember(self, key: str, value: str, lifetime: float) -> None:
        """See `IMemory`."""
        check(key, lifetime=lifetime, text=value)
        await self._ask(partial(self._database.remember, key=key, value=value, lifetime=lifetime))

    async def recall(self, key: str) -> str | None:
        """See `IMemory`."""
        check(key)
        text: str | None = await self._ask(partial(self._database.recall, key=key), False)
        return text

    async def find(self, prefix: str, limit: int) -> Mapping[str, str]:
        """See `IMemory`."""
        check(prefix)
        found: Mapping[str, str] = await self._ask(partial(self._database.find, prefix=prefix, limit=limit), False)
        return found

    async def forget(self, key: str) -> None:
        """See `IMemory`."""
        check(key)
        await self._ask(partial(self._database.forget, key=key))

    # ── On the reactor's side ──

    def _ask(self, work: Callable[[float], Any], writes: bool = True) -> "Deferred[Any]":
        if not self._is_open:
            raise MemoryUnavailable(f"{self._database.path} is not open")
        answer: Deferred[Any] = Deferred()
        self._waiting.append(_Job(work, writes, answer))
        if not self._busy:
            self._busy = True
            # Not now but in the next turn: what else this turn brings joins the group.
            self._reactor.callFromThread(self._hand_over)
        return answer

    def _hand_over(self) -> None:
        jobs, self._waiting = self._waiting, []
        if jobs:
            self._busy = True
            try:
                done: Deferred[Any] = deferToThreadPool(self._reactor, self._pool(), self._transact, jobs)
            except RuntimeError as problem:  # the system gives no thread now
                self._threads = None  # it holds one that never began
                done = fail(MemoryUnavailable(f"{self._database.path}: {problem}"))
            done.addBoth(self._tell, jobs)
        elif self._closed:
            self._end()
        else:
            self._busy = False

    def _tell(self, results: Any, jobs: list[_Job]) -> None:
        failed = isinstance(results, Failure)
        for index, job in enumerate(jobs):
            if job.answer.called:
                continue  # cancelled meanwhile
            if failed:
                job.answer.errback(results)
            else:
                job.answer.callback(results[index])
        self._hand_over()

    def _pool(self) -> ThreadPool:
        if self._threads is None:
            self._threads = ThreadPool(0, 1, "mailgw-memory")
            # A process that ends does not wait for it: what is not committed was not promised to anybody.
            self._threads.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
            self._threads.start()
        return self._threads

    def _end(self) -> None:
        if self._threads is not None:
            threads, self._threads = self._threads, None
            done: Deferred[Any] = deferToThreadPool(self._reactor, threads, self._database.close)
            done.addBoth(lambda _: threads.stop())
            done.addCallback(lambda _: self._tell_closed())
        else:
            self._tell_closed()

    def _tell_closed(self) -> None:
        for closed in self._closed:
            closed.callback(None)

    # ── In the thread ──

    def _transact(self, jobs: list[_Job]) -> list[Any]:
        now = self._clock.now().timestamp()
        return self._database.transact([partial(job.work, now) for job in jobs], now, any(job.writes for job in jobs))
