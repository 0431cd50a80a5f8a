"""The doors of one process: its listeners with their ports, the sessions behind them, and those that began before a reload."""

from collections.abc import Callable, Sequence
from functools import partial
from random import SystemRandom
from typing import Any

from attrs import field, frozen
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
from mailgw.tls import ServerTls
from mailgw.values.facts import ClientFacts
from mailgw.watchdog import Entrance

__all__ = ["Doors", "Hall"]

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
    inside: list[Any] = field(factory=list, init=False)  # the factories of its sessions

    def open(self, one: Open, is_crowded: Callable[[], bool]) -> None:
        """Let clients of a listener in."""
        one.door.inside = self._factory(one, is_crowded)
        self.inside.append(one.door.inside)

    def _factory(self, one: Open, is_crowded: Callable[[], bool]) -> Any:
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


class Doors:
    """All of them. `bind` them first; they are answered after `let_in`."""

    def __init__(self, opened: list[Open], journal: Journal, reactor: Any, post: Post | None = None) -> None:
        """Make them; ``post`` is a worker's, which is given its sockets by its parent."""
        self.open = opened
        self.post = post
        self.leaving: list[Hall] = []
        """What was in use before a reload, for sessions that began then."""
        self._journal = journal
        self._reactor = reactor
        self._hall: Hall | None = None
        self._crowd: Crowd | None = None

    def bind(self, patience: float) -> Binder | Inherited:
        """Bind all ports; gives who has done it. ``patience``: seconds for processes that still have them. Raises CannotBind."""
        if self.post is not None:
            self._crowd = Crowd(self.post.crowd, self.post.number, self.sessions)
        binder = self._binder(dict(self.post.sockets) if self.post is not None else {}, patience)
        bind((), self.open, binder, self._reactor, self._journal)
        return binder

    def _binder(self, sockets: dict[str, int], patience: float = 0.0) -> Binder | Inherited:
        """Where ports come from; ``sockets``: what a worker has been given by its parent."""
        return Binder(self._reactor, patience) if self._crowd is None else Inherited(sockets, self._crowd, self._reactor)

    def let_in(self, hall: Hall) -> None:
        """Let clients in, at each door."""
        seats = self._seats()
        self._hall = hall
        for one in self.open:
            hall.open(one, seats.is_full)

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

    def certificates(self) -> dict[str, ServerTls]:
        """Those of all listeners, by the names of their [tls.NAME]."""
        return {name: tls for one in self.open for name, tls in one.certificates().items()}

    def present(self) -> list[ClientFacts]:
        """Whose they are."""
        return [client for inside in self.inside() if isinstance(inside, SmtpFactory) for client in inside.present()]

    def entrances(self, dialer: Any) -> tuple[Sequence[Entrance], Any]:
        """Where the watchdog knocks, and with which dialer: ``dialer``, where nobody else answers at our ports."""
        speaking_smtp = [one for one in self.open if one.listener.kind != "pop3"]
        if self.post is None:
            return entrances_of(speaking_smtp), dialer
        within = Within(speaking_smtp, self._reactor)
        return within.entrances, within

    def clock_was_set(self, by: float) -> None:
        """The time of day has jumped by so many seconds."""
        for inside in self.inside():
            inside.clock_was_set(by)

    # ── Another configuration ──

    def exchange(self, plan: Plan, sockets: dict[str, int]) -> Hall:
        """Take the plan's doors in place of ours, and ``keep`` it; `let_in` comes next. Gives what is to be seen off.

        ``sockets``: descriptors that a worker has been given for it, by `socket_name`; those that it takes are gone from there.
        Raises CannotBind; nothing is changed then.
        """
        old, leaving = self.open, self._hall
        assert leaving
        unwanted = bind(old, plan.opened, self._binder(sockets), self._reactor, self._journal)
        plan.keep = True
        after = {one.listener.name: one for one in plan.opened}
        for one in old:
            if one.listener.name in after:
                after[one.listener.name].leaving = [*one.leaving, one.door.inside]
            else:
                Deferred.fromCoroutine(one.door.inside.stop(plan.configuration.server.shutdown_grace))
        for port in unwanted:
            port.stopListening()
        self.open = list(plan.opened)
        self._journal.observers += tuple(observing(plan.parts))  # the old ones are told on, too, while they have sessions
        return leaving

    def see_off(self, leaving: Hall) -> None:
        """Put the parts of old sessions away when these are over."""
        self.leaving.append(leaving)
        Deferred.fromCoroutine(self._see_off(leaving)).addErrback(lambda failure: _log.failure("the old rules were not put away", failure))

    async def _see_off(self, leaving: Hall) -> None:
        for gateway in leaving.parts.gateways.values():  # what is under way there comes to its end
            if callable(getattr(gateway, "close", None)):
                gateway.close()  # type: ignore[attr-defined]
        while any(inside.sessions for inside in leaving.inside):
            await deferLater(self._reactor, _SEE_OFF)
        if leaving not in self.leaving:
            return
        self.leaving.remove(leaving)
        for one in self.open:
            one.leaving = [inside for inside in one.leaving if inside not in leaving.inside]
        gone = {id(observer) for observer in observing(leaving.parts)}
        self._journal.observers = tuple(one for one in self._journal.observers if id(one) not in gone)
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
