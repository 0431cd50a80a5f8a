"""How much is read at a time from a real socket."""

import socket
import struct
from contextlib import ExitStack
from fcntl import ioctl
from select import select
from termios import TIOCOUTQ

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactor

from mailgw.policies.relay import Permit
from mailgw.testing.server import MemoryServer

USUAL, CONTENT = 64 * 1024, 256 * 1024
LINE = b"a line of a message that is big\r\n"


def under_way(connected):
    """How many octets the other side does not have yet: tcp(7), SIOCOUTQ."""
    return struct.unpack("i", ioctl(connected, TIOCOUTQ, bytes(4)))[0]


class Wire:
    """A client's socket, and the server's at which we are the reactor."""

    def __init__(self, server, stack):
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self.client = stack.enter_context(socket.create_connection(listening.getsockname()))
        self.client.setblocking(False)
        accepted = stack.enter_context(listening.accept()[0])
        accepted.setblocking(False)
        protocol = server.factory.buildProtocol(IPv4Address("TCP", "192.0.2.99", 40000))
        self.transport = Connection(accepted, protocol, MemoryReactor())
        self.transport.protocol = protocol
        protocol.makeConnection(self.transport)
        self.widths = []  # of the reads

    def say(self, data):
        """Send it, and have it read as it comes."""
        while data:
            try:
                data = data[self.client.send(data) :]
            except BlockingIOError:
                self.read()
        self.read()
        return self.client.recv(USUAL)

    def read(self):
        """Read all that was sent, however long it is on its way, and have the answers arrive."""
        ours = self.transport.socket
        while under_way(self.client) or select([ours], [], [], 0)[0]:
            if select([ours], [], [], 0.001)[0]:
                self.widths.append(self.transport.bufferSize)
                assert self.transport.doRead() is None
        while under_way(ours):
            pass


@pytest.fixture
def wire(tmp_path):
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}), name="ours")], incoming=tmp_path)
    with ExitStack() as stack:
        wire = Wire(server, stack)
        wire.say(b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n")
        yield wire


def test_more_in_the_middle_of_a_big_message(wire):
    assert wire.say(b"DATA\r\n").startswith(b"354 ")
    assert wire.say(b"A: b\r\n\r\n" + LINE * 100_000 + b".\r\n") == b"250 2.0.0 queued as 1\r\n"
    assert max(wire.widths) == CONTENT


def test_as_usual_again_when_it_is_over(wire):
    wire.say(b"DATA\r\n")
    wire.say(b"A: b\r\n\r\n" + LINE * 100_000 + b".\r\n")
    wire.say(b"NOOP\r\n")
    assert wire.transport.bufferSize == USUAL


def test_as_usual_for_small_messages(wire):
    wire.say(b"DATA\r\n")
    assert wire.say(LINE * 1000 + b".\r\n") == b"250 2.0.0 queued as 1\r\n"
    assert set(wire.widths) == {USUAL}


def test_as_usual_for_commands(wire):
    octets = b"RCPT TO:<c@example.com>\r\n" * 3000
    assert wire.client.send(octets) == len(octets)
    assert select([wire.transport.socket], [], [], 5)[0]
    wire.transport.doRead()
    assert wire.transport.bufferSize == USUAL
