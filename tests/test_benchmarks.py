"""The tools that measure count right. How fast anything is, is not tested."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mailgw.testing.ports import free_port

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PATIENCE = 60.0  # seconds until something that must happen counts as not happening


@pytest.fixture
def tools(monkeypatch):
    """The folder's modules can be imported."""
    monkeypatch.syspath_prepend(BENCHMARKS)


@pytest.fixture
def sink():
    process = subprocess.Popen(
        [sys.executable, BENCHMARKS / "sink.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    yield process
    process.communicate(timeout=PATIENCE)


def ask(process):
    return json.loads(process.stdout.readline())


def load(port, *options):
    command = [sys.executable, BENCHMARKS / "load.py", str(port), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize(
    ("how", "sessions", "per_connection", "size", "connections"),
    [
        pytest.param("one-by-one", 3, 0, 1024, 3, id="many-per-connection"),
        pytest.param("one-by-one", 3, 1, 1024, 20, id="one-per-connection"),
        pytest.param("one-by-one", 1, 7, 0, 3, id="seven-per-connection"),
        pytest.param("pipelined", 4, 0, 1024, 4, id="pipelined"),
        pytest.param("one-by-one", 30, 0, 1024, 20, id="more-sessions-than-messages"),
        pytest.param("pipelined", 2, 0, 1 << 20, 2, id="more-than-a-socket-takes-at-once"),
    ],
)
def test_what_is_sent_arrives_and_is_counted(tools, sink, how, sessions, per_connection, size, connections):
    from load import content

    port = ask(sink)["port"]
    status, result = load(port, "--messages", 20, "--sessions", sessions, "--per-connection", per_connection, "--size", size, "--how", how)
    sink.stdin.write("\n")
    arrived = ask(sink)
    assert (status, result["acknowledged"], result["failed"], result["connections"]) == (0, 20, 0, connections)
    assert (arrived["messages"], arrived["octets"], arrived["unknown"]) == (20, 20 * len(content(size)), 0)
    assert arrived["connections"] == connections
    assert result["began"] < arrived["last"] <= result["began"] + result["seconds"]
    assert result["rate"] == pytest.approx(20 / result["seconds"])
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["seconds"] * 1000


def test_a_refused_message_is_no_acknowledged_message(sink):
    status, result = load(ask(sink)["port"], "--messages", 5, "--sessions", 2, "--how", "bdat")  # which the sink does not know
    assert (status, result["acknowledged"], result["failed"]) == (1, 0, 5)
    assert result["first_failure"] == "500 5.5.1 unknown"


def serve(talk):
    """Have one connection after the other talked to, in a thread; give the port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run():
        while True:
            connection, _ = listener.accept()
            with suppress(ConnectionError), connection, connection.makefile("rwb", buffering=0) as stream:
                talk(stream)

    threading.Thread(target=run, daemon=True).start()
    return listener.getsockname()[1]


def test_a_lost_connection_is_no_acknowledged_message():
    def talk(stream):
        stream.write(b"220 here\r\n")
        stream.readline()

    status, result = load(serve(talk), "--messages", 4, "--sessions", 1)
    assert (status, result["acknowledged"], result["failed"], result["first_failure"]) == (1, 0, 4, "connection closed")


@pytest.mark.parametrize(("per_connection", "least"), [pytest.param(1, 60, id="from-connect"), pytest.param(0, 30, id="from-mail")])
def test_latency_holds_what_the_client_waited_for(per_connection, least):
    def talk(stream):
        time.sleep(0.03)
        stream.write(b"220-split\r\n220 here\r\n")
        while line := stream.readline():
            if line == b".\r\n":
                time.sleep(0.03)
                stream.write(b"250 ok\r\n")
            elif line.startswith((b"EHLO", b"MAIL", b"RCPT")):
                stream.write(b"250-several\r\n25")
                stream.write(b"0 lines\r\n")
            elif line == b"DATA\r\n":
                stream.write(b"354 go\r\n")
            elif line == b"QUIT\r\n":
                stream.write(b"221 bye\r\n")

    status, result = load(serve(talk), "--messages", 3, "--sessions", 1, "--size", 0, "--per-connection", per_connection)
    assert (status, result["acknowledged"]) == (0, 3)
    assert result["p50_ms"] >= least


def latency(port, *options):
    command = [sys.executable, BENCHMARKS / "latency.py", str(port), *map(str, options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_one_message_on_each_connection(tools, sink):
    from load import content

    status, result = latency(ask(sink)["port"], "--messages", 7, "--pause", 0)
    sink.stdin.write("\n")
    arrived = ask(sink)
    assert (status, result["acknowledged"], result["failed"]) == (0, 7, 0)
    assert (arrived["messages"], arrived["octets"], arrived["connections"]) == (7, 7 * len(content(1024)), 7)
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["seconds"] * 1000


@pytest.mark.parametrize(
    ("replies", "why"),
    [
        pytest.param([b"220 here\r\n", b"250-a\r\n250", b" b\r\n", b"452 4.3.1 full\r\n"], "452 4.3.1 full", id="refused"),
        pytest.param([b"220 here\r\n", b"250 a\r\n", b""], "connection closed", id="lost"),
        pytest.param([b"220-here\r\n220 it is\r\n", b"250-a\r\n"], "connection closed", id="lost-in-a-reply"),
    ],
)
def test_what_goes_wrong_is_no_latency(replies, why):
    def talk(stream):
        for number, reply in enumerate(replies):
            stream.write(reply)
            if reply.endswith(b"\n") and number < len(replies) - 1:
                stream.readline()

    status, result = latency(serve(talk), "--messages", 2, "--pause", 0)
    assert (status, result["acknowledged"], result["failed"], result["first_failure"]) == (1, 0, 2, why)


@pytest.mark.parametrize(
    ("per_process", "written"),
    [
        pytest.param(["cpu.cfs_quota_us"], {"cpu.cfs_period_us": "10000", "cpu.cfs_quota_us": "2500"}, id="v1"),
        pytest.param([], {"cpu.max": "2500 10000"}, id="v2"),
    ],
)
def test_each_process_has_its_share(tools, tmp_path, per_process, written):
    from quota import Quota

    for name in per_process:
        (tmp_path / name).write_text("-1")
    with Quota(0.25, [11, 12], tmp_path):
        for pid in ("11", "12"):
            group = tmp_path / f"mailgw-benchmark-{pid}"
            assert {file.name: file.read_text() for file in group.iterdir()} == {**written, "cgroup.procs": pid}
            for file in group.iterdir():
                file.unlink()  # the files of a real one go with it
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*per_process, "cgroup.procs"])


@pytest.mark.live
def test_a_share_is_all_that_a_process_gets(tools):
    import quota

    if reason := quota.missing():
        pytest.skip(reason)
    burn = "import time\nprint('here', flush=True)\ninput()\nbegan = time.monotonic()\nwhile time.process_time() < 0.2: pass\n"
    with subprocess.Popen(
        [sys.executable, "-c", f"{burn}print(time.monotonic() - began)"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "here\n"
        with quota.Quota(0.25, [process.pid]):
            # 0.2 s of CPU, less what it had before; it may use the rest of a period at each end.
            assert float(process.communicate("\n")[0]) > 0.4
    assert not (quota._root() / f"mailgw-benchmark-{process.pid}").exists()


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, 0.0), ([3.0], 0.99, 3.0), ([2.0, 1.0], 0.5, 1.0), ([*range(100, 0, -1)], 0.99, 99), ([*range(1000, 0, -1)], 0.5, 500)],
)
def test_percentiles(tools, values, share, expected):
    from load import percentile

    assert percentile(values, share) == expected


def test_the_cpu_of_children_counts_whether_they_live_or_not(tools, tmp_path):
    from process_tree import ProcessTree

    # Each says what it has used itself; the first child has ended when the second begins.
    burn = "import time\nwhile time.process_time() < 0.2: pass\nprint(time.process_time(), flush=True)"
    (tmp_path / "child.py").write_text(f"{burn}\nimport sys\nif sys.argv[1:]: time.sleep(600)")
    (tmp_path / "parent.py").write_text(
        "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'])\n"
        f"other = subprocess.Popen([sys.executable, 'child.py', 'stay'])\n{burn}\nother.wait()"
    )
    with ProcessTree([sys.executable, "parent.py"], tmp_path) as tree:
        end = time.monotonic() + PATIENCE
        while len(said := tree.output.read_text().split()) < 3 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(tree.pids()) == 2
        # Steps of 10 ms, cut off, for four counters; and what a process does after it has spoken.
        assert sum(map(float, said)) - 0.05 < tree.cpu() < sum(map(float, said)) + 0.15
        assert tree.peak_memory() > 2 * 4 * 1024 * 1024


def test_no_process_is_left_behind(tools, tmp_path):
    from process_tree import ProcessTree

    # A child in a session of its own that does not hear SIGTERM.
    child = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    with ProcessTree([sys.executable, "-c", parent], tmp_path) as tree:
        end = time.monotonic() + PATIENCE
        while "deaf" not in tree.output.read_text() and time.monotonic() < end:
            time.sleep(0.01)
        pids = tree.pids()
        assert len(pids) == 2
    end = time.monotonic() + PATIENCE
    while any(is_running(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.01)
    assert not any(is_running(pid) for pid in pids)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# ── STARTTLS and idle clients, against the bare protocol ──


@pytest.fixture
def bare(tools, tmp_path):
    from process_tree import ProcessTree
    from servers import SERVERS, Wish

    port = free_port()
    with ProcessTree(SERVERS["bare"].command(tmp_path, port, Wish(tls=True)), tmp_path) as tree:
        tree.wait_for_greeting(port)
        yield tree, port


def test_handshakes_are_counted(bare):
    command = [sys.executable, BENCHMARKS / "handshakes.py", str(bare[1]), "--handshakes", "20", "--sessions", "3"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["done"], result["failed"]) == (20, 0)
    assert 0 < result["p50_ms"] <= result["p99_ms"] <= result["seconds"] * 1000


def test_no_handshake_is_a_failure(sink):
    command = [sys.executable, BENCHMARKS / "handshakes.py", str(ask(sink)["port"]), "--handshakes", "4"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    result = json.loads(done.stdout)
    assert (done.returncode, result["done"], result["failed"], result["first_failure"]) == (1, 0, 4, "500 5.5.1 unknown")


def test_idle_clients_stay_until_they_are_told_to_go(bare):
    tree, port = bare
    descriptors = Path(f"/proc/{tree.process.pid}/fd")
    assert len(os.listdir(descriptors)) < 50
    command = [sys.executable, BENCHMARKS / "idle.py", str(port), "--connections", "250"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
        assert json.loads(clients.stdout.readline())["open"] == 250
        assert len(os.listdir(descriptors)) >= 250
        assert tree.memory() <= tree.peak_memory()
        clients.stdin.close()
        assert clients.wait(PATIENCE) == 0
    end = time.monotonic() + PATIENCE
    while len(os.listdir(descriptors)) >= 50 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(os.listdir(descriptors)) < 50


def test_idle_clients_that_were_not_let_in_are_a_failure():
    def talk(stream):
        stream.write(b"421 4.3.2 too many\r\n")

    command = [sys.executable, BENCHMARKS / "idle.py", str(serve(talk)), "--connections", "3"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)
    result = json.loads(done.stdout)
    assert (done.returncode, result["open"], result["failed"]) == (1, 0, 3)


# ── Whole runs ──


def run(*options):
    command = [sys.executable, BENCHMARKS / "run.py", *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "COLUMNS": "80"})


@pytest.mark.live
@pytest.mark.parametrize(
    ("only", "servers", "headline"),
    [
        pytest.param("10 sessions, pipelined", ["bare", "mailgw"], "cpu", id="accept"),
        pytest.param("10 KiB", ["mailgw", "aiosmtpd"], "cpu", id="beside-aiosmtpd"),
        pytest.param("accept alone", ["mailgw"], "cpu", id="accept-alone"),
        pytest.param("relay", ["mailgw"], "cpu", id="relay"),
        pytest.param("at once", ["mailgw"], "memory", id="big"),
        pytest.param("2,000 connections", ["mailgw"], "memory", id="idle"),
        pytest.param("latency", ["mailgw"], "p99", id="latency"),
        pytest.param("STARTTLS", ["mailgw"], "cpu", id="starttls"),
        pytest.param("start-up", ["mailgw"], "p50", id="start-up"),
        pytest.param("policies and records", ["no records", "policies and records"], "cpu", id="policies"),
    ],
)
def test_a_run_gives_a_table_and_figures(tmp_path, only, servers, headline):
    file = tmp_path / "figures.json"
    scale = 0.1 if only == "at once" else 0.5
    done = run("--only", only, "--servers", ",".join(servers), "--quick", "--scale", scale, "--json", file, "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(file.read_text())
    [(case, rows)] = report["medians"].items()
    assert only in case
    assert list(rows) == servers
    [first, *others] = [line for line in done.stdout.splitlines() if line.startswith("| ")][1:]
    assert first.startswith(f"| {case} | {servers[0]} | ")
    assert len(others) == len(servers) - 1
    for server, row in rows.items():
        assert report["turns"][case][server] == [row]
        assert row["rate"] > 0
        assert row[headline] > 0
    assert "**" in first
    assert set(report["machine"]) >= {"cpu", "cores", "kernel", "python", "twisted", "load_average_before"}
    assert f"cores {os.cpu_count()}" in done.stdout
    assert list(tmp_path.iterdir()) == [file]


def test_what_a_server_lacks_is_said(tmp_path):
    done = run("--only", "BDAT", "--servers", "bare", "--quick", "--folder", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "BDAT: without bare: it does not know CHUNKING" in done.stdout


def test_the_table(tools):
    from cases import CASES, Figures
    from table import markdown

    cases = {case.name: case for case in CASES}
    turns = {
        "accept, 1 KiB, 10 sessions": {
            "bare": [Figures(cpu=100e-6, rate=9000, memory=50 << 20, p50=0.001, p99=0.002, load=0.5)],
            "mailgw": [Figures(cpu=cpu, rate=3000, memory=60 << 20, p50=0.0125, p99=0.02, load=0.25) for cpu in (250e-6, 300e-6)],
        },
        "accept, 25 MiB, 4 sessions": {"mailgw": [Figures(cpu=4.25, rate=0.17, memory=60 << 20, p50=0.5, p99=0.6, load=0.2)]},
        "idle, 2,000 connections": {"mailgw": [Figures(cpu=0.02, rate=900, memory=4608)]},
    }
    results = [(cases[name], {server: some[0] for server, some in rows.items()}, rows) for name, rows in turns.items()]
    assert list(markdown(results))[2:] == [
        "| accept, 1 KiB, 10 sessions | bare | **100 µs** | 9000/s | 1.00 | 2.00 | 50 MiB | 50% |  |",
        "|  | mailgw | **250 µs (250 µs - 300 µs)** | 3000/s | 12.5 | 20.0 | 60 MiB | 25% | 2.50 x bare |",
        "| accept, 25 MiB, 4 sessions | mailgw | **4.2 s** | 170 MB/s | 500.0 | 600.0 | 60 MiB | 20% |  |",
        "| idle, 2,000 connections | mailgw | 20.0 ms | 900/s | - | - | **4.5 KiB each** | - |  |",
    ]


def test_an_unknown_server_is_named():
    done = run("--servers", "bare,sendmail")
    assert done.returncode == 2
    known = "bare, mailgw, 2 workers, no records, six policies, policies and records, postfix, aiosmtpd"
    assert f"no server sendmail; there are {known}" in done.stderr
