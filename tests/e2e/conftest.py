"""What the end-to-end tests share: the product on its local stack, with a Stripe beside it, over HTTP.

    E2E_BUILT=.aws-sam/build E2E_PYTHON=.venv-runtime/bin/python pytest tests/e2e

runs the same tests on what `sam build` made; E2E_PYTHON then names an interpreter that has only what Lambda gives
(awslambdaric and boto3).
"""

import hashlib
import hmac
import http.client
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from boto3.dynamodb.types import TypeSerializer
from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from gateway.events import HANDLED_TYPES
from tests.local import lambda_service
from tests.local.moto_fixes import Invitation
from tests.local.population import plain
from tests.local.stack import ACCESS_KEY, REPOSITORY, SECRET_KEY, STRIPE_KEY, Execution, LocalStack
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_http import StripeServer

Json = dict[str, Any]

WEBHOOK_SECRET, RETIRING_SECRET = "whsec_000000000current", "whsec_00000000retiring"
API_KEY = "rk_test_first"
PASSWORD = "Correct-Horse-7-Battery"
TOPIC = "arn:aws:sns:us-east-1:123456789012:payment-status"
BUS = "company"
"""A topic and a bus beside the default one, for whoever deploys with them."""
RUN_DUE = "RunDueFunctionEveryFiveMinutes"
"""The schedule that runs what is due."""
PRICES = {"price_by_id": 2, "seats-monthly": 3, "sku_seat": 4}

_BUILT = Path(os.environ["E2E_BUILT"]).absolute() if "E2E_BUILT" in os.environ else None
_PYTHON = os.environ.get("E2E_PYTHON", sys.executable)
SOURCE = (_BUILT or REPOSITORY) / "template.yaml"
"""The template under test."""

_to_dynamo = TypeSerializer().serialize


def until(holds: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for something that nothing announces; returns what it became."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)
    return found


def sign(body: bytes, secret: str = WEBHOOK_SECRET, *, age: int = 0) -> str:
    """A Stripe-Signature header made `age` seconds ago."""
    at = int(time.time()) - age
    return f"t={at},v1={digest(body, secret, at)}"


def digest(body: bytes, secret: str, at: int) -> str:
    """The v1 scheme: HMAC-SHA256 over the time and the raw body."""
    return hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()


@dataclass(frozen=True)
class User:
    """A Cognito user, as an operator sees them in the console."""

    sub: str
    email: str
    enabled: bool
    limit: int | None
    status: str | None
    provider: str | None
    customer: str | None
    disabled_by: str | None


@dataclass(frozen=True)
class Answer:
    """What the HTTP API answered."""

    status: int
    text: str

    @property
    def document(self) -> Json:
        found: Json = json.loads(self.text)
        return found

    @property
    def message(self) -> str:
        return str(self.document["message"])


class Queue:
    """An SQS queue, and everything that has arrived there."""

    def __init__(self, stack: LocalStack, name: str) -> None:
        self._sqs = stack.client("sqs")
        self._url = self._sqs.create_queue(QueueName=name)["QueueUrl"]
        attributes = self._sqs.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])
        self.arn = attributes["Attributes"]["QueueArn"]
        self._arrived: list[Json] = []

    def read(self) -> list[Json]:
        """The bodies, oldest first."""
        while found := self._sqs.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages"):
            for message in found:
                self._arrived.append(json.loads(message["Body"]))
                self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return list(self._arrived)


class Gateway:
    """The deployed product and everything around it. Every test brings buyers of its own."""

    def __init__(
        self,
        folder: Path,
        *,
        schedule_seconds: float | None = None,
        template: Path = SOURCE,
        host: str = "127.0.0.1",
        custom_resources: bool = False,
        **parameters: str,
    ) -> None:
        """`custom_resources`: the stack registers its webhook endpoint itself; otherwise it is done by hand."""
        self.log = folder / "functions.log"
        self.stripe = StripeAccount(keys={API_KEY}, backoff=0.2)
        self.product = self.stripe.create_product("API")["id"]
        self.seat = self.price({"dapps": "1"})
        self.one_time_seat = self.price({"dapps": "1"}, once=True)
        self.unmapped = self.price({}, product=self.stripe.create_product("Support")["id"])
        self._server = StripeServer(self.stripe, host=host)
        try:
            self.stack = LocalStack(
                {
                    "StripeApiBase": self._server.url,
                    "DappPrices": json.dumps(PRICES),
                    "Architecture": "x86_64",
                    "RetryAfterSeconds": "1",
                    **parameters,
                },
                layers=[_BUILT / "DependenciesLayer"] if _BUILT else [],
                python=_PYTHON,
                log=self.log,
                schedule_seconds=schedule_seconds,
                retry_scale=0.02,
                template=template,
                host=host,
                secrets={STRIPE_KEY: API_KEY},
                custom_resources=custom_resources,
            )
        except BaseException:
            self._server.close()
            raise
        url, stored = f"{self.stack.api}/create", f"{RETIRING_SECRET} {WEBHOOK_SECRET}"
        if custom_resources:
            stored = f"{self.stack.secret('StripeWebhookSecret')}\n{stored}"
        else:
            self.stripe.create_webhook_endpoint(url, sorted(HANDLED_TYPES), secret=WEBHOOK_SECRET)
        self.stack.put_secret("StripeWebhookSecret", stored)
        self._count = itertools.count(1)
        self._due_at = 0
        self._listen()
        self.settle()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stripe.close()
        self.stack.close()
        self._server.close()

    def _listen(self) -> None:
        """As another program of the company would: a rule on each bus and a subscription of the topic."""
        events, sns = self.stack.client("events"), self.stack.client("sns")
        events.create_event_bus(Name=BUS)
        self._queues = {name: Queue(self.stack, name) for name in ("default", BUS, "messages")}
        for bus in ("default", BUS):
            target = {"Id": "queue", "Arn": self._queues[bus].arn}
            pattern = json.dumps({"source": [{"prefix": ""}]})
            events.put_rule(Name="everything", EventBusName=bus, EventPattern=pattern)
            events.put_targets(Rule="everything", EventBusName=bus, Targets=[target])
        assert sns.create_topic(Name=TOPIC.rpartition(":")[2])["TopicArn"] == TOPIC
        sns.subscribe(TopicArn=TOPIC, Protocol="sqs", Endpoint=self._queues["messages"].arn)

    # ------------------------------------------------------------------ Stripe

    def price(
        self, metadata: Mapping[str, str], *, once: bool = False, recurring: Json | None = None, **more: Any
    ) -> str:
        """A price of 5.00, monthly or to be paid once; its id."""
        recurring = None if once else {"interval": "month"} | (recurring or {})
        product = more.pop("product", self.product)
        price = self.stripe.create_price(product, 500, metadata=dict(metadata), recurring=recurring, **more)
        return str(price["id"])

    def buy(self, email: str | None, quantity: int = 1, price: str | None = None, **more: Any) -> Json:
        """Checkout, until all is done that follows from it; returns the session."""
        session = self.stripe.checkout(email, price or self.seat, quantity, **more)
        self.settle()
        return session

    @contextmanager
    def hearing(self, *kinds: str) -> Iterator[None]:
        """Of all that Stripe tells of this block only these types of events arrive, in order, when it is over; until
        all is done that follows from them."""
        before = len(self.stripe.events)
        self.stripe.auto_deliver = False
        try:
            yield
        finally:
            self.stripe.auto_deliver = True
        for event in self.stripe.events[before:]:
            if event["type"] in kinds:
                assert self.stripe.deliver(event) == 200
        self.stack.wait_idle(60)

    def undelivered(self, email: str, quantity: int = 1) -> tuple[str, Json]:
        """A customer who pays, and an event about them that nobody has delivered yet."""
        self.stripe.auto_deliver = False
        customer = self.stripe.create_customer(email)["id"]
        subscription = self.stripe.create_subscription(customer, self.seat, quantity)
        self.stripe.auto_deliver = True
        return customer, self.event("customer.subscription.created", subscription)

    def subscriber(self, email: str, quantity: int = 1, price: str | None = None) -> Json:
        """Somebody who pays, of whom a single event tells: their customer and subscription, by id."""
        self.stripe.auto_deliver = False
        customer = self.stripe.create_customer(email)["id"]
        subscription = self.stripe.create_subscription(customer, price or self.seat, quantity)
        self.stripe.auto_deliver = True
        self.send(self.event("customer.subscription.created", subscription))
        self.stack.wait_idle(60)
        return {"customer": customer, "subscription": subscription["id"]}

    def settle(self, seconds: float = 60) -> None:
        """Wait until Stripe has delivered all its events and every execution has ended."""
        assert self.stripe.wait_delivered(seconds)
        self.stack.wait_idle(seconds)

    # ------------------------------------------------------------------ the way in

    def event(self, kind: str, content: object, **envelope: Any) -> Json:
        """An event that Stripe might send, with an id of its own."""
        return {
            "id": f"evt_test{next(self._count):05d}",
            "object": "event",
            "api_version": "2026-10-28.endive",
            "created": int(time.time()),
            "livemode": False,
            "pending_webhooks": 1,
            "request": {"id": None, "idempotency_key": None},
            "type": kind,
            "data": {"object": content},
        } | envelope

    def later(self, customer: str, seconds: int) -> None:
        """So much time passes for a customer: every moment of theirs, at Stripe and in the ledger, is longer ago.
        RunDue runs, as it does every five minutes."""
        stripe = self.stripe
        with stripe.lock:
            theirs = [each for each in stripe.objects["subscription"].values() if each["customer"] == customer]
            theirs += [item for each in theirs for item in stripe.items_of(each["id"])]
            theirs += [each for each in stripe.objects["invoice"].values() if each["customer"] == customer]
            for each in theirs:
                each |= _moved(each, seconds)
        for row in (*self.rows(f"PARTY#{customer}"), *self.rows("PERSON#")):
            moments = {name: row[name] - seconds for name in ("until", "recheck_at", "due_at") if name in row}
            if moments and customer in row.get("parties", (customer,)):
                self._set(row["pk"], row["sk"], moments)
        self.run_due()

    def send(self, event: object) -> Answer:
        """Deliver an event as Stripe does."""
        return self.post(json.dumps(event).encode())

    def post(
        self,
        body: bytes,
        signature: str | None = None,
        content_type: str = "application/json; charset=utf-8",
        header: str = "Stripe-Signature",
    ) -> Answer:
        """POST /create with exactly these bytes; signed unless a signature is given ("" sends none)."""
        signature = sign(body) if signature is None else signature
        return self.request(
            "/create", body, {"Content-Type": content_type} | ({header: signature} if signature else {})
        )

    def ask(self, path: str, email: str, **fields: Any) -> Answer:
        """What an operator asks of /read, /update, /delete or /hold, signed as AWS's SDKs sign."""
        body = json.dumps({"email": email, **fields}).encode()
        return self.request(path, body, self.signature(path, body))

    def signature(
        self,
        path: str,
        body: bytes,
        *,
        key: str = ACCESS_KEY,
        secret: str = SECRET_KEY,
        service: str = "execute-api",
        region: str | None = None,
        age: int = 0,
    ) -> dict[str, str]:
        """The headers of a POST that is signed with SigV4 `age` seconds ago."""
        request = AWSRequest("POST", self.stack.api + path, {"Content-Type": "application/json"}, body)
        request.context["timestamp"] = time.strftime(SIGV4_TIMESTAMP, time.gmtime(time.time() - age))
        request.headers["X-Amz-Date"] = request.context["timestamp"]
        signer = SigV4Auth(Credentials(key, secret), service, region or self.stack.region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        signer._inject_signature_to_request(request, signer.signature(text, request))
        return dict(request.headers.items())

    def request(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """A POST as it is."""
        connection = http.client.HTTPConnection(self.stack.api.removeprefix("http://"), timeout=60)
        try:
            connection.request("POST", path, body, dict(headers))
            response = connection.getresponse()
            return Answer(response.status, response.read().decode())
        finally:
            connection.close()

    # ------------------------------------------------------------------ what became of it

    def user(self, email: str) -> User | None:
        """The user of this address, None when there is none."""
        try:
            found = self._cognito.admin_get_user(UserPoolId=self.stack.user_pool_id, Username=email)
        except ClientError as error:
            assert error.response["Error"]["Code"] == "UserNotFoundException"
            return None
        attributes = {each["Name"]: each["Value"] for each in found["UserAttributes"]}
        limit = attributes.get("custom:num_dapps")
        return User(
            attributes["sub"],
            attributes["email"],
            found["Enabled"],
            None if limit is None else int(limit),
            attributes.get("custom:payment_status"),
            attributes.get("custom:payment_provider"),
            attributes.get("custom:stripe_customer_id"),
            attributes.get("custom:disabled_by"),
        )

    def verified(self, email: str) -> bool:
        """Whether Cognito takes the user's address for proven."""
        found = self._cognito.admin_get_user(UserPoolId=self.stack.user_pool_id, Username=email)
        return {"Name": "email_verified", "Value": "true"} in found["UserAttributes"]

    def access(self, email: str) -> tuple[bool, int | None, str | None]:
        """Whether the user is enabled, their limit and their payment status."""
        user = self.user(email)
        assert user is not None, f"{email} has no user"
        return user.enabled, user.limit, user.status

    def emails(self) -> list[str]:
        """The addresses of all users."""
        pages = self._cognito.get_paginator("list_users").paginate(UserPoolId=self.stack.user_pool_id)
        return [
            attribute["Value"]
            for page in pages
            for user in page["Users"]
            for attribute in user["Attributes"]
            if attribute["Name"] == "email"
        ]

    def rows(self, prefix: str = "", **having: str) -> list[Json]:
        """The ledger's rows whose key begins so, and that have these values."""
        wanted = {"pk": prefix, **having}
        tests = ["begins_with(#pk, :pk)", *(f"#{name} = :{name}" for name in having)]
        pages = self._dynamodb.get_paginator("scan").paginate(
            TableName=self.stack.orders_table,
            ConsistentRead=True,
            FilterExpression=" AND ".join(tests),
            ExpressionAttributeNames={f"#{name}": name for name in wanted},
            ExpressionAttributeValues={f":{name}": _to_dynamo(value) for name, value in wanted.items()},
        )
        return [{name: plain(value) for name, value in item.items()} for page in pages for item in page["Items"]]

    def order(self, event_id: str) -> Json:
        """The order of an event."""
        return self._row(f"ORDER#{event_id}", "ORDER")

    def orders(self, party: str) -> list[Json]:
        """The orders of a customer or guest, oldest first."""
        found = self.rows("ORDER#", party=party)
        return sorted(found, key=lambda row: (row["received_at"], row["event_id"]))

    def open_orders(self, party: str) -> list[Json]:
        """Those that are not fulfilled."""
        return [row for row in self.orders(party) if row["state"] != "FULFILLED"]

    def person(self, email: str) -> Json:
        """The person's row of the user with this address."""
        user = self.user(email)
        assert user is not None
        return self._row(f"PERSON#{user.sub}", "PERSON")

    def _row(self, pk: str, sk: str) -> Json:
        answer = self._dynamodb.get_item(
            TableName=self.stack.orders_table, Key={"pk": {"S": pk}, "sk": {"S": sk}}, ConsistentRead=True
        )
        return {name: plain(value) for name, value in answer["Item"].items()}

    def set_order(self, event_id: str, **values: Any) -> None:
        """Change fields of an order's row by hand."""
        self._set(f"ORDER#{event_id}", "ORDER", values)

    def set_person(self, email: str, **values: Any) -> None:
        """Change fields of a person's row by hand."""
        self._set(self.person(email)["pk"], "PERSON", values)

    def _set(self, pk: str, sk: str, values: Mapping[str, Any]) -> None:
        self._dynamodb.update_item(
            TableName=self.stack.orders_table,
            Key={"pk": {"S": pk}, "sk": {"S": sk}},
            UpdateExpression="SET " + ", ".join(f"#{name} = :{name}" for name in values),
            ExpressionAttributeNames={f"#{name}": name for name in values},
            ExpressionAttributeValues={f":{name}": _to_dynamo(value) for name, value in values.items()},
        )

    def leases(self) -> list[Json]:
        """Those that somebody holds. What a killed one held stays in the table after its time, until DynamoDB's TTL."""
        return [lease for lease in self.rows("LEASE#") if lease["expires_at"] > time.time()]

    def expire_leases(self) -> None:
        """As if half a minute had passed since their holders died."""
        for lease in self.rows("LEASE#"):
            self._set(lease["pk"], "LEASE", {"expires_at": 0})

    def drop_order(self, event_id: str) -> None:
        """Delete an order's row by hand."""
        self._drop(f"ORDER#{event_id}", "ORDER")

    def lose_link(self, email: str) -> None:
        """Delete all that the ledger knows of the link between a user and their customer."""
        user = self.user(email)
        assert user is not None
        self._drop(f"PARTY#{user.customer}", "PARTY")
        self._drop(f"PERSON#{user.sub}", "PERSON")

    def _drop(self, pk: str, sk: str) -> None:
        self._dynamodb.delete_item(TableName=self.stack.orders_table, Key={"pk": {"S": pk}, "sk": {"S": sk}})

    def run_due(self) -> None:
        """Run RunDue once, and what it starts. Never twice in one second: it is called every five minutes."""
        until(lambda: int(time.time()) > self._due_at)
        self._due_at = int(time.time())
        _, error = self.stack.run_schedules(RUN_DUE)[RUN_DUE]
        assert error is None, error
        self.settle()

    def reconcile(self, *, seconds: float = 60, **asked: Any) -> Execution:
        """Run the reconciliation machine with this input, and all the runs that it starts, within so many seconds."""
        started = self.stack.client("stepfunctions").start_execution(
            stateMachineArn=self.stack.template.outputs()["ReconciliationStateMachineArn"], input=json.dumps(asked)
        )
        self.settle(seconds)
        (found,) = (each for each in self.stack.executions() if each.arn == started["executionArn"])
        return found

    def an_hour_later(self, email: str) -> None:
        """The mail to this user that did not leave is tried again now."""
        person, now = self.person(email), int(time.time())
        self.set_person(email, recheck_at=now, due_at=now, invitation=person["invitation"] | {"retry_at": now})
        self.run_due()

    def runs(self, event_id: str) -> list[Execution]:
        """The executions of an event, re-runs included."""
        return [each for each in self.stack.executions() if each.name.partition("-r")[0] == event_id]

    def counted(self, metric: str, **dimensions: str) -> int:
        """How often the functions counted this (EMF lines in their log)."""
        lines = self.log.read_text(encoding="utf-8").splitlines()
        entries = [each for line in lines if '"_aws"' in line for each in _documents(line)]
        return int(sum(sum(each.get(metric, [])) for each in entries if dimensions.items() <= each.items()))

    @contextmanager
    def counting(self, metric: str, times: int | None = 1, **dimensions: str) -> Iterator[None]:
        """In this block, with all that follows from it, the metric is counted so often (None: at least once)."""
        before = self.counted(metric, **dimensions)
        yield
        self.settle()
        expected = before + (1 if times is None else times)
        until(lambda: self.counted(metric, **dimensions) >= expected, 5)
        assert times is None or self.counted(metric, **dimensions) == expected

    def published(self, sub: str | None = None, *, bus: str = "default") -> list[Json]:
        """The events on the bus so far, oldest first; those about one user when `sub` is given."""
        events = self._queues[bus].read()
        return [event for event in events if sub in (None, event["detail"].get("sub"))]

    def messages(self, email: str | None = None) -> list[Json]:
        """The messages of the topic so far, oldest first; those about one address when it is given."""
        messages = [json.loads(notification["Message"]) for notification in self._queues["messages"].read()]
        return [message for message in messages if email in (None, message.get("email"))]

    # ------------------------------------------------------------------ people

    def mails(self, email: str) -> list[Invitation]:
        """The invitations that were sent to this address, oldest first."""
        return [mail for mail in self.stack.outbox if mail.to.lower() == email.lower()]

    def sign_in(self, email: str) -> Json:
        """Sign in with the usual password, for the first time with the one from the welcome mail; the tokens."""
        pool, client = self.stack.user_pool_id, self.stack.user_pool_client_id
        mails = [mail for mail in self.stack.outbox if mail.to == email and mail.user_pool_id == pool]
        try:
            answer = self._password_auth(email, PASSWORD)
        except ClientError:
            if not mails:
                raise
            answer = self._password_auth(email, mails[-1].temporary_password)
        if answer.get("ChallengeName") == "NEW_PASSWORD_REQUIRED":
            answer = self._cognito.respond_to_auth_challenge(
                ClientId=client,
                ChallengeName="NEW_PASSWORD_REQUIRED",
                Session=answer["Session"],
                ChallengeResponses={"USERNAME": email, "NEW_PASSWORD": PASSWORD},
            )
        tokens: Json = answer["AuthenticationResult"]
        return tokens

    def _password_auth(self, email: str, password: str) -> Json:
        answer: Json = self._cognito.initiate_auth(
            ClientId=self.stack.user_pool_client_id,
            AuthFlow="USER_PASSWORD_AUTH",
            AuthParameters={"USERNAME": email, "PASSWORD": password},
        )
        return answer

    def refresh(self, tokens: Json) -> Json:
        """Use the refresh token."""
        answer: Json = self._cognito.initiate_auth(
            ClientId=self.stack.user_pool_client_id,
            AuthFlow="REFRESH_TOKEN_AUTH",
            AuthParameters={"REFRESH_TOKEN": tokens["RefreshToken"]},
        )
        return answer

    def make_user(self, email: str, **attributes: str) -> User:
        """A user that somebody else made, with these custom attributes."""
        self._cognito.admin_create_user(
            UserPoolId=self.stack.user_pool_id,
            Username=email,
            UserAttributes=[
                {"Name": "email", "Value": email},
                {"Name": "email_verified", "Value": "true"},
                *({"Name": f"custom:{name}", "Value": value} for name, value in attributes.items()),
            ],
            MessageAction="SUPPRESS",
        )
        self._cognito.admin_set_user_password(
            UserPoolId=self.stack.user_pool_id, Username=email, Password=PASSWORD, Permanent=True
        )
        made = self.user(email)
        assert made is not None
        return made

    def enable_by_hand(self, email: str) -> None:
        self._cognito.admin_enable_user(UserPoolId=self.stack.user_pool_id, Username=email)

    def disable_by_hand(self, email: str) -> None:
        self._cognito.admin_disable_user(UserPoolId=self.stack.user_pool_id, Username=email)

    def ban(self, email: str) -> None:
        """What the README tells an operator to do."""
        self.disable_by_hand(email)
        self.set_by_hand(email, "custom:disabled_by", "operator")

    def set_by_hand(self, email: str, name: str, value: str) -> None:
        self._cognito.admin_update_user_attributes(
            UserPoolId=self.stack.user_pool_id, Username=email, UserAttributes=[{"Name": name, "Value": value}]
        )

    def delete_by_hand(self, email: str) -> None:
        self._cognito.admin_delete_user(UserPoolId=self.stack.user_pool_id, Username=email)

    # ------------------------------------------------------------------ AWS

    def replace_containers(self, function: str) -> None:
        """AWS replaces idle containers of a function whenever it likes; the new ones read their secrets again."""
        pool = self.stack._functions._pools[self.stack.template.physical[function].ref]
        with pool._changed:
            for environment in pool._idle:
                environment.stop()
            pool._idle.clear()

    @property
    def _cognito(self) -> Any:
        return self.stack.client("cognito-idp")

    @property
    def _dynamodb(self) -> Any:
        return self.stack.client("dynamodb")


def template_with(folder: Path, text: str) -> Path:
    """A copy of the template with this text. What a template names by relative paths is found from it as well."""
    copy = folder / "one" / "two" / SOURCE.name
    copy.parent.mkdir(parents=True)
    for place, original in ((copy.parent, SOURCE.parent), (folder, SOURCE.parents[2])):
        for entry in original.iterdir():
            if entry.name != SOURCE.name and not (place / entry.name).exists():
                (place / entry.name).symlink_to(entry.resolve())
    copy.write_text(text, encoding="utf-8")
    return copy


def _documents(line: str) -> Iterator[Json]:
    """The JSON objects of a log line: of two processes that write at once, one's line may follow without a break."""
    while (start := line.find("{")) >= 0:
        document, length = json.JSONDecoder().raw_decode(line[start:])
        yield document
        line = line[start + length :]


def _moved(value: Any, seconds: int) -> Any:
    """A copy in which every moment (a number that large is none of anything else) is so many seconds earlier."""
    match value:
        case dict():
            return {name: _moved(each, seconds) for name, each in value.items()}
        case list():
            return [_moved(each, seconds) for each in value]
        case int() if value > 1_000_000_000:
            return value - seconds
    return value


@pytest.fixture(scope="session", autouse=True)
def _two_containers() -> Iterator[None]:
    """Every container is a process, and a test machine has few cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lambda_service, "DEFAULT_ENVIRONMENTS", 2)
        yield


@pytest.fixture(scope="module")
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One stack for a module. SCHEDULE_SECONDS there: how often the schedules run, None only when a test asks."""
    seconds = getattr(request.module, "SCHEDULE_SECONDS", None)
    with Gateway(tmp_path_factory.mktemp("gateway"), schedule_seconds=seconds) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _nothing_is_broken(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test broke works again for the next one."""
    yield
    if "gateway" in request.fixturenames:
        opened: Gateway = request.getfixturevalue("gateway")
        opened.stack.faults.clear()
        opened.stack.mail.restore()
        opened.stripe.faults.restore()
        opened.stripe.faults.accept_keys({API_KEY})
        opened.stripe.auto_deliver = True
        opened.settle()
