"""Sessions at the same time: counted in, and out again."""

from ipaddress import ip_network

import pytest

from mailgw.journal import Connected, Disconnected
from mailgw.policies.concurrency import Concurrency
from mailgw.policies.relay import Permit
from mailgw.testing.facts import a_client, a_sender
from mailgw.testing.server import MemoryServer


def heard(decision):
    return str(decision.reply) if decision.reply else decision.verdict.value


TOO_MANY = "450 4.7.0 too many sessions at once from your address, try again later"


def test_one_too_many_until_one_has_gone():
    policy = Concurrency(2)
    assert [heard(policy.check_client(a_client(session=name))) for name in "abc"] == ["proceed", "proceed", TOO_MANY]
    policy.note(Connected("x", "mx", "192.0.2.99:40000"))
    policy.note(Disconnected("c", "refused", 0))  # it had no place to give
    assert heard(policy.check_client(a_client(session="d"))) == TOO_MANY
    policy.note(Disconnected("a", "quit", 1))
    assert heard(policy.check_client(a_client(session="e"))) == "proceed"
    assert heard(policy.check_client(a_client(session="f"))) == TOO_MANY


PER = {
    "client": ({"ip": "192.0.2.1"}, {"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}),
    "client, six": ({"ip": "2001:db8::1"}, {"ip": "2001:db8::2"}, {"ip": "2001:db8:0:1::1"}),
    "network": ({"ip": "192.0.2.1"}, {"ip": "192.0.2.2"}, {"ip": "192.0.3.1"}),
    "network, six": ({"ip": "2001:db8::1"}, {"ip": "2001:db8:0:1::1"}, {"ip": "2001:db8:1::1"}),
    "login": ({"login": "ann"}, {"login": "ANN"}, {"login": "ben"}),
}


@pytest.mark.parametrize("per", PER)
def test_of_whom(per):
    policy = Concurrency(1, per=per.partition(",")[0])

    def ask(session, who):
        sender = a_sender(session=session, **who)
        first = policy.check_client(sender.client)
        return heard(first if first.reply else policy.check_sender(sender))

    one, same, other = PER[per]
    assert ask("a", one) == "proceed"
    assert ask("a", same) == "proceed"  # the same session again
    assert ask("b", same).startswith("450 4.7.0 ")
    assert ask("c", other) == "proceed"


def test_who_has_not_logged_in_has_no_login_to_count():
    policy = Concurrency(1, per="login")
    assert {heard(policy.check_sender(a_sender(session=name))) for name in "abc"} == {"proceed"}


def test_a_session_that_speaks_for_another_client_moves():
    policy = Concurrency(1)
    policy.check_client(a_client(session="a", ip="192.0.2.1"))
    policy.check_client(a_client(session="a", ip="192.0.2.2"))
    assert heard(policy.check_client(a_client(session="b", ip="192.0.2.1"))) == "proceed"
    assert heard(policy.check_client(a_client(session="c", ip="192.0.2.2"))) == TOO_MANY


ACTIONS = {
    "reject": "550 5.7.0 too many sessions at once from your address, try again later",
    "defer": TOO_MANY,
    "tag": "proceed",
    "quarantine": "quarantine",
}


@pytest.mark.parametrize("action", ACTIONS)
def test_what_it_does(action):
    policy = Concurrency(1, action=action)
    policy.check_client(a_client(session="a"))
    decision = policy.check_client(a_client(session="b"))
    assert heard(decision) == ACTIONS[action]
    assert decision.tags == ({"too-many-sessions"} if action == "tag" else set())
    policy.note(Disconnected("b", "quit", 0))
    assert heard(policy.check_client(a_client(session="c"))) == ACTIONS[action]  # b had no place


def test_its_grounds():
    policy = Concurrency(1, per="network")
    policy.check_client(a_client(session="a"))
    decision = policy.check_client(a_client(session="b"))
    assert decision.why == "192.0.2.0/24 has 1 other session"
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("network", "192.0.2.0/24", "the connection"),
        ("other sessions", "1", "this process"),
    ]
    assert decision.remedy == "an end of one of its sessions, or a higher limit than 1"


def test_at_least_one_may_come():
    with pytest.raises(ValueError, match="limit"):
        Concurrency(0)


def test_nothing_is_left_of_who_has_gone():
    policy = Concurrency(5)
    for name in "abc":
        policy.check_client(a_client(session=name))
    for name in "abc":
        policy.note(Disconnected(name, "quit", 0))
    assert (policy._present.who, policy._present.count) == ({}, {})


def server(policy, **more):
    return MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[policy], reference=lambda: "7QK3M", **more)


ENDS = {"quit": lambda talk: talk.say("QUIT"), "hang-up": lambda talk: talk.hang_up(), "web": lambda talk: talk.say("GET / HTTP/1.1")}


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
def test_a_talk(end):
    at = server(Concurrency(1))
    first = at.connect()
    assert first.heard().startswith("220 ")
    assert at.connect().heard() == "421 4.7.0 too many sessions at once from your address, try again later [ref 7QK3M]\r\n"
    assert at.connect(ip="198.51.100.1").heard().startswith("220 ")
    end(first)
    assert at.connect().heard().startswith("220 ")


def test_a_talk_of_a_proxy():
    at = server(Concurrency(1), xclient=(ip_network("192.0.2.99"),))
    talk = at.connect()
    talk.heard()
    assert talk.say("XCLIENT ADDR=198.51.100.1").startswith("220 ")
    assert at.connect().heard().startswith("220 ")
    assert at.connect(ip="198.51.100.1").heard().startswith("421 4.7.0 ")
