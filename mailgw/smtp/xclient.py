"""XCLIENT: a trusted proxy says for whom it speaks.

Source: Postfix's ``XCLIENT_README``. Taken are NAME, ADDR, PORT, PROTO, HELO, LOGIN, DESTADDR and DESTPORT; of NAME and the
destination only the syntax is looked at: a name that nobody has looked up is not believed.
"""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from mailgw.smtp.commands import BadCommand
from mailgw.smtp.events import XClient
from mailgw.values.facts import UNKNOWN_IP
from mailgw.values.reply import Reply

__all__ = ["ATTRIBUTES", "parse_xclient"]

_MAX_VALUE = 255  # characters
_XTEXT = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+\Z")  # RFC 3461 §4
_ESCAPE = re.compile(rb"\+([0-9A-F]{2})")
_UNAVAILABLE = (b"[UNAVAILABLE]", b"[TEMPUNAVAIL]")


def parse_xclient(argument: bytes) -> XClient:
    """Read what follows ``XCLIENT ``. Raises BadCommand."""
    seen: set[str] = set()
    values: dict[str, Any] = {}
    for word in argument.split():
        name, equals, value = word.partition(b"=")
        key = name.decode("ascii", "replace").upper()
        if key not in _READERS or not equals:
            raise _bad(f"XCLIENT takes name=value with the names {' '.join(ATTRIBUTES)}")
        if key in seen:
            raise _bad(f"{key} is given twice")
        seen.add(key)
        field, read = _READERS[key]
        try:
            values[field] = read(_decoded(value))
        except ValueError as problem:
            raise _bad(f"{key} {problem}") from None
    if not seen:
        raise _bad("XCLIENT takes at least one attribute")
    values.pop("", None)
    return XClient(**values)


def _bad(text: str) -> BadCommand:
    return BadCommand(Reply(501, "5.5.4", text))


def _decoded(value: bytes) -> str:
    """The text behind an xtext value; empty where it says that it is not available. Raises ValueError."""
    if not _XTEXT.match(value):
        raise ValueError("is not valid xtext")
    if value.upper() in _UNAVAILABLE:
        return ""
    try:
        text = _ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), value).decode()
    except UnicodeDecodeError:
        raise ValueError("is not valid UTF-8") from None
    if not text.isprintable() or " " in text or len(text) > _MAX_VALUE:
        raise ValueError("is too long, or hides a blank or a control character")
    return text


def _ip(text: str) -> IPv4Address | IPv6Address:
    if not text:
        return UNKNOWN_IP
    try:
        if text[:5].upper() != "IPV6:":
            return IPv4Address(text)
        if "%" in text:  # a scope means nothing to others
            raise ValueError
        address = IPv6Address(text[5:])
    except ValueError:
        raise ValueError("is neither an IPv4 address nor an IPv6 address behind IPV6:") from None
    return address.ipv4_mapped or address


def _port(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 65536):
        raise ValueError("is no port")
    return int(text)


def _is_esmtp(text: str) -> bool | None:
    if text.upper() not in ("SMTP", "ESMTP", ""):
        raise ValueError("is SMTP or ESMTP")
    return text.upper() == "ESMTP" if text else None


def _hello(text: str) -> str | None:
    return text or None


_READERS: dict[str, tuple[str, Callable[[str], Any]]] = {  # the field of `XClient`, and what reads it; "" is unavailable
    "NAME": ("", str),
    "ADDR": ("ip", _ip),
    "PORT": ("port", _port),
    "PROTO": ("esmtp", _is_esmtp),
    "HELO": ("helo", _hello),
    "LOGIN": ("login", str),
    "DESTADDR": ("", _ip),
    "DESTPORT": ("", _port),
}
ATTRIBUTES = tuple(_READERS)
