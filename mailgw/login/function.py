"""Accounts that a function of Python knows."""

from collections.abc import Callable
from importlib import import_module
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from attrs import Factory, field, frozen
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorThreads
from zope.interface import implementer

from mailgw.credentials import IAccounts
from mailgw.given import given
from mailgw.login.own_pool import OwnPool

__all__ = ["Function"]

_THREADS = 4
_WAITING = 200  # calls; more are "not available now"


def _imported(name: str) -> Callable[[str, str], Any]:
    module, colon, attributes = name.partition(":")
    if not (module and colon and attributes):
        raise ValueError(f'"{name}" is no function; write it like "module:function"')
    try:
        found: Any = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as problem:
        raise ImportError(f'value = "{name}" cannot be imported: {problem!r}') from problem
    if not callable(found):
        raise ValueError(f'"{name}" cannot be called')
    return found  # type: ignore[no-any-return]


@implementer(IAccounts)
@frozen
class Function:
    """``type = "function"``: the function that ``value`` names, ``"module:function"``, is called with a name and a password.

    It answers true or false, or with the login as a text. A coroutine function runs in the reactor's thread, any other one in a thread
    of its own; what it raises is a fault (454, and its place in the log), but for UnauthorizedLogin and AccountsUnavailable. It should
    take as long for a user whom it does not know as for a wrong password.
    """

    value: str
    reactor: IReactorThreads = given(IReactorThreads)
    credentialInterfaces: Any = field(init=False, repr=False, eq=False, default=(IUsernamePassword,))  # noqa: N815 - twisted.cred's name
    _function: Callable[[str, str], Any] = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: _imported(self.value), takes_self=True)
    )
    _pool: OwnPool = field(
        init=False,
        repr=False,
        eq=False,
        default=Factory(lambda self: OwnPool(self.reactor, self.value, _THREADS, _WAITING), takes_self=True),
    )

    def mechanisms(self) -> frozenset[str]:
        """Those that bring the password itself."""
        return frozenset({"PLAIN", "LOGIN"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The name, or what the function calls it. Raises UnauthorizedLogin, AccountsUnavailable, and what the function raises."""
        name, password = credentials.username, credentials.password
        if iscoroutinefunction(self._function):
            answer: Any = self._function(name, password)
        else:
            answer = await self._pool.call(lambda: self._function(name, password))
        if isawaitable(answer):
            answer = await answer
        if answer is True:
            return str(name)
        if isinstance(answer, str) and answer:
            return answer
        if answer is False or answer is None:
            raise UnauthorizedLogin()
        raise TypeError(f"{self.value} answered with a {type(answer).__name__}")

    def close(self) -> None:
        """Begin no more calls."""
        self._pool.close()
