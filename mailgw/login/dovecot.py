"""Accounts that Dovecot knows: every exchange is led by its authentication service."""

from collections.abc import Mapping
from typing import Any

from attrs import define, field, frozen
from twisted.cred.credentials import IUsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TimedOut
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Factory
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, ISaslDialogue
from mailgw.given import given
from mailgw.interfaces import IDialer
from mailgw.login.dovecot_protocol import Challenge, DovecotConnection, No, Said
from mailgw.login.spelling import name_in, password_in
from mailgw.values.quantities import Duration

__all__ = ["Dovecot"]

# What can be passed on. EXTERNAL and ANONYMOUS would believe anybody, a channel binding would be that of another channel, and
# DIGEST-MD5 and NTLM are broken (RFC 6331).
_SAFE = frozenset({"PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "OAUTHBEARER", "XOAUTH2", "GSSAPI", "GSS-SPNEGO"})
# "secured": we offer mechanisms only where the listener lets us, which is more than Dovecot could know. "no-penalty": it would count
# the failures of all our clients as those of one, and let everybody wait; our own guard counts them.
_PARAMETERS = ("secured", "no-penalty")
_UNSAFE_FLAGS = frozenset({"anonymous", "private"})
_AGAIN = 5.0  # seconds after a failure before it is asked in the background which mechanisms there are


@define(eq=False)
class _State:
    """What changes."""

    connection: DovecotConnection | None = None
    dialling: "list[Deferred[None]] | None" = None  # those who wait for the connection that is being made
    mechanisms: frozenset[str] = frozenset({"PLAIN"})  # what Dovecot offers unless told otherwise: until we have heard it
    quiet_until: float = 0.0


@implementer(IAccounts)
@frozen
class Dovecot:
    """``type = "dovecot"``: the service ``auth`` of a Dovecot is asked, by each mechanism that it offers.

    One connection is kept, and made again when it is lost.
    """

    address: str
    """"unix:/run/dovecot/auth-client", or "127.0.0.1:12345" for an ``inet_listener`` of the service."""
    service: str = "smtp"
    """What Dovecot calls us in its log and in its queries."""
    timeout: Duration = 30.0
    """For the connection, and for each answer."""
    dialer: IDialer = given(IDialer)
    clock: IReactorTime = given(IReactorTime)
    _state: _State = field(init=False, repr=False, eq=False, factory=_State)

    credentialInterfaces = (ISaslDialogue, IUsernamePassword)  # noqa: N815 - twisted.cred's name

    def __attrs_post_init__(self) -> None:
        if not self.service.isalnum():
            raise ValueError("service must be a word")
        if self.address.startswith("unix:") and not self.address.startswith("unix:/"):
            raise ValueError(f'address: "{self.address}" is none; write it like "unix:/run/dovecot/auth-client"')
        if not self.address.startswith("unix:") and not self.address.rpartition(":")[2].isdecimal():
            raise ValueError(f'address: "{self.address}" is none; write it like "unix:/run/dovecot/auth-client" or "127.0.0.1:12345"')

    # ── IAccounts ──

    def mechanisms(self) -> frozenset[str]:
        """What Dovecot said last; it is asked in the background where it has said nothing yet."""
        state = self._state
        if state.connection is None and state.dialling is None and self.clock.seconds() >= state.quiet_until:
            Deferred.fromCoroutine(self._connected()).addErrback(lambda _: None)  # whoever logs in hears of it
        return state.mechanisms

    async def requestAvatarId(self, credentials: Any) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        if ISaslDialogue.providedBy(credentials):
            return await self._exchange(credentials.mechanism, credentials.initial, credentials)
        name, password = name_in(credentials), password_in(credentials)
        return await self._exchange("PLAIN", b"\0".join((b"", name.encode(), password)), None)

    def close(self) -> None:
        """Close the connection."""
        if self._state.connection is not None:
            self._state.connection.close()

    # ── The way of a login ──

    async def _exchange(self, mechanism: str, initial: bytes | None, client: Any) -> str:
        """``client``: an ISaslDialogue, or None where there is nobody to ask more."""
        connection = await self._connected()
        if mechanism not in self._state.mechanisms:
            raise AccountsUnavailable(f"Dovecot does not offer {mechanism}")
        number, answer = connection.begin(mechanism, initial, (f"service={self.service}", *_PARAMETERS))
        said = await self._in_time(answer)
        while isinstance(said, Challenge):
            if client is None:
                connection.cancel(number)
                raise AccountsUnavailable(f"Dovecot asks for more than {mechanism} has")
            try:
                response = await client.respond(said.challenge)
            except BaseException:
                connection.cancel(number)
                raise
            said = await self._in_time(connection.go_on(number, response))
        if isinstance(said, No):
            if said.temporary:
                raise AccountsUnavailable("Dovecot cannot say now; its log says why")
            raise UnauthorizedLogin()
        if not said.user:
            raise AccountsUnavailable("Dovecot says yes, but not to whom")
        return said.user

    async def _in_time(self, answer: "Deferred[Said]") -> Said:
        try:
            return await answer.addTimeout(self.timeout, self.clock)
        except TimedOut:
            raise AccountsUnavailable(f"Dovecot did not answer within {self.timeout:g} s") from None

    async def _connected(self) -> DovecotConnection:
        state = self._state
        while state.dialling is not None:
            turn: Deferred[None] = Deferred()
            state.dialling.append(turn)
            await turn
        if state.connection is not None:
            return state.connection
        state.dialling = []
        try:
            connection, offered = await self._dial()
            state.mechanisms = frozenset(name for name, flags in offered.items() if name in _SAFE and not flags & _UNSAFE_FLAGS)
            state.connection = None if connection.is_over else connection
        except BaseException:
            state.quiet_until = self.clock.seconds() + _AGAIN
            raise
        finally:
            waiting, state.dialling = state.dialling, None
            for turn in waiting:
                if not turn.called:
                    turn.callback(None)
        return connection

    async def _dial(self) -> tuple[DovecotConnection, Mapping[str, frozenset[str]]]:
        connection = DovecotConnection(self._forget)
        try:
            await self.dialer.dial(self.address, Factory.forProtocol(lambda: connection), self.timeout)
            return connection, await connection.ready.addTimeout(self.timeout, self.clock)
        except (ConnectError, DNSLookupError, OSError) as problem:
            raise AccountsUnavailable(f"Dovecot cannot be reached at {self.address}: {problem or problem.__doc__}") from None
        except TimedOut:
            raise AccountsUnavailable(f"Dovecot did not greet within {self.timeout:g} s") from None

    def _forget(self, connection: DovecotConnection) -> None:
        if self._state.connection is connection:
            self._state.connection = None
