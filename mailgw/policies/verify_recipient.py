"""Asks the server that will get the mail whether it would take it, while the client waits (a "call-forward")."""

from attrs import Factory, field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IGateways, IMemory, IRecipientPolicy
from mailgw.policies.action import Action, act
from mailgw.policies.call_out import CallOut, cannot_ask
from mailgw.values.decision import Decision, Evidence, defer, proceed, reject
from mailgw.values.delivery import AskedGateway
from mailgw.values.facts import RecipientFacts
from mailgw.values.quantities import Duration

__all__ = ["VerifyRecipient"]


@implementer(IRecipientPolicy)
@frozen
class VerifyRecipient:
    """``type = "verify-recipient"``: says MAIL and RCPT to the next hop of the recipient's route, but sends no message.

    A recipient whom it refuses for good is rejected with 550 5.1.1. The gateway of the route (smarthost, lmtp, mx) asks, with its own
    TLS, login and connections. Answers are remembered for all processes. As ``recipients = { type = "verify-recipient" }`` of a
    route it is asked about that route's recipients only.
    """

    gateway: AskedGateway | None = None
    """Another gateway that knows the recipients; none: that of the route."""
    keep_known: Duration = 86400.0
    keep_unknown: Duration = 600.0
    """How long answers are remembered."""
    unsure: Action = "defer"
    """What follows where the server cannot be asked now, or does not say."""
    unasked: Action = "pass"
    """What follows where the route's gateway is of a kind that cannot ask, as maildir."""
    tag: str = "unverified"
    gateways: IGateways = given(IGateways)
    memory: IMemory = given(IMemory)
    _calls: CallOut = field(
        init=False,
        eq=False,
        repr=False,
        default=Factory(
            lambda self: CallOut("verify-recipient", self.gateways, self.memory, self.keep_known, self.keep_unknown), takes_self=True
        ),
    )

    async def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Raises MemoryUnavailable."""
        recipient = facts.recipient
        name, next_hop = (self.gateway, "") if self.gateway else (facts.gateway, facts.next_hop)
        if problem := cannot_ask(self.gateways, name):
            way = (Evidence("gateway", name, "the recipient's route"),)
            return act(self.unasked, "the recipient cannot be verified", why=problem, tag=self.tag, evidence=way, remedy=_ASKABLE)
        said = await self._calls.recall(name, recipient, next_hop) or await self._calls.ask(name, recipient, next_hop)
        if said.known:
            return _FINE
        evidence = (Evidence("recipient", str(recipient), "RCPT command"), Evidence("reply", said.reply, said.source))
        why = f"the next hop said: {said.reply}"
        if said.known is False:
            remedy = f"a server that knows {recipient}; an answer is remembered for {self.keep_unknown:.0f} s"
            return reject("no such recipient", code=550, enhanced="5.1.1", why=why, evidence=evidence, remedy=remedy)
        text = "the recipient cannot be verified now, try again later"
        if self.unsure == "defer":
            return defer(text, code=451, enhanced="4.4.0", why=why, evidence=evidence, remedy=_REACHABLE)
        return act(self.unsure, text, why=why, tag=self.tag, evidence=evidence, remedy=_REACHABLE)


_FINE = proceed()
_ASKABLE = "a route through smarthost, lmtp or mx, or a gateway in this policy's table"
_REACHABLE = "a next hop that can be reached and answers"

