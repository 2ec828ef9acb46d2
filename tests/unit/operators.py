"""The operators' endpoints in this process: real handlers, a real ledger and pool in moto, time as a value; Stripe and
Step Functions have memory.
"""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway import events
from gateway.access import Item, Mark, Purchase, Subscription
from gateway.billing import Customer
from gateway.errors import BillingIncomplete
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.people import tombstone_id
from gateway.users import Users
from tests.unit.steps import EMAIL, NOW, Json, Steps

CALLER = "arn:aws:sts::123456789012:assumed-role/Operator/jo"
FULFILLMENT = "arn:aws:states:us-east-1:123456789012:stateMachine:fulfillment"
OFFBOARDING = "arn:aws:states:us-east-1:123456789012:stateMachine:offboarding"
RUN = "arn:aws:states:us-east-1:123456789012:execution:fulfillment:evt_done"
KEY = "a key that nobody knows"

# How a request reads that says `email` or `sub` in a way that no customer has.
HOSTILE = (
    '"; DROP TABLE orders; --',
    "' OR '1'='1",
    "#sub = :sub OR attribute_exists(pk)",
    ":email",
    "|",
    "#",
    "OPEN#1#evt_1",
    "cus_1|OPEN#1#evt_1",
    "ORDER#evt_1",
    "../../etc/passwd",
    "%00%2e%2e%2f",
    "${jndi:ldap://example.com}",
    "{{7*7}}",
    "x" * 63,
)
UNPRINTABLE = ("\x00", "a\x00b", "a\nb", "\ud800", "\udfff\ud800", "a\u200bb", "a\u202eb", "\x7f", "\ufffe")


def refusal(code: str, status: int = 400) -> ClientError:
    """An AWS service says no, and repeats what it was asked."""
    response: Any = {"Error": {"Code": code, "Message": EMAIL}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Operation")


THROTTLED = refusal("ThrottlingException")
DENIED = refusal("AccessDeniedException")
SILENT = ConnectTimeoutError(endpoint_url="https://aws")


class Killed(BaseException):
    """The Lambda ends here, without another word."""


@dataclass
class Clock:
    """The time that handlers see; `meanwhile` happens one by one, each while somebody sleeps."""

    now: float = NOW
    slept: list[float] = field(default_factory=list)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        if self.meanwhile:
            self.meanwhile.pop(0)()


@dataclass
class Machine:
    """Step Functions with memory: one name, one execution. `errors` are what the next calls end with."""

    executions: dict[str, Json] = field(default_factory=dict)
    ended: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)
    started: Callable[[str], object] = lambda name: None

    def __post_init__(self) -> None:
        self._lock = threading.Lock()

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        with self._lock:
            self.calls.append(name)
            if self.errors:
                raise self.errors.pop(0)
            run = json.loads(input)
            if name in self.executions and (name in self.ended or self.executions[name] != run):
                raise refusal("ExecutionAlreadyExists")
            new = name not in self.executions
            self.executions[name] = run
        if new:
            self.started(name)


@dataclass
class Stripe:
    """Stripe with memory, as Billing tells of it."""

    customers: dict[str, Customer] = field(default_factory=dict)
    purchases: dict[str, Purchase] = field(default_factory=dict)
    marks: dict[str, Mark] = field(default_factory=dict)
    error: Exception | None = None

    def subscribes(self, customer: str, *subscriptions: Subscription, email: str | None = EMAIL) -> None:
        self.customers[customer] = Customer(customer, email, False, subscriptions)

    def customer(self, customer_id: str) -> Customer:
        self._fail()
        if customer_id not in self.customers:
            raise BillingIncomplete(f"Stripe does not know {customer_id}")
        return self.customers[customer_id]

    def purchase(self, known: events.Purchase) -> Purchase:
        self._fail()
        return self.purchases[known.id]

    def mark(self, known: events.Mark) -> Mark | None:
        self._fail()
        return self.marks.get(known.id)

    def customers_of(self, email: str) -> list[str]:
        self._fail()
        return [each.id for each in self.customers.values() if each.email == email]

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


def subscription(id_: str = "sub_1", status: str = "active", **facts: Any) -> Subscription:
    """A subscription to five dapps."""
    return Subscription(id_, status, (Item("price_1", 5, "1"),), **facts)


OTHER_PRODUCT = Subscription("sub_other", "active", (Item("price_other", 1, None),))


class Client:
    """An AWS client that counts its calls. `errors`: what the next calls of an operation end with; `killed_after` this
    many calls that write, the Lambda is no more."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.calls: Counter[str] = Counter()
        self.errors: dict[str, Exception] = {}
        self.killed_after: int | None = None

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            self.calls[operation] += 1
            if operation in self.errors:
                raise self.errors[operation]
            answer = getattr(self._real, operation)(**request)
            if self.killed_after is not None and not operation.endswith(("get_user", "get_item", "query")):
                self.killed_after -= 1
                if self.killed_after == 0:
                    raise Killed
            return answer

        return call

    @property
    def total(self) -> int:
        return sum(self.calls.values())


class Operators(Steps):
    """The endpoints, and what they work on."""

    def __init__(self, dynamodb: Any, cognito: Any, pool_id: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(dynamodb, cognito, pool_id, patch)
        self.clock: Clock = Clock()  # type: ignore[assignment]
        self.machine, self.offboarding, self.stripe = Machine(), Machine(), Stripe()
        # What the handlers call; the test's own ways to the table and the pool are not counted and never fail.
        self.table, self.pool = Client(dynamodb), Client(cognito)
        self.secret_error: Exception | None = None
        self._invocations = 0

    # -------------------------------------------------------------- requests

    def read(self, email: str = EMAIL, **fields: Any) -> Json:
        """The document of a 200 of POST /read; the others likewise."""
        return self.ok("ReadOrders", email, **fields)

    def update(self, email: str = EMAIL, **fields: Any) -> Json:
        return self.ok("UpdateOrders", email, **fields)

    def hold(self, email: str = EMAIL, reason: str = "spam", **fields: Any) -> Json:
        return self.ok("HoldUser", email, hold=True, reason=reason, **fields)

    def lift(self, email: str = EMAIL, **fields: Any) -> Json:
        return self.ok("HoldUser", email, hold=False, **fields)

    def ok(self, function: str, email: str = EMAIL, **fields: Any) -> Json:
        status, document = self.ask(function, {"email": email, **fields})
        assert status == 200, document
        return document

    def ask(self, function: str, content: Any = None, *, seconds: list[float] | None = None, **envelope: Any) -> Any:
        """The status and document of an answer. `seconds`: what is left of the Lambda's time at the first looks."""
        body = json.dumps({"email": EMAIL} if content is None else content)
        event = {"version": "2.0", "body": body, "isBase64Encoded": False}
        event |= {"requestContext": {"authorizer": {"iam": {"userArn": CALLER}}}, **envelope}
        left, over = list(seconds or ()), self.clock.now + 28
        self._invocations += 1
        context = SimpleNamespace(
            function_name=function,
            aws_request_id=f"00000000-0000-4000-8000-{self._invocations:012}",
            get_remaining_time_in_millis=lambda: int(1000 * (left.pop(0) if left else over - self.clock.now)),
        )
        answer = self.endpoint(function).handler(event, context)
        assert answer.keys() == {"statusCode", "headers", "body"}
        assert answer["headers"] == {"content-type": "application/json", "cache-control": "no-store"}
        return answer["statusCode"], json.loads(answer["body"])

    def endpoint(self, function: str) -> Any:
        """A handler's module with this world in it."""
        return self.module(
            function,
            ledger=Ledger(self.table, "orders"),
            users=Users(self.pool, self.pool_id),
            billing=self.stripe,
            hash_key=self,
            MACHINE=OFFBOARDING if function == "DeleteAccount" else FULFILLMENT,
            fulfillment=StateMachine(self.machine, FULFILLMENT),
            offboarding=StateMachine(self.offboarding, OFFBOARDING),
        )

    def text(self) -> str:
        """The hash key."""
        if self.secret_error is not None:
            raise self.secret_error
        return KEY

    # -------------------------------------------------------------- the world

    def orders(self, count: int, party: str = "cus_1", email: str | None = EMAIL, first: int = 0) -> list[str]:
        """This many open orders, whose runs failed, a second apart and the last one now; their event ids."""
        names = [f"evt_{party.replace('_', '')}_{first + each:05}" for each in range(count)]
        for place, name in enumerate(names):
            self.failed(name, int(self.clock.now) - count + 1 + place, customer_id=party, email=email)
        return names

    def failed(self, event_id: str = "evt_1", at: int | None = None, **changed: Any) -> None:
        """An order whose run failed."""
        self.record(event_id, at, **changed)
        retry_at = int(self.clock.now) + 300
        self.ledger.fail(event_id, execution=RUN, error="StripeThrottled: 429", retry_at=retry_at)

    def close(self, *event_ids: str) -> None:
        """Somebody's run ends well."""
        for each in event_ids:
            end = {"execution": RUN, "outcome": "enabled", "reason": "sub_1 active"}
            self.ledger.close(each, int(self.clock.now), before=None, after={"enabled": True, "dapp_limit": 5}, **end)

    def stranger(self, email: str = EMAIL, **attributes: str) -> str:
        """A user whom nobody here has made; their sub."""
        pairs = [{"Name": "email", "Value": email}, *({"Name": k, "Value": v} for k, v in attributes.items())]
        made = self.cognito.admin_create_user(
            UserPoolId=self.pool_id, Username=email, UserAttributes=pairs, MessageAction="SUPPRESS"
        )
        return str(next(each["Value"] for each in made["User"]["Attributes"] if each["Name"] == "sub"))

    @property
    def tombstone(self) -> str:
        """The id of the payer's deletion."""
        return tombstone_id(EMAIL, KEY)

    def everything(self) -> list[Json]:
        """All rows of the table, and all users."""
        pages = self.dynamodb.get_paginator("scan").paginate(TableName="orders", ConsistentRead=True)
        rows = [item for page in pages for item in page["Items"]]
        users = self.cognito.list_users(UserPoolId=self.pool_id)["Users"]
        return sorted([*rows, *users], key=repr)
