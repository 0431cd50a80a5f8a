"""Bytes in, command lines out: bounded, and strict about line ends."""

__all__ = ["BadLine", "LineBuffer", "LongLine"]


class BadLine(Exception):
    """A command line that cannot be taken; the message says why. The line is gone from the buffer."""


class LongLine(BadLine):
    """One that is too long."""


class LineBuffer:
    """What the client has sent and nobody has looked at yet."""

    def __init__(self, fix: bool = False) -> None:
        """Make one; with ``fix`` a bare LF ends a line, too."""
        self._buffer = b""
        self._start = 0
        self._fix = fix
        self._skipping = False  # inside a line that was too long
        self.skipped = 0  # octets of that line that are gone

    def __len__(self) -> int:
        return len(self._buffer) - self._start

    def feed(self, data: bytes) -> None:
        """Append what has arrived."""
        self._buffer = self._buffer[self._start :] + data if self._start < len(self._buffer) else data
        self._start = 0

    def take_all(self) -> bytes:
        """Give everything that is there."""
        data = self._buffer[self._start :] if self._start else self._buffer
        self._buffer, self._start = b"", 0
        return data

    def take(self, limit: int) -> bytes:
        """Give up to ``limit`` octets of what is there."""
        data = self._buffer[self._start : self._start + limit]
        self._start += len(data)
        return data

    def next_line(self, limit: int) -> bytes | None:
        """The next line without its line end, or None while it is not complete. Raises BadLine.

        ``limit``: octets with the line end. What is too long is thrown away as it arrives (RFC 5321 §4.5.3.1.4).
        """
        buffer, start = self._buffer, self._start
        end = buffer.find(b"\n", start)
        if end < 0:
            if self._skipping or len(buffer) - start >= limit:
                self._skipping = True
                self.skipped += len(buffer) - start
                # A CR may be half of the line end that is still to come.
                self._buffer, self._start = b"\r" if buffer.endswith(b"\r") else b"", 0
            return None
        self._start = end + 1
        if self._skipping or end + 1 - start > limit:
            self._skipping, self.skipped = False, 0
            raise LongLine("line is too long")
        if end > start and buffer[end - 1] == 13:
            line = buffer[start : end - 1]
        elif self._fix:
            line = buffer[start:end]
        else:
            raise BadLine("lines must end with CRLF")
        if b"\r" in line or b"\0" in line:
            raise BadLine("line has a bare CR or a NUL octet")
        return line
