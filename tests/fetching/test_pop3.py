"""POP3 sessions without a socket: whole talks, byte by byte and in one segment, and everything that a client must not be able to do."""

from hashlib import sha256
from ipaddress import ip_address
from random import Random

import pytest
from attrs import define, field
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IReactorThreads, ISSLTransport
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from zope.interface import alsoProvides, implementer

from mailgw.credentials import AccountsUnavailable, LoginRefused
from mailgw.fetching.letting_in import Fetching
from mailgw.fetching.sessions import Pop3Factory
from mailgw.interfaces import MemoryUnavailable
from mailgw.journal import Journal
from mailgw.testing import ThreadsAtOnce
from mailgw.values.reply import Reply

FIRST = b"From: a@example.com\nSubject: one\n\n.dot\n..dots\nhello\n"
SECOND = b".begins with a dot\n\nx\n.y\n" + b"z" * 3 + b"\n"


@implementer(IReactorThreads)
class Reactor(Clock, ThreadsAtOnce):
    """Timers and threads in one."""

    def __init__(self):
        Clock.__init__(self)
        ThreadsAtOnce.__init__(self)


@define
class Porter:
    """Knows anna, whose password is "pass word"."""

    asked: list = field(factory=list)

    async def login_with_password(self, client, username, password, mechanism):
        self.asked.append((str(client.ip), client.tls is not None, username, mechanism))
        if username == "down":
            raise AccountsUnavailable("the directory is down")
        if username == "banned":
            raise LoginRefused(Reply(421, "4.7.0", "too many failed logins from your network"))
        if username == "broken":
            raise RuntimeError("secret " + password)
        if password != "pass word":
            raise UnauthorizedLogin
        return username


class Handle:
    def get_protocol_version_name(self):
        return "TLSv1.3"

    def get_cipher_name(self):
        return "TLS_AES_256_GCM_SHA384"

    def get_servername(self):
        return b"pop.example.org"


class Transport(StringTransport):
    tls = None

    def startTLS(self, tls):  # noqa: N802
        self.tls = tls
        alsoProvides(self, ISSLTransport)

    def setTcpNoDelay(self, enabled):  # noqa: N802
        pass

    def getHandle(self):  # noqa: N802
        return Handle()


class Notes:
    def __init__(self):
        self.events = []

    def note(self, event):
        self.events.append(event)


class House:
    """A POP3 listener with one mailbox."""

    def __init__(self, folder, **limits):
        self.folder = folder
        self.reactor, self.porter, self.notes, self.fetches = Reactor(), Porter(), Notes(), []
        self.trouble = None
        for number, text in enumerate((FIRST, SECOND)):
            (folder / "anna" / "new").mkdir(parents=True, exist_ok=True)
            (folder / "anna" / "new" / f"{number}.x.host").write_bytes(text)
        fetching = Fetching(
            listener="pop",
            porter=self.porter,
            journal=Journal((self.notes,)),
            reactor=self.reactor,
            folder_of=lambda login: None if login == "nobody" else folder / login,
            fetched=self.fetched,
            peer_of=lambda address: (ip_address(address.host), address.port),
        )
        self.factory = Pop3Factory(fetching, Random(1), tls="our certificate", **limits)

    async def fetched(self, ip, login):
        if self.trouble:
            raise self.trouble
        self.fetches.append((str(ip), login))

    def connect(self, ip="127.0.0.1", tls=False):
        return Talk(self, ip, tls)

    def files(self):
        return sorted(path.name for path in (self.folder / "anna" / "new").iterdir())


class Talk:
    def __init__(self, house, ip, tls):
        self.house = house
        self.protocol = house.factory.buildProtocol(IPv4Address("TCP", ip, 40000))
        self.transport = Transport()
        if tls:
            self.transport.startTLS("from the start")
        self.protocol.makeConnection(self.transport)

    def say(self, *lines, piece=0):
        """The answer to commands that are sent together."""
        self.transport.clear()
        data = b"".join(line if isinstance(line, bytes) else line.encode() + b"\r\n" for line in lines)
        for start in range(0, len(data), piece or len(data)):
            self.protocol.dataReceived(data[start : start + (piece or len(data))])
        return self.heard()

    def heard(self):
        for _ in range(20):
            self.house.reactor.advance(0)
            while self.transport.producer is not None and not self.transport.streaming:
                self.transport.producer.resumeProducing()
        return self.transport.value().decode()

    def log_in(self, user="anna", password="pass word"):
        return self.say(f"USER {user}", f"PASS {password}")


@pytest.fixture
def house(tmp_path):
    return House(tmp_path)


def uidl(number):
    return sha256(f"{number}.x.host".encode()).hexdigest()[:40]


WHOLE = (
    "CAPA", "USER anna", "PASS pass word", "STAT", "LIST", "LIST 2", "LIST 3", "UIDL", "UIDL 1", "RETR 1", "RETR 2", "TOP 1 1",
    "NOOP", "DELE 1", "RETR 1", "LIST", "DELE 1", "RSET", "STAT", "DELE 2", "QUIT",
)  # fmt: skip


def whole_answer():
    return (
        "+OK I can do the following:\r\nTOP\r\nUIDL\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nEXPIRE NEVER\r\nUSER\r\nSTLS\r\n.\r\n"
        "+OK USER accepted, send PASS\r\n+OK 2 messages\r\n"
        "+OK 2 92\r\n+OK 2 messages\r\n1 58\r\n2 34\r\n.\r\n+OK 2 34\r\n-ERR no such message\r\n"
        f"+OK 2 messages\r\n1 {uidl(0)}\r\n2 {uidl(1)}\r\n.\r\n+OK 1 {uidl(0)}\r\n"
        "+OK message follows\r\nFrom: a@example.com\r\nSubject: one\r\n\r\n..dot\r\n...dots\r\nhello\r\n.\r\n"
        "+OK message follows\r\n..begins with a dot\r\n\r\nx\r\n..y\r\nzzz\r\n.\r\n"
        "+OK message follows\r\nFrom: a@example.com\r\nSubject: one\r\n\r\n..dot\r\n.\r\n"
        "+OK \r\n+OK \r\n"
        "-ERR no such message\r\n+OK 1 messages\r\n2 34\r\n.\r\n-ERR no such message\r\n+OK \r\n+OK 2 92\r\n+OK \r\n+OK \r\n"
    )


@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_whole_session(house, piece):
    talk = house.connect()
    assert talk.heard() == "+OK POP3 ready\r\n"
    assert talk.say(*WHOLE, piece=piece) == whole_answer()
    assert talk.transport.disconnecting
    assert house.files() == ["0.x.host"]
    assert house.fetches == [("127.0.0.1", "anna")]
    talk.protocol.connectionLost()
    assert [type(event).__name__ for event in house.notes.events] == ["Connected", "Disconnected"]
    assert house.notes.events[-1].why == "quit"
    assert house.factory.sessions == 0
    assert not house.reactor.getDelayedCalls()


def test_without_quit_nothing_is_deleted(house):
    talk = house.connect()
    talk.log_in()
    talk.say("DELE 1", "DELE 2")
    talk.protocol.connectionLost()
    assert house.files() == ["0.x.host", "1.x.host"]


@pytest.mark.parametrize(
    ("user", "password", "answer"),
    [
        ("anna", "wrong", "-ERR [AUTH] wrong name or password\r\n"),
        ("ghost", "pass", "-ERR [AUTH] wrong name or password\r\n"),
        ("down", "x", "-ERR [SYS/TEMP] logins are not possible now, try again later\r\n"),
        ("banned", "x", "-ERR [AUTH] too many failed logins from your network\r\n"),
        ("broken", "x", "-ERR [SYS/TEMP] local problem, try again later\r\n"),
        ("nobody", "pass word", "-ERR [SYS/PERM] you have no mailbox here\r\n"),
        ("ghost", "pass word", "+OK 0 messages\r\n"),
    ],
)
def test_logins(house, user, password, answer):
    talk = house.connect()
    assert talk.log_in(user, password) == "+OK USER accepted, send PASS\r\n" + answer
    assert talk.transport.disconnecting == (user == "banned")
    assert house.fetches == ([("127.0.0.1", "ghost")] if answer.startswith("+OK") else [])
    if not talk.transport.disconnecting and answer.startswith("-ERR"):
        assert talk.say("STAT") == "-ERR log in first\r\n"


def test_a_name_that_is_no_text(house):
    talk = house.connect()
    assert talk.say(b"USER \xff\r\n", "PASS x").endswith("-ERR [AUTH] wrong name or password\r\n")
    assert house.porter.asked == []


def test_what_nobody_can_remember_does_not_stop_a_fetch(house):
    house.trouble = MemoryUnavailable("gone")
    assert house.connect().log_in().endswith("+OK 2 messages\r\n")
    assert [event.component for event in house.notes.events if type(event).__name__ == "Fault"] == ["pop3"]


# ── TLS ──


def test_no_password_in_clear_over_the_network(house):
    talk = house.connect(ip="192.0.2.1")
    assert "USER" not in talk.say("CAPA")
    assert talk.log_in() == "-ERR [AUTH] no password in clear: begin with STLS\r\n-ERR USER comes first\r\n"
    assert talk.say("STLS") == "+OK begin TLS\r\n"
    assert talk.transport.tls == "our certificate"
    assert "USER" in talk.say("CAPA")
    assert talk.say("STLS") == "-ERR TLS is not possible now\r\n"
    assert talk.log_in().endswith("+OK 2 messages\r\n")
    assert house.porter.asked == [("192.0.2.1", True, "anna", "POP3")]
    assert house.fetches == [("192.0.2.1", "anna")]


def test_tls_from_the_first_byte(house):
    talk = house.connect(ip="192.0.2.1", tls=True)
    assert "STLS" not in talk.say("CAPA")
    assert talk.log_in().endswith("+OK 2 messages\r\n")


def test_what_stands_behind_stls_is_forgotten(house):
    talk = house.connect()
    assert talk.say("USER evil", "STLS", "USER anna", "PASS pass word", b"STA") == "+OK USER accepted, send PASS\r\n+OK begin TLS\r\n"
    assert house.porter.asked == []
    assert talk.say("T") == "-ERR cannot understand that\r\n"
    assert talk.say("PASS pass word") == "-ERR USER comes first\r\n"


def test_no_tls_after_the_login(house):
    talk = house.connect()
    talk.log_in()
    assert talk.say("STLS") == "-ERR TLS is not possible now\r\n"


# ── Clients that do what they should not ──


@pytest.mark.parametrize(
    "line",
    ["STAT", "RETR 1", "XYZZY", "", " ", "APOP anna 00", "AUTH", "AUTH PLAIN", "RPOP x", "LAST", "USER", "STLS now", "CAPA x", "PASS x"],
)
def test_before_the_login(house, line):
    talk = house.connect()
    answer = talk.say(line)
    assert answer.startswith("-ERR ")
    assert answer.count("\r\n") == 1
    assert "Error" not in answer


@pytest.mark.parametrize(
    "line",
    ["RETR", "RETR x", "RETR 0", "RETR -1", "RETR 99", "TOP 1", "TOP 1 -1", "DELE", "DELE x", "DELE 0", "UIDL 9", "LIST x", "USER anna"],
)
def test_after_the_login(house, line):
    talk = house.connect()
    talk.log_in()
    answer = talk.say(line)
    assert answer.startswith("-ERR ")
    assert answer.count("\r\n") == 1
    assert talk.say("STAT") == "+OK 2 92\r\n"


def test_a_message_that_another_program_took(house):
    talk = house.connect()
    talk.log_in()
    (house.folder / "anna" / "new" / "0.x.host").unlink()
    assert talk.say("RETR 1").startswith("-ERR ")
    assert talk.say("RETR 2").startswith("+OK message follows\r\n..begins")


def test_too_many_errors(house):
    talk = house.connect()
    assert talk.say(*["XYZZY"] * 30).count("-ERR") == 20
    assert talk.transport.disconnecting


def test_too_long_a_line(house):
    talk = house.connect()
    talk.say("USER " + "x" * 2000)
    assert talk.transport.disconnecting


def test_silence(house):
    talk = house.connect()
    house.reactor.advance(599)
    assert not talk.transport.disconnecting
    house.reactor.advance(1)
    assert talk.transport.disconnecting


def test_too_many_sessions(tmp_path):
    house = House(tmp_path, max_sessions=3, max_sessions_per_client=2)
    clients = ("192.0.2.1", "192.0.2.1", "192.0.2.1", "2001:db8::1", "2001:db8::2")
    talks = [house.connect(ip) for ip in clients]
    good, theirs = "+OK POP3 ready", "-ERR [SYS/TEMP] too many connections from your address"
    alls = "-ERR [SYS/TEMP] too many connections, try again later"
    assert [talk.heard().strip() for talk in talks] == [good, good, theirs, good, alls]
    talks[2].protocol.connectionLost()
    talks[4].protocol.connectionLost()
    assert house.factory.sessions == 3
    for talk in (talks[0], talks[1], talks[3]):
        talk.protocol.connectionLost()
    assert house.factory.sessions == 0
    assert house.connect("192.0.2.1").heard() == "+OK POP3 ready\r\n"


def test_an_ipv6_client_has_one_network(tmp_path):
    house = House(tmp_path, max_sessions_per_client=1)
    talks = [house.connect(ip) for ip in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")]
    assert [talk.heard()[:4] for talk in talks] == ["+OK ", "-ERR", "+OK "]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64])
def test_dots_at_the_seams(house, size):
    protocol = house.connect().protocol
    text = b".a\n.\n..b\n\n.c"
    protocol._at_line_start = True
    sent = b"".join(protocol.transformChunk(text[start : start + size]) for start in range(0, len(text), size))
    assert sent == b"..a\r\n..\r\n...b\r\n\r\n..c"


# ── Clients that take nothing ──


def test_commands_wait_for_a_client_that_takes_no_answers(house):
    talk = house.connect()
    talk.heard()
    assert talk.transport.streaming
    talk.transport.producer.pauseProducing()  # as transports do with a full buffer
    assert talk.say("CAPA", "NOOP", "USER anna") == ""
    talk.transport.producer.resumeProducing()
    assert talk.heard().endswith(".\r\n-ERR log in first\r\n+OK USER accepted, send PASS\r\n")
    talk.transport.producer.pauseProducing()
    assert talk.say(*["CAPA"] * 1001) == ""
    assert talk.transport.disconnecting
    assert talk.transport.producer is None  # which TLS would wait for


def test_a_list_waits_until_the_one_before_was_taken(house):
    talk = house.connect()
    talk.log_in()
    talk.transport.clear()
    talk.protocol.dataReceived(b"UIDL\r\n" * 5)
    assert talk.transport.value().count(b"+OK") == 1
    assert talk.heard().count("+OK 2 messages\r\n") == 5
    assert talk.transport.streaming


def test_a_list_of_nothing(house):
    talk = house.connect()
    talk.log_in("ghost")
    assert talk.say("LIST", "UIDL") == "+OK 0 messages\r\n.\r\n" * 2


def test_a_client_that_takes_no_message_is_not_waited_for_without_end(house):
    talk = house.connect()
    talk.log_in()
    talk.protocol.dataReceived(b"RETR 1\r\n")
    house.reactor.advance(599)
    talk.transport.producer.resumeProducing()  # it takes something
    house.reactor.advance(599)
    assert not talk.transport.disconnecting
    house.reactor.advance(1)
    assert talk.transport.disconnected  # aborted
    talk.transport.producer.stopProducing()
    talk.protocol.connectionLost()
    assert house.notes.events[-1].why == "time-out"


def test_what_cannot_be_deleted_is_said_at_the_end(house):
    talk = house.connect()
    talk.log_in()
    path = house.folder / "anna" / "new" / "0.x.host"
    path.unlink()
    path.mkdir()
    assert talk.say("DELE 1", "DELE 2", "QUIT") == "+OK \r\n+OK \r\n-ERR [SYS/TEMP] some messages could not be deleted\r\n"
    assert talk.transport.disconnecting
    assert house.files() == ["0.x.host"]


def test_messages_that_are_not_there_are_no_errors_of_the_client(house):
    talk = house.connect()
    talk.log_in()
    assert talk.say(*["RETR 9"] * 30) == "-ERR no such message\r\n" * 30
    assert talk.say("STAT").startswith("+OK")


def test_the_size_of_a_text_without_a_line_end_is_what_is_sent(house):
    (house.folder / "anna" / "new" / "2.x.host").write_bytes(b"a: b\n\nthe end")
    talk = house.connect()
    talk.log_in()
    assert talk.say("RETR 3") == "+OK message follows\r\na: b\r\n\r\nthe end\r\n.\r\n"
    assert talk.say("LIST 3") == f"+OK 3 {len('a: b..' + '..' + 'the end..')}\r\n"
