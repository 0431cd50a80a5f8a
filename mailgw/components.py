"""Find a component by its name, build it from its table, verify that it keeps its contract.

Three doors lead in: an entry point in the group ``mailgw.components`` (our own components come through it too), a Twisted drop-in
(an object in ``twisted/plugins/*.py`` that provides IPlugin and `IComponentFactory`), and ``type = "module:Class"``. What cannot be
imported is an error with its name and traceback; it is never skipped.

An entry point called ``accounts.NAME`` is what ``type = "NAME"`` means in [accounts.X]: so a name can mean one thing there and another
elsewhere.
"""

import inspect
import pkgutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.metadata import entry_points, files
from typing import Any

import attrs
from attrs import frozen
from twisted.plugin import IPlugin
from zope.interface import Invalid
from zope.interface.interface import InterfaceClass
from zope.interface.verify import verifyObject

import twisted.plugins
from mailgw.credentials import IAccounts
from mailgw.given import given_interface
from mailgw.interfaces import (
    IClientPolicy,
    IComponentFactory,
    IContentPolicy,
    IDomainGateway,
    IGateway,
    IObserver,
    IRecipientPolicy,
    IRefusalPolicy,
    IRelayPolicy,
    IRoute,
    ISenderPolicy,
)
from mailgw.problems import Report, nearest
from mailgw.settings import Context, Part, fill, settings_of, type_name

__all__ = ["POLICIES", "BadComponent", "Listing", "Setting", "build", "catalogue", "find"]

GROUP = "mailgw.components"

_OF_A_ROLE: dict[InterfaceClass, str] = {IAccounts: "accounts."}
"""What the names of entry points begin with that are looked for in one role only."""

POLICIES: tuple[InterfaceClass, ...] = (IClientPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy, IRefusalPolicy)
"""What [policy.NAME] can be."""

_CONTRACTS: tuple[InterfaceClass, ...] = (*POLICIES, IRelayPolicy, IRoute, IGateway, IDomainGateway, IObserver, IAccounts)
_ROLES: dict[InterfaceClass, str] = {
    IRelayPolicy: "permit rule",
    IRoute: "route",
    IGateway: "gateway",
    IObserver: "observer",
    IAccounts: "store of accounts",
}


class BadComponent(Exception):
    """No usable component of that name; the message says why, ``detail`` is a traceback where there is one."""

    def __init__(self, text: str, detail: str = "") -> None:
        super().__init__(text)
        self.detail = detail


@frozen
class _Candidate:
    """A door behind which a component of the name should be."""

    name: str
    door: str  # 'entry point of mailgw', 'drop-in twisted.plugins.x', '"module:Class"'
    target: str | type  # "module:Class", or what a drop-in gives

    def load(self) -> type:
        """Raises BadComponent."""
        cls = self.target
        if isinstance(cls, str):
            module, _, attributes = cls.partition(":")
            try:
                found: Any = import_module(module)
                for attribute in attributes.split("."):
                    found = getattr(found, attribute)
            except BaseException as problem:
                if isinstance(problem, KeyboardInterrupt):
                    raise
                text = f'component "{self.name}" ({self.door}) cannot be imported: {_one_line(problem)}'
                raise BadComponent(text, _traceback(problem)) from None
            cls = found
        if not (isinstance(cls, type) and attrs.has(cls)):
            raise BadComponent(f'component "{self.name}" ({self.door}) is not an attrs class')
        return cls


def _traceback(problem: BaseException) -> str:
    problem.__context__ = None  # what mailgw itself was handling is not part of the story
    return "".join(traceback.format_exception(problem))


def _one_line(problem: BaseException) -> str:
    return " ".join(traceback.format_exception_only(problem)[-1].split())


def _entry_points(name: str | None = None) -> list[_Candidate]:
    found = entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
    # A distribution that is on the path twice is still one.
    points = {(point.name, point.value): point for point in found}.values()
    return [
        _Candidate(_spoken(point.name), f"entry point of {point.dist.name if point.dist else 'nobody'}", point.value) for point in points
    ]


def _spoken(name: str) -> str:
    """The name of an entry point as a configuration says it."""
    for prefix in _OF_A_ROLE.values():
        name = name.removeprefix(prefix)
    return name


def _drop_ins() -> Iterator[_Candidate | BadComponent]:
    """All component factories in ``twisted/plugins``; BadComponent for each file there that cannot be imported.

    `twisted.plugin.getPlugins` would log such a file and go on: here its component might be the one that keeps spam or strangers out.
    """
    known = {str(path) for path in files("Twisted") or ()}
    for module in pkgutil.iter_modules(twisted.plugins.__path__, "twisted.plugins."):
        if f"{module.name.replace('.', '/')}.py" in known:
            continue  # Twisted's own have nothing for us, and some warn when they are imported
        try:
            contents = vars(import_module(module.name))
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            yield BadComponent(f"drop-in {module.name} cannot be imported: {_one_line(problem)}", _traceback(problem))
            continue
        for found in list(contents.values()):
            if IPlugin.providedBy(found) and IComponentFactory.providedBy(found):
                yield _Candidate(found.name, f"drop-in {module.name}", found.component)


def find(name: str, *interfaces: InterfaceClass) -> type:
    """The class called ``name`` that implements at least one of the interfaces. Raises BadComponent.

    Drop-ins are looked at when no entry point fits; then every broken file among them is an error, as it may hold what is sought.
    """
    if ":" in name:
        candidates = [_Candidate(name, "named by its class", name)]
    else:
        prefixes = ["", *(_OF_A_ROLE[one] for one in interfaces if one in _OF_A_ROLE)]
        candidates = [one for prefix in prefixes for one in _entry_points(prefix + name)]
    classes = [(one, one.load()) for one in candidates]
    fitting = _fitting(classes, interfaces)
    if not fitting and ":" not in name:
        dropped = list(_drop_ins())
        for one in dropped:
            if isinstance(one, BadComponent):
                raise one
            if one.name == name:
                classes.append((one, one.load()))
        fitting = _fitting(classes, interfaces)
        if not classes:
            known = {one.name for one in [*_entry_points(), *dropped] if isinstance(one, _Candidate)}
            raise BadComponent(f'there is no component "{name}"{nearest(name, known)}')
    if not fitting:
        wanted = _ROLES.get(interfaces[0], "policy")
        is_one = " and ".join(sorted({role for _, cls in classes for role in _roles(cls)})) or "nothing that mailgw knows"
        raise BadComponent(f'component "{name}" is no {wanted}, but {is_one}')
    if len(fitting) > 1:
        doors = " and ".join(one.door for one, _ in fitting)
        raise BadComponent(f'"{name}" is the name of two components, {doors}: say which one as "module:Class"')
    return fitting[0][1]


def _fitting(classes: Sequence[tuple[_Candidate, type]], interfaces: Sequence[InterfaceClass]) -> list[tuple[_Candidate, type]]:
    return [(one, cls) for one, cls in classes if any(interface.implementedBy(cls) for interface in interfaces)]


def _roles(cls: type) -> set[str]:
    return {f"a {_ROLES.get(one, 'gateway' if one is IDomainGateway else 'policy')}" for one in _CONTRACTS if one.implementedBy(cls)}


def build(
    part: Part, interfaces: Sequence[InterfaceClass], house: Mapping[InterfaceClass, object], context: Context, report: Report
) -> Any:
    """Make the component that a table describes; None where that is not possible, which is reported.

    ``interfaces``: it must implement at least one of them, and is verified for each that it implements. ``house``: the providers
    for its `given` fields.
    """
    at = (*part.at, "type")
    try:
        cls = find(part.type, *interfaces)
        settings = settings_of(cls)
    except BadComponent as problem:
        report.error(at, str(problem), of=part.at, detail=problem.detail)
        return None
    except (NameError, TypeError, AttributeError) as problem:
        report.error(at, f'component "{part.type}" has a field whose type cannot be resolved: {problem}', of=part.at)
        return None
    before = len(report.errors)
    for name in sorted(part.reserved & settings.keys()):
        report.error(at, f'component "{part.type}" has a setting "{name}", a key that mailgw itself reads here', of=part.at)
    arguments = fill(cls, part.settings, part.at, context, report, also=part.reserved)
    for field in attrs.fields(cls):
        interface = given_interface(field)
        if interface is None:
            continue
        if interface in house:
            arguments[field.alias or field.name] = house[interface]
        else:
            report.error(at, f'component "{part.type}" needs {interface.__name__}, which is not provided here', of=part.at)
    if len(report.errors) > before:
        return None
    try:
        component = cls(**arguments)
    except (ValueError, TypeError, OSError) as problem:
        report.error(part.at, _said(problem))
        return None
    except Exception as problem:
        report.error(at, f'component "{part.type}" cannot be made: {_one_line(problem)}', of=part.at, detail=_traceback(problem))
        return None
    for contract in [interface for interface in interfaces if interface.implementedBy(cls)]:
        try:
            verifyObject(contract, component)
        except Invalid as problem:
            report.error(at, f'component "{part.type}" breaks its contract: {" ".join(str(problem).split())}', of=part.at)
            return None
    return component


def _said(problem: Exception) -> str:
    if isinstance(problem, OSError) and problem.strerror:
        return f"{problem.filename}: {problem.strerror}" if problem.filename else problem.strerror
    return str(problem)


@frozen
class Setting:
    """One setting of a component, for lists."""

    name: str
    type: str
    default: str | None  # as text; None: it must be said


@frozen
class Listing:
    """One component, as `mailgw components` shows it."""

    name: str
    door: str
    interfaces: tuple[str, ...] = ()
    module: str = ""  # "module:Class"
    summary: str = ""  # the first line of its docstring
    settings: tuple[Setting, ...] = ()
    problem: str = ""  # why it cannot be used
    detail: str = ""  # the traceback


def catalogue() -> list[Listing]:
    """All components that have a name, by name; also those that cannot be used."""
    listings = []
    for one in [*_entry_points(), *_drop_ins()]:
        if isinstance(one, BadComponent):
            listings.append(Listing("", "drop-in", problem=str(one), detail=one.detail))
            continue
        try:
            listings.append(_listing(one, one.load()))
        except BadComponent as problem:
            listings.append(Listing(one.name, one.door, problem=str(problem), detail=problem.detail))
    return sorted(listings, key=lambda listing: (listing.name, listing.door))


def _listing(one: _Candidate, cls: type) -> Listing:
    try:
        settings = settings_of(cls)
    except (NameError, TypeError, AttributeError) as problem:
        raise BadComponent(f'component "{one.name}" has a field whose type cannot be resolved: {problem}') from None
    return Listing(
        one.name,
        one.door,
        tuple(interface.__name__ for interface in _CONTRACTS if interface.implementedBy(cls)),
        f"{cls.__module__}:{cls.__qualname__}",
        (inspect.getdoc(cls) or "").partition("\n")[0],
        tuple(Setting(name, type_name(field.type), _default(field)) for name, field in settings.items()),
    )


def _default(field: "attrs.Attribute[Any]") -> str | None:
    if field.default is attrs.NOTHING:
        return None
    default: Any = field.default
    if hasattr(default, "takes_self"):  # an attrs.Factory
        return "" if default.takes_self else str(default.factory())
    return str(default)
