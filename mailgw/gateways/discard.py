"""Nowhere: for addresses whose mail nobody wants, and for tests."""

from collections.abc import Mapping

from attrs import frozen
from zope.interface import implementer

from mailgw.interfaces import IGateway
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, delivered
from mailgw.values.reply import Reply

__all__ = ["Discard"]

_DISCARDED = delivered(Reply(250, "2.0.0", "discarded"))


@implementer(IGateway)
@frozen
class Discard:
    """``type = "discard"``: everything counts as delivered, nothing is kept."""

    def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        return {recipient.address: _DISCARDED for recipient in shipment.recipients}
