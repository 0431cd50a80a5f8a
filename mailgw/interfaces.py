"""The public contracts: one method, one frozen argument, ``async def`` allowed everywhere.

Facts may grow, signatures never change. A method may be a plain function or ``async def``; answers of any other type
than the one written here are faults of the plugin (451 4.3.0 and its name in the log).
"""

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from zope.interface import Attribute, Interface

from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.decision import Decision
from mailgw.values.delivery import Destination, Envelope, Outcome, Recipient, Route, Shipment
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, RefusalFacts, SenderFacts
from mailgw.values.ledger import Entry, Notice, Order, Parcel, Put, Selection, Settlement
from mailgw.values.quantities import Rate

# ── May it pass? ──


class IClientPolicy(Interface):
    """Asked once for each connection, before the greeting::

        def check_client(self, facts):
            return reject("no thanks") if facts.ip in self.unwanted else proceed()
    """

    def check_client(facts: ClientFacts) -> Decision | Awaitable[Decision]:
        """Any decision but permit."""


class ISenderPolicy(Interface):
    """Asked for each MAIL command::

        def check_sender(self, facts):
            return proceed() if facts.sender else defer("no bounces today")
    """

    def check_sender(facts: SenderFacts) -> Decision | Awaitable[Decision]:
        """Any decision but permit."""


class IRelayPolicy(Interface):
    """A permit rule: asked for each RCPT command whether this client may have mail relayed to this recipient::

        def may_relay(self, facts):
            return permit("VPN") if facts.client.ip in self.vpn else proceed()

    It may only permit. `proceed` means "no opinion"; the end of the list means no. Exceptions, time-outs and all other
    answers never permit.
    """

    def may_relay(facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        """Permit or proceed."""


class IRecipientPolicy(Interface):
    """Asked for each RCPT command whose relaying is permitted::

        def check_recipient(self, facts):
            return reject("no such user here", enhanced="5.1.1") if facts.recipient not in self.users else proceed()
    """

    def check_recipient(facts: RecipientFacts) -> Decision | Awaitable[Decision]:
        """Any decision but permit."""


class IContentPolicy(Interface):
    """Asked once for each message, when all of it is here and before it is accepted::

        def check_content(self, facts):
            return quarantine("looks odd") if b"X-Odd:" in facts.content.header() else proceed()
    """

    def check_content(facts: ContentFacts) -> Decision | Awaitable[Decision]:
        """Any decision but permit."""


class IRefusalPolicy(Interface):
    """Asked when a client is about to hear a refusal, whoever refuses; it can only let the client wait::

        def check_refusal(self, facts):
            return proceed(wait=min(facts.count, 10.0))
    """

    def check_refusal(facts: RefusalFacts) -> Decision | Awaitable[Decision]:
        """Proceed; of the decision only `Decision.wait` is acted upon."""


# ── Where to? ──


class IRoute(Interface):
    """Asked in order for each recipient, at RCPT and again before later delivery attempts; the first answer wins::

        def route(self, facts):
            return Route("archive") if "archive" in facts.tags else None
    """

    def route(facts: RecipientFacts) -> Route | Awaitable[Route | None] | None:
        """The route, or None where this one has no opinion."""


# ── Bring it there ──


class IGateway(Interface):
    """Delivers one message to some recipients at one next hop::

        async def deliver(self, shipment):
            return {recipient.address: delivered() for recipient in shipment.recipients}

    An exception, or a recipient that is missing in the answer, counts as "later".
    """

    def deliver(shipment: Shipment) -> Mapping[Address, Outcome] | Awaitable[Mapping[Address, Outcome]]:
        """The outcome for each recipient."""


class IDomainGateway(IGateway):
    """A gateway whose next hop follows from the recipient's domain, as with MX: shipments are made for one domain each."""


class IAskableGateway(IGateway):
    """A gateway that can find out whether its next hop would take mail for somebody, without sending any::

        outcome = await gateway.ask(Address.parse("ben@example.org"))
    """

    def ask(recipient: Address, next_hop: str = "") -> Awaitable[Outcome]:
        """Delivered: it would take it. Never: it knows nobody of that name. Later: it cannot be asked now, or does not tell.

        ``next_hop`` is what a `Shipment` would have there. Nothing is delivered.
        """


# ── What happened ──


class IObserver(Interface):
    """Told of each event in the life of a message (see `mailgw.journal`)::

        def note(self, event):
            self.counts[type(event).__name__] += 1
    """

    def note(event: Any) -> None:
        """Take notice, quickly: it is called on the hot path. Exceptions are logged and ignored."""


# ── Provided by the house: ask for them with `given` ──


class Answer(NamedTuple):
    """What the DNS said. "No such name" and "no such records" are both answers; "try later" is `LookupFailed`.

    ``records``: IPv4Address for A, IPv6Address for AAAA, ``(preference, host)`` for MX, str for PTR and CNAME, bytes for TXT.
    """

    records: tuple[Any, ...]
    name_exists: bool = True


class LookupFailed(Exception):
    """The DNS gave no answer (SERVFAIL, time-out, nonsense): ask again later."""


class IResolver(Interface):
    """The DNS::

        answer = await self.resolver.lookup("example.org", "MX")
    """

    async def lookup(name: str, kind: str) -> Answer:
        """Names are A-labels; ``kind`` is "A", "AAAA", "MX", "TXT", "PTR" or "CNAME". Raises LookupFailed."""


class IClock(Interface):
    """The time of day::

        hour = self.clock.now().hour
    """

    def now() -> datetime:
        """Now, with its time zone."""


class IIdentity(Interface):
    """Who we are::

        hello = self.identity.hostname
    """

    hostname = Attribute("str: our name in greetings, EHLO, Received: and DSNs.")
    postmaster = Attribute("Address: who answers for this server.")


class IDialer(Interface):
    """Opens connections to next hops::

        protocol = await self.dialer.dial("192.0.2.25:25", factory, timeout=30)
    """

    async def dial(where: str, factory: Any, timeout: float) -> Any:
        """The connected protocol that ``factory`` (twisted's IProtocolFactory) built.

        ``where`` is ``"192.0.2.1:25"``, ``"[2001:db8::1]:25"``, ``"localhost:25"`` or ``"unix:/path"``; ``timeout`` is in
        seconds. Raises twisted.internet.error.ConnectError, DNSLookupError or OSError.
        """


class IMemory(Interface):
    """What policies remember between sessions, shared by all processes of the machine; bounded, and over restarts if it is a file::

        if await self.memory.count(f"hourly:{login}", 1, 3600.0) > 200:
            return defer("enough for this hour")

    Keys are texts that begin with a name of your own and ":", with up to 1,000 characters in all; texts have up to 65,536. Where there
    is no more room, the names with the most keys forget what ends soonest: nobody can crowd out what others remember. Everything
    raises MemoryUnavailable where the memory cannot be reached, and ValueError for what it never takes. A test gives an
    `InProcessMemory`.
    """

    async def count(key: str, amount: int, lifetime: float) -> int:
        """Add to a counter and give the sum. A new one begins at 0 and ends ``lifetime`` seconds later; ``amount`` 0 just looks."""

    async def take(key: str, amount: int, rate: Rate, burst: int) -> float:
        """Take from a token bucket that holds ``burst`` and is filled at ``rate``: 0.0 if that was possible, else nothing is
        taken, and in so many seconds it will be. ``amount`` above ``burst`` takes all of a full bucket.
        """

    async def first_seen(key: str, lifetime: float) -> float:
        """When the key was seen first, in POSIX seconds: now, if it is new. Each look lets it live ``lifetime`` seconds more.

        Never later than now: where the clock was set back, it counts as seen at the first look after that.
        """

    async def remember(key: str, value: str, lifetime: float) -> None:
        """Keep a text for so many seconds, in place of what was there."""

    async def recall(key: str) -> str | None:
        """The text, or None."""

    async def find(prefix: str, limit: int) -> Mapping[str, str]:
        """Remembered texts whose keys begin so, in the order of keys."""

    async def forget(key: str) -> None:
        """Drop counter, bucket, time and text of this key."""


class MemoryUnavailable(Exception):
    """The shared memory cannot be read or written now."""


class IPostOffice(Interface):
    """Sends a notice of our own making, from our postmaster::

        await self.post_office.post(self.identity.postmaster, "the disk is nearly full", "Only 100 MB are left.")

    Its reverse-path is the null one, and it says that it is automatic: no bounce and no autoresponder answers it. It goes through the
    queue, so it is there after a restart. Take care that a stranger cannot make you send many.
    """

    async def post(recipient: Address, subject: str, text: str) -> int:
        """Its number in the queue, where it is safe now. Raises StoreUnavailable."""


class IGateways(Interface):
    """The gateways of the configuration, by name; only for gateways, which hand on to others with it, and for policies::

        outcomes = self.others[self.gateways[0]].deliver(shipment)

    Settings of type `GatewayName` say which ones. None is there before all are made, so look them up when you deliver.
    """

    def __getitem__(name: str) -> IGateway:
        """The gateway. Raises KeyError."""

    def is_by_domain(name: str) -> bool:
        """Whether its next hop follows from the recipient's domain: it is an `IDomainGateway`, or names one in its settings."""


# ── Inside the house ──


class StoreUnavailable(Exception):
    """The store cannot take or give anything now; nothing was kept. The peer hears 451 4.3.0."""


class StoreFull(StoreUnavailable):
    """No room left on the disk; nothing was kept. The peer hears 452 4.3.1."""


class StoreDamaged(StoreUnavailable):
    """What lies on the disk is not what was written there; nothing was kept. The peer hears 451 4.3.0."""


class IQueueStore(Interface):
    """A durable queue. All methods but `leased` raise StoreUnavailable, having changed nothing.

    `mailgw.testing` holds the contract suite that every store must pass.
    """

    async def put(envelope: Envelope, content: Content, recipients: Sequence[tuple[Recipient, Destination]], hold: str = "") -> Put:
        """Keep a message; on return it is committed to disk. Its parcels are leased to the caller, unless ``hold`` gives a
        reason to hold it. A content file is taken over (moved or linked), so its name may change.
        """

    async def waiting() -> Mapping[Destination, float]:
        """For each destination with waiting recipients that are not leased: when the first of them is due, in POSIX seconds."""

    async def lease(destination: Destination, now: float, limit: int) -> Sequence[Parcel]:
        """Lease up to ``limit`` recipients that wait for ``destination`` and are due at ``now``, earliest first, as parcels
        of whole messages' recipients. A lease ends with `settle` or `release`, or with the process.
        """

    async def release(parcels: Sequence[Parcel]) -> None:
        """End leases without an attempt: the recipients are waiting again, due as before."""

    async def settle(settlements: Sequence[Settlement], notices: Sequence[Notice] = ()) -> Sequence[Put]:
        """Write what became of leased recipients, and queue the DSNs about it, all in one transaction; the leases end.
        Gives a `Put` for each notice, leased to the caller. Messages whose recipients are all over are removed.
        """

    async def bring_forward(seconds: float, after: float) -> None:
        """What waits and is due later than ``after`` (POSIX seconds) is due so many seconds earlier: the clock was set back."""

    def leased() -> int:
        """How many recipients are leased at this moment."""


class IQueueDesk(Interface):
    """What an operator can ask and tell a store; the same object as the `IQueueStore`."""

    async def find(selection: Selection) -> Sequence[Entry]:
        """The matching recipients, by message number."""

    async def content(message: int) -> Content | None:
        """A message's content, or None if there is no such message."""

    async def tell(selection: Selection, order: Order, reason: str = "") -> int:
        """Carry out the order on all that match and are not over and not leased, and give their number."""

    async def stats() -> Mapping[Destination, Mapping[str, int]]:
        """For each destination the number of recipients by state name, and ``"oldest"``: POSIX seconds of arrival."""


class IComponentFactory(Interface):
    """Makes a component known by a name: provide it, together with twisted's IPlugin, by an object in ``twisted/plugins/*.py``."""

    name = Attribute("The ``type = `` that the configuration says.")
    component = Attribute("The attrs class whose fields are the settings.")
