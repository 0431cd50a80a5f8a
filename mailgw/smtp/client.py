"""The client's side of SMTP and LMTP, without socket, clock or Twisted: bytes in, events and bytes out.

The way of a session::

    greeting -> EHLO -> Ready [-> start_tls -> TlsAgreed -> tls_started -> EHLO -> Ready]
             [-> log_in -> Challenged, answer, ... -> LoggedIn]
             -> begin -> ContentWanted -> add_content..., end_content -> Finished -> begin ... -> quit

After each call `take` gives what is to be written. Commands go out in one group where the server offers PIPELINING
(RFC 2920) and one by one where it does not; replies are matched by their order. BadReply ends a session; so does a 421
at any time.

One file because it is one state machine.
"""

from collections import deque
from collections.abc import Callable
from typing import Literal

from attrs import evolve

from mailgw.smtp.client_events import Asked, ContentWanted, Event, Finished, Ready, Refused, TlsAgreed, TlsRefused
from mailgw.smtp.client_login import LoggingIn
from mailgw.smtp.extensions import Extensions
from mailgw.smtp.framing import DotStuffing, Nature
from mailgw.smtp.replies import BadReply, ReplyReader
from mailgw.smtp.sasl_dialogue import Dialogue
from mailgw.smtp.transaction import Transaction
from mailgw.values.address import Address
from mailgw.values.delivery import Outcome, Recipient, Shipment, later, unknown
from mailgw.values.reply import Reply

__all__ = ["BadReply", "ClientSession"]


# RFC 5321 §4.5.3.2, in seconds. What is not named there gets the patience of MAIL.
_PATIENCE = {"greeting": 300.0, "data": 120.0, "dot": 600.0, "lmtp dot": 600.0, "quit": 10.0}
_BLOCK = 180.0
_OTHERWISE = 300.0
_MOST_TEXT = 2000  # characters of a reply that are kept, for each of perhaps a thousand recipients; not of what is read whole

_Stage = Literal[
    "greeting", "ehlo", "helo", "starttls", "auth", "rset", "mail", "rcpt", "data", "dot", "lmtp dot", "ask mail", "ask rcpt", "quit"
]
# What a good answer to each command is; everything from 400 on is a refusal, everything else is no SMTP.
_INTERMEDIATE = frozenset({"data"})
_EITHER = frozenset({"auth"})  # 334 goes on, 235 is the end


class ClientSession:
    """One session with a server. ``hostname`` is said in EHLO; ``peer`` is the server's name in outcomes."""

    def __init__(self, hostname: str, *, lmtp: bool = False, encrypted: bool = False, verified: bool = False, peer: str = "") -> None:
        self.extensions = Extensions()
        self.encrypted = encrypted
        self.verified = verified  # the server's certificate was verified
        self.is_over = False  # nothing more can be begun
        self.steps = 0  # grows with each whole reply and each word of ours: what time-outs are counted from
        self._hostname = hostname
        self._lmtp = lmtp
        self._peer = peer
        self._reader = ReplyReader()
        self._awaited: deque[tuple[_Stage, Recipient | None]] = deque([("greeting", None)])
        self._out: list[bytes] = []
        self._events: list[Event] = []
        self._transaction: Transaction | None = None
        self._framing: DotStuffing | None = None  # set while content is due by DATA
        self._sending = False  # content is due or under way
        self._data_done = False  # the end-of-data indicator is out, its answer is not in
        self._open = False  # the server may hold an unfinished transaction: RSET before the next MAIL
        self._asking: tuple[Recipient, Reply | None] | None = None
        self._login: LoggingIn | None = None
        self._answers: dict[_Stage, Callable[[Recipient | None, Reply], None]] = {
            "greeting": self._greeting,
            "ehlo": self._ehlo,
            "helo": self._helo,
            "starttls": self._starttls,
            "auth": self._auth,
            "rset": self._rset,
            "mail": self._mail,
            "rcpt": self._rcpt,
            "data": self._data,
            "dot": self._dot,
            "lmtp dot": self._lmtp_dot,
            "ask mail": self._ask_mail,
            "ask rcpt": self._ask_rcpt,
            "quit": self._quit,
        }

    # ── What the server says ──

    def feed(self, data: bytes) -> list[Event]:
        """Take what came from the server and give what it means. Raises BadReply; then call `lost`."""
        self._reader.feed(data)
        while not self.is_over or self._awaited:
            reply = self._reader.next()
            if reply is None:
                break
            self._hear(reply)
        events, self._events = self._events, []
        return events

    def _hear(self, reply: Reply) -> None:
        self.steps += 1
        if self._transaction and reply.code != 421:
            self._transaction.heard = True
        if reply.code == 421 and not (self._awaited and self._awaited[0][0] == "quit"):
            self._close(reply)
        elif self._sending:
            # The server answers in the midst of the content: a refusal is believed, and the connection is of no more use.
            if reply.code < 400:
                raise BadReply("server answered before the end of the data")
            assert self._transaction
            self._transaction.deliver(self._transaction.accepted, reply)
            self._close(Reply(421, "4.4.2", "server answered before the end of the data"))
        elif not self._awaited:
            raise BadReply("server answered without being asked")
        else:
            stage, recipient = self._awaited.popleft()
            if reply.code < 400 and stage not in _EITHER and (reply.code >= 300) != (stage in _INTERMEDIATE):
                raise BadReply(f"server answered {reply.code}, which does not fit the command")
            if len(reply.text) > _MOST_TEXT and stage not in ("ehlo", "auth"):
                reply = Reply(reply.code, reply.enhanced, reply.text[:_MOST_TEXT])
            self._answers[stage](recipient, reply)

    def _close(self, reply: Reply) -> None:
        """RFC 5321 §3.8: 421 ends the session, whatever was asked."""
        self.is_over = True
        self._awaited.clear()
        # What came in one piece with the 354: no content is wanted any more.
        self._events = [event for event in self._events if not isinstance(event, ContentWanted)]
        if self._transaction:
            self._finish(later(reply, self._peer))
        elif self._asking:
            self._answer(reply, is_final=False)
        else:
            self._events.append(Refused(reply))

    # ── What is to be written, and how long to wait ──

    def take(self) -> bytes:
        """The octets to write now, perhaps none."""
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    @property
    def patience(self) -> float | None:
        """How many seconds the server has for its next whole answer, or we for the next block; None: nothing is awaited."""
        if self._sending:
            return _BLOCK
        return _PATIENCE.get(self._awaited[0][0], _OTHERWISE) if self._awaited else None

    @property
    def awaits(self) -> str:
        """What is awaited, in words for an outcome's text."""
        return "content" if self._sending else self._awaited[0][0] if self._awaited else "nothing"

    def _say(self, stage: _Stage, command: bytes, recipient: Recipient | None = None) -> None:
        self.steps += 1
        self._out.append(command)
        self._awaited.append((stage, recipient))

    # ── Greeting, EHLO, STARTTLS ──

    def _greeting(self, _: Recipient | None, reply: Reply) -> None:
        if reply.is_positive:
            self._say("ehlo", f"{'LHLO' if self._lmtp else 'EHLO'} {self._hostname}\r\n".encode())
        else:
            self._refused(reply)

    def _refused(self, reply: Reply) -> None:
        self.is_over = True
        self._events.append(Refused(reply))

    def _ehlo(self, _: Recipient | None, reply: Reply) -> None:
        if reply.is_positive:
            self.extensions = Extensions.of(reply)
            self._events.append(Ready(self.extensions))
        elif reply.is_permanent and reply.code != 521 and not self._lmtp and not self.encrypted:
            # RFC 5321 §3.2: an old server. (521 is RFC 7504: no mail at all.)
            self._say("helo", f"HELO {self._hostname}\r\n".encode())
        elif self._lmtp and 500 <= reply.code <= 504:
            # An SMTP server where LMTP was expected: a fault of the configuration, which must not bounce the mail.
            self._refused(Reply(451, "4.5.1", f"server does not speak LMTP: {reply}"))
        else:
            self._refused(reply)

    def _helo(self, _: Recipient | None, reply: Reply) -> None:
        if reply.is_positive:
            self._events.append(Ready(self.extensions))
        else:
            self._refused(reply)

    def start_tls(self) -> None:
        """Ask for TLS; allowed after Ready when it is offered."""
        self._say("starttls", b"STARTTLS\r\n")

    def _starttls(self, _: Recipient | None, reply: Reply) -> None:
        if not reply.is_positive:
            self._events.append(TlsRefused(reply))
            return
        if not self._reader.is_empty:
            # What follows in clear was not said by the one whom TLS will authenticate.
            raise BadReply("server sent something in clear behind its answer to STARTTLS")
        self._events.append(TlsAgreed())

    def tls_started(self, verified: bool) -> None:
        """TLS protects the session from here on: what was known is forgotten and asked anew (RFC 3207 §4.2)."""
        self.encrypted, self.verified = True, verified
        self.extensions = Extensions()
        self._say("ehlo", f"{'LHLO' if self._lmtp else 'EHLO'} {self._hostname}\r\n".encode())

    # ── AUTH ──

    def log_in(self, dialogue: Dialogue) -> None:
        """Begin to log in; allowed once, after Ready, by a mechanism that is offered."""
        self._login = LoggingIn(dialogue)
        self._say("auth", self._login.command)

    def answer(self, response: bytes) -> None:
        """Answer what Challenged asked."""
        assert self._login
        self._say("auth", self._login.answer(response))

    def cancel_login(self, why: str) -> None:
        """Answer nothing more; LoginRefused will say why."""
        assert self._login
        self._say("auth", self._login.cancel(why))

    def _auth(self, _: Recipient | None, reply: Reply) -> None:
        assert self._login
        if reply.code < 400 and reply.code not in (235, 334):
            raise BadReply(f"server answered {reply.code} to AUTH")
        heard = self._login.hear(reply)
        if isinstance(heard, bytes):
            self._say("auth", heard)
        else:
            self._events.append(heard)

    # ── A transaction ──

    def begin(self, shipment: Shipment, nature: Nature) -> list[Event]:
        """Begin to deliver a shipment; gives Finished at once when this server can take it for nobody."""
        self._transaction = Transaction(shipment, nature, self.extensions, self.verified, self._peer, self._lmtp)
        self._next_batch()
        events, self._events = self._events, []
        return events

    def _next_batch(self) -> None:
        transaction = self._transaction
        assert transaction
        if not transaction.next_batch():
            self._finish(None)
            return
        if self._open:
            self._open = False
            self._say("rset", b"RSET\r\n")
            if not self.extensions.pipelining:
                return
        self._say_mail(transaction)

    def _say_mail(self, transaction: Transaction) -> None:
        self._say("mail", transaction.mail())
        if self.extensions.pipelining:
            while transaction.unsaid:
                self._say_rcpt(transaction)
            if not transaction.by_chunk:
                self._say("data", b"DATA\r\n")

    def _say_rcpt(self, transaction: Transaction) -> None:
        recipient = transaction.unsaid.popleft()
        self._say("rcpt", transaction.rcpt(recipient), recipient)

    def _finish(self, outcome: Outcome | None) -> None:
        transaction, self._transaction = self._transaction, None
        assert transaction
        self._sending = self._data_done = False
        self._framing = None
        if outcome:
            transaction.close(outcome)
        self._events.append(Finished(transaction.outcomes, untouched=outcome is not None and not transaction.heard))

    def _rset(self, _: Recipient | None, reply: Reply) -> None:
        if not reply.is_positive:
            raise BadReply("server refused RSET")
        if self.extensions.pipelining:
            return
        if self._transaction:
            self._say_mail(self._transaction)
        else:
            self._say("ask mail", b"MAIL FROM:<>\r\n")

    def _mail(self, _: Recipient | None, reply: Reply) -> None:
        transaction = self._transaction
        assert transaction
        if reply.is_positive:
            self._open = True
            if not self._awaited:
                self._say_rcpt(transaction)
            return
        transaction.refuse_rest(reply)
        if not self._awaited:
            self._next_batch()

    def _rcpt(self, recipient: Recipient | None, reply: Reply) -> None:
        transaction = self._transaction
        assert transaction
        assert recipient
        if self._open:  # else MAIL was refused, and what is said about its recipients means nothing
            transaction.answer_rcpt(recipient, reply)
        if self._awaited:
            return
        if transaction.unsaid:
            self._say_rcpt(transaction)
        elif not transaction.accepted:
            self._next_batch()
        elif transaction.by_chunk:
            # One chunk however big: RFC 3030 §2 sets no limit.
            self._out.append(b"BDAT %d LAST\r\n" % transaction.shipment.content.size)
            self._content()
        else:
            self._say("data", b"DATA\r\n")

    def _data(self, _: Recipient | None, reply: Reply) -> None:
        transaction = self._transaction
        assert transaction
        if reply.code == 354:
            if transaction.accepted:
                self._framing = DotStuffing()
                self._content()
            else:
                # RFC 2920 §3.1: the server lets us go on without a recipient; an empty message gets us out of it.
                self._say("dot", b".\r\n")
        elif reply.code < 400:
            raise BadReply(f"server answered {reply.code} to DATA")
        else:
            transaction.refuse(transaction.accepted, reply)
            self._next_batch()

    def _content(self) -> None:
        self._sending = True
        self._events.append(ContentWanted())

    def add_content(self, chunk: bytes) -> bytes:
        """The next piece of the content as it goes over the wire."""
        self.steps += 1
        return self._framing.add(chunk) if self._framing else chunk

    def end_content(self) -> bytes:
        """What ends the content on the wire. From here on a lost connection means an unknown outcome."""
        assert self._transaction
        self.steps += 1
        self._sending = False
        self._data_done = True
        if self._lmtp:  # RFC 2033 §4.2: one reply for each recipient that was accepted
            self._awaited.extend(("lmtp dot", recipient) for recipient in self._transaction.accepted)
        else:
            self._awaited.append(("dot", None))
        framing, self._framing = self._framing, None
        return framing.end() if framing else b""

    def _dot(self, _: Recipient | None, reply: Reply) -> None:
        transaction = self._transaction
        assert transaction
        if reply.is_positive:
            self._open = False
        transaction.deliver(transaction.accepted, reply)
        self._data_done = False
        self._next_batch()

    def _lmtp_dot(self, recipient: Recipient | None, reply: Reply) -> None:
        transaction = self._transaction
        assert transaction
        assert recipient
        transaction.deliver([recipient], reply)
        if not self._awaited:
            self._open = False
            self._data_done = False
            self._next_batch()

    # ── Asking about a recipient ──

    def ask(self, recipient: Address) -> None:
        """Ask whether the server would take mail for ``recipient``, from the null reverse-path; the answer is Asked."""
        if not f"{recipient}".isprintable():
            raise ValueError(f"{recipient!r} cannot be written in a command")
        self._asking = (Recipient(recipient), None)
        if self._open:
            self._open = False
            self._say("rset", b"RSET\r\n")
            if not self.extensions.pipelining:
                return
        self._say("ask mail", b"MAIL FROM:<>\r\n")
        if self.extensions.pipelining:
            self._say("ask rcpt", f"RCPT TO:<{recipient}>\r\n".encode(), self._asking[0])

    def _ask_mail(self, _: Recipient | None, reply: Reply) -> None:
        assert self._asking
        recipient = self._asking[0]
        if reply.is_positive:
            self._open = True
            if not self._awaited:
                self._say("ask rcpt", f"RCPT TO:<{recipient.address}>\r\n".encode(), recipient)
        elif self._awaited:
            self._asking = (recipient, reply)
        else:
            self._answer(reply, is_final=False)

    def _ask_rcpt(self, _: Recipient | None, reply: Reply) -> None:
        assert self._asking
        self._answer(self._asking[1] or reply, is_final=self._asking[1] is None)

    def _answer(self, reply: Reply, is_final: bool) -> None:
        self._asking = None
        self._events.append(Asked(reply, is_final))

    # ── The end ──

    def quit(self) -> None:
        """Say good-bye; allowed while nothing is under way."""
        self.is_over = True
        self._say("quit", b"QUIT\r\n")

    def _quit(self, _: Recipient | None, reply: Reply) -> None:
        pass

    def lost(self, why: str, hangs: bool = False) -> list[Event]:
        """The connection is gone or given up: what that means for whatever was under way.

        ``hangs``: the server took too long. Where it had no word for a transaction yet, that is not about this message: the
        server as a whole counts as unreachable.
        """
        self.is_over = True
        self._awaited.clear()
        self._out.clear()
        # What was over before a word too many came is over all the same.
        self._events = [event for event in self._events if isinstance(event, Finished | Asked)]
        if self._transaction:
            if self._data_done and self._transaction.accepted:
                outcome = evolve(unknown(Reply(451, "4.4.2", why), self._peer), heard=False)
                for recipient in self._transaction.accepted:
                    self._transaction.outcomes.setdefault(recipient.address, outcome)
            outcome = later(Reply(421, "4.4.2", why), self._peer, unreachable=hangs and not self._transaction.heard)
            self._finish(evolve(outcome, heard=False))
        elif self._asking:
            self._answer(Reply(421, "4.4.2", why), is_final=False)
        events, self._events = self._events, []
        return events
