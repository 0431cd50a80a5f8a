"""From the names in a configuration or an MX record to addresses that can be dialled."""

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.abstract import isIPAddress, isIPv6Address

from mailgw.gateways.dialing import split_address
from mailgw.gateways.next_hop import NextHop
from mailgw.interfaces import IResolver, LookupFailed

__all__ = ["a_next_hop", "addresses_of", "next_hops"]


async def addresses_of(resolver: IResolver, host: str) -> list[str]:
    """All IPv6 and IPv4 addresses of a host, empty when it has none. Raises LookupFailed when none are known and one kind failed."""
    found: list[str] = []
    failed: LookupFailed | None = None
    for kind in ("AAAA", "A"):
        try:
            answer = await resolver.lookup(host, kind)
        except LookupFailed as problem:
            failed = problem
        else:
            found += [str(record) for record in answer.records]
            if not answer.name_exists:
                break
    if failed and not found:
        raise failed
    return found


async def next_hops(resolver: IResolver, addresses: Sequence[str], default_port: int) -> list[NextHop]:
    """Every address of the configured servers, in order. Raises LookupFailed when there is none, with the reason as its text."""
    hops: list[NextHop] = []
    problems: list[str] = []
    for address in addresses:
        if address.startswith("unix:"):
            hops.append(NextHop(address, "localhost", address))
            continue
        try:
            host, port = split_address(address, default_port)
        except ValueError as problem:  # a route's own next hop, which no configuration has checked
            problems.append(str(problem))
            continue
        if isIPAddress(host) or isIPv6Address(host) or host == "localhost":  # RFC 6761 §6.3: never asked of the DNS
            hops.append(NextHop(dialled(host, port), host))
            continue
        try:
            known = await addresses_of(resolver, host)
        except LookupFailed as problem:
            problems.append(f"{host} cannot be looked up now: {problem}")
        else:
            hops += [NextHop(dialled(ip, port), host, f"{host} ({ip})") for ip in known]
            if not known:
                problems.append(f"{host} has no address in the DNS")
    if not hops:
        raise LookupFailed("; ".join(problems) or "no server is configured")
    return hops


def dialled(host: str, port: int) -> str:
    """How `IDialer.dial` wants a host and port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def a_next_hop(_: Any, attribute: "attrs.Attribute[Any]", value: str | list[str]) -> None:
    """Validate a setting that holds one address or a list of them: an attrs validator. Raises ValueError."""
    addresses = [value] if isinstance(value, str) else value
    if not addresses:
        raise ValueError(f"{attribute.name} is empty")
    for address in addresses:
        if address.startswith("/"):
            raise ValueError(f'"{address}" is no address; write it like "unix:{address}"')
        if not address.startswith("unix:/"):
            split_address(address, 25)
