"""A reload of several workers: made ready in all of them, then put in place in all of them; or nowhere, if one cannot.

The parent reads the file once, binds the ports that are new, and hands what the file says and all sockets to its workers. From then
on workers that are started get that, too, until the next reload: what the file says meanwhile counts for nobody.
"""

import os
import signal
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, DeferredLock, gatherResults
from twisted.logger import Logger

from mailgw.admin.asking import Remote
from mailgw.admin.reading import Refusal
from mailgw.assemble import House, Parts
from mailgw.config.model import Configuration
from mailgw.listening import CannotBind
from mailgw.problems import BadConfiguration
from mailgw.reloading import Plan, Source
from mailgw.workers.command import CROWD, TRANSCRIPT
from mailgw.workers.sockets import Sockets, by_name
from mailgw.workers.transcript import transcript
from mailgw.workers.worker import Worker

__all__ = ["Exchange"]

_log = Logger(namespace="mailgw.workers")


@define(eq=False)
class Exchange:
    """What is in force, and how it becomes something else. ``remotes``: how each worker is spoken to."""

    configuration: Configuration
    house: House
    parts: Parts
    source: Source
    sockets: Sockets
    crowd: int  # the descriptor of `mailgw.sharing.Crowd`
    workers: Mapping[int, Worker]
    remotes: Mapping[int, Remote]
    edition: int = field(default=1, init=False)  # counts what was in force
    _transcript: int = field(default=Factory(lambda self: transcript(self.configuration.text), takes_self=True), init=False)
    _one_at_a_time: DeferredLock = field(factory=DeferredLock, init=False)

    def start(self, worker: Worker) -> None:
        """Start a worker with what is in force."""
        worker.start({CROWD: self.crowd, TRANSCRIPT: self._transcript, **by_name(self.sockets.opened)}, self.edition)

    async def reload(self, dry_run: bool) -> dict[str, Any]:
        """Read the file again and go on with it: ``{"changes": [...], "warnings": [...], "applied": true}``.

        Raises Refusal with all that is wrong; nothing is changed then.
        """
        answer: dict[str, Any] = await self._alone(lambda: self._reload(dry_run))
        return answer

    def look_at(self, worker: Worker) -> None:
        """Call this for a worker that is ready: if it began before the last reload it is told now."""
        if worker.edition != self.edition and not worker.is_told:
            worker.is_told = True
            telling = Deferred.fromCoroutine(self._alone(lambda: self._tell_late(worker)))
            telling.addErrback(lambda failure: _log.failure("a worker was not told of a reload", failure))

    async def _alone(self, work: "Callable[[], Awaitable[Any]]") -> Any:
        await self._one_at_a_time.acquire()
        try:
            return await work()
        finally:
            self._one_at_a_time.release()

    async def _reload(self, dry_run: bool) -> dict[str, Any]:
        try:
            with self.source.plan(self.configuration, self.house, self.parts) as plan:
                if not dry_run:
                    await self._exchange(plan)
        except (BadConfiguration, CannotBind) as problem:
            raise Refusal("configuration", str(problem)) from problem
        for change in plan.changes if plan.keep else ():
            _log.info("reloaded: {change}", change=change)
        return {"changes": list(plan.changes), "warnings": [str(one) for one in plan.parts.warnings], "applied": plan.keep}

    async def _exchange(self, plan: Plan) -> None:
        self.sockets.bind_also(plan.opened)
        async with AsyncExitStack() as unless_kept:
            unless_kept.push_async_callback(self.sockets.drop, plan.opened)
            try:
                copy = transcript(plan.configuration.text)
            except OSError as problem:
                raise Refusal("unavailable", f"workers cannot be told of it: {problem.strerror or problem}") from problem
            unless_kept.callback(os.close, copy)
            asked = {number: worker.pid for number, worker in self.workers.items() if worker.state == "ready"}
            refusals = await self._prepare(asked, by_name(plan.opened), copy)
            if refusals:
                await self._tell_all(asked, "reload_drop")
                kinds = {problem.kind for problem in refusals.values()}
                texts = [f"worker {number}: {problem}" for number, problem in refusals.items()]
                raise Refusal("configuration" if "configuration" in kinds else "unavailable", "\n".join(texts))
            plan.keep = True
            unless_kept.pop_all()
        os.close(self._transcript)
        self.configuration, self.house, self.parts, self._transcript = plan.configuration, plan.house, plan.parts, copy
        self.edition += 1
        # Another process with the same number has begun with the edition before: it is told when it is ready.
        await self._keep([number for number, pid in asked.items() if self.workers[number].pid == pid])
        await self.sockets.keep(plan.opened)
        for worker in self.workers.values():
            if worker.state == "ready":
                self.look_at(worker)

    async def _prepare(self, numbers: Iterable[int], sockets: Mapping[str, int], copy: int) -> dict[int, Refusal]:
        return await self._tell_all(numbers, "reload_prepare", {"sockets": list(sockets)}, [copy, *sockets.values()])

    async def _keep(self, numbers: Iterable[int]) -> None:
        edition = self.edition
        refusals = await self._tell_all(numbers, "reload_keep")
        for number in numbers:
            worker = self.workers[number]
            if number not in refusals:
                worker.edition = edition
                continue
            self._start_again(worker, refusals[number])

    def _start_again(self, worker: Worker, problem: Refusal) -> None:
        _log.error("worker {number} starts again to reload: {problem}", number=worker.number, problem=problem)
        worker.is_told = True
        worker.tell(signal.SIGTERM)

    async def _tell_late(self, worker: Worker) -> None:
        if worker.state != "ready" or worker.edition == self.edition:
            return
        refusals = await self._prepare([worker.number], by_name(self.sockets.opened), self._transcript)
        if refusals:
            self._start_again(worker, refusals[worker.number])
        else:
            await self._keep([worker.number])

    async def _tell_all(
        self, numbers: Iterable[int], operation: str, arguments: Mapping[str, Any] | None = None, descriptors: Iterable[int] = ()
    ) -> dict[int, Refusal]:
        """Those that refused, or did not answer, and why."""

        async def tell(number: int) -> tuple[int, Refusal | None]:
            try:
                await self.remotes[number].perform(operation, arguments or {}, list(descriptors))
            except Refusal as problem:
                return number, problem
            return number, None

        answers = await gatherResults([Deferred.fromCoroutine(tell(number)) for number in numbers])
        return {number: problem for number, problem in answers if problem is not None}
