"""kill -9 at random moments under load: every message that got a 250 arrives, and none in pieces. More of it: `make crash`."""

import pytest
from killing import ordeal

pytestmark = pytest.mark.live


def test_nothing_acknowledged_is_lost(tmp_path):
    figures, problems = ordeal(tmp_path, kills=5)
    assert problems == []
    assert figures["kills"] == 5
    assert figures["acknowledged"] > 50
