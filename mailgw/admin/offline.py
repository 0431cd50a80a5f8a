"""What can be answered while no daemon runs: from the store's folder and from the configuration, without a reactor."""

from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.admin.reading import Reading, Refusal
from mailgw.admin.selecting import BadRequest
from mailgw.admin.signpost import Signpost
from mailgw.admin.still_house import still_house
from mailgw.admin.together import Together
from mailgw.assemble import load
from mailgw.endings import Ending
from mailgw.interfaces import IQueueDesk, StoreUnavailable
from mailgw.storage.desk import Desk, read_only_desk
from mailgw.storage.parts import folder_of, part_of, parts_in
from mailgw.values.content import Content
from mailgw.values.delivery import Destination
from mailgw.values.ledger import Entry, Order, Selection

__all__ = ["PlanReader", "StoreReader"]


@implementer(IQueueDesk)
class _LoneDesk:
    """A store's reading side with the methods of a daemon's desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def find(self, selection: Selection) -> Sequence[Entry]:
        return self._desk.find(selection)

    async def content(self, message: int) -> Content | None:
        return self._desk.content(message)

    async def stats(self) -> Mapping[Destination, Mapping[str, int]]:
        return self._desk.stats()

    async def tell(self, selection: Selection, order: Order, reason: str = "") -> int:  # noqa: ARG002
        raise StoreUnavailable("only a running daemon carries out orders")


class StoreReader:
    """The reading operations on a folder; a context manager. Making it raises Refusal where there is no queue.

    ``now``: what selections by age are counted from, in POSIX seconds.
    """

    def __init__(self, folder: Path, now: float) -> None:
        self._desks: dict[int, Desk] = {}
        unreadable: dict[int, Refusal] = {}
        try:
            parts = parts_in(folder) or [1]
        except OSError as problem:
            raise Refusal("unavailable", f"{folder}: {problem.strerror}") from problem
        for part in parts:
            where = folder_of(folder, part)
            try:
                self._desks[part] = read_only_desk(where)
            except StoreUnavailable as problem:
                unreadable[part] = Refusal("unavailable", str(problem))
            except OSError as problem:
                unreadable[part] = Refusal("unavailable", f"{where}: {problem.strerror}")
        if not self._desks:
            raise next(iter(unreadable.values()))
        clock = Clock()
        clock.advance(now)
        readings = {part: Reading(desk=_LoneDesk(desk), clock=clock) for part, desk in self._desks.items()}
        self._reading = Together(members=lambda: readings, part_of=part_of, unattended=lambda: list(unreadable))

    def __enter__(self) -> "StoreReader":
        return self

    def __exit__(self, *problem: object) -> None:
        for desk in self._desks.values():
            desk.close()

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """As `mailgw.admin.client.Daemon.ask`, for the reading operations. Raises Refusal."""
        return _finished(self._reading.perform(operation, arguments))


class PlanReader:
    """The question for a route, asked of a configuration; a context manager. Making it raises BadConfiguration."""

    def __init__(self, path: Path) -> None:
        configuration, _, parts = load(path, still_house)
        self._signpost = Signpost(parts.routing, parts.rules, {name: listener.smtp_kind for name, listener in configuration.listen.items()})

    def __enter__(self) -> "PlanReader":
        return self

    def __exit__(self, *problem: object) -> None:
        """Nothing is open."""

    def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """As `mailgw.admin.client.Daemon.ask`, for the operation "route". Raises Refusal."""
        if operation != "route":
            raise Refusal("bad-request", f"a configuration alone has no {operation}")
        try:
            return _finished(self._signpost.ask(Clock(), **arguments))
        except BadRequest as problem:
            raise Refusal("bad-request", str(problem)) from problem
        except Refusal:
            raise
        except Exception as problem:
            if isinstance(problem, Ending) and isinstance(problem.raised, KeyboardInterrupt):  # Ctrl-C while a plugin was at work
                raise problem.raised from None
            raise Refusal("fault", f"a route failed: {problem!r}") from problem


def _finished(work: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """What a coroutine gives that waits for nothing. Raises what it raises, and Refusal where it would need a running daemon."""
    outcome: list[Any] = []
    deferred = Deferred.fromCoroutine(work)
    deferred.addBoth(outcome.append)
    if not outcome:
        deferred.cancel()
        raise Refusal("unavailable", "only a running daemon can find that out")
    if isinstance(outcome[0], Failure):
        outcome[0].raiseException()
    answer: dict[str, Any] = outcome[0]
    return answer
