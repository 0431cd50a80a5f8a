"""The relay matrix: listener x kind of client x kind of recipient, permitted or not, found by asking the real permit rules.

And what follows from it: a configuration through which strangers can relay anywhere is an error, unless the rule itself says
``open_relay = true``.
"""

from collections.abc import Iterator, Mapping, Sequence
from inspect import isawaitable
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, ip_address
from typing import Any, Literal

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from mailgw.config.model import Configuration, Listener, PermitRule
from mailgw.problems import Report
from mailgw.receive.asking import Asked, Rules
from mailgw.settings import Network
from mailgw.values.address import Address
from mailgw.values.decision import Decision, Verdict
from mailgw.values.facts import ClientFacts, RecipientFacts

__all__ = ["Cell", "Shift", "find_open_relays", "relay_matrix", "shifts"]

Ip = IPv4Address | IPv6Address
Answer = Literal["permitted", "no", "unknown"]

# Strangers from all over the address space: one in each of its public parts, and none in a block for documentation, which
# examples like to call their own.
_STRANGERS: tuple[Ip, ...] = tuple(
    map(
        ip_address,
        (
            *("2.200.3.4", "24.200.3.4", "37.200.3.4", "62.200.3.4", "77.200.3.4", "91.200.3.4", "109.200.3.4", "113.200.3.4"),
            *("130.200.3.4", "151.200.3.4", "163.200.3.4", "178.200.3.4", "193.200.3.4", "213.200.3.4"),
            *("2001:4860:ffff::4", "2400:ffff::4", "2600:ffff::4", "2800:ffff::4", "2a00:ffff::4", "2c0f:ffff::4"),
        ),
    )
)
# One of these may by chance be at home in a network that is permitted; two of them never are in one of sensible size.
_FEW = 2
_WIDE = {4: 8, 6: 16}  # prefix lengths: a network as wide as this is hardly anybody's own

_SENDER = Address("somebody", "sender.example")


@frozen
class Cell:
    """One answer of the matrix."""

    listener: str
    client: str  # "stranger", "network @office", "network 10.0.0.0/8", "authenticated"
    recipient: str  # "@ours", "example.com", "elsewhere", "percent hack at @ours", ...
    example: str  # the address that was asked about
    answer: Answer  # "unknown": the rule must ask others (the DNS, a database) before it knows
    by: str = ""  # the rule that permits, or does not know yet
    where: str = ""  # "etc/mailgw.toml:41"


def relay_matrix(configuration: Configuration, rules: Mapping[str, Rules]) -> tuple[Cell, ...]:
    """Ask the rules of every listener about every kind of client and recipient."""
    return tuple(
        Cell(name, client, recipient, str(address), *_ask_all(rules[name].relay, _facts(listener, ip, login, address)))
        for name, listener in configuration.listen.items()
        if name in rules
        for client, ip, login in _clients(configuration)
        for recipient, address in _recipients(configuration)
    )


@frozen
class Shift:
    """Where another configuration answers otherwise."""

    listener: str
    client: str
    recipient: str
    before: Answer
    after: Answer
    by: str = ""  # the rule that permits now, or does not know yet
    where: str = ""


def shifts(
    old: Configuration, old_rules: Mapping[str, Rules], new: Configuration, new_rules: Mapping[str, Rules]
) -> tuple[Shift, ...]:
    """What one configuration permits and the other does not: both are asked about all that either of them names."""
    clients = {(ip, login): label for one in (old, new) for label, ip, login in _clients(one)}
    recipients = {address: label for one in (old, new) for label, address in _recipients(one)}
    for address, label in recipients.items():
        if label.startswith("@"):  # a set may have other members now
            recipients[address] = f"{label.partition(' ')[0]} {address.domain}"
    found = []
    for name in [*old.listen, *(name for name in new.listen if name not in old.listen)]:
        for (ip, login), client in clients.items():
            for address, recipient in recipients.items():
                before, *_ = _answer(old, old_rules, name, ip, login, address)
                after, by, where = _answer(new, new_rules, name, ip, login, address)
                if before != after:
                    found.append(Shift(name, client, recipient, before, after, by, where))
    return tuple(found)


def _answer(
    configuration: Configuration, rules: Mapping[str, Rules], listener: str, ip: Ip, login: str, address: Address
) -> tuple[Answer, str, str]:
    if listener not in rules:
        return "no", "", ""
    return _ask_all(rules[listener].relay, _facts(configuration.listen[listener], ip, login, address))


def find_open_relays(
    configuration: Configuration, permits: Mapping[str, Sequence[tuple[PermitRule, Asked]]], report: Report
) -> None:
    """Report each rule by which strangers can relay anywhere. ``permits``: for each listener its rules."""
    elsewhere = Address("user", _elsewhere(configuration))
    told: set[tuple[Any, ...]] = set()
    for name, listener in configuration.listen.items():
        for rule, asked in permits.get(name, ()):
            if rule.at in told:
                continue
            at = (*rule.at, "from_network") if rule.from_network else rule.at
            if _permits_strangers(asked, listener, elsewhere):
                told.add(rule.at)
                if rule.open_relay:
                    report.warning(at, f"lets strangers send anywhere on {name}: an open relay, as it says itself")
                else:
                    report.error(
                        at,
                        f"lets strangers send anywhere on {name} (open relay): restrict it, or say open_relay = true if you mean it",
                        of=rule.at,
                    )
                continue
            if suffix := _public_suffix(rule, asked, listener):
                told.add(rule.at)
                text = f"lets strangers send to everybody below {suffix} on {name}"
                if rule.open_relay:
                    report.warning((*rule.at, "to"), f"{text}: an open relay, as it says itself")
                else:
                    remedy = "say which domains are yours, or open_relay = true if you mean it"
                    report.error((*rule.at, "to"), f"{text} (open relay): {remedy}", of=rule.at)
                continue
            for label, address in _tricks(configuration):
                if _permits_strangers(asked, listener, address):
                    told.add(rule.at)
                    report.warning(at, f"lets strangers send to {address} on {name} ({label}): a server behind us may relay it")
                    break
            else:
                _warn_of_wide_networks(rule, at, report)


def _public_suffix(rule: PermitRule, asked: Asked, listener: Listener) -> str:
    """Below which name everybody can register a domain to which strangers may send: ".com", ".co.uk"; empty: none."""
    patterns = [domain for domain in sorted(rule.domains) if domain.startswith(".")]
    if not patterns:
        return ""
    # Here and not above: the list takes 0.1 s to read, and few need it.
    from publicsuffixlist import PublicSuffixList

    suffixes = PublicSuffixList(accept_unknown=False, only_icann=True)
    wide = [one for one in patterns if suffixes.is_public(one[1:])]
    return next((one for one in wide if _permits_strangers(asked, listener, Address("user", f"elsewhere{one}"))), "")


def _permits_strangers(asked: Asked, listener: Listener, address: Address) -> bool:
    answers = [_ask(asked, _facts(listener, ip, "", address)) for ip in _STRANGERS]
    return answers.count("permitted") >= _FEW


def _warn_of_wide_networks(rule: PermitRule, at: Any, report: Report) -> None:
    if rule.to or rule.authenticated:
        return
    for network in _collapsed(rule.from_network):
        if network.prefixlen <= _WIDE[network.version] and not network.is_private:
            report.warning(at, f"{network} is very wide: everybody in it can send anywhere")


def _collapsed(networks: Sequence[Network]) -> list[Network]:
    return [
        *collapse_addresses(network for network in networks if network.version == 4),
        *collapse_addresses(network for network in networks if network.version == 6),
    ]


# ── Who and what is asked about ──


def _facts(listener: Listener, ip: Ip, login: str, recipient: Address) -> RecipientFacts:
    client = ClientFacts(
        session="check", listener=listener.name, ip=ip, port=40000, kind=listener.smtp_kind, helo="client.example", esmtp=True, login=login
    )
    return RecipientFacts(client=client, sender=_SENDER, recipient=recipient)


def _stranger(configuration: Configuration) -> Ip:
    """Somebody who is in no network that the configuration names, other than one as wide as the world."""
    named = [network for networks in configuration.networks.values() for network in networks]
    named += [network for rule in configuration.permit for network in rule.from_network]
    homes = [network for network in named if network.prefixlen > _WIDE[network.version]]
    return next((ip for ip in _STRANGERS if not any(ip in home for home in homes)), _STRANGERS[0])


def _clients(configuration: Configuration) -> Iterator[tuple[str, Ip, str]]:
    stranger = _stranger(configuration)
    yield "stranger", stranger, ""
    named: set[Network] = set()
    for name, networks in configuration.networks.items():
        named.update(networks)
        for network in networks:
            label = f"network @{name}" if len(networks) == 1 else f"network @{name} {network}"
            yield label, _inside(network), ""
    for network in dict.fromkeys(network for rule in configuration.permit for network in rule.from_network):
        if network not in named:
            yield f"network {network}", _inside(network), ""
    yield "authenticated", stranger, "somebody"


def _inside(network: Network) -> Ip:
    return network[1] if network.num_addresses > 1 else network[0]


def _recipients(configuration: Configuration) -> Iterator[tuple[str, Address]]:
    for name, domains in configuration.domains.items():
        for domain in sorted(domains):
            yield f"@{name}" if len(domains) == 1 else f"@{name} {domain}", Address("user", _member(domain))
    written = {domain for rule in configuration.permit for domain in rule.domains}
    for domain in sorted(written - {domain for domains in configuration.domains.values() for domain in domains}):
        yield domain, Address("user", _member(domain))
    yield "elsewhere", Address("user", _elsewhere(configuration))
    yield from _tricks(configuration)


def _tricks(configuration: Configuration) -> Iterator[tuple[str, Address]]:
    """A way to elsewhere, hidden in a local-part at a domain of ours."""
    ours = sorted({domain for rule in configuration.permit for domain in rule.domains} or {_elsewhere(configuration)})
    elsewhere = _elsewhere(configuration)
    domain = _member(ours[0])
    yield f"percent hack at {domain}", Address(f"user%{elsewhere}", domain)
    yield f"bang path at {domain}", Address(f"{elsewhere}!user", domain)
    yield f"quoted @ at {domain}", Address(f"user@{elsewhere}", domain)


def _member(domain: str) -> str:
    return f"sub{domain}" if domain.startswith(".") else domain


def _elsewhere(configuration: Configuration) -> str:
    ours = {domain for domains in configuration.domains.values() for domain in domains}
    ours |= {domain for rule in configuration.permit for domain in rule.domains}
    names = ("elsewhere.example", "elsewhere.test", "elsewhere.invalid")  # reserved by RFC 2606
    return next((name for name in names if name not in ours and f".{name.partition('.')[2]}" not in ours), names[0])


# ── Asking ──


def _ask_all(relay: Sequence[Asked], facts: RecipientFacts) -> tuple[Answer, str, str]:
    unknown: tuple[Answer, str, str] | None = None
    for asked in relay:
        answer = _ask(asked, facts)
        if answer == "permitted":
            return answer, asked.name, asked.where
        if answer == "unknown" and unknown is None:
            unknown = answer, asked.name, asked.where
    return unknown or ("no", "", "")


def _ask(asked: Asked, facts: RecipientFacts) -> Answer:
    """Ask one rule, without a reactor; a rule that fails does not permit."""
    try:
        answer = asked.component.may_relay(facts)
    except (Exception, SystemExit, GeneratorExit):
        return "no"
    if isawaitable(answer):
        results: list[Any] = []
        deferred = Deferred.fromCoroutine(_awaited(answer))
        deferred.addBoth(results.append)
        if not results:
            deferred.cancel()
            return "unknown"
        answer = results[0]
    if isinstance(answer, Failure) or not isinstance(answer, Decision):
        return "no"
    return "permitted" if answer.verdict is Verdict.PERMIT else "no"


async def _awaited(answer: Any) -> Any:
    return await answer
