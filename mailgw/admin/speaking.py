"""What all commands share: where the daemon is, how to ask it, how to answer the operator, how to fail."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import define

from mailgw.admin import whereabouts
from mailgw.admin.client import Daemon, NoAnswer, NotRunning, Refused
from mailgw.admin.offline import StoreReader
from mailgw.admin.reading import Refusal
from mailgw.admin.tables import Printer

__all__ = ["Ask", "Speaker"]

Ask = Callable[..., dict[str, Any]]
CODES = {"not-found": 1, "bad-request": 2, "configuration": 2}  # others: 3


@define
class Speaker:
    """One call of the command."""

    config: Path | None = None
    socket: Path | None = None
    as_json: bool = False

    @property
    def out(self) -> Printer:
        """Where answers go."""
        return Printer.of(sys.stdout)

    def note(self, text: str) -> None:
        """Say something beside the answer, on standard error."""
        Printer.of(sys.stderr).line(f"mailgw: {text}")

    def failed(self, kind: str, text: object) -> click.exceptions.Exit:
        """Say that it failed: as text on standard error, or as ``{"error": {"kind", "text"}}`` on standard output.

        What is given back must be raised; it carries the exit status.
        """
        if self.as_json:
            self.out.json({"error": {"kind": kind, "text": str(text)}})
        else:
            self.note(str(text))
        return click.exceptions.Exit(CODES.get(kind, 3))

    def where(self) -> whereabouts.Whereabouts:
        """Where the daemon is. Raises Exit."""
        try:
            return whereabouts.find(self.config, self.socket, os.environ)
        except whereabouts.NoConfiguration as problem:
            raise self.failed("configuration", problem) from None

    def order(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Ask the running daemon, which alone can do it. Raises Exit."""
        place = self.where()
        with self._telling():
            try:
                daemon = Daemon(place.socket)
            except NotRunning as problem:
                raise self.failed("not-running", f"mailgw is not running ({problem}); this needs the running daemon") from None
            with daemon:
                return daemon.ask(operation, **arguments)

    @contextmanager
    def reading(self) -> Iterator[tuple[Ask, str]]:
        """How to ask the reading operations, and who answers: "daemon", or "store" while it is not running. Raises Exit."""
        place = self.where()
        with self._telling():
            try:
                daemon = Daemon(place.socket)
            except NotRunning as problem:
                if place.state is None:
                    raise self.failed("not-running", f"mailgw is not running ({problem}), and its state folder is not known") from None
                with StoreReader(place.state) as store:
                    self.note(f"mailgw is not running; reading {place.state} directly")
                    yield store.ask, "store"
                return
            with daemon:
                yield daemon.ask, "daemon"

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except NoAnswer as problem:
            raise self.failed("no-answer", f"mailgw cannot be reached: {problem}") from None
        except (Refused, Refusal) as problem:
            raise self.failed(problem.kind, problem) from None
