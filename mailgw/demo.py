"""A safe gateway to look at: on loopback only, with a certificate of its own, keeping everything in one folder."""

import re
import tomllib
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from secrets import token_hex

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from mailgw.login.schemes import make

__all__ = ["how_to", "prepare"]

USER = "me@example.org"
_BESIDE = "password"  # the file with it

CONFIGURATION = """\
# The demo: a complete configuration, safe to play with. Change it and start again, or remove this folder to begin anew.

[server]
hostname = "mx.example.org"
state    = "."                                # the queue lies in this folder

[tls.default]
certificate = "certificate.pem"               # made by the demo for itself
key         = { file = "key.pem" }

[domains]
ours = ["example.org"]

# ── Who can log in ──
[accounts.people]
type = "password-file"
path = "users"                                # mailgw account add people ben@example.org

# ── Where mail comes in: loopback only ──
[listen.mx]
kind     = "relay"
endpoint = "tcp:2525:interface=127.0.0.1"     # is the port taken? any other will do, here and below
line_endings = "fix"                          # curl and shell scripts send bare LF; a real MX refuses them
[listen.submission]
kind     = "submission"                       # always authenticated, always TLS
endpoint = "tcp:2587:interface=127.0.0.1"
starttls = "require"
accounts = "people"

# ── Who may send where: everybody to us, who has logged in anywhere ──
[[permit]]
on = "mx"
to = "@ours"
[[permit]]
on = "submission"
authenticated = true

# ── Where mail goes ──
[[route]]
to      = "@ours"
gateway = "mailboxes"
[[route]]
otherwise = true
gateway   = "outbox"                          # what would leave this machine

[gateway.mailboxes]
type = "maildir"
path = "mail/{local_part}"
[gateway.outbox]
type = "maildir"
path = "outbox"
"""

_HOW_TO = """\

mailgw demo: relay on 127.0.0.1:{mx}, submission on 127.0.0.1:{submission}, everything in {folder}/

  Send a message:   curl smtp://127.0.0.1:{mx}/client.example --mail-from me@example.com --mail-rcpt you@example.org -T README.md
               or   swaks --server 127.0.0.1:{mx} --tls --from me@example.com --to you@example.org
  Read it:          cat {folder}/mail/you/new/*
  Try to relay:     swaks --server 127.0.0.1:{mx} --from me@example.com --to you@elsewhere.example
  Log in:           swaks --server 127.0.0.1:{submission} --tls --auth PLAIN --auth-user {user} --auth-password {password} \\
                          --from {user} --to you@elsewhere.example
                    and see {folder}/outbox/new/*
  Ask:              {mailgw} status; {mailgw} route you@example.org; {mailgw} queue list
  Change it:        {folder}/mailgw.toml

"""


def prepare(folder: Path) -> Path:
    """Make what is missing of the demo in ``folder``, and give the path of its configuration. Raises OSError."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "certificate.pem").exists() or not (folder / "key.pem").exists():
        _make_certificate(folder, datetime.now(UTC))
    if not (folder / "users").exists():
        _make_account(folder)
    configuration = folder / "mailgw.toml"
    if not configuration.exists():
        configuration.write_text(CONFIGURATION)
    return configuration


def how_to(folder: Path, mailgw: Path) -> str:
    """What to try with the demo in ``folder``; ``mailgw`` is the path of the command."""
    beside = folder / _BESIDE
    password = beside.read_text().strip() if beside.exists() else "..."
    return _HOW_TO.format(folder=folder, mailgw=mailgw, user=USER, password=password, **_ports(folder / "mailgw.toml"))


def _ports(configuration: Path) -> dict[str, str]:
    # Of the demo as it stands there: who had to change them is not to be sent elsewhere.
    listeners = tomllib.loads(configuration.read_text()).get("listen", {})
    endpoints = {name: str(listeners.get(name, {}).get("endpoint", "")) for name in ("mx", "submission")}
    return {name: found[1] if (found := re.search(r"tcp:(\d+)", text)) else "..." for name, text in endpoints.items()}


def _make_account(folder: Path) -> None:
    # In clear beside the account, so that the next start can show it, too: it opens nothing but this demo.
    password = token_hex(6)
    for name, text in ((_BESIDE, password), ("users", f"{USER}:{make('scram-sha-256', password)}")):
        path = folder / name
        path.touch(mode=0o600)
        path.write_text(f"{text}\n")


def _make_certificate(folder: Path, now: datetime) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mx.example.org")])
    names = [x509.DNSName("mx.example.org"), x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=3650))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    secret = folder / "key.pem"
    secret.touch(mode=0o600)
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
