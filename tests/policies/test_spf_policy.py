"""What the policy makes of each result of SPF."""

from ipaddress import ip_address

import pytest
from attrs import evolve

from mailgw.interfaces import LookupFailed
from mailgw.policies.relay import Permit
from mailgw.policies.spf import Spf
from mailgw.senderauth.results import parse_results
from mailgw.testing import run
from mailgw.testing.clock import at
from mailgw.testing.facts import a_client, a_sender
from mailgw.testing.server import Identity, MemoryServer
from mailgw.testing.zone import zone

IP = "192.0.2.1"
DNS = zone(
    {
        "pass.example": {"TXT": [f"v=spf1 ip4:{IP} -all"]},
        "fail.example": {"TXT": ["v=spf1 -all"]},
        "says.example": {"TXT": ["v=spf1 -all exp=why.says.example"]},
        "why.says.example": {"TXT": ["see http://says.example/%{i} " + "x" * 500]},
        "soft.example": {"TXT": ["v=spf1 ~all"]},
        "neutral.example": {"TXT": ["v=spf1 ?all"]},
        "bad.example": {"TXT": ["v=spf1 moo"]},
        "down.example": LookupFailed,
        "none.example": {},
        "sub.fail.example": {"TXT": ["v=spf1 -all"]},
        "host.forwarder.example": {"A": [IP]},
        "elsewhere.forwarder.example": {"A": ["192.0.2.2"]},
    }
)


def policy(**settings):
    return Spf(**settings, resolver=DNS, identity=Identity(), clock=at("2026-01-05T10:00+00:00"))


def facts(sender="ann@fail.example", helo="none.example", **more):
    return a_sender(sender=sender, client=evolve(a_client(ip=IP, **more), helo=helo))


def verdict(decision):
    said = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{said} +{','.join(sorted(decision.tags))}" if decision.tags else said


FAIL = "550 5.7.23 SPF fail for fail.example"
DOWN = "451 4.7.24 SPF of down.example cannot be checked now"
OUTCOMES = {
    "pass": ({}, "a@pass.example", "none.example", "proceed"),
    "none": ({}, "a@none.example", "none.example", "proceed"),
    "neutral": ({}, "a@neutral.example", "none.example", "proceed"),
    "literal": ({}, "a@[192.0.2.9]", "none.example", "proceed"),
    "fail": ({}, "a@fail.example", "none.example", FAIL),
    "fail-deferred": ({"fail": "defer"}, "a@fail.example", "none.example", "451 4.7.23 SPF fail for fail.example"),
    "fail-marked": ({"fail": "mark"}, "a@fail.example", "none.example", "proceed +spf-fail"),
    "fail-held": ({"fail": "quarantine"}, "a@fail.example", "none.example", "quarantine +spf-fail"),
    "fail-discarded": ({"fail": "discard"}, "a@fail.example", "none.example", "discard +spf-fail"),
    "explained": (
        {},
        "a@says.example",
        "none.example",
        f"550 5.7.23 SPF fail for says.example, which explains: {f'see http://says.example/{IP} ' + 'x' * 166}",
    ),
    "not-explained": ({"explanation": False}, "a@says.example", "none.example", "550 5.7.23 SPF fail for says.example"),
    "softfail": ({}, "a@soft.example", "none.example", "proceed +spf-softfail"),
    "softfail-refused": ({"softfail": "reject"}, "a@soft.example", "none.example", "550 5.7.23 SPF softfail for soft.example"),
    "temperror": ({}, "a@down.example", "none.example", DOWN),
    "temperror-marked": ({"temperror": "mark"}, "a@down.example", "none.example", "proceed +spf-temperror"),
    "temperror-refused": ({"temperror": "reject"}, "a@down.example", "none.example", DOWN.replace("451 4", "550 5")),
    "permerror": ({}, "a@bad.example", "none.example", "proceed +spf-permerror"),
    "permerror-refused": ({"permerror": "reject"}, "a@bad.example", "none.example", "550 5.7.24 SPF record of bad.example is not valid"),
    "null": ({}, "<>", "fail.example", "550 5.7.23 SPF fail for fail.example (HELO)"),
    "null-pass": ({}, "<>", "pass.example", "proceed"),
    "null-even-if-helo-is-ignored": ({"helo": "ignore"}, "<>", "fail.example", "550 5.7.23 SPF fail for fail.example (HELO)"),
    "null-literal": ({}, "<>", "[192.0.2.1]", "proceed"),
    "helo-fail": ({}, "a@pass.example", "fail.example", "proceed +spf-helo-fail"),
    "helo-fail-refused": ({"helo": "reject"}, "a@pass.example", "fail.example", "550 5.7.23 SPF fail for fail.example (HELO)"),
    "helo-fail-deferred": ({"helo": "defer"}, "a@pass.example", "fail.example", "451 4.7.23 SPF fail for fail.example (HELO)"),
    "helo-ignored": ({"helo": "ignore"}, "a@pass.example", "fail.example", "proceed"),
    "helo-down-is-only-marked": ({"helo": "reject"}, "a@pass.example", "down.example", "proceed +spf-helo-temperror"),
    "helo-pass-does-not-help": ({}, "a@fail.example", "pass.example", FAIL),
    "exempt": ({"exempt_senders": ["fail.example"]}, "a@fail.example", "none.example", "proceed +spf-fail"),
    "exempt-not-below": (
        {"exempt_senders": ["fail.example"]},
        "a@sub.fail.example",
        "none.example",
        "550 5.7.23 SPF fail for sub.fail.example",
    ),
    "exempt-below": ({"exempt_senders": [".fail.example"]}, "a@sub.fail.example", "none.example", "proceed +spf-fail"),
    "exempt-only-below": ({"exempt_senders": [".fail.example"]}, "a@fail.example", "none.example", FAIL),
    "forwarder-by-record": ({"forwarders": ["pass.example"]}, "a@fail.example", "none.example", "proceed +spf-fail"),
    "forwarder-by-name": ({"forwarders": ["forwarder.example"]}, "a@fail.example", "HOST.forwarder.example", "proceed +spf-fail"),
    "forwarder-in-name-only": ({"forwarders": ["forwarder.example"]}, "a@fail.example", "elsewhere.forwarder.example", FAIL),
    "forwarder-other": ({"forwarders": ["soft.example"]}, "a@fail.example", "none.example", FAIL),
    "forwarder-helps-against-helo": (
        {"helo": "reject", "forwarders": ["pass.example"]},
        "a@pass.example",
        "fail.example",
        "proceed +spf-helo-fail",
    ),
}


@pytest.mark.parametrize(("settings", "sender", "helo", "expected"), OUTCOMES.values(), ids=OUTCOMES)
def test_outcomes(settings, sender, helo, expected):
    assert verdict(run(policy(**settings).check_sender(facts(sender, helo)))) == expected
    assert verdict(run(policy(**settings).check_sender(facts(sender, helo, login="ann")))) == "proceed"


def test_whether_it_is_a_forwarder_is_not_known():
    with pytest.raises(LookupFailed, match=r"whether 192\.0\.2\.1 is a forwarder"):
        run(policy(forwarders=["down.example"]).check_sender(facts()))


def test_results_go_to_later_policies():
    decision = run(policy(helo="mark").check_sender(facts("a@soft.example", "pass.example")))
    assert [(one.method, one.result, one.properties) for one in decision.results] == [
        ("spf", "pass", (("smtp.helo", "pass.example"),)),
        ("spf", "softfail", (("smtp.mailfrom", "soft.example"),)),
    ]


def test_the_grounds():
    decision = run(policy().check_sender(facts()))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("SPF of MAIL FROM", "fail.example about 192.0.2.1: fail", "RFC 7208"),
        ("SPF record", "v=spf1 -all", "TXT fail.example"),
        ("way to it", "fail.example: -all", "the records"),
    ]
    assert decision.why == "MAIL FROM fail.example: fail by -all"
    assert decision.remedy.startswith("192.0.2.1 in the SPF record of fail.example, or ")
    assert run(policy(permerror="reject").check_sender(facts("a@bad.example"))).remedy == (
        'a valid record in TXT bad.example: the record of bad.example is not valid: "moo": there is no such mechanism'
    )


def test_received_spf():
    [field] = run(policy(received_spf=True).check_sender(facts('"a(b"@soft.example'))).headers
    assert field.name == "Received-SPF"
    assert field.value == (
        "softfail (mx.example.org: domain soft.example does probably not designate 192.0.2.1 as permitted sender)\r\n"
        '\treceiver=mx.example.org;\r\n\tclient-ip=192.0.2.1;\r\n\tenvelope-from="\\"a(b\\"@soft.example";\r\n'
        '\thelo=none.example;\r\n\tidentity=mailfrom;\r\n\tmechanism=~all'
    )


def test_a_talk():
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[policy()], reference=lambda: "7QK3M")
    talk = server.connect(IP)
    talk.say("EHLO pass.example")
    assert talk.say("MAIL FROM:<ann@fail.example>") == f"{FAIL} [ref 7QK3M]\r\n"
    assert talk.say("MAIL FROM:<ann@down.example>") == f"{DOWN} [ref 7QK3M]\r\n"
    for line in ("MAIL FROM:<ann@soft.example>", "RCPT TO:<ben@example.org>", "DATA"):
        assert talk.say(line)[0] in "23"
    assert talk.say(b"Authentication-Results: mx.example.org; dkim=pass\r\nSubject: x\r\n\r\nx\r\n.\r\n").startswith("250 ")
    [parcel] = server.parcels
    field, _, rest = parcel.content.added.partition(b"Received: ")
    assert field == (
        b"Authentication-Results: mx.example.org;\r\n\tspf=pass smtp.helo=pass.example;\r\n\tspf=softfail smtp.mailfrom=soft.example\r\n"
    )
    assert len(parse_results(field.decode().partition(":")[2]).results) == 2
    assert rest.startswith(b"from pass.example ")
    assert parcel.content.original.startswith(b"X-Foreign-Auth-Results: mx.example.org; dkim=pass\r\n")
    assert parcel.envelope.tags == {"spf-softfail"}


def test_the_client_in_ipv6_clothes():
    decision = run(policy().check_sender(a_sender(sender="a@pass.example", client=a_client(ip=ip_address(f"::ffff:{IP}")))))
    assert verdict(decision) == "proceed"
