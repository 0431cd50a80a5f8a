import email
from contextlib import suppress
from types import SimpleNamespace

import pytest
from attrs import evolve
from house import SCHEDULE, START, House
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from mailgw.interfaces import StoreFull, StoreUnavailable
from mailgw.queue.retry import Schedule
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.storage.in_process import InProcessStore
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.facts import MESSAGE, an_address, an_envelope
from mailgw.testing.gateways import HANG, OUTCOMES, ScriptedGateway
from mailgw.testing.running import run
from mailgw.testing.stores import Pump
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Handed, Recipient, Route, delivered, later, never, unknown
from mailgw.values.ledger import Order, Selection, State
from mailgw.values.reply import Reply

REFUSED = never(Reply(550, "5.1.1", "no such user"), "mx.example.org")
BUSY = later(Reply(451, "4.2.1", "busy"), "mx.example.org")
DOWN = later(Reply(451, "4.4.1", "connection refused"), unreachable=True)


def actions(shipment):
    """What a DSN says: {recipient: action}."""
    parts = email.message_from_bytes(shipment.content.read()).get_payload()
    blocks = [block for block in parts[1].get_payload() if block["Final-Recipient"]]
    return {block["Final-Recipient"].partition(";")[2]: block["Action"] for block in blocks}


# ── One message ──


@pytest.mark.parametrize("kind", ["mapping", "deferred", "later", "coroutine", "awaitable"])
def test_delivered_at_once_whatever_way_the_gateway_answers(kind):
    house = House()
    answer = {an_address("anna@example.org"): delivered()}
    waiting = Deferred()

    async def coroutine(shipment):
        return answer

    class Awaitable:
        def __await__(self):
            return succeed(answer).__await__()

    house.mailboxes.deliver = {
        "mapping": lambda shipment: answer,
        "deferred": lambda shipment: succeed(answer),
        "later": lambda shipment: waiting,
        "coroutine": coroutine,
        "awaitable": lambda shipment: Awaitable(),
    }[kind]
    message = house.send("anna@example.org")
    waiting.callback(answer)
    assert house.rows() == []
    assert house.store.leased() == 0
    [event] = house.events
    assert (event.message, event.recipient, event.gateway, event.session) == (message, "anna@example.org", "mailboxes", "test")
    assert house.dispatcher.status()["lanes"] == 0


def test_one_transaction_fails_differently_and_exactly_the_failed_one_bounces():
    house = House()
    house.mailboxes.outcomes = {"ben@example.org": REFUSED, "carl@example.org": BUSY}
    house.internet.outcomes = {"dora@example.net": unknown("connection lost")}
    message = house.send("anna@example.org", "ben@example.org", "carl@example.org", "dora@example.net", "emil@elsewhere.example")
    assert [len(s.recipients) for s in house.mailboxes.shipments if s.sender] == [3]
    assert sorted(s.next_hop for s in house.internet.shipments) == ["elsewhere.example", "example.net"]
    states = {row.address: row.state for row in house.rows(message=message)}
    assert states == {
        "anna@example.org": State.DELIVERED,
        "ben@example.org": State.FAILED,
        "carl@example.org": State.WAITING,
        "dora@example.net": State.WAITING,
        "emil@elsewhere.example": State.DELIVERED,
    }
    [dsn] = house.dsns
    assert actions(dsn) == {"ben@example.org": "failed"}
    assert [str(recipient.address) for recipient in dsn.recipients] == ["sender@example.com"]
    assert dsn.recipients[0].notify == {"NEVER"}
    [bounced] = house.noted("Bounced")
    assert (bounced.message, bounced.action, bounced.to, bounced.session) == (message, "failed", "sender@example.com", "test")
    assert bounced.dsn == dsn.message
    assert [event.recipient for event in house.noted("Failed")] == ["ben@example.org"]
    assert {event.recipient: event.next_attempt for event in house.noted("Delayed")}.keys() == {"carl@example.org", "dora@example.net"}


def test_several_failures_of_one_shipment_are_one_dsn():
    house = House()
    house.mailboxes.outcomes = {"ben@example.org": REFUSED, "carl@example.org": REFUSED}
    house.send("anna@example.org", "ben@example.org", "carl@example.org")
    [dsn] = house.dsns
    assert actions(dsn) == {"ben@example.org": "failed", "carl@example.org": "failed"}


@pytest.mark.parametrize(
    ("sender", "notify", "outcome", "told"),
    [
        ("sender@example.com", (), REFUSED, {"failed"}),
        ("sender@example.com", ("NEVER",), REFUSED, None),
        ("sender@example.com", ("SUCCESS",), REFUSED, None),
        ("<>", (), REFUSED, None),
        ("<>", ("SUCCESS",), delivered(), None),
        ("sender@example.com", (), delivered(), None),
        ("sender@example.com", ("FAILURE", "DELAY"), delivered(), None),
        ("sender@example.com", ("SUCCESS",), delivered(), {"delivered"}),
        ("sender@example.com", ("SUCCESS",), delivered(handed=Handed.RELAY), {"relayed"}),
        ("sender@example.com", ("SUCCESS",), delivered(handed=Handed.DSN_RELAY), None),
    ],
)
def test_dsn_parameters(sender, notify, outcome, told):
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": outcome}
    house.send(Recipient(an_address("anna@example.org"), frozenset(notify)), sender=sender)
    found = [action for shipment in house.mailboxes.shipments[1:] for action in actions(shipment).values()]
    assert set(found) == (told or set())
    assert house.rows() == []


@pytest.mark.parametrize("heard", [True, False], ids=["its words", "ours"])
def test_a_dsn_names_a_server_only_for_what_that_said(heard):
    """RFC 3464 §2.3.5-6."""
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": evolve(never(Reply(550, "5.1.1", "no"), "mx.example"), heard=heard)}
    house.send("anna@example.org")
    [dsn] = house.dsns
    text = dsn.content.read()
    assert (b"mx.example said: 550 5.1.1 no" in text) == heard
    assert (b"Remote-MTA: dns; mx.example" in text) == heard
    assert (b"Diagnostic-Code: smtp;" if heard else b"Diagnostic-Code: x-mailgw;") in text
    assert house.noted("Failed")[0].peer == "mx.example"


def test_a_dsn_that_fails_is_not_bounced_again():
    house = House()
    house.mailboxes.otherwise = REFUSED
    house.send("anna@example.org")
    assert [bool(shipment.sender) for shipment in house.mailboxes.shipments] == [True, False]
    assert house.rows() == []


# ── Trying again ──


def test_a_deferral_is_tried_again_and_delivered():
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": [BUSY, BUSY, delivered()]}
    house.dispatcher.start()
    house.send("anna@example.org")
    [row] = house.rows()
    assert (row.attempts, row.reply, row.leased) == (1, "451 4.2.1 busy", False)
    assert 300 <= row.due - house.clock.seconds() <= 315
    house.pass_time(299)
    assert house.mailboxes.attempts == 1
    house.pass_time(17)
    assert house.mailboxes.attempts == 2
    house.pass_time(960)
    assert house.mailboxes.attempts == 3
    assert house.rows() == []
    assert not house.dsns


def test_warned_once_and_given_up_at_the_end():
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": BUSY}
    house.dispatcher.start()
    house.send("anna@example.org")
    house.pass_time(4 * 3600 - 5, 5)
    assert not house.dsns
    house.pass_time(10, 5)
    assert [actions(dsn) for dsn in house.dsns] == [{"anna@example.org": "delayed"}]
    house.pass_time(20 * 3600 - 30, 10)
    assert len(house.dsns) == 1
    house.pass_time(60, 10)
    assert [actions(dsn)["anna@example.org"] for dsn in house.dsns] == ["delayed", "failed"]
    assert b"Status: 4.4.7\r\n" in house.dsns[1].content.read()
    assert house.rows() == []


def test_no_number_of_deferrals_makes_a_bounce_before_its_time():
    house = House(schedules={"mailboxes": Schedule(retry=(1.0,), warn_after=None, give_up=100_000.0)})
    house.mailboxes.outcomes = {"anna@example.org": [BUSY, unknown("lost")]}
    house.dispatcher.start()
    house.send("anna@example.org")
    house.pass_time(3000)
    assert house.mailboxes.attempts > 1000
    assert not house.dsns
    assert [row.state for row in house.rows()] == [State.WAITING]


def test_what_waits_in_the_store_is_delivered_after_a_restart():
    house = House()
    for number in range(250):
        house.put(f"user{number}@example.org")
    house.put("anna@example.net")
    house.forget_leases()
    house.dispatcher.start()
    house.pass_time(3)
    assert house.rows() == []
    assert house.mailboxes.attempts == 250
    assert [shipment.next_hop for shipment in house.internet.shipments] == ["example.net"]


def test_old_mail_is_tried_once_after_a_long_night():
    house = House()
    house.put("anna@example.org")
    house.put("ben@example.org")
    house.mailboxes.outcomes = {"ben@example.org": BUSY}
    house.forget_leases()
    house.clock.advance(10 * 24 * 3600)
    house.dispatcher.start()
    house.pass_time(2)
    assert sorted(a for a in house.mailboxes.tried if "example.org" in a) == ["anna@example.org", "ben@example.org"]
    assert [actions(dsn) for dsn in house.dsns] == [{"ben@example.org": "failed"}]


# ── Routed again ──


def test_the_routes_of_today_decide_about_later_attempts():
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": BUSY}
    house.send("anna@example.org")
    house.rules = [Rule("otherwise", Default("internet", "192.0.2.1:25"))]
    house.internet.otherwise = BUSY
    house.dispatcher = house.another()
    house.dispatcher.start()
    house.pass_time(320)
    assert [(s.next_hop, len(s.recipients)) for s in house.internet.shipments] == [("192.0.2.1:25", 1)]
    assert house.mailboxes.attempts == 1
    assert [row.destination for row in house.rows()] == [Destination("internet", "192.0.2.1:25")]


class Routes:
    """A route with one answer for each local-part."""

    def __init__(self, **answers):
        self.answers = answers

    def route(self, facts):
        answer = self.answers.get(facts.recipient.local_part)
        if isinstance(answer, Exception):
            raise answer
        return answer


def test_no_route_is_permanent_and_a_broken_one_is_not():
    rules = [Rule("odd", Routes(anna=None, ben=ValueError("broken"), carl=Route("mailboxes"), sender=Route("mailboxes")))]
    house = House(rules=rules)
    house.put("anna@example.org", "ben@example.org", "carl@example.org")
    house.forget_leases()
    house.dispatcher.start()
    house.pass_time(2)
    assert [shipment.recipients[0].address.local_part for shipment in house.mailboxes.shipments] == ["sender", "carl"]
    assert actions(house.dsns[0]) == {"anna@example.org": "failed"}
    assert b"Status: 5.4.4\r\n" in house.dsns[0].content.read()
    assert {row.address: row.state for row in house.rows(recipient="ben@example.org")} == {"ben@example.org": State.WAITING}
    [fault] = house.noted("Fault")
    assert (fault.component, fault.session) == ("routing", "test")
    assert "broken" in fault.problem


def test_a_dsn_whose_route_is_broken_waits_unrouted():
    routes = Routes(sender=ValueError("broken"))
    house = House(rules=[Rule("odd", routes), Rule("otherwise", Default("mailboxes"))])
    house.mailboxes.outcomes = {"anna@example.org": REFUSED}
    house.dispatcher.start()
    house.send("anna@example.org")
    house.pass_time(2)
    [row] = house.rows()
    assert (row.sender, row.address, row.destination) == ("<>", "sender@example.com", Destination("", ""))
    routes.answers.clear()
    house.pass_time(400)
    assert len(house.dsns) == 1
    assert house.rows() == []


async def stubborn(facts):
    while True:
        with suppress(Exception):
            await Deferred()


@pytest.mark.parametrize("ending", [SystemExit(3), GeneratorExit()], ids=repr)
def test_a_route_that_would_end_us_is_a_fault(ending):
    house = House(rules=[Rule("odd", SimpleNamespace(route=lambda facts: fail(ending)))])
    house.put("anna@example.org")
    house.forget_leases()
    house.dispatcher.start()
    house.pass_time(40)
    assert "routing failed" in house.rows()[0].reply
    assert repr(ending) in house.noted("Fault")[0].problem


HANGING = {"hangs": lambda facts: Deferred(), "does not heed that its time is up": stubborn}


@pytest.mark.parametrize("route", HANGING.values(), ids=HANGING)
def test_a_route_that_hangs_is_not_waited_for_for_ever(route):
    house = House(rules=[Rule("slow", SimpleNamespace(route=route))])
    house.put("anna@example.org")
    house.forget_leases()
    house.dispatcher.start()
    house.pass_time(40)
    assert [row.leased for row in house.rows()] == [False]
    assert "routing failed" in house.rows()[0].reply


def test_looking_at_the_store_again_and_again_leaves_nothing_behind():
    house = House(schedules={"mailboxes": Schedule(retry=(86_400.0,), warn_after=None)})
    house.mailboxes.outcomes = {"far@example.org": BUSY}
    house.dispatcher.start()
    house.send("far@example.org")
    for number in range(300):
        house.put(f"n{number}@example.org")
        house.forget_leases()
        house.dispatcher.wake()
        house.pass_time(4)
    assert len(house.mailboxes.shipments) == 301
    assert len(house.dispatcher._reading._alarms) < 150
    house.mailboxes.outcomes = {}
    house.pass_time(2 * 86_400, 60)
    assert house.rows() == []


# ── Faults of a gateway ──


class Spiteful:
    def __repr__(self):
        raise RuntimeError("no repr")


class SpitefulMapping(dict):
    def get(self, *_):
        raise RuntimeError("no get")


@pytest.mark.parametrize(
    "answer",
    [
        RuntimeError("broken"),
        None,
        42,
        "delivered",
        [delivered()],
        {},
        {an_address("anna@example.org"): True},
        {"anna@example.org": delivered()},
        pytest.param(Spiteful(), id="an object without a repr"),
        pytest.param({an_address("anna@example.org"): Spiteful()}, id="an outcome without a repr"),
        pytest.param(SpitefulMapping(), id="a mapping that raises"),
        pytest.param("x" * 10_000_000, id="an answer without end"),
        pytest.param(RuntimeError(Spiteful()), id="an exception without a repr"),
    ],
    ids=repr,
)
def test_a_faulty_answer_is_later_with_one_fault(answer):
    house = House()
    house.mailboxes.answers = [answer]
    house.send("anna@example.org", "ben@example.org")
    assert {row.state for row in house.rows()} == {State.WAITING}
    assert {row.reply for row in house.rows()} == {"451 4.3.0 the gateway failed, see the log"}
    [fault] = house.noted("Fault")
    assert (fault.component, fault.session) == ("mailboxes", "test")
    assert len(fault.problem) < 5000
    assert not house.dispatcher.status()["backed_off"]


@pytest.mark.parametrize("ending", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_a_gateway_that_would_end_us_is_later_with_a_fault(ending):
    def deliver(shipment):
        raise ending

    house = House()
    house.dispatcher.start()
    house.mailboxes.deliver = deliver
    house.send("anna@example.org")
    assert {row.reply for row in house.rows()} == {"451 4.3.0 the gateway failed, see the log"}
    assert repr(ending) in house.noted("Fault")[0].problem
    del house.mailboxes.deliver
    house.pass_time(400)
    assert house.rows() == []


def test_a_missing_recipient_is_later_the_others_are_as_told():
    house = House()
    house.mailboxes.answers = [{an_address("anna@example.org"): delivered()}]
    house.send("anna@example.org", "ben@example.org")
    assert {row.address: row.state for row in house.rows()} == {"anna@example.org": State.DELIVERED, "ben@example.org": State.WAITING}
    assert len(house.noted("Fault")) == 1


def test_a_gateway_that_fails_later_is_the_same():
    house = House()
    house.mailboxes.last = HANG
    house.send("anna@example.org")
    house.mailboxes.hanging[0][1].errback(RuntimeError("broken"))
    assert [row.state for row in house.rows()] == [State.WAITING]
    assert "broken" in house.noted("Fault")[0].problem


ODD = {
    "a wait that is a text": ({"retry_after": "5"}, "busy"),
    "a wait that is a text, of one that is down": ({"retry_after": "5", "unreachable": True}, "busy"),
    "a peer that is none": ({"peer": None}, "busy"),
    "a peer in octets": ({"peer": b"mx.example"}, "busy"),
    "a peer that cannot be written": ({"peer": "mx\udcff.example"}, "busy"),
    "a text that cannot be written": ({"reply": Reply(451, "4.2.1", "busy\udcff")}, "busy?"),
    "handed nowhere": ({"handed": "nowhere"}, "busy"),
}


@pytest.mark.parametrize(("odd", "said"), ODD.values(), ids=ODD)
def test_an_outcome_that_is_half_nonsense_counts_with_the_other_half_and_stops_nobody(tmp_path, odd, said):
    pump = Pump()
    store = SqliteStore.open(tmp_path, pump)
    house = House(store=store)
    house.mailboxes.outcomes = {"anna@example.org": evolve(later(Reply(451, "4.2.1", "busy")), **odd)}
    for recipient in ("anna@example.org", "ben@example.org"):
        routed = [(Recipient(an_address(recipient)), Destination("mailboxes"))]
        house.dispatcher.offer(pump.run(store.put(an_envelope(arrived=START), Content.of(MESSAGE), routed)))
    [row] = pump.run(settled(store))[:1]
    assert (row.address, row.state, row.leased, row.reply) == ("anna@example.org", State.WAITING, False, f"451 4.2.1 {said}")
    assert not house.dispatcher.status()["store_blocked"]
    [fault] = house.noted("Fault")
    assert fault.problem.startswith("gateway gave an odd outcome for anna@example.org: Outcome(")
    pump.run(store.close())


async def settled(store):
    """What is in the store when nothing of it is leased any more."""
    for _ in range(100):
        await store.waiting()  # the writer's thread has done what came before
        if not store.leased():
            break
    return await store.find(Selection())


def test_an_odd_outcome_that_says_delivered_is_not_tried_again():
    house = House()
    house.mailboxes.outcomes = {"anna@example.org": evolve(delivered(), handed="nowhere", peer=None)}
    house.send(Recipient(an_address("anna@example.org"), frozenset({"SUCCESS"})))
    assert house.rows() == []
    assert [set(actions(dsn).values()) for dsn in house.dsns] == [{"delivered"}]
    assert len(house.noted("Fault")) == 1


def test_a_gateway_that_is_gone():
    house = House(gateways={})
    house.dispatcher.start()
    house.send("anna@example.org")
    house.pass_time(1)
    assert [row.state for row in house.rows()] == [State.WAITING]
    assert house.noted("Fault")[0].component == "mailboxes"


def test_other_routes_and_gateways_are_used_from_now_on_and_what_is_under_way_ends_with_the_old_ones():
    house = House(connections={"mailboxes": 1})
    house.dispatcher.start()
    house.mailboxes.answers = [HANG]
    house.send("anna@example.org")  # is under way
    house.send("ben@example.org")  # waits for its turn
    archive = ScriptedGateway()
    house.dispatcher.reconfigure(
        routing=Routing([Rule("otherwise", Default("archive"))]), gateways={"archive": archive}, schedules={}, connections={"archive": 5}
    )
    house.pass_time(1)
    assert [str(one.address) for shipment in archive.shipments for one in shipment.recipients] == ["ben@example.org"]
    house.send("dora@example.org")  # a session that began before knows only the old gateway
    house.pass_time(1)
    assert [str(one.address) for shipment in archive.shipments for one in shipment.recipients] == ["ben@example.org", "dora@example.org"]
    assert [row.address for row in house.rows()] == ["anna@example.org"]
    house.mailboxes.answer()
    assert house.rows() == []
    assert house.noted("Fault") == []


def test_a_hanging_delivery_is_ended_by_the_time_out():
    house = House(delivery_timeout=100.0)
    house.mailboxes.answers = [HANG, HANG]
    house.send("anna@example.org")
    house.pass_time(50)
    house.send("ben@example.org")
    assert house.dispatcher.status()["active"] == 2
    house.pass_time(51)
    assert house.dispatcher.status()["active"] == 1
    [fault] = house.noted("Fault")
    assert fault.problem == "no answer after 100 seconds"
    assert {row.address: row.leased for row in house.rows()} == {"anna@example.org": False, "ben@example.org": True}
    house.mailboxes.answer(2)  # too late for the first, in time for the second
    assert {row.address: row.reply for row in house.rows()} == {"anna@example.org": "451 4.4.7 the gateway did not answer in time"}
    assert house.dispatcher.status()["active"] == 0


# ── A dead destination ──


def test_a_dead_destination_costs_one_attempt_for_each_back_off():
    house = House()
    house.internet.otherwise = DOWN
    house.dispatcher.start()
    for number in range(300):
        house.send(f"user{number}@dead.example")
    assert house.internet.attempts == 1
    status = house.dispatcher.status()
    assert status["waiting"] == 0
    assert status["memory"] == 0
    [backed_off] = status["backed_off"]
    assert (backed_off["next_hop"], backed_off["failures"], backed_off["reply"]) == ("dead.example", 1, "451 4.4.1 connection refused")
    house.pass_time(3600)
    # At 0, 5 and 20 minutes; nobody is due again within the hour: three attempts, not 300 times three.
    assert house.internet.attempts == 3
    assert {row.state for row in house.rows()} == {State.WAITING}
    assert house.store.leased() == 0
    assert house.rows()[0].reply == "451 4.4.1 connection refused"


def test_attempts_that_run_at_the_same_time_back_off_once():
    house = House()
    house.internet.answers = [HANG] * 5
    house.internet.otherwise = DOWN
    for number in range(5):
        house.send(f"user{number}@dead.example")
    house.internet.answer(5)
    [backed_off] = house.dispatcher.status()["backed_off"]
    assert backed_off["failures"] == 1


def test_the_living_are_served_while_others_are_dead():
    house = House()
    house.internet.otherwise = DOWN
    house.dispatcher.start()
    for number in range(50):
        house.send(f"user{number}@dead{number}.example", f"user{number}@example.org")
    assert house.mailboxes.attempts == 50
    house.internet.otherwise = delivered()
    house.send("anna@living.example")
    assert house.internet.tried[-1] == "anna@living.example"


def test_mail_flows_again_when_the_destination_is_back():
    house = House()
    house.internet.otherwise = DOWN
    house.dispatcher.start()
    for number in range(150):
        house.send(f"user{number}@dead.example")
    house.pass_time(1000)
    house.internet.otherwise = delivered()
    house.pass_time(4000)
    assert house.rows() == []
    assert not house.dispatcher.status()["backed_off"]


def test_mail_for_a_dead_destination_is_warned_about_and_given_up_in_time():
    house = House()
    house.internet.otherwise = DOWN
    house.dispatcher.start()
    for number in range(250):
        house.send(f"user{number}@dead.example")
    house.pass_time(4 * 3600 + 60, 5)
    assert len(house.dsns) == 250
    house.pass_time(20 * 3600, 20)
    assert len(house.dsns) == 500
    assert [*house.rows()] == []
    assert house.internet.attempts < 110


def test_a_destination_that_asks_for_more_patience_than_ours_gets_it():
    house = House()
    house.dispatcher.start()
    house.internet.outcomes["bob@busy.example"] = [later("not now", retry_after=2000.0), delivered()]
    house.send("bob@busy.example", "carl@else.example")
    house.pass_time(1990)
    assert house.internet.tried == ["bob@busy.example", "carl@else.example"]
    house.pass_time(30)
    assert house.internet.tried[2:] == ["bob@busy.example"]
    assert not house.rows()


def test_a_destination_that_asks_for_less_patience_than_ours_does_not_get_it():
    house = House()
    house.dispatcher.start()
    house.internet.outcomes["bob@busy.example"] = [later("not now", retry_after=10.0), delivered()]
    house.send("bob@busy.example")
    house.pass_time(290)
    assert house.internet.attempts == 1
    house.pass_time(60)
    assert house.internet.attempts == 2


def test_the_whole_destination_is_left_alone_for_as_long_as_it_asks():
    house = House()
    house.dispatcher.start()
    house.internet.answers = [{an_address("bob@busy.example"): later("slow down", unreachable=True, retry_after=2000.0)}]
    house.send("bob@busy.example")
    house.pass_time(1000)
    house.send("dora@busy.example")  # what was asked for once is not asked for again by each message
    [backed_off] = house.dispatcher.status()["backed_off"]
    assert backed_off["until"] == START + 2000.0
    house.pass_time(990)
    assert house.internet.attempts == 1
    house.pass_time(400)
    assert sorted(house.internet.tried[1:]) == ["bob@busy.example", "dora@busy.example"]
    assert not house.dispatcher.status()["backed_off"]


def test_an_operator_can_have_a_dead_destination_tried_at_once():
    house = House()
    house.internet.otherwise = DOWN
    house.dispatcher.start()
    house.send("anna@dead.example")
    house.send("ben@dead.example")
    house.internet.otherwise = delivered()
    run(house.store.tell(Selection(domain="dead.example"), Order.RETRY))
    house.dispatcher.wake()
    house.pass_time(2, 0.1)
    assert house.rows() == []


def test_a_released_message_is_found_by_wake():
    house = House()
    house.dispatcher.start()
    house.clock.advance(0)
    put = house.put("anna@example.org")
    house.forget_leases()
    run(house.store.tell(Selection(message=put.message), Order.HOLD))
    house.pass_time(10)
    assert house.mailboxes.attempts == 0
    run(house.store.tell(Selection(message=put.message), Order.RELEASE))
    house.dispatcher.wake()
    house.pass_time(1)
    assert house.mailboxes.attempts == 1


# ── Fairness and bounds ──


def test_destinations_take_turns():
    house = House(connections_total=1)
    house.mailboxes.answers = [HANG]
    house.send("first@example.org")
    for name in ("a", "b", "c"):
        for number in range(5):
            house.send(f"{name}{number}@{name}.example")
    house.mailboxes.answer()
    assert [address.partition("@")[0] for address in house.internet.tried] == [f"{n}{i}" for i in range(5) for n in "abc"]


def test_connections_are_bounded_for_a_destination_and_in_total():
    house = House(connections={"internet": 3}, connections_default=2, connections_total=7)
    house.internet.last = house.mailboxes.last = HANG
    for number in range(10):
        house.send(f"user{number}@one.example")
        house.send(f"user{number}@example.org")
    assert len(house.internet.hanging) == 3
    assert len(house.mailboxes.hanging) == 2
    for number in range(10):
        house.send(f"user{number}@two.example")
    assert house.dispatcher.status()["active"] == 7
    house.mailboxes.answer()
    assert house.dispatcher.status()["active"] == 7


def test_memory_is_bounded_and_nothing_is_forgotten():
    house = House(memory=200_000, connections_default=2)
    house.mailboxes.last = HANG
    house.dispatcher.start()
    for number in range(60):
        house.send(f"user{number}@example.org", content=b"Subject: x\r\n\r\n" + b"x" * 10_000)
        assert house.dispatcher.status()["memory"] <= 200_000
    assert house.store.leased() < 20
    house.internet.last = OUTCOMES
    house.send("anna@living.example", content=b"x" * 10_000)  # there is always room for another destination
    assert house.internet.attempts == 1
    for _ in range(100):
        house.mailboxes.answer(2)
        house.pass_time(2, 0.5)
        assert house.dispatcher.status()["memory"] <= 200_000
    assert house.rows() == []
    assert sorted(house.mailboxes.tried) == sorted(f"user{number}@example.org" for number in range(60))


def test_what_is_bigger_than_the_bound_is_delivered_all_the_same():
    house = House(memory=10_000)
    house.send("anna@example.org", content=b"x" * 100_000)
    assert house.rows() == []


@pytest.mark.parametrize("is_hanging", [False, True], ids=["at once", "later"])
def test_ten_thousand_offers(is_hanging):
    house = House(connections_default=50)
    if is_hanging:
        house.mailboxes.last = HANG
    puts = [house.put(f"user{number}@example.org") for number in range(10_000)]
    house.dispatcher.start()
    for put in puts:
        house.dispatcher.offer(put)
    if is_hanging:
        assert house.store.leased() < 10_000  # what is beyond the bound of memory was given back
    for _ in range(250):
        house.mailboxes.answer(50)
        house.clock.advance(0.05)
    assert house.rows() == []
    assert house.mailboxes.attempts == 10_000
    assert house.store.leased() == 0
    assert house.dispatcher.status()["memory"] == 0


def test_the_reactor_has_its_turn_between_batches():
    house = House(connections_default=1000, connections_total=1000)
    puts = [house.put(f"user{number}@one.example") for number in range(450)]
    house.store.trouble = StoreUnavailable("not now")
    for put in puts:
        house.dispatcher.offer(put)  # the first cannot be settled, so the others wait
    assert house.internet.attempts == 1
    house.store.trouble = None
    seen = []

    def look():
        seen.append(house.internet.attempts)
        if seen[-1] < 450:
            house.clock.callLater(0, look)

    house.clock.callLater(1, look)  # the store is tried again at this moment, just before
    house.clock.advance(1)
    assert seen == [101, 201, 301, 401, 450]


# ── A store in trouble ──


class SlowStore(InProcessStore):
    """Settles when told to."""

    def __init__(self):
        super().__init__()
        self.calls = []

    async def settle(self, settlements, notices=()):
        gate = Deferred()
        self.calls.append((len(settlements), gate))
        await gate
        return await super().settle(settlements, notices)


def test_what_finishes_while_the_store_is_busy_is_settled_in_one_call():
    store = SlowStore()
    house = House(store=store)
    for number in range(50):
        house.send(f"user{number}@example.org")
    assert [size for size, _ in store.calls] == [1]
    store.calls[0][1].callback(None)
    assert [size for size, _ in store.calls] == [1, 49]
    store.calls[1][1].callback(None)
    assert house.rows() == []


def test_a_settlement_is_kept_until_the_store_takes_it_and_nothing_is_delivered_twice():
    house = House()
    house.mailboxes.outcomes = {"ben@example.org": REFUSED}
    house.dispatcher.start()
    house.clock.advance(0)
    puts = [house.put("anna@example.org"), house.put("ben@example.org"), house.put("carl@example.org")]
    house.store.trouble = StoreUnavailable("disk on fire")
    for put in puts:
        house.dispatcher.offer(put)
    house.pass_time(300)
    assert house.mailboxes.tried == ["anna@example.org"]  # what could not be written down is not begun
    assert house.dispatcher.status()["store_blocked"] is True
    assert [fault.component for fault in house.noted("Fault")] == ["store"]
    house.store.trouble = None
    house.pass_time(60)
    assert sorted(house.mailboxes.tried) == ["anna@example.org", "ben@example.org", "carl@example.org", "sender@example.com"]
    assert house.rows() == []
    assert house.dispatcher.status()["store_blocked"] is False


class FullStore(InProcessStore):
    """Has no room for DSNs."""

    is_full = True

    async def settle(self, settlements, notices=()):
        if notices and self.is_full:
            raise StoreFull("no room")
        return await super().settle(settlements, notices)


def test_a_bounce_without_room_does_not_hold_up_the_others():
    store = FullStore()
    house = House(store=store)
    house.mailboxes.outcomes = {"ben@example.org": REFUSED}
    for number in range(5):
        house.send("ben@example.org")
        house.send(f"user{number}@example.org")
    house.pass_time(500)
    assert {(row.address, row.leased) for row in house.rows()} == {("ben@example.org", True)}
    assert len(house.rows()) == 5
    store.is_full = False
    house.pass_time(70)
    assert house.rows() == []
    assert len(house.dsns) == 5


def test_a_store_that_cannot_be_read_is_asked_again():
    house = House()
    house.put("anna@example.org")
    house.forget_leases()
    house.store.trouble = StoreUnavailable("not now")
    house.dispatcher.start()
    house.pass_time(20)
    assert house.noted("Fault")
    house.store.trouble = None
    house.pass_time(6)
    assert house.rows() == []


# ── The end ──


def test_stop_lets_running_deliveries_end_and_releases_the_rest():
    house = House(connections_default=1)
    house.mailboxes.last = HANG
    house.dispatcher.start()
    house.send("anna@example.org")
    house.send("ben@example.org")
    done = []
    Deferred.fromCoroutine(house.dispatcher.stop(30)).addBoth(done.append)
    assert {row.address: row.leased for row in house.rows()} == {"anna@example.org": True, "ben@example.org": False}
    house.send("carl@example.org")
    house.pass_time(5)
    assert not done
    house.mailboxes.answer()
    assert done == [None]
    assert {row.address: row.leased for row in house.rows()} == {"ben@example.org": False, "carl@example.org": False}
    assert house.mailboxes.tried == ["anna@example.org"]
    assert house.clock.getDelayedCalls() == []


def test_stop_does_not_wait_for_ever():
    house = House()
    house.mailboxes.last = HANG
    house.send("anna@example.org")
    done = []
    Deferred.fromCoroutine(house.dispatcher.stop(30)).addBoth(done.append)
    house.pass_time(31)
    assert done == [None]
    assert [(row.leased, row.attempts) for row in house.rows()] == [(False, 0)]
    assert house.mailboxes.hanging[0][1].called  # cancelled
    assert house.clock.getDelayedCalls() == []


def test_stop_writes_down_what_the_store_did_not_take_before():
    house = House()
    put = house.put("anna@example.org")
    house.store.trouble = StoreUnavailable("not now")
    house.dispatcher.offer(put)
    done = []
    Deferred.fromCoroutine(house.dispatcher.stop(30)).addBoth(done.append)
    house.clock.advance(0.5)
    assert not done
    house.store.trouble = None
    house.pass_time(5)
    assert done == [None]
    assert house.rows() == []
    assert house.clock.getDelayedCalls() == []


def test_stop_with_nothing_to_do_is_at_once():
    house = House()
    house.dispatcher.start()
    run(house.dispatcher.stop(30))
    assert house.clock.getDelayedCalls() == []


def test_one_timer_however_much_waits():
    house = House()
    house.mailboxes.otherwise = BUSY
    house.internet.otherwise = BUSY
    house.dispatcher.start()
    for number in range(100):
        house.send(f"user{number}@example.org", f"user{number}@d{number}.example")
    house.clock.advance(0)
    assert isinstance(house.clock, Clock)
    assert len(house.clock.getDelayedCalls()) == 1
    assert SCHEDULE.retry[0] == 300.0
