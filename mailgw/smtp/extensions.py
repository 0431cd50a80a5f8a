"""What a server offers in its answer to EHLO (RFC 5321 §4.1.1.1)."""

from attrs import frozen

from mailgw.values.reply import Reply

__all__ = ["Extensions"]


@frozen(kw_only=True)
class Extensions:
    """The offers we know how to use; a server that only speaks HELO offers none of them."""

    pipelining: bool = False  # RFC 2920
    eight_bit_mime: bool = False  # RFC 6152
    smtputf8: bool = False  # RFC 6531
    enhanced_status_codes: bool = False  # RFC 2034
    chunking: bool = False  # RFC 3030
    binary_mime: bool = False  # RFC 3030; of use only together with CHUNKING
    dsn: bool = False  # RFC 3461
    starttls: bool = False  # RFC 3207
    requiretls: bool = False  # RFC 8689
    size: bool = False  # RFC 1870
    max_size: int = 0  # octets; 0: no limit told
    max_recipients: int = 0  # RCPTMAX of LIMITS (RFC 9422); 0: not told
    max_messages: int = 0  # MAILMAX of LIMITS (RFC 9422); 0: not told
    auth: frozenset[str] = frozenset()  # SASL mechanisms (RFC 4954)

    @classmethod
    def of(cls, reply: Reply) -> "Extensions":
        """Read the reply to EHLO or LHLO. What is malformed or unknown counts as not offered."""
        offers: dict[str, list[str]] = {}
        for line in reply.text.upper().split("\n")[1:]:
            words = line.split()
            if words:
                offers.setdefault(words[0], words[1:])
        limits = dict(word.split("=", 1) for word in offers.get("LIMITS", ()) if "=" in word)
        return cls(
            pipelining="PIPELINING" in offers,
            eight_bit_mime="8BITMIME" in offers,
            smtputf8="SMTPUTF8" in offers,
            enhanced_status_codes="ENHANCEDSTATUSCODES" in offers,
            chunking="CHUNKING" in offers,
            binary_mime="BINARYMIME" in offers and "CHUNKING" in offers,
            dsn="DSN" in offers,
            starttls="STARTTLS" in offers,
            requiretls="REQUIRETLS" in offers,
            size="SIZE" in offers,
            max_size=_number((offers.get("SIZE") or ["0"])[0]),
            max_recipients=_number(limits.get("RCPTMAX", "0")),
            max_messages=_number(limits.get("MAILMAX", "0")),
            auth=frozenset(offers.get("AUTH", ())),
        )


def _number(word: str) -> int:
    return int(word) if word.isascii() and word.isdigit() and len(word) < 20 else 0
