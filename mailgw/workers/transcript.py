"""What the configuration file said when the parent found it good: all workers read that, whatever the file says when they start."""

import os
from contextlib import ExitStack

__all__ = ["text_in", "transcript"]


def transcript(text: str) -> int:
    """A descriptor of a copy in memory, for workers; it is the caller's to close. Raises OSError."""
    descriptor = os.memfd_create("mailgw-configuration", os.MFD_CLOEXEC)
    with ExitStack() as failed:
        failed.callback(os.close, descriptor)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode())
        failed.pop_all()
    return descriptor


def text_in(descriptor: int) -> str:
    """The text of a transcript, which stays open. Raises OSError."""
    # The position in the file is shared with all others that have it.
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()
