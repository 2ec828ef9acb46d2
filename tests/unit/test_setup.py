"""What a deployment asks, and the doctor: the real handlers, the Stripe stand-in, and CloudFormation's answers."""

import copy
import json
import traceback
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError
from werkzeug.wrappers import Request, Response

from gateway import account as questions
from gateway import billing, custom_resource, signature
from gateway.account import Account
from gateway.errors import (
    CognitoRejected,
    GatewayError,
    LedgerRejected,
    LedgerUnavailable,
    SecretUnavailable,
    StripeUnavailable,
)
from gateway.events import ENDPOINT_TYPES, ENDPOINT_VERSION, HANDLED_TYPES
from gateway.secret import Secret
from gateway.settings import SettingMissing
from gateway.users import Pool
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_faults import IMPLIED, PERMISSIONS, RIGHTS
from tests.unit.door import KEY, Door, Json, Vault
from tests.unit.steps import module

URL = "https://api.example.com/create"
STACK = "arn:aws:cloudformation:us-east-1:123456789012:stack/gateway/0001"
NUMBERS = {
    "EventsWindowHours": "24",
    "GracePeriodHours": "72",
    "InvitationDays": "7",
    "MaxDapps": "1000000",
    "MaxDisabled": "100",
    "MaxDisabledPercent": "5",
    "RepairsPerSecond": "10",
    "RetryAfterSeconds": "300",
}
PLACEHOLDER = "n0tAsecret"
POOL: Json = {
    "UsernameAttributes": ["email"],
    "UsernameConfiguration": {"CaseSensitive": False},
    "EmailConfiguration": {"EmailSendingAccount": "DEVELOPER"},
    "AdminCreateUserConfig": {"AllowAdminCreateUserOnly": True},
    "SchemaAttributes": [
        {
            "Name": "custom:num_dapps",
            "AttributeDataType": "Number",
            "Mutable": True,
            "NumberAttributeConstraints": {"MinValue": "0", "MaxValue": "1000000"},
        },
        *(
            {"Name": f"custom:{name}", "AttributeDataType": "String", "Mutable": True}
            for name in ("payment_status", "payment_provider", "stripe_customer_id", "disabled_by")
        ),
    ],
}


# What a key must not be able to do, and what it is called in Stripe's dashboard.
TO_SPARE = {
    "application_fee_read": "Application Fees",
    "balance_read": "Balance",
    "charge_write": "Charges and Refunds: Write",
    "checkout_session_write": "Checkout Sessions: Write",
    "connected_account_read": "Connected Accounts",
    "coupon_read": "Coupons",
    "credit_note_write": "Credit Notes: Write",
    "customer_write": "Customers: Write",
    "dispute_write": "Disputes: Write",
    "file_read": "Files",
    "invoice_write": "Invoices: Write",
    "payment_intent_write": "Payment Intents: Write",
    "payment_links_write": "Payment Links: Write",
    "payment_method_read": "Payment Methods",
    "payout_read": "Payouts",
    "plan_write": "Prices: Write",
    "product_write": "Products: Write",
    "promotion_code_write": "Promotion Codes: Write",
    "quote_read": "Quotes",
    "setup_intent_write": "Setup Intents: Write",
    "top_up_read": "Top-ups",
    "transfer_read": "Transfers",
}
# Whoever may write may read.
TO_SPARE |= {right.replace("_read", "_write"): name for right, name in TO_SPARE.items()}


class Cognito:
    """A user pool with its app clients, two on a page."""

    def __init__(self) -> None:
        self.pool = copy.deepcopy(POOL)
        self.clients: dict[str, Json] = {"UserPoolClient": {"WriteAttributes": ["name"]}}
        self.error: Exception | None = None

    def describe_user_pool(self, UserPoolId: str) -> Json:  # noqa: N803
        if self.error is not None:
            raise self.error
        return {"UserPool": {"Id": UserPoolId, **self.pool}}

    def list_user_pool_clients(self, UserPoolId: str, MaxResults: int, NextToken: str = "0") -> Json:  # noqa: N803
        assert MaxResults == 60
        start = int(NextToken)
        page = [{"ClientId": each, "UserPoolId": UserPoolId} for each in list(self.clients)[start : start + 2]]
        return {"UserPoolClients": page, **({"NextToken": str(start + 2)} if start + 2 < len(self.clients) else {})}

    def describe_user_pool_client(self, UserPoolId: str, ClientId: str) -> Json:  # noqa: N803
        return {"UserPoolClient": {"ClientId": ClientId, "UserPoolId": UserPoolId, **self.clients[ClientId]}}


class Store(Vault):
    """A secret that can be written."""

    def put_secret_value(self, SecretId: str, SecretString: str) -> None:  # noqa: N803
        self.text = SecretString


class Ledger:
    """A ledger whose subscribers are these."""

    def __init__(self) -> None:
        self.subscribers: list[str] = []
        self.error: Exception | None = None

    def some_subscribers(self, most: int) -> list[str]:
        if self.error is not None:
            raise self.error
        return self.subscribers[:most]

    def party(self, party: str) -> Any:
        return SimpleNamespace(id=party, deleted_at=None, subscribed=False)


class CloudFormation:
    """Asks, and takes the answer. `statuses`: of the next answers of its server, 200 after those."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.statuses: list[int] = []
        self.told: list[Json] = []

    def __call__(self, environ: Json, start_response: Any) -> Any:
        request = Request(environ)
        if not request.path.startswith("/answer"):
            return self.door.stripe(environ, start_response)
        assert (request.method, request.headers.get("content-type", "")) == ("PUT", "")
        status = self.statuses.pop(0) if self.statuses else 200
        if status == 200:
            self.told.append(json.loads(request.get_data()))
        return Response("", status)(environ, start_response)


class World:
    """All that these functions see."""

    def __init__(self, account: StripeAccount, door: Door, patch: pytest.MonkeyPatch) -> None:
        self.stripe = account
        self.price = account.create_price(account.create_product("API")["id"], 500, metadata={"dapps": "1"})["id"]
        self.vault = Store()
        self.signing = Store()
        self.signing.text = PLACEHOLDER
        self.cognito = Cognito()
        self.ledger = Ledger()
        self.pauses: list[float] = []
        self.cloudformation = CloudFormation(door)
        self._door, self._patch = door, patch
        door.app = self.cloudformation
        patch.setattr(custom_resource, "time", SimpleNamespace(sleep=self.pauses.append))

    def module(self, function: str, **given: Any) -> ModuleType:
        found = module(function)
        key = Secret(self.vault, "arn:key", self._time)
        account = Account(key, base=self._door.url, livemode=False, prices=given.pop("prices", {}))
        world = {
            "key": key,
            "account": account,
            "account_with": lambda _: account,
            "signing": Secret(self.signing, "arn:signing", self._time),
            "pool": Pool(self.cognito, "pool"),
            "ledger": self.ledger,
            "URL": URL,
            **given,
        }
        for name, value in world.items():
            if hasattr(found, name):
                self._patch.setattr(found, name, value)
        return found

    def _time(self) -> float:
        return 1_000.0

    def ask(
        self, function: str, kind: str, resource: str | None = None, before: Json | None = None, **given: Any
    ) -> Json:
        """CloudFormation's request, and the answer that it got."""
        event: Json = {
            "RequestType": kind,
            "RequestId": given.pop("request", str(uuid.uuid4())),
            "ResponseURL": f"{self._door.url}/answer?X-Amz-Signature=signed",
            "StackId": given.pop("stack", STACK),
            "LogicalResourceId": "Resource",
            "ResourceType": "Custom::Resource",
            "ResourceProperties": {"StripeMode": "test", "Url": URL} | NUMBERS | given.pop("properties", {}),
        }
        if resource is not None:
            event["PhysicalResourceId"] = resource
        if before is not None:
            event["OldResourceProperties"] = before
        context = SimpleNamespace(function_name=function, aws_request_id="1")
        assert self.module(function, **given).handler(event, context) is None
        answer = self.cloudformation.told[-1]
        assert {answer[name] == event[name] for name in ("StackId", "RequestId", "LogicalResourceId")} == {True}
        assert answer["PhysicalResourceId"]
        return answer

    def setup(self, **given: Any) -> str:
        """Why a deployment is refused; empty when it is not."""
        answer = self.ask("CheckSetup", "Create", **given)
        assert (answer["Status"] == "FAILED") is bool(answer["Reason"])
        return str(answer["Reason"])

    def known(self, kind: str = "Create", resource: str | None = None) -> Json:
        return self.ask("CheckAccount", kind, resource)

    def register(self, kind: str = "Create", resource: str | None = None, **given: Any) -> str:
        answer = self.ask("RegisterWebhook", kind, resource, **given)
        assert answer["Status"] == "SUCCESS", answer
        return str(answer["PhysicalResourceId"])

    def examine(self, **given: Any) -> Json:
        context = SimpleNamespace(function_name="Doctor", aws_request_id="1")
        found: Json = self.module("Doctor", **given).handler({}, context)
        assert found["healthy"] is not bool(found["wrong"])
        return found

    def endpoint(self, name: str) -> Json:
        return dict(self.stripe.stored("webhook_endpoint", name))


@pytest.fixture(scope="module")
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.close()


@pytest.fixture
def world(door: Door, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    account = StripeAccount(keys={KEY, "sk_test_all", "rk_live_other"})
    door.serve(account)
    world = World(account, door, monkeypatch)
    yield world
    account.close()


class TestTheAnswerToCloudFormation:
    def test_is_given_once(self, world: World) -> None:
        assert world.setup() == ""
        assert len(world.cloudformation.told) == 1

    def test_is_given_again_when_it_does_not_arrive(self, world: World) -> None:
        world.cloudformation.statuses = [503, 500]
        assert world.setup() == ""
        assert world.cloudformation.statuses == []

    def test_that_is_refused_fails_the_function_which_lambda_invokes_again(self, world: World) -> None:
        world.cloudformation.statuses = [403]
        with pytest.raises(ConnectionError, match="CloudFormation answered 403") as error:
            world.setup()
        assert "signed" not in str(error.value)

    def test_waits_for_what_passes(self, world: World) -> None:
        world.stripe.faults.fail_next(4, 503)  # the library tries each request twice
        assert world.setup() == ""
        assert world.pauses == [2, 4]

    def test_says_what_does_not_pass(self, world: World) -> None:
        world.stripe.faults.outage()
        assert world.setup().startswith("StripeUnavailable: Stripe answered 500")
        assert world.pauses == [2, 4, 8]

    def test_of_a_defect_names_its_place_alone(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Account, "dapps_by_price", lambda _: {}["buyer@example.com"])
        reason = world.setup()
        assert reason.startswith("UnexpectedError: KeyError")
        assert "buyer" not in reason

    def test_fits_into_what_cloudformation_takes(self, world: World) -> None:
        world.cognito.clients = {f"client-{each:050}": {"WriteAttributes": ["email"]} for each in range(100)}
        assert len(world.setup()) == 1000

    def test_is_logged_without_the_url(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        world.stripe.faults.withdraw("event_read")
        world.setup()
        written = "".join(str(vars(record)) for record in caplog.records)
        assert "Events: Read" in written
        assert "X-Amz" not in written


class TestASetup:
    def test_that_works_is_accepted(self, world: World) -> None:
        assert world.setup() == ""

    def test_is_not_looked_at_when_it_goes(self, world: World) -> None:
        world.vault.text = "rubbish"
        assert world.ask("CheckSetup", "Delete", "setup")["Status"] == "SUCCESS"

    @pytest.mark.parametrize(
        ("key", "reason"),
        [
            ("sk_test_all", "is a secret key, which may do everything"),
            ("rk_live_other", "is of live mode, and StripeMode is test"),
            ("sk_live_other", "is of live mode, and StripeMode is test"),
            ("pk_test_public", "does not begin with rk_test_"),
            ("n0tAkey", "does not begin with rk_test_"),
            ("rk_test_unknown", "takes no such key"),
        ],
    )
    def test_with_such_a_key_is_refused(self, world: World, key: str, reason: str) -> None:
        world.vault.text = key
        found = world.setup()
        assert reason in found
        assert key not in found

    def test_without_a_key_is_refused(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def missing(**_: Any) -> Json:
            raise SecretUnavailable("Secrets Manager refused the secret (ResourceNotFoundException)")

        monkeypatch.setattr(Secret, "_read", lambda _: missing())
        assert "the Stripe key cannot be read: Secrets Manager refused" in world.setup()

    @pytest.mark.parametrize("right", sorted(RIGHTS - IMPLIED))
    def test_lacking_a_right_is_refused(self, world: World, right: str) -> None:
        world.stripe.faults.withdraw(right)
        assert "the Stripe key lacks " in world.setup()

    def test_that_registers_no_endpoint_needs_no_right_to(self, world: World) -> None:
        world.stripe.faults.withdraw("webhook_write")
        world.stripe.faults.grant("webhook_read")
        assert "Webhook Endpoints: Write" in world.setup()
        assert world.setup(MANAGES=False) == ""

    @pytest.mark.parametrize("right", sorted(TO_SPARE))
    def test_with_a_right_to_spare_is_refused(self, world: World, right: str) -> None:
        world.stripe.faults.grant(right)
        assert f"has rights that the gateway never needs ({TO_SPARE[right]}): take them away" in world.setup()

    def test_with_every_right_is_refused_with_the_name_of_each(self, world: World) -> None:
        for right in TO_SPARE:
            world.stripe.faults.grant(right)
        assert f"({', '.join(sorted(set(TO_SPARE.values())))}): take them away" in world.setup()

    def test_asks_stripe_for_no_change(self, world: World) -> None:
        """Whatever the key may do: it lists, or it names in the path what does not exist, and says no more."""
        for resource in PERMISSIONS.values():
            world.stripe.faults.grant(f"{resource}_write")
        before = copy.deepcopy(world.stripe.objects)
        world.setup()
        assert world.stripe.objects == before
        changing = [each for each in world.stripe.requests if each["method"] != "GET"]
        assert [each for each in changing if each["params"] or "_that_is_none" not in each["path"]] == []
        assert {each["status"] for each in changing} == {404}

    def test_is_refused_by_stripe_all_that_the_gateway_never_does(self, world: World) -> None:
        world.setup()
        statuses = Counter(each["status"] for each in world.stripe.requests)
        assert statuses == {200: len(questions._READS) + 1, 404: len(questions._WRITES), 403: len(questions._NEVER)}

    def test_is_looked_at_in_time_when_stripe_is_slow(self, resources: dict[str, Any]) -> None:
        """Each question takes as long as it may, and half a minute is left for the pool and the answer."""
        asked = [*questions._READS, *questions._WRITES, *questions._NEVER, "the prices", "the webhook endpoints"]
        longest = len(asked) * sum(billing._TIMEOUT)
        for function in ("CheckSetupFunction", "DoctorFunction"):
            assert longest + 30 <= resources[function]["Timeout"]

    def test_that_sells_no_dapps_is_refused(self, world: World) -> None:
        world.stripe.stored("price", world.price)["metadata"] = {}
        assert "no active price is mapped to dapps" in world.setup()
        assert world.setup(prices={world.price: "2"}) == ""

    def test_that_sells_none_is_refused(self, world: World) -> None:
        world.stripe.stored("price", world.price)["metadata"] = {"dapps": "0"}
        assert "no active price is mapped to dapps" in world.setup()

    def test_may_say_it_of_the_product(self, world: World) -> None:
        price = world.stripe.stored("price", world.price)
        price["metadata"] = {}
        world.stripe.stored("product", price["product"])["metadata"] = {"dapps": "3"}
        assert world.setup() == ""

    def test_with_a_mapping_that_cannot_be_read_is_refused(self, world: World) -> None:
        product = world.stripe.create_product("More")["id"]
        wrong = world.stripe.create_price(product, 5, metadata={"dapps": "three"})["id"]
        assert f"{wrong} is mapped to 'three' dapps, which is no whole number" in world.setup()

    def test_is_looked_for_on_every_page_of_prices(self, world: World) -> None:
        product = world.stripe.create_product("Other")["id"]
        for _ in range(101):
            world.stripe.create_price(product, 5)
        assert world.setup() == ""

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"UsernameAttributes": []}, "does not sign in by e-mail"),
            ({"UsernameAttributes": ["email", "phone_number"]}, "does not sign in by e-mail alone"),
            ({"UsernameConfiguration": {"CaseSensitive": True}}, "is case-sensitive"),
            ({"UsernameConfiguration": {}}, "is case-sensitive"),
            ({"SchemaAttributes": POOL["SchemaAttributes"][1:]}, "has no attribute custom:num_dapps"),
            ({"SchemaAttributes": POOL["SchemaAttributes"][:4]}, "has no attribute custom:disabled_by"),
        ],
    )
    def test_with_such_a_pool_is_refused(self, world: World, change: Json, reason: str) -> None:
        world.cognito.pool |= change
        assert reason in world.setup()

    @pytest.mark.parametrize(
        ("attribute", "change", "reason"),
        [
            (0, {"AttributeDataType": "String"}, "custom:num_dapps is no mutable Number"),
            (1, {"Mutable": False}, "custom:payment_status is no mutable String"),
            (
                0,
                {"NumberAttributeConstraints": {"MinValue": "0", "MaxValue": "10"}},
                "does not reach from 0 to MaxDapps",
            ),
            (0, {"NumberAttributeConstraints": {"MinValue": "1"}}, "does not reach from 0 to MaxDapps"),
        ],
    )
    def test_with_such_an_attribute_is_refused(self, world: World, attribute: int, change: Json, reason: str) -> None:
        world.cognito.pool["SchemaAttributes"][attribute] |= change
        assert reason in world.setup()

    def test_with_a_pool_without_bounds_is_accepted(self, world: World) -> None:
        del world.cognito.pool["SchemaAttributes"][0]["NumberAttributeConstraints"]
        assert world.setup() == ""

    @pytest.mark.parametrize(
        ("client", "writable"),
        [
            ({"WriteAttributes": ["name", "custom:num_dapps"]}, "custom:num_dapps"),
            ({"WriteAttributes": ["email", "custom:disabled_by"]}, "custom:disabled_by, email"),
            ({}, "email"),  # every standard attribute
        ],
    )
    def test_with_a_client_that_writes_the_attributes_is_refused(
        self, world: World, client: Json, writable: str
    ) -> None:
        world.cognito.clients |= {"one": {"WriteAttributes": []}, "third": client}
        assert f"the app client third may write {writable}: take that away" in world.setup()

    def test_names_clients_of_the_pool_only(self, world: World) -> None:
        assert "the app client other is not of this user pool" in world.setup(CLIENTS=["UserPoolClient", "other"])

    def test_without_a_pool_of_yours_looks_at_none(self, world: World) -> None:
        world.cognito.error = CognitoRejected("not asked")
        assert world.setup(pool=None) == ""

    def test_says_everything_at_once(self, world: World) -> None:
        world.stripe.stored("price", world.price)["metadata"] = {}
        world.cognito.pool["UsernameConfiguration"] = {}
        assert world.setup().count("; ") == 1

    def test_with_a_mapping_in_a_parameter_that_cannot_be_read_is_refused(self, world: World) -> None:
        def unreadable(_: Secret) -> Account:
            raise SettingMissing("DappPrices is not JSON")

        assert "DappPrices is not JSON" in world.setup(account_with=unreadable)
        assert world.ask("CheckSetup", "Delete", "setup-1", account_with=unreadable)["Status"] == "SUCCESS"

    @pytest.mark.parametrize("name", NUMBERS)
    def test_with_a_fraction_for_a_whole_number_is_refused(self, world: World, name: str) -> None:
        """Else some function would end at its start, each time."""
        assert world.setup(properties={name: "2.5"}) == f"SetupWrong: {name}: give a whole number"

    def test_is_taken_back_by_a_deletion(self, world: World) -> None:
        """Which cannot fail, whatever is wrong with Stripe: another id at every request, also at one that fails."""
        world.stripe.faults.outage()
        failed = world.ask("CheckSetup", "Update", "setup-1", before={"StripeMode": "test"})
        assert (failed["Status"], failed["PhysicalResourceId"] == "setup-1") == ("FAILED", False)
        assert world.ask("CheckSetup", "Delete", failed["PhysicalResourceId"])["Status"] == "SUCCESS"

    def test_is_taken_back_to_what_it_was_without_asking(self, world: World) -> None:
        made = world.ask("CheckSetup", "Create")["PhysicalResourceId"]
        world.stripe.faults.outage()
        answer = world.ask("CheckSetup", "Update", made, before={"StripeMode": "live"})
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("SUCCESS", made)

    @pytest.mark.parametrize(
        ("kind", "refused", "expected"),
        [("Create", False, {"SetupWrong": 0}), ("Create", True, {}), ("Update", False, {}), ("Delete", False, {})],
    )
    def test_of_a_new_stack_counts_as_the_doctors_first_look(
        self, world: World, counted: Callable[[], Any], kind: str, refused: bool, expected: Json
    ) -> None:
        """No update does: SetupWrongAlarm would forget what the doctor found, who looks at more."""
        if refused:
            world.stripe.faults.withdraw("event_read")
        world.ask("CheckSetup", kind, None if kind == "Create" else "setup-1", before={"StripeMode": "test"})
        assert counted() == expected

    def test_keeps_the_mode_that_it_had(self, world: World) -> None:
        answer = world.ask("CheckSetup", "Update", "setup", before={"StripeMode": "live"})
        assert answer["Status"] == "FAILED"
        assert (
            "StripeMode was live, and a ledger is of one mode: deploy a second stack for test mode" in answer["Reason"]
        )
        assert world.ask("CheckSetup", "Update", "setup", before={"StripeMode": "test"})["Status"] == "SUCCESS"


class TestAnAccount:
    def test_is_any_while_nobody_has_bought(self, world: World) -> None:
        assert world.known()["Status"] == "SUCCESS"

    def test_is_the_one_that_knows_one_of_the_ledgers_customers(self, world: World) -> None:
        world.ledger.subscribers = ["cus_deleted", world.stripe.create_customer("ann@example.com")["id"]]
        assert world.known()["Status"] == "SUCCESS"

    def test_that_knows_none_of_them_is_refused(self, world: World) -> None:
        world.ledger.subscribers = ["cus_1", "cus_2"]
        answer = world.known()
        assert answer["Status"] == "FAILED"
        assert answer["Reason"] == (
            "SetupWrong: Stripe knows none of the ledger's customers: "
            "store a key of the account and mode that they are of; "
            "or, if its test data was deleted, deploy another stack"
        )

    def test_is_waited_for_while_the_ledger_is_throttled(self, world: World) -> None:
        world.ledger.error = LedgerUnavailable("no answer")
        assert world.known()["Reason"] == "LedgerUnavailable: no answer"
        assert world.pauses == [2, 4, 8]

    def test_is_taken_back_without_asking(self, world: World) -> None:
        made = world.known()["PhysicalResourceId"]
        world.ledger.subscribers = ["cus_1"]
        assert world.known("Update", made) == world.cloudformation.told[0] | {
            "RequestId": world.cloudformation.told[-1]["RequestId"]
        }
        failed = world.known("Update", "account-of-before")
        assert failed["Status"] == "FAILED"
        assert world.known("Delete", failed["PhysicalResourceId"])["Status"] == "SUCCESS"


class TestAnEndpoint:
    def test_gets_what_the_gateway_handles_and_its_secret_is_kept(self, world: World) -> None:
        made = world.register()
        endpoint = world.endpoint(made)
        assert (endpoint["url"], endpoint["status"], endpoint["api_version"]) == (URL, "enabled", ENDPOINT_VERSION)
        assert set(endpoint["enabled_events"]) == ENDPOINT_TYPES < HANDLED_TYPES
        assert endpoint["metadata"] == {"stack": STACK}
        (secret,) = signature.secrets_in(world.signing.text)
        assert world.signing.text == f"{made} {secret}"

    def test_is_made_once_however_often_lambda_asks(self, world: World) -> None:
        request = str(uuid.uuid4())
        made = {world.register(request=request) for _ in range(3)}
        assert len(made) == len(world.stripe.objects["webhook_endpoint"]) == 1
        assert len(signature.secrets_in(world.signing.text)) == 1

    def test_whose_secret_cannot_be_kept_is_named_so_that_it_is_disabled(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refused(*_: object) -> None:
            raise SecretUnavailable("Secrets Manager does not store the secret (AccessDeniedException)")

        with monkeypatch.context() as patch:
            patch.setattr(Secret, "put", refused)
            answer = world.ask("RegisterWebhook", "Create")
        assert (answer["Status"], answer["PhysicalResourceId"][:3]) == ("FAILED", "we_")
        assert len(world.stripe.objects["webhook_endpoint"]) == 1
        world.register("Delete", answer["PhysicalResourceId"])
        assert world.endpoint(answer["PhysicalResourceId"])["status"] == "disabled"

    def test_stands_beside_those_registered_by_hand(self, world: World) -> None:
        by_hand = "whsec_0000000000byhand\nwhsec_0000000000000two whsec_00000000000three"
        world.signing.text = by_hand
        made = world.register()
        lines = world.signing.text.splitlines()
        assert ("\n".join(lines[:2]), lines[2].split()[0]) == (by_hand, made)
        world.register("Delete", made)
        assert world.signing.text == by_hand

    def test_that_is_as_it_must_be_stays(self, world: World) -> None:
        made, stored = world.register(), world.signing.text
        assert world.register("Update", made) == made
        assert world.signing.text == stored

    def test_gets_other_events_when_the_code_handles_others(self, world: World) -> None:
        made = world.register()
        assert world.register("Update", made, ENDPOINT_TYPES=frozenset(("invoice.paid",))) == made
        assert world.endpoint(made)["enabled_events"] == ["invoice.paid"]

    def test_that_somebody_disabled_is_enabled_again(self, world: World) -> None:
        made = world.register()
        world.stripe.stored("webhook_endpoint", made)["status"] = "disabled"
        assert world.register("Update", made) == made
        assert world.endpoint(made)["status"] == "enabled"

    def test_of_another_api_version_is_a_second_one_until_the_first_is_deleted(self, world: World) -> None:
        first = world.register()
        second = world.register("Update", first, ENDPOINT_VERSION="2026-09-30.endive")
        assert second != first
        assert [world.endpoint(each)["status"] for each in (first, second)] == ["enabled", "enabled"]
        assert world.endpoint(second)["api_version"] == "2026-09-30.endive"
        assert len(signature.secrets_in(world.signing.text)) == 2
        world.register("Delete", first)
        assert [world.endpoint(each)["status"] for each in (first, second)] == ["disabled", "enabled"]
        assert world.signing.text.split()[0] == second

    @pytest.mark.parametrize("lost", ["endpoint", "secret"])
    def test_that_is_lost_is_made_again(self, world: World, lost: str) -> None:
        first = world.register()
        if lost == "endpoint":
            world.stripe.delete_webhook_endpoint(first)
        else:
            world.signing.text = PLACEHOLDER
        second = world.register("Update", first)
        assert second != first
        assert signature.has_secret(world.signing.text, second)
        world.register("Delete", first)

    def test_goes_with_its_stack(self, world: World) -> None:
        made = world.register()
        world.register("Delete", made)
        world.register("Delete", made)
        assert world.endpoint(made)["status"] == "disabled"
        assert signature.secrets_in(world.signing.text) == []

    def test_that_is_disabled_is_spared_by_the_one_that_takes_its_place(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the update fails afterwards, it is the stack's again."""
        first, older = world.register(), world.register()
        for each in (first, older):
            world.stripe.stored("webhook_endpoint", each)["status"] = "disabled"
        put, failures = Secret.put, [SecretUnavailable("throttled")]

        def throttled(secret: Secret, text: str) -> None:  # so that it is tried twice
            if failures:
                raise failures.pop()
            put(secret, text)

        monkeypatch.setattr(Secret, "put", throttled)
        second = world.register("Update", first, ENDPOINT_VERSION="2026-09-30.endive")
        assert (failures, world.pauses) == ([], [2])
        assert set(world.stripe.objects["webhook_endpoint"]) == {first, second}

    def test_is_disabled_though_its_secret_is_throttled_for_a_moment(
        self, world: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = world.register()
        latest, failures = Secret.latest, [SecretUnavailable("throttled")] * 3

        def throttled(secret: Secret) -> str:
            if failures:
                raise failures.pop()
            return latest(secret)

        monkeypatch.setattr(Secret, "latest", throttled)
        world.register("Delete", made)
        assert world.endpoint(made)["status"] == "disabled"
        assert world.pauses == [2, 4, 8]
        assert signature.secrets_in(world.signing.text) == []

    def test_that_was_never_made_needs_nothing_to_go(self, world: World) -> None:
        world.signing.text = "whsec_0000000000000001"
        world.register("Delete", "no-Resource")
        assert world.signing.text == "whsec_0000000000000001"

    def test_goes_without_stripe_when_the_key_went_first(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        made = world.register()
        world.stripe.faults.accept_keys(set())
        world.register("Delete", made)
        assert f"disable {made} in Stripe by hand" in caplog.text
        assert signature.has_secret(world.signing.text, made)

    def test_of_another_account_keeps_its_secret(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        """With a key of another account it seems gone, and is not: its events stay authentic."""
        made = world.register()
        del world.stripe.objects["webhook_endpoint"][made]
        world.register("Delete", made)
        assert f"Stripe does not know {made} with this key" in caplog.text
        assert signature.has_secret(world.signing.text, made)

    def test_is_not_forgotten_while_stripe_is_away(self, world: World) -> None:
        made = world.register()
        world.stripe.faults.outage()
        answer = world.ask("RegisterWebhook", "Delete", made)
        assert (answer["Status"], answer["PhysicalResourceId"]) == ("FAILED", made)
        assert len(signature.secrets_in(world.signing.text)) == 1

    def test_of_an_earlier_stack_of_this_name_makes_room_once_it_is_disabled(self, world: World) -> None:
        """Stripe allows sixteen."""
        for number in range(20):
            made = world.register(stack=f"{STACK[:-4]}{number:04}")
            world.register("Delete", made)
        assert list(world.stripe.objects["webhook_endpoint"]) == [made]

    def test_of_somebody_else_is_never_touched(self, world: World) -> None:
        others = [
            world.stripe.create_webhook_endpoint(URL, ["*"], metadata=metadata)["id"]
            for metadata in ({}, {"stack": "arn:aws:cloudformation:us-east-1:123456789012:stack/other/0001"})
        ]
        for each in others:
            world.stripe.update_webhook_endpoint(each, status="disabled")
        world.register()
        assert set(others) < world.stripe.objects["webhook_endpoint"].keys()


class TestTheDoctor:
    def test_finds_nothing_where_all_is_well(self, world: World) -> None:
        world.register()
        assert world.examine() == {"healthy": True, "wrong": [], "advice": []}

    @pytest.mark.parametrize(("count", "sick"), [(0, False), (2, True)])
    def test_counts_what_is_wrong(
        self, world: World, capsys: pytest.CaptureFixture[str], count: int, sick: bool
    ) -> None:
        world.register()
        capsys.readouterr()
        if sick:
            world.cognito.pool |= {"UsernameConfiguration": {}, "UsernameAttributes": []}
        world.examine()
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert [line["SetupWrong"] for line in lines if "SetupWrong" in line] == [[float(count)]]

    def test_advises_of_rights_that_it_is_told_not_to_refuse(self, world: World) -> None:
        world.register()
        world.stripe.faults.grant("charge_write")
        assert world.setup() != ""
        assert world.setup(REFUSES_SPARE=False) == ""
        found = world.examine(REFUSES_SPARE=False)
        assert (found["healthy"], len(found["advice"])) == (True, 1)
        assert "(Charges and Refunds: Write)" in found["advice"][0]
        world.vault.text = "rubbish"
        assert world.examine(REFUSES_SPARE=False)["advice"] == []

    def test_advises_who_lets_people_sign_up(self, world: World) -> None:
        world.register()
        world.cognito.pool["AdminCreateUserConfig"] = {"AllowAdminCreateUserOnly": False}
        (advice,) = world.examine()["advice"]
        assert advice.startswith("people can sign up to the user pool by themselves")

    def test_advises_a_mail_service(self, world: World) -> None:
        world.register()
        world.cognito.pool["EmailConfiguration"] = {"EmailSendingAccount": "COGNITO_DEFAULT"}
        found = world.examine()
        assert (found["healthy"], len(found["advice"])) == (True, 1)

    @pytest.mark.parametrize(
        ("by", "wrong"),
        [
            (lambda world: setattr(world.vault, "text", "sk_test_all"), "is a secret key"),
            (lambda world: world.stripe.faults.withdraw("event_read"), "lacks Events: Read"),
            (lambda world: world.stripe.stored("price", world.price).update(metadata={}), "no active price"),
            (lambda world: world.ledger.subscribers.append("cus_elsewhere"), "none of the ledger's customers"),
            (lambda world: setattr(world.signing, "text", PLACEHOLDER), "no signing secret"),
            (lambda world: _endpoint(world).update(status="disabled"), "no enabled webhook endpoint"),
            (lambda world: _endpoint(world).update(url="https://other.example.com"), "no enabled webhook endpoint"),
            (lambda world: _endpoint(world)["enabled_events"].remove("invoice.paid"), "does not send invoice.paid"),
            (lambda world: _endpoint(world).update(api_version="2020-08-27"), "sends API version 2020-08-27"),
            (lambda world: world.cognito.clients.update(bad={}), "the app client bad may write email"),
        ],
    )
    def test_finds(self, world: World, by: Callable[[World], object], wrong: str) -> None:
        world.register()
        by(world)
        (found,) = world.examine()["wrong"]
        assert wrong in found

    def test_knows_the_ledgers_customers(self, world: World) -> None:
        world.register()
        world.ledger.subscribers = ["cus_gone", world.stripe.create_customer("a@example.com", "A")["id"]]
        assert world.examine()["healthy"]

    def test_takes_an_endpoint_that_gets_everything(self, world: World) -> None:
        world.register()
        _endpoint(world)["enabled_events"] = ["*"]
        assert world.examine()["healthy"]

    def test_finds_a_pool_that_is_gone_and_still_looks_at_the_rest(self, world: World) -> None:
        world.cognito.error = ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "DescribeUserPool")
        found = world.examine()
        assert [each.split(":")[0] for each in found["wrong"]] == [
            "Stripe has no enabled webhook endpoint with this stack's URL",
            "CognitoRejected",
        ]

    def test_finds_a_ledger_that_is_gone(self, world: World) -> None:
        world.register()
        world.ledger.error = LedgerRejected("scan was refused")
        assert world.examine()["wrong"] == ["LedgerRejected: scan was refused"]

    def test_sees_a_good_key_at_once(self, world: World) -> None:
        world.register()
        world.vault.text = "rk_test_wrong"
        assert not world.examine()["healthy"]
        world.vault.text = KEY
        assert world.examine()["healthy"]

    @pytest.mark.parametrize("error", [LedgerUnavailable("passing"), StripeUnavailable("passing")])
    def test_does_not_take_a_failure_for_health(self, world: World, error: Exception) -> None:
        world.register()
        world.ledger.error = error
        with pytest.raises(type(error)):
            world.examine()

    @pytest.mark.parametrize("error", [LedgerUnavailable("passing"), RuntimeError("payer@example.com is odd")])
    def test_that_could_not_look_counts_nothing_and_says_why(
        self, world: World, counted: Callable[[], Any], lines: list[str], error: Exception
    ) -> None:
        world.register()
        world.ledger.error = error
        with pytest.raises(GatewayError) as caught:
            world.examine()
        assert counted() == {}
        last = json.loads(lines[-1])
        assert (last["level"], last["function"]) == ("ERROR", "Doctor")
        assert last["message"].startswith(f"{type(caught.value).__name__}: ")
        seen = "".join([*lines, *traceback.format_exception(caught.value)])
        assert "payer@example.com" not in seen


def _endpoint(world: World) -> Json:
    (found,) = world.stripe.objects["webhook_endpoint"].values()
    return found
