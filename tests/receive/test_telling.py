"""The decision record of sessions and transactions, and the names of refusals."""

from ipaddress import ip_address, ip_network
from itertools import count

import pytest
from attrs import evolve

from mailgw.api import Evidence, defer, discard, proceed, quarantine, reject
from mailgw.interfaces import LookupFailed
from mailgw.journal import Fault, Refused
from mailgw.policies.relay import Permit
from mailgw.receive.asking import Asked, Rules
from mailgw.testing.server import MemoryServer
from mailgw.values.facts import ClientFacts

OURS = Permit(to=frozenset({"example.org"}), name="ours")
METHODS = {"connect": "check_client", "mail": "check_sender", "rcpt": "check_recipient", "data": "check_content"}
STEPS = ["EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA", b"Subject: x\r\n\r\nx\r\n.\r\n", "QUIT"]


def opinion(stage, answer):
    def say(facts):
        if isinstance(answer, Exception):
            raise answer
        return answer

    return type("Opinion", (), {METHODS[stage]: staticmethod(say)})()


def serve(*policies, **more):
    records = []
    numbers = count(1)
    server = MemoryServer(permits=[OURS], policies=policies, record=records.append, reference=lambda: f"REF{next(numbers):02}", **more)
    return server, records


def with_rules(asked, stage):
    """A server with one policy that is listed in a way of its own."""
    server, records = serve()
    rules = Rules(
        **{{"connect": "client", "mail": "sender", "rcpt": "recipient", "data": "content"}[stage]: (asked,)}, relay=(Asked("ours", OURS),)
    )
    server.follow(rules)
    return server, records


def talk(server, steps=STEPS):
    heard = []
    session = server.connect()
    heard.append(session.heard())
    for step in steps:
        if heard[-1][:1] in "45":
            break
        heard.append(session.say(step))
    return [line.splitlines()[-1] for line in heard if line]


NO = reject("no", evidence=(Evidence("colour", "green", "the client's own words"),), remedy="be blue", why="because")
AT = {
    "connect": "554 5.7.1 no [ref REF01]",
    "mail": "550 5.7.1 no [ref REF01]",
    "rcpt": "550 5.7.1 no [ref REF01]",
    "data": "550 5.7.1 no [ref REF01]",
}


@pytest.mark.parametrize("stage", METHODS)
def test_a_refusal_has_a_name_that_the_client_hears_and_the_log_and_the_record_know(stage):
    server, records = serve(opinion(stage, NO))
    assert talk(server)[-1] == AT[stage]
    record = next(one for one in records if one.outcome == "refused")
    assert (record.stage, record.by, record.why, record.ref, str(record.reply)) == (stage, "Opinion", "because", "REF01", AT[stage])
    assert [one.ref for one in server.notes.of(Refused)] == ["REF01"]
    said = [one for one in record.opinions if one.policy == "Opinion"]
    assert [(one.stage, one.decision) for one in said] == [(stage, NO)]
    assert said[0].decision.remedy == "be blue"


def test_relaying_denied_has_a_name_too():
    server, records = serve()
    assert talk(server, ["EHLO c", "MAIL FROM:<>", "RCPT TO:<x@elsewhere.example>"])[-1] == "550 5.7.1 relaying denied [ref REF01]"
    (record,) = records
    assert (record.by, record.ways[0].ref, record.opinions[0].stage) == ("permit", "REF01", "relay")


def test_a_taken_message_tells_which_rule_opened_the_relay_and_which_route_it_went():
    server, records = serve()
    assert talk(server)[-2].startswith("250 2.0.0 queued as ")
    (record,) = records
    assert (record.outcome, record.message, record.transaction, record.ref) == ("accepted", 1, 1, "")
    (way,) = record.ways
    assert way[:3] == ("b@example.org", way.reply, "Permit")
    assert (way.why, way.route, way.gateway) == ("ours", "otherwise", "anywhere")


def test_each_transaction_is_told_once_whatever_becomes_of_it():
    server, records = serve()
    steps = [
        "EHLO c",
        "MAIL FROM:<>",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<b@example.org>",
        "RSET",
        "MAIL FROM:<>",
        "RCPT TO:<b@example.org>",
        "DATA",
        b"x: y\r\n\r\n.\r\n",
        "QUIT",
    ]
    talk(server, steps)
    assert [(one.transaction, one.outcome) for one in records] == [(1, "abandoned"), (2, "abandoned"), (3, "accepted")]


@pytest.mark.parametrize(
    ("answer", "outcome"), [(discard("away"), "discarded"), (quarantine("odd"), "held")], ids=["discard", "quarantine"]
)
def test_what_was_not_delivered_says_by_whom_and_why(answer, outcome):
    server, records = serve(opinion("data", answer))
    talk(server)
    (record,) = records
    assert (record.outcome, record.by, record.why) == (outcome, "Opinion", answer.why)


def test_a_refused_recipient_is_told_at_once_and_again_with_its_transaction():
    server, records = serve()
    session = server.connect()
    for step in ["EHLO c", "MAIL FROM:<>", "RCPT TO:<b@example.org>", "RCPT TO:<x@elsewhere.example>"]:
        session.say(step)
    (early,) = records
    assert [way.recipient for way in early.ways] == ["x@elsewhere.example"]
    assert {one.recipient for one in early.opinions} == {"x@elsewhere.example"}
    session.say("DATA")
    session.say(b"x: y\r\n\r\n.\r\n")
    assert [(way.recipient, way.reply.code) for way in records[-1].ways] == [("b@example.org", 250), ("x@elsewhere.example", 550)]


@pytest.mark.parametrize("stage", METHODS)
@pytest.mark.parametrize(
    "answer", [NO, defer("later"), discard("away"), quarantine("odd"), proceed(tags={"t"}), RuntimeError("boom")], ids=str
)
def test_an_observing_policy_is_recorded_and_changes_nothing(stage, answer):
    server, records = with_rules(Asked("watcher", opinion(stage, answer), observed=True), stage)
    assert talk(server)[-2].startswith("250 2.0.0 queued as ")
    said = next(one for one in records[-1].opinions if one.policy == "watcher")
    assert said.observed
    if isinstance(answer, Exception):
        assert said.fault == f"failed at {stage}: RuntimeError('boom')"
    else:
        assert said.decision == answer
    assert server.parcels[0].envelope.tags == frozenset()


@pytest.mark.parametrize("problem", [RuntimeError("boom"), LookupFailed("no answer in time")], ids=["fault", "no-dns"])
@pytest.mark.parametrize(
    ("on_error", "reply"),
    [("pass", "250 2.1.0"), ("defer", "451 4.3.0 local problem"), ("reject", "550 5.7.1 local policy cannot be applied")],
    ids=["pass", "defer", "reject"],
)
def test_on_error_says_what_a_fault_means(on_error, reply, problem):
    server, _ = with_rules(Asked("weak", opinion("mail", problem), on_error=on_error), "mail")
    assert talk(server, STEPS[:2])[-1].startswith(reply)
    faults = server.notes.of(Fault)
    assert [one.component for one in faults] == ["weak"]
    assert bool(faults[0].traceback) == isinstance(problem, RuntimeError)


CLIENT = ClientFacts(session="s", listener="mx", ip=ip_address("192.0.2.1"), port=1)


@pytest.mark.parametrize(
    ("settings", "login", "skipped"),
    [
        ({}, "", False),
        ({"skip_networks": ("192.0.2.0/24",)}, "", True),
        ({"skip_networks": ("198.51.100.0/24",)}, "", False),
        ({"skip_logins": {"*"}}, "anna", True),
        ({"skip_logins": {"*"}}, "", False),
        ({"skip_logins": {"ben"}}, "anna", False),
        ({"skip_logins": {"anna"}}, "anna", True),
    ],
    ids=["nobody", "network", "other-network", "any-login", "no-login", "other-login", "login"],
)
def test_who_need_not_be_asked_about(settings, login, skipped):
    asked = Asked(
        "p",
        None,
        skip_networks=tuple(map(ip_network, settings.get("skip_networks", ()))),
        skip_logins=frozenset(settings.get("skip_logins", ())),
    )
    assert asked.skips(evolve(CLIENT, login=login)) is skipped


def test_a_permit_rule_that_fails_never_opens_whatever_on_error_says():
    broken = type("Broken", (), {"may_relay": staticmethod(lambda facts: 1 / 0)})()
    server, _ = serve()
    asked = Asked("broken", broken, on_error="pass")
    server.follow(Rules(relay=(asked,)))
    assert talk(server, STEPS[:3])[-1].startswith("451 4.3.0 ")
