"""twisted.names as the house's `IResolver`: "no such name" and "try again later" kept apart, answers kept for their time."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from twisted.names import dns
from twisted.names.client import Resolver as Client
from twisted.names.error import DNSNameError
from zope.interface import implementer

from mailgw.dns.answers import KINDS, is_askable, negative_ttl, read
from mailgw.interfaces import Answer, IResolver, LookupFailed

__all__ = ["Resolver", "resolver"]

_PATIENCE = (2, 3, 5)  # seconds for each round over all servers
_MOST_ALIASES = 8
_MOST_KEPT = 10_000
_LONGEST = 3600.0  # seconds: a forgotten TTL of a week must not outlive a move
_NONE = Answer((), name_exists=False)


def resolver(reactor: Any, servers: Sequence[tuple[str, int]] = (), resolv_conf: str = "/etc/resolv.conf") -> "Resolver":
    """Make the house's resolver.

    ``reactor`` provides IReactorUDP, IReactorTCP and IReactorTime. Without servers those of ``resolv_conf`` are asked; the
    file is read again when it changes.
    """
    known = list(servers)
    client = Client(None if known else resolv_conf, known or None, _PATIENCE, reactor)  # type: ignore[no-untyped-call]
    return Resolver(client, reactor)


@implementer(IResolver)
@define(eq=False)
class Resolver:
    """Asks a ``client``, which is a twisted.names resolver; ``clock`` provides IReactorTime."""

    client: Any
    clock: Any
    _kept: OrderedDict[tuple[str, str], tuple[float, Answer]] = field(factory=OrderedDict, init=False)

    async def lookup(self, name: str, kind: str) -> Answer:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(KINDS)}")
        name = name.lower().removesuffix(".")
        kept = self._kept.get((name, kind))
        if kept and kept[0] > self.clock.seconds():
            return kept[1]
        if not is_askable(name):
            return _NONE
        answer, ttl = await self._ask(name, kind)
        if ttl > 0:
            self._kept[name, kind] = (self.clock.seconds() + min(ttl, _LONGEST), answer)
            self._kept.move_to_end((name, kind))
            if len(self._kept) > _MOST_KEPT:
                self._kept.popitem(last=False)
        return answer

    async def _ask(self, name: str, kind: str) -> tuple[Answer, float]:
        asked, ttl = name, _LONGEST
        for _ in range(_MOST_ALIASES):
            try:
                answers, authority, _additional = await self.client.query(dns.Query(asked.encode("ascii"), KINDS[kind], dns.IN))
                heard = read(asked, kind, answers)
            except DNSNameError as problem:  # NXDOMAIN, of the name or of what it is an alias for
                message = problem.args[0] if problem.args else None
                return _NONE, min(ttl, negative_ttl(getattr(message, "authority", ())))
            except Exception as problem:  # SERVFAIL, REFUSED, a time-out, nonsense: nothing is known
                raise LookupFailed(f"{name} {kind}: {_reason(problem)}") from problem
            ttl = min(ttl, heard.ttl)
            if not heard.alias:
                return Answer(heard.records), ttl if heard.records else min(ttl, negative_ttl(authority))
            if authority and any(record.type == dns.SOA for record in authority):
                return Answer(()), min(ttl, negative_ttl(authority))  # RFC 2308 §2.2: the alias leads to a name without such records
            asked = heard.alias
        raise LookupFailed(f"{name} {kind}: too many aliases")


def _reason(problem: Exception) -> str:
    names = {
        "DNSServerError": "the server failed",
        "DNSQueryRefusedError": "the server refused",
        "TimeoutError": "no answer in time",
        "DNSQueryTimeoutError": "no answer in time",
        "DNSFormatError": "the server did not understand",
        "DNSNotImplementedError": "the server does not know such questions",
    }
    return names.get(type(problem).__name__) or str(problem) or type(problem).__name__
