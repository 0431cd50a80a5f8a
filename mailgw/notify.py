"""What the service manager is told about us: systemd's notification protocol (sd_notify(3)), one datagram for each news."""

import re
import socket
from collections.abc import Mapping

from attrs import frozen
from twisted.logger import Logger

__all__ = ["NOBODY", "ServiceManager", "Summary"]

_MOST_SECONDS = 1.0  # for which a full socket is waited for: who starts us reads, or everything stands still anyway

_log = Logger(namespace="mailgw.notify")


@frozen
class Summary:
    """How we are, in one line for ``systemctl status``."""

    listeners: int
    sessions: int
    leased: int  # recipients

    def __str__(self) -> str:
        return f"{self.listeners} listeners, {self.sessions} sessions, {self.leased} recipients in delivery"

    @classmethod
    def parse(cls, text: str) -> "Summary | None":
        """The summary that was written so, or None."""
        match = re.fullmatch(r"(\d+) listeners, (\d+) sessions, (\d+) recipients in delivery", text)
        return cls(*map(int, match.groups())) if match else None


@frozen
class ServiceManager:
    """Who started us and wants to know how we are; `NOBODY` where nobody does."""

    address: str = ""  # of a Unix datagram socket: a path, or "@name" in the abstract name space; empty: tell nobody
    watchdog: float = 0.0  # seconds within which we must say that we are well, again and again; 0: never

    @classmethod
    def of(cls, environment: Mapping[str, str], pid: int) -> "ServiceManager":
        """Read $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID, as sd_watchdog_enabled(3) has them; ``pid`` is ours."""
        address = environment.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) < 2:
            return NOBODY
        microseconds = environment.get("WATCHDOG_USEC", "")
        # A parent's watchdog is not ours.
        is_ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        return cls(address, int(microseconds) / 1e6 if is_ours and microseconds.isascii() and microseconds.isdigit() else 0.0)

    def tell(self, *news: str) -> None:
        """Send assignments in one datagram: ``tell("READY=1", "STATUS=3 listeners")``. What cannot be sent is logged."""
        if not self.address:
            return
        address = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        text = "\n".join(one.replace("\n", " ") for one in news)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(_MOST_SECONDS)
                sender.sendto(text.encode(), address)
        except OSError as problem:
            _log.warn("{address} did not take {text!r}: {problem}", address=self.address, text=text, problem=problem)


NOBODY = ServiceManager()
