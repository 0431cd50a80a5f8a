"""Ask the routes in order: at RCPT, and again at delivery."""

from collections.abc import Sequence, Set
from inspect import isawaitable
from ipaddress import IPv4Address

from attrs import frozen

from mailgw.interfaces import IRecipientPolicy, IRoute
from mailgw.values.address import Address
from mailgw.values.delivery import Destination, Envelope, Route
from mailgw.values.facts import ClientFacts, RecipientFacts

__all__ = ["Found", "Routing", "Rule", "facts_again"]

_OURSELVES = IPv4Address("127.0.0.1")


def facts_again(envelope: Envelope, recipient: Address) -> RecipientFacts:
    """The facts of a RCPT command as far as the queue remembers them: what routes are asked with before a later attempt.

    The client's port, TLS and the authentication results are forgotten; a DSN's client is 127.0.0.1.
    """
    client = ClientFacts(
        session=envelope.session,
        listener=envelope.listener,
        ip=envelope.client_ip or _OURSELVES,
        port=0,
        kind="submission" if envelope.login else "relay",
        helo=envelope.helo,
        login=envelope.login,
    )
    return RecipientFacts(client=client, sender=envelope.sender, recipient=recipient, tags=envelope.tags)


@frozen
class Rule:
    """One [[route]] table: a route and, perhaps, who knows its recipients."""

    name: str  # how the configuration calls it: 'to "@ours"', "otherwise"
    route: IRoute
    recipients: IRecipientPolicy | None = None
    where: str = ""  # "etc/mailgw.toml:74"


@frozen
class Found:
    """Where a recipient's mail goes, and by which rule."""

    rule: Rule
    route: Route
    destination: Destination


@frozen
class Routing:
    """All routes, in the order of the configuration."""

    rules: Sequence[Rule]
    by_domain: Set[str] = frozenset()  # names of the gateways whose next hop is the recipient's domain (IDomainGateway)
    gateways: Set[str] | None = None  # the names of all; None: whatever a route says

    async def find(self, facts: RecipientFacts) -> Found | None:
        """The first rule that answers, or None. What a route raises passes through; LookupError for a gateway that is not there."""
        for rule in self.rules:
            try:
                answer = rule.route.route(facts)
                if answer is not None and not isinstance(answer, Route) and isawaitable(answer):
                    answer = await answer
            except BaseException as problem:
                problem.add_note(f"raised by the rule {rule.name}" + (f", {rule.where}" if rule.where else ""))
                raise
            if answer is None:
                continue
            if not (isinstance(answer, Route) and _is_name(answer.gateway) and (not answer.next_hop or _is_name(answer.next_hop))):
                raise TypeError(f"route {rule.name} answered {answer!r}, which is no Route")
            if self.gateways is not None and answer.gateway not in self.gateways:
                raise LookupError(f"route {rule.name} answered with a gateway that is not there: {answer.gateway}")
            next_hop = answer.next_hop or (facts.recipient.domain if answer.gateway in self.by_domain else "")
            return Found(rule, answer, Destination(answer.gateway, next_hop))
        return None


def _is_name(text: object) -> bool:
    # What no store can write down would keep it from writing anything else.
    return isinstance(text, str) and bool(text) and text.isprintable()
