"""The life events of a message, with one id from connect to last delivery.

The id of a session is a short random word; all that happens to its messages carries it, so that one search in the log
finds the whole story.
"""

from collections.abc import Sequence
from typing import Any

from attrs import define, field, frozen

from mailgw.interfaces import IObserver
from mailgw.values.address import Address
from mailgw.values.delivery import Recipient
from mailgw.values.reply import Reply

__all__ = [
    "Accepted",
    "BanLifted",
    "Banned",
    "Bounced",
    "Connected",
    "Delayed",
    "Delivered",
    "Discarded",
    "Disconnected",
    "Failed",
    "Fault",
    "Held",
    "Introduced",
    "Journal",
    "LoggedIn",
    "LoginFailed",
    "Ordered",
    "Posted",
    "Refused",
]


@frozen
class Connected:
    """A client connected to a listener."""

    session: str
    listener: str
    client: str  # "192.0.2.1:40000"


@frozen
class Introduced:
    """A trusted proxy said for which client it speaks (XCLIENT)."""

    session: str
    client: str  # "192.0.2.1:40000"
    login: str


@frozen
class LoggedIn:
    """A client has proved who it is."""

    session: str
    client: str  # "192.0.2.1"
    mechanism: str
    login: str
    listener: str


@frozen
class LoginFailed:
    """An attempt to log in that came to nothing, unless the client itself gave it up. No proof is ever in it."""

    session: str
    client: str  # "192.0.2.1"
    account: str  # the name that the client gave; empty: none was understood
    mechanism: str
    listener: str
    reason: str  # for us, not for the peer


@frozen
class Banned:
    """A network has failed to log in too often: for a while it may not try."""

    session: str
    client: str  # "192.0.2.1"
    network: str  # "192.0.2.1/32"
    failures: int
    seconds: float


@frozen
class BanLifted:
    """An operator let a banned network try again."""

    session: str
    network: str


@frozen
class Disconnected:
    """A session is over."""

    session: str
    why: str  # "quit", "lost", "time-out", ...
    messages: int  # accepted


@frozen
class Refused:
    """A client heard 4yz or 5yz that is worth knowing: from a policy, the relay rule, a route, the store."""

    session: str
    stage: str  # "connect", "mail", "rcpt", "data", ...
    reply: Reply
    by: str  # the name of the policy, or the rule
    sender: str = ""
    recipient: str = ""
    why: str = ""  # for us, not for the peer
    ref: str = ""  # under which the decision record knows it


@frozen
class Accepted:
    """A message is committed: 250 will be said."""

    session: str
    message: int
    sender: Address
    recipients: Sequence[Recipient]
    size: int  # octets


@frozen
class Held:
    """A message was accepted and put on hold."""

    session: str
    message: int
    by: str
    why: str


@frozen
class Discarded:
    """A client heard 250 for something that a policy threw away."""

    session: str
    sender: str
    recipients: Sequence[str]
    by: str
    why: str


@frozen
class Delivered:
    """A recipient's message went into other hands."""

    session: str
    message: int
    recipient: str
    gateway: str
    peer: str
    reply: Reply
    seconds: float  # since its arrival


@frozen
class Delayed:
    """An attempt did not succeed; there will be another."""

    session: str
    message: int
    recipient: str
    gateway: str
    peer: str
    reply: Reply
    next_attempt: float  # seconds from now


@frozen
class Failed:
    """A recipient is given up."""

    session: str
    message: int
    recipient: str
    gateway: str
    peer: str
    reply: Reply


@frozen
class Bounced:
    """A DSN was queued."""

    session: str
    message: int  # the message it is about
    dsn: int  # the DSN's own queue number
    action: str  # "failed", "delayed", "delivered", "relayed", "expanded"
    to: str


@frozen
class Posted:
    """A notice of our own making was queued."""

    session: str
    message: int
    recipient: str
    subject: str


@frozen
class Ordered:
    """An operator told the queue something."""

    order: str
    selection: str
    recipients: int


@frozen
class Fault:
    """Something of ours or a plugin's did not work."""

    session: str
    component: str  # its name in the configuration
    problem: str
    traceback: str = ""


@define
class Journal:
    """Hands each event to every observer; what an observer raises is noted once and never reaches the mail."""

    observers: tuple[IObserver, ...] = ()
    _broken: set[int] = field(factory=set, init=False)

    def note(self, event: Any) -> None:
        """Tell all observers."""
        for observer in self.observers:
            try:
                observer.note(event)
            except BaseException as problem:  # an observer is a plugin: its fault must not cost mail
                if id(observer) not in self._broken:
                    self._broken.add(id(observer))
                    self.note(Fault("", type(observer).__name__, f"observer failed: {problem!r}"))
