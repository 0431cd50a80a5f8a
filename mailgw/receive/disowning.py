"""Results of authentication that somebody else wrote in our name (RFC 8601 §5): they lose the name of the field.

The name is written over by another one of the same length, so nothing moves, however big the message is, and what was claimed can
still be read.
"""

import re
from collections.abc import Iterator
from mmap import ACCESS_WRITE, mmap

from mailgw.receive.trace import starts_folded
from mailgw.senderauth.results import is_named
from mailgw.values.content import Content

__all__ = ["INSTEAD", "LONGEST_HEADER", "EndlessHeader", "disowned"]

_NAME = b"authentication-results"
INSTEAD = b"X-Foreign-Auth-Results"
# What repeats gives nothing back: to remember where it could would take hundreds of times the memory of a long field.
_FIELD = re.compile(rb"(?:\A|[\r\n])(authentication-results)[ \t]*+:([^\r\n]*+(?:(?:\r\n|[\r\n])[ \t][^\r\n]*+)*+)", re.IGNORECASE)
LONGEST_HEADER = 1024 * 1024  # octets
_MOST_READ = 64 * 1024  # octets of all such fields of a message; those beyond are not trusted to speak for somebody else


class EndlessHeader(Exception):
    """The header section is longer than `LONGEST_HEADER`: nobody can be sure what it holds, and to look at all of it would take long."""


def disowned(content: Content, authserv_id: str) -> Content:
    """The same message, if no field in it speaks for ``authserv_id``. A file is written in place. Raises EndlessHeader, OSError."""
    original = content.original
    if isinstance(original, bytes):
        end = original.find(b"\r\n\r\n")
        head = original if end < 0 else original[:end]
        if _NAME not in head.lower() or starts_folded(content):
            return content
        places = list(_claims(head, authserv_id))
        if not places:
            return content
        changed = bytearray(original)
        for at in places:
            changed[at : at + len(INSTEAD)] = INSTEAD
        return Content(bytes(changed), content.original_size, content.added)
    if starts_folded(content):
        return content
    with original.open("r+b") as file, mmap(file.fileno(), 0, access=ACCESS_WRITE) as whole:
        end = whole.find(b"\r\n\r\n", 0, LONGEST_HEADER + 4)
        if end < 0 and len(whole) > LONGEST_HEADER:
            raise EndlessHeader
        head = whole[:] if end < 0 else whole[:end]
        if _NAME in head.lower():
            for at in _claims(head, authserv_id):
                whole[at : at + len(INSTEAD)] = INSTEAD
    return content


def _claims(head: bytes, authserv_id: str) -> Iterator[int]:
    """Where the names of such fields begin."""
    if head.startswith(b"\r\n"):
        return  # there is no header section
    left = _MOST_READ
    for match in _FIELD.finditer(head):
        start, end = match.span(2)
        left -= end - start
        if left < 0 or is_named(authserv_id, match[2].decode("utf-8", "replace")):
            yield match.start(1)
