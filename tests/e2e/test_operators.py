"""Operators: who may ask, what they are told, what they can mend, hold and delete."""

import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.e2e.conftest import API_KEY, PASSWORD, Gateway, Json, until

ROUTES = ["/read", "/update", "/delete", "/hold"]
ENDED = (False, 0, "CANCELLED")


def failed(gateway: Gateway, email: str) -> tuple[Json, Json]:
    """A subscriber of two who raises the quantity to five while Stripe refuses our key: session and open order."""
    session = gateway.subscriber(email, 2)
    gateway.stripe.auto_deliver = False
    raised = gateway.stripe.change_quantity(session["subscription"], 5)
    gateway.stripe.auto_deliver = True
    event = gateway.event("customer.subscription.updated", raised)
    gateway.stripe.faults.fail_next(1, 403)
    gateway.send(event)
    gateway.settle()
    order = gateway.order(event["id"])
    assert order["state"] == "UNFULFILLED"
    return session, order


def explained(gateway: Gateway, email: str) -> Json:
    answer = gateway.ask("/read", email, history=True)
    assert answer.status == 200
    explanation: Json = answer.document["explanation"]
    return explanation


def refused(call: Callable[..., Any], *arguments: Any) -> str:
    """The code of the error that it ends with."""
    with pytest.raises(ClientError) as caught:
        call(*arguments)
    return str(caught.value.response["Error"]["Code"])


# ------------------------------------------------------------------ who may ask


def tampered(gateway: Gateway, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    return body.replace(b"signed", b"forged"), gateway.signature(path, body)


def unsigned(gateway: Gateway, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    return body, {"Content-Type": "application/json"}


def signed(**how: Any) -> Callable[[Gateway, str, bytes], tuple[bytes, dict[str, str]]]:
    return lambda gateway, path, body: (body, gateway.signature(path, body, **how))


def for_another_path(gateway: Gateway, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    return body, gateway.signature("/create", body)


def redated(gateway: Gateway, path: str, body: bytes) -> tuple[bytes, dict[str, str]]:
    """Replayed late, with the date of today."""
    headers = gateway.signature(path, body, age=360)
    return body, headers | {"X-Amz-Date": gateway.signature(path, body)["X-Amz-Date"]}


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(unsigned, id="unsigned"),
        pytest.param(signed(secret="wrong"), id="wrong secret"),
        pytest.param(signed(key="AKIASOMEBODYELSE0000"), id="unknown key"),
        pytest.param(signed(service="s3"), id="another service"),
        pytest.param(signed(region="eu-west-1"), id="another region"),
        pytest.param(signed(age=360), id="six minutes old"),
        pytest.param(signed(age=-360), id="six minutes early"),
        pytest.param(redated, id="old, with a new date"),
        pytest.param(tampered, id="another body"),
        pytest.param(for_another_path, id="another path"),
    ],
)
@pytest.mark.parametrize("path", ROUTES)
def test_who_did_not_sign_gets_no_function_to_run(
    gateway: Gateway, path: str, forge: Callable[[Gateway, str, bytes], tuple[bytes, dict[str, str]]]
) -> None:
    fields = {"hold": True, "reason": "signed"} if path == "/hold" else {}
    body = json.dumps({"email": "signed@example.com", **fields}).encode()
    log, calls = gateway.log.stat().st_size, len(gateway.stack.calls)
    answer = gateway.request(path, *forge(gateway, path, body))
    assert (answer.status, answer.document) == (403, {"message": "Forbidden"})
    assert (gateway.log.stat().st_size, len(gateway.stack.calls)) == (log, calls)


def test_who_signed_is_answered(gateway: Gateway) -> None:
    gateway.subscriber("signed@example.com")
    for path, fields in (("/read", {}), ("/update", {}), ("/delete", {"dry_run": True}), ("/hold", {"hold": False})):
        answer = gateway.ask(path, "signed@example.com", **fields)
        assert (path, answer.status) == (path, 200)
        assert answer.document["email"] == "signed@example.com"
    body = b'{"email": "signed@example.com"}'
    assert gateway.request("/read", body, gateway.signature("/read", body, age=240)).status == 200


def test_who_may_ask_is_named_in_the_log(gateway: Gateway) -> None:
    gateway.ask("/read", "nobody@example.com")
    lines = gateway.log.read_text(encoding="utf-8").splitlines()
    assert any("user/local" in line and "AccountUnknown" in line for line in lines)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize(
    ("email", "fields", "status", "error"),
    [
        ("nobody@example.com", {}, 404, "AccountUnknown"),
        ("not an address", {}, 400, "RequestInvalid"),
        ("nobody@example.com", {"emial": "typo"}, 400, "RequestInvalid"),
    ],
)
def test_a_request_that_cannot_be_used_says_why(
    gateway: Gateway, path: str, email: str, fields: Json, status: int, error: str
) -> None:
    needed = {"hold": True, "reason": "abuse"} if path == "/hold" else {}
    answer = gateway.ask(path, email, **needed, **fields)
    assert (answer.status, answer.document["error"]) == (status, error)


# ------------------------------------------------------------------ POST /read


def test_read_tells_what_failed_why_and_where(gateway: Gateway) -> None:
    email = "red@example.com"
    session, order = failed(gateway, email)
    (shown,) = gateway.ask("/read", email).document["orders"]
    assert (shown["id"], shown["customer"], shown["email"]) == (session["subscription"], session["customer"], None)
    assert (shown["event"], shown["state"], shown["attempts"]) == (order["event_id"], "UNFULFILLED", 1)
    assert shown["last_error"].startswith("StripeKeyRejected: Stripe answered 403")
    (run,) = gateway.runs(order["event_id"])
    assert shown["execution"] == run.arn
    assert shown["console"] == (
        f"https://us-east-1.console.aws.amazon.com/states/home?region=us-east-1#/v2/executions/details/{run.arn}"
    )
    # Fulfilled ones only with the history.
    states = {each["state"] for each in gateway.ask("/read", email, history=True).document["orders"]}
    assert states == {"UNFULFILLED", "FULFILLED"}
    summary = explained(gateway, email)["summary"]
    assert "limit 2 (ACTIVE), and should be enabled with limit 5 (ACTIVE)" in summary


def test_read_says_why_a_user_is_disabled(gateway: Gateway) -> None:
    email = "why@example.com"
    session = gateway.subscriber(email, 2)
    assert "The user is enabled, as it should be" in explained(gateway, email)["summary"]
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    lapsed = explained(gateway, email)
    assert lapsed["summary"].startswith("The user is disabled, as it should be: ")
    assert lapsed["rule"] in lapsed["summary"]
    assert lapsed["cognito"]["disabled_by"] == "billing"
    assert lapsed["last_change"]["after"]["enabled"] is False
    assert {"at": None, "what": "the next payment"} in lapsed["next"]

    gateway.stripe.create_subscription(session["customer"], gateway.seat, 2)
    gateway.settle()
    assert gateway.ask("/hold", email, hold=True, reason="shared the key").status == 200
    gateway.settle()
    held = explained(gateway, email)
    assert held["summary"].startswith("The user is disabled by an operator (shared the key)")
    assert held["held"]["reason"] == "shared the key"
    assert held["held"]["requested_by"].endswith("user/local")


def test_read_says_that_a_person_disabled_in_the_console(gateway: Gateway) -> None:
    email = "console@example.com"
    gateway.subscriber(email, 2)
    gateway.disable_by_hand(email)
    assert "disabled by a person, in the console" in explained(gateway, email)["summary"]


def test_read_answers_without_stripe_as_far_as_it_can(gateway: Gateway) -> None:
    email = "blind@example.com"
    gateway.subscriber(email, 2)
    gateway.stripe.faults.outage()
    explanation = explained(gateway, email)
    assert explanation["stripe"]["error"].startswith("StripeUnavailable")
    assert explanation["cognito"]["enabled"] is True


# ------------------------------------------------------------------ POST /update


def test_update_heals_once_the_key_is_repaired(gateway: Gateway) -> None:
    email = "repair@example.com"
    session, order = failed(gateway, email)
    answer = gateway.ask("/update", email)
    (line,) = answer.document["orders"]
    assert (line["id"], line["event"], line["result"]) == (session["subscription"], order["event_id"], "started")
    again = gateway.ask("/update", email).document["orders"]
    assert {each["result"] for each in again} <= {"already running", "nothing to do"}
    gateway.settle()
    assert gateway.access(email) == (True, 5, "ACTIVE")
    (look,) = gateway.ask("/update", email).document["orders"]
    assert (look["result"], look["why"]) == ("started", "nothing was open; billing looks at the person")
    gateway.settle()
    assert [run.name for run in gateway.runs(order["event_id"])] == [order["event_id"], f"{order['event_id']}-r2"]
    assert line["execution"] == gateway.runs(order["event_id"])[-1].arn


def test_many_who_ask_at_once_start_one_run(gateway: Gateway) -> None:
    email = "eager@example.com"
    _, order = failed(gateway, email)
    gateway.stripe.faults.hang_next(1, 60, "/v1/")
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda _: gateway.ask("/update", email), range(6)))
    gateway.stripe.faults.restore()
    assert {answer.status for answer in answers} <= {200, 503}
    lines = [line for answer in answers if answer.status == 200 for line in answer.document["orders"]]
    assert [line["result"] for line in lines if line["event"] == order["event_id"]].count("started") == 1
    gateway.settle()
    assert len(gateway.runs(order["event_id"])) == 2
    assert gateway.access(email) == (True, 5, "ACTIVE")


def test_what_a_price_gives_is_corrected_for_what_was_bought_once(gateway: Gateway) -> None:
    """As the README says of MappingChanged: no search compares these by itself."""
    without, changed = gateway.price({"dapp": "1"}, once=True), gateway.price({"dapps": "1"}, once=True)
    for email, price in (("nothing@example.com", without), ("two@example.com", changed)):
        gateway.buy(email, 2, price, mode="payment")
    assert gateway.user("nothing@example.com") is None
    assert gateway.access("two@example.com") == (True, 2, "ACTIVE")
    gateway.stripe.update_price(without, metadata={"dapps": "1"})
    gateway.stripe.update_price(changed, metadata={"dapps": "5"})
    gateway.settle()
    assert gateway.reconcile(backfill=True).status == "SUCCEEDED"
    assert gateway.access("nothing@example.com") == (True, 2, "ACTIVE")
    assert gateway.ask("/update", "two@example.com").status == 200
    gateway.settle()
    assert gateway.access("two@example.com") == (True, 10, "ACTIVE")


def test_update_looks_at_what_was_bought_while_comped(gateway: Gateway) -> None:
    email = "comped-buys@example.com"
    _lapsed(gateway, email)
    gateway.set_by_hand(email, "custom:payment_provider", "ADMIN")
    gateway.buy(email, 4, gateway.one_time_seat, mode="payment")
    assert gateway.access(email) == (False, 0, "CANCELLED")
    gateway.set_by_hand(email, "custom:payment_provider", "STRIPE")
    assert gateway.ask("/update", email).status == 200
    gateway.settle()
    assert gateway.access(email) == (True, 4, "ACTIVE")


def _lapsed(gateway: Gateway, email: str) -> None:
    """Somebody whose subscription has ended."""
    session = gateway.buy(email, 2)
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    assert gateway.access(email) == (False, 0, "CANCELLED")


# ------------------------------------------------------------------ POST /hold


def test_what_was_bought_under_a_ban_is_there_when_it_ends(gateway: Gateway) -> None:
    email = "bought-banned@example.com"
    _lapsed(gateway, email)
    assert gateway.ask("/hold", email, hold=True, reason="abuse").status == 200
    gateway.settle()
    gateway.buy(email, 4, gateway.one_time_seat, mode="payment")
    assert gateway.access(email) == (False, 0, "CANCELLED")
    assert gateway.ask("/hold", email, hold=False).status == 200
    gateway.settle()
    assert gateway.access(email) == (True, 4, "ACTIVE")


def test_a_ban_holds_at_once_and_billing_does_not_undo_it(gateway: Gateway) -> None:
    email = "banned@example.com"
    session = gateway.buy(email, 2)
    tokens = gateway.sign_in(email)
    answer = gateway.ask("/hold", email, hold=True, reason="abuse")
    assert (answer.status, answer.document["held"], answer.document["enabled"]) == (200, True, False)
    # Before anything else runs.
    assert refused(gateway.refresh, tokens) == "NotAuthorizedException"
    assert refused(gateway.sign_in, email) == "NotAuthorizedException"
    gateway.settle()
    gateway.stripe.renew(session["subscription"])
    gateway.stripe.change_quantity(session["subscription"], 3)
    gateway.settle()
    user = gateway.user(email)
    assert user is not None
    assert (user.enabled, user.disabled_by) == (False, "operator")
    assert gateway.ask("/read", email).document["orders"] == []

    # Lifted: who pays comes back, with what they pay for.
    assert gateway.ask("/hold", email, hold=False).status == 200
    gateway.settle()
    assert gateway.access(email) == (True, 3, "ACTIVE")
    assert gateway.sign_in(email)
    assert explained(gateway, email)["held"] is None


def test_lifting_a_ban_lets_nobody_in_who_does_not_pay(gateway: Gateway) -> None:
    email = "gone@example.com"
    session = gateway.subscriber(email, 2)
    gateway.ask("/hold", email, hold=True, reason="abuse")
    gateway.stripe.cancel(session["subscription"])
    gateway.settle()
    assert gateway.ask("/hold", email, hold=False).status == 200
    gateway.settle()
    assert gateway.access(email) == ENDED
    # … and billing may enable them again.
    gateway.stripe.create_subscription(session["customer"], gateway.seat, 1)
    gateway.settle()
    assert gateway.access(email) == (True, 1, "ACTIVE")


def test_a_ban_says_why(gateway: Gateway) -> None:
    gateway.subscriber("unjust@example.com")
    answer = gateway.ask("/hold", "unjust@example.com", hold=True)
    assert (answer.status, answer.document["error"]) == (400, "RequestInvalid")
    assert gateway.access("unjust@example.com") == (True, 1, "ACTIVE")


# ------------------------------------------------------------------ POST /delete

NAME = "Xenia Orphanides"


def everything(gateway: Gateway) -> str:
    """All rows, logs and histories as text, in small letters."""
    client = gateway.stack.client("stepfunctions")
    seen: list[Any] = gateway.rows()
    for run in gateway.stack.executions():
        seen.append(client.describe_execution(executionArn=run.arn))
        for page in client.get_paginator("get_execution_history").paginate(executionArn=run.arn):
            seen += page["events"]
    text = json.dumps(seen, default=str) + gateway.log.read_text(encoding="utf-8")
    return text.lower()


def alive(gateway: Gateway, *customers: str) -> list[str]:
    """Subscriptions of these customers that are still billed."""
    return [
        each["id"]
        for each in gateway.stripe.all("subscription")
        if each["customer"] in customers and each["status"] != "canceled"
    ]


def a_second_later(since: int) -> None:
    """Only what is bought in a later second counts as bought after a deletion."""
    until(lambda: int(time.time()) > since)


def assert_nothing_is_left(gateway: Gateway, *words: str) -> None:
    text = everything(gateway)
    assert [word for word in words if word.lower() in text] == []


def test_a_dry_run_of_a_deletion_lists_and_changes_nothing(gateway: Gateway) -> None:
    email = "dry@example.com"
    session = gateway.buy(email, 2)
    before, runs = gateway.rows(), len(gateway.stack.executions())
    answer = gateway.ask("/delete", email, dry_run=True)
    found = answer.document
    user = gateway.user(email)
    assert user is not None
    assert (answer.status, found["dry_run"], found["user"]) == (200, True, user.sub)
    assert found["customers"] == [session["customer"]]
    assert found["subscriptions"] == [session["subscription"]]
    assert found["orders"] > 0
    assert gateway.rows() == before
    assert len(gateway.stack.executions()) == runs
    assert alive(gateway, session["customer"]) == [session["subscription"]]


def test_a_deletion_leaves_nothing_and_late_events_bring_nothing_back(gateway: Gateway) -> None:
    email, stripe = "xenia.orphanides@vanishing.example", gateway.stripe
    told = len(stripe.events)
    first = gateway.buy(email, 2, name=NAME, metadata={"note": NAME})
    once = gateway.buy(email, 1, gateway.one_time_seat, mode="payment", name=NAME)
    second = gateway.buy(email, 3, name=NAME)
    assert gateway.access(email) == (True, 6, "ACTIVE")
    before = gateway.user(email)
    assert before is not None
    tokens = gateway.sign_in(email)
    customers = [each["customer"] for each in (first, second)]
    assert len(alive(gateway, *customers)) == 2
    assert "orphanides" in everything(gateway)  # there is something to find

    answer = gateway.ask("/delete", email)
    assert (answer.status, answer.document["state"]) == (200, "DONE")
    assert answer.document["subscriptions_canceled"] == 2
    gateway.settle()
    assert alive(gateway, *customers) == []
    assert gateway.user(email) is None
    assert email not in gateway.emails()
    assert refused(gateway.refresh, tokens) == "NotAuthorizedException"
    assert refused(gateway._password_auth, email, PASSWORD) == "NotAuthorizedException"
    assert_nothing_is_left(gateway, "orphanides", "vanishing", "xenia")
    assert gateway.ask("/delete", email).status == 200
    assert gateway.ask("/read", email).document["deletion"]["state"] == "DONE"

    # Everything once more, as Stripe may for three days: with ids of their own, so that they are new to the ledger.
    mails = len(gateway.mails(email))
    for event in [each for each in stripe.events[told:] if stripe.endpoints_for(each["type"])]:
        assert gateway.send(event).status == 200
        assert gateway.send({**event, "id": f"{event['id']}again"}).status == 200
    gateway.settle()
    stripe.refund(stripe.charge_of(once["id"])["id"])
    gateway.settle()
    gateway.run_due()
    assert gateway.user(email) is None
    assert_nothing_is_left(gateway, "orphanides", "vanishing", "xenia")
    assert gateway.leases() == []
    assert len(gateway.mails(email)) == mails
    states = {row["event_id"]: row.get("last_error") for row in gateway.rows("ORDER#") if row["state"] != "FULFILLED"}
    assert [error for event, error in states.items() if event.endswith("again")] == []

    # Whoever buys again is somebody new.
    a_second_later(gateway.ask("/delete", email).document["deleted_at"])
    gateway.buy(email, 4)
    after = gateway.user(email)
    assert after is not None
    assert (after.enabled, after.limit) == (True, 4)
    assert after.sub != before.sub
    assert len(gateway.mails(email)) == mails + 1


def test_who_comes_back_with_the_same_customer_is_somebody_new(gateway: Gateway) -> None:
    email = "same@example.com"
    session = gateway.buy(email, 2)
    before = gateway.user(email)
    deleted = gateway.ask("/delete", email)
    assert deleted.status == 200
    gateway.settle()
    a_second_later(deleted.document["deleted_at"])
    gateway.stripe.create_subscription(session["customer"], gateway.seat, 1)
    gateway.settle()
    after = gateway.user(email)
    assert before is not None
    assert after is not None
    assert (after.enabled, after.limit) == (True, 1)
    assert after.sub != before.sub


def test_a_purchase_that_only_turns_up_after_the_deletion_is_canceled(gateway: Gateway) -> None:
    email = "late@example.com"
    known = gateway.buy(email, 2)
    # Stripe's filter by address tells letters from capitals, so the deletion cannot have heard of this one.
    customer, event = gateway.undelivered(email.upper(), 3)
    assert gateway.ask("/delete", email).status == 200
    assert alive(gateway, known["customer"]) == []
    assert len(alive(gateway, customer)) == 1
    gateway.send(event)
    gateway.settle()
    assert alive(gateway, customer) == []
    assert gateway.user(email) is None
    assert gateway.order(event["id"])["state"] == "FULFILLED"
    assert_nothing_is_left(gateway, email)


def test_while_stripe_is_down_a_deletion_fails_and_the_same_request_completes_it(gateway: Gateway) -> None:
    email = "halfway@example.com"
    session = gateway.buy(email, 2)
    gateway.stripe.faults.outage()
    answer = until(lambda: (found := gateway.ask("/delete", email)).status != 202 and found, 120)
    assert (answer.status, answer.document["state"], answer.document["error"]) == (502, "FAILED", "NotDeleted")
    assert "StripeUnavailable" in answer.message
    read = gateway.ask("/read", email).document["deletion"]
    assert (read["state"], read["last_error"].partition(":")[0]) == ("FAILED", "StripeUnavailable")

    gateway.stripe.faults.restore()
    answer = gateway.ask("/delete", email)
    assert (answer.status, answer.document["state"]) == (200, "DONE")
    assert answer.document["execution"].endswith("-r2")
    assert alive(gateway, session["customer"]) == []
    assert gateway.user(email) is None
    gateway.settle()
    assert_nothing_is_left(gateway, email)


def test_a_short_failure_costs_a_retry(gateway: Gateway) -> None:
    email = "bumpy@example.com"
    gateway.buy(email, 2)
    for action in ("AdminGetUser", "AdminUserGlobalSignOut", "AdminDeleteUser"):
        gateway.stack.faults.add("cognito-idp", "TooManyRequestsException", action, count=2)
    for step in ("WriteTombstone", "FindRemains", "CancelSubscriptions", "ErasePersonalData", "MarkDeleted"):
        gateway.stack.faults.add(
            "dynamodb", "ProvisionedThroughputExceededException", function=f"{step}Function", count=1
        )
    gateway.stripe.faults.fail_next(2, 503, "/v1/subscriptions/")
    answer = until(lambda: (found := gateway.ask("/delete", email)).status == 200 and found, 60)
    assert answer.document["execution"].endswith("-r1")
    assert gateway.user(email) is None


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize(
    ("service", "action", "function"),
    [
        ("cognito-idp", "AdminDeleteUser", "DeleteUserFunction"),
        ("dynamodb", "UpdateItem", "WriteTombstoneFunction"),
        ("dynamodb", "UpdateItem", "ErasePersonalDataFunction"),
    ],
)
def test_a_step_of_a_deletion_that_is_killed_is_done_again(
    gateway: Gateway, service: str, action: str, function: str, applied: bool
) -> None:
    email = f"killed-{function.lower()}-{applied}@example.com"
    session = gateway.buy(email, 2)
    fault = gateway.stack.faults.add(service, "killed", action, function, count=1, applied=applied, kill=True)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.ask, "/delete", email)
        until(lambda: fault.hits)
        while not asked.done():
            gateway.expire_leases()
            time.sleep(0.2)
    if asked.result().status != 200:
        gateway.settle()
        gateway.expire_leases()
        assert gateway.ask("/delete", email).status == 200
    gateway.settle()
    assert fault.hits == 1
    assert gateway.user(email) is None
    assert alive(gateway, session["customer"]) == []
    assert_nothing_is_left(gateway, email)


def test_a_deletion_that_was_killed_is_taken_up_by_the_next_request(gateway: Gateway) -> None:
    email = "stopped-deletion@example.com"
    session = gateway.buy(email, 2)
    gateway.stripe.faults.outage()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(gateway.ask, "/delete", email)
        run = until(
            lambda: next(
                (each for each in gateway.stack.executions() if each.status == "RUNNING" and each.states), None
            )
        )
        gateway.stack.client("stepfunctions").stop_execution(executionArn=run.arn)
        gateway.stripe.faults.restore()
        # Nor is there anybody left who waits for it.
        gateway.stack._functions.kill(gateway.stack.template.physical["DeleteAccountFunction"].ref)
        assert asked.result().status == 500
    gateway.settle()
    (row,) = [row for row in gateway.rows("TOMBSTONE#") if row["state"] == "RUNNING"]
    gateway._set(row["pk"], "TOMBSTONE", {"attempt_at": int(time.time()) - 15 * 60})
    gateway.expire_leases()
    answer = gateway.ask("/delete", email)
    assert (answer.status, answer.document["execution"].rpartition("-")[2]) == (200, "r2")
    assert gateway.user(email) is None
    assert alive(gateway, session["customer"]) == []


def test_a_deletion_that_fails_leaves_nobody_in_and_keeps_other_hands_off(gateway: Gateway) -> None:
    email = "stuck-inside@example.com"
    session = gateway.buy(email, 2)
    tokens = gateway.sign_in(email)
    gateway.stack.faults.add("cognito-idp", "InvalidParameterException", "AdminDeleteUser", count=1)
    answer = gateway.ask("/delete", email)
    assert (answer.status, answer.document["state"]) == (502, "FAILED")
    assert "CognitoRejected" in answer.message
    gateway.settle()
    gateway.send(gateway.event("invoice.paid", gateway.stripe.all("invoice")[-1]))
    gateway.settle()
    user = gateway.user(email)
    assert user is not None
    assert not user.enabled
    assert refused(gateway.refresh, tokens) == "NotAuthorizedException"
    assert alive(gateway, session["customer"]) == []
    # A ban is always possible; its end is not.
    assert gateway.ask("/hold", email, hold=True, reason="abuse").status == 200
    lifted = gateway.ask("/hold", email, hold=False)
    assert (lifted.status, lifted.document["error"]) == (409, "DeletionUnderWay")
    gateway.settle()
    assert gateway.ask("/delete", email).status == 200
    assert gateway.user(email) is None


def test_who_buys_again_before_a_failed_deletion_is_done_gets_a_new_user_after_it(gateway: Gateway) -> None:
    email = "impatient@example.com"
    session = gateway.buy(email, 2)
    before = gateway.user(email)
    assert before is not None
    gateway.stack.faults.add("cognito-idp", "InvalidParameterException", "AdminDeleteUser", count=1)
    answer = gateway.ask("/delete", email)
    assert answer.status == 502
    a_second_later(answer.document["deleted_at"])
    gateway.stripe.create_subscription(session["customer"], gateway.seat, 1)
    gateway.settle()
    again = gateway.ask("/delete", email)
    assert again.status == 200
    gateway.settle()
    for row in gateway.open_orders(session["customer"]):
        gateway.set_order(row["event_id"], due_at=int(time.time()))
    gateway.run_due()
    user = gateway.user(email)
    assert user is not None
    assert user.sub != before.sub
    assert (user.enabled, user.limit) == (True, 1)
    assert gateway.open_orders(session["customer"]) == []


def test_an_address_that_is_not_the_users_own_needs_their_sub(gateway: Gateway) -> None:
    """Whoever was joined to a user can name any address at Stripe, and ask for its deletion."""
    own, other = "own@example.com", "typed-in@example.com"
    session = gateway.buy(own, 2)
    user = gateway.user(own)
    assert user is not None
    gateway.stripe.update_customer(session["customer"], email=other)
    gateway.settle()
    for fields in ({}, {"dry_run": True}):
        answer = gateway.ask("/delete", other, **fields)
        assert (answer.status, answer.document["error"]) == (409, "AccountAmbiguous")
        assert user.sub in answer.message
    gateway.settle()
    assert gateway.user(own) == user
    assert alive(gateway, session["customer"]) == [session["subscription"]]
    assert gateway.ask("/delete", other, sub=user.sub).status == 200
    assert gateway.user(own) is None
    assert_nothing_is_left(gateway, own, other)


def test_a_deletion_asked_for_twice_at_once_is_one(gateway: Gateway) -> None:
    email = "twice@example.com"
    gateway.buy(email, 2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: gateway.ask("/delete", email), range(4)))
    done = [answer for answer in answers if answer.status == 200]
    assert done
    assert {answer.document["execution"] for answer in done} == {done[0].document["execution"]}
    assert {answer.status for answer in answers} <= {200, 503}


def test_the_key_of_another_account_deletes_nothing(gateway: Gateway) -> None:
    email = "wrong-key@example.com"
    session = gateway.buy(email, 2)
    gateway.stripe.faults.accept_keys({"sk_test_second"})
    for function in ("DeleteAccountFunction", "WriteTombstoneFunction"):
        gateway.replace_containers(function)
    answer = gateway.ask("/delete", email)
    assert answer.status == 502
    assert "StripeKeyRejected" in answer.message
    assert gateway.user(email) is not None
    gateway.stripe.faults.accept_keys({API_KEY})
    assert gateway.ask("/delete", email).status == 200
    assert alive(gateway, session["customer"]) == []
