"""Durations, sizes and rates as they are written."""

import pytest

from mailgw.values.quantities import Rate, parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        *(("500ms", 0.5), ("30s", 30), ("36525d", 3155760000), ("5m", 300), ("1h", 3600), ("5d", 432000), ("2 w", 1209600)),
        *(("1h 30m", 5400), ("1h30m", 5400), ("1.5h", 5400)),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


NO_DURATIONS = ["", "5", "m", "-5m", "5 minutes", "1m 1h", "1h 1h", "5M", " 5m", "5m ", "5m\n", "٥m", "1e3s", "never"]
TOO_LONG = ["36526d", f"{'9' * 400}d"]


@pytest.mark.parametrize("text", NO_DURATIONS + TOO_LONG)
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "octets"), [("512 octets", 512), ("64 KiB", 65536), ("25MiB", 26214400), ("1.5 kB", 1500), ("10 MB", 10**7), ("1 GiB", 2**30)]
)
def test_sizes(text: str, octets: int) -> None:
    assert parse_size(text) == octets


@pytest.mark.parametrize("text", ["", "5", "5 mib", "-1 MiB", "5 M", "5 MiB\n", "٥ MiB", f"{'9' * 400} MiB"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [("200 per hour", Rate(200, 3600)), ("1 per second", Rate(1, 1)), ("5 per 10m", Rate(5, 600)), ("9 per day", Rate(9, 86400))],
)
def test_rates(text: str, rate: Rate) -> None:
    assert Rate.parse(text) == rate


@pytest.mark.parametrize("text", ["", "200", "200/hour", "0 per hour", "-1 per hour", "5 per fortnight", "5 per 0s", "5 per"])
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match="no rate"):
        Rate.parse(text)
