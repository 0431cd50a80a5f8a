"""A day's mail in ten minutes, of every kind and with every kind of trouble; memory, descriptors and threads must stay flat.

    make soak            (python tests/live/soak.py [--seconds 600] [--workers 2])

Exit status 1 if something grew, was lost, damaged or complained of in the log.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import trustme
from collecting import Log, Round, from_bounces, from_ledger, from_maildir
from letters import Books
from next_hop import next_hop
from processes import below, gateway_in, wait_until
from rich.console import Console
from rich.table import Table
from traffic import Traffic

from mailgw.testing.ports import free_port

LISTEN = """\
starttls = "offer"
tls = "default"
command_timeout = "3s"
data_timeout = "3s"
max_sessions_per_client = 1000
[tls.default]
certificate = "pem"
key = { file = "pem" }
[[permit]]
on = "mx"
to = ".example.org"
"""
REST = """
[[route]]
to = "boxes.example.org"
gateway = "boxes"
[[route]]
to = "hop.example.org"
gateway = "hop"
[[route]]
to = "program.example.org"
gateway = "program"
[[route]]
to = "nowhere.example.org"
gateway = "nowhere"
[[route]]
to = "parked.example.org"
gateway = "parked"
[[route]]
otherwise = true
gateway = "bounces"
[gateway.boxes]
type = "maildir"
path = "boxes"
[gateway.bounces]
type = "maildir"
path = "bounces"
[gateway.nowhere]
type = "discard"
[gateway.hop]
type = "smarthost"
address = "127.0.0.1:{hop}"
tls = "never"
max_idle = "2s"
retry = ["1s", "2s"]
[gateway.program]
type = "pipe"
command = ["{folder}/program", "{{recipient}}"]
directory = "{folder}/program.mail"
retry = ["1s"]
{user}
[gateway.parked]
type = "smarthost"
address = "127.0.0.1:{closed}"
retry = ["1s", "1h"]
"""
# Now and then it is busy.
PROGRAM = """\
#!/bin/sh
case "$1" in *7@*) [ -e "tried.$1" ] || { : > "tried.$1"; exit 75; }; rm "tried.$1" ;; esac
cat > "tmp/$1" && mv "tmp/$1" "new/$1"
"""


class Watch:
    """Samples of a process: its resident size, open descriptors and threads; the queue, what is owed, what was sent."""

    COLUMNS = ("seconds", "MiB", "descriptors", "threads", "queue", "owed", "messages", "log lines")
    FLAT = (("MiB", 5), ("descriptors", 10), ("threads", 5))  # may be so much more at the end than before, and 5 % more

    def __init__(self, gateway, traffic, log):
        self.gateway, self.traffic, self.log = gateway, traffic, log
        self.began = time.monotonic()
        self.samples = []
        self.pids = (gateway.process.pid, *below(gateway.process.pid))  # without the programs that come and go

    def sample(self):
        told = [dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()) for pid in self.pids]
        sample = {
            "seconds": time.monotonic() - self.began,
            "MiB": sum(int(one["VmRSS"].split()[0]) for one in told) / 1024,
            "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids),
            "threads": sum(int(one["Threads"]) for one in told),
            "queue": self.gateway.waiting(),
            "owed": len(self.traffic.books.owed()),
            "messages": self.traffic.done["messages"],
            "log lines": self.log.lines,
        }
        self.samples.append(sample)
        return sample

    def at_rest(self):
        """A sample when nothing has been opened for a second: the greeting comes before the last of several workers is ready."""
        last = self.sample()
        while True:
            time.sleep(1)
            before, last = last, self.sample()
            if before["descriptors"] == last["descriptors"]:
                return last

    def growth(self, margin):
        """What was not flat: the median of the last quarter is compared with that of the second. ``margin``: MiB more than usual."""
        quarter = max(1, len(self.samples) // 4)
        second, last = self.samples[quarter : 2 * quarter], self.samples[-quarter:]
        for what, more in self.FLAT:
            before, after = (median(sample[what] for sample in some) for some in (second, last))
            if after > before * 1.05 + more + (margin if what == "MiB" else 0):
                yield f"{what} grew from {before:.1f} to {after:.1f}"


@contextmanager
def the_house(folder, workers):
    """A gateway with all its gateways, and a next hop that makes trouble; gives it and the hop's ledger."""
    with next_hop(folder, slow=0.02, faults=1.0) as (port, ledger):
        home = folder / "gateway"
        user = 'user = "root"' if os.geteuid() == 0 else ""
        rest = REST.format(hop=port, closed=free_port(), folder=home, user=user)
        gateway = gateway_in(home, rest, server=f"workers = {workers}", listen=LISTEN)
        trustme.CA().issue_cert("mx.example.org").private_key_and_cert_chain_pem.write_to_path(home / "pem")
        (home / "program").write_text(PROGRAM)
        (home / "program").chmod(0o700)
        for name in ("new", "tmp"):
            (home / "program.mail" / name).mkdir(parents=True)
        with gateway:
            yield gateway, ledger


def soak(folder, seconds, tell, workers=1, margin=0.0):
    """Do it; give all that is wrong, as sentences."""
    with the_house(folder, workers) as (gateway, ledger):
        books, home = Books(), gateway.folder
        log = Log(gateway.log, books)
        traffic = Traffic(gateway, books)
        wait_until(lambda: len(below(gateway.process.pid)) == (workers if workers > 1 else 0), "all workers")
        watch = Watch(gateway, traffic, log)
        boxes = from_maildir(home / "boxes", books)
        program = from_maildir(home / "program.mail", books)
        bounces = from_bounces(home / "bounces", books)
        with Round(boxes, program, bounces, from_ledger(ledger, books), log) as round_:
            at_rest = watch.at_rest()
            traffic.every(0.2, traffic.stream, times=4)
            traffic.every(0.1, traffic.single, times=2)
            traffic.every(0.5, traffic.idle, times=20)
            traffic.every(0.3, traffic.encrypted)
            traffic.every(0.3, traffic.program)
            traffic.every(0.3, traffic.bounce)
            traffic.every(0.3, traffic.stranger)
            traffic.every(0.2, traffic.aborted)
            traffic.every(1.0, traffic.crowd)
            traffic.every(0.5, traffic.parked)
            traffic.every(2.0, traffic.operator)
            traffic.every(min(8.0, seconds / 8), traffic.big)
            traffic.every(min(15.0, seconds / 4), traffic.command)
            watch.samples.clear()
            watch.began = time.monotonic()
            try:
                while (passed := time.monotonic() - watch.began) < seconds:
                    time.sleep(min(seconds / 120, max(0.0, seconds - passed)))
                    tell(watch.sample())
            finally:
                traffic.end()
            gateway.ask("queue_release", selection={"state": "held"})
            gateway.ask("queue_drop", selection={"domain": "parked.example.org"})
            problems = list(watch.growth(margin))
            with suppress(AssertionError):  # what is still there is told below
                wait_until(lambda: not books.owed() and not gateway.waiting(), "the end of the queue", 60)
            left = gateway.waiting()
            # Idle clients' sessions end, kept connections are let go.
            with suppress(AssertionError):
                wait_until(lambda: watch.sample()["descriptors"] <= at_rest["descriptors"] + 5, "rest", 60)
            tell(watch.sample())
        status = gateway.stop()
        return problems + list(_wrong(watch, at_rest, traffic, books, log, left, status, home, round_)), traffic.done


def _wrong(watch, at_rest, traffic, books, log, left, status, home, round_):
    after = watch.samples[-1]
    if after["descriptors"] > at_rest["descriptors"] + 5:
        yield f"{at_rest['descriptors']} descriptors before, {after['descriptors']} after all"
    if owed := books.owed():
        yield f"{len(owed)} of {len(books.acknowledged)} acknowledged recipients got nothing: {sorted(owed)[:5]}"
    if left:
        yield f"{left} recipients are left in the queue"
    if books.damaged:
        yield f"{len(books.damaged)} letters are damaged: {sorted(books.damaged)[:5]}"
    if partial := books.never_sent():
        yield f"{len(partial)} letters arrived that were never sent whole: {sorted(partial)[:5]}"
    gone = {one for one in books.acknowledged if one.startswith("gone.")}
    if strange := (gone ^ set(books.bounced)) & books.acknowledged:
        yield f"{len(strange)} bounced who should not, or did not bounce who should: {sorted(strange)[:5]}"
    if books.refused | books.doubtful:
        yield f"{len(books.refused | books.doubtful)} recipients were not acknowledged: {sorted(books.refused | books.doubtful)[:5]}"
    if more := {one: times for one, times in books.duplicates().items() if "@hop." not in one}:
        yield f"{len(more)} got more than one: {sorted(more)[:5]}"
    for what, list_ in (("clients met the unexpected", traffic.broken), ("lines of trouble in the log", log.trouble)):
        if list_:
            yield f"{len(list_)} {what}: {list_[:5]}"
    if files := [str(one) for name in ("incoming", "content") for one in (home / "state" / name).iterdir()]:
        yield f"{len(files)} files are left in the state folder: {files[:5]}"
    if status != -signal.SIGTERM:
        yield f"the gateway ended with status {status}"
    if round_.failed:
        yield f"the collectors failed: {round_.failed!r}"


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--seconds", type=float, default=600.0, help="of traffic (%(default)s)")
    options.add_argument("--workers", type=int, default=1, help="processes of the gateway (%(default)s)")
    options.add_argument("--json", type=Path, help="write all samples to this file")
    chosen = options.parse_args()
    screen, samples = Console(width=110), []

    def tell(sample):
        if not samples or len(samples) % 10 == 0:
            screen.print("".join(f"{name:>13}" for name in Watch.COLUMNS), style="bold")
        samples.append(sample)
        screen.print("".join(f"{sample[name]:13.0f}" for name in Watch.COLUMNS))

    with tempfile.TemporaryDirectory(prefix="mailgw-soak-") as folder:
        problems, done = soak(Path(folder), chosen.seconds, tell, chosen.workers)
        if problems:
            (Path(folder) / "gateway" / "log").rename(log := Path(tempfile.mkdtemp(prefix="mailgw-soak-log-")) / "log")
            problems.append(f"the log is {log}")
    table = Table("what", "how often", title="Done", title_justify="left")
    for what, times in sorted(done.items()):
        table.add_row(what, f"{times:,}")
    screen.print(table)
    if chosen.json:
        chosen.json.write_text(json.dumps(samples))
    for problem in problems:
        screen.print(problem, style="red", markup=False)
    screen.print("FAILED" if problems else "all flat, all there")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
