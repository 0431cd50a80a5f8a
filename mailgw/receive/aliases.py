"""The table behind EXPN (RFC 5321 §3.5.2): ``name: address, address`` on each line, ``#`` for comments."""

from collections.abc import Mapping
from pathlib import Path

from mailgw.problems import Report
from mailgw.values.address import Address, BadAddress

__all__ = ["aliases_of", "read_aliases"]


def aliases_of(listeners: Mapping[str, Path | None], report: Report) -> dict[str, Mapping[str, tuple[Address, ...]]]:
    """The table of each listener that has one; what cannot be read is reported."""
    found = {}
    for name, path in listeners.items():
        if path is not None:
            try:
                found[name] = read_aliases(path)
            except OSError as problem:
                report.error(("listen", name, "aliases"), f"{path}: {problem.strerror or problem}")
            except ValueError as problem:
                report.error(("listen", name, "aliases"), str(problem))
    return found


def read_aliases(path: Path) -> Mapping[str, tuple[Address, ...]]:
    """The members of each list or alias, by its name in lower case. Raises OSError, and ValueError with file and line."""
    table: dict[str, tuple[Address, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if not text:
            continue
        name, colon, members = text.partition(":")
        try:
            if not (colon and name.strip() and members.strip()):
                raise BadAddress("write it as name: address, address")
            table[name.strip().lower()] = tuple(Address.parse(member.strip()) for member in members.split(","))
        except BadAddress as problem:
            raise ValueError(f"{path}:{number}: {problem}") from None
    return table
