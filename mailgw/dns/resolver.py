"""The house's `IResolver`: "no such name" and "try again later" kept apart, answers kept for their time, nothing asked twice at once."""

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from random import SystemRandom
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.names import dns
from zope.interface import implementer

from mailgw.dns.answers import KINDS, is_askable, negative_ttl, read
from mailgw.dns.servers import NameServers, ResolvConf
from mailgw.interfaces import Answer, IResolver, LookupFailed

__all__ = ["Resolver", "resolver"]

_MOST_ALIASES = 8
_MOST_KEPT = 20_000  # answers, and
_MOST_OCTETS = 16 * 2**20  # about, in all of them
_LONGEST = 3600.0  # seconds: a forgotten TTL of a week must not outlive a move
_NONE = Answer((), name_exists=False)


class Asker(Protocol):
    """Who is asked: `NameServers`, or a fake."""

    async def ask(self, name: str, kind: int) -> dns.Message:
        """An answer: NOERROR or NXDOMAIN. Raises LookupFailed."""

    def condition(self) -> dict[str, dict[str, int]]:
        """See `NameServers.condition`."""


def resolver(reactor: Any, servers: Sequence[tuple[str, int]] = (), resolv_conf: str = "/etc/resolv.conf") -> "Resolver":
    """Make the house's resolver.

    ``reactor`` provides IReactorUDP, IReactorTCP and IReactorTime. Without servers those of ``resolv_conf`` are asked; the
    file is read again when it changes.
    """
    known = tuple(servers)
    return Resolver(NameServers((lambda: known) if known else ResolvConf(Path(resolv_conf), reactor), reactor, SystemRandom()), reactor)


@implementer(IResolver)
@define(eq=False)
class Resolver:
    """Asks ``client``; ``clock`` provides IReactorTime."""

    client: Asker
    clock: Any
    hits: int = field(default=0, init=False)
    misses: int = field(default=0, init=False)
    _kept: OrderedDict[tuple[str, str], tuple[float, Answer, int]] = field(factory=OrderedDict, init=False)
    _octets: int = field(default=0, init=False)
    _asked: dict[tuple[str, str], list[Deferred[Answer]]] = field(factory=dict, init=False)  # who waits for what is being asked

    async def lookup(self, name: str, kind: str) -> Answer:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        key = (name.lower().removesuffix("."), kind)
        kept = self._kept.get(key)
        if kept and kept[0] > self.clock.seconds():
            self.hits += 1
            return kept[1]
        if not is_askable(key[0]):
            return _NONE
        waiter: Deferred[Answer] = Deferred()
        waiting = self._asked.get(key)
        if waiting is not None:
            waiting.append(waiter)
        else:
            self.misses += 1
            self._asked[key] = [waiter]
            # It goes on for the others, and for the cache, when he who asked first does not wait any more.
            Deferred.fromCoroutine(self._ask(*key)).addCallback(self._keep, key).addBoth(self._tell, key)
        return await waiter

    def condition(self) -> dict[str, Any]:
        """For ``mailgw status``.

        "hits" and "misses" are look-ups since the start that the cache could answer, and could not; "in_flight" are questions that wait
        for name servers now, and "kept" are the answers in the cache.
        """
        return {
            "hits": self.hits,
            "misses": self.misses,
            "in_flight": len(self._asked),
            "kept": len(self._kept),
            "name_servers": self.client.condition(),
        }

    def _keep(self, found: tuple[Answer, float], key: tuple[str, str]) -> Answer:
        answer, ttl = found
        if ttl > 0:
            self._forget(key)
            size = _size(key, answer)
            self._kept[key] = (self.clock.seconds() + min(ttl, _LONGEST), answer, size)
            self._octets += size
            while len(self._kept) > _MOST_KEPT or self._octets > _MOST_OCTETS:
                self._forget(next(iter(self._kept)))
        return answer

    def _forget(self, key: tuple[str, str]) -> None:
        old = self._kept.pop(key, None)
        if old is not None:
            self._octets -= old[2]

    def _tell(self, result: Any, key: tuple[str, str]) -> None:
        for waiter in self._asked.pop(key):
            if not waiter.called:
                waiter.callback(result)  # a Failure starts their errbacks

    async def _ask(self, name: str, kind: str) -> tuple[Answer, float]:
        asked, ttl = name, _LONGEST
        for _ in range(_MOST_ALIASES):
            try:
                message = await self.client.ask(asked, KINDS[kind])
                if message.rCode == dns.ENAME and not message.answers:
                    return _NONE, min(ttl, negative_ttl(message.authority))
                heard = read(asked, kind, message.answers)
            except LookupFailed as problem:
                raise LookupFailed(f"{name} {kind}: {problem}") from None
            except Exception as problem:  # nonsense: nothing is known
                raise LookupFailed(f"{name} {kind}: {problem or type(problem).__name__}") from problem
            ttl = min(ttl, heard.ttl)
            if message.rCode == dns.ENAME:  # RFC 2308 §2.1: of the name that the last alias leads to
                return _NONE, min(ttl, negative_ttl(message.authority))
            if not heard.alias:
                return Answer(heard.records), ttl if heard.records else min(ttl, negative_ttl(message.authority))
            if any(record.type == dns.SOA for record in message.authority):
                # RFC 2308 §2.2: the alias leads to a name without such records.
                return Answer(()), min(ttl, negative_ttl(message.authority))
            asked = heard.alias
        raise LookupFailed(f"{name} {kind}: too many aliases")


def _size(key: tuple[str, str], answer: Answer) -> int:
    return 200 + len(key[0]) + sum(len(one) if isinstance(one, str | bytes) else 64 for one in answer.records)
