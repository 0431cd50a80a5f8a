"""Calling out: asking another mail server about an address, and remembering what it said."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from mailgw.interfaces import IAskableGateway, IGateways, IMemory, LookupFailed
from mailgw.values.address import Address
from mailgw.values.delivery import Fate, Outcome

__all__ = ["CallOut", "Said", "cannot_ask"]

_MOST_REPLY = 500  # characters that are remembered


@frozen
class Said:
    """What is known about an address."""

    known: bool | None  # None: nobody could say
    reply: str  # of the server, for us and not for the peer
    source: str  # "mx.example.net (192.0.2.1), gateway internet"; remembered: "memory, of mx.example.net ..."


@define(eq=False)
class CallOut:
    """Asks through a gateway; one question at a time about each address, whoever wants to know."""

    name: str  # what its keys in the memory begin with
    gateways: IGateways
    memory: IMemory
    keep_known: float  # seconds
    keep_unknown: float  # seconds
    _under_way: dict[str, list[Deferred[Said]]] = field(factory=dict, init=False)

    async def recall(self, gateway: str, address: Address, next_hop: str = "") -> Said | None:
        """What is remembered. Raises MemoryUnavailable."""
        text = await self.memory.recall(self._key(gateway, address, next_hop))
        if text is None:
            return None
        verdict, peer, reply = text.split("\n", 2)
        return Said(verdict == "known", reply, f"memory, of {peer}")

    async def ask(self, gateway: str, address: Address, next_hop: str = "") -> Said:
        """Ask the server. What is certain is remembered. Raises MemoryUnavailable, LookupFailed."""
        key = self._key(gateway, address, next_hop)
        others = self._under_way.get(key)
        if others is not None:
            waiting: Deferred[Said] = Deferred()
            others.append(waiting)
            return await waiting
        self._under_way[key] = others = []
        said: Said | None = None
        try:
            said = await self._ask(gateway, address, next_hop, key)
            return said
        finally:
            del self._under_way[key]
            for waiting in [one for one in others if not one.called]:
                if said is None:
                    waiting.errback(LookupFailed("who asked before could not be answered"))
                else:
                    waiting.callback(said)

    async def _ask(self, gateway: str, address: Address, next_hop: str, key: str) -> Said:
        asked: Any = self.gateways[gateway]
        outcome: Outcome = await asked.ask(address, next_hop)
        by = f"gateway {gateway}"
        reply, peer = str(outcome.reply)[:_MOST_REPLY], f"{outcome.peer}, {by}" if outcome.peer else by
        known = {Fate.DELIVERED: True, Fate.NEVER: False}.get(outcome.fate)
        if known is not None:
            verdict = "known" if known else "unknown"
            await self.memory.remember(key, f"{verdict}\n{peer}\n{reply}", self.keep_known if known else self.keep_unknown)
        return Said(known, reply, peer)

    def _key(self, gateway: str, address: Address, next_hop: str) -> str:
        # Who reads the memory learns no addresses, and every key is short enough.
        return f"{self.name}:{blake2b(f'{gateway} {next_hop} {address}'.encode(), digest_size=16).hexdigest()}"


def cannot_ask(gateways: IGateways, name: str) -> str:
    """Why a gateway cannot be asked; empty: it can."""
    known: Mapping[str, Any] = gateways  # type: ignore[assignment]  # it is one as far as this goes
    try:
        return "" if IAskableGateway.providedBy(known[name]) else f"gateway {name} is not of a kind that can ask"
    except KeyError:
        return f"there is no gateway {name}"
