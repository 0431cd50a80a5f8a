"""What policies remember, in plain dictionaries: for a gateway of one process, for tests and plugin authors.

It forgets everything with the process. Each name of keys has a heap of what ends when, so that no question ever waits for a sweep.
"""

from collections.abc import Mapping
from heapq import heapify, heappop, heappush
from math import inf

from attrs import define, field
from zope.interface import implementer

from mailgw.interfaces import IClock, IMemory, MemoryUnavailable
from mailgw.storage.memory_rules import check, name_of, poured
from mailgw.values.quantities import Rate

__all__ = ["InProcessMemory"]

_COUNTERS, _BUCKETS, _TIMES, _TEXTS = range(4)
_TIDIED = 4  # rows that have ended are dropped for each new one of the same name
_STALE = 64  # entries of a heap that may be there for nothing


@define
class _Row:
    ends: float  # POSIX seconds
    number: float = 0.0
    since: float = 0.0  # POSIX seconds
    text: str = ""
    listed: float = inf  # as it stands in the heap of its name: never later than ``ends``


@define
class _Shelf:
    """The rows of one name."""

    count: int = 0
    soonest: list[tuple[float, int, str]] = field(factory=list)  # a heap: when, kind, key; also of what is gone since


@implementer(IMemory)
@define
class InProcessMemory:
    """The contract of `IMemory` without a disk: ``InProcessMemory(at("2026-01-05T10:00+00:00"))``. Every method finishes at once.

    ``room`` bounds the number of keys. Set ``trouble`` to an exception and every method raises it, having changed nothing,
    until it is None again.
    """

    clock: IClock
    room: int = 100_000
    trouble: MemoryUnavailable | None = None
    _rows: tuple[dict[str, _Row], ...] = field(factory=lambda: ({}, {}, {}, {}), init=False)  # by kind
    _shelves: dict[str, _Shelf] = field(factory=dict, init=False)  # by name

    def open(self) -> None:
        """Nothing to open; a gateway calls it before it asks."""

    async def close(self) -> None:
        """Nothing to close."""

    async def count(self, key: str, amount: int, lifetime: float) -> int:
        """See `IMemory`."""
        check(key, amount=amount, lifetime=lifetime)
        now = self._now()
        row = self._live(_COUNTERS, key, now)
        if row is None:
            if not amount:
                return 0
            row = self._keep(_COUNTERS, key, _Row(now + lifetime), now)
        row.number += amount
        return int(row.number)

    async def take(self, key: str, amount: int, rate: Rate, burst: int) -> float:
        """See `IMemory`."""
        check(key, amount=amount, burst=burst)
        now = self._now()
        row = self._live(_BUCKETS, key, now) or _Row(now, burst, now)
        wait, row.number, full_in = poured(row.number, row.since, now, amount, rate, burst)
        row.since, row.ends = now, now + full_in
        self._keep(_BUCKETS, key, row, now)
        return wait

    async def first_seen(self, key: str, lifetime: float) -> float:
        """See `IMemory`."""
        check(key, lifetime=lifetime)
        now = self._now()
        row = self._live(_TIMES, key, now)
        if row is None:
            row = self._keep(_TIMES, key, _Row(now + lifetime, since=now), now)
        row.ends = max(row.ends, now + lifetime)
        row.since = min(row.since, now)  # the clock may have been set back
        return row.since

    async def remember(self, key: str, value: str, lifetime: float) -> None:
        """See `IMemory`."""
        check(key, lifetime=lifetime, text=value)
        now = self._now()
        self._keep(_TEXTS, key, _Row(now + lifetime, text=value), now)

    async def recall(self, key: str) -> str | None:
        """See `IMemory`."""
        check(key)
        row = self._live(_TEXTS, key, self._now())
        return row.text if row else None

    async def find(self, prefix: str, limit: int) -> Mapping[str, str]:
        """See `IMemory`."""
        check(prefix)
        now = self._now()
        texts = self._rows[_TEXTS]
        found = sorted(key for key, row in texts.items() if key.startswith(prefix) and row.ends > now)
        return {key: texts[key].text for key in found[: max(0, limit)]}

    async def forget(self, key: str) -> None:
        """See `IMemory`."""
        check(key)
        self._now()
        for kind in range(len(self._rows)):
            self._remove(kind, key)

    # ── What lives, and who must forget ──

    def _now(self) -> float:
        if self.trouble is not None:
            raise self.trouble
        return self.clock.now().timestamp()

    def _live(self, kind: int, key: str, now: float) -> _Row | None:
        row = self._rows[kind].get(key)
        return row if row is not None and row.ends > now else None

    def _keep(self, kind: int, key: str, row: _Row, now: float) -> _Row:
        """Put a row in its place, new or changed, and see to it that there is room."""
        rows = self._rows[kind]
        old = rows.get(key)
        if old is not row:
            rows[key] = row
            if old is not None:
                row.listed = old.listed
        if row.ends < row.listed:
            name = name_of(key)
            shelf = self._shelves.setdefault(name, _Shelf())
            shelf.count += old is None
            self._list(shelf, kind, key, row)
            for _ in range(_TIDIED):
                if not self._drop(name, until=now):
                    break
            self._make_room(name, row, now)
        return row

    def _list(self, shelf: "_Shelf", kind: int, key: str, row: _Row) -> None:
        row.listed = row.ends
        heappush(shelf.soonest, (row.ends, kind, key))
        if len(shelf.soonest) > 2 * shelf.count + _STALE:
            # Most are of what was forgotten, or renewed, meanwhile.
            shelf.soonest = list({one for one in shelf.soonest if self._is_listed(one)})
            heapify(shelf.soonest)

    def _is_listed(self, one: tuple[float, int, str]) -> bool:
        row = self._rows[one[1]].get(one[2])
        return row is not None and row.listed == one[0]

    def _make_room(self, mine: str, new: _Row, now: float) -> None:
        while sum(map(len, self._rows)) > self.room:
            if any(self._drop(name, until=now) for name in list(self._shelves)):
                continue
            # What is remembered now is not what is forgotten for it.
            others = {name: shelf.count for name, shelf in self._shelves.items() if shelf.count > (name == mine)}
            if not others:
                break
            self._drop(max(others, key=others.__getitem__), spare=new)

    def _drop(self, name: str, until: float = inf, spare: _Row | None = None) -> bool:
        """Forget of this name's rows the one that ends first, if it does by then (POSIX seconds), but not ``spare``."""
        shelf, spared = self._shelves.get(name), None
        dropped = False
        while shelf is not None and shelf.soonest and shelf.soonest[0][0] <= until and not dropped:
            one = ends, kind, key = heappop(shelf.soonest)
            row = self._rows[kind].get(key)
            if row is None or row.listed != ends:
                continue
            if row is spare:
                spared = one
            elif row.ends > ends:
                self._list(shelf, kind, key, row)
            else:
                self._remove(kind, key)
                dropped = True
        if shelf is not None and spared is not None:
            heappush(shelf.soonest, spared)
        return dropped

    def _remove(self, kind: int, key: str) -> None:
        if self._rows[kind].pop(key, None) is not None:
            name = name_of(key)
            self._shelves[name].count -= 1
            if not self._shelves[name].count:
                del self._shelves[name]
