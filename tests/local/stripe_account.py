"""A stand-in for one Stripe account, in memory: what a merchant and his buyers can do to it.

Every method changes the account as Stripe would, emits the events Stripe would emit and returns
the object concerned as the API serves it. Ids go in, JSON comes out. `stripe_http.StripeServer`
puts the same account behind HTTP.

    account = StripeAccount()
    product = account.create_product("Seats")
    price = account.create_price(product["id"], 900, recurring={"interval": "month"})
    session = account.checkout("buyer@example.com", price["id"], quantity=3)
    account.fail_payment(session["subscription"])
"""

from __future__ import annotations

from typing import Any, Literal

from .stripe_billing import DAY, ENDED, StripeBilling
from .stripe_faults import ApiError, missing
from .stripe_objects import (
    Json,
    amount_of,
    new_credit_note,
    new_customer,
    new_dispute,
    new_fraud_warning,
    new_price,
    new_product,
    new_refund,
    new_session,
    new_session_item,
)
from .stripe_store import locked, only

__all__ = ["ApiError", "StripeAccount"]


class StripeAccount(StripeBilling):
    """Catalogue, customers, Checkout and what goes wrong with charges.

    Subscriptions and invoices are in StripeBilling; events, delivery and the switches
    (`faults`, `auto_deliver`, `requests`, `events`) in StripeStore.
    """

    # Catalogue

    @locked
    def create_product(self, name: str, metadata: Json | None = None, product_id: str | None = None) -> Json:
        """Stripe lets the merchant choose a product's id."""
        if product_id in self.objects["product"]:
            raise ApiError(400, "Product already exists.", "resource_already_exists", "id")
        id_ = product_id or self.new_id("prod")
        product = self.put(new_product(id_, self.now(), self.livemode, name, metadata or {}))
        self.tell("product.created", product)
        return self.render(product)

    @locked
    def create_price(
        self,
        product: str,
        unit_amount: int,
        metadata: Json | None = None,
        lookup_key: str | None = None,
        recurring: Json | None = None,
        transform_quantity: Json | None = None,
        currency: str | None = None,
        price_id: str | None = None,
    ) -> Json:
        """One-time unless `recurring` ({"interval": "month"}) is given; amounts in minor units.

        `price_id` is for readable demos: at Stripe nobody chooses a price's id.
        """
        price = self.put(
            new_price(
                price_id or self.new_id("price"),
                self.now(),
                self.livemode,
                self.stored("product", product, "product")["id"],
                unit_amount,
                currency or self.currency,
                recurring,
                metadata or {},
                lookup_key,
                transform_quantity,
            )
        )
        self.tell("price.created", price)
        return self.render(price)

    @locked
    def update_product(self, product: str, **changes: Any) -> Json:
        """Change name, active, description, default_price or metadata (the whole hash)."""
        stored = self.stored("product", product)
        with self.changing(stored, "product.updated"):
            stored |= only(changes, "name", "active", "description", "default_price", "metadata")
            stored["updated"] = self.now()
        return self.render(stored)

    @locked
    def update_price(self, price: str, **changes: Any) -> Json:
        """Change active, nickname, lookup_key or metadata (the whole hash); never the amount."""
        stored = self.stored("price", price)
        with self.changing(stored, "price.updated"):
            stored |= only(changes, "active", "nickname", "lookup_key", "metadata")
        return self.render(stored)

    @locked
    def delete_product(self, product: str) -> Json:
        """Only a product without prices can be deleted."""
        stored = self.stored("product", product)
        if self._referring("price", "product", product):
            raise ApiError(400, "This product cannot be deleted because it has prices.")
        self.tell("product.deleted", stored)
        del self.objects["product"][product]
        return {"id": product, "object": "product", "deleted": True}

    @locked
    def delete_price(self, price: str) -> Json:
        """Only a price that was never used can be deleted, and only in the dashboard."""
        stored = self.stored("price", price)
        sold = [line for lines in self.session_items.values() for line in lines]
        if any(one["price"] == price for one in [*sold, *self.objects["subscription_item"].values()]):
            raise ApiError(400, "This price cannot be deleted because it has been used.")
        self.tell("price.deleted", stored)
        del self.objects["price"][price]
        return {"id": price, "object": "price", "deleted": True}

    # Customers

    @locked
    def create_customer(self, email: str | None, name: str | None = None, metadata: Json | None = None) -> Json:
        """E-mails are neither unique nor verified at Stripe."""
        customer = self.put(new_customer(self.new_id("cus"), self.now(), self.livemode, email, name, metadata or {}))
        self.tell("customer.created", customer)
        return self.render(customer)

    @locked
    def update_customer(self, customer: str, **changes: Any) -> Json:
        """Change email, name, phone, description or metadata (the whole hash)."""
        stored = self.live_customer(customer)
        with self.changing(stored, "customer.updated"):
            stored |= only(changes, "email", "name", "phone", "description", "metadata")
        return self.render(stored)

    @locked
    def delete_customer(self, customer: str) -> Json:
        """Ends the customer's subscriptions at once; what is left answers `deleted: true`."""
        stored = self.live_customer(customer)
        for subscription in self._referring("subscription", "customer", customer):
            if subscription["status"] not in ENDED:
                self._end(subscription, "cancellation_requested")
        self.tell("customer.deleted", stored)
        self.objects["customer"][customer] = {"id": customer, "object": "customer", "deleted": True}
        return self.get("customer", customer)

    # Checkout

    @locked
    def create_checkout_session(
        self,
        line_items: list[Json],
        mode: Literal["subscription", "payment"] = "subscription",
        customer: str | None = None,
        customer_email: str | None = None,
        customer_creation: Literal["if_required", "always"] | None = None,
        client_reference_id: str | None = None,
        metadata: Json | None = None,
        trial_days: int | None = None,
        subscription_metadata: Json | None = None,
        success_url: str | None = None,
    ) -> Json:
        """An open session over [{"price", "quantity"}, …]; creating one emits no event.

        The session's metadata is not copied to the subscription: that has its own.
        """
        prices = [self.stored("price", line["price"], "line_items") for line in line_items]
        if not prices:
            raise ApiError(400, "line_items is required.", "parameter_missing", "line_items")
        if mode == "subscription" and not any(price["recurring"] for price in prices):
            raise ApiError(400, "Subscription mode needs at least one recurring price.")
        if mode == "payment" and any(price["recurring"] for price in prices):
            raise ApiError(400, "Payment mode takes one-time prices only.")
        if customer:
            self.live_customer(customer)
        elif mode == "payment":
            customer_creation = customer_creation or "if_required"
        free = trial_days is not None and mode == "subscription"
        costs = [
            0 if free and price["recurring"] else amount_of(price, line.get("quantity", 1))
            for price, line in zip(prices, line_items, strict=True)
        ]
        session = self.put(
            new_session(
                self.new_id("cs_live" if self.livemode else "cs_test"),
                self.now(),
                self.livemode,
                mode,
                sum(costs),
                prices[0]["currency"],
                customer,
                customer_email,
                "always" if mode == "subscription" and not customer else customer_creation,
                client_reference_id,
                metadata or {},
                success_url,
            )
        )
        self.session_items[session["id"]] = [
            new_session_item(
                self.new_id("li"),
                price,
                line.get("quantity", 1),
                self.stored("product", price["product"])["name"],
            )
            | {"price": price["id"]}
            for price, line in zip(prices, line_items, strict=True)
        ]
        self._session_plans[session["id"]] = (trial_days, subscription_metadata)
        return self.render(session)

    @locked
    def complete_checkout(
        self, session: str, email: str | None = None, name: str | None = None, paid: bool = True
    ) -> Json:
        """A buyer fills in the form and pays.

        Checkout makes a new customer for every buyer it is not told, even for an e-mail it has
        seen before. `paid=False` is a delayed method (a bank debit): the session is complete, the
        subscription active, and the money is still to come: see `async_payment`.
        """
        stored = self.stored("checkout.session", session)
        if stored["status"] != "open":
            raise ApiError(400, f"This Checkout Session is {stored['status']}.")
        if stored["customer"]:
            email = self.live_customer(stored["customer"])["email"] or email
        email = email or stored["customer_email"]
        if stored["customer_creation"] == "always":
            stored["customer"] = self.create_customer(email, name)["id"]
        stored["customer_details"] = {
            "address": None,
            "business_name": None,
            "email": email,
            "individual_name": None,
            "name": name,
            "phone": None,
            "tax_exempt": "none",
            "tax_ids": None,
        }
        if stored["mode"] == "subscription":
            self._complete_subscription(stored, email, name, paid)
        else:
            if stored["amount_total"]:
                intent = self._new_intent(stored["amount_total"], stored["currency"], stored["customer"])
                stored["payment_intent"] = intent["id"]
                self._charge(intent, "succeeded" if paid else "pending", email, name)
            self._session_completed(stored, paid)
        return self.render(stored)

    def _complete_subscription(self, session: Json, email: str | None, name: str | None, paid: bool) -> None:
        trial_days, metadata = self._session_plans[session["id"]]
        trial_end = None if trial_days is None else self.now() + trial_days * DAY
        lines = [
            {"price": line["price"], "quantity": line["quantity"]}
            for line in self.session_items[session["id"]]
            if self.stored("price", line["price"])["recurring"]
        ]
        subscription = self._new_subscription(session["customer"], lines, metadata, trial_end)
        invoice = self._new_invoice(subscription, "subscription_create")
        session |= {"subscription": subscription["id"], "invoice": invoice["id"]}
        self.tell("customer.subscription.created", subscription)
        if invoice["amount_due"]:
            intent = self._new_intent(invoice["amount_due"], invoice["currency"], session["customer"])
            self._charge(intent, "succeeded" if paid else "pending", email, name)
            self._attach(invoice, intent)
        self.tell("invoice.created", invoice)
        self._finalize(invoice)
        if invoice["status"] == "open":
            invoice |= {"attempted": True, "attempt_count": 1}
            if paid:
                self._mark_paid(invoice)
        with self.changing(subscription, "customer.subscription.updated"):
            if subscription["status"] == "incomplete":
                subscription["status"] = "active"
            self._session_completed(session, paid)

    def _session_completed(self, session: Json, paid: bool) -> None:
        due = session["amount_total"]
        session["status"] = "complete"
        session["url"] = None
        session["payment_status"] = "no_payment_required" if not due else "paid" if paid else "unpaid"
        self.tell("checkout.session.completed", session)

    @locked
    def checkout(
        self,
        email: str | None,
        price: str,
        quantity: int = 1,
        mode: Literal["subscription", "payment"] = "subscription",
        customer: str | None = None,
        name: str | None = None,
        trial_days: int | None = None,
        paid: bool = True,
        **session: Any,
    ) -> Json:
        """A buyer completes Checkout: `create_checkout_session` and `complete_checkout` in one.

        Further arguments go to create_checkout_session. Returns the session.
        """
        opened = self.create_checkout_session(
            [{"price": price, "quantity": quantity}],
            mode,
            customer,
            trial_days=trial_days,
            **session,
        )
        return self.complete_checkout(opened["id"], email, name, paid)

    @locked
    def async_payment(self, session: str, succeeded: bool = True) -> Json:
        """The delayed payment of a session arrives, or fails days after the order.

        On failure the subscription stays active and its invoice open: that is Stripe's way.
        """
        stored = self.stored("checkout.session", session)
        if stored["status"] != "complete" or stored["payment_status"] != "unpaid":
            raise ApiError(400, "No payment of this session is outstanding.")
        invoice = self.stored("invoice", stored["invoice"]) if stored["invoice"] else None
        intent = self._intent_of(invoice) if invoice else self.stored("payment_intent", stored["payment_intent"])
        self._conclude(intent, succeeded)
        if invoice and succeeded:
            self._mark_paid(invoice)
        elif invoice:
            self.tell("invoice.payment_failed", invoice)
        if succeeded:
            stored["payment_status"] = "paid"
        outcome = "succeeded" if succeeded else "failed"
        self.tell(f"checkout.session.async_payment_{outcome}", stored)
        return self.render(stored)

    @locked
    def expire_session(self, session: str) -> Json:
        """Nobody paid within a day, or the merchant closed the session."""
        stored = self.stored("checkout.session", session)
        if stored["status"] != "open":
            raise ApiError(400, f"Only open sessions expire; this one is {stored['status']}.")
        stored |= {"status": "expired", "url": None}
        self.tell("checkout.session.expired", stored)
        return self.render(stored)

    # What goes wrong with charges

    @locked
    def charge_of(self, id_: str) -> Json:
        """The newest charge behind a checkout session, invoice, subscription or intent.

        Charges no longer name their invoice: the way goes over the invoice's payments.
        """
        found = self.find(id_)
        if found and found["object"] == "checkout.session":
            found = self.find(found["payment_intent"] or found["invoice"] or "")
        if found and found["object"] == "subscription":
            found = self.find(found["latest_invoice"] or "")
        if found and found["object"] == "invoice":
            payments = self._referring("invoice_payment", "invoice", found["id"])
            found = self.find(payments[0]["payment"]["payment_intent"]) if payments else None
        if not found or found["object"] != "payment_intent" or not found["latest_charge"]:
            raise missing("charge", id_)
        return self.get("charge", found["latest_charge"])

    @locked
    def refund(
        self,
        charge: str,
        amount: int | None = None,
        reason: str | None = "requested_by_customer",
        status: Literal["succeeded", "pending"] = "succeeded",
    ) -> Json:
        """Give back all that is left, or a part; `charge.refunded` fires for parts too."""
        stored = self.stored("charge", charge, "charge")
        left = stored["amount"] - stored["amount_refunded"]
        amount = left if amount is None else amount
        if not left:
            raise ApiError(400, f"Charge {charge} has been refunded.", "charge_already_refunded")
        if stored["status"] != "succeeded" or not 0 < amount <= left:
            raise ApiError(400, "The refund is greater than what was paid.", None, "amount")
        refund = self.put(new_refund(self.new_id("re"), self.now(), stored, amount, status, reason))
        self.tell("refund.created", refund)
        with self.changing(stored, "charge.refunded"):
            stored["amount_refunded"] += amount
            stored["refunded"] = stored["amount_refunded"] == stored["amount"]
        if status == "succeeded":
            self.tell("charge.refund.updated", refund)
        return self.render(refund)

    @locked
    def settle_refund(self, refund: str) -> Json:
        """A pending refund arrives."""
        stored = self.stored("refund", refund)
        if stored["status"] != "pending":
            raise ApiError(400, f"This refund is {stored['status']}.")
        with self.changing(stored, "refund.updated"):
            stored["status"] = "succeeded"
        return self.render(stored)

    @locked
    def credit_note(self, invoice: str, amount: int | None = None, refund: bool = True) -> Json:
        """Credit a paid invoice, in whole unless `amount` says how much; `refund` gives the money back as well."""
        stored = self.stored("invoice", invoice)
        left = stored["amount_paid"] - stored["post_payment_credit_notes_amount"]
        amount = left if amount is None else amount
        if stored["status"] != "paid" or not 0 < amount <= left:
            raise ApiError(400, "The credit note is greater than what was paid.", None, "amount")
        number = len(self._referring("credit_note", "invoice", invoice)) + 1
        given = [self.refund(self.charge_of(invoice)["id"], amount)["id"]] if refund else []
        lines, rest = [], amount
        for line in self.lines_of(invoice):
            credited = min(line["amount"], rest)
            rest -= credited
            if credited:
                lines.append((self.new_id("cnli"), line, credited))
        note = self.put(
            new_credit_note(
                self.new_id("cn"),
                self.now(),
                stored,
                f"{stored['number']}-CN-{number:02d}",
                amount,
                given,
                lines,
            )
        )
        with self.changing(stored, "invoice.updated"):
            stored["post_payment_credit_notes_amount"] += amount
        self.tell("credit_note.created", note)
        return self.render(note)

    @locked
    def fail_refund(self, refund: str) -> Json:
        """The buyer's bank sends the money back: the charge is no longer refunded."""
        stored = self.stored("refund", refund)
        if stored["status"] == "failed":
            raise ApiError(400, "This refund has failed already.")
        charge = self.stored("charge", stored["charge"])
        with self.changing(charge, "charge.updated"):
            charge |= {
                "amount_refunded": charge["amount_refunded"] - stored["amount"],
                "refunded": False,
            }
        with self.changing(stored, "refund.updated"):
            stored["status"] = "failed"
        self.tell("charge.refund.updated", stored)
        self.tell("refund.failed", stored)
        return self.render(stored)

    @locked
    def dispute(
        self,
        charge: str,
        amount: int | None = None,
        reason: str = "fraudulent",
        status: Literal["needs_response", "warning_needs_response"] = "needs_response",
    ) -> Json:
        """The buyer disputes a charge; a warning_… status is an inquiry, no money moves yet."""
        stored = self.stored("charge", charge, "charge")
        stored["disputed"] = True
        dispute = self.put(
            new_dispute(self.new_id("du"), self.now(), stored, amount or stored["amount"], reason, status)
        )
        self.tell("charge.dispute.created", dispute)
        if status == "needs_response":
            self.tell("charge.dispute.funds_withdrawn", dispute)
        return self.render(dispute)

    @locked
    def close_dispute(self, dispute: str, status: Literal["won", "lost", "warning_closed"] = "lost") -> Json:
        """`charge.dispute.closed` comes for every outcome: only `status` tells which.

        The charge stays `disputed` even when the dispute is won.
        """
        stored = self.stored("dispute", dispute)
        if stored["status"] in ("won", "lost", "warning_closed"):
            raise ApiError(400, "This dispute is already closed.")
        with self.changing(stored, "charge.dispute.updated"):
            stored["status"] = status
        self.tell("charge.dispute.closed", stored)
        if status == "won":
            self.tell("charge.dispute.funds_reinstated", stored)
        return self.render(stored)

    @locked
    def fraud_warning(self, charge: str, fraud_type: str = "unauthorized_use_of_card") -> Json:
        """The card network reports a payment as probably fraudulent; nothing else changes."""
        stored = self.stored("charge", charge, "charge")
        warning = self.put(new_fraud_warning(self.new_id("issfr"), self.now(), stored, fraud_type))
        self.tell("radar.early_fraud_warning.created", warning)
        return self.render(warning)
