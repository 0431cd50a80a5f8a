"""Accounts in a directory that speaks LDAP: who can bind as an entry is that user (RFC 4513 §5.1)."""

from pathlib import Path
from secrets import token_hex
from typing import Any, Literal
from urllib.parse import urlsplit

from attrs import field, frozen
from ldaptor.protocols import pureldap
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IReactorTime
from twisted.internet.protocol import Factory
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.given import given
from mailgw.interfaces import IDialer
from mailgw.login.ldap_names import LOGIN, FilterTemplate, dn_with
from mailgw.login.ldap_protocol import LdapConnection
from mailgw.login.spelling import name_in, password_in
from mailgw.login.trusted_tls import tls_with, trusted
from mailgw.values.quantities import Duration
from mailgw.values.secret import Secret

__all__ = ["Ldap"]

_SCOPES = {"base": 0, "one": 1, "subtree": 2}
_PORTS = {"ldap": 389, "ldaps": 636}
_FOUND = 2  # entries are enough to know that there is more than one
_SIZE_LIMIT_EXCEEDED = 4
# RFC 4511 appendix A.2: what a bind says about the one who binds, not about the directory: constraintViolation, noSuchObject,
# invalidDNSyntax, inappropriateAuthentication, invalidCredentials, insufficientAccessRights, unwillingToPerform.
_NO = frozenset({19, 32, 34, 48, 49, 50, 53})


@implementer(IAccounts)
@frozen
class Ldap:
    """``type = "ldap"``: who can bind as the entry that is found by ``filter`` below ``base``, or named by ``user_dn``.

    Raises ValueError for settings that do not fit together.
    """

    url: str
    """"ldaps://ldap.example.org", or "ldap://ldap.example.org" with StartTLS; a port may follow."""
    base: str = ""
    """Where the search begins: "ou=people,dc=example,dc=org"."""
    filter: str = f"(uid={LOGIN})"
    """What must hold of the entry; {login} stands for the name that the client gives."""
    scope: Literal["subtree", "one", "base"] = "subtree"
    bind_dn: str = ""
    """Who searches; empty: anonymous."""
    bind_password: Secret | None = None
    attribute: str = "uid"
    """What of the entry the login is called by from then on, whatever spelling the client used."""
    user_dn: str = ""
    """Without a search: "uid={login},ou=people,dc=example,dc=org". The login is then the name in lower case, with single blanks."""
    starttls: bool = True
    """For ldap://; only a directory on this machine may do without."""
    trust: Path | None = field(default=None, validator=trusted)
    """A PEM file of authorities; none: those that the system trusts."""
    timeout: Duration = 10.0
    """For a whole login."""
    dialer: IDialer = given(IDialer)
    clock: IReactorTime = given(IReactorTime)
    _filter: FilterTemplate = field(init=False, repr=False, eq=False)

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
            raise ValueError(f'url: "{self.url}" is none; write it like "ldaps://ldap.example.org" or "ldap://ldap.example.org:389"')
        _ = parts.port  # raises ValueError
        if parts.scheme == "ldap" and not self.starttls and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise ValueError("starttls = false would send passwords in clear over the network")
        if bool(self.base) == bool(self.user_dn):
            raise ValueError("say base, to search below it, or user_dn")
        if self.user_dn and LOGIN not in self.user_dn:
            raise ValueError(f"user_dn: {LOGIN} must stand in it")
        if (self.bind_password is None) != (not self.bind_dn):
            raise ValueError("bind_dn and bind_password belong together: say both")
        object.__setattr__(self, "_filter", FilterTemplate(self.filter))

    # ── IAccounts ──

    def mechanisms(self) -> frozenset[str]:
        """Only those that tell us the password: the directory wants it."""
        return frozenset({"PLAIN", "LOGIN"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        name, password = name_in(credentials), password_in(credentials)
        # RFC 4513 §5.1.2: with an empty password a bind "succeeds" as nobody.
        if not name or not password:
            raise UnauthorizedLogin()
        asking: Deferred[str] = Deferred.fromCoroutine(self._log_in(name, password))
        try:
            return await asking.addTimeout(self.timeout, self.clock)
        except TimedOut:
            raise AccountsUnavailable(f"the directory did not answer within {self.timeout:g} s") from None

    # ── The way of a login ──

    async def _log_in(self, name: str, password: bytes) -> str:
        connection = await self._connect()
        try:
            if self.user_dn:
                # Directories take no notice of blanks around a name, nor of how many are in it (RFC 4518 §2.6.1).
                dn, login = dn_with(self.user_dn, name), " ".join(name.lower().split())
            else:
                dn, login = await self._find(connection, name)
            good = await _bind(connection, dn, password)
            if not (good and login):
                raise UnauthorizedLogin()
            return login
        finally:
            connection.close()

    async def _connect(self) -> LdapConnection:
        parts = urlsplit(self.url)
        host, port = parts.hostname or "", parts.port or _PORTS[parts.scheme]
        creator = self._creator(host) if parts.scheme == "ldaps" or self.starttls else None
        connection = LdapConnection(creator if parts.scheme == "ldaps" else None)
        where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            await self.dialer.dial(where, Factory.forProtocol(lambda: connection), self.timeout)
        except (ConnectError, DNSLookupError, OSError) as problem:
            raise AccountsUnavailable(f"{host} cannot be reached: {problem or problem.__doc__}") from None
        try:
            await connection.ready()
            if parts.scheme == "ldap" and creator is not None:
                await connection.start_tls(creator)
        except BaseException:
            connection.close()
            raise
        return connection

    def _creator(self, host: str) -> IOpenSSLClientConnectionCreator:
        try:
            return tls_with(host, self.trust)
        except (OSError, ValueError) as problem:
            raise AccountsUnavailable(f"TLS with {host} is not possible: {problem}") from None

    async def _find(self, connection: LdapConnection, name: str) -> tuple[str, str]:
        """The entry's name and the login; for an unknown user a name that nobody has, which costs the same bind, and no login."""
        if self.bind_password is not None:
            try:
                password = self.bind_password.read()
            except OSError as problem:
                raise AccountsUnavailable(f"bind_password cannot be read: {problem.strerror or problem}") from None
            if not password or not await _bind(connection, self.bind_dn, password):
                raise AccountsUnavailable(f"the directory refuses {self.bind_dn}")
        *answers, result = await connection.request(
            pureldap.LDAPSearchRequest(
                baseObject=self.base,
                scope=_SCOPES[self.scope],
                derefAliases=0,
                sizeLimit=_FOUND,
                timeLimit=max(1, int(self.timeout)),
                filter=self._filter.filled(name),
                attributes=[self.attribute],
            )
        )
        entries = [one for one in answers if isinstance(one, pureldap.LDAPSearchResultEntry)]  # referrals are not followed
        if len(entries) > 1 or result.resultCode == _SIZE_LIMIT_EXCEEDED:
            raise AccountsUnavailable("the filter fits more than one entry")
        if result.resultCode != 0:
            raise AccountsUnavailable(f"the directory cannot search below {self.base}: result code {result.resultCode}")
        if not entries:
            return f"cn={token_hex(16)},{self.base}", ""
        [entry] = entries
        values = [value for key, found in entry.attributes if _text(key).lower() == self.attribute.lower() for value in found]
        if not values:
            raise AccountsUnavailable(f"an entry has no {self.attribute}, by which its login is called")
        return _text(entry.objectName), _text(values[0])


async def _bind(connection: LdapConnection, dn: str, password: bytes) -> bool:
    """A simple bind. Raises AccountsUnavailable for whatever is neither yes nor no."""
    result = (await connection.request(pureldap.LDAPBindRequest(dn=dn, auth=password)))[-1]
    if result.resultCode in _NO:
        return False
    if result.resultCode != 0:
        raise AccountsUnavailable(f"the directory cannot say: result code {result.resultCode} to a bind")
    return True


def _text(value: bytes | str) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
