"""How big a message may be, for each recipient: said at RCPT where the client says the size, else when it is here."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

from attrs import field, frozen
from attrs.validators import max_len
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IContentPolicy, IRecipientPolicy
from mailgw.policies.action import act
from mailgw.policies.kept_file import KeptFile
from mailgw.policies.known_recipients import spellings
from mailgw.policies.table_keys import domains_of, parse_key
from mailgw.values.address import Address, BadAddress
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ContentFacts, RecipientFacts
from mailgw.values.quantities import Size, parse_size

__all__ = ["SizePerRecipient"]

_COMMENT = re.compile(r"(?:^|\s)#.*")  # "#" is allowed in a local-part (RFC 5321 §4.1.2, atext)
_MOST_NAMED = 10  # recipients in the grounds


@frozen
class _Limit:
    octets: int | None  # None: any size
    key: str
    where: str  # "/etc/mailgw/sizes:12"


_Limits = Mapping[str, _Limit]


@implementer(IRecipientPolicy, IContentPolicy)
@frozen
class SizePerRecipient:
    """``type = "size-per-recipient"``: refuses what is bigger than its recipient takes.

    Keys are addresses, ``example.org``, and ``.example.org`` for all below it; the most specific one counts, in ``limits`` before
    ``path``. A client that declares the size (RFC 1870) hears of it at RCPT, for that recipient alone. Else the whole message is
    refused when it is here, if it is too big for any of its recipients: SMTP has only one reply for all.
    """

    limits: "dict[str, Size | None]" = field(factory=dict)
    """``{ "example.org" = "25 MiB", "fax@example.org" = "1 MiB", "archive@example.org" = "unlimited" }``."""
    path: Path | None = None
    """A file with ``KEY SIZE`` in each line; ``#`` begins a comment. It is read again when it changed."""
    otherwise: Size | None = None
    """For who is in neither of them."""
    subaddress: str = field(default="", validator=max_len(1))
    """The character between a user and a subaddress; both spellings are looked up, the whole one first. Empty: none."""
    action: Literal["reject", "quarantine", "tag"] = "reject"
    tag: str = "too-big"
    clock: IClock = given(IClock)
    _own: _Limits = field(init=False, eq=False, repr=False)
    _file: "KeptFile[_Limits] | None" = field(init=False, eq=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        if not self.limits and self.path is None and self.otherwise is None:
            raise ValueError('needs "limits", "path" or "otherwise"')
        own = {}
        for key, octets in self.limits.items():
            try:
                own[parse_key(key)] = _Limit(octets, key, "limits")
            except BadAddress as problem:
                raise ValueError(f'limits: "{key}": {problem}') from None
        object.__setattr__(self, "_own", own)
        if self.path is not None:
            object.__setattr__(self, "_file", KeptFile(self.path, _read, self.clock))

    def check_recipient(self, facts: RecipientFacts) -> Decision:
        size = facts.size
        if not size:
            return _FINE
        limit = self._of(facts.recipient)
        if limit.octets is None or size <= limit.octets:
            return _FINE
        # 550 and not 552, which clients may take for "too many recipients" here (RFC 5321 §4.5.3.1.10); RFC 3463 §3.3 for X.2.3.
        text = f"message is too big: this recipient takes up to {_spoken(limit.octets)}"
        said = Evidence("declared size", f"{size} octets", "the client's MAIL command")
        return self._act(text, "50", (said, _evidence(facts.recipient, limit)))

    def check_content(self, facts: ContentFacts) -> Decision:
        size = facts.content.original_size
        limits = [(recipient, self._of(recipient)) for recipient in facts.recipients]
        over = [(recipient, limit) for recipient, limit in limits if limit.octets is not None and size > limit.octets]
        if not over:
            return _FINE
        smallest = min(limit.octets for _, limit in over if limit.octets is not None)
        whom = "its recipient takes" if len(limits) == 1 else f"{len(over)} of its {len(limits)} recipients take"
        said = Evidence("size", f"{size} octets", "the message")
        return self._act(
            f"message is too big: {whom} up to {_spoken(smallest)}",
            "52",
            (said, *(_evidence(recipient, limit) for recipient, limit in over[:_MOST_NAMED])),
        )

    def _act(self, text: str, code: str, evidence: tuple[Evidence, ...]) -> Decision:
        remedy = "a smaller message, or a higher limit"
        return act(self.action, text, status="2.3", code=code, tag=self.tag, evidence=evidence, remedy=remedy)

    def _of(self, recipient: Address) -> _Limit:
        for local_part in spellings(recipient, self.subaddress):
            found = self._find(f"{local_part}@{recipient.domain}")
            if found is not None:
                return found
        for key in domains_of(recipient.domain):
            found = self._find(key)
            if found is not None:
                return found
        return _Limit(self.otherwise, "", "otherwise")

    def _find(self, key: str) -> _Limit | None:
        return self._own.get(key) or (None if self._file is None else self._file.content().get(key))


_FINE = proceed()


def _evidence(recipient: Address, limit: _Limit) -> Evidence:
    return Evidence("limit", f"{recipient}: {limit.octets} octets", f"{limit.where} {limit.key}".strip())


def _spoken(octets: int) -> str:
    size, unit = next(((size, unit) for size, unit in ((2**20, "MiB"), (2**10, "KiB")) if octets >= size), (1, "octets"))
    return f"{round(octets / size, 1):g} {unit}"


def _read(file: IO[bytes], path: Path) -> _Limits:
    """Raises OSError, ValueError."""
    limits = {}
    for number, line in enumerate(file, 1):
        where = f"{path}:{number}"
        try:
            words = _COMMENT.sub("", line.decode()).split(None, 1)
            if not words:
                continue
            if len(words) < 2:
                raise ValueError(f'"{words[0]}" is not KEY SIZE')
            size = words[1].strip()
            limits[parse_key(words[0])] = _Limit(None if size == "unlimited" else parse_size(size), words[0], where)
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8") from None
        except ValueError as problem:
            raise ValueError(f"{where}: {problem}") from None
    return limits
