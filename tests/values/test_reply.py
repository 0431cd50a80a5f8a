import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.values.reply import Reply


@pytest.mark.parametrize(
    ("reply", "wire"),
    [
        (Reply(250, "2.1.5", "recipient ok"), b"250 2.1.5 recipient ok\r\n"),
        (Reply(220, "", "mx.example.org ESMTP"), b"220 mx.example.org ESMTP\r\n"),
        (Reply(354, "", "go on"), b"354 go on\r\n"),
        (Reply(250, "", "mx.example.org\nSIZE 1000\nPIPELINING"), b"250-mx.example.org\r\n250-SIZE 1000\r\n250 PIPELINING\r\n"),
        (Reply(550, "5.7.1", "no\nreally no"), b"550-5.7.1 no\r\n550 5.7.1 really no\r\n"),
        (Reply(250, "2.0.0", ""), b"250 2.0.0 \r\n"),
        (Reply(550, "5.7.1", "no\r\n250 2.0.0 ok"), b"550-5.7.1 no?\r\n550 5.7.1 250 2.0.0 ok\r\n"),
        (Reply(550, "5.7.1", "grün\0"), b"550 5.7.1 gr?n?\r\n"),
    ],
    ids=lambda value: str(value) if isinstance(value, Reply) else "",
)
def test_wire(reply, wire):
    assert reply.wire == wire


@pytest.mark.parametrize(
    ("code", "enhanced"),
    [(450, "5.7.1"), (550, "4.7.1"), (250, "5.0.0"), (354, "2.0.0"), (354, "3.0.0"), (550, ""), (451, ""), (199, ""), (600, "5.0.0"),
     (550, "5.7"), (550, "5.7.1.1"), (550, "5.7.1 "), (550, "5.7.1\n"), (550, "5.7.1000"), (550, "x")],
)  # fmt: skip
def test_contradictions_cannot_be_made(code, enhanced):
    with pytest.raises(ValueError):
        Reply(code, enhanced, "text")


@pytest.mark.parametrize(
    ("code", "text", "reply"),
    [
        (250, "2.0.0 queued as 7", Reply(250, "2.0.0", "queued as 7")),
        (250, "ok", Reply(250, "", "ok")),
        (550, "no", Reply(550, "5.0.0", "no")),
        (450, "5.7.1 odd", Reply(450, "4.0.0", "5.7.1 odd")),
        (550, "5.1.1 no\n5.1.1 such user", Reply(550, "5.1.1", "no\nsuch user")),
        (550, "", Reply(550, "5.0.0", "")),
        (354, "go", Reply(354, "", "go")),
    ],
)
def test_heard(code, text, reply):
    assert Reply.heard(code, text) == reply


@pytest.mark.parametrize(
    ("reply", "softened"),
    [
        (Reply(550, "5.7.1", "no"), Reply(450, "4.7.1", "no")),
        (Reply(451, "4.3.0", "later"), Reply(451, "4.3.0", "later")),
        (Reply(250, "2.0.0", "ok"), Reply(250, "2.0.0", "ok")),
    ],
)
def test_softened(reply, softened):
    assert reply.softened() == softened


@pytest.mark.parametrize(
    ("reply", "kinds"),
    [
        (Reply(250, "2.0.0", ""), (True, False, False)),
        (Reply(354, "", ""), (False, False, False)),
        (Reply(451, "4.0.0", ""), (False, True, False)),
        (Reply(554, "5.0.0", ""), (False, False, True)),
    ],
)
def test_kinds(reply, kinds):
    assert (reply.is_positive, reply.is_transient, reply.is_permanent) == kinds


def test_str_is_one_line():
    assert str(Reply(550, "5.7.1", "no\nreally")) == "550 5.7.1 no / really"


@pytest.mark.parametrize("enhanced", ["", "2.0.0", "2.100.100"])
def test_a_line_takes_512_octets(enhanced):
    wire = Reply(250, enhanced, f"{'x' * 600}\nshort\n{'y' * 600}").wire
    assert [len(line) for line in wire.splitlines(keepends=True)] == [512, len(f"250-{enhanced} short\r\n") - (not enhanced), 512]


ONE_REPLY = re.compile(rb"(?:550-5\.7\.1 [ -~]*\r\n)*550 5\.7\.1 [ -~]*\r\n")


@given(st.text() | st.text("\r\n 250-\0é\u2028", max_size=30))
def test_no_text_forges_a_second_reply(text):
    wire = Reply(550, "5.7.1", text).wire
    assert ONE_REPLY.fullmatch(wire)
    assert all(len(line) <= 512 for line in wire.splitlines(keepends=True))


@given(st.integers(200, 599), st.text(max_size=40) | st.text("245. \n", max_size=30))
def test_whatever_a_peer_says_can_be_kept(code, text):
    reply = Reply.heard(code, text)
    assert reply.code == code
    assert not reply.enhanced or reply.enhanced[0] == str(code)[0]
