"""A gateway that does what a test tells it."""

from collections.abc import Mapping, Sequence
from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgw.interfaces import IDomainGateway, IGateway
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Shipment, delivered

__all__ = ["HANG", "OUTCOMES", "ScriptedDomainGateway", "ScriptedGateway"]

HANG = object()  # in ``shipments``: give no answer until `ScriptedGateway.answer` is called
OUTCOMES = object()  # in ``shipments``: the recipients' outcomes, as always


@implementer(IGateway)
class ScriptedGateway:
    """Remembers every shipment and answers by its script::

        gateway = ScriptedGateway({"anna@example.org": [later("busy"), delivered()]})

    ``outcomes`` gives for an address one outcome, or a list with one for each attempt, whose last one repeats; everybody else gets
    ``otherwise``. ``answers`` says what happens to whole shipments, in order: `OUTCOMES`, `HANG`, an exception to raise, or
    anything else to answer in place of the outcomes; afterwards outcomes, or always ``last`` if that is given.
    """

    def __init__(
        self,
        outcomes: Mapping[str, Outcome | Sequence[Outcome]] | None = None,
        *,
        otherwise: Outcome | None = None,
        answers: Sequence[Any] = (),
        last: Any = OUTCOMES,
    ) -> None:
        self.outcomes: dict[str, Outcome | Sequence[Outcome]] = dict(outcomes or {})
        self.otherwise = otherwise or delivered()
        self.answers = list(answers)
        self.last = last
        self.shipments: list[Shipment] = []
        self.hanging: list[tuple[Shipment, Deferred[Any]]] = []
        self._attempts: dict[tuple[int, Address], int] = {}

    @property
    def attempts(self) -> int:
        """How many shipments came."""
        return len(self.shipments)

    @property
    def tried(self) -> list[str]:
        """The recipients of all shipments, one after the other."""
        return [str(recipient.address) for shipment in self.shipments for recipient in shipment.recipients]

    def deliver(self, shipment: Shipment) -> Any:
        """See `IGateway`."""
        self.shipments.append(shipment)
        answer = self.answers.pop(0) if self.answers else self.last
        if isinstance(answer, BaseException):
            raise answer
        if answer is HANG:
            hanging: Deferred[Any] = Deferred()
            self.hanging.append((shipment, hanging))
            return hanging
        return self._outcomes(shipment) if answer is OUTCOMES else answer

    def answer(self, number: int = 1) -> None:
        """Give the outcomes of the ``number`` oldest hanging shipments; one that was cancelled meanwhile is passed over."""
        now, self.hanging = self.hanging[:number], self.hanging[number:]
        for shipment, hanging in now:
            if not hanging.called:
                hanging.callback(self._outcomes(shipment))

    def _outcomes(self, shipment: Shipment) -> dict[Address, Outcome]:
        return {recipient.address: self._outcome(shipment.message, recipient.address) for recipient in shipment.recipients}

    def _outcome(self, message: int, address: Address) -> Outcome:
        attempt = self._attempts.get((message, address), 0)
        self._attempts[message, address] = attempt + 1
        outcome = self.outcomes.get(str(address), self.otherwise)
        return outcome if isinstance(outcome, Outcome) else outcome[min(attempt, len(outcome) - 1)]


@implementer(IDomainGateway)
class ScriptedDomainGateway(ScriptedGateway):
    """The same for a gateway whose next hop follows from the recipient's domain."""
