"""What a deployment checks and registers before anybody can buy: with the functions of this product, at the stand-in.

The stack's custom resources are made, updated and deleted as CloudFormation does it.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.events import ENDPOINT_TYPES, ENDPOINT_VERSION
from tests.local.custom_resources import DeploymentFailed
from tests.local.stack import REPOSITORY, STRIPE_KEY, LocalStack
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_http import StripeServer

Json = dict[str, Any]

KEY = "rk_test_deploys"
OLDER_VERSION = "2026-09-30.endive"
ATTRIBUTES = ("payment_status", "payment_provider", "stripe_customer_id", "disabled_by")


class Shop:
    """A Stripe account with a price for dapps, and the product deployed for it from a copy of its code."""

    def __init__(self, folder: Path) -> None:
        self.code = folder / "functions"
        shutil.copytree(REPOSITORY / "functions", self.code, ignore=shutil.ignore_patterns("__pycache__"))
        self.stripe = StripeAccount(keys={KEY}, backoff=0.2)
        self.server = StripeServer(self.stripe)
        product = self.stripe.create_product("API")["id"]
        self.price = self.stripe.create_price(product, 500, {"dapps": "1"}, recurring={"interval": "month"})["id"]
        self.log = folder / "functions.log"

    def deploy(self, key: str | None = KEY, **parameters: str) -> LocalStack:
        """A first deployment, as a user makes it: the secret of the Stripe key, then the stack."""
        wanted = {"StripeApiBase": self.server.url, "Architecture": "x86_64", "RetryAfterSeconds": "1"}
        return LocalStack(
            wanted | parameters,
            code=self.code,
            log=self.log,
            schedule_seconds=None,
            secrets={STRIPE_KEY: key} if key else {},
            custom_resources=True,
        )

    def endpoints(self) -> list[Json]:
        return self.stripe.all("webhook_endpoint")

    def edit_events(self, pattern: str, replacement: str) -> None:
        """Another version of the code: what an endpoint subscribes to."""
        path = self.code / "gateway/events.py"
        text, count = re.subn(pattern, replacement, path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert count == 1
        path.write_text(text, encoding="utf-8")

    def buy(self, stack: LocalStack, email: str, quantity: int = 1) -> str:
        """Checkout until all is done that follows; the limit of the one user with this address."""
        self.stripe.checkout(email, self.price, quantity)
        assert self.stripe.wait_delivered(60)
        stack.wait_idle(60)
        cognito = stack.client("cognito-idp")
        (user,) = cognito.list_users(UserPoolId=stack.user_pool_id, Filter=f'email = "{email}"')["Users"]
        assert user["Enabled"]
        attributes = {each["Name"]: each["Value"] for each in user["Attributes"]}
        return str(attributes["custom:num_dapps"])

    def close(self) -> None:
        self.server.close()


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    shop = Shop(tmp_path)
    yield shop
    shop.close()


@pytest.fixture
def stack(shop: Shop) -> Iterator[LocalStack]:
    with shop.deploy() as stack:
        yield stack


# ---------------------------------------------------------------------------------------- the first


@pytest.mark.parametrize(
    ("key", "parameters", "prepare", "reason"),
    [
        (None, {}, None, "the Stripe key cannot be read"),
        ("rk_test_unknown", {}, None, "Stripe takes no such key"),
        ("sk_test_deploys", {}, None, "the Stripe key is a secret key, which may do everything"),
        ("rk_live_deploys", {}, None, "the Stripe key is of live mode, and StripeMode is test"),
        (KEY, {"StripeMode": "live"}, None, "the Stripe key is of test mode, and StripeMode is live"),
        (KEY, {"DappPrices": '{"price_1": "five"}'}, None, "DappPrices gives 'price_1' no whole number of dapps"),
        (KEY, {"GracePeriodHours": "0.5"}, None, "GracePeriodHours: give a whole number"),
        ("whsec_deploys", {}, None, "the Stripe key does not begin with rk_test_"),
        (KEY, {}, lambda shop: shop.stripe.faults.withdraw("charge_read"), "lacks Charges and Refunds: Read:"),
        (KEY, {}, lambda shop: shop.stripe.faults.withdraw("subscription_write"), "lacks Subscriptions: Write:"),
        (KEY, {}, lambda shop: shop.stripe.faults.withdraw("webhook_write"), "Webhook Endpoints: Write"),
        (KEY, {}, lambda shop: shop.stripe.faults.grant("payout_read"), r"never needs \(Payouts\)"),
        (KEY, {}, lambda shop: shop.stripe.update_price(shop.price, metadata={}), "no active price is mapped to dapps"),
        (KEY, {}, lambda shop: shop.stripe.update_price(shop.price, active=False), "no active price is mapped"),
    ],
)
def test_a_first_deployment_that_could_not_work_fails_and_leaves_nothing_at_stripe(
    shop: Shop, key: str | None, parameters: dict[str, str], prepare: Callable[[Shop], Any] | None, reason: str
) -> None:
    shop.stripe.faults.accept_keys({KEY, "sk_test_deploys", "rk_live_deploys"})
    if prepare:
        prepare(shop)
    with pytest.raises(DeploymentFailed, match=f"^Setup: .*{reason}") as failed, shop.deploy(key, **parameters):
        pass
    assert "Traceback" not in failed.value.reason
    assert (key or KEY) not in failed.value.reason + shop.log.read_text(encoding="utf-8")
    assert not hasattr(failed.value, "__notes__")
    assert shop.endpoints() == []
    assert {call["status"] for call in shop.stripe.requests if call["method"] != "GET"} <= {401, 403, 404}


def test_an_endpoint_made_by_hand_needs_no_right_to_make_one(shop: Shop) -> None:
    shop.stripe.faults.withdraw("webhook_write")
    shop.stripe.faults.grant("webhook_read")
    with shop.deploy(ManageWebhookEndpoint="false") as stack:
        assert shop.endpoints() == []
        secret = shop.stripe.create_webhook_endpoint(f"{stack.api}/create", sorted(ENDPOINT_TYPES))["secret"]
        stack.put_secret("StripeWebhookSecret", secret)
        assert shop.buy(stack, "hand@example.com", 2) == "2"


# ------------------------------------------------------------------------------------- its whole life


def test_a_deployment_registers_its_endpoint_and_a_deletion_disables_it(shop: Shop, stack: LocalStack) -> None:
    [endpoint] = shop.endpoints()
    assert endpoint["url"] == f"{stack.api}/create"
    assert set(endpoint["enabled_events"]) == ENDPOINT_TYPES
    assert (endpoint["api_version"], endpoint["status"]) == (ENDPOINT_VERSION, "enabled")
    assert endpoint["metadata"] == {"stack": stack.template.pseudo["AWS::StackId"]}
    assert re.fullmatch(rf"{endpoint['id']} whsec_\w+", stack.secret("StripeWebhookSecret"))
    assert shop.buy(stack, "buyer@example.com", 3) == "3"
    assert stack.denied == []
    found, error = stack.invoke("DoctorFunction", {})
    assert (found["healthy"], found["wrong"], error) == (True, [], None)

    assert stack.update() == []
    assert shop.endpoints() == [endpoint]

    stack.delete()
    assert [each["status"] for each in shop.endpoints()] == ["disabled"]
    assert stack.secret("StripeWebhookSecret") == "none"


def test_a_stack_can_be_deleted_when_its_key_is_gone(shop: Shop, stack: LocalStack) -> None:
    shop.stripe.faults.accept_keys({"rk_test_another"})
    stack.delete()
    assert [each["status"] for each in shop.endpoints()] == ["enabled"]
    assert "in Stripe by hand" in shop.log.read_text(encoding="utf-8")


def test_an_update_tells_stripe_of_another_list_of_events(shop: Shop, stack: LocalStack) -> None:
    [before] = shop.endpoints()
    shop.edit_events(r"^(ENDPOINT_TYPES = )(.*)$", r'\1{"plan.created"} | \2')
    assert stack.update(code_changed=True) == []
    [after] = shop.endpoints()
    assert after["id"] == before["id"]
    assert set(after["enabled_events"]) == ENDPOINT_TYPES | {"plan.created"}
    assert stack.secret("StripeWebhookSecret").startswith(f"{before['id']} whsec_")


def test_while_the_api_version_changes_both_endpoints_are_told_and_an_event_is_one_order(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.edit_events(rf'^ENDPOINT_VERSION = "{ENDPOINT_VERSION}"$', f'ENDPOINT_VERSION = "{OLDER_VERSION}"')
    with shop.deploy() as stack:
        [old] = shop.endpoints()
        assert old["api_version"] == OLDER_VERSION
        assert stack._custom is not None
        clean_up = stack._custom.clean_up

        def sell_first(kept: Any) -> Any:
            assert [each["status"] for each in shop.endpoints()] == ["enabled", "enabled"]
            assert shop.buy(stack, "both@example.com", 2) == "2"
            return clean_up(kept)

        before = len(shop.stripe.events)
        shop.edit_events(rf'^ENDPOINT_VERSION = "{OLDER_VERSION}"$', f'ENDPOINT_VERSION = "{ENDPOINT_VERSION}"')
        with monkeypatch.context() as patch:
            patch.setattr(stack._custom, "clean_up", sell_first)
            assert stack.update(code_changed=True) == []

        [retired, new] = shop.endpoints()
        assert (retired["id"], retired["status"]) == (old["id"], "disabled")
        assert (new["api_version"], new["status"]) == (ENDPOINT_VERSION, "enabled")
        told = [event for event in shop.stripe.events[before:] if event["type"] in ENDPOINT_TYPES]
        assert told
        assert all(shop.stripe.delivered(event["id"]) for event in told)
        runs = [execution.name for execution in stack.executions()]
        assert sorted(name for name in runs if "-r" not in name) == sorted(event["id"] for event in told)
        assert len(stack.outbox) == 1
        assert re.fullmatch(rf"{new['id']} whsec_\w+", stack.secret("StripeWebhookSecret"))
        assert shop.buy(stack, "after@example.com") == "1"
        stack.delete()
        assert {each["status"] for each in shop.endpoints()} == {"disabled"}


# ------------------------------------------------------------------------------------ refused updates


def test_a_stack_keeps_its_mode(shop: Shop, stack: LocalStack) -> None:
    [before] = shop.endpoints()
    with pytest.raises(DeploymentFailed, match=r"^Setup: .*StripeMode was test") as failed:
        stack.update(StripeMode="live")
    assert not hasattr(failed.value, "__notes__")
    assert shop.endpoints() == [before]
    assert shop.buy(stack, "still@example.com") == "1"


def test_an_update_that_is_refused_is_undone_without_stripe_and_can_be_repeated(shop: Shop, stack: LocalStack) -> None:
    shop.stripe.faults.withdraw("event_read")
    with pytest.raises(DeploymentFailed, match=r"^Setup: .*lacks Events: Read") as failed:
        stack.update(code_changed=True)
    assert not hasattr(failed.value, "__notes__")
    shop.stripe.faults.grant("event_read")
    assert stack.update(code_changed=True) == []
    assert shop.buy(stack, "mended@example.com") == "1"


def test_a_key_of_another_account_is_refused_before_anything_is_registered_there(shop: Shop, stack: LocalStack) -> None:
    shop.buy(stack, "buyer@example.com")
    other = StripeAccount(keys={KEY}, backoff=0.2)
    product = other.create_product("API")["id"]
    other.create_price(product, 500, {"dapps": "1"}, recurring={"interval": "month"})
    with StripeServer(other) as server:
        with pytest.raises(DeploymentFailed, match=r"^KnownAccount: .*Stripe knows none of the ledger's") as failed:
            stack.update(StripeApiBase=server.url)
        assert not hasattr(failed.value, "__notes__")
        assert other.all("webhook_endpoint") == []
    [endpoint] = shop.endpoints()
    assert endpoint["status"] == "enabled"
    assert shop.buy(stack, "still@example.com", 2) == "2"


def test_a_failed_update_is_undone(shop: Shop, stack: LocalStack) -> None:
    [before] = shop.endpoints()
    shop.stripe.faults.fail_next(1, 400, before["id"])
    with pytest.raises(DeploymentFailed, match=r"^WebhookEndpoint: ") as failed:
        stack.update(code_changed=True, MaxDapps="7")
    assert not hasattr(failed.value, "__notes__")
    assert shop.endpoints() == [before]
    assert shop.buy(stack, "back@example.com", 9) == "9"


def test_a_second_endpoint_of_a_failed_update_is_disabled(shop: Shop, stack: LocalStack) -> None:
    [before] = shop.endpoints()
    secret = stack.secret("StripeWebhookSecret")
    shop.edit_events(rf'^ENDPOINT_VERSION = "{ENDPOINT_VERSION}"$', f'ENDPOINT_VERSION = "{OLDER_VERSION}"')
    # Longer than boto3 and the function try again.
    fault = stack.faults.add("secretsmanager", "InternalServiceError", "PutSecretValue", "RegisterWebhookFunction")
    with pytest.raises(DeploymentFailed, match=r"^WebhookEndpoint: .*does not store the secret") as failed:
        stack.update(code_changed=True)
    stack.faults.remove(fault)
    assert shop.endpoints()[0] == before
    assert [each["status"] for each in shop.endpoints()[1:]] == ["disabled"], failed.value
    assert stack.secret("StripeWebhookSecret") == secret


def pool(stack: LocalStack, *, without: str = "", **changes: Any) -> str:
    """A user pool of the operator's own; its id."""
    schema = [{"Name": name, "AttributeDataType": "String", "Mutable": True} for name in ATTRIBUTES]
    limit = {"MinValue": "0", "MaxValue": "1000000"}
    schema += [
        {"Name": "num_dapps", "AttributeDataType": "Number", "Mutable": True, "NumberAttributeConstraints": limit}
    ]
    wanted: Json = {
        "UsernameAttributes": ["email"],
        "UsernameConfiguration": {"CaseSensitive": False},
        "Schema": [each for each in schema if each["Name"] != without],
    }
    made = stack.client("cognito-idp").create_user_pool(PoolName="own", **{**wanted, **changes})
    return str(made["UserPool"]["Id"])


def client_of(stack: LocalStack, pool_id: str, **more: Any) -> str:
    made = stack.client("cognito-idp").create_user_pool_client(UserPoolId=pool_id, ClientName="app", **more)
    return str(made["UserPoolClient"]["ClientId"])


def test_a_pool_that_cannot_hold_the_access_is_refused_and_one_that_can_is_taken(shop: Shop, stack: LocalStack) -> None:
    kept, own = stack.user_pool_id, pool(stack)
    open_to_users = pool(stack)
    client_of(stack, open_to_users, WriteAttributes=["email", "custom:num_dapps"])
    without_list = pool(stack)
    client_of(stack, without_list)
    small = {"MinValue": "0", "MaxValue": "10"}
    short = [{"Name": "num_dapps", "AttributeDataType": "Number", "Mutable": True, "NumberAttributeConstraints": small}]
    for pool_id, client_id, reason in [
        (pool(stack, UsernameAttributes=["phone_number"]), "", "does not sign in by e-mail alone"),
        (pool(stack, UsernameAttributes=[]), "", "does not sign in by e-mail alone"),
        (pool(stack, UsernameConfiguration={"CaseSensitive": True}), "", "is case-sensitive"),
        (pool(stack, without="num_dapps"), "", "has no attribute custom:num_dapps"),
        (pool(stack, without="disabled_by"), "", "has no attribute custom:disabled_by"),
        (pool(stack, Schema=short), "", r"does not reach from 0 to MaxDapps \(1000000\)"),
        (open_to_users, "", "may write custom:num_dapps, email"),
        (without_list, "", "may write email"),
        (own, "client-of-another", "the app client client-of-another is not of this user pool"),
        ("us-east-1_missing", "", "CognitoRejected"),
    ]:
        with pytest.raises(DeploymentFailed, match=f"^Setup: .*{reason}") as failed:
            stack.update(UserPoolId=pool_id, UserPoolClientId=client_id)
        assert not hasattr(failed.value, "__notes__")
        assert stack.user_pool_id == kept
    client_id = client_of(stack, own, WriteAttributes=["name"])
    stack.update(UserPoolId=own, UserPoolClientId=client_id)
    assert stack.user_pool_id == own
    assert shop.buy(stack, "own@example.com", 2) == "2"
    assert stack.denied == []
