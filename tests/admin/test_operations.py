"""What an operator can do, over a store in this process."""

from base64 import b64decode

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface import implementer

from mailgw.admin.client import pieces
from mailgw.admin.reading import PIECE, Reading, Refusal
from mailgw.admin.selecting import MOST
from mailgw.admin.signpost import Signpost
from mailgw.interfaces import IRecipientPolicy, StoreUnavailable
from mailgw.journal import Fault, Ordered
from mailgw.policies.verify_recipient import VerifyRecipient
from mailgw.receive.asking import Asked, Rules
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.storage.in_process import InProcessStore
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import an_envelope, at, run
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import reject
from mailgw.values.delivery import Destination, Recipient

NOW = 1_800_000_000.0
EVERYBODY = ["dora@example.org", "ed@example.org", "fay@example.net", "ann@example.com"]


def ask(bench, operation, **arguments):
    return run(bench.operations.perform(operation, arguments))


def refused(bench, operation, **arguments):
    with pytest.raises(Refusal) as caught:
        ask(bench, operation, **arguments)
    return caught.value.kind, str(caught.value)


def test_recover_wakes_the_dispatcher_and_is_noted(bench):
    assert ask(bench, "queue_recover", folder="damaged-1") == {"recovered": 1, "unreadable": [], "left": 1}
    assert bench.asked == ["damaged-1"]
    assert len(bench.woken) == 1
    assert bench.notes.events == [Ordered("recover", "damaged-1", 1)]
    assert refused(bench, "queue_recover", folder=7) == ("bad-request", "folder must be a text")


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        pytest.param({}, EVERYBODY, id="everything"),
        pytest.param({"message": 1}, EVERYBODY[:2], id="a message"),
        pytest.param({"sender": "Ann@Example.com"}, EVERYBODY[:2], id="sender, any case"),
        pytest.param({"sender": "<ann@example.com>"}, EVERYBODY[:2], id="sender in brackets"),
        pytest.param({"sender": "<>"}, EVERYBODY[3:], id="null reverse-path"),
        pytest.param({"recipient": "ED@example.ORG"}, EVERYBODY[1:2], id="recipient"),
        pytest.param({"recipient": "postmaster"}, [], id="domainless postmaster"),
        pytest.param({"domain": "EXAMPLE.net"}, EVERYBODY[2:3], id="domain"),
        pytest.param({"domain": "@example.net"}, EVERYBODY[2:3], id="domain with an at sign"),
        pytest.param({"gateway": "internet"}, EVERYBODY[2:], id="gateway"),
        pytest.param({"state": "held"}, EVERYBODY[2:3], id="state"),
        pytest.param({"older_than": 7200}, EVERYBODY[:2], id="older than two hours"),
        pytest.param({"older_than": 30.5, "gateway": "internet"}, EVERYBODY[2:3], id="two conditions"),
        pytest.param({"limit": MOST}, EVERYBODY, id="largest limit"),
    ],
)
def test_list_selects(bench, selection, found):
    answer = ask(bench, "queue_list", selection=selection)
    assert [entry["recipient"] for entry in answer["entries"]] == found
    assert answer["more"] is False


@pytest.mark.parametrize(("limit", "more"), [(1, True), (3, True), (4, False)])
def test_list_says_whether_there_is_more(bench, limit, more):
    answer = ask(bench, "queue_list", selection={"limit": limit})
    assert len(answer["entries"]) == limit
    assert answer["more"] is more


def test_an_entry_has_all_its_fields(bench):
    assert ask(bench, "queue_list", selection={"recipient": "dora@example.org"})["entries"] == [
        {
            "message": 1,
            "sender": "ann@example.com",
            "recipient": "dora@example.org",
            "gateway": "mailboxes",
            "next_hop": "",
            "state": "waiting",
            "leased": False,
            "arrived": NOW - 3 * 3600,
            "due": NOW + 600,
            "attempts": 2,
            "size": 86,
            "reply": "451 4.4.1 connection refused",
            "session": "test",
            "reason": "",
        }
    ]


def test_show_gives_envelope_recipients_and_header(bench):
    answer = ask(bench, "queue_show", message=1)
    assert [entry["recipient"] for entry in answer.pop("recipients")] == EVERYBODY[:2]
    assert answer == {
        "message": 1,
        "sender": "ann@example.com",
        "arrived": NOW - 3 * 3600,
        "size": 86,
        "session": "test",
        "header": "Received: from somewhere\nFrom: ann@example.com\nSubject: One \x1b[31mred\n",
    }


@pytest.mark.parametrize("operation", ["queue_show", "queue_content"])
def test_what_is_not_there_is_not_found(bench, operation):
    assert refused(bench, operation, message=99) == ("not-found", "there is no message 99 in the queue")


@pytest.mark.parametrize("size", [0, 1, PIECE - 5, PIECE, 2 * PIECE + 7])
@pytest.mark.parametrize("added", [b"", b"X: y\r\n", b"X: " + b"y" * PIECE + b"\r\n"], ids=["nothing", "a field", "a huge field"])
@pytest.mark.parametrize("filed", [False, True], ids=["memory", "file"])
def test_content_comes_in_pieces(bench, tmp_path, size, added, filed):
    original = bytes(range(256)) * (size // 256 + 1)
    original = original[:size]
    path = tmp_path / "original"
    path.write_bytes(original)
    content = Content(path if filed else original, size, added)
    put = run(bench.store.put(an_envelope(), content, [(Recipient(Address.parse("gus@example.org")), Destination("mailboxes"))]))
    parts = list(pieces(lambda operation, **arguments: ask(bench, operation, **arguments), put.message))
    assert b"".join(parts) == added + original
    assert all(len(part) <= PIECE for part in parts)
    first = ask(bench, "queue_content", message=put.message)
    assert first["size"] == content.size
    assert b64decode(first["piece"]) == (parts[0] if parts else b"")


def test_stats_count_and_sum(bench):
    answer = ask(bench, "queue_stats")
    none = {"waiting": 0, "held": 0, "delivered": 0, "failed": 0, "dropped": 0}
    assert answer == {
        "destinations": [
            {"gateway": "internet", "next_hop": "example.net", **none, "waiting": 1, "held": 1, "oldest": int(NOW - 60)},
            {"gateway": "mailboxes", "next_hop": "", **none, "waiting": 2, "oldest": int(NOW - 3 * 3600)},
        ],
        "more": False,
        "total": {**none, "waiting": 3, "held": 1, "oldest": int(NOW - 3 * 3600)},
    }


def test_stats_of_many_destinations_are_cut_but_summed(bench):
    answer = ask(bench, "queue_stats", limit=1)
    assert len(answer["destinations"]) == 1
    assert answer["more"] is True
    assert answer["total"]["waiting"] == 3


def test_stats_of_an_empty_queue():
    answer = run(Reading(desk=InProcessStore(), clock=Clock()).perform("queue_stats", {}))
    assert answer["destinations"] == []
    assert answer["total"] == {"waiting": 0, "held": 0, "delivered": 0, "failed": 0, "dropped": 0, "oldest": None}


@pytest.mark.parametrize(
    ("operation", "selection", "number", "states"),
    [
        pytest.param("queue_hold", {"messages": [1]}, 2, ["held", "held", "held", "waiting"], id="hold a message"),
        pytest.param("queue_hold", {"recipient": "ed@example.org"}, 1, ["waiting", "held", "held", "waiting"], id="hold a recipient"),
        pytest.param("queue_hold", {"messages": [1, 2, 99]}, 2, ["held", "held", "held", "waiting"], id="hold several messages"),
        pytest.param("queue_release", {"state": "held"}, 1, ["waiting"] * 4, id="release"),
        pytest.param("queue_retry", {"domain": "example.org"}, 2, ["waiting", "waiting", "held", "waiting"], id="retry"),
        pytest.param("queue_hold", {"messages": [3]}, 0, ["waiting", "waiting", "held", "waiting"], id="what is being delivered stays"),
        pytest.param("queue_hold", {"messages": [1], "recipient": "ed@example.org"}, 1, ["waiting", "held", "held", "waiting"], id="both"),
    ],
)
def test_orders(bench, operation, selection, number, states):
    assert ask(bench, operation, selection=selection) == {"recipients": number}
    assert list(bench.states().values()) == states
    assert bench.woken == ([NOW] if number else [])
    [event] = bench.notes.events
    assert event == Ordered(operation.removeprefix("queue_"), event.selection, number)


def test_drop_removes(bench):
    assert ask(bench, "queue_drop", selection={"gateway": "mailboxes"}) == {"recipients": 2}
    assert list(bench.states()) == EVERYBODY[2:]
    assert bench.notes.events == [Ordered("drop", "gateway mailboxes", 2)]


def test_everything_is_an_order_of_its_own(bench):
    assert ask(bench, "queue_hold", selection={}, everything=True, reason="maintenance") == {"recipients": 2}
    held = ask(bench, "queue_list", selection={"message": 1})["entries"]
    assert {entry["reason"] for entry in held} == {"maintenance"}
    assert bench.notes.events == [Ordered("hold", "everything", 2)]


def test_an_order_is_not_bounded_by_the_limit_of_listings(bench):
    for _ in range(150):
        put = run(bench.store.put(an_envelope(), Content.of(b"\r\n"), [(Recipient(Address.parse("x@example.org")), Destination("a"))]))
        run(bench.store.release(put.parcels))
    assert ask(bench, "queue_hold", selection={"gateway": "a"}) == {"recipients": 150}


@pytest.mark.parametrize(
    ("operation", "arguments", "text"),
    [
        ("queue_fly", {}, 'there is no operation "queue_fly"'),
        ("perform", {}, 'there is no operation "perform"'),
        ("__init__", {}, 'there is no operation "__init__"'),
        ("queue_list", {}, "queue_list: missing a required argument: 'selection'"),
        ("queue_list", {"selection": {}, "fast": True}, "queue_list: got an unexpected keyword argument 'fast'"),
        ("queue_list", {"selection": []}, "selection must be an object"),
        (
            "queue_list",
            {"selection": {"sendr": "x"}},
            'a selection has no "sendr"; it has message, sender, recipient, domain, gateway, state, older_than, limit',
        ),
        ("queue_list", {"selection": {"sender": "no address"}}, '"no address" is no address: address has no domain'),
        ("queue_list", {"selection": {"sender": "a b@example.org"}}, None),
        ("queue_list", {"selection": {"sender": 5}}, "sender must be a text"),
        ("queue_list", {"selection": {"domain": "a b"}}, '"a b" is no domain: domain is not a valid host name'),
        (
            "queue_list",
            {"selection": {"state": "lost"}},
            'there is no state "lost"; the states are waiting, held, delivered, failed, dropped',
        ),
        ("queue_list", {"selection": {"older_than": "2h"}}, "older_than must be a number, at least 0"),
        ("queue_list", {"selection": {"older_than": -1}}, "older_than must be a number, at least 0"),
        ("queue_list", {"selection": {"older_than": float("nan")}}, "older_than must be a number, at least 0"),
        ("queue_list", {"selection": {"limit": 0}}, "limit must be a number, at least 1"),
        ("queue_list", {"selection": {"limit": 10_001}}, "limit must be at most 10000"),
        ("queue_list", {"selection": {"limit": True}}, "limit must be a number, at least 1"),
        ("queue_show", {"message": "1"}, "message must be a number, at least 1"),
        ("queue_show", {"message": 1.5}, "message must be a whole number"),
        ("queue_show", {"message": 2**63}, "message must be a whole number"),
        ("queue_content", {"message": 1, "offset": -1}, "offset must be a whole number, at least 0"),
        ("queue_stats", {"limit": 0}, "limit must be a number, at least 1"),
        ("queue_drop", {"selection": {}}, "nothing is selected; say so if everything is meant"),
        ("queue_drop", {"selection": {"messages": [1]}, "everything": True}, "everything, or a selection: not both"),
        ("queue_drop", {"selection": {}, "everything": "yes"}, "reason must be a text, everything must be true or false"),
        ("queue_drop", {"selection": {"messages": []}}, "messages must be a list of 1 to 1000 numbers"),
        ("queue_drop", {"selection": {"messages": 1}}, "messages must be a list of 1 to 1000 numbers"),
        ("queue_drop", {"selection": {"messages": [1, "2"]}}, "message must be a number, at least 1"),
        (
            "queue_drop",
            {"selection": {"limit": 5}},
            'an order has no "limit"; it has messages, sender, recipient, domain, gateway, state, older_than',
        ),
        ("route", {"address": "nowhere"}, '"nowhere" is no address: address has no domain'),
        ("route", {"address": "a@example.org", "ip": "300.1.1.1"}, '"300.1.1.1" is no IP address'),
        ("route", {"address": "a@example.org", "tags": "x"}, "login must be a text, tags a list of texts"),
    ],
)
def test_nonsense_is_refused_and_changes_nothing(bench, operation, arguments, text):
    before = bench.states()
    kind, said = refused(bench, operation, **arguments)
    assert kind == "bad-request"
    assert text in (said, None)
    assert bench.states() == before
    assert bench.notes.events == []


def test_an_order_with_one_bad_number_orders_nothing_at_all(bench):
    refused(bench, "queue_drop", selection={"messages": [1, -2]})
    assert list(bench.states()) == EVERYBODY


def test_a_store_in_trouble_is_unavailable(bench):
    bench.store.trouble = StoreUnavailable("the disk is gone")
    assert refused(bench, "queue_list", selection={}) == ("unavailable", "the queue cannot be used now: the disk is gone")


@pytest.mark.parametrize("operation", ["queue_show", "queue_content"])
def test_a_file_that_cannot_be_read(bench, tmp_path, operation):
    content = Content(tmp_path / "gone", 100)
    put = run(bench.store.put(an_envelope(), content, [(Recipient(Address.parse("gus@example.org")), Destination("mailboxes"))]))
    kind, text = refused(bench, operation, message=put.message)
    assert kind == "unavailable"
    assert text.startswith("the message cannot be read: [Errno 2]")


def test_a_fault_of_ours_is_noted_and_its_details_are_not_told(bench):
    class Broken:
        async def find(self, selection):
            raise KeyError("secret detail")

    object.__setattr__(bench.operations, "desk", Broken())
    kind, text = refused(bench, "queue_list", selection={})
    assert (kind, text) == ("fault", "queue_list failed inside mailgw; its log has the details")
    [event] = bench.notes.events
    assert isinstance(event, Fault)
    assert event.component == "admin"
    assert "secret detail" in event.traceback


def test_status(bench):
    bench.clock.advance(12.5)
    answer = ask(bench, "status")
    assert answer["uptime"] == 12.5
    assert isinstance(answer["pid"], int)
    assert answer["version"]
    assert answer["queue"]["waiting"] == 3
    assert answer["listeners"] == [{"name": "mx", "endpoint": "tcp:25", "sessions": 3}]


@pytest.mark.parametrize(
    ("question", "expected"),
    [
        pytest.param({"ip": "192.0.2.9"}, ["192.0.2.1", "192.0.2.200"], id="network"),
        pytest.param({"ip": "2001:db8::9"}, ["2001:db8:0:5::1"], id="IPv6"),
        pytest.param({"ip": "203.0.113.9", "login": "anna"}, ["192.0.2.200", "198.51.100.1"], id="login"),
        pytest.param({"ip": "203.0.113.9"}, [], id="nobody"),
    ],
)
def test_sessions(bench, question, expected):
    found = ask(bench, "sessions", **question)["sessions"]
    assert [one["ip"] for one in found] == expected
    assert all(one.keys() == {"session", "listener", "ip", "login"} for one in found)


def test_sessions_of_nothing(bench):
    assert refused(bench, "sessions", ip="x") == ("bad-request", "'x' does not appear to be an IPv4 or IPv6 address")


NO, MUST = "no permit rule matches", "the client must log in first"


@pytest.mark.parametrize(
    ("question", "gateway", "known", "permit"),
    [
        pytest.param({"address": "dora@example.org"}, "mailboxes", "known", [(True, "to @ours"), (False, MUST)], id="ours"),
        pytest.param({"address": "zoe@example.org"}, "mailboxes", "refused", [(True, "to @ours"), (False, MUST)], id="unknown"),
        pytest.param({"address": "a@example.net"}, "internet", "unchecked", [(False, NO), (False, MUST)], id="elsewhere"),
        pytest.param(
            {"address": "a@example.net", "login": "ann"}, "internet", "unchecked", [(False, NO), (True, "logged in")], id="logged in"
        ),
        pytest.param({"address": "a%example.net@example.org"}, "mailboxes", "refused", [(False, NO), (False, MUST)], id="percent hack"),
    ],
)
def test_route(bench, question, gateway, known, permit):
    answer = ask(bench, "route", **question)
    assert answer["route"]["gateway"] == gateway
    assert answer["recipient"]["state"] == known
    assert [(each["permitted"], each["by"]) for each in answer["permit"]] == permit


def test_a_route_whose_recipients_another_server_knows():
    verify = VerifyRecipient(gateways={}, memory=InProcessMemory(at("2026-01-05T10:00+00:00")))
    rule = Rule("otherwise", Default("mailboxes"), verify)
    answer = run(Signpost(Routing([rule]), {}).ask(Clock(), "dora@example.org"))
    assert answer["recipient"] == {"state": "not asked", "text": "to know it, another server must be asked"}


def test_who_knows_recipients_is_told_the_way():
    @implementer(IRecipientPolicy)
    class Inquisitive:
        def check_recipient(self, facts):
            return reject(f"{facts.gateway} {facts.next_hop}")

    rule = Rule("otherwise", Default("internet"), Inquisitive())
    answer = run(Signpost(Routing([rule], frozenset({"internet"})), {}).ask(Clock(), "dora@example.org"))
    assert answer["recipient"]["text"] == "550 5.7.1 internet example.org"


class Never:
    """Waits for ever, as a route, a recipients' list and a permit rule."""

    async def route(self, facts):
        await Deferred()

    check_recipient = may_relay = route


def test_a_route_that_never_answers_is_not_waited_for_for_ever(bench):
    operations = evolve(bench.operations, signpost=Signpost(Routing([Rule("otherwise", Never())]), {}))
    asking = Deferred.fromCoroutine(operations.perform("route", {"address": "a@example.org"}))
    bench.clock.advance(29)
    assert not asking.called
    bench.clock.advance(1)
    heard = []
    asking.addErrback(lambda failure: heard.append((failure.value.kind, str(failure.value))))
    assert heard == [("fault", "the routes gave no answer within 30 s; a client would hear 451")]
    assert bench.clock.getDelayedCalls() == []


def test_who_else_never_answers_is_said(bench):
    routing = Routing([Rule("otherwise", Default("mailboxes"), Never())])
    rules = {"mx": Rules(relay=(Asked("slow", Never()),))}
    asking = Deferred.fromCoroutine(Signpost(routing, rules).ask(bench.clock, "a@example.org"))
    bench.clock.advance(30)
    bench.clock.advance(0)
    answer = asking.result
    assert answer["route"]["gateway"] == "mailboxes"
    assert answer["recipient"] == {"state": "deferred", "text": "it cannot be known now: no answer in time"}
    assert answer["permit"] == [{"listener": "mx", "permitted": False, "by": "no permit rule matches"}]


def test_route_says_rule_and_next_hop(bench):
    assert ask(bench, "route", address="a@Example.NET")["route"] == {
        "rule": "otherwise",
        "where": "mailgw.toml:9",
        "gateway": "internet",
        "next_hop": "example.net",
        "because": "otherwise",
    }
