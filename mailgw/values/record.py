"""The decision record: who was asked about a session or transaction, what each one said and on what grounds, and what the client heard."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from mailgw.values.address import Address
from mailgw.values.decision import Decision
from mailgw.values.facts import ClientFacts
from mailgw.values.reply import Reply

__all__ = ["Opinion", "Record", "Way"]


class Opinion(NamedTuple):
    """What one policy or permit rule said when it was asked."""

    policy: str  # "spf", as in [policy.spf]; 'permit to "@ours"'
    where: str  # "etc/mailgw.toml:57"
    stage: str  # "connect", "mail", "relay", "rcpt", "data"
    decision: Decision
    seconds: float  # it took
    observed: bool = False  # it was asked in mode "observe": nobody acted on what it said
    recipient: str = ""  # about whom, at "relay" and "rcpt"
    fault: str = ""  # what went wrong, where the decision is not its own but that of ``on_error``


class Way(NamedTuple):
    """What became of one RCPT command."""

    recipient: str
    reply: Reply
    permit: str = ""  # the rule that opened the relay
    permit_where: str = ""
    why: str = ""  # of the permission
    route: str = ""  # the rule that found the way
    route_where: str = ""
    gateway: str = ""
    next_hop: str = ""
    ref: str = ""  # what the client heard, where it was refused


class Record(NamedTuple):
    """One story: of a refused connection, of a refused command, or of a whole transaction at its end."""

    time: float  # POSIX seconds
    client: ClientFacts
    outcome: Literal["accepted", "held", "discarded", "refused", "abandoned"]
    stage: str  # where it ended: "connect", "auth", "mail", "rcpt", "data"
    transaction: int = 0  # number in the session, from 1; 0: none
    reply: Reply | None = None
    by: str = ""  # the policy or rule that refused, held or discarded
    why: str = ""  # for us, not for the peer
    ref: str = ""  # "7QK3M", as the client heard it
    sender: Address | None = None
    size: int | None = None  # octets
    message: int | None = None  # queue number
    ways: Sequence[Way] = ()  # each recipient, in order
    opinions: Sequence[Opinion] = ()  # in the order of asking
