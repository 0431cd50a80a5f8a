"""What another configuration changes in meaning: comments, order of tables, spelling and ``like`` count for nothing."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import attrs
from attrs import frozen

from mailgw.config.matrix import shifts
from mailgw.config.model import Configuration
from mailgw.problems import Report
from mailgw.receive.asking import Rules
from mailgw.settings import DERIVED, Part

__all__ = ["Change", "changes", "needs_restart"]

_NO_MEANING = ("at", "name", "like")
_NOT_SHOWN = ("password", "secret", "token", "key", "url", "dsn", "login", "headers")  # parts of the names of settings
_MOST_SHOWN = 60  # characters of a value
_MOST_SHIFTS = 50
_FIXED = ("hostname", "postmaster", "state", "min_free", "damaged_queue", "workers")


@frozen
class Change:
    """One thing that is different: ``[listen.mx] max_sessions: 100 -> 200``."""

    about: str  # "[listen.mx]", "relaying"
    text: str

    def __str__(self) -> str:
        return f"{self.about} {self.text}"


def changes(old: Configuration, old_rules: Mapping[str, Rules], new: Configuration, new_rules: Mapping[str, Rules]) -> list[Change]:
    """All of it, in the order of a configuration; ``rules``: those of each listener."""
    return [
        *_one("[server]", old.server, new.server),
        *_named("tls", old.tls, new.tls),
        *_sets("domains", old.domains, new.domains),
        *_sets("networks", old.networks, new.networks),
        *_named("accounts", old.accounts, new.accounts),
        *_named("listen", old.listen, new.listen),
        *_listed("permit", old.permit, new.permit),
        *_relaying(old, old_rules, new, new_rules),
        *_named("policy", old.policy, new.policy),
        *_listed("route", old.route, new.route),
        *_named("gateway", old.gateway, new.gateway),
        *_one("[logins]", old.logins, new.logins),
        *_one("[memory]", old.memory, new.memory),
        *_one("[records]", old.records, new.records),
        *_one("[admin]", old.admin, new.admin),
    ]


def needs_restart(old: Configuration, new: Configuration, report: Report) -> None:
    """Report what is different and cannot be while mailgw runs."""
    text = "cannot change while mailgw runs; it needs a restart"
    for key in _FIXED:
        if getattr(old.server, key) != getattr(new.server, key):
            report.error(("server", key), text)
    for table in ("memory", "records", "admin"):
        before, after = getattr(old, table), getattr(new, table)
        for one in attrs.fields(type(after)):
            if getattr(before, one.name) != getattr(after, one.name):
                report.error((table, one.name), text)


def _named(table: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for name in old:
        if name not in new:
            yield Change(f"[{table}.{name}]", "is gone")
    for name, value in new.items():
        if name not in old:
            yield Change(f"[{table}.{name}]", f"is new{_summary(value)}")
        else:
            yield from _one(f"[{table}.{name}]", old[name], value)


def _summary(value: Any) -> str:
    part = getattr(value, "part", None)
    if part is not None:
        return f": {part.type}"
    endpoints = getattr(value, "endpoint", None)
    return f": {value.kind} at {', '.join(endpoints)}" if endpoints else ""


def _one(about: str, old: Any, new: Any) -> Iterator[Change]:
    for text in _differences(old, new):
        yield Change(about, text)


def _differences(old: Any, new: Any) -> Iterator[str]:
    for one in attrs.fields(type(new)):
        before, after = getattr(old, one.name), getattr(new, one.name)
        if one.name in _NO_MEANING:
            continue
        if isinstance(before, Part) or isinstance(after, Part):
            yield from _part("" if one.name == "part" else f"{one.name.removesuffix('_of')} ", before, after)
        elif before != after and not DERIVED.items() <= one.metadata.items():
            yield f"{one.name}: {_said(before)} -> {_said(after)}"


def _part(prefix: str, old: Part | None, new: Part | None) -> Iterator[str]:
    if old is None or new is None or old.type != new.type:
        yield f"{prefix}type: {_said(old and old.type)} -> {_said(new and new.type)}"
        return
    for key in dict.fromkeys([*old.settings, *new.settings]):
        before, after = old.settings.get(key), new.settings.get(key)
        if before != after:
            is_shown = not any(word in key.lower() for word in _NOT_SHOWN) and "://" not in f"{before}{after}"
            yield f"{prefix}{key}: {_said(before)} -> {_said(after)}" if is_shown else f"{prefix}{key}: is another one"


def _sets(table: str, old: Mapping[str, Collection[Any]], new: Mapping[str, Collection[Any]]) -> Iterator[Change]:
    for name in dict.fromkeys([*old, *new]):
        before, after = set(map(str, old.get(name, ()))), set(map(str, new.get(name, ())))
        words = [*(f"+{one}" for one in sorted(after - before)), *(f"-{one}" for one in sorted(before - after))]
        if words or (name in old) != (name in new):
            state = "is new: " if name not in old else "is gone: " if name not in new else ""
            yield Change(f"[{table}] {name}", f"{state}{', '.join(words)}")


def _listed(table: str, old: Sequence[Any], new: Sequence[Any]) -> Iterator[Change]:
    before, after = _by_name(old), _by_name(new)
    for name in before:
        if name not in after:
            yield Change(f"[[{table}]]", f"{name}: is gone")
    for name, value in after.items():
        if name not in before:
            gateway = f", to {value.gateway}" if getattr(value, "gateway", "") else ""
            yield Change(f"[[{table}]]", f"{name}: is new{gateway}")
        else:
            yield from (Change(f"[[{table}]]", f"{name}: {text}") for text in _differences(before[name], value))
    staying = [name for name in before if name in after]
    if table == "route" and staying != [name for name in after if name in before]:
        yield Change(f"[[{table}]]", f"are asked in another order: {'; '.join(after)}")


def _by_name(rules: Sequence[Any]) -> dict[str, Any]:
    named: dict[str, Any] = {}
    for rule in rules:
        name, count = rule.name, 2
        while name in named:
            name, count = f"{rule.name} ({count})", count + 1
        named[name] = rule
    return named


_ANSWERS = {"permitted": "may now send to", "no": "may no longer send to", "unknown": "may perhaps send to, as the rule will find out,"}


def _relaying(
    old: Configuration, old_rules: Mapping[str, Rules], new: Configuration, new_rules: Mapping[str, Rules]
) -> Iterator[Change]:
    found = [shift for shift in shifts(old, old_rules, new, new_rules) if shift.listener in new.listen]
    for shift in found[:_MOST_SHIFTS]:
        by = f", by {shift.by} ({shift.where})" if shift.by else ""
        yield Change("relaying:", f"{shift.client} on {shift.listener} {_ANSWERS[shift.after]} {shift.recipient}{by}")
    if len(found) > _MOST_SHIFTS:
        yield Change("relaying:", f"and {len(found) - _MOST_SHIFTS} more answers are different")


def _said(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    is_many = isinstance(value, list | tuple | set | frozenset)
    text = ", ".join(map(str, value)) or "none" if is_many else str(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 3]}..."
