"""Load balancers and proxies in front: the address that counts is the client's, and only those who may can say it."""

from contextlib import suppress
from ipaddress import ip_address, ip_network

import pytest
import trustme
from attrs import define, field
from OpenSSL import SSL
from twisted.internet.interfaces import IOpenSSLContextFactory
from twisted.protocols.tls import TLSMemoryBIOFactory
from zope.interface import implementer

from mailgw.journal import Accepted, Connected, Disconnected, Fault, Introduced, Refused
from mailgw.policies.relay import Permit
from mailgw.receive.proxying import ProxyFactory
from mailgw.smtp.proxyline import LOCAL
from mailgw.smtp.server import ServerSettings
from mailgw.testing.server import MemoryServer
from mailgw.values.decision import defer, proceed, reject

BALANCERS = (ip_network("10.0.0.0/24"), ip_network("2001:db8:a::/48"))
BALANCER = "10.0.0.1"
HEADER = "PROXY TCP4 203.0.113.7 192.0.2.1 40001 25"
OURS = Permit(to=frozenset({"example.org"}), name="ours")
ENVELOPE = ("MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>")


@define
class Watching:
    """A client policy that keeps what it was shown, and refuses whom it was told to."""

    unwanted: dict = field(factory=dict)
    seen: list = field(factory=list)

    def check_client(self, facts):
        self.seen.append(facts)
        return self.unwanted.get(str(facts.ip), proceed())


def behind_balancer(**more):
    return MemoryServer(permits=[OURS], proxy=BALANCERS, **more)


def behind_proxy(**more):
    return MemoryServer(**{"permits": [OURS], "xclient": BALANCERS} | more)


def deliver(talk, *before):
    for line in (*before, *ENVELOPE, "DATA"):
        reply = talk.say(line)
    assert reply.startswith("354"), reply
    assert talk.say(b"Subject: x\r\n\r\ntext\r\n.\r\n").startswith("250 2.0.0 queued")


# ── PROXY ──


def test_all_see_the_client_behind_the_balancer():
    watching = Watching()
    one = behind_balancer(policies=[watching])
    talk = one.connect(BALANCER)
    assert talk.heard() == ""
    assert watching.seen == []
    assert talk.say(HEADER) == "220 mx.example.org ESMTP\r\n"
    deliver(talk, "EHLO client.example")
    assert [(facts.ip, facts.port) for facts in watching.seen] == [(ip_address("203.0.113.7"), 40001)]
    assert [event.client for event in one.notes.of(Connected)] == ["203.0.113.7:40001"]
    [parcel] = one.parcels
    assert parcel.envelope.client_ip == ip_address("203.0.113.7")
    assert b"from client.example ([203.0.113.7])" in parcel.content.added


@pytest.mark.parametrize(
    ("header", "ip"),
    [
        pytest.param(b"PROXY TCP6 2001:db8::7 2001:db8::1 40001 25\r\n", "2001:db8::7", id="IPv6"),
        pytest.param(b"PROXY TCP6 ::ffff:203.0.113.7 ::1 40001 25\r\n", "203.0.113.7", id="IPv4 in IPv6"),
        pytest.param(LOCAL, BALANCER, id="the balancer itself"),
        pytest.param(b"PROXY UNKNOWN\r\n", "0.0.0.0", id="unknown"),
        pytest.param(b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00", "0.0.0.0", id="unspecified"),
    ],
)
def test_whose_connection_it_is(header, ip):
    one = behind_balancer(policies=[watching := Watching()])
    assert one.connect(BALANCER).say(header).startswith("220")
    assert [str(facts.ip) for facts in watching.seen] == [ip]


def test_what_the_balancer_may_its_unknown_clients_may_not():
    one = MemoryServer(permits=[Permit(networks=BALANCERS, name="inside")], proxy=BALANCERS)
    for header, reply in ((b"PROXY UNKNOWN\r\n", "550 5.7.1"), (LOCAL, "250")):
        talk = one.connect(BALANCER)
        talk.say(header)
        talk.say("HELO c")
        talk.say(ENVELOPE[0])
        assert talk.say("RCPT TO:<b@elsewhere.example>").startswith(reply)


def test_sessions_are_counted_by_client_not_by_balancer():
    one = behind_balancer(max_sessions_per_client=1)
    talks = [one.connect(BALANCER) for _ in range(3)]
    assert talks[0].say(HEADER).startswith("220")
    assert talks[1].say(HEADER.replace(".7", ".8")).startswith("220")
    assert talks[2].say(HEADER) == "421 4.7.0 too many connections from your address\r\n"
    assert talks[2].is_over


def test_everybody_else_comes_as_he_is():
    one = behind_balancer()
    talk = one.connect("203.0.113.9")
    assert talk.heard().startswith("220")
    assert talk.say(HEADER).startswith("500")
    assert [event.client for event in one.notes.of(Connected)] == ["203.0.113.9:40000"]


def test_an_ipv4_balancer_that_comes_by_an_ipv6_socket():
    one = behind_balancer()
    talk = one.connect(f"::ffff:{BALANCER}")
    assert talk.heard() == ""
    assert talk.say(HEADER).startswith("220")


NO_HEADERS = {"SMTP": b"EHLO c\r\n", "TLS": b"\x16\x03\x01", "bad": b"PROXY TCP4 a b 1 2\r\n", "much": b"x" * 100_000}


@pytest.mark.parametrize("said", NO_HEADERS.values(), ids=NO_HEADERS)
def test_a_balancer_without_a_header_is_cut_off_and_named(said):
    one = behind_balancer()
    talk = one.connect(BALANCER)
    assert talk.say(said) == ""
    assert talk.is_over
    [fault] = one.notes.of(Fault)
    assert fault.component == "listen.mx"
    assert fault.problem.startswith(f"closed the connection of {BALANCER}:40000, which must begin with a PROXY header: ")
    talk.protocol.dataReceived(HEADER.encode() + b"\r\n")  # what was on its way
    talk.hang_up()
    assert one.notes.of(Connected) == []
    assert len(one.notes.of(Fault)) == 1
    assert one.entrance.waiting == 0
    assert one.clock.getDelayedCalls() == []


def test_a_header_that_does_not_come():
    one = behind_balancer()
    talk = one.connect(BALANCER)
    talk.say(HEADER.encode())
    one.clock.advance(9)
    assert not talk.is_over
    one.clock.advance(2)
    assert talk.is_over
    assert talk.heard() == ""
    assert "did not come in time" in one.notes.of(Fault)[0].problem


def test_a_header_that_has_come_is_not_waited_for():
    one = behind_balancer()
    talk = one.connect(BALANCER)
    talk.say(HEADER)
    one.clock.pump([1] * 60)
    assert not talk.is_over
    assert one.notes.of(Fault) == []
    assert one.entrance.waiting == 0


def test_looking_whether_the_port_is_open_is_no_fault():
    one = behind_balancer()
    one.connect(BALANCER).hang_up()
    assert one.notes.of(Fault) == []
    broken_off = one.connect(BALANCER)
    broken_off.say(b"PROXY ")
    broken_off.hang_up()
    assert "broke off" in one.notes.of(Fault)[0].problem
    assert one.entrance.waiting == 0
    assert one.clock.getDelayedCalls() == []


def test_those_who_have_said_nothing_are_bounded():
    one = behind_balancer()
    entrance = ProxyFactory(one.factory, "mx", BALANCERS, one.reception.journal, one.clock, max_waiting=2)
    one.entrance = entrance
    first, _ = one.connect(BALANCER), one.connect(BALANCER)
    peer = first.transport.getPeer()
    assert entrance.buildProtocol(peer) is None
    first.say(HEADER)
    assert entrance.buildProtocol(peer) is not None


def test_mail_in_the_same_segment_as_the_header():
    one = behind_balancer()
    talk = one.connect(BALANCER)
    lines = "\r\n".join([HEADER, "HELO c", *ENVELOPE, "DATA", "x", ".", "QUIT", ""])
    assert [line[:3] for line in talk.say(lines.encode()).splitlines()] == ["220", "250", "250", "250", "354", "250", "221"]
    assert len(one.parcels) == 1


@implementer(IOpenSSLContextFactory)
class Tls:
    def __init__(self):
        authority = trustme.CA()
        self.context, self.client_context = SSL.Context(SSL.TLS_SERVER_METHOD), SSL.Context(SSL.TLS_CLIENT_METHOD)
        authority.issue_cert("mx.example.org").configure_cert(self.context)
        authority.configure_trust(self.client_context)

    def getContext(self):  # noqa: N802
        return self.context


@pytest.mark.parametrize("step", [1, 7, 100_000])
def test_the_header_comes_before_tls(step):
    one, tls = behind_balancer(policies=[watching := Watching()]), Tls()
    inner = TLSMemoryBIOFactory(tls, False, one.factory, one.clock)
    one.entrance = ProxyFactory(inner, "mx", BALANCERS, one.reception.journal, one.clock)
    talk = one.connect(BALANCER)
    client = SSL.Connection(tls.client_context, None)
    client.set_connect_state()
    received = []

    def pump(octets=b""):
        for _ in range(10):
            for action in (client.do_handshake, lambda: received.append(client.recv(65536))):
                with suppress(SSL.WantReadError, SSL.ZeroReturnError):
                    action()
            with suppress(SSL.WantReadError):
                octets += client.bio_read(65536)
            for start in range(0, len(octets), step):
                talk.protocol.dataReceived(octets[start : start + step])
            octets = b""
            one.clock.advance(0)
            if answer := talk.transport.value():
                talk.transport.clear()
                client.bio_write(answer)

    pump(HEADER.encode() + b"\r\n")
    client.send(b"EHLO c\r\nQUIT\r\n")
    pump()
    assert b"".join(received).startswith(b"220 mx.example.org ESMTP\r\n250-")
    assert b"".join(received).endswith(b"221 2.0.0 bye\r\n")
    assert [str(facts.ip) for facts in watching.seen] == ["203.0.113.7"]
    assert watching.seen[0].tls.version == "TLSv1.3"


# ── XCLIENT ──


def test_all_see_the_client_behind_the_proxy():
    watching = Watching()
    one = behind_proxy(policies=[watching])
    talk = one.connect(BALANCER)
    talk.say("EHLO proxy.example")
    assert talk.say("XCLIENT ADDR=IPV6:2001:db8::7 PORT=40001 HELO=client.example PROTO=SMTP LOGIN=ann+40example.org").startswith("220 ")
    deliver(talk, "EHLO proxy.example")
    assert [(str(facts.ip), facts.port, facts.helo, facts.login) for facts in watching.seen] == [
        (BALANCER, 40000, "", ""),
        ("2001:db8::7", 40001, "", "ann@example.org"),
    ]
    [connected], [introduced], [accepted] = (one.notes.of(kind) for kind in (Connected, Introduced, Accepted))
    assert (introduced.client, introduced.login) == ("2001:db8::7:40001", "ann@example.org")
    assert connected.session == introduced.session == accepted.session
    [parcel] = one.parcels
    envelope = parcel.envelope
    assert (str(envelope.client_ip), envelope.helo, envelope.login) == ("2001:db8::7", "client.example", "ann@example.org")
    assert b"from client.example ([IPv6:2001:db8::7])\r\n\tby mx.example.org with SMTP id" in parcel.content.added


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        pytest.param(["ADDR=203.0.113.7"], ("203.0.113.7", 0, "c", ""), id="no port"),
        pytest.param(["PORT=7"], (BALANCER, 7, "c", ""), id="port only"),
        pytest.param(["NAME=client.example"], (BALANCER, 40000, "c", ""), id="name only"),
        pytest.param(["ADDR=[UNAVAILABLE] LOGIN=[unavailable] HELO=[TEMPUNAVAIL]"], ("0.0.0.0", 0, "c", ""), id="unavailable"),
        pytest.param(["ADDR=IPV6:::ffff:203.0.113.7"], ("203.0.113.7", 0, "c", ""), id="IPv4 in IPv6"),
        pytest.param(["ADDR=203.0.113.7 PORT=7", "LOGIN=j+C3+B6rg", "HELO=h"], ("203.0.113.7", 7, "h", "jörg"), id="in several commands"),
        pytest.param(["LOGIN=ann HELO=h ADDR=203.0.113.7", "ADDR=203.0.113.8"], ("203.0.113.8", 0, "c", ""), id="another client"),
        pytest.param(["LOGIN=ann", "LOGIN=[UNAVAILABLE]"], (BALANCER, 40000, "c", ""), id="login taken back"),
    ],
)
def test_what_is_known_after_it(said, seen):
    facts = []

    class Sender:
        def check_sender(self, one):
            facts.append(one.client)
            return proceed()

    one = behind_proxy(policies=[Sender()])
    talk = one.connect(BALANCER)
    for words in said:
        assert talk.say(f"XCLIENT {words}").endswith("220 mx.example.org ESMTP\r\n")
    talk.say("EHLO c")
    talk.say(ENVELOPE[0])
    assert [(str(client.ip), client.port, client.helo, client.login) for client in facts] == [seen]


def test_a_login_lets_in_where_one_is_needed():
    settings = ServerSettings(hostname="mx.example.org", require_auth=True)
    one = behind_proxy(permits=[Permit(authenticated=True, name="users")], settings=settings, kind="submission")
    talk = one.connect(BALANCER)
    talk.say("EHLO c")
    assert talk.say(ENVELOPE[0]).startswith("530")
    for words, reply in (("LOGIN=ann", "250"), ("LOGIN=[UNAVAILABLE]", "530")):
        talk.say(f"XCLIENT {words}")
        talk.say("EHLO c")
        assert talk.say(ENVELOPE[0]).startswith(reply)
        talk.say("RSET")


def test_tls_comes_first_where_it_is_needed():
    one = behind_proxy(settings=ServerSettings(hostname="mx.example.org", starttls=True, require_tls=True))
    talk = one.connect(BALANCER)
    talk.say("EHLO c")
    assert talk.say("XCLIENT LOGIN=ann").startswith("530 5.7.0")
    talk.say("STARTTLS")
    assert talk.say("XCLIENT LOGIN=ann").startswith("220")
    assert "STARTTLS" not in talk.say("EHLO c")


def test_the_policies_are_asked_again_about_the_real_client():
    watching = Watching({"203.0.113.7": reject("no thanks", why="listed"), "203.0.113.8": defer("later")})
    one = behind_proxy(policies=[watching])
    for address, reply in (("203.0.113.7", "554 5.7.1 no thanks\r\n"), ("203.0.113.8", "421 4.7.1 later\r\n")):
        talk = one.connect(BALANCER)
        talk.heard()
        assert talk.say(f"XCLIENT ADDR={address}\r\nNOOP") == reply
        assert talk.is_over
        talk.hang_up()
    assert [(event.stage, event.by, event.why) for event in one.notes.of(Refused)] == [
        ("connect", "Watching", "listed"),
        ("connect", "Watching", ""),
    ]
    assert [event.why for event in one.notes.of(Disconnected)] == ["refused", "refused"]
    assert one.factory.sessions == 0


def test_what_was_found_about_the_proxy_does_not_stick_to_its_client():
    class Tagging:
        def check_client(self, facts):
            return proceed(tags={f"from-{facts.ip}"})

    one = behind_proxy(policies=[Tagging()])
    talk = one.connect(BALANCER)
    talk.say("XCLIENT ADDR=203.0.113.7")
    deliver(talk, "HELO c")
    assert one.parcels[0].envelope.tags == {"from-203.0.113.7"}


def test_sessions_are_counted_by_client_not_by_proxy():
    one = behind_proxy(max_sessions_per_client=2)
    talks = []
    for _ in range(2):
        talks.append(one.connect(BALANCER))
        assert talks[-1].say("XCLIENT ADDR=203.0.113.7").endswith("220 mx.example.org ESMTP\r\n")
    third = one.connect(BALANCER)
    assert third.heard().startswith("220")
    assert third.say("XCLIENT ADDR=203.0.113.7") == "421 4.7.0 too many connections from your address\r\n"
    assert third.is_over
    third.hang_up()
    talks[0].hang_up()
    assert one.connect("203.0.113.7").heard().startswith("220")
    assert one.factory.sessions == 2


def test_a_stranger_cannot_become_somebody_and_the_trust_is_not_handed_on():
    one = behind_proxy()
    stranger = one.connect("203.0.113.9")
    assert "XCLIENT" not in stranger.say("EHLO c")
    assert stranger.say(f"XCLIENT ADDR={BALANCER}") == "550 5.7.0 you may not speak for others\r\n"
    assert one.notes.of(Introduced) == []
    behind_both = MemoryServer(permits=[OURS], proxy=BALANCERS, xclient=BALANCERS)
    talk = behind_both.connect(BALANCER)
    talk.say(HEADER)
    assert talk.say(f"XCLIENT ADDR={BALANCER}").startswith("550 5.7.0")


def test_a_proxy_behind_a_balancer():
    one = MemoryServer(permits=[OURS], proxy=BALANCERS, xclient=(ip_network("203.0.113.7/32"),))
    talk = one.connect(BALANCER)
    talk.say(HEADER)
    assert talk.say("XCLIENT ADDR=198.51.100.1").startswith("220")
    deliver(talk, "HELO c")
    assert str(one.parcels[0].envelope.client_ip) == "198.51.100.1"


def test_repeating_it_is_bounded():
    one = behind_proxy(settings=ServerSettings(hostname="mx.example.org", max_commands=5))
    talk = one.connect(BALANCER)
    replies = [talk.say("XCLIENT ADDR=203.0.113.7") for _ in range(6)]
    assert replies[-1].endswith("421 4.7.0 too many commands without mail\r\n")
    assert talk.is_over
