"""A small queue with its operations, and a daemon that answers on a real Unix socket without a reactor."""

import os
import shutil
import socket
import tempfile
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from attrs import define, field
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport

from mailgw.admin.operations import Operations
from mailgw.admin.signpost import Signpost
from mailgw.admin.socket import AdminProtocol
from mailgw.journal import Journal
from mailgw.policies.relay import Permit
from mailgw.receive.asking import Asked, Rules
from mailgw.routes.by_domain import ByDomain
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.storage.in_process import InProcessStore
from mailgw.testing import a_client, an_envelope, run
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import proceed, reject
from mailgw.values.delivery import Destination, Recipient
from mailgw.values.ledger import Selection, Settlement, State

NOW = 1_800_000_000.0
PRESENT = [("192.0.2.1", ""), ("192.0.2.200", "anna"), ("198.51.100.1", "anna"), ("198.51.100.2", "ben"), ("2001:db8:0:5::1", "")]
ONE = Content.of(b"From: ann@example.com\r\nSubject: One \x1b[31mred\r\n\r\nThe first.\r\n", b"Received: from somewhere\r\n")
TWO = Content.of(b"From: ben@example.com\r\nSubject: Two\r\n\r\nThe second.\r\n")


@define
class Notes:
    """An observer that remembers."""

    events: list = field(factory=list)

    def note(self, event):
        self.events.append(event)


class Users:
    def check_recipient(self, facts):
        return proceed() if facts.recipient.local_part == "dora" else reject("no such user here", enhanced="5.1.1")


async def fill(store):
    """Put three messages into a store.

    1: ann to dora (tried twice) and ed (never tried), gateway mailboxes; 2: ben to fay, held; 3: a bounce, being delivered.
    """
    mailboxes, internet = Destination("mailboxes"), Destination("internet", "example.net")
    one = await store.put(
        an_envelope("ann@example.com", arrived=NOW - 3 * 3600),
        ONE,
        [(Recipient(Address.parse("dora@example.org")), mailboxes), (Recipient(Address.parse("ed@Example.org")), mailboxes)],
    )
    dora, ed = one.parcels[0].queued
    settled = [
        Settlement(1, dora.number, State.WAITING, "451 4.4.1 connection refused", due=NOW + 600, attempts=2),
        Settlement(1, ed.number, State.WAITING, "", due=NOW - 60),
    ]
    await store.settle(settled)
    await store.put(
        an_envelope("ben@example.com", arrived=NOW - 60, session="held1"),
        TWO,
        [(Recipient(Address.parse("fay@example.net")), internet)],
        hold="looks odd \x9b31m",
    )
    await store.put(an_envelope("<>", arrived=NOW - 5), TWO, [(Recipient(Address.parse("ann@example.com")), internet)])


@define
class Bench:
    """Everything behind a daemon's operations."""

    store: InProcessStore = field(factory=InProcessStore)
    clock: Clock = field(factory=Clock)
    notes: Notes = field(factory=Notes)
    woken: list = field(factory=list)
    asked: list = field(factory=list)
    operations: Operations = field(init=False)

    def __attrs_post_init__(self):
        run(fill(self.store))
        self.clock.advance(NOW)
        routes = [
            Rule('to "@ours"', ByDomain(frozenset({"example.org"}), "mailboxes"), Users(), "mailgw.toml:7"),
            Rule("otherwise", Default("internet"), None, "mailgw.toml:9"),
        ]
        ours = Asked("permit to @ours", Permit(to=["example.org"], name="to @ours"))
        logged_in = Asked("permit authenticated", Permit(authenticated=True, name="logged in"))
        self.operations = Operations(
            desk=self.store,
            clock=self.clock,
            journal=Journal((self.notes,)),
            signpost=Signpost(
                Routing(routes, frozenset({"internet"})),
                {"mx": Rules(relay=(ours,)), "submission": Rules(relay=(ours, logged_in))},
                {"mx": "relay", "submission": "submission"},
            ),
            wake=lambda: self.woken.append(self.clock.seconds()),
            recover=self.recover,
            present=lambda: [a_client(ip=ip, login=login) for ip, login in PRESENT],
            condition=lambda: {
                "listeners": [{"name": "mx", "endpoint": "tcp:25", "sessions": 3}],
                "dispatcher": {"lanes": 1, "backed_off": [{"gateway": "internet", "until": NOW + 90}]},
                "resolver": {
                    "hits": 7,
                    "misses": 3,
                    "in_flight": 1,
                    "kept": 2,
                    "name_servers": {"192.0.2.53:53": {"questions": 4, "failed": 2}},
                },
                "faults": ["spf \x1b]0;title\x07"],
            },
        )

    async def recover(self, folder):
        """As if two messages lay there, and in "damaged-b" one that cannot be read."""
        self.asked.append(folder)
        left = 1 if len(self.asked) == 1 else 0
        unreadable = [{"message": 7, "why": "malformed \x9b31m"}] if folder == "damaged-b" and not left else []
        return {"recovered": 1, "unreadable": unreadable, "left": left}

    def states(self):
        """The recipients' states by address."""
        return {entry.address: entry.state.value for entry in run(self.store.find(Selection()))}


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def short_path():
    """A folder whose name fits into the 107 octets of a Unix socket's path, wherever pytest's own lies."""
    folder = Path(tempfile.mkdtemp(prefix="mailgw-"))
    yield folder
    shutil.rmtree(folder)


class Transport(StringTransport):
    """A transport that says where its octets go."""

    def __init__(self, connection):
        super().__init__()
        self.connection = connection

    def write(self, data):
        self.connection.sendall(data)


def serve(listening, operations):
    """Give each client the shipped protocol, one after the other, until the socket is closed."""
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        else:
            with suppress(OSError), connection:  # who has gone without his answer is not the last one
                protocol = AdminProtocol(operations, set())
                protocol.makeConnection(Transport(connection))
                while not protocol.transport.disconnecting and (chunk := connection.recv(65536)):
                    protocol.dataReceived(chunk)
                protocol.connectionLost()


@pytest.fixture
def daemon(bench, short_path, monkeypatch):
    """The path of a socket at which the bench's operations answer."""
    path = short_path / "admin.sock"
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(os.fspath(path))
    listening.listen()
    thread = threading.Thread(target=serve, args=(listening, bench.operations))
    thread.start()
    yield path
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()
    thread.join()
