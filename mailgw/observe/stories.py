"""How a decision record and the deliveries that follow it are written down: one JSON object each, on one line.

::

    {"time": 1795320000.1, "event": "refused", "session": "K7F2QAZB", "transaction": 2, "ref": "7QK3M", "stage": "mail",
     "by": "spf", "why": "...", "reply": "550 5.7.23 ...", "client": {...}, "sender": "a@example.com", "recipients": [...],
     "asked": [{"policy": "spf", "where": "etc/mailgw.toml:57", "stage": "mail", "verdict": "reject", "ms": 1.2, ...}]}
    {"time": ..., "event": "delivered", "session": "K7F2QAZB", "message": 12, "recipient": "b@example.org", "gateway": ...}

Fields that are empty are left out; all is ASCII. The text is put together here and not by ``json.dumps``: there are two lines for every
message, and dictionaries made only to be written cost three times as much.
"""

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from json.encoder import encode_basestring_ascii
from typing import Any

from attrs import Factory, field, frozen

from mailgw.journal import Bounced, Delayed, Delivered, Failed
from mailgw.values.decision import Decision, proceed
from mailgw.values.facts import ClientFacts
from mailgw.values.record import Opinion, Record, Way

__all__ = ["DELIVERIES", "Scribe", "line_of_record"]

_MOST_WAYS = 100  # recipients, and
_MOST_OPINIONS = 300  # what was said about them, in one record: the story of a mailing to thousands stays readable
_MOST_TEXT = 500  # characters of a text that came from elsewhere
_MOST_KNOWN = 1024  # pieces of each kind that are kept because they come again

DELIVERIES: dict[type, str] = {Delivered: "delivered", Delayed: "delayed", Failed: "failed", Bounced: "bounced"}
"""The events after acceptance that belong to a message's story, and what they are called there."""

_NO_OBJECTION = proceed()


@lru_cache(_MOST_KNOWN)
def _ip(ip: IPv4Address | IPv6Address) -> str:
    return encode_basestring_ascii(str(ip))  # an IPv6 scope may hold any character


def _as_it_is(text: str) -> str:
    return text


@frozen
class Scribe:
    """Writes lines; ``redact`` gives what is to stand for each text.

    What policies and rules are called, where mail goes, and what was said about a session, comes again and again: 1,024 pieces of each
    are kept as they are written.
    """

    redact: Callable[[str], str] = _as_it_is
    _quoted: Callable[[str], str] = field(init=False, default=Factory(lambda self: self._quoting(), takes_self=True))
    _begun: Callable[[str, str, str], str] = field(
        init=False, default=Factory(lambda self: lru_cache(_MOST_KNOWN)(self._begin_opinion), takes_self=True)
    )
    _led: Callable[[Sequence[str]], str] = field(
        init=False, default=Factory(lambda self: lru_cache(_MOST_KNOWN)(self._lead), takes_self=True)
    )
    _of_sessions: dict[int, tuple[Opinion | ClientFacts, str]] = field(init=False, factory=dict)  # by id()

    def _quoting(self) -> Callable[[str], str]:
        redact = self.redact
        return encode_basestring_ascii if redact is _as_it_is else lambda text: encode_basestring_ascii(redact(text))

    def _short(self, text: str) -> str:
        # Redacted first: what is cut in the middle of an address would not be known for one.
        return self._quoted(text) if len(text) <= _MOST_TEXT else encode_basestring_ascii(self.redact(text)[:_MOST_TEXT])

    def line_of_record(self, record: Record) -> str:
        """The line, with its line end."""
        quoted = self._quoted
        time, client, outcome, stage, transaction, reply, by, why, ref, sender, size, message, ways, opinions = record
        line = f'{{"time":{time!r},"event":"{outcome}","session":{quoted(client.session)}'
        if transaction:
            line += f',"transaction":{transaction}'
        if ref:
            line += f',"ref":{quoted(ref)}'
        line += f',"stage":"{stage}"'
        if by:
            line += f',"by":{quoted(by)}'
        if why:
            line += f',"why":{self._short(why)}'
        if message:
            line += f',"message":{message}'
        if size:
            line += f',"size":{size}'
        if reply is not None:
            line += f',"reply":{quoted(str(reply))}'
        line += f',"client":{self._client(client)}'
        if sender is not None:
            line += f',"sender":{quoted(str(sender) or "<>")}'
        if ways:
            line += f',"recipients":[{",".join([self._way(way) for way in ways[:_MOST_WAYS]])}]'
        if opinions:
            opinion = self._opinion
            line += f',"asked":[{",".join([opinion(one) for one in opinions[:_MOST_OPINIONS]])}]'
        if len(ways) > _MOST_WAYS or len(opinions) > _MOST_OPINIONS:
            line += f',"more":{{"recipients":{len(ways)},"asked":{len(opinions)}}}'
        return line + "}\n"

    def line_of_delivery(self, event: Any, time: float) -> str:
        """The line, with its line end; the event is one of `DELIVERIES`."""
        quoted, kind = self._quoted, type(event)
        line = f'{{"time":{time!r},"event":"{DELIVERIES[kind]}","session":{quoted(event.session)},"message":{event.message}'
        if kind is Bounced:
            return f'{line},"dsn":{event.dsn},"action":{quoted(event.action)},"recipient":{quoted(event.to)}}}\n'
        line += (
            f',"recipient":{quoted(event.recipient)},"gateway":{quoted(event.gateway)},"peer":{quoted(event.peer)}'
            f',"reply":{self._short(str(event.reply))}'
        )
        return f'{line},"next_attempt":{time + event.next_attempt!r}}}\n' if kind is Delayed else f"{line}}}\n"

    def _client(self, client: ClientFacts) -> str:
        return self._once(client, self._new_client)

    def _once(self, thing: Any, write: Callable[[Any], str]) -> str:
        # What is so for a whole session is told with each of its transactions.
        known = self._of_sessions.get(id(thing))
        if known is None:
            if len(self._of_sessions) >= _MOST_KNOWN:
                self._of_sessions.clear()
            known = self._of_sessions[id(thing)] = (thing, write(thing))
        return known[1]

    def _new_client(self, client: ClientFacts) -> str:
        quoted = self._quoted
        text = f'{{"listener":{quoted(client.listener)},"ip":{_ip(client.ip)},"port":{client.port}'
        if client.helo:
            text += f',"helo":{self._short(client.helo)}'
        if client.tls is not None:
            asked = f" for {client.tls.server_name}" if client.tls.server_name else ""
            text += f',"tls":{quoted(f"{client.tls.version} {client.tls.cipher}{asked}")}'
        if client.login:
            text += f',"login":{quoted(client.login)}'
        return text + "}"

    def _way(self, way: Way) -> str:
        return f'{{"address":{self._quoted(way.recipient)},"reply":{self._quoted(str(way.reply))}{self._led(way[2:])}}}'

    def _lead(self, rest: Sequence[str]) -> str:
        return "".join([f',"{name}":{self._quoted(value)}' for name, value in zip(_WAY, rest, strict=True) if value])

    def _opinion(self, one: Opinion) -> str:
        return self._once(one, self._new_opinion) if one.stage == "connect" else self._new_opinion(one)

    def _new_opinion(self, one: Opinion) -> str:
        policy, where, stage, decision, seconds, observed, recipient, fault = one
        if decision is _NO_OBJECTION and not observed and not fault:
            about = f',"recipient":{self._quoted(recipient)}}}' if recipient else "}"
            return f'{self._begun(policy, where, stage)}"proceed","ms":{seconds * 1000:.1f}{about}'
        text = f'{self._begun(policy, where, stage)}"{decision.verdict.value}","ms":{seconds * 1000:.1f}'
        if recipient:
            text += f',"recipient":{self._quoted(recipient)}'
        if observed:
            text += ',"observed":true'
        if fault:
            text += f',"fault":{self._short(fault)}'
        return f"{text}{self._grounds(decision)}}}"

    def _begin_opinion(self, policy: str, where: str, stage: str) -> str:
        return f'{{"policy":{self._quoted(policy)},"where":{self._quoted(where)},"stage":"{stage}","verdict":'

    def _grounds(self, decision: Decision) -> str:
        quoted, short = self._quoted, self._short
        text = f',"why":{short(decision.why)}' if decision.why else ""
        if decision.reply is not None:
            text += f',"reply":{quoted(str(decision.reply))}'
        if decision.evidence:
            facts = [
                f"[{quoted(one.name)},{quoted(one.value) if len(one.value) <= _MOST_TEXT else short(one.value)},{quoted(one.source)}]"
                for one in decision.evidence
            ]
            text += f',"evidence":[{",".join(facts)}]'
        if decision.remedy:
            text += f',"remedy":{quoted(decision.remedy)}'
        if decision.tags:
            text += f',"tags":[{",".join([quoted(tag) for tag in sorted(decision.tags)])}]'
        if decision.results:
            text += f',"results":[{",".join([quoted(f"{result.method}={result.result}") for result in decision.results])}]'
        return text


_WAY = Way._fields[2:]

line_of_record = Scribe().line_of_record
"""Writes a record with nothing redacted."""
