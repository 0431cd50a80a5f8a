"""How a worker is started: by the same Python and twistd as its parent, with the same reactor and a log that leads to the same place."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import frozen
from twisted.python.reflect import qual

__all__ = ["CROWD", "TRANSCRIPT", "Command"]

CROWD = "crowd"
"""What the descriptor of `mailgw.sharing.Crowd` is called among the sockets; names of those have a space."""

TRANSCRIPT = "transcript"
"""What that of `mailgw.workers.transcript` is called."""

_TWISTD = ("-P", "-c", "from twisted.scripts.twistd import run; run()")  # -P: no module is looked for where we happen to be
_FIRST = 3  # the first descriptor that is not for standard input and output


@frozen
class Command:
    """Everything that is the same for all workers."""

    twistd: Mapping[str, Any]  # the parent's options
    configuration: Path
    more: tuple[str, ...] = ()  # options of ours

    @property
    def logs_to_us(self) -> bool:
        """Whether its log comes to the parent through a pipe, because only one process can keep and rotate a file."""
        return not self.twistd.get("syslog") and not self.twistd.get("logger") and not self._is_on_stdout

    @property
    def _is_on_stdout(self) -> bool:
        return bool(self.twistd.get("nodaemon")) and self.twistd.get("logfile") in (None, "", "-")

    @property
    def has_terminal(self) -> bool:
        """Whether somebody may read the parent's standard error output."""
        return bool(self.twistd.get("nodaemon"))

    def words(self, number: int, handed: Mapping[str, int]) -> list[str]:
        """The program and its arguments; ``handed``: descriptors in the worker, by name."""
        words = [sys.executable, *_TWISTD, "--nodaemon", "--pidfile="]
        if self.twistd.get("syslog"):
            words += ["--syslog", "--prefix", f"{self.twistd.get('prefix') or 'mailgw'}-{number}"]
        elif self.twistd.get("logger"):
            words += ["--logger", qual(self.twistd["logger"])]
        else:
            words += ["--logfile", "-"]
        if self.twistd.get("reactor"):
            words += ["--reactor", self.twistd["reactor"]]
        words += ["mailgw", "--config", str(self.configuration), "--worker", str(number), "--handed", json.dumps(handed)]
        return [*words, *self.more]

    def descriptors(self, handed: Mapping[str, int]) -> tuple[dict[int, Any], dict[str, int]]:
        """What `spawnProcess` wants as ``childFDs``, and the worker's descriptors by name.

        ``handed``: the parent's by name; that of a listening socket is its `socket_name`, others are `CROWD` and `TRANSCRIPT`.
        """
        files: dict[int, Any] = {0: "w", 1: "r" if self.logs_to_us else 1, 2: 2 if self.has_terminal else "r"}
        names: dict[str, int] = {}
        for number, (name, descriptor) in enumerate(handed.items(), _FIRST):
            files[number], names[name] = descriptor, number
        return files, names
