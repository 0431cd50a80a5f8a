"""No framing trick ends a message early, however it is split; the reply reader keeps its bounds on any input."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.extensions import Extensions
from mailgw.smtp.framing import DotStuffing, Nature
from mailgw.smtp.replies import BadReply, ReplyReader
from mailgw.values.reply import Reply


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[i:j] for i, j in zip([0, *places], [*places, len(data)], strict=True) if data[i:j]]


def stuffed(chunks: list[bytes]) -> bytes:
    framing = DotStuffing()
    return b"".join([framing.add(chunk) for chunk in chunks]) + framing.end()


def unstuff(wire: bytes) -> bytes:
    """A server that takes only CRLF.CRLF for the end, written the slow and obvious way."""
    lines = wire.split(b"\r\n")
    end = lines.index(b".")
    assert lines[end + 1 :] == [b""], "the message ended early"
    return b"".join(line.removeprefix(b".") + b"\r\n" for line in lines[:end])


LINES = st.lists(st.sampled_from([b"", b".", b"..", b".\t", b"a", b"x.y", b"a.", b"\xff"]), max_size=12)


@given(LINES, st.booleans(), st.lists(st.integers(0, 200), max_size=20))
def test_stuffing_over_any_split(lines: list[bytes], last_crlf: bool, cuts: list[int]) -> None:
    message = b"\r\n".join(lines) + (b"\r\n" if last_crlf and lines else b"")
    wire = stuffed(split(message, cuts))
    expected = message if message.endswith(b"\r\n") or not message else message + b"\r\n"
    assert unstuff(wire) == expected
    assert wire == stuffed([message] if message else [])


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\0", b"\xe9", b"\r\n"]), max_size=14), st.lists(st.integers(0, 30), max_size=8)
)
def test_nature_over_any_split(parts: list[bytes], cuts: list[int]) -> None:
    message = b"".join(parts)
    bare = message.replace(b"\r\n", b"")
    nature = Nature.of(split(message, cuts))
    assert nature.binary == any(octet in bare for octet in (b"\r", b"\n", b"\0"))
    assert nature.eight_bit == (not message.isascii())
    head = (b"\r\n" + message).partition(b"\r\n\r\n")[0]
    assert nature.eight_bit_header == (not head.isascii())


@pytest.mark.parametrize(
    "trick",
    [
        b"\n.\n",
        b"\r.\r",
        b"\n.\r\n",
        b"\r\n.\n",
        b"\r\n.\r",
        b"\r.\r\n",
        b"\n\r\n.\r\n\n",
        b"\r\r\n.\r\n",
        b"\n\r",
        b"\n.\r",
        b"\r\r\n\n",
        b"\n\r\n\r",
    ],
)
def test_framing_tricks_are_never_for_data(trick: bytes) -> None:
    message = b"Subject: x\r\n\r\nbody" + trick + b"MAIL FROM:<evil@example.com>\r\n"
    for cut in range(len(message) + 1):
        assert Nature.of([message[:cut], message[cut:]]).binary


def test_a_lone_dot_line_is_doubled_at_every_split() -> None:
    message = b"a\r\n.\r\nMAIL FROM:<evil@example.com>\r\n"
    for cut in range(len(message) + 1):
        assert stuffed([c for c in (message[:cut], message[cut:]) if c]) == b"a\r\n..\r\nMAIL FROM:<evil@example.com>\r\n.\r\n"


def replies(data: bytes, cuts: list[int]) -> list[Reply | str]:
    reader, found = ReplyReader(), []  # type: ReplyReader, list[Reply | str]
    try:
        for piece in split(data, cuts):
            reader.feed(piece)
            while reply := reader.next():
                found.append(reply)
    except BadReply as problem:
        found.append(str(problem))
    return found


REPLIES = {
    "one line": (b"250 2.1.0 ok\r\n", [Reply(250, "2.1.0", "ok")]),
    "only the code": (b"250\r\n", [Reply(250, "", "")]),
    "code and a space": (b"250 \r\n", [Reply(250, "", "")]),
    "two in one segment": (b"250 a\r\n550 5.1.1 b\r\n", [Reply(250, "", "a"), Reply(550, "5.1.1", "b")]),
    "several lines": (b"550-5.1.1 no\r\n550-5.1.1 such\r\n550 5.1.1 user\r\n", [Reply(550, "5.1.1", "no\nsuch\nuser")]),
    "no enhanced status": (b"450 busy\r\n", [Reply(450, "4.0.0", "busy")]),
    "contradicting enhanced status": (b"550 4.1.1 odd\r\n", [Reply(550, "5.0.0", "4.1.1 odd")]),
    "UTF-8 text": ("550 5.1.1 \u00e9\r\n".encode(), [Reply(550, "5.1.1", "\u00e9")]),
    "odd octets": (b"550 5.1.1 \xff\r\n", [Reply(550, "5.1.1", "\ufffd")]),
    "codes that change": (b"250-a\r\n550 b\r\n", ["lines of one reply have different codes"]),
    "bare LF": (b"250 a\n250 b\r\n", ["reply line is malformed"]),
    "bare LF at the end": (b"250 a\n", ["reply line does not end with CRLF"]),
    "bare CR": (b"250 a\rb\r\n", ["reply line is malformed"]),
    "NUL": (b"250 a\0\r\n", ["reply line is malformed"]),
    "1yz": (b"150 a\r\n", ["reply line is malformed"]),
    "6yz": (b"650 a\r\n", ["reply line is malformed"]),
    "no code": (b"hello\r\n", ["reply line is malformed"]),
    "four digits": (b"2500 a\r\n", ["reply line is malformed"]),
    "empty line": (b"\r\n", ["reply line is malformed"]),
    "too long": (b"250 " + b"a" * 3000, ["reply line is too long"]),
    "too long, with its end": (b"250 " + b"a" * 3000 + b"\r\n", ["reply line is too long"]),
    "too many lines": (b"250-a\r\n" * 1000, ["reply has too many lines"]),
}


@pytest.mark.parametrize("name", REPLIES)
def test_replies(name: str) -> None:
    data, expected = REPLIES[name]
    assert replies(data, []) == expected
    if name not in ("bare LF",):  # refused either way, sooner octet by octet
        assert replies(data, list(range(len(data)))) == expected


@given(
    st.lists(st.sampled_from([b"250", b"550", b"-", b" ", b"a", b"\r\n", b"\n", b"\r", b"5.1.1 "]), max_size=30),
    st.lists(st.integers(0, 99)),
)
def test_any_nonsense_is_a_reply_or_bad(parts: list[bytes], cuts: list[int]) -> None:
    data = b"".join(parts)
    whole, pieces = replies(data, []), replies(data, cuts)
    assert [r for r in whole if isinstance(r, Reply)] == [r for r in pieces if isinstance(r, Reply)]


def test_extensions() -> None:
    reply = Reply.heard(250, "mx hello\npipelining\nSIZE 100\nSTARTTLS\nLIMITS MAILMAX=3 RCPTMAX=50\nAUTH PLAIN LOGIN\nBINARYMIME\nX-ODD 1")
    assert Extensions.of(reply) == Extensions(
        pipelining=True, size=True, max_size=100, starttls=True, max_recipients=50, max_messages=3, auth=frozenset({"PLAIN", "LOGIN"})
    )
    assert Extensions.of(Reply.heard(250, "mx\nSIZE\nLIMITS RCPTMAX=x RCPTMAX")) == Extensions(size=True)
