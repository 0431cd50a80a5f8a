"""A route by a table in a text file, read again when the file changes."""

from pathlib import Path

from attrs import define, field, frozen
from zope.interface import implementer

from mailgw.interfaces import IRoute
from mailgw.routes.patterns import candidates, tidy_pattern
from mailgw.values.delivery import Route
from mailgw.values.facts import RecipientFacts

__all__ = ["BadTable", "ByTable", "parse_table"]


class BadTable(ValueError):
    """A table that cannot be read; each line of the message is one error, ``file:line: reason``."""


def parse_table(text: str, name: str) -> dict[str, Route]:
    """Read lines of ``pattern gateway`` or ``pattern gateway:next-hop``; ``#`` begins a comment. Raises BadTable.

    The pattern is ``user@example.org``, ``example.org`` (or ``@example.org``), or ``.example.org`` for all subdomains; a
    recipient belongs to the most exact one. ``name`` is the file's name for the errors.
    """
    routes: dict[str, Route] = {}
    errors: list[str] = []
    for number, line in enumerate(text.splitlines(), 1):
        # Only a word of its own begins a comment: "#" is allowed in a local-part (RFC 5321 §4.1.2, atext).
        words = line.split()
        words = words[: next((i for i, word in enumerate(words) if word.startswith("#")), None)]
        if not words:
            continue
        where = f"{name}:{number}"
        if len(words) != 2:
            errors.append(f"{where}: expected 'pattern gateway' or 'pattern gateway:next-hop'")
            continue
        gateway, _, next_hop = words[1].partition(":")
        try:
            pattern = tidy_pattern(words[0])
        except ValueError as problem:
            errors.append(f"{where}: {problem}")
            continue
        if not gateway:
            errors.append(f"{where}: gateway is missing")
        elif pattern in routes:
            errors.append(f"{where}: {words[0]!r} is here twice")
        else:
            routes[pattern] = Route(gateway, next_hop, f"{where} {words[0]}")
    if errors:
        raise BadTable("\n".join(errors))
    return routes


@define
class _Known:
    """What was read last, and from which state of the file."""

    seen: tuple[int, int, int] = (0, 0, 0)  # inode, mtime in ns, size
    routes: dict[str, Route] = field(factory=dict)
    problem: str = ""


@implementer(IRoute)
@frozen
class ByTable:
    """Recipients in a table (see `parse_table`), read again when the file changes: replace it by renaming, in one step.

    Raises BadTable or OSError when made, and also when asked while a changed file is broken: mail is deferred then, not sent
    astray by half a table.
    """

    path: Path = field(converter=Path)
    _known: _Known = field(init=False, repr=False, eq=False, factory=_Known)

    def __attrs_post_init__(self) -> None:
        self._refresh()

    def gateways(self) -> frozenset[str]:
        """The names of all gateways in the table, so that unknown ones can be found before mail needs them. Raises BadTable, OSError."""
        self._refresh()
        return frozenset(route.gateway for route in self._known.routes.values())

    def route(self, facts: RecipientFacts) -> Route | None:
        self._refresh()
        routes = self._known.routes
        for candidate in candidates(facts.recipient):
            route = routes.get(candidate)
            if route is not None:
                return route
        return None

    def _refresh(self) -> None:
        known = self._known
        status = self.path.stat()
        seen = (status.st_ino, status.st_mtime_ns, status.st_size)
        if seen != known.seen:
            known.problem = ""
            try:
                known.routes = parse_table(self.path.read_text("utf-8"), str(self.path))
            except UnicodeDecodeError as problem:
                known.problem = f"{self.path}: is not UTF-8 text: {problem.reason}"
            except BadTable as problem:
                known.problem = str(problem)
            known.seen = seen
        if known.problem:
            raise BadTable(known.problem)
