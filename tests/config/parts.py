"""Components for tests of configurations."""

from attrs import field, frozen
from twisted.internet.defer import Deferred
from zope.interface import Interface, implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IContentPolicy, IRelayPolicy, IRoute, ISenderPolicy
from mailgw.values.decision import Decision, permit, proceed
from mailgw.values.delivery import GatewayName, Route
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts


class IOracle(Interface):
    """Something that no house provides."""


@implementer(ISenderPolicy)
@frozen
class Broken:
    zones: list[str]
    limit: int = 5
    memory: IOracle = given(IOracle)

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


@implementer(IRelayPolicy)
@frozen
class Leaves:
    def may_relay(self, facts: RecipientFacts) -> Decision:
        raise SystemExit(3)


@implementer(IRelayPolicy)
@frozen
class AnybodyAtOurs:
    """Trusts the domain alone, and so takes what is routed on from there."""

    def may_relay(self, facts: RecipientFacts) -> Decision:
        return permit("ours") if facts.recipient.domain == "example.org" else proceed()


@implementer(IRelayPolicy)
@frozen
class Waits:
    async def may_relay(self, facts: RecipientFacts) -> Decision:
        await Deferred()
        return permit("at last")


@implementer(IClientPolicy, IContentPolicy)
@frozen
class TwoStages:
    def check_client(self, facts: ClientFacts) -> Decision:
        return proceed()

    def check_content(self, facts: ContentFacts) -> Decision:
        return proceed()


@implementer(IRoute)
@frozen
class Archive:
    to_whom: GatewayName

    def route(self, facts: RecipientFacts) -> Route | None:
        return Route(self.to_whom) if "archive" in facts.tags else None


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


nothing = None
