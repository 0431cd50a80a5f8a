"""A session of a small POP3 service (RFC 1939, RFC 2449, RFC 2595) on the folders of a Maildir gateway.

The protocol is that of `twisted.mail.pop3`; what is written here keeps passwords off lines in clear, asks the same porter as SMTP,
and mends what goes wrong there: dots at the seam of two chunks, deleted messages in lists, commands behind PASS and STLS in one packet,
tracebacks for typing errors and for clients that hang up, no bound for clients that take no answers. One file because that is one
class there.

This module must not be imported before the reactor is chosen: `twisted.mail.pop3` installs one.
"""
# ruff: noqa: N802, N815  Twisted names its methods and arguments so.

from collections.abc import Callable
from io import BytesIO
from traceback import format_exc
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, ISSLTransport, ITCPTransport
from twisted.internet.protocol import connectionDone
from twisted.mail import pop3
from twisted.protocols.basic import FileSender
from twisted.python.failure import Failure

from mailgw.fetching.letting_in import Fetching, NotLetIn
from mailgw.fetching.mailbox import NoSuchMessage, Reader, Top
from mailgw.journal import Connected, Disconnected, Fault
from mailgw.tls import facts_of
from mailgw.values.facts import ClientFacts

__all__ = ["Pop3Protocol"]

_MAX_ERRORS = 20  # in a session
_MOST_WAITING = 1000  # commands in a pipeline: clients that ask for all messages at once are welcome
_TIMEOUT = 600  # seconds; RFC 1939 §3 wants at least ten minutes
_AFTER_LOGIN = frozenset({b"STAT", b"LIST", b"RETR", b"DELE", b"NOOP", b"RSET", b"TOP", b"UIDL"})
_ALWAYS = frozenset({b"CAPA", b"USER", b"PASS", b"STLS", b"QUIT"})


class Pop3Protocol(pop3.POP3):
    """One session."""

    timeOut = _TIMEOUT
    AUTH_CMDS = sorted(_ALWAYS)
    MAX_LENGTH = 1024  # octets of a command
    magic = b"POP3 ready"  # of the greeting; without "<...>" nobody takes it for a challenge (RFC 1939 §7, APOP)
    factory: Any  # a Pop3Factory
    transport: Any
    mbox: Any = None  # a Mailbox after the login
    blocked: Any = None  # commands that wait, while there is something to wait for

    def __init__(self, factory: Any, peer: IAddress | None, session: str) -> None:
        """Make one for a client at ``peer``, who need not be at the other end of the transport."""
        self.factory = factory
        self.fetching: Fetching = factory.fetching
        self.ip, self.port = self.fetching.peer_of(peer)
        self.session = session
        self.login = ""
        self._errors = 0
        self._is_receiving = False
        self._starts_tls = False
        self._at_line_start = True
        self._why = "lost"
        self._is_over = False
        self._heeds_transport = False  # whether it tells us when the client takes too little
        self._is_behind = False  # it has said so, and commands wait

    # ── From the network ──

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self.fetching.journal.note(Connected(self.session, self.fetching.listener, f"{self.ip}:{self.port}"))
        refusal = self.factory.enter(self)
        if refusal:
            self._why = "refused"
            self.failResponse(refusal)
            self.transport.loseConnection()
            return
        self._heed_transport()
        super().connectionMade()  # type: ignore[no-untyped-call]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._is_over = True
        self.factory.leave(self)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        self.fetching.journal.note(Disconnected(self.session, self._why, 0))

    def timeoutConnection(self) -> None:
        """The client was silent, or took nothing, for too long: nothing is deleted (RFC 1939 §3)."""
        self._why = "time-out"
        self.transport.abortConnection()  # what it does not take would keep the connection

    def dataReceived(self, data: bytes) -> None:
        self._is_receiving = True
        try:
            super().dataReceived(data)  # type: ignore[no-untyped-call]
        finally:
            self._is_receiving = False
        if self._starts_tls:
            self._starts_tls = False
            self._buffer = b""  # what came in clear behind STLS is gone (RFC 2595 §4, RFC 3207 §5)
            self.transport.startTLS(self.factory.tls)

    def lineReceived(self, line: bytes) -> None:
        if not self._starts_tls:
            super().lineReceived(line)  # type: ignore[no-untyped-call]

    def callLater(self, seconds: float, call: Callable[[], None]) -> Any:
        """What time-outs are made with."""
        return self.fetching.reactor.callLater(seconds, call)

    def setTimeout(self, period: float | None) -> None:
        """So many seconds of silence are allowed."""
        super().setTimeout(None if self._is_over else period)  # type: ignore[no-untyped-call]

    def successResponse(self, message: bytes | str = b"") -> None:
        """Say +OK."""
        super().successResponse(message)  # type: ignore[no-untyped-call]

    def failResponse(self, message: bytes | str = b"") -> None:
        """Say -ERR."""
        super().failResponse(message)  # type: ignore[no-untyped-call]

    def end(self, why: str) -> None:
        """Hang up."""
        self._why = why
        self._leave_transport()
        self.transport.loseConnection()

    # ── Of a client that does not take the answers no command is done: they would fill the memory ──

    def pauseProducing(self) -> None:
        """Too much waits for the client, or TLS has not begun."""
        if self.blocked is None:
            self._is_behind = True
            self.blocked = []

    def resumeProducing(self) -> None:
        """The client has taken it."""
        if self._is_behind:
            self._is_behind = False
            self._unblock(None)  # type: ignore[no-untyped-call]

    def stopProducing(self) -> None:
        """The connection is lost, of which `connectionLost` hears."""

    def _heed_transport(self) -> None:
        if not self._heeds_transport and not self._is_over and not self.transport.disconnecting:
            self._heeds_transport = True
            self.transport.registerProducer(self, True)

    def _leave_transport(self) -> None:
        """To a text, or to the end of the connection, which both wait for that."""
        if self._heeds_transport:
            self._heeds_transport = False
            self.transport.unregisterProducer()

    # ── Commands ──

    def processCommand(self, command: bytes, *args: bytes) -> Any:
        """Do one, or put it behind the one that is being done."""
        if self.blocked is not None:
            if len(self.blocked) >= _MOST_WAITING:
                return self.end("too much at once")
            self.blocked.append((command, args))
            return None
        known = command.upper() in (_ALWAYS if self.mbox is None else _ALWAYS | _AFTER_LOGIN)
        try:
            if known:
                return super().processCommand(command, *args)  # type: ignore[no-untyped-call]
        except NoSuchMessage as problem:
            self.failResponse(str(problem).encode())
        except (pop3.POP3Error, TypeError, ValueError):
            known = False  # too many or too few words, or no number
        except Exception as problem:
            self.fetching.journal.note(Fault(self.session, "pop3", f"failed: {problem!r}", format_exc()))
            self.failResponse(b"[SYS/TEMP] local problem, try again later")
        if not known:
            self._errors += 1
            self.failResponse(b"log in first" if self.mbox is None and command.upper() in _AFTER_LOGIN else b"cannot understand that")
            if self._errors >= _MAX_ERRORS:
                self.end("too many errors")
        return None

    def listCapabilities(self) -> list[bytes]:
        """See RFC 2449 §6, RFC 3206."""
        capabilities = [b"TOP", b"UIDL", b"PIPELINING", b"RESP-CODES", b"AUTH-RESP-CODE", b"EXPIRE NEVER"]
        if self._may_show_password:
            capabilities.append(b"USER")
        if self._can_start_tls:
            capabilities.append(b"STLS")
        return capabilities

    def do_STLS(self) -> None:
        """TLS from here on (RFC 2595 §4)."""
        if not self._can_start_tls or not self._is_receiving:
            self.failResponse(b"TLS is not possible now")
            return
        self.successResponse(b"begin TLS")
        self._userIs = None
        self._starts_tls = True

    def do_USER(self, user: bytes, *words: bytes) -> None:
        """The name; names may have spaces in them."""
        if self.mbox is not None:
            self.failResponse(b"you have logged in already")
        elif not self._may_show_password:
            self.failResponse(b"[AUTH] no password in clear: begin with STLS")
        else:
            super().do_USER(b" ".join((user, *words)))  # type: ignore[no-untyped-call]

    def do_PASS(self, password: bytes, *words: bytes) -> Any:
        """The password; what follows in the same packet waits."""
        if self._userIs is None or self.mbox is not None or not self._may_show_password:
            self.failResponse(b"USER comes first")
            return None
        user, self._userIs = self._userIs, None
        logging_in: Deferred[Any] = Deferred.fromCoroutine(self._log_in(user, b" ".join((password, *words))))
        return self._longOperation(logging_in)  # type: ignore[no-untyped-call]

    def do_STAT(self) -> None:
        """How many messages, and how much; without those that are marked (RFC 1939 §5)."""
        sizes = self._sizes()
        self.successResponse(b"%d %d" % (len(sizes), sum(sizes.values())))

    def do_LIST(self, number: bytes | None = None) -> None:
        """Sizes, of one or of all that are not marked. Raises ValueError."""
        self._list({index: b"%d" % size for index, size in self._sizes().items()}, number)

    def do_UIDL(self, number: bytes | None = None) -> None:
        """Identities, likewise. Raises ValueError."""
        self._list({index: self.mbox.getUidl(index) for index in self._sizes()}, number)

    def _sizes(self) -> dict[int, int]:
        return {index: size for index, size in enumerate(self.mbox.listMessages()) if size}

    def _list(self, told: dict[int, bytes], number: bytes | None) -> None:
        if number is None:
            lines = BytesIO(b"".join(b"%d %b\n" % (index + 1, text) for index, text in told.items()))
            self._send(lines, lines, b"%d messages" % len(told))
        elif int(number) - 1 in told:
            self.successResponse(b"%d %b" % (int(number), told[int(number) - 1]))
        else:
            raise NoSuchMessage("no such message")

    def do_DELE(self, number: bytes) -> None:
        """Mark a message. Raises ValueError."""
        self.mbox.deleteMessage(int(number) - 1)
        self.successResponse()

    def do_QUIT(self) -> None:
        """Remove what is marked, and hang up."""
        if self.mbox is not None and self.mbox.sync():
            self.failResponse(b"[SYS/TEMP] some messages could not be deleted")
        else:
            self.successResponse()
        self.end("quit")

    async def _log_in(self, user: bytes, password: bytes) -> None:
        try:
            login, mailbox = await self.fetching.let_in(self._client(), user, password)
        except NotLetIn as problem:
            self.failResponse(problem.answer)
            if problem.is_final:
                self.end("refused")
        except Exception as problem:
            self.fetching.journal.note(Fault(self.session, "pop3", f"login failed: {problem!r}", format_exc()))
            self.failResponse(b"[SYS/TEMP] local problem, try again later")
        else:
            self.login, self.mbox = login, mailbox
            self.successResponse(b"%d messages" % len(mailbox.messages))

    # ── Texts ──

    def do_RETR(self, number: bytes) -> None:
        """A message. Raises ValueError."""
        reader = self.mbox.getMessage(int(number) - 1)
        self._send(reader, reader, b"message follows")

    def do_TOP(self, number: bytes, lines: bytes) -> None:
        """The beginning of a message. Raises ValueError."""
        wanted = int(lines)
        if wanted < 0:
            raise ValueError("fewer lines than none")
        reader = self.mbox.getMessage(int(number) - 1)
        self._send(reader, Top(reader, wanted), b"message follows")

    def _send(self, reader: Reader | BytesIO, text: Reader | Top | BytesIO, answer: bytes) -> None:
        """Say +OK and a text; what comes meanwhile waits until the client has taken it."""
        sending: Deferred[None] = Deferred.fromCoroutine(self._send_all(reader, text, answer))
        self._longOperation(sending)  # type: ignore[no-untyped-call]
        self.setTimeout(_TIMEOUT)  # here we wait for the client, and not for ourselves

    async def _send_all(self, reader: Reader | BytesIO, text: Reader | Top | BytesIO, answer: bytes) -> None:
        self._at_line_start = True
        self.successResponse(answer)
        self._leave_transport()
        self._is_behind = False
        try:
            sending: Any = FileSender().beginFileTransfer(text, self.transport, self.transformChunk)  # type: ignore[no-untyped-call]
            last = await sending
        except Exception:  # the client is gone, or the disk: half a message must not look like a whole one
            self.end(self._why)
            return
        finally:
            reader.close()
        self.sendLine(b"\r\n." if last and last != b"\n" else b".")  # type: ignore[no-untyped-call]
        self._heed_transport()

    def transformChunk(self, chunk: bytes) -> bytes:
        """CRLF at the ends of lines, and a dot more where one begins a line (RFC 1939 §3), also where the line begins a chunk."""
        self.resetTimeout()  # type: ignore[no-untyped-call]
        stuffed = chunk.replace(b"\n.", b"\n..")
        if self._at_line_start and chunk.startswith(b"."):
            stuffed = b"." + stuffed
        self._at_line_start = chunk.endswith(b"\n")
        return stuffed.replace(b"\n", b"\r\n")

    # ── Inside ──

    @property
    def _has_tls(self) -> bool:
        return ISSLTransport.providedBy(self.transport)

    @property
    def _can_start_tls(self) -> bool:
        return self.factory.tls is not None and not self._has_tls and self.mbox is None

    @property
    def _may_show_password(self) -> bool:
        return self._has_tls or self.ip.is_loopback

    def _client(self) -> ClientFacts:
        tls = facts_of(self.transport.getHandle()) if self._has_tls else None
        return ClientFacts(
            session=self.session, listener=self.fetching.listener, ip=self.ip, port=self.port, kind="submission", tls=tls, login=self.login
        )
