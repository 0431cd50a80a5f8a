"""Decision records on the disk: what is written, how long it is kept, how much of it, and what is redacted."""

import json
import os
from ipaddress import ip_address

import pytest
from twisted.internet.task import Clock

from mailgw.journal import Bounced, Connected, Delayed, Delivered, Failed
from mailgw.observe.records import PORTION, Records, make_reference, pseudonym, read_key, record_files, redacted
from mailgw.observe.stories import Scribe, line_of_record
from mailgw.values.address import NULL, Address
from mailgw.values.decision import AuthResult, Evidence, proceed, reject
from mailgw.values.facts import ClientFacts, TlsFacts
from mailgw.values.record import Opinion, Record, Way
from mailgw.values.reply import Reply

NOW = 1_767_607_200.0  # 2026-01-05T10:00Z
CLIENT = ClientFacts(session="AAAA", listener="mx", ip=ip_address("192.0.2.1"), port=40000, helo="c")
OK = Reply(250, "2.1.5", "recipient ok")
NO = reject("no", why="because", evidence=(Evidence("colour", "green", "TXT example.org"),), remedy="be blue")
DELIVERED = Delivered("AAAA", 12, "ben@example.net", "internet", "192.0.2.9:25", Reply(250, "2.0.0", "ok"), 0.1)


def a_record(**more):
    said = {"time": NOW, "client": CLIENT, "outcome": "refused", "stage": "mail", "sender": Address.parse("ann@example.com"), **more}
    return Record(**said)


def records(tmp_path, **more):
    clock = Clock()
    clock.advance(NOW)
    return Records(tmp_path / "records", clock, **{"keep": 86400.0, "max_size": 2**20, **more}), clock


def written(kept):
    return [json.loads(line) for path in record_files(kept.folder) for line in path.read_text().splitlines()]


TABLE = {
    "refused": (
        a_record(
            transaction=2, reply=NO.reply, by="spf", why="because", ref="7QK3M", opinions=[Opinion("spf", "m.toml:7", "mail", NO, 0.0123)]
        ),
        {
            "event": "refused",
            "session": "AAAA",
            "transaction": 2,
            "ref": "7QK3M",
            "stage": "mail",
            "by": "spf",
            "why": "because",
            "reply": "550 5.7.1 no",
            "client": {"listener": "mx", "ip": "192.0.2.1", "port": 40000, "helo": "c"},
            "sender": "ann@example.com",
            "asked": [
                {
                    "policy": "spf",
                    "where": "m.toml:7",
                    "stage": "mail",
                    "verdict": "reject",
                    "ms": 12.3,
                    "why": "because",
                    "reply": "550 5.7.1 no",
                    "evidence": [["colour", "green", "TXT example.org"]],
                    "remedy": "be blue",
                }
            ],
        },
    ),
    "accepted": (
        a_record(
            outcome="accepted",
            stage="data",
            sender=NULL,
            message=12,
            size=99,
            ways=[Way("b@example.org", OK, "ours", "m.toml:3", "ours", "otherwise", "m.toml:9", "internet", "example.org")],
        ),
        {
            "event": "accepted",
            "session": "AAAA",
            "stage": "data",
            "message": 12,
            "size": 99,
            "client": {"listener": "mx", "ip": "192.0.2.1", "port": 40000, "helo": "c"},
            "sender": "<>",
            "recipients": [
                {
                    "address": "b@example.org",
                    "reply": "250 2.1.5 recipient ok",
                    "permit": "ours",
                    "permit_where": "m.toml:3",
                    "why": "ours",
                    "route": "otherwise",
                    "route_where": "m.toml:9",
                    "gateway": "internet",
                    "next_hop": "example.org",
                }
            ],
        },
    ),
    "connect": (
        Record(
            NOW,
            ClientFacts(session="B", listener="mx", ip=ip_address("::1"), port=1, tls=TlsFacts(version="v", cipher="x"), login="me"),
            "refused",
            "connect",
        ),
        {
            "event": "refused",
            "session": "B",
            "stage": "connect",
            "client": {"listener": "mx", "ip": "::1", "port": 1, "tls": "v x", "login": "me"},
        },
    ),
    "asked for a name": (
        Record(
            NOW,
            ClientFacts(session="B", listener="mx", ip=ip_address("::1"), port=1, tls=TlsFacts(version="v", cipher="x", server_name="m")),
            "refused",
            "connect",
        ),
        {
            "event": "refused",
            "session": "B",
            "stage": "connect",
            "client": {"listener": "mx", "ip": "::1", "port": 1, "tls": "v x for m"},
        },
    ),
}


@pytest.mark.parametrize(("record", "told"), TABLE.values(), ids=TABLE)
def test_a_record_is_one_line_of_json_without_empty_fields(record, told):
    line = line_of_record(record)
    assert line.count("\n") == 1
    assert json.loads(line) == {"time": NOW, **told}


@pytest.mark.parametrize(
    ("opinion", "told"),
    [
        (Opinion("p", "", "mail", proceed(), 0.0), {"verdict": "proceed"}),
        (Opinion("p", "", "mail", proceed(), 0.0, True, "", "failed"), {"verdict": "proceed", "observed": True, "fault": "failed"}),
        (
            Opinion("p", "", "rcpt", proceed(tags={"b", "a"}), 0.0, recipient="x@y"),
            {"recipient": "x@y", "verdict": "proceed", "tags": ["a", "b"]},
        ),
        (Opinion("p", "", "mail", proceed(results=(AuthResult("spf", "pass"),)), 0.0), {"verdict": "proceed", "results": ["spf=pass"]}),
    ],
    ids=["nothing-to-say", "observed-fault", "tags", "results"],
)
def test_an_opinion(opinion, told):
    (asked,) = json.loads(line_of_record(a_record(opinions=[opinion])))["asked"]
    assert asked == {"policy": "p", "where": "", "stage": opinion.stage, "ms": 0.0, **told}


def test_a_mailing_to_thousands_stays_readable():
    record = a_record(ways=[Way(f"{n}@example.org", OK) for n in range(5000)], opinions=[Opinion("p", "", "rcpt", proceed(), 0.0)] * 9000)
    told = json.loads(line_of_record(record))
    assert told["more"] == {"recipients": 5000, "asked": 9000}
    assert (len(told["recipients"]), len(told["asked"])) == (100, 300)


NO_HOST = Reply(451, "4.4.1", "no host")


@pytest.mark.parametrize(
    ("event", "told"),
    [
        (
            DELIVERED,
            {"event": "delivered", "recipient": "ben@example.net", "gateway": "internet", "peer": "192.0.2.9:25", "reply": "250 2.0.0 ok"},
        ),
        (
            Delayed("AAAA", 12, "b@x", "g", "", NO_HOST, 60.0),
            {"event": "delayed", "recipient": "b@x", "gateway": "g", "peer": "", "reply": "451 4.4.1 no host", "next_attempt": NOW + 60},
        ),
        (
            Failed("AAAA", 12, "b@x", "g", "", NO_HOST),
            {"event": "failed", "recipient": "b@x", "gateway": "g", "peer": "", "reply": "451 4.4.1 no host"},
        ),
        (Bounced("AAAA", 12, 13, "failed", "a@x"), {"event": "bounced", "dsn": 13, "action": "failed", "recipient": "a@x"}),
    ],
    ids=["delivered", "delayed", "failed", "bounced"],
)
def test_what_follows_is_a_line_too(event, told):
    assert json.loads(Scribe().line_of_delivery(event, NOW)) == {"time": NOW, "session": "AAAA", "message": 12, **told}


def test_a_record_can_be_read_a_quarter_of_a_second_later(tmp_path):
    kept, clock = records(tmp_path)
    kept.keep_record(a_record())
    kept.note(Connected("AAAA", "mx", "192.0.2.1:1"))  # no part of a story
    kept.note(DELIVERED)
    assert written(kept) == []
    clock.advance(0.25)
    assert [one["event"] for one in written(kept)] == ["refused", "delivered"]
    assert (kept.folder.stat().st_mode & 0o777, record_files(kept.folder)[0].stat().st_mode & 0o777) == (0o700, 0o600)
    kept.keep_record(a_record(stage="data"))
    kept.close()
    assert written(kept)[-1]["stage"] == "data"
    assert not clock.getDelayedCalls()


def test_a_portion_is_written_at_once_and_the_rest_in_time(tmp_path):
    kept, clock = records(tmp_path)
    length = len(line_of_record(a_record()))
    enough = -(-PORTION // length)
    for _ in range(enough - 1):
        kept.keep_record(a_record())
    assert written(kept) == []
    kept.keep_record(a_record())
    assert len(written(kept)) == enough
    kept.keep_record(a_record())
    assert len(written(kept)) == enough
    clock.advance(0.25)
    assert len(written(kept)) == enough + 1
    assert not clock.getDelayedCalls()
    kept.close()


def test_what_a_policy_gives_instead_of_text_costs_a_record_and_no_mail(tmp_path):
    kept, _ = records(tmp_path)
    odd = reject("no", evidence=(Evidence("score", 7, ""),))  # type: ignore[arg-type]
    kept.keep_record(a_record(opinions=[Opinion("p", "", "mail", odd, 0.0)]))
    kept.keep_record(a_record(stage="data"))
    kept.close()
    assert [one["stage"] for one in written(kept)] == ["data"]


def test_each_hour_has_a_file_and_what_is_too_old_goes(tmp_path):
    kept, clock = records(tmp_path, keep=3 * 3600.0)
    for hour in range(6):
        kept.keep_record(a_record(time=NOW + hour * 3600))
        kept.write()
        (path,) = [path for path in record_files(kept.folder) if f"T{10 + hour}" in path.name]
        os.utime(path, (clock.seconds(), clock.seconds()))
        clock.advance(3600)
    kept.close()
    assert [path.name[:13] for path in record_files(kept.folder)] == [f"2026-01-05T{hour}" for hour in (12, 13, 14, 15)]


def test_all_of_them_stay_within_their_bound(tmp_path):
    kept, _ = records(tmp_path, max_size=64 * 1024)
    for number in range(3000):
        kept.keep_record(a_record(message=number))
        if number % 10 == 9:
            kept.write()
            assert sum(path.stat().st_size for path in record_files(kept.folder)) <= 64 * 1024
    kept.close()
    assert [one["message"] for one in written(kept)][-1] == 2999
    assert len(record_files(kept.folder)) > 10


def test_another_process_has_files_of_its_own(tmp_path):
    (one, _), (two, _) = records(tmp_path), records(tmp_path)
    for kept in (one, two):
        kept.keep_record(a_record())
        kept.close()
    assert len(record_files(one.folder)) == 2


def test_the_oldest_go_first_whichever_process_wrote_them(tmp_path, monkeypatch):
    (one, _), (two, _) = records(tmp_path, max_size=64 * 1024), records(tmp_path, max_size=64 * 1024)
    for process, kept in ((2, two), (1, one)):  # the names of the second come first
        monkeypatch.setattr(os, "getpid", lambda process=process: process)
        for _ in range(300):
            kept.keep_record(a_record(message=process))
            kept.write()
    assert len(written(one)) > 200
    assert {line["message"] for line in written(one)[:200]} == {1}
    one.close()
    two.close()


def test_a_file_that_somebody_has_removed_is_begun_anew(tmp_path):
    kept, _ = records(tmp_path)
    for _ in range(2):
        kept.keep_record(a_record())
        kept.write()
        assert len(written(kept)) == 1
        record_files(kept.folder)[0].unlink()
    kept.folder.rmdir()
    kept.keep_record(a_record())
    kept.close()
    assert len(written(kept)) == 1


def test_a_key_is_made_once_and_whole(tmp_path):
    key = read_key(tmp_path)
    assert len(key) == 32
    assert read_key(tmp_path) == key
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600


def test_pseudonyms_without_a_key_are_refused(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "key").write_bytes(b"")
    with pytest.raises(OSError, match="is no key; remove it"):
        records(tmp_path, redact="local-parts")


def test_redaction_takes_local_parts_out_of_everything(tmp_path):
    kept, _ = records(tmp_path, redact="local-parts")
    no = reject("ann@example.com may not", evidence=(Evidence("list", "<ann@example.com> and others", ""),))
    kept.keep_record(a_record(ways=[Way("ben@example.net", no.reply)], opinions=[Opinion("p", "", "mail", no, 0.0)], why="ann@example.com"))
    kept.note(DELIVERED)
    kept.close()
    text = record_files(kept.folder)[0].read_text()
    assert "ann@" not in text
    assert "ben@" not in text
    first, second = written(kept)
    assert first["recipients"][0]["address"] == second["recipient"] != first["sender"]
    assert first["sender"].startswith("~")
    assert first["sender"].endswith("@example.com")


def test_a_disk_that_takes_nothing_costs_records_and_no_mail(tmp_path):
    kept, clock = records(tmp_path)
    kept.folder.rmdir()
    kept.folder.touch()
    kept.keep_record(a_record())
    clock.advance(1)
    kept.folder.unlink()
    kept.keep_record(a_record())
    clock.advance(1)
    kept.close()
    assert len(written(kept)) == 1


@pytest.mark.parametrize(
    ("text", "local_parts", "left"),
    [
        ("ann@example.com", ["ann"], "{}@example.com"),
        ("<Ann@example.com>,ben@example.net", ["ann", "ben"], "<{}@example.com>,{}@example.net"),
        ("änne@example.com", ["änne"], "{}@example.com"),
        ('"ann b"@example.com', ['"ann b"'], "{}@example.com"),
        (r'to <"a\"@b"@example.com>', [r'"a\"@b"'], "to <{}@example.com>"),
        ('"ann@example.com" is unknown', ["ann"], '"{}@example.com" is unknown'),
        ('permit to "@ours", "@theirs"', [], 'permit to "@ours", "@theirs"'),
        ("nobody here", [], "nobody here"),
        ("see @ours", [], "see @ours"),
        ("\ud800@example.com", ["\ud800"], "{}@example.com"),
    ],
    ids=["plain", "two", "beyond-ascii", "quoted", "quotes-in-quotes", "in-quotes", "names-of-sets", "none", "no-local-part", "surrogate"],
)
def test_what_is_redacted(text, local_parts, left):
    assert redacted(text, b"key") == left.format(*[pseudonym(one, b"key") for one in local_parts])


def test_a_local_part_is_redacted_where_the_text_is_cut_behind_it(tmp_path):
    kept, _ = records(tmp_path, redact="local-parts")
    kept.keep_record(a_record(why=f"{'x ' * 247}annabel@example.com"))
    kept.close()
    assert "anna" not in record_files(kept.folder)[0].read_text()


class Throws:
    def choices(self, characters, k):
        assert not set("01OILUoilu") & set(characters)
        return list(characters[:k])


def test_a_reference_can_be_read_out():
    assert make_reference(Throws()) == "23456"
