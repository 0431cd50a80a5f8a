"""Who is at the other end of a connection."""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.internet.interfaces import IAddress

from mailgw.settings import Network

__all__ = ["is_within", "peer_of"]


def peer_of(address: IAddress | None) -> tuple[IPv4Address | IPv6Address, int]:
    """IP address and port; IPv4-mapped IPv6 addresses are given as IPv4, without a scope."""
    host = getattr(address, "host", "127.0.0.1")  # a Unix socket is as local as can be
    return _ip_of(host), getattr(address, "port", 0)


@lru_cache(maxsize=4096)  # gain, measured: 4 % of the CPU of a connection that brings one message
def _ip_of(host: str) -> IPv4Address | IPv6Address:
    ip = ip_address(host.partition("%")[0])
    return getattr(ip, "ipv4_mapped", None) or ip


def is_within(ip: IPv4Address | IPv6Address, networks: Sequence[Network]) -> bool:
    """Whether the address is in one of the networks."""
    return any(ip in network for network in networks)
