"""What a policy does about what it found, as its table says."""

from typing import Literal

from mailgw.values.decision import Decision, Evidence, defer, discard, proceed, quarantine, reject

__all__ = ["Action", "act"]

Action = Literal["reject", "defer", "quarantine", "discard", "tag", "pass"]


def act(
    action: Action,
    text: str,
    *,
    status: str = "7.1",
    why: str = "",
    tag: str = "",
    evidence: tuple[Evidence, ...] = (),
    remedy: str = "",
) -> Decision:
    """The decision: ``text`` is for the peer, ``why`` (else the same) for us, ``tag`` what routes and later policies see.

    ``status`` is the enhanced status without its class: "7.1" becomes 550 5.7.1 or 450 4.7.1.
    """
    why = why or text
    match action:
        case "reject":
            return reject(text, enhanced=f"5.{status}", why=why, evidence=evidence, remedy=remedy)
        case "defer":
            return defer(text, enhanced=f"4.{status}", why=why, evidence=evidence, remedy=remedy)
        case "quarantine":
            return quarantine(why, evidence=evidence, remedy=remedy)
        case "discard":
            return discard(why, evidence=evidence, remedy=remedy)
        case "tag":
            return proceed(tags={tag} if tag else set(), why=why, evidence=evidence)
        case "pass":
            return proceed(why=why, evidence=evidence)
