"""Logins under attack, limits and rights, with the real twistd: what is counted in state/memory.db holds over a restart."""

import base64
import re
import smtplib
import subprocess
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from processes import PATIENCE, SmtpSink, gateway_in, need, wait_until

pytestmark = pytest.mark.live

ATTACKER, OWNER = "127.0.0.66", "127.0.0.7"  # all of 127.0.0.0/8 is ours; each address is a network of its own here
PASSWORD = "correct horse battery"

REST = """
[[permit]]
on = "mx"
authenticated = true
[accounts.staff]
type = "password-file"
path = "users"
allow_plaintext = true
[policy.own-address]
type = "sender-rights"
addresses = {{ anna = ["anna@example.org", "@shop.example"] }}
[policy.hourly]
type = "quota"
limit = "4 per week"
warn_at = 75
[logins]
delay = "1ms"
longest_delay = "5ms"
{logins}
[[route]]
otherwise = true
gateway = "sink"
[gateway.sink]
type = "smarthost"
address = "{sink}"
tls = "never"
"""


@pytest.fixture
def sink():
    with SmtpSink() as sink:
        yield sink


@pytest.fixture
def gateway(tmp_path, sink):
    gateway = gateway_in(
        tmp_path / "gw",
        REST.format(sink=sink.address, logins=""),
        listen='accounts = "staff"\nallow_cleartext_auth = true\npolicies = ["own-address", "hourly"]',
    )
    (gateway.folder / "users").write_text(f"anna:{{PLAIN}}{PASSWORD}\n")
    (gateway.folder / "users").chmod(0o600)
    with gateway:
        yield gateway


def connect(gateway, source):
    return smtplib.SMTP("127.0.0.1", gateway.port, source_address=(source, 0), timeout=PATIENCE)


def attempt(client, password):
    client.ehlo_or_helo_if_needed()
    proof = base64.b64encode(f"\0anna\0{password}".encode()).decode()
    return client.docmd("AUTH", f"PLAIN {proof}")


def wrong_passwords(gateway, number, source=ATTACKER):
    """The codes that so many wrong passwords bring, on as few connections as possible."""
    codes, client = [], None
    for count in range(number):
        if client is None:
            client = connect(gateway, source)
        try:
            code, _ = attempt(client, f"wrong{count}")
        except smtplib.SMTPServerDisconnected:
            client.close()
            client = connect(gateway, source)
            code, _ = attempt(client, f"wrong{count}")
        codes.append(code)
        if code == 421:
            client.close()
            client = None
    if client is not None:
        client.close()
    return codes


def test_a_thousand_wrong_passwords_do_not_stop_the_owner(gateway):
    codes = wrong_passwords(gateway, 1000)
    assert codes[:19] == [535] * 19
    assert set(codes[19:]) == {421}
    with connect(gateway, ATTACKER) as client:
        code, text = attempt(client, PASSWORD)
        assert code == 421
        assert re.fullmatch(rb"4\.7\.0 too many failed logins from your network, try again in (60|5\d) minutes", text)
    with connect(gateway, OWNER) as client:
        began = time.monotonic()
        assert attempt(client, PASSWORD)[0] == 235
        assert time.monotonic() - began < 10
        assert client.mail("anna@example.org")[0] == 250

    listed = gateway.cli("bans", "list").stdout.splitlines()
    assert re.match(r"127\.0\.0\.66/32 .* 20 +anna$", listed[1])
    status = gateway.cli("status").stdout
    assert re.search(r"logins:\nbanned networks: +1\nfailures this hour: +\d+", status)
    log = gateway.log.read_text()
    assert len(re.findall(r"login failed: client=127\.0\.0\.66 account=anna mechanism=PLAIN listener=mx reason=\"wrong", log)) == 20
    assert len(re.findall(r" banned client=127\.0\.0\.66 network=127\.0\.0\.66/32 failures=20 seconds=3600\.000", log)) == 1
    assert "wrong1" not in log
    assert base64.b64encode(b"\0anna\0wrong1").decode() not in log

    # The ban is still there after a restart, until an operator lifts it.
    gateway.stop()
    gateway.process.stderr.close()
    gateway.start()
    assert wrong_passwords(gateway, 1) == [421]
    lifted = gateway.cli("bans", "lift", ATTACKER)
    assert (lifted.returncode, lifted.stdout) == (0, "127.0.0.66/32 may log in again\n")
    with connect(gateway, ATTACKER) as client:
        assert attempt(client, PASSWORD)[0] == 235


def test_own_addresses_limits_and_the_warning(gateway, sink):
    with connect(gateway, OWNER) as client:
        client.login("anna", PASSWORD)
        assert client.mail("ceo@example.org") == (553, b"5.7.1 anna may not send as ceo@example.org" + reference(client, gateway))
        with pytest.raises(smtplib.SMTPDataError, match=r"anna may not send as ceo@example\.org in From"):
            client.sendmail("x@shop.example", ["a@elsewhere.example"], b"From: ceo@example.org\r\n\r\nhello\r\n")
        for number in range(4):
            client.sendmail("anna@example.org", ["a@elsewhere.example"], f"From: anna@example.org\r\nSubject: {number}\r\n\r\nhello\r\n")
        code, text = client.mail("anna@example.org")
        assert code == 450
        assert re.match(rb"4\.7\.1 the limit of 4 messages per week is reached, try again in \d+ (minute|hour|day)", text)
    messages = wait_until(lambda: len(sink.messages) == 5 and sink.messages, "four messages and a warning")
    [warning] = [content for sender, recipients, content in messages if recipients == ["postmaster@mx.example.org"]]
    assert b"Auto-Submitted: auto-generated" in warning
    assert b"anna has sent 3 messages. The limit is 4 per week" in warning
    [sender] = [sender for sender, recipients, _ in messages if recipients == ["postmaster@mx.example.org"]]
    assert sender == ""
    gateway.stop()
    gateway.process.stderr.close()
    gateway.start()
    with connect(gateway, OWNER) as client:
        client.login("anna", PASSWORD)
        assert client.mail("anna@example.org")[0] == 450


def reference(client, gateway):
    """What the daemon puts behind a refusal, so that it can be asked for: the last one in its log."""
    found = wait_until(lambda: re.findall(r" refused .*ref (\w+)", gateway.log.read_text()), "the refusal in the log")
    return f" [ref {found[-1]}]".encode()


def test_no_memory_is_made_where_nobody_needs_it(tmp_path, sink):
    rest = '[[route]]\notherwise = true\ngateway = "sink"\n[gateway.sink]\ntype = "smarthost"\naddress = "{}"\ntls = "never"\n'
    with gateway_in(tmp_path / "gw", rest.format(sink.address)) as gateway:
        with gateway.client() as client:
            client.sendmail("a@example.com", ["b@example.org"], "Subject: x\r\n\r\nhello\r\n")
        gateway.cli("status")
        assert not list((gateway.folder / "state").glob("memory*"))


def test_who_has_fetched_mail_may_send(tmp_path, sink):
    rest = REST.format(sink=sink.address, logins="").replace("authenticated = true", 'type = "recently-fetched"')
    gateway = gateway_in(tmp_path / "gw", rest)
    (gateway.folder / "users").write_text(f"anna:{{PLAIN}}{PASSWORD}\n")
    (gateway.folder / "users").chmod(0o600)
    with gateway:
        with connect(gateway, OWNER) as client:
            client.ehlo()
            client.mail("anna@example.org")
            assert client.rcpt("a@elsewhere.example")[0] == 550
            assert gateway.cli("fetched", OWNER, "--login", "anna").returncode == 0
            assert client.rcpt("a@elsewhere.example")[0] == 250
        with connect(gateway, ATTACKER) as client:
            client.ehlo()
            client.mail("anna@example.org")
            assert client.rcpt("a@elsewhere.example")[0] == 550
        checked = gateway.cli("check")
        assert checked.returncode == 0, checked.stderr
        assert re.search(r"mx +stranger +@ours +- *|mx +stranger", checked.stdout)


def worker_of(gateway, client):
    """The number of the worker that has the connection."""
    port = client.sock.getsockname()[1]
    line = rf"worker=(\d+) .* connect listener=mx client={re.escape(ATTACKER)}:{port}\b"
    return wait_until(lambda: re.search(line, gateway.log.read_text()), "the connection in the log")[1]


def test_workers_count_together(tmp_path, sink):
    gateway = gateway_in(
        tmp_path / "gw",
        REST.format(sink=sink.address, logins=""),
        server="workers = 2",
        listen='accounts = "staff"\nallow_cleartext_auth = true\npolicies = ["own-address", "hourly"]',
    )
    (gateway.folder / "users").write_text(f"anna:{{PLAIN}}{PASSWORD}\n")
    (gateway.folder / "users").chmod(0o600)
    with gateway, ExitStack() as connected:
        # The first that is up answers for all, and would hear so many connections from one client that it refuses more.
        wait_until(lambda: all(one["state"] == "ready" for one in gateway.ask("status")["workers"].values()), "readiness of all workers")
        clients = {}
        for _ in range(200):  # until each worker has one
            client = connected.enter_context(connect(gateway, ATTACKER))
            clients.setdefault(worker_of(gateway, client), client)
            if len(clients) == 2:
                break
        assert set(clients) == {"1", "2"}
        codes = [attempt(clients["12"[number % 2]], f"wrong{number}")[0] for number in range(20)]
        assert codes == [535] * 19 + [421]
        assert attempt(clients["1"], PASSWORD)[0] == 421
        wait_until(lambda: gateway.log.read_text().count(" banned client=") == 1, "the ban in the log")
        logins = gateway.ask("status")["logins"]
        # A new hour may have begun meanwhile.
        assert (logins["banned_networks"], logins["failures_this_hour"] + logins["failures_the_hour_before"]) == (1, 20)
        assert gateway.cli("bans", "lift", "--all").stdout == "127.0.0.66/32 may log in again\n"


def test_fail2ban_reads_a_real_log(tmp_path, gateway):
    tester = need("fail2ban-regex")
    assert wrong_passwords(gateway, 3) == [535] * 3
    log = wait_until(lambda: gateway.log.read_text().count("login failed:") == 3 and gateway.log, "the lines in the log")
    rules = Path(__file__).parents[2] / "etc/fail2ban/filter.d/mailgw.conf"
    done = subprocess.run([tester, "--out", "ip", log, rules], capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout.split() == [ATTACKER] * 3
