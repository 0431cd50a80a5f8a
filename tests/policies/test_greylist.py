"""Greylisting, without waiting: the clock is ours."""

from datetime import timedelta
from ipaddress import ip_network

import pytest

from mailgw.interfaces import MemoryUnavailable
from mailgw.policies.greylist import Greylist
from mailgw.policies.relay import Permit
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run
from mailgw.testing.facts import a_recipient
from mailgw.testing.server import MemoryServer


class House:
    """A greylist with its memory and clock."""

    def __init__(self, **settings):
        self.clock = at("2026-01-05T10:00+00:00")
        self.memory = InProcessMemory(self.clock)
        self.policy = Greylist(**settings, memory=self.memory, clock=self.clock)

    def later(self, **period):
        self.clock.advance(timedelta(**period))

    def ask(self, **who):
        answer = self.policy.check_recipient(a_recipient(who.pop("to", "b@example.org"), **who))
        return run(answer) if not hasattr(answer, "verdict") else answer

    def heard(self, **who):
        decision = self.ask(**who)
        return str(decision.reply) if decision.reply else decision.verdict.value


def test_five_minutes_later_it_is_accepted():
    house = House()
    assert house.heard() == "451 4.7.1 greylisted, come again in 300 s"
    house.later(minutes=2)
    assert house.heard() == "451 4.7.1 greylisted, come again in 180 s"
    house.later(minutes=3)
    assert house.heard() == "proceed"
    house.later(days=30)
    assert house.heard() == "proceed"


STRANGERS = {
    "another sender": {"sender": "x@example.com"},
    "another recipient": {"to": "c@example.org"},
    "another network": {"ip": "198.51.100.1"},
    "the null reverse-path": {"sender": "<>"},
}


@pytest.mark.parametrize("other", STRANGERS.values(), ids=STRANGERS)
def test_who_is_a_stranger_still(other):
    house = House()
    house.ask()
    house.later(minutes=5)
    assert house.heard(**other).startswith("451 ")
    assert house.heard() == "proceed"


@pytest.mark.parametrize("same", [{"ip": "192.0.2.1"}, {"to": "B@EXAMPLE.org"}], ids=["a-neighbour", "another-spelling"])
def test_who_counts_as_the_same(same):
    house = House()
    house.ask()
    house.later(minutes=5)
    assert house.heard(**same) == "proceed"


def test_who_is_never_deferred():
    house = House(allow=[ip_network("192.0.2.0/24")])
    assert house.heard() == "proceed"
    assert house.heard(ip="198.51.100.1", login="ann") == "proceed"
    assert house.heard(ip="198.51.100.1").startswith("451 ")


def test_who_comes_again_too_late_begins_anew():
    house = House(window=3600.0)
    house.ask()
    house.later(hours=2)
    assert house.heard() == "451 4.7.1 greylisted, come again in 300 s"


def test_a_network_that_has_come_again_often_enough_is_known():
    house = House(known_after=2)
    for number in range(2):
        house.ask(sender=f"{number}@example.com")
        house.later(minutes=5)
        assert house.heard(sender=f"{number}@example.com") == "proceed"
    assert house.heard(sender="new@example.com", to="new@example.org") == "proceed"
    assert house.heard(sender="new@example.com", to="new@example.org", ip="198.51.100.1").startswith("451 ")
    house.memory.trouble = MemoryUnavailable("away")
    assert house.heard(sender="newer@example.com") == "proceed"  # it need not be asked for a while
    house.memory.trouble = None
    house.later(days=30)
    assert house.heard(sender="newest@example.com") == "proceed"
    house.later(days=30)  # its life began anew with its last mail
    assert house.heard(sender="last@example.com") == "proceed"
    house.later(days=37)
    assert house.heard(sender="too-late@example.com").startswith("451 ")


def test_nobody_is_known_where_that_is_not_wanted():
    house = House(known_after=0)
    for number in range(6):
        house.ask(sender=f"{number}@example.com")
        house.later(minutes=5)
        assert house.heard(sender=f"{number}@example.com") == "proceed"
    assert house.heard(sender="new@example.com").startswith("451 ")


def test_its_grounds():
    house = House()
    house.ask()
    house.later(minutes=1)
    decision = house.ask()
    assert decision.why == "came again too early, after 60 s"
    assert {one.name: one.value for one in decision.evidence}["client network"] == "192.0.2.0/24"
    assert "300 s after it came first" in decision.remedy
    house.later(minutes=5)
    assert house.ask().why == "came again; the 1. of its network"


def test_without_its_memory_it_does_not_know():
    house = House()
    house.memory.trouble = MemoryUnavailable("away")
    with pytest.raises(MemoryUnavailable):
        house.ask()


@pytest.mark.parametrize(("setting", "value"), [("prefix4", 33), ("prefix6", 129), ("prefix4", -1)])
def test_what_is_no_prefix_length(setting, value):
    with pytest.raises(ValueError, match=f"{setting} is a prefix length"):
        House(**{setting: value})


def test_a_talk():
    house = House()
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[house.policy], reference=lambda: "7QK3M")
    talk = server.connect()
    for step in ["EHLO c", "MAIL FROM:<a@example.com>"]:
        talk.say(step)
    assert talk.say("RCPT TO:<b@example.org>") == "451 4.7.1 greylisted, come again in 300 s [ref 7QK3M]\r\n"
    house.later(minutes=5)
    assert talk.say("RCPT TO:<b@example.org>").startswith("250 ")
