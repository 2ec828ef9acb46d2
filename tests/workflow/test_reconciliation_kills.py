"""A reconciliation is killed at every call of every task, and every error that may pass or last is met in every task:
the next search, and RunDue where an order was written and no run started, complete the work, and everybody ends as if
nothing had happened."""

from collections.abc import Iterator
from typing import Any

import pytest

from gateway.access import Live
from gateway.drift import KINDS
from gateway.executions import Attempted, StateMachine
from gateway.ledger import ATTEMPT_SECONDS
from tests.workflow.conftest import Calls, Searched, World, definition
from tests.workflow.test_reconciliation import (
    DONE,
    FAILED,
    HOUR,
    access,
    address,
    found,
    kinds,
    nothing_found,
    of_subscription,
    payers,
)

MACHINE = definition("reconciliation")["States"]
SHARD = MACHINE["CompareShards"]["ItemProcessor"]["States"]
TASKS = {name: state for name, state in {**MACHINE, **SHARD}.items() if state["Type"] == "Task"}
REPORTS = ("MarkReconciled", "MarkNotReconciled")
DIED = "Runtime.ExitError"  # no Retry names it, so the search is over

HAS_ONE = (True, "1", Live(True, 1))
ENDS = {
    "new": (True, "3", Live(True, 3)),
    "cus_many0": (False, "0", Live()),
    "cus_many1": HAS_ONE,
    "cus_many2": HAS_ONE,
    "cus_many3": (False, "1", Live()),
    "cus_many4": HAS_ONE,
    "cus_many5": HAS_ONE,
}
FOUND = {
    "cus_many0": "access_without_payment",
    "cus_many1": "orphaned_link",
    "cus_many2": "wrong_limit",
    "cus_many3": "hold_lost",
}

# How many calls of services each task makes for these people; a call more has to be killed, too.
CALLS = {
    "PlanReconciliation": 5,
    "FindMissedEvents": 9,
    "ScanUsers": 20,
    "CompareShard": 30,
    "CheckDrift": 1,
    "MendDrift": 12,
    "MarkReconciled": 2,
    "MarkNotReconciled": 1,
}


class Later(StateMachine):
    """Runs begin when the search that starts them is over, so that its calls are always the same."""

    def __init__(self, machine: StateMachine) -> None:
        self._runs = machine
        self.started: list[Attempted] = []

    def start(self, attempt: Attempted) -> None:
        self.started.append(attempt)

    def begin(self) -> None:
        for attempt in self.started:
            self._runs.start(attempt)
        self.started.clear()


@pytest.fixture(autouse=True)
def later(world: World) -> Later:
    """Few shards, and then the runs."""
    world.parameter("PlanReconciliation", "SHARDS", 1)
    world.parameter("PlanReconciliation", "SEGMENTS", 1)
    machine = Later(world.fulfillment)
    for state in ("FindMissedEvents", "MendDrift"):
        world.parameter(state, "fulfillment", machine)
    return machine


def search(world: World, later: Later) -> Searched:
    """A search, and then the runs that it has started."""
    searched = world.search()
    later.begin()
    world.ends()
    return searched


def everything_is_wrong(world: World) -> None:
    """Somebody of every kind, a missed event, and one with whom all is well."""
    subs = payers(world, 6)
    world.billing.change_status("cus_many0", "canceled")
    world.forget(f"PERSON#{subs[1]}")
    world.forget("PARTY#cus_many1")
    world.write_by_hand(subs[2], num_dapps="40")
    world.ban(subs[3])
    world.ledger.told(subs[3], {"enabled": False, "dapp_limit": 1, "payment_status": "ACTIVE"}, 2)
    world.users.enable(subs[3])
    world.delete_user(subs[4])
    world.billing.subscribe("cus_new", 3, email=address("new"))
    world.billing.tells("evt_missed", "customer.subscription.created", of_subscription("cus_new"), taken=False)
    world.clock.pass_by(HOUR)


def all_is_well(world: World) -> None:
    """Everybody has what they pay for, nobody has two users or mails, and no order is open."""
    assert {name: access(world, name) for name in ENDS} == ENDS
    assert len(world.everybody()) == len(ENDS)
    assert world.mails() == [False, False]
    orders = [row for row in world.table() if row["sk"] == "ORDER"]
    assert {row["state"] for row in orders} == {"FULFILLED"}
    assert [row["event_id"] for row in orders if row["event_id"].startswith("evt_")] == ["evt_missed"]


def test_undisturbed(world: World, later: Later) -> None:
    everything_is_wrong(world)
    calls = {state: world.calls_of(state, Calls()) for state in TASKS}
    searched = search(world, later)
    assert searched.ended.path[-2:] == DONE
    assert FOUND.items() <= found(world, searched).items()
    assert set(kinds(searched)) >= set(KINDS) - {"paid_without_access"}
    all_is_well(world)
    assert {state: each.count for state, each in calls.items()} == {**CALLS, "MarkNotReconciled": 0}
    nothing_found(world)


def _calls(*states: str) -> Iterator[Any]:
    for state in states:
        for call in range(1, CALLS[state] + 1):
            yield pytest.param(state, call, id=f"{state}-{call}")


@pytest.mark.parametrize(("state", "call"), list(_calls(*CALLS)))
def test_the_next_search_completes_what_a_killed_one_began(world: World, later: Later, state: str, call: int) -> None:
    everything_is_wrong(world)
    calls = world.calls_of(state, Calls(dies_after=call, error=DIED))
    if state == "MarkNotReconciled":
        world.fail("CheckDrift", "LedgerRejected")

    first = search(world, later)
    assert calls.count == call or (calls.count > call and state == "CompareShard")  # there is another shard
    assert first.ended.path[-2:] == FAILED

    world.clock.pass_by(HOUR)
    assert search(world, later).ended.path[-2:] == DONE
    world.clock.pass_by(ATTEMPT_SECONDS)
    world.runs_due()
    all_is_well(world)
    assert max(map(world.runs().count, world.runs())) == 1  # who has an order is left to it
    nothing_found(world)


@pytest.mark.parametrize(
    ("state", "call"), list(_calls("FindMissedEvents", "ScanUsers", "MendDrift", "MarkReconciled"))
)
def test_a_task_that_is_killed_is_done_again(world: World, later: Later, state: str, call: int) -> None:
    everything_is_wrong(world)
    calls = world.calls_of(state, Calls(dies_after=call))

    assert search(world, later).ended.path[-2:] == DONE
    assert calls.count > call

    world.clock.pass_by(ATTEMPT_SECONDS)
    world.runs_due()  # an order that nobody has started
    all_is_well(world)
    assert max(map(world.runs().count, world.runs())) == 1
    nothing_found(world)


# ------------------------------------------------------------------ every Retry and every Catch


def _retries() -> Iterator[Any]:
    for state, task in TASKS.items():
        for group in task["Retry"]:
            for error in group["ErrorEquals"]:
                yield pytest.param(state, error, group, id=f"{state}-{error}")


def _waits(group: dict[str, Any]) -> list[float]:
    """The declared back-off: what FULL jitter draws from, at most."""
    interval, rate = group["IntervalSeconds"], group["BackoffRate"]
    return [min(interval * rate**n, group["MaxDelaySeconds"]) for n in range(group["MaxAttempts"])]


def _waited(world: World, state: str, group: dict[str, Any]) -> None:
    """Shards are beside each other, so that each meets some of the errors."""
    if state == "CompareShard":
        assert len(world.waits) == group["MaxAttempts"]
        assert set(world.waits) <= set(_waits(group))
    else:
        assert world.waits == _waits(group)


def _one_is_wrong(world: World, state: str) -> None:
    payers(world, 2)
    world.billing.change_status("cus_many0", "canceled")
    world.clock.pass_by(HOUR)
    if state == "MarkNotReconciled":
        world.fail("CheckDrift", "LedgerRejected")


@pytest.mark.parametrize(("state", "error", "group"), list(_retries()))
def test_a_passing_error_is_retried_as_declared_then_given_up(
    world: World, later: Later, state: str, error: str, group: dict[str, Any]
) -> None:
    _one_is_wrong(world, state)
    world.fail(state, error, group["MaxAttempts"])
    searched = search(world, later)
    assert searched.ended.path[-2:] == (FAILED if state == "MarkNotReconciled" else DONE)
    _waited(world, state, group)
    assert access(world, "cus_many0")[0] is (state == "MarkNotReconciled")

    world.waits.clear()
    _one_is_wrong_again(world, state)
    world.fail(state, error, 99 if state == "CompareShard" else group["MaxAttempts"] + 1)
    searched = world.search()
    assert (searched.ended.status, searched.ended.path[-2:]) == ("FAILED", FAILED)
    first = {"CompareShard": "States.ExceedToleratedFailureThreshold", "MarkNotReconciled": "LedgerRejected"}
    assert searched.ended.error == first.get(state, error)
    assert (searched.report.get("state") == "NOT_RECONCILED") is (state != "MarkNotReconciled")
    if state != "CompareShard":
        _waited(world, state, group)


def _one_is_wrong_again(world: World, state: str) -> None:
    world.billing.change_status("cus_many1", "canceled")
    world.clock.pass_by(HOUR)
    if state == "MarkNotReconciled":
        world.fail("CheckDrift", "LedgerRejected")


@pytest.mark.parametrize("state", TASKS)
def test_any_other_error_is_caught_at_once(world: World, later: Later, state: str) -> None:
    _one_is_wrong(world, state)
    world.fail(state, "SomethingNobodyNamed", 9)
    searched = search(world, later)
    assert (searched.ended.status, searched.ended.path[-2:], world.waits) == ("FAILED", FAILED, [])
    assert access(world, "cus_many0")[0] is (state != "MarkReconciled")
