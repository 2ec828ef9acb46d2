"""What Stripe says now. All reads of Stripe, turned into the few facts that the rules need (access.py).

Shapes before and after API version 2025-03-31.basil are both understood, and so are references where an expanded
object was asked for: what Stripe did not expand is read.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stripe

from gateway import events
from gateway.access import Item, Purchase, Subscription
from gateway.errors import BillingIncomplete, StripeKeyRejected, StripeRejected, StripeThrottled, StripeUnavailable
from gateway.secret import Secret
from gateway.settings import SettingMissing

_Answer = TypeVar("_Answer")

# Stripe's default of 80 s would outlive the Lambda.
_TIMEOUT = (2.0, 8.0)


@dataclass(frozen=True, slots=True)
class Customer:
    """A Stripe customer as of now."""

    id: str
    email: str | None
    deleted: bool
    subscriptions: tuple[Subscription, ...]


@dataclass(slots=True)
class _Products:
    """metadata.dapps of products, read at most once each."""

    dapps: dict[str, str | None] = field(default_factory=dict)


def price_map(text: str) -> dict[str, str]:
    """Parameter DappPrices: {"price id, lookup key or sku": dapps per unit}; SettingMissing when it is not that."""
    try:
        entries = json.loads(text)
    except ValueError as error:
        raise SettingMissing(f"DappPrices is not JSON: {error}") from error
    if not isinstance(entries, dict):
        raise SettingMissing("DappPrices is not a JSON object")
    for name, dapps in entries.items():
        if isinstance(dapps, bool) or not isinstance(dapps, int) or dapps < 0:
            raise SettingMissing(f"DappPrices gives {name!r} no whole number of dapps")
    return {name: str(dapps) for name, dapps in entries.items()}


class Billing:
    """Stripe's API, through the stripe library."""

    def __init__(self, api_key: Secret, *, base: str, livemode: bool, prices: Mapping[str, str]) -> None:
        self._api_key = api_key
        self._base = base
        self._livemode = livemode
        self._prices = prices
        self._http = stripe.RequestsClient(timeout=_TIMEOUT)

    def customer(self, customer_id: str) -> Customer:
        """The customer with all their subscriptions, ended ones included.

        BillingIncomplete when Stripe does not know the customer, or the answer is of another mode: never read as
        "does not pay". One request when there is a subscription and every price carries its mapping.
        """
        missing = None
        try:
            rows = self._list(
                lambda api: api.subscriptions.list(
                    {"customer": customer_id, "status": "all", "limit": 100, "expand": ["data.customer"]}
                )
            )
        except BillingIncomplete as error:  # perhaps because the customer is deleted, which only they themselves tell
            rows, missing = [], error
        found = rows[0].get("customer") if rows else None
        customer = found if isinstance(found, Mapping) else self._read(lambda api: api.customers.retrieve(customer_id))
        if missing is not None and not customer.get("deleted"):
            raise missing
        for each in (customer, *rows):
            self._require_mode(each, customer_id)
        products = _Products()
        return Customer(
            customer_id,
            customer.get("email"),
            bool(customer.get("deleted")),
            tuple(self._subscription(row, products) for row in rows),
        )

    def purchase(self, known: events.Purchase) -> Purchase:
        """A one-time order that the ledger remembers, as it stands now.

        A Checkout session is read from Stripe. A legacy order's API is gone: its recorded content counts, with
        today's mapping of its skus.
        """
        if known.id.startswith("cs_"):
            return self._session(known.id)
        lines = tuple(Item(item.price, item.quantity, self._prices.get(item.price)) for item in known.items)
        return Purchase(known.id, known.status, lines)

    def _session(self, session_id: str) -> Purchase:
        session = self._read(lambda api: api.checkout.sessions.retrieve(session_id))
        self._require_mode(session, session_id)
        settled = session.get("payment_status") in ("paid", "no_payment_required")
        if session.get("status") != "complete" or not settled:
            return Purchase(session_id, "open", ())
        rows = self._list(lambda api: api.checkout.sessions.line_items.list(session_id, {"limit": 100}))
        products = _Products()
        return Purchase(session_id, "paid", tuple(self._item(row, products) for row in rows))

    # -------------------------------------------------------------- from Stripe's shapes to facts

    def _subscription(self, row: Mapping[str, Any], products: _Products) -> Subscription:
        rows = row["items"]["data"]
        if row["items"].get("has_more"):
            rows = self._list(lambda api: api.subscription_items.list({"subscription": row["id"], "limit": 100}))
        period_starts = [row.get("current_period_start"), *(each.get("current_period_start") for each in rows)]
        period_ends = [row.get("current_period_end"), *(each.get("current_period_end") for each in rows)]
        ends_at = row.get("cancel_at")
        if ends_at is None and row.get("cancel_at_period_end"):
            ends_at = max((end for end in period_ends if end is not None), default=None)
        cancellation = row.get("cancellation_details") or {}
        return Subscription(
            id=row["id"],
            status=row["status"],
            items=tuple(self._item(each, products) for each in rows),
            trial_end=row.get("trial_end"),
            ends_at=ends_at,
            ended_for_nonpayment=cancellation.get("reason") in ("payment_failed", "payment_disputed"),
            period_start=max((start for start in period_starts if start is not None), default=None),
            first_unpaid=self._first_unpaid(row["id"]) if row["status"] == "past_due" else None,
        )

    def _first_unpaid(self, subscription_id: str) -> int | None:
        """When the oldest open invoice that was tried (or, sent by mail, was due) began to be unpaid."""
        invoices = self._list(
            lambda api: api.invoices.list({"subscription": subscription_id, "status": "open", "limit": 100})
        )
        return min((since for each in invoices if (since := _unpaid_since(each)) is not None), default=None)

    def _item(self, row: Mapping[str, Any], products: _Products) -> Item:
        price = row.get("price") or row.get("plan") or {}
        transform = price.get("transform_quantity") or price.get("transform_usage") or {}
        quantity = row.get("quantity")
        return Item(
            price=str(price.get("id") or ""),
            quantity=quantity if isinstance(quantity, int) and not isinstance(quantity, bool) else None,
            dapps=self._dapps(price, products),
            divide_by=transform.get("divide_by") or 1,
            round_up=transform.get("round") == "up",
        )

    def _dapps(self, price: Mapping[str, Any], products: _Products) -> str | None:
        """Units per quantity: the price's own metadata, then DappPrices, then the product's metadata."""
        own = (price.get("metadata") or {}).get("dapps")
        if own is not None:
            return str(own)
        for name in (price.get("id"), price.get("lookup_key")):
            if isinstance(name, str) and name in self._prices:
                return self._prices[name]
        product = price.get("product")
        if isinstance(product, Mapping):
            return _dapps_of(product)
        if not isinstance(product, str):
            return None
        if product not in products.dapps:
            products.dapps[product] = _dapps_of(self._read(lambda api: api.products.retrieve(product)))
        return products.dapps[product]

    def _require_mode(self, found: Mapping[str, Any], wanted: str) -> None:
        livemode = found.get("livemode")
        if livemode is not None and livemode is not self._livemode:
            raise BillingIncomplete(f"Stripe answered for {wanted} in the other mode: is the key of the right mode?")

    # -------------------------------------------------------------- the one way to Stripe

    def _list(self, call: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """Every page of a list."""
        return self._guarded(lambda api: [each.to_dict() for each in call(api).auto_paging_iter()])

    def _read(self, call: Callable[[Any], Any]) -> dict[str, Any]:
        return self._guarded(lambda api: call(api).to_dict())

    def _api(self) -> Any:
        return stripe.StripeClient(
            self._api_key.text(),
            base_addresses={"api": self._base},
            http_client=self._http,
            max_network_retries=1,  # the state machine does the patient retrying
        ).v1

    def _guarded(self, call: Callable[[Any], _Answer]) -> _Answer:
        """Stripe's errors by our names. Stripe's own texts are left out: they can repeat values of the request."""
        try:
            try:
                return call(self._api())
            except stripe.AuthenticationError:
                if not self._api_key.refresh():
                    raise
                return call(self._api())  # the key was rotated
        except stripe.RateLimitError:
            raise StripeThrottled("Stripe answered 429") from None
        except (stripe.AuthenticationError, stripe.PermissionError) as error:
            raise StripeKeyRejected(
                f"Stripe answered {error.http_status}: check the key in Secrets Manager and its rights"
            ) from None
        except stripe.InvalidRequestError as error:
            if error.code == "resource_missing":
                raise BillingIncomplete(
                    "Stripe does not know an object that the ledger names: key of another account?"
                ) from None
            raise StripeRejected(f"Stripe refused the request ({error.code or error.http_status})") from None
        except (AttributeError, TypeError):  # a proxy's answer that is no object of Stripe's
            raise StripeUnavailable("Stripe's answer cannot be read") from None
        except stripe.StripeError as error:
            raise StripeUnavailable(f"Stripe answered {error.http_status or 'nothing'}") from None


def _unpaid_since(invoice: Mapping[str, Any]) -> int | None:
    finalized: int | None = (invoice.get("status_transitions") or {}).get("finalized_at")
    if invoice.get("collection_method") == "send_invoice":
        due: int | None = invoice.get("due_date")
        return due or finalized
    return finalized if invoice.get("attempted") else None


def _dapps_of(product: Mapping[str, Any]) -> str | None:
    dapps = (product.get("metadata") or {}).get("dapps")
    return None if dapps is None else str(dapps)
