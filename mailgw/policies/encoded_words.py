"""Text that header fields carry in other clothes: encoded words (RFC 2047)."""

import re
from base64 import b64decode
from binascii import a2b_qp
from codecs import lookup

__all__ = ["decoded", "text_in"]

# No alternative begins again within what another has read, so the time is in proportion to the text.
_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_BETWEEN = re.compile(r"(?<=\?=)\s+(?==\?)")
_MOST = 8192  # characters of one word; RFC 2047 §2 allows 75, and mail programs take more
# What Python calls codecs and mail calls no charset: the time that they take is the square of the text.
_NO_CHARSETS = frozenset({"punycode", "idna"})


def decoded(value: bytes | str) -> str:
    """The text of a field's value as its reader sees it; what cannot be decoded stays as it is.

    Word for word: a character in two words, which RFC 2047 §5 forbids, becomes replacement characters.
    """
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if "=?" not in text:
        return text
    return _WORD.sub(_word, _BETWEEN.sub("", text))


def text_in(octets: bytes, charset: str) -> str:
    """The octets as text of that character set. Raises LookupError where there is none of that name, and ValueError."""
    if lookup(charset).name in _NO_CHARSETS:
        raise LookupError(charset)
    return octets.decode(charset, "replace")


def _word(match: re.Match[str]) -> str:
    charset, encoding, text = match.groups()
    if len(text) > _MOST:
        return match[0]
    try:
        octets = a2b_qp(text, header=True) if encoding in "qQ" else b64decode(text + "=" * (-len(text) % 4))
        return text_in(octets, charset.partition("*")[0])  # RFC 2231 §5: a language may follow
    except (LookupError, ValueError):
        return match[0]
