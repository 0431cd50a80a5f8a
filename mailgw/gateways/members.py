"""Handing on to other gateways of the configuration, for those that combine them."""

from collections.abc import Iterator, Mapping, Sequence
from inspect import isawaitable
from typing import Any

import attrs
from attrs import evolve, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from mailgw.interfaces import IGateway, IGateways
from mailgw.patience import CutOff
from mailgw.values.address import Address
from mailgw.values.delivery import Fate, GatewayName, Outcome, Recipient, Shipment, later
from mailgw.values.reply import Reply

__all__ = ["Member", "Members", "is_down", "some_names"]

_log = Logger()
_FAILED = later(Reply(451, "4.3.0", "a gateway failed, see the log"))
_NO_OUTCOME = later(Reply(451, "4.3.0", "a gateway gave no outcome"))


def some_names(_: Any, attribute: "attrs.Attribute[Any]", value: list[GatewayName]) -> None:
    """Validate a setting that names at least one gateway, none of them twice: an attrs validator. Raises ValueError."""
    if not value:
        raise ValueError(f"{attribute.name} is empty")
    if len(set(value)) < len(value):
        raise ValueError(f"{attribute.name} names a gateway twice")


@frozen
class Member:
    """One of the gateways that a gateway hands on to."""

    name: GatewayName
    gateway: IGateway
    wants_next_hop: bool

    async def deliver(self, shipment: Shipment, recipients: tuple[Recipient, ...]) -> dict[Address, Outcome]:
        """Its outcome for each of the recipients; a fault of its own is "later", and stands in the log with its name.

        Raises CutOff when it is cancelled.
        """
        if not self.wants_next_hop and shipment.next_hop:
            shipment = evolve(shipment, next_hop="")
        if recipients is not shipment.recipients:
            shipment = evolve(shipment, recipients=recipients)
        try:
            answer: Any = self.gateway.deliver(shipment)
            if isawaitable(answer):
                answer = await answer
            if not isinstance(answer, Mapping):
                raise TypeError(f"{answer!r} is no mapping of addresses to outcomes")
            said = {recipient.address: answer.get(recipient.address) for recipient in recipients}
        except CutOff:
            raise  # the attempt is over as a whole
        except CancelledError:
            raise CutOff({}) from None
        except Exception:
            _log.failure("gateway {name} failed with message {message}", name=self.name, message=shipment.message)
            return {recipient.address: _FAILED for recipient in recipients}
        outcomes: dict[Address, Outcome] = {}
        for address, outcome in said.items():
            if not isinstance(outcome, Outcome):
                _log.error("gateway {name} gave {outcome!r} for {address}", name=self.name, outcome=outcome, address=address)
                outcome = _NO_OUTCOME
            outcomes[address] = outcome
        return outcomes


class Members:
    """The members by their names, in order; looked up when they are first needed, as not all are made before.

    Where some deliver by the recipient's domain, the shipments are made for one domain each, and the next hop is meant for those:
    a smarthost among them must not take the domain for a server of its own.
    """

    def __init__(self, others: IGateways, names: Sequence[GatewayName]) -> None:
        self._others = others
        self._names = names
        self._members: list[Member] = []

    def __iter__(self) -> Iterator[Member]:
        if not self._members:
            by_domain = [self._others.is_by_domain(name) for name in self._names]
            self._members = [
                Member(name, self._others[name], one or not any(by_domain)) for name, one in zip(self._names, by_domain, strict=True)
            ]
        return iter(self._members)


def is_down(outcome: Outcome) -> bool:
    """Whether the gateway could not be reached at all."""
    return outcome.fate is Fate.LATER and outcome.unreachable
