"""POP before SMTP: who has just fetched mail with a password may send for a while, from the same address.

For old clients only: everybody behind that address may send. Who fetched, and from where, is told by our POP3 service
(`mailgw.fetching`) or, of other servers, by ``mailgw fetched``.
"""

from ipaddress import IPv4Address, IPv6Address

from attrs import field, frozen
from zope.interface import implementer

from mailgw.given import given
from mailgw.interfaces import IClock, IMemory, IRelayPolicy
from mailgw.values.decision import Decision, Evidence, permit, proceed
from mailgw.values.facts import UNKNOWN_IP, RecipientFacts
from mailgw.values.quantities import Duration

__all__ = ["LONGEST", "RecentlyFetched", "note_fetch"]

LONGEST = 86400.0  # seconds for which a fetch is remembered


def _at_most_a_day(_: object, __: object, value: float) -> None:
    if not 0 < value <= LONGEST:
        raise ValueError('within must be more than nothing and at most "1d"')


async def note_fetch(memory: IMemory, clock: IClock, ip: IPv4Address | IPv6Address, login: str = "") -> str:
    """Remember that ``login`` fetched mail from ``ip``, and give the address as it is known now.

    Raises MemoryUnavailable, and ValueError for what is no client's address.
    """
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    if ip.is_unspecified or ip.is_multicast:
        raise ValueError(f"{ip} is nobody's address")
    await memory.remember(f"fetched:{ip}", f"{clock.now().timestamp()} {login[:200]}", LONGEST)
    return str(ip)


@implementer(IRelayPolicy)
@frozen
class RecentlyFetched:
    """``type = "recently-fetched"``: permits what comes from an address from which mail was fetched a short time ago."""

    within: Duration = field(default=900.0, validator=_at_most_a_day)
    """How long ago that may be."""
    memory: IMemory = given(IMemory)
    clock: IClock = given(IClock)

    async def may_relay(self, facts: RecipientFacts) -> Decision:
        """Permit, or no opinion. Raises MemoryUnavailable."""
        ip = facts.client.ip
        if ip == UNKNOWN_IP:
            return proceed()
        said = await self.memory.recall(f"fetched:{ip}")
        moment, _, login = (said or "").partition(" ")
        # A time in the future is that of a clock which was put back: not to be relied on.
        if not moment:
            return proceed(why=f"nobody has fetched mail from {ip} in the last day")
        ago = self.clock.now().timestamp() - float(moment)
        if not 0 <= ago <= self.within:
            last = (Evidence("fetched", f"{ago:.0f} s ago", f"memory of {ip}"),)
            return proceed(why=f"nobody has fetched mail from {ip} in the last {self.within:.0f} s", evidence=last)
        return permit(f"{login or 'somebody'} has fetched mail from there")
