"""Mechanisms as tables: responses and the claims that they make; the examples of the RFCs; and that no octets make one stumble."""

import hmac

import pytest
from attrs import fields
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.mechanisms import MECHANISMS, base_of, in_order
from mailgw.smtp.sasl import (
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

CERTIFICATE = Certificate("ab" * 32, ("anna@example.org",))
HERE = Circumstances(nonce="nonce", hostname="mx.example.org", channel=Channel({"tls-exporter": b"x" * 32}, CERTIFICATE))


def talk(name, *responses, circumstances=HERE):
    """The challenges that a mechanism sends to these responses, and its claim (None: it wants more)."""
    exchange = MECHANISMS[name].begin(circumstances)
    challenges = [next(exchange)]
    try:
        for response in responses:
            challenges.append(exchange.send(response))
    except StopIteration as stop:
        return challenges, stop.value
    return challenges, None


CLAIMS = [
    pytest.param("PLAIN", [b"\0tim\0tanstaaftanstaaf"], PasswordClaim("tim", "tanstaaftanstaaf"), id="PLAIN, RFC 4616 §4"),
    pytest.param("PLAIN", [b"Ursel\0Kurt\0xipj3plmq"], PasswordClaim("Kurt", "xipj3plmq", authzid="Ursel"), id="PLAIN, authzid, RFC 4616"),
    pytest.param("PLAIN", ["\0I\u00adX\0p\u00aa".encode()], PasswordClaim("IX", "pa"), id="PLAIN, prepared"),
    pytest.param("LOGIN", [b"tim", b"tanstaaf"], PasswordClaim("tim", "tanstaaf"), id="LOGIN"),
    pytest.param("EXTERNAL", [b""], CertificateClaim("", CERTIFICATE), id="EXTERNAL, as the certificate says"),
    pytest.param("EXTERNAL", [b"anna"], CertificateClaim("anna", CERTIFICATE), id="EXTERNAL, as somebody"),
    pytest.param(
        "CRAM-MD5",
        [b"tim b913a602c7eda7a495b4e6e7334d3890"],
        DigestClaim("tim", b"<nonce@mx.example.org>", "b913a602c7eda7a495b4e6e7334d3890"),
        id="CRAM-MD5",
    ),
    pytest.param(
        "OAUTHBEARER",
        [b"n,a=user@example.com,\x01host=server.example.com\x01port=587\x01auth=Bearer vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg==\x01\x01"],
        TokenClaim("user@example.com", "vF9dft4qmTc2Nvb3RlckBhbHRhdmlzdGEuY29tCg=="),
        id="OAUTHBEARER, RFC 7628 §4.1",
    ),
    pytest.param("OAUTHBEARER", [b"n,,\x01auth=bearer  x\x01\x01"], TokenClaim("", "x"), id="OAUTHBEARER, nobody named"),
    pytest.param("OAUTHBEARER", [b"n,a=a=2Cb=3Dc,\x01auth=Bearer x\x01\x01"], TokenClaim("a,b=c", "x"), id="OAUTHBEARER, escapes"),
    pytest.param(
        "OAUTHBEARER",
        [b"n,a=user@example.com,\x01host=server.example.com\x01port=143\x01auth=\x01\x01"],
        TokenClaim("user@example.com", ""),
        id="OAUTHBEARER, RFC 7628 §4.3, which token is wanted",
    ),
    pytest.param("OAUTHBEARER", [b"n,,\x01\x01"], TokenClaim("", ""), id="OAUTHBEARER, no pairs"),
    pytest.param("OAUTHBEARER", [b"n,,\x01auth=Basic YTpi\x01\x01"], TokenClaim("", ""), id="OAUTHBEARER, no bearer token"),
    pytest.param(
        "XOAUTH2",
        [b"user=someuser@example.com\x01auth=Bearer ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg\x01\x01"],
        TokenClaim("someuser@example.com", "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg"),
        id="XOAUTH2, Google's example",
    ),
]


@pytest.mark.parametrize(("name", "responses", "claim"), CLAIMS)
def test_claims(name, responses, claim):
    challenges, found = talk(name, *responses)
    assert found == claim
    assert len(challenges) == len(responses)


def test_the_example_of_rfc_2195():
    circumstances = Circumstances(nonce="1896.697170952", hostname="postoffice.reston.mci.net")
    [challenge], claim = talk("CRAM-MD5", b"tim b913a602c7eda7a495b4e6e7334d3890", circumstances=circumstances)
    assert challenge == b"<1896.697170952@postoffice.reston.mci.net>"
    assert claim.username == "tim"
    assert hmac.new(b"tanstaaftanstaaf", claim.challenge, "md5").hexdigest() == claim.digest


BAD = [
    *[("PLAIN", [response]) for response in (b"", b"tim", b"\0tim", b"\0tim\0a\0b", b"\0\0p", b"\0tim\0", b"\0\xff\0p", b"\0t\0p\xff")],
    ("PLAIN", [b"\0" + b"u" * 256 + b"\0p"]),
    ("PLAIN", [b"\0u\0" + b"p" * 1025]),
    ("PLAIN", [b"\0u\nx\0p"]),
    ("PLAIN", [b"\0u\0p\x07"]),
    ("LOGIN", [b""]),
    ("LOGIN", [b"u", b""]),
    *[("CRAM-MD5", [response]) for response in (b"", b"tim", b"tim abc", b" " + b"a" * 32, b"tim " + b"g" * 32)],
    ("CRAM-MD5", [b"t" * 300 + b" " + b"a" * 32]),
    ("OAUTHBEARER", [b"y,,\x01auth=Bearer x\x01\x01"]),
    ("OAUTHBEARER", [b"p=tls-exporter,,\x01auth=Bearer x\x01\x01"]),
    ("OAUTHBEARER", [b"n,,auth=Bearer x\x01\x01"]),
    ("OAUTHBEARER", [b"n,,\x01auth=Bearer x"]),
    ("OAUTHBEARER", [b"n,,\x01auth=Bearer x\x01auth=Bearer y\x01\x01"]),
    ("OAUTHBEARER", [b"n,a=a=b,\x01auth=Bearer x\x01\x01"]),
    ("OAUTHBEARER", [b"n,,\x01=x\x01\x01"]),
    ("OAUTHBEARER", [b"n,,\x01auth=Bearer " + b"x" * 12000 + b"\x01\x01"]),
    ("XOAUTH2", [b"user=a auth=Bearer x"]),
    ("EXTERNAL", [b"\xff"]),
]


@pytest.mark.parametrize(("name", "responses"), BAD)
def test_bad_responses(name, responses):
    with pytest.raises(BadResponse) as caught:
        talk(name, *responses)
    assert str(caught.value).isascii()


def test_without_a_certificate_external_proves_nothing():
    with pytest.raises(NotProved):
        talk("EXTERNAL", b"anna", circumstances=Circumstances(nonce="n", hostname="h"))


@pytest.mark.parametrize("claim", [parameter.values[2] for parameter in CLAIMS], ids=lambda claim: type(claim).__name__)
def test_no_proof_shows(claim):
    for secret in ("password", "digest", "token"):
        if secret in {one.name for one in fields(type(claim))} and getattr(claim, secret):
            assert getattr(claim, secret) not in repr(claim)


@given(st.sampled_from(sorted(MECHANISMS)), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_whatever_comes_there_is_a_claim_or_a_refusal(name, responses):
    try:
        _, claim = talk(name, *responses)
    except (BadResponse, NotProved):
        return
    assert claim is None or isinstance(claim, Claim)


@given(st.sampled_from(["OAUTHBEARER", "XOAUTH2"]), st.text(st.sampled_from("n,ayp=\x01\x02 authBearer:x@.2C3D"), max_size=80))
def test_whatever_looks_like_a_token_is_a_claim_or_refused(name, text):
    try:
        _, claim = talk(name, text.encode())
    except BadResponse:
        return
    assert isinstance(claim, TokenClaim)


def test_the_strongest_is_offered_first():
    names = ["X-OTHER", "PLAIN", "LOGIN", "SCRAM-SHA-256", "PLAIN", "SCRAM-SHA-256-PLUS", "A-OTHER"]
    assert in_order(names) == ("SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN", "A-OTHER", "X-OTHER")
    assert base_of("SCRAM-SHA-1-PLUS") == base_of("SCRAM-SHA-1") == "SCRAM-SHA-1"
