"""POST /create: what comes in, what is refused, and that nothing is lost or doubled on the way."""

import base64
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.e2e.conftest import RETIRING_SECRET, WEBHOOK_SECRET, Answer, Gateway, Json, digest, sign, until

MARKER = "Quetzalcoatl"
"""In every payload of this module that must leave no trace in a log."""

MAX_BODY = 1024 * 1024

ON_ITS_WAY = "the event cannot be taken now; deliver it again"


def nothing_to_do(gateway: Gateway) -> Json:
    """An authentic event of a type that is none of ours."""
    return gateway.event("customer.created", {"id": "cus_none", "object": "customer", "name": MARKER})


def told_nothing(answer: Answer) -> bool:
    """The caller learns what was wrong, and nothing of what we are made of or were sent."""
    return len(answer.message) < 200 and not re.search(rf'Traceback|File "|\.py|Error\(|{MARKER}', answer.text)


# ------------------------------------------------------------------ authentic or not


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "text/plain"])
@pytest.mark.parametrize("header", ["stripe-signature", "Stripe-Signature", "STRIPE-SIGNATURE"])
def test_a_signed_event_is_taken_as_text(gateway: Gateway, content_type: str, header: str) -> None:
    body = json.dumps(nothing_to_do(gateway), indent=2, ensure_ascii=False).encode()
    assert gateway.post(body, content_type=content_type, header=header).status == 200


@pytest.mark.parametrize("content_type", ["application/octet-stream", "application/vnd.api+json", ""])
def test_a_signed_event_is_taken_as_base64(gateway: Gateway, content_type: str) -> None:
    assert gateway.post(json.dumps(nothing_to_do(gateway)).encode(), content_type=content_type).status == 200


@pytest.mark.parametrize("encoded", [True, False])
@pytest.mark.parametrize("header", ["Stripe-Signature", "stripe-signature", "STRIPE-signature"])
def test_header_names_in_any_case_reach_the_function_as_rest_apis_send_them(
    gateway: Gateway, header: str, encoded: bool
) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    text = base64.b64encode(body).decode() if encoded else body.decode()
    request = {"headers": {header: sign(body)}, "body": text, "isBase64Encoded": encoded}
    result, error = gateway.stack.invoke("WebhookFunction", request)
    assert error is None
    assert result["statusCode"] == 200


def test_the_signature_is_over_the_raw_body_and_not_over_what_it_means(gateway: Gateway) -> None:
    event = nothing_to_do(gateway) | {"note": "ä \u2028 🎉 <&> 1.0 1e5"}
    loose = json.dumps(event, indent=4, ensure_ascii=False).encode() + b"\r\n \n"
    tight = json.dumps(event, separators=(",", ":")).encode()
    assert gateway.post(loose).status == 200
    assert gateway.post(tight).status == 200
    assert gateway.post(tight, sign(loose)).status == 400


def test_each_secret_of_a_rotation_is_accepted(gateway: Gateway) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    for secret in (WEBHOOK_SECRET, RETIRING_SECRET):
        assert gateway.post(body, sign(body, secret)).status == 200
    assert gateway.post(body, sign(body, f"{RETIRING_SECRET} {WEBHOOK_SECRET}")).status == 400
    assert gateway.post(body, sign(body, "")).status == 400


def test_a_secret_changed_in_secrets_manager_is_picked_up(gateway: Gateway) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    gateway.stack.put_secret("StripeWebhookSecret", "whsec_000000000000next")
    try:
        gateway.replace_containers("WebhookFunction")
        assert gateway.post(body, sign(body, "whsec_000000000000next")).status == 200
        assert gateway.post(body).status == 400
    finally:
        gateway.stack.put_secret("StripeWebhookSecret", f"{RETIRING_SECRET} {WEBHOOK_SECRET}")
        gateway.replace_containers("WebhookFunction")
    assert gateway.post(body).status == 200


def test_forged_requests_buy_no_calls_of_secrets_manager(gateway: Gateway) -> None:
    def reads() -> int:
        return [call.action for call in gateway.stack.calls].count("secretsmanager:GetSecretValue")

    body = json.dumps(nothing_to_do(gateway)).encode()
    gateway.replace_containers("WebhookFunction")
    before = reads()
    for _ in range(10):
        assert gateway.post(body, sign(body, "whsec_forged")).status == 400
    assert reads() == before + 1


@pytest.mark.parametrize(("age", "status"), [(0, 200), (290, 200), (302, 400), (86_400, 400)])
def test_a_signature_is_good_for_five_minutes(gateway: Gateway, age: int, status: int) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    assert gateway.post(body, sign(body, age=age)).status == status


def test_a_right_signature_beside_wrong_ones_is_enough(gateway: Gateway) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    now = int(time.time())
    wrong, right = digest(body, "whsec_other", now), digest(body, WEBHOOK_SECRET, now)
    assert gateway.post(body, f"t={now},v1={wrong},v1={right},v0=abc").status == 200
    assert gateway.post(body, f"t={now},v1={wrong},v1={wrong}").status == 400
    assert gateway.post(body, f"t={now},v0={right}").status == 400
    assert gateway.post(body, f"t={now - 1},v1={right}").status == 400


@pytest.mark.parametrize(
    "signature", ["", "nonsense", "t=,v1=", "t=now,v1=abc", "v1=abc", "t=1,v1=é", "t=9" + "9" * 400 + ",v1=abc", ",=,="]
)
def test_a_malformed_signature_is_refused_with_a_reason(gateway: Gateway, signature: str) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    answer = gateway.post(body, signature)
    assert (answer.status, "signing secret" in answer.message) == (400, True)
    assert told_nothing(answer)


def test_a_non_ascii_signature_with_the_right_time_is_refused(gateway: Gateway) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    answer = gateway.post(body, f"t={int(time.time())},v1=ÿþé")
    assert answer.status == 400
    assert told_nothing(answer)


# ------------------------------------------------------------------ no event at all


def test_the_largest_body_is_taken_and_a_larger_one_is_413(gateway: Gateway) -> None:
    body = json.dumps(nothing_to_do(gateway)).encode()
    full = body + b" " * (MAX_BODY - len(body))
    for content_type in ("application/json", "application/octet-stream"):
        assert gateway.post(full, content_type=content_type).status == 200
        answer = gateway.post(full + b" ", content_type=content_type)
        assert (answer.status, answer.message) == (413, f"the body is larger than {MAX_BODY} bytes")
    assert gateway.post(b"x" * (5 * MAX_BODY)).status == 413


def an_event(**changed: Any) -> bytes:
    frame = {
        "id": "evt_broken",
        "type": "customer.subscription.updated",
        "livemode": False,
        "data": {"object": {"id": "sub_broken", "customer": "cus_broken", "note": MARKER}},
    }
    return json.dumps({name: value for name, value in (frame | changed).items() if value != "gone"}).encode()


def an_object(**changed: Any) -> bytes:
    content = {"id": "sub_broken", "customer": "cus_broken", "note": MARKER} | changed
    return an_event(data={"object": {name: value for name, value in content.items() if value != "gone"}})


NO_ENVELOPE: list[tuple[bytes, str]] = [
    (b"", "JSON"),
    (b" \n", "JSON"),
    (MARKER.encode(), "JSON"),
    (b"\x00\xff\xfe" + MARKER.encode(), "signing secret"),  # Stripe's library takes nothing but UTF-8
    (b'{"id": "\xff"}', "signing secret"),
    (an_event()[:-1], "JSON"),
    (an_event()[:40], "JSON"),
    (b"[" * 100_000, "JSON"),
    (b'{"a":' * 100_000, "JSON"),
    (b"<event/>", "JSON"),
    (b"9" * 5_000, "JSON"),
    (b"[" + an_event() + b"]", "object"),
    (b"[]", "object"),
    (b"null", "object"),
    (b"true", "object"),
    (b"1", "object"),
    (b'"' + MARKER.encode() + b'"', "object"),
    (b"{}", "id"),
    (an_event(object="v2.core.event"), "thin"),
    (an_event(id="gone"), "id"),
    (an_event(id=None), "id"),
    (an_event(id=7), "id"),
    (an_event(id=["evt_1"]), "id"),
    (an_event(id=""), "id"),
    (an_event(id="evt_" + "1" * 70), "id"),
    (an_event(id=f"evt_1\n{MARKER}"), "id"),
    (an_event(id="evt_1#ORDER"), "id"),
    (an_event(id="evt_ü"), "id"),
    (an_event(type="gone"), "type"),
    (an_event(type=7), "type"),
    (an_event(type=""), "type"),
    (an_event(type={}), "type"),
    (an_event(livemode="gone"), "livemode"),
    (an_event(livemode="false"), "livemode"),
    (an_event(livemode=0), "livemode"),
    (an_event(data="gone"), "data.object"),
    (an_event(data=[]), "data.object"),
    (an_event(data="x"), "data.object"),
    (an_event(data={}), "data.object"),
    (an_event(data={"object": None}), "data.object"),
    (an_event(data={"object": [MARKER]}), "data.object"),
    (an_object(id="gone"), "data.object.id"),
    (an_object(id=7), "data.object.id"),
    (an_object(id=""), "data.object.id"),
]


@pytest.mark.parametrize(("body", "message"), NO_ENVELOPE, ids=range(len(NO_ENVELOPE)))
def test_what_is_no_event_is_refused_with_a_reason(gateway: Gateway, body: bytes, message: str) -> None:
    rows, runs = len(gateway.rows()), len(gateway.stack.executions())
    for content_type in ("application/json", "application/octet-stream"):
        answer = gateway.post(body, content_type=content_type)
        assert answer.status == 400
        assert message in answer.message
        assert told_nothing(answer)
    assert (len(gateway.rows()), len(gateway.stack.executions())) == (rows, runs)


# ------------------------------------------------------------------ an event whose content cannot be used


def checkout(**changed: Any) -> Json:
    details = {"email": f"{MARKER}@example.com", "name": MARKER}
    return {"id": "cs_broken", "customer": None, "mode": "payment", "customer_details": details} | changed


def of_email(value: object) -> Json:
    return checkout(customer_details={"email": value, "name": MARKER})


def legacy(**changed: Any) -> Json:
    items = [{"type": "sku", "parent": "sku_seat", "quantity": 1}]
    order = {"id": "or_broken", "status": "paid", "email": f"{MARKER}@example.com", "items": items, "updated": 1}
    return {name: value for name, value in (order | changed).items() if value != "gone"}


def of_item(**changed: Any) -> Json:
    return legacy(items=[{"type": "sku", "parent": "sku_seat", "quantity": 1} | changed])


PAID, ORDERED = "checkout.session.completed", "order.payment_succeeded"
SUBSCRIBED, BILLED = "customer.subscription.updated", "invoice.paid"
NO_PAYER, NO_CUSTOMER = "neither a customer nor a usable e-mail", "customer is missing"

UNUSABLE: list[tuple[str, Json, str]] = [
    # e-mail addresses
    (PAID, of_email(None), NO_PAYER),
    (PAID, of_email(""), NO_PAYER),
    (PAID, of_email(7), NO_PAYER),
    (PAID, of_email([f"{MARKER}@example.com"]), NO_PAYER),
    (PAID, of_email({"address": f"{MARKER}@example.com"}), NO_PAYER),
    (PAID, of_email(MARKER), NO_PAYER),
    (PAID, of_email(f"{MARKER}@localhost"), NO_PAYER),
    (PAID, of_email(MARKER + "x" * 20_000 + "@example.com"), NO_PAYER),
    (PAID, of_email(f'{MARKER}"@example.com'), NO_PAYER),
    (PAID, of_email(f'{MARKER}" or email ^= "@example.com'), NO_PAYER),
    (PAID, of_email(f"{MARKER}@example.com\nBcc: everybody@example.com"), NO_PAYER),
    (PAID, of_email(f"{MARKER}@example.com\r\n\r\nhello"), NO_PAYER),
    (PAID, of_email(f"{MARKER}\u2028@example.com"), NO_PAYER),
    (PAID, of_email(f"{MARKER}\u202e@example.com"), NO_PAYER),
    (PAID, of_email(f"{MARKER}\x00@example.com"), NO_PAYER),
    (PAID, of_email(f"{MARKER}\ud800@example.com"), NO_PAYER),
    (PAID, of_email(f"<{MARKER}@example.com>"), NO_PAYER),
    (PAID, of_email(f"{MARKER}@example.com, {MARKER}@example.net"), NO_PAYER),
    (ORDERED, legacy(email="gone"), "e-mail address is missing"),
    (ORDERED, legacy(email=None), "e-mail address is missing"),
    (ORDERED, legacy(email=7), "e-mail address is missing"),
    (ORDERED, legacy(email=MARKER * 2_000 + "@example.com"), "longer than 128"),
    (ORDERED, legacy(email=f'{MARKER}"@example.com'), "malformed"),
    (ORDERED, legacy(email=f"{MARKER}\n@example.com"), "malformed"),
    # customers
    (PAID, checkout(customer=7), NO_CUSTOMER),
    (PAID, checkout(customer=""), NO_CUSTOMER),
    (PAID, checkout(customer=["cus_1"]), NO_CUSTOMER),
    (PAID, checkout(customer={"id": 7}), NO_CUSTOMER),
    (PAID, checkout(customer=f"cus_1 or {MARKER}"), NO_CUSTOMER),
    (PAID, checkout(customer_details=[MARKER]), NO_PAYER),
    (PAID, checkout(customer_details=MARKER), NO_PAYER),
    (PAID, checkout(customer_details=None), NO_PAYER),
    (SUBSCRIBED, {"id": "sub_broken"}, NO_CUSTOMER),
    (SUBSCRIBED, {"id": "sub_broken", "customer": None}, NO_CUSTOMER),
    (SUBSCRIBED, {"id": "sub_broken", "customer": 7}, NO_CUSTOMER),
    (SUBSCRIBED, {"id": "sub_broken", "customer": {}}, NO_CUSTOMER),
    (SUBSCRIBED, {"id": "sub_broken", "customer": "c" * 20_000}, NO_CUSTOMER),
    (BILLED, {"id": "in_broken", "customer": None, "customer_email": f"{MARKER}@example.com"}, NO_CUSTOMER),
    ("subscription_schedule.updated", {"id": "sub_sched_broken", "customer": 7}, NO_CUSTOMER),
    # objects
    (SUBSCRIBED, {"id": f'sub" or {MARKER}', "customer": "cus_1"}, "id is missing or not a Stripe id"),
    (SUBSCRIBED, {"id": f"sub#{MARKER}", "customer": "cus_1"}, "id is missing or not a Stripe id"),
    (BILLED, {"id": "i" * 20_000, "customer": "cus_1"}, "id is missing or not a Stripe id"),
    ("customer.updated", {"id": f"cus\n{MARKER}"}, "id is missing or not a Stripe id"),
    # legacy orders
    (ORDERED, legacy(status="gone"), "status"),
    (ORDERED, legacy(status=None), "status"),
    (ORDERED, legacy(status=7), "status"),
    (ORDERED, legacy(status=["paid"]), "status"),
    (ORDERED, legacy(status="teleported"), "status"),
    (ORDERED, legacy(customer=7), NO_CUSTOMER),
    (ORDERED, legacy(items="gone"), "list of items"),
    (ORDERED, legacy(items=None), "list of items"),
    (ORDERED, legacy(items={"data": []}), "list of items"),
    (ORDERED, legacy(items=MARKER), "list of items"),
    (ORDERED, legacy(items=[MARKER]), "not an object"),
    (ORDERED, legacy(items=[None]), "not an object"),
    (ORDERED, legacy(items=legacy()["items"] * 1_000), "more than 100 items"),
    (ORDERED, of_item(parent=None), "sku"),
    (ORDERED, of_item(parent=7), "sku"),
    (ORDERED, of_item(parent=""), "sku"),
    (ORDERED, of_item(parent="s" * 20_000), "sku"),
    (ORDERED, of_item(quantity=None), "whole quantity"),
    (ORDERED, of_item(quantity=-1), "whole quantity"),
    (ORDERED, of_item(quantity=1.5), "whole quantity"),
    (ORDERED, of_item(quantity=1e300), "whole quantity"),
    (ORDERED, of_item(quantity=10**30), "whole quantity"),
    (ORDERED, of_item(quantity="3"), "whole quantity"),
    (ORDERED, of_item(quantity=True), "whole quantity"),
    (ORDERED, of_item(quantity=[3]), "whole quantity"),
    ("order_return.created", {"id": "orret_broken"}, "names no order"),
    ("order_return.created", {"id": "orret_broken", "order": 7}, "names no order"),
    ("order_return.created", {"id": "orret_broken", "order": f'or_1" {MARKER}'}, "names no order"),
]


@pytest.mark.parametrize(("kind", "content", "reason"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_what_cannot_be_used_is_an_unfulfilled_order_with_its_reason(
    gateway: Gateway, kind: str, content: Json, reason: str
) -> None:
    users = gateway.emails()
    event = gateway.event(kind, content)
    for _ in range(2):  # Stripe may deliver it again
        answer = gateway.send(event)
        assert answer.status == 200
        assert told_nothing(answer)
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"], order["event_type"]) == ("UNFULFILLED", 0, kind)
    assert order["last_error"].startswith("UnusableEvent: ")
    assert reason in order["last_error"]
    assert MARKER not in order["last_error"]
    assert gateway.runs(event["id"]) == []
    assert gateway.emails() == users


CLAIMED: dict[str, list[Any]] = {
    "items": [
        *(
            {"data": [{"price": {"id": "price_by_id"}, "quantity": quantity}]}
            for quantity in (9_999, 0, -5, 2.5, "7", None, [1], 10**30, 1e300)
        ),
        *(None, [], "x", 7, {"data": None}, {"data": [None, 7, {"price": 7}]}),
    ],
    "currency": ["jpy", "eur", "", None, 7, ["usd"], "x" * 20_000],
    "metadata": [
        *(None, [], "x", {"a": 1}, {"k" * 99: "v" * 9_999}),
        *({"name": text} for text in ("Zoë 🎉 \x00\u202e", "漢字", "' OR 1=1 --", "${jndi:x}", "\ud800")),
    ],
    "created": [None, -1, 1.5, "now", 10**30],
    "status": ["canceled", "active", "teleported", 7, None],
}
CLAIMS: list[Json] = [{name: value} for name, values in CLAIMED.items() for value in values]
CLAIMS += [{"amount": -1.5, "object": 7, "livemode": True, "cancel_at": 1, "ended_at": 1, "quantity": -1}]


@pytest.fixture(scope="module")
def subscriber(gateway: Gateway) -> Json:
    """A buyer of three."""
    return gateway.subscriber("claims@example.com", 3)


def test_whatever_an_event_claims_the_user_gets_what_stripe_says_now(gateway: Gateway, subscriber: Json) -> None:
    content = {"id": subscriber["subscription"], "object": "subscription", "customer": subscriber["customer"]}
    events = [gateway.event(SUBSCRIBED, content | claim) for claim in CLAIMS]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(gateway.send, events))
    assert [answer.status for answer in answers] == [200] * len(events)
    gateway.settle()
    orders = {row["event_id"]: row["state"] for row in gateway.orders(subscriber["customer"])}
    assert {orders[event["id"]] for event in events} == {"FULFILLED"}
    assert gateway.access("claims@example.com") == (True, 3, "ACTIVE")


@pytest.mark.parametrize(
    "claim",
    [
        {"items": {"data": [{"price": {"id": "p" * 200}, "quantity": 1}] * 3_000}},
        {"metadata": {"": "x"}},
        {"metadata": {"x": ""}},
    ],
    ids=["hundreds of kilobytes of items", "metadata without a name", "metadata without a value"],
)
def test_what_the_ledger_cannot_hold_as_it_is_is_taken_all_the_same(
    gateway: Gateway, subscriber: Json, claim: Json
) -> None:
    content = {"id": subscriber["subscription"], "object": "subscription", "customer": subscriber["customer"]}
    event = gateway.event(SUBSCRIBED, content | claim)
    try:
        assert gateway.send(event).status == 200
        gateway.settle()
        assert gateway.order(event["id"])["state"] == "FULFILLED"
    finally:
        gateway.drop_order(event["id"])


def test_a_guest_session_that_stripe_does_not_know_grants_nothing(gateway: Gateway) -> None:
    event = gateway.event(PAID, checkout(id="cs_test_forged", customer_details={"email": "forged@example.com"}))
    assert gateway.send(event).status == 200
    gateway.settle()
    order = gateway.order(event["id"])
    assert (order["state"], order["last_error"].partition(":")[0]) == ("UNFULFILLED", "BillingIncomplete")
    assert gateway.user("forged@example.com") is None


# ------------------------------------------------------------------ none of our business


@pytest.mark.parametrize(
    ("kind", "envelope", "metric"),
    [
        ("customer.created", {}, "IgnoredEvent"),
        ("invoice.upcoming", {}, "StripeNotice"),
        ("invoice.finalization_failed", {}, "FinalizationFailed"),
        ("something.new_in_2031", {}, "IgnoredEvent"),
        ("x" * 20_000, {}, "IgnoredEvent"),
        ("customer.subscription.updated", {"livemode": True}, "WrongMode"),
        ("customer.subscription.updated", {"account": "acct_connected"}, "OtherAccount"),
    ],
)
def test_what_is_not_ours_is_answered_and_counted_and_never_applied(
    gateway: Gateway, kind: str, envelope: Json, metric: str, subscriber: Json
) -> None:
    before = gateway.counted(metric)
    content = {"id": subscriber["subscription"], "customer": subscriber["customer"], "email": f"{MARKER}@example.com"}
    event = gateway.event(kind, content, **envelope)
    assert gateway.send(event).status == 200
    until(lambda: gateway.counted(metric) == before + 1)
    assert gateway.rows(f"ORDER#{event['id']}") == []
    assert gateway.runs(event["id"]) == []


# ------------------------------------------------------------------ nothing lost, nothing doubled


def throttled_ledger(gateway: Gateway) -> None:
    gateway.stack.faults.add("dynamodb", "ProvisionedThroughputExceededException", function="WebhookFunction", count=2)


def broken_ledger(gateway: Gateway) -> None:
    gateway.stack.faults.add("dynamodb", "InternalServerError", function="WebhookFunction", count=2)


def lost_answer_of_the_ledger(gateway: Gateway) -> None:
    gateway.stack.faults.add(
        "dynamodb", "InternalServerError", "PutItem", function="WebhookFunction", count=2, applied=True
    )


def throttled_start(gateway: Gateway) -> None:
    gateway.stack.faults.add("states", "ThrottlingException", function="WebhookFunction", count=2)


def broken_start(gateway: Gateway) -> None:
    gateway.stack.faults.add("states", "ServiceUnavailable", function="WebhookFunction", count=2)


def lost_answer_of_the_start(gateway: Gateway) -> None:
    gateway.stack.faults.add("states", "InternalFailure", function="WebhookFunction", count=2, applied=True)


def no_secret(gateway: Gateway) -> None:
    """A container that could not read its secret asks again a minute later at the earliest; others read it."""
    gateway.replace_containers("WebhookFunction")
    gateway.stack.faults.add("secretsmanager", "InternalServiceError", function="WebhookFunction", count=2)


@pytest.mark.parametrize(
    "breakdown",
    [
        throttled_ledger,
        broken_ledger,
        lost_answer_of_the_ledger,
        throttled_start,
        broken_start,
        lost_answer_of_the_start,
        no_secret,
    ],
)
def test_when_aws_fails_stripe_delivers_again_and_one_run_follows(
    gateway: Gateway, breakdown: Callable[[Gateway], None]
) -> None:
    email = f"{breakdown.__name__.replace('_', '-')}@example.com"
    _, event = gateway.undelivered(email)
    breakdown(gateway)
    answer = gateway.send(event)
    assert (answer.status, answer.message) == (503, ON_ITS_WAY)
    if breakdown is no_secret:
        gateway.replace_containers("WebhookFunction")
    assert gateway.send(event).status == 200
    gateway.settle()
    assert [run.name for run in gateway.runs(event["id"])] == [event["id"]]
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert gateway.access(email) == (True, 1, "ACTIVE")
    assert gateway.leases() == []


def test_stripes_own_retries_bring_every_event_through_an_outage(gateway: Gateway) -> None:
    gateway.stack.faults.add("dynamodb", "InternalServerError", function="WebhookFunction", count=6)
    session = gateway.buy("outage@example.com", 2)
    assert gateway.access("outage@example.com") == (True, 2, "ACTIVE")
    orders = gateway.orders(session["customer"])
    assert {(order["state"], order["attempts"]) for order in orders} == {("FULFILLED", 1)}
    assert [mail.to for mail in gateway.stack.outbox].count("outage@example.com") == 1


def test_a_fulfilled_event_delivered_again_starts_nothing(gateway: Gateway) -> None:
    _, event = gateway.undelivered("again@example.com")
    assert gateway.send(event).status == 200
    gateway.settle()
    before = gateway.order(event["id"])
    assert gateway.send(event) == Answer(200, '{"message": "known"}')
    gateway.settle()
    assert len(gateway.runs(event["id"])) == 1
    assert gateway.order(event["id"]) == before


def test_an_event_delivered_again_while_it_runs_doubles_nothing(gateway: Gateway) -> None:
    _, event = gateway.undelivered("meanwhile@example.com")
    gateway.stripe.faults.hang_next(1, 60, "/v1/subscriptions")
    assert gateway.send(event).status == 200
    assert [gateway.send(event).status for _ in range(3)] == [200] * 3
    assert [run.status for run in gateway.runs(event["id"])] == ["RUNNING"]
    gateway.stripe.faults.restore()
    gateway.settle()
    assert [run.status for run in gateway.runs(event["id"])] == ["SUCCEEDED"]
    assert gateway.order(event["id"])["attempts"] == 1


def test_a_failed_event_delivered_again_is_run_again_at_once(gateway: Gateway) -> None:
    _, event = gateway.undelivered("resent@example.com")
    gateway.stripe.faults.fail_next(1, 403)
    assert gateway.send(event).status == 200
    gateway.settle()
    assert gateway.order(event["id"])["state"] == "UNFULFILLED"
    assert gateway.send(event).status == 200
    gateway.settle()
    runs = [(run.name, run.status) for run in gateway.runs(event["id"])]
    assert runs == [(event["id"], "FAILED"), (f"{event['id']}-r2", "SUCCEEDED")]
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"], "last_error" in order) == ("FULFILLED", 2, False)
    assert gateway.access("resent@example.com") == (True, 1, "ACTIVE")


def test_many_identical_deliveries_at_once_are_one_order_and_one_run(gateway: Gateway) -> None:
    customer, event = gateway.undelivered("crowd@example.com", 2)

    def deliver(_: int) -> Answer:
        # Beyond the reserved concurrency API Gateway answers 503, and Stripe delivers again.
        answer: Answer = until(lambda: found if (found := gateway.send(event)).status != 503 else None)
        return answer

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(deliver, range(20)))
    assert Counter(answer.status for answer in answers) == {200: 20}
    gateway.settle()
    assert [run.name for run in gateway.runs(event["id"])] == [event["id"]]
    assert [row["attempts"] for row in gateway.orders(customer)] == [1]
    assert gateway.access("crowd@example.com") == (True, 2, "ACTIVE")
    assert [mail.to for mail in gateway.stack.outbox].count("crowd@example.com") == 1


# ------------------------------------------------------------------ what stays behind


@pytest.mark.parametrize("body", [an_event()[:-1], json.dumps([MARKER]).encode(), an_event(livemode=MARKER)])
def test_no_payload_reaches_the_log(gateway: Gateway, body: bytes) -> None:
    refused = gateway.counted("EnvelopeUnreadable")
    assert gateway.post(body).status == 400
    assert gateway.post(body, sign(body, "whsec_forged")).status == 400
    unusable = gateway.event(ORDERED, legacy(email=f"{MARKER}\n@example.com"))
    assert gateway.send(unusable).status == 200
    until(lambda: gateway.counted("EnvelopeUnreadable") > refused)
    log = gateway.log.read_text(encoding="utf-8")
    assert unusable["id"] in log
    assert MARKER.lower() not in log.lower()
    assert "webhook.py" not in log
