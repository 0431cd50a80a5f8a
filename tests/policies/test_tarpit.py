"""Refusals that come later and later."""

import pytest

from mailgw.policies.relay import Permit
from mailgw.policies.tarpit import Tarpit
from mailgw.testing.facts import a_client, a_sender
from mailgw.testing.server import MemoryServer
from mailgw.values.facts import RefusalFacts
from mailgw.values.reply import Reply


def refusal(count, tags=()):
    return RefusalFacts(client=a_client(), stage="rcpt", reply=Reply(550, "5.1.1", "no"), count=count, tags=frozenset(tags))


WAITS = {
    "as things are": ({}, [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10]),
    "at once": ({"after": 0}, [1, 2, 3, 4]),
    "bounded": ({"after": 0, "most": 2.5}, [1, 2, 2.5, 2.5]),
    "another step": ({"after": 1, "step": 0.5}, [0, 0.5, 1]),
}


@pytest.mark.parametrize(("settings", "waits"), WAITS.values(), ids=WAITS)
def test_each_refusal_makes_it_longer(settings, waits):
    policy = Tarpit(**settings)
    assert [policy.check_refusal(refusal(count)).wait for count in range(1, len(waits) + 1)] == waits
    assert policy.check_sender(a_sender()).wait == 0


def test_who_is_tagged_waits_most():
    policy = Tarpit(tags=frozenset({"listed", "bulk"}))
    assert policy.check_sender(a_sender(tags={"listed", "x"})).wait == 10
    assert policy.check_sender(a_sender(tags={"x"})).wait == 0
    assert policy.check_refusal(refusal(1, {"bulk"})).wait == 10
    assert policy.check_refusal(refusal(1, {"x"})).wait == 0


def test_its_grounds():
    decision = Tarpit(tags=frozenset({"listed"})).check_refusal(refusal(4, {"listed"}))
    assert decision.why == "replied after 10 s"
    assert [(one.name, one.value) for one in decision.evidence] == [("tag", "listed"), ("refusals", "4")]


WRONG = {"step": {"step": 61.0}, "most": {"most": 61.0}, "after": {"after": -1}}


@pytest.mark.parametrize("name", WRONG)
def test_it_has_bounds(name):
    with pytest.raises(ValueError, match=name):
        Tarpit(**WRONG[name])


def test_a_talk():
    records = []
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[Tarpit(after=1, step=2.0)], record=records.append)
    talk = server.connect()
    talk.say("EHLO c")
    talk.say("MAIL FROM:<a@example.com>")
    denied = "550 5.7.1 relaying denied\r\n"
    assert talk.say("RCPT TO:<b@example.net>") == denied
    for wait in (2.0, 4.0):
        assert talk.say("RCPT TO:<b@example.net>") == ""
        other = server.connect(ip="198.51.100.1")
        assert other.heard().startswith("220 ")  # nobody else waits
        server.clock.advance(wait - 0.1)
        assert talk.heard() == ""
        server.clock.advance(0.1)
        assert talk.heard() == denied
    assert talk.say("RCPT TO:<b@example.org>").startswith("250 ")  # what is taken does not wait
    talk.say("QUIT")
    told = [opinion.decision.why for record in records for opinion in record.opinions if opinion.policy == "Tarpit"]
    assert "replied after 4 s" in told


def test_who_hangs_up_while_it_waits():
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[Tarpit(after=0)])
    talk = server.connect()
    for step in ("EHLO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.net>"):
        talk.say(step)
    talk.hang_up()
    server.clock.advance(1)
    assert type(server.notes.events[-1]).__name__ == "Disconnected"
