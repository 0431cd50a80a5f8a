"""A small gateway around the dispatcher: the in-process store, a clock that a test moves, a journal that remembers."""

from random import Random
from types import SimpleNamespace

from twisted.internet.task import Clock

from mailgw.journal import Journal
from mailgw.queue.dispatcher import Dispatcher
from mailgw.queue.retry import Schedule
from mailgw.routes.by_domain import ByDomain
from mailgw.routes.default import Default
from mailgw.routing import Routing, Rule
from mailgw.storage.in_process import InProcessStore
from mailgw.testing.facts import MESSAGE, an_address, an_envelope
from mailgw.testing.gateways import ScriptedDomainGateway, ScriptedGateway
from mailgw.testing.running import run
from mailgw.values.content import Content
from mailgw.values.delivery import Destination, Recipient
from mailgw.values.ledger import Selection

START = 1_767_600_000.0
SCHEDULE = Schedule(retry=(300.0, 900.0, 3600.0), warn_after=4 * 3600.0, give_up=24 * 3600.0)


class House:
    """Mail for example.org goes to ``mailboxes``, all else to ``internet``, domain by domain."""

    def __init__(self, store=None, rules=None, **settings):
        self.clock = Clock()
        self.clock.advance(START)
        self.store = store or InProcessStore()
        self.mailboxes = ScriptedGateway()
        self.internet = ScriptedDomainGateway()
        self.events = []
        self.rules = rules or [Rule("ours", ByDomain({"example.org", "example.com"}, "mailboxes")), Rule("otherwise", Default("internet"))]
        self.settings = settings
        self.dispatcher = self.another()

    def another(self):
        """A dispatcher after a restart."""
        settings = {
            "gateways": {"mailboxes": self.mailboxes, "internet": self.internet},
            "schedules": {"mailboxes": SCHEDULE, "internet": SCHEDULE},
            "routing": Routing(self.rules, frozenset({"internet"})),
            **self.settings,
        }
        return Dispatcher(
            store=self.store,
            journal=Journal((SimpleNamespace(note=self.events.append),)),
            clock=self.clock,
            identity=SimpleNamespace(hostname="mx.example.net", postmaster=an_address("postmaster@example.net")),
            randomness=Random(1),
            **settings,
        )

    def put(self, *recipients, sender="sender@example.com", content=MESSAGE, **envelope):
        """Commit a message, routed as at RCPT, without offering it."""
        routed = []
        for recipient in recipients:
            recipient = recipient if isinstance(recipient, Recipient) else Recipient(an_address(recipient))
            domain = recipient.address.domain
            ours = domain in ("example.org", "example.com")
            routed.append((recipient, Destination("mailboxes") if ours else Destination("internet", domain)))
        return run(self.store.put(an_envelope(sender, arrived=self.clock.seconds(), **envelope), Content.of(content), routed))

    def send(self, *recipients, **more):
        """Commit a message and offer it."""
        put = self.put(*recipients, **more)
        self.dispatcher.offer(put)
        return put.message

    def forget_leases(self):
        """What a crash does to the store."""
        self.store._leased.clear()

    def pass_time(self, seconds, step=1.0):
        """Let time pass, in steps."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))

    def rows(self, **selection):
        return run(self.store.find(Selection(limit=1_000_000, **selection)))

    def noted(self, *kinds):
        return [event for event in self.events if type(event).__name__ in kinds]

    @property
    def dsns(self):
        """The DSNs that reached the mailboxes."""
        return [shipment for shipment in self.mailboxes.shipments if not shipment.sender]
