"""The running gateway: what `mailgw.assemble` made, put on sockets and threads, and ended in good order."""

import gc
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from random import SystemRandom
from typing import Any, NoReturn

from attrs import define, field
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.admin.operations import Operations
from mailgw.admin.signpost import Signpost
from mailgw.admin.socket import AdminSocket, SocketInUse
from mailgw.assemble import House, Parts, guard_of, porter_of
from mailgw.config.model import Configuration, Listener
from mailgw.interfaces import IDialer, IIdentity, IMemory, IObserver, IPostOffice, StoreUnavailable
from mailgw.journal import Fault, Journal
from mailgw.notify import NOBODY, ServiceManager
from mailgw.observe.log import quicken
from mailgw.observe.records import Records, make_reference
from mailgw.problems import BadConfiguration
from mailgw.queue.dispatcher import Dispatcher
from mailgw.receive.aliases import read_aliases
from mailgw.receive.conversation import Reception
from mailgw.receive.peer import is_within, peer_of
from mailgw.receive.protocol import SmtpFactory
from mailgw.receive.proxying import ProxyFactory
from mailgw.safekeeping import condition_of, open_store
from mailgw.smtp.answers import ServerSettings
from mailgw.smtp.proxyline import LOCAL
from mailgw.storage.sqlite import SqliteStore
from mailgw.tls import ServerTls
from mailgw.watchdog import Entrance, Watchdog, where_to_dial

__all__ = ["MailGateway"]

_GATHER = 0.01  # seconds of outcomes that are written together: a tenth less CPU for each message, measured
_BACKLOG = 1024  # bursts of connections overflow Twisted's 50 and cost the clients seconds
_CLOSING = 30.0  # seconds that the store and all else may take to close, after the shutdown's grace

_log = Logger(namespace="mailgw.service")


@implementer(IObserver)
@define
class _Faults:
    """Counts faults for `mailgw status`."""

    count: int = 0

    def note(self, event: Any) -> None:
        if type(event) is Fault:
            self.count += 1


class _Door(Factory):
    """Stands at a bound port until the store is open and sessions can begin."""

    noisy = False
    inside: SmtpFactory | None = None

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        return self.inside.buildProtocol(addr) if self.inside is not None else None


@define
class _Open:
    """A listener at work."""

    listener: Listener
    tls: ServerTls | None
    door: _Door = field(factory=_Door)
    ports: list[IListeningPort] = field(factory=list)


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
    ) -> None:
        """Make one; ``ready`` is called, and ``manager`` told, when it takes mail.

        Raises BadConfiguration, OSError, ValueError for files that cannot be used.
        """
        self._configuration = configuration
        self._parts = parts
        self._identity: Any = house[IIdentity]
        self._reactor = reactor
        self._dialer: Any = house[IDialer]
        self._memory: Any = house[IMemory]
        self._post_office: Any = house[IPostOffice]
        self._ready = ready
        self._manager = manager
        self._watchdog: Watchdog | None = None
        self._faults = _Faults()
        self._journal = Journal((*observers, self._faults))
        self._observers = observers
        self._throttle = guard_of(configuration, house[IMemory], reactor, self._journal)
        self._aliases = {
            name: read_aliases(one.aliases) for name, one in configuration.listen.items() if one.aliases is not None
        }
        tls = _certificates(configuration, reactor)
        self._open = [_Open(listener, tls.get(listener.tls)) for listener in configuration.listen.values()]
        self._write_log: Callable[[], None] = lambda: None
        self._store: SqliteStore | None = None
        self._records: Records | None = None
        self._dispatcher: Dispatcher | None = None
        self._admin: AdminSocket | None = None

    # ── The start ──

    def privilegedStartService(self) -> None:  # noqa: N802
        """Bind all ports; what fails here ends the start."""
        problems: list[str] = []
        for one in self._open:
            for text in one.listener.endpoint:
                try:
                    deferred = self._listen(text, one)
                except (ValueError, TypeError, KeyError) as problem:
                    problems.append(f'[listen.{one.listener.name}] endpoint "{text}": {problem}')
                    continue
                deferred.addCallbacks(one.ports.append, _collect, errbackArgs=(text, problems))
        if problems:
            _give_up("; ".join(problems))
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def _listen(self, text: str, one: _Open) -> "Deferred[Any]":
        factory: Any = one.door
        if one.listener.is_implicit_tls(text):
            text = one.listener.beneath_tls(text)
            tls: Any = one.tls
            factory = TLSMemoryBIOFactory(tls, False, one.door, self._reactor)
        if one.listener.proxy:
            listener = one.listener
            factory = ProxyFactory(factory, listener.name, listener.proxy, self._journal, self._reactor, listener.max_sessions)
        if text.startswith(("tcp:", "tcp4:", "tcp6:", "unix:")) and ":backlog=" not in text:
            text = f"{text}:backlog={_BACKLOG}"
        try:
            endpoint: Any = serverFromString(self._reactor, text)  # type: ignore[no-untyped-call]
        except LookupError:
            if not text.startswith("systemd:"):
                raise
            raise ValueError("systemd has handed over no such socket; is its socket unit started?") from None
        deferred: Deferred[Any] = endpoint.listen(factory)
        return deferred

    def startService(self) -> None:  # noqa: N802
        """Open the queue, let mail in, and begin to deliver."""
        configuration, parts, reactor = self._configuration, self._parts, self._reactor
        self._write_log = quicken(reactor)
        try:
            self._store = store = open_store(configuration.server.state, configuration.server, reactor, self._journal)
        except StoreUnavailable as problem:
            _give_up(f"the queue in {configuration.server.state} cannot be opened: {problem}")
        self._dispatcher = dispatcher = Dispatcher(
            store=store,
            routing=parts.routing,
            gateways=parts.gateways,
            schedules=parts.schedules,
            connections=parts.connections,
            journal=self._journal,
            clock=reactor,
            identity=self._identity,
            randomness=SystemRandom(),
            gather=_GATHER,
        )
        self._memory.open()
        self._post_office.open(store, dispatcher.offer, self._journal)
        self._records = self._keep_records()
        for one in self._open:
            one.door.inside = self._factory(one, store, dispatcher)
        operations = Operations(
            desk=store,
            clock=reactor,
            journal=self._journal,
            signpost=Signpost(parts.routing, parts.rules, {name: one.kind for name, one in configuration.listen.items()}),
            wake=dispatcher.wake,
            condition=self._condition,
        )
        self._admin = AdminSocket(configuration.admin.socket, operations, reactor)
        try:
            self._admin.startService()
        except (SocketInUse, CannotListenError, OSError) as problem:
            _give_up(f"the admin socket cannot be made: {problem}")
        super().startService()  # type: ignore[no-untyped-call]
        reactor.callWhenRunning(dispatcher.start)
        reactor.callWhenRunning(self._ready)
        reactor.callWhenRunning(_spare_the_collector)
        reactor.callWhenRunning(self._tell_ready, store)

    def _keep_records(self) -> Records | None:
        wanted, folder = self._configuration.records, self._configuration.server.state / "records"
        if wanted.keep is None:
            return None
        try:
            records = Records(folder, self._reactor, wanted.keep, wanted.max_size, wanted.redact)
        except OSError as problem:
            _give_up(f"the decision records in {folder} cannot be kept: {problem}")
        self._journal.observers += (records,)
        return records

    def _tell_ready(self, store: SqliteStore) -> None:
        self._manager.tell("READY=1", f"STATUS={self._summary()}")
        self._watchdog = Watchdog(
            manager=self._manager,
            entrances=[
                _entrance(one.listener, text, port.getHost())
                for one in self._open
                for text, port in zip(one.listener.endpoint, one.ports, strict=True)
            ],
            question=lambda: store.content(0),  # no message has this number: the cheapest question that reads the database
            condition=self._summary,
            dialer=self._dialer,
            clock=self._reactor,
        )
        self._watchdog.start()

    def _factory(self, one: _Open, store: SqliteStore, dispatcher: Dispatcher) -> SmtpFactory:
        listener, server = one.listener, self._configuration.server
        reception = Reception(
            listener=listener.name,
            kind=listener.kind,
            engine=ServerSettings(
                hostname=server.hostname,
                starttls=one.tls is not None and listener.starttls != "never",
                require_tls=listener.starttls == "require",
                require_auth=listener.kind == "submission",
                max_message_size=listener.max_message_size,
                max_text_line=listener.max_text_line,
                max_recipients=listener.max_recipients,
                max_errors=listener.max_errors,
                max_commands=listener.max_commands,
                fix_line_ends=listener.line_endings == "fix",
                expands=listener.aliases is not None,
                authenticates=bool(listener.accounts),
                soft_bounce=server.soft_bounce,
            ),
            rules=self._parts.rules[listener.name],
            routing=self._parts.routing,
            store=store,
            offer=dispatcher.offer,
            journal=self._journal,
            identity=self._identity,
            clock=self._reactor,
            incoming=store.incoming,
            room=store.room,
            max_hops=listener.max_hops,
            command_timeout=listener.command_timeout,
            data_timeout=listener.data_timeout,
            message_timeout=listener.message_timeout,
            session_timeout=listener.session_timeout,
            aliases=self._aliases.get(listener.name),
            xclient=listener.xclient,
            logins=porter_of(listener, self._parts, self._journal, self._reactor, server.hostname, self._throttle),
            record=self._records.keep_record if self._records else None,
            reference=partial(make_reference, SystemRandom()) if self._records else None,
        )
        return SmtpFactory(
            reception,
            SystemRandom(),
            tls=one.tls,
            max_sessions=listener.max_sessions,
            max_sessions_per_client=listener.max_sessions_per_client,
        )

    # ── The end ──

    def stopService(self) -> "Deferred[None]":  # noqa: N802
        """Let running transactions and deliveries end, for as long as [server] shutdown_grace says, then close the queue."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        grace = self._configuration.server.shutdown_grace
        if self._watchdog is not None:
            self._watchdog.stop()
        allowed = int((grace + _CLOSING) * 1e6)
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={allowed}", "STATUS=Letting sessions and deliveries end")
        began = self._reactor.seconds()
        ports = [port for one in self._open for port in one.ports]
        stops = [port.stopListening() for port in ports]
        ends = [
            Deferred.fromCoroutine(one.door.inside.stop(grace)) for one in self._open if one.door.inside is not None
        ]
        for stop in (*stops, *ends):
            if stop is not None:
                await stop
        if self._dispatcher is not None:
            await self._dispatcher.stop(max(1.0, grace - (self._reactor.seconds() - began)))
        for component in _closable(self._parts):
            component.close()
        if self._admin is not None:
            await self._admin.stopService()
        await self._memory.close()
        if self._store is not None:
            await self._store.close()
        if self._records is not None:
            self._records.close()
        for observer in self._observers:
            close = getattr(observer, "close", None)
            if callable(close):
                close()
        self._write_log()

    # ── For the operator ──

    def _condition(self) -> Mapping[str, Any]:
        listeners = {
            one.listener.name: {
                "kind": one.listener.kind,
                "endpoints": list(one.listener.endpoint),
                "sessions": one.door.inside.sessions if one.door.inside is not None else 0,
            }
            for one in self._open
        }
        dispatcher = self._dispatcher.status() if self._dispatcher is not None else {}
        store = condition_of(self._store, self._configuration.server.state) if self._store is not None else {}
        return {"listeners": listeners, "store": store, "dispatcher": dispatcher, "faults": self._faults.count}

    def _summary(self) -> str:
        sessions = sum(one.door.inside.sessions for one in self._open if one.door.inside is not None)
        leased = self._store.leased() if self._store is not None else 0
        return f"{len(self._open)} listeners, {sessions} sessions, {leased} recipients in delivery"


def _certificates(configuration: Configuration, clock: IReactorTime) -> dict[str, ServerTls]:
    report = configuration.report()
    tls = {}
    for name, one in configuration.tls.items():
        try:
            tls[name] = ServerTls(one.certificate, one.key, clock, one.client_certificates == "optional", one.client_ca)
        except OSError as problem:
            report.error(("tls", name), f"{problem.filename or one.key}: {problem.strerror or problem}")
        except ValueError as problem:
            report.error(("tls", name), str(problem))
    if report.errors:
        raise BadConfiguration(report.errors)
    return tls


def _spare_the_collector() -> None:
    # What is there now stays; and mail leaves few cycles behind. Gain, measured: 7 % of the CPU of a small message.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _entrance(listener: Listener, endpoint: str, address: IAddress) -> Entrance:
    # The watchdog's look at ourselves comes from the address that it dials: perhaps one that must begin with a PROXY header.
    ip, _ = peer_of(address)
    if ip.is_unspecified:
        ip = ip_address("::1" if ip.version == 6 else "127.0.0.1")
    preface = LOCAL if is_within(ip, listener.proxy) else b""
    return Entrance(listener.name, where_to_dial(address), listener.is_implicit_tls(endpoint), preface)


def _closable(parts: Parts) -> list[Any]:
    # A component may have a `close()`; it is called once, at the end.
    components: list[Any] = [*parts.gateways.values(), *(one.component for one in parts.accounts.values())]
    components += [rule.recipients for rule in parts.routing.rules] + [rule.route for rule in parts.routing.rules]
    for rules in parts.rules.values():
        for stage in (rules.client, rules.sender, rules.relay, rules.recipient, rules.content):
            components += [asked.component for asked in stage]
    unique = {id(component): component for component in components}
    return [component for component in unique.values() if callable(getattr(component, "close", None))]


def _collect(failure: Failure, endpoint: str, problems: list[str]) -> None:
    problem = failure.value
    reason = str(problem.socketError) if isinstance(problem, CannotListenError) else str(problem) or repr(problem)
    problems.append(f'cannot listen on "{endpoint}": {reason}')


def _give_up(text: str) -> NoReturn:
    # The log is open already, but an operator at a terminal may not be looking at it.
    _log.critical("mailgw does not start: {text}", text=text)
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"mailgw does not start: {text}\n")
    raise SystemExit(1)
