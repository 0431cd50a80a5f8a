"""The login on one connection to a next hop."""

from typing import Any

from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorThreads
from twisted.python.failure import Failure

from mailgw.gateways.next_hop import NotReached
from mailgw.gateways.threads import in_thread
from mailgw.gateways.tls_binding import binding_of
from mailgw.smtp.client import ClientSession
from mailgw.smtp.client_events import LoginRefused
from mailgw.smtp.sasl_client import NoMechanism, Proof, choose
from mailgw.smtp.sasl_dialogue import BadChallenge, Dialogue
from mailgw.values.reply import Reply

__all__ = ["Login"]


class Login:
    """Shows a server what we have, by the strongest mechanism that both know; slow computing is done in a thread.

    Whatever the server says is about us and not about the message: that waits until somebody has put it right.
    """

    def __init__(self, proof: Proof, threads: IReactorThreads) -> None:
        self._proof = proof
        self._threads = threads
        self._dialogue: Dialogue | None = None

    def begin(self, session: ClientSession, transport: Any) -> None:
        """Say AUTH. Raises NotReached where there is no mechanism for it."""
        binding = binding_of(transport) if session.encrypted else None
        try:
            self._dialogue = choose(self._proof, session.extensions.auth, verified=session.verified, binding=binding)
        except (NoMechanism, ValueError) as problem:
            raise NotReached(Reply(454, "4.7.0", f"cannot log in: {problem}")) from None
        session.log_in(self._dialogue)

    def respond(self, challenge: bytes) -> "Deferred[bytes | str]":
        """The response, or as text the reason for which there is none."""
        dialogue = self._dialogue
        assert dialogue

        def sorry(failure: Failure) -> str:
            failure.trap(BadChallenge)  # type: ignore[no-untyped-call]
            return failure.getErrorMessage()

        response: Deferred[Any]
        if dialogue.is_slow:
            response = in_thread(self._threads, lambda: dialogue.respond(challenge))
        else:
            response = execute(dialogue.respond, challenge)
        return response.addErrback(sorry)

    @staticmethod
    def say(session: ClientSession, response: bytes | str) -> None:
        """Say what `respond` gave."""
        if isinstance(response, bytes):
            session.answer(response)
        else:
            session.cancel_login(response)

    def refused(self, refused: LoginRefused) -> NotReached:
        """What it means that a server does not let us in."""
        assert self._dialogue
        name, reply = self._proof.login, refused.reply
        reason = f" ({refused.reason})" if refused.reason else ""
        text = f"login{f' of {name}' if name else ''} by {self._dialogue.mechanism} failed: {reply}{reason}"
        return NotReached(Reply(454, "4.7.0", text), login_refused=reply.is_permanent)
