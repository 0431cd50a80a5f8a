"""The journal as log lines: one for each event, ``grep session=...`` finds the whole story of a message.

::

    session=k7f2qa accepted message=12 sender=anna@example.org recipients=ben@example.net size=2048
    session=k7f2qa delivered message=12 recipient=ben@example.net gateway=internet peer=192.0.2.1:25 reply="250 2.0.0 ok" seconds=0.041

Values with anything but plain ASCII characters are quoted, and what cannot be printed in them is escaped: no peer can forge a
line or a field. Empty values are left out. A fault's traceback follows its line, indented.
"""

import re
from collections.abc import Callable, Sequence
from time import time
from typing import Any

from attrs import field, fields, frozen, has
from twisted.logger import ILogObserver, LogLevel, globalLogPublisher
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.journal import Connected, Disconnected, Fault
from mailgw.values.address import Address
from mailgw.values.delivery import Recipient

__all__ = ["Log", "line_of", "names_of", "word_of"]

MOST_ITEMS = 20  # of a list, then how many there are; each recipient has lines of its own when it is delivered
_WORDS: dict[type, str] = {Connected: "connect", Disconnected: "disconnect"}
_PLAIN = re.compile(r"[!#-<>-\[\]-z|~]+\Z")  # no white space, no quote, no "=", no backslash, no brace
_ODD = re.compile(r'["\\]|[^ -~]')
_NAMES: dict[type, tuple[str, ...]] = {}


def word_of(kind: type) -> str:
    """The stable word for a class of events: ``connect``, ``accepted``, ``delivered``, ..."""
    return _WORDS.get(kind) or kind.__name__.lower()


def names_of(kind: type) -> tuple[str, ...]:
    """The fields of a class of events, in their order."""
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(one.name for one in fields(kind)) if has(kind) else ()
    return names


def line_of(event: Any) -> str:
    """One line, without its line end, that tells an event; a fault's traceback is not part of it."""
    kind = type(event)
    parts = [f"session={_text(getattr(event, 'session', '') or '-')} {word_of(kind)}"]
    for name in names_of(kind):
        if name not in ("session", "traceback"):
            value = getattr(event, name)
            if value != "":
                parts.append(f"{name}={_text(value)}")
    return " ".join(parts)


def _text(value: Any) -> str:
    write = _WRITERS.get(type(value))
    return write(value) if write else _quoted(str(value))


def _quoted(text: str) -> str:
    if _PLAIN.match(text):
        return text
    if _ODD.search(text):
        text = _ODD.sub(_escaped, text)
    return f'"{text}"'


def _several(items: Sequence[Any]) -> str:
    named = ",".join([str(item.address if type(item) is Recipient else item) for item in items[:MOST_ITEMS]])
    return _quoted(f"{named},...{len(items)}" if len(items) > MOST_ITEMS else named)


_WRITERS: dict[type, Callable[[Any], str]] = {
    str: _quoted,
    int: str,
    float: "{:.3f}".format,
    Address: lambda address: _quoted(str(address) or "<>"),
    tuple: _several,
    list: _several,
}


def _escaped(match: re.Match[str]) -> str:
    character = match.group()
    if character in '"\\':
        return f"\\{character}"
    if character.isprintable():
        return character
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


@implementer(IObserver)
@frozen
class Log:
    """Writes the journal through twisted.logger."""

    publisher: ILogObserver = field(default=globalLogPublisher)

    def note(self, event: Any) -> None:
        # The event goes to the publisher as `Logger.emit` would make it, at half the cost: this is done for each message.
        line = line_of(event)
        level = LogLevel.info
        if isinstance(event, Fault):
            level = LogLevel.error
            if event.traceback:
                line = "\n".join([line, *(_ODD.sub(_unprintable, text) for text in event.traceback.splitlines())])
        if "{" in line or "}" in line:
            line = line.replace("{", "{{").replace("}", "}}")
        self.publisher({"log_level": level, "log_namespace": "mailgw", "log_source": None, "log_format": line, "log_time": time()})


def _unprintable(match: re.Match[str]) -> str:
    return match.group() if match.group() in '"\\' else _escaped(match)
