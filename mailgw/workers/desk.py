"""The gateway as one, to the operator and to Prometheus: the answers of all workers added up, and how each of them is."""

import os
from collections.abc import Awaitable, Callable, Mapping
from importlib.metadata import version
from typing import Any

from attrs import define, field

from mailgw.admin.merging import add_up
from mailgw.admin.reading import Refusal
from mailgw.admin.selecting import MOST
from mailgw.admin.together import Together
from mailgw.observe.metrics import Samples, gauges_of
from mailgw.reloading import read_reload
from mailgw.storage.parts import part_of
from mailgw.workers.duty import Duties
from mailgw.workers.tally import Tally
from mailgw.workers.worker import Worker

__all__ = ["Desk"]


@define(eq=False)
class Desk:
    """See `mailgw.admin.reading.Performer`."""

    workers: Mapping[int, Worker]
    duties: Duties
    tally: Tally
    reactor: Any
    reload: Callable[[bool], Awaitable[dict[str, Any]]]  # whether it is only to be said what would change
    began: float = 0.0  # POSIX seconds
    _together: Together = field(init=False)

    def __attrs_post_init__(self) -> None:
        """All workers as one."""
        duties = self.duties
        self._together = Together(members=duties.members, part_of=part_of, who_has=duties.who_has, unattended=duties.unattended)

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Every operation over all workers, "status" with each of them, and "reload". Raises Refusal."""
        if operation == "reload":
            return await self.reload(read_reload(arguments))
        if operation != "status" or arguments:
            return await self._together.perform(operation, arguments)
        try:
            answers, missing = await self._together.ask_all("status", {})
        except Refusal:
            answers, missing = {}, {"missing": self.duties.parts}
        now = self.reactor.seconds()
        return {
            **(add_up(list(answers.values())) if answers else {}),
            "version": version("mailgw"),
            "pid": os.getpid(),
            "uptime": now - self.began,
            "workers": {str(number): self._card(worker, answers.get(number), now) for number, worker in self.workers.items()},
            **missing,
        }

    async def samples(self) -> Samples:
        """For the page of metrics."""
        for number, remote in self.duties.members().items():
            try:
                self.tally.count(number, (await remote.perform("metrics", {}))["samples"])
            except Refusal:
                continue  # what it said last stands for it
        samples = self.tally.sum()
        status = await self.perform("status", {})
        if "dispatcher" in status:
            samples |= gauges_of(status, await self._together.perform("queue_stats", {"limit": MOST}))
        return samples

    def _card(self, worker: Worker, answer: Mapping[str, Any] | None, now: float) -> dict[str, Any]:
        card: dict[str, Any] = {"state": worker.state, "pid": worker.pid, "restarts": worker.restarts}
        if worker.pid is not None:
            card["uptime"] = now - worker.started
        if worker.state == "waiting":
            card["until"] = worker.until
        if answer is not None:
            card["sessions"] = sum(listener["sessions"] for listener in answer["listeners"].values())
        others = self.duties.others_of(worker.number)
        return {**card, "looks_after": others} if others else card
