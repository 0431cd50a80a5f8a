"""Gateways that talk to servers: order, fail-over, kept connections, lost connections, time-outs."""

from pathlib import Path
from typing import Any

import pytest
from twisted.internet import error
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactorClock

from mailgw.gateways.dialing import Dialer
from mailgw.gateways.lmtp import Lmtp
from mailgw.gateways.smarthost import Smarthost
from mailgw.interfaces import LookupFailed
from mailgw.patience import CutOff
from mailgw.testing import run
from mailgw.testing.facts import MESSAGE, a_shipment, an_address
from mailgw.testing.mail_server import DROP, SILENCE, MailServer, Taken
from mailgw.testing.network import Network
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Handed, Outcome

ONE, TWO = "192.0.2.1:25", "192.0.2.2:25"


def given(network: Network, names: Any = None) -> dict[str, Any]:
    us = Identity("us.example.com")
    return {"dialer": network, "resolver": zone(names or {}), "identity": us, "clock": network.clock, "threads": network.threads}


def both(network: Network, **settings: Any) -> Smarthost:
    return Smarthost(["192.0.2.1", "192.0.2.2"], **settings, **given(network))


def said(outcomes: Any) -> dict[str, str]:
    return {str(address).split("@")[0]: f"{o.fate.value} {o.reply.code} {o.reply.enhanced}".strip() for address, o in outcomes.items()}


def the(outcomes: Any) -> Outcome:
    (outcome,) = outcomes.values()
    assert isinstance(outcome, Outcome)
    return outcome


@pytest.mark.parametrize("step", [1, 65536], ids=["octets", "whole"])
@pytest.mark.parametrize("lmtp", [False, True], ids=["smtp", "lmtp"])
def test_each_recipient_its_own_outcome(step: int, lmtp: bool) -> None:
    server = MailServer({"RCPT TO:<ben@example.org>": "550 5.1.1 unknown", "RCPT TO:<cleo@example.org>": "450 4.2.1 busy"}, lmtp=lmtp)
    network = Network({"192.0.2.1:24": server, ONE: server}, step)
    gateway: Any = (Lmtp if lmtp else Smarthost)("192.0.2.1", **given(network))
    outcomes = network.run(gateway.deliver(a_shipment("anna@example.org", "ben@example.org", "cleo@example.org")))
    assert said(outcomes) == {"anna": "delivered 250 2.0.0", "ben": "never 550 5.1.1", "cleo": "later 450 4.2.1"}
    assert outcomes[an_address("anna@example.org")].handed is (Handed.MAILBOX if lmtp else Handed.RELAY)
    assert server.taken == [Taken(f"MAIL FROM:<sender@example.com> SIZE={len(MESSAGE)}", ("anna@example.org",), MESSAGE)]


def test_lmtp_answers_differ_after_the_content() -> None:
    server = MailServer({". ben@example.org": "452 4.2.2 over quota"}, lmtp=True)
    network = Network({"unix:/lmtp": server})
    outcomes = network.run(Lmtp("unix:/lmtp", **given(network)).deliver(a_shipment("anna@example.org", "ben@example.org")))
    assert said(outcomes) == {"anna": "delivered 250 2.0.0", "ben": "later 452 4.2.2"}


UNREACHABLE = {
    "refused": None,
    "time-out": error.TimeoutError(),
    "no such name": error.DNSLookupError("x"),
    "greets with 4yz": MailServer({"greeting": "450 4.3.2 not now"}),
    "greets with 421": MailServer({"greeting": "421 4.3.2 too many"}),
    "hangs up": MailServer({"greeting": DROP}),
    "refuses EHLO for now": MailServer({"EHLO": "451 4.3.0 no"}),
    "no SMTP": MailServer({"greeting": "SSH-2.0-OpenSSH_9.2"}),
    "hangs up in the middle": MailServer({"RCPT": DROP}),
    "421 in the middle": MailServer({"MAIL": "421 4.3.2 closing"}),
}


@pytest.mark.parametrize("name", UNREACHABLE)
def test_the_next_server_is_tried(name: str) -> None:
    second = MailServer()
    network = Network({ONE: UNREACHABLE[name], TWO: second})
    assert the(network.run(both(network).deliver(a_shipment()))).fate is Fate.DELIVERED
    assert network.dialled == [ONE, TWO]
    assert len(second.taken) == 1


@pytest.mark.parametrize("name", UNREACHABLE)
def test_nobody_is_reached(name: str) -> None:
    network = Network({ONE: UNREACHABLE[name]})
    outcome = the(network.run(Smarthost("192.0.2.1", **given(network)).deliver(a_shipment())))
    assert outcome.fate is Fate.LATER
    assert outcome.peer == "192.0.2.1"
    assert outcome.unreachable == ("middle" not in name)


OWN_WORDS = {
    "too big": ({"EHLO": "250-one.example\r\n250 SIZE 10"}, False),
    "lost after the content": ({".": DROP}, False),
    "lost before it": ({"MAIL": DROP}, False),
    "no greeting": ({"greeting": DROP}, False),
    "refused by its greeting": ({"greeting": "554 5.7.1 not you"}, True),
    "refused": ({"RCPT": "550 5.1.1 unknown"}, True),
    "busy": ({"MAIL": "421 4.3.2 busy"}, True),
}


@pytest.mark.parametrize("name", OWN_WORDS)
def test_what_the_server_did_not_say_is_not_put_into_its_mouth(name: str) -> None:
    replies, heard = OWN_WORDS[name]
    network = Network({ONE: MailServer(replies)})
    outcome = the(network.run(Smarthost("192.0.2.1", **given(network)).deliver(a_shipment())))
    assert (outcome.peer, outcome.heard) == ("192.0.2.1", heard)


def test_one_that_cannot_be_reached_says_nothing() -> None:
    network = Network({})
    assert not the(network.run(Smarthost("192.0.2.1", **given(network)).deliver(a_shipment()))).heard


STANDS = {
    "greeting": ({"greeting": "554 5.7.1 not you"}, "never 554 5.7.1"),
    "MAIL": ({"MAIL": "550 5.7.1 not you"}, "never 550 5.7.1"),
    "MAIL for now": ({"MAIL": "451 4.7.1 greylisted"}, "later 451 4.7.1"),
    "RCPT": ({"RCPT": "550 5.1.1 unknown"}, "never 550 5.1.1"),
    "content": ({".": "554 5.7.1 spam"}, "never 554 5.7.1"),
    "lost after the content": ({".": DROP}, "unknown 451 4.4.2"),
}


@pytest.mark.parametrize("name", STANDS)
def test_an_answer_stands(name: str) -> None:
    replies, expected = STANDS[name]
    network = Network({ONE: MailServer(replies), TWO: MailServer()})
    assert said(network.run(both(network).deliver(a_shipment()))) == {"recipient": expected}
    assert network.dialled == [ONE]


def test_only_those_without_an_answer_go_to_the_next_server() -> None:
    first = MailServer({"RCPT TO:<ben@example.org>": "550 5.1.1 unknown", "DATA": "421 4.3.2 closing"})
    second = MailServer()
    network = Network({ONE: first, TWO: second})
    outcomes = network.run(both(network).deliver(a_shipment("anna@example.org", "ben@example.org")))
    assert said(outcomes) == {"anna": "delivered 250 2.0.0", "ben": "never 550 5.1.1"}
    assert [taken.recipients for taken in second.taken] == [("anna@example.org",)]


def test_a_connection_is_kept_for_the_next_message() -> None:
    server = MailServer()
    network = Network({ONE: server})
    gateway = both(network, max_messages=3)
    for _ in range(4):
        network.run(gateway.deliver(a_shipment()))
    assert network.dialled == [ONE, ONE]
    assert len(server.taken) == 4
    assert server.heard.count("QUIT") == 1
    assert server.heard.count("EHLO us.example.com") == 2


def test_mailmax_is_kept() -> None:
    server = MailServer(offers=("PIPELINING", "LIMITS MAILMAX=1"))
    network = Network({ONE: server})
    gateway = both(network)
    for _ in range(2):
        network.run(gateway.deliver(a_shipment()))
    assert network.dialled == [ONE, ONE]


def test_an_idle_connection_says_good_bye() -> None:
    server = MailServer()
    network = Network({ONE: server})
    gateway = both(network, max_idle=10.0)
    network.run(gateway.deliver(a_shipment()))
    network.clock.advance(9)
    assert network.open_connections == 1
    network.clock.advance(2)
    assert network.open_connections == 0
    assert server.heard[-1] == "QUIT"
    assert network.clock.getDelayedCalls() == []
    network.run(gateway.deliver(a_shipment()))
    assert network.dialled == [ONE, ONE]


@pytest.mark.parametrize("end", [DROP, "421 4.4.2 idle too long"], ids=["gone", "421"])
def test_a_kept_connection_that_has_died_is_replaced_unseen(end: str) -> None:
    server = MailServer({"MAIL": ["250 ok", end, "250 ok"]})
    network = Network({ONE: server, TWO: MailServer()})
    gateway = both(network)
    for _ in range(2):
        assert the(network.run(gateway.deliver(a_shipment()))).fate is Fate.DELIVERED
    assert network.dialled == [ONE, ONE]
    assert len(server.taken) == 2


def test_a_kept_connection_is_replaced_only_once() -> None:
    server = MailServer({"MAIL": ["250 ok", DROP]})
    network = Network({ONE: server})
    gateway = Smarthost("192.0.2.1", **given(network))
    network.run(gateway.deliver(a_shipment()))
    assert the(network.run(gateway.deliver(a_shipment()))).fate is Fate.LATER
    assert network.dialled == [ONE, ONE]


def test_close_ends_idle_connections() -> None:
    server = MailServer()
    network = Network({ONE: server})
    gateway = both(network)
    network.run(gateway.deliver(a_shipment()))
    gateway.close()
    assert network.open_connections == 0
    assert server.heard[-1] == "QUIT"
    assert network.clock.getDelayedCalls() == []


def test_close_lets_a_message_end() -> None:
    server = MailServer({".": SILENCE})
    network = Network({ONE: server})
    gateway = both(network)
    delivery = network.start(gateway.deliver(a_shipment()))
    gateway.close()
    network.pump()
    assert not delivery.called
    server.sessions[0].transport.write(b"250 2.0.0 at last\r\n")
    assert the(network.result(delivery)).fate is Fate.DELIVERED
    assert network.open_connections == 0
    assert server.heard[-1] == "QUIT"


WAITS = {"greeting": 300, "EHLO": 300, "MAIL": 300, "RCPT": 300, "DATA": 120, ".": 600}


@pytest.mark.parametrize("where", WAITS)
def test_patience_ends(where: str) -> None:
    network = Network({ONE: MailServer({where: SILENCE}, offers=("8BITMIME",))})
    delivery = network.start(Smarthost("192.0.2.1", **given(network)).deliver(a_shipment()))
    network.clock.advance(WAITS[where] - 1)
    network.pump()
    assert not delivery.called
    network.clock.advance(2)
    outcome = the(network.result(delivery))
    assert outcome.fate is (Fate.UNKNOWN if where == "." else Fate.LATER)
    assert "time-out" in outcome.reply.text
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_a_cancelled_delivery_drops_its_connection() -> None:
    network = Network({ONE: MailServer({".": SILENCE})})
    delivery = network.start(both(network).deliver(a_shipment()))
    delivery.addErrback(lambda _: None)
    delivery.cancel()
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


CUT_OFF: dict[str, tuple[Any, Any]] = {
    "in the midst of the answers": (SILENCE, {}),
    "the next server says nothing": ("421 4.3.2 closing", {"greeting": SILENCE}),
    "the next server hangs": ("421 4.3.2 closing", {".": SILENCE}),
}


@pytest.mark.parametrize(("last", "then"), CUT_OFF.values(), ids=CUT_OFF)
def test_a_cancelled_delivery_says_who_was_served_before(last: Any, then: dict[str, Any]) -> None:
    first = MailServer({". ben@example.org": "550 5.2.1 closed", ". cleo@example.org": last}, lmtp=True)
    network = Network({"192.0.2.1:24": first, "192.0.2.2:24": MailServer(then, lmtp=True)})
    gateway = Lmtp(["192.0.2.1", "192.0.2.2"], **given(network))
    delivery = network.start(gateway.deliver(a_shipment("anna@example.org", "ben@example.org", "cleo@example.org")))
    assert not delivery.called
    delivery.cancel()
    with pytest.raises(CutOff) as cut:
        network.result(delivery)
    over = {address: outcome for address, outcome in cut.value.outcomes.items() if outcome.fate is not Fate.LATER}
    assert said(over) == {"anna": "delivered 250 2.0.0", "ben": "never 550 5.2.1"}
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_a_connection_that_is_not_there_yet_is_cancelled_like_all_else() -> None:
    reactor = MemoryReactorClock()
    dialing = Deferred.fromCoroutine(Dialer(reactor).dial(ONE, Factory(), 30))
    dialing.cancel()
    with pytest.raises(CancelledError):
        run(dialing)


def test_a_big_message_from_a_file(tmp_path: Path) -> None:
    original = b"Subject: big\r\n\r\n" + b".dots\r\n..\r\n" * 100_000
    (tmp_path / "m").write_bytes(original)
    server = MailServer()
    network = Network({ONE: server})
    content = Content(tmp_path / "m", len(original), b"X-Added: yes\r\n")
    assert the(network.run(both(network).deliver(a_shipment(content=content)))).fate is Fate.DELIVERED
    assert server.taken[0].content == b"X-Added: yes\r\n" + original


def test_a_file_that_shrank_is_not_sent_as_if_whole(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(b"Subject: x\r\n\r\n")
    server = MailServer()
    network = Network({ONE: server})
    outcome = the(network.run(Smarthost("192.0.2.1", **given(network)).deliver(a_shipment(content=Content(tmp_path / "m", 1000)))))
    assert outcome.fate is Fate.LATER
    assert server.taken == []


def test_names_are_looked_up_and_all_addresses_tried() -> None:
    names = {"smart.example": {"A": ["192.0.2.2"], "AAAA": ["2001:db8::1"]}, "broken.example": LookupFailed}
    network = Network({"192.0.2.2:587": MailServer()})
    gateway = Smarthost(["broken.example", "smart.example:587"], **given(network, names))
    outcome = the(network.run(gateway.deliver(a_shipment())))
    assert outcome.peer == "smart.example (192.0.2.2)"
    assert network.dialled == ["[2001:db8::1]:587", "192.0.2.2:587"]


@pytest.mark.parametrize(("names", "text"), [({"smart.example": LookupFailed}, "looked up"), ({}, "no address")])
def test_names_that_lead_nowhere(names: Any, text: str) -> None:
    network = Network({})
    outcome = the(network.run(Smarthost("smart.example", **given(network, names)).deliver(a_shipment())))
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert text in outcome.reply.text


NO_ADDRESSES = ["", [], "host:port", "[::1", "a:b:c", "host:0", "host:99999", "unix:relative", "/run/lmtp", "a b", "a/b:25"]


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_addresses_that_are_none(address: Any) -> None:
    with pytest.raises(ValueError, match=r"is no address|is empty"):
        Smarthost(address, **given(Network({})))


def test_tls_required_but_not_offered() -> None:
    server = MailServer()
    network = Network({ONE: server})
    outcome = the(network.run(Smarthost("192.0.2.1", tls="require", **given(network)).deliver(a_shipment())))
    assert (outcome.fate, outcome.reply.enhanced) == (Fate.LATER, "4.7.4")
    assert not any(line.startswith("MAIL") for line in server.heard)
