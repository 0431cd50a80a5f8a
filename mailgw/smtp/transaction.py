"""One message on its way over a client session: its commands, and what became of each recipient so far."""

from collections import deque

from attrs import evolve

from mailgw.smtp.extensions import Extensions
from mailgw.smtp.framing import Nature
from mailgw.values.address import Address
from mailgw.values.delivery import Handed, Outcome, Recipient, Shipment, delivered, later, never
from mailgw.values.reply import Reply

__all__ = ["Transaction"]

# RFC 4954 §6: about us, not about the message, and for the administrator to put right: no sender is to get a bounce for it.
_ABOUT_LOGIN = frozenset({530, 534, 535, 538})
_DEFAULT_RCPTMAX = 100  # RFC 5321 §4.5.3.1.8: what every server must take


class Transaction:
    """A shipment, served in batches of recipients where a server limits them (RFC 5321 §4.5.3.1.10, RFC 9422)."""

    def __init__(self, shipment: Shipment, nature: Nature, extensions: Extensions, private: bool, peer: str, lmtp: bool) -> None:
        self.shipment = shipment
        self.nature = nature
        self.outcomes: dict[Address, Outcome] = {}
        self.batch: list[Recipient] = []
        self.unsaid: deque[Recipient] = deque()  # those of the batch whose RCPT has not been written yet
        self.accepted: list[Recipient] = []
        self.postponed: list[Recipient] = []
        self.heard = False  # whether the server has answered anything to it
        self._extensions = extensions
        self._peer = peer
        self._lmtp = lmtp
        self._utf8 = False
        self._waiting = list({recipient.address: recipient for recipient in shipment.recipients}.values())
        impediment = self._impediment(private)
        if impediment:
            self.refuse(self._waiting, impediment, heard=False)
            self._waiting = []

    def _impediment(self, private: bool) -> Reply | None:
        """Why this server cannot get this message, known before a word is said about it."""
        extensions, envelope, nature = self._extensions, self.shipment.envelope, self.nature
        if _breaks_line(self.shipment.sender):
            return Reply(553, "5.1.7", "the sender's address cannot be written in a command")
        if extensions.max_size and self.shipment.content.size > extensions.max_size:
            # RFC 1870 §6.1: not even tried.
            return Reply(552, "5.3.4", f"message is larger than the {extensions.max_size} octets that the next hop takes")
        if envelope.requiretls:
            # RFC 8689 §4.2.1: the certificate must have been verified, and the server must promise the same.
            if not private:
                return Reply(550, "5.7.10", "the sender requires verified TLS, which the next hop does not provide")
            if not extensions.requiretls:
                return Reply(550, "5.7.30", "the sender requires TLS on the whole way, which the next hop does not promise")
        if nature.binary and not extensions.binary_mime:
            # RFC 3030 §3: only BDAT can carry it; DATA would invite the peer to see an end where there is none.
            return Reply(554, "5.6.3", "message has bare CR, bare LF or NUL, which the next hop does not take")
        if nature.eight_bit and not extensions.eight_bit_mime and not self.by_chunk:
            return Reply(554, "5.6.3", "message has 8-bit content, which the next hop does not take")  # RFC 6152 §3
        if (envelope.smtputf8 and nature.eight_bit_header) or self.shipment.sender.needs_smtputf8:
            if not extensions.smtputf8:
                return Reply(550, "5.6.7", "message is internationalized, which the next hop does not take")  # RFC 6531 §3.2
            self._utf8 = True
        elif envelope.smtputf8 and extensions.smtputf8:
            self._utf8 = True
        return None

    @property
    def by_chunk(self) -> bool:
        """Whether the content goes by BDAT: only where DATA cannot carry it, or must not (RFC 3030 §3)."""
        return self._extensions.binary_mime and (self.nature.binary or self.shipment.envelope.body == "BINARYMIME")

    def next_batch(self) -> bool:
        """Choose the recipients of the next round; false when nobody is left."""
        waiting, self._waiting = self._waiting + self.postponed, []
        limit = self._extensions.max_recipients or _DEFAULT_RCPTMAX
        self.batch, self._waiting = waiting[:limit], waiting[limit:]
        self.accepted, self.postponed = [], []
        for recipient in self.batch.copy():
            if _breaks_line(recipient.address):
                self.batch.remove(recipient)
                self.refuse([recipient], Reply(553, "5.1.3", "the address cannot be written in a command"), heard=False)
            elif recipient.address.needs_smtputf8 and not self._extensions.smtputf8:
                self.batch.remove(recipient)
                reply = Reply(553, "5.6.7", "address is internationalized, which the next hop does not take")
                self.refuse([recipient], reply, heard=False)
            elif recipient.address.needs_smtputf8:
                self._utf8 = True
        self.unsaid = deque(self.batch)
        return bool(self.batch) or (bool(self._waiting) and self.next_batch())

    def mail(self) -> bytes:
        """The MAIL command (RFC 5321 §4.1.1.2) with the parameters that the server knows."""
        extensions, envelope = self._extensions, self.shipment.envelope
        parts = [f"MAIL FROM:<{envelope.sender}>"]
        if extensions.size:
            parts.append(f"SIZE={self.shipment.content.size}")
        if self.by_chunk:
            parts.append("BODY=BINARYMIME")
        elif extensions.eight_bit_mime and (self.nature.eight_bit or envelope.body != "7BIT"):
            parts.append("BODY=8BITMIME")
        if self._utf8:
            parts.append("SMTPUTF8")
        if envelope.requiretls:
            parts.append("REQUIRETLS")
        if extensions.dsn:
            if envelope.ret:
                parts.append(f"RET={envelope.ret}")
            if envelope.envid:
                parts.append(f"ENVID={_xtext(envelope.envid)}")
        return " ".join(parts).encode() + b"\r\n"

    def rcpt(self, recipient: Recipient) -> bytes:
        """The RCPT command (RFC 5321 §4.1.1.3)."""
        command = f"RCPT TO:<{recipient.address}>"
        if self._extensions.dsn:
            if recipient.notify:
                command += f" NOTIFY={','.join(sorted(recipient.notify))}"
            if recipient.orcpt:
                kind, _, address = recipient.orcpt.partition(";")
                command += f" ORCPT={_xtext(kind)};{_xtext(address)}"
        return command.encode() + b"\r\n"

    def answer_rcpt(self, recipient: Recipient, reply: Reply) -> None:
        """Note the answer to one RCPT."""
        if reply.is_positive:
            self.accepted.append(recipient)
        elif self.accepted and (reply.code in (452, 552) and reply.enhanced in ("4.0.0", "5.0.0", "4.5.3", "5.5.3")):
            # Too many recipients: RFC 5321 §4.5.3.1.10, where 552 means the same as 452.
            self.postponed.append(recipient)
        else:
            self.refuse([recipient], reply)

    def deliver(self, recipients: list[Recipient], reply: Reply) -> None:
        """Note the final answer for some accepted recipients."""
        if reply.is_positive:
            handed = Handed.DSN_RELAY if self._extensions.dsn else Handed.MAILBOX if self._lmtp else Handed.RELAY
            outcome = delivered(reply, self._peer, handed)
            for recipient in recipients:
                self.outcomes[recipient.address] = outcome
        else:
            self.refuse(recipients, reply)

    def refuse(self, recipients: list[Recipient], reply: Reply, heard: bool = True) -> None:
        """Note a refusal, 4yz or 5yz, for some recipients: the server's, or one of our own."""
        if reply.code in _ABOUT_LOGIN:
            reply = Reply(454, "4.7.0", f"server wants us to log in: {reply}")
        outcome = never(reply, self._peer) if reply.is_permanent else later(reply, self._peer)
        if not heard:
            outcome = evolve(outcome, heard=False)
        for recipient in recipients:
            self.outcomes[recipient.address] = outcome

    def refuse_rest(self, reply: Reply) -> None:
        """Note a refusal for everybody of this batch and of those to come."""
        self.refuse(self.batch + self._waiting, reply)
        self.batch, self._waiting = [], []

    def close(self, outcome: Outcome) -> None:
        """Give the outcome to everybody who has none yet."""
        for recipient in self.shipment.recipients:
            self.outcomes.setdefault(recipient.address, outcome)


def _breaks_line(address: Address) -> bool:
    # No parser of ours lets such an address in; a plugin might make one, and must not be able to make commands with it.
    return not address.local_part.isprintable() or not address.domain.isprintable()


def _xtext(text: str) -> str:
    """RFC 3461 §4; beyond ASCII as RFC 6533 §3 writes it."""
    return "".join(c if "!" <= c <= "~" and c not in "+=" else f"+{ord(c):02X}" if ord(c) < 128 else f"\\x{{{ord(c):X}}}" for c in text)
