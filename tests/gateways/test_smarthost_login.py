"""A smarthost that wants a login: each mechanism, over real TLS and in clear on loopback; refusals, tokens, kept connections."""

import json
import os
import ssl
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
import trustme
from houses import Loop
from OpenSSL import SSL
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IOpenSSLServerConnectionCreator
from twisted.logger import globalLogPublisher
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.web.resource import Resource
from twisted.web.server import Site
from zope.interface import implementer

from mailgw.gateways.access_token import OAuth
from mailgw.gateways.dialing import Dialer
from mailgw.gateways.smarthost import Smarthost
from mailgw.testing.facts import a_shipment
from mailgw.testing.logins import Logins
from mailgw.testing.mail_server import MailServer
from mailgw.testing.network import Network, SameThread
from mailgw.testing.server import Identity
from mailgw.testing.zone import zone
from mailgw.values.delivery import Fate, Outcome
from mailgw.values.secret import Secret

PASSWORD = "correct horse, battery=staple"
NAME = "ann@example.org"


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def trust(authority: trustme.CA, tmp_path: Path) -> Path:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return tmp_path / "ca.pem"


@implementer(IOpenSSLServerConnectionCreator)
class ServerTls:
    def __init__(self, authority: trustme.CA, newest: int = SSL.TLS1_3_VERSION, asks: bool = False) -> None:
        self.context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self.context.set_max_proto_version(newest)
        if asks:
            self.context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
        authority.issue_cert("mail.example").configure_cert(self.context)

    def serverConnectionForTLS(self, _: Any) -> SSL.Connection:  # noqa: N802
        return SSL.Connection(self.context, None)


def secret(folder: Path, text: str = PASSWORD, name: str = "password") -> Secret:
    (folder / name).write_text(f"{text}\n")
    return Secret(path=folder / name)


def smarthost(loop: Loop, port: int, **settings: Any) -> Smarthost:
    made = Smarthost(
        f"mail.example:{port}",
        **{"login": NAME, "tls": "require", **settings},
        dialer=Dialer(loop.reactor),
        resolver=zone({"mail.example": {"A": ["127.0.0.1"]}}),
        identity=Identity("us.example.com"),
        clock=loop.reactor,
        threads=SameThread(),
    )
    loop.gateways.append(made)
    return made


def deliver(loop: Loop, gateway: Smarthost) -> Outcome:
    (outcome,) = loop.run(gateway.deliver(a_shipment())).values()
    assert isinstance(outcome, Outcome)
    return outcome


MECHANISMS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_password_by(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path, mechanism: str, version: int) -> None:
    server = MailServer(tls=ServerTls(authority, version), logins=Logins({NAME: PASSWORD}, mechanisms=(mechanism,)))
    gateway = smarthost(loop, loop.listen(server), password=secret(tmp_path), trust=trust)
    for _ in range(2):
        assert deliver(loop, gateway).fate is Fate.DELIVERED
    assert server.logins is not None
    assert server.logins.used == [(mechanism, NAME)]  # once: the connection stays logged in
    assert len(server.taken) == 2


@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_a_wrong_password_by(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path, mechanism: str) -> None:
    server = MailServer(tls=ServerTls(authority), logins=Logins({NAME: "another"}, mechanisms=(mechanism,)))
    outcome = deliver(loop, smarthost(loop, loop.listen(server), password=secret(tmp_path), trust=trust))
    assert (outcome.fate, outcome.unreachable, outcome.reply.code, outcome.reply.enhanced) == (Fate.LATER, True, 454, "4.7.0")
    assert outcome.reply.text == f"login of {NAME} by {mechanism} failed: 535 5.7.8 wrong name or password"
    assert not any(line.startswith("MAIL") for line in server.heard)
    loop.until(lambda: server.heard[-1] == "QUIT")


def test_the_strongest_of_many_over_implicit_tls(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path) -> None:
    server = MailServer(logins=Logins({NAME: PASSWORD}))
    port = loop.listen(TLSMemoryBIOFactory(ServerTls(authority), False, server))
    assert deliver(loop, smarthost(loop, port, password=secret(tmp_path), trust=trust, tls="implicit")).fate is Fate.DELIVERED
    assert server.logins is not None
    assert server.logins.used == [("SCRAM-SHA-256-PLUS", NAME)]


def test_an_end_of_the_connection_in_the_middle_of_a_login(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path) -> None:
    for answer in ("drop", "421 4.3.2 closing"):
        server = MailServer({"AUTH": answer}, tls=ServerTls(authority), logins=Logins({NAME: PASSWORD}))
        outcome = deliver(loop, smarthost(loop, loop.listen(server), password=secret(tmp_path), trust=trust))
        assert (outcome.fate, outcome.unreachable, outcome.reply.code) == (Fate.LATER, True, 421)


# ── EXTERNAL ──


def certificate(authority: trustme.CA, folder: Path) -> tuple[Path, Secret]:
    issued = authority.issue_cert(NAME)
    issued.cert_chain_pems[0].write_to_path(str(folder / "own.pem"))
    issued.private_key_pem.write_to_path(str(folder / "own.key"))
    return folder / "own.pem", Secret(path=folder / "own.key")


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["TLS 1.2", "TLS 1.3"])
def test_a_certificate(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path, version: int) -> None:
    own, key = certificate(authority, tmp_path)
    server = MailServer(tls=ServerTls(authority, version, asks=True), logins=Logins(mechanisms=("PLAIN", "EXTERNAL")))
    gateway = smarthost(loop, loop.listen(server), certificate=own, key=key, trust=trust, login="")
    assert deliver(loop, gateway).fate is Fate.DELIVERED
    assert server.logins is not None
    assert server.logins.used == [("EXTERNAL", "")]


def test_a_new_certificate_is_used_without_a_restart(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path) -> None:
    own, key = certificate(authority, tmp_path)
    server = MailServer(tls=ServerTls(authority, asks=True), logins=Logins(mechanisms=("EXTERNAL",)))
    gateway = smarthost(loop, loop.listen(server), certificate=own, key=key, trust=trust, max_idle=0.0)
    shown = []
    for age in (1, 2):
        certificate(authority, tmp_path)
        os.utime(own, (age, age))
        assert deliver(loop, gateway).fate is Fate.DELIVERED
        shown.append(sha256(ssl.PEM_cert_to_DER_cert(own.read_text())).hexdigest())
    assert shown[0] != shown[1]
    assert server.logins is not None
    assert server.logins.certificates == shown


# ── In clear ──


def in_memory(network: Network, **settings: Any) -> Smarthost:
    return Smarthost(
        **{"address": "127.0.0.1", "login": NAME, "tls": "never", **settings},
        dialer=network,
        resolver=zone({}),
        identity=Identity("us.example.com"),
        clock=network.clock,
        threads=network.threads,
    )


@pytest.mark.parametrize(("offered", "used"), [(("PLAIN", "CRAM-MD5"), "CRAM-MD5"), (("PLAIN", "SCRAM-SHA-256"), "SCRAM-SHA-256")])
def test_loopback_in_clear_without_telling_the_password(tmp_path: Path, offered: tuple[str, ...], used: str) -> None:
    server = MailServer(logins=Logins({NAME: PASSWORD}, mechanisms=offered))
    network = Network({"127.0.0.1:25": server}, step=1)
    (outcome,) = network.run(in_memory(network, password=secret(tmp_path)).deliver(a_shipment())).values()
    assert outcome.fate is Fate.DELIVERED
    assert server.logins is not None
    assert server.logins.used == [(used, NAME)]


@pytest.mark.parametrize("offered", [("PLAIN", "LOGIN"), ()])
def test_no_password_in_clear(tmp_path: Path, offered: tuple[str, ...]) -> None:
    server = MailServer(logins=Logins({NAME: PASSWORD}, mechanisms=offered))
    network = Network({"127.0.0.1:25": server})
    (outcome,) = network.run(in_memory(network, password=secret(tmp_path)).deliver(a_shipment())).values()
    assert (outcome.fate, outcome.reply.code) == (Fate.LATER, 454)
    assert outcome.reply.text.startswith("cannot log in: ")
    assert not any(line.startswith(("AUTH", "MAIL")) for line in server.heard)
    assert network.open_connections == 0


def test_a_routes_own_next_hop_gets_nothing_in_clear(tmp_path: Path) -> None:
    network = Network({"192.0.2.1:25": MailServer(logins=Logins({NAME: PASSWORD}))})
    shipment = a_shipment(next_hop="192.0.2.1")
    (outcome,) = network.run(in_memory(network, password=secret(tmp_path)).deliver(shipment)).values()
    assert (outcome.fate, outcome.reply.text) == (
        Fate.LATER,
        'cannot log in at 192.0.2.1: the gateway does not say tls = "require"',
    )
    assert network.dialled == []


@pytest.mark.parametrize("code", ["530 5.7.0 Authentication required", "535 5.7.8 no", "550-5.7.1 x\r\n550 5.7.1 relaying denied"])
def test_a_server_that_wants_a_login_gets_no_mail_bounced(code: str) -> None:
    network = Network({"127.0.0.1:25": MailServer({"MAIL": code})})
    (outcome,) = network.run(in_memory(network, login="").deliver(a_shipment())).values()
    assert outcome.fate is (Fate.NEVER if code.startswith("550") else Fate.LATER)


def test_a_password_file_that_is_gone(tmp_path: Path) -> None:
    network = Network({"127.0.0.1:25": MailServer()})
    (outcome,) = network.run(in_memory(network, password=Secret(path=tmp_path / "none")).deliver(a_shipment())).values()
    assert (outcome.fate, outcome.reply.text) == (Fate.LATER, "cannot log in: the password cannot be read: No such file or directory")


# ── Settings ──

OAUTH = OAuth("https://token.example/", "mailgw", client_secret=Secret(variable="X"))
SECRET = Secret(variable="X")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"address": "mail.example", "tls": "offered", "password": SECRET}, 'needs tls = "require" or "implicit"'),
        ({"address": ["127.0.0.1", "192.0.2.1"], "tls": "never", "password": SECRET}, 'needs tls = "require" or "implicit"'),
        ({}, "needs a password, oauth or a certificate"),
        ({"password": SECRET, "oauth": OAUTH}, "leave one of them out"),
        ({"password": SECRET, "login": ""}, "say login"),
        ({"oauth": OAUTH, "login": ""}, "say login"),
        ({"certificate": Path("x")}, "belong together"),
        ({"key": SECRET, "password": SECRET}, "belong together"),
        ({"certificate": Path("x"), "key": SECRET}, "under verified TLS only"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        in_memory(Network({}), **settings)


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        in_memory(Network({}), certificate=tmp_path / "none", key=secret(tmp_path), tls="require")
    (tmp_path / "own.pem").write_text("nonsense")
    with pytest.raises(ValueError, match="no certificate with its key"):
        in_memory(Network({}), certificate=tmp_path / "own.pem", key=secret(tmp_path), tls="require")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"token_url": "http://token.example/"}, "must begin with https://"),
        ({"token_url": "token.example"}, "must begin with https://"),
        ({"client_secret": None}, "needs client_secret or refresh_token"),
        ({"keep": Path("x")}, "say refresh_token"),
    ],
)
def test_oauth_that_makes_no_sense(settings: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        OAuth(**{"token_url": "https://token.example/", "client_id": "x", "client_secret": SECRET, **settings})


# ── Access tokens ──


class TokenService(Resource):
    """Gives out tokens "token-1", "token-2", ...; or ``answer`` with ``status``."""

    isLeaf = True  # noqa: N815

    def __init__(self, logins: Logins) -> None:
        super().__init__()
        self.logins = logins
        self.asked: list[tuple[str | None, dict[str, list[str]]]] = []
        self.status, self.answer = 200, {"token_type": "Bearer", "expires_in": 3600}
        self.accepts = True  # whether what it gives out is good

    def render_POST(self, request: Any) -> bytes:  # noqa: N802
        self.asked.append((request.getHeader("Authorization"), parse_qs(request.content.read().decode())))
        request.setResponseCode(self.status)
        if self.status != 200:
            return json.dumps(self.answer).encode()
        token = f"token-{len(self.asked)}-secret"
        if self.accepts:
            self.logins.tokens.add(token)
        return json.dumps({"access_token": token, **self.answer}).encode()


class Provider:
    """A token service, and a smarthost that takes its tokens."""

    def __init__(self, loop: Loop, authority: trustme.CA, trust: Path, folder: Path, mechanism: str = "XOAUTH2") -> None:
        self.loop, self.folder = loop, folder
        self.logins = Logins(mechanisms=(mechanism,))
        self.tokens = TokenService(self.logins)
        site = Site(self.tokens, timeout=None)
        site.noisy = False
        site.log = lambda *_: None
        self.url = f"http://127.0.0.1:{loop.listen(site)}/token"
        self.server = MailServer(tls=ServerTls(authority), logins=self.logins)
        self.port = loop.listen(self.server)
        self.trust = trust

    def gateway(self, max_idle: float = 0.0, **oauth: Any) -> Smarthost:
        settings = {"client_id": "mail gw", "client_secret": secret(self.folder, "client:secret", "client")} | oauth
        return smarthost(self.loop, self.port, oauth=OAuth(self.url, **settings), trust=self.trust, max_idle=max_idle)


@pytest.fixture
def provider(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path) -> Provider:
    return Provider(loop, authority, trust, tmp_path)


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_a_token_is_fetched_once_and_kept(loop: Loop, authority: trustme.CA, trust: Path, tmp_path: Path, mechanism: str) -> None:
    provider = Provider(loop, authority, trust, tmp_path, mechanism)
    gateway = provider.gateway(scope="https://mail.example/")
    for _ in range(3):
        assert deliver(loop, gateway).fate is Fate.DELIVERED
    assert provider.logins.used == [(mechanism, NAME)] * 3
    [(authorization, form)] = provider.tokens.asked
    assert authorization == "Basic bWFpbCtndzpjbGllbnQlM0FzZWNyZXQ="  # "mail+gw:client%3Asecret"
    assert form == {"grant_type": ["client_credentials"], "scope": ["https://mail.example/"]}


def test_many_that_ask_at_once_cause_one_request(provider: Provider) -> None:
    gateway = provider.gateway()
    provider.loop.run(gatherResults([Deferred.fromCoroutine(gateway.deliver(a_shipment())) for _ in range(5)]))
    assert len(provider.tokens.asked) == 1
    assert len(provider.server.taken) == 5


def test_a_refused_token_is_replaced_at_once(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgw.gateways.access_token._FRESH", 0.0)  # as if it were an hour old
    gateway = provider.gateway()
    assert deliver(provider.loop, gateway).fate is Fate.DELIVERED
    provider.logins.tokens.clear()  # revoked
    assert deliver(provider.loop, gateway).fate is Fate.DELIVERED
    assert len(provider.tokens.asked) == 2
    assert len(provider.server.taken) == 2


def test_a_new_token_that_is_refused_is_said_clearly(provider: Provider) -> None:
    provider.tokens.accepts = False
    outcome = deliver(provider.loop, provider.gateway())
    assert (outcome.fate, outcome.unreachable) == (Fate.LATER, True)
    assert outcome.reply.text == f"login of {NAME} by XOAUTH2 failed: 535 5.7.8 wrong name or password (401)"
    assert len(provider.tokens.asked) == 1


def test_a_provider_that_refuses_is_said_clearly_and_not_asked_again_at_once(provider: Provider) -> None:
    provider.tokens.status = 400
    provider.tokens.answer = {"error": "invalid_client", "error_description": "AADSTS7000222: The client secret has expired.\n"}
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        gateway = provider.gateway()
        outcomes = [deliver(provider.loop, gateway) for _ in range(3)]
    finally:
        globalLogPublisher.removeObserver(events.append)
    said = "127.0.0.1 gives no access token: invalid_client: AADSTS7000222: The client secret has expired.? (HTTP status 400)"
    assert {(one.fate, one.reply.text) for one in outcomes} == {(Fate.LATER, f"cannot log in: {said}")}
    assert len(provider.tokens.asked) == 1
    assert [one["problem"] for one in events if one.get("log_namespace") == "mailgw.gateways"] == [said]
    assert "client:secret" not in repr(events)


@pytest.mark.parametrize(
    "answer",
    [{"access_token": ""}, {"access_token": 5}, {"token_type": "mac"}, {"access_token": "a\nb\0"}, {"access_token": None}],
    ids=["empty", "number", "another kind", "control characters", "none"],
)
def test_answers_that_are_no_token(provider: Provider, answer: Any) -> None:
    provider.tokens.answer = answer
    outcome = deliver(provider.loop, provider.gateway())
    assert (outcome.fate, outcome.reply.code) == (Fate.LATER, 454)
    assert "token" in outcome.reply.text


def test_a_token_service_that_is_down(provider: Provider) -> None:
    gateway = smarthost(
        provider.loop,
        provider.port,
        oauth=OAuth("http://127.0.0.1:1/token", "x", secret(provider.folder, "s")),
        trust=provider.trust,
    )
    outcome = deliver(provider.loop, gateway)
    assert outcome.fate is Fate.LATER
    assert outcome.reply.text.startswith("cannot log in: the token service cannot be asked: 127.0.0.1 cannot be reached")


def test_refresh_tokens_change_and_are_kept(provider: Provider, tmp_path: Path) -> None:
    keep = tmp_path / "refresh.kept"
    settings = {"client_secret": None, "refresh_token": secret(tmp_path, "refresh-0", "refresh"), "keep": keep}
    os.utime(tmp_path / "refresh", (1, 1))
    provider.tokens.answer = {"token_type": "bearer", "expires_in": "1", "refresh_token": "refresh-1"}
    gateway = provider.gateway(**settings)
    assert deliver(provider.loop, gateway).fate is Fate.DELIVERED
    assert (keep.read_text(), keep.stat().st_mode & 0o777) == ("refresh-1", 0o600)
    assert deliver(provider.loop, provider.gateway(**settings)).fate is Fate.DELIVERED  # after a restart
    secret(tmp_path, "refresh-9", "refresh")  # the administrator has got a new one
    assert deliver(provider.loop, provider.gateway(**settings)).fate is Fate.DELIVERED
    assert [form["refresh_token"] for _, form in provider.tokens.asked] == [["refresh-0"], ["refresh-1"], ["refresh-9"]]
    assert {form["client_id"][0] for _, form in provider.tokens.asked} == {"mail gw"}


def test_no_secret_is_in_any_log_or_outcome(provider: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mailgw.gateways.access_token._FRESH", 0.0)
    events: list[Any] = []
    globalLogPublisher.addObserver(events.append)
    try:
        provider.tokens.accepts = False
        outcome = deliver(provider.loop, provider.gateway())
    finally:
        globalLogPublisher.removeObserver(events.append)
    assert len(provider.tokens.asked) == 2
    for told in (repr(events), repr(outcome), repr(provider.loop.gateways)):
        for hidden in ("client:secret", "token-1", "token-2", "Bearer "):
            assert hidden not in told
