"""SPF records (RFC 7208 §4.5, §5, §6): the text of one, read into mechanisms and modifiers. What is wrong anywhere makes it useless."""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Literal

from attrs import frozen

from mailgw.senderauth.spf_macros import BadRecord, parse_macros

__all__ = ["Mechanism", "SpfRecord", "is_spf", "parse_record"]

Qualifier = Literal["+", "-", "~", "?"]

_TERM = re.compile(r"([-+~?]?)([A-Za-z][A-Za-z0-9_.\-]*)(?:([=:/])(.*))?\Z", re.DOTALL)
_PREFIX = re.compile(r"(?:0|[1-9][0-9]{0,2})\Z")
_DUAL_CIDR = re.compile(r"(.*?)(?:/(0|[1-9][0-9]?))?(?://(0|[1-9][0-9]{0,2}))?\Z", re.DOTALL)
_LDH = re.compile(r"[A-Za-z0-9\-]+\Z")
# Macro by macro from the beginning: in "a%%-" the last two characters are none.
_MACRO_END = re.compile(r"(?:[^%]|%(?:\{[^{}]*\}|[%_\-]))*?%(?:\{[^{}]*\}|[%_\-])\Z")
_NAMES = ("all", "include", "a", "mx", "ptr", "ip4", "ip6", "exists")


@frozen
class Mechanism:
    """``-include:_spf.example.org``."""

    text: str  # as it stands in the record
    qualifier: Qualifier
    name: str  # in lower case
    domain: str = ""  # domain-spec, with its macros; empty: the current domain
    network: IPv4Network | IPv6Network | None = None  # of ip4 and ip6
    prefix4: int = 32
    prefix6: int = 128


@frozen
class SpfRecord:
    """All of a record that matters."""

    text: str
    mechanisms: Sequence[Mechanism]
    redirect: str = ""  # domain-spec
    exp: str = ""  # domain-spec


def is_spf(text: bytes) -> bool:
    """Whether a TXT record is one for SPF version 1 (§4.5)."""
    return text[:6].lower() == b"v=spf1" and text[6:7] in (b"", b" ")


def parse_record(text: bytes) -> SpfRecord:
    """Read a record that `is_spf`. Raises BadRecord."""
    return _parse_again(text) if len(text) <= _OFTEN else _parse(text)


def _parse(text: bytes) -> SpfRecord:
    try:
        plain = text.decode("ascii")
    except UnicodeDecodeError:
        raise BadRecord("it has characters beyond ASCII") from None
    mechanisms: list[Mechanism] = []
    modifiers: dict[str, str] = {}
    for term in plain[6:].split(" "):
        if not term:
            continue
        match = _TERM.match(term)
        if match is None:
            raise BadRecord(f'"{term}" is neither mechanism nor modifier')
        qualifier, name, separator, rest = match[1], match[2].lower(), match[3] or "", match[4] or ""
        if separator == "=":
            if qualifier:
                raise BadRecord(f'"{term}": a modifier has no qualifier')
            _modifier(term, name, rest, modifiers)
        else:
            mechanisms.append(_mechanism(term, qualifier, name, separator, rest))
    return SpfRecord(plain, mechanisms, modifiers.get("redirect", ""), modifiers.get("exp", ""))


# The same few senders write every day. A stranger's long records would fill the memory.
_OFTEN = 1000  # octets
_parse_again = lru_cache(maxsize=500)(_parse)


def _modifier(term: str, name: str, value: str, modifiers: dict[str, str]) -> None:
    if name in ("redirect", "exp"):
        if name in modifiers:
            raise BadRecord(f'"{name}=" stands there twice')
        modifiers[name] = _domain_spec(term, value)
    else:
        parse_macros(value)  # unknown modifiers say nothing, but must be well-formed (§6)


def _mechanism(term: str, qualifier: str, name: str, separator: str, rest: str) -> Mechanism:
    if name not in _NAMES:
        raise BadRecord(f'"{term}": there is no such mechanism')
    sign: Qualifier = qualifier or "+"  # type: ignore[assignment]
    if name == "all":
        if separator:
            raise BadRecord(f'"{term}": "all" stands alone')
        return Mechanism(term, sign, name)
    if name in ("ip4", "ip6"):
        if separator != ":":
            raise BadRecord(f'"{term}" needs an address')
        return Mechanism(term, sign, name, network=_network(term, name, rest))
    domain = separator + rest if separator == "/" else rest
    prefix4, prefix6 = 32, 128
    if name in ("a", "mx"):
        domain, prefix4, prefix6 = _dual_cidr(term, domain)
    elif separator == "/":
        raise BadRecord(f'"{term}" takes no prefix length')
    if separator == ":" or (separator == "/" and domain):
        domain = _domain_spec(term, domain)
    elif name in ("include", "exists"):
        raise BadRecord(f'"{term}" needs a domain')
    return Mechanism(term, sign, name, domain, None, prefix4, prefix6)


def _dual_cidr(term: str, text: str) -> tuple[str, int, int]:
    match = _DUAL_CIDR.match(text)
    assert match is not None
    if match[1].endswith("/") or re.search(r"/[0-9]*\Z", match[1]):
        raise BadRecord(f'"{term}": that is no prefix length')
    prefix4, prefix6 = int(match[2] or 32), int(match[3] or 128)
    if prefix4 > 32 or prefix6 > 128:
        raise BadRecord(f'"{term}": that prefix is too long')
    return match[1], prefix4, prefix6


def _network(term: str, name: str, text: str) -> IPv4Network | IPv6Network:
    address, slash, length = text.partition("/")
    most = 32 if name == "ip4" else 128
    if slash and not (_PREFIX.match(length) and int(length) <= most):
        raise BadRecord(f'"{term}": that is no prefix length')
    try:
        if name == "ip4":
            return IPv4Network((int(IPv4Address(address)), int(length or most)), strict=False)
        if "%" in address:
            raise AddressValueError
        return IPv6Network((int(IPv6Address(address)), int(length or most)), strict=False)
    except ValueError:
        raise BadRecord(f'"{term}": that is no IPv{name[2]} address') from None


def _domain_spec(term: str, text: str) -> str:
    """A domain-spec ends with a macro or with a top label that is no number (§7.1)."""
    if not text:
        raise BadRecord(f'"{term}" needs a domain')
    parse_macros(text)
    if not _MACRO_END.match(text):
        _, dot, top = text.removesuffix(".").rpartition(".")
        if not dot or not _LDH.match(top) or top.isdigit() or "-" in (top[0], top[-1]):
            raise BadRecord(f'"{term}" does not end with a domain')
    return text
