"""What the running gateway provides to its components: the fields that they ask for with `given`."""

from datetime import datetime
from random import SystemRandom
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IReactorProcess, IReactorThreads, IReactorTime
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.iweb import IAgent
from zope.interface import implementer

from mailgw.assemble import House, Identity
from mailgw.config.model import Configuration
from mailgw.dns.resolver import resolver
from mailgw.gateways.dialing import Dialer
from mailgw.interfaces import IClock, IDialer, IIdentity, IMemory, IPostOffice, IResolver
from mailgw.queue.post_office import PostOffice
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


def make_house(configuration: Configuration, reactor: Any) -> House:
    """The providers for what components ask with `given`."""
    server = configuration.server
    clock, identity = SystemClock(), Identity(server.hostname, server.postmaster)
    return {
        IAgent: Agent(  # type: ignore[no-untyped-call]
            reactor, connectTimeout=_CONNECT_TIMEOUT, pool=HTTPConnectionPool(reactor)  # type: ignore[no-untyped-call]
        ),
        IClock: clock,
        IDialer: Dialer(reactor),
        IIdentity: identity,
        IMemory: SqliteMemory(server.state / "memory.db", reactor, clock),
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
