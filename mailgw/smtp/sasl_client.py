"""Logging in as a client (RFC 4954): the mechanisms, and which of them is used."""

import hmac
import json
from collections.abc import Collection

from attrs import field, frozen

from mailgw.smtp.sasl_dialogue import Dialogue, saslname
from mailgw.smtp.scram_client import ChannelBinding, Scram

__all__ = ["NoMechanism", "Proof", "choose"]

_SCRAM_PLUS = ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS")
_SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-1")
_TELLING = ("PLAIN", "LOGIN")  # these tell the server the password
_TOKEN = ("OAUTHBEARER", "XOAUTH2")


class NoMechanism(Exception):
    """There is no mechanism by which we can and will log in here; the message says why."""


@frozen
class Proof:
    """Who we are at a server, and what we can show for it: a password, an access token, a certificate that TLS has shown already."""

    login: str = ""
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    certificate: bool = False

    def __attrs_post_init__(self) -> None:
        if any("\0" in text or "\1" in text for text in (self.login, self.password or "", self.token or "")):
            raise ValueError("login, password and token hold no control characters")


def choose(proof: Proof, offered: Collection[str], *, verified: bool, binding: ChannelBinding | None = None) -> Dialogue:
    """The strongest mechanism that both sides have.

    ``verified``: TLS protects the connection and the server's certificate was verified; without that, nothing is shown that could be
    used by whoever hears it. ``binding``: that of the TLS connection, if it has one. Raises NoMechanism, and ValueError for what cannot
    be said in the mechanism.
    """
    able: list[str] = []
    if proof.certificate:
        able.append("EXTERNAL")
    if proof.token is not None:
        able += _TOKEN
    if proof.password is not None:
        able += [*(_SCRAM_PLUS if binding else ()), *_SCRAM, "CRAM-MD5", *_TELLING]
    kept_back = () if verified else (*_TELLING, *_TOKEN)
    for mechanism in able:
        if mechanism in offered and mechanism not in kept_back:
            return _dialogue(mechanism, proof, binding)
    if not offered:
        raise NoMechanism("no login is offered")
    names = ", ".join(sorted(offered))
    if any(mechanism in offered for mechanism in able):
        raise NoMechanism(f"of {names} none is used without TLS and a valid certificate")
    raise NoMechanism(f"{names} are offered, and we have {', '.join(able) or 'nothing to show'}")


def _dialogue(mechanism: str, proof: Proof, binding: ChannelBinding | None) -> Dialogue:
    password, token = proof.password or "", proof.token or ""
    match mechanism:
        case "EXTERNAL":
            return _Once(mechanism, proof.login.encode())  # RFC 4422 appendix A: the authzid
        case "OAUTHBEARER":
            return _Bearer(mechanism, f"n,a={saslname(proof.login)},\1auth=Bearer {token}\1\1".encode(), b"\1")  # RFC 7628 §3.1
        case "XOAUTH2":
            # https://developers.google.com/workspace/gmail/imap/xoauth2-protocol
            return _Bearer(mechanism, f"user={proof.login}\1auth=Bearer {token}\1\1".encode(), b"")
        case "CRAM-MD5":
            return _CramMd5(mechanism, proof.login, password)
        case "PLAIN":
            return _Once(mechanism, f"\0{proof.login}\0{password}".encode())  # RFC 4616 §2
        case "LOGIN":
            return _Login(mechanism, proof.login, password)
        case _:
            return Scram(mechanism, proof.login, password, binding)


class _Once(Dialogue):
    """All is said in the initial response."""

    def __init__(self, mechanism: str, initial: bytes) -> None:
        super().__init__(mechanism)
        self.initial = initial


class _Bearer(_Once):
    """A token; a server that refuses it says why in a challenge, to which there is but one answer (RFC 7628 §3.2.3)."""

    def __init__(self, mechanism: str, initial: bytes, sorry: bytes) -> None:
        super().__init__(mechanism, initial)
        self._sorry: bytes | None = sorry

    def respond(self, challenge: bytes) -> bytes:
        sorry, self._sorry = self._sorry, None
        if sorry is None:
            return super().respond(challenge)
        self.is_satisfied = False
        try:
            status = json.loads(challenge)["status"]
        except (ValueError, KeyError, TypeError, RecursionError):
            status = "no reason that can be read"
        self.reason = "".join(c if " " <= c <= "~" else "?" for c in str(status)[:100])
        return sorry


class _CramMd5(Dialogue):
    """RFC 2195 §2."""

    def __init__(self, mechanism: str, login: str, password: str) -> None:
        super().__init__(mechanism)
        self._login = login
        self._password: str | None = password

    def respond(self, challenge: bytes) -> bytes:
        password, self._password = self._password, None
        if password is None:
            return super().respond(challenge)
        return f"{self._login} {hmac.digest(password.encode(), challenge, 'md5').hex()}".encode()


class _Login(Dialogue):
    """The name, then the password; what the server asks with is not looked at (draft-murchison-sasl-login-00)."""

    def __init__(self, mechanism: str, login: str, password: str) -> None:
        super().__init__(mechanism)
        self._answers = [password, login]

    def respond(self, challenge: bytes) -> bytes:
        return self._answers.pop().encode() if self._answers else super().respond(challenge)
