"""The accounts of the system, by PAM: as login and sudo know them."""

from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any

from attrs import Factory, field, frozen
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorThreads
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.given import given
from mailgw.login.own_pool import OwnPool
from mailgw.login.spelling import name_in, password_in

__all__ = ["Pam"]

_AT_ONCE = 4
_WAITING = 100  # a wrong password takes PAM about two seconds


def _library() -> ModuleType:
    try:
        return import_module("pam")
    except ImportError as problem:
        raise ValueError(f"python-pam cannot be imported ({problem}); install it with: pip install 'mailgw[pam]'") from None
    except OSError as problem:
        raise ValueError(f"the system has no PAM: {problem}") from None


@implementer(IAccounts)
@frozen
class Pam:
    """``type = "pam"``: the users of the system, or whoever ``/etc/pam.d/SERVICE`` knows.

    What its modules need, mailgw must have: with pam_unix, only root and the group shadow can check other users' passwords.
    """

    service: str = field(default="mailgw")
    """The file in /etc/pam.d."""
    threads: IReactorThreads = given(IReactorThreads)
    _pam: ModuleType = field(init=False, repr=False, eq=False, factory=_library)
    _pool: OwnPool = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: OwnPool(self.threads, "PAM", _AT_ONCE, _WAITING), takes_self=True)
    )

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815 - twisted.cred's name

    @service.validator
    def _a_service(self, _: Any, value: str) -> None:
        if not value or "/" in value or not value.isprintable():
            raise ValueError("service: is no name of a file in /etc/pam.d")

    def mechanisms(self) -> frozenset[str]:
        """PLAIN and LOGIN."""
        return frozenset({"PLAIN", "LOGIN"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The user's name. Raises UnauthorizedLogin, AccountsUnavailable."""
        try:
            name, password = name_in(credentials), password_in(credentials)
        except ValueError:
            raise UnauthorizedLogin() from None
        # An empty name makes PAM ask for one.
        if not name or "\0" in name or b"\0" in password:
            raise UnauthorizedLogin()
        await self._pool.call(partial(self._ask, name, password))
        return name

    def _ask(self, name: str, password: bytes) -> None:
        """Whether the password is right and the account may be used now. Waits. Raises UnauthorizedLogin, AccountsUnavailable."""
        pam = self._pam
        one = pam.PamAuthenticator()
        if one.authenticate(name, password, self.service, resetcreds=False):
            return
        # What the user is to blame for; all else is trouble with the system.
        refused = (
            *(pam.PAM_AUTH_ERR, pam.PAM_USER_UNKNOWN, pam.PAM_PERM_DENIED, pam.PAM_MAXTRIES),
            *(pam.PAM_ACCT_EXPIRED, pam.PAM_NEW_AUTHTOK_REQD, pam.PAM_CRED_EXPIRED, pam.PAM_AUTHTOK_EXPIRED),
        )
        if one.code in refused:
            raise UnauthorizedLogin()
        raise AccountsUnavailable(f"PAM: {one.reason}")

    def close(self) -> None:
        """Begin no more checks."""
        self._pool.close()
