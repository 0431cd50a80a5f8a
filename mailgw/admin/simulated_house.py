"""The providers for `given` fields in a simulation: policies run as they are, the DNS is asked, and nothing else reaches out."""

from datetime import datetime, timedelta
from typing import Any

from attrs import define
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.admin.still_house import NoAgent, NoDialer, NoProcesses
from mailgw.assemble import House, Identity
from mailgw.config.model import Configuration
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IPostOffice, IResolver
from mailgw.values.address import Address

__all__ = ["WHY", "MovingClock", "simulated_house"]

WHY = "not asked in a simulation"


@implementer(IClock)
@define
class MovingClock:
    """The time of day, or one that stands; `ahead` moves it on."""

    stands_at: datetime | None = None
    ahead: float = 0.0  # seconds

    def now(self) -> datetime:
        """See `IClock`."""
        return (self.stands_at or datetime.now().astimezone()) + timedelta(seconds=self.ahead)


@implementer(IPostOffice)
class _NoPostOffice:
    async def post(self, recipient: Address, subject: str, text: str) -> int:  # noqa: ARG002
        """Nobody is written to."""
        return 0


def simulated_house(configuration: Configuration, reactor: Any, clock: IClock, memory: IMemory, resolver: IResolver) -> House:
    """A house for one simulation; connections, web services and programs are refused with `WHY`."""
    server = configuration.server
    return {
        IAgent: NoAgent(WHY),
        IClock: clock,
        IDialer: NoDialer(WHY),
        IIdentity: Identity(server.hostname, server.postmaster),
        IMemory: memory,
        IPostOffice: _NoPostOffice(),
        IResolver: resolver,
        IReactorTime: reactor,
        IReactorThreads: reactor,
        IReactorProcess: NoProcesses(WHY),
    }
