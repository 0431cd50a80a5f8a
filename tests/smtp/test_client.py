"""The client's language as talks: what the server says, what we must say, and what becomes of each recipient.

Each talk is played with the server's octets in one segment for each of its turns, and octet by octet.
"""

from collections.abc import Iterator

import pytest

from mailgw.smtp.client import BadReply, ClientSession
from mailgw.smtp.client_events import Asked, ContentWanted, Event, Finished, Ready, Refused, TlsAgreed, TlsRefused
from mailgw.smtp.framing import Nature
from mailgw.testing.facts import a_shipment, an_address, an_envelope
from mailgw.values.address import Address
from mailgw.values.delivery import Fate, Handed, Recipient, Shipment

MESSAGE = b"Subject: x\r\n\r\n.dot\r\n"
WIRE = b"Subject: x\r\n\r\n..dot\r\n.\r\n"
FULL = "PIPELINING|8BITMIME|SMTPUTF8|DSN|ENHANCEDSTATUSCODES|SIZE 1000"


class Talk:
    """Plays the house's part: begins when ready, sends content when asked to."""

    def __init__(self, session: ClientSession, shipment: Shipment | None, tls: bool = False) -> None:
        self.session, self.shipment, self.tls = session, shipment, tls
        self.outcomes: dict[str, str] = {}
        self.events: list[Event] = []
        self.sent = b""

    def hear(self, data: bytes) -> None:
        try:
            self.handle(self.session.feed(data))
        except BadReply as problem:
            self.events.append(problem)  # type: ignore[arg-type]
            self.handle(self.session.lost(str(problem)))

    def handle(self, events: list[Event]) -> None:
        self.sent += self.session.take()
        for event in events:
            self.events.append(event)
            match event:
                case Ready() if self.tls and not self.session.encrypted:
                    self.session.start_tls()
                case TlsAgreed():
                    self.session.tls_started(verified=True)
                case Ready() | TlsRefused() if self.shipment:
                    shipment, self.shipment = self.shipment, None
                    self.handle(self.session.begin(shipment, Nature.of(shipment.content.chunks())))
                    self.current = shipment
                case ContentWanted():
                    for chunk in self.current.content.chunks():
                        self.sent += self.session.add_content(chunk)
                    self.sent += self.session.end_content()
                case Finished(outcomes):
                    self.outcomes = {str(a): f"{o.fate.value} {o.reply}" for a, o in outcomes.items()}
                    self.detail = outcomes
        self.sent += self.session.take()


def turns(script: str) -> Iterator[tuple[str, bytes]]:
    for line in script.strip().splitlines():
        who, _, text = line.strip().partition(" ")
        yield who, text.encode().replace(b"~", b"\r\n") + (b"" if who == "S+" else b"\r\n")


def ehlo(offers: str = FULL, verb: str = "EHLO") -> str:
    lines = ["mx", *offers.split("|")] if offers else ["mx"]
    answer = "~".join(f"250{'-' if n < len(lines) - 1 else ' '}{line}" for n, line in enumerate(lines))
    return f"S 220 mx ready\nC {verb} us.example\nS {answer}\n"


def play(script: str, shipment: Shipment | None, split: bool, lmtp: bool = False, tls: bool = False) -> Talk:
    talk = Talk(ClientSession("us.example", lmtp=lmtp, peer="mx"), shipment, tls)
    expected = b""
    for who, data in turns(script):
        if who == "C":
            expected += data
            continue
        assert talk.sent == expected, "before the server's next word"
        talk.sent = expected = b""
        for piece in [data[i : i + 1] for i in range(len(data))] if split else [data]:
            talk.hear(piece)
    assert talk.sent == expected
    return talk


def shipment(*to: str | Recipient, content: bytes = MESSAGE, **about: object) -> Shipment:
    return a_shipment(*(to or ("a@x.example",)), content=content, envelope=an_envelope("s@y.example", **about))  # type: ignore[arg-type]


MAIL = f"MAIL FROM:<s@y.example> SIZE={len(MESSAGE)}"
BODY = WIRE.decode().replace("\r\n", "~").removesuffix("~")

TALKS = {
    "pipelined: one group, then the content": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 2.1.0 ok~250 2.1.5 ok~354 go\nC {BODY}\nS 250 2.0.0 queued",
        shipment(),
        {"a@x.example": "delivered 250 2.0.0 queued"},
    ),
    "one by one without PIPELINING": (
        ehlo("") + f"C MAIL FROM:<s@y.example>\nS 250 ok\nC RCPT TO:<a@x.example>\nS 250 ok\nC RCPT TO:<b@x.example>\nS 250 ok\n"
        f"C DATA\nS 354 go\nC {BODY}\nS 250 queued",
        shipment("a@x.example", "b@x.example"),
        {"a@x.example": "delivered 250 queued", "b@x.example": "delivered 250 queued"},
    ),
    "HELO where EHLO is unknown": (
        f"S 220 old\nC EHLO us.example\nS 500 what?\nC HELO us.example\nS 250 hi\nC MAIL FROM:<s@y.example>\nS 250 ok\n"
        f"C RCPT TO:<a@x.example>\nS 251 ok\nC DATA\nS 354 go\nC {BODY}\nS 250 done",
        shipment(),
        {"a@x.example": "delivered 250 done"},
    ),
    "each recipient its own outcome": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~RCPT TO:<c@x.example>~DATA\n"
        f"S 250 ok~250 ok~550 5.1.1 unknown~450 4.2.1 busy~354 go\nC {BODY}\nS 250 queued",
        shipment("a@x.example", "b@x.example", "c@x.example"),
        {"a@x.example": "delivered 250 queued", "b@x.example": "never 550 5.1.1 unknown", "c@x.example": "later 450 4.2.1 busy"},
    ),
    "nobody accepted, DATA accepted: a lone dot": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~550 5.1.1 unknown~354 go\nC .\nS 554 5.5.1 no recipients",
        shipment(),
        {"a@x.example": "never 550 5.1.1 unknown"},
    ),
    "nobody accepted, DATA refused": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~550 5.1.1 unknown~503 5.5.1 no recipients",
        shipment(),
        {"a@x.example": "never 550 5.1.1 unknown"},
    ),
    "MAIL refused: what follows means nothing": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 450 4.7.1 not now~250 2.1.5 odd~503 5.5.1 no",
        shipment(),
        {"a@x.example": "later 450 4.7.1 not now"},
    ),
    "MAIL refused, one by one": (
        ehlo("") + "C MAIL FROM:<s@y.example>\nS 550 5.7.1 no",
        shipment("a@x.example", "b@x.example"),
        {"a@x.example": "never 550 5.7.1 no", "b@x.example": "never 550 5.7.1 no"},
    ),
    "nobody accepted, one by one: DATA is not said": (
        ehlo("") + "C MAIL FROM:<s@y.example>\nS 250 ok\nC RCPT TO:<a@x.example>\nS 550 5.1.1 unknown",
        shipment(),
        {"a@x.example": "never 550 5.1.1 unknown"},
    ),
    "DATA refused": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~451 4.3.0 not now",
        shipment(),
        {"a@x.example": "later 451 4.3.0 not now"},
    ),
    "content refused": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 554 5.7.1 spam",
        shipment(),
        {"a@x.example": "never 554 5.7.1 spam"},
    ),
    "421 in the middle": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~DATA\nS 250 ok~550 5.1.1 unknown~421 4.3.2 closing",
        shipment("a@x.example", "b@x.example"),
        {"a@x.example": "never 550 5.1.1 unknown", "b@x.example": "later 421 4.3.2 closing"},
    ),
    "421 to the dot": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 421 closing",
        shipment(),
        {"a@x.example": "later 421 4.0.0 closing"},
    ),
    "nonsense is a deferral": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS HTTP/1.1 400 Bad Request",
        shipment(),
        {"a@x.example": "later 421 4.4.2 reply line is malformed"},
    ),
    "nonsense after the dot leaves it unknown": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 999 what",
        shipment(),
        {"a@x.example": "unknown 451 4.4.2 reply line is malformed"},
    ),
    "354 where 250 belongs": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 354 go",
        shipment(),
        {"a@x.example": "later 421 4.4.2 server answered 354, which does not fit the command"},
    ),
    "250 where 354 belongs": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~250 ok",
        shipment(),
        {"a@x.example": "later 421 4.4.2 server answered 250, which does not fit the command"},
    ),
    "too many recipients: the rest in a second transaction": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~DATA\nS 250 ok~250 ok~452 4.5.3 too many~354 go\nC {BODY}\n"
        f"S 250 first\nC {MAIL}~RCPT TO:<b@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 second",
        shipment("a@x.example", "b@x.example"),
        {"a@x.example": "delivered 250 first", "b@x.example": "delivered 250 second"},
    ),
    "RCPTMAX is kept": (
        ehlo("PIPELINING|LIMITS RCPTMAX=1 MAILMAX=9")
        + f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\n"
        f"S 451 4.3.0 first\nC RSET~MAIL FROM:<s@y.example>~RCPT TO:<b@x.example>~DATA\n"
        f"S 250 ok~250 ok~250 ok~354 go\nC {BODY}\nS 250 second",
        shipment("a@x.example", "b@x.example"),
        {"a@x.example": "later 451 4.3.0 first", "b@x.example": "delivered 250 second"},
    ),
    "452 to the first recipient is an answer": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~452 4.5.3 too many~503 no",
        shipment(),
        {"a@x.example": "later 452 4.5.3 too many"},
    ),
    "parameters of DSN": (
        ehlo() + f"C {MAIL} RET=HDRS ENVID=a+2Bb~RCPT TO:<a@x.example> NOTIFY=DELAY,FAILURE ORCPT=rfc822;o+3Dp@z.example~DATA\n"
        f"S 250 ok~250 ok~354 go\nC {BODY}\nS 250 queued",
        shipment(Recipient(an_address("a@x.example"), frozenset({"FAILURE", "DELAY"}), "rfc822;o=p@z.example"), ret="HDRS", envid="a+b"),
        {"a@x.example": "delivered 250 queued"},
    ),
    "no parameters that are not offered": (
        ehlo("PIPELINING") + f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 queued",
        shipment(Recipient(an_address("a@x.example"), frozenset({"NEVER"}), "rfc822;o@z.example"), ret="FULL", envid="e", body="8BITMIME"),
        {"a@x.example": "delivered 250 queued"},
    ),
    "8BITMIME is told": (
        ehlo()
        + "C MAIL FROM:<s@y.example> SIZE=7 BODY=8BITMIME~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC ~h\u00e9~.\nS 250 queued",
        shipment(content="\r\nh\u00e9\r\n".encode()),
        {"a@x.example": "delivered 250 queued"},
    ),
    "8-bit content without 8BITMIME": (
        ehlo("PIPELINING"),
        shipment(content="\r\nh\u00e9\r\n".encode()),
        {"a@x.example": "never 554 5.6.3 message has 8-bit content, which the next hop does not take"},
    ),
    "too big, before a word is said": (
        ehlo("PIPELINING|SIZE 10"),
        shipment(),
        {"a@x.example": "never 552 5.3.4 message is larger than the 10 octets that the next hop takes"},
    ),
    "bare LF never by DATA": (
        ehlo(FULL + "|CHUNKING"),
        shipment(content=b"\r\na\n.\nb\r\n"),
        {"a@x.example": "never 554 5.6.3 message has bare CR, bare LF or NUL, which the next hop does not take"},
    ),
    "internationalized address": (
        ehlo() + f"C {MAIL} SMTPUTF8~RCPT TO:<\u00e9@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 queued",
        shipment("\u00e9@x.example", smtputf8=True),
        {"\u00e9@x.example": "delivered 250 queued"},
    ),
    "internationalized address, no SMTPUTF8: only that recipient fails": (
        ehlo("PIPELINING") + f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 queued",
        shipment("\u00e9@x.example", "a@x.example", smtputf8=True),
        {
            "\u00e9@x.example": "never 553 5.6.7 address is internationalized, which the next hop does not take",
            "a@x.example": "delivered 250 queued",
        },
    ),
    "internationalized header, no SMTPUTF8": (
        ehlo("PIPELINING|8BITMIME"),
        shipment(content="Subject: \u00e9\r\n\r\n".encode(), smtputf8=True),
        {"a@x.example": "never 550 5.6.7 message is internationalized, which the next hop does not take"},
    ),
    "REQUIRETLS in clear": (
        ehlo(FULL + "|REQUIRETLS"),
        shipment(requiretls=True),
        {"a@x.example": "never 550 5.7.10 the sender requires verified TLS, which the next hop does not provide"},
    ),
    "an address that would break the line": (
        ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 queued",
        a_shipment(Address("x\r\nQUIT", "x.example"), "a@x.example", content=MESSAGE, sender="s@y.example"),
        {"a@x.example": "delivered 250 queued", '"x\r\nQUIT"@x.example': "never 553 5.1.3 the address cannot be written in a command"},
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "octets"])
@pytest.mark.parametrize("name", TALKS)
def test_talk(name: str, split: bool) -> None:
    script, what, outcomes = TALKS[name]
    assert play(script, what, split).outcomes == outcomes


LMTP_TALKS = {
    "an answer for each recipient": (
        ehlo("PIPELINING", "LHLO") + f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~RCPT TO:<c@x.example>~DATA\n"
        f"S 250 ok~250 ok~550 5.1.1 unknown~250 ok~354 go\nC {BODY}\nS 250 2.0.0 in~452 4.2.2 full",
        {"a@x.example": "delivered 250 2.0.0 in", "b@x.example": "never 550 5.1.1 unknown", "c@x.example": "later 452 4.2.2 full"},
    ),
    "421 between the answers": (
        ehlo("PIPELINING", "LHLO") + f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~RCPT TO:<c@x.example>~DATA\n"
        f"S 250 ok~250 ok~250 ok~250 ok~354 go\nC {BODY}\nS 250 2.0.0 in~421 4.3.2 closing",
        {"a@x.example": "delivered 250 2.0.0 in", "b@x.example": "later 421 4.3.2 closing", "c@x.example": "later 421 4.3.2 closing"},
    ),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "octets"])
@pytest.mark.parametrize("name", LMTP_TALKS)
def test_lmtp_talk(name: str, split: bool) -> None:
    script, outcomes = LMTP_TALKS[name]
    assert play(script, shipment("a@x.example", "b@x.example", "c@x.example"), split, lmtp=True).outcomes == outcomes


def test_lmtp_lost_between_the_answers() -> None:
    script = ehlo("PIPELINING", "LHLO") + "C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~RCPT TO:<b@x.example>~DATA\n"
    talk = play(script + f"S 250 ok~250 ok~250 ok~354 go\nC {BODY}\nS 250 in", shipment("a@x.example", "b@x.example"), False, lmtp=True)
    talk.handle(talk.session.lost("connection lost"))
    assert talk.outcomes == {"a@x.example": "delivered 250 in", "b@x.example": "unknown 451 4.4.2 connection lost"}


@pytest.mark.parametrize(
    ("lmtp", "offers", "handed"),
    [(False, "DSN", Handed.DSN_RELAY), (False, "", Handed.RELAY), (True, "", Handed.MAILBOX), (True, "DSN", Handed.DSN_RELAY)],
)
def test_into_whose_hands(lmtp: bool, offers: str, handed: Handed) -> None:
    script = ehlo("PIPELINING" + (f"|{offers}" if offers else ""), "LHLO" if lmtp else "EHLO")
    script += f"C MAIL FROM:<s@y.example>~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 ok"
    assert play(script, shipment(), False, lmtp=lmtp).detail[an_address("a@x.example")].handed is handed


@pytest.mark.parametrize("split", [False, True], ids=["whole", "octets"])
def test_binary_content_goes_by_bdat(split: bool) -> None:
    binary = b"\r\na\n.\nb\0\r\n.\r\n"
    script = ehlo("PIPELINING|8BITMIME|CHUNKING|BINARYMIME") + "C MAIL FROM:<s@y.example> BODY=BINARYMIME~RCPT TO:<a@x.example>"
    talk = play(script, shipment(content=binary, body="BINARYMIME"), split)
    talk.sent = b""
    talk.hear(b"250 ok\r\n250 ok\r\n")
    assert talk.sent == b"BDAT %d LAST\r\n" % len(binary) + binary
    talk.hear(b"250 queued\r\n")
    assert talk.outcomes == {"a@x.example": "delivered 250 queued"}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "octets"])
def test_starttls_forgets_what_was_offered(split: bool) -> None:
    script = ehlo("STARTTLS|SIZE 1|PIPELINING") + "C STARTTLS\nS 220 go\nC EHLO us.example\nS 250-mx~250 REQUIRETLS\n"
    script += f"C MAIL FROM:<s@y.example> REQUIRETLS\nS 250 ok\nC RCPT TO:<a@x.example>\nS 250 ok\nC DATA\nS 354 go\nC {BODY}\nS 250 ok"
    assert play(script, shipment(requiretls=True), split, tls=True).outcomes == {"a@x.example": "delivered 250 ok"}


def test_requiretls_must_be_promised_after_tls() -> None:
    script = ehlo("STARTTLS|REQUIRETLS") + "C STARTTLS\nS 220 go\nC EHLO us.example\nS 250 mx"
    talk = play(script, shipment(requiretls=True), False, tls=True)
    assert talk.outcomes["a@x.example"].startswith("never 550 5.7.30")


def test_words_in_clear_behind_the_answer_to_starttls() -> None:
    talk = play(ehlo("STARTTLS") + "C STARTTLS", None, False, tls=True)
    with pytest.raises(BadReply, match="in clear"):
        talk.session.feed(b"220 go\r\n250-evil\r\n250 SIZE 1\r\n")


def test_starttls_refused_goes_on_in_clear() -> None:
    talk = play(ehlo("STARTTLS") + "C STARTTLS\nS 454 4.7.0 not now\nC MAIL FROM:<s@y.example>", shipment(), False, tls=True)
    assert any(isinstance(event, TlsRefused) for event in talk.events)


@pytest.mark.parametrize(
    "script",
    ["S 554 5.7.1 no", "S 421 4.3.2 busy", "S 450 4.7.1 later", "S 220 hi\nC EHLO us.example\nS 421 4.3.2 busy",
     "S 220 hi\nC EHLO us.example\nS 521 5.3.2 no mail", "S 220 hi\nC EHLO us.example\nS 500 no\nC HELO us.example\nS 550 5.7.1 no"],
)  # fmt: skip
def test_no_session(script: str) -> None:
    talk = play(script, shipment(), False)
    assert isinstance(talk.events[-1], Refused)
    assert talk.session.is_over


def test_no_lmtp() -> None:
    talk = play("S 220 hi\nC LHLO us.example\nS 502 5.5.2 unknown", shipment(), False, lmtp=True)
    assert isinstance(talk.events[-1], Refused)
    assert talk.events[-1].reply.is_transient


def test_a_second_shipment_needs_rset_only_after_a_failure() -> None:
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok~354 go\nC {BODY}\nS 250 ok", shipment(), False)
    talk.sent = b""
    talk.current = shipment()
    talk.handle(talk.session.begin(talk.current, Nature()))
    assert talk.sent.startswith(b"MAIL")
    talk.hear(b"250 ok\r\n550 5.1.1 no\r\n503 no\r\n")
    talk.sent = b""
    talk.handle(talk.session.begin(talk.current, Nature()))
    assert talk.sent.startswith(b"RSET\r\nMAIL")


def test_mail_refused_after_rset() -> None:
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~550 5.1.1 no~503 no", shipment(), False)
    talk.handle(talk.session.begin(shipment(), Nature()))
    talk.hear(b"250 reset\r\n450 4.7.1 not now\r\n250 odd\r\n503 no\r\n")
    assert talk.outcomes == {"a@x.example": "later 450 4.7.1 not now"}
    talk.sent = b""
    talk.handle(talk.session.begin(shipment(), Nature()))
    assert talk.sent.startswith(b"MAIL"), "nothing is open that would need RSET"


@pytest.mark.parametrize("data", [b"250 not yet\r\n", b"554 5.7.1 stop\r\n"])
def test_an_answer_in_the_midst_of_the_content(data: bytes) -> None:
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA", shipment(), False)
    talk.sent = b""
    events = talk.session.feed(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert events == [ContentWanted()]
    talk.session.add_content(b"Sub")
    talk.hear(data)
    expected = "later 421 4.4.2 server answered before" if data.startswith(b"2") else "never 554 5.7.1 stop"
    assert talk.outcomes["a@x.example"].startswith(expected)
    assert talk.session.is_over


def test_lost_before_a_word_was_said_can_be_repeated() -> None:
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA", shipment(), False)
    talk.handle(talk.session.lost("connection lost"))
    finished = talk.events[-1]
    assert isinstance(finished, Finished)
    assert finished.untouched
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok", shipment(), False)
    talk.handle(talk.session.lost("connection lost"))
    finished = talk.events[-1]
    assert isinstance(finished, Finished)
    assert not finished.untouched
    assert finished.outcomes[an_address("a@x.example")].fate is Fate.LATER


def test_the_same_recipient_twice_is_said_once() -> None:
    talk = play(
        ehlo("") + "C MAIL FROM:<s@y.example>\nS 250 ok\nC RCPT TO:<a@x.example>\nS 250 ok\nC DATA",
        shipment("a@x.example", "a@x.example"),
        False,
    )
    assert not talk.outcomes


ASKS = {
    "known": ("C MAIL FROM:<>~RCPT TO:<a@x.example>\nS 250 ok~250 2.1.5 ok", 250, True),
    "unknown": ("C MAIL FROM:<>~RCPT TO:<a@x.example>\nS 250 ok~550 5.1.1 unknown", 550, True),
    "MAIL refused": ("C MAIL FROM:<>~RCPT TO:<a@x.example>\nS 451 4.3.0 no~503 5.5.1 first", 451, False),
    "closing": ("C MAIL FROM:<>~RCPT TO:<a@x.example>\nS 421 4.3.2 bye", 421, False),
}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "octets"])
@pytest.mark.parametrize("name", ASKS)
def test_ask(name: str, split: bool) -> None:
    talk = play(ehlo("PIPELINING"), None, split)
    talk.session.ask(an_address("a@x.example"))
    talk.handle([])
    script, code, is_final = ASKS[name]
    expected = b""
    for who, data in turns(script):
        if who == "C":
            expected = data
        else:
            assert talk.sent == expected
            for piece in [data[i : i + 1] for i in range(len(data))] if split else [data]:
                talk.hear(piece)
    answer = talk.events[-1]
    assert isinstance(answer, Asked)
    assert (answer.reply.code, answer.is_final) == (code, is_final)


def test_ask_twice_one_by_one() -> None:
    talk = play(ehlo(""), None, False)
    for _ in range(2):
        talk.sent = b""
        talk.session.ask(an_address("a@x.example"))
        talk.handle([])
        if talk.sent == b"RSET\r\n":
            talk.sent = b""
            talk.hear(b"250 ok\r\n")
        assert talk.sent == b"MAIL FROM:<>\r\n"
        talk.hear(b"250 ok\r\n")
        assert talk.sent.endswith(b"RCPT TO:<a@x.example>\r\n")
        talk.hear(b"250 ok\r\n")
    assert sum(isinstance(event, Asked) for event in talk.events) == 2


def test_quit() -> None:
    talk = play(ehlo(), None, False)
    talk.session.quit()
    talk.handle([])
    assert talk.sent == b"QUIT\r\n"
    talk.hear(b"221 bye\r\n")
    assert talk.session.patience is None


def test_patience() -> None:
    session = ClientSession("us.example")
    assert session.patience == 300
    talk = play(ehlo() + f"C {MAIL}~RCPT TO:<a@x.example>~DATA\nS 250 ok~250 ok", shipment(), False)
    assert talk.session.patience == 120
    assert talk.session.feed(b"354 go\r\n") == [ContentWanted()]
    assert talk.session.patience == 180
    talk.session.end_content()
    assert talk.session.patience == 600
