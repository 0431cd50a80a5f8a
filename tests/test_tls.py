"""Which certificate a client gets: real handshakes in memory."""

from datetime import UTC, datetime, timedelta

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from OpenSSL import SSL
from twisted.internet.task import Clock

from mailgw.receive.channel import channel_of
from mailgw.testing.handshake import meet, shake_hands
from mailgw.tls import ServerTls, facts_of, is_covered, names_of
from mailgw.values.secret import Secret

# Twisted makes its contexts of pyOpenSSL's objects, which pyOpenSSL would rather not have.
pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL")

VERSIONS = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
NAMES = {
    "mx": ("mx.example.org", "mail.example.org"),
    "brand": ("mail.brand.example",),
    "any": ("*.example.net", "*.brand.example"),
    "one": ("shop.example.net",),
}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def folder(tmp_path, authority):
    for name, hosts in NAMES.items():
        certify(tmp_path, authority, name, *hosts)
    for name, by in (("ours", authority), ("theirs", trustme.CA())):
        by.cert_pem.write_to_path(tmp_path / f"{name}-ca.pem")
        by.issue_cert("anna@example.org").private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{name}.pem")
    return tmp_path


def certify(folder, authority, name, *hosts, until=None):
    issued = authority.issue_cert(*hosts, key_type=trustme.KeyType.ECDSA, not_after=until)
    issued.private_key_and_cert_chain_pem.write_to_path(folder / f"{name}.new")
    (folder / f"{name}.new").rename(folder / name)


def server_tls(folder, *names, clock=None, asking=(), others=()):
    """The certificates of a listener that names these [tls.NAME]; ``asking``: those that ask clients for theirs, by whose CA."""
    clock = clock or Clock()
    first, *rest = names
    authorities = dict(asking)
    others = [server_tls(folder, name, clock=clock, asking=asking) for name in rest]
    ca = folder / authorities[first] if authorities.get(first) else None
    return ServerTls(folder / first, Secret(path=folder / first), clock, first in authorities, ca, others)


def shown(client):
    """Which of the certificates the client has seen."""
    names = names_of(client.get_peer_certificate().to_cryptography())
    return next(name for name, hosts in NAMES.items() if names == set(hosts))


@VERSIONS
@pytest.mark.parametrize(
    ("name", "certificate"),
    [
        pytest.param(None, "mx", id="no name"),
        pytest.param(b"mx.example.org", "mx", id="the first"),
        pytest.param(b"mail.example.org", "mx", id="another name of the first"),
        pytest.param(b"mail.brand.example", "brand", id="another"),
        pytest.param(b"MAIL.Brand.Example", "brand", id="case counts for nothing"),
        pytest.param(b"shop.example.net", "one", id="its own name before a wildcard"),
        pytest.param(b"other.example.net", "any", id="wildcard"),
        pytest.param(b"a.b.example.net", "mx", id="a wildcard is one label"),
        pytest.param(b"example.net", "mx", id="a wildcard is not nothing"),
        pytest.param(b"*.example.net", "mx", id="a wildcard is no name"),
        pytest.param(b"brand.example", "mx", id="nobody's"),
        pytest.param(b"mail.br\xe4nd.example", "mx", id="no name of a host"),
        pytest.param(b"..", "mx", id="dots"),
        pytest.param(b"x" * 255, "mx", id="long"),
    ],
)
def test_the_name_picks_the_certificate(folder, name, certificate, version):
    server, client = shake_hands(server_tls(folder, *NAMES), name, version)
    assert shown(client) == certificate
    assert server.get_servername() == name


def test_one_certificate_is_for_all_names(folder):
    for name in (None, b"mx.example.org", b"mail.brand.example"):
        assert shown(shake_hands(server_tls(folder, "brand"), name)[1]) == "brand"


@VERSIONS
def test_the_chain_is_that_of_the_certificate(folder, authority, version):
    between = authority.create_child_ca()
    certify(folder, between, "brand", *NAMES["brand"])
    _, client = shake_hands(server_tls(folder, "mx", "brand"), b"mail.brand.example", version)
    assert shown(client) == "brand"
    assert len(client.get_peer_cert_chain()) == 2


@VERSIONS
@pytest.mark.parametrize("name", [b"mx.example.org", b"mail.brand.example"], ids=["first", "second"])
def test_channel_bindings(folder, name, version):
    server, client = shake_hands(server_tls(folder, "mx", "brand"), name, version)
    if version == SSL.TLS1_3_VERSION:
        expected = {"tls-exporter": client.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")}
    else:
        expected = {"tls-unique": client.get_finished()}
    assert channel_of(server).bindings == expected


ASK = {"mx": "ours-ca.pem", "brand": "theirs-ca.pem", "any": None}


@VERSIONS
@pytest.mark.parametrize(
    ("name", "certificate", "names"),
    [
        pytest.param(None, "ours.pem", ("anna@example.org",), id="the first believes its authority"),
        pytest.param(None, "theirs.pem", (), id="the first does not believe that of the second"),
        pytest.param(b"mail.brand.example", "theirs.pem", ("anna@example.org",), id="the second believes its authority"),
        pytest.param(b"mail.brand.example", "ours.pem", (), id="the second does not believe that of the first"),
        pytest.param(b"mail.brand.example", None, None, id="the second does not demand one"),
        pytest.param(b"x.example.net", "ours.pem", (), id="the third believes nobody"),
        pytest.param(b"shop.example.net", "ours.pem", None, id="the fourth does not ask"),
    ],
)
def test_certificates_of_clients(folder, name, certificate, names, version):
    tls = server_tls(folder, *NAMES, asking=ASK.items())
    server, _ = shake_hands(tls, name, version, folder / certificate if certificate else None)
    proof = channel_of(server).certificate
    assert (proof and proof.names) == names


def test_the_second_may_ask_where_the_first_does_not(folder):
    tls = server_tls(folder, "one", "mx", asking=ASK.items())
    for name, names in ((b"shop.example.net", None), (b"mx.example.org", ("anna@example.org",))):
        server, _ = shake_hands(tls, name, certificate=folder / "ours.pem")
        proof = channel_of(server).certificate
        assert (proof and proof.names) == names


@VERSIONS
def test_sessions_are_not_resumed_under_another_name(folder, version):
    # Else what a client has proved under one name would count under the other.
    tls = server_tls(folder, "mx", "brand", asking=ASK.items())
    _, client = shake_hands(tls, b"mx.example.org", version, folder / "ours.pem")
    context = client.get_context()
    server, again = SSL.Connection(tls.getContext()), SSL.Connection(context)
    again.set_session(client.get_session())
    again.set_tlsext_host_name(b"mail.brand.example")
    meet(server, again)
    assert shown(again) == "brand"
    assert channel_of(server).certificate.names == ()


@pytest.mark.parametrize("which", ["mx", "brand"])
def test_each_is_read_again(folder, authority, which):
    clock = Clock()
    tls = server_tls(folder, "mx", "brand", clock=clock)
    name = NAMES[which][0].encode()

    def serial():
        return shake_hands(tls, name)[1].get_peer_certificate().to_cryptography().serial_number

    before = serial()
    certify(folder, authority, which, *NAMES[which])
    assert serial() == before
    clock.advance(2)
    after = serial()
    assert after != before
    assert shown(shake_hands(tls, name)[1]) == which
    (folder / which).write_text("half of a certificate")
    clock.advance(2)
    assert serial() == after


def expires(folder, authority, name, until):
    certify(folder, authority, name, *NAMES[name], until=until)
    return until.timestamp()


def test_when_it_expires(folder, authority):
    clock, end = Clock(), datetime(2050, 1, 2, 3, 4, 5, tzinfo=UTC)
    at = expires(folder, authority, "brand", end)
    tls = server_tls(folder, "mx", "brand", clock=clock)
    first, second = tls.several
    assert second.until() == at
    assert first.until() not in (at, 0.0)
    # Nobody has to connect for a renewal to be seen.
    at = expires(folder, authority, "brand", end + timedelta(days=90))
    clock.advance(2)
    assert second.until() == at
    (folder / "brand").write_text("half of a certificate")
    clock.advance(2)
    assert second.until() == at


def test_a_chain_expires_with_its_first_certificate_that_does(folder, authority):
    end = datetime(2050, 1, 2, tzinfo=UTC)
    expires(folder, authority, "mx", end + timedelta(days=90))
    expires(folder, authority, "brand", end)
    (folder / "mx").write_bytes((folder / "mx").read_bytes() + (folder / "brand").read_bytes())
    assert server_tls(folder, "mx").until() == end.timestamp()


def test_new_names_count_at_once(folder, authority):
    clock = Clock()
    tls = server_tls(folder, "mx", "brand", clock=clock)
    certify(folder, authority, "brand", "new.brand.example")
    clock.advance(2)
    _, client = shake_hands(tls, b"new.brand.example")
    assert names_of(client.get_peer_certificate().to_cryptography()) == {"new.brand.example"}
    assert shown(shake_hands(tls, b"mail.brand.example")[1]) == "mx"


def test_a_certificate_serves_several_listeners(folder):
    """The same one alone, and beside others."""
    clock = Clock()
    brand = server_tls(folder, "brand", clock=clock)
    both = ServerTls(folder / "mx", Secret(path=folder / "mx"), clock, others=[brand])
    assert shown(shake_hands(both, b"mail.brand.example")[1]) == "brand"
    assert shown(shake_hands(brand, b"mx.example.org")[1]) == "brand"


def test_what_policies_are_told(folder):
    tls = server_tls(folder, "mx", "brand")
    facts = facts_of(shake_hands(tls, b"Mail.Brand.Example")[0])
    assert (facts.version, facts.cipher, facts.server_name) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384", "mail.brand.example")
    for name in (None, b"two\r\nlines", b"sp ace", b"\xff"):
        assert facts_of(shake_hands(tls, name)[0]).server_name == ""


def issued(*extensions):
    """A certificate with the common name mx.example.org."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mx.example.org")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
    for one in extensions:
        builder = builder.add_extension(one, critical=False)
    return builder.sign(key, SHA256())


@pytest.mark.parametrize(
    ("extensions", "names"),
    [
        pytest.param((), set(), id="a common name is no host name"),
        pytest.param((x509.SubjectAlternativeName([x509.RFC822Name("a@b"), x509.DNSName("B.example")]),), {"b.example"}, id="host names"),
        pytest.param((x509.UnrecognizedExtension(x509.ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\x30\x05x"),), set(), id="malformed"),
    ],
)
def test_names_of_a_certificate(extensions, names):
    assert names_of(issued(*extensions)) == names


@pytest.mark.parametrize(
    ("host", "is_it"),
    [("mx.example.org", True), ("a.example.net", True), ("a.b.example.net", False), ("example.net", False), ("org", False), ("", False)],
)
def test_what_is_covered(host, is_it):
    assert is_covered(host, {"mx.example.org", "*.example.net"}) is is_it
