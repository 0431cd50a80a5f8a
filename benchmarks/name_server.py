"""A name server on loopback for cases with policies: a thread of ours, so that none of it is on the bill of who is measured."""

import socket
import threading
from collections.abc import Mapping, Sequence

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

__all__ = ["NameServer"]

_TTL = 3600  # seconds: what was asked once in a turn is not asked again


class NameServer:
    """A context manager; ``address`` is "127.0.0.1:PORT", and ``asked`` counts the questions."""

    def __init__(self, names: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
        """``names``: for each name the records by their type, as a zone file has them; of other names there are none."""
        self.asked = 0
        self._names = names
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._where = self._socket.getsockname()
        self.address = f"127.0.0.1:{self._where[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def _serve(self) -> None:
        while True:
            octets, client = self._socket.recvfrom(4096)
            if not octets:
                return
            self.asked += 1
            self._socket.sendto(self._answer(dns.message.from_wire(octets)).to_wire(), client)

    def _answer(self, query: dns.message.Message) -> dns.message.Message:
        answer = dns.message.make_response(query)
        [question] = query.question
        records = self._names.get(question.name.to_text(omit_final_dot=True).lower())
        if records is None:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        elif texts := records.get(kind := dns.rdatatype.to_text(question.rdtype)):
            answer.answer.append(dns.rrset.from_text(question.name, _TTL, "IN", kind, *texts))
        return answer

    def __enter__(self) -> "NameServer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._where)
        self._thread.join()
        self._socket.close()
