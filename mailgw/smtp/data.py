"""Message content on the wire: framing by DATA and by BDAT, and the checks made while it arrives.

The framing is strict: only CRLF "." CRLF ends data (RFC 5321 §4.1.1.4). Work is done on chunks, never on lines; what
cannot be decided at the end of a chunk, at most four octets, is carried into the next.
"""

import re
from io import IncrementalNewlineDecoder

from mailgw.values.reply import Reply

__all__ = ["TOO_BIG", "Chunk", "DataReader", "TextCheck"]

_END = b"\r\n.\r\n"
_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")
# Gain, measured: 0.28 ns for an octet where bytes.find takes 0.7; it looks for nothing but the CR until it has one.
_DOT = re.compile(rb"\r\n\.")

TOO_BIG = Reply(552, "5.3.4", "message is larger than this server takes")
BARE = Reply(554, "5.6.0", "message has a bare CR or a bare LF; lines must end with CRLF")
NUL_OCTET = Reply(554, "5.6.0", "message has a NUL octet")
LONG_LINE = Reply(554, "5.6.0", "message has a line that is too long")


class TextCheck:
    """Checks content as it arrives and remembers the first thing that is wrong with it.

    ``problem`` is None or the reply that the message will get. Once there is one, `take` gives nothing back, so that a
    message that is too big costs no memory while it is read on.
    """

    def __init__(self, max_size: int, max_line: int, fix: bool, binary: bool = False) -> None:
        """Make one. Sizes in octets; ``fix``: turn bare CR and LF into CRLF; ``binary``: any octet is fine (RFC 3030)."""
        self.problem: Reply | None = None
        self.size = 0
        self.is_ascii = True
        self._max_size = max_size
        self._max_line = max_line
        self._fix = fix
        self._binary = binary
        self._column = 0  # octets of the last, unfinished line

    def take(self, block: bytes) -> bytes:
        """Check a block that does not end between a CR and its LF; give what is to be kept of it."""
        if self.problem is not None:
            return b""
        if not self._binary:
            if not _only_pairs(block):
                if not self._fix:
                    self.problem = BARE
                    return b""
                block = _ANY_LINE_END.sub(b"\r\n", block)
            if b"\0" in block:
                self.problem = NUL_OCTET
                return b""
            if not self._lines_fit(block):
                self.problem = LONG_LINE
                return b""
        self.size += len(block)
        if self.size > self._max_size:
            self.problem = TOO_BIG
            return b""
        if self.is_ascii and not block.isascii():
            self.is_ascii = False
        return block

    def _lines_fit(self, block: bytes) -> bool:
        # Jump from line end to line end in strides of the limit: a block shorter than the limit costs one comparison.
        start, size, limit = -self._column, len(block), self._max_line
        while size - start > limit:
            end = block.rfind(b"\n", max(start, 0), start + limit)
            if end < 0:
                return False
            start = end + 1
        last = block.rfind(b"\n")
        self._column = size - last - 1 if last >= 0 else self._column + size
        return True


class DataReader:
    """Takes what follows 354: finds the end-of-data indicator and removes the dots that the client stuffed (RFC 5321 §4.5.2)."""

    def __init__(self) -> None:
        # The first line begins a line, too: as if a CRLF had come before it. It is not part of the content.
        self._carried = b"\r\n"
        self._skip = 2

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Give the content found in ``data``, and what follows the end-of-data indicator, or None if that has not come.

        A bare LF or CR never is a line end here, so ``LF . CRLF``, ``CRLF . LF`` and the like are content (the
        "smuggling" of CVE-2023-51764 and its kin).
        """
        buffer = self._carried + data
        dot = _DOT.search(buffer)
        end = buffer.find(_END, dot.start()) if dot else -1
        if end >= 0:
            block, rest = buffer[: end + 2], buffer[end + 5 :]
        else:
            carry = _undecided(buffer)
            block, rest = buffer[: len(buffer) - carry], None
            self._carried = buffer[len(buffer) - carry :]
        if dot:
            block = block.replace(b"\r\n.", b"\r\n")
        if self._skip and block:
            # The made-up CRLF leaves whole, or stays carried whole: it is never split.
            block = block[self._skip :]
            self._skip = 0
        return block, rest


class Chunk:
    """The octets that one BDAT command announced (RFC 3030 §2)."""

    def __init__(self, left: int, last: bool, refusal: Reply | None = None) -> None:
        """Make one; with ``refusal`` its octets are thrown away and then answered so."""
        self.left = left
        self.last = last
        self.refusal = refusal


def _only_pairs(block: bytes) -> bool:
    """Whether each CR has its LF behind it, and each LF its CR before it.

    Gain, measured: the decoder for universal newlines notes which line ends it meets, in one pass of 0.4 ns for an octet, where
    counting CRLF, CR and LF takes three of 1.7 ns in all. That was a third of the CPU of a big message.
    """
    ends = IncrementalNewlineDecoder(None, translate=False)
    ends.decode(block.decode("latin-1"), final=True)
    return ends.newlines is None or ends.newlines == "\r\n"


def _undecided(buffer: bytes) -> int:
    # How many octets at the end may be the beginning of the end.
    for length in (4, 3, 2, 1):
        if buffer.endswith(_END[:length]):
            return length
    return 0
