"""The guard against guessing: whom it slows down, whom it bans, and whom it must leave alone."""

from ipaddress import ip_network

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from mailgw.credentials import ILoginGuard
from mailgw.interfaces import MemoryUnavailable
from mailgw.journal import Journal
from mailgw.login.throttle import LoginThrottle, Throttling
from mailgw.testing import InProcessMemory, a_client, at, run
from mailgw.values.quantities import Rate

ATTACKER = a_client(ip="203.0.113.66")
OWNER = a_client(ip="198.51.100.7")


class Notes:
    def __init__(self):
        self.events = []

    def note(self, event):
        self.events.append(event)


class Gate:
    """A throttle and what drives it; both clocks go together."""

    def __init__(self, **settings):
        self.day = at("2026-01-05T12:00+00:00")
        self.clock = Clock()
        self.clock.advance(self.day.now().timestamp())
        self.memory = InProcessMemory(self.day)
        self.notes = Notes()
        self.throttle = LoginThrottle(Throttling(**settings), self.memory, self.clock, Journal((self.notes,)))

    def advance(self, seconds):
        self.day.advance(seconds)
        self.clock.advance(seconds)

    def begin(self, client, account):
        """The answer of `before`, and how long it took."""
        answers, waited = [], 0.0
        Deferred.fromCoroutine(self.throttle.before(client, account)).addBoth(answers.append)
        while not answers:
            [call] = self.clock.getDelayedCalls()
            seconds = call.getTime() - self.clock.seconds()
            self.advance(seconds)
            waited += seconds
        return answers[0], round(waited, 3)

    def attempt(self, client, account, is_right=False):
        """A whole attempt: "in", "wrong", or the code of what is said instead; and how long it waited."""
        reply, waited = self.begin(client, account)
        if reply is not None:
            return reply.code, waited
        if is_right:
            run(self.throttle.succeeded(client, account))
            return "in", waited
        reply = run(self.throttle.failed(client, account))
        return "wrong" if reply is None else reply.code, waited


def test_it_is_a_guard():
    assert verifyObject(ILoginGuard, Gate().throttle)


def test_delays_grow_with_the_failures():
    gate = Gate()
    waits = [gate.attempt(ATTACKER, "anna")[1] for _ in range(10)]
    assert waits == [0, 0, 0, 1, 2, 4, 8, 16, 30, 30]


def test_delays_are_for_one_account_from_one_network():
    gate = Gate()
    for _ in range(5):
        gate.attempt(ATTACKER, "anna")
    assert gate.attempt(ATTACKER, "ANNA")[1] == 4
    assert gate.attempt(ATTACKER, " anna  ")[1] == 8  # directories and some databases do not count blanks
    assert gate.attempt(ATTACKER, "ben")[1] == 0
    assert gate.attempt(OWNER, "anna")[1] == 0


def test_doubts_slow_down_and_ban_nobody():
    gate = Gate()
    waits = []
    for _ in range(30):
        reply, waited = gate.begin(ATTACKER, "anna")
        assert reply is None
        waits.append(waited)
        run(gate.throttle.doubted(ATTACKER, "anna"))
    assert waits[:9] == [0, 0, 0, 1, 2, 4, 8, 16, 30]
    assert run(gate.throttle.bans()) == []
    assert gate.begin(OWNER, "anna") == (None, 0)
    assert gate.begin(ATTACKER, "ben") == (None, 0)


def test_a_success_ends_the_delays():
    gate = Gate()
    for _ in range(5):
        gate.attempt(OWNER, "anna")
    assert gate.attempt(OWNER, "anna", is_right=True) == ("in", 4)
    assert gate.attempt(OWNER, "anna") == ("wrong", 0)


def test_failures_are_forgotten_with_time():
    gate = Gate()
    for _ in range(5):
        gate.attempt(OWNER, "anna")
    gate.advance(3600)
    assert gate.attempt(OWNER, "anna") == ("wrong", 0)


def test_a_network_is_banned_for_a_while():
    gate = Gate(delay=0.0)
    said = [gate.attempt(ATTACKER, f"user{number}")[0] for number in range(25)]
    assert said == ["wrong"] * 19 + [421] * 6
    [banned] = gate.notes.events
    assert (type(banned).__name__, banned.client, banned.network, banned.failures) == ("Banned", "203.0.113.66", "203.0.113.66/32", 20)
    reply, _ = gate.begin(ATTACKER, "user1")
    assert str(reply) == "421 4.7.0 too many failed logins from your network, try again in 60 minutes"
    gate.advance(3540)
    assert gate.begin(ATTACKER, "user1")[0].text.endswith("in 1 minute")
    gate.advance(60)
    assert gate.attempt(ATTACKER, "user1", is_right=True) == ("in", 0)


def test_who_has_an_account_cannot_guess_others_between():
    gate = Gate(delay=0.0)
    for number in range(19):
        assert gate.attempt(ATTACKER, f"user{number}")[0] == "wrong"
        assert gate.attempt(ATTACKER, "mallory", is_right=True)[0] == "in"
    assert gate.attempt(ATTACKER, "user20")[0] == 421


def test_who_goes_on_after_a_ban_is_banned_at_once():
    gate = Gate(ban=60.0, delay=0.0)
    for _ in range(20):
        gate.attempt(ATTACKER, "anna")
    gate.advance(60)
    assert gate.attempt(ATTACKER, "anna")[0] == 421
    assert gate.attempt(ATTACKER, "anna", is_right=True)[0] == 421
    assert [type(event).__name__ for event in gate.notes.events] == ["Banned", "Banned"]


def test_a_thousand_wrong_passwords_do_not_stop_the_owner():
    gate = Gate()
    said = [gate.attempt(ATTACKER, "anna")[0] for _ in range(1000)]
    assert said.count("wrong") < 100  # more than this were not even looked at
    assert gate.attempt(OWNER, "anna", is_right=True) == ("in", 0)
    assert gate.attempt(OWNER, "anna") == ("wrong", 0)


def test_hundreds_of_networks_only_slow_the_owner():
    gate = Gate()
    for number in range(700):
        client = a_client(ip=f"10.0.{number // 250}.{number % 250}")
        assert gate.attempt(client, "anna") == ("wrong", 5 if number >= 100 else 0)
    assert gate.attempt(OWNER, "anna", is_right=True) == ("in", 5)
    assert gate.attempt(OWNER, "anna", is_right=True) == ("in", 0)  # he is known there from now on
    assert gate.attempt(OWNER, "ben") == ("wrong", 0)


def test_who_waits_beside_others_hears_of_the_ban():
    gate = Gate(ban_after=Rate(5, 3600.0))
    for _ in range(4):
        gate.attempt(ATTACKER, "anna")
    waiting = []
    for _ in range(3):
        Deferred.fromCoroutine(gate.throttle.before(ATTACKER, "anna")).addBoth(waiting.append)
    assert run(gate.throttle.failed(ATTACKER, "anna")).code == 421
    gate.advance(2)
    assert [reply.code for reply in waiting] == [421, 421, 421]


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff:1", True),
        ("2001:db8::1", "2001:db8:0:1::1", False),
        ("192.0.2.1", "192.0.2.2", False),
    ],
)
def test_networks(one, other, together):
    gate = Gate(delay=0.0)
    for _ in range(20):
        gate.attempt(a_client(ip=one), "anna")
    assert (gate.attempt(a_client(ip=other), "anna")[0] == 421) == together


def test_wider_networks():
    gate = Gate(delay=0.0, ipv4_prefix=24)
    for number in range(20):
        gate.attempt(a_client(ip=f"192.0.2.{number}"), "anna")
    assert gate.attempt(a_client(ip="192.0.2.99"), "anna")[0] == 421
    assert gate.attempt(a_client(ip="192.0.3.1"), "anna")[0] == "wrong"


def test_friends_are_never_counted():
    gate = Gate(allow=(ip_network("198.51.100.0/24"),))
    assert {gate.attempt(OWNER, "anna") for _ in range(100)} == {("wrong", 0)}
    assert run(gate.throttle.condition())["failures_this_hour"] == 0


def test_without_bans():
    gate = Gate(ban_after=None, slow_after=None)
    assert {gate.attempt(ATTACKER, "anna")[0] for _ in range(50)} == {"wrong"}
    assert gate.attempt(ATTACKER, "anna")[1] == 30


def test_names_that_nobody_has_told():
    gate = Gate()
    assert [gate.attempt(ATTACKER, "") for _ in range(20)] == [("wrong", 0)] * 19 + [(421, 0)]


@pytest.mark.parametrize("account", ["x" * 12_000, "a b\r\n\0{}", "Ünal", "İ" * 199, "ban:203.0.113.66/32"])
def test_names_of_any_kind(account):
    gate = Gate()
    assert [gate.attempt(ATTACKER, account)[0] for _ in range(20)] == ["wrong"] * 19 + [421]
    [ban] = run(gate.throttle.bans())
    assert ban.account == account[:200]


def test_what_an_operator_sees_and_does():
    gate = Gate(delay=0.0)
    assert run(gate.throttle.bans()) == []
    for _ in range(20):
        gate.attempt(ATTACKER, "anna")
    gate.attempt(OWNER, "ben")
    [ban] = run(gate.throttle.bans())
    now = gate.clock.seconds()
    assert (ban.network, ban.since, ban.until, ban.failures, ban.account) == ("203.0.113.66/32", now, now + 3600, 20, "anna")
    assert run(gate.throttle.condition()) == {"banned_networks": 1, "failures_this_hour": 21, "failures_the_hour_before": 0}
    gate.advance(600)
    assert run(gate.throttle.lift("203.0.113.66/32"))
    assert not run(gate.throttle.lift("203.0.113.66/32"))
    assert run(gate.throttle.bans()) == []
    assert gate.attempt(ATTACKER, "anna")[0] == "wrong"
    assert [type(event).__name__ for event in gate.notes.events] == ["Banned", "BanLifted"]
    gate.advance(3000)
    assert run(gate.throttle.condition()) == {"banned_networks": 0, "failures_this_hour": 0, "failures_the_hour_before": 22}


def test_without_its_memory_it_lets_nobody_through():
    gate = Gate()
    gate.memory.trouble = MemoryUnavailable("gone")
    for question in (gate.throttle.before, gate.throttle.failed, gate.throttle.succeeded):
        with pytest.raises(MemoryUnavailable, match="gone"):
            run(question(ATTACKER, "anna"))
    with pytest.raises(MemoryUnavailable, match="gone"):
        run(gate.throttle.bans())


@pytest.mark.parametrize(
    "settings", [{"delay_after": 0}, {"ipv4_prefix": 0}, {"ipv4_prefix": 33}, {"ipv6_prefix": 8}, {"ipv6_prefix": 129}], ids=str
)
def test_settings_that_make_no_sense(settings):
    with pytest.raises(ValueError, match="must be"):
        Throttling(**settings)
