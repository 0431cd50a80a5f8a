"""What a client has said in one SASL exchange, kept so that several accounts can be asked about it, and then forgotten."""

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

__all__ = ["Patience", "Tape", "drive"]

T = TypeVar("T")


@define(eq=False)
class Patience:
    """Gives accounts up when they have taken ``seconds``; the time that the client takes is not theirs.

    As `mailgw.patience.within`, but it can pause.
    """

    clock: IReactorTime
    seconds: float
    ran_out: bool = False
    _promise: "Deferred[Any] | None" = None  # theirs
    _result: "Deferred[Any] | None" = None  # ours, so that nobody waits for who does not heed that his time is up
    _paused: bool = False
    _timer: IDelayedCall | None = None

    def watch(self, promise: "Deferred[Any]") -> "Deferred[Any]":
        """What it brings. It is cancelled when the time is over; what it brings after that is forgotten."""
        result = self._result = Deferred(lambda _: self._cancel())
        self._promise = promise
        promise.addBoth(self._arrive)
        if not self._paused:
            self.go_on()
        return result

    def _arrive(self, outcome: Any) -> None:
        assert self._result is not None
        if not self._result.called:
            self._result.callback(outcome)

    def pause(self) -> None:
        """It is not they who are waited for."""
        self._paused = True
        timer, self._timer = self._timer, None
        if timer is not None and timer.active():
            timer.cancel()

    def go_on(self) -> None:
        """From now on it is they again."""
        self._paused = False
        if self._result is not None and not self._result.called:
            self._timer = self.clock.callLater(self.seconds, self._end)

    def _end(self) -> None:
        assert self._result is not None
        self.ran_out = True
        self._cancel()
        if not self._result.called:
            self._result.errback(CancelledError())

    def _cancel(self) -> None:
        assert self._promise is not None
        with suppress(Exception):  # of a canceller of theirs; it is not written down, as its text may be the password
            self._promise.cancel()


@define(eq=False)
class Tape:
    """The client's side of an exchange."""

    _respond: Callable[[bytes], Awaitable[bytes]] = field(repr=False)
    initial: bytes | None = field(default=None, repr=False)  # the initial response, or what was the answer to an empty challenge
    heard: list[bytes] = field(factory=list, repr=False)
    ended: Exception | None = None  # what ended the exchange, whatever the accounts made of it
    patience: Patience | None = None
    turn: int = 0  # how many accounts have been asked about it: theirs is over, whatever they still do
    _taken: bool = False  # the initial response is

    def take_initial(self) -> bytes | None:
        """The initial response, which is then no answer to a challenge any more."""
        if self.initial is not None and not self._taken:
            self._taken = True
            self.heard.append(self.initial)
        return self.initial

    async def ask(self, challenge: bytes) -> bytes:
        """Send a challenge and give the response; the first one is the initial response, if there is one. Raises what ended it."""
        if not self._taken and (initial := self.take_initial()) is not None:
            return initial
        if self.patience is not None:
            self.patience.pause()
        try:
            response = await self._respond(challenge)
        except Exception as ended:
            self.ended = ended
            raise
        finally:
            if self.patience is not None:
                self.patience.go_on()
        if not self.heard and not challenge:
            self.initial, self._taken = response, True
        self.heard.append(response)
        return response


async def drive(exchange: Generator[bytes, bytes, T], ask: Callable[[bytes], Awaitable[bytes]]) -> T:
    """Lead an exchange to its result. Raises what it and ``ask`` raise."""
    try:
        challenge = next(exchange)
        while True:
            challenge = exchange.send(await ask(challenge))
    except StopIteration as stop:
        result: T = stop.value
        return result
