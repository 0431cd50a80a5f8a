"""Several workers under the real twistd: who takes mail, who dies, who looks after what, and what is added up."""

import json
import os
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import suppress

import pytest
from processes import BIN, PATIENCE, SmtpSink, answers, mails, refuses, wait_until
from several import REST, WAITING, Workers, is_running, load

from mailgw.admin.client import Refused
from mailgw.storage.parts import NUMBERS
from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def standing(tmp_path_factory):
    """Two workers for all tests that leave them as they are, with a Unix socket and metrics, too."""
    port = free_port()
    both = Workers(tmp_path_factory.mktemp("standing") / "gateway", admin=f'metrics = "tcp:{port}:interface=127.0.0.1"')
    both.metrics = port
    text = both.file.read_text()
    tcp = f'"tcp:{both.port}:interface=127.0.0.1"'
    assert tcp in text
    both.file.write_text(text.replace(tcp, f'["unix:mx.sock:mode=660", {tcp}]'))
    with both:
        yield both
    assert not (both.folder / "mx.sock").exists()
    assert "Traceback" not in both.log.read_text()


def share_of_a_burst(both):
    """How many of ten connections at once the worker got that got fewer."""
    clients = [socket.socket() for _ in range(10)]
    for client in clients:
        client.setblocking(False)
        with suppress(BlockingIOError):
            client.connect(("127.0.0.1", both.port))

    def sessions(number):
        cards = both.workers() or {}
        counts = [card.get("sessions", -1) for card in cards.values()]
        return counts if counts and min(counts) >= 0 and sum(counts) == number else None

    counts = wait_until(lambda: sessions(10), "ten sessions")
    for client in clients:
        client.close()
    wait_until(lambda: sessions(0), "the end of the sessions")
    return min(counts)


def test_bursts_are_shared(standing):
    # Five each would be 50; who comes first alone gives about 20. On a busy machine one of them may not have had its turn at all.
    series = [share_of_a_burst(standing) for _ in range(10)]
    if sum(series) < 30:
        series = [share_of_a_burst(standing) for _ in range(10)]
    assert sum(series) >= 30, series


def test_both_take_mail_and_the_desk_is_one(tmp_path):
    with Workers(tmp_path / "gateway", WAITING.format(port=free_port())) as both:
        numbers = both.send_to_all(2)
        assert both.listed() == sorted(numbers)
        answer = both.ask("queue_stats")
        assert answer["total"]["waiting"] == len(numbers)
        assert [row["waiting"] for row in answer["destinations"]] == [len(numbers)]
        status = both.status()
        assert status["pid"] == both.parent.pid
        assert status["queue"]["waiting"] == len(numbers)
        assert status["listeners"]["mx"]["sessions"] == 0
        wait_until(lambda: not any(entry["leased"] for entry in both.entries()), "an end of all attempts")
        for one in (min(numbers), max(numbers)):  # in the first part, in the second
            assert both.ask("queue_show", message=one)["message"] == one
            assert both.gateway.cli("queue", "show", str(one), "--content").stdout.startswith("Received: ")
        assert both.ask("queue_hold", selection={"messages": [min(numbers), max(numbers)]}) == {"recipients": 2}
        numbers.sort()
        assert both.ask("queue_drop", selection={"messages": numbers[:-2]}) == {"recipients": len(numbers) - 2}
        with pytest.raises(Refused, match="there is no message"):
            both.ask("queue_show", message=5 * NUMBERS)
        with pytest.raises(Refused, match="there is no operation"):
            both.ask("part_take", part=1)
        assert both.ask("route", address="b@example.org")["route"]["gateway"] == "mailboxes"
        shown = both.gateway.cli("status").stdout
        assert "workers:" in shown
        assert [path.stat().st_mode & 0o777 for path in sorted(both.folder.glob("admin.sock*"))] == [0o600] * 5
    assert not list(both.folder.glob("admin.sock*"))
    # What waits is seen while nobody runs.
    left = both.gateway.cli("queue", "list", "--json")
    assert [entry["message"] for entry in json.loads(left.stdout)["entries"]] == numbers[-2:]
    log = both.log.read_text()
    assert " worker=1 [mailgw#info] session=" in log
    assert " worker=2 [mailgw#info] session=" in log
    assert "Traceback" not in log
    assert all(line[:2] == "20" for line in log.splitlines()), log


@pytest.mark.parametrize("options", [["--syslog"], []], ids=["syslog", "stdout"])
def test_the_log_of_all_is_one(tmp_path, options):
    if options == ["--syslog"] and not os.path.exists("/dev/log"):
        pytest.skip("there is no syslog")
    both = Workers(tmp_path / "gateway")
    command = [BIN / "twistd", "-n", "--pidfile=", *options, "mailgw", "--config", "mailgw.toml", "--json-log", "events"]
    with (both.folder / "out").open("wb") as out:
        both.gateway.process = subprocess.Popen(command, cwd=both.folder, stdout=out, stderr=subprocess.PIPE)
    with both.gateway.process:
        try:
            wait_until(lambda: answers(both.port), "the greeting")
            both.all_ready()
            both.send_to_all(2)
        finally:
            both.parent.terminate()
            both.parent.wait(PATIENCE)
    lines = (both.folder / "out").read_text().splitlines()
    if options != ["--syslog"]:
        for worker in "12":
            assert [line for line in lines if f" worker={worker} [mailgw#info] session=" in line and " accepted message=" in line]
        assert all(line[:2] == "20" for line in lines), [line for line in lines if line[:2] != "20"]
    events = [json.loads(line) for line in (both.folder / "events").read_text().splitlines()]
    assert {event["worker"] for event in events if event["event"] == "accepted"} == {1, 2}


def arrived(both):
    return {mail.partition(b"Message-ID: ")[2].partition(b"\n")[0].strip().decode() for mail in mails(both.folder / "mail")}


def test_a_killed_worker_loses_nothing_and_comes_back(tmp_path):
    acknowledged, stop = [], threading.Event()
    with Workers(tmp_path / "gateway") as both:
        threads = [threading.Thread(target=load, args=(both.port, acknowledged, stop, f"t{n}")) for n in range(4)]
        for thread in threads:
            thread.start()
        try:
            for number in ("1", "2"):
                before = len(acknowledged)
                pid = both.all_ready()[number]["pid"]
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda before=before: len(acknowledged) > before + 50, "more acknowledged mail")
                wait_until(lambda pid=pid, number=number: (both.workers() or {number: {"pid": pid}})[number]["pid"] != pid, "a new worker")
        finally:
            stop.set()
            for thread in threads:
                thread.join(PATIENCE)
        assert [card["restarts"] for card in both.all_ready().values()] == [1, 1]
        wait_until(lambda: set(acknowledged) <= arrived(both), "the arrival of all that was acknowledged")
    assert "worker 1 has died" in both.log.read_text()
    assert "signal 9 (SIGKILL)" in both.log.read_text()


def test_a_part_whose_worker_keeps_dying_is_looked_after_and_given_back(tmp_path):
    port = free_port()
    with Workers(tmp_path / "gateway", WAITING.format(port=port)) as both:
        numbers = both.send_to_all(2)
        in_the_second = [number for number in numbers if number > NUMBERS]

        def is_looked_after():
            workers = both.status()["workers"]
            if workers["2"]["pid"] is not None:
                with suppress(ProcessLookupError):
                    os.kill(workers["2"]["pid"], signal.SIGKILL)  # again, as soon as it is there
            return workers["1"].get("looks_after") == [2]

        wait_until(is_looked_after, "the other's taking over", 60)
        status = both.status()
        assert status["workers"]["2"]["state"] == "waiting"
        assert "missing" not in status
        assert set(both.listed()) == set(numbers)
        hold = {"messages": [in_the_second[0]]}
        wait_until(lambda: both.ask("queue_hold", selection=hold) == {"recipients": 1}, "an attempt's end")
        assert both.send() < NUMBERS
        wait_until(lambda: (both.workers() or {"2": {"restarts": 0}})["2"]["restarts"] > 0, "the second's return", 60)
        assert "looks_after" not in both.all_ready()["1"]
        assert set(both.listed()) >= set(numbers)
    assert "worker 2 is started again in 8 seconds" in both.log.read_text()


def test_fewer_and_more_workers_deliver_all_of_it_once(tmp_path):
    port = free_port()
    several = Workers(tmp_path / "gateway", WAITING.format(port=port), workers=3)
    with several:
        numbers = several.send_to_all(3)
    several.have(1)
    with several.gateway:
        assert several.listed() == sorted(numbers)
        assert "looking after part 2 of the queue" in several.log.read_text()
        numbers.append(several.send())
    several.have(2)
    with several, SmtpSink() as sink:
        numbers.append(several.send())
        wait_until(lambda: set(several.listed()) == set(numbers), "all the parts being open")
        several.file.write_text(several.file.read_text().replace(f"127.0.0.1:{port}", sink.address))
        several.ask("reload")
        several.ask("queue_retry", selection={}, everything=True)
        wait_until(lambda: len(sink.messages) == len(numbers) and not several.listed(), "delivery of all")
    assert len(sink.messages) == len(numbers)
    assert len(set(numbers)) == len(numbers)


def test_a_stop_lets_transactions_end(tmp_path):
    with Workers(tmp_path / "gateway") as both:
        clients = [both.gateway.client() for _ in range(6)]
        for client in clients:
            client.ehlo("c.example")
        for client in clients[:3]:
            client.mail("a@example.com")
            client.rcpt("b@example.org")
            assert client.docmd("DATA")[0] == 354
        pids = [card["pid"] for card in both.all_ready().values()]
        both.parent.terminate()
        for client in clients[3:]:
            assert client.getreply() == (421, b"4.3.2 shutting down")
        for pid in pids:
            with suppress(ProcessLookupError):  # who has no transaction may have ended
                os.kill(pid, signal.SIGTERM)  # once more, as a terminal does
        wait_until(lambda: refuses(both.port), "the port's closing")
        for client in clients[:3]:
            client.send("Subject: last\r\n\r\nx\r\n.\r\n")
            assert client.getreply()[0] == 250
        assert both.parent.wait(PATIENCE) == -signal.SIGTERM
        for client in clients:
            client.close()
        assert not [pid for pid in pids if is_running(pid)]
    assert "Traceback" not in both.log.read_text()


@pytest.mark.parametrize("after", [2, 1], ids=["two again", "one process"])
def test_without_their_parent_they_end_and_who_comes_next_waits_for_them(tmp_path, after):
    acknowledged, stop = [], threading.Event()
    with Workers(tmp_path / "gateway") as both:
        threads = [threading.Thread(target=load, args=(both.port, acknowledged, stop, f"t{n}")) for n in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(acknowledged) > 50, "acknowledged mail")
        pids = [card["pid"] for card in both.all_ready().values()]
        os.kill(pids[1], signal.SIGSTOP)
        both.parent.kill()
        both.parent.wait(PATIENCE)
        both.parent.stderr.close()
        wait_until(lambda: not is_running(pids[0]), "the end of the first")
        both.have(after)
        both.gateway.launch()
        wait_until(lambda: " is in use; waiting up to 15 seconds for it" in both.log.read_text(), "the wait for the port")
        assert both.parent.poll() is None
        os.kill(pids[1], signal.SIGCONT)
        wait_until(lambda: both.status().get("listeners"), "the new start")
        wait_until(lambda: not is_running(pids[1]), "the end of the second")
        if after == 2:
            both.all_ready()
        before = len(acknowledged)
        wait_until(lambda: len(acknowledged) > before + 20, "more acknowledged mail")
        stop.set()
        for thread in threads:
            thread.join(PATIENCE)
        wait_until(lambda: set(acknowledged) <= arrived(both), "the arrival of all that was acknowledged")
    log = both.log.read_text()
    assert "Traceback" not in log
    assert "in use by another mailgw" not in log


def test_signals_are_handed_on_and_kill_nobody(standing):
    before = {number: card["pid"] for number, card in standing.all_ready().items()}
    standing.parent.send_signal(signal.SIGHUP)
    standing.parent.send_signal(signal.SIGUSR1)
    wait_until(lambda: list(standing.folder.glob("log.1")), "rotation of the log")
    standing.send_to_all(2)
    assert {number: card["pid"] for number, card in standing.all_ready().items()} == before
    wait_until(lambda: " worker=2 [mailgw#info] session=" in standing.log.read_text(), "the new log")


def scraped(port):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#"))}


def check_metrics(gateway, workers):
    """What is counted by a gateway that has refused nothing so far."""

    def delivered():
        return scraped(gateway.metrics).get('mailgw_deliveries_total{gateway="mailboxes"}', 0.0)

    def accepted():
        return scraped(gateway.metrics).get("mailgw_accepted_messages_total", 0.0)

    before = accepted()
    wait_until(lambda: delivered() == before, "all deliveries of before")
    sent = len(gateway.send_to_all(workers))
    wait_until(lambda: delivered() == before + sent, "all deliveries in the metrics")
    assert accepted() == before + sent
    found = scraped(gateway.metrics)
    assert found["mailgw_workers_ready"] == workers
    assert found['mailgw_open_sessions{listener="mx"}'] == 0
    with gateway.gateway.client() as client:
        client.ehlo("c.example")
        client.mail("a@example.com")
        assert client.rcpt("b@elsewhere.example")[0] == 550
    refusals = [(name, value) for name, value in scraped(gateway.metrics).items() if name.startswith("mailgw_refusals_total")]
    assert refusals == [('mailgw_refusals_total{by="permit",code="550",stage="rcpt"}', 1.0)]
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(f"http://127.0.0.1:{gateway.metrics}/", timeout=PATIENCE)
    return before + sent


def test_metrics_of_one_process(tmp_path):
    port = free_port()
    one = Workers(tmp_path / "gateway", workers=1, admin=f'metrics = "tcp:{port}:interface=127.0.0.1"')
    one.metrics = port
    with one.gateway:
        check_metrics(one, 1)


def test_metrics_add_up_and_outlive_a_worker(standing):
    accepted = check_metrics(standing, 2)
    restarts = standing.all_ready()["2"]["restarts"]
    os.kill(standing.all_ready()["2"]["pid"], signal.SIGKILL)
    wait_until(lambda: (standing.workers() or {"2": {"restarts": restarts}})["2"]["restarts"] > restarts, "a new worker")
    assert scraped(standing.metrics)["mailgw_accepted_messages_total"] == accepted


def test_a_worker_that_cannot_start_ends_the_start(tmp_path):
    both = Workers(tmp_path / "gateway")
    (both.folder / "state" / "worker-2").mkdir(parents=True)
    (both.folder / "state" / "worker-2" / "queue.db").write_bytes(b"this is no database" * 100)
    command = [BIN / "twistd", "-n", "--pidfile=", "mailgw", "--config", both.file]
    process = subprocess.run(command, cwd=both.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 1
    assert "mailgw does not start: worker 2 ended with status 1" in process.stdout
    assert "Traceback" not in process.stdout + process.stderr


def test_a_path_that_is_too_long_for_all_sockets(tmp_path):
    both = Workers(tmp_path / "gateway")
    name = "x" * (100 - len(str(both.folder)))
    both.file.write_text(both.file.read_text().replace("admin.sock", name))
    command = [BIN / "twistd", "-n", "--pidfile=", "mailgw", "--config", both.file]
    process = subprocess.run(command, cwd=both.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 1
    assert "would have paths of more than 107 octets" in process.stderr


def test_a_broken_configuration_does_not_start_workers(tmp_path):
    both = Workers(tmp_path / "gateway", REST.replace("path", "paht"))
    command = [BIN / "twistd", "-n", "--pidfile=", "mailgw", "--config", both.file]
    process = subprocess.run(command, cwd=both.folder, capture_output=True, text=True, timeout=PATIENCE)
    assert process.returncode == 2
    assert '[gateway.mailboxes] has no key "paht"' in process.stderr


def test_a_unix_socket_keeps_its_mode_and_its_place(standing):
    path = standing.folder / "mx.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    os.kill(standing.all_ready()["1"]["pid"], signal.SIGTERM)
    wait_until(lambda: (standing.workers() or {"1": {"restarts": 0}})["1"]["restarts"], "a new worker")
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE)
        client.connect(str(path))
        assert client.recv(4) == b"220 "
