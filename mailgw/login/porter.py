"""The porter of a listener: lets clients show who they are, asks the guard and the accounts, and writes down what came of it."""

from collections.abc import Awaitable, Callable, Sequence
from secrets import token_hex
from typing import Any

from attrs import define, field
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.interfaces import IReactorTime

from mailgw.credentials import AccountsUnavailable, ILoginGuard, ISubmitter, LoginRefused
from mailgw.journal import Fault, Journal, LoggedIn, LoginFailed
from mailgw.login.portal import Accounts, Doubtful, InOrder, make_portal
from mailgw.login.proofs import Shown, can_serve, serves_itself
from mailgw.login.tape import Tape, drive
from mailgw.smtp.mechanisms import MECHANISMS, in_order
from mailgw.smtp.sasl import REFUSED_TOKENS, BadResponse, Channel, Circumstances, Claim, NotProved
from mailgw.values.facts import ClientFacts
from mailgw.values.reply import Reply

__all__ = ["Porter"]

_PLUS = "-PLUS"


def _nobody(login: str, other: str) -> bool:  # noqa: ARG001
    return False


@define(eq=False, kw_only=True)
class Porter:
    """Logs clients in at one listener."""

    accounts: Sequence[Accounts]  # asked in this order
    journal: Journal
    clock: IReactorTime
    hostname: str
    guard: ILoginGuard | None = None
    allow_cleartext: bool = False  # AUTH without TLS; beyond loopback still without passwords that can be overheard
    may_act_as: Callable[[str, str], bool] = _nobody  # whether a login may use this authzid, which is not its own
    nonce: Callable[[], str] = field(default=lambda: token_hex(16))  # for challenges

    def offers(self, client: ClientFacts, channel: Channel) -> tuple[str, ...]:
        """The mechanisms that this client can use now, the strongest first."""
        if client.tls is None and not self.allow_cleartext:
            return ()
        names: set[str] = set()
        for one in self.accounts:
            try:
                listed = one.component.mechanisms()
                names.update(name for name in listed if can_serve(one.component, name))
                if channel.bindings:
                    bound = (f"{name}{_PLUS}" for name in listed)
                    names.update(name for name in bound if name in MECHANISMS and serves_itself(one.component, name))
            except BaseException as problem:
                self.journal.note(Fault(client.session, f"accounts {one.name}", f"cannot say its mechanisms: {problem!r}"))
        if channel.certificate is None:
            names.discard("EXTERNAL")
        if client.tls is None and not client.ip.is_loopback:
            names = {name for name in names if name in MECHANISMS and not MECHANISMS[name].reveals}
        return in_order(names)

    async def login(
        self, client: ClientFacts, channel: Channel, mechanism: str, initial: bytes | None, respond: Callable[[bytes], Awaitable[bytes]]
    ) -> str:
        """Who the client has proved to be, by a SASL exchange.

        ``respond`` sends a challenge and gives the response. Raises UnauthorizedLogin, AccountsUnavailable, LoginRefused,
        BadResponse, and what ``respond`` raises. All but the last are in the journal.
        """
        tape = Tape(respond, initial)
        try:
            claim = await self._claim(client, channel, mechanism, tape)
        except BadResponse as problem:
            self._note(client, mechanism, "", f"bad response: {problem}")
            raise
        except NotProved as problem:
            await self._refuse(client, mechanism, "", str(problem))
            raise UnauthorizedLogin() from None
        account = claim.username if claim is not None else ""
        return await self._admit(client, Shown(mechanism, tape, claim), account)

    async def login_with_password(self, client: ClientFacts, username: str, password: str, mechanism: str = "PLAIN") -> str:
        """As `login`, for protocols that have a name and a password of their own; ``mechanism`` is for the journal."""

        async def silent(_: bytes) -> bytes:
            raise AccountsUnavailable("there is no exchange in which to ask more")

        tape = Tape(silent, b"\0".join((b"", username.encode(), password.encode())))
        try:
            claim = await drive(MECHANISMS["PLAIN"].begin(Circumstances(nonce=self.nonce(), hostname=self.hostname)), tape.ask)
        except BadResponse as problem:
            self._note(client, mechanism, "", f"bad response: {problem}")
            raise UnauthorizedLogin() from None
        return await self._admit(client, Shown("PLAIN", tape, claim), claim.username, mechanism)

    async def _claim(self, client: ClientFacts, channel: Channel, mechanism: str, tape: Tape) -> Claim | None:
        if mechanism not in MECHANISMS:
            return None
        first = next((one for one in self.accounts if can_serve(one.component, mechanism)), None)
        if MECHANISMS[mechanism].speaks_first and first is not None and not serves_itself(first.component, mechanism):
            return None  # the challenge must be theirs
        circumstances = Circumstances(
            nonce=self.nonce(),
            hostname=self.hostname,
            channel=channel,
            plus_offered=f"{mechanism}{_PLUS}" in MECHANISMS and f"{mechanism}{_PLUS}" in self.offers(client, channel),
        )
        return await drive(MECHANISMS[mechanism].begin(circumstances), tape.ask)

    async def _admit(self, client: ClientFacts, shown: Shown, account: str, mechanism: str = "") -> str:
        mechanism = mechanism or shown.mechanism
        if self.guard is not None:
            reply = await self._ask_guard(self.guard.before, client, account)
            if reply is not None:
                self._note(client, mechanism, account, "refused by the guard")
                raise LoginRefused(reply)
        portal = make_portal(InOrder(self.accounts, self.journal, self.clock, client.session))
        try:
            _, avatar, _ = await portal.login(shown, None, ISubmitter)
        except UnauthorizedLogin:
            await self._refuse(client, mechanism, account, "wrong name or proof")
            if mechanism in REFUSED_TOKENS and len(shown.tape.heard) == 1:
                await shown.tape.ask(REFUSED_TOKENS[mechanism])
            raise
        except AccountsUnavailable as problem:
            self._note(client, mechanism, account, f"unavailable: {problem}")
            if isinstance(problem, Doubtful) and self.guard is not None:
                await self._ask_guard(self.guard.doubted, client, account)
            raise
        except BadResponse as problem:
            self._note(client, mechanism, account, f"bad response: {problem}")
            raise
        submitter: Any = avatar
        login: str = submitter.login
        authzid = shown.claim.authzid if shown.claim is not None else ""
        if authzid and authzid not in (account, login):
            if not self.may_act_as(login, authzid):
                await self._refuse(client, mechanism, account, f"may not act as {authzid}")
                raise UnauthorizedLogin()
            login = authzid
        if self.guard is not None:
            await self._ask_guard(self.guard.succeeded, client, account)
        self.journal.note(LoggedIn(client.session, str(client.ip), mechanism, login, client.listener))
        return login

    async def _refuse(self, client: ClientFacts, mechanism: str, account: str, reason: str) -> None:
        """Note a failure and tell the guard. Raises LoginRefused where it has another reply."""
        self._note(client, mechanism, account, reason)
        if self.guard is not None:
            reply = await self._ask_guard(self.guard.failed, client, account)
            if reply is not None:
                raise LoginRefused(reply)

    async def _ask_guard(
        self, question: Callable[[ClientFacts, str], Awaitable[Reply | None]], client: ClientFacts, account: str
    ) -> Reply | None:
        try:
            return await question(client, account)
        except Exception as problem:
            # Closed by default: without a guard nobody may try names and passwords.
            self.journal.note(Fault(client.session, "login guard", f"failed: {problem!r}"))
            raise AccountsUnavailable("the guard failed") from None

    def _note(self, client: ClientFacts, mechanism: str, account: str, reason: str) -> None:
        self.journal.note(LoginFailed(client.session, str(client.ip), account, mechanism, client.listener, reason))
