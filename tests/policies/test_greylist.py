"""Greylisting, without waiting: the clock is ours."""

from datetime import timedelta
from ipaddress import ip_network

import pytest
from attrs import evolve

from mailgw.interfaces import LookupFailed, MemoryUnavailable
from mailgw.policies.greylist import Greylist
from mailgw.policies.relay import Permit
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run, zone
from mailgw.testing.facts import a_message, a_recipient
from mailgw.testing.server import MemoryServer


class House:
    """A greylist with its memory and clock."""

    def __init__(self, names=None, **settings):
        self.clock = at("2026-01-05T10:00+00:00")
        self.memory = InProcessMemory(self.clock)
        self.policy = Greylist(**settings, memory=self.memory, resolver=zone(names or {}), clock=self.clock)

    def later(self, **period):
        self.clock.advance(timedelta(**period))

    def ask(self, **who):
        answer = self.policy.check_recipient(a_recipient(who.pop("to", "b@example.org"), **who))
        return run(answer) if not hasattr(answer, "verdict") else answer

    def ask_at_end(self, *recipients, sender="<>", **who):
        answer = self.policy.check_content(a_message(sender=sender, recipients=recipients or ("b@example.org",), **who))
        return run(answer) if not hasattr(answer, "verdict") else answer

    def heard(self, **who):
        return self.said(self.ask(**who))

    def said(self, decision):
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


def test_a_window_that_nobody_can_meet_is_an_error():
    with pytest.raises(ValueError, match="window must be longer than delay"):
        House(delay=600.0, window=60.0)


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


def test_a_lower_number_holds_for_who_has_come_again_more_often():
    house = House(known_after=0, delay=0.0)
    for number in range(4):
        house.ask(sender=f"{number}@example.com")
    stricter = House(known_after=2)
    stricter.policy = evolve(stricter.policy, memory=house.memory, clock=house.clock)
    stricter.clock = house.clock
    assert stricter.heard(sender="4@example.com").startswith("451 ")
    stricter.later(minutes=5)
    assert stricter.heard(sender="4@example.com") == "proceed"
    assert stricter.heard(sender="new@example.com") == "proceed"


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
    assert house.ask().why == "came again; number 1 from 192.0.2.0/24"


def test_without_its_memory_it_does_not_know():
    house = House()
    house.memory.trouble = MemoryUnavailable("away")
    with pytest.raises(MemoryUnavailable):
        house.ask()


# ── Names ──

BIG = {  # two networks of one sender, two hosts that have nothing to do with each other, a line of a provider, a forger
    "99.2.0.192.in-addr.arpa": {"PTR": ["out1.mail.big.example."]},
    "1.100.51.198.in-addr.arpa": {"PTR": ["out2.mail.BIG.example."]},
    "out1.mail.big.example": {"A": ["192.0.2.99"]},
    "out2.mail.big.example": {"A": ["198.51.100.1"]},
    "2.100.51.198.in-addr.arpa": {"PTR": ["198-51-100-2.dsl.provider.example."]},
    "198-51-100-2.dsl.provider.example": {"A": ["198.51.100.2"]},
    "3.100.51.198.in-addr.arpa": {"PTR": ["out3.mail.big.example."]},
    "out3.mail.big.example": {"A": ["203.0.113.1"]},
    "4.100.51.198.in-addr.arpa": {"PTR": ["co.uk."]},
    "co.uk": {"A": ["198.51.100.4"]},
    "5.100.51.198.in-addr.arpa": LookupFailed,
    "6.100.51.198.in-addr.arpa": {"PTR": ["broken.big.example."]},
    "broken.big.example": LookupFailed,
}
KEPT = {  # of whom the greylist keeps count
    "the first": ("192.0.2.99", "big.example"),
    "another network, in capitals": ("198.51.100.1", "big.example"),
    "a line": ("198.51.100.2", "198.51.100.0/24"),
    "a name that does not lead back": ("198.51.100.3", "198.51.100.0/24"),
    "a name that nobody owns": ("198.51.100.4", "198.51.100.0/24"),
    "no answer for the address": ("198.51.100.5", "198.51.100.0/24"),
    "no answer for the name": ("198.51.100.6", "198.51.100.0/24"),
    "no name": ("203.0.113.9", "203.0.113.0/24"),
}


@pytest.mark.parametrize(("ip", "name"), KEPT.values(), ids=KEPT)
def test_who_is_the_same_client_by_name(ip, name):
    decision = House(BIG, per="name").ask(ip=ip)
    assert decision.evidence[0].value == name
    assert f"from {name}," in decision.remedy


def test_a_big_sender_comes_again_from_another_network():
    house = House(BIG, per="name", known_after=2)
    for number in range(2):
        assert house.heard(sender=f"{number}@example.com").startswith("451 ")
        house.later(minutes=5)
        assert house.heard(sender=f"{number}@example.com", ip="198.51.100.1") == "proceed"
    assert house.heard(sender="new@example.com") == "proceed"
    for stranger in ["192.0.2.98", "198.51.100.3"]:  # beside it; and who only says that he were one of them
        assert house.heard(sender="new@example.com", ip=stranger).startswith("451 ")
    house.memory.trouble = MemoryUnavailable("away")
    assert house.heard(sender="newer@example.com") == "proceed"  # that address need not be asked about for a while
    with pytest.raises(MemoryUnavailable):
        house.heard(sender="newer@example.com", ip="192.0.2.98")


def test_by_network_no_name_is_asked_for():
    house = House({"99.2.0.192.in-addr.arpa": LookupFailed})
    assert house.ask().evidence[0].source == "the connection"
    house = House({"99.2.0.192.in-addr.arpa": LookupFailed}, per="name")
    assert house.ask().evidence[0].source == "the connection; its reverse name cannot be looked up now"


@pytest.mark.parametrize("per", ["network", "name"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("big.example", "proceed"),
        ("Mail.Big.Example", "proceed"),
        (".big.example", "proceed"),
        ("ig.example", "451"),
        ("x.big.example", "451"),
    ],
)
def test_names_that_are_good_without_being_asked(per, name, said):
    house = House(BIG, per=per, allow_names=[name])
    assert house.heard()[: len(said)] == said
    for stranger in ["192.0.2.98", "198.51.100.3", "198.51.100.5"]:  # good is who has the name, not who lives beside it
        assert house.heard(ip=stranger).startswith("451 ")


def test_what_is_no_name():
    with pytest.raises(ValueError, match=r"allow_names: \*\.example: domain is not a valid host name"):
        House(allow_names=["*.example"])


# ── The null sender ──


def test_bounces_are_deferred_when_they_are_here():
    house = House()
    assert house.heard(sender="<>") == "proceed"
    assert house.said(house.ask_at_end()) == "451 4.7.1 greylisted, come again in 300 s"
    assert house.said(house.ask_at_end(sender="a@example.com")) == "proceed"  # that one was asked about at RCPT
    assert house.said(house.ask_at_end(login="ann")) == "proceed"
    house.later(minutes=5)
    assert house.said(house.ask_at_end("b@example.org", "c@example.org")) == "451 4.7.1 greylisted, come again in 300 s"
    assert house.said(house.ask_at_end()) == "proceed"
    house.later(minutes=5)
    assert house.said(house.ask_at_end("b@example.org", "c@example.org")) == "proceed"


def test_bounces_deferred_at_rcpt():
    house = House(null_sender="rcpt")
    assert house.heard(sender="<>") == "451 4.7.1 greylisted, come again in 300 s"
    assert house.said(house.ask_at_end()) == "proceed"


def test_bounces_left_alone():
    house = House(null_sender="pass")
    assert house.heard(sender="<>") == "proceed"
    assert house.said(house.ask_at_end()) == "proceed"


# ── Time ──


def test_no_delay_lets_pass_at_once():
    house = House(delay=0.0, known_after=2)
    house.memory.clock = at("2026-01-05T10:00:01+00:00")  # its answer comes a moment later
    assert house.ask().why == "need not wait; number 1 from 192.0.2.0/24"
    assert house.heard() == "proceed"
    assert house.ask(sender="x@example.com").why == "need not wait; number 2 from 192.0.2.0/24"


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


def test_a_talk_with_who_verifies_a_sender():
    house = House()
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[house.policy], reference=lambda: "7QK3M")
    asking = server.connect()
    asking.say("EHLO c")
    asking.say("MAIL FROM:<>")
    assert asking.say("RCPT TO:<b@example.org>") == "250 2.1.5 recipient ok\r\n"
    talk = server.connect()
    for step in ["EHLO c", "MAIL FROM:<>", "RCPT TO:<b@example.org>", "DATA"]:
        talk.say(step)
    assert talk.say(b"Subject: bounce\r\n\r\n.\r\n") == "451 4.7.1 greylisted, come again in 300 s [ref 7QK3M]\r\n"
