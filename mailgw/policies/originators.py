"""Who a message says that it is from: the mailboxes of its originator fields (RFC 5322 §3.6.2)."""

from collections.abc import Iterator
from email.errors import InvalidHeaderDefect, NonPrintableDefect
from email.headerregistry import HeaderRegistry
from typing import Any

from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.content import Content

__all__ = ["Unreadable", "fields_of", "mailboxes_in"]

MOST_HEADER = 1024 * 1024  # octets of a header section that are looked at
MOST_FIELD = 4096  # octets of an originator field: about 100 mailboxes, and 0.1 s for the worst that we could think of

_REGISTRY = HeaderRegistry()


class Unreadable(ValueError):
    """A header section or field that can be read in more than one way, or in none; the text says which, fit for the peer."""


def fields_of(content: Content) -> Iterator[tuple[str, bytes]]:
    """The header fields: the name in lower case, the value with its folding. Raises Unreadable, OSError.

    White space between name and colon is allowed, as some readers allow it (RFC 5322 §4.5): nobody must see a field that we
    do not see.
    """
    header = content.header(MOST_HEADER)
    if len(header) >= MOST_HEADER:
        raise Unreadable("the header section is too long")
    name, value = "", b""
    for line in header.split(b"\r\n"):
        if b"\n" in line or b"\r" in line:  # as BODY=BINARYMIME lets it: some readers see another field behind it
            raise Unreadable("the header section has a bare CR or LF")
        if line[:1] in (b" ", b"\t"):
            value += line
            continue
        if name:
            yield name, value
        before, colon, value = line.partition(b":")
        name = before.strip().lower().decode("ascii", "replace") if colon else ""
    if name:
        yield name, value


def mailboxes_in(value: bytes) -> list[Address]:
    """All mailboxes of a From: or Sender: field, at least one. Raises Unreadable."""
    if len(value) > MOST_FIELD:
        raise Unreadable("is too long")
    text = value.decode("utf-8", "replace").strip()
    try:
        parsed: Any = _REGISTRY("From", text)
    except Exception as problem:  # the parser of the standard library stumbles over much (RecursionError, IndexError, ...)
        raise Unreadable("cannot be read") from problem
    if any(isinstance(defect, InvalidHeaderDefect | NonPrintableDefect) for defect in parsed.defects):
        raise Unreadable("cannot be read")
    try:
        mailboxes = [Address(one.username, parse_domain(one.domain)) for one in parsed.addresses]
    except BadAddress as problem:
        raise Unreadable("cannot be read") from problem
    if not mailboxes:
        raise Unreadable("names nobody")
    return mailboxes
