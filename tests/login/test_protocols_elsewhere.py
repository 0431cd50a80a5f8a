"""Dovecot's protocol and LDAP as tables: what a bad server says, names that try to mean something, settings that make no sense."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ldaptor.protocols import pureber, pureldap
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from mailgw.credentials import AccountsUnavailable
from mailgw.login.dovecot import Dovecot
from mailgw.login.dovecot_protocol import DovecotConnection
from mailgw.login.ldap import Ldap
from mailgw.login.ldap_names import FilterTemplate, dn_with
from mailgw.login.ldap_protocol import LdapConnection
from mailgw.testing.network import Network
from mailgw.values.secret import Secret

ANN = UsernamePassword(b"ann", b"secret")
GREETING = b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tANONYMOUS\tanonymous\nSPID\t1\nCUID\t2\nCOOKIE\tx\nDONE\n"


class Scripted(Factory):
    """Says ``greeting``, then for each line that begins with a word of ``answers`` that answer; ``{}`` is the number in the line."""

    noisy = False

    def __init__(self, greeting: bytes = GREETING, **answers: str | None) -> None:
        self.greeting, self.answers = greeting, answers
        self.heard: list[str] = []
        self.sessions: list[Any] = []

    def buildProtocol(self, _: Any) -> Protocol:  # noqa: N802
        session = _Scripted(self)
        self.sessions.append(session)
        return session


class _Scripted(Protocol):
    def __init__(self, server: Scripted) -> None:
        self.server = server
        self.buffer = b""

    def connectionMade(self) -> None:  # noqa: N802
        self.transport.write(self.server.greeting)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        for line in map(bytes.decode, lines):
            self.server.heard.append(line)
            word, number, *_ = line.split("\t")
            if word not in self.server.answers:
                continue
            answer = self.server.answers[word]
            if answer is None:
                self.transport.abortConnection()
            else:
                self.transport.write(answer.replace("{}", number).encode("latin-1"))


def judge(server: Any, step: int = 65536, accounts: Any = None, wait: float = 0.0) -> str:
    network = Network({"127.0.0.1:1": server}, step)
    accounts = accounts or Dovecot("127.0.0.1:1", dialer=network, clock=network.clock)
    results: list[Any] = []
    waiting = Deferred.fromCoroutine(accounts.requestAvatarId(ANN)).addBoth(results.append)
    network.pump()
    network.clock.advance(wait)
    network.pump()
    assert results, waiting
    [result] = results
    if isinstance(result, str):
        return result
    if result.check(UnauthorizedLogin):
        return "no"
    assert result.check(AccountsUnavailable), result
    return f"unavailable: {result.getErrorMessage()}"


@pytest.mark.parametrize("step", [1, 65536], ids=["octets", "whole"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("OK\t{}\tuser=ann\n", "ann"),
        ("OK\t{}\tuser=ann@example.org\tx=y\n", "ann@example.org"),
        ("OK\t{}\tuser=a\x01tb\x011\x010c\x01n\n", "a\tb\1\0c\n"),  # the portal refuses such a login
        ("OK\t{}\n", "unavailable: Dovecot says yes, but not to whom"),
        ("FAIL\t{}\tuser=ann\n", "no"),
        ("FAIL\t{}\tuser=ann\treason=not now\n", "no"),
        ("FAIL\t{}\tuser=ann\tuser_disabled\n", "no"),
        ("FAIL\t{}\tuser=ann\ttemp\n", "unavailable: Dovecot cannot say now; its log says why"),
        ("FAIL\t{}\tuser=ann\tcode=temp_fail\n", "unavailable: Dovecot cannot say now; its log says why"),
        ("CONT\t{}\tZ28gb24=\n", "unavailable: Dovecot asks for more than PLAIN has"),
        ("CONT\t{}\t!!\n", "unavailable: Dovecot's challenge is not base64"),
        ("OK\t99\tuser=ben\nFAIL\t{}\n", "no"),
        ("NEWS\t{}\n\nOK\t{}\tuser=ann\n", "ann"),
        (None, "unavailable: the connection to Dovecot was lost"),
    ],
)
def test_what_dovecot_says(answer: str | None, expected: str, step: int) -> None:
    server = Scripted(AUTH=answer)
    assert judge(server, step) == expected
    assert server.heard[0] == "VERSION\t1\t1"
    assert server.heard[2] == "AUTH\t1\tPLAIN\tservice=smtp\tsecured\tno-penalty\tresp=AGFubgBzZWNyZXQ="


@pytest.mark.parametrize(
    ("greeting", "expected"),
    [
        (b"VERSION\t2\t0\nDONE\n", "unavailable: Dovecot speaks version 2 of its protocol"),
        (b"220 mail.example ESMTP\r\n", "unavailable: Dovecot did not greet within 30 s"),
        (b"DONE\n", "unavailable: Dovecot did not greet within 30 s"),
        (b"", "unavailable: Dovecot did not greet within 30 s"),
        (b"x" * 70_000, "unavailable: Dovecot's answer is too long"),
        (b"VERSION\t1\t2\nMECH\tLOGIN\nDONE\n", "unavailable: Dovecot does not offer PLAIN"),
    ],
)
def test_a_bad_greeting(greeting: bytes, expected: str) -> None:
    assert judge(Scripted(greeting), wait=30.0) == expected


def test_dovecot_that_does_not_answer_is_told_so() -> None:
    server = Scripted()
    assert judge(server, wait=30.0) == "unavailable: Dovecot did not answer within 30 s"
    assert server.heard[-1] == "CANCEL\t1"


def test_one_connection_for_all_and_a_new_one_after_it_is_lost() -> None:
    server = Scripted(AUTH="OK\t{}\tuser=ann\n")
    network = Network({"127.0.0.1:1": server})
    accounts = Dovecot("127.0.0.1:1", dialer=network, clock=network.clock)
    both = [Deferred.fromCoroutine(accounts.requestAvatarId(ANN)) for _ in range(2)]
    assert [network.result(one) for one in both] == ["ann", "ann"]
    assert len(network.dialled) == 1
    server.sessions[0].transport.loseConnection()
    network.pump()
    assert network.run(accounts.requestAvatarId(ANN)) == "ann"
    assert len(network.dialled) == 2
    accounts.close()
    assert network.open_connections == 0


def test_mechanisms_are_learned_in_the_background_and_not_asked_for_all_the_time() -> None:
    network = Network({})
    accounts = Dovecot("127.0.0.1:1", dialer=network, clock=network.clock)
    for _ in range(3):
        assert accounts.mechanisms() == {"PLAIN"}
    assert len(network.dialled) == 1
    offers = ("PLAIN", "SCRAM-SHA-256\tx", "NTLM", "SCRAM-SHA-256-PLUS", "LOGIN\tprivate", "EXTERNAL", "ANONYMOUS\tanonymous")
    lines = ["VERSION\t1\t1", *(f"MECH\t{one}" for one in offers), "DONE", ""]
    network.servers["127.0.0.1:1"] = Scripted("\n".join(lines).encode())
    network.clock.advance(5)
    accounts.mechanisms()
    network.pump()
    assert accounts.mechanisms() == {"PLAIN", "SCRAM-SHA-256"}


@given(st.binary(max_size=300))
def test_whatever_dovecot_says(octets: bytes) -> None:
    connection = DovecotConnection(lambda _: None)
    connection.ready.addErrback(lambda _: None)
    connection.transport = _Silent()
    connection.dataReceived(octets)
    _, answer = connection.begin("PLAIN", b"", ())
    answer.addErrback(lambda _: None)
    connection.dataReceived(b"OK\t1\t" + octets)
    connection.connectionLost()


class _Silent:
    def write(self, _: bytes) -> None:
        pass

    def abortConnection(self) -> None:  # noqa: N802
        pass

    loseConnection = abortConnection  # noqa: N815


# ── LDAP ──


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_name_cannot_change_a_filter(name: str) -> None:
    template = FilterTemplate("(&(objectClass=person)(|(uid={login})(!(mail={login}))))")
    sent, _ = pureber.berDecodeObject(_FILTERS, template.filled(name).toWire())
    person, (one, other) = sent
    assert [type(sent).__name__, type(other).__name__] == ["LDAPFilter_and", "LDAPFilter_not"]
    values = [(part.attributeDesc.value, part.assertionValue.value) for part in (person, one, other.value)]
    assert values == [(b"objectClass", b"person"), (b"uid", name.encode()), (b"mail", name.encode())]


_FILTERS = pureldap.LDAPBERDecoderContext_Filter(fallback=pureber.BERDecoderContext())


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("uid={login}", "is no LDAP filter"),
        ("(uid={login}", "is no LDAP filter"),
        ("", "is no LDAP filter"),
        ("(uid=ann)", "must be a whole value"),
        ("(uid={login}*)", "must be a whole value"),
        ("(mail={login}@example.org)", "must be a whole value"),
        ("(&(uid={login})(mail=*{login}*))", "must be a whole value"),
    ],
)
def test_filters_that_are_none(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        FilterTemplate(text)


@pytest.mark.parametrize(
    ("name", "dn"),
    [
        ("ann", "uid=ann,dc=x"),
        ("ann,dc=y", r"uid=ann\,dc\=y,dc=x"),
        ('a"b+c<d>e;f=g\\h', r"uid=a\"b\+c\<d\>e\;f\=g\\h,dc=x"),
        ("#ann", r"uid=\#ann,dc=x"),
        (" ann ", r"uid=\ ann\ ,dc=x"),
        (" ", "uid=\\ ,dc=x"),
        ("a\0b", r"uid=a\00b,dc=x"),
        ("größer", "uid=größer,dc=x"),
    ],
)
def test_a_name_in_a_distinguished_name(name: str, dn: str) -> None:
    assert dn_with("uid={login},dc=x", name) == dn  # RFC 4514 §2.4


GIVEN = {"url": "ldaps://127.0.0.1:1", "base": "dc=x"}


def ldap(network: Network, **settings: Any) -> Ldap:
    return Ldap(**{**GIVEN, **settings}, dialer=network, clock=network.clock)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"url": "ldap.example.org"}, "url: .* write it like"),
        ({"url": "http://ldap.example.org"}, "url: .* write it like"),
        ({"url": "ldaps://ldap.example.org/dc=x"}, "url: .* write it like"),
        ({"url": "ldap://ldap.example.org", "starttls": False}, "in clear"),
        ({"base": ""}, "say base"),
        ({"user_dn": "uid={login},dc=x"}, "say base"),
        ({"base": "", "user_dn": "uid=ann,dc=x"}, "must stand in it"),
        ({"bind_dn": "cn=x"}, "belong together"),
        ({"bind_password": Secret(variable="X")}, "belong together"),
        ({"filter": "nonsense"}, "no LDAP filter"),
    ],
)
def test_ldap_settings_that_make_no_sense(settings: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ldap(Network({}), **settings)


class Directory(Factory):
    """Answers each LDAP message with the next of ``answers``: octets, or a function of its number."""

    noisy = False

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)

    def buildProtocol(self, _: Any) -> Protocol:  # noqa: N802
        return _Directory(self.answers)


class _Directory(Protocol):
    def __init__(self, answers: list[Any]) -> None:
        self.answers = answers
        self.buffer = b""

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self.buffer += data
        if not self.answers or len(self.buffer) < 2 or len(self.buffer) < 2 + self.buffer[1]:
            return
        number = self.buffer[4 : 4 + self.buffer[3]]  # SEQUENCE, length, INTEGER, length
        self.buffer = b""
        answer = self.answers.pop(0)
        self.transport.write(answer(int.from_bytes(number)) if callable(answer) else answer)


def result(kind: Any, code: int) -> Any:
    return lambda number: pureldap.LDAPMessage(kind(resultCode=code), id=number).toWire()


def clear(*answers: Any, wait: float = 0.0, step: int = 65536) -> str:
    network = Network({"127.0.0.1:1": Directory(*answers)}, step)
    accounts = ldap(network, url="ldap://127.0.0.1:1", starttls=False, base="", user_dn="uid={login},dc=x")
    results: list[Any] = []
    Deferred.fromCoroutine(accounts.requestAvatarId(ANN)).addBoth(results.append)
    network.pump()
    network.clock.advance(wait)
    network.pump()
    [found] = results
    if isinstance(found, str):
        return found
    return "no" if found.check(UnauthorizedLogin) else f"{found.type.__name__}: {found.getErrorMessage()}"


@pytest.mark.parametrize("step", [1, 65536], ids=["octets", "whole"])
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (result(pureldap.LDAPBindResponse, 0), "ann"),
        (result(pureldap.LDAPBindResponse, 49), "no"),
        (result(pureldap.LDAPBindResponse, 53), "no"),
        (result(pureldap.LDAPBindResponse, 51), "AccountsUnavailable: the directory cannot say: result code 51 to a bind"),
        (result(pureldap.LDAPBindResponse, 10), "AccountsUnavailable: the directory cannot say: result code 10 to a bind"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "AccountsUnavailable: the directory"),
        (b"\x30\x03\x02\x01\x00", "AccountsUnavailable: the directory"),
    ],
)
def test_what_a_directory_says(answer: Any, expected: str, step: int) -> None:
    assert clear(answer, step=step, wait=10.0).startswith(expected)


def test_a_directory_that_says_too_much_or_nothing() -> None:
    assert clear(b"\x30\x84\x7f\xff\xff\xff" + b"\0" * 1_100_000) == "AccountsUnavailable: the directory's answer is too long"
    assert clear(wait=10.0) == "AccountsUnavailable: the directory did not answer within 10 s"


@given(st.binary(max_size=200))
def test_whatever_a_directory_says(octets: bytes) -> None:
    connection = LdapConnection()
    connection.transport = _Silent()
    asked = Deferred.fromCoroutine(connection.request(pureldap.LDAPBindRequest(dn="x", auth=b"y")))
    asked.addErrback(lambda failure: failure.trap(AccountsUnavailable))
    connection.dataReceived(octets)
    connection.connectionLost()
    assert asked.called
