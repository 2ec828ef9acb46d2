"""gateway.rechecks: a run that no event of Stripe's asks for."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway import rechecks
from gateway.errors import StartThrottled
from gateway.executions import StateMachine
from gateway.ledger import Attempt, Ledger
from gateway.rechecks import look_again
from tests.unit.operators import FULFILLMENT, THROTTLED, Clock, Machine
from tests.unit.steps import NOW

THEN = NOW - 600


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(rechecks, "time", clock)
    return clock


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def ledger(dynamodb: Any) -> Ledger:
    return Ledger(dynamodb, "orders")


@pytest.fixture
def again(ledger: Ledger, machine: Machine, clock: Clock) -> Callable[..., Attempt]:
    def call(party: str = "cus_1", asked: str = "a-1", at: int | None = None) -> Attempt:
        return look_again(party, ledger, StateMachine(machine, FULFILLMENT), livemode=True, asked=asked, at=at)

    return call


@pytest.mark.parametrize(("party", "customer"), [("cus_1", "cus_1"), ("cs_1", None)])
@pytest.mark.parametrize(("at", "moment"), [(None, NOW), (THEN, THEN)])
def test_is_an_order_of_our_own_and_its_run(
    ledger: Ledger,
    machine: Machine,
    again: Callable[..., Attempt],
    party: str,
    customer: str | None,
    at: int | None,
    moment: int,
) -> None:
    attempt = again(party, at=at)
    name = f"recheck_a1_{moment}"
    assert attempt == Attempt(name, party, customer, 1, "RECEIVED", NOW)
    assert machine.executions == {name: {"event_id": name, "order_id": party, "customer_id": customer}}
    (row,) = ledger.rows([name])
    assert (row["party"], row["livemode"], row["attempt_at"]) == (party, True, NOW)
    assert (row["event_type"], row["updated"]) == ("gateway.recheck", moment)


def test_of_now_is_another_one_each_second(machine: Machine, clock: Clock, again: Callable[..., Attempt]) -> None:
    again()
    clock.now += 1
    again()
    assert list(machine.executions) == [f"recheck_a1_{NOW}", f"recheck_a1_{NOW + 1}"]


def test_of_a_moment_is_one_however_often_and_late_it_is_asked_for(
    ledger: Ledger, machine: Machine, clock: Clock, again: Callable[..., Attempt]
) -> None:
    first = again(at=THEN)
    clock.now += 300
    assert again(at=THEN) == first
    assert list(machine.executions) == [f"recheck_a1_{THEN}"]
    assert len(list(ledger.all_orders("cus_1"))) == 1


def test_of_a_moment_is_not_another_requests(machine: Machine, again: Callable[..., Attempt]) -> None:
    for party, asked in (("cus_1", "a-1"), ("cus_2", "a-2")):
        again(party, asked, THEN)
    assert list(machine.executions) == [f"recheck_a1_{THEN}", f"recheck_a2_{THEN}"]


def test_that_could_not_be_started_is_started_by_the_next_call(
    ledger: Ledger, machine: Machine, again: Callable[..., Attempt]
) -> None:
    machine.errors = [THROTTLED]
    with pytest.raises(StartThrottled):
        again(at=THEN)
    assert machine.executions == {}
    again(at=THEN)
    assert list(machine.executions) == [f"recheck_a1_{THEN}"]
    assert len(list(ledger.all_orders("cus_1"))) == 1


def test_that_has_run_is_not_run_again(
    ledger: Ledger, machine: Machine, clock: Clock, again: Callable[..., Attempt]
) -> None:
    name = again(at=THEN).event_id
    machine.ended.add(name)
    ledger.close(name, NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")
    clock.now += 300
    assert again(at=THEN).state == "FULFILLED"
    assert list(machine.executions) == [name]
