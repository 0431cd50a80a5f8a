"""Whatever is asked and told, in whatever order: the store on the disk and the one in memory say the same."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mailgw.storage.in_process import InProcessStore
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump
from mailgw.values.address import NULL, Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Notice, Order, Selection, Settlement, State

DESTINATIONS = st.sampled_from([Destination("", ""), Destination("mx", "a.example"), Destination("mx", "b.example"), Destination("lmtp")])
ADDRESSES = st.sampled_from([Address.parse(text) for text in ("A@a.example", "a@a.example", "ü@b.example", '"x y"@a.example')])
TIMES = st.integers(0, 5).map(float)
RECIPIENTS = st.builds(Recipient, ADDRESSES, st.sampled_from([frozenset(), frozenset({"NEVER"})]), st.sampled_from(["", "rfc822;x"]))
CONTENTS = st.builds(Content.of, st.binary(max_size=5), st.sampled_from([b"", b"A: b\r\n"]))
SELECTIONS = st.builds(
    Selection,
    message=st.none() | st.integers(1, 4),
    sender=st.sampled_from(["", "", "<>", "a@A.example"]),
    recipient=st.sampled_from(["", "", "a@a.example", "Ü@b.example"]),
    domain=st.sampled_from(["", "", "A.EXAMPLE"]),
    gateway=st.sampled_from(["", "", "mx"]),
    state=st.none() | st.sampled_from(State),
    older_than=st.none() | TIMES,
    limit=st.just(1000) | st.integers(0, 3),
)


class BothStores(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.pump = Pump()
        self.stores = [SqliteStore.open(self.folder, self.pump), InProcessStore()]
        self.parcels = []

    def both(self, ask):
        one, other = [self.pump.run(ask(store)) for store in self.stores]
        assert one == other if not isinstance(one, (list, tuple)) else list(one) == list(other)
        return one

    @rule(
        sender=ADDRESSES | st.just(NULL),
        arrived=TIMES,
        content=CONTENTS,
        to=st.lists(st.tuples(RECIPIENTS, DESTINATIONS), min_size=1, max_size=4),
        hold=st.sampled_from(["", "", "odd"]),
    )
    def put(self, sender, arrived, content, to, hold):
        self.parcels += self.both(lambda store: store.put(Envelope(sender=sender, arrived=arrived), content, to, hold)).parcels

    @rule(destination=DESTINATIONS, now=TIMES, limit=st.integers(0, 5))
    def lease(self, destination, now, limit):
        self.parcels += self.both(lambda store: store.lease(destination, now, limit))

    @rule(data=st.data())
    def release(self, data):
        if self.parcels:
            parcel = self.parcels.pop(data.draw(st.integers(0, len(self.parcels) - 1)))
            self.both(lambda store: store.release([parcel]))

    @rule(data=st.data(), to=RECIPIENTS, destination=DESTINATIONS, content=CONTENTS, notices=st.integers(0, 2))
    def settle(self, data, to, destination, content, notices):
        if not self.parcels:
            return
        parcel = self.parcels.pop(data.draw(st.integers(0, len(self.parcels) - 1)))
        settlements = [
            data.draw(
                st.builds(
                    Settlement,
                    message=st.just(parcel.message),
                    recipient=st.just(queued.number),
                    state=st.sampled_from(State),
                    reply=st.just("said"),
                    due=TIMES,
                    attempts=st.integers(0, 3),
                    delay_told=st.booleans(),
                    destination=st.none() | DESTINATIONS,
                )
            )
            for queued in parcel.queued
        ]
        news = [Notice(Envelope(sender=NULL, arrived=1.0), content, to, destination)] * notices
        for put in self.both(lambda store: store.settle(settlements, news)):
            self.parcels += put.parcels

    @rule(selection=SELECTIONS, order=st.sampled_from(Order))
    def tell(self, selection, order):
        self.both(lambda store: store.tell(selection, order, "because"))

    @rule(selection=SELECTIONS)
    def find(self, selection):
        self.both(lambda store: store.find(selection))

    @rule()
    def restart(self):
        self.pump.run(self.stores[1].release(self.parcels))
        self.pump.run(self.stores[0].close())
        self.stores[0] = SqliteStore.open(self.folder, self.pump)
        self.parcels.clear()

    @invariant()
    def same(self):
        self.both(lambda store: store.waiting())
        self.both(lambda store: store.stats())
        self.both(lambda store: store.find(Selection()))
        assert self.stores[0].leased() == self.stores[1].leased() == sum(len(parcel.queued) for parcel in self.parcels)

    def teardown(self):
        self.pump.run(self.stores[0].close())
        shutil.rmtree(self.folder)


TestBothStores = BothStores.TestCase
TestBothStores.settings = settings(max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
