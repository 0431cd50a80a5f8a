"""What a policy does about what it found, as its table says."""

from collections.abc import Sequence
from typing import Literal

from attrs import evolve

from mailgw.values.decision import Decision, Evidence, Verdict, defer, discard, proceed, quarantine, reject

__all__ = ["Action", "act", "plain", "together"]

Action = Literal["reject", "defer", "quarantine", "discard", "tag", "pass"]


def plain(text: str) -> str:
    """A text for the peer, as it is. Raises ValueError for one that a reply cannot carry (RFC 5321 §4.2)."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError(f'"{text}": the text must be plain ASCII, as replies are')
    return text


def act(
    action: Action,
    text: str,
    *,
    status: str = "7.1",
    code: str = "50",
    why: str = "",
    tag: str = "",
    evidence: tuple[Evidence, ...] = (),
    remedy: str = "",
) -> Decision:
    """The decision: ``text`` is for the peer, ``why`` (else the same) for us, ``tag`` what routes and later policies see.

    ``status`` is the enhanced status without its class, ``code`` the reply code without its first digit: "7.1" becomes 550 5.7.1 or
    450 4.7.1.
    """
    why = why or text
    match action:
        case "reject":
            return reject(text, code=int(f"5{code}"), enhanced=f"5.{status}", why=why, evidence=evidence, remedy=remedy)
        case "defer":
            return defer(text, code=int(f"4{code}"), enhanced=f"4.{status}", why=why, evidence=evidence, remedy=remedy)
        case "quarantine":
            return quarantine(why, evidence=evidence, remedy=remedy)
        case "discard":
            return discard(why, evidence=evidence, remedy=remedy)
        case "tag":
            return proceed(tags={tag} if tag else set(), why=why, evidence=evidence)
        case "pass":
            return proceed(why=why, evidence=evidence)


_WEIGHT = {Verdict.REJECT: 4, Verdict.DEFER: 3, Verdict.DISCARD: 2, Verdict.QUARANTINE: 1, Verdict.PROCEED: 0}


def together(decisions: Sequence[Decision]) -> Decision:
    """One decision of several: the first of the severest, with the header fields, tags and grounds of all."""
    if not decisions:
        return _FINE
    severest = max(decisions, key=lambda one: _WEIGHT[one.verdict])
    if len(decisions) == 1:
        return severest
    return evolve(
        severest,
        headers=tuple(header for one in decisions for header in one.headers),
        tags=frozenset().union(*[one.tags for one in decisions]),
        evidence=tuple(evidence for one in decisions for evidence in one.evidence),
    )


_FINE = proceed()
