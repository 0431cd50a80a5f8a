"""How many recipients one attempt serves."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailgw.gateways.one_by_one import one_by_one
from mailgw.patience import CutOff
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


@pytest.mark.parametrize("served", [0, 1, 3])
def test_who_was_served_before_it_was_cancelled_is_told(served):
    groups = [(recipient,) for recipient in a_shipment(*(f"u{n}@example.org" for n in range(5))).recipients]

    async def serve(group):
        return delivered() if group in groups[:served] else await Deferred()

    attempt = Deferred.fromCoroutine(one_by_one(groups, serve, Clock(), 1.0))
    attempt.cancel()
    with pytest.raises(CutOff) as cut:
        run(attempt)
    assert isinstance(cut.value, CancelledError)
    assert cut.value.outcomes == {one.address: delivered() for (one,) in groups[:served]}
