"""The message as it came, and what we lay on top of it."""

from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

__all__ = ["CHUNK", "Content"]

CHUNK = 64 * 1024


@frozen
class Content:
    """A message: the original untouched, in memory or in a file, and the header fields that we add above it.

    Line ends are CRLF throughout. With BODY=BINARYMIME the original may hold any octet and need not end with CRLF.
    """

    original: bytes | Path
    original_size: int  # octets
    added: bytes = b""  # complete header fields, each ending with CRLF

    @classmethod
    def of(cls, original: bytes, added: bytes = b"") -> "Content":
        """Content that is held in memory."""
        return cls(original, len(original), added)

    @property
    def size(self) -> int:
        """Octets, with what was added."""
        return len(self.added) + self.original_size

    def chunks(self) -> Iterator[bytes]:
        """The whole message, in pieces of at most `CHUNK` octets when it lies in a file. Raises OSError."""
        if isinstance(self.original, bytes):
            yield self.added + self.original if self.added else self.original
            return
        if self.added:
            yield self.added
        with self.original.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk

    def header(self, limit: int = CHUNK) -> bytes:
        """The header section with its last CRLF, at most ``limit`` octets of it. Raises OSError."""
        head = b""
        if isinstance(self.original, bytes) and not self.added:
            if self.original.startswith(b"\r\n"):
                return b""
            end = self.original.find(b"\r\n\r\n", 0, limit + 2)
            return self.original[: end + 2 if end >= 0 else limit]
        for chunk in self.chunks():
            head += chunk
            if head.startswith(b"\r\n"):
                return b""
            end = head.find(b"\r\n\r\n")
            if end >= 0:
                return head[: min(end + 2, limit)]
            if len(head) >= limit:
                break
        return head[:limit]

    def read(self) -> bytes:
        """The whole message at once: for tests, small tools and plugins that need it. Raises OSError."""
        return b"".join(self.chunks())
