"""The tables of the embedded queue, and how values become rows.

``recipient.id BETWEEN message.first AND message.last`` finds a message's recipients without an index of its own: their
numbers are given out together. All numbers come from ``counter``, which only grows, so none is ever used twice.
"""

import sqlite3
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from mailgw.interfaces import StoreUnavailable
from mailgw.storage.trouble import translated
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Envelope, Recipient
from mailgw.values.ledger import State

__all__ = [
    "ENVELOPE_COLUMNS",
    "INSERT_MESSAGE",
    "INSERT_RECIPIENT",
    "PAGE_SIZE",
    "RECIPIENT_COLUMNS",
    "STATES",
    "STATE_NUMBERS",
    "TABLE_NAMES",
    "connect",
    "connect_read_only",
    "content_of",
    "envelope_of",
    "envelope_row",
    "recipient_of",
    "recipient_row",
]

APPLICATION_ID = 0x6D677771  # "mgwq"
VERSION = 1
PAGE_SIZE = 8192  # octets

STATES = (State.WAITING, State.HELD, State.DELIVERED, State.FAILED, State.DROPPED)  # by the number in recipient.state
STATE_NUMBERS = {state: number for number, state in enumerate(STATES)}

_TABLES = (
    "CREATE TABLE counter(message INTEGER NOT NULL, recipient INTEGER NOT NULL)",
    """CREATE TABLE destination(
        id INTEGER PRIMARY KEY,
        gateway TEXT NOT NULL,
        next_hop TEXT NOT NULL,
        UNIQUE(gateway, next_hop))""",
    """CREATE TABLE message(
        id INTEGER PRIMARY KEY,
        first INTEGER NOT NULL,         -- recipient.id
        last INTEGER NOT NULL,          -- recipient.id
        filed INTEGER NOT NULL,         -- 1: the original is the file content/<id>
        size INTEGER NOT NULL,          -- octets of the original
        arrived REAL NOT NULL,
        sender_local_part TEXT NOT NULL,
        sender_domain TEXT NOT NULL,
        body TEXT NOT NULL,
        smtputf8 INTEGER NOT NULL,
        requiretls INTEGER NOT NULL,
        ret TEXT NOT NULL,
        envid TEXT NOT NULL,
        session TEXT NOT NULL,
        listener TEXT NOT NULL,
        client_ip TEXT NOT NULL,
        helo TEXT NOT NULL,
        login TEXT NOT NULL,
        tags TEXT NOT NULL,             -- one a line
        added BLOB NOT NULL,
        original BLOB)""",
    """CREATE TABLE recipient(
        id INTEGER PRIMARY KEY,
        message INTEGER NOT NULL,
        destination INTEGER NOT NULL,
        state INTEGER NOT NULL,         -- 0 waiting, 1 held; over: 2 delivered, 3 failed, 4 dropped
        due REAL NOT NULL,
        local_part TEXT NOT NULL,
        domain TEXT NOT NULL,
        notify TEXT NOT NULL,
        orcpt TEXT NOT NULL,
        reason TEXT NOT NULL,           -- why it is held or was dropped
        attempts INTEGER NOT NULL DEFAULT 0,
        delay_told INTEGER NOT NULL DEFAULT 0,
        reply TEXT NOT NULL DEFAULT '',
        peer TEXT NOT NULL DEFAULT '')""",
    # Answers who is due, who is first, and how many there are, without a look at the tables.
    "CREATE INDEX queue ON recipient(destination, state, due, message)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {VERSION}",
)

TABLE_NAMES = {"counter", "destination", "message", "recipient", "queue"}

ENVELOPE_COLUMNS = (
    "arrived, sender_local_part, sender_domain, body, smtputf8, requiretls, ret, envid, session, listener, client_ip, helo, login, tags"
)
INSERT_MESSAGE = f"INSERT INTO message(id, first, last, filed, size, added, original, {ENVELOPE_COLUMNS}) VALUES({', '.join('?' * 21)})"
RECIPIENT_COLUMNS = "local_part, domain, notify, orcpt"
INSERT_RECIPIENT = f"INSERT INTO recipient(id, message, destination, state, due, reason, {RECIPIENT_COLUMNS}) VALUES({', '.join('?' * 10)})"


def connect(path: Path, base: int = 0) -> sqlite3.Connection:
    """Open the database for its owner, and make its tables where there are none; there, message numbers begin after ``base``.

    Raises StoreUnavailable.
    """
    database = _open(path.absolute().as_uri(), path)
    try:
        is_new = not _check(database, path)
        if is_new:
            # Both must be said before the first page is written.
            database.execute(f"PRAGMA page_size = {PAGE_SIZE}")
            database.execute("PRAGMA auto_vacuum = INCREMENTAL")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")  # in WAL mode: an fsync for each commit
        database.execute(f"PRAGMA wal_autocheckpoint = {16 * 2**20 // PAGE_SIZE}")
        database.execute("PRAGMA journal_size_limit = 67108864")
        database.execute("PRAGMA cache_size = -16384")  # KiB
        if is_new:
            database.execute("BEGIN IMMEDIATE")
            for statement in _TABLES:
                database.execute(statement)
            database.execute("INSERT INTO counter VALUES(?, 0)", (base,))
            database.execute("COMMIT")
    except Exception as problem:
        database.close()
        raise translated(problem, path) from problem
    return database


def connect_read_only(path: Path) -> sqlite3.Connection:
    """Open the database for reading, beside its owner or after its crash. Raises StoreUnavailable."""
    database = _open(f"{path.absolute().as_uri()}?mode=ro", path)
    try:
        if not _check(database, path):
            raise StoreUnavailable(f"{path} is empty")
    except Exception as problem:
        database.close()
        raise translated(problem, path) from problem
    return database


def _open(name: str, path: Path) -> sqlite3.Connection:
    try:
        # timeout: seconds to wait for an operator who writes with a tool of his own.
        return sqlite3.connect(name, timeout=10, isolation_level=None, check_same_thread=False, uri=True)
    except sqlite3.Error as problem:
        raise translated(problem, path) from problem


def _check(database: sqlite3.Connection, path: Path) -> bool:
    """Whether there is a queue in it; False for an empty file. Raises StoreUnavailable for what we must not touch."""
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    (tables,) = database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not (application or version or tables):
        return False
    if application != APPLICATION_ID:
        raise StoreUnavailable(f"{path} is a database, but not a mailgw queue")
    if version > VERSION:
        raise StoreUnavailable(f"{path} was written by a newer mailgw: it has schema {version}, this one knows {VERSION}")
    return True


def envelope_row(envelope: Envelope) -> tuple[Any, ...]:
    """The envelope as `ENVELOPE_COLUMNS`."""
    sender, client_ip, tags = envelope.sender, envelope.client_ip, envelope.tags
    return (
        envelope.arrived,
        sender.local_part,
        sender.domain,
        envelope.body,
        envelope.smtputf8,
        envelope.requiretls,
        envelope.ret,
        envelope.envid,
        envelope.session,
        envelope.listener,
        "" if client_ip is None else str(client_ip),
        envelope.helo,
        envelope.login,
        "\n".join(sorted(tags)) if tags else "",
    )


def envelope_of(row: tuple[Any, ...]) -> Envelope:
    """The envelope in `ENVELOPE_COLUMNS`."""
    arrived, local_part, domain, body, smtputf8, requiretls, ret, envid, session, listener, client_ip, helo, login, tags = row
    return Envelope(
        sender=Address(local_part, domain),
        arrived=arrived,
        body=body,
        smtputf8=bool(smtputf8),
        requiretls=bool(requiretls),
        ret=ret,
        envid=envid,
        session=session,
        listener=listener,
        client_ip=ip_address(client_ip) if client_ip else None,
        helo=helo,
        login=login,
        tags=frozenset(tags.split("\n")) if tags else frozenset(),
    )


def recipient_row(recipient: Recipient) -> tuple[str, str, str, str]:
    """The recipient as `RECIPIENT_COLUMNS`."""
    address, notify = recipient.address, recipient.notify
    return address.local_part, address.domain, ",".join(sorted(notify)) if notify else "", recipient.orcpt


def recipient_of(local_part: str, domain: str, notify: str, orcpt: str) -> Recipient:
    """The recipient in `RECIPIENT_COLUMNS`."""
    return Recipient(Address(local_part, domain), frozenset(notify.split(",")) if notify else frozenset(), orcpt)


def content_of(original: bytes | None, size: int, added: bytes, path: Path) -> Content:
    """A message's content; its original lies at ``path`` if the row has none."""
    return Content(path if original is None else original, size, added)
