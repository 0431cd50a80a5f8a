"""AUTH: what a client hears about its attempt to log in (RFC 4954 §4, §6)."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from twisted.cred.error import UnauthorizedLogin

from mailgw.credentials import AccountsUnavailable, LoginRefused
from mailgw.smtp.events import Auth
from mailgw.smtp.sasl import BadResponse, Channel
from mailgw.values.facts import ClientFacts
from mailgw.values.reply import Reply

__all__ = ["ExchangeEnded", "Logins", "Respond", "authenticate"]

Respond = Callable[[bytes], Awaitable[bytes]]
"""Sends a challenge and gives the client's response. Raises whatever ends the exchange."""


class ExchangeEnded(Exception):
    """The client has cancelled, or said what is no response; ``reply`` is what it hears."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(str(reply))
        self.reply = reply


class Logins(Protocol):
    """Who lets clients log in at a listener."""

    def offers(self, client: ClientFacts, channel: Channel) -> tuple[str, ...]:
        """The SASL mechanisms that this client can use now, the strongest first."""

    async def login(self, client: ClientFacts, channel: Channel, mechanism: str, initial: bytes | None, respond: Respond) -> str:
        """Who the client has proved to be.

        Raises UnauthorizedLogin, AccountsUnavailable, LoginRefused, BadResponse, and what ``respond`` raises.
        """


_WELCOME = Reply(235, "2.7.0", "authenticated")
_WRONG = Reply(535, "5.7.8", "authentication credentials invalid")  # one text, whatever was wrong
_UNAVAILABLE = Reply(454, "4.7.0", "authentication is not available now, try again later")


async def authenticate(logins: Logins, client: ClientFacts, channel: Channel, event: Auth, respond: Respond) -> tuple[str, Reply]:
    """The login, "" for none, and what the client hears. Raises what ``respond`` raises, but ExchangeEnded."""
    try:
        return await logins.login(client, channel, event.mechanism, event.initial, respond), _WELCOME
    except ExchangeEnded as ended:
        return "", ended.reply
    except BadResponse as problem:
        return "", Reply(501, "5.5.2", str(problem))
    except UnauthorizedLogin:
        return "", _WRONG
    except AccountsUnavailable:
        return "", _UNAVAILABLE
    except LoginRefused as refused:
        return "", refused.reply
