"""A listener with several certificates, under the real twistd: STARTTLS, TLS from the first byte, renewals and client certificates."""

import json
import re
import smtplib
import ssl
import subprocess
from base64 import b64encode

import pytest
import trustme
from cryptography import x509
from processes import PATIENCE, Gateway, need, wait_until

from mailgw.testing.ports import free_port
from mailgw.tls import names_of

ANNA = "anna@example.org"
HOSTS = {"mx": "mx.example.org", "brand": "mail.brand.example", "wild": "*.example.net"}
CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
shutdown_grace = "5s"
[tls.mx]
certificate = "mx.pem"
key = {{ file = "mx.pem" }}
client_ca = "ca.pem"
[tls.brand]
certificate = "brand.pem"
key = {{ file = "brand.pem" }}
client_ca = "ca.pem"
[tls.wild]
certificate = "wild.pem"
key = {{ file = "wild.pem" }}
client_ca = "ca.pem"
[accounts.certificates]
type = "certificates"
any_address = true
[listen.mx]
kind = "relay"
endpoint = ["tcp:{starttls}:interface=127.0.0.1", "tls:{tls}:interface=127.0.0.1"]
tls = ["mx", "brand"{more}]
accounts = "certificates"
[[permit]]
on = "mx"
to = "example.org"
[[route]]
otherwise = true
gateway = "bin"
[gateway.bin]
type = "discard"
"""


def certify(folder, authority, name):
    pem = authority.issue_cert(HOSTS[name], key_type=trustme.KeyType.ECDSA).private_key_and_cert_chain_pem
    pem.write_to_path(folder / "new")
    (folder / "new").rename(folder / f"{name}.pem")


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory, authority):
    folder = tmp_path_factory.mktemp("names")
    for name in HOSTS:
        certify(folder, authority, name)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert(ANNA).private_key_and_cert_chain_pem.write_to_path(folder / "anna.pem")
    ports = {"starttls": free_port(), "tls": free_port()}
    made = Gateway(folder, CONFIGURATION.format(**ports, more=""), ports["starttls"])
    made.ports = ports
    with made:
        yield made


def trusting(gateway):
    context = ssl.create_default_context(cafile=gateway.folder / "ca.pem")
    context.load_cert_chain(gateway.folder / "anna.pem")
    return context


class Named(smtplib.SMTP):
    """A client that asks for another name than the address that it dials."""

    def __init__(self, port, name, context):
        super().__init__("127.0.0.1", port, timeout=PATIENCE)
        self._host = name
        self.starttls(context=context)


class NamedAtOnce(smtplib.SMTP_SSL):
    def __init__(self, port, name, context):
        self._name = name
        super().__init__("127.0.0.1", port, timeout=PATIENCE, context=context)

    def _get_socket(self, host, port, timeout):
        self._host = self._name
        return super()._get_socket(host, port, timeout)


CLIENTS = {"starttls": Named, "tls": NamedAtOnce}


@pytest.mark.parametrize("way", CLIENTS)
@pytest.mark.parametrize("name", ["mx.example.org", "mail.brand.example"])
def test_a_client_that_verifies_gets_what_it_asks_for(gateway, way, name):
    with CLIENTS[way](gateway.ports[way], name, trusting(gateway)) as client:
        assert ("DNS", name) in client.sock.getpeercert()["subjectAltName"]
        client.ehlo("c.example")
        assert client.esmtp_features["auth"].split() == ["EXTERNAL"]
        assert client.docmd("AUTH", f"EXTERNAL {b64encode(ANNA.encode()).decode()}") == (235, b"2.7.0 authenticated")
        client.sendmail(ANNA, ["ben@example.org"], "Subject: x\r\n\r\nx\r\n")


@pytest.mark.parametrize("way", CLIENTS)
def test_who_asks_for_a_name_that_is_not_ours_gets_the_first(gateway, way):
    context = trusting(gateway)
    context.check_hostname = False
    with CLIENTS[way](gateway.ports[way], "elsewhere.example", context) as client:
        assert ("DNS", "mx.example.org") in client.sock.getpeercert()["subjectAltName"]


def shown(gateway, way, *words):
    """The first certificate that openssl is shown."""
    command = [need("openssl"), "s_client", "-connect", f"127.0.0.1:{gateway.ports[way]}", *words]
    command += ["-starttls", "smtp"] if way == "starttls" else []
    done = subprocess.run(command, input="QUIT\n", capture_output=True, text=True, timeout=PATIENCE)
    pem = re.search(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", done.stdout, re.DOTALL)
    assert pem, done.stdout + done.stderr
    return x509.load_pem_x509_certificate(pem[0].encode())


@pytest.mark.parametrize("way", CLIENTS)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl(gateway, way, version):
    assert names_of(shown(gateway, way, version, "-noservername")) == {"mx.example.org"}
    assert names_of(shown(gateway, way, version, "-servername", "mail.brand.example")) == {"mail.brand.example"}


@pytest.mark.parametrize("name", ["mx", "brand"])
def test_a_renewed_certificate_is_shown_without_a_reload(gateway, authority, name):
    words = ("-servername", HOSTS[name])
    before = shown(gateway, "tls", *words).serial_number
    certify(gateway.folder, authority, name)
    wait_until(lambda: shown(gateway, "tls", *words).serial_number != before, "the use of the new certificate")
    assert f"certificate {gateway.folder}/{name}.pem read again" in gateway.log.read_text()


def test_the_records_say_the_name(gateway):
    with Named(gateway.ports["starttls"], "mail.brand.example", trusting(gateway)) as client:
        client.sendmail(ANNA, ["who@example.org"], "Subject: x\r\n\r\nx\r\n")

    def recorded():
        lines = [line for path in (gateway.folder / "state" / "records").iterdir() for line in path.read_text().splitlines()]
        return [json.loads(line) for line in lines if "who@example.org" in line]

    [record, *_] = wait_until(recorded, "the record")
    assert re.fullmatch(r"TLSv1\.3 \S+ for mail\.brand\.example", record["client"]["tls"])


def test_a_reload_adds_a_certificate(gateway):
    assert names_of(shown(gateway, "tls", "-servername", "a.example.net")) == {"mx.example.org"}
    gateway.file.write_text(CONFIGURATION.format(**gateway.ports, more=', "wild"'))
    assert "[listen.mx] tls: mx, brand -> mx, brand, wild" in gateway.ask("reload")["changes"]
    assert names_of(shown(gateway, "tls", "-servername", "a.example.net")) == {"*.example.net"}
    assert gateway.cli("check").returncode == 0
