"""Messages of our own making: what a component has to tell an administrator goes through the queue like all mail."""

from collections.abc import Callable
from email.headerregistry import Address as HeaderAddress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime
from random import Random

from twisted.internet.defer import Deferred
from zope.interface import implementer

from mailgw.interfaces import IClock, IIdentity, IPostOffice, IQueueStore, StoreUnavailable
from mailgw.journal import Journal, Posted
from mailgw.values.address import NULL, Address
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Envelope, Recipient
from mailgw.values.ledger import Put

__all__ = ["PostOffice", "compose"]

_SUBJECT = 200  # characters


@implementer(IPostOffice)
class PostOffice:
    """Puts notices into the store; it is made before there is a store, so it must be opened."""

    def __init__(self, identity: IIdentity, clock: IClock, randomness: Random) -> None:
        """``identity`` says whose notices these are."""
        self._identity = identity
        self._clock = clock
        self._randomness = randomness
        self._counter: tuple[IQueueStore, Callable[[Put], None], Journal] | None = None

    def open(self, store: IQueueStore, offer: Callable[[Put], None], journal: Journal) -> None:
        """From here on it can take mail; ``offer`` hands a committed message to the dispatcher."""
        self._counter = store, offer, journal

    async def post(self, recipient: Address, subject: str, text: str) -> int:
        """See `IPostOffice`."""
        if self._counter is None:
            raise StoreUnavailable("no mail can be sent before mailgw has started")
        store, offer, journal = self._counter
        now = self._clock.now()
        word = self._randomness.randbytes(12).hex()
        content = compose(self._identity, recipient, subject, text, date=format_datetime(now), word=word)
        envelope = Envelope(
            sender=NULL,  # nobody answers it with a bounce (RFC 5321 §4.5.5)
            arrived=now.timestamp(),
            body="7BIT" if content.isascii() else "8BITMIME",
            smtputf8=recipient.needs_smtputf8 or self._identity.postmaster.needs_smtputf8,
        )
        # Not routed yet: the dispatcher asks the routes.
        to = [(Recipient(recipient, frozenset(("NEVER",))), Destination(""))]
        putting = Deferred.fromCoroutine(store.put(envelope, Content.of(content), to))

        def queued(put: Put) -> int:
            journal.note(Posted("", put.message, str(recipient), subject))
            offer(put)
            return put.message

        # Who asks may give up meanwhile. The notice is queued all the same, and then somebody has to know of it.
        number: Deferred[int] = Deferred()
        putting.addCallback(queued).addBoth(lambda result: None if number.called else number.callback(result))
        return await number


def compose(identity: IIdentity, recipient: Address, subject: str, text: str, *, date: str, word: str) -> bytes:
    """The message; ``date`` as RFC 5322 §3.3 writes it, ``word`` is one that never comes again."""
    is_utf8 = recipient.needs_smtputf8 or identity.postmaster.needs_smtputf8
    message = EmailMessage(policy=SMTP.clone(utf8=is_utf8))
    message["From"] = HeaderAddress(f"mailgw at {identity.hostname}", identity.postmaster.local_part, identity.postmaster.domain)
    message["To"] = HeaderAddress("", recipient.local_part, recipient.domain)
    message["Subject"] = " ".join(subject.split())[:_SUBJECT]
    message["Date"] = date
    message["Message-ID"] = f"<{word}@{identity.hostname}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834 §5: nobody's autoresponder answers it
    message.set_content(text.rstrip("\n") + "\n")
    return message.as_bytes()
