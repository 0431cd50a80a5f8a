"""Where the operator's daemon is: its configuration, its state folder, its socket."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen

__all__ = ["NoConfiguration", "Whereabouts", "find", "find_configuration"]

VARIABLE = "MAILGW_CONFIG"
SYSTEM = Path("/etc/mailgw/mailgw.toml")
DEMO = Path("demo/mailgw.toml")


class NoConfiguration(Exception):
    """There is no configuration, or not even its socket can be read from it; the text says what to do."""


@frozen
class Whereabouts:
    """What could be found out; where only the socket was given, the others are None."""

    socket: Path
    configuration: Path | None = None
    state: Path | None = None


def find_configuration(config: Path | None, environment: Mapping[str, str]) -> Path:
    """The first of ``--config``, ``$MAILGW_CONFIG``, /etc/mailgw/mailgw.toml and ./demo/mailgw.toml. Raises NoConfiguration."""
    if config is not None:
        return config
    if environment.get(VARIABLE):
        return Path(environment[VARIABLE])
    for path in (SYSTEM, DEMO):
        if path.exists():
            return path
    raise NoConfiguration(f"no configuration: say --config FILE or set {VARIABLE}; there is no {SYSTEM} and no demo in ./{DEMO.parent}")


def find(config: Path | None, socket: Path | None, environment: Mapping[str, str]) -> Whereabouts:
    """Find the daemon; ``socket`` goes before what the configuration says.

    Only two keys of the configuration are read here, whatever else is wrong with it: an operator must reach a running
    daemon while he is editing. Raises NoConfiguration.
    """
    try:
        path = find_configuration(config, environment)
        said = _read(path)
    except NoConfiguration:
        if socket is None:
            raise
        return Whereabouts(socket)
    state, own = _path(path, said, "server", "state"), _path(path, said, "admin", "socket")
    place = socket or own or (state / "admin.sock" if state else None)
    if place is None:
        raise NoConfiguration(f"{path} says neither [server] state nor [admin] socket")
    return Whereabouts(place, path, state)


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else problem
        raise NoConfiguration(f"{path}: {reason}; with --socket PATH a running daemon can be reached without it") from problem


def _path(configuration: Path, said: Mapping[str, Any], table: str, key: str) -> Path | None:
    inside = said.get(table)
    value = inside.get(key) if isinstance(inside, Mapping) else None
    # Relative paths begin at the folder of the configuration.
    return configuration.parent / value if isinstance(value, str) and value else None
