"""``twistd mailgw``: options in, a service out. The only place that knows the global reactor."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.internet import reactor
from twisted.python.usage import Options as UsageOptions

from mailgw import demo
from mailgw.assemble import load
from mailgw.house import make_house
from mailgw.interfaces import IObserver
from mailgw.notify import ServiceManager
from mailgw.observe.json_lines import JsonLines
from mailgw.observe.log import Log
from mailgw.problems import BadConfiguration
from mailgw.service import MailGateway

__all__ = ["Options", "makeService"]


class Options(UsageOptions):
    """What follows ``twistd mailgw``."""

    synopsis = "twistd [twistd options] mailgw [--config FILE]"
    longdesc = "Without --config: a safe demo on loopback, relay on port 2525, submission on 2587, everything in one folder."
    optParameters = [  # noqa: RUF012
        ["config", "c", None, "The configuration file; see etc/mailgw.toml."],
        ["demo-folder", None, "demo", "Where the demo keeps everything."],
        ["json-log", None, None, "Also write one JSON object for each event to this file."],
    ]


def makeService(options: Options) -> IService:  # noqa: N802
    """Read, check and build; a configuration with errors ends here, with all of them and exit status 2."""
    loop: Any = reactor
    name, folder, json_log = options["config"], Path(options["demo-folder"]), options["json-log"]
    try:
        path = Path(name) if name is not None else demo.prepare(folder)
        configuration, house, parts = load(path, lambda configuration: make_house(configuration, loop))
        observers: list[IObserver] = [Log()]
        if json_log is not None:
            observers.append(JsonLines(Path(json_log), loop))
        gateway = MailGateway(
            configuration,
            parts,
            house,
            loop,
            observers,
            lambda: _ready(folder if name is None else None),
            ServiceManager.of(os.environ, os.getpid()),
        )
    except BadConfiguration as bad:
        _refuse(str(bad))
    except (OSError, ValueError) as problem:
        _refuse(str(problem))
    for warning in parts.warnings:
        sys.stderr.write(f"{warning}\n")
    return gateway


def _ready(demo_folder: Path | None) -> None:
    # Past the log, which has taken over sys.stdout.
    if demo_folder is not None and sys.__stdout__ is not None:
        sys.__stdout__.write(demo.HOW_TO.format(folder=demo_folder, mailgw=Path(sys.argv[0]).with_name("mailgw")))
        sys.__stdout__.flush()


def _refuse(text: str) -> NoReturn:
    sys.stderr.write(f"{text}\n")
    raise SystemExit(2)
