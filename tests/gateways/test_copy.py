"""Several gateways for the same mail."""

from typing import Any

import pytest
from houses import others
from twisted.internet.defer import CancelledError, Deferred

from mailgw.gateways import copy as module
from mailgw.gateways.copy import Copy
from mailgw.testing import ScriptedDomainGateway, ScriptedGateway, a_shipment, an_envelope, run
from mailgw.testing.contracts import GatewayContract
from mailgw.testing.gateways import HANG
from mailgw.values.delivery import Fate, GatewayName, Handed, Outcome, Shipment, delivered, later, never, unknown
from mailgw.values.reply import Reply

OK = delivered(Reply(250, "2.0.0", "first"), "first.example", Handed.RELAY)
OTHER = delivered(Reply(250, "2.0.0", "second"), "second.example")
BUSY = later(Reply(452, "4.2.2", "full"), "busy.example")
DOWN = later(Reply(451, "4.4.1", "refused"), unreachable=True)
NO = never(Reply(550, "5.7.1", "not here"), "no.example")
LOST = unknown("lost")


def a_copy(**gateways: Any) -> Copy:
    names = [GatewayName(name) for name in gateways]
    return Copy(names, others=others(**gateways))


def deliver(gateway: Any, shipment: Shipment | None = None) -> Outcome:
    (outcome,) = run(gateway.deliver(shipment or a_shipment("anna@example.org"))).values()
    return outcome


class TestContract(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return a_copy(one=ScriptedGateway(), two=ScriptedGateway())


class TestContractWithMembersThatKeepNone(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return a_copy(one=ScriptedGateway(last=RuntimeError("broken")), two=ScriptedGateway(last={}), three=ScriptedGateway(last=None))


del GatewayContract


class Spiteful(dict[Any, Any]):
    def get(self, *_: Any) -> Any:
        raise RuntimeError("no get")


def test_a_member_whose_answer_cannot_be_read_is_at_fault_alone() -> None:
    gateway = a_copy(one=ScriptedGateway(otherwise=OK), two=ScriptedGateway(last=Spiteful()))
    outcome = deliver(gateway)
    assert str(outcome.reply) == "451 4.3.0 a gateway failed, see the log"


@pytest.mark.parametrize(
    ("one", "two", "expected"),
    [
        pytest.param(OK, OTHER, OK, id="all took it: the first one is told about"),
        pytest.param(OK, BUSY, BUSY, id="the copy waits"),
        pytest.param(BUSY, OTHER, BUSY, id="the first waits"),
        pytest.param(OK, NO, NO, id="the copy is refused"),
        pytest.param(NO, OTHER, NO, id="the first is refused"),
        pytest.param(NO, BUSY, BUSY, id="nothing has failed while something is open"),
        pytest.param(OK, LOST, LOST, id="perhaps delivered"),
        pytest.param(DOWN, DOWN, DOWN, id="all are down"),
        pytest.param(OK, DOWN, later(Reply(451, "4.4.1", "refused")), id="one that is down does not keep the mail of others"),
        pytest.param(later("a", retry_after=5.0), later("b", retry_after=9.0), later("a", retry_after=9.0), id="the longest wish"),
    ],
)
def test_one_outcome_of_several(one: Outcome, two: Outcome, expected: Outcome) -> None:
    gateway = a_copy(one=ScriptedGateway(otherwise=one), two=ScriptedGateway(otherwise=two))
    assert deliver(gateway) == expected


def test_who_has_decided_is_not_asked_again() -> None:
    members = [
        ScriptedGateway(otherwise=OK),
        ScriptedGateway({"anna@example.org": [BUSY, LOST, OTHER]}),
        ScriptedGateway(otherwise=NO),
    ]
    gateway = a_copy(one=members[0], two=members[1], three=members[2])
    assert [deliver(gateway).fate for _ in range(3)] == [Fate.LATER, Fate.UNKNOWN, Fate.NEVER]
    assert [member.attempts for member in members] == [1, 3, 1]
    assert not gateway._decided


def test_recipients_and_messages_are_kept_apart() -> None:
    one, two = ScriptedGateway(), ScriptedGateway({"anna@example.org": BUSY})
    gateway = a_copy(one=one, two=two)
    fates = {str(a): o.fate for a, o in run(gateway.deliver(a_shipment("anna@example.org", "ben@example.org"))).items()}
    assert fates == {"anna@example.org": Fate.LATER, "ben@example.org": Fate.DELIVERED}
    two.outcomes.clear()
    assert deliver(gateway, a_shipment("anna@example.org", message=2)).fate is Fate.DELIVERED
    # A store that was made anew may give a number again.
    assert deliver(gateway, a_shipment("anna@example.org", envelope=an_envelope(arrived=1.0))).fate is Fate.DELIVERED
    assert deliver(gateway).fate is Fate.DELIVERED
    assert one.tried == ["anna@example.org", "ben@example.org", "anna@example.org", "anna@example.org"]


def test_members_are_asked_at_the_same_time_and_a_cancelled_attempt_is_not_forgotten() -> None:
    fast, slow = ScriptedGateway(), ScriptedGateway(answers=[HANG])
    gateway = a_copy(slow=slow, fast=fast)
    attempt = Deferred.fromCoroutine(gateway.deliver(a_shipment("anna@example.org")))
    assert (fast.attempts, slow.attempts) == (1, 1)
    attempt.cancel()
    failures: list[Any] = []
    attempt.addErrback(failures.append)
    assert failures[0].check(CancelledError) or failures[0].value.subFailure.check(CancelledError)
    assert deliver(gateway).fate is Fate.DELIVERED
    assert (fast.attempts, slow.attempts) == (1, 2)


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_KEPT", 10)
    gateway = a_copy(one=ScriptedGateway(), two=ScriptedGateway(otherwise=BUSY))
    for number in range(50):
        deliver(gateway, a_shipment(message=number))
    assert len(gateway._decided) == 10


def test_the_next_hop_is_for_those_that_deliver_by_domain() -> None:
    mx, smarthost = ScriptedDomainGateway(), ScriptedGateway()
    deliver(a_copy(mx=mx, smarthost=smarthost), a_shipment("a@example.net", next_hop="example.net"))
    assert [one.shipments[0].next_hop for one in (mx, smarthost)] == ["example.net", ""]
    hops = ScriptedGateway(), ScriptedGateway()
    deliver(a_copy(one=hops[0], two=hops[1]), a_shipment("a@example.net", next_hop="relay.example:26"))
    assert [one.shipments[0].next_hop for one in hops] == ["relay.example:26"] * 2


def test_a_copy_in_a_copy() -> None:
    mx, box = ScriptedDomainGateway(), ScriptedGateway()
    house = others(mx=mx, box=box)
    house.by_name["inner"] = Copy([GatewayName("mx")], others=house)
    house.by_name["outer"] = Copy([GatewayName("box"), GatewayName("inner")], others=house)
    assert [name for name in house.by_name if house.is_by_domain(name)] == ["mx", "inner", "outer"]
    assert deliver(house["outer"], a_shipment("a@example.net", next_hop="example.net")).fate is Fate.DELIVERED
    assert [one.shipments[0].next_hop for one in (mx, box)] == ["example.net", ""]


@pytest.mark.parametrize(("names", "why"), [([], "is empty"), (["a", "a"], "names a gateway twice")])
def test_names_that_are_refused(names: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=f"gateways {why}"):
        Copy([GatewayName(name) for name in names], others=others())
