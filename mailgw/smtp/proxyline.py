"""What a load balancer says about a client before the client is heard: the PROXY protocol, versions 1 and 2, without a socket.

Source: HAProxy's ``proxy-protocol.txt``; sections are those of its revision of 2020/03/05.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from attrs import frozen

__all__ = ["LOCAL", "MAX_HEADER", "BadProxyHeader", "Origin", "ProxyHeader", "read_proxy_header"]

Origin: TypeAlias = tuple[IPv4Address | IPv6Address, int]
"""An address and a port."""

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"  # §2.2: nothing that SMTP, TLS or version 1 could begin with
_MAX_V1 = 107  # octets with the line end (§2.1)
_FIXED_V2 = 16  # octets before the addresses
_MAX_V2 = 4096  # octets of addresses and TLVs; the balancers in use send some hundred
MAX_HEADER = _FIXED_V2 + _MAX_V2

_V1 = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\Z")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?\Z", re.DOTALL)

_TCP4, _TCP6 = 0x11, 0x21
LOCAL = _SIGNATURE + b"\x20\x00\x00\x00"
"""A whole header: whoever sends it speaks for itself."""
_ADDRESSES = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}  # octets, by family and transport (§2.2)


class BadProxyHeader(ValueError):
    """What was sent is no PROXY header, nor the beginning of one. The message says why."""


@frozen
class ProxyHeader:
    """Whose connection it is."""

    length: int  # octets of the header: what follows is the client's
    local: bool = False  # the balancer's own connection, as for its health checks
    source: Origin | None = None  # the client; None: the balancer does not know, or it is no TCP
    destination: Origin | None = None  # where the client connected to


def read_proxy_header(data: bytes) -> ProxyHeader | None:
    """Read the header at the beginning of ``data``; None where it is not complete yet. Raises BadProxyHeader.

    It never wants more than `MAX_HEADER` octets.
    """
    if data[:1] == b"P":
        return _read_v1(data)
    if data.startswith(_SIGNATURE):
        return _read_v2(data)
    if not _SIGNATURE.startswith(data):
        raise BadProxyHeader("it does not begin like one")
    return None


def _read_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _MAX_V1)
    if end < 0:
        if not b"PROXY ".startswith(data[:6]):
            raise BadProxyHeader("it does not begin like one")
        if len(data) >= _MAX_V1:
            raise BadProxyHeader("its line is longer than 107 octets")
        return None
    line = data[:end]
    match = _V1.match(line)
    if match is None:
        if not _V1_UNKNOWN.match(line):
            raise BadProxyHeader("its line is malformed")
        return ProxyHeader(end + 2)  # §2.1: what follows UNKNOWN is ignored
    kind = IPv4Address if match[1] == b"4" else IPv6Address
    ports = int(match[4]), int(match[5])
    try:
        source, destination = kind(match[2].decode()), kind(match[3].decode())
    except ValueError:
        raise BadProxyHeader("its line has an address that is none") from None
    if max(ports) > 65535:
        raise BadProxyHeader("its line has a port that is none")
    return ProxyHeader(end + 2, source=(source, ports[0]), destination=(destination, ports[1]))


def _read_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < _FIXED_V2:
        return None
    command, protocol, size = data[12], data[13], int.from_bytes(data[14:16], "big")
    if command not in (0x20, 0x21):
        raise BadProxyHeader("its version is not 2, or its command is neither LOCAL nor PROXY")
    if size > _MAX_V2:
        raise BadProxyHeader(f"it is longer than {MAX_HEADER} octets")
    local = command == 0x20
    if not local:
        if protocol not in _ADDRESSES:
            raise BadProxyHeader("its address family or transport is none")
        if size < _ADDRESSES[protocol]:
            raise BadProxyHeader("it has no room for its addresses")
    length = _FIXED_V2 + size
    if len(data) < length:
        return None
    # §2.2: with LOCAL the rest is ignored; what is no TCP counts as UNSPEC. The TLVs behind the addresses are skipped.
    if not local and protocol == _TCP4:
        return _with_addresses(length, IPv4Address(data[16:20]), IPv4Address(data[20:24]), data[24:28])
    if not local and protocol == _TCP6:
        return _with_addresses(length, IPv6Address(data[16:32]), IPv6Address(data[32:48]), data[48:52])
    return ProxyHeader(length, local)


def _with_addresses(
    length: int, source: IPv4Address | IPv6Address, destination: IPv4Address | IPv6Address, ports: bytes
) -> ProxyHeader:
    return ProxyHeader(
        length,
        source=(source, int.from_bytes(ports[:2], "big")),
        destination=(destination, int.from_bytes(ports[2:], "big")),
    )
