"""Twisted's asyncio reactor on uvloop's event loop: ``twistd --reactor uvloop -n mailgw``. Needs the extra ``mailgw[speed]``."""

import signal
from types import FrameType

import uvloop
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.main import installReactor
from twisted.internet.process import reapAllProcesses

__all__ = ["install"]


def install() -> None:
    """Make it the reactor of this process. Raises twisted.internet.error.ReactorAlreadyInstalledError."""
    reactor = AsyncioSelectorReactor(uvloop.new_event_loop())
    installReactor(reactor)  # type: ignore[no-untyped-call]

    def child_ended(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - what signal.signal calls
        reactor.callFromThread(reapAllProcesses)  # type: ignore[no-untyped-call]

    # When it runs, uvloop takes over the file descriptor through which Twisted hears of signals. It still calls Python's handlers,
    # but Twisted's own for SIGCHLD does nothing: without this, no program that a gateway starts would ever be seen to end.
    reactor.callWhenRunning(signal.signal, signal.SIGCHLD, child_ended)
