"""How fast somebody may go on: token buckets, filled at a rate, with room for a burst."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import ip_network
from typing import Literal

from attrs import field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IContentPolicy, IMemory, IRecipientPolicy, ISenderPolicy
from mailgw.policies.action import Action, act
from mailgw.values.address import Address
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts
from mailgw.values.quantities import Rate

__all__ = ["RateLimit"]

What = Literal["connections", "messages", "recipients", "bytes"]
Per = Literal["client", "network", "login", "sender", "sender-domain", "recipient", "recipient-domain"]

_LONGEST = 150  # characters of a name in a key
_NETWORK = {4: 24, 6: 48}  # prefix lengths of "network"
_ONE = {4: 32, 6: 64}  # of "client": who is one client


@implementer(IClientPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy)
@frozen
class RateLimit:
    """``type = "rate-limit"``: acts on what comes faster than ``limit``, and says when to come again.

    Connections are counted before the greeting, messages at MAIL, recipients at RCPT, bytes when the message is here. Policies
    count for themselves, except those that have the same ``bucket``.
    """

    limit: Rate
    """``"100 per hour"``; of bytes: ``"104857600 per day"``."""
    what: What = "messages"
    per: Per = "client"
    """client: an IPv4 address or IPv6 /64; network: a /24 or /48; login, sender or recipient, or the domain of one."""
    burst: int = 0
    """How many may come at once; 0: as many as ``limit`` counts."""
    action: Action = "defer"
    tag: str = "too-fast"
    bucket: str = ""
    memory: IMemory = given(IMemory)
    _key: str = field(init=False)
    _size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.burst < 0:
            raise ValueError("burst must not be negative")
        early = {"connections": ("client", "network", "login"), "messages": _NOT_OF_RECIPIENTS, "bytes": _NOT_OF_RECIPIENTS}
        if self.per not in early.get(self.what, (self.per,)):
            raise ValueError(f'{self.what} cannot be counted per {self.per}: say per = "{early[self.what][0]}"')
        object.__setattr__(self, "_key", f"rate:{self.bucket or f'{self.what} {self.per} {self.limit} {self.burst}'} ")
        object.__setattr__(self, "_size", self.burst or self.limit.count)

    def check_client(self, facts: ClientFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts, None, None, 1) if self.what == "connections" else _FINE

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts.client, facts.sender, None, 1) if self.what == "messages" else _FINE

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts.client, facts.sender, facts.recipient, 1) if self.what == "recipients" else _FINE

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts.client, facts.sender, None, facts.content.original_size) if self.what == "bytes" else _FINE

    async def _take(self, client: ClientFacts, sender: Address | None, recipient: Address | None, amount: int) -> Decision:
        """Raises MemoryUnavailable."""
        who = _WHO[self.per](client, sender, recipient)
        if not who:
            return _FINE
        wait = await self.memory.take(f"{self._key}{_short(who)}", amount, self.limit, self._size)
        if not wait:
            return _FINE
        seconds = max(1, round(wait))
        said = (Evidence(self.per, who, "the connection" if self.per in ("client", "network", "login") else "the envelope"),)
        remedy = f"{seconds} s later, or a higher limit than {self.limit}"
        text = f"too many {self.what}, try again in {seconds} s"
        return act(self.action, text, why=f"more than {self.limit} for {who}", tag=self.tag, evidence=said, remedy=remedy)


_FINE = proceed()
_NOT_OF_RECIPIENTS = ("client", "network", "login", "sender", "sender-domain")


def _short(who: str) -> str:
    return who if len(who) <= _LONGEST and who.isprintable() else sha256(who.encode()).hexdigest()


def _network(client: ClientFacts, lengths: dict[int, int]) -> str:
    return str(ip_network((client.ip, lengths[client.ip.version]), strict=False))


# Nobody, where there is no login or the sender is the null reverse-path: not counted.
_WHO: dict[str, Callable[[ClientFacts, Address | None, Address | None], str]] = {
    "client": lambda client, _, __: str(client.ip) if client.ip.version == 4 else _network(client, _ONE),
    "network": lambda client, _, __: _network(client, _NETWORK),
    "login": lambda client, _, __: client.login.lower(),
    "sender": lambda _, sender, __: str(sender or "").lower(),
    "sender-domain": lambda _, sender, __: sender.domain if sender else "",
    "recipient": lambda _, __, recipient: str(recipient or "").lower(),
    "recipient-domain": lambda _, __, recipient: recipient.domain if recipient else "",
}
