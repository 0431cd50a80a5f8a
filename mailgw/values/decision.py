"""What a policy answers. Decide by returning, never by mutating."""

from enum import Enum

from attrs import frozen

from mailgw.values.reply import Reply

__all__ = [
    "LONGEST_WAIT",
    "AuthResult",
    "Decision",
    "Evidence",
    "HeaderField",
    "Verdict",
    "defer",
    "discard",
    "permit",
    "proceed",
    "quarantine",
    "reject",
]


LONGEST_WAIT = 60.0  # seconds: clients wait five minutes for a reply (RFC 5321 §4.5.3.2), and several policies may let them wait


class Verdict(Enum):
    """The kinds of answer a policy has."""

    PROCEED = "proceed"
    PERMIT = "permit"
    DEFER = "defer"
    REJECT = "reject"
    DISCARD = "discard"
    QUARANTINE = "quarantine"


@frozen
class HeaderField:
    """A header field to lay on top of the message. Raises ValueError for what would break the header section (RFC 5322 §2.2)."""

    name: str
    value: str

    def __attrs_post_init__(self) -> None:
        if not self.name or not all("!" <= c <= "~" and c != ":" for c in self.name):
            raise ValueError(f"{self.name!r} is no header field name")
        for line in self.value.split("\r\n")[1:]:
            if line[:1] not in (" ", "\t") or not line.strip():
                raise ValueError("a continuation line must begin with white space and carry text")
        bare = self.value.replace("\r\n", "")
        if "\r" in bare or "\n" in bare or "\0" in bare:
            raise ValueError("a header field value must not contain bare CR, bare LF or NUL")
        _check(self.value)


@frozen
class AuthResult:
    """One authentication result (RFC 8601), for later policies: ``AuthResult("spf", "pass", (("smtp.mailfrom", "example.org"),))``."""

    method: str
    result: str
    properties: tuple[tuple[str, str], ...] = ()

    def __attrs_post_init__(self) -> None:
        _check(self.method, self.result)
        for name, value in self.properties:
            _check(name, value)


def _check(*texts: str) -> None:
    for text in texts:
        text.encode()  # with a lone surrogate it cannot be sent; UnicodeEncodeError is a ValueError


@frozen
class Evidence:
    """A fact that a decision rests on, for the decision record: ``Evidence("SPF record", "v=spf1 -all", "TXT example.org")``."""

    name: str
    value: str
    source: str = ""  # where it came from: a DNS question, a file and line, the client's own words


@frozen
class Decision:
    """One opinion. Make it with `proceed`, `permit`, `defer`, `reject`, `discard` or `quarantine`."""

    verdict: Verdict
    reply: Reply | None = None  # what the peer hears; set for DEFER and REJECT
    why: str = ""  # for the journal, not for the peer
    headers: tuple[HeaderField, ...] = ()
    tags: frozenset[str] = frozenset()
    results: tuple[AuthResult, ...] = ()
    evidence: tuple[Evidence, ...] = ()  # what it rests on, for the decision record
    remedy: str = ""  # what would have to be different for another answer, for whoever asks why
    wait: float = 0.0  # seconds that the client must wait for its reply; at most `LONGEST_WAIT`

    def __attrs_post_init__(self) -> None:
        if self.verdict is Verdict.DEFER and not (self.reply and self.reply.is_transient):
            raise ValueError("a deferral needs a 4yz reply")
        if self.verdict is Verdict.REJECT and not (self.reply and self.reply.is_permanent):
            raise ValueError("a rejection needs a 5yz reply")
        if not 0 <= self.wait <= LONGEST_WAIT:
            raise ValueError(f"a client may wait from 0 to {LONGEST_WAIT:g} seconds")
        if self.tags and not all(tag.isprintable() for tag in self.tags):
            raise ValueError("a tag is a printable text")  # the queue keeps one a line


_PROCEED = Decision(Verdict.PROCEED)


def proceed(
    *,
    headers: tuple[HeaderField, ...] = (),
    tags: frozenset[str] | set[str] = frozenset(),
    results: tuple[AuthResult, ...] = (),
    why: str = "",
    evidence: tuple[Evidence, ...] = (),
    wait: float = 0.0,
) -> Decision:
    """No objection; perhaps something to add, or a while (seconds) to let pass before the client hears its reply."""
    if not (headers or tags or results or why or evidence or wait):
        return _PROCEED
    return Decision(Verdict.PROCEED, None, why, headers, frozenset(tags), results, evidence, wait=wait)


def permit(why: str) -> Decision:
    """Allow relaying to this recipient. Only an `IRelayPolicy` may say so."""
    return Decision(Verdict.PERMIT, why=why)


def defer(
    text: str, *, code: int = 450, enhanced: str = "4.7.1", why: str = "", evidence: tuple[Evidence, ...] = (), remedy: str = ""
) -> Decision:
    """Not now: the client may try again (4yz)."""
    return Decision(Verdict.DEFER, reply=Reply(code, enhanced, text), why=why, evidence=evidence, remedy=remedy)


def reject(
    text: str, *, code: int = 550, enhanced: str = "5.7.1", why: str = "", evidence: tuple[Evidence, ...] = (), remedy: str = ""
) -> Decision:
    """No (5yz)."""
    return Decision(Verdict.REJECT, reply=Reply(code, enhanced, text), why=why, evidence=evidence, remedy=remedy)


def discard(why: str, *, evidence: tuple[Evidence, ...] = (), remedy: str = "") -> Decision:
    """Say 250 and throw it away: nobody is told, so say why in the journal."""
    return Decision(Verdict.DISCARD, why=why, evidence=evidence, remedy=remedy)


def quarantine(why: str, *, evidence: tuple[Evidence, ...] = (), remedy: str = "") -> Decision:
    """Accept it and hold it in the queue until an operator releases it."""
    return Decision(Verdict.QUARANTINE, why=why, evidence=evidence, remedy=remedy)
