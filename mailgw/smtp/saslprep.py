"""SASLprep (RFC 4013): the one spelling of names and passwords in which they are compared."""

import stringprep
import unicodedata
from functools import lru_cache

__all__ = ["NotPrepared", "saslprep"]

_PROHIBITED = (  # RFC 4013 §2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class NotPrepared(ValueError):
    """The text holds what no name and no password may hold. The message does not repeat it."""


@lru_cache(maxsize=0x200)
def _is_prohibited(character: str) -> bool:
    return any(table(character) for table in _PROHIBITED)


def saslprep(text: str) -> str:
    """The text in its one spelling. Raises NotPrepared.

    As for a query (RFC 3454 §7): characters that are younger than Unicode 3.2 pass as they are, so that an emoji may be part of a
    password. `scramp.utils.saslprep` refuses them, and is the same otherwise.
    """
    if text.isascii():
        if not text.isprintable():
            raise NotPrepared("control characters are not allowed")
        return text
    mapped = "".join(" " if stringprep.in_table_c12(one) else one for one in text if not stringprep.in_table_b1(one))
    prepared = unicodedata.ucd_3_2_0.normalize("NFKC", mapped)
    if any(_is_prohibited(one) for one in prepared):
        raise NotPrepared("characters are not allowed")
    if any(stringprep.in_table_d1(one) for one in prepared):  # RFC 3454 §6: written from right to left, so all of it is
        ends = stringprep.in_table_d1(prepared[0]) and stringprep.in_table_d1(prepared[-1])
        if not ends or any(stringprep.in_table_d2(one) for one in prepared):
            raise NotPrepared("the directions of writing are mixed")
    return prepared
