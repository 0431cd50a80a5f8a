"""A Maildir as POP3 sees it: the messages that were there at the login, numbered, with sizes and identities.

`twisted.mail.maildir` opens messages as text and moves them away before QUIT, so it is of no use here.
"""

import os
import re
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from attrs import define, field, frozen

__all__ = ["Mailbox", "Message", "NoSuchMessage", "Reader", "Top", "open_mailbox"]

_CHUNK = 64 * 1024
_LINE = re.compile(rb"[^\n]*\n|[^\n]+")


@frozen
class Message:
    """One file in ``new/`` or ``cur/``."""

    path: Path
    size: int  # octets, with CRLF at the ends of lines (RFC 1939 §11); 0: empty, which POP3 cannot tell from deleted

    @property
    def identity(self) -> bytes:
        """What a client knows it by in another session (RFC 1939 §7, UIDL): 1 to 70 printable characters."""
        # The flags behind ":" change when somebody reads it.
        return sha256(os.fsencode(self.path.name.partition(":")[0])).hexdigest()[:40].encode()


class NoSuchMessage(ValueError):
    """None has this number, or it is marked, or another program has taken it; the message is fit for the client."""


class Reader:
    """A message with lines that end with LF, whatever they end with in the file; ``read`` and ``close`` as of a file."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._kept = b""  # a CR, until it is known what follows

    def read(self, size: int = _CHUNK) -> bytes:
        """Up to ``size`` octets and one; empty at the end. Raises OSError."""
        while True:
            chunk = self._file.read(size)
            text = self._kept + chunk
            self._kept = b"\r" if chunk and text.endswith(b"\r") else b""
            text = text[: len(text) - len(self._kept)].replace(b"\r\n", b"\n")
            if text or not chunk:
                return text

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@define(eq=False)
class Top:
    """The header section of a message, the empty line, and so many ``lines`` of the body (RFC 1939 §7, TOP)."""

    reader: Reader
    lines: int
    _in_header: bool = field(default=True, init=False)
    _is_at_start: bool = field(default=True, init=False)  # of a line

    def read(self, size: int = _CHUNK) -> bytes:
        """As `Reader.read`."""
        taken: list[bytes] = []
        for line in _LINE.findall(self.reader.read(size)):
            if not self._in_header and not self.lines:
                break
            taken.append(line)
            ends = line.endswith(b"\n")
            if self._in_header:
                self._in_header = not (line == b"\n" and self._is_at_start)
            elif ends:
                self.lines -= 1
            self._is_at_start = ends
        return b"".join(taken)


@define(eq=False)
class Mailbox:
    """twisted.mail.pop3's IMailbox; numbers begin at 0. Raises NoSuchMessage for a number that is not there."""

    messages: list[Message]
    _deleted: set[int] = field(factory=set, init=False)

    def listMessages(self, index: int | None = None) -> int | list[int]:  # noqa: N802
        """The size of one, or of all; 0 for what is deleted."""
        if index is None:
            return [0 if number in self._deleted else message.size for number, message in enumerate(self.messages)]
        return 0 if index in self._deleted else self._get(index).size

    def getMessage(self, index: int) -> Reader:  # noqa: N802
        """The text."""
        try:
            return Reader(self._get(index).path)
        except OSError as problem:  # another program has removed or renamed it meanwhile
            raise NoSuchMessage("no such message any more") from problem

    def getUidl(self, index: int) -> bytes:  # noqa: N802
        """See `Message.identity`."""
        return self._get(index).identity

    def deleteMessage(self, index: int) -> None:  # noqa: N802
        """Mark it; nothing is removed before `sync`."""
        self._get(index)
        self._deleted.add(index)

    def undeleteMessages(self) -> None:  # noqa: N802
        """Take all marks away."""
        self._deleted.clear()

    def sync(self) -> int:
        """Remove what is marked, at QUIT (RFC 1939 §6). How many could not be removed."""
        left = 0
        for index in self._deleted:
            try:
                self.messages[index].path.unlink(missing_ok=True)  # another program was faster
            except OSError:
                left += 1
        self._deleted.clear()
        return left

    def _get(self, index: int) -> Message:
        if not 0 <= index < len(self.messages) or index in self._deleted:
            raise NoSuchMessage("no such message")
        return self.messages[index]


def open_mailbox(folder: Path) -> Mailbox:
    """What is there now, in the order of arrival; a folder that is not there has no messages. Reads every message: call it in a thread."""
    found: list[Message] = []
    for name in ("cur", "new"):
        with suppress(FileNotFoundError):
            for entry in os.scandir(folder / name):
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    with suppress(FileNotFoundError):
                        found.append(Message(Path(entry.path), _size(Path(entry.path))))
    # A Maildir's file names begin with the time.
    return Mailbox(sorted(found, key=lambda message: (_time_of(message.path.name), message.path.name)))


def _size(path: Path) -> int:
    reader = Reader(path)
    try:
        total, last = 0, b""
        while text := reader.read():
            total += len(text) + text.count(b"\n")
            last = text[-1:]
        return total if last in (b"", b"\n") else total + 2  # the CRLF before the final dot
    finally:
        reader.close()


def _time_of(name: str) -> int:
    digits = name.partition(".")[0]
    return int(digits) if digits.isascii() and digits.isdecimal() else 0
