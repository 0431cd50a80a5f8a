"""``twistd mailgw``: options in, a service out. The only place that knows the global reactor."""

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
from mailgw.observe.json_lines import JsonLines
from mailgw.observe.log import Log
from mailgw.observe.metrics import Metrics
from mailgw.part import Post
from mailgw.problems import BadConfiguration
from mailgw.reloading import Source
from mailgw.service import MailGateway
from mailgw.workers.command import CROWD, Command
from mailgw.workers.lifeline import Lifeline
from mailgw.workers.parent import Workers, socket_of

__all__ = ["Options", "makeService"]


class Options(UsageOptions):
    """What follows ``twistd mailgw``."""

    synopsis = "twistd [twistd options] mailgw [--config FILE]"
    longdesc = "Without --config: a safe demo on loopback, relay on port 2525, submission on 2587, everything in one folder."
    optParameters = [  # noqa: RUF012
        ["config", "c", None, "The configuration file; see etc/mailgw.toml."],
        ["demo-folder", None, "demo", "Where the demo keeps everything."],
        ["json-log", None, None, "Also write one JSON object for each event to this file."],
        ["worker", None, None, "Given by the parent of several workers: which one this is."],
        ["sockets", None, None, "Given by the parent of several workers: the listening sockets."],
    ]


def makeService(options: Options) -> IService:  # noqa: N802
    """Read, check and build; a configuration with errors ends here, with all of them and exit status 2."""
    loop: Any = reactor
    name, folder, json_log = options["config"], Path(options["demo-folder"]), options["json-log"]
    try:
        path = Path(name) if name is not None else _demo().prepare(folder)
        configuration, house, parts = load(path, lambda configuration: make_house(configuration, loop))
        source = Source(path.absolute(), lambda new, old, house: renew_house(new, old, house, loop), loop)
        source.loaded(configuration)
        ready = partial(_ready, folder if name is None else None)
        manager = ServiceManager.of(os.environ, os.getpid())
        json_path = Path(json_log).absolute() if json_log is not None else None
        if options["worker"] is not None:
            return _worker(int(options["worker"]), json.loads(options["sockets"]), configuration, house, parts, json_path, manager, source)
        if configuration.server.processes > 1:
            more = ("--json-log", str(json_path)) if json_path is not None else ()
            command = Command(options.parent or {}, path.absolute(), more)
            service: IService = Workers(
                configuration, house, parts, open_listeners(configuration, loop), command, loop, ready, manager, source
            )
        else:
            metrics = Metrics() if configuration.admin.metrics else None
            service = gateway = MailGateway(
                configuration, parts, house, loop, _observers(json_path), ready, manager, metrics, source=source
            )
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
    sockets: dict[str, int],
    configuration: Configuration,
    house: House,
    parts: Parts,
    json_path: Path | None,
    manager: ServiceManager,
    source: Source,
) -> IService:
    """One of several processes, with its share of what is meant for the whole gateway."""
    loop: Any = reactor

    def share(whole: Configuration) -> Configuration:
        workers = whole.server.processes
        listen = {name: evolve(one, max_sessions=-(-one.max_sessions // workers)) for name, one in whole.listen.items()}
        return evolve(whole, listen=listen, admin=evolve(whole.admin, socket=socket_of(whole.admin.socket, number)))

    configuration = share(configuration)
    source.adapt = share
    metrics = Metrics() if configuration.admin.metrics else None
    post = Post(number, sockets, sockets.pop(CROWD))
    gateway = MailGateway(
        configuration, parts, house, loop, _observers(json_path, number), manager=manager, metrics=metrics, post=post, source=source
    )
    _survive(signal.SIGHUP, signal.SIGUSR1)

    def orphaned() -> None:
        gateway.hurry()
        with suppress(ReactorNotRunning):
            loop.stop()

    # A terminal's Ctrl-C reaches us and our parent, which then tells us once more.
    loop.addSystemEventTrigger("before", "shutdown", _ignore, signal.SIGTERM, signal.SIGINT)
    loop.callWhenRunning(Lifeline, sys.__stdin__.fileno() if sys.__stdin__ is not None else 0, loop, orphaned)
    return gateway


def _observers(json_path: Path | None, worker: int | None = None) -> list[IObserver]:
    loop: Any = reactor
    return [Log()] if json_path is None else [Log(), JsonLines(json_path, loop, worker)]


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
