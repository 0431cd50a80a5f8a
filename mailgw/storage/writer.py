"""One thread that writes: it takes everything that is waiting as one group, one transaction, one fsync.

A single commit costs about as much as fifty messages in one commit, so nobody commits alone while others wait: what is
submitted while a group is being written, or in the same turn of the reactor, becomes the next group.
"""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorFromThreads

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.trouble import translated

__all__ = ["Writer"]

_ASKING = 0.005  # seconds for questions, while writes may be waiting
_PATIENCE = 10_000  # milliseconds for somebody who writes with a tool of his own

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class _Job(NamedTuple):
    item: Any
    answer: "Deferred[Any]"
    unheard: Callable[[Any], object] | None


class _Question(NamedTuple):
    ask: Callable[[], Any]
    answer: "Deferred[Any]"
    unheard: Callable[[Any], object] | None


class _Answer(NamedTuple):
    answer: "Deferred[Any]"
    result: Any
    unheard: Callable[[Any], object] | None
    problem: Exception | None = None


_Writes = dict[Callable[[Sequence[Any]], Sequence[Any]], list[_Job]]


class Writer:
    """Owns a connection (``isolation_level=None``, ``check_same_thread=False``) and the thread that writes through it."""

    def __init__(
        self, database: sqlite3.Connection, reactor: IReactorFromThreads, trouble: Callable[[Exception], object] = lambda _: None
    ) -> None:
        """``trouble`` is called on the reactor's side with each problem, before whoever asked for the work hears of it."""
        self._database = database
        database.execute("PRAGMA busy_timeout = 0")  # the reactor waits for nobody
        self._trouble = trouble
        self._reactor = reactor
        # On the reactor's side:
        self._writes: _Writes = {}
        self._light = True  # all of the writes are
        self._questions: list[_Question] = []
        self._busy = False
        self._closed: list[Deferred[None]] = []  # who waits for the end
        # On the thread's side:
        self._committed: list[Callable[[], object]] = []
        self._rolled_back: list[Callable[[], object]] = []
        self._handed: SimpleQueue[tuple[_Writes, list[_Answer] | None, list[_Question]] | None] = SimpleQueue()
        # A daemon thread: what it has not committed at the end of the process was not promised to anybody.
        Thread(target=self._run, name="mailgw-writer", daemon=True).start()

    def submit(
        self,
        work: Callable[[Sequence[_Item]], Sequence[_Result]],
        item: _Item,
        unheard: Callable[[_Result], object] | None = None,
        light: bool = False,
    ) -> "Deferred[_Result]":
        """Have ``work`` done inside the next transaction; fires with its result for ``item``, after the commit.

        ``work`` is called once for all items of the group, and gives their results in the same order: in the thread, or, where
        the whole group is ``light`` (some rows, no file), on the reactor's side, so that the two need not take the
        interpreter from each other at each statement. The commit is always the thread's. If ``work`` raises, the group is
        rolled back and everything in it is done again one by one, so that only the guilty item fails.
        If the Deferred was cancelled, ``unheard`` is called with the result that nobody waits for. Fails with
        StoreUnavailable.
        """
        if self._closed:
            return fail(StoreUnavailable("the store is closed"))
        answer: Deferred[_Result] = Deferred()
        job = _Job(item, answer, unheard)
        self._light = self._light and light
        jobs = self._writes.get(work)
        if jobs is None:
            self._writes[work] = [job]
        else:
            jobs.append(job)
        self._stir()
        return answer

    def ask(self, question: Callable[[], _Result], unheard: Callable[[_Result], object] | None = None) -> "Deferred[_Result]":
        """Have ``question`` called in the thread, between two transactions. Fails with StoreUnavailable."""
        if self._closed:
            return fail(StoreUnavailable("the store is closed"))
        answer: Deferred[_Result] = Deferred()
        self._questions.append(_Question(question, answer, unheard))
        self._stir()
        return answer

    def check(self) -> None:
        """Raise StoreUnavailable if the store is closed."""
        if self._closed:
            raise StoreUnavailable("the store is closed")

    def after_commit(self, act: Callable[[], object]) -> None:
        """For ``work``: have something done in the thread after this transaction's commit. It must not raise."""
        self._committed.append(act)

    def after_rollback(self, act: Callable[[], object]) -> None:
        """For ``work``: have something done in the thread if this transaction is rolled back. It must not raise."""
        self._rolled_back.append(act)

    def close(self) -> "Deferred[None]":
        """Finish what is waiting, then close the connection; fires when the thread is done."""
        closed: Deferred[None] = Deferred()
        self._closed.append(closed)
        self._stir()
        return closed

    # ── On the reactor's side ──

    def _stir(self) -> None:
        if not self._busy:
            self._busy = True
            # Not now but in the next turn: what else this turn brings joins the group.
            self._reactor.callFromThread(self._hand_over)

    def _hand_over(self) -> None:
        if self._writes or self._questions:
            writes, questions, light = self._writes, self._questions, self._light
            self._writes, self._questions, self._light = {}, [], True
            # Gain, measured: a tenth of the CPU of a small message, and a quarter more of them in a second.
            answers = self._begun(writes) if writes and light else None
            self._handed.put((writes, answers, questions))
        elif self._closed:
            self._handed.put(None)
        else:
            self._busy = False

    def _begun(self, writes: _Writes) -> list[_Answer] | None:
        try:
            return self._begin(writes)
        except Exception:  # the thread will do it again, one by one, and find out who is guilty
            return None

    def _tell(self, answers: list[_Answer]) -> None:
        for answer, result, unheard, problem in answers:
            if problem is not None:
                self._trouble(problem)
            if answer.called:  # cancelled meanwhile
                if unheard is not None and problem is None and not self._closed:
                    unheard(result)
            elif problem is not None:
                answer.errback(problem)
            else:
                answer.callback(result)

    def _go_on(self, answers: list[_Answer], unasked: list[_Question]) -> None:
        self._tell(answers)
        self._questions[:0] = unasked
        self._hand_over()

    def _tell_closed(self) -> None:
        for closed in self._closed:
            closed.callback(None)

    # ── In the thread ──

    def _run(self) -> None:
        while (group := self._handed.get()) is not None:
            writes, begun, questions = group
            answers = self._write(writes, begun) if writes else []
            if answers and questions:
                self._reactor.callFromThread(self._tell, answers)  # who has written need not wait for who asks
                answers = []
            end = monotonic() + _ASKING
            while questions:
                answers.append(self._reply(questions.pop(0)))
                if monotonic() > end:
                    break
            self._reactor.callFromThread(self._go_on, answers, questions)
        with suppress(sqlite3.Error):
            self._database.close()
        self._reactor.callFromThread(self._tell_closed)

    def _write(self, writes: _Writes, begun: list[_Answer] | None = None) -> list[_Answer]:
        try:
            return self._commit(self._begin_patiently(writes) if begun is None else begun)
        except Exception as problem:
            single = [(work, job) for work, jobs in writes.items() for job in jobs]
            if len(single) == 1 or _is_locked(problem):  # none of them is guilty
                return [_Answer(job.answer, None, job.unheard, translated(problem)) for _, job in single]
            return [answer for work, job in single for answer in self._write({work: [job]})]

    def _begin_patiently(self, writes: _Writes) -> list[_Answer]:
        self._database.execute(f"PRAGMA busy_timeout = {_PATIENCE}")
        try:
            return self._begin(writes)
        finally:
            self._database.execute("PRAGMA busy_timeout = 0")

    def _commit(self, answers: list[_Answer]) -> list[_Answer]:
        try:
            self._database.execute("COMMIT")
        except BaseException:
            self._roll_back()
            raise
        for act in self._committed:
            act()
        return answers

    def _reply(self, question: _Question) -> _Answer:
        try:
            return _Answer(question.answer, question.ask(), question.unheard)
        except Exception as problem:
            return _Answer(question.answer, None, question.unheard, translated(problem))

    # ── In either ──

    def _begin(self, writes: _Writes) -> list[_Answer]:
        answers: list[_Answer] = []
        self._committed, self._rolled_back = [], []
        try:
            self._database.execute("BEGIN IMMEDIATE")
            for work, jobs in writes.items():
                results = work([job.item for job in jobs])
                answers.extend([_Answer(job.answer, result, job.unheard) for job, result in zip(jobs, results, strict=True)])
        except BaseException:
            self._roll_back()
            raise
        return answers

    def _roll_back(self) -> None:
        with suppress(sqlite3.Error):
            if self._database.in_transaction:  # a full disk may have rolled it back already
                self._database.execute("ROLLBACK")
        for act in self._rolled_back:
            act()


def _is_locked(problem: Exception) -> bool:
    return getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY  # the lower octet is the kind
