"""A network that misbehaves, around the real gateway: it stays small, goes on serving others, and mail waits with a reason."""

import resource
import socket
import ssl
import struct
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from random import Random

import pytest
import trustme
from OpenSSL import SSL
from processes import Gateway, SmtpSink, wait_until
from rude import Client, RudeDns, RudeHop, answering, flooding, saying

from mailgw.testing.ports import free_port

pytestmark = pytest.mark.live

MIB = 2**20
ENOUGH = 48 * MIB  # octets by which it may grow in any of these floods; the generous end of what was seen

CONFIGURATION = """\
[server]
hostname = "mx.example.org"
state = "state"
shutdown_grace = "1s"
resolvers = ["{dns}"]

[tls.default]
certificate = "chain.pem"
key = {{ file = "key.pem" }}

[listen.mx]
kind = "relay"
endpoint = "tcp:{mx}:interface=127.0.0.1"
max_sessions = {sessions}
aliases = "aliases"
[listen.hasty]
kind = "relay"
endpoint = ["tcp:{hasty}:interface=127.0.0.1", "tls:{hasty_tls}:interface=127.0.0.1"]
command_timeout = "1s"
data_timeout = "1s"
session_timeout = "2s"
[listen.other]
kind = "relay"
endpoint = ["tcp:{other}:interface=127.0.0.1", "tls:{other_tls}:interface=127.0.0.1"]
starttls = "offer"

[[permit]]
on = ["mx", "hasty", "other"]
to = ["example.org", ".example.org"]
{rest}
"""
TO_FILES = """
[[route]]
otherwise = true
gateway = "mailboxes"
[gateway.mailboxes]
type = "maildir"
path = "mail"
"""


def make(folder, rest=TO_FILES, dns="127.0.0.1:1", sessions=5000):
    """A gateway with listeners of several kinds; their ports are its attributes."""
    folder.mkdir(exist_ok=True)
    certificate = trustme.CA().issue_cert("mx.example.org", key_type=trustme.KeyType.RSA)
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in certificate.cert_chain_pems))
    certificate.private_key_pem.write_to_path(folder / "key.pem")
    (folder / "aliases").write_text("all: " + ", ".join(f"member{number}@example.org" for number in range(10_000)) + "\n")
    ports = {name: free_port() for name in ("mx", "hasty", "hasty_tls", "other", "other_tls")}
    gateway = Gateway(folder, CONFIGURATION.format(rest=rest, dns=dns, sessions=sessions, **ports), ports["other"])
    for name, port in ports.items():
        setattr(gateway, name, port)
    return gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with make(tmp_path_factory.mktemp("floods") / "gateway", sessions=wanted(1000)) as one:
        for _ in range(50):  # what is made once and kept
            with one.client() as client:
                client.sendmail("a@example.com", ["b@example.org"], b"Subject: x\r\n\r\nx\r\n")
        yield one


def wanted(number):
    """As many connections as the limit of open files leaves to us and to the gateway."""
    return min(number, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2)


def status(gateway, key):
    text = Path(f"/proc/{gateway.process.pid}/status").read_text()
    return int(text.split(f"{key}:")[1].split()[0]) * 1024


class Growth:
    """How much the gateway grows at most while the context lasts, in octets; and that it serves others meanwhile and after."""

    def __init__(self, gateway):
        self.gateway = gateway

    def __enter__(self):
        Path(f"/proc/{self.gateway.process.pid}/clear_refs").write_text("5")  # forget the peak so far
        self._before = status(self.gateway, "VmRSS")
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            serves(self.gateway)
            grown = status(self.gateway, "VmHWM") - self._before
            assert grown < ENOUGH, f"it grew by {grown / MIB:.1f} MiB"


def serves(gateway):
    """Somebody else gets a message through at another listener, and the operator an answer."""
    with gateway.client() as client:
        assert client.sendmail("a@example.com", ["b@example.org"], b"Subject: x\r\n\r\nx\r\n") == {}
    assert gateway.ask("status")


def queue(gateway):
    return gateway.ask("queue_list", selection={"limit": 1000})["entries"]


def sessions(gateway, listener="mx"):
    return gateway.ask("status")["listeners"][listener]["sessions"]


def all_gone(gateway, listener="mx"):
    wait_until(lambda: sessions(gateway, listener) == 0, "the end of all sessions")


# ── Floods of connections ──


def test_more_connections_than_there_is_room_for(gateway):
    most = wanted(1000)
    with ExitStack() as held, Growth(gateway):
        clients = [held.enter_context(Client(gateway.mx, f"127.1.{n // 250}.{n % 250 + 1}")) for n in range(most)]
        assert {client.hear()[:4] for client in clients} == {b"220 "}
        serves(gateway)
        for n in range(50):
            with Client(gateway.mx, f"127.2.0.{n + 1}") as late:
                assert late.hear() == b"421 4.3.2 too many connections, try again later\r\n"
        assert sessions(gateway) == most
    all_gone(gateway)
    with Client(gateway.mx) as client:
        assert client.hear().startswith(b"220 ")


def test_five_thousand_connections_from_one_address(gateway):
    with ExitStack() as held, Growth(gateway):
        heard = []
        for _ in range(wanted(5000)):
            client = Client(gateway.mx, "127.3.0.1")
            heard.append(client.hear()[:9])
            if heard[-1].startswith(b"220"):
                held.enter_context(client)
            else:
                client.close()
        assert heard.count(b"421 4.7.0") == len(heard) - 100
        serves(gateway)
        with Client(gateway.mx, "127.3.0.2") as neighbour:
            assert neighbour.hear().startswith(b"220")
    all_gone(gateway)
    wait_until(lambda: "turned away, the last from 127.3.0.1" in gateway.log.read_text(), "the line in the log")


def test_connections_that_come_and_go_at_once(gateway):
    with Growth(gateway):
        for n in range(2000):
            client = Client(gateway.mx, f"127.4.0.{n % 250 + 1}")
            # RST instead of FIN
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    all_gone(gateway)


# ── Floods of words ──

ENVELOPE = b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\n"
FLOODS = {
    "NOOP": (b"NOOP\r\n" * 100_000, b"421 4.7.0 too many commands without mail\r\n"),
    "bad commands": (b"NONSENSE\r\n" * 100_000, b"421 4.7.0 too many errors\r\n"),
    "recipients": (
        b"EHLO c\r\nMAIL FROM:<a@example.com>\r\n" + b"".join(b"RCPT TO:<r%d@example.org>\r\n" % n for n in range(100_000)),
        b"421 4.7.0 too many commands without mail\r\n",
    ),
    "a line without end": (b"x" * (16 * MIB), b"421 4.7.0 line is far too long\r\n"),
    "empty chunks": (ENVELOPE + b"BDAT 0\r\n" * 100_000, b"421 4.7.0 too many commands without mail\r\n"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_words_without_reading(gateway, flood):
    octets, last_words = FLOODS[flood]
    with Growth(gateway), Client(gateway.mx) as client:
        for start in range(0, len(octets), 256 * 1024):
            if not client.send(octets[start : start + 256 * 1024]):
                break  # it has hung up
        heard, count = client.rest()
        assert heard.endswith(last_words) or count == 0  # what was said can be lost where a reset overtakes it
        assert count < MIB
    all_gone(gateway)


def test_floods_that_do_not_end_starve_nobody_else(gateway):
    over = threading.Event()
    floods = [octets for octets, _ in FLOODS.values()]

    def flood(number):
        while not over.is_set():
            with suppress(OSError), Client(gateway.mx, f"127.7.0.{number + 1}") as client:
                client.send(floods[number % len(floods)][: 2 * MIB])
                client.rest()

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(10)]
    with Growth(gateway):
        for thread in threads:
            thread.start()
        try:
            for _ in range(8):
                serves(gateway)
        finally:
            over.set()
            for thread in threads:
                thread.join()
    all_gone(gateway)


def test_a_gigabyte_in_a_chunk_that_nobody_wants(gateway):
    with Growth(gateway), Client(gateway.mx) as client:
        client.send(ENVELOPE + b"BDAT 1073741824 LAST\r\n")
        block = (b"x" * 1022 + b"\r\n") * 1024
        sent = sum(client.send(block) for _ in range(1024))
        client.send(b"QUIT\r\n")
        heard, _ = client.rest()
        assert sent == 1024
        assert b"552 5.3.4 message is larger than this server takes\r\n" in heard


def test_a_client_that_does_not_read_a_big_answer(gateway):
    with Growth(gateway), Client(gateway.mx) as client:
        client.send(b"EHLO c\r\n" + b"EXPN all\r\n" * 900)  # 900 answers of some 300 KB
        wait_until(lambda: settled(gateway), "an end of the work")
    all_gone(gateway)


def settled(gateway):
    """Whether it has nothing to do: it used no CPU for a moment."""

    def used():
        fields = Path(f"/proc/{gateway.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    before = used()
    time.sleep(0.2)
    return used() - before <= 2


# ── Slow, and half there ──


@pytest.mark.parametrize(
    "begin",
    [b"", b"EHLO c\r\n", ENVELOPE, ENVELOPE + b"DATA\r\nhalf a line", b"BDAT 1000000 LAST\r\n"],
    ids=["greeting", "EHLO", "RCPT", "content", "refused chunk"],
)
def test_octet_by_octet(gateway, begin):
    with ExitStack() as held:
        clients = [held.enter_context(Client(gateway.hasty)) for _ in range(20)]
        for client in clients:
            client.send(begin)
        if begin.endswith(b"half a line"):
            for client in clients:
                client.hear(b"354 ")

        def drip():
            if not begin.endswith(b"half a line"):  # content has its own limits; this one stops
                for client in clients:
                    client.send(b"N")
            return sessions(gateway, "hasty") == 0

        wait_until(drip, "the end of the slow sessions", 15)
        assert all(b"421 4.4.2 waited too long\r\n" in client.rest()[0] for client in clients)
    serves(gateway)


NO_HANDSHAKES = {"silent": b"", "half": b"\x16\x03\x01\x02\x00\x01", "SMTP": b"no TLS at all\r\n", "noise": Random(1).randbytes(1000)}


@pytest.mark.parametrize("octets", NO_HANDSHAKES.values(), ids=NO_HANDSHAKES)
def test_no_handshake(gateway, octets):
    with ExitStack() as held:
        clients = [held.enter_context(Client(gateway.hasty_tls)) for _ in range(50)]
        for client in clients:
            client.send(octets)

        def drip():
            for client in clients:
                client.send(b"\x01")
            return sessions(gateway, "hasty") == 0

        wait_until(drip, "the end of the handshakes", 15)
    serves(gateway)


def test_refused_connections_cost_no_handshake(gateway):
    with ExitStack() as held, Growth(gateway):
        context = ssl._create_unverified_context()
        for _ in range(100):
            client = held.enter_context(Client(gateway.other_tls, "127.5.0.1"))
            client.socket = context.wrap_socket(client.socket)
            assert client.hear().startswith(b"220")
        for _ in range(200):
            with suppress(ConnectionError), Client(gateway.other_tls, "127.5.0.1") as client:
                assert client.rest() == (b"", 0)
    all_gone(gateway, "other")


def test_nobody_can_ask_for_a_new_handshake_in_a_session(gateway):
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    with Client(gateway.other_tls) as client:
        connection = SSL.Connection(context, client.socket)
        client.socket.setblocking(True)
        connection.set_connect_state()
        connection.do_handshake()
        assert connection.recv(100).startswith(b"220")
        connection.renegotiate()
        with pytest.raises(SSL.Error):
            connection.do_handshake()
    serves(gateway)


def test_clients_that_vanish_in_the_middle(gateway):
    for _ in range(200):
        client = Client(gateway.mx, "127.6.0.1")
        client.send(ENVELOPE + b"DATA\r\nhalf a mess")
        client.hear(b"354 ")
        client.close()
    all_gone(gateway)
    assert list((gateway.folder / "state").rglob("message-*")) == []


# ── Next hops ──

HOPS = {
    # name: what it does, tls, what the queue says
    "line": (flooding(b"250 "), "never", "reply line is too long"),
    "lines": (flooding(b"220-welcome\r\n"), "never", "reply has too many lines"),
    "ten": (saying(b"220 " + b"x" * 10_000_000 + b"\r\n"), "never", "reply line is too long"),
    "noise": (saying(b"\0\r\n\xff\r\n"), "never", "reply line is malformed"),
    "body": (answering({b"body": None}), "never", "connection lost"),
    "rcpt": (answering({b"RCPT": None}), "never", "connection lost"),
    "data": (answering({b"DATA": b"250 " + b"y" * 10_000_000}), "never", "reply line is too long"),
    "notls": (answering({b"STARTTLS": b"220 go\r\nnonsense\r\n"}, b"250-STARTTLS\r\n"), "require", "in clear behind its answer"),
    "badtls": (answering({b"STARTTLS": b"220 go\r\n"}, b"250-STARTTLS\r\n"), "require", "TLS handshake failed"),
    "plain": (answering({}), "require", "TLS is required, but not offered"),
}


def test_rude_next_hops(tmp_path):
    with ExitStack() as stack:
        hops = {name: stack.enter_context(RudeHop(talk)) for name, (talk, _, _) in HOPS.items()}
        good = stack.enter_context(SmtpSink())
        rest = ""
        for name, (_, tls, _) in HOPS.items():
            rest += f'[[route]]\nto = "{name}.example.org"\ngateway = "{name}"\n'
            rest += f'[gateway.{name}]\ntype = "smarthost"\naddress = "{hops[name].address}"\ntls = "{tls}"\nretry = ["1s"]\n'
        rest += f'[[route]]\notherwise = true\ngateway = "good"\n[gateway.good]\ntype = "smarthost"\naddress = "{good.address}"\n'
        gateway = stack.enter_context(make(tmp_path / "gateway", rest))
        serves(gateway)
        with Growth(gateway):
            with gateway.client() as client:
                for name in HOPS:
                    client.sendmail("a@example.com", [f"b@{name}.example.org"], b"Subject: x\r\n\r\nx\r\n" * 20)
            # Two rounds at least: it keeps trying, and stays small.
            wait_until(lambda: all(hop.visits >= 2 for hop in hops.values()), "a second attempt everywhere")
            replies = {entry["gateway"]: entry["reply"] for entry in queue(gateway)}
            for name, (_, _, why) in HOPS.items():
                assert why in replies[name], name
        # Of endless answers it heard only what was under way (the sockets' buffers).
        assert max(hop.said / hop.visits for hop in hops.values()) < 16 * MIB
        wait_until(lambda: len(good.messages) >= 2, "the delivery of what others sent meanwhile")


# ── The DNS ──

WAYS = ("silent", "servfail", "refused", "garbage", "otherid", "truncated")
A, MX = 1, 15


def test_the_dns_is_down_and_comes_back(tmp_path):
    def good(name, kind):
        # 0xC00C: the name of the question.
        if kind == MX and not name.startswith("mx."):
            host = b"".join(bytes([len(label)]) + label.encode() for label in f"mx.{name}".split(".")) + b"\0"
            return [struct.pack("!HHHIHH", 0xC00C, MX, 1, 60, len(host) + 2, 10) + host]
        return [struct.pack("!HHHIH4B", 0xC00C, A, 1, 60, 4, 127, 0, 0, 1)] if kind == A else []

    with ExitStack() as stack:
        dns = stack.enter_context(RudeDns(good))
        sink = stack.enter_context(SmtpSink())
        rest = '[[route]]\notherwise = true\ngateway = "internet"\n[gateway.internet]\ntype = "mx"\ntls = "never"\nretry = ["1s"]\n'
        rest += f"port = {sink.port}\n"
        gateway = stack.enter_context(make(tmp_path / "gateway", rest, dns.address))
        with gateway.client() as client:
            for way in WAYS:
                for number in range(20):
                    client.sendmail("a@example.com", [f"b{number}@{way}.example.org"], b"Subject: x\r\n\r\nx\r\n")

        def why():
            return [entry for entry in queue(gateway) if "the DNS has no answer" in entry["reply"]]

        wait_until(lambda: len(why()) == 20 * len(WAYS), "a deferral of everything")
        assert sink.messages == []
        with Client(gateway.mx) as client:  # and mail still comes in
            client.send(ENVELOPE + b"DATA\r\n")
            assert b"354 " in client.hear(b"354 ")
        asked = {way: sum(name == f"{way}.example.org" for name, _ in dns.questions) for way in WAYS}
        assert max(asked.values()) <= 60, asked  # 20 messages to each, but a destination is tried as one
        dns.is_good = True
        wait_until(lambda: len(sink.messages) == 20 * len(WAYS), "the delivery of everything")


def test_the_log_has_no_traceback(gateway):
    assert "Traceback" not in gateway.log.read_text()
    assert gateway.ask("status")["faults"] == 0
