"""What header sections are refused for, and on what grounds."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mailgw.policies.action import act, together
from mailgw.policies.encoded_words import decoded
from mailgw.policies.headers import FieldRule, Headers
from mailgw.policies.relay import Permit
from mailgw.testing import run
from mailgw.testing.facts import a_message
from mailgw.testing.server import MemoryServer
from mailgw.values.content import Content

FINE = b"Date: Mon, 5 Jan 2026 10:00:00 +0000\r\nFrom: a@example.com\r\nSubject: hello\r\n"
BODY = b"\r\nSubject: not a header\r\n"


def verdict(decision):
    said = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{said} +{','.join(sorted(decision.tags))}" if decision.tags else said


def rule(matches, name="Subject", **more):
    return {"rules": [FieldRule(field=name, matches=matches, **more)]}


REFUSED = "550 5.7.1 the subject: field is not accepted here"
TWICE = "550 5.6.0 the message has more than one Subject: field"
CASES = {
    "fine": ({}, FINE, "proceed"),
    "no date": ({}, b"From: a@example.com\r\n", "550 5.6.0 the message has no Date: field"),
    "no header at all": ({}, b"", "550 5.6.0 the message has no Date: field"),
    "no date, tagged": ({"missing": "tag"}, b"From: a@example.com\r\n", "proceed +header"),
    "no date, nobody minds": ({"required": []}, b"From: a@example.com\r\n", "proceed"),
    "two subjects": ({}, FINE + b"SUBJECT: again\r\n", TWICE),
    "two subjects, one with a blank before its colon": ({}, FINE + b"Subject : x\r\n", TWICE),
    "two From, held": ({"repeated": "quarantine"}, FINE + b"From: b@example.com\r\n", "quarantine"),
    "two To": ({}, FINE + b"To: b@example.com\r\nTo: c@example.com\r\n", "550 5.6.0 the message has more than one To: field"),
    "two Received": ({}, FINE + b"Received: x\r\nReceived: y\r\n", "proceed"),
    "two X-A, which may be there once": (
        {"once": ["X-A"]},
        FINE + b"X-A: 1\r\nX-A: 2\r\n",
        "550 5.6.0 the message has more than one X-A: field",
    ),
    "forbidden": ({"forbidden": ["X-Bulk"]}, FINE + b"x-bulk: 1\r\n", "550 5.6.0 the message has a X-Bulk: field"),
    "forbidden, thrown away": ({"forbidden": ["X-Bulk"], "present": "discard"}, FINE + b"x-bulk: 1\r\n", "discard"),
    "forbidden and missing: the severest": (
        {"forbidden": ["Subject"], "present": "quarantine", "required": ["To"]},
        FINE,
        "550 5.6.0 the message has no To: field",
    ),
    "matches": (rule("HELL[ou]$"), FINE, REFUSED),
    "matches, own text": (rule("hello", text="no greetings"), FINE, "550 5.7.1 no greetings"),
    "matches, deferred": (rule("hello", action="defer"), FINE, "450 4.7.1 the subject: field is not accepted here"),
    "matches, tagged": (rule("hello", action="tag", tag="friendly"), FINE, "proceed +friendly"),
    "does not match": (rule("^ello"), FINE, "proceed"),
    "not in another field": (rule("hello", "To"), FINE, "proceed"),
    "in any field": (rule("hello", "*"), FINE, REFUSED),
    "folded": (rule("a b"), b"Date: x\r\nFrom: y\r\nSubject: a\r\n b\r\n", REFUSED),
    "encoded": (
        rule("^geld zur\N{LATIN SMALL LETTER U WITH DIAERESIS}ck$"),
        b"Date: x\r\nFrom: y\r\nSubject: =?utf-8?Q?Geld_zu?=\r\n =?iso-8859-1?b?cvxjaw==?=\r\n",
        REFUSED,
    ),
    "as it stands": (rule(r"=\?utf-8\?"), b"Date: x\r\nFrom: y\r\nSubject: =?utf-8?Q?x?=\r\n", REFUSED),
    "empty": (rule("^$"), b"Date: x\r\nFrom: y\r\nSubject:\r\n", REFUSED),
    "too long": ({}, FINE + b"X: y\r\n" * 200_000, "550 5.6.0 the header section is too long"),
    "a bare LF": ({}, FINE + b"X: y\nFrom: ceo@example.com\r\n", "550 5.6.0 the header section has a bare CR or LF"),
    "too long, tagged": ({"unreadable": "tag"}, FINE + b"X: y\r\n" * 200_000, "proceed +header"),
}


@pytest.mark.parametrize(("options", "header", "expected"), CASES.values(), ids=CASES)
def test_headers(options, header, expected):
    decision = run(Headers(**options).check_content(a_message(header + BODY)))
    assert verdict(decision) == expected
    if decision.verdict.value != "proceed":
        assert decision.remedy
        assert decision.evidence or "the header section" in expected


def test_a_message_in_a_file(tmp_path):
    (tmp_path / "m").write_bytes(b"From: x\r\n" + BODY)
    decision = run(Headers().check_content(a_message(Content(tmp_path / "m", 30))))
    assert verdict(decision) == "550 5.6.0 the message has no Date: field"


def test_grounds():
    both = [
        FieldRule(field="Subject", matches="hell", action="tag", tag="a"),
        FieldRule(field="*", matches="example", action="tag", tag="b"),
    ]
    decision = run(Headers(rules=both).check_content(a_message(FINE + BODY)))
    assert verdict(decision) == "proceed +a,b"
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("subject", "hello", "the header section"),
        ("rule", "Subject matches hell", "rules"),
        ("from", "a@example.com", "the header section"),
        ("rule", "* matches example", "rules"),
    ]
    assert act("reject", "x").remedy == ""


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"required": ["a b"]}, '"a b" is no name of a header field'),
        ({"forbidden": [""]}, '"" is no name of a header field'),
        ({"once": ["Subject:"]}, '"Subject:" is no name of a header field'),
    ],
)
def test_bad_names(options, text):
    with pytest.raises(ValueError, match=text):
        Headers(**options)


def test_a_text_that_no_reply_can_carry():
    with pytest.raises(ValueError, match='"kein Ümlaut": the text must be plain ASCII'):
        FieldRule("Subject", "x", text="kein Ümlaut")


@pytest.mark.parametrize(("pattern", "why"), [("(a", "missing \\)"), (r"(a)\1", "invalid escape"), ("a(?=b)", "invalid perl operator")])
def test_bad_expressions(pattern, why):
    with pytest.raises(ValueError, match=f"is no regular expression of RE2: {why}"):
        FieldRule(field="Subject", matches=pattern)


def test_an_expression_that_would_keep_others_busy_for_years():
    # Python's own engine doubles its time with each character of this.
    policy = Headers(required=[], rules=[FieldRule(field="X", matches="^(a|aa|a.a|[a-z]*a)+$")])
    assert verdict(run(policy.check_content(a_message(b"X: " + b"a" * 500_000 + b"!\r\n\r\n")))) == "proceed"


WORDS = {
    "none": ("plain =? text ?=", "plain =? text ?="),
    "q": ("=?us-ascii?Q?a_b=21?=", "a b!"),
    "b without padding": ("=?utf-8?B?w6Q?=", "\N{LATIN SMALL LETTER A WITH DIAERESIS}"),
    "language": ("=?us-ascii*en?q?x?=", "x"),
    "two, and a word": ("=?utf-8?q?a?= =?utf-8?q?b?= c =?utf-8?q?d?=", "ab c d"),
    "unknown character set": ("=?nonsense?q?a?=", "=?nonsense?q?a?="),
    "no character set": ("=?hex?q?61?=", "=?hex?q?61?="),
    "not base64": ("=?utf-8?b?a?=", "=?utf-8?b?a?="),
    "not utf-8": ("=?utf-8?q?=FF?=", "\N{REPLACEMENT CHARACTER}"),
    "longer than it may be, as mail programs take it": (f"=?utf-8?q?{'a' * 1001}?=", "a" * 1001),
    "too long": (f"=?utf-8?q?{'a' * 8193}?=", f"=?utf-8?q?{'a' * 8193}?="),
    "a codec of Python's that takes the square of the text": ("=?punycode?q?a-bc?=", "=?punycode?q?a-bc?="),
    "another one": ("=?IDNA*de?q?a?=", "=?IDNA*de?q?a?="),
}


@pytest.mark.parametrize(("text", "expected"), WORDS.values(), ids=WORDS)
def test_encoded_words(text, expected):
    assert decoded(text) == expected
    assert decoded(text.encode()) == expected


@settings(max_examples=200)
@given(st.text(alphabet="=?qQbBa_5 F8-utf", max_size=60))
def test_any_text_can_be_decoded(text):
    assert isinstance(decoded(text), str)
    assert decoded(text) == text or "=?" in text


def test_nothing_together_is_no_objection():
    assert verdict(together([])) == "proceed"


def test_talk():
    server = MemoryServer(policies=[Headers()], permits=[Permit(to=frozenset({"example.org"}), name="ours")])
    talk = server.connect()
    talk.say(b"EHLO c.example\r\nMAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
    assert talk.say(b"From: a@example.com\r\n\r\nx\r\n.\r\n") == "550 5.6.0 the message has no Date: field\r\n"
    talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n")
    assert talk.say(FINE + b"\r\nx\r\n.\r\n") == "250 2.0.0 queued as 1\r\n"
