"""Who may send as whom, in MAIL FROM and in the header section."""

import os
import sqlite3
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from mailgw.interfaces import IContentPolicy, ISenderPolicy
from mailgw.policies.originators import Unreadable, fields_of, mailboxes_in
from mailgw.policies.sender_rights import SenderRights
from mailgw.testing import ThreadsAtOnce, a_message, a_sender, at, run
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import Verdict

TABLE = b"""
# who may be whom
anna   info@example.org @shop.example   # the shop is hers
Ben    Ben.B@Example.ORG
anna   extra@example.org
backup *
*      noreply@example.org
"""
LISTED = {
    "anna": ["info@example.org", "@shop.example", "extra@example.org"],
    "Ben": ["Ben.B@Example.ORG"],
    "backup": ["*"],
    "*": ["noreply@example.org"],
}


@pytest.fixture
def clock():
    return at("2026-01-05T10:00+00:00")


@pytest.fixture
def rights(clock):
    return lambda **settings: SenderRights(**settings, clock=clock, threads=ThreadsAtOnce())


def mail(policy, login, sender):
    return run(policy.check_sender(a_sender(sender, login=login)))


def verdict(policy, login, sender):
    return mail(policy, login, sender).verdict is Verdict.PROCEED


def content(policy, login, *fields, body=b"\r\nhello\r\n"):
    raw = b"".join(field if isinstance(field, bytes) else field.encode() for field in fields)
    return run(policy.check_content(a_message(raw + body, login=login)))


def test_one_login_in_two_spellings_has_the_addresses_of_both(rights):
    policy = rights(addresses={"Anna": ["a@example.org"], "anna": ["b@example.org"]})
    assert verdict(policy, "anna", "a@example.org")
    assert verdict(policy, "anna", "b@example.org")


def test_it_is_two_policies(rights):
    assert verifyObject(ISenderPolicy, rights())
    assert verifyObject(IContentPolicy, rights())


# ── MAIL FROM ──

CASES = [
    ("anna", "info@example.org", True),
    ("ANNA", "INFO@Example.org", True),
    ("anna", "extra@example.org", True),
    ("anna", "anybody@shop.example", True),
    ("anna", "anybody@sub.shop.example", False),
    ("anna", "ben.b@example.org", False),
    ("ben", "ben.b@example.org", True),
    ("ben", "info@example.org", False),
    ("backup", "anybody@elsewhere.example", True),
    ("carol", "noreply@example.org", True),
    ("anna", "noreply@example.org", True),
    ("carol", "carol@example.org", False),
    ("carol@example.org", "carol@example.org", True),
    ("Carol@example.org", "carol@EXAMPLE.org", True),
    ("carol@example.org", "carol+x@example.org", False),
    ("carol@example.org", "carol@example.com", False),
    ("*", "info@example.org", False),
    ("", "anybody@elsewhere.example", True),
    ("anna", "<>", True),
]


@pytest.mark.parametrize("source", ["addresses", "file"])
@pytest.mark.parametrize(("login", "sender", "may"), CASES, ids=[f"{login} {sender}" for login, sender, _ in CASES])
def test_mail_from(rights, tmp_path, source, login, sender, may):
    path = tmp_path / "rights"
    path.write_bytes(TABLE)
    policy = rights(addresses=LISTED) if source == "addresses" else rights(path=path)
    assert verdict(policy, login, sender) is may


def test_without_any_setting_it_is_the_login(rights):
    assert verdict(rights(), "anna@example.org", "anna@example.org")
    assert not verdict(rights(), "anna@example.org", "ben@example.org")
    assert not verdict(rights(), "anna", "anna@example.org")


def test_logins_that_are_local_parts(rights):
    policy = rights(domains=["example.org", "example.net"])
    assert [verdict(policy, "anna", f"anna@example.{end}") for end in ("org", "net", "com")] == [True, True, False]
    assert not verdict(policy, "anna@example.com", "anna@example.org")


@pytest.mark.parametrize(
    ("subaddress", "sender", "may"),
    [
        ("+", "anna+lists@example.org", True),
        ("+", "+anna@example.org", False),
        ("-", "anna-x@example.org", True),
        ("", "anna+x@example.org", False),
    ],
)
def test_subaddresses(rights, subaddress, sender, may):
    assert verdict(rights(subaddress=subaddress), "anna@example.org", sender) is may


def test_the_refusal_says_who_and_what(rights):
    decision = mail(rights(), "anna", "ceo@example.org")
    assert str(decision.reply) == "553 5.7.1 anna may not send as ceo@example.org"
    assert [one.value for one in decision.evidence] == ["anna", "ceo@example.org"]
    assert str(mail(rights(null_sender=False), "anna", "<>").reply) == "553 5.7.1 anna may not send as <>"


def test_a_database(rights, tmp_path):
    path = tmp_path / "mail.db"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE alias(owner, address)")
    database.execute("INSERT INTO alias VALUES('anna', 'info@example.org')")
    database.commit()
    query = "SELECT 1 FROM alias WHERE owner = :login AND address = :address"
    policy = rights(database=path, query=query, subaddress="+", addresses={"anna": ["@a.example"]})
    senders = ("Info@example.org", "info+x@example.org", "ben@example.org", "x@a.example")
    asked = [(login, sender) for login in ("Anna", "ben") for sender in senders]
    assert [verdict(policy, *one) for one in asked] == [True, True, False, True, False, False, False, False]
    own = b"From: info@example.org, x@a.example\r\n"
    assert content(policy, "anna", own).verdict is Verdict.PROCEED
    assert str(content(policy, "ben", own).reply) == "550 5.7.1 ben may not send as info@example.org in From: or Sender:"
    database.execute("DROP TABLE alias")
    database.commit()
    database.close()
    with pytest.raises(sqlite3.Error):
        mail(policy, "anna", "info@example.org")


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"query": "SELECT 1"}, "belong together"),
        ({"database": Path("nowhere.db")}, "belong together"),
        ({"database": Path("nowhere.db"), "query": "SELECT 1"}, "nowhere.db"),
        ({"path": Path("nowhere")}, "nowhere: No such file"),
        ({"addresses": {"anna": ["no address"]}}, "no domain"),
    ],
    ids=str,
)
def test_settings_that_cannot_be(rights, settings, why):
    with pytest.raises(ValueError, match=why):
        rights(**settings)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"anna\n", r"rights:1: 'anna' has no address behind it"),
        (b"\nanna nobody\n", r"rights:2: address has no domain"),
        (b"anna @bad_domain!\n", r"rights:1: domain is not"),
        (b"anna \xff@example.org\n", r"rights:1: not UTF-8"),
    ],
)
def test_files_that_cannot_be(rights, tmp_path, text, why):
    (tmp_path / "rights").write_bytes(text)
    with pytest.raises(ValueError, match=why):
        rights(path=tmp_path / "rights")


def test_the_file_is_read_again(rights, tmp_path, clock):
    path = tmp_path / "rights"
    path.write_bytes(b"anna info@example.org\n")
    os.utime(path, (1, 1))
    policy = rights(path=path)
    assert not verdict(policy, "anna", "ben@example.org")
    path.write_bytes(b"anna ben@example.org\n")
    os.utime(path, (2, 2))
    clock.advance(2)
    assert verdict(policy, "anna", "ben@example.org")
    path.write_bytes(b"anna\n")
    os.utime(path, (3, 3))
    clock.advance(2)
    assert verdict(policy, "anna", "ben@example.org")


# ── From: and Sender: ──


@pytest.mark.parametrize(
    "fields",
    [
        b"From: anna@example.org\r\n",
        b"FROM:anna@example.org\r\n",
        b"from : Anna <anna@example.org>\r\n",
        b'From: "Anna, Shop" <ANNA@Example.ORG> (at home)\r\n',
        b"From: Anna\r\n <anna@example.org>\r\n",
        b"Subject: From: ceo@example.org\r\nFrom: anna@example.org\r\n",
        b"Reply-To: ceo@example.org\r\nX-From: ceo@example.org\r\nFrom: anna@example.org\r\n",
        b"From: anna@example.org\r\nSender: anna@example.org\r\n",
        b"From: anna@example.org, Anna <anna@example.org>\r\n",
        b"From: us: anna@example.org;\r\n",
        b"From: =?utf-8?q?J=C3=B6rg?= <anna@example.org>\r\n",
        'From: "Jörg" <anna@example.org>\r\n'.encode(),
        b'From: "J\xf6rg" <anna@example.org>\r\n',
    ],
)
def test_own_names(rights, fields):
    assert content(rights(), "anna@example.org", fields).verdict is Verdict.PROCEED


NOT_OWN = "550 5.7.1 anna@example.org may not send as {} in From: or Sender:"
STRANGE = [
    (b"From: ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
    (b"From: anna@example.org, ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
    (b"From: us: anna@example.org, ceo@example.org;\r\n", NOT_OWN.format("ceo@example.org")),
    (b"From: anna@example.org\r\nSender: ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
    (b'From: "anna@example.org" <ceo@example.org>\r\n', NOT_OWN.format("ceo@example.org")),
    (b"From: (anna@example.org) ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
    (b"From: anna@example.org\r\n\t, ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
    (b"From: anna@example.org\r\nFrom: ceo@example.org\r\n", "550 5.7.1 there is more than one From: field"),
    (b"From: anna@example.org\r\nX: y\r\nFROM : anna@example.org\r\n", "550 5.7.1 there is more than one From: field"),
    (b"Sender: a@b.c\r\nFrom: anna@example.org\r\nSender: a@b.c\r\n", "550 5.7.1 there is more than one Sender: field"),
    (b"Subject: x\r\n", "550 5.7.1 the message has no From: field"),
    (b"", "550 5.7.1 the message has no From: field"),
    (b"From:\r\n", "550 5.7.1 the From: field names nobody"),
    (b"From: nobody:;\r\n", "550 5.7.1 the From: field names nobody"),
    (b"From: anna\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: anna@example.org <ceo@example.org>\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: <anna@example.org> <ceo@example.org>\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: anna@example.org ceo@example.org\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: =?utf-8?q?anna=40example=2Eorg?=\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: anna@example.org\0\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: " + b"(" * 4000 + b"\r\n", "550 5.7.1 the From: field cannot be read"),
    (b"From: " + b"anna@example.org, " * 1000 + b"\r\n", "550 5.7.1 the From: field is too long"),
    (b"From: anna@example.org\r\nSender: <>\r\n", "550 5.7.1 the Sender: field cannot be read"),
    (b"X: y\nFrom: ceo@example.org\r\nFrom: anna@example.org\r\n", "550 5.7.1 the header section has a bare CR or LF"),
    (b"X: y\rFrom: ceo@example.org\r\nFrom: anna@example.org\r\n", "550 5.7.1 the header section has a bare CR or LF"),
    (b"X: " + b"y" * 2**20 + b"\r\nFrom: ceo@example.org\r\n", "550 5.7.1 the header section is too long"),
    (b"no field at all\r\nFrom: ceo@example.org\r\n", NOT_OWN.format("ceo@example.org")),
]


@pytest.mark.parametrize(("fields", "reply"), STRANGE, ids=[ascii(fields[:40]) for fields, _ in STRANGE])
def test_names_that_are_not_own(rights, fields, reply):
    assert str(content(rights(), "anna@example.org", fields).reply) == reply


def test_who_has_not_logged_in_is_not_asked(rights):
    assert content(rights(), "", b"From: ceo@example.org\r\n").verdict is Verdict.PROCEED


def test_the_header_may_be_left_out(rights):
    assert content(rights(header=False), "anna@example.org", b"From: ceo@example.org\r\n").verdict is Verdict.PROCEED


def test_a_message_in_a_file(rights, tmp_path):
    file = tmp_path / "message"
    file.write_bytes(b"X: " + b"y" * 200_000 + b"\r\nFrom: ceo@example.org\r\n\r\nhello\r\n")
    message = a_message(Content(file, file.stat().st_size), login="anna@example.org")
    assert "may not send as ceo@example.org" in str(run(rights().check_content(message)).reply)


@given(st.binary(max_size=200))
@example(b"a@b.c, <")
@example(b'"\\')
def test_no_field_breaks_the_parser(value):
    try:
        mailboxes = mailboxes_in(value)
    except Unreadable:
        return
    assert mailboxes
    assert all(isinstance(one, Address) and one.local_part and one.domain for one in mailboxes)


NAMES = st.sampled_from(["From", "from ", "X-From", "Sender"])
VALUES = st.sampled_from(["a", "b\r\n c", "\r\n\td", ""])


@given(st.lists(st.tuples(NAMES, VALUES), max_size=6))
def test_all_fields_are_found(fields):
    raw = "".join(f"{name}: {value}\r\n" for name, value in fields) + "\r\nFrom: body\r\n"
    found = [(name, value.decode().strip()) for name, value in fields_of(Content.of(raw.encode()))]
    assert found == [(name.strip().lower(), value.replace("\r\n", "").strip()) for name, value in fields]
