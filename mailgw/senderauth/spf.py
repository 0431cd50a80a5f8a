"""Does the domain allow this client to send in its name? RFC 7208, as a function of the facts and a resolver.

`check_host` is the function of that name in §4. Its answer carries its evidence: the record, the way through includes and redirects, the
mechanism that matched, and each DNS question with its answer.

One file because it is one algorithm, check_host of §4, with the limits that all its steps count against.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

import idna
from attrs import define, evolve, field, frozen

from mailgw.interfaces import Answer, IResolver, LookupFailed
from mailgw.senderauth.spf_macros import BadRecord, Unspeakable, expand, in_reverse, parse_macros
from mailgw.senderauth.spf_record import Mechanism, SpfRecord, is_spf, parse_record

__all__ = ["Result", "SpfAnswer", "SpfLookup", "SpfStep", "check_host", "reverse_name"]

Result = Literal["none", "neutral", "pass", "fail", "softfail", "temperror", "permerror"]
"""RFC 7208 §2.6."""

_MOST_TERMS = 10  # that cause questions (§4.6.4)
_MOST_VOID = 2  # questions without an answer (§4.6.4)
_MOST_NAMES = 10  # of an MX or PTR answer (§4.6.4)
_LONGEST_RECORD = 16_384  # octets; not in the RFC: a stranger's record must not cost us seconds
_MOST_EXPLANATION = 400  # characters of a stranger's text
_MOST_SHOWN = 1000  # characters of a stranger's records

_RESULTS: Mapping[str, Result] = {"+": "pass", "-": "fail", "~": "softfail", "?": "neutral"}

_NOT_PLAIN = re.compile(r"[^ -~]")
_NO_NAME = re.compile(r"\A\[|[^!-~]")  # address literals; white space and controls

IP = IPv4Address | IPv6Address


@frozen
class SpfStep:
    """One term that was looked at."""

    depth: int  # 0: the first record; includes and redirects go deeper
    domain: str
    term: str  # as it stands in the record
    outcome: str  # "matches", "does not match: ...", ...


@frozen
class SpfLookup:
    """One question to the DNS."""

    name: str
    kind: str
    found: Answer | None  # None: no answer
    problem: str = ""  # why there is none

    @property
    def is_void(self) -> bool:
        """Whether it was answered with nothing (§4.6.4)."""
        return self.found is not None and not self.found.records

    @property
    def answer(self) -> str:
        """In words."""
        if self.found is None:
            return f"try later: {self.problem}"
        if not self.found.records:
            return "no such records" if self.found.name_exists else "no such name"
        return ", ".join(_readable(one) for one in self.found.records[: _MOST_NAMES + 1])[:_MOST_SHOWN]


@frozen
class SpfAnswer:
    """The result and its grounds."""

    result: Result
    domain: str  # whose record was asked first
    explanation: str = ""  # of the domain's owner (exp=), for "fail": ASCII, for the peer
    problem: str = ""  # why it is none, temperror or permerror
    mechanism: str = ""  # that decided, in the record of the domain or where its redirect leads
    record: str = ""  # in which that stands; for permerror, the one that is wrong
    record_domain: str = ""
    path: tuple[str, ...] = ()  # "example.org: include:_spf.example.org", "_spf.example.org: ip4:192.0.2.0/24"
    steps: tuple[SpfStep, ...] = ()
    lookups: tuple[SpfLookup, ...] = ()


class _TempError(Exception):
    """The DNS does not answer now."""


class _PermError(Exception):
    """The records cannot be understood."""


async def check_host(
    resolver: IResolver, ip: IP, domain: str, sender: str, helo: str = "", receiver: str = "unknown", time: float = 0.0
) -> SpfAnswer:
    """Ask ``domain`` whether ``ip`` may send for it.

    ``sender`` is the MAIL FROM identity, or ``postmaster@`` the HELO name for the HELO identity and for the null reverse-path
    (§2.4). ``receiver`` is our own name and ``time`` in POSIX seconds: both are for explanations only. Never raises.
    """
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    local_part, at, sender_domain = sender.rpartition("@")
    if not at or not local_part:
        local_part, sender_domain = "postmaster", sender_domain or domain
    try:
        asked = _a_label(domain)
    except ValueError as problem:
        return SpfAnswer("none", domain, problem=str(problem))
    earlier = _answers.get((ip, asked))
    if earlier is not None and await _holds(earlier, resolver):
        return earlier
    asking = _Asking(resolver, ip, local_part, _speakable(sender_domain), _speakable(helo), receiver, time)
    try:
        answer = await asking.check(asked, 0, True)
    except (_TempError, _PermError) as problem:
        result: Result = "temperror" if isinstance(problem, _TempError) else "permerror"
        answer = SpfAnswer(result, asked, "", str(problem), "", asking.record, asking.record_domain, tuple(asking.way))
    answer = evolve(answer, domain=asked, steps=tuple(asking.steps), lookups=tuple(asking.lookups))
    if not asking.has_expanded:
        _keep((ip, asked), answer)
    return answer


# The same clients write for the same domains every day. Where no macro was expanded, the answer depends on what the DNS said and on
# nothing else: while it says the same again, which its cache knows, there is nothing to find out anew.
_MOST_ANSWERS = 1000
_MOST_LOOKUPS = 20  # of an answer that is kept, and
_MOST_OCTETS = 4000  # of texts in them
_answers: dict[tuple[IP, str], SpfAnswer] = {}


async def _holds(answer: SpfAnswer, resolver: IResolver) -> bool:
    """Whether all questions behind it would be answered as they were."""
    for one in answer.lookups:
        try:
            found = await resolver.lookup(one.name, one.kind)
        except LookupFailed:
            return False
        if found is not one.found and found != one.found:
            return False
    return True


def _keep(key: tuple[IP, str], answer: SpfAnswer) -> None:
    _answers.pop(key, None)
    lookups = answer.lookups
    if answer.result == "temperror" or len(lookups) > _MOST_LOOKUPS or sum(map(_octets, lookups)) > _MOST_OCTETS:
        return
    if len(_answers) >= _MOST_ANSWERS:
        del _answers[next(iter(_answers))]
    _answers[key] = answer


def _octets(lookup: SpfLookup) -> int:
    return sum(len(one) if isinstance(one, bytes | str) else 50 for one in lookup.found.records) if lookup.found else 0


@define
class _Asking:
    """One evaluation, with what its limits count."""

    resolver: IResolver
    ip: IP
    local_part: str
    sender_domain: str
    helo: str
    receiver: str
    time: float
    terms: int = 0
    void: int = 0
    has_expanded: bool = False  # macros, so that the answer may depend on more than address, domain and DNS
    validated: list[str] | None = None  # the client's names that hold
    record: str = ""  # the one that is being read
    record_domain: str = ""
    way: list[str] = field(factory=list)  # through includes and redirects to where we are
    inside: tuple[str, ...] = ()  # the path in the include that matched last
    steps: list[SpfStep] = field(factory=list)
    lookups: list[SpfLookup] = field(factory=list)

    async def check(self, domain: str, depth: int, is_own: bool) -> SpfAnswer:
        """§4.3 to §4.7. ``is_own``: its explanation counts, as it does not in an include (§6.2)."""
        found = await self.ask(domain, "TXT", may_be_void=True)
        texts = [text for text in found.records if is_spf(text)]
        if not texts:
            return SpfAnswer("none", domain, problem=f"{domain} has no SPF record")
        self.record, self.record_domain = texts[0][:_MOST_SHOWN].decode("ascii", "replace"), domain
        if len(texts) > 1:
            raise _PermError(f"{domain} has {len(texts)} SPF records, and must have one (§4.5)")
        if len(texts[0]) > _LONGEST_RECORD:
            raise _PermError(f"the record of {domain} has {len(texts[0])} octets, and {_LONGEST_RECORD} are what anybody needs")
        try:
            record = parse_record(texts[0])
        except BadRecord as problem:
            raise _PermError(f"the record of {domain} is not valid: {problem}") from None
        for mechanism in record.mechanisms:
            self.inside = ()
            if await self.matches(mechanism, domain, depth):
                self.step(depth, domain, mechanism.text, "matches")
                result, path = _RESULTS[mechanism.qualifier], (*self.way, f"{domain}: {mechanism.text}", *self.inside)
                explanation = await self.explain(record, domain) if result == "fail" and is_own else ""
                return SpfAnswer(result, domain, explanation, "", mechanism.text, record.text[:_MOST_SHOWN], domain, path)
        if record.redirect:
            return await self.redirected(record, domain, depth, is_own)
        unmatched = "nothing in the record matches"  # §4.7
        return SpfAnswer("neutral", domain, "", unmatched, "", record.text[:_MOST_SHOWN], domain, tuple(self.way))

    async def redirected(self, record: SpfRecord, domain: str, depth: int, is_own: bool) -> SpfAnswer:
        """§6.1."""
        term = f"redirect={record.redirect}"
        self.count(term)
        try:
            target = await self.target(record.redirect, domain)
        except Unspeakable:
            target = ""
        self.step(depth, domain, term, f"goes on at {target or 'no valid domain'}")
        self.way.append(f"{domain}: {term}")
        answer = await self.check(target, depth + 1, is_own) if "." in target else None  # §4.3: one label is no domain
        if answer is None or answer.result == "none":
            self.record, self.record_domain = record.text, domain
            raise _PermError(f"{term} leads to {target or 'no valid domain'}, which has no SPF record (§6.1)")
        return answer

    async def matches(self, mechanism: Mechanism, domain: str, depth: int) -> bool:
        """§5."""
        name = mechanism.name
        if name == "all":
            return True
        if mechanism.network is not None:
            found = self.ip in mechanism.network
            if not found:
                self.step(depth, domain, mechanism.text, f"does not match: {self.ip} is not in it")
            return found
        self.count(mechanism.text)
        try:
            target = await self.target(mechanism.domain, domain) if mechanism.domain else domain
        except Unspeakable as problem:
            self.step(depth, domain, mechanism.text, f"does not match: {problem}")
            return False
        if name == "include":
            return await self.included(mechanism, target, domain, depth)
        if not target:
            self.step(depth, domain, mechanism.text, "does not match: it names no valid domain")
            return False
        matched = await _MECHANISMS[name](self, mechanism, target)
        if not matched:
            self.step(depth, domain, mechanism.text, f"does not match: {self.ip} is not among the answers")
        return matched

    async def included(self, mechanism: Mechanism, target: str, domain: str, depth: int) -> bool:
        """§5.2."""
        self.step(depth, domain, mechanism.text, f"asks {target or 'no valid domain'}")
        outer, way = (self.record, self.record_domain), self.way
        self.way = [*way, f"{domain}: {mechanism.text}"]
        answer = await self.check(target, depth + 1, False) if "." in target else None  # §4.3: one label is no domain
        self.record, self.record_domain = outer
        if answer is None or answer.result == "none":
            raise _PermError(f"{mechanism.text} names {target or 'no valid domain'}, which has no SPF record (§5.2)")
        self.way = way
        if answer.result != "pass":
            self.step(depth, domain, mechanism.text, f"does not match: {target} says {answer.result}")
            return False
        self.inside = answer.path[len(way) + 1 :]
        return True

    async def has_address(self, mechanism: Mechanism, target: str) -> bool:
        """§5.3."""
        return self.is_among(await self.addresses(target), mechanism)

    async def has_mx(self, mechanism: Mechanism, target: str) -> bool:
        """§5.4."""
        found = await self.ask(target, "MX")
        if len(found.records) > _MOST_NAMES:
            raise _PermError(f"{mechanism.text}: {target} has {len(found.records)} MX records, more than {_MOST_NAMES} (§4.6.4)")
        for _, host in sorted(found.records):
            if host and self.is_among(await self.addresses(host), mechanism):
                return True
        return False

    async def has_name(self, mechanism: Mechanism, target: str) -> bool:  # noqa: ARG002
        """§5.5."""
        target = target.lower()
        return any(name == target or name.endswith(f".{target}") for name in await self.names())

    async def is_there(self, mechanism: Mechanism, target: str) -> bool:  # noqa: ARG002
        """§5.7: always A, whatever the client's address is."""
        return bool((await self.ask(target, "A")).records)

    def is_among(self, addresses: tuple[Any, ...], mechanism: Mechanism) -> bool:
        """Whether the client is in the network of one of them."""
        own = int(self.ip)
        others = 32 - mechanism.prefix4 if isinstance(self.ip, IPv4Address) else 128 - mechanism.prefix6
        return any((own ^ int(one)) >> others == 0 for one in addresses)

    async def addresses(self, name: str) -> tuple[Any, ...]:
        return (await self.ask(name, "A" if isinstance(self.ip, IPv4Address) else "AAAA")).records

    async def names(self) -> list[str]:
        """The client's own names that lead back to its address, ten at most (§5.5)."""
        if self.validated is None:
            self.validated = []
            try:
                found = await self.ask(reverse_name(self.ip), "PTR")
            except _TempError:  # §5.5: the mechanism then does not match
                return self.validated
            for name in found.records[:_MOST_NAMES]:
                try:
                    if self.ip in await self.addresses(name):
                        self.validated.append(name.lower().removesuffix("."))
                except _TempError:
                    continue
        return self.validated

    # ── Names and macros ──

    async def target(self, spec: str, domain: str) -> str:
        """A domain-spec as a name, or "" where it is none (§4.8). Raises Unspeakable."""
        text = await expand(parse_macros(spec), self.values(domain)) if "%" in spec else spec
        text = text.removesuffix(".")
        if len(text) > 253:  # §7.3: labels are taken off from the left
            text = text[text.find(".", len(text) - 254) + 1 :]
        labels = text.split(".")
        return text if text.isascii() and len(text) <= 253 and all(0 < len(label) < 64 for label in labels) else ""

    def values(self, domain: str, in_explanation: bool = False) -> dict[str, str | Callable[[], Awaitable[str]]]:
        """§7.2."""
        self.has_expanded = True
        local_part = self.local_part
        known: dict[str, str | Callable[[], Awaitable[str]]] = {
            "s": f"{local_part}@{self.sender_domain}",
            "l": local_part,
            "o": self.sender_domain,
            "d": domain,
            "i": in_reverse(self.ip),
            "p": lambda: self.own_name(domain),
            "v": "in-addr" if isinstance(self.ip, IPv4Address) else "ip6",
            "h": self.helo,
            "c": str(self.ip),
            "r": self.receiver,
            "t": str(int(self.time)),
        }
        if not local_part.isascii() and not in_explanation:
            known["s"] = known["l"] = _unspeakable
        return known

    async def own_name(self, domain: str) -> str:
        """``%{p}``: the domain itself, or a name below it, or any (§7.3)."""
        names = await self.names()
        below = [name for name in names if name.endswith(f".{domain.lower()}")]
        if domain.lower() in names:
            return domain.lower()
        return (below or names or ["unknown"])[0]

    async def explain(self, record: SpfRecord, domain: str) -> str:
        """§6.2: where anything is wrong with it, there is none."""
        if not record.exp:
            return ""
        try:
            target = await self.target(record.exp, domain)
            found = await self.ask(target, "TXT", may_be_void=True) if target else Answer(())
            if len(found.records) != 1:
                return ""
            text = await expand(parse_macros(found.records[0].decode("ascii"), True), self.values(domain, True))
        except (BadRecord, Unspeakable, _TempError, _PermError, UnicodeDecodeError):
            return ""
        return _NOT_PLAIN.sub("?", text)[:_MOST_EXPLANATION]

    # ── Questions and their limits ──

    def count(self, term: str) -> None:
        self.terms += 1
        if self.terms > _MOST_TERMS:
            raise _PermError(f"{term} is more than the {_MOST_TERMS} terms that may ask the DNS (§4.6.4)")

    async def ask(self, name: str, kind: str, may_be_void: bool = False) -> Answer:
        try:
            answer = await self.resolver.lookup(name, kind)
        except LookupFailed as problem:
            self.lookups.append(SpfLookup(name, kind, None, str(problem)))
            raise _TempError(f"{kind} {name}: {problem}") from None
        self.lookups.append(SpfLookup(name, kind, answer))
        if not answer.records and not may_be_void:
            self.void += 1
            if self.void > _MOST_VOID:
                raise _PermError(f"{kind} {name} is one of more than {_MOST_VOID} questions that had no answer (§4.6.4)")
        return answer

    def step(self, depth: int, domain: str, term: str, outcome: str) -> None:
        self.steps.append(SpfStep(depth, domain, term, outcome))


_MECHANISMS: Mapping[str, Callable[[_Asking, Mechanism, str], Awaitable[bool]]] = {
    "a": _Asking.has_address,
    "mx": _Asking.has_mx,
    "ptr": _Asking.has_name,
    "exists": _Asking.is_there,
}


async def _unspeakable() -> str:
    raise Unspeakable("the local-part is not ASCII (RFC 8616 §4)")


def reverse_name(ip: IP) -> str:
    """The name that has the PTR records of an address."""
    return ip.reverse_pointer


def _a_label(domain: str) -> str:
    """The domain in A-labels (RFC 8616 §4). Raises ValueError where it is no domain that could have a record (§4.3)."""
    name = domain.removesuffix(".").lower()
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode()
        except (idna.IDNAError, UnicodeError):
            raise ValueError(f'"{domain}" is no domain') from None
    labels = name.split(".")
    if len(labels) < 2 or len(name) > 253 or not all(0 < len(label) < 64 for label in labels) or _NO_NAME.search(name):
        raise ValueError(f'"{domain}" is no domain that could have an SPF record (§4.3)')
    return name


def _speakable(domain: str) -> str:
    """A name for macros: in A-labels where it can be (RFC 8616 §4), else as it is."""
    if domain.isascii():
        return domain
    try:
        return _a_label(domain)
    except ValueError:
        return domain


def _readable(record: Any) -> str:
    if isinstance(record, bytes):
        return record.decode("ascii", "replace")
    if isinstance(record, tuple):
        return f"{record[0]} {record[1]}"
    return str(record)
