"""SCRAM: the examples of RFC 5802 and RFC 7677, another library's client, channel binding, and what is refused."""

from base64 import b64decode, b64encode
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scramp import ScramClient, ScramMechanism

from mailgw.smtp.mechanisms import MECHANISMS
from mailgw.smtp.sasl import BadResponse, Channel, Circumstances, NotProved
from mailgw.smtp.scram import ScramClaim
from mailgw.testing.accounts import a_verifier

BINDINGS = {"tls-exporter": b"e" * 32, "tls-unique": b"u" * 12}


def begin(name, first, nonce="3rfcNHYJY1ZVvWVs7j", bindings=None, plus_offered=False):
    exchange = MECHANISMS[name].begin(
        Circumstances(nonce=nonce, hostname="mx.example.org", channel=Channel(bindings or {}), plus_offered=plus_offered)
    )
    assert next(exchange) == b""
    with pytest.raises(StopIteration) as stop:
        exchange.send(first)
    return stop.value.value


def prove(claim, verifier, final, end=b""):
    """Whether the final message, as a function of the challenge, is good, and all that was said."""
    proof = claim.proof(verifier)
    said = [next(proof)]
    try:
        said.append(proof.send(final(said[0])))
        proof.send(end)
    except StopIteration as stop:
        return stop.value, said
    raise AssertionError("wants more")


EXAMPLES = [
    pytest.param(
        "SCRAM-SHA-1",
        "QSXCR+Q6sek8bf92",
        "3rfcNHYJY1ZVvWVs7j",
        [
            b"n,,n=user,r=fyko+d2lbbFgONRv9qkxdawL",
            b"r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,s=QSXCR+Q6sek8bf92,i=4096",
            b"c=biws,r=fyko+d2lbbFgONRv9qkxdawL3rfcNHYJY1ZVvWVs7j,p=v0X8v3Bz2T0CJGbJQyF0X+HI4Ts=",
            b"v=rmF9pqV8S7suAoZWja4dJRkFsKQ=",
        ],
        id="RFC 5802 §5",
    ),
    pytest.param(
        "SCRAM-SHA-256",
        "W22ZaJ0SNY7soEsUEjb6gQ==",
        "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
        [
            b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
            b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=",
            b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=",
        ],
        id="RFC 7677 §3",
    ),
]


@pytest.mark.parametrize(("name", "salt", "nonce", "messages"), EXAMPLES)
def test_examples(name, salt, nonce, messages):
    claim = begin(name, messages[0], nonce)
    assert (claim.username, claim.authzid, claim.hash_name) == ("user", "", name.removeprefix("SCRAM-"))
    verifier = a_verifier("pencil", claim.hash_name, b64decode(salt))
    assert prove(claim, verifier, lambda _: messages[2]) == (True, [messages[1], messages[3]])


@pytest.mark.parametrize(("name", "salt", "nonce", "messages"), EXAMPLES)
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda final: final[:-8] + b"AAAAAAA=", id="proof"),
        pytest.param(lambda final: final.replace(b"p=", b"p=AAAA"), id="longer proof"),
        pytest.param(lambda final: final.replace(b"c=biws", b"c=eSws"), id="binding"),
        pytest.param(lambda final: final.replace(b",r=", b",r=x"), id="nonce"),
        pytest.param(lambda final: final.replace(b",p=", b",x=1,p="), id="extension"),
    ],
)
def test_a_final_message_that_was_changed(name, salt, nonce, messages, change):
    claim, changed = begin(name, messages[0], nonce), change(messages[2])
    assert changed != messages[2]
    good, said = prove(claim, a_verifier("pencil", claim.hash_name, b64decode(salt)), lambda _: changed)
    assert not good
    assert len(said) == 1  # the server's signature is for those who know the password


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize(("password", "good"), [("pencil", True), ("pen", False), ("p\u00e9ncil\u00ad", False)])
def test_another_library_as_client(mechanism, password, good):
    client = ScramClient([mechanism], "us,er=x", password)
    claim = begin(mechanism, client.get_client_first().encode())
    assert claim.username == "us,er=x"

    def final(challenge):
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    result, said = prove(claim, a_verifier("pencil", claim.hash_name), final)
    assert result is good
    if good:
        client.set_server_final(said[1].decode())  # raises where our signature is not good


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-1-PLUS", "SCRAM-SHA-256-PLUS"])
@pytest.mark.parametrize(("binding", "good"), [(b"u" * 12, True), (b"v" * 12, False)], ids=["same channel", "another channel"])
def test_another_library_as_client_with_channel_binding(mechanism, binding, good):
    client = ScramClient([mechanism], "user", "pencil", channel_binding=("tls-unique", binding))
    claim = begin(mechanism, client.get_client_first().encode(), bindings=BINDINGS)

    def final(challenge):
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    result, said = prove(claim, a_verifier("pencil", claim.hash_name), final)
    assert result is good
    if good:
        client.set_server_final(said[1].decode())


def test_another_library_as_client_that_was_not_told_of_channel_binding():
    first = ScramClient(["SCRAM-SHA-256"], "user", "pencil", channel_binding=("tls-unique", b"u" * 12)).get_client_first().encode()
    with pytest.raises(NotProved, match="stands between"):
        begin("SCRAM-SHA-256", first, bindings=BINDINGS, plus_offered=True)
    # Where we really have none, the same client is welcome.
    assert isinstance(begin("SCRAM-SHA-256", first), ScramClaim)


@pytest.mark.parametrize("hash_name", ["SHA-1", "SHA-256"])
def test_another_library_makes_the_same_verifier(hash_name):
    ours = a_verifier("pencil", hash_name)
    mechanism = ScramMechanism(f"SCRAM-{hash_name}")
    salt, stored, server, iterations = mechanism.make_auth_info("pencil", iteration_count=4096, salt=ours.salt)
    assert (ours.salt, ours.stored_key, ours.server_key, ours.iterations) == (salt, stored, server, iterations)


@pytest.mark.parametrize(
    ("mechanism", "first"),
    [
        ("SCRAM-SHA-256-PLUS", b"n,,n=user,r=abc"),
        ("SCRAM-SHA-256-PLUS", b"y,,n=user,r=abc"),
        ("SCRAM-SHA-256-PLUS", b"p=tls-server-end-point,,n=user,r=abc"),
        ("SCRAM-SHA-256", b"y,,n=user,r=abc"),
        ("SCRAM-SHA-256", b"p=tls-exporter,,n=user,r=abc"),
    ],
)
def test_flags_that_do_not_fit(mechanism, first):
    with pytest.raises(NotProved):
        begin(mechanism, first, bindings=BINDINGS, plus_offered=True)


@pytest.mark.parametrize(
    "first",
    [
        *[b"", b"n", b"n,,", b"n,,n=user", b"n,,r=abc", b"x,,n=user,r=abc", b"n,,n=,r=abc", b"n,,n=user,r=", b"n,,n=us=er,r=abc"],
        *[b"n,,n=us,er,r=abc", b"n,,m=ext,n=user,r=abc", b"n,,n=user,r=a b", b"n,,n=\xff,r=abc", b"n,b=x,n=user,r=abc"],
        *[b"n,,n=user,r=" + b"a" * 600, b"n,,n=" + b"u" * 300 + b",r=abc", b"n,,n=user,r=abc," + b"x=" + b"y" * 5000, b"p=,,n=user,r=abc"],
    ],
)
def test_first_messages_that_are_none(first):
    with pytest.raises(BadResponse):
        begin("SCRAM-SHA-256", first)


@pytest.mark.parametrize(
    "final",
    [
        *[b"", b"c=biws", b"c=biws,r=abc", b"r=abc,c=biws,p=AAAA", b"c=b!ws,r=abc,p=AAAA", b"c=biws,r=abc,p=A"],
        *[b"c=biws,r=abc,p=AAAA,x=1", b"c=biws,r=abc,p=AAAA" + b"A" * 5000],
    ],
)
def test_final_messages_that_are_none(final):
    with pytest.raises(BadResponse):
        prove(begin("SCRAM-SHA-256", b"n,,n=user,r=abc"), a_verifier("pencil"), lambda _: final)


def test_an_authzid_is_read():
    assert begin("SCRAM-SHA-256", b"n,a=b=2Cc,n=user,r=abc").authzid == "b,c"


def test_the_answer_to_our_signature_must_be_empty():
    client = ScramClient(["SCRAM-SHA-256"], "user", "pencil")

    def final(challenge):
        client.set_server_first(challenge.decode())
        return client.get_client_final().encode()

    with pytest.raises(BadResponse):
        prove(begin("SCRAM-SHA-256", client.get_client_first().encode()), a_verifier("pencil"), final, end=b"x")


@given(st.binary(max_size=40))
def test_no_octets_are_a_proof(proof):
    claim = begin("SCRAM-SHA-1", b"n,,n=user,r=abc")
    final = b"c=biws,r=abc3rfcNHYJY1ZVvWVs7j,p=" + b64encode(proof)
    try:
        good, _ = prove(claim, a_verifier("pencil", "SHA-1", iterations=1), lambda _: final)
    except BadResponse:
        good = False
    assert not good


@given(st.text(st.sampled_from("nypc=,arbiws=2C3Dx+/"), max_size=60))
def test_what_looks_like_a_first_message_is_read_or_refused(text):
    with suppress(BadResponse, NotProved):
        assert begin("SCRAM-SHA-1", text.encode()).username


def test_no_proof_shows():
    claim = begin("SCRAM-SHA-256", b"n,,n=user,r=abcdefgh")
    assert "abcdefgh" not in repr(claim)
    assert b64encode(b"n,,").decode() not in repr(claim)
