"""What goes wrong on the disk, in the words of the contract."""

import errno
import sqlite3

from mailgw.interfaces import StoreFull, StoreUnavailable

__all__ = ["translated"]


def translated(problem: Exception, where: object = "") -> StoreUnavailable:
    """`StoreFull` when there is no room, else `StoreUnavailable`, caused by ``problem``; ``where`` names the file."""
    if isinstance(problem, StoreUnavailable):
        return problem
    if isinstance(problem, sqlite3.Error):
        # Only errors that SQLite reported have a code; the lower octet is the kind (sqlite.org/rescode.html).
        full = getattr(problem, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    else:
        full = isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT)
    if isinstance(problem, OSError) and problem.filename:
        what = f"{problem.filename}: {problem.strerror}"  # it names the file itself, perhaps one inside of ``where``
    else:
        what = f"{where}: {problem}" if where else f"{type(problem).__name__}: {problem}"
    translation = StoreFull(what) if full else StoreUnavailable(what)
    translation.__cause__ = problem
    return translation
