"""What is posted: a message as it is, or in JSON; streamed, so that a big one is never in memory as a whole."""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator
from typing import Any, Literal

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer
from twisted.python.failure import Failure
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from mailgw.values.content import Content
from mailgw.values.delivery import Recipient, Shipment

__all__ = ["Body", "Producer"]


@frozen
class Body:
    """The octets of a request: those of the message, perhaps as base64 (RFC 4648 §4), between a beginning and an end."""

    content: Content
    type: str  # of the Content-Type field
    head: bytes = b""
    tail: bytes = b""
    base64: bool = False

    @classmethod
    def of(cls, shipment: Shipment, recipients: tuple[Recipient, ...], kind: Literal["raw", "json"]) -> "Body":
        """``raw``: the message; ``json``: an object with the envelope and, last, the message in ``content``."""
        if kind == "raw":
            return cls(shipment.content, "message/global" if shipment.envelope.smtputf8 else "message/rfc822")  # RFC 6532 §3.7
        envelope = shipment.envelope
        fields = {
            "message": shipment.message,
            "session": envelope.session,
            "sender": str(envelope.sender),
            "recipients": [str(recipient.address) for recipient in recipients],
            "arrived": envelope.arrived,
            "client_ip": None if envelope.client_ip is None else str(envelope.client_ip),
            "helo": envelope.helo,
            "login": envelope.login,
            "tags": sorted(envelope.tags),
        }
        return cls(shipment.content, "application/json", json.dumps(fields)[:-1].encode() + b', "content": "', b'"}', base64=True)

    @property
    def size(self) -> int:
        """Octets."""
        size = self.content.size
        return len(self.head) + (-(-size // 3) * 4 if self.base64 else size) + len(self.tail)

    def chunks(self) -> Iterator[bytes]:
        """All of it, in pieces. Raises OSError."""
        if self.head:
            yield self.head
        yield from _in_base64(self.content.chunks()) if self.base64 else self.content.chunks()
        if self.tail:
            yield self.tail


def _in_base64(chunks: Iterator[bytes]) -> Iterator[bytes]:
    held = b""
    for chunk in chunks:
        chunk = held + chunk
        whole = len(chunk) - len(chunk) % 3
        held = chunk[whole:]
        yield b64encode(chunk[:whole])
    yield b64encode(held)


@implementer(IBodyProducer)
class Producer:
    """Writes a body as fast as it is taken; ``progress`` is called for each piece."""

    def __init__(self, body: Body, progress: Callable[[], None]) -> None:
        self.length = body.size
        self.is_done = False  # everything was written
        self._chunks = body.chunks()
        self._progress = progress
        self._consumer: Any = None
        self._finished: Deferred[None] | None = None
        self._paused = False

    def startProducing(self, consumer: IConsumer) -> "Deferred[None]":  # noqa: N802 - named by Twisted
        self._consumer = consumer
        self._finished = finished = Deferred[None]()
        self.resumeProducing()
        return finished

    def resumeProducing(self) -> None:  # noqa: N802
        self._paused = False
        while not self._paused and self._finished is not None:
            try:
                chunk = next(self._chunks, None)
                if chunk:
                    self._progress()
                    self._consumer.write(chunk)
            except Exception:
                self._finish(Failure())  # type: ignore[no-untyped-call]
                return
            if chunk is None:
                self.is_done = True
                self._finish(None)

    def pauseProducing(self) -> None:  # noqa: N802
        self._paused = True

    def stopProducing(self) -> None:  # noqa: N802
        self._finished = None

    def _finish(self, result: Any) -> None:
        finished, self._finished = self._finished, None
        if finished is not None:
            succeed(result).chainDeferred(finished)
