"""The public keys of those who sign tokens (RFC 7517): from a file or a URL, fetched again when a new key appears."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from attrs import define, field, frozen
from jwt.algorithms import get_default_algorithms
from jwt.exceptions import InvalidKeyError
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.web.iweb import IAgent

from mailgw.credentials import AccountsUnavailable
from mailgw.login.web import ask_web, json_object

__all__ = ["Algorithm", "Key", "KeySet"]

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""Signatures with a private key, which only the issuer has (RFC 7518 §3.1, RFC 8037). "none" and HS256 are no such thing."""

_MOST_KEYS = 100
_LEAST_RSA = 2048  # bits (RFC 7518 §3.3)
_LIFETIME = 3600.0  # seconds that fetched keys count
_PAUSE = 60.0  # seconds between two fetches, whatever keys the tokens name
_MAX_ANSWER = 1 << 20  # octets
_log = Logger(namespace="mailgw.login")


@frozen
class Key:
    """A public key and what it may be used for."""

    id: str
    algorithm: str  # empty: any that fits its type
    jwk: Mapping[str, Any] = field(repr=False)

    def verifier(self, algorithm: str) -> Any:
        """The key as PyJWT wants it, or None where it is not for this algorithm."""
        if self.algorithm not in ("", algorithm):
            return None
        try:
            key: Any = get_default_algorithms()[algorithm].from_jwk(dict(self.jwk))
        except (InvalidKeyError, KeyError, ValueError, TypeError):
            return None
        if self.jwk.get("kty") == "RSA" and key.key_size < _LEAST_RSA:
            return None
        if algorithm.startswith("ES") and self.jwk.get("crv") != {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}[algorithm]:
            return None
        return key


@define(eq=False)
class KeySet:
    """The keys behind ``source``, a path or a URL."""

    source: str | Path
    agent: IAgent
    clock: IReactorTime
    timeout: float = 10.0
    _keys: Sequence[Key] = field(default=(), init=False)
    _stamp: float = field(default=-1.0, init=False)  # of the file
    _fetched: float | None = field(default=None, init=False)  # when keys were last heard
    _tried: float | None = field(default=None, init=False)
    _fetching: list["Deferred[None]"] | None = field(default=None, init=False)

    async def keys_for(self, key_id: str | None) -> Sequence[Key]:
        """The keys that a token may have been signed with: the one it names, or all, where it names none.

        A name that nobody knows makes us look again, but no more often than once a minute. Raises AccountsUnavailable when no
        keys can be had.
        """
        if isinstance(self.source, Path):
            self.read(self.source)
        elif self._is_old() or (key_id is not None and not self._named(key_id)):
            await self._refresh(self.source)
        return self._named(key_id)

    def _named(self, key_id: str | None) -> Sequence[Key]:
        return [key for key in self._keys if key_id is None or key.id == key_id]

    def _is_old(self) -> bool:
        return self._fetched is None or self.clock.seconds() - self._fetched >= _LIFETIME

    def read(self, path: Path) -> None:
        """Read the file, if it has changed. Raises AccountsUnavailable when there are no keys then."""
        try:
            stamp = path.stat().st_mtime
            if stamp != self._stamp:
                self._keys = _keys_in(json_object(path.read_bytes(), str(path)))
                self._stamp = stamp
        except (OSError, AccountsUnavailable) as problem:
            if not self._keys:
                raise AccountsUnavailable(f"{path}: {getattr(problem, 'strerror', None) or problem}") from None
            _log.warn("keys in {path} cannot be read, the old ones count: {problem}", path=str(path), problem=str(problem))

    async def _refresh(self, url: str) -> None:
        if self._fetching is not None:
            turn: Deferred[None] = Deferred()
            self._fetching.append(turn)
            await turn
        elif self._tried is None or self.clock.seconds() - self._tried >= _PAUSE:
            self._fetching = []
            self._tried = self.clock.seconds()
            try:
                await self._fetch(url)
            except AccountsUnavailable as problem:
                _log.warn("keys cannot be fetched: {problem}", problem=str(problem))
            finally:
                waiting, self._fetching = self._fetching, None
                for turn in waiting:
                    if not turn.called:
                        turn.callback(None)
        if not self._keys:
            raise AccountsUnavailable(f"there are no keys from {urlsplit(url).hostname}")

    async def _fetch(self, url: str) -> None:
        status, body = await ask_web(self.agent, self.clock, "GET", url, headers={}, timeout=self.timeout, limit=_MAX_ANSWER)
        host = urlsplit(url).hostname or ""
        if status != 200:
            raise AccountsUnavailable(f"{host} answered with HTTP status {status}")
        self._keys = _keys_in(json_object(body, host))
        self._fetched = self.clock.seconds()


def _keys_in(said: Mapping[str, Any]) -> Sequence[Key]:
    """The public keys for signatures. Raises AccountsUnavailable."""
    found = said.get("keys")
    if not isinstance(found, list):
        raise AccountsUnavailable("it holds no set of keys")
    keys = []
    for jwk in found[:_MOST_KEYS]:
        # A symmetric or private key ("d") in a public place is no secret: whoever reads it could sign.
        if isinstance(jwk, Mapping) and jwk.get("kty") in ("RSA", "EC", "OKP") and "d" not in jwk and jwk.get("use", "sig") == "sig":
            keys.append(Key(str(jwk.get("kid", "")), str(jwk.get("alg", "")), jwk))
    if not keys:
        raise AccountsUnavailable("it holds no key that signs")
    return keys
