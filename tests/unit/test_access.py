"""gateway.access: every implemented row of the access rules, and what holds for any input."""

import itertools
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.access import (
    LOOK_AGAIN,
    TRIAL_END_SLACK,
    Access,
    Before,
    Item,
    Policy,
    Purchase,
    Subscription,
    Target,
    User,
    decide,
    outcome,
    target,
    units_of,
)

NOW = 1_790_000_000
DAY = 86_400
GRACE = 3 * DAY
POLICY = Policy(grace=GRACE, max_dapps=1_000)


def subscription(status: str, units: int | str | None = 5, *, name: str = "sub_1", **facts: Any) -> Subscription:
    """A subscription of one price that gives that many units (text: as the operator mistyped it)."""
    dapps = None if units is None else str(units)
    return Subscription(name, status, (Item("price_1", 1, dapps),), **facts)


def purchase(status: str, *dapps: str | None) -> Purchase:
    return Purchase("cs_1", status, tuple(Item("price_1", 1, each) for each in dapps))


def decided(*bought: Subscription | Purchase, granted: int | None = None, now: int = NOW) -> Access:
    """`granted`: what the first subscription gave last."""
    return decide(
        [each for each in bought if isinstance(each, Subscription)],
        [each for each in bought if isinstance(each, Purchase)],
        now,
        POLICY,
        {} if granted is None else {"sub_1": granted},
    )


class TestOneSubscription:
    @pytest.mark.parametrize(
        ("status", "facts", "expected"),
        [
            # status, facts, (wanted, status, limit, recheck_at)
            ("active", {}, (True, "ACTIVE", 5, None)),
            ("active", {"trial_end": NOW - DAY}, (True, "ACTIVE", 5, None)),
            ("active", {"first_unpaid": NOW - GRACE}, (True, "ACTIVE", 5, None)),
            ("active", {"ends_at": NOW + 1}, (True, "ACTIVE", 5, NOW + 1)),
            ("active", {"ends_at": NOW}, (False, "CANCELLED", 0, None)),
            ("active", {"ends_at": NOW - 1}, (False, "CANCELLED", 0, None)),
            ("trialing", {}, (True, "ACTIVE", 5, None)),
            ("trialing", {"trial_end": NOW + 1}, (True, "ACTIVE", 5, NOW + 1)),
            ("trialing", {"trial_end": NOW}, (True, "ACTIVE", 5, NOW + TRIAL_END_SLACK)),
            ("trialing", {"trial_end": NOW - TRIAL_END_SLACK + 1}, (True, "ACTIVE", 5, NOW + 1)),
            ("trialing", {"trial_end": NOW - TRIAL_END_SLACK}, (False, "FAILED", 0, None)),
            ("trialing", {"trial_end": NOW + 9, "ends_at": NOW + 2}, (True, "ACTIVE", 5, NOW + 2)),
            ("trialing", {"trial_end": NOW + 2, "ends_at": NOW + 9}, (True, "ACTIVE", 5, NOW + 2)),
            ("trialing", {"trial_end": NOW + 2, "ends_at": NOW}, (False, "CANCELLED", 0, None)),
            ("past_due", {"first_unpaid": NOW}, (True, "LAPSED", 5, NOW + GRACE)),
            ("past_due", {"first_unpaid": NOW - GRACE + 1}, (True, "LAPSED", 5, NOW + 1)),
            ("past_due", {"first_unpaid": NOW - GRACE}, (False, "FAILED", 0, None)),
            ("past_due", {"first_unpaid": None}, (None, "LAPSED", 0, NOW + LOOK_AGAIN)),
            ("past_due", {"period_start": NOW - GRACE + 1}, (None, "LAPSED", 0, NOW + LOOK_AGAIN)),
            ("past_due", {"period_start": NOW - GRACE}, (False, "FAILED", 0, None)),
            ("unpaid", {}, (False, "FAILED", 0, None)),
            ("paused", {}, (False, "LAPSED", 0, None)),
            ("canceled", {}, (False, "CANCELLED", 0, None)),
            ("canceled", {"ended_for_nonpayment": True}, (False, "FAILED", 0, None)),
            ("incomplete", {}, (None, "LAPSED", 0, None)),
            ("incomplete_expired", {}, (None, "LAPSED", 0, None)),
            ("on_vacation", {}, (None, "LAPSED", 0, None)),
        ],
    )
    def test_gives_what_its_row_of_the_rules_says(
        self, status: str, facts: dict[str, Any], expected: tuple[bool | None, str, int, int | None]
    ) -> None:
        access = decided(subscription(status, **facts))
        assert (access.wanted, access.status, access.dapp_limit, access.recheck_at) == expected

    @pytest.mark.parametrize(
        ("status", "facts", "alarm"),
        [
            ("on_vacation", {}, "sub_1 has an unknown status"),
            ("past_due", {}, "sub_1 past_due, but no invoice is open"),
        ],
    )
    def test_that_cannot_be_read_changes_nothing_and_alarms(
        self, status: str, facts: dict[str, Any], alarm: str
    ) -> None:
        access = decided(subscription(status, **facts))
        assert (access.wanted, access.alarms, access.reason) == (None, (alarm,), alarm)

    @pytest.mark.parametrize("status", ["active", "past_due", "unpaid", "canceled", "incomplete", "on_vacation"])
    def test_of_another_product_is_ignored(self, status: str) -> None:
        assert decided(subscription(status, None)) == Access(None, "LAPSED", 0, "nothing bought")

    def test_an_unknown_status_is_not_repeated_to_the_operator(self) -> None:
        assert "on_vacation" not in repr(decided(subscription("on_vacation")))

    def test_counts_all_its_mapped_items_and_no_other(self) -> None:
        items = (Item("price_1", 2, "5"), Item("price_2", 7, None), Item("price_3", 3, "10"))
        assert decided(Subscription("sub_1", "active", items)).dapp_limit == 40


class TestOnePerson:
    def test_that_bought_nothing_is_left_alone(self) -> None:
        assert decided() == Access(None, "LAPSED", 0, "nothing bought")

    @pytest.mark.parametrize("other", ["canceled", "unpaid", "paused", "incomplete", "incomplete_expired"])
    def test_has_access_when_anything_gives_it(self, other: str) -> None:
        access = decided(subscription(other, 7, name="sub_old"), subscription("active", 5, name="sub_new"))
        assert (access.wanted, access.status, access.dapp_limit) == (True, "ACTIVE", 5)

    def test_gets_the_sum_over_subscriptions_and_purchases(self) -> None:
        access = decided(
            subscription("active", 5),
            subscription("trialing", 7, name="sub_2"),
            purchase("paid", "11"),
            purchase("paid"),
        )
        assert access.dapp_limit == 23

    def test_is_looked_at_again_at_the_earliest_moment(self) -> None:
        moments = [{"ends_at": NOW + 9}, {"ends_at": NOW + 3}, {}]
        access = decided(*(subscription("active", name=f"sub_{n}", **each) for n, each in enumerate(moments)))
        assert access.recheck_at == NOW + 3

    @pytest.mark.parametrize(
        ("statuses", "expected"),
        [
            (["canceled", "paused", "unpaid"], "FAILED"),
            (["canceled", "paused"], "LAPSED"),
            (["canceled", "canceled"], "CANCELLED"),
            (["canceled", "incomplete"], "CANCELLED"),
        ],
    )
    def test_without_access_has_the_worst_status(self, statuses: list[str], expected: str) -> None:
        for each in itertools.permutations(statuses):
            access = decided(*(subscription(status) for status in each))
            assert (access.wanted, access.status) == (False, expected)

    def test_the_reason_names_what_gives_access_or_takes_it(self) -> None:
        active, canceled = subscription("active", name="sub_2"), subscription("canceled", name="sub_1")
        assert decided(canceled, active).reason == "sub_2 active"
        assert decided(canceled).reason == "sub_1 canceled"

    def test_with_a_fresh_incomplete_subscription_every_day_gets_nothing(self) -> None:
        assert decided(*(subscription("incomplete", name=f"sub_{day}") for day in range(30))).wanted is None

    def test_in_grace_beside_a_paid_subscription_is_active(self) -> None:
        access = decided(subscription("past_due", 3, first_unpaid=NOW), subscription("active", 5, name="sub_2"))
        assert (access.status, access.dapp_limit, access.recheck_at) == ("ACTIVE", 8, NOW + GRACE)


class TestGrace:
    @pytest.mark.parametrize(
        ("past_due", "active", "granted", "limit"),
        [
            (5, 0, None, 5),  # never granted anything: what Stripe says
            (5, 0, 5, 5),
            (50, 0, 5, 5),  # the quantity was raised without paying
            (2, 0, 5, 2),  # … or lowered
            (5, 0, 0, 0),
            (3, 5, 3, 8),
            (30, 5, 3, 8),
            (3, 10, 3, 13),  # another one that is paid counts in full
        ],
    )
    def test_keeps_what_was_granted_and_never_raises_it(
        self, past_due: int, active: int, granted: int | None, limit: int
    ) -> None:
        access = decided(
            subscription("past_due", past_due, first_unpaid=NOW),
            subscription("active", active, name="sub_2"),
            granted=granted,
        )
        assert (access.wanted, access.dapp_limit) == (True, limit)

    def test_does_not_move_while_the_same_invoice_stays_unpaid(self) -> None:
        looks = [decided(subscription("past_due", first_unpaid=NOW), now=NOW + day * DAY) for day in range(4)]
        assert [each.recheck_at for each in looks] == [NOW + GRACE] * 3 + [None]
        assert [each.wanted for each in looks] == [True, True, True, False]

    def test_of_zero_hours_ends_at_once(self) -> None:
        access = decide([subscription("past_due", first_unpaid=NOW)], [], NOW, Policy(0, 1_000))
        assert (access.wanted, access.status) == (False, "FAILED")


class TestUnreadableMapping:
    @pytest.mark.parametrize("typo", ["", "five", "-5", "5.0", " 5", "٥", "²", "5" * 10])
    @pytest.mark.parametrize("status", ["active", "trialing"])
    def test_alone_changes_nothing_and_alarms(self, status: str, typo: str) -> None:
        access = decided(subscription(status, typo), granted=5)
        assert (access.wanted, access.dapp_limit) == (None, 0)
        assert access.alarms == ("price price_1 has no readable units",)

    def test_in_grace_changes_nothing(self) -> None:
        assert decided(subscription("past_due", "five", first_unpaid=NOW)).wanted is None

    def test_turns_a_no_into_leave_alone(self) -> None:
        access = decided(subscription("canceled"), subscription("active", "five", name="sub_2"))
        assert (access.wanted, access.alarms) == (None, ("price price_1 has no readable units",))

    @pytest.mark.parametrize(("granted", "limit"), [(None, 5), (3, 5), (9, 9)])
    def test_beside_a_readable_one_takes_nothing_away(self, granted: int | None, limit: int) -> None:
        access = decided(subscription("active"), subscription("active", "five", name="sub_2"), granted=granted)
        assert (access.wanted, access.dapp_limit) == (True, limit)
        assert access.alarms == ("price price_1 has no readable units",)

    @pytest.mark.parametrize("status", ["unpaid", "paused", "canceled"])
    def test_of_what_has_ended_does_not_matter(self, status: str) -> None:
        assert decided(subscription(status, "five")).wanted is False

    def test_of_a_purchase_changes_nothing(self) -> None:
        assert decided(purchase("paid", "five")).wanted is None


class TestPurchase:
    @pytest.mark.parametrize(
        ("bought", "expected"),
        [
            (purchase("paid", "5"), (True, "ACTIVE", 5)),
            (purchase("fulfilled", "5"), (True, "ACTIVE", 5)),
            (purchase("paid", "5", None, "6"), (True, "ACTIVE", 11)),
            (purchase("canceled", "5"), (False, "CANCELLED", 0)),
            (purchase("returned", "5"), (False, "CANCELLED", 0)),
            (purchase("returned"), (False, "CANCELLED", 0)),  # the return came before its order
            (purchase("paid"), (None, "LAPSED", 0)),
            (purchase("paid", None), (None, "LAPSED", 0)),
            (purchase("returned", None), (None, "LAPSED", 0)),  # another product of the account
            (purchase("created", "5"), (None, "LAPSED", 0)),
            (purchase("open"), (None, "LAPSED", 0)),
        ],
    )
    def test_gives_its_units_while_it_is_paid(self, bought: Purchase, expected: tuple[bool | None, str, int]) -> None:
        access = decided(bought)
        assert (access.wanted, access.status, access.dapp_limit) == expected

    def test_survives_the_end_of_a_subscription(self) -> None:
        access = decided(subscription("canceled", 7), purchase("paid", "5"))
        assert (access.wanted, access.dapp_limit) == (True, 5)


class TestLimit:
    @pytest.mark.parametrize(
        ("units", "limit", "alarms"),
        [
            (0, 0, ()),
            (1_000, 1_000, ()),
            (1_001, 1_000, ("limit clamped from 1001 to 1000",)),
        ],
    )
    def test_is_clamped_to_the_attribute_with_an_alarm(self, units: int, limit: int, alarms: tuple[str, ...]) -> None:
        access = decided(subscription("active", units))
        assert (access.wanted, access.dapp_limit, access.alarms) == (True, limit, alarms)

    @pytest.mark.parametrize(
        ("item", "units"),
        [
            (Item("p", 3, "5"), 15),
            (Item("p", 0, "5"), 0),
            (Item("p", 3, "0"), 0),
            (Item("p", 3, "007"), 21),
            (Item("p", 1, "9" * 9), 999_999_999),
            (Item("p", 25, "2", divide_by=10), 4),
            (Item("p", 25, "2", divide_by=10, round_up=True), 6),
            (Item("p", 20, "2", divide_by=10, round_up=True), 4),
            (Item("p", 0, "2", divide_by=10, round_up=True), 0),
            (Item("p", None, "5"), None),  # metered: never silently 0 or 1
            (Item("p", -1, "5"), None),
            (Item("p", 1, "5", divide_by=0), None),
            (Item("p", 1, None), None),
        ],
    )
    def test_units_are_quantity_times_dapps_after_transform_quantity(self, item: Item, units: int | None) -> None:
        assert units_of(item) == units


class TestTarget:
    YES = Access(True, "LAPSED", 7, "")
    NO = Access(False, "FAILED", 0, "")

    @pytest.mark.parametrize(
        ("access", "before", "expected"),
        [
            (YES, None, Target(True, 7, "LAPSED")),
            (YES, Before(3, ""), Target(True, 7, "LAPSED")),
            (YES, Before(3, "VIP"), Target(True, 7, "VIP")),  # a stranger in arrears takes no status away
            (YES, Before(30, "VIP"), Target(True, 30, "VIP")),  # nor a limit
            (Access(True, "ACTIVE", 7, ""), Before(3, "VIP"), Target(True, 7, "ACTIVE")),
            (NO, None, Target(False, 0, "FAILED")),
            (NO, Before(3, "VIP"), Target(True, 3, "VIP")),
            (NO, Before(-1, ""), Target(True, -1, "")),  # had no limit before their first purchase
        ],
    )
    def test_is_the_access_or_how_an_adopted_user_stood_before(
        self, access: Access, before: Before | None, expected: Target
    ) -> None:
        assert target(access, before) == expected


class TestUser:
    @pytest.mark.parametrize(
        ("user", "comped", "ours", "held"),
        [
            (User(exists=False), False, False, False),
            (User(True, enabled=True, provider="STRIPE"), False, True, False),
            (User(True, enabled=True, provider="ADMIN"), True, False, False),
            (User(True, enabled=True), False, False, False),
            (User(True, enabled=False, disabled_by="billing"), False, False, False),
            (User(True, enabled=False), False, False, True),
            (User(True, enabled=False, disabled_by="support"), False, False, True),
            (User(True, enabled=True, disabled_by="support"), False, False, False),
        ],
    )
    def test_is_comped_ours_or_held(self, user: User, comped: bool, ours: bool, held: bool) -> None:
        assert (user.comped, user.ours, user.held) == (comped, ours, held)

    def test_that_does_not_exist_is_nothing(self) -> None:
        facts = User(exists=False).facts()
        assert facts.pop("dapp_limit") == -1
        assert not any(facts.values())

    def test_facts_are_what_the_states_pass(self) -> None:
        assert User(True, sub="u-1", enabled=True, provider="ADMIN", dapp_limit=5).facts() == {
            "exists": True,
            "sub": "u-1",
            "linked": False,
            "claimed": False,
            "enabled": True,
            "disabled_by": "",
            "provider": "ADMIN",
            "dapp_limit": 5,
            "payment_status": "",
            "comped": True,
            "held": False,
        }

    @pytest.mark.parametrize(
        ("wanted", "user", "word"),
        [
            (True, User(True, linked=True, enabled=True), "enabled"),
            (False, User(True, linked=True, enabled=False, disabled_by="billing"), "disabled"),
            (False, User(True, linked=True, enabled=True), "enabled"),  # adopted, put back to what they were
            (None, User(True, linked=True, enabled=True), "left_alone"),
            (None, User(exists=False), "left_alone"),
            (False, User(exists=False), "no_user"),
            (False, User(True, enabled=True), "no_user"),  # somebody else's, with the same e-mail
            (True, User(True, linked=True, enabled=False), "held"),
            (None, User(True, enabled=False), "held"),
            (False, User(True, linked=True, enabled=True, provider="ADMIN"), "comped"),
            (True, User(True, linked=True, enabled=False, provider="ADMIN"), "comped"),
        ],
    )
    def test_outcome_says_in_one_word_why_nothing_is_missing(self, wanted: bool | None, user: User, word: str) -> None:
        assert outcome(Access(wanted, "LAPSED", 0, ""), user) == word


CANCELED = Subscription("sub_old", "canceled", (Item("price_1", 3, "1"),))


def test_a_grant_that_is_mapped_to_nothing_any_more_alarms() -> None:
    access = decided(subscription("active", None), granted=5)
    assert (access.wanted, access.units) == (None, {"sub_1": 5})
    assert access.alarms == ("what was granted is mapped to no dapps any more",)


def test_the_readable_items_of_a_subscription_count_beside_one_with_a_typo() -> None:
    mixed = Subscription("sub_1", "active", (Item("price_1", 8, "1"), Item("price_2", 1, "one")))
    access = decided(mixed)
    assert (access.wanted, access.dapp_limit, access.alarms) == (True, 8, ("price price_2 has no readable units",))
    assert decided(mixed, granted=12).dapp_limit == 12


UNDECIDED = [
    pytest.param(Subscription("sub_1", "past_due", (Item("price_1", 3, "1"),)), id="paid between our two reads"),
    pytest.param(Subscription("sub_1", "active", (Item("price_1", 3, "three"),)), id="a mapping with a typo"),
]


@pytest.mark.parametrize("alive", UNDECIDED)
def test_a_live_subscription_that_cannot_be_told_takes_nothing_away(alive: Subscription) -> None:
    policy = Policy(72 * 3600, 1000)
    assert decide([alive, CANCELED], [], NOW, policy, {"sub_1": 3}).wanted is None
    active = Subscription("sub_2", "active", (Item("price_1", 5, "1"),))
    assert decide([alive, active], [], NOW, policy, {"sub_1": 10}).dapp_limit == 10


# ------------------------------------------------------------------ what holds for any input

STATUSES = st.sampled_from(
    [
        *("active", "trialing", "past_due", "unpaid", "paused", "canceled", "incomplete", "incomplete_expired"),
        *("", "new status"),
    ]
)
MOMENTS = st.none() | st.integers(NOW - 10 * DAY, NOW + 10 * DAY)
READABLE = st.integers(0, 2_000).map(str)
QUANTITIES = st.none() | st.integers(-2, 20) | st.integers(0, 10**18)


def items(
    dapps: st.SearchStrategy[str | None], quantities: st.SearchStrategy[int | None], divide_by: st.SearchStrategy[int]
) -> st.SearchStrategy[Any]:
    return st.lists(st.builds(Item, st.just("price_1"), quantities, dapps, divide_by, st.booleans()), max_size=3).map(
        tuple
    )


def subscriptions(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Subscription]]:
    each = st.builds(Subscription, st.just("sub_1"), STATUSES, of, MOMENTS, MOMENTS, st.booleans(), MOMENTS)
    return st.lists(each, max_size=4)


def purchases(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Purchase]]:
    statuses = st.sampled_from(["paid", "fulfilled", "canceled", "returned", "created", "open", "session", ""])
    return st.lists(st.builds(Purchase, st.just("cs_1"), statuses, of), max_size=3)


ANY_ITEMS = items(st.none() | READABLE | st.text(max_size=12), QUANTITIES, st.integers(-1, 30))
READABLE_ITEMS = items(st.none() | READABLE, st.integers(0, 20), st.integers(1, 30))
POLICIES = st.builds(Policy, st.integers(0, 60 * DAY), st.integers(0, 10**6))
GRANTED = st.none() | st.dictionaries(st.sampled_from(["sub_1", "sub_2", "cs_1"]), st.integers(0, 10**6))


@given(subscriptions(ANY_ITEMS), purchases(ANY_ITEMS), POLICIES, GRANTED)
def test_any_input_has_an_answer_within_bounds(
    subs: list[Subscription], bought: list[Purchase], policy: Policy, granted: dict[str, int] | None
) -> None:
    access = decide(iter(subs), iter(bought), NOW, policy, granted)
    assert 0 <= access.dapp_limit <= policy.max_dapps
    assert access.status in ("ACTIVE", "LAPSED", "FAILED", "CANCELLED")
    assert access.reason
    if access.wanted is not True:
        assert access.dapp_limit == 0
        assert access.status != "ACTIVE"
    if access.wanted is False:
        assert access.recheck_at is None
    if access.recheck_at is not None:
        assert access.recheck_at > NOW


@given(subscriptions(ANY_ITEMS), purchases(ANY_ITEMS), POLICIES, GRANTED, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(
    subs: list[Subscription], bought: list[Purchase], policy: Policy, granted: dict[str, int] | None, random: Any
) -> None:
    first = decide(subs, bought, NOW, policy, granted)
    shuffled = random.sample(subs, len(subs)), random.sample(bought, len(bought))
    second = decide(*shuffled, NOW, policy, granted)
    for name in ("wanted", "status", "dapp_limit", "recheck_at", "alarms"):
        assert getattr(first, name) == getattr(second, name), name


@given(subscriptions(READABLE_ITEMS), POLICIES, GRANTED, st.integers(0, 100 * DAY))
def test_the_answer_changes_at_recheck_at_and_never_before(
    subs: list[Subscription], policy: Policy, granted: dict[str, int] | None, later: int
) -> None:
    first = decide(subs, [], NOW, policy, granted)
    # What cannot be told is looked at an hour from now, whenever now is.
    assume(not any("no invoice is open" in alarm for alarm in first.alarms))
    moment = NOW + later if first.recheck_at is None else min(NOW + later, first.recheck_at - 1)
    second = decide(subs, [], moment, policy, granted)
    for name in ("wanted", "status", "dapp_limit", "recheck_at"):
        assert getattr(first, name) == getattr(second, name), name
