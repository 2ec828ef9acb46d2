"""The machines as deployed, in one process: the real definitions in moto's interpreter, the real handlers.

Tables, user pool, substitutions and every function's environment come from template.yaml. Only Stripe is a fake (with
memory), and so are the bus and the topic that changes are published to; a Lambda call is a call of the handler, and a
Retry's wait, or a Wait state, moves the clock instead of sleeping.
"""

import functools
import importlib.util
import json
import threading
import traceback
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import moto.cognitoidp.models
import pytest
from boto3.dynamodb.types import TypeDeserializer
from moto import mock_aws
from moto.stepfunctions.parser.asl.component.common.retry import jitter_strategy_decl, retrier_decl
from moto.stepfunctions.parser.asl.component.state.exec.state_task import lambda_eval_utils
from moto.stepfunctions.parser.asl.component.state.wait.wait_function.wait_function import WaitFunction
from moto.stepfunctions.parser.asl.parse.asl_parser import AmazonStateLanguageParser

from gateway import differences, events, rechecks, searches, telemetry
from gateway.access import Item, Live, Mark, MarkKind, Purchase, Subscription
from gateway.billing import Charged, Customer
from gateway.differences import Differences
from gateway.errors import BillingIncomplete
from gateway.executions import StateMachine, execution_arn
from gateway.ledger import DUE_SHARDS, Attempt, DuePerson, Ledger, Person, Tombstone
from gateway.notices import Notices
from gateway.people import tombstone_id
from gateway.step import shape
from gateway.users import Users
from tests.local import moto_fixes
from tests.local.template import Template

REPOSITORY = Path(__file__).parents[2]
REGION = "us-east-1"
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/machine"
ENDS_WITHIN = 30  # seconds; an execution takes far less than one
# Parsing takes longer than all the rest of a test; what it gives is not changed by running it.
parse = functools.cache(AmazonStateLanguageParser.parse)

# Nobody else's address looks like these, so they can be searched for in everything an execution leaves behind.
EMAIL = "markedmailbox@markeddomain.example"
NEW_EMAIL = "othermailbox@markeddomain.example"
NAME = "Markedgiven Markedfamily"
HASH_KEY = "a key that only the gateway has"
BAN = {"reason": "spam", "requested_by": "an operator", "at": 1}


class Killed(BaseException):
    """The Lambda's process ends here: nothing after it runs, no lease is given back.

    Its argument is the error's name in Step Functions, when that is not the time-out's.
    """


class Clock:
    """Time as a value: handlers read it, retries move it."""

    def __init__(self, now: float = 1_800_000_000) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    monotonic = time

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def utcnow(self) -> datetime:
        """As moto asks for it."""
        return datetime.fromtimestamp(self.now, UTC).replace(tzinfo=None)

    def pass_by(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class FakeBilling:
    """Stripe with memory, with the questions that the handlers ask, and the one thing that they do there."""

    clock: Clock
    customers: dict[str, Customer] = field(default_factory=dict)
    purchases: dict[str, Purchase] = field(default_factory=dict)
    charges: dict[str, Charged] = field(default_factory=dict)
    marks: dict[str, MarkKind] = field(default_factory=dict)  # as they stand now
    canceled: list[str] = field(default_factory=list)  # subscriptions, as often as it was asked for
    sessions: list[dict[str, Any]] = field(default_factory=list)  # Checkout sessions as Stripe has them
    happened: list[dict[str, Any]] = field(default_factory=list)  # events as Stripe has them
    undelivered: set[str] = field(default_factory=set)  # events that some webhook endpoint has not taken
    error: Exception | None = None
    slowly: Callable[[], object] | None = None  # what happens while a charge is looked up
    page: int = 100
    pages: list[tuple[str, str | None]] = field(default_factory=list)  # that were asked for: list, and after whom
    before_page: Callable[[str, int], object] | None = None  # what happens first: list, and how many pages of it before

    def customer(self, customer_id: str) -> Customer:
        if self.error is not None:
            raise self.error
        if customer_id not in self.customers:
            raise BillingIncomplete("Stripe does not know an object that the ledger names: key of another account?")
        return self.customers[customer_id]

    def customers_of(self, email: str) -> list[str]:
        if self.error is not None:
            raise self.error
        return [each.id for each in self.customers.values() if each.email == email and not each.deleted]

    def cancel(self, subscription_id: str, idempotency_key: str) -> None:
        if self.error is not None:
            raise self.error
        self.canceled.append(subscription_id)
        for name, customer in self.customers.items():
            subscriptions = tuple(
                replace(each, status="canceled") if each.id == subscription_id and not each.ended else each
                for each in customer.subscriptions
            )
            self.customers[name] = replace(customer, subscriptions=subscriptions)

    def purchase(self, known: events.Purchase) -> Purchase:
        if self.error is not None:
            raise self.error
        return self.purchases[known.id]

    def charged(self, charge_id: str) -> Charged:
        if self.error is not None:
            raise self.error
        if self.slowly is not None:
            self.slowly()
        return self.charges[charge_id]

    def mark(self, known: events.Mark) -> Mark | None:
        if known.pays is None or known.id not in self.marks:
            return None
        return Mark(known.id, self.marks[known.id], known.pays, known.until)

    def subscriptions_made(
        self, since: int, until: int, after: str | None
    ) -> tuple[list[tuple[str, Subscription]], str | None]:
        def listed() -> list[tuple[int, str, tuple[str, Subscription]]]:
            return [
                (each.created or 0, each.id, (customer.id, each))
                for customer in self.customers.values()
                for each in customer.subscriptions
            ]

        return self._page("subscriptions", listed, since, until, after)

    def one_time_sessions(self, since: int, until: int, after: str | None) -> tuple[list[dict[str, Any]], str | None]:
        def listed() -> list[tuple[int, str, dict[str, Any]]]:
            return [(each["created"], each["id"], each) for each in self.sessions]

        return self._page("sessions", listed, since, until, after)

    def events(
        self, types: Sequence[str], since: int, until: int, after: str | None, *, undelivered: bool
    ) -> tuple[list[dict[str, Any]], str | None]:
        def listed() -> list[tuple[int, str, dict[str, Any]]]:
            found = [each for each in self.happened if each["type"] in types]
            wanted = [each for each in found if not undelivered or each["id"] in self.undelivered]
            return [(each["created"], each["id"], each) for each in wanted]

        assert len(types) <= 20
        return self._page("undelivered" if undelivered else "events", listed, since, until, after)

    def first_made_at(self, now: int, *, sessions: bool = False) -> int | None:
        if self.error is not None:
            raise self.error
        made = [each.created or 0 for customer in self.customers.values() for each in customer.subscriptions]
        if sessions:
            made = [each["created"] for each in self.sessions]
        first = min((each for each in made if each < now), default=None)
        return None if first is None else first - 43_200

    def _page(
        self,
        name: str,
        listed: Callable[[], list[tuple[int, str, Any]]],
        since: int,
        until: int,
        after: str | None,
    ) -> tuple[list[Any], str | None]:
        """A page of a list, latest first: what is there now and comes behind that row, as Stripe does it."""
        if self.before_page is not None:
            self.before_page(name, sum(each == name for each, _ in self.pages))
        self.pages.append((name, after))
        if self.error is not None:
            raise self.error
        rows = sorted(listed(), key=lambda row: row[:2], reverse=True)
        if after is not None:
            (last,) = [row[:2] for row in rows if row[1] == after]
            rows = [row for row in rows if row[:2] < last]
        rows = [row for row in rows if since <= row[0] < until]
        page = rows[: self.page]
        return [row[2] for row in page], page[-1][1] if len(rows) > len(page) else None

    def tells(
        self, event_id: str, event_type: str, content: Mapping[str, Any], *, taken: bool = True, **facts: Any
    ) -> None:
        """Stripe has an event of now; `taken`: every webhook endpoint has taken it."""
        self.happened.append(
            {
                "id": event_id,
                "object": "event",
                "type": event_type,
                "livemode": False,
                "created": int(self.clock.now),
                "data": {"object": dict(content)},
                **facts,
            }
        )
        if not taken:
            self.undelivered.add(event_id)

    def charge(self, customer_id: str, *, until: int | None = None) -> str:
        """A charge that paid for the customer's subscription until that moment; its id."""
        charge_id = f"ch_{customer_id}"
        self.charges[charge_id] = Charged(customer_id, f"sub_{customer_id}", until)
        return charge_id

    def subscribe(
        self,
        customer_id: str,
        dapps: int,
        *,
        status: str = "active",
        email: str | None = EMAIL,
        mapped: bool = True,
        **facts: Any,
    ) -> None:
        """The customer's one subscription is like this now; a new one is made now."""
        before = self.customers.get(customer_id)
        made = before.subscriptions[0].created if before and before.subscriptions else int(self.clock.now)
        self.customers[customer_id] = Customer(customer_id, email, deleted=False, subscriptions=())
        self.add_subscription(
            customer_id, f"sub_{customer_id}", dapps, status=status, mapped=mapped, **{"created": made, **facts}
        )

    def add_subscription(
        self, customer_id: str, subscription: str, dapps: int = 1, *, mapped: bool = True, **facts: Any
    ) -> None:
        """One more subscription of a customer; without a mapping of its price it is another product's."""
        item = Item(price="price_dapp" if mapped else "price_other", quantity=dapps, dapps="1" if mapped else None)
        assert item.counts is mapped
        customer = self.customers[customer_id]
        about = {"status": "active", "created": int(self.clock.now), **facts}
        more = Subscription(id=subscription, items=(item,), **about)
        self.customers[customer_id] = replace(customer, subscriptions=(*customer.subscriptions, more))

    def statuses(self, customer_id: str = "cus_first") -> dict[str, str]:
        """How each subscription of the customer stands."""
        return {each.id: each.status for each in self.customers[customer_id].subscriptions}

    def change_status(self, customer_id: str, status: str, **facts: Any) -> None:
        customer = self.customers[customer_id]
        (subscription,) = customer.subscriptions
        changed = replace(subscription, status=status, **facts)
        self.customers[customer_id] = replace(customer, subscriptions=(changed,))


@dataclass
class Bus:
    """EventBridge and SNS with memory, with the one call that each of them gets."""

    notices: list[dict[str, Any]] = field(default_factory=list)  # the details of the events
    messages: list[dict[str, Any]] = field(default_factory=list)
    error: Exception | None = None
    then: Callable[[], object] = lambda: None  # what happens once a notice is out

    def put_events(self, **request: Any) -> dict[str, Any]:
        if self.error is not None:
            raise self.error
        self.notices += [json.loads(entry["Detail"]) for entry in request["Entries"]]
        self.then()
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"} for _ in request["Entries"]]}

    def publish(self, **request: Any) -> dict[str, Any]:
        self.messages.append(json.loads(request["Message"]))
        return {"MessageId": "1"}

    @property
    def changes(self) -> list[tuple[Any, Any]]:
        """What was told so far: (before, after) of each notice, as `told` gives them."""
        return [(told(notice["before"]), told(notice["after"])) for notice in self.notices]


def told(stood: Mapping[str, Any] | None) -> tuple[bool, int, str] | None:
    """How a user stood, in a notice or a row: enabled, limit, status."""
    return None if stood is None else (stood["enabled"], int(stood["dapp_limit"]), stood["payment_status"])


def definition(machine: str = "fulfillment") -> dict[str, Any]:
    """A machine as it is in the repository, with its placeholders."""
    file = REPOSITORY / "statemachine" / f"{machine}.asl.json"
    return dict(json.loads(file.read_text(encoding="utf-8")))


@dataclass(frozen=True)
class CognitoUser:
    """A user as an operator sees them."""

    sub: str
    enabled: bool
    attributes: Mapping[str, str]

    @property
    def limit(self) -> str | None:
        return self.attributes.get("custom:num_dapps")

    @property
    def status(self) -> str | None:
        return self.attributes.get("custom:payment_status")

    @property
    def disabled_by(self) -> str:
        return self.attributes.get("custom:disabled_by", "")


@dataclass(frozen=True)
class Ended:
    """An execution that has ended. `traces`: all that it leaves behind in Step Functions, as text."""

    status: str
    error: str | None
    cause: str | None
    path: tuple[str, ...]
    traces: str = field(repr=False)


@dataclass(frozen=True)
class Searched:
    """A reconciliation that has ended. `report`: its row in the ledger; `found`: sub or party -> kind."""

    name: str
    ended: Ended
    report: Mapping[str, Any]
    found: Mapping[str, str]


class Cognito:
    """A cognito-idp client that remembers its calls, and in whose calls a test can step in."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}

    def spied(self, client: Any) -> Any:
        """This client, spied on. Each step in happens once."""

        def call(operation: str, method: Callable[..., Any], request: dict[str, Any]) -> Any:
            self.before.pop(operation, lambda: None)()
            self.calls.append(operation)
            answer = method(**request)
            self.after.pop(operation, lambda: None)()
            return answer

        return _Spied(client, call)

    @property
    def writes(self) -> list[str]:
        return [call for call in self.calls if call != "admin_get_user"]


class _Spied:
    """An object whose every method is called through `call`."""

    def __init__(self, spied: Any, call: Callable[[str, Callable[..., Any], dict[str, Any]], Any]) -> None:
        self._spied = spied
        self._call = call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._spied, name)
        if not callable(method):
            return method
        return lambda *args, **request: self._call(name, functools.partial(method, *args), request)


@dataclass
class Calls:
    """Every call of one state's Lambda to a service, counted over all its invocations; one of them can be its last."""

    count: int = 0
    dies_before: int | None = None
    dies_after: int | None = None
    error: str = "Sandbox.Timedout"

    def __call__(self, name: str, method: Callable[..., Any], request: dict[str, Any]) -> Any:
        self.count += 1
        number = self.count
        if number == self.dies_before:
            raise Killed(self.error)
        try:
            return method(**request)
        finally:
            if number == self.dies_after:
                raise Killed(self.error)


def killed() -> None:
    """What a test steps in with where the process is to die."""
    raise Killed


class Lambdas:
    """Answers the interpreter's Lambda calls with the handlers, in this process, in Lambda's own envelopes.

    One handler runs at a time: moto and Powertools' metrics are not made for threads. Finer interleavings are the
    business of test_interleavings.py.
    """

    def __init__(self, handlers: Mapping[str, ModuleType], functions: Mapping[str, str]) -> None:
        self._handlers = handlers
        self._functions = functions  # ARN -> state
        self._one_at_a_time = threading.Lock()
        self.faults: dict[str, deque[str]] = {}
        self.meanwhile: dict[str, deque[Callable[[], object]]] = {}
        self.calls: Counter[str] = Counter()

    def invoke(self, parameters: dict[str, Any], region: str, state_credentials: Any) -> dict[str, Any]:
        """In place of the interpreter's own Lambda call."""
        state = self._functions[parameters["FunctionName"]]
        with self._one_at_a_time:
            self.calls[state] += 1
            if self.faults.get(state):
                return _faulty(self.faults[state].popleft())
            if self.meanwhile.get(state):
                self.meanwhile[state].popleft()()
            context = SimpleNamespace(
                function_name=f"{state}Function",
                aws_request_id=str(uuid.uuid4()),
                get_remaining_time_in_millis=lambda: 20_000,
            )
            try:
                answer = self._handlers[state].handler(json.loads(parameters["Payload"]), context)
            except Killed as killing:
                return _faulty(*(killing.args or ("Sandbox.Timedout",)), "Task timed out after 20.00 seconds")
            except Exception as error:
                trace = traceback.format_list(traceback.extract_tb(error.__traceback__))
                return _faulty(type(error).__name__, str(error), trace)
            return {"StatusCode": 200, "Payload": json.loads(json.dumps(answer))}


def _faulty(name: str, message: str = "injected", trace: list[str] | None = None) -> dict[str, Any]:
    if name == "States.Timeout":
        raise TimeoutError  # as the interpreter reports a task that took too long
    envelope = {"errorType": name, "errorMessage": message, "stackTrace": trace or []}
    return {"StatusCode": 200, "FunctionError": "Unhandled", "Payload": envelope}


class World:
    """The machine, its services, and what a test asks of them."""

    def __init__(
        self,
        template: Template,
        handlers: Mapping[str, ModuleType],
        clients: SimpleNamespace,
        pool_id: str,
        cognito: Cognito,
        waits: list[float],
        patch: pytest.MonkeyPatch,
    ) -> None:
        self.definition = definition()
        self.handlers = handlers
        self.clock = Clock()
        self.billing = FakeBilling(self.clock)
        self.bus = Bus()
        self.waits = waits
        self.counted: Counter[str] = Counter()  # metrics
        self._patch = patch
        self.cognito = cognito
        self.pool_id = pool_id
        self._clients = clients
        self._table = template.resources["OrdersTable"].logical_id
        self.ledger = Ledger(clients.dynamodb, self._table)
        self.users = Users(clients.cognito, pool_id)
        names = ("Fulfillment", "Offboarding", "Reconciliation")
        machines = [template.resources[f"{name}StateMachine"] for name in names]
        self._substitutions: dict[str, str] = {
            name: arn
            for machine in machines
            for name, arn in template.resolve(machine.properties["DefinitionSubstitutions"]).items()
        }
        self.lambdas = Lambdas(
            handlers, {arn: name.removesuffix("FunctionArn") for name, arn in self._substitutions.items()}
        )
        texts = (self.definition, definition("offboarding"), definition("reconciliation"))
        self._machine, self._offboarding, self._reconciliation = (
            clients.stepfunctions.create_state_machine(
                name=machine.logical_id, definition=self._substituted(text), roleArn=ROLE
            )["stateMachineArn"]
            for machine, text in zip(machines, texts, strict=True)
        )
        self.fulfillment = StateMachine(clients.stepfunctions, self._machine)
        self.offboarding = StateMachine(clients.stepfunctions, self._offboarding)
        self._events = 0
        self._searches = 0

    # -------------------------------------------------------------- the machine

    def use(self, definition: Mapping[str, Any]) -> None:
        """From now on, executions run this definition."""
        self.definition = dict(definition)
        self._clients.stepfunctions.update_state_machine(
            stateMachineArn=self._machine, definition=self._substituted(self.definition)
        )

    def receive(self, customer_id: str | None = "cus_first", **known: Any) -> Attempt:
        """An order in the ledger, as the webhook records it; its first attempt, not started yet."""
        self._events += 1
        order = events.Order(
            **{
                "event_id": f"evt_{self._events}",
                "event_type": "invoice.paid",
                "livemode": False,
                "order_id": f"in_{self._events}",
                "customer_id": customer_id,
                "email": EMAIL,
                "name": NAME,
                "amount": 1000,
                "currency": "eur",
                "charge": None,
                "items": (),
                "metadata": {},
                "status": "paid",
                "updated": int(self.clock.now),
                **known,
            }
        )
        self.ledger.remember_purchase(order)
        assert self.ledger.record(order, int(self.clock.now)) is None
        return Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", int(self.clock.now))

    def start(self, attempt: Attempt) -> str:
        """Start an execution as the webhook does; its ARN."""
        self.fulfillment.start(attempt)
        return execution_arn(self._machine, attempt.execution_name)

    def wait_for(self, execution: str) -> Ended:
        stepfunctions = self._clients.stepfunctions

        def ended() -> bool:
            return bool(stepfunctions.describe_execution(executionArn=execution)["status"] != "RUNNING")

        with moto_fixes.execution_ended:
            assert moto_fixes.execution_ended.wait_for(ended, ENDS_WITHIN), "the execution does not end"
        answer = stepfunctions.describe_execution(executionArn=execution)
        pages = stepfunctions.get_paginator("get_execution_history").paginate(executionArn=execution)
        history = [event for page in pages for event in page["events"]]
        entered = [event["stateEnteredEventDetails"] for event in history if "stateEnteredEventDetails" in event]
        return Ended(
            answer["status"],
            answer.get("error"),
            answer.get("cause"),
            tuple(state["name"] for state in entered),
            json.dumps([answer, history], default=str),
        )

    def run(self, attempt: Attempt) -> Ended:
        return self.wait_for(self.start(attempt))

    def happens(self, customer_id: str | None = "cus_first", **known: Any) -> Ended:
        """An event of this customer arrives and is run to its end."""
        return self.run(self.receive(customer_id, **known))

    def marked(self, event_type: str = "charge.refunded", charge: str = "ch_cus_first", **known: Any) -> Attempt:
        """An order that names nobody but a charge: a refund, a dispute or a fraud warning."""
        nobody = {"event_type": event_type, "order_id": charge, "charge": charge, "email": None, "name": None}
        return self.receive(None, **{**nobody, "status": "returned", **known})

    def runs_again(self, attempt: Attempt) -> Ended:
        """The next attempt of an order, as RunDue takes it."""
        again = self.ledger.next_attempt(attempt, int(self.clock.now))
        assert again is not None
        return self.run(again)

    # -------------------------------------------------------------- the deletion of an account

    def delete(self, email: str = EMAIL, *, sub: str | None = None) -> Ended:
        """POST /delete, and its execution to the end."""
        return self.wait_for(self.start_deletion(email, sub=sub))

    def start_deletion(self, email: str = EMAIL, *, sub: str | None = None) -> str:
        """Take the next attempt as POST /delete does, and start its execution; its ARN."""
        tombstone = tombstone_id(email, HASH_KEY)
        seen = self.ledger.tombstone(tombstone)
        taken = self.ledger.begin_deletion(
            tombstone, seen, int(self.clock.now), email=email, sub=sub, requested_by="arn:aws:iam::1:user/operator"
        )
        assert taken is not None
        self.offboarding.start(taken)
        return execution_arn(self._offboarding, taken.execution_name)

    def resumed(self, email: str = EMAIL) -> Ended:
        """The deletion that a fulfillment has started, to its end."""
        return self.wait_for(execution_arn(self._offboarding, self.tombstone(email).execution_name))

    def tombstone(self, email: str = EMAIL) -> Tombstone:
        """What the ledger has of the deletion of this address's account."""
        return self.ledger.deletion(tombstone_id(email, HASH_KEY))

    # -------------------------------------------------------------- a reconciliation

    def search(self, **said: Any) -> "Searched":
        """A reconciliation with this input, and all the runs that it starts, to their ends."""
        return self.searched(self.start_search(**said))

    def start_search(self, **said: Any) -> str:
        """Start a reconciliation as the schedule does; its name."""
        self._searches += 1
        name = f"search_{self._searches}"
        self._clients.stepfunctions.start_execution(
            stateMachineArn=self._reconciliation, name=name, input=json.dumps(said)
        )
        return name

    def searched(self, name: str) -> "Searched":
        ended = self.wait_for(execution_arn(self._reconciliation, name))
        self.ends()
        rows = self.table()
        reports = [row for row in rows if row["pk"] == "RECONCILIATION" and row["sk"].endswith(f"#{name}")]
        (report,) = reports or [{}]
        found = {row["sk"]: row["kind"] for row in rows if row["pk"] == f"DRIFT#{name}"}
        return Searched(name, ended, report, found)

    def governs(self) -> None:
        """Parameter AdoptedUsers=govern."""
        for state in ("LookupUser", "ScanUsers"):
            self.parameter(state, "GOVERN", True)
        for state in ("ScanUsers", "CompareShard"):
            self._looks_through(self.handlers[state], govern=True)

    def _looks_through(self, module: ModuleType, *, govern: bool) -> None:
        """The module's Differences asks its module's adapters."""
        asked = Differences(module.ledger, module.billing, module.users, module.differences._policy, govern=govern)
        self._patch.setattr(module, "differences", asked)

    def runs(self) -> list[str]:
        """Whom runs were started for that no event of Stripe's asked for, once each."""
        return sorted(row["party"] for row in self.table() if row.get("event_type") == "gateway.recheck")

    def table(self) -> list[dict[str, Any]]:
        """Every row of the ledger."""
        pages = self._clients.dynamodb.get_paginator("scan").paginate(TableName=self._table, ConsistentRead=True)
        return [_plain(row) for page in pages for row in page["Items"]]

    def forget(self, pk: str) -> None:
        """The ledger has lost these rows, as after a restore."""
        for row in self.table():
            if row["pk"] == pk:
                self._clients.dynamodb.delete_item(
                    TableName=self._table, Key={name: {"S": row[name]} for name in ("pk", "sk")}
                )

    def calls_of(self, state: str, calls: Calls) -> Calls:
        """From now on these are the calls that the state's Lambda makes."""
        module = self.handlers[state]
        for name, adapter in vars(module).copy().items():
            if isinstance(adapter, Ledger):
                self._patch.setattr(module, name, Ledger(_Spied(self._clients.dynamodb, calls), self._table))
            elif isinstance(adapter, Users):
                client = _Spied(self.cognito.spied(self._clients.cognito), calls)
                self._patch.setattr(module, name, type(adapter)(client, self.pool_id))
            elif isinstance(adapter, Notices):
                bus = _Spied(self.bus, calls)
                self._patch.setattr(module, name, Notices(bus, "bus", bus, "topic"))
            elif isinstance(adapter, FakeBilling | StateMachine):
                self._patch.setattr(module, name, _Spied(adapter, calls))
        if hasattr(module, "differences"):
            self._looks_through(module, govern=module.differences._govern)
        return calls

    def ends(self) -> None:
        """Wait for what still runs, and for what that starts."""
        for machine in (self._reconciliation, self._machine, self._offboarding):
            pages = self._clients.stepfunctions.get_paginator("list_executions").paginate(stateMachineArn=machine)
            for execution in [each for page in pages for each in page["executions"]]:
                if execution["status"] == "RUNNING":
                    self.wait_for(execution["executionArn"])

    # -------------------------------------------------------------- parameters

    def parameter(self, state: str, name: str, value: object) -> None:
        """The operator has chosen another value than the template's default for what this handler's setting says."""
        self._patch.setattr(self.handlers[state], name, value)

    # -------------------------------------------------------------- what goes wrong

    def fail(self, state: str, error: str, times: int = 1) -> None:
        """The next calls of this state's Lambda end with this error name, without the handler being run."""
        self.lambdas.faults.setdefault(state, deque()).extend([error] * times)

    def meanwhile(self, state: str, happens: Callable[[], object]) -> None:
        """Something happens after the state is entered, before its handler runs."""
        self.lambdas.meanwhile.setdefault(state, deque()).append(happens)

    # -------------------------------------------------------------- what RunDue finds

    def due(self, at: float) -> list[Attempt | DuePerson]:
        """What would be due at that moment."""
        return [each for shard in range(DUE_SHARDS) for each in self.ledger.due(shard, int(at))]

    def runs_due(self) -> None:
        """Every order that is due now runs again, to its end."""
        for each in self.due(self.clock.now):
            if isinstance(each, Attempt):
                assert self.runs_again(each).status == "SUCCEEDED"

    def rechecks(self) -> Ended | None:
        """The next recheck of a person comes, as RunDue runs it; None when there is none."""
        people = [each for each in self.due(self.clock.now + 10**9) if isinstance(each, DuePerson)]
        if not people:
            return None
        person = min(people, key=lambda each: each.recheck_at)
        self.clock.now = max(self.clock.now, person.recheck_at)
        self.ledger.rechecked(person)
        return self.happens(person.party, event_type="gateway.recheck", order_id=person.party)

    # -------------------------------------------------------------- users and orders

    def add_user(
        self, email: str = EMAIL, *, enabled: bool = True, linked: tuple[str, ...] = (), **attributes: str
    ) -> str:
        """A user that is there before the story begins; their sub."""
        pairs = {"email": email, "email_verified": "true"}
        pairs |= {f"custom:{name}": value for name, value in attributes.items()}
        cognito = self._clients.cognito
        user = cognito.admin_create_user(
            UserPoolId=self.pool_id,
            Username=email,
            UserAttributes=[{"Name": name, "Value": value} for name, value in pairs.items()],
        )["User"]
        if not enabled:
            cognito.admin_disable_user(UserPoolId=self.pool_id, Username=user["Username"])
        sub = next(str(each["Value"]) for each in user["Attributes"] if each["Name"] == "sub")
        if linked:
            live = Live(True, int(attributes.get("num_dapps", "0"))) if enabled else Live()
            assert self.ledger.link(linked, sub, replacing=None, live=live)
        return sub

    def add_payer(self, customer_id: str = "cus_first", dapps: int = 3) -> str:
        """A user of ours who pays, linked, with nothing missing; their sub."""
        self.billing.subscribe(customer_id, dapps)
        sub = self.add_user(
            linked=(customer_id,), num_dapps=str(dapps), payment_status="ACTIVE", payment_provider="STRIPE"
        )
        return self._made_by_us(customer_id, sub)

    def add_lapsed(self, customer_id: str = "cus_first") -> str:
        """A user of ours whom billing disabled; their sub."""
        self.billing.subscribe(customer_id, 3, status="canceled")
        sub = self.add_user(
            enabled=False,
            linked=(customer_id,),
            num_dapps="0",
            payment_status="CANCELLED",
            payment_provider="STRIPE",
            disabled_by="billing",
        )
        return self._made_by_us(customer_id, sub)

    def _made_by_us(self, customer_id: str, sub: str) -> str:
        """As after the runs that made this user, and told how they stand."""
        self.ledger.claim_email(customer_id, EMAIL)
        user = self.users.get(sub)
        assert user is not None
        stands = shape(user.facts())
        assert stands is not None
        self.ledger.told(sub, stands, 1)
        return sub

    def person(self, sub: str | None = None) -> Person:
        """What the ledger has of the user with this sub; without one, of the only user there is."""
        person = self.ledger.person(sub or self.user().sub)
        assert person is not None
        return person

    def mails(self) -> list[bool]:
        """The invitations that left, oldest first: whether each was one that was sent again."""
        return [mail.resend for mail in moto_fixes.outbox if mail.user_pool_id == self.pool_id]

    def signs_in(self, sub: str) -> None:
        """The user uses the temporary password, and sets one of their own."""
        self._clients.cognito.admin_set_user_password(
            UserPoolId=self.pool_id, Username=sub, Password="Markedsecret-1", Permanent=True
        )

    def delete_user(self, sub: str) -> None:
        self._clients.cognito.admin_delete_user(UserPoolId=self.pool_id, Username=sub)

    def disable_by_hand(self, sub: str) -> None:
        self._clients.cognito.admin_disable_user(UserPoolId=self.pool_id, Username=sub)

    def ban(self, sub: str) -> None:
        """As POST /hold does."""
        self.ledger.hold(sub, BAN)
        self.users.update(sub, disabled_by="operator")
        self.users.sign_out(sub)
        self.users.disable(sub)

    def lift(self, sub: str) -> None:
        """As POST /hold does with a user whom billing governs."""
        user = self.users.get(sub)
        assert user is not None
        if user.held:
            self.users.update(sub, disabled_by="billing")
        elif user.disabled_by == "operator":
            self.users.update(sub, disabled_by="")
        self.ledger.lift(sub)

    def write_by_hand(self, sub: str, **attributes: str) -> None:
        pairs = [{"Name": f"custom:{name}", "Value": value} for name, value in attributes.items()]
        self._clients.cognito.admin_update_user_attributes(UserPoolId=self.pool_id, Username=sub, UserAttributes=pairs)

    def everybody(self) -> list[CognitoUser]:
        pages = self._clients.cognito.get_paginator("list_users").paginate(UserPoolId=self.pool_id)
        found = [user for page in pages for user in page["Users"]]
        return [
            CognitoUser(attributes["sub"], user["Enabled"], attributes)
            for user in found
            for attributes in [{each["Name"]: each["Value"] for each in user["Attributes"]}]
        ]

    def user(self, sub: str | None = None) -> CognitoUser:
        """The user with this sub; without one, the only user there is."""
        (found,) = [user for user in self.everybody() if sub in (None, user.sub)]
        return found

    def order(self, event_id: str) -> dict[str, Any]:
        """The order's row, as an operator sees it."""
        key = {"pk": {"S": f"ORDER#{event_id}"}, "sk": {"S": "ORDER"}}
        row = self._clients.dynamodb.get_item(TableName=self._table, Key=key, ConsistentRead=True)["Item"]
        return _plain(row)

    def _substituted(self, definition: Mapping[str, Any]) -> str:
        text = json.dumps(definition)
        for name, arn in self._substitutions.items():
            text = text.replace(f"${{{name}}}", arn)
        return text


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    plain = TypeDeserializer().deserialize
    return {name: plain(value) for name, value in row.items()}


# ------------------------------------------------------------------ how a person may stand when a story begins


def first_purchase(world: World) -> None:
    world.billing.subscribe("cus_first", 3)


def purchase_with_a_users_email(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user(payment_provider="STRIPE")


def upgrade(world: World) -> None:
    world.add_payer()
    world.billing.subscribe("cus_first", 5)


def lapse(world: World) -> None:
    world.add_payer()
    world.billing.change_status("cus_first", "canceled")


def recovery(world: World) -> None:
    world.add_lapsed()
    world.billing.subscribe("cus_first", 3)


def unknown_to_the_authorizer(world: World) -> None:
    """A payer whose row an earlier version wrote."""
    world.ledger.set_live(world.add_payer(), Live(), 0)


def invitation_expired(world: World) -> None:
    """A payer who never signed in, more than InvitationDays after the mail."""
    world.add_payer()
    world.clock.pass_by(8 * 86_400)


def new_address(world: World) -> None:
    """A payer who has another address in Stripe now, and whose user is to follow it."""
    world.parameter("LookupUser", "FOLLOW", True)
    world.add_payer()
    world.billing.subscribe("cus_first", 3, email=NEW_EMAIL)


def bought_before_the_deletion(world: World) -> None:
    """Who bought, deletes the account of that address, and the event of the purchase comes late, with a customer of
    whom nobody had heard."""
    world.billing.subscribe("cus_known", 1)
    world.happens("cus_known")
    created = int(world.clock.now)
    world.clock.pass_by(60)
    assert world.delete().status == "SUCCEEDED"
    world.waits.clear()
    world.lambdas.calls.clear()
    world.cognito.calls.clear()
    world.clock.pass_by(60)
    world.billing.subscribe("cus_first", 3, created=created)


# ------------------------------------------------------------------ fixtures


@pytest.fixture(scope="session")
def template() -> Template:
    """template.yaml with its defaults, every resource under its logical id."""
    template = Template(REPOSITORY / "template.yaml", {}, region=REGION, account_id=ACCOUNT)
    for name, resource in template.resources.items():
        service = "lambda" if resource.type == "AWS::Lambda::Function" else "local"
        template.created(name, name, Arn=f"arn:aws:{service}:{REGION}:{ACCOUNT}:function:{name}")
    return template


@pytest.fixture(scope="session")
def handlers(template: Template) -> dict[str, ModuleType]:
    """State -> its Lambda's module, imported with exactly the environment that the template gives it."""
    return {
        name.removesuffix("Arn").removesuffix("Function"): _imported(template, name.removesuffix("Arn"))
        for machine in template.of_type("AWS::StepFunctions::StateMachine")
        for name in machine.properties["DefinitionSubstitutions"]
    }


def _imported(template: Template, function: str) -> ModuleType:
    properties = template.resolve(template.resources[function].properties)
    file = properties["Handler"].removesuffix(".handler")
    spec = importlib.util.spec_from_file_location(f"workflow_{file}", REPOSITORY / "functions" / f"{file}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patched:
        for name in list(_environment()):
            patched.delenv(name, raising=False)
        for name, value in {**_environment(), **properties["Environment"]["Variables"]}.items():
            patched.setenv(name, value)
        spec.loader.exec_module(module)
    return module


def _environment() -> dict[str, str]:
    """What the Lambda service itself sets."""
    return {"AWS_DEFAULT_REGION": REGION, "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}


@pytest.fixture(scope="session")
def clients() -> SimpleNamespace:
    """The test's own clients; one for the whole session, because making one takes longer than a test."""
    made = {
        name: boto3.client(
            service,
            region_name=REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )
        for name, service in (
            ("cognito", "cognito-idp"),
            ("dynamodb", "dynamodb"),
            ("stepfunctions", "stepfunctions"),
        )
    }
    return SimpleNamespace(**made)


@pytest.fixture
def world(
    template: Template,
    handlers: dict[str, ModuleType],
    clients: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[World]:
    waits: list[float] = []
    cognito = Cognito()
    monkeypatch.setattr(AmazonStateLanguageParser, "parse", parse)
    # Reading moto's signing key takes 0.1 s, and nobody signs in here.
    monkeypatch.setattr(moto.cognitoidp.models.jwk.RSAKey, "import_key", lambda key: key)
    with mock_aws(config={"stepfunctions": {"execute_state_machine": True}}):
        table = template.resolve(template.resources["OrdersTable"].properties)
        kept = ("AttributeDefinitions", "BillingMode", "GlobalSecondaryIndexes", "KeySchema")
        clients.dynamodb.create_table(TableName="OrdersTable", **{name: table[name] for name in kept})
        pool = template.resolve(template.resources["UserPool"].properties)
        passwords = pool["Policies"]["PasswordPolicy"]  # a parameter is a text; CloudFormation makes it a number
        passwords["TemporaryPasswordValidityDays"] = int(passwords["TemporaryPasswordValidityDays"])
        pool_id = clients.cognito.create_user_pool(PoolName=pool.pop("UserPoolName"), **pool)["UserPool"]["Id"]
        world = World(template, handlers, clients, pool_id, cognito, waits, monkeypatch)

        def wait(seconds: float) -> None:
            waits.append(seconds)
            world.clock.pass_by(seconds)

        def wait_state(_: WaitFunction, env: object, wait_seconds: int) -> None:
            world.clock.pass_by(wait_seconds)

        monkeypatch.setattr(WaitFunction, "_wait_interval", wait_state)
        monkeypatch.setattr(retrier_decl, "time", SimpleNamespace(sleep=wait))
        # FULL jitter draws between nothing and the back-off; here the dice always show the most.
        monkeypatch.setattr(jitter_strategy_decl, "random", SimpleNamespace(uniform=lambda low, high: high))
        monkeypatch.setattr(lambda_eval_utils, "_invoke_lambda_function", world.lambdas.invoke)
        for module in handlers.values():
            monkeypatch.setattr(module, "time", world.clock, raising=False)
            if hasattr(module, "users"):
                users = type(module.users)(cognito.spied(module.users._client), pool_id)
                monkeypatch.setattr(module, "users", users)
            if hasattr(module, "billing"):
                monkeypatch.setattr(module, "billing", world.billing)
            if hasattr(module, "notices"):
                monkeypatch.setattr(module, "notices", Notices(world.bus, "bus", world.bus, "topic"))
            if hasattr(module, "hash_key"):
                monkeypatch.setattr(module, "hash_key", SimpleNamespace(text=lambda: HASH_KEY))
            for name in ("offboarding", "fulfillment"):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, getattr(world, name))
            if hasattr(module, "differences"):
                world._looks_through(module, govern=False)
        for shared in (differences, rechecks, searches):
            monkeypatch.setattr(shared, "time", world.clock)
        monkeypatch.setattr(moto.cognitoidp.models, "utcnow", world.clock.utcnow)
        monkeypatch.setattr(moto_fixes, "utcnow", world.clock.utcnow)
        monkeypatch.setattr(moto_fixes, "mail", moto_fixes.Mail())
        add_metric = telemetry.metrics.add_metric

        def count(name: str, unit: Any, value: float) -> None:
            world.counted[name] += int(value)
            add_metric(name, unit, value)

        monkeypatch.setattr(telemetry.metrics, "add_metric", count)
        # Another suite may have imported it first, in no Lambda's environment.
        environment = template.resources["MarkFulfilledFunction"].properties["Environment"]["Variables"]
        monkeypatch.setattr(telemetry.metrics, "namespace", environment["POWERTOOLS_METRICS_NAMESPACE"])
        yield world
        world.ends()
