"""Greylisting (RFC 6647): a stranger comes again later, as real mail servers do; after that it is known."""

from collections.abc import Awaitable, Callable
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal, NamedTuple

from attrs import define, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IContentPolicy, IMemory, IRecipientPolicy, IResolver, LookupFailed
from mailgw.policies.reverse_name import is_assigned, registered_domain, reverse_name
from mailgw.policies.table_keys import domains_of
from mailgw.policies.who import network_of
from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.decision import Decision, Evidence, Verdict, defer, proceed
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts
from mailgw.values.quantities import Duration

__all__ = ["Greylist"]

_MOST_KNOWN = 10_000  # clients that need not be looked up again for a while
_RENEW = 600.0  # seconds after which a known client's life is renewed in the memory


@define
class _Known:
    """Networks, or addresses, that are on the automatic allow-list, until when this process need not ask the memory about them."""

    until: dict[str, float] = field(factory=dict)

    def has(self, place: str, now: float) -> bool:
        return self.until.get(place, 0.0) > now

    def add(self, place: str, now: float) -> None:
        if len(self.until) >= _MOST_KNOWN:
            self.until.pop(next(iter(self.until)))
        self.until[place] = now + _RENEW


class _Who(NamedTuple):
    """Who counts as the same client."""

    name: str  # "192.0.2.0/24", or "example.net"
    evidence: Evidence


def _length(most: int) -> Callable[[Any, Any, int], None]:
    def check(_: Any, attribute: Any, value: int) -> None:
        if not 0 <= value <= most:
            raise ValueError(f"{attribute.name} is a prefix length: 0 to {most}")

    return check


def _are_domains(_: Any, attribute: Any, value: list[str]) -> None:
    for text in value:
        try:
            parse_domain(text.removeprefix("."))
        except BadAddress as problem:
            raise ValueError(f"{attribute.name}: {text}: {problem}") from None


@implementer(IRecipientPolicy, IContentPolicy)
@frozen
class Greylist:
    """``type = "greylist"``: defers what it has not seen, at RCPT, and takes it when it comes again.

    Client, sender and recipient together are what is seen. A client from which enough mail has come again is known and
    not asked any more. Who has logged in is never deferred.
    """

    delay: Duration = 300.0  # how long a stranger must wait at least
    window: Duration = 2 * 86400.0  # within which he must have come again
    remember: Duration = 36 * 86400.0  # for which who has come again stays known, from his last mail on (RFC 6647 §5)
    known_after: int = 5  # that many mails that came again make the whole client known; 0: never
    per: Literal["network", "name"] = "network"
    """Who is the same client: a network; or, where its reverse name is confirmed and not the mere address of a line, all who have a
    name in the same registered domain. Big senders come again from anywhere."""
    prefix4: int = field(default=24, validator=_length(32))  # big senders come again from a neighbour
    prefix6: int = field(default=64, validator=_length(128))
    allow: "list[IPv4Network | IPv6Network]" = field(factory=list)  # networks that are good without being asked
    allow_names: list[str] = field(factory=list, validator=_are_domains)  # and confirmed reverse names, with all below them
    null_sender: Literal["data", "rcpt", "pass"] = "data"
    """When bounces are deferred. Whoever verifies senders says RCPT for the null reverse-path and goes away before DATA."""
    memory: IMemory = given(IMemory)
    resolver: IResolver = given(IResolver)
    clock: IClock = given(IClock)
    _known: _Known = field(factory=_Known, init=False)
    _good: frozenset[str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.window <= self.delay:
            raise ValueError("window must be longer than delay: else nobody could come again in time")
        names = [parse_domain(text.removeprefix(".")) for text in self.allow_names]
        object.__setattr__(self, "_good", frozenset(key for name in names for key in (name, f".{name}")))

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable."""
        if not facts.sender.domain and self.null_sender != "rcpt":
            return _FINE
        return self._check(facts.client, facts.sender, (facts.recipient,))

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable."""
        if facts.sender.domain or self.null_sender != "data":
            return _FINE
        return self._check(facts.client, facts.sender, facts.recipients)

    def _check(self, client: ClientFacts, sender: Address, recipients: tuple[Address, ...]) -> Decision | Awaitable[Decision]:
        if client.is_authenticated or any(client.ip in network for network in self.allow):
            return _FINE
        network = network_of(client.ip, self.prefix4, self.prefix6)
        # Neighbours may have names of quite different people.
        place = str(client.ip) if self.per == "name" or self._good else network
        if self._known.has(place, self.clock.now().timestamp()):
            return _FINE
        return self._ask(client.ip, place, network, sender, recipients)

    async def _ask(
        self, ip: IPv4Address | IPv6Address, place: str, network: str, sender: Address, recipients: tuple[Address, ...]
    ) -> Decision:
        memory, now = self.memory, self.clock.now().timestamp()
        who = await self._who(ip, network)
        if who is None:
            self._known.add(place, now)
            return _FINE
        known = f"greylist:known {who.name}"
        if self.known_after and await memory.recall(known) is not None:
            await memory.remember(known, "", self.remember)
            self._known.add(place, now)
            return _FINE
        decisions = [await self._look_up(who, known, sender, recipient) for recipient in recipients]
        return next((one for one in decisions if one.verdict is Verdict.DEFER), decisions[0] if decisions else _FINE)

    async def _who(self, ip: IPv4Address | IPv6Address, network: str) -> _Who | None:
        """Who is asked about; None: one of `allow_names`."""
        why_network = ""
        if self.per == "name" or self._good:
            try:
                name = (await reverse_name(self.resolver, ip)).confirmed.lower()
            except LookupFailed:
                # A client whose names cannot be looked up for days must not be put off for days.
                name, why_network = "", "; its reverse name cannot be looked up now"
            if name and not self._good.isdisjoint(domains_of(name)):
                return None
            domain = registered_domain(name) if self.per == "name" and name and not is_assigned(name, ip) else ""
            if domain:
                return _Who(domain, Evidence("client's domain", domain, f"PTR {ip.reverse_pointer}: {name}"))
        return _Who(network, Evidence("client network", network, f"the connection{why_network}"))

    async def _look_up(self, who: _Who, known: str, sender: Address, recipient: Address) -> Decision:
        memory = self.memory
        key = f"greylist:{who.name} {_digest(sender, recipient)}"
        if await memory.recall(key) is not None:
            await memory.remember(key, "passed", self.remember)
            return _FINE
        asked = self.clock.now().timestamp()
        first = await memory.first_seen(f"{key} first", self.window)
        is_new = first >= asked
        waited = max(0.0, self.clock.now().timestamp() - first)  # the memory's "now" is later than what was now when it was asked
        if waited >= self.delay:
            await memory.remember(key, "passed", self.remember)
            count = await memory.count(f"greylist:passes {who.name}", 1, self.remember)
            if count >= self.known_after > 0:
                await memory.remember(known, "", self.remember)
            passed = (Evidence("first seen", f"{waited:.0f} s ago", f"memory of {who.name}"),)
            return proceed(why=f"{'came again' if self.delay else 'need not wait'}; number {count} from {who.name}", evidence=passed)
        left = max(1, round(self.delay - waited))
        grounds = (
            who.evidence,
            Evidence("sender", str(sender) or "<>", "the client's MAIL command"),
            Evidence("recipient", str(recipient), "the client's RCPT command"),
            Evidence("first seen", "now" if is_new else f"{waited:.0f} s ago", "memory"),
        )
        # RFC 6647 §5: 4yz, and the client decides when it comes again.
        return defer(
            f"greylisted, come again in {left} s",
            code=451,
            enhanced="4.7.1",
            why="not seen before" if is_new else f"came again too early, after {waited:.0f} s",
            evidence=grounds,
            remedy=f"the same mail from {who.name}, {self.delay:.0f} s after it came first; or an entry in allow or allow_names",
        )


_FINE = proceed()


def _digest(sender: Address, recipient: Address) -> str:
    """Sender and recipient, in a length that fits into a key; who reads the memory learns nothing of them."""
    text = f"{str(sender).lower()} {str(recipient).lower()}"
    return blake2b(text.encode(), digest_size=12).hexdigest()
