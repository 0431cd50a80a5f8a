"""``mailgw simulate``: try before you mean it."""

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any

import click
from attrs import evolve, frozen

from mailgw.admin import own_reactor
from mailgw.admin.cases import Case, differences, no_surprises, read_cases
from mailgw.admin.client import Daemon, NoAnswer, NotRunning, Refused
from mailgw.admin.explaining import tell
from mailgw.admin.options import Age, speaking, with_json
from mailgw.admin.simulated_client import Attempt
from mailgw.admin.simulated_house import MovingClock, simulated_house
from mailgw.admin.simulating import Simulated, counts_sessions, simulate
from mailgw.admin.speaking import Speaker
from mailgw.admin.still_house import still_house
from mailgw.admin.stories import Story
from mailgw.admin.tables import Column, Printer
from mailgw.assemble import build_parts, closable, load
from mailgw.config.model import Configuration, parse_name_server
from mailgw.dns.resolver import resolver
from mailgw.interfaces import MemoryUnavailable
from mailgw.observe.stories import line_of_record
from mailgw.problems import BadConfiguration, nearest
from mailgw.storage.memory_copy import copy_memory
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.storage.memory_sqlite import SqliteMemory
from mailgw.values.facts import ClientFacts

__all__ = ["simulate_command"]

DIFFERENT = 1  # exit status of --cases


class Ip(click.ParamType[IPv4Address | IPv6Address]):
    """``203.0.113.7``, ``2001:db8::1``."""

    name = "IP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> IPv4Address | IPv6Address:
        try:
            return ip_address(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


class NameServer(click.ParamType[tuple[str, int]]):
    """``127.0.0.1:5353``."""

    name = "name server"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        try:
            return value if isinstance(value, tuple) else parse_name_server(value)
        except ValueError as problem:
            self.fail(str(problem), param, ctx)


@click.command("simulate", short_help="Play a client through the configuration; nothing is sent.")
@click.option("--listener", metavar="NAME", help="The listener that the client connects to.")
@click.option("--client", type=Ip(), metavar="IP", help="The client's address.")
@click.option("--helo", metavar="NAME", default="client.example", show_default=True, help="What the client calls itself.")
@click.option("--mail-from", metavar="ADDRESS", help='The sender; "<>" for the null reverse-path.')
@click.option("--rcpt-to", metavar="ADDRESS", multiple=True, help="A recipient; may be repeated.")
@click.option("--login", metavar="NAME", default="", help="The client logs in so, without a proof; over TLS where there is any.")
@click.option("--tls", is_flag=True, help="The client begins TLS.")
@click.option("--early-talker", is_flag=True, help="The client does not wait for the greeting.")
@click.option("--message", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE", help="What it sends.")
@click.option("--again-after", type=Age(), metavar="DURATION", help="It tried the same once before, so long ago; only this try is shown.")
@click.option("--ask-others", is_flag=True, help="Let policies ask mail servers, policy servers and web services.")
@click.option("--resolver", "server", type=NameServer(), metavar="HOST:PORT", help="Ask this name server.")
@click.option("--cases", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE", help="Try all cases of a file instead.")
@with_json
@speaking
def simulate_command(
    speaker: Speaker,
    /,
    cases: Path | None,
    server: tuple[str, int] | None,
    again_after: float | None,
    ask_others: bool,
    **said: Any,
) -> None:
    """Play an attempt to send mail through the configuration, and show all that is said and decided.

    Engine, conversation and policies are the real ones, and the DNS is asked. Nothing else reaches out: no policy server, no call-out,
    no web service, no program, nothing is queued; what policies remember is read, and what they would remember is forgotten. The daemon
    need not run. With --ask-others, policies ask mail servers, policy servers and web services as the daemon would; what those remember
    of it stays.

    Exit status: 0 accepted, for all recipients (also to be held or thrown away); 1 refused permanently; 75 deferred; 2 bad usage or
    configuration; 3 what policies remember cannot be read. With --cases: 0 all as expected, 1 something was different.
    """
    path = speaker.configuration()
    try:
        configuration, _, parts = load(path, still_house)
        if cases is not None:
            if again_after or any(value for key, value in said.items() if key != "helo"):
                raise click.UsageError("--cases says it all: it stands alone, or with --resolver and --ask-others")
            return _try_cases(speaker, configuration, read_cases(cases, configuration), server, ask_others)
        attempt = _attempt(configuration, **said)
    except BadConfiguration as bad:
        raise speaker.failed("configuration", bad) from None
    if counts_sessions(parts, attempt.listener):
        attempt = evolve(attempt, beside=_present(speaker, configuration, attempt))
    if configuration.memory.type != "sqlite":
        speaker.note(f'what policies remember is "{configuration.memory.type}", known to the running gateway alone: here nothing is known')
    try:
        [simulated] = own_reactor.run(lambda reactor: _Playing(configuration, reactor, server, ask_others).one(attempt, again_after))
    except MemoryUnavailable as problem:
        raise speaker.failed("unavailable", problem) from None
    if speaker.as_json:
        speaker.out.json({"status": simulated.status, **_plain(attempt.rcpt_to, simulated)})
    else:
        _tell(speaker.out, simulated, ask_others)
    sys.exit(simulated.status)


def _attempt(configuration: Configuration, message: Path | None, **said: Any) -> Attempt:
    for key in ("listener", "client", "rcpt_to"):
        if not said[key]:
            raise click.UsageError(f"--{key.replace('_', '-')} is needed")
    if said["mail_from"] is None:
        raise click.UsageError('--mail-from is needed; "<>" is the null reverse-path')
    speaking_smtp = [name for name, one in configuration.listen.items() if one.kind != "pop3"]
    if said["listener"] not in speaking_smtp:
        raise click.UsageError(f"there is no [listen.{said['listener']}] that takes mail{nearest(said['listener'], speaking_smtp)}")
    if not no_surprises(said["mail_from"], said["helo"], said["login"], *said["rcpt_to"]):
        raise click.UsageError("names and addresses have no control characters")
    return Attempt(**said, content=message.read_bytes() if message is not None else b"")


def _present(speaker: Speaker, configuration: Configuration, attempt: Attempt) -> tuple[ClientFacts, ...]:
    """The sessions of the running daemon that could count with this one."""
    try:
        with Daemon(speaker.where().socket) as daemon:
            found = daemon.ask("sessions", ip=str(attempt.client), login=attempt.login)["sessions"]
    except (NotRunning, NoAnswer, Refused) as problem:
        speaker.note(f"whose sessions are there now is not known, none is counted: {problem}")
        return ()
    listen = configuration.listen
    return tuple(
        ClientFacts(session=one["session"], listener=one["listener"], ip=ip_address(one["ip"]), port=0, login=one["login"])
        for one in found
        if one["listener"] in listen
    )


@frozen
class _Playing:
    """Plays attempts with parts of its own for each."""

    configuration: Configuration
    reactor: Any
    server: tuple[str, int] | None
    ask_others: bool

    async def one(self, attempt: Attempt, again_after: float | None) -> list[Simulated]:
        """With a copy of what policies remember. Raises MemoryUnavailable."""
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / "memory.db"
            if self.configuration.memory.type == "sqlite":  # else only the running gateway knows
                copy_memory(self.configuration.server.state / "memory.db", copy)
            clock = MovingClock()
            memory = SqliteMemory(copy, self.reactor, clock)
            memory.open()
            try:
                return [await self._play(attempt, clock, memory, self._real_resolver(), again_after, Path(folder))]
            finally:
                await memory.close()

    async def all(self, cases: Sequence[Case]) -> list[Simulated]:
        """Each case by itself: nothing is remembered from one to the next."""
        played = []
        dns = self._real_resolver()
        with tempfile.TemporaryDirectory() as folder:
            for case in cases:
                clock = MovingClock(case.clock)
                memory = InProcessMemory(clock)
                played.append(await self._play(case.attempt, clock, memory, case.resolver or dns, case.again_after, Path(folder)))
        return played

    def _real_resolver(self) -> Any:
        return resolver(self.reactor, [self.server] if self.server else self.configuration.server.resolvers)

    async def _play(
        self, attempt: Attempt, clock: MovingClock, memory: Any, dns: Any, again_after: float | None, folder: Path
    ) -> Simulated:
        house = simulated_house(self.configuration, self.reactor, clock, memory, dns, self.ask_others)
        parts = build_parts(self.configuration, house)
        try:
            if again_after:
                clock.ahead = -again_after
                await simulate(self.configuration, house, parts, attempt, self.reactor, folder)
                clock.ahead = 0.0
            return await simulate(self.configuration, house, parts, attempt, self.reactor, folder)
        finally:
            for component in closable(parts):
                component.close()


def _try_cases(
    speaker: Speaker, configuration: Configuration, cases: Sequence[Case], server: tuple[str, int] | None, ask_others: bool
) -> None:
    played = own_reactor.run(lambda reactor: _Playing(configuration, reactor, server, ask_others).all(cases))
    found = [(case, simulated, differences(case, simulated)) for case, simulated in zip(cases, played, strict=True)]
    different = [case for case, _, wrong in found if wrong]
    if speaker.as_json:
        told = [
            {"name": case.name, "ok": not wrong, "differences": wrong, **_plain(case.rcpt_to, simulated)}
            for case, simulated, wrong in found
        ]
        speaker.out.json({"ok": not different, "cases": told})
    else:
        rows = [(case.name, "different" if wrong else "ok", simulated.replies[0]) for case, simulated, wrong in found]
        speaker.out.table([Column("Case"), Column("Is"), Column("Reply", folds=True)], rows)
        for case, simulated, wrong in found:
            for line in (*wrong, *_story(simulated, ask_others)) if wrong else ():
                speaker.out.line(f"{case.name}: {line}" if line in wrong else f"  {line}" if line else "")
        speaker.out.line(f"{len(cases)} cases, {len(different)} different" if different else f"{len(cases)} cases, all as expected")
    if different:
        sys.exit(DIFFERENT)


def _plain(recipients: Sequence[str], simulated: Simulated) -> dict[str, Any]:
    return {
        "recipients": [{"address": one, "reply": reply} for one, reply in zip(recipients, simulated.replies, strict=True)],
        "outcome": simulated.outcome,
        "by": simulated.by,
        "gateways": list(simulated.gateways),
        "dialogue": [list(line) for line in simulated.dialogue],
        "records": [json.loads(line_of_record(record)) for record in simulated.records],
        "added": simulated.added,
        "faults": list(simulated.faults),
        "outside": list(simulated.outside),
    }


def _tell(out: Printer, simulated: Simulated, ask_others: bool) -> None:
    for who, line in simulated.dialogue:
        out.line(f"{who}: {line}")
    for line in _story(simulated, ask_others):
        out.line(line)
    if simulated.added:
        out.line("")
        for line in simulated.added.replace("\t", "  ").splitlines():
            out.line(f"adds       {line}")


def _story(simulated: Simulated, ask_others: bool) -> Iterator[str]:
    for record in simulated.records:
        yield ""
        yield from tell(Story(json.loads(line_of_record(record))))
    known = " ".join(one.fault for record in simulated.records for one in record.opinions)
    for fault in simulated.faults:
        if fault.partition(": ")[2] not in known:
            yield f"trouble    {fault}"
    for where in simulated.outside:
        asked = "was asked" if ask_others else "was not asked, though the gateway would ask it: say --ask-others"
        yield f"outside    {where} {asked}"
