"""What real TLS connections prove: the same channel binding on both sides, and whose certificate it is."""

import pytest
import trustme
from OpenSSL import SSL
from twisted.internet.task import Clock

from mailgw.receive.channel import channel_of
from mailgw.testing.handshake import shake_hands
from mailgw.tls import ServerTls
from mailgw.values.secret import Secret

# Twisted makes its contexts of pyOpenSSL's objects, which pyOpenSSL would rather not have.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    authority, stranger = trustme.CA(), trustme.CA()
    server = authority.issue_cert("mx.example.org")
    server.private_key_pem.write_to_path(folder / "key.pem")
    server.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, by in (("ours", authority), ("theirs", stranger)):
        client = by.issue_cert("anna@example.org", "laptop.example.org")
        client.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.pem")
    return folder


def handshake(folder, version=SSL.TLS1_3_VERSION, certificate=None, ask=True, ca="ca.pem"):
    """The server's and the client's side of a TLS connection in memory."""
    tls = ServerTls(folder / "cert.pem", Secret(path=folder / "key.pem"), Clock(), ask, folder / ca if ca else None)
    return shake_hands(tls, None, version, folder / certificate if certificate else None)


def test_tls_1_3_has_an_exporter(folder):
    server, client = handshake(folder)
    assert channel_of(server).bindings == {"tls-exporter": client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")}
    other, _ = handshake(folder)
    assert channel_of(other).bindings != channel_of(server).bindings


def test_tls_1_2_has_its_finished_message(folder):
    server, client = handshake(folder, SSL.TLS1_2_VERSION)
    assert channel_of(server).bindings == {"tls-unique": client.get_finished()}


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    ("certificate", "ask", "ca", "names"),
    [
        pytest.param("ours.pem", True, "ca.pem", ("anna@example.org", "laptop.example.org"), id="signed by whom we trust"),
        pytest.param("theirs.pem", True, "ca.pem", (), id="signed by a stranger"),
        pytest.param("ours.pem", True, None, (), id="we trust nobody"),
        pytest.param(None, True, "ca.pem", None, id="none shown"),
        pytest.param("ours.pem", False, None, None, id="not asked"),
    ],
)
def test_certificates(folder, version, certificate, ask, ca, names):
    server, _ = handshake(folder, version, certificate, ask, ca)
    shown = channel_of(server).certificate
    if names is None:
        assert shown is None
        return
    digest = server.get_peer_certificate().digest("sha256").decode()
    assert shown.fingerprint == digest.replace(":", "").lower()
    assert shown.names == names


def test_authorities_that_cannot_be_read(folder):
    with pytest.raises(ValueError, match=r"key\.pem cannot be read: no certificates in PEM form"):
        ServerTls(folder / "cert.pem", Secret(path=folder / "key.pem"), Clock(), True, folder / "key.pem")


def test_new_authorities_are_read(folder):
    clock = Clock()
    path = folder / "changing.pem"
    path.write_bytes((folder / "ca.pem").read_bytes())
    tls = ServerTls(folder / "cert.pem", Secret(path=folder / "key.pem"), clock, True, path)
    before = tls.getContext()
    path.with_suffix(".new").write_bytes((folder / "ca.pem").read_bytes())
    path.with_suffix(".new").rename(path)
    clock.advance(2)
    assert tls.getContext() is not before
