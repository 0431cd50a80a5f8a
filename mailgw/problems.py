"""What is wrong with a configuration, and where: collected, so that one run reports all of it."""

from collections.abc import Callable, Collection, Iterable
from difflib import get_close_matches
from typing import Any, Literal, TypeAlias

from attrs import define, field, frozen

__all__ = ["BadConfiguration", "Place", "Problem", "Report", "nearest", "spell"]

Place: TypeAlias = tuple[str | int, ...]
"""Where in a configuration: ``("listen", "mx", "policies", 1)`` is the second item of ``policies`` in ``[listen.mx]``."""


@frozen
class Problem:
    """Something wrong with a configuration, and where: ``etc/mailgw.toml:41: [listen.mx] has no key "tls_cret"; ...``."""

    source: str
    line: int  # 0: not known
    text: str
    severity: Literal["error", "warning"] = "error"
    detail: str = ""  # a traceback, for a component that cannot be imported

    def __str__(self) -> str:
        where = f"{self.source}:{self.line}: " if self.line else f"{self.source}: " if self.source else ""
        warning = "warning: " if self.severity == "warning" else ""
        detail = f"\n{self.detail.rstrip()}" if self.detail else ""
        return f"{where}{warning}{self.text}{detail}"


class BadConfiguration(Exception):
    """A configuration that mailgw does not start with: all its problems, by line; ``str()`` gives one line for each.

    ``rest`` is what could be understood all the same (a `mailgw.config.model.Configuration`), or None: it serves to find more
    problems in the same run.
    """

    def __init__(self, problems: Iterable[Problem], rest: Any = None) -> None:
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda problem: problem.line))
        self.rest = rest
        super().__init__("\n".join(map(str, self.problems)))


@define
class Report:
    """Collects problems; ``locate`` gives the source and the line of a place."""

    locate: Callable[[Place], tuple[str, int]] = lambda _: ("", 0)
    problems: list[Problem] = field(factory=list)

    def error(self, at: Place, text: str, of: Place | None = None, detail: str = "") -> None:
        """An error about the key or table at a place; its name, or that of the place ``of``, is put before the text."""
        self.problems.append(Problem(*self.locate(at), f"{spell(at if of is None else of)}{text}", detail=detail))

    def warning(self, at: Place, text: str) -> None:
        """As `error`, for what does not stop a start."""
        self.problems.append(Problem(*self.locate(at), f"{spell(at)}{text}", "warning"))

    @property
    def errors(self) -> list[Problem]:
        """The problems that stop a start."""
        return [problem for problem in self.problems if problem.severity == "error"]


_NAMED = ("listen", "policy", "gateway", "tls", "accounts")  # [table.NAME]
_LISTED = ("permit", "route", "case")  # [[table]]


def spell(at: Place) -> str:
    """Name a place as an administrator would, ready to be followed by a text: ``[listen.mx] policies, item 2: ``."""
    if not at:
        return ""
    if at[0] in _LISTED:
        table, keys = f"[[{at[0]}]]", at[2:]
    elif at[0] in _NAMED and len(at) > 1:
        table, keys = f"[{at[0]}.{at[1]}]", at[2:]
    else:
        table, keys = f"[{at[0]}]", at[1:]
    names = ", ".join(f"item {key + 1}" if isinstance(key, int) else key for key in keys)
    return f"{table} {names}: " if names else f"{table} "


def nearest(name: str, known: Collection[str], otherwise: str = "") -> str:
    """``; did you mean "x"?`` where something known is near, or ``otherwise``."""
    near = get_close_matches(name, sorted(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else otherwise
