"""The queue of one process: the part that it owns, and the parts of others that it looks after for a while.

A part is a store in a folder with a dispatcher of its own. Only the process's own part takes new mail.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from random import SystemRandom
from time import sleep
from typing import Any

from attrs import Factory, define, field, frozen
from twisted.internet.defer import Deferred, DeferredList

from mailgw.assemble import Parts
from mailgw.config.model import Server
from mailgw.journal import Journal
from mailgw.queue.dispatcher import Dispatcher
from mailgw.safekeeping import condition_of, open_store
from mailgw.storage.folder import FolderInUse
from mailgw.storage.parts import base_of, folder_of, has_mail, parts_in
from mailgw.storage.sqlite import SqliteStore

__all__ = ["Part", "Post", "Queue", "left_over", "share"]

_PAUSE = 0.1  # seconds between two attempts at a part that is in use
_GATHER = 0.01  # seconds of outcomes that are written together: a tenth less CPU for each message, measured


@frozen
class Post:
    """Where a worker stands, one of several processes of a gateway: its number, which is that of its part of the queue."""

    number: int
    sockets: Mapping[str, int]  # descriptors of the listening sockets that it got from its parent, by `socket_name`
    crowd: int  # the descriptor of what all of them know of each other, see `mailgw.sharing.Crowd`
    is_orphaned: Callable[[], bool]  # whether its parent is gone


@frozen(eq=False)
class Part:
    """One part of the queue at work."""

    number: int
    folder: Path
    store: SqliteStore
    dispatcher: Dispatcher

    def condition(self) -> Mapping[str, Any]:
        """For `mailgw status`."""
        return {"store": condition_of(self.store, self.folder), "dispatcher": self.dispatcher.status()}

    async def close(self, seconds: float) -> None:
        """Give running deliveries so many seconds to end, write everything down, and give the folder back."""
        await self.dispatcher.stop(seconds)
        await self.store.close()


@define(eq=False)
class Queue:
    """The parts that this process looks after, by number."""

    server: Server
    parts: Parts
    journal: Journal
    identity: Any  # provides IIdentity
    reactor: Any
    own: int = 1  # the number of the part that is its own
    connections: Mapping[str, int] = field(default=Factory(lambda self: self.parts.connections, takes_self=True), init=False)
    open: dict[int, Part] = field(factory=dict, init=False)
    _divided: int = field(default=1, init=False)  # into so many parts

    def __iter__(self) -> Iterator[Part]:
        return iter(self.open.values())

    def take(self, number: int) -> Part:
        """Open a part; it does not deliver before its dispatcher is started. Raises StoreUnavailable."""
        if number in self.open:
            return self.open[number]
        folder = folder_of(self.server.state, number)
        store = open_store(folder, self.server, self.reactor, self.journal, base_of(number))
        dispatcher = Dispatcher(
            store=store,
            routing=self.parts.routing,
            gateways=self.parts.gateways,
            schedules=self.parts.schedules,
            connections=self.connections,
            journal=self.journal,
            clock=self.reactor,
            identity=self.identity,
            randomness=SystemRandom(),
            gather=_GATHER,
        )
        part = self.open[number] = Part(number, folder, store, dispatcher)
        return part

    def take_own(self, patience: float, is_in_vain: Callable[[], bool] = lambda: False) -> Part:
        """Open the part that is our own; ``patience``: seconds for who had it before and is closing it. Raises StoreUnavailable."""
        for _ in range(int(patience / _PAUSE)):
            try:
                return self.take(self.own)
            except FolderInUse:
                if is_in_vain():
                    break
                sleep(_PAUSE)  # nobody is served yet
        return self.take(self.own)

    def divide(self, parts: int) -> None:
        """So many parts deliver, here and in other processes: each gets its share of the connections to a next hop."""
        self._divided = parts
        self.connections = share(self.parts.connections, parts)

    def reconfigure(self, parts: Parts) -> None:
        """Deliver with other routes and gateways from now on."""
        self.parts = parts
        self.divide(self._divided)
        for part in self:
            part.dispatcher.reconfigure(
                routing=parts.routing, gateways=parts.gateways, schedules=parts.schedules, connections=self.connections
            )

    async def give(self, number: int, seconds: float) -> None:
        """Give back a part that belongs to somebody else; see `Part.close`."""
        if number == self.own or number not in self.open:
            return
        await self.open.pop(number).close(seconds)

    async def stop(self, seconds: float) -> None:
        """Stop all deliveries: see `Dispatcher.stop`."""
        await DeferredList([Deferred.fromCoroutine(part.dispatcher.stop(seconds)) for part in self])

    async def close(self) -> None:
        """Close all stores."""
        for part in self:
            await part.store.close()

    def leased(self) -> int:
        """How many recipients are being delivered at this moment."""
        return sum(part.store.leased() for part in self)


def left_over(server: Server) -> list[int]:
    """The parts with mail in them whose workers are no more, because there are fewer today. Raises OSError."""
    return [number for number in parts_in(server.state) if number > server.processes and has_mail(server.state, number)]


def share(connections: Mapping[str, int], parts: int) -> dict[str, int]:
    """Each gateway's connections to a next hop, divided by the number of parts that deliver, rounded up."""
    return {name: -(-number // parts) for name, number in connections.items()}
