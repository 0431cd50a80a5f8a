"""A real haproxy in front of the gateway, with both versions of the PROXY protocol, and swaks as a proxy that says XCLIENT."""

import smtplib
import socket
import ssl
import subprocess
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from processes import PATIENCE, answers, gateway_in, mails, need, wait_until

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

CLIENT = "127.0.0.77"  # all of 127.0.0.0/8 is this machine: clients and balancer can be told apart
BALANCER = "127.0.0.8"
PLUGIN = '''
from mailgw.api import *

@implementer(IClientPolicy)
@frozen
class Unwanted:
    def check_client(self, facts):
        return reject("not from there") if str(facts.ip) == "127.0.0.66" else proceed()
'''
REST = """
[policy.unwanted]
type = "in_front_plugin:Unwanted"
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""
HAPROXY = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 1m
    timeout server 1m
    timeout check 1m  # else 200 ms: on a busy machine it would take the gateway for dead
listen mail
    bind 127.0.0.1:{port}
    server mailgw 127.0.0.1:{behind} {how} source {balancer} {check}
"""
CHECK = """check check-send-proxy inter 200ms
    option smtpchk EHLO balancer.example"""


@contextmanager
def haproxy(folder, behind, how, check=CHECK, is_up=answers):
    program = need("haproxy")
    port = free_port()
    file = folder / "haproxy.cfg"
    file.write_text(HAPROXY.format(port=port, behind=behind, how=how, balancer=BALANCER, check=check))
    process = subprocess.Popen([program, "-db", "-f", file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: is_up(port) or process.poll() is not None, "the greeting behind haproxy")
        assert process.poll() is None
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def gateway(tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "in_front_plugin.py").write_text(PLUGIN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    listen = f'policies = "unwanted"\nproxy = "{BALANCER}"\nxclient = "127.0.0.9"\nmax_sessions_per_client = 3'
    with gateway_in(tmp_path / "gateway", REST, listen=listen) as running:
        yield running


def said_in(gateway, *words):
    return [line for line in gateway.log.read_text().splitlines() if all(word in line for word in words)]


@pytest.mark.parametrize("how", ["send-proxy", "send-proxy-v2"])
def test_the_client_is_seen_through_haproxy(tmp_path, gateway, how):
    with haproxy(tmp_path, gateway.port, how) as port:
        clients = [smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, source_address=(CLIENT, 0)) for _ in range(3)]
        address = "{}:{}".format(*clients[0].sock.getsockname())
        clients[0].sendmail("a@example.com", ["b@example.org"], b"Subject: through\r\n\r\nx\r\n")
        with pytest.raises(smtplib.SMTPConnectError, match="too many connections from your address"):
            smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, source_address=(CLIENT, 0))
        for client in clients:
            client.quit()
        with pytest.raises(smtplib.SMTPConnectError, match="not from there") as refused:
            smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE, source_address=("127.0.0.66", 0))
        assert refused.value.smtp_code == 554
        # The balancer's own looks at us are no faults, and no client's.
        assert wait_until(lambda: said_in(gateway, " connect ", f"client={BALANCER}:"), "a look at us")
    assert said_in(gateway, " connect ", f"client={address}")
    [mail] = wait_until(lambda: mails(gateway.folder / "mail"), "the delivery")
    assert f"([{CLIENT}])".encode() in mail
    assert said_in(gateway, " fault ") == []


def test_without_a_header_the_balancer_hears_nothing(gateway):
    with socket.create_connection(("127.0.0.1", gateway.port), PATIENCE, source_address=(BALANCER, 0)) as connection:
        connection.sendall(b"EHLO client.example\r\n")
        heard = b""
        with suppress(ConnectionResetError):
            heard = connection.recv(100)
    assert heard == b""
    assert wait_until(lambda: said_in(gateway, " fault ", "component=listen.mx", f"the connection of {BALANCER}"), "the log line")


def with_tls(authority, folder, port, networks):
    """The end of a configuration with a listener for TLS from the first byte, too."""
    authority.issue_cert("mx.example.org").private_key_and_cert_chain_pem.write_to_path(folder / "pem")
    tls = f'[tls.default]\ncertificate = "{folder}/pem"\nkey = {{ file = "{folder}/pem" }}\n'
    listen = f'[listen.secure]\nkind = "relay"\nendpoint = "tls:{port}:interface=127.0.0.1"\nproxy = "{networks}"\n'
    return REST.partition("[[route]]")[1] + REST.partition("[[route]]")[2] + tls + listen


def test_the_watchdog_says_the_header_that_its_own_listeners_want(tmp_path, monkeypatch):
    front = f'[listen.front]\nkind = "relay"\nendpoint = "tcp:{free_port()}:interface=127.0.0.1"\nproxy = "127.0.0.0/8"\n'
    rest = with_tls(trustme.CA(), tmp_path, free_port(), "127.0.0.0/8") + front
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "6000000")
        with gateway_in(tmp_path / "gateway", rest) as gateway:
            assert b"READY=1" in manager.recv(4096)
            assert b"WATCHDOG=1" in manager.recv(4096)
            connected = [said_in(gateway, " connect ", f"listener={name}") for name in ("mx", "front", "secure")]
    assert all(connected)


def test_tls_from_the_first_byte_behind_haproxy(tmp_path):
    authority, secure = trustme.CA(), free_port()
    rest = with_tls(authority, tmp_path, secure, BALANCER)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = False

    def connected(port):
        with suppress(OSError):
            return smtplib.SMTP_SSL("127.0.0.1", port, timeout=PATIENCE, context=context, source_address=(CLIENT, 0))

    def is_up(port):
        client = connected(port)
        return client is not None and client.quit()

    with gateway_in(tmp_path / "gateway", rest) as gateway:
        with haproxy(tmp_path, secure, "send-proxy-v2", "", is_up) as port, connected(port) as client:
            address = "{}:{}".format(*client.sock.getsockname())
            assert client.ehlo()[0] == 250
        assert said_in(gateway, " connect ", "listener=secure", f"client={address}")


def test_the_documented_configuration_is_one(tmp_path):
    program = need("haproxy")
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    (tmp_path / "haproxy.cfg").write_text(page.partition("```haproxy\n")[2].partition("```")[0])
    check = subprocess.run([program, "-c", "-f", tmp_path / "haproxy.cfg"], capture_output=True, text=True, timeout=PATIENCE)
    assert check.returncode == 0, check.stderr
    assert "warning" not in check.stderr.lower()


def test_swaks_says_for_whom_it_speaks(gateway):
    swaks = need("swaks")

    def send(source):
        words = ["--server", "127.0.0.1", "--port", str(gateway.port), "--local-interface", source, "--to", "b@example.org"]
        words += ["--from", "a@example.com", "--helo", "proxy.example", "--xclient", "ADDR=203.0.113.7 PORT=40001 HELO=client.example"]
        return subprocess.run([swaks, *words], capture_output=True, text=True, timeout=PATIENCE)

    trusted = send("127.0.0.9")
    assert trusted.returncode == 0, trusted.stdout
    assert said_in(gateway, " introduced ", "client=203.0.113.7:40001")
    [mail] = wait_until(lambda: mails(gateway.folder / "mail"), "the delivery")
    assert b"from client.example ([203.0.113.7])" in mail
    stranger = send("127.0.0.10")
    assert stranger.returncode != 0
    assert "XCLIENT" not in "".join(line for line in stranger.stdout.splitlines() if line.startswith("<-  250"))
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE, source_address=("127.0.0.10", 0)) as client:
        assert client.docmd("XCLIENT", "ADDR=127.0.0.9") == (550, b"5.7.0 you may not speak for others")
