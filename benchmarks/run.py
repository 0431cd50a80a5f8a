"""Measure the gateway beside the bare protocol (its limit) and, where installed, Postfix: in one run, taking turns.

    python benchmarks/run.py [--quick] [--only WORD] [--json FILE]

What counts is CPU per message, and its ratio to the bare protocol's in the same run: rates depend on who else uses the machine.
How to read the figures: benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict, frozen
from process_tree import ProcessTree, free_port
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from servers import SERVERS, Server

_HERE = Path(__file__).parent


@frozen
class Case:
    """One kind of load."""

    name: str
    sessions: int = 10
    per_connection: int = 0  # 0: all messages of a session on one connection
    size: int = 1024  # octets
    how: str = "one-by-one"  # as load.py has it
    relay: bool = False  # all the way to a sink; else the server is to discard what it accepted
    share: float = 1.0  # of the messages of a turn: slow cases need fewer for a turn of the same length


CASES = (
    Case("accept, 1 KiB, 10 sessions"),
    Case("accept, 1 KiB, 1 session", sessions=1, share=0.25),
    Case("accept, 1 KiB, 50 sessions", sessions=50),
    Case("accept, 1 KiB, 10 sessions, one message per connection", per_connection=1, share=0.5),
    Case("accept, 1 KiB, 10 sessions, pipelined", how="pipelined"),
    Case("accept, 1 KiB, 10 sessions, BDAT", how="bdat"),
    Case("accept, 10 KiB, 10 sessions", size=10240),
    Case("relay, 1 KiB, 10 sessions", relay=True, share=0.5),
)


@frozen
class Figures:
    """What one turn of a server at a case gave, or the medians of several."""

    rate: float  # messages a second: acknowledged, or in relay cases arrived at the sink
    cpu_us: float  # CPU of the server for each message, microseconds
    p50_ms: float  # from MAIL (one message per connection: from connect) to the final 250
    p99_ms: float
    memory: float  # octets
    start_ms: float  # from the command to the first 220
    load_busy: float  # share of one CPU that the load generator used: near 1, it is what was measured


class Sink:
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

    def __enter__(self) -> "Sink":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.communicate()


def load(port: int, case: Case, messages: int) -> dict[str, Any]:
    """Run load.py. Raises RuntimeError if not all messages were acknowledged."""
    command = [sys.executable, _HERE / "load.py", port, "--messages", messages, "--sessions", case.sessions, "--size", case.size]
    command += ["--per-connection", case.per_connection, "--how", case.how]
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"failed": messages, "first_failure": "load.py failed"}
    if done.returncode or result["failed"] or result["acknowledged"] != messages:
        raise RuntimeError(f"{case.name}: {result['failed']} of {messages} messages failed, the first with: {result['first_failure']}")
    return result


def measure(server: Server, case: Case, messages: int, above: Path | None) -> Figures:
    """One turn: a new server in an empty folder, a warm-up, then the load. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="mailgw-benchmark-", dir=above) as name, Sink() as sink:
        port = free_port()
        command = server.command(Path(name), port, sink.port if case.relay else None)
        with ProcessTree(command, Path(name)) as tree:
            started = tree.wait_for_greeting(port)
            warmed = max(messages // 10, case.sessions)
            load(port, case, warmed)
            tree.wait_until_calm()
            before = tree.cpu()
            result = load(port, case, messages)
            tree.wait_until_calm()
            cpu, memory = tree.cpu() - before, tree.peak_memory()
            seconds = result["seconds"]
            if case.relay:
                arrived = sink.status()
                if arrived["messages"] != warmed + messages:
                    raise RuntimeError(f"{case.name}: {server.name} was given {warmed + messages} messages, {arrived['messages']} arrived")
                seconds = arrived["last"] - result["began"]
    return Figures(
        rate=messages / seconds,
        cpu_us=cpu / messages * 1e6,
        p50_ms=result["p50_ms"],
        p99_ms=result["p99_ms"],
        memory=memory,
        start_ms=started * 1000,
        load_busy=result["load_cpu_seconds"] / result["seconds"],
    )


def medians(turns: list[Figures]) -> Figures:
    """The median of each figure by itself."""
    rows = [asdict(turn) for turn in turns]
    return Figures(**{name: median(row[name] for row in rows) for name in rows[0]})


def machine() -> dict[str, Any]:
    """What the figures depend on, without names of hosts."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return {
        "cpu": next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "twisted": version("Twisted"),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def those_who_can(case: Case, servers: list[Server]) -> list[Server]:
    """The servers that know what the case needs."""
    return [server for server in servers if (server.relays or not case.relay) and (server.speaks_bdat or case.how != "bdat")]


def table(case: str, rows: dict[str, Figures]) -> Table:
    """The figures of a case for people."""
    drawn = Table(title=case, title_justify="left", box=SIMPLE_HEAD, padding=0, collapse_padding=True, width=80)
    for title in ("server", "CPU µs", "x bare", "x postfix", "msgs/s", "p50 ms", "p99 ms", "MiB", "load"):
        drawn.add_column(title, justify="left" if title == "server" else "right", no_wrap=True)
    for server, row in rows.items():
        drawn.add_row(
            server,
            f"{row.cpu_us:.0f}",
            _ratio(row, rows.get("bare")),
            _ratio(row, rows.get("postfix")),
            f"{row.rate:.0f}",
            f"{row.p50_ms:.2f}",
            f"{row.p99_ms:.1f}",
            f"{row.memory / 1048576:.0f}",
            f"{row.load_busy:.0%}",
        )
    return drawn


def _ratio(row: Figures, other: Figures | None) -> str:
    return f"{row.cpu_us / other.cpu_us:.2f}" if other is not None and other.cpu_us else "-"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="one turn with a tenth of the messages: does everything work?")
    options.add_argument("--messages", type=int, default=20000, help="of one turn (%(default)s); slow cases and servers take a share")
    options.add_argument("--rounds", type=int, default=3, help="turns of each server at each case (%(default)s)")
    options.add_argument("--only", default="", help="cases with this in their name")
    options.add_argument("--servers", default=",".join(SERVERS), help="%(default)s")
    options.add_argument("--folder", type=Path, help="on whose disk queues are kept; default: that of temporary files")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write all figures, turn by turn, to this file")
    chosen = options.parse_args()
    if unknown := [name for name in chosen.servers.split(",") if name not in SERVERS]:
        options.error(f"no server {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    messages, rounds = (chosen.messages // 10, 1) if chosen.quick else (chosen.messages, chosen.rounds)
    screen, progress = Console(), Console(stderr=True)
    servers = []
    for server in [SERVERS[name] for name in chosen.servers.split(",")]:
        if reason := server.missing():
            progress.print(f"{server.name} is left out: {reason}")
        else:
            servers.append(server)
    surroundings = machine()
    turns: dict[str, dict[str, list[Figures]]] = {}
    for one in [one for one in CASES if chosen.only in one.name]:
        those = turns[one.name] = {server.name: [] for server in those_who_can(one, servers)}
        for turn in range(rounds):
            for name in those:
                progress.print(f"{one.name}: {name}, {turn + 1} of {rounds}")
                count = max(int(messages * one.share * SERVERS[name].share), one.sessions)
                those[name].append(measure(SERVERS[name], one, count, chosen.folder))
    results = {case: {name: medians(figures) for name, figures in rows.items()} for case, rows in turns.items()}
    for case, rows in results.items():
        screen.print(table(case, rows))
    screen.print(", ".join(f"{name} {value}" for name, value in surroundings.items()))
    if chosen.json:
        report = {
            "machine": surroundings,
            "messages": messages,
            "medians": {case: {name: asdict(row) for name, row in rows.items()} for case, rows in results.items()},
            "turns": {case: {name: [asdict(row) for row in figures] for name, figures in rows.items()} for case, rows in turns.items()},
        }
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
