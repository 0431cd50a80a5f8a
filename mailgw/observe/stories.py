"""How a decision record and the deliveries that follow it are written down: one JSON object each, on one line.

::

    {"time": 1795320000.1, "event": "refused", "session": "K7F2QAZB", "transaction": 2, "ref": "7QK3M", "stage": "mail",
     "by": "spf", "why": "...", "reply": "550 5.7.23 ...", "client": {...}, "sender": "a@example.com", "recipients": [...],
     "asked": [{"policy": "spf", "where": "etc/mailgw.toml:57", "stage": "mail", "verdict": "reject", "ms": 1.2, ...}]}
    {"time": ..., "event": "delivered", "session": "K7F2QAZB", "message": 12, "recipient": "b@example.org", "gateway": ...}

Fields that are empty are left out.
"""

import json
from collections.abc import Callable
from typing import Any

from mailgw.journal import Bounced, Delayed, Delivered, Failed
from mailgw.values.decision import Verdict
from mailgw.values.facts import ClientFacts
from mailgw.values.record import Opinion, Record, Way

__all__ = ["DELIVERIES", "line_of_delivery", "line_of_record"]

_MOST_WAYS = 100  # recipients, and
_MOST_OPINIONS = 300  # what was said about them, in one record: the story of a mailing to thousands stays readable
_MOST_TEXT = 500  # characters of a text that came from elsewhere

DELIVERIES: dict[type, str] = {Delivered: "delivered", Delayed: "delayed", Failed: "failed", Bounced: "bounced"}
"""The events after acceptance that belong to a message's story, and what they are called there."""

_encode: Callable[[Any], str] = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def line_of_record(record: Record) -> str:
    """The line, with its line end."""
    client = record.client
    told: dict[str, Any] = {"time": record.time, "event": record.outcome, "session": client.session}
    if record.transaction:
        told["transaction"] = record.transaction
    if record.ref:
        told["ref"] = record.ref
    told["stage"] = record.stage
    for name, value in (("by", record.by), ("why", record.why[:_MOST_TEXT]), ("message", record.message), ("size", record.size)):
        if value:
            told[name] = value
    if record.reply is not None:
        told["reply"] = str(record.reply)
    told["client"] = _client(client)
    if record.sender is not None:
        told["sender"] = str(record.sender) or "<>"
    ways, opinions = record.ways, record.opinions
    if ways:
        told["recipients"] = [_way(way) for way in ways[:_MOST_WAYS]]
    if opinions:
        told["asked"] = [_opinion(one) for one in opinions[:_MOST_OPINIONS]]
    if len(ways) > _MOST_WAYS or len(opinions) > _MOST_OPINIONS:
        told["more"] = {"recipients": len(ways), "asked": len(opinions)}
    return _encode(told) + "\n"


def line_of_delivery(event: Any, time: float) -> str:
    """The line, with its line end; the event is one of `DELIVERIES`."""
    kind = type(event)
    told = {"time": time, "event": DELIVERIES[kind], "session": event.session, "message": event.message}
    if kind is Bounced:
        told.update(dsn=event.dsn, action=event.action, recipient=event.to)
    else:
        told.update(recipient=event.recipient, gateway=event.gateway, peer=event.peer, reply=str(event.reply)[:_MOST_TEXT])
        if kind is Delayed:
            told["next_attempt"] = time + event.next_attempt
    return _encode(told) + "\n"


def _client(client: ClientFacts) -> dict[str, Any]:
    told: dict[str, Any] = {"listener": client.listener, "ip": str(client.ip), "port": client.port}
    if client.helo:
        told["helo"] = client.helo[:_MOST_TEXT]
    if client.tls is not None:
        asked = f" for {client.tls.server_name}" if client.tls.server_name else ""
        told["tls"] = f"{client.tls.version} {client.tls.cipher}{asked}"
    if client.login:
        told["login"] = client.login
    return told


def _way(way: Way) -> dict[str, Any]:
    told: dict[str, Any] = {"address": way.recipient, "reply": str(way.reply)}
    for name, value in zip(_WAY, way[2:], strict=True):
        if value:
            told[name] = value
    return told


_WAY = Way._fields[2:]


def _opinion(one: Opinion) -> dict[str, Any]:
    decision = one.decision
    told: dict[str, Any] = {
        "policy": one.policy,
        "where": one.where,
        "stage": one.stage,
        "verdict": decision.verdict.value,
        "ms": round(one.seconds * 1000, 1),
    }
    if one.recipient:
        told["recipient"] = one.recipient
    if one.observed:
        told["observed"] = True
    if one.fault:
        told["fault"] = one.fault[:_MOST_TEXT]
    if decision.verdict is Verdict.PROCEED and not (decision.why or decision.evidence or decision.results or decision.tags):
        return told
    if decision.why:
        told["why"] = decision.why[:_MOST_TEXT]
    if decision.reply is not None:
        told["reply"] = str(decision.reply)
    if decision.evidence:
        told["evidence"] = [[fact.name, fact.value[:_MOST_TEXT], fact.source] for fact in decision.evidence]
    if decision.remedy:
        told["remedy"] = decision.remedy
    if decision.tags:
        told["tags"] = sorted(decision.tags)
    if decision.results:
        told["results"] = [f"{one.method}={one.result}" for one in decision.results]
    return told
