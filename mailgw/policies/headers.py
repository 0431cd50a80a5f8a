"""What a header section must have, must not have, may have once, and what its fields may say."""

from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import re2
from attrs import Factory, field, frozen
from zope.interface import implementer

from mailgw.interfaces import IContentPolicy
from mailgw.policies.action import Action, act, plain, together
from mailgw.policies.encoded_words import decoded
from mailgw.policies.originators import Unreadable, fields_of
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ContentFacts

__all__ = ["FieldRule", "Headers"]

# RFC 5322 §3.6: "Max number" 1.
_ONCE = ("Date", "From", "Sender", "Reply-To", "To", "Cc", "Bcc", "Message-ID", "In-Reply-To", "References", "Subject")
_ALL = "*"
_SHOWN = 200  # characters of a field in the evidence
_MOST_MEMORY = 8 * 1024 * 1024  # octets that one expression may take


def _compiled(pattern: str) -> Any:
    """Raises ValueError."""
    options = re2.Options()
    options.case_sensitive = False
    options.log_errors = False
    options.max_mem = _MOST_MEMORY
    try:
        return re2.compile(pattern, options)
    except re2.error as problem:
        text = problem.args[0].decode() if isinstance(problem.args[0], bytes) else str(problem)
        raise ValueError(f'"{pattern}" is no regular expression of RE2: {text}') from None


def _names(names: Sequence[str]) -> list[str]:
    for name in names:
        if not name or not all("!" <= c <= "~" and c != ":" for c in name):
            raise ValueError(f'"{name}" is no name of a header field')
    return list(names)


@frozen
class FieldRule:
    """``{ field = "Subject", matches = "lottery", action = "tag", tag = "spam" }``: what is done where a field says something."""

    field: str
    """The name; ``"*"``: every field."""
    matches: str
    """A regular expression, found anywhere in the value, regardless of case: https://github.com/google/re2/wiki/Syntax."""
    action: Action = "reject"
    text: str = ""
    """What the peer hears; a text of its own, if empty."""
    tag: str = "header"
    _expression: Any = attrs.field(
        init=False, eq=False, repr=False, default=Factory(lambda self: _compiled(self.matches), takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        plain(self.text)
        if self.field != _ALL:
            _names([self.field])

    def is_about(self, name: str) -> bool:
        """Whether it looks at fields of this name, which is in lower case."""
        return self.field == _ALL or self.field.lower() == name

    def finds(self, value: bytes) -> str:
        """The value in which it finds its expression: with encoded words decoded (RFC 2047), or as it stands; else ""."""
        plain = value.decode("utf-8", "replace").strip()
        text = decoded(plain)
        for one in (text, plain) if text != plain else (text,):
            if self._expression.search(one):
                return one or "(empty)"
        return ""


@implementer(IContentPolicy)
@frozen
class Headers:
    """``type = "headers"``: looks at the header section of each message (RFC 5322 §3.6).

    Each fault has its action: reject, defer, quarantine, discard, tag (with ``tag``), pass. Of several faults the severest action is
    taken, and all tags are given. Who can write mail at all writes regular header sections, so the defaults refuse the others.
    """

    required: list[str] = field(factory=lambda: ["Date", "From"], converter=_names)
    missing: Action = "reject"
    once: list[str] = field(factory=lambda: list(_ONCE), converter=_names)
    """Fields that may be there once: what two readers may read differently."""
    repeated: Action = "reject"
    forbidden: list[str] = field(factory=list, converter=_names)
    present: Action = "reject"
    """What follows where a forbidden field is there."""
    unreadable: Action = "reject"
    """What follows where the header section is too long to be looked at, or has a bare CR or LF, which readers take differently."""
    rules: list[FieldRule] = field(factory=list)
    tag: str = "header"

    def check_content(self, facts: ContentFacts) -> Decision:
        """Raises OSError."""
        try:
            fields = list(fields_of(facts.content))
        except Unreadable as problem:
            remedy = "a header section of less than 1 MiB, with CRLF alone as line ends"
            return act(self.unreadable, str(problem), status="6.0", tag=self.tag, remedy=remedy)
        found = list(self._faults(fields))
        return together(found) if found else _FINE

    def _faults(self, fields: Sequence[tuple[str, bytes]]) -> Iterator[Decision]:
        counts: dict[str, int] = {}
        for name, _ in fields:
            counts[name] = counts.get(name, 0) + 1
        for name in self.required:
            if name.lower() not in counts:
                text = f"the message has no {name}: field"
                yield self._fault(self.missing, text, Evidence(name, "not there", _SECTION), f"the field {name}:")
        for name in self.once:
            count = counts.get(name.lower(), 0)
            if count > 1:
                text = f"the message has more than one {name}: field"
                yield self._fault(self.repeated, text, Evidence(name, f"{count} times", _SECTION), f"one {name}: field")
        for name in self.forbidden:
            if name.lower() in counts:
                text = f"the message has a {name}: field"
                yield self._fault(self.present, text, Evidence(name, "there", _SECTION), f"no {name}: field")
        for rule in self.rules:
            yield from self._matches(rule, fields)

    def _fault(self, action: Action, text: str, evidence: Evidence, remedy: str) -> Decision:
        return act(action, text, status="6.0", tag=self.tag, evidence=(evidence,), remedy=remedy)

    def _matches(self, rule: FieldRule, fields: Sequence[tuple[str, bytes]]) -> Iterator[Decision]:
        for name, value in fields:
            if rule.is_about(name) and (said := rule.finds(value)):
                evidence = (Evidence(name, said[:_SHOWN], _SECTION), Evidence("rule", f"{rule.field} matches {rule.matches}", "rules"))
                text = rule.text or f"the {name}: field is not accepted here"
                why = f"{name} matches {rule.matches}"
                yield act(rule.action, text, why=why, tag=rule.tag, evidence=evidence, remedy="another text in this field, or another rule")
                return


_FINE = proceed()
_SECTION = "the header section"
