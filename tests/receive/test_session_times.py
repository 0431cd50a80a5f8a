"""The machine's clock is set in the middle of sessions."""

import pytest

from mailgw.policies.relay import Permit
from mailgw.testing import MemoryServer

HOURS = 3600.0


def set_clock(server, by):
    """What `mailgw.timekeeping` does: timers keep their pace, and the listeners are told."""
    for call in server.clock.getDelayedCalls():
        call.delay(by)
    server.clock.rightNow += by
    server.factory.clock_was_set(by)


def wait(server, seconds):
    for _ in range(int(seconds)):
        server.clock.advance(1)


@pytest.mark.parametrize("by", [10 * HOURS, -10 * HOURS], ids=["forward", "back"])
@pytest.mark.parametrize("in_content", [False, True], ids=["between commands", "in the content"])
def test_sessions_keep_what_is_left_of_their_time(by, in_content):
    server = MemoryServer(
        permits=[Permit(to=frozenset({"example.org"}), name="ours")], command_timeout=300, data_timeout=200, message_timeout=250
    )
    talk = server.connect()
    talk.say("EHLO client.example.com")
    if in_content:
        talk.say("MAIL FROM:<anna@example.com>")
        talk.say("RCPT TO:<ben@example.org>")
        assert talk.say("DATA").startswith("354")
    limit = 200 if in_content else 300
    wait(server, limit - 60)
    set_clock(server, by)
    wait(server, 50)
    assert not talk.is_over
    if in_content:
        talk.say(b"Subject: x\r\n")
        limit = 250  # for all of it
        wait(server, 50)
        assert not talk.is_over
    wait(server, 20)
    assert talk.is_over
    assert talk.heard() == "421 4.4.2 waited too long\r\n"


@pytest.mark.parametrize("by", [10 * HOURS, -10 * HOURS], ids=["forward", "back"])
def test_mail_is_taken_after_it(by):
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}), name="ours")])
    talk = server.connect()
    talk.say("EHLO client.example.com")
    set_clock(server, by)
    talk.say("MAIL FROM:<anna@example.com>")
    talk.say("RCPT TO:<ben@example.org>")
    talk.say("DATA")
    assert talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n").startswith("250")
    assert server.parcels[0].envelope.arrived == server.clock.seconds()
