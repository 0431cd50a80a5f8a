"""The running gateway: what `mailgw.assemble` made, started, exchanged and ended in good order.

`mailgw.doors` has its ports and sessions, `mailgw.part` its queue, `mailgw.desk` what operators ask.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from mailgw.admin.reading import Refusal
from mailgw.admin.socket import AdminSocket
from mailgw.assemble import House, Parts, closable, observing
from mailgw.config.model import Configuration
from mailgw.desk import Desk, Faults
from mailgw.doors import Doors, Hall
from mailgw.expiry import ExpiryWatch
from mailgw.interfaces import IDialer, IIdentity, IMemory, IObserver, IPostOffice, StoreUnavailable
from mailgw.journal import Journal
from mailgw.listening import Binder, CannotBind, bind_page, open_listeners
from mailgw.notify import NOBODY, ServiceManager, Summary
from mailgw.observe.log import quicken
from mailgw.observe.metrics import Metrics, page
from mailgw.observe.records import Records
from mailgw.part import Post, Queue, left_over
from mailgw.problems import BadConfiguration, Problem
from mailgw.reloading import Plan, Source, reloading
from mailgw.staff import guard_of
from mailgw.starting import give_up, open_records, open_socket, spare_the_collector
from mailgw.storage.sqlite import SqliteStore
from mailgw.timekeeping import Timekeeper
from mailgw.watchdog import Watchdog

__all__ = ["MailGateway"]

_CLOSING = 30.0  # seconds that the store and all else may take to close, after the shutdown's grace
_HASTE = 5.0  # seconds for the end of a worker whose parent has died

_log = Logger(namespace="mailgw.service")


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
        self._reactor = reactor
        self._dialer: Any = house[IDialer]
        self._memory: Any = house[IMemory]
        self._post_office: Any = house[IPostOffice]
        self._ready = ready
        self._manager = manager
        self._watchdog: Watchdog | None = None
        faults = Faults()
        self._journal = Journal((*observers, *observing(parts), faults, *([metrics] if metrics is not None else [])))
        self._observers = observers
        self._doors = Doors(open_listeners(configuration, reactor), self._journal, reactor, post)
        self._post = post
        self._source = source
        self._patience = patience
        identity: Any = house[IIdentity]
        self._queue = Queue(configuration.server, parts, self._journal, identity, reactor, post.number if post else 1)
        self.desk = Desk(self._queue, self._doors, faults, metrics, self.reload)
        """What operators can ask of it."""
        self._grace = configuration.server.shutdown_grace
        self._page: IListeningPort | None = None
        self._write_log: Callable[[], None] = lambda: None
        self._records: Records | None = None
        self._admin: AdminSocket | None = None
        self._timekeeper = Timekeeper(reactor, self._clock_was_set)
        self._expiry = ExpiryWatch(self._doors.certificates, reactor)

    # ── The start ──

    def privilegedStartService(self) -> None:  # noqa: N802
        """Bind all ports; what fails here ends the start."""
        metrics = self._configuration.admin.metrics
        try:
            binder = self._doors.bind(self._patience)
            if metrics and isinstance(binder, Binder):
                self._page = bind_page(metrics, page(self.desk.samples), binder)
        except CannotBind as problem:
            give_up(str(problem))
        super().privilegedStartService()  # type: ignore[no-untyped-call]

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
        self._records = open_records(configuration, reactor)
        if self._records is not None:
            self._journal.observers += (self._records,)
        self._let_in()
        for number in others if self._post is None else ():
            with suppress(Refusal):
                self._take(number)
        self._admin = AdminSocket(configuration.admin.socket, self.desk, reactor)
        open_socket(self._admin)
        super().startService()  # type: ignore[no-untyped-call]
        if self._post is None or self._post.number == 1:  # all workers have the same: one says it
            self._expiry.start()
        for part in self._queue:
            reactor.callWhenRunning(part.dispatcher.start)
        reactor.callWhenRunning(self._ready)
        reactor.callWhenRunning(spare_the_collector)
        reactor.callWhenRunning(self._tell_ready, store)

    def _let_in(self) -> None:
        """Serve by today's configuration, at all doors and at the desk."""
        configuration, house, parts = self._configuration, self._house, self._parts
        throttle = guard_of(configuration, self._memory, self._reactor, self._journal)
        hall = Hall(
            configuration=configuration,
            house=house,
            parts=parts,
            own=self._queue.open[self._queue.own],
            journal=self._journal,
            reactor=self._reactor,
            guard=throttle,
            records=self._records,
        )
        self._doors.let_in(hall)
        self.desk.furnish(configuration, house, parts, throttle)

    def _clock_was_set(self, by: float) -> None:
        _log.warn("the clock was set {way} by {seconds} seconds", way="forward" if by > 0 else "back", seconds=round(abs(by)))
        self._doors.clock_was_set(by)
        for part in self._queue:
            moved = Deferred.fromCoroutine(part.dispatcher.clock_was_set(by))
            moved.addErrback(lambda failure: _log.failure("what waits was not moved", failure))

    def _tell_ready(self, store: SqliteStore) -> None:
        self._manager.tell("READY=1", f"STATUS={self._summary()}")
        entrances, dialer = self._doors.entrances(self._dialer)
        self._watchdog = Watchdog(
            manager=self._manager,
            entrances=entrances,
            question=lambda: store.content(0),  # no message has this number: the cheapest question that reads the database
            condition=self._summary,
            dialer=dialer,
            clock=self._reactor,
        )
        self._watchdog.start()

    def _summary(self) -> str:
        return str(Summary(len(self._doors.open), self._doors.sessions(), self._queue.leased()))

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
        self._expiry.stop()
        allowed = int((grace + _CLOSING) * 1e6)
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={allowed}", "STATUS=Letting sessions and deliveries end")
        began = self._reactor.seconds()
        stop = self._page.stopListening() if self._page is not None else None
        await self._doors.close(grace)
        if stop is not None:
            await stop
        await self._queue.stop(max(1.0, grace - (self._reactor.seconds() - began)))
        for parts in (self._parts, *(one.parts for one in self._doors.leaving)):
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
        leaving = self._doors.exchange(plan, sockets or {})
        self._configuration, self._house, self._parts = plan.configuration, plan.house, plan.parts
        self._grace = self._configuration.server.shutdown_grace
        self._queue.reconfigure(self._parts)
        self._let_in()
        if self._watchdog is not None:
            self._watchdog.entrances, self._watchdog.dialer = self._doors.entrances(self._dialer)
        self._doors.see_off(leaving)

    # ── Parts of others ──

    def _take(self, number: int) -> None:
        try:
            part = self._queue.take(number)
        except StoreUnavailable as problem:
            _log.error("part {number} of the queue cannot be opened, its mail must wait: {problem}", number=number, problem=problem)
            raise Refusal("unavailable", f"part {number} of the queue cannot be opened: {problem}") from problem
        _log.warn("looking after part {number} of the queue, too", number=number)
        self.desk.add(part)

    def look_after(self, part: int) -> None:
        """Deliver what waits in a part that is another's. Raises Refusal."""
        if part not in self._queue.open:
            self._take(part)
            self._queue.open[part].dispatcher.start()

    async def give_back(self, part: int, seconds: float) -> None:
        """End that; deliveries that run have so many seconds."""
        if part != self._queue.own:
            self.desk.remove(part)
            await self._queue.give(part, seconds)
