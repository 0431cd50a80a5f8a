"""Accounts that a test writes down as a dict, with every mechanism that there is."""

from collections.abc import Mapping
from hashlib import new, pbkdf2_hmac
from hmac import digest
from typing import Any

from attrs import define, field
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, IBearerToken, IClientCertificate, IScramProof, ScramVerifier

__all__ = ["Users", "a_verifier"]

_SALT = b"sixteen octets.."
_HASHES = {"SHA-1": "sha1", "SHA-256": "sha256"}


def a_verifier(password: str, hash_name: str = "SHA-256", salt: bytes = _SALT, iterations: int = 4096) -> ScramVerifier:
    """What is kept of a password for SCRAM (RFC 5802 §3); ``hash_name`` is "SHA-1" or "SHA-256"."""
    name = _HASHES[hash_name]
    salted = pbkdf2_hmac(name, password.encode(), salt, iterations)
    stored = new(name, digest(salted, b"Client Key", name)).digest()
    return ScramVerifier(hash_name, salt, iterations, stored, digest(salted, b"Server Key", name))


@implementer(IAccounts)
@define(eq=False)
class Users:
    """``Users({"anna": "secret"})`` believes anna; each name is its own login."""

    passwords: Mapping[str, str] = field(factory=dict, repr=False)
    tokens: Mapping[str, str] = field(factory=dict, repr=False)  # whose a token is
    fingerprints: Mapping[str, str] = field(factory=dict)  # whose a certificate is
    names: frozenset[str] = frozenset(
        {"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "EXTERNAL"}
    )
    salt: bytes = _SALT
    unavailable: str = ""  # why nobody can say now
    fault: Exception | None = None  # what is wrong with us
    hang: bool = False  # never answer
    asked: list[str] = field(factory=list)  # the names that were looked for
    credentialInterfaces: Any = field(  # noqa: N815 - twisted.cred's name
        default=(IUsernamePassword, IUsernameHashedPassword, IScramProof, IBearerToken, IClientCertificate), init=False
    )

    def mechanisms(self) -> frozenset[str]:
        """As they were given."""
        return self.names

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """Raises UnauthorizedLogin, AccountsUnavailable, and the fault."""
        name = credentials.username
        self.asked.append(name)
        if self.hang:
            await Deferred()
        if self.unavailable:
            raise AccountsUnavailable(self.unavailable)
        if self.fault is not None:
            raise self.fault
        password = self.passwords.get(name)
        good = False
        if IScramProof.providedBy(credentials):
            verifier = a_verifier(password or "", credentials.hash_name, self.salt)
            verifier = verifier if password is not None else _made_up(verifier)
            good = await credentials.prove(verifier)
        elif IBearerToken.providedBy(credentials):
            owner = self.tokens.get(credentials.token)
            good, name = owner is not None and name in ("", owner), owner
        elif IClientCertificate.providedBy(credentials):
            owner = self.fingerprints.get(credentials.fingerprint)
            good, name = owner is not None and name in ("", owner), owner
        elif password is not None:
            good = credentials.checkPassword(password)
        if not good:
            raise UnauthorizedLogin()
        return str(name)


def _made_up(verifier: ScramVerifier) -> ScramVerifier:
    return ScramVerifier(verifier.hash_name, verifier.salt, verifier.iterations, verifier.stored_key, verifier.server_key, made_up=True)
