"""Every alarm's cause happens: its metric is really emitted, as the alarm reads it, and crosses the threshold. What the
Runbook says to see is there to be seen, its mend mends, and its verify holds. So do the Runbook's procedures. A step
without a command is listed in BY_HAND.

CloudWatch itself is not here. What it would have is read from what the functions wrote (EMF) and, of AWS's own metrics,
from what the local stack did; an alarm is looked at for one of its periods.
"""

import http.client
import json
import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from tests import runbook, watched
from tests.e2e.conftest import API_KEY, RUN_DUE, WEBHOOK_SECRET, Answer, Gateway, Json, _documents, sign, until
from tests.local import lambda_service
from tests.local.lambda_service import LambdaService, TooManyRequestsError
from tests.local.stack import LocalStack
from tests.watched import Metric

NAMESPACE = "StripeCognitoGateway"
STATUSES = {"ExecutionsFailed": "FAILED", "ExecutionsTimedOut": "TIMED_OUT", "ExecutionsAborted": "ABORTED"}
HOUR = 3600
ROLLED = "whsec_0000000000rolled"
RECONCILIATIONS = {"ReconciliationStateMachineMissedEvents", "ReconciliationStateMachineDrift"}
"""The schedules of the reconciliation machine."""
DOCTOR = "DoctorFunctionEverySixHours"  # the schedule

Scenario = Generator[None]
"""What causes an alarm; after the first yield, what mends it; after a second, what puts the stack back."""


class Desk:
    """Whoever is called at night: what CloudWatch shows them, and their shell."""

    def __init__(self, gateway: Gateway, invocations: list[tuple[str, str]], answers: list[tuple[str, int]]) -> None:
        self.gateway, self.stack, self.stripe = gateway, gateway.stack, gateway.stripe
        self._invocations, self._answers = invocations, answers
        template = self.stack.template
        self.alarms: dict[str, Json] = {
            each.logical_id: template.resolve(each.properties) for each in template.of_type("AWS::CloudWatch::Alarm")
        }
        (dashboard,) = template.of_type("AWS::CloudWatch::Dashboard")
        self.dashboard = watched.dashboard(template.resolve(dashboard.properties))
        self.paragraphs = runbook.resolved()
        self._functions = runbook.functions()
        self.begin()

    def begin(self, alarm: str = "") -> None:
        """From now on, as far as the alarms are concerned; the Runbook is open at this one's paragraph."""
        self.paragraph = self.paragraphs.get(alarm, {})
        self.email = self.search = ""  # what a scenario is about: a user, a reconciliation's name,
        self.event: Json = {"id": ""}  # and an event
        self.signing_secret = WEBHOOK_SECRET
        self.disabled: list[str] = []  # the rules that are seen to be
        self.mended: list[str] = []
        self._since()

    def _since(self) -> None:
        self._read = len(self.gateway.log.read_text(encoding="utf-8"))
        self._invoked, self._answered = len(self._invocations), len(self._answers)
        self._ended = {run.arn for run in self.stack.executions() if run.status != "RUNNING"}

    # ------------------------------------------------------------------ CloudWatch

    def lines(self, *, all_of_them: bool = False) -> list[Json]:
        """What the functions wrote since `begin`, as JSON."""
        text = self.gateway.log.read_text(encoding="utf-8")
        lines = (text if all_of_them else text[self._read :]).splitlines()
        return [each for line in lines if line.startswith("{") for each in _documents(line)]

    def emitted(self, *, all_of_them: bool = False) -> dict[Metric, list[float]]:
        """The metrics that the functions' log made, with their values."""
        found: dict[Metric, list[float]] = {}
        for line in self.lines(all_of_them=all_of_them):
            for directive in line.get("_aws", {}).get("CloudWatchMetrics", []):
                for names in directive["Dimensions"]:
                    dimensions = frozenset((name, str(line[name])) for name in names)
                    for metric in directive["Metrics"]:
                        values = found.setdefault(Metric(directive["Namespace"], metric["Name"], dimensions), [])
                        values += line[metric["Name"]]
        return found

    def values(self, metric: Metric) -> list[float]:
        """What CloudWatch would have of a metric since `begin`."""
        dimensions = dict(metric.dimensions)
        match metric.namespace:
            case "AWS/States":
                runs = dimensions["StateMachineArn"].replace(":stateMachine:", ":execution:")
                ended = [run for run in self.stack.executions() if run.arn not in self._ended]
                return [1.0 for run in ended if run.arn.startswith(runs) and run.status == STATUSES.get(metric.name)]
            case "AWS/Lambda":
                of_name = [
                    what for name, what in self._invocations[self._invoked :] if name == dimensions["FunctionName"]
                ]
                return [float(what == metric.name) for what in of_name]
            case "AWS/ApiGateway":
                assert (metric.name, dimensions["Stage"]) == ("5xx", "$default")
                route = f"{dimensions['Method']} {dimensions['Resource']}"
                return [float(code >= 500) for asked, code in self._answers[self._answered :] if asked == route]
        return self.emitted().get(metric, [])

    def rings(self, alarm: str) -> bool | None:
        return watched.breaching(self.alarms[alarm], self.values)

    # ------------------------------------------------------------------ the shell

    def run(self, command: str, argument: str = "", **values: str) -> Json:
        """A command of the AWS CLI, as the Runbook has it."""

        def value(name: str) -> str:
            name = argument if name in ("$1", "1") else name
            return values.get(name) or self.stack.outputs.get(name) or {"STACK": "local"}.get(name) or name

        found = runbook.parsed(command, value)
        answer: Json = getattr(self.stack.client(found.service), found.method)(**found.parameters)
        return answer

    def block(self, beginning: str) -> str:
        """The one command of the Runbook's console blocks that begins so."""
        (command,) = (each for each in runbook.in_blocks() if each.startswith(beginning))
        return command

    def doctor(self) -> Json:
        """What the doctor says."""
        answer: Json = json.loads(self.run(self._functions["doctor"])["Payload"].read())
        return answer

    def order(self) -> Json:
        """The order that this is about."""
        row = self.run(self._functions["order"], self.event["id"])["Item"]
        return {name: next(iter(value.values())) for name, value in row.items()}

    def said(self, pattern: str) -> list[Json]:
        """The lines of the functions' log that CloudWatch's filter finds; some are Lambda's own, and no JSON."""
        assert "aws logs tail" in self._functions["said"]
        text = self.gateway.log.read_text(encoding="utf-8")[self._read :]
        lines = [*self.lines(), *({"text": line} for line in text.splitlines() if not line.startswith("{"))]
        return [line for line in lines if "_aws" not in line and runbook.matches(pattern, line)]

    def asks(self, command: str) -> Answer:
        """An operator's call."""
        found = re.fullmatch(r"gateway (/\w+)(?: '(.*)')?", command)
        assert found is not None, command
        fields = json.loads(found[2] or "{}")
        fields.pop("email", None)
        answer = self.gateway.ask(found[1], self.email, **fields)
        self.gateway.settle()
        return answer

    def sees(self, text: str) -> list[str]:
        """Carries out what the Runbook says to look at, and finds it; which commands those were."""
        return [command for command in runbook.steps(text) if self._shows(command)]

    def _shows(self, command: str) -> bool:
        word, _, rest = command.partition(" ")
        match word:
            case "said":
                assert until(lambda: self._finds(rest), 5)
            case "red":
                found = {each["executionArn"] for each in self.run(self._functions["red"], rest)["executions"]}
                assert found - self._ended, f"{command}: no execution is red since this began"
            case "drift":
                assert self.run(self._functions["drift"], self.search)["Items"], f"{command}: nobody"
            case "order":
                order = self.order()
                assert order["state"] == "FULFILLED" or order["last_error"]
            case "doctor":
                assert self.doctor()["wrong"]
            case "aws":
                self.disabled = self._disabled(self.run(command))
                assert self.disabled, f"{command}: all are enabled"
            case _:
                return False
        return True

    def _finds(self, pattern: str) -> list[Json]:
        return self.said(pattern.removeprefix("'").removesuffix("'"))

    @staticmethod
    def _disabled(rules: Json) -> list[str]:
        """The disabled ones of the rules that `aws events list-rules` lists."""
        assert rules["Rules"]
        return [each["Name"] for each in rules["Rules"] if each["State"] == "DISABLED"]

    def mends(self) -> None:
        """Carries out what the Runbook says to mend with: a scenario calls this when what it needs is done."""
        self.mended += [command for command in runbook.steps(self.paragraph["Mend"]) if self._mends(command)]

    def _mends(self, command: str) -> bool:
        word, _, _ = command.partition(" ")
        name, _, value = word.partition("=")
        if value and name in self.stack.template.parameters:  # to be deployed with
            assert self.stack.update(**{name: value}) == []
            return True
        match word:
            case "doctor":
                self.doctor()
            case "gateway":
                assert self.asks(command).status == 200
            case "aws" if "<the rule>" in command:
                assert self.disabled
                for rule in self.disabled:
                    self.run(command, **{"the rule": rule})
            case "aws":  # starts an execution
                self._succeeds(self.run(command))
            case _:
                return False
        return True

    def _succeeds(self, started: Json) -> None:
        self.gateway.settle()
        status = {run.arn: run.status for run in self.stack.executions()}
        assert status[started["executionArn"]] == "SUCCEEDED"

    def verifies(self, text: str) -> list[str]:
        """Carries out what the Runbook says to verify with; which commands those were."""
        return [command for command in runbook.steps(text) if self._holds(command)]

    def _holds(self, command: str) -> bool:
        word, _, rest = command.partition(" ")
        match word:
            case "order":
                until(lambda: self.order()["state"] == "FULFILLED")
            case "doctor":
                assert self.doctor()["wrong"] == []
            case "dry_run":
                self._succeeds(self.run(self._functions["dry_run"]))
            case "gateway":
                assert self.asks(command).status == 200
            case "said":
                assert until(lambda: self._finds(rest), 5)
            case "aws":
                assert self._disabled(self.run(command)) == []
            case "Resend":
                assert self.resend() == 200
                self.gateway.settle()
            case _:
                return False
        return True

    def resend(self) -> int:
        """Somebody presses Resend in Stripe; what it was answered."""
        body = json.dumps(self.event).encode()
        return self.gateway.post(body, sign(body, self.signing_secret)).status

    # ------------------------------------------------------------------ Stripe, and users

    def paid(self, customer: str) -> Json:
        """An event about somebody who pays."""
        return self.gateway.event("customer.updated", self.stripe.stored("customer", customer))

    def deliver(self, *events: Json) -> set[int]:
        """Stripe delivers these, until all is done that follows; what it was answered."""
        answered = {self.gateway.send(event).status for event in events}
        self.gateway.settle()
        return answered

    def subscriber(self, name: str, quantity: int = 1, price: str | None = None) -> str:
        """Somebody who pays, and whom this is about; their customer."""
        self.email = f"{name}@example.com"
        return str(self.gateway.subscriber(self.email, quantity, price)["customer"])

    def disable(self, *schedules: str) -> None:
        """Somebody disables these schedules, and none of them runs any more."""
        for each in schedules:
            self.stack.client("events").disable_rule(Name=self.stack.template.physical[each].ref)
        assert self.stack.run_schedules(*schedules) == {}

    def endpoint(self, status: str) -> None:
        """Somebody changes the webhook endpoint in Stripe."""
        for endpoint in list(self.stripe.objects["webhook_endpoint"]):
            self.stripe.update_webhook_endpoint(endpoint, status=status)

    def a_minute_later(self) -> None:
        """Whoever has a secret of before asks for it again, once a minute at most: here, by starting again."""
        for function in self.stack.template.of_type("AWS::Lambda::Function"):
            self.gateway.replace_containers(function.logical_id)

    def reserve(self, token: str) -> int:
        """A user reserves a dapp; what they were answered."""
        connection = http.client.HTTPConnection(self.stack.api.removeprefix("http://"), timeout=60)
        try:
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
            connection.request("POST", "/dapps", json.dumps({"id": "one"}), headers)
            response = connection.getresponse()
            response.read()
            return response.status
        finally:
            connection.close()


# ---------------------------------------------------------------------- what happens, and what mends it


def webhook_errors(desk: Desk) -> Scenario:
    desk.event = desk.paid(desk.subscriber("errors"))
    desk.stack.faults.add("dynamodb", "InternalServerError", function="WebhookFunction")
    assert desk.deliver(desk.event) == {503}
    yield
    desk.stack.faults.clear()


def webhook_crashes(desk: Desk) -> Scenario:
    functions, name = desk.stack._functions, desk.stack.template.physical["WebhookFunction"].ref
    as_deployed = functions.find(name)
    desk.event = desk.paid(desk.subscriber("failed"))
    broken = {key: value for key, value in as_deployed.environment.items() if key != "STATE_MACHINE_ARN"}
    functions.update(replace(as_deployed, environment=broken, revision=as_deployed.revision + 1))
    try:
        assert desk.deliver(desk.event, desk.event, desk.event) == {500}
        yield
    finally:
        functions.update(replace(as_deployed, revision=as_deployed.revision + 2))


def signature_rejected(desk: Desk) -> Scenario:
    desk.event, desk.signing_secret = desk.paid(desk.subscriber("rolled")), ROLLED
    assert {desk.resend() for _ in range(5)} == {400}
    yield
    before = desk.run(desk.block("aws secretsmanager get-secret-value"))["SecretString"]
    command = desk.block("aws secretsmanager put-secret-value --secret-id $(output StripeWebhookSecret)")
    try:
        desk.run(command.replace("whsec_new", ROLLED).replace("whsec_old", WEBHOOK_SECRET))
        desk.a_minute_later()
        assert desk.deliver(desk.event) == {200}  # signed with the old one
        yield
    finally:
        desk.stack.put_secret("StripeWebhookSecret", before)
        desk.a_minute_later()


def no_event(desk: Desk) -> Scenario:
    for endpoint in list(desk.stripe.objects["webhook_endpoint"]):
        desk.stripe.delete_webhook_endpoint(endpoint)
    desk.gateway.run_due()
    yield
    desk.mends()
    desk.a_minute_later()
    desk.subscriber("again")


def missed_events(desk: Desk) -> Scenario:
    customer = desk.subscriber("missed")
    desk.endpoint("disabled")
    before = len(desk.stripe.events)
    desk.stripe.update_customer(customer, name="Somebody")
    for event in desk.stripe.events[before:]:
        desk.stripe.stored("event", event["id"])["created"] -= HOUR  # it is not on its way any more
    assert desk.gateway.reconcile(find="events").status == "SUCCEEDED"
    yield
    desk.mends()
    desk.endpoint("enabled")
    assert desk.gateway.reconcile(find="events").status == "SUCCEEDED"


def unusable_event(desk: Desk) -> Scenario:
    customer = desk.subscriber("unusable")
    desk.event = desk.gateway.event("customer.subscription.updated", {"id": "sub bad", "customer": customer})
    assert desk.deliver(desk.event) == {200}
    yield
    desk.mends()


def executions_failed(desk: Desk) -> Scenario:
    customer = desk.subscriber("red")
    events = [desk.paid(customer) for _ in range(3)]
    desk.event = events[0]
    desk.stripe.faults.accept_keys({"another"})
    desk.deliver(*events)
    yield
    desk.stripe.faults.accept_keys({API_KEY})


def oldest_open_order(desk: Desk) -> Scenario:
    desk.event = desk.paid(desk.subscriber("oldest"))
    desk.stripe.faults.accept_keys({"another"})
    desk.deliver(desk.event)
    desk.gateway.set_order(desk.event["id"], received_at=int(time.time()) - 3 * HOUR)
    desk.gateway.run_due()
    yield
    desk.stripe.faults.accept_keys({API_KEY})
    desk.deliver(desk.event)
    desk._since()
    desk.gateway.run_due()


def order_stuck(desk: Desk) -> Scenario:
    desk.event = desk.paid(desk.subscriber("stuck-alarm"))
    desk.stripe.faults.accept_keys({"another"})
    desk.deliver(desk.event)
    desk.gateway.set_order(desk.event["id"], attempts=13, due_at=int(time.time()))
    desk.gateway.run_due()
    assert desk.order()["state"] != "FULFILLED"
    yield
    desk.stripe.faults.accept_keys({API_KEY})
    desk.deliver(desk.event)
    assert desk.order()["state"] == "FULFILLED"


def run_due_silent(desk: Desk) -> Scenario:
    """Both of its causes: an error stops it, and then its rule is disabled."""
    desk.stack.faults.add("dynamodb", "AccessDeniedException", function="RunDueFunction")
    _, error = desk.stack.run_schedules(RUN_DUE)[RUN_DUE]
    assert error is not None
    desk.disable(RUN_DUE)
    yield
    desk.stack.faults.clear()
    desk.mends()
    desk.gateway.run_due()


def throttled(desk: Desk) -> Scenario:
    customer = desk.subscriber("throttled-alarm")
    events = [desk.paid(customer) for _ in range(10)]
    desk.stack.faults.add("dynamodb", "ThrottlingException", function="ReadBillingFunction")
    desk.deliver(*events)
    yield
    desk.stack.faults.clear()
    desk.deliver(*events)
    assert {desk.gateway.order(event["id"])["state"] for event in events} == {"FULFILLED"}


def authorizer_errors(desk: Desk) -> Scenario:
    desk.subscriber("authorized")
    token = desk.gateway.sign_in(desk.email)["AccessToken"]
    desk.gateway.replace_containers("AuthorizeFunction")
    desk.stack.keys_reachable = False
    assert {desk.reserve(token) for _ in range(5)} == {500}
    yield
    desk.stack.keys_reachable = True
    desk.gateway.replace_containers("AuthorizeFunction")  # as if five seconds had passed
    assert desk.reserve(token) == 201
    # Refusals are no errors.
    assert desk.reserve(token + "x") == 403
    assert desk.gateway.ask("/hold", desk.email, hold=True, reason="ticket").status == 200
    assert desk.reserve(token) == 403


def paid_without_access(desk: Desk) -> Scenario:
    desk.subscriber("unheard")
    desk.gateway.disable_by_hand(desk.email)
    desk.stack.client("cognito-idp").admin_update_user_attributes(
        UserPoolId=desk.stack.user_pool_id,
        Username=desk.email,
        UserAttributes=[{"Name": "custom:disabled_by", "Value": "billing"}],
    )
    found = desk.gateway.reconcile(find="drift")
    assert found.status == "SUCCEEDED"
    desk.search = found.name
    yield
    desk.mends()
    assert desk.gateway.access(desk.email)[0] is True


def held_or_comped_paying(desk: Desk) -> Scenario:
    comped = desk.subscriber("comped-alarm")
    comp(desk)
    desk.deliver(desk.paid(comped))
    held = desk.subscriber("held-alarm")
    assert desk.gateway.ask("/hold", desk.email, hold=True, reason="ticket").status == 200
    desk.event = desk.paid(held)
    desk.deliver(desk.event)
    yield
    desk.mends()
    desk._since()
    desk.deliver(desk.paid(held))
    assert desk.gateway.access(desk.email)[0] is True


def access_flagged(desk: Desk) -> Scenario:
    """Each of its metrics alone."""
    for happens, name in (
        (invoice_not_finalized, "FinalizationFailed"),
        (email_conflict, "EmailConflict"),
        (drift_unclear, "DriftUnclear"),
    ):
        desk._since()
        for _ in happens(desk):
            until(lambda: desk.rings("AccessFlaggedAlarm"), 5)
            assert desk.said(name)
            desk._since()
        assert desk.rings("AccessFlaggedAlarm") is False
    price = desk.gateway.price({"dapps": "one"})
    disputed = desk.subscriber("disputed-alarm")
    desk.subscriber("flagged", price=price)
    yield
    desk.stripe.update_price(price, metadata={"dapps": "2"})
    desk.gateway.settle()
    try:
        desk.mends()
        (charge,) = (each["id"] for each in desk.stripe.objects["charge"].values() if each["customer"] == disputed)
        desk.stripe.dispute(charge)
        yield
    finally:
        assert desk.stack.update(Disputed="flag") == []


def invoice_not_finalized(desk: Desk) -> Scenario:
    subscription = desk.gateway.subscriber("not-finalized@example.com")["subscription"]
    desk.email = "not-finalized@example.com"
    with desk.gateway.hearing("invoice.finalization_failed"):
        desk.stripe.fail_finalization(subscription)
    yield


def email_conflict(desk: Desk) -> Scenario:
    desk.subscriber("has-the-address")
    with desk.stack.deployed_with(EmailChange="follow"):
        customer = desk.subscriber("wants-the-address")
        with desk.gateway.hearing("customer.updated"):
            desk.stripe.update_customer(customer, email="has-the-address@example.com")
        yield
        with desk.gateway.hearing("customer.updated"):
            desk.stripe.update_customer(customer, email=desk.email)


def drift_unclear(desk: Desk) -> Scenario:
    customer = desk.subscriber("unclear")
    desk.gateway.set_by_hand(desk.email, "custom:num_dapps", "9")
    # A key that does not show all of the account.
    subscriptions = desk.stripe.objects["subscription"]
    hidden = {name: each for name, each in subscriptions.items() if each["customer"] == customer}
    for name in hidden:
        del subscriptions[name]
    stored = desk.stripe.objects["customer"].pop(customer)
    assert desk.gateway.reconcile(find="drift").status == "SUCCEEDED"
    yield
    subscriptions.update(hidden)
    desk.stripe.objects["customer"][customer] = stored
    assert desk.gateway.reconcile(find="drift").status == "SUCCEEDED"
    assert desk.gateway.access(desk.email)[1] == 1


def limit_clamped(desk: Desk) -> Scenario:
    price = desk.gateway.price({"dapps": "900000"})
    desk.subscriber("clamped", 2, price)
    assert desk.gateway.access(desk.email)[1] == 1_000_000
    yield
    desk.stripe.update_price(price, metadata={"dapps": "9"})
    desk.gateway.settle()
    assert desk.asks("gateway /update").status == 200
    assert desk.gateway.access(desk.email)[1] == 18


def mail_failed(desk: Desk) -> Scenario:
    desk.stack.mail.fail(1)
    desk.subscriber("unmailed")
    assert desk.gateway.mails(desk.email) == []
    yield
    desk.stack.mail.restore()
    desk.gateway.an_hour_later(desk.email)
    assert len(desk.gateway.mails(desk.email)) == 1


def deletion_failed(desk: Desk) -> Scenario:
    desk.subscriber("undeleted")
    desk.stack.faults.add("cognito-idp", "InvalidParameterException", function="DeleteUserFunction")
    assert desk.gateway.ask("/delete", desk.email).status == 502
    yield
    desk.stack.faults.clear()
    desk.mends()
    assert desk.gateway.user(desk.email) is None


def setup_wrong(desk: Desk) -> Scenario:
    desk.endpoint("disabled")
    desk.doctor()
    yield
    desk.endpoint("enabled")
    desk.doctor()


def doctor_silent(desk: Desk) -> Scenario:
    desk.stack.faults.add("cognito-idp", "InternalErrorException", function="DoctorFunction")
    _, error = desk.stack.run_schedules(DOCTOR)[DOCTOR]
    assert error is not None
    desk.disable(DOCTOR)
    yield
    desk.stack.faults.clear()
    desk.mends()
    assert desk.stack.run_schedules(DOCTOR)[DOCTOR].error is None


def too_many_disabled(desk: Desk) -> Scenario:
    customer = desk.subscriber("one-too-many")
    with desk.gateway.hearing():
        for each in desk.stripe.objects["subscription"].values():
            if each["customer"] == customer:
                desk.stripe.cancel(each["id"])
    found = desk.gateway.reconcile(find="drift", max_disabled=0)
    assert found.status == "FAILED"
    desk.search = found.name
    yield
    desk.mends()
    assert desk.gateway.access(desk.email)[0] is False


def not_reconciled(desk: Desk) -> Scenario:
    desk.stripe.faults.accept_keys({"another"})
    assert desk.gateway.reconcile(find="events").status == "FAILED"
    yield
    desk.stripe.faults.accept_keys({API_KEY})


def nothing_reconciled(desk: Desk) -> Scenario:
    """Both of its causes: the last one ended early, and there is no next one."""
    desk.stripe.faults.accept_keys({"another"})
    assert desk.gateway.reconcile(find="events").status == "FAILED"
    desk.disable(*RECONCILIATIONS)
    desk.gateway.run_due()
    yield
    desk.stripe.faults.accept_keys({API_KEY})
    desk.mends()
    started = desk.stack.run_schedules(*RECONCILIATIONS)
    assert started.keys() == RECONCILIATIONS
    for each in started.values():
        desk._succeeds({"executionArn": each.result})
    desk.gateway.run_due()


SCENARIOS: Mapping[str, Callable[[Desk], Scenario]] = {
    "WebhookErrorsAlarm": webhook_errors,
    "WebhookFailsAlarm": webhook_errors,
    "WebhookCrashesAlarm": webhook_crashes,
    "SignatureRejectedAlarm": signature_rejected,
    "NoEventAlarm": no_event,
    "MissedEventsAlarm": missed_events,
    "UnusableEventAlarm": unusable_event,
    "ExecutionsFailedAlarm": executions_failed,
    "FulfillmentFailsAlarm": executions_failed,
    "OldestOpenOrderAlarm": oldest_open_order,
    "OrderStuckAlarm": order_stuck,
    "RunDueSilentAlarm": run_due_silent,
    "ThrottledAlarm": throttled,
    "AuthorizerErrorsAlarm": authorizer_errors,
    "PaidWithoutAccessAlarm": paid_without_access,
    "HeldOrCompedPayingAlarm": held_or_comped_paying,
    "AccessFlaggedAlarm": access_flagged,
    "LimitClampedAlarm": limit_clamped,
    "MailFailedAlarm": mail_failed,
    "DeletionFailedAlarm": deletion_failed,
    "SetupWrongAlarm": setup_wrong,
    "DoctorSilentAlarm": doctor_silent,
    "TooManyDisabledAlarm": too_many_disabled,
    "NotReconciledAlarm": not_reconciled,
    "NothingReconciledAlarm": nothing_reconciled,
}
NOT_PLAYED = {"ReconciliationTimedOutAlarm"}  # takes fourteen days


BY_HAND = {
    # Mend: an operator ends the cause, here as in AWS.
    ("WebhookErrorsAlarm", "Mend"): "AWS's outage passes",
    ("WebhookFailsAlarm", "Mend"): "AWS's outage passes",
    ("WebhookCrashesAlarm", "Mend"): "what ran before is deployed again",
    ("SignatureRejectedAlarm", "Mend"): "the signing secret is stored by the commands of *Secrets*",
    ("ExecutionsFailedAlarm", "Mend"): "Stripe takes the key again",
    ("FulfillmentFailsAlarm", "Mend"): "Stripe takes the key again",
    ("OldestOpenOrderAlarm", "Mend"): "Stripe takes the key again",
    ("OrderStuckAlarm", "Mend"): "Stripe takes the key again",
    ("ThrottledAlarm", "Mend"): "DynamoDB throttles no more",
    ("AuthorizerErrorsAlarm", "Mend"): "the pool's keys can be read again",
    ("LimitClampedAlarm", "Mend"): "the price's metadata is mended in Stripe",
    ("MailFailedAlarm", "Mend"): "mail leaves again",
    ("SetupWrongAlarm", "Mend"): "the endpoint is enabled in Stripe",
    ("NotReconciledAlarm", "Mend"): "Stripe takes the key again",
    # Verify: the scenario asserts what an operator sees elsewhere.
    ("ThrottledAlarm", "Verify"): "a line of the dashboard, which is the alarm's metric; all orders are fulfilled",
    ("AuthorizerErrorsAlarm", "Verify"): "a user's call is answered",
    ("MailFailedAlarm", "Verify"): "the invitation arrives an hour later",
    ("DeletionFailedAlarm", "Verify"): "the call of Mend answers 200",
}
"""The steps that have no command, and what a scenario does instead."""


def play(desk: Desk, alarm: str) -> None:
    """What causes an alarm, and then what the Runbook says."""
    desk.begin(alarm)
    did: dict[str, list[str]] = {}
    with closing(SCENARIOS[alarm](desk)) as scenario:
        next(scenario)
        until(lambda: desk.rings(alarm), 5)
        did["See"] = desk.sees(desk.paragraph["See"])
        desk.sees(desk.paragraph["Understand"])
        desk._since()
        next(scenario, None)
        desk.gateway.settle()
        did["Mend"] = desk.mended
        did["Verify"] = desk.verifies(desk.paragraph["Verify"])
        assert desk.rings(alarm) is False
        for _ in scenario:
            raise AssertionError("a scenario has three parts at most")
    without = {(alarm, part) for part, commands in did.items() if not commands}
    assert without == {each for each in BY_HAND if each[0] == alarm}, "steps without a command are those of BY_HAND"


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    invocations: list[tuple[str, str]] = []
    answers: list[tuple[str, int]] = []
    invoke, answer_api = LambdaService.invoke, LocalStack._answer_api

    def watched_invoke(self: LambdaService, reference: str, payload: bytes) -> Any:
        name = self.find(reference).name
        try:
            answer = invoke(self, reference, payload)
        except TooManyRequestsError:
            invocations.append((name, "Throttles"))
            raise
        invocations.append((name, "Errors" if answer.failed else "Invocations"))
        return answer

    def watched_answer(self: LocalStack, environ: Json, start_response: Any) -> Any:
        def start(status: str, headers: Any, *more: Any) -> Any:
            answers.append((f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}", int(status.split()[0])))
            return start_response(status, headers, *more)

        return answer_api(self, environ, start)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_service.LambdaService, "invoke", watched_invoke)
        patch.setattr(LocalStack, "_answer_api", watched_answer)
        with Gateway(tmp_path_factory.mktemp("gateway"), custom_resources=True) as gateway:
            yield Desk(gateway, invocations, answers)


def _mended(desk: Desk) -> None:
    """Nothing is left of what a scenario broke."""
    desk.stack.faults.clear()
    desk.stack.mail.restore()
    desk.stripe.faults.restore()
    desk.stripe.faults.accept_keys({API_KEY})
    desk.stack.keys_reachable = True
    desk.endpoint("enabled")
    for rule in desk.stack.client("events").list_rules(NamePrefix="local-")["Rules"]:
        desk.stack.client("events").enable_rule(Name=rule["Name"])
    desk.gateway.settle()


@pytest.fixture(scope="module")
def played(desk: Desk) -> dict[str, BaseException | None]:
    """Every alarm, played once, with what went wrong."""
    outcomes: dict[str, BaseException | None] = {}
    for alarm in SCENARIOS:
        try:
            play(desk, alarm)
            outcomes[alarm] = None
        except (Exception, AssertionError) as error:
            outcomes[alarm] = error
        _mended(desk)
    return outcomes


@pytest.mark.parametrize("alarm", SCENARIOS)
def test_an_alarm_rings_is_understood_and_mended(played: dict[str, BaseException | None], alarm: str) -> None:
    error = played[alarm]
    if error is not None:
        raise error


def test_every_alarm_is_played(desk: Desk) -> None:
    assert SCENARIOS.keys() | NOT_PLAYED == desk.alarms.keys()


def test_every_metric_of_ours_is_really_emitted(desk: Desk, played: dict[str, BaseException | None]) -> None:
    of_alarms = {metric for alarm in desk.alarms.values() for metric, _, _ in watched.of_alarm(alarm).values()}
    shown = {metric for metric, _ in watched.of_dashboard(desk.dashboard)}
    ours = {metric for metric in of_alarms | shown if metric.namespace == NAMESPACE}
    assert len(ours) > 20
    assert ours - desk.emitted(all_of_them=True).keys() == set()


def test_every_log_line_names_its_function_and_the_call_that_it_belongs_to(
    desk: Desk, played: dict[str, BaseException | None]
) -> None:
    lines = [line for line in desk.lines(all_of_them=True) if "level" in line]
    assert len({line["function"] for line in lines}) > 20
    for line in lines:
        assert line.keys() >= {"message", "timestamp", "service", "function"}
        assert line.keys() & {"execution", "request_id", "request"}, line


# ---------------------------------------------------------------------- the Runbook's procedures


def comp(desk: Desk) -> None:
    """As the Runbook says."""
    command, _ = (each for each in runbook.in_blocks() if each.startswith("aws cognito-idp admin-update"))
    desk.run(command, **{"e-mail": desk.email})
    assert desk.asks("gateway /update").status == 200


def test_whoever_is_comped_has_what_they_are_given_and_afterwards_what_they_pay_for(desk: Desk) -> None:
    desk.begin()
    desk.subscriber("procedure-comped", 2)
    comp(desk)
    assert desk.gateway.access(desk.email)[:2] == (True, 5)
    _, command = (each for each in runbook.in_blocks() if each.startswith("aws cognito-idp admin-update"))
    desk.run(command, **{"e-mail": desk.email})
    assert desk.asks("gateway /update").status == 200
    assert desk.gateway.access(desk.email) == (True, 2, "ACTIVE")


def test_whoever_was_comped_and_never_bought_anything_is_refused_afterwards_by_the_authorizer(desk: Desk) -> None:
    desk.begin()
    desk.email = "procedure-guest@example.com"
    desk.gateway.make_user(desk.email)
    comp(desk)
    assert desk.gateway.person(desk.email)["active"] is True
    _, command = (each for each in runbook.in_blocks() if each.startswith("aws cognito-idp admin-update"))
    desk.run(command, **{"e-mail": desk.email})
    assert desk.asks("gateway /update").status == 200
    assert desk.gateway.access(desk.email)[:2] == (True, 5)
    assert desk.gateway.person(desk.email)["active"] is False


def test_the_stripe_key_is_rotated_without_a_failed_run(desk: Desk) -> None:
    desk.begin()
    customer, second = desk.subscriber("rotated"), "rk_test_second"
    desk.stripe.faults.accept_keys({API_KEY, second})
    command = desk.block("aws secretsmanager put-secret-value --secret-id $STACK/stripe-api-key")
    try:
        desk.run(command, KEY=second)
        assert desk.doctor()["wrong"] == []
        desk.stripe.faults.accept_keys({second})
        desk.a_minute_later()
        event = desk.paid(customer)
        assert desk.deliver(event) == {200}
        assert desk.gateway.order(event["id"])["state"] == "FULFILLED"
    finally:
        desk.run(command, KEY=API_KEY)
        desk.a_minute_later()
        _mended(desk)


def test_the_hash_key_is_rotated_and_accounts_are_deleted_as_before(desk: Desk) -> None:
    desk.begin()
    before = desk.stack.secret("HashKeySecret")
    desk.run(
        desk.block("aws secretsmanager put-secret-value --secret-id $(output HashKeySecret)"), KEY="0123456789" * 6
    )
    readers = [f"{name}Function" for name in ("ReadBilling", "CreateUser", "DeleteAccount", "ReadOrders")]
    try:
        for function in readers:
            desk.gateway.replace_containers(function)
        desk.subscriber("hashed", 2)
        assert desk.asks("gateway /delete").status == 200
        assert desk.gateway.user(desk.email) is None
        assert desk.asks("gateway /read").document["deletion"]["state"] == "DONE"
        assert desk.stack.secret("HashKeySecret") != before
    finally:
        desk.stack.put_secret("HashKeySecret", before)
        for function in readers:
            desk.gateway.replace_containers(function)


def test_the_ledger_is_restored_and_goes_on(desk: Desk) -> None:
    desk.begin()
    customer = desk.subscriber("restored", 2)
    table = desk.stack.orders_table
    before = desk.gateway.rows()
    values = {"TABLE": table}
    for command in runbook.in_blocks():
        if command.startswith(
            ("aws dynamodb restore", "aws dynamodb create-backup", "aws dynamodb update", "aws dynamodb delete-table")
        ):
            answer = desk.run(command, **values)
            if "BackupDetails" in answer:
                values["the backup's"] = answer["BackupDetails"]["BackupArn"]
    client = desk.stack.client("dynamodb")
    described = client.describe_table(TableName=table)["Table"]
    assert described["DeletionProtectionEnabled"] is True
    assert {each["IndexName"] for each in described["GlobalSecondaryIndexes"]} == {"ByParty", "ByEmail", "Due"}
    recovery = client.describe_continuous_backups(TableName=table)["ContinuousBackupsDescription"]
    assert recovery["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    live = client.describe_time_to_live(TableName=table)["TimeToLiveDescription"]
    assert (live["TimeToLiveStatus"], live["AttributeName"]) == ("ENABLED", "expires_at")
    assert sorted(map(str, desk.gateway.rows())) == sorted(map(str, before))
    event = desk.paid(customer)
    assert desk.deliver(event) == {200}
    order = desk.gateway.order(event["id"])
    assert (order["state"], order.get("last_error")) == ("FULFILLED", None)
    desk.verifies("`dry_run`")
