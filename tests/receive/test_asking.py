"""Policies that raise, hang or answer nonsense: 451 for the peer, their name in the journal, and never a "yes"."""

from contextlib import suppress
from ipaddress import ip_network

import pytest
from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import defer as deferring
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from mailgw.api import HeaderField, Reply, defer, discard, permit, proceed, quarantine, reject
from mailgw.journal import Accepted, Discarded, Fault, Held, Journal, Refused
from mailgw.policies.relay import Permit
from mailgw.receive.asking import Asked, Asker, Rules, settled_within
from mailgw.routing import Routing, Rule
from mailgw.testing.facts import a_sender
from mailgw.testing.server import MemoryServer, Notes

OURS = Permit(to=frozenset({"example.org"}), name="ours")


def policy(stage, answer):
    """A policy with one opinion at one stage: what ``answer(facts)`` gives."""
    method = {"connect": "check_client", "mail": "check_sender", "relay": "may_relay", "rcpt": "check_recipient", "data": "check_content"}
    return type("Opinion", (), {method[stage]: staticmethod(answer)})()


def raising(facts):
    raise RuntimeError("boom")


async def raising_later(facts):
    await succeed(None)
    raise RuntimeError("boom")


def hanging(facts):
    return Deferred()


async def hanging_coroutine(facts):
    await Deferred()


async def stubborn(facts):
    while True:
        with suppress(Exception):
            await Deferred()


def chained(facts):
    return succeed(None).addCallback(lambda _: Deferred())  # called already, and waiting all the same


def leaving(facts):
    raise SystemExit(3)


def interrupting(facts):
    raise KeyboardInterrupt


async def leaving_in_a_coroutine(facts):
    raise SystemExit(3)


async def leaving_later(facts):
    await deferring.fail(SystemExit(3))


async def closing(facts):
    raise GeneratorExit


def closing_a_deferred(facts):
    return deferring.fail(GeneratorExit())


def deliver(server, to="b@example.org", sender="a@example.com"):
    """The last reply that a client gets on its way to a delivered message."""
    talk = server.connect()
    reply = talk.heard()
    steps = ["EHLO c", f"MAIL FROM:<{sender}>", f"RCPT TO:<{to}>", "DATA", b"Subject: x\r\n\r\nx\r\n.\r\n"]
    for step in steps:
        if not reply.startswith(("2", "3")):
            break
        reply = talk.say(step)
        if not reply:
            server.clock.advance(31)
            reply = talk.heard()
    return reply.splitlines()[-1] if reply else ""


FAULTS = {
    "raises": raising,
    "raises-later": raising_later,
    "hangs": hanging,
    "hangs-in-a-coroutine": hanging_coroutine,
    "hangs-whatever-it-is-told": stubborn,
    "hangs-behind-another": chained,
    "leaves": leaving,
    "interrupts": interrupting,
    "leaves-in-a-coroutine": leaving_in_a_coroutine,
    "leaves-in-a-coroutine-of-its-own": leaving_later,
    "closes": closing,
    "closes-a-deferred": closing_a_deferred,
    "answers-none": lambda facts: None,
    "answers-true": lambda facts: True,
    "answers-text": lambda facts: "ok",
    "answers-reply": lambda facts: Reply(250, "2.0.0", "ok"),
}


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_is_a_deferral_with_the_name_in_the_journal(stage, fault):
    server = MemoryServer(permits=[OURS], policies=[policy(stage, fault)])
    assert deliver(server) == "451 4.3.0 local problem, try again later"
    assert [one.component for one in server.notes.of(Fault)] == ["Opinion"]
    assert server.parcels == []


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_before_the_greeting_is_a_421(fault):
    server = MemoryServer(permits=[OURS], policies=[policy("connect", fault)])
    talk = server.connect()
    server.clock.advance(30)
    assert talk.heard() == "421 4.3.0 local problem, try again later\r\n"
    assert talk.is_over


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_faulty_permit_rule_opens_nothing_and_closes_nothing_that_another_opens(fault):
    faulty = policy("relay", fault)
    assert deliver(MemoryServer(permits=[faulty])) == "451 4.3.0 local problem, try again later"
    assert deliver(MemoryServer(permits=[faulty, OURS])).startswith("250 ")
    assert deliver(MemoryServer(permits=[faulty, OURS]), to="b@elsewhere.example").startswith("451 ")


def test_the_time_limit_of_a_policy_is_its_own():
    server = MemoryServer(permits=[OURS], policies=[policy("mail", hanging)], timeout=5)
    talk = server.connect()
    talk.say("HELO c")
    assert talk.say("MAIL FROM:<a@example.com>") == ""
    server.clock.advance(4.9)
    assert talk.heard() == ""
    server.clock.advance(0.2)
    assert talk.heard().startswith("451 4.3.0")
    [fault] = server.notes.of(Fault)
    assert (fault.problem, fault.traceback) == ("gave no answer at mail within 5 s", "")


@pytest.mark.parametrize("stage", ["mail", "rcpt", "data"])
def test_only_permit_rules_may_permit(stage):
    server = MemoryServer(permits=[OURS], policies=[policy(stage, lambda facts: permit("me"))])
    assert deliver(server).startswith("451 4.3.0")


def test_a_permit_rule_may_only_permit():
    server = MemoryServer(permits=[policy("relay", lambda facts: reject("no")), OURS])
    assert deliver(server).startswith("250 ")
    assert server.notes.of(Fault)[0].problem == "answered reject at relay, where it may not"


OPINIONS = [
    raising,
    raising_later,
    lambda facts: None,
    lambda facts: True,
    lambda facts: permit("me"),
    lambda facts: proceed(),
    lambda facts: proceed(tags={"relay"}),
    lambda facts: discard("away"),
    lambda facts: quarantine("odd"),
    lambda facts: reject("no"),
    lambda facts: defer("later"),
]
NOT_PERMITTING = [raising, raising_later, lambda facts: None, lambda facts: True, lambda facts: proceed(), lambda facts: reject("x")]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["mail", "rcpt", "data"]), st.sampled_from(OPINIONS)), max_size=5),
    st.lists(st.sampled_from(NOT_PERMITTING), max_size=3),
    st.integers(0, 3),
)
def test_no_combination_of_policies_relays_what_the_permit_rules_refuse(opinions, relay, position):
    permits = [policy("relay", answer) for answer in relay]
    permits.insert(position, OURS)
    server = MemoryServer(permits=permits, policies=[policy(stage, answer) for stage, answer in opinions])
    for to in ("x@elsewhere.example", "x%elsewhere.example@example.org", '"x@elsewhere.example"@example.org'):
        assert deliver(server, to=to).startswith(("45", "55"))
    assert server.parcels == []


STAGES = ["connect", "mail", "rcpt", "data"]
FAULTY = [hanging, hanging_coroutine]


@settings(max_examples=150, deadline=None)
@given(
    asked=st.lists(
        st.tuples(
            st.sampled_from(STAGES),
            st.sampled_from(OPINIONS + FAULTY),
            st.sampled_from(["pass", "defer", "reject"]),  # on_error
            st.booleans(),  # observed
            st.booleans(),  # skipped for this client
        ),
        max_size=6,
    ),
    relay=st.lists(st.tuples(st.sampled_from(NOT_PERMITTING + FAULTY), st.sampled_from(["pass", "defer", "reject"])), max_size=3),
    position=st.integers(0, 3),
    shuffled=st.randoms(use_true_random=False),
)
def test_neither_what_follows_a_fault_nor_modes_nor_exceptions_nor_order_open_a_relay(asked, relay, position, shuffled):
    server = MemoryServer(permits=[OURS])
    everybody = (ip_network("0.0.0.0/0"),)
    rules = {stage: [] for stage in STAGES}
    for stage, answer, on_error, observed, skips in asked:
        one = Asked("p", policy(stage, answer), on_error=on_error, observed=observed, skip_networks=everybody if skips else ())
        rules[stage].append(one)
    for some in rules.values():
        shuffled.shuffle(some)
    permits = [Asked("r", policy("relay", answer), on_error=on_error) for answer, on_error in relay]
    permits.insert(position, Asked("ours", OURS))
    server.factory.reception = evolve(
        server.reception,
        rules=Rules(*(tuple(some) for some in (rules["connect"], rules["mail"], permits, rules["rcpt"], rules["data"]))),
    )
    for to in ("x@elsewhere.example", "x%elsewhere.example@example.org", '"x@elsewhere.example"@example.org'):
        assert not deliver(server, to=to).startswith("2")
    assert server.parcels == []
    assert server.notes.of(Accepted) == []


def test_what_policies_add_goes_with_the_message():
    seen = HeaderField("X-Seen", "yes,\r\n indeed")
    server = MemoryServer(
        permits=[OURS],
        policies=[
            policy("connect", lambda facts: proceed(tags={"known"})),
            policy("mail", lambda facts: proceed(tags={"vip"}) if "known" in facts.tags else reject("unknown")),
            policy("data", lambda facts: proceed(headers=(seen,)) if "vip" in facts.tags else reject("x")),
        ],
    )
    assert deliver(server).startswith("250 ")
    [parcel] = server.parcels
    assert parcel.envelope.tags == {"known", "vip"}
    assert parcel.content.added.startswith(b"X-Seen: yes,\r\n indeed\r\nReceived: from c ([192.0.2.99])\r\n")
    assert parcel.content.original == b"Subject: x\r\n\r\nx\r\n"


@pytest.mark.parametrize("stage", ["connect", "mail", "data"])
def test_discard_says_250_and_keeps_nothing(stage):
    server = MemoryServer(permits=[OURS], policies=[policy(stage, lambda facts: discard("spam"))])
    assert deliver(server) == "250 2.0.0 ok"
    assert server.parcels == []
    assert [(one.by, one.why, one.recipients) for one in server.notes.of(Discarded)] == [("Opinion", "spam", ["b@example.org"])]


def test_discard_of_one_recipient_keeps_the_others():
    server = MemoryServer(
        permits=[OURS], policies=[policy("rcpt", lambda facts: discard("trap") if facts.recipient.local_part == "trap" else proceed())]
    )
    talk = server.connect()
    for line in ("HELO c", "MAIL FROM:<a@example.com>", "RCPT TO:<trap@example.org>", "RCPT TO:<b@example.org>", "DATA"):
        assert talk.say(line)[0] in "23"
    assert talk.say(b"x\r\n.\r\n") == "250 2.0.0 queued as 1\r\n"
    [parcel] = server.parcels
    assert [str(one.recipient.address) for one in parcel.queued] == ["b@example.org"]
    assert b"for <" not in parcel.content.added  # nobody learns who else heard 250


@pytest.mark.parametrize("stage", ["connect", "mail", "rcpt", "data"])
def test_quarantine_accepts_and_holds(stage):
    server = MemoryServer(permits=[OURS], policies=[policy(stage, lambda facts: quarantine("looks odd"))])
    assert deliver(server).startswith("250 2.0.0 queued as ")
    assert server.offered == []
    assert [(one.by, one.why) for one in server.notes.of(Held)] == [("Opinion", "looks odd")]
    assert len(server.notes.of(Accepted)) == 1


def test_refusals_name_the_policy_in_the_journal_and_not_to_the_peer():
    server = MemoryServer(permits=[OURS], policies=[policy("mail", lambda facts: reject("not today", why="on the list of Monday"))])
    assert deliver(server) == "550 5.7.1 not today"
    [refused] = server.notes.of(Refused)
    assert (refused.stage, refused.by, refused.why, refused.sender) == ("mail", "Opinion", "on the list of Monday", "a@example.com")


def test_policies_are_asked_in_order_until_one_refuses():
    asked = []

    def opinion(name, decision):
        def answer(facts):
            asked.append(name)
            return decision

        return policy("mail", answer)

    opinions = [opinion("first", proceed()), opinion("second", reject("no")), opinion("third", proceed())]
    server = MemoryServer(permits=[OURS], policies=opinions)
    deliver(server)
    assert asked == ["first", "second"]


# ── Coroutines that wait, and those that need not ──


class Waiting:
    """Waits for each of its Deferreds in turn, survives those that fail, and says so when it is cancelled."""

    def __init__(self, count):
        self.awaited = [Deferred() for _ in range(count)]
        self.seen = []

    async def answer(self):
        try:
            for one in self.awaited:
                try:
                    self.seen.append(await one)
                except ValueError as problem:
                    self.seen.append(str(problem))
        finally:
            self.seen.append("over")
        return "answered"


def test_a_coroutine_is_waited_for_step_by_step():
    waiting, clock = Waiting(3), Clock()
    settled = Deferred.fromCoroutine(settled_within(waiting.answer(), 30, clock))
    waiting.awaited[0].callback("one")
    waiting.awaited[1].errback(ValueError("two"))
    assert not settled.called
    waiting.awaited[2].callback("three")
    assert settled.result == "answered"
    assert waiting.seen == ["one", "two", "three", "over"]
    assert clock.getDelayedCalls() == []


@pytest.mark.parametrize("steps", [0, 1], ids=["at the first", "later"])
def test_a_coroutine_that_takes_too_long_is_cancelled_where_it_waits(steps):
    waiting, clock = Waiting(2), Clock()
    settled = Deferred.fromCoroutine(settled_within(waiting.answer(), 30, clock))
    for one in waiting.awaited[:steps]:
        one.callback("came")
    clock.advance(31)
    assert waiting.seen == ["came"] * steps + ["over"]
    assert settled.result.check(deferring.TimeoutError)
    settled.addErrback(lambda _: None)


def test_a_coroutine_with_nothing_to_wait_for_has_no_time_limit_to_set():
    clock = Clock()
    clock.callLater = None  # nobody may ask for it
    settled = Deferred.fromCoroutine(settled_within(Waiting(0).answer(), 30, clock))
    assert settled.result == "answered"


LATE = {"leaves": SystemExit(3), "interrupts": KeyboardInterrupt(), "closes": GeneratorExit()}


@pytest.mark.parametrize("stage", ["mail", "relay", "rcpt", "data"])
@pytest.mark.parametrize("ending", LATE.values(), ids=LATE)
def test_what_would_end_us_is_a_fault_also_after_a_while(stage, ending):
    answer = Deferred()

    async def wait(facts):
        await answer

    policies = [] if stage == "relay" else [policy(stage, wait)]
    server = MemoryServer(permits=[policy(stage, wait)] if stage == "relay" else [OURS], policies=policies)
    talk = server.connect()
    talk.heard()
    for step in ["EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>", "DATA", b"Subject: x\r\n\r\nx\r\n.\r\n"]:
        if not talk.say(step):
            break
    answer.errback(ending)
    assert talk.heard() == "451 4.3.0 local problem, try again later\r\n"
    (fault,) = server.notes.of(Fault)
    assert fault.problem == f"failed at {stage}: {ending!r}"
    assert f"raised {ending!r}" in fault.traceback
    assert talk.say("RSET").startswith("250 ")


def test_a_session_that_is_closed_leaves_no_fault():
    notes = Notes()
    asking = Asker(Clock(), Journal((notes,))).ask(Asked("one", policy("mail", hanging)), "mail", a_sender(), [])
    asking.send(None)
    asking.close()
    assert notes.events == []


ROUTES = {"leaves": leaving, "leaves in a coroutine": leaving_in_a_coroutine, "closes": closing, "closes a Deferred": closing_a_deferred}


@pytest.mark.parametrize("answer", ROUTES.values(), ids=ROUTES)
def test_a_route_that_would_end_us_is_a_fault(answer):
    route = type("Odd", (), {"route": staticmethod(answer)})()
    server = MemoryServer(permits=[OURS], routing=Routing([Rule('to "@ours"', route, None, "mailgw.toml:9")]))
    assert deliver(server).startswith("451 4.3.0 ")
    (fault,) = server.notes.of(Fault)
    assert fault.component == "route"
    assert 'raised by the rule to "@ours", mailgw.toml:9' in fault.traceback
