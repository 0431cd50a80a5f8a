"""Next hops that hang, dawdle, break off or talk nonsense, at every stage: bounded time, bounded memory, the right outcome."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.internet.task import Clock
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from mailgw.gateways.dialing import Dialer
from mailgw.gateways.lmtp import Lmtp
from mailgw.gateways.mx import Mx
from mailgw.gateways.smarthost import Smarthost
from mailgw.interfaces import LookupFailed
from mailgw.testing.facts import a_shipment
from mailgw.testing.mail_server import BROKEN, DROP, SILENCE, Endless, MailServer
from mailgw.testing.network import Network, SameThread
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Outcome

reactor: Any = _reactor
ONE, TWO = "192.0.2.1:25", "192.0.2.2:25"
PIPELINING = ("PIPELINING", "8BITMIME")
ONE_BY_ONE = ("8BITMIME",)


def given(network: Network, names: Any = None) -> dict[str, Any]:
    us = Identity("us.example.com")
    return {"dialer": network, "resolver": zone(names or {}), "identity": us, "clock": network.clock, "threads": network.threads}


def the(outcomes: Any) -> Outcome:
    (outcome,) = outcomes.values()
    assert isinstance(outcome, Outcome)
    return outcome


def begin(server: Any, kind: Any = Smarthost, shipment: Any = None, **settings: Any) -> tuple[Network, "Deferred[Any]"]:
    network = Network({ONE: server, "192.0.2.1:24": server})
    return network, network.start(kind("192.0.2.1", **settings, **given(network)).deliver(shipment or a_shipment()))


def drip(network: Network, server: MailServer, seconds: float, each: float, octet: bytes = b"2") -> None:
    """Let time pass; the server says an octet now and then."""
    for _ in range(int(seconds / each)):
        for session in server.sessions:
            session.transport.write(octet)
        network.pump()
        network.clock.advance(each)
        network.pump()


# ── Silence ──

# stage: what the server does, seconds it may take (RFC 5321 §4.5.3.2), the outcome, whether the server as a whole is down
HANGS: dict[str, tuple[dict[str, Any], float, str, bool]] = {
    "greeting": ({"greeting": SILENCE}, 300, "later 451 4.4.2 time-out while waiting for greeting", True),
    "EHLO": ({"EHLO": SILENCE}, 300, "later 451 4.4.2 time-out while waiting for ehlo", True),
    "HELO": ({"EHLO": "500 5.5.1 what", "HELO": SILENCE}, 300, "later 451 4.4.2 time-out while waiting for helo", True),
    "MAIL": ({"MAIL": SILENCE}, 300, "later 421 4.4.2 time-out while waiting for mail", True),
    "RCPT": ({"RCPT": SILENCE}, 300, "later 421 4.4.2 time-out while waiting for rcpt", False),
    "DATA": ({"DATA": SILENCE}, 120, "later 421 4.4.2 time-out while waiting for data", False),
    "the final dot": ({".": SILENCE}, 600, "unknown 451 4.4.2 time-out while waiting for dot", False),
}


@pytest.mark.parametrize("dripping", [False, True], ids=["silent", "an octet a minute"])
@pytest.mark.parametrize("offers", [PIPELINING, ONE_BY_ONE], ids=["pipelining", "one by one"])
@pytest.mark.parametrize("stage", HANGS)
def test_hangs_at(stage: str, offers: tuple[str, ...], dripping: bool) -> None:
    replies, seconds, expected, is_down = HANGS[stage]
    server = MailServer(replies, offers=offers)
    network, delivery = begin(server)
    if dripping:
        drip(network, server, seconds - 60, 60)
        network.clock.advance(59)
    else:
        network.clock.advance(seconds - 1)
    assert not delivery.called
    network.clock.advance(2)
    outcome = the(network.result(delivery))
    assert f"{outcome.fate.value} {outcome.reply}" == expected
    assert outcome.unreachable is is_down
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_hangs_at_connect() -> None:
    network, delivery = begin(Deferred(), connect_timeout=20.0)
    network.clock.advance(19)
    assert not delivery.called
    network.clock.advance(2)
    outcome = the(network.result(delivery))
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert "192.0.2.1 cannot be reached" in outcome.reply.text


def test_hangs_among_the_replies_of_lmtp() -> None:
    server = MailServer({". b@example.org": SILENCE, ". c@example.org": SILENCE}, lmtp=True)
    network, delivery = begin(server, Lmtp, a_shipment("a@example.org", "b@example.org", "c@example.org"))
    network.clock.advance(599)
    assert not delivery.called
    network.clock.advance(2)
    outcomes = network.result(delivery)
    assert [outcome.fate.value for outcome in outcomes.values()] == ["delivered", "unknown", "unknown"]
    assert network.open_connections == 0


def test_hangs_at_quit() -> None:
    server = MailServer({"QUIT": SILENCE})
    network, delivery = begin(server, max_idle=5.0)
    assert the(network.result(delivery)).fate is Fate.DELIVERED
    network.clock.advance(6)
    network.pump()
    assert server.heard[-1] == "QUIT"
    drip(network, server, 12, 3)
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_a_kept_connection_that_hangs_is_replaced() -> None:
    server = MailServer({"MAIL": ["250 ok", SILENCE, "250 ok"]})
    network = Network({ONE: server})
    gateway = Smarthost("192.0.2.1", max_idle=3600.0, **given(network))
    network.run(gateway.deliver(a_shipment()))
    delivery = network.start(gateway.deliver(a_shipment()))
    network.clock.advance(301)
    assert the(network.result(delivery)).fate is Fate.DELIVERED
    assert network.dialled == [ONE, ONE]


def test_a_server_that_hangs_does_not_keep_the_next_one_from_the_mail() -> None:
    second = MailServer()
    network = Network({ONE: MailServer({"RCPT": SILENCE}), TWO: second})
    delivery = network.start(Smarthost(["192.0.2.1", "192.0.2.2"], **given(network)).deliver(a_shipment()))
    network.clock.advance(301)
    assert the(network.result(delivery)).fate is Fate.DELIVERED
    assert len(second.taken) == 1


@pytest.mark.parametrize("where", ["memory", "file"])
def test_the_server_reads_no_content(tmp_path: Path, where: str) -> None:
    original = b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000
    (tmp_path / "m").write_bytes(original)
    content = Content.of(original) if where == "memory" else Content(tmp_path / "m", len(original))
    server = MailServer({"content": SILENCE})
    network, delivery = begin(server, shipment=a_shipment(content=content))
    drip(network, server, 601, 50)  # what it says meanwhile is no progress
    outcome = the(network.result(delivery))
    assert outcome.fate in (Fate.LATER, Fate.UNKNOWN)
    assert "time-out while waiting for" in outcome.reply.text
    assert network.open_connections == 0


# ── One limit for all of it ──


def test_replies_that_come_just_in_time_do_not_hold_an_attempt_for_ever() -> None:
    recipients = [f"r{number}@example.org" for number in range(30)]
    server = MailServer({"RCPT": SILENCE}, offers=ONE_BY_ONE)
    network, delivery = begin(server, shipment=a_shipment(*recipients))
    passed = 0
    while not delivery.called:
        network.clock.advance(290)
        passed += 290
        assert passed < 3300
        if not delivery.called:
            server.sessions[0].transport.write(b"250 2.1.5 ok\r\n")
        network.pump()
    outcomes = network.result(delivery)
    assert passed >= 3000
    assert {outcome.fate for outcome in outcomes.values()} == {Fate.LATER}
    assert {outcome.reply.text for outcome in outcomes.values()} == {"the time for the whole attempt is up while waiting for rcpt"}
    assert network.clock.getDelayedCalls() == []


def test_several_servers_share_the_limit() -> None:
    servers = {f"192.0.2.{number}:25": MailServer({"greeting": SILENCE}) for number in range(1, 6)}
    network = Network(servers)
    gateway = Smarthost([f"192.0.2.{number}" for number in range(1, 6)], attempt_timeout=700.0, **given(network))
    delivery = network.start(gateway.deliver(a_shipment()))
    for _ in range(14):
        network.clock.advance(50)
        network.pump()
    outcome = the(network.result(delivery))
    assert len(network.dialled) == 3
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert outcome.reply.text == "the time for the whole attempt is up while waiting for greeting"
    assert network.open_connections == 0


def test_the_limit_is_for_each_attempt_not_for_the_connection() -> None:
    network = Network({ONE: MailServer()})
    gateway = Smarthost("192.0.2.1", attempt_timeout=100.0, max_idle=1000.0, **given(network))
    for _ in range(5):
        assert the(network.run(gateway.deliver(a_shipment()))).fate is Fate.DELIVERED
        network.clock.advance(90)
    assert network.dialled == [ONE]


def test_an_unknown_outcome_stays_unknown_where_the_whole_time_is_up() -> None:
    network, delivery = begin(MailServer({".": SILENCE}), attempt_timeout=60.0)
    network.clock.advance(61)
    assert the(network.result(delivery)).fate is Fate.UNKNOWN


# ── Broken off ──


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize(
    ("said", "expected"),
    [(DROP, "connection lost"), ("421 4.3.2 shutting down", "shutting down"), ("554 5.7.1 no more", "no more")],
    ids=["lost", "421", "554"],
)
def test_breaks_off_in_the_content(tmp_path: Path, where: str, said: str, expected: str) -> None:
    original = b"Subject: x\r\n\r\n" + b"line\r\n" * 100_000
    (tmp_path / "m").write_bytes(original)
    content = Content.of(original) if where == "memory" else Content(tmp_path / "m", len(original))
    server = MailServer({"content": said})
    network, delivery = begin(server, shipment=a_shipment(content=content))
    outcome = the(network.result(delivery))
    assert expected in outcome.reply.text
    assert outcome.fate in ((Fate.NEVER,) if said.startswith("5") else (Fate.LATER, Fate.UNKNOWN))
    if where == "file":
        assert outcome.fate is not Fate.UNKNOWN  # the end was not said yet
    assert server.taken == []
    drip(network, server, 60, 10)
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


# ── Nonsense ──

STAGES = ("greeting", "EHLO", "MAIL", "RCPT", "DATA", ".")
NONSENSE: dict[str, Any] = {
    "no SMTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "NUL octets": b"\0" * 5000,
    "bare LF": b"250 ok\n",
    "another kind of answer": "350 tell me more",
    "10 MB in a line": b"250 " + b"x" * 10_000_000 + b"\r\n",
    "10 MB in lines": b"250-ok\r\n" * 1_250_000 + b"250 ok\r\n",
    "an endless line": Endless(b"250 "),
    "endless lines": Endless(b"250-ok\r\n"),
    "endless answers": Endless(b"250 ok\r\n"),
    "endless refusals": Endless(b"450 no\r\n"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_answers_nonsense(stage: str, nonsense: str) -> None:
    server = MailServer({stage: NONSENSE[nonsense]}, offers=ONE_BY_ONE)
    network, delivery = begin(server, max_idle=5.0)
    outcome = the(network.result(delivery))
    assert outcome.fate in (Fate.LATER, Fate.UNKNOWN) or (nonsense == "endless answers" and stage == ".")
    assert len(outcome.reply.text) <= 2000
    network.clock.advance(6)
    network.clock.advance(11)
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_long_answers_are_cut() -> None:
    text = b"".join(b"550-5.1.1 " + b"x" * 1000 + b"\r\n" for _ in range(50)) + b"550 5.1.1 end\r\n"
    network, delivery = begin(MailServer({"RCPT": text}))
    outcome = the(network.result(delivery))
    assert (outcome.fate, outcome.reply.enhanced, len(outcome.reply.text)) == (Fate.NEVER, "5.1.1", 2000)


# ── Over real sockets: TLS, and more than fits into them ──


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    def __init__(self, authority: trustme.CA, *names: str, method: int = SSL.TLS_SERVER_METHOD, **more: Any) -> None:
        self.context = SSL.Context(method)
        authority.issue_cert(*names, **more).configure_cert(self.context)

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:  # noqa: N802
        return SSL.Connection(self.context, None)


class Loopback:
    """Servers on the loopback interface, gateways whose clock is turned by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.ports: list[Any] = []
        self.gateways: list[Any] = []
        self.servers: list[MailServer] = []

    def listen(self, factory: Any) -> str:
        self.servers.append(getattr(factory, "wrappedFactory", factory))
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.ports.append(port)
        return f"mail.example:{port.getHost().port}"

    def start(self, where: str, shipment: Any = None, **settings: Any) -> list[Any]:
        gateway = Smarthost(
            where,
            **settings,
            dialer=Dialer(reactor),
            resolver=zone({"mail.example": {"A": ["127.0.0.1"]}}),
            identity=Identity("us.example.com"),
            clock=self.clock,
            threads=SameThread(),
        )
        self.gateways.append(gateway)
        results: list[Any] = []
        Deferred.fromCoroutine(gateway.deliver(shipment or a_shipment())).addBoth(results.append)
        return results

    def deliver(self, where: str, shipment: Any = None, **settings: Any) -> Outcome:
        results = self.start(where, shipment, **settings)
        self.turn_until(lambda: bool(results))
        return the(results[0])

    def turn_until(self, done: Callable[[], bool]) -> None:
        end = monotonic() + 60  # only reached by a fault
        while not done():
            assert monotonic() < end, "it does not come to an end"
            reactor.iterate(0.01)


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    loopback = Loopback()
    yield loopback
    for gateway in loopback.gateways:
        gateway.close()
    for port in loopback.ports:
        port.stopListening()
    for server in loopback.servers:
        for session in server.sessions:
            if session.transport.connected:
                session.transport.abortConnection()  # those that do not read would never see the end
    loopback.clock.advance(11)
    loopback.turn_until(lambda: not reactor.getReaders()[1:] and not reactor.getDelayedCalls())


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def old_tls(authority: trustme.CA) -> ServerTls:
    tls = ServerTls(authority, "mail.example")
    tls.context.set_options(SSL.OP_NO_TLSv1_2 | SSL.OP_NO_TLSv1_3)
    tls.context.set_cipher_list(b"ALL:@SECLEVEL=0")
    return tls


BROKEN_TLS: dict[str, Callable[[trustme.CA], Any]] = {
    "speaks no TLS": lambda _: BROKEN,
    "closes in the handshake": lambda _: DROP,
    "knows TLS 1.1 at most": old_tls,
}


@pytest.mark.parametrize("how", BROKEN_TLS)
def test_broken_tls(loopback: Loopback, authority: trustme.CA, trust: Path, how: str) -> None:
    tls = BROKEN_TLS[how](authority)
    server = MailServer(tls=tls)
    where = loopback.listen(server)
    outcome = loopback.deliver(where, tls="require", trust=trust)
    assert (outcome.fate, outcome.reply.enhanced, outcome.unreachable) == (Fate.LATER, "4.7.5", True)
    assert "TLS" in outcome.reply.text
    assert server.taken == []
    assert len(server.sessions) == 1
    assert loopback.deliver(where, tls="offered").fate is Fate.DELIVERED
    assert [session.in_tls for session in server.sessions[1:]][-1] is False
    assert len(server.sessions) == 3  # in clear on a new connection


@pytest.mark.parametrize("mode", ["offered", "require", "implicit"])
def test_hangs_in_the_handshake(loopback: Loopback, trust: Path, mode: str) -> None:
    server = MailServer({"greeting": SILENCE} if mode == "implicit" else {}, tls=SILENCE)
    results = loopback.start(loopback.listen(server), tls=mode, trust=trust)
    loopback.turn_until(lambda: bool(server.sessions) and (mode == "implicit" or server.heard[-1:] == ["STARTTLS"]))
    for _ in range(20):
        reactor.iterate(0.001)
    loopback.clock.advance(59)
    reactor.iterate(0.001)
    assert results == []
    loopback.clock.advance(2)
    loopback.turn_until(lambda: bool(results))
    outcome = the(results[0])
    if mode == "offered":
        assert outcome.fate is Fate.DELIVERED
    else:
        assert f"{outcome.fate.value} {outcome.reply}" == "later 451 4.7.5 time-out while waiting for TLS"
        assert outcome.unreachable


CERTIFICATES: dict[str, tuple[dict[str, Any], str]] = {
    "expired": ({"not_after": "2020-01-01"}, "its certificate has expired, or nobody whom we trust has signed it"),
    "another name": ({"name": "other.example"}, "its certificate is for another name"),
    "unknown authority": ({"authority": True}, "its certificate has expired, or nobody whom we trust has signed it"),
}


@pytest.mark.parametrize("mode", ["require", "implicit"])
@pytest.mark.parametrize("wrong", CERTIFICATES)
def test_a_wrong_certificate_is_named(loopback: Loopback, authority: trustme.CA, trust: Path, mode: str, wrong: str) -> None:
    how, words = CERTIFICATES[wrong]
    more = {"not_after": datetime.fromisoformat(how["not_after"])} if "not_after" in how else {}
    tls = ServerTls(trustme.CA() if "authority" in how else authority, how.get("name", "mail.example"), **more)
    server = MailServer(tls=None if mode == "implicit" else tls)
    factory = TLSMemoryBIOFactory(tls, False, server) if mode == "implicit" else server
    outcome = loopback.deliver(loopback.listen(factory), tls=mode, trust=trust)
    assert (outcome.fate, outcome.reply.enhanced, outcome.unreachable) == (Fate.LATER, "4.7.5", True)
    assert outcome.reply.text == f"TLS handshake failed: {words}"
    assert server.taken == []


@pytest.mark.parametrize("where", ["memory", "file"])
def test_a_socket_that_is_full_for_ever(loopback: Loopback, tmp_path: Path, where: str) -> None:
    original = b"Subject: x\r\n\r\n" + b"line\r\n" * 3_000_000
    (tmp_path / "m").write_bytes(original)
    content = Content.of(original) if where == "memory" else Content(tmp_path / "m", len(original))
    server = MailServer({"content": SILENCE})
    results = loopback.start(loopback.listen(server), a_shipment(content=content), tls="never")
    loopback.turn_until(lambda: server.heard[-1:] == ["DATA"])
    for _ in range(50):
        reactor.iterate(0.001)
    loopback.clock.advance(601 if where == "memory" else 181)
    loopback.turn_until(lambda: bool(results))
    assert the(results[0]).fate is (Fate.UNKNOWN if where == "memory" else Fate.LATER)


def test_a_flood_under_tls_after_our_good_bye_is_not_kept(loopback: Loopback, authority: trustme.CA, trust: Path) -> None:
    server = MailServer({"QUIT": Endless(b"x" * 1000)}, tls=ServerTls(authority, "mail.example"))
    outcome = loopback.deliver(loopback.listen(server), tls="require", trust=trust, max_idle=1.0)
    assert outcome.fate is Fate.DELIVERED
    loopback.clock.advance(2)
    loopback.turn_until(lambda: server.heard[-1:] == ["QUIT"])
    loopback.turn_until(lambda: not reactor.getReaders()[2:])  # our port and the waker are left


# ── No DNS ──


def test_without_dns_everything_waits_as_a_whole_destination() -> None:
    network = Network({})
    gateway = Mx(**given(network, {"example.org": LookupFailed("no answer in time")}))
    outcomes = network.run(gateway.deliver(a_shipment("a@example.org", "b@example.org", next_hop="example.org")))
    assert {(one.fate, one.unreachable, one.reply.enhanced) for one in outcomes.values()} == {(Fate.LATER, True, "4.4.3")}
    assert network.dialled == []
