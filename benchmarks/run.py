"""Measure the gateway beside the bare protocol (its limit) and, where installed, Postfix and aiosmtpd: in one run, taking turns.

    python benchmarks/run.py [--quick] [--only WORD] [--json FILE]

What counts is CPU for each message, and its ratio to the bare protocol's in the same run: rates depend on who else uses the machine.
How to read the figures: benchmarks/README.md.
"""

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from attrs import asdict
from cases import CASES, Case, Figures
from servers import SERVERS, Server
from table import markdown


def medians(turns: list[Figures]) -> Figures:
    """The median of each figure by itself."""
    rows = [asdict(turn) for turn in turns]
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in rows[0]}
    return Figures(**{name: median(column) for name, column in columns.items() if column})


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


def those_who_can(case: Case, servers: list[Server], left_out: list[str]) -> list[Server]:
    """The servers that know what the case needs; why others do not, is added to ``left_out``."""
    able = []
    for server in servers:
        if server.name in case.servers:
            if reasons := [server.lacks[need] for need in sorted(case.needs) if need in server.lacks]:
                left_out.append(f"{case.name}: without {server.name}: {', '.join(reasons)}")
            else:
                able.append(server)
    return able


def turn(case: Case, server: Server, scale: float, above: Path | None) -> Figures:
    """One turn. Raises RuntimeError."""
    amount = max(case.least, int(case.amount * scale * (server.share if case.by_share else 1)))
    with tempfile.TemporaryDirectory(prefix="mailgw-benchmark-", dir=above) as folder:
        try:
            return case.measure(server, Path(folder), amount)
        except RuntimeError as problem:
            raise RuntimeError(f"{case.name}, {server.name}: {problem}") from problem


def raise_limits() -> None:
    """Let us and all that we start open as many files as may be: each connection is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="one turn with a tenth of the messages: does everything work?")
    options.add_argument("--scale", type=float, default=1.0, help="how much of everything is done in a turn (%(default)s)")
    options.add_argument("--rounds", type=int, help="turns of each server at each case; default: three of most")
    options.add_argument("--only", default="", help="cases with this in their name")
    options.add_argument("--servers", default=",".join(SERVERS), help="%(default)s")
    options.add_argument("--folder", type=Path, help="on whose disk queues are kept; default: that of temporary files")
    options.add_argument("--json", type=Path, metavar="FILE", help="also write all figures, turn by turn, to this file")
    chosen = options.parse_args()
    if unknown := [name for name in chosen.servers.split(",") if name not in SERVERS]:
        options.error(f"no server {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    scale, rounds = (chosen.scale / 10, 1) if chosen.quick else (chosen.scale, chosen.rounds)
    left_out: list[str] = []
    servers = []
    for server in [SERVERS[name] for name in chosen.servers.split(",")]:
        if reason := server.missing():
            left_out.append(f"without {server.name}: {reason}")
        else:
            servers.append(server)
    raise_limits()
    surroundings = machine()
    cases = {case.name: case for case in CASES if chosen.only in case.name}
    turns: dict[str, dict[str, list[Figures]]] = {}
    for name, case in cases.items():
        those = those_who_can(case, servers, left_out)
        turns[name] = {server.name: [] for server in those}
        many = rounds or case.rounds
        for number in range(many):
            for server in those:
                say(f"{name}: {server.name}, {number + 1} of {many}")
                turns[name][server.name].append(turn(case, server, scale, chosen.folder))
    results = {name: {server: medians(figures) for server, figures in rows.items()} for name, rows in turns.items()}
    print("\n".join(markdown((cases[name], rows, turns[name]) for name, rows in results.items())))
    print("\n" + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in surroundings.items()))
    print("\n".join(left_out))
    if chosen.json:
        report = {
            "machine": surroundings,
            "scale": scale,
            "left_out": left_out,
            "medians": {case: {name: asdict(row) for name, row in rows.items()} for case, rows in results.items()},
            "turns": {case: {name: [asdict(row) for row in figures] for name, figures in rows.items()} for case, rows in turns.items()},
        }
        chosen.json.write_text(json.dumps(report, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
