"""scan_users.handler: the pool is listed once, and who does not look as the ledger says is looked at more closely."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.access import Live
from gateway.errors import BillingIncomplete, CognitoThrottled, LedgerThrottled, StripeUnavailable
from gateway.searches import KEPT
from tests.unit.operators import OTHER_PRODUCT, refusal, subscription
from tests.unit.searches import DAY, ENDED, HAS_PAID, PLAN, Searches
from tests.unit.steps import EMAIL, NOW, Json

Counted = Callable[[], dict[str, float]]
DRY: Json = {"plan": {**PLAN, "dry_run": True}}


def scan(searches: Searches, given: Json | None = None, **replaced: Any) -> Json:
    """The last answer of a scan."""
    last: Json = searches.ask_all("ScanUsers", "scan", given, **replaced)[-1]
    return last


def answer(users: int, enabled: int) -> Json:
    return {"done": True, "cursor": None, "users": users, "enabled": enabled}


def row(kind: str, sub: str, party: str | None = "cus_1", *, disables: bool = False, **more: Any) -> Json:
    """As somebody who differs is kept."""
    found = {"kind": kind, "party": party, "sub": sub, "disables": disables, "relink": False, **more}
    return {name: value for name, value in found.items() if value is not None}


def adopted(searches: Searches) -> str:
    """A user who was there before they first paid as cus_1, and pays no more; their sub."""
    sub, _ = searches.users.create(EMAIL, dapp_limit=7, payment_status="VIP", customer_id=None)
    searches.write(sub, **{"custom:payment_provider": ""})
    before = {"enabled": True, "dapp_limit": 7, "payment_status": "VIP"}
    searches.ledger.link(["cus_1"], sub, replacing=None, before=before)
    searches.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
    searches.ledger.told(sub, before, 1)
    searches.subscribes("cus_1", status="canceled")
    return sub


class TestEverybodyAsTheyShouldBe:
    def test_is_counted_and_marked(self, searches: Searches, counted: Counted) -> None:
        subs = {searches.payer("1"), searches.payer("2"), searches.ended("3")}
        before = searches.everything()
        assert scan(searches) == answer(3, 2)
        for sub in subs:
            mark = searches.row(f"SEEN#{sub}", "SEEN")
            assert (mark["seen_at"], mark["expires_at"]) == (NOW, NOW + KEPT)
        assert searches.ledger.unseen(subs, NOW) == set()
        assert (searches.drift(), searches.everything(), counted()) == ([], before, {})

    def test_costs_stripe_nothing_and_is_billed_by_nobody(self, searches: Searches) -> None:
        """ListUsers alone makes nobody a monthly active user."""
        for each in range(3):
            searches.payer(str(each))
        scan(searches)
        assert searches.stripe.asked == []
        assert set(searches.pool.calls) == {"list_users"}
        assert set(searches.table.calls) == {"batch_get_item", "batch_write_item"}

    def test_of_an_empty_pool_is_nobody(self, searches: Searches) -> None:
        assert scan(searches) == answer(0, 0)

    def test_is_read_a_page_at_a_time(self, searches: Searches) -> None:
        """Flat memory, and a few calls for sixty users."""
        for each in range(61):
            searches.payer(str(each))
        answers = searches.ask_all("ScanUsers", "scan")
        assert [each["users"] for each in answers] == [60, 61]
        assert searches.pool.calls["list_users"] == 2
        assert searches.table.calls["batch_get_item"] == 2


class TestWhoHasAccessThroughUs:
    """The blast radius is a percentage of them."""

    def test_is_who_we_made(self, searches: Searches) -> None:
        searches.users.create(EMAIL, dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")
        assert scan(searches)["enabled"] == 1

    def test_is_who_was_there_before_as_long_as_they_pay(self, searches: Searches) -> None:
        sub = adopted(searches)
        assert scan(searches)["enabled"] == 0
        searches.ledger.settle(sub, read_at=NOW, recheck_at=None, granted={"sub_1": 5})
        assert scan(searches)["enabled"] == 1

    def test_is_no_stranger_and_nobody_who_is_disabled(self, searches: Searches) -> None:
        sub, _ = searches.users.create(EMAIL, dapp_limit=1, payment_status="", customer_id=None)
        searches.write(sub, **{"custom:payment_provider": ""})
        searches.ended()
        assert scan(searches) == answer(2, 0)


class TestDifference:
    @pytest.mark.parametrize("given", [None, DRY])
    def test_of_who_was_enabled_by_hand(self, searches: Searches, given: Json | None) -> None:
        sub = searches.ended()
        searches.users.enable(sub)
        searches.users.update(sub, dapp_limit=5)
        before = searches.everything()
        scan(searches, given)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]
        assert searches.everything() == before

    def test_of_who_is_let_in_without_paying(self, searches: Searches) -> None:
        sub = searches.ended()
        searches.ledger.set_live(sub, Live(True, 5), NOW)
        scan(searches)
        assert searches.drift() == [row("access_without_payment", sub, disables=True)]

    def test_of_who_was_disabled_although_they_pay(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.users.update(sub, disabled_by="billing")
        searches.users.disable(sub)
        scan(searches)
        assert searches.drift() == [row("paid_without_access", sub)]

    def test_of_who_is_not_let_in_although_they_pay(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.ledger.set_live(sub, Live(), NOW)
        scan(searches)
        assert searches.drift() == [row("paid_without_access", sub)]

    @pytest.mark.parametrize("limit", [4, 6])
    def test_of_whose_limit_was_written_by_hand(self, searches: Searches, limit: int) -> None:
        sub = searches.payer()
        searches.users.update(sub, dapp_limit=limit)
        scan(searches)
        assert searches.drift() == [row("wrong_limit", sub)]

    def test_of_who_was_banned_and_is_enabled_all_the_same(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": NOW - DAY})
        scan(searches)
        assert searches.drift() == [row("hold_lost", sub, disables=True)]

    def test_of_who_was_banned_and_is_as_they_were_before_they_paid(self, searches: Searches) -> None:
        """Nothing else of them tells: billing never disables them."""
        sub = adopted(searches)
        searches.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": NOW - DAY})
        scan(searches)
        assert searches.drift() == [row("hold_lost", sub, disables=True)]

    @pytest.mark.parametrize("provider", ["STRIPE", "", "ADMIN"])
    def test_of_who_was_banned_and_never_bought_is_left_to_an_operator(self, searches: Searches, provider: str) -> None:
        """No run is theirs, whoever made them."""
        sub, _ = searches.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.write(sub, **{"custom:payment_provider": provider})
        searches.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": NOW - DAY})
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([row("hold_lost", sub, None)], [])

    def test_of_one_of_ours_whose_customer_has_another_address_is_left_to_an_operator(self, searches: Searches) -> None:
        """An attribute alone says whose they are."""
        sub, _ = searches.users.create("b@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.subscribes("cus_1")
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, None)]

    def test_of_one_of_ours_whom_nobody_is_linked_to(self, searches: Searches) -> None:
        sub, _ = searches.users.create("1@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.subscribes("cus_1")
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, relink=True)]

    def test_of_one_of_ours_who_does_not_pay_either_disables(self, searches: Searches) -> None:
        sub, _ = searches.users.create("1@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        searches.subscribes("cus_1", status="canceled")
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, disables=True, relink=True)]

    def test_of_one_of_ours_whose_customer_is_linked_to_one_who_is_gone(self, searches: Searches) -> None:
        gone = searches.payer()
        searches.users.delete(gone)
        sub, _ = searches.users.create("1@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, relink=True, replacing=gone)]

    def test_of_one_of_ours_whose_customer_has_another_user_is_left_to_an_operator(self, searches: Searches) -> None:
        searches.payer()
        sub, _ = searches.users.create("b@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, None)]

    def test_of_one_of_ours_without_a_customer_is_left_to_an_operator(self, searches: Searches) -> None:
        sub, _ = searches.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id=None)
        scan(searches)
        assert searches.drift() == [row("orphaned_link", sub, None)]

    def test_is_kept_once_however_often_it_is_found(self, searches: Searches) -> None:
        sub = searches.ended()
        searches.users.enable(sub)
        scan(searches, lost=True)
        scan(searches)
        assert len(searches.drift()) == 1


class TestNoDifference:
    def test_is_a_stranger(self, searches: Searches) -> None:
        sub, _ = searches.users.create(EMAIL, dapp_limit=9, payment_status="VIP", customer_id=None)
        searches.write(sub, **{"custom:payment_provider": ""})
        assert scan(searches)["users"] == 1
        assert (searches.drift(), searches.stripe.asked, searches.row(f"SEEN#{sub}", "SEEN")) == ([], [], {})

    def test_is_a_comped_user_who_has_what_they_were_given(self, searches: Searches) -> None:
        sub = searches.ended()
        searches.users.enable(sub)
        searches.write(sub, **{"custom:payment_provider": "ADMIN", "custom:num_dapps": "40"})
        searches.ledger.set_live(sub, Live(True, 40), NOW)
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    @pytest.mark.parametrize("govern", [True, False])
    def test_is_who_was_there_before_unless_they_are_governed(self, searches: Searches, govern: bool) -> None:
        sub = adopted(searches)
        scan(searches, govern=govern)
        kept = [row("access_without_payment", sub, disables=True)] if govern else []
        assert (searches.drift(), searches.stripe.asked) == (kept, [("customer", "cus_1")] if govern else [])

    def test_is_whose_account_was_deleted(self, searches: Searches) -> None:
        sub = searches.ended()
        searches.users.enable(sub)
        searches.ledger.bury_person(sub, NOW - DAY)
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [])
        assert set(searches.table.calls) == {"batch_get_item", "batch_write_item"}

    def test_is_one_of_ours_whose_account_was_deleted_and_erased(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.ledger.erase_person(sub, NOW - DAY)
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    def test_is_who_has_an_open_order(self, searches: Searches) -> None:
        """A run of theirs is under way, or RunDue will start the next one."""
        sub = searches.ended()
        searches.users.enable(sub)
        searches.record(at=NOW - DAY)
        scan(searches)
        assert searches.drift() == []
        searches.ledger.fail("evt_1", execution="arn:run", error="StripeThrottled: 429", retry_at=NOW + 300)
        scan(searches)
        assert searches.drift() == []
        searches.ledger.close("evt_1", NOW, execution="arn:run", outcome="unchanged", reason="nothing")
        scan(searches)
        assert [each["sub"] for each in searches.drift()] == [sub]

    def test_is_who_only_looks_as_if(self, searches: Searches) -> None:
        """They have another limit by now, and a run of theirs has written it; only nobody was told."""
        sub = searches.payer()
        searches.ledger.told(sub, {**HAS_PAID, "dapp_limit": 3}, 2)
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [("customer", "cus_1")])

    def test_is_what_stripe_does_not_know(self, searches: Searches, counted: Counted, lines: list[str]) -> None:
        """Counted, for an operator; nobody loses anything for it."""
        for name in ("1", "2"):
            searches.users.enable(searches.ended(name))
        del searches.stripe.customers["cus_1"]
        scan(searches)
        assert [each["party"] for each in searches.drift()] == ["cus_2"]
        assert counted() == {"DriftUnclear": 1}
        assert any("DriftUnclear: cus_1" in line for line in lines)

    def test_is_a_ban_that_holds(self, searches: Searches) -> None:
        sub = searches.payer()
        searches.users.update(sub, disabled_by="operator")
        searches.users.disable(sub)
        searches.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": NOW - DAY})
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [])

    @pytest.mark.parametrize("deleted", [True, False])
    def test_is_a_ban_of_who_never_bought_that_holds_or_whose_account_was_deleted(
        self, searches: Searches, deleted: bool
    ) -> None:
        sub, _ = searches.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id=None)
        searches.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": NOW - DAY})
        if deleted:
            searches.ledger.bury_person(sub, NOW)
        else:
            searches.users.update(sub, disabled_by="operator")
            searches.users.disable(sub)
        scan(searches)
        assert (searches.drift(), searches.stripe.asked) == ([], [])


class TestCalls:
    """One page each; what they have counted goes on exactly."""

    @pytest.fixture
    def pool(self, searches: Searches) -> Searches:
        """Five who pay, two of whom were disabled, and one who does not; pages of two."""
        searches.pool.at_most["list_users"] = 2
        for each in range(5):
            sub = searches.payer(str(each))
            if each in (1, 4):
                searches.users.update(sub, disabled_by="billing")
                searches.users.disable(sub)
        searches.ended("5")
        return searches

    @pytest.mark.parametrize("lost", [True, False])
    def test_meet_everybody_once(self, pool: Searches, lost: bool) -> None:
        answers = pool.ask_all("ScanUsers", "scan", lost=lost)
        assert [(each["done"], each["users"], each["enabled"]) for each in answers] == [
            (False, 2, 1),
            (False, 4, 3),
            (True, 6, 3),
        ]
        assert {each["party"] for each in pool.drift()} == {"cus_1", "cus_4"}

    def test_end_after_their_time(self, pool: Searches, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("gateway.searches.TURN_SECONDS", 600)
        assert pool.ask("ScanUsers") == answer(6, 3)

    def test_miss_nobody_who_stays_when_others_go(self, pool: Searches) -> None:
        first = pool.ask("ScanUsers")
        gone = pool.ledger.party("cus_0").sub
        assert gone is not None
        pool.users.delete(gone)
        pool.payer("6")
        last = pool.ask("ScanUsers", {"plan": PLAN, "scan": first})
        while not last["done"]:
            last = pool.ask("ScanUsers", {"plan": PLAN, "scan": last})
        assert last["users"] == 7
        subs = {str(pool.ledger.party(f"cus_{each}").sub) for each in range(7)}
        assert pool.ledger.unseen(subs, NOW) == set()

    @pytest.mark.parametrize(
        ("breaks", "error"),
        [
            (
                lambda world: world.pool.errors.update(list_users=[refusal("TooManyRequestsException")]),
                CognitoThrottled,
            ),
            (
                lambda world: world.table.errors.update(batch_write_item=[refusal("ThrottlingException")]),
                LedgerThrottled,
            ),
            (lambda world: setattr(world.stripe, "error", StripeUnavailable("503")), StripeUnavailable),
        ],
    )
    def test_go_on_after_a_failure(
        self, pool: Searches, breaks: Callable[[Searches], object], error: type[Exception]
    ) -> None:
        first = pool.ask("ScanUsers")
        given = {"plan": PLAN, "scan": first}
        second = pool.ask("ScanUsers", given)
        given = {"plan": PLAN, "scan": second}
        breaks(pool)
        with pytest.raises(error):
            pool.ask("ScanUsers", given)
        pool.stripe.error = None
        assert pool.ask("ScanUsers", given) == answer(6, 3)
        assert {each["party"] for each in pool.drift()} == {"cus_1", "cus_4"}


def test_a_search_that_began_before_does_not_take_back_whom_a_later_one_has_met(searches: Searches) -> None:
    """Else the later one would ask Stripe for everybody."""
    sub = searches.payer()
    later: Json = {**PLAN, "id": "later", "started": NOW + 600}
    searches.clock.now = NOW + 700
    scan(searches, {"plan": later})
    searches.clock.now = NOW + 800
    scan(searches)
    assert searches.ledger.unseen([sub], later["started"]) == set()


def test_a_user_of_two_customers_is_one(searches: Searches) -> None:
    sub = searches.payer()
    searches.ledger.link(["cus_2"], sub, replacing=None)
    searches.stripe.subscribes("cus_2", OTHER_PRODUCT, subscription("sub_2", status="canceled"))
    searches.users.update(sub, dapp_limit=1)
    scan(searches)
    assert searches.drift() == [row("wrong_limit", sub)]


def test_an_unknown_customer_of_an_orphan_is_unclear(searches: Searches, counted: Counted) -> None:
    searches.users.create("1@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
    searches.stripe.error = BillingIncomplete("Stripe does not know cus_1")
    assert scan(searches) == answer(1, 1)
    assert (searches.drift(), counted()) == ([], {"DriftUnclear": 1})


def test_who_is_as_the_last_run_left_them_is_asked_for_nowhere(searches: Searches) -> None:
    """What Stripe says of them is CompareShard's business."""
    sub = searches.payer(status="canceled")
    scan(searches)
    assert (searches.drift(), searches.stripe.asked) == ([], [])
    person = searches.ledger.person(sub)
    assert person is not None
    assert person.told != ENDED
