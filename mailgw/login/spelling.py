"""What credentials hold, whether they hold text, as ours do, or octets, as Twisted's do."""

from typing import Any

__all__ = ["name_in", "password_in"]


def name_in(credentials: Any) -> str:
    """The user's name. Raises ValueError for octets that are no UTF-8."""
    name = credentials.username
    return name.decode() if isinstance(name, bytes) else str(name)


def password_in(credentials: Any) -> bytes:
    """The password, in UTF-8."""
    password = credentials.password
    return password if isinstance(password, bytes) else str(password).encode()
