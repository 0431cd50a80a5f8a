"""The cases: what is done to a server, and what is counted. Each gives the same figures about one unit of its own."""

import json
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

from attrs import asdict, frozen
from name_server import NameServer
from process_tree import ProcessTree
from quota import Quota
from servers import NAMES, Server, Wish

from mailgw.testing.ports import free_port

__all__ = ["CASES", "Case", "Figures"]

_HERE = Path(__file__).parent
_MiB = 1 << 20


@frozen
class Figures:
    """What one turn of a server at a case gave, or the medians of several. What is not there was not measured."""

    cpu: float  # seconds of CPU of the server for one unit
    rate: float  # units a second
    memory: float  # octets: the largest of all its processes; where the case says "each", for one unit
    p50: float | None = None  # seconds
    p99: float | None = None
    load: float | None = None  # share of one CPU that the load generator used: near 1, it is what was measured


@frozen(kw_only=True)
class Case(ABC):
    """One kind of load."""

    name: str
    amount: int  # units of a full turn
    by_share: bool = False  # slow servers get a share of them
    least: int = 1  # units of a turn, however small
    servers: tuple[str, ...] = ("bare", "mailgw", "postfix", "aiosmtpd")
    compared: tuple[str, ...] = ("bare", "postfix")  # to whom the others are
    needs: frozenset[str] = frozenset()  # see Server.lacks
    rounds: int = 3  # turns of each server
    headline: Literal["cpu", "rate", "memory", "p50", "p99"] = "cpu"  # what servers are compared by
    unit: ClassVar[str] = "message"
    each: ClassVar[bool] = False  # memory is for one unit

    @abstractmethod
    def measure(self, server: Server, folder: Path, amount: int) -> Figures:
        """One turn: a new server in an empty folder. Raises RuntimeError."""


@contextmanager
def _running(server: Server, folder: Path, wish: Wish) -> Iterator[tuple[ProcessTree, int, float]]:
    """A server, its port, and the seconds until its greeting."""
    port = free_port()
    with ProcessTree(server.command(folder, port, wish), folder) as tree:
        yield tree, port, tree.wait_for_greeting(port)


def _tool(*words: object) -> dict[str, Any]:
    """Run one of our load generators. Raises RuntimeError if not all went well."""
    done = subprocess.run([sys.executable, *(str(word) for word in words)], cwd=_HERE, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"failed": "all", "first_failure": "no result"}
    if done.returncode or result["failed"]:
        raise RuntimeError(f"{words[0]}: {result['failed']} failed, the first with: {result['first_failure']}")
    return result


# ── Messages ──


@frozen(kw_only=True)
class Mail(Case):
    """Messages, as load.py sends them. What was accepted is discarded, or relayed to a sink, or waits for a next hop that is silent."""

    sessions: int = 10
    per_connection: int = 0  # 0: all messages of a session on one connection
    size: int = 1024  # octets
    how: str = "one-by-one"  # as load.py has it
    then: Literal["discarded", "relayed", "waiting"] = "discarded"
    share: float | None = None  # of one core, for each process of the server; None: all that there is

    def measure(self, server: Server, folder: Path, amount: int) -> Figures:
        with (
            _Sink() as sink,
            socket.create_server(("127.0.0.1", 0), backlog=200) as silent,  # it takes connections, and never says a word
            NameServer(NAMES) as names,
            ExitStack() as stack,
        ):
            next_hop = {"discarded": None, "relayed": sink.port, "waiting": silent.getsockname()[1]}[self.then]
            tree, port, _ = stack.enter_context(_running(server, folder, Wish(sink=next_hop, name_server=names.address)))
            if self.share is not None:
                stack.enter_context(Quota(self.share, tree.pids()))
            warmed = max(amount // 10, min(self.sessions, amount))
            self.load(port, warmed)
            tree.wait_until_calm()
            before, asked = tree.cpu(), names.asked
            result = self.load(port, amount)
            tree.wait_until_calm()
            if names.asked > asked:
                raise RuntimeError(f"{server.name} asked the name server {names.asked - asked} times, with a warm cache")
            cpu, memory, seconds = tree.cpu() - before, tree.peak_memory(), result["seconds"]
            if self.then == "relayed":
                arrived = sink.status()
                if arrived["messages"] != warmed + amount:
                    raise RuntimeError(f"{server.name} was given {warmed + amount} messages, {arrived['messages']} arrived")
                seconds = arrived["last"] - result["began"]
        units = amount * self.weight()
        return Figures(
            cpu=cpu / units,
            rate=units / seconds,
            memory=memory,
            p50=result["p50_ms"] / 1000,
            p99=result["p99_ms"] / 1000,
            load=result["load_cpu_seconds"] / result["seconds"],
        )

    def weight(self) -> float:
        """Units in a message."""
        return 1.0

    def load(self, port: int, messages: int) -> dict[str, Any]:
        words = ["--messages", messages, "--sessions", min(self.sessions, messages), "--size", self.size, "--how", self.how]
        return _tool("load.py", port, *words, "--per-connection", self.per_connection)


@frozen(kw_only=True)
class BigMail(Mail):
    """The same, counted in GB."""

    size: int = 25 * _MiB
    needs: frozenset[str] = frozenset({"big messages"})
    unit: ClassVar[str] = "GB"

    def weight(self) -> float:
        return self.size / 1e9


@frozen(kw_only=True)
class Latency(Mail):
    """A message every now and then, on a new connection each."""

    least: int = 20
    headline: Literal["cpu", "rate", "memory", "p50", "p99"] = "p99"

    def load(self, port: int, messages: int) -> dict[str, Any]:
        return _tool("latency.py", port, "--messages", messages, "--size", self.size, "--pause", 0.01)


class _Sink:
    """sink.py as a process; a context manager."""

    def __init__(self) -> None:
        command = [sys.executable, str(_HERE / "sink.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.port = int(self._read()["port"])

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def status(self) -> dict[str, Any]:
        """What has arrived so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        return self._read()

    def __enter__(self) -> "_Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


# ── Connections ──


@frozen(kw_only=True)
class Idle(Case):
    """Sessions that say nothing after EHLO: what one of them costs, and how long a message takes meanwhile."""

    needs: frozenset[str] = frozenset({"crowds"})
    rounds: int = 1
    headline: Literal["cpu", "rate", "memory", "p50", "p99"] = "memory"
    unit: ClassVar[str] = "connection"
    each: ClassVar[bool] = True

    def measure(self, server: Server, folder: Path, amount: int) -> Figures:
        with _running(server, folder, Wish()) as (tree, port, _):
            probe = Latency(name="probe", amount=20)
            probe.load(port, 20)
            tree.wait_until_calm()
            before, cpu = tree.memory(), tree.cpu()
            command = [sys.executable, str(_HERE / "idle.py"), str(port), "--connections", str(amount)]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
                assert clients.stdout is not None
                assert clients.stdin is not None
                try:
                    result = json.loads(clients.stdout.readline() or '{"failed": "all"}')
                    if result["failed"]:
                        raise RuntimeError(f"{result['failed']} of {amount} connections could not be opened")
                    cpu, memory = tree.cpu() - cpu, tree.memory() - before
                    meanwhile = probe.load(port, 20)
                finally:
                    clients.stdin.close()
        return Figures(
            cpu=cpu / amount,
            rate=amount / result["seconds"],
            memory=memory / amount,
            p50=meanwhile["p50_ms"] / 1000,
            p99=meanwhile["p99_ms"] / 1000,
            load=result["load_cpu_seconds"] / result["seconds"],
        )


@frozen(kw_only=True)
class Handshakes(Case):
    """STARTTLS with a full handshake on each of many short sessions."""

    sessions: int = 10
    needs: frozenset[str] = frozenset({"STARTTLS"})
    unit: ClassVar[str] = "handshake"

    def measure(self, server: Server, folder: Path, amount: int) -> Figures:
        with _running(server, folder, Wish(tls=True)) as (tree, port, _):
            _tool("handshakes.py", port, "--handshakes", max(self.sessions, amount // 10), "--sessions", self.sessions)
            tree.wait_until_calm()
            before = tree.cpu()
            result = _tool("handshakes.py", port, "--handshakes", amount, "--sessions", self.sessions)
            tree.wait_until_calm()
            cpu, memory = tree.cpu() - before, tree.peak_memory()
        return Figures(
            cpu=cpu / amount,
            rate=amount / result["seconds"],
            memory=memory,
            p50=result["p50_ms"] / 1000,
            p99=result["p99_ms"] / 1000,
            load=result["load_cpu_seconds"] / result["seconds"],
        )


@frozen(kw_only=True)
class StartUp(Case):
    """From the command to the first 220."""

    headline: Literal["cpu", "rate", "memory", "p50", "p99"] = "p50"
    unit: ClassVar[str] = "start"

    def measure(self, server: Server, folder: Path, amount: int) -> Figures:  # noqa: ARG002 - a turn is one start
        with _running(server, folder, Wish()) as (tree, _, started):
            return Figures(cpu=tree.cpu(), rate=1 / started, memory=tree.peak_memory(), p50=started)


_ALL = Mail(name="accept, 1 KiB, 10 sessions", amount=8000, by_share=True, least=20)


def _like(case: Mail, **changes: Any) -> Mail:
    return Mail(**{**asdict(case, recurse=False), **changes})


_WORKERS = Mail(
    name="accept, 1 KiB, 50 sessions, BDAT, by workers",
    sessions=50,
    how="bdat",
    amount=10000,
    least=50,
    servers=("mailgw", "2 workers"),
    compared=("mailgw",),
    needs=frozenset({"workers"}),
    headline="rate",
)

CASES: tuple[Case, ...] = (
    _ALL,
    _like(_ALL, name="accept alone, 1 KiB, 10 sessions, the next hop is silent", then="waiting"),
    _like(_ALL, name="accept, 1 KiB, 1 session", sessions=1, amount=2000),
    _like(_ALL, name="accept, 1 KiB, 50 sessions", sessions=50),
    _like(_ALL, name="accept, 1 KiB, 200 sessions", sessions=200),
    _like(_ALL, name="accept, 1 KiB, 10 sessions, one message per connection", per_connection=1, amount=4000),
    _like(_ALL, name="accept, 1 KiB, 200 sessions, one message per connection", per_connection=1, sessions=200, amount=4000, rounds=2),
    _like(_ALL, name="accept, 1 KiB, 10 sessions, pipelined", how="pipelined", needs=frozenset({"PIPELINING"})),
    _like(_ALL, name="accept, 1 KiB, 10 sessions, BDAT", how="bdat", needs=frozenset({"BDAT"})),
    _like(_ALL, name="accept, 10 KiB, 10 sessions", size=10240),
    _like(_ALL, name="relay, 1 KiB, 10 sessions", then="relayed", needs=frozenset({"relaying"}), amount=6000),
    BigMail(name="accept, 25 MiB, 4 sessions", sessions=4, amount=40, least=4, rounds=2),
    BigMail(name="accept, 25 MiB, 100 sessions at once", sessions=100, amount=100, least=4, rounds=1, headline="memory"),
    Idle(name="idle, 2,000 connections", amount=2000),
    Idle(name="idle, 10,000 connections", amount=10000),
    _like(
        _ALL,
        name="accept, 1 KiB, 10 sessions, policies and records",
        servers=("no records", "mailgw", "six policies", "policies and records"),
        compared=("no records",),
        rounds=5,  # it is small differences that count
    ),
    Latency(name="latency, 1 KiB, a new connection every 10 ms", amount=500),
    Handshakes(name="STARTTLS, 10 sessions", amount=1000, rounds=2),
    StartUp(name="start-up", amount=1),
    _WORKERS,
    _like(_WORKERS, name=f"{_WORKERS.name}, each with half a core", share=0.5, needs=frozenset({"workers", "a bound on its CPU"})),
)
