"""What one Stripe account holds: its objects, the events about them, and who is told."""

from __future__ import annotations

import functools
import itertools
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from .stripe_delivery import Deliveries, send
from .stripe_faults import ApiError, Faults, missing
from .stripe_objects import (
    API_VERSION,
    FIXTURES,
    Json,
    check,
    list_of,
    new_account,
    new_event,
    new_webhook_endpoint,
    plan_of,
)

Method = TypeVar("Method", bound=Callable[..., Any])
Value = TypeVar("Value")

INLINE = 10  # members of a list that Stripe writes into the object that has it
MAX_ENDPOINTS = 16  # of one account and mode, whatever their status
NO_REQUEST: Json = {"id": None, "idempotency_key": None}


def _named(name: str) -> Callable[[Json], Any]:
    return lambda obj: obj[name]


def subscription_of(invoice: Json) -> str | None:
    """The subscription that an invoice is of."""
    details = (invoice["parent"] or {}).get("subscription_details") or {}
    found: str | None = details.get("subscription")
    return found


# What names another object and never changes: what refers to that object is found without looking at all there are.
LINKS: dict[str, dict[str, Callable[[Json], Any]]] = {
    "charge": {"customer": _named("customer"), "payment_intent": _named("payment_intent")},
    "credit_note": {"invoice": _named("invoice")},
    "invoice": {"customer": _named("customer"), "subscription": subscription_of},
    "invoice_payment": {"invoice": _named("invoice")},
    "line_item": {"invoice": _named("invoice")},
    "price": {"product": _named("product")},
    "refund": {"charge": _named("charge")},
    "subscription": {"customer": _named("customer")},
    "subscription_item": {"subscription": _named("subscription")},
}


def locked(method: Method) -> Method:
    """Run a method of the account under its one lock: a reader never sees half a change."""

    @functools.wraps(method)
    def inner(self: StripeStore, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(Method, inner)


def only(changes: Json, *names: str) -> Json:
    """`changes`, if they are among the fields that can be changed. Raises ApiError 400."""
    for name in changes:
        if name not in names:
            raise ApiError(400, f"Received unknown parameter: {name}", "parameter_unknown", name)
    return changes


def copied(value: Value) -> Value:
    """A copy of JSON; copy.deepcopy, which also finds cycles, takes four times as long."""
    return cast(Value, _copied(value))


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _copied(member) for name, member in value.items()}
    return [_copied(member) for member in value] if isinstance(value, list) else value


def difference(before: Any, after: Any) -> Json:
    """`previous_attributes`: what changed, with the old values.

    Of a nested hash only the changed keys are given; of a list object its old data.
    """
    previous: Json = {}
    for name in sorted(before.keys() | after.keys()):
        old, new = before.get(name), after.get(name)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            is_list = old.get("object") == "list"
            previous[name] = {"data": old["data"]} if is_list else difference(old, new)
        else:
            previous[name] = old
    return previous


@dataclass
class PageRule:
    """What happens before a page of a list is served; `reached`: how often that was."""

    path_contains: str
    page: int
    do: Callable[[], Any]
    reached: int = 0


class StripeStore:
    """Objects by resource and id, each in the order it was made.

    Objects are kept with ids where Stripe serves nested objects (an item keeps its price's id);
    `render` puts them in. `lock` guards everything; webhooks are sent without holding it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        livemode: bool = False,
        keys: set[str] | None = None,
        country: str = "US",
        currency: str = "usd",
        tag: str | None = None,
        backoff: float = 1.0,
        attempts: int = 6,
        timeout: float = 10.0,
    ) -> None:
        """`keys`: accepted API keys (None: any). `tag` goes into every id and is random unless
        given, so that two accounts never share an id. `backoff` (seconds), `attempts` and
        `timeout` (seconds) rule the delivery of webhooks."""
        self.clock = clock
        self.livemode = livemode
        self.currency = currency
        self.lock = threading.RLock()
        self._tag = secrets.token_hex(3) if tag is None else tag
        self.faults = Faults(keys, f"acct_{self._tag}")
        self.requests: list[Json] = []
        self.events: list[Json] = []
        self.auto_deliver = True
        self.request: Json = NO_REQUEST
        self.objects: dict[str, dict[str, Json]] = {name: {} for name in [*FIXTURES, "radar.early_fraud_warning"]}
        self.session_items: dict[str, list[Json]] = {}
        self._session_plans: dict[str, tuple[int | None, Json | None]] = {}
        self._changing: set[str] = set()
        self._unheard = False
        self._page_rules: list[PageRule] = []
        self._pages: dict[str, list[str]] = {}
        self._links: dict[tuple[str, str, Any], dict[str, None]] = {}
        self._count = itertools.count(1)
        self._secrets: dict[str, str] = {}
        self._bodies: dict[str, bytes] = {}
        self._owed: dict[str, set[str]] = {}
        self.account = new_account(f"acct_{self._tag}", self.now(), country, currency)
        self.deliveries = Deliveries(self._delivered, self._listens, backoff, attempts, timeout)

    def now(self) -> int:
        """The account's time in whole Unix seconds."""
        return int(self.clock())

    def close(self) -> None:
        """Stop delivering and wake every hanging call."""
        self.faults.close()
        self.deliveries.close()

    # Objects

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_{self._tag}{next(self._count):06d}"

    def put(self, obj: Json) -> Json:
        resource, id_ = obj["object"], obj["id"]
        self.objects[resource][id_] = obj
        for name, value in LINKS.get(resource, {}).items():
            self._links.setdefault((resource, name, value(obj)), {})[id_] = None
        return obj

    def stored(self, resource: str, id_: str, param: str = "id") -> Json:
        """The kept object itself, to be changed by the account.

        Raises ApiError: 404, or 400 if `param` says that a parameter named the object.
        """
        if (obj := self.objects[resource].get(id_)) is None:
            raise missing(resource, id_, param)
        return obj

    def live_customer(self, id_: str) -> Json:
        customer = self.stored("customer", id_, "customer")
        if customer.get("deleted"):
            raise missing("customer", id_, "customer")
        return customer

    @locked
    def get(self, resource: str, id_: str) -> Json:
        """A copy of an object as the API serves it, e.g. get("customer", "cus_…")."""
        return self.render(self.stored(resource, id_))

    @locked
    def all(self, resource: str) -> list[Json]:
        """Every object of a resource as the API serves it, oldest first."""
        return [self.render(obj) for obj in self.objects[resource].values()]

    def find(self, id_: str) -> Json | None:
        """The object with this id, of whatever resource, as the API serves it."""
        for objects in self.objects.values():
            if id_ in objects:
                return self.render(objects[id_])
        return None

    def items_of(self, subscription: str) -> list[Json]:
        return self.referring("subscription_item", "subscription", subscription)

    def lines_of(self, invoice: str) -> list[Json]:
        return self.referring("line_item", "invoice", invoice)

    def render(self, obj: Json) -> Json:
        """A checked copy with the nested objects and lists that Stripe always includes."""
        out = copied(obj)
        id_ = out.get("id", "")
        match out["object"]:
            case "event":
                return out
            case "subscription":
                url = f"/v1/subscription_items?subscription={id_}"
                out["items"] = self.inlined(url, self.items_of(id_))
            case "subscription_item" | "item":
                price = self.stored("price", out["price"])
                out["price"] = copied(price)
                if out["object"] == "subscription_item":
                    out["plan"] = plan_of(price)
            case "invoice":
                out["lines"] = self.inlined(f"/v1/invoices/{id_}/lines", self.lines_of(id_))
        return check(out)

    def inlined(self, url: str, objects: list[Json]) -> Json:
        """A list object holding the first ten, as Stripe writes lists into other objects."""
        data = [self.render(obj) for obj in objects[:INLINE]]
        return list_of(url, data, has_more=len(objects) > INLINE)

    def includable(self, obj: Json, name: str) -> Json | None:
        """A list that Stripe serves only when it is expanded; None if there is none such."""
        id_ = obj.get("id", "")
        match (obj.get("object"), name):
            case ("checkout.session", "line_items"):
                url = f"/v1/checkout/sessions/{id_}/line_items"
                return self.inlined(url, self.session_items[id_])
            case ("charge", "refunds"):
                refunds = self._referring("refund", "charge", id_)
                return self.inlined(f"/v1/charges/{id_}/refunds", refunds)
            case ("invoice", "payments"):
                payments = self._referring("invoice_payment", "invoice", id_)
                return self.inlined(f"/v1/invoice_payments?invoice={id_}", payments)
            case ("customer", "subscriptions"):
                found = self._referring("subscription", "customer", id_)
                live = [one for one in found if one["status"] != "canceled"]
                return self.inlined(f"/v1/customers/{id_}/subscriptions", live)
        return None

    def referring(self, resource: str, name: str, id_: str) -> list[Json]:
        """The objects of a resource that name another one in a field of LINKS, oldest first."""
        objects = self.objects[resource]
        return [objects[one] for one in self._links.get((resource, name, id_), ()) if one in objects]

    def _referring(self, resource: str, name: str, id_: str) -> list[Json]:
        """The same, newest first."""
        return self.referring(resource, name, id_)[::-1]

    # Lists

    @contextmanager
    def at_page(self, path_contains: str, page: int, do: Callable[[], Any]) -> Iterator[PageRule]:
        """In this block, `do` is called once, before the page of that number (from 1) of a list whose path contains the
        text is served: it changes the account, or orders a fault. A page that is asked for again is the same page.
        """
        rule = PageRule(path_contains, page, do)
        with self.lock:
            self._page_rules.append(rule)
        try:
            yield rule
        finally:
            with self.lock:
                self._page_rules.remove(rule)

    def fail_page(self, path_contains: str, page: int, status: int, times: int = 1) -> AbstractContextManager[PageRule]:
        """In this block, a page of a list answers `status`, so many times."""
        return self.at_page(path_contains, page, lambda: self.faults.fail_next(times, status, path_contains))

    def hang_page(
        self, path_contains: str, page: int, seconds: float, times: int = 1
    ) -> AbstractContextManager[PageRule]:
        """In this block, a page of a list comes so many seconds late, so many times."""
        return self.at_page(path_contains, page, lambda: self.faults.hang_next(times, seconds, path_contains))

    def turn_page(self, path: str, params: Json) -> None:
        """Called before a list is served, and before its faults."""
        with self.lock:
            if not self._page_rules:
                return
            wanted = {name: value for name, value in params.items() if name not in ("starting_after", "ending_before")}
            cursor = str(params.get("starting_after") or params.get("ending_before") or "")
            listing = f"{path} {json.dumps(wanted, sort_keys=True)}"
            if not cursor or listing not in self._pages:
                self._pages[listing] = []
            turned = self._pages[listing]
            if cursor not in turned:
                turned.append(cursor)
            page = turned.index(cursor) + 1
            rules = [each for each in self._page_rules if each.path_contains in path and each.page == page]
            due = [each for each in rules if not each.reached]
            for rule in rules:
                rule.reached += 1
        for rule in due:
            rule.do()

    # Events

    def tell(self, type_: str, obj: Json) -> Json:
        """Emit an event with a kept object as it is at this moment."""
        if self._unheard:
            return {}
        return self.emit(type_, self.render(obj))

    @contextmanager
    def unheard(self, at: float) -> Iterator[None]:
        """What this thread does in the block happened at that moment (Unix seconds), and no event tells of it: it was
        long ago, or Stripe lost it. Others wait."""
        with self.lock:
            clock, self.clock, self._unheard = self.clock, lambda: at, True
            try:
                yield
            finally:
                self.clock, self._unheard = clock, False

    @contextmanager
    def changing(self, obj: Json, type_: str) -> Iterator[Json]:
        """Change a kept object in the block; emits `type_` afterwards if anything changed.

        A block within a block about the same object is part of the outer one: one event for both.
        If the block fails, or leaves a shape that Stripe does not have, the object stays as it was.
        """
        if self._unheard or obj["id"] in self._changing:
            yield obj
            return
        kept, before = copied(obj), self.render(obj)
        self._changing.add(obj["id"])
        try:
            yield obj
            after = self.render(obj)
        except Exception:
            obj.clear()
            obj |= kept
            raise
        finally:
            self._changing.discard(obj["id"])
        if previous := difference(before, after):
            self.emit(type_, after, previous)

    @locked
    def emit(
        self,
        type: str,  # noqa: A002 - Stripe's names
        object: Json,  # noqa: A002
        previous_attributes: Json | None = None,
    ) -> Json:
        """Make an event of any type about any object, and deliver it if `auto_deliver`.

        The body is fixed now: later changes of the object never reach it.
        """
        data: Json = {"object": copied(object)}
        if previous_attributes is not None:
            data["previous_attributes"] = copied(previous_attributes)
        endpoints = self.endpoints_for(type)
        event = new_event(
            self.new_id("evt"),
            self.now(),
            self.livemode,
            type,
            data,
            len(endpoints),
            dict(self.request),
        )
        self.events.append(event)
        self.put(event)
        self._bodies[event["id"]] = json.dumps(event, indent=2).encode()
        self._owed[event["id"]] = {endpoint["id"] for endpoint in endpoints}
        if self.auto_deliver:
            self._enqueue(event["id"])
        return copied(event)

    def endpoints_for(self, type_: str) -> list[Json]:
        return [
            endpoint
            for endpoint in self.objects["webhook_endpoint"].values()
            if endpoint["status"] == "enabled" and not {"*", type_}.isdisjoint(endpoint["enabled_events"])
        ]

    @locked
    def delivered(self, event_id: str) -> bool:
        """Stripe's `delivery_success`: has every endpoint that was subscribed answered 2xx?"""
        return not self._owed[event_id]

    def deliver(self, event: Json | str, times: int = 1) -> int | None:
        """Send one event by hand to every endpoint subscribed to it, without retries.

        Returns the highest HTTP status of the answers, None if an endpoint gave no answer.
        Raises ValueError if nobody listens to this type.
        """
        with self.lock:
            stored = self.stored("event", event if isinstance(event, str) else event["id"])
            endpoints = [copied(one) for one in self.endpoints_for(stored["type"])]
            keys = [self._secrets[one["id"]] for one in endpoints]
            bodies = [self._body(stored["id"], one) for one in endpoints]
        statuses: list[int | None] = []
        for _ in range(times):
            for endpoint, secret, body in zip(endpoints, keys, bodies, strict=True):
                status = send(endpoint["url"], secret, body, self.deliveries.timeout)
                success = status is not None and 200 <= status < 300
                self._delivered(stored["id"], endpoint["id"], success)
                statuses.append(status)
        if not statuses:
            raise ValueError(f"no enabled endpoint is subscribed to {stored['type']}")
        answered = [status for status in statuses if status is not None]
        return max(answered) if len(answered) == len(statuses) else None

    @locked
    def resend_undelivered(self, since: int = 0) -> int:
        """Queue again every event that some endpoint still owes a 2xx; returns how many.

        `since`: leave out the first so many of `events`.
        """
        undelivered = [event["id"] for event in self.events[since:] if self._owed[event["id"]]]
        for id_ in undelivered:
            self._enqueue(id_)
        return len(undelivered)

    def wait_delivered(self, timeout: float = 10.0) -> bool:
        """Block until no delivery is pending, retries included; False on timeout (seconds)."""
        return self.deliveries.wait(timeout)

    def _enqueue(self, event_id: str) -> None:
        for endpoint_id in sorted(self._owed[event_id]):
            if endpoint := self.objects["webhook_endpoint"].get(endpoint_id):
                self.deliveries.enqueue(
                    event_id,
                    endpoint_id,
                    endpoint["url"],
                    self._secrets[endpoint_id],
                    self._body(event_id, endpoint),
                )

    def _body(self, event_id: str, endpoint: Json) -> bytes:
        """What an endpoint is sent: its own API version is named there. The stand-in has one shape for all of them."""
        body = self._bodies[event_id]
        if endpoint["api_version"] in (None, API_VERSION):
            return body
        return json.dumps(json.loads(body) | {"api_version": endpoint["api_version"]}, indent=2).encode()

    def _listens(self, endpoint_id: str) -> bool:
        """Stripe sends nothing more, no retries either, to an endpoint that is disabled or gone."""
        with self.lock:
            endpoint = self.objects["webhook_endpoint"].get(endpoint_id)
            return endpoint is not None and endpoint["status"] == "enabled"

    def _delivered(self, event_id: str, endpoint_id: str, success: bool) -> None:
        with self.lock:
            if success:
                self._owed[event_id].discard(endpoint_id)
                event = self.objects["event"][event_id]
                event["pending_webhooks"] = len(self._owed[event_id])

    # Webhook endpoints

    @locked
    def create_webhook_endpoint(
        self,
        url: str,
        enabled_events: list[str] | None = None,
        secret: str | None = None,
        description: str | None = None,
        metadata: Json | None = None,
        api_version: str | None = None,
    ) -> Json:
        """Subscribe `url`; the answer alone carries `secret`, which is made up unless given."""
        if len(self.objects["webhook_endpoint"]) >= MAX_ENDPOINTS:
            mode = "live" if self.livemode else "test"
            raise ApiError(400, f"You have reached the maximum of {MAX_ENDPOINTS} {mode} webhook endpoints.")
        endpoint = self.put(
            new_webhook_endpoint(
                self.new_id("we"),
                self.now(),
                self.livemode,
                url,
                list(enabled_events or ["*"]),
                description,
                metadata or {},
                api_version,
            )
        )
        self._secrets[endpoint["id"]] = secret or f"whsec_{secrets.token_hex(16)}"
        return self.render(endpoint) | {"secret": self._secrets[endpoint["id"]]}

    @locked
    def update_webhook_endpoint(self, endpoint: str, **changes: Any) -> Json:
        """Change url, enabled_events, description, metadata (the whole hash) or status ("enabled", "disabled")."""
        stored = self.stored("webhook_endpoint", endpoint)
        stored |= only(changes, "url", "enabled_events", "description", "metadata", "status")
        if stored["status"] == "disabled":
            self._forget(endpoint)
        return self.render(stored)

    @locked
    def delete_webhook_endpoint(self, endpoint: str) -> Json:
        self.stored("webhook_endpoint", endpoint)
        del self.objects["webhook_endpoint"][endpoint]
        del self._secrets[endpoint]
        self._forget(endpoint)
        return {"id": endpoint, "object": "webhook_endpoint", "deleted": True}

    def _forget(self, endpoint: str) -> None:
        """No event is owed to this endpoint any more."""
        for owed in self._owed.values():
            owed.discard(endpoint)
