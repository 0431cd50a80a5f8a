"""Processes on this machine: starting them, ending them, and what they cost. Linux only (/proc)."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

__all__ = ["ProcessTree"]

_TICKS = os.sysconf("SC_CLK_TCK")  # a second; CPU is told in these steps
_PATIENCE = 30.0  # seconds until something that must happen counts as not happening
_CALM = 0.3  # seconds without noticeable use of CPU, after which a server counts as done


class ProcessTree:
    """A command and all its children; a context manager that leaves none of them behind."""

    def __init__(self, command: Sequence[object], folder: Path) -> None:
        """Start it in ``folder``, where its output goes to the file "output"."""
        self.output = folder / "output"
        self.began = time.monotonic()
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # the terminal's signals are for us; we end it
            )

    def wait_for_greeting(self, port: int) -> float:
        """Wait until the server says 220; give the seconds since the start. Raises RuntimeError."""
        while time.monotonic() < self.began + _PATIENCE:
            if self.process.poll() is not None:
                break
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE) as connection:
                if connection.recv(3) == b"220":
                    return time.monotonic() - self.began
            time.sleep(0.005)
        raise RuntimeError(f"no greeting from {self.process.args!r}: {self.output.read_text(errors='replace')}")

    def pids(self) -> list[int]:
        """The process and its descendants."""
        children: dict[int, list[int]] = {}
        for pid in [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]:
            with suppress(OSError):
                children.setdefault(int(_stat(pid)[1]), []).append(pid)
        pids = [self.process.pid]
        for pid in pids:
            pids.extend(children.get(pid, []))
        return pids

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that all of it has used, with children that have ended and were waited for."""
        ticks = 0
        for pid in self.pids():
            with suppress(OSError):
                ticks += sum(int(word) for word in _stat(pid)[11:15])  # utime stime cutime cstime
        return ticks / _TICKS

    def wait_until_calm(self) -> None:
        """Wait until it has nothing to do: what it does after its last reply belongs to the bill. Raises RuntimeError."""
        end = time.monotonic() + _PATIENCE * 4
        used, since = self.cpu(), time.monotonic()
        while time.monotonic() - since < _CALM:
            time.sleep(0.05)
            now = self.cpu()
            if now - used > 1.5 / _TICKS:
                used, since = now, time.monotonic()
            if time.monotonic() > end:
                raise RuntimeError(f"{self.process.args!r} does not come to rest")

    def peak_memory(self) -> int:
        """The sum of the largest resident sizes (octets) of all its living processes; shared pages count in each."""
        return self._sum_of("VmHWM:")

    def memory(self) -> int:
        """The sum of the resident sizes (octets) of all its processes at this moment."""
        return self._sum_of("VmRSS:")

    def _sum_of(self, label: str) -> int:
        size = 0
        for pid in self.pids():
            with suppress(OSError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                size += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(label))
        return size

    def __enter__(self) -> "ProcessTree":
        return self

    def __exit__(self, *_: object) -> None:
        # All of them, for one of them may have left the others behind (Postfix's master runs in a session of its own).
        living = [_Identity.of(pid) for pid in self.pids()]
        for one in living:
            one.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(_PATIENCE)
        end = time.monotonic() + _PATIENCE / 10
        while any(one.is_alive() for one in living) and time.monotonic() < end:
            time.sleep(0.01)
        for one in living:
            one.send(signal.SIGKILL)
        self.process.wait()


class _Identity(NamedTuple):
    """A process that no later one with the same number is taken for."""

    pid: int
    started: str  # clock ticks since boot; empty if it had ended already

    @classmethod
    def of(cls, pid: int) -> "_Identity":
        with suppress(OSError):
            return cls(pid, _stat(pid)[19])
        return cls(pid, "")

    def is_alive(self) -> bool:
        with suppress(OSError):
            stat = _stat(self.pid)
            return stat[0] != "Z" and stat[19] == self.started
        return False

    def send(self, number: signal.Signals) -> None:
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)


def _stat(pid: int) -> list[str]:
    # The name, in parentheses, may hold anything; what follows it begins with the state and the parent.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
