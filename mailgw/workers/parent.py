"""The parent: binds the ports and serves nobody, keeps its workers alive, and is one gateway to operator and service manager.

Workers know nothing of each other. Each owns a part of the queue and takes connections from the sockets that it inherited. Where one
cannot be started for a while, another looks after its part until it is back.
"""

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from mailgw.admin.asking import Remote
from mailgw.admin.socket import AdminSocket
from mailgw.assemble import House, Parts
from mailgw.config.model import Configuration
from mailgw.listening import Binder, CannotBind, Open, bind_page
from mailgw.notify import ServiceManager, Summary
from mailgw.observe.log import quicken
from mailgw.observe.metrics import page
from mailgw.part import left_over
from mailgw.reloading import Source, reloading
from mailgw.sharing import Crowd
from mailgw.starting import give_up, open_socket
from mailgw.timekeeping import Timekeeper
from mailgw.workers.command import Command
from mailgw.workers.desk import Desk
from mailgw.workers.duty import Duties
from mailgw.workers.exchange import Exchange
from mailgw.workers.places import PATIENCE, left_behind, notify_of, socket_of
from mailgw.workers.sockets import Sockets, close
from mailgw.workers.tally import Tally
from mailgw.workers.worker import Ending, Worker

__all__ = ["Workers"]

_LONGEST = 107  # octets in the path of a Unix socket
_WATCHDOG = 90.0  # seconds without a sign of life, where no service manager says anything else
_CLOSING = 15.0  # seconds that workers may take to end, after the shutdown's grace

_log = Logger(namespace="mailgw.workers")


class Workers(Service):
    """The parent of ``[server] workers`` processes."""

    name = "mailgw"

    def __init__(
        self,
        configuration: Configuration,
        house: House,
        parts: Parts,
        opened: Sequence[Open],
        command: Command,
        reactor: Any,
        ready: Callable[[], None],
        manager: ServiceManager,
        source: Source,
    ) -> None:
        """Make it; ``opened``: all listeners. ``ready`` is called, and ``manager`` told, when all workers take mail.

        ``house`` and ``parts`` are for comparing with those of the file at a reload: nobody is served here.
        """
        self._reactor = reactor
        self._timekeeper = Timekeeper(reactor, self._clock_was_set)
        self._ready = ready
        self._manager = manager
        self._admin_settings = configuration.admin  # which stay until a restart
        self._server = configuration.server
        # Half of our own: a worker that hangs is killed before we are.
        watchdog = manager.watchdog / 2 or _WATCHDOG
        socket = configuration.admin.socket
        self._workers = {
            number: Worker(number, command, notify_of(socket, number), watchdog, reactor, self._changed, self._ended)
            for number in range(1, configuration.server.processes + 1)
        }
        remotes = {number: Remote(socket_of(socket, number), f"worker {number}", reactor) for number in self._workers}
        self._duties = Duties(self._workers, remotes, reactor, list(self._workers))
        self._tally = Tally()
        self._desk = Desk(self._workers, self._duties, self._tally, reactor, self._reload)
        self._crowd = Crowd.gather()
        self._sockets = Sockets(opened, reactor)
        self._exchange = Exchange(configuration, house, parts, source, self._sockets, self._crowd.descriptor, self._workers, remotes)
        self._is_up = False
        self._is_stopping = False
        self._over: Deferred[None] = Deferred()
        self._page: Any = None
        self._admin: AdminSocket | None = None
        self._write_log: Callable[[], None] = lambda: None

    # ── The start ──

    def privilegedStartService(self) -> None:  # noqa: N802
        """Bind all ports, and leave the connections that arrive there to the workers."""
        try:
            self._sockets.bind(PATIENCE)
            if self._admin_settings.metrics:
                self._page = bind_page(self._admin_settings.metrics, page(self._desk.samples), Binder(self._reactor, PATIENCE))
        except CannotBind as problem:
            give_up(str(problem))
        super().privilegedStartService()  # type: ignore[no-untyped-call]

    def startService(self) -> None:  # noqa: N802
        """Start the workers."""
        self._timekeeper.start()
        self._write_log = quicken(self._reactor)
        self._desk.began = self._reactor.seconds()
        try:
            self._duties.parts += left_over(self._server)
        except OSError as problem:
            give_up(f"the queue in {self._server.state} cannot be opened: {problem}")
        socket = self._admin_settings.socket
        if max(worker.socket_length for worker in self._workers.values()) > _LONGEST:
            give_up(f"{socket}: the sockets of workers beside the admin socket would have paths of more than {_LONGEST} octets")
        for path in left_behind(socket):
            path.unlink(missing_ok=True)
        self._admin = AdminSocket(socket, self._desk, self._reactor)
        open_socket(self._admin)
        signal.signal(signal.SIGUSR1, self._hand_on(signal.SIGUSR1, signal.getsignal(signal.SIGUSR1)))
        signal.signal(signal.SIGHUP, lambda caught, frame: self._reactor.callFromThread(self._reload_and_log))  # noqa: ARG005
        super().startService()  # type: ignore[no-untyped-call]
        for worker in self._workers.values():
            self._reactor.callWhenRunning(self._start, worker)

    def _start(self, worker: Worker) -> None:
        if not self._is_stopping and worker.pid is None:
            self._exchange.start(worker)

    def _hand_on(self, number: signal.Signals, before: Any) -> Callable[[int, FrameType | None], None]:
        def handle(caught: int, frame: FrameType | None) -> None:
            if callable(before):
                before(caught, frame)  # twistd's, which rotates the log
            self._reactor.callFromThread(self._signal_all, number)

        return handle

    def _signal_all(self, number: signal.Signals) -> None:
        for worker in self._workers.values():
            # One that is just starting could not take it yet.
            if worker.state == "ready":
                worker.tell(number)

    # ── What is heard of the workers ──

    def _changed(self, worker: Worker) -> None:
        if worker.trouble:
            self._manager.tell(f"STATUS=Worker {worker.number}: {worker.trouble}")
        ready = [one for one in self._workers.values() if one.state == "ready"]
        if self._is_stopping or not ready:
            return
        if not self._is_up:
            if len(ready) < len(self._workers):
                return
            self._is_up = self._duties.is_on = True
            self._manager.tell("READY=1", f"STATUS={self._summary()}")
            self._ready()
        if all(one.is_fed for one in ready):
            for one in ready:
                one.is_fed = False
            self._manager.tell("WATCHDOG=1", f"STATUS={self._summary()}")
        self._duties.balance()
        for one in ready:
            self._exchange.look_at(one)

    def _clock_was_set(self, by: float) -> None:
        # The workers see it themselves.
        for worker in self._workers.values():
            worker.started += by
            worker.until += by

    def _ended(self, worker: Worker, ending: Ending) -> None:
        lived = self._reactor.seconds() - worker.started
        self._tally.bury(worker.number)
        self._crowd.leave(worker.number)
        self._duties.leave(worker.number)
        if self._is_stopping:
            _log.info("worker {number} has ended: {ending}", number=worker.number, ending=ending)
            if all(one.pid is None for one in self._workers.values()) and not self._over.called:
                self._over.callback(None)
            return
        _log.critical("worker {number} has died after {lived:.1f} seconds: {ending}", number=worker.number, lived=lived, ending=ending)
        if not self._is_up and ending.status:
            self._fail(worker, ending.status)
            return
        delay = worker.patience.delay(lived)
        worker.state, worker.until = "waiting", self._reactor.seconds() + delay
        if delay:
            _log.critical("worker {number} is started again in {delay:g} seconds", number=worker.number, delay=delay)
        self._reactor.callLater(delay, self._restart, worker)
        self._changed(worker)  # the others may be all well now

    def _fail(self, worker: Worker, status: int) -> None:
        # A start that fails for one worker fails for all: somebody is looking at it now.
        _log.critical("mailgw does not start: worker {number} ended with status {status}", number=worker.number, status=status)
        self._is_stopping = True
        # twistd ends with status 0 whatever happens while the reactor runs.
        atexit.register(_end, status)
        self._reactor.stop()

    def _restart(self, worker: Worker) -> None:
        if not self._is_stopping:
            Deferred.fromCoroutine(self._start_again(worker)).addErrback(lambda failure: _log.failure("a restart failed", failure))

    async def _start_again(self, worker: Worker) -> None:
        await self._duties.take_back(worker.number)
        worker.restarts += 1
        self._start(worker)

    # ── A reload ──

    async def _reload(self, dry_run: bool) -> dict[str, Any]:
        self._manager.tell(*reloading())
        try:
            return await self._exchange.reload(dry_run)
        finally:
            self._manager.tell("READY=1", f"STATUS={self._summary()}")

    def _reload_and_log(self) -> None:
        def tell(failure: Failure) -> None:
            for line in str(failure.value).split("\n"):
                _log.error("not reloaded, the configuration in use stays: {problem}", problem=line)

        Deferred.fromCoroutine(self._reload(False)).addErrback(tell)

    def _summary(self) -> str:
        ready = [one.summary for one in self._workers.values() if one.state == "ready" and one.summary is not None]
        whole = Summary(len(self._sockets.opened), sum(one.sessions for one in ready), sum(one.leased for one in ready))
        return f"{len(ready)} of {len(self._workers)} workers, {whole}"

    # ── The end ──

    def stopService(self) -> "Deferred[None]":  # noqa: N802
        """Let all workers end in good order, for as long as [server] shutdown_grace says, then kill who is left."""
        super().stopService()  # type: ignore[no-untyped-call]
        return Deferred.fromCoroutine(self._stop())

    async def _stop(self) -> None:
        self._is_stopping, self._duties.is_on = True, False
        allowed = self._exchange.configuration.server.shutdown_grace + _CLOSING
        self._manager.tell("STOPPING=1", f"EXTEND_TIMEOUT_USEC={int(allowed * 2e6)}", "STATUS=Letting sessions and deliveries end")
        await self._sockets.close()
        if self._page is not None:
            await close(self._page)
        running = [worker for worker in self._workers.values() if worker.pid is not None]
        for worker in running:
            worker.tell(signal.SIGTERM)
        if running:
            axe = self._reactor.callLater(allowed, self._kill)
            await self._over
            if axe.active():
                axe.cancel()
        for worker in self._workers.values():
            worker.forget()
        if self._admin is not None:
            await self._admin.stopService()
        self._timekeeper.stop()
        self._write_log()

    def _kill(self) -> None:
        for worker in self._workers.values():
            if worker.pid is not None:
                _log.critical("worker {number} does not end; it is killed", number=worker.number)
                worker.tell(signal.SIGKILL)


def _end(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
