"""Says in the log that certificates are about to expire: at the start, and then once a day."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from mailgw.tls import EXPIRES_SOON, ServerTls

__all__ = ["ExpiryWatch"]

_LOOK_EVERY = 86400.0  # seconds

_log = Logger(namespace="mailgw.tls")


@define(eq=False)
class ExpiryWatch:
    """One warning for each certificate, from two weeks before its end."""

    certificates: Callable[[], Mapping[str, ServerTls]]  # by name, those in use at this moment
    clock: IReactorTime  # its seconds() are POSIX seconds
    _timer: IDelayedCall | None = field(default=None, init=False)

    def start(self) -> None:
        """Look, and go on with it."""
        self._timer = self.clock.callLater(_LOOK_EVERY, self.start)
        now = self.clock.seconds()
        for name, tls in self.certificates().items():
            until = tls.until()
            if until - now <= EXPIRES_SOON.total_seconds():
                _log.warn(
                    "certificate {path} of [tls.{name}] {expires} on {day}",
                    path=tls.path,
                    name=name,
                    expires="expires" if until > now else "expired",
                    day=f"{datetime.fromtimestamp(until, UTC):%Y-%m-%d}",
                )

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
