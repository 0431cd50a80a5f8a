"""Real mail servers on loopback, each in a folder of its own and ended with its test: Postfix and Dovecot."""

import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from processes import PATIENCE, answers, below, is_at_work, mails, need, wait_until

from mailgw.testing.ports import free_port

NOBODY = 65534  # the user and group that own the mailboxes: both servers refuse to write mail as root

MAIN_CF = """\
compatibility_level = 3.6
config_directory = {folder}/etc
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = {folder}/log
maillog_file_prefixes = {folder}
myhostname = postfix.example
mynetworks = 127.0.0.0/8
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
alias_maps =
alias_database =
mydestination =
smtpd_recipient_restrictions = permit_mynetworks, reject
virtual_mailbox_domains = static:all
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = static:all/
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_minimum_uid = 1
smtp_host_lookup = native
{settings}
"""
# name type private unpriv chroot wakeup maxproc command
MASTER_CF = """\
127.0.0.1:{port} inet n - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 1 1 qmgr
rewrite unix - - n - - trivial-rewrite
proxymap unix - - n - - proxymap
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
smtp unix - - n - - smtp
virtual unix - n n - - virtual
error unix - - n - - error
retry unix - - n - - error
tlsmgr unix - - n 1000? 1 tlsmgr
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
"""


def need_root():
    """Skip where the servers could not start as they do on a real machine."""
    if os.geteuid() != 0:
        pytest.skip("only root can start Postfix and Dovecot")


class Neighbour:
    """A server with a folder that other users may walk through, which pytest's are not; a context manager."""

    command = ()  # starts it in the foreground

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="neighbour"))
        self.folder.chmod(0o755)
        (self.folder / "mail").mkdir()
        os.chown(self.folder / "mail", NOBODY, NOBODY)
        self.port = free_port()
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    @property
    def log(self):
        file = self.folder / "log"
        return file.read_text() if file.exists() else ""

    def __enter__(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(self.port) or self.process.poll() is not None, f"the greeting of {self.command[0]}")
            assert self.process.poll() is None
        except AssertionError as problem:
            log = self.log
            self.__exit__()
            raise AssertionError(f"{problem}\n{log}") from None
        return self

    @property
    def pid(self):
        return self.process.pid

    def __exit__(self, *_):
        at_work = below(self.process.pid)
        with suppress(OSError, ValueError):
            os.kill(self.pid, signal.SIGTERM)
        self.process.wait(PATIENCE)
        for pid in at_work:  # they may outlive their master, and write into the folder
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_at_work, at_work)), f"the end of all of {self.command[0]}")
        shutil.rmtree(self.folder)


class Postfix(Neighbour):
    """Takes mail for everybody into one Maildir, unless ``settings``, more lines of main.cf, say otherwise."""

    def __init__(self, settings=""):
        postfix = need("postfix")
        need_root()
        super().__init__()
        self.settings = settings
        self.etc = self.folder / "etc"
        self.command = [postfix, "-c", self.etc, "start-fg"]
        for name in ("etc", "queue", "data"):
            (self.folder / name).mkdir()
        shutil.chown(self.folder / "data", "postfix")

    def __enter__(self):
        (self.etc / "main.cf").write_text(MAIN_CF.format(folder=self.folder, nobody=NOBODY, settings=self.settings))
        (self.etc / "master.cf").write_text(MASTER_CF.format(port=self.port))
        return super().__enter__()

    @property
    def pid(self):
        # What was started is the shell script around the server.
        return int((self.folder / "queue" / "pid" / "master.pid").read_text())

    def mails(self):
        return mails(self.folder / "mail" / "all")


DOVECOT_CONF = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols = lmtp
ssl = no
first_valid_uid = 1
mail_location = maildir:{folder}/mail/%u
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256
passdb {{
  driver = passwd-file
  args = username_format=%Lu {folder}/users
}}
userdb {{
  driver = passwd-file
  args = username_format=%Lu {folder}/users
}}
service anvil {{
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
service auth {{
  unix_listener {folder}/auth {{
    mode = 0666
  }}
}}
service lmtp {{
  unix_listener {folder}/lmtp {{
    mode = 0666
  }}
  inet_listener lmtp {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


class Dovecot(Neighbour):
    """LMTP on TCP and on a Unix socket, with a Maildir for each of the users, who are given as addresses.

    With a ``password``, the same for all, others can ask who they are at the socket ``auth`` in its folder.
    """

    def __init__(self, *users, password=""):
        dovecot = need("dovecot")
        need_root()
        super().__init__()
        kept = f"{{PLAIN}}{password}" if password else ""
        lines = [f"{user}:{kept}:{NOBODY}:{NOBODY}::{self.folder}/mail/{user}\n" for user in users]
        (self.folder / "users").write_text("".join(lines))
        (self.folder / "dovecot.conf").write_text(DOVECOT_CONF.format(folder=self.folder, port=self.port))
        self.command = [dovecot, "-F", "-c", self.folder / "dovecot.conf"]

    @property
    def socket(self):
        return f"unix:{self.folder}/lmtp"

    def mails(self, user):
        return mails(self.folder / "mail" / user)
