"""The start that must not happen, the plugin that misbehaves, and the stop in the middle: with the real twistd."""

import smtplib
import socket
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from processes import BIN, PATIENCE, answers, gateway_in, mails, refuses, wait_until

BROKEN = Path(__file__).parent.parent / "config" / "broken"
REST = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""
PLUGINS = '''
import os
from twisted.internet.defer import Deferred
from mailgw.api import *

@implementer(ISenderPolicy)
@frozen
class Raises:
    def check_sender(self, facts):
        raise RuntimeError("the table is gone")

@implementer(IRecipientPolicy)
@frozen
class Hangs:
    async def check_recipient(self, facts):
        await Deferred()

@implementer(IContentPolicy)
@frozen
class Nonsense:
    def check_content(self, facts):
        return "fine"
'''


def run(folder, *words, environment=None):
    return subprocess.run([BIN / words[0], *words[1:]], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, env=environment)


def twistd(folder, configuration):
    return run(folder, "twistd", "-n", "--pidfile=", "mailgw", "--config", configuration)


@pytest.mark.parametrize("name", sorted(path.stem for path in BROKEN.glob("*.toml")))
def test_a_broken_configuration_ends_the_start_with_all_its_errors(name):
    expected = (BROKEN / f"{name}.errors").read_text().splitlines()
    file = f"{name}.toml"
    with ThreadPoolExecutor(2) as threads:
        answers = threads.submit(twistd, BROKEN, file), threads.submit(run, BROKEN, "mailgw", "check", file)
    for answer in (one.result() for one in answers):
        assert answer.returncode == 2
        said = answer.stderr.splitlines()
        assert [line for line in expected if line not in said] == []


def test_a_plugin_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "half_written.py").write_text("import nothing_of_that_name\n")
    gateway = gateway_in(tmp_path, '[policy.mine]\ntype = "half_written:Mine"\n' + REST, listen='policies = ["mine"]')
    answer = twistd(tmp_path, gateway.file)
    assert answer.returncode == 2
    assert "[policy.mine]" in answer.stderr
    assert "half_written:Mine" in answer.stderr
    assert "ModuleNotFoundError: No module named 'nothing_of_that_name'" in answer.stderr


def test_an_open_relay_does_not_start(tmp_path):
    gateway = gateway_in(tmp_path, '[[permit]]\non = "mx"\nfrom_network = "0.0.0.0/0"\n' + REST)
    answer = twistd(tmp_path, gateway.file)
    assert answer.returncode == 2
    assert "open relay" in answer.stderr


def test_a_port_that_is_taken(tmp_path):
    gateway = gateway_in(tmp_path, REST)
    with socket.create_server(("127.0.0.1", gateway.port)):
        answer = twistd(tmp_path, gateway.file)
    assert answer.returncode == 1
    assert f'cannot listen on "tcp:{gateway.port}:interface=127.0.0.1": [Errno 98] Address already in use' in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


def test_a_state_folder_that_is_taken(tmp_path):
    with gateway_in(tmp_path / "one", REST) as first:
        second = gateway_in(tmp_path / "two", REST)
        second.file.write_text(second.file.read_text().replace('state = "state"', f'state = "{first.folder}/state"'))
        answer = twistd(second.folder, second.file)
    assert answer.returncode == 1
    assert "is in use by another mailgw" in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


@pytest.mark.parametrize("workers", [1, 2])
def test_a_state_folder_that_cannot_be_read(tmp_path, workers):
    gateway = gateway_in(tmp_path, REST, server=f"workers = {workers}")
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "queue.db").symlink_to("x" * 300)  # also root cannot look there
    answer = twistd(tmp_path, gateway.file)
    assert answer.returncode == 1
    assert f"mailgw does not start: the queue in {tmp_path}/state cannot be opened: " in answer.stderr
    assert "File name too long" in answer.stderr
    assert "Traceback" not in answer.stderr + answer.stdout


@pytest.mark.parametrize(
    ("plugin", "stage"), [("Raises", "mail"), ("Hangs", "rcpt"), ("Nonsense", "data")], ids=["raises", "hangs", "answers nonsense"]
)
def test_a_misbehaving_plugin_costs_a_451_and_is_named_in_the_log(tmp_path, plugin, stage, monkeypatch):
    (tmp_path / "misbehaving.py").write_text(PLUGINS)
    policy = f'[policy.odd-one]\ntype = "misbehaving:{plugin}"\ntimeout = "500ms"\n'
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with gateway_in(tmp_path, policy + REST, listen='policies = ["odd-one"]') as gateway:
        with gateway.client() as client:
            client.ehlo("c.example")
            reply = client.mail("a@example.com")
            if stage != "mail":
                assert reply[0] == 250
                reply = client.rcpt("b@example.org")
            if stage == "data":
                assert reply[0] == 250
                reply = client.data("Subject: x\r\n\r\nx\r\n")
            assert reply[0] == 451
            assert reply[1].startswith(b"4.3.0 local problem, try again later [ref ")
        line = wait_until(lambda: [one for one in gateway.log.read_text().splitlines() if " fault " in one], "the fault's line in the log")
    assert "component=odd-one" in line[0]
    assert "session=" in line[0]
    assert mails(gateway.folder / "mail") == []


def test_a_running_transaction_ends_before_the_gateway_does(tmp_path):
    with gateway_in(tmp_path, REST) as gateway:
        client, idle = gateway.client(), gateway.client()
        client.ehlo("c.example")
        client.mail("a@example.com")
        client.rcpt("b@example.org")
        assert client.docmd("DATA")[0] == 354
        gateway.process.terminate()
        assert idle.getreply() == (421, b"4.3.2 shutting down")
        wait_until(lambda: refuses(gateway.port), "the port's closing")
        client.send("Subject: last\r\n\r\nx\r\n.\r\n")
        assert client.getreply()[0] == 250
        assert client.getreply() == (421, b"4.3.2 shutting down")
        client.close()
        idle.close()
        gateway.process.wait(PATIENCE)
    entries = gateway.cli("queue", "list", "--json").stdout
    # Delivered before the end, or waiting for the next start: not lost.
    assert mails(gateway.folder / "mail") or '"message": 1' in entries


def test_the_json_log_tells_the_whole_story(tmp_path):
    import json

    gateway = gateway_in(tmp_path, REST)
    command = [BIN / "twistd", "-n", "--pidfile=", "--logfile=log", "mailgw", "--config", gateway.file, "--json-log", "events"]
    with subprocess.Popen(command, cwd=tmp_path) as process:
        try:
            wait_until(lambda: answers(gateway.port), "the greeting")
            with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
                client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nx\r\n")
            wait_until(lambda: mails(tmp_path / "mail"), "delivery")
        finally:
            process.terminate()
            process.wait(PATIENCE)
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    session = next(event["session"] for event in events if event["event"] == "accepted")
    assert {event["event"] for event in events if event.get("session") == session} == {"connect", "accepted", "delivered", "disconnect"}
