"""Who brings a message from its file onto a connection: piece by piece, as fast as the next hop takes it."""

from collections.abc import Callable, Iterator
from typing import Any

from twisted.internet.interfaces import IPullProducer
from zope.interface import implementer

from mailgw.smtp.client import ClientSession
from mailgw.values.content import Content

__all__ = ["Carrier"]


@implementer(IPullProducer)
class Carrier:
    """Carries one content. ``moved`` is called after each piece; ``failed``, with the reason, when it cannot be carried whole."""

    def __init__(
        self, content: Content, session: ClientSession, transport: Any, moved: Callable[[], object], failed: Callable[[str], object]
    ) -> None:
        self._session = session
        self._transport = transport
        self._moved = moved
        self._failed = failed
        self._chunks: Iterator[bytes] | None = content.chunks()
        self._to_come = content.size

    def start(self) -> None:
        """Begin: the transport asks for the pieces from now on."""
        self._transport.registerProducer(self, False)

    def stop(self) -> None:
        """Carry no more."""
        if self._chunks is not None:
            self._chunks = None
            self._transport.unregisterProducer()

    def resumeProducing(self) -> None:  # noqa: N802 - named by Twisted
        """The next piece."""
        if self._chunks is None:
            return
        try:
            chunk = next(self._chunks, None)
        except OSError as problem:
            self._failed(f"message cannot be read: {problem.strerror}")
            return
        if chunk is not None and len(chunk) <= self._to_come:
            self._to_come -= len(chunk)
            self._transport.write(self._session.add_content(chunk))
        elif chunk is not None or self._to_come:
            # The end that we told by BDAT, and the size told by MAIL, would be lies.
            self._failed("message file has another size than it had")
            return
        else:
            self._chunks = None
            self._transport.write(self._session.end_content())
            self._transport.unregisterProducer()
        self._moved()

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is lost."""
        self._chunks = None
