"""How fast somebody may go on: token buckets, filled at a rate, with room for a burst."""

from collections.abc import Awaitable, Callable
from hashlib import sha256
from typing import Literal

from attrs import field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import (
    IClientPolicy,
    IClock,
    IContentPolicy,
    IMemory,
    IRecipientPolicy,
    IRefusalPolicy,
    ISenderPolicy,
)
from mailgw.policies.action import Action, act
from mailgw.policies.who import client_of, network_of
from mailgw.values.address import Address
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, RefusalFacts, SenderFacts
from mailgw.values.quantities import Rate

__all__ = ["RateLimit"]

What = Literal["connections", "messages", "recipients", "bytes", "errors"]
Per = Literal["client", "network", "login", "sender", "sender-domain", "recipient", "recipient-domain"]

_AHEAD = 100  # this part of a bucket is taken at once: heavy senders cost a question to the memory for every so many
_MOST_AHEAD = 10_000  # of whom something is kept that was taken ahead
_LONGEST = 150  # characters of a name in a key


@implementer(IClientPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy, IRefusalPolicy)
@frozen
class RateLimit:
    """``type = "rate-limit"``: acts on what comes faster than ``limit``, and says when to come again.

    Connections are counted before the greeting, messages at MAIL, recipients at RCPT, bytes when the message is here. Errors are
    refusals for good (5yz) at MAIL, RCPT and the end of a message, whoever refuses: a client with too many of them is sent away
    when it connects, a login when it comes to MAIL, until there would be room for another error. Policies count for themselves,
    except those that have the same ``bucket``.
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
    clock: IClock = given(IClock)
    _ahead: dict[str, int] = field(factory=dict, init=False, repr=False, eq=False)  # what was taken and not used yet, by who
    _key: str = field(init=False)
    _size: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.burst < 0:
            raise ValueError("burst must not be negative")
        # Connections are counted before anybody can log in.
        early: dict[str, tuple[str, ...]] = {"connections": ("client", "network"), "errors": ("client", "network", "login")}
        early |= {"messages": _NOT_OF_RECIPIENTS, "bytes": _NOT_OF_RECIPIENTS}
        if self.per not in early.get(self.what, (self.per,)):
            raise ValueError(f'{self.what} cannot be counted per {self.per}: say per = "{early[self.what][0]}"')
        object.__setattr__(self, "_key", f"rate:{self.bucket or f'{self.what} {self.per} {self.limit} {self.burst}'} ")
        object.__setattr__(self, "_size", self.burst or self.limit.count)

    def check_client(self, facts: ClientFacts) -> Decision | Awaitable[Decision]:
        if self.what == "connections":
            return self._take(facts, None, None, 1)
        return self._look(facts) if self.what == "errors" and self.per != "login" else _FINE

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        if self.what == "messages":
            return self._take(facts.client, facts.sender, None, 1)
        return self._look(facts.client) if self.what == "errors" and self.per == "login" else _FINE

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts.client, facts.sender, facts.recipient, 1) if self.what == "recipients" else _FINE

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        return self._take(facts.client, facts.sender, None, facts.content.original_size) if self.what == "bytes" else _FINE

    def check_refusal(self, facts: RefusalFacts) -> Decision | Awaitable[Decision]:
        return self._count_error(facts.client) if self.what == "errors" and facts.reply.is_permanent else _FINE

    def _take(
        self, client: ClientFacts, sender: Address | None, recipient: Address | None, amount: int
    ) -> Decision | Awaitable[Decision]:
        who = _WHO[self.per](client, sender, recipient)
        if not who:
            return _FINE
        name = _short(who)
        left = self._ahead.get(name, 0) - amount
        if left >= 0:
            self._ahead[name] = left
            return _FINE
        return self._ask(who, name, amount)

    async def _ask(self, who: str, name: str, amount: int) -> Decision:
        """Raises MemoryUnavailable."""
        key, more = f"{self._key}{name}", self._size // _AHEAD
        if amount < more and not await self.memory.take(key, more, self.limit, self._size):
            if len(self._ahead) >= _MOST_AHEAD:
                self._ahead.pop(next(iter(self._ahead)))
            self._ahead[name] = self._ahead.get(name, 0) + more - amount
            return _FINE
        wait = await self.memory.take(key, amount, self.limit, self._size)
        return self._acted(who, wait) if wait else _FINE

    async def _count_error(self, client: ClientFacts) -> Decision:
        """Raises MemoryUnavailable."""
        who = _WHO[self.per](client, None, None)
        if who:
            wait = await self.memory.take(f"{self._key}{_short(who)}", 1, self.limit, self._size)
            if wait:
                until = self.clock.now().timestamp() + wait
                await self.memory.remember(f"{self._key}{_short(who)} until", str(until), wait)
        return _FINE

    async def _look(self, client: ClientFacts) -> Decision:
        """Raises MemoryUnavailable."""
        who = _WHO[self.per](client, None, None)
        until = await self.memory.recall(f"{self._key}{_short(who)} until") if who else None
        return _FINE if until is None else self._acted(who, float(until) - self.clock.now().timestamp())

    def _acted(self, who: str, wait: float) -> Decision:
        seconds = max(1, round(wait))
        limit = f"{self.limit}, {self._size} at once"
        said = (Evidence(self.per, who, _SOURCE.get(self.per, "the envelope")), Evidence("limit", limit, "the policy's settings"))
        remedy = f"{seconds} s later, or a higher limit than {self.limit}"
        text = f"too many {self.what}, try again in {seconds} s"
        return act(self.action, text, why=f"more than {self.limit} for {who}", tag=self.tag, evidence=said, remedy=remedy)


_FINE = proceed()
_SOURCE = {"client": "the connection", "network": "the connection", "login": "the client's AUTH command"}
_NOT_OF_RECIPIENTS = ("client", "network", "login", "sender", "sender-domain")


def _short(who: str) -> str:
    return who if len(who) <= _LONGEST and who.isprintable() else sha256(who.encode()).hexdigest()


# Nobody, where there is no login or the sender is the null reverse-path: not counted.
_WHO: dict[str, Callable[[ClientFacts, Address | None, Address | None], str]] = {
    "client": lambda client, _, __: client_of(client.ip),
    "network": lambda client, _, __: network_of(client.ip, 24, 48),
    "login": lambda client, _, __: client.login.lower(),
    "sender": lambda _, sender, __: str(sender or "").lower(),
    "sender-domain": lambda _, sender, __: sender.domain if sender else "",
    "recipient": lambda _, __, recipient: str(recipient or "").lower(),
    "recipient-domain": lambda _, __, recipient: recipient.domain if recipient else "",
}
