"""On which line a key or table of a TOML document stands; `tomllib` gives values only.

The document must be one that `tomllib` has read without an error: this is a locator, no second judge of TOML.
"""

import re
from bisect import bisect_right

from mailgw.problems import Place

__all__ = ["Lines"]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")  # numbers, booleans, dates
_STRING = re.compile(
    r'"""(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'  # a multi-line string may end with two quotes of its own
    r"|'''(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
)


class Lines:
    """The lines of all keys, tables and items of one document, counted from 1."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(match.end() for match in re.finditer("\n", text))]
        self._found: dict[Place, int] = {}
        self._tables: dict[Place, int] = {}  # array tables: how many [[headers]] so far
        self._at = 0
        self._read_document()

    def __getitem__(self, place: Place) -> int:
        """The line where the place begins; for a place that is not in the document that of the nearest table or key around it."""
        while place and place not in self._found:
            place = place[:-1]
        return self._found.get(place, 1)

    def __contains__(self, place: Place) -> bool:
        return place in self._found

    def _note(self, place: Place, start: int) -> None:
        # A table may be opened several times ([a.b], then [a]): the header that names it itself counts most; see _read_header.
        self._found.setdefault(place, bisect_right(self._starts, start))

    def _skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            raise ValueError(f"not TOML at offset {self._at}")
        self._at = match.end()
        return match[0]

    def _next_is(self, mark: str) -> bool:
        return self._text.startswith(mark, self._at)

    def _read_document(self) -> None:
        table: Place = ()
        self._skip(_BLANK)
        while self._at < len(self._text):
            if self._next_is("["):
                table = self._read_header()
            else:
                self._read_pair(table)
            self._skip(_BLANK)

    def _read_header(self) -> Place:
        start = self._at
        several = self._next_is("[[")
        self._at += 2 if several else 1
        keys = self._read_keys()
        self._at += 2 if several else 1
        table: Place = ()
        for key in keys[:-1]:
            table = self._last((*table, key))
            self._note(table, start)
        table = (*table, keys[-1])
        if several:
            self._note(table, start)
            index = self._tables.get(table, 0)
            self._tables[table] = index + 1
            table = (*table, index)
        self._found[table] = bisect_right(self._starts, start)
        return table

    def _last(self, place: Place) -> Place:
        """The table a header means by ``place``: of an array of tables the last one so far."""
        count = self._tables.get(place)
        return (*place, count - 1) if count else place

    def _read_keys(self) -> list[str]:
        keys = []
        while True:
            self._skip(_SPACE)
            if self._next_is('"') or self._next_is("'"):
                keys.append(_unquoted(self._skip(_STRING)))
            else:
                keys.append(self._skip(_BARE_KEY))
            self._skip(_SPACE)
            if not self._next_is("."):
                return keys
            self._at += 1

    def _read_pair(self, table: Place) -> None:
        start = self._at
        for key in self._read_keys():
            table = (*table, key)
            self._note(table, start)
        self._at += 1  # "="
        self._skip(_SPACE)
        self._read_value(table)

    def _read_value(self, place: Place) -> None:
        if self._next_is("["):
            self._at += 1
            index = 0
            self._skip(_BLANK)
            while not self._next_is("]"):
                self._note((*place, index), self._at)
                self._read_value((*place, index))
                index += 1
                self._skip(_BLANK)
                if self._next_is(","):
                    self._at += 1
                    self._skip(_BLANK)
            self._at += 1
        elif self._next_is("{"):
            self._at += 1
            self._skip(_BLANK)
            while not self._next_is("}"):
                self._read_pair(place)
                self._skip(_BLANK)
                if self._next_is(","):
                    self._at += 1
                    self._skip(_BLANK)
            self._at += 1
        elif self._next_is('"') or self._next_is("'"):
            self._skip(_STRING)
        else:
            self._skip(_SCALAR)


_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([btnfr"\\e]))')
_NAMED = {"b": "\b", "t": "\t", "n": "\n", "f": "\f", "r": "\r", '"': '"', "\\": "\\", "e": "\x1b"}


def _unquoted(key: str) -> str:
    if key.startswith("'"):
        return key[1:-1]
    return _ESCAPE.sub(lambda found: _NAMED[found[3]] if found[3] else chr(int(found[1] or found[2], 16)), key[1:-1])
