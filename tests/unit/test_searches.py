"""gateway.searches: when a long call ends, how fast it may go, and how what it found is reported."""

import json
from typing import Any

import pytest

from gateway import searches
from gateway.searches import METRICS, SETTLED, TURN_SECONDS, Pace, Turn, report_of
from gateway.step import Search

ARN = "arn:aws:states:us-east-1:123456789012:execution:reconciliation:s-1"


class Clock:
    """Time as a value that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(searches, "time", clock)
    return clock


class TestTurn:
    @pytest.mark.parametrize(
        ("later", "over"), [(0, False), (TURN_SECONDS - 0.5, False), (TURN_SECONDS, True), (TURN_SECONDS + 1, True)]
    )
    def test_is_over_after_its_time(self, clock: Clock, later: float, over: bool) -> None:
        turn = Turn()
        clock.now += later
        assert turn.over is over

    @pytest.mark.parametrize("times", [1, 2])
    def test_may_be_longer_than_usual(self, clock: Clock, times: int) -> None:
        turn = Turn(times)
        clock.now += times * TURN_SECONDS - 0.5
        assert turn.over is False
        clock.now += 0.5
        assert turn.over is True

    @pytest.mark.parametrize(
        ("function", "times"),
        [("FindMissedEvents", 1), ("ScanUsers", 1), ("CompareShard", 1), ("CheckDrift", 1), ("MendDrift", 2)],
    )
    def test_leaves_time_for_a_page(self, resources: dict[str, Any], function: str, times: int) -> None:
        """Longer than what a page takes at most: sixty people who are all looked at one by one."""
        assert TURN_SECONDS == 300
        assert resources[f"{function}Function"]["Timeout"] - times * TURN_SECONDS >= 240

    def test_looks_at_no_event_that_may_be_on_its_way(self) -> None:
        assert SETTLED == 300


class TestPace:
    @pytest.mark.parametrize("per_second", [1, 3, 5, 20])
    @pytest.mark.parametrize("amount", [1, 3])
    def test_is_never_exceeded(self, clock: Clock, per_second: int, amount: int) -> None:
        pace, began = Pace(per_second), clock.now
        for taken in range(30):
            pace.take(amount)
            assert clock.now - began == pytest.approx(taken * amount / per_second)

    def test_does_not_wait_for_what_took_longer(self, clock: Clock) -> None:
        pace = Pace(2)
        for _ in range(5):
            pace.take(1)
            clock.now += 0.5
        assert clock.slept == []

    def test_saves_nothing_up(self, clock: Clock) -> None:
        """A pause is not made good for by a burst."""
        pace = Pace(2)
        pace.take(1)
        clock.now += 60
        for _ in range(4):
            pace.take(1)
        assert clock.slept == [0.5, 0.5, 0.5]

    def test_of_much_waits_before_the_next_not_before_itself(self, clock: Clock) -> None:
        pace = Pace(5)
        pace.take(3)
        assert clock.slept == []
        pace.take(1)
        assert clock.slept == pytest.approx([0.6])


def test_every_kind_has_a_metric() -> None:
    assert METRICS == {
        "access_without_payment": "AccessWithoutPayment",
        "hold_lost": "HoldLost",
        "paid_without_access": "PaidWithoutAccess",
        "user_deleted": "UserDeleted",
        "orphaned_link": "OrphanedLink",
        "wrong_limit": "WrongLimit",
    }


PLAN = {
    "id": "s-1",
    "started": 1_800_000_000,
    "find_events": True,
    "find_undelivered": True,
    "find_drift": True,
    "dry_run": False,
    "backfill": True,
    "events_from": 1,
    "max_disabled": 2,
    "max_disabled_percent": 3,
    "shards": [],
}


def report(**state: Any) -> dict[str, Any]:
    return report_of(Search(ARN, "invocation", state))


class TestReport:
    def test_is_of_nothing_before_there_was_a_plan(self) -> None:
        """Whose input was refused."""
        assert report(find="everything") == {}

    def test_says_how_it_was_meant_and_when_it_began(self) -> None:
        assert report(plan=PLAN) == {"dry_run": False, "backfill": True, "started_at": 1_800_000_000}

    def test_is_what_was_found_and_done_without_what_was_needed_to_go_on(self) -> None:
        drift = {
            "done": True,
            "cursor": None,
            "mend": True,
            "found": 3,
            "disabled": 1,
            "kinds": {"hold_lost": 3},
            "subscriptions": 9,
            "unadopted": 2,
        }
        found = report(
            plan=PLAN,
            events={"done": True, "cursor": None, "listed": 8, "missed": 1, "mapping_changed": False},
            scan={"done": True, "cursor": None, "users": 7, "enabled": 6},
            shards=[{"compared": {}}],
            drift=drift,
            mended={"done": False, "cursor": "u-1", "started": 2, "left": 1},
            error={"Error": "CognitoThrottled", "Cause": ""},
        )
        assert found == {
            "dry_run": False,
            "backfill": True,
            "started_at": 1_800_000_000,
            "events": {"listed": 8, "missed": 1, "mapping_changed": False},
            "users": {"users": 7, "enabled": 6},
            "drift": {name: value for name, value in drift.items() if name not in ("done", "cursor", "mend")},
            "mended": {"started": 2, "left": 1},
        }

    @pytest.mark.parametrize(("result", "name"), [("events", "events"), ("scan", "users"), ("drift", "drift")])
    def test_of_a_search_that_ended_early_is_what_it_had(self, result: str, name: str) -> None:
        found = report(plan=PLAN, **{result: {"done": False, "cursor": "x", "found": 1}})
        assert {key: value for key, value in found.items() if key not in report(plan=PLAN)} == {name: {"found": 1}}

    def test_can_be_kept_and_told(self) -> None:
        assert json.loads(json.dumps(report(plan=PLAN)))["dry_run"] is False
