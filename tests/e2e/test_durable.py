"""Whatever fails, nothing is lost and nobody is harmed: what fails stays open, says why, and heals by itself."""

import json
import time
from collections.abc import Callable

import pytest

from tests.e2e.conftest import API_KEY, RUN_DUE, Gateway, Json, until
from tests.local.stack import STRIPE_KEY

SUBSCRIPTIONS = "/v1/subscriptions"
DAY = 86_400
PAYING = {"enabled": True, "dapp_limit": 2, "payment_status": "ACTIVE"}
RAISED = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}


def run_again(gateway: Gateway, event: Json) -> None:
    """Wait for the moment of the order's next run, and have RunDue start it."""
    due_at = gateway.order(event["id"])["due_at"]
    until(lambda: time.time() >= due_at)
    gateway.run_due()


def fail(gateway: Gateway, event: Json) -> Json:
    """Deliver an event whose run fails; the order."""
    assert gateway.send(event).status == 200
    gateway.settle()
    order = gateway.order(event["id"])
    assert order["state"] == "UNFULFILLED"
    return order


def changed(gateway: Gateway, email: str, quantity: int = 5) -> tuple[Json, Json]:
    """A subscriber of two who raises the quantity: their session, and the event, not delivered yet."""
    session = gateway.subscriber(email, 2)
    gateway.stripe.auto_deliver = False
    subscription = gateway.stripe.change_quantity(session["subscription"], quantity)
    gateway.stripe.auto_deliver = True
    return session, gateway.event("customer.subscription.updated", subscription)


# ------------------------------------------------------------------ Stripe


def test_while_stripe_is_down_a_run_retries_then_says_why_and_heals(gateway: Gateway) -> None:
    customer, event = gateway.undelivered("down@example.com", 2)
    gateway.stripe.faults.outage()
    asked = len(gateway.stripe.requests)
    order = fail(gateway, event)
    assert order["last_error"].startswith("StripeUnavailable: Stripe answered 500")
    assert len(gateway.stripe.requests) - asked >= 7  # the first try and six retries
    (run,) = gateway.runs(event["id"])
    assert (run.status, run.error, run.states) == (
        "FAILED",
        "StripeUnavailable",
        ["ReadBilling", "MarkUnfulfilled", "NotFulfilled"],
    )
    assert order["execution"] == run.arn
    assert gateway.user("down@example.com") is None

    gateway.stripe.faults.restore()
    run_again(gateway, event)
    assert [row["state"] for row in gateway.orders(customer)] == ["FULFILLED"]
    assert gateway.access("down@example.com") == (True, 2, "ACTIVE")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_short_failure_of_stripe_costs_a_retry_and_no_run(gateway: Gateway, status: int) -> None:
    _, event = gateway.undelivered(f"short-{status}@example.com", 2)
    gateway.stripe.faults.fail_next(3, status)
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"]) == ("FULFILLED", 1)


def test_a_wrong_api_key_disables_nobody_and_the_right_one_heals(gateway: Gateway) -> None:
    session = gateway.subscriber("key@example.com", 2)
    gateway.stripe.auto_deliver = False
    ended = gateway.stripe.cancel(session["subscription"])
    gateway.stripe.auto_deliver = True
    event = gateway.event("customer.subscription.deleted", ended)
    gateway.stripe.faults.accept_keys({"rk_test_second"})
    try:
        order = fail(gateway, event)
        assert order["last_error"].startswith("StripeKeyRejected: Stripe answered 401")
        assert API_KEY not in order["last_error"]
        assert gateway.access("key@example.com") == (True, 2, "ACTIVE")

        gateway.stack.put_secret(STRIPE_KEY, "rk_test_second")
        gateway.replace_containers("ReadBillingFunction")
        run_again(gateway, event)
        assert gateway.order(event["id"])["state"] == "FULFILLED"
        assert gateway.access("key@example.com") == (False, 0, "CANCELLED")
    finally:
        gateway.stack.put_secret(STRIPE_KEY, API_KEY)
        gateway.replace_containers("ReadBillingFunction")


def no_customer(gateway: Gateway, session: Json) -> Callable[[], None]:
    """As with the key of another account. Returns what brings it back."""
    kept = gateway.stripe.objects["customer"].pop(session["customer"])
    return lambda: gateway.stripe.objects["customer"].update({session["customer"]: kept})


def no_subscription(gateway: Gateway, session: Json) -> Callable[[], None]:
    """A list that is empty though there was a subscription."""
    kept = gateway.stripe.objects["subscription"].pop(session["subscription"])
    return lambda: gateway.stripe.objects["subscription"].update({session["subscription"]: kept})


def other_mode(gateway: Gateway, session: Json) -> Callable[[], None]:
    """A key of live mode."""
    customer = gateway.stripe.objects["customer"][session["customer"]]
    customer["livemode"] = True
    return lambda: customer.update({"livemode": False})


@pytest.mark.parametrize("loss", [no_customer, no_subscription, other_mode])
def test_a_customer_missing_at_stripe_is_not_one_who_does_not_pay(
    gateway: Gateway, loss: Callable[[Gateway, Json], Callable[[], None]]
) -> None:
    email = f"{loss.__name__.replace('_', '-')}@example.com"
    session, event = changed(gateway, email)
    bring_back = loss(gateway, session)
    order = fail(gateway, event)
    assert order["last_error"].startswith("BillingIncomplete: ")
    assert gateway.access(email) == (True, 2, "ACTIVE")
    bring_back()
    run_again(gateway, event)
    assert gateway.access(email) == (True, 5, "ACTIVE")
    assert gateway.open_orders(session["customer"]) == []


# ------------------------------------------------------------------ AWS


def test_while_cognito_throttles_a_run_waits_and_ends_well(gateway: Gateway) -> None:
    actions = ("GetUser", "CreateUser", "UpdateUserAttributes", "UserGlobalSignOut", "DisableUser", "EnableUser")
    for action in actions:
        gateway.stack.faults.add("cognito-idp", "TooManyRequestsException", f"Admin{action}", count=2)
    customer, event = gateway.undelivered("throttled@example.com", 2)
    gateway.send(event)
    gateway.settle()
    assert gateway.access("throttled@example.com") == (True, 2, "ACTIVE")
    (subscription,) = [each for each in gateway.stripe.all("subscription") if each["customer"] == customer]
    gateway.stripe.cancel(subscription["id"])
    gateway.settle()
    assert gateway.access("throttled@example.com") == (False, 0, "CANCELLED")
    gateway.stripe.create_subscription(customer, gateway.seat, 3)
    gateway.settle()
    assert gateway.access("throttled@example.com") == (True, 3, "ACTIVE")
    assert {order["attempts"] for order in gateway.orders(customer)} == {1}
    assert [mail.to for mail in gateway.stack.outbox].count("throttled@example.com") == 1


def test_while_dynamodb_throttles_a_run_waits_and_ends_well(gateway: Gateway) -> None:
    for step in ("ReadBilling", "LookupUser", "CreateUser", "MarkFulfilled"):
        gateway.stack.faults.add(
            "dynamodb", "ProvisionedThroughputExceededException", function=f"{step}Function", count=2
        )
    _, event = gateway.undelivered("slow-ledger@example.com", 2)
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"]) == ("FULFILLED", 1)
    assert gateway.access("slow-ledger@example.com") == (True, 2, "ACTIVE")
    assert gateway.leases() == []


@pytest.mark.parametrize(
    ("service", "code", "action", "count", "applied"),
    [
        ("dynamodb", "ThrottlingException", "TransactWriteItems", 2, False),  # made, but not linked
        ("cognito-idp", "InternalErrorException", "AdminCreateUser", 1, True),  # made, but nobody was told
    ],
)
def test_a_user_made_by_a_step_that_failed_is_found_and_linked(
    gateway: Gateway, service: str, code: str, action: str, count: int, applied: bool
) -> None:
    email = f"half-{service}@example.com"
    customer, event = gateway.undelivered(email, 2)
    gateway.stack.faults.add(service, code, action, "CreateUserFunction", count, applied=applied)
    gateway.send(event)
    gateway.settle()
    assert gateway.access(email) == (True, 2, "ACTIVE")
    assert gateway.person(email)["parties"] == {customer}
    assert "LinkUser" in gateway.runs(event["id"])[0].states
    assert [mail.to for mail in gateway.stack.outbox].count(email) == 1
    assert gateway.emails().count(email) == 1


def test_a_run_that_cannot_even_say_why_it_failed_is_run_again(gateway: Gateway) -> None:
    _, event = gateway.undelivered("mute@example.com", 2)
    gateway.stripe.faults.fail_next(1, 403)
    fault = gateway.stack.faults.add("dynamodb", "AccessDeniedException", function="MarkUnfulfilledFunction")
    gateway.send(event)
    gateway.settle()
    (run,) = gateway.runs(event["id"])
    assert (run.status, run.error, fault.hits) == ("FAILED", "StripeKeyRejected", 1)
    order = gateway.order(event["id"])
    assert order["state"] == "RECEIVED"
    assert order["due_at"] - order["attempt_at"] == 15 * 60
    gateway.set_order(event["id"], due_at=int(time.time()))
    gateway.run_due()
    assert gateway.access("mute@example.com") == (True, 2, "ACTIVE")


def test_a_run_stopped_by_hand_is_run_again(gateway: Gateway) -> None:
    _, event = gateway.undelivered("stopped@example.com", 2)
    gateway.stripe.faults.hang_next(1, 60, SUBSCRIPTIONS)
    gateway.send(event)
    (run,) = gateway.runs(event["id"])
    gateway.stack.client("stepfunctions").stop_execution(executionArn=run.arn)
    gateway.stripe.faults.restore()
    gateway.settle()
    gateway.run_due()
    assert [run.status for run in gateway.runs(event["id"])] == ["ABORTED"]
    gateway.set_order(event["id"], due_at=int(time.time()))
    gateway.run_due()
    assert [run.status for run in gateway.runs(event["id"])] == ["ABORTED", "SUCCEEDED"]
    assert gateway.access("stopped@example.com") == (True, 2, "ACTIVE")


def test_when_lambda_throttles_the_machine_waits(gateway: Gateway) -> None:
    _, event = gateway.undelivered("crowded@example.com", 2)
    gateway.stack.faults.add("lambda", "TooManyRequestsException", count=3)
    gateway.send(event)
    gateway.settle()
    assert gateway.order(event["id"])["state"] == "FULFILLED"


def test_when_run_due_cannot_start_the_next_call_goes_on(gateway: Gateway) -> None:
    _, event = gateway.undelivered("schedule@example.com", 2)
    gateway.stripe.faults.fail_next(1, 403)
    due_at = fail(gateway, event)["due_at"]
    until(lambda: time.time() >= due_at)
    gateway.stack.faults.add("states", "ThrottlingException", function="RunDueFunction", count=2)
    _, error = gateway.stack.run_schedules(RUN_DUE)[RUN_DUE]
    assert error is not None
    assert error["errorType"] == "StartThrottled"
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"]) == ("RECEIVED", 2)
    gateway.set_order(event["id"], due_at=int(time.time()))
    gateway.run_due()
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert [run.name for run in gateway.runs(event["id"])] == [event["id"], f"{event['id']}-r3"]


# ------------------------------------------------------------------ again and again, but not for ever


def test_every_failure_doubles_the_wait(gateway: Gateway) -> None:
    _, event = gateway.undelivered("patience@example.com", 2)
    gateway.stripe.faults.fail_next(3, 403)
    order = fail(gateway, event)
    for attempt, wait in ((1, 1), (2, 2)):
        assert order["attempts"] == attempt
        assert_waits(gateway, order, wait)
        run_again(gateway, event)
        order = gateway.order(event["id"])
    gateway.set_order(event["id"], attempts=8, due_at=int(time.time()))
    gateway.stripe.faults.fail_next(1, 403)
    gateway.run_due()
    order = gateway.order(event["id"])
    assert (order["attempts"], order["execution"].rpartition(":")[2]) == (9, f"{event['id']}-r9")
    assert_waits(gateway, order, 256)


def assert_waits(gateway: Gateway, order: Json, seconds: int) -> None:
    """An order is due so long after its attempt failed, which was between its start and the end of its execution."""
    described = gateway.stack.client("stepfunctions").describe_execution(executionArn=order["execution"])
    assert order["attempt_at"] <= order["due_at"] - seconds <= int(described["stopDate"].timestamp())


def test_after_fourteen_attempts_an_order_alarms_and_is_run_once_a_day(gateway: Gateway) -> None:
    _, event = gateway.undelivered("stuck@example.com", 2)
    gateway.stripe.faults.fail_next(2, 403)
    fail(gateway, event)
    gateway.set_order(event["id"], attempts=13, due_at=int(time.time()))
    stuck = gateway.counted("OrderStuck")
    gateway.run_due()
    order = gateway.order(event["id"])
    assert (order["state"], order["attempts"]) == ("UNFULFILLED", 14)
    assert order["last_error"].startswith("StripeKeyRejected")
    assert_waits(gateway, order, DAY)
    until(lambda: gateway.counted("OrderStuck") == stuck + 1)
    for _ in range(2):
        gateway.run_due()
    assert [run.name for run in gateway.runs(event["id"])] == [event["id"], f"{event['id']}-r14"]
    # "Resend" in Stripe's dashboard.
    gateway.send(event)
    gateway.settle()
    assert gateway.runs(event["id"])[-1].name == f"{event['id']}-r15"
    assert gateway.order(event["id"])["state"] == "FULFILLED"


def test_an_order_whose_last_run_died_silently_alarms_as_well(gateway: Gateway) -> None:
    _, event = gateway.undelivered("silence@example.com", 2)
    gateway.stripe.faults.fail_next(1, 403)
    fail(gateway, event)
    gateway.set_order(event["id"], state="RECEIVED", attempts=14, due_at=int(time.time()))
    stuck = gateway.counted("OrderStuck")
    gateway.run_due()
    until(lambda: gateway.counted("OrderStuck") == stuck + 1)
    assert gateway.order(event["id"])["state"] == "FULFILLED"


def test_one_run_heals_every_open_order_of_the_person(gateway: Gateway) -> None:
    session, event = changed(gateway, "many@example.com")
    events = [event, *(gateway.event(event["type"], event["data"]["object"]) for _ in range(4))]
    gateway.stripe.faults.fail_next(len(events), 403)
    for each in events:
        order = fail(gateway, each)
        # As if it had been received a minute ago: a run closes what was recorded before it read Stripe.
        gateway.set_order(each["id"], rank=f"OPEN#{order['received_at'] - 60}#{each['id']}")
    assert len(gateway.open_orders(session["customer"])) == len(events)
    gateway.send(event)
    gateway.settle()
    assert gateway.open_orders(session["customer"]) == []
    assert {gateway.order(each["id"])["execution"].rpartition(":")[2] for each in events} == {f"{event['id']}-r2"}
    assert [len(gateway.runs(each["id"])) for each in events] == [2, 1, 1, 1, 1]
    gateway.run_due()
    assert [len(gateway.runs(each["id"])) for each in events] == [2, 1, 1, 1, 1]


# ------------------------------------------------------------------ what the ledger tells an operator


def test_the_ledger_tells_what_was_ordered_what_changed_and_why(gateway: Gateway) -> None:
    session, event = changed(gateway, "ledger@example.com")
    customer, subscription = session["customer"], session["subscription"]
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    run = gateway.runs(event["id"])[0]
    wanted = {
        "event_type": "customer.subscription.updated",
        "livemode": False,
        "order_id": subscription,
        "customer_id": customer,
        "items": [{"price": gateway.seat, "quantity": 5}],
        "status": "fulfilled",
        "state": "FULFILLED",
        "attempts": 1,
        "execution": run.arn,
        "outcome": "enabled",
        "reason": f"{subscription} active",
        "before": PAYING,
        "after": RAISED,
    }
    assert {name: order.get(name) for name in wanted} == wanted
    assert "due_at" not in order
    assert "last_error" not in order

    person = gateway.person("ledger@example.com")
    assert (person["parties"], person["granted"]) == ({customer}, {subscription: 5})
    change = person["last_change"]
    assert (change["before"], change["after"]) == (PAYING, RAISED)
    assert (change["reason"], change["execution"]) == (order["reason"], run.arn)
    assert abs(change["at"] - time.time()) < 60
    (party,) = [row for row in gateway.rows(f"PARTY#{customer}") if row["sk"] == "PARTY"]
    assert (party["sub"], party["email"], party["subscribed"]) == (person["sub"], "ledger@example.com", True)
    assert gateway.leases() == []


def test_the_order_that_made_the_user_says_so(gateway: Gateway) -> None:
    customer, event = gateway.undelivered("maker@example.com", 2)
    gateway.send(event)
    gateway.settle()
    (order,) = gateway.orders(customer)
    assert (order["before"], order["after"], order["outcome"]) == (None, PAYING, "enabled")


def test_orders_and_people_of_an_address_are_found_without_a_scan(gateway: Gateway) -> None:
    session = gateway.buy("Found@Example.com", 2)
    answer = gateway.stack.client("dynamodb").query(
        TableName=gateway.stack.orders_table,
        IndexName="ByEmail",
        KeyConditionExpression="email = :email",
        ExpressionAttributeValues={":email": {"S": "found@example.com"}},
    )
    keys = {item["pk"]["S"] for item in answer["Items"]}
    orders = gateway.orders(session["customer"])
    with_address = {f"ORDER#{each['event_id']}" for each in orders if "email" in each}
    assert len(with_address) >= 2  # the session's and the invoice's
    assert keys == with_address | {f"PARTY#{session['customer']}"}


def test_a_red_execution_is_understood_from_its_error_alone(gateway: Gateway) -> None:
    _, event = gateway.undelivered("red@example.com", 2)
    gateway.stripe.faults.fail_next(1, 403)
    fail(gateway, event)
    (run,) = gateway.runs(event["id"])
    assert (run.error, run.states[-1]) == ("StripeKeyRejected", "NotFulfilled")
    assert run.cause is not None
    assert "check the key in Secrets Manager" in json.loads(run.cause)["errorMessage"]
