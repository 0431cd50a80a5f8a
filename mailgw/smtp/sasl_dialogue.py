"""What all SASL mechanisms have in common on the client's side (RFC 4422)."""

__all__ = ["BadChallenge", "Dialogue", "saslname"]


class BadChallenge(Exception):
    """The server says what the mechanism does not allow, or cannot prove itself: the exchange is to be cancelled."""


class Dialogue:
    """One exchange by one mechanism, as the client. All octets are without base64."""

    initial: bytes | None = None  # the initial response; None: the server speaks first
    is_satisfied = True  # whether the server's 235 may be believed now
    is_slow = False  # whether `respond` computes for milliseconds
    reason = ""  # what the server said inside of the exchange about why it refuses

    def __init__(self, mechanism: str) -> None:
        self.mechanism = mechanism

    def respond(self, challenge: bytes) -> bytes:  # noqa: ARG002 - for mechanisms that have no more to say
        """The response to a challenge. Raises BadChallenge."""
        raise BadChallenge(f"server asks for more than {self.mechanism} has")


def saslname(text: str) -> str:
    """A name inside of a GS2 message (RFC 5801 §4)."""
    return text.replace("=", "=3D").replace(",", "=2C")
