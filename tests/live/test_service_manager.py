"""Under a service manager: notifications, the watchdog and handed-over sockets, with a stand-in for systemd and the real twistd."""

import importlib.util
import os
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
import trustme
from processes import BIN, PATIENCE, gateway_in, mails, wait_until

from mailgw.admin.client import Daemon

pytestmark = pytest.mark.live

STOPPED = -signal.SIGTERM  # twistd ends as the signal wanted, when all is in order
REST = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""
MORE = """
[tls.default]
certificate = "certificate.pem"
key = { credential = "tls-key" }
[listen.submissions]
kind = "relay"
endpoint = "tls:systemd:domain=INET:name=submissions"
"""
STUCK = """
import os, time
from twisted.internet.defer import Deferred
from mailgw.api import *

@implementer(IClientPolicy)
@frozen
class Stuck:
    async def check_client(self, facts):
        if os.path.exists("stuck"):
            await Deferred()
        return proceed()
"""
# What systemd does between fork and exec: the sockets become descriptors 3, 4, ...; LISTEN_PID is the service's own.
HAND_OVER = """
import os, sys
sockets, names, command = sys.argv[1].split(","), sys.argv[2], sys.argv[3:]
for number, one in enumerate([os.dup2(int(one), 100 + place) for place, one in enumerate(sockets)], 3):
    os.dup2(one, number, inheritable=True)
    os.close(one)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)), LISTEN_FDNAMES=names)
os.execv(command[0], command)
"""


class Manager:
    """The stand-in: hears what is told."""

    def __init__(self, address):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.address = address.replace("\0", "@")
        self.news = []

    def hears(self, wanted, patience=PATIENCE):
        """Whether something is told that begins so, within some seconds; all that is told goes to `news`."""
        end = time.monotonic() + patience
        while (left := end - time.monotonic()) > 0:
            self.socket.settimeout(left)
            try:
                told = self.socket.recv(4096).decode().splitlines()
            except TimeoutError:
                return False
            self.news += told
            if any(one.startswith(wanted) for one in told):
                return True
        return False


@contextmanager
def started(gateway, environment, before=(), options=(), **more):
    command = [*before, BIN / "twistd", "-n", *options, "--pidfile=", f"--logfile={gateway.log}", "mailgw", "--config", gateway.file]
    gateway.process = subprocess.Popen(command, cwd=gateway.folder, stderr=subprocess.PIPE, env=os.environ | environment, **more)
    try:
        yield gateway.process
    finally:
        gateway.__exit__()


@pytest.mark.parametrize("is_abstract", [False, True], ids=["path", "abstract"])
def test_ready_well_and_stopping(tmp_path, is_abstract):
    manager = Manager(f"\0{tmp_path}" if is_abstract else f"{tmp_path}/notify")
    gateway = gateway_in(tmp_path / "gateway", REST)
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1500000"}) as process:
        assert manager.hears("READY=1")
        assert manager.news == ["READY=1", "STATUS=1 listeners, 0 sessions, 0 recipients in delivery"]
        with gateway.client() as client:
            assert client.noop()[0] == 250
        assert manager.hears("WATCHDOG=1")
        assert manager.hears("WATCHDOG=1")
        process.terminate()
        assert manager.hears("STOPPING=1")
        assert process.wait(PATIENCE) == STOPPED


@pytest.mark.parametrize("text", ["", "[nonsense]"], ids=["good", "with an error"])
def test_a_reload_is_told_from_its_beginning_to_its_end(tmp_path, text):
    manager = Manager(f"{tmp_path}/notify")
    gateway = gateway_in(tmp_path / "gateway", REST)
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1500000"}) as process:
        assert manager.hears("READY=1")
        with gateway.file.open("a") as file:
            file.write(text)
        began = time.monotonic_ns() // 1000
        process.send_signal(signal.SIGHUP)
        assert manager.hears("RELOADING=1")
        [since] = [one.partition("=")[2] for one in manager.news if one.startswith("MONOTONIC_USEC=")]
        assert began <= int(since) <= time.monotonic_ns() // 1000
        assert manager.hears("READY=1")
        assert manager.hears("WATCHDOG=1")  # it finds the listeners as they are now
        assert ("not reloaded" in gateway.log.read_text()) == bool(text)


def test_without_a_watchdog_the_listeners_are_left_alone(tmp_path):
    manager = Manager(f"{tmp_path}/notify")
    gateway = gateway_in(tmp_path / "gateway", REST)
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address}) as process:
        assert manager.hears("READY=1")
        process.terminate()
        assert manager.hears("STOPPING=1")
        assert process.wait(PATIENCE) == STOPPED
    assert " connect " not in gateway.log.read_text()


def test_a_stuck_listener_is_not_well(tmp_path, monkeypatch):
    manager = Manager(f"{tmp_path}/notify")
    (tmp_path / "sticky.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    policy = '[policy.sticky]\ntype = "sticky:Stuck"\ntimeout = "1h"\n'
    gateway = gateway_in(tmp_path / "gateway", policy + REST, listen='policies = ["sticky"]')
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "1200000"}):
        assert manager.hears("WATCHDOG=1")
        (gateway.folder / "stuck").touch()
        assert manager.hears("STATUS=Unwell")
        manager.news.clear()
        assert manager.hears("STATUS=Unwell")
        assert manager.news == [f"STATUS=Unwell: listener mx at 127.0.0.1:{gateway.port}: does not answer"]
        (gateway.folder / "stuck").unlink()
        assert manager.hears("WATCHDOG=1")


def certificate_in(folder):
    authority = trustme.CA()
    one = authority.issue_cert("mx.example.org", "127.0.0.1")
    one.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    (folder / "credentials").mkdir()
    one.private_key_pem.write_to_path(folder / "credentials" / "tls-key")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


def on_handed_over_sockets(folder):
    gateway = gateway_in(folder, REST + MORE)
    text = gateway.file.read_text()
    gateway.file.write_text(text.replace(f"tcp:{gateway.port}:interface=127.0.0.1", "systemd:domain=INET:name=mx"))
    return gateway


def test_sockets_of_systemd_in_clear_and_in_tls(tmp_path):
    manager = Manager(f"{tmp_path}/notify")
    gateway = on_handed_over_sockets(tmp_path / "gateway")
    trust = certificate_in(gateway.folder)
    environment = {
        "NOTIFY_SOCKET": manager.address,
        "WATCHDOG_USEC": "15000000",
        "CREDENTIALS_DIRECTORY": str(gateway.folder / "credentials"),
    }
    with manager.socket, socket.create_server(("127.0.0.1", 0)) as mx, socket.create_server(("127.0.0.1", 0)) as submissions:
        numbers = [submissions.fileno(), mx.fileno()]  # not in the order of the configuration: it is the name that counts
        before = [sys.executable, "-c", HAND_OVER, ",".join(map(str, numbers)), "submissions:mx"]
        for _ in range(2):
            with started(gateway, environment, before, pass_fds=numbers) as process:
                # It does not listen yet: such clients wait in the socket, also while it is started again.
                with smtplib.SMTP(*mx.getsockname(), timeout=PATIENCE) as client:
                    client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nx\r\n")
                with smtplib.SMTP_SSL(*submissions.getsockname(), timeout=PATIENCE, context=trust) as client:
                    assert client.noop()[0] == 250
                assert manager.hears("WATCHDOG=1")
                process.terminate()
                assert process.wait(PATIENCE) == STOPPED
    assert not [one for one in manager.news if one.startswith("STATUS=Unwell")]
    assert len(mails(gateway.folder / "mail")) == 2


def test_sockets_that_were_not_handed_over(tmp_path):
    gateway = on_handed_over_sockets(tmp_path / "gateway")
    certificate_in(gateway.folder)
    with started(gateway, {"CREDENTIALS_DIRECTORY": str(gateway.folder / "credentials")}) as process:
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    expected = '[listen.mx] endpoint "systemd:domain=INET:name=mx": systemd has handed over no such socket; is its socket unit started?'
    assert expected in said.decode()
    assert "[listen.submissions]" in said.decode()
    assert "Traceback" not in said.decode()


# It ends a while after it has closed its output: that it has ended can be known from SIGCHLD alone.
PIPE = """
[[route]]
otherwise = true
gateway = "program"
[gateway.program]
type = "pipe"
command = ["/bin/sh", "-c", "cat >>piped; exec >&- 2>&-; sleep 0.2"]
user = "{user}"
directory = "{folder}"
"""


def test_mail_through_the_reactor_on_uvloop(tmp_path):
    """SMTP with STARTTLS in, a program out: sockets, TLS, threads, and a child process whose end must be seen."""
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    if user == "root":
        user = "nobody"
        for folder in (tmp_path, *list(tmp_path.parents)[:2]):
            folder.chmod(0o755)
    (tmp_path / "out").mkdir()
    (tmp_path / "out").chmod(0o777)
    tls = '[tls.default]\ncertificate = "certificate.pem"\nkey = { credential = "tls-key" }\n'
    gateway = gateway_in(tmp_path / "gateway", PIPE.format(user=user, folder=tmp_path / "out") + tls)
    trust = certificate_in(gateway.folder)
    environment = {"CREDENTIALS_DIRECTORY": str(gateway.folder / "credentials")}
    with started(gateway, environment, options=["--reactor", "uvloop"]) as process:
        wait_until(lambda: gateway.log.exists() and "listener mx starting on " in gateway.log.read_text(), "the start")
        with gateway.client() as client:
            client.starttls(context=trust)
            client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\n" + "x" * 70 + "\r\n")
        wait_until(lambda: " delivered " in gateway.log.read_text(), "the delivery")
        process.terminate()
        assert process.wait(PATIENCE) == STOPPED
    assert "AsyncioSelectorReactor" in gateway.log.read_text()
    assert b"x" * 70 in (tmp_path / "out" / "piped").read_bytes()


# ── Several workers: the parent stands before the service manager for all of them ──


def workers_in(folder, rest=REST):
    return gateway_in(folder, rest + '[admin]\nsocket = "admin.sock"\n', "workers = 2")


def worker_pids(gateway):
    with Daemon(gateway.folder / "admin.sock") as daemon:
        return {number: card["pid"] for number, card in daemon.ask("status")["workers"].items() if card["state"] == "ready"}


def test_workers_are_ready_well_and_stopping_together(tmp_path):
    manager = Manager(f"{tmp_path}/notify")
    gateway = workers_in(tmp_path / "gateway")
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "6000000"}) as process:
        assert manager.hears("READY=1")
        assert manager.news == ["READY=1", "STATUS=2 of 2 workers, 1 listeners, 0 sessions, 0 recipients in delivery"]
        assert manager.hears("WATCHDOG=1")
        before = worker_pids(gateway)
        # One that hangs is killed and started again before we seem to hang ourselves.
        os.kill(before["2"], signal.SIGSTOP)
        manager.news.clear()
        wait_until(lambda: worker_pids(gateway).get("2", before["2"]) != before["2"], "another worker")
        assert worker_pids(gateway)["1"] == before["1"]
        assert "gives no sign of life" in gateway.log.read_text()
        assert manager.hears("WATCHDOG=1")
        process.terminate()
        assert manager.hears("STOPPING=1")
        assert process.wait(PATIENCE) == STOPPED


def test_a_listener_that_is_stuck_in_all_workers_is_not_well(tmp_path, monkeypatch):
    manager = Manager(f"{tmp_path}/notify")
    (tmp_path / "sticky.py").write_text(STUCK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    policy = '[policy.sticky]\ntype = "sticky:Stuck"\ntimeout = "1h"\n'
    gateway = workers_in(tmp_path / "gateway", policy + REST)
    gateway.file.write_text(gateway.file.read_text().replace('kind = "relay"', 'kind = "relay"\npolicies = ["sticky"]'))
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address, "WATCHDOG_USEC": "6000000"}):
        assert manager.hears("WATCHDOG=1")
        (gateway.folder / "stuck").touch()
        assert manager.hears("STATUS=Worker ")
        assert manager.news[-1].endswith(f"Unwell: listener mx at tcp:{gateway.port}:interface=127.0.0.1: does not answer")


def test_sockets_of_systemd_for_several_workers(tmp_path):
    manager = Manager(f"{tmp_path}/notify")
    gateway = on_handed_over_sockets(tmp_path / "gateway")
    gateway.file.write_text(gateway.file.read_text().replace("[server]", "[server]\nworkers = 2"))
    trust = certificate_in(gateway.folder)
    environment = {"NOTIFY_SOCKET": manager.address, "CREDENTIALS_DIRECTORY": str(gateway.folder / "credentials")}
    with manager.socket, socket.create_server(("127.0.0.1", 0)) as mx, socket.create_server(("127.0.0.1", 0)) as submissions:
        numbers = [submissions.fileno(), mx.fileno()]
        before = [sys.executable, "-c", HAND_OVER, ",".join(map(str, numbers)), "submissions:mx"]
        for _ in range(2):  # the sockets outlive the gateway
            with started(gateway, environment, before, pass_fds=numbers) as process:
                with smtplib.SMTP(*mx.getsockname(), timeout=PATIENCE) as client:
                    client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nx\r\n")
                with smtplib.SMTP_SSL(*submissions.getsockname(), timeout=PATIENCE, context=trust) as client:
                    assert client.noop()[0] == 250
                assert manager.hears("READY=1")
                process.terminate()
                assert process.wait(PATIENCE) == STOPPED
    assert len(mails(gateway.folder / "mail")) == 2


def test_workers_on_uvloop(tmp_path):
    if importlib.util.find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    manager = Manager(f"{tmp_path}/notify")
    gateway = workers_in(tmp_path / "gateway")
    with manager.socket, started(gateway, {"NOTIFY_SOCKET": manager.address}, options=["--reactor", "uvloop"]) as process:
        assert manager.hears("READY=1")
        before = worker_pids(gateway)
        os.kill(before["1"], signal.SIGKILL)
        wait_until(lambda: worker_pids(gateway).get("1", before["1"]) != before["1"], "another worker")
        with gateway.client() as client:
            client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nx\r\n")
        process.terminate()
        assert process.wait(PATIENCE) == STOPPED
    assert gateway.log.read_text().count("AsyncioSelectorReactor") == 4
    assert "Traceback" not in gateway.log.read_text()
