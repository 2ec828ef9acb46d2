"""A model checker for the fulfillment machine: every interleaving of two runs, with a kill at every point.

The real definition and the real handlers run on a small world of plain data: Stripe's truth, the users, the ledger's
rows. A handler is stopped before each call of an adapter (every method of Ledger, Users and Billing is one call to a
service), so one step of a run is one call. Stopping and going on is done by replay: the handler starts anew and gets
the answers that it got before, which works because a handler does nothing but compute between its calls.

States that were seen before are not explored again; a state is the world and the position of each run.
"""

import contextlib
import json
import pickle
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from gateway.access import Invitation, Item, Subscription, User
from gateway.billing import Customer
from gateway.errors import GatewayError, PersonBusy, UserExists, UserMissing
from gateway.ledger import LEASE_SECONDS, Change, Ledger, Party, Person, Received

DEFINITION: dict[str, Any] = json.loads(Path("statemachine/fulfillment.asl.json").read_text())
Handlers = Mapping[str, types.ModuleType]  # by state


Thing = TypeVar("Thing")


# ------------------------------------------------------------------ the world


@dataclass
class World:
    """All that outlives a run. `stripe`: customer -> (e-mail, ((status, quantity), …))."""

    stripe: dict[str, tuple[str, tuple[tuple[str, int], ...]]]
    users: dict[str, tuple[str, User]] = field(default_factory=dict)
    parties: dict[str, Party] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)
    fulfilled: set[str] = field(default_factory=set)
    notices: tuple[Any, ...] = ()
    mails: int = 0
    clock: int = 1_800_000_000


class FakeLedger(Ledger):
    """The ledger's rows in a World; `lease` itself is the real one."""

    def __init__(self, world: World) -> None:
        self.world = world

    def party(self, party: str) -> Party:
        return self.world.parties.get(party, Party(party))

    def person(self, sub: str) -> Person | None:
        return self.world.people.get(sub)

    def note_party(self, party: str, *, email: str | None, subscribed: bool) -> None:
        self.world.parties[party] = replace(self.party(party), email=email, subscribed=subscribed)

    def claim_email(self, party: str, email: str) -> None:
        self.world.parties[party] = replace(self.party(party), claimed_email=email)

    def link(self, parties: Any, sub: str, *, replacing: str | None, before: Any = None) -> bool:
        if any(self.party(each).sub not in (None, sub, replacing) for each in parties):
            return False
        for each in parties:
            self.world.parties[each] = replace(self.party(each), sub=sub)
        person = self.world.people.get(sub, Person(sub, frozenset(), told=before))
        self.world.people[sub] = replace(person, parties=person.parties | set(parties))
        return True

    def received(self, event_id: str) -> Received:
        return Received("invoice.paid", None)

    def invited(self, sub: str, invitation: Invitation) -> None:
        self.world.people[sub] = replace(self.world.people[sub], invitation=invitation)

    def told(self, sub: str, shape: Mapping[str, Any], tellings: int) -> None:
        self.world.people[sub] = replace(self.world.people[sub], told=shape, tellings=tellings)

    def record_change(self, sub: str, now: int, change: Change) -> None:
        """What it keeps is for operators; nothing reads it."""

    def settle(self, sub: str, *, read_at: int, recheck_at: int | None, granted: Mapping[str, int]) -> bool:
        self.world.people[sub] = replace(self.world.people[sub], granted=granted, recheck_at=recheck_at)
        return True

    def open_orders(self, party: str, recorded_before: int) -> Iterator[str]:
        return iter(())

    def close(self, event_id: str, now: int, **ending: Any) -> bool:
        new = event_id not in self.world.fulfilled
        self.world.fulfilled.add(event_id)
        return new

    def fail(self, event_id: str, **ending: Any) -> bool:
        return True

    def acquire(self, subject: str, owner: str, now: int) -> None:
        held = self.world.leases.get(subject)
        if held is not None and held[0] != owner and held[1] > now:
            raise PersonBusy
        self.world.leases[subject] = (owner, now + LEASE_SECONDS)

    def release(self, subject: str, owner: str) -> None:
        if self.world.leases.get(subject, ("", 0))[0] == owner:
            del self.world.leases[subject]


class FakeUsers:
    """Cognito in a World."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, sub: str, email: str | None = None) -> User | None:
        if sub not in self.world.users:
            return None
        address, user = self.world.users[sub]
        return user if email is None else replace(user, renamed=address != email)

    def find(self, email: str) -> User | None:
        return next((user for address, user in self.world.users.values() if address == email), None)

    def create(self, email: str, *, dapp_limit: int, payment_status: str, customer_id: str | None) -> tuple[str, bool]:
        if self.find(email) is not None:
            raise UserExists
        sub = f"sub-{len(self.world.users)}"
        user = User(True, sub, enabled=True, provider="STRIPE", dapp_limit=dapp_limit, payment_status=payment_status)
        self.world.users[sub] = (email, user)
        self.world.mails += 1
        return sub, True

    def update(self, sub: str, **values: Any) -> None:
        self._set(sub, **values)

    def enable(self, sub: str) -> None:
        self._set(sub, enabled=True)

    def disable(self, sub: str) -> None:
        self._set(sub, enabled=False)

    def sign_out(self, sub: str) -> None:
        self._set(sub)

    def _set(self, sub: str, **values: Any) -> None:
        if sub not in self.world.users:
            raise UserMissing
        email, user = self.world.users[sub]
        self.world.users[sub] = (email, replace(user, **values))


class FakeBilling:
    """Stripe in a World; one dapp per unit."""

    def __init__(self, world: World) -> None:
        self.world = world

    def customer(self, customer_id: str) -> Customer:
        email, subscriptions = self.world.stripe[customer_id]
        return Customer(
            customer_id,
            email,
            deleted=False,
            subscriptions=tuple(
                Subscription(f"sub_{number}", status, (Item("price_1", quantity, "1"),))
                for number, (status, quantity) in enumerate(subscriptions)
            ),
        )


class FakeNotices:
    """What was published in a World: (before, after) of each change."""

    def __init__(self, world: World) -> None:
        self.world = world

    def publish(self, change: Mapping[str, Any]) -> None:
        self.world.notices = (*self.world.notices, (change["before"], change["after"]))


# ------------------------------------------------------------------ one run


@dataclass(frozen=True)
class Position:
    """Where a run is. `replies`: what the running task's calls answered so far, (value, error) each."""

    event_id: str
    customer_id: str
    state: str = DEFINITION["StartAt"]
    data: bytes = b""  # pickled, so that positions can be compared
    replies: tuple[bytes, ...] = ()
    started_at: int = 0
    lives: int = 0  # how often an invocation of this run was killed

    @property
    def done(self) -> bool:
        return self.state in ("Fulfilled", "NotFulfilled", "Killed")

    @property
    def owner(self) -> str:
        return f"{self.event_id}/{self.lives}"


class _Stop(BaseException):
    """The handler is about to make a call that it has not made before."""


def advance(position: Position, world: World, handlers: Handlers) -> Position:
    """Make the run's next call on the world, and compute on until the call after it."""
    if not position.data:
        run = {"event_id": position.event_id, "order_id": "sub_0", "customer_id": position.customer_id}
        position = replace(position, data=pickle.dumps(run), started_at=world.clock)
    replies = list(position.replies)
    made = 0
    fresh = False

    def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal made, fresh
        made += 1
        if made > len(replies):
            if fresh:
                raise _Stop
            fresh = True
            try:
                reply = pickle.dumps((method(*args, **kwargs), None))
            except GatewayError as error:
                reply = pickle.dumps((None, type(error)))
            replies.append(reply)
        value, error = pickle.loads(replies[made - 1])  # noqa: S301 - our own
        if error is not None:
            raise error
        return value

    state = DEFINITION["States"][position.state]
    module = handlers[position.state]
    with _adapters(module, world, call, position.started_at):
        event = {"execution": f"arn:{position.event_id}", "run": pickle.loads(position.data)}  # noqa: S301
        context = types.SimpleNamespace(aws_request_id=position.owner, function_name=position.state)
        try:
            answer = module.handler(event, context)
        except _Stop:
            return replace(position, replies=tuple(replies))
        except GatewayError as error:
            return _after_error(position, state, type(error).__name__)
    data = event["run"]
    data[state["ResultPath"].removeprefix("$.")] = answer
    return _enter(position, state["Next"], data, world.clock)


def _enter(position: Position, name: str, data: dict[str, Any], clock: int) -> Position:
    state = DEFINITION["States"][name]
    while state["Type"] == "Choice":
        name = next((rule["Next"] for rule in state["Choices"] if _holds(rule, data)), state["Default"])
        state = DEFINITION["States"][name]
    return replace(position, state=name, data=pickle.dumps(data), replies=(), started_at=clock)


def _after_error(position: Position, state: dict[str, Any], error: str) -> Position:
    """A Retry starts the task anew; the number of tries is not modelled, so a busy person is waited for."""
    if any(error in retrier["ErrorEquals"] for retrier in state["Retry"]):
        return replace(position, replies=())
    return replace(position, state="NotFulfilled", replies=())


def kill_invocation(position: Position, clock: int) -> Position:
    """The Lambda dies; Step Functions starts the task again with a new invocation."""
    return replace(position, replies=(), lives=position.lives + 1, started_at=clock)


def kill_execution(position: Position) -> Position:
    return replace(position, state="Killed", replies=())


class _Calls:
    """An adapter whose public methods go through `call`, one service call each."""

    def __init__(self, adapter: Any, call: Callable[..., Any]) -> None:
        self._adapter, self._call = adapter, call

    def __getattr__(self, name: str) -> Any:
        if name == "lease":  # made of acquire and release
            return types.MethodType(Ledger.lease, self)
        method = getattr(self._adapter, name)
        return lambda *args, **kwargs: self._call(_listed(method), *args, **kwargs)


def _listed(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        value = method(*args, **kwargs)
        return list(value) if isinstance(value, Iterator) else value

    call.__name__ = method.__name__
    return call


@contextlib.contextmanager
def _adapters(module: Any, world: World, call: Callable[..., Any], now: int) -> Iterator[None]:
    fakes = {
        "ledger": _Calls(FakeLedger(world), call),
        "users": _Calls(FakeUsers(world), call),
        "billing": _Calls(FakeBilling(world), call),
        "notices": _Calls(FakeNotices(world), call),
        "time": types.SimpleNamespace(time=lambda: now),
    }
    real = {name: getattr(module, name) for name in fakes if hasattr(module, name)}
    try:
        for name in real:
            setattr(module, name, fakes[name])
        yield
    finally:
        for name, value in real.items():
            setattr(module, name, value)


def _holds(rule: dict[str, Any], data: dict[str, Any]) -> bool:
    if "And" in rule:
        return all(_holds(each, data) for each in rule["And"])
    if "Or" in rule:
        return any(_holds(each, data) for each in rule["Or"])
    if "Not" in rule:
        return not _holds(rule["Not"], data)
    value = _at(rule["Variable"], data)
    match next(key for key in rule if key not in ("Variable", "Next", "Comment")):
        case "IsNull":
            return (value is None) is rule["IsNull"]
        case "BooleanEquals":
            return value is rule["BooleanEquals"]
        case "StringEquals":
            return bool(value == rule["StringEquals"])
        case "NumericEqualsPath":
            return bool(value == _at(rule["NumericEqualsPath"], data))
        case "StringEqualsPath":
            return bool(value == _at(rule["StringEqualsPath"], data))
        case operator:
            raise AssertionError(f"teach this interpreter {operator}")


def _at(path: str, data: Any) -> Any:
    for key in path.removeprefix("$.").split("."):
        data = data[key]
    return data


# ------------------------------------------------------------------ all interleavings


@dataclass(frozen=True)
class Scenario:
    """A world, a first run, and what happens to Stripe once, at any moment, before the second run starts."""

    name: str
    world: Callable[[], World]
    first: str  # customer of the first run
    second: str
    then: Callable[[World], None]  # the change at Stripe that the second run's event tells of
    right: Callable[[World], bool]  # how it must end
    under_lease: bool = False  # whether the change waits until nobody holds the lease


@dataclass
class Result:
    """`wrong`: the ends that break the scenario's promise, as the sequences of actions that lead there."""

    states: int = 0
    ends: int = 0
    wrong: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Node:
    """The world and the positions by number (`_Numbers`), so that comparing two nodes is cheap."""

    world: int
    runs: tuple[int, ...]
    changed: bool
    kills: int


class _Numbers(Generic[Thing]):
    """Gives each distinct thing a number."""

    def __init__(self) -> None:
        self.things: list[Thing] = []
        self._numbers: dict[Thing, int] = {}

    def of(self, thing: Thing) -> int:
        if thing not in self._numbers:
            self._numbers[thing] = len(self.things)
            self.things.append(thing)
        return self._numbers[thing]


def explore(scenario: Scenario, handlers: Handlers, *, kills: int = 0) -> Result:
    """Visit every state that two runs can get into, with up to that many kills anywhere."""
    return _Exploration(scenario, handlers).run(kills)


class _Exploration:
    def __init__(self, scenario: Scenario, handlers: Handlers) -> None:
        self.scenario = scenario
        self.handlers = handlers
        self.worlds: _Numbers[bytes] = _Numbers()
        self.positions: _Numbers[Position] = _Numbers()
        self.advanced: dict[tuple[int, int], tuple[int, int]] = {}

    def run(self, kills: int) -> Result:
        result = Result()
        world = self.worlds.of(pickle.dumps(self.scenario.world()))
        start = _Node(world, (self.positions.of(Position("evt_1", self.scenario.first)),), False, kills)
        came_from: dict[_Node, tuple[_Node, str] | None] = {start: None}
        stack = [start]
        while stack:
            node = stack.pop()
            result.states += 1
            following = [(name, each) for name, each in self._following(node) if each != node]
            if not following:
                result.ends += 1
                if not self._right(node):
                    result.wrong.append(_path(node, came_from))
            for name, each in following:
                if each not in came_from:
                    came_from[each] = (node, name)
                    stack.append(each)
        return result

    def _right(self, node: _Node) -> bool:
        runs = [self.positions.things[run] for run in node.runs]
        over = node.changed and all(run.state in ("Fulfilled", "Killed") for run in runs)
        return over and self.scenario.right(self._world(node))

    def _world(self, node: _Node) -> World:
        world: World = pickle.loads(self.worlds.things[node.world])  # noqa: S301 - our own
        return world

    def _following(self, node: _Node) -> Iterator[tuple[str, _Node]]:
        for index, number in enumerate(node.runs):
            run = self.positions.things[number]
            if run.done:
                continue
            changed, after = self._advance(number, node.world)
            yield f"{run.event_id}:{run.state}", _moved(node, index, after, world=changed)
            if node.kills:
                fewer = replace(node, kills=node.kills - 1)
                if run.replies:
                    again = self.positions.of(kill_invocation(run, self._world(node).clock))
                    yield f"kill invocation of {run.event_id}", _moved(fewer, index, again)
                yield f"kill {run.event_id}", _moved(fewer, index, self.positions.of(kill_execution(run)))
        world = self._world(node)
        if not node.changed and not (self.scenario.under_lease and world.leases):
            self.scenario.then(world)
            second = self.positions.of(Position("evt_2", self.scenario.second))
            yield "change at Stripe", _Node(self._number(world), (*node.runs, second), True, node.kills)
        yield from self._time_passes(node)

    def _advance(self, position: int, world: int) -> tuple[int, int]:
        if (position, world) not in self.advanced:
            after = pickle.loads(self.worlds.things[world])  # noqa: S301 - our own
            moved = advance(self.positions.things[position], after, self.handlers)
            self.advanced[position, world] = (self._number(after), self.positions.of(moved))
        return self.advanced[position, world]

    def _time_passes(self, node: _Node) -> Iterator[tuple[str, _Node]]:
        """A lease whose owner is dead expires; an order whose run was killed is run again."""
        runs = [self.positions.things[run] for run in node.runs]
        world = self._world(node)
        alive = {run.owner for run in runs if not run.done}
        abandoned = [subject for subject, (owner, _) in world.leases.items() if owner not in alive]
        if abandoned:
            for subject in abandoned:
                del world.leases[subject]
            yield "a lease expires", replace(node, world=self._number(world))
        for run in runs:
            name = f"{run.event_id}-r2"
            if run.state == "Killed" and all(other.event_id != name for other in runs):
                again = self.positions.of(Position(name, run.customer_id))
                yield f"{run.event_id} again", replace(node, runs=(*node.runs, again))

    def _number(self, world: World) -> int:
        return self.worlds.of(pickle.dumps(world))


def _moved(node: _Node, index: int, position: int, *, world: int | None = None) -> _Node:
    runs = (*node.runs[:index], position, *node.runs[index + 1 :])
    return replace(node, runs=runs, world=node.world if world is None else world)


def _path(node: _Node, came_from: dict[_Node, tuple[_Node, str] | None]) -> tuple[str, ...]:
    path = []
    step = came_from[node]
    while step is not None:
        path.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(path))
