"""The providers for `given` fields in a simulation: policies run as they are, the DNS is asked, and nothing else reaches out.

Unless that is wanted: then policies may ask other servers, as they do in the running gateway. Mail is never sent.
"""

from datetime import datetime, timedelta
from typing import Any

from attrs import define, field
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from twisted.web.client import Agent
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.admin.still_house import NoAgent, NoDialer, NoProcesses
from mailgw.assemble import House, Identity
from mailgw.config.model import Configuration
from mailgw.gateways.dialing import Dialer
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IPostOffice, IResolver
from mailgw.values.address import Address

__all__ = ["WHY", "MovingClock", "Outside", "simulated_house"]

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


@implementer(IDialer, IAgent)
@define
class Outside:
    """The way to other servers; it remembers who was, or would have been, asked."""

    dialer: Any  # provides IDialer
    agent: Any  # provides IAgent
    wanted: list[str] = field(factory=list)  # "unix:/run/postgrey", "tcp:192.0.2.1:25", "https://example.org/"

    async def dial(self, where: str, factory: Any, timeout: float) -> Any:
        """See `IDialer`."""
        self._note(where)
        return await self.dialer.dial(where, factory, timeout)

    def request(self, method: bytes, uri: bytes, headers: Any = None, bodyProducer: Any = None) -> Any:  # noqa: N803
        """See `IAgent`."""
        self._note(uri.decode("ascii", "replace").partition("?")[0])
        return self.agent.request(method, uri, headers, bodyProducer)

    def _note(self, where: str) -> None:
        if where not in self.wanted:
            self.wanted.append(where)


def simulated_house(
    configuration: Configuration, reactor: Any, clock: IClock, memory: IMemory, resolver: IResolver, ask_others: bool = False
) -> House:
    """A house for one simulation. Programs are refused with `WHY`; so are connections and web services, unless ``ask_others``."""
    server = configuration.server
    nobody = Outside(NoDialer(WHY), NoAgent(WHY))
    outside = Outside(Dialer(reactor), Agent(reactor)) if ask_others else nobody  # type: ignore[no-untyped-call]
    return {
        IAgent: outside,
        IClock: clock,
        IDialer: outside,
        IIdentity: Identity(server.hostname, server.postmaster),
        IMemory: memory,
        IPostOffice: _NoPostOffice(),
        IResolver: resolver,
        IReactorTime: reactor,
        IReactorThreads: reactor,
        IReactorProcess: NoProcesses(WHY),
    }
