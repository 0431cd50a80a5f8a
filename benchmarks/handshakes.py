"""Sessions that say EHLO, STARTTLS, EHLO and QUIT, as fast as they are answered: what the handshakes cost.

    python benchmarks/handshakes.py PORT --sessions 10 --handshakes 1000

Every handshake is a full one: nothing is resumed. Prints one JSON object; exit status 1 if one failed. Latency is from STARTTLS to the
end of the handshake. Each session is a thread: OpenSSL works without the interpreter's lock.
"""

import argparse
import json
import socket
import ssl
import sys
import threading
import time
from contextlib import closing
from itertools import count
from typing import Any

from load import STALLED, percentile


class Refused(Exception):
    """Another reply than the one that must come."""


def say(connection: socket.socket, command: bytes, code: bytes) -> None:
    """Say something, and hear a reply. Raises OSError, Refused."""
    if command:
        connection.sendall(command + b"\r\n")
    reply = b""
    while not reply.endswith(b"\n") or reply.splitlines()[-1][3:4] == b"-":
        octets = connection.recv(4096)
        if not octets:
            raise Refused("connection closed")
        reply += octets
    if not reply.startswith(code):
        raise Refused(reply.decode(errors="replace").strip())


def shake(port: int, context: ssl.SSLContext) -> float:
    """One session; the seconds of its handshake. Raises OSError, Refused."""
    with closing(socket.create_connection(("127.0.0.1", port), STALLED)) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        say(plain, b"", b"220")
        say(plain, b"EHLO client.example.com", b"250")
        began = time.monotonic()
        say(plain, b"STARTTLS", b"220")
        with closing(context.wrap_socket(plain)) as secure:
            took = time.monotonic() - began
            say(secure, b"EHLO client.example.com", b"250")
            say(secure, b"QUIT", b"221")
    return took


def run(port: int, sessions: int, handshakes: int) -> dict[str, Any]:
    """Do all of them, and give the result as plain values."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    latencies: list[float] = []
    failures: list[str] = []
    numbers = count()

    def work() -> None:
        while next(numbers) < handshakes:
            try:
                latencies.append(shake(port, context))
            except (OSError, Refused) as problem:
                failures.append(str(problem))

    began, used = time.monotonic(), time.process_time()
    threads = [threading.Thread(target=work) for _ in range(sessions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.monotonic() - began
    return {
        "done": len(latencies),
        "failed": len(failures),
        "first_failure": failures[0] if failures else "",
        "seconds": seconds,
        "p50_ms": percentile(latencies, 0.50) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
        "load_cpu_seconds": time.process_time() - used,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int, help="on 127.0.0.1")
    options.add_argument("--sessions", type=int, default=10, help="at the same time (%(default)s)")
    options.add_argument("--handshakes", type=int, default=1000, help="in all (%(default)s)")
    chosen = options.parse_args()
    result = run(chosen.port, chosen.sessions, chosen.handshakes)
    print(json.dumps(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
