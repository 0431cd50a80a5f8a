"""The POP3 sessions of a listener: made, counted, bounded and ended.

Not to be imported before the reactor is chosen, as `mailgw.fetching.pop3`.
"""
# ruff: noqa: N802  Twisted names its methods so.

from base64 import b32encode
from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address
from random import Random
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from mailgw.fetching.letting_in import Fetching
from mailgw.fetching.pop3 import Pop3Protocol
from mailgw.values.facts import one_client

__all__ = ["Pop3Factory"]


class Pop3Factory(Factory):
    """All sessions of a listener; what `mailgw.receive.protocol.SmtpFactory` is for SMTP."""

    noisy = False

    def __init__(
        self, fetching: Fetching, randomness: Random, *, tls: Any = None, max_sessions: int = 5000, max_sessions_per_client: int = 100
    ) -> None:
        """Make one; ``tls`` is what STLS needs; the bounds are on sessions at one time."""
        self.fetching = fetching
        self.tls = tls
        self._randomness = randomness
        self._max_sessions = max_sessions
        self._max_per_client = max_sessions_per_client
        self._there: set[Pop3Protocol] = set()
        self._by_client: Counter[IPv4Address | int] = Counter()

    @property
    def sessions(self) -> int:
        """How many there are at this moment."""
        return len(self._there)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        """Make one for a new connection."""
        return Pop3Protocol(self, addr, b32encode(self._randomness.randbytes(5)).decode())

    def enter(self, protocol: Pop3Protocol) -> bytes:
        """Count a session in; or give a text if there are too many."""
        client = one_client(protocol.ip)
        if len(self._there) >= self._max_sessions:
            return b"[SYS/TEMP] too many connections, try again later"
        if self._by_client[client] >= self._max_per_client:
            return b"[SYS/TEMP] too many connections from your address"
        self._there.add(protocol)
        self._by_client[client] += 1
        return b""

    def leave(self, protocol: Pop3Protocol) -> None:
        """Count a session out, if it was counted in."""
        if protocol in self._there:
            client = one_client(protocol.ip)
            self._there.discard(protocol)
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]

    def clock_was_set(self, by: float) -> None:
        """No session keeps a time of day."""

    async def stop(self, grace: float) -> None:  # noqa: ARG002  nobody loses anything: what is marked stays
        """End all sessions."""
        for protocol in list(self._there):
            with suppress(AttributeError):  # one whose TLS has not begun
                protocol.end("shutdown")
