"""A queue in plain dictionaries: for tests, demonstrations and plugin authors. It forgets everything with the process."""

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import define, field
from zope.interface import implementer

from mailgw.interfaces import IQueueDesk, IQueueStore, StoreUnavailable
from mailgw.storage.matching import Matching
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Entry, Notice, Order, Parcel, Put, Queued, Selection, Settlement, State

__all__ = ["InProcessStore"]


@define
class _Row:
    """One recipient."""

    number: int
    message: int
    recipient: Recipient
    destination: Destination
    state: State
    due: float
    reason: str
    attempts: int = 0
    delay_told: bool = False
    reply: str = ""
    peer: str = ""

    @property
    def queued(self) -> Queued:
        return Queued(self.number, self.recipient, self.attempts, self.delay_told)


@define
class _Message:
    """One message and its recipients."""

    envelope: Envelope
    content: Content
    rows: list[_Row]


@implementer(IQueueStore, IQueueDesk)
@define
class InProcessStore:
    """The contracts of `SqliteStore` without a disk. Every method finishes at once, without a reactor.

    ``incoming`` is the folder in which a receiver creates its files. Set ``trouble`` to an exception and every method
    but `leased` raises it, having changed nothing, until it is None again.
    """

    incoming: Path = field(factory=lambda: Path(tempfile.gettempdir()))
    trouble: StoreUnavailable | None = None
    _messages: dict[int, _Message] = field(factory=dict, init=False)
    _rows: dict[int, _Row] = field(factory=dict, init=False)
    _leased: set[int] = field(factory=set, init=False)
    _last_message: int = field(default=0, init=False)
    _last_recipient: int = field(default=0, init=False)

    async def put(self, envelope: Envelope, content: Content, recipients: Sequence[tuple[Recipient, Destination]], hold: str = "") -> Put:
        """See `IQueueStore`. Raises ValueError for a message without recipients."""
        self._check()
        if not recipients:
            raise ValueError("a message needs a recipient")
        return self._keep(envelope, content, recipients, hold)

    async def waiting(self) -> Mapping[Destination, float]:
        """See `IQueueStore`."""
        self._check()
        first: dict[Destination, float] = {}
        for row in self._free(State.WAITING):
            first[row.destination] = min(row.due, first.get(row.destination, row.due))
        return first

    async def lease(self, destination: Destination, now: float, limit: int) -> Sequence[Parcel]:
        """See `IQueueStore`. A message that does not fit into ``limit`` whole is left for the next time, unless it is the first."""
        self._check()
        due = [row for row in self._free(State.WAITING) if row.destination == destination and row.due <= now]
        due.sort(key=lambda row: (row.due, row.message, row.number))
        taken = due[:limit]
        if len(due) > limit and taken and due[limit].message == taken[-1].message:
            cut = taken[-1].message
            taken = [row for row in taken if row.message != cut] or taken
        groups: dict[int, list[_Row]] = {}
        for row in taken:
            groups.setdefault(row.message, []).append(row)
            self._leased.add(row.number)
        return [self._parcel(message, destination, rows) for message, rows in groups.items()]

    async def release(self, parcels: Sequence[Parcel]) -> None:
        """See `IQueueStore`."""
        self._check()
        self._leased.difference_update(queued.number for parcel in parcels for queued in parcel.queued)

    async def settle(self, settlements: Sequence[Settlement], notices: Sequence[Notice] = ()) -> Sequence[Put]:
        """See `IQueueStore`. What is said about a recipient that is not leased is ignored."""
        self._check()
        for settlement in settlements:
            if settlement.recipient not in self._leased:
                continue
            self._leased.remove(settlement.recipient)
            row = self._rows[settlement.recipient]
            row.state, row.due, row.attempts = settlement.state, settlement.due, settlement.attempts
            row.delay_told, row.reply, row.peer = settlement.delay_told, settlement.reply, settlement.peer
            row.destination = settlement.destination or row.destination
            self._remove_if_over(row.message)
        return [self._keep(n.envelope, n.content, ((n.recipient, n.destination),), "") for n in notices]

    async def bring_forward(self, seconds: float, after: float) -> None:
        """See `IQueueStore`."""
        self._check()
        for row in self._rows.values():
            if row.state is State.WAITING and row.due > after:
                row.due -= seconds

    def leased(self) -> int:
        """See `IQueueStore`."""
        return len(self._leased)

    async def find(self, selection: Selection) -> Sequence[Entry]:
        """See `IQueueDesk`."""
        self._check()
        return [self._entry(row) for row in self._matching(selection)][: max(selection.limit, 0)]

    async def content(self, message: int) -> Content | None:
        """See `IQueueDesk`."""
        self._check()
        found = self._messages.get(message)
        return found.content if found else None

    async def tell(self, selection: Selection, order: Order, reason: str = "") -> int:
        """See `IQueueDesk`. ``selection.limit`` bounds what `find` shows, not what an order reaches."""
        self._check()
        states = {Order.RELEASE: (State.HELD,), Order.DROP: (State.WAITING, State.HELD)}.get(order, (State.WAITING,))
        told = [row for row in self._matching(selection) if row.state in states and row.number not in self._leased]
        for row in told:
            if order in (Order.RETRY, Order.RELEASE):
                row.state, row.due, row.reason = State.WAITING, 0.0, ""
            elif order is Order.HOLD:
                row.state, row.reason = State.HELD, reason
            else:
                row.state, row.reason = State.DROPPED, reason
                self._remove_if_over(row.message)
        return len(told)

    async def stats(self) -> Mapping[Destination, Mapping[str, int]]:
        """See `IQueueDesk`. Every state has its number; ``"oldest"`` is the arrival of the first message there."""
        self._check()
        stats: dict[Destination, dict[str, int]] = {}
        for row in self._rows.values():
            counts = stats.get(row.destination)
            if counts is None:
                arrived = int(self._messages[row.message].envelope.arrived)
                counts = stats[row.destination] = {**{state.value: 0 for state in State}, "oldest": arrived}
            counts[row.state.value] += 1
        return stats

    async def close(self) -> None:
        """Nothing to do: what it holds is gone with it."""

    def _check(self) -> None:
        if self.trouble is not None:
            raise self.trouble

    def _keep(self, envelope: Envelope, content: Content, recipients: Collection[tuple[Recipient, Destination]], hold: str) -> Put:
        self._last_message += 1
        message, rows = self._last_message, []
        parcels: dict[Destination, list[_Row]] = {}
        for recipient, destination in recipients:
            self._last_recipient += 1
            state = State.HELD if hold else State.WAITING
            row = _Row(self._last_recipient, message, recipient, destination, state, envelope.arrived, hold)
            rows.append(row)
            self._rows[row.number] = row
            if not hold:
                parcels.setdefault(destination, []).append(row)
                self._leased.add(row.number)
        self._messages[message] = _Message(envelope, content, rows)
        return Put(message, tuple(self._parcel(message, *parcel) for parcel in parcels.items()))

    def _parcel(self, message: int, destination: Destination, rows: list[_Row]) -> Parcel:
        found = self._messages[message]
        return Parcel(message, found.envelope, found.content, destination, tuple(row.queued for row in rows))

    def _free(self, state: State) -> Iterator[_Row]:
        return (row for row in self._rows.values() if row.state is state and row.number not in self._leased)

    def _remove_if_over(self, message: int) -> None:
        found = self._messages[message]
        if all(row.state.is_over for row in found.rows):
            del self._messages[message]
            for row in found.rows:
                del self._rows[row.number]
            if isinstance(found.content.original, Path):
                found.content.original.unlink(missing_ok=True)

    def _matching(self, selection: Selection) -> list[_Row]:
        matching = Matching.of(selection)
        return [row for row in self._rows.values() if self._matches(row, matching)]

    def _matches(self, row: _Row, matching: Matching) -> bool:
        wanted, envelope = matching.selection, self._messages[row.message].envelope
        return (
            (wanted.message is None or wanted.message == row.message)
            and (wanted.state is None or wanted.state is row.state)
            and (wanted.older_than is None or envelope.arrived < wanted.older_than)
            and (not wanted.gateway or wanted.gateway == row.destination.gateway)
            and (matching.domain is None or matching.domain == row.recipient.address.domain.lower())
            and (matching.recipient is None or matching.recipient == row.recipient.address.folded)
            and (matching.sender is None or matching.sender == envelope.sender.folded)
        )

    def _entry(self, row: _Row) -> Entry:
        found = self._messages[row.message]
        return Entry(
            message=row.message,
            recipient=row.number,
            sender=str(found.envelope.sender) or "<>",
            address=str(row.recipient.address),
            destination=row.destination,
            state=row.state,
            leased=row.number in self._leased,
            arrived=found.envelope.arrived,
            due=row.due,
            attempts=row.attempts,
            size=found.content.size,
            reply=row.reply,
            session=found.envelope.session,
            reason=row.reason,
        )
