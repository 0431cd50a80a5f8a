"""What `mailgw check` verifies: the configuration itself, all that it names outside of itself, and who may relay."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import UTC, datetime
from pathlib import Path

from attrs import frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from mailgw.assemble import House, Parts, load
from mailgw.config.matrix import Cell, relay_matrix
from mailgw.config.model import Configuration, Listener, Tls
from mailgw.config.soundness import is_loopback
from mailgw.login.portal import Accounts
from mailgw.login.proofs import can_serve
from mailgw.problems import BadConfiguration, Place, Problem, Report
from mailgw.receive.aliases import aliases_of
from mailgw.settings import CREDENTIALS
from mailgw.tls import EXPIRES_SOON, is_covered, names_of

__all__ = ["Checked", "check"]

_WITH_PASSWORD = ("SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "PLAIN", "LOGIN")


@frozen
class Checked:
    """What was found: problems by line, and the relay matrix, which is empty where the configuration cannot be used."""

    problems: tuple[Problem, ...]
    matrix: tuple[Cell, ...]

    @property
    def is_usable(self) -> bool:
        """Whether mailgw would start with it: there may be warnings, but no errors."""
        return all(problem.severity != "error" for problem in self.problems)


def check(path: Path, furnish: Callable[[Configuration], House], now: datetime | None = None) -> Checked:
    """Check a configuration file without using the network.

    ``furnish`` makes the providers for `given` fields; ``now``, with its time zone, is for expiry dates.
    """
    configuration: Configuration | None
    parts: Parts | None = None
    problems: tuple[Problem, ...]
    try:
        configuration, _, parts = load(path, furnish)
        problems = parts.warnings
    except BadConfiguration as bad:
        configuration, problems = bad.rest, bad.problems
    if configuration is None:
        return Checked(problems, ())
    report = configuration.report()
    has_server = not any("[server]" in problem.text for problem in problems)  # else a stand-in is in its place
    names: dict[str, frozenset[str]] = {}  # of the certificates that can be read
    for name, tls in configuration.tls.items():
        chain = _check_certificate(tls, ("tls", name), now or datetime.now(UTC), report)
        if chain:
            names[name] = names_of(chain[0])
    if has_server:
        _check_own_name(configuration, names, report)
    _check_choice(configuration, names, report)
    if has_server:
        _check_folder(configuration.server.state, ("server", "state"), report)
    if ("admin", "socket") in configuration.lines:
        _check_folder(configuration.admin.socket.parent, ("admin", "socket"), report)
    wrong = [problem.text for problem in problems if problem.severity == "error"]
    _check_use(configuration, parts.members if parts else frozenset(configuration.gateway), wrong, report)
    aliases_of({name: one.aliases for name, one in configuration.listen.items()}, report)
    if parts is not None:
        for name, listener in configuration.listen.items():
            _check_mechanisms([parts.accounts[one] for one in listener.accounts], ("listen", name, "accounts"), report)
    matrix = relay_matrix(configuration, parts.rules) if parts else ()
    together = dict.fromkeys([*problems, *report.problems])
    return Checked(tuple(sorted(together, key=lambda problem: problem.line)), matrix)


def _check_certificate(tls: Tls, at: Place, now: datetime, report: Report) -> list[x509.Certificate]:
    """The chain, as far as it can be read."""
    chain: list[x509.Certificate] = []
    try:
        chain = x509.load_pem_x509_certificates(tls.certificate.read_bytes())
    except OSError as problem:
        report.error((*at, "certificate"), f"{tls.certificate}: {problem.strerror}")
    except ValueError:
        report.error((*at, "certificate"), f"{tls.certificate} holds no certificate in PEM form")
    for certificate in chain:
        if certificate.not_valid_after_utc <= now:
            report.error((*at, "certificate"), f"{_subject(certificate)} expired on {certificate.not_valid_after_utc:%Y-%m-%d}")
        elif certificate.not_valid_before_utc > now:
            report.error((*at, "certificate"), f"{_subject(certificate)} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d}")
        elif certificate.not_valid_after_utc <= now + EXPIRES_SOON:
            report.warning((*at, "certificate"), f"{_subject(certificate)} expires on {certificate.not_valid_after_utc:%Y-%m-%d}")
    _check_key(tls, chain, (*at, "key"), report)
    if tls.client_ca is not None:
        try:
            x509.load_pem_x509_certificates(tls.client_ca.read_bytes())
        except OSError as problem:
            report.error((*at, "client_ca"), f"{tls.client_ca}: {problem.strerror}")
        except ValueError:
            report.error((*at, "client_ca"), f"{tls.client_ca} holds no certificate in PEM form")
    return chain


def _check_key(tls: Tls, chain: list[x509.Certificate], at: Place, report: Report) -> None:
    try:
        secret = tls.key.read()
    except OSError as problem:
        text = f"{tls.key}: {problem.strerror or problem}"
        is_outside = "CREDENTIALS_DIRECTORY" not in os.environ
        if is_outside and tls.key.path is not None and tls.key.path.is_relative_to(CREDENTIALS):
            report.warning(at, f"{text}; systemd's credentials can be checked only while the service runs")
        else:
            report.error(at, text)
        return
    try:
        # No error text of the parser is shown: it might repeat what it read.
        key = load_pem_private_key(secret, None)
    except TypeError:
        report.error(at, "is protected by a password: mailgw needs it without one")
        return
    except ValueError:
        report.error(at, f"{tls.key} holds no private key in PEM form")
        return
    if chain:
        publics = (key.public_key(), chain[0].public_key())
        if len({public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for public in publics}) > 1:
            report.error(at, f"does not belong to the first certificate in {tls.certificate}")


def _subject(certificate: x509.Certificate) -> str:
    return f"the certificate of {certificate.subject.rfc4514_string() or 'nobody'}"


def _check_own_name(configuration: Configuration, names: Mapping[str, frozenset[str]], report: Report) -> None:
    """Who asks for no name of ours sees one of these certificates; those that are only there for other names need not have it."""
    others = {name for one in configuration.listen.values() for name in one.tls[1:]} - {one.tls[0] for one in _with_tls(configuration)}
    for name in names:
        if name not in others and not is_covered(configuration.server.hostname, names[name]):
            report.warning(("tls", name, "certificate"), f"does not cover our name, {configuration.server.hostname}")


def _check_choice(configuration: Configuration, names: Mapping[str, frozenset[str]], report: Report) -> None:
    """Where a client's server name picks a certificate, it can pick each, and clients are asked for theirs all the same."""
    for listener in _with_tls(configuration):
        first = configuration.tls.get(listener.tls[0])
        taken = names.get(listener.tls[0], frozenset())
        for place, name in enumerate(listener.tls[1:], 1):
            at: Place = ("listen", listener.name, "tls", place)
            if name in names and names[name] <= taken:
                why = "it holds no host name" if not names[name] else "those before it have all of its names"
                report.warning(at, f"no client will ever be shown the certificate of [tls.{name}]: {why}")
            taken |= names.get(name, frozenset())
            tls = configuration.tls.get(name)
            if first and tls and (first.client_certificates, first.client_ca) != (tls.client_certificates, tls.client_ca):
                text = f"clients that ask for a name of [tls.{name}] are not asked for certificates as those of [tls.{listener.tls[0]}] are"
                report.warning(at, text)


def _with_tls(configuration: Configuration) -> list[Listener]:
    return [one for one in configuration.listen.values() if one.tls]


def _check_folder(folder: Path, at: Place, report: Report) -> None:
    """It can be written to, or it can be made."""
    nearest = folder
    try:
        while not nearest.exists() and nearest != nearest.parent:
            nearest = nearest.parent
    except OSError as problem:
        report.error(at, f"{nearest} cannot be looked at, as this user: {problem.strerror}")
        return
    if not nearest.is_dir():
        report.error(at, f"{nearest} is not a folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        what = "cannot be written to" if nearest == folder else f"does not exist, and cannot be made in {nearest}"
        report.error(at, f"{folder} {what}, as this user")


def _check_use(configuration: Configuration, members: Set[str], wrong: Sequence[str], report: Report) -> None:
    """Tables that nothing refers to, listeners that take no mail.

    ``members``: the gateways that other gateways name. ``wrong``: the errors; a table that has one is missing, and what it says with it.
    """
    listeners = configuration.listen.values()
    if not any(text.startswith("[listen.") for text in wrong):
        _unused("policy", configuration.policy, {name for one in listeners for name in one.policies}, "no listener", report)
        _unused("accounts", configuration.accounts, {name for one in listeners for name in one.accounts}, "no listener", report)
        _unused("tls", configuration.tls, {name for one in listeners for name in one.tls}, "no listener", report)
    if not any(rule.part or rule.table for rule in configuration.route):  # these may name any gateway
        _unused("gateway", configuration.gateway, {rule.gateway for rule in configuration.route} | members, "no route", report)
    written = [(rule.to, rule.at) for rule in configuration.permit] + [(rule.to, rule.at) for rule in configuration.route]
    for to, at in written:
        for name in [name for name in to if name in configuration.domains]:
            report.warning((*at, "to"), f'"{name}" is a domain of that name; the set of [domains] is "@{name}"')
    for rule in configuration.permit:
        submission = [name for name in rule.on if name in configuration.listen and configuration.listen[name].kind == "submission"]
        if submission and not rule.authenticated and rule.part is None:
            text = f'permits only who has logged in on "{submission[0]}", as submission takes no other mail: say authenticated = true'
            report.warning(rule.at, text)
    for name, listener in configuration.listen.items():
        if listener.kind == "pop3":
            continue
        if not any(name in rule.on for rule in configuration.permit):
            if not any(text.startswith("[[permit]]") for text in wrong):
                report.warning(("listen", name), "takes no mail at all: no [[permit]] is on it")
        elif listener.kind == "submission" and not listener.accounts:
            report.warning(("listen", name), "takes no mail at all: it has no accounts, so nobody can log in")
        if listener.allow_cleartext_auth and not all(map(is_loopback, _in_clear(listener))):
            text = "lets clients log in where others may listen; only mechanisms that show no password are offered to them there"
            report.warning(("listen", name, "allow_cleartext_auth"), text)


def _check_mechanisms(accounts: list[Accounts], at: Place, report: Report) -> None:
    """A client takes the best that is offered, and its user may be in other accounts than those that can serve it."""
    served = {one.name: {name for name in _WITH_PASSWORD if can_serve(one.component, name)} for one in accounts}
    for mechanism in _WITH_PASSWORD:
        able = [name for name, known in served.items() if mechanism in known]
        unable = [name for name, known in served.items() if known and mechanism not in known]
        if able and unable:
            text = f'{mechanism} is offered, as "{able[0]}" can serve it, but users of "{unable[0]}" cannot log in by it'
            report.warning(at, text)


def _in_clear(listener: Listener) -> list[str]:
    return [endpoint for endpoint in listener.endpoint if not listener.is_implicit_tls(endpoint)]


def _unused(table: str, names: Iterable[str], used: set[str], by: str, report: Report) -> None:
    for name in names:
        if name not in used:
            report.warning((table, name), f"is not used: {by} names it")
