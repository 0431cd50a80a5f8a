"""The page /metrics for Prometheus: what `mailgw.observe.metrics` has counted, in its text format."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ILoggingContext
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import NOT_FOUND, SERVICE_UNAVAILABLE
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface import implementer

from mailgw.observe.metrics import COUNTERS, GAUGES, Samples

__all__ = ["Page", "Quiet", "render"]

_log = Logger(namespace="mailgw.metrics")


class _Found(Collector):
    def __init__(self, samples: Samples) -> None:
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        by_name: dict[str, list[tuple[tuple[str, ...], float]]] = {}
        for key, value in sorted(self._samples.items()):
            by_name.setdefault(key[0], []).append((key[1:], value))
        for families, kind in ((COUNTERS, CounterMetricFamily), (GAUGES, GaugeMetricFamily)):
            for name, (text, names) in families.items():
                family = kind(name, text, labels=names)
                # What has no labels is there from the beginning.
                for labels, value in by_name.get(name, () if names or kind is GaugeMetricFamily else (((), 0),)):
                    family.add_metric(labels, value)
                yield family


def render(samples: Samples) -> bytes:
    """Samples in Prometheus's text format."""
    registry = CollectorRegistry()
    registry.register(_Found(samples))
    return generate_latest(registry)


class Page(Resource):
    """/metrics, and nothing else; ``ask`` gives all samples."""

    isLeaf = True  # noqa: N815

    def __init__(self, ask: Callable[[], Awaitable[Samples]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._ask = ask

    def render_GET(self, request: Any) -> Any:  # noqa: N802
        if request.path != b"/metrics":
            request.setResponseCode(NOT_FOUND)
            return b"metrics are at /metrics\n"
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        answer = Deferred.fromCoroutine(_wait(self._ask()))
        answer.addCallbacks(self._tell, self._complain, callbackArgs=(request, gone), errbackArgs=(request, gone))
        return NOT_DONE_YET

    def _tell(self, samples: Samples, request: Any, gone: list[object]) -> None:
        if not gone:
            request.setHeader(b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
            request.write(render(samples))
            request.finish()

    def _complain(self, failure: Failure, request: Any, gone: list[object]) -> None:
        _log.error("metrics cannot be told: {problem}", problem=failure.value)
        if not gone:
            request.setResponseCode(SERVICE_UNAVAILABLE)
            request.finish()


@implementer(ILoggingContext)
class Quiet(Site):
    """An HTTP server without a log: who asks every few seconds is no news."""

    noisy = False

    def logPrefix(self) -> str:  # noqa: N802
        """What Twisted says is starting when the port is bound."""
        return "metrics"

    def log(self, request: Any) -> None:
        """Nothing."""


async def _wait(samples: Awaitable[Samples]) -> Samples:
    return await samples
