"""The dispatcher: takes what is due to the gateways, and writes down what became of it. One file because it is one loop."""

from collections.abc import Awaitable, Coroutine, Mapping, Sequence
from inspect import isawaitable
from math import inf
from random import Random
from traceback import format_exc
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from mailgw.interfaces import IGateway, IIdentity, IQueueStore, StoreUnavailable
from mailgw.journal import Fault, Journal
from mailgw.patience import CutOff
from mailgw.queue.bounce import Report
from mailgw.queue.conclusion import conclude, in_brief, understand
from mailgw.queue.fairness import Job, Lane, Lanes
from mailgw.queue.reading import Reading
from mailgw.queue.retry import Schedule, back_off, earliest
from mailgw.queue.settling import Finished, Settling
from mailgw.queue.telling import Telling
from mailgw.routing import Routing
from mailgw.values.address import Address
from mailgw.values.delivery import Destination, Fate, Outcome, Shipment, later
from mailgw.values.ledger import Put
from mailgw.values.reply import Reply

__all__ = ["Dispatcher"]

TURN = 100  # shipments handed to gateways before the reactor has its turn
_LAST_WORDS = 0.5  # seconds for a gateway that was cancelled to say what it has done until then
_TOO_SLOW = Reply(451, "4.4.7", "the gateway did not answer in time")


class _Flight:
    """A shipment in a gateway's hands that was not answered at once."""

    __slots__ = ("answer", "is_cancelled", "is_over", "job", "lane", "started")

    def __init__(self, lane: Lane, job: Job, started: float, answer: Deferred[Any]) -> None:
        self.lane = lane
        self.job = job
        self.started = started
        self.answer = answer
        self.is_cancelled = False
        self.is_over = False


class Dispatcher:
    """Delivers what is waiting: fair between destinations, patient with the dead ones, within bounds of memory and connections.

    All its methods must be called in the reactor's thread.
    """

    def __init__(
        self,
        *,
        store: IQueueStore,
        routing: Routing,
        gateways: Mapping[str, IGateway],
        schedules: Mapping[str, Schedule],
        journal: Journal,
        clock: IReactorTime,
        identity: IIdentity,
        randomness: Random,
        connections: Mapping[str, int] | None = None,
        connections_default: int = 20,
        connections_total: int = 200,
        memory: int = 64 * 1024 * 1024,
        delivery_timeout: float = 3600.0,
        gather: float = 0.0,
    ) -> None:
        """``gateways``, ``schedules`` and ``connections`` (attempts at the same time for each destination) are by gateway name.

        ``clock.seconds()`` must be POSIX time, as the reactor's is. ``memory`` bounds the octets of parcels in memory, what is
        beyond stays in the store. ``delivery_timeout``, in seconds, is the safety net below the gateways' own time-outs.
        ``gather``: see `Settling`.
        """
        self._limits = connections or {}
        self._gateways = gateways
        self._schedules = schedules
        self._store = store
        self._journal = journal
        self._clock = clock
        self._randomness = randomness
        self._total = connections_total
        self._timeout = delivery_timeout
        self._lanes = Lanes(lambda destination: self._limits.get(destination.gateway, connections_default), memory)
        self._telling = Telling(routing, identity, journal, clock, randomness)
        self._settling = Settling(store, journal, clock, settled=self._settled, written=self._written, gather=gather)
        self._reading = Reading(
            store=store,
            routing=routing,
            lanes=self._lanes,
            journal=journal,
            clock=clock,
            take=self._take,
            judge=self._pass_over,
            turn=self._turn,
        )
        self._flights: dict[_Flight, None] = {}  # in the order in which they started, which is that of their deadlines
        self._deadline: IDelayedCall | None = None
        self._active = 0
        self._tellings = 0
        self._is_turning = False
        self._next_turn: IDelayedCall | None = None
        self._is_stopping = False
        self._stopped: Deferred[None] | None = None

    def start(self) -> None:
        """Begin to deliver what the store holds; `offer` works before, too."""
        self._reading.start()

    def offer(self, put: Put) -> None:
        """Deliver what was just committed; its parcels are leased to us already."""
        for parcel in put.parcels:
            job = Job(parcel, parcel.destination)
            if parcel.destination.gateway in self._gateways:
                self._take(job)
            else:  # a session that began before a reload knows gateways that are gone: the routes are asked again
                self._put_back(job)
        self._turn()

    def reconfigure(
        self,
        *,
        routing: Routing,
        gateways: Mapping[str, IGateway],
        schedules: Mapping[str, Schedule],
        connections: Mapping[str, int],
    ) -> None:
        """Go on with other routes and gateways; what is under way ends with those that it began with."""
        self._gateways, self._schedules, self._limits = gateways, schedules, connections
        self._telling = evolve(self._telling, routing=routing)
        self._reading.ask(routing)
        for lane in self._lanes:
            for job in self._lanes.clear(lane):  # its routes are asked again
                self._put_back(job)
        self._lanes.limit_anew()
        self._settling.flush()
        self.wake()

    def wake(self) -> None:
        """An operator changed the queue: look at all of it, and try every destination again, with one attempt each."""
        for lane in self._lanes:
            lane.blocked_until = lane.not_before = 0.0
        self._settling.again()
        self._reading.scan()

    async def clock_was_set(self, by: float) -> None:
        """Go on where the machine's clock was set forward, or back (less than nothing), and ``clock.seconds()`` with it.

        Back-offs and time limits keep what is left of them. What waits in the store keeps its time when the clock was set back; when
        it was set forward, what has become due by it is tried: too early rather than too late.
        """
        for flight in self._flights:
            flight.started += by
        for lane in self._lanes:
            lane.blocked_until += by
            lane.not_before += by
        if by < 0:
            try:
                await self._store.bring_forward(-by, self._clock.seconds())
            except StoreUnavailable as problem:
                self._journal.note(Fault("", "store", f"what waits is tried late, since the clock was set back: {problem}"))
        self._reading.start_over()

    async def stop(self, seconds: float) -> None:
        """Start nothing new, give running deliveries ``seconds`` to end, release the rest, and write everything down.

        Deliveries that have not ended by then are cancelled: whoever was served before is written down, the others will be tried
        again. Returns at the latest after that time, half a second for gateways that do not end at once, and another for the store.
        """
        self._is_stopping = True
        self._reading.stop()
        if self._next_turn is not None:
            self._next_turn.cancel()
            self._next_turn = None
        for lane in self._lanes:
            for job in self._lanes.clear(lane):
                self._put_back(job)
        self._settling.hurry()
        await self._until_idle(seconds)
        for flight in list(self._flights):
            self._cancel(flight)
        if self._flights:
            await self._until_idle(_LAST_WORDS)
        for flight in list(self._flights):
            self._cut_off(flight, None)
        self._settling.again()
        await self._until_idle(0.5)
        self._settling.stop()
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def status(self) -> dict[str, Any]:
        """What is going on, as plain values; times are POSIX seconds."""
        lanes = list(self._lanes)
        busy = [lane for lane in lanes if lane.active or lane.ready]
        return {
            "lanes": len(lanes),
            "active": self._active,
            "waiting": sum(len(lane.ready) for lane in lanes),  # in memory; what the store holds is told by `IQueueDesk.stats`
            "memory": self._lanes.weight,
            "unsettled": self._settling.pending,
            "store_blocked": self._settling.is_blocked,
            "busy": [{**lane.destination._asdict(), "active": lane.active, "waiting": len(lane.ready)} for lane in busy],
            "backed_off": [
                {
                    **lane.destination._asdict(),
                    "failures": lane.failures,
                    "until": lane.blocked_until,
                    "reply": str(lane.said.reply) if lane.said else "",
                }
                for lane in lanes
                if lane.failures
            ],
        }

    # ── What comes in ──

    def _take(self, job: Job) -> bool:
        """Make a job ready, or settle it if its destination is backed off, or leave it to the store."""
        lane = self._lanes.get(job.destination)
        if self._is_stopping or not job.destination.gateway:  # what is not routed yet is routed when it is read
            self._put_back(job)
        elif lane.failures and lane.said and self._clock.seconds() < lane.blocked_until:
            self._pass_over(job, {queued.recipient.address: lane.said for queued in job.parcel.queued})
        elif self._lanes.has_room(lane, job.weight):
            self._lanes.enter(lane, job)
            return True
        else:
            self._put_back(job)
        return False

    def _put_back(self, job: Job) -> None:
        self._settling.release(job.parcel)
        if not self._is_stopping:
            self._reading.expect(job.parcel.destination, self._clock.seconds())

    # ── What goes out ──

    def _turn(self) -> None:
        """Hand ready jobs to their gateways, destination by destination, as far as the bounds allow."""
        if self._is_turning or self._next_turn is not None:
            # Below this call a gateway answered at once, or its DSN was offered: the loop goes on with it, not the stack.
            return
        self._is_turning = True
        shipped = 0
        while self._active < self._total and not self._settling.is_blocked and not self._is_stopping:
            if shipped == TURN:
                if self._lanes.is_waiting:
                    self._next_turn = self._clock.callLater(0, self._turn_again)
                break
            following = self._lanes.next()
            if following is None:
                break
            self._ship(*following)
            shipped += 1
        self._is_turning = False
        self._settling.flush()
        self._check_idle()

    def _turn_again(self) -> None:
        self._next_turn = None
        self._turn()

    def _ship(self, lane: Lane, job: Job) -> None:
        self._active += 1
        parcel = job.parcel
        recipients = tuple([queued.recipient for queued in parcel.queued])
        shipment = Shipment(parcel.message, parcel.envelope, parcel.content, recipients, job.destination.next_hop)
        try:
            answer: Any = self._gateways[job.destination.gateway].deliver(shipment)
        except BaseException as problem:  # SystemExit, too, as where a coroutine raises it
            answer = fail(problem)
        if isinstance(answer, dict):
            self._landed(lane, job, answer)
            return
        if isinstance(answer, Coroutine):
            answer = Deferred.fromCoroutine(answer)
        elif isawaitable(answer) and not isinstance(answer, Deferred):
            answer = Deferred.fromCoroutine(_wait(answer))
        if not isinstance(answer, Deferred):
            self._landed(lane, job, answer)
            return
        flight = _Flight(lane, job, self._clock.seconds(), answer)
        self._flights[flight] = None
        answer.addBoth(self._answered, flight)
        if not flight.is_over and self._deadline is None:
            self._deadline = self._clock.callLater(self._timeout, self._too_late)

    def _answered(self, answer: Any, flight: _Flight) -> None:
        if flight.is_over:
            return  # too late: it has been settled or released already
        if flight.is_cancelled:
            self._cut_off(flight, answer)
            self._settling.flush()
            self._check_idle()
            return
        flight.is_over = True
        del self._flights[flight]
        self._landed(flight.lane, flight.job, answer)
        self._turn()

    def _too_late(self) -> None:
        """End the flights that take too long; the timer then waits for the next oldest."""
        self._deadline = None
        now = self._clock.seconds()
        for flight in list(self._flights):
            if flight.started + self._timeout > now:
                self._deadline = self._clock.callLater(flight.started + self._timeout - now, self._too_late)
                break
            self._fault(flight.job, f"no answer after {self._timeout:g} seconds")
            self._cancel(flight)
            if not flight.is_over:
                self._cut_off(flight, None)
            self._reading.look(flight.lane)
        self._turn()

    def _cancel(self, flight: _Flight) -> None:
        """End a flight; most are over then, by `_cut_off`."""
        flight.is_cancelled = True
        try:
            flight.answer.cancel()
        except Exception as problem:  # of a canceller of the gateway's own
            self._fault(flight.job, f"gateway failed: {in_brief(problem)}", format_exc())

    def _cut_off(self, flight: _Flight, answer: Any) -> None:
        """A flight was cancelled: who was served before is not served again; the others were not in time, or go back when we stop."""
        self._leave(flight)
        job, parcel = flight.job, flight.job.parcel
        if isinstance(answer, Failure):
            answer = answer.value.outcomes if isinstance(answer.value, CutOff) else {}
        outcomes, _ = understand(answer, parcel.queued)
        if not self._is_stopping:
            self._concluded(job, {**dict.fromkeys(_addresses(job), later(_TOO_SLOW)), **outcomes})
            return
        over = {address for address, outcome in outcomes.items() if outcome.fate in (Fate.DELIVERED, Fate.NEVER)}
        served = tuple([queued for queued in parcel.queued if queued.recipient.address in over])
        others = tuple([queued for queued in parcel.queued if queued.recipient.address not in over])
        if served:
            self._concluded(job._replace(parcel=evolve(parcel, queued=served)), outcomes)
        if others:
            self._put_back(job._replace(parcel=evolve(parcel, queued=others)))

    def _leave(self, flight: _Flight) -> None:
        flight.is_over = True
        del self._flights[flight]
        self._active -= 1
        self._lanes.leave(flight.lane, flight.job)

    # ── What became of it ──

    def _landed(self, lane: Lane, job: Job, answer: Any) -> None:
        self._active -= 1
        self._lanes.leave(lane, job)
        outcomes: Mapping[Address, Outcome] = {}
        if isinstance(answer, Failure):
            self._fault(job, f"gateway failed: {in_brief(answer.value)}", answer.getTraceback())
            if isinstance(answer.value, CutOff):  # by others than us: something that it waited for was cancelled
                outcomes = answer.value.outcomes
        else:
            outcomes, problem = understand(answer, job.parcel.queued)
            if problem:
                self._fault(job, problem)
            if outcomes:
                self._judge_lane(lane, outcomes)
        self._concluded(job, outcomes, lane.blocked_until)
        self._reading.look(lane)
        if not lane.ready and not lane.active:
            self._lanes.forget(lane)

    def _judge_lane(self, lane: Lane, outcomes: Mapping[Address, Outcome]) -> None:
        """Back the destination off if it is unreachable, or find that it is alive again."""
        for outcome in outcomes.values():
            if outcome.unreachable and outcome.fate is Fate.LATER:
                break
        else:
            if lane.failures:
                lane.failures, lane.blocked_until, lane.said, lane.not_before = 0, 0.0, None, 0.0
                self._lanes.join(lane)
            return
        now = self._clock.seconds()
        if now >= lane.blocked_until:  # several attempts that began together count once
            lane.failures += 1
            lane.blocked_until = now + back_off(self._schedule(lane.destination), lane.failures)
        lane.blocked_until = max(lane.blocked_until, earliest(now, outcome.retry_after))
        lane.said = evolve(outcome, retry_after=None)  # what it asked for counts from now, not from when another message comes by
        for job in self._lanes.clear(lane):
            self._put_back(job)

    def _pass_over(self, job: Job, outcomes: Mapping[Address, Outcome]) -> None:
        """Settle a job without an attempt: its destination is known to be down, or the routes had their say."""
        self._concluded(job, outcomes, self._lanes.get(job.destination).blocked_until, attempted=False)

    def _concluded(self, job: Job, outcomes: Mapping[Address, Outcome], not_before: float = 0.0, attempted: bool = True) -> None:
        try:
            conclusion = conclude(
                job.parcel,
                job.destination,
                outcomes,
                self._schedule(job.destination),
                now=self._clock.seconds(),
                randomness=self._randomness,
                not_before=not_before,
                attempted=attempted,
            )
        except Exception as problem:  # whatever nonsense an outcome holds, it must not stop the turn
            self._broken(problem, job)
            return
        for event in conclusion.events:
            self._journal.note(event)
        waiting = ((job.destination, conclusion.due),) if conclusion.due < inf else ()
        finished = Finished(conclusion.settlements, (), waiting)
        if conclusion.reports:
            self._tellings += 1
            Deferred.fromCoroutine(self._tell(job, finished, conclusion.reports))
            return
        self._settling.add(finished)
        if not self._is_turning:
            self._settling.flush()

    async def _tell(self, job: Job, finished: Finished, reports: Sequence[Report]) -> None:
        """Settle together with the DSNs about it."""
        try:
            told = await self._telling.notices(job.parcel, reports)
            self._settling.add(evolve(finished, told=told))
        except Exception as problem:
            self._broken(problem, job)
        finally:
            self._tellings -= 1
        self._turn()

    def _settled(self, finished: Finished, puts: Sequence[Put]) -> None:
        """The store has taken what is finished."""
        for destination, due in finished.waiting:
            self._reading.expect(destination, due)
        for put in puts:
            self.offer(put)

    def _written(self) -> None:
        if self._lanes.is_waiting:
            self._turn()  # the store may have been out of order until now
        self._check_idle()

    # ── The rest ──

    def _schedule(self, destination: Destination) -> Schedule:
        return self._schedules.get(destination.gateway) or Schedule()

    def _fault(self, job: Job, problem: str, traceback: str = "") -> None:
        self._journal.note(Fault(job.parcel.envelope.session, job.destination.gateway, problem, traceback))

    def _broken(self, problem: Exception, job: Job) -> None:
        """A fault of ours: the recipients stay leased, and are tried again after a restart."""
        self._fault(job, f"message {job.parcel.message} could not be settled: {problem!r}", format_exc())

    async def _until_idle(self, seconds: float) -> None:
        self._stopped = Deferred()
        limit = self._clock.callLater(seconds, self._stopped.callback, None)
        self._check_idle()
        await self._stopped
        self._stopped = None
        if limit.active():
            limit.cancel()

    def _check_idle(self) -> None:
        stopped = self._stopped
        if stopped is None or stopped.called or self._active or self._tellings:
            return
        if self._reading.is_idle and self._settling.is_idle:
            stopped.callback(None)


def _addresses(job: Job) -> list[Address]:
    return [queued.recipient.address for queued in job.parcel.queued]


async def _wait(answer: Awaitable[Any]) -> Any:
    return await answer
