"""twisted.cred's portal over several accounts, which are asked in order."""

from collections.abc import Sequence
from traceback import extract_tb
from typing import Any

from attrs import define, field, frozen
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.credentials import AccountsUnavailable, IAccounts, ISubmitter
from mailgw.endings import Ending, no_ending
from mailgw.journal import Fault, Journal
from mailgw.login.proofs import IShown, Shown, can_serve
from mailgw.login.tape import Patience

__all__ = ["Accounts", "Doubtful", "InOrder", "Submitter", "make_portal"]

_MAX_LOGIN = 255  # characters


@frozen
class Accounts:
    """One [accounts.NAME]."""

    name: str
    component: IAccounts
    timeout: float = 30.0  # seconds; what the client takes for its responses does not count


@implementer(ISubmitter)
@frozen
class Submitter:
    """Who has logged in."""

    login: str


@implementer(IRealm)
class _Realm:
    """Everybody who is known is a submitter; what he may do policies decide."""

    def requestAvatar(self, avatarId: Any, mind: object, *interfaces: Any) -> tuple[Any, Submitter, Any]:  # noqa: N802, N803, ARG002
        if ISubmitter not in interfaces:
            raise NotImplementedError("a login gives an ISubmitter and nothing else")
        return ISubmitter, Submitter(avatarId), lambda: None


class Doubtful(AccountsUnavailable):
    """Some accounts have refused the proof, and others could not be asked."""


@implementer(ICredentialsChecker)
@define(eq=False)
class InOrder:
    """Asks one account after the other: the first that believes the client decides.

    Where none believes, and one could not be asked, nobody can say whether the proof is good.
    """

    accounts: Sequence[Accounts]
    journal: Journal
    clock: IReactorTime
    session: str = ""
    credentialInterfaces: Any = field(default=(IShown,), init=False)  # noqa: N815 - twisted.cred's name

    async def requestAvatarId(self, shown: Shown) -> str:  # type: ignore[override]  # noqa: N802 - Twisted takes coroutines, too
        """Raises UnauthorizedLogin, AccountsUnavailable, and what ended the exchange."""
        missing: list[str] = []
        is_refused = False
        able = [one for one in self.accounts if can_serve(one.component, shown.mechanism)]
        for number, one in enumerate(able, 1):
            form = shown.form_for(one.component, number < len(able))
            if form is None:
                continue
            login = ""
            try:
                login = await self._ask(one, form, shown)
            except UnauthorizedLogin:
                is_refused = True
            except AccountsUnavailable as problem:
                missing.append(f"{one.name}: {problem}")
            if shown.tape.ended is not None:
                raise shown.tape.ended  # whatever the accounts made of it: the client has gone, or does not want any more
            if login:
                return login
        if missing:
            raise (Doubtful if is_refused else AccountsUnavailable)("; ".join(missing))
        raise UnauthorizedLogin()

    async def _ask(self, one: Accounts, form: Any, shown: Shown) -> str:
        shown.tape.patience = patience = Patience(self.clock, one.timeout)
        asking: Deferred[Any] = maybeDeferred(one.component.requestAvatarId, form).addErrback(no_ending)
        try:
            login: Any = await patience.watch(asking)
        except (UnauthorizedLogin, AccountsUnavailable):
            raise
        except Exception as problem:
            if patience.ran_out:
                raise AccountsUnavailable(f"no answer within {one.timeout:g} s") from None
            if shown.tape.ended is None:
                raised = problem.raised if isinstance(problem, Ending) else problem
                self._fault(one, f"failed: {type(raised).__name__}", _where(raised))
            raise AccountsUnavailable("failed, see the fault") from None
        finally:
            patience.pause()
            shown.tape.patience = None
            shown.tape.turn += 1
        if not isinstance(login, str) or not login or len(login) > _MAX_LOGIN or not login.isprintable():
            self._fault(one, f"gave a {type(login).__name__} that is no login")
            raise AccountsUnavailable("failed, see the fault")
        return login

    def _fault(self, one: Accounts, problem: str, where: str = "") -> None:
        self.journal.note(Fault(self.session, f"accounts {one.name}", problem, where))


def _where(problem: BaseException) -> str:
    # Without its text and its values, which may be the password.
    frames = extract_tb(problem.__traceback__)
    return "\n".join(f'  File "{frame.filename}", line {frame.lineno}, in {frame.name}' for frame in frames)


def make_portal(checker: InOrder) -> Portal:
    """``await portal.login(shown, None, ISubmitter)`` gives ISubmitter, a `Submitter` and a function for the end."""
    return Portal(_Realm(), [checker])
