"""Accounts that a web service knows."""

import json
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorTime
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts
from mailgw.given import given
from mailgw.login.spelling import name_in, password_in
from mailgw.login.web import ask_web, json_object, safe_url
from mailgw.values.quantities import Duration
from mailgw.values.secret import Secret

__all__ = ["HttpAccounts"]

_NO = frozenset({401, 403, 404})


@implementer(IAccounts)
@frozen
class HttpAccounts:
    """``type = "http"``: name and password are posted to ``url``, which says who that is.

    The request is ``{"username": "...", "password": "..."}``. 200 with ``{"login": "..."}`` is yes; 401, 403 and 404 are no;
    everything else, also a redirect, means that nobody can say now.
    """

    url: str = field(validator=safe_url)
    """https, or http on this machine."""
    bearer: Secret | None = None
    """A token that shows the service who we are."""
    timeout: Duration = 10.0
    agent: IAgent = given(IAgent)
    clock: IReactorTime = given(IReactorTime)

    credentialInterfaces = (IUsernamePassword,)  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        if not self.url:
            raise ValueError("url is empty")

    def mechanisms(self) -> frozenset[str]:
        """Only those that tell us the password: the service wants it."""
        return frozenset({"PLAIN", "LOGIN"})

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        name, password = name_in(credentials), password_in(credentials)
        if not name or not password:
            raise UnauthorizedLogin()
        headers = {"Content-Type": "application/json"}
        try:
            asked = json.dumps({"username": name, "password": password.decode()}).encode()
            if self.bearer is not None:
                headers["Authorization"] = f"Bearer {self.bearer.read().decode('ascii')}"
        except OSError as problem:
            raise AccountsUnavailable(f"bearer cannot be read: {problem.strerror or problem}") from None
        except UnicodeDecodeError:
            raise AccountsUnavailable("bearer is not ASCII, or the password not UTF-8") from None
        status, body = await ask_web(self.agent, self.clock, "POST", self.url, headers=headers, body=asked, timeout=self.timeout)
        host = urlsplit(self.url).hostname or ""
        if status in _NO:
            raise UnauthorizedLogin()
        if status != 200:
            raise AccountsUnavailable(f"{host} answered with HTTP status {status}")
        login = json_object(body, host).get("login")
        if not isinstance(login, str) or not login:
            raise AccountsUnavailable(f"{host} says yes, but not to whom")
        return login
