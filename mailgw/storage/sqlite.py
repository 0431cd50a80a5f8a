"""The embedded queue: SQLite in a local folder, owned by one process.

Writing belongs to `Writer`, and so does everything that looks at leases: methods with a leading underscore run where and
when it says, one at a time, the public ones on the reactor's side. Leases live in memory and end with the process.
"""

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import time
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.internet.threads import deferToThreadPool
from twisted.python.threadpool import ThreadPool
from zope.interface import implementer

from mailgw.interfaces import IQueueDesk, IQueueStore, StoreDamaged, StoreFull
from mailgw.storage import statements as sql
from mailgw.storage.damage import damage, highest_number, mark, set_aside
from mailgw.storage.desk import Desk, teach_folding
from mailgw.storage.destinations import Destinations
from mailgw.storage.folder import Folder
from mailgw.storage.housekeeping import Housekeeper, remove_strays
from mailgw.storage.leases import Leases
from mailgw.storage.orders import Orders
from mailgw.storage.room import Room
from mailgw.storage.schema import (
    INSERT_MESSAGE,
    INSERT_RECIPIENT,
    STATE_NUMBERS,
    connect,
    content_of,
    envelope_of,
    envelope_row,
    recipient_of,
    recipient_row,
)
from mailgw.storage.trouble import translated
from mailgw.storage.writer import Writer
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Entry, Notice, Order, Parcel, Put, Queued, Selection, Settlement

__all__ = ["SqliteStore"]

_Result = TypeVar("_Result")
_PutItem = tuple[Envelope, Content, Sequence[tuple[Recipient, Destination]], str]
_SettleItem = tuple[Sequence[Settlement], Sequence[Notice]]

_ROW = 16384  # octets that a message takes beside its content, at most two pages


@implementer(IQueueStore, IQueueDesk)
class SqliteStore:
    """The durable queue in a state folder; make it with `open`."""

    def __init__(self, folder: Folder, database: sqlite3.Connection, reactor: IReactorFromThreads, min_free: int = 0) -> None:
        self.room = Room(folder.path, min_free, folder.database)
        self._folder = folder
        self._database = database
        self._reactor = reactor
        self._leases = Leases()
        self._last_message, self._last_recipient = database.execute(sql.COUNTER).fetchone()
        teach_folding(database)
        self._desk = Desk(folder, self._leases)
        # Operators read in a thread of their own: their questions may be long, and mail does not wait for them.
        self._readers = ThreadPool(0, 1, "mailgw-desk")
        self._readers.threadFactory = partial(threading.Thread, daemon=True)  # type: ignore[assignment]
        self._readers.start()
        self._writer = Writer(database, reactor, self._trouble)
        self._destinations = Destinations(database, self._writer)
        self._housekeeper = Housekeeper(folder, database, self._writer, self._desk, reactor)
        self._orders = Orders(database, self._leases, self._remove)
        self.set_aside = ""  # what was wrong with the database that was here before, and where it is now
        self.damage = ""  # what is wrong with this one
        self.tell_damage: Callable[[str], object] = lambda _: None
        self._closed = False

    @classmethod
    def open(
        cls, folder: Path, reactor: IReactorFromThreads, min_free: int = 0, base: int = 0, start_new: bool = False
    ) -> "SqliteStore":
        """Take the folder into possession, making it if it is not there; what was leased in an earlier process is waiting.

        New mail leaves ``min_free`` octets of the file system to what happens to the mail that is there.
        In a new folder, message numbers begin after ``base``. ``reactor`` is used for `callFromThread` only. Raises FolderInUse if
        another process owns the folder, StoreUnavailable if its database is of a newer mailgw or not ours, StoreDamaged if it is
        damaged; with ``start_new`` it is then moved into a folder of its own and a new one is made (`set_aside` says so).
        """
        where = Folder(Path(folder).absolute())
        try:
            where.own()
        except OSError as problem:
            raise translated(problem, where.path) from problem
        aside = None
        try:
            found = damage(where)
            if found:
                if not start_new:
                    raise StoreDamaged(f"{where.database} is damaged: {found}")
                base, aside = highest_number(where, base, time()), set_aside(where, found)
            database = connect(where.database, base)
            try:
                database.execute(sql.SWEEP_DESTINATIONS)
                store = cls(where, database, reactor, min_free)
            except Exception:
                database.close()
                raise
        except Exception as problem:
            where.disown()
            raise translated(problem, where.database) from problem
        if aside is not None:
            store.set_aside = f"{aside.name}: {found}"
        store._housekeeper.start()
        store._readers.callInThread(remove_strays, where, store._desk, store._last_message)
        return store

    @property
    def incoming(self) -> Path:
        """The folder in which a receiver creates its files, on the file system of the queue."""
        return self._folder.incoming

    async def close(self) -> None:
        """Commit everything that is waiting, then give the folder back. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        written = self._writer.close()
        # The reader goes first: only a last connection that may write leaves no log behind.
        self._housekeeper.stop()
        self._desk.interrupt()
        self._readers.stop()
        self._desk.close()
        await written
        self._folder.disown()

    # ── IQueueStore ──

    async def put(self, envelope: Envelope, content: Content, recipients: Sequence[tuple[Recipient, Destination]], hold: str = "") -> Put:
        """See `IQueueStore`. Raises ValueError for a message without recipients."""
        if not recipients:
            raise ValueError("a message needs a recipient")
        light = isinstance(content.original, bytes)
        # A file has been claimed as it came. What is written now goes through the log, and from there to its place.
        if not self.room.claim(_ROW + 2 * len(content.original) if isinstance(content.original, bytes) else _ROW):
            if self.room.is_gone:
                raise StoreFull(f"{self._folder.database} has been removed or replaced")
            raise StoreFull(f"{self._folder.path}: less than the {self.room.reserve} octets of min_free are left")
        return await self._writer.submit(self._put, (envelope, content, recipients, hold), self._unheard_put, light)

    async def waiting(self) -> Mapping[Destination, float]:
        """See `IQueueStore`."""
        return await self._writer.ask(self._waiting)

    async def lease(self, destination: Destination, now: float, limit: int) -> Sequence[Parcel]:
        """See `IQueueStore`. A message that does not fit into ``limit`` whole is left for the next time, unless it is the first."""
        return await self._writer.ask(partial(self._lease, destination, now, limit), self._unheard_parcels)

    async def release(self, parcels: Sequence[Parcel]) -> None:
        """See `IQueueStore`."""
        await self._writer.ask(partial(self._release, parcels))

    async def settle(self, settlements: Sequence[Settlement], notices: Sequence[Notice] = ()) -> Sequence[Put]:
        """See `IQueueStore`. What is said about a recipient that is not leased is ignored."""
        return await self._writer.submit(self._settle, (settlements, notices), self._unheard_puts, not notices)

    async def bring_forward(self, seconds: float, after: float) -> None:
        """See `IQueueStore`. Many are worked off in several transactions."""
        reached = 0
        while reached >= 0:
            reached = await self._writer.submit(self._orders.bring_forward, (seconds, after, reached))

    def leased(self) -> int:
        """See `IQueueStore`."""
        return len(self._leases)

    # ── IQueueDesk ──

    async def find(self, selection: Selection) -> Sequence[Entry]:
        """See `IQueueDesk`."""
        return await self.aside(partial(self._desk.find, selection))

    async def content(self, message: int) -> Content | None:
        """See `IQueueDesk`."""
        return await self.aside(partial(self._desk.content, message))

    async def stats(self) -> Mapping[Destination, Mapping[str, int]]:
        """See `IQueueDesk`. Every state has its number; ``"oldest"`` is the arrival of the first message there."""
        return await self.aside(self._desk.stats)

    async def tell(self, selection: Selection, order: Order, reason: str = "") -> int:
        """See `IQueueDesk`. ``selection.limit`` bounds what `find` shows, not what an order reaches.

        A big selection is worked off in several transactions: after a crash, part of it may be done.
        """
        told, reached = 0, 0
        while reached >= 0:
            number, reached = await self._writer.submit(self._orders.tell, (selection, order, reason, reached))
            told += number
        return told

    # ── When nobody waits for the answer any more ──

    def _unheard_put(self, put: Put) -> None:
        self._unheard_parcels(put.parcels)

    def _unheard_puts(self, puts: Sequence[Put]) -> None:
        for put in puts:
            self._unheard_parcels(put.parcels)

    def _unheard_parcels(self, parcels: Sequence[Parcel]) -> None:
        # Nobody has these leases: without this, the mail would lie still until the next start.
        self._writer.ask(partial(self._release, parcels)).addErrback(lambda _: None)  # a store that is closed has no leases

    def _trouble(self, problem: Exception) -> None:
        if isinstance(problem, StoreDamaged) and not self.damage:
            self.damage = str(problem)
            with suppress(OSError):  # a disk that takes nothing more
                mark(self._folder, self.damage)
            self.tell_damage(self.damage)

    def aside(self, question: Callable[[], _Result]) -> "Deferred[_Result]":
        """Have something asked in the readers' thread, which mail does not wait for."""
        self._writer.check()
        return deferToThreadPool(self._reactor, self._readers, question)

    # ── In the writer's thread, inside a transaction ──

    def _put(self, items: Sequence[_PutItem]) -> Sequence[Put]:
        self._destinations.sweep()
        messages: list[tuple[Any, ...]] = []
        rows: list[tuple[Any, ...]] = []
        leased: list[tuple[int, int]] = []
        puts: list[Put] = []
        any_file = False
        for envelope, content, recipients, hold in items:
            self._last_message += 1
            message, first = self._last_message, self._last_recipient + 1
            original: bytes | None = None
            if isinstance(content.original, bytes):
                original = content.original
            else:
                content, any_file = self._take_over(content, content.original, message), True
            state = sql.HELD if hold else sql.WAITING
            queued: dict[Destination, list[Queued]] = {}
            for recipient, destination in recipients:
                self._last_recipient += 1
                number, where = self._last_recipient, self._destinations.number(destination)
                rows.append((number, message, where, state, envelope.arrived, hold, *recipient_row(recipient)))
                if not hold:
                    leased.append((number, where))
                    queued.setdefault(destination, []).append(Queued(number, recipient))
            filed = original is None
            size, added = content.original_size, content.added
            messages.append((message, first, self._last_recipient, filed, size, added, original, *envelope_row(envelope)))
            puts.append(Put(message, tuple([Parcel(message, envelope, content, to, tuple(whom)) for to, whom in queued.items()])))
        if any_file:
            self._folder.sync_names()
        self._database.executemany(INSERT_MESSAGE, messages)
        self._database.executemany(INSERT_RECIPIENT, rows)
        self._database.execute(sql.COUNT_ON, (self._last_message, self._last_recipient))
        self._writer.after_commit(partial(self._leases.take, leased))
        return puts

    def _take_over(self, content: Content, original: Path, message: int) -> Content:
        self._writer.after_rollback(partial(self._folder.remove, message))
        self._writer.after_commit(partial(self._folder.let_go, original))
        return Content(self._folder.keep(original, message), content.original_size, content.added)

    def _settle(self, items: Sequence[_SettleItem]) -> Sequence[Sequence[Put]]:
        leases = self._leases
        settled = {s.recipient: s for settlements, _ in items for s in settlements if s.recipient in leases}
        over: dict[int, list[int]] = {}
        for settlement in settled.values():
            if settlement.state.is_over:
                over.setdefault(settlement.message, []).append(settlement.recipient)
        removed = self._remove(over)
        changes = [self._change(settlement) for settlement in settled.values() if settlement.message not in removed]
        if changes:
            self._database.executemany(sql.SETTLE, changes)
        self._writer.after_commit(partial(leases.end, settled))
        notices = [notice for _, notices in items for notice in notices]
        if not notices:
            return [()] * len(items)
        puts = iter(self._put([(n.envelope, n.content, ((n.recipient, n.destination),), "") for n in notices]))
        return [[next(puts) for _ in notices] for _, notices in items]

    def _change(self, settlement: Settlement) -> tuple[Any, ...]:
        destination = settlement.destination
        return (
            STATE_NUMBERS[settlement.state],
            settlement.reply,
            settlement.peer,
            settlement.due,
            settlement.attempts,
            settlement.delay_told,
            None if destination is None else self._destinations.number(destination),
            settlement.recipient,
        )

    def _remove(self, over: Mapping[int, Sequence[int]]) -> set[int]:
        """Remove those messages that have no open recipient but these, and give their numbers."""
        if not over:
            return set()
        messages: list[int] = []
        recipients: list[int] = []
        for message, first, last, filed, still_open in self._database.execute(sql.STILL_OPEN, (json.dumps(list(over)),)).fetchall():
            if still_open == len(over[message]):
                messages.append(message)
                recipients += range(first, last + 1)
                if filed:
                    self._writer.after_commit(partial(self._folder.remove, message))
        if messages:
            self._database.execute(sql.REMOVE_RECIPIENTS, (json.dumps(recipients),))
            self._database.execute(sql.REMOVE_MESSAGES, (json.dumps(messages),))
        return set(messages)

    # ── In the writer's thread, between transactions ──

    def _waiting(self) -> Mapping[Destination, float]:
        waiting: dict[Destination, float] = {}
        for number, due in self._database.execute(sql.FIRST_DUE):
            if due is not None and self._leases.at(number):
                due = next((row[0] for row in self._free(number, float("inf"))), None)
            if due is not None:
                waiting[self._destinations.name(number)] = due
        return waiting

    def _free(self, destination: int, now: float) -> Iterable[tuple[float, int, int]]:
        """Due time, message and number of what waits there and is not leased, earliest first."""
        leases = self._leases
        return (row for row in self._database.execute(sql.IN_ORDER, (destination, now)) if row[2] not in leases)

    def _lease(self, destination: Destination, now: float, limit: int) -> Sequence[Parcel]:
        where = self._destinations.find(destination)
        if where is None or limit < 1:
            return []
        taken: list[tuple[int, int]] = []
        for _, message, recipient in self._free(where, now):
            if len(taken) == limit:
                if message == taken[-1][0]:
                    taken = [pair for pair in taken if pair[0] != message] or taken
                break
            taken.append((message, recipient))
        groups: dict[int, list[int]] = {}
        for message, recipient in taken:
            groups.setdefault(message, []).append(recipient)
        parcels = self._parcels(destination, groups)
        self._leases.take([(recipient, where) for _, recipient in taken])
        return parcels

    def _parcels(self, destination: Destination, groups: Mapping[int, Sequence[int]]) -> Sequence[Parcel]:
        queued: dict[int, Queued] = {}
        numbers = json.dumps([number for group in groups.values() for number in group])
        for number, attempts, delay_told, *recipient in self._database.execute(sql.RECIPIENTS, (numbers,)):
            queued[number] = Queued(number, recipient_of(*recipient), attempts, bool(delay_told))
        messages: dict[int, tuple[Envelope, Content]] = {}
        for message, original, size, added, *envelope in self._database.execute(sql.MESSAGES, (json.dumps(list(groups)),)):
            messages[message] = envelope_of(tuple(envelope)), content_of(original, size, added, self._folder.file(message))
        return [Parcel(message, *messages[message], destination, tuple([queued[n] for n in group])) for message, group in groups.items()]

    def _release(self, parcels: Sequence[Parcel]) -> None:
        self._leases.end([queued.number for parcel in parcels for queued in parcel.queued])

