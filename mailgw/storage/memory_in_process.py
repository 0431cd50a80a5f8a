"""What policies remember, in plain dictionaries: for tests and plugin authors. It forgets everything with the process."""

from collections import Counter
from collections.abc import Mapping

from attrs import define, field
from zope.interface import implementer

from mailgw.interfaces import IClock, IMemory, MemoryUnavailable
from mailgw.storage.memory_rules import check, name_of, poured, surplus
from mailgw.values.quantities import Rate

__all__ = ["InProcessMemory"]


@define
class _Row:
    ends: float  # POSIX seconds
    number: float = 0.0
    since: float = 0.0  # POSIX seconds
    text: str = ""


_Rows = dict[str, _Row]


@implementer(IMemory)
@define
class InProcessMemory:
    """The contract of `IMemory` without a disk: ``InProcessMemory(at("2026-01-05T10:00+00:00"))``. Every method finishes at once.

    ``room`` bounds the number of keys, about. Set ``trouble`` to an exception and every method raises it, having changed nothing,
    until it is None again.
    """

    clock: IClock
    room: int = 100_000
    trouble: MemoryUnavailable | None = None
    _counters: _Rows = field(factory=dict, init=False)
    _buckets: _Rows = field(factory=dict, init=False)
    _times: _Rows = field(factory=dict, init=False)
    _texts: _Rows = field(factory=dict, init=False)

    async def count(self, key: str, amount: int, lifetime: float) -> int:
        """See `IMemory`."""
        check(key, amount=amount, lifetime=lifetime)
        now = self._now()
        row = self._live(self._counters, key, now)
        if row is None:
            if not amount:
                return 0
            row = self._keep(self._counters, key, _Row(now + lifetime), now)
        row.number += amount
        return int(row.number)

    async def take(self, key: str, amount: int, rate: Rate, burst: int) -> float:
        """See `IMemory`."""
        check(key, amount=amount, burst=burst)
        now = self._now()
        row = self._live(self._buckets, key, now) or _Row(now, burst, now)
        wait, row.number, full_in = poured(row.number, row.since, now, amount, rate, burst)
        row.since, row.ends = now, now + full_in
        self._keep(self._buckets, key, row, now)
        return wait

    async def first_seen(self, key: str, lifetime: float) -> float:
        """See `IMemory`."""
        check(key, lifetime=lifetime)
        now = self._now()
        row = self._live(self._times, key, now) or self._keep(self._times, key, _Row(now, since=now), now)
        row.ends = max(row.ends, now + lifetime)
        return row.since

    async def remember(self, key: str, value: str, lifetime: float) -> None:
        """See `IMemory`."""
        check(key, lifetime=lifetime, text=value)
        now = self._now()
        self._keep(self._texts, key, _Row(now + lifetime, text=value), now)

    async def recall(self, key: str) -> str | None:
        """See `IMemory`."""
        check(key)
        row = self._live(self._texts, key, self._now())
        return row.text if row else None

    async def find(self, prefix: str, limit: int) -> Mapping[str, str]:
        """See `IMemory`."""
        check(prefix)
        now = self._now()
        found = sorted(key for key, row in self._texts.items() if key.startswith(prefix) and row.ends > now)
        return {key: self._texts[key].text for key in found[: max(0, limit)]}

    async def forget(self, key: str) -> None:
        """See `IMemory`."""
        check(key)
        self._now()
        for rows in self._all:
            rows.pop(key, None)

    @property
    def _all(self) -> tuple[_Rows, ...]:
        return self._counters, self._buckets, self._times, self._texts

    def _now(self) -> float:
        if self.trouble is not None:
            raise self.trouble
        return self.clock.now().timestamp()

    def _live(self, rows: _Rows, key: str, now: float) -> _Row | None:
        row = rows.get(key)
        return row if row is not None and row.ends > now else None

    def _keep(self, rows: _Rows, key: str, row: _Row, now: float) -> _Row:
        rows[key] = row
        if sum(map(len, self._all)) > self.room:
            self._sweep(now)
            rows[key] = row  # what is remembered now is not what is forgotten for it
        return row

    def _sweep(self, now: float) -> None:
        for rows in self._all:
            for key in [key for key, row in rows.items() if row.ends <= now]:
                del rows[key]
        counts = Counter(name_of(key) for rows in self._all for key in rows)
        for name, number in surplus(counts, self.room - self.room // 50).items():
            mine = [(row.ends, key, rows) for rows in self._all for key, row in rows.items() if name_of(key) == name]
            for _, key, rows in sorted(mine, key=lambda one: one[:2])[:number]:
                del rows[key]
