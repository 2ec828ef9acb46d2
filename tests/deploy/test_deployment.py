"""The stack as `sam deploy` makes, changes and deletes it."""

import json
import re
import secrets
from pathlib import Path

import pytest
import requests
from stripe import WebhookSignature

from gateway.events import ENDPOINT_TYPES, ENDPOINT_VERSION
from tests.deploy.conftest import API_KEY, PRICE, SECRET_KEY, Cloud, Json, Project, Stack, stripe_account, until
from tests.local.stripe_account import StripeAccount

DAPPS = 3
ANOTHER_VERSION = "2026-09-30.endive"

OUTLIVE = {"OrdersTable", "HashKeySecret", "UserPool", "UserPoolClient"}
"""What a deletion of the stack leaves: the ledger, its key, and the users."""


@pytest.fixture(scope="module")
def deployed(cloud: Cloud, project: Project, stripe_api: str) -> Stack:
    """The stack of samconfig.toml. A test may add customers to it, no more."""
    cloud.store_key("stripe-cognito-gateway", API_KEY)
    done = project.deploy(StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    return Stack("stripe-cognito-gateway", cloud)


def purchase(account: StripeAccount, email: str) -> Json:
    """The event that Stripe sends when this buyer has paid in Checkout."""
    account.checkout(email, PRICE, quantity=DAPPS)
    bought = [each for each in account.events if each["type"] == "checkout.session.completed"]
    found: Json = bought[-1]
    return found


def tell(stack: Stack, event: Json, secret: str | None = None) -> requests.Response:
    """Deliver an event as Stripe does, signed with the secret of the stack's endpoint or another."""
    body = json.dumps(event)
    (ours,) = stack.signing_secrets.values()
    header = WebhookSignature.generate_signature_header(body, secret or ours)
    return stack.post("/create", body.encode(), **{"Stripe-Signature": header})


def endpoint_of(stack: Stack, account: StripeAccount) -> Json:
    """The webhook endpoint of a stack, as it is at Stripe."""
    found: Json = account.get("webhook_endpoint", stack.resources["WebhookEndpoint"]["PhysicalResourceId"])
    return found


def orders(stack: Stack) -> dict[str, str]:
    """Event id -> state of every order in the ledger."""
    return {row["event_id"]["S"]: row["state"]["S"] for row in stack.rows() if row["sk"]["S"] == "ORDER"}


def test_the_stack_is_made(deployed: Stack) -> None:
    assert deployed.status == "CREATE_COMPLETE"
    assert {each["ResourceStatus"] for each in deployed.resources.values()} == {"CREATE_COMPLETE"}


def test_the_webhook_endpoint_is_registered(deployed: Stack, account: StripeAccount) -> None:
    endpoint = endpoint_of(deployed, account)
    assert endpoint["url"] == deployed.outputs["WebhookUrl"]
    assert endpoint["status"] == "enabled"
    assert set(endpoint["enabled_events"]) == ENDPOINT_TYPES
    assert endpoint["api_version"] == ENDPOINT_VERSION
    assert list(deployed.signing_secrets) == [endpoint["id"]]


def test_the_doctor_finds_nothing(deployed: Stack) -> None:
    found = deployed.invoke("DoctorFunction")
    assert (found["healthy"], found["wrong"]) == (True, [])


def test_a_purchase_makes_a_user_with_the_limit_that_was_paid_for(deployed: Stack, account: StripeAccount) -> None:
    event = purchase(account, "buyer@example.com")
    assert tell(deployed, event).status_code == 200
    until(lambda: orders(deployed).get(event["id"]) == "FULFILLED")
    user = deployed.user("buyer@example.com")
    assert user is not None
    assert user["enabled"]
    assert user["custom:num_dapps"] == str(DAPPS)
    assert user["custom:payment_status"] == "ACTIVE"
    assert user["custom:stripe_customer_id"] == event["data"]["object"]["customer"]


def test_a_forged_event_is_refused_and_not_recorded(deployed: Stack, account: StripeAccount) -> None:
    event = purchase(account, "forger@example.com")
    answer = tell(deployed, event, "whsec_forged")
    assert answer.status_code == 400
    assert event["id"] not in orders(deployed)
    assert deployed.user("forger@example.com") is None


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/read", {}),
        ("/update", {}),
        ("/delete", {"dry_run": True}),
        ("/hold", {"hold": True, "reason": "a test"}),
    ],
)
def test_only_a_signed_request_reaches_an_operators_route(deployed: Stack, path: str, asked: Json) -> None:
    body = json.dumps({"email": "nobody@example.com"} | asked).encode()
    assert deployed.post(path, body).status_code == 403
    answer = deployed.signed(path, body)
    assert (answer.status_code, answer.json()["error"]) == (404, "AccountUnknown")


def test_the_authorizer_stands_before_the_dapps(deployed: Stack) -> None:
    assert deployed.post("/dapps", b"{}").status_code == 401
    assert deployed.post("/dapps", b"{}", Authorization="Bearer forged").status_code == 403


def test_the_same_sources_change_nothing(deployed: Stack, project: Project, stripe_api: str) -> None:
    before = deployed.events()
    done = project.deploy(StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    assert "No changes to deploy" in done.stdout
    assert deployed.events() == before


def test_updates_change_what_changed_and_keep_the_rest(
    cloud: Cloud, project: Project, stripe_api: str, account: StripeAccount, tmp_path: Path
) -> None:
    changing = project.copy(tmp_path / "changing")
    cloud.store_key("updated", API_KEY)
    done = changing.deploy("--stack-name", "updated", StripeApiBase=stripe_api, GracePeriodHours="72")
    assert done.returncode == 0, done.stdout
    stack = Stack("updated", cloud)
    before = physical_ids(stack)
    first = endpoint_of(stack, account)

    changing.change("functions/webhook.py", '"accepted"', '"taken"')
    one_less = 'ENDPOINT_TYPES = frozenset({"refund.failed"}) ^ frozenset('
    changing.change("functions/gateway/events.py", "ENDPOINT_TYPES = frozenset(", one_less)
    changing.build()
    done = changing.deploy("--stack-name", "updated", StripeApiBase=stripe_api, GracePeriodHours="48")
    assert done.returncode == 0, done.stdout

    assert stack.status == "UPDATE_COMPLETE"
    assert physical_ids(stack) == before
    function = before["ReadBillingFunction"]
    variables = cloud.client("lambda").get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    assert variables["GRACE_PERIOD_HOURS"] == "48"
    changed = endpoint_of(stack, account)
    assert set(changed["enabled_events"]) == ENDPOINT_TYPES - {"refund.failed"}
    assert changed | {"enabled_events": None} == first | {"enabled_events": None}

    changing.change("functions/gateway/events.py", f'"{ENDPOINT_VERSION}"', f'"{ANOTHER_VERSION}"')
    changing.build()
    done = changing.deploy("--stack-name", "updated", StripeApiBase=stripe_api, GracePeriodHours="48")
    assert done.returncode == 0, done.stdout

    second = endpoint_of(stack, account)
    assert second["id"] != first["id"]
    assert (second["api_version"], second["status"], second["url"]) == (ANOTHER_VERSION, "enabled", first["url"])
    assert account.get("webhook_endpoint", first["id"])["status"] == "disabled"
    assert list(stack.signing_secrets) == [second["id"]]
    assert physical_ids(stack) == before | {"WebhookEndpoint": second["id"]}
    assert tell(stack, purchase(account, "buyer@example.com")).json() == {"message": "taken"}
    until(lambda: stack.user("buyer@example.com"))


def test_a_refused_update_leaves_everything_as_it_was(cloud: Cloud, project: Project, stripe_api: str) -> None:
    cloud.store_key("kept", API_KEY)
    done = project.deploy("--stack-name", "kept", StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    stack = Stack("kept", cloud)
    before, secrets_before = physical_ids(stack), stack.signing_secrets

    done = project.deploy("--stack-name", "kept", StripeApiBase=stripe_api, StripeMode="live")
    assert done.returncode == 1, done.stdout
    assert stack.status == "UPDATE_ROLLBACK_COMPLETE"
    assert "a ledger is of one mode" in stack.reasons["Setup"]
    assert (physical_ids(stack), stack.signing_secrets) == (before, secrets_before)

    done = project.deploy("--stack-name", "kept", StripeApiBase=stripe_api, GracePeriodHours="48")
    assert done.returncode == 0, done.stdout
    assert stack.status == "UPDATE_COMPLETE"


def physical_ids(stack: Stack) -> dict[str, str]:
    """Logical id -> physical id, without versions of functions and checks, which every change of code makes anew."""
    return {
        name: each["PhysicalResourceId"]
        for name, each in stack.resources.items()
        if each["ResourceType"] not in ("AWS::Lambda::Version", "Custom::Setup", "Custom::KnownAccount")
    }


def test_a_deletion_leaves_the_ledger_and_the_users_and_nothing_else(
    cloud: Cloud, project: Project, stripe_api: str, account: StripeAccount
) -> None:
    cloud.store_key("deleted", API_KEY)
    standing = everything(cloud)
    done = project.deploy("--stack-name", "deleted", StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    stack = Stack("deleted", cloud)
    made = physical_ids(stack)
    identity = stack.events()[0]["StackId"]

    done = project.sam("delete", "--stack-name", "deleted", "--no-prompts")
    assert done.returncode == 0, done.stdout

    assert Stack(identity, cloud).status == "DELETE_COMPLETE"
    assert everything(cloud) - standing == {made[name] for name in OUTLIVE}
    assert account.get("webhook_endpoint", made["WebhookEndpoint"])["status"] == "disabled"


# ------------------------------------------------------------------ what cannot work is not deployed


def refused(cloud: Cloud, project: Project, stripe_api: str, *, key: str | None, **parameters: str) -> str:
    """Deploy what cannot work; the reason that an operator reads. Nothing is left of it."""
    name = f"refused-{secrets.token_hex(4)}"
    if key is not None:
        cloud.store_key(name, key)
    standing = everything(cloud)
    done = project.deploy("--stack-name", name, "--on-failure", "ROLLBACK", StripeApiBase=stripe_api, **parameters)
    stack = Stack(name, cloud)
    left = everything(cloud) - standing
    assert (done.returncode, stack.status, left) == (1, "ROLLBACK_COMPLETE", set()), done.stdout
    reasons = stack.reasons
    assert list(reasons) == ["Setup"]
    assert without_spaces(reasons["Setup"]) in without_spaces(done.stdout), done.stdout  # in a narrow column
    return reasons["Setup"]


def without_spaces(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (None, "the Stripe key cannot be read"),
        ("rk_test_of_nobody", "Stripe takes no such key"),
        ("rk_live_of_nobody", "the Stripe key is of live mode, and StripeMode is test"),
        (SECRET_KEY, "the Stripe key is a secret key, which may do everything"),
    ],
)
def test_a_key_that_will_not_do_ends_the_deployment(
    cloud: Cloud, project: Project, stripe_api: str, key: str | None, reason: str
) -> None:
    assert reason in refused(cloud, project, stripe_api, key=key)


def test_an_account_that_sells_no_dapps_ends_the_deployment(cloud: Cloud, project: Project) -> None:
    with stripe_account(dapps=None) as (account, address):
        assert "no active price is mapped to dapps" in refused(cloud, project, address, key=API_KEY)
        assert not account.all("webhook_endpoint")


def test_a_pool_that_will_not_do_ends_the_deployment(cloud: Cloud, project: Project, stripe_api: str) -> None:
    cognito = cloud.client("cognito-idp")
    number = {"Name": "num_dapps", "AttributeDataType": "Number", "Mutable": True}
    texts = ("payment_status", "payment_provider", "stripe_customer_id", "disabled_by")
    pool = cognito.create_user_pool(
        PoolName="theirs",
        UsernameAttributes=["email"],
        UsernameConfiguration={"CaseSensitive": True},
        Schema=[number, *({"Name": name, "AttributeDataType": "String", "Mutable": True} for name in texts)],
    )["UserPool"]["Id"]
    app = cognito.create_user_pool_client(
        UserPoolId=pool, ClientName="theirs", WriteAttributes=["name", "custom:num_dapps"]
    )["UserPoolClient"]["ClientId"]
    reason = refused(cloud, project, stripe_api, key=API_KEY, UserPoolId=pool, UserPoolClientId=app)
    assert "the user pool is case-sensitive" in reason
    assert f"the app client {app} may write custom:num_dapps" in reason


def test_a_deployment_that_failed_is_repeated_when_its_reason_is_gone(
    cloud: Cloud, project: Project, stripe_api: str
) -> None:
    done = project.deploy("--stack-name", "repeated", StripeApiBase=stripe_api)
    assert done.returncode == 1, done.stdout
    cloud.store_key("repeated", API_KEY)
    done = project.deploy("--stack-name", "repeated", StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    assert Stack("repeated", cloud).status == "CREATE_COMPLETE"


LISTS = (
    ("apigatewayv2", "get_apis", "Items", "ApiId"),
    ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
    ("events", "list_rules", "Rules", "Name"),
    ("iam", "list_roles", "Roles", "RoleName"),
    ("lambda", "list_functions", "Functions", "FunctionName"),
    ("logs", "describe_log_groups", "logGroups", "logGroupName"),
    ("secretsmanager", "list_secrets", "SecretList", "ARN"),
    ("sns", "list_topics", "Topics", "TopicArn"),
    ("stepfunctions", "list_state_machines", "stateMachines", "stateMachineArn"),
)
"""Service, operation, and where in its answer the physical ids are."""


def everything(cloud: Cloud) -> set[str]:
    """The physical ids of all that stacks of ours are made of, asked of the services and not of CloudFormation."""
    found = set(cloud.client("dynamodb").list_tables()["TableNames"])
    for service, operation, key, name in LISTS:
        for page in cloud.client(service).get_paginator(operation).paginate():
            found |= {each[name] for each in page[key]}
    functions, pools = cloud.client("lambda"), cloud.client("cognito-idp")
    for layer in functions.list_layers()["Layers"]:
        versions = functions.list_layer_versions(LayerName=layer["LayerName"])["LayerVersions"]
        found |= {each["LayerVersionArn"] for each in versions}
    for pool in pools.list_user_pools(MaxResults=60)["UserPools"]:
        clients = pools.list_user_pool_clients(UserPoolId=pool["Id"], MaxResults=60)["UserPoolClients"]
        found |= {pool["Id"], *(each["ClientId"] for each in clients)}
    return found
