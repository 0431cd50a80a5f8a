"""How much one login, or one network, may send in an hour or a day: a stolen password is worth less, and is noticed."""

from hashlib import sha256
from ipaddress import ip_network
from typing import Literal

from attrs import field, frozen
from twisted.logger import Logger
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import (
    IClock,
    IContentPolicy,
    IIdentity,
    IMemory,
    IPostOffice,
    IRecipientPolicy,
    ISenderPolicy,
    StoreUnavailable,
)
from mailgw.values.decision import Decision, Evidence, defer, proceed
from mailgw.values.facts import ClientFacts, ContentFacts, RecipientFacts, SenderFacts
from mailgw.values.quantities import Rate

__all__ = ["Quota"]

log = Logger()

_LONGEST_NAME = 200  # characters of a login in a key
_NETWORK = {4: 32, 6: 64}  # prefix lengths: who is one client
_NOT_COUNTED = ""


def _percent(_: object, __: object, value: int) -> None:
    if not 0 <= value <= 100:
        raise ValueError("warn_at is a percentage: 0 to 100")


@implementer(ISenderPolicy, IRecipientPolicy, IContentPolicy)
@frozen
class Quota:
    """``type = "quota"``: defers what is above the limits with 450 4.7.1, and says when to come again.

    Time goes by in whole periods: from hour to hour of the clock, from day to day in UTC. A message counts when all of it is here,
    a recipient when it is asked for. Policies with the same ``per`` and the same limit count together, whichever listener they are
    for.
    """

    limit: Rate | None = None
    """Messages: ``"200 per hour"``."""
    recipients: Rate | None = None
    """Recipients: ``"1000 per day"``."""
    per: Literal["login", "network"] = "login"
    """Who is counted: each login (clients that have not logged in are not counted), or each IPv4 address and IPv6 /64."""
    warn_at: int = field(default=80, validator=_percent)
    """At how many percent of a limit the postmaster gets a mail, once in each period; 0: never."""
    memory: IMemory = given(IMemory)
    clock: IClock = given(IClock)
    identity: IIdentity = given(IIdentity)
    post_office: IPostOffice = given(IPostOffice)

    def __attrs_post_init__(self) -> None:
        if self.limit is None and self.recipients is None:
            raise ValueError('needs a limit: say "limit", "recipients", or both')

    async def check_sender(self, facts: SenderFacts) -> Decision:
        """Say at once that a limit is reached, before anything is sent. Raises MemoryUnavailable."""
        for rate, unit in ((self.limit, "messages"), (self.recipients, "recipients")):
            decision = await self._count(facts.client, rate, unit, 0)
            if decision is not None:
                return decision
        return proceed()

    async def check_recipient(self, facts: RecipientFacts) -> Decision:
        """Count it. Raises MemoryUnavailable."""
        return await self._count(facts.client, self.recipients, "recipients", 1) or proceed()

    async def check_content(self, facts: ContentFacts) -> Decision:
        """Count it. Raises MemoryUnavailable."""
        return await self._count(facts.client, self.limit, "messages", 1) or proceed()

    async def _count(self, client: ClientFacts, rate: Rate | None, unit: str, amount: int) -> Decision | None:
        who = self._who(client)
        if rate is None or who == _NOT_COUNTED:
            return None
        now = self.clock.now().timestamp()
        period = int(now // rate.seconds)
        left = (period + 1) * rate.seconds - now
        count = await self.memory.count(f"quota:{unit} {self.per} {rate} {period} {who}", amount, max(left, 1.0))
        # The sum is exact, so that one alone of all processes sees it reach the mark.
        if amount and self.warn_at and count == -(-rate.count * self.warn_at // 100):
            await self._warn(client, rate, unit, count, left)
        if count + (not amount) <= rate.count:
            return None
        number, period_of_time = str(rate).split(" ", 1)
        return defer(
            f"the limit of {number} {unit if rate.count > 1 else unit[:-1]} {period_of_time} is reached, try again in {_spoken(left)}",
            why=f"{count} {unit if count > 1 else unit[:-1]} of {client.login or client.ip}",
            evidence=(
                self._whose(client, who),
                Evidence(f"{unit} in this {period_of_time.removeprefix('per ')}", str(count), "memory"),
                Evidence("limit", str(rate), "the policy's settings"),
            ),
            remedy=f"{_spoken(left)} later, or a higher limit; another {self.per} has its own count",
        )

    def _who(self, client: ClientFacts) -> str:
        if self.per == "network":
            return str(ip_network((client.ip, _NETWORK[client.ip.version]), strict=False))
        login = client.login.lower()
        return login if len(login) <= _LONGEST_NAME else sha256(login.encode()).hexdigest()

    def _whose(self, client: ClientFacts, who: str) -> Evidence:
        if self.per == "network":
            return Evidence("network", who, "the connection")
        return Evidence("login", client.login, "the client's AUTH command")

    async def _warn(self, client: ClientFacts, rate: Rate, unit: str, count: int, left: float) -> None:
        who = client.login if self.per == "login" else str(client.ip)
        text = (
            f"{who} has sent {count} {unit}. The limit is {rate}; what is above it is deferred\n"
            f"for the rest of the period, which ends in {_spoken(left)}.\n\n"
            f"The last came from {client.ip}, session {client.session}, listener {client.listener}.\n"
            "If this is more than you would expect, the password may be in other hands.\n"
        )
        try:
            await self.post_office.post(self.identity.postmaster, f"{who} is close to the limit of {rate}", text)
        except StoreUnavailable as problem:  # the mail that is asked about need not suffer for it
            log.error("nobody could be told that {who} is close to {rate}: {problem}", who=who, rate=str(rate), problem=str(problem))


def _spoken(seconds: float) -> str:
    size, unit = next(((size, unit) for size, unit in ((86400, "day"), (3600, "hour")) if seconds > 1.5 * size), (60, "minute"))
    number = max(1, -int(-seconds // size))
    return f"{number} {unit}{'s' if number > 1 else ''}"
