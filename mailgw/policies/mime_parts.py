"""The parts of a message that have a name or could be a file (RFC 2045, RFC 2183), as a mail program would see them."""

import re
from collections.abc import Iterator
from email import policy
from email.message import Message
from email.parser import BytesFeedParser
from typing import Any

from attrs import frozen

from mailgw.policies.encoded_words import decoded, text_in
from mailgw.values.content import Content

__all__ = ["MimePart", "Unseen", "parts_of"]

_MULTIPART = re.compile(rb"content-type\s*:\s*multipart/", re.IGNORECASE)
_MOST_NESTED = 50
_MOST_WORK = 10_000_000  # lines, each counted once for each multipart: the parser looks at each line as often as it is nested
_MOST_LINES, _SHORT_LINE = 1_000_000, 50  # the parser keeps each line, which costs 70 octets: so many, and one for each so many octets
_MOST_FIELD = 8192  # octets of a field with parameters: their parser takes the square of it


class Unseen(Exception):
    """The message cannot be taken apart; the text says why."""


@frozen
class MimePart:
    """A leaf of the tree of parts, or another part that has a name."""

    number: int  # in the message, from 1, as they come
    type: str  # "application/zip", in lower case
    names: tuple[str, ...]  # that a mail program might give it
    data: bytes  # decoded; of a part that has parts, nothing


def parts_of(content: Content, most: int) -> Iterator[MimePart]:
    """Take a message apart; at most so many parts. It takes time in proportion to the message: not for the reactor's thread.

    Raises Unseen, OSError.
    """
    made = 0

    def make(policy: Any = None) -> Message:
        nonlocal made
        made += 1
        if made > 2 * most + _MOST_NESTED:
            raise Unseen("it has too many parts")
        return Message(policy)

    parser = BytesFeedParser(make, policy=policy.compat32)
    multiparts, lines, octets, tail = 0, 0, 0, b""
    try:
        for chunk in content.chunks():
            multiparts += sum(1 for _ in _MULTIPART.finditer(tail + chunk))
            tail = chunk[-24:]
            lines += max(chunk.count(b"\n"), chunk.count(b"\r"))  # binary content may have either alone
            octets += len(chunk)
            if multiparts > _MOST_NESTED or multiparts * lines > _MOST_WORK:
                raise Unseen("it has too many multiparts for its size")
            if lines > _MOST_LINES + octets // _SHORT_LINE:
                raise Unseen("it has too many lines for its size")
            parser.feed(chunk)
        message = parser.close()
        number = 0
        for part in message.walk():
            names, data = _names(number + 1, part), _data(number + 1, part)
            if part.is_multipart() and not names:
                continue
            number += 1
            if number > most:
                raise Unseen("it has too many parts")
            yield MimePart(number, part.get_content_type(), names, data)
    except RecursionError:
        raise Unseen("its parts are nested too deep") from None


def _names(number: int, part: Message) -> tuple[str, ...]:
    """All names that its fields give it: where there are several, mail programs do not agree on which of them counts."""
    names: dict[str, None] = {}
    for field, value in part.items():
        if field.lower() not in _NAMING:
            continue
        text = str(value)
        if len(text) > _MOST_FIELD:
            raise Unseen(f"the {field}: field of part {number} is too long")
        alone = Message()
        alone["x"] = text
        try:
            given = alone.get_params(header="x") or []
        except ValueError:  # a number of thousands of digits
            raise Unseen(f"the {field}: field of part {number} cannot be read") from None
        keys = [key.lower() for key, _ in given]
        if keys.count("boundary") > 1:
            raise Unseen(f"part {number} has more than one boundary")
        names.update((decoded(_collapsed(said)).strip(), None) for key, (_, said) in zip(keys, given, strict=True) if key in _PARAMETERS)
        # A comment may follow, which the parser takes for a part of the name.
        names.update((match[1], None) for match in _BARE_NAME.finditer(text) if match[2])
    names.pop("", None)
    return tuple(names)


def _collapsed(said: Any) -> str:
    """A parameter's value, perhaps with a character set (RFC 2231 §4)."""
    if not isinstance(said, tuple):
        return str(said)
    charset, _, text = said
    try:
        return text_in(text.encode("raw-unicode-escape"), charset or "us-ascii")
    except (LookupError, ValueError):
        return str(text)


def _data(number: int, part: Message) -> bytes:
    """The part's content, decoded; of a part that has parts, nothing."""
    if len({str(value).strip().lower() for value in part.get_all("content-type", [])}) > 1:
        raise Unseen(f"part {number} has more than one type")
    # Mail programs forgive what the parser does not: white space, quotes and comments.
    said = [_COMMENT.sub("", str(value)) for value in part.get_all("content-transfer-encoding", [])]
    encodings = {match[0].lower() for value in said if (match := _ENCODING.search(value))}
    if len(encodings) > 1:
        raise Unseen(f"part {number} has more than one transfer encoding")
    encoding = encodings.pop() if encodings else ""
    if part.is_multipart():
        if encoding in _ENCODED and part.get_content_type() in _MESSAGES:  # RFC 2046 §5.2.1 forbids it
            raise Unseen(f"part {number} is a message in {encoding}")
        return b""
    if encoding:
        part.replace_header("content-transfer-encoding", encoding)
    data = part.get_payload(decode=True)
    return data if isinstance(data, bytes) else b""


_NAMING = ("content-disposition", "content-type")
_PARAMETERS = ("filename", "name")
_BARE_NAME = re.compile(r"name\*?\s*+=\s*+([^\s\";(]++)([\s(]?)", re.IGNORECASE)  # without looking at anything twice
_ENCODED = ("base64", "quoted-printable")
_MESSAGES = ("message/rfc822", "message/global", "message/news")
_COMMENT = re.compile(r"\([^()]*\)")
_ENCODING = re.compile(r"[A-Za-z0-9-]+")
