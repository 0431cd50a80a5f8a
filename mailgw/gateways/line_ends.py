"""Line ends as files and programs of a Unix machine have them."""

from collections.abc import Iterable, Iterator

__all__ = ["as_unix"]


def as_unix(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces with LF for CRLF, over any split in chunks; a bare CR stays what it is."""
    held = b""
    for chunk in chunks:
        chunk = held + chunk if held else chunk
        held = b"\r" if chunk.endswith(b"\r") else b""
        yield (chunk[:-1] if held else chunk).replace(b"\r\n", b"\n")
    if held:
        yield held
