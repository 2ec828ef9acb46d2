"""mark_reconciled.handler and mark_not_reconciled.handler: what a search found and did, for an operator to read."""

import json
from collections.abc import Callable

import pytest

from gateway.drift import KINDS
from gateway.errors import LedgerThrottled
from gateway.searches import KEPT
from tests.unit.operators import refusal
from tests.unit.searches import DAY, PLAN, SEARCH, Searches
from tests.unit.steps import NOW, Json

Counted = Callable[[], dict[str, float]]
EVENTS = {"done": True, "cursor": None, "listed": 240, "missed": 2, "mapping_changed": False}
SCAN = {"done": True, "cursor": None, "users": 120, "enabled": 100}
DRIFT = {
    "done": True,
    "cursor": None,
    "mend": True,
    "found": 2,
    "disabled": 1,
    "kinds": dict.fromkeys(KINDS, 1),
    "subscriptions": 150,
    "unadopted": 4,
}
MENDED = {"done": True, "cursor": "cus_2", "started": 2, "left": 1}
FOUND: Json = {"plan": PLAN, "events": EVENTS, "scan": SCAN, "shards": [], "drift": DRIFT, "mended": MENDED}
REPORT: Json = {
    "dry_run": False,
    "backfill": False,
    "started_at": NOW,
    "events": {"listed": 240, "missed": 2, "mapping_changed": False},
    "users": {"users": 120, "enabled": 100},
    "drift": {"found": 2, "disabled": 1, "kinds": dict.fromkeys(KINDS, 1), "subscriptions": 150, "unadopted": 4},
    "mended": {"started": 2, "left": 1},
}
LATER = NOW + 500
NAME = f"REPORT#{NOW}#{SEARCH}"


@pytest.fixture(autouse=True)
def _later(searches: Searches) -> None:
    searches.clock.now = LATER


def kept(searches: Searches, name: str = NAME) -> Json:
    """A report as the ledger has it."""
    row = json.loads(json.dumps(searches.row("RECONCILIATION", name), default=int))
    assert row.pop("pk", "RECONCILIATION") == "RECONCILIATION"
    assert row.pop("sk", name) == name
    return dict(row)


class TestMarkReconciled:
    def test_writes_the_report(self, searches: Searches, counted: Counted) -> None:
        report = {"state": "RECONCILED", "finished_at": LATER, **REPORT}
        assert searches.ask("MarkReconciled", FOUND) == report
        assert kept(searches) == {**report, "expires_at": LATER + KEPT}
        assert counted() == {"Reconciled": 1}

    @pytest.mark.parametrize(
        ("left_out", "said"),
        [
            (("events",), ("users", "drift", "mended")),
            (("mended",), ("events", "users", "drift")),
            (("scan", "shards", "drift", "mended"), ("events",)),
        ],
    )
    def test_tells_nothing_of_what_was_not_looked_for(
        self, searches: Searches, left_out: tuple[str, ...], said: tuple[str, ...]
    ) -> None:
        report = searches.ask("MarkReconciled", {name: value for name, value in FOUND.items() if name not in left_out})
        about = ("state", "finished_at", "started_at", "dry_run", "backfill")
        assert report == {**{name: report[name] for name in about}, **{name: REPORT[name] for name in said}}

    @pytest.mark.parametrize(("find_events", "dry_run"), [(True, False), (True, True), (False, False), (False, True)])
    def test_has_all_events_known_when_they_were_looked_for_in_earnest(
        self, searches: Searches, find_events: bool, dry_run: bool
    ) -> None:
        plan = {**PLAN, "find_events": find_events, "dry_run": dry_run, "backfill": True}
        report = searches.ask("MarkReconciled", {**FOUND, "plan": plan})
        assert (report["dry_run"], report["backfill"]) == (dry_run, True)
        assert searches.ledger.events_known_until() == (NOW - 300 if find_events and not dry_run else None)

    def test_does_not_take_back_what_a_later_search_knows(self, searches: Searches) -> None:
        searches.ledger.know_events_until(NOW + DAY)
        searches.ask("MarkReconciled", FOUND)
        assert searches.ledger.events_known_until() == NOW + DAY

    def test_is_one_report_however_often_it_is_asked_for(self, searches: Searches) -> None:
        searches.ask("MarkReconciled", FOUND)
        searches.clock.now += 9
        searches.ask("MarkReconciled", FOUND)
        rows = searches.dynamodb.scan(TableName="orders", ConsistentRead=True)["Items"]
        assert sorted(row["sk"]["S"] for row in rows) == ["EVENTS", NAME]
        assert kept(searches)["finished_at"] == LATER + 9

    def test_waits_for_the_ledger(self, searches: Searches, counted: Counted) -> None:
        searches.table.errors["put_item"] = [refusal("ThrottlingException")]
        with pytest.raises(LedgerThrottled):
            searches.ask("MarkReconciled", FOUND)
        assert counted() == {"Throttled": 1}


class TestMarkNotReconciled:
    def error(self, name: str = "StripeKeyRejected", message: str = "check the key") -> Json:
        """As a Catch keeps what a Lambda raised."""
        cause = {"errorType": name, "errorMessage": message, "stackTrace": ["nobody reads this"]}
        return {"Error": name, "Cause": json.dumps(cause)}

    def test_writes_the_reason_and_what_was_found_until_then(self, searches: Searches, counted: Counted) -> None:
        given = {name: FOUND[name] for name in ("plan", "events", "scan")}
        answer = searches.ask("MarkNotReconciled", {**given, "error": self.error()})
        assert answer == {"reason": "StripeKeyRejected: check the key"}
        assert kept(searches) == {
            "state": "NOT_RECONCILED",
            "finished_at": LATER,
            "reason": "StripeKeyRejected: check the key",
            "expires_at": LATER + KEPT,
            **{name: REPORT[name] for name in ("dry_run", "backfill", "started_at", "events", "users")},
        }
        assert counted() == {"NotReconciled": 1}

    def test_of_a_search_that_was_never_planned_is_of_now(self, searches: Searches, counted: Counted) -> None:
        message = "the input says dryrun, which nobody reads here"
        given = {"dryrun": True, "error": self.error("SearchInvalid", message)}
        assert searches.ask("MarkNotReconciled", given) == {"reason": f"SearchInvalid: {message}"}
        assert kept(searches, f"REPORT#{LATER}#{SEARCH}") == {
            "state": "NOT_RECONCILED",
            "finished_at": LATER,
            "reason": f"SearchInvalid: {message}",
            "expires_at": LATER + KEPT,
        }
        assert counted() == {"NotReconciled": 1}

    @pytest.mark.parametrize(
        "odd", [{"id": "another"}, {"plan": {"a": 1}}, {"plan": "x"}, {"source": "x"}, {"scan": 1}]
    )
    def test_of_a_search_with_an_odd_input_is_written_as_well(
        self, searches: Searches, counted: Counted, odd: Json
    ) -> None:
        """The input was refused by PlanReconciliation, and is still there."""
        searches.ask("MarkNotReconciled", {**odd, "error": self.error("SearchInvalid", "no")})
        assert kept(searches, f"REPORT#{LATER}#{SEARCH}")["reason"] == "SearchInvalid: no"
        assert counted() == {"NotReconciled": 1}

    def test_of_a_shard_says_where_to_look(self, searches: Searches) -> None:
        error = {"Error": "States.ExceedToleratedFailureThreshold", "Cause": "The specified threshold was exceeded"}
        reason = searches.ask("MarkNotReconciled", {"plan": PLAN, "error": error})["reason"]
        assert reason.startswith("a shard could not be compared")
        assert "Map Run" in reason

    def test_of_a_time_out_says_so(self, searches: Searches) -> None:
        given = {"plan": PLAN, "error": {"Error": "States.Timeout", "Cause": ""}}
        assert searches.ask("MarkNotReconciled", given) == {"reason": "States.Timeout: "}

    def test_has_no_event_known(self, searches: Searches) -> None:
        """The next search looks at all of them again."""
        searches.ask("MarkNotReconciled", {**FOUND, "error": self.error()})
        assert searches.ledger.events_known_until() is None

    def test_waits_for_the_ledger(self, searches: Searches, counted: Counted) -> None:
        searches.table.errors["put_item"] = [refusal("ThrottlingException")]
        with pytest.raises(LedgerThrottled):
            searches.ask("MarkNotReconciled", {"plan": PLAN, "error": self.error()})
        assert counted() == {"Throttled": 1}


def test_reports_are_in_the_order_of_time(searches: Searches) -> None:
    for started in (NOW + DAY, NOW, NOW + 10 * DAY):
        searches.ask("MarkReconciled", {**FOUND, "plan": {**PLAN, "started": started}})
    query = {
        "KeyConditionExpression": "pk = :pk AND begins_with(sk, :sk)",
        "ExpressionAttributeValues": {":pk": {"S": "RECONCILIATION"}, ":sk": {"S": "REPORT#"}},
    }
    rows = searches.dynamodb.query(TableName="orders", ConsistentRead=True, **query)["Items"]
    assert [int(row["started_at"]["N"]) for row in rows] == [NOW, NOW + DAY, NOW + 10 * DAY]
