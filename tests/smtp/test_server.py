"""What dialogs cannot show: AUTH under TLS, EXPN, soft bounces, bounds, and that no octets make the engine stumble."""

from base64 import b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.smtp.events import Auth, AuthEnd, AuthResponse, Closing, Data, Expand, Hello, Mail, Piece, Quit, Rcpt, Reset, StartTls
from mailgw.smtp.server import ServerEngine, ServerSettings
from mailgw.values.reply import Reply

OK = Reply(250, "2.0.0", "ok")
AUTHENTICATED = Reply(235, "2.7.0", "welcome")


def engine(tls=True, **settings):
    made = ServerEngine(ServerSettings(hostname="mx.example.org", starttls=True, authenticates=True, **settings), tls=tls)
    made.receive(b"EHLO c\r\n")
    assert isinstance(made.next_event(), Hello)
    made.offer(("CRAM-MD5", "PLAIN", "LOGIN") if tls else ())
    made.answer(OK)
    made.hello = made.take_output()
    return made


def hear(made, line):
    made.receive(line + b"\r\n")
    event = made.next_event()
    return event if event is not None else made.take_output().decode().strip()


def test_what_is_offered_is_listed():
    assert b"250-AUTH CRAM-MD5 PLAIN LOGIN\r\n" in engine().hello
    assert b"AUTH" in hear(engine(), b"HELP").encode()
    assert b"AUTH" not in engine(tls=False).hello
    assert "AUTH" not in hear(engine(tls=False), b"HELP")
    assert hear(engine(tls=False), b"AUTH PLAIN") == "538 5.7.11 authentication needs TLS"


def test_without_accounts_there_is_no_auth():
    made = ServerEngine(ServerSettings(hostname="mx.example.org"), tls=True)
    assert hear(made, b"AUTH PLAIN") == "502 5.5.1 command not offered"


def test_auth_needs_ehlo():
    made = ServerEngine(ServerSettings(hostname="mx.example.org", authenticates=True), tls=True)
    assert hear(made, b"AUTH PLAIN") == "503 5.5.1 say EHLO first"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"AUTH PLAIN", Auth("PLAIN", None)),
        (b"auth login", Auth("LOGIN", None)),
        (b"AUTH PLAIN =", Auth("PLAIN", b"")),
        (b"AUTH PLAIN " + b64encode(b"\0u\0p"), Auth("PLAIN", b"\0u\0p")),
        (b"AUTH PLAIN " + b64encode(b"\0u\0" + b"p" * 8000), Auth("PLAIN", b"\0u\0" + b"p" * 8000)),
        (b"AUTH PLAIN !!", "501 5.5.2 not valid base64"),
        (b"AUTH PLAIN AHUAcA== AHUAcA==", "501 5.5.2 not valid base64"),
        (b"AUTH CRAM-MD5", Auth("CRAM-MD5", None)),
        (b"AUTH CRAM-MD5 AHUAcA==", "501 5.7.0 mechanism takes no initial response"),
        (b"AUTH CRAM-MD5 =", "501 5.7.0 mechanism takes no initial response"),
        (b"AUTH GSSAPI", "504 5.5.4 authentication mechanism not offered"),
        (b"AUTH", "501 5.5.4 syntax: AUTH mechanism [initial-response]"),
        (b"AUTH  PLAIN", "501 5.5.4 syntax: AUTH mechanism [initial-response]"),
        (b"AUTH \xff", "504 5.5.4 authentication mechanism not offered"),
    ],
)
def test_auth_begins(line, expected):
    assert hear(engine(), line) == expected


def test_auth_goes_on_with_challenges():
    made = engine()
    hear(made, b"AUTH LOGIN")
    made.challenge(b"Username:")
    assert made.take_output() == b"334 VXNlcm5hbWU6\r\n"
    assert hear(made, b64encode(b"somebody")) == AuthResponse(b"somebody")
    made.challenge(b"Password:")
    made.take_output()
    assert hear(made, b64encode(b"x" * 6000)) == AuthResponse(b"x" * 6000)
    made.answer(AUTHENTICATED)
    assert made.take_output() == b"235 2.7.0 welcome\r\n"
    assert made.authenticated
    assert hear(made, b"AUTH PLAIN") == "503 5.5.1 authenticated already"
    assert isinstance(hear(made, b"MAIL FROM:<a@example.com> AUTH=a+40example.com"), Mail)
    made.answer(OK)
    assert made.take_output() == b"250 2.0.0 ok\r\n"
    assert hear(made, b"AUTH PLAIN") == "503 5.5.1 not allowed inside a mail transaction"


@pytest.mark.parametrize(
    ("response", "reply"),
    [
        (b"*", "501 5.7.0 authentication cancelled"),
        (b"no base64!", "501 5.5.2 not valid base64"),
        (b"=", "501 5.5.2 not valid base64"),
        (b"x" * 13000, "500 5.5.6 authentication exchange line is too long"),
        (b"AHUA\rcA==", "500 5.5.2 line has a bare CR or a NUL octet"),
    ],
    ids=["cancelled", "nonsense", "equals sign", "endless", "bare CR"],
)
def test_auth_ends_early(response, reply):
    made = engine()
    hear(made, b"AUTH LOGIN")
    made.challenge(b"Username:")
    made.take_output()
    made.receive(response + b"\r\n")
    event = made.next_event()
    assert isinstance(event, AuthEnd)
    made.answer(event.reply)
    assert made.take_output().decode() == f"{reply}\r\n"
    assert not made.authenticated
    assert hear(made, b"NOOP") == "250 2.0.0 ok"


def test_an_empty_line_is_an_empty_response():
    made = engine()
    hear(made, b"AUTH LOGIN")
    made.challenge(b"")
    assert made.take_output() == b"334 \r\n"
    assert hear(made, b"") == AuthResponse(b"")


def test_only_auth_may_be_long():
    made = engine()
    assert hear(made, b"NOOP " + b"x" * 3000) == "500 5.5.2 line is too long"
    assert hear(made, b"AUTH PLAIN " + b"x" * 13000) == "500 5.5.2 line is too long"


def test_tls_makes_a_login_forgotten():
    made = engine(tls=False)
    made.authenticated = True
    made.tls_started()
    assert not made.authenticated


def test_refused_auth_leaves_the_session_as_it_was():
    made = engine(require_auth=True)
    hear(made, b"AUTH PLAIN AHUAcA==")
    made.answer(Reply(535, "5.7.8", "no"))
    made.take_output()
    assert hear(made, b"MAIL FROM:<a@example.com>") == "530 5.7.0 authentication required"
    assert isinstance(hear(made, b"AUTH PLAIN AHUAcA=="), Auth)


def test_expn_where_there_is_a_table():
    assert hear(engine(expands=True), b"EXPN staff") == Expand("staff")
    assert hear(engine(expands=True), b"EXPN") == "501 5.5.4 syntax: EXPN name"


def test_soft_bounce_makes_every_5yz_a_4yz():
    made = engine(soft_bounce=True)
    assert hear(made, b"XYZZY") == "400 4.5.2 command not recognized"
    hear(made, b"MAIL FROM:<a@example.com>")
    made.answer(Reply(550, "5.7.1", "no"))
    assert made.take_output() == b"450 4.7.1 no\r\n"
    made.receive(b"BDAT x\r\n")
    assert isinstance(made.next_event(), Closing)
    assert made.take_output() == b"421 4.5.4 syntax: BDAT size [LAST]\r\n"


def test_soft_bounce_refuses_no_session_for_good():
    made = ServerEngine(ServerSettings(hostname="mx.example.org", soft_bounce=True))
    made.greet(Reply(554, "5.7.1", "no"))
    assert made.take_output() == b"421 4.7.1 no\r\n"


def test_limits_are_said():
    assert b"LIMITS RCPTMAX=7\r\n" in engine(max_recipients=7).hello


ANSWERS = {
    Hello: [OK],
    Mail: [OK, Reply(550, "5.7.1", "no"), Reply(451, "4.3.0", "later")],
    Rcpt: [OK, Reply(550, "5.1.1", "no")],
    Data: [None, None, Reply(451, "4.3.0", "later")],
    Reset: [OK],
    StartTls: [Reply(220, "2.0.0", "go")],
    Auth: [AUTHENTICATED, Reply(535, "5.7.8", "no"), b"", b"challenge"],
    AuthResponse: [AUTHENTICATED, Reply(535, "5.7.8", "no"), b"challenge"],
    Quit: [Reply(221, "2.0.0", "bye")],
}
COMMANDS = [
    *[b"EHLO c", b"HELO c"],
    *[ b"MAIL FROM:<a@b.example>", b"MAIL FROM:<> BODY=BINARYMIME", b"RCPT TO:<c@d.example>", b"DATA", b"RSET", b"NOOP"],
    *[b"BDAT 3", b"BDAT 5 LAST", b"BDAT 0 LAST", b"QUIT", b"STARTTLS", b"AUTH PLAIN", b"*", b".", b"", b"a\nb", b"\xff\0", b"x" * 3000],
]
WORDS = st.sampled_from(COMMANDS)


@given(st.lists(WORDS, max_size=30), st.lists(st.integers(1, 60), min_size=1, max_size=30), st.data())
def test_whatever_comes_each_answer_is_whole(words, cuts, data):
    made = ServerEngine(ServerSettings(hostname="mx.example.org", starttls=True, authenticates=True, max_errors=50))
    wire = b"".join(word + b"\r\n" for word in words)
    said, over, position, turn = b"", False, 0, 0
    while position < len(wire) and not over:
        cut = cuts[turn % len(cuts)]
        turn += 1
        made.receive(wire[position : position + cut])
        position += cut
        while (event := made.next_event()) is not None:
            if isinstance(event, Closing):
                over = True
                break
            if isinstance(event, Piece):
                if event.last:
                    made.answer(event.problem or OK)
                continue
            if isinstance(event, AuthEnd):
                made.answer(event.reply)
                continue
            if isinstance(event, Hello):
                made.offer(("PLAIN",))
            answer = data.draw(st.sampled_from(ANSWERS[type(event)]))
            if isinstance(answer, bytes):
                made.challenge(answer)
            elif answer is None:
                made.go_ahead()
            else:
                made.answer(answer)
            if isinstance(event, StartTls):
                made.tls_started()
            if isinstance(event, Quit):
                over = True
                break
        said += made.take_output()
        assert made.buffered <= 12288
    for line in said.split(b"\r\n")[:-1]:
        assert line[:3].isdigit()
        assert line[3:4] in (b" ", b"-")
        assert line[:1] in b"235" or line[3:].lstrip(b" -")[:2] in (b"4.", b"5.")
    assert said == b"" or said.endswith(b"\r\n")
