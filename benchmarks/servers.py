"""The servers that are measured: each a command and the files that it needs, made new in an empty folder."""

import os
import pwd
import shutil
import sys
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from attrs import Factory, fields_dict, frozen
from trustme import CA

from mailgw.config.model import Server as ServerTable

__all__ = ["SERVERS", "Server", "Wish"]

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent

_MAILGW = """\
[server]
hostname = "mx.example.org"
state = "state"
{workers}
[listen.mx]
kind = "relay"
endpoint = "tcp:{port}:interface=127.0.0.1"
max_sessions = 20000
max_sessions_per_client = 20000
{tls}
[domains]
ours = ["example.org"]
[[permit]]
on = "mx"
to = "@ours"
[[route]]
otherwise = true
gateway = "next"
[gateway.next]
{gateway}
"""

_POSTFIX = """\
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = mx.example.org
mydestination =
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
mynetworks = 127.0.0.0/8
smtpd_relay_restrictions = permit_mynetworks, reject
smtpd_peername_lookup = no
smtp_tls_security_level = none
message_size_limit = 104857600
alias_maps =
alias_database =
{transport}
{tls}
"""

_POSTFIX_SERVICES = """\
127.0.0.1:{port} inet n - n - - smtpd
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
tlsmgr unix - - n 1000? 1 tlsmgr
postlog unix-dgram n - n - 1 postlogd
"""


@frozen
class Wish:
    """What a case wants of a server besides mail."""

    sink: int | None = None  # the port of the next hop; None: discard
    tls: bool = False


def _certificate(folder: Path) -> Path:
    """A key (P-256) and its certificate in one file."""
    file = folder / "pem"
    CA().issue_cert("mx.example.org").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


def _mailgw(folder: Path, port: int, wish: Wish, workers: int = 1) -> list[object]:
    gateway = 'type = "discard"' if wish.sink is None else f'type = "smarthost"\naddress = "127.0.0.1:{wish.sink}"\ntls = "never"'
    tls = 'starttls = "never"'
    if wish.tls:
        file = _certificate(folder)
        tls = f'tls = "default"\n[tls.default]\ncertificate = "{file}"\nkey = {{ file = "{file}" }}'
    several = f"workers = {workers}" if workers > 1 else ""
    file = folder / "mailgw.toml"
    file.write_text(_MAILGW.format(port=port, gateway=gateway, tls=tls, workers=several))
    return [_BIN / "twistd", "-n", "--pidfile=", f"--logfile={folder}/log", "mailgw", "--config", file]


def _python(script: str, folder: Path, port: int, wish: Wish) -> list[object]:
    tls = ["--certificate", _certificate(folder)] if wish.tls else []
    return [sys.executable, _HERE / script, port, "--database", folder / "queue.db", *tls]


def _postfix(folder: Path, port: int, wish: Wish) -> list[object]:
    transport = "default_transport = discard:" if wish.sink is None else f"relayhost = [127.0.0.1]:{wish.sink}"
    tls = "smtpd_tls_security_level = none"
    if wish.tls:
        tls = f"smtpd_tls_security_level = may\nsmtpd_tls_chain_files = {_certificate(folder)}"
    (folder / "main.cf").write_text(_POSTFIX.format(folder=folder, transport=transport, tls=tls))
    (folder / "master.cf").write_text(_POSTFIX_SERVICES.format(port=port))
    (folder / "spool").mkdir()
    (folder / "data").mkdir()
    account = pwd.getpwnam("postfix")
    os.chown(folder / "data", account.pw_uid, account.pw_gid)
    for above in (folder, *folder.parents):  # its processes, under their own account, must find their spool
        if above.stat().st_uid == os.getuid() and not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o011)
        if above.name.startswith("mailgw-benchmark-"):
            break
    return [_find_postfix(), "-c", folder, "start-fg"]


def _find_postfix() -> str | None:
    return shutil.which("postfix", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")


def _postfix_missing() -> str:
    if _find_postfix() is None:
        return "it is not installed"
    return "" if os.getuid() == 0 else "it must be started as root"


def _aiosmtpd_missing() -> str:
    return "" if find_spec("aiosmtpd") else "it is not installed"


@frozen
class Server:
    """One that is measured."""

    name: str
    command: Callable[[Path, int, Wish], list[object]]  # folder, port to listen on
    share: float  # of the messages of a turn, so that all take about as long
    lacks: Mapping[str, str] = Factory(dict)  # what a case may need, and why it is not there
    missing: Callable[[], str] = lambda: ""  # why it cannot be measured here


_NO_DELIVERY = "it delivers nothing"
_IN_MEMORY = "it holds whole messages in memory"
_NO_WORKERS = {} if "workers" in fields_dict(ServerTable) else {"workers": "[server] has no key workers"}

SERVERS = {
    server.name: server
    for server in (
        Server(
            "bare",
            partial(_python, "bare_protocol.py"),
            1.0,
            {"relaying": _NO_DELIVERY, "BDAT": "it does not know CHUNKING", "big messages": _IN_MEMORY},
        ),
        Server("mailgw", _mailgw, 0.5, _NO_WORKERS),
        Server("2 workers", partial(_mailgw, workers=2), 0.5, _NO_WORKERS),
        Server(
            "postfix",
            _postfix,
            0.25,
            {"crowds": "a process for each connection, 100 at most unless told otherwise"},
            _postfix_missing,
        ),
        Server(
            "aiosmtpd",
            partial(_python, "aiosmtpd_server.py"),
            0.1,
            {
                "relaying": _NO_DELIVERY,
                "BDAT": "it does not know CHUNKING",
                "PIPELINING": "it does not offer it",
                "big messages": _IN_MEMORY,
            },
            _aiosmtpd_missing,
        ),
    )
}
