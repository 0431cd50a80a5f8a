"""The name servers that we ask: which there are, which one is asked first, what each one's failure means."""

import re
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

from attrs import define, field
from twisted.names import dns

from mailgw.dns.question import NoAnswer, ask_over_tcp, ask_over_udp, question
from mailgw.interfaces import LookupFailed

__all__ = ["NameServers", "ResolvConf"]

_PATIENCE = (2.0, 3.0)  # seconds for each server, in the first and in the second round
_LONGEST = 12.0  # seconds for all rounds together
_SPARED = 30.0  # seconds for which a server that gave no answer is asked last
_LOOK_EVERY = 1.0  # seconds

_REASONS = {
    dns.EFORMAT: "the server did not understand",
    dns.ESERVER: "the server failed",
    dns.ENOTIMP: "the server does not know such questions",
    dns.EREFUSED: "the server refused",
}

Server = tuple[str, int]


@define(eq=False)
class ResolvConf:
    """The name servers of a resolv.conf, read again when the file changes; our own machine where it names none."""

    path: Path
    clock: Any  # provides IReactorTime
    _servers: Sequence[Server] = field(default=(("127.0.0.1", 53),), init=False)
    _stamp: tuple[int, int] = field(default=(0, 0), init=False)
    _looked: float = field(default=float("-inf"), init=False)

    def __call__(self) -> Sequence[Server]:
        now = self.clock.seconds()
        if not 0 <= now - self._looked < _LOOK_EVERY:
            self._looked = now
            try:
                found = self.path.stat()
                if (found.st_mtime_ns, found.st_ino) != self._stamp:
                    self._servers = _name_servers(self.path.read_text("utf-8", "replace")) or (("127.0.0.1", 53),)
                    self._stamp = found.st_mtime_ns, found.st_ino
            except OSError:
                pass  # what was known last is as good as anything
        return self._servers


def _name_servers(text: str) -> Sequence[Server]:
    found = []
    for match in re.finditer(r"^\s*nameserver\s+(\S+)", text, re.MULTILINE):
        try:
            found.append((str(ip_address(match[1].partition("%")[0])), 53))
        except ValueError:
            continue
    return tuple(found)


@define(eq=False)
class NameServers:
    """Asks one after the other until one answers; who did not is asked last for a while."""

    servers: Callable[[], Sequence[Server]]
    reactor: Any  # provides IReactorUDP, IReactorTCP and IReactorTime
    randomness: Random  # must not be foreseeable: message numbers come from it
    questions: dict[Server, int] = field(factory=dict, init=False)
    failures: dict[Server, int] = field(factory=dict, init=False)
    _spared: dict[Server, float] = field(factory=dict, init=False)
    _without_edns: set[Server] = field(factory=set, init=False)

    async def ask(self, name: str, kind: int) -> dns.Message:
        """An answer: NOERROR or NXDOMAIN. Raises LookupFailed."""
        began, silence, refusal = self.reactor.seconds(), "", ""
        for patience in _PATIENCE:
            is_silent = False
            for server in self._in_order():
                left = _LONGEST - (self.reactor.seconds() - began)
                if left <= 0:
                    break
                self.questions[server] = self.questions.get(server, 0) + 1
                try:
                    answer = await self._ask(server, name, kind, min(patience, left))
                except NoAnswer as problem:
                    is_silent, silence = True, str(problem)
                    self._spared[server] = self.reactor.seconds() + _SPARED
                    self.failures[server] = self.failures.get(server, 0) + 1
                    continue
                if answer.rCode in (dns.OK, dns.ENAME):
                    self._spared.pop(server, None)
                    return answer
                refusal = _REASONS.get(answer.rCode, f"error {answer.rCode}")
                self.failures[server] = self.failures.get(server, 0) + 1
            if not is_silent:
                break  # all have answered, and none can say: asking again at once would not help
        raise LookupFailed(refusal or silence or "there is no name server")

    def condition(self) -> dict[str, dict[str, int]]:
        """For each name server, those of a former resolv.conf too: ``{"192.0.2.53:53": {"questions": 12, "failed": 1}}``."""
        known = dict.fromkeys((*self.servers(), *self.questions))
        return {
            f"[{host}]:{port}" if ":" in host else f"{host}:{port}": {
                "questions": self.questions.get((host, port), 0),
                "failed": self.failures.get((host, port), 0),
            }
            for host, port in known
        }

    def _in_order(self) -> Sequence[Server]:
        servers, now = self.servers(), self.reactor.seconds()
        if not self._spared:
            return servers
        return sorted(servers, key=lambda server: self._spared.get(server, 0.0) > now)

    async def _ask(self, server: Server, name: str, kind: int, patience: float) -> dns.Message:
        edns = server not in self._without_edns
        asked = question(self.randomness.getrandbits(16), name, kind, edns)
        answer = await ask_over_udp(self.reactor, server, asked, patience)
        if edns and answer.rCode in (dns.EFORMAT, dns.ENOTIMP):
            # An old server: it may know the question without EDNS (RFC 6891 §7).
            asked = question(self.randomness.getrandbits(16), name, kind, False)
            answer = await ask_over_udp(self.reactor, server, asked, patience)
            if answer.rCode in (dns.OK, dns.ENAME):
                self._without_edns.add(server)
        if answer.trunc:
            answer = await ask_over_tcp(self.reactor, server, asked, patience)
        return answer
