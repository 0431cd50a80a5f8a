"""A connection to a next hop: the client's language on a Twisted transport, with time-outs, TLS and back-pressure."""

from collections.abc import Callable
from math import inf
from typing import Any

from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IHandshakeListener, IReactorTime, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.gateways.carrier import Carrier
from mailgw.gateways.logging_in import Login
from mailgw.gateways.next_hop import NotReached
from mailgw.gateways.security import Security, in_words
from mailgw.patience import CutOff
from mailgw.smtp.client import BadReply, ClientSession
from mailgw.smtp.client_events import (
    Asked,
    Challenged,
    ContentWanted,
    Event,
    Finished,
    LoggedIn,
    LoginRefused,
    Ready,
    Refused,
    TlsAgreed,
    TlsRefused,
)
from mailgw.smtp.framing import Nature
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Shipment
from mailgw.values.reply import Reply

__all__ = ["Talk"]

_HANDSHAKE = 60.0  # seconds


@implementer(IHandshakeListener)
class Talk(Protocol):
    """One connection. Wait for ``ready`` first; then one `hand_over` or `ask` at a time.

    ``idle``: seconds after which an unused connection is closed. ``gone`` is called once, when it can be used no more.
    ``deadline``: when all that is under way must be over, in seconds of the clock. Below it, each whole reply has the time of RFC
    5321 §4.5.3.2, however many pieces it comes in.
    """

    def __init__(
        self,
        session: ClientSession,
        clock: IReactorTime,
        security: Security | None,
        idle: float,
        gone: Callable[["Talk"], None],
        deadline: float = inf,
        login: Login | None = None,
    ) -> None:
        self.messages = 0  # handed over so far
        self.ready: Deferred[None] = Deferred(self._cancelled)
        self._session = session
        self._clock = clock
        self._security = security
        self._login = login
        self._idle = idle
        self._gone: Callable[[Talk], None] | None = gone
        self._waiting: Deferred[Any] | None = self.ready
        self._content: Content | None = None
        self._carrier: Carrier | None = None
        self._timer: IDelayedCall | None = None
        self._deadline = deadline
        self._steps = -1  # of the session, when the timer was set
        self._handshaking = False
        self._is_lost = False
        self._direct: FileDescriptor | None = None

    @property
    def is_usable(self) -> bool:
        """Whether a new transaction can be begun."""
        return self._waiting is None and not self._session.is_over and not self._is_lost

    @property
    def max_messages(self) -> int:
        """How many messages the server takes on one connection, 0: not told (RFC 9422)."""
        return self._session.extensions.max_messages

    # ── What we want ──

    def hand_over(self, shipment: Shipment, nature: Nature, deadline: float = inf) -> Deferred[Finished]:
        """Deliver a shipment; never fails. Cancelling drops the connection: CutOff, with those about whom all was said."""
        self._deadline = deadline
        result: Deferred[Finished] = Deferred(self._cut_off)
        self._waiting = result
        self._content = shipment.content
        self.messages += 1
        self._handle(self._session.begin(shipment, nature))
        return result

    def ask(self, recipient: Address) -> Deferred[Asked]:
        """Ask whether the server would take mail for ``recipient``; never fails."""
        result: Deferred[Asked] = Deferred(self._cancelled)
        self._session.ask(recipient)
        self._waiting = result
        self._handle([])
        return result

    def close(self) -> None:
        """Say good-bye, or close as soon as what is under way is over."""
        self._idle = 0.0
        if self.is_usable:
            self._session.quit()
            self._handle([])
            self._leave()

    # ── What happens ──

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        transport: Any = self.transport
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        if isinstance(transport, FileDescriptor):
            self._direct = transport
        if self._security and self._security.implicit:
            self._start_tls(self._security)
        self._watch()

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        if self._session.is_over and not self._session.patience:
            return  # nobody listens any more: it must cost neither memory nor time
        try:
            events = self._session.feed(data)
        except BadReply as problem:
            self._give_up(str(problem))
        else:
            self._handle(events)

    def handshakeCompleted(self) -> None:  # noqa: N802
        self._handshaking = False
        self._steps = -1
        if self._security and not self._security.implicit:
            self._session.tls_started(self._security.verified)
        self._handle([])

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        self._is_lost = True
        if self._timer and self._timer.active():
            self._timer.cancel()
        if self._handshaking:
            self._fail(NotReached(Reply(451, "4.7.5", f"TLS handshake failed: {in_words(reason)}"), handshake_failed=True))
        elif self._waiting is self.ready:
            self._fail(NotReached(Reply(421, "4.4.2", f"connection lost while waiting for {self._session.awaits}")))
        self._handle(self._session.lost("connection lost"))
        self._leave()

    def _handle(self, events: list[Event]) -> None:
        self._write(self._session.take())
        for event in events:
            match event:
                case Finished() | Asked():
                    self._stop_carrying()
                    self._content = None
                    self._succeed(event)
                case ContentWanted():
                    self._send_content()
                case Ready():
                    self._secure_or_ready(None)
                case TlsRefused(reply):
                    self._secure_or_ready(reply)
                case TlsAgreed():
                    assert self._security
                    self._start_tls(self._security)
                case Challenged(challenge) if self._login:
                    self._respond(self._login, challenge)
                case LoggedIn():
                    self._succeed(None)
                case LoginRefused() if self._login:
                    self._no_login(self._login.refused(event))
                case Refused(reply):
                    self._fail(NotReached(reply, heard=True))
        if self._session.is_over and not self._session.patience:
            self._leave()
            if not self._is_lost:
                self.transport.loseConnection()  # type: ignore[union-attr]
        self._watch()

    def _secure_or_ready(self, refused: Reply | None) -> None:
        security, session = self._security, self._session
        if (
            security is None
            or session.encrypted
            or not (security.required or session.extensions.starttls)
            or (refused and not security.required)
        ):
            self._log_in_or_ready()
        elif refused or not session.extensions.starttls:
            text = f"TLS is required, but refused: {refused}" if refused else "TLS is required, but not offered"
            self._fail(NotReached(Reply(451, "4.7.4", text)))
        else:
            session.start_tls()
            self._write(session.take())

    def _start_tls(self, security: Security) -> None:
        self._handshaking = True
        self._steps = -1
        self._direct = None
        self.transport.startTLS(security.creator)  # type: ignore[union-attr]

    # ── Login ──

    def _log_in_or_ready(self) -> None:
        if self._login is None:
            self._succeed(None)
            return
        try:
            self._login.begin(self._session, self.transport)
        except NotReached as problem:
            self._no_login(problem)
        else:
            self._write(self._session.take())

    def _respond(self, login: Login, challenge: bytes) -> None:
        def say(response: bytes | str) -> None:
            if not self._is_lost:
                login.say(self._session, response)
                self._handle([])

        login.respond(challenge).addCallback(say)

    def _no_login(self, problem: NotReached) -> None:
        self._fail(problem)
        self.close()

    # ── Content ──

    def _send_content(self) -> None:
        content, session = self._content, self._session
        assert content
        if isinstance(content.original, bytes):
            parts = [session.add_content(part) for part in (content.added, content.original) if part]
            parts.append(session.end_content())
            self._write(b"".join(parts))
            return
        self._direct = None
        self._carrier = Carrier(content, session, self.transport, self._watch, self._give_up)
        self._carrier.start()

    def _stop_carrying(self) -> None:
        # The server may have said its last word in the midst of the content: what follows would be no content any more.
        carrier, self._carrier = self._carrier, None
        if carrier:
            carrier.stop()

    def _write(self, data: bytes) -> None:
        if not data or self._is_lost:
            return
        if self._direct:
            # The server has answered everything before, so nothing is pending: try at once, for a third less CPU.
            written = self._direct.writeSomeData(data)
            if written == len(data):
                return
            self._direct = None  # now something is pending, perhaps for longer than until the next answer
            if isinstance(written, int):
                data = data[written:]
        self.transport.write(data)  # type: ignore[union-attr]

    # ── Time ──

    def _watch(self) -> None:
        if self._is_lost or self._steps == self._session.steps:
            return  # half a reply is no progress
        self._steps = self._session.steps
        patience = _HANDSHAKE if self._handshaking else self._session.patience or self._idle
        patience = min(patience, max(0.0, self._deadline - self._clock.seconds()))
        if self._timer and self._timer.active():
            self._timer.reset(patience)
        else:
            self._timer = self._clock.callLater(patience, self._timed_out)

    def _timed_out(self) -> None:
        if self.is_usable:
            self.close()
            return
        what = "TLS" if self._handshaking else self._session.awaits
        why = "the time for the whole attempt is up" if self._clock.seconds() >= self._deadline else "time-out"
        self._give_up(f"{why} while waiting for {what}", hangs=True)

    # ── The end ──

    def _give_up(self, why: str, hangs: bool = False) -> None:
        self._stop_carrying()
        handshaking, self._handshaking = self._handshaking, False
        self.transport.abortConnection()  # type: ignore[union-attr]
        if self._waiting is self.ready:
            self._fail(NotReached(Reply(451, "4.7.5" if handshaking else "4.4.2", why), handshake_failed=handshaking))
        self._handle(self._session.lost(why, hangs))

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._waiting = None
        self._give_up("given up")

    def _cut_off(self, result: Deferred[Finished]) -> None:
        def tell(finished: Finished) -> None:
            over = {address: said for address, said in finished.outcomes.items() if said.fate in (Fate.DELIVERED, Fate.NEVER)}
            result.errback(CutOff(over))

        self._waiting = Deferred()
        self._waiting.addCallback(tell)
        self._give_up("given up")
        self._waiting = None

    def _leave(self) -> None:
        gone, self._gone = self._gone, None
        if gone:
            gone(self)

    def _succeed(self, result: Any) -> None:
        waiting, self._waiting = self._waiting, None
        self._deadline = inf
        self._steps = -1
        if waiting:
            waiting.callback(result)

    def _fail(self, problem: NotReached) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting:
            waiting.errback(problem)
