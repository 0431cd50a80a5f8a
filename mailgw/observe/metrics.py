"""What Prometheus finds at /metrics: the journal's events and questions to the DNS counted, and how things are at the moment of asking.

Samples are plain numbers by name and labels: ``("mailgw_deliveries", "internet")``. So the parent of several workers can add
theirs up. No label holds what a client or a message says: labels are names from the configuration, stages and reply codes.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from attrs import define, field
from zope.interface import implementer

from mailgw.interfaces import IObserver
from mailgw.journal import Accepted, Bounced, Connected, Delayed, Delivered, Discarded, Failed, Fault, Held, Refused

__all__ = ["COUNTERS", "GAUGES", "Metrics", "Samples", "dns_counters_of", "gauges_of", "page"]

Samples = dict[tuple[str, ...], float]

_MOST = 5000  # samples: what is beyond is counted under the label "other"

COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mailgw_sessions": ("Sessions that began.", ("listener",)),
    "mailgw_accepted_messages": ("Messages that were answered with 250 and are ours.", ()),
    "mailgw_accepted_recipients": ("Their recipients.", ()),
    "mailgw_accepted_octets": ("Their octets, as they came.", ()),
    "mailgw_refusals": ("Refusals, by stage, by the policy or rule that refused, and by reply code.", ("stage", "by", "code")),
    "mailgw_held_messages": ("Messages that were accepted and put on hold.", ("by",)),
    "mailgw_discarded_messages": ("Messages that a policy threw away.", ("by",)),
    "mailgw_deliveries": ("Recipients whose mail went into other hands.", ("gateway",)),
    "mailgw_delivery_seconds": ("Time from arrival to delivery, added up over these recipients.", ("gateway",)),
    "mailgw_deferrals": ("Attempts that did not succeed and will be repeated, by recipient.", ("gateway",)),
    "mailgw_failures": ("Recipients that were given up.", ("gateway",)),
    "mailgw_bounces": ("DSNs that were queued, by what they tell.", ("action",)),
    "mailgw_dns_cache_hits": ("Look-ups in the DNS that were answered from the cache.", ()),
    "mailgw_dns_cache_misses": ("Look-ups in the DNS for which name servers were asked.", ()),
    "mailgw_dns_questions": ("Questions to a name server.", ("server",)),
    "mailgw_dns_failures": ("Questions that it did not answer, or with a refusal or failure.", ("server",)),
    "mailgw_faults": ("What did not work inside of mailgw or a plugin.", ("component",)),
}
"""What each of them counts, and the names of its labels."""

GAUGES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "mailgw_uptime_seconds": ("Since the start.", ()),
    "mailgw_workers_ready": ("Workers that take mail.", ()),
    "mailgw_open_sessions": ("Sessions at this moment.", ("listener",)),
    "mailgw_queue_recipients": ("Recipients in the queue.", ("gateway", "state")),
    "mailgw_queue_oldest_timestamp_seconds": ("When the oldest of them arrived.", ()),
    "mailgw_active_deliveries": ("Deliveries at this moment.", ()),
    "mailgw_backed_off_destinations": ("Destinations that cannot be reached and are left alone for a while.", ()),
    "mailgw_dns_questions_in_flight": ("Look-ups that wait for name servers at this moment.", ()),
    "mailgw_store_blocked": ("1 while the queue cannot write down what became of deliveries.", ()),
    "mailgw_certificate_not_after_timestamp_seconds": ("When a certificate, or another of its chain, expires.", ("listener", "name")),
}
"""What each of them tells, and the names of its labels."""


@implementer(IObserver)
@define(eq=False)
class Metrics:
    """Counts the journal's events, in less than a microsecond each."""

    samples: Samples = field(factory=dict)

    def note(self, event: Any) -> None:
        samples = self.samples
        for key, number in _CHANGES.get(type(event), _nothing)(event):
            try:
                samples[key] += number
            except KeyError:
                self._begin(key, number)

    def _begin(self, key: tuple[str, ...], number: float) -> None:
        if len(self.samples) >= _MOST:
            key = (key[0], *("other" for _ in key[1:]))
        self.samples[key] = self.samples.get(key, 0) + number


_Changes = Iterable[tuple[tuple[str, ...], float]]


def _nothing(event: Any) -> _Changes:  # noqa: ARG001
    return ()


_CHANGES: Mapping[type, Callable[[Any], _Changes]] = {
    Connected: lambda event: ((("mailgw_sessions", event.listener), 1),),
    Accepted: lambda event: (
        (("mailgw_accepted_messages",), 1),
        (("mailgw_accepted_recipients",), len(event.recipients)),
        (("mailgw_accepted_octets",), event.size),
    ),
    Refused: lambda event: ((("mailgw_refusals", event.stage, event.by, str(event.reply.code)), 1),),
    Held: lambda event: ((("mailgw_held_messages", event.by), 1),),
    Discarded: lambda event: ((("mailgw_discarded_messages", event.by), 1),),
    Delivered: lambda event: ((("mailgw_deliveries", event.gateway), 1), (("mailgw_delivery_seconds", event.gateway), event.seconds)),
    Delayed: lambda event: ((("mailgw_deferrals", event.gateway), 1),),
    Failed: lambda event: ((("mailgw_failures", event.gateway), 1),),
    Bounced: lambda event: ((("mailgw_bounces", event.action), 1),),
    Fault: lambda event: ((("mailgw_faults", event.component), 1),),
}


def gauges_of(status: Mapping[str, Any], stats: Mapping[str, Any]) -> Samples:
    """How things are, from the answers to an operator's "status" and "queue_stats"."""
    dispatcher = status["dispatcher"]
    workers = status.get("workers")
    samples: Samples = {
        ("mailgw_uptime_seconds",): status["uptime"],
        ("mailgw_workers_ready",): 1 if workers is None else sum(one["state"] == "ready" for one in workers.values()),
        ("mailgw_active_deliveries",): dispatcher["active"],
        ("mailgw_backed_off_destinations",): len(dispatcher["backed_off"]),
        ("mailgw_store_blocked",): int(dispatcher["store_blocked"]),
    }
    if "resolver" in status:
        samples["mailgw_dns_questions_in_flight",] = status["resolver"]["in_flight"]
    for name, listener in status["listeners"].items():
        samples["mailgw_open_sessions", name] = listener["sessions"]
    for one in status["certificates"]:
        # Of several workers one may not have read the new files yet, or cannot.
        key = ("mailgw_certificate_not_after_timestamp_seconds", one["listener"], one["name"])
        samples[key] = min(one["until"], samples.get(key, one["until"]))
    for row in stats["destinations"]:
        for state in ("waiting", "held"):
            key = ("mailgw_queue_recipients", row["gateway"], state)
            samples[key] = samples.get(key, 0) + row[state]
    if stats["total"]["oldest"] is not None:
        samples[("mailgw_queue_oldest_timestamp_seconds",)] = stats["total"]["oldest"]
    return samples


def dns_counters_of(resolver: Mapping[str, Any]) -> Samples:
    """The resolver's part of the answer to "status", as counters."""
    samples: Samples = {("mailgw_dns_cache_hits",): resolver["hits"], ("mailgw_dns_cache_misses",): resolver["misses"]}
    for server, counts in resolver["name_servers"].items():
        samples["mailgw_dns_questions", server] = counts["questions"]
        samples["mailgw_dns_failures", server] = counts["failed"]
    return samples


def page(ask: Callable[[], Awaitable[Samples]]) -> Any:
    """The factory of an HTTP server with the page /metrics; ``ask`` gives all samples."""
    # Imported where it is wanted: prometheus_client and Twisted's HTTP server cost every other start 30 ms.
    from mailgw.observe.metrics_page import Page, Quiet

    return Quiet(Page(ask))  # type: ignore[no-untyped-call]
