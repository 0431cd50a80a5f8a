"""In front of a listener: connections of load balancers must begin with a PROXY header, all others go straight on.

A connection is handed over together with its transport when its header has been read: from then on nothing stands between
the socket and those inside (TLS, the SMTP protocol), and what they are given as the client's address is what the header says.
"""

from collections.abc import Sequence
from ipaddress import IPv6Address as Ip6
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.interfaces import IAddress, IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from mailgw.journal import Fault, Journal
from mailgw.receive.peer import is_within, peer_of
from mailgw.settings import Network
from mailgw.smtp.proxyline import BadProxyHeader, Origin, ProxyHeader, read_proxy_header
from mailgw.values.facts import UNKNOWN_IP

__all__ = ["ProxyFactory", "ProxyProtocol"]

_PATIENCE = 10.0  # seconds for the header; proxy-protocol.txt §2 wants at least 3


class ProxyProtocol(Protocol):
    """A balancer's connection until its header is here."""

    factory: "ProxyFactory"

    def __init__(self, peer: IAddress | None) -> None:
        """Make one; ``peer`` is the balancer."""
        self._peer = peer
        self._data = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:  # noqa: N802
        self.factory.waiting += 1
        self._timer = self.factory.clock.callLater(_PATIENCE, self._refuse, "it did not come in time")

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._timer is None:
            return  # refused
        self._data += data
        try:
            header = read_proxy_header(self._data)
        except BadProxyHeader as problem:
            self._refuse(str(problem))
            return
        if header is not None:
            self._hand_over(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        # Who says nothing at all has looked whether the port is open, as balancers do every second or two.
        if self._timer is not None:
            if self._data:
                self._complain("it broke off in the middle")
            self._stop_waiting()

    def _hand_over(self, header: ProxyHeader) -> None:
        self._stop_waiting()
        transport: Any = self.transport
        inner: Any = self.factory.inner.buildProtocol(self._peer if header.local else _address(header.source))
        if inner is None:
            transport.abortConnection()
            return
        rest, self._data = self._data[header.length :], b""
        transport.protocol = inner
        inner.makeConnection(transport)
        if rest:
            inner.dataReceived(rest)

    def _refuse(self, why: str) -> None:
        self._complain(why)
        self._stop_waiting()
        transport: Any = self.transport
        transport.abortConnection()

    def _complain(self, why: str) -> None:
        ip, port = peer_of(self._peer)
        problem = f"closed the connection of {ip}:{port}, which must begin with a PROXY header: {why}"
        self.factory.journal.note(Fault("", f"listen.{self.factory.listener}", problem))

    def _stop_waiting(self) -> None:
        self.factory.waiting -= 1
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()


def _address(source: Origin | None) -> IAddress:
    ip, port = source or (UNKNOWN_IP, 0)
    kind = IPv6Address if isinstance(ip, Ip6) else IPv4Address
    return kind("TCP", str(ip), port)


class ProxyFactory(Factory):
    """Makes the protocols of a listener with ``proxy`` networks."""

    noisy = False

    def __init__(
        self, inner: Factory, listener: str, networks: Sequence[Network], journal: Journal, clock: IReactorTime, max_waiting: int = 5000
    ) -> None:
        """Make one; ``inner`` makes the protocols inside, ``max_waiting`` bounds the connections that have not sent their header."""
        self.inner = inner
        self.listener = listener
        self.journal = journal
        self.clock = clock
        self.waiting = 0
        self._networks = networks
        self._max_waiting = max_waiting

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        """Make one for a new connection."""
        if not is_within(peer_of(addr)[0], self._networks):
            return self.inner.buildProtocol(addr)
        if self.waiting >= self._max_waiting:
            return None
        protocol = ProxyProtocol(addr)
        protocol.factory = self
        return protocol
