"""How many sessions one client, network or login may have at the same time."""

from typing import Any, Literal

from attrs import define, field, frozen
from attrs.validators import ge
from zope.interface import implementer

from mailgw.interfaces import IClientPolicy, IObserver, ISenderPolicy
from mailgw.journal import Disconnected
from mailgw.policies.action import Action, act
from mailgw.policies.who import client_of, network_of
from mailgw.values.decision import Decision, Evidence, proceed
from mailgw.values.facts import ClientFacts, SenderFacts

__all__ = ["Concurrency"]

_SOURCE = {"client": "the connection", "network": "the connection", "login": "the login"}


@define
class _Present:
    """Who is here at this moment."""

    who: dict[str, str] = field(factory=dict)  # by session
    count: dict[str, int] = field(factory=dict)  # by who

    def enter(self, session: str, who: str) -> None:
        self.who[session] = who
        self.count[who] = self.count.get(who, 0) + 1

    def leave(self, session: str) -> None:
        who = self.who.pop(session, "")
        if who:
            self.count[who] -= 1
            if not self.count[who]:
                del self.count[who]


@implementer(IClientPolicy, ISenderPolicy, IObserver)
@frozen
class Concurrency:
    """``type = "concurrency"``: acts on sessions above ``limit`` at the same time, at the listeners that list it.

    Clients and networks are counted before the greeting, logins at the first MAIL after it. Each process counts for itself, in
    its own memory. A session that was found to be too many takes no place from others.
    """

    limit: int = field(validator=ge(1))
    per: Literal["client", "network", "login"] = "client"
    """client: an IPv4 address or IPv6 /64; network: a /24 or /48; login: clients that have not logged in are not counted."""
    action: Action = "defer"
    tag: str = "too-many-sessions"
    _present: _Present = field(factory=_Present, init=False, repr=False, eq=False)

    def check_client(self, facts: ClientFacts) -> Decision:
        if self.per == "login":
            return _FINE
        return self._enter(facts, client_of(facts.ip) if self.per == "client" else network_of(facts.ip, 24, 48))

    def check_sender(self, facts: SenderFacts) -> Decision:
        return self._enter(facts.client, facts.client.login.lower()) if self.per == "login" and facts.client.login else _FINE

    def note(self, event: Any) -> None:
        """Let go who has gone."""
        if type(event) is Disconnected:
            self._present.leave(event.session)

    def _enter(self, client: ClientFacts, who: str) -> Decision:
        present = self._present
        if present.who.get(client.session) == who:
            return _FINE
        present.leave(client.session)  # it was somebody else before: a proxy has said for whom it speaks
        count = present.count.get(who, 0)
        if count < self.limit:
            present.enter(client.session, who)
            return _FINE
        return act(
            self.action,
            f"too many sessions at once from your {_YOURS[self.per]}, try again later",
            status="7.0",
            why=f"{who} has {count} other session{'s' if count > 1 else ''}",
            tag=self.tag,
            evidence=(Evidence(self.per, who, _SOURCE[self.per]), Evidence("other sessions", str(count), "this process")),
            remedy=f"an end of one of its sessions, or a higher limit than {self.limit}",
        )


_FINE = proceed()
_YOURS = {"client": "address", "network": "network", "login": "account"}
