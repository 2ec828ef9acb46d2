"""Stripe's API over a StripeAccount: routes, parameters, filters, pages and expansion.

A parameter that Stripe does not have is refused as Stripe refuses it; which ones it has is read
from the installed stripe package. One that Stripe has but the stand-in does not act on is refused
too (code `standin_unsupported`): silence would be a lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatch
from itertools import islice
from typing import Any, get_args
from urllib.parse import urlsplit

import stripe
import stripe.params as sp
from stripe.params import checkout as checkout_params
from stripe.params import radar as radar_params
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, Rule

from .stripe_account import StripeAccount
from .stripe_billing import DAY, UPDATED
from .stripe_faults import PERMISSIONS, ApiError, missing
from .stripe_objects import API_VERSION, Json, list_of
from .stripe_store import LINKS, subscription_of

MAX_LEVELS = 4  # of an expansion; `data` in a list counts
RETENTION = 30 * DAY  # events are served for thirty days
MAX_TYPES = 20  # of events, in one request

# What endpoints can subscribe to and be pinned at, as the stripe package types it.
EVENT_TYPES = frozenset(get_args(get_args(sp.WebhookEndpointCreateParams.__annotations__["enabled_events"])[0]))
API_VERSIONS = frozenset(get_args(get_args(sp.WebhookEndpointCreateParams.__annotations__["api_version"])[0]))

Filter = Callable[[StripeAccount, Json, Any], bool]
Operation = Callable[..., Json]

PAGING = {"limit", "starting_after", "ending_before", "expand"}
OPTIONS = set(stripe.RequestOptions.__annotations__)
CANCELED = "canceled"

# Parameters that change nothing a consumer of the stand-in could see.
HARMLESS = {
    "allow_promotion_codes",
    "automatic_tax",
    "billing_address_collection",
    "billing_mode",
    "cancel_url",
    "expand",
    "invoice_now",
    "locale",
    "off_session",
    "payment_method_types",
    "payment_settings",
    "prorate",
    "proration_behavior",
    "return_url",
    "tax_id_collection",
    "ui_mode",
}


ARRAYS = {"enabled_events", "expand", "ids", "items", "line_items", "lookup_keys", "types"}
HASHES = {"cancellation_details", "customer_details", "metadata", "pause_collection", "payment"}
HASHES |= {"recurring", "subscription_data", "transform_quantity"}

# Parameters arrive as text


def integer(value: Any, param: str) -> int:
    try:
        return int(value)
    except (TypeError, ValueError):
        raise ApiError(400, f"Invalid integer: {value}", "parameter_invalid_integer", param) from None


def boolean(value: Any) -> bool:
    return str(value).lower() == "true"


def optional_integer(params: Json, name: str) -> int | None:
    value = params.get(name)
    return None if value in (None, "") else integer(value, name)


def merged(old: Json, new: Any) -> Json:
    """Metadata as Stripe updates it: keys are merged, an empty value removes, "" removes all."""
    if new == "":
        return {}
    return {key: value for key, value in (old | new).items() if value != ""}


def refuse_malformed(params: Json) -> None:
    """A text where Stripe wants an array or a hash, or the reverse; "" is a null everywhere."""
    for name, value in params.items():
        if name in ARRAYS and not isinstance(value, list):
            raise ApiError(400, "Invalid array", "parameter_invalid", name)
        if name in HASHES and value != "" and not isinstance(value, dict):
            raise ApiError(400, "Invalid object", "parameter_invalid", name)


def priced(params: Json, name: str) -> list[Json]:
    """The lines of an order: [{"price", "quantity"}, …], the quantity 1 unless given."""
    lines: list[Json] = []
    for line in params.get(name) or ():
        if not isinstance(line, dict) or "price" not in line:
            raise ApiError(400, f"Missing required param: {name}[price].", "parameter_missing", name)
        quantity = integer(line.get("quantity", 1), "quantity")
        lines.append({"price": line["price"], "quantity": quantity})
    return lines


def refuse_unknown(params: Json, known: Any, acted_on: Iterable[str]) -> None:
    """`known` is the TypedDict with which the stripe package types the operation's parameters."""
    names = set(known.__annotations__) - OPTIONS | {"expand"}
    for name in params:
        if name not in names:
            raise ApiError(400, f"Received unknown parameter: {name}", "parameter_unknown", name)
        if name not in acted_on and name not in HARMLESS:
            raise ApiError(400, f"The stand-in does not act on {name}.", "standin_unsupported", name)
    for name in known.__required_keys__ - OPTIONS:
        if name not in params:
            raise ApiError(400, f"Missing required param: {name}.", "parameter_missing", name)


# Filters of lists


def same(name: str) -> Filter:
    return lambda _account, obj, value: obj.get(name) == value


def flag(name: str) -> Filter:
    return lambda _account, obj, value: obj[name] is boolean(value)


def among(name: str) -> Filter:
    return lambda _account, obj, value: obj[name] in value


def span(name: str) -> Filter:
    """A moment, or a range of them: created=1, created[gte]=1&created[lt]=2."""

    def matches(_account: StripeAccount, obj: Json, value: Any) -> bool:
        moment = obj[name]
        if not isinstance(value, dict):
            return bool(moment == integer(value, name))
        if moment is None:
            return False
        compare = {
            "gt": moment.__gt__,
            "gte": moment.__ge__,
            "lt": moment.__lt__,
            "lte": moment.__le__,
        }
        if unknown := value.keys() - compare.keys():
            raise ApiError(400, f"Received unknown parameters: {sorted(unknown)}", "parameter_unknown", name)
        return all(compare[key](integer(bound, name)) for key, bound in value.items())

    return matches


def subscription_status(_account: StripeAccount, obj: Json, value: str) -> bool:
    if value == "ended":
        return obj["status"] in (CANCELED, "incomplete_expired")
    return value == "all" or obj["status"] == value


def subscription_price(account: StripeAccount, obj: Json, value: str) -> bool:
    return any(item["price"] == value for item in account.items_of(obj["id"]))


def invoice_subscription(_account: StripeAccount, obj: Json, value: str) -> bool:
    return subscription_of(obj) == value


def session_email(_account: StripeAccount, obj: Json, value: Json) -> bool:
    return bool((obj["customer_details"] or {}).get("email") == value.get("email"))


def payment_of(_account: StripeAccount, obj: Json, value: Json) -> bool:
    if "type" not in value:
        raise ApiError(400, "Missing required param: payment[type].", "parameter_missing", "payment")
    return all(obj["payment"].get(key) == wanted for key, wanted in value.items())


def price_recurring(_account: StripeAccount, obj: Json, value: Json) -> bool:
    recurring = obj["recurring"] or {}
    return all(recurring.get(key) == wanted for key, wanted in value.items())


def event_type(_account: StripeAccount, obj: Json, value: str) -> bool:
    return fnmatch(obj["type"], value)


def refuse_types(params: Json) -> None:
    """Events are asked for by one `type`, which may have a wildcard, or by up to twenty `types`."""
    if "type" in params and "types" in params:
        raise ApiError(400, "You may pass either type or types, but not both.", None, "types")
    if len(params.get("types", ())) > MAX_TYPES:
        raise ApiError(400, f"You may pass up to {MAX_TYPES} types.", None, "types")


def refuse_endpoint(params: Json) -> None:
    """What an endpoint cannot be: events that Stripe does not have, an unknown version, something that is no URL."""
    for number, name in enumerate(params.get("enabled_events", ())):
        if name not in EVENT_TYPES:
            known = ", ".join(sorted(EVENT_TYPES - {"*"}))
            message = f"Invalid enabled_events[{number}]: must be one of {known}"
            raise ApiError(400, message, None, f"enabled_events[{number}]")
    if params.get("enabled_events") == []:
        raise ApiError(400, "Invalid array", "parameter_invalid", "enabled_events")
    if (version := params.get("api_version", API_VERSION)) not in API_VERSIONS:
        raise ApiError(400, f"Invalid api_version: {version}", "parameter_invalid", "api_version")
    if urlsplit(params.get("url", "http:")).scheme not in ("http", "https"):
        message = "Invalid URL: An explicit scheme (such as https) must be provided."
        raise ApiError(400, message, "url_invalid", "url")


def delivery_success(account: StripeAccount, obj: Json, value: str) -> bool:
    return account.delivered(obj["id"]) is boolean(value)


@dataclass(frozen=True)
class Resource:
    """One collection: its path under /v1/, the package's type of its list parameters, filters."""

    name: str
    path: str
    params: Any
    filters: Mapping[str, Filter] = field(default_factory=dict)
    required: tuple[str, ...] = ()
    oldest_first: bool = False


CREATED: dict[str, Filter] = {"created": span("created")}
OF_CHARGE = CREATED | {"charge": same("charge"), "payment_intent": same("payment_intent")}

RESOURCES = [
    Resource("customer", "customers", sp.CustomerListParams, CREATED | {"email": same("email")}),
    Resource(
        "product",
        "products",
        sp.ProductListParams,
        CREATED | {"active": flag("active"), "ids": among("id")},
    ),
    Resource(
        "price",
        "prices",
        sp.PriceListParams,
        CREATED
        | {
            "active": flag("active"),
            "currency": same("currency"),
            "lookup_keys": among("lookup_key"),
            "product": same("product"),
            "recurring": price_recurring,
            "type": same("type"),
        },
    ),
    Resource(
        "subscription",
        "subscriptions",
        sp.SubscriptionListParams,
        CREATED
        | {
            "collection_method": same("collection_method"),
            "customer": same("customer"),
            "price": subscription_price,
            "status": subscription_status,
        },
    ),
    Resource(
        "subscription_item",
        "subscription_items",
        sp.SubscriptionItemListParams,
        {"subscription": same("subscription")},
        required=("subscription",),
        oldest_first=True,
    ),
    Resource(
        "checkout.session",
        "checkout/sessions",
        checkout_params.SessionListParams,
        CREATED
        | {
            "customer": same("customer"),
            "customer_details": session_email,
            "payment_intent": same("payment_intent"),
            "status": same("status"),
            "subscription": same("subscription"),
        },
    ),
    Resource(
        "invoice",
        "invoices",
        sp.InvoiceListParams,
        CREATED
        | {
            "collection_method": same("collection_method"),
            "customer": same("customer"),
            "due_date": span("due_date"),
            "status": same("status"),
            "subscription": invoice_subscription,
        },
    ),
    Resource(
        "credit_note",
        "credit_notes",
        sp.CreditNoteListParams,
        CREATED | {"customer": same("customer"), "invoice": same("invoice")},
    ),
    Resource(
        "invoice_payment",
        "invoice_payments",
        sp.InvoicePaymentListParams,
        CREATED | {"invoice": same("invoice"), "payment": payment_of, "status": same("status")},
    ),
    Resource(
        "payment_intent",
        "payment_intents",
        sp.PaymentIntentListParams,
        CREATED | {"customer": same("customer")},
    ),
    Resource(
        "charge",
        "charges",
        sp.ChargeListParams,
        CREATED | {"customer": same("customer"), "payment_intent": same("payment_intent")},
    ),
    Resource("refund", "refunds", sp.RefundListParams, OF_CHARGE),
    Resource("dispute", "disputes", sp.DisputeListParams, OF_CHARGE),
    Resource(
        "radar.early_fraud_warning",
        "radar/early_fraud_warnings",
        radar_params.EarlyFraudWarningListParams,
        OF_CHARGE,
    ),
    Resource(
        "event",
        "events",
        sp.EventListParams,
        CREATED
        | {
            "delivery_success": delivery_success,
            "type": event_type,
            "types": among("type"),
        },
    ),
    Resource("webhook_endpoint", "webhook_endpoints", sp.WebhookEndpointListParams),
]

# Filters that take one of these values.
VALUES = {
    ("checkout.session", "status"): {"complete", "expired", "open"},
    ("event", "delivery_success"): {"false", "true"},
    ("subscription", "status"): {
        *("active", "all", "canceled", "ended", "incomplete"),
        *("incomplete_expired", "past_due", "paused", "trialing", "unpaid"),
    },
}

# Filters that name another object: Stripe refuses an id it does not know.
REFERENCES = {
    "charge": "charge",
    "customer": "customer",
    "invoice": "invoice",
    "payment_intent": "payment_intent",
    "product": "product",
    "subscription": "subscription",
}


class StripeApi:
    """Answers one API call: method, path below the host, decoded parameters."""

    def __init__(self, account: StripeAccount) -> None:
        self.account = account
        self._replies: dict[str, tuple[Any, Json]] = {}
        rules = [
            Rule("/v1/account", endpoint=self._account, methods=["GET"]),
            Rule("/v1/balance", endpoint=self._balance, methods=["GET"]),
        ]
        for resource in RESOURCES:
            path = f"/v1/{resource.path}"
            rules += [
                Rule(path, endpoint=self._lister(resource), methods=["GET"]),
                Rule(f"{path}/<id_>", endpoint=self._retriever(resource), methods=["GET"]),
            ]
        served = {resource.path for resource in RESOURCES}
        for path in PERMISSIONS.keys() - served - {"account", "balance"}:
            rules.append(Rule(f"/v1/{path}", endpoint=self._empty_lister(path), methods=["GET"]))
            rules.append(Rule(f"/v1/{path}/<id_>", endpoint=self._refuser(path), methods=["GET", "POST"]))
            rules.append(Rule(f"/v1/{path}/<id_>/cancel", endpoint=self._refuser(path), methods=["POST"]))
        for (method, path), operation in self._operations().items():
            rules.append(Rule(f"/v1/{path}", endpoint=operation, methods=[method]))
        self._routes = Map(rules, redirect_defaults=False).bind("api.stripe.com")

    def call(
        self, method: str, path: str, params: Json, key: str = "", idempotency_key: str = ""
    ) -> tuple[int, Json, dict[str, str]]:
        """Returns HTTP status, body and headers."""
        record: Json = {"method": method, "path": path, "params": params}
        self.account.requests.append(record)
        request_id = self.account.new_id("req")
        headers = {"Request-Id": request_id}
        try:
            if method == "GET":
                self.account.turn_page(path, params)
            self.account.faults.meet(key, path, method)
            with self.account.lock:
                self.account.request = {
                    "id": request_id,
                    "idempotency_key": idempotency_key or None,
                }
                try:
                    body = self._answer(method, path, params, idempotency_key, headers)
                finally:
                    self.account.request = {"id": None, "idempotency_key": None}
            status = 200
        except ApiError as error:
            status, body = error.status, error.body
        record["status"] = status
        return status, body, headers

    def _answer(self, method: str, path: str, params: Json, key: str, headers: dict[str, str]) -> Json:
        """Repeats the first answer to an idempotency key. Failed calls are not remembered."""
        if not key or method != "POST":
            return self._dispatch(method, path, params)
        asked = (path, params)
        if key in self._replies:
            first, reply = self._replies[key]
            if first != asked:
                raise ApiError(
                    400,
                    "Keys for idempotent requests can only be used with the same parameters they were first used with.",
                    type_="idempotency_error",
                )
            headers["Idempotent-Replayed"] = "true"
            return reply
        reply = self._dispatch(method, path, params)
        self._replies[key] = (asked, reply)
        return reply

    def _dispatch(self, method: str, path: str, params: Json) -> Json:
        try:
            operation, values = self._routes.match(path, method)
        except HTTPException:
            raise ApiError(404, f"Unrecognized request URL ({method}: {path}).") from None
        refuse_malformed(params)
        paths = params.get("expand", [])
        for expanded in paths:
            if len(expanded.split(".")) > MAX_LEVELS:
                raise ApiError(
                    400,
                    f"You cannot expand more than {MAX_LEVELS} levels: {expanded}",
                    param="expand",
                )
        body: Json = operation(params, **values)
        for expanded in paths:
            self._expand(body, expanded.split("."), expanded)
        return body

    def _expand(self, node: Any, names: list[str], path: str) -> None:
        """Replace ids by the objects they name, in place, along one path."""
        name, rest = names[0], names[1:]
        if name not in node and (listed := self.account.includable(node, name)):
            node[name] = listed
        if name not in node:
            raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
        if isinstance(node[name], str):
            found = None if name == "id" else self.account.find(node[name])
            if found is None:
                raise ApiError(400, f"This property cannot be expanded ({path}).", param="expand")
            node[name] = found
        if rest and node[name] is not None:
            members = node[name] if isinstance(node[name], list) else [node[name]]
            for member in members:
                if not member.get("deleted"):
                    self._expand(member, rest, path)

    # Reading

    def _account(self, params: Json) -> Json:
        return dict(self.account.account)

    def _balance(self, params: Json) -> Json:
        nothing = [{"amount": 0, "currency": self.account.currency, "source_types": {"card": 0}}]
        return {
            "object": "balance",
            "available": nothing,
            "livemode": self.account.livemode,
            "pending": nothing,
            "refund_and_dispute_prefunding": {"available": nothing, "pending": nothing},
        }

    def _empty_lister(self, path: str) -> Operation:
        """A list of what the stand-in has nothing of."""
        return lambda params: self._page(f"/v1/{path}", [], params)

    def _refuser(self, path: str) -> Operation:
        """One of what the stand-in has nothing of."""

        def refuse(params: Json, id_: str) -> Json:
            raise missing(path.removesuffix("s"), id_)

        return refuse

    def _retriever(self, resource: Resource) -> Operation:
        def retrieve(params: Json, id_: str) -> Json:
            refuse_unknown(params, stripe.RequestOptions, ())
            return self.account.get(resource.name, id_)

        return retrieve

    def _lister(self, resource: Resource) -> Operation:
        def list_(params: Json) -> Json:
            filters = resource.filters
            refuse_unknown(params, resource.params, PAGING | filters.keys())
            for name in resource.required:
                if name not in params:
                    raise ApiError(400, f"Missing required param: {name}.", "parameter_missing", name)
            wanted = {name: value for name, value in params.items() if name in filters}
            for name, value in wanted.items():
                if str(value) not in VALUES.get((resource.name, name), {str(value)}):
                    raise ApiError(400, f"Invalid {name}: {value}", "parameter_invalid", name)
                if name in REFERENCES:
                    self.account.stored(REFERENCES[name], value, name)
            if resource.name == "event":
                refuse_types(params)
            if resource.name == "subscription" and "status" not in params:
                wanted["status"] = "not canceled"
            link = next((name for name in wanted if name in LINKS.get(resource.name, ())), None)
            objects = (
                self.account.referring(resource.name, link, wanted[link])
                if link
                else list(self.account.objects[resource.name].values())
            )
            if not resource.oldest_first:
                objects.sort(key=lambda obj: int(obj.get("created", 0)))
                objects.reverse()
            return self._page(
                f"/v1/{resource.path}",
                objects,
                params,
                lambda obj: (
                    self._visible(resource, obj)
                    and all(
                        obj["status"] != CANCELED
                        if value == "not canceled"
                        else filters[name](self.account, obj, value)
                        for name, value in wanted.items()
                    )
                ),
            )

        return list_

    def _visible(self, resource: Resource, obj: Json) -> bool:
        if resource.name == "event":
            return bool(obj["created"] > self.account.now() - RETENTION)
        return not obj.get("deleted")

    def _page(
        self,
        url: str,
        objects: list[Json],
        params: Json,
        wanted: Callable[[Json], bool] = lambda _: True,
    ) -> Json:
        """One page. The cursor may name an object that the filters leave out by now."""
        limit = integer(params.get("limit", 10), "limit")
        if not 1 <= limit <= 100:
            raise ApiError(400, "limit must be between 1 and 100.", "parameter_invalid_integer", "limit")
        after, before = params.get("starting_after"), params.get("ending_before")
        if after and before:
            raise ApiError(400, "Give starting_after or ending_before, not both.")
        if cursor := after or before:
            param = "starting_after" if after else "ending_before"
            ids = [obj["id"] for obj in objects]
            if cursor not in ids:
                raise ApiError(400, f"No such object: '{cursor}'", "resource_missing", param)
            position = ids.index(cursor)
            objects = objects[position + 1 :] if after else objects[:position]
        found = list(islice(filter(wanted, reversed(objects) if before else objects), limit + 1))
        page = found[:limit][::-1] if before else found[:limit]
        data = [self.account.render(obj) for obj in page]
        return list_of(url, data, has_more=len(found) > limit)

    def _session_lines(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, checkout_params.SessionListLineItemsParams, PAGING)
        self.account.stored("checkout.session", id_)
        lines = self.account.session_items[id_]
        return self._page(f"/v1/checkout/sessions/{id_}/line_items", lines, params)

    def _invoice_lines(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, sp.InvoiceListLinesParams, PAGING)
        self.account.stored("invoice", id_)
        return self._page(f"/v1/invoices/{id_}/lines", self.account.lines_of(id_), params)

    # Writing

    def _operations(self) -> dict[tuple[str, str], Operation]:
        return {
            ("GET", "checkout/sessions/<id_>/line_items"): self._session_lines,
            ("GET", "invoices/<id_>/lines"): self._invoice_lines,
            ("POST", "customers"): self._create_customer,
            ("POST", "customers/<id_>"): self._update_customer,
            ("DELETE", "customers/<id_>"): self._delete_customer,
            ("POST", "products"): self._create_product,
            ("POST", "products/<id_>"): self._update_product,
            ("DELETE", "products/<id_>"): self._delete_product,
            ("POST", "prices"): self._create_price,
            ("POST", "prices/<id_>"): self._update_price,
            ("POST", "subscriptions"): self._create_subscription,
            ("POST", "subscriptions/<id_>"): self._update_subscription,
            ("DELETE", "subscriptions/<id_>"): self._cancel_subscription,
            ("POST", "subscriptions/<id_>/resume"): self._resume_subscription,
            ("POST", "subscription_items/<id_>"): self._update_item,
            ("POST", "checkout/sessions"): self._create_session,
            ("POST", "checkout/sessions/<id_>/expire"): self._expire_session,
            ("POST", "charges/<id_>"): self._updater("charge", sp.ChargeUpdateParams),
            ("POST", "payment_intents/<id_>/cancel"): self._cancel_intent,
            ("POST", "invoices/<id_>"): self._updater("invoice", sp.InvoiceUpdateParams),
            ("POST", "invoices/<id_>/finalize"): self._finalize_invoice,
            ("POST", "invoices/<id_>/pay"): self._pay_invoice,
            ("POST", "invoices/<id_>/void"): self._void_invoice,
            ("POST", "invoices/<id_>/mark_uncollectible"): self._write_off_invoice,
            ("POST", "credit_notes"): self._create_credit_note,
            ("POST", "credit_notes/<id_>"): self._updater("credit_note", sp.CreditNoteUpdateParams),
            ("POST", "refunds"): self._create_refund,
            ("POST", "disputes/<id_>"): self._updater("dispute", sp.DisputeUpdateParams),
            ("POST", "disputes/<id_>/close"): self._close_dispute,
            ("POST", "webhook_endpoints"): self._create_endpoint,
            ("POST", "webhook_endpoints/<id_>"): self._update_endpoint,
            ("DELETE", "webhook_endpoints/<id_>"): self._delete_endpoint,
        }

    def _updater(self, resource: str, known: Any) -> Operation:
        """The update of what the stand-in changes in no other way: it takes nothing, and answers the object."""

        def update(params: Json, id_: str) -> Json:
            refuse_unknown(params, known, ())
            return self.account.get(resource, id_)

        return update

    def _create_customer(self, params: Json) -> Json:
        acted_on = {"email", "name", "metadata", "phone", "description"}
        refuse_unknown(params, sp.CustomerCreateParams, acted_on)
        customer = self.account.create_customer(params.get("email"), params.get("name"), params.get("metadata"))
        rest = {name: params[name] for name in ("phone", "description") if name in params}
        return self.account.update_customer(customer["id"], **rest) if rest else customer

    def _update_customer(self, params: Json, id_: str) -> Json:
        acted_on = {"email", "name", "metadata", "phone", "description"}
        refuse_unknown(params, sp.CustomerUpdateParams, acted_on)
        if self.account.stored("customer", id_).get("deleted"):
            raise missing("customer", id_)
        return self.account.update_customer(id_, **self._changes("customer", id_, params))

    def _changes(self, resource: str, id_: str, params: Json) -> Json:
        """What an update sets: an empty text means null, metadata is merged."""
        changes = {name: value or None for name, value in params.items() if name not in HARMLESS}
        if "metadata" in params:
            old = self.account.stored(resource, id_)["metadata"]
            changes["metadata"] = merged(old, params["metadata"])
        if "active" in params:
            changes["active"] = boolean(params["active"])
        return changes

    def _delete_customer(self, params: Json, id_: str) -> Json:
        if self.account.stored("customer", id_).get("deleted"):
            raise missing("customer", id_)
        return self.account.delete_customer(id_)

    def _create_product(self, params: Json) -> Json:
        refuse_unknown(params, sp.ProductCreateParams, {"id", "name", "metadata"})
        return self.account.create_product(params["name"], params.get("metadata"), params.get("id"))

    def _update_product(self, params: Json, id_: str) -> Json:
        acted_on = {"name", "active", "description", "default_price", "metadata"}
        refuse_unknown(params, sp.ProductUpdateParams, acted_on)
        return self.account.update_product(id_, **self._changes("product", id_, params))

    def _delete_product(self, params: Json, id_: str) -> Json:
        return self.account.delete_product(id_)

    def _create_price(self, params: Json) -> Json:
        acted_on = {"currency", "product", "unit_amount", "metadata", "lookup_key", "recurring"}
        refuse_unknown(params, sp.PriceCreateParams, acted_on | {"transform_quantity"})
        for name in ("product", "unit_amount"):
            if name not in params:
                raise ApiError(400, f"Missing required param: {name}.", "parameter_missing", name)
        transform = params.get("transform_quantity")
        if transform:
            transform |= {"divide_by": integer(transform.get("divide_by"), "transform_quantity")}
        return self.account.create_price(
            params["product"],
            integer(params["unit_amount"], "unit_amount"),
            params.get("metadata"),
            params.get("lookup_key"),
            params.get("recurring"),
            transform,
            params["currency"],
        )

    def _update_price(self, params: Json, id_: str) -> Json:
        acted_on = {"active", "nickname", "lookup_key", "metadata"}
        refuse_unknown(params, sp.PriceUpdateParams, acted_on)
        return self.account.update_price(id_, **self._changes("price", id_, params))

    def _create_subscription(self, params: Json) -> Json:
        acted_on = {"customer", "items", "metadata", "trial_period_days", "trial_end"}
        acted_on |= {"collection_method", "days_until_due", "payment_behavior"}
        refuse_unknown(params, sp.SubscriptionCreateParams, acted_on)
        for name in ("customer", "items"):
            if name not in params:
                raise ApiError(400, f"Missing required param: {name}.", "parameter_missing", name)
        awaited = params.get("payment_behavior") == "default_incomplete"
        return self.account.create_subscription(
            params["customer"],
            items=priced(params, "items"),
            first_payment="awaited" if awaited else "paid",
            trial_days=optional_integer(params, "trial_period_days"),
            trial_end=optional_integer(params, "trial_end"),
            metadata=params.get("metadata"),
            collection_method=params.get("collection_method", "charge_automatically"),
            days_until_due=optional_integer(params, "days_until_due"),
        )

    def _update_subscription(self, params: Json, id_: str) -> Json:
        acted_on = {"items", "metadata", "cancel_at", "cancel_at_period_end", "pause_collection"}
        refuse_unknown(params, sp.SubscriptionUpdateParams, acted_on | {"trial_end"})
        account = self.account
        stored = account.stored("subscription", id_)
        with account.changing(stored, UPDATED):
            for item in params.get("items", []):
                self._change_item(id_, item)
            if "metadata" in params:
                account.set_metadata(id_, merged(stored["metadata"], params["metadata"]))
            if "cancel_at" in params or "cancel_at_period_end" in params:
                moment = optional_integer(params, "cancel_at")
                at_end = boolean(params.get("cancel_at_period_end"))
                if at_end or moment:
                    account.cancel(id_, at_end, moment)
                else:
                    account.keep(id_)
            if "pause_collection" in params:
                pause = params["pause_collection"] or {}
                resumes_at = optional_integer(pause, "resumes_at")
                account.pause_collection(id_, pause.get("behavior"), resumes_at)
            if "trial_end" in params:
                if params["trial_end"] == "now":
                    account.end_trial(id_)
                else:
                    days = (integer(params["trial_end"], "trial_end") - account.now()) // DAY
                    account.start_trial(id_, days)
        return account.get("subscription", id_)

    def _change_item(self, subscription: str, item: Json) -> None:
        account = self.account
        id_ = item.get("id")
        if not id_:
            quantity = integer(item.get("quantity", 1), "quantity")
            account.add_item(subscription, item["price"], quantity)
            return
        account.stored("subscription_item", id_, "items")
        if boolean(item.get("deleted")):
            account.remove_item(subscription, id_)
            return
        if "price" in item:
            account.change_price(subscription, item["price"], id_)
        if "quantity" in item:
            account.change_quantity(subscription, integer(item["quantity"], "quantity"), id_)

    def _update_item(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, sp.SubscriptionItemUpdateParams, {"price", "quantity"})
        subscription = self.account.stored("subscription_item", id_)["subscription"]
        stored = self.account.stored("subscription", subscription)
        with self.account.changing(stored, UPDATED):
            self._change_item(subscription, params | {"id": id_})
        return self.account.get("subscription_item", id_)

    def _cancel_subscription(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, sp.SubscriptionCancelParams, {"cancellation_details"})
        details = params.get("cancellation_details") or {}
        return self.account.cancel(id_, comment=details.get("comment"))

    def _resume_subscription(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, sp.SubscriptionResumeParams, {"billing_cycle_anchor"})
        return self.account.resume(id_)

    def _create_session(self, params: Json) -> Json:
        plain = {"customer", "customer_email", "customer_creation", "client_reference_id"}
        plain |= {"metadata", "success_url"}
        known = checkout_params.SessionCreateParams
        refuse_unknown(params, known, plain | {"line_items", "mode", "subscription_data"})
        for name in ("line_items", "mode"):
            if name not in params:
                raise ApiError(400, f"Missing required param: {name}.", "parameter_missing", name)
        data = params.get("subscription_data") or {}
        return self.account.create_checkout_session(
            priced(params, "line_items"),
            params["mode"],
            trial_days=optional_integer(data, "trial_period_days"),
            subscription_metadata=data.get("metadata"),
            **{name: params[name] for name in plain if name in params},
        )

    def _expire_session(self, params: Json, id_: str) -> Json:
        return self.account.expire_session(id_)

    def _cancel_intent(self, params: Json, id_: str) -> Json:
        self.account.stored("payment_intent", id_)
        raise ApiError(400, "The stand-in cancels no payment.", "standin_unsupported")

    def _finalize_invoice(self, params: Json, id_: str) -> Json:
        return self.account.finalize_invoice(id_)

    def _pay_invoice(self, params: Json, id_: str) -> Json:
        refuse_unknown(params, sp.InvoicePayParams, {"paid_out_of_band"})
        return self.account.pay_invoice(id_, boolean(params.get("paid_out_of_band")))

    def _void_invoice(self, params: Json, id_: str) -> Json:
        return self.account.void_invoice(id_)

    def _write_off_invoice(self, params: Json, id_: str) -> Json:
        return self.account.mark_uncollectible(id_)

    def _create_credit_note(self, params: Json) -> Json:
        refuse_unknown(params, sp.CreditNoteCreateParams, {"invoice", "amount", "refund_amount", "credit_amount"})
        amount, refunded, credited = (optional_integer(params, n) for n in ("amount", "refund_amount", "credit_amount"))
        if (refunded or 0) + (credited or 0) != (amount or 0) or (refunded and credited):
            raise ApiError(400, "The sum of refund, credit and out of band must equal the amount.", None, "amount")
        return self.account.credit_note(params["invoice"], amount, refund=bool(refunded))

    def _create_refund(self, params: Json) -> Json:
        acted_on = {"charge", "payment_intent", "amount", "reason"}
        refuse_unknown(params, sp.RefundCreateParams, acted_on)
        charge = params.get("charge")
        if not charge and "payment_intent" in params:
            intent = self.account.stored("payment_intent", params["payment_intent"], "payment_intent")
            charge = intent["latest_charge"]
        if not charge:
            raise ApiError(400, "Missing required param: charge.", "parameter_missing", "charge")
        amount = optional_integer(params, "amount")
        return self.account.refund(charge, amount, params.get("reason"))

    def _close_dispute(self, params: Json, id_: str) -> Json:
        return self.account.close_dispute(id_, "lost")

    def _create_endpoint(self, params: Json) -> Json:
        acted_on = {"url", "enabled_events", "description", "metadata", "api_version"}
        refuse_unknown(params, sp.WebhookEndpointCreateParams, acted_on)
        refuse_endpoint(params)
        return self.account.create_webhook_endpoint(
            params["url"],
            params["enabled_events"],
            description=params.get("description"),
            metadata=params.get("metadata") or {},
            api_version=params.get("api_version"),
        )

    def _update_endpoint(self, params: Json, id_: str) -> Json:
        acted_on = {"url", "enabled_events", "description", "metadata", "disabled"}
        refuse_unknown(params, sp.WebhookEndpointUpdateParams, acted_on)
        refuse_endpoint(params)
        changes = self._changes("webhook_endpoint", id_, params)
        with suppress(KeyError):
            disabled = boolean(changes.pop("disabled"))
            changes["status"] = "disabled" if disabled else "enabled"
        return self.account.update_webhook_endpoint(id_, **changes)

    def _delete_endpoint(self, params: Json, id_: str) -> Json:
        return self.account.delete_webhook_endpoint(id_)
