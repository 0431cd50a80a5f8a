"""Greylisting (RFC 6647): a stranger comes again later, as real mail servers do; after that it is known."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from attrs import define, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IMemory, IRecipientPolicy
from mailgw.policies.who import network_of
from mailgw.values.decision import Decision, Evidence, defer, proceed
from mailgw.values.facts import RecipientFacts
from mailgw.values.quantities import Duration

__all__ = ["Greylist"]

_MOST_KNOWN = 10_000  # networks that need not be looked up again for a while
_RENEW = 600.0  # seconds after which a known network's life is renewed in the memory


@define
class _Known:
    """Networks that are on the automatic allow-list, until when this process need not ask the memory about them."""

    until: dict[str, float] = field(factory=dict)

    def has(self, network: str, now: float) -> bool:
        return self.until.get(network, 0.0) > now

    def add(self, network: str, now: float) -> None:
        if len(self.until) >= _MOST_KNOWN:
            self.until.pop(next(iter(self.until)))
        self.until[network] = now + _RENEW


def _length(most: int) -> Callable[[Any, Any, int], None]:
    def check(_: Any, attribute: Any, value: int) -> None:
        if not 0 <= value <= most:
            raise ValueError(f"{attribute.name} is a prefix length: 0 to {most}")

    return check


@implementer(IRecipientPolicy)
@frozen
class Greylist:
    """``type = "greylist"``: defers what it has not seen, at RCPT, and takes it when it comes again.

    Client network, sender and recipient together are what is seen. A network from which enough mail has come again is known and
    not asked any more. Who has logged in is never deferred.
    """

    delay: Duration = 300.0  # how long a stranger must wait at least
    window: Duration = 2 * 86400.0  # within which he must have come again
    remember: Duration = 36 * 86400.0  # for which who has come again stays known, from his last mail on (RFC 6647 §5)
    known_after: int = 5  # that many mails that came again make the whole network known; 0: never
    prefix4: int = field(default=24, validator=_length(32))  # big senders come again from a neighbour
    prefix6: int = field(default=64, validator=_length(128))
    allow: "list[IPv4Network | IPv6Network]" = field(factory=list)  # networks that are good without being asked
    memory: IMemory = given(IMemory)
    clock: IClock = given(IClock)
    _known: _Known = field(factory=_Known, init=False)

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable."""
        client = facts.client
        if client.is_authenticated or any(client.ip in network for network in self.allow):
            return _FINE
        network = network_of(client.ip, self.prefix4, self.prefix6)
        if self._known.has(network, self.clock.now().timestamp()):
            return _FINE
        return self._ask(facts, network)

    async def _ask(self, facts: RecipientFacts, network: str) -> Decision:
        memory, now = self.memory, self.clock.now().timestamp()
        known = f"greylist:known {network}"
        if self.known_after and await memory.recall(known) is not None:
            await memory.remember(known, "", self.remember)
            self._known.add(network, now)
            return _FINE
        key = f"greylist:{network} {_digest(facts)}"
        if await memory.recall(key) is not None:
            await memory.remember(key, "passed", self.remember)
            return _FINE
        first = await memory.first_seen(f"{key} first", self.window)
        waited = now - first
        if waited >= self.delay:
            await memory.remember(key, "passed", self.remember)
            count = await memory.count(f"greylist:passes {network}", 1, self.remember)
            if count == self.known_after:
                await memory.remember(known, "", self.remember)
            passed = (Evidence("first seen", f"{waited:.0f} s ago", f"memory of {network}"),)
            return proceed(why=f"came again; the {count}. of its network", evidence=passed)
        left = max(1, round(self.delay - waited))
        grounds = (
            Evidence("client network", network, "the connection"),
            Evidence("sender", str(facts.sender) or "<>", "the client's MAIL command"),
            Evidence("recipient", str(facts.recipient), "the client's RCPT command"),
            Evidence("first seen", f"{waited:.0f} s ago", "memory"),
        )
        # RFC 6647 §5: 4yz, and the client decides when it comes again.
        return defer(
            f"greylisted, come again in {left} s",
            code=451,
            enhanced="4.7.1",
            why="not seen before" if not waited else f"came again too early, after {waited:.0f} s",
            evidence=grounds,
            remedy=f"the same mail from the same network, {self.delay:.0f} s after it came first; or its network in allow",
        )


_FINE = proceed()


def _digest(facts: RecipientFacts) -> str:
    """Sender and recipient, in a length that fits into a key; who reads the memory learns nothing of them."""
    text = f"{str(facts.sender).lower()} {str(facts.recipient).lower()}"
    return blake2b(text.encode(), digest_size=12).hexdigest()
