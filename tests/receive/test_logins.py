"""What a login changes in a session, and what a client hears when nobody can say who it is."""

from base64 import b64encode
from ipaddress import ip_network

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgw.credentials import ILoginGuard
from mailgw.journal import Disconnected, LoggedIn, LoginFailed
from mailgw.policies.relay import Permit
from mailgw.smtp.server import ServerSettings
from mailgw.testing.accounts import Users
from mailgw.testing.server import MemoryServer
from mailgw.values.decision import proceed
from mailgw.values.reply import Reply

USERS = Users({"anna": "secret"})


def plain(name="anna", password="secret"):
    return "AUTH PLAIN " + b64encode(f"\0{name}\0{password}".encode()).decode()


@define(eq=False)
class Watching:
    """A policy that remembers who was there."""

    seen: list = field(factory=list)

    def check_sender(self, facts):
        self.seen.append(facts.client.login)
        return proceed()


def a_server(*accounts, **more):
    permits = [Permit(authenticated=True, name="logged in")]
    return MemoryServer(permits=permits, accounts=accounts or [USERS], **more)


def a_talk(server, ip="192.0.2.99", tls=True):
    talk = server.connect(ip, tls=tls)
    if tls:
        talk.shake_hands()
    talk.say("EHLO client.example.com")
    return talk


def test_policies_permits_and_received_know_the_login():
    watching = Watching()
    server = a_server(policies=[watching])
    talk = a_talk(server)
    talk.say("MAIL FROM:<anna@example.com>")
    assert talk.say("RCPT TO:<ben@elsewhere.example>") == "550 5.7.1 relaying denied\r\n"
    talk.say("RSET")
    assert talk.say(plain()) == "235 2.7.0 authenticated\r\n"
    talk.say("MAIL FROM:<anna@example.com> AUTH=<>")
    assert talk.say("RCPT TO:<ben@elsewhere.example>") == "250 2.1.5 recipient ok\r\n"
    talk.say("DATA")
    assert talk.say("Subject: x\r\n\r\nx\r\n.").startswith("250 ")
    assert watching.seen == ["", "anna"]
    [parcel] = server.parcels
    assert b" with ESMTPSA\r\n" in parcel.content.added
    assert b"anna" not in parcel.content.added.replace(b"anna@example.com", b"")  # nobody is given away
    assert server.notes.of(LoggedIn)[0].session == server.notes.events[0].session


def test_a_client_that_went_while_a_policy_was_asked_is_gone_when_its_next_command_wants_to_know_its_tls():
    answer = Deferred()
    asking = type("Asking", (), {"check_sender": lambda self, facts: answer})()
    server = a_server(policies=[asking])
    talk = a_talk(server)
    talk.say("MAIL FROM:<anna@example.com>\r\nEHLO client.example.com")
    talk.hang_up()
    talk.transport.getHandle = lambda: None  # as Twisted has it, once the connection is lost
    answer.callback(proceed())
    assert [one.why for one in server.notes.of(Disconnected)] == ["lost"]


def test_a_relay_listener_without_accounts_knows_no_auth():
    talk = MemoryServer(settings=ServerSettings(hostname="mx.example.org")).connect(tls=True)
    talk.shake_hands()
    assert "AUTH" not in talk.say("EHLO c")
    assert talk.say(plain()) == "502 5.5.1 command not offered\r\n"


@pytest.mark.parametrize("tls", [True, False])
def test_starttls_forgets_who_has_logged_in(tls):
    server = a_server(allow_cleartext_auth=True, policies=[watching := Watching()])
    talk = a_talk(server, "127.0.0.1", tls=False)
    assert talk.say(plain()) == "235 2.7.0 authenticated\r\n"
    if tls:
        assert talk.say("STARTTLS").startswith("220 ")
        talk.say("EHLO c")
    talk.say("MAIL FROM:<anna@example.com>")
    assert watching.seen == ["" if tls else "anna"]


def test_in_clear_beyond_loopback_no_password_is_taken():
    talk = a_server(allow_cleartext_auth=True).connect("192.0.2.99")
    assert "250-AUTH SCRAM-SHA-256 SCRAM-SHA-1 CRAM-MD5\r\n" in talk.say("EHLO c")
    assert talk.say(plain()) == "538 5.7.11 authentication needs TLS\r\n"


@pytest.mark.parametrize("accounts", [[Users(unavailable="down")], [Users(fault=KeyError("secret"))]], ids=["down", "broken"])
def test_nobody_can_say(accounts):
    server = a_server(*accounts)
    assert a_talk(server).say(plain()) == "454 4.7.0 authentication is not available now, try again later\r\n"
    assert "secret" not in repr(server.notes.events)


def test_accounts_that_hang_are_given_up():
    server = a_server(Users(hang=True), timeout=5.0)
    talk = a_talk(server)
    assert talk.say(plain()) == ""
    server.clock.advance(6)
    assert talk.heard().startswith("454 4.7.0 ")
    assert talk.say("NOOP").startswith("250 ")


def test_a_client_that_goes_away_in_the_middle():
    server = a_server()
    talk = a_talk(server)
    assert talk.say("AUTH LOGIN").startswith("334 ")
    talk.hang_up()
    assert [event.why for event in server.notes.of(Disconnected)] == ["lost"]
    assert not server.notes.of(LoginFailed)


def test_a_client_that_says_nothing_in_the_middle():
    server = a_server(command_timeout=10.0)
    talk = a_talk(server)
    talk.say("AUTH LOGIN")
    server.clock.pump([1.0] * 12)
    assert talk.heard() == "421 4.4.2 waited too long\r\n"
    assert talk.is_over


@implementer(ILoginGuard)
class Strict:
    async def before(self, client, account):
        return None

    async def failed(self, client, account):
        return Reply(421, "4.7.0", "too many failed logins, come back later")

    async def doubted(self, client, account):
        raise AssertionError("everybody could say")

    async def succeeded(self, client, account):
        raise AssertionError("nobody has logged in")


def test_a_guard_ends_the_session():
    server = a_server(guard=Strict())
    talk = a_talk(server)
    assert talk.say(plain(password="wrong")) == "421 4.7.0 too many failed logins, come back later\r\n"
    assert talk.is_over
    assert server.notes.of(Disconnected)[0].why == "refused"


def test_failures_count_as_errors():
    server = a_server(settings=ServerSettings(hostname="mx.example.org", max_errors=3))
    talk = a_talk(server)
    for _ in range(2):
        assert talk.say(plain(password="wrong")).startswith("535 5.7.8 ")
    said = talk.say(plain(password="wrong"))
    assert said.startswith("535 5.7.8 ")
    assert said.endswith("421 4.7.0 too many errors\r\n")
    assert talk.is_over
    assert len(server.notes.of(LoginFailed)) == 3


def test_a_proxy_that_says_xclient_lends_nobody_its_channel():
    server = a_server(xclient=(ip_network("192.0.2.0/24"),))
    talk = a_talk(server)
    assert "SCRAM-SHA-256-PLUS" in talk.say("EHLO c")
    talk.say("XCLIENT ADDR=203.0.113.7")
    assert "SCRAM-SHA-256-PLUS" not in talk.say("EHLO c")
