"""A port for a server that a test starts, and that nobody else takes until it is there."""

import random
import socket
from pathlib import Path

__all__ = ["free_port"]

_FIRST, _LAST = 10_000, 65_535
_TRIES = 100
_OF_THE_KERNEL = Path("/proc/sys/net/ipv4/ip_local_port_range")
_given: set[int] = set()


def free_port() -> int:
    """Give a port of 127.0.0.1 at which nobody listens; never the same twice in one process. Raises OSError if there is none.

    It is none of those that the kernel chooses itself, for connections and for who binds port 0: such a port may have gone to
    somebody else before the server is there.
    """
    kernels = _chosen_by_the_kernel()
    ours = [port for port in range(_FIRST, _LAST + 1) if port not in kernels and port not in _given]
    for port in (*random.sample(ours, min(len(ours), _TRIES)), *[0] * _TRIES):  # 0: where the kernel has all of them
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found: int = probe.getsockname()[1]
        if found not in _given:
            _given.add(found)
            return found
    raise OSError("no port is free")


def _chosen_by_the_kernel() -> range:
    try:
        first, last = map(int, _OF_THE_KERNEL.read_text().split())
    except (OSError, ValueError):
        return range(32_768, 61_000)  # as usual
    return range(first, last + 1)
