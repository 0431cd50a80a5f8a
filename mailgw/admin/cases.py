"""Cases: attempts with the replies that are expected, which an administrator keeps beside his configuration.

::

    [zone."example.com"]
    TXT = "v=spf1 -all"

    [[case]]
    name      = "forged"
    listener  = "mx"
    client    = "203.0.113.7"
    mail_from = "boss@example.com"
    rcpt_to   = "info@example.org"
    expect    = "550 5.7.23"
"""

import tomllib
from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Annotated, Any, Literal

from attrs import evolve, field, frozen

from mailgw.admin.simulated_client import Attempt
from mailgw.admin.simulating import Simulated
from mailgw.config.lines import Lines
from mailgw.config.model import Configuration
from mailgw.config.reading import syntax_problem
from mailgw.dns.zone import zone
from mailgw.interfaces import IResolver, LookupFailed
from mailgw.problems import BadConfiguration, Place, Problem, Report, nearest
from mailgw.settings import DERIVED, Context, make
from mailgw.values.quantities import Duration

__all__ = ["Case", "differences", "no_surprises", "parse_moment", "read_cases"]

_TABLES = ("case", "zone", "clock")
_FAILS = "fails"


def parse_moment(text: str) -> datetime:
    """``"2026-01-05T10:00+01:00"``. Raises ValueError."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError(f'"{text}" is no moment; write it like "2026-01-05T10:00+01:00"')
    return moment


@frozen(kw_only=True)
class Case:
    """[[case]]: what a client does, and what is expected."""

    name: str
    listener: str
    client: IPv4Address | IPv6Address
    mail_from: str  # "<>": the null reverse-path
    rcpt_to: tuple[str, ...]
    helo: str = "client.example"
    login: str = ""
    tls: bool = False
    early_talker: bool = False  # the client does not wait for the greeting
    message: str = ""
    message_file: Path | None = None
    expect: tuple[str, ...]  # how the deciding reply begins: one for all recipients, or one for each
    gateway: str = ""  # where those that are accepted go
    policy: str = ""  # who refuses, holds or discards
    outcome: Literal["", "accepted", "held", "discarded", "refused"] = ""
    again_after: Duration | None = None  # the same was tried once before, so long ago
    clock: Annotated[datetime, parse_moment] | None = None  # when it is; the file's, or now
    zone: dict[str, Any] = field(factory=dict)  # more names for the DNS of this case
    content: bytes = field(default=b"", metadata=DERIVED)
    resolver: IResolver | None = field(default=None, metadata=DERIVED)  # None: the real DNS

    @property
    def attempt(self) -> Attempt:
        """What the client does."""
        return Attempt(
            listener=self.listener,
            client=self.client,
            mail_from=self.mail_from,
            rcpt_to=self.rcpt_to,
            helo=self.helo,
            login=self.login,
            tls=self.tls,
            early_talker=self.early_talker,
            content=self.content,
        )


def read_cases(path: Path, configuration: Configuration) -> list[Case]:
    """Read a file of cases for this configuration. Raises BadConfiguration with all the errors in it."""
    source = str(path)
    try:
        text = path.read_bytes().decode()
    except OSError as problem:
        raise BadConfiguration([Problem(source, 0, f"cannot be read: {problem.strerror or problem}")]) from None
    except UnicodeDecodeError:
        raise BadConfiguration([Problem(source, 0, "is not UTF-8 text, as TOML must be")]) from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise BadConfiguration([syntax_problem(problem, text, source)]) from None
    lines = Lines(text)
    report = Report(lambda place: (source, lines[place]))
    cases = _read(document, path.absolute().parent, configuration, report)
    if report.errors:
        raise BadConfiguration(report.problems)
    return cases


def _read(document: Mapping[str, Any], folder: Path, configuration: Configuration, report: Report) -> list[Case]:
    for key in document:
        if key not in _TABLES:
            report.error((key,), f'a file of cases has no "{key}"{nearest(key, _TABLES)}', of=())
    names = _names(document.get("zone", {}), ("zone",), report)
    clock: Any = document.get("clock")
    if clock is not None:
        try:
            clock = parse_moment(clock if isinstance(clock, str) else "")
        except ValueError as problem:
            report.error(("clock",), str(problem), of=())
    tables = document.get("case", [])
    if not isinstance(tables, list) or not tables:
        report.error(("case",), "there is no [[case]]", of=())
        return []
    context = Context(folder, configuration.context.networks)
    cases: list[Case] = []
    for index, table in enumerate(tables):
        case = _case(table, ("case", index), context, configuration, report)
        if case is None:
            continue
        if any(case.name == other.name for other in cases):
            report.error(("case", index, "name"), f'there is a case "{case.name}" before this one')
        own = names | _names(case.zone, ("case", index, "zone"), report)
        made: dict[str, Any] = {"clock": case.clock or clock}
        if "zone" in document or case.zone:
            made["resolver"] = _zone(own, ("case", index, "zone") if case.zone else ("zone",), report)
        cases.append(evolve(case, **made))
    return cases


def _case(table: Any, at: Place, context: Context, configuration: Configuration, report: Report) -> Case | None:
    if not isinstance(table, dict):
        report.error(at, "is not a table: write [[case]]")
        return None
    case: Case | None = make(Case, table, at, context, report)
    if case is None:
        return None
    before = len(report.errors)
    speaking = [name for name, one in configuration.listen.items() if one.kind != "pop3"]
    if case.listener not in speaking:
        report.error((*at, "listener"), f"there is no [listen.{case.listener}] that takes mail{nearest(case.listener, speaking)}")
    if not case.rcpt_to:
        report.error((*at, "rcpt_to"), "needs at least one recipient")
    if len(case.expect) not in (1, len(case.rcpt_to)):
        report.error((*at, "expect"), "needs one reply for all recipients, or one for each")
    if case.gateway and case.gateway not in configuration.gateway:
        report.error((*at, "gateway"), f"there is no [gateway.{case.gateway}]{nearest(case.gateway, configuration.gateway)}")
    texts = {"mail_from": [case.mail_from], "rcpt_to": case.rcpt_to, "helo": [case.helo], "login": [case.login]}
    for key, values in texts.items():
        if not no_surprises(*values):
            report.error((*at, key), "has a control character in it")
    content = case.message.encode()
    if case.message_file is not None:
        if case.message:
            report.error((*at, "message_file"), "message, or message_file: not both")
        try:
            content = case.message_file.read_bytes()
        except OSError as problem:
            report.error((*at, "message_file"), f"{case.message_file}: {problem.strerror}")
    return evolve(case, content=content) if len(report.errors) == before else None


def no_surprises(*texts: str) -> bool:
    """Whether they can be said in one line each."""
    return all(text.isprintable() for text in texts)


def _names(table: Any, at: Place, report: Report) -> dict[str, Any]:
    """The names of a zone, as `zone` takes them; "fails" stands for a lookup that fails."""
    if not isinstance(table, dict):
        report.error(at, "is not a table of names")
        return {}
    names: dict[str, Any] = {}
    for name, records in table.items():
        if records == _FAILS:
            names[name] = LookupFailed
        elif isinstance(records, dict):
            names[name] = {kind: _records(said) for kind, said in records.items()}
        else:
            report.error((*at, name), f'"{name}" is neither a table of records nor "{_FAILS}"', of=at)
    return names


def _records(said: Any) -> Any:
    if said == _FAILS:
        return LookupFailed
    return said if isinstance(said, list) else [said]


def _zone(names: dict[str, Any], at: Place, report: Report) -> IResolver | None:
    try:
        return zone(names)
    except (ValueError, TypeError) as problem:
        report.error(at, str(problem))
        return None


def differences(case: Case, simulated: Simulated) -> list[str]:
    """What came out otherwise than expected, in words; empty: nothing."""
    found = []
    expected = case.expect * len(simulated.replies) if len(case.expect) == 1 else case.expect
    for recipient, wanted, reply in zip(case.rcpt_to, expected, simulated.replies, strict=True):
        if not reply.startswith(wanted):
            found.append(f'{recipient}: expected "{wanted}", got "{reply}"')
    for name, wanted, got in (("policy", case.policy, simulated.by), ("outcome", case.outcome, simulated.outcome)):
        if wanted and got != wanted:
            found.append(f'expected {name} "{wanted}", got "{got or "none"}"')
    if case.gateway and set(simulated.gateways) != {case.gateway}:
        found.append(f'expected gateway "{case.gateway}", got "{", ".join(simulated.gateways) or "none"}"')
    return found
