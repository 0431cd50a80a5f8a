"""Refusals that come the later, the more there were: guessing addresses is slow work then."""

from typing import Any

from attrs import field, frozen
from attrs.validators import ge
from zope.interface import implementer

from mailgw.interfaces import IRefusalPolicy, ISenderPolicy
from mailgw.values.decision import LONGEST_WAIT, Decision, Evidence, proceed
from mailgw.values.facts import RefusalFacts, SenderFacts
from mailgw.values.quantities import Duration

__all__ = ["Tarpit"]


def _in_bounds(_: Any, attribute: Any, value: float) -> None:
    if not 0 <= value <= LONGEST_WAIT:
        raise ValueError(f"{attribute.name} must be {LONGEST_WAIT:g} seconds at most")


@implementer(IRefusalPolicy, ISenderPolicy)
@frozen
class Tarpit:
    """``type = "tarpit"``: each refusal above ``after`` in a session comes ``step`` later than the one before.

    Clients with one of ``tags`` wait ``most``, at MAIL and for each refusal: list the policies that tag them before this one. All
    refusals at MAIL, RCPT and DATA count, not errors of syntax. Nothing but the session waits: no thread, no process.
    """

    step: Duration = field(default=1.0, validator=_in_bounds)
    after: int = field(default=2, validator=ge(0))
    """So many refusals cost nothing: everybody mistypes an address."""
    most: Duration = field(default=10.0, validator=_in_bounds)
    tags: frozenset[str] = frozenset()

    def check_sender(self, facts: SenderFacts) -> Decision:
        return self._wait(self.most, facts.tags, ()) if self.tags & facts.tags else _FINE

    def check_refusal(self, facts: RefusalFacts) -> Decision:
        wait = self.most if self.tags & facts.tags else min(self.most, self.step * (facts.count - self.after))
        return self._wait(wait, facts.tags, (Evidence("refusals", str(facts.count), "this session"),)) if wait > 0 else _FINE

    def _wait(self, wait: float, tags: frozenset[str], evidence: tuple[Evidence, ...]) -> Decision:
        said = [Evidence("tag", tag, "an earlier policy") for tag in sorted(self.tags & tags)]
        return proceed(wait=wait, why=f"replied after {wait:g} s", evidence=(*said, *evidence))


_FINE = proceed()
