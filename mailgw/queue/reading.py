"""Reading from the store what is due, and asking the routes again where it goes."""

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from heapq import heapify, heappop, heappush
from itertools import count
from math import inf
from traceback import format_exc
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailgw.endings import no_ending
from mailgw.interfaces import IQueueStore
from mailgw.journal import Fault, Journal
from mailgw.patience import within
from mailgw.queue.fairness import Job, Lane, Lanes
from mailgw.routing import Found, Routing, facts_again
from mailgw.values.address import Address
from mailgw.values.delivery import Destination, Envelope, Outcome, later, never
from mailgw.values.ledger import Parcel, Queued
from mailgw.values.reply import Reply

__all__ = ["NO_ROUTE", "Reading", "find_route"]

BATCH = 100  # recipients read at a time
READS = 4  # at the same time
SCAN_PAUSE = 1.0  # seconds between two looks at the whole store,
SCAN_PAUSE_PER_LANE = 0.0002  # and more when there are many destinations to look at
WALK_PAUSE = 0.25  # seconds between two batches of a destination that is backed off
FULL_PAUSE = 1.0  # seconds until a lane is looked at again for which there was no room
STORE_PAUSE = 5.0  # seconds after the store failed
ROUTE_TIMEOUT = 30.0  # seconds
STALE = 100  # alarms that may be there for nothing, besides one for each lane
LANES_KEPT = 3600.0  # seconds for which it is remembered that an empty destination was unreachable

NO_ROUTE = Reply(550, "5.4.4", "no route to this recipient")  # RFC 3463 §3.5: unable to route
_ROUTE_FAILED = later(Reply(451, "4.3.5", "routing failed, see the log"))


class Reading:
    """Knows when each destination has something due, and leases it in small batches.

    Each lane with something in the store has an alarm on one heap, and the heap has one timer. When more is due than was read, or
    is known, `IQueueStore.waiting` is asked again, at most once a second. A destination that is backed off is read too, slowly:
    its messages get older and have to be warned about and given up.
    """

    def __init__(
        self,
        *,
        store: IQueueStore,
        routing: Routing,
        lanes: Lanes,
        journal: Journal,
        clock: IReactorTime,
        take: Callable[[Job], bool],
        judge: Callable[[Job, Mapping[Address, Outcome]], None],
        turn: Callable[[], None],
    ) -> None:
        """``take`` says whether a job that was read stays in memory, ``judge`` settles one that is not to be attempted.

        ``turn`` is called when all jobs of a batch were taken.
        """
        self._store = store
        self._routing = routing
        self._lanes = lanes
        self._journal = journal
        self._clock = clock
        self._take = take
        self._judge = judge
        self._turn = turn
        self._alarms: list[tuple[float, int, Lane]] = []
        self._order = count()
        self._wanting: deque[Lane] = deque()
        self._reads = 0
        self._scan_at = inf
        self._timer: IDelayedCall | None = None
        self._timer_at = inf
        self._running = False

    def ask(self, routing: Routing) -> None:
        """Ask other routes from now on."""
        self._routing = routing

    def start(self) -> None:
        """Look at everything that waits."""
        self._running = True
        self.scan()

    def stop(self) -> None:
        """Read nothing any more."""
        self._running = False
        self._set_timer(inf)

    @property
    def is_idle(self) -> bool:
        """Whether no read is going on."""
        return not self._reads

    def scan(self) -> None:
        """Ask the store soon what is waiting."""
        self._scan_at = min(self._scan_at, self._clock.seconds())
        self._arm()

    def start_over(self) -> None:
        """Forget when things are due, and ask the store again."""
        self._alarms.clear()
        for lane in self._lanes:
            lane.due = lane.alarm = inf
        self._scan_at = inf
        self.scan()

    def expect(self, destination: Destination, due: float) -> None:
        """The store holds something for ``destination`` that is due at ``due``, in POSIX seconds."""
        lane = self._lanes.get(destination)
        lane.due = min(lane.due, due)
        self.look(lane)

    def look(self, lane: Lane) -> None:
        """Read for this lane as soon as something is due and there is room."""
        when = max(lane.due, lane.not_before)
        if when < lane.alarm and self._may_read(lane):
            lane.alarm = when
            heappush(self._alarms, (when, next(self._order), lane))
            if when < self._timer_at:
                self._arm()

    def _may_read(self, lane: Lane) -> bool:
        if lane.is_reading or len(lane.ready) >= lane.limit:
            return False
        if not lane.failures:
            return True
        return self._clock.seconds() < lane.blocked_until or not (lane.ready or lane.active)

    def _arm(self) -> None:
        if not self._running:
            return
        if self._wanting and self._reads < READS:
            self._set_timer(0.0)
        else:
            self._set_timer(min(self._scan_at, self._alarms[0][0] if self._alarms else inf))

    def _set_timer(self, when: float) -> None:
        if self._timer is not None:
            if self._timer_at == when:
                return
            self._timer.cancel()
            self._timer = None
        self._timer_at = when
        if when < inf:
            self._timer = self._clock.callLater(max(0.0, when - self._clock.seconds()), self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._clock.seconds()
        if self._scan_at <= now:
            self._scan_at = inf
            self._run(self._scan())
        while self._alarms and self._alarms[0][0] <= now:
            when, _, lane = heappop(self._alarms)
            if when != lane.alarm:
                continue  # an earlier alarm was set, or the lane has been served
            lane.alarm = inf
            if not self._may_read(lane):
                continue  # `look` is called again when that changes
            if max(lane.due, lane.not_before) > now:
                self.look(lane)
            elif not self._lanes.is_roomy:
                lane.not_before = now + FULL_PAUSE
                self.look(lane)
            else:
                lane.is_reading = True
                self._wanting.append(lane)
        while self._wanting and self._reads < READS:
            self._reads += 1
            self._run(self._read(self._wanting.popleft()))
            if self._clock.seconds() != now:
                break  # a store that answers at once must not keep the reactor
        self._arm()

    def _run(self, coroutine: Coroutine[Deferred[Any], Any, None]) -> None:
        Deferred.fromCoroutine(coroutine).addErrback(self._fault)

    async def _scan(self) -> None:
        try:
            waiting = await self._store.waiting()
        except Exception as problem:
            self._trouble("waiting", problem)
            self._scan_at = min(self._scan_at, self._clock.seconds() + STORE_PAUSE)
            self._arm()
            return
        for destination, due in waiting.items():
            self.expect(destination, due)
        now = self._clock.seconds()
        for lane in self._lanes:
            if lane.failures and lane.due == inf and lane.blocked_until + LANES_KEPT < now and not lane.active:
                lane.failures = 0
            self._lanes.forget(lane)
        if len(self._alarms) > 2 * len(self._lanes) + STALE:
            # An earlier alarm leaves the later one where it is, and each look at the store may set that anew.
            self._alarms = list({one[2]: one for one in self._alarms if one[0] == one[2].alarm}.values())
            heapify(self._alarms)
        self._arm()

    async def _read(self, lane: Lane) -> None:
        now = self._clock.seconds()
        lane.due = inf
        probing = lane.failures and now >= lane.blocked_until
        try:
            parcels = await self._store.lease(lane.destination, now, 1 if probing else BATCH)
        except Exception as problem:
            self._trouble("lease", problem)
            lane.due, lane.not_before = now, self._clock.seconds() + STORE_PAUSE
        else:
            taken = 0
            for parcel in parcels:
                for job in await self._route(parcel):
                    taken += self._take(job)
            if parcels:
                lane.due = min(lane.due, now)
                if not taken:
                    lane.not_before = self._clock.seconds() + WALK_PAUSE
            else:
                pause = SCAN_PAUSE + SCAN_PAUSE_PER_LANE * len(self._lanes)
                self._scan_at = min(self._scan_at, self._clock.seconds() + pause)
        finally:
            self._reads -= 1
            lane.is_reading = False
            self.look(lane)
            self._arm()
        self._turn()

    async def _route(self, parcel: Parcel) -> list[Job]:
        """The parcel, taken apart by where today's routes send its recipients."""
        groups: dict[Destination, list[Queued]] = {}
        for queued in parcel.queued:
            found = await find_route(self._routing, parcel.envelope, queued.recipient.address, self._clock, self._journal)
            if isinstance(found, Found):
                groups.setdefault(found.destination, []).append(queued)
            else:
                lost = Parcel(parcel.message, parcel.envelope, parcel.content, parcel.destination, (queued,))
                self._judge(Job(lost, parcel.destination), {queued.recipient.address: found})
        return [
            Job(Parcel(parcel.message, parcel.envelope, parcel.content, parcel.destination, tuple(group)), destination)
            for destination, group in groups.items()
        ]

    def _trouble(self, what: str, problem: Exception) -> None:
        self._journal.note(Fault("", "store", f"{what} failed, it will be tried again: {problem!r}"))

    def _fault(self, failure: Failure) -> None:
        self._journal.note(Fault("", "queue", f"reading failed: {failure.value!r}", failure.getTraceback()))


async def find_route(routing: Routing, envelope: Envelope, recipient: Address, clock: IReactorTime, journal: Journal) -> Found | Outcome:
    """Where a queued recipient goes today, or what becomes of it: never, if no route wants it; later, if a route did not work."""
    try:
        finding = Deferred.fromCoroutine(routing.find(facts_again(envelope, recipient))).addErrback(no_ending)
        found = await within(finding, ROUTE_TIMEOUT, clock)
    except Exception as problem:
        journal.note(Fault(envelope.session, "routing", f"route for {recipient} failed: {problem!r}", format_exc()))
        return _ROUTE_FAILED
    return found or never(NO_ROUTE)
