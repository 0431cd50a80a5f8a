"""Access tables: which entry wins, what it does, what is wrong in a file."""

import os
import sqlite3
from contextlib import closing
from datetime import timedelta

import pytest

from mailgw.interfaces import LookupFailed
from mailgw.policies.access_table import AccessTable
from mailgw.policies.relay import Permit
from mailgw.testing import at, run, zone
from mailgw.testing.facts import a_client, a_recipient, a_sender
from mailgw.testing.server import MemoryServer
from mailgw.testing.threads import ThreadsAtOnce

CLIENTS = """\
# networks
192.0.2.0/24       reject  no mail from there   # a comment
192.0.2.7          accept
192.0.2.128/25     defer
2001:db8::/32      discard
2001:db8:1::/48    hold    look at it
198.51.100.1       tag     partner
198.51.100.2       reject\t# a comment
::ffff:198.51.100.128/121  reject  no
"""
NAMES = """\
example.com            reject
.example.com           defer   later
good@example.com       accept
mail.example.com       tag     known
<>                     hold
bücher.example         reject
[IPv6:2001:DB8::1]     defer   later
"""
LOGINS = "Ann reject your account is closed\n"


ZONE = {
    "1.2.0.192.in-addr.arpa": {"PTR": ["Mail.Partner.example."]},
    "2.2.0.192.in-addr.arpa": {"PTR": ["x.y.partner.example."]},
    "3.2.0.192.in-addr.arpa": {"PTR": ["mail.partner.example."]},  # which knows nothing of it
    "4.2.0.192.in-addr.arpa": {"PTR": ["partner.example."]},
    "5.2.0.192.in-addr.arpa": LookupFailed,
    "8.2.0.192.in-addr.arpa": {"PTR": ["mail8.partner.example."]},
    "mail8.partner.example": {"A": ["192.0.2.8"]},
    "6.2.0.192.in-addr.arpa": {"PTR": ["a_b.partner.example."]},
    "7.2.0.192.in-addr.arpa": LookupFailed,
    "mail.partner.example": {"A": ["192.0.2.1"]},
    "x.y.partner.example": {"A": ["192.0.2.2"]},
    "partner.example": {"A": ["192.0.2.4"]},
    "a_b.partner.example": {"A": ["192.0.2.6"]},
}
GIVEN = {"threads": ThreadsAtOnce(), "clock": at("2026-01-05T10:00+00:00"), "resolver": zone(ZONE)}


def table(tmp_path, on, text, clock=None):
    path = tmp_path / "access"
    path.write_text(text)
    return AccessTable(on, path, **{**GIVEN, "clock": clock or GIVEN["clock"]})


def said(answer):
    decision = answer if hasattr(answer, "verdict") else run(answer)
    text = str(decision.reply) if decision.reply else decision.verdict.value
    return f"{text} +{','.join(decision.tags)}" if decision.tags else text


FOUND = {
    "network": ("client", {"ip": "192.0.2.1"}, "550 5.7.1 no mail from there"),
    "exception": ("client", {"ip": "192.0.2.7"}, "proceed"),
    "narrower": ("client", {"ip": "192.0.2.200"}, "450 4.7.1 not now, try again later"),
    "no text, but a comment": ("client", {"ip": "198.51.100.2"}, "550 5.7.1 access denied"),
    "a network of IPv4-mapped addresses": ("client", {"ip": "198.51.100.200"}, "550 5.7.1 no"),
    "elsewhere": ("client", {"ip": "203.0.113.1"}, "proceed"),
    "six": ("client", {"ip": "2001:db8::1"}, "discard"),
    "narrower-six": ("client", {"ip": "2001:db8:1::1"}, "quarantine"),
    "tag": ("client", {"ip": "198.51.100.1"}, "proceed +partner"),
    "helo": ("helo", {"helo": "EXAMPLE.com"}, "550 5.7.1 access denied"),
    "helo-below": ("helo", {"helo": "x.y.example.com"}, "450 4.7.1 later"),
    "helo-exact": ("helo", {"helo": "mail.example.com"}, "proceed +known"),
    "helo-other": ("helo", {"helo": "example.net"}, "proceed"),
    "helo-dot": ("helo", {"helo": "mail.example.com."}, "proceed +known"),
    "helo-u-label": ("helo", {"helo": "BÜCHER.example"}, "550 5.7.1 access denied"),
    "helo-a-label": ("helo", {"helo": "xn--bcher-kva.example"}, "550 5.7.1 access denied"),
    "helo-literal": ("helo", {"helo": "[ipv6:2001:db8:0::1]"}, "450 4.7.1 later"),
    "helo-no-name": ("helo", {"helo": "a_b.EXAMPLE.com."}, "450 4.7.1 later"),
    "sender": ("sender", {"sender": "bad@example.com"}, "550 5.7.1 access denied"),
    "sender-exception": ("sender", {"sender": "GOOD@example.com"}, "proceed"),
    "sender-below": ("sender", {"sender": "good@x.example.com"}, "450 4.7.1 later"),
    "null": ("sender", {"sender": "<>"}, "quarantine"),
    "recipient": ("recipient", {"to": "bad@example.com"}, "550 5.7.1 access denied"),
    "recipient-exception": ("recipient", {"to": "good@example.com"}, "proceed"),
    "login": ("login", {"login": "ann"}, "550 5.7.1 your account is closed"),
    "other-login": ("login", {"login": "ben"}, "proceed"),
    "no-login": ("login", {}, "proceed"),
}
TEXTS = {"client": CLIENTS, "login": LOGINS}


def ask(policy, on, who):
    if on == "client":
        return policy.check_client(a_client(**who))
    return policy.check_recipient(a_recipient(**who)) if on == "recipient" else policy.check_sender(a_sender(**who))


@pytest.mark.parametrize(("on", "who", "expected"), FOUND.values(), ids=FOUND)
def test_the_most_specific_entry_wins(tmp_path, on, who, expected):
    assert said(ask(table(tmp_path, on, TEXTS.get(on, NAMES)), on, who)) == expected


def test_other_stages_have_no_opinion(tmp_path):
    policy = table(tmp_path, "client", CLIENTS)
    assert said(policy.check_sender(a_sender(ip="192.0.2.1"))) == "proceed"
    assert said(policy.check_recipient(a_recipient(ip="192.0.2.1"))) == "proceed"
    assert said(table(tmp_path, "helo", NAMES).check_client(a_client())) == "proceed"


def test_its_grounds_are_file_and_line(tmp_path):
    decision = table(tmp_path, "client", CLIENTS).check_client(a_client(ip="192.0.2.1"))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("client", "192.0.2.1", "the connection"),
        ("entry", "192.0.2.0/24 reject", f"{tmp_path}/access:2"),
    ]
    assert decision.remedy == f"another entry for it, or none, in {tmp_path}/access"


MIXED = """\
0.0.0.0/0              reject  nobody
192.0.2.0/24           defer
.partner.example       accept
mail.partner.example   tag     partner
192.0.2.7              hold
192.0.2.8              hold
"""
BY_NAME = {
    "name": ("192.0.2.1", "proceed +partner"),
    "below": ("192.0.2.2", "proceed"),
    "only the name itself": ("192.0.2.4", "450 4.7.1 not now, try again later"),
    "not confirmed": ("192.0.2.3", "450 4.7.1 not now, try again later"),
    "no name": ("192.0.2.9", "450 4.7.1 not now, try again later"),
    "underscore": ("192.0.2.6", "proceed"),
    "address before name": ("192.0.2.8", "quarantine"),
    "another network": ("203.0.113.1", "550 5.7.1 nobody"),
}


@pytest.mark.parametrize("kind", ["file", "database"])
@pytest.mark.parametrize(("ip", "expected"), BY_NAME.values(), ids=BY_NAME)
def test_names_of_clients(tmp_path, kind, ip, expected):
    policy = table(tmp_path, "client", MIXED)
    if kind == "database":
        path = tmp_path / "access.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("CREATE TABLE access (key TEXT PRIMARY KEY, action TEXT, text TEXT)")
            rows = [(*line.split(None, 2), "")[:3] for line in MIXED.replace("192.0.2.8 ", "192.0.2.8/32 ").splitlines()]
            connection.executemany("INSERT INTO access VALUES (?, ?, ?)", rows)
            connection.commit()
        policy = AccessTable("client", None, path, QUERY, look_up_names=True, **GIVEN)
    assert said(policy.check_client(a_client(ip=ip))) == expected


def test_the_grounds_of_a_name(tmp_path):
    decision = run(table(tmp_path, "client", MIXED).check_client(a_client(ip="192.0.2.2")))
    assert [(one.name, one.value, one.source) for one in decision.evidence] == [
        ("client", "192.0.2.2", "the connection"),
        ("reverse name", "x.y.partner.example", "PTR 2.2.0.192.in-addr.arpa"),
        ("entry", ".partner.example accept", f"{tmp_path}/access:3"),
    ]


def test_names_are_asked_for_only_where_there_are_some(tmp_path):
    assert said(table(tmp_path, "client", CLIENTS).check_client(a_client(ip="192.0.2.5"))) == "550 5.7.1 no mail from there"
    assert said(table(tmp_path, "client", MIXED).check_client(a_client(ip="192.0.2.7"))) == "quarantine"
    with pytest.raises(LookupFailed):
        run(table(tmp_path, "client", MIXED).check_client(a_client(ip="192.0.2.5")))


def test_without_the_dns_it_cannot_say(tmp_path):
    server = MemoryServer(policies=[table(tmp_path, "client", MIXED)], reference=lambda: "7QK3M")
    assert server.connect(ip="192.0.2.5").heard() == "421 4.3.0 local problem, try again later [ref 7QK3M]\r\n"


@pytest.mark.parametrize("settings", [{"on": "helo", "database": "x", "query": "y"}, {"on": "client", "path": "x"}], ids=str)
def test_where_no_names_can_be_looked_up(settings):
    with pytest.raises(ValueError, match='look_up_names is for a database with on = "client"'):
        AccessTable(**settings, look_up_names=True, **GIVEN)


WRONG = {
    "short": ("192.0.2.1\n", 'access:1: "192.0.2.1" is not KEY ACTION'),
    "action": ("\n192.0.2.1 refuse\n", 'access:2: "refuse" is none of accept, reject'),
    "network": ("192.0.2.1/24 reject\n", "access:1: 192.0.2.1/24 has host bits set"),
    "no-network": ("example..org reject\n", "access:1: example..org is no network and no host name: domain is not a valid host name"),
    "half-a-network": ("192.0.2 reject\n", "access:1: '192.0.2' does not appear"),
    "half-a-network-six": ("2001:db8 reject\n", "access:1: '2001:db8' does not appear"),
    "an-address": ("a@example.org reject\n", "access:1: a@example.org is no network and no host name: it is about senders"),
    "nobody": ("<> reject\n", "access:1: <> is no network and no host name"),
    "tag": ("192.0.2.1 tag\n", "access:1: a tag is one word"),
    "umlaut": ("192.0.2.1 reject für\n", "access:1: the text must be plain ASCII"),
}


@pytest.mark.parametrize(("text", "problem"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_with_its_line(tmp_path, text, problem):
    with pytest.raises(ValueError, match=problem.replace("(", r"\(")):
        table(tmp_path, "client", text)


def test_a_name_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="access:1: a@b@c:"):
        table(tmp_path, "sender", "a@b@c reject\n")


@pytest.mark.parametrize("settings", [{}, {"path": "x", "database": "y"}, {"database": "y"}, {"path": "x", "query": "z"}], ids=str)
def test_a_file_or_a_database(settings):
    with pytest.raises(ValueError, match='needs either "path"'):
        AccessTable("client", **settings, **GIVEN)


def test_it_is_read_again_and_the_last_good_one_stays(tmp_path):
    clock = at("2026-01-05T10:00+00:00")
    policy = table(tmp_path, "client", CLIENTS, clock)
    for moment, (text, expected) in enumerate(
        [("192.0.2.1 defer now\n", "450 4.7.1 now"), ("nonsense\n", "450 4.7.1 now"), ("", "proceed")], 1
    ):
        (tmp_path / "access").write_text(text)
        os.utime(tmp_path / "access", (moment, moment))
        clock.advance(timedelta(seconds=10))
        assert said(policy.check_client(a_client(ip="192.0.2.1"))) == expected


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "access.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE access (key TEXT PRIMARY KEY, action TEXT, text TEXT)")
        rows = [("example.com", "reject", "go away"), ("good@example.com", "accept", None), ("odd.example", "explode", "")]
        connection.executemany("INSERT INTO access VALUES (?, ?, ?)", rows)
        connection.commit()
    return path


QUERY = "SELECT action, text FROM access WHERE key = :key"


def test_a_database(database):
    policy = AccessTable("sender", None, database, QUERY, **GIVEN)
    assert said(policy.check_sender(a_sender("bad@example.com"))) == "550 5.7.1 go away"
    assert said(policy.check_sender(a_sender("good@example.com"))) == "proceed"
    assert said(policy.check_sender(a_sender("good@example.net"))) == "proceed"
    with pytest.raises(ValueError, match="explode"):
        run(policy.check_sender(a_sender("a@odd.example")))
    database.unlink()
    with pytest.raises(sqlite3.Error):
        run(policy.check_sender(a_sender("bad@example.com")))


def test_a_query_that_does_not_work_is_found_at_the_start(database):
    with pytest.raises(ValueError, match="no such table"):
        AccessTable("sender", None, database, "SELECT 1 FROM elsewhere", **GIVEN)
    with pytest.raises(ValueError, match="asks for nobody"):
        AccessTable("sender", None, database, "SELECT action FROM access", **GIVEN)


def test_a_talk(tmp_path):
    policies = [table(tmp_path, "sender", NAMES)]
    server = MemoryServer(permits=[Permit(to=frozenset({"example.org"}))], policies=policies, reference=lambda: "7QK3M")
    talk = server.connect()
    talk.say("EHLO c")
    assert talk.say("MAIL FROM:<x@example.com>") == "550 5.7.1 access denied [ref 7QK3M]\r\n"
    assert talk.say("MAIL FROM:<good@example.com>").startswith("250 ")
