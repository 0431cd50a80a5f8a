"""Accounts in a database, found by a query of one's own."""

from functools import partial
from hashlib import sha256
from typing import Any, Literal

import attrs
from attrs import define, field, frozen
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, IScramProof
from mailgw.given import given
from mailgw.login.databases import Connections, engine_for, names_in
from mailgw.login.decoys import Decoys
from mailgw.login.hashing import PasswordChecks
from mailgw.login.own_pool import OwnPool
from mailgw.login.schemes import BadHash, StoredPassword, read_stored
from mailgw.login.spelling import name_in, password_in
from mailgw.values.quantities import Duration
from mailgw.values.secret import Secret

__all__ = ["SqlAccounts"]

_PARAMETERS = frozenset({"user", "local_part", "domain"})
_WAITING = 500


def _a_query(_: Any, attribute: "attrs.Attribute[Any]", value: str) -> None:
    names = names_in(value)
    if not names & _PARAMETERS:
        raise ValueError(f"{attribute.name}: asks for nobody; say where name = :user")
    for name in sorted(names - _PARAMETERS):
        raise ValueError(f"{attribute.name}: there is no :{name}; there are :{', :'.join(sorted(_PARAMETERS))}")


@define(eq=False)
class _Works:
    """What is behind the settings."""

    connections: Connections
    pool: OwnPool
    checks: PasswordChecks
    decoys: Decoys


@implementer(IAccounts)
@frozen
class SqlAccounts:
    """``type = "sql"``: a query in PostgreSQL, MySQL or SQLite that gives what is kept of a user's password.

    Its first column is the password, in any scheme that password files may have; a second one, if there is one, is the login,
    else that is the name as the client gave it. No row is an unknown user; more than one is an error.
    """

    database: str
    """``postgresql://user@host/name``, ``mysql://user@host/name`` or ``sqlite:/path``; never with a password."""
    query: str = field(validator=_a_query)
    """With ``:user``, and for names like addresses ``:local_part`` and ``:domain``: ``select password from users where name = :user``."""
    password: Secret | None = None
    """That of the database."""
    default_scheme: str = ""
    """What passwords without a {SCHEME} or a $ prefix are, for example "PLAIN"."""
    allow_plaintext: bool = False
    """Whether passwords may be kept in clear."""
    also_offer: frozenset[Literal["SCRAM-SHA-1", "SCRAM-SHA-256", "CRAM-MD5"]] = frozenset()
    """Besides PLAIN and LOGIN: what all users' passwords are kept for."""
    cache: Duration = 0.0
    """How long a right password is remembered, as a keyed hash in memory; the database is asked in any case."""
    connections: int = 4
    """To the database, at once."""
    answer_within: Duration = 10.0
    """The time that the database has."""
    threads: IReactorThreads = given(IReactorThreads)
    steady: IReactorTime = given(IReactorTime)
    _works: _Works = field(init=False, eq=False, repr=False)

    credentialInterfaces = (IUsernamePassword, IUsernameHashedPassword, IScramProof)  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        if "CRAM-MD5" in self.also_offer and not self.allow_plaintext:
            raise ValueError("also_offer: CRAM-MD5 needs allow_plaintext")
        if self.connections < 1:
            raise ValueError("connections must be at least 1")
        connections = Connections(engine_for(self.database, self.query, self.password, self.answer_within))
        if self.database.startswith("sqlite:"):
            try:
                connections.ask(dict.fromkeys(_PARAMETERS, "nobody"))
            except AccountsUnavailable as problem:
                raise ValueError(str(problem)) from None
        works = _Works(
            connections,
            OwnPool(self.threads, "database", self.connections, _WAITING),
            PasswordChecks(self.threads, self.steady, self.cache),
            # The same in all processes; whoever knows all of the configuration could tell made-up verifiers from real ones.
            Decoys(sha256(f"{self.database}\n{self.query}\n{self.password}".encode()).digest()),
        )
        object.__setattr__(self, "_works", works)

    def mechanisms(self) -> frozenset[str]:
        """PLAIN, LOGIN and what ``also_offer`` says."""
        return frozenset({"PLAIN", "LOGIN", *self.also_offer})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The user's login. Raises UnauthorizedLogin, AccountsUnavailable."""
        try:
            user = name_in(credentials)
        except ValueError:
            raise UnauthorizedLogin() from None
        login, stored = await self._find(user)
        decoys, checks = self._works.decoys, self._works.checks
        if IScramProof.providedBy(credentials):
            verifier = stored.verifier
            if verifier is None or verifier.hash_name != credentials.hash_name:
                verifier = decoys.verifier(user, credentials.hash_name)
            is_right = await credentials.prove(verifier) and not verifier.made_up
        elif not IUsernamePassword.providedBy(credentials):
            clear = stored.plaintext if "CRAM-MD5" in self.also_offer else None
            is_right = clear is not None and bool(credentials.checkPassword(clear))
        elif stored.scheme == "locked":
            await checks.pretend(decoys.password, password_in(credentials))
            is_right = False
        else:
            is_right = await checks.is_right(stored, password_in(credentials))
        if not is_right:
            raise UnauthorizedLogin()
        return login

    async def _find(self, user: str) -> tuple[str, StoredPassword]:
        """The login and what is kept; "locked" for nobody."""
        local_part, _, domain = user.rpartition("@") if "@" in user else (user, "", "")
        values = {"user": user, "local_part": local_part, "domain": domain}
        rows = await self._works.pool.call(partial(self._works.connections.ask, values))
        if len(rows) > 1:
            raise AccountsUnavailable(f"the database: the query gives more than one row for {user!r}")
        if not rows:
            return "", StoredPassword("locked")
        text = _text(rows[0][0])
        if self.default_scheme and text and text[0] not in "{$!*":
            text = f"{{{self.default_scheme}}}{text}"
        try:
            stored = read_stored(text, self.allow_plaintext)
        except BadHash as problem:
            raise AccountsUnavailable(f"the database: what is kept of {user!r} {problem}") from None
        self._works.decoys.see(stored)
        return (_text(rows[0][1]) if len(rows[0]) > 1 else "") or user, stored

    def close(self) -> None:
        """Begin no more checks, and leave the database."""
        self._works.pool.close()
        self._works.checks.close()
        self._works.connections.close()


def _text(value: Any) -> str:
    """A column as text; NULL is empty, and so locks an account."""
    if value is None:
        return ""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
