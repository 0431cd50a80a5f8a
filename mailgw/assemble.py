"""The composition root: with `mailgw.staff` the only place that knows everybody.

`build_parts` makes the policies, permit rules, routes and gateways that a configuration names; it touches no socket and no reactor.
"""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
from attrs import define, field, frozen
from zope.interface import implementer
from zope.interface.interface import InterfaceClass

from mailgw.components import POLICIES, build
from mailgw.config.matrix import find_open_relays
from mailgw.config.members import Gateways, cannot_be_asked, check_members, check_named
from mailgw.config.model import Configuration, Listener, PermitRule, RouteRule
from mailgw.config.reading import read
from mailgw.credentials import IAccounts
from mailgw.gateways.maildir import Maildir
from mailgw.interfaces import (
    IClientPolicy,
    IContentPolicy,
    IGateway,
    IGateways,
    IIdentity,
    IObserver,
    IRecipientPolicy,
    IRefusalPolicy,
    IRelayPolicy,
    IRoute,
    ISenderPolicy,
)
from mailgw.login.checker import as_part
from mailgw.login.portal import Accounts
from mailgw.policies.relay import Permit
from mailgw.policies.verify_recipient import VerifyRecipient
from mailgw.problems import BadConfiguration, Problem, Report, nearest
from mailgw.queue.retry import Schedule
from mailgw.receive.asking import Asked, Rules
from mailgw.routes.all_of import AllOf
from mailgw.routes.by_domain import ByDomain
from mailgw.routes.by_sender import BySender
from mailgw.routes.by_table import ByTable
from mailgw.routes.by_tag import ByTag
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.values.address import Address
from mailgw.values.decision import Decision, proceed
from mailgw.values.facts import RecipientFacts

__all__ = ["House", "Identity", "Parts", "build_parts", "closable", "load", "observing"]

House = Mapping[InterfaceClass, object]
"""The providers for `given` fields."""


_PATIENCE = 60.0  # seconds for accounts that set themselves no limit; those that do should come to theirs first


@implementer(IIdentity)
@frozen
class Identity:
    """[server] hostname and postmaster, for those who ask with ``given(IIdentity)``."""

    hostname: str
    postmaster: Address


@frozen
class Parts:
    """What a configuration names, made and ready to be put together."""

    rules: Mapping[str, Rules]  # by listener
    routing: Routing
    gateways: Mapping[str, IGateway]
    schedules: Mapping[str, Schedule]  # by gateway
    connections: Mapping[str, int]  # by gateway: at once, for each next hop
    accounts: Mapping[str, Accounts]
    members: frozenset[str]  # the gateways that another gateway names
    warnings: tuple[Problem, ...] = ()


def load(path: Path, furnish: Callable[[Configuration], House], text: str | None = None) -> tuple[Configuration, House, Parts]:
    """Read a configuration, have a house furnished for it and build its parts; ``text`` counts in place of what the file says.

    Raises BadConfiguration with all problems.
    """
    bad: BadConfiguration | None = None
    try:
        configuration = read(path, text)
    except BadConfiguration as caught:
        if caught.rest is None:
            raise
        bad, configuration = caught, caught.rest
    house = furnish(configuration)
    try:
        parts = build_parts(configuration, house)
    except BadConfiguration as more:
        if bad is None:
            raise
        raise BadConfiguration(bad.problems + more.problems, configuration) from None
    if bad is not None:
        raise bad
    return configuration, house, parts


def build_parts(configuration: Configuration, house: House) -> Parts:
    """Make all parts, and see that strangers cannot relay through them. Raises BadConfiguration with all problems."""
    return _Building(configuration, house, configuration.report()).parts()


def closable(parts: Parts) -> list[Any]:
    """The components that have a `close()`, which is called once, at their end."""
    components: list[Any] = [*parts.gateways.values(), *(one.component for one in parts.accounts.values())]
    components += [rule.recipients for rule in parts.routing.rules] + [rule.route for rule in parts.routing.rules]
    return [component for component in _once(components + _policies(parts)) if callable(getattr(component, "close", None))]


def observing(parts: Parts) -> list[IObserver]:
    """The policies that are told of all events, too: those that want to know how it goes on with a session."""
    return [component for component in _once(_policies(parts)) if IObserver.providedBy(component)]


def _policies(parts: Parts) -> list[Any]:
    stages = [(rules.client, rules.sender, rules.relay, rules.recipient, rules.content, rules.refusal) for rules in parts.rules.values()]
    return [asked.component for of_listener in stages for stage in of_listener for asked in stage]


def _once(components: list[Any]) -> list[Any]:
    return list({id(component): component for component in components}.values())


@implementer(IRelayPolicy)
@frozen
class _LoggedInOnly:
    """A plugin's permit rule on a submission listener, where it can open nothing to strangers (RFC 6409 §4.3)."""

    rule: IRelayPolicy

    def may_relay(self, facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        return self.rule.may_relay(facts) if facts.client.is_authenticated else _NO_OPINION


_NO_OPINION: Decision = proceed()


@define
class _Building:
    """One run over one configuration."""

    configuration: Configuration
    house: House
    report: Report
    policies: dict[str, Asked] = field(factory=dict)
    gateways: Gateways = field(factory=Gateways)

    def parts(self) -> Parts:
        configuration = self.configuration
        gateways = self.gateways
        house = {**self.house, IGateways: gateways}
        for name, policy in configuration.policy.items():
            component = build(policy.part, POLICIES, house, configuration.context, self.report)
            if component is not None:
                self.policies[name] = Asked(
                    name,
                    component,
                    policy.timeout,
                    configuration.where(policy.at),
                    policy.on_error,
                    policy.mode == "observe",
                    policy.skip_networks,
                    frozenset(policy.skip_logins),
                )
        permits = [(rule, asked) for rule in configuration.permit if (asked := self.permit(rule)) is not None]
        relay = {name: _relay(listener, permits) for name, listener in configuration.listen.items()}
        rules = {
            name: self.rules(listener, tuple(one for _, one in relay[name]))
            for name, listener in configuration.listen.items()
            if listener.kind != "pop3"
        }
        for name, gateway in configuration.gateway.items():
            component = build(gateway.part, (IGateway,), house, configuration.context, self.report)
            if component is not None:
                gateways.by_name[name] = component
        for name, asked in self.policies.items():
            check_named(asked.component, configuration.policy[name].part, configuration, gateways, self.report)
        accounts = {}
        for name, one in configuration.accounts.items():
            component = build(as_part(one.part), (IAccounts,), self.house, configuration.context, self.report)
            if component is not None:
                accounts[name] = Accounts(name, component, max(_PATIENCE, 2 * getattr(component, "timeout", 0.0)))
        for name, listener in configuration.listen.items():
            if listener.kind == "pop3" and not isinstance(gateways.by_name.get(listener.gateway), Maildir | None):
                self.report.error(("listen", name, "gateway"), f'"{listener.gateway}" is no gateway of type "maildir"')
        members = check_members(configuration, gateways, self.report)
        routes = tuple(rule for one in configuration.route if (rule := self.route(one)) is not None)
        find_open_relays(configuration, relay, self.report)
        if self.report.errors:
            raise BadConfiguration(self.report.problems, configuration)
        return Parts(
            rules=rules,
            routing=Routing(routes, frozenset(filter(gateways.is_by_domain, gateways.by_name)), frozenset(gateways.by_name)),
            gateways=gateways.by_name,
            schedules={name: gateway.schedule for name, gateway in configuration.gateway.items()},
            connections={name: gateway.connections for name, gateway in configuration.gateway.items()},
            accounts=accounts,
            members=members,
            warnings=tuple(self.report.problems),
        )

    def permit(self, rule: PermitRule) -> Asked | None:
        where = self.configuration.where(rule.at)
        if rule.part is not None:
            component = build(rule.part, (IRelayPolicy,), self.house, self.configuration.context, self.report)
            return None if component is None else Asked(rule.name, component, where=where)
        return Asked(rule.name, Permit(rule.domains, rule.from_network, rule.authenticated, rule.name), where=where)

    def rules(self, listener: Listener, relay: tuple[Asked, ...]) -> Rules:
        asked = [self.policies[name] for name in listener.policies if name in self.policies]
        return Rules(
            client=tuple(one for one in asked if IClientPolicy.providedBy(one.component)),
            sender=tuple(one for one in asked if ISenderPolicy.providedBy(one.component)),
            relay=relay,
            recipient=tuple(one for one in asked if IRecipientPolicy.providedBy(one.component)),
            content=tuple(one for one in asked if IContentPolicy.providedBy(one.component)),
            refusal=tuple(one for one in asked if IRefusalPolicy.providedBy(one.component)),
        )

    def route(self, rule: RouteRule) -> Rule | None:
        recipients = None
        if rule.recipients_of is not None:
            house = {**self.house, IGateways: self.gateways}
            recipients = build(rule.recipients_of, (IRecipientPolicy,), house, self.configuration.context, self.report)
            if recipients is not None:
                check_named(recipients, rule.recipients_of, self.configuration, self.gateways, self.report)
            asks_own = isinstance(recipients, VerifyRecipient) and not recipients.gateway and "unasked" not in rule.recipients_of.settings
            if asks_own and (problem := cannot_be_asked(rule.gateway, self.configuration, self.gateways)):
                self.report.warning((*rule.at, "recipients"), f"{problem}; all recipients pass")
        if rule.part is not None:
            route = build(rule.part, (IRoute,), self.house, self.configuration.context, self.report)
            if route is not None:
                check_named(route, rule.part, self.configuration, self.gateways, self.report)
        else:
            route = self.built_in_route(rule)
        return None if route is None else Rule(rule.name, route, recipients, self.configuration.where(rule.at))

    def built_in_route(self, rule: RouteRule) -> IRoute | None:
        if rule.otherwise:
            return Default(rule.gateway, rule.next_hop)
        conditions: list[IRoute] = []
        if rule.table is not None:  # the first one: an AllOf goes where its first condition says
            try:
                table = ByTable(rule.table)
                gateways = table.gateways()
            except (OSError, ValueError) as problem:
                text = f"{rule.table}: {problem.strerror}" if isinstance(problem, OSError) else str(problem)
                self.report.error((*rule.at, "table"), text)
                return None
            for name in sorted(gateways - self.configuration.gateway.keys()):
                hint = nearest(name, self.configuration.gateway)
                self.report.error((*rule.at, "table"), f"{rule.table} names a gateway, but there is no [gateway.{name}]{hint}")
            conditions.append(table)
        if rule.to:
            conditions.append(ByDomain(rule.recipients, rule.gateway, rule.next_hop))  # type: ignore[arg-type]  # a generic converter
        if rule.sender:
            conditions.append(BySender(rule.senders, rule.gateway, rule.next_hop))  # type: ignore[arg-type]
        if rule.tag:
            conditions.append(ByTag(rule.tag, rule.gateway, rule.next_hop))  # type: ignore[arg-type]
        return conditions[0] if len(conditions) == 1 else AllOf(conditions)  # type: ignore[arg-type]


def _relay(listener: Listener, permits: list[tuple[PermitRule, Asked]]) -> list[tuple[PermitRule, Asked]]:
    """The permit rules of one listener, in order."""
    own = [(rule, asked) for rule, asked in permits if listener.name in rule.on]
    if listener.kind == "submission":
        return [(rule, attrs.evolve(asked, component=_for_submission(asked.component))) for rule, asked in own]
    return own


def _for_submission(component: IRelayPolicy) -> IRelayPolicy:
    if isinstance(component, Permit):
        return attrs.evolve(component, authenticated=True)
    return _LoggedInOnly(component)
