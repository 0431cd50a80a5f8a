"""Accounts in databases: SQLite in a file; PostgreSQL and MariaDB as real servers."""

import os
import sqlite3
from contextlib import closing

import pytest
from database_servers import MariaDb, PostgreSql
from twisted.cred.credentials import UsernamePassword
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.task import Clock
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.components import find
from mailgw.credentials import AccountsUnavailable, IAccounts, IScramProof
from mailgw.interfaces import IRecipientPolicy
from mailgw.login.databases import _as_format, names_in
from mailgw.login.schemes import make, read_stored
from mailgw.login.sql import SqlAccounts
from mailgw.policies.known_recipients import RecipientTable
from mailgw.testing.stores import Pump
from mailgw.values.secret import Secret

FAST = "$2y$05$7u6tl.5whgreXRJbCCTefeiKc7jLFqSXYHTM/ydJ.wQVHblmVF9Oq"  # bcrypt of "geheim"
SCRAM = make("scram-sha-256", "geheim")
QUERY = "select password from users where lower(name) = lower(:user) and note <> ':x' -- :y"
USERS = [
    ("anna", FAST),
    ("ben@example.org", "{BLF-CRYPT}" + FAST),
    ("jörg", FAST),
    ("100%", FAST),
    ("scram", SCRAM),
    ("clear", "{PLAIN}geheim"),
    ("bare", "geheim"),
    ("odd", "{MD5}geheim"),
    ("locked", "!" + FAST),
    ("null", None),
    ("two", FAST),
    ("two", FAST),
]


@pytest.fixture
def pump():
    return Pump()


@pytest.fixture
def opened(pump):
    """How to make accounts; what was made is closed in the end."""
    made = []

    def make_accounts(database, query=QUERY, **settings):
        made.append(SqlAccounts(database, query, threads=pump, steady=Clock(), **settings))
        return made[-1]

    yield make_accounts
    for accounts in made:
        accounts.close()


@pytest.fixture
def sqlite(tmp_path):
    path = tmp_path / "users.db"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("create table users (name text, password text, login text, note text default 'x')")
        connection.executemany("insert into users (name, password) values (?, ?)", USERS)
    return f"sqlite:{path}"


def login(pump, accounts, name, password="geheim"):
    try:
        return pump.run(accounts.requestAvatarId(UsernamePassword(name, password)))
    except UnauthorizedLogin:
        return None


PEOPLE = [
    ("anna", "geheim", "anna"),
    ("ANNA", "geheim", "ANNA"),
    ("anna", "wrong", None),
    ("anna", "", None),
    ("ben@example.org", "geheim", "ben@example.org"),
    (b"anna", b"geheim", "anna"),
    ("jörg", "geheim", "jörg"),
    (b"j\xf6rg", "geheim", None),
    ("100%", "geheim", "100%"),
    ("scram", "geheim", "scram"),
    ("scram", "wrong", None),
    ("locked", "geheim", None),
    ("null", "geheim", None),
    ("null", "", None),
    ("nobody", "geheim", None),
    ("", "geheim", None),
    ("' or 1=1 --", "geheim", None),
    ("anna'; drop table users; --", "geheim", None),
]


@pytest.mark.parametrize(("name", "password", "login_as"), PEOPLE)
def test_sqlite(opened, pump, sqlite, name, password, login_as):
    assert login(pump, opened(sqlite), name, password) == login_as


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("two", "the query gives more than one row for 'two'"),
        ("odd", "what is kept of 'odd' scheme MD5 is too weak"),
        ("clear", "what is kept of 'clear' holds a password in clear, and allow_plaintext is not set"),
        ("bare", "what is kept of 'bare' is no hash of a scheme that can be used"),
    ],
)
def test_what_nobody_can_decide(opened, pump, sqlite, name, why):
    with pytest.raises(AccountsUnavailable, match=f"^the database: {why}") as caught:
        login(pump, opened(sqlite), name)
    assert "geheim" not in str(caught.value)


def test_passwords_in_clear_where_they_are_allowed(opened, pump, sqlite):
    accounts = opened(sqlite, allow_plaintext=True, default_scheme="PLAIN")
    assert [login(pump, accounts, name) for name in ("clear", "bare", "anna", "locked")] == ["clear", "bare", "anna", None]
    assert login(pump, accounts, "bare", "Geheim") is None


def test_the_login_may_be_a_column(opened, pump, sqlite):
    query = """select password, nullif('user-' || lower(name), 'user-jörg') from users
               where name = :local_part collate nocase and :domain = ''"""
    accounts = opened(sqlite, query)
    assert [login(pump, accounts, name) for name in ("ANNA", "jörg", "anna@example.org")] == ["user-anna", "jörg", None]


def test_the_contract(opened, sqlite):
    assert find("sql", IAccounts) is SqlAccounts
    assert find("sql", IRecipientPolicy) is RecipientTable
    accounts = opened(sqlite, also_offer=frozenset({"SCRAM-SHA-256"}))
    assert verifyObject(IAccounts, accounts)
    assert accounts.mechanisms() == {"PLAIN", "LOGIN", "SCRAM-SHA-256"}


@implementer(IScramProof)
class Proof:
    def __init__(self, username, hash_name="SHA-256"):
        self.username, self.hash_name = username, hash_name
        self.asked = []

    async def prove(self, verifier):
        self.asked.append(verifier)
        return True  # even so a made-up verifier lets nobody in


@pytest.mark.parametrize(
    ("name", "hash_name", "login_as"),
    [("scram", "SHA-256", "scram"), ("scram", "SHA-1", None), ("anna", "SHA-256", None), ("x", "SHA-256", None)],
)
def test_scram(opened, pump, sqlite, name, hash_name, login_as):
    accounts, proof = opened(sqlite, also_offer=frozenset({"SCRAM-SHA-256"})), Proof(name, hash_name)
    try:
        assert pump.run(accounts.requestAvatarId(proof)) == login_as
    except UnauthorizedLogin:
        assert login_as is None
    [verifier] = proof.asked
    assert (verifier == read_stored(SCRAM).verifier) is (login_as is not None)
    assert verifier.made_up is (login_as is None)


def test_a_query_is_asked_again_each_time(opened, pump, sqlite):
    accounts = opened(sqlite, cache=600.0)
    assert login(pump, accounts, "anna") == "anna"
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:"))) as connection, connection:
        connection.execute("update users set password = ? where name = 'anna'", [make("bcrypt", "new")])
    assert login(pump, accounts, "anna") is None
    assert login(pump, accounts, "anna", "new") == "anna"
    with closing(sqlite3.connect(sqlite.removeprefix("sqlite:"))) as connection, connection:
        connection.execute("delete from users")
    assert login(pump, accounts, "anna", "new") is None


def test_a_database_that_goes_away(opened, pump, sqlite):
    accounts = opened(sqlite)
    os.rename(sqlite.removeprefix("sqlite:"), sqlite.removeprefix("sqlite:") + ".away")
    with pytest.raises(AccountsUnavailable, match=r"^the database: unable to open database file"):
        login(pump, accounts, "anna")
    os.rename(sqlite.removeprefix("sqlite:") + ".away", sqlite.removeprefix("sqlite:"))
    assert login(pump, accounts, "anna") == "anna"


@pytest.mark.parametrize(
    ("database", "settings", "why"),
    [
        ("/var/lib/users.db", {}, "write postgresql://user@host/name, mysql://user@host/name or sqlite:/path"),
        ("sqlite:users.db", {}, "must begin with a slash"),
        ("sqlite:/nowhere/users.db", {}, "unable to open"),
        ("postgresql://mailgw:secret@db/mail", {}, "a password must not stand here"),
        ("mysql://mailgw:secret@db/mail", {}, "a password must not stand here"),
        ("mysql://db/mail?ssl=1", {}, "there is no option ssl; there are ssl_ca, unix_socket"),
        ("mysql://db:x/mail", {}, "Port could not be cast"),
        ("postgresql://db/mail?nonsense=1", {}, 'invalid URI query parameter: "nonsense"'),
        ("mysql://db/mail", {"query": "select password from users"}, "asks for nobody; say where name = :user"),
        ("mysql://db/mail", {"query": "select ':user'::text"}, "asks for nobody"),
        ("mysql://db/mail", {"query": "select :usre, :user"}, "there is no :usre; there are :domain, :local_part, :user"),
        ("mysql://db/mail", {"also_offer": frozenset({"CRAM-MD5"})}, "CRAM-MD5 needs allow_plaintext"),
        ("mysql://db/mail", {"connections": 0}, "connections must be at least 1"),
    ],
)
def test_bad_settings(opened, database, settings, why):
    with pytest.raises(ValueError, match=why) as caught:
        opened(database, **settings)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "converted", "names"),
    [
        ("a = :user", "a = %(user)s", {"user"}),
        ("a like '%:user' and b = :user", "a like '%%:user' and b = %(user)s", {"user"}),
        ("a = :user::text", "a = %(user)s::text", {"user"}),
        ("'it''s :x' \":y\" `:z` -- :c\n:user", "'it''s :x' \":y\" `:z` -- :c\n%(user)s", {"user"}),
        (":user /* :d\n */ :domain", "%(user)s /* :d\n */ %(domain)s", {"user", "domain"}),
        ("a[1:2]", "a[1:2]", set()),
    ],
)
def test_parameters(query, converted, names):
    assert (_as_format(query), names_in(query)) == (converted, names)


# ── Real servers ──


def fill(server, *before):
    rows = [f"('{name}', {'null' if password is None else repr(password)}, 'x')" for name, password in USERS]
    server.run(*before, f"insert into users values {', '.join(rows)}")


@pytest.fixture(scope="module")
def postgresql():
    with PostgreSql() as server:
        fill(
            server,
            "create table users (name text, password text, note text)",
            "create user mailgw password 'db-secret'",
            "grant select on users to mailgw",
        )
        yield server


@pytest.fixture(scope="module")
def mariadb():
    with MariaDb() as server:
        fill(
            server,
            "create database mail character set utf8mb4",
            "use mail",
            "create table users (name varchar(100), password varchar(500), note text)",
            "create user mailgw@'%' identified by 'db-secret'",
            "grant select on mail.users to mailgw@'%'",
        )
        yield server


@pytest.fixture(params=["postgresql", "mariadb"])
def server(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def secret(tmp_path):
    (tmp_path / "secret").write_text("db-secret\n")
    return Secret(path=tmp_path / "secret")


@pytest.mark.live
def test_a_server(server, opened, pump, secret):
    accounts = opened(server.url, password=secret)
    assert [login(pump, accounts, name, password) for name, password, _ in PEOPLE] == [login_as for _, _, login_as in PEOPLE]
    with pytest.raises(AccountsUnavailable, match="more than one row"):
        login(pump, accounts, "two")


@pytest.mark.live
def test_mysql_by_its_socket(mariadb, opened, pump, secret):
    accounts = opened(f"mysql://mailgw@localhost/mail?unix_socket={mariadb.socket}", password=secret)
    assert [login(pump, accounts, "anna", password) for password in ("geheim", "wrong")] == ["anna", None]


@pytest.mark.live
def test_many_at_once(server, opened, pump, secret):
    accounts = opened(server.url, password=secret)
    asked = [accounts.requestAvatarId(UsernamePassword(*who)) for who in [("anna", "geheim"), ("anna", "wrong")] * 20]
    assert [answer if isinstance(answer, str) else type(answer) for answer in pump.run_all(asked)] == ["anna", UnauthorizedLogin] * 20


@pytest.mark.live
def test_a_server_that_goes_down_and_comes_back(server, opened, pump, secret):
    accounts = opened(server.url, password=secret)
    assert login(pump, accounts, "anna") == "anna"
    server.stop(abruptly=True)
    for name in ("anna", "nobody"):
        with pytest.raises(AccountsUnavailable, match=r"^the database: ") as caught:
            login(pump, accounts, name)
        assert "db-secret" not in str(caught.value)
    server.start()
    assert login(pump, accounts, "anna") == "anna"
    assert login(pump, accounts, "anna", "wrong") is None
    server.stop()
    server.start()
    assert login(pump, accounts, "anna") == "anna"  # although the kept connection is lost


@pytest.mark.live
def test_the_password_of_the_database_is_wrong(server, opened, pump, tmp_path):
    (tmp_path / "wrong").write_text("wr0ng-secret")
    accounts = opened(server.url, password=Secret(path=tmp_path / "wrong"))
    with pytest.raises(AccountsUnavailable, match=r"^the database: .*(authentication failed|Access denied)") as caught:
        login(pump, accounts, "anna")
    assert "wr0ng" not in str(caught.value)
    (tmp_path / "wrong").unlink()
    with pytest.raises(AccountsUnavailable, match=r"^the database: No such file"):
        login(pump, accounts, "anna")


@pytest.mark.live
def test_a_query_that_takes_too_long(postgresql, opened, pump, secret):
    accounts = opened(postgresql.url, "select password from users, pg_sleep(20) where name = :user", password=secret, answer_within=0.2)
    with pytest.raises(AccountsUnavailable, match="statement timeout"):
        login(pump, accounts, "anna")
