"""Those who know accounts, on loopback, each in a folder of its own and ended with its test: Dovecot and OpenLDAP."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgw.testing.ports import free_port

NOBODY = 65534
PATIENCE = 30.0  # seconds, only reached by a fault


class Loop:
    """The real reactor, turned by hand."""

    def __init__(self):
        self.reactor = reactor

    def run(self, awaitable):
        """Drive it to its end."""
        results = []
        Deferred.fromCoroutine(awaitable).addBoth(results.append)
        self.until(lambda: results)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def until(self, done):
        """Turn until something holds."""
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "it does not come to an end"
            reactor.iterate(0.01)

    def settle(self):
        """See that nothing is left."""
        self.until(lambda: not reactor.getReaders()[1:] and not reactor.getDelayedCalls())


def program(name):
    """Where it is; the test is skipped where it is not."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Server:
    """A process with a folder; a context manager. It can be stopped and started again."""

    command = ()

    def __init__(self):
        self.user = {}
        self.folder = Path(tempfile.mkdtemp(prefix="neighbour"))
        self.folder.chmod(0o755)
        self.port = free_port()
        self.process = None

    def start(self):
        with (self.folder / "output").open("ab") as output:
            about = {"stdout": output, "stderr": output, "cwd": self.folder, "start_new_session": True, **self.user}
            self.process = subprocess.Popen(self.command, **about)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5):
                return self
            time.sleep(0.02)
        said = "".join(path.read_text() for name in ("output", "log") if (path := self.folder / name).exists())
        raise AssertionError(f"{self.command[0]} does not start:\n{said}")

    def stop(self):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            with suppress(ProcessLookupError):  # Dovecot's auth outlives its master for as long as somebody is connected
                os.killpg(self.process.pid, signal.SIGKILL)

    def __enter__(self):
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)


DOVECOT_CONF = """\
base_dir = {folder}/run
state_dir = {folder}/run
log_path = {folder}/log
protocols =
ssl = no
first_valid_uid = 1
auth_mechanisms = plain login cram-md5 scram-sha-1 scram-sha-256 digest-md5 anonymous
auth_failure_delay = 0
auth_verbose = yes
passdb {{
  driver = passwd-file
  args = {folder}/users
}}
userdb {{
  driver = static
  args = uid={nobody} gid={nobody} home={folder}
}}
service auth {{
  unix_listener {folder}/client {{
    mode = 0666
  }}
  inet_listener {{
    address = 127.0.0.1
    port = {port}
  }}
}}
"""


class DovecotAuth(Server):
    """Dovecot's service ``auth`` on a Unix socket and a port, for users with their passwords."""

    def __init__(self, **users):
        dovecot = program("dovecot")
        if os.geteuid() != 0:
            pytest.skip("only root can start Dovecot")
        super().__init__()
        (self.folder / "users").write_text("".join(f"{user}:{{PLAIN}}{password}\n" for user, password in users.items()))
        (self.folder / "dovecot.conf").write_text(DOVECOT_CONF.format(folder=self.folder, port=self.port, nobody=NOBODY))
        self.command = [dovecot, "-F", "-c", self.folder / "dovecot.conf"]


SLAPD_CONF = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
TLSCACertificateFile {folder}/ca.pem
TLSCertificateFile {folder}/own.pem
TLSCertificateKeyFile {folder}/own.key
allow bind_anon_cred
database mdb
suffix "dc=example,dc=org"
rootdn "cn=admin,dc=example,dc=org"
rootpw admins-secret
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=reader,dc=example,dc=org" read by anonymous auth by * none
"""

TREE = """\
dn: dc=example,dc=org
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: cn=reader,dc=example,dc=org
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: readers-secret

dn: ou=people,dc=example,dc=org
objectClass: organizationalUnit
ou: people

"""
PERSON = """\
dn: uid={uid},ou=people,dc=example,dc=org
objectClass: inetOrgPerson
uid: {uid}
cn: {uid}
sn: {sn}
mail: {uid}@example.org
userPassword: {password}

"""


class OpenLdap(Server):
    """slapd on two ports of its own: ``port`` with StartTLS, ``tls_port`` with TLS from the first octet."""

    def __init__(self, authority, **people):
        slapd, slapadd = program("slapd"), program("slapadd")
        super().__init__()
        self.tls_port = free_port()
        authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        issued = authority.issue_cert("127.0.0.1")
        issued.cert_chain_pems[0].write_to_path(str(self.folder / "own.pem"))
        issued.private_key_pem.write_to_path(str(self.folder / "own.key"))
        (self.folder / "data").mkdir()
        (self.folder / "slapd.conf").write_text(SLAPD_CONF.format(folder=self.folder))
        tree = TREE + "".join(PERSON.format(uid=uid, sn="Same", password=password) for uid, password in people.items())
        (self.folder / "tree.ldif").write_text(tree)
        if os.geteuid() == 0:  # it needs no rights, so it gets none
            for path in (self.folder, *self.folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
            self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []}
        done = subprocess.run(
            [slapadd, "-f", self.folder / "slapd.conf", "-l", self.folder / "tree.ldif"],
            capture_output=True,
            text=True,
            timeout=60,
            **self.user,
        )
        if done.returncode:
            pytest.skip(f"slapadd does not work here: {done.stderr.strip()[-300:]}")
        urls = f"ldap://127.0.0.1:{self.port} ldaps://127.0.0.1:{self.tls_port}"
        self.command = [slapd, "-d", "0", "-f", self.folder / "slapd.conf", "-h", urls]
