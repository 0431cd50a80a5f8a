"""One gateway of several."""

from collections import Counter
from typing import Any

import pytest
from houses import others
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from mailgw.gateways.balance import Balance
from mailgw.gateways.fail_over import FailOver
from mailgw.testing import ScriptedDomainGateway, ScriptedGateway, a_shipment, run
from mailgw.testing.contracts import GatewayContract
from mailgw.testing.gateways import HANG
from mailgw.values.delivery import GatewayName, Outcome, Shipment, delivered, later, never, unknown
from mailgw.values.reply import Reply

OK = delivered(Reply(250, "2.0.0", "taken"), "ok.example")
BUSY = later(Reply(452, "4.2.2", "full"), "busy.example")
DOWN = later(Reply(451, "4.4.1", "refused"), "down.example", unreachable=True)
NO = never(Reply(550, "5.1.1", "no such user"), "no.example")
LOST = unknown("lost")


def names(gateways: dict[str, Any]) -> list[GatewayName]:
    return [GatewayName(name) for name in gateways]


def a_fail_over(clock: Clock | None = None, after: Any = "unreachable", **gateways: Any) -> FailOver:
    return FailOver(names(gateways), after, others=others(**gateways), clock=clock or Clock())


def a_balance(clock: Clock | None = None, weights: Any = (), **gateways: Any) -> Balance:
    return Balance(names(gateways), list(weights), others=others(**gateways), clock=clock or Clock())


def deliver(gateway: Any, shipment: Shipment | None = None) -> Outcome:
    (outcome,) = run(gateway.deliver(shipment or a_shipment("anna@example.org"))).values()
    return outcome


class TestFailOver(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return a_fail_over(one=ScriptedGateway(otherwise=DOWN), two=ScriptedGateway(last={}))


class TestBalance(GatewayContract):
    @pytest.fixture
    def gateway(self) -> Any:
        return a_balance(one=ScriptedGateway(otherwise=DOWN), two=ScriptedGateway(last=RuntimeError("broken")))


del GatewayContract


@pytest.mark.parametrize(
    ("after", "said", "expected", "asked"),
    [
        pytest.param("unreachable", [OK, OK], OK, [1, 0], id="the first can"),
        pytest.param("unreachable", [DOWN, OK], OK, [1, 1], id="the first is down"),
        pytest.param("unreachable", [BUSY, OK], BUSY, [1, 0], id="the first is busy"),
        pytest.param("later", [BUSY, OK], OK, [1, 1], id="the first is busy, which is enough"),
        pytest.param("later", [NO, OK], NO, [1, 0], id="a refusal stands"),
        pytest.param("later", [LOST, OK], LOST, [1, 0], id="what was perhaps delivered goes to nobody else"),
        pytest.param("unreachable", [DOWN, DOWN], DOWN, [1, 1], id="all are down"),
        pytest.param("unreachable", [DOWN, NO], NO, [1, 1], id="the second refuses"),
        pytest.param("later", [BUSY, DOWN], BUSY, [1, 1], id="one is down, but not all are"),
        pytest.param("later", [DOWN, BUSY], BUSY, [1, 1], id="one is down, but not all are, the other way round"),
    ],
)
def test_who_is_tried(after: str, said: list[Outcome], expected: Outcome, asked: list[int]) -> None:
    members = [ScriptedGateway(otherwise=outcome) for outcome in said]
    assert deliver(a_fail_over(after=after, one=members[0], two=members[1])) == expected
    assert [member.attempts for member in members] == asked


def test_only_the_recipients_that_could_not_be_delivered_go_on() -> None:
    one, two = ScriptedGateway({"b@example.org": DOWN, "c@example.org": NO}), ScriptedGateway()
    outcomes = run(a_fail_over(one=one, two=two).deliver(a_shipment("a@example.org", "b@example.org", "c@example.org")))
    assert two.tried == ["b@example.org"]
    assert [outcome.fate.value for outcome in outcomes.values()] == ["delivered", "delivered", "never"]


def test_a_fault_is_a_deferral_and_not_a_reason_to_go_on() -> None:
    two = ScriptedGateway()
    outcome = deliver(a_fail_over(one=ScriptedGateway(last=RuntimeError("broken")), two=two))
    assert (str(outcome.reply), two.attempts) == ("451 4.3.0 a gateway failed, see the log", 0)


def test_one_that_was_down_is_tried_last_for_a_while() -> None:
    clock = Clock()
    one, two = ScriptedGateway(otherwise=DOWN), ScriptedGateway()
    gateway = a_fail_over(clock, one=one, two=two)
    for _ in range(5):
        deliver(gateway)
    assert (one.attempts, two.attempts) == (1, 5)
    clock.advance(60)
    one.otherwise = OK
    deliver(gateway)
    deliver(gateway)
    assert (one.attempts, two.attempts) == (3, 5)


def test_those_that_were_down_are_tried_all_the_same_where_there_is_nobody_else() -> None:
    one, two = ScriptedGateway(otherwise=DOWN), ScriptedGateway(otherwise=DOWN)
    gateway = a_fail_over(one=one, two=two)
    assert deliver(gateway) == DOWN
    one.otherwise = OK
    assert deliver(gateway) == OK


def test_a_domain_that_is_down_says_nothing_about_another() -> None:
    mx, backup = ScriptedDomainGateway({"a@dead.example": DOWN}), ScriptedGateway()
    gateway = a_fail_over(mx=mx, backup=backup)
    for domain in ("dead.example", "dead.example", "living.example"):
        deliver(gateway, a_shipment(f"a@{domain}", next_hop=domain))
    assert mx.tried == ["a@dead.example", "a@living.example"]
    assert [shipment.next_hop for shipment in backup.shipments] == ["", ""]


def test_a_cancelled_attempt_goes_to_nobody_else() -> None:
    two = ScriptedGateway()
    attempt = Deferred.fromCoroutine(a_fail_over(after="later", one=ScriptedGateway(answers=[HANG]), two=two).deliver(a_shipment()))
    attempt.cancel()
    failures: list[Any] = []
    attempt.addErrback(failures.append)
    assert failures[0].check(CancelledError)
    assert two.attempts == 0


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        pytest.param([], "abcabcabc", id="in turn"),
        pytest.param([2, 1, 1], "abcaabca", id="weights"),
        pytest.param([5, 1, 1], "aabacaa" * 2, id="spread"),
    ],
)
def test_turns(weights: list[int], expected: str) -> None:
    members = {name: ScriptedGateway(otherwise=delivered(peer=name)) for name in "abc"}
    gateway = a_balance(weights=weights, **members)
    assert "".join(deliver(gateway).peer for _ in expected) == expected


def test_one_that_is_down_gets_no_turn_and_no_debt() -> None:
    clock = Clock()
    members = {name: ScriptedGateway(otherwise=delivered(peer=name)) for name in "abc"}
    members["b"].otherwise = DOWN
    gateway = a_balance(clock, **members)
    assert {deliver(gateway).peer for _ in range(31)} == {"a", "c"}
    assert members["b"].attempts == 1
    members["b"].otherwise = delivered(peer="b")
    clock.advance(60)
    turns = Counter(deliver(gateway).peer for _ in range(30))
    assert max(turns.values()) - min(turns.values()) <= 2


@pytest.mark.parametrize("weights", [[1], [1, 2, 3], [1, 0], [1, -1]], ids=repr)
def test_weights_that_are_refused(weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weights needs one whole number for each"):
        a_balance(weights=weights, a=ScriptedGateway(), b=ScriptedGateway())
