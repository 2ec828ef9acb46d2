"""PURE. A Stripe event becomes an Order: whom it concerns, never what they may do.

Events are hints: late, doubled, out of order, of another API version. What is kept here is what an operator wants to
see; access is decided from what Stripe says at the time of the run (access.py). Only legacy orders (`or_…`), whose
API is gone, are read for their content.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gateway.errors import UnreadableEnvelope, UnusableEvent

OrderStatus = Literal["paid", "fulfilled", "canceled", "returned"]
MarkKind = Literal["refund", "dispute", "fraud_warning"]

# AdminCreateUser takes user names of at most 128 characters without blanks. Quotes and control characters are no
# part of an address that anybody could receive mail at.
_PART = r"""[^\s"\\<>(),;:@]+"""
_EMAIL = re.compile(rf"{_PART}@{_PART}\.{_PART}")
_EMAIL_LENGTH = 128

# Stripe's ids; customers may have ids of the merchant's own choice. Anything else is kept out of keys and paths, also
# "." and "..".
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,199}", re.ASCII)
# Step Functions names have at most 80 characters; a re-run appends "-r<n>".
_EVENT_ID = re.compile(r"[A-Za-z0-9_]{1,70}", re.ASCII)
# Types stand in log lines and metrics.
_EVENT_TYPE = re.compile(r"[A-Za-z0-9_.\[\]-]+", re.ASCII)

_METADATA_KEYS, _METADATA_KEY = 50, 40  # Stripe's own bounds
_TEXT = 500
_ITEMS = 100  # an order must fit a DynamoDB item; what it says of goods is a note, except for legacy orders

# Tie-break between two versions of a legacy order with the same `updated`.
_LEGACY_RANK = {"created": 0, "paid": 1, "fulfilled": 1, "canceled": 2, "returned": 3}


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every snapshot event has."""

    id: str
    type: str
    livemode: bool
    account: str | None  # set when the event belongs to a connected account
    object: Mapping[str, Any]
    previous: Mapping[str, Any] = field(default_factory=dict)  # what an …updated event says was there before

    @property
    def object_id(self) -> str | None:
        """The id of its object; None when it has none that can be one."""
        return _reference(self.object)


@dataclass(frozen=True, slots=True)
class OrderItem:
    """One line of an order: the price's id (a legacy order's sku) and how many."""

    price: str
    quantity: int | None


@dataclass(frozen=True, slots=True)
class Purchase:
    """A one-time order that the ledger remembers for its party. A higher `version` replaces a lower one.

    `created` is a legacy order's moment in Unix seconds; a Checkout session is asked for its own.
    """

    id: str
    status: str
    version: int
    items: tuple[OrderItem, ...]
    created: int | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """Something that speaks against what a charge paid for: a refund (`id` is the charge's), a dispute, a fraud
    warning. Only facts that never change are kept; whether it counts is asked of Stripe.

    `pays` is the subscription or Checkout session that the charge paid for (None: nothing of ours), `until` the end of
    the period it paid for.
    """

    id: str
    kind: MarkKind
    charge: str
    pays: str | None = None
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Order:
    """One event as the ledger keeps it. `amount` is in minor units of `currency`; `updated` in Unix seconds."""

    event_id: str
    event_type: str
    livemode: bool
    order_id: str
    customer_id: str | None
    email: str | None
    name: str | None
    amount: int | None
    currency: str | None
    charge: str | None
    items: tuple[OrderItem, ...]
    metadata: Mapping[str, str]
    status: OrderStatus
    updated: int
    purchase: Purchase | None = field(default=None, compare=False)

    @property
    def party(self) -> str:
        """Who is meant: the Stripe customer, or the order itself when it has none (guest, legacy)."""
        return party_of(self.order_id, self.customer_id)


def party_of(order_id: str, customer_id: str | None) -> str:
    """The party of an execution's input. A legacy order is always its own party: its API is gone."""
    if customer_id is None or order_id.startswith("or_"):
        return order_id
    return customer_id


def is_order(party: str) -> bool:
    """Whether a party is an order without a customer: a guest's Checkout session or a legacy order."""
    return party.startswith(("cs_", "or_"))


def mark(event_type: str, order_id: str, charge: str) -> Mark:
    """The mark that an order tells of; UnusableEvent when it is none."""
    kind = next((kind for prefix, kind in _MARKS if event_type.startswith(prefix)), None)
    if kind is None:
        raise UnusableEvent(f"{event_type} concerns no charge")
    return Mark(charge if kind == "refund" else order_id, kind, charge)


def envelope(event: object) -> Envelope:
    """The frame of a signed body, or UnreadableEnvelope saying what it lacks."""
    if not isinstance(event, Mapping):
        raise UnreadableEnvelope("the body is not a JSON object")
    if event.get("object") == "v2.core.event":
        raise UnreadableEnvelope("a thin event; set the endpoint's payload style to snapshot")
    event_id, event_type, livemode = event.get("id"), event.get("type"), event.get("livemode")
    if not isinstance(event_id, str) or not _EVENT_ID.fullmatch(event_id):
        raise UnreadableEnvelope("id is missing or not an event id")
    if not isinstance(event_type, str) or not _EVENT_TYPE.fullmatch(event_type):
        raise UnreadableEnvelope("type is missing or not an event type")
    if not isinstance(livemode, bool):
        raise UnreadableEnvelope("livemode is missing")
    data = event.get("data")
    data = data if isinstance(data, Mapping) else {}
    content = data.get("object")
    if not isinstance(content, Mapping):
        raise UnreadableEnvelope("data.object is missing")
    account = event.get("account")
    if account is not None and not isinstance(account, str):
        raise UnreadableEnvelope("account is not text")
    object_id = content.get("id")
    if event_type in _READERS and not (isinstance(object_id, str) and object_id):
        raise UnreadableEnvelope("data.object.id is missing")
    previous = data.get("previous_attributes")
    return Envelope(event_id, event_type, livemode, account, content, previous if isinstance(previous, Mapping) else {})


def order(event: Envelope) -> Order | None:
    """The order of an event, None when its type is none of ours, UnusableEvent when its content cannot be used."""
    reader = _READERS.get(event.type)
    return reader(event) if reader else None


def notice(event: Envelope) -> str | None:
    """The metric that counts an event which starts no run but which somebody should know of; None for any other."""
    if event.type not in _MAPPING_TYPES:
        return _NOTICES.get(event.type)
    if event.type.endswith(".updated"):
        before = event.previous.get("metadata")
        changed = {*event.previous, *(before if isinstance(before, Mapping) else ())}
    else:
        changed = set(_metadata(event.object))
    return "MappingChanged" if changed & _MAPPING else None


def recheck(sub: str, party: str, at: int, *, livemode: bool, asked: str = "") -> Order:
    """Our own order for a moment at which a person's access may change although Stripe sends nothing. `asked`: the id
    of the request that wants it, which may not be the only one in its second."""
    return Order(
        event_id=f"recheck_{(asked or sub).replace('-', '')}_{at}",
        event_type="gateway.recheck",
        livemode=livemode,
        order_id=party,
        customer_id=None if is_order(party) else party,
        email=None,
        name=None,
        amount=None,
        currency=None,
        charge=None,
        items=(),
        metadata={},
        status="paid",
        updated=at,
    )


def unusable(event: Envelope) -> Order:
    """The order of an event whose content cannot be used: what its envelope says, for an operator to find."""
    return _order(event, "paid", order_id=event.object_id or event.id, customer_id=None)


def email_address(value: object) -> str:
    """An address as Cognito gets it: trimmed, lower case. UnusableEvent without the address itself in the text."""
    if not isinstance(value, str):
        raise UnusableEvent("the e-mail address is missing or not text")
    address = value.strip().lower()
    if len(address) > _EMAIL_LENGTH:
        raise UnusableEvent(f"the e-mail address is longer than {_EMAIL_LENGTH} characters")
    if not address.isprintable() or not _EMAIL.fullmatch(address):
        raise UnusableEvent("the e-mail address is malformed")
    return address


# ------------------------------------------------------------------ one reader per kind of object


def _of_customer(event: Envelope) -> Order:
    content = event.object
    status: OrderStatus = "canceled" if event.type == "customer.deleted" else "paid"
    return _order(event, status, customer_id=_id(content, "id"), email=_email_if_any(content, "email"))


def _of_subscription(event: Envelope) -> Order:
    content = event.object
    status: OrderStatus = "canceled" if event.type == "customer.subscription.deleted" else "paid"
    return _order(
        event,
        status,
        customer_id=_customer(content, needed=True),
        items=_items(_rows(content, "items")),
    )


def _of_schedule(event: Envelope) -> Order:
    return _order(event, "paid", customer_id=_customer(event.object, needed=True))


def _of_invoice(event: Envelope) -> Order:
    content = event.object
    return _order(
        event,
        "canceled" if event.type in ("invoice.voided", "invoice.marked_uncollectible") else "paid",
        customer_id=_customer(content, needed=True),
        email=_email_if_any(content, "customer_email"),
        name=_text(content, "customer_name"),
        amount=_whole(content, "amount_due"),
        items=_items(_rows(content, "lines")),
    )


def _of_mark(event: Envelope) -> Order:
    """A charge, or what names one. Whose it is must be asked of Stripe: most of these objects name no customer."""
    content = event.object
    charge = _id(content, "id" if event.type == "charge.refunded" else "charge")
    found = mark(event.type, _id(content, "id"), charge)
    return _order(
        event,
        "returned" if found.kind == "refund" else "paid",
        customer_id=None,
        amount=_whole(content, "amount_refunded" if event.type == "charge.refunded" else "amount"),
        charge=charge,
    )


def _of_credit_note(event: Envelope) -> Order:
    """Its refunds, if it has any, have events of their own."""
    content = event.object
    return _order(event, "returned", customer_id=_customer(content, needed=True), amount=_whole(content, "amount"))


def _of_checkout(event: Envelope) -> Order | None:
    content = event.object
    details = content.get("customer_details")
    details = details if isinstance(details, Mapping) else {}
    customer = _customer(content, needed=False)
    email = _email_if_any(details, "email") or _email_if_any(content, "customer_email")
    # An expired session can never be paid: nothing to remember.
    one_time = content.get("mode") == "payment" and event.type != "checkout.session.expired"
    if customer is None:
        if content.get("mode") == "setup" or event.type == "checkout.session.expired":
            return None  # nobody bought anything
        if email is None:
            raise UnusableEvent("the session has neither a customer nor a usable e-mail address")
    session_id = _id(content, "id")
    return _order(
        event,
        "canceled" if event.type == "checkout.session.expired" else "paid",
        customer_id=customer,
        email=email,
        name=_text(details, "name"),
        amount=_whole(content, "amount_total"),
        # Its status and items are fetched at the run; only that it exists is remembered.
        purchase=Purchase(session_id, "session", 0, ()) if one_time else None,
    )


def _of_legacy_order(event: Envelope) -> Order:
    content = event.object
    order_id = _id(content, "id")
    status = content.get("status")
    if not isinstance(status, str) or status not in _LEGACY_RANK:
        raise UnusableEvent("the order's status is missing or unknown")
    updated = _whole(content, "updated") or 0
    items = _legacy_items(content)
    return _order(
        event,
        status if status in ("canceled", "returned") else "paid",  # type: ignore[arg-type]
        customer_id=_customer(content, needed=False),
        email=email_address(content.get("email")),
        name=_text(content.get("shipping"), "name"),
        amount=_whole(content, "amount"),
        charge=_reference(content.get("charge")),
        items=items,
        updated=updated,
        purchase=Purchase(order_id, status, _version(updated, status), items, _whole(content, "created")),
    )


def _of_legacy_return(event: Envelope) -> Order:
    content = event.object
    order_id = _reference(content.get("order"))
    if order_id is None:
        raise UnusableEvent("the return names no order")
    created = _whole(content, "created") or 0
    return _order(
        event,
        "returned",
        order_id=order_id,
        customer_id=None,
        amount=_whole(content, "amount"),
        purchase=Purchase(order_id, "returned", _version(created, "returned"), ()),
    )


def _version(updated: int, status: str) -> int:
    return updated * 10 + _LEGACY_RANK[status]


# Event type -> reader. The endpoint's event list is made of these names.
_READERS: dict[str, Callable[[Envelope], Order | None]] = {
    **dict.fromkeys(
        (
            "checkout.session.completed",
            "checkout.session.async_payment_succeeded",
            "checkout.session.async_payment_failed",
            "checkout.session.expired",
        ),
        _of_checkout,
    ),
    **dict.fromkeys(
        (
            "customer.subscription.created",
            "customer.subscription.updated",
            "customer.subscription.deleted",
            "customer.subscription.paused",
            "customer.subscription.resumed",
            "customer.subscription.pending_update_applied",
            "customer.subscription.pending_update_expired",
        ),
        _of_subscription,
    ),
    **dict.fromkeys(
        (
            "subscription_schedule.aborted",
            "subscription_schedule.canceled",
            "subscription_schedule.completed",
            "subscription_schedule.created",
            "subscription_schedule.expiring",
            "subscription_schedule.released",
            "subscription_schedule.updated",
        ),
        _of_schedule,
    ),
    **dict.fromkeys(
        (
            "invoice.paid",
            "invoice.payment_failed",
            "invoice.overdue",
            "invoice.voided",
            "invoice.marked_uncollectible",
        ),
        _of_invoice,
    ),
    **dict.fromkeys(("customer.updated", "customer.deleted"), _of_customer),
    **dict.fromkeys(
        (
            "charge.dispute.closed",
            "charge.dispute.created",
            "charge.dispute.funds_reinstated",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.updated",
            "charge.refunded",
            "radar.early_fraud_warning.created",
            "refund.created",
            "refund.failed",
            "refund.updated",
        ),
        _of_mark,
    ),
    "credit_note.created": _of_credit_note,
    **dict.fromkeys(("order.payment_succeeded", "order.updated"), _of_legacy_order),
    "order_return.created": _of_legacy_return,
}

_MARKS: tuple[tuple[str, MarkKind], ...] = (
    ("charge.dispute.", "dispute"),
    ("charge.refunded", "refund"),
    ("radar.early_fraud_warning.", "fraud_warning"),
    ("refund.", "refund"),
)

# Event type -> metric, for events that change nobody's access.
_NOTICES = {
    "customer.subscription.trial_will_end": "StripeNotice",
    "invoice.finalization_failed": "FinalizationFailed",
    "invoice.payment_action_required": "StripeNotice",
    "invoice.upcoming": "StripeNotice",
}

# Events that may tell that a price gives another number of units, and the fields that say so.
_MAPPING_TYPES = frozenset(
    f"{thing}.{verb}" for thing in ("price", "product") for verb in ("created", "deleted", "updated")
)
_MAPPING = frozenset(("dapps", "dapps_quantity", "lookup_key"))

# Types that mean money came in.
PAYMENTS = frozenset(
    (
        "checkout.session.async_payment_succeeded",
        "checkout.session.completed",
        "invoice.paid",
        "order.payment_succeeded",
    )
)

HANDLED_TYPES = frozenset((*_READERS, *_NOTICES, *_MAPPING_TYPES))
_LEGACY = ("order.", "order_return.")
# What a search for missed events asks for: types that become orders, or tell that somebody's limit changes. Legacy
# orders are older than any event that Stripe still has.
SOUGHT_TYPES = frozenset(each for each in (*_READERS, *_MAPPING_TYPES) if not each.startswith(_LEGACY))

# What a webhook endpoint subscribes to, and the API version of what it gets. Stripe offers legacy orders to no new one.
ENDPOINT_TYPES = frozenset(each for each in HANDLED_TYPES if not each.startswith(_LEGACY))
ENDPOINT_VERSION = "2026-10-28.endive"


# ------------------------------------------------------------------ fields


def _order(
    event: Envelope,
    status: OrderStatus,
    *,
    customer_id: str | None,
    order_id: str | None = None,
    email: str | None = None,
    name: str | None = None,
    amount: int | None = None,
    charge: str | None = None,
    items: tuple[OrderItem, ...] = (),
    updated: int | None = None,
    purchase: Purchase | None = None,
) -> Order:
    content = event.object
    return Order(
        event_id=event.id,
        event_type=event.type,
        livemode=event.livemode,
        order_id=order_id or _id(content, "id"),
        customer_id=customer_id,
        email=email,
        name=name,
        amount=amount,
        currency=_text(content, "currency"),
        charge=charge,
        items=items,
        metadata=_metadata(content),
        status=status,
        updated=updated if updated is not None else _whole(content, "created") or 0,
        purchase=purchase,
    )


def _id(content: Mapping[str, Any], key: str) -> str:
    found = _reference(content.get(key))
    if found is None:
        raise UnusableEvent(f"{key} is missing or not a Stripe id")
    return found


def _reference(value: object) -> str | None:
    """An id, or the id of an expanded object."""
    if isinstance(value, Mapping):
        value = value.get("id")
    return value if isinstance(value, str) and _ID.fullmatch(value) else None


def _customer(content: Mapping[str, Any], *, needed: bool) -> str | None:
    value = content.get("customer")
    found = _reference(value)
    if found is None and (needed or value is not None):
        raise UnusableEvent("customer is missing or not a Stripe id")
    return found


def _email_if_any(content: Mapping[str, Any], key: str) -> str | None:
    """The address when there is a usable one: it is a note for operators, the run asks Stripe again."""
    try:
        return email_address(content.get(key))
    except UnusableEvent:
        return None


def _text(content: object, key: str) -> str | None:
    value = content.get(key) if isinstance(content, Mapping) else None
    return _clean(value) if isinstance(value, str) else None


def _clean(text: str) -> str:
    """Bounded, and without the lone surrogates that JSON can carry and no database can."""
    return text[:_TEXT].encode(errors="replace").decode()


def _whole(content: Mapping[str, Any], key: str) -> int | None:
    """A whole number that fits DynamoDB; anything else is not a number Stripe would send."""
    value = content.get(key)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15:
        return value
    return None


def _metadata(content: Mapping[str, Any]) -> dict[str, str]:
    value = content.get("metadata")
    if not isinstance(value, Mapping):
        return {}
    texts = [(key, text) for key, text in value.items() if key and isinstance(text, str)]
    return {_clean(str(key))[:_METADATA_KEY]: _clean(text) for key, text in texts[:_METADATA_KEYS]}


def _rows(content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """The first page of a list object."""
    page = content.get(key)
    rows = page.get("data") if isinstance(page, Mapping) else None
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


def _items(rows: list[Mapping[str, Any]]) -> tuple[OrderItem, ...]:
    """Lines of a subscription or invoice, in shapes before and after 2025-03-31.basil."""
    found = []
    for row in rows:
        pricing = row.get("pricing")
        details = pricing.get("price_details") if isinstance(pricing, Mapping) else None
        moved = details.get("price") if isinstance(details, Mapping) else None
        price = _reference(row.get("price")) or _reference(moved) or _reference(row.get("plan"))
        if price is not None:
            found.append(OrderItem(price, _whole(row, "quantity")))
    return tuple(found[:_ITEMS])


def _legacy_items(content: Mapping[str, Any]) -> tuple[OrderItem, ...]:
    """The skus of a legacy order; taxes, shipping and discounts are no goods."""
    rows = content.get("items")
    if not isinstance(rows, list):
        raise UnusableEvent("the order has no list of items")
    if len(rows) > _ITEMS:
        raise UnusableEvent(f"the order has more than {_ITEMS} items")
    found = []
    for row in rows:
        if not isinstance(row, Mapping):
            raise UnusableEvent("an item of the order is not an object")
        if row.get("type") != "sku":
            continue
        sku, quantity = row.get("parent"), _whole(row, "quantity")
        if not isinstance(sku, str) or not 0 < len(sku) <= _TEXT:
            raise UnusableEvent("an item of the order names no sku")
        if quantity is None or quantity < 0:
            raise UnusableEvent("an item of the order has no whole quantity")
        found.append(OrderItem(_clean(sku), quantity))
    return tuple(found)
