"""The lines of a password file: htpasswd's ``user:hash`` and Dovecot's ``user:{SCHEME}hash:uid:gid:...``, which are read alike."""

from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from attrs import field, frozen

from mailgw.login.decoys import Decoys
from mailgw.login.schemes import BadHash, StoredPassword, read_stored
from mailgw.smtp.saslprep import saslprep

__all__ = ["Account", "Accounts", "BadPasswordFile", "Entry", "key_of", "lines_of", "read_accounts", "understood"]

_MOST_TOLD = 3  # faults of one file that one text tells
_EXTRA = 7  # fields before Dovecot's extra fields: user, password, uid, gid, gecos, home, shell
_NOT_OBEYED = frozenset({"allow_nets", "allow_real_nets", "nopassword", "password", "proxy", "user"})


class BadPasswordFile(ValueError):
    """A file that cannot be used; the message says why, with file and line, and repeats no hash."""


@frozen
class Entry:
    """One line that is neither empty nor a comment."""

    number: int  # of the line, from 1
    name: str  # as it is written
    fields: tuple[str, ...] = field(repr=False)  # all of them, the name and the password included

    @property
    def password(self) -> str:
        """The password field, as it is written."""
        return self.fields[1] if len(self.fields) > 1 else ""


def lines_of(text: str) -> Iterator[Entry]:
    """The lines that are about accounts, in order."""
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if line.strip() and not line.lstrip().startswith("#"):
            fields = tuple(line.split(":"))
            yield Entry(number, fields[0], fields)


def key_of(name: str, case_sensitive: bool) -> str:
    """What two spellings of one user's name have in common: SASLprep, and the case where it counts for nothing.

    Raises ValueError for what can be no name.
    """
    made = saslprep(name)
    if not made:
        raise ValueError("is empty")
    return made if case_sensitive else saslprep(made.casefold())


@frozen
class Account:
    """A user and what is kept of his password."""

    name: str  # as it is written
    stored: StoredPassword


@frozen
class Accounts:
    """All accounts of a file."""

    by_key: Mapping[str, Account] = field(repr=False)
    schemes: frozenset[str]  # of the accounts that are not locked
    decoys: Decoys

    @classmethod
    def of(cls, by_key: Mapping[str, Account]) -> "Accounts":
        """Sum them up."""
        kept = [account.stored for account in by_key.values() if account.stored.scheme != "locked"]
        decoys = Decoys(sha256(b"".join(one.text.encode() + b"\n" for one in kept)).digest())
        for one in kept:
            decoys.see(one)
        return cls(by_key, frozenset(one.scheme for one in kept), decoys)


def read_accounts(path: Path, octets: bytes, allow_plaintext: bool = False, case_sensitive: bool = False) -> Accounts:
    """Understand a password file; ``path`` is only for texts. Raises BadPasswordFile."""
    try:
        text = octets.decode()
    except UnicodeDecodeError as problem:
        line = octets.count(b"\n", 0, problem.start) + 1
        raise BadPasswordFile(f"{path}:{line}: is not UTF-8") from None
    found: dict[str, Account] = {}
    lines: dict[str, int] = {}
    faults: list[str] = []
    for entry in lines_of(text):
        try:
            key, stored = understood(entry, allow_plaintext, case_sensitive)
        except ValueError as problem:
            faults.append(f"{path}:{entry.number}: {problem}")
            continue
        if key in found:
            faults.append(f"{path}:{entry.number}: {entry.name} is in line {lines[key]} already")
        lines.setdefault(key, entry.number)
        found[key] = Account(saslprep(entry.name), stored)
    if faults:
        more = f"; and {len(faults) - _MOST_TOLD} more" if len(faults) > _MOST_TOLD else ""
        raise BadPasswordFile("; ".join(faults[:_MOST_TOLD]) + more)
    return Accounts.of(found)


def understood(entry: Entry, allow_plaintext: bool, case_sensitive: bool) -> tuple[str, StoredPassword]:
    """The key of an entry's name, and its password. Raises ValueError."""
    if len(entry.fields) < 2:
        raise ValueError("is no account: a line is USER:HASH")
    try:
        key = key_of(entry.name, case_sensitive)
    except ValueError as problem:
        raise ValueError(f"the user's name {problem}") from None
    extra = {word.partition("=")[0] for part in entry.fields[_EXTRA:] for word in part.split()}
    if extra & _NOT_OBEYED:
        # To leave out a restriction would let somebody in.
        raise ValueError(f"{entry.name}: mailgw does not obey {sorted(extra & _NOT_OBEYED)[0]}")
    try:
        stored = read_stored(entry.password, allow_plaintext)
    except BadHash as problem:
        raise ValueError(f"{entry.name}: {problem}") from None
    return key, StoredPassword("locked", text=stored.text) if "nologin" in extra else stored
