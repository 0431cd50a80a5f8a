import os
import sqlite3
from contextlib import closing

import pytest
from twisted.logger import globalLogPublisher
from zope.interface.verify import verifyObject

from mailgw.interfaces import IRecipientPolicy
from mailgw.policies.known_recipients import RecipientList, RecipientTable
from mailgw.testing import ThreadsAtOnce, a_recipient, at, run
from mailgw.values.decision import Verdict

LIST = """\
# who lives here
anna@example.org
Ben.B@EXAMPLE.org   # in accounting
jörg@example.org
a#b@example.org

"odd one"@example.org
@sales.example.org
"""

NOW = at("2026-01-05T10:00+00:00").now().timestamp()

MEMBERS = [
    ("anna@example.org", True, True),
    ("ANNA@Example.ORG", True, True),
    ("ben.b@example.org", True, True),
    ("jörg@example.org", True, True),
    ("a#b@example.org", True, True),
    ('"odd one"@example.org', True, True),
    ("anybody@sales.example.org", True, True),
    ("carol@example.org", False, False),
    ("anna@example.com", False, False),
    ("anna@sub.sales.example.org", False, False),
    ("postmaster@example.org", True, True),
    ("PostMaster@example.org", True, True),
    ("postmaster2@example.org", False, False),
    ("anna+tag@example.org", False, True),
    ("anna+tag+more@example.org", False, True),
    ("anna-tag@example.org", False, False),
    ("carol+anna@example.org", False, False),
    ("+anna@example.org", False, False),
    ("+@example.org", False, False),
]
IDS = [address for address, _, _ in MEMBERS]


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "recipients"
    write(path, LIST)
    return path


@pytest.fixture
def clock():
    return at("2026-01-05T10:00+00:00")


@pytest.fixture
def logged():
    events = []
    globalLogPublisher.addObserver(events.append)
    yield lambda: [event["log_format"].format(**event) for event in events if event["log_namespace"] == "mailgw.policies.kept_file"]
    globalLogPublisher.removeObserver(events.append)


def write(path, text, changed=NOW - 60):
    path.write_text(text, encoding="utf-8")
    os.utime(path, (changed, changed))


def knows(policy, address):
    decision = run(policy.check_recipient(a_recipient(address)))
    if decision.verdict is not Verdict.PROCEED:
        assert str(decision.reply) == "550 5.1.1 no such user here"
        return False
    return True


@pytest.mark.parametrize(("address", "plain", "with_subaddress"), MEMBERS, ids=IDS)
def test_list(path, clock, address, plain, with_subaddress):
    assert knows(RecipientList(path, clock=clock), address) is plain
    assert knows(RecipientList(path, subaddress="+", clock=clock), address) is with_subaddress


def test_list_keeps_its_contract(path, clock):
    assert verifyObject(IRecipientPolicy, RecipientList(path, clock=clock))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("anna@example.org\nanna\n", ":2: 'anna': address has no domain"),
        ("@exa mple.org", ":1: '@exa mple.org': domain is not"),
        ("a b@example.org", ":1: 'a b@example.org': local-part"),
    ],
)
def test_a_bad_line_is_an_error_at_the_start(path, clock, text, why):
    write(path, text)
    with pytest.raises(ValueError, match=f"^{path}{why}"):
        RecipientList(path, clock=clock)


def test_octets_that_are_no_text_are_an_error_at_the_start(path, clock):
    path.write_bytes(b"\n\xff@example.org\n")
    with pytest.raises(ValueError, match=f"^{path}:2: not UTF-8"):
        RecipientList(path, clock=clock)


def test_a_missing_file_is_an_error_at_the_start(tmp_path, clock):
    with pytest.raises(ValueError, match="nowhere: No such file"):
        RecipientList(tmp_path / "nowhere", clock=clock)


def test_a_subaddress_is_separated_by_one_character(path, clock):
    with pytest.raises(ValueError):
        RecipientList(path, subaddress="+-", clock=clock)


def test_a_change_is_seen_within_a_second(path, clock):
    policy = RecipientList(path, clock=clock)
    assert not knows(policy, "carol@example.org")
    write(path, "carol@example.org\n", NOW - 30)
    clock.advance(0.5)
    assert not knows(policy, "carol@example.org")
    clock.advance(0.5)
    assert knows(policy, "carol@example.org")
    assert not knows(policy, "anna@example.org")


def test_a_file_that_is_being_written_is_left_alone(path, clock):
    policy = RecipientList(path, clock=clock)
    assert knows(policy, "anna@example.org")
    clock.advance(1)
    write(path, "# who li", NOW + 0.9)
    assert knows(policy, "anna@example.org")
    clock.advance(1)
    write(path, "carol@example.org\n", NOW + 1.9)
    assert knows(policy, "anna@example.org")
    clock.advance(1)
    assert knows(policy, "carol@example.org")


def test_a_file_from_the_future_is_read_when_it_stays_the_same(path, clock):
    policy = RecipientList(path, clock=clock)
    write(path, "carol@example.org\n", NOW + 86400)
    assert not knows(policy, "carol@example.org")
    clock.advance(1)
    assert knows(policy, "carol@example.org")


def test_the_last_good_list_stays_in_force(path, clock, logged):
    policy = RecipientList(path, clock=clock)
    write(path, "anna\n", NOW - 30)
    for _ in range(3):
        assert knows(policy, "anna@example.org")
        clock.advance(1)
    [line] = logged()
    assert line == f"{path} cannot be read, the last good list of 6 stays in force: {path}:1: 'anna': address has no domain"
    write(path, "carol@example.org\n", NOW - 20)
    assert knows(policy, "carol@example.org")


def test_a_file_that_is_gone_is_complained_of_once(path, clock, logged):
    policy = RecipientList(path, clock=clock)
    path.unlink()
    for _ in range(3):
        assert knows(policy, "anna@example.org")
        clock.advance(1)
    assert len(logged()) == 1
    write(path, LIST.replace("anna", "carol"))
    assert knows(policy, "carol@example.org")
    clock.advance(1)
    path.unlink()
    assert knows(policy, "carol@example.org")
    assert len(logged()) == 2


# ── The table ──


@pytest.fixture
def database(tmp_path):
    path = tmp_path / "users #1?.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE users (local_part TEXT, domain TEXT)")
        connection.execute("INSERT INTO users VALUES ('', 'sales.example.org')")
        users = ["anna", "ben.b", "jörg", "a#b", "odd one"]
        connection.executemany("INSERT INTO users VALUES (?, 'example.org')", [(user,) for user in users])
    return path


QUERY = "SELECT 1 FROM users WHERE domain = :domain AND (local_part = :local_part OR local_part = '')"


def table(database, query=QUERY, **settings):
    return RecipientTable(database, query, threads=ThreadsAtOnce(), **settings)


@pytest.mark.parametrize(("address", "plain", "with_subaddress"), MEMBERS, ids=IDS)
def test_table(database, address, plain, with_subaddress):
    assert knows(table(database), address) is plain
    assert knows(table(database, subaddress="+"), address) is with_subaddress


def test_table_keeps_its_contract(database):
    assert verifyObject(IRecipientPolicy, table(database))


def test_a_whole_address_can_be_asked_for(database):
    policy = table(database, "SELECT NULL FROM users WHERE local_part || '@' || domain = :address")
    assert knows(policy, "Anna@example.org")
    assert not knows(policy, "carol@example.org")


def test_an_address_is_no_sql(database):
    assert not knows(table(database), "\"' OR 1=1 --\"@example.org")


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT 1 FROM people WHERE a = :address", "no such table: people"),
        ("SELEKT", "syntax error"),
        ("SELECT 1 FROM users WHERE domain = :nonsense", "nonsense"),
        ("DELETE FROM users", "readonly"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SELECT 1 FROM users", "asks for nobody"),
        ("", "asks for nobody"),
    ],
)
def test_a_query_that_does_not_work_is_an_error_at_the_start(database, query, why):
    with pytest.raises(ValueError, match=why):
        table(database, query)


def test_a_missing_database_is_an_error_at_the_start_and_is_not_made(tmp_path):
    with pytest.raises(ValueError, match="unable to open"):
        table(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_trouble_is_raised_and_passes(database):
    policy = table(database)
    hidden = database.rename(database.with_name("hidden"))
    with pytest.raises(sqlite3.Error):
        run(policy.check_recipient(a_recipient("anna@example.org")))
    hidden.rename(database)
    assert knows(policy, "anna@example.org")
