"""Text that header fields carry in other clothes: encoded words (RFC 2047)."""

import re
from base64 import b64decode
from binascii import a2b_qp

__all__ = ["decoded"]

# No alternative begins again within what another has read, so the time is in proportion to the text.
_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bq])\?([^?]*)\?=", re.IGNORECASE)
_BETWEEN = re.compile(r"(?<=\?=)\s+(?==\?)")
_MOST = 1000  # characters of one word; RFC 2047 §2 allows 75


def decoded(value: bytes | str) -> str:
    """The text of a field's value as its reader sees it; what cannot be decoded stays as it is.

    Word for word: a character in two words, which RFC 2047 §5 forbids, becomes replacement characters.
    """
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if "=?" not in text:
        return text
    return _WORD.sub(_word, _BETWEEN.sub("", text))


def _word(match: re.Match[str]) -> str:
    charset, encoding, text = match.groups()
    if len(text) > _MOST:
        return match[0]
    try:
        octets = a2b_qp(text, header=True) if encoding in "qQ" else b64decode(text + "=" * (-len(text) % 4))
        return octets.decode(charset.partition("*")[0], "replace")  # RFC 2231 §5: a language may follow
    except (LookupError, ValueError):
        return match[0]
