"""A mail transaction as far as it has come, and what the policies found about it."""

from datetime import UTC, datetime

from attrs import field, mutable

from mailgw.receive.asking import Asked
from mailgw.receive.intake import Intake
from mailgw.senderauth.results import authentication_results
from mailgw.smtp.events import Mail
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import AuthResult, Decision, HeaderField, Verdict
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.facts import ClientFacts, ContentFacts
from mailgw.values.record import Opinion, Way

__all__ = ["Findings", "Transaction"]


_UNROUTED = Destination("", "")


@mutable
class Findings:
    """What policies that did not refuse had to say."""

    tags: frozenset[str] = frozenset()
    headers: tuple[HeaderField, ...] = ()
    results: tuple[AuthResult, ...] = ()
    hold: str = ""  # "policy: why" of a quarantine
    discard: str = ""  # "policy: why"
    trail: list[Opinion] = field(factory=list)  # who was asked, and what they said

    def copy(self) -> "Findings":
        """A transaction begins with what was found about the session."""
        return Findings(self.tags, self.headers, self.results, self.hold, self.discard, self.trail.copy())

    def keep_verdict(self, asked: Asked, decision: Decision) -> None:
        """Remember that it is to be held or thrown away; the first to say so is named."""
        text = f"{asked.name}: {decision.why}"
        if decision.verdict is Verdict.QUARANTINE:
            self.hold = self.hold or text
        elif decision.verdict is Verdict.DISCARD:
            self.discard = self.discard or text

    def keep_additions(self, decision: Decision) -> None:
        """Remember tags, results and header fields."""
        self.tags |= decision.tags
        self.headers += decision.headers
        self.results += decision.results

    def header(self, authserv_id: str) -> bytes:
        """The header fields to lay on top: above our own Received: field (RFC 8601 §4), one for all results first."""
        results = authentication_results(authserv_id, self.results) if self.results else ""
        return (results + "".join([f"{field.name}: {field.value}\r\n" for field in self.headers])).encode()


@mutable
class Transaction:
    """One MAIL command and what followed it."""

    mail: Mail
    number: str  # session id and count: the id in our Received: field
    count: int  # in the session, from 1
    findings: Findings
    recipients: list[tuple[Recipient, Destination]] = field(factory=list)
    routed_with: frozenset[str] = frozenset()  # the tags that the first recipient's route knew
    seen: set[Address] = field(factory=set)  # who heard 250
    repeated: int = 0  # RCPT commands for them
    ways: list[Way] = field(factory=list)  # what became of each RCPT command
    is_told: bool = False  # its end is in the decision record
    intake: Intake | None = None
    content_since: float = 0.0  # POSIX seconds
    disk_trouble: OSError | None = None

    def only_recipient(self) -> str:
        """The recipient's address if there is just one and the header may name it."""
        if len(self.seen) != 1 or not self.recipients:
            return ""
        address = str(self.recipients[0][0].address)
        return address if self.mail.smtputf8 or address.isascii() else ""

    def route_anew(self) -> None:
        """Leave it to the dispatcher to ask the routes again, where tags have come since they were asked."""
        if self.findings.tags != self.routed_with:
            self.recipients = [(recipient, _UNROUTED) for recipient, _ in self.recipients]

    def facts(self, client: ClientFacts, content: Content, now: float) -> ContentFacts:
        """What content policies are shown."""
        return ContentFacts(
            client=client,
            sender=self.mail.sender,
            recipients=tuple([recipient.address for recipient, _ in self.recipients]),
            content=content,
            arrived=datetime.fromtimestamp(now, UTC),
            tags=self.findings.tags,
            results=self.findings.results,
        )

    def envelope(self, client: ClientFacts, is_ascii: bool, now: float) -> Envelope:
        """What the queue keeps. A client that sends 8-bit text without saying so is taken at its deeds, not at its words."""
        mail = self.mail
        return Envelope(
            sender=mail.sender,
            arrived=now,
            body="8BITMIME" if mail.body == "7BIT" and not is_ascii else mail.body,
            smtputf8=mail.smtputf8,
            requiretls=mail.requiretls,
            ret=mail.ret,
            envid=mail.envid,
            session=client.session,
            listener=client.listener,
            client_ip=client.ip,
            helo=client.helo,
            login=client.login,
            tags=self.findings.tags,
        )
