"""What follows from an attempt, for each recipient: a settlement, a line in the journal, perhaps a report to the sender."""

from collections.abc import Mapping, Sequence
from math import inf
from random import Random
from typing import Any

from attrs import Factory, define, evolve
from twisted.python.reflect import safe_repr

from mailgw.journal import Delayed, Delivered, Failed
from mailgw.queue.bounce import Action, Report, wanted
from mailgw.queue.retry import Schedule, earliest, next_attempt
from mailgw.values.address import Address
from mailgw.values.delivery import Destination, Fate, Handed, Outcome, later
from mailgw.values.ledger import Parcel, Queued, Settlement, State
from mailgw.values.reply import Reply

__all__ = ["Conclusion", "conclude", "in_brief", "understand"]

_MOST_SHOWN = 500  # characters

_FAULTY = later(Reply(451, "4.3.0", "the gateway failed, see the log"))
_SUCCESS: dict[Handed, Action | None] = {Handed.MAILBOX: "delivered", Handed.RELAY: "relayed", Handed.DSN_RELAY: None}


@define
class Conclusion:
    """The results of one shipment; ``reports`` holds only what the sender wants to know."""

    settlements: list[Settlement] = Factory(list)
    reports: list[Report] = Factory(list)
    events: list[Any] = Factory(list)
    due: float = inf  # POSIX seconds; when the first of those that wait is due


def understand(answer: object, recipients: Sequence[Queued]) -> tuple[Mapping[Address, Outcome], str]:
    """Check what a gateway answered: the outcomes that are some, and what is wrong with it, or the empty string.

    An outcome whose fate is clear stands, without the nonsense that it holds besides: to try again might deliver twice.
    """
    if not isinstance(answer, (dict, Mapping)):  # the first of them is asked at a tenth of the cost
        return {}, f"gateway answered {in_brief(answer)}, which is no mapping of addresses to outcomes"
    outcomes, missing, odd = {}, [], []
    for queued in recipients:
        try:
            outcome = answer.get(queued.recipient.address)
        except Exception as problem:  # a mapping of the plugin's own
            outcome = problem
        if isinstance(outcome, Outcome) and isinstance(outcome.fate, Fate) and isinstance(outcome.reply, Reply):
            if not _is_sound(outcome):
                odd.append(f"{queued.recipient.address}: {in_brief(outcome)}")
                outcome = _mended(outcome)
            outcomes[queued.recipient.address] = outcome
        else:
            missing.append(f"{queued.recipient.address}: {in_brief(outcome)}")
    problems = [f"no outcome for {', '.join(missing)}"] * bool(missing) + [f"an odd outcome for {', '.join(odd)}"] * bool(odd)
    return outcomes, f"gateway gave {' and '.join(problems)}" if problems else ""


def _is_sound(outcome: Outcome) -> bool:
    """Whether all that will be counted with and written down is what it must be."""
    reply, wait = outcome.reply, outcome.retry_after
    return (
        isinstance(outcome.handed, Handed)
        and (wait is None or isinstance(wait, int | float))
        and isinstance(reply.enhanced, str)
        and isinstance(outcome.peer, str)
        and _can_be_kept(outcome.peer)
        and _can_be_kept(reply.text)
    )


def _can_be_kept(text: str) -> bool:
    return text.isascii() or text == _kept(text)


def _kept(text: str) -> str:
    return text.encode("utf-8", "replace").decode()  # no store takes a lone surrogate


def _mended(outcome: Outcome) -> Outcome:
    reply, wait = outcome.reply, outcome.retry_after
    return evolve(
        outcome,
        reply=Reply(reply.code, reply.enhanced if isinstance(reply.enhanced, str) else "", _kept(reply.text)),
        peer=_kept(outcome.peer) if isinstance(outcome.peer, str) else "",
        handed=outcome.handed if isinstance(outcome.handed, Handed) else Handed.MAILBOX,
        retry_after=wait if isinstance(wait, int | float) else None,
    )


def in_brief(thing: object) -> str:
    """Something of a plugin's for the log: whatever its own ``repr`` does, and however much it says."""
    text: str = safe_repr(thing)  # type: ignore[no-untyped-call]
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def conclude(
    parcel: Parcel,
    destination: Destination,
    outcomes: Mapping[Address, Outcome],
    schedule: Schedule,
    *,
    now: float,
    randomness: Random,
    not_before: float = 0.0,
    attempted: bool = True,
) -> Conclusion:
    """Judge all recipients of ``parcel``, which was on its way to ``destination``; a missing outcome is "later".

    ``now`` and ``not_before`` (the end of the destination's back-off) are POSIX seconds. ``attempted`` is false where a recipient is
    judged by what happened to the destination or the routes: counted like an attempt, so that its mail is looked at as rarely.
    """
    conclusion = Conclusion()
    envelope = parcel.envelope
    moved = destination if destination != parcel.destination else None
    for queued in parcel.queued:
        address = queued.recipient.address
        outcome = outcomes.get(address, _FAULTY)
        attempts, told, due, state = queued.attempts + 1, queued.delay_told, 0.0, State.FAILED
        reply = str(outcome.reply)
        where = (envelope.session, parcel.message, str(address), destination.gateway, outcome.peer, outcome.reply)
        if outcome.fate is Fate.DELIVERED:
            state = State.DELIVERED
            conclusion.events.append(Delivered(*where, max(0.0, now - envelope.arrived)))
            success = _SUCCESS[outcome.handed] if queued.recipient.notify else None
            if success:
                _report(conclusion, parcel, queued, outcome, success, now)
        elif outcome.fate is Fate.NEVER:
            conclusion.events.append(Failed(*where))
            _report(conclusion, parcel, queued, outcome, "failed", now if attempted else 0.0)
        else:
            following = next_attempt(
                schedule,
                arrived=envelope.arrived,
                now=now,
                attempts=attempts,
                delay_told=told,
                not_before=max(not_before, earliest(now, outcome.retry_after)),
                chance=randomness.random(),
            )
            if following.due is None:
                reply = f"expired: {reply}"
                conclusion.events.append(Failed(*where))
                _report(conclusion, parcel, queued, outcome, "failed", now if attempted else 0.0, expired=True)
            else:
                state, due, told = State.WAITING, following.due, told or following.warn
                conclusion.due = min(conclusion.due, due)
                if attempted or not queued.attempts:
                    conclusion.events.append(Delayed(*where, due - now))
                if following.warn:
                    until = envelope.arrived + schedule.give_up
                    _report(conclusion, parcel, queued, outcome, "delayed", now if attempted else 0.0, retry_until=until)
        conclusion.settlements.append(
            Settlement(parcel.message, queued.number, state, reply, outcome.peer, due, attempts, told, moved),
        )
    return conclusion


def _report(
    conclusion: Conclusion,
    parcel: Parcel,
    queued: Queued,
    outcome: Outcome,
    action: Action,
    attempted: float,
    retry_until: float | None = None,
    expired: bool = False,
) -> None:
    if wanted(parcel.envelope.sender, queued.recipient, action):
        conclusion.reports.append(
            Report(
                recipient=queued.recipient,
                action=action,
                reply=outcome.reply,
                peer=outcome.peer if outcome.heard else "",  # RFC 3464 §2.3.5-6
                attempted=attempted,
                retry_until=retry_until,
                expired=expired,
            )
        )
