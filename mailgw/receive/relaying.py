"""Whether a recipient's mail is taken at all, and where it goes then. Closed by default: without a "permit" nothing is relayed."""

from traceback import format_exc

from attrs import frozen

from mailgw.journal import Fault, Journal
from mailgw.receive.asking import Asked, Asker, settled_within
from mailgw.receive.telling import Ruling, Teller
from mailgw.routing import Found, Routing
from mailgw.values.decision import Verdict
from mailgw.values.facts import RecipientFacts
from mailgw.values.record import Opinion
from mailgw.values.reply import Reply

__all__ = ["Relay"]

_DENIED = Reply(550, "5.7.1", "relaying denied")
_NO_ROUTE = Reply(550, "5.1.2", "no route to this destination")
_TROUBLE = Reply(451, "4.3.0", "local problem, try again later")
_ROUTE_TIMEOUT = 30.0  # seconds


@frozen
class Relay:
    """The permit rules of a listener, and the routes of the house."""

    rules: tuple[Asked, ...]
    routing: Routing
    asker: Asker
    teller: Teller
    journal: Journal

    async def permitted(self, facts: RecipientFacts, trail: list[Opinion]) -> Opinion | Ruling:
        """The rule that permits it, or what the client hears.

        The one place where relaying is allowed, and only by an explicit "permit". A rule that fails permits nothing, but what it
        would have said is not known: if no other permits, the client may come again.
        """
        faulty = False
        for asked in self.rules:
            decision = await self.asker.ask(asked, "relay", facts, trail)
            if decision.verdict is Verdict.PERMIT:
                return trail[-1]
            faulty = faulty or decision.verdict is not Verdict.PROCEED
        return self.teller.named("permit", _TROUBLE if faulty else _DENIED)

    async def found(self, facts: RecipientFacts) -> Found | Ruling:
        """The way to go, or what the client hears."""
        try:
            found = await settled_within(self.routing.find(facts), _ROUTE_TIMEOUT, self.asker.clock)
        except Exception as problem:
            self.journal.note(Fault(facts.client.session, "route", f"failed for {facts.recipient}: {problem!r}", format_exc()))
            return self.teller.named("route", _TROUBLE, repr(problem))
        return self.teller.named("route", _NO_ROUTE) if found is None else found
