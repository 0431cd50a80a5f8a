"""The story of a session, told in one coroutine: what the client says, who is asked about it, what it hears.

One file because it is one story, from the greeting to "queued as".
"""

from collections.abc import Awaitable, Callable
from typing import Any

from attrs import evolve

from mailgw.interfaces import StoreFull, StoreUnavailable
from mailgw.journal import Accepted, Connected, Discarded, Disconnected, Held, Introduced, Refused
from mailgw.receive.asking import Asked
from mailgw.receive.authentication import ExchangeEnded, authenticate
from mailgw.receive.disowning import EndlessHeader, disowned
from mailgw.receive.intake import NO_ROOM, Intake
from mailgw.receive.introduction import greeted, introduced, together
from mailgw.receive.reception import Gone, Reception, Wire
from mailgw.receive.telling import Ruling
from mailgw.receive.trace import from_and_by, hops, received, starts_folded
from mailgw.receive.transaction import Findings, Transaction
from mailgw.smtp.events import (
    Auth,
    AuthEnd,
    AuthResponse,
    Closing,
    Data,
    Event,
    Expand,
    Hello,
    Mail,
    Piece,
    Quit,
    Rcpt,
    Reset,
    StartTls,
    XClient,
)
from mailgw.smtp.sasl import Channel
from mailgw.smtp.server import ServerEngine
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import Verdict
from mailgw.values.delivery import Envelope
from mailgw.values.facts import ClientFacts, RecipientFacts, RefusalFacts, SenderFacts
from mailgw.values.record import Way
from mailgw.values.reply import Reply

__all__ = ["Conversation"]


_SENDER_OK = Reply(250, "2.1.0", "sender ok")
_RECIPIENT_OK = Reply(250, "2.1.5", "recipient ok")
_RESET = Reply(250, "2.0.0", "ok")
_HELLO = Reply(250, "", "hello")  # the engine puts its own words in
_BYE = Reply(221, "2.0.0", "bye")
_TLS = Reply(220, "2.0.0", "ready to start TLS")
_TOO_MANY_RECIPIENTS = Reply(452, "4.5.3", "too many recipients")
_TROUBLE = Reply(451, "4.3.0", "local problem, try again later")
_FULL = Reply(452, "4.3.1", "out of space, try again later")
_LOOP = Reply(554, "5.4.6", "too many hops: this message is going in circles")
_LONG_HEADER = Reply(554, "5.6.0", "header section is longer than 1 MiB")
_DISCARDED = Reply(250, "2.0.0", "ok")
_NO_ALIAS = Reply(550, "5.1.1", "no such list or alias")
_IDLE = Reply(421, "4.4.2", "waited too long")
_SHUTDOWN = Reply(421, "4.3.2", "shutting down")


class Conversation:
    """One session. `hold` it, and it ends with the connection."""

    def __init__(self, reception: Reception, wire: Wire, engine: ServerEngine, client: ClientFacts) -> None:
        """Make one for a client that has just connected."""
        self._reception = reception
        self._wire = wire
        self._engine = engine
        self._client = client
        self._from_and_by = ""  # of Received:, while it holds
        self._transaction: Transaction | None = None
        self._count = 0  # transactions
        self._accepted = 0  # messages
        self._refusals = 0
        self._findings = Findings()  # of client policies: they go with every transaction
        self._said: XClient | None = None
        self._since = reception.clock.seconds()  # the greeting or the last message

    async def hold(self) -> None:
        """Talk until the session is over. What is to be said last is left in the engine."""
        client, note = self._client, self._reception.journal.note
        note(Connected(client.session, client.listener, f"{client.ip}:{client.port}"))
        why = "fault"
        try:
            why = await self._talk()
        except Gone as gone:
            why = str(gone)
            if why == "time-out":
                self._engine.close(_IDLE)
            elif why == "shutdown":
                self._engine.close(_SHUTDOWN)
        finally:
            self._drop_transaction()
            note(Disconnected(client.session, why, self._accepted))

    async def _talk(self) -> str:
        wire, engine = self._wire, self._engine
        if not await self._greet():
            return "refused"
        while True:
            if wire.closing and self._transaction is None:
                raise Gone("shutdown")
            event = await self._next_event()
            if isinstance(event, Quit):
                engine.answer(_BYE)
                return "quit"
            await _HANDLERS[type(event)](self, event)

    async def _next_event(self) -> Event:
        wire, engine = self._wire, self._engine
        self._grant_time()
        event = engine.next_event()
        while event is None:
            answered = engine.lines
            await wire.more()
            event = engine.next_event()
            if event is None and (engine.in_content or engine.lines != answered):
                self._grant_time()
        if isinstance(event, Closing):
            self._note_refusal("session", Ruling("limits", event.reply))
            raise Gone("refused")
        return event

    @property
    def client(self) -> ClientFacts:
        """Who is there, as far as is known by now."""
        return self._client

    def clock_was_set(self, by: float) -> None:
        """Go on by a clock that was set forward, or back (less than nothing)."""
        self._since += by
        if self._transaction is not None:
            self._transaction.content_since += by

    def _grant_time(self) -> None:
        # For a whole command, or the next piece of content; octets of half a command earn nothing.
        reception, transaction = self._reception, self._transaction
        now = reception.clock.seconds()
        if transaction is not None and transaction.intake is not None:
            self._wire.until(min(now + reception.data_timeout, transaction.content_since + reception.message_timeout))
        elif not self._engine.in_content:  # a chunk that is refused has to come within the time of its command
            self._wire.until(min(now + reception.command_timeout, self._since + reception.session_timeout))

    def _drop_transaction(self) -> None:
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            if transaction.intake is not None:
                transaction.intake.discard()
            self._reception.teller.at_end(self._client, "abandoned", "data" if transaction.intake else "rcpt", transaction)

    def _note_refusal(self, stage: str, refusal: Ruling, recipient: str = "") -> None:
        sender = str(self._transaction.mail.sender) if self._transaction else ""
        by, reply, why, ref = refusal.by, refusal.reply, refusal.why, refusal.ref
        self._reception.journal.note(Refused(self._client.session, stage, reply, by, sender, recipient, why, ref))

    async def _refuse(self, stage: str, refusal: Ruling) -> None:
        await self._keep_back(stage, refusal.reply)
        self._note_refusal(stage, refusal)
        if self._transaction is not None:
            self._reception.teller.at_end(self._client, "refused", stage, self._transaction, refusal)
        self._engine.answer(refusal.reply)

    async def _keep_back(self, stage: str, reply: Reply) -> None:
        # Whoever is asked can only let the client wait: that it is refused is decided.
        self._refusals += 1
        rules = self._reception.rules.refusal
        if rules:
            findings = self._transaction.findings if self._transaction is not None else self._findings
            facts = RefusalFacts(client=self._client, stage=stage, reply=reply, count=self._refusals, tags=findings.tags)
            for asked in rules:
                await self._reception.asker.ask(asked, "refusal", facts, findings.trail)

    async def _ask(self, rules: tuple[Asked, ...], stage: str, facts: Any, findings: Findings) -> Ruling | None:
        # The first who refuses, and why; what the others add is kept, and later ones see it.
        for asked in rules:
            decision = await self._reception.asker.ask(asked, stage, facts, findings.trail)
            if decision.reply is not None:
                return self._reception.teller.named(asked.name, decision.reply, decision.why)
            if decision.verdict is not Verdict.PROCEED:
                findings.keep_verdict(asked, decision)
            if decision.tags or decision.results or decision.headers:
                findings.keep_additions(decision)
                if not isinstance(facts, ClientFacts):
                    facts = evolve(facts, tags=findings.tags, results=findings.results)
        return None

    # ── The session ──

    async def _greet(self) -> bool:
        reception = self._reception
        if reception.rules.client:
            refusal = await self._ask(reception.rules.client, "connect", self._client, self._findings)
            if refusal is not None:
                reply = refusal.reply
                # RFC 5321 §3.1: 554 instead of a greeting; a deferral is a 421.
                refusal = evolve(refusal, reply=Reply(554 if reply.is_permanent else 421, reply.enhanced, reply.text))
                self._note_refusal("connect", refusal)
                reception.teller.at_greeting(self._client, self._findings, refusal)
                self._engine.greet(refusal.reply)
                return False
            if self._engine.buffered and self._said is None:  # what comes behind XCLIENT is its proxy's
                self._client = evolve(self._client, early_talker=True)
        self._engine.greet(Reply(220, "", f"{reception.identity.hostname} ESMTP"))
        return True

    async def _on_hello(self, event: Hello) -> None:
        self._drop_transaction()  # RFC 5321 §4.1.4: EHLO is a RSET, too
        if self._said is None:
            self._client = evolve(self._client, helo=event.name, esmtp=event.esmtp)
        else:
            self._client = greeted(self._client, event, self._said)
        self._from_and_by = ""
        if event.esmtp and self._reception.logins is not None:
            self._engine.offer(self._reception.logins.offers(self._client, self._channel()))
        self._engine.answer(_HELLO)

    async def _on_xclient(self, event: XClient) -> None:
        self._said = together(self._said, event)
        self._client = client = introduced(self._client, self._said)
        self._findings = Findings()
        self._from_and_by = ""
        self._engine.start_over(client.is_authenticated)
        self._reception.journal.note(Introduced(client.session, f"{client.ip}:{client.port}", client.login))
        too_many = self._wire.recount(client.ip)
        if too_many is not None:
            self._note_refusal("xclient", Ruling("limits", too_many))
            self._engine.greet(too_many)
            raise Gone("refused")
        if not await self._greet():
            raise Gone("refused")

    async def _on_reset(self, event: Reset) -> None:
        self._drop_transaction()
        self._engine.answer(_RESET)

    async def _on_start_tls(self, event: StartTls) -> None:
        self._engine.answer(_TLS)
        tls = await self._wire.start_tls()
        # RFC 3207 §4.2: nothing that the client said before is known any more.
        self._client = evolve(self._client, tls=tls, helo="", esmtp=False, login="")
        self._from_and_by = ""

    async def _on_auth(self, event: Auth) -> None:
        logins = self._reception.logins
        assert logins is not None  # else nothing was offered
        login, reply = await authenticate(logins, self._client, self._channel(), event, self._respond)
        if reply.code == 421:
            self._engine.close(reply)
            raise Gone("refused")
        if login:
            self._client = evolve(self._client, login=login)
            self._from_and_by = ""
        self._engine.answer(reply)

    def _channel(self) -> Channel:
        # Behind a proxy that says XCLIENT, TLS and its certificate are the proxy's, not the client's.
        return self._wire.channel() if self._said is None else Channel()

    async def _respond(self, challenge: bytes) -> bytes:
        self._engine.challenge(challenge)
        event = await self._next_event()
        if isinstance(event, AuthResponse):
            return event.response
        assert isinstance(event, AuthEnd)
        raise ExchangeEnded(event.reply)

    async def _on_expand(self, event: Expand) -> None:
        members = (self._reception.aliases or {}).get(event.name.strip("<>").lower())
        if members is None:
            self._engine.answer(_NO_ALIAS)
        else:
            self._engine.answer(Reply(250, "2.1.5", "\n".join(f"<{member}>" for member in members)))
            await self._wire.drained()  # a short question with a long answer

    # ── The transaction ──

    async def _on_mail(self, event: Mail) -> None:
        self._count += 1
        client = self._client
        self._transaction = transaction = Transaction(
            event, f"{client.session}.{self._count}", self._count, self._findings.copy()
        )
        if not self._reception.room.has(event.size or 0):
            # RFC 1870 §6.1: said now, it saves the client the sending.
            await self._refuse("mail", Ruling("store", _FULL, "no room for new mail"))
            self._drop_transaction()
            return
        rules = self._reception.rules.sender
        if rules:
            findings = transaction.findings
            facts = SenderFacts(client=client, sender=event.sender, size=event.size, tags=findings.tags, results=findings.results)
            refusal = await self._ask(rules, "mail", facts, findings)
            if refusal is not None:
                await self._refuse("mail", refusal)
                self._drop_transaction()
                return
        self._engine.answer(_SENDER_OK)

    async def _on_rcpt(self, event: Rcpt) -> None:
        reception, transaction = self._reception, self._transaction
        assert transaction is not None
        recipient = event.recipient
        if not recipient.address.domain:
            # <postmaster> is always taken and always somebody's (RFC 5321 §4.5.1).
            recipient = evolve(recipient, address=reception.identity.postmaster)
        address = recipient.address
        text = str(address)
        known = address in transaction.seen
        transaction.repeated += known
        if max(len(transaction.seen) + (not known), transaction.repeated) > reception.engine.max_recipients:
            await self._refuse_recipient(Way(text, _TOO_MANY_RECIPIENTS), Ruling("limits", _TOO_MANY_RECIPIENTS))
            return
        if known:
            self._engine.answer(_RECIPIENT_OK)
            return
        findings = transaction.findings
        facts = RecipientFacts(
            client=self._client,
            sender=transaction.mail.sender,
            recipient=address,
            size=transaction.mail.size,
            tags=findings.tags,
            results=findings.results,
        )
        permission = ("", "", "")
        if recipient is event.recipient:
            permitted = await reception.relay.permitted(facts, findings.trail)
            if isinstance(permitted, Ruling):
                await self._refuse_recipient(Way(text, permitted.reply), permitted)
                return
            permission = (permitted.policy, permitted.where, permitted.decision.why)
        tags = facts.tags
        found = await reception.relay.found(facts)
        if isinstance(found, Ruling):
            await self._refuse_recipient(Way(text, found.reply, *permission), found)
            return
        way = Way(text, _RECIPIENT_OK, *permission, found.rule.name, found.rule.where, *found.destination)
        rules = reception.rules.recipient
        if found.rule.recipients is not None:
            rules = (Asked(f"recipients of route {found.rule.name}", found.rule.recipients, where=found.rule.where), *rules)
        if rules:
            facts = evolve(facts, gateway=found.destination.gateway, next_hop=found.destination.next_hop)
            discard = findings.discard
            refusal = await self._ask(rules, "rcpt", facts, findings)
            if refusal is not None:
                await self._refuse_recipient(way, refusal)
                return
            if findings.discard != discard:
                # Thrown away for this recipient only.
                self._note_discarded([text], findings.discard)
                findings.discard = discard
                self._welcome(way, address)
                return
        if not transaction.recipients:
            transaction.routed_with = tags
        transaction.recipients.append((recipient, found.destination))
        self._welcome(way, address)

    def _welcome(self, way: Way, address: Address) -> None:
        assert self._transaction is not None
        self._transaction.seen.add(address)
        self._transaction.ways.append(way)
        self._engine.answer(_RECIPIENT_OK)

    async def _refuse_recipient(self, way: Way, refusal: Ruling) -> None:
        assert self._transaction is not None
        await self._keep_back("rcpt", refusal.reply)
        self._note_refusal("rcpt", refusal, way.recipient)
        self._transaction.ways.append(way._replace(reply=refusal.reply, ref=refusal.ref))
        self._reception.teller.of_recipient(self._client, self._transaction, refusal)
        self._engine.answer(refusal.reply)

    async def _on_data(self, event: Data) -> None:
        reception, transaction = self._reception, self._transaction
        assert transaction is not None
        transaction.intake = Intake(reception.incoming, reception.room, reception.memory)
        transaction.content_since = reception.clock.seconds()
        self._engine.go_ahead()

    async def _on_piece(self, event: Piece) -> None:
        reception, transaction = self._reception, self._transaction
        assert transaction is not None
        assert transaction.intake is not None
        if event.data and not transaction.disk_trouble:
            try:
                transaction.intake.write(event.data)
            except OSError as problem:
                # Read on; the client hears about it at the end (RFC 5321 §4.2.5).
                transaction.intake.discard()
                transaction.disk_trouble = problem
        if not event.last:
            return
        if event.problem is not None:
            await self._refuse("data", Ruling("content", event.problem))
        elif transaction.disk_trouble:
            trouble = transaction.disk_trouble
            await self._refuse("data", Ruling("store", _FULL if trouble.errno in NO_ROOM else _TROUBLE, str(trouble)))
        else:
            await self._take(transaction, transaction.intake, event.is_ascii)
        self._drop_transaction()
        self._since = reception.clock.seconds()

    async def _take(self, transaction: Transaction, intake: Intake, is_ascii: bool) -> None:
        reception, findings = self._reception, transaction.findings
        now = reception.clock.seconds()
        try:
            content = intake.content()
            if hops(content) > reception.max_hops:
                await self._refuse("data", Ruling("hops", _LOOP))
                return
        except OSError as problem:
            await self._refuse("data", Ruling("store", _TROUBLE, str(problem)))
            return
        if reception.rules.content:
            facts = transaction.facts(self._client, content, now)
            refusal = await self._ask(reception.rules.content, "data", facts, findings)
            if refusal is not None:
                await self._refuse("data", refusal)
                return
        if findings.discard or not transaction.recipients:
            if findings.discard:
                self._note_discarded([str(recipient.address) for recipient, _ in transaction.recipients], findings.discard)
            by, _, why = findings.discard.partition(": ")
            reception.teller.at_end(self._client, "discarded", "data", transaction, Ruling(by, _DISCARDED, why), None, content.size)
            self._engine.answer(_DISCARDED)
            return
        smtputf8 = transaction.mail.smtputf8
        if not self._from_and_by or smtputf8:
            self._from_and_by = from_and_by(self._client, reception.identity.hostname, smtputf8)
        trace = received(self._from_and_by, transaction.number, transaction.only_recipient(), now)
        if smtputf8:
            self._from_and_by = ""  # the next transaction may want it in ASCII
        added = findings.header(reception.identity.hostname) + trace
        try:
            # Now, when who verifies signatures has seen it as it came.
            content = disowned(content, reception.identity.hostname)
            if starts_folded(content):
                added += b"\r\n"  # white space at the very beginning would continue our own field: it becomes body
        except EndlessHeader:
            await self._refuse("data", Ruling("content", _LONG_HEADER))
            return
        except OSError as problem:
            await self._refuse("data", Ruling("store", _TROUBLE, str(problem)))
            return
        content = Content(content.original, content.original_size, added)
        if findings.tags:
            transaction.route_anew()
        await self._put(transaction, transaction.envelope(self._client, is_ascii, now), content)

    async def _put(self, transaction: Transaction, envelope: Envelope, content: Content) -> None:
        reception, session, hold = self._reception, self._client.session, transaction.findings.hold
        try:
            put = await reception.store.put(envelope, content, transaction.recipients, hold)
        except StoreUnavailable as problem:
            await self._refuse("data", Ruling("store", _FULL if isinstance(problem, StoreFull) else _TROUBLE, str(problem)))
            return
        # 250 means committed: from here it is ours, whatever becomes of this connection.
        self._accepted += 1
        transaction.intake = None  # its file is the store's now
        queued = Reply(250, "2.0.0", f"queued as {put.message}")
        self._engine.answer(queued)
        self._wire.say()  # before we turn to delivering it
        recipients = [recipient for recipient, _ in transaction.recipients]
        reception.journal.note(Accepted(session, put.message, envelope.sender, recipients, content.size))
        by, _, why = hold.partition(": ")
        end = Ruling(by, queued, why)
        reception.teller.at_end(self._client, "held" if hold else "accepted", "data", transaction, end, put.message, content.size)
        if hold:
            reception.journal.note(Held(session, put.message, by, why))
        else:
            reception.offer(put)

    def _note_discarded(self, recipients: list[str], discard: str) -> None:
        assert self._transaction is not None
        by, _, why = discard.partition(": ")
        self._reception.journal.note(Discarded(self._client.session, str(self._transaction.mail.sender), recipients, by, why))


_HANDLERS: dict[type, Callable[[Conversation, Any], Awaitable[None]]] = {
    Hello: Conversation._on_hello,
    Mail: Conversation._on_mail,
    Rcpt: Conversation._on_rcpt,
    Data: Conversation._on_data,
    Piece: Conversation._on_piece,
    Reset: Conversation._on_reset,
    StartTls: Conversation._on_start_tls,
    Auth: Conversation._on_auth,
    Expand: Conversation._on_expand,
    XClient: Conversation._on_xclient,
}
