"""gateway.differences: who really differs, on a real ledger and pool in moto; and that this is what a run would change.

Stripe is a fake with memory. The second half asks the real machine, in every world of a small domain.
"""

import copy
import itertools
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from gateway import differences as under_test
from gateway import events
from gateway.access import Before, Item, Live, Mark, Policy, Purchase, User, decide
from gateway.billing import Customer
from gateway.differences import Difference, Differences
from gateway.drift import Kind, subscription_suspect, user_suspect
from gateway.errors import (
    CognitoThrottled,
    GatewayError,
    LedgerThrottled,
    StripeThrottled,
    StripeUnavailable,
)
from gateway.ledger import ATTEMPT_SECONDS, Ledger, Party, Person
from gateway.telemetry import metrics
from gateway.users import Listed, ListedUsers
from tests.unit.operators import THROTTLED, Client, Stripe, subscription
from tests.unit.steps import EMAIL, Clock, Steps, module
from tests.workflow.machine import (
    EMAIL as BUYER,
)
from tests.workflow.machine import (
    FULFILLMENT,
    LONG_AGO,
    FakeBilling,
    FakeLedger,
    FakeUsers,
    World,
    _adapters,
    _holds,
)

POLICY = Policy(grace=3 * 86_400, max_dapps=1_000)
BAN = {"reason": "spam", "requested_by": "jo", "at": 1}
GONE = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


class Everything:
    """A ledger, a pool and Stripe; what is looked at goes through clients that count. `before`: all rows and users,
    which a look must not change."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.stripe, self.clock = steps, Stripe(), steps.clock
        self.ledger, self.users = steps.ledger, steps.users
        self.table, self.pool = Client(steps.dynamodb), Client(steps.cognito)

    def differences(self, *, govern: bool = False) -> Differences:
        ledger, users = Ledger(self.table, "orders"), ListedUsers(self.pool, self.steps.pool_id)
        return Differences(ledger, self.stripe, users, POLICY, govern=govern)  # type: ignore[arg-type]

    def of_party(self, name: str = "cus_1", *, govern: bool = False) -> Difference | None:
        return self.differences(govern=govern).of_party(name)

    def of_user(self, sub: str) -> Difference | None:
        """Of a user as they are on a page of the pool."""
        rows, _ = ListedUsers(self.steps.cognito, self.steps.pool_id).page(None)
        (listed,) = [each for each in rows if each.user.sub == sub]
        return self.differences().of_user(listed, self.ledger.person(sub))

    def settled(self, *parties: str, provider: str = "STRIPE") -> str:
        """A user who pays for five dapps, as a run leaves them; their sub."""
        sub = str(self.steps.buyer(EMAIL, *parties, provider=provider).sub)
        self.stripe.subscribes("cus_1", subscription())
        self.ledger.set_live(sub, Live(True, 5), 1)
        self.ledger.settle(sub, read_at=1, recheck_at=None, granted={"sub_1": 5})
        return sub

    def lapsed(self) -> str:
        """The same of one who pays no more."""
        sub = self.settled()
        self.stripe.subscribes("cus_1", subscription(status="canceled"))
        self.users.update(sub, dapp_limit=0, payment_status="CANCELLED", disabled_by="billing")
        self.users.disable(sub)
        self.ledger.set_live(sub, Live(), 1)
        self.ledger.settle(sub, read_at=1, recheck_at=None, granted={})
        return sub

    def adopted(self) -> str:
        """A user who was there before they bought, and pays for five dapps, as a run leaves them."""
        sub, _ = self.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id=None)
        self.steps.write(sub, **{"custom:payment_provider": ""})
        had = {"enabled": True, "dapp_limit": 2, "payment_status": "OLD"}
        self.ledger.link(["cus_1"], sub, replacing=None, before=had)
        self.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        self.ledger.set_live(sub, Live(True, 5), 1)
        self.stripe.subscribes("cus_1", subscription())
        return sub

    def of_lost_link(self, name: str, sub: str) -> Difference | None:
        return self.differences().of_lost_link(name, sub)

    def drop(self, pk: str, sk: str) -> None:
        self.steps.dynamodb.delete_item(TableName="orders", Key={"pk": {"S": pk}, "sk": {"S": sk}})

    def everything(self) -> list[str]:
        """All rows of the table and all users."""
        rows = self.steps.dynamodb.scan(TableName="orders", ConsistentRead=True)["Items"]
        users = self.steps.cognito.list_users(UserPoolId=self.steps.pool_id)["Users"]
        return sorted(map(repr, [*rows, *users]))


@pytest.fixture
def world(steps: Steps, monkeypatch: pytest.MonkeyPatch) -> Everything:
    monkeypatch.setattr(under_test, "time", steps.clock)
    return Everything(steps)


@pytest.fixture
def unclear(counted: Callable[[], dict[str, float]]) -> Callable[[], float]:
    """How many people were left as they are, because nobody can tell."""

    def found() -> float:
        if metrics.metric_set:
            metrics.flush_metrics()
        return counted().get("DriftUnclear", 0)

    return found


def test_a_difference_is_about_a_user_or_else_a_party_and_can_be_kept() -> None:
    found = Difference("wrong_limit", "cus_1", "u-1", disables=False)
    assert found.subject == "u-1"
    assert replace(found, sub=None).subject == "cus_1"
    assert found.row() == {
        "kind": "wrong_limit",
        "party": "cus_1",
        "sub": "u-1",
        "disables": False,
        "relink": False,
        "replacing": None,
    }


# ------------------------------------------------------------------ of a party

Deed = Callable[[Everything, str], object]


def cancel(world: Everything, sub: str) -> None:
    world.stripe.subscribes("cus_1", subscription(status="canceled"))


def buy_more(world: Everything, sub: str) -> None:
    world.stripe.subscribes("cus_1", subscription(), subscription("sub_2"))


def disable_by_billing(world: Everything, sub: str) -> None:
    world.users.update(sub, disabled_by="billing")
    world.users.disable(sub)


def delete(world: Everything, sub: str) -> None:
    world.users.delete(sub)


def delete_and_cancel(world: Everything, sub: str) -> None:
    delete(world, sub)
    cancel(world, sub)


def hold(world: Everything, sub: str) -> None:
    world.ledger.hold(sub, BAN)


def disable_by_hand(world: Everything, sub: str) -> None:
    world.users.disable(sub)


def comp(world: Everything, sub: str) -> None:
    world.steps.write(sub, **{"custom:payment_provider": "ADMIN", "custom:num_dapps": "40"})


DEEDS: list[tuple[Deed, Kind, bool]] = [
    (cancel, "access_without_payment", True),
    (delete_and_cancel, "access_without_payment", True),
    (buy_more, "wrong_limit", False),
    (comp, "wrong_limit", False),
    (lambda world, sub: world.users.update(sub, dapp_limit=4), "wrong_limit", False),
    (lambda world, sub: world.users.update(sub, payment_status="LAPSED"), "wrong_limit", False),
    (lambda world, sub: world.ledger.set_live(sub, Live(True, 4), 1), "wrong_limit", False),
    (lambda world, sub: world.ledger.set_live(sub, Live(), 1), "paid_without_access", False),
    (disable_by_billing, "paid_without_access", False),
    (delete, "user_deleted", False),
    (hold, "hold_lost", True),
    (disable_by_hand, "hold_lost", True),
]


class TestOfParty:
    def test_is_none_of_who_has_what_they_pay_for(self, world: Everything) -> None:
        world.settled()
        assert world.of_party() is None

    def test_is_none_of_who_has_nothing_and_pays_nothing(self, world: Everything) -> None:
        world.lapsed()
        assert world.of_party() is None

    @pytest.mark.parametrize(("deed", "kind", "disables"), DEEDS)
    def test_is_what_a_run_would_change(self, world: Everything, deed: Deed, kind: Kind, disables: bool) -> None:
        sub = world.settled()
        deed(world, sub)
        assert world.of_party() == Difference(kind, "cus_1", sub, disables)

    def test_of_a_lapsed_user_is_that_they_can_sign_in_or_pay_again(self, world: Everything) -> None:
        sub = world.lapsed()
        world.users.enable(sub)
        assert world.of_party() == Difference("access_without_payment", "cus_1", sub, disables=True)
        world.users.disable(sub)
        world.stripe.subscribes("cus_1", subscription())
        assert world.of_party() == Difference("paid_without_access", "cus_1", sub, disables=False)

    def test_takes_nothing_from_who_has_nothing(self, world: Everything) -> None:
        sub = world.lapsed()
        world.users.update(sub, dapp_limit=5)
        assert world.of_party() == Difference("wrong_limit", "cus_1", sub, disables=False)

    @pytest.mark.parametrize("known", [True, False])
    def test_of_who_has_no_user_has_only_the_party(self, world: Everything, known: bool) -> None:
        """Whether the ledger has heard of the customer or not."""
        world.stripe.subscribes("cus_1", subscription())
        if known:
            world.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        found = world.of_party()
        assert found == Difference("paid_without_access", "cus_1", None, disables=False)
        assert found.subject == "cus_1"

    def test_of_who_has_another_users_address_is_about_the_party(self, world: Everything) -> None:
        """Both sides find them, and both must find the same."""
        sub, _ = world.users.create(EMAIL, dapp_limit=2, payment_status="", customer_id=None)
        world.steps.write(sub, **{"custom:payment_provider": ""})
        world.stripe.subscribes("cus_1", subscription())
        assert world.of_party() == Difference("paid_without_access", "cus_1", None, disables=False)

    def test_of_a_killed_run_is_the_link_it_left_out(self, world: Everything) -> None:
        sub, _ = world.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        world.ledger.claim_email("cus_1", EMAIL)
        world.stripe.subscribes("cus_1", subscription())
        assert world.of_party() == Difference("orphaned_link", "cus_1", None, disables=False)
        world.stripe.subscribes("cus_1", subscription(status="canceled"))
        assert world.of_party() == Difference("access_without_payment", "cus_1", None, disables=True)
        disable_by_billing(world, sub)
        assert world.of_party() is None

    @pytest.mark.parametrize(("govern", "found"), [(False, None), (True, "access_without_payment")])
    def test_of_an_adopted_user_who_was_put_back_depends_on_the_operator(
        self, world: Everything, govern: bool, found: Kind | None
    ) -> None:
        sub = world.adopted()
        assert world.of_party(govern=govern) is None
        cancel(world, sub)
        assert world.of_party(govern=govern) == Difference("access_without_payment", "cus_1", sub, disables=True)
        world.users.update(sub, dapp_limit=2, payment_status="OLD")
        world.ledger.set_live(sub, Live(), 1)
        again = world.of_party(govern=govern)
        assert (again.kind if again is not None else None) == found

    @pytest.mark.parametrize("granted", [{"sub_1": 3}, {"sub_1": 5}, {}])
    def test_knows_what_was_given_last(self, world: Everything, granted: dict[str, int]) -> None:
        """In grace nobody gets more than they had."""
        sub = world.settled()
        world.stripe.subscribes("cus_1", subscription(status="past_due", first_unpaid=int(world.clock.now)))
        world.ledger.settle(sub, read_at=2, recheck_at=None, granted=granted)
        limit = granted.get("sub_1", 5)
        world.users.update(sub, dapp_limit=limit, payment_status="LAPSED")
        world.ledger.set_live(sub, Live(True, limit), 1)
        assert world.of_party() is None

    def test_of_a_limit_of_nothing_takes_access_away(self, world: Everything) -> None:
        """A mapping that was mistyped must not take it from everybody at once."""
        sub = world.settled()
        world.stripe.subscribes("cus_1", replace(subscription(), items=(Item("price_1", 5, "0"),)))
        assert world.of_party() == Difference("wrong_limit", "cus_1", sub, disables=True)
        world.users.update(sub, dapp_limit=0)
        assert world.of_party() == Difference("wrong_limit", "cus_1", sub, disables=False)

    def test_of_a_limit_of_nothing_takes_no_access_from_who_has_none(self, world: Everything) -> None:
        """They get back what they have paid for, which is nothing."""
        sub = world.settled()
        disable_by_billing(world, sub)
        world.stripe.subscribes("cus_1", replace(subscription(), items=(Item("price_1", 5, "0"),)))
        found = world.of_party()
        assert found is not None
        assert (found.sub, found.disables) == (sub, False)

    def test_of_another_customer_of_somebody_is_no_lost_link(self, world: Everything) -> None:
        world.settled()
        world.stripe.subscribes("cus_2", subscription("sub_2"))
        assert world.of_party("cus_2") == Difference("paid_without_access", "cus_2", None, disables=False)

    @pytest.mark.parametrize("ours", [True, False])
    def test_of_who_is_linked_to_a_person_that_is_lost_is_to_be_linked_again(
        self, world: Everything, ours: bool
    ) -> None:
        """How an adopted user stood is lost as well: what is to become of them only an operator can tell."""
        sub = world.settled() if ours else world.adopted()
        world.drop(f"PERSON#{sub}", "PERSON")
        party = "cus_1" if ours else None
        assert world.of_party() == Difference("orphaned_link", party, sub, disables=False, relink=ours)

    def test_of_a_party_that_lost_its_link_is_to_be_linked_again(self, world: Everything) -> None:
        sub = world.settled()
        world.drop("PARTY#cus_1", "PARTY")
        assert world.of_lost_link("cus_1", sub) == Difference(
            "orphaned_link", "cus_1", sub, disables=False, relink=True
        )
        world.stripe.subscribes("cus_1", subscription(status="canceled"))
        found = world.of_lost_link("cus_1", sub)
        assert found == Difference("orphaned_link", "cus_1", sub, disables=True, relink=True)
        assert found.subject == "cus_1"
        world.users.delete(sub)
        assert world.of_lost_link("cus_1", sub) is None

    def test_of_a_lost_link_whose_customer_stripe_does_not_know_is_none(
        self, world: Everything, unclear: Callable[[], float]
    ) -> None:
        sub = world.settled()
        world.stripe.customers.clear()
        assert world.of_lost_link("cus_1", sub) is None
        assert unclear() == 1

    def test_is_about_all_of_a_persons_parties(self, world: Everything) -> None:
        sub = world.settled("cus_1", "cus_2", "cs_3")
        world.stripe.subscribes("cus_2", subscription("sub_2", "canceled"))
        for name in ("cus_1", "cus_2", "cs_3"):
            assert world.of_party(name) is None
        world.stripe.subscribes("cus_2", subscription("sub_2"))
        for name in ("cus_1", "cus_2", "cs_3"):
            assert world.of_party(name) == Difference("wrong_limit", name, sub, disables=False)

    def test_knows_one_time_orders_and_what_speaks_against_a_charge(self, world: Everything) -> None:
        sub = world.settled()
        bought = events.Purchase("cs_7", "session", 0, ())
        world.ledger.remember_purchase(replace(steps_order(), order_id="cs_7", purchase=bought))
        world.stripe.purchases["cs_7"] = Purchase("cs_7", "paid", subscription().items)
        assert world.of_party() == Difference("wrong_limit", "cus_1", sub, disables=False)
        world.stripe.purchases["cs_7"] = Purchase("cs_7", "open", ())
        assert world.of_party() is None
        world.ledger.remember_mark("cus_1", events.Mark("re_1", "refund", "ch_1", "sub_1", None))
        world.stripe.marks["re_1"] = Mark("re_1", "refunded", "sub_1")
        assert world.of_party() == Difference("access_without_payment", "cus_1", sub, disables=True)

    @pytest.mark.parametrize("stripes", [None, "other@example.com"])
    def test_finds_a_user_by_the_address_that_stripe_has_now_or_had(
        self, world: Everything, stripes: str | None
    ) -> None:
        """An address that cannot be used is none; then the last one that could counts."""
        sub, _ = world.users.create(stripes or EMAIL, dapp_limit=2, payment_status="", customer_id=None)
        world.steps.write(sub, **{"custom:payment_provider": ""})
        world.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        world.stripe.subscribes("cus_1", subscription(), email=stripes)
        found = world.of_party()
        assert found == Difference("paid_without_access", "cus_1", None, disables=False)
        assert found.subject == "cus_1"


def steps_order() -> events.Order:
    """An order of cus_1."""
    return events.recheck("cus_1", "cus_1", 1, livemode=False)


class TestLeftAlone:
    """Who is looked at by somebody else, or about whom nobody can tell."""

    @pytest.mark.parametrize("party", ["cus_1", "cus_2"])
    def test_is_whom_an_open_order_is_about(self, world: Everything, party: str) -> None:
        """It is run, or will be run again, however long that takes."""
        cancel(world, world.settled("cus_1", "cus_2"))
        world.stripe.subscribes("cus_2", subscription("sub_2", "canceled"))
        now = int(world.clock.now)
        world.steps.record(customer_id=party)
        for later in (0, ATTEMPT_SECONDS, 30 * 86_400):
            world.clock.now = now + later
            assert (world.of_party("cus_1"), world.of_party("cus_2")) == (None, None)
        world.ledger.fail("evt_1", execution="arn:run", error="no", retry_at=now)
        assert (world.of_party("cus_1"), world.of_party("cus_2")) == (None, None)
        world.ledger.close("evt_1", now, execution="arn:run", outcome="unchanged", reason="sub_1 active")
        assert world.of_party("cus_1") is not None
        assert world.of_party("cus_2") is not None

    def test_is_not_whose_order_cannot_be_run(self, world: Everything) -> None:
        """Nobody will ever look at it again."""
        cancel(world, world.settled())
        world.ledger.record(replace(steps_order(), order_id="in_1"), int(world.clock.now), problem="UnusableEvent: no")
        assert world.of_party() is not None

    def test_is_whose_account_is_being_deleted_or_was(self, world: Everything) -> None:
        sub = world.settled()
        cancel(world, sub)
        assert world.of_party() is not None
        world.ledger.bury_person(sub, int(world.clock.now))
        assert world.of_party() is None

    @pytest.mark.parametrize("deleting", [True, False])
    def test_is_a_party_whose_account_is_being_deleted_or_was(self, world: Everything, deleting: bool) -> None:
        bought_at = int(world.clock.now) - 100
        world.stripe.subscribes("cus_1", subscription(created=bought_at))
        assert world.of_party() is not None
        world.ledger.bury("cus_1", bought_at, "t1", deleting=deleting)
        assert world.of_party() is None
        world.stripe.subscribes("cus_1", subscription(created=bought_at), subscription("sub_2", created=bought_at + 1))
        assert (world.of_party() is None) is deleting

    def test_is_whose_customer_was_deleted_with_their_account(self, world: Everything) -> None:
        """The user is somebody else's by now, or an operator's business."""
        world.settled()
        bought = subscription(status="canceled", created=1)
        world.stripe.customers["cus_1"] = Customer("cus_1", None, deleted=True, subscriptions=(bought,))
        assert world.of_party() is not None
        world.ledger.bury("cus_1", int(world.clock.now), "t1", deleting=False)
        assert world.of_party() is None

    def test_is_who_stripe_knows_nothing_of(
        self, world: Everything, unclear: Callable[[], float], lines: list[str]
    ) -> None:
        """Nobody loses anything for it."""
        world.settled()
        world.stripe.subscribes("cus_1")
        assert world.of_party() is None
        del world.stripe.customers["cus_1"]
        assert world.of_party() is None
        assert unclear() == 2
        assert sum("DriftUnclear: cus_1" in line for line in lines) == 2
        assert not any(EMAIL in line for line in lines)

    def test_is_one_of_whose_parties_stripe_knows_nothing(
        self, world: Everything, unclear: Callable[[], float]
    ) -> None:
        cancel(world, world.settled("cus_1", "cus_2"))
        assert world.of_party() is None
        assert unclear() == 1

    def test_is_who_has_an_address_that_nobody_proved(
        self, world: Everything, unclear: Callable[[], float], lines: list[str]
    ) -> None:
        sub, _ = world.users.create("other@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_2")
        world.users.rename(sub, EMAIL)
        world.stripe.subscribes("cus_1", subscription())
        assert world.of_party() is None
        assert unclear() == 1
        assert not any(EMAIL in line for line in lines)

    @pytest.mark.parametrize(
        ("fail", "name"),
        [
            (lambda world: setattr(world.stripe, "error", StripeThrottled("429")), StripeThrottled),
            (lambda world: setattr(world.stripe, "error", StripeUnavailable("500")), StripeUnavailable),
            (lambda world: world.pool.errors.update(list_users=THROTTLED), CognitoThrottled),
            (lambda world: world.table.errors.update(get_item=THROTTLED), LedgerThrottled),
            (lambda world: world.table.errors.update(query=THROTTLED), LedgerThrottled),
        ],
    )
    def test_is_nobody_when_somebody_does_not_answer(
        self, world: Everything, fail: Callable[[Everything], object], name: type[GatewayError]
    ) -> None:
        sub = world.settled()
        cancel(world, sub)
        fail(world)
        with pytest.raises(name):
            world.of_party()

    @pytest.mark.parametrize("deed", [each for each, _, _ in DEEDS])
    def test_is_everybody_by_the_look_itself(self, world: Everything, deed: Deed) -> None:
        """Nothing is written, and nobody becomes a billed user."""
        deed(world, world.settled())
        before = world.everything()
        assert world.of_party() is not None
        assert world.everything() == before
        assert set(world.pool.calls) == {"list_users"}
        assert set(world.table.calls) <= {"get_item", "query", "batch_get_item"}


# ------------------------------------------------------------------ of a user on a page of the pool


class TestOfUser:
    @pytest.fixture
    def orphan(self, world: Everything) -> str:
        """A user of ours whom the ledger does not know, of a customer who pays."""
        sub, _ = world.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        world.stripe.subscribes("cus_1", subscription())
        return sub

    @pytest.mark.parametrize(("deed", "kind", "disables"), [each for each in DEEDS if "delete" not in str(each[0])])
    def test_is_that_of_their_first_party(self, world: Everything, deed: Deed, kind: Kind, disables: bool) -> None:
        sub = world.settled("cus_9", "cus_1")
        world.ledger.link(["cus_1"], sub, replacing=None)
        world.stripe.subscribes("cus_9", subscription("sub_9", "canceled"))
        assert world.of_user(sub) is None
        deed(world, sub)
        assert world.of_user(sub) == Difference(kind, "cus_1", sub, disables)

    @pytest.mark.parametrize("provider", ["STRIPE", "", "ADMIN"])
    def test_of_who_is_banned_and_no_customers_is_left_to_an_operator(
        self, world: Everything, orphan: str, provider: str
    ) -> None:
        """POST /hold again; no run is theirs, and they are no orphan that a payment might bring back."""
        world.steps.write(orphan, **{"custom:payment_provider": provider})
        hold(world, orphan)
        assert world.of_user(orphan) == Difference("hold_lost", None, orphan, disables=False)
        disable_by_hand(world, orphan)
        assert world.of_user(orphan) is None
        assert set(world.table.calls) == set()

    @pytest.mark.parametrize("provider", ["", "ADMIN"])
    def test_of_whom_others_made_and_who_never_bought_is_none(self, world: Everything, provider: str) -> None:
        sub, _ = world.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        world.steps.write(sub, **{"custom:payment_provider": provider})
        assert world.of_user(sub) is None
        assert world.table.total == 0

    @pytest.mark.parametrize("known", [True, False])
    def test_of_ours_without_a_link_is_that_they_are_to_be_linked_again(
        self, world: Everything, orphan: str, known: bool
    ) -> None:
        """Also where the ledger has them, but not whose they are."""
        if known:
            world.ledger.set_live(orphan, Live(True, 5), 1)
        assert world.of_user(orphan) == Difference("orphaned_link", "cus_1", orphan, disables=False, relink=True)

    @pytest.mark.parametrize(
        ("address", "linked"),
        [(EMAIL, True), (EMAIL.upper(), True), ("other@example.com", False), (f"x{EMAIL}", False), (None, False)],
    )
    def test_of_ours_is_linked_to_who_has_their_address_alone(
        self, world: Everything, orphan: str, address: str | None, linked: bool
    ) -> None:
        """An attribute that somebody wrote by hand must not make them whoever it names."""
        world.stripe.subscribes("cus_1", subscription(), email=address)
        party = "cus_1" if linked else None
        assert world.of_user(orphan) == Difference("orphaned_link", party, orphan, disables=False, relink=linked)

    @pytest.mark.parametrize("address", [EMAIL, "other@example.com", None])
    def test_of_a_link_that_the_ledger_names_does_not_ask_for_the_address(
        self, world: Everything, orphan: str, address: str | None
    ) -> None:
        world.stripe.subscribes("cus_1", subscription(), email=address)
        found = Difference("orphaned_link", "cus_1", orphan, disables=False, relink=True)
        assert world.of_lost_link("cus_1", orphan) == found
        world.ledger.link(["cus_1"], orphan, replacing=None)
        world.drop(f"PERSON#{orphan}", "PERSON")
        assert world.of_party() == found

    def test_of_ours_who_is_no_customers_is_left_to_an_operator(self, world: Everything) -> None:
        sub, _ = world.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id=None)
        assert world.of_user(sub) == Difference("orphaned_link", None, sub, disables=False)

    @pytest.mark.parametrize(
        ("status", "enabled", "disables"),
        [("canceled", True, True), ("canceled", False, False), ("active", True, False), ("strange", True, False)],
    )
    def test_takes_access_from_who_has_it_and_does_not_pay(
        self, world: Everything, orphan: str, status: str, enabled: bool, disables: bool
    ) -> None:
        world.stripe.subscribes("cus_1", subscription(status=status))
        if not enabled:
            disable_by_billing(world, orphan)
        assert world.of_user(orphan) == Difference("orphaned_link", "cus_1", orphan, disables, relink=True)

    def test_takes_the_place_of_a_user_who_is_gone_and_of_no_other(self, world: Everything, orphan: str) -> None:
        world.ledger.link(["cus_1"], GONE, replacing=None)
        found = world.of_user(orphan)
        assert found == Difference("orphaned_link", "cus_1", orphan, disables=False, relink=True, replacing=GONE)
        other, _ = world.users.create("other@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        world.ledger.link(["cus_1"], other, replacing=GONE)
        assert world.of_user(orphan) == Difference("orphaned_link", None, orphan, disables=False)

    def test_is_linked_by_the_party_alone_as_well(self, world: Everything, orphan: str) -> None:
        """The person's row was lost."""
        world.ledger.link(["cus_1"], orphan, replacing=None)
        listed = Listed(world.steps.seen(orphan), "cus_1")
        found = world.differences().of_user(listed, None)
        assert found == Difference("orphaned_link", "cus_1", orphan, disables=False, relink=True)

    def test_of_a_deleted_account_is_left_to_an_operator(self, world: Everything, orphan: str) -> None:
        world.ledger.bury("cus_1", int(world.clock.now), "t1", deleting=False)
        assert world.of_user(orphan) == Difference("orphaned_link", None, orphan, disables=False)

    @pytest.mark.parametrize(
        "deed",
        [
            lambda world: world.ledger.bury("cus_1", 1, "t1", deleting=True),
            lambda world: world.steps.record(),
            lambda world: world.steps.record(at=1),
        ],
        ids=["being deleted", "running", "run again"],
    )
    def test_is_left_to_who_is_at_it(
        self, world: Everything, orphan: str, deed: Callable[[Everything], object]
    ) -> None:
        deed(world)
        assert world.of_user(orphan) is None

    def test_of_whom_stripe_knows_nothing_is_left_alone(
        self, world: Everything, orphan: str, unclear: Callable[[], float], lines: list[str]
    ) -> None:
        world.stripe.customers.clear()
        assert world.of_user(orphan) is None
        assert unclear() == 1
        assert any("DriftUnclear: cus_1" in line for line in lines)

    def test_of_an_orphan_writes_nothing(self, world: Everything, orphan: str) -> None:
        before = world.everything()
        assert world.of_user(orphan) is not None
        assert world.everything() == before


# ------------------------------------------------------------------ what the machine would do

TASKS = [name for name, state in FULFILLMENT["States"].items() if state["Type"] == "Task"]
CONTENT = ("MarkFulfilled", "ResendInvitation", "ChangeEmail", "ResumeDeletion")
STATUSES: dict[str, tuple[tuple[str, int, int], ...]] = {
    "nothing": (),
    "active": (("active", 5, LONG_AGO),),
    "canceled": (("canceled", 5, LONG_AGO),),
    "strange": (("strange", 5, LONG_AGO),),
}
STANDS = [
    {"enabled": enabled, "disabled_by": by, "provider": provider, "dapp_limit": limit, "payment_status": status}
    for enabled, by, provider, (limit, status) in itertools.product(
        (True, False),
        ("", "billing", "operator"),
        ("STRIPE", "", "ADMIN"),
        ((5, "ACTIVE"), (0, "CANCELLED"), (2, "ACTIVE")),
    )
]
LIVES = (Live(), Live(True, 5), Live(True, 2))


@dataclass
class Machine:
    """The real tasks and choices of the fulfillment machine, on a World."""

    modules: Mapping[str, ModuleType]
    policy: Policy
    patch: pytest.MonkeyPatch

    def look(self, world: World, *, govern: bool) -> Difference | None:
        fakes: tuple[Any, ...] = (FakeLedger(world), FakeBilling(world), FakeUsers(world))
        return Differences(*fakes, self.policy, govern=govern).of_party("cus_1")

    def run(self, world: World, event: str = "evt_1", *, govern: bool) -> list[str]:
        """The states that a run of cus_1 goes through."""
        self.patch.setattr(self.modules["LookupUser"], "GOVERN", govern)
        data: dict[str, Any] = {"event_id": event, "order_id": "in_1", "customer_id": "cus_1"}
        context = SimpleNamespace(aws_request_id=event, function_name="test")
        name, through = FULFILLMENT["StartAt"], []
        while (state := FULFILLMENT["States"][name])["Type"] != "Succeed":
            if state["Type"] == "Choice":
                name = next((rule["Next"] for rule in state["Choices"] if _holds(rule, data)), state["Default"])
                continue
            through.append(name)
            with _adapters(self.modules[name], world, lambda call, *args, **named: call(*args, **named), world.clock):
                answer = self.modules[name].handler({"execution": f"arn:{event}", "run": data}, context)
            data[state["ResultPath"].removeprefix("$.")] = answer
            name = state["Next"]
        return through


@pytest.fixture
def real(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Silent: it runs thousands of times."""
    modules = {name: module(name) for name in TASKS}
    monkeypatch.setattr(under_test, "time", Clock(1_800_000_000))
    monkeypatch.setattr(metrics, "add_metric", lambda *args, **named: None)
    logging.disable(logging.CRITICAL)
    yield Machine(modules, modules["ReadBilling"].POLICY, monkeypatch)
    logging.disable(logging.NOTSET)


def worlds(link: str, status: str) -> Iterator[tuple[World, bool]]:
    """Worlds of a small domain where the customer is linked to a user, to one who is gone, or to nobody; and whether
    adopted users are governed. Of many every fifth one: no side of the domain has such a divisor."""
    linked, known = link == "linked", link != "nobody"
    sides: tuple[tuple[Any, ...] | list[Any], ...] = (
        STANDS,
        LIVES if known else LIVES[:1],
        (None, BAN) if known else (None,),
        (None, Before(2, "")) if known else (None,),
        (False, True) if linked else (False,),
        ({}, {"cus_1:sub_0": 3}) if linked else ({},),
        (False,) if linked else (True, False),
        (False,) if linked else (True, False),
    )
    every = itertools.product(*sides)
    for stands, live, ban, before, govern, granted, claimed, other in itertools.islice(
        every, 0, None, 5 if known else 1
    ):
        world = World({"cus_1": (BUYER, STATUSES[status])})
        party = Party("cus_1", None if link == "nobody" else "u-1", BUYER, BUYER if claimed else None)
        world.parties = {"cus_1": party}
        if link != "nobody":
            told = {"enabled": True, "dapp_limit": 1, "payment_status": "ACTIVE"}
            person = Person("u-1", frozenset({"cus_1"}), granted=granted, before=before, told=told, live=live, held=ban)
            world.people = {"u-1": person}
        if link == "linked" or other:
            sub = "u-1" if link == "linked" else "u-2"
            world.users = {sub: (BUYER, User(True, sub, **stands))}
        yield world, govern


def can_sign_in(world: World) -> bool:
    """Whether Cognito lets anybody in."""
    return any(user.enabled for _, user in world.users.values())


def lets_in(world: World) -> bool:
    """Whether the authorizer lets the customer's user in."""
    person = world.people.get(world.parties["cus_1"].sub or "")
    return person is not None and person.live.active


@pytest.mark.parametrize("link", ["linked", "gone", "nobody"])
@pytest.mark.parametrize("status", STATUSES)
def test_who_differs_is_whom_the_machine_would_change_and_takes_access_from(
    real: Machine, link: str, status: str
) -> None:
    """Or a search would leave drift, find it for ever, or stop before too many or too late."""
    wrong: dict[tuple[Kind, bool], World] = {}
    many = 0
    for world, govern in worlds(link, status):
        began = copy.deepcopy(world)
        found = real.look(world, govern=govern)
        assert world == began
        decision = real.run(world, govern=govern)[2]
        # Whom a killed run made is nobody's: without access, they are found by the missing link (of_user).
        content = decision in CONTENT or (decision == "LinkUser" and status == "canceled" and not can_sign_in(began))
        assert (found is None) is content, (decision, found, began)
        assert real.look(world, govern=govern) is None, (decision, found, began)
        stood, stands = [next(iter(each.users.values()), ("", User(False)))[1] for each in (began, world)]
        takes = (lets_in(began) and not lets_in(world)) or (stood.enabled and not stands.enabled)
        # Who had fewer before they bought stays enabled, with those; that takes something away as well.
        less = stood.enabled and stands.dapp_limit < stood.dapp_limit
        if found is None:
            assert not takes
        elif found.disables is not takes and not (found.disables and less):
            wrong.setdefault((found.kind, takes), began)
        many += 1
    assert many > 200
    assert not wrong


def settled_worlds(real: Machine) -> Iterator[tuple[World, bool]]:
    """Worlds as runs leave them: bought, lapsed, came back, banned; made by us, adopted or comped."""
    pools: list[dict[str, Any]] = [{}, {"provider": "", "dapp_limit": 2}, {"provider": "ADMIN", "dapp_limit": 9}]
    for govern, before, history, ban in itertools.product(
        (False, True),
        pools,
        (("active",), ("canceled",), ("active", "canceled"), ("canceled", "active")),
        (False, True),
    ):
        world = World({"cus_1": (BUYER, ())})
        if before:
            world.users = {"u-9": (BUYER, User(True, "u-9", enabled=True, **before))}
        for number, status in enumerate(history):
            world.stripe["cus_1"] = (BUYER, ((status, 5, LONG_AGO),))
            real.run(world, f"evt_{number}", govern=govern)
        sub = world.parties["cus_1"].sub
        if sub is not None:
            if ban:
                world.people[sub] = replace(world.people[sub], held=BAN)
                real.run(world, "evt_9", govern=govern)
            yield world, govern


def touched(world: World) -> Iterator[World]:
    """The same after somebody's hand, or something that nobody heard of."""
    (sub,) = world.people
    email, user = world.users[sub]
    for stands in STANDS:
        yield replace(world, users={sub: (email, replace(user, **stands))})
    yield replace(world, users={})
    for live in LIVES:
        yield replace(world, people={sub: replace(world.people[sub], live=live)})
    for held in (None, BAN):
        yield replace(world, people={sub: replace(world.people[sub], held=held)})
    for status, quantity in itertools.product(("active", "canceled", "unpaid", "strange"), (0, 5, 7)):
        yield replace(world, stripe={"cus_1": (BUYER, ((status, quantity, LONG_AGO),))})


def suspects(world: World, policy: Policy, *, govern: bool) -> bool:
    """Whether a page of the pool, of the ledger or of Stripe makes somebody look closer."""
    (person,) = world.people.values()
    if person.sub not in world.users:
        return bool(person.granted)
    facts: dict[str, Any] = {"granted": person.granted, "told": person.told, "live": person.live}
    facts |= {"before": None if govern else person.before, "banned": person.held is not None}
    if user_suspect(world.users[person.sub][1], **facts):
        return True
    for each in FakeBilling(world).customer("cus_1").subscriptions:
        own = {name: units for name, units in person.granted.items() if name == each.id}
        verdict = decide((each,), (), 1_800_000_000, policy, own)
        if subscription_suspect(verdict, each.id, person.granted, person.told):
            return True
    return False


class TestSuspicion:
    """Only who looks wrong at first sight is looked at one by one: nobody who differs may look right."""

    def test_is_nobody_whom_a_run_has_just_left(self, real: Machine) -> None:
        """Or a search would look at everybody, every day."""
        many = 0
        for world, govern in settled_worlds(real):
            assert not suspects(world, real.policy, govern=govern), world
            many += 1
        assert many == 24

    def test_is_everybody_who_differs_but_by_why_they_do_not_pay(self, real: Machine) -> None:
        """That says nothing of access: the events that tell of it are searched for by themselves."""
        many = 0
        for settled, govern in settled_worlds(real):
            for world in touched(settled):
                found = real.look(copy.deepcopy(world), govern=govern)
                if found is None:
                    continue
                many += 1
                if not suspects(world, real.policy, govern=govern):
                    assert (found.kind, world.users, world.people) == ("wrong_limit", settled.users, settled.people)
                    assert not any(person.granted for person in world.people.values())
                    assert real.run(copy.deepcopy(world), govern=govern)[2] == "SetDappLimit"
        assert many > 900
