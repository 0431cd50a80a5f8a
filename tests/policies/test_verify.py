"""verify-recipient and verify-sender: what other servers say about an address, how long it is remembered, and what the client hears."""

from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from mailgw.admin.still_house import still_house
from mailgw.assemble import build_parts
from mailgw.config.members import Gateways
from mailgw.config.reading import read_text
from mailgw.gateways.discard import Discard
from mailgw.gateways.lmtp import Lmtp
from mailgw.gateways.mx import Mx
from mailgw.gateways.smarthost import Smarthost
from mailgw.interfaces import LookupFailed, MemoryUnavailable
from mailgw.policies.relay import Permit
from mailgw.policies.verify_recipient import VerifyRecipient
from mailgw.policies.verify_sender import VerifySender
from mailgw.problems import BadConfiguration
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing.clock import at
from mailgw.testing.facts import a_recipient, a_sender
from mailgw.testing.mail_server import DROP, MailServer
from mailgw.testing.network import Network
from mailgw.testing.server import Identity, MemoryServer
from mailgw.testing.zone import zone
from mailgw.values.quantities import Rate

WHERE = "192.0.2.1:25"
DNS = zone(
    {
        "example.com": {"MX": [(10, "mx.example.com")]},
        "mx.example.com": {"A": ["192.0.2.1"]},
        "loop.example": {"MX": [(10, "us.example.com")]},
        "broken.example": LookupFailed,
    }
)


class Place:
    """One gateway of each kind, on a network in memory."""

    def __init__(self, server: Any = None, where: str = WHERE) -> None:
        self.network = network = Network({where: server} if server is not None else {})
        self.clock = at("2026-01-05T10:00+00:00")
        self.memory = InProcessMemory(self.clock)
        about: Any = {"dialer": network, "resolver": DNS, "identity": Identity("us.example.com")}
        about |= {"clock": network.clock, "threads": network.threads}
        self.gateways = Gateways()
        self.gateways.by_name |= {
            "inside": Smarthost("192.0.2.1", tls="never", **about),
            "mailboxes": Lmtp("unix:/lmtp", **about),
            "internet": Mx(tls="never", **about),
            "nowhere": Discard(),
        }

    def recipients(self, **options: Any) -> VerifyRecipient:
        return VerifyRecipient(**options, gateways=self.gateways, memory=self.memory)

    def senders(self, **options: Any) -> VerifySender:
        return VerifySender(**{"gateway": "internet", **options}, gateways=self.gateways, memory=self.memory)

    def check(self, policy: VerifyRecipient, to: str = "ben@example.org", **route: str) -> Any:
        return self.network.run(policy.check_recipient(to_route(to, **{"gateway": "inside", **route})))


def to_route(to: str, gateway: str, next_hop: str = "") -> Any:
    return evolve(a_recipient(to), gateway=gateway, next_hop=next_hop)


def verdict(decision: Any) -> str:
    said = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{said} +{','.join(sorted(decision.tags))}" if decision.tags else said


NO = "550 5.1.1 no such recipient"
UNSURE = "451 4.4.0 the recipient cannot be verified now, try again later"
RECIPIENTS: dict[str, tuple[Any, str]] = {
    "known": (MailServer(), "proceed"),
    "unknown": (MailServer({"RCPT": "550 5.1.1 unknown user x"}), NO),
    "unknown, one by one": (MailServer({"RCPT": "550 5.1.1 unknown user x"}, offers=()), NO),
    "refused for another reason": (MailServer({"RCPT": "554 5.7.1 no"}), NO),
    "not sure": (MailServer({"RCPT": "450 4.2.1 busy"}), UNSURE),
    "MAIL refused: that says nothing about the recipient": (MailServer({"MAIL": "550 5.7.1 not you"}), UNSURE),
    "greeting refused: nor does that": (MailServer({"greeting": "554 5.7.1 not you"}), UNSURE),
    "down": (None, UNSURE),
    "hangs up": (MailServer({"RCPT": DROP}), UNSURE),
    "nonsense": (MailServer({"RCPT": "yes"}), UNSURE),
}


@pytest.mark.parametrize("name", RECIPIENTS)
def test_recipient(name: str) -> None:
    server, expected = RECIPIENTS[name]
    place = Place(server)
    decision = place.check(place.recipients())
    assert verdict(decision) == expected
    if decision.reply:
        assert "unknown user x" not in decision.reply.text, "the next hop's words are for the journal"
        assert [one.name for one in decision.evidence] == ["recipient", "reply"]
        assert decision.remedy
    if server:
        assert not any(line.startswith("DATA") for line in server.heard)


def test_grounds() -> None:
    place = Place(MailServer({"RCPT": "550 5.1.1 unknown user x"}))
    policy = place.recipients()
    for source in ("192.0.2.1, gateway inside", "memory, of 192.0.2.1, gateway inside"):
        decision = place.check(policy)
        assert [(one.name, one.value, one.source) for one in decision.evidence] == [
            ("recipient", "ben@example.org", "RCPT command"),
            ("reply", "550 5.1.1 unknown user x", source),
        ]
    assert decision.remedy == "a server that knows ben@example.org; an answer is remembered for 600 s"
    assert decision.why == "the next hop said: 550 5.1.1 unknown user x"


OPTIONS: dict[str, tuple[dict[str, Any], str, str]] = {
    "unsure, tagged": ({"unsure": "tag", "tag": "maybe"}, "inside", "proceed +maybe"),
    "unsure, rejected": ({"unsure": "reject"}, "inside", "550 5.7.1 the recipient cannot be verified now, try again later"),
    "unasked": ({}, "nowhere", "proceed"),
    "unasked, refused": ({"unasked": "defer"}, "nowhere", "450 4.7.1 the recipient cannot be verified"),
    "no such gateway": ({"unasked": "tag"}, "gone", "proceed +unverified"),
    "another gateway": ({"gateway": "inside"}, "nowhere", UNSURE),
}


@pytest.mark.parametrize(("options", "gateway", "expected"), OPTIONS.values(), ids=OPTIONS)
def test_recipient_options(options: dict[str, Any], gateway: str, expected: str) -> None:
    place = Place()
    assert verdict(place.check(place.recipients(**options), gateway=gateway)) == expected


def test_the_gateway_of_the_route_asks_in_its_own_language() -> None:
    server = MailServer(lmtp=True)
    place = Place(server, "unix:/lmtp")
    assert verdict(place.check(place.recipients(), gateway="mailboxes")) == "proceed"
    assert server.heard[0] == "LHLO us.example.com"


def test_the_next_hop_of_the_route_is_asked() -> None:
    place = Place(MailServer(), "192.0.2.7:26")
    assert verdict(place.check(place.recipients(), next_hop="192.0.2.7:26")) == "proceed"
    assert verdict(place.check(place.recipients())) == UNSURE, "another next hop has another answer"


def test_answers_are_remembered_for_their_time() -> None:
    server = MailServer({"RCPT": ["550 no", "250 ok", "450 busy", "250 ok"]})
    place = Place(server)
    policy = place.recipients(keep_known=100.0, keep_unknown=10.0)
    asked = lambda: len([line for line in server.heard if line.startswith("RCPT")])  # noqa: E731
    assert [verdict(place.check(policy)) for _ in range(2)] == [NO, NO]
    assert asked() == 1
    place.clock.advance(11)
    assert [verdict(place.check(policy)) for _ in range(2)] == ["proceed", "proceed"]
    assert asked() == 2
    place.clock.advance(99)
    assert verdict(place.check(place.recipients())) == "proceed", "other processes know it, too"
    assert asked() == 2
    place.clock.advance(2)
    assert [verdict(place.check(policy)) for _ in range(2)] == [UNSURE, "proceed"], "a deferral is no knowledge"
    assert asked() == 4
    assert server.heard.count("EHLO us.example.com") == 1, "one connection was enough"


def test_one_question_at_a_time_about_an_address() -> None:
    server = MailServer()
    place = Place(server)
    policy = place.recipients()
    waiting = [Deferred.fromCoroutine(policy.check_recipient(to_route("ben@example.org", "inside"))) for _ in range(3)]
    assert [verdict(place.network.result(one)) for one in waiting] == ["proceed"] * 3
    assert len([line for line in server.heard if line.startswith("RCPT")]) == 1


def test_who_waits_for_a_question_that_was_given_up_is_told_so() -> None:
    place = Place(Deferred())
    policy = place.recipients()
    first, second, third = [Deferred.fromCoroutine(policy.check_recipient(to_route("ben@example.org", "inside"))) for _ in range(3)]
    for one in (third, first):
        one.addErrback(lambda problem: problem.trap(CancelledError))
        one.cancel()
    with pytest.raises(LookupFailed, match="who asked before could not be answered"):
        place.network.result(second)
    assert not policy._calls._under_way


def test_memory_trouble_is_raised() -> None:
    place = Place(MailServer())
    place.memory.trouble = MemoryUnavailable("full")
    with pytest.raises(MemoryUnavailable):
        place.check(place.recipients())
    with pytest.raises(MemoryUnavailable):
        place.network.run(place.senders().check_sender(a_sender("ann@example.com")))


UNKNOWN = "550 5.1.8 the mail servers of example.com know no such sender"
SENDERS: dict[str, tuple[dict[str, Any], str, Any, str]] = {
    "known": ({}, "ann@example.com", MailServer(), "proceed"),
    "unknown": ({}, "ann@example.com", MailServer({"RCPT": "550 no"}), UNKNOWN),
    "unknown, tagged": ({"unknown": "tag"}, "ann@example.com", MailServer({"RCPT": "550 no"}), "proceed +unverified"),
    "not sure": ({}, "ann@example.com", MailServer({"RCPT": "450 greylisted"}), "proceed"),
    "not sure, deferred": (
        {"unsure": "defer"},
        "ann@example.com",
        MailServer({"RCPT": "450 greylisted"}),
        "450 4.1.8 the sender cannot be verified now, try again later",
    ),
    "takes no bounces": ({"unsure": "tag"}, "ann@example.com", MailServer({"MAIL": "550 no"}), "proceed +unverified"),
    "no such domain": ({}, "ann@nowhere.example", None, "550 5.1.8 the mail servers of nowhere.example know no such sender"),
    "the DNS is silent": ({"unsure": "tag"}, "ann@broken.example", None, "proceed +unverified"),
    "our own domain": ({"unsure": "tag"}, "ann@loop.example", None, "proceed +unverified"),
    "only others": ({"domains": ["example.net"]}, "ann@example.com", MailServer({"RCPT": "550 no"}), "proceed"),
    "of these": ({"domains": ["com"]}, "ann@example.com", MailServer({"RCPT": "550 no"}), UNKNOWN),
    "null": ({}, "<>", MailServer({"RCPT": "550 no"}), "proceed"),
}


@pytest.mark.parametrize(("options", "sender", "server", "expected"), SENDERS.values(), ids=SENDERS)
def test_sender(options: dict[str, Any], sender: str, server: Any, expected: str) -> None:
    place = Place(server)
    decision = place.network.run(place.senders(**options).check_sender(a_sender(sender)))
    assert verdict(decision) == expected
    if decision.reply:
        assert decision.evidence
        assert decision.remedy
    if server and expected == "proceed" and not options and sender == "<>":
        assert not server.heard


def test_who_has_logged_in_is_not_asked_about() -> None:
    place = Place(MailServer({"RCPT": "550 no"}))
    assert verdict(place.network.run(place.senders().check_sender(a_sender("ann@example.com", login="ann")))) == "proceed"
    assert place.network.dialled == []


def test_strangers_cannot_make_us_ask_much() -> None:
    server = MailServer()
    place = Place(server)
    policy = place.senders(limit=Rate(2, 60.0), unsure="tag")
    said = [verdict(place.network.run(policy.check_sender(a_sender(f"{name}@example.com")))) for name in "abcab"]
    assert said == ["proceed", "proceed", "proceed +unverified", "proceed", "proceed"], "what is remembered costs no question"
    assert len([line for line in server.heard if line.startswith("RCPT")]) == 2
    place.clock.advance(30)
    assert verdict(place.network.run(policy.check_sender(a_sender("c@example.com")))) == "proceed"


def test_a_gateway_that_cannot_ask_is_a_fault() -> None:
    place = Place()
    with pytest.raises(ValueError, match="gateway nowhere is not of a kind that can ask"):
        place.network.run(place.senders(gateway="nowhere").check_sender(a_sender("ann@example.com")))


def test_talk() -> None:
    place = Place(MailServer({"RCPT": ["250 ok", "550 5.1.1 who?"]}))
    server = MemoryServer(
        policies=[place.senders(), place.recipients()],
        permits=[Permit(to=frozenset({"example.org"}), name="ours")],
        routing=Routing([Rule("otherwise", Default("inside"))]),
    )
    talk = server.connect()
    talk.say("EHLO c.example")
    talk.say("MAIL FROM:<ann@example.com>")
    place.network.pump()
    assert talk.heard() == "250 2.1.0 sender ok\r\n"
    talk.say("RCPT TO:<nobody@example.org>")
    place.network.pump()
    assert talk.heard() == "550 5.1.1 no such recipient\r\n"


NAMED = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:2525"
policies = ["known"]
[policy.known]
type = "verify-recipient"
gateway = "mailbox"
[[route]]
otherwise = true
gateway = "mailboxes"
recipients = { type = "verify-recipient", gateway = "other" }
[gateway.mailboxes]
type = "lmtp"
address = "127.0.0.1:24"
"""


def test_a_gateway_that_is_not_there_is_found_before_the_start(tmp_path: Path) -> None:
    configuration = read_text(NAMED, "mailgw.toml", tmp_path)
    with pytest.raises(BadConfiguration) as caught:
        build_parts(configuration, still_house())
    assert [str(problem) for problem in caught.value.problems] == [
        'mailgw.toml:10: [policy.known] gateway: there is no [gateway.mailbox]; did you mean "mailboxes"?',
        "mailgw.toml:14: [[route]] recipients, gateway: there is no [gateway.other]",
    ]


UNASKED = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:2525"
policies = ["known", "call-out"]
[policy.known]
type = "verify-recipient"
gateway = "both"
[policy.call-out]
type = "verify-sender"
gateway = "nowhere"
[[route]]
to = "example.org"
gateway = "boxes"
recipients = { type = "verify-recipient" }
[[route]]
to = "example.net"
gateway = "nowhere"
recipients = { type = "verify-recipient", gateway = "nowhere" }
[[route]]
otherwise = true
gateway = "boxes"
recipients = { type = "verify-recipient", unasked = "defer" }
[gateway.nowhere]
type = "discard"
[gateway.boxes]
type = "maildir"
path = "mail"
[gateway.both]
type = "fail-over"
gateways = ["inside"]
[gateway.inside]
type = "lmtp"
address = "127.0.0.1:24"
"""
CANNOT = "which cannot be asked about addresses; lmtp, mx and smarthost can"


def test_a_gateway_that_cannot_be_asked_is_found_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration) as caught:
        build_parts(read_text(UNASKED, "mailgw.toml", tmp_path), still_house())
    assert [str(problem) for problem in caught.value.problems] == [
        f'mailgw.toml:10: [policy.known] gateway: "both" is a gateway of type "fail-over", {CANNOT}',
        f'mailgw.toml:13: [policy.call-out] gateway: "nowhere" is a gateway of type "discard", {CANNOT}',
        f'mailgw.toml:17: warning: [[route]] recipients: "boxes" is a gateway of type "maildir", {CANNOT}; all recipients pass',
        f'mailgw.toml:21: [[route]] recipients, gateway: "nowhere" is a gateway of type "discard", {CANNOT}',
    ]


ASKABLE = {"lmtp": '"lmtp"\naddress = "127.0.0.1:24"', "smarthost": '"smarthost"\naddress = "127.0.0.1:25"', "mx": '"mx"'}


@pytest.mark.parametrize("table", ASKABLE.values(), ids=ASKABLE)
def test_those_that_can_be_asked_are_taken(table: str, tmp_path: Path) -> None:
    text = UNASKED.replace('gateway = "both"', 'gateway = "nowhere"').replace('type = "discard"', f"type = {table}")
    build_parts(read_text(text, "mailgw.toml", tmp_path), still_house())
