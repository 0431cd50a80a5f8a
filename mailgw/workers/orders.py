"""What a worker's parent can tell it to do, over the worker's admin socket: parts of others, counters, and a reload in two steps.

A reload is made ready first, in all workers; only when all of them can, it is put in place. So all have the new rules, or none.
"""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from attrs import define, field

from mailgw.admin.reading import Refusal
from mailgw.listening import CannotBind
from mailgw.problems import BadConfiguration
from mailgw.reloading import Plan
from mailgw.service import MailGateway
from mailgw.workers.transcript import text_in

__all__ = ["Orders"]

_GIVING = 5.0  # seconds that deliveries of a part may take to end before it is given back

_Answer = dict[str, Any]


@define(eq=False)
class Orders:
    """Of one worker."""

    gateway: MailGateway
    _plan: Plan | None = field(default=None, init=False)
    _sockets: dict[str, int] = field(factory=dict, init=False)  # for the plan, with which they are closed: descriptors by `socket_name`
    _held: ExitStack = field(factory=ExitStack, init=False)  # what ends with the plan

    def by_name(self) -> Mapping[str, Callable[..., Awaitable[_Answer]]]:
        """For `mailgw.desk.Desk.orders`."""
        return {
            "part_take": self._part_take,
            "part_give": self._part_give,
            "metrics": self._metrics,
            "reload_prepare": self._reload_prepare,
            "reload_keep": self._reload_keep,
            "reload_drop": self._reload_drop,
        }

    async def _part_take(self, part: int) -> _Answer:
        self.gateway.look_after(part)
        return {}

    async def _part_give(self, part: int) -> _Answer:
        await self.gateway.give_back(part, _GIVING)
        return {}

    async def _metrics(self) -> _Answer:
        return {"samples": [[list(key), value] for key, value in self.gateway.desk.counted().items()]}

    async def _reload_prepare(self, sockets: Sequence[str], descriptors: Sequence[int] = ()) -> _Answer:
        """Build everything anew; ``descriptors``: the transcript of the configuration, then all listening sockets, by name."""
        self._drop()
        if len(descriptors) != 1 + len(sockets):
            raise Refusal("bad-request", f"{len(sockets)} sockets and a transcript were announced, but {len(descriptors)} descriptors came")
        transcript, *listening = descriptors
        ours: dict[str, int] = {}
        with ExitStack() as held:
            try:
                plan = held.enter_context(self.gateway.plan(text_in(transcript)))
                held.callback(_close_all, ours)
                for name, descriptor in zip(sockets, listening, strict=True):
                    ours[name] = os.dup(descriptor)  # those that came are closed with this order
            except BadConfiguration as problem:
                raise Refusal("configuration", str(problem)) from problem
            except OSError as problem:
                raise Refusal("unavailable", f"it cannot be made ready: {problem.strerror or problem}") from problem
            self._plan, self._sockets, self._held = plan, ours, held.pop_all()
        return {}

    async def _reload_keep(self) -> _Answer:
        """Go on with what was made ready."""
        if self._plan is None:
            raise Refusal("bad-request", "nothing was made ready")
        try:
            self.gateway.adopt(self._plan, self._sockets)
        except CannotBind as problem:
            raise Refusal("configuration", str(problem)) from problem
        finally:
            self._drop()
        return {}

    async def _reload_drop(self) -> _Answer:
        """Forget it."""
        self._drop()
        return {}

    def _drop(self) -> None:
        self._plan, self._sockets = None, {}
        self._held.close()


def _close_all(sockets: dict[str, int]) -> None:
    while sockets:
        os.close(sockets.popitem()[1])
