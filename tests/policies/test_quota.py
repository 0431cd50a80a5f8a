"""How much one may send: counted exactly, deferred with a time to come again, and told to the postmaster in time."""

import pytest
from attrs import define, field
from zope.interface import implementer
from zope.interface.verify import verifyObject

from mailgw.assemble import Identity
from mailgw.interfaces import IContentPolicy, IPostOffice, IRecipientPolicy, ISenderPolicy, MemoryUnavailable, StoreUnavailable
from mailgw.policies.quota import Quota
from mailgw.testing import InProcessMemory, a_message, a_recipient, a_sender, at, run
from mailgw.values.address import Address
from mailgw.values.decision import Verdict
from mailgw.values.quantities import Rate

US = Identity("mx.example.org", Address.parse("postmaster@example.org"))
HOURLY = Rate.parse("10 per hour")


@implementer(IPostOffice)
@define
class Letters:
    sent: list = field(factory=list)
    trouble: Exception | None = None

    async def post(self, recipient, subject, text):
        if self.trouble:
            raise self.trouble
        self.sent.append((str(recipient), subject, text))
        return len(self.sent)


@define
class Desk:
    """A quota and what it lives on."""

    settings: dict
    clock: object = field(factory=lambda: at("2026-01-05T10:48:00+00:00"))
    letters: Letters = field(factory=Letters)
    memory: InProcessMemory = field(init=False)
    policy: Quota = field(init=False)

    def __attrs_post_init__(self):
        self.memory = InProcessMemory(self.clock)
        self.policy = self.another(**self.settings)

    def another(self, **settings):
        return Quota(**settings, memory=self.memory, clock=self.clock, identity=US, post_office=self.letters)

    def mail(self, login="anna", **client):
        return said(run(self.policy.check_sender(a_sender(login=login, **client))))

    def rcpt(self, login="anna", **client):
        return said(run(self.policy.check_recipient(a_recipient(login=login, **client))))

    def data(self, login="anna", **client):
        return said(run(self.policy.check_content(a_message(login=login, **client))))


def said(decision):
    return "ok" if decision.verdict is Verdict.PROCEED else str(decision.reply)


FULL = "450 4.7.1 the limit of 10 messages per hour is reached, try again in {}"


def test_it_is_three_policies():
    policy = Desk({"limit": HOURLY}).policy
    assert all(verifyObject(one, policy) for one in (ISenderPolicy, IRecipientPolicy, IContentPolicy))


def test_messages():
    desk = Desk({"limit": HOURLY})
    for _ in range(10):
        assert [desk.mail(), desk.rcpt(), desk.rcpt(), desk.data()] == ["ok"] * 4
    assert desk.mail() == FULL.format("12 minutes")
    assert desk.data() == FULL.format("12 minutes")  # who was let in by MAIL before
    assert desk.mail("ben") == desk.data("ben") == "ok"
    assert desk.mail("ANNA") != "ok"
    desk.clock.advance(700)
    assert desk.mail() == FULL.format("1 minute")
    desk.clock.advance(20)
    assert desk.mail() == desk.data() == "ok"


def test_mail_that_is_never_sent_costs_nothing():
    desk = Desk({"limit": HOURLY})
    assert {desk.mail() for _ in range(100)} == {"ok"}


def test_recipients():
    desk = Desk({"recipients": Rate.parse("3 per day")})
    assert [desk.rcpt() for _ in range(4)] == ["ok"] * 3 + [
        "450 4.7.1 the limit of 3 recipients per day is reached, try again in 14 hours"
    ]
    assert desk.mail() == "450 4.7.1 the limit of 3 recipients per day is reached, try again in 14 hours"
    assert desk.data() == "ok"
    desk.clock.advance(14 * 3600)
    assert desk.rcpt() == "ok"


def test_both():
    desk = Desk({"limit": Rate.parse("1 per hour"), "recipients": Rate.parse("100 per week")})
    assert [desk.mail(), desk.rcpt(), desk.rcpt(), desk.data(), desk.rcpt()] == ["ok"] * 5
    assert "1 message per hour" in desk.mail()


def test_networks():
    desk = Desk({"limit": Rate.parse("2 per 10m"), "per": "network"})
    where = ["2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1", "192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"]
    refused = "450 4.7.1 the limit of 2 messages per 600s is reached, try again in 2 minutes"
    assert [desk.data("", ip=ip) for ip in where] == ["ok", "ok", refused, "ok", "ok", "ok", refused, "ok"]


def test_who_has_not_logged_in_is_nobody():
    desk = Desk({"limit": Rate.parse("1 per hour")})
    assert {desk.data("") for _ in range(5)} == {"ok"}


@pytest.mark.parametrize("login", ["x" * 5000, "a b", "ü@example.org", "quota:x"])
def test_any_login(login):
    desk = Desk({"limit": Rate.parse("1 per hour")})
    assert desk.data(login) == "ok"
    assert desk.data(login) != "ok"


def test_the_same_limit_counts_together_and_others_do_not():
    desk = Desk({"limit": Rate.parse("1 per hour")})
    assert desk.data() == "ok"
    same, other = desk.another(limit=Rate.parse("1 per 60m")), desk.another(limit=Rate.parse("1 per day"))
    assert run(same.check_content(a_message(login="anna"))).verdict is Verdict.DEFER
    assert run(other.check_content(a_message(login="anna"))).verdict is Verdict.PROCEED


def test_the_postmaster_is_warned_once_before_the_limit():
    desk = Desk({"limit": HOURLY})
    for _ in range(7):
        desk.data(ip="192.0.2.9")
    assert desk.letters.sent == []
    for _ in range(10):
        desk.data(ip="192.0.2.9")
    [(recipient, subject, text)] = desk.letters.sent
    assert recipient == "postmaster@example.org"
    assert subject == "anna is close to the limit of 10 per hour"
    assert "anna has sent 8 messages. The limit is 10 per hour" in text
    assert "192.0.2.9" in text
    desk.clock.advance(3600)
    for _ in range(10):
        desk.data()
    assert len(desk.letters.sent) == 2


@pytest.mark.parametrize(("warn_at", "limit", "at_count"), [(100, 10, 10), (1, 10, 1), (50, 3, 2), (80, 1, 1), (0, 10, None)])
def test_when_to_warn(warn_at, limit, at_count):
    desk = Desk({"limit": Rate(limit, 3600.0), "warn_at": warn_at})
    warned = []
    for count in range(1, 13):
        desk.data()
        if desk.letters.sent:
            warned.append(count)
    assert warned == ([] if at_count is None else list(range(at_count, 13)))
    assert len(desk.letters.sent) == (at_count is not None)


def test_a_warning_that_cannot_be_sent_costs_no_mail():
    desk = Desk({"limit": HOURLY})
    desk.letters.trouble = StoreUnavailable("full")
    assert [desk.data() for _ in range(10)] == ["ok"] * 10


def test_without_memory_nothing_is_sent():
    desk = Desk({"limit": HOURLY, "recipients": HOURLY})
    desk.memory.trouble = MemoryUnavailable("gone")
    for ask in (desk.mail, desk.rcpt, desk.data):
        with pytest.raises(MemoryUnavailable):
            ask()


@pytest.mark.parametrize(
    ("settings", "why"),
    [({}, 'say "limit"'), ({"limit": HOURLY, "warn_at": 101}, "percentage"), ({"limit": HOURLY, "warn_at": -1}, "percentage")],
    ids=str,
)
def test_settings_that_make_no_sense(settings, why):
    with pytest.raises(ValueError, match=why):
        Desk(settings)


@pytest.mark.parametrize("text", ["200 per hour", "1 per second", "5 per 600s", "7 per 0.5s", "3 per week"])
def test_rates_are_said_as_they_are_written(text):
    assert str(Rate.parse(text)) == text
