"""What the next hop says about a recipient, and what the client hears."""

from typing import Any

import pytest
from zope.interface.verify import verifyObject

from mailgw.gateways.ask_next_hop import AskNextHop
from mailgw.interfaces import IRecipientPolicy
from mailgw.testing.facts import a_recipient
from mailgw.testing.mail_server import DROP, MailServer
from mailgw.testing.network import Network
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone

WHERE = "192.0.2.1:25"


def ask(network: Network, **settings: Any) -> AskNextHop:
    us = Identity("us.example.com")
    about: Any = {"dialer": network, "resolver": zone({}), "identity": us, "clock": network.clock, "threads": network.threads}
    return AskNextHop(settings.pop("address", "192.0.2.1"), **settings, **about)


ANSWERS: dict[str, tuple[Any, str]] = {
    "known": (MailServer(), "proceed"),
    "unknown": (MailServer({"RCPT": "550 5.1.1 unknown user x"}), "reject 550 5.1.1"),
    "unknown, one by one": (MailServer({"RCPT": "550 5.1.1 unknown user x"}, offers=()), "reject 550 5.1.1"),
    "refused for another reason": (MailServer({"RCPT": "554 5.7.1 no"}), "reject 550 5.1.1"),
    "not sure": (MailServer({"RCPT": "450 4.2.1 busy"}), "defer 451 4.4.0"),
    "MAIL refused: that says nothing about the recipient": (MailServer({"MAIL": "550 5.7.1 not you"}), "defer 451 4.4.0"),
    "greeting refused: nor does that": (MailServer({"greeting": "554 5.7.1 not you"}), "defer 451 4.4.0"),
    "down": (None, "defer 451 4.4.0"),
    "hangs up": (MailServer({"RCPT": DROP}), "defer 451 4.4.0"),
    "nonsense": (MailServer({"RCPT": "yes"}), "defer 451 4.4.0"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_answer(name: str) -> None:
    server, expected = ANSWERS[name]
    network = Network({WHERE: server})
    decision = network.run(ask(network).check_recipient(a_recipient()))
    reply = f" {decision.reply.code} {decision.reply.enhanced}" if decision.reply else ""
    assert decision.verdict.value + reply == expected
    if decision.reply:
        assert "unknown user x" not in decision.reply.text, "the next hop's words are for the journal"
    if server:
        assert not any(line.startswith("DATA") for line in server.heard)


def test_connections_and_answers_are_kept() -> None:
    server = MailServer()
    network = Network({WHERE: server})
    policy = ask(network, remember=100.0, max_idle=1000.0, max_remembered=2)
    for to in ("a@example.org", "a@example.org", "b@example.org"):
        network.run(policy.check_recipient(a_recipient(to)))
    assert network.dialled == [WHERE]
    assert server.heard[1:] == [
        "MAIL FROM:<>", "RCPT TO:<a@example.org>", "RSET", "MAIL FROM:<>", "RCPT TO:<b@example.org>",
    ]  # fmt: skip
    network.clock.advance(101)
    network.run(policy.check_recipient(a_recipient("a@example.org")))
    assert server.heard.count("RCPT TO:<a@example.org>") == 2
    for to in ("b@example.org", "c@example.org", "a@example.org"):
        network.run(policy.check_recipient(a_recipient(to)))
    assert server.heard.count("RCPT TO:<a@example.org>") == 3, "the oldest answer was forgotten"
    policy.close()
    assert network.open_connections == 0


def test_deferrals_are_not_kept() -> None:
    server = MailServer({"RCPT": ["450 4.2.1 busy", "250 ok"]})
    network = Network({WHERE: server})
    policy = ask(network)
    assert network.run(policy.check_recipient(a_recipient())).verdict.value == "defer"
    assert network.run(policy.check_recipient(a_recipient())).verdict.value == "proceed"


def test_a_kept_connection_that_has_died_is_replaced() -> None:
    server = MailServer({"MAIL": ["250 ok", DROP, "250 ok"]})
    network = Network({WHERE: server})
    policy = ask(network)
    for to in ("a@example.org", "b@example.org"):
        assert network.run(policy.check_recipient(a_recipient(to))).verdict.value == "proceed"
    assert network.dialled == [WHERE, WHERE]


def test_lmtp() -> None:
    server = MailServer(lmtp=True)
    network = Network({"unix:/lmtp": server})
    assert network.run(ask(network, address="unix:/lmtp", lmtp=True).check_recipient(a_recipient())).verdict.value == "proceed"
    assert server.heard[0] == "LHLO us.example.com"


def test_contract() -> None:
    assert verifyObject(IRecipientPolicy, ask(Network({})))
