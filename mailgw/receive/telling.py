"""What a conversation tells the decision record: one story for each refusal, and one at the end of each transaction."""

from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from mailgw.receive.transaction import Findings, Transaction
from mailgw.values.facts import ClientFacts
from mailgw.values.record import Record
from mailgw.values.reply import Reply

__all__ = ["Ruling", "Teller"]


@frozen
class Ruling:
    """Who decided, what the client hears, why for us, and the name under which it can be asked about ("": under none)."""

    by: str
    reply: Reply
    why: str = ""
    ref: str = ""


@frozen
class Teller:
    """Tells it to ``record``. Without one nothing is told; without ``reference`` refusals have no names."""

    clock: IReactorTime
    record: Callable[[Record], None] | None = None
    reference: Callable[[], str] | None = None

    def named(self, by: str, reply: Reply, why: str = "") -> Ruling:
        """A refusal that a policy or rule decided, so that it can be asked about: the client hears its name."""
        if self.reference is None:
            return Ruling(by, reply, why)
        ref = self.reference()
        return Ruling(by, reply.referring(ref), why, ref)

    def at_greeting(self, client: ClientFacts, findings: Findings, refusal: Ruling) -> None:
        """A client was refused before the greeting."""
        if self.record is not None:
            reply, by, why, ref = refusal.reply, refusal.by, refusal.why, refusal.ref
            self.record(Record(self.clock.seconds(), client, "refused", "connect", 0, reply, by, why, ref, opinions=findings.trail))

    def of_recipient(self, client: ClientFacts, transaction: Transaction, refusal: Ruling) -> None:
        """The recipient of the last RCPT command was refused; the transaction goes on."""
        if self.record is not None:
            recipient = transaction.ways[-1].recipient
            opinions = [one for one in transaction.findings.trail if one.recipient in ("", recipient)]
            self._tell(client, "refused", "rcpt", transaction, refusal, None, None, transaction.ways[-1:], opinions)

    def at_end(
        self,
        client: ClientFacts,
        outcome: Literal["accepted", "held", "discarded", "refused", "abandoned"],
        stage: str,
        transaction: Transaction,
        refusal: Ruling | None = None,
        message: int | None = None,
        size: int | None = None,
    ) -> None:
        """A transaction is over; only the first end is told."""
        if self.record is not None and not transaction.is_told:
            transaction.is_told = True
            self._tell(client, outcome, stage, transaction, refusal, message, size, transaction.ways, transaction.findings.trail)

    def _tell(
        self,
        client: ClientFacts,
        outcome: Literal["accepted", "held", "discarded", "refused", "abandoned"],
        stage: str,
        transaction: Transaction,
        refusal: Ruling | None,
        message: int | None,
        size: int | None,
        ways: Sequence[object],
        opinions: Sequence[object],
    ) -> None:
        assert self.record is not None
        mail = transaction.mail
        by, reply, why, ref = (refusal.by, refusal.reply, refusal.why, refusal.ref) if refusal else ("", None, "", "")
        now = self.clock.seconds()
        size = mail.size if size is None else size
        sender = mail.sender
        self.record(
            Record(now, client, outcome, stage, transaction.count, reply, by, why, ref, sender, size, message, ways, opinions)  # type: ignore[arg-type]
        )
