"""The desk of one process: what an operator can ask of it, over all parts of the queue that it looks after, and what Prometheus is told.

With several workers each has one, and their parent has `mailgw.workers.desk` before them all.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

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
from mailgw.journal import Fault
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
class Faults:
    """Counts faults for `mailgw status`."""

    def __init__(self) -> None:
        self.count = 0

    def note(self, event: Any) -> None:
        """See `IObserver`."""
        if type(event) is Fault:
            self.count += 1


class Desk:
    """See `mailgw.admin.reading.Performer`. It must be furnished before it is asked."""

    _house: House
    _signpost: Signpost
    _throttle: LoginThrottle | None

    def __init__(
        self, queue: Queue, doors: Doors, faults: Faults, metrics: Metrics | None, reload: Callable[[bool], dict[str, Any]]
    ) -> None:
        """Make one. ``metrics`` is None where nobody wants to know. ``reload``: see `mailgw.service.MailGateway.reload`."""
        self.orders: Mapping[str, _Order] = {}
        """What else it can be told to do, by name: a worker by its parent."""
        self._queue = queue
        self._doors = doors
        self._faults = faults
        self._metrics = metrics
        self._reload = reload
        self._is_worker = doors.post is not None
        self._operations: dict[int, Operations] = {}  # by part

    def furnish(self, configuration: Configuration, house: House, parts: Parts, throttle: LoginThrottle) -> None:
        """Answer with this from now on, for all parts of the queue that are there."""
        listen = configuration.listen
        self._house = house
        self._signpost = Signpost(parts.routing, parts.rules, {name: one.smtp_kind for name, one in listen.items()})
        self._throttle = throttle if any(one.accounts for one in listen.values()) else None
        for part in self._queue:
            self.add(part)

    def add(self, part: Part) -> None:
        """Answer for a part of the queue, too."""
        is_own = part.number == self._queue.own
        before = self._operations.get(part.number)
        memory: Any = self._house[IMemory]
        time_of_day: Any = self._house[IClock]
        self._operations[part.number] = Operations(
            desk=part.store,
            clock=self._queue.reactor,
            journal=self._queue.journal,
            signpost=self._signpost,
            wake=part.dispatcher.wake,
            recover=Recovering(part.store, part.folder, part.store.aside).some,
            condition=self._condition if is_own else part.condition,
            present=self._doors.present if is_own else tuple,
            throttle=self._throttle,
            memory=memory,
            time_of_day=time_of_day,
            started=before.started if before is not None else self._queue.reactor.seconds(),
        )

    def remove(self, number: int) -> None:
        """Answer no more for a part."""
        self._operations.pop(number, None)

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`: what can be done with the queue, and "reload"."""
        if operation != "reload":
            return await self._performer().perform(operation, arguments)
        if self._is_worker:
            raise Refusal("bad-request", "workers have the same configuration, all of them: reload at the socket of their parent")
        dry_run = read_reload(arguments)
        try:
            return self._reload(dry_run)
        except (BadConfiguration, CannotBind) as problem:
            raise Refusal("configuration", str(problem)) from problem

    def _performer(self) -> Performer:
        if not self._is_worker and len(self._operations) == 1:
            return self._operations[self._queue.own]
        return Together(members=lambda: self._operations, part_of=part_of, more=self.orders)

    def _condition(self) -> Mapping[str, Any]:
        listeners = {
            one.listener.name: {
                "kind": one.listener.kind,
                "endpoints": list(one.listener.endpoint),
                "sessions": one.sessions(),
            }
            for one in self._doors.open
        }
        certificates = [
            {"listener": one.listener.name, "name": name, "until": tls.until()}
            for one in self._doors.open
            for name, tls in one.certificates().items()
        ]
        own = self._queue.open[self._queue.own].condition()
        return {"listeners": listeners, "certificates": certificates, **own, "resolver": self._names(), "faults": self._faults.count}

    def _names(self) -> Mapping[str, Any]:
        resolver: Any = self._house[IResolver]
        condition: Mapping[str, Any] = resolver.condition()
        return condition

    # ── For Prometheus ──

    def counted(self) -> Samples:
        """What was counted; nothing where nobody wants to know."""
        return {} if self._metrics is None else {**self._metrics.samples, **dns_counters_of(self._names())}

    async def samples(self) -> Samples:
        """What was counted, and how things are now: for the page of metrics."""
        performer = self._performer()
        gauges = gauges_of(await performer.perform("status", {}), await performer.perform("queue_stats", {"limit": MOST}))
        return {**self.counted(), **gauges}
