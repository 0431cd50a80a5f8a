"""Who looks after which part of the queue: its own worker, or another while that one cannot."""

from collections.abc import Collection, Mapping
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from mailgw.admin.reading import Performer, Refusal
from mailgw.workers.worker import Worker

__all__ = ["Duties", "hand_out"]

_LONG = 5.0  # seconds of waiting for its worker after which a part is given to another
_AGAIN = 5.0  # seconds until what did not succeed is tried again

_log = Logger(namespace="mailgw.workers")


def hand_out(orphans: Collection[int], load: Mapping[int, int]) -> dict[int, int]:
    """The worker for each part: whoever has the fewest parts, the lowest number first.

    ``load``: how many parts each worker that is there looks after already. Nothing is handed out where there is none.
    """
    loads = dict(load)
    given: dict[int, int] = {}
    for part in sorted(orphans) if loads else ():
        worker = min(loads, key=lambda number: (loads[number], number))
        loads[worker] += 1
        given[part] = worker
    return given


@define(eq=False)
class Duties:
    """The parts and the workers, by number; ``desks`` are how each worker is spoken to."""

    workers: Mapping[int, Worker]
    desks: Mapping[int, Performer]
    reactor: Any
    parts: list[int]
    is_on: bool = False  # whether parts are given to others
    _held: dict[int, int] = field(factory=dict, init=False)  # parts of others, and who looks after them
    _asked: dict[int, int] = field(factory=dict, init=False)  # parts of others, and who was asked to

    def members(self) -> Mapping[int, Performer]:
        """The workers that are there."""
        return {number: self.desks[number] for number, one in self.workers.items() if one.state == "ready"}

    def who_has(self, part: int) -> int | None:
        """The worker that looks after a part, whether or not it is there at this moment; None: nobody."""
        return self._held.get(part, part if part in self.workers else None)

    def unattended(self) -> list[int]:
        """The parts that nobody looks after at this moment."""
        return [part for part in self.parts if self.who_has(part) not in self.members()]

    def others_of(self, worker: int) -> list[int]:
        """The parts of others that a worker looks after."""
        return sorted(part for part, holder in self._held.items() if holder == worker)

    def leave(self, worker: int) -> None:
        """A worker has ended, and what it looked after lies still."""
        for duties in (self._held, self._asked):
            for part in [part for part, holder in duties.items() if holder == worker]:
                del duties[part]

    def balance(self) -> None:
        """Give parts that would lie still for long to workers that are there."""
        if not self.is_on:
            return
        now = self.reactor.seconds()
        taken = {**self._asked, **self._held}
        orphans = [part for part in self.parts if part not in taken and self._is_orphan(part, now)]
        load = {number: 1 + list(taken.values()).count(number) for number in self.members()}
        for part, number in hand_out(orphans, load).items():
            self._asked[part] = number
            Deferred.fromCoroutine(self._hand_over(part, number)).addErrback(lambda failure: _log.failure("handing over failed", failure))

    async def take_back(self, part: int) -> None:
        """Have a part closed by who looks after it, if anybody does, so that its own worker can open it."""
        holder = self._held.get(part, self._asked.get(part))
        if holder is not None:
            try:
                await self.desks[holder].perform("part_give", {"part": part})
            except Refusal as problem:
                # If it still has the part, the worker finds it locked, and all of this begins anew.
                _log.error("part {part} was not given back: {problem}", part=part, problem=problem)
        self._held.pop(part, None)
        self._asked.pop(part, None)

    def _is_orphan(self, part: int, now: float) -> bool:
        worker = self.workers.get(part)
        return worker is None or (worker.state == "waiting" and worker.until - now > _LONG)

    async def _hand_over(self, part: int, number: int) -> None:
        try:
            await self.desks[number].perform("part_take", {"part": part})
        except Refusal as problem:
            _log.error("worker {number} does not look after part {part}: {problem}", number=number, part=part, problem=problem)
            # It stays asked until then, so that it is not asked all the time.
            self.reactor.callLater(_AGAIN, self._ask_again, part, number)
            return
        if self._asked.get(part) == number:
            self._held[part] = self._asked.pop(part)
            _log.warn("worker {number} looks after part {part} of the queue, too", number=number, part=part)

    def _ask_again(self, part: int, number: int) -> None:
        if self._asked.get(part) == number:
            del self._asked[part]
        self.balance()
