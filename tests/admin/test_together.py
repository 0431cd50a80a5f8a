"""Several queues that answer as one."""

from functools import partial

import pytest
from attrs import define, field
from twisted.internet.task import Clock

from mailgw.admin.merging import add_up
from mailgw.admin.operations import Operations
from mailgw.admin.reading import Refusal
from mailgw.admin.signpost import Signpost
from mailgw.admin.together import Together
from mailgw.journal import Journal
from mailgw.routing import Routing
from mailgw.storage.in_process import InProcessStore
from mailgw.storage.parts import NUMBERS, part_of
from mailgw.testing import a_client, an_envelope, run
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Recipient

NOW = 1_800_000_000.0


@define
class Away:
    """A member that does not answer."""

    async def perform(self, operation, arguments):
        raise Refusal("unavailable", "worker 2 does not answer")


async def recovered(part, folder):
    """Only part 2 has such a folder."""
    if part != 2:
        raise Refusal("unavailable", "there is no such folder")
    return {"recovered": 1, "unreadable": [], "left": 0}


def operations(part, domains):
    """The operations of a part with one message for each domain, on hold."""
    store = InProcessStore()
    store._last_message = (part - 1) * NUMBERS

    async def fill():
        for number, domain in enumerate(domains):
            await store.put(
                an_envelope("a@example.com", arrived=NOW - 100 * part - number),
                Content.of(b"Subject: x\r\n\r\nx\r\n"),
                [(Recipient(Address.parse(f"{name}@{domain}")), Destination("internet", domain)) for name in ("b", "c")],
                hold="wait",
            )

    run(fill())
    clock = Clock()
    clock.advance(NOW)
    servers = {"192.0.2.53:53": {"questions": 5, "failed": part}}
    condition = {
        "listeners": {"mx": {"sessions": part, "endpoints": ["tcp:25"]}},
        "faults": 1,
        "store": {"room": 10 * part, "damage": ""},
        "resolver": {"hits": 7, "misses": 3, "in_flight": part, "kept": 2, "name_servers": servers},
    }
    return Operations(
        desk=store,
        clock=clock,
        journal=Journal(()),
        signpost=Signpost(Routing([]), {}, {}),
        wake=lambda: None,
        recover=partial(recovered, part),
        present=lambda: [a_client(ip="192.0.2.1", session=f"session{part}")],
        condition=lambda: condition,
    )


@define
class House:
    members: dict = field(factory=lambda: {1: operations(1, ["a.example", "b.example"]), 2: operations(2, ["b.example"])})
    away: list = field(factory=list)
    together: Together = field(init=False)

    def __attrs_post_init__(self):
        self.together = Together(members=lambda: self.members, part_of=part_of, unattended=lambda: self.away)

    def ask(self, operation, **arguments):
        return run(self.together.perform(operation, arguments))


@pytest.fixture
def house():
    return House()


def test_the_fixture_numbers_messages_by_part(house):
    assert [entry["message"] for entry in house.ask("queue_list", selection={})["entries"]] == [1, 1, 2, 2, NUMBERS + 1, NUMBERS + 1]


@pytest.mark.parametrize(
    ("limit", "messages", "more"), [(1, [1], True), (4, [1, 1, 2, 2], True), (5, [1, 1, 2, 2, NUMBERS + 1], True), (6, None, False)]
)
def test_a_list_keeps_its_limit(house, limit, messages, more):
    answer = house.ask("queue_list", selection={"limit": limit})
    assert answer["more"] is more
    assert messages is None or [entry["message"] for entry in answer["entries"]] == messages
    assert "missing" not in answer


def test_a_selection_holds_for_all(house):
    answer = house.ask("queue_list", selection={"domain": "b.example"})
    assert [entry["message"] for entry in answer["entries"]] == [2, 2, NUMBERS + 1, NUMBERS + 1]
    assert [entry["recipient"] for entry in answer["entries"]] == ["b@b.example", "c@b.example"] * 2


def test_stats_are_added_before_they_are_cut(house):
    answer = house.ask("queue_stats", limit=1)
    assert answer["destinations"][0]["next_hop"] == "b.example"
    assert answer["destinations"][0]["held"] == 4
    assert answer["destinations"][0]["oldest"] == int(NOW - 200)
    assert answer["more"] is True
    assert answer["total"]["held"] == 6
    assert house.ask("queue_stats")["more"] is False


@pytest.mark.parametrize("message", [1, NUMBERS + 1])
def test_one_message_is_asked_of_who_has_it(house, message):
    assert house.ask("queue_show", message=message)["message"] == message
    assert house.ask("queue_content", message=message)["size"] == 17


@pytest.mark.parametrize(
    ("selection", "everything", "recipients"),
    [
        ({"messages": [1]}, False, 2),
        ({"messages": [1, NUMBERS + 1]}, False, 4),
        ({"messages": [1, NUMBERS + 1, 7 * NUMBERS + 5]}, False, 4),
        ({"messages": [7 * NUMBERS + 5]}, False, 0),
        ({"messages": [1, NUMBERS + 1], "domain": "a.example"}, False, 2),
        ({"domain": "b.example"}, False, 4),
        ({}, True, 6),
    ],
    ids=["one", "in both parts", "and one that is not there", "none that is there", "and a domain", "a domain", "everything"],
)
@pytest.mark.parametrize("operation", ["queue_release", "queue_drop"])
def test_orders_reach_all_that_match(house, operation, selection, everything, recipients):
    assert house.ask(operation, selection=selection, everything=everything) == {"recipients": recipients}


@pytest.mark.parametrize(
    ("operation", "arguments", "kind"),
    [
        ("queue_show", {"message": 3}, "not-found"),
        ("queue_show", {"message": 9 * NUMBERS + 1}, "not-found"),
        ("queue_show", {"message": "one"}, "bad-request"),
        ("queue_show", {}, "bad-request"),
        ("queue_content", {"message": True}, "bad-request"),
        ("queue_list", {"selection": {"limit": 0}}, "bad-request"),
        ("queue_list", {"selection": 5}, "bad-request"),
        ("queue_list", {}, "bad-request"),
        ("queue_stats", {"limit": "many"}, "bad-request"),
        ("queue_stats", {"unknown": 1}, "bad-request"),
        ("queue_hold", {"selection": {}}, "bad-request"),
        ("queue_hold", {"selection": {"messages": []}}, "bad-request"),
        ("queue_hold", {"selection": {"messages": ["x"]}}, "bad-request"),
        ("queue_hold", {"selection": [1]}, "bad-request"),
        ("queue_hold", {"selection": {"messages": [1], "limit": 5}}, "bad-request"),
        ("part_take", {"part": 2}, "bad-request"),
        ("perform", {}, "bad-request"),
    ],
)
def test_nonsense_is_refused_as_by_one(house, operation, arguments, kind):
    with pytest.raises(Refusal) as caught:
        house.ask(operation, **arguments)
    assert caught.value.kind == kind


def test_whoever_can_does_what_only_one_can(house):
    assert house.ask("queue_recover", folder="damaged-1")["recovered"] == 1
    assert house.ask("bans_list") == {"bans": []}
    house.members[1] = Away()
    assert house.ask("bans_list") == {"bans": []}
    house.members[2] = Away()
    with pytest.raises(Refusal, match="does not answer"):
        house.ask("bans_list")


def test_status_is_added_up(house):
    status = house.ask("status")
    assert status["listeners"] == {"mx": {"sessions": 3, "endpoints": ["tcp:25"]}}
    assert (status["faults"], status["queue"]["held"], status["store"]["room"]) == (2, 6, 10)
    servers = {"192.0.2.53:53": {"questions": 10, "failed": 3}}
    assert status["resolver"] == {"hits": 14, "misses": 6, "in_flight": 3, "kept": 4, "name_servers": servers}


def test_sessions_of_all_are_there(house):
    assert [one["session"] for one in house.ask("sessions", ip="192.0.2.7")["sessions"]] == ["session1", "session2"]


def test_who_does_not_answer_is_named(house):
    house.members[2] = Away()
    assert house.ask("queue_list", selection={})["missing"] == [2]
    assert house.ask("queue_stats")["missing"] == [2]
    assert house.ask("queue_hold", selection={}, everything=True)["missing"] == [2]
    assert house.ask("status")["missing"] == [2]
    assert house.ask("queue_show", message=1)["message"] == 1
    with pytest.raises(Refusal, match="worker 2 does not answer"):
        house.ask("queue_show", message=NUMBERS + 1)
    house.members[1] = Away()
    with pytest.raises(Refusal) as caught:
        house.ask("queue_list", selection={})
    assert caught.value.kind == "unavailable"


def test_a_part_that_nobody_looks_after_is_named(house):
    del house.members[2]
    house.away.append(2)
    assert house.ask("queue_list", selection={})["missing"] == [2]
    assert house.ask("queue_drop", selection={"messages": [1, NUMBERS + 1]}) == {"recipients": 2, "missing": [2]}
    for arguments in ({"message": NUMBERS + 1}, {"selection": {"messages": [NUMBERS + 1]}}):
        with pytest.raises(Refusal, match="nobody looks after part 2 of the queue now"):
            house.ask("queue_show" if "message" in arguments else "queue_drop", **arguments)
    house.members.clear()
    with pytest.raises(Refusal, match="no part of the queue can be asked now"):
        house.ask("status")


@pytest.mark.parametrize(
    ("values", "whole"),
    [
        ([1, 2], 3),
        ([True, False], True),
        ([None, 5, None], 5),
        ([None, None], None),
        (["", "broken"], "broken"),
        ([{"oldest": 5, "uptime": 1}, {"oldest": 3, "uptime": 9}], {"oldest": 3, "uptime": 9}),
        ([{"oldest": None}, {"oldest": 3}], {"oldest": 3}),
        ([{"pid": 5, "version": "1"}, {"pid": 6, "version": "1"}], {"pid": 5, "version": "1"}),
        ([{"a": 1}, {"b": 2}], {"a": 1, "b": 2}),
        ([["x", "y"], ["y", "z"]], ["x", "y", "z"]),
        (
            [[{"gateway": "g", "next_hop": "n", "active": 1}], [{"gateway": "g", "next_hop": "n", "active": 2}, {"gateway": "h"}]],
            [{"gateway": "g", "next_hop": "n", "active": 3}, {"gateway": "h"}],
        ),
        (
            [[{"gateway": "g", "failures": 1, "until": 9.0}], [{"gateway": "g", "failures": 3, "until": 4.0}]],
            [{"gateway": "g", "failures": 3, "until": 4.0}],
        ),
    ],
)
def test_plain_data_is_added_up(values, whole):
    assert add_up(values) == whole
