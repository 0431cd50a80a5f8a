"""Accounts by a string of Twisted's: ``file:/etc/users``, or what another package's ICheckerFactory makes."""

import os
from typing import Any

from attrs import Factory, field, frozen
from twisted.cred import strcred
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.login.checker import Checker
from mailgw.problems import nearest

__all__ = ["Strcred"]


def _checker(value: str) -> Checker:
    kind = value.partition(":")[0]
    if kind == "memory":
        raise ValueError('value: "memory:" would keep passwords in the configuration')
    try:
        return Checker("twisted.cred.strcred:makeChecker", {"description": value})
    except strcred.InvalidAuthType:
        known = {factory.authType for factory in strcred.findCheckerFactories()} - {"anonymous", "memory"}  # type: ignore[no-untyped-call]
        listed = f"; there are {', '.join(sorted(known))}"
        raise ValueError(f'value: there is no "{kind}:"{nearest(kind, known, listed)}') from None
    except (strcred.InvalidAuthArgumentString, ValueError):
        raise ValueError(f'value: of this "{kind}:" no checker can be made with which anybody could log in') from None


@implementer(IAccounts)
@frozen
class Strcred:
    """``type = "strcred"``: any credentials checker that Twisted can make of a string, as ``twistd --auth`` does.

    It is asked in the reactor's thread. ``file:`` keeps passwords in clear; a password-file is better.
    """

    value: str
    """For example ``file:/etc/mailgw/passwords``."""
    _checker: Checker = field(init=False, repr=False, eq=False, default=Factory(lambda self: _checker(self.value), takes_self=True))

    def __attrs_post_init__(self) -> None:
        self._look_at_file(ValueError)

    @property
    def credentialInterfaces(self) -> Any:  # noqa: N802 - twisted.cred's name
        """Those of the checker that we can make."""
        return self._checker.credentialInterfaces

    def mechanisms(self) -> frozenset[str]:
        """PLAIN and LOGIN; CRAM-MD5 where that is all it can do."""
        return self._checker.mechanisms()

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The name that the checker gives back. Raises UnauthorizedLogin, AccountsUnavailable."""
        self._look_at_file(AccountsUnavailable)
        return await self._checker.requestAvatarId(credentials)

    def _look_at_file(self, fault: type[Exception]) -> None:
        # Twisted's checker knows nobody where it cannot read its file: that would be a 535 for everybody.
        kind, _, path = self.value.partition(":")
        if kind == "file" and not os.access(path.partition(":")[0], os.R_OK):
            raise fault(f"{path.partition(':')[0]} cannot be read")
