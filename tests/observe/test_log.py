import io
import json
import re
from io import StringIO

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.internet.udp import Port
from twisted.logger import LogPublisher, formatEvent, globalLogPublisher, textFileLogObserver
from twisted.names import dns
from twisted.python import log

from mailgw.dns.question import _Exchange, question
from mailgw.journal import (
    Accepted,
    Bounced,
    Connected,
    Delayed,
    Delivered,
    Disconnected,
    Failed,
    Fault,
    Held,
    Ordered,
    Refused,
)
from mailgw.observe.json_lines import JsonLines
from mailgw.observe.log import Log, line_of, pass_on, quicken
from mailgw.values.address import NULL, Address
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

ANNA, BEN = Address.parse("anna@example.org"), Address.parse("ben@example.net")
OK, LATER, NO = Reply(250, "2.0.0", "ok"), Reply(451, "4.4.1", "no connection"), Reply(550, "5.7.1", "relaying denied")

EVENTS = [
    (Connected("k7", "mx", "192.0.2.1:40000"), "session=k7 connect listener=mx client=192.0.2.1:40000"),
    (Disconnected("k7", "time-out", 2), "session=k7 disconnect why=time-out messages=2"),
    (
        Refused("k7", "rcpt", NO, "permit", "a@example.com", "b@example.com"),
        'session=k7 refused stage=rcpt reply="550 5.7.1 relaying denied" by=permit sender=a@example.com recipient=b@example.com',
    ),
    (
        Accepted("k7", 12, ANNA, (Recipient(BEN), Recipient(ANNA)), 2048),
        "session=k7 accepted message=12 sender=anna@example.org recipients=ben@example.net,anna@example.org size=2048",
    ),
    (Accepted("k7", 12, NULL, [Recipient(BEN)], 1), "session=k7 accepted message=12 sender=<> recipients=ben@example.net size=1"),
    (Held("k7", 12, "spam", "looks odd"), 'session=k7 held message=12 by=spam why="looks odd"'),
    (
        Delivered("k7", 12, "ben@example.net", "internet", "192.0.2.1:25", OK, 0.0412),
        'session=k7 delivered message=12 recipient=ben@example.net gateway=internet peer=192.0.2.1:25 reply="250 2.0.0 ok" seconds=0.041',
    ),
    (
        Delayed("k7", 12, "ben@example.net", "internet", "", LATER, 300.0),
        'session=k7 delayed message=12 recipient=ben@example.net gateway=internet reply="451 4.4.1 no connection" next_attempt=300.000',
    ),
    (
        Failed("k7", 12, "ben@example.net", "internet", "mx.example.net", NO),
        'session=k7 failed message=12 recipient=ben@example.net gateway=internet peer=mx.example.net reply="550 5.7.1 relaying denied"',
    ),
    (Bounced("k7", 12, 13, "failed", "anna@example.org"), "session=k7 bounced message=12 dsn=13 action=failed to=anna@example.org"),
    (Ordered("retry", "domain example.org", 3), 'session=- ordered order=retry selection="domain example.org" recipients=3'),
    (Fault("", "spam", "failed: RuntimeError('x')"), "session=- fault component=spam problem=\"failed: RuntimeError('x')\""),
]


def logged(*events):
    """What twisted.logger makes of events, without times."""
    file = io.StringIO()
    log = Log(textFileLogObserver(file, timeFormat="T"))
    for event in events:
        log.note(event)
    return file.getvalue()


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=[line.split()[1] + f" {number}" for number, (_, line) in enumerate(EVENTS)])
def test_one_line_for_one_event(event, line):
    assert line_of(event) == line
    level = "error" if isinstance(event, Fault) else "info"
    assert logged(event) == f"T [mailgw#{level}] {line}\n"


@pytest.mark.parametrize(
    ("problem", "written"),
    [
        pytest.param("a b", '"a b"', id="space"),
        pytest.param("a=b", '"a=b"', id="equals sign"),
        pytest.param('say "x"', r'"say \"x\""', id="quotes"),
        pytest.param("a\\b", r'"a\\b"', id="backslash"),
        pytest.param("a\r\nsession=k8", r'"a\x0d\x0asession=k8"', id="forged line"),
        pytest.param("a\x1b[31m", r'"a\x1b[31m"', id="terminal control"),
        pytest.param("jörg", '"jörg"', id="letters beyond ASCII"),
        pytest.param("a\u202eb", r'"a\u202eb"', id="writing direction"),
        pytest.param("a\u2028b", r'"a\u2028b"', id="line separator"),
        pytest.param("a\x85b", r'"a\x85b"', id="C1 control"),
        pytest.param("a\u00a0b", r'"a\xa0b"', id="no-break space"),
        pytest.param("a\U000e0001b", r'"a\U000e0001b"', id="beyond the first plane"),
        pytest.param("\ud800", r'"\ud800"', id="surrogate"),
        pytest.param("{problem}", '"{problem}"', id="braces"),
    ],
)
def test_odd_characters(problem, written):
    assert line_of(Fault("k7", "spam", problem)) == f"session=k7 fault component=spam problem={written}"
    assert logged(Fault("k7", "spam", problem)).endswith(f" problem={written}\n")


@given(st.text(), st.text())
def test_nobody_forges_a_line_or_a_field(session, recipient):
    line = logged(Failed(session or "x", 12, recipient, "internet", "", NO))
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    fields = outside_quotes(line)
    assert [name for name in fields.split() if "=" in name][-1].startswith("reply=")
    assert fields.count("=") == 4 + bool(recipient)


def outside_quotes(line):
    kept, quoted, escaped = "", False, False
    for character in line:
        if escaped:
            escaped = False
        elif quoted and character == "\\":
            escaped = True
        elif character == '"':
            quoted = not quoted
        elif not quoted:
            kept += character
    return kept


def test_a_traceback_follows_indented_and_cannot_forge_either():
    text = logged(Fault("k7", "spam", "failed", 'Traceback:\n  File "x.py"\nOdd: {a}\x1b\u202e\n'))
    assert text == (
        'T [mailgw#error] session=k7 fault component=spam problem=failed\n\tTraceback:\n\t  File "x.py"\n\tOdd: {a}\\x1b\\u202e\n'
    )


def test_many_recipients_are_counted_and_the_first_of_them_named():
    line = line_of(Accepted("k7", 12, ANNA, [Recipient(Address(f"u{number}", "example.org")) for number in range(1000)], 1))
    assert "recipients=u0@example.org," in line
    assert "u19@example.org,...1000 size=1" in line


def test_an_event_of_somebody_else():
    @frozen
    class Greylisted:
        session: str
        triplet: tuple[str, ...]
        seen: bool

    class Bare:
        pass

    assert line_of(Bare()) == "session=- bare"
    assert line_of(Greylisted("k7", ("a", "b"), True)) == "session=k7 greylisted triplet=a,b seen=True"


# ── JSON lines ──


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1767607200)
    return clock


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.json"


def read(path):
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def test_each_event_is_an_object_with_all_its_fields(path, clock):
    lines = JsonLines(path, clock)
    for event, _ in EVENTS:
        lines.note(event)
    lines.close()
    told = read(path)
    assert [one["event"] for one in told] == [line.split()[1] for _, line in EVENTS]
    assert all(one["time"] == "2026-01-05T10:00:00.000000+00:00" for one in told)
    for one, (event, _) in zip(told, EVENTS, strict=True):
        assert set(one) == {"time", "event", *(field.name for field in event.__attrs_attrs__)}
    assert told[3]["sender"] == "anna@example.org"
    assert told[3]["recipients"] == ["ben@example.net", "anna@example.org"]
    assert told[4]["sender"] == ""
    assert told[6]["reply"] == {"code": 250, "enhanced": "2.0.0", "text": "ok"}
    assert told[6]["seconds"] == 0.0412


@given(problem=st.text())
def test_any_text_is_kept_as_it_is(tmp_path_factory, problem):
    path = tmp_path_factory.mktemp("json") / "log.json"
    lines = JsonLines(path, Clock())
    lines.note(Fault("k7", "spam", problem))
    lines.close()
    [told] = read(path)
    assert told["problem"] == problem


def test_written_after_a_second_in_one_piece(path, clock):
    lines = JsonLines(path, clock)
    for number in range(3):
        lines.note(Ordered("retry", "all", number))
        clock.advance(0.4)
    assert [one["recipients"] for one in read(path)] == [0, 1, 2]
    assert not clock.getDelayedCalls()
    lines.note(Ordered("retry", "all", 3))
    clock.advance(0.9)
    assert len(read(path)) == 3
    clock.advance(0.1)
    assert len(read(path)) == 4
    lines.close()


def test_many_events_do_not_wait(path, clock):
    lines = JsonLines(path, clock)
    for number in range(1001):
        lines.note(Ordered("retry", "all", number))
    assert len(read(path)) == 1000
    lines.close()
    assert len(read(path)) == 1001
    assert not clock.getDelayedCalls()


def test_what_is_there_is_kept(path, clock):
    path.write_text('{"old":1}\n')
    lines = JsonLines(path, clock)
    lines.note(Ordered("retry", "all", 1))
    lines.close()
    assert len(read(path)) == 2


@pytest.mark.parametrize("rotate", [lambda path: path.rename(path.with_suffix(".1")), lambda path: path.unlink()], ids=["moved", "removed"])
def test_a_rotated_file_is_begun_anew(path, clock, rotate):
    lines = JsonLines(path, clock)
    lines.note(Ordered("retry", "all", 1))
    clock.advance(1)
    rotate(path)
    lines.note(Ordered("retry", "all", 2))
    lines.close()
    assert [one["recipients"] for one in read(path)] == [2]


def test_a_file_that_cannot_be_written_is_complained_of_once(tmp_path, clock):
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "log.json"
    lines = JsonLines(path, clock)
    complaints = []
    globalLogPublisher.addObserver(complaints.append)
    try:
        path.unlink()
        folder.rmdir()
        for number in range(3):
            lines.note(Ordered("retry", "all", number))
            clock.advance(1)
        folder.mkdir()
        lines.note(Ordered("retry", "all", 3))
        clock.advance(1)
    finally:
        globalLogPublisher.removeObserver(complaints.append)
    lines.close()
    assert [event["log_namespace"] for event in complaints] == ["mailgw.observe.json_lines"]
    assert [one["recipients"] for one in read(path)] == [3]


def test_a_file_that_cannot_be_opened_stops_the_start(tmp_path, clock):
    with pytest.raises(OSError, match="No such file"):
        JsonLines(tmp_path / "nowhere" / "log.json", clock)


def test_quickened_log_files_say_the_same():
    event = Accepted("S1", 7, Address.parse("anna@example.org"), [Recipient(Address.parse("b{x}@example.net"))], 2048)
    plain, quick = StringIO(), StringIO()
    publisher = LogPublisher(textFileLogObserver(plain))
    hurried = LogPublisher(textFileLogObserver(quick))
    clock = Clock()
    quicken(clock, hurried)
    for one in (event, event, Fault("S1", "odd", "boom", "Traceback:\n  x"), event):
        Log(publisher).note(one)
        Log(hurried).note(one)
    clock.advance(0)
    # The lines may be a second apart.
    assert [line[24:] for line in plain.getvalue().splitlines()] == [line[24:] for line in quick.getvalue().splitlines()]
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \[mailgw#info\] session=S1 accepted ", quick.getvalue())


def test_the_lines_of_a_turn_are_written_together():
    class Counting(StringIO):
        writes = 0

        def write(self, text):
            self.writes += 1
            return super().write(text)

    file, clock = Counting(), Clock()
    publisher = LogPublisher(textFileLogObserver(file))
    write = quicken(clock, publisher)
    for number in range(3):
        Log(publisher).note(Disconnected("S1", "quit", number))
    assert file.writes == 0
    clock.advance(0)
    assert (file.writes, len(file.getvalue().splitlines())) == (1, 3)
    Log(publisher).note(Disconnected("S1", "quit", 4))
    write()
    assert (file.writes, len(file.getvalue().splitlines())) == (2, 4)


def test_ports_of_questions_to_the_dns_are_not_told():
    class Loop(Clock):
        addReader = addWriter = removeReader = removeWriter = lambda self, one: None  # noqa: N815

    file, loop = StringIO(), Loop()
    publisher = LogPublisher(textFileLogObserver(file))
    quicken(loop, publisher)
    globalLogPublisher.addObserver(publisher)
    try:
        port = Port(0, _Exchange(question(1, "example.org", dns.MX, edns=True), ("127.0.0.1", 9)), "127.0.0.1", 4096, loop)
        port.startListening()
        port.stopListening()
        loop.advance(0)
        log.msg("of somebody else")
    finally:
        globalLogPublisher.removeObserver(publisher)
    assert [line[24:] for line in file.getvalue().splitlines()] == [" [-] of somebody else"]


def test_lines_of_other_processes_are_passed_on_as_they_are():
    file = StringIO()
    publisher, clock = LogPublisher(textFileLogObserver(file)), Clock()
    quicken(clock, publisher)
    theirs = "2026-01-05T10:00:00+0000 worker=2 [mailgw#info] session=S2 connect {odd}\n2026-01-05T10:00:00+0000 [-] and more\n"
    Log(publisher).note(Disconnected("S1", "quit", 1))
    pass_on(theirs, publisher)
    assert file.getvalue().endswith(f" why=quit messages=1\n{theirs}")


def test_lines_of_other_processes_reach_other_observers():
    told = []
    pass_on("one {odd} line\nand another\n", LogPublisher(told.append))
    assert [formatEvent(one) for one in told] == ["one {odd} line\nand another"]


def test_lines_say_which_process_they_are_of():
    file = StringIO()
    publisher, clock = LogPublisher(textFileLogObserver(file)), Clock()
    quicken(clock, publisher, "worker=2 ")
    Log(publisher).note(Disconnected("S1", "quit", 1))
    Log(publisher).note(Fault("S1", "odd", "boom", "Traceback [x]:\n  x"))
    clock.advance(0)
    assert re.match(
        r"\S+ worker=2 \[mailgw#info\] session=S1 disconnect why=quit messages=1\n"
        r"\S+ worker=2 \[mailgw#error\] session=S1 fault component=odd problem=boom\n\tTraceback \[x\]:\n",
        file.getvalue(),
    )


def test_json_lines_say_which_process_they_are_of(tmp_path, clock):
    lines = JsonLines(tmp_path / "log.json", clock, 2)
    lines.note(Disconnected("S1", "quit", 1))
    lines.close()
    assert json.loads((tmp_path / "log.json").read_text())["worker"] == 2
