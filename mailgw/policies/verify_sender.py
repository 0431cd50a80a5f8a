"""Asks the sender's own mail servers whether they would take a bounce (a "call-out"). Rarely a good idea: see the cautions."""

from collections.abc import Awaitable
from typing import Annotated

from attrs import Factory, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IGateways, IMemory, ISenderPolicy
from mailgw.policies.action import Action, act
from mailgw.policies.call_out import CallOut, cannot_ask
from mailgw.values.address import parse_domain
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.delivery import AskedGateway
from mailgw.values.facts import SenderFacts
from mailgw.values.quantities import Duration, Rate

__all__ = ["VerifySender"]


@implementer(ISenderPolicy)
@frozen
class VerifySender:
    """``type = "verify-sender"``: says MAIL FROM:<> and RCPT to the sender's mail servers, but sends no message.

    Senders are mostly forged, so those who are asked mostly have nothing to do with the mail, and some list whoever asks
    them much. Use it for few domains (``domains``), if at all. Never asked: about the null sender, and about clients that have
    logged in. Questions to one domain are limited; what cannot be asked is ``unsure``.
    """

    gateway: AskedGateway
    """The gateway that asks: one of type mx."""
    domains: list[Annotated[str, parse_domain]] = field(factory=list)
    """Only senders there, and below, are asked about; none: all."""
    unknown: Action = "reject"
    """What follows where the servers know nobody of that name."""
    unsure: Action = "pass"
    """What follows where they cannot be asked now, do not say, or refuse mail without a sender."""
    limit: Rate = field(factory=lambda: Rate(20, 60.0))
    """Questions to the servers of one domain."""
    keep_known: Duration = 7 * 86400.0
    keep_unknown: Duration = 3600.0
    """How long answers are remembered."""
    tag: str = "unverified"
    gateways: IGateways = given(IGateways)
    memory: IMemory = given(IMemory)
    _calls: CallOut = field(
        init=False,
        eq=False,
        repr=False,
        default=Factory(
            lambda self: CallOut("verify-sender", self.gateways, self.memory, self.keep_known, self.keep_unknown), takes_self=True
        ),
    )

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable, and ValueError where the gateway cannot ask."""
        if not facts.sender or facts.client.is_authenticated or not self._is_meant(facts.sender.domain):
            return _FINE
        return self._ask(facts)

    def _is_meant(self, domain: str) -> bool:
        return not self.domains or any(domain == one or domain.endswith(f".{one}") for one in self.domains)

    async def _ask(self, facts: SenderFacts) -> Decision:
        sender, domain = facts.sender, facts.sender.domain
        said = await self._calls.recall(self.gateway, sender, domain)
        if said is None:
            if problem := cannot_ask(self.gateways, self.gateway):
                raise ValueError(problem)
            wait = await self.memory.take(f"verify-sender:limit {domain[:_MOST_DOMAIN]}", 1, self.limit, self.limit.count)
            if wait:
                limit = (Evidence("sender's domain", domain, "MAIL command"), Evidence("limit", f"{self.limit}", "the policy's settings"))
                return self._unsure(f"the servers of {domain} have been asked enough", limit)
            said = await self._calls.ask(self.gateway, sender, domain)
        if said.known:
            return _FINE
        evidence = (Evidence("sender", str(sender), "MAIL command"), Evidence("reply", said.reply, said.source))
        if said.known is None:
            return self._unsure(f"the sender's server said: {said.reply}", evidence)
        text = f"the mail servers of {domain} know no such sender"
        remedy = f"a sender whom they know; an answer is remembered for {self.keep_unknown:.0f} s"
        return act(self.unknown, text, status="1.8", why=said.reply, tag=self.tag, evidence=evidence, remedy=remedy)

    def _unsure(self, why: str, evidence: tuple[Evidence, ...]) -> Decision:
        text = "the sender cannot be verified now, try again later"
        return act(self.unsure, text, status="1.8", why=why, tag=self.tag, evidence=evidence, remedy="servers of the sender that answer")


_FINE = proceed()
_MOST_DOMAIN = 255  # characters
