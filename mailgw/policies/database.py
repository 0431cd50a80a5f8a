"""Questions to a database file that somebody else keeps."""

import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

__all__ = ["has_row"]

_LOCKED = 5.0  # seconds to wait for another process that writes to it


def has_row(database: Path, query: str, questions: Iterable[Mapping[str, str]]) -> bool:
    """Whether the query gives a row for one of these parameters; asked one after the other, in a thread. Raises sqlite3.Error."""
    # Opened for each question (0.1 ms): a database that was replaced is seen at once.
    where = f"{database.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(where, uri=True, timeout=_LOCKED)) as connection:
        return any(connection.execute(query, question).fetchone() is not None for question in questions)
