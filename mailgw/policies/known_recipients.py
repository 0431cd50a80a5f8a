"""Who lives here: mail for anybody else is refused at RCPT, not bounced later."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from attrs import Factory, field, frozen
from attrs.validators import max_len
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IRecipientPolicy
from mailgw.policies.database import has_row
from mailgw.policies.kept_file import KeptFile
from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.decision import Decision, Evidence, proceed, reject
from mailgw.values.facts import RecipientFacts

__all__ = ["RecipientList", "RecipientTable", "spellings"]

_COMMENT = re.compile(r"(?:^|\s)#.*")
_ASKS = re.compile(r":(?:address|local_part|domain)\b")


def _unknown(recipient: Address, looked: Evidence, remedy: str) -> Decision:
    said = (Evidence("recipient", str(recipient), "the client's RCPT command"), looked)
    return reject("no such user here", code=550, enhanced="5.1.1", evidence=said, remedy=remedy)


def _is_postmaster(address: Address) -> bool:
    return address.local_part.lower() == "postmaster"


def spellings(address: Address, subaddress: str) -> Iterator[str]:
    """The local-parts under which a recipient may be known, in lower case: as it is, then without its subaddress (RFC 5233 §4)."""
    local_part = address.local_part.lower()
    yield local_part
    if subaddress:
        user = local_part.partition(subaddress)[0]
        if user and user != local_part:
            yield user


@implementer(IRecipientPolicy)
@frozen
class RecipientList:
    """A file of addresses, one a line; ``@example.org`` means everybody there; ``#`` begins a comment.

    The file is read again when it changed. If it cannot be read then, the last good list stays in force and the log says so.
    Raises ValueError, with file and line, when it cannot be read at the start.
    """

    path: Path = field(converter=Path)
    """The file."""
    subaddress: str = field(default="", validator=max_len(1))
    """The character between a user and a subaddress: with ``"+"``, mail for user+anything is mail for user. Empty: none."""
    clock: IClock = given(IClock)
    _file: KeptFile[frozenset[str]] = field(
        init=False, eq=False, repr=False, default=Factory(lambda self: KeptFile(self.path, _parse, self.clock), takes_self=True)
    )

    def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Proceed for those who are listed and for postmaster (RFC 5321 §4.5.1); 550 5.1.1 for others."""
        known, recipient = self._file.content(), facts.recipient
        if f"@{recipient.domain}" in known or _is_postmaster(recipient):
            return proceed()
        if any(f"{local_part}@{recipient.domain}" in known for local_part in spellings(recipient, self.subaddress)):
            return proceed()
        everybody = f"@{recipient.domain}"
        looked = Evidence("list", f"neither it nor {everybody} is there", str(self.path))
        return _unknown(recipient, looked, f"a line {recipient} or {everybody} in {self.path}")


def _parse(file: IO[bytes], path: Path) -> frozenset[str]:
    """The folded addresses and ``@domain`` entries of a list file. Raises OSError, ValueError."""
    known = set()
    for number, line in enumerate(file, 1):
        try:
            entry = _COMMENT.sub("", line.decode()).strip()
            if entry:
                known.add(f"@{parse_domain(entry[1:])}" if entry.startswith("@") else Address.parse(entry).folded)
        except BadAddress as problem:
            raise ValueError(f"{path}:{number}: {entry!r}: {problem}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}:{number}: not UTF-8") from None
    return frozenset(known)


@implementer(IRecipientPolicy)
@frozen
class RecipientTable:
    """A query to an SQLite database: whoever gives a row is known. Database trouble is raised, so the client hears 451.

    Raises ValueError when the database or the query does not work at the start.
    """

    database: Path = field(converter=Path)
    """The database file; it is only read."""
    query: str
    """With the parameters ``:address``, ``:local_part`` and ``:domain``, all in lower case:
    ``SELECT 1 FROM users WHERE address = :address``."""
    subaddress: str = field(default="", validator=max_len(1))
    """The character between a user and a subaddress; both spellings are asked for, the whole one first. Empty: none."""
    threads: IReactorThreads = given(IReactorThreads)

    def __attrs_post_init__(self) -> None:
        try:
            has_row(self.database, self.query, [_asked("nobody", "example.invalid")])
        except sqlite3.Error as problem:
            raise ValueError(f"{self.database}: {problem}") from problem
        if not _ASKS.search(self.query):
            raise ValueError("query asks for nobody; say where address = :address")

    async def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Proceed for those who give a row and for postmaster (RFC 5321 §4.5.1); 550 5.1.1 for others. Raises sqlite3.Error."""
        recipient = facts.recipient
        if _is_postmaster(recipient):
            return proceed()
        questions = [_asked(local_part, recipient.domain) for local_part in spellings(recipient, self.subaddress)]
        known = await deferToThreadPool(self.threads, self.threads.getThreadPool(), has_row, self.database, self.query, questions)
        if known:
            return proceed()
        return _unknown(recipient, Evidence("row", "none", str(self.database)), f"a row for {recipient} in {self.database}")


def _asked(local_part: str, domain: str) -> dict[str, str]:
    return {"address": f"{local_part}@{domain}", "local_part": local_part, "domain": domain}
