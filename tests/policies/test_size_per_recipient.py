"""How big a message may be, for each of its recipients."""

import os
from datetime import timedelta

import pytest

from mailgw.components import POLICIES, build
from mailgw.interfaces import IClock
from mailgw.policies.relay import Permit
from mailgw.policies.size_per_recipient import SizePerRecipient
from mailgw.problems import Report
from mailgw.settings import Context, Part
from mailgw.testing import at
from mailgw.testing.facts import a_message, a_recipient
from mailgw.testing.server import MemoryServer

NOW = at("2026-01-05T10:00+00:00")
LIMITS = {"fax@example.org": 100, "example.org": 1000, ".example.org": 500, "archive@example.org": None, "example.net": 2 * 2**20}


def policy(**settings):
    return SizePerRecipient(**{"limits": LIMITS, "clock": NOW} | settings)


def heard(decision):
    return str(decision.reply) if decision.reply else decision.verdict.value


AT_RCPT = {
    "small enough": ("fax@example.org", 100, {}, "proceed"),
    "by address": ("fax@example.org", 101, {}, "550 5.2.3 message is too big: this recipient takes up to 100 octets"),
    "in capitals": ("FAX@Example.ORG", 101, {}, "550 5.2.3 message is too big: this recipient takes up to 100 octets"),
    "by domain": ("ann@example.org", 1001, {}, "550 5.2.3 message is too big: this recipient takes up to 1000 octets"),
    "below a domain": ("ann@a.example.org", 501, {}, "550 5.2.3 message is too big: this recipient takes up to 500 octets"),
    "in readable units": ("ann@example.net", 2**22, {}, "550 5.2.3 message is too big: this recipient takes up to 2 MiB"),
    "unlimited": ("archive@example.org", 10**9, {}, "proceed"),
    "not declared": ("fax@example.org", None, {}, "proceed"),
    "elsewhere": ("ann@example.com", 10**9, {}, "proceed"),
    "otherwise": ("ann@example.com", 11, {"otherwise": 10}, "550 5.2.3 message is too big: this recipient takes up to 10 octets"),
    "a subaddress": ("fax+x@example.org", 101, {"subaddress": "+"}, "550 5.2.3 message is too big: this recipient takes up to 100 octets"),
    "no subaddress": ("fax+x@example.org", 101, {}, "proceed"),
    "held": ("fax@example.org", 101, {"action": "quarantine"}, "quarantine"),
    "tagged": ("fax@example.org", 101, {"action": "tag"}, "proceed"),
}


@pytest.mark.parametrize(("to", "size", "settings", "reply"), AT_RCPT.values(), ids=AT_RCPT)
def test_at_rcpt(to, size, settings, reply):
    decision = policy(**settings).check_recipient(a_recipient(to, size=size))
    assert heard(decision) == reply
    assert decision.tags == ({"too-big"} if settings.get("action") == "tag" else set())


AT_DATA = {
    "small enough": (["fax@example.org", "ann@example.org"], 100, "proceed"),
    "one": (["fax@example.org"], 101, "552 5.2.3 message is too big: its recipient takes up to 100 octets"),
    "one of two": (
        ["ann@example.com", "fax@example.org"],
        101,
        "552 5.2.3 message is too big: 1 of its 2 recipients take up to 100 octets",
    ),
    "two of three": (
        ["fax@example.org", "ann@example.org", "archive@example.org"],
        1001,
        "552 5.2.3 message is too big: 2 of its 3 recipients take up to 100 octets",
    ),
}


@pytest.mark.parametrize(("to", "size", "reply"), AT_DATA.values(), ids=AT_DATA)
def test_at_data(to, size, reply):
    assert heard(policy().check_content(a_message(b"x" * size, recipients=to))) == reply


def test_its_grounds(tmp_path):
    path = tmp_path / "sizes"
    path.write_text("# sizes\nfax@example.org 100 octets\n")
    with_file = policy(limits={}, path=path)
    decision = with_file.check_recipient(a_recipient("fax@example.org", size=101))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("declared size", "101 octets", "the client's MAIL command"),
        ("limit", "fax@example.org: 100 octets", f"{path}:2 fax@example.org"),
    ]
    assert decision.remedy == "a smaller message, or a higher limit"
    decision = policy(limits={}, otherwise=5).check_content(a_message(b"x" * 6, recipients=["a@example.org"]))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("size", "6 octets", "the message"),
        ("limit", "a@example.org: 5 octets", "otherwise"),
    ]


def test_the_file_is_read_again(tmp_path):
    path = tmp_path / "sizes"
    path.write_text("example.org 1 KiB  # small\nann@example.org unlimited\n")
    clock = at("2026-01-05T10:00+00:00")
    with_file = SizePerRecipient({"ben@example.org": 5}, path, clock=clock)

    def sizes():
        asked = [with_file.check_recipient(a_recipient(f"{who}@example.org", size=1500)) for who in ("x", "ann", "ben")]
        return [heard(one).rpartition("up to ")[2] for one in asked]

    assert sizes() == ["1 KiB", "proceed", "5 octets"]
    path.write_text("example.org 1.2 KiB\n")
    os.utime(path, (1, 1))
    clock.advance(timedelta(seconds=2))
    assert sizes() == ["1.2 KiB", "1.2 KiB", "5 octets"]


def test_a_local_part_may_have_what_begins_a_comment(tmp_path):
    path = tmp_path / "sizes"
    path.write_text("a#b@example.org 5 octets\t# small\n")
    policy = SizePerRecipient({}, path, clock=at("2026-01-05T10:00+00:00"))
    assert heard(policy.check_recipient(a_recipient("a#b@example.org", size=6))).endswith("up to 5 octets")


WRONG = {
    "nothing": ({}, 'needs "limits", "path" or "otherwise"'),
    "no key": ({"limits": {"a@b@c": "1 MiB"}}, 'limits: "a@b@c": '),
    "no size": ({"limits": {"a@example.org": "much"}}, '"much" is no size; write it like "64 KiB"'),
    "no file": ({"path": "nowhere"}, "nowhere: No such file or directory"),
    "a line without a size": ({"path": "short"}, 'short:2: "b@example.org" is not KEY SIZE'),
    "a line with a wrong size": ({"path": "odd"}, 'odd:1: "10 apples" is no size'),
    "a line with a wrong key": ({"path": "key"}, "key:1: "),
    "no text": ({"path": "binary"}, "binary:1: not UTF-8"),
    "action": ({"otherwise": "1 MiB", "action": "discard"}, '"discard" is not "reject" or "quarantine" or "tag"'),
}


@pytest.mark.parametrize(("settings", "text"), WRONG.values(), ids=WRONG)
def test_wrong_settings_say_what_is_wrong(settings, text, tmp_path):
    (tmp_path / "short").write_text("a@example.org 1 MiB\nb@example.org\n")
    (tmp_path / "odd").write_text("a@example.org 10 apples\n")
    (tmp_path / "key").write_text("a@@b 1 MiB\n")
    (tmp_path / "binary").write_bytes(b"\xff 1 MiB\n")
    report = Report()
    made = build(Part("size-per-recipient", settings, ("policy", "x")), POLICIES, {IClock: NOW}, Context(folder=tmp_path), report)
    assert made is None
    assert text in report.errors[0].text


def server(one):
    return MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=[one], reference=lambda: "7QK3M")


def test_a_talk_with_the_size():
    talk = server(policy()).connect()
    talk.say("EHLO c")
    assert talk.say("MAIL FROM:<a@example.com> SIZE=200").startswith("250 ")
    assert talk.say("RCPT TO:<fax@example.org>") == "550 5.2.3 message is too big: this recipient takes up to 100 octets [ref 7QK3M]\r\n"
    assert talk.say("RCPT TO:<ann@example.org>").startswith("250 ")


def test_a_talk_without_the_size():
    talk = server(policy()).connect()
    talk.say("EHLO c")
    for step in ("MAIL FROM:<a@example.com>", "RCPT TO:<fax@example.org>", "DATA"):
        talk.say(step)
    reply = "552 5.2.3 message is too big: its recipient takes up to 100 octets [ref 7QK3M]\r\n"
    assert talk.say(b"x" * 100 + b"\r\n.\r\n") == reply
