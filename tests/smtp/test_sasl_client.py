"""The client's SASL mechanisms: the vectors of the RFCs, which one is chosen, what a bad server hears."""

from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramException, ScramMechanism

from mailgw.smtp.client import BadReply, ClientSession
from mailgw.smtp.client_events import Challenged, LoggedIn, LoginRefused, Ready
from mailgw.smtp.sasl_client import NoMechanism, Proof, choose
from mailgw.smtp.sasl_dialogue import BadChallenge, Dialogue
from mailgw.smtp.scram_client import ChannelBinding, Scram

PASSWORD = Proof("tim", "tanstaaftanstaaf")
TOKEN = Proof("user@example.com", token="vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==")
BINDING = ChannelBinding("tls-exporter", b"\1" * 32)


# ── The vectors ──


def test_cram_md5_as_in_rfc_2195() -> None:
    dialogue = choose(PASSWORD, {"CRAM-MD5"}, verified=False)
    assert dialogue.initial is None
    assert dialogue.respond(b"<1896.697170952@postoffice.reston.mci.net>") == b"tim b913a602c7eda7a495b4e6e7334d3890"


SCRAM = {
    "SCRAM-SHA-1": (  # RFC 5802 §5
        "fyko+d2lbbFgONRv9qkxdawL",
        "n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
        "r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
        "c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
        "v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
    ),
    "SCRAM-SHA-256": (  # RFC 7677 §3
        "rOprNGfwEbeRWgbNEkqO",
        "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
        "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
        "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
    ),
}


@pytest.mark.parametrize("mechanism", SCRAM)
def test_scram_as_in_its_rfc(mechanism: str) -> None:
    nonce, first, server_first, final, server_final = SCRAM[mechanism]
    dialogue = Scram(mechanism, "user", "pencil", nonce=lambda: nonce)
    assert dialogue.initial == first.encode()
    assert dialogue.respond(server_first.encode()) == final.encode()
    assert not dialogue.is_satisfied
    assert dialogue.respond(server_final.encode()) == b""
    assert dialogue.is_satisfied


OAUTH = {
    "OAUTHBEARER": (  # RFC 7628 §4.1, without host and port
        b"n,a=user@example.com,\1auth=Bearer vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==\1\1",
        b"\1",
    ),
    "XOAUTH2": (b"user=user@example.com\1auth=Bearer vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg==\1\1", b""),
}


@pytest.mark.parametrize("mechanism", OAUTH)
def test_tokens(mechanism: str) -> None:
    initial, sorry = OAUTH[mechanism]
    dialogue = choose(TOKEN, {mechanism}, verified=True)
    assert dialogue.initial == initial
    assert dialogue.is_satisfied
    assert dialogue.respond(b'{"status":"invalid_token","scope":"mail"}') == sorry
    assert (dialogue.reason, dialogue.is_satisfied) == ("invalid_token", False)
    with pytest.raises(BadChallenge):
        dialogue.respond(b"")


def test_plain_login_external() -> None:
    assert choose(PASSWORD, {"PLAIN"}, verified=True).initial == b"\0tim\0tanstaaftanstaaf"  # RFC 4616 §4
    login = choose(PASSWORD, {"LOGIN"}, verified=True)
    assert (login.initial, login.respond(b"Username:"), login.respond(b"Password:")) == (None, b"tim", b"tanstaaftanstaaf")
    assert choose(Proof("fred", certificate=True), {"EXTERNAL"}, verified=True).initial == b"fred"
    assert choose(Proof(certificate=True), {"EXTERNAL"}, verified=True).initial == b""


# ── Against another library's server ──


@given(login=st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1), password=st.text(min_size=1, max_size=30))
def test_scram_with_another_library(login: str, password: str) -> None:
    mechanism = ScramMechanism("SCRAM-SHA-256")
    try:
        verifier = mechanism.make_auth_info(password, 4096)
        dialogue = Scram("SCRAM-SHA-256", login, password)
    except ValueError:
        return
    except ScramException:
        return  # it is stricter than we are with characters that are too young
    server = mechanism.make_server(lambda _: verifier)
    server.set_client_first((dialogue.initial or b"").decode())
    server.set_client_final(dialogue.respond(server.get_server_first().encode()).decode())
    dialogue.respond(server.get_server_final().encode())
    assert dialogue.is_satisfied


@pytest.mark.parametrize("binding", [b"the same", b"another"])
def test_scram_plus_with_another_library(binding: bytes) -> None:
    mechanism = ScramMechanism("SCRAM-SHA-1-PLUS")
    verifier = mechanism.make_auth_info("pencil")
    dialogue = Scram("SCRAM-SHA-1-PLUS", "user", "pencil", ChannelBinding("tls-unique", b"the same"))
    server = mechanism.make_server(lambda _: verifier, channel_binding=("tls-unique", binding))
    server.set_client_first((dialogue.initial or b"").decode())
    final = dialogue.respond(server.get_server_first().encode()).decode()
    if binding == b"the same":
        server.set_client_final(final)
        dialogue.respond(server.get_server_final().encode())
        assert dialogue.is_satisfied
    else:
        with pytest.raises(Exception, match="channel"):
            server.set_client_final(final)


# ── Which one is chosen ──

ALL = ("LOGIN", "PLAIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS", "EXTERNAL", "XOAUTH2")


@pytest.mark.parametrize(
    ("proof", "offered", "verified", "binding", "chosen"),
    [
        (PASSWORD, ALL, True, BINDING, "SCRAM-SHA-256-PLUS"),
        (PASSWORD, ALL, True, None, "SCRAM-SHA-256"),
        (PASSWORD, ALL, False, None, "SCRAM-SHA-256"),
        (PASSWORD, ("PLAIN", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256"), True, BINDING, "SCRAM-SHA-1-PLUS"),
        (PASSWORD, ("PLAIN", "SCRAM-SHA-1"), True, None, "SCRAM-SHA-1"),
        (PASSWORD, ("PLAIN", "CRAM-MD5", "LOGIN"), True, None, "CRAM-MD5"),
        (PASSWORD, ("LOGIN", "PLAIN", "NTLM"), True, None, "PLAIN"),
        (PASSWORD, ("LOGIN",), True, None, "LOGIN"),
        (TOKEN, (*ALL, "OAUTHBEARER"), True, BINDING, "OAUTHBEARER"),
        (TOKEN, ALL, True, BINDING, "XOAUTH2"),
        (Proof("ann", "x", certificate=True), ALL, True, BINDING, "EXTERNAL"),
        (Proof("ann", "x", certificate=True), ("PLAIN",), True, BINDING, "PLAIN"),
    ],
)
def test_the_strongest_is_chosen(
    proof: Proof, offered: tuple[str, ...], verified: bool, binding: ChannelBinding | None, chosen: str
) -> None:
    assert choose(proof, offered, verified=verified, binding=binding).mechanism == chosen


@pytest.mark.parametrize(
    ("proof", "offered", "verified", "why"),
    [
        (PASSWORD, (), True, "no login is offered"),
        (PASSWORD, ("PLAIN", "LOGIN"), False, "without TLS and a valid certificate"),
        (TOKEN, ("XOAUTH2", "OAUTHBEARER"), False, "without TLS and a valid certificate"),
        (PASSWORD, ("GSSAPI", "XOAUTH2"), True, "GSSAPI, XOAUTH2 are offered, and we have SCRAM-SHA-256, .*, LOGIN"),
        (TOKEN, ("PLAIN",), True, "PLAIN are offered, and we have OAUTHBEARER, XOAUTH2"),
        (PASSWORD, ("SCRAM-SHA-256-PLUS",), True, "SCRAM-SHA-256-PLUS are offered"),
    ],
)
def test_nothing_fits(proof: Proof, offered: tuple[str, ...], verified: bool, why: str) -> None:
    with pytest.raises(NoMechanism, match=why):
        choose(proof, offered, verified=verified)


def test_control_characters_cannot_forge_a_message() -> None:
    for forged in (Proof, lambda text: Proof("ann", text), lambda text: Proof("ann", token=text)):
        for text in ("a\0b", "a\1b"):
            with pytest.raises(ValueError, match="control characters"):
                forged(text)


def test_proofs_hide_what_they_hold() -> None:
    assert "tanstaaf" not in repr(PASSWORD)
    assert "vF9dft" not in repr(TOKEN)


# ── Bad servers ──

FIRST = b"r=abcdefXYZ,s=QSXCR+Q6sek8bf92,i=4096"


def scram() -> Scram:
    return Scram("SCRAM-SHA-256", "user", "pencil", nonce=lambda: "abcdef")


@pytest.mark.parametrize(
    ("challenge", "why"),
    [
        (b"", "malformed"),
        (b"\xff", "not UTF-8"),
        (b"r=abcdefXYZ,s=QSXCR+Q6sek8bf92", "malformed"),
        (b"r=abcdefXYZ,s=!!,i=4096", "malformed"),
        (b"r=abcdefXYZ,s=QSXCR+Q6sek8bf92,i=4o96", "malformed"),
        (b"r=otherXYZ,s=QSXCR+Q6sek8bf92,i=4096", "nonce"),
        (b"r=abcdef,s=QSXCR+Q6sek8bf92,i=4096", "nonce"),
        (b"r=abcdefXYZ,s=QSXCR+Q6sek8bf92,i=1", "1 SCRAM iterations"),
        (b"r=abcdefXYZ,s=QSXCR+Q6sek8bf92,i=2000000000", "2000000000 SCRAM iterations"),
        (b"r=abcdefXYZ,s=,i=4096", "iterations"),
        (b"m=x,r=abcdefXYZ,s=QSXCR+Q6sek8bf92,i=4096", "extension"),
    ],
)
def test_a_bad_first_message(challenge: bytes, why: str) -> None:
    with pytest.raises(BadChallenge, match=why):
        scram().respond(challenge)


@pytest.mark.parametrize(
    ("challenge", "why"),
    [(b"v=" + b64encode(b"\0" * 32), "does not know the password"), (b"", "malformed"), (b"v=!", "malformed")],
)
def test_a_server_that_does_not_know_the_password(challenge: bytes, why: str) -> None:
    dialogue = scram()
    dialogue.respond(FIRST)
    with pytest.raises(BadChallenge, match=why):
        dialogue.respond(challenge)
    assert not dialogue.is_satisfied


def test_a_server_that_says_why() -> None:
    dialogue = scram()
    dialogue.respond(FIRST)
    assert dialogue.respond(b"e=invalid-proof") == b""
    assert (dialogue.reason, dialogue.is_satisfied) == ("invalid-proof", False)


@given(st.binary(max_size=200))
def test_whatever_a_server_says(challenge: bytes) -> None:
    for proof, offered in ((PASSWORD, "CRAM-MD5"), (PASSWORD, "LOGIN"), (PASSWORD, "PLAIN"), (PASSWORD, "SCRAM-SHA-1"), (TOKEN, "XOAUTH2")):
        dialogue = choose(proof, {offered}, verified=True)
        try:
            for _ in range(4):
                assert isinstance(dialogue.respond(challenge), bytes)
        except BadChallenge:
            continue
        raise AssertionError(f"{offered} goes on for ever")


# ── The AUTH command ──


def session(offers: str = "PLAIN LOGIN") -> ClientSession:
    made = ClientSession("us.example", encrypted=True, verified=True)
    [ready] = _greet(made, offers)
    assert isinstance(ready, Ready)
    return made


def _greet(made: ClientSession, offers: str) -> list[object]:
    made.feed(b"220 mx\r\n")
    made.take()
    return list(made.feed(f"250-mx\r\n250 AUTH {offers}\r\n".encode()))


def said(made: ClientSession) -> str:
    return made.take().decode()


def test_the_initial_response_is_in_the_command() -> None:
    made = session()
    made.log_in(choose(PASSWORD, made.extensions.auth, verified=True))
    assert said(made) == "AUTH PLAIN AHRpbQB0YW5zdGFhZnRhbnN0YWFm\r\n"
    assert made.feed(b"235 2.7.0 welcome\r\n") == [LoggedIn()]


def test_an_empty_initial_response() -> None:
    made = session("EXTERNAL")
    made.log_in(choose(Proof(certificate=True), made.extensions.auth, verified=True))
    assert said(made) == "AUTH EXTERNAL =\r\n"  # RFC 4954 §4


def test_challenges() -> None:
    made = session("LOGIN")
    dialogue = choose(PASSWORD, made.extensions.auth, verified=True)
    made.log_in(dialogue)
    assert said(made) == "AUTH LOGIN\r\n"
    for line in ("dGlt\r\n", "dGFuc3RhYWZ0YW5zdGFhZg==\r\n"):
        [asked] = made.feed(b"334 VXNlcm5hbWU6\r\n")
        assert asked == Challenged(b"Username:")
        made.answer(dialogue.respond(b"Username:"))
        assert said(made) == line
    assert made.feed(b"235 ok\r\n") == [LoggedIn()]


def test_a_response_too_long_for_the_command_waits_for_a_challenge() -> None:
    made = session("XOAUTH2")
    made.log_in(choose(Proof("ann", token="t" * 10_000), made.extensions.auth, verified=True))
    assert said(made) == "AUTH XOAUTH2\r\n"
    assert made.feed(b"334 \r\n") == []
    assert b64decode(said(made)).startswith(b"user=ann\1auth=Bearer ttt")


def test_a_server_that_skips_its_proof_is_not_believed() -> None:
    made = session("SCRAM-SHA-256")
    made.log_in(choose(PASSWORD, made.extensions.auth, verified=True))
    [refused] = made.feed(b"235 2.7.0 welcome\r\n")
    assert isinstance(refused, LoginRefused)
    assert (refused.reply.code, refused.reply.text) == (454, "server says that we are logged in, but has not proved who it is")


@pytest.mark.parametrize("after", ["501 5.7.0 cancelled", "535 no", "235 welcome", "334 "])
def test_a_cancelled_login_never_succeeds(after: str) -> None:
    made = session()
    made.log_in(choose(PASSWORD, made.extensions.auth, verified=True))
    said(made)
    assert made.feed(b"334 not base64!\r\n") == []
    assert said(made) == "*\r\n"
    [refused] = made.feed(f"{after}\r\n".encode())
    assert isinstance(refused, LoginRefused)
    assert (refused.reply.code, refused.reply.text) == (454, "server's challenge is not base64")


@pytest.mark.parametrize("code", [200, 250, 354])
def test_answers_that_do_not_fit(code: int) -> None:
    made = session()
    made.log_in(choose(PASSWORD, made.extensions.auth, verified=True))
    with pytest.raises(BadReply):
        made.feed(f"{code} x\r\n".encode())


ECHOES = {
    "PLAIN": (PASSWORD, ["AHRpbQB0YW5zdGFhZnRhbnN0YWFm", "tanstaaftanstaaf"]),
    "LOGIN": (PASSWORD, ["dGFuc3RhYWZ0YW5zdGFhZg==", "tanstaaftanstaaf"]),
    "XOAUTH2": (TOKEN, ["vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="]),
    "OAUTHBEARER": (TOKEN, ["vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29tCg=="]),
}


@pytest.mark.parametrize("mechanism", ECHOES)
def test_what_a_server_repeats_is_hidden(mechanism: str) -> None:
    proof, secrets = ECHOES[mechanism]
    made = session(mechanism)
    dialogue: Dialogue = choose(proof, made.extensions.auth, verified=True)
    made.log_in(dialogue)
    if mechanism == "LOGIN":
        for _ in range(2):
            made.feed(b"334 \r\n")
            made.answer(dialogue.respond(b""))
    lines = said(made).replace("\r\n", " ")
    [refused] = made.feed(f'500 5.5.1 Command unrecognized: "{lines}" ({secrets[-1]})\r\n'.encode())
    assert isinstance(refused, LoginRefused)
    assert "[hidden]" in refused.reply.text
    for secret in secrets:
        assert secret not in refused.reply.text
