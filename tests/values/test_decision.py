import pytest
from hypothesis import given
from hypothesis import strategies as st

from mailgw.values.decision import AuthResult, Decision, HeaderField, Verdict, defer, discard, permit, proceed, quarantine, reject
from mailgw.values.reply import Reply


@pytest.mark.parametrize(
    ("decision", "verdict", "reply"),
    [
        (proceed(), Verdict.PROCEED, None),
        (proceed(tags={"odd"}), Verdict.PROCEED, None),
        (permit("ours"), Verdict.PERMIT, None),
        (defer("later"), Verdict.DEFER, Reply(450, "4.7.1", "later")),
        (defer("later", code=451, enhanced="4.3.0"), Verdict.DEFER, Reply(451, "4.3.0", "later")),
        (reject("no"), Verdict.REJECT, Reply(550, "5.7.1", "no")),
        (discard("spam"), Verdict.DISCARD, None),
        (quarantine("odd"), Verdict.QUARANTINE, None),
    ],
    ids=lambda value: value.name if isinstance(value, Verdict) else "",
)
def test_makers(decision, verdict, reply):
    assert decision.verdict is verdict
    assert decision.reply == reply


def test_proceed_with_additions():
    decision = proceed(headers=(HeaderField("X-Odd", "yes"),), tags={"odd"})
    assert decision.headers == (HeaderField("X-Odd", "yes"),)
    assert decision.tags == frozenset({"odd"})


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: Decision(Verdict.DEFER), id="deferral without a reply"),
        pytest.param(lambda: Decision(Verdict.REJECT), id="rejection without a reply"),
        pytest.param(lambda: Decision(Verdict.DEFER, Reply(550, "5.7.1", "no")), id="deferral that says 5yz"),
        pytest.param(lambda: Decision(Verdict.REJECT, Reply(450, "4.7.1", "no")), id="rejection that says 4yz"),
        pytest.param(lambda: Decision(Verdict.REJECT, Reply(250, "2.0.0", "ok")), id="rejection that says 2yz"),
        pytest.param(lambda: reject("no", code=450, enhanced="4.7.1"), id="reject as 4yz"),
        pytest.param(lambda: defer("no", enhanced="5.7.1"), id="defer as 5.7.1"),
        pytest.param(lambda: proceed(tags={"a\nb"}), id="a tag of two lines"),
        pytest.param(lambda: proceed(tags={"\udcff"}), id="a tag that cannot be kept"),
        pytest.param(lambda: AuthResult("spf", "pass", (("smtp.mailfrom", "\udcff"),)), id="a result that cannot be sent"),
        pytest.param(lambda: AuthResult("spf", "pass", {"smtp.mailfrom": "example.org"}), id="a result whose properties are no pairs"),
    ],
)
def test_contradictions_cannot_be_made(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("value", ["", "yes", "a\r\n b", "a\r\n\tb\r\n c", "grün", "\r\n b"])
def test_header_fields(value):
    assert HeaderField("X-Odd", value).value == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param("", "x", id="no name"),
        pytest.param("X-Odd", "\udcff", id="what cannot be sent"),
        pytest.param("X Odd", "x", id="space in the name"),
        pytest.param("X:Odd", "x", id="colon in the name"),
        pytest.param("X-\r\nOdd", "x", id="line end in the name"),
        pytest.param("X-Öd", "x", id="name beyond ASCII"),
        pytest.param("X-Odd", "a\r\nSubject: forged", id="second field"),
        pytest.param("X-Odd", "a\r\n\r\nbody", id="end of the header section"),
        pytest.param("X-Odd", "a\r\n \r\n b", id="blank continuation line"),
        pytest.param("X-Odd", "a\r\n", id="empty last line"),
        pytest.param("X-Odd", "a\nb", id="bare LF"),
        pytest.param("X-Odd", "a\rb", id="bare CR"),
        pytest.param("X-Odd", "a\r\r\n b", id="bare CR before CRLF"),
        pytest.param("X-Odd", "a\0b", id="NUL"),
    ],
)
def test_what_breaks_a_header_section_cannot_be_made(name, value):
    with pytest.raises(ValueError):
        HeaderField(name, value)


@given(st.text("X:- \r\n\t\0é", max_size=12), st.text("ab: \r\n\t\0", max_size=20))
def test_a_field_stays_one_field(name, value):
    try:
        field = HeaderField(name, value)
    except ValueError:
        return
    lines = f"{field.name}: {field.value}\r\n".encode().split(b"\r\n")
    assert lines.pop() == b""
    assert not any(line[:1] in (b" ", b"\t") for line in lines[:1])
    assert all(line[:1] in (b" ", b"\t") and line.strip() for line in lines[1:])
    assert not any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines)
