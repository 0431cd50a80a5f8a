"""Whoever has logged in sends with his own addresses only: in MAIL FROM, and in what the recipients will see."""

import re
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import IO, Annotated

from attrs import Factory, field, frozen
from attrs.validators import max_len
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IContentPolicy, ISenderPolicy
from mailgw.policies.database import has_row
from mailgw.policies.kept_file import KeptFile
from mailgw.policies.known_recipients import spellings
from mailgw.policies.originators import Unreadable, fields_of, mailboxes_in
from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.decision import Decision, Evidence, proceed, reject
from mailgw.values.facts import ContentFacts, SenderFacts

__all__ = ["SenderRights"]

_COMMENT = re.compile(r"(?:^|\s)#.*")
_EVERYBODY = "*"

_Rights = Mapping[str, frozenset[str]]  # by login, in lower case; "*": for all logins


def parse_right(text: str) -> str:
    """``anna@example.org``, ``@example.org`` for all addresses there, or ``*`` for all that there are. Raises BadAddress."""
    if text == _EVERYBODY:
        return text
    return f"@{parse_domain(text[1:])}" if text.startswith("@") else Address.parse(text).folded


def _in_lower_case(rights: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for login, listed in rights.items():  # Anna and anna are one
        found[login.lower()] = found.get(login.lower(), frozenset()) | frozenset(map(parse_right, listed))
    return found


def _parse(file: IO[bytes], path: Path) -> _Rights:
    """Lines of a login and the addresses that it may use. Raises OSError, ValueError."""
    rights: dict[str, frozenset[str]] = {}
    for number, line in enumerate(file, 1):
        try:
            login, *listed = _COMMENT.sub("", line.decode()).split() or [""]
            if login and not listed:
                raise ValueError(f"{path}:{number}: {login!r} has no address behind it")
            if login:
                rights[login.lower()] = rights.get(login.lower(), frozenset()) | frozenset(map(parse_right, listed))
        except BadAddress as problem:
            raise ValueError(f"{path}:{number}: {problem}") from None
        except UnicodeDecodeError:
            raise ValueError(f"{path}:{number}: not UTF-8") from None
    return rights


@implementer(ISenderPolicy, IContentPolicy)
@frozen
class SenderRights:
    """``type = "sender-rights"``: clients that have logged in send with their own addresses only.

    The login's own address, where it is one, is always among them. Addresses are compared without case. Clients that have not
    logged in are none of its business. Raises ValueError, with file and line, for what cannot be read at the start; a file that
    cannot be read later stays in force as it was.
    """

    addresses: dict[str, list[Annotated[str, parse_right]]] = field(factory=dict, converter=_in_lower_case)
    """What each login may use: ``{ anna = ["info@example.org", "@shop.example"], backup = "*" }``; the login ``"*"`` stands for all."""
    path: Path | None = None
    """The same in a file: on each line a login and the addresses, with spaces between them; ``#`` begins a comment."""
    database: Path | None = None
    """An SQLite database, which is only read; it is asked for what the others do not know."""
    query: str = ""
    """Gives a row where it is allowed: ``SELECT 1 FROM alias WHERE owner = :login AND address = :address``. There are also
    ``:local_part`` and ``:domain``, all in lower case."""
    domains: list[Annotated[str, parse_domain]] = field(factory=list)
    """For logins that are no addresses: anna may be anna@ each of these."""
    subaddress: str = field(default="", validator=max_len(1))
    """The character between a user and a subaddress: with ``"+"``, who may use anna@ may use anna+anything@. Empty: none."""
    header: bool = True
    """Whether From: and Sender: are looked at, too."""
    null_sender: bool = True
    """Whether MAIL FROM:<> is allowed: read receipts have it (RFC 8098 §2.1)."""
    clock: IClock = given(IClock)
    threads: IReactorThreads = given(IReactorThreads)
    _file: KeptFile[_Rights] | None = field(
        init=False,
        eq=False,
        repr=False,
        default=Factory(lambda self: None if self.path is None else KeptFile(self.path, _parse, self.clock), takes_self=True),
    )

    def __attrs_post_init__(self) -> None:
        if (self.database is None) != (not self.query):
            raise ValueError("database and query belong together")
        if self.database is not None:
            try:
                has_row(self.database, self.query, [_asked("nobody", "nobody", "example.invalid")])
            except Exception as problem:  # sqlite3 has errors of its own, and raises some others
                raise ValueError(f"{self.database}: {problem}") from problem

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        """Proceed, or 553 5.7.1. Raises sqlite3.Error."""
        login = facts.client.login
        if not login or (self.null_sender and not facts.sender):
            return proceed()
        return self._judge(login, [facts.sender], "", 553)

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        """Proceed, or 550 5.7.1 where From: or Sender: says somebody else, or leaves open who it is. Raises OSError, sqlite3.Error."""
        login = facts.client.login
        if not login or not self.header:
            return proceed()
        at = "the header section"
        try:
            found: dict[str, bytes] = {}
            for name, value in fields_of(facts.content):
                if name in ("from", "sender"):
                    if name in found:
                        return _unclear(login, f"there is more than one {name.capitalize()}: field")
                    found[name] = value
            if "from" not in found:
                return _unclear(login, "the message has no From: field")
            mailboxes: list[Address] = []
            for name, value in found.items():
                at = f"the {name.capitalize()}: field"
                mailboxes += mailboxes_in(value)
        except Unreadable as problem:
            text = str(problem)
            return _unclear(login, text if text.startswith("the ") else f"{at} {text}")
        return self._judge(login, mailboxes, " in From: or Sender:", 550)

    def _judge(self, login: str, addresses: Sequence[Address], where: str, code: int) -> Decision | Awaitable[Decision]:
        others = [address for address in addresses if not self._knows(login.lower(), address)]
        if others and self.database is not None:
            return self._ask(login, others, where, code)
        return _refusal(login, others[0], where, code) if others else proceed()

    async def _ask(self, login: str, addresses: Sequence[Address], where: str, code: int) -> Decision:
        assert self.database is not None
        for address in addresses:
            questions = [_asked(login.lower(), local_part, address.domain) for local_part in spellings(address, self.subaddress)]
            if not await deferToThreadPool(self.threads, self.threads.getThreadPool(), has_row, self.database, self.query, questions):
                return _refusal(login, address, where, code)
        return proceed()

    def _knows(self, login: str, address: Address) -> bool:
        own = {_folded(login)} if "@" in login else {f"{login}@{domain}" for domain in self.domains}
        tables = [self.addresses] if self._file is None else [self.addresses, self._file.content()]
        rights = own.union(*(table.get(name, ()) for table in tables for name in (login, _EVERYBODY)))
        if _EVERYBODY in rights or f"@{address.domain}" in rights:
            return True
        return any(f"{local_part}@{address.domain}" in rights for local_part in spellings(address, self.subaddress))


def _unclear(login: str, text: str) -> Decision:
    remedy = "one From: field, and one Sender: field at most, with plain addresses"
    return reject(text, why=f"login {login}", evidence=(_login(login), Evidence("header section", text, "the message")), remedy=remedy)


def _folded(login: str) -> str:
    try:
        return Address.parse(login).folded
    except BadAddress:
        return login


def _asked(login: str, local_part: str, domain: str) -> dict[str, str]:
    return {"login": login, "address": f"{local_part}@{domain}", "local_part": local_part, "domain": domain}


def _login(login: str) -> Evidence:
    return Evidence("login", login, "the client's AUTH command")


def _refusal(login: str, address: Address, where: str, code: int) -> Decision:
    whom = str(address) if address else "<>"
    return reject(
        f"{login} may not send as {whom}{where}",
        code=code,
        enhanced="5.7.1",
        why=f"login {login}, address {whom}",
        evidence=(_login(login), Evidence("address", whom, where.strip().removeprefix("in ") or "the client's MAIL command")),
        remedy=f"another address or login, or {whom} among the addresses of {login}",
    )
