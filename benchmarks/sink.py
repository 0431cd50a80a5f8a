"""A next hop that takes everything and keeps nothing: one process, one epoll, PIPELINING.

    python benchmarks/sink.py

Prints one JSON object with its port. Each line on standard input is answered with one JSON object: what has arrived so far. It ends with
its standard input.
"""

import json
import select
import socket
import sys
import time

_READ = 65536  # octets
_HELLO = b"250-sink.example.net\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-ENHANCEDSTATUSCODES\r\n250 SIZE 104857600\r\n"
_ANSWERS = {
    b"EHLO": _HELLO,
    b"LHLO": _HELLO,
    b"HELO": b"250 sink.example.net\r\n",
    b"MAIL": b"250 2.1.0 ok\r\n",
    b"RCPT": b"250 2.1.5 ok\r\n",
    b"DATA": b"354 go\r\n",
    b"RSET": b"250 2.0.0 ok\r\n",
    b"NOOP": b"250 2.0.0 ok\r\n",
    b"QUIT": b"221 2.0.0 bye\r\n",
}
_END = b"\r\n.\r\n"


class Sink:
    """Counts."""

    def __init__(self) -> None:
        self.messages = 0
        self.octets = 0  # of content, as on the wire, with the end of data
        self.connections = 0
        self.unknown = 0  # commands
        self.last = 0.0  # when the last message arrived, CLOCK_MONOTONIC
        self.poll = select.epoll()
        self.open: dict[int, Session] = {}

    def status(self) -> dict[str, float]:
        return {
            "messages": self.messages,
            "octets": self.octets,
            "connections": self.connections,
            "unknown": self.unknown,
            "last": self.last,
        }

    def run(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listener.setblocking(False)
        print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
        self.poll.register(listener, select.EPOLLIN)
        self.poll.register(sys.stdin, select.EPOLLIN)
        while True:
            for number, _ in self.poll.poll():
                if number == listener.fileno():
                    self.accept(listener)
                elif number == sys.stdin.fileno():
                    if not sys.stdin.readline():
                        return
                    print(json.dumps(self.status()), flush=True)
                else:
                    self.open[number].receive()

    def accept(self, listener: socket.socket) -> None:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # it stays blocking: replies are short, and read at once
        self.connections += 1
        self.open[connection.fileno()] = Session(self, connection)
        self.poll.register(connection, select.EPOLLIN)
        connection.sendall(b"220 sink.example.net ESMTP\r\n")


class Session:
    """A client's connection."""

    __slots__ = ("buffer", "in_data", "sink", "socket")

    def __init__(self, sink: Sink, connection: socket.socket) -> None:
        self.sink = sink
        self.socket = connection
        self.buffer = b""
        self.in_data = False

    def receive(self) -> None:
        try:
            octets = self.socket.recv(_READ)
            if octets and self.take(octets):
                return
        except OSError:
            pass
        del self.sink.open[self.socket.fileno()]
        self.sink.poll.unregister(self.socket)
        self.socket.close()

    def take(self, octets: bytes) -> bool:
        """Answer what has come; False after QUIT."""
        sink, buffer = self.sink, self.buffer + octets
        replies = b""
        goes_on = True
        while goes_on:
            if self.in_data:
                end = buffer.find(_END)
                if end < 0:
                    kept = buffer[-len(_END) + 1 :]
                    sink.octets += len(buffer) - len(kept)
                    buffer = kept
                    break
                sink.octets += end + len(_END)
                sink.messages += 1
                sink.last = time.monotonic()
                buffer = buffer[end + len(_END) :]
                self.in_data = False
                replies += b"250 2.0.0 taken\r\n"
                continue
            line, found, rest = buffer.partition(b"\r\n")
            if not found:
                break
            buffer = rest
            verb = line[:4].upper()
            answer = _ANSWERS.get(verb)
            if answer is None:
                sink.unknown += 1
                answer = b"500 5.5.1 unknown\r\n"
            replies += answer
            if verb == b"DATA":
                self.in_data = True
                buffer = b"\r\n" + buffer  # an empty message has no line end before its dot
                sink.octets -= 2
            goes_on = verb != b"QUIT"
        self.buffer = buffer
        if replies:
            self.socket.sendall(replies)
        return goes_on


if __name__ == "__main__":
    Sink().run()
