"""The machine's clock is set while mail waits and is being delivered."""

import pytest
from house import SCHEDULE, House

from mailgw.testing.gateways import HANG
from mailgw.testing.running import run
from mailgw.values.delivery import delivered, later
from mailgw.values.reply import Reply

HOURS = 3600.0
REFUSED = later(Reply(451, "4.3.0", "not now"))
DEAD = later(Reply(451, "4.4.1", "no answer"), unreachable=True)


def set_clock(house, by):
    """What `mailgw.timekeeping` does: timers keep their pace, and the dispatcher is told."""
    for call in house.clock.getDelayedCalls():
        call.delay(by)
    house.clock.rightNow += by
    run(house.dispatcher.clock_was_set(by))


@pytest.fixture
def house():
    house = House()
    house.dispatcher.start()
    return house


@pytest.mark.parametrize("by", [10 * HOURS, -10 * HOURS, -100 * 24 * HOURS], ids=["forward", "back", "far back"])
def test_a_deferral_is_tried_in_time(house, by):
    house.mailboxes.otherwise = REFUSED
    house.send("a@example.org")
    assert len(house.mailboxes.shipments) == 1
    house.pass_time(60)
    house.mailboxes.otherwise = delivered()
    set_clock(house, by)
    house.pass_time(SCHEDULE.retry[0] * 1.05)
    assert len(house.mailboxes.shipments) == 2
    assert house.rows() == []


@pytest.mark.parametrize("by", [10 * HOURS, -10 * HOURS], ids=["forward", "back"])
def test_a_dead_destination_keeps_its_back_off(house, by):
    house.mailboxes.otherwise = DEAD
    for number in range(20):
        house.send(f"n{number}@example.org", sender="")
    tried = len(house.mailboxes.shipments)
    house.pass_time(10)
    set_clock(house, by)
    house.pass_time(SCHEDULE.retry[0] - 60)
    assert len(house.mailboxes.shipments) == tried
    house.mailboxes.otherwise = delivered()
    # Those that have become due by a step forward are put off once more, without an attempt.
    house.pass_time(120 if by < 0 else SCHEDULE.retry[1])
    assert house.rows() == []


@pytest.mark.parametrize("by", [10 * HOURS, -10 * HOURS], ids=["forward", "back"])
def test_a_delivery_keeps_its_time_limit(by):
    house = House(delivery_timeout=600.0)
    house.dispatcher.start()
    house.mailboxes.last = HANG
    house.send("a@example.org", sender="")
    house.pass_time(300)
    set_clock(house, by)
    house.pass_time(299)
    assert [row.reply for row in house.rows()] == [""]
    house.pass_time(2)
    assert ["did not answer in time" in row.reply for row in house.rows()] == [True]


def test_fresh_mail_is_given_up_with_a_bounce_or_not_at_all(house):
    house.mailboxes.otherwise = REFUSED
    house.send("a@example.org", sender="b@example.com")
    house.pass_time(60)
    set_clock(house, 2 * SCHEDULE.give_up)
    house.pass_time(60)
    assert [type(event).__name__ for event in house.noted("Failed", "Bounced")] == ["Failed", "Bounced"]


def test_new_mail_does_not_mind(house):
    for by in (10 * HOURS, -20 * HOURS):
        set_clock(house, by)
        house.send("a@example.org")
        assert house.rows() == []
    assert all(event.seconds >= 0 for event in house.noted("Delivered"))
