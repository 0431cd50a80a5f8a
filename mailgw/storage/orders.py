"""Changing what waits in an embedded queue: many rows are worked off in parts, so that mail need not wait for an operator."""

import json
import sqlite3
from collections.abc import Callable, Container, Mapping, Sequence

from attrs import frozen

from mailgw.storage import statements as sql
from mailgw.storage.desk import TABLES, selecting
from mailgw.values.ledger import Order, Selection

__all__ = ["Orders"]

_AT_ONCE = 2000  # recipients looked at in one transaction


@frozen(eq=False)
class Orders:
    """Each method does one part, the rows after the number ``after``, and gives the last number that was looked at, -1 at the end.

    They belong into a transaction of the writer. ``remove`` removes messages of which these recipients are the last.
    """

    database: sqlite3.Connection
    leased: Container[int]
    remove: Callable[[Mapping[int, Sequence[int]]], object]

    def tell(self, items: Sequence[tuple[Selection, Order, str, int]]) -> Sequence[tuple[int, int]]:
        """For each order with its reason: how many recipients were told; and the last number."""
        return [self._tell(*item) for item in items]

    def bring_forward(self, items: Sequence[tuple[float, float, int]]) -> Sequence[int]:
        """See `IQueueStore.bring_forward`."""
        return [self._bring_forward(*item) for item in items]

    def _tell(self, selection: Selection, order: Order, reason: str, after: int) -> tuple[int, int]:
        upto, following = self._part(after) if selection.message is None else self._all()
        condition, values = selecting(selection)
        statement = sql.SELECTED.format(tables=TABLES, condition=condition, states=sql.REACHED_BY[order])
        found = self.database.execute(statement, (*values, after, upto)).fetchall()
        told = {recipient: message for recipient, message in found if recipient not in self.leased}
        numbers = json.dumps(list(told))
        if order is Order.HOLD:
            self.database.execute(sql.HOLD, (reason, numbers))
        elif order is Order.DROP:
            over: dict[int, list[int]] = {}
            for recipient, message in told.items():
                over.setdefault(message, []).append(recipient)
            self.remove(over)
            self.database.execute(sql.DROP, (reason, numbers))  # those that have open siblings
        else:
            self.database.execute(sql.RETRY, (numbers,))
        return len(told), following

    def _bring_forward(self, seconds: float, later_than: float, after: int) -> int:
        upto, following = self._part(after)
        self.database.execute(sql.BRING_FORWARD, (seconds, after, upto, later_than))
        return following

    def _part(self, after: int) -> tuple[int, int]:
        """The last number of the part after this one, and after which the next part follows: -1 if there is none."""
        row = self.database.execute(sql.PART, (after, _AT_ONCE - 1)).fetchone()
        return (row[0], row[0]) if row else self._all()

    def _all(self) -> tuple[int, int]:
        (last,) = self.database.execute(sql.LAST_RECIPIENT).fetchone()
        return last, -1
