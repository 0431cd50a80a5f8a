"""The servers that are measured: each a command and the files that it needs, made new in an empty folder."""

import os
import pwd
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import quota
from attrs import Factory, fields_dict, frozen
from trustme import CA

from mailgw.config.model import Server as ServerTable
from mailgw.storage.memory_database import MemoryDatabase
from mailgw.storage.memory_sqlite import ROOM

__all__ = ["NAMES", "SERVERS", "Server", "Wish"]

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent

_MAILGW = """\
[server]
hostname = "mx.example.org"
state = "state"
shutdown_grace = "1s"
{server}
[listen.mx]
kind = "relay"
endpoint = "tcp:{port}:interface=127.0.0.1"
max_sessions = 20000
max_sessions_per_client = 20000
{listen}
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
{rest}
"""

_SIX = """\
[policy.lists]
type = "dnsbl"
zones = ["list.example.net", "allow.example.net*-3"]
[policy.reverse]
type = "reverse-dns"
[policy.helo]
type = "helo"
unknown = "reject"
[policy.spf]
type = "spf"
[policy.grey]
type = "greylist"
[policy.rate]
type = "rate-limit"
limit = "1000000 per minute"
"""

_NO_RECORDS = """\
[records]
keep = "never"
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


NAMES: Mapping[str, Mapping[str, list[str]]] = {
    "example.com": {"TXT": ['"v=spf1 mx include:_spf.example.com include:_spf.example.net -all"'], "MX": ["10 mx.example.com."]},
    "mx.example.com": {"A": ["192.0.2.1"]},
    "_spf.example.com": {"TXT": ['"v=spf1 ip4:192.0.2.0/28 ip4:198.51.100.0/24 ip6:2001:db8::/32 ~all"']},
    "_spf.example.net": {"TXT": ['"v=spf1 ip4:203.0.113.0/24 ip4:127.0.0.0/8 ~all"']},
    "client.example.com": {"A": ["127.0.0.1"], "TXT": ['"v=spf1 a -all"']},
    "1.0.0.127.in-addr.arpa": {"PTR": ["client.example.com."]},
}
"""What the DNS says about the clients of load.py: they pass everything."""


@frozen
class Wish:
    """What a case wants of a server besides mail."""

    sink: int | None = None  # the port of the next hop; None: discard
    tls: bool = False
    name_server: str = ""  # its address; it knows the names in `NAMES`


def _certificate(folder: Path) -> Path:
    """A key (P-256) and its certificate in one file."""
    file = folder / "pem"
    CA().issue_cert("mx.example.org").private_key_and_cert_chain_pem.write_to_path(str(file))
    return file


def _mailgw(folder: Path, port: int, wish: Wish, *, workers: int = 1, records: bool = True, policies: bool = False) -> list[object]:
    gateway = 'type = "discard"' if wish.sink is None else f'type = "smarthost"\naddress = "127.0.0.1:{wish.sink}"\ntls = "never"'
    listen = 'starttls = "never"'
    if wish.tls:
        file = _certificate(folder)
        listen = f'tls = "default"\n[tls.default]\ncertificate = "{file}"\nkey = {{ file = "{file}" }}'
    server = f"workers = {workers}" if workers > 1 else ""
    if policies:
        listen += '\npolicies = ["lists", "reverse", "helo", "spf", "grey", "rate"]'
        server += f'\nresolvers = ["{wish.name_server}"]'
        _make_known(folder / "state" / "memory.db")
    rest = ("" if records else _NO_RECORDS) + (_SIX if policies else "")
    file = folder / "mailgw.toml"
    file.write_text(_MAILGW.format(port=port, gateway=gateway, listen=listen, server=server, rest=rest))
    return [_BIN / "twistd", "-n", "--pidfile=", f"--logfile={folder}/log", "mailgw", "--config", file]


def _make_known(memory: Path) -> None:
    """Let the greylist know the network that load.py's clients come from, as if mail from there had come again."""
    memory.parent.mkdir()
    now = time.time()
    database = MemoryDatabase(memory, ROOM)
    database.transact([partial(database.remember, now, key="greylist:known 127.0.0.0/24", value="", lifetime=86400.0)], now, True)
    database.close()


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
_UNBOUND = {"a bound on its CPU": reason} if (reason := quota.missing()) else {}
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
        Server("mailgw", _mailgw, 0.5, _NO_WORKERS | _UNBOUND),
        Server("2 workers", partial(_mailgw, workers=2), 0.5, _NO_WORKERS | _UNBOUND),
        Server("no records", partial(_mailgw, records=False), 0.5),
        Server("six policies", partial(_mailgw, records=False, policies=True), 0.5),
        Server("policies and records", partial(_mailgw, policies=True), 0.5),
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
