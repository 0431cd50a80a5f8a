"""SCRAM as the client speaks it (RFC 5802, RFC 7677), with and without channel binding (RFC 5929, RFC 9266).

Our own, because scramp knows no ``tls-exporter``, the only binding of TLS 1.3.
"""

import hmac
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from hashlib import new, pbkdf2_hmac
from secrets import token_urlsafe

from attrs import frozen

from mailgw.smtp.sasl_dialogue import BadChallenge, Dialogue, saslname
from mailgw.smtp.saslprep import saslprep

__all__ = ["ChannelBinding", "Scram"]

# Fewer let whoever plays the server guess the password (RFC 5802 §5.1); more is only to keep us busy.
_ITERATIONS = range(4096, 1_000_001)
_HASHES = {"SCRAM-SHA-1": "sha1", "SCRAM-SHA-256": "sha256"}


@frozen
class ChannelBinding:
    """What only the two ends of one TLS connection know: ``ChannelBinding("tls-exporter", ...)``."""

    type: str  # "tls-exporter" (RFC 9266) or "tls-unique" (RFC 5929 §3)
    data: bytes


class Scram(Dialogue):
    """``SCRAM-SHA-1`` and ``SCRAM-SHA-256``, and with "-PLUS" behind; the server, too, must prove that it knows the password.

    ``binding``: that of the connection, also for the plain forms: then the server learns that we could have bound, and notices if
    somebody has hidden its "-PLUS" from us (RFC 5802 §6). Raises ValueError for a name or password that SASLprep forbids.
    """

    is_slow = True

    def __init__(
        self,
        mechanism: str,
        login: str,
        password: str,
        binding: ChannelBinding | None = None,
        nonce: Callable[[], str] = lambda: token_urlsafe(24),
    ) -> None:
        super().__init__(mechanism)
        plus = mechanism.endswith("-PLUS")
        if plus and binding is None:
            raise ValueError(f"{mechanism} needs a channel binding")
        self._hash = _HASHES[mechanism.removesuffix("-PLUS")]
        self._password = saslprep(password).encode()
        if plus and binding:
            self._gs2, self._bound = f"p={binding.type},,", binding.data
        else:
            self._gs2, self._bound = ("y,,", b"") if binding else ("n,,", b"")
        self._nonce = nonce()
        self._first = f"n={saslname(saslprep(login))},r={self._nonce}"
        self._signature = b""  # the server's, as it must be
        self._step = self._prove
        self.initial = f"{self._gs2}{self._first}".encode()
        self.is_satisfied = False

    def respond(self, challenge: bytes) -> bytes:
        """The answer to the server's first, then to its final message. Raises BadChallenge."""
        return self._step(challenge)

    def _prove(self, challenge: bytes) -> bytes:
        server_first, fields = _read(challenge)
        try:
            nonce, salt, iterations = fields["r"], b64decode(fields["s"], validate=True), _number(fields["i"])
        except (KeyError, ValueError):
            raise BadChallenge("server's first SCRAM message is malformed") from None
        if "m" in fields:  # RFC 5802 §5.1: mandatory extensions, of which there are none
            raise BadChallenge("server wants a SCRAM extension that does not exist")
        if not nonce.startswith(self._nonce) or nonce == self._nonce:
            raise BadChallenge("server's SCRAM nonce does not continue ours")
        if iterations not in _ITERATIONS or not salt:
            raise BadChallenge(f"server wants {iterations} SCRAM iterations: between {_ITERATIONS[0]} and {_ITERATIONS[-1]} are done")
        salted = pbkdf2_hmac(self._hash, self._password, salt, iterations)
        client_key = self._hmac(salted, b"Client Key")
        final = f"c={b64encode(self._gs2.encode() + self._bound).decode()},r={nonce}"
        message = f"{self._first},{server_first},{final}".encode()
        signature = self._hmac(new(self._hash, client_key).digest(), message)
        proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        self._signature = self._hmac(self._hmac(salted, b"Server Key"), message)
        self._step = self._verify
        return f"{final},p={b64encode(proof).decode()}".encode()

    def _verify(self, challenge: bytes) -> bytes:
        _, fields = _read(challenge)
        if "e" in fields:
            self.reason = fields["e"]
            self._step = super().respond
            return b""
        try:
            signature = b64decode(fields["v"], validate=True)
        except (KeyError, ValueError):
            raise BadChallenge("server's final SCRAM message is malformed") from None
        if not hmac.compare_digest(signature, self._signature):
            raise BadChallenge("server does not know the password either: its SCRAM signature is wrong")
        self.is_satisfied = True
        self._step = super().respond
        return b""

    def _hmac(self, key: bytes, message: bytes) -> bytes:
        return hmac.digest(key, message, self._hash)


def _read(challenge: bytes) -> tuple[str, Mapping[str, str]]:
    try:
        text = challenge.decode()
    except UnicodeDecodeError:
        raise BadChallenge("server's SCRAM message is not UTF-8") from None
    return text, {key: value for key, _, value in (part.partition("=") for part in text.split(","))}


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12):
        raise ValueError
    return int(text)
