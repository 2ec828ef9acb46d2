"""check_drift.handler: how many differ, whether Stripe's list was whole, and whether so many may lose access."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest

from gateway.differences import Difference
from gateway.drift import KINDS, Kind
from gateway.errors import BillingIncomplete, LedgerThrottled, TooManyDisabled
from tests.unit.operators import refusal
from tests.unit.searches import DAY, PLAN, SEARCH, Searches
from tests.unit.steps import NOW, Json

Counted = Callable[[], dict[str, float]]
NOTHING = dict.fromkeys(KINDS, 0)
METRICS = {
    "AccessWithoutPayment": 0,
    "HoldLost": 0,
    "PaidWithoutAccess": 0,
    "UserDeleted": 0,
    "OrphanedLink": 0,
    "WrongLimit": 0,
    "WouldDisable": 0,
}


@pytest.fixture(autouse=True)
def _one_call(searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of this task ends after its time alone: it has no pages."""
    monkeypatch.setattr("gateway.searches.TURN_SECONDS", 300)


def shards(*, listed: Iterable[int] = (10,), known: Iterable[int] = (10,)) -> list[Json]:
    """Shards of Stripe's list and of the ledger's people that found so many subscriptions which give something."""
    found = []
    for source, numbers in (("subscriptions", listed), ("people", known), ("sessions", (7,))):
        for number in numbers:
            compared = {"done": True, "cursor": None, "seen": number + 5, "granted": number, "unadopted": 1}
            found.append({"source": source, "compared": compared})
    return found


def state(*, enabled: int = 1000, found: list[Json] | None = None, **plan: Any) -> Json:
    scan = {"done": True, "cursor": None, "users": enabled + 9, "enabled": enabled}
    return {"plan": {**PLAN, **plan}, "scan": scan, "shards": shards() if found is None else found}


def differ(searches: Searches, people: int, kind: Kind = "access_without_payment", *, disables: bool = True) -> None:
    """So many people are kept as differing."""
    for each in range(people):
        found = Difference(kind, f"cus_{kind}_{each}", None, disables)
        searches.ledger.add_drift(SEARCH, found.subject, found.row(), NOW + DAY)


class TestAnswer:
    def test_of_nobody_is_that_nobody_is_to_be_mended(self, searches: Searches, counted: Counted) -> None:
        assert searches.ask("CheckDrift", state()) == {
            "done": True,
            "cursor": None,
            "mend": False,
            "found": 0,
            "disabled": 0,
            "kinds": NOTHING,
            "subscriptions": 15,
            "unadopted": 3,
        }
        assert counted() == METRICS

    def test_counts_every_kind(self, searches: Searches, counted: Counted) -> None:
        for number, kind in enumerate(KINDS, 1):
            differ(searches, number, kind, disables=kind == "hold_lost")
        found = searches.ask("CheckDrift", state())
        assert found["kinds"] == {kind: number for number, kind in enumerate(KINDS, 1)}
        assert (found["mend"], found["found"], found["disabled"]) == (True, 21, 2)
        assert counted() == {
            "AccessWithoutPayment": 1,
            "HoldLost": 2,
            "PaidWithoutAccess": 3,
            "UserDeleted": 4,
            "OrphanedLink": 5,
            "WrongLimit": 6,
            "WouldDisable": 2,
        }

    def test_sums_all_shards(self, searches: Searches) -> None:
        found = searches.ask("CheckDrift", state(found=shards(listed=(3, 4, 5), known=(1, 2, 9))))
        assert (found["subscriptions"], found["unadopted"]) == (27, 7)

    def test_is_of_this_search_alone(self, searches: Searches) -> None:
        searches.ledger.add_drift(
            "yesterday", "u-1", {"kind": "wrong_limit", "disables": True, "relink": False}, NOW + DAY
        )
        assert searches.ask("CheckDrift", state())["found"] == 0

    def test_counts_who_is_left_to_an_operator_as_well(self, searches: Searches) -> None:
        found = Difference("orphaned_link", None, "u-1", False)
        searches.ledger.add_drift(SEARCH, found.subject, found.row(), NOW + DAY)
        answer = searches.ask("CheckDrift", state())
        assert (answer["found"], answer["disabled"], answer["mend"]) == (1, 0, True)

    def test_of_the_same_question_is_the_same(self, searches: Searches) -> None:
        differ(searches, 5)
        assert searches.ask("CheckDrift", state()) == searches.ask("CheckDrift", state())

    def test_waits_for_the_ledger(self, searches: Searches) -> None:
        searches.table.errors["query"] = [refusal("ProvisionedThroughputExceededException")]
        with pytest.raises(LedgerThrottled):
            searches.ask("CheckDrift", state())


class TestCalls:
    """One person each; what they have counted goes on exactly."""

    @pytest.fixture(autouse=True)
    def _short(self, _one_call: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 0)

    @pytest.mark.parametrize("lost", [True, False])
    def test_count_everybody_once(self, searches: Searches, counted: Counted, lost: bool) -> None:
        differ(searches, 3)
        differ(searches, 2, "wrong_limit", disables=False)
        answers = searches.ask_all("CheckDrift", "drift", state(), lost=lost)
        assert [(each["done"], each["found"], each["disabled"], each["mend"]) for each in answers] == [
            (False, 1, 1, True),
            (False, 2, 2, True),
            (False, 3, 3, True),
            (False, 4, 3, True),
            (False, 5, 3, True),
            (True, 5, 3, True),
        ]
        rows = [each["sk"] for each in searches.ledger.drifts(SEARCH)]
        assert [each["cursor"] for each in answers] == [*rows, None]
        kinds = {**NOTHING, "access_without_payment": 3, "wrong_limit": 2}
        assert (answers[-1]["kinds"], list(answers[0]["kinds"])) == (kinds, list(KINDS))
        assert {(each["subscriptions"], each["unadopted"]) for each in answers} == {(15, 3)}
        if not lost:
            assert counted() == {**METRICS, "AccessWithoutPayment": 3, "WrongLimit": 2, "WouldDisable": 3}

    def test_that_are_not_the_last_count_no_metric(self, searches: Searches, counted: Counted) -> None:
        differ(searches, 2)
        searches.ask("CheckDrift", state(max_disabled=0))
        assert counted() == {}

    def test_stop_only_when_all_are_counted(self, searches: Searches) -> None:
        """So that whoever reads it knows how many it would be."""
        differ(searches, 4)
        given = state(max_disabled=1)
        for number in range(1, 5):
            given = {**given, "drift": searches.ask("CheckDrift", given)}
            assert (given["drift"]["done"], given["drift"]["disabled"]) == (False, number)
        with pytest.raises(TooManyDisabled, match="4 of 1000"):
            searches.ask("CheckDrift", given)

    def test_of_a_dry_run_end_as_well(self, searches: Searches) -> None:
        differ(searches, 3)
        last = searches.ask_all("CheckDrift", "drift", state(dry_run=True, max_disabled=0))[-1]
        assert (last["found"], last["disabled"], last["mend"]) == (3, 3, False)

    def test_go_on_after_a_failure(self, searches: Searches) -> None:
        differ(searches, 3)
        given = {**state(), "drift": searches.ask("CheckDrift", state())}
        searches.table.errors["query"] = [refusal("ProvisionedThroughputExceededException")]
        with pytest.raises(LedgerThrottled):
            searches.ask("CheckDrift", given)
        while not given["drift"]["done"]:
            given = {**given, "drift": searches.ask("CheckDrift", given)}
        assert (given["drift"]["found"], given["drift"]["disabled"]) == (3, 3)

    def test_end_after_their_time(self, searches: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 300)
        differ(searches, 30)
        assert searches.ask("CheckDrift", state())["done"] is True


class TestBlastRadius:
    @pytest.mark.parametrize(
        ("disabled", "enabled", "plan", "stops"),
        [
            (100, 10_000, {}, False),
            (101, 10_000, {}, True),
            (10, 20, {}, False),  # ten are never too many by the percentage
            (11, 20, {}, True),
            (11, 220, {}, False),  # five percent exactly
            (11, 219, {}, True),
            (11, 0, {}, True),
            (10, 0, {}, False),
            (1, 1000, {"max_disabled": 0}, True),
            (0, 1000, {"max_disabled": 0}, False),
            (6, 1000, {"max_disabled": 5}, True),  # so few, but more than somebody said
            (5, 1000, {"max_disabled": 5}, False),
            (101, 10_000, {"max_disabled": 101}, False),
            (11, 20, {"max_disabled_percent": 100}, False),
            (20, 20, {"max_disabled_percent": 100}, False),
            (11, 10_000, {"max_disabled_percent": 0}, True),
            (10, 10_000, {"max_disabled_percent": 0}, False),
            (50, 20, {"max_disabled_percent": 1000}, False),
        ],
    )
    def test_is_people_and_percent(
        self, searches: Searches, counted: Counted, disabled: int, enabled: int, plan: Json, stops: bool
    ) -> None:
        differ(searches, disabled)
        differ(searches, 30, "wrong_limit", disables=False)
        given = state(enabled=enabled, **plan)
        if stops:
            with pytest.raises(TooManyDisabled):
                searches.ask("CheckDrift", given)
        else:
            assert searches.ask("CheckDrift", given)["disabled"] == disabled
        metrics = counted()
        assert metrics["WouldDisable"] == disabled
        assert metrics.get("TooManyDisabled", 0) == int(stops)

    def test_is_that_of_whoever_loses_access_for_whatever_reason(self, searches: Searches) -> None:
        differ(searches, 60)
        differ(searches, 41, "orphaned_link")
        with pytest.raises(TooManyDisabled, match="101 of 1000"):
            searches.ask("CheckDrift", state())

    def test_does_not_stop_a_dry_run(self, searches: Searches, counted: Counted) -> None:
        differ(searches, 500)
        answer = searches.ask("CheckDrift", state(enabled=500, dry_run=True))
        assert (answer["mend"], answer["found"], answer["disabled"]) == (False, 500, 500)
        metrics = counted()
        assert (metrics["WouldDisable"], "TooManyDisabled" in metrics) == (500, False)

    def test_says_how_many_and_what_to_do_and_nobody_by_name(self, searches: Searches) -> None:
        differ(searches, 101)
        with pytest.raises(TooManyDisabled) as stopped:
            searches.ask("CheckDrift", state(max_disabled_percent=50))
        text = str(stopped.value)
        assert text.startswith("101 of 1000 people would lose access, more than 100 or 50 %; nobody was touched")
        assert f"DRIFT#{SEARCH}" in text
        assert "max_disabled" in text
        assert "cus_" not in text

    def test_has_nobody_touched(self, searches: Searches) -> None:
        searches.payer()
        differ(searches, 101)
        before = searches.everything()
        with pytest.raises(TooManyDisabled):
            searches.ask("CheckDrift", state())
        assert (searches.everything(), searches.machine.calls) == (before, [])


class TestStripesList:
    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize(
        ("listed", "known", "whole"),
        [
            (0, 0, True),
            (0, 1, False),  # empty is never "nobody pays"
            (0, 3, False),
            (1, 4, True),  # three come and go
            (1, 5, False),
            (97, 100, True),
            (96, 100, False),
            (990, 1000, True),  # one in a hundred
            (989, 1000, False),
            (396, 400, True),
            (395, 400, False),
            (9, 5, True),
        ],
    )
    def test_must_have_what_the_ledger_knows(
        self, searches: Searches, counted: Counted, listed: int, known: int, whole: bool, dry_run: bool
    ) -> None:
        given = state(found=shards(listed=(listed,), known=(known,)), dry_run=dry_run)
        if whole:
            searches.ask("CheckDrift", given)
        else:
            with pytest.raises(BillingIncomplete, match=f"{listed} of {known} .*test clocks"):
                searches.ask("CheckDrift", given)
        assert bool(counted()) is whole

    def test_is_all_its_shards(self, searches: Searches) -> None:
        searches.ask("CheckDrift", state(found=shards(listed=(50, 47), known=(60, 40))))
        with pytest.raises(BillingIncomplete, match="96 of 100"):
            searches.ask("CheckDrift", state(found=shards(listed=(50, 46), known=(60, 40))))

    def test_that_has_no_shards_is_empty(self, searches: Searches) -> None:
        with pytest.raises(BillingIncomplete):
            searches.ask("CheckDrift", state(found=shards(listed=(), known=(2,))))

    def test_is_asked_for_before_who_may_be_disabled(self, searches: Searches) -> None:
        """Another account would make everybody somebody who does not pay."""
        differ(searches, 500)
        with pytest.raises(BillingIncomplete):
            searches.ask("CheckDrift", state(found=shards(listed=(), known=(500,)), max_disabled=10**9))
