"""Lanes: one for each destination, each with its own queue, its own connections and its own back-off, served in turn."""

from collections import deque
from collections.abc import Callable, Iterator
from math import inf
from typing import NamedTuple

from attrs import Factory, define

from mailgw.values.delivery import Destination, Outcome
from mailgw.values.ledger import Parcel

__all__ = ["Job", "Lane", "Lanes"]

PARCEL_WEIGHT = 4096  # octets of memory for a parcel without its content


class Job(NamedTuple):
    """A leased parcel and where today's routes send it; ``parcel.destination`` is where the store believes it is going."""

    parcel: Parcel
    destination: Destination

    @property
    def weight(self) -> int:
        """Octets of memory, about."""
        original = self.parcel.content.original
        return PARCEL_WEIGHT + (len(original) if isinstance(original, bytes) else 0)


@define(eq=False)
class Lane:
    """Everything about one destination. Times are POSIX seconds."""

    destination: Destination
    connections: int  # attempts at the same time
    ready: deque[Job] = Factory(deque)
    active: int = 0
    weight: int = 0  # octets of memory, of what is ready and active
    # The destination's health.
    failures: int = 0  # how many times in a row it was unreachable
    blocked_until: float = 0.0
    said: Outcome | None = None  # why it is blocked
    # What waits in the store.
    due: float = inf  # when the first of it is due, as far as known
    not_before: float = 0.0  # do not read before this
    alarm: float = inf  # when the reading will look at this lane
    is_reading: bool = False
    # Its place in the round.
    has_turn: bool = False

    @property
    def limit(self) -> int:
        """How many attempts may run now: a destination that was unreachable is tried with one."""
        return 1 if self.failures else self.connections

    @property
    def may_go(self) -> bool:
        """Whether an attempt can start."""
        return bool(self.ready) and self.active < self.limit

    @property
    def is_empty(self) -> bool:
        """Whether it can be forgotten."""
        return not (self.ready or self.active or self.failures or self.is_reading) and self.due == inf


class Lanes:
    """All lanes, and the round in which those with something ready take their turns."""

    def __init__(self, connections: Callable[[Destination], int], memory: int) -> None:
        """``memory`` bounds the octets that are held here; ``connections`` says how many attempts a destination may have at once."""
        self._connections = connections
        self._memory = memory
        self._lanes: dict[Destination, Lane] = {}
        self._round: deque[Lane] = deque()
        self.weight = 0

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, destination: Destination) -> Lane:
        """The lane of a destination; made if there is none."""
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = Lane(destination, self._connections(destination))
        return lane

    def limit_anew(self) -> None:
        """The limits of connections are others now."""
        for lane in self._lanes.values():
            lane.connections = self._connections(lane.destination)

    def forget(self, lane: Lane) -> None:
        """Drop a lane that has nothing left."""
        if lane.is_empty and self._lanes.get(lane.destination) is lane:
            del self._lanes[lane.destination]

    def has_room(self, lane: Lane, weight: int) -> bool:
        """Whether a lane may hold that much more: at most as much as is still free, so no lane can take the room of all others.

        Whatever can go at once may always come in.
        """
        return lane.weight + weight <= self._memory - self.weight or (not self._round and not lane.ready and lane.active < lane.limit)

    @property
    def is_roomy(self) -> bool:
        """Whether there is room for reading from the store: half of it is left to what just came in."""
        return self.weight * 2 <= self._memory

    def enter(self, lane: Lane, job: Job) -> None:
        """Make a job ready."""
        weight = job.weight
        lane.weight += weight
        self.weight += weight
        lane.ready.append(job)
        self.join(lane)

    def join(self, lane: Lane) -> None:
        """Give a lane that may go its place in the round."""
        if not lane.has_turn and lane.may_go:
            lane.has_turn = True
            self._round.append(lane)

    def next(self) -> tuple[Lane, Job] | None:
        """The next job in turn: it is active until `leave`. None if no lane may go."""
        while self._round:
            lane = self._round.popleft()
            lane.has_turn = False
            if lane.may_go:
                lane.active += 1
                job = lane.ready.popleft()
                self.join(lane)
                return lane, job
        return None

    @property
    def is_waiting(self) -> bool:
        """Whether a lane has its place in the round."""
        return bool(self._round)

    def leave(self, lane: Lane, job: Job) -> None:
        """An attempt is over."""
        lane.active -= 1
        self._lighten(lane, job)
        self.join(lane)

    def clear(self, lane: Lane) -> list[Job]:
        """Take everything that is ready out of a lane."""
        jobs = list(lane.ready)
        lane.ready.clear()
        for job in jobs:
            self._lighten(lane, job)
        return jobs

    def _lighten(self, lane: Lane, job: Job) -> None:
        weight = job.weight
        lane.weight -= weight
        self.weight -= weight
