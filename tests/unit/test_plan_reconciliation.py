"""plan_reconciliation.handler: what a search looks for, where, and only in the Stripe account that the ledger knows."""

import json
from itertools import pairwise
from typing import Any

import pytest

from gateway.drift import EVENTS_LAST
from gateway.errors import BillingIncomplete, SearchInvalid, StripeThrottled
from tests.unit.operators import subscription
from tests.unit.searches import DAY, SEARCH, Searches
from tests.unit.steps import EMAIL, NOW, Json, module

HOUR = 3600
BOUNDS = {"id": SEARCH, "started": NOW, "dry_run": False, "backfill": False}


def plan(searches: Searches, **given: Any) -> Json:
    return searches.ask("PlanReconciliation", given)


def spans(found: Json, source: str = "subscriptions") -> list[tuple[int, int]]:
    """From when to when each shard of a list of Stripe's is."""
    return [(each["from"], each["until"]) for each in found["shards"] if each["source"] == source]


def test_a_search_of_nothing_looks_through_the_ledger_alone(searches: Searches) -> None:
    assert plan(searches) == {
        "id": SEARCH,
        "started": NOW,
        "find_events": True,
        "find_undelivered": True,
        "find_drift": True,
        "dry_run": False,
        "backfill": False,
        "events_from": NOW - 24 * HOUR - 600,
        "max_disabled": 100,
        "max_disabled_percent": 5,
        "shards": [{**BOUNDS, "source": "people", "segment": each, "of": 8} for each in range(8)],
    }
    assert searches.everything() == []


def test_planning_changes_nothing(searches: Searches) -> None:
    searches.payer()
    before = searches.everything()
    plan(searches, backfill=True)
    assert (searches.everything(), searches.drift()) == (before, [])


def test_the_numbers_are_the_operators(searches: Searches, resources: dict[str, Any]) -> None:
    found = module("PlanReconciliation")
    variables = resources["PlanReconciliationFunction"]["Environment"]["Variables"]
    names = ("MAX_DISABLED", "MAX_DISABLED_PERCENT", "EVENTS_WINDOW_HOURS")
    said = [int(variables[name]) for name in names]
    assert said == [found.MAX_DISABLED, found.MAX_DISABLED_PERCENT, found.WINDOW // HOUR]
    answer = searches.ask("PlanReconciliation", {}, MAX_DISABLED=7, MAX_DISABLED_PERCENT=3, WINDOW=2 * HOUR)
    asked = (answer["max_disabled"], answer["max_disabled_percent"], answer["events_from"])
    assert asked == (7, 3, NOW - 2 * HOUR - 600)


class TestInput:
    @pytest.mark.parametrize(
        ("find", "looked_for"), [("all", (True, True)), ("events", (True, False)), ("drift", (False, True))]
    )
    def test_says_what_is_looked_for(self, searches: Searches, find: str, looked_for: tuple[bool, bool]) -> None:
        found = plan(searches, find=find)
        assert (found["find_events"], found["find_drift"]) == looked_for

    @pytest.mark.parametrize("name", ["dry_run", "backfill"])
    @pytest.mark.parametrize("value", [True, False])
    def test_is_told_to_every_shard(self, searches: Searches, name: str, value: bool) -> None:
        searches.payer()
        found = plan(searches, **{name: value})
        assert found[name] is value
        assert {each["source"] for each in found["shards"]} == {"people", "subscriptions"}
        assert all({**each, **BOUNDS, name: value} == each for each in found["shards"])

    @pytest.mark.parametrize("value", [0, 1, 10**9])
    @pytest.mark.parametrize("name", ["max_disabled", "max_disabled_percent"])
    def test_goes_before_the_operators_numbers(self, searches: Searches, name: str, value: int) -> None:
        found = plan(searches, **{name: value})
        numbers = {"max_disabled": 100, "max_disabled_percent": 5, name: value}
        assert {each: found[each] for each in numbers} == numbers

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            *(("find", value) for value in ("", "event", "ALL", "all ", None, True, 1, ["all"], {"all": True})),
            *((name, value) for name in ("dry_run", "backfill") for value in ("true", "", 1, 0, None, [], {}, 1.0)),
            *(
                (name, value)
                for name in ("max_disabled", "max_disabled_percent")
                for value in (-1, "5", "", None, True, False, 5.0, 0.5, [5], {})
            ),
        ],
    )
    def test_that_is_no_answer_to_its_question_is_refused(self, searches: Searches, name: str, value: object) -> None:
        with pytest.raises(SearchInvalid, match=name):
            plan(searches, **{name: value})

    @pytest.mark.parametrize("name", ["dryrun", "dry-run", "Find", "max", "plan", "id", "", "cursor", "source", EMAIL])
    def test_that_nobody_reads_is_refused_and_not_repeated(self, searches: Searches, name: str) -> None:
        """Whoever writes dryrun must not have a real run."""
        with pytest.raises(SearchInvalid, match=r"dry_run, find, max_disabled, .*, and nothing else") as refused:
            plan(searches, find="drift", **{name: True})
        assert "@" not in str(refused.value)


class TestStripesAccount:
    def test_is_not_asked_while_nobody_has_subscribed(self, searches: Searches) -> None:
        searches.ledger.note_party("cus_1", email=None, subscribed=False)
        searches.ledger.link(["cus_2"], "u-2", replacing=None)
        plan(searches)
        assert searches.stripe.asked == []

    def test_is_the_one_of_somebody_who_subscribed(self, searches: Searches) -> None:
        searches.payer()
        plan(searches)
        assert searches.stripe.asked == [("customer", "cus_1")]

    @pytest.mark.parametrize("dry_run", [True, False])
    @pytest.mark.parametrize("find", ["all", "events", "drift"])
    @pytest.mark.parametrize("subscribers", [1, 12])
    def test_is_another_one_when_it_does_not_know_them(
        self, searches: Searches, subscribers: int, find: str, dry_run: bool
    ) -> None:
        for each in range(subscribers):
            searches.payer(str(each))
        searches.stripe.customers.clear()
        with pytest.raises(BillingIncomplete):
            plan(searches, find=find, dry_run=dry_run)
        assert len(searches.stripe.asked) == min(subscribers, 10)

    def test_may_have_lost_some_of_them(self, searches: Searches) -> None:
        """Deleted with test data."""
        for each in range(3):
            searches.payer(str(each))
        plan(searches)
        ((_, first),) = searches.stripe.asked
        del searches.stripe.customers[first]
        plan(searches)
        assert len(searches.stripe.asked) == 3

    def test_may_have_lost_nine_of_ten(self, searches: Searches) -> None:
        for each in range(10):
            searches.payer(str(each))
        searches.table.at_most["scan"] = 10**6
        kept = searches.ledger.some_subscribers(10)[-1]
        searches.stripe.customers = {kept: searches.stripe.customers[kept]}
        plan(searches)
        assert len(searches.stripe.asked) == 10

    def test_is_another_one_when_they_have_no_subscription_there(self, searches: Searches) -> None:
        searches.payer()
        searches.stripe.subscribes("cus_1")
        with pytest.raises(BillingIncomplete, match="another account"):
            plan(searches)

    def test_is_looked_for_on_more_than_one_page_of_the_ledger(self, searches: Searches) -> None:
        searches.payer()
        searches.table.at_most["scan"] = 1
        for each in range(9):
            searches.record(f"evt_{each}")
        plan(searches)
        assert searches.stripe.asked == [("customer", "cus_1")]

    def test_that_cannot_be_asked_now_is_no_answer(self, searches: Searches) -> None:
        searches.payer()
        searches.stripe.error = StripeThrottled("429")
        with pytest.raises(StripeThrottled):
            plan(searches)


class TestEventsFrom:
    def test_is_where_the_last_search_ended_and_ten_minutes_before(self, searches: Searches) -> None:
        searches.ledger.know_events_until(NOW - 500)
        assert plan(searches)["events_from"] == NOW - 500 - 600

    @pytest.mark.parametrize("until", [NOW - 30 * DAY, NOW - 400 * DAY])
    def test_is_never_longer_ago_than_stripe_has_events(self, searches: Searches, until: int) -> None:
        searches.ledger.know_events_until(until)
        assert plan(searches)["events_from"] == NOW - EVENTS_LAST

    def test_of_the_first_search_is_never_longer_ago_either(self, searches: Searches) -> None:
        answer = searches.ask("PlanReconciliation", {}, WINDOW=30 * DAY)
        assert answer["events_from"] == NOW - EVENTS_LAST

    @pytest.mark.parametrize(
        ("find", "known", "undelivered"),
        [
            ("all", True, True),
            ("all", False, True),
            ("events", True, False),
            ("events", False, True),
            ("drift", True, False),
        ],
    )
    def test_is_not_all_that_a_daily_search_or_the_first_one_looks_through(
        self, searches: Searches, find: str, known: bool, undelivered: bool
    ) -> None:
        """Older ones that some endpoint has not taken stay in that list for a month, where that is an endpoint of
        somebody else's: once a day is enough."""
        if known:
            searches.ledger.know_events_until(NOW - 500)
        assert plan(searches, find=find)["find_undelivered"] is undelivered


class TestShards:
    @pytest.mark.parametrize("seconds", [1, 39, 40, 41, 1_000_003, 10 * 365 * DAY])
    def test_are_equal_and_leave_no_gap(self, searches: Searches, seconds: int) -> None:
        searches.payer(created=NOW - seconds)
        found = spans(plan(searches))
        assert len(found) == 40
        assert found[0][0] == NOW - seconds
        assert all(one[1] == next_[0] for one, next_ in pairwise(found))
        lengths = {until - since for since, until in found[:-1]} | {NOW - found[-1][0]}
        assert max(lengths) - min(lengths) <= 1

    def test_begin_with_the_ledger_and_end_after_all_that_is_bought_meanwhile(self, searches: Searches) -> None:
        """What the ledger has of it Stripe's list must have as well."""
        searches.payer(created=NOW)
        found = plan(searches)["shards"]
        assert [each["source"] for each in found] == ["people"] * 8 + ["subscriptions"] * 40
        assert found[-1]["until"] > NOW + DAY

    def test_have_every_subscription_once(self, searches: Searches) -> None:
        moments = [NOW - 41, NOW - 40, NOW - 39, NOW - 21, NOW - 1]
        searches.stripe.subscribes("cus_1", *(subscription(f"sub_{at}", created=at) for at in moments))
        found = [
            each.id
            for since, until in spans(plan(searches))
            for _, each in searches.stripe.subscriptions_made(since, until, None)[0]
        ]
        assert sorted(found) == sorted(f"sub_{at}" for at in moments)

    def test_of_a_backfill_are_of_sessions_as_well_since_the_first_of_these(self, searches: Searches) -> None:
        searches.payer()
        searches.stripe.sessions.append({"id": "cs_1", "created": NOW - 7 * DAY, "mode": "payment"})
        found = plan(searches, backfill=True)
        sessions = spans(found, "sessions")
        assert (len(sessions), sessions[0][0]) == (40, NOW - 7 * DAY)
        assert spans(found)[0][0] == NOW - 100 * DAY
        assert spans(plan(searches), "sessions") == []

    def test_of_a_backfill_are_of_no_sessions_when_there_is_none(self, searches: Searches) -> None:
        searches.payer()
        assert spans(plan(searches, backfill=True), "sessions") == []

    def test_fit_with_all_that_they_answer_into_the_state_of_an_execution(self, searches: Searches) -> None:
        """256 KiB; twice, as the shards are in it with their answers as well."""
        searches.payer()
        searches.stripe.sessions.append({"id": "cs_1", "created": NOW - 7 * DAY, "mode": "payment"})
        found = plan(searches, backfill=True)
        compared = {"done": True, "cursor": None, "seen": 10**9, "granted": 10**9, "unadopted": 10**9}
        shards = [{**each, "compared": compared} for each in found["shards"]]
        assert len(json.dumps([found, shards])) < 100 * 1024
