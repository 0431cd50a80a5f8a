"""How many recipients one attempt serves."""

import pytest
from twisted.internet.task import Clock

from mailgw.gateways.one_by_one import one_by_one
from mailgw.testing import a_shipment, run
from mailgw.values.delivery import delivered


@pytest.mark.parametrize(
    ("takes", "may_take", "served"),
    [
        pytest.param(1, 60, 10, id="quick ones"),
        pytest.param(400, 400, 8, id="as slow as they may be"),
        pytest.param(300, 1800, 6, id="they might be much slower"),
        pytest.param(7200, 7200, 1, id="one at least"),
    ],
)
def test_an_attempt_ends_in_time(takes, may_take, served):
    clock, asked = Clock(), []

    async def serve(group):
        asked.append(group)
        clock.advance(takes)
        return delivered()

    groups = [(recipient,) for recipient in a_shipment(*(f"u{n}@example.org" for n in range(10))).recipients]
    outcomes = run(one_by_one(groups, serve, clock, may_take))
    assert asked == groups[:served]
    assert list(outcomes) == [one.address for (one,) in groups]
    assert [outcome.reply.code for outcome in outcomes.values()] == [250] * served + [451] * (10 - served)
