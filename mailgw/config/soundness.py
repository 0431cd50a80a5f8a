"""What must hold between the keys and tables of a configuration: names that exist, rules that make sense together."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import attrs
from twisted.internet.endpoints import serverFromString

from mailgw.config.model import Listener, RouteRule
from mailgw.problems import Place, Report, nearest

__all__ = [
    "check_endpoints",
    "check_listener",
    "check_metrics",
    "check_permit",
    "check_route",
    "check_routes",
    "check_submission",
    "is_loopback",
]

_ENDPOINT = re.compile(r"([A-Za-z][A-Za-z0-9_.+-]*):(.+)\Z", re.DOTALL)
_WITH_PORT = ("tcp", "tcp4", "tcp6", "tls")
_ANY_PORT = re.compile(r"tcp[46]?:(?:port=)?0(?::|\Z)")  # another one each time
_BENEATH_TLS = ("tls:systemd:", "tls:unix:", "tls:tcp6:")
_COUNTS = ("max_recipients", "max_errors", "max_commands", "max_sessions", "max_sessions_per_client", "max_hops")
_SIZES = ("max_message_size", "max_text_line")
_POP3_ONLY = ("gateway", "domain")
_POP3 = ("kind", "endpoint", "like", "starttls", "tls", "accounts", "proxy", "max_sessions", "max_sessions_per_client", *_POP3_ONLY)
_BELIEVED = ("proxy", "xclient")
_TOO_WIDE = {4: 8, 6: 7}  # prefix lengths: nobody owns more than 10.0.0.0/8 or fc00::/7
_TIMES = ("command_timeout", "data_timeout", "message_timeout", "session_timeout")


def _names(document: Mapping[str, Any], table: str) -> list[str]:
    """The names of [table.NAME], whether or not there is an error inside."""
    outer = document.get(table, {})
    return list(outer) if isinstance(outer, dict) else []


def _listed(value: Any) -> Sequence[tuple[Any, Place]]:
    """The items of what may be a list or a single string, each with its place below."""
    return [(item, (index,)) for index, item in enumerate(value)] if isinstance(value, list) else [(value, ())]


def _check_name(name: Any, table: str, at: Place, document: Mapping[str, Any], report: Report) -> None:
    names = _names(document, table)
    if isinstance(name, str) and name not in names:
        report.error(at, f"there is no [{table}.{name}]{nearest(name, names)}")


def check_listener(
    name: str, values: Mapping[str, Any], own: Mapping[str, Any], document: Mapping[str, Any], report: Report
) -> Listener | None:
    """The listener with what it inherits, or None where keys are missing or wrong, which has been reported.

    ``values`` are the converted keys with the inherited ones, ``own`` is its own table: an inherited fault is reported where it stands.
    """
    at: Place = ("listen", name)
    before = len(report.errors)
    for item, below in _listed(own.get("policies", [])):
        _check_name(item, "policy", (*at, "policies", *below), document, report)
    named = _listed(own.get("tls", []))
    for index, (item, below) in enumerate(named):
        _check_name(item, "tls", (*at, "tls", *below), document, report)
        if item in [earlier for earlier, _ in named[:index]]:
            report.error((*at, "tls", *below), f'"{item}" stands there before')
    for item, below in _listed(own.get("accounts", [])):
        _check_name(item, "accounts", (*at, "accounts", *below), document, report)
    for item, below in _listed(own.get("endpoint", [])):
        if isinstance(item, str):
            _check_endpoint(item, (*at, "endpoint", *below), report)
    for keys, least in ((_COUNTS, 1), (_SIZES, 1), (_TIMES, 0.001)):
        for key in keys:
            if key in own and key in values and values[key] < least:
                report.error((*at, key), "must be more than nothing")
    for key in _BELIEVED:
        for network in values.get(key, ()) if key in own else ():
            if network.prefixlen < _TOO_WIDE[network.version]:
                report.error((*at, key), f"{network} is too wide: strangers in it could say that they are anybody")
    if "kind" not in values or "endpoint" not in values:
        return None
    _check_keys_of_kind(values, own, at, document, report)
    if not values["endpoint"]:
        report.error((*at, "endpoint"), "is empty: nobody could connect")
    listener = Listener(**_with_tls(values, document), name=name)
    _check_tls(listener, "starttls" in values, at, report)
    return listener if len(report.errors) == before else None


def check_endpoints(listen: Mapping[str, Listener], metrics: str, report: Report) -> None:
    """Nothing is listened at twice."""
    taken: dict[str, str] = {}
    for name, listener in listen.items():
        for endpoint in listener.endpoint:
            place = listener.beneath_tls(endpoint)
            if _ANY_PORT.match(place):
                continue
            if place in taken:
                report.error(("listen", name, "endpoint"), f'"{endpoint}" is that of [listen.{taken[place]}] already')
            taken.setdefault(place, name)
    if metrics in taken:
        report.error(("admin", "metrics"), f'"{metrics}" is that of [listen.{taken[metrics]}] already')


def _check_keys_of_kind(values: Mapping[str, Any], own: Mapping[str, Any], at: Place, document: Mapping[str, Any], report: Report) -> None:
    """Keys that only SMTP or only POP3 knows; a POP3 listener has accounts and a gateway."""
    if values["kind"] != "pop3":
        for key in _POP3_ONLY:
            if key in own:
                report.error((*at, key), 'is for a listener of kind "pop3" only')
        return
    for key in own:
        if key in attrs.fields_dict(Listener) and key not in _POP3:
            report.error((*at, key), 'is not for a listener of kind "pop3"')
    for key in ("accounts", "gateway"):
        if not values.get(key):
            report.error(at, f'needs "{key}"')
    if own.get("gateway"):
        _check_name(own["gateway"], "gateway", (*at, "gateway"), document, report)


def check_metrics(endpoint: str, at: Place, report: Report) -> None:
    """The endpoint can be one, and is in clear."""
    if endpoint.startswith("tls:"):
        report.error(at, 'is served without TLS: write it like "tcp:9115:interface=127.0.0.1"')
    else:
        _check_endpoint(endpoint, at, report)


def _check_endpoint(text: str, at: Place, report: Report) -> None:
    match = _ENDPOINT.match(text.removeprefix("tls:") if text.startswith(_BENEATH_TLS) else text)
    if not match:
        report.error(at, f'"{text}" is no endpoint; write it like "tcp:25", "tls:465" or "systemd:domain=INET6:name=mx"')
    elif match[1] == "ssl":
        report.error(at, 'write "tls:PORT" for TLS from the first byte; its certificate is that of [tls.NAME]')
    elif match[1] == "systemd":
        given = [part.partition("=")[0] for part in match[2].split(":")]
        if "domain" not in given or ("name" in given) == ("index" in given):
            report.error(at, f'"{text}" does not say which socket; write it like "systemd:domain=INET6:name=mx"')
    elif match[1] in _WITH_PORT:
        port = match[2].split(":")[0].removeprefix("port=")
        if not (port.isdecimal() and int(port) < 65536) and "port=" not in match[2]:
            report.error(at, f'"{text}" has no port: "{port}" is no number below 65536')
        else:
            _check_with_twisted(text, at, report)
    else:
        _check_with_twisted(text, at, report)


def _check_with_twisted(text: str, at: Place, report: Report) -> None:
    # Making an endpoint touches nothing; only its `listen` would. Twisted's own words are those of its functions.
    inner = text.removeprefix("tls:") if text.startswith(_BENEATH_TLS) else text.replace("tls:", "tcp:", 1)
    try:
        serverFromString(None, inner)  # type: ignore[no-untyped-call]
    except (TypeError, ValueError) as problem:
        said = str(problem)
        unknown = re.search(r"unexpected keyword argument '(\w+)'", said)
        if unknown:
            report.error(at, f'"{text}" has no "{unknown[1]}"{nearest(unknown[1], ("backlog", "interface", "mode", "port"))}')
        elif "multiple values" in said or "positional argument" in said:
            report.error(at, f'"{text}": write a ":" that belongs to a value as "\\\\:", like "interface=\\\\:\\\\:1"')
        else:
            report.error(at, f'"{text}": {said[:1].lower()}{said[1:]}')


def _with_tls(values: Mapping[str, Any], document: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the defaults that depend on others: the certificate is "default" where there is one of this name."""
    tls = values.get("tls") or (("default",) if "default" in _names(document, "tls") else ())
    starttls = "require" if values["kind"] == "submission" else "offer" if tls else "never"
    return {"starttls": starttls} | dict(values) | {"tls": tls}


def _check_tls(listener: Listener, is_said: bool, at: Place, report: Report) -> None:
    place = (*at, "starttls") if is_said else at
    clear = [endpoint for endpoint in listener.endpoint if not listener.is_implicit_tls(endpoint)]
    # RFC 8314 §3: submission is never in clear, but from the machine to itself.
    is_local = listener.allow_cleartext_auth and all(map(is_loopback, clear))
    if listener.kind == "submission" and clear and listener.starttls != "require" and not is_local:
        report.error(
            place, f'"{listener.starttls}" is not possible: submission is always encrypted; say "require", or use a "tls:" endpoint only'
        )
    elif listener.kind == "pop3" and listener.starttls == "never" and not all(map(is_loopback, clear)):
        report.error(place, 'nobody could log in without TLS: add a [tls.default], or use a "tls:" endpoint', of=at)
    elif not listener.tls and (listener.starttls != "never" or len(clear) < len(listener.endpoint)):
        report.error(place, "TLS needs a certificate: add a [tls.default] with certificate and key", of=at)


def is_loopback(endpoint: str) -> bool:
    """Whether only this machine itself can connect there."""
    if endpoint.startswith("unix:"):
        return True
    interface = re.search(r":interface=((?:[^:\\]|\\.)+)", endpoint)
    try:
        return interface is not None and ip_address(interface[1].replace("\\:", ":")).is_loopback
    except ValueError:
        return False


def check_submission(listen: Mapping[str, Listener], document: Mapping[str, Any], report: Report) -> None:
    """Nobody submits mail without a login, whatever a permit rule says (RFC 6409 §4.3)."""
    tables = document.get("permit", [])
    for index, table in enumerate(tables if isinstance(tables, list) else []):
        if not isinstance(table, dict) or table.get("authenticated") is not False:
            continue
        for name, _ in _listed(table.get("on", [])):
            if isinstance(name, str) and name in listen and listen[name].kind == "submission":
                text = f'false is not possible on "{name}": a submission listener takes no mail from who has not logged in'
                report.error(("permit", index, "authenticated"), text)


def _kind_of(listener: str, document: Mapping[str, Any]) -> Any:
    listen = document.get("listen", {})
    table = listen.get(listener) if isinstance(listen, dict) else None
    return table.get("kind") if isinstance(table, dict) else None


def check_permit(table: Mapping[str, Any], at: Place, document: Mapping[str, Any], report: Report) -> None:
    """The listeners exist, and there is a condition."""
    for item, below in _listed(table.get("on", [])):
        _check_name(item, "listen", (*at, "on", *below), document, report)
        if isinstance(item, str) and _kind_of(item, document) == "pop3":
            report.error((*at, "on", *below), f'nobody sends mail on "{item}": it is of kind "pop3"')
    conditions = [key for key in ("to", "from_network") if key in table]
    for key in conditions:
        if table[key] in ([], ""):
            report.error((*at, key), "is empty: leave it out, or say what is permitted")
    if "type" not in table and not conditions and table.get("authenticated") is not True:
        report.error(at, 'has no condition, so anybody could send anywhere: say "to", "from_network" or "authenticated"')


def check_route(table: Mapping[str, Any], at: Place, document: Mapping[str, Any], report: Report) -> None:
    """The gateway exists, and there are conditions or an ``otherwise``."""
    if "type" in table:
        return
    if "gateway" in table:
        _check_name(table["gateway"], "gateway", (*at, "gateway"), document, report)
        if "table" in table:
            report.error((*at, "gateway"), "the table says the gateway of each recipient: leave one of them out")
    elif "table" not in table:
        report.error(at, 'needs "gateway"')
    conditions = [key for key in ("to", "sender", "tag", "table") if key in table]
    for key in conditions:
        if table[key] in ([], ""):
            report.error((*at, key), "is empty: leave it out, or say what it matches")
    if table.get("otherwise") is True and conditions:
        report.error((*at, "otherwise"), f'stands for all the rest: leave out "{conditions[0]}"')
    elif table.get("otherwise") is not True and not conditions:
        report.error(at, 'has no condition: say "to", "sender", "tag" or "table", or otherwise = true')


def check_routes(rules: Sequence[RouteRule], document: Mapping[str, Any], report: Report) -> None:
    """The last route, and no other, is ``otherwise``; each route can match something that no earlier one takes."""
    tables = document.get("route", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        return
    if not tables:
        report.error((), "the configuration has no [[route]]: say with otherwise = true at least where all mail goes")
        return
    for index, table in enumerate(tables):
        last = index == len(tables) - 1
        if table.get("otherwise") is True and "type" not in table and not last:
            report.error(("route", index, "otherwise"), "must stand in the last route: those after it can never match")
        elif last and (table.get("otherwise") is not True or "type" in table):
            report.error(("route", index), "is the last one and must say otherwise = true: what happens to the rest?")
    _check_reach(rules, report)


def _check_reach(rules: Sequence[RouteRule], report: Report) -> None:
    taken: dict[str, RouteRule] = {}
    for rule in rules:
        if rule.part is not None or not rule.to or not rule.recipients:
            continue
        takers = [next((taken[wider] for wider in _wider(pattern) if wider in taken), None) for pattern in sorted(rule.recipients)]
        if all(takers):
            lines = sorted({report.locate(taker.at)[1] for taker in takers if taker})
            where = f"line {lines[0]}" if len(lines) == 1 else f"lines {', '.join(map(str, lines))}"
            report.error((*rule.at, "to"), f"can never match: the route at {where} takes all of it before")
        if attrs.evolve(rule, to=(), recipients=frozenset(), recipients_of=None, gateway="", next_hop="", name="", at=()) == _ONLY_TO:
            for pattern in rule.recipients:
                taken.setdefault(pattern, rule)


_ONLY_TO = RouteRule(name="", at=())


def _wider(pattern: str) -> list[str]:
    """The pattern itself and all that match whatever it matches."""
    found = [pattern]
    domain = pattern
    if "@" in pattern:
        domain = pattern.rpartition("@")[2]
        found.append(domain)
    dot = domain.find(".", 1)
    while dot >= 0:
        found.append(domain[dot:])
        dot = domain.find(".", dot + 1)
    return found
