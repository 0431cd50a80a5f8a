"""Password checks off the reactor's thread, as many at once as the machine can bear; what was right may be remembered for a while."""

import hmac
from functools import partial
from secrets import token_bytes

from attrs import define, field
from twisted.internet.interfaces import IReactorFromThreads, IReactorTime

from mailgw.login.own_pool import OwnPool
from mailgw.login.schemes import StoredPassword

__all__ = ["PasswordChecks"]

_WAITING = 500  # with argon2id's usual cost, half a minute of work for two threads
_MOST_REMEMBERED = 10_000


@define(eq=False)
class PasswordChecks:
    """Compares passwords with what is kept of them.

    A success can be remembered for ``remember`` seconds: as a keyed hash of password and kept hash together, under a key that lives
    and dies with the process. A new password is therefore never taken for the old one.
    """

    reactor: IReactorFromThreads
    clock: IReactorTime
    remember: float = 0.0
    at_once: int = 2
    waiting: int = _WAITING
    _pool: OwnPool = field(init=False)
    _key: bytes = field(factory=partial(token_bytes, 32), init=False, repr=False)
    _remembered: dict[bytes, float] = field(factory=dict, init=False, repr=False)  # until when, oldest first

    def __attrs_post_init__(self) -> None:
        self._pool = OwnPool(self.reactor, "password checks", self.at_once, self.waiting)

    async def is_right(self, stored: StoredPassword, password: bytes) -> bool:
        """Whether it is this password. Raises AccountsUnavailable where too many checks are waiting."""
        if not self.remember:
            return await self._pool.call(partial(stored.is_right, password))
        kept = stored.text.encode()
        mark = hmac.digest(self._key, len(kept).to_bytes(4, "big") + kept + password, "sha256")
        if self._remembered.get(mark, 0.0) > self.clock.seconds():
            return True
        if not await self._pool.call(partial(stored.is_right, password)):
            return False
        self._note(mark)
        return True

    async def pretend(self, decoy: StoredPassword, password: bytes) -> None:
        """Do the work of a check for nothing, so that it takes as long. Raises as `is_right`."""
        await self._pool.call(partial(decoy.is_right, password))

    def _note(self, mark: bytes) -> None:
        now = self.clock.seconds()
        self._remembered.pop(mark, None)
        self._remembered[mark] = now + self.remember
        # All live equally long, so the first ones end first.
        while self._remembered[oldest := next(iter(self._remembered))] <= now or len(self._remembered) > _MOST_REMEMBERED:
            del self._remembered[oldest]

    def forget(self) -> None:
        """Remember nothing of what was before."""
        self._remembered.clear()

    def close(self) -> None:
        """Begin no more checks."""
        self._pool.close()
