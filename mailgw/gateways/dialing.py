"""Opens connections to next hops, over TCP and Unix sockets."""

import re
from typing import Any

from attrs import frozen
from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.defer import CancelledError
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint, UNIXClientEndpoint
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.interfaces import IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from mailgw.interfaces import IDialer

__all__ = ["Dialer", "split_address"]

_NO_HOST = re.compile(r"[/\s]")


def split_address(where: str, default_port: int) -> tuple[str, int]:
    """Read ``"host"``, ``"host:587"``, ``"192.0.2.1:25"``, ``"[::1]:25"`` or ``"::1"`` as host and port. Raises ValueError."""
    host, port = where, str(default_port)
    if where.startswith("["):
        host, bracket, rest = where[1:].partition("]")
        if not bracket or not isIPv6Address(host) or (rest and not rest.startswith(":")):
            raise ValueError(f'"{where}" is no address; write it like "[2001:db8::1]:25"')
        port = rest[1:] if rest else port
    elif where.count(":") == 1:
        host, _, port = where.partition(":")
    elif ":" in where and not isIPv6Address(where):
        raise ValueError(f'"{where}" is no address; write it like "host:25"')
    if not host or _NO_HOST.search(host) or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f'"{where}" is no address; write it like "host:25"')
    return host, int(port)


@implementer(IDialer)
@frozen
class Dialer:
    """The house's `IDialer`. ``reactor`` provides IReactorTCP, IReactorUNIX, IReactorTime and, for names, a resolver."""

    reactor: Any

    async def dial(self, where: str, factory: IProtocolFactory, timeout: float) -> Any:
        try:
            return await self._endpoint(where, timeout).connect(factory)
        except ConnectingCancelledError:  # an endpoint's own word for it, which nobody else knows
            raise CancelledError from None

    def _endpoint(self, where: str, timeout: float) -> IStreamClientEndpoint:
        # The endpoints want whole seconds in their annotations and take any number.
        seconds: Any = timeout
        if where.startswith("unix:"):
            return UNIXClientEndpoint(self.reactor, where.removeprefix("unix:"), timeout=seconds)  # type: ignore[no-untyped-call]
        host, port = split_address(where, 25)
        if isIPAddress(host):
            return TCP4ClientEndpoint(self.reactor, host, port, timeout=seconds)
        if isIPv6Address(host):
            return TCP6ClientEndpoint(self.reactor, host, port, timeout=seconds)  # type: ignore[no-untyped-call]
        return HostnameEndpoint(self.reactor, host, port, timeout=seconds)
