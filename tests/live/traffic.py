"""All kinds of clients of a busy day, as threads, and an operator."""

import random
import threading
from collections import Counter
from contextlib import suppress

from clients import Client, Lost, Refused, trusting
from letters import Books, letter

from mailgw.admin.client import Daemon

SENDER = "load@sender.example"
LOCAL = ("boxes", "hop", "nowhere")  # with .example.org, a gateway each
MiB = 1 << 20


class Traffic:
    """All who send, each in a thread of its own; ``done`` counts what they did, ``broken`` holds what they did not expect."""

    def __init__(self, gateway, books):
        self.gateway, self.books = gateway, books
        self.done, self.broken = Counter(), []
        self.stop = threading.Event()
        self._threads = []

    def every(self, seconds, action, times=1):
        """Have an action done again and again, by so many threads, each at its own pace."""
        for number in range(times):
            thread = threading.Thread(target=self._repeat, args=(f"{action.__name__}{number}", seconds, action))
            self._threads.append(thread)
            thread.start()

    def _repeat(self, name, seconds, action):
        dice, number = random.Random(), 0
        while not self.stop.wait(dice.random() * 2 * seconds):
            number += 1
            try:
                action(f"{name}.{number}", dice)
                self.done[action.__name__] += 1
            except Exception as problem:
                self.broken.append(f"{action.__name__}: {problem!r}")

    def end(self):
        self.stop.set()
        for thread in self._threads:
            thread.join()

    def send(self, client, name, size, domains, local=""):
        """A letter with one recipient at each of the domains; no two of all letters have a recipient in common."""
        name, content = letter(name, size)
        recipients = [f"{local}{name}.{n}@{domain}.example.org" for n, domain in enumerate(domains)]
        client.post(self.books, SENDER, recipients, content)
        self.done["messages"] += 1
        self.done["recipients"] += len(recipients)
        self.done["octets"] += len(content)

    # ── What there is in a day ──

    def stream(self, name, dice):
        with Client(self.gateway.port) as client:
            for number in range(25):
                domains = dice.choices(LOCAL, k=dice.choice([1, 1, 1, 2, 3]))
                self.send(client, f"{name}.{number}", int(dice.expovariate(1 / 8192)), domains)
                if self.stop.wait(0.02):
                    break

    def single(self, name, dice):
        with Client(self.gateway.port) as client:
            self.send(client, name, int(dice.expovariate(1 / 8192)), [dice.choice(LOCAL)])

    def encrypted(self, name, dice):
        with Client(self.gateway.port, tls=trusting()) as client:
            self.send(client, name, 4096, [dice.choice(LOCAL)])

    def big(self, name, dice):
        with Client(self.gateway.port) as client:
            self.send(client, name, 20 * MiB, [dice.choice(LOCAL)])

    def crowd(self, name, dice):
        with Client(self.gateway.port) as client:
            self.send(client, name, 4096, dice.choices(LOCAL, k=100))

    def program(self, name, dice):
        with Client(self.gateway.port) as client:
            self.send(client, name, 4096, ["program"])

    def bounce(self, name, dice):
        with Client(self.gateway.port) as client:
            name, content = letter(name, 4096)
            client.post(self.books, SENDER, [f"gone.{name}.0@hop.example.org", f"{name}.1@hop.example.org"], content)
            self.done["messages"] += 1
            self.done["recipients"] += 2

    def parked(self, name, dice):
        # The books know nothing of these: the operator drops them.
        with Client(self.gateway.port) as client:
            client.post(Books(), SENDER, [f"{name}@parked.example.org"], letter(name, 4096)[1])

    def stranger(self, name, dice):
        with Client(self.gateway.port) as client:
            for command in (f"RCPT TO:<{name}@elsewhere.example>", "RSET", "WHAT", f"VRFY {name}"):
                with suppress(Refused):
                    client.say(f"MAIL FROM:<{name}@sender.example>", "250")
                with suppress(Refused):
                    client.say(command, "25")

    def aborted(self, name, dice):
        size = dice.choice([1000, 300_000, 2 * MiB])
        name, content = letter(name, size)
        recipient = f"{name}@boxes.example.org"
        client = Client(self.gateway.port, tls=dice.choice([None, None, None, trusting()]))
        with suppress(Lost):
            how_far = dice.randrange(4)
            if how_far == 1:
                client.send(b"MAIL FROM:<" + name.encode())
            elif how_far > 1:
                client.begin(SENDER, [recipient])
                self.books.said("partial", [recipient])
                client.send(content[: dice.randrange(len(content) - 10)])
        dice.choice([client.abort, client.close])()

    def idle(self, name, dice):
        client = Client(self.gateway.port)
        try:
            if dice.random() < 0.5:
                client.begin(SENDER, [f"{name}@boxes.example.org"])
                client.send(b"Subject: I will think about it\r\n\r\n")
            if self.stop.wait(dice.random() * 4):
                return
            if dice.random() < 0.3:
                with suppress(Refused, Lost):
                    client.hear("421")  # its time is over
        finally:
            client.close()

    def operator(self, name, dice):
        with Daemon(self.gateway.folder / "state" / "admin.sock") as daemon:
            daemon.ask("status")
            daemon.ask("queue_stats")
            entries = daemon.ask("queue_list", selection={"limit": 100})["entries"]
            if entries:
                with suppress(Exception):  # it may be gone
                    daemon.ask("queue_show", message=entries[0]["message"])
            daemon.ask("route", address=f"{name}@hop.example.org")
            daemon.ask("queue_hold", selection={"domain": "hop.example.org"})
            daemon.ask("queue_release", selection={"state": "held"})
            daemon.ask("queue_retry", selection={"gateway": "hop"})
            daemon.ask("queue_drop", selection={"domain": "parked.example.org", "older_than": 3})

    def command(self, name, dice):
        words = dice.choice([("queue", "list"), ("queue", "stats"), ("status",), ("check",)])
        assert self.gateway.cli(*words).returncode == 0
