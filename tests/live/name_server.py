"""A name server on loopback that knows one zone, and can be told to fail; in threads, with a library that is not the gateway's."""

import socket
import struct
import threading
from contextlib import suppress

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from mailgw.testing.ports import free_port


class NameServer:
    """Answers from a table as `mailgw.testing.zone` takes it; a name whose value is None fails. ``address`` is "127.0.0.1:PORT".

    ``fault`` is what it does with all questions. "": it answers; "silent": nothing; "slow": it answers after ``delay`` seconds;
    "lies": it answers with another number, about another name, and with nonsense; "truncated": it says over UDP that the answer does
    not fit; "loop": it gives an alias of an alias without end; "servfail"; "refused".
    """

    def __init__(self, names, delay=0.0):
        self.names, self.delay = names, delay
        self.fault = ""
        self.has_tcp = True
        self.asked = []
        self.port = free_port()  # for TCP, too: of another one a connection of somebody's may have the same number
        self.start()

    def start(self):
        """Listen, at the same port as before."""
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", self.port))
        self.address = f"127.0.0.1:{self.port}"
        self._tcp = socket.create_server(("127.0.0.1", self.port)) if self.has_tcp else None
        self._threads = [threading.Thread(target=self._serve_udp, args=(self._udp,), daemon=True)]
        if self._tcp is not None:
            self._threads.append(threading.Thread(target=self._serve_tcp, args=(self._tcp,), daemon=True))
        for thread in self._threads:
            thread.start()

    def stop(self):
        """Nobody listens any more."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        if self._tcp is not None:
            self._tcp.shutdown(socket.SHUT_RDWR)
            self._tcp.close()
        for thread in self._threads:
            thread.join(10)
        self._udp.close()

    def _serve_udp(self, listener):
        while True:
            data, client = listener.recvfrom(4096)
            if not data:
                return
            if self.fault == "slow":
                threading.Timer(self.delay, self._send, (listener, self._answer(data), client)).start()
                continue
            for reply in self._replies(data):
                self._send(listener, reply, client)

    def _send(self, listener, reply, client):
        with suppress(OSError):  # it may be closed by now
            listener.sendto(reply, client)

    def _serve_tcp(self, listener):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with suppress(OSError), connection, connection.makefile("rwb") as stream:  # who has his answer resets it
                while len(size := stream.read(2)) == 2:
                    reply = self._answer(stream.read(*struct.unpack("!H", size)))
                    stream.write(struct.pack("!H", len(reply)) + reply)
                    stream.flush()

    def _replies(self, data):
        query = dns.message.from_wire(data)
        [question] = query.question
        match self.fault:
            case "silent":
                return
            case "lies":
                truth = self._answer(data)
                yield bytes([truth[0] ^ 1]) + truth[1:]
                yield b"\0nonsense"
                other = dns.message.make_query("other.example", question.rdtype, id=query.id)
                yield self._answer(other.to_wire())
                yield data  # our own question, sent back
            case "truncated":
                reply = dns.message.make_response(query)
                reply.flags |= dns.flags.TC
                yield reply.to_wire()
            case "loop":
                reply = dns.message.make_response(query)
                name = question.name.to_text()
                target = "loop2.example." if name == "loop1.example." else "loop1.example."
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", target))
                yield reply.to_wire()
            case "servfail" | "refused":
                reply = dns.message.make_response(query)
                reply.set_rcode(dns.rcode.from_text(self.fault))
                yield reply.to_wire()
            case _:
                yield self._answer(data)

    def _answer(self, data):
        query = dns.message.from_wire(data)
        reply = dns.message.make_response(query)
        reply.flags |= dns.flags.AA | dns.flags.RA
        [question] = query.question
        name, kind = question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        records = self.names.get(name, {})
        if records is None:
            reply.set_rcode(dns.rcode.SERVFAIL)
        elif name not in self.names:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        else:
            texts = [f'"{one}"' if kind == "TXT" else "{} {}.".format(*one) if kind == "MX" else one for one in records.get(kind, [])]
            if texts:
                reply.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, *texts))
        return reply.to_wire()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
