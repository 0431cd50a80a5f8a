"""LDAP on the wire (RFC 4511): requests, answers, TLS, within bounds. ldaptor encodes and decodes."""

from typing import Any

from ldaptor.protocols import pureber, pureldap
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHandshakeListener, IOpenSSLClientConnectionCreator
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable

__all__ = ["LdapConnection"]

_MAX_MESSAGE = 1 << 20  # octets
_DECODER = pureldap.LDAPBERDecoderContext_TopLevel(
    inherit=pureldap.LDAPBERDecoderContext_LDAPMessage(
        fallback=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
        inherit=pureldap.LDAPBERDecoderContext(fallback=pureber.BERDecoderContext()),
    )
)


@implementer(IHandshakeListener)
class LdapConnection(Protocol):
    """One connection, for one request after the other. What breaks it makes all requests fail with AccountsUnavailable."""

    def __init__(self, implicit: IOpenSSLClientConnectionCreator | None = None) -> None:
        self._implicit = implicit  # TLS from the first octet
        self._buffer = b""
        self._answers: list[Any] = []
        self._waiting: Deferred[list[Any]] | None = None
        self._handshake: Deferred[None] | None = None
        self._lost: str = ""

    async def start_tls(self, creator: IOpenSSLClientConnectionCreator) -> None:
        """StartTLS (RFC 4511 §4.14), until the server's certificate is verified. Raises AccountsUnavailable."""
        [answer] = await self.request(pureldap.LDAPStartTLSRequest())
        if answer.resultCode != 0:
            raise AccountsUnavailable(f"the directory refuses StartTLS: result code {answer.resultCode}")
        if self._buffer:
            raise AccountsUnavailable("the directory said something in clear behind its answer to StartTLS")
        await self._secure(creator)

    async def ready(self) -> None:
        """Until TLS protects the connection, where it does so from the first octet. Raises AccountsUnavailable."""
        if self._implicit is not None:
            await self._secure(self._implicit)

    async def _secure(self, creator: IOpenSSLClientConnectionCreator) -> None:
        self._handshake = done = self._awaited()
        transport: Any = self.transport
        transport.startTLS(creator)
        await done

    async def request(self, operation: Any) -> list[Any]:
        """Send it, and give all that is answered; the result is the last one. Raises AccountsUnavailable."""
        self._answers = []
        self._waiting = done = self._awaited()
        if self._lost:
            self._fail(self._lost)
        else:
            transport: Any = self.transport
            transport.write(pureldap.LDAPMessage(operation).toWire())
        answers: list[Any] = await done
        return answers

    def close(self) -> None:
        """Say good-bye (RFC 4511 §4.3)."""
        transport: Any = self.transport
        if transport is not None and not self._lost:
            transport.write(pureldap.LDAPMessage(pureldap.LDAPUnbindRequest()).toWire())
            transport.loseConnection()

    def _awaited(self) -> "Deferred[Any]":
        return Deferred(self._cancelled)

    def _cancelled(self, _: "Deferred[Any]") -> None:
        self._waiting = self._handshake = None
        self._give_up("given up")

    # ── Twisted's side ──

    def dataReceived(self, data: bytes) -> None:  # noqa: N802 - named by Twisted
        self._buffer += data
        while self._buffer:
            try:
                message, size = pureber.berDecodeObject(_DECODER, self._buffer)
            except pureber.BERExceptionInsufficientData:
                break
            except Exception:  # ldaptor asserts, and indexes what may not be there
                self._give_up("the directory does not speak LDAP")
                return
            self._buffer = self._buffer[size:]
            self._hear(message)
        if len(self._buffer) > _MAX_MESSAGE:
            self._give_up("the directory's answer is too long")

    def _hear(self, message: Any) -> None:
        if getattr(message, "id", 0) == 0:  # RFC 4511 §4.4.1: the notice of disconnection
            self._give_up("the directory closes the connection")
            return
        self._answers.append(message.value)
        if isinstance(message.value, pureldap.LDAPResult) and self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.callback(self._answers)

    def handshakeCompleted(self) -> None:  # noqa: N802
        done, self._handshake = self._handshake, None
        if done is not None:
            done.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        said = reason.getErrorMessage().replace("\n", " ")
        self._fail(f"TLS with the directory failed: {said}" if self._handshake is not None else "the connection to the directory was lost")

    def _give_up(self, why: str) -> None:
        self._fail(why)
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()

    def _fail(self, why: str) -> None:
        self._lost = self._lost or why
        for waiting in (self._waiting, self._handshake):
            if waiting is not None and not waiting.called:
                waiting.errback(AccountsUnavailable(why))
        self._waiting = self._handshake = None
