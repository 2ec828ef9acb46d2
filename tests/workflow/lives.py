"""The world in which random lives are lived: everything is real but the wires, the clock and the people.

The handlers, the ledger, the users and Stripe's library are the product's own; DynamoDB and Cognito are moto's, Stripe
is the stand-in of the local stack, and each call goes to them in this process. The definition is interpreted as in
`machine.py`: an invocation is stopped before any call to a service, and goes on by replay, so several executions can
take turns call by call, and each can be killed between any two of its calls.

Time is a number. Nothing here draws a die: `test_lives.py` decides what happens next.
"""

import contextlib
import copy
import functools
import json
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import stripe
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError
from moto.cognitoidp.models import UserStatus, cognitoidp_backends
from moto.cognitoidp.responses import CognitoIdpResponse
from moto.core.exceptions import JsonRESTError
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import Item, LimitedSizeDict
from moto.dynamodb.models.table import Table
from moto.dynamodb.parsing.expressions import UpdateExpressionParser
from moto.dynamodb.parsing.validators import UpdateExpressionValidator
from moto.dynamodb.responses import DynamoHandler
from moto.moto_api._internal import mock_random

from gateway import errors, telemetry
from gateway.events import HANDLED_TYPES
from gateway.executions import StateMachine
from gateway.ledger import Ledger
from gateway.notices import Notices
from gateway.users import Users
from tests.local import moto_fixes
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_api import StripeApi
from tests.local.stripe_faults import injected
from tests.local.stripe_http import decode_form
from tests.local.template import Template
from tests.workflow.conftest import ACCOUNT, REGION, _imported, definition
from tests.workflow.machine import _Calls, _holds

Json = dict[str, Any]

REPOSITORY = Path(__file__).parents[2]
DEFINITION = definition()
WEBHOOK_SECRET = "whsec_00000000000lives"
BORN = 1_800_000_000  # when every life begins
HOUR, DAY = 3600, 86_400
NO_END = 10**6  # calls: to the end of the execution
EXECUTION_SECONDS = int(DEFINITION["TimeoutSeconds"])
DUE_EVERY = 300  # seconds between two calls of RunDue
PRICE_LIST = {"price_listed": 3}  # parameter DappPrices

# What a service may answer instead of doing it, and after having done it.
FAULTS = {
    "Ledger": (errors.LedgerThrottled, errors.LedgerUnavailable),
    "Users": (errors.CognitoThrottled, errors.CognitoUnavailable),
    "StateMachine": (errors.StartThrottled, errors.StartUnavailable),
    "Notices": (errors.NoticeThrottled, errors.NoticeUnavailable),
}


class Clock:
    """Time as a value, for every module that asks."""

    def __init__(self) -> None:
        self.now = BORN

    def time(self) -> float:
        return self.now

    monotonic = time


class Stopped(BaseException):
    """The handler is about to make a call that it may not make yet."""


# ------------------------------------------------------------------ services without wires


class InProcess:
    """A boto3 client without HTTP: moto's own operations, called directly, which is thirty times as fast."""

    def __init__(self, service: Callable[[], Any], body: Callable[[Json], Any]) -> None:
        self._service, self._body = service, body

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**request: Any) -> Any:
            handler = self._service()
            handler.current_account, handler.region = ACCOUNT, REGION
            handler.body, handler._get_param = self._body(request), request.get
            try:
                return getattr(handler, operation)().result
            except JsonRESTError as error:
                body = json.loads(error.get_body())
                failure = {"Error": {"Code": error.relative_error_type, "Message": ""}}
                http = {"ResponseMetadata": {"HTTPStatusCode": 400}}
                raise ClientError({**body, **failure, **http}, operation) from None  # type: ignore[typeddict-item]

        return call


class StripeWire(stripe.HTTPClient):
    """Stripe's library talks to the stand-in; one request is one call that an invocation can be stopped before."""

    name = "in process"

    def __init__(self, ask: Callable[..., Any]) -> None:
        super().__init__()
        self._ask = ask

    def request(self, method: str, url: str, headers: Any, post_data: Any = None, **_: Any) -> Any:
        parts = urlsplit(url)
        return self._ask(method.upper(), parts.path, decode_form(parse_qsl(parts.query, keep_blank_values=True)))

    def _sleep_time_seconds(self, num_retries: int) -> float:
        return 0


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Take out of moto what takes its time and cannot matter here: it parses and checks every expression anew,
    weighs every row and sorts the whole table for each query."""
    parse = UpdateExpressionParser.make
    parsed = functools.cache(lambda text: pickle.dumps(parse(text)))
    patch.setattr(UpdateExpressionParser, "make", lambda text: pickle.loads(parsed(text)))  # noqa: S301 - our own
    steps = UpdateExpressionValidator.get_ast_processors
    needed = ("ExpressionAttributeValueProcessor", "ExpressionAttributeResolvingProcessor")
    needed += ("UpdateExpressionFunctionEvaluator", "ExecuteOperations")
    patch.setattr(
        UpdateExpressionValidator,
        "get_ast_processors",
        lambda self: [step for step in steps(self) if type(step).__name__ in needed],
    )

    def rows(table: Any) -> list[Item]:
        return [item for items in table.items.values() for item in items.values()]

    patch.setattr(LimitedSizeDict, "__setitem__", dict.__setitem__)
    patch.setattr(Item, "size", lambda _: 0)
    patch.setattr(Table, "all_items", rows)


# ------------------------------------------------------------------ what runs


@dataclass
class Invocation:
    """One call of a Lambda. `replies`: what its calls to services answered until now, and when: (value, error, moment)
    each."""

    function: str
    event: Json
    owner: str
    started_at: int
    replies: list[tuple[Any, BaseException | None, int]] = field(default_factory=list)
    answer: Any = None
    error: str | None = None
    cause: str = ""


@dataclass
class Execution:
    """One run of the state machine."""

    name: str
    data: Json
    started_at: int
    state: str = DEFINITION["StartAt"]
    invocation: Invocation | None = None
    invocations: int = 0
    tries: Counter[int] = field(default_factory=Counter)  # retrier of the state -> tries
    wakes_at: int = 0
    ended: str | None = None

    @property
    def arn(self) -> str:
        return f"arn:aws:states:{REGION}:{ACCOUNT}:execution:FulfillmentStateMachine:{self.name}"


@dataclass(frozen=True)
class CognitoUser:
    """A user as an operator sees them; `limit` None when the attribute is not set."""

    sub: str
    email: str
    enabled: bool
    limit: int | None
    payment_status: str
    disabled_by: str
    provider: str
    signed_in: bool

    @property
    def dapp_limit(self) -> int:
        """As the gateway tells it."""
        return -1 if self.limit is None else self.limit

    @property
    def access(self) -> tuple[bool, int | None, str, str]:
        return self.enabled, self.limit, self.payment_status, self.disabled_by


@dataclass
class Deeds:
    """What the test itself did to users, for the oracle.

    `before`: users who existed before their first purchase. `banned`, `comped`: as they stood when that was done.
    `deleted`: users deleted by hand, with the parties that were linked to them.
    """

    before: dict[str, CognitoUser] = field(default_factory=dict)
    banned: dict[str, CognitoUser] = field(default_factory=dict)
    comped: dict[str, CognitoUser] = field(default_factory=dict)
    deleted: dict[str, tuple[CognitoUser, frozenset[str]]] = field(default_factory=dict)


class World:
    """Handlers, table and pool; made once, and emptied for each life."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.template = Template(
            REPOSITORY / "template.yaml", {"DappPrices": json.dumps(PRICE_LIST)}, region=REGION, account_id=ACCOUNT
        )
        for name, resource in self.template.resources.items():
            service = "lambda" if resource.type == "AWS::Lambda::Function" else "local"
            arn = f"arn:aws:{service}:{REGION}:{ACCOUNT}:function:{name}"
            self.template.created(name, name, Arn=arn)
        self.dynamodb, self.cognito = InProcess(DynamoHandler, dict), InProcess(CognitoIdpResponse, json.dumps)
        patch.setattr("moto.cognitoidp.models.jwk.RSAKey.import_key", lambda key: key)  # 0.1 s, and nobody signs in
        self.clock = Clock()
        patch.setattr("moto.cognitoidp.models.utcnow", lambda: datetime.fromtimestamp(self.clock.now, UTC))
        quicken(patch)
        self.table, self.pool = self._made()
        self.life: Life
        self.modules = {
            name.removesuffix("Function"): _imported(self.template, name)
            for name, resource in self.template.resources.items()
            if resource.type == "AWS::Lambda::Function"
        }
        self.timeouts = {
            name: int(self.template.resources[f"{name}Function"].properties["Timeout"]) for name in self.modules
        }
        for module in self.modules.values():
            self._connect(module)
        silent = SimpleNamespace(
            **dict.fromkeys(("append_keys", "info", "warning", "error", "add_dimension"), lambda *_, **__: None)
        )
        patch.setattr("gateway.step.logger", silent)
        for module in self.modules.values():
            for name, quiet in (("logger", silent), ("single_metric", lambda **_: contextlib.nullcontext(silent))):
                if hasattr(module, name):
                    setattr(module, name, quiet)
        patch.setattr(telemetry.metrics, "add_metric", lambda *_, **__: None)
        patch.setattr(telemetry.metrics.provider, "flush_metrics", lambda **_: None)

    def _made(self) -> tuple[str, str]:
        dynamodb_backends.reset()
        cognitoidp_backends.reset()
        table = self.template.resolve(self.template.resources["OrdersTable"].properties)
        kept = ("AttributeDefinitions", "BillingMode", "GlobalSecondaryIndexes", "KeySchema")
        self.dynamodb.create_table(TableName="OrdersTable", **{name: table[name] for name in kept})
        pool = self.template.resolve(self.template.resources["UserPool"].properties)
        made = self.cognito.create_user_pool(PoolName=pool.pop("UserPoolName"), **pool)["UserPool"]["Id"]
        return "OrdersTable", str(made)

    def _connect(self, module: ModuleType) -> None:
        """From now on the module's adapters work in the life that is being lived."""

        def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            return self.life.call(method, *args, **kwargs)

        def ask(*request: Any) -> Any:
            return self.life.call(self.life.stripe_answers, *request)

        adapters = {
            "ledger": lambda: _Calls(Ledger(self.dynamodb, self.table), call),
            "users": lambda: _Calls(Users(self.cognito, self.pool), call),
            "fulfillment": lambda: _Calls(StateMachine(_Starter(self), "FulfillmentStateMachine"), call),
            "notices": lambda: _Calls(Notices(_Bus(self), "bus"), call),
            "hash_key": lambda: SimpleNamespace(text=lambda: "a key that only the gateway has"),
            "signing": lambda: SimpleNamespace(text=lambda: WEBHOOK_SECRET, refresh=lambda: False),
            "time": lambda: SimpleNamespace(
                time=lambda: self.life.handlers_now, monotonic=lambda: self.life.handlers_now
            ),
        }
        for name, make in adapters.items():
            if hasattr(module, name):
                setattr(module, name, make())
        if hasattr(module, "billing"):
            module.billing._http = StripeWire(ask)
            module.billing._api_key = SimpleNamespace(text=lambda: "rk_test_lives", refresh=lambda: False)

    def new_life(self) -> "Life":
        self.life = Life(self)
        return self.life


class _Starter:
    """Step Functions' client for the one call that the gateway makes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def start_execution(self, *, name: str, input: str, **_: Any) -> None:  # noqa: A002 - AWS's name
        executions = self._world.life.executions
        if name not in executions:
            executions[name] = Execution(name, json.loads(input), self._world.life.clock.now)
        elif executions[name].ended is not None or executions[name].data["event_id"] != json.loads(input)["event_id"]:
            code = {"Error": {"Code": "ExecutionAlreadyExists", "Message": ""}}
            raise ClientError(code, "StartExecution")  # type: ignore[arg-type]


class _Bus:
    """EventBridge's client for the one call that the gateway makes."""

    def __init__(self, world: World) -> None:
        self._world = world

    def put_events(self, *, Entries: list[Json]) -> Json:  # noqa: N803 - AWS's name
        self._world.life.published += [json.loads(entry["Detail"]) for entry in Entries]
        return {"FailedEntryCount": 0}


# ------------------------------------------------------------------ one life


class Life:
    """A Stripe account, a ledger and a user pool that nobody has used yet, and what happens to them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.clock = Clock()
        self.account = StripeAccount(clock=self.clock.time, tag="", backoff=0)
        self.account.auto_deliver = False
        self.api = StripeApi(self.account)
        self.executions: dict[str, Execution] = {}
        self.orphans: list[Invocation] = []  # invocations that Step Functions has given up, but which still live
        self.delivered: set[str] = set()
        self.published: list[Json] = []  # details of the events on the bus
        self.deeds = Deeds()
        self.counts: Counter[str] = Counter()
        self._listed = 0  # how many of the account's events were looked at
        self._subscribed: list[Json] = []
        self._running: Invocation | None = None
        self._made = self._left = 0
        self._fault: str | None = None
        mock_random.seed(0)
        world.clock = self.clock
        moto_fixes.outbox.clear()
        dynamodb_backends[ACCOUNT][REGION].tables[world.table].items.clear()
        self.pool = cognitoidp_backends[ACCOUNT][REGION].user_pools[world.pool]
        self.pool.users.clear()

    # -------------------------------------------------------------- invocations

    @property
    def handlers_now(self) -> int:
        """What the running handler's clock says: as when it came to this point for the first time."""
        assert self._running is not None
        return self._running.replies[self._made - 1][2] if self._made else self._running.started_at

    def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A call of the running handler to a service: replayed, made now, or not to be made yet."""
        assert self._running is not None
        replies = self._running.replies
        self._made += 1
        if self._made > len(replies):
            if self._left == 0:
                raise Stopped
            self._left -= 1
            self.counts["calls"] += 1
            self._made -= 1  # until it is answered, the call has not been made
            value, error = self._answered(method, *args, **kwargs)
            replies.append((value, error, self.clock.now))
            self._made += 1
        value, error, _ = replies[self._made - 1]
        if error is not None:
            raise error.with_traceback(None)
        return value

    def _answered(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[Any, BaseException | None]:
        fault, self._fault = self._fault, None
        names = getattr(method, "__qualname__", "").split(".")
        throttled, unavailable = FAULTS.get(names[0], (None, None))
        if fault == "throttled" and throttled is not None:
            self.counts["throttled"] += 1
            return None, throttled("refused")
        try:
            value = method(*args, **kwargs)
        except errors.GatewayError as error:
            return None, error
        if fault == "no answer" and unavailable is not None:
            self.counts["no answer"] += 1
            return None, unavailable("done, but the answer was lost")
        return value, None

    def stripe_answers(self, method: str, path: str, params: Json) -> tuple[str, int, Mapping[str, str]]:
        """One request to Stripe."""
        if self._fault is not None:
            status, self._fault = (429 if self._fault == "throttled" else 500), None
            self.counts["stripe faults"] += 1
            return json.dumps(injected(status).body), status, {}
        status, body, headers = self.api.call(method, path, params, "rk_test_lives")
        return json.dumps(body), status, headers

    def _advance(self, invocation: Invocation, calls: int, fault: str | None = None) -> bool:
        """Let a handler make so many calls more, and compute on until the call after them. True: it has ended."""
        self._running, self._made, self._left, self._fault = invocation, 0, calls, fault
        context = SimpleNamespace(
            aws_request_id=invocation.owner,
            function_name=invocation.function,
            get_remaining_time_in_millis=lambda: 60_000,
        )
        handler = self.world.modules[invocation.function].handler
        try:
            invocation.answer = json.loads(json.dumps(handler(invocation.event, context)))
        except Stopped:
            return False
        except errors.GatewayError as error:
            invocation.error, invocation.cause = type(error).__name__, str(error)
        finally:
            self._running, self._fault = None, None
        return True

    # -------------------------------------------------------------- executions

    @property
    def running(self) -> list[Execution]:
        return [each for each in self.executions.values() if each.ended is None]

    def go_on(self, run: Execution | Invocation, calls: int, fault: str | None = None) -> None:
        """An execution makes so many calls more; the waits of its retries pass. Or an invocation that nobody waits for
        any more does."""
        if isinstance(run, Invocation):
            if self._advance(run, calls, fault):
                self.orphans.remove(run)
            return
        while run.ended is None:
            if run.wakes_at > self.clock.now:
                self.pass_by(run.wakes_at - self.clock.now)
                continue
            if run.invocation is None:
                run.invocations += 1
                self.counts["invocations"] += 1
                event = {"execution": run.arn, "run": copy.deepcopy(run.data)}
                owner = f"{run.name}/{run.invocations}"
                run.invocation = Invocation(run.state, event, owner, self.clock.now)
            before = len(run.invocation.replies)
            ended = self._advance(run.invocation, calls, fault)
            fault = None
            calls -= len(run.invocation.replies) - before
            if not ended:
                return
            self._task_ended(run, run.invocation)

    def _task_ended(self, run: Execution, invocation: Invocation) -> None:
        run.invocation = None
        if invocation.error is not None:
            self._failed(run, invocation.error, invocation.cause)
            return
        state = DEFINITION["States"][run.state]
        run.data[state["ResultPath"].removeprefix("$.")] = invocation.answer
        self._enter(run, state["Next"])

    def _enter(self, run: Execution, name: str) -> None:
        state = DEFINITION["States"][name]
        while state["Type"] == "Choice":
            name = next((rule["Next"] for rule in state["Choices"] if _holds(rule, run.data)), state["Default"])
            state = DEFINITION["States"][name]
        run.state, run.invocation, run.tries, run.wakes_at = name, None, Counter(), 0
        if state["Type"] in ("Succeed", "Fail"):
            run.ended = name
            self.counts[name] += 1
        else:
            assert state["Type"] == "Task", f"teach this interpreter {state['Type']}"

    def _failed(self, run: Execution, error: str, cause: str) -> None:
        """A task ended with an error: its Retry, after half of the longest wait, then its Catch."""
        state = DEFINITION["States"][run.state]
        for number, retrier in enumerate(state["Retry"]):
            if error in retrier["ErrorEquals"] and run.tries[number] < retrier["MaxAttempts"]:
                wait = retrier["IntervalSeconds"] * retrier["BackoffRate"] ** run.tries[number]
                run.wakes_at = self.clock.now + int(min(wait, retrier["MaxDelaySeconds"]) / 2)
                run.tries[number] += 1
                self.counts["retries"] += 1
                return
        (catch,) = state["Catch"]
        assert catch["ErrorEquals"] == ["States.ALL"]
        run.data[catch["ResultPath"].removeprefix("$.")] = {
            "Error": error,
            "Cause": json.dumps({"errorType": error, "errorMessage": cause}),
        }
        self.counts[f"failed: {error}"] += 1
        self._enter(run, catch["Next"])

    def kill_invocation(self, run: Execution, *, lives_on: bool = False) -> None:
        """The Lambda dies, or only its connection to Step Functions does; the task is tried again."""
        if run.ended is not None or run.invocation is None:
            return
        self.counts["invocations killed"] += 1
        if lives_on:
            self.orphans.append(run.invocation)
        run.invocation = None
        self._failed(run, "Lambda.SdkClientException" if lives_on else "Lambda.Unknown", "killed")

    def kill_execution(self, run: Execution) -> None:
        """Somebody stops the execution; the order is left without a word."""
        if run.ended is None:
            self.counts["executions killed"] += 1
            run.ended, run.invocation = "Killed", None

    def pass_by(self, seconds: int) -> None:
        """Time passes. Lambdas end at their time-out, executions at theirs."""
        invocations = [*self.orphans, *(run.invocation for run in self.running if run.invocation is not None)]
        if any(each.function == "MarkFulfilled" for each in invocations):
            self.counts["stalls of MarkFulfilled"] += 1
        self.clock.now += seconds
        now = self.clock.now
        self.orphans = [each for each in self.orphans if now - each.started_at < self.world.timeouts[each.function]]
        for run in self.running:
            if now - run.started_at >= EXECUTION_SECONDS:
                run.ended, run.invocation = "TimedOut", None
                self.counts["executions timed out"] += 1
            elif run.invocation is not None and now - run.invocation.started_at >= self.world.timeouts[run.state]:
                run.invocation = None
                self.counts["invocations timed out"] += 1
                self._failed(run, "Sandbox.Timedout", "timed out")

    # -------------------------------------------------------------- the webhook and the schedule

    @property
    def undelivered(self) -> list[Json]:
        """Events that the endpoint is subscribed to and has not answered with 200 yet, oldest first."""
        return [each for each in self.subscribed if each["id"] not in self.delivered]

    def open_shop(self) -> None:
        """What was for sale before the endpoint was registered, nobody is told of."""
        self._listed = len(self.account.events)

    @property
    def subscribed(self) -> list[Json]:
        events = self.account.events
        self._subscribed += [each for each in events[self._listed :] if each["type"] in HANDLED_TYPES]
        self._listed = len(events)
        return self._subscribed

    def deliver(self, event: Json, calls: int = NO_END, fault: str | None = None) -> None:
        """Stripe posts an event; the webhook may die after so many calls."""
        body = json.dumps(event)
        signature = stripe.WebhookSignature.generate_signature_header(body, WEBHOOK_SECRET)
        request = {"body": body, "headers": {"stripe-signature": signature}, "isBase64Encoded": False}
        self.counts["deliveries"] += 1
        webhook = Invocation("Webhook", request, f"webhook/{self.counts['deliveries']}", self.clock.now)
        answered = self._advance(webhook, calls, fault)
        assert not answered or fault is not None or webhook.answer["statusCode"] == 200, webhook.answer
        if answered and webhook.answer["statusCode"] == 200:
            self.delivered.add(event["id"])

    def run_due(self, calls: int = NO_END, fault: str | None = None) -> int:
        """The schedule fires; how many executions were started."""
        self.counts["schedules"] += 1
        known = len(self.executions)
        schedule = Invocation("RunDue", {}, f"due/{self.counts['schedules']}", self.clock.now)
        self._advance(schedule, calls, fault)
        assert schedule.error is None or fault is not None, f"RunDue: {schedule.error}: {schedule.cause}"
        return len(self.executions) - known

    # -------------------------------------------------------------- to the end

    def settle(self) -> None:
        """Everything is delivered, runs, and runs again until nothing is due and no order is open."""
        for _ in range(200):
            for event in self.undelivered:
                self.deliver(event)
            for orphan in list(self.orphans):
                self.go_on(orphan, NO_END)
            for run in self.running:
                self.go_on(run, NO_END)
            if self.running or self.undelivered or self.run_due():
                continue
            soonest = min((each["due_at"] for each in self.open_orders if "due_at" in each), default=None)
            if soonest is None:
                return
            self.pass_by(max(int(soonest) - self.clock.now, 1))
        reasons = {f"{row['event_type']}: {row.get('last_error', row['state'])}" for row in self.open_orders}
        raise AssertionError(f"the orders never come to an end: {sorted(reasons)}")

    def silence(self, seconds: int) -> Iterator[None]:
        """Stripe says nothing for so long; yields whenever something that was due by the clock is done."""
        until = self.clock.now + seconds
        while True:
            moments = [int(each["due_at"]) for each in self.rows() if "due_at" in each]
            soonest = min((each for each in moments if each <= until), default=None)
            if soonest is None:
                break
            self.pass_by(max(soonest - self.clock.now, 0) + DUE_EVERY)
            self.settle()
            yield
        self.pass_by(max(until - self.clock.now, 0))
        self.settle()
        yield

    # -------------------------------------------------------------- what is there to see

    def rows(self) -> list[Json]:
        """Every row of the ledger."""
        plain = TypeDeserializer().deserialize
        items = dynamodb_backends[ACCOUNT][REGION].tables[self.world.table].all_items()
        return [{name: plain(value.to_regular_json()) for name, value in item.attrs.items()} for item in items]

    @property
    def open_orders(self) -> list[Json]:
        return [row for row in self.rows() if row["sk"] == "ORDER" and row["state"] != "FULFILLED"]

    def links(self) -> dict[str, str]:
        """Stripe customer, or guest's order -> sub, as the ledger has it."""
        return {row["pk"].removeprefix("PARTY#"): row["sub"] for row in self.rows() if _links(row)}

    def everybody(self) -> list[CognitoUser]:
        return [_as_seen(user) for user in self.pool.users.values()]

    def user(self, sub: str) -> CognitoUser:
        return next(user for user in self.everybody() if user.sub == sub)

    # -------------------------------------------------------------- operators

    def add_user(self, email: str, *, enabled: bool = True, **attributes: str) -> str:
        """A user who exists before the story begins; their sub."""
        pairs = {"email": email, "email_verified": "true"} | {f"custom:{k}": v for k, v in attributes.items()}
        made = self.world.cognito.admin_create_user(
            UserPoolId=self.world.pool,
            Username=email,
            MessageAction="SUPPRESS",
            UserAttributes=[{"Name": name, "Value": value} for name, value in pairs.items()],
        )["User"]
        user = self.pool.users[made["Username"]]
        user.status, user.enabled = UserStatus.CONFIRMED, enabled
        self.deeds.before[user.id] = _as_seen(user)
        return str(user.id)

    def ban(self, sub: str) -> None:
        """As the README says: disabled by hand, with the operator's name on it, between two writes of the gateway."""
        self._let_writers_finish()
        self._set(sub, disabled_by="operator")
        self.world.cognito.admin_disable_user(UserPoolId=self.world.pool, Username=sub)
        self.deeds.banned[sub] = self.user(sub)

    def unban(self, sub: str) -> None:
        self._set(sub, disabled_by="billing")
        del self.deeds.banned[sub]
        self.touch_everybody()

    def comp(self, sub: str) -> None:
        """As the README says: from now on billing leaves them alone."""
        self._let_writers_finish()
        self._set(sub, payment_provider="ADMIN")
        self.deeds.comped[sub] = self.user(sub)

    def delete_user(self, sub: str) -> None:
        self._let_writers_finish()
        parties = frozenset(party for party, linked in self.links().items() if linked == sub)
        self.deeds.deleted[sub] = (self.user(sub), parties)
        self.deeds.banned.pop(sub, None)
        self.world.cognito.admin_delete_user(UserPoolId=self.world.pool, Username=sub)

    def sign_in(self, sub: str) -> None:
        """The user follows the invitation and chooses a password."""
        user = self.pool._get_user(sub)
        if user.status == UserStatus.FORCE_CHANGE_PASSWORD:
            user.status = UserStatus.CONFIRMED

    def touch(self, customer: str) -> None:
        """Something is written down about a customer at Stripe: an event, and no more than that."""
        stored = self.account.objects["customer"][customer]
        if not stored.get("deleted"):
            self.account.update_customer(customer, metadata={"touched": str(len(self.account.events))})

    def touch_everybody(self) -> None:
        for customer in list(self.account.objects["customer"]):
            self.touch(customer)

    def _set(self, sub: str, **attributes: str) -> None:
        self.world.cognito.admin_update_user_attributes(
            UserPoolId=self.world.pool,
            Username=sub,
            UserAttributes=[{"Name": f"custom:{name}", "Value": value} for name, value in attributes.items()],
        )

    def _let_writers_finish(self) -> None:
        """A person's hand and a Lambda in the same instant: nobody but Cognito could arbitrate that, and it does not
        (test_interleavings.py, `under_lease`)."""
        for orphan in list(self.orphans):
            self.go_on(orphan, NO_END)
        for run in self.running:
            while run.ended is None and run.invocation is not None and run.invocation.replies:
                self._advance(run.invocation, NO_END)
                self._task_ended(run, run.invocation)


def _links(row: Json) -> bool:
    return bool(row["sk"] == "PARTY" and row.get("sub"))


def _as_seen(user: Any) -> CognitoUser:
    found = user.attribute_lookup
    limit = found.get("custom:num_dapps")
    return CognitoUser(
        str(user.id),
        found["email"],
        user.enabled,
        None if limit is None else int(limit),
        found.get("custom:payment_status", ""),
        found.get("custom:disabled_by", ""),
        found.get("custom:payment_provider", ""),
        user.status == UserStatus.CONFIRMED,
    )
