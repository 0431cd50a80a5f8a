"""Durations, sizes and rates: what a setting's field is annotated with, and how an administrator writes it.

A component says ``connect_timeout: Duration = 30.0`` and gets plain seconds; the configuration says ``"30s"``. ``Annotated[T, parse]``
is how an annotation says that a setting is written as a string which ``parse`` reads; a plugin may make its own.
"""

import re
from typing import Annotated

from attrs import frozen

__all__ = ["Duration", "Rate", "Size", "parse_duration", "parse_size"]


_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_PERIODS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0, "week": 604800.0}
_LONGEST = 100 * 365.25 * 86400.0  # seconds: from now to then, there are dates
_OCTETS = {"octets": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}

_MOST_DIGITS = 20
_ASCII_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
_ONE_DURATION = re.compile(rf"({_ASCII_NUMBER}) ?(ms|s|m|h|d|w)")
_DURATION = re.compile(rf"{_ASCII_NUMBER} ?(?:ms|s|m|h|d|w)(?: ?{_ASCII_NUMBER} ?(?:ms|s|m|h|d|w))*\Z")
_SIZE = re.compile(rf"({_ASCII_NUMBER}) ?({'|'.join(_OCTETS)})\Z")
_RATE = re.compile(r"([0-9]+) per (.+)\Z")


def parse_duration(text: str) -> float:
    """Seconds. Each unit once, from the largest to the smallest. Raises ValueError with a text fit for the administrator."""
    if not _DURATION.match(text):
        raise ValueError(f'"{text}" is no duration; write it like "30s", "5m", "1h 30m" or "5d"')
    parts = _ONE_DURATION.findall(text)
    units = [_SECONDS[unit] for _, unit in parts]
    if sorted(set(units), reverse=True) != units:
        raise ValueError(f'"{text}" is no duration: each unit may stand once, the largest first')
    seconds = sum(float(number) * _SECONDS[unit] for number, unit in parts)
    if seconds > _LONGEST:
        raise ValueError(f'"{text}" is no duration: a hundred years are the longest')
    return seconds


def parse_size(text: str) -> int:
    """Octets. Raises ValueError with a text fit for the administrator."""
    match = _SIZE.match(text)
    if not match or len(match[1]) > _MOST_DIGITS:
        raise ValueError(f'"{text}" is no size; write it like "64 KiB", "25 MiB" or "512 octets"')
    return round(float(match[1]) * _OCTETS[match[2]])


Duration = Annotated[float, parse_duration]
"""Seconds, written ``"500ms"``, ``"30s"``, ``"5m"``, ``"1h 30m"``, ``"5d"``, ``"2w"``; ``Duration | None`` also takes ``"never"``."""

Size = Annotated[int, parse_size]
"""Octets, written ``"64 KiB"``, ``"25 MiB"``, ``"10 MB"``, ``"512 octets"``; ``Size | None`` also takes ``"unlimited"``."""


@frozen
class Rate:
    """How many in how long, written ``"200 per hour"`` or ``"5 per 10m"``; ``Rate | None`` also takes ``"unlimited"``."""

    count: int
    seconds: float

    def __attrs_post_init__(self) -> None:
        if self.count < 1 or self.seconds <= 0:
            raise ValueError("a rate counts at least one in a time that is longer than nothing")

    def __str__(self) -> str:
        period = next((word for word, seconds in _PERIODS.items() if seconds == self.seconds), f"{self.seconds:g}s")
        return f"{self.count} per {period}"

    @classmethod
    def parse(cls, text: str) -> "Rate":
        """Read ``"N per PERIOD"``; the period is a word or a duration. Raises ValueError with a text fit for the administrator."""
        match = _RATE.match(text)
        if match:
            count, period = int(match[1]), match[2]
            try:
                return cls(count, _PERIODS.get(period) or parse_duration(period))
            except ValueError:
                pass
        raise ValueError(f'"{text}" is no rate; write it like "200 per hour" or "5 per 10m"')
