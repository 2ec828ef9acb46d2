"""gateway.events: what is read from each kind of event, and that nothing else gets through.

The objects are Stripe's published ones with the fields that matter overridden. MARKER stands for personal data: no
error may repeat it.
"""

import copy
import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import events
from gateway.errors import UnreadableEnvelope, UnusableEvent
from gateway.events import (
    HANDLED_TYPES,
    PAYMENTS,
    SOUGHT_TYPES,
    Envelope,
    Mark,
    MarkKind,
    Order,
    OrderItem,
    Purchase,
    email_address,
    envelope,
    mark,
    notice,
    order,
    unusable,
)

FIXTURES = json.loads((Path(__file__).parents[1] / "local" / "stripe-fixtures.json").read_text(encoding="utf-8"))
CREATED = 1_790_000_000
MARKER = "s3cret-of-the-payer"

LEGACY_ORDER: dict[str, Any] = {
    "id": "or_1ESq9uLJpPPc8UJfhy80WPz2",
    "object": "order",
    "amount": 300,
    "charge": "ch_1ESq9uLJpPPc8UJfVTVfBBph",
    "currency": "usd",
    "customer": None,
    "email": "juan@eximchain.com",
    "items": [
        {
            "object": "order_item",
            "amount": 150,
            "currency": "usd",
            "description": "Banana",
            "parent": "1",
            "quantity": 1,
            "type": "sku",
        },
        {
            "object": "order_item",
            "amount": 0,
            "currency": "usd",
            "description": "Taxes (included)",
            "parent": None,
            "quantity": None,
            "type": "tax",
        },
        {
            "object": "order_item",
            "amount": 0,
            "currency": "usd",
            "description": "Free shipping",
            "parent": "ship_free-shipping",
            "quantity": None,
            "type": "shipping",
        },
    ],
    "metadata": {},
    "shipping": {"name": "Juan Huertas"},
    "status": "paid",
    "status_transitions": {"canceled": None, "fulfiled": None, "paid": 1556131771, "returned": None},
    "updated": 1556131771,
}
LEGACY_RETURN: dict[str, Any] = {
    "id": "orret_1",
    "object": "order_return",
    "amount": 300,
    "created": 1556200000,
    "currency": "usd",
    "items": copy.deepcopy(LEGACY_ORDER["items"]),
    "order": LEGACY_ORDER["id"],
    "refund": "re_1",
}


def stripe_object(kind: str, **changed: Any) -> dict[str, Any]:
    """A published object with some fields changed."""
    return {**copy.deepcopy(FIXTURES["resources"][kind]), "created": CREATED, **changed}


def legacy(**changed: Any) -> dict[str, Any]:
    return {**copy.deepcopy(LEGACY_ORDER), **changed}


def event(event_type: str, content: object, **changed: Any) -> dict[str, Any]:
    """A snapshot event, as Stripe sends it."""
    frame = {**FIXTURES["resources"]["event"], "id": "evt_1", "type": event_type, "data": {"object": content}}
    return {**frame, **changed}


def read(event_type: str, content: object) -> Order | None:
    return order(envelope(event(event_type, content)))


def read_one(event_type: str, content: object) -> Order:
    found = read(event_type, content)
    assert found is not None
    return found


def session(**changed: Any) -> dict[str, Any]:
    details = {"email": "Payer@Example.com", "name": "Pat Payer"}
    return stripe_object("checkout.session", **{"customer_details": details, "amount_total": 2000, **changed})


def mapping_event(event_type: str, metadata: object, previous: dict[str, Any]) -> Envelope:
    """An event of a price or product with that metadata; `previous`: what an …updated event says was there before."""
    content = stripe_object(event_type.partition(".")[0], metadata=metadata)
    return envelope(event(event_type, content, data={"object": content, "previous_attributes": previous}))


# What starts a run, as the rules list it.
CHECKOUT = [
    f"checkout.session.{each}" for each in ("completed", "async_payment_succeeded", "async_payment_failed", "expired")
]
SUBSCRIPTION = [
    f"customer.subscription.{each}"
    for each in (
        *("created", "updated", "deleted", "paused", "resumed"),
        *("pending_update_applied", "pending_update_expired"),
    )
]
SCHEDULE = [
    f"subscription_schedule.{each}"
    for each in ("aborted", "canceled", "completed", "created", "expiring", "released", "updated")
]
INVOICE = [f"invoice.{each}" for each in ("paid", "payment_failed", "overdue", "voided", "marked_uncollectible")]
CUSTOMER = ["customer.updated", "customer.deleted"]
REFUND = [f"refund.{each}" for each in ("created", "failed", "updated")]
DISPUTE = [f"charge.dispute.{each}" for each in ("closed", "created", "funds_reinstated", "funds_withdrawn", "updated")]
WARNING = "radar.early_fraud_warning.created"
MARKING: dict[str, MarkKind] = {
    "charge.refunded": "refund",
    **dict.fromkeys(REFUND, "refund"),
    **dict.fromkeys(DISPUTE, "dispute"),
    WARNING: "fraud_warning",
}
LEGACY = ["order.payment_succeeded", "order.updated", "order_return.created"]
READ = sorted([*CHECKOUT, *SUBSCRIPTION, *SCHEDULE, *INVOICE, *CUSTOMER, *MARKING, "credit_note.created", *LEGACY])

# What starts none.
NOTICES = {
    "customer.subscription.trial_will_end": "StripeNotice",
    "invoice.payment_action_required": "StripeNotice",
    "invoice.upcoming": "StripeNotice",
    "invoice.finalization_failed": "FinalizationFailed",
}
MAPPING = [f"{thing}.{verb}" for thing in ("price", "product") for verb in ("created", "deleted", "updated")]

# One realistic object for each type that we handle.
SAMPLES: dict[str, dict[str, Any]] = {
    **{each: session(customer="cus_1", id="cs_test_1", currency="usd", metadata={"plan": "big"}) for each in CHECKOUT},
    **{each: stripe_object("subscription") for each in (*SUBSCRIPTION, "customer.subscription.trial_will_end")},
    **{each: stripe_object("subscription_schedule") for each in SCHEDULE},
    **{
        each: stripe_object("invoice", customer_email="payer@example.com", customer_name="Pat Payer")
        for each in (*INVOICE, *(each for each in NOTICES if each.startswith("invoice.")))
    },
    **dict.fromkeys(CUSTOMER, stripe_object("customer", email="payer@example.com")),
    "charge.refunded": stripe_object("charge", id="ch_1", customer="cus_1", amount_refunded=40),
    **{each: stripe_object("refund", id="re_1", charge="ch_1", amount=40) for each in REFUND},
    **{each: stripe_object("dispute", id="dp_1", charge="ch_1", amount=40) for each in DISPUTE},
    WARNING: {
        "id": "issfr_1",
        "object": "radar.early_fraud_warning",
        "actionable": True,
        "charge": "ch_1",
        "created": CREATED,
        "fraud_type": "misc",
        "livemode": False,
    },
    "credit_note.created": stripe_object("credit_note", id="cn_1", customer="cus_1", amount=40),
    **dict.fromkeys(("order.payment_succeeded", "order.updated"), LEGACY_ORDER),
    "order_return.created": LEGACY_RETURN,
    **{each: stripe_object(each.partition(".")[0]) for each in MAPPING},
}
ONE_OF_EACH_KIND = [
    "charge.dispute.created",
    "charge.refunded",
    "checkout.session.completed",
    "checkout.session.expired",
    "credit_note.created",
    "customer.subscription.updated",
    "customer.updated",
    "invoice.paid",
    "order.updated",
    "order_return.created",
    "radar.early_fraud_warning.created",
    "refund.created",
    "subscription_schedule.updated",
]


class TestEnvelope:
    def test_of_a_published_event_is_read(self) -> None:
        published = FIXTURES["resources"]["event"]
        assert envelope(published) == Envelope(
            "evt_1Pgc76B7WZ01zgkWwyRHS12y", "plan.created", False, None, published["data"]["object"]
        )

    def test_of_a_connected_account_names_it(self) -> None:
        assert envelope(event("plan.created", {}, account="acct_1")).account == "acct_1"

    @pytest.mark.parametrize("value", [7, True, [MARKER], {"id": MARKER}])
    def test_of_an_account_that_is_no_text_is_unreadable(self, value: object) -> None:
        with pytest.raises(UnreadableEnvelope, match=r"^account is not text$"):
            envelope(event("plan.created", {}, account=value))

    @pytest.mark.parametrize(
        "body",
        [None, True, 1, "text", [], [event("plan.created", {})], {}],
        ids=["null", "true", "number", "text", "empty list", "list of events", "empty object"],
    )
    def test_that_is_no_event_is_unreadable(self, body: object) -> None:
        complaint = "id is missing or not an event id" if body == {} else "the body is not a JSON object"
        with pytest.raises(UnreadableEnvelope, match=f"^{complaint}$"):
            envelope(body)

    def test_of_a_thin_event_says_what_to_set(self) -> None:
        with pytest.raises(UnreadableEnvelope, match=r"^a thin event; set the endpoint's payload style to snapshot$"):
            envelope({"object": "v2.core.event", "id": "evt_1", "type": "v1.customer.updated", "livemode": False})

    @pytest.mark.parametrize(
        ("field", "values"),
        [
            ("id", [None, 1, "", [], {}, "evt 1", "evt-1", "evt/1", "evt\n", "evt_1\n", "ëvt_1", "e" * 71, "🦄"]),
            ("type", [None, 1, "", [], {}, " ", "a b", "a\n", "a\x7f", "ä", "payer@example.com"]),
            ("livemode", [None, 0, 1, "false", "", []]),
            ("data", [None, 1, "", [], {}, {"object": None}, {"object": []}, {"object": MARKER}]),
        ],
    )
    def test_with_a_bad_field_is_unreadable_and_named(self, field: str, values: list[object]) -> None:
        for value in values:
            with pytest.raises(UnreadableEnvelope, match=rf"^{field}\b"):
                envelope(event("plan.created", {}, **{field: value}))

    @pytest.mark.parametrize("field", ["id", "type", "livemode", "data"])
    def test_without_a_field_is_unreadable(self, field: str) -> None:
        body = event("plan.created", {})
        del body[field]
        with pytest.raises(UnreadableEnvelope, match=rf"^{field}\b"):
            envelope(body)

    @pytest.mark.parametrize("value", [None, 1, "", [], {}])
    def test_of_a_type_we_handle_needs_an_object_with_an_id(self, value: object) -> None:
        with pytest.raises(UnreadableEnvelope, match=r"^data\.object\.id") as caught:
            envelope(event("customer.updated", {"id": value}))
        assert MARKER not in str(caught.value)

    @pytest.mark.parametrize("value", [f"{MARKER}/", "cus 1", "cus_1\n", "cüs", "c" * 201, ".", "..", ".cus_1"])
    def test_with_an_id_of_no_stripe_shape_is_unusable_and_can_be_found_by_its_event(self, value: str) -> None:
        strange = envelope(event("customer.updated", {"id": value}))
        with pytest.raises(UnusableEvent) as caught:
            order(strange)
        assert MARKER not in str(caught.value)
        assert unusable(strange).order_id == strange.id

    @pytest.mark.parametrize("event_type", ["balance.available", "invoice.upcoming", "price.deleted"])
    def test_of_a_type_that_starts_no_run_needs_no_id(self, event_type: str) -> None:
        assert envelope(event(event_type, {"object": "balance"})).object == {"object": "balance"}

    def test_takes_an_event_id_as_long_as_an_execution_name_allows(self) -> None:
        assert envelope(event("plan.created", {}, id="e" * 70)).id == "e" * 70

    def test_keeps_what_was_there_before(self) -> None:
        before = {"metadata": {"dapps": "5"}}
        data = {"object": {}, "previous_attributes": before}
        assert envelope(event("plan.updated", {}, data=data)).previous == before

    @pytest.mark.parametrize("before", [None, 7, "", MARKER, [], [MARKER], {}])
    def test_without_readable_previous_attributes_has_none(self, before: object) -> None:
        data = {"object": {}, "previous_attributes": before}
        assert envelope(event("plan.updated", {}, data=data)).previous == {}
        assert envelope(event("plan.updated", {})).previous == {}


class TestTypes:
    @pytest.mark.parametrize(
        "event_type",
        [
            "invoice.payment_succeeded",  # invoice.paid says the same
            "invoice.upcoming",
            "invoice.created",
            "customer.created",
            "customer.subscription.trial_will_end",
            "payment_intent.succeeded",
            "plan.created",
            "order",
            "a_type.that[stripe].invents-tomorrow",
            "a" * 20_000,
        ],
    )
    def test_that_start_no_run_give_no_order(self, event_type: str) -> None:
        assert read(event_type, {"id": "x_1"}) is None

    @pytest.mark.parametrize("event_type", READ)
    def test_that_start_a_run_give_an_order_of_their_object(self, event_type: str) -> None:
        found = read_one(event_type, SAMPLES[event_type])
        assert (found.event_id, found.event_type, found.livemode) == ("evt_1", event_type, False)
        _assert_sound(found)

    @pytest.mark.parametrize("event_type", READ)
    def test_that_start_a_run_are_no_notice(self, event_type: str) -> None:
        assert notice(envelope(event(event_type, SAMPLES[event_type]))) is None

    @pytest.mark.parametrize("event_type", [*NOTICES, *MAPPING])
    def test_that_are_a_notice_start_no_run(self, event_type: str) -> None:
        assert read(event_type, SAMPLES[event_type]) is None

    def test_that_we_handle_start_a_run_or_are_a_notice(self) -> None:
        assert sorted(HANDLED_TYPES) == sorted([*READ, *NOTICES, *MAPPING])

    def test_that_a_search_asks_for_start_a_run_or_change_a_mapping(self) -> None:
        """What only tells somebody something is not told late, and legacy orders are older than any event."""
        assert sorted(SOUGHT_TYPES) == sorted({*READ, *MAPPING} - set(LEGACY))
        assert {*NOTICES, *LEGACY} == HANDLED_TYPES - SOUGHT_TYPES

    def test_of_payments_mean_that_money_came_in(self) -> None:
        assert sorted(PAYMENTS) == [
            "checkout.session.async_payment_succeeded",
            "checkout.session.completed",
            "invoice.paid",
            "order.payment_succeeded",
        ]

    def test_every_one_has_a_sample(self) -> None:
        assert SAMPLES.keys() == HANDLED_TYPES


class TestNotice:
    @pytest.mark.parametrize(("event_type", "metric"), NOTICES.items())
    def test_counts_what_starts_no_run_but_somebody_should_know(self, event_type: str, metric: str) -> None:
        assert notice(envelope(event(event_type, SAMPLES[event_type]))) == metric

    @pytest.mark.parametrize("event_type", ["balance.available", "invoice.created", "plan.updated", "prices.updated"])
    def test_is_none_of_any_other_type(self, event_type: str) -> None:
        content = {"metadata": {"dapps": "5"}}
        data = {"object": content, "previous_attributes": content}
        assert notice(envelope(event(event_type, {}, data=data))) is None

    @pytest.mark.parametrize("event_type", ["price.updated", "product.updated"])
    @pytest.mark.parametrize(
        ("previous", "metric"),
        [
            ({"metadata": {"dapps": "5"}}, "MappingChanged"),
            ({"metadata": {"dapps": None}}, "MappingChanged"),  # there was none before
            ({"metadata": {"dapps_quantity": "5", "other": "x"}}, "MappingChanged"),
            ({"metadata": {"other": "x"}}, None),
            ({"metadata": {"dapps ": "x"}}, None),
            ({"metadata": None}, None),
            ({"metadata": "dapps"}, None),
            ({"metadata": ["dapps"]}, None),
            ({"lookup_key": "big"}, "MappingChanged"),
            ({"lookup_key": None, "active": False}, "MappingChanged"),
            ({"active": False, "nickname": "dapps"}, None),
            ({}, None),
        ],
    )
    def test_of_a_mapping_compares_with_what_was_there_before(
        self, event_type: str, previous: dict[str, Any], metric: str | None
    ) -> None:
        assert notice(mapping_event(event_type, {"dapps": "6"}, previous)) == metric

    @pytest.mark.parametrize("event_type", [each for each in MAPPING if not each.endswith(".updated")])
    @pytest.mark.parametrize(
        ("metadata", "metric"),
        [
            ({"dapps": "5"}, "MappingChanged"),
            ({"other": "x", "dapps_quantity": "5"}, "MappingChanged"),
            ({"other": "dapps"}, None),
            ({}, None),
            (None, None),
            ("dapps", None),
            (["dapps"], None),
        ],
    )
    def test_of_a_mapping_that_comes_or_goes_reads_the_object(
        self, event_type: str, metadata: object, metric: str | None
    ) -> None:
        assert notice(mapping_event(event_type, metadata, {"metadata": {"dapps": "5"}})) == metric


class TestCheckout:
    def test_of_a_subscription_is_an_order_of_its_customer(self) -> None:
        content = session(
            id="cs_test_1", mode="subscription", customer="cus_1", currency="usd", metadata={"plan": "big"}
        )
        assert read_one("checkout.session.completed", content) == Order(
            event_id="evt_1",
            event_type="checkout.session.completed",
            livemode=False,
            order_id="cs_test_1",
            customer_id="cus_1",
            email="payer@example.com",
            name="Pat Payer",
            amount=2000,
            currency="usd",
            charge=None,
            items=(),
            metadata={"plan": "big"},
            status="paid",
            updated=CREATED,
        )

    @pytest.mark.parametrize(
        ("mode", "remembered"),
        [("payment", Purchase("cs_1", "session", 0, ())), ("subscription", None), ("setup", None), (None, None)],
    )
    def test_remembers_a_one_time_purchase(self, mode: str | None, remembered: Purchase | None) -> None:
        found = read_one("checkout.session.completed", session(id="cs_1", mode=mode, customer="cus_1"))
        assert (found.party, found.purchase) == ("cus_1", remembered)

    def test_of_a_guest_is_its_own_party(self) -> None:
        found = read_one("checkout.session.completed", session(id="cs_1"))
        assert (found.party, found.customer_id, found.email) == ("cs_1", None, "payer@example.com")
        assert found.purchase == Purchase("cs_1", "session", 0, ())

    @pytest.mark.parametrize(
        ("details", "prefilled", "email"),
        [
            ({"email": "a@example.com"}, "b@example.com", "a@example.com"),
            ({"email": None}, "B@example.com", "b@example.com"),
            (None, "b@example.com", "b@example.com"),
            ([], "b@example.com", "b@example.com"),
        ],
    )
    def test_takes_the_address_that_the_payer_typed_before_the_prefilled_one(
        self, details: object, prefilled: str, email: str
    ) -> None:
        content = session(customer_details=details, customer_email=prefilled)
        assert read_one("checkout.session.completed", content).email == email

    @pytest.mark.parametrize("details", [None, {}, {"email": None}, {"email": MARKER}, {"email": [MARKER]}])
    def test_of_a_guest_without_an_address_is_unusable(self, details: object) -> None:
        complaint = "^the session has neither a customer nor a usable e-mail address$"
        with pytest.raises(UnusableEvent, match=complaint):
            read("checkout.session.completed", session(customer_details=details, customer_email=MARKER))

    @pytest.mark.parametrize(
        ("event_type", "mode"), [("checkout.session.expired", "payment"), ("checkout.session.completed", "setup")]
    )
    def test_of_nobody_who_bought_nothing_is_no_order(self, event_type: str, mode: str) -> None:
        assert read(event_type, session(mode=mode)) is None

    @pytest.mark.parametrize(
        ("event_type", "status"),
        [("completed", "paid"), ("async_payment_succeeded", "paid"), ("expired", "canceled")],
    )
    def test_has_the_status_of_its_event(self, event_type: str, status: str) -> None:
        assert read_one(f"checkout.session.{event_type}", session(customer="cus_1")).status == status

    def test_that_expired_can_never_be_paid(self) -> None:
        assert read_one("checkout.session.expired", session(customer="cus_1", mode="payment")).purchase is None


class TestSubscription:
    def test_is_an_order_of_its_customer_with_its_items(self) -> None:
        found = read_one("customer.subscription.updated", stripe_object("subscription"))
        assert (found.party, found.order_id) == ("cus_QXg1o8vcGmoR32", "sub_1Pgc6rB7WZ01zgkWNy0Cn5nw")
        assert found.items == (OrderItem("price_1PgafmB7WZ01zgkW6dKueIc5", 1),)

    @pytest.mark.parametrize(
        ("row", "items"),
        [
            ({"price": {"id": "price_1"}, "quantity": 3}, (OrderItem("price_1", 3),)),
            ({"price": "price_1", "quantity": 3}, (OrderItem("price_1", 3),)),
            ({"plan": {"id": "plan_1"}, "quantity": 3}, (OrderItem("plan_1", 3),)),
            ({"price": {"id": "price_1"}, "plan": {"id": "plan_1"}}, (OrderItem("price_1", None),)),
            ({"quantity": 3}, ()),
            (MARKER, ()),
        ],
    )
    def test_reads_items_of_any_api_version(self, row: object, items: tuple[OrderItem, ...]) -> None:
        content = stripe_object("subscription", items={"object": "list", "data": [row]})
        assert read_one("customer.subscription.created", content).items == items

    @pytest.mark.parametrize("rows", [None, [], MARKER, {}, {"data": None}, {"data": {"price": "price_1"}}])
    def test_without_a_list_of_items_has_none(self, rows: object) -> None:
        assert read_one("customer.subscription.created", stripe_object("subscription", items=rows)).items == ()

    def test_takes_an_expanded_customer(self) -> None:
        content = stripe_object("subscription", customer={"id": "cus_1", "object": "customer"})
        assert read_one("customer.subscription.created", content).customer_id == "cus_1"

    @pytest.mark.parametrize(("event_type", "status"), [("deleted", "canceled"), ("paused", "paid")])
    def test_has_the_status_of_its_event(self, event_type: str, status: str) -> None:
        assert read_one(f"customer.subscription.{event_type}", stripe_object("subscription")).status == status


class TestInvoice:
    def test_is_an_order_of_its_customer(self) -> None:
        content = stripe_object("invoice", customer_email="Payer@Example.com", customer_name="Pat Payer")
        found = read_one("invoice.paid", content)
        assert (found.party, found.order_id) == ("cus_QXg1o8vcGmoR32", "in_1Pgc6tB7WZ01zgkWu9fdqL6I")
        assert (found.email, found.name) == ("payer@example.com", "Pat Payer")
        assert (found.amount, found.currency, found.updated) == (1000, "usd", CREATED)

    @pytest.mark.parametrize(
        "line",
        [
            {"price": {"id": "price_1"}, "quantity": 2},
            {"pricing": {"type": "price_details", "price_details": {"price": "price_1"}}, "quantity": 2},
            {"pricing": {"price_details": {"price": {"id": "price_1"}}}, "price": None, "quantity": 2},
            {"pricing": {"price_details": None}, "price": "price_1", "quantity": 2},
        ],
        ids=["before basil", "since basil", "expanded", "both fields"],
    )
    def test_reads_lines_before_and_after_their_price_moved(self, line: dict[str, Any]) -> None:
        content = stripe_object("invoice", lines={"object": "list", "data": [line]})
        assert read_one("invoice.paid", content).items == (OrderItem("price_1", 2),)

    @pytest.mark.parametrize("email", [None, MARKER, [MARKER], "a@b"])
    def test_with_a_useless_address_is_still_an_order(self, email: object) -> None:
        assert read_one("invoice.paid", stripe_object("invoice", customer_email=email)).email is None

    @pytest.mark.parametrize(
        ("event_type", "status"),
        [("paid", "paid"), ("overdue", "paid"), ("voided", "canceled"), ("marked_uncollectible", "canceled")],
    )
    def test_has_the_status_of_its_event(self, event_type: str, status: str) -> None:
        assert read_one(f"invoice.{event_type}", stripe_object("invoice")).status == status


class TestCustomer:
    @pytest.mark.parametrize(("event_type", "status"), [("updated", "paid"), ("deleted", "canceled")])
    def test_is_its_own_order(self, event_type: str, status: str) -> None:
        content = stripe_object("customer", id="cus_1", email="Payer@Example.com")
        found = read_one(f"customer.{event_type}", content)
        assert (found.order_id, found.customer_id, found.party) == ("cus_1", "cus_1", "cus_1")
        assert (found.email, found.status) == ("payer@example.com", status)


class TestMark:
    @pytest.mark.parametrize("event_type", MARKING)
    def test_is_an_order_of_its_own_that_names_the_charge(self, event_type: str) -> None:
        found = read_one(event_type, SAMPLES[event_type])
        own_id = SAMPLES[event_type]["id"]
        assert (found.order_id, found.customer_id, found.party, found.charge) == (own_id, None, own_id, "ch_1")
        assert found.status == ("returned" if MARKING[event_type] == "refund" else "paid")
        assert (found.purchase, found.items, found.email, found.updated) == (None, (), None, CREATED)

    @pytest.mark.parametrize("event_type", [each for each in MARKING if each != WARNING])
    def test_tells_the_amount_of_the_refund_or_dispute(self, event_type: str) -> None:
        found = read_one(event_type, {**SAMPLES[event_type], "currency": "eur"})
        assert (found.amount, found.currency) == (40, "eur")

    @pytest.mark.parametrize("event_type", [each for each in MARKING if each != "charge.refunded"])
    def test_takes_an_expanded_charge(self, event_type: str) -> None:
        content = {**SAMPLES[event_type], "charge": stripe_object("charge", id="ch_2")}
        assert read_one(event_type, content).charge == "ch_2"

    @pytest.mark.parametrize("charge", [None, "", 7, [MARKER], {}, {"id": None}, f"{MARKER} "])
    @pytest.mark.parametrize("event_type", [each for each in MARKING if each != "charge.refunded"])
    def test_of_no_charge_is_unusable(self, event_type: str, charge: object) -> None:
        with pytest.raises(UnusableEvent, match=r"^charge is missing or not a Stripe id$") as caught:
            read(event_type, {**SAMPLES[event_type], "charge": charge})
        assert MARKER not in str(caught.value)

    @pytest.mark.parametrize("customer", [None, "cus_1", [MARKER], f"{MARKER} "])
    @pytest.mark.parametrize("event_type", MARKING)
    def test_asks_stripe_whose_it_is(self, event_type: str, customer: object) -> None:
        assert read_one(event_type, {**SAMPLES[event_type], "customer": customer}).customer_id is None

    @pytest.mark.parametrize(("event_type", "kind"), MARKING.items())
    def test_is_remembered_under_the_id_whose_state_is_asked_for(self, event_type: str, kind: MarkKind) -> None:
        known_as = "ch_1" if kind == "refund" else "own_1"
        assert mark(event_type, "own_1", "ch_1") == Mark(known_as, kind, "ch_1", pays=None, until=None)

    @pytest.mark.parametrize(
        "event_type", ["charge.succeeded", "charge.disputed", "invoice.paid", "a.refund.created", ""]
    )
    def test_is_nothing_else(self, event_type: str) -> None:
        with pytest.raises(UnusableEvent, match=f"^{event_type} concerns no charge$"):
            mark(event_type, "own_1", "ch_1")


class TestCreditNote:
    def test_is_an_order_of_its_customer(self) -> None:
        found = read_one("credit_note.created", SAMPLES["credit_note.created"])
        assert (found.order_id, found.party, found.amount, found.status) == ("cn_1", "cus_1", 40, "returned")
        assert (found.currency, found.charge, found.purchase) == ("usd", None, None)

    @pytest.mark.parametrize("customer", [None, "", [MARKER], f"{MARKER} "])
    def test_of_no_customer_is_unusable(self, customer: object) -> None:
        with pytest.raises(UnusableEvent, match=r"^customer is missing or not a Stripe id$") as caught:
            read("credit_note.created", {**SAMPLES["credit_note.created"], "customer": customer})
        assert MARKER not in str(caught.value)


class TestLegacyOrder:
    def test_of_the_first_gateway_is_read_to_the_letter(self) -> None:
        found = read_one("order.payment_succeeded", LEGACY_ORDER)
        assert found == Order(
            event_id="evt_1",
            event_type="order.payment_succeeded",
            livemode=False,
            order_id="or_1ESq9uLJpPPc8UJfhy80WPz2",
            customer_id=None,
            email="juan@eximchain.com",
            name="Juan Huertas",
            amount=300,
            currency="usd",
            charge="ch_1ESq9uLJpPPc8UJfVTVfBBph",
            items=(OrderItem("1", 1),),
            metadata={},
            status="paid",
            updated=1556131771,
        )
        assert found.purchase == Purchase(LEGACY_ORDER["id"], "paid", 15561317711, (OrderItem("1", 1),))
        assert found.party == LEGACY_ORDER["id"]

    @pytest.mark.parametrize(
        ("created", "kept"),
        [(1556131700, 1556131700), (0, 0), *((each, None) for each in (None, "1556131700", 1.5, True, 10**15, {}))],
    )
    def test_keeps_when_it_was_made(self, created: object, kept: int | None) -> None:
        """What was bought before an account's deletion counts no more."""
        found = read_one("order.updated", legacy(created=created, updated=1556131771))
        assert found.purchase is not None
        assert (found.purchase.created, found.updated) == (kept, 1556131771)

    def test_of_a_customer_is_its_own_party(self) -> None:
        found = read_one("order.updated", legacy(customer="cus_1"))
        assert (found.customer_id, found.party) == ("cus_1", LEGACY_ORDER["id"])

    @pytest.mark.parametrize(
        ("status", "of_order"),
        [
            ("created", "paid"),
            ("paid", "paid"),
            ("fulfilled", "paid"),
            ("canceled", "canceled"),
            ("returned", "returned"),
        ],
    )
    def test_keeps_its_own_status_with_the_purchase(self, status: str, of_order: str) -> None:
        found = read_one("order.updated", legacy(status=status))
        assert found.purchase is not None
        assert (found.purchase.status, found.status) == (status, of_order)

    def test_versions_rise_with_updated_and_then_with_the_finality_of_the_status(self) -> None:
        rising = [
            legacy(updated=10, status="returned"),
            *(legacy(updated=11, status=each) for each in ("created", "paid", "canceled", "returned")),
            legacy(updated=12, status="created"),
        ]
        versions = [found.version for each in rising if (found := read_one("order.updated", each).purchase)]
        assert versions == sorted(set(versions))
        assert len(versions) == len(rising)

    @pytest.mark.parametrize("charge", [None, MARKER + "!", 7, [], {}])
    def test_needs_no_charge(self, charge: object) -> None:
        assert read_one("order.updated", legacy(charge=charge)).charge is None

    @pytest.mark.parametrize("shipping", [None, MARKER, [], {}, {"name": 7}])
    def test_needs_no_name(self, shipping: object) -> None:
        assert read_one("order.updated", legacy(shipping=shipping)).name is None

    @pytest.mark.parametrize("updated", [None, "1556131771", 1.5, True, 10**15, {}])
    def test_without_a_readable_moment_is_older_than_any_other(self, updated: object) -> None:
        found = read_one("order.updated", legacy(updated=updated))
        assert found.purchase is not None
        assert (found.updated, found.purchase.version) == (0, 1)

    @pytest.mark.parametrize(
        ("changed", "complaint"),
        [
            *(({"status": each}, "the order's status is missing or unknown") for each in (None, 1, ["paid"], MARKER)),
            *(({"customer": each}, "customer is missing or not a Stripe id") for each in ([MARKER], "")),
            ({"email": None}, "the e-mail address is missing or not text"),
            ({"email": MARKER}, "the e-mail address is malformed"),
            *(({"items": each}, "the order has no list of items") for each in (None, MARKER, {"data": []})),
            *(({"items": [each]}, "an item of the order is not an object") for each in (None, MARKER)),
            *(
                ({"items": [{"type": "sku", "quantity": 1, "parent": each}]}, "an item of the order names no sku")
                for each in (None, "", "x" * 501, {"id": MARKER})
            ),
            *(
                (
                    {"items": [{"type": "sku", "parent": MARKER, "quantity": each}]},
                    "an item of the order has no whole quantity",
                )
                for each in (None, -1, 1.0, 0.5, "1", True, [1], 10**15, float("nan"), float("inf"))
            ),
        ],
    )
    def test_with_a_bad_field_is_unusable(self, changed: dict[str, Any], complaint: str) -> None:
        with pytest.raises(UnusableEvent, match=f"^{complaint}$"):
            read("order.payment_succeeded", legacy(**changed))

    @pytest.mark.parametrize("items", [[], [{"type": "tax"}, {}], [{"type": ["sku"], "parent": "1"}]])
    def test_without_goods_has_no_items(self, items: list[Any]) -> None:
        assert read_one("order.updated", legacy(items=items)).items == ()

    def test_keeps_goods_of_any_size_behind_what_is_none(self) -> None:
        rows = [{"type": "tax"}, *({"type": "sku", "parent": "x" * 500, "quantity": each} for each in (0, 1))]
        found = read_one("order.updated", legacy(items=rows))
        assert found.items == (OrderItem("x" * 500, 0), OrderItem("x" * 500, 1))


class TestLegacyReturn:
    @pytest.mark.parametrize("reference", [LEGACY_ORDER["id"], LEGACY_ORDER])
    def test_returns_its_order(self, reference: object) -> None:
        found = read_one("order_return.created", {**LEGACY_RETURN, "order": reference})
        assert (found.order_id, found.party, found.status) == (LEGACY_ORDER["id"], LEGACY_ORDER["id"], "returned")
        assert found.purchase == Purchase(LEGACY_ORDER["id"], "returned", 15562000003, ())
        assert (found.amount, found.currency, found.updated) == (300, "usd", 1556200000)

    def test_without_a_readable_moment_is_older_than_any_other(self) -> None:
        found = read_one("order_return.created", {**LEGACY_RETURN, "created": None})
        assert found.purchase is not None
        assert (found.updated, found.purchase.version) == (0, 3)

    @pytest.mark.parametrize("reference", [None, "", 7, [], {}, f"{MARKER}?"])
    def test_of_no_order_is_unusable(self, reference: object) -> None:
        with pytest.raises(UnusableEvent, match=r"^the return names no order$") as caught:
            read("order_return.created", {**LEGACY_RETURN, "order": reference})
        assert MARKER not in str(caught.value)


class TestEmailAddress:
    @pytest.mark.parametrize(
        ("value", "address"),
        [
            ("juan@eximchain.com", "juan@eximchain.com"),
            ("  Juan@EximChain.COM\n", "juan@eximchain.com"),
            ("juan+gateway@mail.example.co.uk", "juan+gateway@mail.example.co.uk"),
            ("jörg@exämple.de", "jörg@exämple.de"),
            ("o.k.{x}!#$%&*/=?^_`|~-@example.com", "o.k.{x}!#$%&*/=?^_`|~-@example.com"),
            ("a" * 116 + "@example.com", "a" * 116 + "@example.com"),
        ],
    )
    def test_is_trimmed_and_lowered(self, value: str, address: str) -> None:
        assert email_address(value) == address

    @pytest.mark.parametrize(
        "value",
        [
            *(None, 7, 1.5, True, [], {}, ["juan@example.com"], b"juan@example.com"),
            *("", " ", "juan", "@example.com", "juan@", "juan@example", "juan@example.", "a@b@example.com"),
            *("juan huertas@example.com", "juan@exam ple.com", "juan\t@example.com", "juan\u00a0@example.com"),
            *("juan\n@example.com", "juan@example.com\r\nBcc: eve@example.com", "juan\x00@example.com"),
            *('"juan"@example.com', "juan\\@example.com", "<juan@example.com>"),
            *("Juan <juan@example.com>", "juan@example.com,eve@example.com", "juan@example.com;eve@example.com"),
            *("juan(x)@example.com", "juan:x@example.com", "juan\x7f@example.com"),
            *("a" * 117 + "@example.com", "a" * 20_000 + "@example.com"),
        ],
    )
    def test_that_nobody_could_receive_mail_at_is_unusable(self, value: object) -> None:
        complaint = "(is missing or not text|is longer than 128 characters|is malformed)"
        with pytest.raises(UnusableEvent, match=f"^the e-mail address {complaint}$"):
            email_address(value)

    def test_may_have_an_apostrophe(self) -> None:
        assert email_address("O'Neil@example.com") == "o'neil@example.com"

    @given(st.text(max_size=140) | st.emails())
    @example("İ" * 64 + "@example.com")  # longer in lower case
    def test_fits_a_cognito_user_name_or_is_unusable(self, value: str) -> None:
        try:
            address = email_address(value)
        except UnusableEvent:
            return
        assert len(address) <= 128
        assert address == address.strip().lower()
        assert not any(each.isspace() or each in '"\\<>' for each in address)
        assert email_address(address) == address


class TestFields:
    @pytest.mark.parametrize("value", [None, "", 7, [], [MARKER], {}, {"id": None}, {"id": [MARKER]}, f"{MARKER} "])
    @pytest.mark.parametrize(
        "event_type", ["customer.subscription.updated", "subscription_schedule.updated", "invoice.paid"]
    )
    def test_a_needed_customer_that_is_none_is_unusable(self, event_type: str, value: object) -> None:
        with pytest.raises(UnusableEvent, match=r"^customer is missing or not a Stripe id$") as caught:
            read(event_type, {**SAMPLES[event_type], "customer": value})
        assert MARKER not in str(caught.value)

    @pytest.mark.parametrize("value", ["", 7, [MARKER], {"id": None}, f"{MARKER}\n"])
    @pytest.mark.parametrize("event_type", ["checkout.session.completed", "checkout.session.expired", "order.updated"])
    def test_an_optional_customer_is_absent_or_right(self, event_type: str, value: object) -> None:
        with pytest.raises(UnusableEvent, match=r"^customer is missing or not a Stripe id$") as caught:
            read(event_type, {**SAMPLES[event_type], "customer": value})
        assert MARKER not in str(caught.value)

    @pytest.mark.parametrize("value", [None, "100", 1.5, True, [], {}, 10**15, -(10**15), 10**400])
    def test_an_amount_that_is_no_whole_number_is_left_out(self, value: object) -> None:
        assert read_one("invoice.paid", stripe_object("invoice", amount_due=value)).amount is None
        assert read_one("invoice.paid", stripe_object("invoice", created=value)).updated == 0

    @pytest.mark.parametrize("value", [-(10**15) + 1, -3, 0, 10**15 - 1])
    def test_an_amount_may_be_any_whole_number_that_dynamodb_takes(self, value: int) -> None:
        assert read_one("invoice.paid", stripe_object("invoice", amount_due=value)).amount == value

    def test_a_long_text_is_cut(self) -> None:
        assert read_one("invoice.paid", stripe_object("invoice", customer_name="x" * 20_000)).name == "x" * 500

    @pytest.mark.parametrize(
        ("metadata", "kept"),
        [
            (None, {}),
            ("text", {}),
            ([["a", "b"]], {}),
            ({"a": "b", "c": 1, "d": None, "e": {"f": "g"}, "h": ["i"]}, {"a": "b"}),
            ({"k" * 50: "v" * 600}, {"k" * 40: "v" * 500}),
            ({"naïve 🦄\n": "“x”\0"}, {"naïve 🦄\n": "“x”\0"}),
        ],
    )
    def test_metadata_is_text_within_stripes_own_bounds(self, metadata: object, kept: dict[str, str]) -> None:
        assert read_one("invoice.paid", stripe_object("invoice", metadata=metadata)).metadata == kept

    def test_metadata_has_at_most_fifty_entries(self) -> None:
        many = {str(number): "x" for number in range(1_000)}
        assert len(read_one("invoice.paid", stripe_object("invoice", metadata=many)).metadata) == 50


class TestOurOwnOrders:
    @pytest.mark.parametrize(("party", "customer_id"), [("cus_1", "cus_1"), ("cs_1", None), ("or_1", None)])
    def test_a_recheck_is_an_order_of_its_party(self, party: str, customer_id: str | None) -> None:
        sub = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
        found = events.recheck(sub, party, CREATED, livemode=True)
        assert found.event_id == f"recheck_0f1e2d3c4b5a69788796a5b4c3d2e1f0_{CREATED}"
        assert found.event_type == "gateway.recheck"
        assert (found.party, found.customer_id, found.livemode, found.updated) == (party, customer_id, True, CREATED)
        assert len(f"{found.event_id}-r14") <= 80  # Step Functions' bound of an execution name
        _assert_sound(found)

    def test_a_recheck_that_is_asked_for_is_named_after_the_request(self) -> None:
        """Two requests in the same second about one person are two orders."""
        found = [
            events.recheck("u-1", "cus_1", CREATED, livemode=False, asked=asked) for asked in ("re-quest-1", "", "2")
        ]
        assert [each.event_id for each in found] == [f"recheck_{x}_{CREATED}" for x in ("request1", "u1", "2")]
        assert {(each.party, each.order_id, each.customer_id) for each in found} == {("cus_1", "cus_1", "cus_1")}

    @pytest.mark.parametrize("event_type", sorted(HANDLED_TYPES))
    def test_an_unusable_event_keeps_what_an_operator_searches_for(self, event_type: str) -> None:
        content = {**SAMPLES[event_type], "customer": [MARKER], "email": MARKER, "status": MARKER, "items": MARKER}
        found = events.unusable(envelope(event(event_type, content)))
        assert (found.event_id, found.event_type, found.party) == ("evt_1", event_type, content["id"])
        assert found.status == "paid"
        assert (found.customer_id, found.email, found.purchase) == (None, None, None)
        assert MARKER not in repr(found)

    @pytest.mark.parametrize(
        ("order_id", "customer_id", "party"),
        [("in_1", "cus_1", "cus_1"), ("cs_1", None, "cs_1"), ("or_1", "cus_1", "or_1"), ("or_1", None, "or_1")],
    )
    def test_the_party_is_the_customer_unless_there_is_none_or_the_order_is_legacy(
        self, order_id: str, customer_id: str | None, party: str
    ) -> None:
        assert events.party_of(order_id, customer_id) == party


# ------------------------------------------------------------------ whatever arrives

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(MARKER)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
STRANGE: list[Any] = [
    *(None, True, 0, -1, 0.5, 1.0, 10**30, float("nan"), "", "x", MARKER, MARKER * 1_000, "\ud800", "\n'\"\\\0"),
    *([], [MARKER], [[]], {}, {"id": MARKER + "!"}, {"id": {}}, {"data": [MARKER]}, {"data": [{"price": []}]}),
]


def _deep(levels: int) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for _ in range(levels):
        nested = {"id": nested, "data": [nested], "email": nested}
    return nested


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) within an object."""
    for key in list(content) if isinstance(content, dict) else range(len(content)):
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


def _assert_sound(found: Order) -> None:
    """It can be stored, and every part of it has the type that it says."""
    TypeSerializer().serialize(asdict(found))  # raises on floats
    identifiers = (found.order_id, found.party, *(each for each in (found.customer_id, found.charge) if each))
    assert all(each.isascii() and re.fullmatch(r"[A-Za-z0-9_.-]+", each) for each in identifiers)
    assert found.status in ("paid", "canceled", "returned")
    assert all(value is None or len(value) <= 500 for value in (found.email, found.name, found.currency))
    assert all(isinstance(each, str) for pair in found.metadata.items() for each in pair)
    for item in found.items:
        assert item.quantity is None or type(item.quantity) is int
        assert 0 < len(item.price) <= 500
    for name in ("amount", "updated"):
        value = getattr(found, name)
        assert (value is None and name == "amount") or type(value) is int


def _read_or_refused(event_type: str, content: object) -> None:
    try:
        found = read(event_type, content)
    except (UnreadableEnvelope, UnusableEvent) as error:
        assert MARKER not in str(error)
    else:
        if found is not None:
            _assert_sound(found)


@pytest.mark.parametrize("event_type", ONE_OF_EACH_KIND)
def test_any_field_of_any_event_may_be_strange_or_missing(event_type: str) -> None:
    content = copy.deepcopy(SAMPLES[event_type])
    for container, key in _places(content):
        kept = container[key]
        for value in STRANGE:
            container[key] = value
            _read_or_refused(event_type, content)
        if isinstance(container, dict):
            del container[key]
            _read_or_refused(event_type, content)
        container[key] = kept


@pytest.mark.parametrize("event_type", ONE_OF_EACH_KIND)
def test_deep_nesting_is_not_followed(event_type: str) -> None:
    deep = _deep(5_000)
    for name in SAMPLES[event_type]:
        _read_or_refused(event_type, {**SAMPLES[event_type], name: deep})


@given(JSON)
def test_any_json_is_an_envelope_or_unreadable(body: object) -> None:
    with pytest.raises(UnreadableEnvelope) as caught:
        envelope(body)
    assert MARKER not in str(caught.value)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "id": st.just("evt_1") | JSON,
            "type": st.sampled_from(sorted(HANDLED_TYPES)) | JSON,
            "livemode": st.booleans() | JSON,
            "account": JSON,
            "object": st.just("event") | JSON,
            "data": st.fixed_dictionaries({"object": st.fixed_dictionaries({"id": st.just("x_1") | JSON})}) | JSON,
        },
    )
)
def test_anything_like_an_event_is_an_envelope_or_unreadable(body: dict[str, Any]) -> None:
    try:
        found = envelope(body)
    except UnreadableEnvelope as error:
        assert MARKER not in str(error)
    else:
        assert isinstance(found.livemode, bool)
        assert found.account is None or isinstance(found.account, str)


@settings(max_examples=300)
@given(st.sampled_from(sorted(HANDLED_TYPES)), st.data())
def test_several_fields_of_an_event_may_be_anything(event_type: str, data: st.DataObject) -> None:
    content = SAMPLES[event_type]
    names = data.draw(st.lists(st.sampled_from(sorted(content)), max_size=6, unique=True))
    _read_or_refused(event_type, {**content, **{name: data.draw(JSON, label=name) for name in names}})


@given(st.sampled_from(sorted(HANDLED_TYPES)), st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_any_object_is_read_or_unusable(event_type: str, content: dict[str, Any]) -> None:
    try:
        found = order(Envelope("evt_1", event_type, False, None, content))
    except UnusableEvent as error:
        assert MARKER not in str(error)
    else:
        assert found is None


def test_an_order_always_fits_the_ledger() -> None:
    rows = [{"id": f"il_{number}", "price": {"id": "price_1"}, "quantity": 1} for number in range(500)]
    found = read("invoice.paid", {**SAMPLES["invoice.paid"], "lines": {"data": rows}, "metadata": {"": "nameless"}})
    assert found is not None
    assert (len(found.items), found.metadata) == (100, {})
    goods = LEGACY_ORDER["items"][:1]
    assert len(read_one("order.updated", legacy(items=goods * 100)).items) == 100
    with pytest.raises(UnusableEvent, match=r"^the order has more than 100 items$"):
        read("order.updated", legacy(items=goods * 101))
