from ipaddress import ip_address, ip_network

import pytest
from attrs import frozen
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.interfaces import IRelayPolicy
from mailgw.policies.relay import Permit
from mailgw.testing import MemoryServer, a_recipient
from mailgw.values.address import BadAddress
from mailgw.values.decision import Verdict, defer, discard, permit, proceed, quarantine, reject


def networks(*texts):
    return tuple(map(ip_network, texts))


OURS = Permit(to={"example.org", ".example.net"}, name="ours")
OFFICE = Permit(networks=networks("192.0.2.0/24", "2001:db8:1::/48"), name="office")
STAFF = Permit(authenticated=True, name="staff")
OFFICE_TO_OURS = Permit(to={"example.org"}, networks=networks("192.0.2.0/24"))
STAFF_AT_THE_OFFICE = Permit(authenticated=True, networks=networks("192.0.2.0/24"))
ALL = Permit(to={"example.org"}, networks=networks("192.0.2.0/24"), authenticated=True)


@pytest.mark.parametrize(
    ("rule", "to", "about", "permitted"),
    [
        pytest.param(OURS, "a@example.org", {}, True, id="our domain"),
        pytest.param(OURS, "a@EXAMPLE.org", {}, True, id="our domain in capitals"),
        pytest.param(OURS, "a@example.com", {}, False, id="another domain"),
        pytest.param(OURS, "a@sub.example.org", {}, False, id="subdomain of a domain alone"),
        pytest.param(OURS, "a@sub.example.net", {}, True, id="subdomain"),
        pytest.param(OURS, "a@deep.sub.example.net", {}, True, id="subdomain of a subdomain"),
        pytest.param(OURS, "a@example.net", {}, False, id="the domain itself is no subdomain"),
        pytest.param(OURS, "a@notexample.net", {}, False, id="longer label"),
        pytest.param(OURS, "a@example.net.example.com", {}, False, id="ours in the middle"),
        pytest.param(OURS, "a@net", {}, False, id="parent"),
        pytest.param(OURS, "a@[192.0.2.1]", {}, False, id="address literal"),
        pytest.param(OURS, "postmaster", {}, False, id="no domain"),
        pytest.param(OURS, "a%example.com@example.org", {}, False, id="percent hack"),
        pytest.param(OURS, "example.com!a@example.org", {}, False, id="bang path"),
        pytest.param(OURS, '"a@example.com"@example.org', {}, False, id="quoted at"),
        pytest.param(OURS, '"@a.example,@b.example:a"@example.org', {}, False, id="quoted source route"),
        pytest.param(OURS, "a%example.com@example.org", {"login": "anna"}, False, id="a login that the rule does not ask for"),
        pytest.param(OFFICE, "a@example.com", {"ip": "192.0.2.7"}, True, id="our network"),
        pytest.param(OFFICE, "a@example.com", {"ip": "2001:db8:1::7"}, True, id="our IPv6 network"),
        pytest.param(OFFICE, "a@example.com", {"ip": "::ffff:192.0.2.7"}, True, id="IPv4-mapped"),
        pytest.param(OFFICE, "a@example.com", {"ip": "192.0.3.7"}, False, id="another network"),
        pytest.param(OFFICE, "a@example.com", {"ip": "::ffff:192.0.3.7"}, False, id="another network, IPv4-mapped"),
        pytest.param(OFFICE, "a@example.com", {"ip": "::192.0.2.7"}, False, id="IPv4-compatible is not IPv4-mapped"),
        pytest.param(OFFICE, "a@example.com", {"ip": "2001:db8:2::7"}, False, id="another IPv6 network"),
        pytest.param(OFFICE, "a%example.com@example.org", {"ip": "192.0.2.7"}, True, id="percent hack from our network"),
        pytest.param(STAFF, "a@example.com", {"login": "anna"}, True, id="login"),
        pytest.param(STAFF, "a@example.com", {}, False, id="no login"),
        pytest.param(STAFF, "b!a@example.com", {"login": "anna"}, True, id="bang path with a login"),
        pytest.param(OFFICE_TO_OURS, "a@example.org", {"ip": "192.0.2.7"}, True, id="both conditions"),
        pytest.param(OFFICE_TO_OURS, "a@example.org", {"ip": "192.0.3.7"}, False, id="only the domain"),
        pytest.param(OFFICE_TO_OURS, "a@example.com", {"ip": "192.0.2.7"}, False, id="only the network"),
        pytest.param(STAFF_AT_THE_OFFICE, "a@example.com", {"ip": "192.0.2.7"}, False, id="network without login"),
        pytest.param(STAFF_AT_THE_OFFICE, "a@example.com", {"ip": "192.0.3.7", "login": "anna"}, False, id="login from elsewhere"),
        pytest.param(ALL, "a@example.org", {"ip": "192.0.2.7", "login": "anna"}, True, id="all conditions"),
        pytest.param(ALL, "a@example.com", {"ip": "192.0.2.7", "login": "anna"}, False, id="all but the domain"),
        pytest.param(Permit(to="bücher.example"), "a@BÜCHER.example", {}, True, id="internationalized"),
        pytest.param(Permit(to={".Bücher.example"}), "a@x.xn--bcher-kva.example", {}, True, id="internationalized subdomain"),
        pytest.param(Permit(networks=networks("::ffff:192.0.2.0/120")), "a@example.com", {"ip": "192.0.2.7"}, True, id="mapped network"),
        pytest.param(Permit(networks=networks("::/0")), "a@example.com", {"ip": "192.0.2.7"}, False, id="all of IPv6 is not IPv4"),
    ],
)
def test_permit(rule, to, about, permitted):
    decision = rule.may_relay(a_recipient(to, **{"ip": "203.0.113.7", **about}))
    assert decision.verdict is (Verdict.PERMIT if permitted else Verdict.PROCEED)
    if permitted:
        assert decision.why == (rule.name or "permit rule")


@pytest.mark.parametrize("conditions", [{}, {"to": ()}, {"networks": ()}, {"authenticated": False}, {"name": "all"}])
def test_a_rule_without_a_condition_cannot_be_made(conditions):
    with pytest.raises(ValueError, match="open relay"):
        Permit(**conditions)


@pytest.mark.parametrize("to", ["", ".", "..example.org", "exa mple.org", "*"])
def test_a_rule_with_a_bad_domain_cannot_be_made(to):
    with pytest.raises(BadAddress):
        Permit(to={to})


def test_keeps_its_contract():
    assert verifyObject(IRelayPolicy, OURS)


# ── Whatever stands in the list, in whatever order, a stranger gets in only by a rule that alone would let him in. ──


@implementer(IRelayPolicy)
@frozen(eq=False)
class Faulty:
    """A relay policy that does not keep its contract, or has no opinion."""

    fault: str

    def may_relay(self, facts):
        if self.fault == "raises":
            raise RuntimeError("broken")
        if self.fault == "raises permit":
            raise PermitLike
        return FAULTS[self.fault]()


class PermitLike(Exception):
    verdict = Verdict.PERMIT


async def raises_later():
    raise RuntimeError("broken")


async def answers_later(answer):
    return answer


FAULTS = {
    "raises": None,
    "raises permit": None,
    "raises later": raises_later,
    "hangs": Deferred,
    "says true": lambda: True,
    "says the verdict": lambda: Verdict.PERMIT,
    "says a word": lambda: "permit",
    "says something like it": PermitLike,
    "says nothing": lambda: None,
    "says the function": lambda: permit,
    "says a word later": lambda: answers_later("permit"),
    "says proceed later": lambda: answers_later(proceed()),
    "proceeds": proceed,
    "rejects": lambda: reject("no"),
    "defers": lambda: defer("later"),
    "discards": lambda: discard("no"),
    "quarantines": lambda: quarantine("odd"),
}

CLIENTS = ["192.0.2.7", "203.0.113.7", "2001:db8:1::7", "2001:db8:2::7"]
RECIPIENTS = [
    "a@example.org",
    "a@example.com",
    "a@sub.example.net",
    "a%example.com@example.org",
    "example.com!a@example.org",
    '"a@example.com"@example.org',
    "@example.org:a@example.com",  # a source route: what counts is the mailbox (RFC 5321 appendix C)
    "@example.com:a@example.org",
]
RULES = st.sampled_from([OURS, OFFICE, STAFF, OFFICE_TO_OURS, STAFF_AT_THE_OFFICE, ALL])


def lets_in(rule, ip, path):
    """The same question, answered in other words: a stranger without login."""
    mailbox = path.split(":", 1)[1] if path.startswith("@") else path
    local_part, _, domain = mailbox.rpartition("@")
    if rule.authenticated:
        return False
    by_network = bool(rule.networks) and any(ip_address(ip) in network for network in rule.networks)
    if rule.networks and not by_network:
        return False
    if rule.to and not (domain in rule.to or any(name.startswith(".") and domain.endswith(name) for name in rule.to)):
        return False
    return by_network or not set("%!@") & set(local_part)


@settings(max_examples=150, deadline=None)
@given(st.lists(RULES | st.sampled_from(sorted(FAULTS)).map(Faulty), max_size=5), st.sampled_from(CLIENTS), st.sampled_from(RECIPIENTS))
def test_no_order_and_no_fault_opens_the_relay(rules, ip, path):
    permitted = any(isinstance(rule, Permit) and lets_in(rule, ip, path) for rule in rules)
    server = MemoryServer(permits=rules, timeout=30)
    talk = server.connect(ip)
    talk.say("EHLO client.example")
    talk.say("MAIL FROM:<b@example.com>")
    answer = talk.say(f"RCPT TO:<{path}>")
    while not answer:
        server.clock.advance(31)  # past the time limit of one rule that hangs
        answer = talk.heard()
    assert answer.startswith("250 ") is permitted
    if not permitted:
        assert answer.startswith(("550 5.7.1", "451 4.3.0"))
    talk.hang_up()
