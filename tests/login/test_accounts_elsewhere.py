"""A real Dovecot and a real OpenLDAP as back ends: yes, no, down, up again; TLS."""

import pytest
import trustme
from neighbours_who_know import DovecotAuth, Loop, OpenLdap
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, ISaslDialogue
from mailgw.gateways.dialing import Dialer
from mailgw.login.dovecot import Dovecot
from mailgw.login.ldap import Ldap
from mailgw.smtp.sasl_client import Proof, choose
from mailgw.testing.ports import free_port
from mailgw.values.secret import Secret

pytestmark = pytest.mark.live

PASSWORD = "correct horse=battery, staple"


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.settle()


@implementer(ISaslDialogue)
class Client:
    """A client of ours, speaking SASL itself."""

    username = ""

    def __init__(self, mechanism, login, password):
        self.mechanism = mechanism
        self.client = choose(Proof(login, password), {mechanism}, verified=True)
        self.initial = self.client.initial

    async def respond(self, challenge):
        return self.client.respond(challenge)


def outcome(loop, accounts, credentials):
    try:
        return loop.run(accounts.requestAvatarId(credentials))
    except UnauthorizedLogin:
        return "no"
    except AccountsUnavailable:
        return "unavailable"


# ── Dovecot ──


@pytest.fixture(scope="module")
def dovecot():
    with DovecotAuth(ann=PASSWORD) as server:
        yield server


@pytest.fixture(params=["unix", "tcp"])
def at_dovecot(request, dovecot, loop):
    address = f"unix:{dovecot.folder}/client" if request.param == "unix" else f"127.0.0.1:{dovecot.port}"
    accounts = Dovecot(address, dialer=Dialer(loop.reactor), clock=loop.reactor)
    yield accounts
    accounts.close()


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize(("password", "expected"), [(PASSWORD, "ann"), ("wrong", "no")], ids=["right", "wrong"])
def test_dovecot_leads_an_exchange(loop, at_dovecot, mechanism, password, expected):
    # Its answer in SCRAM proves that it knows the password: the client checks that before it goes on.
    client = Client(mechanism, "ann", password)
    assert outcome(loop, at_dovecot, client) == expected
    assert client.client.is_satisfied or expected == "no"


def test_dovecot_offers_what_can_be_passed_on(loop, at_dovecot):
    assert at_dovecot.mechanisms() == {"PLAIN"}  # not heard yet
    loop.until(lambda: at_dovecot.mechanisms() != {"PLAIN"})
    assert at_dovecot.mechanisms() == {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"}


def test_dovecot_and_a_password(loop, at_dovecot):
    assert outcome(loop, at_dovecot, UsernamePassword(b"ann", PASSWORD.encode())) == "ann"
    assert outcome(loop, at_dovecot, UsernamePassword(b"ann", b"wrong")) == "no"
    assert outcome(loop, at_dovecot, UsernamePassword(b"nobody", b"wrong")) == "no"
    assert outcome(loop, at_dovecot, UsernamePassword(b"ann\tuser=ben", b"wrong")) == "no"


def test_dovecot_goes_and_comes_back(loop):
    with DovecotAuth(ann=PASSWORD) as server:
        accounts = Dovecot(f"unix:{server.folder}/client", timeout=2.0, dialer=Dialer(loop.reactor), clock=loop.reactor)
        right = UsernamePassword(b"ann", PASSWORD.encode())
        assert outcome(loop, accounts, right) == "ann"
        server.stop()
        assert outcome(loop, accounts, right) == "unavailable"
        server.start()
        loop.until(lambda: outcome(loop, accounts, right) == "ann")
        accounts.close()


# ── OpenLDAP ──


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def directory(authority):
    with OpenLdap(authority, ann=PASSWORD, ben="bens") as server:
        yield server


@pytest.fixture
def ldap(loop, directory, monkeypatch):
    monkeypatch.setenv("READER", "readers-secret")

    def made(server=directory, **settings):
        given = {
            "url": f"ldaps://127.0.0.1:{server.tls_port}",
            "base": "ou=people,dc=example,dc=org",
            "bind_dn": "cn=reader,dc=example,dc=org",
            "bind_password": Secret(variable="READER"),
            "trust": server.folder / "ca.pem",
        }
        return Ldap(**given | settings, dialer=Here(loop.reactor), clock=loop.reactor)

    return made


class Here(Dialer):
    """Every name is this machine's."""

    async def dial(self, where, factory, timeout):
        return await super().dial(f"127.0.0.1:{where.rpartition(':')[2]}", factory, timeout)


ANN = UsernamePassword(b"ann", PASSWORD.encode())
NO_SEARCH = {"base": "", "bind_dn": "", "bind_password": None, "user_dn": "uid={login},ou=people,dc=example,dc=org"}


@pytest.mark.parametrize("search", [{}, NO_SEARCH], ids=["search", "no search"])
@pytest.mark.parametrize("way", ["ldaps", "starttls", "clear"])
@pytest.mark.parametrize(
    ("name", "password", "expected"),
    [
        ("ann", PASSWORD, "ann"),
        ("ANN", PASSWORD, "ann"),
        (" aNN ", PASSWORD, "ann"),  # RFC 4518 §2.6.1: the same; under another name, all that counts by login would begin anew
        ("ann", "wrong", "no"),
        ("ann", "", "no"),  # RFC 4513 §5.1.2
        ("", PASSWORD, "no"),
        ("nobody", PASSWORD, "no"),
        ("*", PASSWORD, "no"),
        ("ann)(uid=*", PASSWORD, "no"),
        ("ann,ou=people", PASSWORD, "no"),
        ("a\0nn", PASSWORD, "no"),
    ],
)
def test_ldap(loop, directory, ldap, search, way, name, password, expected):
    url = f"ldaps://127.0.0.1:{directory.tls_port}" if way == "ldaps" else f"ldap://127.0.0.1:{directory.port}"
    accounts = ldap(url=url, starttls=way != "clear", **search)
    assert outcome(loop, accounts, UsernamePassword(name.encode(), password.encode())) == expected


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"filter": "(mail={login})", "attribute": "mail"}, "no"),
        ({"filter": "(&(objectClass=inetOrgPerson)(|(uid={login})(mail={login})))", "attribute": "mail"}, "ann@example.org"),
        ({"filter": "(|(uid={login})(sn=Same))"}, "unavailable"),  # more than one
        ({"filter": "(&(uid={login})(!(sn=Same)))"}, "no"),
        ({"attribute": "telephoneNumber"}, "unavailable"),
        ({"scope": "base"}, "no"),
        ({"scope": "one"}, "ann"),
        ({"base": "ou=nowhere,dc=example,dc=org"}, "unavailable"),
        ({"bind_dn": "cn=stranger,dc=example,dc=org"}, "unavailable"),
        ({"bind_dn": "", "bind_password": None}, "unavailable"),  # anonymous may not search here
        ({"trust": None}, "unavailable"),  # nobody trusts this certificate
        ({"url": "ldaps://localhost:{port}"}, "unavailable"),  # and it is for another name
        ({"url": "ldap://localhost:{clear}", "starttls": True}, "unavailable"),
    ],
)
def test_ldap_with(loop, directory, ldap, settings, expected):
    if "url" in settings:
        settings = settings | {"url": settings["url"].format(port=directory.tls_port, clear=directory.port)}
    assert outcome(loop, ldap(**settings), ANN) == expected


def test_ldap_goes_and_comes_back(loop, authority, ldap):
    with OpenLdap(authority, ann=PASSWORD) as server:
        accounts = ldap(server)
        assert outcome(loop, accounts, ANN) == "ann"
        server.stop()
        assert outcome(loop, accounts, ANN) == "unavailable"
        server.start()
        assert outcome(loop, accounts, ANN) == "ann"


def test_nobody_there(loop):
    assert outcome(loop, Dovecot(f"127.0.0.1:{free_port()}", dialer=Dialer(loop.reactor), clock=loop.reactor), ANN) == "unavailable"
    there = Ldap(f"ldap://127.0.0.1:{free_port()}", base="dc=x", starttls=False, dialer=Dialer(loop.reactor), clock=loop.reactor)
    assert outcome(loop, there, ANN) == "unavailable"
