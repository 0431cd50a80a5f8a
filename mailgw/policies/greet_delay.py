"""Who does not wait for the greeting is no mail server."""

from collections.abc import Awaitable
from typing import Any

from attrs import field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IMemory, IObserver, ISenderPolicy
from mailgw.journal import Disconnected
from mailgw.policies.action import Action, act
from mailgw.policies.who import client_of
from mailgw.values.decision import LONGEST_WAIT, Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, SenderFacts
from mailgw.values.quantities import Duration

__all__ = ["GreetDelay"]


def _in_bounds(_: Any, __: Any, value: float) -> None:
    if not 0 < value <= LONGEST_WAIT:
        raise ValueError(f"delay must be longer than nothing, and {LONGEST_WAIT:g} seconds at most")


@implementer(IClientPolicy, ISenderPolicy, IObserver)
@frozen
class GreetDelay:
    """``type = "greet-delay"``: lets a client wait for the greeting, and acts at MAIL on those who have not (RFC 5321 §3.1).

    A client (an IPv4 address or IPv6 /64) that has waited is greeted at once for as long as ``remember`` says.
    """

    delay: Duration = field(default=3.0, validator=_in_bounds)
    """How long the greeting takes. Real mail servers wait for five minutes (RFC 5321 §4.5.3.2.1)."""
    remember: Duration | None = 86400.0
    """For which a client that has waited need not wait again; "never": each session waits."""
    action: Action = "reject"
    tag: str = "early-talker"
    memory: IMemory = given(IMemory)
    _waiting: set[str] = field(factory=set, init=False, repr=False, eq=False)  # sessions that have not come to MAIL yet

    def check_client(self, facts: ClientFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable."""
        return self._wait(facts) if self.remember is None else self._unless_known(facts)

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        """Raises MemoryUnavailable."""
        client = facts.client
        if client.early_talker:
            said = (Evidence("sent before the greeting", "yes", "the connection"),)
            text = "you talk before you are greeted"
            remedy = "a client that waits for the greeting; another delay does not help one that never waits"
            return act(self.action, text, status="5.1", tag=self.tag, evidence=said, remedy=remedy)
        if client.session in self._waiting and self.remember is not None:
            self._waiting.discard(client.session)
            return self._remember(client, self.remember)
        return _FINE

    def note(self, event: Any) -> None:
        """Forget who has gone."""
        if type(event) is Disconnected:
            self._waiting.discard(event.session)

    def _wait(self, client: ClientFacts) -> Decision:
        self._waiting.add(client.session)
        return proceed(wait=self.delay, why=f"greeted after {self.delay:g} s")

    async def _unless_known(self, client: ClientFacts) -> Decision:
        known = await self.memory.recall(_key(client))
        return self._wait(client) if known is None else _FINE

    async def _remember(self, client: ClientFacts, lifetime: float) -> Decision:
        await self.memory.remember(_key(client), "", lifetime)
        return _FINE


_FINE = proceed()


def _key(client: ClientFacts) -> str:
    return f"greet-delay:{client_of(client.ip)}"
