"""Real sockets on the loopback interface: dialling, STARTTLS, implicit TLS, certificates."""

import socket
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet import reactor as _reactor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from mailgw.gateways.dialing import Dialer, split_address
from mailgw.gateways.lmtp import Lmtp
from mailgw.gateways.smarthost import Smarthost
from mailgw.testing.facts import a_shipment, an_address, an_envelope
from mailgw.testing.mail_server import BROKEN, MailServer
from mailgw.testing.network import SameThread
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone
from mailgw.values.content import Content
from mailgw.values.delivery import Outcome

reactor: Any = _reactor
LIMIT = 60.0  # seconds, only reached by a fault


def finish(coroutine: Any) -> Any:
    """Run with the real reactor, turned by hand."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    turn_until(lambda: results)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


def turn_until(done: Any) -> None:
    end = monotonic() + LIMIT
    while not done():
        assert monotonic() < end, "it does not come to an end"
        reactor.iterate(0.01)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def context(authority: trustme.CA, *names: str) -> Any:
    return ServerTls(authority, *names)


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    def __init__(self, authority: trustme.CA, *names: str) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        authority.issue_cert(*names).configure_cert(self.context)

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:  # noqa: N802
        return SSL.Connection(self.context, None)


class Loopback:
    """Servers on ports of their own, and what gateways are given."""

    def __init__(self) -> None:
        self.ports: list[Any] = []
        self.gateways: list[Any] = []

    def listen(self, factory: Any, interface: str = "127.0.0.1") -> int:
        port = reactor.listenTCP(0, factory, interface=interface)
        self.ports.append(port)
        return int(port.getHost().port)

    def gateway(self, kind: Any, address: Any, **settings: Any) -> Any:
        names = {"mail.example": {"A": ["127.0.0.1"]}, "other.example": {"A": ["127.0.0.1"]}}
        gateway = kind(
            address,
            **settings,
            dialer=Dialer(reactor),
            resolver=zone(names),
            identity=Identity("us.example.com"),
            clock=reactor,
            threads=SameThread(),
        )
        self.gateways.append(gateway)
        return gateway

    def deliver(self, kind: Any, address: Any, shipment: Any = None, **settings: Any) -> Outcome:
        gateway = self.gateway(kind, address, **settings)
        (outcome,) = finish(gateway.deliver(shipment or a_shipment())).values()
        assert isinstance(outcome, Outcome)
        return outcome


@pytest.fixture
def loopback() -> Iterator[Loopback]:
    loopback = Loopback()
    yield loopback
    for gateway in loopback.gateways:
        gateway.close()
    closed = [port.stopListening() for port in loopback.ports]
    turn_until(lambda: all(d is None or d.called for d in closed) and not reactor.getReaders()[1:] and not reactor.getDelayedCalls())


def test_the_loopback_in_many_spellings(loopback: Loopback, tmp_path: Path) -> None:
    server = MailServer()
    port = loopback.listen(server)
    for host in ("127.0.0.1", "mail.example"):
        assert loopback.deliver(Smarthost, f"{host}:{port}").fate.value == "delivered"
    if socket.has_ipv6:
        port = loopback.listen(server, "::1")
        assert loopback.deliver(Smarthost, f"[::1]:{port}").fate.value == "delivered"
    mailbox = MailServer(lmtp=True)
    loopback.ports.append(reactor.listenUNIX(str(tmp_path / "lmtp"), mailbox))
    assert loopback.deliver(Lmtp, f"unix:{tmp_path}/lmtp").fate.value == "delivered"
    assert len(mailbox.taken) == 1


def test_nobody_there(loopback: Loopback, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        outcome = loopback.deliver(Smarthost, f"127.0.0.1:{port}")
    assert (outcome.fate.value, outcome.unreachable) == ("later", True)
    assert "refused" in outcome.reply.text
    assert loopback.deliver(Lmtp, f"unix:{tmp_path}/none").unreachable


def test_two_messages_and_a_question_over_one_connection(loopback: Loopback) -> None:
    server = MailServer()
    gateway = loopback.gateway(Smarthost, f"127.0.0.1:{loopback.listen(server)}")
    for _ in range(2):
        finish(gateway.deliver(a_shipment()))
    assert len(server.sessions) == 1
    assert finish(gateway.ask(an_address("recipient@example.org"))).fate.value == "delivered"
    assert len(server.sessions) == 1


@pytest.mark.parametrize("tls", ["never", "offered", "require", "implicit"])
def test_a_big_message_over(loopback: Loopback, authority: trustme.CA, trust: Path, tmp_path: Path, tls: str) -> None:
    original = b"Subject: x\r\n\r\n" + b".dots and dots\r\n" * 200_000
    (tmp_path / "m").write_bytes(original)
    certificate = context(authority, "mail.example")
    server = MailServer(tls=None if tls == "implicit" else certificate)
    factory = TLSMemoryBIOFactory(certificate, False, server) if tls == "implicit" else server
    shipment = a_shipment(content=Content(tmp_path / "m", len(original)))
    outcome = loopback.deliver(Smarthost, f"mail.example:{loopback.listen(factory)}", shipment, tls=tls, trust=trust)
    assert outcome.fate.value == "delivered"
    assert server.taken[0].content == original
    assert server.sessions[0].in_tls == (tls in ("offered", "require"))
    assert server.heard.count("EHLO us.example.com") == (2 if tls in ("offered", "require") else 1)


WRONG = {
    "another name": ("mail.example", True),
    "an unknown authority": ("other.example", False),
}


@pytest.mark.parametrize("tls", ["require", "implicit"])
@pytest.mark.parametrize("name", WRONG)
def test_a_certificate_that_does_not_fit(loopback: Loopback, authority: trustme.CA, trust: Path, tls: str, name: str) -> None:
    issued_to, trusted = WRONG[name]
    certificate = context(authority if trusted else trustme.CA(), issued_to)
    server = MailServer(tls=None if tls == "implicit" else certificate)
    factory = TLSMemoryBIOFactory(certificate, False, server) if tls == "implicit" else server
    outcome = loopback.deliver(Smarthost, f"other.example:{loopback.listen(factory)}", tls=tls, trust=trust)
    assert (outcome.fate.value, outcome.reply.enhanced, outcome.unreachable) == ("later", "4.7.5", True)
    assert server.taken == []
    assert not any(line.startswith("MAIL") for line in server.heard)


def test_offered_takes_any_certificate(loopback: Loopback) -> None:
    server = MailServer(tls=context(trustme.CA(), "elsewhere.example"))
    assert loopback.deliver(Smarthost, f"other.example:{loopback.listen(server)}", tls="offered").fate.value == "delivered"
    assert server.sessions[0].in_tls


def test_offered_falls_back_to_clear_on_a_new_connection(loopback: Loopback) -> None:
    server = MailServer(tls=BROKEN)
    outcome = loopback.deliver(Smarthost, f"127.0.0.1:{loopback.listen(server)}", tls="offered")
    assert outcome.fate.value == "delivered"
    assert len(server.sessions) == 2
    assert server.heard.count("STARTTLS") == 1


def test_required_does_not_fall_back(loopback: Loopback) -> None:
    server = MailServer(tls=BROKEN)
    outcome = loopback.deliver(Smarthost, f"127.0.0.1:{loopback.listen(server)}", tls="require")
    assert (outcome.fate.value, outcome.reply.enhanced) == ("later", "4.7.5")
    assert len(server.sessions) == 1


def test_starttls_refused(loopback: Loopback, authority: trustme.CA) -> None:
    for tls, fate in (("offered", "delivered"), ("require", "later")):
        server = MailServer({"STARTTLS": "454 4.7.0 not now"}, tls=context(authority, "mail.example"))
        assert loopback.deliver(Smarthost, f"mail.example:{loopback.listen(server)}", tls=tls).fate.value == fate


def test_requiretls_is_kept_even_where_tls_is_only_offered(loopback: Loopback, authority: trustme.CA, trust: Path) -> None:
    shipment = a_shipment(envelope=an_envelope(requiretls=True))
    good = MailServer(tls=context(authority, "mail.example"), offers=("PIPELINING", "REQUIRETLS"))
    assert loopback.deliver(Smarthost, f"mail.example:{loopback.listen(good)}", shipment, trust=trust).fate.value == "delivered"
    assert good.taken[0].mail.endswith(" REQUIRETLS")
    silent = MailServer(tls=context(authority, "mail.example"))
    outcome = loopback.deliver(Smarthost, f"mail.example:{loopback.listen(silent)}", shipment, trust=trust)
    assert (outcome.fate.value, outcome.reply.enhanced) == ("never", "5.7.30")
    unknown = MailServer(tls=context(trustme.CA(), "mail.example"), offers=("REQUIRETLS",))
    assert loopback.deliver(Smarthost, f"mail.example:{loopback.listen(unknown)}", shipment, trust=trust).fate.value == "later"
    assert unknown.taken == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [(None, "No such file or directory"), ("", "holds no certificate"), ("-----END CERTIFICATE-----", "cannot be read")],
    ids=["missing", "empty", "nonsense"],
)
def test_a_trust_file_that_cannot_be_used_is_found_at_the_start(tmp_path: Path, text: str | None, reason: str) -> None:
    if text is not None:
        (tmp_path / "ca.pem").write_text(text)
    with pytest.raises(ValueError, match=f"trust: .*{reason}"):
        Smarthost("mail.example", trust=tmp_path / "ca.pem", dialer=None, resolver=None, identity=None, clock=None, threads=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mail.example", ("mail.example", 25)),
        ("mail.example:587", ("mail.example", 587)),
        ("192.0.2.1:24", ("192.0.2.1", 24)),
        ("[::1]", ("::1", 25)),
        ("[::1]:24", ("::1", 24)),
        ("2001:db8::1", ("2001:db8::1", 25)),
    ],
)
def test_split_address(text: str, expected: tuple[str, int]) -> None:
    assert split_address(text, 25) == expected
