"""Getting out of a damaged queue what can still be read, message by message."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from attrs import frozen

from mailgw.interfaces import StoreUnavailable
from mailgw.storage import statements as sql
from mailgw.storage.folder import Folder
from mailgw.storage.schema import connect_read_only, content_of, envelope_of, recipient_of
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient

__all__ = ["Recovered", "Recovery", "Unreadable"]

_UNROUTED = Destination("", "")  # it is routed again before an attempt
_MOST_PROBES = 100_000  # message numbers that are asked for one by one where they cannot be listed


class Unreadable(Exception):
    """A message that cannot be read, and why."""


@frozen
class Recovered:
    """A message as it waited, without what was tried already."""

    envelope: Envelope
    content: Content
    waiting: Sequence[tuple[Recipient, Destination]]
    held: Sequence[tuple[Recipient, Destination]]
    reason: str  # why they are held


class Recovery:
    """A damaged state folder, and what of it is done: the file ``recovered`` there remembers it.

    Making it raises StoreUnavailable where nothing at all can be read. Its methods may be called in any thread, one at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = Folder(folder)
        self._done = folder / "recovered"
        if not self._folder.database.exists():
            raise StoreUnavailable(f"{folder} holds no queue")
        self._database = connect_read_only(self._folder.database)
        # What a damaged page holds need not be UTF-8: it must not hide the rest.
        self._database.text_factory = lambda octets: octets.decode("utf-8", "surrogateescape")
        done = set(self._done.read_text().split()) if self._done.exists() else set()
        self.left = sorted(number for number in self._numbers() if str(number) not in done)

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def mark(self, message: int) -> None:
        """Remember that a message is done. Raises OSError."""
        with open(self._done, "a") as file:
            file.write(f"{message}\n")
        self.left.remove(message)

    def read(self, message: int) -> Recovered:
        """What is known about a message. Raises Unreadable."""
        try:
            return self._read(message)
        except (sqlite3.Error, ValueError, TypeError, OSError) as problem:
            raise Unreadable(str(problem)) from problem

    def _read(self, message: int) -> Recovered:
        row = self._database.execute(sql.WHOLE_MESSAGE, (message,)).fetchone()
        if row is None:
            raise Unreadable("only its number is there")
        first, last, filed, original, size, added, *envelope = row
        path = self._folder.file(message)
        if filed and path.stat().st_size != size:
            raise Unreadable(f"{path} has another size")
        found: dict[int, list[tuple[Recipient, Destination]]] = {sql.WAITING: [], sql.HELD: []}
        why = ""
        for state, destination, reason, *recipient in self._database.execute(sql.OPEN_RECIPIENTS, (first, last)):
            found[state].append((recipient_of(*recipient), self._destination(destination)))
            why = why or reason
        return Recovered(envelope_of(tuple(envelope)), content_of(original, size, added, path), found[sql.WAITING], found[sql.HELD], why)

    def _destination(self, number: int) -> Destination:
        with suppress(sqlite3.Error):
            row = self._database.execute(sql.DESTINATION, (number,)).fetchone()
            if row is not None:
                return Destination(*row)
        return _UNROUTED

    def _numbers(self) -> set[int]:
        """The numbers of all messages, from wherever they can be read."""
        numbers: set[int] = set()
        whole = self._listed("SELECT id FROM message ORDER BY id", numbers)
        if not whole:
            self._listed("SELECT id FROM message ORDER BY id DESC", numbers)
            self._listed("SELECT message FROM recipient INDEXED BY queue", numbers)
            self._listed("SELECT message FROM recipient", numbers)
            with suppress(OSError):
                numbers.update(int(file.name) for file in self._folder.content.iterdir() if file.name.isdigit())
            numbers.update(self._probed(numbers))
        return numbers

    def _listed(self, question: str, numbers: set[int]) -> bool:
        try:
            for (number,) in self._database.execute(question):
                if isinstance(number, int):
                    numbers.add(number)
        except sqlite3.Error:
            return False
        return True

    def _probed(self, known: set[int]) -> Iterator[int]:
        if not known or max(known) - min(known) > _MOST_PROBES:
            return
        for number in range(min(known), max(known)):
            with suppress(sqlite3.Error):
                yield from (found for (found,) in self._database.execute("SELECT id FROM message WHERE id = ?", (number,)))
