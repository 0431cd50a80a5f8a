"""Where mail is handed to, and that nobody could be reached there."""

from attrs import frozen

from mailgw.values.reply import Reply

__all__ = ["NextHop", "NotReached"]


@frozen
class NextHop:
    """One address of one server."""

    where: str  # as `IDialer.dial` wants it
    name: str  # the server's name, which its certificate must have
    peer: str = ""  # how outcomes call it; empty: by its name

    @property
    def label(self) -> str:
        """How outcomes call it."""
        return self.peer or self.name


class NotReached(Exception):
    """No session could be had; ``reply`` is what the server or we say about it."""

    def __init__(self, reply: Reply, handshake_failed: bool = False, login_refused: bool = False, heard: bool = False) -> None:
        super().__init__(str(reply))
        self.reply = reply
        self.handshake_failed = handshake_failed
        self.heard = heard  # it is the server's own word
        self.login_refused = login_refused  # for good: what we showed is wrong
