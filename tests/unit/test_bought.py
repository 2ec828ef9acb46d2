"""gateway.bought, gateway.remains: what parties bought, what a deletion leaves of it, and what is still to be done."""

from dataclasses import replace
from typing import Any

import pytest

from gateway import events
from gateway.access import Item, Mark, Policy, Purchase, Subscription
from gateway.billing import Customer
from gateway.bought import Bought, access_of, bought, customer_of, left_over
from gateway.errors import BillingIncomplete
from gateway.ledger import Party
from gateway.pages import BURIAL, personal_orders
from gateway.people import Account
from gateway.remains import Remains, remains, unheard_of
from tests.unit.operators import OTHER_PRODUCT, Stripe, subscription
from tests.unit.steps import EMAIL, NOW, Steps

POLICY = Policy(grace=3_600, max_dapps=1_000)
ONCE = events.Purchase("cs_1", "session", 0, ())


def paid(created: int | None, status: str = "paid") -> Purchase:
    return Purchase("cs_1", status, (Item("price_once", 1, "3"),), created)


def found(*given: Subscription | Purchase, deleted_at: int | None = NOW) -> Bought:
    party = Party("cus_1", deleted_at=deleted_at)
    subscriptions = tuple(each for each in given if isinstance(each, Subscription))
    return Bought(party, EMAIL, True, subscriptions, tuple(each for each in given if isinstance(each, Purchase)), ())


class TestBought:
    def test_of_a_customer_is_everything_and_its_marks(self) -> None:
        stripe = Stripe(purchases={"cs_1": paid(NOW)}, marks={"ch_1": Mark("ch_1", "refunded", "sub_1", NOW + 9)})
        stripe.subscribes("cus_1", subscription(), email=" Payer@Example.COM ")
        known = events.Mark("ch_1", "refund", "ch_1", "sub_1", NOW + 9)
        party = Party("cus_1", purchases=(ONCE,), marks=(known,))
        marks = (Mark("ch_1", "refunded", "sub_1", NOW + 9),)
        assert bought(party, stripe, NOW) == Bought(party, EMAIL, True, (subscription(),), (paid(NOW),), marks)  # type: ignore[arg-type]

    def test_of_a_guest_needs_no_customer(self) -> None:
        party = Party("cs_1", email=EMAIL, purchases=(ONCE,))
        stripe = Stripe(purchases={"cs_1": paid(NOW)})
        assert bought(party, stripe, NOW) == Bought(party, EMAIL, False, (), (paid(NOW),), ())  # type: ignore[arg-type]

    @pytest.mark.parametrize("email", [None, "no address"])
    def test_keeps_no_address_that_nobody_can_have(self, email: str | None) -> None:
        stripe = Stripe()
        stripe.subscribes("cus_1", email=email)
        seen = bought(Party("cus_1"), stripe, NOW)  # type: ignore[arg-type]
        assert (seen.email, seen.subscribed) == (None, False)

    def test_of_a_deleted_customer_has_a_mark_on_all_of_it(self) -> None:
        stripe = Stripe(purchases={"cs_1": paid(NOW)})
        stripe.customers["cus_1"] = Customer("cus_1", None, True, (subscription(),))
        seen = bought(Party("cus_1", purchases=(ONCE,)), stripe, NOW)  # type: ignore[arg-type]
        marks = [(each.id, each.kind, each.of) for each in seen.marks]  # type: ignore[attr-defined]
        assert marks == [("cus_1", "customer_deleted", of) for of in ("cus_1", "sub_1", "cs_1")]

    @pytest.mark.parametrize(
        ("deleted_at", "given", "since", "all_before"),
        [
            (None, [subscription(created=NOW - 1)], 1, False),
            (None, [], 0, False),
            (NOW, [], 0, True),
            (NOW, [subscription(created=NOW), paid(NOW)], 0, True),
            (NOW, [subscription(created=NOW), paid(NOW + 1)], 1, False),
            (NOW, [subscription(created=NOW + 1), paid(NOW)], 1, False),
            (NOW, [subscription(created=None), paid(None)], 0, True),
            # A session that may still be paid keeps what is known of its buyer.
            (NOW, [paid(NOW - 1, "open")], 0, False),
            (NOW, [paid(NOW - 1, "unpaid")], 0, True),
        ],
    )
    def test_before_a_deletion_counts_no_more(
        self, deleted_at: int | None, given: list[Any], since: int, all_before: bool
    ) -> None:
        seen = found(*given, deleted_at=deleted_at)
        left = seen.since_deletion
        assert len(left.subscriptions) + len(left.purchases) == since
        assert (left.party, left.email, seen.all_before_deletion) == (seen.party, seen.email, all_before)

    def test_gives_access_only_for_what_came_after(self) -> None:
        both = found(subscription(created=NOW), subscription("sub_2", created=NOW + 1))
        assert access_of([both], NOW, POLICY, None).units == {"sub_2": 5}
        other = replace(found(subscription("sub_3"), deleted_at=None), party=Party("cus_2"))
        assert access_of([both, other], NOW, POLICY, None).units == {"sub_2": 5, "sub_3": 5}


@pytest.mark.parametrize(
    ("subscribed", "customer", "incomplete"),
    [
        (True, Customer("cus_1", EMAIL, False, ()), True),
        (False, Customer("cus_1", EMAIL, False, ()), False),
        (True, Customer("cus_1", None, True, ()), False),
        (True, Customer("cus_1", EMAIL, False, (subscription(),)), False),
    ],
)
def test_a_customer_who_had_a_subscription_has_one_or_was_deleted(
    subscribed: bool, customer: Customer, incomplete: bool
) -> None:
    party, stripe = Party("cus_1", subscribed=subscribed), Stripe(customers={"cus_1": customer})
    if incomplete:
        with pytest.raises(BillingIncomplete, match="no subscription of cus_1, which had one"):
            customer_of(party, stripe)  # type: ignore[arg-type]
    else:
        assert customer_of(party, stripe) == customer  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("deleted_at", "given", "left"),
    [
        (NOW, subscription(created=NOW), True),
        (NOW, subscription(created=None), True),
        (NOW, subscription(created=NOW + 1), False),
        (None, subscription(created=NOW), False),
        (NOW, subscription(status="past_due", created=NOW), True),
        (NOW, subscription(status="canceled", created=NOW), False),
        (NOW, subscription(status="incomplete_expired", created=NOW), False),
        (NOW, replace(OTHER_PRODUCT, created=NOW), False),
    ],
)
def test_what_is_left_over_is_ours_still_billed_and_bought_before(
    deleted_at: int | None, given: Subscription, left: bool
) -> None:
    assert left_over([given], deleted_at) == [given] * left


# ------------------------------------------------------------------ what remains of an account


class TestRemains:
    NOTHING = Remains((), (), False, 0, 0, False)

    def look(self, steps: Steps, stripe: Stripe, *parties: str, sub: str | None = None, **given: Any) -> Remains:
        deleted_at = given.get("deleted_at", NOW)
        billing: Any = stripe
        return remains(frozenset(parties), sub, deleted_at, steps.ledger, steps.users, billing, NOW + 5)

    def test_of_nobody_is_nothing(self, steps: Steps) -> None:
        assert self.look(steps, Stripe()) == self.NOTHING
        assert self.NOTHING.personal is False

    @pytest.mark.parametrize("deleted_at", [NOW, None])
    def test_is_what_is_billed_and_other_products_apart(self, steps: Steps, deleted_at: int | None) -> None:
        stripe = Stripe()
        mine = subscription(created=NOW - 1)
        stripe.subscribes("cus_1", mine, OTHER_PRODUCT, subscription("sub_x", "canceled", created=NOW - 1))
        seen = self.look(steps, stripe, "cus_1", "cs_9", deleted_at=deleted_at)
        assert (seen.subscriptions, seen.others, seen.renewed) == (("sub_1",), ("sub_other",), ())

    def test_names_who_bought_again(self, steps: Steps) -> None:
        stripe = Stripe()
        stripe.subscribes("cus_1", subscription(created=NOW), subscription("sub_2", created=NOW + 1))
        stripe.subscribes("cus_2", subscription("sub_3", created=NOW), replace(OTHER_PRODUCT, created=NOW + 1))
        seen = self.look(steps, stripe, "cus_1", "cus_2")
        assert (seen.subscriptions, seen.renewed) == (("sub_1", "sub_3"), ("cus_1",))

    def test_is_the_user_while_there_is_one(self, steps: Steps) -> None:
        sub = str(steps.buyer().sub)
        stripe = Stripe()
        for there in (True, False):
            assert self.look(steps, stripe, sub=sub).user is there
            steps.users.delete(sub)

    def test_is_the_person_until_they_are_erased(self, steps: Steps) -> None:
        steps.ledger.link(["cs_1"], "u-1", replacing=None)
        assert self.look(steps, Stripe(), sub="u-1").person is True
        assert self.look(steps, Stripe(), sub="u-2").person is False
        steps.ledger.erase_person("u-1", NOW)
        assert self.look(steps, Stripe(), sub="u-1") == self.NOTHING

    @pytest.mark.parametrize(
        ("deleted_at", "deleting", "email", "parties"),
        [(NOW, True, None, 1), (NOW, False, EMAIL, 0), (None, False, EMAIL, 1), (None, False, None, 0)],
    )
    def test_is_a_party_while_it_is_being_deleted(
        self, steps: Steps, deleted_at: int | None, deleting: bool, email: str | None, parties: int
    ) -> None:
        """One that bought again since is known for good reason; before a deletion, all that have an address."""
        if email:
            steps.ledger.claim_email("cs_1", email)
        if deleting:
            steps.ledger.bury("cs_1", NOW, "t1", deleting=True)
        assert self.look(steps, Stripe(), "cs_1", deleted_at=deleted_at).parties == parties

    @pytest.mark.parametrize(
        ("at", "facts", "personal"),
        [
            (NOW, {}, True),
            (NOW + BURIAL, {}, True),
            (NOW + BURIAL + 1, {}, False),
            (NOW, {"email": None}, False),
            (NOW, {"email": None, "name": "Pat"}, True),
            (NOW, {"email": None, "metadata": {"a": "b"}}, True),
        ],
    )
    def test_is_every_order_that_says_something_of_a_person_until_the_burial(
        self, steps: Steps, at: int, facts: dict[str, Any], personal: bool
    ) -> None:
        steps.record(at=at, customer_id=None, order_id="cs_1", **facts)
        assert personal_orders(steps.ledger.party("cs_1"), steps.ledger, NOW) == ["evt_1"] * personal
        assert self.look(steps, Stripe(), "cs_1").personal is personal


def test_customers_of_whom_only_stripe_has_heard_belong_to_an_address(steps: Steps) -> None:
    """Unless they are another user's, or the account's already, or were deleted before."""
    stripe: Any = Stripe()
    for name in ("cus_new", "cus_mine", "cus_other", "cus_linked", "cus_buried"):
        stripe.subscribes(name)
    stripe.subscribes("cus_elsewhere", email="other@example.com")
    steps.ledger.link(["cus_linked"], "u-2", replacing=None)
    steps.ledger.bury("cus_buried", NOW, "t1", deleting=False)
    account = Account(EMAIL, steps.buyer(), frozenset({"cus_mine"}), elsewhere=frozenset({"cus_other"}))
    assert unheard_of(account, steps.ledger, stripe) == {"cus_new"}
