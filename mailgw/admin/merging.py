"""Answers of several to the same question, as one."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["add_up"]

SAME = ("version", "pid")  # the first one's
SMALLEST = ("oldest", "until", "room")
LARGEST = ("failures", "uptime", "banned_networks", "failures_this_hour", "failures_the_hour_before")


def add_up(values: Sequence[Any], key: str = "") -> Any:
    """Merge plain data of the same shape, at least one: numbers are added, tables and lists of destinations are merged.

    What is one of `SMALLEST` or `LARGEST` is the smallest or largest of all; of texts the first that says something stands for all;
    of other lists each item is there once; what is true for one is true.
    """
    there = [value for value in values if value is not None]
    if not there or key in SAME:
        return values[0]
    first = there[0]
    if isinstance(first, Mapping):
        names = dict.fromkeys(name for value in there for name in value)
        return {name: add_up([value[name] for value in there if name in value], name) for name in names}
    if isinstance(first, bool):
        return any(there)
    if isinstance(first, int | float):
        return (min if key in SMALLEST else max if key in LARGEST else sum)(there)
    if isinstance(first, list):
        return _items([row for value in there for row in value])
    return next(filter(None, there), first)


def _items(rows: list[Any]) -> list[Any]:
    if not all(isinstance(row, Mapping) and "gateway" in row for row in rows):
        return [row for number, row in enumerate(rows) if row not in rows[:number]]
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["gateway"], row.get("next_hop", "")), []).append(row)
    return [add_up(group) for group in groups.values()]
