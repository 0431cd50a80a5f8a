"""Bad weather: random outcomes, hanging gateways, a store that fails now and then, restarts. Nothing may be lost or done twice."""

import email
from collections import Counter
from random import Random

import pytest
from house import House
from twisted.internet.defer import Deferred

from mailgw.interfaces import StoreUnavailable
from mailgw.queue.retry import Schedule
from mailgw.testing.gateways import HANG, OUTCOMES
from mailgw.values.delivery import delivered, later, never, unknown
from mailgw.values.reply import Reply

SCHEDULE = Schedule(retry=(60.0, 300.0, 600.0), warn_after=7200.0, give_up=36_000.0)
DOWN = later(Reply(451, "4.4.1", "connection refused"), unreachable=True)
WEATHER = [delivered(), delivered(), later("busy"), unknown("lost"), never("no"), DOWN]


class Weather:
    """Changes the outcomes of both gateways whenever it is asked."""

    def __init__(self, house, chance):
        self.house = house
        self.chance = chance

    def change(self):
        house, chance = self.house, self.chance
        house.mailboxes.otherwise = chance.choice(WEATHER[:-1])
        house.internet.otherwise = chance.choice(WEATHER)
        house.internet.answers = [HANG] * chance.choice([0, 0, 2]) + [RuntimeError("broken")] * chance.choice([0, 0, 1])
        house.store.trouble = StoreUnavailable("rain") if chance.random() < 0.15 else None

    def clear(self):
        house = self.house
        house.mailboxes.otherwise = house.internet.otherwise = delivered()
        house.mailboxes.answers = house.internet.answers = []
        house.internet.last = OUTCOMES
        house.store.trouble = None


@pytest.mark.parametrize("seed", range(6))
def test_everything_ends_well(seed):
    chance = Random(seed)
    house = House(
        schedules={"mailboxes": SCHEDULE, "internet": SCHEDULE},
        connections_default=3,
        connections_total=5,
        memory=60_000,
        delivery_timeout=200.0,
    )
    weather = Weather(house, chance)
    house.dispatcher.start()
    sent = []
    for day in range(60):
        house.store.trouble = None
        for number in range(chance.randrange(8)):
            name = f"m{day}-{number}"
            recipients = [f"{name}-{i}@{chance.choice(['example.org', 'a.example', 'b.example', 'c.example'])}" for i in range(3)]
            sent += recipients
            house.send(*recipients)
        weather.change()
        house.pass_time(chance.choice([5, 100, 1000]), 2.5)
        if chance.random() < 0.1:
            house.store.trouble = None
            done = []
            Deferred.fromCoroutine(house.dispatcher.stop(20)).addBoth(done.append)
            house.pass_time(25)
            assert done == [None]
            assert house.store.leased() == 0
            house.dispatcher = house.another()
            house.dispatcher.start()
        house.mailboxes.answer(chance.randrange(3))
        house.internet.answer(chance.randrange(3))
    weather.clear()
    house.pass_time(40_000, 10)
    assert house.rows() == []
    assert house.store.leased() == 0
    status = house.dispatcher.status()
    assert (status["active"], status["waiting"], status["memory"], status["unsettled"]) == (0, 0, 0, 0)
    arrived = Counter(event.recipient for event in house.noted("Delivered") if event.recipient != "sender@example.com")
    failed = Counter(event.recipient for event in house.noted("Failed") if event.recipient != "sender@example.com")
    assert sorted(arrived + failed) == sorted(sent)  # everybody, and everybody once
    assert set((arrived + failed).values()) == {1}
    assert failed
    told = Counter(event.to for event in house.noted("Bounced") if event.action == "failed")
    dsns = Counter()
    for shipment in house.mailboxes.shipments:
        if not shipment.sender:
            parts = email.message_from_bytes(shipment.content.read()).get_payload()
            blocks = [block for block in parts[1].get_payload() if block["Action"] == "failed"]
            dsns.update({(shipment.message, block["Final-Recipient"].partition(";")[2]) for block in blocks})
    assert sum(told.values()) >= 1
    assert {recipient for _, recipient in dsns} == set(failed)
    assert house.noted("Fault")
