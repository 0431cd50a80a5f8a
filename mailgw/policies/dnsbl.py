"""What lists in the DNS say about a client (RFC 5782): block lists, allow lists, lists of domains."""

import re
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred, DeferredList
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IResolver, ISenderPolicy, LookupFailed
from mailgw.policies.action import Action, act
from mailgw.policies.table_keys import helo_key
from mailgw.values.address import BadAddress, parse_domain
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, SenderFacts

__all__ = ["Dnsbl", "Zone", "parse_zone"]

_ZONE = re.compile(r"(?P<name>[^=*\s]+)(?:=(?P<codes>[^*\s]+))?(?:\*(?P<weight>-?[0-9]+))?\Z")


@frozen
class Zone:
    """One list: ``"zen.example.net"``, ``"zen.example.net=127.0.0.2-11*2"``, ``"allow.example.net*-3"``."""

    name: str
    codes: tuple[tuple[int, int], ...] = ()  # ranges of 127.x.y.z as numbers; empty: every code in 127.0.0.0/8 counts
    weight: int = 1

    def counts(self, code: Any) -> bool:
        """Whether an address in an answer means "listed". What is not in 127.0.0.0/8 is no answer of a list (RFC 5782 §2.3)."""
        if not isinstance(code, IPv4Address) or not code.is_loopback:
            return False
        return not self.codes or any(low <= int(code) <= high for low, high in self.codes)

    @classmethod
    def parse(cls, text: str) -> "Zone":
        """See `parse_zone`."""
        return parse_zone(text)


def parse_zone(text: str) -> Zone:
    """Read ``NAME``, ``NAME=CODES``, ``NAME*WEIGHT`` or ``NAME=CODES*WEIGHT``. Raises ValueError.

    Codes are ``127.0.0.2`` or ``127.0.0.4-7``, several with ``;`` between.
    """
    match = _ZONE.match(text)
    if match is None:
        raise ValueError(f'"{text}" is no list; write it like "zen.example.net", "zen.example.net=127.0.0.2-11" or "zen.example.net*2"')
    try:
        name = parse_domain(match["name"])
    except BadAddress as problem:
        raise ValueError(f'"{text}": {problem}') from None
    codes = tuple(_code(one, text) for one in (match["codes"] or "").split(";") if one)
    return Zone(name, codes, int(match["weight"] or 1))


def _code(text: str, whole: str) -> tuple[int, int]:
    try:
        first, _, last = text.partition("-")
        low = IPv4Address(first)
        high = IPv4Address(f"{first.rpartition('.')[0]}.{last}") if last else low
    except ValueError:
        raise ValueError(f'"{whole}": "{text}" is no return code; write it like "127.0.0.2" or "127.0.0.4-7"') from None
    if not low.is_loopback or high < low:
        raise ValueError(f'"{whole}": return codes lie in 127.0.0.0/8, the lower one first')
    return int(low), int(high)


@frozen
class _Hit:
    zone: Zone
    what: str  # that is listed
    name: str  # that was asked
    codes: tuple[Any, ...]


@implementer(IClientPolicy, ISenderPolicy)
@frozen
class Dnsbl:
    """``type = "dnsbl"``: adds up the weights of all lists that have the client; from ``threshold`` on, it acts.

    The client's address is asked before the greeting, names (HELO, the sender's domain, those that the address has) at MAIL. A list
    that does not answer is a fault, if its answer could change anything: ``on_error`` says what then.
    """

    zones: list[Zone] = field(factory=list)  # of addresses
    helo_zones: list[Zone] = field(factory=list)  # of domains, asked for the HELO name
    sender_zones: list[Zone] = field(factory=list)  # of domains, asked for the domain of MAIL FROM
    reverse_zones: list[Zone] = field(factory=list)  # of domains, asked for the names that the client's address has
    threshold: int = 1
    action: Action = "reject"
    show_reason: bool = True  # the peer hears the list's own text (its TXT record)
    tag: str = "listed"
    resolver: IResolver = given(IResolver)

    def __attrs_post_init__(self) -> None:
        if not (self.zones or self.helo_zones or self.sender_zones or self.reverse_zones):
            raise ValueError("names no list: say zones, helo_zones, sender_zones or reverse_zones")
        if self.threshold < 1:
            raise ValueError("threshold must be at least 1")

    async def check_client(self, facts: ClientFacts) -> Decision:
        if not self.zones or facts.is_authenticated:
            return _FINE
        octets = _octets(facts.ip)
        return await self._decide([(zone, str(facts.ip), f"{octets}.{zone.name}") for zone in self.zones])

    async def check_sender(self, facts: SenderFacts) -> Decision:
        if facts.client.is_authenticated:
            return _FINE
        questions, silent, trouble = list(self._names(facts)), [], None
        if self.reverse_zones:
            try:
                # The DNS gives them in any order.
                names = sorted((await self.resolver.lookup(facts.client.ip.reverse_pointer, "PTR")).records)[:_MOST_NAMES]
            except LookupFailed as problem:
                names, silent, trouble = [], _MOST_NAMES * self.reverse_zones, problem
            questions += [(zone, name, f"{name}.{zone.name}") for name in names for zone in self.reverse_zones]
        return await self._decide(questions, silent, trouble)

    def _names(self, facts: SenderFacts) -> Iterator[tuple[Zone, str, str]]:
        for zones, domain in ((self.helo_zones, helo_key(facts.client.helo)), (self.sender_zones, facts.sender.domain)):
            if zones and _is_name(domain):
                yield from ((zone, domain, f"{domain}.{zone.name}") for zone in zones)

    async def _decide(
        self, questions: Sequence[tuple[Zone, str, str]], silent: Sequence[Zone] = (), trouble: Exception | None = None
    ) -> Decision:
        """``silent``: lists that cannot be asked because of ``trouble``."""
        if not questions and trouble is None:
            return _FINE
        # All at the same time: the slowest one counts, not their sum.
        asked = [Deferred.fromCoroutine(self._look_up(*question)) for question in questions]
        found: Sequence[tuple[bool, Any]] = await DeferredList(asked, consumeErrors=True)
        hits: list[_Hit] = [answer for good, answer in found if good and answer is not None]
        failed = [(question[0], answer.value) for question, (good, answer) in zip(questions, found, strict=True) if not good]
        silent = [*silent, *(zone for zone, _ in failed)]
        score = sum(hit.zone.weight for hit in hits)
        # One dead list must not turn off the others: what it would have said may make no difference.
        least, most = (score + sum(part(0, zone.weight) for zone in silent) for part in (min, max))
        if least < self.threshold <= most:
            raise trouble or failed[0][1]
        if not hits:
            return _FINE
        said = tuple(
            Evidence(f"{hit.zone.name} ({hit.zone.weight:+})", f"{hit.what}: {', '.join(map(str, hit.codes))}", f"A {hit.name}")
            for hit in hits
        )
        said += tuple(Evidence(f"{zone.name} ({zone.weight:+})", "no answer", "it makes no difference") for zone in silent)
        if score < self.threshold:
            return proceed(why=f"score {score} of {self.threshold}", evidence=said)
        worst = max(hits, key=lambda hit: hit.zone.weight)
        reason = await self._reason(worst) if self.show_reason else ""
        if reason:
            said = (*said, Evidence("reason", reason, f"TXT {worst.name}"))
        text = f"{worst.what} is listed at {worst.zone.name}" + (f": {reason}" if reason else "")
        why = f"score {score}, and {self.threshold} is enough"
        remedy = f"the operator of {worst.zone.name} takes it off the list; or an allow list with a negative weight"
        return act(self.action, text, why=why, tag=self.tag, evidence=said, remedy=remedy)

    async def _look_up(self, zone: Zone, what: str, name: str) -> _Hit | None:
        answer = await self.resolver.lookup(name, "A")
        refusal = next((code for code in answer.records if not zone.codes and code in _REFUSALS), None)
        if refusal is not None:
            raise LookupFailed(f"{zone.name} does not want to answer us: {refusal}")
        codes = tuple(code for code in answer.records if zone.counts(code))
        return _Hit(zone, what, name, codes) if codes else None

    async def _reason(self, hit: _Hit) -> str:
        try:
            texts = (await self.resolver.lookup(hit.name, "TXT")).records
        except Exception:  # the verdict stands without it
            return ""
        return texts[0].decode("ascii", "replace")[:_MOST_REASON] if texts else ""


_FINE = proceed()
_REFUSALS = IPv4Network("127.255.255.0/24")  # by which lists say that they are asked too much, or by the wrong name server
_MOST_REASON = 200  # characters
_MOST_NAMES = 3  # of a client's address


def _octets(ip: IPv4Address | IPv6Address) -> str:
    """In reverse, an IPv6 address in nibbles (RFC 5782 §2.4)."""
    return ip.reverse_pointer.removesuffix(".in-addr.arpa").removesuffix(".ip6.arpa")


def _is_name(domain: str) -> bool:
    return "." in domain and not domain.startswith("[") and not domain.replace(".", "").isdigit()
