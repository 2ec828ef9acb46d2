"""gateway.access: every row of the access rules, named after it, and what holds for any input."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.access import (
    LOOK_AGAIN,
    TRIAL_END_SLACK,
    Access,
    Before,
    Invitation,
    Item,
    Live,
    Mark,
    MarkKind,
    Policy,
    Purchase,
    Reaction,
    Status,
    Subscription,
    Target,
    User,
    banned_target,
    bought_since,
    decide,
    invitation_due,
    live,
    outcome,
    target,
    units_of,
    whole_text,
)

NOW = 1_790_000_000
DAY = 86_400
GRACE = 3 * DAY
GRACE_ENDS, SLACK_ENDS = NOW - GRACE, NOW - TRIAL_END_SLACK  # what began or ended then is over now
POLICY = Policy(grace=GRACE, max_dapps=1_000)
REACTIONS: tuple[Reaction, ...] = get_args(Reaction)
MARK_KINDS: tuple[MarkKind, ...] = get_args(MarkKind)

Expected = tuple[bool | None, Status, int, int | None]  # wanted, status, limit, recheck_at


def table(*rows: tuple[Any, ...]) -> list[Any]:
    """Parameters of a table whose first column names the rule."""
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


def subscription(status: str, units: int | str | None = 5, *, name: str = "sub_1", **facts: Any) -> Subscription:
    """A subscription of one price that gives that many units (text: as the operator mistyped it)."""
    dapps = None if units is None else str(units)
    return Subscription(name, status, (Item("price_1", 1, dapps),), **facts)


def stray(status: str = "active", *more: Item, name: str = "sub_1", **facts: Any) -> Subscription:
    """A subscription of a price without a mapping, whose product is mapped by another price."""
    return Subscription(name, status, (*more, Item("price_new", 1, None, stray=True)), **facts)


def purchase(status: str, *dapps: str | None) -> Purchase:
    return Purchase("cs_1", status, tuple(Item("price_1", 1, each) for each in dapps))


def decided(
    *bought: Subscription | Purchase,
    granted: Mapping[str, int] | int | None = None,
    marks: Iterable[Mark] = (),
    now: int = NOW,
    **policy: Any,
) -> Access:
    """`granted`: what each gave last; a number: what the first subscription gave. `policy`: what differs of POLICY."""
    return decide(
        [each for each in bought if isinstance(each, Subscription)],
        [each for each in bought if isinstance(each, Purchase)],
        now,
        replace(POLICY, **policy),
        {"sub_1": granted} if isinstance(granted, int) else granted,
        marks,
    )


def facts_of(access: Access) -> Expected:
    return access.wanted, access.status, access.dapp_limit, access.recheck_at


def yes(recheck_at: int | None = None, status: Status = "ACTIVE") -> Expected:
    return True, status, 5, recheck_at


def no(status: Status, recheck_at: int | None = None) -> Expected:
    return False, status, 0, recheck_at


def left_alone(recheck_at: int | None = None) -> Expected:
    return None, "LAPSED", 0, recheck_at


class TestOneSubscription:
    @pytest.mark.parametrize(
        ("status", "facts", "expected", "reason"),
        table(
            ("trialing", "trialing", {}, yes(), "trialing"),
            ("trialing, before its end", "trialing", {"trial_end": NOW + 1}, yes(NOW + 1), "trialing"),
            ("trialing, at its end", "trialing", {"trial_end": NOW}, yes(NOW + TRIAL_END_SLACK), "trialing"),
            ("trialing, soon after its end", "trialing", {"trial_end": SLACK_ENDS + 1}, yes(NOW + 1), "trialing"),
            (
                "trialing, its end long past",
                "trialing",
                {"trial_end": SLACK_ENDS},
                no("FAILED"),
                "trialing, but the trial is over",
            ),
            ("trialing, ends first", "trialing", {"trial_end": NOW + 9, "ends_at": NOW + 2}, yes(NOW + 2), "trialing"),
            ("trialing, ends later", "trialing", {"trial_end": NOW + 2, "ends_at": NOW + 9}, yes(NOW + 2), "trialing"),
            (
                "trialing long past its end, and ending",
                "trialing",
                {"trial_end": NOW - TRIAL_END_SLACK, "ends_at": NOW + 5},
                no("FAILED", NOW + 5),
                "trialing, but the trial is over",
            ),
            ("trialing, ended", "trialing", {"trial_end": NOW + 2, "ends_at": NOW}, no("CANCELLED"), "trialing, ended"),
            ("active", "active", {}, yes(), "active"),
            ("active, after its trial", "active", {"trial_end": NOW - DAY}, yes(), "active"),
            ("active, unpaid once", "active", {"first_unpaid": NOW - GRACE}, yes(), "active"),
            ("active, not paused", "active", {"period_end": NOW, "period_unpaid": True}, yes(), "active"),
            ("active, ends_at in the future", "active", {"ends_at": NOW + 1}, yes(NOW + 1), "active"),
            ("active, ends_at reached", "active", {"ends_at": NOW}, no("CANCELLED"), "active, ended"),
            ("active, ends_at past", "active", {"ends_at": NOW - 1}, no("CANCELLED"), "active, ended"),
            ("past_due", "past_due", {"first_unpaid": NOW}, yes(NOW + GRACE, "LAPSED"), "past_due, in grace"),
            (
                "past_due, grace all but over",
                "past_due",
                {"first_unpaid": GRACE_ENDS + 1},
                yes(NOW + 1, "LAPSED"),
                "past_due, in grace",
            ),
            ("past_due, grace over", "past_due", {"first_unpaid": GRACE_ENDS}, no("FAILED"), "past_due, grace is over"),
            (
                "past_due, the invoice counts and not the period",
                "past_due",
                {"first_unpaid": NOW, "period_start": GRACE_ENDS},
                yes(NOW + GRACE, "LAPSED"),
                "past_due, in grace",
            ),
            (
                "past_due, no invoice open",
                "past_due",
                {},
                left_alone(NOW + LOOK_AGAIN),
                "past_due, but no invoice is open",
            ),
            (
                "past_due, no invoice open in a young period",
                "past_due",
                {"period_start": GRACE_ENDS + 1},
                left_alone(NOW + LOOK_AGAIN),
                "past_due, but no invoice is open",
            ),
            (
                "past_due, no invoice open in an old period",
                "past_due",
                {"period_start": GRACE_ENDS},
                no("FAILED"),
                "past_due, grace is over",
            ),
            ("unpaid", "unpaid", {}, no("FAILED"), "unpaid"),
            ("paused", "paused", {}, no("LAPSED"), "paused"),
            ("canceled", "canceled", {}, no("CANCELLED"), "canceled"),
            ("canceled for non-payment", "canceled", {"ended_for_nonpayment": True}, no("FAILED"), "canceled"),
            ("a status we do not know", "on_vacation", {}, left_alone(), "has an unknown status"),
        ),
    )
    def test_gives_what_its_row_of_the_rules_says(
        self, status: str, facts: dict[str, Any], expected: Expected, reason: str
    ) -> None:
        access = decided(subscription(status, **facts))
        assert (facts_of(access), access.reason) == (expected, f"sub_1 {reason}")

    @pytest.mark.parametrize("status", ["incomplete", "incomplete_expired"])
    def test_that_never_began_contributes_nothing(self, status: str) -> None:
        assert decided(subscription(status)) == Access(None, "LAPSED", 0, "nothing bought")

    @pytest.mark.parametrize(
        ("policy", "expected", "alarms"),
        table(
            ("by default", {}, no("FAILED", NOW + 9), ()),
            ("revoke", {"written_off": "revoke"}, no("FAILED", NOW + 9), ()),
            ("flag", {"written_off": "flag"}, yes(NOW + 9), ("sub_1 active, but its last invoice is written off",)),
            ("ignore", {"written_off": "ignore"}, yes(NOW + 9), ()),
            ("whatever the policy of pauses", {"paused_collection": "flag"}, no("FAILED", NOW + 9), ()),
        ),
    )
    def test_active_but_written_off_or_voided_after_failure(
        self, policy: dict[str, Reaction], expected: Expected, alarms: tuple[str, ...]
    ) -> None:
        access = decided(subscription("active", written_off=True, ends_at=NOW + 9), **policy)
        assert (facts_of(access), access.alarms) == (expected, alarms)
        if not access.wanted:
            assert access.reason == "sub_1 active, but its last invoice is written off"

    @pytest.mark.parametrize("status", ["trialing", "past_due"])
    def test_only_of_an_active_one_the_last_invoice_matters(self, status: str) -> None:
        facts = {"first_unpaid": NOW, "ends_at": NOW + 9}
        usual = decided(subscription(status, **facts))
        assert decided(subscription(status, **facts, written_off=True, settled=True)) == usual

    def test_unpaid_only_for_a_newer_draft_stays_a_no_and_alarms(self) -> None:
        access = decided(subscription("unpaid", settled=True))
        assert facts_of(access) == no("FAILED")
        assert access.alarms == (
            "sub_1 unpaid, although its last finalized invoice is paid: a newer draft must be finalized",
        )
        assert decided(subscription("unpaid")).alarms == ()

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
        access = decided(subscription(status, **facts), granted=5)
        assert (access.wanted, access.alarms, access.reason, access.units) == (None, (alarm,), alarm, {"sub_1": 5})

    @pytest.mark.parametrize("status", ["active", "past_due", "unpaid", "canceled", "incomplete", "on_vacation"])
    def test_of_another_product_is_ignored(self, status: str) -> None:
        assert decided(subscription(status, None)) == Access(None, "LAPSED", 0, "nothing bought")

    @pytest.mark.parametrize(
        ("status", "facts", "granted", "expected"),
        table(
            ("and ended: no", "canceled", {}, 5, no("CANCELLED")),
            ("and is unpaid: no", "unpaid", {}, 5, no("FAILED")),
            ("and runs: says nothing", "active", {}, 5, left_alone()),
            ("and is in grace: says nothing", "past_due", {"first_unpaid": NOW}, 5, left_alone()),
            ("and has an unknown status: says nothing", "on_vacation", {}, 5, left_alone()),
            ("and never completed: says nothing", "incomplete_expired", {}, 5, left_alone()),
            ("and gave no units: says nothing", "canceled", {}, 0, left_alone()),
        ),
    )
    def test_that_gave_units_and_is_not_mapped_any_more(
        self, status: str, facts: dict[str, Any], granted: int, expected: Expected
    ) -> None:
        assert facts_of(decided(subscription(status, None, **facts), granted=granted)) == expected

    def test_an_unknown_status_is_not_repeated_to_the_operator(self) -> None:
        assert "on_vacation" not in repr(decided(subscription("on_vacation")))

    def test_counts_all_its_mapped_items_and_no_other(self) -> None:
        items = (Item("price_1", 2, "5"), Item("price_2", 7, None), Item("price_3", 3, "10"))
        access = decided(Subscription("sub_1", "active", items))
        assert (access.dapp_limit, access.units, access.alarms) == (40, {"sub_1": 40}, ())


class TestPausedCollection:
    PAID = {"period_end": NOW + 9}
    UNPAID = {"period_end": NOW + 9, "period_unpaid": True}
    OVER = {"period_end": NOW}

    # Written off: what a pause does not collect is not held against the payer.
    @pytest.mark.parametrize("written_off", [False, True])
    @pytest.mark.parametrize("reaction", REACTIONS)
    @pytest.mark.parametrize(
        ("facts", "expected"),
        table(
            ("the period is paid", PAID, yes(NOW + 9)),
            ("the period is all but over", {"period_end": NOW + 1}, yes(NOW + 1)),
            ("the period is not paid", UNPAID, no("CANCELLED")),
            ("the period is over", OVER, no("CANCELLED")),
            ("the period is not known", {}, yes()),
            ("ends before the period", {**PAID, "ends_at": NOW + 2}, yes(NOW + 2)),
            ("ends after the period", {**PAID, "ends_at": NOW + 20}, yes(NOW + 9)),
        ),
    )
    def test_void_gives_until_the_period_ends_under_any_policy(
        self, facts: dict[str, Any], expected: Expected, reaction: Reaction, written_off: bool
    ) -> None:
        paused = subscription("active", pause="void", written_off=written_off, **facts)
        access = decided(paused, paused_collection=reaction)
        assert (facts_of(access), access.alarms) == (expected, ())
        assert access.reason == ("sub_1 active" if access.wanted else "sub_1 active, collection paused (void)")

    @pytest.mark.parametrize("written_off", [False, True])
    @pytest.mark.parametrize("behavior", ["keep_as_draft", "mark_uncollectible"])
    @pytest.mark.parametrize(
        ("reaction", "facts", "expected"),
        table(
            ("ignore, the period is paid", "ignore", PAID, yes()),
            ("ignore, the period is not paid", "ignore", UNPAID, yes()),
            ("ignore, the period is over", "ignore", OVER, yes()),
            ("flag, the period is not paid", "flag", UNPAID, yes()),
            ("revoke, the period is paid", "revoke", PAID, yes(NOW + 9)),
            ("revoke, the period is not paid", "revoke", UNPAID, no("CANCELLED")),
            ("revoke, the period is over", "revoke", OVER, no("CANCELLED")),
        ),
    )
    def test_that_keeps_the_invoices_gives_by_policy(
        self, reaction: Reaction, facts: dict[str, Any], expected: Expected, behavior: str, written_off: bool
    ) -> None:
        paused = subscription("active", pause=behavior, written_off=written_off, **facts)
        access = decided(paused, paused_collection=reaction)
        told = f"sub_1 active, collection paused ({behavior})"
        assert (facts_of(access), access.alarms) == (expected, (told,) if reaction == "flag" else ())
        assert access.reason == ("sub_1 active" if access.wanted else told)

    def test_gives_by_default(self) -> None:
        paused = subscription("active", pause="keep_as_draft", **self.UNPAID)
        assert facts_of(decided(paused)) == yes()

    @pytest.mark.parametrize("behavior", ["void", "keep_as_draft", "mark_uncollectible"])
    @pytest.mark.parametrize("status", ["trialing", "past_due"])
    def test_of_another_one_means_nothing(self, status: str, behavior: str) -> None:
        facts = {"first_unpaid": NOW, "trial_end": NOW + DAY}
        paused = subscription(status, pause=behavior, period_unpaid=True, period_end=NOW - 1, **facts)
        assert decided(paused, paused_collection="revoke") == decided(subscription(status, **facts))


class TestOnePerson:
    def test_that_bought_nothing_is_left_alone(self) -> None:
        assert decided() == Access(None, "LAPSED", 0, "nothing bought")

    @pytest.mark.parametrize("other", ["canceled", "unpaid", "paused", "incomplete", "incomplete_expired"])
    def test_has_access_when_anything_gives_it(self, other: str) -> None:
        access = decided(subscription(other, 7, name="sub_old"), subscription("active", 5, name="sub_new"))
        assert access == Access(True, "ACTIVE", 5, "sub_new active", units={"sub_new": 5})

    def test_gets_the_sum_over_subscriptions_and_purchases(self) -> None:
        access = decided(
            subscription("active", 5),
            subscription("trialing", 7, name="sub_2"),
            purchase("paid", "11"),
            purchase("paid"),
        )
        assert access == Access(
            True,
            "ACTIVE",
            23,
            "sub_1 active; sub_2 trialing; cs_1 paid",
            units={"sub_1": 5, "sub_2": 7, "cs_1": 11},
        )

    @pytest.mark.parametrize("mapped", [subscription("active"), subscription("canceled"), subscription("past_due")])
    def test_with_another_product_is_as_without_it(self, mapped: Subscription) -> None:
        other = subscription("unpaid", None, name="sub_other")
        assert decided(other, mapped) == decided(mapped)

    def test_is_looked_at_again_at_the_earliest_moment(self) -> None:
        moments = [{"ends_at": NOW + 9}, {"ends_at": NOW + 3}, {}]
        access = decided(*(subscription("active", name=f"sub_{n}", **each) for n, each in enumerate(moments)))
        assert access.recheck_at == NOW + 3

    @pytest.mark.parametrize(
        ("statuses", "expected", "reason"),
        [
            (["canceled", "paused", "unpaid"], "FAILED", "sub_1 unpaid"),
            (["canceled", "paused"], "LAPSED", "sub_1 paused"),
            (["canceled", "canceled"], "CANCELLED", "sub_1 canceled"),
            (["canceled", "incomplete"], "CANCELLED", "sub_1 canceled"),
        ],
    )
    def test_without_access_has_the_worst_status(self, statuses: list[str], expected: str, reason: str) -> None:
        for each in itertools.permutations(statuses):
            access = decided(*(subscription(status) for status in each))
            assert (access.wanted, access.status, access.reason) == (False, expected, reason)

    @pytest.mark.parametrize(
        "alive", [subscription("on_vacation"), subscription("past_due"), subscription("active", "x")]
    )
    def test_without_access_is_left_alone_while_something_alive_cannot_be_told(self, alive: Subscription) -> None:
        access = decided(alive, subscription("canceled", name="sub_2"), granted={"sub_1": 5, "sub_2": 7})
        assert (access.wanted, access.units) == (None, {"sub_1": 5, "sub_2": 7})

    def test_is_told_every_reason_why_they_cannot_be_told(self) -> None:
        access = decided(subscription("on_vacation"), stray(name="sub_2"), subscription("canceled", name="sub_3"))
        alarms = ("price price_new is not mapped, but its product is", "sub_1 has an unknown status")
        assert (access.reason, access.alarms) == ("; ".join(reversed(alarms)), alarms)

    def test_with_a_fresh_incomplete_subscription_every_day_gets_nothing(self) -> None:
        assert decided(*(subscription("incomplete", name=f"sub_{day}") for day in range(30))).wanted is None

    def test_in_grace_beside_a_paid_subscription_is_active(self) -> None:
        access = decided(subscription("past_due", 3, first_unpaid=NOW), subscription("active", 5, name="sub_2"))
        assert facts_of(access) == (True, "ACTIVE", 8, NOW + GRACE)

    def test_whose_grant_is_mapped_to_nothing_any_more_is_left_alone_with_an_alarm(self) -> None:
        access = decided(subscription("active", None), granted=5)
        assert (access.wanted, access.units) == (None, {"sub_1": 5})
        assert access.alarms == ("what was granted is mapped to no dapps any more",)
        assert decided(subscription("active", None), subscription("active", name="sub_2"), granted=5).alarms == ()


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
        assert access.units == {"sub_1": limit - active, "sub_2": active}

    def test_does_not_move_while_the_same_invoice_stays_unpaid(self) -> None:
        looks = [decided(subscription("past_due", first_unpaid=NOW), now=NOW + day * DAY) for day in range(4)]
        assert [each.recheck_at for each in looks] == [NOW + GRACE] * 3 + [None]
        assert [each.wanted for each in looks] == [True, True, True, False]

    def test_of_zero_hours_ends_at_once(self) -> None:
        access = decided(subscription("past_due", first_unpaid=NOW), grace=0)
        assert (access.wanted, access.status) == (False, "FAILED")

    def test_counts_from_the_first_second_of_time(self) -> None:
        access = decided(subscription("past_due", period_start=0), now=GRACE)
        assert (access.wanted, access.status) == (False, "FAILED")


class TestUnreadableMapping:
    ALARM = "price price_1 has no readable units"

    @pytest.mark.parametrize("typo", ["", "five", "-5", "5.0", " 5", "٥", "²", "5" * 10])
    @pytest.mark.parametrize("status", ["active", "trialing"])
    def test_alone_changes_nothing_and_alarms(self, status: str, typo: str) -> None:
        access = decided(subscription(status, typo, ends_at=NOW + 9), granted=5)
        assert facts_of(access) == left_alone(NOW + 9)
        assert (access.reason, access.alarms, access.units) == (self.ALARM, (self.ALARM,), {"sub_1": 5})

    def test_in_grace_changes_nothing(self) -> None:
        access = decided(subscription("past_due", "five", first_unpaid=NOW))
        assert facts_of(access) == left_alone(NOW + GRACE)

    def test_turns_a_no_into_leave_alone(self) -> None:
        access = decided(subscription("canceled"), subscription("active", "five", name="sub_2"))
        assert (access.wanted, access.alarms) == (None, (self.ALARM,))

    @pytest.mark.parametrize(("granted", "limit"), [(None, 5), (3, 5), (9, 9)])
    def test_beside_a_readable_one_takes_nothing_away(self, granted: int | None, limit: int) -> None:
        access = decided(subscription("active"), subscription("active", "five", name="sub_2"), granted=granted)
        assert (access.wanted, access.dapp_limit, access.alarms) == (True, limit, (self.ALARM,))

    def test_of_one_item_lets_the_others_count(self) -> None:
        mixed = Subscription("sub_1", "active", (Item("price_1", 1, "one"), Item("price_2", 8, "1"), Item("p", 3, "2")))
        access = decided(mixed)
        assert (access.wanted, access.dapp_limit, access.alarms) == (True, 14, (self.ALARM,))
        assert decided(mixed, granted=20).dapp_limit == 20

    def test_is_told_beside_what_else_is_strange(self) -> None:
        lost = "sub_1 active, but its last invoice is written off"
        items = (Item("price_1", 1, "one"), Item("price_2", 1, "2"))
        for each in (items, items[:1]):
            access = decided(Subscription("sub_1", "active", each, written_off=True), written_off="flag")
            assert access.alarms == (self.ALARM, lost)

    @pytest.mark.parametrize("status", ["unpaid", "paused", "canceled"])
    def test_of_what_has_ended_does_not_matter(self, status: str) -> None:
        assert decided(subscription(status, "five")).wanted is False

    def test_of_a_purchase_changes_nothing(self) -> None:
        assert decided(purchase("paid", "five")).wanted is None


class TestStrayPrice:
    ALARM = "price price_new is not mapped, but its product is"

    def test_says_something_about_access_and_another_product_does_not(self) -> None:
        assert [Item("p", 1, "0").counts, Item("p", 1, None, stray=True).counts, Item("p", 1, None).counts] == [
            True,
            True,
            False,
        ]

    def test_alone_is_left_alone(self) -> None:
        access = decided(stray(), granted=5)
        assert (access.wanted, access.units, access.alarms) == (None, {"sub_1": 5}, (self.ALARM,))

    def test_beside_a_no_turns_it_into_leave_alone(self) -> None:
        access = decided(subscription("canceled"), stray(name="sub_2"), granted=5)
        assert (access.wanted, access.units, access.alarms) == (None, {"sub_1": 5}, (self.ALARM,))

    @pytest.mark.parametrize(
        ("granted", "limit"), [({}, 5), ({"sub_1": 3, "sub_2": 1}, 6), ({"sub_1": 7, "sub_2": 6}, 13)]
    )
    def test_beside_a_yes_lowers_nothing(self, granted: dict[str, int], limit: int) -> None:
        access = decided(subscription("active"), stray(name="sub_2"), granted=granted)
        assert (access.wanted, access.dapp_limit, access.alarms) == (True, limit, (self.ALARM,))

    def test_beside_a_mapped_item_of_its_subscription_lowers_nothing(self) -> None:
        access = decided(stray("active", Item("price_1", 5, "1")), granted=9)
        assert (access.wanted, access.dapp_limit, access.alarms) == (True, 9, (self.ALARM,))

    @pytest.mark.parametrize("status", ["unpaid", "paused", "canceled"])
    def test_of_what_has_ended_is_a_no(self, status: str) -> None:
        assert decided(stray(status)).wanted is False

    def test_of_a_purchase_is_left_alone(self) -> None:
        access = decided(Purchase("cs_1", "paid", (Item("price_new", 1, None, stray=True),)))
        assert (access.wanted, access.alarms) == (None, (self.ALARM,))


class TestUndecided:
    """What holds as long as something alive cannot be told: it keeps what it gave, and nobody has less than before."""

    LOST = subscription("on_vacation")
    MIXED = Subscription("sub_1", "active", (Item("price_1", 8, "1"), Item("price_2", 1, "one")))
    ACTIVE = subscription("active", 5, name="sub_2")
    ENDED = subscription("canceled", 5, name="sub_3")

    @pytest.mark.parametrize(
        ("bought", "granted", "units"),
        table(
            ("it gave nothing", (LOST, ACTIVE), {}, {"sub_2": 5}),
            ("it keeps what it gave", (LOST, ACTIVE), {"sub_1": 10}, {"sub_1": 10, "sub_2": 5}),
            ("what can be told of it is less", (MIXED,), {"sub_1": 12}, {"sub_1": 12}),
            ("what can be told of it is more", (MIXED,), {"sub_1": 3}, {"sub_1": 8}),
            ("what can be told lowers itself", (LOST, ACTIVE), {"sub_1": 1, "sub_2": 9}, {"sub_1": 1, "sub_2": 9}),
            ("something ended", (LOST, ACTIVE, ENDED), {"sub_1": 1, "sub_3": 9}, {"sub_1": 1, "sub_3": 9}),
            ("something ended for as much", (LOST, ACTIVE, ENDED), {"sub_1": 1, "sub_3": 5}, {"sub_1": 1, "sub_2": 5}),
            ("something ended for more", (LOST, ACTIVE, ENDED), {"sub_1": 1, "sub_3": 4}, {"sub_1": 1, "sub_2": 5}),
        ),
    )
    def test_units_are_kept(
        self, bought: tuple[Subscription, ...], granted: dict[str, int], units: dict[str, int]
    ) -> None:
        access = decided(*bought, granted=granted)
        assert (access.wanted, access.dapp_limit, access.units) == (True, sum(units.values()), units)


class TestPurchase:
    @pytest.mark.parametrize(
        ("bought", "expected", "reason"),
        table(
            ("paid", purchase("paid", "5"), yes(), "cs_1 paid"),
            ("fulfilled", purchase("fulfilled", "5"), yes(), "cs_1 fulfilled"),
            ("paid, other goods among it", purchase("paid", "5", None, "6"), (True, "ACTIVE", 11, None), "cs_1 paid"),
            ("canceled", purchase("canceled", "5"), no("CANCELLED"), "cs_1 canceled"),
            ("returned", purchase("returned", "5"), no("CANCELLED"), "cs_1 returned"),
            ("returned before its order came", purchase("returned"), no("CANCELLED"), "cs_1 returned"),
            ("paid, of nothing", purchase("paid"), left_alone(), "nothing bought"),
            ("paid, of another product", purchase("paid", None), left_alone(), "nothing bought"),
            ("returned, of another product", purchase("returned", None), left_alone(), "nothing bought"),
            ("created", purchase("created", "5"), left_alone(), "nothing bought"),
            ("not paid yet", purchase("open"), left_alone(), "nothing bought"),
        ),
    )
    def test_gives_its_units_while_it_is_paid(self, bought: Purchase, expected: Expected, reason: str) -> None:
        access = decided(bought)
        assert (facts_of(access), access.reason) == (expected, reason)

    def test_survives_the_end_of_a_subscription(self) -> None:
        access = decided(subscription("canceled", 7), purchase("paid", "5"))
        assert (access.wanted, access.dapp_limit) == (True, 5)


class TestMark:
    REVOKED: dict[MarkKind, Status] = {
        "refunded": "CANCELLED",
        "disputed": "FAILED",
        "dispute_lost": "FAILED",
        "fraud_warning": "FAILED",
        "customer_deleted": "CANCELLED",
    }
    TOLD: dict[MarkKind, str] = {
        "refunded": "refunded",
        "disputed": "disputed",
        "dispute_lost": "dispute lost",
        "fraud_warning": "fraud warning",
        "customer_deleted": "customer deleted",
    }
    # A deleted customer is a no of its own: TestDeletedCustomer.
    OF_A_CHARGE = [kind for kind in MARK_KINDS if kind != "customer_deleted"]

    @pytest.mark.parametrize("bought", [subscription("active", ends_at=NOW + 9), purchase("paid", "5")])
    @pytest.mark.parametrize("until", [None, NOW + 1, NOW + DAY])
    @pytest.mark.parametrize("kind", MARK_KINDS)
    def test_that_revokes_takes_what_its_charge_paid_for_until_its_period_ends(
        self, kind: MarkKind, until: int | None, bought: Subscription | Purchase
    ) -> None:
        usual = decided(bought)
        access = decided(bought, marks=[Mark("m_1", kind, bought.id, until)], **{kind: "revoke"})
        assert (access.wanted, access.status, access.dapp_limit) == (False, self.REVOKED[kind], 0)
        assert (access.reason, access.alarms) == (f"{usual.reason}, but {self.TOLD[kind]} (m_1)", ())
        assert access.units == {}

    @pytest.mark.parametrize("until", [NOW + 1, NOW + DAY])
    def test_that_revokes_is_looked_at_again_at_its_end(self, until: int) -> None:
        assert decided(subscription("active"), marks=[Mark("m_1", "refunded", "sub_1", until)]).recheck_at == until

    def test_that_revokes_ends_no_later_than_what_it_is_of(self) -> None:
        bought = subscription("active", ends_at=NOW + 9)
        assert decided(bought, marks=[Mark("m_1", "refunded", "sub_1", NOW + 20)]).recheck_at == NOW + 9

    @pytest.mark.parametrize("kinds", [*itertools.permutations(("refunded", "dispute_lost", "disputed"))])
    def test_beside_another_the_worse_counts_and_alarms_stay(self, kinds: tuple[MarkKind, ...]) -> None:
        until = {"refunded": NOW + 5, "dispute_lost": NOW + 9, "disputed": NOW + 2}
        marks = [Mark(f"m_{kind}", kind, "sub_1", until[kind]) for kind in kinds]
        access = decided(subscription("active"), marks=marks)
        assert (access.wanted, access.status, access.recheck_at) == (False, "FAILED", NOW + 5)
        assert access.reason == "sub_1 active, but dispute lost (m_dispute_lost)"
        assert access.alarms == ("sub_1 active, but disputed (m_disputed)",)

    @pytest.mark.parametrize("kind", OF_A_CHARGE)
    @pytest.mark.parametrize("reaction", ["flag", "ignore"])
    def test_that_does_not_revoke_alarms_or_means_nothing(self, reaction: Reaction, kind: MarkKind) -> None:
        bought = subscription("active", ends_at=NOW + 9)
        alarm = f"sub_1 active, but {self.TOLD[kind]} (m_1)"
        access = decided(bought, marks=[Mark("m_1", kind, "sub_1", NOW + 1)], **{kind: reaction})
        assert access == replace(decided(bought), alarms=(alarm,) if reaction == "flag" else ())

    @pytest.mark.parametrize("reaction", REACTIONS)
    @pytest.mark.parametrize("kind", MARK_KINDS)
    @pytest.mark.parametrize("until", [NOW - 1, NOW])
    def test_of_a_period_that_is_over_means_nothing(self, until: int, kind: MarkKind, reaction: Reaction) -> None:
        bought = subscription("active")
        access = decided(bought, marks=[Mark("m_1", kind, "sub_1", until)], **{kind: reaction})
        assert access == decided(bought)

    @pytest.mark.parametrize("reaction", REACTIONS)
    @pytest.mark.parametrize("kind", OF_A_CHARGE)
    def test_concerns_only_what_it_is_of(self, kind: MarkKind, reaction: Reaction) -> None:
        bought = (subscription("active", 3), subscription("active", 5, name="sub_2"), purchase("paid", "7"))
        access = decided(*bought, marks=[Mark("m_1", kind, "sub_other")], **{kind: reaction})
        assert access == decided(*bought)
        access = decided(*bought, marks=[Mark("m_1", kind, "sub_2")], **{kind: reaction})
        assert access.dapp_limit == (10 if reaction == "revoke" else 15)

    @pytest.mark.parametrize("reaction", REACTIONS)
    @pytest.mark.parametrize("kind", OF_A_CHARGE)
    @pytest.mark.parametrize("status", ["canceled", "unpaid", "paused"])
    def test_on_a_no_leaves_it_what_it_is(self, status: str, kind: MarkKind, reaction: Reaction) -> None:
        access = decided(subscription(status), marks=[Mark("m_1", kind, "sub_1", NOW + 1)], **{kind: reaction})
        assert access == decided(subscription(status))

    @pytest.mark.parametrize("alive", [subscription("on_vacation"), subscription("past_due"), stray()])
    def test_that_revokes_decides_what_could_not_be_told(self, alive: Subscription) -> None:
        access = decided(alive, marks=[Mark("m_1", "dispute_lost", "sub_1")], granted=5)
        assert (access.wanted, access.status) == (False, "FAILED")

    @pytest.mark.parametrize(
        "before",
        [
            Mark("m_0", "fraud_warning", "sub_1"),  # ignored
            Mark("m_0", "dispute_lost", "sub_other"),
            Mark("m_0", "disputed", "sub_1"),  # flagged
        ],
    )
    def test_that_revokes_is_found_behind_others(self, before: Mark) -> None:
        marks = [before, Mark("m_1", "refunded", "sub_1")]
        for each in (marks, marks[::-1]):
            access = decided(subscription("active"), marks=iter(each), fraud_warning="ignore")
            assert (access.wanted, access.status) == (False, "CANCELLED")
            assert access.reason == "sub_1 active, but refunded (m_1)"

    def test_access_returns_when_no_revoking_mark_is_left(self) -> None:
        marks = [Mark(f"m_{n}", "dispute_lost", "sub_1", NOW + n) for n in (1, 2)]
        looks = [decided(subscription("active"), marks=marks, now=NOW + n) for n in range(3)]
        assert [facts_of(each) for each in looks] == [
            (False, "FAILED", 0, NOW + 1),
            (False, "FAILED", 0, NOW + 2),
            yes(),
        ]

    def test_that_flags_alarms_beside_every_other_alarm(self) -> None:
        marks = [Mark("dp_1", "disputed", "sub_1"), Mark("issfr_1", "fraud_warning", "sub_1")]
        access = decided(subscription("active", written_off=True), marks=marks, written_off="flag")
        assert (access.wanted, access.alarms) == (
            True,
            (
                "sub_1 active, but disputed (dp_1)",
                "sub_1 active, but fraud warning (issfr_1)",
                "sub_1 active, but its last invoice is written off",
            ),
        )

    def test_the_operator_decided_nothing_is_the_documented_default(self) -> None:
        assert Policy(GRACE, 1) == Policy(
            grace=GRACE,
            max_dapps=1,
            written_off="revoke",
            paused_collection="ignore",
            refunded="revoke",
            disputed="flag",
            dispute_lost="revoke",
            fraud_warning="flag",
            customer_deleted="revoke",
        )


def deleted(*concerned: str, customer: str = "cus_1") -> list[Mark]:
    """A deleted customer, as a mark on everything of theirs."""
    return [Mark(customer, "customer_deleted", each) for each in (customer, *concerned)]


class TestDeletedCustomer:
    @pytest.mark.parametrize("reaction", REACTIONS)
    def test_is_a_no_of_its_own(self, reaction: Reaction) -> None:
        access = decided(marks=deleted(), customer_deleted=reaction, granted=5)
        assert access == Access(False, "CANCELLED", 0, "cus_1 deleted")

    @pytest.mark.parametrize(
        ("reaction", "expected", "alarms"),
        [
            ("revoke", no("CANCELLED"), ()),
            ("flag", yes(), ("cs_1 paid, but customer deleted (cus_1)",)),
            ("ignore", yes(), ()),
        ],
    )
    def test_keeps_purchases_by_policy(self, reaction: Reaction, expected: Expected, alarms: tuple[str, ...]) -> None:
        access = decided(purchase("paid", "5"), marks=deleted("cs_1"), customer_deleted=reaction)
        assert (facts_of(access), access.alarms) == (expected, alarms)

    def test_takes_nothing_from_another_customer_of_the_same_person(self) -> None:
        bought = (subscription("canceled"), subscription("active", 7, name="sub_2"))
        assert decided(*bought, marks=deleted("sub_1")) == decided(*bought)

    def test_has_the_worst_status_of_all(self) -> None:
        access = decided(subscription("unpaid"), marks=deleted("sub_1"))
        assert (access.wanted, access.status, access.reason) == (False, "FAILED", "sub_1 unpaid")

    def test_whose_subscription_cannot_be_told_is_left_alone_unless_it_is_revoked(self) -> None:
        looks = [decided(stray(), marks=deleted("sub_1"), customer_deleted=each) for each in REACTIONS]
        assert [each.wanted for each in looks] == [None if each != "revoke" else False for each in REACTIONS]

    def test_is_told_in_the_same_words_whoever_is_read_first(self) -> None:
        marks = [*deleted(customer="cus_2"), *deleted(customer="cus_1")]
        for each in itertools.permutations(marks):
            assert decided(marks=each).reason == "cus_1 deleted"


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
        assert access.units == {"sub_1": units}

    def test_of_a_person_is_clamped_as_a_whole(self) -> None:
        access = decided(subscription("active", 600), subscription("active", 600, name="sub_2"))
        assert (access.dapp_limit, access.alarms) == (1_000, ("limit clamped from 1200 to 1000",))

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
            (Item("p", 1, None, stray=True), None),
        ],
    )
    def test_units_are_quantity_times_dapps_after_transform_quantity(self, item: Item, units: int | None) -> None:
        assert units_of(item) == units

    @pytest.mark.parametrize(
        ("text", "number"),
        [
            *(("0", 0), ("5", 5), ("007", 7), ("9" * 9, 999_999_999)),
            *(
                (each, None)
                for each in (None, "", "1" * 10, "-1", "+1", "1.0", "1e3", " 1", "1\n", "1_0", "٥", "²", "x")
            ),
        ],
    )
    def test_a_number_in_metadata_is_whole_and_has_at_most_nine_digits(
        self, text: str | None, number: int | None
    ) -> None:
        assert whole_text(text) == number


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

    @pytest.mark.parametrize("enabled", [True, False])
    @pytest.mark.parametrize(("limit", "status"), [(7, "ACTIVE"), (0, "CANCELLED"), (-1, "")])
    def test_of_a_banned_user_is_disabled_and_otherwise_as_they_are(
        self, enabled: bool, limit: int, status: str
    ) -> None:
        user = User(True, enabled=enabled, dapp_limit=limit, payment_status=status)
        assert banned_target(user) == Target(False, limit, status)


class TestLive:
    YES, NO, LEFT = (Access(wanted, "ACTIVE", 7, "") for wanted in (True, False, None))
    ON, OFF = Target(True, 7, "ACTIVE"), Target(False, 0, "FAILED")
    PUT_BACK = Target(True, 3, "VIP")  # an adopted user whose grant has ended
    KNOWN = Live(True, 5)
    USER = User(True, enabled=True, provider="STRIPE", dapp_limit=3)
    COMPED = replace(USER, provider="ADMIN", dapp_limit=40)
    BY_BILLING = replace(USER, enabled=False, disabled_by="billing")

    @pytest.mark.parametrize(
        ("user", "access", "target", "expected"),
        [
            (USER, YES, ON, Live(True, 7)),
            (BY_BILLING, YES, ON, Live(True, 7)),  # about to be enabled
            (replace(USER, provider=""), YES, replace(ON, dapp_limit=9), Live(True, 9)),  # had more before
            (USER, NO, OFF, Live()),
            (replace(USER, provider=""), NO, PUT_BACK, Live()),
            (USER, LEFT, OFF, KNOWN),
            (BY_BILLING, LEFT, OFF, Live()),
            (COMPED, YES, ON, Live(True, 40)),
            (COMPED, NO, OFF, Live(True, 40)),
            (COMPED, LEFT, OFF, Live(True, 40)),
            (replace(COMPED, dapp_limit=-1), NO, OFF, Live(True, 0)),
            (replace(COMPED, enabled=False, disabled_by="billing"), YES, ON, Live()),
            (replace(COMPED, enabled=False), YES, ON, Live()),
            (replace(USER, enabled=False), YES, ON, Live()),
            (replace(USER, enabled=False, disabled_by="operator"), LEFT, OFF, Live()),
            (User(exists=False), YES, ON, Live()),
            (User(exists=False, enabled=True, provider="ADMIN"), LEFT, OFF, Live()),
        ],
    )
    def test_is_what_is_paid_for_or_given_and_left_alone_where_nobody_knows(
        self, user: User, access: Access, target: Target, expected: Live
    ) -> None:
        assert live(user, access, target, self.KNOWN, banned=False) == expected
        assert live(user, access, target, self.KNOWN, banned=True) == Live()

    def test_is_nothing_until_somebody_says_otherwise(self) -> None:
        assert Live() == Live(False, 0)


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
        seen = User(True, sub="u-1", enabled=True, provider="ADMIN", dapp_limit=5, created_at=NOW, invited=True)
        assert seen.facts() == {
            "exists": True,
            "sub": "u-1",
            "linked": False,
            "claimed": False,
            "enabled": True,
            "disabled_by": "",
            "provider": "ADMIN",
            "dapp_limit": 5,
            "payment_status": "",
            "created_at": NOW,
            "invited": True,
            "renamed": False,
            "comped": True,
            "held": False,
        }
        assert User(True).facts()["held"] is True

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
        assert outcome(Access(wanted, "LAPSED", 0, ""), user, erased=False) == word
        assert outcome(Access(wanted, "LAPSED", 0, ""), user, erased=True) == "deleted"  # whoever has the address now
        assert outcome(Access(wanted, "LAPSED", 0, ""), user, banned=False) == word
        banned = outcome(Access(wanted, "LAPSED", 0, ""), user, banned=True)
        assert banned == ("comped" if user.comped else "held")


class TestBoughtSince:
    """After an account's deletion only what was bought later counts."""

    NEVER_DATED = Subscription("sub_1", "active", ())

    @pytest.mark.parametrize(
        ("deleted_at", "created", "counts"),
        table(
            ("never deleted", None, NOW, True),
            ("never deleted, and nobody knows when it was bought", None, None, True),
            ("bought later", NOW, NOW + 1, True),
            ("bought in the same second", NOW, NOW, False),
            ("bought before", NOW, NOW - 1, False),
            ("nobody knows when it was bought", NOW, None, False),
            ("deleted at the very beginning", 0, 0, False),
            ("bought after the very beginning", 0, 1, True),
        ),
    )
    @pytest.mark.parametrize("bought", [Subscription("sub_1", "active", ()), Purchase("cs_1", "paid", ())])
    def test_is_what_came_after_the_deletion(
        self, bought: Subscription | Purchase, deleted_at: int | None, created: int | None, counts: bool
    ) -> None:
        given = replace(bought, created=created)
        assert bought_since([given], deleted_at) == ((given,) if counts else ())

    def test_is_each_on_its_own_and_in_order(self) -> None:
        given = [replace(self.NEVER_DATED, id=f"sub_{at}", created=NOW + at) for at in (2, -1, 1, 0)]
        assert [each.id for each in bought_since(iter(given), NOW)] == ["sub_2", "sub_1"]
        assert bought_since(iter(given), None) == tuple(given)


class TestSubscription:
    @pytest.mark.parametrize(
        ("items", "counts"),
        table(
            ("gives units", [Item("price_1", 1, "1")], True),
            ("one of several gives units", [Item("coffee", 1, None), Item("price_1", 1, "1")], True),
            ("mistyped, and still ours", [Item("price_1", 1, "one")], True),
            ("a price of ours without a mapping", [Item("price_new", 1, None, stray=True)], True),
            ("another product", [Item("coffee", 1, None)], False),
            ("several other products", [Item("coffee", 1, None), Item("tea", 1, None)], False),
            ("nothing", [], False),
        ),
    )
    def test_counts_when_any_item_says_something_about_access(self, items: list[Item], counts: bool) -> None:
        assert Subscription("sub_1", "active", tuple(items)).counts is counts

    @pytest.mark.parametrize(
        ("status", "ended"),
        [
            ("canceled", True),
            ("incomplete_expired", True),
            *((each, False) for each in ("active", "trialing", "past_due", "unpaid", "incomplete", "paused", "new")),
        ],
    )
    def test_has_ended_when_nobody_can_be_billed_for_it_any_more(self, status: str, ended: bool) -> None:
        assert Subscription("sub_1", status, ()).ended is ended

    def test_and_purchase_do_not_know_when_they_were_bought_unless_somebody_says_so(self) -> None:
        assert (Subscription("sub_1", "active", ()).created, Purchase("cs_1", "paid", ()).created) == (None, None)


class TestInvitation:
    VALIDITY = 7 * DAY
    # Made as long ago as a temporary password lives, and never signed in.
    WAITING = User(True, linked=True, enabled=True, created_at=NOW - VALIDITY, invited=True)

    @pytest.mark.parametrize(
        ("invitation", "payment", "due"),
        table(
            ("expired, and paid", Invitation(), "in_1", True),
            ("expired, and nothing paid", Invitation(), None, False),
            ("expired, and this payment was answered", Invitation(paid_by="in_1"), "in_1", False),
            ("expired, and another payment was answered", Invitation(paid_by="in_1"), "in_2", True),
            ("sent again, and not expired", Invitation(NOW - VALIDITY + 1, 1, "in_1"), "in_2", False),
            ("sent again, and expired", Invitation(NOW - VALIDITY, 1, "in_1"), "in_2", True),
            ("sent again, expired, and nothing new paid", Invitation(NOW - VALIDITY, 1, "in_1"), "in_1", False),
            ("sent again twice, and expired", Invitation(NOW - VALIDITY, 2, "in_1"), "in_2", True),
            ("sent again three times", Invitation(NOW - VALIDITY, 3, "in_1"), "in_2", False),
            ("did not leave, too early", Invitation(retry_at=NOW + 1), None, False),
            (
                "did not leave, too early, though paid again",
                Invitation(paid_by="in_1", retry_at=NOW + 1),
                "in_2",
                False,
            ),
            ("did not leave, in time", Invitation(retry_at=NOW), None, True),
            ("did not leave, in time, though not expired", Invitation(NOW, 1, "in_1", retry_at=NOW), "in_1", True),
            ("did not leave twice", Invitation(NOW - 1, 2, "in_1", retry_at=NOW), None, True),
            ("did not leave three times", Invitation(NOW - 1, 3, "in_1", retry_at=NOW), None, False),
            ("more often than that", Invitation(NOW - 1, 4, "in_1", retry_at=NOW), "in_2", False),
        ),
    )
    def test_is_due_when_it_did_not_leave_or_expired_and_was_paid_for_again(
        self, invitation: Invitation, payment: str | None, due: bool
    ) -> None:
        assert invitation_due(self.WAITING, invitation, NOW, self.VALIDITY, payment) is due

    @pytest.mark.parametrize("invitation", [Invitation(), Invitation(retry_at=NOW)])
    @pytest.mark.parametrize(
        "user",
        [
            replace(WAITING, enabled=False),
            replace(WAITING, invited=False),
            replace(WAITING, enabled=False, invited=False),
        ],
        ids=["disabled", "signed in", "disabled after signing in"],
    )
    def test_of_nobody_but_an_enabled_user_who_never_signed_in_is_due(self, user: User, invitation: Invitation) -> None:
        assert invitation_due(user, invitation, NOW, self.VALIDITY, "in_1") is False

    def test_of_the_creation_expires_with_its_password(self) -> None:
        younger = replace(self.WAITING, created_at=self.WAITING.created_at + 1)
        assert invitation_due(younger, Invitation(), NOW, self.VALIDITY, "in_1") is False
        assert invitation_due(younger, Invitation(), NOW + 1, self.VALIDITY, "in_1") is True


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
NAMES = st.sampled_from(["sub_1", "sub_2", "cs_1", "cus_1"])


def items(
    dapps: st.SearchStrategy[str | None],
    quantities: st.SearchStrategy[int | None],
    divide_by: st.SearchStrategy[int],
    strays: st.SearchStrategy[bool],
) -> st.SearchStrategy[Any]:
    each = st.builds(Item, st.just("price_1"), quantities, dapps, divide_by, st.booleans(), strays)
    return st.lists(each, max_size=3).map(tuple)


def subscriptions(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Subscription]]:
    """At most one of each name: Stripe's ids are unique."""
    each = st.builds(
        Subscription,
        st.sampled_from(["sub_1", "sub_2", "sub_3"]),
        STATUSES,
        of,
        trial_end=MOMENTS,
        ends_at=MOMENTS,
        ended_for_nonpayment=st.booleans(),
        period_start=MOMENTS,
        period_end=MOMENTS,
        first_unpaid=MOMENTS,
        pause=st.sampled_from(["", "void", "keep_as_draft", "mark_uncollectible", "new behavior"]),
        period_unpaid=st.booleans(),
        written_off=st.booleans(),
        settled=st.booleans(),
    )
    return st.lists(each, max_size=3, unique_by=lambda one: one.id)


def purchases(of: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Purchase]]:
    statuses = st.sampled_from(["paid", "fulfilled", "canceled", "returned", "created", "open", "session", ""])
    each = st.builds(Purchase, st.sampled_from(["cs_1", "or_1"]), statuses, of)
    return st.lists(each, max_size=2, unique_by=lambda one: one.id)


ANY_ITEMS = items(st.none() | READABLE | st.text(max_size=12), QUANTITIES, st.integers(-1, 30), st.booleans())
READABLE_ITEMS = items(st.none() | READABLE, st.integers(0, 20), st.integers(1, 30), st.just(False))
POLICIES = st.builds(
    Policy,
    st.integers(0, 60 * DAY),
    st.integers(0, 10**6),
    **dict.fromkeys(("written_off", "paused_collection", *MARK_KINDS), st.sampled_from(REACTIONS)),
)
GRANTED = st.none() | st.dictionaries(NAMES, st.integers(0, 10**6))
OF_A_CHARGE = st.builds(Mark, st.just("m_1"), st.sampled_from(TestMark.OF_A_CHARGE), NAMES, MOMENTS)
OF_A_CUSTOMER = st.builds(Mark, st.just("cus_1"), st.just("customer_deleted"), NAMES)
MARKS = st.lists(OF_A_CHARGE | OF_A_CUSTOMER, max_size=3)


@given(subscriptions(ANY_ITEMS), purchases(ANY_ITEMS), POLICIES, GRANTED, MARKS)
def test_any_input_has_an_answer_within_bounds(
    subs: list[Subscription],
    bought: list[Purchase],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
) -> None:
    access = decide(iter(subs), iter(bought), NOW, policy, granted, iter(marks))
    assert 0 <= access.dapp_limit <= policy.max_dapps
    assert access.reason
    assert access.alarms == tuple(sorted(set(access.alarms)))
    assert access.recheck_at is None or access.recheck_at > NOW
    match access.wanted:
        case True:
            assert access.status in ("ACTIVE", "LAPSED")
            assert access.units
        case False:
            assert (access.dapp_limit, access.units) == (0, {})
            assert access.status in ("LAPSED", "FAILED", "CANCELLED")
        case None:
            assert (access.dapp_limit, access.status, access.units) == (0, "LAPSED", granted or {})


@given(
    subscriptions(ANY_ITEMS),
    purchases(ANY_ITEMS),
    POLICIES,
    GRANTED,
    MARKS,
    st.sampled_from(
        [subscription("on_vacation", name="sub_x"), subscription("past_due", name="sub_x"), stray(name="sub_x")]
    ),
)
def test_nothing_is_lowered_while_something_alive_cannot_be_told(
    subs: list[Subscription],
    bought: list[Purchase],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
    alive: Subscription,
) -> None:
    certain = decide(subs, bought, NOW, policy, granted, marks)
    access = decide([*subs, alive], bought, NOW, policy, granted, marks)
    assume(policy.grace > 0)
    assert access.wanted is (True if certain.wanted else None)
    if access.wanted:
        assert access.dapp_limit == max(certain.dapp_limit, min(policy.max_dapps, sum((granted or {}).values())))


@given(subscriptions(ANY_ITEMS), purchases(ANY_ITEMS), POLICIES, GRANTED, MARKS, st.randoms(use_true_random=False))
def test_the_order_of_the_inputs_does_not_matter(
    subs: list[Subscription],
    bought: list[Purchase],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
    random: Any,
) -> None:
    first = decide(subs, bought, NOW, policy, granted, marks)
    shuffled = random.sample(subs, len(subs)), random.sample(bought, len(bought))
    second = decide(*shuffled, NOW, policy, granted, random.sample(marks, len(marks)))
    for name in ("wanted", "status", "dapp_limit", "recheck_at", "alarms", "units"):
        assert getattr(first, name) == getattr(second, name), name


@given(subscriptions(READABLE_ITEMS), POLICIES, GRANTED, MARKS, st.integers(0, 100 * DAY))
def test_the_answer_changes_at_recheck_at_and_never_before(
    subs: list[Subscription],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
    later: int,
) -> None:
    first = decide(subs, [], NOW, policy, granted, marks)
    # What cannot be told is looked at an hour from now, whenever now is.
    assume(not any("no invoice is open" in alarm for alarm in first.alarms))
    moment = NOW + later if first.recheck_at is None else min(NOW + later, first.recheck_at - 1)
    second = decide(subs, [], moment, policy, granted, marks)
    for name in ("wanted", "status", "dapp_limit", "recheck_at"):
        assert getattr(first, name) == getattr(second, name), name


@given(subscriptions(ANY_ITEMS), purchases(ANY_ITEMS), POLICIES, GRANTED, MARKS)
def test_the_next_look_says_the_same_unless_it_took_access(
    subs: list[Subscription],
    bought: list[Purchase],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
) -> None:
    first = decide(subs, bought, NOW, policy, granted, marks)
    assume(first.wanted is not False)
    assert decide(subs, bought, NOW, policy, first.units, marks) == first


@given(subscriptions(READABLE_ITEMS), purchases(READABLE_ITEMS), POLICIES, GRANTED, MARKS)
def test_a_mark_never_gives_anything(
    subs: list[Subscription],
    bought: list[Purchase],
    policy: Policy,
    granted: dict[str, int] | None,
    marks: list[Mark],
) -> None:
    without = decide(subs, bought, NOW, policy, granted)
    access = decide(subs, bought, NOW, policy, granted, marks)
    assert access.wanted is not True or without.wanted is True
    assert access.dapp_limit <= without.dapp_limit
