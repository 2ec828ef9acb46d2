"""compare_shard.handler: a part of Stripe's lists, or of the ledger's people, is compared with the ledger."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import Item, Live, Purchase
from gateway.drift import EVENTS_LAST
from gateway.errors import CognitoThrottled, LedgerThrottled, StripeThrottled, StripeUnavailable
from tests.unit.operators import OTHER_PRODUCT, refusal, subscription
from tests.unit.searches import DAY, SEARCH, Searches
from tests.unit.steps import EMAIL, NOW, ORDER, Json

Counted = Callable[[], dict[str, float]]
SHARD: Json = {"id": SEARCH, "started": NOW, "dry_run": False, "backfill": False}
SUBSCRIPTIONS: Json = {**SHARD, "source": "subscriptions", "from": NOW - 1000 * DAY, "until": NOW}
SESSIONS: Json = {**SHARD, "backfill": True, "source": "sessions", "from": NOW - 1000 * DAY, "until": NOW}
PEOPLE: Json = {**SHARD, "source": "people", "segment": 0, "of": 1}


def compare(searches: Searches, shard: Json, **replaced: Any) -> Json:
    """The last answer of a shard."""
    last: Json = searches.ask_all("CompareShard", "compared", shard, **replaced)[-1]
    return last


def answer(seen: int, granted: int, unadopted: int = 0) -> Json:
    return {"done": True, "cursor": None, "seen": seen, "granted": granted, "unadopted": unadopted}


def row(kind: str, sub: str | None, party: str = "cus_1", *, disables: bool = False) -> Json:
    """As somebody who differs is kept."""
    found = {"kind": kind, "party": party, "sub": sub, "disables": disables, "relink": False}
    return {name: value for name, value in found.items() if value is not None}


def stranger(searches: Searches, age: int, **changed: Any) -> None:
    """A customer whom the ledger has never heard of, with a subscription that was made so many seconds ago."""
    searches.subscribes("cus_9", created=NOW - age, **changed)


class TestSubscriptions:
    def test_that_give_what_they_gave_are_counted(self, searches: Searches, counted: Counted) -> None:
        for each in range(3):
            searches.payer(str(each))
        searches.ended("3")
        before = searches.everything()
        assert compare(searches, SUBSCRIPTIONS) == answer(4, 3)
        assert (searches.drift(), searches.everything(), counted()) == ([], before, {})

    def test_that_give_what_they_gave_cost_one_list_and_two_reads(self, searches: Searches) -> None:
        for each in range(9):
            searches.payer(str(each))
        compare(searches, SUBSCRIPTIONS)
        assert searches.stripe.asked == [("subscriptions", NOW - 1000 * DAY, NOW, None)]
        assert (dict(searches.table.calls), dict(searches.pool.calls)) == ({"batch_get_item": 2}, {})

    @pytest.mark.parametrize("status", ["canceled", "unpaid", "paused"])
    def test_that_have_ended_leave_access_without_payment(self, searches: Searches, status: str) -> None:
        sub = searches.payer(status=status)
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 1)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]

    @pytest.mark.parametrize("units", [4, 6])
    def test_that_give_more_or_less_are_a_wrong_limit(self, searches: Searches, units: int) -> None:
        sub = searches.payer()
        changed = replace(subscription("sub_1", created=NOW - DAY), items=(Item("price_1", units, "1"),))
        searches.stripe.subscribes("cus_1", changed, email="1@example.com")
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == [row("wrong_limit", sub)]

    def test_that_give_something_again_are_paid_without_access(self, searches: Searches) -> None:
        sub = searches.ended()
        searches.subscribes("cus_1")
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 0)
        assert searches.drift() == [row("paid_without_access", sub)]

    def test_of_a_customer_without_a_user_are_paid_without_access(self, searches: Searches) -> None:
        searches.ledger.note_party("cus_1", email="1@example.com", subscribed=True)
        searches.subscribes("cus_1")
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 0)
        assert searches.drift() == [row("paid_without_access", None)]

    def test_of_a_customer_without_a_user_that_give_nothing_are_no_difference(self, searches: Searches) -> None:
        searches.ledger.note_party("cus_1", email="1@example.com", subscribed=True)
        searches.subscribes("cus_1", status="canceled")
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 0)
        assert (searches.drift(), len(searches.stripe.asked)) == ([], 1)

    def test_to_another_product_are_no_difference(self, searches: Searches) -> None:
        searches.payer()
        searches.stripe.subscribes("cus_8", replace(OTHER_PRODUCT, created=NOW - DAY))
        assert compare(searches, SUBSCRIPTIONS) == answer(2, 1)
        assert (searches.drift(), len(searches.stripe.asked)) == ([], 1)

    def test_that_cannot_be_told_are_no_difference(self, searches: Searches) -> None:
        """A status that we do not know: whoever has it stays as they are."""
        searches.payer(status="brand_new")
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 1)
        assert (searches.drift(), len(searches.stripe.asked)) == ([], 1)

    @pytest.mark.parametrize("failed", [True, False])
    def test_whose_order_is_open_are_no_difference(self, searches: Searches, failed: bool) -> None:
        """It is run, or will be run again."""
        searches.payer(status="canceled")
        searches.record(at=NOW - DAY)
        if failed:
            searches.ledger.fail("evt_1", execution="arn:run", error="no", retry_at=NOW + 300)
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == []

    def test_whose_order_cannot_be_run_are_one(self, searches: Searches) -> None:
        sub = searches.payer(status="canceled")
        searches.ledger.record(ORDER, NOW - DAY, problem="UnusableEvent: no")
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]

    @pytest.mark.parametrize("alone", [True, False])
    def test_that_are_behind_with_a_payment_are_a_wrong_limit_where_they_are_the_only_one(
        self, searches: Searches, alone: bool
    ) -> None:
        """Beside another one a single subscription says nothing of the status."""
        sub = searches.payer(status="past_due", first_unpaid=NOW - 60)
        if not alone:
            searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5, "sub_2": 5})
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == ([row("wrong_limit", sub)] if alone else [])
        assert len(searches.stripe.asked) == 1 + alone

    def test_that_give_nothing_any_more_are_counted_as_lost_access(self, searches: Searches) -> None:
        """Somebody wrote 0 into the mapping: the blast radius must see it."""
        sub = searches.payer()
        nothing = replace(subscription("sub_1", created=NOW - DAY), items=(Item("price_1", 5, "0"),))
        searches.stripe.subscribes("cus_1", nothing, email="1@example.com")
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == [row("wrong_limit", sub, disables=True)]

    def test_that_have_ended_and_lost_their_mapping_leave_access_all_the_same(self, searches: Searches) -> None:
        """What it gave is known; without that, it is a subscription to another product."""
        sub = searches.payer()
        ended = replace(subscription("sub_1", "canceled", created=NOW - DAY), items=(Item("price_1", 5, None),))
        searches.stripe.subscribes("cus_1", ended, email="1@example.com")
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]

    @pytest.mark.parametrize(("units", "differs"), [(5, False), (4, False), (7, True)])
    def test_that_can_be_told_in_part_are_compared_with_what_they_gave_themselves(
        self, searches: Searches, units: int, differs: bool
    ) -> None:
        """Not with what the person has from others."""
        sub = searches.payer()
        searches.ledger.link(["cus_2"], sub, replacing=None)
        searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5, "sub_2": 5})
        searches.users.update(sub, dapp_limit=10)
        searches.ledger.set_live(sub, Live(True, 10), NOW)
        searches.subscribes("cus_2")
        items = (Item("price_1", units, "1"), Item("price_2", 1, None, stray=True))
        partly = replace(subscription("sub_1", created=NOW - DAY), items=items)
        searches.stripe.subscribes("cus_1", partly, email="1@example.com")
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == ([row("wrong_limit", sub)] if differs else [])

    def test_of_one_person_are_one_difference(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.ledger.link(["cus_2"], sub, replacing=None)
        searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5, "sub_1b": 5, "sub_2": 5})
        ended = [subscription(name, "canceled", created=NOW - DAY) for name in ("sub_1", "sub_1b")]
        searches.stripe.subscribes("cus_1", *ended)
        searches.subscribes("cus_2", status="canceled")
        assert compare(searches, SUBSCRIPTIONS) == answer(3, 3)
        (found,) = searches.drift()
        assert found in [row("access_without_payment", sub, each, disables=True) for each in ("cus_1", "cus_2")]

    def test_of_one_who_pays_with_another_are_a_wrong_limit_alone(self, searches: Searches) -> None:
        """One of two has ended: nobody is disabled."""
        sub = searches.payer()
        searches.ledger.link(["cus_2"], sub, replacing=None)
        searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5, "sub_2": 5})
        searches.users.update(sub, dapp_limit=10)
        searches.ledger.set_live(sub, Live(True, 10), NOW)
        searches.subscribes("cus_2", status="canceled")
        compare(searches, SUBSCRIPTIONS)
        (found,) = searches.drift()
        assert found in [row("wrong_limit", sub, each) for each in ("cus_1", "cus_2")]

    def test_of_a_person_who_was_found_in_the_pool_keep_one_row(self, searches: Searches) -> None:
        sub = searches.payer(status="canceled")
        searches.users.update(sub, dapp_limit=9)
        searches.ask_all("ScanUsers", "scan")
        compare(searches, SUBSCRIPTIONS)
        assert [each["sub"] for each in searches.drift()] == [sub]

    def test_of_whom_stripe_does_not_know_any_more_are_unclear(
        self, searches: Searches, counted: Counted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        searches.payer(status="canceled")
        searches.payer("2", status="canceled")
        listed = dict(searches.stripe.customers)

        def gone(*given: Any) -> Any:
            searches.stripe.customers.pop("cus_1", None)
            return [("cus_1", listed["cus_1"].subscriptions[0]), ("cus_2", listed["cus_2"].subscriptions[0])], None

        monkeypatch.setattr(searches.stripe, "subscriptions_made", gone)
        assert compare(searches, SUBSCRIPTIONS) == answer(2, 2)
        assert [each["party"] for each in searches.drift()] == ["cus_2"]
        assert counted() == {"DriftUnclear": 1}


class TestUnknownCustomers:
    @pytest.mark.parametrize("backfill", [True, False])
    @pytest.mark.parametrize(
        ("age", "old"), [(EVENTS_LAST, False), (EVENTS_LAST + 1, True), (1, False), (900 * DAY, True)]
    )
    def test_are_adopted_when_that_is_asked_for_or_they_are_young(
        self, searches: Searches, backfill: bool, age: int, old: bool
    ) -> None:
        stranger(searches, age)
        left_out = old and not backfill
        assert compare(searches, {**SUBSCRIPTIONS, "backfill": backfill}) == answer(1, 0, int(left_out))
        kept = [row("paid_without_access", None, "cus_9")]
        assert searches.drift() == ([] if left_out else kept)

    def test_whose_subscription_nobody_dates_are_old(self, searches: Searches) -> None:
        undated = subscription("sub_9", created=None)
        searches.stripe.subscriptions_made = lambda *given: ([("cus_9", undated)], None)  # type: ignore[method-assign]
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 0, 1)

    @pytest.mark.parametrize("backfill", [True, False])
    def test_who_pay_for_nothing_are_nobody(self, searches: Searches, backfill: bool) -> None:
        stranger(searches, 900 * DAY, status="canceled")
        assert compare(searches, {**SUBSCRIPTIONS, "backfill": backfill}) == answer(1, 0)
        assert searches.drift() == []

    def test_who_have_a_user_of_their_address_are_paid_without_access(self, searches: Searches) -> None:
        """A run of theirs joins them."""
        sub, _ = searches.users.create("9@example.com", dapp_limit=7, payment_status="VIP", customer_id=None)
        searches.write(sub, **{"custom:payment_provider": ""})
        stranger(searches, 900 * DAY)
        compare(searches, {**SUBSCRIPTIONS, "backfill": True})
        assert searches.drift() == [row("paid_without_access", None, "cus_9")]

    def test_who_are_left_out_are_left_alone(self, searches: Searches) -> None:
        stranger(searches, 900 * DAY)
        compare(searches, SUBSCRIPTIONS)
        assert len(searches.stripe.asked) == 1


class TestDeletedAccounts:
    def test_are_no_difference_for_what_they_bought_before(self, searches: Searches) -> None:
        searches.subscribes("cus_1", created=NOW - 10 * DAY)
        searches.ledger.bury("cus_1", NOW - 5 * DAY, "t", deleting=False)
        assert compare(searches, SUBSCRIPTIONS) == answer(1, 0)
        assert (searches.drift(), len(searches.stripe.asked)) == ([], 1)

    def test_are_one_for_what_they_bought_since(self, searches: Searches) -> None:
        searches.subscribes("cus_1", created=NOW - 2 * DAY)
        searches.ledger.bury("cus_1", NOW - 5 * DAY, "t", deleting=False)
        compare(searches, SUBSCRIPTIONS)
        assert searches.drift() == [row("paid_without_access", None)]

    def test_are_none_while_they_are_being_deleted(self, searches: Searches) -> None:
        searches.subscribes("cus_1", created=NOW - 2 * DAY)
        searches.ledger.bury("cus_1", NOW - 5 * DAY, "t", deleting=True)
        compare(searches, SUBSCRIPTIONS)
        assert (searches.drift(), dict(searches.table.calls)) == ([], {"batch_get_item": 1})


class TestPeople:
    def test_whose_user_was_met_are_as_they_should_be(self, searches: Searches) -> None:
        subs = [searches.payer(str(each)) for each in range(3)]
        searches.ledger.mark_seen(subs, NOW, NOW + DAY)
        assert compare(searches, PEOPLE) == answer(3, 3)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    @pytest.mark.parametrize("live", [Live(True, 5), Live()])
    def test_whose_user_was_not_met_have_lost_them(self, searches: Searches, live: Live) -> None:
        """Deleted by hand, while they pay."""
        sub = searches.payer()
        searches.users.delete(sub)
        searches.ledger.set_live(sub, live, NOW)
        assert compare(searches, PEOPLE) == answer(1, 1)
        assert searches.drift() == [row("user_deleted", sub)]

    def test_whose_user_was_not_met_and_who_do_not_pay_are_let_in_for_nothing(self, searches: Searches) -> None:
        sub = searches.payer(status="canceled")
        searches.users.delete(sub)
        compare(searches, PEOPLE)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]

    @pytest.mark.parametrize(("seen_at", "missed"), [(NOW - 1, True), (NOW, False), (NOW + 60, False)])
    def test_must_have_been_met_by_this_search_or_a_later_one(
        self, searches: Searches, seen_at: int, missed: bool
    ) -> None:
        sub = searches.payer()
        searches.users.delete(sub)
        searches.ledger.mark_seen([sub], seen_at, NOW + DAY)
        compare(searches, PEOPLE)
        assert bool(searches.drift()) is missed

    def test_who_were_made_meanwhile_are_no_difference(self, searches: Searches) -> None:
        """Their page had been read; they are there."""
        searches.payer()
        compare(searches, PEOPLE)
        assert searches.drift() == []

    def test_who_have_bought_nothing_that_counts_are_not_asked_for(self, searches: Searches) -> None:
        searches.users.delete(searches.ended("1"))
        sub = searches.payer("2")
        searches.ledger.bury_person(sub, NOW - DAY)
        searches.ledger.settle("u-3", read_at=NOW, recheck_at=None, granted={"sub_3": 5})
        searches.ledger.hold("u-3", {"reason": "spam", "requested_by": "jo", "at": NOW})
        searches.ledger.settle("u-3", read_at=NOW, recheck_at=None, granted={"sub_3": 5})
        assert compare(searches, PEOPLE) == answer(3, 0)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    def test_who_have_a_new_user_since_are_nobody_any_more(self, searches: Searches) -> None:
        """What the old one had says nothing, for ever: it must not look like a list that Stripe has cut short."""
        gone = searches.payer()
        searches.users.delete(gone)
        sub, _ = searches.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.ledger.link(["cus_1"], sub, replacing=gone)
        searches.ledger.mark_seen([sub], NOW, NOW + DAY)
        assert compare(searches, PEOPLE) == answer(2, 0)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    def test_whose_customer_has_another_user_have_lost_nothing(self, searches: Searches) -> None:
        """Also while their old user is still there."""
        old = searches.payer()
        sub, _ = searches.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.ledger.link(["cus_1"], sub, replacing=old)
        searches.ledger.mark_seen([old, sub], NOW, NOW + DAY)
        assert compare(searches, PEOPLE) == answer(2, 0)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    def test_whose_customer_knows_nothing_of_them_have_lost_the_link(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.ledger.mark_seen([sub], NOW, NOW + DAY)
        searches.dynamodb.delete_item(TableName="orders", Key={"pk": {"S": "PARTY#cus_1"}, "sk": {"S": "PARTY"}})
        assert compare(searches, PEOPLE) == answer(1, 0)
        assert searches.drift() == [row("orphaned_link", sub) | {"relink": True}]

    def test_who_have_lost_one_link_of_two_are_counted_by_the_other(self, searches: Searches) -> None:
        """The party is known, but not whose it is."""
        sub = searches.payer()
        searches.ledger.link(["cus_2"], sub, replacing=None)
        searches.subscribes("cus_2")
        searches.ledger.mark_seen([sub], NOW, NOW + DAY)
        searches.dynamodb.delete_item(TableName="orders", Key={"pk": {"S": "PARTY#cus_2"}, "sk": {"S": "PARTY"}})
        searches.ledger.note_party("cus_2", email="2@example.com", subscribed=True)
        assert compare(searches, PEOPLE) == answer(1, 1)
        assert searches.drift() == [row("orphaned_link", sub, "cus_2") | {"relink": True}]

    def test_whose_user_was_not_met_are_asked_for_by_a_customer_who_leads_to_them(self, searches: Searches) -> None:
        """The other one has a new user, who has what they pay for."""
        sub = searches.payer("2")
        searches.users.delete(sub)
        new = searches.payer("1")
        searches.ledger.link(["cus_1"], sub, replacing=new)
        searches.ledger.link(["cus_1"], new, replacing=sub)
        searches.ledger.mark_seen([new], NOW, NOW + DAY)
        assert compare(searches, PEOPLE) == answer(2, 2)
        assert searches.drift() == [row("user_deleted", sub, "cus_2")]

    def test_are_counted_by_their_subscriptions(self, searches: Searches) -> None:
        """What Stripe lists must be as many; purchases are not in that list."""
        sub = searches.payer()
        searches.ledger.settle(
            sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5, "sub_2": 5, "cs_1": 2, "or_1": 1}
        )
        searches.ledger.mark_seen([sub], NOW, NOW + DAY)
        assert compare(searches, PEOPLE) == answer(1, 2)

    def test_of_all_segments_are_all_people_once(self, searches: Searches) -> None:
        subs = [searches.payer(str(each)) for each in range(12)]
        searches.ledger.mark_seen(subs, NOW, NOW + DAY)
        found = [compare(searches, {**PEOPLE, "segment": each, "of": 8}) for each in range(8)]
        assert (sum(each["seen"] for each in found), sum(each["granted"] for each in found)) == (12, 12)
        assert max(each["seen"] for each in found) < 12

    def test_on_pages_without_any_are_no_end(self, searches: Searches) -> None:
        """A page of the ledger may have orders alone."""
        searches.table.at_most["scan"] = 1
        for each in range(4):
            searches.record(f"evt_{each}", customer_id="cus_9")
        sub = searches.payer()
        searches.users.delete(sub)
        answers = searches.ask_all("CompareShard", "compared", PEOPLE, lost=True)
        assert len(answers) > 5
        assert answers[-1] == answer(1, 1)
        assert [each["sub"] for each in searches.drift()] == [sub]

    def test_of_a_user_who_was_found_in_stripes_list_keep_one_row(self, searches: Searches) -> None:
        sub = searches.payer(status="canceled")
        searches.users.delete(sub)
        compare(searches, SUBSCRIPTIONS)
        compare(searches, PEOPLE)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]


class TestSessions:
    def bought(self, searches: Searches, name: str = "cs_1", **changed: Any) -> None:
        """A Checkout session in which three dapps were bought once."""
        session: Json = {"id": name, "object": "checkout.session", "mode": "payment", "payment_status": "paid"}
        session |= {"customer": "cus_1", "created": NOW - 50 * DAY, "customer_details": {"email": EMAIL}, **changed}
        searches.stripe.sessions.append(session)
        searches.stripe.purchases[name] = Purchase(name, "paid", (Item("price_1", 3, "1"),), NOW - 50 * DAY)
        if session["customer"]:
            searches.stripe.subscribes(str(session["customer"]))

    @pytest.mark.parametrize("payment_status", ["paid", "no_payment_required"])
    def test_that_nobody_knows_are_kept_and_paid_without_access(self, searches: Searches, payment_status: str) -> None:
        self.bought(searches, payment_status=payment_status)
        assert compare(searches, SESSIONS) == answer(1, 0)
        assert searches.drift() == [row("paid_without_access", None)]
        assert [each.id for each in searches.ledger.party("cus_1").purchases] == ["cs_1"]

    def test_of_a_guest_are_their_own_party(self, searches: Searches) -> None:
        self.bought(searches, customer=None)
        compare(searches, SESSIONS)
        assert searches.drift() == [row("paid_without_access", None, "cs_1")]

    def test_that_are_known_are_no_difference(self, searches: Searches) -> None:
        sub = searches.payer()
        self.bought(searches)
        compare(searches, SESSIONS)
        searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"cs_1": 3})
        searches.stripe.asked.clear()
        assert compare(searches, SESSIONS) == answer(1, 0)
        assert len(searches.stripe.asked) == 1

    def test_that_are_known_and_give_nothing_are_paid_without_access(self, searches: Searches) -> None:
        """Killed after the purchase was kept, and its person has other things."""
        sub = searches.payer()
        self.bought(searches)
        searches.subscribes("cus_1")
        compare(searches, SESSIONS)
        first = searches.drift()
        searches.dynamodb.delete_item(TableName="orders", Key={"pk": {"S": f"DRIFT#{SEARCH}"}, "sk": {"S": sub}})
        compare(searches, SESSIONS)
        assert first == searches.drift() == [row("wrong_limit", sub)]

    @pytest.mark.parametrize(("later", "found"), [(-1, False), (0, False), (1, True)])
    @pytest.mark.parametrize("dry_run", [True, False])
    def test_of_a_deleted_account_are_none_and_nothing_personal_comes_back(
        self, searches: Searches, later: int, found: bool, dry_run: bool
    ) -> None:
        self.bought(searches)
        searches.ledger.bury("cus_1", NOW - 50 * DAY - later, "t", deleting=False)
        shard = {**SESSIONS, "dry_run": dry_run}
        before = searches.everything()
        assert compare(searches, shard) == answer(1, 0)
        assert searches.drift() == ([row("paid_without_access", None)] if found else [])
        kept = found and not dry_run
        assert (searches.everything() == before) is not kept
        assert any(EMAIL in each for each in searches.everything()) is kept

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_of_an_account_that_is_being_deleted_are_none(self, searches: Searches, dry_run: bool) -> None:
        self.bought(searches)
        searches.ledger.bury("cus_1", NOW - 60 * DAY, "t", deleting=True)
        before = searches.everything()
        assert compare(searches, {**SESSIONS, "dry_run": dry_run}) == answer(1, 0)
        assert (searches.drift(), searches.everything()) == ([], before)

    @pytest.mark.parametrize("dry_run", [True, False])
    def test_that_were_paid_back_are_none(self, searches: Searches, dry_run: bool) -> None:
        """Stripe is asked for each of them, in a dry run as well."""
        self.bought(searches)
        searches.stripe.purchases["cs_1"] = Purchase("cs_1", "refunded", (Item("price_1", 3, "1"),), NOW - 50 * DAY)
        assert compare(searches, {**SESSIONS, "dry_run": dry_run}) == answer(1, 0)
        assert searches.drift() == []

    @pytest.mark.parametrize("changed", [{"payment_status": "unpaid"}, {"mode": "setup"}, {"mode": "subscription"}])
    def test_in_which_nothing_was_bought_once_are_none(self, searches: Searches, changed: Json) -> None:
        self.bought(searches, **changed)
        assert compare(searches, SESSIONS)["granted"] == 0
        assert (searches.drift(), searches.ledger.party("cus_1").purchases) == ([], ())

    def test_that_cannot_be_used_are_told_and_the_others_are_found(self, searches: Searches, lines: list[str]) -> None:
        self.bought(searches, "cs_0", customer=None, customer_details={"email": "no address"})
        self.bought(searches)
        assert compare(searches, SESSIONS) == answer(2, 0)
        assert [each["party"] for each in searches.drift()] == ["cus_1"]
        (line,) = [json.loads(line) for line in lines if "UnusableEvent" in line]
        assert (line["level"], line["order_id"]) == ("ERROR", "cs_0")

    def test_of_a_dry_run_are_counted_and_not_kept(self, searches: Searches) -> None:
        self.bought(searches)
        self.bought(searches, "cs_2", customer=None)
        before = searches.everything()
        assert compare(searches, {**SESSIONS, "dry_run": True}) == answer(2, 0)
        assert searches.drift() == [row("paid_without_access", None, each) for each in ("cs_2", "cus_1")]
        assert searches.everything() == before

    def test_whose_call_is_made_again_are_found_again(self, searches: Searches) -> None:
        """Killed between the purchase and the row of who differs."""
        self.bought(searches)
        searches.table.errors["put_item"] = [refusal("ThrottlingException")]
        with pytest.raises(LedgerThrottled):
            compare(searches, SESSIONS)
        assert searches.ledger.party("cus_1").purchases != ()
        compare(searches, SESSIONS)
        assert searches.drift() == [row("paid_without_access", None)]


class TestCalls:
    """One page each; what they have counted goes on exactly."""

    @pytest.fixture
    def many(self, searches: Searches) -> Searches:
        """Five who pay, two who do not any more, and a customer whom nobody knows; pages of three."""
        searches.stripe.at_most = 3
        for each in range(7):
            searches.payer(str(each), created=NOW - (100 + each) * DAY, status="canceled" if each > 4 else "active")
        stranger(searches, 900 * DAY)
        return searches

    @pytest.mark.parametrize("lost", [True, False])
    def test_see_every_subscription_once(self, many: Searches, lost: bool) -> None:
        answers = many.ask_all("CompareShard", "compared", SUBSCRIPTIONS, lost=lost)
        assert [each["cursor"] for each in answers] == ["sub_2", "sub_5", None]
        assert [(each["seen"], each["granted"], each["unadopted"]) for each in answers] == [
            (3, 3, 0),
            (6, 6, 0),
            (8, 7, 1),
        ]
        assert {each["party"] for each in many.drift()} == {"cus_5", "cus_6"}

    def test_end_after_their_time(self, many: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 600)
        assert many.ask("CompareShard", SUBSCRIPTIONS) == answer(8, 7, 1)

    def test_of_two_shards_see_what_is_between_their_bounds(self, many: Searches) -> None:
        middle = NOW - 103 * DAY
        found = [compare(many, {**SUBSCRIPTIONS, "until": middle}), compare(many, {**SUBSCRIPTIONS, "from": middle})]
        assert [each["seen"] for each in found] == [4, 4]

    @pytest.mark.parametrize(
        ("breaks", "error"),
        [
            (lambda world: world.stripe.errors.append(StripeThrottled("429")), StripeThrottled),
            (lambda world: setattr(world.stripe, "error", StripeUnavailable("503")), StripeUnavailable),
            (
                lambda world: world.pool.errors.update(list_users=[refusal("TooManyRequestsException")]),
                CognitoThrottled,
            ),
            (lambda world: world.table.errors.update(put_item=[refusal("ThrottlingException")]), LedgerThrottled),
        ],
    )
    def test_go_on_after_a_failure(
        self, many: Searches, breaks: Callable[[Searches], object], error: type[Exception]
    ) -> None:
        given = {**SUBSCRIPTIONS, "compared": many.ask("CompareShard", SUBSCRIPTIONS)}
        breaks(many)
        with pytest.raises(error):
            many.ask("CompareShard", given)
        many.stripe.error = None
        while not given["compared"]["done"]:
            given = {**given, "compared": many.ask("CompareShard", given)}
        assert given["compared"] == answer(8, 7, 1)
        assert {each["party"] for each in many.drift()} == {"cus_5", "cus_6"}
