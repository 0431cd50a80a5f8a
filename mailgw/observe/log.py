"""The journal as log lines: one for each event, ``grep session=...`` finds the whole story of a message.

::

    session=k7f2qa accepted message=12 sender=anna@example.org recipients=ben@example.net size=2048
    session=k7f2qa delivered message=12 recipient=ben@example.net gateway=internet peer=192.0.2.1:25 reply="250 2.0.0 ok" seconds=0.041

Values with anything but plain ASCII characters are quoted, and what cannot be printed in them is escaped: no peer can forge a
line or a field. Empty values are left out. A fault's traceback follows its line, indented.
"""

import re
from collections.abc import Callable, Sequence
from operator import attrgetter
from threading import get_ident
from time import time
from typing import Any

from attrs import define, field, fields, frozen, has
from twisted.internet.interfaces import IReactorTime
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, LogLevel, formatTime, globalLogPublisher
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.journal import BanLifted, Connected, Disconnected, Fault, LoggedIn, LoginFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Recipient

__all__ = ["Log", "line_of", "names_of", "pass_on", "quicken", "word_of"]

MOST_ITEMS = 20  # of a list, then how many there are; each recipient has lines of its own when it is delivered
_WORDS: dict[type, str] = {
    BanLifted: "ban-lifted",
    Connected: "connect",
    Disconnected: "disconnect",
    LoggedIn: "login",
    LoginFailed: "login-failed",
}
_SPOKEN: dict[type, str] = {LoginFailed: "login failed:"}  # in lines only: fail2ban reads it, so it stays as it is
_PLAIN = bytes(octet for octet in range(33, 127) if octet not in b'"=\\{}')  # no white space, no quote, no "=", no backslash, no brace
_ODD = re.compile(r'["\\]|[^ -~]')
_NAMES: dict[type, tuple[str, ...]] = {}
_Shape = tuple[str, tuple[str, ...], Callable[[Any], Sequence[Any]]]  # word, names of fields, their values
_SHAPES: dict[type, _Shape] = {}


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
    word, names, values_of = _SHAPES.get(kind) or _shape(kind)
    line = f"session={_text(getattr(event, 'session', '') or '-')} {word}"
    for name, value in zip(names, values_of(event), strict=True):
        kind = type(value)
        if kind is str:
            if value:
                line += f" {name}={_quoted(value)}"
        elif kind is int:
            line += f" {name}={value}"
        else:
            line += f" {name}={_text(value)}"
    return line


def _shape(kind: type) -> _Shape:
    # Worked out once for each class: 2 µs less for each line.
    names = tuple(name for name in names_of(kind) if name not in ("session", "traceback"))
    values_of: Callable[[Any], Sequence[Any]] = lambda event: [getattr(event, name) for name in names]  # noqa: E731
    if len(names) > 1:
        values_of = attrgetter(*names)
    shape = _SHAPES[kind] = (_SPOKEN.get(kind) or word_of(kind), names, values_of)
    return shape


def _text(value: Any) -> str:
    write = _WRITERS.get(type(value))
    return write(value) if write else _quoted(str(value))


def _quoted(text: str) -> str:
    # To delete octets costs a fifth of matching an expression.
    if text.isascii() and text.isprintable():
        left = text.encode().translate(None, _PLAIN)
        if not left and text:
            return text
        if b'"' not in left and b"\\" not in left:
            return f'"{text}"'
    return f'"{_ODD.sub(_escaped, text)}"'


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
        text = line.replace("{", "{{").replace("}", "}}") if "{" in line or "}" in line else line
        told = {"log_level": level, "log_namespace": "mailgw", "log_source": None, "log_format": text, "log_time": time()}
        if level is LogLevel.info:
            told[_LINE] = line
        self.publisher(told)


def pass_on(text: str, publisher: Any = globalLogPublisher) -> None:
    """Put whole lines, as another process wrote them, into the log: into twistd's log files, after `quicken`, as they are."""
    escaped = text.rstrip("\n").replace("{", "{{").replace("}", "}}")
    told = {"log_level": LogLevel.info, "log_namespace": "mailgw", "log_source": None, "log_format": escaped, "log_time": time()}
    publisher({**told, _TEXT: text})


_LINE = "mailgw_line"  # the finished line, for `quicken`
_TEXT = "mailgw_text"  # several of them, with all that belongs to a line


def quicken(clock: IReactorTime, publisher: Any = globalLogPublisher, who: str = "") -> Callable[[], None]:
    """Make twistd's log files take the journal's lines as they are, and all those of a turn of the reactor in one write.

    The text stays the same, but twisted.logger works out a time zone, a format and a system call for each line: gain, measured,
    100 µs for each small message, a sixth of its CPU. Gives a function that writes what is waiting; call it at the end.

    ``who`` stands behind the time in each line: ``"worker=2 "`` where several processes write to one log.
    """
    quick = []
    for observer in getattr(publisher, "_observers", ()):
        if isinstance(observer, FileLogObserver) and not isinstance(observer.formatEvent, _Quick):
            observer.formatEvent = _Quick(observer, observer.formatEvent, clock, who)
            quick.append(observer.formatEvent)

    def write() -> None:
        for one in quick:
            one.write()

    return write


_WRITE: LogEvent = {}  # the event that brings out what is waiting
_PORTS = re.compile(r"_Exchange starting on \d+\Z|\(UDP Port \d+ Closed\)\Z")  # Twisted says so for each question to the DNS


@define(eq=False)
class _Quick:
    observer: ILogObserver
    slow: Callable[[LogEvent], str | None]
    clock: IReactorTime
    who: str = ""
    _waiting: list[str] = field(factory=list)
    _thread: int = field(factory=get_ident)
    _second: int = 0
    _stamp: str = ""

    def __call__(self, event: LogEvent) -> str | None:
        if event is _WRITE:
            return self._take()
        line = event.get(_LINE)
        if line is None:
            said = event.get("message")
            if type(said) is tuple and said and _PORTS.match(str(said[0])):
                return None
            slow = event[_TEXT] if _TEXT in event else (self.slow(event) or "").replace(" [", f" {self.who}[", 1)
            # In their order; but only the thread that notes may take what is waiting.
            return self._take() + slow if get_ident() == self._thread else slow or None
        second = int(event["log_time"])
        if second != self._second:
            self._second, self._stamp = second, formatTime(second)
        if not self._waiting:
            self.clock.callLater(0, self.write)
        self._waiting.append(f"{self._stamp} {self.who}[mailgw#info] {line}\n")
        return None

    def write(self) -> None:
        if self._waiting:
            self.observer(_WRITE)

    def _take(self) -> str:
        waiting, self._waiting = self._waiting, []
        return "".join(waiting)


def _unprintable(match: re.Match[str]) -> str:
    return match.group() if match.group() in '"\\' else _escaped(match)
