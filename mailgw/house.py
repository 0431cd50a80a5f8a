"""What the running gateway provides to its components: the fields that they ask for with `given`."""

from datetime import datetime
from functools import cached_property
from random import SystemRandom
from typing import Any

from attrs import define, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from mailgw.assemble import House, Identity
from mailgw.config.model import Configuration
from mailgw.dns.resolver import resolver
from mailgw.gateways.dialing import Dialer
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IPostOffice, IResolver
from mailgw.queue.post_office import PostOffice
from mailgw.storage.memory_in_process import InProcessMemory
from mailgw.storage.memory_sqlite import SqliteMemory

__all__ = ["make_house", "renew_house"]

_CONNECT_TIMEOUT = 10.0  # seconds, for who speaks HTTP


@implementer(IClock)
@frozen
class SystemClock:
    """The time of day, with the machine's time zone."""

    def now(self) -> datetime:
        """Now."""
        return datetime.now().astimezone()


@implementer(IAgent)
@define(eq=False)
class _Agent:
    """Twisted's Agent with a pool of connections, made for the first request: most gateways speak no HTTP."""

    reactor: Any

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None  # noqa: N803
    ) -> Deferred[IResponse]:
        """See `IAgent`."""
        return self._agent.request(method, uri, headers, bodyProducer)

    @cached_property
    def _agent(self) -> IAgent:
        # Imported where it is wanted, as it costs every other start 10 ms.
        from twisted.web.client import Agent, HTTPConnectionPool

        pool = HTTPConnectionPool(self.reactor)  # type: ignore[no-untyped-call]
        agent: IAgent = Agent(self.reactor, connectTimeout=_CONNECT_TIMEOUT, pool=pool)  # type: ignore[no-untyped-call]
        return agent


def make_house(configuration: Configuration, reactor: Any) -> House:
    """The providers for what components ask with `given`."""
    server, memory = configuration.server, configuration.memory
    clock, identity = SystemClock(), Identity(server.hostname, server.postmaster)
    return {
        IAgent: _Agent(reactor),
        IClock: clock,
        IDialer: Dialer(reactor),
        IIdentity: identity,
        IMemory: (
            SqliteMemory(server.state / "memory.db", reactor, clock, memory.max_keys)
            if memory.type == "sqlite"
            else InProcessMemory(clock, memory.max_keys)
        ),
        IPostOffice: PostOffice(identity, clock, SystemRandom()),
        IResolver: resolver(reactor, server.resolvers),
        IReactorTime: reactor,
        IReactorThreads: reactor,
        IReactorProcess: reactor,
    }


def renew_house(configuration: Configuration, old: Configuration, house: House, reactor: Any) -> House:
    """The house for another configuration while the gateway runs: all stays but who is asked about names."""
    if configuration.server.resolvers == old.server.resolvers:
        return house
    return {**house, IResolver: resolver(reactor, configuration.server.resolvers)}
