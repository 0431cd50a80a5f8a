"""Peers that misbehave, for the tests of the network's faults: next hops, DNS servers and clients, each on loopback."""

import socket
import struct
import threading
from contextlib import suppress

PATIENCE = 60.0  # seconds; only reached by a fault


class RudeHop:
    """A next hop in a thread: ``talk(connection)`` is its whole conversation. Counts its visitors and what it could say."""

    def __init__(self, talk):
        self.visits, self.said = 0, 0
        self._talk = talk
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self):
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.visits += 1
                connection.settimeout(PATIENCE)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with suppress(OSError), connection:
            self._talk(self, connection)

    def say(self, connection, octets):
        connection.sendall(octets)
        self.said += len(octets)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)  # as in SmtpSink
        self._accepting.join(PATIENCE)
        self._listener.close()


def flooding(octets):
    """Greets with the same octets for ever."""

    def talk(hop, connection):
        block = octets * (65536 // len(octets))
        while True:
            hop.say(connection, block)

    return talk


def saying(octets):
    """Greets so, and then listens."""

    def talk(hop, connection):
        hop.say(connection, octets)
        while connection.recv(65536):
            pass

    return talk


def answering(replies, offers=b""):
    """Talks SMTP, but with other replies to some verbs: octets, or None to hang up without a word; b"body": in the content."""

    def talk(hop, connection):
        stream = connection.makefile("rb")
        hop.say(connection, b"220 rude.example\r\n")
        for line in stream:
            verb = line.partition(b" ")[0].strip().upper()  # of any line: a TLS greeting's octets hold empty ones
            usual = {b"EHLO": b"250-rude.example\r\n" + offers + b"250 8BITMIME\r\n", b"DATA": b"354 go\r\n"}
            reply = replies.get(verb, usual.get(verb, b"250 ok\r\n"))
            if reply is None:
                return
            hop.say(connection, reply)
            if verb == b"DATA" and b"body" in replies:
                stream.readline()
                return

    return talk


class RudeDns:
    """A name server that answers as the first label of the name says, until it is told to be ``good``."""

    def __init__(self, good):
        self.questions = []  # (name, type)
        self.is_good = False
        self._good = good  # (name, type) -> answer records in wire format, or None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self._serving = threading.Thread(target=self._serve, daemon=True)
        self._serving.start()

    def _serve(self):
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            for answer in self._answers(query):
                with suppress(OSError):  # who asked is gone
                    self._socket.sendto(answer, client)

    def _answers(self, query):
        labels, place = [], 12
        while query[place]:
            labels.append(query[place + 1 : place + 1 + query[place]].decode().lower())
            place += query[place] + 1
        question = query[12 : place + 5]
        kind = struct.unpack("!H", query[place + 1 : place + 3])[0]
        self.questions.append((".".join(labels), kind))

        def response(number=query[:2], flags=0x8180, records=()):
            return number + struct.pack("!5H", flags, 1, len(records), 0, 0) + question + b"".join(records)

        if self.is_good:
            return [response(records=self._good(".".join(labels), kind))]
        ways = {
            "silent": [],
            "servfail": [response(flags=0x8182)],
            "refused": [response(flags=0x8185)],
            "garbage": [b"\xff" * 40, b"", b"x", query[:2] + b"\x81\x80" + b"\xff" * 500],
            "otherid": [response(bytes(octet ^ 255 for octet in query[:2]), records=self._good(".".join(labels), kind))],
            "truncated": [response(flags=0x8380)],
        }
        return ways.get(labels[0], [])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())  # a close alone wakes nobody who waits in recvfrom()
        self._serving.join(PATIENCE)
        self._socket.close()


class Client:
    """A raw connection; ``source`` may be any address in 127.0.0.0/8."""

    def __init__(self, port, source="127.0.0.1"):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE, source_address=(source, 0))

    def send(self, octets):
        """Send all of it, as far as the server takes it; gives whether it did."""
        try:
            self.socket.sendall(octets)
        except OSError:
            return False
        return True

    def hear(self, until=b"\r\n"):
        """What is said up to ``until``, or all up to the end of the connection."""
        heard = b""
        with suppress(OSError):
            while until not in heard or not until:
                piece = self.socket.recv(65536)
                if not piece:
                    break
                heard += piece
        return heard

    def rest(self):
        """All that is still said, up to the end of the connection, at most 64 MiB; the last 1000 octets of it, and their number."""
        last, count = b"", 0
        with suppress(ConnectionError):
            while count < 64 * 2**20:
                piece = self.socket.recv(65536)
                if not piece:
                    break
                last, count = (last + piece)[-1000:], count + len(piece)
        return last, count

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
