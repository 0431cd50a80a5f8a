"""The table behind EXPN (RFC 5321 §3.5.2): ``name: address, address`` on each line, ``#`` for comments."""

from collections.abc import Mapping
from pathlib import Path

from mailgw.values.address import Address, BadAddress

__all__ = ["read_aliases"]


def read_aliases(path: Path) -> Mapping[str, tuple[Address, ...]]:
    """The members of each list or alias, by its name in lower case. Raises OSError, and ValueError with file and line."""
    table: dict[str, tuple[Address, ...]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
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
