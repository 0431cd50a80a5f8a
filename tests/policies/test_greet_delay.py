"""Who waits for the greeting, and who does not."""

import pytest

from mailgw.interfaces import MemoryUnavailable
from mailgw.journal import Disconnected
from mailgw.policies.greet_delay import GreetDelay
from mailgw.policies.relay import Permit
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run
from mailgw.testing.facts import a_client, a_sender
from mailgw.testing.server import MemoryServer


class House:
    def __init__(self, **settings):
        self.clock = at("2026-01-05T10:00+00:00")
        self.memory = InProcessMemory(self.clock)
        self.policy = GreetDelay(**settings, memory=self.memory)

    def wait(self, **who):
        return run(self.policy.check_client(a_client(**who))).wait

    def mail(self, **who):
        decision = run(self.policy.check_sender(a_sender(**who)))
        return str(decision.reply) if decision.reply else decision.verdict.value


def test_who_has_waited_need_not_wait_again():
    house = House()
    assert house.wait() == 3.0
    assert house.mail() == "proceed"
    assert house.wait() == 0.0
    assert house.wait(ip="198.51.100.1") == 3.0
    house.clock.advance(86399)
    assert house.wait() == 0.0
    house.clock.advance(1)
    assert house.wait() == 3.0


def test_one_client_has_many_addresses_of_six():
    house = House()
    house.wait(ip="2001:db8::1")
    house.mail(ip="2001:db8::1")
    assert (house.wait(ip="2001:db8::2"), house.wait(ip="2001:db8:0:1::1")) == (0.0, 3.0)


def test_nobody_is_remembered_where_that_is_not_wanted():
    house = House(remember=None)
    assert (house.wait(), house.mail(), house.wait()) == (3.0, "proceed", 3.0)


def test_who_was_not_asked_to_wait_has_not_proved_anything():
    house = House()
    assert house.mail() == "proceed"  # a session that was skipped, or began before a reload
    assert house.wait() == 3.0


def test_who_hangs_up_is_not_remembered():
    house = House()
    house.wait()
    house.policy.note(Disconnected("test", "lost", 0))
    house.mail()
    assert house.wait() == 3.0


ACTIONS = {
    "reject": "550 5.5.1 you talk before you are greeted",
    "defer": "450 4.5.1 you talk before you are greeted",
    "tag": "proceed",
    "quarantine": "quarantine",
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_happens_to_early_talkers(action):
    house = House(action=action)
    house.wait()
    assert house.mail(early_talker=True) == ACTIONS[action]
    assert house.wait() == 3.0  # it is not remembered as one that waits
    decision = run(house.policy.check_sender(a_sender(early_talker=True)))
    assert decision.tags == ({"early-talker"} if action == "tag" else set())


def test_its_grounds():
    house = House(delay=5.0)
    assert run(house.policy.check_client(a_client())).why == "greeted after 5 s"
    decision = run(house.policy.check_sender(a_sender(early_talker=True)))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [("sent before the greeting", "yes", "the connection")]
    assert decision.remedy.startswith("a client that waits for the greeting")


def test_without_its_memory_it_does_not_know():
    house = House()
    house.memory.trouble = MemoryUnavailable("away")
    with pytest.raises(MemoryUnavailable):
        house.wait()


@pytest.mark.parametrize("delay", [0.0, -1.0, 61.0])
def test_a_delay_has_bounds(delay):
    with pytest.raises(ValueError, match="longer than nothing, and 60 seconds at most"):
        House(delay=delay)


def test_a_talk():
    house = House()
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[house.policy], reference=lambda: "7QK3M")
    early, polite = server.connect(), server.connect(ip="198.51.100.1")
    assert early.say("EHLO c\r\nMAIL FROM:<a@example.com>") == ""
    server.clock.advance(3)
    lines = early.heard().splitlines()
    assert lines[0].startswith("220 ")
    assert lines[-1] == "550 5.5.1 you talk before you are greeted [ref 7QK3M]"
    assert polite.heard().startswith("220 ")
    polite.say("EHLO c")
    assert polite.say("MAIL FROM:<a@example.com>").startswith("250 ")
    assert server.connect(ip="198.51.100.1").heard().startswith("220 ")
