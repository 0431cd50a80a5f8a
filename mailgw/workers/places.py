"""Where a worker is spoken to and heard: sockets beside the admin socket of its parent."""

from pathlib import Path

__all__ = ["PATIENCE", "left_behind", "notify_of", "socket_of"]

PATIENCE = 15.0
"""Seconds that the workers of a parent that was killed may take to give back ports and queue."""


def socket_of(admin: Path, worker: int) -> Path:
    """Where a worker is spoken to; ``admin`` is the parent's socket."""
    return admin.with_name(f"{admin.name}.{worker}")


def notify_of(admin: Path, worker: int) -> Path:
    """Where its signs of life are heard."""
    return admin.with_name(f"{admin.name}.{worker}.notify")


def left_behind(admin: Path) -> list[Path]:
    """The sockets of the second kind that a parent left there because it was killed: its workers may still be ending."""
    if not admin.parent.is_dir():
        return []
    return [path for path in admin.parent.iterdir() if path.name.startswith(f"{admin.name}.") and path.name.endswith(".notify")]
