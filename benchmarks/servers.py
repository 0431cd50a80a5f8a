"""The servers that are measured: each a command and the files that it needs, made new in an empty folder."""

import os
import pwd
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

__all__ = ["SERVERS", "Server"]

_HERE = Path(__file__).parent
_BIN = Path(sys.executable).parent

_MAILGW = """\
[server]
hostname = "mx.example.org"
state = "state"
[listen.mx]
kind = "relay"
endpoint = "tcp:{port}:interface=127.0.0.1"
starttls = "never"
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
alias_maps =
alias_database =
{transport}
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
postlog unix-dgram n - n - 1 postlogd
"""


def _mailgw(folder: Path, port: int, sink: int | None) -> list[object]:
    gateway = 'type = "discard"' if sink is None else f'type = "smarthost"\naddress = "127.0.0.1:{sink}"\ntls = "never"'
    file = folder / "mailgw.toml"
    file.write_text(_MAILGW.format(port=port, gateway=gateway))
    return [_BIN / "twistd", "-n", "--pidfile=", f"--logfile={folder}/log", "mailgw", "--config", file]


def _bare(folder: Path, port: int, _: int | None) -> list[object]:
    return [sys.executable, _HERE / "bare_protocol.py", port, "--database", folder / "bare.db"]


def _postfix(folder: Path, port: int, sink: int | None) -> list[object]:
    transport = "default_transport = discard:" if sink is None else f"relayhost = [127.0.0.1]:{sink}"
    (folder / "main.cf").write_text(_POSTFIX.format(folder=folder, transport=transport))
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


def _always() -> str:
    return ""


def _postfix_missing() -> str:
    if _find_postfix() is None:
        return "it is not installed"
    return "" if os.getuid() == 0 else "it must be started as root"


@frozen
class Server:
    """One that is measured."""

    name: str
    command: Callable[[Path, int, int | None], list[object]]  # folder, port to listen on, port of the next hop or None: discard
    share: float  # of the messages of a turn, so that all take about as long
    relays: bool = True
    speaks_bdat: bool = True
    missing: Callable[[], str] = _always  # why it cannot be measured here


SERVERS = {
    server.name: server
    for server in (
        Server("bare", _bare, 1.0, relays=False, speaks_bdat=False),
        Server("mailgw", _mailgw, 0.5),
        Server("postfix", _postfix, 0.25, missing=_postfix_missing),
    )
}
