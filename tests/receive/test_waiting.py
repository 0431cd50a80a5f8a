"""What lets a client wait, and what it says too early."""

import pytest
from attrs import frozen
from zope.interface import implementer

from mailgw.api import IClientPolicy, IObserver, IRecipientPolicy, ISenderPolicy, proceed, reject
from mailgw.journal import Connected, Disconnected
from mailgw.policies.relay import Permit
from mailgw.receive.asking import Asked, Rules
from mailgw.testing.server import MemoryServer
from mailgw.values.decision import LONGEST_WAIT, Decision, Verdict


@implementer(IClientPolicy, ISenderPolicy, IRecipientPolicy)
@frozen
class Patience:
    """Lets everybody wait, before each reply."""

    seconds: float = 3.0

    def check_client(self, facts):
        return proceed(wait=self.seconds)

    check_sender = check_recipient = check_client


@implementer(ISenderPolicy, IRecipientPolicy)
@frozen
class Telling:
    """Says what it is told."""

    def check_sender(self, facts):
        return reject("early") if facts.client.early_talker else proceed()

    def check_recipient(self, facts):
        return reject(f"of {facts.size} octets")


def server(*policies, **more):
    return MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=policies, **more)


def test_each_reply_comes_later():
    at = server(Patience())
    talk = at.connect()
    for command in ("", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>"):
        if command:
            talk.say("EHLO c") if command.startswith("MAIL") else None
            assert talk.say(command) == ""
        at.clock.advance(2.9)
        assert talk.heard() == ""
        at.clock.advance(0.1)
        assert talk.heard().startswith("2")


def test_who_is_only_observed_lets_nobody_wait():
    at = server()
    rules = Rules(client=(Asked("patience", Patience(), observed=True),))
    at.follow(rules)
    assert at.connect().heard().startswith("220 ")


def test_who_goes_while_it_waits_is_gone():
    at = server(Patience())
    talk = at.connect()
    talk.hang_up()
    at.clock.advance(3)
    assert at.notes.of(Disconnected)[0].why == "lost"


@pytest.mark.parametrize("seconds", [-1.0, LONGEST_WAIT + 1])
def test_nobody_waits_for_ever(seconds):
    with pytest.raises(ValueError, match="may wait from 0 to 60 seconds"):
        Decision(Verdict.PROCEED, wait=seconds)


def test_who_talks_before_the_greeting():
    at = server(Patience(), Telling())
    early, polite = at.connect(), at.connect(ip="198.51.100.1")
    assert early.say("EHLO c") == ""
    at.clock.advance(3)
    assert polite.heard().startswith("220 ")
    assert early.heard().startswith("220 ")
    polite.say("EHLO c")
    for talk in (early, polite):
        talk.say("MAIL FROM:<a@example.com>")
    at.clock.advance(3)
    assert early.heard() == "550 5.7.1 early\r\n"
    assert polite.heard().startswith("250 ")


def test_what_follows_xclient_is_no_early_talk():
    from ipaddress import ip_network

    at = server(Patience(), Telling(), xclient=(ip_network("192.0.2.99"),))
    talk = at.connect()
    talk.say("XCLIENT ADDR=198.51.100.1")  # the proxy talks early
    at.clock.advance(3)
    talk.say("EHLO c\r\nMAIL FROM:<a@example.com>")
    for _ in range(3):
        at.clock.advance(3)
    assert "550" not in talk.heard()


def test_a_recipient_policy_knows_the_declared_size():
    at = server(Telling())
    talk = at.connect()
    talk.say("EHLO c")
    talk.say("MAIL FROM:<a@example.com> SIZE=12345")
    assert talk.say("RCPT TO:<b@example.org>") == "550 5.7.1 of 12345 octets\r\n"


def test_a_policy_that_observes_is_told_of_events():
    @implementer(ISenderPolicy, IObserver)
    @frozen
    class Listening:
        heard: list

        def check_sender(self, facts):
            return proceed()

        def note(self, event):
            self.heard.append(type(event))

    policy = Listening([])
    server(policy).connect().say("QUIT")
    assert policy.heard == [Connected, Disconnected]
