"""From the tables of a configuration to typed fields: the fields of an attrs class are its settings.

What a field is annotated with says how it is written: ``bool``, ``int``, ``float``, ``str``, ``Literal``, ``Path``, the types
of `ipaddress`, `Secret`, `mailgw.values.quantities`, any class with a ``parse`` class method (`Address`, `Rate`), lists, tuples,
sets and dicts of these, other attrs classes as sub-tables, and ``X | None``. Nothing is guessed: ``1`` is no ``true``, ``"5"`` is
no 5; but where a list is wanted, a single string is a list of one.
"""

import os
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

import attrs
from attrs import field, frozen

from mailgw.given import given_interface
from mailgw.problems import Place, Report, nearest
from mailgw.values.secret import Secret

__all__ = ["CREDENTIALS", "DERIVED", "Context", "Network", "Part", "convert", "fill", "make", "settings_of", "type_name"]

Network: TypeAlias = IPv4Network | IPv6Network


@frozen
class Part:
    """A table that becomes a component: its ``type`` and the settings that are the component's own."""

    type: str
    settings: Mapping[str, Any]
    at: Place
    reserved: frozenset[str] = frozenset({"type"})  # keys that mailgw itself reads from this table


@frozen
class Context:
    """What a setting may refer to."""

    folder: Path = field(factory=Path)  # relative paths begin at the folder of the configuration file
    networks: Mapping[str, tuple[Network, ...]] = field(factory=dict)  # named sets, written "@name" in lists of networks


DERIVED = {"mailgw.derived": True}
"""Metadata of a field that is no setting: whoever reads the table works it out from the others."""


class _Wrong(Exception):
    """A value that cannot be converted: what is wrong, and where below the value's own place."""

    def __init__(self, *faults: tuple[Place, str]) -> None:
        super().__init__()
        self.faults = faults


_PLAIN = {bool: "true or false", int: "a whole number", float: "a number", str: "a string"}


def convert(value: Any, kind: Any, at: Place, context: Context, report: Report) -> Any:
    """Give the value as the annotation ``kind`` wants it, or report what is wrong with it and give `attrs.NOTHING`."""
    try:
        return _convert(value, kind, context)
    except _Wrong as wrong:
        for below, text in wrong.faults:
            report.error(at + below, text)
        return attrs.NOTHING


def _convert(value: Any, kind: Any, context: Context) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        parse = next((extra for extra in arguments[1:] if callable(extra)), None)
        return _read(value, parse) if parse else _convert(value, arguments[0], context)
    if origin is Literal:
        if value not in arguments or type(value) not in {type(argument) for argument in arguments}:
            words = " or ".join(_quoted(argument) for argument in arguments)
            hint = nearest(value, [a for a in arguments if isinstance(a, str)]) if isinstance(value, str) else ""
            raise _Wrong(((), f"{_quoted(value)} is not {words}{hint}"))
        return value
    if origin in (Union, UnionType):
        return _convert_union(value, arguments, context)
    if origin in (list, tuple, set, frozenset) or _is_abstract(origin, ("Sequence", "Collection", "Set", "Iterable")):
        return _convert_items(value, origin, arguments, context)
    if origin is dict or _is_abstract(origin, ("Mapping",)):
        return _convert_table(value, arguments[1], context)
    if kind in _PLAIN:
        if type(value) is kind or (kind is float and type(value) is int):
            return kind(value)
        raise _Wrong(((), f"{_quoted(value)} is not {_PLAIN[kind]}"))
    if kind is Path:
        return context.folder / _read(value, str)
    if kind is Secret:
        return _secret(value, context)
    if isinstance(kind, type) and attrs.has(kind) and isinstance(value, dict):
        inner = Report()
        made = make(kind, value, (), context, inner)
        if inner.problems:
            raise _Wrong(*(((), problem.text) for problem in inner.problems))
        return made
    if callable(getattr(kind, "parse", None)):
        return _read(value, kind.parse)
    if kind in (IPv4Network, IPv6Network):
        return _unmapped(_read(value, kind))
    if kind in (IPv4Address, IPv6Address):
        return _read(value, kind)
    raise _Wrong(((), f"a field of type {type_name(kind)} cannot be a setting"))


_MAPPED = IPv6Network("::ffff:0:0/96")  # RFC 4291 §2.5.5.2


def _unmapped(network: Network) -> Network:
    """The same, as an IPv4 network where it is one of IPv4-mapped addresses: this is how clients arrive."""
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED):
        return IPv4Network((int(network.network_address) & 0xFFFFFFFF, network.prefixlen - 96))
    return network


def _is_abstract(origin: Any, names: tuple[str, ...]) -> bool:
    return getattr(origin, "__module__", "") == "collections.abc" and origin.__name__ in names


def _quoted(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    return "a list" if isinstance(value, list) else "a table" if isinstance(value, dict) else str(value)


def _read(value: Any, parse: Callable[[str], Any]) -> Any:
    if not isinstance(value, str):
        if type(value) in (int, float):
            try:
                parse(str(value))
            except ValueError as problem:  # says how it is written: a bare number lacks its unit
                raise _Wrong(((), str(problem))) from None
        raise _Wrong(((), f"{_quoted(value)} is not a string"))
    try:
        return parse(value)
    except ValueError as problem:
        text = str(problem)
        raise _Wrong(((), text if value and value in text else f'"{value}": {text}')) from None


def _convert_union(value: Any, kinds: tuple[Any, ...], context: Context) -> Any:
    real = [kind for kind in kinds if kind is not NoneType]
    if len(real) < len(kinds) and value in ("never", "unlimited") and real[0] not in _PLAIN:
        return None
    # The kind that the value looks like goes first: its error is the useful one.
    wrong: _Wrong | None = None
    for kind in sorted(real, key=lambda kind: not _looks_like(kind, value)):
        try:
            return _convert(value, kind, context)
        except _Wrong as problem:
            wrong = wrong or problem
    if all(kind in _PLAIN or get_origin(kind) is Literal for kind in real):
        raise _Wrong(((), f"{_quoted(value)} is not {' or '.join(_PLAIN.get(kind) or type_name(kind) for kind in real)}"))
    raise wrong or _Wrong(((), "cannot be a setting"))


def _looks_like(kind: Any, value: Any) -> bool:
    if isinstance(value, list):
        return get_origin(kind) in (list, tuple, set, frozenset)
    if isinstance(value, dict):
        return get_origin(kind) is dict or attrs.has(kind)
    if kind in (IPv6Address, IPv6Network):
        return ":" in str(value)
    if kind in (IPv4Address, IPv4Network):
        return ":" not in str(value)
    return kind is type(value)


def _convert_items(value: Any, origin: Any, kinds: tuple[Any, ...], context: Context) -> Any:
    single = isinstance(value, str)
    if single:
        value = [value]
    if not isinstance(value, list):
        raise _Wrong(((), f"{_quoted(value)} is not a list"))
    fixed = origin is tuple and kinds[-1] is not Ellipsis
    if fixed and len(value) != len(kinds):
        raise _Wrong(((), f"needs {len(kinds)} items, not {len(value)}"))
    items: list[Any] = []
    faults: list[tuple[Place, str]] = []
    for index, item in enumerate(value):
        kind = kinds[index] if fixed else kinds[0]
        try:
            if isinstance(item, str) and item.startswith("@") and _is_network(kind):
                items.extend(_named(item, context))
            else:
                items.append(_convert(item, kind, context))
        except _Wrong as wrong:
            faults.extend((below if single else (index, *below), text) for below, text in wrong.faults)
    if faults:
        raise _Wrong(*faults)
    if origin in (list, tuple, set, frozenset):
        return origin(items)
    return frozenset(items) if origin.__name__ == "Set" else tuple(items)


def _is_network(kind: Any) -> bool:
    return bool({IPv4Network, IPv6Network} & {kind, *get_args(kind)})


def _named(item: str, context: Context) -> tuple[Network, ...]:
    if item[1:] not in context.networks:
        raise _Wrong(((), f'"{item}" is not in [networks]{nearest(item[1:], context.networks)}'))
    return context.networks[item[1:]]


def _convert_table(value: Any, kind: Any, context: Context) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(((), f"{_quoted(value)} is not a table"))
    table: dict[str, Any] = {}
    faults: list[tuple[Place, str]] = []
    for key, item in value.items():
        try:
            table[key] = _convert(item, kind, context)
        except _Wrong as wrong:
            faults.extend(((key, *below), text) for below, text in wrong.faults)
    if faults:
        raise _Wrong(*faults)
    return table


CREDENTIALS = "/run/credentials/mailgw.service"
"""Where systemd puts our credentials: for a check outside of the service, which has no $CREDENTIALS_DIRECTORY."""

_HOW_TO_WRITE = 'write a secret as { file = "..." }, { env = "..." } or { credential = "..." }'


def _secret(value: Any, context: Context) -> Secret:
    # Whatever stands here may be the secret itself: no error text repeats it.
    if not isinstance(value, dict) or len(value) != 1 or not all(isinstance(item, str) and item for item in value.values()):
        raise _Wrong(((), _HOW_TO_WRITE))
    [(kind, name)] = value.items()
    if kind == "file":
        return Secret(path=context.folder / name)
    if kind == "env":
        if name not in os.environ:
            raise _Wrong(((), f"environment variable {name} is not set"))
        return Secret(variable=name)
    if kind == "credential":
        if "/" in name or name in (".", ".."):
            raise _Wrong(((), f'"{name}" is no name of a credential'))
        return Secret(path=Path(os.environ.get("CREDENTIALS_DIRECTORY") or CREDENTIALS) / name)
    raise _Wrong(((), _HOW_TO_WRITE))


def settings_of(cls: type) -> dict[str, "attrs.Attribute[Any]"]:
    """The fields of an attrs class that are settings, by the name the configuration says; their types are resolved.

    Raises NameError or TypeError for annotations that cannot be resolved.
    """
    attrs.resolve_types(cls, include_extras=True)
    fields = [one for one in attrs.fields(cls) if one.init and given_interface(one) is None and not DERIVED.items() <= one.metadata.items()]
    return {one.alias or one.name: one for one in fields}


def fill(
    cls: type, table: Mapping[str, Any], at: Place, context: Context, report: Report, also: Collection[str] = (), has: Collection[str] = ()
) -> dict[str, Any]:
    """The arguments for ``cls`` that a table gives. Reports unknown keys, missing keys and wrong values.

    ``also``: keys that somebody else reads from this table; ``has``: keys that need not be here because another table gives them.
    """
    settings = settings_of(cls)
    known = {*settings, *also}
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key in settings:
            converted = convert(value, settings[key].type, (*at, key), context, report)
            if converted is not attrs.NOTHING:
                values[key] = converted
        elif key not in also:
            listed = f"; it has {', '.join(sorted(known))}" if known and len(known) <= 6 else ""
            report.error((*at, key), f'has no key "{key}"{nearest(key, known, listed)}', of=at)
    for key, one in settings.items():
        if one.default is attrs.NOTHING and key not in table and key not in has:
            report.error(at, f'needs "{key}"')
    return values


def make(cls: type, table: Mapping[str, Any], at: Place, context: Context, report: Report, also: Collection[str] = ()) -> Any:
    """An instance of ``cls`` from a table; None where something was wrong, which is reported."""
    before = len(report.errors)
    values = fill(cls, table, at, context, report, also)
    if len(report.errors) > before:
        return None
    try:
        return cls(**values)
    except (ValueError, TypeError, OSError) as problem:
        report.error(at, str(problem))
        return None


def type_name(kind: Any) -> str:
    """How a type is called in lists of settings: ``duration``, ``list of str``, ``"a" or "b"``."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return str(getattr(arguments[1], "__name__", arguments[0].__name__)).removeprefix("parse_")
    if origin is Literal:
        return " or ".join(_quoted(argument) for argument in arguments)
    if origin in (Union, UnionType):
        return " or ".join(type_name(one) for one in arguments if one is not NoneType)
    if origin is not None:
        item = [one for one in arguments if one is not Ellipsis][-1]
        return f"table of {type_name(item)}" if origin is dict or _is_abstract(origin, ("Mapping",)) else f"list of {type_name(item)}"
    return str(getattr(kind, "__name__", kind))
