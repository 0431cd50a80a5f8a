"""Rates: what is counted, of whom, and what happens above them."""

from datetime import timedelta

import pytest

from mailgw.interfaces import MemoryUnavailable
from mailgw.policies.rate_limit import RateLimit
from mailgw.policies.relay import Permit
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.testing import at, run
from mailgw.testing.facts import a_client, a_message, a_recipient, a_sender
from mailgw.testing.server import MemoryServer
from mailgw.values.facts import RefusalFacts
from mailgw.values.quantities import Rate
from mailgw.values.reply import Reply


class House:
    def __init__(self, limit="2 per minute", **settings):
        self.clock = at("2026-01-05T10:00+00:00")
        self.memory = InProcessMemory(self.clock)
        self.policy = RateLimit(Rate.parse(limit), **settings, memory=self.memory, clock=self.clock)

    def say(self, method, facts):
        answer = getattr(self.policy, method)(facts)
        decision = answer if hasattr(answer, "verdict") else run(answer)
        return str(decision.reply) if decision.reply else decision.verdict.value


COUNTED = {
    "connections": ("check_client", lambda n: a_client()),
    "messages": ("check_sender", lambda n: a_sender(f"{n}@example.com")),
    "recipients": ("check_recipient", lambda n: a_recipient(f"{n}@example.org")),
}


@pytest.mark.parametrize("what", COUNTED)
def test_what_is_counted(what):
    house = House(what=what)
    method, facts = COUNTED[what]
    assert [house.say(method, facts(n)) for n in range(3)] == ["proceed", "proceed", f"450 4.7.1 too many {what}, try again in 30 s"]
    house.clock.advance(timedelta(seconds=30))
    assert house.say(method, facts(4)) == "proceed"
    for other, (another, made) in COUNTED.items():
        if other != what:
            assert {house.say(another, made(n)) for n in range(9)} == {"proceed"}


def test_bytes_are_counted():
    house = House("1000 per minute", what="bytes")
    message = a_message(b"x" * 400)
    assert [house.say("check_content", message) for _ in range(3)] == [
        "proceed",
        "proceed",
        "450 4.7.1 too many bytes, try again in 12 s",
    ]


def a_refusal(reply="550 5.1.1", **who):
    code, enhanced = reply.split()
    return RefusalFacts(client=a_client(**who), stage="rcpt", reply=Reply(int(code), enhanced, "no"), count=1)


def test_errors_are_counted_and_held_against_the_next_session():
    house = House(what="errors")
    for _ in range(2):
        house.say("check_refusal", a_refusal())
        assert house.say("check_client", a_client()) == "proceed"
    house.say("check_refusal", a_refusal())
    assert house.say("check_client", a_client()) == "450 4.7.1 too many errors, try again in 30 s"
    assert house.say("check_client", a_client(ip="198.51.100.1")) == "proceed"
    house.clock.advance(20)
    assert house.say("check_client", a_client()) == "450 4.7.1 too many errors, try again in 10 s"
    house.clock.advance(10)
    assert house.say("check_client", a_client()) == "proceed"
    house.say("check_refusal", a_refusal())
    house.say("check_refusal", a_refusal())
    assert house.say("check_client", a_client()).startswith("450 ")


def test_deferrals_are_no_errors():
    house = House("1 per hour", what="errors")
    for _ in range(5):
        house.say("check_refusal", a_refusal("450 4.7.1"))
    assert house.say("check_client", a_client()) == "proceed"


def test_errors_of_a_login_are_known_at_mail():
    house = House("1 per hour", what="errors", per="login")
    for _ in range(2):
        house.say("check_refusal", a_refusal(login="ann"))
        house.say("check_refusal", a_refusal())
    assert house.say("check_client", a_client(login="ann")) == "proceed"
    assert house.say("check_sender", a_sender(login="ann")) == "450 4.7.1 too many errors, try again in 3600 s"
    assert house.say("check_sender", a_sender(login="ben")) == "proceed"


def test_only_errors_are_asked_about_refusals():
    house = House("1 per hour")
    assert {house.say("check_refusal", a_refusal()) for _ in range(5)} == {"proceed"}
    assert house.say("check_sender", a_sender()) == "proceed"


PER = {
    "client": ({"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}),
    "network": ({"ip": "192.0.2.1"}, {"ip": "192.0.3.1"}),
    "login": ({"login": "ann"}, {"login": "ben"}),
    "sender": ({"sender": "a@example.com"}, {"sender": "b@example.com"}),
    "sender-domain": ({"sender": "a@example.com"}, {"sender": "a@example.net"}),
    "recipient": ({"to": "a@example.org"}, {"to": "b@example.org"}),
    "recipient-domain": ({"to": "a@example.org"}, {"to": "a@example.net"}),
}
SAME = {
    "client": {"ip": "192.0.2.1", "sender": "other@example.com"},
    "network": {"ip": "192.0.2.77"},
    "login": {"login": "ANN"},
    "sender": {"sender": "a@EXAMPLE.com"},
    "sender-domain": {"sender": "other@example.com"},
    "recipient": {"to": "A@example.org"},
    "recipient-domain": {"to": "other@example.org"},
}


@pytest.mark.parametrize("per", PER)
def test_of_whom(per):
    house = House("1 per hour", what="recipients", per=per)
    one, other = PER[per]
    assert house.say("check_recipient", a_recipient(**one)) == "proceed"
    assert house.say("check_recipient", a_recipient(**other)) == "proceed"
    assert house.say("check_recipient", a_recipient(**SAME[per])).startswith("450 ")


NOBODY = {"login": {}, "sender": {"sender": "<>"}, "sender-domain": {"sender": "<>"}}


@pytest.mark.parametrize("per", NOBODY)
def test_who_is_nobody_is_not_counted(per):
    house = House("1 per hour", per=per)
    assert {house.say("check_sender", a_sender(**{"sender": "<>"} | NOBODY[per])) for _ in range(5)} == {"proceed"}


def test_six_is_counted_by_the_network_of_a_host():
    house = House("1 per hour")
    assert house.say("check_sender", a_sender(ip="2001:db8::1")) == "proceed"
    assert house.say("check_sender", a_sender(ip="2001:db8::2")).startswith("450 ")
    assert house.say("check_sender", a_sender(ip="2001:db8:0:1::2")) == "proceed"


def test_a_burst():
    house = House("1 per minute", burst=3)
    assert [house.say("check_sender", a_sender()) for _ in range(4)][2:] == ["proceed", "450 4.7.1 too many messages, try again in 60 s"]


def test_of_big_buckets_a_hundredth_is_taken_at_once():
    house = House("1000 per hour")
    assert house.say("check_sender", a_sender()) == "proceed"
    house.memory.trouble = MemoryUnavailable("away")
    assert {house.say("check_sender", a_sender()) for _ in range(9)} == {"proceed"}
    with pytest.raises(MemoryUnavailable):
        house.say("check_sender", a_sender())
    house.memory.trouble = None
    other = RateLimit(house.policy.limit, memory=house.memory, clock=house.clock)  # another process
    assert [run(other.check_sender(a_sender())).verdict.value for _ in range(5)] == ["proceed"] * 5
    assert [house.say("check_sender", a_sender()) for _ in range(981)] == ["proceed"] * 980 + [
        "450 4.7.1 too many messages, try again in 4 s"
    ]
    house.clock.advance(timedelta(seconds=4))
    assert house.say("check_sender", a_sender()) == "proceed"
    assert house.say("check_sender", a_sender()).startswith("450 ")


def test_the_same_bucket_is_shared():
    house = House("1 per hour", bucket="shared")
    other = RateLimit(Rate(1, 3600.0), what="recipients", bucket="shared", memory=house.memory, clock=house.clock)
    assert house.say("check_sender", a_sender()) == "proceed"
    assert run(other.check_recipient(a_recipient())).reply.code == 450


def test_a_name_may_be_longer_than_a_key():
    house = House("1 per hour", per="login")
    assert house.say("check_sender", a_sender(login="x" * 5000)) == "proceed"
    assert house.say("check_sender", a_sender(login="x" * 5000)).startswith("450 ")
    assert house.say("check_sender", a_sender(login="x" * 4999)) == "proceed"


def test_its_grounds():
    house = House("1 per hour", action="reject")
    house.say("check_sender", a_sender())
    decision = run(house.policy.check_sender(a_sender()))
    assert (decision.reply.code, decision.why) == (550, "more than 1 per hour for 192.0.2.99")
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("client", "192.0.2.99", "the connection"),
        ("limit", "1 per hour, 1 at once", "the policy's settings"),
    ]
    assert decision.remedy == "3600 s later, or a higher limit than 1 per hour"


def test_without_its_memory_it_does_not_know():
    house = House()
    house.memory.trouble = MemoryUnavailable("away")
    with pytest.raises(MemoryUnavailable):
        house.say("check_sender", a_sender())


WRONG = {
    "connections per sender": ({"what": "connections", "per": "sender"}, "connections cannot be counted per sender"),
    "connections per login": ({"what": "connections", "per": "login"}, 'connections cannot be counted per login: say per = "client"'),
    "messages per recipient": ({"per": "recipient"}, "messages cannot be counted per recipient"),
    "errors per sender": ({"what": "errors", "per": "sender"}, 'errors cannot be counted per sender: say per = "client"'),
    "negative burst": ({"burst": -1}, "burst must not be negative"),
}


@pytest.mark.parametrize(("settings", "text"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_counted(settings, text):
    with pytest.raises(ValueError, match=text):
        House(**settings)


def test_a_talk():
    house = House("1 per hour")
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[house.policy], reference=lambda: "7QK3M")
    talk = server.connect()
    talk.say("EHLO c")
    assert talk.say("MAIL FROM:<a@example.com>").startswith("250 ")
    talk.say("RSET")
    assert talk.say("MAIL FROM:<a@example.com>") == "450 4.7.1 too many messages, try again in 3600 s [ref 7QK3M]\r\n"


def test_a_talk_about_errors():
    house = House("2 per hour", what="errors", action="reject")
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[house.policy], reference=lambda: "7QK3M")
    talk = server.connect()
    talk.say("EHLO c")
    talk.say("MAIL FROM:<a@example.com>")
    for _ in range(3):
        assert talk.say("RCPT TO:<b@example.net>").startswith("550 5.7.1 relaying denied")
    assert talk.say("RCPT TO:<b@example.org>").startswith("250 ")  # who is in already may stay
    assert server.connect().heard() == "554 5.7.1 too many errors, try again in 1800 s [ref 7QK3M]\r\n"
    assert server.connect(ip="198.51.100.1").heard().startswith("220 ")
    house.clock.advance(timedelta(hours=1))
    assert server.connect().heard().startswith("220 ")
