"""When certificates expire, as the real twistd tells Prometheus and the log: of one process and of several workers."""

import re
import urllib.request
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from processes import PATIENCE, gateway_in, wait_until

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

SOON = datetime.now(UTC).replace(microsecond=0) + timedelta(days=5)
LATER = SOON + timedelta(days=400)

REST = """
[tls.default]
certificate = "default.pem"
key = {{ file = "default.pem" }}
[tls.brand]
certificate = "brand.pem"
key = {{ file = "brand.pem" }}
[listen.lan]
kind = "relay"
endpoint = "tcp:{lan}:interface=127.0.0.1"
starttls = "never"
[[permit]]
on = "lan"
to = "@ours"
[[route]]
otherwise = true
gateway = "boxes"
[gateway.boxes]
type = "maildir"
path = "boxes"
[admin]
metrics = "tcp:{metrics}:interface=127.0.0.1"
"""


def certify(folder, authority, name, until):
    issued = authority.issue_cert(f"{name}.example.org", key_type=trustme.KeyType.ECDSA, not_after=until)
    issued.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.new")
    (folder / f"{name}.new").rename(folder / f"{name}.pem")


def told(port):
    """By listener and name of the certificate."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE) as answer:
        page = answer.read().decode()
    found = re.findall(r'^mailgw_certificate_not_after_timestamp_seconds\{listener="(\w+)",name="(\w+)"\} (\S+)$', page, re.MULTILINE)
    return {(listener, name): float(value) for listener, name, value in found}


@pytest.mark.parametrize("workers", [1, 2])
def test_what_is_about_to_expire(tmp_path, workers):
    folder, authority, metrics = tmp_path / "g", trustme.CA(), free_port()
    folder.mkdir()
    certify(folder, authority, "default", LATER)
    certify(folder, authority, "brand", SOON)
    text = REST.format(lan=free_port(), metrics=metrics)
    with gateway_in(folder, text, f"workers = {workers}", 'tls = ["default", "brand"]') as gateway:
        wait_until(lambda: len(told(metrics)) == 2, "the certificates in the metrics")
        assert told(metrics) == {("mx", "default"): LATER.timestamp(), ("mx", "brand"): SOON.timestamp()}
        line = f"brand.pem of [tls.brand] expires on {SOON:%Y-%m-%d}"
        wait_until(lambda: line in gateway.log.read_text(), "the warning")
        assert "expires" in gateway.cli("check").stderr
        assert re.search(r"^mx +brand +in 4d .*$", gateway.cli("status").stdout, re.MULTILINE)
        certify(folder, authority, "brand", LATER)
        wait_until(lambda: told(metrics)["mx", "brand"] == LATER.timestamp(), "the new certificate in the metrics")
        assert gateway.log.read_text().count(" expires on ") == 1
