"""Asks a policy server: any program that speaks Postfix' policy delegation protocol."""

import re
from collections import OrderedDict
from collections.abc import Awaitable
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal

from attrs import Factory, field, frozen
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClientPolicy, IContentPolicy, IDialer, IRecipientPolicy, IResolver, ISenderPolicy, LookupFailed
from mailgw.policies.action import plain, together
from mailgw.policies.policy_server import PolicyServer
from mailgw.policies.reverse_name import reverse_name
from mailgw.values.address import Address
from mailgw.values.decision import Decision, Evidence, HeaderField, Verdict, discard, proceed, quarantine
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts
from mailgw.values.quantities import Duration
from mailgw.values.reply import Reply

__all__ = ["Delegated", "decided"]

_ADDRESS = re.compile(r"unix:/.+|(?:\[[0-9A-Fa-f:.]+\]|[^:\[\]/\s]+):[0-9]{1,5}")
_CODE = re.compile(r"[45][0-9][0-9]\Z")
_ENHANCED = re.compile(r"([245])(\.[0-9]{1,3}\.[0-9]{1,3})(?:\s+|\Z)")
_MOST_SESSIONS = 10_000  # whose transactions are counted
_MOST_NAMES = 3  # of a client's address


def _an_address(_: Any, attribute: Any, value: str) -> None:
    if not _ADDRESS.fullmatch(value) or not (value.startswith("unix:") or 0 < int(value.rpartition(":")[2]) < 65536):
        raise ValueError(f'{attribute.name}: "{value}" is no address; write it like "unix:/run/policy" or "127.0.0.1:10023"')


def _several(_: Any, attribute: Any, value: list[str]) -> None:
    if not value:
        raise ValueError(f"{attribute.name} is empty: the server would never be asked")


def _some(connections: int) -> int:
    if connections < 1:
        raise ValueError("connections must be at least 1")
    return connections


@implementer(IClientPolicy, ISenderPolicy, IRecipientPolicy, IContentPolicy)
@frozen
class Delegated:
    """``type = "delegated"``: asks a policy server (postgrey, policyd-spf, policyd-weight, your own) and does what it says.

    Understood: OK, DUNNO, REJECT, DEFER, DEFER_IF_PERMIT, 4yz and 5yz codes, PREPEND, DISCARD, HOLD, WARN and INFO. Any other answer
    is a fault, like no answer: ``on_error`` says what then. OK lets the other policies speak, as DUNNO does.
    """

    address: str = field(validator=_an_address)
    """Where it listens: ``"unix:/run/postgrey/socket"`` or ``"127.0.0.1:10023"``."""
    ask: list[Literal["connect", "mail", "rcpt", "data", "end-of-message"]] = field(factory=lambda: ["rcpt"], validator=_several)
    """When it is asked. At "data" and "end-of-message" the whole message is here already; the difference is what it is told."""
    text: str = field(default="access denied", converter=plain)
    """What the client hears where the server refuses and gives no text."""
    look_up_names: bool = True
    """Whether the client's reverse name is looked up for it; without, it hears "unknown"."""
    context: str = ""
    """What it is told as policy_context."""
    connect_timeout: Duration = 5.0
    max_idle: Duration = 100.0
    """How long an unused connection is kept."""
    connections: int = field(default=20, converter=_some)
    """How many there may be at once; what is asked beyond waits."""
    dialer: IDialer = given(IDialer)
    resolver: IResolver = given(IResolver)
    clock: IReactorTime = given(IReactorTime)
    _transactions: "OrderedDict[str, int]" = field(init=False, eq=False, repr=False, factory=OrderedDict)
    _server: PolicyServer = field(
        init=False,
        eq=False,
        repr=False,
        default=Factory(
            lambda self: PolicyServer(self.address, self.dialer, self.clock, self.connect_timeout, self.max_idle, self.connections),
            takes_self=True,
        ),
    )

    def check_client(self, facts: ClientFacts) -> Decision | Awaitable[Decision]:
        """Raises NoPolicyServer, ValueError, as the others do."""
        return self._ask(facts, "CONNECT") if "connect" in self.ask else _FINE

    def check_sender(self, facts: SenderFacts) -> Decision | Awaitable[Decision]:
        self._count(facts.client.session)
        if "mail" not in self.ask:
            return _FINE
        return self._ask(facts.client, "MAIL", facts.sender, size=facts.size or 0)

    def check_recipient(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        if "rcpt" not in self.ask:
            return _FINE
        return self._ask(facts.client, "RCPT", facts.sender, facts.recipient)

    def check_content(self, facts: ContentFacts) -> Decision | Awaitable[Decision]:
        if "data" in self.ask or "end-of-message" in self.ask:
            return self._ask_about(facts)
        return _FINE

    def close(self) -> None:
        """Close the kept connections."""
        self._server.close()

    def _count(self, session: str) -> None:
        # Transactions of a session are told apart by number: the server must not take two messages for one.
        transactions = self._transactions
        transactions[session] = transactions.pop(session, 0) + 1
        if len(transactions) > _MOST_SESSIONS:
            transactions.popitem(last=False)

    async def _ask_about(self, facts: ContentFacts) -> Decision:
        # Postfix names the recipient at these stages where there is only one.
        only = facts.recipients[0] if len(facts.recipients) == 1 else None
        count, size = len(facts.recipients), facts.content.size
        decisions: list[Decision] = []
        if "data" in self.ask:
            decisions.append(await self._ask(facts.client, "DATA", facts.sender, only, count))
        if "end-of-message" in self.ask and not any(one.reply for one in decisions):
            decisions.append(await self._ask(facts.client, "END-OF-MESSAGE", facts.sender, only, count, size))
        return together(decisions)

    async def _ask(
        self,
        client: ClientFacts,
        state: str,
        sender: Address | None = None,
        recipient: Address | None = None,
        count: int = 0,
        size: int = 0,
    ) -> Decision:
        reverse, confirmed = await self._names(client.ip) if self.look_up_names else ("", False)
        tls = client.tls
        attributes = {
            "request": "smtpd_access_policy",
            "protocol_state": state,
            "protocol_name": "ESMTP" if client.esmtp or state == "CONNECT" else "SMTP",
            "client_address": str(client.ip),
            "client_name": reverse if confirmed else _UNKNOWN,
            "client_port": str(client.port),
            "reverse_client_name": reverse or _UNKNOWN,
            "helo_name": client.helo,
            "sender": str(sender or ""),
            "recipient": str(recipient or ""),
            "recipient_count": str(count),
            "queue_id": "",
            "instance": f"{client.session}.{self._transactions.get(client.session, 0)}",
            "size": str(size),
            "etrn_domain": "",
            "stress": "",
            "sasl_method": "",
            "sasl_username": client.login,
            "sasl_sender": "",
            "ccert_subject": "",
            "ccert_issuer": "",
            "ccert_fingerprint": "",
            "ccert_pubkey_fingerprint": "",
            "encryption_protocol": tls.version if tls else "",
            "encryption_cipher": tls.cipher if tls else "",
            "encryption_keysize": "",
            "policy_context": self.context,
        }
        answer = await self._server.ask(attributes)
        return decided(answer, f"policy server {self.address}, at {state}", self.text)

    async def _names(self, ip: IPv4Address | IPv6Address) -> tuple[str, bool]:
        """The reverse name, and whether it leads back to the address. What the DNS does not say now is not known."""
        try:
            names, confirmed = await reverse_name(self.resolver, ip, _MOST_NAMES)
        except LookupFailed:
            return "", False
        return confirmed or (names[0] if names else ""), bool(confirmed)


_FINE = proceed()
_UNKNOWN = "unknown"


def decided(answer: str, source: str, otherwise: str) -> Decision:
    """What an answer of the server means (access(5) of Postfix). Raises ValueError for what mailgw cannot do, and for nonsense."""
    word, _, rest = answer.partition(" ")
    rest = rest.strip()
    said = (Evidence("answer", answer[:_SHOWN], source),)
    if _CODE.match(word):
        return _refusal(int(word), rest, otherwise, said)
    match word.upper():
        case "DUNNO" | "OK" | "PERMIT":
            return _FINE
        case "REJECT":
            return _refusal(554, rest, otherwise, said)
        case "DEFER" | "DEFER_IF_PERMIT":
            return _refusal(450, rest, otherwise, said)
        case "DISCARD":
            return discard(rest or "the policy server said DISCARD", evidence=said, remedy=_REMEDY)
        case "HOLD":
            return quarantine(rest or "the policy server said HOLD", evidence=said, remedy=_REMEDY)
        case "PREPEND":
            name, colon, value = rest.partition(":")
            if not colon:
                raise ValueError(f'the policy server prepends "{rest[:_SHOWN]}", which is no header field')
            return proceed(headers=(HeaderField(name.strip(), value.strip()),), why=f"prepends {name.strip()}", evidence=said)
        case "WARN" | "INFO":
            return proceed(why=rest or word, evidence=said)
    raise ValueError(f'the policy server said "{answer[:_SHOWN]}", which mailgw cannot do')


_SHOWN = 500  # characters
_REMEDY = "another answer of the policy server"


def _refusal(code: int, text: str, otherwise: str, said: tuple[Evidence, ...]) -> Decision:
    # 421 and 521 would end the session, which is not for a policy to say.
    code = {421: 450, 521: 554}.get(code, code)
    kind = str(code)[0]
    status = f"{kind}.7.1"
    match = _ENHANCED.match(text)
    if match:
        status, text = f"{kind}{match[2]}", text[match.end() :]
    text = text or otherwise
    verdict = Verdict.REJECT if kind == "5" else Verdict.DEFER
    return Decision(verdict, Reply(code, status, text), why=text, evidence=said, remedy=_REMEDY)
