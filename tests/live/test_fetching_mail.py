"""POP before SMTP with the real twistd: what was delivered is fetched with poplib and curl, and then, not before, mail may be sent."""

import poplib
import re
import smtplib
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme
from neighbours import Dovecot
from processes import BIN, PATIENCE, SmtpSink, gateway_in, need, wait_until

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

PASSWORD = "correct horse battery"
REST = """
[tls.default]
certificate = "certificate.pem"
key = {{ file = "key.pem" }}
[listen.pop]
kind = "pop3"
endpoint = ["tcp:{pop}:interface=127.0.0.1", "tls:{pops}:interface=127.0.0.1"]
accounts = "staff"
gateway = "boxes"
domain = "example.org"
[accounts.staff]
type = "password-file"
path = "users"
allow_plaintext = true
[[permit]]
on = "mx"
type = "recently-fetched"
within = "15m"
[[route]]
to = "@ours"
gateway = "boxes"
[[route]]
otherwise = true
gateway = "sink"
[gateway.boxes]
type = "maildir"
path = "boxes/{{domain}}/{{local_part}}"
[gateway.sink]
type = "smarthost"
address = "{sink}"
tls = "never"
"""
MESSAGE = b"From: a@example.com\r\nSubject: hello\r\n\r\n.dots\r\n..\r\n" + b"x" * 70 + b"\r\n"
BIG = b"Subject: big\r\n\r\n" + b".line\r\n" * 40_000


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def sink():
    with SmtpSink() as sink:
        yield sink


@pytest.fixture
def house(tmp_path, sink, authority):
    pop, pops = free_port(), free_port()
    gateway = gateway_in(tmp_path / "gw", REST.format(pop=pop, pops=pops, sink=sink.address))
    gateway.pop, gateway.pops = pop, pops
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(gateway.folder / "key.pem")
    for index, pem in enumerate(certificate.cert_chain_pems):
        pem.write_to_path(gateway.folder / "certificate.pem", append=index > 0)
    authority.cert_pem.write_to_path(gateway.folder / "ca.pem")
    (gateway.folder / "users").write_text(f"anna:{{PLAIN}}{PASSWORD}\nben@example.net:{{PLAIN}}other\n")
    (gateway.folder / "users").chmod(0o600)
    with gateway:
        yield gateway


def deliver(house, *messages):
    with house.client() as client:
        for message in messages:
            client.sendmail("a@example.com", ["anna@example.org"], message)
    new = house.folder / "boxes" / "example.org" / "anna" / "new"
    wait_until(lambda: new.exists() and len(list(new.iterdir())) == len(messages), "the delivery")


def may_send(house):
    with smtplib.SMTP("127.0.0.1", house.port, timeout=PATIENCE) as client:
        client.ehlo()
        client.mail("anna@example.org")
        return client.rcpt("friend@elsewhere.example")[0] == 250


def without_trace(lines):
    """The message as it was sent, without what we put on top of it."""
    text = b"\r\n".join(lines) + b"\r\n"
    return re.sub(rb"\A(?:(?:Return-Path|Delivered-To|Received):.*\r\n(?:[ \t].*\r\n)*)+", b"", text)


def test_poplib(house, authority):
    deliver(house, MESSAGE, BIG)
    assert not may_send(house)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = poplib.POP3("127.0.0.1", house.pop, timeout=PATIENCE)
    client.user("anna")
    with pytest.raises(poplib.error_proto, match="wrong name or password"):
        client.pass_("wrong")
    assert not may_send(house)
    assert client.stls(context).startswith(b"+OK")
    client.user("anna")
    assert client.pass_(PASSWORD) == b"+OK 2 messages"
    assert may_send(house)
    count, total = client.stat()
    _, listed, _ = client.list()
    sizes = {int(number): int(size) for number, size in (line.split() for line in listed)}
    assert (count, total) == (2, sum(sizes.values()))
    texts = []
    for number in sizes:
        _, lines, _ = client.retr(number)
        assert sum(len(line) + 2 for line in lines) == sizes[number]
        texts.append(without_trace(lines))
    assert sorted(texts) == sorted([MESSAGE, BIG])
    assert without_trace(client.top(1 if texts[0] == BIG else 2, 2)[1]) == b"Subject: big\r\n\r\n.line\r\n.line\r\n"
    client.dele(1)
    client.quit()
    wait_until(lambda: len(list((house.folder / "boxes/example.org/anna/new").iterdir())) == 1, "the removal")
    log = house.log.read_text()
    assert re.search(r"login failed: client=127\.0\.0\.1 account=anna mechanism=POP3 listener=pop", log)
    assert re.search(r" login client=127\.0\.0\.1 mechanism=POP3 login=anna listener=pop", log)
    assert PASSWORD not in log
    status = house.cli("status").stdout
    assert re.search(r"pop +pop3 ", status)


def test_implicit_tls_and_an_empty_box(house, authority):
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client = poplib.POP3_SSL("127.0.0.1", house.pops, timeout=PATIENCE, context=context)
    assert b"STLS" not in client.capa()
    client.user("ben@example.net")
    assert client.pass_("other") == b"+OK 0 messages"
    assert client.stat() == (0, 0)
    client.quit()
    assert may_send(house)


def test_curl(house):
    curl = need("curl")
    deliver(house, MESSAGE, BIG)
    proof = f"anna:{PASSWORD}"
    common = [curl, "-sS", "--max-time", "20", "--cacert", house.folder / "ca.pem", "--user", proof]
    listed = subprocess.run([*common, "--ssl-reqd", f"pop3://127.0.0.1:{house.pop}/"], capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["1", "2"]
    fetched = [subprocess.run([*common, f"pop3s://localhost:{house.pops}/{number}"], capture_output=True) for number in (1, 2)]
    assert [done.returncode for done in fetched] == [0, 0]
    assert sorted(without_trace(done.stdout.removesuffix(b"\r\n").split(b"\r\n")) for done in fetched) == sorted([MESSAGE, BIG])
    wrong = subprocess.run([*common[:-1], "anna:wrong", f"pop3s://localhost:{house.pops}/"], capture_output=True, text=True)
    assert wrong.returncode == 67  # login denied


def test_wrong_passwords_ban_for_all_protocols(house):
    for number in range(20):
        client = poplib.POP3("127.0.0.1", house.pop, timeout=PATIENCE)
        client.user(f"user{number}")
        with pytest.raises(poplib.error_proto):
            client.pass_("wrong")
        client.close()
    client = poplib.POP3("127.0.0.1", house.pop, timeout=PATIENCE)
    client.user("anna")
    with pytest.raises(poplib.error_proto, match=r"\[AUTH\] too many failed logins from your network"):
        client.pass_(PASSWORD)
    client.close()
    assert "127.0.0.1/32" in house.cli("bans", "list").stdout
    assert not may_send(house)


def test_check_says_what_is_wrong(house):
    good = house.file.read_text()
    for old, new, text in [
        ('gateway = "boxes"\ndomain', 'gateway = "sink"\ndomain', '[listen.pop] gateway: "sink" is no gateway of type "maildir"'),
        ('accounts = "staff"\n', "", '[listen.pop] needs "accounts"'),
        ('on = "mx"\ntype', 'on = ["mx", "pop"]\ntype', 'nobody sends mail on "pop": it is of kind "pop3"'),
        ('domain = "example.org"', 'domain = "example.org"\npolicies = []', 'policies: is not for a listener of kind "pop3"'),
        ('kind = "relay"', 'kind = "relay"\ngateway = "boxes"', 'gateway: is for a listener of kind "pop3" only'),
    ]:
        assert good.count(old) == 1, old
        house.file.write_text(good.replace(old, new))
        checked = house.cli("check")
        assert checked.returncode == 2
        assert text in checked.stderr
    house.file.write_text(good)
    checked = house.cli("check")
    assert checked.returncode == 0
    assert "pop" not in checked.stdout.replace(str(house.file), "")


POP3_OF_DOVECOT = """
protocols = lmtp pop3
disable_plaintext_auth = no
service pop3-login {{
  inet_listener pop3 {{
    address = 127.0.0.1
    port = {port}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service pop3 {{
  executable = pop3 tell-mailgw
}}
service tell-mailgw {{
  executable = script-login {script}
  user = root
  unix_listener tell-mailgw {{
  }}
}}
"""
SCRIPT = """\
#!/bin/sh
{mailgw} --config {config} fetched "$IP" --login "$USER"
exec "$@"
"""


def test_a_real_dovecot_tells_who_has_fetched(house):
    if not Path("/usr/lib/dovecot/pop3").exists():
        pytest.skip("dovecot-pop3d is not installed")
    neighbour = Dovecot("anna@example.org", password=PASSWORD)
    port, script = free_port(), neighbour.folder / "tell-mailgw"
    script.write_text(SCRIPT.format(mailgw=BIN / "mailgw", config=house.file))
    script.chmod(0o755)
    with (neighbour.folder / "dovecot.conf").open("a") as configuration:
        configuration.write(POP3_OF_DOVECOT.format(port=port, script=script))
    with neighbour:
        client = poplib.POP3("127.0.0.1", port, timeout=PATIENCE)
        client.user("anna@example.org")
        with pytest.raises(poplib.error_proto):
            client.pass_("wrong")
        assert not may_send(house)
        client.user("anna@example.org")
        client.pass_(PASSWORD)
        assert client.stat() == (0, 0), neighbour.log
        assert may_send(house), neighbour.log
        client.quit()
