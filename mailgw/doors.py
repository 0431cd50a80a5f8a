"""The doors of one process: its listeners with their ports, the sessions behind them, and those that began before a reload."""

from collections.abc import Callable, Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from mailgw.assemble import House, Parts, closable, observing
from mailgw.config.model import Configuration
from mailgw.credentials import ILoginGuard
from mailgw.descriptors import Descriptors, raise_limit
from mailgw.interfaces import IIdentity
from mailgw.journal import Journal
from mailgw.listening import Binder, Inherited, Open, Within, bind, entrances_of
from mailgw.observe.records import Records, make_reference
from mailgw.part import Part, Post
from mailgw.receive.protocol import SmtpFactory
from mailgw.reloading import Plan
from mailgw.sharing import Crowd
from mailgw.staff import pop3_of, porter_of, reception_of
from mailgw.values.facts import ClientFacts
from mailgw.watchdog import Entrance

__all__ = ["Doors", "Hall", "Leaving"]

_SEE_OFF = 1.0  # seconds between two looks whether sessions that began before a reload are over

_log = Logger(namespace="mailgw.service")


@frozen(eq=False, kw_only=True)
class Hall:
    """What is behind all doors, as a configuration wants it."""

    configuration: Configuration
    house: House
    parts: Parts
    own: Part  # of the queue: takes the mail
    journal: Journal
    reactor: Any
    guard: ILoginGuard
    records: Records | None

    def factory(self, one: Open, is_crowded: Callable[[], bool]) -> Any:
        """That of a listener's sessions."""
        listener, server = one.listener, self.configuration.server
        porter = porter_of(listener, self.parts, self.journal, self.reactor, server.hostname, self.guard)
        if listener.kind == "pop3" and porter is not None:
            return pop3_of(listener, self.parts, self.house, self.journal, self.reactor, porter, one.tls, SystemRandom())
        reception = reception_of(
            listener,
            self.configuration,
            self.parts,
            store=self.own.store,
            offer=self.own.dispatcher.offer,
            journal=self.journal,
            identity=self.house[IIdentity],
            clock=self.reactor,
            aliases=one.aliases,
            logins=porter,
            record=self.records.keep_record if self.records else None,
            reference=partial(make_reference, SystemRandom()) if self.records else None,
        )
        return SmtpFactory(
            reception,
            SystemRandom(),
            tls=one.tls,
            max_sessions=listener.max_sessions,
            max_sessions_per_client=listener.max_sessions_per_client,
            is_crowded=is_crowded,
        )


@define(eq=False)
class Leaving:
    """What was in use before a reload, for sessions that began then."""

    parts: Parts
    inside: list[Any]  # their factories


@define(eq=False)
class Doors:
    """All of them. `bind` them first; they are answered after `let_in`."""

    open: list[Open]
    journal: Journal
    reactor: Any
    post: Post | None = None  # of a worker, which is given its sockets by its parent
    leaving: list[Leaving] = field(factory=list, init=False)
    _crowd: Crowd | None = field(default=None, init=False)

    def bind(self, patience: float) -> Binder | Inherited:
        """Bind all ports; gives who has done it. ``patience``: seconds for processes that still have them. Raises CannotBind."""
        if self.post is not None:
            self._crowd = Crowd(self.post.crowd, self.post.number, self.sessions)
        binder = self._binder(dict(self.post.sockets) if self.post is not None else {}, patience)
        bind((), self.open, binder, self.reactor, self.journal)
        return binder

    def _binder(self, sockets: dict[str, int], patience: float = 0.0) -> Binder | Inherited:
        """Where ports come from; ``sockets``: what a worker has been given by its parent."""
        return Binder(self.reactor, patience) if self._crowd is None else Inherited(sockets, self._crowd, self.reactor)

    def let_in(self, hall: Hall) -> None:
        """Put a factory behind each door."""
        seats = self._seats()
        for one in self.open:
            one.door.inside = hall.factory(one, seats.is_full)

    def _seats(self) -> Descriptors:
        descriptors = Descriptors(raise_limit(), [one.sessions for one in self.open])
        warning = descriptors.warning(sum(one.listener.max_sessions for one in self.open))
        if warning:
            _log.warn("{warning}", warning=warning)
        return descriptors

    # ── Who is there ──

    def inside(self) -> list[Any]:
        """The factories of all sessions, also of those that began before a reload."""
        now = [one.door.inside for one in self.open if one.door.inside is not None]
        return now + [inside for one in self.leaving for inside in one.inside]

    def sessions(self) -> int:
        """How many there are at this moment."""
        return sum(one.sessions() for one in self.open)

    def present(self) -> list[ClientFacts]:
        """Whose they are."""
        return [client for inside in self.inside() if isinstance(inside, SmtpFactory) for client in inside.present()]

    def entrances(self, dialer: Any) -> tuple[Sequence[Entrance], Any]:
        """Where the watchdog knocks, and with which dialer: ``dialer``, where nobody else answers at our ports."""
        speaking_smtp = [one for one in self.open if one.listener.kind != "pop3"]
        if self.post is None:
            return entrances_of(speaking_smtp), dialer
        within = Within(speaking_smtp, self.reactor)
        return within.entrances, within

    def clock_was_set(self, by: float) -> None:
        """The time of day has jumped by so many seconds."""
        for inside in self.inside():
            inside.clock_was_set(by)

    # ── Another configuration ──

    def exchange(self, plan: Plan, before: Parts, sockets: dict[str, int]) -> Leaving:
        """Take the plan's doors in place of ours, and ``keep`` it; `let_in` comes next. Gives who is to be seen off.

        ``before``: the parts in use. ``sockets``: descriptors that a worker has been given for it, by `socket_name`; those that it
        takes are gone from there. Raises CannotBind; nothing is changed then.
        """
        old = self.open
        unwanted = bind(old, plan.opened, self._binder(sockets), self.reactor, self.journal)
        plan.keep = True
        leaving = Leaving(before, [one.door.inside for one in old if one.door.inside is not None])
        after = {one.listener.name: one for one in plan.opened}
        for one in old:
            if one.listener.name in after:
                after[one.listener.name].leaving = [*one.leaving, one.door.inside]
            else:
                Deferred.fromCoroutine(one.door.inside.stop(plan.configuration.server.shutdown_grace))
        for port in unwanted:
            port.stopListening()
        self.open = list(plan.opened)
        self.journal.observers += tuple(observing(plan.parts))  # the old ones are told on, too, while they have sessions
        return leaving

    def see_off(self, leaving: Leaving) -> None:
        """Put the parts of old sessions away when these are over."""
        self.leaving.append(leaving)
        Deferred.fromCoroutine(self._see_off(leaving)).addErrback(lambda failure: _log.failure("the old rules were not put away", failure))

    async def _see_off(self, leaving: Leaving) -> None:
        for gateway in leaving.parts.gateways.values():  # what is under way there comes to its end
            if callable(getattr(gateway, "close", None)):
                gateway.close()  # type: ignore[attr-defined]
        while any(inside.sessions for inside in leaving.inside):
            await deferLater(self.reactor, _SEE_OFF)
        if leaving not in self.leaving:
            return
        self.leaving.remove(leaving)
        for one in self.open:
            one.leaving = [inside for inside in one.leaving if inside not in leaving.inside]
        gone = {id(observer) for observer in observing(leaving.parts)}
        self.journal.observers = tuple(one for one in self.journal.observers if id(one) not in gone)
        gateways = list(leaving.parts.gateways.values())
        for component in closable(leaving.parts):
            if component not in gateways:
                component.close()

    # ── The end ──

    async def close(self, grace: float) -> None:
        """Take no more connections, and let sessions end; they have so many seconds."""
        stops = [port.stopListening() for one in self.open for port in one.ports]
        ends = [Deferred.fromCoroutine(inside.stop(grace)) for inside in self.inside()]
        for stop in (*stops, *ends):
            if stop is not None:
                await stop
