"""What the queue remembers: parcels on their way, the states of a recipient, and what an operator asks and orders."""

from enum import Enum
from typing import NamedTuple

from attrs import frozen

from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient

__all__ = ["Entry", "Notice", "Order", "Parcel", "Put", "Queued", "Selection", "Settlement", "State"]


class State(Enum):
    """The states of one recipient in the queue; docs/queue-states.md tells how each is left.

    "Leased" is not among them: a lease is held in memory by the one process that owns the store, and ends with it.
    """

    WAITING = "waiting"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to the recipient."""
        return self in (State.DELIVERED, State.FAILED, State.DROPPED)


class Queued(NamedTuple):
    """One recipient row of the queue, as far as a delivery attempt needs it."""

    number: int
    recipient: Recipient
    attempts: int = 0  # attempts that are over
    delay_told: bool = False  # whether a delay warning went out already


@frozen
class Parcel:
    """The recipients of one message that wait for one destination, leased to whoever holds this."""

    message: int  # the queue number, as said in "250 queued as N"
    envelope: Envelope
    content: Content
    destination: Destination
    queued: tuple[Queued, ...]


@frozen
class Put:
    """What `IQueueStore.put` gives after the commit: the queue number, and the parcels, already leased to the caller."""

    message: int
    parcels: tuple[Parcel, ...]  # one for each destination; empty when the message was put on hold


@frozen
class Settlement:
    """What became of one leased recipient: written by `IQueueStore.settle`, which also ends the lease."""

    message: int
    recipient: int  # Queued.number
    state: State
    reply: str  # the last word about it, for the operator: "451 4.4.1 connection refused"
    peer: str = ""
    due: float = 0.0  # POSIX seconds; for WAITING: not before this
    attempts: int = 0
    delay_told: bool = False
    destination: Destination | None = None  # set when today's routes send it elsewhere


@frozen
class Notice:
    """A DSN to be queued in the transaction that settles its cause."""

    envelope: Envelope
    content: Content
    recipient: Recipient
    destination: Destination


@frozen(kw_only=True)
class Selection:
    """Which recipients an operator means; every given field must match. Addresses and domains are compared without case."""

    message: int | None = None
    sender: str = ""  # a whole address; "<>" for the null reverse-path
    recipient: str = ""  # a whole address
    domain: str = ""  # of the recipient
    gateway: str = ""
    state: State | None = None
    older_than: float | None = None  # POSIX seconds: arrived before this
    limit: int = 1000


@frozen(kw_only=True)
class Entry:
    """One recipient in the queue, as an operator sees it."""

    message: int
    recipient: int
    sender: str
    address: str
    destination: Destination
    state: State
    leased: bool
    arrived: float
    due: float
    attempts: int
    size: int
    reply: str
    session: str
    reason: str  # why it is held


class Order(Enum):
    """What an operator can tell the queue to do with a selection."""

    RETRY = "retry"  # due now
    HOLD = "hold"
    RELEASE = "release"  # held -> waiting, due now
    DROP = "drop"  # over, and nobody is told
