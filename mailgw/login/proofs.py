"""What a client shows, in the form that each of several accounts understands: twisted.cred's credentials."""

import hmac
from typing import Any

from attrs import define, field, frozen
from twisted.cred.credentials import ICredentials, IUsernameHashedPassword, IUsernamePassword
from zope.interface import implementer
from zope.interface.interface import InterfaceClass

from mailgw.credentials import AccountsUnavailable, IAccounts, IBearerToken, IClientCertificate, ISaslDialogue, IScramProof, ScramVerifier
from mailgw.login.tape import Tape, drive
from mailgw.smtp.mechanisms import base_of
from mailgw.smtp.sasl import BadResponse, CertificateClaim, Claim, DigestClaim, PasswordClaim, TokenClaim
from mailgw.smtp.scram import ScramClaim

__all__ = ["IShown", "Shown", "can_serve", "serves_itself"]

_FORMS: dict[str, InterfaceClass] = {
    "PLAIN": IUsernamePassword,
    "LOGIN": IUsernamePassword,
    "CRAM-MD5": IUsernameHashedPassword,
    "SCRAM-SHA-1": IScramProof,
    "SCRAM-SHA-256": IScramProof,
    "OAUTHBEARER": IBearerToken,
    "XOAUTH2": IBearerToken,
    "EXTERNAL": IClientCertificate,
}
_NEVER_PASSED_ON = frozenset({"EXTERNAL", "ANONYMOUS"})  # others cannot see the certificate, and would believe any name


def serves_itself(accounts: IAccounts, mechanism: str) -> bool:
    """Whether the accounts take the credentials that we make of the mechanism."""
    base = base_of(mechanism)
    return _FORMS.get(base) in accounts.credentialInterfaces and base in _mechanisms_of(accounts)


def can_serve(accounts: IAccounts, mechanism: str) -> bool:
    """Whether the accounts can judge the mechanism, be it by leading the exchange themselves."""
    if serves_itself(accounts, mechanism):
        return True
    passed_on = ISaslDialogue in accounts.credentialInterfaces and mechanism not in _NEVER_PASSED_ON
    return passed_on and mechanism in _mechanisms_of(accounts)  # channel binding cannot be passed on: no -PLUS


def _mechanisms_of(accounts: IAccounts) -> frozenset[str]:
    try:
        return accounts.mechanisms()
    except BaseException:  # that is said where mechanisms are offered
        return frozenset()


@implementer(IUsernamePassword)
@frozen
class Password:
    """Of PLAIN and LOGIN."""

    username: str
    password: str = field(repr=False)

    def checkPassword(self, password: str | bytes) -> bool:  # noqa: N802 - twisted.cred's name
        """Whether it is this one."""
        return hmac.compare_digest(_octets(password), self.password.encode())


@implementer(IUsernameHashedPassword)
@frozen
class Digest:
    """Of CRAM-MD5 (RFC 2195)."""

    username: str
    _claim: DigestClaim = field(repr=False)

    def checkPassword(self, password: str | bytes) -> bool:  # noqa: N802 - twisted.cred's name
        """Whether the digest was made with this one."""
        return hmac.compare_digest(hmac.new(_octets(password), self._claim.challenge, "md5").hexdigest(), self._claim.digest)


def _octets(password: str | bytes) -> bytes:
    return password if isinstance(password, bytes) else password.encode()


@implementer(IBearerToken)
@frozen
class Token:
    """Of OAUTHBEARER and XOAUTH2."""

    username: str
    token: str = field(repr=False)


@implementer(IClientCertificate)
@frozen
class ShownCertificate:
    """Of EXTERNAL."""

    username: str
    fingerprint: str
    names: tuple[str, ...]


@implementer(IScramProof)
@frozen
class ScramProof:
    """Of SCRAM."""

    username: str
    hash_name: str
    _shown: "Shown" = field(repr=False)
    _claim: ScramClaim = field(repr=False)
    _others: bool  # whether other accounts will be asked after these
    _turn: int

    async def prove(self, verifier: ScramVerifier) -> bool:
        _check_turn(self._turn, self._shown.tape)
        if self._shown.spent or verifier.hash_name != self.hash_name or (verifier.made_up and self._others):
            return False  # the exchange happens once: with those who know the user, or with the last ones
        self._shown.spent = True
        try:
            good = await drive(self._claim.proof(verifier), self._shown.tape.ask)
        except BadResponse as problem:
            self._shown.tape.ended = problem
            raise
        return good and not verifier.made_up


@implementer(ISaslDialogue)
@define(eq=False)
class Dialogue:
    """A whole exchange; what the client has said before is said again."""

    mechanism: str
    initial: bytes | None = field(repr=False)
    _tape: Tape = field(repr=False)
    _replayed: int = field(repr=False)  # of what the tape has
    _turn: int = field(repr=False)
    username: str = ""

    async def respond(self, challenge: bytes) -> bytes:
        _check_turn(self._turn, self._tape)
        if self._replayed < len(self._tape.heard):
            self._replayed += 1
            return self._tape.heard[self._replayed - 1]
        response = await self._tape.ask(challenge)
        self._replayed = len(self._tape.heard)
        return response


def _check_turn(turn: int, tape: Tape) -> None:
    # Whoever was given up, and goes on all the same, must not speak to a client that others speak to by now.
    if turn != tape.turn:
        raise AccountsUnavailable("the time for an answer is over")


class IShown(ICredentials):
    """What our portal takes."""


@implementer(IShown)
@define(eq=False)
class Shown:
    """What one client shows in one exchange."""

    mechanism: str
    tape: Tape = field(repr=False)
    claim: Claim | None  # None: only accounts that lead the exchange themselves can judge it
    spent: bool = False  # what must happen only once has happened

    def form_for(self, accounts: IAccounts, others: bool) -> Any:
        """The credentials for these accounts, or None where they can make nothing of them; ``others`` are still to be asked."""
        if self.spent or not can_serve(accounts, self.mechanism):
            return None
        claim = self.claim
        if claim is None or not serves_itself(accounts, self.mechanism):
            return self._dialogue()
        if isinstance(claim, PasswordClaim):
            return Password(claim.username, claim.password)
        if isinstance(claim, DigestClaim):
            return Digest(claim.username, claim)
        if isinstance(claim, TokenClaim):
            return Token(claim.username, claim.token) if claim.token else None
        if isinstance(claim, CertificateClaim):
            return ShownCertificate(claim.username, claim.certificate.fingerprint, claim.certificate.names)
        if isinstance(claim, ScramClaim):
            return ScramProof(claim.username, claim.hash_name, self, claim, others, self.tape.turn)
        return None

    def _dialogue(self) -> Dialogue | None:
        if isinstance(self.claim, DigestClaim):
            return None  # it answers our challenge, not theirs
        # A name and a password can be shown again and again, other exchanges happen once.
        self.spent = not isinstance(self.claim, (PasswordClaim, TokenClaim))
        initial = self.tape.take_initial()
        return Dialogue(self.mechanism, initial, self.tape, 0 if initial is None else 1, self.tape.turn)
