"""How a client calls itself."""

import re
from collections.abc import Awaitable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Literal

from attrs import frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IIdentity, IResolver, ISenderPolicy
from mailgw.policies.action import Action, act
from mailgw.policies.table_keys import helo_key
from mailgw.values.address import BadAddress, parse_domain
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, SenderFacts

__all__ = ["Helo"]

_LITERAL = re.compile(r"\[(?:IPv6:)?([0-9A-Fa-f.:]+)\]\Z", re.IGNORECASE)
_UNKNOWN = "a HELO name that the DNS knows"


@implementer(ISenderPolicy)
@frozen
class Helo:
    """``type = "helo"``: looks at the name that the client gave with EHLO or HELO (RFC 5321 §4.1.1.1), at MAIL.

    Each kind of name has its action: reject, defer, quarantine, discard, tag (with ``tag``), pass. Who has logged in may call
    himself as he likes.
    """

    invalid: Action = "reject"  # no domain name and no address literal; a bare IP address, too
    forged: Action = "reject"  # our own name
    wrong_literal: Action = "reject"  # an address literal that is not the client's address
    literal: Action = "pass"  # one that is
    unqualified: Action = "pass"  # a name without a dot
    unknown: Action = "pass"  # a name that has neither addresses nor MX records
    tag: str = "odd-helo"
    resolver: IResolver = given(IResolver)
    identity: IIdentity = given(IIdentity)

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        client = facts.client
        if client.is_authenticated:
            return _FINE
        action, text, remedy = self._without_questions(client.helo, client)
        if action == "ask":
            return _FINE if self.unknown == "pass" else self._ask(parse_domain(client.helo))
        if action == "pass":
            return _FINE
        said = (Evidence("HELO", client.helo, "the client's own words"), Evidence("address", str(client.ip), "the connection"))
        return act(action, text, tag=self.tag, evidence=said, remedy=remedy)

    def _without_questions(self, helo: str, client: ClientFacts) -> tuple[Action | Literal["ask"], str, str]:
        """What can be said without the DNS: an action with its text and remedy, or "ask"."""
        match = _LITERAL.match(helo)
        if match:
            address = _address(match[1])
            if address is None:
                return self.invalid, "HELO is no valid address literal", "a host name"
            if address != client.ip:
                return self.wrong_literal, "HELO is the address literal of somebody else", f"[{client.ip}], or a host name"
            return self.literal, "HELO is an address literal", "a host name"
        if helo_key(helo) == self.identity.hostname:  # with a dot at its end, too
            return self.forged, "HELO is our own name", "the client's own host name"
        try:
            name = parse_domain(helo)
        except BadAddress:
            name = ""
        if not name or _address(helo) is not None:
            return self.invalid, "HELO is no host name", "a host name, or an address literal in brackets"
        if "." not in name:
            return self.unqualified, "HELO is not a fully qualified host name", "a host name with its domain"
        return "ask", "", ""

    async def _ask(self, name: str) -> Decision:
        if await self._is_known(name):
            return _FINE
        said = (Evidence("HELO", name, "the client's own words"), Evidence("addresses", "none", f"A, AAAA, MX {name}"))
        return act(self.unknown, "HELO name is not known to the DNS", tag=self.tag, evidence=said, remedy=_UNKNOWN)

    async def _is_known(self, name: str) -> bool:
        for kind in ("A", "AAAA", "MX"):
            answer = await self.resolver.lookup(name, kind)
            if answer.records:
                return True
            if not answer.name_exists:
                return False
        return False


_FINE = proceed()


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        ip = ip_address(text)
    except ValueError:
        return None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip  # as clients arrive
