"""What a message is made of and how it is framed for DATA (RFC 5321 §4.5.2)."""

from collections.abc import Iterable
from io import IncrementalNewlineDecoder

from attrs import frozen

__all__ = ["DotStuffing", "Nature"]


@frozen
class Nature:
    """What decides how a message can be sent. Find it with `Nature.of`."""

    eight_bit: bool = False  # octets above 127 anywhere
    eight_bit_header: bool = False  # octets above 127 in the header section: an internationalized message (RFC 6532)
    binary: bool = False  # bare CR, bare LF or NUL: no DATA command may carry it

    @classmethod
    def of(cls, chunks: Iterable[bytes]) -> "Nature":
        """Look at every octet once, in pieces as they come."""
        eight_bit = eight_bit_header = nul = in_body = False
        ends = IncrementalNewlineDecoder(None, translate=False)  # a third of the time that counting takes: see `data`
        tail = b"\r\n"
        for chunk in chunks:
            nul = nul or b"\0" in chunk
            ends.decode(chunk.decode("latin-1"))
            is_ascii = chunk.isascii()
            eight_bit = eight_bit or not is_ascii
            if not in_body:
                seam = tail + chunk
                if not is_ascii:
                    head, _, _ = seam.partition(b"\r\n\r\n")
                    eight_bit_header = eight_bit_header or not head.isascii()
                in_body = b"\r\n\r\n" in seam
                tail = seam[-3:]
        ends.decode("", final=True)
        return cls(eight_bit, eight_bit_header, nul or ends.newlines not in (None, "\r\n"))


class DotStuffing:
    """Makes a message fit for DATA: doubles each dot that begins a line and ends with CRLF.CRLF, over any split in chunks.

    The message must have no bare CR and no bare LF (`Nature.binary`): there a peer might see the end where there is none.
    """

    def __init__(self) -> None:
        self._tail = b"\r\n"

    def add(self, chunk: bytes) -> bytes:
        """The next piece of the message, as it goes over the wire."""
        tail = self._tail
        self._tail = chunk[-2:] if len(chunk) > 1 else (tail + chunk)[-2:]
        stuffed = chunk.replace(b"\r\n.", b"\r\n..")
        if tail == b"\r\n" and chunk[:1] == b".":
            return b"." + stuffed
        if tail[-1:] == b"\r" and chunk[:2] == b"\n.":
            return b"\n.." + stuffed[2:]
        return stuffed

    def end(self) -> bytes:
        """The end-of-data indicator, after a CRLF if the message does not end with one."""
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"
