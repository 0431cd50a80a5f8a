"""Questions to web services that know accounts: one bounded answer each, no redirects, no cookies."""

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.interfaces import IConsumer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import RequestTransmissionFailed, ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable

__all__ = ["MAX_ANSWER", "ask_web", "is_safe", "json_object", "safe_url"]

MAX_ANSWER = 65536  # octets


def is_safe(url: str) -> bool:
    """Whether a URL is https, or leads to this machine."""
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1"))


def safe_url(_: Any, attribute: "attrs.Attribute[Any]", url: str) -> None:
    """A validator: https, or http on this machine; an empty text is left to others. Raises ValueError."""
    if not url:
        return
    parts = urlsplit(url)
    if not is_safe(url) or not parts.hostname:
        raise ValueError(f"{attribute.name} must begin with https:// and a host: secrets go there")
    if parts.username is not None or not url.isascii() or not url.isprintable() or " " in url:
        raise ValueError(f"{attribute.name} must be ASCII, and hold no name and no password")
    _ = parts.port  # raises ValueError


async def ask_web(
    agent: IAgent,
    clock: IReactorTime,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    body: bytes = b"",
    timeout: float,
    limit: int = MAX_ANSWER,
) -> tuple[int, bytes]:
    """The status and the body of the answer. Raises AccountsUnavailable; its text holds nothing of what was asked."""
    host = urlsplit(url).hostname
    asking: Deferred[tuple[int, bytes]] = Deferred.fromCoroutine(_ask_twice(agent, method, url, headers, body, limit))
    try:
        return await asking.addTimeout(timeout, clock)
    except TimedOut:
        raise AccountsUnavailable(f"{host} did not answer within {timeout:g} s") from None
    except (AccountsUnavailable, CancelledError):
        raise
    except Exception as problem:  # of many kinds, and they may repeat the request
        raise AccountsUnavailable(f"{host} cannot be asked: {_reason(problem)}") from None


async def _ask_twice(agent: IAgent, method: str, url: str, headers: Mapping[str, str], body: bytes, limit: int) -> tuple[int, bytes]:
    try:
        return await _ask(agent, method, url, headers, body, limit)
    except (ResponseNeverReceived, RequestTransmissionFailed) as problem:
        if any(reason.check(CancelledError) for reason in problem.reasons):
            raise CancelledError from None  # the time is up
        # A kept connection that the server was just closing. Asking twice whether a proof is good does no harm.
        return await _ask(agent, method, url, headers, body, limit)


async def _ask(agent: IAgent, method: str, url: str, headers: Mapping[str, str], body: bytes, limit: int) -> tuple[int, bytes]:
    fields = Headers({name: [value] for name, value in {"User-Agent": "mailgw", "Accept": "application/json", **headers}.items()})
    response: Any = await agent.request(method.encode(), url.encode(), fields, _Body(body) if body else None)
    answer = _Answer(limit)
    response.deliverBody(answer)
    return int(response.code), await answer.whole


def json_object(body: bytes, host: str) -> Mapping[str, Any]:
    """The object that a body holds. Raises AccountsUnavailable."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, Mapping):
        raise AccountsUnavailable(f"{host} gave an answer that is no JSON object")
    return found


def _reason(problem: Exception) -> str:
    reasons = getattr(problem, "reasons", None)
    inner = reasons[0].value if reasons else problem
    return f"{type(inner).__name__}"


@implementer(IBodyProducer)
class _Body:
    """All of it at once: it is small."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: IConsumer) -> "Deferred[None]":  # noqa: N802 - named by Twisted
        consumer.write(self._body)
        return succeed(None)

    def pauseProducing(self) -> None:  # noqa: N802
        pass

    def resumeProducing(self) -> None:  # noqa: N802
        pass

    def stopProducing(self) -> None:  # noqa: N802
        pass


class _Answer(Protocol):
    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._data = b""
        self.whole: Deferred[bytes] = Deferred(lambda _: self._stop())

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - named by Twisted
        self._data += data
        if len(self._data) > self._limit and not self.whole.called:
            self.whole.errback(AccountsUnavailable("the answer is too long"))
            self._stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if self.whole.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.whole.callback(self._data)
        else:
            self.whole.errback(ResponseFailed([reason]))  # type: ignore[no-untyped-call]

    def _stop(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()
