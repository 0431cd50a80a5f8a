"""Why was that? Records found again and told, by the real command over real files."""

import json
import shutil
from itertools import count

import pytest
from click.testing import CliRunner
from twisted.internet.task import Clock

from mailgw.admin.cli import main
from mailgw.admin.explaining import tell
from mailgw.admin.stories import Filter, Stories
from mailgw.api import Evidence, discard, proceed, quarantine, reject
from mailgw.journal import Bounced, Delayed, Delivered
from mailgw.observe.records import Records
from mailgw.policies.relay import Permit
from mailgw.receive.asking import Asked, Rules
from mailgw.testing import a_client, an_address
from mailgw.testing.server import MemoryServer
from mailgw.values.record import Record
from mailgw.values.reply import Reply

OURS = Permit(to=frozenset({"example.org"}), name="ours")


class Colour:
    """Refuses green senders and holds red ones."""

    def check_sender(self, facts):
        if facts.sender.local_part == "green":
            grounds = (Evidence("colour", "green", "TXT example.com"),)
            return reject("no green mail", why="green is not taken", evidence=grounds, remedy="another colour")
        return proceed(why="colour is fine")

    def check_content(self, facts):
        return quarantine("red is odd") if facts.sender.local_part == "red" else proceed()


class Watcher:
    def check_recipient(self, facts):
        return reject("blue is too much") if facts.sender.local_part == "blue" else proceed()


@pytest.fixture
def state(tmp_path):
    """A state folder with the records of a few sessions, as the gateway writes them."""
    clock = Clock()
    kept = Records(tmp_path / "records", clock, 1e12, 2**24)
    numbers = count(1)
    colour = Asked("colour", Colour(), where="mailgw.toml:7")
    watcher = Asked("watcher", Watcher(), where="mailgw.toml:9", observed=True)
    server = MemoryServer(permits=[], record=kept.keep_record, reference=lambda: f"REF{next(numbers):02}")
    clock.advance(server.clock.seconds())
    relay = (Asked("permit to @ours", OURS, where="mailgw.toml:3"),)
    server.follow(Rules(sender=(colour,), relay=relay, recipient=(watcher,), content=(colour,)))
    for sender, recipient in [("green", "b@example.org"), ("red", "b@example.org"), ("blue", "b@example.org"), ("blue", "x@example.net")]:
        talk = server.connect()
        for step in ["EHLO c", f"MAIL FROM:<{sender}@example.com>", f"RCPT TO:<{recipient}>", "DATA"]:
            if talk.say(step)[0] == "5":
                break
        else:
            talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n")
        talk.say("QUIT")
        server.clock.advance(60)
    session = next(json.loads(line)["session"] for line in [*_lines(kept)] if '"message":2' in line)
    kept.note(Delayed(session, 2, "b@example.org", "inside", "", Reply(451, "4.4.1", "no host"), 60.0))
    clock.advance(60)
    kept.note(Delivered(session, 2, "b@example.org", "inside", "192.0.2.9:25", Reply(250, "2.0.0", "ok"), 60.1))
    kept.note(Bounced(session, 2, 3, "delayed", "blue@example.com"))
    kept.close()
    (tmp_path / "mailgw.toml").write_text(f'[server]\nhostname = "mx.example.org"\nstate = "{tmp_path}"\n')
    return tmp_path


def _lines(kept):
    kept.write()
    for path in kept.folder.glob("*.jsonl"):
        yield from path.read_text().splitlines()


def mailgw(state, *arguments):
    return CliRunner().invoke(main, ["--config", str(state / "mailgw.toml"), *arguments])


def test_a_refusal_by_a_policy_names_rule_line_fact_and_remedy(state):
    result = mailgw(state, "explain", "REF01")
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert lines[0] == "550 5.7.1 no green mail [ref REF01]"
    assert lines[1].startswith('Refused at MAIL by "colour", 2026-01-0')
    assert lines[3:7] == [
        "rule       colour, mailgw.toml:7",
        "because    green is not taken",
        "fact       colour: green  (TXT example.com)",
        "otherwise  another colour",
    ]
    assert "client     192.0.2.99:40000 on listener mx, HELO c" in lines
    assert "from       green@example.com" in lines


@pytest.mark.parametrize("spelling", ["REF01", "ref01", "[ref REF01]", "ref REF01"])
def test_a_reference_may_be_pasted_as_it_stands(state, spelling):
    assert mailgw(state, "explain", spelling).output.startswith("550 5.7.1 no green mail")


def test_relaying_denied_shows_the_rules_that_did_not_match(state):
    output = mailgw(state, "explain", "REF02").output
    assert "rule       permit to @ours does not match, mailgw.toml:3" in output
    assert 'otherwise  a login, or a [[permit]] on "mx" with to = "example.net" or from_network = "192.0.2.99"' in output


def test_a_message_is_told_with_its_deliveries(state):
    lines = mailgw(state, "explain", "2").output.splitlines()
    assert lines[0].startswith("Accepted as message 2, ")
    assert "permitted  b@example.org by permit to @ours, mailgw.toml:3" in lines
    assert "asked      colour at mail: proceed, 0.0 ms  (mailgw.toml:7)" in lines
    assert "             colour is fine" in lines
    assert "asked      watcher at rcpt about b@example.org: reject, only observed, 0.0 ms  (mailgw.toml:9)" in lines
    later = [line.split(" ", 1)[0] for line in lines if " b@example.org by inside" in line or " DSN " in line]
    assert later == ["later"] * 3


def test_a_held_message_says_by_whom(state):
    output = mailgw(state, "explain", "1").output
    assert 'and held by "colour"' in output
    assert "because    red is odd" in output


def test_an_address_gives_all_its_stories(state):
    found = json.loads(mailgw(state, "explain", "--json", "blue@example.com").output)["stories"]
    assert [one["event"] for one in found] == ["accepted", "refused"]
    assert len(found[0]["later"]) == 3


def test_nobody_is_told_twice_of_who_went_after_a_refusal(state):
    logged = mailgw(state, "log", "--json", "--address", "blue@example.com").output.splitlines()
    assert [json.loads(line)["event"] for line in logged if '"asked"' in line] == ["accepted", "refused", "abandoned"]
    output = mailgw(state, "explain", "blue@example.com").output
    told = [line for line in output.splitlines() if line.startswith(("Accepted", "Refused", "Given up"))]
    assert [line.split(" by ")[0].split(",")[0] for line in told] == ["Accepted as message 2", "Refused at RCPT"]
    assert "\n\n\n" not in output


@pytest.mark.parametrize("what", ["REF99", "77", "nobody@example.org", "NOSESSION", "²", "9" * 5000, "<>"])
def test_what_is_not_known_is_said(state, what):
    result = mailgw(state, "explain", what)
    assert result.exit_code == 1
    assert f"nothing is known about {what}" in result.output


FILTERS = {
    "all": ([], 8),
    "address": (["--address", "green@example.com"], 1),
    "domain": (["--address", "@example.net"], 2),
    "client": (["--client", "192.0.2.99"], 5),
    "other-client": (["--client", "192.0.2.1"], 0),
    "helo": (["--client", "c"], 5),
    "event": (["--verdict", "held"], 1),
    "verdict": (["--verdict", "quarantine"], 1),
    "policy": (["--policy", "watcher"], 2),
    "policy-that-refused": (["--policy", "permit"], 1),
    "too-new": (["--since", "1s"], 0),
    "both": (["--address", "@example.org", "--policy", "colour"], 2),
}


@pytest.mark.parametrize(("arguments", "expected"), FILTERS.values(), ids=FILTERS)
def test_the_log_can_be_filtered(state, arguments, expected):
    result = mailgw(state, "log", "--json", *arguments)
    assert result.exit_code == 0
    assert len([json.loads(line) for line in result.output.splitlines()]) == expected
    assert len(mailgw(state, "log", *arguments).output.splitlines()) == expected


def test_the_report_says_what_an_observing_policy_would_have_done(state):
    answer = json.loads(mailgw(state, "policy", "report", "--json", "watcher").output)
    assert {key: answer[key] for key in ("asked", "verdicts", "observed", "taken_all_the_same", "refused_by_others_too")} == {
        "asked": 2,
        "verdicts": {"proceed": 1, "reject": 1},
        "observed": 1,
        "taken_all_the_same": 1,
        "refused_by_others_too": 0,
    }
    output = mailgw(state, "policy", "report", "watcher").output
    assert "it only observes. Had it been enforced: 1 objection, 0 of them to what was refused anyway, 1 to what was taken" in output


class Everywhere:
    """Objects to everybody at the greeting, to green senders, and to one recipient."""

    def check_client(self, facts):
        return reject("nobody")

    def check_sender(self, facts):
        return reject("no green mail") if facts.sender.local_part == "green" else proceed()

    def check_recipient(self, facts):
        return reject("not him") if facts.recipient.local_part == "x" else proceed()


def test_a_recipient_that_others_refused_refuses_no_message(tmp_path):
    clock = Clock()
    kept = Records(tmp_path / "records", clock, 1e12, 2**24)
    server = MemoryServer(permits=[], record=kept.keep_record)
    clock.advance(server.clock.seconds())
    asked = Asked("everywhere", Everywhere(), observed=True)
    gone = Asked("gone", Gone(), where="mailgw.toml:9")
    server.follow(Rules(client=(asked,), sender=(asked,), relay=(Asked("permit", OURS),), recipient=(asked, gone)))
    talk = server.connect()
    talk.say("EHLO c")
    for recipients in [("b@example.org", "b@example.net"), ("x@example.org", "gone@example.org"), ("gone@example.org",)]:
        talk.say("MAIL FROM:<green@example.com>")
        for recipient in recipients:
            talk.say(f"RCPT TO:<{recipient}>")
        if talk.say("DATA")[0] == "3":
            talk.say(b"Subject: x\r\n\r\nx\r\n.\r\n")
    talk.say("QUIT")
    kept.close()
    (tmp_path / "mailgw.toml").write_text(f'[server]\nhostname = "mx.example.org"\nstate = "{tmp_path}"\n')
    answer = json.loads(mailgw(tmp_path, "policy", "report", "--json", "everywhere").output)
    # Once at the greeting, three times at MAIL, once at RCPT; of the transactions the first two were taken.
    assert (answer["observed"], answer["taken_all_the_same"], answer["refused_by_others_too"]) == (5, 4, 1)
    assert answer["verdicts"] == {"reject": 5, "proceed": 3}


class Gone:
    def check_recipient(self, facts):
        return reject("gone") if facts.recipient.local_part == "gone" else proceed()


def test_a_policy_that_was_never_asked_has_no_report(state):
    result = mailgw(state, "policy", "report", "nobody")
    assert (result.exit_code, "know no answer" in result.output) == (1, True)


def test_following_sees_what_is_written_from_now_on(state):
    path = next((state / "records").glob("*.jsonl"))
    line = path.read_bytes().splitlines()[0]

    def more(_seconds):
        with path.open("ab") as file:
            file.write(line + b"\n" + line[:20])  # the second is not complete yet

    follow = Stories(state / "records").follow(Filter(), more)
    assert next(follow)["ref"] == "REF01"
    with path.open("ab") as file:
        file.write(line[20:] + b"\n")
    assert next(follow)["ref"] == "REF01"


def test_following_passes_over_a_file_that_is_swept_meanwhile(state):
    records = state / "records"
    line = next(records.glob("*.jsonl")).read_bytes().splitlines()[0]
    (records / "2000-01-01T00-1-0000.jsonl").symlink_to(records / "gone")  # listed, and not there when it is opened

    def more(_seconds):
        (records / "2999-01-01T00-1-0000.jsonl").write_bytes(line + b"\n")

    assert next(Stories(records).follow(Filter(), more))["ref"] == "REF01"


@pytest.mark.parametrize("words", [["explain", "REF01"], ["log"], ["policy", "report", "colour"]], ids=" ".join)
def test_records_that_cannot_be_read(state, words):
    shutil.rmtree(state / "records")
    (state / "records").symlink_to("x" * 300)  # also root cannot look there
    said = mailgw(state, *words)
    assert (said.exit_code, said.stdout) == (3, "")
    assert said.stderr == f"mailgw: {state}/records: File name too long; run mailgw as the daemon's user, or as root\n"


def test_what_several_processes_tell_stands_in_the_order_of_time(tmp_path):
    number, when = count(), [400.0, 100.0, 300.0, 200.0]
    later = ["delayed", "delivered"]
    for name, times, event in [("2026-01-05T10-1-0000.jsonl", when[:2], later[1]), ("2026-01-05T10-2-0000.jsonl", when[2:], later[0])]:
        lines = [
            {"time": time, "event": "refused", "session": f"S{next(number)}", "client": {}, "sender": "anna@example.com"} for time in times
        ]
        lines.append({"time": times[0], "event": event, "message": 7, "recipient": "ben@example.org"})
        (tmp_path / name).write_text("".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines))
    stories = Stories(tmp_path)
    assert [story.record["time"] for story in stories.about("anna@example.com")] == sorted(when)
    assert [one["event"] for one in stories.about("7")[0].later] == later


def test_a_line_that_was_cut_off_is_passed_over(state):
    path = next((state / "records").glob("*.jsonl"))
    path.write_bytes(b'{"time": 1, "even\n' + path.read_bytes() + b'{"time": 1')
    assert mailgw(state, "explain", "REF01").exit_code == 0


def test_redacted_records_are_found_by_the_address_itself(tmp_path):
    clock = Clock()
    kept = Records(tmp_path / "records", clock, 1e12, 2**24, "local-parts")
    server = MemoryServer(permits=[OURS], record=kept.keep_record)
    talk = server.connect()
    for step in ["EHLO c", "MAIL FROM:<ann@example.com>", "RCPT TO:<Ben@example.org>", "QUIT"]:
        talk.say(step)
    kept.keep_record(a_record(a_client(login="cyd@example.com"), ""))
    kept.close()
    stories = Stories(tmp_path / "records")
    assert len(list(stories.matching(Filter(client="cyd@example.com")))) == 1
    assert len(stories.about("ben@example.org")) == 1
    assert stories.about("cyd@example.org") == []


def a_record(client, sender):
    return Record(1.0, client, "accepted", "data", 1, sender=an_address(sender))


SPELLINGS = {
    "a-label": (Filter(address="änna@xn--bcher-kva.example"), 1),
    "u-label": (Filter(address="ÄNNA@Bücher.Example"), 1),
    "needless-quotes": (Filter(address='"änna"@bücher.example'), 1),
    "domain": (Filter(address="@bücher.example"), 1),
    "null": (Filter(address="<>"), 1),
    "ip": (Filter(client="2001:DB8:0::1"), 1),
    "other-ip": (Filter(client="2001:db8::2"), 1),
    "no-domain": (Filter(address="@b..c"), 0),
}


@pytest.mark.parametrize(("wanted", "expected"), SPELLINGS.values(), ids=SPELLINGS)
def test_addresses_are_found_however_they_are_spelled(tmp_path, wanted, expected):
    kept = Records(tmp_path, Clock(), 1e12, 2**24)
    kept.keep_record(a_record(a_client(ip="2001:db8::1"), "änna@bücher.example"))
    kept.keep_record(a_record(a_client(ip="2001:db8::2"), "<>"))
    kept.note(Delivered("S", 1, "ben@example.org", "g", "p", Reply(250, "2.0.0", "ok"), 0.0))
    kept.close()
    assert len(list(Stories(tmp_path).matching(wanted))) == expected


class Doorman:
    """Says about each recipient what its name is."""

    def check_recipient(self, facts):
        name = facts.recipient.local_part
        grounds = (Evidence("name", name, "the door"),)
        return {"hold": quarantine, "discard": discard}.get(name, lambda why, **_: proceed())(f"{name} is on the door", evidence=grounds)


@pytest.mark.parametrize(
    ("recipients", "told"),
    [
        pytest.param(["discard"], ['Accepted and thrown away by "doorman"', "because    discard is on the door"], id="discarded"),
        pytest.param(["hold", "discard"], ['held by "doorman"', "because    hold is on the door"], id="held first"),
        pytest.param(["discard", "hold"], ['held by "doorman"', "because    hold is on the door"], id="held last"),
        pytest.param(["ben", "discard"], ["Accepted as message"], id="one of two"),
    ],
)
def test_what_was_said_about_one_recipient_does_not_hide_the_others(tmp_path, recipients, told):
    kept = Records(tmp_path / "records", Clock(), 1e12, 2**24)
    server = MemoryServer(permits=[OURS], record=kept.keep_record)
    server.follow(Rules(relay=(Asked("ours", OURS),), recipient=(Asked("doorman", Doorman(), where="mailgw.toml:7"),)))
    talk = server.connect()
    for step in ["EHLO c", "MAIL FROM:<a@example.com>", *(f"RCPT TO:<{name}@example.org>" for name in recipients), "DATA", b"x\r\n.\r\n"]:
        talk.say(step)
    kept.close()
    [story] = Stories(tmp_path / "records").about("a@example.com")
    output = "\n".join(tell(story))
    assert [line for line in told if line not in output] == []
    assert [name for name in recipients if name != "ben" and f"name: {name}  (the door)" not in output] == []
