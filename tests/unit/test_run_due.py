"""run_due.handler: what is due is started once, whoever looks, and what cannot be started now is due again."""

import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from boto3.dynamodb.types import TypeDeserializer
from botocore.exceptions import ClientError, ConnectTimeoutError

from gateway.errors import (
    GatewayError,
    LedgerThrottled,
    LedgerUnavailable,
    StartThrottled,
    StartUnavailable,
    UnexpectedError,
)
from gateway.events import Order
from gateway.executions import StateMachine
from gateway.ledger import ATTEMPT_SECONDS, DUE_SHARDS, MAX_ATTEMPTS, Attempt, DuePerson, Ledger
from tests.handlers import imported

Json = dict[str, Any]

NOW = 1_790_000_000
DAY = 86_400
SUB = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
RECHECK = f"recheck_{SUB.replace('-', '')}_{NOW}"


@dataclass
class Clock:
    now: float = NOW

    def time(self) -> float:
        return self.now


def refusal(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "Operation")


@dataclass
class Machine:
    """Step Functions with memory; `errors` are what the next calls end with, None a call that does its work."""

    executions: dict[str, Json] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    errors: list[Exception | None] = field(default_factory=list)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)

    def start_execution(self, *, stateMachineArn: str, name: str, input: str) -> None:  # noqa: A002, N803
        if self.meanwhile:
            self.meanwhile.pop()()
        self.calls.append(name)
        if self.errors and (error := self.errors.pop(0)) is not None:
            raise error
        if name in self.executions:
            raise refusal("ExecutionAlreadyExists")
        self.executions[name] = json.loads(input)


class Broken:
    """A client whose every operation fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def fail(**request: Any) -> Any:
            raise self._error

        return fail


class World:
    """The handler and its world; `ledger` is the test's own way to the table."""

    def __init__(self, module: ModuleType, dynamodb: Any) -> None:
        self.clock = Clock()
        self.machine = Machine()
        self.dynamodb = dynamodb
        self.ledger = Ledger(dynamodb, "orders")
        self._module = module

    def run_due(self, seconds: list[int] | None = None) -> int:
        """How many are started. `seconds` are what is left of the Lambda's time at each look, the last for good."""
        left = [120] if seconds is None else list(seconds)
        context = SimpleNamespace(
            function_name="run-due",
            aws_request_id="request-1",
            get_remaining_time_in_millis=lambda: (left.pop(0) if len(left) > 1 else left[0]) * 1000,
        )
        answer = self._module.handler({"source": "aws.scheduler"}, context)
        assert answer.keys() == {"started"}
        return int(answer["started"])

    def receive(
        self,
        event_id: str = "evt_1",
        customer_id: str | None = "cus_1",
        order_id: str = "in_1",
        problem: str | None = None,
    ) -> Attempt:
        """An order in the ledger as the webhook records it, whose run never says a word, or that cannot be run."""
        now = int(self.clock.now)
        order = Order(
            event_id=event_id,
            event_type="invoice.paid",
            livemode=False,
            order_id=order_id,
            customer_id=customer_id,
            email=None,
            name=None,
            amount=None,
            currency=None,
            charge=None,
            items=(),
            metadata={},
            status="paid",
            updated=now,
        )
        assert self.ledger.record(order, now, problem=problem) is None
        return Attempt(event_id, order_id, customer_id, 1, "RECEIVED", now)

    def fail(self, event_id: str = "evt_1", retry_in: int = 300) -> None:
        """The order's run fails now, as MarkUnfulfilled records it."""
        retry_at = int(self.clock.now) + retry_in
        self.ledger.fail(event_id, execution="arn:run", error="StripeThrottled: 429", retry_at=retry_at)

    def has_run(self, attempts: int, event_id: str = "evt_1") -> None:
        """The order's last attempt is this one; it has just begun."""
        seen: Attempt | None = self.receive(event_id)
        while seen is not None and seen.number < attempts:
            seen = self.ledger.next_attempt(seen, int(self.clock.now))

    def recheck(self, at: int, *parties: str, sub: str = SUB) -> None:
        """A person whose access changes at that moment."""
        self.ledger.link(parties or ("cus_1",), sub, replacing=None)
        self.settle(at, sub)

    def settle(self, recheck_at: int | None, sub: str = SUB) -> None:
        """A run of this person ends now, with this as the next moment."""
        self.ledger.settle(sub, read_at=int(self.clock.now), recheck_at=recheck_at, granted={"sub_1": 3})

    def row(self, pk: str, sk: str) -> Json:
        key = {"pk": {"S": pk}, "sk": {"S": sk}}
        row = self.dynamodb.get_item(TableName="orders", Key=key, ConsistentRead=True).get("Item", {})
        return {name: TypeDeserializer().deserialize(value) for name, value in row.items()}

    def order(self, event_id: str = "evt_1") -> Json:
        return self.row(f"ORDER#{event_id}", "ORDER")

    def due(self, after: int = 0) -> list[str]:
        """Event ids and subs of what is due then."""
        found = (each for shard in range(DUE_SHARDS) for each in self.ledger.due(shard, int(self.clock.now) + after))
        return sorted(each.sub if isinstance(each, DuePerson) else each.event_id for each in found)

    @property
    def executions(self) -> list[str]:
        return sorted(self.machine.executions)


@pytest.fixture(scope="module")
def module(_moto: None) -> ModuleType:
    return imported("RunDueFunction")


@pytest.fixture
def world(module: ModuleType, dynamodb: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(module, dynamodb)
    monkeypatch.setattr(module, "time", world.clock)
    monkeypatch.setattr(module, "ledger", Ledger(dynamodb, "orders"))
    monkeypatch.setattr(module, "fulfillment", StateMachine(world.machine, "arn:machine"))
    return world


def in_shards(count: int, shard: int | None = None) -> list[str]:
    """Event ids, all in one shard of the index or one after the other in all of them."""
    wanted = [shard if shard is not None else number % DUE_SHARDS for number in range(count)]
    found: list[str] = []
    number = 0
    while len(found) < count:
        number += 1
        if zlib.crc32(f"evt_{number}".encode()) % DUE_SHARDS == wanted[len(found)]:
            found.append(f"evt_{number}")
    return found


def of_runs(counted: dict[str, float]) -> dict[str, float]:
    """What was counted of what was started."""
    return {name: times for name, times in counted.items() if name in ("DueStarted", "OrderStuck")}


# ------------------------------------------------------------------ orders


def test_nothing_is_due(world: World, counted: Callable[[], Any]) -> None:
    assert world.run_due() == 0
    zeros = ("DueStarted", "EventReceived", "OldestOpenOrderSeconds", "Reconciled")
    assert counted() == dict.fromkeys(zeros, 0)


class TestOrder:
    def test_that_is_due_gets_its_next_attempt_once(self, world: World, counted: Callable[[], Any]) -> None:
        due = in_shards(2 * DUE_SHARDS)
        for event_id in due:
            world.receive(event_id, f"cus_{event_id}", f"in_{event_id}")
            world.fail(event_id)
        world.clock.now += 300
        assert world.run_due() == len(due)
        assert world.machine.executions == {
            f"{each}-r2": {"event_id": each, "order_id": f"in_{each}", "customer_id": f"cus_{each}"} for each in due
        }
        assert {(order["state"], order["attempts"]) for order in map(world.order, due)} == {("RECEIVED", 2)}
        assert world.run_due() == 0
        assert of_runs(counted()) == {"DueStarted": len(due)}

    @pytest.mark.parametrize(
        ("retry_in", "later", "executions"), [(300, 299, []), (300, 300, ["evt_1-r2"]), (1, 10**7, ["evt_1-r2"])]
    )
    def test_that_failed_is_run_when_it_is_due_again(
        self, world: World, retry_in: int, later: int, executions: list[str]
    ) -> None:
        world.receive()
        world.fail(retry_in=retry_in)
        world.clock.now += later
        assert world.run_due() == len(executions)
        assert world.executions == executions

    @pytest.mark.parametrize(("age", "executions"), [(ATTEMPT_SECONDS - 1, []), (ATTEMPT_SECONDS, ["evt_1-r2"])])
    def test_whose_run_died_without_a_word_is_run_again(self, world: World, age: int, executions: list[str]) -> None:
        world.receive()
        world.clock.now += age
        world.run_due()
        assert world.executions == executions

    def test_that_is_done_is_left_alone(self, world: World) -> None:
        world.receive()
        world.ledger.close("evt_1", NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")
        world.clock.now += 10**6
        assert world.run_due() == 0

    def test_of_a_guest_has_no_customer(self, world: World) -> None:
        world.receive(customer_id=None, order_id="cs_1")
        world.clock.now += ATTEMPT_SECONDS
        world.run_due()
        expected = {"event_id": "evt_1", "order_id": "cs_1", "customer_id": None}
        assert world.machine.executions == {"evt_1-r2": expected}

    def test_is_never_given_up_but_run_once_a_day_with_an_alarm(self, world: World, counted: Callable[[], Any]) -> None:
        """Nobody says a word: neither a run that ends well, nor MarkUnfulfilled."""
        world.receive()
        for number in range(2, MAX_ATTEMPTS + 1):
            world.clock.now += ATTEMPT_SECONDS
            assert world.run_due() == 1
            assert world.machine.calls[-1] == f"evt_1-r{number}"
        assert of_runs(counted()) == {"DueStarted": MAX_ATTEMPTS - 1}
        world.clock.now += ATTEMPT_SECONDS
        for number in range(MAX_ATTEMPTS + 1, MAX_ATTEMPTS + 4):
            assert world.run_due() == 1
            assert of_runs(counted()) == {"DueStarted": 1, "OrderStuck": 1}
            assert world.machine.calls[-1] == f"evt_1-r{number}"
            world.clock.now += DAY - 1
            assert world.run_due() == 0
            world.clock.now += 1
            counted()

    def test_that_is_stuck_holds_nothing_up(self, world: World) -> None:
        stuck, *others = in_shards(4, shard=3)
        world.has_run(MAX_ATTEMPTS, stuck)
        for event_id in others:
            world.receive(event_id)
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due() == 4
        assert world.executions == sorted([f"{stuck}-r{MAX_ATTEMPTS + 1}", *(f"{each}-r2" for each in others)])

    @pytest.mark.parametrize("attempts", [1, MAX_ATTEMPTS])
    def test_that_was_fulfilled_meanwhile_is_left_alone(
        self, world: World, module: Any, monkeypatch: pytest.MonkeyPatch, attempts: int
    ) -> None:
        class Late(Ledger):
            """The index does not know yet that the run has ended well."""

            def due(self, shard: int, now: int) -> Iterator[Attempt | DuePerson]:
                for each in list(super().due(shard, now)):
                    world.ledger.close("evt_1", now, execution="arn:run", outcome="enabled", reason="sub_1 active")
                    yield each

        monkeypatch.setattr(module, "ledger", Late(world.dynamodb, "orders"))
        world.has_run(attempts)
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due() == 0
        assert (world.order()["state"], world.executions) == ("FULFILLED", [])


class TestOldest:
    def test_open_order_is_told_with_its_age(self, world: World, counted: Callable[[], Any], lines: list[str]) -> None:
        for event_id in in_shards(2 * DUE_SHARDS):
            world.receive(event_id)
            world.clock.now += 1
        world.clock.now += 100
        world.run_due()
        assert counted()["OldestOpenOrderSeconds"] == 100 + 2 * DUE_SHARDS
        (told,) = (json.loads(line) for line in lines if "oldest open order" in line)
        assert told.items() >= {"event_id": in_shards(1)[0], "received_at": NOW}.items()

    def test_open_order_counts_between_its_runs_too(self, world: World, counted: Callable[[], Any]) -> None:
        world.has_run(MAX_ATTEMPTS)
        world.fail(retry_in=DAY)
        world.clock.now += 60
        assert world.run_due() == 0
        assert counted()["OldestOpenOrderSeconds"] == 60

    def test_is_told_although_nothing_can_be_started(self, world: World, counted: Callable[[], Any]) -> None:
        world.receive()
        world.clock.now += ATTEMPT_SECONDS
        world.machine.errors = [refusal("ThrottlingException")]
        with pytest.raises(StartThrottled):
            world.run_due()
        assert counted().items() >= {"OldestOpenOrderSeconds": ATTEMPT_SECONDS, "Throttled": 1}.items()

    @pytest.mark.parametrize("due", [[], ["evt_1-r2"]])
    def test_that_cannot_be_looked_for_keeps_nobody_waiting_but_is_an_error(
        self, world: World, counted: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, due: list[str]
    ) -> None:
        """RunDueSilentAlarm rings then, because OldestOpenOrderAlarm cannot."""

        def refused(*_: object) -> None:
            raise LedgerThrottled("query was throttled")

        for _ in due:
            world.receive()
        world.clock.now += ATTEMPT_SECONDS
        monkeypatch.setattr(Ledger, "oldest_open", refused)
        with pytest.raises(LedgerThrottled):
            world.run_due()
        assert world.executions == due
        assert counted().keys() == {"EventReceived", "Reconciled", "Throttled"}

    @pytest.mark.parametrize("done", ["fulfilled", "unusable", "of a person"])
    def test_is_no_other_row(self, world: World, counted: Callable[[], Any], done: str) -> None:
        match done:
            case "fulfilled":
                world.receive()
                world.ledger.close("evt_1", NOW, execution="arn:run", outcome="enabled", reason="sub_1 active")
            case "unusable":
                world.receive(problem="UnusableEvent: no id")
            case _:
                world.recheck(NOW + 60)
        world.clock.now += 10
        world.run_due()
        assert counted()["OldestOpenOrderSeconds"] == 0


# ------------------------------------------------------------------ people


class TestPerson:
    @pytest.mark.parametrize(
        ("party", "order_id", "customer_id"),
        [("cus_1", "cus_1", "cus_1"), ("cs_1", "cs_1", None), ("or_1", "or_1", None)],
    )
    def test_whose_access_changes_now_gets_an_order_and_an_execution(
        self, world: World, counted: Callable[[], Any], party: str, order_id: str, customer_id: str | None
    ) -> None:
        world.recheck(NOW, party)
        assert world.run_due() == 1
        expected = {"event_id": RECHECK, "order_id": order_id, "customer_id": customer_id}
        assert world.machine.executions == {RECHECK: expected}
        order = world.order(RECHECK)
        facts = {"state": "RECEIVED", "attempts": 1, "party": party, "event_type": "gateway.recheck", "livemode": False}
        assert order.items() >= facts.items()
        assert world.run_due() == 0
        assert of_runs(counted()) == {"DueStarted": 1}
        assert world.due(ATTEMPT_SECONDS) == [RECHECK]  # like any other order from now on

    def test_is_not_looked_at_before_that(self, world: World) -> None:
        world.recheck(NOW + 1)
        assert world.run_due() == 0
        assert world.due(1) == [SUB]

    def test_with_several_parties_is_looked_at_through_one(self, world: World) -> None:
        world.recheck(NOW, "cus_2", "cus_1", "or_1")
        assert world.run_due() == 1
        assert world.machine.executions[RECHECK]["customer_id"] == "cus_1"  # a run reads the others as well

    def test_can_have_a_next_moment(self, world: World) -> None:
        world.recheck(NOW)
        world.run_due()
        world.settle(NOW + 600)
        world.clock.now += 600
        assert world.run_due() == 1
        assert world.executions == [RECHECK, RECHECK.replace(str(NOW), str(NOW + 600))]

    def test_can_come_back_to_the_same_moment(self, world: World) -> None:
        """A run that still finds that moment as the next one must not wait for ever."""
        world.recheck(NOW)
        world.run_due()
        world.settle(NOW)
        world.clock.now += 300
        assert world.run_due() == 1
        assert len(world.executions) == 2

    def test_whose_moment_was_moved_meanwhile_is_due_then(self, world: World) -> None:
        world.recheck(NOW)
        world.machine.meanwhile.append(lambda: world.settle(NOW + 600))
        assert world.run_due() == 1
        assert world.due() == []
        assert SUB in world.due(600)

    def test_in_live_mode_gets_an_order_of_live_mode(self, world: World, module: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr(module, "LIVEMODE", True)
        world.recheck(NOW)
        world.run_due()
        assert world.order(RECHECK)["livemode"] is True

    def test_whose_order_could_not_be_started_is_served_by_that_order(self, world: World) -> None:
        world.recheck(NOW)
        world.machine.errors.append(refusal("ThrottlingException"))
        with pytest.raises(StartThrottled):
            world.run_due()
        assert (world.executions, world.due()) == ([], [])
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due() == 1
        assert world.executions == [f"{RECHECK}-r2"]


# ------------------------------------------------------------------ two at once, no time, no service


class TestTwoSchedulers:
    """EventBridge may call twice, and the index is read before anything is taken."""

    @pytest.fixture
    def other(self, world: World, module: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
        """What another scheduler has started, which runs to its end after this one has read each shard."""
        started: list[int] = []
        ledger = module.ledger

        class Meanwhile(Ledger):
            def due(self, shard: int, now: int) -> Iterator[Attempt | DuePerson]:
                read = list(super().due(shard, now))
                with monkeypatch.context() as other:
                    other.setattr(module, "ledger", ledger)
                    started.append(world.run_due())
                yield from read

        monkeypatch.setattr(module, "ledger", Meanwhile(world.dynamodb, "orders"))
        return started

    def test_start_an_order_once(self, world: World, other: list[int]) -> None:
        due = in_shards(3, shard=0)
        for event_id in due:
            world.receive(event_id)
            world.fail(event_id)
        world.clock.now += 300
        assert world.run_due() + sum(other) == 3
        assert sorted(world.machine.calls) == sorted(f"{each}-r2" for each in due)
        assert {world.order(each)["attempts"] for each in due} == {2}

    def test_start_a_persons_recheck_once(self, world: World, other: list[int]) -> None:
        world.recheck(NOW)
        world.run_due()
        assert sum(other) == 1
        assert world.executions == [RECHECK]
        assert world.due() == []

    def test_start_a_stuck_order_once(self, world: World, other: list[int]) -> None:
        world.has_run(MAX_ATTEMPTS)
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due() + sum(other) == 1
        assert world.machine.calls == [f"evt_1-r{MAX_ATTEMPTS + 1}"]


class TestTime:
    @pytest.mark.parametrize("shard", [0, None])
    def test_that_runs_out_leaves_the_rest_to_the_next_call(
        self, world: World, counted: Callable[[], Any], shard: int | None
    ) -> None:
        due = in_shards(5, shard)
        for event_id in due:
            world.receive(event_id)
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due([120, 15, 14]) == 2
        assert len(world.executions) == 2
        assert of_runs(counted()) == {"DueStarted": 2}
        rest = world.due()
        assert len(rest) == 3
        assert world.run_due() == 3
        assert world.executions == sorted(f"{each}-r2" for each in due)

    def test_that_is_up_takes_nothing(self, world: World) -> None:
        world.receive()
        world.recheck(NOW)
        world.clock.now += ATTEMPT_SECONDS
        assert world.run_due([14]) == 0
        assert world.due() == sorted(["evt_1", SUB])
        assert world.order()["attempts"] == 1

    def test_is_enough_for_one_more_start(self, module: Any) -> None:
        # Two calls of DynamoDB and one of Step Functions, each with its longest time-out once.
        assert module.SPARE_SECONDS >= 3 * 5


class TestOutage:
    @pytest.mark.parametrize(
        ("error", "name"),
        [
            (refusal("ThrottlingException"), StartThrottled),
            (refusal("InternalServerError", 500), StartUnavailable),
            (ConnectTimeoutError(endpoint_url="https://states"), StartUnavailable),
        ],
    )
    def test_of_step_functions_leaves_the_rest_to_the_next_call(
        self, world: World, error: Exception, name: type[GatewayError]
    ) -> None:
        first, second, third = in_shards(3, shard=5)
        for event_id in (first, second, third):
            world.receive(event_id)
            world.clock.now += 1
        world.clock.now += ATTEMPT_SECONDS
        world.machine.errors = [None, error]
        with pytest.raises(name):
            world.run_due()
        assert world.executions == [f"{first}-r2"]
        assert world.due() == [third]
        world.clock.now += 300
        assert world.run_due() == 1
        assert world.executions == sorted([f"{first}-r2", f"{third}-r2"])
        world.clock.now += ATTEMPT_SECONDS - 300  # the attempt that never began is over
        world.run_due()
        assert f"{second}-r3" in world.executions

    @pytest.mark.parametrize(
        ("error", "name"),
        [
            (refusal("ThrottlingException"), LedgerThrottled),
            (ConnectTimeoutError(endpoint_url="https://dynamodb"), LedgerUnavailable),
        ],
    )
    def test_of_the_ledger_loses_nothing(
        self, world: World, module: Any, monkeypatch: pytest.MonkeyPatch, error: Exception, name: type[GatewayError]
    ) -> None:
        world.receive()
        world.clock.now += ATTEMPT_SECONDS
        with monkeypatch.context() as down:
            down.setattr(module, "ledger", Ledger(Broken(error), "orders"))
            with pytest.raises(name):
                world.run_due()
        assert world.run_due() == 1


# ------------------------------------------------------------------ what RunDueSilentAlarm hears


class TestSilence:
    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (refusal("AccessDeniedException"), "LedgerRejected"),
            (refusal("ThrottlingException"), "LedgerThrottled"),
            (KeyError("payer@example.com"), "UnexpectedError: KeyError at test_run_due.py:"),
        ],
    )
    def test_is_a_call_that_cannot_look(
        self,
        world: World,
        module: Any,
        counted: Callable[[], Any],
        lines: list[str],
        monkeypatch: pytest.MonkeyPatch,
        error: Exception,
        said: str,
    ) -> None:
        monkeypatch.setattr(module, "ledger", Ledger(Broken(error), "orders"))
        with pytest.raises(GatewayError) as caught:
            world.run_due()
        assert "DueStarted" not in counted()
        last = json.loads(lines[-1])
        assert (last["level"], last["function"], last["request_id"]) == ("ERROR", "run-due", "request-1")
        assert last["message"].startswith(said)
        assert not any("payer@example.com" in text for text in [*lines, str(caught.value)])

    def test_is_a_call_that_a_defect_stops_whatever_it_started_before(
        self, world: World, module: Any, counted: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A row that always stops it would starve all that is due behind it."""

        class Odd(Ledger):
            def due(self, shard: int, now: int) -> Iterator[Attempt | DuePerson]:
                yield from super().due(shard, now)
                raise ValueError("payer@example.com")

        world.receive()
        world.clock.now += ATTEMPT_SECONDS
        world.clock.now += (zlib.crc32(b"evt_1") - world.clock.now // 60) % DUE_SHARDS * 60  # its shard is the first
        monkeypatch.setattr(module, "ledger", Odd(world.dynamodb, "orders"))
        with pytest.raises(UnexpectedError):
            world.run_due()
        assert (world.executions, of_runs(counted())) == (["evt_1-r2"], {})

    @pytest.mark.parametrize("started", [0, 1])
    @pytest.mark.parametrize("error", [refusal("ThrottlingException"), refusal("InternalServerError", 500)])
    def test_is_none_where_step_functions_takes_some(
        self, world: World, counted: Callable[[], Any], started: int, error: Exception
    ) -> None:
        """It is slow then, and OldestOpenOrderAlarm hears of that."""
        for event_id in in_shards(2, shard=5):
            world.receive(event_id)
        world.clock.now += ATTEMPT_SECONDS
        world.machine.errors = [None] * started + [error]
        with pytest.raises((StartThrottled, StartUnavailable)):
            world.run_due()
        assert of_runs(counted()) == ({"DueStarted": 1} if started else {})
