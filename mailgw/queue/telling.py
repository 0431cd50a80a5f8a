"""Telling the sender: from reports to DSNs that are ready to be queued."""

from collections.abc import Sequence
from random import Random

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from mailgw.interfaces import IIdentity
from mailgw.journal import Journal
from mailgw.queue.bounce import Action, Report, compose
from mailgw.queue.reading import find_route
from mailgw.queue.settling import Told
from mailgw.routing import Found, Routing
from mailgw.values.delivery import Destination
from mailgw.values.ledger import Notice, Parcel

__all__ = ["Telling"]

_UNROUTED = Destination("", "")
_KINDS: tuple[tuple[Action, ...], ...] = (("failed",), ("delayed",), ("delivered", "relayed", "expanded"))


@frozen
class Telling:
    """Makes DSNs and asks the routes where they go."""

    routing: Routing
    identity: IIdentity
    journal: Journal
    clock: IReactorTime
    randomness: Random

    async def notices(self, parcel: Parcel, reports: Sequence[Report]) -> list[Told]:
        """One DSN for each kind of action, with all recipients concerned.

        One that no route wants, or whose route does not work now, is queued all the same: it is routed again before an attempt.
        """
        told = []
        for kind in _KINDS:
            concerned = [report for report in reports if report.action in kind]
            if not concerned:
                continue
            dsn = compose(
                parcel.envelope,
                parcel.content,
                concerned,
                hostname=self.identity.hostname,
                postmaster=self.identity.postmaster,
                now=self.clock.seconds(),
                randomness=self.randomness,
            )
            found = await find_route(self.routing, dsn.envelope, dsn.recipient.address, self.clock, self.journal)
            destination = found.destination if isinstance(found, Found) else _UNROUTED
            notice = Notice(dsn.envelope, dsn.content, dsn.recipient, destination)
            told.append(Told(notice, concerned[0].action, parcel.envelope.session, parcel.message))
        return told
