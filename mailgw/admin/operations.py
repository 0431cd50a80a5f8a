"""What an operator can do, however he says it: the command line, the console and tests call the same methods."""

import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from importlib.metadata import version
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from traceback import format_exc
from typing import Any, ClassVar

from attrs import Factory, field, frozen

from mailgw.admin.guarding import Guarding
from mailgw.admin.reading import Refusal
from mailgw.admin.selecting import FIELDS, BadRequest, selection_from
from mailgw.admin.signpost import Signpost
from mailgw.interfaces import MemoryUnavailable
from mailgw.journal import Fault, Journal, Ordered
from mailgw.values.facts import ClientFacts
from mailgw.values.ledger import Order, Selection

__all__ = ["Operations"]

MOST_MESSAGES = 1000  # message numbers in one order


@frozen(kw_only=True)
class Operations(Guarding):
    """Everything an operator can do with a running daemon. ``desk`` is its store, ``clock`` its reactor.

    `perform` is the door for the socket; the methods themselves may be called as well.
    """

    offered: ClassVar[tuple[str, ...]] = (
        *Guarding.offered,
        "queue_retry",
        "queue_hold",
        "queue_release",
        "queue_drop",
        "queue_recover",
        "route",
        "sessions",
        "status",
    )

    journal: Journal
    signpost: Signpost
    wake: Callable[[], object]  # tells the dispatcher that an order changed the queue
    condition: Callable[[], Mapping[str, Any]]  # listeners, lanes, faults: plain data; "since" and "until" are times
    present: Callable[[], Sequence[ClientFacts]] = tuple  # whose sessions this process has now
    recover: Callable[[str], Awaitable[dict[str, Any]]] | None = None  # see `mailgw.admin.recovering.Recovering.some`
    started: float = field(default=Factory(lambda self: self.clock.seconds(), takes_self=True))  # POSIX seconds

    async def perform(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """See `Reading.perform`. Raises Refusal and nothing else; a fault of ours is noted in the journal."""
        try:
            return await super().perform(operation, arguments)
        except Refusal:
            raise
        except Exception as problem:
            self.journal.note(Fault("", "admin", f"{operation} failed: {problem!r}", format_exc()))
            raise Refusal("fault", f"{operation} failed inside mailgw; its log has the details") from problem

    async def queue_retry(self, selection: Mapping[str, Any], everything: bool = False, reason: str = "") -> dict[str, Any]:
        """Make all that match due now.

        For this and the other three orders: the selection is that of `queue_list`, with ``messages``, a list of numbers, in
        place of ``message`` and without ``limit``; an empty one is refused unless ``everything`` is true. The answer is
        ``{"recipients": 12}``: how many were changed; those being delivered at this moment are not. Raises BadRequest.
        """
        return await self._order(Order.RETRY, selection, everything, reason)

    async def queue_hold(self, selection: Mapping[str, Any], everything: bool = False, reason: str = "") -> dict[str, Any]:
        """Hold all that match until they are released."""
        return await self._order(Order.HOLD, selection, everything, reason or "held by the operator")

    async def queue_release(self, selection: Mapping[str, Any], everything: bool = False, reason: str = "") -> dict[str, Any]:
        """Let all held ones that match go, now."""
        return await self._order(Order.RELEASE, selection, everything, reason)

    async def queue_drop(self, selection: Mapping[str, Any], everything: bool = False, reason: str = "") -> dict[str, Any]:
        """Remove all that match; nobody is told."""
        return await self._order(Order.DROP, selection, everything, reason)

    async def queue_recover(self, folder: str) -> dict[str, Any]:
        """Queue the next messages of a damaged queue that was set aside: see `Recovering.some`. Raises Refusal."""
        if not isinstance(folder, str) or not folder:
            raise BadRequest("folder must be a text")
        if self.recover is None:
            raise Refusal("unavailable", "this store takes nothing from a damaged queue")
        answer = await self.recover(folder)
        self.journal.note(Ordered("recover", folder, answer["recovered"]))
        if answer["recovered"]:
            self.wake()
        return answer

    async def route(self, **question: Any) -> dict[str, Any]:
        """Which way an address would go: see `Signpost.ask`."""
        return await self.signpost.ask(self.clock, **question)

    async def sessions(self, ip: str, login: str = "") -> dict[str, Any]:
        """``{"sessions": [{"session", "listener", "ip", "login"}, ...]}``: those that are there now, of the /24 or /48 or the login.

        At most `MOST_MESSAGES`. Raises BadRequest.
        """
        try:
            network = _network_of(ip_address(ip))
        except ValueError as problem:
            raise BadRequest(str(problem)) from None
        found = [one for one in self.present() if _network_of(one.ip) == network or (login and one.login == login)]
        told = [{"session": one.session, "listener": one.listener, "ip": str(one.ip), "login": one.login} for one in found]
        return {"sessions": told[:MOST_MESSAGES]}

    async def status(self) -> dict[str, Any]:
        """Version, process, uptime in seconds, the queue's totals, and the daemon's own condition."""
        return {
            "version": version("mailgw"),
            "pid": os.getpid(),
            "uptime": self.clock.seconds() - self.started,
            "queue": (await self.queue_stats(limit=1))["total"],
            **self.condition(),
            **await self._logins(),
        }

    async def _logins(self) -> dict[str, Any]:
        if self.throttle is None:
            return {}
        try:
            return {"logins": await self.throttle.condition()}
        except MemoryUnavailable as problem:
            return {"logins": {"unknown": str(problem)}}

    async def _order(self, order: Order, said: Mapping[str, Any], everything: bool, reason: str) -> dict[str, Any]:
        if not isinstance(said, Mapping):
            raise BadRequest("selection must be an object")
        if not isinstance(reason, str) or not isinstance(everything, bool):
            raise BadRequest("reason must be a text, everything must be true or false")
        if everything and said:
            raise BadRequest("everything, or a selection: not both")
        if not everything and not said:
            raise BadRequest("nothing is selected; say so if everything is meant")
        recipients = 0
        for selection in self._selections(said):
            recipients += await self.desk.tell(selection, order, reason)
        self.journal.note(Ordered(order.value, _spoken(said), recipients))
        if recipients:
            self.wake()
        return {"recipients": recipients}

    def _selections(self, said: Mapping[str, Any]) -> Sequence[Selection]:
        for key in ("message", "limit"):
            if key in said:
                raise BadRequest(f'an order has no "{key}"; it has messages, {", ".join(FIELDS[1:-1])}')
        rest = {key: value for key, value in said.items() if key != "messages"}
        now = self.clock.seconds()
        if "messages" not in said:
            return [selection_from(rest, now)]
        messages = said["messages"]
        if not isinstance(messages, list) or not 1 <= len(messages) <= MOST_MESSAGES:
            raise BadRequest(f"messages must be a list of 1 to {MOST_MESSAGES} numbers")
        return [selection_from({**rest, "message": message}, now) for message in messages]


def _network_of(ip: IPv4Address | IPv6Address) -> IPv4Network | IPv6Network:
    return ip_network((ip, 24 if ip.version == 4 else 48), strict=False)


def _spoken(said: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in said.items()) or "everything"
