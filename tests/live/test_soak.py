"""The soak in a small way: everything that `make soak` does, for some seconds, in which memory may still grow."""

import pytest
from soak import soak

pytestmark = pytest.mark.live


def test_all_kinds_of_mail_and_trouble(tmp_path):
    samples = []
    problems, done = soak(tmp_path, seconds=20.0, tell=samples.append, margin=30.0)
    assert problems == []
    assert len(samples) > 20
    mail = {"stream", "single", "encrypted", "big", "crowd", "program", "bounce", "parked"}
    trouble = {"stranger", "aborted", "idle", "operator", "command"}
    assert {kind for kind in mail | trouble if not done[kind]} == set()
