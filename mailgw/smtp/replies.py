"""Reading a server's replies, strictly and within bounds (RFC 5321 §4.2)."""

import re
from functools import lru_cache

from mailgw.values.reply import Reply

__all__ = ["BadReply", "ReplyReader"]

# RFC 5321 §4.5.3.1.5 allows 512 octets; real servers go beyond it, attackers far beyond it.
MAX_LINE = 2048
MAX_LINES = 128
MAX_OCTETS = 65536

# A line of the code alone is allowed (RFC 5321 §4.2). Only CRLF ends a line: a server that repeats our words in its text
# must not be able to smuggle in a second reply.
_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ \-])([^\r\n\0]*))?\Z")


class BadReply(Exception):
    """The server does not speak SMTP as we know it; the connection is of no more use."""


class ReplyReader:
    """Bytes in, replies out. After BadReply nothing more can be read."""

    def __init__(self) -> None:
        self._buffer = b""
        self._lines: list[str] = []
        self._code = 0
        self._octets = 0

    def feed(self, data: bytes) -> None:
        """Take what came from the server."""
        self._buffer = self._buffer + data if self._buffer else data

    @property
    def is_empty(self) -> bool:
        """Whether everything that came has been given out as replies."""
        return not self._buffer and not self._lines

    def next(self) -> Reply | None:
        """The next whole reply, or None when it is not all here yet. Raises BadReply."""
        buffer = self._buffer
        start = 0
        while True:
            end = buffer.find(b"\r\n", start, start + MAX_LINE)
            if end < 0:
                self._buffer = buffer[start:]
                if len(self._buffer) >= MAX_LINE:
                    raise BadReply("reply line is too long")
                if b"\n" in self._buffer:
                    raise BadReply("reply line does not end with CRLF")
                return None
            code, goes_on, text = _read_line(buffer[start:end])
            start = end + 2
            if self._lines and code != self._code:
                raise BadReply("lines of one reply have different codes")
            if not goes_on:
                self._buffer = buffer[start:]
                if not self._lines:
                    return _one_line(code, text)
                reply = Reply.heard(code, "\n".join([*self._lines, text]))
                self._lines, self._octets = [], 0
                return reply
            self._lines.append(text)
            self._code = code
            self._octets += len(text)
            if len(self._lines) >= MAX_LINES or self._octets > MAX_OCTETS:
                raise BadReply("reply has too many lines")


# The same few lines come for every message: "250 2.1.0 Ok". A hit costs a tenth of reading one.
@lru_cache(maxsize=256)
def _read_line(line: bytes) -> tuple[int, bool, str]:
    match = _LINE.match(line)
    if match is None:
        raise BadReply("reply line is malformed")
    code, mark, text = match.groups()
    # Texts may be UTF-8 (RFC 6531 §3.7.4); whatever else they are must not stop the mail.
    return int(code), mark == b"-", text.decode("utf-8", "replace") if text else ""


@lru_cache(maxsize=256)
def _one_line(code: int, text: str) -> Reply:
    return Reply.heard(code, text)
