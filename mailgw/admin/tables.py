"""How things look to the operator: tables on a terminal, aligned plain text in a pipe, readable ages and sizes."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TextIO

from attrs import frozen
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["Column", "Printer", "readable_age", "readable_size", "tame"]

STYLES = {
    "held": "yellow",
    "failed": "red",
    "no": "red",
    "yes": "green",
    "error": "red",
    "warning": "yellow",
}


def tame(text: object) -> str:
    r"""The text with everything that a terminal could take for a command written as an escape: ``\x1b``, ``\u202e``.

    What came from the network must pass here before it is printed.
    """
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in plain)


def readable_age(seconds: float) -> str:
    """A duration in its two largest units: ``"45s"``, ``"12m"``, ``"3h 20m"``, ``"5d 4h"``."""
    left = max(0, int(seconds))
    if left < 60:
        return f"{left}s"
    minutes, hours, days = left // 60 % 60, left // 3600 % 24, left // 86400
    if days:
        return f"{days}d {hours}h" if hours else f"{days}d"
    if hours:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    return f"{minutes}m"


def readable_size(octets: int) -> str:
    """Octets: ``"980"``, ``"1.2 KiB"``, ``"25 MiB"``."""
    if octets < 1024:
        return str(octets)
    size = octets / 1024
    for unit in ("KiB", "MiB"):
        if size < 1023.5:
            return f"{size:.1f} {unit}" if size < 9.95 else f"{size:.0f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


@frozen
class Column:
    """A column of a table; ``folds`` says that its text may go on in the next line of a narrow terminal."""

    title: str
    folds: bool = False
    right: bool = False


@frozen
class Printer:
    """Prints to ``file``; on a terminal with colours and in its width, else plain, one row a line, nothing wrapped or cut."""

    file: TextIO
    terminal: bool

    @classmethod
    def of(cls, file: TextIO) -> "Printer":
        """A printer that looks whether the file is a terminal."""
        return cls(file, file.isatty())

    def line(self, text: str) -> None:
        """One line of text, tamed."""
        print(tame(text), file=self.file)

    def table(self, columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
        """A table; the texts are tamed."""
        cells = [[tame(cell) for cell in row] for row in rows]
        if self.terminal:
            self._rich(columns, cells)
        else:
            self._plain(columns, cells)

    def pairs(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, aligned."""
        said = [(f"{name}:", tame(value)) for name, value in pairs]
        width = max((len(name) for name, _ in said), default=0)
        for name, value in said:
            print(f"{name:{width}}  {value}".rstrip(), file=self.file)

    def tree(self, data: Mapping[str, Any], heading: str = "") -> None:
        """Plain data as it comes: values as pairs, several objects as a table, other objects below their name."""
        self.pairs((_words(key), value) for key, value in data.items() if not isinstance(value, Mapping | list))
        for key, value in data.items():
            name = f"{heading} {_words(key)}".strip()
            if isinstance(value, Mapping | list) and value:
                self.line("")
                self.line(f"{name}:")
                self._below(value, name)

    def _below(self, value: Mapping[str, Any] | list[Any], name: str) -> None:
        if isinstance(value, Mapping) and all(isinstance(one, Mapping) for one in value.values()):
            self._objects([{"name": key, **one} for key, one in value.items()])
        elif isinstance(value, Mapping):
            self.tree(value, name)
        elif all(isinstance(one, Mapping) for one in value):
            self._objects(value)
        else:
            for one in value:
                self.line(f"  {one}")

    def _objects(self, values: Sequence[Mapping[str, Any]]) -> None:
        keys = list(dict.fromkeys(key for value in values for key in value))
        self.table([Column(_words(key), folds=True) for key in keys], [[_cell(value.get(key, "")) for key in keys] for value in values])

    def json(self, data: object) -> None:
        """The data as JSON, in ASCII without any control character."""
        text = json.dumps(data, indent=2).replace("\x7f", "\\u007f")
        print(text, file=self.file)

    def json_line(self, data: object) -> None:
        """The data as JSON on one line."""
        print(json.dumps(data).replace("\x7f", "\\u007f"), file=self.file)

    def _plain(self, columns: Sequence[Column], cells: list[list[str]]) -> None:
        lines = [[column.title.upper() for column in columns], *cells]
        widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
        for line in lines:
            texts = (
                text.rjust(width) if column.right else text.ljust(width) for column, text, width in zip(columns, line, widths, strict=True)
            )
            print("  ".join(texts).rstrip(), file=self.file)

    def _rich(self, columns: Sequence[Column], cells: list[list[str]]) -> None:
        table = Table(box=SIMPLE, header_style="bold", pad_edge=False)
        for column in columns:
            table.add_column(Text(column.title), justify="right" if column.right else "left", no_wrap=not column.folds, overflow="fold")
        for row in cells:
            # Text, not str: nothing in it is markup.
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        Console(file=self.file, force_terminal=True, highlight=False).print(table)


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cell(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
