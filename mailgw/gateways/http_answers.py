"""What an HTTP status means for a delivery (RFC 9110 §15)."""

from collections.abc import Collection
from email.utils import parsedate_to_datetime

from mailgw.values.delivery import Handed, Outcome, delivered, later, never
from mailgw.values.reply import Reply

__all__ = ["TRANSIENT", "outcome_of", "retry_after"]

TRANSIENT = (401, 403, 404, 405, 407, 408, 409, 421, 425, 426, 429)
"""Those of 4xx that say nothing about the message: a wrong password or path is put right by somebody, time passes."""

_WHOLE = frozenset({429, 502, 503, 504})  # not this message, but the service as a whole, cannot be served now
_WHY_NEVER = {
    400: (554, "5.6.0"),
    410: (550, "5.1.6"),
    413: (552, "5.3.4"),
    415: (554, "5.6.1"),
    422: (554, "5.6.0"),
    451: (550, "5.7.1"),
}
_WHY_LATER = {401: "4.7.8", 403: "4.7.0", 404: "4.3.5", 405: "4.3.5", 407: "4.7.8", 429: "4.7.0", 507: "4.3.1"}


def outcome_of(status: int, said: str, *, transient: Collection[int] = TRANSIENT, handed: Handed, wait: float | None = None) -> Outcome:
    """The outcome for all recipients of a request. ``said`` is the first line of the answer, ``wait`` its Retry-After in seconds.

    No peer is named: a DSN would call it an MTA, and its words SMTP (RFC 3464 §2.3.5-6).
    """
    text = f"HTTP {status}{f': {said}' if said else ''}"
    if 200 <= status < 300:
        return delivered(Reply(250, "2.0.0", text), handed=handed)
    if 400 <= status < 500 and status not in transient:
        code, enhanced = _WHY_NEVER.get(status, (550, "5.0.0"))
        return never(Reply(code, enhanced, text))
    enhanced = _WHY_LATER.get(status, "4.3.5" if 300 <= status < 400 else "4.3.0")
    return later(Reply(451, enhanced, text), unreachable=status in _WHOLE, retry_after=wait)


def retry_after(value: str, now: float) -> float | None:
    """The seconds of a Retry-After field (RFC 9110 §10.2.3), a number or a date; None for what is neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(value[:10])
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
