"""The stack as `sam deploy` makes, changes and deletes it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from stripe import WebhookSignature

from tests.deploy.conftest import Cloud, Json, Project, Stack, until
from tests.local.stripe_account import StripeAccount

API_KEY = "rk_test_deployed"
SIGNING_SECRET = "whsec_deployed"
DAPPS = 3

OUTLIVE = {"OrdersTable", "HashKeySecret", "UserPool", "UserPoolClient"}
"""What a deletion of the stack leaves: the ledger, its key, and the users."""


@pytest.fixture(scope="module")
def deployed(cloud: Cloud, project: Project, stripe_api: str) -> Stack:
    """The stack of samconfig.toml, with its secrets in place. A test may add customers to it, no more."""
    done = project.deploy(StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    stack = Stack("stripe-cognito-gateway", cloud)
    configure(stack)
    return stack


def configure(stack: Stack) -> None:
    stack.put_secret("StripeApiKeySecret", API_KEY)
    stack.put_secret("StripeWebhookSecret", SIGNING_SECRET)


def purchase(account: StripeAccount, email: str) -> Json:
    """The event that Stripe sends when this buyer has paid in Checkout."""
    product = account.create_product("API")
    recurring = {"interval": "month"}
    price = account.create_price(product["id"], 500, recurring=recurring, metadata={"dapps": "1"})
    account.checkout(email, price["id"], quantity=DAPPS)
    bought = [each for each in account.events if each["type"] == "checkout.session.completed"]
    found: Json = bought[-1]
    return found


def tell(stack: Stack, event: Json, secret: str = SIGNING_SECRET) -> requests.Response:
    """Deliver an event as Stripe does, signed."""
    body = json.dumps(event)
    header = WebhookSignature.generate_signature_header(body, secret)
    return stack.post("/create", body.encode(), **{"Stripe-Signature": header})


def orders(stack: Stack) -> dict[str, str]:
    """Event id -> state of every order in the ledger."""
    return {row["event_id"]["S"]: row["state"]["S"] for row in stack.rows() if row["sk"]["S"] == "ORDER"}


def test_the_stack_is_made(deployed: Stack) -> None:
    assert deployed.status == "CREATE_COMPLETE"
    assert {each["ResourceStatus"] for each in deployed.resources.values()} == {"CREATE_COMPLETE"}


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


def test_an_update_changes_what_changed_and_keeps_the_rest(
    cloud: Cloud, project: Project, stripe_api: str, account: StripeAccount, tmp_path: Path
) -> None:
    changing = project.copy(tmp_path / "changing")
    first = changing.deploy("updated", StripeApiBase=stripe_api, GracePeriodHours="72")
    assert first.returncode == 0, first.stdout
    stack = Stack("updated", cloud)
    configure(stack)
    before = {name: each["PhysicalResourceId"] for name, each in stack.resources.items()}

    source = changing.folder / "functions" / "webhook.py"
    text = source.read_text(encoding="utf-8")
    assert text.count('"accepted"') == 1
    source.write_text(text.replace('"accepted"', '"taken"'), encoding="utf-8")
    changing.build()
    second = changing.deploy("updated", StripeApiBase=stripe_api, GracePeriodHours="48")
    assert second.returncode == 0, second.stdout

    assert stack.status == "UPDATE_COMPLETE"
    assert {name: each["PhysicalResourceId"] for name, each in stack.resources.items()} == before
    function = before["ReadBillingFunction"]
    variables = cloud.client("lambda").get_function_configuration(FunctionName=function)["Environment"]["Variables"]
    assert variables["GRACE_PERIOD_HOURS"] == "48"
    assert tell(stack, purchase(account, "buyer@example.com")).json() == {"message": "taken"}
    until(lambda: stack.user("buyer@example.com"))


def test_a_deletion_leaves_the_ledger_and_the_users_and_nothing_else(
    cloud: Cloud, project: Project, stripe_api: str
) -> None:
    standing = everything(cloud)
    done = project.deploy("deleted", StripeApiBase=stripe_api)
    assert done.returncode == 0, done.stdout
    stack = Stack("deleted", cloud)
    made = {name: each["PhysicalResourceId"] for name, each in stack.resources.items()}
    identity = next(each["StackId"] for each in stack.events())

    done = project.sam("delete", "--stack-name", "deleted", "--no-prompts")
    assert done.returncode == 0, done.stdout

    assert Stack(identity, cloud).status == "DELETE_COMPLETE"
    assert everything(cloud) - standing == {made[name] for name in OUTLIVE}


def everything(cloud: Cloud) -> set[str]:
    """The physical ids of all that stacks of ours are made of, asked of the services and not of CloudFormation."""
    listed: Iterator[str] = (
        str(each[name])
        for service, operation, key, name in (
            ("apigatewayv2", "get_apis", "Items", "ApiId"),
            ("cloudwatch", "describe_alarms", "MetricAlarms", "AlarmName"),
            ("events", "list_rules", "Rules", "Name"),
            ("iam", "list_roles", "Roles", "RoleName"),
            ("lambda", "list_functions", "Functions", "FunctionName"),
            ("lambda", "list_layers", "Layers", "LayerArn"),
            ("logs", "describe_log_groups", "logGroups", "logGroupName"),
            ("secretsmanager", "list_secrets", "SecretList", "ARN"),
            ("sns", "list_topics", "Topics", "TopicArn"),
            ("stepfunctions", "list_state_machines", "stateMachines", "stateMachineArn"),
        )
        for client in [cloud.client(service)]
        for page in (
            client.get_paginator(operation).paginate()
            if client.can_paginate(operation)
            else [getattr(client, operation)()]
        )
        for each in page[key]
    )
    pools = cloud.client("cognito-idp")
    found = {*listed, *cloud.client("dynamodb").list_tables()["TableNames"]}
    for pool in pools.list_user_pools(MaxResults=60)["UserPools"]:
        clients = pools.list_user_pool_clients(UserPoolId=pool["Id"], MaxResults=60)["UserPoolClients"]
        found |= {pool["Id"], *(each["ClientId"] for each in clients)}
    return found
