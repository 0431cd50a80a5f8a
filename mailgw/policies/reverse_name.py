"""The names that a client's address has in the DNS, which of them leads back to it, and to whom that one belongs."""

import re
from functools import cache
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, NamedTuple

from mailgw.interfaces import IResolver

if TYPE_CHECKING:
    from publicsuffixlist import PublicSuffixList

__all__ = ["ReverseName", "is_assigned", "registered_domain", "reverse_name"]

_MOST_NAMES = 10  # of an address: an answer with hundreds must not cost hundreds of questions


class ReverseName(NamedTuple):
    """What `reverse_name` found."""

    names: tuple[str, ...]  # that the address has, without the last dot; none: ()
    confirmed: str  # the first of them, by the alphabet, that has the address; "": none has


async def reverse_name(resolver: IResolver, ip: IPv4Address | IPv6Address, most: int = _MOST_NAMES) -> ReverseName:
    """Forward-confirmed reverse DNS (RFC 8601 §2.7.3) of an address, with its first names only. Raises LookupFailed."""
    # The DNS gives them in any order, and turns it: what follows from a name must be the same tomorrow.
    said = (await resolver.lookup(ip.reverse_pointer, "PTR")).records
    names = tuple(sorted((name.rstrip(".") for name in said), key=str.lower)[:most])
    kind = "A" if ip.version == 4 else "AAAA"
    for name in names:
        if ip in (await resolver.lookup(name, kind)).records:
            return ReverseName(names, name)
    return ReverseName(names, "")


def registered_domain(name: str) -> str:
    """The domain that somebody has registered: ``"mail.example.co.uk"`` → ``"example.co.uk"``; "" where a name is nobody's.

    By the list of public suffixes (publicsuffix.org), its private part included: below the name of a hoster, each customer is alone.
    """
    return _suffixes().privatesuffix(name.lower()) or ""


def is_assigned(name: str, ip: IPv4Address | IPv6Address) -> bool:
    """Whether the name carries the whole address, as a provider's for its customers' lines: ``192-0-2-7.dsl.example.net``."""
    if ip.version == 4:
        numbers = [str(int(digits)) for digits in re.findall(r"\d{1,9}", name)]
        if all(numbers.count(octet) >= str(ip).split(".").count(octet) for octet in str(ip).split(".")):
            return True
    return ip.packed[-8:].hex() in name.lower().replace("-", "").replace(".", "").replace(":", "")


@cache
def _suffixes() -> "PublicSuffixList":
    # Here and not above: the list takes 70 ms to read, and few need it.
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
