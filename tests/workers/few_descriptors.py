"""A process that may open only so many descriptors more, as on a machine or in a process where they run out."""

import os
import resource
from contextlib import contextmanager
from itertools import count, islice


@contextmanager
def room_for(number):
    """Inside, the process can open ``number`` descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = (descriptor for descriptor in count() if not _is_open(descriptor))
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(islice(free, number, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _is_open(descriptor):
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
