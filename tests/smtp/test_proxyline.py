"""PROXY headers of both versions: what they mean, what they must not be, and that no cut of them makes a difference."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.proxyline import LOCAL, MAX_HEADER, BadProxyHeader, ProxyHeader, read_proxy_header

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = IPv4Address("203.0.113.7").packed + IPv4Address("192.0.2.1").packed + b"\x9c\x40\x00\x19"
V6 = IPv6Address("2001:db8::7").packed + IPv6Address("2001:db8::1").packed + b"\x9c\x40\x00\x19"
FROM_V4 = {"source": (IPv4Address("203.0.113.7"), 40000), "destination": (IPv4Address("192.0.2.1"), 25)}
FROM_V6 = {"source": (IPv6Address("2001:db8::7"), 40000), "destination": (IPv6Address("2001:db8::1"), 25)}


def v2(command, protocol, rest=b"", size=None):
    return SIGNATURE + bytes([command, protocol]) + (len(rest) if size is None else size).to_bytes(2, "big") + rest


GOOD = {
    "v1, IPv4": (b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25\r\n", FROM_V4),
    "v1, IPv6": (b"PROXY TCP6 2001:db8::7 2001:DB8:0::1 40000 25\r\n", FROM_V6),
    "v1, ports at their ends": (
        b"PROXY TCP4 203.0.113.7 192.0.2.1 0 65535\r\n",
        {"source": (IPv4Address("203.0.113.7"), 0), "destination": (IPv4Address("192.0.2.1"), 65535)},
    ),
    "v1, longest": (b"PROXY UNKNOWN " + b" ".join([b"f" * 39, b"f" * 39, b"65535", b"65535"]) + b"\r\n", {}),
    "v1, unknown": (b"PROXY UNKNOWN\r\n", {}),
    "v1, unknown and more": (b"PROXY UNKNOWN \xff whatever\r\n", {}),
    "v2, IPv4": (v2(0x21, 0x11, V4), FROM_V4),
    "v2, IPv6": (v2(0x21, 0x21, V6), FROM_V6),
    "v2, with TLVs": (v2(0x21, 0x11, V4 + b"\x02\x00\x0bexample.org" + b"\x04\x00\x01\x00"), FROM_V4),
    "v2, with many TLVs": (v2(0x21, 0x21, V6 + b"\x04\x0f\xd9" + b"x" * 4057), FROM_V6),
    "v2, local": (v2(0x20, 0x00), {"local": True}),
    "v2, local with addresses": (v2(0x20, 0x11, V4), {"local": True}),
    "v2, local of no family": (v2(0x20, 0xFF, b"x"), {"local": True}),
    "v2, unspecified": (v2(0x21, 0x00), {}),
    "v2, unspecified with TLVs": (v2(0x21, 0x00, b"\x04\x00\x01\x00"), {}),
    "v2, UDP": (v2(0x21, 0x12, V4), {}),
    "v2, Unix": (v2(0x21, 0x31, b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")), {}),
}


@pytest.mark.parametrize(("octets", "meaning"), GOOD.values(), ids=GOOD)
def test_a_header(octets, meaning):
    expected = ProxyHeader(len(octets), **meaning)
    assert read_proxy_header(octets) == expected
    assert read_proxy_header(octets + b"EHLO client\r\n") == expected
    assert [read_proxy_header(octets[:end]) for end in range(len(octets))] == [None] * len(octets)


def test_the_header_for_oneself():
    assert read_proxy_header(LOCAL) == ProxyHeader(len(LOCAL), local=True)


BAD = {
    "SMTP": b"E",
    "TLS": b"\x16\x03\x01",
    "v1, lower case": b"p",
    "v1, other word": b"PROXZ",
    "v1, other word after the first": b"PROXY\r\n",
    "v1, other family": b"PROXY UDP4 203.0.113.7 192.0.2.1 40000 25\r\n",
    "v1, unknown without a blank": b"PROXY UNKNOWNS\r\n",
    "v1, IPv6 as IPv4": b"PROXY TCP4 2001:db8::7 2001:db8::1 40000 25\r\n",
    "v1, IPv4 as IPv6": b"PROXY TCP6 203.0.113.7 192.0.2.1 40000 25\r\n",
    "v1, no address": b"PROXY TCP4 203.0.113.777 192.0.2.1 40000 25\r\n",
    "v1, zeros in front": b"PROXY TCP4 203.0.113.007 192.0.2.1 40000 25\r\n",
    "v1, scope": b"PROXY TCP6 fe80::1%eth0 fe80::2 40000 25\r\n",
    "v1, port too high": b"PROXY TCP4 203.0.113.7 192.0.2.1 65536 25\r\n",
    "v1, port with a zero in front": b"PROXY TCP4 203.0.113.7 192.0.2.1 040 25\r\n",
    "v1, negative port": b"PROXY TCP4 203.0.113.7 192.0.2.1 -1 25\r\n",
    "v1, a port too few": b"PROXY TCP4 203.0.113.7 192.0.2.1 40000\r\n",
    "v1, a word too many": b"PROXY TCP4 203.0.113.7 192.0.2.1 40000 25 \r\n",
    "v1, two blanks": b"PROXY TCP4  203.0.113.7 192.0.2.1 40000 25\r\n",
    "v1, bare LF inside": b"PROXY TCP4 203.0.113.7\n192.0.2.1 40000 25\r\n",
    "v1, too long": b"PROXY UNKNOWN ".ljust(107, b"x"),
    "v1, too long with its end": b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n",
    "v2, signature with a fault": SIGNATURE[:-1] + b"\r",
    "v2, version 1": v2(0x11, 0x11, V4),
    "v2, version 3": v2(0x31, 0x11, V4),
    "v2, other command": v2(0x22, 0x11, V4),
    "v2, other family": v2(0x21, 0x41, V4),
    "v2, other transport": v2(0x21, 0x13, V4),
    "v2, family without transport": v2(0x21, 0x10, V4),
    "v2, IPv4 too short": v2(0x21, 0x11, V4[:-1]),
    "v2, IPv6 too short": v2(0x21, 0x21, V4),
    "v2, Unix too short": v2(0x21, 0x31, V4),
    "v2, too long": v2(0x21, 0x11, size=4097),
    "v2, local and too long": v2(0x20, 0x00, size=65535),
}


@pytest.mark.parametrize("octets", BAD.values(), ids=BAD)
def test_no_header(octets):
    with pytest.raises(BadProxyHeader):
        read_proxy_header(octets)


def outcome(octets):
    try:
        return read_proxy_header(octets)
    except BadProxyHeader:
        return "bad"


ODD = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=60).map(lambda rest: SIGNATURE + rest),
    st.binary(max_size=120).map(lambda rest: b"PROXY " + rest),
    st.binary(max_size=40).map(lambda rest: SIGNATURE + b"\x21\x11" + rest),
)


@given(ODD)
def test_what_is_decided_stays_decided(octets):
    outcomes = [outcome(octets[:end]) for end in range(len(octets) + 1)]
    decided = [one for one in outcomes if one is not None]
    # No octet that follows changes the meaning or the length; and what is decided is decided by the shortest beginning.
    assert all(one == decided[0] for one in decided)
    assert outcomes == [None] * (len(outcomes) - len(decided)) + decided


@given(ODD)
def test_it_never_waits_for_more_than_the_bound(octets):
    assert outcome(octets.ljust(MAX_HEADER, b"x")) is not None


ADDRESSES = st.one_of(st.tuples(st.ip_addresses(v=4), st.ip_addresses(v=4)), st.tuples(st.ip_addresses(v=6), st.ip_addresses(v=6)))
PORTS = st.integers(0, 65535)


@given(ADDRESSES, PORTS, PORTS, st.binary(max_size=30))
def test_every_address_is_read_as_it_was_written(addresses, source_port, destination_port, behind):
    source, destination = addresses
    meaning = {"source": (source, source_port), "destination": (destination, destination_port)}
    line = f"PROXY TCP{source.version} {source} {destination} {source_port} {destination_port}\r\n".encode()
    assert read_proxy_header(line + behind) == ProxyHeader(len(line), **meaning)
    ports = source_port.to_bytes(2, "big") + destination_port.to_bytes(2, "big")
    header = v2(0x21, 0x11 if source.version == 4 else 0x21, source.packed + destination.packed + ports)
    assert read_proxy_header(header + behind) == ProxyHeader(len(header), **meaning)
