"""SMTP replies whose code, enhanced status and text agree (RFC 5321 §4.2, RFC 3463)."""

import re
from functools import lru_cache

from attrs import field, frozen

__all__ = ["Reply"]

_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\Z")
_MAX_LINE = 512  # octets, with code and CRLF (RFC 5321 §4.5.3.1.5)


@frozen
class Reply:
    """One reply: ``Reply(250, "2.1.5", "recipient ok")``.

    ``enhanced`` is empty where no enhanced status belongs: the greeting, EHLO, and 3yz (RFC 2034 §4). Several lines are
    separated by a newline in ``text``. Raises ValueError where the parts contradict each other.
    """

    code: int
    enhanced: str
    text: str
    wire: bytes = field(init=False, repr=False, eq=False)

    def __attrs_post_init__(self) -> None:
        _check(self.code, self.enhanced)
        object.__setattr__(self, "wire", _encode(self.code, self.enhanced, self.text))

    @classmethod
    def heard(cls, code: int, text: str) -> "Reply":
        """Make a reply of what a peer said, however odd: a missing or contradicting enhanced status is replaced by ``x.0.0``."""
        head, _, rest = text.partition(" ")
        kind = str(code)[0]
        if _ENHANCED.match(head) and head[0] == kind:
            # Each line of a multi-line reply repeats the status (RFC 2034 §4): keep it once.
            return cls(code, head, rest.replace(f"\n{head} ", "\n"))
        return cls(code, f"{kind}.0.0" if code >= 400 else "", text)

    @property
    def is_positive(self) -> bool:
        """2yz: done."""
        return self.code < 300

    @property
    def is_transient(self) -> bool:
        """4yz: the client may try again."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """5yz: the client must not repeat the same request."""
        return self.code >= 500

    def softened(self) -> "Reply":
        """The same refusal as a deferral: what ``soft_bounce`` sends instead of 5yz."""
        if not self.is_permanent:
            return self
        return Reply(self.code - 100, f"4{self.enhanced[1:]}", self.text)

    def referring(self, reference: str) -> "Reply":
        """The same with a reference at its end, under which the decision record knows it: ``... [ref 7QK3M]``."""
        # A line that is cut at its end must not lose it.
        room = _MAX_LINE - len(f"250 {self.enhanced}  [ref {reference}]\r\n")
        head, feed, last = self.text.rpartition("\n")
        return Reply(self.code, self.enhanced, f"{head}{feed}{last[:room]} [ref {reference}]")

    def __str__(self) -> str:
        text = self.text.replace("\n", " / ")
        return f"{self.code} {self.enhanced} {text}" if self.enhanced else f"{self.code} {text}"


@lru_cache(maxsize=1024)  # there are not many, but some are made for each message
def _check(code: int, enhanced: str) -> None:
    if not 200 <= code <= 599:
        raise ValueError(f"{code} is no SMTP reply code")
    if enhanced:
        if not _ENHANCED.match(enhanced):
            raise ValueError(f"{enhanced!r} is no enhanced status code")
        if enhanced[0] != str(code)[0]:
            raise ValueError(f"reply code {code} and enhanced status {enhanced} contradict each other")
    elif code >= 400:
        raise ValueError(f"reply code {code} needs an enhanced status")


def _encode(code: int, enhanced: str, text: str) -> bytes:
    # Nothing a plugin or a peer put into a text may forge a second reply or leave ASCII (RFC 5321 §4.2).
    status = f"{enhanced} " if enhanced else ""
    room = _MAX_LINE - len("250 \r\n") - len(status)
    lines = []
    for line in text.split("\n") if "\n" in text else (text,):
        if not (line.isascii() and line.isprintable()):
            line = "".join(c if " " <= c <= "~" else "?" for c in line)
        lines.append(line[:room])
    last = len(lines) - 1
    return "".join([f"{code}{' ' if i == last else '-'}{status}{line}\r\n" for i, line in enumerate(lines)]).encode("ascii")
