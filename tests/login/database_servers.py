"""Real database servers on loopback, each in a folder of its own and ended with its test: PostgreSQL and MariaDB."""

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

from mailgw.testing.ports import free_port

NOBODY = 65534  # who runs them: PostgreSQL refuses root
PATIENCE = 30.0  # seconds


def program(name, *folders):
    """Where a program is; the test is skipped where it is not."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", *map(str, folders)])
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class DatabaseServer:
    """Can be stopped and started again."""

    ends_with = signal.SIGTERM
    dies_with = signal.SIGKILL  # at once, with all its processes, as in a power cut

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="database"))
        self.user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self.user:
            os.chown(self.folder, NOBODY, NOBODY)
        self.folder.chmod(0o755)
        self.process = None

    def prepare(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=self.folder, **self.user)
        if done.returncode:
            pytest.skip(f"{command[0]} does not work here: {done.stderr.strip()[-300:]}")

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder, **self.user)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end and self.process.poll() is None:
            with suppress(Exception):
                self.run("select 1")
                return self
            time.sleep(0.05)
        raise AssertionError(f"{self.command[0]} does not start:\n{(self.folder / 'log').read_text()}")

    def stop(self, abruptly=False):
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(self.dies_with if abruptly else self.ends_with)
            self.process.wait(PATIENCE)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)


class PostgreSql(DatabaseServer):
    """The user ``mailgw`` logs in with the password ``db-secret``, ``admin`` without."""

    ends_with = signal.SIGINT  # without waiting for clients
    dies_with = signal.SIGQUIT

    def __init__(self):
        postgres = Path(program("postgres", *Path("/usr/lib/postgresql").glob("*/bin")))
        super().__init__()
        initdb = program("initdb", postgres.parent, postgres.resolve().parent)
        data = self.folder / "data"
        self.prepare(initdb, "-D", str(data), "-U", "admin", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
        (data / "pg_hba.conf").write_text("local all admin trust\nlocal all all scram-sha-256\n")
        self.command = [str(postgres), "-D", str(data), "-k", str(self.folder), "-c", "listen_addresses=", "-F"]

    def run(self, *statements):
        import psycopg

        with psycopg.connect(host=str(self.folder), user="admin", dbname="postgres", autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @property
    def url(self):
        return f"postgresql://mailgw@/postgres?host={self.folder}"


class MariaDb(DatabaseServer):
    """The user ``mailgw`` logs in with the password ``db-secret``."""

    def __init__(self):
        server, install = program("mariadbd"), program("mariadb-install-db")
        super().__init__()
        data, self.socket = self.folder / "data", self.folder / "socket"
        self.port = free_port()
        common = ["--no-defaults", f"--datadir={data}", f"--tmpdir={self.folder}"]
        self.prepare(install, *common, "--auth-root-authentication-method=normal", "--skip-test-db")
        where = [f"--socket={self.socket}", "--bind-address=127.0.0.1", f"--port={self.port}", f"--pid-file={self.folder}/pid"]
        self.command = [server, *common, *where]

    def run(self, *statements):
        import pymysql

        socket.create_connection(("127.0.0.1", self.port), PATIENCE).close()
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True) as connection:
            for statement in statements:
                connection.cursor().execute(statement)

    @property
    def url(self):
        return f"mysql://mailgw@127.0.0.1:{self.port}/mail"
