"""Clients that are too many, too slow, too fast, or do not listen: each hears why, ends, and costs little while it lasts."""

import tracemalloc
from ipaddress import ip_network

import pytest

from mailgw.journal import Disconnected, Fault, Refused
from mailgw.policies.relay import Permit
from mailgw.receive.intake import Intake, Memory
from mailgw.smtp.server import ServerSettings
from mailgw.testing.server import MemoryServer
from mailgw.values.address import Address

OURS = Permit(to=frozenset({"example.org"}), name="ours")
HELO, MAIL, RCPT = "HELO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>"


def server(*, settings=None, **more):
    limits = ServerSettings(hostname="mx.example.org", **(settings or {}))
    return MemoryServer(permits=[OURS], settings=limits, **more)


def told(talk, *lines):
    replies = [talk.say(line) for line in lines]
    return replies[-1]


def wait(one, seconds, talk=None, octet=b"", every=1):
    """Let time pass; the client sends an octet now and then."""
    for _ in range(int(seconds / every)):
        if talk is not None:
            talk.say(octet)
        one.clock.advance(every)


# ── Too slow ──


@pytest.mark.parametrize("so_far", [(), (HELO,), (HELO, MAIL), (HELO, MAIL, RCPT)], ids=["greeting", "HELO", "MAIL", "RCPT"])
def test_octets_of_half_a_command_earn_no_time(so_far):
    one = server(command_timeout=300)
    talk = one.connect()
    told(talk, *so_far) if so_far else talk.heard()
    wait(one, 280, talk, b"N", every=40)
    assert not talk.is_over
    wait(one, 30, talk, b"N", every=10)
    assert talk.heard() == "421 4.4.2 waited too long\r\n"
    assert talk.is_over
    assert one.notes.of(Disconnected)[0].why == "time-out"


def test_each_whole_command_earns_time():
    one = server(command_timeout=300)
    talk = one.connect()
    for _ in range(10):
        assert talk.say("NOOP").endswith("250 2.0.0 ok\r\n")
        wait(one, 250, every=50)
    assert not talk.is_over


@pytest.mark.parametrize("lines", [("NOOP",), ("RSET",), ("EHLO c", MAIL), (MAIL, RCPT, "RSET")], ids=["NOOP", "RSET", "EHLO", "MAIL"])
def test_commands_without_a_message_do_not_hold_a_session_for_ever(lines):
    one = server(command_timeout=300, session_timeout=3600)
    talk = one.connect()
    talk.say(HELO)
    passed = 0
    while not talk.is_over:
        for line in lines:
            talk.say(line)
        wait(one, 250, every=50)
        passed += 250
        assert passed < 4000
    assert passed >= 3600


def test_each_message_begins_the_session_anew():
    one = server(command_timeout=300, session_timeout=1000)
    talk = one.connect()
    talk.say(HELO)
    for _ in range(20):
        assert told(talk, MAIL, RCPT, "DATA", b"x\r\n.\r\n").startswith("250 2.0.0 queued")
        wait(one, 250, every=50)
    assert len(one.parcels) == 20


@pytest.mark.parametrize("chunk", [b"BDAT 1\r\nx", b"BDAT 0\r\n"], ids=["an octet", "empty"])
def test_chunks_of_nothing_do_not_hold_a_session_for_ever(chunk):
    one = server(message_timeout=3600)
    talk = one.connect()
    told(talk, "EHLO c", MAIL, RCPT)
    passed = 0
    while not talk.is_over:
        talk.say(chunk)
        wait(one, 250, every=50)
        passed += 250
        assert passed < 4000
    assert passed >= 3600
    assert one.parcels == []


def test_empty_chunks_count_as_idle_commands():
    one = server(settings={"max_commands": 10})
    talk = one.connect()
    told(talk, "EHLO c", MAIL, RCPT)
    assert talk.say(b"BDAT 0\r\n" * 1000).endswith("421 4.7.0 too many commands without mail\r\n")
    assert talk.is_over


def test_content_that_is_refused_may_still_arrive_slowly():
    one = server(data_timeout=300, message_timeout=3600)
    talk = one.connect()
    told(talk, HELO, MAIL, RCPT, "DATA", b"bare\nline feed\r\n")
    for _ in range(12):
        assert talk.say(b"more\r\n" * 1000) == ""
        wait(one, 250, every=50)
    assert talk.say(b".\r\n").startswith("554 5.6.0")
    assert not talk.is_over


def test_a_refused_chunk_has_the_time_of_its_command():
    one = server(command_timeout=300)
    talk = one.connect()
    told(talk, "EHLO c", "BDAT 999999999999999999 LAST")
    wait(one, 320, talk, b"x" * 1000, every=10)
    assert talk.is_over
    assert one.parcels == []


@pytest.mark.parametrize("implicit", [False, True], ids=["STARTTLS", "implicit"])
def test_a_handshake_has_a_minute(implicit):
    one = server(settings={"starttls": True}, command_timeout=300)
    talk = one.connect(tls=implicit)
    if not implicit:
        talk.say("EHLO c")
        talk.protocol.dataReceived(b"STARTTLS\r\n")  # the handshake never begins
    wait(one, 59)
    assert not talk.is_over
    wait(one, 3)
    assert talk.is_over


def test_a_proxy_header_has_ten_seconds():
    one = MemoryServer(permits=[OURS], proxy=[ip_network("10.0.0.0/24")])
    talk = one.connect("10.0.0.1")
    for octet in b"PROXY TCP4":
        talk.say(bytes([octet]))
        one.clock.advance(1)
    assert talk.is_over
    assert [event.component for event in one.notes.of(Fault)] == ["listen.mx"]


# ── Too many ──


def connect_refused(one, *clients):
    talks = [one.connect(client) for client in clients]
    for talk in talks:
        assert talk.is_over
    return talks


def test_the_refused_do_not_take_the_places_of_others():
    one = server(max_sessions=3, max_sessions_per_client=1)
    held = one.connect("192.0.2.1")
    flood = [one.connect("192.0.2.1") for _ in range(50)]  # none of them has gone yet
    assert {talk.heard() for talk in flood} == {"421 4.7.0 too many connections from your address\r\n"}
    assert one.connect("192.0.2.2").heard().startswith("220")
    assert one.factory.sessions == 2
    for talk in flood:
        talk.hang_up()
    held.hang_up()
    assert one.connect("192.0.2.1").heard().startswith("220")


def test_a_flood_of_refused_is_not_even_told():
    one = server(max_sessions_per_client=1)
    one.connect("192.0.2.1")
    flood = [one.connect("192.0.2.1") for _ in range(1000)]
    assert all(talk.is_over for talk in flood)
    assert sum(bool(talk.heard()) for talk in flood) == 100


def test_nobody_shakes_hands_to_be_refused():
    one = server(max_sessions_per_client=1)
    one.connect("192.0.2.1")
    talk = one.connect("192.0.2.1", tls=True)
    assert talk.is_over
    assert talk.heard() == ""
    talk.hang_up()
    assert one.factory.sessions == 1


def test_an_ipv6_client_has_one_network():
    one = server(max_sessions_per_client=1)
    assert one.connect("2001:db8::1").heard().startswith("220")
    assert one.connect("2001:db8::ffff:1").heard().startswith("421 4.7.0")
    assert one.connect("2001:db8:0:1::1").heard().startswith("220")


def test_one_line_a_minute_tells_of_the_refused():
    one = server(max_sessions_per_client=1)
    talks = [one.connect("192.0.2.1") for _ in range(31)]
    wait(one, 2)
    for _ in range(10):
        talks.append(one.connect("192.0.2.1"))
    wait(one, 30)
    [note] = one.notes.of(Refused)
    assert (note.session, note.stage, note.by, note.reply.code) == ("", "connect", "limits", 421)
    assert note.why == "30 connections to mx turned away, the last from 192.0.2.1"
    wait(one, 40)
    assert [event.why[:2] for event in one.notes.of(Refused)] == ["30", "10"]
    for talk in talks:
        talk.hang_up()
    wait(one, 70)
    assert one.clock.getDelayedCalls() == []


# ── Too fast ──

FLOODS = {
    "NOOP": (b"NOOP\r\n" * 100_000, "421 4.7.0 too many commands without mail\r\n"),
    "RSET": (b"RSET\r\n" * 100_000, "421 4.7.0 too many commands without mail\r\n"),
    "EHLO": (b"EHLO c\r\n" * 100_000, "421 4.7.0 too many commands without mail\r\n"),
    "HELP": (b"HELP\r\n" * 100_000, "421 4.7.0 too many commands without mail\r\n"),
    "EXPN": (b"EXPN x\r\n" * 100_000, "421 4.7.0 too many errors\r\n"),
    "unknown commands": (b"XXXX\r\n" * 100_000, "421 4.7.0 too many errors\r\n"),
    "empty lines": (b"\r\n" * 100_000, "421 4.7.0 too many errors\r\n"),
    "bare line feeds": (b"\n" * 100_000, "421 4.7.0 too many errors\r\n"),
    "RCPT without MAIL": (b"RCPT TO:<b@example.org>\r\n" * 100_000, "421 4.7.0 too many errors\r\n"),
    "long lines": ((b"NOOP " + b"x" * 5000 + b"\r\n") * 1000, "421 4.7.0 too many errors\r\n"),
    "BDAT without MAIL": (b"BDAT 1\r\nx" * 100_000, "421 4.7.0 too many errors\r\n"),
    "a line without end": (b"x" * 64_000_000, "421 4.7.0 line is far too long\r\n"),
    "GET": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "421 4.7.0 this is not a web server\r\n"),
    "TLS in clear": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n" * 1000, "421 4.7.0 too many errors\r\n"),
    "a BDAT without bounds": (b"BDAT " + b"9" * 30 + b"\r\n", "521 5.5.4 syntax: BDAT size [LAST]\r\n"),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_with_a_word(flood):
    octets, last_words = FLOODS[flood]
    one = server()
    talk = one.connect()
    talk.say("EHLO c")
    heard = "".join(talk.say(octets[start : start + 65536]) for start in range(0, len(octets), 65536) if not talk.is_over)
    assert heard.endswith(last_words)
    assert talk.is_over
    assert len(heard) < 300_000
    assert one.factory.sessions == 1
    talk.hang_up()
    assert one.factory.sessions == 0
    assert [event.by for event in one.notes.of(Refused)][-1:] == ["limits"]


def test_a_flood_of_recipients():
    one = server(settings={"max_recipients": 100, "max_commands": 50})
    talk = one.connect()
    told(talk, HELO, MAIL)
    heard = talk.say(b"".join(b"RCPT TO:<r%d@example.org>\r\n" % number for number in range(10_000)))
    assert heard.count("250 2.1.5") == 100
    assert heard.count("452 4.5.3 too many recipients") == 50  # with EHLO one more than it may
    assert heard.endswith("421 4.7.0 too many commands without mail\r\n")
    assert talk.is_over


def test_deferrals_are_no_errors():
    one = server(settings={"max_recipients": 100, "max_errors": 3})
    talk = one.connect()
    told(talk, HELO, MAIL)
    heard = talk.say(b"".join(b"RCPT TO:<r%d@example.org>\r\n" % number for number in range(500)))
    assert heard.count("452 4.5.3 too many recipients") == 400
    assert talk.say("DATA").startswith("354 ")
    assert talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n") == "250 2.0.0 queued as 1\r\n"
    told(talk, MAIL)  # and what was deferred is forgotten with the message
    assert talk.say(b"".join(b"RCPT TO:<r%d@example.org>\r\n" % number for number in range(1000))).count("452 ") == 900
    assert not talk.is_over


def test_refusals_are_errors_whatever_they_look_like():
    one = server(settings={"max_errors": 3, "soft_bounce": True})
    talk = one.connect()
    told(talk, HELO, MAIL)
    heard = talk.say(b"RCPT TO:<a@elsewhere.example>\r\n" * 10)
    assert heard == "450 4.7.1 relaying denied\r\n" * 3 + "421 4.7.0 too many errors\r\n"


def test_a_flood_of_the_same_recipient():
    one = server(settings={"max_recipients": 100, "max_commands": 50})
    talk = one.connect()
    told(talk, HELO, MAIL)
    heard = talk.say((RCPT + "\r\n").encode() * 100_000)
    assert heard.count("250 2.1.5") == 101
    assert heard.count("452 4.5.3 too many recipients") == 50
    assert talk.is_over


def test_a_recipient_that_is_repeated_now_and_then_is_fine():
    one = server(settings={"max_recipients": 2})
    talk = one.connect()
    told(talk, HELO, MAIL)
    assert told(talk, RCPT, RCPT, "RCPT TO:<c@example.org>", RCPT) == "250 2.1.5 recipient ok\r\n"
    assert told(talk, "DATA", b"x\r\n.\r\n").startswith("250")
    assert len(one.parcels[0].queued) == 2


# ── Not listening ──


def test_nothing_piles_up_for_a_client_that_does_not_read():
    members = tuple(Address.parse(f"member{number}@example.org") for number in range(5000))
    one = server(settings={"expands": True}, aliases={"all": members}, command_timeout=300)
    talk = one.connect()
    talk.say("EHLO c")
    written = 0

    def full(octets):
        nonlocal written
        written += len(octets)
        talk.protocol.pauseProducing()  # as Twisted does with more than 64 KiB to write

    talk.transport.write = full
    talk.say(b"EXPN all\r\n" * 1000)
    for _ in range(100):
        talk.say(b"EXPN all\r\n" * 1000)
    one_answer = written
    assert 100_000 < one_answer < 300_000  # no second one was made
    assert talk.transport.producerState == "paused"  # and no more is read
    talk.protocol.resumeProducing()
    assert written == 2 * one_answer
    wait(one, 310, every=10)
    assert talk.is_over


def test_a_client_that_reads_again_gets_all_answers():
    members = (Address.parse("member@example.org"),)
    one = server(settings={"expands": True}, aliases={"all": members})
    talk = one.connect()
    talk.say("EHLO c")
    talk.protocol.pauseProducing()
    heard = talk.say(b"EXPN all\r\n" * 5)
    talk.protocol.resumeProducing()
    heard += talk.heard()
    assert heard.count("250 2.1.5 <member@example.org>\r\n") == 5


# ── Memory of what arrives ──


def test_many_slow_messages_share_the_memory(tmp_path):
    one = server(incoming=tmp_path, memory=Memory(10_000), max_sessions_per_client=1000)
    talks = []
    for _ in range(50):
        talk = one.connect()
        told(talk, HELO, MAIL, RCPT, "DATA", b"x" * 998 + b"\r\n")
        talks.append(talk)
    assert len(list(tmp_path.iterdir())) == 40
    assert 0 <= one.reception.memory.left < 1000
    for talk in talks[:25]:
        assert talk.say(b"y\r\n.\r\n").startswith("250 2.0.0 queued")
    for talk in talks[25:]:
        talk.hang_up()
    assert one.reception.memory.left == 10_000
    assert len(list(tmp_path.iterdir())) == 15  # the store's now
    assert {parcel.content.original_size for parcel in one.parcels} == {1003}


def test_memory_comes_back_however_a_message_ends(tmp_path):
    memory = Memory(1000)
    for end in (Intake.content, Intake.discard):
        for sizes in ((100, 200), (600, 600), (2000,)):
            intake = Intake(tmp_path, memory=memory)
            for size in sizes:
                intake.write(b"x" * size)
            end(intake)
            intake.discard()
            assert memory.left == 1000
    assert list(tmp_path.iterdir()) == []


def test_small_pieces_take_not_much_more_memory_than_they_hold(tmp_path):
    intake = Intake(tmp_path)
    tracemalloc.start()
    try:
        for number in range(50_000):
            intake.write(b"%02d" % (number % 100))
        assert tracemalloc.get_traced_memory()[1] < 3 * 100_000
    finally:
        tracemalloc.stop()
    content = intake.content()
    assert content.read() == b"".join(b"%02d" % number for number in range(100)) * 500
