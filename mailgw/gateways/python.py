"""Hand mail to a function of Python."""

from collections.abc import Callable, Mapping
from importlib import import_module
from inspect import isawaitable, iscoroutinefunction
from typing import Any

from attrs import Factory, field, frozen
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.own_threads import OwnThreads
from mailgw.given import given
from mailgw.interfaces import IGateway
from mailgw.patience import within
from mailgw.values.address import Address
from mailgw.values.delivery import Handed, Outcome, Shipment, delivered, later
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Python"]

_TOO_SLOW = later(Reply(451, "4.4.7", "the function did not answer in time"))
_BUSY = later(Reply(451, "4.3.2", "too many calls of the function have not come back"), unreachable=True)


def import_function(name: str) -> Callable[[Shipment], Any]:
    """What ``"module:function"`` names. Raises ImportError, whose text has the name, or whatever the module raises."""
    module, colon, attributes = name.partition(":")
    if not (module and colon and attributes):
        raise ValueError(f'"{name}" is no function; write it like "module:function"')
    try:
        found: Any = import_module(module)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as problem:
        raise ImportError(f'call = "{name}" cannot be imported: {problem!r}') from problem
    if not callable(found):
        raise ValueError(f'"{name}" cannot be called')
    return found  # type: ignore[no-any-return]


@implementer(IGateway)
@frozen
class Python:
    """``type = "python"``: the shipment is given to the function that ``call`` names, ``"module:function"`` on the Python path.

    It answers with a mapping of addresses to outcomes, one outcome for all, or None for "delivered". What it raises is "later", with
    the traceback in the log. A coroutine function runs in the reactor's thread, any other one in a thread of its own, which must
    not touch the reactor; ``thread = false`` calls it in the reactor's, where it must not block and may give a Deferred.
    """

    call: str
    thread: bool = True
    timeout: Duration = 60.0
    final: bool = False  # whether None means final delivery; else it was passed on, which a DSN calls "relayed"
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _function: Callable[[Shipment], Any] = field(
        init=False, repr=False, eq=False, default=Factory(lambda self: import_function(self.call), takes_self=True)
    )
    _own: OwnThreads = field(init=False, repr=False, eq=False, default=Factory(lambda self: OwnThreads(self.threads), takes_self=True))

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        if not self._own.is_free:
            return _for_all(shipment, _BUSY)
        try:
            answer: Any = await within(Deferred.fromCoroutine(self._ask(shipment)), self.timeout, self.clock)
        except defer.TimeoutError:
            return _for_all(shipment, _TOO_SLOW)
        if answer is None:
            handed = Handed.MAILBOX if self.final else Handed.RELAY
            answer = delivered(Reply(250, "2.0.0", f"taken by {self.call}"), handed=handed)
        # What is neither an outcome nor a mapping is told apart by the queue, with the name of this gateway.
        return _for_all(shipment, answer) if isinstance(answer, Outcome) else answer

    async def _ask(self, shipment: Shipment) -> Any:
        if self.thread and not _is_async(self._function):
            answer: Any = await self._own.call(lambda: self._function(shipment))
        else:
            answer = self._function(shipment)
        return await answer if isawaitable(answer) else answer


def _is_async(function: Callable[..., Any]) -> bool:
    return iscoroutinefunction(function) or iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004 - of an object


def _for_all(shipment: Shipment, outcome: Outcome) -> Mapping[Address, Outcome]:
    return {recipient.address: outcome for recipient in shipment.recipients}
