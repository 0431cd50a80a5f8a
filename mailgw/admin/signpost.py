"""Which way an address would go, who knows it, and who may send there: asked of the real routes and permit rules."""

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, Literal

import attrs
from attrs import frozen
from twisted.internet.defer import TimeoutError  # noqa: A004
from twisted.internet.interfaces import IReactorTime

from mailgw.admin.reading import Refusal
from mailgw.admin.selecting import BadRequest
from mailgw.given import given_interface
from mailgw.interfaces import IDialer, IGateways, IResolver
from mailgw.receive.asking import Asked, Rules, settled_within
from mailgw.routing import Found, Routing
from mailgw.values.address import NULL, Address, BadAddress
from mailgw.values.decision import Verdict
from mailgw.values.facts import ClientFacts, RecipientFacts

__all__ = ["STRANGER", "Signpost"]

STRANGER = IPv4Address("0.0.0.0")  # nobody's address: in no network but one that holds everybody  # noqa: S104
NEEDS_NETWORK = (IDialer, IGateways, IResolver)
_PATIENCE = 30.0  # seconds for all that is asked, as for the routes at RCPT: less than an operator waits for us


@frozen
class _Waiting:
    """Until when plugins may think about a question."""

    clock: IReactorTime
    until: float

    async def outcome(self, answer: Any) -> Any:
        """The value, or what an awaitable brings. Raises what it raises; TimeoutError when the time is over."""
        return await settled_within(answer, max(0.0, self.until - self.clock.seconds()), self.clock)

    @property
    def is_over(self) -> bool:
        return self.clock.seconds() >= self.until


@frozen
class Signpost:
    """The routes of a configuration, the rules of each listener, and each listener's kind ("relay" where none is given)."""

    routing: Routing
    rules: Mapping[str, Rules]
    kinds: Mapping[str, Literal["relay", "submission"]] = attrs.field(factory=dict)

    async def ask(
        self, clock: IReactorTime, address: str, sender: str = "", login: str = "", ip: str = "", tags: list[str] | tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Say what would become of mail for ``address``. Empty: the null reverse-path, not logged in, a stranger's client.

        The answer is ``{"address", "route", "recipient", "permit"}``. ``route`` is null or ``{"rule", "where", "gateway",
        "next_hop", "because"}``; ``recipient`` is ``{"state": "known" | "refused" | "deferred" | "not asked" | "unchecked",
        "text"}``; ``permit`` is a list of ``{"listener", "permitted", "by"}``. Raises BadRequest, Refusal where the routes do not
        answer within 30 s by the clock, and what routes raise.
        """
        recipient = _address(address, "address")
        reverse_path = _address(sender, "sender") if sender not in ("", "<>") else NULL
        if not isinstance(login, str) or not isinstance(tags, list | tuple) or not all(isinstance(tag, str) for tag in tags):
            raise BadRequest("login must be a text, tags a list of texts")
        client_ip = _ip(ip)

        def facts(listener: str) -> RecipientFacts:
            kind = self.kinds.get(listener, "relay")
            client = ClientFacts(session="operator", listener=listener, ip=client_ip, port=0, kind=kind, login=login)
            return RecipientFacts(client=client, sender=reverse_path, recipient=recipient, tags=frozenset(tags))

        first = facts(next(iter(self.rules), ""))
        waiting = _Waiting(clock, clock.seconds() + _PATIENCE)
        try:
            found = await waiting.outcome(self.routing.find(first))
        except TimeoutError:
            if not waiting.is_over:  # it is the plugin's own
                raise
            raise Refusal("fault", f"the routes gave no answer within {_PATIENCE:g} s; a client would hear 451") from None
        return {
            "address": str(recipient),
            "route": _way(found) if found else None,
            "recipient": await _known(found, first, waiting),
            "permit": [await _permit(listener, rules, facts(listener), waiting) for listener, rules in self.rules.items()],
        }


def _way(found: Found) -> dict[str, str]:
    return {
        "rule": found.rule.name,
        "where": found.rule.where,
        "gateway": found.destination.gateway,
        "next_hop": found.destination.next_hop,
        "because": found.route.because,
    }


async def _known(found: Found | None, facts: RecipientFacts, waiting: _Waiting) -> dict[str, str]:
    if found is None or found.rule.recipients is None:
        return {"state": "unchecked", "text": "the route knows no list of its recipients" if found else "no route"}
    policy = found.rule.recipients
    kind: type = type(policy)
    if attrs.has(kind) and any(given_interface(each) in NEEDS_NETWORK for each in attrs.fields(kind)):
        return {"state": "not asked", "text": "to know it, another server must be asked"}
    try:
        way = found.destination
        decision = await waiting.outcome(policy.check_recipient(attrs.evolve(facts, gateway=way.gateway, next_hop=way.next_hop)))
    except Exception as problem:  # a plugin's fault is part of the answer: a client would hear 451
        why = "no answer in time" if isinstance(problem, TimeoutError) and waiting.is_over else problem
        return {"state": "deferred", "text": f"it cannot be known now: {why}"}
    states = {Verdict.REJECT: "refused", Verdict.DEFER: "deferred"}
    return {"state": states.get(decision.verdict, "known"), "text": str(decision.reply or "")}


async def _permit(listener: str, rules: Rules, facts: RecipientFacts, waiting: _Waiting) -> dict[str, Any]:
    if facts.client.kind == "submission" and not facts.client.is_authenticated:
        return {"listener": listener, "permitted": False, "by": "the client must log in first"}
    for asked in rules.relay:
        why = await _opinion(asked, facts, waiting)
        if why is not None:
            return {"listener": listener, "permitted": True, "by": why or asked.name}
    return {"listener": listener, "permitted": False, "by": "no permit rule matches"}


async def _opinion(asked: Asked, facts: RecipientFacts, waiting: _Waiting) -> str | None:
    try:
        decision = await waiting.outcome(asked.component.may_relay(facts))
    except Exception:  # a rule that fails permits nothing
        return None
    return decision.why if decision.verdict is Verdict.PERMIT else None


def _address(text: str, name: str) -> Address:
    if not isinstance(text, str):
        raise BadRequest(f"{name} must be a text")
    try:
        return Address.parse(text.removeprefix("<").removesuffix(">"))
    except BadAddress as problem:
        raise BadRequest(f'"{text}" is no address: {problem}') from None


def _ip(text: str) -> IPv4Address | IPv6Address:
    if text == "":
        return STRANGER
    try:
        # Never from an int, which ip_address would take.
        ip = ip_address(str(text))
    except ValueError:
        raise BadRequest(f'"{text}" is no IP address') from None
    return ip.ipv4_mapped or ip if isinstance(ip, IPv6Address) else ip
