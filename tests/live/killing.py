"""``kill -9`` at random moments under load, and the books balanced afterwards."""

import os
import random
import re
import signal
import threading
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from statistics import median

from clients import Client, Lost, Refused
from collecting import Log, Round, from_ledger, from_maildir
from letters import Books, letter
from next_hop import next_hop
from processes import answers, below, gateway_in, wait_until

REST = """
[[route]]
to = "boxes.example.org"
gateway = "boxes"
[[route]]
otherwise = true
gateway = "hop"
[gateway.boxes]
type = "maildir"
path = "boxes"
retry = ["1s"]
[gateway.hop]
type = "smarthost"
address = "127.0.0.1:{hop}"
tls = "never"
retry = ["1s"]
"""
LISTEN = """
[[permit]]
on = "mx"
to = ".example.org"
"""
TARGETS = ("all", "worker", "parent")
SENDERS = 6
GROWN = 10.0  # seconds, after which a worker's death is no longer one of many; its parent then waits for nothing
# What may well be said: that a worker was killed, and who minds its part; the old workers' port when only the parent was killed.
_KILLED = re.compile(
    r"worker \d+ (has died after .* signal 9 |is started again|looks after)|is in use; waiting up to|Address already in use"
)
NEAR = 2.0  # seconds between a delivery and a kill, within which the delivery may not have been written down


class Senders:
    """Threads that send letter after letter, and go on with a new connection whatever happens."""

    def __init__(self, port, books):
        self._port, self._books = port, books
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._send, args=(f"sender{n}",)) for n in range(SENDERS)]

    def _send(self, name):
        dice, number = random.Random(), 0
        while not self._stop.is_set():
            try:
                with Client(self._port) as client:
                    for _ in range(dice.choice([1, 20, 200])):
                        if self._stop.is_set():
                            break
                        number += 1
                        self._post(client, f"{name}.{number}", dice)
            except (Lost, Refused):
                self._stop.wait(0.05)

    def _post(self, client, name, dice):
        size = dice.choices([dice.randrange(10_000), 300_000, 3_000_000], weights=[95, 4, 1])[0]
        name, content = letter(name, size)
        recipients = [f"{name}.{n}@{dice.choice(['boxes', 'hop'])}.example.org" for n in range(dice.choice([1, 1, 2, 5]))]
        if dice.random() < 0.02:  # goes away in the middle
            self._books.said("partial", recipients)
            client.begin("load@sender.example", recipients)
            client.send(content[: dice.randrange(len(content))])
            client.abort()
            raise Lost
        client.post(self._books, "load@sender.example", recipients, content)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()


def age(pid):
    """Seconds since a process was started; 0 if it has ended."""
    try:
        started = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return 0.0
    return float(Path("/proc/uptime").read_text().split()[0]) - started / os.sysconf("SC_CLK_TCK")


class Killer:
    """Kills the gateway, or part of it, and starts again what does not do so by itself."""

    def __init__(self, gateway, books, target):
        self.gateway, self.books, self.target = gateway, books, target
        self.kills = []  # POSIX seconds
        self.early = 0  # kills before the greeting
        self.at_risk = []  # acknowledged and not arrived, at each kill
        self.dice = random.Random()

    def strike(self, gap):
        """Wait up to ``gap`` seconds and kill; one in five does not wait for the greeting before, and may come too early for it."""
        is_patient = self.dice.random() < 0.8
        if is_patient:
            wait_until(self.is_up, "a start")
        time.sleep(self.dice.random() * gap)
        self.early += not answers(self.gateway.port)
        parent = self.gateway.process.pid
        workers = below(parent)
        if self.target == "worker":
            workers = wait_until(lambda: [pid for pid in below(parent) if age(pid) > GROWN * is_patient], "a worker to kill")
        self.at_risk.append(len(self.books.owed()))
        self.kills.append(time.time())
        if self.target == "worker":
            with suppress(ProcessLookupError):
                os.kill(self.dice.choice(workers), signal.SIGKILL)
            return
        for pid in workers if self.target == "all" else ():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.gateway.kill()
        self.gateway.process.stderr.close()
        self.gateway.launch()

    def is_up(self):
        """Whether it answers; what has ended by itself is started again, as a service manager would do it."""
        if self.gateway.process.poll() is not None:
            self.gateway.process.stderr.close()
            self.gateway.launch()
        return answers(self.gateway.port)

    def explains(self, times):
        """Whether before each arrival but the last there was a kill, or right behind it: it may not have been written down."""
        return all(
            any(abs(kill - first) <= NEAR and kill < second for kill in self.kills)
            for first, second in pairwise(times)
        )


def ordeal(folder, kills, target="all", workers=1, gap=1.5, patience=60.0):
    """Do it; give the figures, and what is wrong as sentences."""
    server = f"workers = {workers}" if workers > 1 else ""
    with next_hop(folder, slow=0.05, faults=1.0) as (port, ledger):
        gateway = gateway_in(folder / "gateway", REST.format(hop=port), server=server, listen=LISTEN)
        books = Books()
        log = Log(gateway.log, books)
        killer = Killer(gateway, books, target)
        with gateway, Round(from_maildir(gateway.folder / "boxes", books), from_ledger(ledger, books), log, pause=0.1):
            with Senders(gateway.port, books):
                for _ in range(kills):
                    killer.strike(gap)
                wait_until(killer.is_up, "the last start")
                before = len(books.acknowledged)
                wait_until(lambda: len(books.acknowledged) > before + 50, "mail after the last kill")
            with suppress(AssertionError):
                wait_until(lambda: not books.owed(), "the arrival of all that was acknowledged", patience)
            # What nobody waits for, because it was not acknowledged or comes twice, arrives now, too.
            with suppress(AssertionError):
                wait_until(lambda: not gateway.waiting(), "the end of the queue", patience)
            left = gateway.waiting()
            gateway.stop()
    duplicates = books.duplicates()
    unexplained = [one for one, times in duplicates.items() if not killer.explains(times)]
    figures = {
        "kills": len(killer.kills),
        "of them before the greeting": killer.early,
        "acknowledged and not arrived at a kill, median": median(killer.at_risk),
        "the same, at most": max(killer.at_risk),
        "acknowledged": len(books.acknowledged),
        "arrived": len(books.arrivals),
        "lost": len(books.owed()),
        "partial": len(books.never_sent()),
        "damaged": len(books.damaged),
        "duplicates": len(duplicates),
        "duplicates not near a kill": len(unexplained),
        "not acknowledged, yet sent whole": len(books.doubtful),
        "of them arrived": sum(one in books.arrivals for one in books.doubtful),
        "refused": len(books.refused),
        "left in the queue": left,
    }
    return figures, list(_wrong(figures, killer, books, unexplained, log))


def _wrong(figures, killer, books, unexplained, log):
    for what, who in (
        ("lost", books.owed()),
        ("partial", books.never_sent()),
        ("damaged", books.damaged),
        ("duplicates not near a kill", unexplained),
    ):
        if who:
            yield f"{figures[what]} {what}: {sorted(who)[:5]}"
    if figures["left in the queue"]:
        yield f"{figures['left in the queue']} recipients are left in the queue"
    if not max(killer.at_risk):
        yield "nothing was on its way at any kill: this proves nothing"
    if trouble := [line for line in log.trouble if not _KILLED.search(line)]:
        yield f"{len(trouble)} lines of trouble in the log: {trouble[:5]}"
