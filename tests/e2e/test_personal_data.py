"""No personal data, no secret and no payload in the logs, in the executions, or in what a caller is told."""

import json
from typing import Any, NamedTuple

import pytest

from tests.e2e.conftest import API_KEY, PASSWORD, RETIRING_SECRET, WEBHOOK_SECRET, Gateway, Json, sign
from tests.local.stripe_api import StripeApi

EMAIL = "zaphod.beeblebrox@heartofgold.example"
GUEST = "ford.prefect@betelgeuse.example"
NAME = "Tricia Xochiquetzal"
PAYLOAD = "Quetzalcoatl"

PERSONAL = ["zaphod", "beeblebrox", "heartofgold", "ford.prefect", "betelgeuse", "tricia", "xochiquetzal", PAYLOAD]
SECRETS = [API_KEY, WEBHOOK_SECRET, RETIRING_SECRET, PASSWORD, "whsec_", "rk_test_"]


class Traces(NamedTuple):
    """All that a run leaves behind where anybody who may see the console sees it; and what the ledger keeps of people
    who are deleted.
    """

    log: str
    executions: str
    answers: str
    ledger: str
    temporary_passwords: list[str]


def live(gateway: Gateway) -> list[str]:
    """A life with everything that can go wrong in it; what callers were told."""
    stripe, answers = gateway.stripe, []

    def send(event: Any) -> None:
        answers.append(gateway.send(event).text)
        gateway.settle()

    session = gateway.buy(EMAIL, 2, name=NAME, metadata={"note": PAYLOAD}, subscription_metadata={"note": PAYLOAD})
    subscription, customer = session["subscription"], session["customer"]
    gateway.sign_in(EMAIL)
    stripe.change_quantity(subscription, 5)
    stripe.update_customer(customer, name=f"{NAME} {PAYLOAD}", description=PAYLOAD)
    gateway.settle()

    # Errors whose texts repeat what was asked.
    def paid() -> Json:
        return gateway.event("invoice.paid", stripe.all("invoice")[-1])

    stripe.faults.accept_keys({"another"})
    send(paid())
    stripe.faults.accept_keys({API_KEY})
    for status in (400, 403, 404):
        stripe.faults.fail_next(1, status)
        send(paid())
    for service, code, function in (
        ("dynamodb", "ValidationException", "ReadBillingFunction"),
        ("cognito-idp", "InvalidParameterException", "LookupUserFunction"),
        ("secretsmanager", "ResourceNotFoundException", "ReadBillingFunction"),
        ("dynamodb", "ValidationException", "WebhookFunction"),
        ("states", "InvalidExecutionInput", "WebhookFunction"),
    ):
        gateway.replace_containers("ReadBillingFunction")
        text = f"{EMAIL} {NAME} {API_KEY} {PAYLOAD}"
        gateway.stack.faults.add(service, code, function=function, count=1, message=text)
        send(paid())
        gateway.stack.faults.clear()
    # A shape that nobody expects, from Stripe and in the ledger.
    with pytest.MonkeyPatch.context() as patch:
        strange = {"id": EMAIL, "customer": {"email": EMAIL, "name": NAME}, "items": NAME}
        patch.setattr(StripeApi, "_page", lambda *_: {"object": "list", "data": [strange]})
        send(paid())
    gateway.set_person(EMAIL, before_adoption={"dapp_limit": EMAIL, "payment_status": NAME})
    send(paid())
    gateway.set_person(EMAIL, before_adoption={})
    # What the webhook refuses or cannot use.
    for content in (
        {"id": "cs_bad", "mode": "payment", "customer_details": {"email": f'{EMAIL}"', "name": NAME}},
        {"id": f"cs_bad {EMAIL}", "customer": None},
    ):
        send(gateway.event("checkout.session.completed", content))
    body = json.dumps({"email": EMAIL, "name": NAME, "note": PAYLOAD}).encode()
    answers.append(gateway.post(body).text)
    answers.append(gateway.post(body, sign(body, "whsec_forged")).text)
    answers.append(gateway.post(body[:-2]).text)
    # A guest, the end, and a return.
    gateway.buy(GUEST, 1, gateway.one_time_seat, mode="payment", name=NAME, metadata={"note": PAYLOAD})
    stripe.cancel(subscription, comment=PAYLOAD)
    gateway.settle()
    gateway.buy(EMAIL.upper(), 1, name=NAME)
    search(gateway)
    operate(gateway)
    return answers


def search(gateway: Gateway) -> None:
    """A reconciliation that finds something of everybody, and what goes wrong with one."""
    before = len(gateway.stripe.events)
    with gateway.hearing():
        gateway.stripe.checkout("late@example.com", gateway.one_time_seat, 1, mode="payment")
    for event in gateway.stripe.events[before:]:
        gateway.stripe.stored("event", event["id"])["created"] -= 3600
    gateway.delete_by_hand(GUEST)
    gateway.lose_link(EMAIL)
    for asked in ({"backfill": True, "dry_run": True}, {"backfill": True}):
        assert gateway.reconcile(**asked).status == "SUCCEEDED"
    text = f"{EMAIL} {NAME} {API_KEY} {PAYLOAD}"
    for service, code, function in (
        ("dynamodb", "ValidationException", "PlanReconciliationFunction"),
        ("dynamodb", "ValidationException", "FindMissedEventsFunction"),
        ("cognito-idp", "InvalidParameterException", "ScanUsersFunction"),
        ("dynamodb", "ValidationException", "CompareShardFunction"),
        ("dynamodb", "ValidationException", "CheckDriftFunction"),
    ):
        gateway.stack.faults.add(service, code, function=function, message=text)
        assert gateway.reconcile().status == "FAILED"
        gateway.stack.faults.clear()
    with pytest.MonkeyPatch.context() as patch:
        strange = {"id": EMAIL, "customer": {"email": EMAIL, "name": NAME}, "items": NAME}
        patch.setattr(StripeApi, "_page", lambda *_: {"object": "list", "data": [strange]})
        assert gateway.reconcile().status == "FAILED"


def operate(gateway: Gateway) -> None:
    """What operators ask, and what goes wrong with it; until both people are deleted. Their answers do name people."""
    text = f"{EMAIL} {NAME} {API_KEY} {PAYLOAD}"
    for path, fields in (
        ("/read", {"history": True}),
        ("/read", {"next": f"{NAME}|{EMAIL}"}),
        ("/read", {NAME: PAYLOAD}),
        ("/read", {"sub": EMAIL[:60]}),
        ("/update", {}),
        ("/hold", {"hold": True, "reason": f"{NAME} shared {PAYLOAD}"}),
        ("/hold", {"hold": False}),
        ("/delete", {"dry_run": True}),
    ):
        gateway.ask(path, EMAIL, **fields)
        gateway.settle()
    body = json.dumps({"email": f'{EMAIL}"'}).encode()
    for content in (body, body[:-4]):
        assert gateway.request("/read", content, gateway.signature("/read", content)).status == 400
    for service, code, function in (
        ("cognito-idp", "InvalidParameterException", "ReadOrdersFunction"),
        ("dynamodb", "ValidationException", "UpdateOrdersFunction"),
        ("dynamodb", "ValidationException", "HoldUserFunction"),
        ("dynamodb", "ValidationException", "DeleteAccountFunction"),
        ("states", "InvalidExecutionInput", "DeleteAccountFunction"),
    ):
        path = {"ReadOrders": "/read", "UpdateOrders": "/update", "HoldUser": "/hold", "DeleteAccount": "/delete"}
        fault = gateway.stack.faults.add(service, code, function=function, count=1, message=text)
        fields = {"hold": True, "reason": NAME} if function == "HoldUserFunction" else {}
        answer = gateway.ask(path[function.removesuffix("Function")], EMAIL, **fields)
        assert (fault.hits, answer.status) == (1, 502)
        assert text not in answer.message
    for service, code, function in (
        ("dynamodb", "ValidationException", "WriteTombstoneFunction"),
        ("cognito-idp", "InvalidParameterException", "FindRemainsFunction"),
        ("cognito-idp", "InvalidParameterException", "DeleteUserFunction"),
        ("dynamodb", "ValidationException", "ErasePersonalDataFunction"),
        ("dynamodb", "ValidationException", "MarkDeletedFunction"),
    ):
        fault = gateway.stack.faults.add(service, code, function=function, count=1, message=text)
        answer = gateway.ask("/delete", EMAIL)
        assert (fault.hits, answer.status) == (1, 502)
        assert text not in answer.message
    for email in (EMAIL, GUEST):
        assert gateway.ask("/delete", email).status == 200
    gateway.settle()


@pytest.fixture(scope="module")
def traces(gateway: Gateway) -> Traces:
    answers = live(gateway)
    client = gateway.stack.client("stepfunctions")
    seen: list[Any] = []
    for run in gateway.stack.executions():
        seen.append(client.describe_execution(executionArn=run.arn))
        for page in client.get_paginator("get_execution_history").paginate(executionArn=run.arn):
            seen += page["events"]
    return Traces(
        gateway.log.read_text(encoding="utf-8"),
        json.dumps(seen, default=str),
        "\n".join(answers),
        json.dumps(gateway.rows(), default=list),
        [mail.temporary_password for mail in gateway.stack.outbox],
    )


@pytest.mark.parametrize("place", ["log", "executions", "answers", "ledger"])
def test_no_personal_data_is_left(traces: Traces, place: str) -> None:
    text = getattr(traces, place).lower()
    assert [word for word in PERSONAL if word.lower() in text] == []


@pytest.mark.parametrize("place", ["log", "executions", "answers", "ledger"])
def test_no_secret_is_left(traces: Traces, place: str) -> None:
    text = getattr(traces, place)
    assert [secret for secret in [*SECRETS, *traces.temporary_passwords] if secret in text] == []


def test_there_was_something_to_find(traces: Traces) -> None:
    for error in ("StripeKeyRejected", "StripeRejected", "LedgerRejected", "CognitoRejected", "SecretUnavailable"):
        assert error in traces.log
        assert error in traces.executions
    assert "UnexpectedError" in traces.executions
    assert "StartRejected" in traces.log
    assert "LinkUser" in traces.executions
    assert "local-OffboardingStateMachine" in traces.executions
    assert "MarkNotDeleted" in traces.executions
    assert "local-ReconciliationStateMachine" in traces.executions
    assert "MarkNotReconciled" in traces.executions
    assert len(traces.temporary_passwords) == 4
