"""kill -9 at random moments under load: every message that got a 250 arrives, and none in pieces. More of it: `make crash`."""

import pytest
from killing import ordeal

pytestmark = pytest.mark.live


@pytest.mark.parametrize(
    ("workers", "target", "kills"),
    [
        pytest.param(1, "all", 5, id="one-process"),
        pytest.param(2, "all", 2, id="two-workers-and-their-parent"),
        pytest.param(2, "worker", 3, id="one-of-two-workers"),
    ],
)
def test_nothing_acknowledged_is_lost(tmp_path, workers, target, kills):
    figures, problems = ordeal(tmp_path, kills, target, workers)
    assert problems == []
    assert figures["kills"] == kills
    assert figures["acknowledged"] > 50
