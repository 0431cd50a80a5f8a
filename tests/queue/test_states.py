import re
from pathlib import Path
from random import Random

import pytest

from mailgw.queue.conclusion import conclude
from mailgw.queue.retry import Schedule
from mailgw.queue.states import STATES, Event
from mailgw.storage.in_process import InProcessStore
from mailgw.testing.facts import MESSAGE, an_address, an_envelope
from mailgw.testing.running import run
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Recipient, delivered, later, never, unknown
from mailgw.values.ledger import Order, Selection, Settlement, State

DOC = Path(__file__).parents[2] / "docs" / "queue-states.md"
HERE = Destination("mailboxes")


def in_state(state):
    """A store with a recipient in ``state``, and one that keeps the message there."""
    store = InProcessStore()
    recipients = [(Recipient(an_address(name)), HERE) for name in ("anna@example.org", "ben@example.org")]
    put = run(store.put(an_envelope(), Content.of(MESSAGE), recipients, hold="odd" if state is State.HELD else ""))
    number = 1
    if state is not State.HELD:
        run(store.settle([Settlement(put.message, number, state, "")]))
    return store


def state_of(store):
    [entry] = run(store.find(Selection(recipient="anna@example.org")))
    return entry.state


def test_the_table_is_complete():
    assert set(STATES) == {None, *State}
    assert {event for events in STATES.values() for event in events} == set(Event)
    for state in State:
        assert bool(STATES[state]) is not state.is_over


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("state", State)
def test_orders(state, order):
    store = in_state(state)
    told = run(store.tell(Selection(recipient="anna@example.org"), order))
    expected = STATES[state].get(Event(order.value))
    assert told == (expected is not None)
    assert state_of(store) is (expected or state)


@pytest.mark.parametrize(
    ("outcome", "age", "event"),
    [
        (delivered(), 0, Event.DELIVERED),
        (never("no"), 0, Event.FAILED),
        (later("not now"), 0, Event.DEFERRED),
        (unknown("lost"), 0, Event.DEFERRED),
        (None, 0, Event.DEFERRED),
        (later("not now"), 10**9, Event.FAILED),
        (delivered(), 10**9, Event.DELIVERED),
    ],
)
def test_attempts(outcome, age, event):
    store = InProcessStore()
    recipient = Recipient(an_address("anna@example.org"))
    other = Recipient(an_address("ben@example.org"))
    envelope = an_envelope()
    put = run(store.put(envelope, Content.of(MESSAGE), [(recipient, HERE), (other, Destination("elsewhere"))]))
    outcomes = {} if outcome is None else {recipient.address: outcome}
    conclusion = conclude(put.parcels[0], HERE, outcomes, Schedule(), now=envelope.arrived + age, randomness=Random(1))
    run(store.settle(conclusion.settlements))
    assert state_of(store) is STATES[State.WAITING][event]


@pytest.mark.parametrize("made", [delivered, later, never, unknown])
def test_a_text_becomes_a_reply(made):
    reply = made("in these words").reply
    assert (reply.text, reply.code // 100) == ("in these words", {"delivered": 2, "never": 5}.get(made.__name__, 4))


def test_a_lost_lease():
    store = InProcessStore()
    put = run(store.put(an_envelope(), Content.of(MESSAGE), [(Recipient(an_address("anna@example.org")), HERE)]))
    assert state_of(store) is STATES[None][Event.PUT]
    run(store.release(put.parcels))
    assert state_of(store) is STATES[State.WAITING][Event.LEASE_LOST]


def test_the_document_has_the_same_table():
    names = {"(nothing)": None, **{state.value: state for state in State}}
    events = {event.value: event for event in Event}
    told = {}
    for line in DOC.read_text().splitlines():
        row = re.fullmatch(r"\| ([a-z()]+) \| ([a-z ]+) \| ([a-z]+) \|", line)
        if row and row.group(1) in names and row.group(2) in events:
            told.setdefault(names[row.group(1)], {})[events[row.group(2)]] = names[row.group(3)]
    assert told == {state: dict(events) for state, events in STATES.items() if events}
