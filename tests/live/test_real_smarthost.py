"""Postfix as a smarthost that wants a login, checked by Dovecot: the strongest mechanism, a wrong password, and no secret anywhere."""

import smtplib
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
import trustme
from neighbours import Dovecot, Postfix
from processes import PATIENCE, gateway_in, wait_until

pytestmark = pytest.mark.live

NAME, PASSWORD, WRONG = "relay@example.org", "correct-horse-battery", "wrong-horse-battery"
SETTINGS = """\
smtpd_tls_security_level = may
smtpd_tls_chain_files = {pem}
smtpd_tls_auth_only = yes
smtpd_sasl_auth_enable = yes
smtpd_sasl_type = dovecot
smtpd_sasl_path = {socket}
smtpd_sasl_security_options = noanonymous
smtpd_sasl_mechanism_filter = {mechanisms}
smtpd_recipient_restrictions = permit_sasl_authenticated, reject
smtpd_relay_restrictions = permit_sasl_authenticated, reject
"""
ROUTE = """
[[route]]
{condition}
gateway = "{gateway}"
"""
GATEWAY = """
[gateway.{gateway}]
type = "smarthost"
address = "127.0.0.1:{port}"
tls = "require"
trust = "ca.pem"
login = "{name}"
password = {{ file = "password" }}
"""
ALL = "SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5, PLAIN, LOGIN"


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def dovecot():
    with Dovecot(NAME, password=PASSWORD) as server:
        yield server


@pytest.fixture(scope="module")
def smarthost(authority, dovecot, tmp_path_factory):
    pem = tmp_path_factory.mktemp("postfix") / "chain.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    return lambda mechanisms: Postfix(SETTINGS.format(pem=pem, socket=dovecot.folder / "auth", mechanisms=mechanisms))


def gateway_with(folder, authority, password, **smarthosts):
    """Mail for NAME.example goes to the smarthost of that name, all other to the last one."""
    conditions = [*[f'to = "{name}.example"' for name in smarthosts][:-1], "otherwise = true"]
    routes = [ROUTE.format(condition=one, gateway=name) for one, name in zip(conditions, smarthosts, strict=True)]
    gateways = [GATEWAY.format(gateway=name, port=server.port, name=NAME) for name, server in smarthosts.items()]
    permit = '[[permit]]\non = "mx"\nfrom_network = "127.0.0.0/8"\n'
    gateway = gateway_in(folder, "".join([permit, *routes, *gateways]))
    authority.cert_pem.write_to_path(folder / "ca.pem")
    (folder / "password").write_text(f"{password}\n")
    return gateway


def send(gateway, *recipients):
    with smtplib.SMTP("127.0.0.1", gateway.port, timeout=PATIENCE) as client:
        client.sendmail("anna@example.com", recipients, b"Subject: hello\r\n\r\nhello\r\n")


def test_a_wrong_password_a_right_one_and_no_secret_anywhere(authority, smarthost, tmp_path):
    postfix = smarthost(ALL)
    gateway = gateway_with(tmp_path / "us", authority, WRONG, provider=postfix)
    with postfix, gateway:
        send(gateway, "ben@example.org")
        wait_until(lambda: "failed: 535" in gateway.log.read_text(), "the refusal")
        shown = wait_until(lambda: "failed" in (said := gateway.cli("queue", "show", "1").stdout) and said, "the outcome")
        assert f"454 4.7.0 login of {NAME} by SCRAM-SHA-256 failed: 535" in " ".join(shown.split())
        (gateway.folder / "password").write_text(f"{PASSWORD}\n")
        gateway.cli("queue", "retry", "--all")
        wait_until(postfix.mails, "the delivery")
        wait_until(lambda: f"sasl_method=SCRAM-SHA-256, sasl_username={NAME}" in postfix.log, "the line in its log")
        gateway.stop()
    places = [path for path in gateway.folder.rglob("*") if path.is_file() and path.name != "password"]
    assert gateway.log in places
    for secret in (PASSWORD, WRONG):
        for hidden in (secret, b64encode(secret.encode()).decode(), b64encode(f"\0{NAME}\0{secret}".encode()).decode()):
            assert hidden not in shown
            assert [path for path in places if hidden.encode() in path.read_bytes()] == []


def test_each_mechanism_of_postfix(authority, smarthost, tmp_path):
    mechanisms = {"sha": "SCRAM-SHA-1", "cram": "CRAM-MD5", "plain": "PLAIN", "login": "LOGIN"}
    with ExitStack() as stack:
        servers = {name: smarthost(mechanism) for name, mechanism in mechanisms.items()}
        with ThreadPoolExecutor(len(servers)) as threads:  # their starts take a while
            list(threads.map(stack.enter_context, servers.values()))
        gateway = stack.enter_context(gateway_with(tmp_path / "us", authority, PASSWORD, **servers))
        send(gateway, *(f"ben@{name}.example" for name in mechanisms))
        for name, mechanism in mechanisms.items():
            wait_until(servers[name].mails, f"the delivery after {mechanism}")
            line = f"sasl_method={mechanism}, sasl_username={NAME}"
            wait_until(lambda line=line, name=name: line in servers[name].log, "the line in its log")
