"""What policies remember on the disk: the contract, restarts, several processes, and files that are no use."""

import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from mailgw.interfaces import MemoryUnavailable
from mailgw.storage import memory_database
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.storage.memory_sqlite import SqliteMemory
from mailgw.testing import at
from mailgw.testing.memories import MemoryContract
from mailgw.testing.stores import Pump
from mailgw.values.quantities import Rate

NOON = "2026-01-05T12:00+00:00"


def opened(path, pump, clock=None, **more):
    memory = SqliteMemory(path, pump, clock or at(NOON), **more)
    memory.open()
    return memory


class TestSqliteMemory(MemoryContract):
    def make_memory(self, folder, reactor, clock, room):
        return opened(folder / "memory.db", reactor, clock, room=room)

    def close(self, memory, pump):
        pump.run(memory.close())


# ── Life and death ──


def test_nothing_is_touched_before_something_is_asked(tmp_path):
    pump = Pump()
    path = tmp_path / "state" / "memory.db"
    memory = SqliteMemory(path, pump, at(NOON))
    with pytest.raises(MemoryUnavailable, match="not open"):
        pump.run(memory.count("x:", 1, 1.0))
    memory.open()
    pump.run(memory.close())
    assert not path.parent.exists()
    with pytest.raises(MemoryUnavailable, match="not open"):
        pump.run(memory.recall("x:"))


def test_it_is_there_after_a_restart(tmp_path):
    pump, path = Pump(), tmp_path / "memory.db"
    memory = opened(path, pump)
    pump.run_all([memory.count("x:a", 3, 60.0), memory.remember("x:a", "text", 60.0)])
    pump.run(memory.close())
    pump.run(memory.close())
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith("memory.db-")] == []
    assert path.stat().st_mode & 0o777 == 0o600
    memory = opened(path, pump)
    assert pump.run_all([memory.count("x:a", 1, 60.0), memory.recall("x:a")]) == [4, "text"]
    pump.run(memory.close())


def test_what_waits_at_the_end_is_written(tmp_path):
    pump = Pump()
    memory = opened(tmp_path / "memory.db", pump)
    assert pump.run_all([memory.remember("x:a", "text", 60.0), memory.close()]) == [None, None]
    memory = opened(tmp_path / "memory.db", pump)
    assert pump.run(memory.recall("x:a")) == "text"
    pump.run(memory.close())


def test_what_has_ended_is_swept_after_a_restart(tmp_path):
    pump, path, clock = Pump(), tmp_path / "memory.db", at(NOON)
    memory = opened(path, pump, clock)
    pump.run_all([memory.count(f"x:{number}", 1, 60.0) for number in range(100)])
    pump.run(memory.close())
    clock.advance(60.0)
    memory = opened(path, pump, clock)
    pump.run(memory.count("x:new", 1, 60.0))
    pump.run(memory.close())
    database = sqlite3.connect(path)
    assert database.execute("SELECT key FROM remembered").fetchall() == [("x:new",)]
    database.close()


# ── Several processes ──

COUNTING = """
import sys
from pathlib import Path
from mailgw.house import SystemClock
from mailgw.storage.memory_sqlite import SqliteMemory
from mailgw.testing.stores import Pump

pump = Pump()
memory = SqliteMemory(Path(sys.argv[1]), pump, SystemClock())
memory.open()
for turn in range(100):
    assert all(type(sum) is int for sum in pump.run_all([memory.count("shared:", 1, 3600.0) for _ in range(10)]))
    pump.run(memory.recall("x:y"))
    print(turn, flush=True)
pump.run(memory.close())
"""


def start(path, program=COUNTING):
    return subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)


def test_two_processes_count_at_once(tmp_path):
    path = tmp_path / "memory.db"
    both = [start(path), start(path)]
    said = [process.communicate(timeout=60)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [len(text.splitlines()) for text in said] == [100, 100]
    database = sqlite3.connect(path)
    assert database.execute("SELECT key, number FROM remembered").fetchall() == [("shared:", 2000)]
    database.close()


def test_kill_in_the_middle(tmp_path):
    path = tmp_path / "memory.db"
    victim, other = start(path), start(path)
    answered = [victim.stdout.readline() for _ in range(20)]
    victim.send_signal(signal.SIGKILL)
    answered += victim.stdout.readlines()
    victim.wait()
    victim.stdout.close()
    assert len(other.communicate(timeout=60)[0].splitlines()) == 100
    pump = Pump()
    memory = opened(path, pump)
    sum_ = pump.run(memory.count("shared:", 0, 1.0))
    pump.run(memory.close())
    assert 1000 + 10 * len(answered) <= sum_ <= 1000 + 10 * (len(answered) + 2)
    assert sum_ % 10 == 0


# ── Files that are no use ──


def garbage(path):
    path.write_bytes(b"not a database at all\n" * 500)


def another_database(path):
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE t(x)")
    database.close()


def of_a_newer_version(path):
    database = sqlite3.connect(path)
    database.execute(f"PRAGMA application_id = {memory_database.APPLICATION_ID}")
    database.execute("PRAGMA user_version = 99")
    database.execute("CREATE TABLE t(x)")
    database.close()


def torn(path):
    pump = Pump()
    memory = opened(path, pump)
    pump.run_all([memory.remember(f"x:{number}", "x" * 100, 1e9) for number in range(1000)])
    pump.run(memory.close())
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(Random(1).randbytes(8 * 4096))


@pytest.mark.parametrize("spoil", [garbage, another_database, of_a_newer_version, torn])
def test_a_damaged_file_is_moved_aside(tmp_path, spoil, caplog_of_twisted):
    path, pump = tmp_path / "memory.db", Pump()
    spoil(path)
    before = path.read_bytes()
    memory = opened(path, pump)
    for number in range(1000):
        pump.run(memory.recall(f"x:{number}"))
        pump.run(memory.count(f"y:{number}", 1, 60.0))
    assert [pump.run(memory.count(f"y:{number}", 0, 60.0)) for number in range(0, 1000, 50)] == [1] * 20
    pump.run(memory.close())
    aside = tmp_path / "memory.db.damaged"
    assert len(aside.read_bytes()) >= len(before) // 2
    [line] = caplog_of_twisted
    assert f"{path} cannot be used" in line
    assert f"moved to {aside}, and all that policies remembered is forgotten" in line


@pytest.fixture
def caplog_of_twisted():
    from twisted.logger import formatEvent, globalLogPublisher

    lines = []

    def observe(event):
        if event.get("log_namespace") == memory_database.__name__:
            lines.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def test_other_processes_follow_when_it_was_moved_aside(tmp_path):
    path, pump = tmp_path / "memory.db", Pump()
    one, other = opened(path, pump), opened(path, pump)
    pump.run_all([one.count("x:", 1, 60.0), other.count("x:", 1, 60.0)])
    for file in tmp_path.glob("memory.db*"):
        file.unlink()
    assert pump.run(one.count("x:", 1, 60.0)) == 1
    assert pump.run(other.count("x:", 1, 60.0)) == 2
    pump.run_all([one.close(), other.close()])


def test_trouble_is_told_and_passes(tmp_path):
    path, pump = tmp_path / "memory.db", Pump()
    path.mkdir()
    memory = opened(path, pump)
    for problem in pump.run_all([memory.count("x:", 1, 60.0), memory.recall("x:")]):
        assert isinstance(problem, MemoryUnavailable)
        assert str(path) in str(problem)
    path.rmdir()
    assert pump.run(memory.count("x:", 1, 60.0)) == 1
    pump.run(memory.close())


def test_a_thread_that_cannot_be_had_is_had_the_next_time(tmp_path):
    pump = Pump()
    memory = opened(tmp_path / "memory.db", pump)
    before = threading.stack_size(2**47)  # more than there is
    try:
        for problem in pump.run_all([memory.count("x:", 1, 60.0), memory.recall("x:")]):
            assert isinstance(problem, MemoryUnavailable)
    finally:
        threading.stack_size(before)
    assert pump.run(memory.count("x:", 1, 60.0)) == 1
    pump.run(memory.close())


def test_another_process_that_holds_it_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_database, "_PATIENCE", 0.1)
    path, pump = tmp_path / "memory.db", Pump()
    memory = opened(path, pump)
    assert pump.run(memory.count("x:", 1, 60.0)) == 1
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(MemoryUnavailable, match="locked"):
        pump.run(memory.count("x:", 1, 60.0))
    assert pump.run(memory.count("x:", 0, 60.0)) == 1  # looking needs no lock
    other.execute("ROLLBACK")
    other.close()
    assert pump.run(memory.count("x:", 1, 60.0)) == 2
    pump.run(memory.close())


# ── The same as in process ──

KEYS = st.sampled_from(["a:x", "a:xy", "a:", "b:x", "a:ü"])
LIVES = st.sampled_from([0.5, 1.0, 2.5, 10.0])


class BothMemories(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.pump, self.clock = Pump(), at(NOON)
        self.memories = [opened(self.folder / "memory.db", self.pump, self.clock), InProcessMemory(self.clock)]

    def both(self, ask):
        one, other = [self.pump.run(ask(memory)) for memory in self.memories]
        assert one == other
        if isinstance(one, Mapping):
            assert list(one) == list(other)

    @rule(key=KEYS, amount=st.integers(0, 5), life=LIVES)
    def count(self, key, amount, life):
        self.both(lambda memory: memory.count(key, amount, life))

    @rule(key=KEYS, amount=st.integers(0, 5), rate=st.builds(Rate, st.integers(1, 3), LIVES), burst=st.integers(1, 4))
    def take(self, key, amount, rate, burst):
        self.both(lambda memory: memory.take(key, amount, rate, burst))

    @rule(key=KEYS, life=LIVES)
    def first_seen(self, key, life):
        self.both(lambda memory: memory.first_seen(key, life))

    @rule(key=KEYS, text=st.text(max_size=3), life=LIVES)
    def remember(self, key, text, life):
        self.both(lambda memory: memory.remember(key, text, life))

    @rule(key=KEYS)
    def recall(self, key):
        self.both(lambda memory: memory.recall(key))

    @rule(prefix=KEYS, limit=st.integers(-1, 3))
    def find(self, prefix, limit):
        self.both(lambda memory: memory.find(prefix, limit))

    @rule(key=KEYS)
    def forget(self, key):
        self.both(lambda memory: memory.forget(key))

    @rule(seconds=st.sampled_from([0.25, 0.5, 1.0, 3.0]))
    def time_passes(self, seconds):
        self.clock.advance(seconds)

    @rule()
    def restart(self):
        self.pump.run(self.memories[0].close())
        self.memories[0] = opened(self.folder / "memory.db", self.pump, self.clock)

    def teardown(self):
        self.pump.run(self.memories[0].close())
        shutil.rmtree(self.folder)


TestBothMemories = BothMemories.TestCase
TestBothMemories.settings = settings(max_examples=15, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck))
