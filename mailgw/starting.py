"""What a start does where it cannot succeed: it ends, with status 1, and says why where the operator looks."""

import sys
from typing import NoReturn

from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from mailgw.admin.socket import AdminSocket, SocketInUse

__all__ = ["give_up", "open_socket"]

_log = Logger(namespace="mailgw.service")


def open_socket(admin: AdminSocket) -> None:
    """Let the operator in, or give up."""
    try:
        admin.startService()
    except (SocketInUse, CannotListenError, OSError) as problem:
        give_up(f"the admin socket cannot be made: {problem}")


def give_up(text: str) -> NoReturn:
    """End a start that cannot succeed, with status 1."""
    # The log is open already, but an operator at a terminal may not be looking at it.
    _log.critical("mailgw does not start: {text}", text=text)
    if sys.__stderr__ is not None:
        sys.__stderr__.write(f"mailgw does not start: {text}\n")
    raise SystemExit(1)
