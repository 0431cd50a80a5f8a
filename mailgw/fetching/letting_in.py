"""How a client comes to its mailbox: who lets it in, which folder is its own, and who is told of it."""

from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IAddress
from twisted.internet.threads import deferToThreadPool

from mailgw.credentials import AccountsUnavailable, LoginRefused
from mailgw.fetching.mailbox import Mailbox, open_mailbox
from mailgw.journal import Fault, Journal
from mailgw.values.facts import ClientFacts

__all__ = ["Fetching", "NotLetIn", "Porter"]


class NotLetIn(Exception):
    """The client gets no mailbox: ``answer`` tells it why. ``is_final``: it may not try again in this session."""

    def __init__(self, answer: bytes, is_final: bool = False) -> None:
        super().__init__(answer)
        self.answer = answer
        self.is_final = is_final


class Porter(Protocol):
    """Who lets clients log in, and writes down what came of it."""

    async def login_with_password(self, client: ClientFacts, username: str, password: str, mechanism: str) -> str:
        """The login. Raises UnauthorizedLogin, AccountsUnavailable, LoginRefused."""


@frozen(kw_only=True)
class Fetching:
    """What all sessions of a listener share."""

    listener: str
    porter: Porter
    journal: Journal
    reactor: Any  # IReactorTime, IReactorThreads
    folder_of: Callable[[str], Path | None]  # the Maildir of a login; None: it can have none
    fetched: Callable[[IPv4Address | IPv6Address, str], Awaitable[object]]  # told of each login
    peer_of: Callable[[IAddress | None], tuple[IPv4Address | IPv6Address, int]]

    async def let_in(self, client: ClientFacts, user: bytes, password: bytes) -> tuple[str, Mailbox]:
        """The login and its mailbox. Raises NotLetIn."""
        try:
            login = await self.porter.login_with_password(client, user.decode(), password.decode(), "POP3")
        except (UnauthorizedLogin, UnicodeDecodeError) as problem:
            raise NotLetIn(b"[AUTH] wrong name or password") from problem
        except LoginRefused as problem:
            raise NotLetIn(b"[AUTH] " + problem.reply.text.encode("ascii", "replace"), problem.reply.code == 421) from problem
        except AccountsUnavailable as problem:
            raise NotLetIn(b"[SYS/TEMP] logins are not possible now, try again later") from problem
        folder = self.folder_of(login)
        if folder is None:
            raise NotLetIn(b"[SYS/PERM] you have no mailbox here")
        mailbox: Mailbox = await deferToThreadPool(self.reactor, self.reactor.getThreadPool(), open_mailbox, folder)
        await self._tell(client, login)
        return login, mailbox

    async def _tell(self, client: ClientFacts, login: str) -> None:
        try:
            await self.fetched(client.ip, login)
        except Exception as problem:  # he can fetch nevertheless
            self.journal.note(Fault(client.session, "pop3", f"nobody remembers that {login} fetched mail: {problem!r}"))
