"""One message after the other, each on a connection of its own, by calls that wait: the client that costs least of what it measures.

    python benchmarks/latency.py PORT --messages 500 --pause 0.01

Prints one JSON object, as load.py does; a latency is from connecting to the reply to the content. Exit status 1 if a message failed.
"""

import argparse
import json
import socket
import sys
import time
from typing import Any

from load import STALLED, Step, percentile, script


def send(port: int, opening: tuple[Step, ...], closing: tuple[Step, ...]) -> float:
    """One message; give the seconds that it took. Raises OSError."""
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port), timeout=STALLED) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for step in opening:
            take(connection, step)
        took = time.monotonic() - began
        for step in closing:
            take(connection, step)
    return took


def take(connection: socket.socket, step: Step) -> None:
    """Send one command, or the content, and hear the one reply. Raises OSError."""
    if step.octets:
        connection.sendall(step.octets)
    heard = b""
    while True:
        octets = connection.recv(4096)
        if not octets:
            raise ConnectionError("connection closed")
        heard += octets
        if heard.endswith(b"\r\n"):
            last = heard[heard.rfind(b"\n", 0, -1) + 1 :]
            if last[3:4] != b"-":
                if not last.startswith(step.codes):
                    raise ConnectionError(last.decode(errors="replace").strip())
                return


def run(port: int, messages: int, size: int, pause: float) -> dict[str, Any]:
    """Send all of them, and give the result as plain values."""
    spoken = script("one-by-one", size)
    latencies: list[float] = []
    first_failure = ""
    began, used = time.monotonic(), time.process_time()
    for _ in range(messages):
        time.sleep(pause)
        try:
            latencies.append(send(port, spoken.opening + spoken.message, spoken.closing))
        except OSError as problem:
            first_failure = first_failure or str(problem)
    seconds = time.monotonic() - began
    return {
        "acknowledged": len(latencies),
        "failed": messages - len(latencies),
        "first_failure": first_failure,
        "seconds": seconds,
        "rate": len(latencies) / seconds,
        "p50_ms": percentile(latencies, 0.50) * 1000,
        "p99_ms": percentile(latencies, 0.99) * 1000,
        "load_cpu_seconds": time.process_time() - used,
    }


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("port", type=int, help="on 127.0.0.1")
    options.add_argument("--messages", type=int, default=500, help="(%(default)s)")
    options.add_argument("--size", type=int, default=1024, help="octets of a message (%(default)s)")
    options.add_argument("--pause", type=float, default=0.01, help="seconds before each connection (%(default)s)")
    chosen = options.parse_args()
    result = run(chosen.port, chosen.messages, chosen.size, chosen.pause)
    print(json.dumps(result))
    return 1 if result["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
