"""SPF macros (RFC 7208 §7): ``%{ir}.%{v}._spf.%{d2}``, read once and expanded as often as needed."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from urllib.parse import quote

from attrs import frozen

__all__ = ["BadRecord", "Macro", "MacroString", "Unspeakable", "expand", "in_reverse", "parse_macros"]

_EXPAND = re.compile(r"%(?:\{([a-zA-Z])([0-9]*)(r?)([.\-+,/_=]*)\}|([%_\-]))", re.IGNORECASE)
_LETTERS = "slodiphv"
_ONLY_IN_EXP = "crt"
_MOST_DIGITS = 9  # of a number; more parts than that nothing has
_ESCAPES = {"%": "%", "_": " ", "-": "%20"}


class BadRecord(Exception):
    """Not a valid record: "permerror". The message says what is wrong."""


class Unspeakable(Exception):
    """The expansion cannot stand in a domain name: a local-part beyond ASCII (RFC 8616 §4). What has it never matches."""


@frozen
class Macro:
    """``%{ir}``: a letter and its transformers."""

    letter: str
    digits: int | None  # how many parts, from the right
    reverse: bool
    delimiters: str

    def transform(self, value: str) -> str:
        """The value as the transformers want it (§7.3)."""
        parts = re.split(f"[{re.escape(self.delimiters or '.')}]", value)
        if self.reverse:
            parts.reverse()
        if self.digits is not None:
            parts = parts[-self.digits :]
        text = ".".join(parts)
        return quote(text, safe="-._~") if self.letter.isupper() else text


MacroString = Sequence[str | Macro]
"""Literal texts and macros, in order."""


def parse_macros(text: str, in_explanation: bool = False) -> MacroString:
    """Read a macro-string. Raises BadRecord (§7.1)."""
    found: list[str | Macro] = []
    at = 0
    while at < len(text):
        percent = text.find("%", at)
        if percent < 0:
            percent = len(text)
        if percent > at:
            found.append(text[at:percent])
        if percent == len(text):
            break
        match = _EXPAND.match(text, percent)
        if match is None:
            raise BadRecord(f'"{text}": what follows "%" is no macro')
        if match[5]:
            found.append(_ESCAPES[match[5]])
        else:
            found.append(_macro(match, in_explanation))
        at = match.end()
    for one in found:
        if isinstance(one, str) and not in_explanation and not all("!" <= c <= "~" for c in one.replace(" ", "!")):
            raise BadRecord(f'"{text}" has characters that cannot stand there')
    return found


def _macro(match: "re.Match[str]", in_explanation: bool) -> Macro:
    letter = match[1]
    if letter.lower() not in _LETTERS + (_ONLY_IN_EXP if in_explanation else ""):
        raise BadRecord(f"there is no macro {match[0]}" + ("" if in_explanation else " here"))
    number = match[2].lstrip("0")
    if match[2] and not number:
        raise BadRecord(f"{match[0]}: the number of parts must not be 0")
    digits = int(number) if 0 < len(number) <= _MOST_DIGITS else None
    return Macro(letter, digits, bool(match[3]), match[4])


async def expand(parts: MacroString, values: Mapping[str, str | Callable[[], Awaitable[str]]]) -> str:
    """Put the values in, by lower-case letter; a function is called only if its letter stands there. Raises Unspeakable."""
    texts = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
            continue
        value = values[part.letter.lower()]
        text = value if isinstance(value, str) else await value()
        texts.append(part.transform(text))
    return "".join(texts)


def in_reverse(ip: IPv4Address | IPv6Address) -> str:
    """``%{i}``: dotted, an IPv6 address in nibbles (§7.3)."""
    return str(ip) if isinstance(ip, IPv4Address) else ".".join(f"{int(ip):032x}")
