"""Accounts in a function, behind a checker of Twisted's, and by certificate; and who asks them in a configuration."""

import sys
from queue import Queue
from textwrap import dedent

import pytest
from twisted.cred import credentials as twisted_credentials
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IAnonymous, IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.assemble import build_parts
from mailgw.config.reading import read_text
from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.interfaces import IClock
from mailgw.journal import Journal
from mailgw.login.certificates import Certificates
from mailgw.login.checker import Checker, as_part
from mailgw.login.function import Function
from mailgw.login.proofs import Password, ShownCertificate
from mailgw.settings import Part
from mailgw.smtp.sasl import Channel
from mailgw.staff import porter_of
from mailgw.testing import ThreadsAtOnce, a_client, at, run

FINGERPRINT = "ab" * 32


def shown(username="", fingerprint="cd" * 32, names=()):
    return ShownCertificate(username, fingerprint, tuple(names))


@pytest.mark.parametrize(
    ("accounts", "credentials", "login"),
    [
        pytest.param(Certificates({FINGERPRINT: "anna"}), shown(fingerprint=FINGERPRINT), "anna", id="fingerprint"),
        pytest.param(Certificates({":".join(["AB"] * 32): "anna"}), shown(fingerprint=FINGERPRINT), "anna", id="as OpenSSL shows it"),
        pytest.param(Certificates({FINGERPRINT: "anna"}), shown("anna", FINGERPRINT), "anna", id="the same by name"),
        pytest.param(Certificates({FINGERPRINT: "anna"}), shown("ben", FINGERPRINT), None, id="another by name"),
        pytest.param(Certificates({FINGERPRINT: "anna"}), shown(), None, id="another certificate"),
        pytest.param(Certificates({}, {"Laptop.example.org": "anna"}), shown(names=["laptop.EXAMPLE.org"]), "anna", id="host name"),
        pytest.param(Certificates({}, {"a@example.org": "anna"}), shown(names=["a@example.org", "b@example.org"]), "anna", id="address"),
        pytest.param(Certificates({}, {"a@x.org": "anna", "b@x.org": "ben"}), shown(names=["a@x.org", "b@x.org"]), None, id="two, unsaid"),
        pytest.param(Certificates({}, {"a@x.org": "anna", "b@x.org": "ben"}), shown("ben", names=["a@x.org", "b@x.org"]), "ben", id="two"),
        pytest.param(Certificates(any_address=True), shown(names=["Anna@example.org", "host"]), "anna@example.org", id="any address"),
        pytest.param(Certificates(any_address=True), shown(names=["h.example.org"]), None, id="no address"),
    ],
)
def test_certificates(accounts, credentials, login):
    verifyObject(IAccounts, accounts)
    if login is None:
        with pytest.raises(UnauthorizedLogin):
            run(accounts.requestAvatarId(credentials))
    else:
        assert run(accounts.requestAvatarId(credentials)) == login


# ── A function ──


@pytest.fixture
def functions(tmp_path, monkeypatch):
    (tmp_path / "who_is_who.py").write_text(
        dedent(
            """
            def known(name, password):
                return (name, password) == ("anna", "secret")

            def renamed(name, password):
                return "anna@example.org" if password == "secret" else None

            async def slowly(name, password):
                return known(name, password)

            def odd(name, password):
                return 1

            constant = 5
            """
        )
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("who_is_who", None)


class Calls:
    """A reactor's thread that is this one: `run` waits for the other thread."""

    def __init__(self):
        self.queue = Queue()

    def callFromThread(self, function, *arguments, **more):  # noqa: N802
        self.queue.put((function, arguments, more))


def ask(value, name="anna", password="secret"):
    calls = Calls()
    accounts = Function(value, reactor=calls)
    verifyObject(IAccounts, accounts)
    try:
        answer = Deferred.fromCoroutine(accounts.requestAvatarId(Password(name, password)))
        while not answer.called:
            function, arguments, more = calls.queue.get(timeout=10)
            function(*arguments, **more)
        return run(answer)
    finally:
        accounts.close()


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize(
    ("value", "password", "result"),
    [
        ("who_is_who:known", "secret", "anna"),
        ("who_is_who:known", "wrong", UnauthorizedLogin),
        ("who_is_who:renamed", "secret", "anna@example.org"),
        ("who_is_who:renamed", "wrong", UnauthorizedLogin),
        ("who_is_who:slowly", "secret", "anna"),
        ("who_is_who:slowly", "wrong", UnauthorizedLogin),
        ("who_is_who:odd", "secret", TypeError),
    ],
)
def test_functions(value, password, result):
    if isinstance(result, str):
        assert ask(value, password=password) == result
    else:
        with pytest.raises(result) as caught:
            ask(value, password=password)
        assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("functions")
@pytest.mark.parametrize("value", ["who_is_who", "who_is_who:constant", "who_is_who:nothing", "nowhere_at_all:known"])
def test_functions_that_are_none(value):
    with pytest.raises((ValueError, ImportError), match=value.partition(":")[0]):
        Function(value, reactor=Calls())


# ── Twisted's checkers ──


def a_file(tmp_path):
    file = tmp_path / "passwords"
    file.write_text("anna:secret\nben:hunter2\n")
    return file


@pytest.mark.parametrize(("name", "password", "good"), [("anna", "secret", True), ("anna", "wrong", False), ("carl", "x", False)])
def test_a_checker_of_twisted(tmp_path, name, password, good):
    part = as_part(Part("twisted.cred.checkers:FilePasswordDB", {"filename": str(a_file(tmp_path))}, ("accounts", "x")))
    assert part.type == "mailgw.login.checker:Checker"
    accounts = Checker(**part.settings)
    verifyObject(IAccounts, accounts)
    assert accounts.mechanisms() == {"PLAIN", "LOGIN"}
    assert IUsernamePassword in accounts.credentialInterfaces
    if good:
        assert run(accounts.requestAvatarId(Password(name, password))) == name
    else:
        with pytest.raises(UnauthorizedLogin):
            run(accounts.requestAvatarId(Password(name, password)))


@implementer(ICredentialsChecker)
class Digests:
    credentialInterfaces = (IUsernameHashedPassword,)  # noqa: N815

    def requestAvatarId(self, credentials):  # noqa: N802
        return ()


@implementer(ICredentialsChecker)
class Anonymous:
    credentialInterfaces = (IAnonymous,)  # noqa: N815


def test_what_a_checker_can_do_is_offered():
    assert Checker(f"{__name__}:Digests").mechanisms() == {"CRAM-MD5"}
    with pytest.raises(ValueError, match="nobody could log in"):
        Checker(f"{__name__}:Anonymous")


def test_a_checker_that_lets_in_nobody_in_particular():
    with pytest.raises(AccountsUnavailable):
        run(Checker(f"{__name__}:Digests").requestAvatarId(twisted_credentials.CramMD5Credentials("mx.example.org")))


@pytest.mark.parametrize("kind", ["certificates", "mailgw.login.certificates:Certificates", "nowhere_at_all:X", f"{__name__}:a_file"])
def test_what_is_no_checker_stays_as_it_is(kind):
    part = Part(kind, {}, ("accounts", "x"))
    assert as_part(part) is part


# ── In a configuration ──

CONFIGURATION = """
[server]
hostname = "mx.example.org"
state = "."
[tls.default]
certificate = "cert.pem"
key = { file = "key.pem" }
client_ca = "ca.pem"
[listen.submission]
kind = "submission"
endpoint = "tcp:587"
accounts = ["old", "new"]
[listen.mx]
kind = "relay"
endpoint = "tcp:25"
[accounts.old]
type = "twisted.cred.checkers:FilePasswordDB"
filename = "PATH"
[accounts.new]
type = "function"
value = "who_is_who:renamed"
[[permit]]
on = "submission"
authenticated = true
[[route]]
otherwise = true
gateway = "bin"
[gateway.bin]
type = "discard"
"""


@pytest.mark.usefixtures("functions")
def test_a_listener_has_a_porter_with_its_accounts_in_order(tmp_path):
    configuration = read_text(CONFIGURATION.replace("PATH", str(a_file(tmp_path))), "mailgw.toml", tmp_path)
    assert configuration.tls["default"].client_certificates == "optional"
    house = {IClock: at("2026-01-05T10:00+00:00"), IReactorThreads: ThreadsAtOnce()}
    parts = build_parts(configuration, house)
    clock, journal = Clock(), Journal()
    assert porter_of(configuration.listen["mx"], parts, journal, clock, "mx.example.org", None) is None
    porter = porter_of(configuration.listen["submission"], parts, journal, clock, "mx.example.org", None)
    assert [one.name for one in porter.accounts] == ["old", "new"]
    assert porter.offers(a_client(tls=True), Channel()) == ("PLAIN", "LOGIN")

    async def nothing(challenge):
        raise AssertionError(challenge)

    assert run(porter.login(a_client(tls=True), Channel(), "PLAIN", b"\0ben\0hunter2", nothing)) == "ben"
