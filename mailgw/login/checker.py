"""Any of Twisted's credential checkers as accounts: ``type = "module:Class"``, its other keys are the class's arguments."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import attrs
from attrs import Factory, field, frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import IUsernameHashedPassword, IUsernamePassword, UsernamePassword
from twisted.internet.defer import maybeDeferred
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.settings import Part

__all__ = ["Checker", "as_part"]


def as_part(part: Part) -> Part:
    """The part as it is, or for a class that is no component of ours, as the settings of a `Checker`."""
    if ":" not in part.type:
        return part
    try:
        named = _named(part.type)
    except Exception:  # said where components are found, with its traceback
        return part
    if not isinstance(named, type) or attrs.has(named) or not ICredentialsChecker.implementedBy(named):
        return part
    settings = {"checker": part.type, "arguments": dict(part.settings)}
    return attrs.evolve(part, type=f"{__name__}:Checker", settings=settings)


def _named(name: str) -> Any:
    module, _, attributes = name.partition(":")
    found: Any = import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def _make(checker: str, arguments: Mapping[str, Any]) -> Any:
    try:
        return _named(checker)(**arguments)
    except TypeError as problem:
        raise ValueError(f"{checker}: {problem}") from None


@implementer(IAccounts)
@frozen
class Checker:
    """An ICredentialsChecker of Twisted or of others, which knows passwords (PLAIN, LOGIN) or can check digests (CRAM-MD5)."""

    checker: str  # "module:Class"
    arguments: dict[str, Any] = field(factory=dict)
    _inner: Any = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: _make(self.checker, self.arguments), takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        if not self.mechanisms():
            raise ValueError(f"{self.checker} takes neither passwords nor digests: nobody could log in")

    @property
    def credentialInterfaces(self) -> Any:  # noqa: N802 - twisted.cred's name
        """Those of the checker that we can make."""
        known = (IUsernamePassword, IUsernameHashedPassword)
        return tuple(one for one in known if one in self._inner.credentialInterfaces)

    def mechanisms(self) -> frozenset[str]:
        """PLAIN and LOGIN; CRAM-MD5 where that is all it can do."""
        passwords = IUsernamePassword in self._inner.credentialInterfaces
        digests = IUsernameHashedPassword in self._inner.credentialInterfaces
        return frozenset({"PLAIN", "LOGIN"} if passwords else {"CRAM-MD5"} if digests else ())

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """The name that the checker gives back. Raises what it raises."""
        shown: Any = credentials
        if IUsernamePassword.providedBy(credentials):  # Twisted's own compare octets
            shown = UsernamePassword(shown.username.encode(), shown.password.encode())
        name: Any = await maybeDeferred(self._inner.requestAvatarId, shown)
        if isinstance(name, bytes):
            return name.decode()
        if not isinstance(name, str):
            raise AccountsUnavailable("the checker let in somebody without a name")
        return name
