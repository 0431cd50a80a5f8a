# ruff: noqa: N802  Twisted names its methods so.

import socket

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol

from mailgw.interfaces import StoreUnavailable
from mailgw.notify import ServiceManager
from mailgw.testing.network import Network
from mailgw.watchdog import Entrance, Unwell, Watchdog, where_to_dial


class Server(Protocol):
    """Says something, and answers QUIT; None: nothing at all."""

    greeting: bytes | None = b"220 mx.example.org ESMTP\r\n"
    goodbye = True

    def connectionMade(self):
        self.heard = b""
        if self.greeting is not None:
            self.transport.write(self.greeting)

    def dataReceived(self, data):
        self.heard += data
        if self.heard.endswith(b"QUIT\r\n") and self.goodbye:
            self.transport.write(b"221 2.0.0 bye\r\n")
            self.transport.loseConnection()


class Closing(Server):
    def connectionMade(self):
        super().connectionMade()
        self.transport.loseConnection()


def server(base=Server, **attributes):
    return Factory.forProtocol(type("Said", (base,), attributes))


async def answers():
    return None


async def fails():
    raise StoreUnavailable("the disk is gone")


def watchdog(network, manager=None, question=answers, **entrance):
    return Watchdog(
        manager=manager or ServiceManager(),
        entrances=[Entrance("mx", "here", **entrance)],
        question=question,
        condition=lambda: "1 listener",
        dialer=network,
        clock=network.clock,
    )


@pytest.mark.parametrize(
    "here",
    [
        pytest.param(server(), id="220"),
        pytest.param(server(greeting=b"220-mx\r\n220 mx ESMTP\r\n"), id="several lines"),
        pytest.param(server(greeting=b"220 " + b"x" * 20000 + b"\r\n"), id="a long line"),
        pytest.param(server(Closing, greeting=b"421 4.3.2 too many connections\r\n"), id="full"),
        pytest.param(server(Closing, greeting=b"554 5.7.1 go away\r\n"), id="refused by a policy"),
    ],
)
@pytest.mark.parametrize("step", [1, 65536], ids=["byte by byte", "whole"])
def test_a_listener_that_is_alive(here, step):
    network = Network({"here": here}, step=step)
    network.run(watchdog(network).look(10))
    assert network.open_connections == 0


@pytest.mark.parametrize(
    ("here", "problem"),
    [
        pytest.param(None, "Connection was refused by other side.", id="refuses"),
        pytest.param(server(Closing, greeting=b""), "closed the connection without a greeting", id="closes"),
        pytest.param(server(Closing, greeting=b"220-mx\r\n"), "closed the connection without a greeting", id="closes in the middle"),
        pytest.param(server(greeting=b"hello\r\n"), "said b'hello', which is no reply", id="no reply"),
        pytest.param(server(greeting=None), "does not answer", id="silent"),
        pytest.param(server(goodbye=False), "does not answer", id="silent after the greeting"),
    ],
)
def test_a_listener_that_is_not(here, problem):
    network = Network({"here": here})
    look = network.start(watchdog(network).look(10))
    network.clock.advance(10)
    with pytest.raises(Unwell) as raised:
        network.result(look)
    assert str(raised.value).strip(".") == f"listener mx at here: {problem}".strip(".")
    assert network.open_connections == 0


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        pytest.param(fails, "store: the disk is gone", id="fails"),
        pytest.param(Deferred, "store: does not answer", id="hangs"),
    ],
)
def test_a_store_that_is_unwell(question, problem):
    network = Network({"here": server()})
    look = network.start(watchdog(network, question=question).look(10))
    network.clock.advance(10)
    with pytest.raises(Unwell, match=f"^{problem}$"):
        network.result(look)


def test_what_a_load_balancer_would_say_comes_first():
    heard = []

    class Listening(Server):
        def connectionLost(self, reason):
            heard.append(self.heard)

    network = Network({"here": Factory.forProtocol(Listening)})
    network.run(watchdog(network, preface=b"PROXY UNKNOWN\r\n").look(10))
    assert heard == [b"PROXY UNKNOWN\r\nQUIT\r\n"]


class Manager:
    """A stand-in for systemd, with a socket of its own."""

    def __init__(self, folder):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(f"{folder}/notify")
        self.socket.setblocking(False)
        self.manager = ServiceManager(f"{folder}/notify", 60.0)

    def heard(self):
        news = []
        while True:
            try:
                news += self.socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return news


@pytest.fixture
def systemd(tmp_path):
    manager = Manager(tmp_path)
    yield manager
    manager.socket.close()


WELL = ["WATCHDOG=1", "STATUS=1 listener"]


def test_fed_while_all_is_well_and_not_while_it_is_not(systemd):
    network = Network({"here": server()})
    dog = watchdog(network, systemd.manager)
    dog.start()
    network.pump()
    assert systemd.heard() == WELL
    network.clock.advance(15)
    network.pump()
    assert systemd.heard() == WELL
    network.servers["here"] = server(greeting=None)
    network.clock.advance(15)
    network.pump()
    network.clock.advance(19)
    assert systemd.heard() == []
    network.clock.advance(1)
    network.pump()
    assert systemd.heard() == ["STATUS=Unwell: listener mx at here: does not answer"]
    # One bad round is forgiven: the next comes within the watchdog's time.
    network.servers["here"] = server()
    network.clock.advance(15)
    network.pump()
    assert systemd.heard() == WELL
    dog.stop()
    network.clock.advance(1000)
    assert systemd.heard() == []
    assert network.clock.getDelayedCalls() == []


def test_a_refusal_at_once_does_not_end_it(systemd):
    network = Network({})
    dog = watchdog(network, systemd.manager)
    dog.start()
    assert systemd.heard() == ["STATUS=Unwell: listener mx at here: Connection was refused by other side."]
    network.servers["here"] = server()
    network.clock.advance(15)
    network.pump()
    assert systemd.heard() == WELL
    dog.stop()


def test_stopped_in_the_middle_of_a_round_it_says_nothing_more(systemd):
    network = Network({"here": server(greeting=None)})
    dog = watchdog(network, systemd.manager)
    dog.start()
    dog.stop()
    network.pump()
    assert systemd.heard() == []
    assert network.open_connections == 0
    assert network.clock.getDelayedCalls() == []


def test_without_a_watchdog_nobody_is_visited():
    network = Network({"here": server()})
    dog = watchdog(network, ServiceManager("/run/nowhere"), question=lambda: succeed(None))
    dog.start()
    dog.stop()
    assert network.dialled == []


@pytest.mark.parametrize(
    ("address", "where"),
    [
        (IPv4Address("TCP", "0.0.0.0", 25), "127.0.0.1:25"),
        (IPv4Address("TCP", "192.0.2.1", 25), "192.0.2.1:25"),
        (IPv6Address("TCP", "::", 25), "[::1]:25"),
        (IPv6Address("TCP", "2001:db8::1", 25), "[2001:db8::1]:25"),
        (UNIXAddress("/run/mx"), "unix:/run/mx"),
    ],
    ids=["all", "one", "all, IPv6", "one, IPv6", "unix"],
)
def test_where_we_knock(address, where):
    assert where_to_dial(address) == where
