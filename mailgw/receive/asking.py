"""Asking policies, one after the other, within a time limit. Closed by default: a fault is a deferral, never a "yes"."""

from collections.abc import Awaitable
from inspect import iscoroutine
from traceback import format_exc
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from mailgw.journal import Fault, Journal
from mailgw.values.decision import Decision, Verdict, defer
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts

__all__ = ["Asked", "Asker", "Rules", "settled_within"]

Facts = ClientFacts | SenderFacts | RecipientFacts | ContentFacts


@frozen
class Asked:
    """A policy as the configuration lists it."""

    name: str  # "spf", as in [policy.spf]
    component: Any  # provides one or more of the policy interfaces
    timeout: float = 30.0  # seconds
    where: str = ""  # "etc/mailgw.toml:57"


@frozen
class Rules:
    """Who is asked at each stage of a listener's conversations, compiled at assembly; an empty stage costs nothing."""

    client: tuple[Asked, ...] = ()
    sender: tuple[Asked, ...] = ()
    relay: tuple[Asked, ...] = ()  # the permit rules; the end of the list means no
    recipient: tuple[Asked, ...] = ()
    content: tuple[Asked, ...] = ()


_METHODS = {
    "connect": "check_client",
    "mail": "check_sender",
    "relay": "may_relay",
    "rcpt": "check_recipient",
    "data": "check_content",
}


async def settled_within(answer: Any, seconds: float, clock: IReactorTime) -> Any:
    """The result of what a plugin gave: a value as it is; a coroutine, Deferred or other awaitable awaited for so long.

    Raises what it raises, or twisted.internet.defer.TimeoutError (the awaited is cancelled).
    """
    if iscoroutine(answer):
        answer = Deferred.fromCoroutine(answer)
    elif not isinstance(answer, Deferred):
        if not isinstance(answer, Awaitable):
            return answer
        answer = Deferred.fromCoroutine(_awaited(answer))
    if not answer.called:
        answer.addTimeout(seconds, clock)
    return await answer


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@frozen
class Asker:
    """Asks on behalf of one session after the other."""

    clock: IReactorTime
    journal: Journal

    async def ask(self, asked: Asked, stage: str, facts: Facts) -> Decision:
        """The policy's decision; 451 4.3.0 where it raises, takes too long or answers nonsense, with its name in the journal.

        ``stage`` is "connect", "mail", "relay", "rcpt" or "data".
        """
        session = facts.session if isinstance(facts, ClientFacts) else facts.client.session
        try:
            answer = getattr(asked.component, _METHODS[stage])(facts)
            if not isinstance(answer, Decision):
                answer = await settled_within(answer, asked.timeout, self.clock)
        except Exception as problem:
            self.journal.note(Fault(session, asked.name, f"failed at {stage}: {problem!r}", format_exc()))
            return _FAULT
        if not isinstance(answer, Decision):
            self.journal.note(Fault(session, asked.name, f"answered {answer!r} at {stage}, which is no decision"))
            return _FAULT
        if (answer.verdict is Verdict.PERMIT) != (stage == "relay") and answer.verdict is not Verdict.PROCEED:
            # Relay permission is a list of its own that can only open; everything else can only restrict.
            self.journal.note(Fault(session, asked.name, f"answered {answer.verdict.value} at {stage}, where it may not"))
            return _FAULT
        return answer


_FAULT = defer("local problem, try again later", code=451, enhanced="4.3.0", why="policy fault")
