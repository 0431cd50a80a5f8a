"""A gateway with several workers, under the real twistd, and a load for it."""

import os
import smtplib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from processes import PATIENCE, gateway_in, wait_until

from mailgw.admin.client import Daemon, NoAnswer, NotRunning
from mailgw.storage.parts import NUMBERS

REST = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
retry = ["1s"]
"""
# Nothing listens there: mail waits.
WAITING = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "smarthost"
address = "127.0.0.1:{port}"
tls = "never"
retry = ["1h"]
"""


class Workers:
    """A gateway with several workers; a context manager."""

    def __init__(self, folder, rest=REST, workers=2, listen="", admin=""):
        self.gateway = gateway_in(folder, rest + f'[admin]\nsocket = "admin.sock"\n{admin}', f"workers = {workers}", listen)
        self.folder, self.file, self.port, self.log = self.gateway.folder, self.gateway.file, self.gateway.port, self.gateway.log

    def have(self, workers):
        text = self.file.read_text()
        assert "workers = " in text
        self.file.write_text("\n".join(f"workers = {workers}" if line.startswith("workers") else line for line in text.splitlines()))

    @property
    def parent(self):
        return self.gateway.process

    def ask(self, operation, **arguments):
        return self.ask_at("admin.sock", operation, **arguments)

    def ask_at(self, socket, operation, **arguments):
        with Daemon(self.folder / socket) as daemon:
            return daemon.ask(operation, **arguments)

    def status(self):
        try:
            return self.ask("status")
        except (NotRunning, NoAnswer):
            return {}

    def workers(self, state="ready"):
        """Their cards, once all are in that state."""
        found = self.status().get("workers", {})
        return found if found and all(one["state"] == state for one in found.values()) else None

    def all_ready(self):
        return wait_until(self.workers, "readiness of all workers")

    def send(self, text="x"):
        """One message on a connection of its own; gives its number in the queue."""
        with self.gateway.client() as client:
            client.ehlo("c.example")
            client.mail("a@example.com")
            client.rcpt("b@example.org")
            code, reply = client.data(f"Subject: {text}\r\n\r\n{text}\r\n")
            assert code == 250
            return int(reply.split()[-1])

    def send_to_all(self, parts):
        """Messages until all parts have one, several clients at the same time; gives all numbers."""
        numbers = []

        def send():
            with ThreadPoolExecutor(2 * parts) as threads:
                numbers.extend(threads.map(lambda _: self.send(), range(2 * parts)))
            return len({number // NUMBERS for number in numbers}) == parts

        wait_until(send, "mail for all")
        return numbers

    def entries(self):
        return self.ask("queue_list", selection={"limit": 1000})["entries"]

    def listed(self):
        return [entry["message"] for entry in self.entries()]

    def __enter__(self):
        self.gateway.start()
        self.all_ready()
        return self

    def __exit__(self, *_):
        self.gateway.__exit__()


def is_running(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return True
    return False


def load(port, acknowledged, stop, name, troubles=None):
    """Send message after message, and remember each that was acknowledged; where there are to be no ``troubles``, also those."""
    number = 0
    while not stop.is_set():
        try:
            with smtplib.SMTP("127.0.0.1", port, timeout=PATIENCE) as client:
                while not stop.is_set():
                    number += 1
                    subject = f"<{name}.{number}@load.example>"
                    client.sendmail("load@example.com", ["you@example.org"], f"Message-ID: {subject}\r\n\r\nx\r\n")
                    acknowledged.append(subject)
        except (OSError, smtplib.SMTPException) as problem:
            if troubles is not None:
                troubles.append(problem)
                return
