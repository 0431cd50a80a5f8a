"""One question to one server, over UDP and, where the answer does not fit, over TCP: RFC 1035 §4.2, RFC 6891, RFC 7766.

Twisted has the messages (`twisted.names.dns`); its client logs each question, has no EDNS and does not look whether an answer comes
from whom it was asked and is about what was asked. So the asking is done here.
"""

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.protocol import DatagramProtocol, Factory, connectionDone
from twisted.names import dns
from twisted.protocols.basic import Int16StringReceiver
from twisted.python.failure import Failure

__all__ = ["NoAnswer", "ask_over_tcp", "ask_over_udp", "question"]

_UDP_SIZE = 1232  # octets: fits into one packet nearly everywhere (DNS Flag Day 2020)


class NoAnswer(Exception):
    """A server gave none; the message says why."""


def question(number: int, name: str, kind: int, edns: bool) -> dns.Message:
    """A message with one question."""
    message = dns.Message(number, recDes=1)
    message.queries = [dns.Query(name.encode("ascii"), kind, dns.IN)]
    if edns:
        message.additional = [dns._OPTHeader(udpPayloadSize=_UDP_SIZE)]  # type: ignore[list-item, no-untyped-call]
    return message


async def ask_over_udp(reactor: Any, server: tuple[str, int], message: dns.Message, seconds: float) -> dns.Message:
    """The answer; its ``trunc`` says that there is more. Raises NoAnswer."""
    # A port of its own for each question: who wants to forge an answer has to guess it (RFC 5452 §9.2).
    exchange = _Exchange(message, server)
    port = reactor.listenUDP(0, exchange, interface="::" if ":" in server[0] else "", maxPacketSize=4096)
    try:
        return await _within(exchange.answer, seconds, reactor)
    finally:
        stopping = port.stopListening()
        if stopping is not None:  # else the reactor has closed it
            await stopping


async def ask_over_tcp(reactor: Any, server: tuple[str, int], message: dns.Message, seconds: float) -> dns.Message:
    """The answer. Raises NoAnswer."""
    stream = _Stream(message)
    factory = Factory.forProtocol(lambda: stream)
    factory.noisy = False
    endpoint: Any = HostnameEndpoint(reactor, server[0], server[1], timeout=seconds)
    connecting: Deferred[Any] = endpoint.connect(factory)
    connecting.addErrback(stream.fail)
    try:
        return await _within(stream.answer, seconds, reactor)
    finally:
        connecting.cancel()
        transport: Any = stream.transport
        if transport is not None:
            transport.abortConnection()


async def _within(answer: "Deferred[dns.Message]", seconds: float, clock: Any) -> dns.Message:
    late = clock.callLater(seconds, _give_up, answer)
    try:
        return await answer
    finally:
        if late.active():
            late.cancel()


def _give_up(answer: "Deferred[dns.Message]") -> None:
    if not answer.called:
        answer.errback(NoAnswer("no answer in time"))


def _understood(octets: bytes, asked: dns.Message) -> dns.Message | None:
    """The message, if it answers what was asked; else None: somebody else's, or forged (RFC 5452 §9.1)."""
    message = dns.Message()
    try:
        message.fromStr(octets)
    except Exception:  # whatever strangers send
        return None
    if message.id != asked.id or not message.answer:
        return None
    if not message.queries:  # some servers answer FORMERR without it
        return message if message.rCode in (dns.EFORMAT, dns.ENOTIMP) else None
    ours, theirs = asked.queries[0], message.queries[0]
    is_ours = len(message.queries) == 1 and theirs.type == ours.type and theirs.cls == ours.cls
    return message if is_ours and theirs.name.name.lower() == ours.name.name.lower() else None


class _Exchange(DatagramProtocol):
    noisy = False

    def __init__(self, asked: dns.Message, server: tuple[str, int]) -> None:
        self.asked = asked
        self.server = server
        self.answer: Deferred[dns.Message] = Deferred()

    def startProtocol(self) -> None:  # noqa: N802
        transport: Any = self.transport
        transport.connect(*self.server)  # from here on, the kernel lets nobody else's packets in
        try:
            transport.write(self.asked.toStr())
        except OSError as problem:
            self.fail(str(problem))

    def datagramReceived(self, datagram: bytes, addr: Any) -> None:  # noqa: ARG002, N802
        message = _understood(datagram, self.asked)
        if message is not None and not self.answer.called:
            self.answer.callback(message)

    def connectionRefused(self) -> None:  # noqa: N802
        self.fail("nobody listens there")

    def stopProtocol(self) -> None:  # noqa: N802
        # Some reactors close a port when they hear of a refusal, in place of telling.
        self.fail("nobody listens there")

    def fail(self, why: str) -> None:
        if not self.answer.called:
            self.answer.errback(NoAnswer(why))


class _Stream(Int16StringReceiver):
    def __init__(self, asked: dns.Message) -> None:
        self.asked = asked
        self.answer: Deferred[dns.Message] = Deferred()

    def connectionMade(self) -> None:  # noqa: N802
        self.sendString(self.asked.toStr())  # type: ignore[no-untyped-call]

    def stringReceived(self, string: bytes) -> None:  # noqa: N802
        message = _understood(string, self.asked)
        if message is None:
            self.fail("nonsense over TCP")
        elif not self.answer.called:
            self.answer.callback(message)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        self.fail("connection closed without an answer")

    def fail(self, why: object) -> None:
        if not self.answer.called:
            self.answer.errback(NoAnswer(why if isinstance(why, str) else "no connection over TCP"))
