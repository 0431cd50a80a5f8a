"""A DNS from a dict."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from attrs import frozen
from zope.interface import implementer

from mailgw.interfaces import Answer, IResolver, LookupFailed

__all__ = ["zone"]

_KINDS = ("A", "AAAA", "MX", "TXT", "PTR", "CNAME")
_MOST_ALIASES = 8

Records = Sequence[Any] | LookupFailed | type[LookupFailed]
Name = Mapping[str, Records] | LookupFailed | type[LookupFailed]


def zone(names: Mapping[str, Name]) -> IResolver:
    """Make a resolver that knows these names and no others.

    >>> resolver = zone({
    ...     "example.org": {"MX": [(10, "mx.example.org")], "A": ["192.0.2.1"], "TXT": ["v=spf1 mx -all"]},
    ...     "www.example.org": {"CNAME": ["example.org"]},
    ...     "bare.example": {},
    ...     "broken.example": LookupFailed,
    ...     "half.example": {"A": ["192.0.2.2"], "MX": LookupFailed},
    ... })

    Records are given as text (MX as pairs) and answered in the types of `Answer`. A name with no records of the kind that
    is asked for exists; so does a name below which others lie (RFC 8020). CNAMEs are followed. Raises ValueError for kinds
    that no resolver of ours knows.
    """
    known: dict[str, dict[str, Answer | LookupFailed] | LookupFailed] = {}
    for name, records in names.items():
        failed = _failure(records)
        if failed is not None:
            known[_tidy(name)] = failed
        elif isinstance(records, Mapping):
            known[_tidy(name)] = {kind: _answer(kind, of_kind) for kind, of_kind in records.items()}
        else:
            raise ValueError(f"{name}: {records!r} is neither a table of records nor LookupFailed")
    return _Zone(known)


@implementer(IResolver)
@frozen
class _Zone:
    names: dict[str, dict[str, Answer | LookupFailed] | LookupFailed]

    async def lookup(self, name: str, kind: str) -> Answer:
        if kind not in _KINDS:
            raise ValueError(f"{kind!r} is none of {', '.join(_KINDS)}")
        name = _tidy(name)
        for _ in range(_MOST_ALIASES):
            known = self.names.get(name)
            if isinstance(known, LookupFailed):
                raise known
            if known is None:
                return Answer((), name_exists=any(other.endswith(f".{name}") for other in self.names))
            answer = known.get(kind)
            if answer is None and kind != "CNAME" and "CNAME" in known:
                answer = known["CNAME"]
                if isinstance(answer, Answer):
                    name = _tidy(answer.records[0])
                    continue
            if isinstance(answer, LookupFailed):
                raise answer
            return answer or Answer(())
        raise LookupFailed(f"{name}: too many aliases")


def _tidy(name: str) -> str:
    return name.lower().removesuffix(".")


def _failure(given: object) -> LookupFailed | None:
    if isinstance(given, LookupFailed):
        return given
    return LookupFailed("no answer") if given is LookupFailed else None


def _answer(kind: str, records: Records) -> Answer | LookupFailed:
    if kind not in _KINDS:
        raise ValueError(f"{kind!r} is none of {', '.join(_KINDS)}")
    failed = _failure(records)
    if failed is not None:
        return failed
    if not isinstance(records, Sequence) or isinstance(records, (str, bytes)):
        raise ValueError(f"{kind}: {records!r} is no list of records")
    if kind == "CNAME" and len(records) != 1:
        raise ValueError("a name has one CNAME")  # RFC 2181 §10.1
    return Answer(tuple(_record(kind, record) for record in records))


def _record(kind: str, record: Any) -> Any:
    match kind:
        case "A":
            return IPv4Address(record)
        case "AAAA":
            return IPv6Address(record)
        case "MX":
            preference, host = record
            return int(preference), str(host)
        case "TXT":
            return record if isinstance(record, bytes) else str(record).encode()
        case _:  # PTR, CNAME
            return str(record)
