"""Another daemon's Unix socket, asked from inside of a daemon: as `mailgw.admin.client`, without blocking."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet import defer
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory, connectionDone
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure

from mailgw.admin.reading import Refusal

__all__ = ["Remote"]

_QUICK = 5.0  # seconds for what every answer has ready
_PATIENT = 50.0  # seconds for the others: less than an operator waits for us
_SLOW = (
    *("queue_retry", "queue_hold", "queue_release", "queue_drop", "queue_list", "queue_stats"),
    *("part_give", "reload", "reload_prepare", "reload_keep", "route"),
)


class _Question(LineOnlyReceiver):
    delimiter = b"\n"
    MAX_LENGTH = 64 * 1024 * 1024

    def __init__(self) -> None:
        self.answer: Deferred[bytes] = Deferred()

    def lineReceived(self, line: bytes) -> None:  # noqa: N802
        if not self.answer.called:
            self.answer.callback(line)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        if not self.answer.called:
            self.answer.errback(reason)


class Remote:
    """The operations of the daemon that listens at ``path``, one connection for each."""

    def __init__(self, path: Path, name: str, reactor: Any) -> None:
        """Make one; ``name`` is what an operator is told where it does not answer."""
        self._path = path
        self._name = name
        self._reactor = reactor

    async def perform(self, operation: str, arguments: Mapping[str, Any], descriptors: Sequence[int] = ()) -> dict[str, Any]:
        """See `Reading.perform`. ``descriptors`` go along, for the argument of that name; they stay ours, too.

        Raises Refusal: "unavailable" where nobody answers.
        """
        seconds = _PATIENT if operation in _SLOW else _QUICK
        try:
            line = await Deferred.fromCoroutine(self._ask(operation, arguments, descriptors)).addTimeout(seconds, self._reactor)
        except (ConnectError, defer.TimeoutError, CancelledError, OSError) as problem:
            raise Refusal("unavailable", f"{self._name} does not answer: {problem}") from problem
        except Exception as problem:  # the connection was lost, in one of many ways
            raise Refusal("unavailable", f"{self._name} broke off: {problem}") from problem
        said = json.loads(line)
        if "error" in said:
            raise Refusal(said["error"]["kind"], said["error"]["text"])
        answer: dict[str, Any] = said["answer"]
        return answer

    async def _ask(self, operation: str, arguments: Mapping[str, Any], descriptors: Sequence[int]) -> bytes:
        factory = Factory.forProtocol(_Question)
        factory.noisy = False
        endpoint: Any = UNIXClientEndpoint(self._reactor, str(self._path), _QUICK)  # type: ignore[no-untyped-call]
        question = await endpoint.connect(factory)
        try:
            request = {"operation": operation, "arguments": arguments}
            for descriptor in descriptors:
                question.transport.sendFileDescriptor(descriptor)
            question.transport.write(json.dumps(request, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            return await question.answer  # type: ignore[no-any-return]
        finally:
            question.transport.abortConnection()
