"""Password hashes: those of other programs are understood, weak and broken ones are refused, ours are understood by others."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.login.schemes import MADE, BadHash, make, read_stored

SECRET = "geheim ü"
OTHERS = [  # made by Dovecot (doveadm pw), Apache (htpasswd), glibc (crypt)
    pytest.param(
        "{ARGON2ID}$argon2id$v=19$m=65536,t=3,p=1$EbVWt/42mZfMa/Yk3ZdfpQ$LckaMNnSrW3B8NWgWIzzkUzDraSo0UvRfEwhkMrT86o",
        "argon2id",
        id="dovecot argon2id",
    ),
    pytest.param("{BLF-CRYPT}$2y$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq", "bcrypt", id="dovecot bcrypt"),
    pytest.param("{CRYPT}$2y$05$ySxZeMiuoSCj6GnU2p2Q0O2z2TiUKnS1HMKyfSdxHrNT06LILiXWK", "bcrypt", id="dovecot crypt"),
    pytest.param(
        "{SHA512-CRYPT}$6$G1anJxV5iGkN67RL$2TgIHHw7xhtHwthameJ21iGWmBXLOOUjPk5UomX8gq9QGa.UYwvJ5yI3WcF7hGTtxxTj5l6WYpxDzZOI9gIIr1",
        "sha512-crypt",
        id="dovecot sha512-crypt",
    ),
    pytest.param("{PBKDF2}$1$/ri7Y4ISMa/TOe/T$5000$e303ec054ed4230446ca81d0fe9a9288f955e972", "pbkdf2-sha1", id="dovecot pbkdf2"),
    pytest.param(
        "{SSHA512}R1pWhyrF0nY6ummtPyYO/6++rD8MIUEq+Qf6PrdMn5HpApFUWgmpznHRInMod886mbVxSLuCspqlL8+a/tVO3FM55LQ=",
        "ssha512",
        id="dovecot ssha512",
    ),
    pytest.param("{SSHA256}XOpM96Jlc2p6S3hpz4S6clf5Il24f5qW9FsJYX45uu7s34tB", "ssha256", id="dovecot ssha256"),
    pytest.param("{ssha}yPQ7/azbL/Jkan/bsW8jhWTRCMXQMPGD", "ssha", id="dovecot ssha, label in lower case"),
    pytest.param("{SSHA.hex}c8f43bfdacdb2ff2646a7fdbb16f238564d108c5d030f183", "ssha", id="dovecot ssha, hexadecimal"),
    pytest.param(
        "{SCRAM-SHA-1}4096,35Q5M0Bt3lt7GoCKNIS38w==,KtG3PqbQk5zQTShqRySXGWrYUjw=,1u/g3ALN9k2oJ4EUvfIT2X8YSWI=",
        "scram-sha-1",
        id="dovecot scram-sha-1",
    ),
    pytest.param(
        "{SCRAM-SHA-256}4096,w/WjsvSh4z6ezoNDVu0Y5A==,0YnWXemBAweKNkwHRxnhDcOE8si4uQ6ocWrMSFOJkbQ=,"
        "AvTUgdSs/FnXcDgEODJ+/8Ok9FeYBIHAnxTAFCwmU3c=",
        "scram-sha-256",
        id="dovecot scram-sha-256",
    ),
]


@pytest.mark.parametrize(("text", "scheme"), OTHERS)
def test_others_hashes(text, scheme):
    stored = read_stored(text)
    assert stored.scheme == scheme
    assert [stored.is_right(password) for password in (b"geheim", b"Geheim", b"geheim ", b"")] == [True, False, False, False]
    assert stored.plaintext is None
    assert (stored.verifier is None) is not scheme.startswith("scram")


def test_a_long_password_and_bcrypt():
    # 72 octets count, with all implementations; more are no fault.
    stored = read_stored(make("bcrypt", "x" * 72))
    assert stored.is_right(b"x" * 100)
    assert not stored.is_right(b"x" * 71)


@pytest.mark.parametrize("scheme", MADE)
def test_what_is_made_is_understood(scheme):
    text = make(scheme, SECRET)
    stored = read_stored(text, allow_plaintext=True)
    assert stored.scheme == scheme
    assert stored.is_right(SECRET.encode())
    assert not stored.is_right(b"geheim u")
    assert not stored.is_right(b"\0")
    assert not stored.is_right(b"x" * 10_000)
    assert not stored.is_right(b"\xff")
    assert ":" not in text
    assert "geheim" not in text
    assert text not in repr(stored)
    assert make(scheme, SECRET) != text or scheme == "plain"


def test_two_spellings_of_a_password_are_one():
    assert read_stored(make("scram-sha-256", "Ⅸ")).is_right(b"IX")  # RFC 4013 §3


@pytest.mark.parametrize(
    ("scheme", "password", "why"),
    [
        ("argon2id", "", "empty"),
        ("argon2id", "\u00ad", "empty"),
        ("argon2id", "a\x07b", "not allowed"),
        ("bcrypt", "x" * 73, "at most 72 octets"),
        ("bcrypt", "ü" * 37, "at most 72 octets"),
    ],
)
def test_passwords_that_cannot_be(scheme, password, why):
    with pytest.raises(ValueError, match=why):
        make(scheme, password)


@pytest.mark.parametrize("text", ["", "*", "!", "!$2y$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq", "*LK*"])
def test_locked(text):
    stored = read_stored(text)
    assert stored.scheme == "locked"
    assert not stored.is_right(b"")
    assert not stored.is_right(text.encode())
    assert not stored.is_right(b"geheim")


B64_20 = "A" * 27 + "="
BAD = [
    ("{PLAIN}secret", "in clear, and allow_plaintext is not set"),
    ("{CLEARTEXT}secret", "in clear, and allow_plaintext is not set"),
    ("secret", "is no hash of a scheme that can be used"),
    ("rqXexS6ZhobKA", "is no hash of a scheme that can be used"),
    ("$apr1$nh6mzjdB$3Y.2CWZ3uaPXpgfYPYIF/1", "MD5-CRYPT is too weak"),
    ("$1$nh6mzjdB$3Y.2CWZ3uaPXpgfYPYIF/1", "MD5-CRYPT is too weak"),
    ("$y$j9T$abc$def", "yescrypt"),
    ("$2$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq", "is no hash"),
    ("$2y$04$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq", "is no hash"),
    ("$2y$32$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq", "is no hash"),
    ("$2y$05$short", "is no hash"),
    ("$argon2id$v=19$m=65536,t=3,p=1$EbVWt$Lck", "is no hash"),
    ("$scrypt$ln=16,r=8,p=1$!!$!!", "is a broken scrypt hash"),
    ("$pbkdf2-sha256$29000$!!$!!", "is a broken pbkdf2-sha256 hash"),
    ("{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=", "SHA is too weak"),
    ("{MD5}$1$nh6mzjdB$3Y.2CWZ3uaPXpgfYPYIF/1", "MD5 is too weak"),
    ("{CRAM-MD5}e02d374fde0dc75a17a557039a3a5338c7743304777dccd376f332bee68d2cf6", "CRAM-MD5 is too weak"),
    ("{NTLM}0cb6948805f797bf2a82807973b89537", "NTLM is too weak"),
    ("{MAGIC}secret", "there is no scheme MAGIC"),
    ("{SSHA512.rot13}secret", "there is no encoding rot13"),
    ("{SSHA}not base64", "is not written in b64"),
    (f"{{SSHA}}{B64_20}", "SSHA without a salt"),
    ("{SSHA}", "SSHA without a salt"),
    ("{BLF-CRYPT}$6$G1anJxV5iGkN67RL$secret", "is no hash"),
    ("{PBKDF2}$1$salt$1000$e303ec054ed4230446ca81d0fe9a9288f955e972", "PBKDF2 with 1000 rounds is too weak"),
    ("{PBKDF2}secret", "is no PBKDF2 hash"),
    (f"{{SCRAM-SHA-1}}1000,AAAA,{B64_20},{B64_20}", "SCRAM-SHA-1 with 1000 iterations is too weak"),
    (f"{{SCRAM-SHA-1}}4096,AAAA,{B64_20}", "is no SCRAM-SHA-1 verifier"),
    (f"{{SCRAM-SHA-1}}4096,,{B64_20},{B64_20}", "is no SCRAM-SHA-1 verifier"),
    (f"{{SCRAM-SHA-256}}4096,AAAA,{B64_20},{B64_20}", "is no SCRAM-SHA-256 verifier"),
    (f"{{SCRAM-SHA-1}}+4096,AAAA,{B64_20},{B64_20}", "is no SCRAM-SHA-1 verifier"),
]


@pytest.mark.parametrize(("text", "why"), BAD)
def test_refused(text, why):
    with pytest.raises(BadHash, match=re.escape(why)) as caught:
        read_stored(text)
    assert "secret" not in str(caught.value)


def test_an_empty_password_in_clear_is_refused():
    with pytest.raises(BadHash, match="empty"):
        read_stored("{PLAIN}", allow_plaintext=True)


@given(st.text(max_size=80) | st.from_regex(r"\{[A-Z0-9.-]{1,16}\}[!-~]{0,60}", fullmatch=True) | st.from_regex(r"\$[a-z0-9$,=/]{1,60}"))
def test_any_text_is_understood_or_refused(text):
    try:
        stored = read_stored(text, allow_plaintext=True)
    except BadHash:
        return
    assert stored.text == text
    assert stored.scheme in ("locked", "plain") or not stored.is_right(b"")


def run(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    return subprocess.run(command, capture_output=True, text=True, timeout=20)


@pytest.mark.live
@pytest.mark.parametrize("scheme", ["argon2id", "bcrypt", "sha512-crypt", "sha256-crypt", "scram-sha-256", "scram-sha-1", "plain"])
def test_dovecot_understands_ours(scheme):
    text = make(scheme, "geheim")
    labelled = text if text.startswith("{") else "{CRYPT}" + text
    assert "verified" in run("doveadm", "pw", "-p", "geheim", "-t", labelled).stdout
    assert "verified" not in run("doveadm", "pw", "-p", "Geheim", "-t", labelled).stdout


@pytest.mark.live
@pytest.mark.parametrize(
    "scheme",
    [
        *("ARGON2ID", "ARGON2I", "BLF-CRYPT", "CRYPT", "SHA512-CRYPT", "SHA256-CRYPT", "PBKDF2", "SSHA512", "SSHA256", "SSHA"),
        *("SCRAM-SHA-1", "SCRAM-SHA-256", "SSHA512.HEX"),
    ],
)
def test_we_understand_dovecot_s(scheme):
    text = run("doveadm", "pw", "-s", scheme, "-p", "geheim").stdout.strip()
    assert text.startswith("{")
    assert read_stored(text).is_right(b"geheim")
    assert not read_stored(text).is_right(b"geheiM")


@pytest.mark.live
@pytest.mark.parametrize(("option", "usable"), [("-B", True), ("-5", True), ("-2", True), ("-m", False), ("-s", False), ("-d", False)])
def test_we_understand_htpasswd_s(option, usable):
    name, _, text = run("htpasswd", "-nb", option, "anna", "geheim").stdout.strip().partition(":")
    assert name == "anna"
    if usable:
        assert read_stored(text).is_right(b"geheim")
        assert not read_stored(text).is_right(b"geheiM")
    else:
        with pytest.raises(BadHash):
            read_stored(text)
