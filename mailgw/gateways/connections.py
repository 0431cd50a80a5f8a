"""The kept connections of a gateway, and the way of a shipment along its next hops in order."""

from collections.abc import Callable, Iterable
from math import inf
from typing import Any

import attrs
from attrs import define, evolve, field
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IReactorThreads, IReactorTime
from twisted.internet.protocol import Factory

from mailgw.gateways.logging_in import Login
from mailgw.gateways.next_hop import NextHop, NotReached
from mailgw.gateways.outgoing_tls import VERIFIED, ClientCertificate, OutgoingTls, TlsMode
from mailgw.gateways.security import Security
from mailgw.gateways.server_login import CannotLogIn, ServerLogin, is_loopback
from mailgw.gateways.talking import Talk
from mailgw.gateways.threads import in_thread
from mailgw.interfaces import IDialer, IIdentity
from mailgw.patience import CutOff
from mailgw.smtp.client import ClientSession
from mailgw.smtp.client_events import Asked, Finished
from mailgw.smtp.framing import Nature
from mailgw.smtp.sasl_client import Proof
from mailgw.values.address import Address
from mailgw.values.content import Content
from mailgw.values.delivery import Fate, Outcome, Shipment, delivered, later, never
from mailgw.values.reply import Reply

__all__ = ["ATTEMPT_TIMEOUT", "Connections", "kept_connections", "refused_by"]

ATTEMPT_TIMEOUT = 3000.0
"""Seconds for one attempt with all its servers and stages: below the dispatcher's own limit, which knows no reason."""


_Key = tuple[str, str, TlsMode]


@define(eq=False)
class Connections:
    """Opens connections, keeps them for the next message, and replaces a kept one that has died unnoticed."""

    dialer: IDialer
    clock: IReactorTime
    threads: IReactorThreads
    identity: IIdentity
    tls: OutgoingTls
    mode: TlsMode = "never"
    lmtp: bool = False
    connect_timeout: float = 30.0  # seconds
    max_idle: float = 30.0  # seconds
    max_messages: int = 100  # on one connection
    attempt_timeout: float = ATTEMPT_TIMEOUT  # seconds
    login: ServerLogin | None = None
    _kept: dict[_Key, list[Talk]] = field(factory=dict, init=False)
    _open: set[Talk] = field(factory=set, init=False)
    _closing: bool = field(default=False, init=False)

    async def deliver(self, shipment: Shipment, hops: Iterable[NextHop]) -> dict[Address, Outcome]:
        """Hand the shipment to the first next hop that takes it (RFC 5321 §5.1).

        The next one is tried for those recipients whose server could not be reached, sent 421, or was lost before the end of
        the content, and while ``attempt_timeout`` has not passed. There must be one hop at least. Raises CutOff when it is cancelled.
        """
        deadline = self.clock.seconds() + self.attempt_timeout
        try:
            nature = await self._nature(shipment.content)
        except OSError as problem:
            return _all(shipment, later(Reply(451, "4.3.0", f"message cannot be read: {problem.strerror}")))
        outcomes: dict[Address, Outcome] = {}
        left = shipment
        for hop in hops:
            try:
                answers = (await self._hand_over(left, nature, hop, deadline)).outcomes
            except NotReached as problem:
                answers = _all(left, evolve(refused_by(hop, problem.reply), heard=problem.heard))
            except CutOff as end:
                raise CutOff({**outcomes, **end.outcomes}) from None
            except CancelledError:
                raise CutOff(outcomes) from None
            outcomes.update(answers)
            again = tuple(
                r for r in left.recipients if (o := answers[r.address]).fate is Fate.LATER and (o.unreachable or o.reply.code == 421)
            )
            if not again or self.clock.seconds() >= deadline:
                break
            left = evolve(left, recipients=again)
        return outcomes

    async def ask(self, recipient: Address, hops: Iterable[NextHop]) -> Outcome:
        """What the first next hop that can be reached says about a recipient, as `IAskableGateway.ask` gives it."""
        answer, peer = Asked(Reply(421, "4.4.1", "no next hop is known"), is_final=False), ""
        for hop in hops:
            peer = hop.label
            try:
                talk, is_new = await self._take(hop, self.mode)
                answer = await talk.ask(recipient)
                if answer.reply.code == 421 and not is_new:
                    talk = await self._dial(hop, self.mode)
                    answer = await talk.ask(recipient)
            except NotReached as problem:
                answer = Asked(problem.reply, is_final=False)
                continue
            self._keep(hop, self.mode, talk)
            if answer.reply.code != 421:
                break
        if answer.is_final and answer.reply.is_positive:
            return delivered(answer.reply, peer)
        # What is said about us, or about mail without a sender, says nothing about the recipient.
        return never(answer.reply, peer) if answer.is_final and answer.reply.is_permanent else later(answer.reply, peer)

    def close(self) -> None:
        """Close the unused connections now, the others when what is under way is over; open no more to keep."""
        self._closing = True
        for talk in list(self._open):
            talk.close()

    async def _nature(self, content: Content) -> Nature:
        if isinstance(content.original, bytes):
            return Nature.of(part for part in (content.added, content.original) if part)
        # The pass over the file also brings it into memory, so that sending it does not wait for the disk.
        return await in_thread(self.threads, lambda: Nature.of(content.chunks()))

    async def _hand_over(self, shipment: Shipment, nature: Nature, hop: NextHop, deadline: float) -> Finished:
        mode = self.mode
        if shipment.envelope.requiretls and mode != "implicit":
            mode = "require"  # RFC 8689 §4.2.1
        talk, is_new = await self._take(hop, mode, deadline)
        finished = await talk.hand_over(shipment, nature, deadline)
        if finished.untouched and not is_new:
            # The server had closed the kept connection, or was just about to. Nothing was said about the message yet.
            talk = await self._dial(hop, mode, deadline)
            finished = await talk.hand_over(shipment, nature, deadline)
        self._keep(hop, mode, talk)
        return finished

    async def _take(self, hop: NextHop, mode: TlsMode, deadline: float = inf) -> tuple[Talk, bool]:
        kept = self._kept.get((hop.where, hop.name, mode))
        while kept:
            talk = kept.pop()
            if talk.is_usable:
                return talk, False
        return await self._dial(hop, mode, deadline), True

    def _keep(self, hop: NextHop, mode: TlsMode, talk: Talk) -> None:
        if not talk.is_usable:
            return
        limit = min(self.max_messages, talk.max_messages) if talk.max_messages else self.max_messages
        if self._closing or talk.messages >= limit or not self.max_idle:
            talk.close()
        else:
            self._kept.setdefault((hop.where, hop.name, mode), []).append(talk)

    async def _dial(self, hop: NextHop, mode: TlsMode, deadline: float = inf) -> Talk:
        if self.login is None:
            return await self._dial_as(None, hop, mode, deadline)
        if mode not in VERIFIED and not is_loopback(hop.where):  # a route's own next hop, which no configuration has checked
            raise NotReached(Reply(454, "4.7.0", f'cannot log in at {hop.label}: the gateway does not say tls = "require"'))
        try:
            proof = await self.login.proof()
            try:
                return await self._dial_as(proof, hop, mode, deadline)
            except NotReached as problem:
                if not (problem.login_refused and self.login.has_another(proof)):
                    raise
            return await self._dial_as(await self.login.proof(), hop, mode, deadline)
        except CannotLogIn as problem:
            raise NotReached(Reply(454, "4.7.0", f"cannot log in: {problem}")) from None

    async def _dial_as(self, proof: Proof | None, hop: NextHop, mode: TlsMode, deadline: float) -> Talk:
        try:
            return await self._dial_with(proof, hop, mode, self._security(hop, mode), deadline)
        except NotReached as problem:
            if mode != "offered" or not problem.handshake_failed:
                raise
        # RFC 7435: where nobody can be authenticated, a broken TLS must not be worse than none.
        return await self._dial_with(proof, hop, mode, None, deadline)

    def _security(self, hop: NextHop, mode: TlsMode) -> Security | None:
        if mode == "never":
            return None
        if mode == "offered":
            return Security(self.tls.encrypted(hop.name), required=False, verified=False)
        try:
            return Security(self.tls.verified(hop.name), required=True, verified=True, implicit=mode == "implicit")
        except (OSError, ValueError) as problem:
            raise NotReached(Reply(451, "4.3.5", f"TLS towards {hop.name} is not possible: {problem}")) from problem

    async def _dial_with(self, proof: Proof | None, hop: NextHop, mode: TlsMode, security: Security | None, deadline: float) -> Talk:
        key = (hop.where, hop.name, mode)
        implicit = security is not None and security.implicit
        session = ClientSession(self.identity.hostname, lmtp=self.lmtp, encrypted=implicit, verified=implicit, peer=hop.label)
        login = Login(proof, self.threads) if proof else None
        talk = Talk(session, self.clock, security, self.max_idle, lambda talk: self._forget(key, talk), deadline, login)
        self._open.add(talk)
        try:
            await self.dialer.dial(hop.where, _Once(talk), self.connect_timeout)
        except (ConnectError, OSError) as problem:
            self._forget(key, talk)
            raise NotReached(Reply(451, "4.4.1", f"{hop.label} cannot be reached: {_reason(problem)}")) from problem
        except BaseException:
            self._forget(key, talk)
            raise
        await talk.ready
        return talk

    def _forget(self, key: _Key, talk: Talk) -> None:
        self._open.discard(talk)
        kept = self._kept.get(key, [])
        if talk in kept:
            kept.remove(talk)
        if not kept:
            self._kept.pop(key, None)


class _Once(Factory):
    noisy = False

    def __init__(self, talk: Talk) -> None:
        self._talk = talk

    def buildProtocol(self, _: Any) -> Talk:  # noqa: N802 - named by Twisted
        return self._talk


def refused_by(hop: NextHop, reply: Reply) -> Outcome:
    """The outcome for a recipient whose next hop gave no session."""
    return never(reply, hop.label) if reply.is_permanent else later(reply, hop.label, unreachable=True)


def _all(shipment: Shipment, outcome: Outcome) -> dict[Address, Outcome]:
    return {recipient.address: outcome for recipient in shipment.recipients}


def _reason(problem: Exception) -> str:
    return str(problem.__doc__ if isinstance(problem, ConnectError) and not problem.args else problem).strip().rstrip(".")


def kept_connections(
    lmtp: bool = False,
    login: Callable[[Any], ServerLogin | None] = lambda _: None,
    shown: Callable[[Any], ClientCertificate | None] = lambda _: None,
) -> Any:
    """A field for a component: the `Connections` that its settings and its given fields describe, by the names they all share.

    ``login`` and ``shown`` say how the component logs in and which certificate it shows.
    ``lmtp`` and `ATTEMPT_TIMEOUT` hold where the component has no setting of that name.
    """

    def made(component: Any) -> Connections:
        return Connections(
            component.dialer,
            component.clock,
            component.threads,
            component.identity,
            OutgoingTls(component.trust, shown(component)),
            component.tls,
            getattr(component, "lmtp", lmtp),
            component.connect_timeout,
            component.max_idle,
            component.max_messages,
            getattr(component, "attempt_timeout", ATTEMPT_TIMEOUT),
            login(component),
        )

    return field(init=False, repr=False, default=attrs.Factory(made, takes_self=True))
