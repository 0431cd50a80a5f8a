"""The figures for people: one Markdown table."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import asdict
from cases import Case, Figures

__all__ = ["markdown"]


def markdown(results: Iterable[tuple[Case, Mapping[str, Figures], Mapping[str, Sequence[Figures]]]]) -> Iterator[str]:
    """The lines, from each case with its medians and all its turns by server. What servers are compared by is bold."""
    yield "| case | server | CPU | rate | p50 ms | p99 ms | memory | load | compared |"
    yield "|---|---|--:|--:|--:|--:|--:|--:|---|"
    for case, rows, turns in results:
        title = case.name
        for server, row in rows.items():
            cells = {
                "cpu": _seconds(row.cpu) + _spread([turn.cpu for turn in turns[server]]),
                "rate": f"{row.rate * 1000:.0f} MB/s" if case.unit == "GB" else f"{row.rate:.{0 if row.rate >= 10 else 2}f}/s",
                "p50": _milliseconds(row.p50),
                "p99": _milliseconds(row.p99),
                "memory": f"{row.memory / 1024:.1f} KiB each" if case.each else f"{row.memory / 1048576:.0f} MiB",
                "load": "-" if row.load is None else f"{row.load:.0%}",
            }
            cells[case.headline] = f"**{cells[case.headline]}**"
            yield f"| {title} | {server} | {' | '.join(cells.values())} | {_compared(case, server, rows)} |"
            title = ""


def _seconds(value: float) -> str:
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1000:.1f} ms" if value >= 0.01 else f"{value * 1e6:.0f} µs"


def _spread(values: Sequence[float]) -> str:
    return f" ({_seconds(min(values))} - {_seconds(max(values))})" if len(values) > 1 else ""


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value * 1000:.{1 if value >= 0.01 else 2}f}"


def _compared(case: Case, server: str, rows: Mapping[str, Figures]) -> str:
    """How often the figure of another server goes into this one's."""
    own = asdict(rows[server])[case.headline]
    others = [name for name in case.compared if name in rows and name != server]
    return ", ".join(f"{own / other:.2f} x {name}" for name in others if (other := asdict(rows[name])[case.headline]))
