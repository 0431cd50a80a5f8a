"""The running gateway: what `mailgw.assemble` made, put on sockets and threads, exchanged and ended in good order.

One file because start, reload and end go through the same parts.
"""

import gc
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from random import SystemRandom
from typing import Any, NoReturn

from attrs import define
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.admin.operations import Operations
from mailgw.admin.reading import Performer, Refusal
from mailgw.admin.recovering import Recovering
from mailgw.admin.selecting import MOST
from mailgw.admin.signpost import Signpost
from mailgw.admin.socket import AdminSocket, SocketInUse
from mailgw.admin.together import Together
from mailgw.assemble import House, Parts, closable, guard_of, observing, pop3_of, porter_of, reception_of
from mailgw.config.model import Configuration
from mailgw.descriptors import Descriptors, raise_limit
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IObserver, IPostOffice, IResolver, StoreUnavailable
from mailgw.journal import Fault, Journal
from mailgw.listening import Binder, CannotBind, Inherited, Open, Within, bind, bind_page, entrances_of, open_listeners
from mailgw.notify import NOBODY, ServiceManager, Summary
from mailgw.observe.log import quicken
from mailgw.observe.metrics import Metrics, Samples, dns_counters_of, gauges_of, page
from mailgw.observe.records import Records, make_reference
from mailgw.part import Part, Post, Queue, left_over
from mailgw.problems import BadConfiguration, Problem
from mailgw.queue.dispatcher import Dispatcher
from mailgw.receive.protocol import SmtpFactory
from mailgw.reloading import Plan, Source, read_reload, reloading
from mailgw.sharing import Crowd
from mailgw.storage.parts import part_of
from mailgw.storage.sqlite import SqliteStore
from mailgw.timekeeping import Timekeeper
from mailgw.values.facts import ClientFacts
from mailgw.watchdog import Entrance, Watchdog

__all__ = ["MailGateway", "give_up"]

_CLOSING = 30.0  # seconds that the store and all else may take to close, after the shutdown's grace

_HASTE = 5.0  # seconds for the end of a worker whose parent has died
_SEE_OFF = 1.0  # seconds between two looks whether sessions that began before a reload are over

_log = Logger(namespace="mailgw.service")


@define(eq=False)
class Leaving:
    """What was in use before a reload, for sessions that began then."""

    parts: Parts
    inside: list[Any]  # their factories


@implementer(IObserver)
@define
class _Faults:
    """Counts faults for `mailgw status`."""

    count: int = 0

    def note(self, event: Any) -> None:
        if type(event) is Fault:
            self.count += 1


class MailGateway(Service):
    """Binds ports before privileges are dropped, opens the queue after, and ends with nothing half done."""

    name = "mailgw"

    def __init__(
        self,
        configuration: Configuration,
        parts: Parts,
        house: House,
        reactor: Any,
        observers: Sequence[IObserver] = (),
        ready: Callable[[], None] = lambda: None,
        manager: ServiceManager = NOBODY,
        metrics: Metrics | None = None,
        post: Post | None = None,
        source: Source | None = None,
        patience: float = 0.0,
    ) -> None:
        """Make one; ``ready`` is called, and ``manager`` told, when it takes mail. ``post``: it is a worker, one of several.

        ``source``: where the configuration is read again; without one it stays as it is. ``patience``: seconds for processes of
        another start that still have our ports or our queue.

        Raises BadConfiguration, OSError, ValueError for files that cannot be used.
        """
        self._configuration = configuration
        self._parts = parts
        self._house = house
        self._identity: Any = house[IIdentity]
        self._reactor = reactor
        self._dialer: Any = house[IDialer]
        self._memory: Any = house[IMemory]
        self._time_of_day: Any = house[IClock]
        self._post_office: Any = house[IPostOffice]
        self._ready = ready
        self._manager = manager
        self._watchdog: Watchdog | None = None
        self._faults = _Faults()
        self._metrics = metrics
        self._journal = Journal((*observers, *observing(parts), self._faults, *([metrics] if metrics is not None else [])))
        self._observers = observers
        self._throttle = guard_of(configuration, house[IMemory], reactor, self._journal)
        self._open = open_listeners(configuration, reactor)
        self._post = post
        self._source = source
        self._patience = patience
        self._crowd: Crowd | None = None
        self.orders: Mapping[str, Callable[..., Awaitable[dict[str, Any]]]] = {}
        """What else it can be told to do, by name: a worker by its parent."""
        self._leaving: list[Leaving] = []
        self._queue = Queue(configuration.server, parts, self._journal, self._identity, reactor, post.number if post else 1)
        self._operations: dict[int, Operations] = {}  # by part
        self._grace = configuration.server.shutdown_grace
        self._page: IListeningPort | None = None
        self._write_log: Callable[[], None] = lambda: None
        self._records: Records | None = None
        self._admin: AdminSocket | None = None
        self._timekeeper = Timekeeper(reactor, self._clock_was_set)

    # ── The start ──

    def privilegedStartService(self) -> None:  # noqa: N802
        """Bind all ports; what fails here ends the start."""
        configuration, post = self._configuration, self._post
        try:
            if post is not None:
                self._crowd = Crowd(post.crowd, post.number, lambda: sum(one.sessions() for one in self._open))
            binder = self._binder(dict(post.sockets) if post is not None else {}, self._patience)
            bind((), self._open, binder, self._reactor, self._journal)
            if configuration.admin.metrics and isinstance(binder, Binder):
                self._page = bind_page(configuration.admin.metrics, page(self._samples), binder)
        except CannotBind as problem:
            give_up(str(problem))
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _binder(self, sockets: dict[str, int], patience: float = 0.0) -> Binder | Inherited:
        """Where ports come from; ``sockets``: what a worker has been given by its parent."""
        return Binder(self._reactor, patience) if self._crowd is None else Inherited(sockets, self._crowd, self._reactor)

    def startService(self) -> None:  # noqa: N802
        """Open the queue, let mail in, and begin to deliver."""
        configuration, reactor = self._configuration, self._reactor
        self._timekeeper.start()
        self._write_log = quicken(reactor, who=f"worker={self._post.number} " if self._post else "")
        try:
            others = left_over(configuration.server)
            self._queue.divide(configuration.server.processes + len(others))
            own = self._queue.take_own(self._patience, *([self._post.is_orphaned] if self._post else []))
        except (StoreUnavailable, OSError) as problem:
            give_up(f"the queue in {configuration.server.state} cannot be opened: {problem}")
        store, dispatcher = own.store, own.dispatcher
        self._memory.open()
        self._post_office.open(store, dispatcher.offer, self._journal)
        self._records = self._keep_records()
        self._let_in(own)
        self._add_operations(own)
        for number in others if self._post is None else ():
            with suppress(Refusal):
                self._take(number)
        self._admin = AdminSocket(configuration.admin.socket, self, reactor)
        try:
            self._admin.startService()
        except (SocketInUse, CannotListenError, OSError) as problem:
            give_up(f"the admin socket cannot be made: {problem}")
        super().startService()  # type: ignore[no-untyped-call]
        for part in self._queue:
            reactor.callWhenRunning(part.dispatcher.start)
        reactor.callWhenRunning(self._ready)
        reactor.callWhenRunning(_spare_the_collector)
        reactor.callWhenRunning(self._tell_ready, store)

    def _let_in(self, own: Part) -> None:
        """Put a factory of today's configuration behind each door."""
        seats = self._seats()
        for one in self._open:
            one.door.inside = self._factory(one, own.store, own.dispatcher, seats)
        listen, parts = self._configuration.listen, self._parts
        self._signpost = Signpost(parts.routing, parts.rules, {name: one.smtp_kind for name, one in listen.items()})

    def _clock_was_set(self, by: float) -> None:
        _log.warn("the clock was set {way} by {seconds} seconds", way="forward" if by > 0 else "back", seconds=round(abs(by)))
        for inside in self._all_inside():
            inside.clock_was_set(by)
        for part in self._queue:
            moved = Deferred.fromCoroutine(part.dispatcher.clock_was_set(by))
            moved.addErrback(lambda failure: _log.failure("what waits was not moved", failure))

    def _keep_records(self) -> Records | None:
        wanted, folder = self._configuration.records, self._configuration.server.state / "records"
        if wanted.keep is None:
            return None
        try:
            records = Records(folder, self._reactor, wanted.keep, wanted.max_size, wanted.redact)
        except OSError as problem:
            give_up(f"the decision records in {folder} cannot be kept: {problem}")
        self._journal.observers += (records,)
        return records

    def _tell_ready(self, store: SqliteStore) -> None:
        self._manager.tell("READY=1", f"STATUS={self._summary()}")
        entrances, dialer = self._entrances()
        self._watchdog = Watchdog(
            manager=self._manager,
            entrances=entrances,
            question=lambda: store.content(0),  # no message has this number: the cheapest question that reads the database
            condition=self._summary,
            dialer=dialer,
            clock=self._reactor,
        )
        self._watchdog.start()

    def _entrances(self) -> tuple[Sequence[Entrance], Any]:
        """Where the watchdog knocks, and with which dialer."""
        speaking_smtp = [one for one in self._open if one.listener.kind != "pop3"]
        if self._post is None:
            return entrances_of(speaking_smtp), self._dialer
        within = Within(speaking_smtp, self._reactor)
        return within.entrances, within

    def _seats(self) -> Descriptors:
        descriptors = Descriptors(raise_limit(), [one.sessions for one in self._open])
        warning = descriptors.warning(sum(one.listener.max_sessions for one in self._open))
        if warning:
            _log.warn("{warning}", warning=warning)
        return descriptors

    def _factory(self, one: Open, store: SqliteStore, dispatcher: Dispatcher, seats: Descriptors) -> Any:
        listener, server = one.listener, self._configuration.server
        porter = porter_of(listener, self._parts, self._journal, self._reactor, server.hostname, self._throttle)
        if listener.kind == "pop3" and porter is not None:
            return pop3_of(listener, self._parts, self._house, self._journal, self._reactor, porter, one.tls, SystemRandom())
        reception = reception_of(
            listener,
            self._configuration,
            self._parts,
            store=store,
            offer=dispatcher.offer,
            journal=self._journal,
            identity=self._identity,
            clock=self._reactor,
            aliases=one.aliases,
            logins=porter,
            record=self._records.keep_record if self._records else None,
            reference=partial(make_reference, SystemRandom()) if self._records else None,
        )
        return SmtpFactory(
            reception,
            SystemRandom(),
            tls=one.tls,
            max_sessions=listener.max_sessions,
            max_sessions_per_client=listener.max_sessions_per_client,
            is_crowded=seats.is_full,
        )

    # ── The end ──

    def stopService(self) -> "Deferred[None]":  # noqa: N802
        """Let running transactions and deliveries end, for as long as [server] shutdown_grace says, then close the queue."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    def hurry(self) -> None:
        """Let the end, when it comes, take a few seconds at most, and tell nobody: another may hear it by now."""
        self._grace = min(self._grace, _HASTE)
        self._manager = NOBODY

    async def _stop(self) -> None:
        grace = self._grace
        if self._watchdog is not None:
            self._watchdog.stop()
        allowed = int((grace + _CLOSING) * 1e6)
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={allowed}", "STATUS=Letting sessions and deliveries end")
        began = self._reactor.seconds()
        ports = [port for one in self._open for port in one.ports] + ([self._page] if self._page is not None else [])
        stops = [port.stopListening() for port in ports]
        ends = [Deferred.fromCoroutine(inside.stop(grace)) for inside in self._all_inside()]
        for stop in (*stops, *ends):
            if stop is not None:
                await stop
        await self._queue.stop(max(1.0, grace - (self._reactor.seconds() - began)))
        for parts in (self._parts, *(one.parts for one in self._leaving)):
            for component in closable(parts):
                component.close()
        if self._admin is not None:
            await self._admin.stopService()
        await self._memory.close()
        await self._queue.close()
        if self._records is not None:
            self._records.close()
        for observer in self._observers:
            close = getattr(observer, "close", None)
            if callable(close):
                close()
        self._timekeeper.stop()
        self._write_log()

    def _all_inside(self) -> list[Any]:
        """The factories of all sessions, also of those that began before a reload."""
        now = [one.door.inside for one in self._open if one.door.inside is not None]
        return now + [inside for one in self._leaving for inside in one.inside]

    # ── Another configuration ──

    def reload(self, dry_run: bool = False) -> dict[str, Any]:
        """Read the configuration again, and go on with it: ``{"changes": [...], "warnings": [...], "applied": true}``.

        New sessions and deliveries have the new rules, others end with the old ones. ``dry_run``: only say what would change. Raises
        BadConfiguration and CannotBind with all that is wrong; nothing is changed then.
        """
        self._manager.tell(*reloading())
        try:
            with self.plan() as plan:
                if not dry_run:
                    self.adopt(plan)
        finally:
            self._manager.tell("READY=1", f"STATUS={self._summary()}")
        for change in plan.changes if plan.keep else ():
            _log.info("reloaded: {change}", change=change)
        _log.info("{source} was read again: {n} changes", source=plan.configuration.source, n=len(plan.changes))
        return {"changes": list(plan.changes), "warnings": [str(one) for one in plan.parts.warnings], "applied": plan.keep}

    def reload_and_log(self) -> None:
        """As `reload`; what is wrong goes to the log."""
        try:
            self.reload()
        except (BadConfiguration, CannotBind) as problem:
            for line in str(problem).split("\n"):
                _log.error("not reloaded, the configuration in use stays: {problem}", problem=line)

    def plan(self, text: str | None = None) -> AbstractContextManager[Plan]:
        """What the file, or ``text``, says now, for `adopt`: see `Source.plan`."""
        if self._source is None:
            raise BadConfiguration([Problem("", 0, "this gateway has no file that could be read again")])
        return self._source.plan(self._configuration, self._house, self._parts, text)

    def adopt(self, plan: Plan, sockets: dict[str, int] | None = None) -> None:
        """Go on with a plan. Raises CannotBind; nothing is changed then.

        ``sockets``: descriptors that a worker has been given for it, by `socket_name`; those that it takes are gone from there.
        """
        # All in one turn of the reactor: nobody is served by half of each.
        old = self._open
        unwanted = bind(old, plan.opened, self._binder(sockets or {}), self._reactor, self._journal)
        plan.keep = True
        leaving = Leaving(self._parts, [one.door.inside for one in old if one.door.inside is not None])
        after = {one.listener.name: one for one in plan.opened}
        for one in old:
            if one.listener.name in after:
                after[one.listener.name].leaving = [*one.leaving, one.door.inside]
            else:
                Deferred.fromCoroutine(one.door.inside.stop(plan.configuration.server.shutdown_grace))
        for port in unwanted:
            port.stopListening()
        self._configuration, self._house, self._parts, self._open = plan.configuration, plan.house, plan.parts, list(plan.opened)
        self._journal.observers += tuple(observing(plan.parts))  # the old ones are told on, too, while they have sessions
        self._grace = self._configuration.server.shutdown_grace
        self._throttle = guard_of(self._configuration, self._memory, self._reactor, self._journal)
        self._queue.reconfigure(self._parts)
        self._let_in(self._queue.open[self._queue.own])
        for part in self._queue:
            self._add_operations(part)
        if self._watchdog is not None:
            self._watchdog.entrances, self._watchdog.dialer = self._entrances()
        self._leaving.append(leaving)
        Deferred.fromCoroutine(self._see_off(leaving)).addErrback(lambda failure: _log.failure("the old rules were not put away", failure))

    async def _see_off(self, leaving: Leaving) -> None:
        for gateway in leaving.parts.gateways.values():  # what is under way there comes to its end
            if callable(getattr(gateway, "close", None)):
                gateway.close()  # type: ignore[attr-defined]
        while any(inside.sessions for inside in leaving.inside):
            await deferLater(self._reactor, _SEE_OFF)
        if leaving not in self._leaving:
            return
        self._leaving.remove(leaving)
        for one in self._open:
            one.leaving = [inside for inside in one.leaving if inside not in leaving.inside]
        gone = {id(observer) for observer in observing(leaving.parts)}
        self._journal.observers = tuple(one for one in self._journal.observers if id(one) not in gone)
        gateways = list(leaving.parts.gateways.values())
        for component in closable(leaving.parts):
            if component not in gateways:
                component.close()

    # ── For the operator ──

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`: what can be done with the queue, and "reload"."""
        if operation != "reload":
            return await self._desk().perform(operation, arguments)
        if self._post is not None:
            raise Refusal("bad-request", "workers have the same configuration, all of them: reload at the socket of their parent")
        dry_run = read_reload(arguments)
        try:
            return self.reload(dry_run)
        except (BadConfiguration, CannotBind) as problem:
            raise Refusal("configuration", str(problem)) from problem

    def _condition(self) -> Mapping[str, Any]:
        listeners = {
            one.listener.name: {
                "kind": one.listener.kind,
                "endpoints": list(one.listener.endpoint),
                "sessions": one.sessions(),
            }
            for one in self._open
        }
        own = self._queue.open[self._queue.own].condition()
        return {"listeners": listeners, **own, "resolver": self._names(), "faults": self._faults.count}

    def _names(self) -> Mapping[str, Any]:
        resolver: Any = self._house[IResolver]  # another one after a reload
        condition: Mapping[str, Any] = resolver.condition()
        return condition

    def _present(self) -> list[ClientFacts]:
        return [client for inside in self._all_inside() if isinstance(inside, SmtpFactory) for client in inside.present()]

    def _summary(self) -> str:
        sessions = sum(one.sessions() for one in self._open)
        return str(Summary(len(self._open), sessions, self._queue.leased()))

    def _add_operations(self, part: Part) -> None:
        is_own = part.number == self._queue.own
        before = self._operations.get(part.number)
        self._operations[part.number] = Operations(
            desk=part.store,
            clock=self._reactor,
            journal=self._journal,
            signpost=self._signpost,
            wake=part.dispatcher.wake,
            recover=Recovering(part.store, part.folder, part.store.aside).some,
            condition=self._condition if is_own else part.condition,
            present=self._present if is_own else tuple,
            throttle=self._throttle if any(one.accounts for one in self._configuration.listen.values()) else None,
            memory=self._memory,
            time_of_day=self._time_of_day,
            started=before.started if before is not None else self._reactor.seconds(),
        )

    def _desk(self) -> Performer:
        if self._post is None and len(self._operations) == 1:
            return self._operations[self._queue.own]
        return Together(members=lambda: self._operations, part_of=part_of, more=self.orders)

    async def _samples(self) -> Samples:
        desk = self._desk()
        gauges = gauges_of(await desk.perform("status", {}), await desk.perform("queue_stats", {"limit": MOST}))
        return {**self.samples(), **gauges}

    # ── Parts of others ──

    def _take(self, number: int) -> None:
        try:
            part = self._queue.take(number)
        except StoreUnavailable as problem:
            _log.error("part {number} of the queue cannot be opened, its mail must wait: {problem}", number=number, problem=problem)
            raise Refusal("unavailable", f"part {number} of the queue cannot be opened: {problem}") from problem
        _log.warn("looking after part {number} of the queue, too", number=number)
        self._add_operations(part)

    def look_after(self, part: int) -> None:
        """Deliver what waits in a part that is another's. Raises Refusal."""
        if part not in self._operations:
            self._take(part)
            self._queue.open[part].dispatcher.start()

    async def give_back(self, part: int, seconds: float) -> None:
        """End that; deliveries that run have so many seconds."""
        if part != self._queue.own:
            self._operations.pop(part, None)
            await self._queue.give(part, seconds)

    def samples(self) -> Samples:
        """What was counted; nothing where nobody wants to know."""
        return {} if self._metrics is None else {**self._metrics.samples, **dns_counters_of(self._names())}


def _spare_the_collector() -> None:
    # What is there now stays; and mail leaves few cycles behind. Gain, measured: 7 % of the CPU of a small message.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def give_up(text: str) -> NoReturn:
    """End a start that cannot succeed, with status 1."""
    # The log is open already, but an operator at a terminal may not be looking at it.
    _log.critical("mailgw does not start: {text}", text=text)
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"mailgw does not start: {text}\n")
    raise SystemExit(1)
