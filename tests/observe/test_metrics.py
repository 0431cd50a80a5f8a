"""What is counted, and how Prometheus reads it."""

import pytest
from prometheus_client.parser import text_string_to_metric_families
from twisted.web.test.requesthelper import DummyRequest

from mailgw.journal import Accepted, Bounced, Connected, Delayed, Delivered, Discarded, Disconnected, Failed, Fault, Held, Refused
from mailgw.observe.metrics import Metrics, dns_counters_of, gauges_of, page
from mailgw.observe.metrics_page import render
from mailgw.values.address import Address
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

OK, BUSY, NO = Reply(250, "2.0.0", "ok"), Reply(451, "4.3.0", "busy"), Reply(550, "5.7.1", "no")
ANN, BEN = Address.parse("ann@example.org"), Address.parse("ben@example.org")


UNLABELLED = ("accepted_messages", "accepted_recipients", "accepted_octets", "dns_cache_hits", "dns_cache_misses")


def read(samples):
    """Name with labels to value, as Prometheus understands the page."""
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(render(samples).decode())
        for one in family.samples
    }


@pytest.mark.parametrize(
    ("event", "counted"),
    [
        (Connected("s", "mx", "192.0.2.1:40000"), {("mailgw_sessions_total", "mx"): 2}),
        (
            Accepted("s", 1, ANN, [Recipient(ANN), Recipient(BEN)], 1000),
            {
                ("mailgw_accepted_messages_total",): 2,
                ("mailgw_accepted_recipients_total",): 4,
                ("mailgw_accepted_octets_total",): 2000,
            },
        ),
        (Refused("s", "rcpt", NO, "spf", "ann@example.org", "ben@example.org"), {("mailgw_refusals_total", "spf", "550", "rcpt"): 2}),
        (Held("s", 1, "spam", "odd"), {("mailgw_held_messages_total", "spam"): 2}),
        (Discarded("s", "a", ["b"], "spam", "odd"), {("mailgw_discarded_messages_total", "spam"): 2}),
        (
            Delivered("s", 1, "ben@example.org", "internet", "192.0.2.1", OK, 1.5),
            {("mailgw_deliveries_total", "internet"): 2, ("mailgw_delivery_seconds_total", "internet"): 3},
        ),
        (Delayed("s", 1, "ben@example.org", "internet", "", BUSY, 300.0), {("mailgw_deferrals_total", "internet"): 2}),
        (Failed("s", 1, "ben@example.org", "internet", "", NO), {("mailgw_failures_total", "internet"): 2}),
        (Bounced("s", 1, 2, "failed", "ann@example.org"), {("mailgw_bounces_total", "failed"): 2}),
        (Fault("s", "spf", "broke"), {("mailgw_faults_total", "spf"): 2}),
        (Disconnected("s", "quit", 1), {}),
        ("no event at all", {}),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, dict) else "",
)
def test_each_event_is_counted(event, counted):
    metrics = Metrics()
    metrics.note(event)
    metrics.note(event)
    nothing = {(f"mailgw_{what}_total",): 0 for what in UNLABELLED}
    assert read(metrics.samples) == nothing | counted


def test_labels_are_bounded():
    metrics = Metrics()
    for number in range(6000):
        metrics.note(Fault("s", f"component {number}", "broke"))
    assert len(metrics.samples) == 5001
    assert metrics.samples["mailgw_faults", "other"] == 1000


def test_nothing_that_a_client_says_is_told():
    metrics = Metrics()
    metrics.note(Refused("SESSION", "rcpt", NO, "spf", "ann@secret.example", "ben@secret.example", "because"))
    metrics.note(Accepted("SESSION", 1, ANN, [Recipient(BEN)], 10))
    text = render(metrics.samples).decode()
    assert not [word for word in ("secret", "SESSION", "because", "example.org") if word in text]


STATUS = {
    "uptime": 12.5,
    "listeners": {"mx": {"sessions": 3}},
    "certificates": [
        {"listener": "mx", "name": "default", "until": 2000.0},
        {"listener": "mx", "name": "brand", "until": 4000.0},
        {"listener": "mx", "name": "brand", "until": 3000.0},  # of a worker that still has the old one
    ],
    "resolver": {
        "hits": 7,
        "misses": 3,
        "in_flight": 1,
        "kept": 2,
        "name_servers": {"192.0.2.53:53": {"questions": 4, "failed": 2}, "[::1]:53": {"questions": 1, "failed": 0}},
    },
    "dispatcher": {"active": 2, "backed_off": [{"gateway": "internet"}], "store_blocked": True},
}
ROWS = [
    {"gateway": "internet", "next_hop": "a.example", "waiting": 5, "held": 1},
    {"gateway": "internet", "next_hop": "b.example", "waiting": 2, "held": 0},
]


def test_how_things_are():
    found = read(gauges_of(STATUS, {"destinations": ROWS, "total": {"oldest": 1000}}))
    assert (
        found
        | {
            ("mailgw_uptime_seconds",): 12.5,
            ("mailgw_workers_ready",): 1,
            ("mailgw_open_sessions", "mx"): 3,
            ("mailgw_certificate_not_after_timestamp_seconds", "mx", "default"): 2000,
            ("mailgw_certificate_not_after_timestamp_seconds", "mx", "brand"): 3000,
            ("mailgw_active_deliveries",): 2,
            ("mailgw_backed_off_destinations",): 1,
            ("mailgw_store_blocked",): 1,
            ("mailgw_dns_questions_in_flight",): 1,
            ("mailgw_queue_recipients", "internet", "waiting"): 7,
            ("mailgw_queue_recipients", "internet", "held"): 1,
            ("mailgw_queue_oldest_timestamp_seconds",): 1000,
        }
        == found
    )


def test_the_dns():
    found = read(dns_counters_of(STATUS["resolver"]))
    assert (
        found
        | {
            ("mailgw_dns_cache_hits_total",): 7,
            ("mailgw_dns_cache_misses_total",): 3,
            ("mailgw_dns_questions_total", "192.0.2.53:53"): 4,
            ("mailgw_dns_failures_total", "192.0.2.53:53"): 2,
            ("mailgw_dns_questions_total", "[::1]:53"): 1,
            ("mailgw_dns_failures_total", "[::1]:53"): 0,
        }
        == found
    )


def test_workers_and_an_empty_queue():
    status = {**STATUS, "workers": {"1": {"state": "ready"}, "2": {"state": "waiting"}, "3": {"state": "ready"}}}
    found = read(gauges_of(status, {"destinations": [], "total": {"oldest": None}}))
    assert found["mailgw_workers_ready",] == 2
    assert not [key for key in found if key[0].startswith("mailgw_queue")]


def asked(path, samples):
    request = DummyRequest([])
    request.path = path
    request.method = b"GET"
    answer = page(samples).resource.render_GET(request)
    if isinstance(answer, bytes):
        request.write(answer)
    return request


async def samples():
    return {("mailgw_accepted_messages",): 5}


async def trouble():
    raise RuntimeError("the queue is gone")


def test_the_page():
    request = asked(b"/metrics", samples)
    assert b"\nmailgw_accepted_messages_total 5.0\n" in b"".join(request.written)
    assert request.responseHeaders.getRawHeaders("content-type") == ["text/plain; version=0.0.4; charset=utf-8"]


@pytest.mark.parametrize(("path", "ask", "code"), [(b"/", samples, 404), (b"/metrics/x", samples, 404), (b"/metrics", trouble, 503)])
def test_another_page_and_trouble(path, ask, code):
    request = asked(path, ask)
    assert request.responseCode == code
    assert b"gone" not in b"".join(request.written)
