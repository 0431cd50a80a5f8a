"""Name servers that answer, and those that fail, lie, say nothing or too much: real sockets, on loopback."""

import socket
import threading
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from random import Random

import pytest
from twisted.names import dns

from mailgw.admin.own_reactor import run
from mailgw.dns import servers as dns_servers
from mailgw.dns.resolver import Resolver
from mailgw.dns.servers import NameServers, ResolvConf
from mailgw.interfaces import Answer, LookupFailed

A = Answer((IPv4Address("192.0.2.1"),))


@pytest.fixture
def _impatience(monkeypatch):
    """For tests in which somebody says nothing; in all others the time is never up."""
    monkeypatch.setattr(dns_servers, "_PATIENCE", (0.5, 0.5))


impatient = pytest.mark.usefixtures("_impatience")


@pytest.fixture(autouse=True)
def _patience(monkeypatch):
    monkeypatch.setattr(dns_servers, "_PATIENCE", (20.0, 20.0))
    monkeypatch.setattr(dns_servers, "_LONGEST", 60.0)


def answer_to(octets, **more):
    """A good answer to a question, with changes."""
    asked = dns.Message()
    asked.fromStr(octets)
    said = dns.Message(more.pop("id", asked.id), answer=more.pop("answer", 1), rCode=more.pop("code", dns.OK), trunc=more.pop("trunc", 0))
    said.maxSize = 65535
    said.queries = more.pop("queries", asked.queries)
    name = asked.queries[0].name.name
    said.answers = more.pop("answers", [dns.RRHeader(name, dns.A, dns.IN, 300, dns.Record_A("192.0.2.1"))])
    return said.toStr()


def a_pair_of_sockets():
    """UDP and TCP with the same port; somebody else may have one of the two."""
    while True:
        udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
        try:
            udp.bind(("127.0.0.1", 0))
            tcp.bind(udp.getsockname())
        except OSError:
            udp.close()
            tcp.close()
            continue
        tcp.listen()
        return udp, tcp


class NameServer:
    """One in a thread: ``says(octets)`` gives the packets that follow a question; over TCP, ``streams(octets)`` gives octets."""

    def __init__(self, says, streams=None):
        self.udp, self.tcp = a_pair_of_sockets()
        self.where = self.udp.getsockname()
        self.asked = []
        self.says, self.streams = says, streams
        self.before = lambda octets, client: None
        self.threads = [threading.Thread(target=one) for one in (self.serve_udp, self.serve_tcp)]
        for thread in self.threads:
            thread.start()

    def serve_udp(self):
        while True:
            octets, client = self.udp.recvfrom(4096)
            if not octets:
                return
            self.asked.append(octets)
            self.before(octets, client)
            for packet in self.says(octets):
                self.udp.sendto(packet, client)

    def serve_tcp(self):
        while True:
            connection, _ = self.tcp.accept()
            with suppress(ConnectionError), connection:  # who has his answer may reset it
                head = connection.recv(2)
                if not head:
                    return
                octets = connection.recv(int.from_bytes(head, "big"))
                if self.streams is not None:
                    said = self.streams(octets)
                    connection.sendall(len(said).to_bytes(2, "big") + said)

    def stop(self):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.where)
        with socket.create_connection(self.where):
            pass
        for thread in self.threads:
            thread.join(60)
        self.udp.close()
        self.tcp.close()


@contextmanager
def serving(*scripts):
    found = [NameServer(*(script if isinstance(script, tuple) else (script,))) for script in scripts]
    try:
        yield found
    finally:
        for one in found:
            one.stop()


def lookup(where, name="example.org", times=1):
    asking = []

    async def work(reactor):
        asking.append(NameServers(lambda: where, reactor, Random(1)))
        resolver = Resolver(asking[0], reactor)
        for _ in range(times):
            resolver._kept.clear()
            answer = await resolver.lookup(name, "A")
        return answer

    return run(work), asking[0]


def good(octets):
    return [answer_to(octets)]


def silent(octets):
    return []


def failing(code):
    return lambda octets: [answer_to(octets, code=code, answers=[])]


def only_without_edns(octets):
    asked = dns.Message()
    asked.fromStr(octets)
    return [answer_to(octets, code=dns.EFORMAT, answers=[], queries=[]) if asked.additional else answer_to(octets)]


OTHER = [dns.Query(b"evil.example", dns.A, dns.IN)]
EVIL = [dns.RRHeader(b"example.org", dns.A, dns.IN, 300, dns.Record_A("203.0.113.66"))]
LIES = {
    "another number": lambda octets: [answer_to(octets, id=0, answers=EVIL), answer_to(octets)],
    "another question": lambda octets: [answer_to(octets, queries=OTHER, answers=EVIL), answer_to(octets)],
    "no answer at all": lambda octets: [answer_to(octets, answer=0, answers=EVIL), answer_to(octets)],
    "two questions": lambda octets: [answer_to(octets, queries=OTHER * 2, answers=EVIL), answer_to(octets)],
    "garbage": lambda octets: [b"", b"\0" * 5, b"\xff" * 600, octets[:-3], answer_to(octets)],
    "twice": lambda octets: [answer_to(octets), answer_to(octets, answers=EVIL)],
}


@pytest.mark.parametrize("lie", LIES.values(), ids=LIES)
def test_what_is_no_answer_to_our_question_is_not_believed(lie):
    with serving(lie) as [server]:
        assert lookup([server.where])[0] == A


def test_nobody_else_is_heard():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.1", 0))

        def forge(octets, client):
            stranger.sendto(answer_to(octets, answers=EVIL), client)

        with serving(good) as [server]:
            server.before = forge
            assert lookup([server.where])[0] == A


FAIL_OVER = {"silence": silent, "SERVFAIL": failing(dns.ESERVER), "REFUSED": failing(dns.EREFUSED)}


@impatient
@pytest.mark.parametrize("first", FAIL_OVER.values(), ids=FAIL_OVER)
def test_the_next_one_is_asked(first):
    with serving(first, good) as [bad, other]:
        assert lookup([bad.where, other.where])[0] == A
        assert (len(bad.asked), len(other.asked)) == (1, 1)


@impatient
def test_who_said_nothing_is_asked_last_for_a_while():
    with serving(silent, good) as [bad, other]:
        _, asking = lookup([bad.where, other.where], times=5)
        assert (len(bad.asked), len(other.asked)) == (1, 5)
        assert asking.condition() == {
            "{}:{}".format(*bad.where): {"questions": 1, "failed": 1},
            "{}:{}".format(*other.where): {"questions": 5, "failed": 0},
        }


def test_name_servers_that_were_never_asked_are_there_too():
    condition = NameServers(lambda: [("192.0.2.53", 53), ("2001:db8::53", 53)], None, Random(1)).condition()
    assert condition == {where: {"questions": 0, "failed": 0} for where in ("192.0.2.53:53", "[2001:db8::53]:53")}


def test_a_server_that_is_not_there():
    with serving(good) as [server]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unused:
            unused.bind(("127.0.0.1", 0))
            nowhere = unused.getsockname()
        assert lookup([nowhere, server.where])[0] == A


REASONS = {
    "silence": (silent, "no answer in time", 2),
    "SERVFAIL": (failing(dns.ESERVER), "the server failed", 1),
    "REFUSED": (failing(dns.EREFUSED), "the server refused", 1),
    "unknown": (failing(11), "error 11", 1),
}


@impatient
@pytest.mark.parametrize(("says", "why", "rounds"), REASONS.values(), ids=REASONS)
def test_when_nobody_can_say_it_is_try_later(says, why, rounds):
    with serving(says) as [server]:
        with pytest.raises(LookupFailed, match=f"example.org A: {why}"):
            lookup([server.where])
        assert len(server.asked) == rounds


@impatient
def test_a_refusal_says_more_than_silence():
    with serving(failing(dns.ESERVER), silent) as found, pytest.raises(LookupFailed, match="the server failed"):
        lookup([one.where for one in found])


def test_questions_say_how_much_fits_and_old_servers_are_asked_without():
    with serving(good) as [server]:
        lookup([server.where])
        assert server.asked[0][-11:-6] == b"\0\0\x29\x04\xd0"  # the root, OPT, 1232 octets
    with serving(only_without_edns) as [server]:
        assert lookup([server.where], times=3)[0] == A
        assert len(server.asked) == 4  # it is asked once to find out


def cut(octets):
    return [answer_to(octets, trunc=1, answers=[])]


def test_what_does_not_fit_is_asked_over_tcp():
    many = [dns.RRHeader(b"example.org", dns.A, dns.IN, 300, dns.Record_A(f"192.0.2.{number}")) for number in range(200)]
    with serving((cut, lambda octets: answer_to(octets, answers=many))) as [server]:
        assert len(lookup([server.where])[0].records) == 200


TCP_TROUBLE = {"hangs up": None, "nonsense": lambda octets: b"nonsense", "another number": lambda octets: answer_to(octets, id=0)}


@pytest.mark.parametrize("streams", TCP_TROUBLE.values(), ids=TCP_TROUBLE)
def test_trouble_over_tcp_is_the_next_servers_chance(streams):
    with serving((cut, streams), good) as [bad, other]:
        assert lookup([bad.where, other.where])[0] == A


@impatient
def test_all_rounds_together_are_bounded(monkeypatch):
    monkeypatch.setattr(dns_servers, "_LONGEST", 0.8)
    with serving(silent, silent, silent) as found:
        with pytest.raises(LookupFailed, match="no answer in time"):
            lookup([one.where for one in found])
        assert sum(len(one.asked) for one in found) == 2


class Still:
    def __init__(self):
        self.now = 0.0

    def seconds(self):
        return self.now


def test_resolv_conf_is_read_again(tmp_path):
    clock, path = Still(), tmp_path / "resolv.conf"
    servers = ResolvConf(path, clock)
    assert servers() == (("127.0.0.1", 53),)  # it is not there
    path.write_text("# a comment\nsearch example.org\nnameserver 192.0.2.53\nnameserver fe80::1%eth0\n nameserver nonsense\n")
    clock.now = 2.0
    assert servers() == (("192.0.2.53", 53), ("fe80::1", 53))
    path.unlink()
    clock.now = 4.0
    assert servers() == (("192.0.2.53", 53), ("fe80::1", 53))
