"""find_missed_events.handler: what no webhook told gets its order and its run, once."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway import events
from gateway.drift import EVENTS_LAST
from gateway.errors import LedgerThrottled, StartThrottled, StripeUnavailable
from gateway.events import HANDLED_TYPES, SOUGHT_TYPES
from gateway.ledger import ATTEMPT_SECONDS, Attempt, Ledger
from gateway.searches import SETTLED
from tests.unit.operators import refusal
from tests.unit.searches import DAY, PLAN, Searches
from tests.unit.steps import EMAIL, NOW, Json, Then

Counted = Callable[[], dict[str, float]]
DRY: Json = {"plan": {**PLAN, "dry_run": True}}
HOURLY: Json = {"plan": {**PLAN, "find_undelivered": False}}
RUN = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
FULFILLED: Json = {"execution": "arn:run", "outcome": "enabled", "reason": "sub_1 active"}


def happens(searches: Searches, event_id: str = "evt_1", *, at: int = NOW - 3600, **changed: Any) -> Json:
    """An event in Stripe's list; `of` are fields of its object."""
    content = {"id": "in_1", "object": "invoice", "customer": "cus_1", "customer_email": EMAIL, **changed.pop("of", {})}
    data = {"object": content, **changed.pop("data", {})}
    event = {"id": event_id, "object": "event", "type": "invoice.paid", "livemode": False, "created": at, "data": data}
    event |= changed
    searches.stripe.happened.append(event)
    return event


def find(searches: Searches, given: Json | None = None, **replaced: Any) -> Json:
    """The last answer of a search."""
    last: Json = searches.ask_all("FindMissedEvents", "events", given, **replaced)[-1]
    return last


def answer(listed: int, missed: int, *, changed: bool = False) -> Json:
    return {"done": True, "cursor": None, "listed": listed, "missed": missed, "mapping_changed": changed}


class TestAMissedEvent:
    def test_becomes_an_order_and_a_run(self, searches: Searches, counted: Counted) -> None:
        happens(searches)
        assert find(searches) == answer(1, 1)
        order = searches.order()
        assert (order["state"], order["attempts"], order["email"], order["event_type"]) == (
            "RECEIVED",
            1,
            EMAIL,
            "invoice.paid",
        )
        assert searches.machine.executions == {"evt_1": RUN}
        assert counted() == {"MissedEvent": 1}

    def test_is_logged_by_its_ids(self, searches: Searches, lines: list[str]) -> None:
        happens(searches)
        find(searches)
        (line,) = [json.loads(line) for line in lines if '"missed"' in line and "WARNING" in line]
        assert (line["event_id"], line["order_id"]) == ("evt_1", "in_1")

    def test_is_known_from_then_on(self, searches: Searches, counted: Counted) -> None:
        happens(searches)
        find(searches)
        counted()
        assert find(searches) == answer(1, 0)
        assert (searches.machine.calls, counted()) == (["evt_1"], {})

    @pytest.mark.parametrize("fulfilled", [True, False])
    def test_is_none_when_the_webhook_has_told_it(self, searches: Searches, counted: Counted, fulfilled: bool) -> None:
        happens(searches)
        searches.record()
        if fulfilled:
            searches.ledger.close("evt_1", NOW, **FULFILLED)
        before = searches.everything()
        assert find(searches) == answer(1, 0)
        assert (searches.everything(), searches.machine.calls, counted()) == (before, [], {})

    def test_is_not_run_when_the_webhook_is_faster(self, searches: Searches) -> None:
        happens(searches)
        faster = Then(searches.ledger, "remember_purchase", searches.record)
        find(searches, ledger=faster)
        assert searches.machine.calls == []

    def test_of_a_session_has_its_purchase_kept_before_its_order(self, searches: Searches) -> None:
        """A run that reads the ledger in between must not find nothing bought."""
        of = {"id": "cs_1", "object": "checkout.session", "mode": "payment"}
        happens(searches, type="checkout.session.completed", of=of)
        kept: list[int] = []

        class Watched(Ledger):
            def record(self, *args: Any, **more: Any) -> Attempt | None:
                kept.append(len(searches.ledger.party("cus_1").purchases))
                return super().record(*args, **more)

        assert find(searches, ledger=Watched(searches.dynamodb, "orders"))["missed"] == 1
        assert kept == [1]
        assert searches.machine.executions["evt_1"]["order_id"] == "cs_1"

    def test_whose_run_cannot_be_started_is_run_later(self, searches: Searches) -> None:
        """By RunDue, which asks who was recorded and said no word."""
        happens(searches)
        searches.machine.errors.append(refusal("ThrottlingException"))
        with pytest.raises(StartThrottled):
            find(searches)
        assert find(searches) == answer(1, 0)
        order = searches.order()
        assert (order["state"], order["due_at"]) == ("RECEIVED", NOW + ATTEMPT_SECONDS)

    def test_whose_order_cannot_be_written_is_missed_still(self, searches: Searches) -> None:
        happens(searches)
        searches.table.errors["put_item"] = [refusal("ProvisionedThroughputExceededException")]
        with pytest.raises(LedgerThrottled):
            find(searches)
        assert (find(searches), searches.machine.executions) == (answer(1, 1), {"evt_1": RUN})


class TestOfNoInterest:
    @pytest.mark.parametrize("changed", [{"livemode": True}, {"account": "acct_other"}])
    def test_is_what_is_of_the_other_mode_or_of_a_connected_account(
        self, searches: Searches, counted: Counted, changed: Json
    ) -> None:
        happens(searches, **changed)
        assert find(searches) == answer(1, 0)
        assert (searches.everything(), searches.machine.calls, counted()) == ([], [], {})

    def test_is_the_test_mode_when_ours_is_the_live_one(self, searches: Searches) -> None:
        happens(searches)
        happens(searches, "evt_2", livemode=True)
        find(searches, LIVEMODE=True)
        assert searches.machine.calls == ["evt_2"]

    @pytest.mark.parametrize("of", [{"mode": "setup"}, {"mode": "payment"}])
    def test_is_a_session_in_which_nobody_bought_anything(self, searches: Searches, counted: Counted, of: Json) -> None:
        ended = "completed" if of["mode"] == "setup" else "expired"
        happens(searches, type=f"checkout.session.{ended}", of={"id": "cs_1", "customer": None, **of})
        assert find(searches) == answer(1, 0)
        assert (searches.everything(), searches.machine.calls, counted()) == ([], [], {})

    def test_is_never_asked_for_when_it_becomes_no_order(self, searches: Searches) -> None:
        """A notice is not kept, so it would be missed for ever."""
        for each in HANDLED_TYPES - SOUGHT_TYPES:
            happens(searches, f"evt_{each.replace('.', '_')}", type=each)
        assert HANDLED_TYPES - SOUGHT_TYPES
        assert find(searches) == answer(0, 0)

    @pytest.mark.parametrize(
        "broken", [{"livemode": None}, {"data": {"object": None}}, {"id": "not an id"}, {"object": "v2.core.event"}]
    )
    def test_is_what_cannot_be_read_but_nothing_else_is_lost(
        self, searches: Searches, lines: list[str], broken: Json
    ) -> None:
        happens(searches, "evt_2", at=NOW - 3000, **broken)
        happens(searches)
        assert find(searches) == answer(2, 1)
        assert searches.machine.calls == ["evt_1"]
        assert any("UnreadableEnvelope" in json.loads(line)["message"] for line in lines)


class TestUnusable:
    def test_content_is_kept_with_its_problem_and_not_run(self, searches: Searches, lines: list[str]) -> None:
        happens(searches, of={"customer": None})
        happens(searches, "evt_2", at=NOW - 3000)
        assert find(searches) == answer(2, 2)
        order = searches.order()
        assert (order["state"], order["attempts"]) == ("UNFULFILLED", 0)
        assert order["last_error"].startswith("UnusableEvent: customer")
        assert searches.machine.calls == ["evt_2"]
        (line,) = [json.loads(line) for line in lines if "UnusableEvent" in line]
        assert (line["level"], line["event_id"]) == ("ERROR", "evt_1")

    def test_content_is_counted_as_the_webhook_counts_it(self, searches: Searches, counted: Counted) -> None:
        happens(searches, of={"customer": None})
        find(searches)
        assert counted() == {"UnusableEvent": 1}

    def test_content_of_a_dry_run_is_counted_and_not_kept(self, searches: Searches, counted: Counted) -> None:
        happens(searches, of={"customer": None})
        assert find(searches, DRY) == answer(1, 1)
        assert (searches.everything(), counted()) == ([], {"UnusableEvent": 1})

    def test_content_is_known_from_then_on(self, searches: Searches) -> None:
        happens(searches, of={"customer": None})
        find(searches)
        assert find(searches) == answer(1, 0)


class TestMapping:
    """A price gives another number of dapps: that concerns everybody who has it."""

    @pytest.mark.parametrize(
        ("event_type", "data", "changed"),
        [
            ("price.updated", {"previous_attributes": {"metadata": {"dapps": "1"}}}, True),
            ("product.updated", {"previous_attributes": {"metadata": {"dapps_quantity": None}}}, True),
            ("price.updated", {"previous_attributes": {"lookup_key": "old"}}, True),
            ("price.updated", {"previous_attributes": {"nickname": "old"}}, False),
            ("price.deleted", {"object": {"id": "price_1", "metadata": {"dapps": "5"}}}, True),
            ("product.deleted", {"object": {"id": "prod_1", "metadata": {}}}, False),
            # Nobody has bought yet what is new.
            ("price.created", {"object": {"id": "price_1", "metadata": {"dapps": "5"}}}, False),
            ("product.created", {"object": {"id": "prod_1", "metadata": {"dapps": "5"}}}, False),
        ],
    )
    @pytest.mark.parametrize("dry_run", [True, False])
    def test_that_has_changed_is_said_and_nothing_is_run(
        self, searches: Searches, counted: Counted, dry_run: bool, event_type: str, data: Json, changed: bool
    ) -> None:
        happens(searches, type=event_type, data=data)
        assert find(searches, DRY if dry_run else None) == answer(1, 0, changed=changed)
        assert (searches.everything(), searches.machine.calls, counted()) == ([], [], {})

    def test_that_some_endpoint_never_took_is_said_once(self, searches: Searches) -> None:
        """Not by every search of the next thirty days: each of them would compare everybody."""
        data = {"object": {"id": "price_1", "metadata": {"dapps": "5"}}}
        happens(searches, type="price.deleted", at=NOW - 5 * DAY, data=data)
        searches.stripe.undelivered = {"evt_1"}
        assert find(searches)["mapping_changed"] is False
        assert find(searches, {"plan": {**PLAN, "events_from": NOW - 6 * DAY}})["mapping_changed"] is True

    def test_of_another_mode_says_nothing(self, searches: Searches) -> None:
        happens(searches, type="price.deleted", data={"object": {"id": "p", "metadata": {"dapps": "5"}}}, livemode=True)
        assert find(searches)["mapping_changed"] is False

    def test_stays_changed_over_all_calls(self, searches: Searches) -> None:
        searches.stripe.at_most = 1
        happens(searches, "evt_m", type="price.deleted", data={"object": {"id": "p", "metadata": {"dapps": "5"}}})
        for each in range(3):
            happens(searches, f"evt_{each}", at=NOW - 4000 - each, type="price.deleted")
        answers = searches.ask_all("FindMissedEvents", "events")
        said = [each["mapping_changed"] for each in answers]
        assert said == sorted(said)
        assert (said[0], said[-1], said.count(True) > 4) == (False, True, True)


class TestLists:
    @staticmethod
    def asked(searches: Searches, given: Json | None = None) -> list[Any]:
        """What Stripe was asked for: what is undelivered alone or all, types, from when and until when."""
        find(searches, given)
        return [question[1:5] for question in searches.stripe.asked]

    def test_are_the_window_first_and_then_what_some_endpoint_has_not_taken(self, searches: Searches) -> None:
        """What is younger comes first: the next search begins where that ends."""
        spans = [(undelivered, since, until) for undelivered, _, since, until in self.asked(searches)]
        window, older = (False, NOW - DAY, NOW - SETTLED), (True, NOW - EVENTS_LAST, NOW - DAY)
        assert spans == [window] * (len(spans) // 2) + [older] * (len(spans) // 2)

    def test_are_the_window_alone_where_the_plan_says_so(self, searches: Searches) -> None:
        happens(searches, at=NOW - 2 * DAY)
        happens(searches, "evt_2")
        searches.stripe.undelivered = {"evt_1", "evt_2"}
        assert {(which, since, until) for which, _, since, until in self.asked(searches, HOURLY)} == {
            (False, NOW - DAY, NOW - SETTLED)
        }
        assert searches.machine.calls == ["evt_2"]
        assert find(searches) == answer(2, 1)

    @pytest.mark.parametrize("given", [None, HOURLY])
    def test_have_every_type_once_and_twenty_types_at_most(self, searches: Searches, given: Json | None) -> None:
        lists = [(which, types) for which, types, _, _ in self.asked(searches, given)]
        assert all(1 <= len(types) <= 20 for _, types in lists)
        for undelivered in (False, True):
            types = [each for which, types in lists for each in types if which is undelivered]
            assert sorted(types) == (sorted(SOUGHT_TYPES) if not undelivered or given is None else [])

    def test_of_what_was_not_delivered_reach_as_far_as_stripe_has_events(self, searches: Searches) -> None:
        for name, at in (
            ("evt_old", NOW - EVENTS_LAST),
            ("evt_gone", NOW - EVENTS_LAST - 1),
            ("evt_told", NOW - 9 * DAY),
        ):
            happens(searches, name, at=at)
        searches.stripe.undelivered = {"evt_old", "evt_gone"}
        find(searches)
        assert searches.machine.calls == ["evt_old"]

    @pytest.mark.parametrize(("at", "found"), [(NOW - DAY, 1), (NOW - DAY - 1, 0), (NOW - 301, 1), (NOW - 300, 0)])
    def test_of_the_others_begin_with_the_plan_and_end_where_events_are_on_their_way(
        self, searches: Searches, at: int, found: int
    ) -> None:
        happens(searches, at=at)
        assert find(searches) == answer(found, found)

    @pytest.mark.parametrize("at", [NOW - DAY - 1, NOW - DAY, NOW - DAY + 1])
    def test_have_no_gap_and_nothing_in_common(self, searches: Searches, at: int) -> None:
        happens(searches, at=at)
        searches.stripe.undelivered = {"evt_1"}
        assert find(searches) == answer(1, 1)

    def test_do_not_ask_for_what_may_be_on_its_way_to_an_endpoint(self, searches: Searches) -> None:
        happens(searches, at=NOW - 300)
        searches.stripe.undelivered = {"evt_1"}
        assert find(searches)["missed"] == 0

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_tell_once_of_what_was_not_delivered_lately(
        self, searches: Searches, counted: Counted, dry_run: bool
    ) -> None:
        happens(searches)
        searches.stripe.undelivered = {"evt_1"}
        assert find(searches, DRY if dry_run else None) == answer(1, 1)
        assert counted() == {"MissedEvent": 1}


class TestCalls:
    """One page each; what they have counted goes on exactly."""

    @pytest.fixture
    def many(self, searches: Searches) -> Searches:
        """Seven missed events of five types, two that the ledger knows, and one of another mode; pages of two."""
        searches.stripe.at_most = 2
        types = ("invoice.paid", "charge.refunded", "customer.updated", "invoice.voided", "customer.deleted")
        for each in range(7):
            happens(searches, f"evt_{each}", at=NOW - 4000 - each, type=types[each % 5], of={"id": f"in_{each}"})
        for each in (7, 8):
            happens(searches, f"evt_{each}", at=NOW - 4000 - each)
            searches.record(f"evt_{each}")
        happens(searches, "evt_9", at=NOW - 5000, livemode=True)
        return searches

    def test_find_everything_once(self, many: Searches, counted: Counted) -> None:
        answers = many.ask_all("FindMissedEvents", "events")
        assert answers[-1] == answer(10, 7)
        assert all(not each["done"] and each["cursor"] for each in answers[:-1])
        listed = [each["listed"] for each in answers]
        assert listed == sorted(listed)
        assert all(later - before <= 2 for before, later in zip([0, *listed], listed, strict=False))
        assert sorted(many.machine.calls) == [f"evt_{each}" for each in range(7)]
        assert counted() == {"MissedEvent": 7}

    def test_whose_answer_is_lost_do_nothing_twice(self, many: Searches) -> None:
        assert find(many, lost=True)["listed"] == 10
        assert sorted(many.machine.calls) == [f"evt_{each}" for each in range(7)]

    def test_whose_answer_is_lost_count_nothing_twice(self, many: Searches) -> None:
        assert find(many, DRY, lost=True) == answer(10, 7)

    def test_go_on_after_stripe_was_away(self, many: Searches) -> None:
        first = many.ask("FindMissedEvents")
        many.stripe.errors.append(StripeUnavailable("503"))
        given = {"plan": PLAN, "events": first}
        with pytest.raises(StripeUnavailable):
            many.ask("FindMissedEvents", given)
        second = many.ask("FindMissedEvents", given)
        while not second["done"]:
            second = many.ask("FindMissedEvents", {"plan": PLAN, "events": second})
        assert second == answer(10, 7)

    def test_end_after_their_time(self, many: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 600)
        assert many.ask("FindMissedEvents") == answer(10, 7)


class TestDryRun:
    def test_counts_and_changes_nothing(self, searches: Searches, counted: Counted) -> None:
        happens(searches)
        happens(searches, "evt_2", of={"customer": None})
        happens(searches, "evt_3", type="checkout.session.completed", of={"id": "cs_1", "mode": "payment"})
        assert find(searches, DRY) == answer(3, 3)
        assert (searches.everything(), searches.machine.calls, searches.clock.slept) == ([], [], [])
        assert counted()["MissedEvent"] == 2


def test_runs_are_started_no_faster_than_the_operator_wants(searches: Searches) -> None:
    """A run may write to a user three times: who lapsed unheard is disabled."""
    for each in range(6):
        happens(searches, f"evt_{each}")
    find(searches, PER_SECOND=4)
    assert searches.clock.slept == [0.75] * 5
    assert len(searches.machine.calls) == 6


def test_what_is_known_takes_no_time(searches: Searches) -> None:
    for each in range(6):
        happens(searches, f"evt_{each}")
        searches.record(f"evt_{each}")
    find(searches, PER_SECOND=1)
    assert searches.clock.slept == []


def test_an_order_is_what_the_webhook_would_have_made(searches: Searches) -> None:
    event = happens(searches)
    find(searches)
    expected = events.order(events.envelope(event))
    assert expected is not None
    row = searches.order()
    searches.dynamodb.delete_item(TableName="orders", Key={"pk": {"S": "ORDER#evt_1"}, "sk": {"S": "ORDER"}})
    searches.ledger.record(expected, NOW)
    assert row == searches.order()
