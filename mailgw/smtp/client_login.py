"""The AUTH command as a client says it (RFC 4954 §4): base64, the initial response, cancelling, and nothing of it in any text."""

import binascii
import re
from base64 import b64decode, b64encode

from mailgw.smtp.client_events import Challenged, LoggedIn, LoginRefused
from mailgw.smtp.sasl_dialogue import Dialogue
from mailgw.values.reply import Reply

__all__ = ["LoggingIn"]

_LONGEST = 12288  # octets of an AUTH command (RFC 4954 §3 no. 5)
_TELLING = 4  # octets: what is shorter than this may stand in a text by chance
_PARTS = re.compile("[\0\1]|auth=Bearer ")  # of PLAIN, OAUTHBEARER, XOAUTH2


class LoggingIn:
    """One attempt to log in. ``command`` is to be said first; then `hear` what the server answers."""

    def __init__(self, dialogue: Dialogue) -> None:
        self.dialogue = dialogue
        self._said: list[bytes] = []
        self._problem = ""
        self._held: bytes | None = None  # the initial response, where it is too long for the command
        initial = dialogue.initial
        self.command = f"AUTH {dialogue.mechanism}\r\n".encode()
        if initial is not None:
            command = f"AUTH {dialogue.mechanism} ".encode() + (self._written(initial) or b"=") + b"\r\n"
            if len(command) > _LONGEST:
                self._held = initial
            else:
                self.command = command

    def hear(self, reply: Reply) -> bytes | Challenged | LoggedIn | LoginRefused:
        """What to say next, or what the answer means."""
        if reply.code == 334 and not self._problem:
            try:
                challenge = b64decode(reply.text.strip(), validate=True)
            except (binascii.Error, ValueError):
                return self.cancel("server's challenge is not base64")
            if self._held is not None:
                held, self._held = self._held, None
                return self.answer(held)
            return Challenged(challenge)
        if reply.is_positive and not self._problem:
            if self.dialogue.is_satisfied:
                return LoggedIn()
            self._problem = "server says that we are logged in, but has not proved who it is"
        if self._problem:
            return LoginRefused(Reply(454, "4.7.0", self._problem))
        return LoginRefused(Reply(reply.code, reply.enhanced, self._hidden(reply.text)), self.dialogue.reason)

    def answer(self, response: bytes) -> bytes:
        """The line for a response."""
        return self._written(response) + b"\r\n"

    def cancel(self, why: str) -> bytes:
        """The line that ends the exchange; its end is then a refusal for this reason."""
        self._problem = why
        return b"*\r\n"

    def _written(self, response: bytes) -> bytes:
        encoded = b64encode(response)
        self._said.append(encoded)
        return encoded

    def _hidden(self, text: str) -> str:
        # Some servers repeat the command that they refuse; texts go to the log and into the queue.
        for said in self._said:
            response = b64decode(said).decode("utf-8", "replace")
            for secret in (said.decode(), response, *_PARTS.split(response)):
                if len(secret) >= _TELLING:
                    text = text.replace(secret, "[hidden]")
        return text
