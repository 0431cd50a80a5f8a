"""What the DNS says, and what we make of it."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.names import dns
from zope.interface.verify import verifyObject

from mailgw.dns.resolver import Resolver
from mailgw.interfaces import Answer, IResolver, LookupFailed
from mailgw.testing.running import run


class Client:
    """Name servers with an answer for each (name, type): records, a message, or an exception."""

    def __init__(self, answers: dict[tuple[str, int], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    async def ask(self, name: str, kind: int) -> dns.Message:
        self.asked.append((name, kind))
        answer = self.answers.get((name, kind), [])
        if isinstance(answer, Deferred):
            answer = await answer
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, dns.Message) else message(answer)

    def condition(self) -> dict[str, dict[str, int]]:
        return {}


def message(records: list[dns.RRHeader], code: int = dns.OK) -> dns.Message:
    made = dns.Message(answer=1, rCode=code)
    made.authority = [one for one in records if one.type == dns.SOA]
    made.answers = [one for one in records if one.type != dns.SOA]
    return made


def rr(name: str, payload: Any, ttl: int = 300) -> dns.RRHeader:
    return dns.RRHeader(name, payload.TYPE, dns.IN, ttl, payload)


def soa(ttl: int = 300, minimum: int = 300) -> dns.RRHeader:
    return rr("example.org", dns.Record_SOA("ns.example.org", "root.example.org", minimum=minimum, ttl=ttl), ttl)


def nxdomain(*records: dns.RRHeader) -> dns.Message:
    return message(list(records), dns.ENAME)


ALIAS = rr("www.example.org", dns.Record_CNAME("example.org"))
A = rr("example.org", dns.Record_A("192.0.2.1"))

TABLE: dict[str, tuple[str, str, dict[tuple[str, int], Any], Answer]] = {
    "A": ("example.org", "A", {("example.org", dns.A): [A]}, Answer((IPv4Address("192.0.2.1"),))),
    "case and final dot": ("Example.ORG.", "A", {("example.org", dns.A): [A]}, Answer((IPv4Address("192.0.2.1"),))),
    "AAAA": (
        "example.org",
        "AAAA",
        {("example.org", dns.AAAA): [rr("example.org", dns.Record_AAAA("2001:db8::1"))]},
        Answer((IPv6Address("2001:db8::1"),)),
    ),
    "MX": (
        "example.org",
        "MX",
        {("example.org", dns.MX): [rr("example.org", dns.Record_MX(10, "MX.example.org"))]},
        Answer(((10, "mx.example.org"),)),
    ),
    "null MX": ("example.org", "MX", {("example.org", dns.MX): [rr("example.org", dns.Record_MX(0, ""))]}, Answer(((0, ""),))),
    "TXT of several strings": (
        "example.org",
        "TXT",
        {("example.org", dns.TXT): [rr("example.org", dns.Record_TXT(b"v=spf1 ", b"-all"))]},
        Answer((b"v=spf1 -all",)),
    ),
    "PTR": (
        "1.2.0.192.in-addr.arpa",
        "PTR",
        {("1.2.0.192.in-addr.arpa", dns.PTR): [rr("1.2.0.192.in-addr.arpa", dns.Record_PTR("mx.example.org"))]},
        Answer(("mx.example.org",)),
    ),
    "CNAME": ("www.example.org", "CNAME", {("www.example.org", dns.CNAME): [ALIAS]}, Answer(("example.org",))),
    "alias, all in one response": ("www.example.org", "A", {("www.example.org", dns.A): [ALIAS, A]}, Answer((IPv4Address("192.0.2.1"),))),
    "alias, asked again": (
        "www.example.org",
        "A",
        {("www.example.org", dns.A): [ALIAS], ("example.org", dns.A): [A]},
        Answer((IPv4Address("192.0.2.1"),)),
    ),
    "alias to a name without such records": ("www.example.org", "MX", {("www.example.org", dns.MX): [ALIAS, soa()]}, Answer(())),
    "alias to nothing": (
        "www.example.org",
        "A",
        {("www.example.org", dns.A): [ALIAS], ("example.org", dns.A): nxdomain()},
        Answer((), False),
    ),
    "alias to nothing, all in one response": (
        "www.example.org",
        "A",
        {("www.example.org", dns.A): nxdomain(ALIAS, soa())},
        Answer((), False),
    ),
    "no such name": ("example.org", "A", {("example.org", dns.A): nxdomain()}, Answer((), False)),
    "no such records": ("example.org", "A", {}, Answer(())),
    "records of another name are not believed": (
        "example.org",
        "A",
        {("example.org", dns.A): [rr("evil.example", dns.Record_A("192.0.2.6"))]},
        Answer(()),
    ),
    "a name that cannot be asked": ("a..b", "A", {}, Answer((), False)),
    "a label that is too long": ("a" * 64 + ".example", "A", {}, Answer((), False)),
}


@pytest.mark.parametrize("case", TABLE)
def test_lookup(case: str) -> None:
    name, kind, answers, expected = TABLE[case]
    assert run(Resolver(Client(answers), Clock()).lookup(name, kind)) == expected


@pytest.mark.parametrize(
    "answer",
    [
        LookupFailed("the server failed"),
        OSError("no route"),
        [rr("example.org", dns.Record_CNAME("example.org"))],
    ],
    ids=["no answer", "network", "alias of itself"],
)
def test_try_later(answer: Any) -> None:
    with pytest.raises(LookupFailed, match=r"example\.org A: "):
        run(Resolver(Client({("example.org", dns.A): answer}), Clock()).lookup("example.org", "A"))


def test_an_endless_chain_of_questions() -> None:
    answers: Any = {(f"a{n}.example", dns.A): [rr(f"a{n}.example", dns.Record_CNAME(f"a{n + 1}.example"))] for n in range(99)}
    client = Client(answers)
    with pytest.raises(LookupFailed, match="too many aliases"):
        run(Resolver(client, Clock()).lookup("a0.example", "A"))
    assert len(client.asked) < 20


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [([A], 300), (nxdomain(soa(ttl=100, minimum=200)), 100), (nxdomain(), 60), ([soa(ttl=500, minimum=20)], 20)],
    ids=["positive", "no such name", "no such name, no SOA", "no such records"],
)
def test_answers_are_kept_for_their_time(answer: Any, seconds: int) -> None:
    clock, client = Clock(), Client({("example.org", dns.A): answer})
    resolver = Resolver(client, clock)
    first = run(resolver.lookup("example.org", "A"))
    clock.advance(seconds - 1)
    assert run(resolver.lookup("Example.org", "A")) == first
    assert len(client.asked) == 1
    clock.advance(2)
    run(resolver.lookup("example.org", "A"))
    assert len(client.asked) == 2


def test_failures_are_not_kept() -> None:
    client = Client({("example.org", dns.A): LookupFailed("no answer in time")})
    resolver = Resolver(client, Clock())
    for _ in range(2):
        with pytest.raises(LookupFailed):
            run(resolver.lookup("example.org", "A"))
    assert len(client.asked) == 2


def test_contract() -> None:
    assert verifyObject(IResolver, Resolver(Client({}), Clock()))
    with pytest.raises(ValueError, match="none of"):
        run(Resolver(Client({}), Clock()).lookup("example.org", "NS"))


def test_what_is_being_asked_is_not_asked_again() -> None:
    answer: Deferred[Any] = Deferred()
    client = Client({("example.org", dns.A): answer})
    resolver = Resolver(client, Clock())
    waiting = [Deferred.fromCoroutine(resolver.lookup(name, "A")) for name in ("example.org", "EXAMPLE.org", "example.org.")]
    heard: list[Any] = []
    for one in waiting:
        one.addBoth(heard.append)
    waiting[0].cancel()  # he who asked first goes: the others still get their answer
    assert resolver.condition()["in_flight"] == 1
    answer.callback([A])
    assert heard[0].check(CancelledError)
    assert heard[1:] == [Answer((IPv4Address("192.0.2.1"),))] * 2
    assert len(client.asked) == 1
    assert run(resolver.lookup("example.org", "A")) == heard[1]
    assert len(client.asked) == 1
    assert resolver.condition() == {"hits": 1, "misses": 1, "in_flight": 0, "kept": 1, "name_servers": {}}


def test_a_failure_is_everybodys() -> None:
    answer: Deferred[Any] = Deferred()
    resolver = Resolver(Client({("example.org", dns.A): answer}), Clock())
    waiting = [Deferred.fromCoroutine(resolver.lookup("example.org", "A")) for _ in range(2)]
    heard: list[Any] = []
    for one in waiting:
        one.addErrback(lambda failure: heard.append(failure.type))
    answer.callback(LookupFailed("no answer in time"))
    assert heard == [LookupFailed, LookupFailed]


def test_the_memory_for_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgw.dns.resolver._MOST_KEPT", 10)
    monkeypatch.setattr("mailgw.dns.resolver._MOST_OCTETS", 10_000)
    names = [f"a{number}.example" for number in range(100)]
    client = Client({(name, dns.A): [rr(name, dns.Record_A("192.0.2.1"))] for name in names})
    resolver = Resolver(client, Clock())
    for name in names:
        run(resolver.lookup(name, "A"))
    for name in names[-10:]:
        run(resolver.lookup(name, "A"))
    assert len(client.asked) == 100
    big = rr("big.example", dns.Record_TXT(*[b"x" * 250] * 100))
    client.answers["big.example", dns.TXT] = [big]
    run(resolver.lookup("big.example", "TXT"))
    run(resolver.lookup(names[-1], "A"))
    assert len(client.asked) == 102  # nothing else had room beside it
