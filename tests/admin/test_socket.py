"""The protocol of the admin socket, in memory and over a real Unix socket."""

import json
import os
import socket
import stat
import subprocess
import sys
import threading
from contextlib import contextmanager

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactor, StringTransport
from twisted.python.failure import Failure

from mailgw.admin.client import Daemon, NoAnswer, NotRunning, Refused
from mailgw.admin.socket import AdminProtocol, AdminSocket, SocketInUse
from mailgw.testing import run


@pytest.fixture
def connected(bench):
    return connect(bench.operations)


def connect(operations):
    protocol = AdminProtocol(operations, set())
    protocol.makeConnection(StringTransport())
    return protocol


def heard(protocol):
    return [json.loads(line) for line in protocol.transport.value().splitlines()]


def request(number, operation="queue_list", **arguments):
    return json.dumps({"id": number, "operation": operation, "arguments": arguments}).encode() + b"\n"


class Slow:
    """Operations that answer when they are told to."""

    def __init__(self):
        self.asked = []

    async def perform(self, operation, arguments):
        answer = Deferred()
        self.asked.append(answer)
        return await answer


def test_an_answer_carries_its_question_s_id(connected):
    connected.dataReceived(request("seven", "queue_show", message=2))
    [answer] = heard(connected)
    assert answer["id"] == "seven"
    assert answer["answer"]["sender"] == "ben@example.com"


@pytest.mark.parametrize("cut", ["whole", "byte by byte"])
def test_many_requests_are_answered_in_order(connected, cut):
    said = request(1, selection={"state": "held"}) + b"nonsense\n" + request(3, "queue_show", message=99) + request(4, "queue_stats")
    for part in [said] if cut == "whole" else [said[i : i + 1] for i in range(len(said))]:
        connected.dataReceived(part)
    answers = heard(connected)
    assert [answer["id"] for answer in answers] == [1, None, 3, 4]
    assert ["error" in answer for answer in answers] == [False, True, True, False]


@pytest.mark.parametrize(
    ("line", "kind", "text"),
    [
        (b"", "bad-request", "a request must be one JSON object on one line"),
        (b"\xff\xfe", "bad-request", "a request must be one JSON object on one line"),
        (b"{" * 5000, "bad-request", "a request must be one JSON object on one line"),
        (b"[" * 60000, "bad-request", "a request must be one JSON object on one line"),
        (b"[]", "bad-request", "a request must be a JSON object"),
        (b"{}", "bad-request", 'a request must have an "operation"'),
        (b'{"operation": 5}', "bad-request", 'a request must have an "operation"'),
        (b'{"operation": "status", "arguments": []}', "bad-request", 'a request must have an "operation"'),
        (b'{"operation": "perform"}', "bad-request", "there is no operation"),
        (b'{"operation": "queue_list", "arguments": {"self": 1}}', "bad-request", "queue_list: "),
        (b'{"operation": "queue_show", "arguments": {"message": 99}}', "not-found", "there is no message 99"),
    ],
    ids=lambda value: value[:30] if isinstance(value, bytes) else "",
)
def test_a_bad_request_is_answered_and_hurts_nobody(connected, line, kind, text):
    connected.dataReceived(line + b"\n")
    connected.dataReceived(request(2, "queue_stats"))
    bad, good = heard(connected)
    assert bad["error"]["kind"] == kind
    assert bad["error"]["text"].startswith(text)
    assert good["id"] == 2
    assert "answer" in good


@pytest.mark.parametrize("ended", [True, False], ids=["a line", "without an end"])
def test_a_line_that_is_too_long_is_answered_and_ends_the_connection(connected, ended):
    before = request(1, "queue_stats")
    connected.dataReceived(before + b"x" * (AdminProtocol.MAX_LENGTH + 1) + (b"\n" + request(2) if ended else b""))
    first, second = heard(connected)
    assert first["id"] == 1
    assert second["error"]["text"] == "a request must not be longer than 65536 octets"
    assert connected.transport.disconnecting
    assert connected.transport.producer is None


def test_the_longest_line_is_taken(connected):
    line = request(1, "queue_stats").rstrip()
    connected.dataReceived(line + b" " * (AdminProtocol.MAX_LENGTH - len(line)) + b"\n")
    assert "answer" in heard(connected)[0]


def test_nothing_is_read_while_a_request_is_worked_on():
    slow = Slow()
    protocol = connect(slow)
    protocol.dataReceived(request(1) + request(2))
    assert len(slow.asked) == 1
    assert protocol.transport.producerState == "paused"
    slow.asked[0].callback({"first": 1})
    assert len(slow.asked) == 2
    assert protocol.transport.producerState == "paused"
    slow.asked[1].callback({"second": 2})
    assert protocol.transport.producerState == "producing"
    assert heard(protocol) == [{"id": 1, "answer": {"first": 1}}, {"id": 2, "answer": {"second": 2}}]


def test_a_client_that_does_not_read_gets_no_more_answers_until_it_does():
    slow = Slow()
    protocol = connect(slow)
    protocol.dataReceived(request(1) + request(2))
    protocol.pauseProducing()
    slow.asked[0].callback({})
    assert len(slow.asked) == 1
    assert protocol.transport.producerState == "paused"
    protocol.resumeProducing()
    assert len(slow.asked) == 2
    slow.asked[1].callback({})
    assert protocol.transport.producerState == "producing"


def test_a_client_that_leaves_early_is_forgotten():
    slow, everybody = Slow(), set()
    protocol = AdminProtocol(slow, everybody)
    protocol.makeConnection(StringTransport())
    protocol.dataReceived(request(1) + request(2))
    protocol.connectionLost(Failure(ConnectionDone()))
    slow.asked[0].callback({})
    assert heard(protocol) == []
    assert len(slow.asked) == 1
    assert everybody == set()


def test_a_thousand_requests_at_once(connected):
    connected.dataReceived(b"".join(request(number, "queue_show", message=99) for number in range(1000)))
    assert [answer["id"] for answer in heard(connected)] == list(range(1000))


# ── The socket in the file system ──


@contextmanager
def started(path, operations=None):
    service = AdminSocket(path, operations, MemoryReactor())
    service.startService()
    yield service
    run(service.stopService())


def test_the_folder_is_made_for_us_alone(short_path):
    with started(short_path / "run" / "admin.sock") as service:
        assert stat.S_IMODE((short_path / "run").stat().st_mode) == 0o700
        [(address, _, _, mode, want_pid)] = service._reactor.unixServers
        assert (address, mode, want_pid) == (str(short_path / "run" / "admin.sock"), 0o600, 0)


def test_a_stale_socket_is_replaced(short_path):
    path = short_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(os.fspath(path))
    assert path.exists()
    with started(path):
        assert not path.exists()  # the memory reactor makes none


def test_a_living_socket_is_left_alone(short_path):
    path = short_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(os.fspath(path))
        living.listen()
        with pytest.raises(SocketInUse, match="a running daemon answers at"), started(path):
            pass
    assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_left_alone(short_path, kind):
    path = short_path / "admin.sock"
    make = {"file": path.touch, "folder": path.mkdir, "link": lambda: path.symlink_to(short_path / "elsewhere")}
    make[kind]()
    with pytest.raises(SocketInUse, match="is no socket; it is left alone"), started(path):
        pass
    assert os.path.lexists(path)


# ── The client, against odd daemons ──


@contextmanager
def odd(path, *said):
    """A listener that reads one request and says something."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        listening.listen()
        with Daemon(path, timeout=0.2) as daemon:
            connection, _ = listening.accept()
            with connection:
                for part in said:
                    connection.sendall(part)
                if said:
                    connection.shutdown(socket.SHUT_WR)
                yield daemon


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ((b"hello\n",), "what came is no answer"),
        ((b"[]\n",), "what came is no answer"),
        ((b"{}\n",), "what came is no answer"),
        ((b"5\n",), "what came is no answer"),
        ((b'{"error": {}}\n',), "what came is no answer"),
        ((b'{"answer": {}}',), "the connection was closed before the answer came"),
        ((), "no answer within 0.2 seconds"),
    ],
)
def test_the_client_survives_odd_daemons(short_path, said, text):
    with odd(short_path / "admin.sock", *said) as daemon, pytest.raises(NoAnswer) as caught:
        daemon.ask("status")
    assert str(caught.value).endswith(text)


def test_an_answer_may_come_in_pieces(short_path):
    with odd(short_path / "admin.sock", b'{"answer": ', b'{"a": 1}}', b"\n") as daemon:
        assert daemon.ask("status") == {"a": 1}


@pytest.mark.parametrize("kind", ["missing", "dead", "missing folder"])
def test_nobody_there(short_path, kind):
    path = short_path / ("no/admin.sock" if kind == "missing folder" else "admin.sock")
    if kind == "dead":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(os.fspath(path))
    with pytest.raises(NotRunning):
        Daemon(path)


def test_a_path_that_is_too_long(short_path):
    with pytest.raises(NoAnswer, match="too long"):
        Daemon(short_path / ("x" * 120))


def test_the_client_asks_the_protocol(daemon):
    with Daemon(daemon) as asking:
        assert asking.ask("queue_show", message=2)["sender"] == "ben@example.com"
        assert len(asking.ask("queue_list", selection={})["entries"]) == 4
        with pytest.raises(Refused, match="there is no message 99") as caught:
            asking.ask("queue_show", message=99)
    assert caught.value.kind == "not-found"


# ── A real reactor in a process of its own ──

PROGRAM = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred
sys.path.insert(0, sys.argv[2])
from conftest import Bench
from mailgw.admin.socket import AdminSocket

service = AdminSocket(Path(sys.argv[1]), Bench().operations, reactor)
service.startService()
print("ready", flush=True)

def stop(_):
    done = service.stopService()
    done.addCallback(lambda _: print("stopped", flush=True))
    done.addCallback(lambda _: reactor.stop())

class Ending:
    def doRead(self): sys.stdin.readline(); reactor.removeReader(self); stop(None)
    def fileno(self): return 0
    def connectionLost(self, reason): pass
    def logPrefix(self): return "stdin"

reactor.addReader(Ending())
reactor.run()
"""


def flood(path, number):
    """Ask much more than fits into any buffer before reading the first answer; give the ids of the answers."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(os.fspath(path))
        connection.settimeout(60)
        asking = threading.Thread(target=connection.sendall, args=[b"".join(request(n, "queue_show", message=1) for n in range(number))])
        asking.start()
        with connection.makefile("rb") as answers:
            ids = [json.loads(answers.readline())["id"] for _ in range(number)]
        asking.join()
        return ids


def test_round_trip_through_a_real_reactor(short_path):
    path = short_path / "run" / "admin.sock"
    here = os.path.dirname(__file__)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, os.fspath(path), here], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Daemon(path) as one, Daemon(path) as two:
            assert two.ask("queue_hold", selection={"messages": [1]}) == {"recipients": 2}
            assert one.ask("queue_stats")["total"]["held"] == 3
        assert flood(path, 3000) == list(range(3000))
        with pytest.raises(SocketInUse), started(path):
            pass
        with Daemon(path) as idle:
            process.stdin.write("\n")
            process.stdin.flush()
            assert process.stdout.readline() == "stopped\n"
            with pytest.raises(NoAnswer):
                idle.ask("status")
        assert process.wait(60) == 0
        assert not path.exists()
    finally:
        process.kill()
        process.communicate()


class Keeper:
    """Says which descriptors came, and whether they are open."""

    async def perform(self, operation, arguments):
        came = arguments.get("descriptors", ())
        return {"came": came, "inheritable": [os.get_inheritable(one) for one in came]}


def is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def test_descriptors_are_an_argument_and_are_closed_with_the_answer():
    protocol = connect(Keeper())
    ours, theirs = os.pipe()
    os.set_inheritable(theirs, True)
    for descriptor in (ours, theirs):
        protocol.fileDescriptorReceived(descriptor)
    protocol.dataReceived(request(1, "take"))
    protocol.dataReceived(request(2, "take"))
    first, second = heard(protocol)
    assert first["answer"] == {"came": [ours, theirs], "inheritable": [False, False]}
    assert second["answer"] == {"came": [], "inheritable": []}
    assert not is_open(ours)
    assert not is_open(theirs)


def test_descriptors_cannot_be_named():
    protocol = connect(Keeper())
    protocol.dataReceived(request(1, "take", descriptors=[0]))
    assert heard(protocol)[0]["error"] == {
        "kind": "bad-request",
        "text": "descriptors are handed over beside a request, not named in it",
    }


def test_descriptors_that_nobody_asks_about_are_closed():
    protocol = connect(Keeper())
    ours, theirs = os.pipe()
    protocol.fileDescriptorReceived(theirs)
    protocol.connectionLost(Failure(ConnectionDone()))
    assert not is_open(theirs)
    os.close(ours)
