"""The parts of a message that have a name or could be a file (RFC 2045, RFC 2183), as a mail program would see them."""

import re
from collections.abc import Iterator
from email import policy
from email.message import Message
from email.parser import BytesFeedParser
from email.utils import collapse_rfc2231_value

from attrs import frozen

from mailgw.policies.encoded_words import decoded
from mailgw.values.content import Content

__all__ = ["MimePart", "Unseen", "parts_of"]

_MULTIPART = re.compile(rb"content-type\s*:\s*multipart/", re.IGNORECASE)
_MOST_NESTED = 50
_MOST_WORK = 10_000_000  # lines, each counted once for each multipart: the parser looks at each line as often as it is nested
_MOST_FIELD = 8192  # octets of a field with parameters: their parser takes the square of it


class Unseen(Exception):
    """The message cannot be taken apart; the text says why."""


@frozen
class MimePart:
    """A leaf of the tree of parts."""

    number: int  # in the message, from 1, as its leaves come
    type: str  # "application/zip", in lower case
    names: tuple[str, ...]  # that a mail program might give it
    data: bytes  # decoded


def parts_of(content: Content, most: int) -> Iterator[MimePart]:
    """Take a message apart; at most so many parts. It takes time in proportion to the message: not for the reactor's thread.

    Raises Unseen, OSError.
    """
    parser = BytesFeedParser(policy=policy.compat32)
    multiparts, lines, tail = 0, 0, b""
    try:
        for chunk in content.chunks():
            multiparts += sum(1 for _ in _MULTIPART.finditer(tail + chunk))
            tail = chunk[-24:]
            lines += chunk.count(b"\n")
            if multiparts > _MOST_NESTED or multiparts * lines > _MOST_WORK:
                raise Unseen("it has too many multiparts for its size")
            parser.feed(chunk)
        message = parser.close()
        number = 0
        for part in message.walk():
            if part.is_multipart():
                continue
            number += 1
            if number > most:
                raise Unseen("it has too many parts")
            yield _part(number, part)
    except RecursionError:
        raise Unseen("its parts are nested too deep") from None


def _part(number: int, part: Message) -> MimePart:
    names: dict[str, None] = {}
    for field, value in part.items():
        parameter = _PARAMETERS.get(field.lower())
        if parameter is None:
            continue
        text = str(value)
        if len(text) > _MOST_FIELD:
            raise Unseen(f"the {field}: field of part {number} is too long")
        alone = Message()
        alone["x"] = text
        given = alone.get_param(parameter, header="x")
        if given:
            names[decoded(collapse_rfc2231_value(given)).strip()] = None
    data = part.get_payload(decode=True)
    return MimePart(number, part.get_content_type(), tuple(names), data if isinstance(data, bytes) else b"")


_PARAMETERS = {"content-disposition": "filename", "content-type": "name"}
