"""Where mail for a domain goes (RFC 5321 §5), as tables."""

from random import Random
from typing import Any

import pytest

from mailgw.gateways.mx import Mx, by_preference
from mailgw.interfaces import LookupFailed
from mailgw.testing.facts import a_shipment, an_envelope
from mailgw.testing.mail_server import MailServer
from mailgw.testing.network import Network
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone
from mailgw.values.delivery import Outcome, Shipment

HOSTS = {f"mx{n}.example.org": {"A": [f"192.0.2.{n}"]} for n in range(1, 9)}
US = {"us.example.com": {"A": ["192.0.2.99"]}}


def deliver(names: Any, servers: Any, to: str = "a@example.org", **settings: Any) -> tuple[Outcome, Network]:
    network = Network(servers)
    shipment: Shipment = settings.pop("shipment", a_shipment(to, next_hop=to.partition("@")[2]))
    gateway = Mx(
        **settings,
        dialer=network,
        resolver=zone({**HOSTS, **US, **names}),
        identity=Identity("us.example.com"),
        clock=network.clock,
        threads=network.threads,
    )
    (outcome,) = network.run(gateway.deliver(shipment)).values()
    return outcome, network


def mx(*records: tuple[int, str]) -> Any:
    return {"example.org": {"MX": records}}


REACHED: dict[str, tuple[Any, list[str]]] = {
    "by preference": (mx((20, "mx2.example.org"), (10, "mx1.example.org")), ["192.0.2.1:25", "192.0.2.2:25"]),
    "capitals and final dots": (mx((10, "MX1.Example.org.")), ["192.0.2.1:25"]),
    "implicit MX": ({"example.org": {"A": ["192.0.2.1"]}}, ["192.0.2.1:25"]),
    "implicit MX over IPv6": ({"example.org": {"AAAA": ["2001:db8::1"], "A": ["192.0.2.1"]}}, ["[2001:db8::1]:25", "192.0.2.1:25"]),
    "alias of the domain": (
        {"example.org": {"CNAME": ["other.example"]}, "other.example": {"MX": [(1, "mx1.example.org")]}},
        ["192.0.2.1:25"],
    ),
    "several addresses": (
        {**mx((10, "m.example.org")), "m.example.org": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"]}},
        ["[2001:db8::1]:25", "192.0.2.1:25", "192.0.2.2:25"],
    ),
    "we are third": (
        mx((10, "mx1.example.org"), (20, "us.example.com"), (20, "mx2.example.org"), (30, "mx3.example.org")),
        ["192.0.2.1:25"],
    ),
    "a host without addresses is passed over": (mx((10, "none.example.org"), (20, "mx2.example.org")), ["192.0.2.2:25"]),
    "a host that cannot be looked up is passed over": (
        {**mx((10, "broken.example"), (20, "mx2.example.org")), "broken.example": LookupFailed},
        ["192.0.2.2:25"],
    ),
    "a host given twice": (mx((10, "mx1.example.org"), (20, "mx1.example.org")), ["192.0.2.1:25"]),
    "an empty name among others": (mx((0, "."), (10, "mx1.example.org")), ["192.0.2.1:25"]),
    "addresses are bounded": (mx(*((n, f"mx{n}.example.org") for n in range(1, 9))), [f"192.0.2.{n}:25" for n in range(1, 5)]),
}


@pytest.mark.parametrize("name", REACHED)
def test_servers_in_order(name: str) -> None:
    names, dialled = REACHED[name]
    outcome, network = deliver(names, {}, max_addresses=4)
    assert network.dialled == dialled
    assert outcome.fate.value == "later"
    assert outcome.unreachable


NOWHERE: dict[str, tuple[Any, str]] = {
    "null MX": (mx((0, ".")), "never 556 5.1.10 the domain example.org takes no mail"),
    "no such domain": ({}, "never 550 5.1.2 the domain example.org does not exist"),
    "the DNS is silent": ({"example.org": LookupFailed}, "later 451 4.4.3 the DNS has no answer for example.org now: no answer"),
    "we are the best": (
        mx((10, "us.example.com"), (20, "mx1.example.org")),
        "never 554 5.4.6 mail for example.org loops back to us.example.com",
    ),
    "no host has an address": (mx((10, "none.example")), "never 550 5.4.4 none of the mail servers of example.org has an address"),
    "no host can be looked up": (
        {**mx((10, "none.example"), (20, "broken.example")), "broken.example": LookupFailed},
        "later 451 4.4.3 the DNS has no answer for example.org now: no answer",
    ),
    "neither MX nor address": ({"example.org": {"TXT": ["x"]}}, "never 550 5.4.4 example.org has neither mail servers nor an address"),
}


@pytest.mark.parametrize("name", NOWHERE)
def test_nowhere_to_go(name: str) -> None:
    names, expected = NOWHERE[name]
    network = Network({})
    known = {**US, "mx1.example": {"A": ["192.0.2.1"]}, **names}
    gateway = Mx(dialer=network, resolver=zone(known), identity=Identity("us.example.com"), clock=network.clock, threads=network.threads)
    (outcome,) = network.run(gateway.deliver(a_shipment("a@example.org", next_hop="example.org"))).values()
    assert f"{outcome.fate.value} {outcome.reply}" == expected
    assert network.dialled == []


def test_it_arrives() -> None:
    server = MailServer()
    outcome, _ = deliver(mx((10, "mx1.example.org"), (20, "mx2.example.org")), {"192.0.2.2:2525": server}, port=2525)
    assert (outcome.fate.value, outcome.peer) == ("delivered", "mx2.example.org (192.0.2.2)")
    assert len(server.taken) == 1


def test_who_said_what() -> None:
    outcome, _ = deliver(mx((10, "mx1.example.org")), {"192.0.2.1:25": MailServer({"RCPT": "550 5.1.1 unknown"})})
    assert (str(outcome.reply), outcome.peer) == ("550 5.1.1 unknown", "mx1.example.org (192.0.2.1)")
    outcome, _ = deliver(mx((10, "mx1.example.org")), {})
    assert outcome.reply.text.startswith("mx1.example.org (192.0.2.1) cannot be reached")


@pytest.mark.parametrize(
    ("domain", "where"), [("[192.0.2.7]", "192.0.2.7:25"), ("[IPv6:2001:db8::7]", "[2001:db8::7]:25")], ids=["IPv4", "IPv6"]
)
def test_address_literal(domain: str, where: str) -> None:
    outcome, network = deliver({}, {where: MailServer()}, to=f"a@{domain}")
    assert outcome.fate.value == "delivered"
    assert network.dialled == [where]


def test_requiretls_wants_authenticated_records() -> None:
    shipment = a_shipment("a@example.org", envelope=an_envelope(requiretls=True), next_hop="example.org")
    outcome, network = deliver(mx((10, "mx1.example.org")), {}, shipment=shipment)
    assert outcome.reply.enhanced == "5.7.30"
    assert network.dialled == []


def test_equals_come_in_random_order() -> None:
    records = [(10, "a"), (10, "b"), (10, "c"), (5, "first"), (20, "last")]
    orders = {tuple(by_preference(records, "us", Random(seed))) for seed in range(50)}
    assert len(orders) == 6
    assert all(order[0] == "first" and order[-1] == "last" for order in orders)
