"""Who lives here: mail for anybody else is refused at RCPT, not bounced later."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from os import fstat, stat_result
from pathlib import Path

from attrs import define, field, frozen
from attrs.validators import max_len
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IRecipientPolicy
from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.decision import Decision, proceed, reject
from mailgw.values.facts import RecipientFacts

__all__ = ["RecipientList", "RecipientTable"]

log = Logger()

_COMMENT = re.compile(r"(?:^|\s)#.*")
_CHECK_EVERY = 1.0  # seconds
_SETTLED_AFTER = 1.0  # seconds
_LOCKED = 5.0  # seconds to wait for another process that writes to the database
_UNKNOWN = reject("no such user here", code=550, enhanced="5.1.1")


def _is_postmaster(address: Address) -> bool:
    return address.local_part.lower() == "postmaster"


def _spellings(address: Address, subaddress: str) -> Iterator[str]:
    """The local-parts under which a recipient may be known, in lower case: as it is, then without its subaddress (RFC 5233 §4)."""
    local_part = address.local_part.lower()
    yield local_part
    if subaddress:
        user = local_part.partition(subaddress)[0]
        if user and user != local_part:
            yield user


@define
class _Read:
    """What was read from a list file, and when it was looked at."""

    known: frozenset[str]
    stamp: tuple[int, ...]
    changed: tuple[int, ...] | None = None  # the stamp of a change that was seen, but perhaps not finished yet
    checked: float = 0.0  # POSIX seconds


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
    _read: _Read = field(init=False, eq=False, repr=False)

    def __attrs_post_init__(self) -> None:
        try:
            read = _Read(*_read(self.path))
        except OSError as problem:
            raise ValueError(f"{self.path}: {problem.strerror}") from problem
        object.__setattr__(self, "_read", read)

    def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Proceed for those who are listed and for postmaster (RFC 5321 §4.5.1); 550 5.1.1 for others."""
        now = self.clock.now().timestamp()
        if not 0 <= now - self._read.checked < _CHECK_EVERY:
            self._read.checked = now
            self._look_again(now)
        known, recipient = self._read.known, facts.recipient
        if f"@{recipient.domain}" in known or _is_postmaster(recipient):
            return proceed()
        if any(f"{local_part}@{recipient.domain}" in known for local_part in _spellings(recipient, self.subaddress)):
            return proceed()
        return _UNKNOWN

    def _look_again(self, now: float) -> None:
        state = self._read
        try:
            found = self.path.stat()
        except OSError as problem:
            if state.changed != ():
                state.changed = ()
                self._complain(problem)
            return
        stamp = _stamp(found)
        if stamp == state.stamp:
            state.changed = None
            return
        # A file that changed a moment ago may be half written, and half a list would refuse good mail for ever.
        if stamp != state.changed and not now - found.st_mtime > _SETTLED_AFTER:
            state.changed = stamp
            return
        try:
            state.known, state.stamp = _read(self.path)
        except (OSError, ValueError) as problem:
            state.stamp = stamp  # complain once for each change
            self._complain(problem)
        state.changed = None

    def _complain(self, problem: Exception) -> None:
        log.error(
            "{path} cannot be read, the last good list of {count} stays in force: {problem}",
            path=str(self.path),
            count=len(self._read.known),
            problem=str(problem),
        )


def _stamp(found: stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_size, found.st_ino


def _read(path: Path) -> tuple[frozenset[str], tuple[int, ...]]:
    """Give the folded addresses and ``@domain`` entries of a list file, and its stamp. Raises OSError, ValueError."""
    known = set()
    with path.open("rb") as file:
        stamp = _stamp(fstat(file.fileno()))
        for number, line in enumerate(file, 1):
            try:
                entry = _COMMENT.sub("", line.decode()).strip()
                if entry:
                    known.add(f"@{parse_domain(entry[1:])}" if entry.startswith("@") else Address.parse(entry).folded)
            except BadAddress as problem:
                raise ValueError(f"{path}:{number}: {entry!r}: {problem}") from None
            except UnicodeDecodeError:
                raise ValueError(f"{path}:{number}: not UTF-8") from None
    return frozenset(known), stamp


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
            self._ask([("nobody", "example.invalid")])
        except sqlite3.Error as problem:
            raise ValueError(f"{self.database}: {problem}") from problem

    async def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Proceed for those who give a row and for postmaster (RFC 5321 §4.5.1); 550 5.1.1 for others. Raises sqlite3.Error."""
        recipient = facts.recipient
        if _is_postmaster(recipient):
            return proceed()
        spellings = [(local_part, recipient.domain) for local_part in _spellings(recipient, self.subaddress)]
        known = await deferToThreadPool(self.threads, self.threads.getThreadPool(), self._ask, spellings)
        return proceed() if known else _UNKNOWN

    def _ask(self, spellings: list[tuple[str, str]]) -> bool:
        # Opened for each question (0.1 ms, in a thread): a database that was replaced is seen at once.
        where = f"{self.database.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(where, uri=True, timeout=_LOCKED)) as connection:
            for local_part, domain in spellings:
                asked = {"address": f"{local_part}@{domain}", "local_part": local_part, "domain": domain}
                if connection.execute(self.query, asked).fetchone() is not None:
                    return True
        return False
