"""Clients that say EHLO and then nothing: opens so many sessions, and holds them until its standard input ends.

    python benchmarks/idle.py PORT --connections 10000

When all are open it prints one JSON object; exit status 1 if some could not be opened. They come from 127.0.0.1 to 127.0.0.20.
"""

import argparse
import json
import resource
import select
import socket
import sys
import time

AT_ONCE = 200  # as many are being opened at a time
STALLED = 30.0  # seconds without a sign of life, after which what is not open counts as failed
_SOURCES = 20


def open_some(port: int, first: int, number: int) -> list[socket.socket]:
    """Open sessions and bring them behind EHLO; gives those that got there."""
    there: list[socket.socket] = []
    poll, coming = select.epoll(), {}
    for n in range(first, first + number):
        try:
            connection = socket.create_connection(("127.0.0.1", port), STALLED, source_address=(f"127.0.0.{1 + n % _SOURCES}", 0))
        except OSError:
            continue
        connection.setblocking(False)
        poll.register(connection, select.EPOLLIN)
        coming[connection.fileno()] = (connection, b"220")
    while coming:
        ready = poll.poll(STALLED)
        if not ready:
            break
        for descriptor, _ in ready:
            connection, code = coming[descriptor]
            try:
                lines = connection.recv(4096).splitlines()
            except OSError:
                lines = []
            if lines and lines[-1].startswith(code + b" "):
                if code == b"220":
                    connection.send(b"EHLO idle.example.com\r\n")
                    coming[descriptor] = (connection, b"250")
                    continue
                there.append(connection)
            elif lines and lines[-1].startswith(code):
                continue  # there is more to come
            poll.unregister(descriptor)
            del coming[descriptor]
    return there


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int, help="on 127.0.0.1")
    options.add_argument("--connections", type=int, default=1000, help="(%(default)s)")
    chosen = options.parse_args()
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began, used = time.monotonic(), time.process_time()
    held: list[socket.socket] = []
    for first in range(0, chosen.connections, AT_ONCE):
        held += open_some(chosen.port, first, min(AT_ONCE, chosen.connections - first))
    seconds = time.monotonic() - began
    failed, cpu = chosen.connections - len(held), time.process_time() - used
    print(json.dumps({"open": len(held), "failed": failed, "seconds": seconds, "load_cpu_seconds": cpu}), flush=True)
    sys.stdin.read()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
