"""read_billing.handler: whose billing is read, what is kept of it, and which access follows."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway import events
from gateway.access import Item, Mark, Policy, Purchase, Subscription
from gateway.billing import Charged, Customer
from gateway.errors import BillingIncomplete, DidNotConverge, LedgerRejected, LedgerUnavailable, UnusableEvent
from tests.unit.steps import EMAIL, NOW, Json, Steps, module

DAY = 86_400
ONCE = events.Purchase("cs_1", "session", 0, ())
RUN = {"event_id": "evt_1", "order_id": "in_1", "customer_id": "cus_1"}
DISPUTE = {"event_id": "evt_1", "order_id": "du_1", "customer_id": None}


@dataclass
class Stripe:
    """Stripe with memory, as Billing tells of it."""

    customers: dict[str, Customer] = field(default_factory=dict)
    purchases: dict[str, Purchase] = field(default_factory=dict)
    charges: dict[str, Charged] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def _answer(self, known: dict[str, Any], id_: str) -> Any:
        self.asked.append(id_)
        for deed in self.meanwhile:
            deed()
        return known.get(id_)

    def customer(self, customer_id: str) -> Customer:
        found: Customer = self._answer(self.customers, customer_id)
        return found

    def purchase(self, known: events.Purchase) -> Purchase:
        found: Purchase = self._answer(self.purchases, known.id)
        return found

    def charged(self, charge_id: str) -> Charged:
        found: Charged = self._answer(self.charges, charge_id)
        return found

    def mark(self, known: events.Mark) -> Mark | None:
        found: Mark | None = self._answer(self.marks, known.id)
        return found

    # -------------------------------------------------------------- how Stripe comes to say so

    def subscribes(self, customer: str, *subscriptions: Subscription, email: str | None = EMAIL) -> None:
        self.customers[customer] = Customer(customer, email, False, subscriptions)

    def deletes(self, customer: str) -> None:
        self.customers[customer] = replace(self.customers[customer], email=None, deleted=True)


def subscription(id_: str = "sub_1", status: str = "active", *items: Item, **facts: Any) -> Subscription:
    return Subscription(id_, status, items or (Item("price_1", 5, "1"),), **facts)


def bought(id_: str = "cs_1", dapps: str = "3") -> Purchase:
    return Purchase(id_, "paid", (Item("price_once", 1, dapps),))


@pytest.fixture
def stripe() -> Stripe:
    stripe = Stripe()
    stripe.subscribes("cus_1", subscription())
    return stripe


@pytest.fixture
def read(steps: Steps, stripe: Stripe) -> Callable[..., Json]:
    """ReadBilling's answer."""

    def answer(given: Json = RUN, **replaced: Any) -> Json:
        return steps.run("ReadBilling", given, billing=stripe, **replaced)

    return answer


def remember(steps: Steps, party: str, *purchases: events.Purchase) -> None:
    """One-time orders that the webhook has recorded."""
    for purchase in purchases:
        steps.record(f"evt_{purchase.id}", customer_id=party if party.startswith("cus_") else None)
        order = replace(events.recheck("u", party, NOW, livemode=False), purchase=purchase, email="typed@example.com")
        steps.ledger.remember_purchase(order)


class TestAnswer:
    def test_is_the_access_that_follows(self, read: Callable[..., Json]) -> None:
        assert read() == {
            "pass": 1,
            "read_at": NOW,
            "parties": ["cus_1"],
            "access": {
                "wanted": True,
                "status": "ACTIVE",
                "dapp_limit": 5,
                "reason": "sub_1 active",
                "recheck_at": None,
                "units": {"sub_1": 5},
                "alarms": [],
            },
            "deleted_at": None,
            "erased": False,
            "left_over": [],
            "resume": False,
        }

    def test_was_read_no_earlier_than_it_says(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        """Whatever was recorded after it may not have been seen."""
        stripe.meanwhile.append(lambda: setattr(steps.clock, "now", NOW + 60))
        assert read()["read_at"] == NOW

    def test_sums_what_all_parties_of_the_person_pay(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        steps.ledger.link(["cus_2", "cus_1", "cs_9"], "u-1", replacing=None)
        stripe.subscribes("cus_2", subscription("sub_2", "active", Item("price_1", 4, "10")))
        remember(steps, "cs_9", replace(ONCE, id="cs_9"))
        stripe.purchases["cs_9"] = bought("cs_9")
        found = read()
        assert found["parties"] == ["cus_1", "cs_9", "cus_2"]  # the payer first
        assert (found["access"]["dapp_limit"], found["access"]["units"]) == (48, {"sub_1": 5, "sub_2": 40, "cs_9": 3})
        assert sorted(stripe.asked) == ["cs_9", "cus_1", "cus_2"]

    def test_never_raises_in_grace_what_was_granted(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        steps.ledger.link(["cus_1"], "u-1", replacing=None)
        steps.ledger.settle("u-1", read_at=NOW, recheck_at=None, granted={"sub_1": 2})
        stripe.subscribes("cus_1", subscription(status="past_due", first_unpaid=NOW - 60))
        found = read()["access"]
        assert (found["status"], found["dapp_limit"], found["recheck_at"]) == ("LAPSED", 2, NOW - 60 + 3 * DAY)

    @pytest.mark.parametrize(("passes", "pass_"), [(1, 2), (9, 10)])
    def test_counts_the_looks(self, steps: Steps, read: Callable[..., Json], passes: int, pass_: int) -> None:
        state = steps.state()
        assert read({**state, "billing": {**state["billing"], "pass": passes}})["pass"] == pass_

    def test_is_none_after_ten_looks(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        state = steps.state()
        with pytest.raises(DidNotConverge, match="who else writes to this user"):
            read({**state, "billing": {**state["billing"], "pass": 10}})
        assert stripe.asked == []

    def test_follows_the_policy_of_the_templates_parameters(self, template: dict[str, Any]) -> None:
        defaults = {name: each["Default"] for name, each in template["Parameters"].items() if "Default" in each}
        reactions = (
            "WrittenOff PausedCollection Refunded Disputed DisputeLost FraudWarning CustomerDeleted".split()  # noqa: SIM905
        )
        grace, most = int(defaults["GracePeriodHours"]) * 3600, int(defaults["MaxDapps"])
        assert Policy(grace, most, *(defaults[name] for name in reactions)) == module("ReadBilling").POLICY


class TestNote:
    """What is kept of a customer."""

    def test_is_the_address_and_that_there_was_a_subscription(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        stripe.subscribes("cus_1", subscription(), email=" Payer@Example.COM ")
        read()
        assert steps.ledger.party("cus_1").email == EMAIL
        assert steps.ledger.party("cus_1").subscribed is True

    @pytest.mark.parametrize("email", [None, "", "no address", "a@b"])
    def test_is_no_address_that_nobody_can_have(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], email: str | None
    ) -> None:
        read()
        stripe.subscribes("cus_1", subscription(), email=email)
        read()
        assert steps.ledger.party("cus_1").email is None

    def test_is_written_only_when_it_changes(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        read()
        steps.ledger.note_party = pytest.fail  # type: ignore[method-assign, assignment]
        read()

    def test_keeps_that_there_was_a_subscription_of_a_deleted_customer(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        read()
        stripe.subscribes("cus_1")
        stripe.deletes("cus_1")
        read()
        assert steps.ledger.party("cus_1").subscribed is True

    def test_is_what_an_empty_answer_is_measured_by(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        read()
        stripe.subscribes("cus_1")
        with pytest.raises(BillingIncomplete, match="no subscription of cus_1, which had one"):
            read()

    def test_of_a_customer_who_never_subscribed_allows_an_empty_answer(
        self, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        stripe.subscribes("cus_1")
        assert read()["access"]["wanted"] is None


# ------------------------------------------------------------------ what names only a charge


class TestPayer:
    @pytest.fixture
    def dispute(self, steps: Steps) -> Json:
        """A run about a dispute, whose payer nobody knows yet."""
        steps.record(event_type="charge.dispute.created", order_id="du_1", customer_id=None, charge="ch_1", at=NOW - 60)
        return DISPUTE

    @pytest.mark.parametrize(
        ("charged", "payer", "mark"),
        [
            (Charged("cus_1", "sub_1", NOW + DAY), "cus_1", events.Mark("du_1", "dispute", "ch_1", "sub_1", NOW + DAY)),
            (Charged("cus_1", "cs_1"), "cus_1", events.Mark("du_1", "dispute", "ch_1", "cs_1")),
            (Charged("cus_1"), "cus_1", events.Mark("du_1", "dispute", "ch_1")),
            (Charged(None, "cs_1"), "cs_1", events.Mark("du_1", "dispute", "ch_1", "cs_1")),
        ],
        ids=["subscription", "purchase", "nothing of ours", "guest"],
    )
    def test_is_whose_charge_it_is_and_gets_mark_and_order(
        self,
        steps: Steps,
        stripe: Stripe,
        read: Callable[..., Json],
        dispute: Json,
        charged: Charged,
        payer: str,
        mark: events.Mark,
    ) -> None:
        stripe.charges["ch_1"] = charged
        remember(steps, payer, ONCE)
        stripe.purchases["cs_1"] = bought()
        assert read(dispute)["parties"] == [payer]
        assert stripe.asked[0] == "ch_1"
        assert steps.ledger.party(payer).marks == (mark,)
        assert steps.order()["party"] == payer
        assert "evt_1" not in list(steps.ledger.open_orders(payer, NOW))  # for a run that has read before
        assert "evt_1" in list(steps.ledger.open_orders(payer, NOW + 1))

    @pytest.mark.parametrize(
        ("event_type", "order_id", "mark"),
        [
            ("charge.refunded", "ch_1", events.Mark("ch_1", "refund", "ch_1", "sub_1", NOW + DAY)),
            ("refund.failed", "re_1", events.Mark("ch_1", "refund", "ch_1", "sub_1", NOW + DAY)),
            ("charge.dispute.closed", "du_1", events.Mark("du_1", "dispute", "ch_1", "sub_1", NOW + DAY)),
            (
                "radar.early_fraud_warning.created",
                "issfr_1",
                events.Mark("issfr_1", "fraud_warning", "ch_1", "sub_1", NOW + DAY),
            ),
        ],
    )
    def test_gets_a_mark_of_the_events_kind(
        self,
        steps: Steps,
        stripe: Stripe,
        read: Callable[..., Json],
        event_type: str,
        order_id: str,
        mark: events.Mark,
    ) -> None:
        steps.record(event_type=event_type, order_id=order_id, customer_id=None, charge="ch_1")
        stripe.charges["ch_1"] = Charged("cus_1", "sub_1", NOW + DAY)
        read({**DISPUTE, "order_id": order_id})
        assert steps.ledger.party("cus_1").marks == (mark,)

    @pytest.mark.parametrize(
        ("event_type", "order_id", "counts"),
        [
            ("charge.refunded", "ch_1", False),
            ("refund.created", "re_1", False),
            ("charge.dispute.created", "du_1", True),
            ("radar.early_fraud_warning.created", "issfr_1", True),
        ],
    )
    def test_is_not_refunded_by_a_charge_for_less_than_the_period(
        self,
        steps: Steps,
        stripe: Stripe,
        read: Callable[..., Json],
        event_type: str,
        order_id: str,
        counts: bool,
    ) -> None:
        steps.record(event_type=event_type, order_id=order_id, customer_id=None, charge="ch_1")
        stripe.charges["ch_1"] = Charged("cus_1", "sub_1", NOW + DAY, whole=False)
        read({**DISPUTE, "order_id": order_id})
        (found,) = steps.ledger.party("cus_1").marks
        assert found.pays == ("sub_1" if counts else None)

    def test_gets_one_mark_however_often_it_is_looked_for(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], dispute: Json
    ) -> None:
        stripe.charges["ch_1"] = Charged("cus_1", "sub_1", NOW + DAY)
        for _ in range(3):
            read(dispute)
        assert len(steps.ledger.party("cus_1").marks) == 1

    @pytest.mark.parametrize("charged", [Charged(None), Charged(None, "sub_1", NOW)])
    def test_may_be_nobody_we_know(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], dispute: Json, charged: Charged
    ) -> None:
        stripe.charges["ch_1"] = charged
        found = read(dispute)
        assert (found["parties"], found["pass"], found["read_at"]) == (["du_1"], 1, NOW)
        assert (found["access"]["wanted"], found["access"]["reason"]) == (None, "nothing bought")
        assert stripe.asked == ["ch_1"]
        assert steps.ledger.party("du_1").marks == ()
        assert steps.order()["party"] == "du_1"

    def test_is_asked_for_once_in_an_execution(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], dispute: Json
    ) -> None:
        stripe.charges["ch_1"] = Charged("cus_1", "sub_1", NOW + DAY)
        first = read(dispute)
        stripe.asked.clear()
        assert read({**dispute, "billing": first})["parties"] == ["cus_1"]
        assert "ch_1" not in stripe.asked

    def test_of_any_other_order_is_not_asked_for(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        steps.ledger.received = pytest.fail  # type: ignore[method-assign, assignment]
        remember(steps, "cs_1", ONCE)
        stripe.purchases["cs_1"] = bought()
        assert read()["parties"] == ["cus_1"]
        assert read({**DISPUTE, "order_id": "cs_1"})["parties"] == ["cs_1"]
        assert stripe.asked == ["cus_1", "cs_1"]

    @pytest.mark.parametrize(
        ("method", "marks", "party"),
        [("remember_mark", 0, "du_1"), ("assign", 1, "du_1"), ("party", 1, "cus_1")],
    )
    def test_has_the_mark_before_the_order(
        self,
        steps: Steps,
        stripe: Stripe,
        read: Callable[..., Json],
        dispute: Json,
        monkeypatch: pytest.MonkeyPatch,
        method: str,
        marks: int,
        party: str,
    ) -> None:
        """Otherwise a run of theirs that does not know of the mark could close the order."""
        stripe.charges["ch_1"] = Charged("cus_1", "sub_1", NOW + DAY)

        def killed(*args: object, **kwargs: object) -> None:
            raise LedgerUnavailable("the Lambda ends here")

        with monkeypatch.context() as here, pytest.raises(LedgerUnavailable):
            here.setattr(steps.ledger, method, killed)
            read(dispute)
        assert (len(steps.ledger.party("cus_1").marks), steps.order()["party"]) == (marks, party)
        assert read(dispute)["parties"] == ["cus_1"]  # and the next run mends it
        assert (len(steps.ledger.party("cus_1").marks), steps.order()["party"]) == (1, "cus_1")

    def test_of_an_execution_started_by_hand_is_unknown(self, read: Callable[..., Json]) -> None:
        with pytest.raises(LedgerRejected, match="started by hand"):
            read(DISPUTE)

    def test_of_an_order_that_concerns_no_charge_cannot_be_told(self, steps: Steps, read: Callable[..., Json]) -> None:
        steps.record(customer_id=None)
        with pytest.raises(UnusableEvent, match=r"invoice\.paid concerns no charge"):
            read({**RUN, "customer_id": None})


# ------------------------------------------------------------------ what speaks against it


class TestMarks:
    REFUNDED = events.Mark("ch_1", "refund", "ch_1", "sub_1", NOW + DAY)

    def test_revoke_what_the_charge_paid_for_as_long_as_that_lasts(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        steps.ledger.remember_mark("cus_1", self.REFUNDED)
        stripe.marks["ch_1"] = Mark("ch_1", "refunded", "sub_1", NOW + DAY)
        found = read()["access"]
        assert (found["wanted"], found["status"], found["recheck_at"]) == (False, "CANCELLED", NOW + DAY)
        assert found["reason"] == "sub_1 active, but refunded (ch_1)"

    def test_that_stripe_takes_back_are_none(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        steps.ledger.remember_mark("cus_1", self.REFUNDED)
        assert read()["access"]["wanted"] is True
        assert stripe.asked == ["ch_1", "cus_1"]

    @pytest.mark.parametrize(("until", "asked"), [(None, True), (NOW + 1, True), (NOW, False), (NOW - 1, False)])
    def test_are_asked_for_while_the_period_runs(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], until: int | None, asked: bool
    ) -> None:
        steps.ledger.remember_mark("cus_1", replace(self.REFUNDED, until=until))
        stripe.marks["ch_1"] = Mark("ch_1", "refunded", "sub_1", until)
        assert read()["access"]["wanted"] is not asked
        assert ("ch_1" in stripe.asked) is asked

    def test_on_another_customer_of_the_person_count(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-1", replacing=None)
        stripe.subscribes("cus_2", subscription("sub_2"))
        steps.ledger.remember_mark("cus_2", replace(self.REFUNDED, pays="sub_2"))
        stripe.marks["ch_1"] = Mark("ch_1", "refunded", "sub_2", NOW + DAY)
        assert read()["access"]["units"] == {"sub_1": 5}

    def test_of_a_kind_to_be_flagged_raise_an_alarm(
        self,
        steps: Steps,
        stripe: Stripe,
        read: Callable[..., Json],
        counted: Callable[[], dict[str, float]],
        lines: list[str],
    ) -> None:
        steps.ledger.remember_mark("cus_1", events.Mark("du_1", "dispute", "ch_1", "sub_1", NOW + DAY))
        stripe.marks["du_1"] = Mark("du_1", "disputed", "sub_1", NOW + DAY)
        assert read()["access"]["wanted"] is True
        assert counted() == {"AccessAlarm": 1}
        assert "AccessAlarm: sub_1 active, but disputed (du_1)" in [json.loads(line)["message"] for line in lines]


class TestDeletedCustomer:
    def test_takes_everything_of_theirs_along(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        """One-time purchases too, which Stripe knows nothing against."""
        remember(steps, "cus_1", ONCE)
        stripe.purchases["cs_1"] = bought()
        stripe.deletes("cus_1")
        found = read()["access"]
        assert (found["wanted"], found["status"], found["dapp_limit"]) == (False, "CANCELLED", 0)

    def test_who_had_nothing_wants_nothing(self, stripe: Stripe, read: Callable[..., Json]) -> None:
        stripe.subscribes("cus_1")
        stripe.deletes("cus_1")
        found = read()["access"]
        assert (found["wanted"], found["status"], found["reason"]) == (False, "CANCELLED", "cus_1 deleted")

    def test_whose_subscriptions_stripe_does_not_show_any_more_wants_nothing(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        read()
        stripe.subscribes("cus_1")
        stripe.deletes("cus_1")
        assert read()["access"]["wanted"] is False

    def test_leaves_the_persons_other_customers_alone(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json]
    ) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-1", replacing=None)
        stripe.subscribes("cus_2", subscription("sub_2", "active", Item("price_1", 1, "7")))
        stripe.deletes("cus_1")
        found = read()["access"]
        assert (found["wanted"], found["units"]) == (True, {"sub_2": 7})

    def test_may_be_ignored(self, steps: Steps, stripe: Stripe, read: Callable[..., Json]) -> None:
        """Only what Stripe itself has not ended goes on."""
        remember(steps, "cus_1", ONCE)
        stripe.purchases["cs_1"] = bought()
        stripe.subscribes("cus_1", subscription(status="canceled"))
        stripe.deletes("cus_1")
        policy = replace(module("ReadBilling").POLICY, customer_deleted="ignore")
        found = read(POLICY=policy)["access"]
        assert (found["wanted"], found["units"]) == (True, {"cs_1": 3})


class TestMetrics:
    @pytest.mark.parametrize(
        ("items", "expected"),
        [
            ([Item("seat", 1, "1")], {}),
            ([Item("seat", 1, "1"), Item("coffee", 2, None), Item("tea", 9, None)], {"IgnoredItem": 2}),
            ([Item("seat", 1, "1"), Item("forgotten", 2, None, stray=True)], {"AccessAlarm": 1}),
            ([Item("seat", 1, "one")], {"AccessAlarm": 1}),
            ([Item("seat", 2, "900000000")], {"LimitClamped": 1}),
            ([Item("coffee", 1, None)], {"IgnoredItem": 1}),
        ],
    )
    def test_count_items_that_belong_to_other_products_and_alarms(
        self,
        stripe: Stripe,
        read: Callable[..., Json],
        counted: Callable[[], dict[str, float]],
        items: list[Item],
        expected: dict[str, float],
    ) -> None:
        stripe.subscribes("cus_1", subscription("sub_1", "active", *items))
        read()
        assert counted() == expected

    def test_count_over_all_customers_of_the_person(
        self, steps: Steps, stripe: Stripe, read: Callable[..., Json], counted: Callable[[], dict[str, float]]
    ) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-1", replacing=None)
        for customer in ("cus_1", "cus_2"):
            stripe.subscribes(customer, subscription(f"sub_of_{customer}", "active", Item("coffee", 1, None)))
        read()
        assert counted() == {"IgnoredItem": 2}
