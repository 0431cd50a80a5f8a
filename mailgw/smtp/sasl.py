"""SASL mechanisms as a server speaks them, without a socket (RFC 4422, RFC 4954 §4).

A mechanism is a generator: it gives a challenge and is sent the client's response, and returns a `Claim`: whose proof is shown, and
the proof itself. Whether the proof is good others decide. `mailgw.smtp.mechanisms` knows them by name; SCRAM's claim goes on with a
generator of its own (`mailgw.smtp.scram`).

===================  ==========================================  ================================
mechanism            its claim                                   source
===================  ==========================================  ================================
PLAIN, LOGIN         `PasswordClaim`                             RFC 4616; draft-murchison-sasl-login
CRAM-MD5             `DigestClaim`                               RFC 2195
SCRAM-SHA-1, -256    `mailgw.smtp.scram.ScramClaim`              RFC 5802, RFC 7677, RFC 9266
OAUTHBEARER          `TokenClaim`                                RFC 7628
XOAUTH2              `TokenClaim`                                Google, "The SASL XOAUTH2 Mechanism"
EXTERNAL             `CertificateClaim`                          RFC 4422 appendix A
===================  ==========================================  ================================
"""

import re
from collections.abc import Generator, Mapping

from attrs import Factory, field, frozen

from mailgw.smtp.saslprep import NotPrepared, saslprep

__all__ = [
    "MAX_NAME",
    "REFUSED_TOKENS",
    "BadResponse",
    "Certificate",
    "CertificateClaim",
    "Channel",
    "Circumstances",
    "Claim",
    "DigestClaim",
    "Exchange",
    "NotProved",
    "PasswordClaim",
    "TokenClaim",
    "cram_md5",
    "external",
    "login",
    "name_in",
    "oauthbearer",
    "plain",
    "saslname_in",
    "text_in",
    "xoauth2",
]

MAX_NAME = 255  # octets; also the longest of most databases
_MAX_PASSWORD = 1024  # octets: hashing longer ones only costs
_MAX_TOKEN = 8192  # octets


class BadResponse(Exception):
    """The response does not follow the mechanism: 501. The message is fit for the peer, and repeats nothing of what came."""


class NotProved(Exception):
    """The response follows the mechanism, and proves nothing: 535. The message is for our log and repeats no proof."""


@frozen
class Certificate:
    """The certificate that the client has shown in TLS, and whose key it has."""

    fingerprint: str  # SHA-256, lower case hexadecimal
    names: tuple[str, ...] = ()  # rfc822Name and dNSName alternative names; empty if no authority we trust signed it


@frozen
class Channel:
    """What the connection itself can prove."""

    bindings: Mapping[str, bytes] = field(factory=dict, repr=False)  # by channel binding type: "tls-exporter" (RFC 9266)
    certificate: Certificate | None = None


@frozen(kw_only=True)
class Circumstances:
    """What a mechanism needs besides the responses."""

    nonce: str  # new for each exchange, printable ASCII without comma and "@": nobody can guess it
    hostname: str
    channel: Channel = Factory(Channel)
    plus_offered: bool = False  # whether the -PLUS form of the mechanism was offered, too


@frozen
class Claim:
    """Whose proof is shown: the authcid, and as whom the client wants to act, the authzid ("" for the same); both prepared."""

    username: str
    authzid: str = field(default="", kw_only=True)


@frozen
class PasswordClaim(Claim):
    """A password."""

    password: str = field(repr=False)


@frozen
class DigestClaim(Claim):
    """An HMAC-MD5 over the challenge, keyed with the password."""

    challenge: bytes
    digest: str = field(repr=False)  # lower case hexadecimal


@frozen
class TokenClaim(Claim):
    """An OAuth 2 access token. The username is the user that the client names, "" where it names none."""

    token: str = field(repr=False)


@frozen
class CertificateClaim(Claim):
    """The certificate of the channel. The username is what the client asks to be, "" for what the certificate says."""

    certificate: Certificate


Exchange = Generator[bytes, bytes, Claim]
"""Gives challenges, is sent responses, returns a claim. Raises BadResponse and NotProved."""


def text_in(octets: bytes, limit: int) -> str:
    """The text behind some octets of a response. Raises BadResponse."""
    if len(octets) > limit:
        raise BadResponse("response is too long")
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise BadResponse("response is not valid UTF-8") from None


def name_in(octets: bytes) -> str:
    """A name, prepared; may be empty. Raises BadResponse."""
    return _prepared(text_in(octets, MAX_NAME))


def _prepared(text: str) -> str:
    try:
        return saslprep(text)
    except NotPrepared as problem:
        raise BadResponse(str(problem)) from None


def _password_claim(username: str, password: bytes, authzid: str = "") -> PasswordClaim:
    prepared = _prepared(text_in(password, _MAX_PASSWORD))
    # An empty password proves nothing, but some directories take it for "anonymous" (RFC 4513 §5.1.2).
    if not username or not prepared:
        raise BadResponse("name or password is empty")
    return PasswordClaim(username, prepared, authzid=authzid)


def plain(_: Circumstances) -> Exchange:
    """PLAIN (RFC 4616 §2)."""
    parts = (yield b"").split(b"\0")
    if len(parts) != 3:
        raise BadResponse("response is not authzid NUL authcid NUL password")
    authzid, username, password = parts
    return _password_claim(name_in(username), password, name_in(authzid))


def login(_: Circumstances) -> Exchange:
    """LOGIN, as everybody speaks it; the name may come as the initial response."""
    username = name_in((yield b"Username:"))
    if not username:
        raise BadResponse("name is empty")
    return _password_claim(username, (yield b"Password:"))


_DIGEST = re.compile(rb"(.+) ([0-9a-fA-F]{32})\Z", re.DOTALL)


def cram_md5(circumstances: Circumstances) -> Exchange:
    """CRAM-MD5 (RFC 2195 §2)."""
    challenge = f"<{circumstances.nonce}@{circumstances.hostname}>".encode()
    response = yield challenge
    match = _DIGEST.match(response[: MAX_NAME + 34])
    if match is None or len(response) > MAX_NAME + 33:
        raise BadResponse("response is not a name and a digest")
    username = name_in(match[1])
    return DigestClaim(username, challenge, match[2].decode().lower())


def external(circumstances: Circumstances) -> Exchange:
    """EXTERNAL (RFC 4422 appendix A): the response is the authzid, or empty."""
    username = name_in((yield b""))
    certificate = circumstances.channel.certificate
    if certificate is None:
        raise NotProved("the client has shown no certificate")
    return CertificateClaim(username, certificate)


# ── OAuth 2 ──

_GS2 = re.compile(rb"n,(?:a=([^,\x01]*))?,\x01")  # no channel binding, as there is none for tokens
_KEY_AND_VALUE = re.compile(rb"([A-Za-z]+)=([\t\r\n -~\x80-\xff]*)\Z")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([A-Za-z0-9._~+/-]+=*)\Z")  # RFC 6750 §2.1


def oauthbearer(_: Circumstances) -> Exchange:
    """OAUTHBEARER (RFC 7628 §3.1)."""
    response = yield b""
    head = _GS2.match(response)
    if head is None:
        raise BadResponse("response does not begin with a GS2 header")
    pairs = _pairs(response[head.end() :])
    return _token_claim(saslname_in(head[1] or b""), pairs)


def xoauth2(_: Circumstances) -> Exchange:
    """XOAUTH2: OAUTHBEARER's ancestor, with the user among the pairs."""
    pairs = _pairs((yield b""))
    return _token_claim(name_in(pairs.get("user", b"")), pairs)


def _pairs(octets: bytes) -> dict[str, bytes]:
    if len(octets) > _MAX_TOKEN + 1024:
        raise BadResponse("response is too long")
    pairs: dict[str, bytes] = {}
    if octets == b"\x01":
        return pairs
    if not octets.endswith(b"\x01\x01"):
        raise BadResponse("response does not end with two CTRL-A")
    for pair in octets[:-2].split(b"\x01"):
        match = _KEY_AND_VALUE.match(pair)
        if match is None or match[1].decode().lower() in pairs:
            raise BadResponse("response is not made of key=value pairs")
        pairs[match[1].decode().lower()] = match[2]
    return pairs


def _token_claim(username: str, pairs: Mapping[str, bytes]) -> TokenClaim:
    match = _BEARER.match(pairs.get("auth", b""))
    if match is None:
        # RFC 7628 §4.3: a client may ask so which token is wanted; it proves nothing.
        return TokenClaim(username, "")
    return TokenClaim(username, text_in(match[1], _MAX_TOKEN))


_BAD_ESCAPE = re.compile(rb"=(?!2C|3D)")


def saslname_in(octets: bytes) -> str:
    """A name in which "," and "=" are escaped (RFC 5801 §4), prepared; may be empty. Raises BadResponse."""
    if _BAD_ESCAPE.search(octets):
        raise BadResponse("name has an odd escape")
    return name_in(octets.replace(b"=2C", b",").replace(b"=3D", b"="))


REFUSED_TOKENS: Mapping[str, bytes] = {
    "OAUTHBEARER": b'{"status":"invalid_token"}',  # RFC 7628 §3.2.2
    "XOAUTH2": b'{"status":"401","schemes":"bearer"}',
}
"""What is sent before a token is refused; the client's answer to it means nothing."""
