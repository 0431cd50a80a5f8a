"""Fifty times ``kill -9`` under load, with a slow and failing next hop; nothing that was acknowledged may be lost.

    make crash           (python tests/live/crash.py [--kills 50] [--workers 2] [--target all|worker|parent])

Exit status 1 if something was lost, came in pieces, or came twice without a kill that explains it.
"""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from killing import TARGETS, ordeal
from rich.console import Console


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=50, help="(%(default)s)")
    options.add_argument("--workers", type=int, default=1, help="processes of the gateway (%(default)s)")
    options.add_argument("--target", choices=TARGETS, default="all", help="whom to kill (%(default)s); worker needs several of them")
    options.add_argument("--gap", type=float, default=1.5, help="seconds between a greeting and a kill, at most (%(default)s)")
    chosen = options.parse_args()
    if chosen.target != "all" and chosen.workers < 2:
        options.error(f"--target {chosen.target} needs --workers 2 or more")
    screen = Console(width=110, highlight=False)
    folder = Path(tempfile.mkdtemp(prefix="mailgw-crash-"))
    figures, problems = ordeal(folder, chosen.kills, chosen.target, chosen.workers, chosen.gap)
    for what, figure in figures.items():
        screen.print(f"{figure:>9,.0f}  {what}")
    for problem in problems:
        screen.print(problem, style="red", markup=False)
    screen.print(f"FAILED; everything is still in {folder}" if problems else "nothing lost, nothing in pieces")
    if not problems:
        shutil.rmtree(folder)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
