"""Framing of content: whatever the chunks, only CRLF.CRLF ends it, and what came is what was meant."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.data import DataReader, TextCheck

OCTETS = st.lists(st.sampled_from([b"\r", b"\n", b".", b"a", b"\r\n", b"\0", b"\xff"]), max_size=30).map(b"".join)
CUTS = st.lists(st.integers(1, 7), min_size=1, max_size=40)


def pieces(data, cuts):
    while data:
        for cut in cuts:
            yield data[:cut]
            data = data[cut:]
            if not data:
                return


def read(wire, cuts):
    """Content and rest, or None for the rest if the end did not come."""
    reader, content, rest = DataReader(), b"", None
    for piece in pieces(wire, cuts):
        if rest is not None:
            rest += piece
            continue
        block, rest = reader.feed(piece)
        content += block
    return content, rest


def reference(wire):
    """The same by lines, slowly, as the RFC says it."""
    content = b""
    position = 0
    while True:
        end = wire.find(b"\r\n", position)
        if end < 0:
            return None
        line, position = wire[position:end], end + 2
        if line == b".":
            return content, wire[position:]
        content += (line[1:] if line.startswith(b".") else line) + b"\r\n"


@given(OCTETS, OCTETS, CUTS)
def test_any_octets_any_chunks(before, after, cuts):
    wire = before + b"\r\n.\r\n" + after
    assert read(wire, cuts) == reference(wire)


@given(OCTETS.filter(lambda octets: b"\r\n.\r\n" not in b"\r\n" + octets), CUTS)
def test_without_the_indicator_it_does_not_end(wire, cuts):
    assert read(wire, cuts)[1] is None


@given(st.lists(st.sampled_from([b"", b".", b"..", b"a", b".a", b"\xffb"]), max_size=10), CUTS)
def test_what_a_client_stuffs_arrives_as_it_was(lines, cuts):
    stuffed = b"".join((b"." + line if line.startswith(b".") else line) + b"\r\n" for line in lines) + b".\r\n"
    assert read(stuffed + b"NEXT", cuts) == (b"".join(line + b"\r\n" for line in lines), b"NEXT")


TRICKS = [b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\r\n.\r\r\n", b"\r\n\0.\r\n", b"\n\r\n.\n\r\n"]


@pytest.mark.parametrize("trick", TRICKS, ids=repr)
@pytest.mark.parametrize("cut", range(1, 12))
def test_no_trick_ends_it_wherever_it_is_cut(trick, cut):
    content, rest = read(b"x" + trick + b"MAIL FROM:<smuggled@example.com>\r\n.\r\n", [cut])
    assert rest == b""
    assert b"smuggled" in content


@given(OCTETS, CUTS)
def test_bare_line_ends_are_found_wherever_it_is_cut(text, cuts):
    wire = text + b"\r\n.\r\n"
    expected, _ = reference(wire)
    reader, check = DataReader(), TextCheck(10_000, 10_000, fix=False)
    for piece in pieces(wire, cuts):
        block, rest = reader.feed(piece)
        check.take(block) if block else None
        if rest is not None:
            break
    bare = re.sub(rb"\r\n", b"", expected)
    assert (check.problem is not None) == any(octet in bare for octet in b"\r\n\0")


@given(OCTETS, CUTS)
def test_fixing_makes_every_line_end_a_crlf(text, cuts):
    wire = text.replace(b"\0", b"") + b"\r\n.\r\n"
    reader, check, kept = DataReader(), TextCheck(10_000, 10_000, fix=True), b""
    for piece in pieces(wire, cuts):
        block, rest = reader.feed(piece)
        kept += check.take(block) if block else b""
        if rest is not None:
            break
    assert check.problem is None
    assert kept == re.sub(rb"\r\n|\r|\n", b"\r\n", reference(wire)[0])


@given(st.lists(st.integers(0, 30), max_size=20), CUTS, st.integers(5, 25))
def test_long_lines_are_found_wherever_they_are_cut(lengths, cuts, limit):
    check = TextCheck(10_000, limit, fix=False)
    text = b"".join(b"x" * length + b"\r\n" for length in lengths)
    position = 0
    while position < len(text):
        for cut in cuts:
            piece = text[position : position + cut]
            if piece.endswith(b"\r"):
                piece = text[position : position + cut + 1]
            if piece:
                check.take(piece)
            position += len(piece)
    assert (check.problem is not None) == any(length + 2 > limit for length in lengths)


@pytest.mark.parametrize(("size", "fits"), [(99, True), (100, True), (101, False), (1000, False)])
def test_the_size_is_bounded_while_it_arrives(size, fits):
    check = TextCheck(100, 2000, fix=False)
    kept = sum(len(check.take(b"x" * min(10, size - position))) for position in range(0, size, 10))
    assert (check.problem is None) == fits
    assert kept <= 100


def test_binary_is_anything():
    check = TextCheck(100, 10, fix=False, binary=True)
    assert check.take(b"\0\r\n\n\r" * 10) == b"\0\r\n\n\r" * 10
    assert check.problem is None


@pytest.mark.parametrize("at", [0, 1, 5, 4000, 65533, 65535])
@pytest.mark.parametrize("octet", [b"\r", b"\n", b"\n\r", b"\r\r\n", b"\n\r\n"], ids=repr)
def test_one_bare_line_end_among_thousands_of_good_ones(octet, at):
    text = (b"\xe9 line\twith\x85 all that is \x0b and \x0c not a line end\r\n" * 2000)[:65536].removesuffix(b"\r")
    check = TextCheck(200_000, 1000, fix=False)
    assert check.take(text) == text
    assert check.problem is None
    assert check.take(text[:at] + octet + text[at:]) == b""
    assert check.problem is not None
