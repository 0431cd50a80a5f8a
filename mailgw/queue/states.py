"""The states of a recipient in the queue, and all ways from one to another.

A recipient begins WAITING, or HELD when a policy quarantined its message. A waiting recipient that is due is *leased* by the
dispatcher: that is no state on the disk, so whatever ends the process ends the lease, and the recipient is waiting as before. An
attempt ends in one of three ways: it was delivered, it failed for good, or it is deferred and waits until it is due again. Only age
turns a deferral into a failure (`mailgw.queue.retry`). An operator can make what waits due now, hold, release and drop; he cannot
touch what is leased at that moment, nor what is over. Nothing leaves DELIVERED, FAILED and DROPPED: such a recipient stays only as
long as another one of its message is not over.

`STATES` says the same as a table; the stores and the dispatcher are tested against it, and docs/queue-states.md is checked with it.
"""

from collections.abc import Mapping
from enum import Enum

from mailgw.values.ledger import State

__all__ = ["STATES", "Event"]


class Event(Enum):
    """What can happen to a recipient."""

    PUT = "put"  # committed: 250 is said
    QUARANTINED = "quarantined"  # committed, on hold
    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"  # refused, no route, or given up
    LEASE_LOST = "lease lost"  # released, or the process ended
    # What an operator says: the values are those of `mailgw.values.ledger.Order`.
    RETRY = "retry"
    HOLD = "hold"
    RELEASE = "release"
    DROP = "drop"


STATES: Mapping[State | None, Mapping[Event, State]] = {
    None: {
        Event.PUT: State.WAITING,
        Event.QUARANTINED: State.HELD,
    },
    State.WAITING: {
        Event.DELIVERED: State.DELIVERED,
        Event.DEFERRED: State.WAITING,
        Event.FAILED: State.FAILED,
        Event.LEASE_LOST: State.WAITING,
        Event.RETRY: State.WAITING,
        Event.HOLD: State.HELD,
        Event.DROP: State.DROPPED,
    },
    State.HELD: {
        Event.RELEASE: State.WAITING,
        Event.DROP: State.DROPPED,
    },
    State.DELIVERED: {},
    State.FAILED: {},
    State.DROPPED: {},
}
