"""Gateways that name other gateways: looked up by name, checked at the start."""

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
from attrs import define, field
from zope.interface import implementer

from mailgw.config.model import Configuration
from mailgw.interfaces import IAskableGateway, IDomainGateway, IGateway, IGateways
from mailgw.problems import Place, Report, nearest
from mailgw.settings import Part
from mailgw.values.delivery import AskedGateway, GatewayName

__all__ = ["Gateways", "cannot_be_asked", "check_members", "check_named"]


@implementer(IGateways)
@define
class Gateways:
    """What gateways and policies get for ``given(IGateways)``; ``by_name`` is filled while they are made."""

    by_name: dict[str, IGateway] = field(factory=dict)

    def __getitem__(self, name: str) -> IGateway:
        return self.by_name[name]

    def is_by_domain(self, name: str) -> bool:
        gateway = self.by_name[name]
        return IDomainGateway.providedBy(gateway) or any(self.is_by_domain(member) for _, member in _named(gateway))


def check_members(configuration: Configuration, gateways: Gateways, report: Report) -> frozenset[str]:
    """See that the names in gateways' settings are those of gateways and lead in no circle; give the names."""
    members = {name: list(_named(gateway)) for name, gateway in gateways.by_name.items()}
    for name, named in members.items():
        part = configuration.gateway[name].part
        for below, member in named:
            key, *rest = below
            # A single name may stand where a list is wanted, and has no place of its own then.
            at = (*part.at, key, *(rest if not isinstance(part.settings.get(str(key)), str) else ()))
            if member not in configuration.gateway:
                report.error(at, f"there is no [gateway.{member}]{nearest(member, configuration.gateway)}")
            elif way := _way(member, name, members):
                report.error(at, f"leads back to this gateway: {' -> '.join([name, *way])}")
    return frozenset(member for named in members.values() for _, member in named)


def check_named(component: Any, part: Part, configuration: Configuration, gateways: Gateways, report: Report) -> None:
    """See that the names of gateways in a policy's or route's settings are those of gateways, and that who is asked can be."""
    for below, named in _named(component):
        if named not in configuration.gateway:
            report.error((*part.at, below[0]), f"there is no [gateway.{named}]{nearest(named, configuration.gateway)}")
        elif isinstance(named, AskedGateway) and (problem := cannot_be_asked(named, configuration, gateways)):
            report.error((*part.at, below[0]), problem)


def cannot_be_asked(name: str, configuration: Configuration, gateways: Gateways) -> str:
    """Why nobody can be asked about addresses through a gateway; empty: that can be done, or the gateway could not be made."""
    if name not in gateways.by_name or IAskableGateway.providedBy(gateways.by_name[name]):
        return ""
    kind = configuration.gateway[name].part.type
    return f'"{name}" is a gateway of type "{kind}", which cannot be asked about addresses; lmtp, mx and smarthost can'


def _named(component: Any) -> Iterator[tuple[Place, GatewayName]]:
    """The names of gateways in a component's settings, and where they stand."""
    if attrs.has(type(component)):
        for one in attrs.fields(type(component)):
            if one.init:
                yield from _within(getattr(component, one.name), (one.alias or one.name,))


def _within(value: Any, at: Place) -> Iterator[tuple[Place, GatewayName]]:
    if isinstance(value, GatewayName):
        yield at, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _within(item, (*at, index))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _within(item, (*at, key))


def _way(start: str, end: str, members: Mapping[str, list[tuple[Place, GatewayName]]]) -> list[str]:
    """A way from one gateway to another along their members, or the empty list."""
    ways, seen = [[start]], {start}
    while ways:
        way = ways.pop(0)
        if way[-1] == end:
            return way
        for _, member in members.get(way[-1], []):
            if member not in seen:
                seen.add(member)
                ways.append([*way, member])
    return []
