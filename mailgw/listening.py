"""The ports of all listeners: bound before privileges are dropped, and answered when there is somebody inside."""

import errno
import socket
from collections.abc import Sequence
from ipaddress import ip_address
from time import sleep
from typing import Any

from attrs import define, field
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, ILoggingContext, IReactorTime
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.config.model import Configuration, Listener, Tls
from mailgw.journal import Journal
from mailgw.problems import BadConfiguration
from mailgw.receive.aliases import aliases_of
from mailgw.receive.peer import is_within, peer_of
from mailgw.receive.proxying import ProxyFactory
from mailgw.sharing import Crowd, take_over
from mailgw.smtp.proxyline import LOCAL
from mailgw.tls import ServerTls
from mailgw.watchdog import Entrance, where_to_dial

__all__ = ["Binder", "CannotBind", "Inherited", "Open", "Within", "bind", "bind_page", "entrances_of", "open_listeners", "socket_name"]

_BACKLOG = 1024  # bursts of connections overflow Twisted's 50 and cost the clients seconds
_PAUSE = 0.1  # seconds between two attempts at a port that is in use

_log = Logger(namespace="mailgw.listening")


class CannotBind(Exception):
    """Not all ports can be bound; the text says which and why."""


@implementer(ILoggingContext)
class Door(Factory):
    """Stands at a bound port until the store is open and sessions can begin."""

    noisy = False

    def __init__(self, inside: Any = None, name: str = "") -> None:
        """``inside``: a factory; behind a listener's own door one with `sessions` and `stop`, as SmtpFactory is.

        ``name``: the listener's.
        """
        self.inside = inside
        self.name = name

    def logPrefix(self) -> str:  # noqa: N802
        """What Twisted says is starting when the port is bound."""
        return f"listener {self.name}"

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        return self.inside.buildProtocol(addr) if self.inside is not None else None


@define
class Open:
    """A listener at work: its ports are in the order of its endpoints."""

    listener: Listener
    tls: ServerTls | None
    aliases: Any = None  # for EXPN, as `aliases_of` gives them
    door: Door = field(factory=Door)
    ports: list[Any] = field(factory=list)  # IListeningPort, with a fileno() and its factory
    entries: list[Door] = field(factory=list)  # the factories of the ports: behind them are TLS and PROXY, then the door
    leaving: list[Any] = field(factory=list)  # who was behind the door before a reload, with sessions that go on

    def sessions(self) -> int:
        """How many there are at this moment."""
        return sum([inside.sessions for inside in (*self.leaving, self.door.inside) if inside is not None])

    def certificates(self) -> dict[str, ServerTls]:
        """Those that its clients can get, by the names of their [tls.NAME]; none where nobody speaks TLS."""
        is_spoken = self.listener.starttls != "never" or any(map(self.listener.is_implicit_tls, self.listener.endpoint))
        return dict(zip(self.listener.tls, self.tls.several, strict=True)) if self.tls is not None and is_spoken else {}


def open_listeners(configuration: Configuration, clock: IReactorTime) -> list[Open]:
    """All listeners with their certificates and aliases, not yet bound. Raises BadConfiguration, OSError, ValueError."""
    tls = _certificates(configuration, clock)
    report = configuration.report()
    aliases = aliases_of({name: one.aliases for name, one in configuration.listen.items()}, report)
    if report.errors:
        raise BadConfiguration(report.errors)
    return [Open(one, tls.get(one.tls), aliases.get(name)) for name, one in configuration.listen.items()]


def _certificates(configuration: Configuration, clock: IReactorTime) -> dict[tuple[str, ...], ServerTls]:
    """By what listeners say: one name or several. Those that no listener names are read, too, so that their faults are found."""
    report = configuration.report()
    tls: dict[tuple[str, ...], ServerTls] = {}
    for name, one in configuration.tls.items():
        try:
            tls[name,] = _server_tls(one, clock)
        except OSError as problem:
            report.error(("tls", name), f"{problem.filename or one.key}: {problem.strerror or problem}")
        except ValueError as problem:
            report.error(("tls", name), str(problem))
    if report.errors:
        raise BadConfiguration(report.errors)
    for names in {one.tls for one in configuration.listen.values() if len(one.tls) > 1}:
        tls[names] = _server_tls(configuration.tls[names[0]], clock, [tls[name,] for name in names[1:]])
    return tls


def _server_tls(one: Tls, clock: IReactorTime, others: Sequence[ServerTls] = ()) -> ServerTls:
    return ServerTls(one.certificate, one.key, clock, one.client_certificates == "optional", one.client_ca, others)


@define
class Binder:
    """Binds ports."""

    reactor: Any
    patience: float = 0.0  # seconds to wait for ports that others still have; nobody is served meanwhile

    def port(self, listener: Listener, endpoint: str, factory: Any) -> Any:
        """A port for an endpoint of a listener. Raises CannotBind."""
        try:
            return self.bind(listener.beneath_tls(endpoint), factory, endpoint)
        except (ValueError, TypeError) as problem:
            raise CannotBind(f'[listen.{listener.name}] endpoint "{endpoint}": {problem}') from problem

    def bind(self, endpoint: str, factory: Any, name: str) -> Any:
        """A port for an endpoint; ``name`` is what it is called in texts. Raises CannotBind, ValueError, TypeError."""
        opening: Any = _endpoint(endpoint, self.reactor)
        is_said = False
        while True:
            results: list[Any] = []
            opening.listen(factory).addBoth(results.append)
            if results and not isinstance(results[0], Failure):
                return results[0]
            problem = results[0].value if results else "it does not listen at once"
            reason = problem.socketError if isinstance(problem, CannotListenError) else problem
            number = getattr(reason, "errno", None)
            if number != errno.EADDRINUSE or self.patience <= 0.0:
                more = "; ports below 1024 can only be bound at a start that has the rights for it" if number == errno.EACCES else ""
                raise CannotBind(f'cannot listen on "{name}": {str(reason) or repr(reason)}{more}')
            if not is_said:
                _log.warn('"{name}" is in use; waiting up to {seconds:g} seconds for it', seconds=self.patience, name=name)
                is_said = True
            self.patience -= _PAUSE
            sleep(_PAUSE)


@define
class Inherited:
    """Takes over the sockets that a worker has from its parent."""

    sockets: dict[str, int]  # descriptors by `socket_name`; those that are taken over are gone from here, and closed
    crowd: Crowd  # all who have them
    reactor: Any

    def port(self, listener: Listener, endpoint: str, factory: Any) -> Any:
        """See `Binder.port`."""
        try:
            descriptor = self.sockets.pop(socket_name(listener, endpoint))
        except KeyError:
            raise CannotBind(f'[listen.{listener.name}] endpoint "{endpoint}": the parent has handed over no such socket') from None
        try:
            return take_over(descriptor, factory, self.crowd, self.reactor)
        except OSError as problem:
            raise CannotBind(f'[listen.{listener.name}] endpoint "{endpoint}": {problem.strerror or problem}') from problem


def bind(old: Sequence[Open], new: Sequence[Open], binder: Binder | Inherited, reactor: Any, journal: Journal) -> list[Any]:
    """Give ``new`` the ports that ``old`` has, bind those that are missing, and give the ports that nobody wants any more.

    From here on connections go to ``new``. Raises CannotBind; nothing is changed then.
    """
    held = {
        one.listener.beneath_tls(text): (port, entry)
        for one in old
        for text, port, entry in zip(one.listener.endpoint, one.ports, one.entries, strict=True)
    }
    problems: list[str] = []
    fresh: list[Any] = []
    for one in new:
        for text in one.listener.endpoint:
            port, entry = held.pop(one.listener.beneath_tls(text), (None, Door(name=one.listener.name)))
            if port is None:
                try:
                    port = binder.port(one.listener, text, entry)
                except CannotBind as problem:
                    problems.append(str(problem))
                else:
                    fresh.append(port)
            one.ports.append(port)
            one.entries.append(entry)
    if problems:
        for port in fresh:
            port.stopListening()
        raise CannotBind("; ".join(problems))
    for one in new:
        for text, entry in zip(one.listener.endpoint, one.entries, strict=True):
            entry.inside = _factory(text, one, reactor, journal)
    return [port for port, _ in held.values()]


def bind_page(endpoint: str, factory: Any, binder: Binder) -> Any:
    """Bind the port of a page for machines. Raises CannotBind."""
    try:
        return binder.bind(endpoint, factory, endpoint)
    except (ValueError, TypeError) as problem:
        raise CannotBind(f'cannot listen on "{endpoint}": {problem}') from problem


def socket_name(listener: Listener, endpoint: str) -> str:
    """What the socket of a listener's endpoint is called between parent and workers."""
    return f"{listener.name} {endpoint}"


def _factory(text: str, one: Open, reactor: Any, journal: Journal) -> Any:
    factory: Any = one.door
    if one.listener.is_implicit_tls(text):
        tls: Any = one.tls
        factory = TLSMemoryBIOFactory(tls, False, one.door, reactor)
    if one.listener.proxy:
        listener = one.listener
        factory = ProxyFactory(factory, listener.name, listener.proxy, journal, reactor, listener.max_sessions)
    return factory


def _endpoint(text: str, reactor: Any) -> Any:
    if text.startswith(("tcp:", "tcp4:", "tcp6:", "unix:")) and ":backlog=" not in text:
        text = f"{text}:backlog={_BACKLOG}"
    try:
        return serverFromString(reactor, text)  # type: ignore[no-untyped-call]
    except LookupError:
        if not text.startswith("systemd:"):
            raise ValueError(f'"{text}" cannot be understood') from None
        raise ValueError("systemd has handed over no such socket; is its socket unit started?") from None


# ── For the watchdog ──


def entrances_of(opened: Sequence[Open]) -> list[Entrance]:
    """All listeners, as the watchdog knocks at them."""
    return [
        _entrance(one.listener, text, port.getHost())
        for one in opened
        for text, port in zip(one.listener.endpoint, one.ports, strict=True)
    ]


def _entrance(listener: Listener, endpoint: str, address: IAddress) -> Entrance:
    # The watchdog's look at ourselves comes from the address that it dials: perhaps one that must begin with a PROXY header.
    ip, _ = peer_of(address)
    if ip.is_unspecified:
        ip = ip_address("::1" if ip.version == 6 else "127.0.0.1")
    preface = LOCAL if is_within(ip, listener.proxy) else b""
    return Entrance(listener.name, where_to_dial(address), listener.is_implicit_tls(endpoint), preface)


class Within:
    """A dialer that reaches the listeners of this very process, where other processes wait at the same sockets.

    Each connection is a pair of Unix sockets, so its client counts as 127.0.0.1.
    """

    def __init__(self, opened: Sequence[Open], reactor: Any) -> None:
        self._reactor = reactor
        self._factories: dict[str, Any] = {}
        self.entrances: list[Entrance] = []
        """All listeners, by names that `dial` knows."""
        for one in opened:
            for text, port in zip(one.listener.endpoint, one.ports, strict=True):
                preface = LOCAL if is_within(ip_address("127.0.0.1"), one.listener.proxy) else b""
                self.entrances.append(Entrance(one.listener.name, text, one.listener.is_implicit_tls(text), preface))
                self._factories[text] = port.factory

    async def dial(self, where: str, factory: Any, timeout: float) -> Any:  # noqa: ARG002 - it waits for nothing
        """See `IDialer`; ``where`` is an endpoint string of the configuration."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            for end, who in ((theirs, self._factories[where]), (ours, factory)):
                end.setblocking(False)
                self._reactor.adoptStreamConnection(end.fileno(), socket.AF_UNIX, who)
