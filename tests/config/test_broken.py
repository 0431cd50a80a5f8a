"""Broken configurations, each with all of its messages beside it: ``broken/NAME.toml`` and ``broken/NAME.errors``."""

from pathlib import Path

import pytest

from mailgw.assemble import load
from mailgw.interfaces import IClock
from mailgw.problems import BadConfiguration
from mailgw.testing import at

BROKEN = Path(__file__).parent / "broken"
CASES = sorted(path.stem for path in BROKEN.glob("*.toml"))


def messages(path: Path) -> list[str]:
    """The lines of all problems, with the path as it is given and without tracebacks."""
    with pytest.raises(BadConfiguration) as caught:
        load(path, lambda _: {IClock: at("2026-01-05T10:00+00:00")})
    return [line for problem in caught.value.problems for line in str(problem).splitlines() if line.startswith(str(path))]


@pytest.mark.parametrize("name", CASES)
def test_all_errors_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(BROKEN)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    assert messages(Path(f"{name}.toml")) == (BROKEN / f"{name}.errors").read_text().splitlines()


def test_there_are_enough_of_them() -> None:
    assert len(CASES) >= 12
    assert {path.stem for path in BROKEN.glob("*.errors")} == set(CASES)
