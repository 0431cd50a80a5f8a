"""Components for tests of configurations."""

from attrs import field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IMemory, IRelayPolicy, ISenderPolicy
from mailgw.values.decision import Decision, permit, proceed
from mailgw.values.facts import RecipientFacts, SenderFacts


@implementer(ISenderPolicy)
@frozen
class Broken:
    zones: list[str]
    limit: int = 5
    memory: IMemory = given(IMemory)

    def check_sender(self, facts: SenderFacts) -> Decision:
        return proceed()


@implementer(IRelayPolicy)
@frozen
class Anybody:
    note: str = ""

    async def may_relay(self, facts: RecipientFacts) -> Decision:
        return permit("come in")


@implementer(IRelayPolicy)
@frozen
class Raises:
    def may_relay(self, facts: RecipientFacts) -> Decision:
        raise RuntimeError("broken")


@implementer(ISenderPolicy)
@frozen
class Promises:
    """Says that it is a policy, and is none."""


@implementer(ISenderPolicy)
@frozen
class Refuses:
    number: int = field()

    @number.validator
    def _is_even(self, attribute: object, value: int) -> None:
        if value % 2:
            raise ValueError("number must be even")

    def check_sender(self, facts: SenderFacts) -> Decision:
        return proceed()


@implementer(ISenderPolicy)
@frozen
class TimeoutOfItsOwn:
    timeout: float = 5.0

    def check_sender(self, facts: SenderFacts) -> Decision:
        return proceed()


class NoAttrs:
    pass


raise_on_use = None
