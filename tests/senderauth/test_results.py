"""Authentication-Results: written, read, and known where somebody else wrote it."""

import tracemalloc
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.receive.disowning import INSTEAD, LONGEST_HEADER, EndlessHeader, disowned
from mailgw.senderauth.results import BadResults, authentication_results, is_named, parse_results
from mailgw.values.content import Content
from mailgw.values.decision import AuthResult

US = "mx.example.org"


def test_it_is_written_as_the_rfc_says():
    results = [
        AuthResult("spf", "fail", (("smtp.mailfrom", "example.com"),)),
        AuthResult("dkim", "pass", (("reason", 'good "signature"'), ("header.d", "example.com"), ("header.b", "ab/c+="))),
        AuthResult("iprev", "pass", (("policy.iprev", "2001:db8::1"),)),
    ]
    assert authentication_results(US, results) == (
        "Authentication-Results: mx.example.org;\r\n\tspf=fail smtp.mailfrom=example.com;\r\n"
        '\tdkim=pass reason="good \\"signature\\"" header.d=example.com header.b="ab/c+=";\r\n'
        '\tiprev=pass policy.iprev="2001:db8::1"\r\n'
    )
    assert authentication_results(US, []) == "Authentication-Results: mx.example.org;\r\n\tnone\r\n"


# RFC 8601 appendix B, and what is odd but right.
READ = {
    "none": ("example.org 1; none", "example.org", ()),
    "one": ("example.com;\r\n spf=pass smtp.mailfrom=example.net", "example.com", (("spf", "pass", (("smtp.mailfrom", "example.net"),)),)),
    "comments": (
        "foo.example.net (foobar) 1 (baz);\r\n dkim (Because I like it) = (wait for it) fail\r\n policy.expired (never) = 1",
        "foo.example.net",
        (("dkim", "fail", (("policy.expired", "1"),)),),
    ),
    "more": (
        'example.com; auth=pass (cram-md5) smtp.auth=sender@example.net;\r\n DKIM/1=pass reason="good \\"one\\"" header.d=example.net;',
        "example.com",
        (
            ("auth", "pass", (("smtp.auth", "sender@example.net"),)),
            ("dkim", "pass", (("reason", 'good "one"'), ("header.d", "example.net"))),
        ),
    ),
    "equals-sign": (
        "example.com; spf=pass smtp.mailfrom=prvs=0123=user@example.net smtp.helo=x",
        "example.com",
        (("spf", "pass", (("smtp.mailfrom", "prvs=0123=user@example.net"), ("smtp.helo", "x"))),),
    ),
    "quoted-id": ('"example.com"; spf=none', "example.com", (("spf", "none", ()),)),
    "nothing": ("", None, "fault"),
    "no-results": ("example.com", None, "fault"),
    "no-value": ("example.com; spf", None, "fault"),
    "no-property-type": ("example.com; spf=pass mailfrom=x", None, "fault"),
    "open-comment": ("example.com (; spf=pass", None, "fault"),
    "open-string": ('example.com; spf="pass', None, "fault"),
    "odd-version": ("example.com two; spf=pass", None, "fault"),
    "odd-method": ("example.com; *=pass", None, "fault"),
}


@pytest.mark.parametrize(("text", "server", "results"), READ.values(), ids=READ)
def test_reading(text, server, results):
    if results == "fault":
        with pytest.raises(BadResults):
            parse_results(text)
    else:
        read = parse_results(text)
        assert read.authserv_id == server
        assert tuple((one.method, one.result, one.properties) for one in read.results) == results


words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40) | st.text("a0=/;@ \"(.", max_size=8)


@given(st.lists(st.tuples(st.sampled_from(["spf", "dkim"]), st.sampled_from(["pass", "fail"]), words, words), min_size=1, max_size=3))
def test_what_is_written_is_read_again(said):
    results = tuple(AuthResult(method, result, (("reason", one), ("smtp.mailfrom", two))) for method, result, one, two in said)
    assert parse_results(authentication_results(US, results).partition(":")[2]).results == results


@given(st.text(max_size=60))
def test_anything_is_read_or_refused(text):
    field = authentication_results(US, [AuthResult("spf", "pass", (("smtp.mailfrom", text),))])
    assert field.isascii()
    assert field.count("\r\n") == 2
    with suppress(BadResults):
        parse_results(text)
    assert is_named(US, text) in (True, False)


NAMED = {
    "plain": ("mx.example.org; spf=pass", True),
    "case": ("MX.Example.ORG; spf=pass", True),
    "version": ("mx.example.org 1; spf=pass", True),
    "folded": ("\r\n\t mx.example.org;spf=pass", True),
    "comment": ("(a (b) \\) c) mx.example.org(d); spf=pass", True),
    "quoted": ('"mx.exa\\mple.org" ; spf=pass', True),
    "dot": ("mx.example.org.; spf=pass", True),
    "alone": ("mx.example.org", True),
    "slash": ("mx.example.org/1; spf=pass", True),
    "nul": ("mx.example.org\0; spf=pass", True),
    "soft-hyphen": ("\xadmx.example.org; spf=pass", True),
    "sign-before": ("; mx.example.org; spf=pass", True),
    "second": ("mx.example.com; mx.example.org; spf=pass", False),
    "unreadable": ("(mx.example.org; spf=pass", True),
    "other": ("mx.example.com; spf=pass smtp.mailfrom=mx.example.org", False),
    "longer": ("mx.example.org.example.com; spf=pass", False),
    "below": ("a.mx.example.org; spf=pass", False),
    "empty": ("", False),
}


@pytest.mark.parametrize(("value", "named"), NAMED.values(), ids=NAMED)
def test_who_is_named(value, named):
    assert is_named(US, value) == named


OURS = b"Authentication-Results: mx.example.org; spf=pass"
DISOWNED = {
    "none": (b"Subject: x\r\n\r\nx\r\n", ()),
    "first": (OURS + b"\r\nSubject: x\r\n\r\nx\r\n", (0,)),
    "later": (b"A: x\r\n" + OURS + b"\r\n\r\nx\r\n", (6,)),
    "two": (OURS + b"\r\n" + OURS + b"\r\n\r\nx\r\n", (0, 50)),
    "case-and-space": (b"A: x\r\nAUTHENTICATION-results \t: mx.example.org; x\r\n\r\n", (6,)),
    "folded": (b"Authentication-Results:\r\n mx.example.org;\r\n\tspf=pass\r\n\r\n", (0,)),
    "only-header": (b"A: x\r\n" + OURS + b"\r\n", (6,)),
    "after-bare-cr": (b"A: x\r" + OURS + b"\r\n\r\n", (5,)),
    "after-bare-cr-in-one-of-another": (b"Authentication-Results: mx.example.com; x\r" + OURS + b"\r\n\r\n", (42,)),
    "longer-than-anybody-reads": (b"Authentication-Results: (" + b"\r\n x" * 20_000 + b") mx.example.com; x\r\n\r\n", (0,)),
    "more-than-anybody-reads": (b"Authentication-Results: mx.example.com; x\r\n" * 3_641 + b"\r\n", (3_640 * 43,)),
    "behind-a-long-header": (b"A: x\r\n" * 20_000 + OURS + b"\r\n\r\n", (120_000,)),
    "other-server": (b"Authentication-Results: mx.example.com; spf=pass\r\n\r\n", ()),
    "other-field": (b"X-Authentication-Results: mx.example.org; spf=pass\r\n\r\n", ()),
    "continued": (b"A: x\r\n " + OURS + b"\r\n\r\n", ()),
    "body": (b"A: x\r\n\r\n" + OURS + b"\r\n\r\n", ()),
    "no-header": (b"\r\n" + OURS + b"\r\n\r\n", ()),
    "all-body": (b" folded\r\n" + OURS + b"\r\n\r\n", ()),
}


@pytest.mark.parametrize("where", ["memory", "file"])
@pytest.mark.parametrize(("original", "places"), DISOWNED.values(), ids=DISOWNED)
def test_fields_in_our_name_lose_it(tmp_path, where, original, places):
    expected = original
    for at in places:
        expected = expected[:at] + INSTEAD + expected[at + len(INSTEAD) :]
    if where == "file":
        (tmp_path / "message").write_bytes(original)
    content = Content.of(original) if where == "memory" else Content(tmp_path / "message", len(original))
    changed = disowned(content, US)
    assert changed.read() == expected
    assert changed.original_size == len(original)
    assert (changed is content) == (where == "file" or not places)


@pytest.mark.parametrize(
    ("header", "is_endless"),
    [
        pytest.param(LONGEST_HEADER, False, id="as-long-as-may-be"),
        pytest.param(LONGEST_HEADER + 1, True, id="one-octet-more"),
        pytest.param(50 * LONGEST_HEADER, True, id="all-of-a-big-message"),
    ],
)
def test_a_header_section_has_a_bound(tmp_path, header, is_endless):
    whole = b"A: x\r\n" * (header // 6)
    whole += b"x" * (header - len(whole)) + b"\r\n\r\n" + OURS + b"\r\n" * 10
    (tmp_path / "message").write_bytes(whole)
    content = Content(tmp_path / "message", len(whole))
    if is_endless:
        with pytest.raises(EndlessHeader):
            disowned(content, US)
    else:
        assert disowned(content, US) is content
    assert content.read() == whole


@pytest.mark.parametrize("value", [b'"', b"("], ids=["quoted", "comment"])
def test_a_long_field_takes_no_more_memory_than_the_message(value):
    content = Content.of(b"Authentication-Results: " + value + b"\r\n x" * 200_000 + b"\r\n\r\n")
    tracemalloc.start()
    try:
        disowned(content, US)
        assert tracemalloc.get_traced_memory()[1] < 8 * content.size
    finally:
        tracemalloc.stop()
