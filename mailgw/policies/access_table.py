"""A table that says yes and no: by network, name or address, most specific entry first."""

import re
import sqlite3
from collections.abc import Awaitable, Iterable, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_network
from itertools import chain
from pathlib import Path
from typing import IO, Literal

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IClock, IRecipientPolicy, IResolver, ISenderPolicy
from mailgw.policies.database import first_row
from mailgw.policies.kept_file import KeptFile
from mailgw.policies.reverse_name import reverse_name
from mailgw.policies.table_keys import domains_of, helo_key, keys_of, parse_key
from mailgw.policies.who import unmapped
from mailgw.values.address import BadAddress
from mailgw.values.decision import Decision, Evidence, defer, discard, proceed, quarantine, reject
from mailgw.values.facts import ClientFacts, RecipientFacts, SenderFacts

__all__ = ["AccessTable"]

_DOES = ("accept", "reject", "defer", "discard", "hold", "tag")


@frozen
class _Entry:
    """What one line or row says."""

    does: str
    text: str  # for the peer; of a tag, the tag
    where: str  # "/etc/mailgw/access:12"


@frozen
class _Table:
    """What a file says."""

    entries: Mapping[str, _Entry]
    has_names: bool = False  # of a table about clients: reverse names

    def __len__(self) -> int:
        return len(self.entries)


@implementer(IClientPolicy, ISenderPolicy, IRecipientPolicy)
@frozen
class AccessTable:
    """``type = "access-table"``: a file, or a query to an SQLite database, with what to do about whom.

    A line of the file is ``KEY ACTION [TEXT]``; ``#`` begins a comment. Keys: networks for a client (``192.0.2.0/24``) and its
    reverse name (``example.org``, ``.example.org`` for all below it), if it leads back to the client; names for HELO; for sender and
    recipient also whole addresses and ``<>``; logins. Actions: accept, reject, defer, discard, hold, tag. The most specific entry
    wins, so "accept" makes exceptions from a wider one; a client's single address comes first, then its name, then its networks.
    The file is read again when it changed; if it cannot be read then, the last good one stays in force and the log says so.
    """

    on: Literal["client", "helo", "login", "sender", "recipient"]
    """What is looked up: before the greeting, at MAIL, or at RCPT."""
    path: Path | None = None
    database: Path | None = None
    query: str = ""
    """With the parameter ``:key``; its first column is the action, the second (there need be none) the text:
    ``SELECT action, text FROM access WHERE key = :key``. It is asked with each key, the most specific first."""
    look_up_names: bool = False
    """Whether a database is asked about the client's reverse name, too. Of a file it is known whether there are names."""
    threads: IReactorThreads = given(IReactorThreads)
    clock: IClock = given(IClock)
    resolver: IResolver = given(IResolver)
    _file: "KeptFile[_Table] | None" = field(init=False, eq=False, repr=False, default=None)

    def __attrs_post_init__(self) -> None:
        if (self.path is None) == (self.database is None) or (self.database is None) != (not self.query):
            raise ValueError('needs either "path", or "database" and "query"')
        if self.look_up_names and (self.database is None or self.on != "client"):
            raise ValueError('look_up_names is for a database with on = "client"')
        if self.path is not None:
            read = _client_entries if self.on == "client" else _login_entries if self.on == "login" else _name_entries
            object.__setattr__(self, "_file", KeptFile(self.path, read, self.clock))
        elif self.database is not None:
            try:
                first_row(self.database, self.query, [{"key": "example.invalid"}])
            except sqlite3.Error as problem:
                raise ValueError(f"{self.database}: {problem}") from problem
            if ":key" not in self.query:
                raise ValueError("query asks for nobody; say where key = :key")

    def check_client(self, facts: ClientFacts) -> Decision | Awaitable[Decision]:
        """Raises LookupFailed where the table has names."""
        if self.on != "client":
            return _FINE
        said = Evidence("client", str(facts.ip), "the connection")
        if self.look_up_names or (self._file is not None and self._file.content().has_names):
            return self._look_up_named(facts.ip, said)
        return self._look_up(_networks(facts.ip), said)

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        if self.on == "helo":
            return self._look_up(domains_of(helo_key(facts.client.helo)), Evidence("helo", facts.client.helo, "the client's own words"))
        if self.on == "login" and facts.client.login:
            return self._look_up([facts.client.login.lower()], Evidence("login", facts.client.login, "the login"))
        if self.on != "sender":
            return _FINE
        return self._look_up(keys_of(facts.sender), Evidence("sender", str(facts.sender) or "<>", "MAIL command"))

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        if self.on != "recipient":
            return _FINE
        return self._look_up(keys_of(facts.recipient), Evidence("recipient", str(facts.recipient), "RCPT command"))

    async def _look_up_named(self, ip: IPv4Address | IPv6Address, said: Evidence) -> Decision:
        address, *wider = _networks(ip)
        if self._file is not None and (entry := self._file.content().entries.get(address)):
            return _decided(entry, address, said)
        name = (await reverse_name(self.resolver, ip)).confirmed.lower()
        named = Evidence("reverse name", name or "none that leads back", f"PTR {ip.reverse_pointer}")
        answer = self._look_up(chain([address], domains_of(name), wider), said, named)
        return answer if isinstance(answer, Decision) else await answer

    def _look_up(self, keys: Iterable[str], *said: Evidence) -> Decision | Awaitable[Decision]:
        if self._file is None:
            return self._query(list(keys), *said)
        entries = self._file.content().entries
        return next((_decided(entries[key], key, *said) for key in keys if key in entries), _FINE)

    async def _query(self, keys: list[str], *said: Evidence) -> Decision:
        """Raises sqlite3.Error, and ValueError for a row that says nothing known."""
        assert self.database is not None
        questions = [{"key": key} for key in keys]
        row = await deferToThreadPool(self.threads, self.threads.getThreadPool(), first_row, self.database, self.query, questions)
        if row is None:
            return _FINE
        where = f"{self.database}"
        return _decided(_entry(str(row[0]), str(row[1] or "") if len(row) > 1 else "", where), "a row", *said)


_FINE = proceed()


def _decided(entry: _Entry, key: str, *facts: Evidence) -> Decision:
    said = (*facts, Evidence("entry", f"{key} {entry.does}", entry.where))
    remedy = f"another entry for it, or none, in {entry.where.rpartition(':')[0] or entry.where}"
    text = entry.text or "access denied"
    match entry.does:
        case "reject":
            return reject(text, evidence=said, remedy=remedy)
        case "defer":
            return defer(entry.text or "not now, try again later", evidence=said, remedy=remedy)
        case "discard":
            return discard(text, evidence=said, remedy=remedy)
        case "hold":
            return quarantine(entry.text or "held by the access table", evidence=said, remedy=remedy)
        case "tag":
            return proceed(tags={entry.text}, why=f"tagged {entry.text}", evidence=said)
        case _:
            return proceed(why="accepted by the access table", evidence=said)


# ── Keys, most specific first ──


def _networks(ip: IPv4Address | IPv6Address) -> Iterable[str]:
    for length in range(ip.max_prefixlen, -1, -1):
        yield str(ip_network((ip, length), strict=False))


# ── Lines ──


_COMMENT = re.compile(r"(?:^|\s)#.*")


def _entry(does: str, text: str, where: str) -> _Entry:
    does = does.lower()
    if does not in _DOES:
        raise ValueError(f'{where}: "{does}" is none of {", ".join(_DOES)}')
    if does == "tag" and (not text or " " in text):
        raise ValueError(f"{where}: a tag is one word")
    if not text.isascii() or not (text.isprintable()):
        raise ValueError(f"{where}: the text must be plain ASCII, as replies are")
    return _Entry(does, text, where)


def _lines(file: IO[bytes], path: Path) -> Iterable[tuple[str, _Entry]]:
    for number, line in enumerate(file, 1):
        where = f"{path}:{number}"
        try:
            text = line.decode().strip()
        except UnicodeDecodeError:
            raise ValueError(f"{where}: not UTF-8") from None
        words = _COMMENT.sub("", text).split(None, 2)
        if not words:
            continue
        if len(words) < 2:
            raise ValueError(f'{where}: "{text}" is not KEY ACTION [TEXT]')
        yield words[0], _entry(words[1], words[2].strip() if len(words) > 2 else "", where)


def _client_entries(file: IO[bytes], path: Path) -> _Table:
    found, has_names = {}, False
    for key, entry in _lines(file, path):
        try:
            if _NETWORK.fullmatch(key):
                found[str(unmapped(ip_network(key)))] = entry
            else:
                found[_parse_name(key)] = entry
                has_names = True
        except ValueError as problem:
            raise ValueError(f"{entry.where}: {problem}") from None
    return _Table(found, has_names)


_NETWORK = re.compile(r"[\d./]+|.*:.*")  # no host name consists of digits alone, or has a colon


def _parse_name(key: str) -> str:
    try:
        if key[:1] in "<[" or "@" in key:
            raise BadAddress("it is about senders and recipients")
        return parse_key(key)
    except BadAddress as problem:
        raise ValueError(f"{key} is no network and no host name: {problem}") from None


def _login_entries(file: IO[bytes], path: Path) -> _Table:
    return _Table({key.lower(): entry for key, entry in _lines(file, path)})


def _name_entries(file: IO[bytes], path: Path) -> _Table:
    found = {}
    for key, entry in _lines(file, path):
        try:
            found[parse_key(key)] = entry
        except BadAddress as problem:
            raise ValueError(f"{entry.where}: {key}: {problem}") from None
    return _Table(found)
