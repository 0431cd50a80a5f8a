"""Real processes on loopback: the gateway under twistd, and the neighbours it talks to."""

import os
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from mailgw.admin.client import Daemon
from mailgw.testing.ports import free_port

BIN = Path(sys.executable).parent
PATIENCE = 60.0  # seconds until something that must happen counts as not happening; only reached by a fault


def wait_until(condition, what, patience=PATIENCE):
    """Poll until the condition gives something true, and give that."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        result = condition()
        if result:
            return result
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen within {patience} s")


def answers(port):
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(4)[:3] == b"220"
    return False


def refuses(port):
    """Whether nobody listens there any more: not even a client in the queue of who is about to end is heard."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        pass
    return False


def below(pid):
    """The processes that a process has started, and theirs."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with suppress(OSError):
                stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(stat[1]), []).append(int(entry))
    found = list(parents.get(pid, []))
    for one in found:
        found += parents.get(one, [])
    return found


def is_at_work(pid):
    """Whether the process is there; one that has ended and waits to be seen by its parent is not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


class Gateway:
    """``twistd mailgw`` with a configuration; a context manager that leaves no process behind."""

    before = ()  # a command that runs the command after it: env, prlimit

    def __init__(self, folder, configuration, port):
        self.folder, self.port = folder, port
        self.file = folder / "mailgw.toml"
        self.file.write_text(configuration)
        self.log = folder / "log"
        self.process = None

    def launch(self):
        """Start it without waiting for anything."""
        command = [*self.before, BIN / "twistd", "-n", "--pidfile=", f"--logfile={self.log}", "mailgw", "--config", self.file]
        self.process = subprocess.Popen(command, cwd=self.folder, stderr=subprocess.PIPE)

    def start(self):
        self.launch()
        wait_until(lambda: answers(self.port) or self.process.poll() is not None, "the greeting")
        assert self.process.poll() is None, self.process.stderr.read().decode()
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def cli(self, *words):
        command = [BIN / "mailgw", "--config", self.file, *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    def ask(self, operation, **arguments):
        """One of the operations of the admin socket."""
        with Daemon(self.folder / "state" / "admin.sock") as daemon:
            return daemon.ask(operation, **arguments)

    def waiting(self):
        """How many recipients are in the queue."""
        total = self.ask("queue_stats")["total"]
        return total["waiting"] + total["held"]

    def client(self):
        return smtplib.SMTP("127.0.0.1", self.port, timeout=PATIENCE)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process is not None:
            self.process.stderr.close()


CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
shutdown_grace = "5s"
{server}
[listen.mx]
kind = "relay"
endpoint = "tcp:{port}:interface=127.0.0.1"
max_commands = 100000
{listen}
[domains]
ours = ["example.org"]
[[permit]]
on = "mx"
to = "@ours"
{rest}
"""


def gateway_in(folder, rest, server="", listen=""):
    """Make a gateway; ``rest`` is the end of its configuration: routes and gateways."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    return Gateway(folder, CONFIGURATION.format(port=port, rest=rest, server=server, listen=listen), port)


def need(*programs):
    """Skip where a program is missing, with its name as the reason."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = [shutil.which(program, path=path) for program in programs]
    for program, where in zip(programs, found, strict=True):
        if where is None:
            pytest.skip(f"{program} is not installed")
    return found[0] if len(found) == 1 else found


class SmtpSink:
    """A next hop in a thread that keeps what it takes; ``verdict(command, argument)`` may give another reply.

    It is also asked about "greeting", about "body", where "drop" hangs up in the middle, and about ".", the end. ``keep`` gets each
    message, (sender, recipients, content), before its 250 is said; without it they are in ``messages``.
    """

    def __init__(self, verdict=lambda command, argument: None, lmtp=False, keep=None):
        self.verdict, self.lmtp = verdict, lmtp
        self.messages = []
        self._keep = keep or self.messages.append
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with suppress(OSError), connection, connection.makefile("rwb") as stream:
            self._talk(stream)

    def _talk(self, stream):
        def say(reply):
            stream.write(reply.encode() + b"\r\n")

        greeting = self.verdict("greeting", "") or "220 sink.example ESMTP"
        say(greeting)
        stream.flush()
        if not greeting.startswith("220"):
            return
        sender, recipients = None, []
        for line in stream:
            verb, _, argument = line.decode().strip().partition(" ")
            verb = verb.upper()
            other = self.verdict(verb, argument)
            if verb in ("MAIL", "RSET"):
                sender, recipients = None, []
            if other == "drop":
                return
            if other:
                say(other)
            elif verb in ("EHLO", "LHLO"):
                say("250-sink.example\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 ENHANCEDSTATUSCODES")
            elif verb == "MAIL":
                sender = argument.partition("<")[2].partition(">")[0]
                say("250 2.1.0 ok")
            elif verb == "RCPT" and sender is None:
                say("503 5.5.1 MAIL first")
            elif verb == "RCPT":
                recipients.append(argument.partition("<")[2].partition(">")[0])
                say("250 2.1.5 ok")
            elif verb == "DATA":
                if not recipients:
                    say("554 5.5.1 no recipients")
                    stream.flush()
                    continue
                say("354 go")
                stream.flush()
                if self.verdict("body", "") == "drop":
                    return
                lines = []
                for text in stream:
                    if text == b".\r\n":
                        break
                    lines.append(text[1:] if text.startswith(b".") else text)
                else:
                    return  # the client went away in the middle: nothing was sent
                final = [self.verdict(".", one) or "250 2.0.0 taken" for one in (recipients if self.lmtp else [""])]
                taken = [one for one, reply in zip(recipients, final * len(recipients), strict=False) if reply.startswith("250")]
                if taken:
                    self._keep((sender, taken, b"".join(lines)))
                sender, recipients = None, []
                for reply in final:
                    say(reply)
            elif verb == "QUIT":
                say("221 2.0.0 bye")
                stream.flush()
                return
            else:
                say("250 2.0.0 ok")
            stream.flush()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # Else the thread that waits in accept() takes connections of whoever gets the same descriptor next.
        self.listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self.listener.close()


def mails(maildir):
    """The messages of a Maildir, as bytes."""
    return [path.read_bytes() for path in sorted((maildir / "new").glob("*"))] if (maildir / "new").is_dir() else []
