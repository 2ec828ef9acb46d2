"""Every Retry and every Catch of the machine, in the real interpreter: the cases come from the definition itself."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from gateway.ledger import ATTEMPT_SECONDS
from tests.workflow.conftest import (
    World,
    bought_before_the_deletion,
    definition,
    first_purchase,
    invitation_expired,
    lapse,
    new_address,
    purchase_with_a_users_email,
    recovery,
    unknown_to_the_authorizer,
    upgrade,
)

STATES = definition()["States"]
TASKS = [name for name, state in STATES.items() if state["Type"] == "Task"]
FAILED = ("MarkUnfulfilled", "NotFulfilled")
RETRY_AFTER = 300  # RetryAfterSeconds' default


def _fails(world: World) -> None:
    world.add_payer()
    world.fail("ReadBilling", "StripeRejected", 99)


# What must be the case for a run to get to this state.
REACHED_WHEN: dict[str, Callable[[World], object]] = {
    "ReadBilling": World.add_payer,
    "LookupUser": World.add_payer,
    "CreateUser": first_purchase,
    "LinkUser": purchase_with_a_users_email,
    "EnableUser": recovery,
    "DisableUser": lapse,
    "SetDappLimit": upgrade,
    "SetLiveAccess": unknown_to_the_authorizer,
    "ResendInvitation": invitation_expired,
    "ChangeEmail": new_address,
    "ResumeDeletion": bought_before_the_deletion,
    "MarkFulfilled": World.add_payer,
    "MarkUnfulfilled": _fails,
}


def _retries() -> Iterator[Any]:
    for state in TASKS:
        for group in STATES[state]["Retry"]:
            for error in group["ErrorEquals"]:
                yield pytest.param(state, error, group, id=f"{state}-{error}")


def _catches() -> Iterator[Any]:
    for state in TASKS:
        for position, catch in enumerate(STATES[state]["Catch"]):
            for error in catch["ErrorEquals"]:
                name = "SomethingNobodyNamed" if error == "States.ALL" else error
                yield pytest.param(state, name, catch, id=f"{state}-{position}-{error}")


def _waits(group: dict[str, Any]) -> list[float]:
    """The declared back-off: what FULL jitter draws from, at most."""
    interval, rate = group["IntervalSeconds"], group["BackoffRate"]
    return [min(interval * rate**n, group["MaxDelaySeconds"]) for n in range(group["MaxAttempts"])]


def test_every_task_has_a_case() -> None:
    assert list(REACHED_WHEN) == TASKS


@pytest.mark.parametrize(("state", "error", "group"), list(_retries()))
def test_a_passing_error_is_retried_as_declared_then_given_up(
    world: World, state: str, error: str, group: dict[str, Any]
) -> None:
    REACHED_WHEN[state](world)
    attempts = group["MaxAttempts"]
    expected = error if state != "MarkUnfulfilled" else "StripeRejected"

    world.fail(state, error, attempts + 1)
    order = world.receive()
    ended = world.run(order)

    assert (ended.status, ended.error) == ("FAILED", expected)
    assert ended.path[-2:] == FAILED
    assert world.lambdas.calls[state] == attempts + 1
    assert world.waits == _waits(group)
    row = world.order(order.event_id)
    if state == "MarkUnfulfilled":  # nobody could write it down: the order is due when the attempt counts as dead
        assert (row["state"], row["due_at"]) == ("RECEIVED", order.at + ATTEMPT_SECONDS)
    else:
        assert (row["state"], row["attempts"]) == ("UNFULFILLED", 1)
        assert row["last_error"].startswith(f"{error}: ")
        assert row["due_at"] == int(world.clock.now) + RETRY_AFTER

    world.waits.clear()
    world.lambdas.calls.clear()
    world.fail(state, error, attempts)
    recovering = world.receive()
    ended = world.run(recovering)

    assert world.lambdas.calls[state] >= attempts + 1
    assert world.waits == _waits(group)
    row = world.order(recovering.event_id)
    if state == "MarkUnfulfilled":
        assert (ended.status, row["state"]) == ("FAILED", "UNFULFILLED")
    else:
        assert (ended.status, row["state"]) == ("SUCCEEDED", "FULFILLED")


@pytest.mark.parametrize(("state", "error", "catch"), list(_catches()))
def test_any_other_error_is_caught_at_once(world: World, state: str, error: str, catch: dict[str, Any]) -> None:
    REACHED_WHEN[state](world)
    world.fail(state, error)
    order = world.receive()

    ended = world.run(order)

    caught = ended.path[ended.path.index(state) + 1]
    assert (ended.status, ended.path[-1], caught) == ("FAILED", "NotFulfilled", catch["Next"])
    assert (world.waits, world.lambdas.calls[state]) == ([], 1)
    # The end says what went wrong first, also when even that could not be written down.
    first = error if state != "MarkUnfulfilled" else "StripeRejected"
    assert ended.error == first
    assert "injected" in (ended.cause or "")
    row = world.order(order.event_id)
    if state == "MarkUnfulfilled":
        assert (row["state"], row["due_at"]) == ("RECEIVED", order.at + ATTEMPT_SECONDS)
    else:
        assert (row["state"], row["last_error"]) == ("UNFULFILLED", f"{error}: injected")
        assert row["due_at"] == int(world.clock.now) + RETRY_AFTER


@pytest.mark.parametrize("state", [task for task in TASKS if STATES[task]["Next"] == "ReadBilling"])
def test_an_error_after_a_change_is_caught_too(world: World, state: str) -> None:
    REACHED_WHEN[state](world)
    world.meanwhile(state, lambda: world.fail("LookupUser", "CognitoRejected"))
    order = world.receive()

    ended = world.run(order)

    assert (ended.path[3:], ended.error) == ((state, "ReadBilling", "LookupUser", *FAILED), "CognitoRejected")
    assert world.runs_again(order).status == "SUCCEEDED"


def test_two_kinds_of_errors_have_their_own_attempts(world: World) -> None:
    world.add_payer()
    groups = STATES["LookupUser"]["Retry"]
    for group in groups:
        world.fail("LookupUser", group["ErrorEquals"][0], group["MaxAttempts"])

    assert world.happens().status == "SUCCEEDED"
    assert world.waits == [wait for group in groups for wait in _waits(group)]


def test_a_defect_of_a_handler_is_named_by_its_place_only(world: World) -> None:
    world.add_payer()
    world.billing.error = KeyError("a secret text")

    ended = world.happens()

    assert (ended.path, ended.error) == (("ReadBilling", *FAILED), "UnexpectedError")
    assert "KeyError at conftest.py:" in (ended.cause or "")
    assert "a secret text" not in ended.traces
