"""Asking policies, one after the other, within a time limit. Closed by default: a fault is a deferral, never a "yes"."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from functools import partial
from inspect import iscoroutine
from traceback import format_exc
from types import coroutine
from typing import Any, Literal

from attrs import frozen
from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from mailgw.endings import Ending, no_ending
from mailgw.interfaces import LookupFailed, MemoryUnavailable
from mailgw.journal import Fault, Journal
from mailgw.patience import within
from mailgw.settings import Network
from mailgw.values.decision import Decision, Verdict, defer, proceed, reject
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, RefusalFacts, SenderFacts
from mailgw.values.record import Opinion

__all__ = ["Asked", "Asker", "Rules", "settled_within"]

Facts = ClientFacts | SenderFacts | RecipientFacts | ContentFacts | RefusalFacts


@frozen
class Asked:
    """A policy as the configuration lists it."""

    name: str  # "spf", as in [policy.spf]
    component: Any  # provides one or more of the policy interfaces
    timeout: float = 30.0  # seconds
    where: str = ""  # "etc/mailgw.toml:57"
    on_error: Literal["pass", "defer", "reject"] = "defer"  # what a fault of it means
    observed: bool = False  # asked and recorded, but nobody acts on what it says
    skip_networks: tuple[Network, ...] = ()  # not asked about clients from there
    skip_logins: frozenset[str] = frozenset()  # nor about these; "*": about nobody who has logged in

    def skips(self, client: ClientFacts) -> bool:
        """Whether it need not be asked about this client."""
        if self.skip_logins and client.login and ("*" in self.skip_logins or client.login in self.skip_logins):
            return True
        return bool(self.skip_networks) and any(client.ip in network for network in self.skip_networks)


@frozen
class Rules:
    """Who is asked at each stage of a listener's conversations, compiled at assembly; an empty stage costs nothing."""

    client: tuple[Asked, ...] = ()
    sender: tuple[Asked, ...] = ()
    relay: tuple[Asked, ...] = ()  # the permit rules; the end of the list means no
    recipient: tuple[Asked, ...] = ()
    content: tuple[Asked, ...] = ()
    refusal: tuple[Asked, ...] = ()  # how long a refusal is kept back


_METHODS = {
    "connect": "check_client",
    "mail": "check_sender",
    "relay": "may_relay",
    "rcpt": "check_recipient",
    "data": "check_content",
    "refusal": "check_refusal",
}


async def settled_within(answer: Any, seconds: float, clock: IReactorTime) -> Any:
    """The result of what a plugin gave: a value as it is; a coroutine, Deferred or other awaitable awaited for so long.

    Raises what it raises (SystemExit and its like as `Ending`), or twisted.internet.defer.TimeoutError (the awaited is cancelled,
    and forgotten if it does not heed that).
    """
    if iscoroutine(answer):
        # Most have nothing to wait for, and then it costs little more than a call.
        try:
            awaited = answer.send(None)
        except StopIteration as end:
            return end.value
        except Exception:
            raise
        except BaseException as ended:
            raise Ending(ended) from ended
        answer = Deferred.fromCoroutine(_rest_of(answer, awaited))
    elif not isinstance(answer, Deferred):
        if not isinstance(answer, Awaitable):
            return answer
        answer = Deferred.fromCoroutine(_awaited(answer))
    return await within(answer.addErrback(no_ending), seconds, clock)


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@coroutine
def _rest_of(answer: Coroutine[Any, Any, Any], awaited: Any) -> Generator[Any, Any, Any]:
    """What follows in a coroutine after its first step, which gave ``awaited``."""
    step: Callable[[], Any]
    while True:
        try:
            step = partial(answer.send, (yield awaited))
        except GeneratorExit:
            answer.close()
            raise
        except BaseException as problem:
            step = partial(answer.throw, problem)
        try:
            awaited = step()
        except StopIteration as end:
            return end.value


@frozen
class Asker:
    """Asks on behalf of one session after the other."""

    clock: IReactorTime
    journal: Journal

    async def ask(self, asked: Asked, stage: str, facts: Facts, trail: list[Opinion]) -> Decision:
        """The decision to act upon. What the policy said is added to the trail.

        Where it raises, takes too long or answers nonsense, its name is in the journal, and ``on_error`` says what follows:
        451 4.3.0, if nothing else was chosen. ``stage`` is "connect", "mail", "relay", "rcpt", "data" or "refusal".
        """
        client = facts if isinstance(facts, ClientFacts) else facts.client
        if asked.skips(client):
            return _NO_OBJECTION
        clock, problem = self.clock, ""
        began = clock.seconds()
        try:
            try:
                decision = getattr(asked.component, _METHODS[stage])(facts)
            except Exception:
                raise
            except BaseException as ended:  # not below, where GeneratorExit may be the end of this coroutine
                raise Ending(ended) from ended
            if not isinstance(decision, Decision):
                decision = await settled_within(decision, asked.timeout, clock)
        except (LookupFailed, MemoryUnavailable) as caught:  # nobody's mistake: no traceback
            problem = f"cannot be answered at {stage}: {caught}"
            self.journal.note(Fault(client.session, asked.name, problem))
        except Exception as caught:
            if isinstance(caught, TimeoutError) and clock.seconds() - began >= asked.timeout:  # nor here: the time is over
                problem, trace = f"gave no answer at {stage} within {asked.timeout:g} s", ""
            else:
                problem, trace = f"failed at {stage}: {caught!r}", format_exc()
            self.journal.note(Fault(client.session, asked.name, problem, trace))
        else:
            if not isinstance(decision, Decision):
                problem = f"answered {decision!r} at {stage}, which is no decision"
            elif (decision.verdict is Verdict.PERMIT) != (stage == "relay") and decision.verdict is not Verdict.PROCEED:
                # Relay permission is a list of its own that can only open; everything else can only restrict.
                problem = f"answered {decision.verdict.value} at {stage}, where it may not"
            if problem:
                self.journal.note(Fault(client.session, asked.name, problem))
        if problem:
            decision = _ON_ERROR["defer" if stage == "relay" else asked.on_error]
        recipient = str(facts.recipient) if isinstance(facts, RecipientFacts) else ""
        trail.append(
            Opinion(asked.name, asked.where, stage, decision, clock.seconds() - began, asked.observed, recipient, problem)
        )
        if decision.wait and not asked.observed:
            await deferLater(clock, decision.wait)
        return _NO_OBJECTION if asked.observed else decision


_NO_OBJECTION = proceed()
_ON_ERROR = {
    "pass": _NO_OBJECTION,
    "defer": defer("local problem, try again later", code=451, enhanced="4.3.0", why="policy fault"),
    "reject": reject("local policy cannot be applied", code=550, enhanced="5.7.1", why="policy fault"),
}
