"""The destinations of an embedded queue: recipients point to them by a small number."""

import sqlite3

from mailgw.storage import statements as sql
from mailgw.storage.writer import Writer
from mailgw.values.delivery import Destination

__all__ = ["Destinations"]

_FEW = 10_000  # up to here, unused ones are not worth a sweep


class Destinations:
    """All of them, known in memory. `number` and `sweep` belong into a transaction of the writer."""

    def __init__(self, database: sqlite3.Connection, writer: Writer) -> None:
        self._database = database
        self._writer = writer
        self._names: dict[int, Destination] = {}
        self._numbers: dict[Destination, int] = {}
        self._is_known = False
        self._know()
        self.sweep_at = _FEW  # so many, before the unused ones are looked for

    def name(self, number: int) -> Destination:
        """The destination with this number."""
        self._know()
        return self._names[number]

    def find(self, destination: Destination) -> int | None:
        """Its number, if it has one."""
        self._know()
        return self._numbers.get(destination)

    def number(self, destination: Destination) -> int:
        """Its number; it gets one if it has none."""
        self._know()
        number = self._numbers.get(destination)
        if number is None:
            self._writer.after_rollback(self._doubt)
            number = self._database.execute(sql.ADD_DESTINATION, destination).lastrowid
            assert number is not None
            self._numbers[destination] = number
            self._names[number] = Destination(*destination)
        return number

    def sweep(self) -> None:
        """Forget those that nobody points to, if there are many."""
        if len(self._numbers) <= self.sweep_at:
            return
        self._writer.after_rollback(self._doubt)
        self._database.execute(sql.SWEEP_DESTINATIONS)
        self._doubt()
        self._know()
        self.sweep_at = max(_FEW, 2 * len(self._numbers))

    def _doubt(self) -> None:
        # Not asked now: what has failed may fail again, and a number that was rolled back must never be given to a recipient.
        self._is_known = False

    def _know(self) -> None:
        if self._is_known:
            return
        self._names = {number: Destination(gateway, next_hop) for gateway, next_hop, number in self._database.execute(sql.DESTINATIONS)}
        self._numbers = {destination: number for number, destination in self._names.items()}
        self._is_known = True
