"""Attempts that are cancelled on their way, by an orderly stop or the time limit: who has got the message does not get it again."""

import pytest
from house import House
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailgw.config.members import Gateways
from mailgw.gateways.balance import Balance
from mailgw.gateways.copy import Copy
from mailgw.gateways.fail_over import FailOver
from mailgw.gateways.one_by_one import one_by_one
from mailgw.testing import ScriptedGateway
from mailgw.testing.gateways import HANG
from mailgw.values.delivery import delivered, later, never
from mailgw.values.ledger import State
from mailgw.values.reply import Reply

ANNA, BEN, CARL, DORA = everybody = [f"{name}@example.org" for name in ("anna", "ben", "carl", "dora")]
BUSY = later(Reply(451, "4.2.1", "busy"))
NO = never(Reply(550, "5.1.1", "no such user"))


class OneByOne:
    """Serves recipients as scripted, and hangs at the others."""

    def __init__(self, **script):
        self.script = script
        self.asked = []

    def deliver(self, shipment):
        async def serve(group):
            name = group[0].address.local_part
            self.asked.append(name)
            return self.script[name] if name in self.script else await Deferred()

        return one_by_one([(recipient,) for recipient in shipment.recipients], serve, Clock(), 1.0)


def fail_over(*gateways, kind=FailOver, **settings):
    by_name = {str(number): gateway for number, gateway in enumerate(gateways)}
    return kind(list(by_name), others=Gateways(by_name), clock=Clock(), **settings)


def balance(*gateways):
    return fail_over(*gateways, kind=Balance)


def copy(*gateways):
    by_name = {str(number): gateway for number, gateway in enumerate(gateways)}
    return Copy(list(by_name), others=Gateways(by_name))


ABOVE = {
    "alone": lambda one, two: one,
    "fail-over": fail_over,
    "fail-over after every deferral": lambda one, two: fail_over(one, two, after="later"),
    "balance": balance,
    "copy": lambda one, two: copy(one, ScriptedGateway()),
    "copy, the other way round": lambda one, two: copy(ScriptedGateway(), one),
    "fail-over of a copy": lambda one, two: fail_over(copy(one, ScriptedGateway()), two, after="later"),
    "copy of a fail-over": lambda one, two: copy(fail_over(one, two, after="later"), ScriptedGateway()),
}


def a_house(gateway, **settings):
    house = House(delivery_timeout=100.0, **settings)
    house.mailboxes.deliver = gateway.deliver
    return house


def stop(house, seconds=30):
    done = []
    Deferred.fromCoroutine(house.dispatcher.stop(seconds)).addBoth(done.append)
    house.pass_time(seconds)
    return done


def rows(house, **selection):
    return {row.address: (row.state, row.attempts, row.leased) for row in house.rows(**selection)}


@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
def test_who_was_served_before_a_stop_is_written_down_and_the_others_go_back_untried(above):
    one, two = OneByOne(anna=delivered(), ben=NO, carl=BUSY), ScriptedGateway()
    house = a_house(above(one, two))
    message = house.send(*everybody, "emil@example.org", sender="<>")
    assert stop(house) == [None]
    assert one.asked == ["anna", "ben", "carl", "dora"]
    assert two.attempts == 0
    assert rows(house, message=message) == {
        ANNA: (State.DELIVERED, 1, False),
        BEN: (State.FAILED, 1, False),
        CARL: (State.WAITING, 0, False),
        DORA: (State.WAITING, 0, False),
        "emil@example.org": (State.WAITING, 0, False),
    }
    assert sorted(type(event).__name__ for event in house.events) == ["Delivered", "Failed"]
    assert house.store.leased() == 0
    assert house.clock.getDelayedCalls() == []


@pytest.mark.parametrize("above", ABOVE.values(), ids=ABOVE)
def test_who_was_served_before_the_time_limit_is_not_forgotten(above):
    one, two = OneByOne(anna=delivered(), ben=NO), ScriptedGateway()
    house = a_house(above(one, two))
    message = house.send(ANNA, BEN, CARL, sender="<>")
    house.pass_time(101)
    assert two.attempts == 0
    assert {row.address: row.reply[:9] for row in house.rows(message=message)} == {ANNA: "250 2.0.0", BEN: "550 5.1.1", CARL: "451 4.4.7"}
    assert rows(house, message=message)[CARL] == (State.WAITING, 1, False)
    [fault] = house.noted("Fault")
    assert fault.problem == "no answer after 100 seconds"
    assert house.dispatcher.status()["active"] == 0


def test_slow_members_that_pass_the_time_limit_together():
    slow = OneByOne(anna=delivered(), ben=BUSY, carl=BUSY), OneByOne(ben=delivered())
    house = a_house(fail_over(*slow, after="later"))
    message = house.send(ANNA, BEN, CARL)
    house.pass_time(101)
    assert [one.asked for one in slow] == [["anna", "ben", "carl"], ["ben", "carl"]]
    assert {row.address: row.state for row in house.rows(message=message)} == {
        ANNA: State.DELIVERED,
        BEN: State.DELIVERED,
        CARL: State.WAITING,
    }


def test_a_copy_that_not_all_have_got_is_open():
    one, two = OneByOne(anna=delivered(), ben=delivered()), OneByOne(anna=delivered())
    house = a_house(copy(one, two))
    message = house.send(ANNA, BEN)
    house.pass_time(101)
    assert {row.address: row.state for row in house.rows(message=message)} == {ANNA: State.DELIVERED, BEN: State.WAITING}
    two.script["ben"] = delivered()
    house.dispatcher.start()
    house.pass_time(400)
    assert (one.asked, two.asked) == (["anna", "ben"], ["anna", "ben", "ben"])
    assert house.rows() == []


class Slow:
    """A gateway that has something to do, or to say, when it is cancelled."""

    def __init__(self, *, says=None, waits=(), raises=None):
        self.says, self.waits, self.raises = says, list(waits), raises

    async def deliver(self, shipment):
        try:
            await Deferred()
        except CancelledError:
            for waiting in self.waits:
                await waiting
            if self.raises:
                raise self.raises from None
            return {recipient.address: self.says for recipient in shipment.recipients[:1]}


def test_what_a_gateway_answers_a_moment_after_it_was_cancelled_counts():
    house = a_house(Slow(says=delivered(), waits=[waiting := Deferred()]))
    message = house.send(ANNA, BEN)
    done = stop(house)
    assert not done
    waiting.callback(None)
    assert done == [None]
    assert rows(house, message=message) == {ANNA: (State.DELIVERED, 1, False), BEN: (State.WAITING, 0, False)}


@pytest.mark.parametrize(
    "gateway",
    [
        pytest.param(Slow(waits=[Deferred(lambda _: None)]), id="does not end"),
        pytest.param(Slow(raises=ValueError("broken")), id="fails"),
        pytest.param(Slow(says=BUSY), id="says later"),
        pytest.param(Slow(says=42), id="says nonsense"),
    ],
)
def test_what_has_no_outcome_goes_back_untried_whatever_the_gateway_does(gateway):
    house = a_house(gateway)
    house.send(ANNA, BEN)
    done = stop(house)
    house.pass_time(0.5, 0.5)
    assert done == [None]
    assert rows(house) == {ANNA: (State.WAITING, 0, False), BEN: (State.WAITING, 0, False)}
    assert house.store.leased() == 0
    assert house.clock.getDelayedCalls() == []


def test_what_comes_after_that_moment_is_not_settled_again():
    house = a_house(Slow(says=delivered(), waits=[waiting := Deferred()]))
    house.send(ANNA)
    done = stop(house)
    house.pass_time(0.5, 0.5)
    assert done == [None]
    waiting.callback(None)
    assert rows(house) == {ANNA: (State.WAITING, 0, False)}
    assert house.noted("Delivered") == []


@pytest.mark.parametrize("end", ["stop", "time limit"])
def test_a_gateway_that_cannot_be_cancelled_keeps_the_others_from_nothing(end):
    def cancel(_):
        raise RuntimeError("not now")

    house = House(delivery_timeout=100.0)
    house.mailboxes.answers = [Deferred(cancel), HANG]
    house.send(ANNA)
    house.send(BEN)
    if end == "stop":
        done = stop(house)
        house.pass_time(0.5, 0.5)
        assert done == [None]
    else:
        house.pass_time(101)
    assert "not now" in " ".join(fault.problem for fault in house.noted("Fault"))
    assert {row.address: row.leased for row in house.rows()} == {ANNA: False, BEN: False}
    assert house.dispatcher.status()["active"] == 0


def test_something_that_a_gateway_waits_for_is_cancelled_by_others():
    waiting = Deferred()

    async def serve(group):
        return delivered() if group[0].address.local_part == "anna" else await waiting

    house = House()
    house.mailboxes.deliver = lambda shipment: one_by_one([(one,) for one in shipment.recipients], serve, Clock(), 1.0)
    message = house.send(ANNA, BEN)
    waiting.cancel()
    assert {row.address: row.state for row in house.rows(message=message)} == {ANNA: State.DELIVERED, BEN: State.WAITING}
    assert len(house.noted("Fault")) == 1
