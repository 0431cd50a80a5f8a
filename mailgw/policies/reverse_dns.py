"""Whether the client's address has a name, and the name that address: forward-confirmed reverse DNS (RFC 8601 §2.7.3, "iprev")."""

import re
from collections.abc import Sequence
from typing import Any

from attrs import evolve, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IResolver
from mailgw.policies.action import Action, act
from mailgw.policies.reverse_name import reverse_name
from mailgw.values.decision import AuthResult, Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts

__all__ = ["ReverseDns"]


def _patterns(texts: Any) -> "tuple[re.Pattern[str], ...]":
    found = []
    for text in [texts] if isinstance(texts, str) else texts:
        try:
            found.append(re.compile(text, re.IGNORECASE))
        except re.error as problem:
            raise ValueError(f'"{text}" is no regular expression: {problem}') from None
    return tuple(found)


def _are_patterns(_: object, __: object, value: Sequence[str]) -> None:
    _patterns(value)


@implementer(IClientPolicy)
@frozen
class ReverseDns:
    """``type = "reverse-dns"``: looks the client's address up, before the greeting, and the name that is found back again.

    What it finds goes on to later policies and into Authentication-Results as ``iprev``. Each fault has its action: reject, defer,
    quarantine, discard, tag (with ``tag``), pass.
    """

    missing: Action = "reject"  # the address has no name
    mismatch: Action = "tag"  # no name of it leads back to it
    generic: Action = "tag"  # the confirmed name matches one of ``generic_names``
    generic_names: list[str] = field(factory=list, validator=_are_patterns)  # regular expressions, searched in the name
    tag: str = "odd-name"
    resolver: IResolver = given(IResolver)
    _generic: "tuple[re.Pattern[str], ...]" = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_generic", _patterns(self.generic_names))

    async def check_client(self, facts: ClientFacts) -> Decision:
        ip = facts.ip
        question = ip.reverse_pointer
        names, confirmed = await reverse_name(self.resolver, ip)
        if not names:
            none = (Evidence("reverse name", "none", f"PTR {question}"),)
            return _with_result(
                act(self.missing, f"{ip} has no reverse name", status="7.25", tag=self.tag, evidence=none, remedy=_PTR), "fail", facts
            )
        if not confirmed:
            said = (
                Evidence("reverse names", ", ".join(names), f"PTR {question}"),
                Evidence("addresses", f"{ip} is not among theirs", "A, AAAA"),
            )
            text = f"the reverse name of {ip} does not lead back to it"
            return _with_result(act(self.mismatch, text, status="7.25", tag=self.tag, evidence=said, remedy=_BACK), "fail", facts)
        name = Evidence("reverse name", confirmed, f"PTR {question}")
        pattern = next((one for one in self._generic if one.search(confirmed)), None)
        if pattern is not None:
            said = (name, Evidence("pattern", pattern.pattern, "generic_names"))
            text = f"{confirmed} looks like the name of a dial-up address"
            return _with_result(act(self.generic, text, status="7.25", tag=self.tag, evidence=said, remedy=_OWN), "pass", facts)
        return proceed(results=(_result("pass", facts),), evidence=(name,))


_PTR = "a PTR record for the client's address"
_BACK = "an address record of that name with the client's address"
_OWN = "a reverse name of the client's own"


def _result(word: str, facts: ClientFacts) -> AuthResult:
    return AuthResult("iprev", word, (("policy.iprev", str(facts.ip)),))


def _with_result(decision: Decision, word: str, facts: ClientFacts) -> Decision:
    return evolve(decision, results=(_result(word, facts),))
