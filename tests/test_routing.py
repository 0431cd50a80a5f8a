from ipaddress import ip_address

import pytest

from mailgw.routes.by_domain import ByDomain
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule, facts_again
from mailgw.testing.facts import a_recipient, an_address, an_envelope
from mailgw.testing.running import run
from mailgw.values.delivery import Destination, Route

RULES = [
    Rule('to "example.org"', ByDomain({"example.org"}, "mailboxes")),
    Rule('to "example.net"', ByDomain({"example.net"}, "internet", "192.0.2.1:25")),
    Rule("otherwise", Default("internet")),
]
ROUTING = Routing(RULES, frozenset({"internet"}))


@pytest.mark.parametrize(
    ("to", "rule", "destination"),
    [
        ("anna@example.org", 0, Destination("mailboxes", "")),
        ("anna@example.net", 1, Destination("internet", "192.0.2.1:25")),
        ("anna@elsewhere.example", 2, Destination("internet", "elsewhere.example")),
        ("anna@Bücher.example", 2, Destination("internet", "xn--bcher-kva.example")),
    ],
)
def test_the_first_rule_that_answers_wins(to, rule, destination):
    found = run(ROUTING.find(a_recipient(to)))
    assert found.rule is RULES[rule]
    assert found.destination == destination


def test_no_rule_answers():
    assert run(Routing(RULES[:1]).find(a_recipient("anna@example.net"))) is None


class Odd:
    def __init__(self, answer):
        self.answer = answer

    async def route(self, facts):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


ODD_NAMES = [Route(7), Route("\udcff"), Route("a", 7), Route("a", "b\n"), Route("a", "b\udcff")]  # none of which can be written down
NONSENSE = ["mailboxes", Route(""), 0, False, [Route("a")], *ODD_NAMES]


@pytest.mark.parametrize("answer", NONSENSE, ids=ascii)
def test_nonsense_is_an_error(answer):
    with pytest.raises(TypeError, match="route odd answered"):
        run(Routing([Rule("odd", Odd(answer)), *RULES]).find(a_recipient()))


def test_what_a_route_raises_passes_through():
    with pytest.raises(LookupError):
        run(Routing([Rule("odd", Odd(LookupError("x"))), *RULES]).find(a_recipient()))


def test_a_gateway_that_is_not_there_is_an_error():
    routing = Routing([Rule("odd", Odd(Route("nowhere"))), *RULES], gateways={"mailboxes", "internet"})
    with pytest.raises(LookupError, match="route odd answered with a gateway that is not there: nowhere"):
        run(routing.find(a_recipient()))


def test_a_route_may_be_awaited():
    assert run(Routing([Rule("odd", Odd(Route("slow")))]).find(a_recipient())).destination == Destination("slow", "")


def test_facts_again():
    envelope = an_envelope("anna@example.com", login="anna", listener="submission", tags={"bulk"}, session="s1")
    facts = facts_again(envelope, an_address("ben@example.org"))
    assert str(facts.sender) == "anna@example.com"
    assert str(facts.recipient) == "ben@example.org"
    assert facts.tags == {"bulk"}
    client = facts.client
    assert (client.session, client.listener, client.kind, client.login) == ("s1", "submission", "submission", "anna")
    assert facts.client.ip == ip_address("192.0.2.99")
    ours = facts_again(an_envelope("", client_ip=None, helo=""), an_address("anna@example.com"))
    assert ours.client.ip.is_loopback
    assert ours.client.kind == "relay"
