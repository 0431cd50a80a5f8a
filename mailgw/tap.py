"""``twistd mailgw``: options in, a service out. The only place that knows the global reactor."""

import gc

# What is imported stays; to look for garbage among it takes an eighth of a start.
gc.disable()

import json
import os
import signal
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from attrs import evolve
from twisted.application.service import IService
from twisted.internet import reactor
from twisted.internet.error import ReactorNotRunning
from twisted.python.usage import Options as UsageOptions

from mailgw.assemble import House, Parts, load
from mailgw.config.model import Configuration
from mailgw.house import make_house, renew_house
from mailgw.interfaces import IObserver
from mailgw.listening import open_listeners
from mailgw.notify import ServiceManager
from mailgw.observe.log import Log
from mailgw.observe.metrics import Metrics
from mailgw.part import Post
from mailgw.problems import BadConfiguration
from mailgw.reloading import Source
from mailgw.service import MailGateway
from mailgw.workers.command import CROWD, TRANSCRIPT, Command
from mailgw.workers.lifeline import Lifeline, is_cut
from mailgw.workers.places import PATIENCE, left_behind, socket_of
from mailgw.workers.transcript import text_in

__all__ = ["Options", "makeService"]

gc.freeze()
gc.enable()


class Options(UsageOptions):
    """What follows ``twistd mailgw``."""

    synopsis = "twistd [twistd options] mailgw [--config FILE]"
    longdesc = "Without --config: a safe demo on loopback, relay on port 2525, submission on 2587, everything in one folder."
    optParameters = [  # noqa: RUF012
        ["config", "c", None, "The configuration file; see etc/mailgw.toml."],
        ["demo-folder", None, "demo", "Where the demo keeps everything."],
        ["json-log", None, None, "Also write one JSON object for each event to this file."],
        ["worker", None, None, "Given by the parent of several workers: which one this is."],
        ["handed", None, None, "Given by the parent of several workers: descriptors of listening sockets and others, by name."],
    ]


def makeService(options: Options) -> IService:  # noqa: N802
    """Read, check and build; a configuration with errors ends here, with all of them and exit status 2."""
    loop: Any = reactor
    name, folder, json_log = options["config"], Path(options["demo-folder"]), options["json-log"]
    handed: dict[str, int] = json.loads(options["handed"]) if options["handed"] is not None else {}
    if handed and is_cut(_lifeline()):
        raise SystemExit(1)  # its parent died meanwhile, and the next one needs the ports
    try:
        path = Path(name) if name is not None else _demo().prepare(folder)
        text = None
        if handed:
            with open(handed.pop(TRANSCRIPT)) as transcript:
                text = text_in(transcript.fileno())
        configuration, house, parts = load(path, lambda configuration: make_house(configuration, loop), text)
        source = Source(path.absolute(), lambda new, old, house: renew_house(new, old, house, loop), loop)
        source.loaded(configuration)
        ready = partial(_ready, folder if name is None else None)
        manager = ServiceManager.of(os.environ, os.getpid())
        json_path = Path(json_log).absolute() if json_log is not None else None
        if options["worker"] is not None:
            return _worker(int(options["worker"]), handed, configuration, house, parts, json_path, manager, source)
        if configuration.server.processes > 1:
            # Imported where it is wanted, as it costs every other start 10 ms.
            from mailgw.workers.parent import Workers

            more = ("--json-log", str(json_path)) if json_path is not None else ()
            command = Command(options.parent or {}, path.absolute(), more)
            service: IService = Workers(
                configuration, house, parts, open_listeners(configuration, loop), command, loop, ready, manager, source
            )
        else:
            metrics = Metrics() if configuration.admin.metrics else None
            patience = PATIENCE if (before := left_behind(configuration.admin.socket)) else 0.0
            service = gateway = MailGateway(
                configuration, parts, house, loop, _observers(json_path), ready, manager, metrics, source=source, patience=patience
            )
            for path in before:
                path.unlink(missing_ok=True)
            if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
                signal.signal(signal.SIGHUP, lambda caught, frame: loop.callFromThread(gateway.reload_and_log))  # noqa: ARG005
    except BadConfiguration as bad:
        _refuse(str(bad))
    except (OSError, ValueError) as problem:
        _refuse(str(problem))
    for warning in parts.warnings:
        sys.stderr.write(f"{warning}\n")
    return service


def _worker(
    number: int,
    handed: dict[str, int],
    configuration: Configuration,
    house: House,
    parts: Parts,
    json_path: Path | None,
    manager: ServiceManager,
    source: Source,
) -> IService:
    """One of several processes, with its share of what is meant for the whole gateway."""
    from mailgw.workers.orders import Orders

    loop: Any = reactor

    def share(whole: Configuration) -> Configuration:
        workers = whole.server.processes
        listen = {name: evolve(one, max_sessions=-(-one.max_sessions // workers)) for name, one in whole.listen.items()}
        return evolve(whole, listen=listen, admin=evolve(whole.admin, socket=socket_of(whole.admin.socket, number)))

    configuration = share(configuration)
    source.adapt = share
    metrics = Metrics() if configuration.admin.metrics else None
    post = Post(number, handed, handed.pop(CROWD), lambda: is_cut(_lifeline()))
    gateway = MailGateway(
        configuration,
        parts,
        house,
        loop,
        _observers(json_path, number),
        manager=manager,
        metrics=metrics,
        post=post,
        source=source,
        patience=PATIENCE,
    )
    gateway.desk.orders = Orders(gateway).by_name()
    _survive(signal.SIGHUP, signal.SIGUSR1)

    def orphaned() -> None:
        gateway.hurry()
        with suppress(ReactorNotRunning):
            loop.stop()

    # A terminal's Ctrl-C reaches us and our parent, which then tells us once more.
    loop.addSystemEventTrigger("before", "shutdown", _ignore, signal.SIGTERM, signal.SIGINT)
    loop.callWhenRunning(Lifeline, _lifeline(), loop, orphaned)
    return gateway


def _lifeline() -> int:
    return sys.__stdin__.fileno() if sys.__stdin__ is not None else 0


def _observers(json_path: Path | None, worker: int | None = None) -> list[IObserver]:
    if json_path is None:
        return [Log()]
    # Imported where it is wanted, as it costs every other start 5 ms.
    from mailgw.observe.json_lines import JsonLines

    loop: Any = reactor
    return [Log(), JsonLines(json_path, loop, worker)]


def _survive(*numbers: signal.Signals) -> None:
    _ignore(*[number for number in numbers if signal.getsignal(number) is signal.SIG_DFL])


def _ignore(*numbers: signal.Signals) -> None:
    # A handler and not SIG_IGN, which the programs that gateways start would inherit.
    for number in numbers:
        signal.signal(number, lambda caught, frame: None)  # noqa: ARG005 - what signal.signal calls


def _demo() -> Any:
    # Imported where it is wanted: its password is hashed, and what is needed for that costs every other start 40 ms.
    from mailgw import demo

    return demo


def _ready(demo_folder: Path | None) -> None:
    # Past the log, which has taken over sys.stdout.
    if demo_folder is not None and sys.__stdout__ is not None:
        sys.__stdout__.write(_demo().how_to(demo_folder, Path(sys.argv[0]).with_name("mailgw")))
        sys.__stdout__.flush()


def _refuse(text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    raise SystemExit(2)
