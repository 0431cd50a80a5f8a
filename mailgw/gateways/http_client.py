"""HTTP requests over the house's dialer: kept connections, time limits, bounded answers."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from attrs import frozen
from OpenSSL import SSL
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IDelayedCall, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import (
    URI,
    Agent,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from mailgw.gateways.http_body import Body, Producer
from mailgw.gateways.http_redirects import Target
from mailgw.gateways.naming import dialled
from mailgw.gateways.outgoing_tls import OutgoingTls
from mailgw.interfaces import IDialer

__all__ = ["Answer", "Client", "NoAnswer"]

_MOST_READ = 4096  # octets of an answer
_MOST_HEARD = 1024 * 1024  # octets of an answer with its head, before the connection is given up
_LOST = (RequestTransmissionFailed, ResponseNeverReceived)

T = TypeVar("T")


@frozen
class Answer:
    """What the server said; ``body`` is the beginning of it."""

    status: int
    headers: Headers
    body: bytes

    def field(self, name: str) -> str:
        """The last value of a header field, or the empty string."""
        return (self.headers.getRawHeaders(name.encode()) or [b""])[-1].decode("latin-1")  # whatever octets it holds

    @property
    def first_line(self) -> str:
        """The first line of the body that is not empty, fit for a reply."""
        for line in self.body.decode("utf-8", "replace").splitlines():
            text = "".join(character if character.isprintable() else "?" for character in line).strip()
            if text:
                return text[:200]
        return ""


class NoAnswer(Exception):
    """There was no answer.

    ``what``: ``unreached``, no connection or no TLS; ``unread``, the message could not be read; ``lost``, the connection was lost or
    silent before all was sent; ``unknown``, after that.
    """

    def __init__(self, what: Literal["unreached", "unread", "lost", "unknown"], text: str) -> None:
        super().__init__(text)
        self.what = what


class Client:
    """Posts bodies. Connections to the first target's host are kept for ``max_idle`` seconds.

    ``timeout``: seconds without any progress after which a request is given up; ``connect_timeout``: seconds to a connection;
    ``most_read``: octets of an answer's body.
    """

    def __init__(
        self,
        dialer: IDialer,
        clock: IReactorTime,
        tls: OutgoingTls,
        *,
        timeout: float,
        connect_timeout: float,
        max_idle: float,
        most_read: int = _MOST_READ,
    ) -> None:
        self._most_read = most_read
        self._clock = clock
        self._timeout = timeout
        self._doors = _Doors(dialer, tls, connect_timeout)
        self._pool = HTTPConnectionPool(clock, persistent=max_idle > 0)  # type: ignore[no-untyped-call]
        self._pool.cachedConnectionTimeout = max_idle  # type: ignore[assignment]
        self._pool.maxPersistentPerHost = 100  # the queue bounds how many are in use
        self._pool.retryAutomatically = False  # it knows nothing about our requests
        self._agent = Agent.usingEndpointFactory(clock, self._doors, self._pool)  # type: ignore[no-untyped-call]

    async def post(self, target: Target, headers: Mapping[str, str], body: Body) -> Answer:
        """Post it. Raises NoAnswer.

        A kept connection may have been closed by the server at the very moment. Then there is a second try on a new one: the server
        had no time to take the message, or knows it again by its Idempotency-Key.
        """
        opened = self._doors.opened
        try:
            return await self._post(target, headers, body)
        except _LostConnection as lost:
            if target.address or self._doors.opened > opened:
                raise NoAnswer(*lost.args) from None
        self.close()
        try:
            return await self._post(target, headers, body)
        except _LostConnection as lost:
            raise NoAnswer(*lost.args) from None

    def close(self) -> None:
        """Close the connections that are kept."""
        self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    async def _post(self, target: Target, headers: Mapping[str, str], body: Body) -> Answer:
        agent = self._agent
        if target.address:  # of its own, so that a kept connection always leads where the administrator said
            agent = Agent.usingEndpointFactory(self._clock, self._doors.at(target.address))  # type: ignore[no-untyped-call]
        patience = _Patience(self._clock, self._timeout)
        producer = Producer(body, patience.again)
        fields = Headers({name: [value] for name, value in {"User-Agent": "mailgw", "Content-Type": body.type, **headers}.items()})
        host = target.host
        try:
            response: Any = await patience.with_(agent.request(b"POST", target.url.encode(), fields, producer))
        except (ConnectError, DNSLookupError, OSError) as problem:
            raise NoAnswer("unreached", f"{host} cannot be reached: {_reason(problem)}") from None
        except RequestGenerationFailed as problem:
            raise NoAnswer("unread", f"message cannot be read: {_reason(problem.reasons[0].value)}") from None
        except _TooSlow:
            raise NoAnswer(_sent(producer), f"{host} did not answer within {self._timeout:g} seconds") from None
        except (*_LOST, ResponseFailed) as problem:
            sent, reasons = _sent(producer), [reason.value for reason in problem.reasons]
            if broken := next((one for one in reasons if isinstance(one, (SSL.Error, VerificationError))), None):
                raise NoAnswer("unreached", f"TLS with {host} failed: {_tls_reason(broken)}") from None
            if isinstance(problem, ResponseFailed) and not isinstance(problem, ResponseNeverReceived):
                raise NoAnswer(sent, f"{host} gave an answer that is not HTTP") from None
            raise _LostConnection(sent, f"the connection to {host} was lost") from None
        beginning = _Beginning(self._most_read)
        response.deliverBody(beginning)
        try:
            await patience.with_(beginning.read)
        except _TooSlow:
            beginning.stop()
        return Answer(response.code, response.headers, beginning.data)


class _LostConnection(Exception):
    """The arguments are those of NoAnswer."""


class _TooSlow(Exception):
    """Nothing moved for too long."""


class _Patience:
    """Waits for a Deferred as long as there is progress."""

    def __init__(self, clock: IReactorTime, seconds: float) -> None:
        self._clock = clock
        self._seconds = seconds
        self._timer: IDelayedCall | None = None
        self._is_cancelled = False

    def again(self) -> None:
        """There was progress."""
        if self._timer is not None:
            self._timer.reset(self._seconds)

    async def with_(self, waiting: "Deferred[T]") -> T:
        """Raises _TooSlow, having cancelled it; when this is cancelled, CancelledError at once, whatever Twisted makes of it."""

        def cancel(_: Any) -> None:
            self._is_cancelled = True
            waiting.cancel()

        result: Deferred[T] = Deferred(cancel)
        waiting.addBoth(lambda value: None if self._is_cancelled else result.callback(value))

        def give_up() -> None:
            self._timer = None
            result.cancel()

        self._timer = self._clock.callLater(self._seconds, give_up)
        try:
            return await result
        except CancelledError:
            if self._timer is None:
                raise _TooSlow from None
            raise
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None


class _Beginning(Protocol):
    """The beginning of an answer's body; ``read`` fires when there is enough of it."""

    def __init__(self, limit: int) -> None:
        self.data = b""
        self._limit = limit
        self.read: Deferred[None] = Deferred()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - named by Twisted
        self.data += data[: self._limit - len(self.data)]
        if len(self.data) >= self._limit:
            self.stop()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002, N802
        self._over()

    def stop(self) -> None:
        """Hear no more; the connection is closed, as it is in the middle of something."""
        if self.transport is not None:
            self.transport.loseConnection()
        self._over()

    def _over(self) -> None:
        if not self.read.called:
            self.read.callback(None)


@implementer(IAgentEndpointFactory)
class _Doors:
    """Where the agent's connections come from."""

    def __init__(self, dialer: IDialer, tls: OutgoingTls, timeout: float, address: str = "") -> None:
        self._dialer = dialer
        self._tls = tls
        self._timeout = timeout
        self._address = address
        self.opened = 0  # connections that were tried

    def at(self, address: str) -> "_Doors":
        """The same, but all lead to this IP address."""
        return _Doors(self._dialer, self._tls, self._timeout, address)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:  # noqa: N802 - named by Twisted
        """Raises OSError where the trusted authorities cannot be read."""
        host = uri.host.decode("ascii").strip("[]")
        door = _Door(self, dialled(self._address or host, uri.port))
        if uri.scheme != b"https":
            return door
        return wrapClientTLS(self._tls.verified(host), door)

    async def dial(self, where: str, factory: IProtocolFactory) -> Any:
        """Open a connection."""
        self.opened += 1
        return await self._dialer.dial(where, factory, self._timeout)


@implementer(IStreamClientEndpoint)
@frozen
class _Door:
    doors: _Doors
    where: str

    def connect(self, protocolFactory: IProtocolFactory) -> "Deferred[Any]":  # noqa: N803 - named by Twisted
        return Deferred.fromCoroutine(self._connect(protocolFactory))

    async def _connect(self, factory: IProtocolFactory) -> Any:
        bounded = await self.doors.dial(self.where, _BoundedFactory(factory))  # type: ignore[no-untyped-call]
        return bounded.wrappedProtocol


class _Bounded(ProtocolWrapper):
    """Hangs up on an answer without end: Twisted keeps all fields of its head in memory."""

    _heard = 0  # octets since we said something

    def write(self, data: bytes) -> None:
        self._heard = 0
        super().write(data)  # type: ignore[no-untyped-call]

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802 - named by Twisted
        self._heard = 0
        super().writeSequence(data)  # type: ignore[no-untyped-call]

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._heard += len(data)
        if self._heard > _MOST_HEARD:
            self.transport.abortConnection()  # type: ignore[union-attr]
        else:
            super().dataReceived(data)  # type: ignore[no-untyped-call]


class _BoundedFactory(WrappingFactory):
    noisy = False
    protocol = _Bounded


def _sent(producer: Producer) -> Literal["lost", "unknown"]:
    return "unknown" if producer.is_done else "lost"


def _reason(problem: BaseException) -> str:
    text = problem.__doc__ if isinstance(problem, ConnectError) and not problem.args else getattr(problem, "strerror", None) or str(problem)
    return (text or repr(problem)).strip().rstrip(".")


def _tls_reason(problem: BaseException) -> str:
    if isinstance(problem, VerificationError):
        return "its certificate is for another name"
    details = problem.args[0] if problem.args else None  # OpenSSL's own list: (library, function, reason)
    reasons = [str(detail[-1]) for detail in details if detail] if isinstance(details, list) else []
    return "; ".join(reasons) or "the connection was closed"
