"""Questions to a database file that somebody else keeps."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

__all__ = ["first_row", "has_row"]

_LOCKED = 5.0  # seconds to wait for another process that writes to it


def has_row(database: Path, query: str, questions: Iterable[Mapping[str, str]]) -> bool:
    """As `first_row`, but only whether there is one."""
    return first_row(database, query, questions) is not None


def first_row(database: Path, query: str, questions: Iterable[Mapping[str, str]]) -> tuple[Any, ...] | None:
    """The first row that the query gives for one of these parameters, which are asked one after the other; or None.

    To be called in a thread. Raises sqlite3.Error.
    """
    # Opened for each question (0.1 ms): a database that was replaced is seen at once.
    where = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(where, uri=True, timeout=_LOCKED)) as connection:
        rows = (connection.execute(query, question).fetchone() for question in questions)
        return next((row for row in rows if row is not None), None)
