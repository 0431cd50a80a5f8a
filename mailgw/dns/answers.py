"""What a DNS response says about one question: pure functions of its records."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import frozen
from twisted.names import dns

__all__ = ["KINDS", "Heard", "is_askable", "negative_ttl", "read"]

KINDS = {"A": dns.A, "AAAA": dns.AAAA, "MX": dns.MX, "TXT": dns.TXT, "PTR": dns.PTR, "CNAME": dns.CNAME}

_NO_SOA = 60.0  # seconds that a negative answer without an SOA record is believed
_MOST_NEGATIVE = 900.0  # RFC 2308 §5 leaves the bound to us


@frozen
class Heard:
    """The records for a name, after following the aliases that the same response has; perhaps an alias to follow further."""

    records: tuple[Any, ...]
    ttl: float  # seconds
    alias: str = ""  # set when the response ends with an alias


def is_askable(name: str) -> bool:
    """Whether the name fits into a question (RFC 1035 §2.3.4)."""
    return name.isascii() and len(name) <= 253 and all(0 < len(label) <= 63 for label in name.split("."))


def read(name: str, kind: str, answers: Sequence[dns.RRHeader], most_aliases: int = 8) -> Heard:
    """Take only what the chain of aliases from ``name`` leads to; other records in the response are not believed.

    Raises ValueError for a chain that is too long or runs in circles, and for records that make no sense.
    """
    ttl = float("inf")
    wanted = KINDS[kind]
    for _ in range(most_aliases + 1):
        own = [record for record in answers if _text(record.name) == name]
        found = [record for record in own if record.type == wanted]
        aliases = [record for record in own if record.type == dns.CNAME]
        if found or not aliases:
            ttl = min([ttl, *(float(record.ttl) for record in found)])
            # An alias that was followed to where the response ends has to be asked for itself.
            alias = name if not found and ttl != float("inf") else ""
            return Heard(tuple(_value(record.payload, kind) for record in found), ttl, alias)
        ttl = min(ttl, float(aliases[0].ttl))
        name = _value(aliases[0].payload, "CNAME")
    raise ValueError("too many aliases")


def negative_ttl(authority: Sequence[dns.RRHeader]) -> float:
    """How many seconds a negative answer may be believed: RFC 2308 §5."""
    for record in authority:
        if record.type == dns.SOA:
            soa: Any = record.payload
            return min(float(record.ttl), float(soa.minimum), _MOST_NEGATIVE)
    return _NO_SOA


def _text(name: dns.Name) -> str:
    text: str = name.name.decode("ascii", "replace")
    return text.lower().removesuffix(".")


def _value(payload: Any, kind: str) -> Any:
    match kind:
        case "A":
            return IPv4Address(payload.address)
        case "AAAA":
            return IPv6Address(payload.address)
        case "MX":
            return payload.preference, _text(payload.name)
        case "TXT":
            return b"".join(payload.data)  # RFC 7208 §3.3: several strings are one text
        case _:
            return _text(payload.name)
