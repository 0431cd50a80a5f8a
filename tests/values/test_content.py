import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.values.content import CHUNK, Content

HEADER = b"From: a@example.org\r\nSubject: x\r\n"


@pytest.fixture(params=["memory", "file"])
def content_of(request, tmp_path):
    def make(original, added=b""):
        if request.param == "memory":
            return Content.of(original, added)
        path = tmp_path / "content"
        path.write_bytes(original)
        return Content(path, len(original), added)

    return make


@pytest.mark.parametrize(
    ("original", "added", "header"),
    [
        pytest.param(HEADER + b"\r\nbody\r\n", b"", HEADER, id="header and body"),
        pytest.param(HEADER + b"\r\nbody\r\n\r\nmore\r\n", b"", HEADER, id="body with an empty line"),
        pytest.param(HEADER, b"", HEADER, id="header only"),
        pytest.param(b"\r\nbody\r\n", b"", b"", id="body only"),
        pytest.param(b"\r\nbody\r\n", b"X: y\r\n", b"X: y\r\n", id="body only, with an added field"),
        pytest.param(HEADER + b"\r\nbody", b"X: y\r\n", b"X: y\r\n" + HEADER, id="added field"),
        pytest.param(b"", b"", b"", id="nothing"),
    ],
)
def test_header(content_of, original, added, header):
    content = content_of(original, added)
    assert content.header() == header
    assert content.read() == added + original
    assert content.size == len(added + original)


def test_a_header_across_chunks(content_of):
    long = b"X: " + b"y" * (2 * CHUNK) + b"\r\n"
    content = content_of(HEADER + long + b"\r\nbody\r\n")
    assert content.header(limit=4 * CHUNK) == HEADER + long
    assert content.header() == (HEADER + long)[:CHUNK]


def test_an_empty_line_across_chunks(content_of):
    header = b"X: " + b"y" * (CHUNK - 5) + b"\r\n"
    assert len(header) == CHUNK
    content = content_of(header + b"\r\nbody\r\n")
    assert content.header(limit=2 * CHUNK) == header


def test_a_file_is_read_in_chunks(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(b"x" * (2 * CHUNK + 1))
    assert [len(chunk) for chunk in Content(path, 2 * CHUNK + 1, b"A: b\r\n").chunks()] == [6, CHUNK, CHUNK, 1]


@given(st.binary(max_size=60) | st.text("a:\r\n", max_size=20).map(str.encode), st.integers(0, 40))
def test_the_header_is_a_beginning_of_the_content(original, limit):
    header = Content.of(original).header(limit)
    assert len(header) <= limit
    assert original.startswith(header)
    assert b"\r\n\r\n" not in header
