"""Against the guessing of passwords: who fails is slowed down, and a network that goes on is banned for a while.

Failures are counted three ways, so that no attacker can lock out the owner of an account:

* by account and network: each further attempt from there waits longer;
* by network: after too many, whatever the accounts, it is banned;
* by account over all networks: attempts are slowed, but never refused, and not at all from where the owner has logged in before.
"""

import json
from collections.abc import Awaitable, Callable
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import attrs
from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from mailgw.credentials import ILoginGuard
from mailgw.interfaces import IMemory
from mailgw.journal import BanLifted, Banned, Journal
from mailgw.settings import Network
from mailgw.values.facts import ClientFacts
from mailgw.values.quantities import Duration, Rate
from mailgw.values.reply import Reply

__all__ = ["Ban", "LoginThrottle", "Throttling"]

_KNOWN_FOR = 30 * 86400.0  # seconds that a network in which somebody has logged in is his
_LONGEST_NAME = 200  # characters of an account's name in a key
_MOST_BANS = 10_000  # in one list
_HOUR = 3600.0
_TWENTY, _HUNDRED = Rate(20, _HOUR), Rate(100, _HOUR)


def _between(least: int, most: int) -> Callable[[Any, "attrs.Attribute[int]", int], None]:
    def check(_: Any, attribute: "attrs.Attribute[int]", value: int) -> None:
        if not least <= value <= most:
            raise ValueError(f"{attribute.name} must be {least} to {most}, not {value}")

    return check


@frozen(kw_only=True)
class Throttling:
    """[logins]: how patient we are with wrong passwords; "unlimited" bans nobody, or slows nobody down."""

    delay_after: int = field(default=3, validator=_between(1, 1000))  # failures of an account from one network
    delay: Duration = 1.0  # the first; it doubles with each further failure
    longest_delay: Duration = 30.0
    ban_after: Rate | None = _TWENTY  # failures of a network, whatever the accounts; 20 per hour
    ban: Duration = 3600.0
    slow_after: Rate | None = _HUNDRED  # failures of an account, whatever the networks; 100 per hour
    slow: Duration = 5.0
    ipv4_prefix: int = field(default=32, validator=_between(8, 32))  # who shares a network
    ipv6_prefix: int = field(default=64, validator=_between(16, 128))
    allow: tuple[Network, ...] = ()  # from there nothing is counted

    @property
    def window(self) -> float:
        """Seconds for which failures are counted."""
        return self.ban_after.seconds if self.ban_after is not None else _HOUR

    def network_of(self, ip: IPv4Address | IPv6Address) -> str:
        """The network of a client: ``"192.0.2.1/32"``."""
        return str(ip_network((ip, self.ipv4_prefix if ip.version == 4 else self.ipv6_prefix), strict=False))

    def wait_after(self, failures: int) -> float:
        """Seconds to wait before the next attempt, after so many failures of an account from one network."""
        if failures < self.delay_after:
            return 0.0
        return min(self.longest_delay, self.delay * 2.0 ** min(failures - self.delay_after, 60))


@frozen
class Ban:
    """A network that may not log in for a while."""

    network: str
    since: float  # POSIX seconds
    until: float
    failures: int
    account: str  # the last one that was tried


@implementer(ILoginGuard)
@frozen
class LoginThrottle:
    """The guard of all listeners, and what an operator can see and do about it. Raises MemoryUnavailable."""

    settings: Throttling
    memory: IMemory
    clock: IReactorTime
    journal: Journal

    # ── ILoginGuard ──

    async def before(self, client: ClientFacts, account: str) -> Reply | None:
        """Refuse with 421 from a banned network; else let the attempt wait as long as earlier failures ask."""
        if self._is_allowed(client):
            return None
        network, name, window = self.settings.network_of(client.ip), _key(account), self.settings.window
        banned, here, everywhere, known = await _together(
            self.memory.recall(f"ban:{network}"),
            self.memory.count(f"login-here:{name} {network}", 0, window),
            self.memory.count(f"login-account:{name}", 0, window),
            self.memory.recall(f"login-known:{name} {network}"),
        )
        wait = self.settings.wait_after(here) if name else 0.0
        slow_after = self.settings.slow_after
        if slow_after is not None and everywhere >= slow_after.count and known is None:
            wait = max(wait, self.settings.slow)
        if wait and banned is None:
            await deferLater(self.clock, wait)
            banned = await self.memory.recall(f"ban:{network}")  # what was tried beside it may have been too much
        return None if banned is None else _banned(_ban(network, banned).until - self.clock.seconds())

    async def failed(self, client: ClientFacts, account: str) -> Reply | None:
        """Count it; 421 where it was one too many."""
        if self._is_allowed(client):
            return None
        network, name, now = self.settings.network_of(client.ip), _key(account), self.clock.seconds()
        counts = [self.memory.recall(f"ban:{network}"), self.memory.count(f"login-network:{network}", 1, self.settings.window)]
        counts.append(self.memory.count(_hour(now), 1, 2 * _HOUR))
        if name:
            counts.append(self.memory.count(f"login-here:{name} {network}", 1, self.settings.window))
            slow_after = self.settings.slow_after
            if slow_after is not None:
                counts.append(self.memory.count(f"login-account:{name}", 1, slow_after.seconds))
        banned, failures, *_ = await _together(*counts)
        ban_after = self.settings.ban_after
        if ban_after is None or failures < ban_after.count:
            return None
        if banned is None:
            ban = {"since": now, "until": now + self.settings.ban, "failures": failures, "account": account[:_LONGEST_NAME]}
            await self.memory.remember(f"ban:{network}", json.dumps(ban), self.settings.ban)
            self.journal.note(Banned(client.session, str(client.ip), network, failures, self.settings.ban))
        return _banned(self.settings.ban)

    async def doubted(self, client: ClientFacts, account: str) -> None:
        """Count it for the account alone: an outage must not ban a network full of users, nor let anybody guess as fast as he can."""
        network, name = self.settings.network_of(client.ip), _key(account)
        if self._is_allowed(client) or not name:
            return
        counts = [self.memory.count(f"login-here:{name} {network}", 1, self.settings.window)]
        if self.settings.slow_after is not None:
            counts.append(self.memory.count(f"login-account:{name}", 1, self.settings.slow_after.seconds))
        await _together(*counts)

    async def succeeded(self, client: ClientFacts, account: str) -> None:
        """Forget the failures of this account in this network, but not those of the network: it may have an account of its own."""
        name = _key(account)
        if self._is_allowed(client) or not name:
            return
        network = self.settings.network_of(client.ip)
        await _together(
            self.memory.forget(f"login-here:{name} {network}"),
            self.memory.remember(f"login-known:{name} {network}", "", _KNOWN_FOR),
        )

    # ── For the operator ──

    async def bans(self) -> list[Ban]:
        """All bans that hold now, by network."""
        found = await self.memory.find("ban:", _MOST_BANS)
        return [_ban(key.removeprefix("ban:"), text) for key, text in found.items()]

    async def lift(self, network: str) -> bool:
        """End a ban, and forget what the network has failed before; whether there was one."""
        banned, _, _ = await _together(
            self.memory.recall(f"ban:{network}"), self.memory.forget(f"ban:{network}"), self.memory.forget(f"login-network:{network}")
        )
        if banned is not None:
            self.journal.note(BanLifted("", network))
        return banned is not None

    async def condition(self) -> dict[str, int]:
        """For `mailgw status`: how many networks are banned, and the failures of this hour of the day and of the one before."""
        now = self.clock.seconds()
        bans, this, before = await _together(
            self.memory.find("ban:", _MOST_BANS), self.memory.count(_hour(now), 0, 1.0), self.memory.count(_hour(now - _HOUR), 0, 1.0)
        )
        return {"banned_networks": len(bans), "failures_this_hour": this, "failures_the_hour_before": before}

    def _is_allowed(self, client: ClientFacts) -> bool:
        return any(client.ip in network for network in self.settings.allow)


def _hour(now: float) -> str:
    return f"login-failures:{int(now // _HOUR)}"


def _key(account: str) -> str:
    """The account's name for keys: it is whatever a stranger says. Blanks count for nothing, as directories see it."""
    name = " ".join(account.casefold().split())
    return name if len(name) <= _LONGEST_NAME else sha256(name.encode("utf-8", "surrogatepass")).hexdigest()


def _ban(network: str, text: str) -> Ban:
    return Ban(network, **json.loads(text))


def _banned(seconds: float) -> Reply:
    minutes = max(1, round(seconds / 60))
    return Reply(421, "4.7.0", f"too many failed logins from your network, try again in {minutes} minute{'s' if minutes > 1 else ''}")


async def _together(*questions: Awaitable[Any]) -> list[Any]:
    """The answers to questions that are asked in one turn, so that they are one transaction. Raises the first failure."""

    async def wait(question: Awaitable[Any]) -> Any:
        return await question

    results: Any = await DeferredList([Deferred.fromCoroutine(wait(one)) for one in questions], consumeErrors=True)
    answers = []
    for succeeded, answer in results:
        if not succeeded:
            answer.raiseException()
        answers.append(answer)
    return answers
