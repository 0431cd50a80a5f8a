"""From ``etc/mailgw.toml`` to a `Configuration`, with every error of the file found in one run."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field

from mailgw.config.lines import Lines
from mailgw.config.model import (
    MOST_WORKERS,
    Accounts,
    Admin,
    Configuration,
    Gateway,
    Listener,
    MemoryKeeping,
    PermitRule,
    Policy,
    RecordKeeping,
    RouteRule,
    Server,
    Tls,
    parse_domain_pattern,
)
from mailgw.config.soundness import (
    check_endpoints,
    check_listener,
    check_metrics,
    check_permit,
    check_route,
    check_routes,
    check_submission,
)
from mailgw.login.throttle import Throttling
from mailgw.problems import BadConfiguration, Place, Problem, Report, nearest
from mailgw.routes.patterns import tidy_pattern
from mailgw.settings import Context, Network, Part, convert, fill, make

__all__ = ["read", "read_text", "syntax_problem"]

_ONE_TABLE = ("logins", "memory", "records", "admin")
_TABLES = ("server", "tls", "domains", "networks", "accounts", "listen", "permit", "policy", "route", "gateway", *_ONE_TABLE)
_TOML_PLACE = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)\Z", re.DOTALL)


def read(path: Path, text: str | None = None) -> Configuration:
    """Read a configuration file; ``text``: what it said at another time, which counts then.

    Raises BadConfiguration with all the errors in it.
    """
    source = str(path)
    try:
        text = path.read_bytes().decode() if text is None else text
    except OSError as problem:
        raise BadConfiguration([Problem(source, 0, f"cannot be read: {problem.strerror or problem}")]) from None
    except UnicodeDecodeError as problem:
        line = problem.object.count(b"\n", 0, problem.start) + 1
        raise BadConfiguration([Problem(source, line, "is not UTF-8 text, as TOML must be")]) from None
    return read_text(text, source, path.absolute().parent)


def read_text(text: str, source: str, folder: Path) -> Configuration:
    """As `read`, of a text; relative paths in it begin at ``folder``."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as problem:
        raise BadConfiguration([syntax_problem(problem, text, source)]) from None
    lines = Lines(text)
    report = Report(lambda place: (source, lines[place]))
    reading = _Reading(document, folder, report)
    configuration = reading.configuration(source, text, lines)
    if report.errors:
        raise BadConfiguration(report.problems, configuration)
    return configuration


def syntax_problem(error: tomllib.TOMLDecodeError, document: str, source: str) -> Problem:
    """Where and why a document is no TOML."""
    text = str(error)
    match = _TOML_PLACE.match(text)
    if not match:
        return Problem(source, 0, f"is not TOML: {text}")
    what = match[1][:1].lower() + match[1][1:]
    if match[2]:
        return Problem(source, int(match[2]), f"is not TOML: {what}, in column {match[3]}")
    return Problem(source, document.rstrip().count("\n") + 1, f"is not TOML: {what} at the end of the file")


@define
class _Reading:
    """One run over one document."""

    document: dict[str, Any]
    folder: Path
    report: Report
    context: Context = field(factory=Context)
    domains: dict[str, frozenset[str]] = field(factory=dict)

    def configuration(self, source: str, text: str, lines: Lines) -> Configuration:
        for key in self.document:
            if key not in _TABLES:
                self.report.error((key,), f'the configuration has no table "{key}"{nearest(key, _TABLES)}', of=())
        networks = self.networks()
        self.context = Context(folder=self.folder, networks=networks)
        self.domains = self.read_domains()
        accounts = {name: these for name, table in self.tables("accounts") if (these := self.accounts(name, table))}
        server = self.server()
        tls = {name: made for name, table in self.tables("tls") if (made := self.make(Tls, table, ("tls", name)))}
        listen = self.listeners()
        permit = tuple(permitted for index, table in self.listed("permit") if (permitted := self.permit(index, table)))
        policy = {name: made for name, table in self.tables("policy") if (made := self.policy(name, table))}
        route = tuple(rule for index, table in self.listed("route") if (rule := self.route(index, table)))
        gateway = {name: made for name, table in self.tables("gateway") if (made := self.gateway(name, table))}
        check_routes(route, self.document, self.report)
        check_submission(listen, self.document, self.report)
        self.say_what_is_missing()
        admin = self.admin(server.state)
        check_endpoints(listen, admin.metrics, self.report)
        return Configuration(
            source=source,
            text=text,
            lines=lines,
            context=self.context,
            server=server,
            tls=tls,
            domains=self.domains,
            networks=networks,
            accounts=accounts,
            listen=listen,
            permit=permit,
            policy=policy,
            route=route,
            gateway=gateway,
            logins=self.logins(),
            memory=self.memory(server.workers),
            records=RecordKeeping(**self.values(RecordKeeping, "records")),
            admin=admin,
        )

    # ── Tables ──

    def make(self, cls: type, table: Any, at: Place) -> Any:
        return make(cls, table, at, self.context, self.report)

    def values(self, cls: type, name: str, has: tuple[str, ...] = ()) -> dict[str, Any]:
        """What is right in the table [name]."""
        table = self.document.get(name, {})
        if not isinstance(table, dict):
            self.report.error((name,), f'"{name}" is not a table: write [{name}]', of=())
            return {}
        return fill(cls, table, (name,), self.context, self.report, has=has)

    def tables(self, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tables [name.X]."""
        outer = self.document.get(name, {})
        if not isinstance(outer, dict):
            self.report.error((name,), f'"{name}" is not a table: write [{name}.NAME]', of=())
            return
        for key, table in outer.items():
            if isinstance(table, dict):
                yield key, table
            else:
                self.report.error((name, key), f'"{key}" stands in [{name}], where only tables [{name}.NAME] can be', of=())

    def listed(self, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
        """The tables [[name]]."""
        outer = self.document.get(name, [])
        if not isinstance(outer, list) or not all(isinstance(table, dict) for table in outer):
            self.report.error((name,), f'"{name}" is a list of tables: write [[{name}]], with two brackets', of=())
            return
        yield from enumerate(outer)

    def sets(self, name: str) -> Iterator[tuple[str, Any]]:
        outer = self.document.get(name, {})
        if isinstance(outer, dict):
            yield from outer.items()
        else:
            self.report.error((name,), f'"{name}" is not a table: write [{name}]', of=())

    def part(self, table: Mapping[str, Any], at: Place, reserved: frozenset[str]) -> Part | None:
        """What a table says about its component."""
        kind = table.get("type")
        if kind is None:
            self.report.error(at, 'needs "type"')
            return None
        if not isinstance(kind, str) or not kind:
            self.report.error((*at, "type"), "is not the name of a component")
            return None
        reserved |= {"type"}
        return Part(kind, {key: value for key, value in table.items() if key not in reserved}, at, reserved)

    def common(self, cls: type, table: Mapping[str, Any], at: Place, keys: frozenset[str]) -> dict[str, Any]:
        """The keys of a component's table that mailgw reads itself."""
        return fill(cls, {key: value for key, value in table.items() if key in keys}, at, self.context, self.report)

    # ── The sections, in the order of the story ──

    def server(self) -> Server:
        if "server" not in self.document:
            self.report.error((), "the configuration has no [server]")
        values = self.values(Server, "server", has=() if "server" in self.document else ("hostname", "state"))
        # Nothing starts with these stand-ins: they serve to find the problems of the other tables in the same run.
        values.setdefault("hostname", "localhost")
        values.setdefault("state", self.folder)
        workers = values.get("workers", 1)
        if workers != "auto" and not 1 <= workers <= MOST_WORKERS:
            self.report.error(("server", "workers"), f'must be a number from 1 to {MOST_WORKERS}, or "auto"')
        return Server(**values)

    def networks(self) -> dict[str, tuple[Network, ...]]:
        found: dict[str, tuple[Network, ...]] = {}
        for name, value in self.sets("networks"):
            networks = convert(value, tuple[Network, ...], ("networks", name), Context(networks=found), self.report)
            found[name] = () if networks is attrs.NOTHING else networks
        return found

    def read_domains(self) -> dict[str, frozenset[str]]:
        found: dict[str, frozenset[str]] = {}
        for name, value in self.sets("domains"):
            convert(value, tuple[str, ...], ("domains", name), self.context, self.report)
            found[name] = self.patterns(value, ("domains", name), parse_domain_pattern, found)
        return found

    def patterns(self, written: Any, at: Place, parse: Callable[[str], str], sets: Mapping[str, frozenset[str]]) -> frozenset[str]:
        """Domains and addresses in their one spelling, the sets among them opened; what is no string has been reported before."""
        known: set[str] = set()
        for index, text in enumerate(written) if isinstance(written, list) else [(None, written)]:
            place = at if index is None else (*at, index)
            if not isinstance(text, str):
                continue
            if text.startswith("@") and text[1:] in sets:
                known |= sets[text[1:]]
            elif text.startswith("@"):
                self.report.error(place, f'"{text}" is not in [domains]{nearest(text[1:], sets)}')
            else:
                try:
                    known.add(parse(text))
                except ValueError as problem:
                    self.report.error(place, str(problem) if text and text in str(problem) else f'"{text}": {problem}')
        return frozenset(known)

    def accounts(self, name: str, table: dict[str, Any]) -> Accounts | None:
        at: Place = ("accounts", name)
        part = self.part(table, at, frozenset())
        return Accounts(name=name, part=part, at=at) if part else None

    def listeners(self) -> dict[str, Listener]:
        tables = dict(self.tables("listen"))
        found: dict[str, Listener] = {}
        own: dict[str, dict[str, Any]] = {}
        for name, table in tables.items():
            present: set[str] = set()
            chain = self.ancestors(name, tables)
            for ancestor in chain:
                present |= tables[ancestor].keys()
            if "like" in tables[chain[-1] if chain else name]:
                present |= {"kind", "endpoint"}  # what it is like is not there, which is reported
            own[name] = fill(Listener, table, ("listen", name), self.context, self.report, has=present)
        for name in tables:
            values: dict[str, Any] = {}
            for ancestor in reversed([name, *self.ancestors(name, tables, quietly=True)]):
                values |= own[ancestor]
            listener = check_listener(name, values, tables[name], self.document, self.report)
            if listener is not None:
                found[name] = listener
        return found

    def ancestors(self, name: str, tables: Mapping[str, Any], quietly: bool = False) -> list[str]:
        """The listeners that one is like, the nearest first."""
        chain: list[str] = []
        at = name
        while (like := tables[at].get("like")) is not None:
            if not isinstance(like, str):
                break  # reported as no string
            if like not in tables:
                if at == name and not quietly:
                    self.report.error(("listen", name, "like"), f"there is no [listen.{like}]{nearest(like, tables)}")
                break
            if like == name or like in chain:
                if like == name and not quietly:
                    self.report.error(("listen", name, "like"), "leads back to this one: one of them must say what they are")
                break
            chain.append(like)
            at = like
        return chain

    def permit(self, index: int, table: dict[str, Any]) -> PermitRule | None:
        at: Place = ("permit", index)
        before = len(self.report.errors)
        part = None
        if "type" in table:
            keys = frozenset({"on", "open_relay"})
            part = self.part(table, at, keys)
            own = {key: table[key] for key in keys if key in table}
            values = fill(PermitRule, own, at, self.context, self.report)
            name = f"permit {table['type']}"
        else:
            own = table
            values = fill(PermitRule, own, at, self.context, self.report, also=("type",))
            words = [f"{word} {_listing(table[key])}" for key, word in (("to", "to"), ("from_network", "from")) if key in table]
            name = " ".join(["permit", *words, *(["authenticated"] if table.get("authenticated") is True else [])])
        domains = self.patterns(own.get("to"), (*at, "to"), parse_domain_pattern, self.domains)
        check_permit(table, at, self.document, self.report)
        if len(self.report.errors) > before:
            return None  # half a rule might permit more than the whole
        return PermitRule(**values, domains=domains, part=part, name=name, at=at)

    def policy(self, name: str, table: dict[str, Any]) -> Policy | None:
        at: Place = ("policy", name)
        keys = frozenset({"timeout", "on_error", "mode", "skip_networks", "skip_logins"})
        part = self.part(table, at, keys)
        values = self.common(Policy, table, at, keys)
        if values.get("timeout", 1.0) <= 0:
            self.report.error((*at, "timeout"), "must be more than nothing: it would never be answered in time")
        return Policy(**values, name=name, part=part, at=at) if part else None

    def route(self, index: int, table: dict[str, Any]) -> RouteRule | None:
        at: Place = ("route", index)
        before = len(self.report.errors)
        part = recipients_of = None
        if "recipients" in table:
            recipients = table["recipients"]
            if isinstance(recipients, dict):
                recipients_of = self.part(recipients, (*at, "recipients"), frozenset())
            else:
                self.report.error((*at, "recipients"), 'is not a table: write { type = "list", path = "..." }')
        if "type" in table:
            part = self.part(table, at, frozenset({"recipients"}))
            own: dict[str, Any] = {}  # all the rest is the plugin's
            values: dict[str, Any] = {}
            name = f"route {table['type']}"
        else:
            own = table
            values = fill(RouteRule, own, at, self.context, self.report, also=("recipients", "type"))
            words = [f"{key} {_listing(table[key])}" for key in ("to", "sender", "tag", "table") if key in table]
            name = "otherwise" if table.get("otherwise") is True else " ".join(words)
        recipients_in = self.patterns(own.get("to"), (*at, "to"), tidy_pattern, self.domains)
        senders = self.patterns(own.get("sender"), (*at, "sender"), tidy_pattern, self.domains)
        check_route(table, at, self.document, self.report)
        if len(self.report.errors) > before:
            return None
        return RouteRule(**values, recipients_of=recipients_of, recipients=recipients_in, senders=senders, part=part, name=name, at=at)

    def gateway(self, name: str, table: dict[str, Any]) -> Gateway | None:
        at: Place = ("gateway", name)
        keys = frozenset({"retry", "warn_after", "give_up", "connections"})
        part = self.part(table, at, keys)
        values = self.common(Gateway, table, at, keys)
        if part is None:
            return None
        if "retry" in values and (not values["retry"] or min(values["retry"]) <= 0):
            self.report.error((*at, "retry"), "needs at least one interval, and each must be longer than nothing")
            del values["retry"]
        gateway = Gateway(**values, name=name, part=part, at=at)
        if gateway.connections < 1:
            self.report.error((*at, "connections"), "must be at least 1")
        return gateway

    def logins(self) -> Throttling:
        table = self.document.get("logins", {})
        if isinstance(table, dict):
            return self.make(Throttling, table, ("logins",)) or Throttling()
        self.report.error(("logins",), '"logins" is not a table: write [logins]', of=())
        return Throttling()

    def memory(self, workers: int | str) -> MemoryKeeping:
        memory = MemoryKeeping(**self.values(MemoryKeeping, "memory"))
        if memory.type == "in-process" and workers != 1:
            self.report.error(("memory", "type"), 'workers must count together: "in-process" needs [server] workers = 1')
        if memory.max_keys < 1000:
            self.report.error(("memory", "max_keys"), "must be at least 1000")
        return memory

    def admin(self, state: Path) -> Admin:
        values = self.values(Admin, "admin", has=("socket",))
        if values.get("metrics"):
            check_metrics(values["metrics"], ("admin", "metrics"), self.report)
        return Admin(**{"socket": state / "admin.sock"} | values)

    def say_what_is_missing(self) -> None:
        for name in ("listen", "gateway"):
            if not self.document.get(name):
                self.report.error((), f"the configuration has no [{name}.NAME]")


def _listing(value: Any) -> str:
    """What a rule is called: the values as they are written."""
    return ", ".join(f'"{one}"' for one in (value if isinstance(value, list) else [value]))
