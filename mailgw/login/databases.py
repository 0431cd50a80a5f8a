"""SQLite, PostgreSQL and MySQL behind one question: the first rows that a query gives. All of it waits: for threads only."""

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from attrs import define, field, frozen

from mailgw.credentials import AccountsUnavailable
from mailgw.values.secret import Secret

__all__ = ["Connections", "Engine", "engine_for", "names_in"]

_CONNECT_TIMEOUT = 5  # seconds
_MOST_ROWS = 2

# What is no parameter: strings, quoted names, comments, and PostgreSQL's casts.
_SKIPPED = r"'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|`[^`]*`|--[^\n]*|/\*.*?\*/|::"
_TOKEN = re.compile(rf"({_SKIPPED})|:([A-Za-z_][A-Za-z0-9_]*)", re.DOTALL)


def names_in(query: str) -> set[str]:
    """The parameters of a query, which are written ``:name``."""
    return {match[2] for match in _TOKEN.finditer(query) if match[2]}


def _as_format(query: str) -> str:
    """The query with its parameters as ``%(name)s``, as psycopg and PyMySQL want them."""
    return _TOKEN.sub(lambda match: f"%({match[2]})s" if match[2] else match[0], query.replace("%", "%%"))


@frozen
class Engine:
    """How to reach one database."""

    query: str  # as its driver wants it
    connect: Callable[[], Any] = field(repr=False)  # a DB-API connection in autocommit mode; may wait some seconds
    errors: type[Exception]
    lost: tuple[type[Exception], ...]  # those after which a new connection may help
    is_kept: bool  # whether a connection serves for more than one question


@define(eq=False)
class Connections:
    """Asks; keeps connections for the next question, and makes new ones for those that are lost. Safe in many threads."""

    engine: Engine
    _idle: list[Any] = field(factory=list, init=False)
    _closed: bool = field(default=False, init=False)

    def ask(self, values: Mapping[str, str]) -> Sequence[tuple[Any, ...]]:
        """The first rows, two at most. Raises AccountsUnavailable."""
        while True:
            try:
                connection, is_old = self._idle.pop(), True
            except IndexError:
                connection, is_old = self._connect(), False
            try:
                cursor = connection.cursor()
                cursor.execute(self.engine.query, values)
                rows: Sequence[tuple[Any, ...]] = cursor.fetchmany(_MOST_ROWS)
                cursor.close()
            except self.engine.errors as problem:
                self._drop(connection)
                if is_old and isinstance(problem, self.engine.lost):
                    self._drop_idle()  # the server may have gone away and come back since; a new connection tells
                    continue
                raise _unavailable(problem) from None
            except BaseException:
                self._drop(connection)
                raise
            if self.engine.is_kept and not self._closed:
                self._idle.append(connection)
            else:
                self._drop(connection)
            return rows

    def _connect(self) -> Any:
        try:
            return self.engine.connect()
        except (self.engine.errors, OSError) as problem:
            raise _unavailable(problem) from None

    def _drop(self, connection: Any) -> None:
        with suppress(self.engine.errors, OSError):
            connection.close()

    def close(self) -> None:
        """Keep nothing open."""
        self._closed = True
        self._drop_idle()

    def _drop_idle(self) -> None:
        with suppress(IndexError):  # another thread may have taken the last one
            while True:
                self._drop(self._idle.pop())


def _unavailable(problem: Exception) -> AccountsUnavailable:
    text = str(problem.strerror or problem) if isinstance(problem, OSError) else str(problem)
    return AccountsUnavailable(f"the database: {' '.join(text.split())[:200] or type(problem).__name__}")


# ── The three ──


def engine_for(database: str, query: str, password: Secret | None, patience: float) -> Engine:
    """How to reach ``postgresql://user@host/name``, ``mysql://user@host/name`` or ``sqlite:/path``; ``patience`` in seconds.

    Raises ValueError where that cannot be understood, or its driver is not installed.
    """
    try:
        url = urlsplit(database)
        port = url.port
    except ValueError as problem:
        raise ValueError(f"database: {problem}") from None
    if url.password is not None:
        raise ValueError('database: a password must not stand here; write password = { file = "..." }')
    if url.scheme == "sqlite":
        return _sqlite(unquote(url.path), query, patience)
    if url.scheme in ("postgresql", "postgres"):
        return _postgresql(database, query, password, patience)
    if url.scheme == "mysql":
        return _mysql(url.hostname, port, unquote(url.username or ""), unquote(url.path[1:]), url.query, query, password, patience)
    raise ValueError("database: write postgresql://user@host/name, mysql://user@host/name or sqlite:/path")


def _driver(name: str, extra: str) -> ModuleType:
    try:
        return import_module(name)
    except ImportError as problem:
        raise ValueError(f"database: {name} cannot be imported ({problem}); install it with: pip install 'mailgw[{extra}]'") from None


def _sqlite(path: str, query: str, patience: float) -> Engine:
    if not path.startswith("/"):
        raise ValueError("database: the path of an SQLite database must begin with a slash: sqlite:/path")
    where = f"{Path(path).as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(where, uri=True, timeout=patience, check_same_thread=False)

    # Opened for each question (0.1 ms): a database that was replaced is seen at once.
    return Engine(query, connect, sqlite3.Error, (), is_kept=False)


def _postgresql(database: str, query: str, password: Secret | None, patience: float) -> Engine:
    psycopg = _driver("psycopg", "postgresql")
    try:
        psycopg.conninfo.conninfo_to_dict(database)
    except psycopg.Error as problem:
        raise ValueError(f"database: {' '.join(str(problem).split())}") from None
    milliseconds = round(patience * 1000)
    settings: dict[str, Any] = {
        "autocommit": True,
        "connect_timeout": _CONNECT_TIMEOUT,
        "tcp_user_timeout": milliseconds,
        "options": f"-c statement_timeout={milliseconds}",
        "application_name": "mailgw",
    }

    def connect() -> Any:
        secret = {} if password is None else {"password": password.read().decode()}
        return psycopg.connect(database, **settings, **secret)

    return Engine(_as_format(query), connect, psycopg.Error, (psycopg.OperationalError, psycopg.InterfaceError), is_kept=True)


_MYSQL_OPTIONS = {"ssl_ca", "unix_socket"}


def _mysql(
    host: str | None, port: int | None, user: str, name: str, options: str, query: str, password: Secret | None, patience: float
) -> Engine:
    pymysql = _driver("pymysql", "mysql")
    said = dict(parse_qsl(options, keep_blank_values=True))
    for option in said.keys() - _MYSQL_OPTIONS:
        raise ValueError(f"database: there is no option {option}; there are {', '.join(sorted(_MYSQL_OPTIONS))}")
    settings: dict[str, Any] = {
        "host": host or "localhost",
        "port": port or 3306,
        "user": user,
        "database": name,
        "charset": "utf8mb4",
        "autocommit": True,
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": patience,
        "write_timeout": patience,
        **said,
    }
    if "ssl_ca" in said:
        settings |= {"ssl_verify_cert": True, "ssl_verify_identity": True}

    def connect() -> Any:
        return pymysql.connect(**settings, password=b"" if password is None else password.read())

    return Engine(_as_format(query), connect, pymysql.Error, (pymysql.OperationalError, pymysql.InterfaceError), is_kept=True)
