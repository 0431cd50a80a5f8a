"""POP before SMTP: who may send, for how long, from where."""

from ipaddress import ip_address

import pytest
from zope.interface.verify import verifyObject

from mailgw.interfaces import IRelayPolicy, MemoryUnavailable
from mailgw.policies.recently_fetched import RecentlyFetched, note_fetch
from mailgw.testing import InProcessMemory, a_recipient, at, run
from mailgw.values.decision import Verdict


@pytest.fixture
def clock():
    return at("2026-01-05T12:00+00:00")


@pytest.fixture
def memory(clock):
    return InProcessMemory(clock)


def asked(memory, clock, ip, within=900.0):
    return run(RecentlyFetched(within, memory=memory, clock=clock).may_relay(a_recipient(ip=ip)))


def test_it_is_a_permit_rule(memory, clock):
    assert verifyObject(IRelayPolicy, RecentlyFetched(memory=memory, clock=clock))


GRANTED = "anna has fetched mail from there"
NEVER = "nobody has fetched mail from {} in the last day"
TOO_LATE = "nobody has fetched mail from {} in the last 900 s"


@pytest.mark.parametrize(
    ("fetched", "ip", "seconds", "verdict", "why"),
    [
        pytest.param("192.0.2.1", "192.0.2.1", 0, Verdict.PERMIT, GRANTED, id="at once"),
        pytest.param("192.0.2.1", "192.0.2.1", 900, Verdict.PERMIT, GRANTED, id="just in time"),
        pytest.param("192.0.2.1", "192.0.2.1", 901, Verdict.PROCEED, TOO_LATE, id="too late"),
        pytest.param("192.0.2.1", "192.0.2.2", 0, Verdict.PROCEED, NEVER, id="a neighbour"),
        pytest.param("192.0.2.1", "192.0.2.10", 0, Verdict.PROCEED, NEVER, id="begins like it"),
        pytest.param("2001:db8::1", "2001:db8:0::1", 0, Verdict.PERMIT, GRANTED, id="IPv6"),
        pytest.param("2001:db8::1", "2001:db8::2", 0, Verdict.PROCEED, NEVER, id="IPv6 neighbour"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", 0, Verdict.PERMIT, GRANTED, id="IPv4-mapped"),
        pytest.param("192.0.2.1", "0.0.0.0", 0, Verdict.PROCEED, "", id="a client that nobody knows"),
        pytest.param("192.0.2.1", "192.0.2.1", -10, Verdict.PROCEED, TOO_LATE, id="clock put back"),
    ],
)
def test_who_may_send(memory, clock, fetched, ip, seconds, verdict, why):
    run(note_fetch(memory, clock, ip_address(fetched), "anna"))
    clock.advance(seconds)
    decision = asked(memory, clock, ip)
    assert decision.verdict is verdict
    assert decision.why == why.format(ip)


def test_fetching_again_begins_again(memory, clock):
    for _ in range(3):
        run(note_fetch(memory, clock, ip_address("192.0.2.1")))
        clock.advance(800)
    assert asked(memory, clock, "192.0.2.1").verdict is Verdict.PERMIT


@pytest.mark.parametrize("ip", ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"])
def test_nobodys_address(memory, clock, ip):
    with pytest.raises(ValueError, match="nobody's address"):
        run(note_fetch(memory, clock, ip_address(ip)))


def test_without_memory_nobody_is_permitted(memory, clock):
    memory.trouble = MemoryUnavailable("gone")
    with pytest.raises(MemoryUnavailable):
        asked(memory, clock, "192.0.2.1")


@pytest.mark.parametrize("within", [0.0, -1.0, 86401.0, float("nan")])
def test_times_that_make_no_sense(memory, clock, within):
    with pytest.raises(ValueError, match="within must be"):
        RecentlyFetched(within, memory=memory, clock=clock)
