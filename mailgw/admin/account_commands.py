"""``mailgw account``: who is in a password file. No password ever stands in an argument, and no hash is shown."""

import os
import secrets
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import frozen

from mailgw.admin.options import speaking, with_json
from mailgw.admin.password_writing import CannotWrite, Page, changing, reading
from mailgw.admin.speaking import Speaker
from mailgw.admin.tables import Column
from mailgw.admin.whereabouts import NoConfiguration, find_configuration
from mailgw.login.password_lines import Entry, understood
from mailgw.login.schemes import MADE, make
from mailgw.problems import nearest
from mailgw.smtp.saslprep import saslprep

__all__ = ["account"]

_MOST_OCTETS = 1024  # of a password, as in SMTP
_MOST_NAME = 255  # octets
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"  # none that look alike
_DEFAULT = "argon2id"
_SCRAM = {"scram-sha-1", "scram-sha-256"}


@frozen
class Target:
    """A password file, and what its [accounts.NAME] says about it."""

    path: Path
    name: str = ""  # of the accounts; empty: the file was named itself
    case_sensitive: bool = False
    allow_plaintext: bool = True


@click.group()
@with_json
def account() -> None:
    """Look after the users of a password file.

    WHERE is the NAME of an [accounts.NAME] in the configuration, or a file; a file in this folder is written ./FILE.
    """


def _with_password(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options that say where a new password comes from, and how it is kept."""
    options = [
        click.option("--stdin", is_flag=True, help="Read the password from the first line of standard input."),
        click.option("--generate", is_flag=True, help="Make a password, and print it once."),
        click.option("--scheme", type=click.Choice(list(MADE)), help="How it is kept; default: as before, or as most others in the file."),
        click.option("--scram", "scheme", flag_value="scram-sha-256", help="The same as --scheme scram-sha-256."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@account.command()
@click.argument("where")
@click.argument("user")
@_with_password
@with_json
@speaking
def add(speaker: Speaker, /, where: str, user: str, stdin: bool, generate: bool, scheme: str | None) -> None:
    """Add USER. Makes the file if there is none."""
    target = find_target(speaker, where)
    name = checked_name(speaker, user)
    with telling(speaker):
        if target.path.exists() and reading(target.path, target.case_sensitive).find(name):
            raise speaker.failed("bad-request", f"{name} is in {target.path} already")
        password = new_password(speaker, stdin, generate)
        with changing(target.path, target.case_sensitive) as page:
            if page.find(name):
                raise speaker.failed("bad-request", f"{name} is in {target.path} already")
            scheme = scheme or usual_scheme(page, target)
            warn_about_scram(speaker, page, scheme)
            warn_about_others(speaker, page, target)
            page.add(name, made(speaker, target, scheme, password))
    tell(speaker, f"{name} was added to {target.path}", name, scheme, password if generate else None)


@account.command()
@click.argument("where")
@click.argument("user")
@_with_password
@with_json
@speaking
def passwd(speaker: Speaker, /, where: str, user: str, stdin: bool, generate: bool, scheme: str | None) -> None:
    """Give USER another password. A locked account is open again."""
    target = find_target(speaker, where)
    with telling(speaker):
        existing(speaker, reading(target.path, target.case_sensitive), target, user)
        password = new_password(speaker, stdin, generate)
        with changing(target.path, target.case_sensitive) as page:
            entry = existing(speaker, page, target, user)
            before = scheme_of(entry, target)
            scheme = scheme or (before if before in MADE else usual_scheme(page, target))
            warn_about_scram(speaker, page, scheme)
            page.replace(entry, made(speaker, target, scheme, password))
            warn_about_others(speaker, page, target)
    tell(speaker, f"{entry.name} has another password in {target.path}", entry.name, scheme, password if generate else None)


@account.command()
@click.argument("where")
@click.argument("user")
@with_json
@speaking
def remove(speaker: Speaker, where: str, user: str) -> None:
    """Remove USER, who cannot log in any more some two seconds later."""
    target = find_target(speaker, where)
    with telling(speaker), changing(target.path, target.case_sensitive) as page:
        entry = existing(speaker, page, target, user)
        page.remove(entry)
        warn_about_others(speaker, page, target)
    tell(speaker, f"{entry.name} was removed from {target.path}", entry.name)


@account.command("list")
@click.argument("where")
@with_json
@speaking
def list_(speaker: Speaker, where: str) -> None:
    """List the users, and how their passwords are kept. Says which lines cannot be used."""
    target = find_target(speaker, where)
    with telling(speaker):
        entries = reading(target.path, target.case_sensitive).entries
    rows = [(entry.name, *_kept(entry, target), entry.number) for entry in entries]
    if speaker.as_json:
        keys = ("user", "scheme", "problem", "line")
        return speaker.out.json({"file": str(target.path), "accounts": [dict(zip(keys, row, strict=True)) for row in rows]})
    if not rows:
        return speaker.out.line("nobody")
    speaker.out.table(
        [Column("User", folds=True), Column("Kept as"), Column("Line", right=True), Column("Problem", folds=True)],
        [(user, scheme or "-", line, problem or "-") for user, scheme, problem, line in rows],
    )
    return None


@account.command()
@click.argument("where")
@click.argument("user")
@click.option("--stdin", is_flag=True, help="Read the password from the first line of standard input.")
@with_json
@speaking
def verify(speaker: Speaker, where: str, user: str, stdin: bool) -> None:
    """Say whether a password is right for USER: exit status 0, or 1."""
    target = find_target(speaker, where)
    with telling(speaker):
        entry = reading(target.path, target.case_sensitive).find(user)
        password = saslprep(old_password(speaker, stdin))
        stored = understood(entry, target.allow_plaintext, target.case_sensitive)[1] if entry is not None else None
    is_right = stored is not None and stored.is_right(password.encode())
    if speaker.as_json:
        speaker.out.json({"user": entry.name if entry is not None else user, "verified": is_right})
    elif is_right:
        speaker.out.line("the password is right")
    else:
        locked = stored is not None and stored.scheme == "locked"
        speaker.note(f"{user} is locked" if locked else "there is no such user with this password")
    sys.exit(0 if is_right else 1)


# ── What the commands share ──


def find_target(speaker: Speaker, where: str) -> Target:
    """The file that is meant. Raises Exit."""
    if "/" in where:
        return Target(Path(where))
    known: dict[str, Any] = {}
    try:
        configuration = find_configuration(speaker.config, os.environ)
        with configuration.open("rb") as file:
            said = tomllib.load(file).get("accounts")
        known = said if isinstance(said, dict) else {}
    except NoConfiguration:
        configuration = None
    except (OSError, ValueError) as problem:
        raise speaker.failed("configuration", f"{configuration}: {getattr(problem, 'strerror', None) or problem}") from None
    table = known.get(where)
    if isinstance(table, dict) and configuration is not None:
        if table.get("type") != "password-file" or not isinstance(table.get("path"), str):
            raise speaker.failed("bad-request", f'[accounts.{where}] in {configuration} is no "password-file" with a path')
        path = configuration.absolute().parent / table["path"]
        return Target(path, where, table.get("case_sensitive") is True, table.get("allow_plaintext") is True)
    if Path(where).exists():
        return Target(Path(where))
    there = f"no [accounts.{where}] in {configuration}{nearest(where, known)}" if configuration else f"no configuration to find {where} in"
    raise speaker.failed("bad-request", f"there is {there}; if a file is meant, write ./{where}")


@contextmanager
def telling(speaker: Speaker) -> Iterator[None]:
    """What may go wrong with files and passwords, as texts and exit statuses."""
    try:
        yield
    except OSError as problem:
        raise speaker.failed("unavailable", f"{problem.filename}: {problem.strerror}") from None
    except CannotWrite as problem:
        raise speaker.failed("unavailable", problem) from None
    except ValueError as problem:
        raise speaker.failed("bad-request", problem) from None


def checked_name(speaker: Speaker, user: str) -> str:
    """A name that a file can hold. Raises Exit."""
    with telling(speaker):
        name = saslprep(user)
        if not name or ":" in name or name.startswith("#") or name != name.strip() or len(name.encode()) > _MOST_NAME:
            raise ValueError(f'a user\'s name has 1 to {_MOST_NAME} octets, no colon, no "#" in front, and no spaces around it')
    return name


def existing(speaker: Speaker, page: Page, target: Target, user: str) -> Entry:
    """The user's line. Raises Exit."""
    entry = page.find(user)
    if entry is None:
        known = [one.name for one in page.entries]
        raise speaker.failed("not-found", f"there is no {user} in {target.path}{nearest(user, known)}")
    return entry


def new_password(speaker: Speaker, stdin: bool, generate: bool) -> str:
    """From where the options say. Raises Exit, ValueError."""
    if stdin and generate:
        raise click.UsageError("--stdin and --generate cannot be combined")
    if generate:
        return "-".join("".join(secrets.choice(_LETTERS) for _ in range(5)) for _ in range(4))  # 100 bits
    return old_password(speaker, stdin, twice=True)


def old_password(speaker: Speaker, stdin: bool, twice: bool = False) -> str:
    """From standard input or the terminal. Raises Exit, ValueError."""
    if stdin:
        octets = sys.stdin.buffer.readline(_MOST_OCTETS + 3).removesuffix(b"\n").removesuffix(b"\r")
        if len(octets) > _MOST_OCTETS:
            raise ValueError(f"the password is longer than {_MOST_OCTETS} octets")
        try:
            return octets.decode()
        except UnicodeDecodeError:
            raise ValueError("the password is not UTF-8") from None
    if not sys.stdin.isatty():
        raise speaker.failed("bad-request", "standard input is no terminal to ask for a password: say --stdin")
    text: str = click.prompt("Password", hide_input=True, confirmation_prompt="Again" if twice else False, err=True)
    return text


def made(speaker: Speaker, target: Target, scheme: str, password: str) -> str:
    """The password field. Raises Exit, ValueError."""
    if scheme == "plain" and not target.allow_plaintext:
        raise speaker.failed("bad-request", f"[accounts.{target.name}] does not say allow_plaintext = true")
    return make(scheme, password)


def _kept(entry: Entry, target: Target) -> tuple[str, str]:
    """The scheme of an account, and what is wrong with it."""
    try:
        return understood(entry, target.allow_plaintext, target.case_sensitive)[1].scheme, ""
    except ValueError as problem:
        return "", str(problem).removeprefix(f"{entry.name}: ")


def scheme_of(entry: Entry, target: Target) -> str:
    """How a password is kept; empty where that cannot be said."""
    return _kept(entry, target)[0]


def usual_scheme(page: Page, target: Target) -> str:
    """That of most accounts in the file, unless it keeps them in clear or cannot be made any more."""
    counts = Counter(scheme_of(entry, target) for entry in page.entries)
    counts.pop("", None)
    counts.pop("locked", None)
    [(most, _)] = counts.most_common(1) or [(_DEFAULT, 0)]
    return most if most in MADE and most != "plain" else _DEFAULT


def warn_about_scram(speaker: Speaker, page: Page, scheme: str) -> None:
    """SCRAM is for all or for nobody."""
    before = {scheme_of(entry, Target(Path())) for entry in page.entries} - {"", "locked"}
    if len(before) == 1 and before <= _SCRAM and scheme not in before:
        speaker.note(f"{before.pop().upper()} is offered only while all accounts are kept so, and from now on they are not")


def warn_about_others(speaker: Speaker, page: Page, target: Target) -> None:
    """With one line that cannot be used, a file is not taken up: who was removed can still log in, who was added cannot."""
    for entry in page.entries:
        problem = _kept(entry, target)[1]
        if problem:
            speaker.note(f"{target.path}:{entry.number}: {problem}; until that is mended, a running gateway keeps the accounts it has")


def tell(speaker: Speaker, text: str, user: str, scheme: str = "", password: str | None = None) -> None:
    """Say what was done; a password that was made goes to standard output alone."""
    if speaker.as_json:
        answer = {"user": user, "scheme": scheme, "password": password}
        return speaker.out.json({key: value for key, value in answer.items() if value})
    if password is None:
        return speaker.out.line(text)
    speaker.note(text)
    speaker.out.line(password)
    return None
