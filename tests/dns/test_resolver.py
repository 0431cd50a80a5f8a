"""What the DNS says, and what we make of it."""

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.task import Clock
from twisted.names import dns
from twisted.names.error import DNSNameError, DNSQueryRefusedError, DNSServerError
from zope.interface.verify import verifyObject

from mailgw.dns.resolver import Resolver
from mailgw.interfaces import Answer, IResolver, LookupFailed
from mailgw.testing.running import run


class Client:
    """A twisted.names resolver with an answer for each (name, type)."""

    def __init__(self, answers: dict[tuple[str, int], Any]) -> None:
        self.answers = answers
        self.asked: list[tuple[str, int]] = []

    def query(self, query: dns.Query) -> Deferred[Any]:
        key = (query.name.name.decode(), query.type)
        self.asked.append(key)
        answer = self.answers.get(key, [])
        if isinstance(answer, Exception):
            return fail(answer)
        authority = [r for r in answer if r.type == dns.SOA]
        return succeed(([r for r in answer if r.type != dns.SOA], authority, []))


def rr(name: str, payload: Any, ttl: int = 300) -> dns.RRHeader:
    return dns.RRHeader(name, payload.TYPE, dns.IN, ttl, payload)


def soa(ttl: int = 300, minimum: int = 300) -> dns.RRHeader:
    return rr("example.org", dns.Record_SOA("ns.example.org", "root.example.org", minimum=minimum, ttl=ttl), ttl)


def nxdomain(*authority: dns.RRHeader) -> DNSNameError:
    message = dns.Message()
    message.authority = list(authority)
    return DNSNameError(message)


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
        DNSServerError(dns.Message()),
        DNSQueryRefusedError(dns.Message()),
        DeferredTimeout(),
        OSError("no route"),
        [rr("example.org", dns.Record_CNAME("example.org"))],
    ],
    ids=["SERVFAIL", "REFUSED", "time-out", "network", "alias of itself"],
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
    client = Client({("example.org", dns.A): DeferredTimeout()})
    resolver = Resolver(client, Clock())
    for _ in range(2):
        with pytest.raises(LookupFailed):
            run(resolver.lookup("example.org", "A"))
    assert len(client.asked) == 2


def test_contract() -> None:
    assert verifyObject(IResolver, Resolver(Client({}), Clock()))
    with pytest.raises(ValueError, match="none of"):
        run(Resolver(Client({}), Clock()).lookup("example.org", "NS"))
