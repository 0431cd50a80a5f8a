"""What goes wrong on the disk, in the words of the contract."""

import errno
import sqlite3

from mailgw.interfaces import StoreDamaged, StoreFull, StoreUnavailable

__all__ = ["translated"]

# The lower octet of an error code is the kind (sqlite.org/rescode.html).
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translated(problem: Exception, where: object = "") -> StoreUnavailable:
    """`StoreFull` when there is no room, `StoreDamaged` for a damaged database, else `StoreUnavailable`.

    It is caused by ``problem``; ``where`` names the file.
    """
    if isinstance(problem, StoreUnavailable):
        return problem
    kind = StoreUnavailable
    if isinstance(problem, sqlite3.Error):
        code = getattr(problem, "sqlite_errorcode", 0)  # only errors that SQLite reported have one
        if code & 0xFF == sqlite3.SQLITE_FULL or code == sqlite3.SQLITE_IOERR_SHMSIZE:  # the latter: no room for the log's index
            kind = StoreFull
        elif code & 0xFF in _DAMAGED:
            kind = StoreDamaged
    elif isinstance(problem, OSError) and problem.errno in (errno.ENOSPC, errno.EDQUOT):
        kind = StoreFull
    if isinstance(problem, OSError) and problem.filename:
        what = f"{problem.filename}: {problem.strerror}"  # it names the file itself, perhaps one inside of ``where``
    else:
        what = f"{where}: {problem}" if where else f"{type(problem).__name__}: {problem}"
    translation = kind(what)
    translation.__cause__ = problem
    return translation
