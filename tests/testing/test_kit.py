import sqlite3
from datetime import datetime, timedelta
from ipaddress import ip_address

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock, deferLater
from twisted.internet.threads import deferToThreadPool
from zope.interface.verify import verifyObject

from mailgw.interfaces import Answer, IClock, IResolver, LookupFailed
from mailgw.testing import (
    ThreadsAtOnce,
    a_client,
    a_message,
    a_recipient,
    a_sender,
    a_shipment,
    an_address,
    an_envelope,
    at,
    run,
    zone,
)
from mailgw.values.address import NULL, Address, BadAddress
from mailgw.values.content import Content
from mailgw.values.delivery import Recipient
from mailgw.values.facts import TlsFacts

# ── run ──


async def gives(value):
    return value


async def raises(problem):
    raise problem


async def waits_for(awaitable):
    return await awaitable


class OwnAwaitable:
    def __await__(self):
        return (yield from waits_for(succeed(7)).__await__())


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: 7, id="a value"),
        pytest.param(lambda: gives(7), id="a coroutine"),
        pytest.param(lambda: succeed(7), id="a Deferred"),
        pytest.param(lambda: waits_for(gives(7)), id="a coroutine that awaits a coroutine"),
        pytest.param(lambda: waits_for(succeed(7)), id="a coroutine that awaits a Deferred"),
        pytest.param(OwnAwaitable, id="another awaitable"),
    ],
)
def test_run_gives_the_result(make):
    assert run(make()) == 7


@pytest.mark.parametrize("make", [raises, fail, lambda problem: waits_for(fail(problem))], ids=["coroutine", "Deferred", "awaited"])
def test_run_raises_what_was_raised(make):
    with pytest.raises(KeyError, match="gone"):
        run(make(KeyError("gone")))


def test_run_says_what_has_not_finished_and_ends_it():
    ended = []

    async def never():
        try:
            await Deferred()
        finally:
            ended.append(True)

    with pytest.raises(AssertionError, match=r"never.*has not finished"):
        run(never())
    assert ended
    with pytest.raises(AssertionError, match="has not finished"):
        run(Deferred())


def test_run_with_a_clock_that_moves():
    clock = Clock()
    later = deferLater(clock, 5, lambda: 7)
    clock.advance(5)
    assert run(waits_for(later)) == 7


# ── zone ──

ZONE = zone(
    {
        "example.org": {"MX": [(10, "mx.example.org"), ("20", "mx2.example.org")], "A": ["192.0.2.1"], "TXT": ["v=spf1 -all", b"\xff"]},
        "MX.Example.org.": {"A": ["192.0.2.2"], "AAAA": ["2001:db8::2"]},
        "www.example.org": {"CNAME": ["Example.org."]},
        "alias.example.org": {"CNAME": ["www.example.org"]},
        "nowhere.example.org": {"CNAME": ["nobody.example"]},
        "loop.example.org": {"CNAME": ["pool.example.org"]},
        "pool.example.org": {"CNAME": ["loop.example.org"]},
        "1.2.0.192.in-addr.arpa": {"PTR": ["example.org"]},
        "bare.example": {},
        "broken.example": LookupFailed,
        "slow.example": LookupFailed("time-out"),
        "half.example": {"A": ["192.0.2.3"], "MX": LookupFailed},
        "to-broken.example": {"CNAME": ["broken.example"]},
    }
)


@pytest.mark.parametrize(
    ("name", "kind", "answer"),
    [
        ("example.org", "MX", Answer(((10, "mx.example.org"), (20, "mx2.example.org")))),
        ("example.org", "A", Answer((ip_address("192.0.2.1"),))),
        ("EXAMPLE.org.", "A", Answer((ip_address("192.0.2.1"),))),
        ("example.org", "TXT", Answer((b"v=spf1 -all", b"\xff"))),
        ("example.org", "AAAA", Answer(())),
        ("mx.example.org", "AAAA", Answer((ip_address("2001:db8::2"),))),
        ("www.example.org", "A", Answer((ip_address("192.0.2.1"),))),
        ("alias.example.org", "A", Answer((ip_address("192.0.2.1"),))),
        ("alias.example.org", "AAAA", Answer(())),
        ("www.example.org", "CNAME", Answer(("Example.org.",))),
        ("nowhere.example.org", "A", Answer((), name_exists=False)),
        ("1.2.0.192.in-addr.arpa", "PTR", Answer(("example.org",))),
        ("bare.example", "MX", Answer(())),
        ("half.example", "A", Answer((ip_address("192.0.2.3"),))),
        ("nobody.example", "A", Answer((), name_exists=False)),
        ("org", "A", Answer(())),
        ("notexample.org", "A", Answer((), name_exists=False)),
    ],
)
def test_zone_answers(name, kind, answer):
    assert run(ZONE.lookup(name, kind)) == answer


@pytest.mark.parametrize(
    ("name", "kind"),
    [("broken.example", "A"), ("slow.example", "MX"), ("half.example", "MX"), ("to-broken.example", "A"), ("loop.example.org", "A")],
)
def test_zone_fails(name, kind):
    with pytest.raises(LookupFailed):
        run(ZONE.lookup(name, kind))


def test_zone_is_a_resolver():
    assert verifyObject(IResolver, ZONE)


@pytest.mark.parametrize(
    "names",
    [
        {"example.org": {"A": ["192.0.2"]}},
        {"example.org": {"A": "192.0.2.1"}},
        {"example.org": {"a": ["192.0.2.1"]}},
        {"example.org": {"SRV": ["x"]}},
        {"example.org": ["192.0.2.1"]},
        {"example.org": {"CNAME": ["a.example", "b.example"]}},
    ],
)
def test_nonsense_in_a_zone_is_refused(names):
    with pytest.raises(ValueError):
        zone(names)


def test_a_kind_that_nobody_knows_is_refused():
    with pytest.raises(ValueError):
        run(ZONE.lookup("example.org", "SRV"))


# ── clock ──


def test_a_clock_stands_until_it_is_moved():
    clock = at("2026-01-05T10:00+01:00")
    assert verifyObject(IClock, clock)
    assert clock.now() == clock.now() == datetime.fromisoformat("2026-01-05T09:00+00:00")
    assert clock.now().hour == 10
    clock.advance(90)
    clock.advance(timedelta(hours=1))
    assert clock.now() == datetime.fromisoformat("2026-01-05T10:01:30+00:00")


@pytest.mark.parametrize("moment", ["2026-01-05T10:00", "2026-01-05", "ten o'clock"])
def test_a_clock_needs_a_time_zone(moment):
    with pytest.raises(ValueError):
        at(moment)


# ── facts ──


@pytest.mark.parametrize(
    ("text", "address"),
    [("", NULL), ("<>", NULL), ("Postmaster", Address("Postmaster", "")), ("a@Example.org", Address("a", "example.org")), (NULL, NULL)],
)
def test_an_address(text, address):
    assert an_address(text) == address


def test_an_address_that_is_none():
    with pytest.raises(BadAddress):
        a_recipient("nobody")


def test_a_stranger_and_a_user():
    stranger, user = a_client(), a_client(login="anna")
    assert (stranger.kind, stranger.listener, stranger.is_authenticated) == ("relay", "mx", False)
    assert (user.kind, user.listener, user.is_authenticated) == ("submission", "submission", True)
    assert a_client(login="anna", kind="relay", listener="odd").listener == "odd"


def test_tls():
    assert a_client().tls is None
    assert a_client(tls=True).tls.version == "TLSv1.3"
    facts = TlsFacts(version="TLSv1.2", cipher="X")
    assert a_client(tls=facts).tls is facts


@pytest.mark.parametrize("make", [a_sender, a_recipient, a_message])
def test_the_client_is_told_in_place_or_given_whole(make):
    assert make(ip="2001:db8::1", login="anna").client == a_client(ip=ip_address("2001:db8::1"), login="anna")
    client = a_client(helo="x.example")
    assert make(client=client).client is client
    with pytest.raises(TypeError, match="ip"):
        make(client=client, ip="192.0.2.1")
    with pytest.raises(TypeError):
        make(colour="red")


def test_every_field_can_be_given():
    assert a_sender("", size=10).sender == NULL
    facts = a_recipient("a@example.org", sender="", tags=["x"])
    assert (facts.recipient, facts.sender, facts.tags) == (Address("a", "example.org"), NULL, {"x"})
    message = a_message(b"A: b\r\n\r\n", recipients=["a@example.org", "b@example.org"], tags={"x"})
    assert message.content == Content.of(b"A: b\r\n\r\n")
    assert message.recipients == (Address("a", "example.org"), Address("b", "example.org"))
    envelope = an_envelope("", arrived=5.0, client_ip=None, ret="HDRS", tags={"x"})
    assert (envelope.sender, envelope.arrived, envelope.client_ip, envelope.ret) == (NULL, 5.0, None, "HDRS")


def test_a_shipment():
    recipient = Recipient(Address("b", "example.org"), notify=frozenset({"NEVER"}))
    shipment = a_shipment("a@example.org", recipient, sender="", next_hop="example.org", message=9)
    assert shipment.recipients == (Recipient(Address("a", "example.org")), recipient)
    assert (shipment.sender, shipment.next_hop, shipment.message) == (NULL, "example.org", 9)
    assert len(a_shipment().recipients) == 1
    assert a_shipment(envelope=an_envelope("c@example.org")).sender == Address("c", "example.org")


def test_the_default_message_is_a_message():
    content = a_message().content
    assert content.header().endswith(b"\r\n")
    assert content.read().count(b"\n") == content.read().count(b"\r\n")


# ── threads ──


def test_threads_at_once():
    threads = ThreadsAtOnce()
    assert verifyObject(IReactorThreads, threads)
    assert run(deferToThreadPool(threads, threads.getThreadPool(), sum, [1, 2])) == 3
    with pytest.raises(sqlite3.Error):
        run(deferToThreadPool(threads, threads.getThreadPool(), sqlite3.connect, "/nowhere/at/all"))
    done = []
    threads.callInThread(done.append, 1)
    threads.callFromThread(done.append, 2)
    assert done == [1, 2]
