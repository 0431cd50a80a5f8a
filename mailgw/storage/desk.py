"""The reading side of the operators' desk: plain functions on a connection that cannot write."""

import sqlite3
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.folder import Folder
from mailgw.storage.matching import Matching
from mailgw.storage.schema import STATE_NUMBERS, STATES, connect_read_only, content_of
from mailgw.storage.trouble import translated
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination
from mailgw.values.ledger import Entry, Selection, State

__all__ = ["TABLES", "Desk", "read_only_desk", "selecting", "teach_folding"]

# CROSS JOIN keeps this order: recipients by number, and the wide message rows only of those that match so far.
TABLES = "recipient r CROSS JOIN destination d ON d.id = r.destination CROSS JOIN message m ON m.id = r.message"
_FIND = """
    SELECT r.message, r.id, m.sender_local_part, m.sender_domain, r.local_part, r.domain, d.gateway, d.next_hop, r.state,
           m.arrived, r.due, r.attempts, m.size + length(m.added), r.reply, m.session, r.reason
    FROM {tables} WHERE {condition} ORDER BY r.id LIMIT ?"""
_CONTENT = "SELECT original, size, added FROM message WHERE id = ?"
_COUNT = "SELECT destination, state, count(*), min(message) FROM recipient INDEXED BY queue GROUP BY destination, state"
_DESTINATION = "SELECT gateway, next_hop FROM destination WHERE id = ?"
_ARRIVED = "SELECT arrived FROM message WHERE id = ?"


def selecting(selection: Selection) -> tuple[str, list[Any]]:
    """A selection as an SQL condition on `TABLES`, and its parameters."""
    matching = Matching.of(selection)
    terms: list[str] = ["1"]
    values: list[Any] = []
    if selection.message is not None:
        # By number first: the rest of the table need not be read.
        terms.append("r.id BETWEEN (SELECT first FROM message WHERE id = ?) AND (SELECT last FROM message WHERE id = ?)")
        values += [selection.message, selection.message]
    if selection.state is not None:
        terms.append("r.state = ?")
        values.append(STATE_NUMBERS[selection.state])
    if selection.gateway:
        terms.append("d.gateway = ?")
        values.append(selection.gateway)
    if selection.older_than is not None:
        terms.append("m.arrived < ?")
        values.append(selection.older_than)
    if matching.domain is not None:
        terms.append("lower(r.domain) = ?")
        values.append(matching.domain)
    for prefix, address in (("r.", matching.recipient), ("m.sender_", matching.sender)):
        if address is not None:
            local_part, _, domain = address.rpartition("@")
            # Python folds the local-parts, since SQLite folds only ASCII; it is asked only where the domain agrees.
            terms.append(f"lower({prefix}domain) = ? AND fold({prefix}local_part) = ?")
            values += [domain, local_part]
    return " AND ".join(terms), values


def teach_folding(database: sqlite3.Connection) -> None:
    """Make the function that `selecting` uses known to a connection."""
    database.create_function("fold", 1, str.lower, deterministic=True)


class Desk:
    """What an operator can ask about a queue. All methods raise StoreUnavailable."""

    def __init__(self, folder: Folder, leased: Container[int] = frozenset()) -> None:
        self._folder = folder
        self._leased = leased
        self._database = connect_read_only(folder.database)
        teach_folding(self._database)

    def __enter__(self) -> "Desk":
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def interrupt(self) -> None:
        """End what another thread is asking at this moment: it raises StoreUnavailable."""
        self._database.interrupt()

    def find(self, selection: Selection) -> Sequence[Entry]:
        """See `IQueueDesk`."""
        condition, values = selecting(selection)
        return [
            self._entry(*row) for row in self._rows(_FIND.format(tables=TABLES, condition=condition), (*values, max(selection.limit, 0)))
        ]

    def content(self, message: int) -> Content | None:
        """See `IQueueDesk`."""
        for original, size, added in self._rows(_CONTENT, (message,)):
            return content_of(original, size, added, self._folder.file(message))
        return None

    def stats(self) -> Mapping[Destination, Mapping[str, int]]:
        """See `IQueueDesk`. Every state has its number; ``"oldest"`` is the arrival of the first message there."""
        counts: dict[int, dict[str, int]] = {}
        first: dict[int, int] = {}
        self._rows("BEGIN")  # all of it from one moment
        try:
            for destination, state, number, message in self._rows(_COUNT):
                counts.setdefault(destination, {state.value: 0 for state in State})[STATES[state].value] = number
                first[destination] = min(message, first.get(destination, message))
            stats = {}
            for destination, message in first.items():
                ((name,), (arrival,)) = self._rows(_DESTINATION, (destination,)), self._rows(_ARRIVED, (message,))
                stats[Destination(*name)] = {**counts[destination], "oldest": int(arrival[0])}
        finally:
            self._rows("COMMIT")
        return stats

    def missing(self, messages: Sequence[int]) -> Sequence[int]:
        """Those numbers that no message with a file has."""
        marks = ", ".join("?" * len(messages))
        rows = self._rows(f"SELECT id FROM message WHERE filed AND id IN ({marks})", tuple(messages))  # noqa: S608
        return sorted(set(messages) - {row[0] for row in rows})

    def _rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[Any]:
        try:
            return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as problem:
            raise translated(problem, self._folder.database) from problem

    def _entry(
        self,
        message: int,
        recipient: int,
        sender_local_part: str,
        sender_domain: str,
        local_part: str,
        domain: str,
        gateway: str,
        next_hop: str,
        state: int,
        arrived: float,
        due: float,
        attempts: int,
        size: int,
        reply: str,
        session: str,
        reason: str,
    ) -> Entry:
        return Entry(
            message=message,
            recipient=recipient,
            sender=str(Address(sender_local_part, sender_domain)) or "<>",
            address=str(Address(local_part, domain)),
            destination=Destination(gateway, next_hop),
            state=STATES[state],
            leased=recipient in self._leased,
            arrived=arrived,
            due=due,
            attempts=attempts,
            size=size,
            reply=reply,
            session=session,
            reason=reason,
        )


def read_only_desk(folder: Path) -> Desk:
    """The desk of a queue whose daemon is down: it takes no lock and writes no row. Raises StoreUnavailable."""
    where = Folder(folder)
    if not where.database.exists():
        raise StoreUnavailable(f"{folder} holds no queue")
    return Desk(where)
