"""A connection that exists in memory only: what a session writes to it somebody reads, and TLS is a word."""

from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import ISSLTransport
from twisted.internet.testing import StringTransport
from zope.interface import directlyProvides

__all__ = ["InMemoryTransport", "connect"]


class InMemoryTransport(StringTransport):
    """The server's end: what it has written is in `value`, and whether it has hung up in `disconnecting`."""

    protocol: Any = None  # what is at work on the connection at this moment
    disconnected = False
    in_tls: Any = None  # set when the server begins TLS: whoever plays the client says when the handshake is over
    changed: Callable[[], object] = staticmethod(lambda: None)  # called when the server has written, or hung up

    def write(self, data: bytes) -> None:
        """Say something to the client."""
        super().write(data)  # type: ignore[no-untyped-call]
        self.changed()

    def loseConnection(self) -> None:  # noqa: N802
        """Hang up."""
        super().loseConnection()  # type: ignore[no-untyped-call]
        self.changed()

    def abortConnection(self) -> None:  # noqa: N802
        """End by force."""
        self.loseConnection()

    def startTLS(self, factory: Any) -> None:  # noqa: N802
        """Begin TLS."""
        self.in_tls = factory

    def setTcpNoDelay(self, enabled: bool) -> None:  # noqa: N802
        """There is nothing to delay."""

    def getHandle(self) -> Any:  # noqa: N802
        """What is asked about TLS."""
        return _Handle()


class _Handle:
    def get_protocol_version_name(self) -> str:
        return "TLSv1.3"

    def get_cipher_name(self) -> str:
        return "TLS_AES_256_GCM_SHA384"

    def get_servername(self) -> None:
        return None

    def export_keying_material(self, label: bytes, length: int, context: bytes) -> bytes:  # noqa: ARG002
        return bytes(length)

    def get_peer_certificate(self) -> None:
        return None


def connect(factory: Any, ip: str, port: int, tls: bool = False) -> InMemoryTransport:
    """Connect a client from this address to what ``factory`` builds; ``tls``: the connection begins with TLS."""
    kind = IPv6Address if ":" in ip else IPv4Address
    address = kind("TCP", ip, port)
    transport: Any = InMemoryTransport(peerAddress=address)  # type: ignore[no-untyped-call]
    if tls:
        directlyProvides(transport, ISSLTransport)
    transport.protocol = factory.buildProtocol(address)
    transport.protocol.makeConnection(transport)
    return transport  # type: ignore[no-any-return]
