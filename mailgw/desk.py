"""The desk of one process: what an operator can ask of it, over all parts of the queue that it looks after, and what Prometheus is told.

With several workers each has one, and their parent has `mailgw.workers.desk` before them all.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from attrs import define, field
from zope.interface import implementer

from mailgw.admin.operations import Operations
from mailgw.admin.reading import Performer, Refusal
from mailgw.admin.recovering import Recovering
from mailgw.admin.selecting import MOST
from mailgw.admin.signpost import Signpost
from mailgw.admin.together import Together
from mailgw.assemble import House, Parts
from mailgw.config.model import Configuration
from mailgw.doors import Doors
from mailgw.interfaces import IClock, IMemory, IObserver, IResolver
from mailgw.journal import Fault, Journal
from mailgw.listening import CannotBind
from mailgw.login.throttle import LoginThrottle
from mailgw.observe.metrics import Metrics, Samples, dns_counters_of, gauges_of
from mailgw.part import Part, Queue
from mailgw.problems import BadConfiguration
from mailgw.reloading import read_reload
from mailgw.storage.parts import part_of

__all__ = ["Desk", "Faults"]

_Order = Callable[..., Awaitable[dict[str, Any]]]


@implementer(IObserver)
@define
class Faults:
    """Counts faults for `mailgw status`."""

    count: int = 0

    def note(self, event: Any) -> None:
        """See `IObserver`."""
        if type(event) is Fault:
            self.count += 1


@define(eq=False, kw_only=True)
class Desk:
    """See `mailgw.admin.reading.Performer`. It must be furnished before it is asked."""

    queue: Queue
    doors: Doors
    journal: Journal
    faults: Faults
    reactor: Any
    metrics: Metrics | None  # None: nobody wants to know
    reload: Callable[[bool], dict[str, Any]]  # whether it is only to be said what would change; raises BadConfiguration, CannotBind
    is_worker: bool
    orders: Mapping[str, _Order] = field(factory=dict, init=False)
    """What else it can be told to do, by name: a worker by its parent."""
    _house: House = field(factory=dict, init=False)
    _signpost: Signpost = field(init=False)
    _throttle: LoginThrottle | None = field(default=None, init=False)
    _operations: dict[int, Operations] = field(factory=dict, init=False)  # by part

    def furnish(self, configuration: Configuration, house: House, parts: Parts, throttle: LoginThrottle) -> None:
        """Answer with this from now on, for all parts of the queue that are there."""
        listen = configuration.listen
        self._house = house
        self._signpost = Signpost(parts.routing, parts.rules, {name: one.smtp_kind for name, one in listen.items()})
        self._throttle = throttle if any(one.accounts for one in listen.values()) else None
        for part in self.queue:
            self.add(part)

    def add(self, part: Part) -> None:
        """Answer for a part of the queue, too."""
        is_own = part.number == self.queue.own
        before = self._operations.get(part.number)
        memory: Any = self._house[IMemory]
        time_of_day: Any = self._house[IClock]
        self._operations[part.number] = Operations(
            desk=part.store,
            clock=self.reactor,
            journal=self.journal,
            signpost=self._signpost,
            wake=part.dispatcher.wake,
            recover=Recovering(part.store, part.folder, part.store.aside).some,
            condition=self._condition if is_own else part.condition,
            present=self.doors.present if is_own else tuple,
            throttle=self._throttle,
            memory=memory,
            time_of_day=time_of_day,
            started=before.started if before is not None else self.reactor.seconds(),
        )

    def remove(self, number: int) -> None:
        """Answer no more for a part."""
        self._operations.pop(number, None)

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`: what can be done with the queue, and "reload"."""
        if operation != "reload":
            return await self._performer().perform(operation, arguments)
        if self.is_worker:
            raise Refusal("bad-request", "workers have the same configuration, all of them: reload at the socket of their parent")
        dry_run = read_reload(arguments)
        try:
            return self.reload(dry_run)
        except (BadConfiguration, CannotBind) as problem:
            raise Refusal("configuration", str(problem)) from problem

    def _performer(self) -> Performer:
        if not self.is_worker and len(self._operations) == 1:
            return self._operations[self.queue.own]
        return Together(members=lambda: self._operations, part_of=part_of, more=self.orders)

    def _condition(self) -> Mapping[str, Any]:
        listeners = {
            one.listener.name: {
                "kind": one.listener.kind,
                "endpoints": list(one.listener.endpoint),
                "sessions": one.sessions(),
            }
            for one in self.doors.open
        }
        own = self.queue.open[self.queue.own].condition()
        return {"listeners": listeners, **own, "resolver": self._names(), "faults": self.faults.count}

    def _names(self) -> Mapping[str, Any]:
        resolver: Any = self._house[IResolver]
        condition: Mapping[str, Any] = resolver.condition()
        return condition

    # ── For Prometheus ──

    def counted(self) -> Samples:
        """What was counted; nothing where nobody wants to know."""
        return {} if self.metrics is None else {**self.metrics.samples, **dns_counters_of(self._names())}

    async def samples(self) -> Samples:
        """What was counted, and how things are now: for the page of metrics."""
        performer = self._performer()
        gauges = gauges_of(await performer.perform("status", {}), await performer.perform("queue_stats", {"limit": MOST}))
        return {**self.counted(), **gauges}
