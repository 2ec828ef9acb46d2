"""Every role allows what its function does, and nothing else."""

import re
import time
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import jwt
import pytest
from samtranslator.model.exceptions import InvalidDocumentException

from tests.e2e.conftest import SOURCE, TOPIC, Gateway, template_with, until
from tests.e2e.test_dapps import FORBIDDEN, Subscriber, call
from tests.local.permissions import Call, roles
from tests.local.template import TemplateError

UNASKED = ("logs:", "states:DescribeExecution", "states:StopExecution")
"""AWS delivers logs itself, and watches the shards of a map."""


NAMES = [
    "CheckAccountFunction",
    "CheckSetupFunction",
    "RegisterWebhookFunction",
    "WebhookFunction",
    "ReadBillingFunction",
    "LookupUserFunction",
    "CreateUserFunction",
    "LinkUserFunction",
    "EnableUserFunction",
    "DisableUserFunction",
    "SetDappLimitFunction",
    "SetLiveAccessFunction",
    "ResendInvitationFunction",
    "ResumeDeletionFunction",
    "ChangeEmailFunction",
    "MarkFulfilledFunction",
    "MarkUnfulfilledFunction",
    "RunDueFunction",
    "FulfillmentStateMachine",
    "DoctorFunction",
    "ReadOrdersFunction",
    "UpdateOrdersFunction",
    "DeleteAccountFunction",
    "HoldUserFunction",
    "AuthorizeFunction",
    "ReserveDappFunction",
    "ReleaseDappFunction",
    "ListDappsFunction",
    "AddClaimsFunction",
    "WriteTombstoneFunction",
    "FindRemainsFunction",
    "CancelSubscriptionsFunction",
    "DeleteUserFunction",
    "ErasePersonalDataFunction",
    "MarkDeletedFunction",
    "MarkNotDeletedFunction",
    "OffboardingStateMachine",
    "PlanReconciliationFunction",
    "FindMissedEventsFunction",
    "ScanUsersFunction",
    "CompareShardFunction",
    "CheckDriftFunction",
    "MendDriftFunction",
    "MarkReconciledFunction",
    "MarkNotReconciledFunction",
    "ReconciliationStateMachine",
]
"""Every function and state machine of the template."""

ROUTES = [
    ("POST", "/read", "AWS_IAM"),
    ("POST", "/update", "AWS_IAM"),
    ("POST", "/delete", "AWS_IAM"),
    ("POST", "/hold", "AWS_IAM"),
    ("POST", "/dapps", "LiveAccess"),
    ("DELETE", "/dapps/{id}", "LiveAccess"),
    ("GET", "/dapps", "LiveAccess"),
]
"""Every route but Stripe's, and who decides on it."""


class Driven(NamedTuple):
    """What a stack did, and what it would have been allowed to do: action and resource, by logical id."""

    did: dict[str, set[tuple[str, str | None]]]
    may: dict[str, set[tuple[str, str]]]
    denied: list[Call]


def drive_every_path(gateway: Gateway) -> None:
    """Every state of the machine, every ending, every branch of the webhook and of RunDue."""
    stripe = gateway.stripe
    # CreateUser, SetDappLimit, DisableUser; then LinkUser and EnableUser: a new customer, the same person.
    first = gateway.buy("person@example.com", 2)
    stripe.change_quantity(first["subscription"], 5)
    gateway.settle()
    stripe.cancel(first["subscription"])
    gateway.settle()
    second = gateway.buy("person@example.com", 3)
    # A user deleted by hand is made again.
    gateway.delete_by_hand("person@example.com")
    stripe.change_quantity(second["subscription"], 4)
    gateway.settle()
    # … or, when a person made one with that address meanwhile, joined.
    again = gateway.buy("again@example.com", 1)
    gateway.delete_by_hand("again@example.com")
    gateway.make_user("again@example.com")
    stripe.change_quantity(again["subscription"], 2)
    gateway.settle()
    # A guest pays once: the purchase is remembered, and so is its refund.
    guest = gateway.buy("guest@example.com", 1, gateway.one_time_seat, mode="payment")
    stripe.refund(stripe.charge_of(guest["id"])["id"])
    gateway.settle()
    # An invitation that did not leave is sent again, and an address that changes is followed.
    gateway.stack.mail.fail(1)
    moving = gateway.subscriber("moving@example.com", 1)
    gateway.an_hour_later("moving@example.com")
    stripe.update_customer(moving["customer"], email="moved@example.com")
    gateway.settle()
    assert [mail.resend for mail in gateway.mails("moving@example.com")] == [True]
    assert gateway.access("moved@example.com") == (True, 1, "ACTIVE")
    # A moment that Stripe does not announce: RunDue makes an order of it.
    stripe.cancel(second["subscription"], cancel_at=int(time.time()) + 3600)
    gateway.settle()
    stripe.stored("subscription", second["subscription"])["cancel_at"] = int(time.time())
    gateway.set_person("person@example.com", due_at=int(time.time()))
    gateway.run_due()
    assert gateway.access("person@example.com") == (False, 0, "CANCELLED")
    # A run that fails is run again by RunDue, and by Stripe's "Resend".
    _, event = gateway.undelivered("failing@example.com")
    stripe.faults.fail_next(2, 403)
    for _ in range(2):
        gateway.send(event)
        gateway.settle()
    gateway.set_order(event["id"], due_at=int(time.time()))
    gateway.run_due()
    assert [run.status for run in gateway.runs(event["id"])] == ["FAILED", "FAILED", "SUCCEEDED"]
    drive_users(gateway)
    drive_operators(gateway)
    drive_reconciliation(gateway)


def drive_users(gateway: Gateway) -> None:
    """Every endpoint of the users, and what their authorizer goes by where billing leaves them alone."""
    user = Subscriber(gateway, "user@example.com", 1)
    assert jwt.decode(user.tokens["AccessToken"], options={"verify_signature": False})["dapp_limit"] == 1  # AddClaims
    assert [user.reserve(name).status for name in ("one", "one", "two")] == [201, 200, 403]
    assert user.release("one").status == 200
    user.assert_listed([], 1)
    # Disabled by hand: only the authorizer does not know yet. SetLiveAccess tells it.
    gateway.disable_by_hand(user.email)
    assert user.listed().status == 200
    user.pays_for(2)
    assert (user.listed().status, user.listed().document) == FORBIDDEN
    # One who is comped and never bought anything has what Cognito says, once an operator asks.
    gateway.make_user("comped@example.com", payment_provider="ADMIN", num_dapps="3")
    header = f"Bearer {gateway.sign_in('comped@example.com')['AccessToken']}"
    assert call(gateway, "GET", "/dapps", header).status == 403
    assert gateway.ask("/update", "comped@example.com").document.get("orders") == []
    assert call(gateway, "GET", "/dapps", header).document["limit"] == 3


def drive_operators(gateway: Gateway) -> None:
    """Every endpoint of the operators, every state of the offboarding machine."""
    stripe = gateway.stripe
    email = "operated@example.com"
    user = Subscriber(gateway, email, 2)
    subscriber = user.session
    assert user.reserve("forgotten").status == 201
    stripe.faults.fail_next(1, 403)
    stripe.change_quantity(subscriber["subscription"], 3)
    gateway.settle()
    assert gateway.ask("/read", email, history=True).status == 200
    assert gateway.ask("/update", email).document["orders"][0]["result"] == "started"
    gateway.settle()
    # Nothing is open any more: billing looks at them all the same.
    assert gateway.open_orders(subscriber["customer"]) == []
    assert gateway.ask("/update", email).document["orders"][0]["result"] == "started"
    gateway.settle()
    gateway.buy(email, 1, gateway.one_time_seat, mode="payment")
    assert gateway.ask("/hold", email, hold=True, reason="abuse").status == 200
    gateway.settle()
    assert gateway.ask("/hold", email, hold=False).status == 200
    gateway.settle()
    # One whom nobody governs is enabled by the endpoint itself.
    gateway.make_user("theirs@example.com")
    assert gateway.ask("/hold", "theirs@example.com", hold=True, reason="abuse").status == 200
    assert gateway.ask("/hold", "theirs@example.com", hold=False).document["enabled"]
    # A deletion that fails, is taken up again …
    _, late = gateway.undelivered(email.upper(), 1)  # Stripe's filter tells letters from capitals
    assert gateway.ask("/delete", email, dry_run=True).status == 200
    gateway.stack.faults.add("cognito-idp", "InvalidParameterException", function="DeleteUserFunction", count=1)
    failed = gateway.ask("/delete", email)
    assert failed.status == 502
    # … of somebody who buys again meanwhile …
    until(lambda: time.time() >= failed.document["deleted_at"] + 1)
    stripe.auto_deliver = False
    stripe.create_subscription(subscriber["customer"], gateway.seat, 1)
    stripe.auto_deliver = True
    assert gateway.ask("/delete", email).status == 200
    # … and of which a purchase turns up late.
    gateway.send(late)
    gateway.settle()


def drive_reconciliation(gateway: Gateway) -> None:
    """Every state of the reconciliation machine."""
    stripe = gateway.stripe
    before = len(stripe.events)
    stripe.auto_deliver = False
    stripe.checkout("unheard@example.com", gateway.one_time_seat, 1, mode="payment")
    for event in stripe.events[before:]:
        stripe.stored("event", event["id"])["created"] -= 3600  # what is younger may still be on its way
    stripe.checkout("longago@example.com", gateway.one_time_seat, 1, mode="payment")
    stripe.auto_deliver = True
    # Two whom the ledger has lost, one whom Cognito has lost, one who has access and does not pay, and one whose ban
    # somebody has undone.
    gateway.subscriber("lost@example.com", 1)
    gateway.lose_link("lost@example.com")
    left = gateway.subscriber("left@example.com", 1)
    with gateway.hearing():
        stripe.cancel(left["subscription"])
    gateway.lose_link("left@example.com")
    gateway.subscriber("banned@example.com", 1)
    assert gateway.ask("/hold", "banned@example.com", hold=True, reason="abuse").status == 200
    gateway.settle()
    gateway.enable_by_hand("banned@example.com")
    gateway.subscriber("gone@example.com", 1)
    gateway.delete_by_hand("gone@example.com")
    lapsed = gateway.subscriber("lapsed@example.com", 1)
    with gateway.hearing():
        stripe.cancel(lapsed["subscription"])
    stopped = gateway.reconcile(find="drift", max_disabled=0)
    assert (stopped.status, stopped.error) == ("FAILED", "TooManyDisabled")
    assert gateway.access("lapsed@example.com") == (True, 1, "ACTIVE")
    done = gateway.reconcile(backfill=True)
    assert (done.status, done.error) == ("SUCCEEDED", None)
    assert gateway.access("banned@example.com") == (False, 1, "ACTIVE")
    for email in ("lapsed@example.com", "left@example.com"):
        assert gateway.access(email) == (False, 0, "CANCELLED"), email
    for email in ("unheard@example.com", "longago@example.com", "lost@example.com", "gone@example.com"):
        assert gateway.access(email) == (True, 1, "ACTIVE"), email


def _as_allowed(resource: str | None, may: set[tuple[str, str]]) -> str | None:
    """The pattern that allows a secret whose ARN ends as Secrets Manager chose."""
    patterns = (arn for _, arn in may if "?" in arn and resource is not None and fnmatchcase(resource, arn))
    return next(patterns, resource)


@pytest.fixture(scope="module")
def driven(tmp_path_factory: pytest.TempPathFactory) -> Driven:
    parameters = {"EmailChange": "follow", "PaymentStatusTopicArn": TOPIC}
    with Gateway(tmp_path_factory.mktemp("driven"), custom_resources=True, **parameters) as gateway:
        drive_every_path(gateway)
        assert gateway.stack.update(code_changed=True) == []
        found = gateway.stack.invoke("DoctorFunction", {})
        assert (found.error, found.result["wrong"]) == (None, [])
        gateway.stack.delete()
        template = gateway.stack.template
        by_role = roles(template)
        may = {
            resource.logical_id: {
                (action, arn)
                for statement in by_role[f"{resource.logical_id}Role"].statements
                for action in statement.actions
                for arn in statement.called
                if not action.startswith(UNASKED)
            }
            for resource in template.of_type("AWS::Lambda::Function", "AWS::StepFunctions::StateMachine")
        }
        did = {
            name: {
                (call.action, _as_allowed(call.resource, may[name]))
                for call in gateway.stack.calls
                if call.function == name and not call.action.startswith(UNASKED)
            }
            for name in may
        }
        return Driven(did, may, list(gateway.stack.denied))


def test_nothing_is_denied(driven: Driven) -> None:
    assert driven.denied == []


@pytest.mark.parametrize("name", NAMES)
def test_a_role_allows_exactly_what_was_done(driven: Driven, name: str) -> None:
    assert driven.did[name] == driven.may[name]


def test_there_is_no_other_role(driven: Driven) -> None:
    assert set(driven.may) == set(NAMES)


def test_no_action_and_no_resource_is_a_pattern(driven: Driven) -> None:
    assert [one for allowed in driven.may.values() for one in allowed if "*" in f"{one[0]}{one[1]}"] == []


@pytest.fixture
def without_sign_out(tmp_path: Path) -> Path:
    """A copy of the template in which DisableUser may not sign users out."""
    action = "cognito-idp:AdminUserGlobalSignOut"
    before, name, after = SOURCE.read_text(encoding="utf-8").partition("\n  DisableUserFunction:\n")
    lines = after.splitlines(keepends=True)
    del lines[next(index for index, line in enumerate(lines) if line.strip() == f"- {action}")]
    return template_with(tmp_path, before + name + "".join(lines))


def test_without_one_of_its_actions_a_run_fails_and_says_so(tmp_path: Path, without_sign_out: Path) -> None:
    with Gateway(tmp_path, template=without_sign_out) as gateway:
        subscriber = gateway.subscriber("stays@example.com", 2)
        gateway.stripe.auto_deliver = False
        ended = gateway.stripe.cancel(subscriber["subscription"])
        event = gateway.event("customer.subscription.deleted", ended)
        gateway.send(event)
        gateway.settle()
        order = gateway.order(event["id"])
        assert order["state"] == "UNFULFILLED"
        assert order["last_error"].startswith("CognitoRejected: Cognito admin_user_global_sign_out was refused")
        assert {(call.function, call.action) for call in gateway.stack.denied} == {
            ("DisableUserFunction", "cognito-idp:AdminUserGlobalSignOut")
        }
        user = gateway.user("stays@example.com")
        assert user is not None
        assert user.enabled


def test_there_is_no_other_route() -> None:
    text = SOURCE.read_text(encoding="utf-8")
    decided = re.findall(r"Method: (\S+)\s+Path: (\S+)\s+Auth:\s+\{?Authorizer: (\w+)", text)
    assert sorted(decided) == sorted(ROUTES)
    assert sorted(re.findall(r"\sPath: (\S+)", text)) == sorted(["/create", *(path for _, path, _ in ROUTES)])


@pytest.mark.parametrize(
    ("instead", "error", "message"),
    [
        ("", TemplateError, "{method} {path} has no authorizer"),
        ("Auth: {Authorizer: NONE}", InvalidDocumentException, "'NONE' is only a valid value"),
    ],
)
@pytest.mark.parametrize(("method", "path", "authorizer"), ROUTES)
def test_a_template_with_an_open_route_does_not_start(
    tmp_path: Path, method: str, path: str, authorizer: str, instead: str, error: type[Exception], message: str
) -> None:
    route = rf"(Method: {method}\s+Path: {re.escape(path)}\s+)Auth:\s+\{{?Authorizer: {authorizer}\}}?"
    opened, times = re.subn(route, rf"\g<1>{instead}", SOURCE.read_text(encoding="utf-8"))
    assert times == 1
    template = template_with(tmp_path, opened)
    expected = message.format(method=method, path=re.escape(path))
    with pytest.raises(error, match=expected), Gateway(tmp_path, template=template):
        pytest.fail("it started")
