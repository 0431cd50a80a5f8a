"""Passwords and keys: known by where they lie, never by what they are."""

import os
from pathlib import Path

from attrs import frozen

__all__ = ["Secret"]


@frozen
class Secret:
    """Where a secret lies. It is read when it is needed and kept nowhere, so it can stand in no log and no error text.

    Written ``{ file = "/etc/mailgw/key" }``, ``{ env = "NAME" }`` or ``{ credential = "name" }`` (systemd's LoadCredential=).
    """

    path: Path | None = None  # the file to read, and to watch for changes
    variable: str = ""  # the environment variable, where there is no file

    def __attrs_post_init__(self) -> None:
        if bool(self.path) == bool(self.variable):
            raise ValueError("a secret lies in a file or in an environment variable")

    def read(self) -> bytes:
        """The secret as it is now, without a final line end. Raises OSError."""
        if self.path is not None:
            return self.path.read_bytes().removesuffix(b"\n").removesuffix(b"\r")
        try:
            return os.environb[self.variable.encode()]
        except KeyError:
            raise OSError(f"environment variable {self.variable} is not set") from None

    def __str__(self) -> str:
        return str(self.path) if self.path is not None else f"${self.variable}"
