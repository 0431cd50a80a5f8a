"""The configuration as typed, frozen values: what `mailgw.config.reading` makes of ``etc/mailgw.toml``.

A field that is not marked as `DERIVED` is a key of the table that its class is named after; durations are seconds, sizes are octets.
"""

import os
from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from attrs import Factory, field, frozen

from mailgw.config.lines import Lines
from mailgw.login.throttle import Throttling
from mailgw.problems import Place, Report
from mailgw.queue.retry import Schedule
from mailgw.settings import DERIVED, Context, Network, Part
from mailgw.values.address import Address, BadAddress, parse_domain
from mailgw.values.quantities import Duration, Size
from mailgw.values.secret import Secret

__all__ = [
    "MOST_WORKERS",
    "Accounts",
    "Admin",
    "Configuration",
    "Gateway",
    "Listener",
    "MemoryKeeping",
    "PermitRule",
    "Policy",
    "RecordKeeping",
    "RouteRule",
    "Server",
    "Tls",
    "parse_domain_pattern",
    "parse_hostname",
]

MOST_WORKERS = 64


def parse_hostname(text: str) -> str:
    """A domain that is no IPv4 address: in EHLO that would be a literal, in brackets (RFC 5321 §4.1.3). Raises BadAddress."""
    domain = parse_domain(text)
    if domain.rpartition(".")[2].isdigit():
        raise BadAddress("an address is no host name")
    return domain


def parse_domain_pattern(text: str) -> str:
    """``example.org``, or ``.example.org`` for all its subdomains, in their one spelling. Raises BadAddress."""
    return f".{parse_domain(text[1:])}" if text.startswith(".") else parse_domain(text)


def parse_name_server(text: str) -> tuple[str, int]:
    """``"127.0.0.1"``, ``"127.0.0.1:5353"`` or ``"[::1]:5353"`` as address and port. Raises ValueError."""
    host, port = text, "53"
    if text.startswith("[") and "]" in text:
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or port
    elif text.count(":") == 1:
        host, port = text.split(":")
    try:
        if not 0 < int(port) < 65536:
            raise ValueError
        return str(ip_address(host)), int(port)
    except ValueError:
        raise ValueError(f'"{text}" is no name server; write an IP address, perhaps with a port: "127.0.0.1:5353"') from None


@frozen(kw_only=True)
class Server:
    """[server]: who we are."""

    hostname: Annotated[str, parse_hostname]  # greeting, EHLO, Received:, DSN Reporting-MTA
    state: Path  # queue, decision records, caches
    postmaster: Address = field(default=Factory(lambda self: Address("postmaster", self.hostname), takes_self=True))
    resolvers: tuple[Annotated[tuple[str, int], parse_name_server], ...] = ()  # empty: /etc/resolv.conf
    soft_bounce: bool = False  # every 5yz is sent as 4yz
    min_free: Size = 64 * 2**20  # of the file system of ``state``: new mail is refused before it is full
    damaged_queue: Literal["refuse", "start-new"] = "refuse"  # a database that is not whole: no start, or set aside
    shutdown_grace: Duration = 30.0  # how long running transactions and deliveries may take to end
    workers: int | Literal["auto"] = 1  # processes that share the listening sockets; "auto": one for each CPU that we may use

    @property
    def processes(self) -> int:
        """How many workers there are."""
        return min(len(os.sched_getaffinity(0)), MOST_WORKERS) if self.workers == "auto" else self.workers


@frozen(kw_only=True)
class Tls:
    """[tls.NAME]: a certificate and its key, read again when the files change."""

    certificate: Path  # PEM: ours first, then the chain
    key: Secret  # PEM
    client_ca: Path | None = None  # PEM: who signs the certificates of clients whose names count; for AUTH EXTERNAL
    client_certificates: Literal["never", "optional"] = field(  # whether clients are asked for one; they never need one
        default=Factory(lambda self: "optional" if self.client_ca else "never", takes_self=True)
    )


@frozen(kw_only=True)
class Accounts:
    """[accounts.NAME]: who can log in, and how that is found out. All keys are the component's own."""

    name: str = field(metadata=DERIVED)
    part: Part = field(metadata=DERIVED)
    at: Place = field(metadata=DERIVED)


@frozen(kw_only=True)
class Listener:
    """[listen.NAME]: where mail comes in, and its bounds (RFC 5321 §4.5.3)."""

    name: str = field(metadata=DERIVED)
    kind: Literal["relay", "submission", "pop3"]  # mail from other servers; from our own users (RFC 6409); or they fetch theirs
    endpoint: tuple[str, ...]  # Twisted endpoint strings; "tls:465" and "tls:systemd:..." are ours: TLS from the first byte (RFC 8314)
    like: str = ""  # inherit everything from this listener
    starttls: Literal["offer", "require", "never"] = "offer"
    tls: tuple[str, ...] = ()  # names of [tls.NAME]: the name that a client asks for picks one, else the first; empty: none
    accounts: tuple[str, ...] = ()  # names of [accounts.NAME], asked in this order; empty: nobody can log in
    allow_cleartext_auth: bool = False  # AUTH without TLS; beyond loopback only where nobody who listens learns a password
    policies: tuple[str, ...] = ()
    proxy: tuple[Network, ...] = ()  # load balancers: from there, and only from there, a PROXY header must come first
    xclient: tuple[Network, ...] = ()  # proxies that may say with XCLIENT for whom they speak, logins included
    max_message_size: Size = 50 * 2**20
    max_recipients: int = 1000  # in one transaction
    max_text_line: Size = 64 * 2**10  # in the content
    max_errors: int = 20  # 5yz replies in a session, then 421
    max_commands: int = 1000  # without a message between them, other than those that bring it nearer; 4yz replies count, too
    max_sessions: int = 5000
    max_sessions_per_client: int = 100
    max_hops: int = 50  # Received: fields (RFC 5321 §6.3)
    line_endings: Literal["refuse", "fix"] = "refuse"  # bare CR or LF
    aliases: Path | None = None  # what EXPN tells (RFC 5321 §3.5.2); none: EXPN is not offered
    command_timeout: Duration = 300.0
    data_timeout: Duration = 300.0  # between two pieces of content
    message_timeout: Duration = 3600.0  # for the whole content
    session_timeout: Duration = 3600.0  # for commands without a message; each message begins it anew
    gateway: str = ""  # for pop3: the name of a Maildir gateway, whose folders are read
    domain: Annotated[str, parse_domain] | None = None  # for pop3: of logins that are no addresses

    @property
    def smtp_kind(self) -> Literal["relay", "submission"]:
        """What policies are told."""
        return "submission" if self.kind == "submission" else "relay"

    def is_implicit_tls(self, endpoint: str) -> bool:
        """Whether TLS begins with the first byte there."""
        return endpoint.startswith("tls:")

    def beneath_tls(self, endpoint: str) -> str:
        """The Twisted endpoint string that TLS is spoken on: "tcp:465" for "tls:465", what follows for "tls:systemd:...".

        Any other endpoint string stays as it is.
        """
        inner = endpoint.removeprefix("tls:")
        return inner if inner == endpoint or inner.startswith(("systemd:", "unix:", "tcp6:")) else f"tcp:{inner}"


@frozen(kw_only=True)
class PermitRule:
    """One [[permit]]: who may have mail relayed to whom. All conditions that are given must hold."""

    on: tuple[str, ...]  # names of listeners
    to: tuple[str, ...] = ()  # as written: "@set", "example.org", ".example.org"
    from_network: tuple[Network, ...] = ()
    authenticated: bool = False
    open_relay: bool = False  # "I know that strangers may relay through this rule"
    domains: frozenset[str] = field(default=frozenset(), metadata=DERIVED)  # ``to`` without the names of sets
    part: Part | None = field(default=None, metadata=DERIVED)  # the plugin, where the rule has a ``type``
    name: str = field(metadata=DERIVED)  # 'permit to "@ours"'
    at: Place = field(metadata=DERIVED)


@frozen(kw_only=True)
class Policy:
    """[policy.NAME]: an opinion, asked where a listener lists it."""

    timeout: Duration = 30.0
    on_error: Literal["pass", "defer", "reject"] = "defer"  # what follows where it fails, takes too long or cannot know
    mode: Literal["enforce", "observe"] = "enforce"  # observe: record what it would have done, and do nothing
    skip_networks: tuple[Network, ...] = ()  # clients from there are not asked about
    skip_logins: tuple[str, ...] = ()  # nor these logins; "*": nobody who has logged in
    name: str = field(metadata=DERIVED)
    part: Part = field(metadata=DERIVED)
    at: Place = field(metadata=DERIVED)


@frozen(kw_only=True)
class RouteRule:
    """One [[route]]: all conditions that are given must hold; the first route that matches a recipient wins."""

    to: tuple[str, ...] = ()  # as written: "@set", "example.org", ".example.org", "user@example.org"
    sender: tuple[str, ...] = ()  # the same, and "<>"
    tag: tuple[str, ...] = ()
    table: Path | None = None  # a file that says the gateway for each recipient
    otherwise: bool = False
    gateway: str = ""
    next_hop: str = ""
    recipients_of: Part | None = field(default=None, metadata=DERIVED)  # who knows the recipients: the table ``recipients``
    recipients: frozenset[str] = field(default=frozenset(), metadata=DERIVED)  # ``to`` without the names of sets
    senders: frozenset[str] = field(default=frozenset(), metadata=DERIVED)  # ``sender`` likewise
    part: Part | None = field(default=None, metadata=DERIVED)  # the plugin, where the rule has a ``type``
    name: str = field(metadata=DERIVED)  # 'to "@ours"', "otherwise"
    at: Place = field(metadata=DERIVED)


@frozen(kw_only=True)
class Gateway:
    """[gateway.NAME]: a destination, and how patient we are with it."""

    retry: tuple[Duration, ...] = Schedule().retry  # the last one repeats
    warn_after: Duration | None = Schedule().warn_after
    give_up: Duration = Schedule().give_up
    connections: int = 20  # at once, for each next hop
    name: str = field(metadata=DERIVED)
    part: Part = field(metadata=DERIVED)
    at: Place = field(metadata=DERIVED)

    @property
    def schedule(self) -> Schedule:
        """When to try again."""
        return Schedule(self.retry, self.warn_after, self.give_up)


@frozen(kw_only=True)
class Admin:
    """[admin]: how the running gateway is spoken to."""

    socket: Path  # the `mailgw` command
    metrics: str = ""  # Twisted endpoint string at which Prometheus finds /metrics; empty: nothing is counted


@frozen(kw_only=True)
class MemoryKeeping:
    """[memory]: where counters, bans and the like are kept."""

    type: Literal["sqlite", "in-process"] = "sqlite"  # a file of all processes; or each time anew, in a gateway of one process
    max_keys: int = field(  # what ends soonest is forgotten beyond: 200 octets each on the disk, 350 in the process
        default=Factory(lambda self: 500_000 if self.type == "sqlite" else 100_000, takes_self=True)
    )


@frozen(kw_only=True)
class RecordKeeping:
    """[records]: the decision records, which say why; they lie in the state folder."""

    keep: Duration | None = 7 * 86400.0  # None, written "never": no records, and refusals have no reference
    max_size: Size = 256 * 2**20  # of all of them: the oldest go first
    redact: Literal["nothing", "local-parts"] = "nothing"


@frozen(kw_only=True)
class Configuration:
    """All of it."""

    source: str  # the path as it was given
    text: str = field(repr=False, eq=False)  # what the file said
    lines: Lines = field(repr=False, eq=False)
    context: Context = field(repr=False, eq=False)
    server: Server
    tls: Mapping[str, Tls]
    domains: Mapping[str, frozenset[str]]
    networks: Mapping[str, tuple[Network, ...]]
    accounts: Mapping[str, Accounts]
    listen: Mapping[str, Listener]
    permit: tuple[PermitRule, ...]
    policy: Mapping[str, Policy]
    route: tuple[RouteRule, ...]
    gateway: Mapping[str, Gateway]
    logins: Throttling
    memory: MemoryKeeping
    records: RecordKeeping
    admin: Admin

    def locate(self, place: Place) -> tuple[str, int]:
        """The source and line of a place."""
        return self.source, self.lines[place]

    def where(self, place: Place) -> str:
        """As `locate`, in one string: ``"etc/mailgw.toml:74"``."""
        return f"{self.source}:{self.lines[place]}"

    def report(self) -> Report:
        """An empty collection of problems about this configuration."""
        return Report(self.locate)
