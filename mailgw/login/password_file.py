"""Accounts in a file of users and password hashes, as htpasswd and Dovecot write them."""

import stat
from contextlib import suppress
from os import fstat, stat_result
from pathlib import Path
from typing import Any

from attrs import Factory, define, field, frozen
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, IScramProof
from mailgw.given import given
from mailgw.interfaces import IClock
from mailgw.login.hashing import PasswordChecks
from mailgw.login.own_pool import OwnPool
from mailgw.login.password_lines import Account, Accounts, key_of, read_accounts
from mailgw.login.spelling import name_in, password_in
from mailgw.values.quantities import Duration

__all__ = ["PasswordFile"]

log = Logger()

_CHECK_EVERY = 1.0  # seconds
_SETTLED_AFTER = 1.0  # seconds
_SCRAM = {"scram-sha-1": "SCRAM-SHA-1", "scram-sha-256": "SCRAM-SHA-256"}


@define
class _Read:
    """What was read, and when it was looked at."""

    accounts: Accounts
    stamp: tuple[int, ...]
    changed: tuple[int, ...] | None = None  # the stamp of a change that was seen, but perhaps not finished yet
    checked: float = 0.0  # POSIX seconds


@implementer(IAccounts)
@frozen
class PasswordFile:
    """``type = "password-file"``: a file of ``user:hash`` lines, made by ``mailgw account``, htpasswd or for Dovecot.

    The file is read again when it changed; if it cannot be read then, the last good one stays in force and the log says so.
    Raises ValueError, with file and line, when it cannot be read at the start.
    """

    path: Path = field(converter=Path)
    """The file."""
    case_sensitive: bool = False
    """Whether Anna and anna are two."""
    allow_plaintext: bool = False
    """Whether passwords may be kept in clear, as {PLAIN}: CRAM-MD5 needs that."""
    cram_md5: bool = False
    """Offer CRAM-MD5, as long as all passwords are kept in clear."""
    cache: Duration = 0.0
    """How long a right password is remembered, as a keyed hash in memory, to be checked faster."""
    threads: IReactorThreads = given(IReactorThreads)
    steady: IReactorTime = given(IReactorTime)
    clock: IClock = given(IClock)
    _read: _Read = field(init=False, eq=False, repr=False)
    _checks: PasswordChecks = field(
        init=False,
        eq=False,
        repr=False,
        default=Factory(lambda self: PasswordChecks(self.threads, self.steady, self.cache), takes_self=True),
    )
    _reader: OwnPool = field(
        init=False, eq=False, repr=False, default=Factory(lambda self: OwnPool(self.threads, "password file", 1, 0), takes_self=True)
    )
    _reading: DeferredLock = field(init=False, eq=False, repr=False, factory=DeferredLock)

    credentialInterfaces = (IUsernamePassword, IUsernameHashedPassword, IScramProof)  # noqa: N815

    def __attrs_post_init__(self) -> None:
        if self.cram_md5 and not self.allow_plaintext:
            raise ValueError("cram_md5 needs allow_plaintext")
        try:
            accounts, found = self._read_file()
        except OSError as problem:
            raise ValueError(f"{self.path}: {problem.strerror}") from problem
        object.__setattr__(self, "_read", _Read(accounts, _stamp(found)))
        self._look_at_mode(found)

    # ── IAccounts ──

    def mechanisms(self) -> frozenset[str]:
        """PLAIN and LOGIN; SCRAM if all accounts have such a verifier; CRAM-MD5 if all are in clear and it is wanted."""
        if self._is_due(self.clock.now().timestamp()) and not self._reading.locked:
            Deferred.fromCoroutine(self._look_for_others())
        schemes = self._read.accounts.schemes
        offered = {"PLAIN", "LOGIN"}
        if len(schemes) == 1:
            offered |= {name for scheme, name in _SCRAM.items() if scheme in schemes}
            if self.cram_md5 and "plain" in schemes:
                offered.add("CRAM-MD5")
        return frozenset(offered)

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The user's name, as it stands in the file. Raises UnauthorizedLogin, AccountsUnavailable."""
        accounts = await self._current()
        try:
            key = key_of(name_in(credentials), self.case_sensitive)
        except ValueError:
            key = ""  # nobody's
        account = accounts.by_key.get(key)
        if IScramProof.providedBy(credentials):
            is_right = await self._proves(credentials, accounts, account, key)
        elif IUsernamePassword.providedBy(credentials):
            is_right = await self._knows(password_in(credentials), accounts, account)
        else:
            is_right = self._hashed(credentials, account)
        if account is None or not is_right:
            raise UnauthorizedLogin()
        return account.name

    def close(self) -> None:
        """Begin no more checks."""
        self._checks.close()
        self._reader.close()

    # ── Proofs ──

    async def _knows(self, password: bytes, accounts: Accounts, account: Account | None) -> bool:
        if account is None or account.stored.scheme == "locked":
            await self._checks.pretend(accounts.decoys.password, password)
            return False
        return await self._checks.is_right(account.stored, password)

    async def _proves(self, credentials: Any, accounts: Accounts, account: Account | None, key: str) -> bool:
        verifier = account.stored.verifier if account is not None else None
        if verifier is not None and verifier.hash_name == credentials.hash_name:
            return bool(await credentials.prove(verifier))
        await credentials.prove(accounts.decoys.verifier(key, credentials.hash_name))
        return False

    def _hashed(self, credentials: Any, account: Account | None) -> bool:
        if not self.cram_md5:
            return False
        clear = account.stored.plaintext if account is not None else None
        is_right = bool(credentials.checkPassword(clear or b"nobody's"))  # one HMAC: not worth a thread
        return is_right and clear is not None

    # ── The file ──

    def _read_file(self) -> tuple[Accounts, stat_result]:
        """Raises OSError, ValueError."""
        with self.path.open("rb") as file:
            found = fstat(file.fileno())
            return read_accounts(self.path, file.read(), self.allow_plaintext, self.case_sensitive), found

    async def _look_for_others(self) -> None:
        with suppress(AccountsUnavailable):  # it is the end, and nobody asks any more
            await self._current()

    def _is_due(self, now: float) -> bool:
        return not 0 <= now - self._read.checked < _CHECK_EVERY

    async def _current(self) -> Accounts:
        """The accounts as they are in the file now, or were a second ago."""
        now = self.clock.now().timestamp()
        if self._reading.locked or self._is_due(now):
            await self._reading.acquire()
            try:
                self._read.checked = now
                await self._look_again(now)
            finally:
                self._reading.release()
        return self._read.accounts

    async def _look_again(self, now: float) -> None:
        state = self._read
        try:
            found = self.path.stat()
        except OSError as problem:
            if state.changed != ():
                state.changed = ()
                self._complain(f"{self.path}: {problem.strerror}")
            return
        stamp = _stamp(found)
        if stamp == state.stamp:
            state.changed = None
            return
        # A file that changed a moment ago may be half written.
        if stamp != state.changed and not now - found.st_mtime > _SETTLED_AFTER:
            state.changed = stamp
            return
        state.changed = None
        try:
            accounts, found = await self._reader.call(self._read_file)
        except (OSError, ValueError) as problem:
            state.stamp = stamp  # complain once for each change
            self._complain(f"{self.path}: {problem.strerror}" if isinstance(problem, OSError) else str(problem))
            return
        state.accounts, state.stamp = accounts, _stamp(found)
        self._checks.forget()
        log.info("{path} was read again: {count} accounts", path=str(self.path), count=len(accounts.by_key))
        self._look_at_mode(found)

    def _complain(self, problem: str) -> None:
        log.error(
            "the accounts cannot be read again, the {count} of before stay in force: {problem}",
            count=len(self._read.accounts.by_key),
            problem=problem,
        )

    def _look_at_mode(self, found: stat_result) -> None:
        if found.st_mode & stat.S_IROTH:
            log.warn("{path} can be read by everybody on this machine: chmod o-r {path}", path=str(self.path))


def _stamp(found: stat_result) -> tuple[int, ...]:
    return found.st_mtime_ns, found.st_size, found.st_ino
