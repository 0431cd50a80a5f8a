"""Where the operator's daemon is: its configuration, its state folder, its socket."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

__all__ = ["NoConfiguration", "Whereabouts", "find"]

VARIABLE = "MAILGW_CONFIG"
SYSTEM = Path("/etc/mailgw/mailgw.toml")
DEMO = Path("demo")


class NoConfiguration(Exception):
    """There is no configuration, or not even its socket can be read from it; the text says what to do."""


@frozen
class Whereabouts:
    """What could be found out; ``configuration`` is None for the demo, ``state`` when only the socket was given."""

    configuration: Path | None
    state: Path | None
    socket: Path


def find(config: Path | None, socket: Path | None, environment: Mapping[str, str]) -> Whereabouts:
    """Look at ``--config``, ``$MAILGW_CONFIG``, /etc/mailgw/mailgw.toml, then at the demo's folder ./demo.

    Only two keys of the configuration are read here, whatever else is wrong with it: an operator must reach a running
    daemon while he is editing. Raises NoConfiguration.
    """
    named = config or (Path(environment[VARIABLE]) if environment.get(VARIABLE) else None)
    path = named or (SYSTEM if SYSTEM.exists() else None)
    if path is None and DEMO.is_dir():
        return Whereabouts(None, DEMO, socket or DEMO / "admin.sock")
    if path is None and socket:
        return Whereabouts(None, None, socket)
    if path is None:
        raise NoConfiguration(f"no configuration: say --config FILE or set {VARIABLE}; there is no {SYSTEM} and no demo in ./{DEMO}")
    try:
        with path.open("rb") as file:
            said = tomllib.load(file)
    except (OSError, ValueError) as problem:
        if socket:
            return Whereabouts(path, None, socket)
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise NoConfiguration(f"{path}: {reason}; with --socket PATH a running daemon can be reached without it") from problem
    state, own = _path(path, said, "server", "state"), _path(path, said, "admin", "socket")
    place = socket or own or (state / "admin.sock" if state else None)
    if place is None:
        raise NoConfiguration(f"{path} says neither [server] state nor [admin] socket")
    return Whereabouts(path, state, place)


def _path(configuration: Path, said: Mapping[str, Any], table: str, key: str) -> Path | None:
    inside = said.get(table)
    value = inside.get(key) if isinstance(inside, Mapping) else None
    # Relative paths begin at the folder of the configuration.
    return configuration.parent / value if isinstance(value, str) and value else None
