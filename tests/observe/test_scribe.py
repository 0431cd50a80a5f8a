"""The lines of decision records beside the straightforward way to write them: a dictionary, and ``json.dumps``."""

import json
from ipaddress import ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.journal import Bounced, Delayed, Delivered, Failed
from mailgw.observe.stories import Scribe, line_of_record
from mailgw.values.address import NULL, Address
from mailgw.values.decision import AuthResult, Decision, Evidence, Verdict
from mailgw.values.facts import ClientFacts, TlsFacts
from mailgw.values.record import Opinion, Record, Way
from mailgw.values.reply import Reply

ANY = st.characters(exclude_categories=())  # surrogates, too
TEXT = st.one_of(st.text(ANY, max_size=8), st.sampled_from(['"', "\\", "\0\x7f\r\n", "é", "\U0001f4ee", "\udc80", "x" * 501]))
TAGS = TEXT.filter(str.isprintable)
SENT = TEXT.filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))
SECONDS = st.floats(0, 1e10)
NUMBERS = st.integers(0, 2**63)
REPLIES = st.builds(lambda digit, text: Reply(digit * 100 + 50, f"{digit}.0.0", text), st.sampled_from([2, 4, 5]), TEXT)
STAGES = st.sampled_from(["connect", "auth", "mail", "relay", "rcpt", "data"])
EVIDENCE = st.lists(st.builds(Evidence, TEXT, TEXT, TEXT), max_size=3).map(tuple)
MORE = {
    "why": TEXT,
    "tags": st.frozensets(TAGS, max_size=3),
    "results": st.lists(st.builds(AuthResult, SENT, SENT), max_size=3).map(tuple),
    "evidence": EVIDENCE,
    "remedy": TEXT,
}
DECISIONS = st.one_of(
    st.builds(Decision, st.sampled_from([Verdict.PROCEED, Verdict.PERMIT, Verdict.DISCARD, Verdict.QUARANTINE]), **MORE),
    st.builds(Decision, st.just(Verdict.REJECT), REPLIES.filter(lambda reply: reply.is_permanent), **MORE),
)
OPINIONS = st.builds(Opinion, TEXT, TEXT, STAGES, DECISIONS, SECONDS, st.booleans(), TEXT, TEXT)
WAYS = st.builds(Way, TEXT, REPLIES, *[TEXT] * 8)
CLIENTS = st.builds(
    ClientFacts,
    session=TEXT,
    listener=TEXT,
    ip=st.one_of(st.ip_addresses(), st.just(ip_address('fe80::1%e"th'))),
    port=st.integers(0, 65535),
    helo=TEXT,
    tls=st.none() | st.builds(TlsFacts, version=TEXT, cipher=TEXT, server_name=TEXT),
    login=TEXT,
)
RECORDS = st.builds(
    Record,
    time=SECONDS,
    client=CLIENTS,
    outcome=st.sampled_from(["accepted", "held", "discarded", "refused", "abandoned"]),
    stage=STAGES,
    transaction=NUMBERS,
    reply=st.none() | REPLIES,
    by=TEXT,
    why=TEXT,
    ref=TEXT,
    sender=st.none() | st.just(NULL) | st.builds(Address, TEXT, TEXT),
    size=st.none() | NUMBERS,
    message=st.none() | NUMBERS,
    ways=st.lists(WAYS, max_size=3),
    opinions=st.lists(OPINIONS, max_size=4),
)
DELIVERIES = st.one_of(
    st.builds(Delivered, TEXT, NUMBERS, TEXT, TEXT, TEXT, REPLIES, SECONDS),
    st.builds(Delayed, TEXT, NUMBERS, TEXT, TEXT, TEXT, REPLIES, SECONDS),
    st.builds(Failed, TEXT, NUMBERS, TEXT, TEXT, TEXT, REPLIES),
    st.builds(Bounced, TEXT, NUMBERS, NUMBERS, TEXT, TEXT),
)


def expected(record):
    client = record.client
    tls = client.tls
    asked_for = f" for {tls.server_name}" if tls and tls.server_name else ""
    told = {
        "transaction": record.transaction,
        "ref": record.ref,
        "by": record.by,
        "why": record.why[:500],
        "message": record.message,
        "size": record.size,
        "reply": str(record.reply) if record.reply else "",
        "sender": "" if record.sender is None else str(record.sender) or "<>",
        "recipients": [
            {
                "address": way.recipient,
                "reply": str(way.reply),
                **{k: v for k, v in way._asdict().items() if v and k not in ("recipient", "reply")},
            }
            for way in record.ways
        ],
        "asked": [opinion(one) for one in record.opinions],
    }
    facts = {"helo": client.helo[:500], "tls": tls and f"{tls.version} {tls.cipher}{asked_for}", "login": client.login}
    return {
        "time": record.time,
        "event": record.outcome,
        "session": client.session,
        "stage": record.stage,
        "client": {"listener": client.listener, "ip": str(client.ip), "port": client.port, **{k: v for k, v in facts.items() if v}},
        **{k: v for k, v in told.items() if v},
    }


def opinion(one):
    decision = one.decision
    told = {
        "recipient": one.recipient,
        "observed": one.observed,
        "fault": one.fault[:500],
        "why": decision.why[:500],
        "reply": str(decision.reply) if decision.reply else "",
        "evidence": [[fact.name, fact.value[:500], fact.source] for fact in decision.evidence],
        "remedy": decision.remedy,
        "tags": sorted(decision.tags),
        "results": [f"{result.method}={result.result}" for result in decision.results],
    }
    always = {"policy": one.policy, "where": one.where, "stage": one.stage, "verdict": decision.verdict.value}
    return {**always, "ms": round(one.seconds * 1000, 1), **{k: v for k, v in told.items() if v}}


def as_read(told):
    """As a reader of JSON gets it: two surrogates that make a pair are one character."""
    return json.loads(json.dumps(told))


@settings(max_examples=150, deadline=None)
@given(RECORDS)
def test_a_record_says_what_the_straightforward_way_says(record):
    line = line_of_record(record)
    assert line.isascii()
    assert line.index("\n") == len(line) - 1
    assert json.loads(line) == as_read(expected(record))
    assert line_of_record(record) == line  # with all pieces known


def test_what_was_said_about_many_sessions_is_not_mixed_up():
    scribe, client = Scribe(), ClientFacts(session="s", listener="mx", ip=ip_address("192.0.2.1"), port=1)
    for number in range(3000):
        said = Opinion(f"p{number}", f"m.toml:{number}", "connect", Decision(Verdict.PROCEED, why=str(number)), 0.0)
        for record in [Record(0.0, client, "accepted", "data", opinions=[said])] * 2:
            (asked,) = json.loads(scribe.line_of_record(record))["asked"]
            assert (asked["policy"], asked["where"], asked["why"]) == (f"p{number}", f"m.toml:{number}", str(number))


@settings(max_examples=50, deadline=None)
@given(DELIVERIES, SECONDS)
def test_a_delivery_says_what_the_straightforward_way_says(event, time):
    told = {"time": time, "event": type(event).__name__.lower(), "session": event.session, "message": event.message}
    if isinstance(event, Bounced):
        told |= {"dsn": event.dsn, "action": event.action, "recipient": event.to}
    else:
        told |= {"recipient": event.recipient, "gateway": event.gateway, "peer": event.peer, "reply": str(event.reply)[:500]}
    if isinstance(event, Delayed):
        told["next_attempt"] = time + event.next_attempt
    line = Scribe().line_of_delivery(event, time)
    assert line.isascii()
    assert line.index("\n") == len(line) - 1
    assert json.loads(line) == as_read(told)


@settings(max_examples=50, deadline=None)
@given(RECORDS)
def test_every_text_of_a_record_is_redacted(record):
    told = json.loads(Scribe(lambda text: "-").line_of_record(record))

    def texts(value, name=""):
        if isinstance(value, dict):
            return [text for key, one in value.items() for text in texts(one, key)]
        if isinstance(value, list):
            return [text for one in value for text in texts(one)]
        return [value] if isinstance(value, str) and name not in ("event", "stage", "verdict", "ip") else []

    assert set(texts(told)) == {"-"}
