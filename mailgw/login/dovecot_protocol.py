"""Dovecot's authentication protocol, version 1, as a client speaks it: https://doc.dovecot.org/main/developers/design/auth_protocol.html."""

import os
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Mapping
from typing import Any

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from mailgw.credentials import AccountsUnavailable

__all__ = ["Challenge", "DovecotConnection", "No", "Said", "Yes"]

_MAX_LINE = 65536  # octets
_VERSION = "1"
_ESCAPES = {"0": "\0", "1": "\1", "t": "\t", "r": "\r", "n": "\n"}


@frozen
class Challenge:
    """CONT: the client is to answer this."""

    challenge: bytes = field(repr=False)


@frozen
class Yes:
    """OK."""

    user: str


@frozen
class No:
    """FAIL; ``temporary``: Dovecot itself could not ask."""

    temporary: bool


Said = Challenge | Yes | No


class DovecotConnection(Protocol):
    """One connection, for many exchanges at the same time. `ready` gives the mechanisms and what Dovecot says about them.

    ``gone`` is called once, when it can be used no more.
    """

    def __init__(self, gone: Callable[["DovecotConnection"], None]) -> None:
        self.ready: Deferred[Mapping[str, frozenset[str]]] = Deferred(self._cancelled)
        self.is_over = False
        self._gone = gone
        self._buffer = b""
        self._mechanisms: dict[str, frozenset[str]] = {}
        self._waiting: dict[str, Deferred[Said]] = {}
        self._last = 0
        self._greeted = False

    def begin(self, mechanism: str, initial: bytes | None, parameters: tuple[str, ...]) -> tuple[str, "Deferred[Said]"]:
        """Begin an exchange; gives its number, for `go_on`."""
        self._last = self._last % 0xFFFFFFFF + 1
        number = str(self._last)
        # resp must stand last, as it may hold what looks like a parameter.
        words = ["AUTH", number, mechanism, *parameters]
        if initial is not None:
            words.append(f"resp={b64encode(initial).decode()}")
        return number, self._ask(number, words)

    def go_on(self, number: str, response: bytes) -> "Deferred[Said]":
        """Answer a challenge."""
        return self._ask(number, ["CONT", number, b64encode(response).decode()])

    def cancel(self, number: str) -> None:
        """Nobody waits for the end of this exchange any more."""
        self._waiting.pop(number, None)
        self._write(["CANCEL", number])

    def close(self) -> None:
        """Close it."""
        if self.transport is not None:
            self.transport.loseConnection()

    def _ask(self, number: str, words: list[str]) -> "Deferred[Said]":
        answer: Deferred[Said] = Deferred(lambda _: self.cancel(number))
        if self.is_over:
            answer.errback(AccountsUnavailable("the connection to Dovecot was lost"))
        else:
            self._waiting[number] = answer
            self._write(words)
        return answer

    def _write(self, words: list[str]) -> None:
        if not self.is_over:
            self.transport.write(("\t".join(words) + "\n").encode())  # type: ignore[union-attr]

    # ── Twisted's side ──

    def connectionMade(self) -> None:  # noqa: N802 - named by Twisted
        self._write(["VERSION", _VERSION, "1"])
        self._write(["CPID", str(os.getpid())])

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if not self.is_over:
                self._hear(line.decode("utf-8", "replace").split("\t"))
        if len(self._buffer) > _MAX_LINE:
            self._give_up("Dovecot's answer is too long")

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802, ARG002
        self._end("the connection to Dovecot was lost")

    def _hear(self, words: list[str]) -> None:
        match words:
            case ["VERSION", major, *_]:
                self._greeted = True
                if major != _VERSION:
                    self._give_up(f"Dovecot speaks version {major[:20]} of its protocol")
            case ["MECH", name, *flags]:
                self._mechanisms[name.upper()] = frozenset(flags)
            case ["DONE", *_] if self._greeted and not self.ready.called:
                self.ready.callback(self._mechanisms)
            case ["CONT", number, challenge, *_]:
                try:
                    self._answer(number, Challenge(b64decode(challenge, validate=True)))
                except (NotBase64, ValueError):
                    self._give_up("Dovecot's challenge is not base64")
            case ["OK", number, *parameters]:
                user = next((_unescaped(one[5:]) for one in parameters if one.startswith("user=")), "")
                self._answer(number, Yes(user))
            case ["FAIL", number, *parameters]:
                self._answer(number, No("temp" in parameters or "code=temp_fail" in parameters))
            case _:  # SPID, CUID, COOKIE, and what younger versions may say
                pass

    def _answer(self, number: str, said: Said) -> None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            waiting.callback(said)

    def _cancelled(self, _: Any) -> None:
        self.is_over = True
        self._gone(self)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def _give_up(self, why: str) -> None:
        self._end(why)
        if self.transport is not None:
            self.transport.abortConnection()  # type: ignore[attr-defined]

    def _end(self, why: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        self._gone(self)
        waiting: list[Deferred[Any]] = [self.ready, *self._waiting.values()]
        self._waiting = {}
        for one in waiting:
            if not one.called:
                one.errback(AccountsUnavailable(why))


def _unescaped(text: str) -> str:
    """Dovecot's str_tabunescape."""
    head, *parts = text.split("\1")
    return head + "".join(_ESCAPES.get(part[:1], part[:1]) + part[1:] for part in parts)
