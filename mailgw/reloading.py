"""The configuration again while mailgw runs: read and built whole, or not at all."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any

from attrs import Factory, define, field
from twisted.internet.interfaces import IReactorTime

from mailgw.admin.reading import Refusal
from mailgw.assemble import House, Parts, closable, load
from mailgw.config.changes import changes, needs_restart
from mailgw.config.model import Configuration
from mailgw.listening import Open, open_listeners
from mailgw.plugin_code import PluginCode
from mailgw.problems import BadConfiguration, Problem
from mailgw.settings import Part

__all__ = ["Plan", "Source", "read_reload", "reloading"]


@define
class Plan:
    """What the file says now, ready to be put in place of what it said before; it is thrown away unless ``keep`` is set."""

    configuration: Configuration
    house: House
    parts: Parts
    opened: Sequence[Open]  # not bound
    changes: Sequence[str]
    keep: bool = False


@define
class Source:
    """Where the configuration comes from. Call `loaded` when it has been loaded for the first time."""

    path: Path
    furnish: Callable[[Configuration, Configuration, House], House]  # new, old and its house: a house in which stays what can
    clock: IReactorTime
    adapt: Callable[[Configuration], Configuration] = lambda configuration: configuration  # a worker's share
    code: PluginCode = field(default=Factory(PluginCode), init=False)

    def loaded(self, configuration: Configuration) -> None:
        """Remember how the code of its plugins is now."""
        self.code.note(*_texts(configuration))

    @contextmanager
    def plan(self, old: Configuration, house: House, parts: Parts, text: str | None = None) -> Iterator[Plan]:
        """Read and build everything anew, code of plugins included. ``old`` and the others: what is in use.

        ``text`` counts in place of what the file says.

        Raises BadConfiguration with all problems; everything is as it was then.
        """
        with self.code.renewed() as renewal:
            new, new_house, new_parts = load(self.path, lambda one: self.furnish(one, old, house), text)
            plan: Plan | None = None
            try:
                new = self.adapt(new)
                report = new.report()
                needs_restart(old, new, report)
                if report.errors:
                    raise BadConfiguration(report.errors)
                found = [str(change) for change in changes(old, parts.rules, new, new_parts.rules)]
                found += [f"plugin {name} has other code" for name in renewal.modules]
                try:
                    opened = open_listeners(new, self.clock)
                except (OSError, ValueError) as problem:
                    raise BadConfiguration([Problem(str(self.path), 0, str(problem))]) from problem
                plan = Plan(new, new_house, new_parts, opened, found)
                yield plan
            finally:
                if plan is not None and plan.keep:
                    renewal.keep = True
                else:
                    for component in closable(new_parts):
                        component.close()
        if plan.keep:
            self.loaded(new)


def read_reload(arguments: Mapping[str, Any]) -> bool:
    """Whether the operation "reload" is only to say what it would do. Raises Refusal."""
    dry_run = arguments.get("dry_run", False)
    if arguments.keys() - {"dry_run"} or not isinstance(dry_run, bool):
        raise Refusal("bad-request", "reload has one argument, dry_run, which is true or false")
    return dry_run


def reloading() -> tuple[str, str]:
    """What the service manager is told when it begins: see sd_notify(3)."""
    return "RELOADING=1", f"MONOTONIC_USEC={monotonic_ns() // 1000}"


def _texts(configuration: Configuration) -> Iterator[str]:
    """All that may name a plugin as "module:Class"."""
    tables = (configuration.policy, configuration.gateway, configuration.accounts)
    parts: list[Part | None] = [one.part for table in tables for one in table.values()]
    parts += [rule.part for rule in configuration.permit]
    parts += [part for rule in configuration.route for part in (rule.part, rule.recipients_of)]
    for part in parts:
        if part is not None:
            yield part.type
            yield from (value for value in part.settings.values() if isinstance(value, str))
