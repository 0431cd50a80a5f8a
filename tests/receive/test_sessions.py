"""Bounds and ends of sessions: too many, too slow, shutting down, gone."""

import os
from ipaddress import ip_network

import pytest
from twisted.internet.defer import Deferred

from mailgw.interfaces import StoreFull, StoreUnavailable
from mailgw.journal import Disconnected, Refused
from mailgw.policies.relay import Permit
from mailgw.receive import intake
from mailgw.routing import Routing, Rule
from mailgw.storage.in_process import InProcessStore
from mailgw.testing.running import run
from mailgw.testing.server import MemoryServer
from mailgw.values.decision import proceed

OURS = Permit(to=frozenset({"example.org"}), name="ours")
ENVELOPE = ("HELO c", "MAIL FROM:<a@example.com>", "RCPT TO:<b@example.org>")


def server(**settings):
    return MemoryServer(permits=[OURS], **settings)


def in_data(one):
    talk = one.connect()
    for line in (*ENVELOPE, "DATA"):
        reply = talk.say(line)
    assert reply.startswith("354")
    return talk


def test_too_many_sessions():
    one = server(max_sessions=2)
    first, second = one.connect("192.0.2.1"), one.connect("192.0.2.2")
    assert first.heard().startswith("220")
    assert second.heard().startswith("220")
    third = one.connect("192.0.2.3")
    assert third.heard() == "421 4.3.2 too many connections, try again later\r\n"
    assert third.is_over
    third.hang_up()
    first.hang_up()
    assert one.connect("192.0.2.3").heard().startswith("220")


def test_too_many_sessions_of_one_client():
    one = server(max_sessions_per_client=1)
    first = one.connect("192.0.2.1")
    assert one.connect("::ffff:192.0.2.1").heard() == "421 4.7.0 too many connections from your address\r\n"
    assert one.connect("192.0.2.2").heard().startswith("220")
    assert first.say("NOOP").endswith("250 2.0.0 ok\r\n")


def test_who_goes_away_while_his_commands_are_thought_about_keeps_his_place_until_they_are():
    answer = Deferred()
    asking = type("Asking", (), {"check_sender": lambda self, facts: answer})()
    one = server(policies=[asking], max_sessions_per_client=1)
    talk = one.connect("192.0.2.1")
    talk.say("EHLO c\r\nMAIL FROM:<a@example.com>\r\nNOOP")
    talk.hang_up()
    one.clock.pump([1] * 10)
    again = one.connect("192.0.2.1")
    assert again.heard() == "421 4.7.0 too many connections from your address\r\n"
    again.hang_up()
    assert one.connect("192.0.2.2").heard().startswith("220")
    answer.callback(proceed())
    assert [noted.why for noted in one.notes.of(Disconnected)] == ["lost"]
    assert one.connect("192.0.2.1").heard().startswith("220")


def test_a_proxy_that_goes_away_before_it_says_for_whom_it_speaks_leaves_no_place_taken():
    answer = Deferred()
    asking = type("Asking", (), {"check_sender": lambda self, facts: answer})()
    one = server(policies=[asking], xclient=(ip_network("192.0.2.1"),))
    talk = one.connect("192.0.2.1")
    talk.say("EHLO c\r\nMAIL FROM:<a@example.com>\r\nRSET\r\nXCLIENT ADDR=192.0.2.7")
    talk.hang_up()
    answer.callback(proceed())
    assert one.factory.sessions == 0
    assert not one.factory._by_client


def test_a_silent_client_hears_421():
    one = server(command_timeout=300)
    talk = one.connect()
    talk.heard()
    one.clock.pump([1] * 299)
    assert not talk.is_over
    one.clock.pump([1] * 3)
    assert talk.heard() == "421 4.4.2 waited too long\r\n"
    assert talk.is_over
    assert one.notes.of(Disconnected)[0].why == "time-out"


def test_a_client_that_drips_its_command_gets_no_more_time():
    one = server(command_timeout=60)
    talk = one.connect()
    for _ in range(70):
        talk.say(b"X")
        one.clock.advance(1)
    assert talk.is_over


def test_content_may_take_longer_but_not_for_ever():
    one = server(data_timeout=10, message_timeout=100, command_timeout=5)
    talk = in_data(one)
    for _ in range(95):
        assert talk.say(b"drip\r\n") == ""
        one.clock.advance(1)
        assert not talk.is_over
    for _ in range(10):
        talk.say(b"drip\r\n")
        one.clock.advance(1)
    assert talk.is_over
    assert one.parcels == []


def test_content_that_stops():
    one = server(data_timeout=10)
    talk = in_data(one)
    talk.say(b"half a message\r\n")
    one.clock.pump([1] * 12)
    assert talk.heard() == "421 4.4.2 waited too long\r\n"


def test_a_client_that_does_not_read_is_cut_off():
    one = server(command_timeout=60)
    talk = one.connect()
    talk.protocol.pauseProducing()
    assert talk.say("NOOP") == "220 mx.example.org ESMTP\r\n"  # said before; nothing is said now
    one.clock.pump([1] * 62)
    assert talk.is_over


def test_reading_on_when_the_client_reads_again():
    one = server()
    talk = one.connect()
    talk.heard()
    talk.protocol.pauseProducing()
    talk.say("NOOP")
    talk.protocol.resumeProducing()
    assert talk.heard() == "250 2.0.0 ok\r\n"


def test_we_stop_reading_while_a_policy_thinks():
    class Thinking:
        def check_sender(self, facts):
            return answer

    answer = Deferred()
    one = MemoryServer(permits=[OURS], policies=[Thinking()], timeout=1000)
    talk = one.connect()
    talk.say("HELO c")
    talk.say("MAIL FROM:<a@example.com>")
    for _ in range(5):
        talk.say(b"NOOP\r\n" * 20000)
    assert talk.transport.producerState == "paused"
    answer.callback(None)
    assert talk.heard().count("250 2.0.0 ok") + 0 <= 1001  # the bound on idle commands ends the flood
    assert talk.is_over


def test_shutdown_between_transactions():
    one = server()
    talk = one.connect()
    talk.say("HELO c")
    stopped = Deferred.fromCoroutine(one.factory.stop(30))
    assert talk.heard() == "421 4.3.2 shutting down\r\n"
    assert talk.is_over
    talk.hang_up()
    assert stopped.called


def test_shutdown_lets_a_running_transaction_end():
    one = server()
    talk = in_data(one)
    stopped = Deferred.fromCoroutine(one.factory.stop(30))
    assert talk.heard() == ""
    assert talk.say(b"x\r\n.\r\n") == "250 2.0.0 queued as 1\r\n421 4.3.2 shutting down\r\n"
    talk.hang_up()
    assert stopped.called
    assert len(one.parcels) == 1
    assert one.clock.getDelayedCalls() == []


def test_shutdown_does_not_wait_for_ever():
    one = server()
    talk = in_data(one)
    Deferred.fromCoroutine(one.factory.stop(30))
    one.clock.pump([1] * 31)
    assert talk.is_over


def test_nobody_is_let_in_while_shutting_down():
    one = server()
    run(one.factory.stop(30))
    assert one.connect().heard().startswith("421 4.3.2")


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "IN_MEMORY", 1000)
    one = server(incoming=tmp_path)
    talk = in_data(one)
    talk.say(b"y" * 70 + b"\r\n")
    talk.say((b"y" * 70 + b"\r\n") * 40)
    assert len(list(tmp_path.iterdir())) == 1
    talk.hang_up()
    assert list(tmp_path.iterdir()) == []
    assert one.factory.sessions == 0
    assert one.notes.of(Disconnected)[0].why == "lost"


@pytest.mark.parametrize("end", ["goes away", "ends its message"])
def test_a_file_that_cannot_be_removed_takes_nothing_along(tmp_path, monkeypatch, end):
    monkeypatch.setattr(intake, "IN_MEMORY", 1000)
    store = InProcessStore(tmp_path)
    one = server(store=store)
    talk = in_data(one)
    talk.say((b"y" * 70 + b"\r\n") * 40)
    [file] = tmp_path.iterdir()
    file.unlink()
    file.mkdir()  # as on a file system that can only be read from now on
    if end == "goes away":
        talk.hang_up()
    else:
        store.trouble = StoreUnavailable("read-only")
        assert talk.say(b".\r\n") == "451 4.3.0 local problem, try again later\r\n"
        talk.say("QUIT")
    assert [noted.why for noted in one.notes.of(Disconnected)] == ["lost" if end == "goes away" else "quit"]


def test_a_file_is_closed_once_also_where_that_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "IN_MEMORY", 10)
    one = intake.Intake(tmp_path)
    one.write(b"y" * 100)
    os.close(one._file)  # the disk has its troubles: close(2) fails, and the number is free all the same
    with pytest.raises(OSError, match="Bad file descriptor"):
        one.content()
    anothers = os.open(tmp_path, os.O_RDONLY)
    one.discard()
    os.close(anothers)
    assert list(tmp_path.iterdir()) == []


def test_big_messages_come_by_file(tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "IN_MEMORY", 1000)
    one = server(store=InProcessStore(tmp_path))
    talk = in_data(one)
    lines = [b"line %d %s\r\n" % (number, b"y" * 50) for number in range(100)]
    for line in lines:
        assert talk.say(line) == ""
    assert talk.say(b".\r\n").startswith("250")
    [parcel] = one.parcels
    assert not isinstance(parcel.content.original, bytes)
    assert parcel.content.read() == parcel.content.added + b"".join(lines)


def test_a_header_section_without_an_end(tmp_path):
    one = server(store=InProcessStore(tmp_path), incoming=tmp_path)
    talk = in_data(one)
    for _ in range(18):
        talk.say((b"A: " + b"x" * 57 + b"\r\n") * 1000)
    assert talk.say(b".\r\n") == "554 5.6.0 header section is longer than 1 MiB\r\n"
    assert one.notes.of(Refused)[0].by == "content"
    assert one.parcels == []
    assert list(tmp_path.glob("message-*")) == []
    assert talk.say("NOOP") == "250 2.0.0 ok\r\n"


class SmallRoom:
    """A disk with room for so many octets of new mail."""

    def __init__(self, octets):
        self.octets = octets

    def has(self, size):
        return size <= self.octets

    def claim(self, size):
        fits = self.has(size)
        self.octets -= size if fits else 0
        return fits


@pytest.mark.parametrize(
    ("folder", "octets", "reply"),
    [
        ("", 500, "452 4.3.1 out of space, try again later"),
        ("missing", 10_000, "451 4.3.0 local problem, try again later"),
    ],
    ids=["no room", "no folder"],
)
def test_no_file_for_a_big_message(tmp_path, monkeypatch, folder, octets, reply):
    monkeypatch.setattr(intake, "IN_MEMORY", 100)
    one = server(incoming=tmp_path / folder, room=SmallRoom(octets))
    talk = in_data(one)
    talk.say((b"y" * 70 + b"\r\n") * 5)
    talk.say((b"y" * 70 + b"\r\n") * 5)
    assert talk.say(b".\r\n") == f"{reply}\r\n"
    assert one.notes.of(Refused)[0].by == "store"
    assert list(tmp_path.iterdir()) == []
    assert talk.say("NOOP") == "250 2.0.0 ok\r\n"


@pytest.mark.parametrize(
    ("octets", "command", "reply"),
    [
        (1000, "MAIL FROM:<a@example.com> SIZE=1001", "452 4.3.1 out of space, try again later"),
        (1000, "MAIL FROM:<a@example.com> SIZE=1000", "250 2.1.0 sender ok"),
        (0, "MAIL FROM:<a@example.com>", "250 2.1.0 sender ok"),
        (-1, "MAIL FROM:<a@example.com>", "452 4.3.1 out of space, try again later"),
    ],
    ids=["too big", "fits", "says no size", "no room at all"],
)
def test_no_room_is_said_at_mail(octets, command, reply):
    talk = server(room=SmallRoom(octets)).connect()
    talk.heard()
    talk.say("EHLO client.example.com")
    assert talk.say(command) == f"{reply}\r\n"
    assert talk.say("RCPT TO:<you@example.org>").startswith("250" if reply.startswith("250") else "503")


@pytest.mark.parametrize(
    ("trouble", "reply"),
    [
        (StoreFull("no room"), "452 4.3.1 out of space, try again later"),
        (StoreUnavailable("database is locked"), "451 4.3.0 local problem, try again later"),
    ],
    ids=["full", "unavailable"],
)
def test_a_store_in_trouble_defers_and_recovers(trouble, reply):
    store = InProcessStore()
    one = server(store=store)
    talk = in_data(one)
    store.trouble = trouble
    assert talk.say(b"x\r\n.\r\n") == f"{reply}\r\n"
    store.trouble = None
    for line in (*ENVELOPE[1:], "DATA"):
        talk.say(line)
    assert talk.say(b"x\r\n.\r\n").startswith("250")
    assert len(one.parcels) == 1


def test_a_message_in_circles_is_refused():
    one = server(max_hops=3)
    talk = in_data(one)
    assert talk.say(b"Received: a\r\n" * 3 + b"\r\nReceived: in the body\r\n.\r\n").startswith("250")
    for line in (*ENVELOPE[1:], "DATA"):
        talk.say(line)
    reply = talk.say(b"RECEIVED : a\r\n\tfolded\r\n" * 4 + b"\r\nx\r\n.\r\n")
    assert reply == "554 5.4.6 too many hops: this message is going in circles\r\n"


@pytest.mark.parametrize(
    ("name", "parameter", "said"),
    [
        pytest.param('a(b;c"d\\', "", "a?b?c?d?", id="ASCII"),
        pytest.param("\xfc(b;c", "", "??b?c", id="beyond ASCII"),
        pytest.param("\xfc(b;c", " SMTPUTF8", "\xfc?b?c", id="beyond ASCII, in an internationalized message"),
    ],
)
def test_no_helo_name_opens_a_comment_or_ends_our_own_field(name, parameter, said):
    one = server()
    talk = one.connect()
    for line in (f"EHLO {name}", f"MAIL FROM:<a@example.com>{parameter}", ENVELOPE[2], "DATA"):
        talk.say(line)
    assert talk.say(b"x\r\n.\r\n").startswith("250")
    assert one.parcels[0].content.added.decode().startswith(f"Received: from {said} ([192.0.2.99])\r\n")


def test_a_route_that_fails_defers_and_none_refuses():
    class Broken:
        def route(self, facts):
            if facts.recipient.local_part == "boom":
                raise OSError("table is gone")

    one = server(routing=Routing([Rule("broken", Broken())]))
    talk = one.connect()
    for line in ENVELOPE[:2]:
        talk.say(line)
    assert talk.say("RCPT TO:<boom@example.org>") == "451 4.3.0 local problem, try again later\r\n"
    assert talk.say("RCPT TO:<b@example.org>") == "550 5.1.2 no route to this destination\r\n"


def test_a_route_that_does_not_answer_defers():
    class Silent:
        def route(self, facts):
            return Deferred()

    one = server(routing=Routing([Rule("silent", Silent())]))
    talk = one.connect()
    for line in ENVELOPE[:2]:
        talk.say(line)
    assert talk.say("RCPT TO:<b@example.org>") == ""
    one.clock.advance(30)
    assert talk.heard() == "451 4.3.0 local problem, try again later\r\n"


def test_pipelined_replies_leave_in_one_write():
    one = server()
    talk = one.connect()
    talk.heard()
    writes = []
    talk.transport.write = writes.append
    talk.say(b"EHLO c\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<c@elsewhere.example>\r\nDATA\r\n")
    assert len(writes) == 1
    assert [line[:3] for line in writes[0].splitlines()][-4:] == [b"250", b"250", b"550", b"354"]


def test_a_fault_of_ours_is_a_421_without_a_traceback():
    class Broken(InProcessStore):
        async def put(self, *arguments):
            raise ZeroDivisionError

    from twisted.logger import globalLogPublisher

    seen = []
    globalLogPublisher.addObserver(seen.append)
    try:
        one = server(store=Broken())
        talk = in_data(one)
        assert talk.say(b"x\r\n.\r\n") == "421 4.3.0 local problem, try again later\r\n"
    finally:
        globalLogPublisher.removeObserver(seen.append)
    assert talk.is_over
    assert any("ZeroDivisionError" in str(event.get("log_failure")) for event in seen)


def test_shutdown_does_not_wait_for_a_connection_that_never_speaks_tls():
    one = server()
    talk = one.connect(tls=True)
    stopped = Deferred.fromCoroutine(one.factory.stop(30))
    assert talk.is_over
    talk.hang_up()
    assert stopped.called


def test_shutdown_does_not_wait_for_a_policy_longer_than_its_grace():
    class Hanging:
        def check_sender(self, facts):
            return Deferred()

    one = MemoryServer(permits=[OURS], policies=[Hanging()], timeout=1000)
    talk = one.connect()
    talk.say("HELO c")
    talk.say("MAIL FROM:<a@example.com>")
    stopped = Deferred.fromCoroutine(one.factory.stop(30))
    one.clock.advance(29)
    assert not stopped.called
    one.clock.advance(1)
    assert stopped.called


def test_a_client_that_closes_its_side_hears_what_became_of_its_message():
    class Slow(InProcessStore):
        async def put(self, *arguments):
            await committed
            return await super().put(*arguments)

    committed = Deferred()
    one = server(store=Slow())
    talk = in_data(one)
    talk.say(b"x\r\n.\r\n")
    talk.protocol.readConnectionLost()
    assert not talk.is_over
    committed.callback(None)
    assert talk.heard() == "250 2.0.0 queued as 1\r\n"
    assert talk.is_over


def test_a_client_that_closes_its_side_in_the_middle_is_gone():
    one = server()
    talk = in_data(one)
    talk.say(b"half")
    talk.protocol.readConnectionLost()
    assert talk.is_over
    assert one.parcels == []


@pytest.mark.parametrize("start", [b" folded\r\n", b"\tfolded: x\r\n"])
def test_no_message_continues_our_own_field(start):
    one = server()
    talk = in_data(one)
    assert talk.say(start + b"\r\nx\r\n.\r\n").startswith("250")
    [parcel] = one.parcels
    assert parcel.content.added.endswith(b" +0000\r\n\r\n")
    assert parcel.content.original.startswith(start)


def test_with_implicit_tls_the_greeting_waits_for_the_handshake():
    one = server()
    talk = one.connect(tls=True)
    assert talk.heard() == ""
    talk.shake_hands()
    assert talk.heard().startswith("220")
    assert "250-REQUIRETLS" in talk.say("EHLO c")
