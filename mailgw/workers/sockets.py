"""The listening sockets of all listeners: the parent binds and keeps them, and only workers read from them."""

from collections.abc import Sequence
from typing import Any

from attrs import define

from mailgw.journal import Journal
from mailgw.listening import Binder, Open, bind, socket_name

__all__ = ["Sockets", "by_name", "close"]


@define(eq=False)
class Sockets:
    """Those that are bound; the connections that arrive there are left to the workers."""

    opened: Sequence[Open]
    reactor: Any

    def bind(self, patience: float) -> None:
        """Bind all; ``patience``: seconds for ports that others still have. Raises CannotBind."""
        bind((), self.opened, Binder(self.reactor, patience), self.reactor, Journal())
        _leave_to_workers(self.opened)

    def bind_also(self, opened: Sequence[Open]) -> None:
        """Bind what ``opened`` has more than is there. Raises CannotBind; nothing is changed then. Then `keep` or `drop` them."""
        bind(self.opened, opened, Binder(self.reactor), self.reactor, Journal())
        _leave_to_workers(opened)

    async def keep(self, opened: Sequence[Open]) -> None:
        """Go on with these, and close the others."""
        before, self.opened = self.opened, opened
        await _close_others(before, opened)

    async def drop(self, opened: Sequence[Open]) -> None:
        """Close what was bound for these."""
        await _close_others(opened, self.opened)

    async def close(self) -> None:
        """Close all."""
        await _close_others(self.opened, ())


def by_name(opened: Sequence[Open]) -> dict[str, int]:
    """Their descriptors, by `socket_name`."""
    return {
        socket_name(one.listener, text): port.fileno()
        for one in opened
        for text, port in zip(one.listener.endpoint, one.ports, strict=True)
    }


async def close(port: Any) -> None:
    """Stop listening."""
    closing = port.stopListening()
    if closing is not None:
        await closing


async def _close_others(opened: Sequence[Open], staying: Sequence[Open]) -> None:
    known = {id(port) for one in staying for port in one.ports}
    for port in [port for one in opened for port in one.ports if id(port) not in known]:
        await close(port)


def _leave_to_workers(opened: Sequence[Open]) -> None:
    for port in [port for one in opened for port in one.ports]:
        port.stopReading()
        port._shouldShutdown = False  # at the end: shutdown(2) would reach the workers' descriptors, too
