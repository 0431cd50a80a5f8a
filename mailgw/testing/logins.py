"""Who may log in at a `MailServer`, by whatever mechanism it offers."""

from base64 import b64decode, b64encode
from collections.abc import Generator, Mapping
from hashlib import new, pbkdf2_hmac
from hmac import digest
from typing import Any

from attrs import Factory, define, field, frozen
from OpenSSL import SSL

from mailgw.gateways.tls_binding import binding_of
from mailgw.smtp.mechanisms import MECHANISMS, Mechanism
from mailgw.smtp.sasl import (
    REFUSED_TOKENS,
    BadResponse,
    Certificate,
    CertificateClaim,
    Channel,
    Circumstances,
    Claim,
    DigestClaim,
    NotProved,
    PasswordClaim,
    TokenClaim,
)
from mailgw.smtp.scram import HASHES, ScramClaim

__all__ = ["Logins"]


@frozen
class _Verifier:
    salt: bytes
    iterations: int
    stored_key: bytes
    server_key: bytes


@define(eq=False)
class Logins:
    """``MailServer(logins=Logins({"ann": "secret"}, mechanisms=("PLAIN",)))`` takes mail from ann alone."""

    passwords: Mapping[str, str] = field(factory=dict, repr=False)
    tokens: set[str] = field(factory=set, repr=False)
    mechanisms: tuple[str, ...] = Factory(lambda: tuple(MECHANISMS))
    iterations: int = 4096  # of SCRAM
    used: list[tuple[str, str]] = field(factory=list)  # mechanism and name of everybody who has logged in
    certificates: list[str] = field(factory=list)  # SHA-256 fingerprints of those shown for EXTERNAL

    def exchange(self, name: str, transport: Any) -> Generator[bytes, bytes, bool]:
        """A whole exchange: gives challenges, is sent responses; whether the proof is good."""
        mechanism: Mechanism = MECHANISMS[name]
        plus = f"{name}-PLUS" in self.mechanisms
        circumstances = Circumstances(nonce="ABCdef123", hostname="mail.example", channel=_channel(transport), plus_offered=plus)
        try:
            claim = yield from mechanism.begin(circumstances)
            good = yield from self._judge(claim)
        except (BadResponse, NotProved):
            return False
        if good:
            self.used.append((name, claim.username))
        elif isinstance(claim, TokenClaim):
            yield REFUSED_TOKENS[name]
        return good

    def _judge(self, claim: Claim) -> Generator[bytes, bytes, bool]:
        password = self.passwords.get(claim.username)
        if isinstance(claim, TokenClaim):
            return claim.token in self.tokens
        if isinstance(claim, CertificateClaim):
            self.certificates.append(claim.certificate.fingerprint)
            return True
        if password is None:
            return False
        if isinstance(claim, DigestClaim):
            return claim.digest == digest(password.encode(), claim.challenge, "md5").hex()
        if isinstance(claim, ScramClaim):
            return (yield from claim.proof(self._verifier(HASHES[claim.hash_name], password)))
        return isinstance(claim, PasswordClaim) and claim.password == password

    def _verifier(self, name: str, password: str) -> _Verifier:
        salt = b"salt of sixteen!"
        salted = pbkdf2_hmac(name, password.encode(), salt, self.iterations)
        key = digest(salted, b"Client Key", name)
        return _Verifier(salt, self.iterations, new(name, key).digest(), digest(salted, b"Server Key", name))


@define(eq=False)
class LoginSession:
    """The AUTH command of one session of a `MailServer`."""

    logins: Logins
    transport: Any
    _exchange: Generator[bytes, bytes, bool] | None = field(default=None, init=False)
    is_done: bool = field(default=False, init=False)

    @property
    def is_asking(self) -> bool:
        """Whether the next line is a response."""
        return self._exchange is not None

    def begin(self, line: str) -> str:
        """The answer to an AUTH command."""
        _, name, *initial = line.split(" ")
        if name not in self.logins.mechanisms:
            return "504 5.5.4 no such mechanism"
        self._exchange = self.logins.exchange(name, self.transport)
        challenge = next(self._exchange)
        if initial:
            return self._send(b"" if initial[0] == "=" else b64decode(initial[0]))
        return f"334 {b64encode(challenge).decode()}"

    def go_on(self, line: str) -> str:
        """The answer to a response."""
        if line == "*":
            self._exchange = None
            return "501 5.7.0 cancelled"
        return self._send(b64decode(line))

    def _send(self, response: bytes) -> str:
        assert self._exchange
        try:
            return f"334 {b64encode(self._exchange.send(response)).decode()}"
        except StopIteration as end:
            self._exchange = None
            self.is_done = bool(end.value)
            return "235 2.7.0 welcome" if self.is_done else "535 5.7.8 wrong name or password"


def _channel(transport: Any) -> Channel:
    handle = transport.getHandle() if hasattr(transport, "getHandle") else None
    if not isinstance(handle, SSL.Connection):
        return Channel()
    binding = binding_of(transport)
    if binding is not None and binding.type == "tls-unique":
        binding = None if handle.get_peer_finished() is None else type(binding)(binding.type, handle.get_peer_finished() or b"")
    shown = handle.get_peer_certificate()
    certificate = Certificate(shown.digest("sha256").decode().replace(":", "").lower()) if shown else None
    return Channel({binding.type: binding.data} if binding else {}, certificate)
