"""What an event costs, counted in real executions: the webhook, the real definition and the real handlers, with
Stripe's own library against the stand-in of the local stack. The numbers are exact, so that one call more fails a test;
tests/bench/costs.py has them, with their price.
"""

import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import chain
from types import SimpleNamespace
from typing import Any

import pytest
import stripe
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils

from gateway.billing import Billing
from gateway.events import HANDLED_TYPES
from tests.bench.costs import COUNTS, GOALS, Counts
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_api import StripeApi
from tests.local.template import Template
from tests.workflow.conftest import EMAIL, ENDS_WITHIN, NAME, World, _imported
from tests.workflow.lives import DAY, StripeWire

Json = dict[str, Any]

SECRET, KEY = "whsec_00000000000costs", "rk_test_costs"


class Meter:
    """Counts the calls to AWS, and what DynamoDB takes for its own, by its published rules.

    Read: 4 KB, strongly consistent; half of it otherwise. Write: 1 KB of the larger of the item before and after; twice
    as much in a transaction; one that fails its condition as well. An index is written when its entry changes, twice
    when the entry's key does.
    """

    def __init__(self, client: Any, table: str, indexes: list[Json]) -> None:
        self._client = client
        self._table = table
        self._indexes = indexes
        self.calls: Counter[str] = Counter()
        self.read, self.written = 0.0, 0

    def __call__(self, name: str, method: Callable[..., Any], request: Json) -> Any:
        self.calls[name] += 1
        match name:
            case "get_item" | "query":
                return self._reads(method(**request), consistent=request.get("ConsistentRead", False))
            case "put_item" | "update_item" | "delete_item":
                return self._writes(method, request, [request], 1)
            case "transact_write_items":
                writes = [write for each in request["TransactItems"] for write in each.values()]
                return self._writes(method, request, writes, 2)
            case _:
                return method(**request)

    def _reads(self, answer: Json, *, consistent: bool) -> Json:
        items = answer["Items"] if "Items" in answer else [answer.get("Item", {})]
        units = max(1, math.ceil(sum(map(size, items)) / 4096))
        self.read += units if consistent else units / 2
        return answer

    def _writes(self, method: Callable[..., Any], request: Json, writes: list[Json], times: int) -> Any:
        keys = [each.get("Key") or {name: each["Item"][name] for name in ("pk", "sk")} for each in writes]
        before = [self._item(key) for key in keys]
        try:
            return method(**request)
        finally:
            for key, old in zip(keys, before, strict=True):
                new = self._item(key)
                self.written += times * max(1, math.ceil(max(size(old), size(new)) / 1024))
                self.written += sum(self._of_index(index, old, new) for index in self._indexes)

    def _item(self, key: Json) -> Json:
        return dict(self._client.get_item(TableName=self._table, Key=key, ConsistentRead=True).get("Item", {}))

    def _of_index(self, index: Json, old: Json, new: Json) -> int:
        keys = {each["AttributeName"] for each in index["KeySchema"]}
        projection = index["Projection"]
        kept = {"pk", "sk", *keys, *projection.get("NonKeyAttributes", ())}
        before, after = (
            {name: value for name, value in item.items() if projection["ProjectionType"] == "ALL" or name in kept}
            if keys <= item.keys()
            else {}
            for item in (old, new)
        )
        if before == after:
            return 0
        units = [math.ceil(size(each) / 1024) for each in (before, after)]
        stays = all(before.get(key) == after.get(key) for key in keys)
        return max(units) if stays else sum(units)


def size(item: Mapping[str, Any]) -> int:
    """Bytes of an item in DynamoDB's JSON."""
    return sum(len(name.encode()) + _size(value) for name, value in item.items())


def _size(value: Mapping[str, Any]) -> int:
    ((kind, content),) = value.items()
    match kind:
        case "S":
            return len(content.encode())
        case "N":
            return 1 + math.ceil(len(content.strip("0")) / 2)
        case "SS":
            return sum(len(each.encode()) for each in content)
        case "L":
            return 3 + sum(1 + _size(each) for each in content)
        case "M":
            return 3 + sum(1 + _size(each) for each in content.values()) + sum(len(name.encode()) for name in content)
        case _:  # BOOL, NULL
            return 1


class Shop:
    """A Stripe account that sells dapps, and the gateway that hears of it."""

    def __init__(self, world: World, template: Template, clients: SimpleNamespace, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.patch = patch
        self.stripe = StripeAccount(clock=world.clock.time, tag="")
        self.stripe.auto_deliver = False
        self._api = StripeApi(self.stripe)
        product = self.stripe.create_product("API")["id"]
        monthly = {"interval": "month"}
        self.price = self.stripe.create_price(product, 500, metadata={"dapps": "1"}, recurring=monthly)["id"]
        self._heard = len(self.stripe.events)
        self._started: list[str] = []
        table = template.resolve(template.resources["OrdersTable"].properties)
        self._meter = Meter(clients.dynamodb, "OrdersTable", table["GlobalSecondaryIndexes"])
        self._webhook = _imported(template, "WebhookFunction")
        patch.setattr(self._webhook, "time", world.clock)
        patch.setattr(self._webhook, "signing", SimpleNamespace(text=lambda: SECRET))
        patch.setattr(self._webhook, "fulfillment", SimpleNamespace(start=self._start))
        patch.setattr(world.handlers["ReadBilling"], "billing", self._billing())
        patch.setattr(world, "handlers", {**world.handlers, "Webhook": self._webhook})
        for state, module in world.handlers.items():
            if hasattr(module, "ledger"):
                world.calls_of(state, self._meter)  # type: ignore[arg-type]

    def _billing(self) -> Billing:
        key = SimpleNamespace(text=lambda: KEY)
        billing = Billing(key, base="https://api.stripe.com", livemode=False, prices={})  # type: ignore[arg-type]
        billing._http = StripeWire(self._asked)  # type: ignore[assignment]
        return billing

    def _asked(self, method: str, path: str, params: Json) -> tuple[str, int, Mapping[str, str]]:
        status, body, headers = self._api.call(method, path, params, KEY)
        return json.dumps(body), status, headers

    def _start(self, attempt: Any) -> None:
        self._started.append(self.world.start(attempt))

    # -------------------------------------------------------------- what happens

    def buys(self) -> str:
        """Somebody completes Checkout; their subscription's id. Checkout writes what the buyer typed to the customer,
        which makes the fifth event."""
        session = self.stripe.checkout(EMAIL, self.price, 3)
        self.stripe.update_customer(session["customer"], name=NAME)
        return str(session["subscription"])

    def news(self) -> list[Json]:
        """What the endpoint is to be told and was not told yet, oldest first."""
        told, self._heard = self.stripe.events[self._heard :], len(self.stripe.events)
        return [event for event in told if event["type"] in HANDLED_TYPES]

    def hears(self, *events: Json) -> Counts:
        """These events arrive at once; what that takes until all is done."""
        self._meter.calls.clear()
        self._meter.read, self._meter.written = 0.0, 0
        self._started.clear()
        invoked, asked, waited = self.world.lambdas.calls.total(), len(self.stripe.requests), len(self.world.waits)
        with self.world.lambdas._one_at_a_time:  # no run begins to read before all are recorded
            for event in events:
                assert self._posted(event) == 200
        ended = [self.world.wait_for(execution) for execution in self._started]
        assert [each.status for each in ended] == ["SUCCEEDED"] * len(events)
        calls = self._meter.calls
        return Counts(
            # A state that is tried again is one more.
            transitions=sum(len(each.path) for each in ended) + len(self.world.waits) - waited,
            invocations=len(events) + self.world.lambdas.calls.total() - invoked,
            stripe_reads=len(self.stripe.requests) - asked,
            cognito={_operation(name): calls[name] for name in sorted(calls) if name.startswith("admin_")},
            read_units=self._meter.read,
            write_units=self._meter.written,
            notices=calls["put_events"],
            events=len(events),
        )

    def hears_in_turn(self, *events: Json) -> Counts:
        """Each arrives when all is done that follows from the one before."""
        return sum(map(self.hears, events), Counts())

    def _posted(self, event: Json) -> int:
        body = json.dumps(event)
        signature = stripe.WebhookSignature.generate_signature_header(body, SECRET)
        request = {"body": body, "headers": {"stripe-signature": signature}, "isBase64Encoded": False}
        context = SimpleNamespace(function_name="WebhookFunction", aws_request_id="webhook")
        return int(self._webhook.handler(request, context)["statusCode"])


def _operation(method: str) -> str:
    return "".join(word.capitalize() for word in method.split("_"))


@pytest.fixture
def shop(world: World, template: Template, clients: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> Shop:
    return Shop(world, template, clients, monkeypatch)


# ------------------------------------------------------------------ what is counted


def customer(shop: Shop) -> str:
    """Somebody who bought, signed in, and pays for a month already; their subscription's id."""
    subscription = shop.buys()
    shop.hears_in_turn(*shop.news())
    shop.world.signs_in(shop.world.user().sub)
    shop.world.clock.pass_by(30 * DAY)
    return subscription


def renewal(shop: Shop) -> dict[str, Json]:
    """Both of its events, by type."""
    shop.stripe.renew(customer(shop))
    return {event["type"]: event for event in shop.news()}


def renewal_paid(shop: Shop) -> Counts:
    return shop.hears(renewal(shop)["invoice.paid"])


def renewal_told(shop: Shop) -> Counts:
    return shop.hears(renewal(shop)["customer.subscription.updated"])


def first_purchase(shop: Shop) -> Counts:
    """The event that comes first makes the user; which one that is does not matter."""
    shop.buys()
    return shop.hears(shop.news()[0])


def first_purchase_in_turn(shop: Shop) -> Counts:
    shop.buys()
    return shop.hears_in_turn(*shop.news())


def limit_change(shop: Shop) -> Counts:
    shop.stripe.change_quantity(customer(shop), 5)
    return shop.hears(*shop.news())


def unpaid(shop: Shop) -> tuple[str, Json]:
    """A renewal that could not be collected, not even at the last try: the subscription, and the event that says so."""
    subscription = customer(shop)
    shop.stripe.fail_payment(subscription)
    shop.hears_in_turn(*shop.news())
    shop.world.clock.pass_by(7 * DAY)
    shop.stripe.exhaust_dunning(subscription)
    (event,) = shop.news()
    return subscription, event


def lapse(shop: Shop) -> Counts:
    return shop.hears(unpaid(shop)[1])


def recovery(shop: Shop) -> Counts:
    """The event that comes first gives access back."""
    subscription, event = unpaid(shop)
    shop.hears(event)
    shop.stripe.recover_payment(subscription)
    return shop.hears(shop.news()[0])


def first_purchase_at_once(shop: Shop) -> Counts:
    """The most that five runs at once can take: none of them sees the user before all are about to create one."""
    shop.buys()
    events = shop.news()
    barrier = threading.Barrier(len(events))
    invoke = shop.world.lambdas.invoke

    def together(**call: Any) -> Json:
        if "CreateUser" in call["parameters"]["FunctionName"]:
            barrier.wait(timeout=ENDS_WITHIN)
        return invoke(**call)

    shop.patch.setattr(lambda_eval_utils, "_invoke_lambda_function", together)
    return shop.hears(*events)


HAPPENS: dict[str, Callable[[Shop], Counts]] = {
    "renewal: invoice.paid": renewal_paid,
    "renewal: customer.subscription.updated": renewal_told,
    "first purchase: the first event": first_purchase,
    "first purchase: all five, in turn": first_purchase_in_turn,
    "first purchase: all five, at once": first_purchase_at_once,
    "limit change": limit_change,
    "lapse": lapse,
    "recovery": recovery,
}


@pytest.mark.parametrize("name", COUNTS)
def test_it_costs_exactly_so_much(shop: Shop, name: str) -> None:
    assert HAPPENS[name](shop) == COUNTS[name]
    assert len(shop.world.everybody()) == 1
    assert shop.world.mails() == [False]  # one invitation, sent once


def test_no_goal_is_missed() -> None:
    assert {name: counts.transitions for name, counts in COUNTS.items() if counts.transitions > GOALS[name]} == {}
    renewals = [counts for name, counts in COUNTS.items() if name.startswith("renewal")]
    assert {counts.stripe_reads for counts in renewals} == {1}
    assert {*chain(*(counts.cognito for counts in renewals))} == {"AdminGetUser"}
    assert {counts.cognito["AdminCreateUser"] for name, counts in COUNTS.items() if name.startswith("first")} == {1}
