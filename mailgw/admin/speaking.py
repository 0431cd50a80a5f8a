"""What all commands share: where the daemon is, how to ask it, how to answer the operator, how to fail."""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from attrs import Factory, define

from mailgw.admin import whereabouts
from mailgw.admin.client import Daemon, NoAnswer, NotRunning, Refused
from mailgw.admin.offline import PlanReader, StoreReader
from mailgw.admin.reading import Refusal
from mailgw.admin.tables import Printer
from mailgw.problems import BadConfiguration

__all__ = ["Ask", "Speaker"]

Ask = Callable[..., dict[str, Any]]
CODES = {"not-found": 1, "bad-request": 2, "configuration": 2}  # others: 3


@define
class Speaker:
    """One call of the command."""

    config: Path | None = None
    socket: Path | None = None
    as_json: bool = False
    now: float = Factory(time.time)  # POSIX seconds: what ages are counted from

    @property
    def out(self) -> Printer:
        """Where answers go."""
        return Printer.of(sys.stdout)

    @property
    def err(self) -> Printer:
        """Where all else goes."""
        return Printer.of(sys.stderr)

    def note(self, text: str) -> None:
        """Say something beside the answer."""
        self.err.line(f"mailgw: {text}")

    def note_missing(self, answer: Mapping[str, Any]) -> None:
        """Say which parts of the queue an answer is not about."""
        for part in answer.get("missing", ()):
            self.note(f"part {part} of the queue cannot be reached now, this is about the rest")

    def failed(self, kind: str, text: object) -> click.exceptions.Exit:
        """Say that it failed: as text on standard error, or as ``{"error": {"kind", "text"}}`` on standard output.

        What is given back must be raised; it carries the exit status.
        """
        if self.as_json:
            self.out.json({"error": {"kind": kind, "text": str(text)}})
        else:
            for line in str(text).split("\n"):
                self.note(line)
        return click.exceptions.Exit(CODES.get(kind, 3))

    def configuration(self) -> Path:
        """The path of the configuration. Raises Exit."""
        try:
            return whereabouts.find_configuration(self.config, os.environ)
        except whereabouts.NoConfiguration as problem:
            raise self.failed("configuration", problem) from None

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

        def store(place: whereabouts.Whereabouts, why: NotRunning) -> StoreReader:
            if place.state is None:
                raise self.failed("not-running", f"mailgw is not running ({why}), and its state folder is not known")
            reader = StoreReader(place.state, self.now)
            self.note(f"mailgw is not running; reading {place.state} directly")
            return reader

        with self._daemon_or(store, "store") as asking:
            yield asking

    @contextmanager
    def routing(self) -> Iterator[tuple[Ask, str]]:
        """How to ask for a route, and who answers: "daemon", or "configuration" while it is not running. Raises Exit."""

        def configuration(place: whereabouts.Whereabouts, why: NotRunning) -> PlanReader:
            if place.configuration is None:
                raise self.failed("not-running", f"mailgw is not running ({why}), and there is no configuration to read instead")
            reader = PlanReader(place.configuration)
            self.note(f"mailgw is not running; reading {place.configuration} directly")
            return reader

        with self._daemon_or(configuration, "configuration") as asking:
            yield asking

    @contextmanager
    def _daemon_or(
        self, otherwise: Callable[[whereabouts.Whereabouts, NotRunning], StoreReader | PlanReader], source: str
    ) -> Iterator[tuple[Ask, str]]:
        place = self.where()
        with self._telling():
            other: Daemon | StoreReader | PlanReader
            try:
                other, source = Daemon(place.socket), "daemon"
            except NotRunning as problem:
                other = otherwise(place, problem)
            with other:
                yield other.ask, source

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except NoAnswer as problem:
            raise self.failed("no-answer", f"mailgw cannot be reached: {problem}") from None
        except (Refused, Refusal) as problem:
            raise self.failed(problem.kind, problem) from None
        except BadConfiguration as problem:
            raise self.failed("configuration", problem) from None
