import errno
import sqlite3

import pytest

from mailgw.interfaces import StoreFull, StoreUnavailable
from mailgw.storage.trouble import translated


def sqlite_error(code):
    problem = sqlite3.OperationalError("said")
    problem.sqlite_errorcode = code
    return problem


@pytest.mark.parametrize(
    ("problem", "kind", "text"),
    [
        pytest.param(OSError(errno.ENOSPC, "no room"), StoreFull, "OSError: [Errno 28] no room", id="full"),
        pytest.param(OSError(errno.EDQUOT, "quota"), StoreFull, "OSError: [Errno 122] quota", id="quota"),
        pytest.param(OSError(errno.EIO, "broken"), StoreUnavailable, "OSError: [Errno 5] broken", id="broken"),
        pytest.param(sqlite_error(sqlite3.SQLITE_FULL), StoreFull, "OperationalError: said", id="SQLITE_FULL"),
        pytest.param(sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), StoreUnavailable, "OperationalError: said", id="SQLITE_IOERR"),
        pytest.param(sqlite3.ProgrammingError("closed"), StoreUnavailable, "ProgrammingError: closed", id="no code"),
        pytest.param(ValueError("nonsense"), StoreUnavailable, "ValueError: nonsense", id="anything else"),
        pytest.param(StoreFull("already"), StoreFull, "already", id="as it is"),
    ],
)
def test_kinds(problem, kind, text):
    translation = translated(problem)
    assert type(translation) is kind
    assert str(translation) == text
    assert translation is problem or translation.__cause__ is problem


def test_the_place_is_named():
    assert str(translated(OSError(errno.EIO, "broken"), "/var/x")) == "/var/x: [Errno 5] broken"


def test_the_file_that_the_system_names_is_named_once():
    problem = PermissionError(errno.EACCES, "Permission denied", "/var/x/lock")
    assert str(translated(problem, "/var/x")) == "/var/x/lock: Permission denied"
