"""Who knows the recipients? The server that will get the mail: ask it while the client waits (a "call-forward")."""

from collections import OrderedDict
from pathlib import Path

from attrs import field, frozen
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.connections import Connections, kept_connections
from mailgw.gateways.naming import a_next_hop, next_hops
from mailgw.gateways.outgoing_tls import TlsMode, authorities_there
from mailgw.given import given
from mailgw.interfaces import IDialer, IIdentity, IRecipientPolicy, IResolver, LookupFailed
from mailgw.values.address import Address
from mailgw.values.decision import Decision, defer, proceed, reject
from mailgw.values.facts import RecipientFacts
from mailgw.values.quantities import Duration

__all__ = ["AskNextHop"]


@implementer(IRecipientPolicy)
@frozen
class AskNextHop:
    """``type = "ask"``: says MAIL and RCPT to the server at ``address``, but sends no message.

    A recipient that it refuses for good is rejected; where it cannot be asked, or is not sure, the client is deferred.
    """

    address: str | list[str] = field(validator=a_next_hop)  # as for smarthost and lmtp; default port 25, or 24 with lmtp
    lmtp: bool = False  # speak LMTP instead of SMTP
    tls: TlsMode = "never"  # never | offered | require | implicit
    # A PEM file of authorities for require and implicit; none: those that the system trusts.
    trust: Path | None = field(default=None, validator=authorities_there)
    remember: Duration = 300.0  # how long answers are kept
    max_remembered: int = 10000
    connect_timeout: Duration = 10.0
    max_idle: Duration = 60.0
    max_messages: int = 100  # questions on one connection
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)
    clock: IReactorTime = given(IReactorTime)
    threads: IReactorThreads = given(IReactorThreads)
    _answers: OrderedDict[Address, tuple[float, Decision]] = field(init=False, repr=False, factory=OrderedDict)
    _connections: Connections = kept_connections()

    async def check_recipient(self, facts: RecipientFacts) -> Decision:
        known = self._answers.get(facts.recipient)
        if known and known[0] > self.clock.seconds():
            return known[1]
        decision = await self._ask(facts.recipient)
        if decision.reply is None or decision.reply.is_permanent:  # a deferral is no knowledge
            self._answers[facts.recipient] = (self.clock.seconds() + self.remember, decision)
            self._answers.move_to_end(facts.recipient)
            if len(self._answers) > self.max_remembered:
                self._answers.popitem(last=False)
        return decision

    def close(self) -> None:
        """Close the kept connections."""
        self._connections.close()

    async def _ask(self, recipient: Address) -> Decision:
        addresses = [self.address] if isinstance(self.address, str) else self.address
        try:
            hops = await next_hops(self.resolver, addresses, 24 if self.lmtp else 25)
        except LookupFailed as problem:
            return _unsure(str(problem))
        answer = await self._connections.ask(recipient, hops)
        if answer.reply.is_positive and answer.is_final:
            return proceed()
        if answer.reply.is_permanent and answer.is_final:
            return reject("no such recipient", code=550, enhanced="5.1.1", why=f"the next hop said: {answer.reply}")
        return _unsure(f"the next hop said: {answer.reply}")


def _unsure(why: str) -> Decision:
    return defer("the recipient cannot be verified now, please try again later", code=451, enhanced="4.4.0", why=why)
