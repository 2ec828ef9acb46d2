"""The Stripe stand-in behaves like Stripe where the gateway looks, seen through Stripe's own library."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import requests
import stripe

from tests.local.stripe_account import ApiError, StripeAccount
from tests.local.stripe_http import StripeServer, decode_form
from tests.local.stripe_objects import API_VERSION, ShapeError, check
from tests.local.stripe_store import difference

Json = dict[str, Any]

KEY = "sk_test_standin"
SECRET = "whsec_standin"
NOW = 1_767_225_600  # 2026-01-01T00:00:00Z
MONTH_LATER = 1_769_904_000  # 2026-02-01


class Receiver:
    """A webhook endpoint that answers as told and remembers what came."""

    def __init__(self) -> None:
        receiver = self
        self.statuses: list[int] = []
        self.calls: list[tuple[bytes, str]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.calls.append((body, self.headers["Stripe-Signature"]))
                self.send_response(receiver.statuses.pop(0) if receiver.statuses else 200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def events(self) -> list[Json]:
        return [json.loads(body) for body, _ in self.calls]


@pytest.fixture
def clock() -> dict[str, float]:
    return {"now": NOW + 0.7}


@pytest.fixture
def account(clock: dict[str, float]) -> Iterator[StripeAccount]:
    account = StripeAccount(clock=lambda: clock["now"], keys={KEY}, backoff=0.01, attempts=4, timeout=5)
    yield account
    account.close()


@pytest.fixture
def server(account: StripeAccount) -> Iterator[StripeServer]:
    with StripeServer(account) as server:
        yield server


@pytest.fixture
def client(server: StripeServer) -> stripe.StripeClient:
    return stripe.StripeClient(KEY, base_addresses={"api": server.url}, max_network_retries=0)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


@pytest.fixture
def price(account: StripeAccount) -> str:
    product = account.create_product("Seats", {"dapps": "2"})
    return str(account.create_price(product["id"], 900, recurring={"interval": "month"})["id"])


@pytest.fixture
def once(account: StripeAccount) -> str:
    product = account.create_product("Seat for ever")
    return str(account.create_price(product["id"], 5000)["id"])


def types_of(account: StripeAccount, since: int = 0) -> list[str]:
    return [event["type"] for event in account.events[since:]]


def status_of(account: StripeAccount, subscription: str) -> str:
    return str(account.get("subscription", subscription)["status"])


# Checkout


def test_a_subscription_checkout_emits_stripes_burst_in_order(account: StripeAccount, price: str) -> None:
    before = len(account.events)
    session = account.checkout("ann@example.com", price, 3, name="Ann")
    assert types_of(account, before) == [
        "customer.created",
        "customer.subscription.created",
        "payment_intent.created",
        "charge.succeeded",
        "payment_intent.succeeded",
        "invoice.created",
        "invoice.finalized",
        "invoice_payment.paid",
        "invoice.paid",
        "invoice.payment_succeeded",
        "checkout.session.completed",
        "customer.subscription.updated",
    ]
    assert session["payment_status"] == "paid"
    assert session["customer_details"]["email"] == "ann@example.com"
    assert session["amount_total"] == 2700
    created, updated = account.events[before + 1], account.events[-1]
    assert created["data"]["object"]["status"] == "incomplete"
    assert updated["data"]["object"]["status"] == "active"
    assert updated["data"]["previous_attributes"] == {"status": "incomplete"}


def test_the_objects_have_the_current_shapes(account: StripeAccount, price: str) -> None:
    session = account.checkout("ann@example.com", price, 3)
    subscription = account.get("subscription", session["subscription"])
    item = subscription["items"]["data"][0]
    assert "current_period_end" not in subscription
    assert (item["current_period_start"], item["current_period_end"]) == (NOW, MONTH_LATER)
    invoice = account.get("invoice", session["invoice"])
    assert invoice["parent"]["subscription_details"]["subscription"] == subscription["id"]
    assert invoice["lines"]["data"][0]["pricing"]["price_details"]["price"] == price
    assert invoice["status_transitions"] == {
        "finalized_at": NOW,
        "marked_uncollectible_at": None,
        "paid_at": NOW,
        "voided_at": None,
    }
    assert "invoice" not in account.charge_of(session["id"])
    assert subscription["latest_invoice"] == invoice["id"]
    assert account.events[-1]["api_version"] == API_VERSION


def test_every_buyer_is_a_new_customer_unless_one_is_named(account: StripeAccount, price: str) -> None:
    first = account.checkout("ann@example.com", price)
    second = account.checkout("ann@example.com", price)
    third = account.checkout(None, price, customer=first["customer"])
    assert first["customer"] != second["customer"]
    assert third["customer"] == first["customer"]
    assert third["customer_details"]["email"] == "ann@example.com"


def test_a_guest_order_has_no_customer(account: StripeAccount, once: str) -> None:
    guest = account.checkout("guest@example.com", once, 2, mode="payment")
    assert (guest["customer"], guest["payment_status"]) == (None, "paid")
    assert account.get("payment_intent", guest["payment_intent"])["amount"] == 10000
    asked = account.checkout("guest@example.com", once, mode="payment", customer_creation="always")
    assert asked["customer"].startswith("cus_")


@pytest.mark.parametrize(("succeeded", "status"), [(True, "paid"), (False, "unpaid")])
def test_a_delayed_payment_settles_later(account: StripeAccount, price: str, succeeded: bool, status: str) -> None:
    session = account.checkout("ann@example.com", price, paid=False)
    assert session["payment_status"] == "unpaid"
    assert status_of(account, session["subscription"]) == "active"
    settled = account.async_payment(session["id"], succeeded)
    assert settled["payment_status"] == status
    assert status_of(account, session["subscription"]) == "active"
    assert account.get("invoice", session["invoice"])["status"] == ("paid" if succeeded else "open")
    outcome = "succeeded" if succeeded else "failed"
    assert account.events[-1]["type"] == f"checkout.session.async_payment_{outcome}"


def test_a_trial_costs_nothing_until_it_ends(account: StripeAccount, price: str) -> None:
    session = account.checkout("ann@example.com", price, trial_days=14)
    assert session["payment_status"] == "no_payment_required"
    trial = account.get("subscription", session["subscription"])
    assert (trial["status"], trial["trial_end"]) == ("trialing", NOW + 14 * 86400)
    assert account.end_trial(trial["id"], "failed")["status"] == "past_due"


def test_a_trial_without_a_payment_method_pauses_and_resumes(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price, trial_days=14)["subscription"]
    assert account.end_trial(subscription, "paused")["status"] == "paused"
    assert account.events[-1]["type"] == "customer.subscription.paused"
    assert account.resume(subscription)["status"] == "active"
    assert account.events[-1]["type"] == "customer.subscription.resumed"


# Subscriptions


def test_dunning_fails_recovers_and_gives_up(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    failed = account.fail_payment(subscription)
    invoice = account.get("invoice", failed["latest_invoice"])
    assert failed["status"] == "past_due"
    assert (invoice["status"], invoice["attempted"], invoice["attempt_count"]) == ("open", True, 1)
    account.fail_payment(subscription)
    assert account.get("invoice", invoice["id"])["attempt_count"] == 2
    assert account.recover_payment(subscription)["status"] == "active"
    account.fail_payment(subscription)
    assert account.exhaust_dunning(subscription, "unpaid")["status"] == "unpaid"
    account.fail_payment(account.checkout("b@example.com", price)["subscription"])
    ended = account.objects["subscription"]
    last = list(ended)[-1]
    canceled = account.exhaust_dunning(last, "canceled")
    assert canceled["cancellation_details"]["reason"] == "payment_failed"
    assert canceled["ended_at"] == NOW


def test_an_old_invoice_paid_leaves_a_newer_draft_unpaid(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    old = account.fail_payment(subscription)["latest_invoice"]
    account.exhaust_dunning(subscription, "unpaid")
    account.renew(subscription)
    account.pay_invoice(old)
    assert status_of(account, subscription) == "unpaid"
    assert account.recover_payment(subscription)["status"] == "active"


def test_writing_off_the_latest_invoice_makes_a_past_due_subscription_active(
    account: StripeAccount, price: str
) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    account.mark_uncollectible(account.fail_payment(subscription)["latest_invoice"])
    assert status_of(account, subscription) == "active"


def test_an_incomplete_subscription_expires_or_is_paid(account: StripeAccount, price: str) -> None:
    customer = account.create_customer("ann@example.com")["id"]
    declined = account.create_subscription(customer, price, first_payment="failed")
    assert declined["status"] == "incomplete"
    assert account.expire_incomplete(declined["id"])["status"] == "incomplete_expired"
    awaited = account.create_subscription(customer, price, first_payment="awaited")
    assert account.recover_payment(awaited["id"])["status"] == "active"


def test_cancel_at_does_not_set_cancel_at_period_end(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    scheduled = account.cancel(subscription, cancel_at=NOW + 60)
    assert (scheduled["cancel_at"], scheduled["cancel_at_period_end"]) == (NOW + 60, False)
    assert account.keep(subscription)["cancel_at"] is None
    at_end = account.cancel(subscription, at_period_end=True)
    assert (at_end["cancel_at"], at_end["cancel_at_period_end"]) == (MONTH_LATER, True)
    assert account.renew(subscription)["status"] == "canceled"
    assert account.events[-1]["type"] == "customer.subscription.deleted"


@pytest.mark.parametrize(
    ("behavior", "invoice"),
    [("void", "void"), ("keep_as_draft", "draft"), ("mark_uncollectible", "uncollectible")],
)
def test_a_paused_collection_decides_what_becomes_of_a_renewals_invoice(
    account: StripeAccount, price: str, behavior: Any, invoice: str
) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    account.pause_collection(subscription, behavior)
    renewed = account.renew(subscription)
    assert renewed["status"] == "active"
    assert account.get("invoice", renewed["latest_invoice"])["status"] == invoice


def test_an_update_names_what_was_before(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price, 3)["subscription"]
    account.change_quantity(subscription, 5)
    previous = account.events[-1]["data"]["previous_attributes"]
    assert list(previous) == ["items"]
    assert previous["items"]["data"][0]["quantity"] == 3
    assert difference({"a": {"x": 1, "y": 2}}, {"a": {"x": 1, "y": 3}}) == {"a": {"y": 2}}


def test_a_delayed_renewal_arrives_or_bounces_and_leaves_the_subscription_active(
    account: StripeAccount, price: str
) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    for succeeded, status in ((True, "paid"), (False, "open")):
        invoice = account.renew(subscription, delayed=True)["latest_invoice"]
        assert account.get("invoice", invoice)["status"] == "open"
        assert account.get("charge", account.charge_of(invoice)["id"])["status"] == "pending"
        assert account.conclude_payment(invoice, succeeded)["status"] == status
        assert status_of(account, subscription) == "active"
    assert account.events[-1]["type"] == "invoice.payment_failed"
    assert account.mark_uncollectible(invoice)["status"] == "uncollectible"
    assert status_of(account, subscription) == "active"


def test_voiding_the_latest_invoice_makes_a_past_due_subscription_active(account: StripeAccount, price: str) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    invoice = account.void_invoice(account.fail_payment(subscription)["latest_invoice"])
    assert (invoice["status"], invoice["attempted"]) == ("void", True)
    assert status_of(account, subscription) == "active"


def test_an_invoices_own_period_looks_back_and_its_lines_ahead(account: StripeAccount, price: str) -> None:
    session = account.checkout("ann@example.com", price)
    first = account.get("invoice", session["invoice"])
    assert (first["period_start"], first["period_end"]) == (NOW, NOW)
    assert first["lines"]["data"][0]["period"] == {"start": NOW, "end": MONTH_LATER}
    second = account.get("invoice", account.renew(session["subscription"])["latest_invoice"])
    assert (second["period_start"], second["period_end"]) == (NOW, MONTH_LATER)
    assert second["lines"]["data"][0]["period"]["start"] == MONTH_LATER


@pytest.mark.parametrize(("paid", "quantity", "outcome"), [(True, 5, "applied"), (False, 3, "expired")])
def test_a_proposed_update_waits_for_its_payment(
    account: StripeAccount, price: str, paid: bool, quantity: int, outcome: str
) -> None:
    subscription = account.checkout("ann@example.com", price, 3)["subscription"]
    pending = account.propose_quantity(subscription, 5)
    assert pending["items"]["data"][0]["quantity"] == 3
    assert pending["pending_update"]["subscription_items"][0]["quantity"] == 5
    assert pending["pending_update"]["expires_at"] == NOW + 23 * 3600
    concluded = account.conclude_update(subscription, paid)
    assert (concluded["pending_update"], concluded["items"]["data"][0]["quantity"]) == (None, quantity)
    assert account.events[-1]["type"] == f"customer.subscription.pending_update_{outcome}"


def test_notices_change_nothing(account: StripeAccount, price: str) -> None:
    session = account.checkout("ann@example.com", price, trial_days=14)
    subscription, invoice = session["subscription"], session["invoice"]
    before = (account.get("subscription", subscription), account.all("invoice"), account.all("line_item"))
    account.trial_will_end(subscription)
    account.require_action(invoice)
    preview = account.upcoming_invoice(subscription)
    assert before == (account.get("subscription", subscription), account.all("invoice"), account.all("line_item"))
    assert types_of(account)[-3:] == [
        "customer.subscription.trial_will_end",
        "invoice.payment_action_required",
        "invoice.upcoming",
    ]
    assert "id" not in preview
    assert preview["lines"]["data"]
    assert account.fail_finalization(subscription)["status"] == "draft"
    assert account.events[-1]["type"] == "invoice.finalization_failed"


def test_changes_of_the_catalogue_are_told_with_what_was_before(account: StripeAccount) -> None:
    product = account.create_product("Seats", {"dapps": "2"})["id"]
    price = account.create_price(product, 900, {"dapps": "3", "note": "x"}, recurring={"interval": "month"})["id"]
    account.update_price(price, metadata={"dapps": "4", "note": "x"})
    account.update_product(product, metadata={})
    account.update_product(product, name="Places")
    account.delete_price(price)
    account.delete_product(product)
    told = [(event["type"], event["data"].get("previous_attributes")) for event in account.events]
    assert told == [
        ("product.created", None),
        ("price.created", None),
        ("price.updated", {"metadata": {"dapps": "3"}}),
        ("product.updated", {"metadata": {"dapps": "2"}}),
        ("product.updated", {"name": "Seats"}),
        ("price.deleted", None),
        ("product.deleted", None),
    ]


def test_a_price_that_was_sold_cannot_be_deleted(account: StripeAccount, price: str) -> None:
    account.checkout("ann@example.com", price)
    with pytest.raises(ApiError, match="has been used"):
        account.delete_price(price)


def test_a_metered_item_has_no_quantity(account: StripeAccount) -> None:
    product = account.create_product("Calls")["id"]
    metered = account.create_price(product, 1, recurring={"interval": "month", "usage_type": "metered"})
    subscription = account.checkout("ann@example.com", metered["id"])["subscription"]
    assert "quantity" not in account.get("subscription", subscription)["items"]["data"][0]


# Charges and customers


def test_refunds_in_part_and_in_full_and_failed(account: StripeAccount, once: str) -> None:
    charge = account.charge_of(account.checkout("g@example.com", once, mode="payment")["id"])["id"]
    account.refund(charge, 1000)
    assert account.get("charge", charge)["refunded"] is False
    rest = account.refund(charge)
    assert rest["amount"] == 4000
    assert account.get("charge", charge)["refunded"] is True
    account.fail_refund(rest["id"])
    assert account.get("charge", charge)["refunded"] is False
    assert types_of(account).count("charge.refunded") == 2


def test_a_pending_refund_arrives(account: StripeAccount, once: str) -> None:
    charge = account.charge_of(account.checkout("g@example.com", once, mode="payment")["id"])["id"]
    refund = account.refund(charge, status="pending")
    assert account.get("charge", charge)["refunded"] is True
    assert account.settle_refund(refund["id"])["status"] == "succeeded"
    assert account.events[-1]["type"] == "refund.updated"
    assert account.events[-1]["data"]["previous_attributes"] == {"status": "pending"}


def test_a_paid_invoice_is_credited_with_and_without_a_refund(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price, 3)
    charge = account.charge_of(session["id"])["id"]
    part = account.credit_note(session["invoice"], 700, refund=False)
    assert (part["amount"], part["refunds"], part["lines"]["data"][0]["amount"]) == (700, [], 700)
    assert account.get("charge", charge)["amount_refunded"] == 0
    rest = client.v1.credit_notes.create({"invoice": session["invoice"], "amount": 2000, "refund_amount": 2000})
    assert account.get("charge", charge)["amount_refunded"] == 2000
    assert account.get("refund", rest.refunds[0].refund)["amount"] == 2000
    assert types_of(account)[-4:] == [
        "charge.refunded",
        "charge.refund.updated",
        "invoice.updated",
        "credit_note.created",
    ]
    listed = client.v1.credit_notes.list({"invoice": session["invoice"]})
    assert [note.id for note in listed.data] == [rest.id, part["id"]]
    assert client.v1.credit_notes.retrieve(rest.id).customer == session["customer"]
    with pytest.raises(stripe.InvalidRequestError, match="greater than what was paid"):
        client.v1.credit_notes.create({"invoice": session["invoice"], "amount": 1, "credit_amount": 1})


def test_two_disputes_of_one_charge_have_fates_of_their_own(account: StripeAccount, once: str) -> None:
    charge = account.charge_of(account.checkout("g@example.com", once, mode="payment")["id"])["id"]
    first, second = (account.dispute(charge, amount)["id"] for amount in (1000, 4000))
    account.close_dispute(first, "won")
    assert account.get("dispute", first)["status"] == "won"
    assert account.get("dispute", second)["status"] == "needs_response"


def test_the_way_from_a_charge_to_what_it_paid_for(
    account: StripeAccount, client: stripe.StripeClient, price: str, once: str
) -> None:
    subscribed = account.checkout("ann@example.com", price)
    guest = account.checkout("g@example.com", once, mode="payment")
    intent = account.charge_of(subscribed["id"])["payment_intent"]
    payments = client.v1.invoice_payments
    (paid,) = payments.list({"payment": {"type": "payment_intent", "payment_intent": intent}}).data
    assert paid.invoice == subscribed["invoice"]
    (session,) = client.v1.checkout.sessions.list({"payment_intent": guest["payment_intent"]}).data
    assert session.id == guest["id"]
    assert payments.list({"payment": {"type": "payment_intent", "payment_intent": guest["payment_intent"]}}).data == []
    with pytest.raises(stripe.InvalidRequestError, match=r"payment\[type\]"):
        payments.list({"payment": {"payment_intent": intent}})  # type: ignore[typeddict-item]
    warning = account.fraud_warning(account.charge_of(guest["id"])["id"])
    assert client.v1.radar.early_fraud_warnings.retrieve(warning["id"]).charge == warning["charge"]


def test_a_dispute_is_closed_whatever_its_outcome(account: StripeAccount, once: str) -> None:
    charge = account.charge_of(account.checkout("g@example.com", once, mode="payment")["id"])["id"]
    for status in ("won", "lost"):
        closed = account.close_dispute(account.dispute(charge)["id"], status)
        assert closed["status"] == status
        assert "charge.dispute.closed" in types_of(account)[-2:]
    account.fraud_warning(charge)
    assert account.events[-1]["data"]["object"]["charge"] == charge


def test_a_deleted_customer_answers_deleted_and_loses_its_subscriptions(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price)
    client.v1.customers.delete(session["customer"])
    left = client.v1.customers.retrieve(session["customer"])
    assert left.to_dict() == {"id": session["customer"], "object": "customer", "deleted": True}
    assert status_of(account, session["subscription"]) == "canceled"
    assert client.v1.customers.list().data == []
    assert types_of(account)[-2:] == ["customer.subscription.deleted", "customer.deleted"]


def test_an_object_with_a_field_stripe_does_not_have_is_refused(account: StripeAccount) -> None:
    customer = account.create_customer("ann@example.com")
    with pytest.raises(ShapeError, match=r"customer\.e_mail"):
        check(customer | {"e_mail": "x"})
    with pytest.raises(ShapeError, match="is str"):
        check(customer | {"created": "yesterday"})


# The API through Stripe's library


def test_the_library_reads_what_a_purchase_left(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price, 3)
    subscription = client.v1.subscriptions.retrieve(
        session["subscription"],
        {"expand": ["customer", "latest_invoice.payments", "items.data.price.product"]},
    )
    item = subscription["items"].data[0]
    assert subscription.customer.email == "ann@example.com"
    assert item.price.product.metadata["dapps"] == "2"
    assert subscription.latest_invoice.payments.data[0].payment.type == "payment_intent"
    lines = client.v1.checkout.sessions.line_items.list(session["id"])
    assert [(line.object, line.quantity, line.price.id) for line in lines.data] == [("item", 3, price)]
    assert "line_items" not in client.v1.checkout.sessions.retrieve(session["id"])
    assert client.v1.accounts.retrieve_current().id == account.account["id"]


def test_every_list_can_be_read(account: StripeAccount, client: stripe.StripeClient, price: str) -> None:
    session = account.checkout("ann@example.com", price)
    charge = account.charge_of(session["id"])["id"]
    account.refund(charge, 1)
    account.dispute(charge)
    account.fraud_warning(charge)
    v1 = client.v1
    for service in (v1.customers, v1.products, v1.prices, v1.subscriptions, v1.checkout.sessions, v1.invoices):
        assert len(service.list().data) == 1
        assert service.retrieve(service.list().data[0].id)
    for service in (v1.payment_intents, v1.charges, v1.refunds, v1.disputes, v1.radar.early_fraud_warnings):
        assert len(service.list().data) == 1
    assert v1.invoice_payments.list({"invoice": session["invoice"]}).data[0].status == "paid"
    assert v1.subscription_items.list({"subscription": session["subscription"]}).data[0].price.id == price
    assert v1.invoices.line_items.list(session["invoice"]).data[0].quantity == 1


def test_canceled_subscriptions_are_listed_only_on_request(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price)
    listed = client.v1.subscriptions.list
    customer = session["customer"]
    client.v1.subscriptions.cancel(session["subscription"])
    assert listed({"customer": customer}).data == []
    assert len(listed({"customer": customer, "status": "all", "price": price}).data) == 1
    assert len(listed({"status": "canceled", "created": {"gte": NOW}}).data) == 1
    assert listed({"status": "all", "created": {"gt": NOW}}).data == []


def test_lists_are_filtered(account: StripeAccount, client: stripe.StripeClient, price: str, once: str) -> None:
    session = account.checkout("ann@example.com", price)
    account.checkout("bob@example.com", once, mode="payment")
    product = account.create_product("Other")["id"]
    named = account.create_price(product, 1, lookup_key="other")["id"]
    v1 = client.v1
    assert [one.id for one in v1.prices.list({"lookup_keys": ["other"]}).data] == [named]
    assert [one.id for one in v1.prices.list({"product": product, "active": True}).data] == [named]
    assert [one.id for one in v1.customers.list({"email": "ann@example.com"}).data] == [session["customer"]]
    by_subscription = v1.checkout.sessions.list({"subscription": session["subscription"]})
    assert [one.id for one in by_subscription.data] == [session["id"]]
    paid = v1.invoices.list({"subscription": session["subscription"], "status": "paid"})
    assert [one.id for one in paid.data] == [session["invoice"]]
    assert v1.invoices.list({"status": "open"}).data == []
    charge = account.charge_of(session["id"])
    assert v1.charges.list({"payment_intent": charge["payment_intent"]}).data[0].id == charge["id"]
    assert len(v1.charges.list({"customer": session["customer"]}).data) == 1
    assert {event.type for event in v1.events.list({"types": ["customer.created"]}).data} == {"customer.created"}


def test_pages_go_newest_first_in_both_directions(account: StripeAccount, client: stripe.StripeClient) -> None:
    ids = [account.create_customer(f"{n}@example.com")["id"] for n in range(25)][::-1]
    first = client.v1.customers.list()
    assert [one.id for one in first.data] == ids[:10]
    assert first.has_more
    last = client.v1.customers.list({"limit": 10, "starting_after": ids[19]})
    assert [one.id for one in last.data] == ids[20:]
    assert not last.has_more
    back = client.v1.customers.list({"limit": 3, "ending_before": ids[20]})
    assert [one.id for one in back.data] == ids[17:20]
    assert [one.id for one in client.v1.customers.list({"limit": 7}).auto_paging_iter()] == ids
    with pytest.raises(stripe.InvalidRequestError, match="between 1 and 100"):
        client.v1.customers.list({"limit": 101})


def test_all_subscriptions_of_a_time_are_read_page_by_page(
    account: StripeAccount, client: stripe.StripeClient, clock: dict[str, float], price: str
) -> None:
    made = []
    for _ in range(10):
        made.append(account.checkout("ann@example.com", price)["subscription"])
        clock["now"] += 60
    account.cancel(made[4])
    wanted: Any = {"status": "all", "created": {"gte": NOW + 60, "lt": NOW + 8 * 60}, "limit": 3}
    wanted["expand"] = ["data.latest_invoice", "data.schedule"]
    pages = [client.v1.subscriptions.list(wanted)]
    while pages[-1].has_more:
        pages.append(client.v1.subscriptions.list({**wanted, "starting_after": pages[-1].data[-1].id}))
    assert [[one.id for one in page.data] for page in pages] == [made[7:4:-1], made[4:1:-1], made[1:2]]
    assert {one.latest_invoice.status for page in pages for one in page.data} == {"paid"}
    assert {one.schedule for page in pages for one in page.data} == {None}
    back = client.v1.subscriptions.list({**wanted, "ending_before": made[2]})
    assert [one.id for one in back.data] == made[5:2:-1]
    assert back.has_more
    assert not client.v1.subscriptions.list({**wanted, "ending_before": made[4]}).has_more


def test_sessions_are_listed_by_time_and_status(
    account: StripeAccount, client: stripe.StripeClient, clock: dict[str, float], once: str
) -> None:
    old = account.checkout("ann@example.com", once, mode="payment")["id"]
    clock["now"] += 60
    new = account.checkout("ann@example.com", once, mode="payment")["id"]
    account.create_checkout_session([{"price": once}], "payment")
    listed = client.v1.checkout.sessions.list
    complete: Any = {"status": "complete", "expand": ["data.line_items"]}
    assert [one.id for one in listed(complete).data] == [new, old]
    assert [one.id for one in listed({**complete, "created": {"gte": NOW, "lt": NOW + 60}}).data] == [old]
    assert [one.id for one in listed({**complete, "starting_after": new}).data] == [old]
    assert listed(complete).data[0].line_items.data[0].quantity == 1


def test_events_are_listed_by_type_time_and_delivery(
    account: StripeAccount, client: stripe.StripeClient, clock: dict[str, float], receiver: Receiver
) -> None:
    account.create_webhook_endpoint(receiver.url, ["customer.created", "customer.updated"], SECRET)
    customer = account.create_customer("ann@example.com")["id"]
    assert account.wait_delivered()
    clock["now"] += 60
    account.auto_deliver = False
    account.update_customer(customer, name="Ann")
    account.create_customer("bob@example.com")
    account.create_product("Seats")
    made, updated, other, product = (each["id"] for each in account.events)
    listed = client.v1.events.list
    types = ["customer.created", "customer.updated"]
    assert [one.id for one in listed({"types": types}).data] == [other, updated, made]
    assert [one.id for one in listed({"types": types, "delivery_success": False}).data] == [other, updated]
    assert [one.id for one in listed({"delivery_success": True}).data] == [product, made]
    assert [one.id for one in listed({"created": {"gte": NOW, "lt": NOW + 60}}).data] == [made]
    first = listed({"types": types, "limit": 2})
    assert first.has_more
    assert [one.id for one in listed({"types": types, "limit": 2, "starting_after": updated}).data] == [made]


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("events", [("types[]", f"type.{number}") for number in range(21)]),
        ("events", [("types[]", "customer.created"), ("type", "customer.*")]),
        ("events", [("delivery_success", "perhaps")]),
        ("events", [("customer", "cus_1")]),
        ("subscriptions", [("status", "dead")]),
        ("subscriptions", [("created[gte]", "yesterday")]),
        ("subscriptions", [("email", "ann@example.com")]),
        ("checkout/sessions", [("status", "paid")]),
        ("checkout/sessions", [("mode", "payment")]),
    ],
)
def test_a_list_refuses_what_stripe_refuses(
    account: StripeAccount, server: StripeServer, price: str, path: str, params: list[tuple[str, str]]
) -> None:
    account.checkout("ann@example.com", price)
    answer = requests.get(f"{server.url}/v1/{path}", params=params, auth=(KEY, ""), timeout=5)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_twenty_types_may_be_asked_for(account: StripeAccount, client: stripe.StripeClient) -> None:
    account.create_customer("ann@example.com")
    types = ["customer.created", *(f"type.{number}" for number in range(19))]
    assert len(client.v1.events.list({"types": types}).data) == 1


class Unread(dict[str, Json]):
    """Objects of which nobody looks at all there are."""

    def values(self) -> Any:
        raise AssertionError("all objects were looked at")

    items = __iter__ = values


def test_a_subscription_is_served_without_a_look_at_everybodys_items_and_invoices(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price, 3)
    for resource in ("invoice", "invoice_payment", "line_item", "subscription_item"):
        account.objects[resource] = Unread(account.objects[resource])
    latest = {"status": "all", "expand": ["data.latest_invoice.payments"]}
    for wanted in (latest, {**latest, "customer": session["customer"]}):
        [found] = client.v1.subscriptions.list(wanted).data  # type: ignore[arg-type]
        assert found["items"].data[0].quantity == 3
        assert found.latest_invoice.lines.data[0].quantity == 3
        assert len(found.latest_invoice.payments.data) == 1
    assert len(client.v1.invoices.list({"subscription": session["subscription"]}).data) == 1


def test_objects_that_were_taken_away_are_not_served(account: StripeAccount, price: str) -> None:
    session = account.checkout("ann@example.com", price)
    kept = account.objects["subscription"].pop(session["subscription"])
    assert account.referring("subscription", "customer", session["customer"]) == []
    account.objects["subscription"][kept["id"]] = kept
    assert account.referring("subscription", "customer", session["customer"]) == [kept]


def test_ten_of_a_subscriptions_items_are_inlined(account: StripeAccount, client: stripe.StripeClient) -> None:
    product = account.create_product("Seats")["id"]
    prices = [account.create_price(product, n, recurring={"interval": "month"})["id"] for n in range(12)]
    customer = account.create_customer("ann@example.com")["id"]
    made = client.v1.subscriptions.create({"customer": customer, "items": [{"price": one} for one in prices]})
    assert (len(made["items"].data), made["items"].has_more) == (10, True)
    assert len(client.v1.subscription_items.list({"subscription": made.id, "limit": 100}).data) == 12
    with pytest.raises(stripe.InvalidRequestError, match="1 to 20"):
        client.v1.subscriptions.create({"customer": customer, "items": [{"price": prices[0]}] * 21})


def test_expansion_ends_at_four_levels(account: StripeAccount, client: stripe.StripeClient, price: str) -> None:
    account.checkout("ann@example.com", price)
    latest = client.v1.subscriptions.list({"status": "all", "expand": ["data.customer", "data.latest_invoice"]})
    assert latest.data[0].latest_invoice.status == "paid"
    deepest = client.v1.subscriptions.list({"expand": ["data.latest_invoice.payments", "data.items.data.price"]})
    assert deepest.data[0].latest_invoice.payments.data
    with pytest.raises(stripe.InvalidRequestError, match="more than 4 levels"):
        client.v1.subscriptions.list({"expand": ["data.items.data.price.product"]})
    with pytest.raises(stripe.InvalidRequestError, match="cannot be expanded"):
        client.v1.subscriptions.list({"expand": ["data.nonsense"]})


def test_errors_have_stripes_shape(account: StripeAccount, client: stripe.StripeClient, server: StripeServer) -> None:
    with pytest.raises(stripe.InvalidRequestError) as missing:
        client.v1.customers.retrieve("cus_none")
    assert (missing.value.http_status, missing.value.code) == (404, "resource_missing")
    with pytest.raises(stripe.InvalidRequestError) as referred:
        client.v1.subscriptions.list({"customer": "cus_none"})
    assert (referred.value.http_status, referred.value.param) == (400, "customer")
    with pytest.raises(stripe.InvalidRequestError) as unknown:
        client.v1.customers.create({"e_mail": "x"})  # type: ignore[typeddict-unknown-key]
    assert unknown.value.code == "parameter_unknown"
    with pytest.raises(stripe.InvalidRequestError) as required:
        client.v1.prices.create({"currency": "usd"})
    assert required.value.code == "parameter_missing"
    with pytest.raises(stripe.InvalidRequestError) as ignored:
        client.v1.customers.create({"balance": 5})
    assert ignored.value.code == "standin_unsupported"
    stranger = stripe.StripeClient("sk_test_other", base_addresses={"api": server.url})
    with pytest.raises(stripe.AuthenticationError):
        stranger.v1.customers.list()
    account.faults.accept_keys({"sk_test_other"})
    assert stranger.v1.customers.list().data == []


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("subscriptions", {"expand": "customer"}),
        ("subscriptions", {"created[about]": "1"}),
        ("prices", {"recurring": "month"}),
        ("prices", {"limit": "many"}),
        ("customers", {"starting_after": "cus_none"}),
        ("subscription_items", {}),
    ],
)
def test_malformed_parameters_are_a_400(
    account: StripeAccount, server: StripeServer, price: str, path: str, params: dict[str, str]
) -> None:
    account.checkout("ann@example.com", price)
    answer = requests.get(f"{server.url}/v1/{path}", params=params, auth=(KEY, ""), timeout=5)
    assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_a_failed_change_leaves_the_object_as_it_was(account: StripeAccount) -> None:
    customer = account.create_customer("ann@example.com")
    before = len(account.events)
    with pytest.raises(ShapeError):
        account.update_customer(customer["id"], metadata="x")
    assert account.get("customer", customer["id"]) == customer
    assert len(account.events) == before


def test_the_library_writes(account: StripeAccount, client: stripe.StripeClient) -> None:
    v1 = client.v1
    product = v1.products.create({"name": "Seats", "metadata": {"dapps": "1", "old": "x"}})
    updated = v1.products.update(product.id, {"metadata": {"dapps": "2", "old": ""}})
    assert updated.metadata.to_dict() == {"dapps": "2"}
    price = v1.prices.create(
        {
            "product": product.id,
            "currency": "eur",
            "unit_amount": 500,
            "recurring": {"interval": "year"},
            "transform_quantity": {"divide_by": 10, "round": "up"},
        }
    )
    customer = v1.customers.create({"email": "ann@example.com"})
    v1.customers.update(customer.id, {"email": "new@example.com"})
    assert account.events[-1]["data"]["previous_attributes"] == {"email": "ann@example.com"}
    assert account.events[-1]["request"]["id"].startswith("req_")
    made = v1.subscriptions.create({"customer": customer.id, "items": [{"price": price.id, "quantity": 11}]})
    assert made.status == "active"
    assert account.get("invoice", made.latest_invoice)["total"] == 1000
    before = len(account.events)
    changed = v1.subscriptions.update(
        made.id, {"items": [{"id": made["items"].data[0].id, "quantity": 12}], "cancel_at_period_end": True}
    )
    assert (changed["items"].data[0].quantity, changed.cancel_at_period_end) == (12, True)
    assert types_of(account, before) == ["customer.subscription.updated"]
    kept = v1.subscriptions.update(made.id, {"cancel_at": ""})
    assert kept.cancel_at is None
    paused = v1.subscriptions.update(made.id, {"pause_collection": {"behavior": "void"}})
    assert paused.pause_collection.behavior == "void"
    assert v1.subscriptions.update(made.id, {"pause_collection": ""}).pause_collection is None
    charge = account.charge_of(made.id)
    assert v1.refunds.create({"payment_intent": charge["payment_intent"]}).amount == 1000
    with pytest.raises(stripe.InvalidRequestError, match="has been refunded"):
        v1.refunds.create({"charge": charge["id"]})


def test_invoices_are_paid_voided_and_written_off(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    subscription = account.checkout("ann@example.com", price)["subscription"]
    opened = [account.bill(subscription, 100, "open")["id"] for _ in range(3)]
    assert client.v1.invoices.pay(opened[0]).status == "paid"
    assert client.v1.invoices.void_invoice(opened[1]).status == "void"
    assert client.v1.invoices.mark_uncollectible(opened[2]).status == "uncollectible"
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.invoices.pay(opened[1])


def test_a_session_is_opened_by_the_merchant_and_completed_by_the_buyer(
    account: StripeAccount, client: stripe.StripeClient, price: str
) -> None:
    opened = client.v1.checkout.sessions.create(
        {
            "mode": "subscription",
            "line_items": [{"price": price, "quantity": 2}],
            "success_url": "https://example.com/thanks",
            "client_reference_id": "user-1",
            "metadata": {"user": "1"},
            "subscription_data": {"metadata": {"plan": "team"}},
        }
    )
    assert opened.status == "open"
    done = account.complete_checkout(opened.id, "ann@example.com")
    assert done["client_reference_id"] == "user-1"
    assert account.get("subscription", done["subscription"])["metadata"] == {"plan": "team"}
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.checkout.sessions.expire(opened.id)


def test_an_idempotency_key_makes_a_post_happen_once(account: StripeAccount, client: stripe.StripeClient) -> None:
    options: stripe.RequestOptions = {"idempotency_key": "k1"}
    first = client.v1.customers.create({"email": "ann@example.com"}, options)
    again = client.v1.customers.create({"email": "ann@example.com"}, options)
    assert first.id == again.id
    assert again.last_response.headers["Idempotent-Replayed"] == "true"
    with pytest.raises(stripe.IdempotencyError):
        client.v1.customers.create({"email": "bob@example.com"}, options)
    assert len(account.all("customer")) == 1


def test_faults_are_served_in_order_and_requests_are_counted(
    account: StripeAccount, client: stripe.StripeClient
) -> None:
    account.faults.fail_next(1, 429, "customers")
    assert client.v1.products.list().data == []
    with pytest.raises(stripe.RateLimitError):
        client.v1.customers.list()
    assert client.v1.customers.list({"limit": 3}).data == []
    account.faults.outage()
    with pytest.raises(stripe.APIError):
        client.v1.customers.list()
    account.faults.restore()
    assert client.v1.customers.list().data == []
    seen = [(call["path"], call["status"]) for call in account.requests]
    assert seen == [
        ("/v1/products", 200),
        ("/v1/customers", 429),
        ("/v1/customers", 200),
        ("/v1/customers", 500),
        ("/v1/customers", 200),
    ]
    assert account.requests[2]["params"] == {"limit": "3"}


@pytest.mark.parametrize("end", ["restore", "close"])
def test_a_hanging_call_times_out_at_the_client_and_still_happens(
    account: StripeAccount, server: StripeServer, end: str
) -> None:
    account.faults.restore()  # what woke others does not wake this one
    account.faults.hang_next(1, 60)
    http = stripe.RequestsClient(timeout=0.2)
    impatient = stripe.StripeClient(KEY, base_addresses={"api": server.url}, http_client=http, max_network_retries=0)
    with pytest.raises(stripe.APIConnectionError):
        impatient.v1.customers.create({"email": "ann@example.com"})
    assert account.all("customer") == []
    made = threading.Event()
    account.clock = lambda: (made.set(), NOW)[1]
    getattr(account.faults, end)()
    assert made.wait(5)
    with account.lock:
        assert len(account.all("customer")) == 1


def customers_read(client: stripe.StripeClient) -> list[str]:
    return [str(one.email) for one in client.v1.customers.list({"limit": 2}).auto_paging_iter()]


@pytest.mark.parametrize(("status", "error"), [(429, stripe.RateLimitError), (500, stripe.APIError)])
def test_a_page_of_a_list_fails(
    account: StripeAccount, client: stripe.StripeClient, status: int, error: type[Exception]
) -> None:
    for number in range(6):
        account.create_customer(f"{number}@example.com")
    with account.fail_page("/v1/customers", 3, status, times=2) as third:
        assert len(client.v1.customers.list({"limit": 1}).data) == 1
        with pytest.raises(error):
            customers_read(client)
        assert [each["status"] for each in account.requests] == [200, 200, 200, status]
        with pytest.raises(error):
            client.v1.customers.list({"limit": 2, "starting_after": account.requests[-1]["params"]["starting_after"]})
        assert len(customers_read(client)) == 6
        assert third.reached == 3
    with account.fail_page("/v1/customers", 9, status) as ninth:
        customers_read(client)
        assert ninth.reached == 0


def test_a_page_of_a_list_hangs(account: StripeAccount, server: StripeServer) -> None:
    for number in range(4):
        account.create_customer(f"{number}@example.com")
    http = stripe.RequestsClient(timeout=1)
    impatient = stripe.StripeClient(KEY, base_addresses={"api": server.url}, http_client=http, max_network_retries=0)
    with account.hang_page("/v1/customers", 2, 60), pytest.raises(stripe.APIConnectionError):
        customers_read(impatient)
    assert len(account.requests) == 2
    account.faults.close()


def test_a_list_changes_between_two_pages(account: StripeAccount, client: stripe.StripeClient) -> None:
    for number in range(6):
        account.create_customer(f"{number}@example.com")
    oldest = next(iter(account.objects["customer"]))

    def change() -> None:
        account.create_customer("new@example.com")
        account.delete_customer(oldest)

    with account.at_page("/v1/customers", 2, change):
        assert customers_read(client) == [f"{number}@example.com" for number in (5, 4, 3, 2, 1)]
    assert customers_read(client)[:2] == ["new@example.com", "5@example.com"]


def test_two_lists_side_by_side_have_pages_of_their_own(account: StripeAccount, client: stripe.StripeClient) -> None:
    for number in range(6):
        account.create_customer(f"{number}@example.com")
    listed = client.v1.customers.list
    with account.fail_page("/v1/customers", 3, 500) as third:
        one = listed({"limit": 2})
        one = listed({"limit": 2, "starting_after": one.data[-1].id})
        listed({"limit": 2, "created": {"lt": NOW + 1}})
        assert third.reached == 0
        with pytest.raises(stripe.APIError):
            listed({"limit": 2, "starting_after": one.data[-1].id})


def test_of_what_is_unheard_no_event_tells(account: StripeAccount, price: str) -> None:
    told = len(account.events)
    with account.unheard(NOW - 1000):
        session = account.checkout("ann@example.com", price)
        account.change_quantity(session["subscription"], 5)
    assert len(account.events) == told
    subscription = account.get("subscription", session["subscription"])
    assert (subscription["created"], subscription["items"]["data"][0]["quantity"]) == (NOW - 1000, 5)
    with pytest.raises(ApiError), account.unheard(NOW - 1000):
        account.cancel("sub_none")
    account.change_quantity(session["subscription"], 6)
    assert account.events[-1]["created"] == NOW
    assert account.events[-1]["data"]["previous_attributes"]["items"]["data"][0]["quantity"] == 5


def test_lists_are_newest_first_whenever_an_object_was_made(
    account: StripeAccount, client: stripe.StripeClient
) -> None:
    account.create_customer("today@example.com")
    with account.unheard(NOW - 1000):
        account.create_customer("before@example.com")
    assert customers_read(client) == ["today@example.com", "before@example.com"]


def test_form_encoding_knows_hashes_and_arrays() -> None:
    pairs = [("a[b]", "1"), ("c[0][d]", "2"), ("c[1][d]", "3"), ("e[]", "4"), ("e[]", "5"), ("f", "")]
    assert decode_form(pairs) == {"a": {"b": "1"}, "c": [{"d": "2"}, {"d": "3"}], "e": ["4", "5"], "f": ""}


# Events and their delivery


def test_deliveries_are_signed_over_the_bytes_sent(account: StripeAccount, receiver: Receiver) -> None:
    account.create_webhook_endpoint(receiver.url, ["*"], SECRET)
    event = account.emit("order.payment_succeeded", {"id": "or_1", "object": "order", "status": "paid"})
    assert account.wait_delivered()
    [(body, signature)] = receiver.calls
    seen = stripe.Webhook.construct_event(body, signature, SECRET)
    assert (seen.id, seen.type) == (event["id"], "order.payment_succeeded")
    assert json.loads(body)["data"]["object"] == {"id": "or_1", "object": "order", "status": "paid"}


def test_an_endpoint_gets_only_what_it_subscribed_to(account: StripeAccount, receiver: Receiver) -> None:
    account.create_webhook_endpoint(receiver.url, ["customer.updated"], SECRET)
    customer = account.create_customer("ann@example.com")["id"]
    account.update_customer(customer, email="new@example.com")
    assert account.wait_delivered()
    assert [event["type"] for event in receiver.events()] == ["customer.updated"]
    assert receiver.events()[0]["data"]["previous_attributes"] == {"email": "ann@example.com"}


def test_a_failed_delivery_is_retried_until_it_succeeds(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    account.create_webhook_endpoint(receiver.url, ["*"], SECRET)
    receiver.statuses = [500, 404]
    account.create_customer("ann@example.com")
    assert account.wait_delivered()
    assert len(receiver.calls) == 3
    assert len({body for body, _ in receiver.calls}) == 1
    event = client.v1.events.list({"delivery_success": True}).data[0]
    assert event.pending_webhooks == 0


def test_delivery_gives_up_and_the_event_can_be_found_and_sent_again(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    account.create_webhook_endpoint(receiver.url, ["*"], SECRET)
    receiver.statuses = [500] * 4
    account.create_customer("ann@example.com")
    assert account.wait_delivered()
    assert len(receiver.calls) == 4
    [undelivered] = client.v1.events.list({"delivery_success": False}).data
    assert undelivered.pending_webhooks == 1
    assert account.resend_undelivered() == 1
    assert account.wait_delivered()
    assert client.v1.events.list({"delivery_success": False}).data == []


def test_an_event_can_be_sent_by_hand_and_twice(account: StripeAccount, receiver: Receiver) -> None:
    account.auto_deliver = False
    account.create_webhook_endpoint(receiver.url, ["*"], SECRET)
    account.create_customer("ann@example.com")
    assert receiver.calls == []
    assert account.deliver(account.events[-1], times=2) == 200
    assert len(receiver.calls) == 2
    receiver.statuses = [503]
    assert account.deliver(account.events[-1]) == 503
    receiver.close()
    account.deliveries.timeout = 0.5
    assert account.deliver(account.events[-1]) is None
    with pytest.raises(ValueError, match="no enabled endpoint"):
        quiet = StripeAccount()
        quiet.create_customer("ann@example.com")
        quiet.deliver(quiet.events[-1])


def test_an_events_body_never_changes(account: StripeAccount, client: stripe.StripeClient) -> None:
    customer = account.create_customer("ann@example.com")["id"]
    created = account.events[-1]["id"]
    account.update_customer(customer, email="new@example.com")
    assert client.v1.events.retrieve(created).data.object.email == "ann@example.com"


def test_events_are_listed_for_thirty_days(
    account: StripeAccount, client: stripe.StripeClient, clock: dict[str, float]
) -> None:
    account.create_customer("ann@example.com")
    clock["now"] += 30 * 86400
    assert client.v1.events.list().data == []


def test_endpoints_are_managed_through_the_api(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    v1 = client.v1.webhook_endpoints
    made = v1.create({"url": receiver.url, "enabled_events": ["*"]})
    assert made.secret.startswith("whsec_")
    assert "secret" not in v1.retrieve(made.id)
    v1.update(made.id, {"disabled": True})
    account.create_customer("ann@example.com")
    v1.update(made.id, {"disabled": False, "enabled_events": ["customer.created"]})
    account.create_customer("bob@example.com")
    assert account.wait_delivered()
    [(body, signature)] = receiver.calls
    assert stripe.Webhook.construct_event(body, signature, made.secret).data.object.email == "bob@example.com"
    assert v1.delete(made.id).deleted
    assert v1.list().data == []


def test_a_purchases_events_are_sent_concurrently_while_the_consumer_reads_back(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver, price: str
) -> None:
    account.create_webhook_endpoint(receiver.url, ["*"], SECRET)
    buyers = [threading.Thread(target=account.checkout, args=(f"{n}@example.com", price)) for n in range(8)]
    for buyer in buyers:
        buyer.start()
    assert len(client.v1.events.list({"limit": 100}).data) <= 100
    for buyer in buyers:
        buyer.join()
    assert account.wait_delivered()
    assert len({event["id"] for event in receiver.events()}) == len(receiver.calls) == 8 * 12
    assert len(client.v1.subscriptions.list({"limit": 100}).data) == 8


def test_an_endpoint_is_pinned_at_its_version_and_told_its_secret_once(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    v1 = client.v1.webhook_endpoints
    wanted: Any = {"url": receiver.url, "enabled_events": ["customer.created"], "description": "ours"}
    wanted |= {"metadata": {"stack": "s", "other": "o"}, "api_version": "2026-09-30.endive"}
    options: stripe.RequestOptions = {"idempotency_key": "create-once"}
    made = v1.create(wanted, options)
    again = v1.create(wanted, options)
    assert (again.id, again.secret) == (made.id, made.secret)
    assert len(v1.list().data) == 1
    changed = v1.update(made.id, {"metadata": {"other": "", "more": "m"}, "enabled_events": ["customer.updated"]})
    assert (changed.api_version, changed.description) == ("2026-09-30.endive", "ours")
    assert changed.metadata.to_dict() == {"stack": "s", "more": "m"}
    assert "secret" not in changed
    with pytest.raises(stripe.InvalidRequestError, match="api_version") as refused:
        v1.update(made.id, {"api_version": API_VERSION})  # type: ignore[typeddict-unknown-key]
    assert refused.value.code == "parameter_unknown"
    customer = account.create_customer("ann@example.com")["id"]
    account.update_customer(customer, name="Ann")
    assert account.wait_delivered()
    [event] = receiver.events()
    assert (event["type"], event["api_version"]) == ("customer.updated", "2026-09-30.endive")
    assert v1.create({"url": receiver.url, "enabled_events": ["*"]}).api_version == API_VERSION


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"enabled_events": ["customer.created", "order.updated"]}, "enabled_events[1]"),
        ({"enabled_events": ["customer.*"]}, "enabled_events[0]"),
        ({"api_version": "2026-01-01.none"}, "api_version"),
        ({"url": "shop.example.com/create"}, "url"),
        ({"url": None}, "url"),
    ],
)
def test_an_endpoint_that_cannot_be_is_refused(
    account: StripeAccount, client: stripe.StripeClient, change: Json, param: str
) -> None:
    wanted: Any = {"url": "https://shop.example.com", "enabled_events": ["*"]} | change
    with pytest.raises(stripe.InvalidRequestError) as refused:
        client.v1.webhook_endpoints.create({name: value for name, value in wanted.items() if value})
    assert (refused.value.http_status, refused.value.param) == (400, param)
    assert account.all("webhook_endpoint") == []


def test_events_that_stripe_does_not_have_cannot_be_added_later(client: stripe.StripeClient) -> None:
    made = client.v1.webhook_endpoints.create({"url": "https://shop.example.com", "enabled_events": ["*"]})
    with pytest.raises(stripe.InvalidRequestError, match="must be one of account"):
        client.v1.webhook_endpoints.update(made.id, {"enabled_events": ["order.updated"]})  # type: ignore[list-item]


def test_an_account_has_sixteen_endpoints(account: StripeAccount, client: stripe.StripeClient) -> None:
    v1 = client.v1.webhook_endpoints
    made = [v1.create({"url": "https://shop.example.com", "enabled_events": ["*"]}) for _ in range(16)]
    v1.update(made[0].id, {"disabled": True})
    with pytest.raises(stripe.InvalidRequestError, match="maximum of 16 test webhook endpoints"):
        v1.create({"url": "https://shop.example.com", "enabled_events": ["*"]})
    v1.delete(made[0].id)
    assert v1.create({"url": "https://shop.example.com", "enabled_events": ["*"]}).id


def test_two_endpoints_at_one_address_get_every_event_each_with_its_signature(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    v1 = client.v1.webhook_endpoints
    keys = [str(v1.create({"url": receiver.url, "enabled_events": ["*"]}).secret) for _ in range(2)]
    account.create_customer("ann@example.com")
    assert account.wait_delivered()
    assert len({event["id"] for event in receiver.events()}) == 1

    def signed_with(call: tuple[bytes, str]) -> list[str]:
        return [key for key in keys if verifies(*call, key)]

    assert sorted(signed_with(call) for call in receiver.calls) == sorted([key] for key in keys)


def verifies(body: bytes, signature: str, secret: str) -> bool:
    try:
        stripe.Webhook.construct_event(body, signature, secret)
    except stripe.SignatureVerificationError:
        return False
    return True


def test_a_disabled_endpoint_is_sent_nothing_more_not_even_what_is_under_way(
    account: StripeAccount, client: stripe.StripeClient, receiver: Receiver
) -> None:
    account.deliveries.backoff = 2
    made = client.v1.webhook_endpoints.create({"url": receiver.url, "enabled_events": ["*"]})
    receiver.statuses = [500] * 9
    account.create_customer("ann@example.com")
    event = account.events[-1]["id"]
    assert not account.wait_delivered(0.2)
    assert client.v1.webhook_endpoints.update(made.id, {"disabled": True}).status == "disabled"
    sent = len(receiver.calls)
    account.create_customer("bob@example.com")
    assert account.wait_delivered(30)
    assert len(receiver.calls) == sent
    assert account.resend_undelivered() == 0
    assert client.v1.webhook_endpoints.update(made.id, {"disabled": False}).status == "enabled"
    receiver.statuses = []
    account.create_customer("cat@example.com")
    assert account.wait_delivered(5)
    assert len(receiver.calls) == sent + 1
    assert event not in receiver.events()[-1]["id"]


# Restricted keys


@pytest.fixture
def restricted(account: StripeAccount, server: StripeServer) -> stripe.StripeClient:
    """Somebody with a restricted key."""
    account.faults.accept_keys({KEY, "rk_test_standin"})
    return stripe.StripeClient("rk_test_standin", base_addresses={"api": server.url}, max_network_retries=0)


def get(server: StripeServer, path: str, key: str = "rk_test_standin") -> tuple[int, Json]:
    answer = requests.get(f"{server.url}/v1/{path}", auth=(key, ""), timeout=5)
    return answer.status_code, answer.json()


def test_a_restricted_key_may_do_what_the_gateway_needs(
    account: StripeAccount, server: StripeServer, restricted: stripe.StripeClient, price: str
) -> None:
    session = account.checkout("ann@example.com", price)
    needed = ("charges", "refunds", "customers", "disputes", "events", "payment_intents", "products", "prices")
    needed += ("invoices", "invoice_payments", "checkout/sessions", "radar/early_fraud_warnings")
    needed += ("subscriptions", "subscription_schedules", "webhook_endpoints")
    implied = ("credit_notes", "payment_links", "promotion_codes", "setup_intents")
    for path in (*needed, *implied, f"subscription_items?subscription={session['subscription']}"):
        assert get(server, path)[0] == 200, path
    restricted.v1.subscriptions.update(session["subscription"], {"metadata": {"a": "b"}})
    assert restricted.v1.subscriptions.cancel(session["subscription"]).status == "canceled"
    made = restricted.v1.webhook_endpoints.create({"url": "https://shop.example.com", "enabled_events": ["*"]})
    restricted.v1.webhook_endpoints.delete(made.id)


@pytest.mark.parametrize(
    "path",
    ["account", "accounts", "balance", "balance_transactions", "coupons", "payouts", "quotes", "transfers"],
)
def test_a_restricted_key_may_read_nothing_else(
    server: StripeServer, restricted: stripe.StripeClient, path: str
) -> None:
    right = {"account": "connected_account", "balance_transactions": "balance_transaction_source"}.get(
        path, {"accounts": "connected_account"}.get(path, path.removesuffix("s"))
    )
    status, body = get(server, path)
    assert status == 403
    assert body["error"]["type"] == "invalid_request_error"
    assert f"Having the 'rak_{right}_read' permission would" in body["error"]["message"]
    assert requests.post(f"{server.url}/_standin/grant", json={"right": f"{right}_read"}, timeout=5).status_code == 200
    status, body = get(server, path)
    assert (status, body["object"]) == (200, path if path in ("account", "balance") else "list")
    assert get(server, path, KEY)[0] == 200


def test_a_restricted_key_writes_only_with_the_right_to(
    account: StripeAccount, restricted: stripe.StripeClient, once: str
) -> None:
    charge = account.charge_of(account.checkout("ann@example.com", once, mode="payment")["id"])["id"]
    with pytest.raises(stripe.PermissionError) as refused:
        restricted.v1.refunds.create({"charge": charge})
    assert refused.value.http_status == 403
    assert str(refused.value.user_message).startswith("The provided key 'rk_test_*****' does not have the required")
    assert "on account 'acct_" in str(refused.value.user_message)
    assert "'rak_charge_write'" in str(refused.value.user_message)
    assert account.all("refund") == []
    account.faults.grant("charge_write")
    assert restricted.v1.refunds.create({"charge": charge}).status == "succeeded"


@pytest.mark.parametrize(
    ("path", "right"),
    [
        ("charges/ch_none", "charge"),
        ("checkout/sessions/cs_none/expire", "checkout_session"),
        ("credit_notes/cn_none", "credit_note"),
        ("disputes/dp_none", "dispute"),
        ("invoices/in_none", "invoice"),
        ("payment_intents/pi_none/cancel", "payment_intent"),
        ("payment_links/plink_none", "payment_links"),
        ("promotion_codes/promo_none", "promotion_code"),
        ("setup_intents/seti_none/cancel", "setup_intent"),
    ],
)
def test_who_may_not_write_is_told_so_before_that_nothing_is_there(
    account: StripeAccount, server: StripeServer, restricted: stripe.StripeClient, path: str, right: str
) -> None:
    def post() -> tuple[int, Json]:
        answer = requests.post(f"{server.url}/v1/{path}", auth=("rk_test_standin", ""), timeout=5)
        return answer.status_code, answer.json()["error"]

    status, error = post()
    assert (status, f"'rak_{right}_write'" in error["message"]) == (403, True)
    account.faults.grant(f"{right}_write")
    status, error = post()
    assert (status, error["code"], error["message"].startswith("No such ")) == (404, "resource_missing", True)


def test_an_empty_update_changes_nothing(account: StripeAccount, client: stripe.StripeClient, once: str) -> None:
    charge = account.charge_of(account.checkout("ann@example.com", once, mode="payment")["id"])["id"]
    before = account.get("charge", charge)
    assert client.v1.charges.update(charge, {}).to_dict() == before
    with pytest.raises(stripe.InvalidRequestError, match="does not act on description"):
        client.v1.charges.update(charge, {"description": "shoes"})
    with pytest.raises(stripe.InvalidRequestError, match="cancels no payment"):
        client.v1.payment_intents.cancel(before["payment_intent"])
    assert account.get("charge", charge) == before


def test_rights_can_be_taken_away_and_are_back_after_the_fault(
    account: StripeAccount, client: stripe.StripeClient, restricted: stripe.StripeClient
) -> None:
    account.faults.withdraw("charge_read")
    for listing in (restricted.v1.charges.list, restricted.v1.refunds.list):
        with pytest.raises(stripe.PermissionError, match="rak_charge_read"):
            listing()
    assert client.v1.charges.list().data == []
    account.faults.withdraw("webhook_write")
    account.faults.grant("webhook_read")
    assert restricted.v1.webhook_endpoints.list().data == []
    with pytest.raises(stripe.PermissionError, match="rak_webhook_write"):
        restricted.v1.webhook_endpoints.create({"url": "https://shop.example.com", "enabled_events": ["*"]})
    account.faults.restore()
    assert restricted.v1.charges.list().data == []
    with pytest.raises(ValueError, match="no right charges_read"):
        account.faults.withdraw("charges_read")


def test_an_unknown_restricted_key_is_no_key(account: StripeAccount, server: StripeServer) -> None:
    for key in ("rk_test_other", "rk_live_standin", "sk_live_standin"):
        status, body = get(server, "payouts", key)
        assert (status, body["error"]["message"]) == (401, f"Invalid API Key provided: {key[:8]}****")


# A person with curl


def test_a_person_with_curl_is_a_buyer(account: StripeAccount, server: StripeServer, price: str) -> None:
    asked = {"email": "ann@example.com", "price": price, "quantity": 3}
    bought = requests.post(f"{server.url}/_standin/checkout", data=json.dumps(asked), timeout=5)
    assert bought.status_code == 200
    assert status_of(account, bought.json()["subscription"]) == "active"
    assert requests.post(f"{server.url}/_standin/outage", timeout=5).status_code == 200
    assert requests.get(f"{server.url}/_standin/events", timeout=5).json() == account.events
    assert "checkout" in requests.get(f"{server.url}/_standin", timeout=5).json()["POST"]


@pytest.mark.parametrize(
    ("name", "body", "status"),
    [("close", "{}", 404), ("__init__", "{}", 404), ("checkout", "{}", 400), ("checkout", "[", 400)],
)
def test_curl_reaches_only_what_is_listed(server: StripeServer, name: str, body: str, status: int) -> None:
    answer = requests.post(f"{server.url}/_standin/{name}", data=body, timeout=5)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]
