"""SCRAM as a server speaks it, without a socket (RFC 5802, RFC 7677), with channel binding (RFC 5929, RFC 9266).

The first half reads whose proof it is, then somebody finds his verifier, then the second half challenges and looks at the proof.
"""

import hashlib
import hmac
import re
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Generator
from functools import partial
from typing import Protocol

from attrs import field, frozen

from mailgw.smtp.sasl import BadResponse, Circumstances, Claim, Exchange, NotProved, saslname_in, text_in

__all__ = ["HASHES", "ScramClaim", "Verifier", "scram"]

HASHES = {"SHA-256": "sha256", "SHA-1": "sha1"}
"""As SCRAM's names call them, and as `hashlib` does."""

_MAX_MESSAGE = 4096  # octets
_MAX_NONCE = 512
# RFC 5802 §7: gs2-header, then client-first-message-bare. "m=" is a mandatory extension that nobody knows yet.
_FIRST = re.compile(rb"((?:([yn])|p=([A-Za-z0-9.-]+)),(?:a=([^,]*))?,)(n=([^,]+),r=([!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*)\Z")
_FINAL = re.compile(rb"(c=([A-Za-z0-9+/=]+),r=([!-+\--~]+)(?:,[A-Za-z]=[^,\0]+)*),p=([A-Za-z0-9+/=]+)\Z")


class Verifier(Protocol):
    """What is kept of a password (RFC 5802 §3)."""

    @property
    def salt(self) -> bytes: ...
    @property
    def iterations(self) -> int: ...
    @property
    def stored_key(self) -> bytes: ...
    @property
    def server_key(self) -> bytes: ...


@frozen
class ScramClaim(Claim):
    """The first half is over: the client waits for salt and iterations."""

    hash_name: str  # "SHA-1" or "SHA-256"
    _first_bare: bytes = field(repr=False)
    _nonce: bytes = field(repr=False)  # the client's and ours
    _binding: bytes = field(repr=False)  # what the final message must repeat (RFC 5802 §7, cbind-input)

    def proof(self, verifier: Verifier) -> Generator[bytes, bytes, bool]:
        """Challenge, and look at the proof; where it is good, show in turn that we know the verifier. Raises BadResponse."""
        first = b"r=%b,s=%b,i=%d" % (self._nonce, b64encode(verifier.salt), verifier.iterations)
        final = yield first
        match = _FINAL.match(final) if len(final) <= _MAX_MESSAGE else None
        if match is None:
            raise BadResponse("response is no SCRAM final message")
        without_proof, binding, nonce, proof = match.groups()
        message = b",".join((self._first_bare, first, without_proof))
        digest = HASHES[self.hash_name]
        signature = hmac.digest(verifier.stored_key, message, digest)
        key = _xor(_decoded(proof), signature)
        good = hmac.compare_digest(hashlib.new(digest, key).digest(), verifier.stored_key)
        # All three are always looked at: what fails is not told.
        good &= hmac.compare_digest(_decoded(binding), self._binding)
        good &= hmac.compare_digest(nonce, self._nonce)
        if good and (yield b"v=" + b64encode(hmac.digest(verifier.server_key, message, digest))):
            raise BadResponse("response to the server's signature is not empty")
        return good


def _decoded(text: bytes) -> bytes:
    try:
        return b64decode(text, validate=True)
    except (NotBase64, ValueError):
        raise BadResponse("response holds base64 that is none") from None


def _xor(proof: bytes, signature: bytes) -> bytes:
    # A proof of another length is none: the key is then no key, and its hash fits nothing.
    return bytes(a ^ b for a, b in zip(proof, signature, strict=True)) if len(proof) == len(signature) else b""


def scram(hash_name: str, plus: bool) -> Callable[[Circumstances], Exchange]:
    """The mechanism for a hash; ``plus``: in the form with channel binding."""
    return partial(_first_half, hash_name, plus)


def _first_half(hash_name: str, plus: bool, circumstances: Circumstances) -> Exchange:
    response = yield b""
    match = _FIRST.match(response) if len(response) <= _MAX_MESSAGE else None
    if match is None:
        raise BadResponse("response is no SCRAM first message")
    header, flag, kind, authzid, bare, name, nonce = match.groups()
    username = saslname_in(name)
    if not username or len(nonce) > _MAX_NONCE:
        raise BadResponse("name is empty, or the nonce too long")
    binding: bytes = header
    if plus:
        # The flags must fit the form that the client chose (RFC 5802 §6).
        bound = circumstances.channel.bindings.get(text_in(kind or b"", 64))
        if bound is None:
            raise NotProved("no channel binding, or one of a type that this connection does not have")
        binding += bound
    elif flag == b"y" and circumstances.plus_offered:
        raise NotProved("the client was not told that we bind channels: somebody stands between")  # RFC 5802 §6: a downgrade
    elif kind is not None:
        raise NotProved("channel binding in a mechanism without")
    return ScramClaim(
        username,
        hash_name,
        first_bare=bare,
        nonce=nonce + circumstances.nonce.encode(),
        binding=binding,
        authzid=saslname_in(authzid or b""),
    )
