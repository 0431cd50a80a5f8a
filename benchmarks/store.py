"""A durable SQLite store with group commit, which knows no event loop: for the servers that the gateway is measured beside."""

import sqlite3
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Store"]

_Waiting = tuple[bytes, list[bytes], bytes, Callable[[], None]]


class Store:
    """Commit whatever is waiting in one transaction on a thread, then answer all of it."""

    def __init__(self, path: str, soon: Callable[..., Any], in_thread: Callable[..., Any], from_thread: Callable[..., Any]) -> None:
        """Make one in a new file. The event loop's part: call a function a turn later, in a thread, from a thread."""
        self.soon, self.in_thread, self.from_thread = soon, in_thread, from_thread
        self.waiting: list[_Waiting] = []
        self.busy = False
        self.database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        for statement in (
            "pragma journal_mode=wal",
            "pragma synchronous=full",
            "pragma wal_autocheckpoint=4000",
            "create table message(id integer primary key, sender blob, content blob, arrived real)",
            "create table recipient(id integer primary key, message int, address blob, due real, state int)",
            "create index due on recipient(state, due)",
        ):
            self.database.execute(statement)

    def put(self, sender: bytes, recipients: list[bytes], content: bytes, done: Callable[[], None]) -> None:
        self.waiting.append((sender, recipients, content, done))
        if not self.busy:
            self.busy = True
            self.soon(self.flush)

    def flush(self) -> None:
        group, self.waiting = self.waiting, []
        self.in_thread(self.commit, group)

    def commit(self, group: list[_Waiting]) -> None:
        execute, now = self.database.execute, time.time()
        execute("begin immediate")
        for sender, recipients, content, _ in group:
            number = execute("insert into message(sender, content, arrived) values(?,?,?)", (sender, content, now)).lastrowid
            for address in recipients:
                execute("insert into recipient(message, address, due, state) values(?,?,?,0)", (number, address, now))
        execute("commit")
        self.from_thread(self.answer, group)

    def answer(self, group: list[_Waiting]) -> None:
        for *_, done in group:
            done()
        if self.waiting:
            self.flush()
        else:
            self.busy = False
