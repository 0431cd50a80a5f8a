"""kill -9 under load: what was answered is there, what was settled is gone, nothing is half there."""

import signal
import subprocess
import sys

import pytest

from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump
from mailgw.values.ledger import Selection

WORKER = """
import os, sys
from pathlib import Path
from mailgw.storage.sqlite import SqliteStore
from mailgw.testing.stores import Pump
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Settlement, State

pump = Pump()
store = SqliteStore.open(Path(sys.argv[1]), pump)
envelope = Envelope(sender=Address.parse("anna@example.com"), arrived=1.0)
to = [(Recipient(Address.parse("bert@example.org")), Destination("a")), (Recipient(Address.parse("cora@example.org")), Destination("b"))]

def content(number):
    if number % 3:
        return Content.of(b"x" * 2000)
    file = store.incoming / str(number)
    file.write_bytes(b"y" * 3000)
    return Content(file, 3000)

for turn in range(100000):
    puts = pump.run_all([store.put(envelope, content(turn * 10 + n), to) for n in range(10)])
    os.write(1, "".join(f"put {put.message}\\n" for put in puts).encode())
    done = puts[:5]
    over = [Settlement(put.message, q.number, State.DELIVERED, "") for put in done for parcel in put.parcels for q in parcel.queued]
    os.write(1, "".join(f"settling {put.message}\\n" for put in done).encode())
    pump.run(store.settle(over))
    os.write(1, "".join(f"settled {put.message}\\n" for put in done).encode())
"""


@pytest.mark.parametrize("lines", [25, 333])
def test_kill(tmp_path, lines):
    worker = subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    said = [worker.stdout.readline().split() for _ in range(lines)]
    worker.send_signal(signal.SIGKILL)
    said += [line.split() for line in worker.stdout.read().splitlines()]
    worker.wait()
    worker.stdout.close()
    told = {word: {int(number) for kind, number in said if kind == word} for word in ("put", "settling", "settled")}
    assert len(told["put"]) >= 10

    pump = Pump()
    store = SqliteStore.open(tmp_path, pump)
    entries = pump.run(store.find(Selection(limit=1_000_000)))
    there = {entry.message for entry in entries}
    assert told["put"] - told["settling"] <= there
    assert not told["settled"] & there
    assert len(entries) == 2 * len(there)
    assert not any(entry.leased for entry in entries)
    for message in sorted(there):
        assert pump.run(store.content(message)).read() in (b"x" * 2000, b"y" * 3000)
    filed = {int(file.name) for file in (tmp_path / "content").iterdir()}
    assert {number for number in filed if number <= max(told["put"])} <= there
    assert pump.run(store._writer.ask(lambda: store._database.execute("PRAGMA integrity_check").fetchall())) == [("ok",)]
    pump.run(store.close())
