"""The deletion of an account in which every passing error lasts, and with a kill after every call to a service: it is
taken up where it was, and ends once."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.ledger import ATTEMPT_SECONDS
from tests.workflow.conftest import Calls, World
from tests.workflow.test_offboarding import FAILED, STATES, TASKS, arranged, assert_deleted, takes_up


def _retries() -> Iterator[Any]:
    for state in TASKS:
        for group in STATES[state]["Retry"]:
            for error in group["ErrorEquals"]:
                yield pytest.param(state, error, group, id=f"{state}-{error}")


def _waits(group: dict[str, Any]) -> list[float]:
    """The declared back-off: what FULL jitter draws from, at most."""
    interval, rate = group["IntervalSeconds"], group["BackoffRate"]
    return [min(interval * rate**n, group["MaxDelaySeconds"]) for n in range(group["MaxAttempts"])]


@pytest.mark.parametrize(("state", "error", "group"), list(_retries()))
def test_a_passing_error_is_retried_as_declared_then_given_up(
    world: World, state: str, error: str, group: dict[str, Any]
) -> None:
    arranged(world, state)
    attempts = group["MaxAttempts"]
    world.fail(state, error, attempts + 1)

    ended = world.delete()

    first = "StripeRejected" if state == "MarkNotDeleted" else error
    assert (ended.status, ended.error, ended.path[-2:]) == ("FAILED", first, FAILED)
    assert world.lambdas.calls[state] == attempts + 1
    assert world.waits == _waits(group)
    if state == "MarkNotDeleted":  # nobody could write it down: it can be taken up when the attempt counts as dead
        assert world.tombstone().state == "RUNNING"
    else:
        assert (world.tombstone().state, world.counted["DeletionFailed"]) == ("FAILED", 1)
        assert str(world.tombstone().last_error).startswith(f"{error}: ")

    world.waits.clear()
    world.fail(state, error, attempts)
    assert takes_up(world).status == "SUCCEEDED"
    if state != "MarkNotDeleted":
        assert world.waits == _waits(group)
    assert_deleted(world)


# How many calls to a service each state's Lambda makes in the deletion of `account`, all of its invocations together.
CALLS = {
    "WriteTombstone": 25,
    "FindRemains": 40,
    "CancelSubscriptions": 5,
    "DeleteUser": 10,
    "ErasePersonalData": 17,
    "MarkDeleted": 1,
    "MarkNotDeleted": 1,
}


@pytest.mark.parametrize("state", TASKS)
def test_every_call_is_known(world: World, state: str) -> None:
    arranged(world, state)
    calls = world.calls_of(state, Calls())

    world.delete()

    assert calls.count == CALLS[state]


def _deaths() -> Iterator[Any]:
    for state, calls in CALLS.items():
        for number in range(calls + 1):
            yield pytest.param(state, number, id=f"{state}-{number}")


def _dying(world: World, state: str, number: int, error: str) -> Calls:
    """The state's Lambda dies once it has made so many calls."""
    calls = Calls(dies_after=number, error=error) if number else Calls(dies_before=1, error=error)
    return world.calls_of(state, calls)


def _assert_deleted_once(world: World) -> None:
    assert_deleted(world)
    assert {notice["id"]: notice["after"] for notice in world.bus.notices} in (
        {f"{world.tombstone().sub}-2": None},
        {},
    )
    assert set(world.billing.canceled) == {"sub_cus_first"}


@pytest.mark.parametrize(("state", "number"), list(_deaths()))
def test_a_lambda_that_was_killed_after_any_call_is_called_again(world: World, state: str, number: int) -> None:
    arranged(world, state)
    _dying(world, state, number, "Sandbox.Timedout")

    ended = world.delete()

    assert len(world.waits) >= 1
    if state == "MarkNotDeleted":
        assert (ended.error, world.tombstone().state) == ("StripeRejected", "FAILED")
        ended = world.delete()
    assert ended.status == "SUCCEEDED"
    _assert_deleted_once(world)


@pytest.mark.parametrize(("state", "number"), list(_deaths()))
def test_a_deletion_that_ended_after_any_call_is_taken_up_where_it_was(world: World, state: str, number: int) -> None:
    arranged(world, state)
    _dying(world, state, number, "SomethingNobodyNamed")

    ended = world.delete()

    assert ended.status == "FAILED"
    if state == "MarkNotDeleted":
        world.clock.pass_by(ATTEMPT_SECONDS)
    if world.tombstone().state != "DONE":  # written down before it died
        assert world.delete().status == "SUCCEEDED"
    _assert_deleted_once(world)
