"""Bytes in: the Twisted protocol under a conversation, and the factory that counts and ends its sessions.

One file because they call each other: a session counts itself in and out, and the factory ends it.
"""

from base64 import b32encode
from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IOpenSSLContextFactory,
    IPushProducer,
    ISSLTransport,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.tcp import Connection
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.journal import Refused
from mailgw.receive.channel import IN_CLEAR, channel_of
from mailgw.receive.conversation import Conversation
from mailgw.receive.peer import is_within, peer_of
from mailgw.receive.reception import Gone, Reception
from mailgw.smtp.sasl import Channel
from mailgw.smtp.server import ServerEngine
from mailgw.tls import facts_of
from mailgw.values.facts import ClientFacts, TlsFacts, one_client
from mailgw.values.reply import Reply

__all__ = ["SmtpFactory", "SmtpProtocol"]

_READ_AHEAD = 256 * 1024  # octets that may wait in the engine while a policy or the store is busy
_READ = 64 * 1024  # octets of one read, as Twisted has it
_READ_CONTENT = 256 * 1024  # the same in the middle of a big message
_HANDSHAKE = 60.0  # seconds for TLS
_LINGER = 5.0  # seconds a client has to fetch our last words
_SWEEP = 1.0  # seconds between looks at the deadlines
_MOST_REFUSED = 100  # connections at a time that are told why they are refused; more are just closed
_QUIET = 60.0  # seconds between two notes about refused connections
_FULL = Reply(421, "4.3.2", "too many connections, try again later")
_FULL_FOR_YOU = Reply(421, "4.7.0", "too many connections from your address")

_log = Logger(namespace="mailgw.receive")


@implementer(IHalfCloseableProtocol, IHandshakeListener, IPushProducer)
class SmtpProtocol(Protocol):
    """One connection. It is the `Wire` of its conversation."""

    factory: "SmtpFactory"

    def __init__(self, peer: IAddress | None) -> None:
        """Make one; ``peer`` is the client, who need not be at the other end of the transport: a proxy may speak for it."""
        self._ip, self._port = peer_of(peer)
        self.closing = False
        self.deadline = 0.0  # POSIX seconds
        self.lingering = False  # the conversation is over, our last words are on their way
        self.over: Deferred[None] = Deferred()
        self._waiter: Deferred[None] | None = None
        self._gone = ""
        self._paused = False  # we do not read
        self._throttled = False  # the client does not read
        self._direct = False
        self._reads_much = False  # at a time
        self._handshake: Deferred[None] | None = None
        self._conversation: Conversation | None = None
        self._session = ""  # its id, from the moment on when there is a conversation
        self._half_closed = False  # the client says no more, but listens

    # ── From the network ──

    def connectionMade(self) -> None:  # noqa: N802
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        transport.registerProducer(self, True)
        tls = ISSLTransport.providedBy(transport)
        self._within(min(self.factory.reception.command_timeout, _HANDSHAKE))
        refusal = self.factory.enter(self, self._ip)
        if refusal is not None and (tls or self.factory.is_flooded):
            # A handshake would cost more than the session.
            self.lingering = True
            self.abort()
            return
        trusted = self.factory.reception.xclient
        self._engine = ServerEngine(self.factory.reception.engine, tls, bool(trusted) and is_within(self._ip, trusted))
        if refusal is not None:
            self._engine.greet(refusal)
            self._end()
        elif not tls:
            # Gain, measured: about 30 % less CPU than queueing each reply with the reactor.
            self._direct = isinstance(transport, Connection)
            self._begin(None)

    def handshakeCompleted(self) -> None:  # noqa: N802
        tls = self._tls_facts()
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            handshake.callback(None)
        elif not self.lingering:
            self._begin(tls)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self.lingering:
            return
        much = len(data) >= _READ and self._engine.in_content
        if much is not self._reads_much:
            self._read(much)
        self._engine.receive(data)
        if self._waiter is not None and not self._throttled:
            self._wake()
        elif self._engine.buffered > _READ_AHEAD and not self._paused:
            self._paused = True
            transport: Any = self.transport
            transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._gone = self._gone or "lost"
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            handshake.errback(Gone("lost"))
        self._stop_waiting(self._gone)
        if self.lingering or not self._session:
            self._is_over()

    def readConnectionLost(self) -> None:  # noqa: N802
        """The client has closed its side: what is being decided it will still hear."""
        self._half_closed = True
        self._stop_waiting("lost")
        if not self._session:
            self.abort()

    def writeConnectionLost(self) -> None:  # noqa: N802
        """We never close our side alone."""

    def pauseProducing(self) -> None:  # noqa: N802
        """The client does not read: say nothing more until it does."""
        self._throttled = True

    def resumeProducing(self) -> None:  # noqa: N802
        """The client has read."""
        self._throttled = False
        self._wake()

    def stopProducing(self) -> None:  # noqa: N802
        """The connection is gone; `connectionLost` does the rest."""

    # ── The wire under the conversation ──

    def say(self) -> None:
        """See `Wire`."""
        if not self._engine.buffered:  # else the answers to what is pipelined leave with it
            self._flush()

    async def more(self) -> None:
        """See `Wire`."""
        self._flush()
        if self._gone:
            raise Gone(self._gone)
        if self._paused:
            self._paused = False
            transport: Any = self.transport
            transport.resumeProducing()
        if self._half_closed:
            raise Gone("lost")
        self._waiter = Deferred()
        await self._waiter

    async def drained(self) -> None:
        """See `Wire`."""
        self._flush()
        while self._throttled:
            if self._gone:
                raise Gone(self._gone)
            self._waiter = Deferred()
            await self._waiter

    def until(self, deadline: float) -> None:
        """See `Wire`."""
        self.deadline = deadline

    def channel(self) -> Channel:
        """See `Wire`."""
        if not self._engine.tls:
            return IN_CLEAR
        if self._gone:
            raise Gone(self._gone)  # what is known about TLS has gone with the connection
        transport: Any = self.transport
        return channel_of(transport.getHandle())

    async def start_tls(self) -> TlsFacts:
        """See `Wire`."""
        self._flush()
        if self._gone:
            raise Gone(self._gone)
        # From here all bytes go through TLS: what came in clear behind the command is gone (RFC 3207 §5).
        self._read(False)
        self._direct = False
        self._within(min(self.factory.reception.command_timeout, _HANDSHAKE))
        self._engine.tls_started()
        self._handshake = Deferred()
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.startTLS(self.factory.tls)
        transport.registerProducer(self, True)
        await self._handshake
        return self._tls_facts()

    def recount(self, ip: IPv4Address | IPv6Address) -> Reply | None:
        """See `Wire`."""
        self.factory.leave(self, self._ip)
        self._ip = ip
        return self.factory.enter(self, ip)

    @property
    def client(self) -> ClientFacts | None:
        """Who is there; None as long as it may still be turned away unheard."""
        return None if self._conversation is None else self._conversation.client

    def time_out(self) -> None:
        """The deadline has passed."""
        if self._gone:
            return  # it is over when those who are asked about it have answered
        transport: Any = self.transport
        if self.lingering or self._throttled or self._handshake is not None or not self._session:
            # It does not even fetch our last words, or never spoke TLS.
            transport.abortConnection()
        elif self._waiter is not None:
            self._stop_waiting("time-out")

    def shut_down(self) -> None:
        """End after the running transaction, or now if there is none."""
        self.closing = True
        if not self._session or self._handshake is not None:
            self.abort()  # it has not spoken TLS yet, and perhaps never will
        elif self._waiter is not None and not self._engine.in_transaction and not self._engine.in_content:
            self._stop_waiting("shutdown")

    def clock_was_set(self, by: float) -> None:
        """The client keeps what is left of its time where the clock is set forward, or back (less than nothing)."""
        self.deadline += by
        if self._conversation is not None:
            self._conversation.clock_was_set(by)

    def abort(self) -> None:
        """End now."""
        if not self._gone:
            transport: Any = self.transport
            transport.abortConnection()

    # ── Inside ──

    def _begin(self, tls: TlsFacts | None) -> None:
        reception, factory = self.factory.reception, self.factory
        self._session = factory.new_id()
        client = ClientFacts(
            session=self._session, listener=reception.listener, kind=reception.kind, ip=self._ip, port=self._port, tls=tls
        )
        self._conversation = conversation = Conversation(reception, self, self._engine, client)
        Deferred.fromCoroutine(conversation.hold()).addErrback(self._failed).addBoth(lambda _: self._end())

    def _failed(self, failure: Failure) -> None:
        # A fault of ours: the client may come again, and hears nothing of it (no traceback to the peer).
        _log.failure("session {session} failed", failure, session=self._session)
        self._engine.close(Reply(421, "4.3.0", "local problem, try again later"))

    def _end(self) -> None:
        self.lingering = True
        if self._gone:
            self._is_over()
            return
        self._within(_LINGER)
        self._flush()
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def _read(self, much: bool) -> None:
        # Gain, measured: a seventh of the CPU of a big message. Who sends less at a time never comes here and costs no memory.
        # It is also the bound on what we send and the client does not fetch, so it holds for content only.
        if self._direct:
            self._reads_much = much
            transport: Any = self.transport
            transport.bufferSize = _READ_CONTENT if much else _READ

    def _within(self, seconds: float) -> None:
        self.deadline = self.factory.reception.clock.seconds() + seconds

    def _is_over(self) -> None:
        if not self.over.called:
            # Not when the client goes: whoever does so while others think about his commands may not come again at once.
            self.factory.leave(self, self._ip)
            self.over.callback(None)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)

    def _stop_waiting(self, why: str) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.errback(Gone(why))

    def _flush(self) -> None:
        data = self._engine.take_output()
        if not data or self._gone:
            return
        transport: Any = self.transport
        if self._direct and not (transport.dataBuffer or transport._tempDataBuffer or transport.disconnecting):
            sent = transport.writeSomeData(data)
            if isinstance(sent, int):
                if sent == len(data):
                    return
                data = data[sent:]
        transport.write(data)

    def _tls_facts(self) -> TlsFacts:
        transport: Any = self.transport
        return facts_of(transport.getHandle())


class SmtpFactory(Factory):
    """All sessions of a listener."""

    noisy = False

    def __init__(
        self,
        reception: Reception,
        randomness: Random,
        *,
        tls: IOpenSSLContextFactory | None = None,
        max_sessions: int = 5000,
        max_sessions_per_client: int = 100,
        is_crowded: Callable[[], bool] = lambda: False,
    ) -> None:
        """Make one; ``tls`` is what STARTTLS needs; the bounds are on sessions at one time.

        ``is_crowded``: whether the house has no room for another session, at whatever listener.
        """
        self.reception = reception
        self.tls = tls
        self._randomness = randomness
        self._max_sessions = max_sessions
        self._max_per_client = max_sessions_per_client
        self._is_crowded = is_crowded
        self._sessions: set[SmtpProtocol] = set()
        self._refused: set[SmtpProtocol] = set()  # those of them that are only there to hear a refusal
        self._by_client: Counter[IPv4Address | int] = Counter()
        self._turned_away: Counter[Reply] = Counter()  # since it was noted last
        self._last_away: IPv4Address | IPv6Address | None = None
        self._noted = -_QUIET
        self._sweeper: IDelayedCall | None = None
        self._closing = False

    @property
    def sessions(self) -> int:
        """How many there are at this moment."""
        return len(self._sessions) - len(self._refused)

    def present(self) -> list[ClientFacts]:
        """Who is there at this moment."""
        return [client for one in self._sessions if not one.lingering and (client := one.client) is not None]

    @property
    def is_flooded(self) -> bool:
        """Whether too many hear a refusal at this moment."""
        return len(self._refused) > _MOST_REFUSED

    def buildProtocol(self, addr: IAddress | None) -> Any:  # noqa: N802
        """Make one for a new connection."""
        protocol = SmtpProtocol(addr)
        protocol.factory = self
        return protocol

    def new_id(self) -> str:
        """An id for a session: eight characters that can be read out over the phone."""
        return b32encode(self._randomness.randbytes(5)).decode()

    def enter(self, protocol: SmtpProtocol, ip: IPv4Address | IPv6Address) -> Reply | None:
        """Count a session in; gives a 421 if there are too many."""
        full = self.sessions >= self._max_sessions or self._closing or self._is_crowded()
        self._sessions.add(protocol)
        client = one_client(ip)
        self._by_client[client] += 1
        if self._sweeper is None:
            self._sweeper = self.reception.clock.callLater(_SWEEP, self._sweep)
        if not full and self._by_client[client] <= self._max_per_client:
            return None
        refusal = _FULL if full else _FULL_FOR_YOU
        self._refused.add(protocol)  # it must not take a place from others while it goes
        if not self._closing:
            self._turned_away[refusal] += 1
            self._last_away = ip
        return refusal

    def leave(self, protocol: SmtpProtocol, ip: IPv4Address | IPv6Address) -> None:
        """Count a session out."""
        self._sessions.discard(protocol)
        self._refused.discard(protocol)
        client = one_client(ip)
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def clock_was_set(self, by: float) -> None:
        """All sessions keep what is left of their times."""
        self._noted += by
        for protocol in self._sessions:
            protocol.clock_was_set(by)

    def _sweep(self) -> None:
        # One timer for all: a look at 10,000 deadlines costs 1 ms, a timer for each session 6 µs and memory.
        self._sweeper = None
        now = self.reception.clock.seconds()
        late = [protocol for protocol in self._sessions if protocol.deadline < now]
        for protocol in late:
            protocol.time_out()
        if self._turned_away and now >= self._noted + _QUIET:
            self._note_turned_away(now)
        if self._sessions or self._turned_away:
            self._sweeper = self.reception.clock.callLater(_SWEEP, self._sweep)

    def _note_turned_away(self, now: float) -> None:
        # One line a minute, however big the flood.
        for refusal, count in self._turned_away.items():
            why = f"{count} connection{'s' if count > 1 else ''} to {self.reception.listener} turned away, the last from {self._last_away}"
            self.reception.journal.note(Refused("", "connect", refusal, "limits", why=why))
        self._turned_away.clear()
        self._noted = now

    async def stop(self, grace: float) -> None:
        """End all sessions: those between transactions now, the others when theirs is over, all after ``grace`` seconds."""
        self._closing = True
        running: Sequence[SmtpProtocol] = list(self._sessions)
        for protocol in running:
            protocol.shut_down()
        ends = DeferredList([protocol.over for protocol in running if not protocol.over.called])
        ended: Deferred[None] = Deferred()
        axe = self.reception.clock.callLater(grace, self._abort_all, ended)
        ends.addCallback(_fire, ended)
        await ended
        if axe.active():
            axe.cancel()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None

    def _abort_all(self, ended: "Deferred[None]") -> None:
        for protocol in list(self._sessions):
            protocol.abort()
        _fire(None, ended)  # a policy may still be thinking about one of them: it is not waited for


def _fire(_: object, ended: "Deferred[None]") -> None:
    if not ended.called:
        ended.callback(None)
