"""A name server on loopback that knows one zone; in a thread, with a library that is not the gateway's."""

import socket
import threading

import dns.flags
import dns.message
import dns.rcode
import dns.rrset


class NameServer:
    """Answers from a table as `mailgw.testing.zone` takes it; a name whose value is None fails. ``address`` is "127.0.0.1:PORT"."""

    def __init__(self, names):
        self.names = names
        self.asked = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self):
        while True:
            data, client = self._socket.recvfrom(4096)
            if not data:
                return
            self._socket.sendto(self._answer(dns.message.from_wire(data)).to_wire(), client)

    def _answer(self, query):
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
        return reply

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(10)
        self._socket.close()
