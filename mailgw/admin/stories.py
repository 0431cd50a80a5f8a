"""Finding decision records again: by reference, queue number, session or address, by filters, or as they come."""

import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from attrs import field, frozen

from mailgw.observe.records import pseudonym, record_files, redacted
from mailgw.values.address import Address, BadAddress, parse_domain

__all__ = ["Filter", "Stories", "Story"]

_NUMBER = re.compile(r"[0-9]{1,19}\Z")
_REFERENCE = re.compile(r"\[?(?:ref )?([0-9A-Z]{5})\]?\Z", re.IGNORECASE)
_POLL = 0.3  # seconds between two looks at files that grow

Entry = dict[str, Any]


@frozen
class Story:
    """A transaction, or what was refused before one, with all that followed."""

    record: Entry
    later: Sequence[Entry] = ()  # deliveries, in their order


@frozen(kw_only=True)
class Filter:
    """What a record must have, all of it."""

    address: str = ""  # sender or recipient, or ``@domain``
    client: str = ""  # IP address, login or HELO name
    verdict: str = ""  # its event, or the verdict of one that was asked
    policy: str = ""  # it was asked, or refused
    since: float = 0.0  # POSIX seconds
    until: float = float("inf")

    def needles(self) -> list[bytes]:
        """Octets that a matching line has: so that other lines need not be read as JSON."""
        return [text.encode() for text in (self.client, self.verdict, self.policy) if text and text.isascii() and text.isalnum()]

    def takes(self, entry: Entry, key: bytes) -> bool:
        """Whether it matches; ``key`` is that of redacted records, or empty."""
        if not self.since <= entry["time"] <= self.until:
            return False
        asked = entry.get("asked", ())
        if self.policy and self.policy != entry.get("by") and all(one["policy"] != self.policy for one in asked):
            return False
        if self.verdict and self.verdict != entry["event"] and all(one["verdict"] != self.verdict for one in asked):
            return False
        client = entry.get("client", {})
        if self.client and not _names_of(self.client, key) & {client.get("ip"), client.get("login"), client.get("helo")}:
            return False
        return not self.address or is_about(entry, self.address, key)


def is_about(entry: Entry, address: str, key: bytes) -> bool:
    """Whether an address, or with ``@domain`` one of its domain, is in a record or delivery."""
    wanted = _folded(_spelled(address))
    if key and not wanted.startswith("@") and "@" in wanted:
        local_part, _, domain = wanted.rpartition("@")
        wanted = f"{pseudonym(local_part, key)}@{domain}"
    known = [entry[name] for name in ("sender", "recipient") if name in entry]
    known += [one["address"] for one in entry.get("recipients", ())]
    if wanted.startswith("@"):
        return any(_folded(one).endswith(wanted) for one in known)
    return any(_folded(one) == wanted for one in known)


@lru_cache
def _spelled(address: str) -> str:
    """As records have it: the domain in A-labels, quotes only where they are needed."""
    try:
        return f"@{parse_domain(address[1:])}" if address.startswith("@") else str(Address.parse(address.strip("<>")))
    except BadAddress:
        return address


@lru_cache
def _names_of(client: str, key: bytes) -> frozenset[str]:
    """How records may name a client: an IP address in its one spelling, a login with a pseudonym."""
    try:
        return frozenset({str(ip_address(client))})
    except ValueError:
        return frozenset({client, redacted(client, key) if key else client})


def _folded(address: str) -> str:
    return address.strip("<>").lower()


@frozen
class Stories:
    """The records in a folder."""

    folder: Path
    key: bytes = field(init=False)

    def __attrs_post_init__(self) -> None:
        path = self.folder / "key"
        object.__setattr__(self, "key", path.read_bytes() if path.exists() else b"")

    def entries(self, *needles: bytes) -> Iterator[Entry]:
        """All that has these octets in its line, oldest file first."""
        for path in record_files(self.folder):
            try:
                yield from _lines(path.read_bytes(), needles)
            except FileNotFoundError:  # swept meanwhile
                continue

    def about(self, what: str) -> list[Story]:
        """The stories of a reference, queue number, session or address, oldest first; empty if nothing is known."""
        return sorted(self._about(what), key=lambda story: float(story.record["time"]))

    def _about(self, what: str) -> list[Story]:
        match = _REFERENCE.match(what)
        if match:
            ref = match[1].upper()
            found = [one for one in self.entries(f'"{ref}"'.encode()) if one.get("ref") == ref]
            if found:
                return self._with_later(found)
        if _NUMBER.match(what):
            number = int(what)
            found = [one for one in self.entries(f'"message":{number}'.encode()) if one.get("message") == number]
            told = [one for one in found if "client" in one]
            later = _in_order(one for one in found if "client" not in one)
            return [Story(told[0] if told else later[0], later)] if found else []
        if "@" in what or what == "<>":
            wanted = Filter(address=what)
            return self._with_later([one for one in self.entries() if "client" in one and wanted.takes(one, self.key)])
        session = what.upper()
        return self._with_later([one for one in self.entries(f'"session":"{session}"'.encode()) if "client" in one])

    def _with_later(self, records: Sequence[Entry]) -> list[Story]:
        """The files are read once for all of them: an address may have thousands."""
        later: dict[int, list[Entry]] = {one["message"]: [] for one in records if "message" in one}
        if later:
            number = f"{next(iter(later))}," if len(later) == 1 else ""
            for one in self.entries(f'"message":{number}'.encode()):
                if "client" not in one and one["message"] in later:
                    later[one["message"]].append(one)
        return [Story(one, _in_order(later.get(one.get("message", 0), ()))) for one in records]

    def matching(self, wanted: Filter) -> Iterator[Entry]:
        """All records and deliveries that the filter takes, in the order of time."""
        found = [one for one in self.entries(*wanted.needles()) if wanted.takes(one, self.key)]
        yield from _in_order(found)

    def follow(self, wanted: Filter, wait: Callable[[float], object] = time.sleep) -> Iterator[Entry]:
        """What is written from now on, as it comes, without an end."""
        places: dict[Path, int] = {}
        for path in record_files(self.folder):
            with suppress(FileNotFoundError):  # swept meanwhile
                places[path] = path.stat().st_size
        while True:
            for path in record_files(self.folder):
                try:
                    with path.open("rb") as file:
                        file.seek(places.get(path, 0))
                        data = file.read()
                except FileNotFoundError:
                    continue
                whole = data[: data.rfind(b"\n") + 1]
                places[path] = places.get(path, 0) + len(whole)
                yield from (one for one in _lines(whole, ()) if wanted.takes(one, self.key))
            wait(_POLL)


def _in_order(entries: Iterable[Entry]) -> list[Entry]:
    """By time: each process has files of its own, and one follows another in the same hour."""
    return sorted(entries, key=lambda one: float(one["time"]))


def _lines(data: bytes, needles: Sequence[bytes]) -> Iterator[Entry]:
    if not needles:
        yield from (entry for line in data.splitlines() if (entry := _entry(line)) is not None)
        return
    first, *rest = needles
    at = data.find(first)
    while at >= 0:
        begin, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
        line = data[begin : end if end >= 0 else len(data)]
        if all(needle in line for needle in rest) and (entry := _entry(line)) is not None:
            yield entry
        at = data.find(first, end) if end >= 0 else -1


def _entry(line: bytes) -> Entry | None:
    try:
        entry = json.loads(line)
    except ValueError:  # cut off when the disk was full, or the machine died
        return None
    return entry if isinstance(entry, dict) and "time" in entry and "event" in entry else None
