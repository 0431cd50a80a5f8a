"""A permit rule for branch offices: the door is an entry point, see pyproject.toml beside this file."""

from mailgw.api import IClock, IPv4Network, IPv6Network, IRelayPolicy, frozen, given, implementer, permit, proceed


@implementer(IRelayPolicy)
@frozen
class OfficeHours:
    """Branch offices may relay while somebody is there to answer the phone."""

    networks: list[IPv4Network | IPv6Network]
    opens: int = 8
    closes: int = 18
    clock: IClock = given(IClock)

    async def may_relay(self, facts):
        inside = any(facts.client.ip in network for network in self.networks)
        if inside and self.opens <= self.clock.now().hour < self.closes:
            return permit("branch office, office hours")
        return proceed()
