"""The policies that ask the DNS about a client: dnsbl, reverse-dns, helo, sender-domain."""

from ipaddress import ip_address

import pytest
from attrs import evolve

from mailgw.interfaces import LookupFailed
from mailgw.policies.dnsbl import Dnsbl, parse_zone
from mailgw.policies.helo import Helo
from mailgw.policies.relay import Permit
from mailgw.policies.reverse_dns import ReverseDns
from mailgw.policies.sender_domain import SenderDomain
from mailgw.testing import run
from mailgw.testing.facts import a_client, a_sender
from mailgw.testing.server import Identity, MemoryServer
from mailgw.testing.zone import zone

DNS = zone(
    {
        "good.example": {"A": ["192.0.2.1"], "MX": [(10, "mx.good.example")]},
        "mx.good.example": {"A": ["1.1.1.1"], "AAAA": ["2606:4700::1"]},
        "only-a.example": {"A": ["8.8.8.8"]},
        "only-mx.example": {"MX": [(10, "mx.good.example")]},
        "null.example": {"MX": [(0, "")]},
        "empty.example": {},
        "private.example": {"MX": [(10, "inside.example")]},
        "inside.example": {"A": ["10.0.0.1"]},
        "lost.example": {"MX": [(10, "nowhere.example")]},
        "broken.example": LookupFailed,
        "xn--bcher-kva.example": {"A": ["1.1.1.1"]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["good.example"]},
        "2.2.0.192.in-addr.arpa": {"PTR": ["liar.example", "good.example"]},
        "3.2.0.192.in-addr.arpa": {"PTR": ["dsl-3.pool.example"]},
        "dsl-3.pool.example": {"A": ["192.0.2.3"]},
        "4.2.0.192.in-addr.arpa": LookupFailed,
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa": {"PTR": ["six.example"]},
        "six.example": {"AAAA": ["2001:db8::1"]},
        "1.2.0.192.list.example": {"A": ["127.0.0.2"], "TXT": ["see list.example/1"]},
        "1.2.0.192.codes.example": {"A": ["127.0.0.10"]},
        "1.2.0.192.wild.example": {"A": ["203.0.113.1"]},  # a list that was given up answers everything so
        "1.2.0.192.friends.example": {"A": ["127.0.0.1"]},
        "1.2.0.192.down.example": LookupFailed,
        "1.2.0.192.refuses.example": {"A": ["127.255.255.254"]},
        "1.2.0.192.away.example": LookupFailed,
        "half-broken.example": {"MX": [(10, "broken.example"), (20, "mx.good.example")]},
        "quite-broken.example": {"MX": [(10, "inside.example"), (20, "broken.example")]},
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.list.example": {"A": ["127.0.0.3"]},
        "bad.example.names.example": {"A": ["127.0.1.2"]},
        "good.example.names.example": {"A": ["127.0.1.2"]},
    }
)


def verdict(decision):
    said = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{said} +{','.join(sorted(decision.tags))}" if decision.tags else said


def client(ip="192.0.2.9", **more):
    return a_client(ip=ip, **more)


# ── HELO ──

HELO = {
    "fine": ({}, "c.example", "proceed"),
    "literal": ({}, "[192.0.2.9]", "proceed"),
    "literal-refused": ({"literal": "reject"}, "[192.0.2.9]", "550 5.7.1 HELO is an address literal"),
    "literal-of-ipv6": ({}, "[IPv6:::ffff:192.0.2.9]", "proceed"),
    "wrong-literal": ({}, "[192.0.2.8]", "550 5.7.1 HELO is the address literal of somebody else"),
    "no-literal": ({}, "[192.0.2.300]", "550 5.7.1 HELO is no valid address literal"),
    "bare-address": ({}, "192.0.2.9", "550 5.7.1 HELO is no host name"),
    "nonsense": ({}, "a b_c..", "550 5.7.1 HELO is no host name"),
    "nonsense-tagged": ({"invalid": "tag"}, "a..b", "proceed +odd-helo"),
    "nonsense-held": ({"invalid": "quarantine"}, "a..b", "quarantine"),
    "our-name-and-a-dot": ({"invalid": "tag"}, f"{Identity().hostname}.", "550 5.7.1 HELO is our own name"),
    "our-name": ({}, Identity().hostname.upper(), "550 5.7.1 HELO is our own name"),
    "unqualified": ({}, "localhost", "proceed"),
    "unqualified-refused": ({"unqualified": "defer"}, "localhost", "450 4.7.1 HELO is not a fully qualified host name"),
    "unknown-not-asked": ({}, "nowhere.example", "proceed"),
    "unknown": ({"unknown": "reject"}, "nowhere.example", "550 5.7.1 HELO name is not known to the DNS"),
    "unknown-empty": ({"unknown": "reject"}, "empty.example", "550 5.7.1 HELO name is not known to the DNS"),
    "known": ({"unknown": "reject"}, "only-mx.example", "proceed"),
    "known-u-label": ({"unknown": "reject"}, "bücher.example", "proceed"),
}


@pytest.mark.parametrize(("settings", "helo", "expected"), HELO.values(), ids=HELO)
def test_helo(settings, helo, expected):
    policy = Helo(**settings, resolver=DNS, identity=Identity())
    facts = a_sender(client=evolve(client(), helo=helo))
    assert verdict(run(policy.check_sender(facts))) == expected
    assert verdict(run(policy.check_sender(evolve(facts, client=evolve(facts.client, login="ann"))))) == "proceed"


def test_helo_grounds():
    decision = run(Helo(resolver=DNS, identity=Identity()).check_sender(a_sender(client=evolve(client(), helo="[192.0.2.8]"))))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("HELO", "[192.0.2.8]", "the client's own words"),
        ("address", "192.0.2.9", "the connection"),
    ]
    assert decision.remedy == "[192.0.2.9], or a host name"


# ── The sender's domain ──

UNKNOWN = "550 5.1.8 sender's domain {} cannot take an answer"
SENDERS = {
    "null": ({}, "<>", "proceed"),
    "mx": ({}, "a@good.example", "proceed"),
    "address-only": ({}, "a@only-a.example", "proceed"),
    "one-mx-is-not-known": ({}, "a@half-broken.example", "proceed"),
    "no-domain": ({}, "a@nowhere.example", UNKNOWN.format("nowhere.example")),
    "no-records": ({}, "a@empty.example", UNKNOWN.format("empty.example")),
    "mx-without-address": ({}, "a@lost.example", UNKNOWN.format("lost.example")),
    "tagged": ({"unknown": "tag", "tag": "ghost"}, "a@nowhere.example", "proceed +ghost"),
    "null-mx": ({}, "a@null.example", "550 5.7.27 null.example takes no mail, so an answer would be lost"),
    "null-mx-passed": ({"null_mx": "pass"}, "a@null.example", "proceed"),
    "private": ({}, "a@private.example", "550 5.1.8 mail servers of private.example cannot be reached from here"),
    "private-passed-without-address": ({"unreachable": "pass"}, "a@lost.example", UNKNOWN.format("lost.example")),
    "both-passed": ({"unreachable": "pass", "unknown": "pass"}, "a@lost.example", "proceed"),
    "private-passed": ({"unreachable": "pass"}, "a@private.example", "proceed"),
    "literal": ({}, "a@[192.0.2.1]", "550 5.1.8 sender has an address literal"),
    "literal-deferred": ({"literal": "defer"}, "a@[192.0.2.1]", "450 4.1.8 sender has an address literal"),
}


@pytest.mark.parametrize(("settings", "sender", "expected"), SENDERS.values(), ids=SENDERS)
def test_sender_domain(settings, sender, expected):
    decision = run(SenderDomain(**settings, resolver=DNS).check_sender(a_sender(sender=sender)))
    assert verdict(decision) == expected
    assert bool(decision.evidence) == (
        decision.verdict.value != "proceed" or "passed" in str(settings) or bool(decision.tags) or "null_mx" in settings
    )


# ── The reverse name ──

REVERSE = {
    "confirmed": ({}, "192.0.2.1", "proceed", "pass"),
    "six": ({}, "2001:db8::1", "proceed", "pass"),
    "none": ({}, "192.0.2.9", "550 5.7.25 192.0.2.9 has no reverse name", "fail"),
    "none-tagged": ({"missing": "tag"}, "192.0.2.9", "proceed +odd-name", "fail"),
    "lies": ({"mismatch": "defer"}, "192.0.2.2", "450 4.7.25 the reverse name of 192.0.2.2 does not lead back to it", "fail"),
    "lies-tagged": ({}, "192.0.2.2", "proceed +odd-name", "fail"),
    "generic-unasked": ({}, "192.0.2.3", "proceed", "pass"),
    "generic": (
        {"generic": "reject", "generic_names": [r"^dsl-\d+\.POOL\."]},
        "192.0.2.3",
        "550 5.7.25 dsl-3.pool.example looks like the name of a dial-up address",
        "pass",
    ),
}


@pytest.mark.parametrize(("settings", "ip", "expected", "iprev"), REVERSE.values(), ids=REVERSE)
def test_reverse_dns(settings, ip, expected, iprev):
    decision = run(ReverseDns(**settings, resolver=DNS).check_client(client(ip)))
    assert verdict(decision) == expected
    assert [(one.method, one.result, one.properties) for one in decision.results] == [("iprev", iprev, (("policy.iprev", ip),))]
    assert decision.evidence[0].name.startswith("reverse name")


def test_a_pattern_that_is_none_is_found_at_the_start():
    with pytest.raises(ValueError, match="is no regular expression"):
        ReverseDns(generic_names=["("], resolver=DNS)


# ── Lists ──

LISTS = {
    "listed": ({"zones": ["list.example"]}, "192.0.2.1", "550 5.7.1 192.0.2.1 is listed at list.example: see list.example/1"),
    "quiet": ({"zones": ["list.example"], "show_reason": False}, "192.0.2.1", "550 5.7.1 192.0.2.1 is listed at list.example"),
    "not-listed": ({"zones": ["list.example"]}, "192.0.2.9", "proceed"),
    "six": ({"zones": ["list.example"]}, "2001:db8::1", "550 5.7.1 2001:db8::1 is listed at list.example"),
    "code": ({"zones": ["codes.example=127.0.0.9-11"]}, "192.0.2.1", "550 5.7.1 192.0.2.1 is listed at codes.example"),
    "other-code": ({"zones": ["codes.example=127.0.0.2;127.0.0.4-7"]}, "192.0.2.1", "proceed"),
    "refusal-code": (
        {"zones": ["refuses.example=127.255.255.254"]},
        "192.0.2.1",
        "550 5.7.1 192.0.2.1 is listed at refuses.example",
    ),
    "no-loopback": ({"zones": ["wild.example"]}, "192.0.2.1", "proceed"),
    "below-the-threshold": ({"zones": ["list.example"], "threshold": 2}, "192.0.2.1", "proceed"),
    "together": (
        {"zones": ["list.example", "codes.example*2"], "threshold": 3, "show_reason": False},
        "192.0.2.1",
        "550 5.7.1 192.0.2.1 is listed at codes.example",
    ),
    "allowed": ({"zones": ["list.example", "friends.example*-5"]}, "192.0.2.1", "proceed"),
    "another-is-down": (
        {"zones": ["down.example", "list.example"], "show_reason": False},
        "192.0.2.1",
        "550 5.7.1 192.0.2.1 is listed at list.example",
    ),
    "another-is-down-but-could-not-help": (
        {"zones": ["list.example*5", "down.example*-4"], "show_reason": False},
        "192.0.2.1",
        "550 5.7.1 192.0.2.1 is listed at list.example",
    ),
    "others-are-down-but-would-not-be-enough": ({"zones": ["down.example", "away.example"], "threshold": 3}, "192.0.2.1", "proceed"),
    "tagged": ({"zones": ["list.example"], "action": "tag"}, "192.0.2.1", "proceed +listed"),
    "deferred": ({"zones": ["codes.example"], "action": "defer"}, "192.0.2.1", "450 4.7.1 192.0.2.1 is listed at codes.example"),
}


def lists(settings):
    kinds = ("zones", "helo_zones", "sender_zones", "reverse_zones")
    made = {name: [parse_zone(one) for one in value] if name in kinds else value for name, value in settings.items()}
    return Dnsbl(**made, resolver=DNS)


@pytest.mark.parametrize(("settings", "ip", "expected"), LISTS.values(), ids=LISTS)
def test_lists_of_addresses(settings, ip, expected):
    decision = run(lists(settings).check_client(client(ip)))
    assert verdict(decision) == expected
    assert verdict(run(lists(settings).check_client(client(ip, login="ann")))) == "proceed"


NAMES = {
    "helo": ({"helo_zones": ["names.example"]}, "bad.example", "a@x.example", "550 5.7.1 bad.example is listed at names.example"),
    "helo-dot": ({"helo_zones": ["names.example"]}, "BAD.example.", "a@x.example", "550 5.7.1 bad.example is listed at names.example"),
    "sender": ({"sender_zones": ["names.example"]}, "c", "a@bad.example", "550 5.7.1 bad.example is listed at names.example"),
    "reverse": ({"reverse_zones": ["names.example"]}, "c", "<>", "550 5.7.1 good.example is listed at names.example"),
    "clean": ({"helo_zones": ["names.example"], "sender_zones": ["names.example"]}, "c.example", "a@x.example", "proceed"),
    "literal": ({"helo_zones": ["names.example"], "sender_zones": ["names.example"]}, "[192.0.2.1]", "a@[192.0.2.1]", "proceed"),
    "null": ({"sender_zones": ["names.example"]}, "bad.example", "<>", "proceed"),
}


@pytest.mark.parametrize(("settings", "helo", "sender", "expected"), NAMES.values(), ids=NAMES)
def test_lists_of_names(settings, helo, sender, expected):
    facts = a_sender(sender=sender, client=evolve(client("192.0.2.1"), helo=helo))
    assert verdict(run(lists(settings).check_sender(facts))) == expected


def test_what_the_lists_said_is_the_ground():
    decision = run(lists({"zones": ["list.example", "codes.example*2"]}).check_client(client("192.0.2.1")))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("list.example (+1)", "192.0.2.1: 127.0.0.2", "A 1.2.0.192.list.example"),
        ("codes.example (+2)", "192.0.2.1: 127.0.0.10", "A 1.2.0.192.codes.example"),
    ]
    assert decision.why == "score 3, and 1 is enough"


def test_no_reverse_name_hides_a_sender():
    """Who has the reverse zone of an address can keep its names from being found, and must gain nothing by it."""
    policy = lists({"sender_zones": ["names.example"], "reverse_zones": ["names.example"]})
    decision = run(policy.check_sender(a_sender(sender="a@bad.example", client=client("192.0.2.4"))))
    assert verdict(decision) == "550 5.7.1 bad.example is listed at names.example"
    assert ("names.example (+1)", "no answer") in [(one.name, one.value) for one in decision.evidence]


ZONES = {
    "name": ("zen.example.net", "zen.example.net", 1),
    "weight": ("zen.example.net*3", "zen.example.net", 3),
    "allow": ("Allow.example.net*-2", "allow.example.net", -2),
}


@pytest.mark.parametrize(("text", "name", "weight"), ZONES.values(), ids=ZONES)
def test_how_a_list_is_written(text, name, weight):
    zone = parse_zone(text)
    assert (zone.name, zone.weight) == (name, weight)
    assert zone.counts(ip_address("127.255.255.255"))
    assert not zone.counts(ip_address("128.0.0.1"))


@pytest.mark.parametrize("text", ["", "a b", "x=1", "x=127.0.0.7-2", "x=10.0.0.1", "x*", "x=127.0.0.2*many", "-.example"])
def test_what_is_no_list(text):
    with pytest.raises(ValueError):
        parse_zone(text)


def test_no_list_at_all_is_an_error():
    with pytest.raises(ValueError, match="names no list"):
        Dnsbl(resolver=DNS)


# ── All of them ──

TROUBLE = {
    "dnsbl": (lists({"zones": ["down.example"]}), "check_client", client("192.0.2.1")),
    "dnsbl-allow": (lists({"zones": ["list.example", "down.example*-1"]}), "check_client", client("192.0.2.1")),
    "dnsbl-enough": (lists({"zones": ["list.example", "down.example"], "threshold": 2}), "check_client", client("192.0.2.1")),
    "dnsbl-refusal": (lists({"zones": ["refuses.example"]}), "check_client", client("192.0.2.1")),
    "dnsbl-names": (lists({"reverse_zones": ["names.example"]}), "check_sender", a_sender(client=client("192.0.2.4"))),
    "reverse-dns": (ReverseDns(resolver=DNS), "check_client", client("192.0.2.4")),
    "helo": (
        Helo(unknown="reject", resolver=DNS, identity=Identity()),
        "check_sender",
        a_sender(client=evolve(client(), helo="broken.example")),
    ),
    "sender-domain": (SenderDomain(resolver=DNS), "check_sender", a_sender(sender="a@broken.example")),
    "sender-domain-mx": (SenderDomain(resolver=DNS), "check_sender", a_sender(sender="a@quite-broken.example")),
}


@pytest.mark.parametrize(("policy", "method", "facts"), TROUBLE.values(), ids=TROUBLE)
def test_a_dns_that_does_not_answer_is_left_to_on_error(policy, method, facts):
    with pytest.raises(LookupFailed):
        run(getattr(policy, method)(facts))


def test_a_talk():
    policies = [lists({"zones": ["list.example"]}), Helo(resolver=DNS, identity=Identity()), SenderDomain(resolver=DNS)]
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=policies, reference=lambda: "7QK3M")
    assert server.connect("192.0.2.1").heard() == "554 5.7.1 192.0.2.1 is listed at list.example: see list.example/1 [ref 7QK3M]\r\n"
    talk = server.connect("192.0.2.9")
    talk.say("EHLO [192.0.2.8]")
    assert talk.say("MAIL FROM:<a@good.example>") == "550 5.7.1 HELO is the address literal of somebody else [ref 7QK3M]\r\n"
    talk.say("EHLO c.example")
    expected = "550 5.1.8 sender's domain nowhere.example cannot take an answer [ref 7QK3M]\r\n"
    assert talk.say("MAIL FROM:<a@nowhere.example>") == expected
    assert talk.say("MAIL FROM:<a@good.example>").startswith("250 ")
