"""Accounts that web services know, and access tokens, against services in memory."""

import base64
import hmac
import json
import os
import time
import warnings
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from treq.testing import RequestTraversalAgent
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock
from twisted.web.iweb import IAgent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IBearerToken
from mailgw.interfaces import IClock
from mailgw.login.claims import Wanted
from mailgw.login.http_accounts import HttpAccounts
from mailgw.login.jwks import Key
from mailgw.login.oauth import OAuthAccounts
from mailgw.values.secret import Secret

PASSWORD = "geheim, größer"
NOW = 1_800_000_000.0


class Service(Resource):
    """Answers each request with what ``answer(path, body, header)`` gives: a status and an object, octets, or None for silence."""

    isLeaf = True  # noqa: N815

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.asked: list[Any] = []

    def render(self, request: Any) -> Any:
        body = request.content.read()
        self.asked.append((request.method.decode(), request.uri.decode(), body, request.getHeader("Authorization")))
        answer = self.answer(request.uri.decode(), body) if callable(self.answer) else self.answer
        if answer is None:
            return NOT_DONE_YET
        status, said = answer
        request.setResponseCode(status)
        if status in (301, 302, 307):
            request.setHeader("Location", "https://elsewhere.example/")
        return said if isinstance(said, bytes) else json.dumps(said).encode()


@implementer(IAgent)
class Down:
    """Nobody is there, once or for ever."""

    def request(self, *_: Any, **__: Any) -> Any:
        deferred: Deferred[Any] = Deferred()
        deferred.errback(Refused())
        return deferred


@implementer(IClock)
class At:
    def __init__(self, now: float = NOW) -> None:
        self.seconds = now

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.seconds, UTC)


def ends(agent: Any, awaitable: Any, clock: Clock | None = None, passes: float = 0.0) -> Any:
    """How it ends: a login, "no" or "unavailable: why"."""
    results: list[Any] = []
    deferred = Deferred.fromCoroutine(awaitable)
    deferred.addBoth(results.append)
    if isinstance(agent, RequestTraversalAgent):
        agent.flush()
    if clock is not None:
        clock.advance(passes)
        agent.flush()
    assert results, "it has not ended"
    [result] = results
    if isinstance(result, str):
        return result
    if result.check(UnauthorizedLogin):
        return "no"
    if result.check(AccountsUnavailable):
        return f"unavailable: {result.getErrorMessage()}"
    result.raiseException()
    raise AssertionError


# ── type = "http" ──


def http(agent: Any, clock: Clock | None = None, **settings: Any) -> HttpAccounts:
    return HttpAccounts(**{"url": "https://id.example/check", **settings}, agent=agent, clock=clock or Clock())


def ask(service: Service, password: str = PASSWORD, **settings: Any) -> Any:
    agent = RequestTraversalAgent(service)
    return ends(agent, http(agent, **settings).requestAvatarId(UsernamePassword(b"ann", password.encode())))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ((200, {"login": "ann@example.org"}), "ann@example.org"),
        ((200, {"login": ""}), "unavailable: id.example says yes, but not to whom"),
        ((200, {"login": 5}), "unavailable: id.example says yes, but not to whom"),
        ((200, {}), "unavailable: id.example says yes, but not to whom"),
        ((200, []), "unavailable: id.example gave an answer that is no JSON object"),
        ((200, b"<html>"), "unavailable: id.example gave an answer that is no JSON object"),
        ((200, b'{"login": "ann"}' + b" " * 70_000), "unavailable: the answer is too long"),
        ((201, {"login": "ann"}), "unavailable: id.example answered with HTTP status 201"),
        ((401, {}), "no"),
        ((403, {}), "no"),
        ((404, b""), "no"),
        ((302, {}), "unavailable: id.example answered with HTTP status 302"),
        ((429, {}), "unavailable: id.example answered with HTTP status 429"),
        ((500, {}), "unavailable: id.example answered with HTTP status 500"),
    ],
)
def test_what_a_service_says(answer: Any, expected: str) -> None:
    service = Service(answer)
    assert ask(service) == expected
    [(method, path, body, authorization)] = service.asked
    assert (method, path, json.loads(body), authorization) == ("POST", "/check", {"username": "ann", "password": PASSWORD}, None)


def test_a_bearer_token_shows_who_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BEARER", "service-token")
    service = Service((200, {"login": "ann"}))
    assert ask(service, bearer=Secret(variable="BEARER")) == "ann"
    assert service.asked[0][3] == "Bearer service-token"
    monkeypatch.delenv("BEARER")
    assert ask(service, bearer=Secret(variable="BEARER")).startswith("unavailable: bearer cannot be read")


def test_an_empty_password_is_not_even_asked_about() -> None:
    service = Service((200, {"login": "ann"}))
    assert ask(service, password="") == "no"
    assert service.asked == []


def test_a_service_that_is_silent_or_gone() -> None:
    clock = Clock()
    agent = RequestTraversalAgent(Service(None))
    credentials = UsernamePassword(b"ann", PASSWORD.encode())
    assert ends(agent, http(agent, clock).requestAvatarId(credentials), clock, 10.0) == "unavailable: id.example did not answer within 10 s"
    said = ends(None, http(Down()).requestAvatarId(credentials))
    assert said == "unavailable: id.example cannot be asked: ConnectionRefusedError"


@pytest.mark.parametrize("url", ["", "http://id.example/", "id.example", "https://", "https://u:p@id.example/", "https://id.example/a b", "ftp://x"])
def test_urls_that_are_not_safe(url: str) -> None:
    with pytest.raises(ValueError, match=r"url"):
        http(Down(), url=url)
    for good in ("https://id.example:8443/x", "http://127.0.0.1:8080/", "http://[::1]/", "http://localhost/"):
        http(Down(), url=good)


# ── type = "oauth", signed tokens ──

RSA = rsa.generate_private_key(65537, 2048)
SMALL = rsa.generate_private_key(65537, 1024)
P256, P384, ED = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate()
OTHER = rsa.generate_private_key(65537, 2048)


def jwk(private: Any, kid: str, **more: str) -> dict[str, Any]:
    algorithm: Any = {
        rsa.RSAPrivateKey: jwt.algorithms.RSAAlgorithm,
        ec.EllipticCurvePrivateKey: jwt.algorithms.ECAlgorithm,
        ed25519.Ed25519PrivateKey: jwt.algorithms.OKPAlgorithm,
    }[next(base for base in (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey) if isinstance(private, base))]
    return {**json.loads(algorithm.to_jwk(private.public_key())), "kid": kid, **more}


KEYS = {
    "keys": [
        jwk(RSA, "r", use="sig"),
        jwk(P256, "e"),
        jwk(P384, "e3", alg="ES384"),
        jwk(ED, "d"),
        jwk(SMALL, "small"),
        jwk(OTHER, "enc", use="enc"),
        {"kty": "oct", "kid": "oct", "k": base64.urlsafe_b64encode(b"0" * 32).decode()},
        {**json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(OTHER)), "kid": "private"},
        "nonsense",
    ]
}
SAYS = {"iss": "https://id.example/", "aud": ["mail", "web"], "sub": "ann", "exp": NOW + 600, "scope": "mail.send profile", "azp": "phone"}


@implementer(IBearerToken)
class Shown:
    def __init__(self, token: str, username: str = "") -> None:
        self.token, self.username = token, username


def token(key: Any = RSA, algorithm: str = "RS256", header: Any = None, **claims: Any) -> str:
    said = {name: value for name, value in {**SAYS, **claims}.items() if value is not None}
    return jwt.encode(said, key, algorithm, headers={"kid": "r"} if header is None else header)


class Issuer:
    """Accounts that know an issuer's keys."""

    def __init__(self, answer: Any = (200, KEYS), **settings: Any) -> None:
        self.service = Service(answer)
        self.agent, self.steady, self.clock = RequestTraversalAgent(self.service), Clock(), At()
        given = {"issuer": "https://id.example/", "audience": ["mail"], "keys_url": "https://id.example/keys"}
        self.accounts = OAuthAccounts(**{**given, **settings}, agent=self.agent, clock=self.clock, steady=self.steady)

    def judge(self, shown: str, username: str = "") -> Any:
        return ends(self.agent, self.accounts.requestAvatarId(Shown(shown, username)))


@pytest.mark.parametrize(
    ("key", "algorithm", "kid"),
    [(RSA, "RS256", "r"), (RSA, "PS512", "r"), (P256, "ES256", "e"), (P384, "ES384", "e3"), (ED, "EdDSA", "d"), (RSA, "RS256", None)],
)
def test_signatures_that_count(key: Any, algorithm: str, kid: str | None) -> None:
    assert Issuer().judge(token(key, algorithm, {} if kid is None else {"kid": kid})) == "ann"


def unsigned(algorithm: str) -> str:
    parts = [json.dumps({"alg": algorithm, "kid": "r"}), json.dumps(SAYS)]
    return ".".join(base64.urlsafe_b64encode(part.encode()).rstrip(b"=").decode() for part in parts) + "."


def signed_with_the_public_key(algorithm: str) -> str:
    # PyJWT refuses to make such a token.
    public = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head = unsigned(algorithm)[:-1]
    return f"{head}.{base64.urlsafe_b64encode(hmac.digest(public, head.encode(), 'sha256')).rstrip(b'=').decode()}"


def small() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyJWT knows that it is too small
        return token(SMALL, header={"kid": "small"})


FORGED = {
    "none": unsigned("none"),
    "None": unsigned("None"),
    "HS256 with the public key": signed_with_the_public_key("HS256"),
    "HS256 with a symmetric key of the set": jwt.encode(SAYS, b"0" * 32, "HS256", headers={"kid": "oct"}),
    "a private key that everybody can read": token(OTHER, header={"kid": "private"}),
    "RS256 that is none": signed_with_the_public_key("RS256"),
    "another's key": token(OTHER),
    "a key for encryption": token(OTHER, header={"kid": "enc"}),
    "a key that is too small": small(),
    "another key of the set": token(RSA, header={"kid": "e"}),
    "a key for another algorithm": token(P384, "ES384", {"kid": "e3"})[:-4] + "AAAA",
    "an extension that we do not know": token(header={"kid": "r", "crit": ["exp"]}),
    "empty": "",
    "not a token": "abc",
    "not ASCII": "ä.b.c",
    "too long": "a" * 20_000,
}


@pytest.mark.parametrize("name", FORGED)
def test_forgeries(name: str) -> None:
    assert Issuer().judge(FORGED[name]) == "no"


def test_a_small_key_is_refused() -> None:
    assert Key("small", "", jwk(SMALL, "small")).verifier("RS256") is None
    assert Key("r", "", jwk(RSA, "r")).verifier("RS256") is not None
    assert Key("e", "", jwk(P256, "e")).verifier("ES384") is None
    assert Key("e", "ES384", jwk(P256, "e")).verifier("ES256") is None


def test_only_algorithms_that_were_named() -> None:
    assert Issuer(algorithms=["ES256"]).judge(token()) == "no"
    assert Issuer(algorithms=["ES256"]).judge(token(P256, "ES256", {"kid": "e"})) == "ann"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, "ann"),
        ({"iss": "https://other.example/"}, "no"),
        ({"iss": None}, "no"),
        ({"aud": "mail"}, "ann"),
        ({"aud": "web"}, "no"),
        ({"aud": None}, "no"),
        ({"exp": NOW - 59}, "ann"),
        ({"exp": NOW - 60}, "no"),
        ({"exp": None}, "no"),
        ({"exp": "tomorrow"}, "no"),
        ({"exp": True}, "no"),
        ({"nbf": NOW + 60}, "ann"),
        ({"nbf": NOW + 61}, "no"),
        ({"scope": "mail.send"}, "ann"),
        ({"scope": "mail.sending"}, "no"),
        ({"scope": ["mail.send"]}, "ann"),
        ({"scope": None, "scp": "mail.send"}, "ann"),
        ({"scope": None}, "no"),
        ({"azp": "desktop"}, "no"),
        ({"azp": None, "client_id": "phone"}, "ann"),
        ({"azp": None}, "no"),
        ({"sub": None}, "no"),
        ({"sub": ""}, "no"),
        ({"sub": "a\nb"}, "no"),
    ],
)
def test_what_a_token_must_say(claims: Any, expected: str) -> None:
    assert Issuer(scope=["mail.send"], parties=["phone", "tablet"]).judge(token(**claims)) == expected


@pytest.mark.parametrize(
    ("username", "expected"), [("", "ann@example.org"), ("ann@example.org", "ann@example.org"), ("ben@example.org", "no")]
)
def test_a_client_that_names_a_user_must_be_that_one(username: str, expected: str) -> None:
    assert Issuer(claim="email").judge(token(email="ann@example.org"), username) == expected


@given(st.binary(max_size=60), st.sampled_from([0, 1, 2]))
def test_whatever_is_shown(octets: bytes, part: int) -> None:
    parts = token().split(".")
    parts[part] = base64.urlsafe_b64encode(octets).rstrip(b"=").decode()
    assert Issuer().judge(".".join(parts)) == "no"


# ── Keys: fetched, kept, fetched again ──


def test_keys_are_fetched_once_and_again_after_an_hour() -> None:
    issuer = Issuer()
    for _ in range(3):
        assert issuer.judge(token()) == "ann"
    assert len(issuer.service.asked) == 1
    issuer.steady.advance(3600)
    assert issuer.judge(token()) == "ann"
    assert len(issuer.service.asked) == 2


def test_a_new_key_is_looked_for_but_not_more_often_than_once_a_minute() -> None:
    issuer = Issuer((200, {"keys": [jwk(RSA, "r")]}))
    assert issuer.judge(token()) == "ann"
    issuer.steady.advance(60)
    issuer.service.answer = (200, KEYS)
    assert issuer.judge(token(P256, "ES256", {"kid": "e"})) == "ann"
    for number in range(5):
        assert issuer.judge(token(header={"kid": f"nobody's {number}"})) == "no"
    assert len(issuer.service.asked) == 2


def test_old_keys_count_while_new_ones_cannot_be_had() -> None:
    issuer = Issuer()
    assert issuer.judge(token()) == "ann"
    issuer.steady.advance(3600)
    issuer.service.answer = (500, {})
    assert issuer.judge(token()) == "ann"
    assert issuer.judge(token()) == "ann"
    assert len(issuer.service.asked) == 2


@pytest.mark.parametrize("answer", [(500, {}), (200, {"keys": []}), (200, {}), (200, b"x"), (200, {"keys": [{"kty": "oct", "k": "AAAA"}]})])
def test_without_keys_nobody_can_say(answer: Any) -> None:
    issuer = Issuer(answer)
    assert issuer.judge(token()) == "unavailable: there are no keys from id.example"
    issuer.steady.advance(60)
    issuer.service.answer = (200, KEYS)
    assert issuer.judge(token()) == "ann"


def test_keys_from_a_file_that_changes(tmp_path: Any) -> None:
    file = tmp_path / "keys.json"
    with pytest.raises(ValueError, match=r"keys: .*No such file"):
        Issuer(keys_url="", keys=file)
    file.write_text(json.dumps({"keys": [jwk(RSA, "r")]}))
    issuer = Issuer(keys_url="", keys=file)
    assert issuer.judge(token()) == "ann"
    assert issuer.judge(token(P256, "ES256", {"kid": "e"})) == "no"
    file.write_text(json.dumps(KEYS))
    os.utime(file, (1, 1))
    assert issuer.judge(token(P256, "ES256", {"kid": "e"})) == "ann"
    file.write_text("broken")
    assert issuer.judge(token()) == "ann"
    assert issuer.service.asked == []


# ── Introspection ──


def introspecting(answer: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Issuer:
    monkeypatch.setenv("CLIENT_SECRET", "our:secret")
    given = {"keys_url": "", "introspection": "https://id.example/introspect", "client_id": "mail gw", "issuer": "", "audience": []}
    return Issuer(answer, **{**given, "client_secret": Secret(variable="CLIENT_SECRET"), **settings})


@pytest.mark.parametrize(
    ("answer", "settings", "expected"),
    [
        ({"active": True, "sub": "ann"}, {}, "ann"),
        ({"active": True, "username": "ann", "sub": "5"}, {"claim": "username"}, "ann"),
        ({"active": False, "sub": "ann"}, {}, "no"),
        ({"active": "true", "sub": "ann"}, {}, "no"),
        ({"sub": "ann"}, {}, "no"),
        ({"active": True}, {}, "no"),
        ({"active": True, "sub": "ann", "exp": NOW - 100}, {}, "no"),
        ({"active": True, "sub": "ann", "aud": "web"}, {"audience": ["mail"]}, "no"),
        ({"active": True, "sub": "ann", "aud": "mail"}, {"audience": ["mail"]}, "ann"),
        ({"active": True, "sub": "ann", "scope": "web"}, {"scope": ["mail"]}, "no"),
        ({"active": True, "sub": "ann"}, {"scope": ["mail"]}, "no"),
        ({"active": True, "sub": "ann", "iss": "https://other.example/"}, {"issuer": "https://id.example/"}, "no"),
    ],
)
def test_introspection(answer: Any, settings: Any, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = introspecting((200, answer), monkeypatch, **settings)
    assert issuer.judge("opaque+token") == expected
    [(method, path, body, authorization)] = issuer.service.asked
    assert (method, path, authorization) == ("POST", "/introspect", f"Basic {base64.b64encode(b'mail+gw:our%3Asecret').decode()}")
    assert parse_qs(body.decode()) == {"token": ["opaque+token"], "token_type_hint": ["access_token"]}


@pytest.mark.parametrize(("status", "body"), [(401, {}), (500, {}), (200, b"x"), (302, {})])
def test_introspection_that_cannot_say(status: int, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert introspecting((status, body), monkeypatch).judge("t").startswith("unavailable: id.example")


def test_what_was_good_is_kept_until_it_ends_and_never_longer_than_said(monkeypatch: pytest.MonkeyPatch) -> None:
    issuer = introspecting((200, {"active": True, "sub": "ann", "exp": NOW + 30}), monkeypatch, cache=300.0)
    for _ in range(3):
        assert issuer.judge("t") == "ann"
    assert len(issuer.service.asked) == 1
    assert issuer.judge("t", "ben") == "no"
    issuer.clock.seconds += 30
    issuer.judge("t")
    assert len(issuer.service.asked) == 2
    bad = introspecting((200, {"active": False}), monkeypatch, cache=300.0)
    for _ in range(2):
        assert bad.judge("t") == "no"
    assert len(bad.service.asked) == 2  # what was bad is not kept


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"keys_url": ""}, "say keys or keys_url"),
        ({"introspection": "https://id.example/", "client_id": "x"}, "say keys or keys_url"),
        ({"issuer": ""}, "need issuer and audience"),
        ({"audience": []}, "need issuer and audience"),
        ({"keys_url": "http://id.example/"}, "keys_url must begin with https://"),
        ({"keys_url": "", "introspection": "https://id.example/"}, "needs client_id and client_secret"),
        ({"algorithms": []}, "algorithms is empty"),
    ],
)
def test_settings_that_make_no_sense(settings: Any, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Issuer(**settings)


def test_claims_are_looked_at_by_one_clock() -> None:
    wanted = Wanted("i", frozenset({"a"}))
    said = {"iss": "i", "aud": "a", "sub": "ann", "exp": time.time() + 5}
    assert wanted.check(said, time.time()).login == "ann"
    with pytest.raises(UnauthorizedLogin):
        wanted.check(said, time.time() + 100)
