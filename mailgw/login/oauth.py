"""Accounts by access token (OAUTHBEARER and XOAUTH2): signed ones are read, others are shown to their issuer."""

import hashlib
from base64 import b64encode
from collections import OrderedDict
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote_plus, urlencode, urlsplit

import jwt
from attrs import Factory, define, field, frozen
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, IBearerToken
from mailgw.given import given
from mailgw.interfaces import IClock
from mailgw.login.claims import Claims, Wanted
from mailgw.login.jwks import Algorithm, KeySet
from mailgw.login.web import ask_web, json_object, safe_url
from mailgw.values.quantities import Duration
from mailgw.values.secret import Secret

__all__ = ["OAuthAccounts"]

_MAX_TOKEN = 16384  # octets
_MOST_KEPT = 10_000  # tokens


@define(eq=False)
class _Kept:
    """What tokens were worth, by their hash; never themselves."""

    found: "OrderedDict[bytes, tuple[str, float]]" = field(factory=OrderedDict)

    def login(self, token: bytes, now: float) -> str | None:
        login, until = self.found.get(token, (None, 0.0))
        return login if now < until else None

    def keep(self, token: bytes, login: str, until: float) -> None:
        self.found[token] = login, until
        while len(self.found) > _MOST_KEPT:
            self.found.popitem(last=False)


@implementer(IAccounts)
@frozen
class OAuthAccounts:
    """``type = "oauth"``: access tokens that are signed with the issuer's keys, or that the issuer calls active.

    The claim called ``claim`` is the login; a client that names a user must name this one. Raises ValueError for settings that do not
    fit together.
    """

    issuer: str = ""
    """What tokens must say as iss."""
    audience: list[str] = Factory(list)
    """One of these must be in aud: a token for somebody else is not for us."""
    claim: str = "sub"
    """"email" or "preferred_username" with many providers."""
    scope: list[str] = Factory(list)
    """All of these must be in scope."""
    parties: list[str] = Factory(list)
    """azp or client_id must be one of these; empty: any."""
    keys: Path | None = None
    """A file with the issuer's public keys, a JWKS (RFC 7517); read again when it changes."""
    keys_url: str = field(default="", validator=safe_url)
    """Where they are found, in place of a file."""
    algorithms: list[Algorithm] = field(factory=lambda: list(get_args(Algorithm)))
    """How tokens may be signed."""
    introspection: str = field(default="", validator=safe_url)
    """A URL that says whether a token is active (RFC 7662)."""
    client_id: str = ""
    client_secret: Secret | None = None
    """Who we are there."""
    leeway: Duration = 60.0
    """How much clocks may differ."""
    cache: Duration = 0.0
    """How long a good token is believed without looking again, at most until it ends."""
    timeout: Duration = 10.0
    agent: IAgent = given(IAgent)
    clock: IClock = given(IClock)
    steady: IReactorTime = given(IReactorTime)
    _wanted: Wanted = field(init=False, repr=False, eq=False)
    _keys: KeySet = field(init=False, repr=False, eq=False)
    _kept: _Kept = field(init=False, repr=False, eq=False, factory=_Kept)

    credentialInterfaces = (IBearerToken,)  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        if [bool(self.keys), bool(self.keys_url), bool(self.introspection)].count(True) != 1:
            raise ValueError("say keys or keys_url, for tokens that are signed, or introspection, for those that are not")
        if not self.introspection and not (self.issuer and self.audience):
            raise ValueError("signed tokens need issuer and audience: else any token of anybody would do")
        if self.introspection and not (self.client_id and self.client_secret):
            raise ValueError("introspection needs client_id and client_secret")
        if not self.algorithms:
            raise ValueError("algorithms is empty")
        wanted = Wanted(self.issuer, frozenset(self.audience), frozenset(self.scope), frozenset(self.parties), self.claim, self.leeway)
        object.__setattr__(self, "_wanted", wanted)
        keys = KeySet(self.keys or self.keys_url, self.agent, self.steady, self.timeout)
        object.__setattr__(self, "_keys", keys)
        if self.keys is not None:
            try:
                keys.read(self.keys)
            except AccountsUnavailable as problem:
                raise ValueError(f"keys: {problem}") from None

    def mechanisms(self) -> frozenset[str]:
        """Both of tokens."""
        return frozenset({"OAUTHBEARER", "XOAUTH2"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        token: str = credentials.token
        if not token or len(token) > _MAX_TOKEN or not token.isascii():
            raise UnauthorizedLogin()
        now = self.clock.now().timestamp()
        hashed = hashlib.sha256(token.encode()).digest()
        login = self._kept.login(hashed, now)
        if login is None:
            claims = await (self._introspect(token, now) if self.introspection else self._read(token, now))
            login = claims.login
            if self.cache:
                self._kept.keep(hashed, login, min(now + self.cache, claims.until))
        if credentials.username not in ("", login):
            raise UnauthorizedLogin()
        return login

    async def _read(self, token: str, now: float) -> Claims:
        """A JWT (RFC 7519). The algorithm is one of ours, and the key must be for it: RFC 8725 §3.1."""
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError:
            raise UnauthorizedLogin() from None
        algorithm, key_id = header.get("alg"), header.get("kid")
        # RFC 7515 §4.1.11: what is critical there we do not know.
        if algorithm not in self.algorithms or not (key_id is None or isinstance(key_id, str)) or "crit" in header:
            raise UnauthorizedLogin()
        for key in await self._keys.keys_for(key_id):
            verifier = key.verifier(algorithm)
            if verifier is None:
                continue
            try:
                said = jwt.decode(token, verifier, algorithms=[algorithm], options=_SIGNATURE_ONLY)
            except jwt.PyJWTError:
                continue
            return self._wanted.check(said, now)
        raise UnauthorizedLogin()

    async def _introspect(self, token: str, now: float) -> Claims:
        secret = self.client_secret
        assert secret
        try:
            pair = f"{quote_plus(self.client_id)}:{quote_plus(secret.read().decode())}"
        except (OSError, UnicodeDecodeError) as problem:
            raise AccountsUnavailable(f"client_secret cannot be read: {getattr(problem, 'strerror', None) or 'not UTF-8'}") from None
        status, body = await ask_web(
            self.agent,
            self.steady,
            "POST",
            self.introspection,
            headers={
                "Content-Type": "application/x-www-form-urlencoded",
                "Authorization": f"Basic {b64encode(pair.encode()).decode()}",
            },
            body=urlencode({"token": token, "token_type_hint": "access_token"}).encode(),
            timeout=self.timeout,
        )
        host = urlsplit(self.introspection).hostname or ""
        if status != 200:  # 401 is about us: RFC 7662 §2.3
            raise AccountsUnavailable(f"{host} answered with HTTP status {status}")
        said = json_object(body, host)
        if said.get("active") is not True:
            raise UnauthorizedLogin()
        return self._wanted.check(said, now, vouched=True)


_SIGNATURE_ONLY: Any = {
    "verify_signature": True,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_aud": False,
    "verify_iss": False,
    "verify_sub": False,
    "verify_jti": False,
}
"""What a token says is looked at by `Wanted`, by our clock."""
