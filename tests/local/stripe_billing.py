"""Subscriptions, invoices and the payments behind them, as Stripe Billing moves them along."""

from __future__ import annotations

from typing import Any, Literal

from .stripe_faults import ApiError, missing
from .stripe_objects import (
    Json,
    add_interval,
    amount_of,
    new_charge,
    new_invoice,
    new_invoice_payment,
    new_line_item,
    new_payment_intent,
    new_subscription,
    new_subscription_item,
)
from .stripe_store import StripeStore, locked

Outcome = Literal["succeeded", "pending", "failed"]

DAY = 86400
MAX_ITEMS = 20
AWAITING_PAYMENT = ("incomplete", "past_due", "unpaid")
ENDED = ("canceled", "incomplete_expired")
UPDATED = "customer.subscription.updated"


class StripeBilling(StripeStore):
    # Payments

    def _new_intent(self, amount: int, currency: str, customer: str | None) -> Json:
        intent = new_payment_intent(self.new_id("pi"), self.now(), self.livemode, amount, currency, customer)
        self.tell("payment_intent.created", self.put(intent))
        return intent

    def _charge(self, intent: Json, outcome: Outcome, email: str | None, name: str | None = None) -> Json:
        """One try to collect a payment intent. Failing keeps it open for the next try."""
        charge = self.put(new_charge(self.new_id("ch"), self.now(), intent, outcome, email, name))
        intent["latest_charge"] = charge["id"]
        self.tell(f"charge.{outcome}", charge)
        if outcome == "succeeded":
            intent |= {"status": "succeeded", "amount_received": intent["amount"]}
            intent["last_payment_error"] = None
            self.tell("payment_intent.succeeded", intent)
        elif outcome == "pending":
            intent["status"] = "processing"
            self.tell("payment_intent.processing", intent)
        else:
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {"type": "card_error"}
            self.tell("payment_intent.payment_failed", intent)
        return charge

    def _conclude(self, intent: Json, succeeded: bool) -> None:
        """A delayed payment (bank debit) arrives or bounces, days later."""
        charge = self.stored("charge", intent["latest_charge"])
        amount = intent["amount"]
        if succeeded:
            charge |= {"status": "succeeded", "paid": True, "captured": True}
            charge["amount_captured"] = amount
            intent |= {"status": "succeeded", "amount_received": amount}
            self.tell("charge.succeeded", charge)
            self.tell("payment_intent.succeeded", intent)
        else:
            charge |= {"status": "failed", "failure_code": "insufficient_funds"}
            intent["status"] = "requires_payment_method"
            intent["last_payment_error"] = {"type": "card_error"}
            self.tell("charge.failed", charge)
            self.tell("payment_intent.payment_failed", intent)

    # Invoices

    def _new_invoice(self, subscription: Json, reason: str, amount: int | None = None) -> Json:
        """A draft of what the subscription's items cost now (or `amount`); emits nothing."""
        items = self.items_of(subscription["id"])
        free = amount is None and subscription["status"] == "trialing"
        # The invoice's own period looks back: what is paid for is in its lines.
        begin = before = self.now()
        if reason == "subscription_cycle":
            recurring = self.stored("price", items[0]["price"])["recurring"]
            begin = items[0]["current_period_start"]
            before = add_interval(begin, recurring["interval"], -recurring["interval_count"])
        lines: list[tuple[int, Json, Json]] = []
        for item in items if amount is None else items[:1]:
            price = self.stored("price", item["price"])
            cost = amount_of(price, item.get("quantity")) if amount is None else amount
            lines.append((0 if free else cost, price, item))
        customer = self.stored("customer", subscription["customer"])
        by_mail = subscription["collection_method"] == "send_invoice"
        due_date = self.now() + (subscription["days_until_due"] or 0) * DAY if by_mail else None
        sequence = len(self._referring("invoice", "customer", customer["id"])) + 1
        invoice = self.put(
            new_invoice(
                self.new_id("in"),
                self.now(),
                self.livemode,
                {"email": None, "name": None, **customer},
                sum(cost for cost, _, _ in lines),
                subscription["currency"],
                f"{customer['id'][-8:].upper()}-{sequence:04d}",
                reason,
                (before, begin),
                subscription["collection_method"],
                due_date,
                subscription,
            )
        )
        for cost, price, item in lines:
            product = self.stored("product", price["product"])
            self.put(
                new_line_item(
                    self.new_id("il"),
                    self.livemode,
                    invoice["id"],
                    cost,
                    invoice["currency"],
                    f"{item.get('quantity', 0)} × {product['name']}",
                    item.get("quantity", 0),
                    (item["current_period_start"], item["current_period_end"]),
                    price,
                    item,
                )
            )
        subscription["latest_invoice"] = invoice["id"]
        return invoice

    def _finalize(self, invoice: Json) -> None:
        """draft → open; an invoice over nothing is paid at once."""
        invoice |= {"status": "open", "effective_at": self.now()}
        invoice["status_transitions"]["finalized_at"] = self.now()
        invoice["hosted_invoice_url"] = f"https://invoice.stripe.com/i/{invoice['id']}"
        self.tell("invoice.finalized", invoice)
        if invoice["amount_due"] == 0:
            self._mark_paid(invoice)

    def _attach(self, invoice: Json, intent: Json) -> None:
        self.put(new_invoice_payment(self.new_id("inpay"), self.now(), invoice, intent["id"]))

    def _intent_of(self, invoice: Json) -> Json:
        """The payment intent of a finalized invoice, made with its first try."""
        for payment in self._referring("invoice_payment", "invoice", invoice["id"]):
            return self.stored("payment_intent", payment["payment"]["payment_intent"])
        intent = self._new_intent(invoice["amount_due"], invoice["currency"], invoice["customer"])
        self._attach(invoice, intent)
        return intent

    def _mark_paid(self, invoice: Json) -> None:
        now = self.now()
        invoice |= {
            "status": "paid",
            "attempted": True,
            "amount_paid": invoice["amount_due"],
            "amount_remaining": 0,
            "auto_advance": False,
            "next_payment_attempt": None,
        }
        invoice["status_transitions"]["paid_at"] = now
        for payment in self._referring("invoice_payment", "invoice", invoice["id"]):
            payment |= {"status": "paid", "amount_paid": invoice["amount_due"]}
            payment["status_transitions"]["paid_at"] = now
            self.tell("invoice_payment.paid", payment)
        self.tell("invoice.paid", invoice)
        self.tell("invoice.payment_succeeded", invoice)

    def _collect(self, invoice: Json, succeeds: bool) -> None:
        """Try to charge an open invoice. A failure is tried again three days later."""
        intent = self._intent_of(invoice)
        email, name = invoice["customer_email"], invoice["customer_name"]
        self._charge(intent, "succeeded" if succeeds else "failed", email, name)
        invoice |= {"attempted": True, "attempt_count": invoice["attempt_count"] + 1}
        if succeeds:
            self._mark_paid(invoice)
        else:
            first = invoice["billing_reason"] == "subscription_create"
            invoice["next_payment_attempt"] = None if first else self.now() + 3 * DAY
            self.tell("invoice.payment_failed", invoice)
        self._set_delinquent(invoice["customer"], not succeeds)

    def _set_delinquent(self, customer_id: str, delinquent: bool) -> None:
        customer = self.stored("customer", customer_id)
        if not customer.get("deleted"):
            with self.changing(customer, "customer.updated"):
                customer["delinquent"] = delinquent

    def _subscription_of(self, invoice: Json) -> Json | None:
        if not invoice["parent"]:
            return None
        return self.stored("subscription", invoice["parent"]["subscription_details"]["subscription"])

    def _latest_settled(self, invoice: Json, *statuses: str) -> None:
        """The *latest* invoice was paid or written off: active again from one of `statuses`.

        An older invoice changes nothing: the subscription stays where it is.
        """
        subscription = self._subscription_of(invoice)
        if subscription and subscription["latest_invoice"] == invoice["id"]:
            with self.changing(subscription, UPDATED):
                if subscription["status"] in statuses:
                    subscription["status"] = "active"

    @locked
    def finalize_invoice(self, invoice: str) -> Json:
        stored = self.stored("invoice", invoice)
        if stored["status"] != "draft":
            raise ApiError(400, "This invoice is already finalized.", "invoice_not_editable")
        self._finalize(stored)
        return self.render(stored)

    @locked
    def pay_invoice(self, invoice: str, paid_out_of_band: bool = False) -> Json:
        """Collect a draft, open or uncollectible invoice, whatever became of its subscription.

        The subscription turns active only if this is its latest invoice and it has not ended.
        """
        stored = self.stored("invoice", invoice)
        if stored["status"] in ("paid", "void"):
            raise ApiError(400, f"Invoice is already {stored['status']}")
        if stored["status"] == "draft":
            self._finalize(stored)
        if stored["status"] != "paid":
            if paid_out_of_band:
                self._mark_paid(stored)
            else:
                self._collect(stored, succeeds=True)
        self._latest_settled(stored, *AWAITING_PAYMENT)
        return self.render(stored)

    @locked
    def void_invoice(self, invoice: str) -> Json:
        """Take an invoice back: a past_due subscription becomes active by it."""
        stored = self.stored("invoice", invoice)
        if stored["status"] not in ("open", "uncollectible"):
            raise ApiError(400, f"You can't void an invoice that is {stored['status']}.")
        self._close(stored, "void", "voided_at", "invoice.voided")
        self._latest_settled(stored, "past_due")
        return self.render(stored)

    @locked
    def mark_uncollectible(self, invoice: str) -> Json:
        """Write an open invoice off: a past_due subscription becomes active by it."""
        stored = self.stored("invoice", invoice)
        if stored["status"] != "open":
            raise ApiError(400, f"An invoice that is {stored['status']} can't be written off.")
        self._close(stored, "uncollectible", "marked_uncollectible_at", "invoice.marked_uncollectible")
        self._latest_settled(stored, "past_due")
        return self.render(stored)

    def _close(self, invoice: Json, status: str, moment: str, type_: str) -> None:
        invoice |= {"status": status, "auto_advance": False, "next_payment_attempt": None}
        invoice["status_transitions"][moment] = self.now()
        self.tell(type_, invoice)

    @locked
    def overdue(self, invoice: str) -> Json:
        """The due date of a sent invoice passes unpaid: its subscription is past_due."""
        stored = self.stored("invoice", invoice)
        self.tell("invoice.overdue", stored)
        if subscription := self._subscription_of(stored):
            with self.changing(subscription, UPDATED):
                if subscription["status"] == "active":
                    subscription["status"] = "past_due"
        return self.render(stored)

    @locked
    def require_action(self, invoice: str) -> Json:
        """The bank wants the buyer to confirm an open invoice's payment."""
        self.tell("invoice.payment_action_required", self.stored("invoice", invoice))
        return self.get("invoice", invoice)

    @locked
    def upcoming_invoice(self, subscription: str) -> Json:
        """The notice some days before a renewal: an invoice that does not exist yet, so it has no id."""
        stored = self._live(subscription)
        latest = stored["latest_invoice"]
        preview = self._new_invoice(stored, "upcoming")
        stored["latest_invoice"] = latest
        shown = self.render(preview)
        for line in self.lines_of(preview["id"]):
            del self.objects["line_item"][line["id"]]
        del self.objects["invoice"][preview["id"]]
        for name in ("id", "status", "number"):
            del shown[name]
        self.emit("invoice.upcoming", shown)
        return shown

    @locked
    def fail_finalization(self, subscription: str) -> Json:
        """A renewal's invoice stays a draft, because Stripe cannot finalize it (no tax location, say)."""
        stored = self._live(subscription)
        invoice = self._new_invoice(stored, "subscription_cycle")
        self.tell("invoice.created", invoice)
        invoice["last_finalization_error"] = {"type": "invalid_request_error"}
        self.tell("invoice.finalization_failed", invoice)
        return self.render(invoice)

    @locked
    def bill(
        self,
        subscription: str,
        amount: int,
        outcome: Literal["paid", "failed", "open", "draft"] = "paid",
        reason: str = "subscription_update",
    ) -> Json:
        """An invoice besides the renewals (proration, threshold, a final one over nothing).

        It becomes the latest invoice; the subscription's status is left alone. Returns the invoice.
        """
        stored = self.stored("subscription", subscription)
        invoice = self._new_invoice(stored, reason, amount)
        self.tell("invoice.created", invoice)
        if outcome != "draft":
            self._finalize(invoice)
        if outcome in ("paid", "failed") and invoice["status"] == "open":
            self._collect(invoice, outcome == "paid")
        return self.render(invoice)

    # Subscriptions

    def _new_subscription(
        self,
        customer: str,
        items: list[Json],
        metadata: Json | None,
        trial_end: int | None,
        collection_method: str = "charge_automatically",
        days_until_due: int | None = None,
    ) -> Json:
        """An incomplete (or trialing) subscription with its items; emits nothing."""
        if not items or len(items) > MAX_ITEMS:
            raise ApiError(400, f"A subscription has 1 to {MAX_ITEMS} items.", "parameter_invalid", "items")
        prices = [self.stored("price", item["price"], "items") for item in items]
        if any(price["recurring"] is None for price in prices):
            raise ApiError(400, "The price must be recurring.", "parameter_invalid", "items")
        subscription = self.put(
            new_subscription(
                self.new_id("sub"),
                self.now(),
                self.livemode,
                self.live_customer(customer)["id"],
                prices[0]["currency"],
                metadata or {},
                collection_method,
                days_until_due,
            )
        )
        if trial_end is not None:
            subscription |= {"status": "trialing", "trial_start": self.now()}
            subscription |= {"trial_end": trial_end, "billing_cycle_anchor": trial_end}
        for item in items:
            self._new_item(subscription, item["price"], item.get("quantity", 1))
        return subscription

    def _new_item(self, subscription: Json, price_id: str, quantity: int | None) -> Json:
        recurring = self.stored("price", price_id)["recurring"]
        now = self.now()
        end = subscription["trial_end"] if subscription["status"] == "trialing" else None
        end = end or add_interval(now, recurring["interval"], recurring["interval_count"])
        if recurring["usage_type"] == "metered":
            quantity = None
        item = new_subscription_item(self.new_id("si"), now, subscription["id"], quantity, (now, end))
        return self.put(item | {"price": price_id})

    @locked
    def create_subscription(
        self,
        customer: str,
        price: str | None = None,
        quantity: int = 1,
        *,
        items: list[Json] | None = None,
        first_payment: Literal["paid", "failed", "awaited"] = "paid",
        trial_days: int | None = None,
        trial_end: int | None = None,
        metadata: Json | None = None,
        collection_method: str = "charge_automatically",
        days_until_due: int | None = None,
    ) -> Json:
        """Subscribe without Checkout, to one price or to `items` ([{"price", "quantity"}, …]).

        `first_payment` "failed" or "awaited" leaves it incomplete until `recover_payment` or
        `expire_incomplete`; collection_method "send_invoice" is active with an open invoice.
        """
        if trial_days is not None:
            trial_end = self.now() + trial_days * DAY
        wanted = items or ([{"price": price, "quantity": quantity}] if price else [])
        stored = self._new_subscription(customer, wanted, metadata, trial_end, collection_method, days_until_due)
        sent = collection_method == "send_invoice"
        if sent and not trial_end:
            stored["status"] = "active"
        invoice = self._new_invoice(stored, "subscription_create")
        self.tell("customer.subscription.created", stored)
        self.tell("invoice.created", invoice)
        self._finalize(invoice)
        if invoice["status"] == "open" and not sent:
            if first_payment == "awaited":
                self._intent_of(invoice)
            else:
                self._collect(invoice, succeeds=first_payment == "paid")
        if invoice["status"] == "paid":
            self._latest_settled(invoice, *AWAITING_PAYMENT)
        return self.render(stored)

    @locked
    def expire_incomplete(self, subscription: str) -> Json:
        """23 hours without a first payment: incomplete_expired for good, the invoice void."""
        stored = self.stored("subscription", subscription)
        self._require(stored, "incomplete")
        invoice = self.stored("invoice", stored["latest_invoice"])
        self._close(invoice, "void", "voided_at", "invoice.voided")
        with self.changing(stored, UPDATED):
            stored |= {"status": "incomplete_expired", "ended_at": self.now()}
        return self.render(stored)

    def _require(self, subscription: Json, *statuses: str) -> None:
        if subscription["status"] not in statuses:
            raise ApiError(400, f"The subscription is {subscription['status']}.")

    def _live(self, subscription: str) -> Json:
        """Ended subscriptions can't be changed any more: Stripe answers as if there were none."""
        stored = self.stored("subscription", subscription)
        if stored["status"] in ENDED:
            raise missing("subscription", subscription)
        return stored

    def _item(self, subscription: Json, item: str | None) -> Json:
        items = self.items_of(subscription["id"])
        found = next((one for one in items if item in (None, one["id"])), None)
        if found is None:
            raise missing("subscription_item", str(item))
        return found

    @locked
    def change_quantity(self, subscription: str, quantity: int, item: str | None = None) -> Json:
        """Set the quantity of an item (the first unless named), without proration."""
        stored = self._live(subscription)
        with self.changing(stored, UPDATED):
            self._item(stored, item)["quantity"] = quantity
        return self.render(stored)

    @locked
    def propose_quantity(self, subscription: str, quantity: int) -> Json:
        """Ask for another quantity whose payment does not succeed (`payment_behavior=pending_if_incomplete`).

        All stays as it is but `pending_update`, until `conclude_update`.
        """
        stored = self._live(subscription)
        item = self._item(stored, None)
        with self.changing(stored, UPDATED):
            stored["pending_update"] = {
                "billing_cycle_anchor": None,
                "expires_at": self.now() + 23 * 3600,
                "subscription_items": [self.render(item) | {"quantity": quantity}],
                "trial_end": None,
                "trial_from_plan": None,
            }
        return self.render(stored)

    @locked
    def conclude_update(self, subscription: str, paid: bool) -> Json:
        """The proposed change is paid and takes place, or 23 hours are over."""
        stored = self._live(subscription)
        if stored["pending_update"] is None:
            raise ApiError(400, "The subscription has no pending update.")
        (proposed,) = stored["pending_update"]["subscription_items"]
        with self.changing(stored, UPDATED):
            stored["pending_update"] = None
            if paid:
                self._item(stored, proposed["id"])["quantity"] = proposed["quantity"]
        self.tell(f"customer.subscription.pending_update_{'applied' if paid else 'expired'}", stored)
        return self.render(stored)

    @locked
    def change_price(self, subscription: str, price: str, item: str | None = None) -> Json:
        """Move an item (the first unless named) to another price, within its current period."""
        stored = self._live(subscription)
        self.stored("price", price, "price")
        with self.changing(stored, UPDATED):
            self._item(stored, item)["price"] = price
        return self.render(stored)

    @locked
    def add_item(self, subscription: str, price: str, quantity: int = 1) -> Json:
        stored = self._live(subscription)
        if len(self.items_of(subscription)) >= MAX_ITEMS:
            raise ApiError(400, f"A subscription has at most {MAX_ITEMS} items.")
        with self.changing(stored, UPDATED):
            self._new_item(stored, price, quantity)
        return self.render(stored)

    @locked
    def remove_item(self, subscription: str, item: str) -> Json:
        stored = self._live(subscription)
        if len(self.items_of(subscription)) == 1:
            raise ApiError(400, "A subscription must have at least one item.")
        found = self._item(stored, item)
        with self.changing(stored, UPDATED):
            del self.objects["subscription_item"][found["id"]]
        return self.render(stored)

    @locked
    def set_metadata(self, subscription: str, metadata: Json) -> Json:
        stored = self.stored("subscription", subscription)
        with self.changing(stored, UPDATED):
            stored["metadata"] = metadata
        return self.render(stored)

    def _next_period(self, subscription: Json) -> None:
        for item in self.items_of(subscription["id"]):
            recurring = self.stored("price", item["price"])["recurring"]
            start = item["current_period_end"]
            item["current_period_start"] = start
            item["current_period_end"] = add_interval(start, recurring["interval"], recurring["interval_count"])

    @locked
    def renew(self, subscription: str, delayed: bool = False) -> Json:
        """The current period ends: the next begins, and an invoice for it is made.

        It is paid while the subscription is in good standing. past_due: collecting fails again.
        unpaid: it stays a draft. A pause of collection decides instead. A cancellation that is
        due takes effect instead of all this. The account's clock is not moved. `delayed`: by a bank
        debit, whose money is still to come: see `conclude_payment`.
        """
        stored = self._live(subscription)
        if stored["cancel_at_period_end"]:
            return self._end(stored, "cancellation_requested")
        outcome: Outcome = "failed" if stored["status"] == "past_due" else "pending" if delayed else "succeeded"
        self._bill_period(stored, outcome)
        return self.render(stored)

    @locked
    def conclude_payment(self, invoice: str, succeeded: bool) -> Json:
        """The delayed payment of an open invoice arrives or bounces. The subscription stays active in any case."""
        stored = self.stored("invoice", invoice)
        self._conclude(self._intent_of(stored), succeeded)
        if succeeded:
            self._mark_paid(stored)
        else:
            self.tell("invoice.payment_failed", stored)
        return self.render(stored)

    def _bill_period(self, subscription: Json, outcome: Outcome) -> None:
        pause = (subscription["pause_collection"] or {}).get("behavior")
        with self.changing(subscription, UPDATED):
            self._next_period(subscription)
            invoice = self._new_invoice(subscription, "subscription_cycle")
        self.tell("invoice.created", invoice)
        if pause == "keep_as_draft" or subscription["status"] == "unpaid":
            invoice["auto_advance"] = False
            return
        self._finalize(invoice)
        if invoice["status"] == "paid" or invoice["collection_method"] == "send_invoice":
            return
        if pause == "void":
            self._close(invoice, "void", "voided_at", "invoice.voided")
        elif pause == "mark_uncollectible":
            moment = "marked_uncollectible_at"
            self._close(invoice, "uncollectible", moment, "invoice.marked_uncollectible")
        elif outcome == "pending":
            self._charge(self._intent_of(invoice), "pending", invoice["customer_email"], invoice["customer_name"])
            invoice |= {"attempted": True, "attempt_count": 1}
        else:
            self._collect(invoice, succeeds=outcome == "succeeded")
            if outcome == "failed":
                with self.changing(subscription, UPDATED):
                    subscription["status"] = "past_due"

    def _open_invoices(self, subscription: Json) -> list[Json]:
        """Unpaid invoices, drafts included, oldest first."""
        return [
            invoice
            for invoice in self.objects["invoice"].values()
            if invoice["status"] in ("draft", "open")
            and invoice["parent"]
            and invoice["parent"]["subscription_details"]["subscription"] == subscription["id"]
        ]

    @locked
    def fail_payment(self, subscription: str) -> Json:
        """A renewal can't be collected: open, attempted invoice; the subscription is past_due.

        On one that is past_due already: the next dunning try of its latest invoice fails.
        """
        stored = self._live(subscription)
        if stored["status"] == "past_due":
            self._collect(self.stored("invoice", stored["latest_invoice"]), succeeds=False)
        else:
            self._require(stored, "active")
            self._bill_period(stored, "failed")
        return self.render(stored)

    @locked
    def recover_payment(self, subscription: str) -> Json:
        """The customer pays everything that is open, oldest first: active again."""
        stored = self._live(subscription)
        for invoice in self._open_invoices(stored):
            self.pay_invoice(invoice["id"])
        return self.render(stored)

    @locked
    def exhaust_dunning(self, subscription: str, to: Literal["unpaid", "canceled", "past_due"] = "unpaid") -> Json:
        """The last retry failed; `to` is what the account's settings say comes next.

        Open invoices stay open and are not collected any more.
        """
        stored = self._live(subscription)
        self._require(stored, "past_due")
        self._stop_collecting(stored)
        if to == "canceled":
            return self._end(stored, "payment_failed")
        with self.changing(stored, UPDATED):
            stored["status"] = to
        return self.render(stored)

    def _stop_collecting(self, subscription: Json) -> None:
        for invoice in self._open_invoices(subscription):
            with self.changing(invoice, "invoice.updated"):
                invoice |= {"auto_advance": False, "next_payment_attempt": None}

    def _end(self, subscription: Json, reason: str, comment: str | None = None) -> Json:
        now = self.now()
        self._stop_collecting(subscription)
        status = "incomplete_expired" if subscription["status"] == "incomplete" else "canceled"
        subscription |= {"status": status, "ended_at": now}
        subscription["canceled_at"] = subscription["canceled_at"] or now
        details = subscription["cancellation_details"]
        details |= {"reason": details["reason"] or reason, "comment": comment or details["comment"]}
        self.tell("customer.subscription.deleted", subscription)
        return self.render(subscription)

    @locked
    def cancel(
        self,
        subscription: str,
        at_period_end: bool = False,
        cancel_at: int | None = None,
        comment: str | None = None,
    ) -> Json:
        """Cancel now, at the end of the period, or at a moment (Unix seconds).

        The later ones only schedule it (`customer.subscription.updated`): call `cancel` again, or
        `renew`, when the moment has come. `cancel_at` leaves cancel_at_period_end false, as the
        customer portal does with flexible billing.
        """
        stored = self._live(subscription)
        if not at_period_end and cancel_at is None:
            return self._end(stored, "cancellation_requested", comment)
        with self.changing(stored, UPDATED):
            if at_period_end:
                ends = [item["current_period_end"] for item in self.items_of(subscription)]
                cancel_at = max(ends)
            stored |= {"cancel_at": cancel_at, "cancel_at_period_end": at_period_end}
            stored["canceled_at"] = self.now()
            stored["cancellation_details"] |= {
                "reason": "cancellation_requested",
                "comment": comment,
            }
        return self.render(stored)

    @locked
    def keep(self, subscription: str) -> Json:
        """Take a scheduled cancellation back."""
        stored = self._live(subscription)
        with self.changing(stored, UPDATED):
            stored |= {"cancel_at": None, "cancel_at_period_end": False, "canceled_at": None}
            stored["cancellation_details"] |= {"reason": None, "comment": None}
        return self.render(stored)

    @locked
    def pause_collection(
        self,
        subscription: str,
        behavior: Literal["void", "keep_as_draft", "mark_uncollectible"] | None = "void",
        resumes_at: int | None = None,
    ) -> Json:
        """Stop collecting (None: go on collecting); the status stays what it is."""
        stored = self._live(subscription)
        with self.changing(stored, UPDATED):
            pause = {"behavior": behavior, "resumes_at": resumes_at}
            stored["pause_collection"] = pause if behavior else None
        return self.render(stored)

    @locked
    def pause(self, subscription: str) -> Json:
        """Status paused, as after a trial without a payment method: no invoices are made."""
        stored = self._live(subscription)
        with self.changing(stored, UPDATED):
            stored["status"] = "paused"
        self.tell("customer.subscription.paused", stored)
        return self.render(stored)

    @locked
    def resume(self, subscription: str) -> Json:
        """Leave status paused: a new period begins now and is paid."""
        stored = self._live(subscription)
        self._require(stored, "paused")
        invoice = self._start_period_now(stored)
        self._collect_if_open(invoice, succeeds=True)
        self._latest_settled(invoice, "paused")
        self.tell("customer.subscription.resumed", stored)
        return self.render(stored)

    def _start_period_now(self, subscription: Json, **changes: Any) -> Json:
        with self.changing(subscription, UPDATED):
            subscription |= changes
            for item in self.items_of(subscription["id"]):
                item["current_period_end"] = self.now()
            self._next_period(subscription)
            invoice = self._new_invoice(subscription, "subscription_cycle")
        self.tell("invoice.created", invoice)
        self._finalize(invoice)
        return invoice

    def _collect_if_open(self, invoice: Json, succeeds: bool) -> None:
        if invoice["status"] == "open":
            self._collect(invoice, succeeds)

    @locked
    def start_trial(self, subscription: str, days: int = 14) -> Json:
        """Give a running subscription a trial from now on."""
        stored = self._live(subscription)
        with self.changing(stored, UPDATED):
            end = self.now() + days * DAY
            stored |= {"status": "trialing", "trial_start": self.now(), "trial_end": end}
            for item in self.items_of(subscription):
                item["current_period_end"] = end
        return self.render(stored)

    @locked
    def end_trial(
        self,
        subscription: str,
        outcome: Literal["paid", "failed", "paused", "canceled"] = "paid",
    ) -> Json:
        """The trial ends now. paused and canceled are what `trial_settings` can ask for when
        there is no payment method."""
        stored = self._live(subscription)
        self._require(stored, "trialing")
        if outcome == "canceled":
            return self._end(stored, "payment_failed")
        if outcome == "paused":
            with self.changing(stored, UPDATED):
                stored |= {"status": "paused", "trial_end": self.now()}
            self.tell("customer.subscription.paused", stored)
            return self.render(stored)
        invoice = self._start_period_now(stored, status="active", trial_end=self.now())
        self._collect_if_open(invoice, succeeds=outcome == "paid")
        if outcome == "failed":
            with self.changing(stored, UPDATED):
                stored["status"] = "past_due"
        return self.render(stored)

    @locked
    def trial_will_end(self, subscription: str) -> Json:
        """The notice that Stripe sends three days before a trial ends."""
        stored = self.stored("subscription", subscription)
        self.tell("customer.subscription.trial_will_end", stored)
        return self.render(stored)
