"""A million waiting messages, half of them for a dead host: how fast is the start, how fast goes new mail, how much memory is needed?

    make million         (python tests/live/million.py [--messages 1000000] [--folder DIR])

Needs some 3 GB of disk and five minutes. Exit status 1 if a bound is missed: start in 5 s, new message delivered in 1 s, 300 MB.
"""

import argparse
import shutil
import smtplib
import sys
import tempfile
import threading
import time
from pathlib import Path

from processes import SmtpSink, gateway_in, wait_until

from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.ports import free_port
from mailgw.testing.stores import Pump
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Settlement, State

ROUTES = """
[[permit]]
on = "mx"
to = ".example"
[[route]]
to = "dead.example"
gateway = "dead"
[[route]]
to = "slow.example"
gateway = "slow"
[[route]]
otherwise = true
gateway = "alive"
[gateway.dead]
type = "smarthost"
address = "127.0.0.1:{dead}"
tls = "never"
[gateway.slow]
type = "smarthost"
address = "{slow}"
tls = "never"
connections = 4
[gateway.alive]
type = "smarthost"
address = "{alive}"
tls = "never"
"""
BOUNDS = {"start": 5.0, "new mail": 1.0, "memory": 300.0}
GROUP = 500
TEXT = b"Subject: waiting\r\n\r\n" + b"x" * 70 + b"\r\n"


def fill(folder, messages, now):
    """Half of them for the dead host, a quarter for one that is slow, a quarter deferred until tomorrow."""
    pump = Pump()
    store = SqliteStore.open(folder, pump)
    envelope = Envelope(sender=Address.parse("sender@example.com"), arrived=now - 3600, session="MILLION", listener="mx")
    content = Content.of(TEXT * 10)
    places = ["dead", "dead", "slow", "alive"]
    for start in range(0, messages, GROUP):
        puts = []
        for number in range(start, min(start + GROUP, messages)):
            place = places[number % 4]
            to = Recipient(Address.parse(f"user{number}@{place}.example"))
            puts.append(store.put(envelope, content, [(to, Destination(place))]))
        kept = pump.run_all(puts)
        later = [put for put in kept if put.parcels[0].destination.gateway == "alive"]
        settlements = [
            Settlement(put.message, put.parcels[0].queued[0].number, State.WAITING, "451 4.3.0 later", due=now + 86400, attempts=1)
            for put in later
        ]
        pump.run(store.settle(settlements))
    pump.run(store.close())


def send(port, name):
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("sender@example.com", [f"{name}@alive.example"], "Subject: new\r\n\r\nnew\r\n")


def memory_of(process):
    """The most that it has ever had, in MB."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def measure(folder, messages):
    found = {}
    slow = SmtpSink(lambda command, argument: time.sleep(0.05) if command == "DATA" else None, keep=lambda message: None)
    with slow, SmtpSink() as alive:
        gateway = gateway_in(folder, ROUTES.format(dead=free_port(), slow=slow.address, alive=alive.address))
        began = time.monotonic()
        fill(folder / "state", messages, time.time())
        found["filling"] = time.monotonic() - began
        began = time.monotonic()
        with gateway:
            found["start"] = time.monotonic() - began
            times = []
            for number in range(30):
                began = time.monotonic()
                send(gateway.port, f"new{number}")
                wait_until(lambda number=number: len(alive.messages) > number, "the delivery of new mail")
                times.append(time.monotonic() - began)
                threading.Event().wait(0.5)
            found["new mail"] = max(times)
            found["memory"] = memory_of(gateway.process)
            stats = gateway.ask("queue_stats", limit=5)["total"]
            found["waiting"] = stats["waiting"]
            assert "Traceback" not in gateway.log.read_text()
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where there is room for it; default: the system's temporary folder")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mailgw-million-", dir=arguments.folder))
    try:
        found = measure(folder, arguments.messages)
    finally:
        shutil.rmtree(folder)
    units = {"filling": "s", "start": "s", "new mail": "s at most, of 30", "memory": "MB at most", "waiting": "recipients"}
    missed = [name for name, bound in BOUNDS.items() if found[name] > bound]
    for name, value in found.items():
        bound = f", bound {BOUNDS[name]:g}" if name in BOUNDS else ""
        sys.stdout.write(f"{name:9} {value:12.2f} {units[name]}{bound}{'  MISSED' if name in missed else ''}\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
