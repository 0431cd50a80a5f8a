"""What is kept of a password: the hashes that htpasswd and Dovecot files hold, told apart, checked and made.

The libraries do the hashing: argon2-cffi, bcrypt, libpass (imported as ``passlib``), hashlib. Hashes without a salt, or of functions
that are broken, are refused (`BadHash`), as is what nobody knows. Passwords come prepared (SASLprep, RFC 4013), as for SCRAM they must.
"""

import hmac
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from functools import partial
from hashlib import new, pbkdf2_hmac
from secrets import token_bytes
from typing import Any

import bcrypt
from argon2 import PasswordHasher, Type
from argon2.exceptions import VerificationError
from argon2.low_level import verify_secret
from attrs import field, frozen
from passlib.hash import pbkdf2_sha1, pbkdf2_sha256, pbkdf2_sha512, scrypt, sha256_crypt, sha512_crypt

from mailgw.credentials import ScramVerifier
from mailgw.smtp.saslprep import saslprep

__all__ = ["MADE", "BadHash", "StoredPassword", "make", "read_stored"]

_LEAST_ITERATIONS = 4096  # RFC 7677 §4
_ITERATIONS = 100_000  # of the verifiers that we make
_BCRYPT_LENGTH = 72  # octets of a password; the rest counts for nothing, with every bcrypt


class BadHash(ValueError):
    """What is kept there cannot be used; the message says why, and does not repeat it."""


@frozen
class StoredPassword:
    """One user's secret, as it is kept."""

    scheme: str  # "argon2id", "scram-sha-256", ...; "locked": there is none that is right
    cost: str = ""  # those of one scheme and one cost take the same time
    text: str = field(default="", repr=False)  # as it is written in the file
    check: Callable[[bytes], bool] = field(default=lambda _: False, repr=False, eq=False)  # may raise ValueError; may take a second
    verifier: ScramVerifier | None = field(default=None, repr=False)
    plaintext: bytes | None = field(default=None, repr=False)

    def is_right(self, password: bytes) -> bool:
        """Whether it is this password. Takes its time: not for the reactor's thread."""
        try:
            return self.check(password)
        except ValueError:  # longer than the scheme allows, or with a NUL: nobody has such a password
            return False


# ── Reading ──

_WEAK = re.compile(r"(CRAM|HMAC|DIGEST|LDAP|PLAIN)-MD[45]|S?MD5(-CRYPT)?|DES-CRYPT|LANMAN|NTLM|SHA(1|256|512)?|OTP|PLAIN-TRUNC")
_CLEAR = frozenset({"CLEAR", "CLEARTEXT", "PLAIN"})
_SALTED = {"SSHA": ("sha1", 20), "SSHA256": ("sha256", 32), "SSHA512": ("sha512", 64)}
_SCRAM = {"SCRAM-SHA-1": ("SHA-1", "sha1"), "SCRAM-SHA-256": ("SHA-256", "sha256")}
_LABEL = re.compile(r"\{([A-Za-z0-9.-]+)\}")


def read_stored(text: str, allow_plaintext: bool = False) -> StoredPassword:
    """Understand one password field. Raises BadHash.

    Without a label like ``{SSHA512}`` it is told by its ``$`` prefix. ``.b64`` and ``.hex`` in a label say how the rest is written.
    Nothing at all, and what begins with ``!`` or ``*``, is an account that is locked.
    """
    label = _LABEL.match(text)
    if not label:
        if not text or text[0] in "!*":
            return StoredPassword("locked", text=text)
        return _modular(text, text, _FAMILIES)
    name, _, encoding = label[1].upper().partition(".")
    rest = text[label.end() :]
    if name in _CLEAR:
        if not allow_plaintext:
            raise BadHash("holds a password in clear, and allow_plaintext is not set")
        clear = _decoded(rest, encoding) if encoding else rest.encode()
        if not clear:
            raise BadHash("holds an empty password")
        return StoredPassword("plain", text=text, check=lambda password: hmac.compare_digest(password, clear), plaintext=clear)
    if name in _SALTED:
        return _salted(text, name, _decoded(rest, encoding or "B64"))
    if encoding:
        rest = _decoded(rest, encoding).decode("ascii", "replace")
    if name in _SCRAM:
        return _scram(text, name, rest)
    if name == "PBKDF2":
        return _dovecot_pbkdf2(text, rest)
    if name in _LABELS:
        return _modular(text, rest, _LABELS[name])
    if _WEAK.fullmatch(name):
        raise BadHash(f"scheme {name} is too weak; make a new hash, for example with: mailgw account passwd")
    raise BadHash(f"there is no scheme {name}")


def _decoded(text: str, encoding: str) -> bytes:
    try:
        if encoding in ("B64", "BASE64"):
            return b64decode(text, validate=True)
        if encoding == "HEX":
            return bytes.fromhex(text)
    except ValueError:
        raise BadHash(f"is not written in {encoding.lower()}") from None
    raise BadHash(f"there is no encoding {encoding.lower()}")


def _salted(text: str, name: str, octets: bytes) -> StoredPassword:
    algorithm, size = _SALTED[name]
    digest, salt = octets[:size], octets[size:]
    if not salt:
        raise BadHash(f"{name} without a salt")
    return StoredPassword(
        name.lower(), text=text, check=lambda password: hmac.compare_digest(new(algorithm, password + salt).digest(), digest)
    )


def _dovecot_pbkdf2(text: str, rest: str) -> StoredPassword:
    """``$1$salt$rounds$hex``: PBKDF2 with HMAC-SHA-1."""
    match = re.fullmatch(r"\$1\$([^$]{4,})\$([0-9]{1,8})\$([0-9a-fA-F]{40})", rest)
    if not match:
        raise BadHash("is no PBKDF2 hash")
    salt, rounds, digest = match[1].encode(), int(match[2]), bytes.fromhex(match[3])
    if rounds < _LEAST_ITERATIONS:
        raise BadHash(f"PBKDF2 with {rounds} rounds is too weak")
    return StoredPassword(
        "pbkdf2-sha1", match[2], text, check=lambda password: hmac.compare_digest(pbkdf2_hmac("sha1", password, salt, rounds), digest)
    )


def _scram(text: str, name: str, rest: str) -> StoredPassword:
    """``iterations,salt,stored key,server key``, the last three in base64, as Dovecot keeps them."""
    hash_name, algorithm = _SCRAM[name]
    try:
        iterations, *parts = rest.split(",")
        salt, stored_key, server_key = (b64decode(part, validate=True) for part in parts)
        verifier = ScramVerifier(hash_name, salt, int(iterations), stored_key, server_key)
    except ValueError:
        raise BadHash(f"is no {name} verifier") from None
    size = new(algorithm).digest_size
    if not iterations.isdecimal() or not salt or len(stored_key) != size or len(server_key) != size:
        raise BadHash(f"is no {name} verifier")
    if verifier.iterations < _LEAST_ITERATIONS:
        raise BadHash(f"{name} with {verifier.iterations} iterations is too weak")

    def check(password: bytes) -> bool:
        return hmac.compare_digest(_scram_keys(algorithm, password, salt, verifier.iterations)[0], stored_key)

    return StoredPassword(name.lower(), f"{iterations},{len(salt)}", text, check, verifier)


def _scram_keys(algorithm: str, password: bytes, salt: bytes, iterations: int) -> tuple[bytes, bytes]:
    """StoredKey and ServerKey (RFC 5802 §3)."""
    salted = pbkdf2_hmac(algorithm, password, salt, iterations)
    return new(algorithm, hmac.digest(salted, b"Client Key", algorithm)).digest(), hmac.digest(salted, b"Server Key", algorithm)


# ── Hashes with a $ prefix ──


@frozen
class _Family:
    scheme: str
    form: re.Pattern[str]  # the first group is the cost
    check: Callable[..., bool]  # (password, text)
    parse: Callable[[str], object] = len  # raises ValueError for what only looks like one


def _argon2(kind: Type) -> Callable[[bytes, str], bool]:
    def check(password: bytes, text: str) -> bool:
        try:
            return verify_secret(text.encode(), password, kind)
        except VerificationError:
            return False

    return check


def _bcrypt(password: bytes, text: str) -> bool:
    return bcrypt.checkpw(password[:_BCRYPT_LENGTH], text.encode())


def _passlib(scheme: str, form: str, handler: Any) -> _Family:
    return _Family(scheme, re.compile(form), lambda password, text: bool(handler.verify(password, text)), handler.from_string)


_ARGON2 = r"\$(v=19\$m=[0-9]+,t=[0-9]+,p=[0-9]+)\$[A-Za-z0-9+/]{11,}\$[A-Za-z0-9+/]{16,}"
_ALL_ARGON2 = (
    _Family("argon2id", re.compile(r"\$argon2id" + _ARGON2), _argon2(Type.ID)),
    _Family("argon2i", re.compile(r"\$argon2i" + _ARGON2), _argon2(Type.I)),
)
_BCRYPT = _Family("bcrypt", re.compile(r"\$2[aby]\$((?:0[5-9]|[12][0-9]|3[01]))\$[./A-Za-z0-9]{53}"), _bcrypt)
_SHA512 = _passlib("sha512-crypt", r"\$6\$(rounds=[0-9]+|)\$?[^$:]*\$[./0-9A-Za-z]{86}", sha512_crypt)
_SHA256 = _passlib("sha256-crypt", r"\$5\$(rounds=[0-9]+|)\$?[^$:]*\$[./0-9A-Za-z]{43}", sha256_crypt)
_FAMILIES = (
    *_ALL_ARGON2,
    _BCRYPT,
    _SHA512,
    _SHA256,
    _passlib("scrypt", r"\$scrypt\$(ln=[0-9]+,r=[0-9]+,p=[0-9]+)\$.+\$.+", scrypt),
    _passlib("pbkdf2-sha1", r"\$pbkdf2\$([0-9]+)\$.+\$.+", pbkdf2_sha1),
    _passlib("pbkdf2-sha256", r"\$pbkdf2-sha256\$([0-9]+)\$.+\$.+", pbkdf2_sha256),
    _passlib("pbkdf2-sha512", r"\$pbkdf2-sha512\$([0-9]+)\$.+\$.+", pbkdf2_sha512),
)
_LABELS: Mapping[str, tuple[_Family, ...]] = {
    "ARGON2ID": _ALL_ARGON2,
    "ARGON2I": _ALL_ARGON2,
    "BLF-CRYPT": (_BCRYPT,),
    "SHA512-CRYPT": (_SHA512,),
    "SHA256-CRYPT": (_SHA256,),
    "CRYPT": (*_ALL_ARGON2, _BCRYPT, _SHA512, _SHA256),
}


def _modular(text: str, rest: str, families: tuple[_Family, ...]) -> StoredPassword:
    for one in families:
        match = one.form.fullmatch(rest)
        if match:
            try:
                one.parse(rest)
            except ValueError:
                raise BadHash(f"is a broken {one.scheme} hash") from None
            return StoredPassword(one.scheme, match[1], text, partial(one.check, text=rest))
    if rest.startswith(("$apr1$", "$1$")):
        raise BadHash('scheme MD5-CRYPT is too weak; make a new hash, for example with "htpasswd -B" or: mailgw account passwd')
    if rest.startswith("$y$"):
        raise BadHash("yescrypt hashes cannot be checked")
    raise BadHash("is no hash of a scheme that can be used (a password in clear must be labelled {PLAIN})")


# ── Making ──


def _make_argon2(password: str) -> str:
    return "{ARGON2ID}" + PasswordHasher().hash(password)


def _make_bcrypt(password: str) -> str:
    if len(password.encode()) > _BCRYPT_LENGTH or "\0" in password:
        raise ValueError(f"bcrypt takes at most {_BCRYPT_LENGTH} octets; use another scheme")
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(12, b"2b")).decode()


def _make_plain(password: str) -> str:
    # A colon would end the field.
    return "{PLAIN.b64}" + b64encode(password.encode()).decode()


def _make_scram(name: str) -> Callable[[str], str]:
    def made(password: str) -> str:
        salt = token_bytes(16)
        keys = _scram_keys(_SCRAM[name][1], password.encode(), salt, _ITERATIONS)
        return f"{{{name}}}{_ITERATIONS}," + ",".join(b64encode(part).decode() for part in (salt, *keys))

    return made


def _make(handler: Any, **settings: Any) -> Callable[[str], str]:
    return lambda password: str(handler.using(**settings).hash(password))


MADE: Mapping[str, Callable[[str], str]] = {
    "argon2id": _make_argon2,
    "bcrypt": _make_bcrypt,
    "scrypt": _make(scrypt),
    "sha512-crypt": _make(sha512_crypt, rounds=100_000),
    "sha256-crypt": _make(sha256_crypt, rounds=100_000),
    "pbkdf2-sha256": _make(pbkdf2_sha256, rounds=600_000),
    "scram-sha-256": _make_scram("SCRAM-SHA-256"),
    "scram-sha-1": _make_scram("SCRAM-SHA-1"),
    "plain": _make_plain,
}
"""The schemes that `make` can make."""


def make(scheme: str, password: str) -> str:
    """A password field for a new password, ready for htpasswd and Dovecot files.

    Raises ValueError for passwords that are empty, that SASLprep prohibits, or that the scheme cannot take.
    """
    password = saslprep(password)
    if not password:
        raise ValueError("the password is empty")
    return MADE[scheme](password)
