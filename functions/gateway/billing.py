"""What Stripe says now: all reads of Stripe, turned into the few facts that the rules need (access.py). The one write
ends what a deleted account is billed for.

Shapes before and after API version 2025-03-31.basil are both understood, and so are references where an expanded
object was asked for: what Stripe did not expand is read.
"""

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import stripe

from gateway import events
from gateway.access import Item, Mark, MarkKind, Purchase, Subscription, whole_text
from gateway.errors import BillingIncomplete, StripeKeyRejected, StripeRejected, StripeThrottled, StripeUnavailable
from gateway.secret import Secret
from gateway.settings import SettingMissing, required

_Answer = TypeVar("_Answer")

# So many products of a list are remembered at most: some shops make one for every sale.
_MANY_PRODUCTS = 1000

# No object of Stripe's is older (1 January 2011).
_STRIPE_BEGAN = 1_293_840_000
_DAY = 86_400

# Stripe's default of 80 s would outlive the Lambda.
_TIMEOUT = (2.0, 8.0)


@dataclass(frozen=True, slots=True)
class Customer:
    """A Stripe customer as of now."""

    id: str
    email: str | None
    deleted: bool
    subscriptions: tuple[Subscription, ...]


@dataclass(frozen=True, slots=True)
class Charged:
    """Whose a charge is, and what it paid for: facts that never change.

    `pays` is a subscription or Checkout session; `until` the end of the period that a subscription was paid for.
    `whole`: it paid for the period alone, so that its refund leaves nothing paid.
    """

    customer: str | None
    pays: str | None = None
    until: int | None = None
    whole: bool = True


@dataclass(slots=True)
class _Products:
    """What was read of products, at most once each: their metadata, and whether one of their prices is mapped."""

    metadata: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    mapped: dict[str, bool] = field(default_factory=dict)


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
        self._listed = _Products()  # of one list

    def customer(self, customer_id: str) -> Customer:
        """The customer with all their subscriptions, ended ones included.

        BillingIncomplete when Stripe does not know the customer, or the answer is of another mode: never read as
        "does not pay". One request when there is a subscription, every price carries its mapping and no invoice is a
        draft.
        """
        missing = None
        try:
            rows = self._list(
                lambda api: api.subscriptions.list(
                    {
                        "customer": customer_id,
                        "status": "all",
                        "limit": 100,
                        "expand": ["data.customer", "data.latest_invoice", "data.schedule"],
                    }
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
        return Purchase(known.id, known.status, lines, known.created)

    def mark(self, known: events.Mark) -> Mark | None:
        """A mark that the ledger remembers, as it stands now; None when nothing speaks against the charge any more."""
        if known.pays is None:
            return None
        kind: MarkKind | None
        match known.kind:
            case "refund":
                charge = self._read(lambda api: api.charges.retrieve(known.charge))
                kind = "refunded" if charge.get("refunded") else None
            case "dispute":
                dispute = self._read(lambda api: api.disputes.retrieve(known.id))
                kind = _dispute(dispute)
            case "fraud_warning":
                self._read(lambda api: api.radar.early_fraud_warnings.retrieve(known.id))
                kind = "fraud_warning"
        return None if kind is None else Mark(known.id, kind, known.pays, known.until)

    def charged(self, charge_id: str) -> Charged:
        """Whose a charge is, and which subscription or one-time purchase of ours it paid for."""
        charge = self._read(lambda api: api.charges.retrieve(charge_id))
        self._require_mode(charge, charge_id)
        customer, intent = _id(charge.get("customer")), _id(charge.get("payment_intent"))
        if intent is not None:
            for session in self._list(lambda api: api.checkout.sessions.list({"payment_intent": intent})):
                return Charged(customer or _id(session.get("customer")), session["id"])
        invoice_id = _id(charge.get("invoice"))  # until 2025-03-31.basil
        if invoice_id is None and intent is not None:
            of_intent = {"type": "payment_intent", "payment_intent": intent}
            payments = self._list(lambda api: api.invoice_payments.list({"payment": of_intent}))
            invoice_id = next((_id(each.get("invoice")) for each in payments), None)
        if invoice_id is None:
            return Charged(customer)
        invoice = self._read(lambda api: api.invoices.retrieve(invoice_id))
        lines = invoice.get("lines") or {}
        rows = lines.get("data") or []
        if lines.get("has_more"):
            rows = self._list(lambda api: api.invoices.line_items.list(invoice_id, {"limit": 100}))
        ends = [end for row in rows if (end := (row.get("period") or {}).get("end")) is not None]
        return Charged(
            customer or _id(invoice.get("customer")),
            _subscription_of(invoice),
            max(ends, default=None),
            whole=invoice.get("billing_reason") != _CHANGE
            and (charge.get("amount") or 0) >= (invoice.get("amount_paid") or 0),
        )

    def customers_of(self, email: str) -> list[str]:
        """The ids of the customers whose address is written exactly like this."""
        return [each["id"] for each in self._list(lambda api: api.customers.list({"email": email, "limit": 100}))]

    # ------------------------------------------------------ whole lists, a page at a time, latest first

    def subscriptions_made(
        self, since: int, until: int, after: str | None
    ) -> tuple[list[tuple[str, Subscription]], str | None]:
        """A hundred subscriptions at most that were made from `since` on and before `until`, ended ones included, each
        with its customer; and the last one's id when there are more. `after`: the last one of the page before."""
        if after is None or len(self._listed.metadata) > _MANY_PRODUCTS:
            self._listed = _Products()
        wanted: dict[str, Any] = {"status": "all", "created": {"gte": since, "lt": until}}
        wanted |= {"expand": ["data.latest_invoice", "data.schedule"]}
        rows, last = self._page(lambda api, paged: api.subscriptions.list({**wanted, **paged}), after)
        return [(_id(row.get("customer")) or "", self._subscription(row, self._listed)) for row in rows], last

    def one_time_sessions(self, since: int, until: int, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        """The same of complete Checkout sessions in which something was bought once; as Stripe has them."""
        wanted = {"status": "complete", "created": {"gte": since, "lt": until}}
        rows, last = self._page(lambda api, paged: api.checkout.sessions.list({**wanted, **paged}), after)
        return [row for row in rows if row.get("mode") == "payment"], last

    def events(
        self, types: Sequence[str], since: int, until: int, after: str | None, *, undelivered: bool
    ) -> tuple[list[dict[str, Any]], str | None]:
        """The same of events of these types (twenty at most), as Stripe has them. `undelivered`: only those that some
        webhook endpoint has not taken."""
        wanted: dict[str, Any] = {"types": list(types), "created": {"gte": since, "lt": until}}
        if undelivered:
            wanted["delivery_success"] = False
        return self._page(lambda api, paged: api.events.list({**wanted, **paged}), after)

    def first_made_at(self, now: int, *, sessions: bool = False) -> int | None:
        """The day before which no subscription (or Checkout session) was made; None when there is none. About a dozen
        requests: Stripe lists the latest first only."""

        def any_before(moment: int) -> bool:
            wanted = {"created": {"lt": moment}, "limit": 1, "status": "complete" if sessions else "all"}
            page = self._read(lambda api: (api.checkout.sessions if sessions else api.subscriptions).list(wanted))
            return bool(_rows(page))

        low, high = _STRIPE_BEGAN, now
        if not any_before(high):
            return None
        while high - low > _DAY:
            middle = (low + high) // 2
            low, high = (low, middle) if any_before(middle) else (middle, high)
        return low

    def cancel(self, subscription_id: str, idempotency_key: str) -> None:
        """End a subscription now, without a final invoice; Stripe stops collecting its open ones. One that has ended
        meanwhile, or that Stripe does not know, stays as it is."""
        options = {"idempotency_key": idempotency_key}
        with contextlib.suppress(BillingIncomplete):
            self._read(lambda api: api.subscriptions.cancel(subscription_id, {}, options))

    def _session(self, session_id: str) -> Purchase:
        paid = {"expand": ["payment_intent.latest_charge"]}
        session = self._read(lambda api: api.checkout.sessions.retrieve(session_id, paid))
        self._require_mode(session, session_id)
        settled = session.get("payment_status") in ("paid", "no_payment_required")
        if session.get("status") != "complete" or not settled:
            return Purchase(session_id, "open" if _may_be_paid(session) else "unpaid", (), _paid_at(session))
        rows = self._list(lambda api: api.checkout.sessions.line_items.list(session_id, {"limit": 100}))
        products = _Products()
        items = tuple(self._item(row, products, live=False) for row in rows)
        return Purchase(session_id, "paid", items, _paid_at(session))

    # -------------------------------------------------------------- from Stripe's shapes to facts

    def _subscription(self, row: Mapping[str, Any], products: _Products) -> Subscription:
        rows = row["items"]["data"]
        if row["items"].get("has_more"):
            rows = self._list(lambda api: api.subscription_items.list({"subscription": row["id"], "limit": 100}))
        live = row["status"] not in _ENDED
        period_start = _latest(row, *rows, name="current_period_start")
        period_end = _latest(row, *rows, name="current_period_end")
        ends_at = row.get("cancel_at")
        if ends_at is None and row.get("cancel_at_period_end"):
            ends_at = period_end
        cancellation = row.get("cancellation_details") or {}
        pause = (row.get("pause_collection") or {}).get("behavior") or ""
        latest = self._latest_invoice(row) if row["status"] in ("active", "unpaid") else None
        return Subscription(
            id=row["id"],
            status=row["status"],
            items=tuple(self._item(each, products, live=live) for each in rows),
            trial_end=row.get("trial_end"),
            ends_at=ends_at,
            ended_for_nonpayment=cancellation.get("reason") in ("payment_failed", "payment_disputed"),
            period_start=period_start,
            period_end=period_end,
            first_unpaid=self._first_unpaid(row["id"]) if row["status"] == "past_due" else None,
            pause=pause,
            period_unpaid=bool(pause) and row["status"] == "active" and self._period_unpaid(row["id"]),
            written_off=latest is not None and _written_off(latest),
            settled=latest is not None and latest.get("status") == "paid",
            created=_ordered_at(row),
        )

    def _invoices(self, subscription_id: str, **more: Any) -> list[dict[str, Any]]:
        """The subscription's invoices, newest first."""
        return self._list(lambda api: api.invoices.list({"subscription": subscription_id, "limit": 100, **more}))

    def _first_unpaid(self, subscription_id: str) -> int | None:
        """When the oldest open invoice that was tried (or, sent by mail, was due) began to be unpaid."""
        invoices = self._invoices(subscription_id, status="open")
        return min((since for each in invoices if (since := _unpaid_since(each)) is not None), default=None)

    def _latest_invoice(self, subscription: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """The latest invoice that counts. One that Stripe does not show says nothing."""
        latest = subscription.get("latest_invoice")
        if isinstance(latest, str):
            try:
                latest = self._read(lambda api: api.invoices.retrieve(latest))
            except BillingIncomplete:
                return None
        if isinstance(latest, Mapping) and not _counts(latest):
            return next((each for each in self._invoices(subscription["id"]) if _counts(each)), None)
        return latest

    def _period_unpaid(self, subscription_id: str) -> bool:
        """Whether the invoice of the current period, under a pause, will never be paid."""
        for invoice in self._invoices(subscription_id):
            if invoice.get("billing_reason") in ("subscription_cycle", "subscription_create"):
                return invoice.get("status") in ("draft", "void", "uncollectible")
        return False

    def _item(self, row: Mapping[str, Any], products: _Products, *, live: bool) -> Item:
        price = row.get("price") or row.get("plan") or {}
        transform = price.get("transform_quantity") or price.get("transform_usage") or {}
        dapps = self._dapps(price, products)
        quantity = row.get("quantity")
        if not isinstance(quantity, int) or isinstance(quantity, bool):
            declared = None if dapps is None else self._metadata(price, products, "dapps_quantity")
            quantity = whole_text(declared)
        return Item(
            price=str(price.get("id") or ""),
            quantity=quantity,
            dapps=dapps,
            divide_by=transform.get("divide_by") or 1,
            round_up=transform.get("round") == "up",
            stray=dapps is None and live and self._may_be_mapped(price, products),
        )

    def _dapps(self, price: Mapping[str, Any], products: _Products) -> str | None:
        """Units per quantity: the price's own metadata, then DappPrices, then the product's metadata."""
        own = self._own_dapps(price)
        return own if own is not None else self._metadata(price, products, "dapps")

    def _own_dapps(self, price: Mapping[str, Any]) -> str | None:
        own = (price.get("metadata") or {}).get("dapps")
        if own is not None:
            return str(own)
        named = (self._prices.get(str(price.get(key))) for key in ("id", "lookup_key"))
        return next((dapps for dapps in named if dapps is not None), None)

    def _metadata(self, price: Mapping[str, Any], products: _Products, key: str) -> str | None:
        """The price's own metadata, else its product's."""
        found = (price.get("metadata") or {}).get(key)
        if found is None:
            found = self._product(price.get("product"), products).get(key)
        return None if found is None else str(found)

    def _product(self, product: object, products: _Products) -> Mapping[str, Any]:
        """A product's metadata."""
        if isinstance(product, Mapping):
            return product.get("metadata") or {}
        if not isinstance(product, str):
            return {}
        if product not in products.metadata:
            try:
                found = self._read(lambda api: api.products.retrieve(product))
            except BillingIncomplete:  # deleted, which its subscriptions outlive; the account is known by the customer
                found = {}
                products.mapped[product] = True  # nobody can tell any more
            products.metadata[product] = found.get("metadata") or {}
        return products.metadata[product]

    def _may_be_mapped(self, price: Mapping[str, Any], products: _Products) -> bool:
        """Whether another price of the same product is mapped: then this one's mapping was forgotten; or the product is
        gone, and the mapping maybe with it."""
        product = _id(price.get("product"))
        if product is None:
            return False
        if product not in products.mapped:
            try:
                prices = self._list(lambda api: api.prices.list({"product": product, "limit": 100}))
            except BillingIncomplete:  # deleted meanwhile
                prices = []
            products.mapped[product] = any(self._own_dapps(each) is not None for each in prices)
        return products.mapped[product]

    def _require_mode(self, found: Mapping[str, Any], wanted: str) -> None:
        livemode = found.get("livemode")
        if livemode is not None and livemode is not self._livemode:
            raise BillingIncomplete(f"Stripe answered for {wanted} in the other mode: is the key of the right mode?")

    # -------------------------------------------------------------- the one way to Stripe

    def _list(self, call: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """Every page of a list."""
        return self._guarded(lambda api: [each.to_dict() for each in call(api).auto_paging_iter()])

    def _page(
        self, call: Callable[[Any, Mapping[str, Any]], Any], after: str | None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """One page of a list, and the id of its last row when there are more; StripeUnavailable for half an answer."""
        paged = {"limit": 100} | ({} if after is None else {"starting_after": after})
        answer = self._read(lambda api: call(api, paged))
        rows, more = _rows(answer), answer.get("has_more")
        if not isinstance(more, bool) or (more and not rows):
            raise StripeUnavailable("Stripe's page of a list cannot be read")
        for row in rows:
            self._require_mode(row, str(row["id"]))
        return rows, str(rows[-1]["id"]) if more else None

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


def billing_with(api_key: Secret) -> Billing:
    """Stripe as the template's parameters say; SettingMissing, with its name, where a variable does not."""
    return Billing(
        api_key,
        base=required("STRIPE_API_BASE"),
        livemode=required("STRIPE_MODE") == "live",
        prices=price_map(required("DAPP_PRICES")),
    )


def _rows(page: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The objects on a page of a list; StripeUnavailable for half an answer."""
    rows = page.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) and isinstance(row.get("id"), str) for row in rows):
        raise StripeUnavailable("Stripe's page of a list cannot be read")
    return rows


# The billing_reason of an invoice for a change in the middle of a period: what was paid for the period stays paid.
_CHANGE = "subscription_update"

# Subscriptions that can give nothing any more: which of their prices are mapped does not matter.
_ENDED = ("canceled", "incomplete", "incomplete_expired")

# A pause of collection with mark_uncollectible writes an invoice off this soon after it was finalized, untried.
_WRITTEN_OFF_BY_PAUSE = 3600


def _dispute(dispute: Mapping[str, Any]) -> MarkKind | None:
    """What a dispute means; a status that we do not know is an open one."""
    card = (dispute.get("payment_method_details") or {}).get("card") or {}
    match dispute.get("status"):
        case "lost" | "appeal_needs_response" | "appeal_under_review":  # the money is with the buyer
            return "dispute_lost"
        case "won" | "warning_closed":
            return None
        case "prevented":  # settled before it began: with the buyer's money given back, or with the dispute blocked
            return "dispute_lost" if card.get("case_type") == "resolution" else None
        case _:
            return "disputed"


def _counts(invoice: Mapping[str, Any]) -> bool:
    """Whether an invoice says anything: it is no draft, and not one for a change that was given up unpaid, which Stripe
    voids while the subscription stays as it was paid for."""
    given_up = invoice.get("status") == "void" and invoice.get("billing_reason") == _CHANGE
    return invoice.get("status") != "draft" and not given_up


def _unpaid_since(invoice: Mapping[str, Any]) -> int | None:
    finalized: int | None = (invoice.get("status_transitions") or {}).get("finalized_at")
    if invoice.get("collection_method") == "send_invoice":
        due: int | None = invoice.get("due_date")
        return due or finalized
    return finalized if invoice.get("attempted") else None


def _written_off(invoice: Mapping[str, Any]) -> bool:
    """Uncollectible, or void after a failed payment. What a pause wrote off was never to be paid."""
    moments = invoice.get("status_transitions") or {}
    if invoice.get("status") == "void":
        due, voided = invoice.get("due_date"), moments.get("voided_at")
        return bool(invoice.get("attempted")) or (due is not None and voided is not None and due <= voided)
    finalized, written_off = moments.get("finalized_at"), moments.get("marked_uncollectible_at")
    by_pause = (
        not invoice.get("attempted")
        and finalized is not None
        and written_off is not None
        and written_off - finalized <= _WRITTEN_OFF_BY_PAUSE
    )
    return invoice.get("status") == "uncollectible" and not by_pause


def _ordered_at(subscription: Mapping[str, Any]) -> int | None:
    """When a subscription was made; one that a schedule began, when its schedule was."""
    schedule = subscription.get("schedule")
    made = [each.get("created") for each in (subscription, schedule) if isinstance(each, Mapping)]
    return min((at for at in made if at is not None), default=None)


def _may_be_paid(session: Mapping[str, Any]) -> bool:
    """Whether an unpaid session still waits for its buyer, or for a delayed payment."""
    intent = session.get("payment_intent")
    return session.get("status") == "open" or (isinstance(intent, Mapping) and intent.get("status") == "processing")


def _paid_at(session: Mapping[str, Any]) -> int | None:
    """When a session was paid; nobody pays one that costs nothing, so that was made when it was opened."""
    intent = session.get("payment_intent")
    charge = intent.get("latest_charge") if isinstance(intent, Mapping) else None
    at: int | None = (charge if isinstance(charge, Mapping) else session).get("created")
    return at


def _subscription_of(invoice: Mapping[str, Any]) -> str | None:
    """Where an invoice names its subscription, since 2025-03-31.basil and before."""
    details = (invoice.get("parent") or {}).get("subscription_details") or {}
    return _id(details.get("subscription")) or _id(invoice.get("subscription"))


def _id(value: object) -> str | None:
    """An id, or the id of an expanded object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and value else None


def _latest(*rows: Mapping[str, Any], name: str) -> int | None:
    """The latest of a moment that was the subscription's and is now each item's."""
    return max((moment for row in rows if (moment := row.get(name)) is not None), default=None)
