"""The operation that brings the mail of a damaged queue into the present one."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from mailgw.admin.reading import Refusal
from mailgw.interfaces import IQueueStore, StoreUnavailable
from mailgw.storage.recovery import Recovered, Recovery, Unreadable

__all__ = ["Recovering"]

_AT_ONCE = 50  # messages, so that an answer comes soon and mail need not wait long


@define(eq=False)
class Recovering:
    """Knows how far each damaged folder is read. ``folder`` is the state folder, ``aside`` calls something in a thread."""

    store: Any  # provides IQueueStore
    folder: Path
    aside: Callable[[Callable[[], Any]], Awaitable[Any]]
    _open: dict[Path, Recovery] = field(factory=dict, init=False)

    async def some(self, name: str) -> dict[str, Any]:
        """Queue the next messages of a damaged folder, named as in ``set_aside`` of the status, or by its whole path.

        The answer is ``{"recovered": 50, "unreadable": [{"message": 7, "why": "..."}], "left": 1200}``; ask until nothing is left.
        What was recovered or could not be read is not tried again. Raises Refusal.
        """
        path = self.folder / name
        try:
            recovery = self._open.get(path) or await self.aside(lambda: Recovery(path))
            self._open[path] = recovery
            answer = await self._some(recovery)
            if not recovery.left:
                del self._open[path]
                await self.aside(recovery.close)
        except StoreUnavailable as problem:
            raise Refusal("unavailable", f"{path} cannot be recovered: {problem}") from problem
        except OSError as problem:
            raise Refusal("unavailable", f"{path} cannot be recovered: {problem}") from problem
        return answer

    async def _some(self, recovery: Recovery) -> dict[str, Any]:
        recovered, unreadable = 0, []
        for message in recovery.left[:_AT_ONCE]:
            try:
                found: Recovered = await self.aside(lambda message=message: recovery.read(message))  # type: ignore[misc]
            except Unreadable as problem:
                unreadable.append({"message": message, "why": str(problem)})
            else:
                recovered += await self._put(found)
            recovery.mark(message)
        return {"recovered": recovered, "unreadable": unreadable, "left": len(recovery.left)}

    async def _put(self, found: Recovered) -> bool:
        store: IQueueStore = self.store
        content = found.content
        if found.waiting:
            put = await store.put(found.envelope, content, found.waiting)
            content = put.parcels[0].content  # a file has another name now
            await store.release(put.parcels)  # the dispatcher finds them in the store
        if found.held:
            await store.put(found.envelope, content, found.held, found.reason or "held before the queue was damaged")
        return bool(found.waiting or found.held)
