"""What all memories have in common: which keys they take, how a token bucket fills, who must forget when there is no more room."""

from collections.abc import Mapping

from mailgw.values.quantities import Rate

__all__ = ["MAX_AMOUNT", "MAX_KEY", "MAX_TEXT", "check", "name_of", "poured", "surplus"]

MAX_KEY = 1000  # characters
MAX_TEXT = 64 * 1024  # characters
MAX_AMOUNT = 10**12

_ALMOST = 1e-6  # of a token: whoever waited as long as he was told must not fail by a rounding


def check(key: str, *, amount: int = 0, lifetime: float = 1.0, burst: int = 1, text: str = "") -> None:
    """Raise ValueError for what no memory takes: it would be a mistake of ours, or endless."""
    if not 0 < len(key) <= MAX_KEY:
        raise ValueError(f"a key has 1 to {MAX_KEY} characters")
    if len(text) > MAX_TEXT:
        raise ValueError(f"a text has at most {MAX_TEXT} characters")
    if not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"an amount is 0 to {MAX_AMOUNT}")
    if not lifetime > 0:
        raise ValueError("a lifetime is longer than nothing")
    if burst < 1:
        raise ValueError("a bucket holds at least one")
    (key + text).encode()  # lone surrogates are no text: UnicodeEncodeError is a ValueError


def name_of(key: str) -> str:
    """Whose key it is: what stands before the first ":"."""
    return key.partition(":")[0]


def poured(tokens: float, since: float, now: float, amount: int, rate: Rate, burst: int) -> tuple[float, float, float]:
    """Take from a token bucket that held ``tokens`` at ``since`` (POSIX seconds, like ``now``).

    Gives the seconds to wait, 0.0 if it was possible, what it holds now, and how many seconds it needs to be full: after these it
    can be forgotten.
    """
    speed = rate.count / rate.seconds
    tokens = min(float(burst), tokens + max(0.0, now - since) * speed)
    wanted = min(amount, burst)
    wait = 0.0
    if tokens + _ALMOST >= wanted:
        tokens = max(0.0, tokens - wanted)
    else:
        wait = (wanted - tokens) / speed
    return wait, tokens, (burst - tokens) / speed


def surplus(rows: Mapping[str, int], room: int) -> dict[str, int]:
    """How many rows each name must give up so that ``room`` suffices for all: only those with more than an equal share lose any."""
    losing: dict[str, int] = {}
    ordered = sorted(rows.items(), key=lambda item: (item[1], item[0]))
    for index, (_, count) in enumerate(ordered):
        left = len(ordered) - index
        share = room // left
        if count <= share:
            room -= count
            continue
        # From here on all have more than their share; where there are more names than room, the last ones lose all.
        for position, (loser, number) in enumerate(ordered[index:]):
            losing[loser] = number - (share or int(position < room))
        return {loser: number for loser, number in losing.items() if number}
    return losing
