"""Builders of Stripe objects in the shapes of API version 2026-10-28.endive, each checked when made.

`check` compares an object with the sample that Stripe publishes for its resource
(stripe-fixtures.json): no name the sample lacks, and the same JSON type wherever both are set.
Nested Stripe objects are compared with the sample of their own resource. A documented field that
the sample happens to leave out is in `DOCUMENTED`, with the reason.
"""

from __future__ import annotations

import calendar
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import stripe

Json = dict[str, Any]

API_VERSION = "2026-10-28.endive"

FIXTURES: Json = json.loads(Path(__file__).with_name("stripe-fixtures.json").read_text())["resources"]
FIXTURES["plan"] = FIXTURES["subscription_item"]["plan"]

# No sample is published for these; the names come from the classes of the stripe package.
NAMES_ONLY: dict[str, set[str]] = {
    "account": set(stripe.Account.__annotations__),
    "radar.early_fraud_warning": set(stripe.radar.EarlyFraudWarning.__annotations__),
}

DOCUMENTED: dict[str, str] = {
    "charge.billing_details.tax_id": "newer than some samples",
    "checkout.session.line_items": "served only when expanded",
    "customer.deleted": "only on a deleted customer",
    "customer.subscriptions": "served only when expanded",
    "event.data.previous_attributes": "only on *.updated events",
    "invoice.payments": "served only when expanded",
    "invoice_payment.payment.payment_intent": "the sample shows the discriminator alone",
    "line_item.pricing.price_details": "the sample shows the discriminator alone",
    "webhook_endpoint.secret": "answered once, by the creating call",
}

# Maps of the merchant's own keys, or of whatever the event is about.
FREE_FORM = {"metadata", "previous_attributes", "fraud_details"}


class ShapeError(AssertionError):
    """The stand-in made an object that Stripe would not have made: fix the stand-in."""


def check(obj: Json) -> Json:
    """Return `obj` if its field names and JSON types are those of its resource.

    Raises ShapeError otherwise.
    """
    resource = obj["object"]
    if resource in NAMES_ONLY:
        if strange := set(obj) - NAMES_ONLY[resource]:
            raise ShapeError(f"{resource} has no {sorted(strange)}")
    elif resource == "event":
        _compare(obj | {"data": {}}, FIXTURES["event"] | {"data": {}}, "event")
    else:
        _compare(obj, FIXTURES[resource], resource)
    return obj


def _compare(value: Any, sample: Any, path: str) -> None:
    if value is None or sample is None:
        return
    if type(value) is not type(sample):
        raise ShapeError(f"{path} is {type(value).__name__}, Stripe's is {type(sample).__name__}")
    if isinstance(value, list):
        for one in value:
            _compare_member(one, sample[0] if sample else None, path)
    elif isinstance(value, dict) and path.rpartition(".")[2] not in FREE_FORM:
        for name, member in value.items():
            inner = f"{path}.{name}"
            if name in sample:
                _compare_member(member, sample[name], inner)
            elif inner not in DOCUMENTED:
                raise ShapeError(f"{inner} is no field of Stripe's sample")


def _compare_member(value: Any, sample: Any, path: str) -> None:
    if isinstance(value, dict) and value.get("object") in FIXTURES:
        check(value)
    else:
        _compare(value, sample, path)


def nothing(*names: str) -> Json:
    """The named fields, null."""
    return dict.fromkeys(names)


def list_of(url: str, data: list[Json], has_more: bool = False) -> Json:
    return {"object": "list", "data": data, "has_more": has_more, "url": url}


def add_interval(start: int, interval: str, count: int = 1) -> int:
    """The end of a billing period that begins at `start` (Unix seconds), calendar months in UTC."""
    if interval in ("day", "week"):
        return start + 86400 * count * (7 if interval == "week" else 1)
    begin = datetime.fromtimestamp(start, UTC)
    months = begin.month - 1 + count * (12 if interval == "year" else 1)
    year, month = begin.year + months // 12, months % 12 + 1
    day = min(begin.day, calendar.monthrange(year, month)[1])
    return int(begin.replace(year=year, month=month, day=day).timestamp())


def amount_of(price: Json, quantity: int | None) -> int:
    """What `quantity` of `price` costs, in minor currency units, `transform_quantity` applied."""
    units = quantity or 0
    if transform := price["transform_quantity"]:
        units, rest = divmod(units, transform["divide_by"])
        units += int(bool(rest) and transform["round"] == "up")
    return int(units * (price["unit_amount"] or 0))


def new_customer(id_: str, created: int, livemode: bool, email: str | None, name: str | None, metadata: Json) -> Json:
    return check(
        nothing("address", "currency", "default_source", "description")
        | nothing("discount", "phone", "shipping", "test_clock")
        | {
            "id": id_,
            "object": "customer",
            "balance": 0,
            "created": created,
            "delinquent": False,
            "email": email,
            "invoice_prefix": id_[-8:].upper(),
            "invoice_settings": nothing("custom_fields", "default_payment_method", "footer", "rendering_options"),
            "livemode": livemode,
            "metadata": metadata,
            "name": name,
            "next_invoice_sequence": 1,
            "preferred_locales": [],
            "tax_exempt": "none",
        }
    )


def new_product(id_: str, created: int, livemode: bool, name: str, metadata: Json) -> Json:
    return check(
        nothing("default_price", "description", "package_dimensions", "shippable", "url")
        | nothing("statement_descriptor", "tax_code", "unit_label")
        | {
            "id": id_,
            "object": "product",
            "active": True,
            "created": created,
            "images": [],
            "livemode": livemode,
            "marketing_features": [],
            "metadata": metadata,
            "name": name,
            "type": "service",
            "updated": created,
        }
    )


def new_price(
    id_: str,
    created: int,
    livemode: bool,
    product: str,
    unit_amount: int,
    currency: str,
    recurring: Json | None,
    metadata: Json,
    lookup_key: str | None,
    transform_quantity: Json | None,
) -> Json:
    if recurring is not None:
        recurring = {
            "interval": recurring.get("interval", "month"),
            "interval_count": int(recurring.get("interval_count", 1)),
            "meter": recurring.get("meter"),
            "trial_period_days": None,
            "usage_type": recurring.get("usage_type", "licensed"),
        }
    return check(
        nothing("custom_unit_amount", "nickname", "tiers_mode")
        | {
            "id": id_,
            "object": "price",
            "active": True,
            "billing_scheme": "per_unit",
            "created": created,
            "currency": currency,
            "livemode": livemode,
            "lookup_key": lookup_key,
            "metadata": metadata,
            "product": product,
            "recurring": recurring,
            "tax_behavior": "unspecified",
            "transform_quantity": transform_quantity,
            "type": "recurring" if recurring else "one_time",
            "unit_amount": unit_amount,
            "unit_amount_decimal": str(unit_amount),
        }
    )


def plan_of(price: Json) -> Json:
    """The legacy `plan` that every subscription item still carries beside its price."""
    recurring = price["recurring"]
    return check(
        nothing("nickname", "tiers_mode", "trial_period_days")
        | {
            "id": price["id"],
            "object": "plan",
            "active": price["active"],
            "amount": price["unit_amount"],
            "amount_decimal": price["unit_amount_decimal"],
            "billing_scheme": price["billing_scheme"],
            "created": price["created"],
            "currency": price["currency"],
            "interval": recurring["interval"],
            "interval_count": recurring["interval_count"],
            "livemode": price["livemode"],
            "metadata": price["metadata"],
            "meter": recurring["meter"],
            "product": price["product"],
            "transform_usage": price["transform_quantity"],
            "usage_type": recurring["usage_type"],
        }
    )


def new_subscription(
    id_: str,
    created: int,
    livemode: bool,
    customer: str,
    currency: str,
    metadata: Json,
    collection_method: str,
    days_until_due: int | None,
) -> Json:
    """A subscription without its items; the account adds them as a list when it serves it."""
    return check(
        nothing("application", "application_fee_percent", "billing_cycle_anchor_config")
        | nothing("billing_thresholds", "cancel_at", "canceled_at", "customer_account")
        | nothing("default_payment_method", "default_source", "description", "ended_at")
        | nothing("latest_invoice", "next_pending_invoice_item_invoice", "on_behalf_of")
        | nothing("pause_collection", "pending_invoice_item_interval", "pending_setup_intent")
        | nothing("pending_update", "schedule", "test_clock", "transfer_data", "trial_end")
        | nothing("trial_start")
        | {
            "id": id_,
            "object": "subscription",
            "automatic_tax": {"enabled": False, "liability": None, "disabled_reason": None},
            "billing_cycle_anchor": created,
            "billing_mode": {"type": "flexible", "flexible": {}},
            "billing_schedules": [],
            "cancel_at_period_end": False,
            "cancellation_details": nothing("comment", "feedback", "reason"),
            "collection_method": collection_method,
            "created": created,
            "currency": currency,
            "customer": customer,
            "days_until_due": days_until_due,
            "default_tax_rates": [],
            "discounts": [],
            "invoice_settings": {
                **nothing("account_tax_ids", "custom_fields", "description", "footer"),
                "issuer": {"type": "self"},
            },
            "livemode": livemode,
            "managed_payments": {"enabled": False},
            "metadata": metadata,
            "payment_settings": {
                "payment_method_options": None,
                "payment_method_types": None,
                "save_default_payment_method": "off",
            },
            "start_date": created,
            "status": "incomplete",
            "trial_settings": {"end_behavior": {"missing_payment_method": "create_invoice"}},
        }
    )


def new_subscription_item(
    id_: str, created: int, subscription: str, quantity: int | None, period: tuple[int, int]
) -> Json:
    """An item without its price. A metered item has no `quantity` field at all, as at Stripe."""
    item: Json = {
        "id": id_,
        "object": "subscription_item",
        "billing_thresholds": None,
        "created": created,
        "current_period_end": period[1],
        "current_period_start": period[0],
        "discounts": [],
        "metadata": {},
        "subscription": subscription,
        "tax_rates": [],
    }
    return check(item if quantity is None else item | {"quantity": quantity})


def new_invoice(
    id_: str,
    created: int,
    livemode: bool,
    customer: Json,
    amount: int,
    currency: str,
    number: str,
    billing_reason: str,
    period: tuple[int, int],
    collection_method: str = "charge_automatically",
    due_date: int | None = None,
    subscription: Json | None = None,
) -> Json:
    """A draft without its lines. `customer_email` is what the customer's was at this moment."""
    parent = None
    if subscription:
        parent = {
            "quote_details": None,
            "subscription_details": {
                "metadata": subscription["metadata"],
                "subscription": subscription["id"],
            },
            "type": "subscription_details",
        }
    return check(
        nothing("account_name", "account_tax_ids", "application", "automatically_finalizes_at")
        | nothing("custom_fields", "customer_account", "customer_address", "customer_phone")
        | nothing("customer_shipping", "default_payment_method", "default_source", "description")
        | nothing("effective_at", "ending_balance", "footer", "from_invoice", "invoice_pdf")
        | nothing("hosted_invoice_url", "last_finalization_error", "latest_revision")
        | nothing("next_payment_attempt", "on_behalf_of", "receipt_number", "rendering")
        | nothing("shipping_cost", "shipping_details", "statement_descriptor", "test_clock")
        | nothing("total_pretax_credit_amounts", "webhooks_delivered_at")
        | {
            "id": id_,
            "object": "invoice",
            "account_country": "US",
            "amount_due": amount,
            "amount_overpaid": 0,
            "amount_paid": 0,
            "amount_remaining": amount,
            "amount_shipping": 0,
            "attempt_count": 0,
            "attempted": False,
            "auto_advance": True,
            "automatic_tax": {
                **nothing("disabled_reason", "liability", "provider", "status"),
                "enabled": False,
            },
            "billing_reason": billing_reason,
            "collection_method": collection_method,
            "created": created,
            "currency": currency,
            "customer": customer["id"],
            "customer_email": customer["email"],
            "customer_name": customer["name"],
            "customer_tax_exempt": "none",
            "customer_tax_ids": [],
            "default_tax_rates": [],
            "discounts": [],
            "due_date": due_date,
            "issuer": {"type": "self"},
            "livemode": livemode,
            "metadata": {},
            "number": number,
            "parent": parent,
            "payment_settings": nothing("default_mandate", "payment_method_options", "payment_method_types"),
            "period_end": period[1],
            "period_start": period[0],
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "starting_balance": 0,
            "status": "draft",
            "status_transitions": nothing("finalized_at", "marked_uncollectible_at", "paid_at", "voided_at"),
            "subtotal": amount,
            "subtotal_excluding_tax": amount,
            "total": amount,
            "total_discount_amounts": [],
            "total_excluding_tax": amount,
            "total_taxes": [],
        }
    )


def new_line_item(
    id_: str,
    livemode: bool,
    invoice: str,
    amount: int,
    currency: str,
    description: str,
    quantity: int | None,
    period: tuple[int, int],
    price: Json | None = None,
    item: Json | None = None,
) -> Json:
    """One line of an invoice: the price is at pricing.price_details.price since 2025."""
    parent = pricing = None
    if item:
        parent = {
            "invoice_item_details": None,
            "subscription_item_details": {
                "invoice_item": None,
                "proration": False,
                "proration_details": {"credited_items": None},
                "subscription": item["subscription"],
                "subscription_item": item["id"],
            },
            "type": "subscription_item_details",
        }
    if price:
        pricing = {
            "price_details": {"price": price["id"], "product": price["product"]},
            "type": "price_details",
            "unit_amount_decimal": price["unit_amount_decimal"],
        }
    return check(
        {
            "id": id_,
            "object": "line_item",
            "amount": amount,
            "currency": currency,
            "description": description,
            "discount_amounts": [],
            "discountable": True,
            "discounts": [],
            "invoice": invoice,
            "livemode": livemode,
            "metadata": {},
            "parent": parent,
            "period": {"start": period[0], "end": period[1]},
            "pretax_credit_amounts": [],
            "pricing": pricing,
            "quantity": quantity,
            "quantity_decimal": None if quantity is None else str(quantity),
            "subscription": item["subscription"] if item else None,
            "subtotal": amount,
            "taxes": [],
        }
    )


def new_invoice_payment(id_: str, created: int, invoice: Json, payment_intent: str) -> Json:
    return check(
        {
            "id": id_,
            "object": "invoice_payment",
            "amount_paid": None,
            "amount_requested": invoice["amount_due"],
            "created": created,
            "currency": invoice["currency"],
            "invoice": invoice["id"],
            "is_default": True,
            "livemode": invoice["livemode"],
            "payment": {"payment_intent": payment_intent, "type": "payment_intent"},
            "status": "open",
            "status_transitions": nothing("canceled_at", "paid_at"),
        }
    )


def new_payment_intent(
    id_: str, created: int, livemode: bool, amount: int, currency: str, customer: str | None
) -> Json:
    return check(
        nothing("application", "application_fee_amount", "canceled_at", "cancellation_reason")
        | nothing("customer_account", "description", "excluded_payment_method_types")
        | nothing("last_payment_error", "latest_charge", "next_action", "on_behalf_of")
        | nothing("payment_method", "payment_method_configuration_details", "processing")
        | nothing("receipt_email", "review", "setup_future_usage", "shipping", "source")
        | nothing("statement_descriptor", "statement_descriptor_suffix", "transfer_data")
        | nothing("transfer_group")
        | {
            "id": id_,
            "object": "payment_intent",
            "amount": amount,
            "amount_capturable": 0,
            "amount_details": {"tip": {}},
            "amount_received": 0,
            "automatic_payment_methods": None,
            "capture_method": "automatic",
            "client_secret": f"{id_}_secret_standin",
            "confirmation_method": "automatic",
            "created": created,
            "currency": currency,
            "customer": customer,
            "livemode": livemode,
            "managed_payments": {"enabled": False},
            "metadata": {},
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "status": "requires_payment_method",
        }
    )


def new_charge(id_: str, created: int, intent: Json, status: str, email: str | None, name: str | None) -> Json:
    """A charge of `intent`; status is succeeded, pending (delayed methods) or failed."""
    succeeded = status == "succeeded"
    return check(
        nothing("application", "application_fee", "application_fee_amount", "review", "shipping")
        | nothing("balance_transaction", "description", "failure_balance_transaction", "source")
        | nothing("on_behalf_of", "payment_method", "receipt_email", "receipt_number")
        | nothing("receipt_url", "source_transfer", "statement_descriptor", "transfer_data")
        | nothing("statement_descriptor_suffix", "transfer_group")
        | {
            "id": id_,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if succeeded else 0,
            "amount_refunded": 0,
            "billing_details": nothing("address", "phone", "tax_id") | {"email": email, "name": name},
            "calculated_statement_descriptor": "STAND-IN",
            "captured": succeeded,
            "created": created,
            "currency": intent["currency"],
            "customer": intent["customer"],
            "disputed": False,
            "failure_code": "card_declined" if status == "failed" else None,
            "failure_message": "Your card was declined." if status == "failed" else None,
            "fraud_details": {},
            "livemode": intent["livemode"],
            "metadata": {},
            "outcome": {
                **nothing("advice_code", "network_advice_code", "network_decline_code", "reason"),
                "network_status": "declined_by_network" if status == "failed" else "approved_by_network",
                "seller_message": None,
                "type": "issuer_declined" if status == "failed" else "authorized",
            },
            "paid": succeeded,
            "payment_intent": intent["id"],
            "payment_method_details": {
                "card": {
                    "brand": "visa",
                    "country": "US",
                    "exp_month": 12,
                    "exp_year": 2034,
                    "fingerprint": "standin",
                    "funding": "credit",
                    "last4": "4242",
                    "network": "visa",
                },
                "type": "card",
            },
            "refunded": False,
            "status": status,
        }
    )


def new_refund(id_: str, created: int, charge: Json, amount: int, status: str, reason: str | None) -> Json:
    return check(
        nothing("balance_transaction", "customer_account", "payment_method", "receipt_number")
        | nothing("source_transfer_reversal", "transfer_reversal")
        | {
            "id": id_,
            "object": "refund",
            "amount": amount,
            "charge": charge["id"],
            "created": created,
            "currency": charge["currency"],
            "customer": charge["customer"],
            "destination_details": {"card": {"type": "refund"}, "type": "card"},
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "reason": reason,
            "status": status,
        }
    )


def new_credit_note(
    id_: str,
    created: int,
    invoice: Json,
    number: str,
    amount: int,
    refunds: list[str],
    lines: list[tuple[str, Json, int]],
) -> Json:
    """A credit note of a paid invoice. Its `lines` are (id, the invoice's line, what is credited of it)."""
    rows: list[Json] = [
        nothing("taxes", "unit_amount", "unit_amount_decimal")
        | {
            "id": line_id,
            "object": "credit_note_line_item",
            "amount": credited,
            "description": line["description"],
            "discount_amount": 0,
            "discount_amounts": [],
            "invoice_line_item": line["id"],
            "livemode": invoice["livemode"],
            "metadata": {},
            "pretax_credit_amounts": [],
            "quantity": line["quantity"],
            "tax_rates": [],
            "type": "invoice_line_item",
        }
        for line_id, line, credited in lines
    ]
    return check(
        nothing("customer_account", "customer_balance_transaction", "memo", "out_of_band_amount")
        | nothing("reason", "shipping_cost", "total_taxes", "voided_at")
        | {
            "id": id_,
            "object": "credit_note",
            "amount": amount,
            "amount_shipping": 0,
            "created": created,
            "currency": invoice["currency"],
            "customer": invoice["customer"],
            "discount_amount": 0,
            "discount_amounts": [],
            "effective_at": created,
            "invoice": invoice["id"],
            "lines": list_of(f"/v1/credit_notes/{id_}/lines", rows),
            "livemode": invoice["livemode"],
            "metadata": {},
            "number": number,
            "pdf": f"https://pay.stripe.com/credit_notes/{id_}/pdf",
            "post_payment_amount": amount,
            "pre_payment_amount": 0,
            "pretax_credit_amounts": [],
            "refunds": [
                {"amount_refunded": amount, "payment_record_refund": None, "refund": refund, "type": "refund"}
                for refund in refunds
            ],
            "status": "issued",
            "subtotal": amount,
            "subtotal_excluding_tax": amount,
            "total": amount,
            "total_excluding_tax": amount,
            "type": "post_payment",
        }
    )


def new_dispute(id_: str, created: int, charge: Json, amount: int, reason: str, status: str) -> Json:
    evidence = dict.fromkeys(FIXTURES["dispute"]["evidence"]) | {"enhanced_evidence": {}}
    return check(
        {
            "id": id_,
            "object": "dispute",
            "amount": amount,
            "balance_transactions": [],
            "charge": charge["id"],
            "created": created,
            "currency": charge["currency"],
            "enhanced_eligibility_types": [],
            "evidence": evidence,
            "evidence_details": {
                "due_by": created + 7 * 86400,
                "enhanced_eligibility": {},
                "has_evidence": False,
                "past_due": False,
                "submission_count": 0,
            },
            "is_charge_refundable": status.startswith("warning"),
            "livemode": charge["livemode"],
            "metadata": {},
            "payment_intent": charge["payment_intent"],
            "payment_method_details": {
                "card": {
                    "brand": "visa",
                    "case_type": "inquiry" if status.startswith("warning") else "chargeback",
                    "network": "visa",
                    "network_reason_code": "10.4",
                },
                "type": "card",
            },
            "reason": reason,
            "status": status,
        }
    )


def new_fraud_warning(id_: str, created: int, charge: Json, fraud_type: str) -> Json:
    return check(
        {
            "id": id_,
            "object": "radar.early_fraud_warning",
            "actionable": not charge["refunded"] and not charge["disputed"],
            "charge": charge["id"],
            "created": created,
            "fraud_type": fraud_type,
            "livemode": charge["livemode"],
            "payment_intent": charge["payment_intent"],
        }
    )


def new_session(
    id_: str,
    created: int,
    livemode: bool,
    mode: str,
    amount: int,
    currency: str,
    customer: str | None,
    customer_email: str | None,
    customer_creation: str | None,
    client_reference_id: str | None,
    metadata: Json,
    success_url: str | None,
) -> Json:
    """An open Checkout Session. Its line items are never in the object unless expanded."""
    return check(
        nothing("after_expiration", "allow_promotion_codes", "billing_address_collection")
        | nothing("cancel_url", "client_secret", "collected_information", "consent")
        | nothing("consent_collection", "currency_conversion", "customer_account", "invoice")
        | nothing("customer_details", "discounts", "integration_identifier", "invoice_creation")
        | nothing("locale", "origin_context", "payment_intent", "payment_link", "permissions")
        | nothing("payment_method_collection", "payment_method_configuration_details")
        | nothing("recovered_from", "saved_payment_method_options", "setup_intent")
        | nothing("shipping_address_collection", "shipping_cost", "submit_type", "subscription")
        | nothing("wallet_options")
        | {
            "id": id_,
            "object": "checkout.session",
            "adaptive_pricing": {"enabled": False},
            "amount_subtotal": amount,
            "amount_total": amount,
            "automatic_tax": {
                "enabled": False,
                "liability": None,
                "provider": None,
                "status": None,
            },
            "client_reference_id": client_reference_id,
            "created": created,
            "currency": currency,
            "custom_fields": [],
            "custom_text": nothing("after_submit", "shipping_address", "submit", "terms_of_service_acceptance"),
            "customer": customer,
            "customer_creation": customer_creation,
            "customer_email": customer_email,
            "expires_at": created + 86400,
            "livemode": livemode,
            "managed_payments": {"enabled": False},
            "metadata": metadata,
            "mode": mode,
            "payment_method_options": {},
            "payment_method_types": ["card"],
            "payment_status": "unpaid",
            "phone_number_collection": {"enabled": False},
            "shipping_options": [],
            "status": "open",
            "success_url": success_url,
            "total_details": {"amount_discount": 0, "amount_shipping": 0, "amount_tax": 0},
            "ui_mode": "hosted",
            "url": f"https://checkout.stripe.com/c/pay/{id_}",
        }
    )


def new_session_item(id_: str, price: Json, quantity: int, description: str) -> Json:
    """One line of a Checkout Session (its `object` is just "item"), without the price object."""
    amount = amount_of(price, quantity)
    return check(
        {
            "id": id_,
            "object": "item",
            "adjustable_quantity": None,
            "amount_discount": 0,
            "amount_subtotal": amount,
            "amount_tax": 0,
            "amount_total": amount,
            "currency": price["currency"],
            "description": description,
            "metadata": {},
            "quantity": quantity,
        }
    )


def new_webhook_endpoint(
    id_: str,
    created: int,
    livemode: bool,
    url: str,
    enabled_events: list[str],
    description: str | None,
    metadata: Json,
    api_version: str | None = None,
) -> Json:
    """An endpoint without its secret, which only the creating call answers."""
    return check(
        {
            "id": id_,
            "object": "webhook_endpoint",
            "api_version": api_version or API_VERSION,
            "application": None,
            "created": created,
            "description": description,
            "enabled_events": enabled_events,
            "livemode": livemode,
            "metadata": metadata,
            "status": "enabled",
            "url": url,
        }
    )


def new_event(
    id_: str,
    created: int,
    livemode: bool,
    type_: str,
    data: Json,
    pending_webhooks: int,
    request: Json,
) -> Json:
    return check(
        {
            "id": id_,
            "object": "event",
            "api_version": API_VERSION,
            "created": created,
            "data": data,
            "livemode": livemode,
            "pending_webhooks": pending_webhooks,
            "request": request,
            "type": type_,
        }
    )


def new_account(id_: str, created: int, country: str, currency: str) -> Json:
    return check(
        {
            "id": id_,
            "object": "account",
            "charges_enabled": True,
            "country": country,
            "created": created,
            "default_currency": currency,
            "details_submitted": True,
            "email": "owner@example.com",
            "metadata": {},
            "payouts_enabled": True,
            "type": "standard",
        }
    )
