"""Hand mail to a program, on its standard input; its exit status says what becomes of it."""

import os
import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any, Literal

import attrs
from attrs import Factory, field, frozen
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from zope.interface import implementer

from mailgw.gateways.exit_status import outcome_of
from mailgw.gateways.line_ends import as_unix
from mailgw.gateways.one_by_one import one_by_one
from mailgw.gateways.program import Program
from mailgw.gateways.system_user import NotPermitted, SystemUser
from mailgw.gateways.threads import in_thread
from mailgw.given import given
from mailgw.interfaces import IGateway
from mailgw.values.address import Address
from mailgw.values.delivery import Handed, Outcome, Recipient, Shipment, later, never
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Pipe"]

_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
_PLACEHOLDERS = ("{sender}", "{recipient}", "{recipients}")


def _a_command(_: Any, attribute: "attrs.Attribute[Any]", value: list[str]) -> None:
    if not value or not value[0]:
        raise ValueError(f"{attribute.name} is empty")
    for index, argument in enumerate(value):
        for placeholder in _PLACEHOLDERS:
            if placeholder in argument and (argument != placeholder or index == 0):
                raise ValueError(f"{attribute.name}: {placeholder} must be an argument of its own")
        if "\0" in argument:
            raise ValueError(f"{attribute.name}: an argument cannot hold NUL")


class _Unfit(Exception):
    """An address that cannot be an argument."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome.reply))
        self.outcome = outcome


@implementer(IGateway)
@frozen
class Pipe:
    """``type = "pipe"``: ``command``, a program and its arguments, is run with the message on its standard input, lines ending with LF.

    No shell looks at the arguments. ``{sender}`` and ``{recipient}`` stand for the addresses; with ``each = "message"`` the program is
    run once for all recipients, and ``{recipients}`` stands for an argument for each. Status 0 is "delivered", the rest is as
    sysexits.h says; "later" for a signal, for too much time, and for what sysexits.h does not know.
    """

    command: list[str] = field(validator=_a_command)
    each: Literal["recipient", "message"] = "recipient"
    user: str = ""  # needed where mailgw runs as root
    group: str = ""  # empty: the user's own
    directory: Path | None = None  # none: that of mailgw
    environment: dict[str, str] = field(factory=dict)  # besides PATH, LANG, HOME: nothing of ours is passed on
    timeout: Duration = 300.0  # then SIGTERM, and SIGKILL after 5 seconds more
    final: bool = False  # whether the program puts it into a mailbox: Return-Path is added, and a DSN says "delivered", not "relayed"
    processes: IReactorProcess = given(IReactorProcess)
    threads: IReactorThreads = given(IReactorThreads)
    clock: IReactorTime = given(IReactorTime)
    _user: SystemUser = field(
        init=False, repr=False, default=Factory(lambda self: SystemUser.named(self.user, self.group), takes_self=True)
    )

    def __attrs_post_init__(self) -> None:
        wrong, right = ("{recipients}", "{recipient}") if self.each == "recipient" else ("{recipient}", "{recipients}")
        if wrong in self.command:
            raise ValueError(f'command: with each = "{self.each}" write {right}, not {wrong}')

    async def deliver(self, shipment: Shipment) -> Mapping[Address, Outcome]:
        if self.each == "message":
            outcome = await self._run(shipment, shipment.recipients)
            return {recipient.address: outcome for recipient in shipment.recipients}
        # One after the other: how many run at once is the queue's affair.
        groups = [(recipient,) for recipient in shipment.recipients]
        return await one_by_one(groups, lambda group: self._run(shipment, group), self.clock, self.timeout)

    async def _run(self, shipment: Shipment, recipients: Sequence[Recipient]) -> Outcome:
        environment = _ENVIRONMENT | {"HOME": self._user.home} | self.environment
        executable = shutil.which(self.command[0], path=environment["PATH"])
        if executable is None:
            return later(Reply(451, "4.3.5", f"there is no program {self.command[0]} that can be run"), unreachable=True)
        try:
            arguments = self._arguments(shipment, recipients)
            uid, gid = self._user.change()
            stdin = await in_thread(self.threads, lambda: self._spool(shipment, uid))
            with stdin:
                program = Program(self.clock, self.timeout)
                directory = None if self.directory is None else str(self.directory)
                running = program.run(self.processes, executable, arguments, environment, stdin, directory, uid, gid)
        except _Unfit as problem:
            return problem.outcome
        except NotPermitted as problem:
            return later(Reply(451, "4.3.5", str(problem)), unreachable=True)
        except OSError as problem:
            return later(Reply(451, "4.3.0", f"the program cannot be run: {problem.strerror or problem}"))
        ended = await running
        if ended.too_slow:
            return later(Reply(451, "4.4.7", f"the program took longer than {self.timeout:g} seconds"))
        return outcome_of(ended.status, ended.signal, ended.first_line, Handed.MAILBOX if self.final else Handed.RELAY)

    def _arguments(self, shipment: Shipment, recipients: Sequence[Recipient]) -> list[str]:
        """The command line. Raises _Unfit."""
        arguments: list[str] = []
        for argument in self.command:
            if argument == "{sender}":
                arguments.append(_fit(shipment.sender, Reply(550, "5.1.7", "the sender's address cannot be given to the program")))
            elif argument in ("{recipient}", "{recipients}"):
                refusal = Reply(550, "5.1.3", "the recipient's address cannot be given to the program")
                arguments += [_fit(recipient.address, refusal) for recipient in recipients]
            else:
                arguments.append(argument)
        return arguments

    def _spool(self, shipment: Shipment, uid: int | None) -> IO[bytes]:
        """The message in a file without a name: a program reads it at its own pace, and may leave it unread."""
        top = f"Return-Path: <{shipment.sender}>\n".encode() if self.final else b""  # RFC 5321 §4.4
        file = TemporaryFile(buffering=0)  # noqa: SIM115 - whoever runs the program closes it
        try:
            if uid is not None:
                os.fchown(file.fileno(), uid, -1)  # so that /dev/stdin can be opened
            for piece in chain((top,), as_unix(shipment.content.chunks())):
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            file.seek(0)
        except BaseException:
            file.close()
            raise
        return file


def _fit(address: Address, refusal: Reply) -> str:
    """The address as an argument. Raises _Unfit for one that a program may take for an option, or that no argument can hold."""
    text = str(address)
    if text.startswith("-") or not text.isprintable():
        raise _Unfit(never(refusal))
    return text
