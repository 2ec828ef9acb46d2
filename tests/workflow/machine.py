"""A model checker for the state machines: every interleaving of two runs, with a kill at every point.

A run is one of the fulfillment machine, or the deletion of the account of EMAIL (the offboarding machine). The real
definitions and the real handlers run on a small world of plain data: Stripe's truth, the users, the ledger's rows.
A handler is stopped before each call of an adapter (every method of Ledger, Users and Billing is one call to a
service), so one step of a run is one call. Stopping and going on is done by replay: the handler starts anew and gets
the answers that it got before, which works because a handler does nothing but compute between its calls.

States that were seen before are not explored again; a state is the world and the position of each run. What nobody
reads is left out of both, so that states which differ in nothing else are one: of a run that has ended, all but that it
has; of the data that the states pass, what ReadBilling is about to replace; of what was published, all but the last
notice and whether the notices were in order. Calls that neither change the world nor could ever answer something else
are no steps of their own.
"""

import contextlib
import io
import itertools
import json
import pickle
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from gateway import access, events
from gateway.access import Invitation, Item, Live, Subscription, User
from gateway.billing import Charged, Customer
from gateway.errors import GatewayError, PersonBusy, UserExists, UserMissing
from gateway.executions import Attempted
from gateway.ledger import CLOCK_SKEW, LEASE_SECONDS, Change, Ledger, Party, Person, Received, Tombstone
from gateway.people import tombstone_id
from gateway.step import shape

FULFILLMENT: dict[str, Any] = json.loads(Path("statemachine/fulfillment.asl.json").read_text())
OFFBOARDING: dict[str, Any] = json.loads(Path("statemachine/offboarding.asl.json").read_text())
STATES: dict[str, Any] = {**FULFILLMENT["States"], **OFFBOARDING["States"]}
Handlers = Mapping[str, types.ModuleType]  # by state


Thing = TypeVar("Thing")


def _pickled(thing: Any) -> bytes:
    """Equal bytes for equal things: also where one of them holds the same object twice, the other one two alike."""
    written = io.BytesIO()
    pickler = pickle.Pickler(written)
    pickler.fast = True
    pickler.dump(thing)
    return written.getvalue()


CHARGE = "ch_1"  # names the run of a refund
DELETION = "deletion"  # names the run that deletes the account of EMAIL
EMAIL = "buyer@example.com"
HASH_KEY = "key"
TOMBSTONE = tombstone_id(EMAIL, HASH_KEY)
LONG_AGO = 1_700_000_000

# Calls that change nothing here, and to which the answer is always the same. The orders of a party are only listed to
# be read in the next call, so what that one answers is as of then.
SILENT = {"record_change", "sign_out", "received", "charged", "count_canceled", "all_orders", "dapps"}


# ------------------------------------------------------------------ the world


@dataclass
class World:
    """All that outlives a run. `stripe`: customer -> (e-mail, ((status, quantity, when it was bought), …)).
    `unlisted`: customers whose address is written in another way, so that Stripe does not find them by it. `refunded`:
    the charge that paid for the first subscription of cus_1. `decided`: of whom somebody has told the authorizer.
    `assigned`: order of that charge -> (party, when it was
    recorded). `orders`: event -> (party, when it was recorded, whether it names somebody). `due`: customers
    whom RunDue is to look at. `executions`: names of the deletions' executions that were started, `starting`: that the
    last of them does not run yet."""

    stripe: dict[str, tuple[str, tuple[tuple[str, int, int], ...]]]
    unlisted: frozenset[str] = frozenset()
    refunded: bool = False
    users: dict[str, tuple[str, User]] = field(default_factory=dict)
    parties: dict[str, Party] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)
    decided: frozenset[str] = frozenset()
    leases: dict[str, tuple[str, int]] = field(default_factory=dict)
    assigned: dict[str, tuple[str, int]] = field(default_factory=dict)
    orders: dict[str, tuple[str, int, bool]] = field(default_factory=dict)
    tombstones: dict[str, Tombstone] = field(default_factory=dict)
    due: frozenset[str] = frozenset()
    executions: frozenset[str] = frozenset()
    starting: bool = False
    fulfilled: frozenset[str] = frozenset()
    published: dict[str, tuple[Any, Any]] = field(default_factory=dict)  # the last notice about each user
    repeated: bool = False  # a notice came twice in a row
    disordered: bool = False  # a notice did not begin where the one before it ended
    mails: int = 0
    clock: int = 1_800_000_000

    def tells_the_truth(self, *, repetitions: bool) -> bool:
        """Whether the notices so far lead, in order, to how each user stands now, or to nothing for one deleted."""
        ends = {sub: told for sub, person in self.people.items() if (told := person.told) is not None}
        ends |= {sub: after for sub, (_, after) in self.published.items()}
        stands = {sub: shape(user.facts()) for sub, (_, user) in self.users.items()}
        in_order = not self.disordered and (repetitions or not self.repeated)
        return in_order and {sub: end for sub, end in ends.items() if end is not None} == stands

    def lets_in_whom_it_should(self) -> bool:
        """Whether the authorizer knows of everybody what Cognito says of them, and of nobody who is banned."""
        for sub, person in self.people.items():
            user = self.users[sub][1] if sub in self.users else User(exists=False)
            allowed = user.enabled and person.held is None
            if person.deleted_at is None and person.live != (Live(True, user.dapp_limit) if allowed else Live()):
                return False
        return True

    def lets_in_the_disabled(self) -> bool:
        """Whether the authorizer lets in somebody whom Cognito does not."""
        return any(
            person.live.active and person.deleted_at is None and not (sub in self.users and self.users[sub][1].enabled)
            for sub, person in self.people.items()
        )


class FakeLedger(Ledger):
    """The ledger's rows in a World; `lease` itself is the real one.

    `links_to_the_dead`: without the condition that protects a deleted person from a link.
    """

    links_to_the_dead = False

    def __init__(self, world: World) -> None:
        self.world = world

    def party(self, party: str) -> Party:
        return self.world.parties.get(party, Party(party))

    def person(self, sub: str) -> Person | None:
        return self.world.people.get(sub)

    def note_party(self, party: str, *, email: str | None, subscribed: bool, deleted_at: int | None = None) -> None:
        if self.party(party).deleted_at == deleted_at:
            self.world.parties[party] = replace(self.party(party), email=email, subscribed=subscribed)

    def claim_email(self, party: str, email: str) -> None:
        self.world.parties[party] = replace(self.party(party), claimed_email=email)

    def link(
        self, parties: Any, sub: str, *, replacing: str | None, before: Any = None, live: Live | None = None
    ) -> bool:
        person = self.world.people.get(sub, Person(sub, frozenset(), told=before))
        if person.deleted_at is not None and not self.links_to_the_dead:
            return False
        if any(self.party(each).sub not in (None, sub, replacing) for each in parties):
            return False
        for each in parties:
            self.world.parties[each] = replace(self.party(each), sub=sub)
        self.world.people[sub] = replace(person, parties=_with(person.parties, *parties))
        if live is not None and sub not in self.world.decided:
            self.set_live(sub, live, 0)
        return True

    def received(self, event_id: str) -> Received:
        return Received("charge.refunded", CHARGE)  # asked only by runs that know no payer

    def remember_mark(self, party: str, mark: events.Mark) -> None:
        self.world.parties[party] = replace(self.party(party), marks=(mark,))

    def assign(self, event_id: str, party: str, now: int) -> None:
        """Whoever begins to read from now on does so later than the order was recorded."""
        if event_id not in self.world.fulfilled:
            self.world.assigned[event_id] = (party, self.world.clock)
            self.world.clock += CLOCK_SKEW + 1

    def invited(self, sub: str, invitation: Invitation) -> None:
        person = self.world.people.get(sub, Person(sub, frozenset()))
        self.world.people[sub] = replace(person, invitation=invitation)

    def telling(self, sub: str, notice: str) -> None:
        """When and why is for whoever listens."""
        change = json.loads(notice)
        known = json.dumps({name: change[name] for name in ("sub", "before", "after")})
        self.world.people[sub] = replace(self.world.people[sub], telling=known)

    def told(self, sub: str, shape: Mapping[str, Any], tellings: int) -> None:
        """The number is for whoever listens."""
        self.world.people[sub] = replace(self.world.people[sub], told=shape, telling=None)

    def record_change(self, sub: str, now: int, change: Change) -> None:
        """What it keeps is for operators; nothing reads it."""

    def set_live(
        self, sub: str, live: Live, now: int, change: Change | None = None, *, signs_out: bool = False
    ) -> None:
        self.world.people[sub] = replace(self.world.people[sub], live=live)
        self.world.decided = _with(self.world.decided, sub)

    def settle(self, sub: str, *, read_at: int, recheck_at: int | None, granted: Mapping[str, int]) -> bool:
        if self.world.people[sub].deleted_at is not None:
            return False
        self.world.people[sub] = replace(self.world.people[sub], granted=granted, recheck_at=recheck_at)
        return True

    def open_orders(self, party: str, recorded_before: int) -> Iterator[str]:
        for event_id, (assigned, recorded) in self.world.assigned.items():
            if assigned == party and recorded < recorded_before and event_id not in self.world.fulfilled:
                yield event_id

    def close(self, event_id: str, now: int, *, erase: bool = False, **ending: Any) -> bool:
        new = event_id not in self.world.fulfilled
        if erase and new:
            self.erase_order(event_id)
        self.world.fulfilled = _with(self.world.fulfilled, event_id)
        return new

    def fail(self, event_id: str, **ending: Any) -> bool:
        return True

    def all_orders(self, party: str) -> Iterator[str]:
        yield from (event_id for event_id, order in self.world.orders.items() if order[0] == party)

    def rows(self, event_ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        for event_id in event_ids:
            _, recorded, personal = self.world.orders[event_id]
            yield {"event_id": event_id, "received_at": recorded, "email": EMAIL if personal else None}

    def erase_order(self, event_id: str) -> None:
        if event_id in self.world.orders:
            party, recorded, _ = self.world.orders[event_id]
            self.world.orders[event_id] = (party, recorded, False)

    def parties_of(self, email: str, recorded_until: int) -> frozenset[str]:
        parties = (party.id for party in self.world.parties.values() if party.email == email)
        orders = (each for each in self.world.orders.values() if each[2] and email == EMAIL)
        return _with(frozenset(parties), *(party for party, recorded, _ in orders if recorded <= recorded_until))

    def bury(self, party: str, deleted_at: int, tombstone: str, *, deleting: bool) -> None:
        known = self.party(party)
        if (known.deleted_at or 0) <= deleted_at:
            deleting = known.deleting or deleting
            known = replace(known, deleted_at=deleted_at, tombstone=tombstone, deleting=deleting)
            self.world.parties[party] = known

    def erase_party(self, party: str, sub: str | None) -> bool:
        known = self.party(party)
        if party not in self.world.parties or known.sub not in (None, sub):
            return False
        self.world.parties[party] = replace(known, email=None, claimed_email=None, deleting=False, sub=None)
        return True

    def spare_party(self, party: str) -> None:
        if party in self.world.parties:
            self.world.parties[party] = replace(self.party(party), deleting=False)

    def bury_person(self, sub: str, deleted_at: int) -> frozenset[str]:
        person = self.world.people.get(sub, Person(sub, frozenset()))
        self.world.people[sub] = replace(person, deleted_at=deleted_at)
        return person.parties

    def erase_person(self, sub: str, deleted_at: int) -> None:
        self.world.people[sub] = Person(sub, frozenset(), deleted_at=deleted_at, erased=True)

    def dapps(self, sub: str, *, after: str | None, limit: int) -> list[tuple[str, int]]:
        """Nobody reserves any here."""
        return []

    def tombstone(self, tombstone: str) -> Tombstone | None:
        return self.world.tombstones.get(tombstone)

    def begin_deletion(
        self, tombstone: str, seen: Tombstone | None, now: int, *, email: str, sub: str | None, requested_by: str
    ) -> Tombstone | None:
        if self.tombstone(tombstone) != seen:
            return None
        if seen is None or seen.state == "DONE":
            attempts = seen.attempts if seen is not None else 0
            taken = Tombstone(tombstone, now, "RUNNING", attempts + 1, now, email, sub)
        else:
            sub = seen.sub if seen.account_known else sub or seen.sub
            taken = replace(seen, state="RUNNING", attempts=seen.attempts + 1, at=now, email=email, sub=sub)
        self.world.tombstones[tombstone] = taken
        return taken

    def retry_deletion(self, seen: Tombstone, now: int) -> Tombstone | None:
        if self.world.tombstones[seen.id].attempts != seen.attempts:
            return None
        known = self.world.tombstones[seen.id]
        taken = replace(known, state="RUNNING", attempts=seen.attempts + 1, at=now)
        self.world.tombstones[seen.id] = taken
        return taken

    def join_deletion(self, tombstone: str, parties: frozenset[str], sub: str | None = None) -> Tombstone:
        known = self.world.tombstones[tombstone]
        joined = _with(known.parties, *parties)
        known = replace(known, parties=joined, sub=sub or known.sub, account_known=True)
        self.world.tombstones[tombstone] = known
        return known

    def join_late(self, tombstone: str, party: str) -> Tombstone:
        known = self.world.tombstones[tombstone]
        known = replace(known, parties=_with(known.parties, party))
        self.world.tombstones[tombstone] = known
        return known

    def stamp(self, tombstone: str, now: int) -> Tombstone:
        """What happens from now on does so later. As long as nothing has happened it is the same moment."""
        known = self.world.tombstones[tombstone]
        if known.deleted_at + 1 == self.world.clock:
            return known
        known = replace(known, deleted_at=now)
        self.world.tombstones[tombstone] = known
        self.world.clock += 1
        return known

    def buried(self, tombstone: str) -> None:
        self.world.tombstones[tombstone] = replace(self.world.tombstones[tombstone], buried=True)

    def record(self, order: events.Order, now: int, *, problem: str | None = None) -> None:
        """An order of our own, which RunDue is to run: one that looks at a party again."""
        self.world.due = _with(self.world.due, str(order.customer_id))

    def count_canceled(self, tombstone: str, subscriptions: int) -> None:
        """The number is for operators."""

    def close_deletion(self, tombstone: str, parties: frozenset[str], now: int) -> bool:
        known = self.world.tombstones[tombstone]
        if known.parties != parties:
            return False
        self.world.tombstones[tombstone] = replace(known, state="DONE", email=None)
        return True

    def acquire(self, subject: str, owner: str, now: int) -> None:
        held = self.world.leases.get(subject)
        if held is not None and held[0] != owner and held[1] > now:
            raise PersonBusy
        self.world.leases[subject] = (owner, now + LEASE_SECONDS)

    def release(self, subject: str, owner: str) -> None:
        if self.world.leases.get(subject, ("", 0))[0] == owner:
            del self.world.leases[subject]


def _with(names: frozenset[str], *more: str) -> frozenset[str]:
    """Made in one order, so that equal sets look alike when pickled."""
    return frozenset(sorted({*names, *more}))


class FakeUsers:
    """Cognito in a World."""

    def __init__(self, world: World) -> None:
        self.world = world

    def get(self, sub: str, email: str | None = None) -> User | None:
        if sub not in self.world.users:
            return None
        address, user = self.world.users[sub]
        return user if email is None else replace(user, renamed=address != email)

    def email(self, sub: str) -> str:
        return self.world.users[sub][0]

    def find(self, email: str) -> User | None:
        return next((user for address, user in self.world.users.values() if address == email), None)

    def with_address(self, email: str) -> User | None:
        return self.find(email)

    def create(self, email: str, *, dapp_limit: int, payment_status: str, customer_id: str | None) -> tuple[str, bool]:
        if self.find(email) is not None:
            raise UserExists
        known = {*self.world.users, *self.world.people}
        sub = next(name for number in itertools.count() if (name := f"sub-{number}") not in known)
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
        """Nobody reads who is signed in."""

    def delete(self, sub: str) -> None:
        self.world.users.pop(sub, None)

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
                Subscription(f"{customer_id}:sub_{number}", status, (Item("price_1", quantity, "1"),), created=created)
                for number, (status, quantity, created) in enumerate(subscriptions)
            ),
        )

    def customers_of(self, email: str) -> list[str]:
        return [
            customer
            for customer, (address, _) in self.world.stripe.items()
            if address == email and customer not in self.world.unlisted
        ]

    def cancel(self, subscription_id: str, idempotency_key: str) -> None:
        customer, number = subscription_id.split(":sub_")
        email, subscriptions = self.world.stripe[customer]
        changed = [*subscriptions]
        changed[int(number)] = ("canceled", *subscriptions[int(number)][1:])
        self.world.stripe[customer] = (email, tuple(changed))

    def charged(self, charge_id: str) -> Charged:
        return Charged("cus_1", "cus_1:sub_0", None)

    def mark(self, known: events.Mark) -> access.Mark | None:
        return access.Mark(known.id, "refunded", known.pays or "", known.until) if self.world.refunded else None


class FakeNotices:
    """What is published in a World, as far as the next notice is judged by it."""

    def __init__(self, world: World) -> None:
        self.world = world

    def publish(self, change: Mapping[str, Any]) -> None:
        sub, notice = change["sub"], (change["before"], change["after"])
        last = self.world.published.get(sub)
        person = self.world.people[sub]
        expected = last[1] if last is not None else person.told
        if notice == last:
            self.world.repeated = True
        elif notice[0] != expected or notice[0] == notice[1]:
            self.world.disordered = True
        self.world.published[sub] = notice


class FakeMachine:
    """The offboarding machine: which of its executions were started."""

    def __init__(self, world: World) -> None:
        self.world = world

    def start(self, attempt: Attempted) -> None:
        if attempt.execution_name not in self.world.executions:
            self.world.executions = _with(self.world.executions, attempt.execution_name)
            self.world.starting = True


def request_deletion(world: World) -> None:
    """POST /delete for EMAIL: what happens from now on does so later."""
    seen = world.tombstones.get(TOMBSTONE)
    taken = FakeLedger(world).begin_deletion(TOMBSTONE, seen, world.clock, email=EMAIL, sub=None, requested_by="")
    assert taken is not None
    world.executions = _with(world.executions, taken.execution_name)
    world.clock += 2  # what happens before it begins is another moment again


# ------------------------------------------------------------------ one run


@dataclass(frozen=True)
class Position:
    """Where a run is. `replies`: what the running task's calls answered so far, (value, error) each.

    `killed`: a run of this order was killed, or found a deletion under way, and RunDue has not started the next one
    yet; or a deletion was killed, and nobody has asked for it again yet.
    """

    event_id: str
    payer: str  # the customer; or the charge, of an order that names nothing else; or DELETION
    state: str = FULFILLMENT["StartAt"]
    data: bytes = b""  # pickled, so that positions can be compared
    replies: tuple[bytes, ...] = ()
    started_at: int = 0
    lives: int = 0  # how often an invocation was killed, as long as a lease remembers it
    killed: bool = False
    refused: bool = False  # not killed, but it found a deletion under way

    @property
    def done(self) -> bool:
        return self.state in ("Fulfilled", "NotFulfilled", "Deleted", "NotDeleted")

    @property
    def owner(self) -> str:
        return f"{self.event_id}/{self.lives}"


def begin(event_id: str, payer: str, *, lives: int = 0, killed: bool = False) -> Position:
    """A run that has not begun yet."""
    machine = OFFBOARDING if payer == DELETION else FULFILLMENT
    return Position(event_id, payer, machine["StartAt"], lives=lives, killed=killed)


class _Stop(BaseException):
    """The handler is about to make a call that it has not made before."""


def advance(position: Position, world: World, handlers: Handlers) -> Position:
    """Make the run's next call on the world, and compute on until the call after it."""
    if not position.data:
        if position.payer == DELETION and position.killed:
            if world.tombstones[TOMBSTONE].state == "DONE":  # by the one that was killed afterwards
                return replace(position, state="Deleted", killed=False)
            request_deletion(world)
        refund = position.payer == CHARGE
        run = {
            "event_id": position.event_id,
            "order_id": CHARGE if refund else f"{position.payer}:sub_0",
            "customer_id": None if refund else position.payer,
        }
        if position.payer == DELETION:
            run = {"tombstone": TOMBSTONE}
        position = replace(position, data=_pickled(run), started_at=world.clock, killed=False, refused=False)
    replies = list(position.replies)
    made = 0
    fresh = False

    def call(method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        nonlocal made, fresh
        if method.__name__ in SILENT:
            return method(*args, **kwargs)
        made += 1
        if made > len(replies):
            if fresh:
                raise _Stop
            fresh = True
            try:
                reply = _pickled((method(*args, **kwargs), None))
            except GatewayError as error:
                reply = _pickled((None, type(error)))
            replies.append(reply)
        value, error = pickle.loads(replies[made - 1])  # noqa: S301 - our own
        if error is not None:
            raise error
        return value

    state = STATES[position.state]
    module = handlers[position.state]
    with _adapters(module, world, call, position.started_at):
        event = {"execution": f"arn:{position.event_id}", "run": pickle.loads(position.data)}  # noqa: S301
        context = types.SimpleNamespace(aws_request_id=position.owner, function_name=position.state)
        try:
            answer = module.handler(event, context)
        except _Stop:
            return replace(position, replies=tuple(replies))
        except GatewayError as error:
            return _after_error(position, state, type(error).__name__, world.clock)
    data = event["run"]
    data[state["ResultPath"].removeprefix("$.")] = answer
    return _enter(position, state["Next"], data, world.clock)


def _enter(position: Position, name: str, data: dict[str, Any], clock: int) -> Position:
    state = STATES[name]
    while state["Type"] in ("Choice", "Wait"):
        if state["Type"] == "Choice":
            name = next((rule["Next"] for rule in state["Choices"] if _holds(rule, data)), state["Default"])
        else:
            name = state["Next"]
        state = STATES[name]
    if state["Type"] == "Succeed":
        return Position(position.event_id, position.payer, name)
    for unread in ("change", "tombstoned", "canceled", "user", "erased", "end"):  # for operators, or chosen by already
        data.pop(unread, None)
    if "resumed" in data:
        data["resumed"] = {}
    if "remains" in data:
        kept = ("pass", "parties", "renewed") if name == "MarkDeleted" else ("pass",)
        data["remains"] = {each: data["remains"][each] for each in kept}
    if name == "ReadBilling":
        data.pop("lookup", None)
        data["billing"] = {"pass": data["billing"]["pass"], "parties": data["billing"]["parties"][:1]}
    return replace(position, state=name, data=_pickled(data), replies=(), started_at=clock)


def _after_error(position: Position, state: dict[str, Any], error: str, clock: int) -> Position:
    """A Retry starts the task anew; the number of tries is not modelled, so a busy person is waited for."""
    if any(error in retrier["ErrorEquals"] for retrier in state["Retry"]):
        return replace(position, replies=(), started_at=clock)
    if error in ("DeletionUnderWay", "EmailUnusable"):  # the address is forgotten with what was bought before
        again = begin(position.event_id, position.payer, lives=position.lives, killed=True)
        return replace(again, refused=True)
    return replace(position, state=_failed(state), replies=())


def _failed(state: Mapping[str, Any]) -> str:
    """Where a task's Catch leads in the end; what it writes down is for RunDue and operators."""
    caught = STATES[state["Catch"][0]["Next"]]
    return str(caught["Next"])


def kill_invocation(position: Position, clock: int) -> Position:
    """The Lambda dies; Step Functions starts the task again with a new invocation."""
    return replace(position, replies=(), lives=position.lives + 1, started_at=clock)


def kill_execution(position: Position) -> Position:
    """The execution dies; its order is run again, unless somebody else closes it before; a deletion, when somebody
    asks for it again."""
    return begin(position.event_id, position.payer, lives=position.lives + 1, killed=True)


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
        "offboarding": _Calls(FakeMachine(world), call),
        "hash_key": types.SimpleNamespace(text=lambda: HASH_KEY),
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
    if "IsPresent" in rule:
        return _present(rule["Variable"], data) is rule["IsPresent"]
    value = _at(rule["Variable"], data)
    match next(key for key in rule if key not in ("Variable", "Next", "Comment")):
        case "IsNull":
            return (value is None) is rule["IsNull"]
        case "BooleanEquals":
            return value is rule["BooleanEquals"]
        case "StringEquals":
            return bool(value == rule["StringEquals"])
        case "BooleanEqualsPath" | "NumericEqualsPath" | "StringEqualsPath" as operator:
            return bool(value == _at(rule[operator], data))
        case operator:
            raise AssertionError(f"teach this interpreter {operator}")


def _present(path: str, data: Any) -> bool:
    try:
        _at(path, data)
    except KeyError:
        return False
    return True


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
    first: str  # whose run: a customer, or the charge that is refunded, or DELETION
    second: str
    then: Callable[[World], None]  # the change at Stripe that the second run's event tells of; or the request to delete
    right: Callable[[World], bool]  # how it must end
    under_lease: bool = False  # whether the change waits until nobody holds the lease
    by_hand: bool = False  # whether somebody changes users without the ledger's knowing


@dataclass
class Result:
    """`wrong`: the ends that break the scenario's promise, as the sequences of actions that lead there."""

    states: int = 0
    ends: int = 0
    wrong: list[tuple[str, ...]] = field(default_factory=list)


class _Node(NamedTuple):
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


def explore(
    scenario: Scenario, handlers: Handlers, *, kills: int = 0, until_wrong: bool = False, patient: bool = False
) -> Result:
    """Visit every state that two runs can get into, with up to that many kills anywhere; or stop at the first harm.

    Right is an end with every run over, Stripe's truth, an authorizer that knows it, and notices that tell it: each of
    them once, or, where there are kills, perhaps twice in a row. Wrong is also any state in between in which the
    authorizer lets in whom Cognito does not. `patient`: who found a deletion under way comes back when that is done,
    not at any moment.
    """
    return _Exploration(scenario, handlers, patient).run(kills, until_wrong)


class _Exploration:
    def __init__(self, scenario: Scenario, handlers: Handlers, patient: bool) -> None:
        self.scenario = scenario
        self.patient = patient
        self.deleting: dict[int, bool] = {}
        self.exposed: dict[int, bool] = {}
        self.handlers = handlers
        self.worlds: _Numbers[bytes] = _Numbers()
        self.positions: _Numbers[Position] = _Numbers()
        # What follows from a world alone, or from one run in it, is computed once.
        self.owners: dict[int, frozenset[str]] = {}
        self.fulfilled: dict[int, frozenset[str]] = {}
        self.starting: dict[int, bool] = {}
        self.due: dict[int, frozenset[str]] = {}
        self.advanced: dict[tuple[int, int], tuple[int, int]] = {}
        self.after_the_change: dict[int, int] = {}
        self.expired: dict[tuple[int, frozenset[str]], int] = {}

    def run(self, kills: int, until_wrong: bool) -> Result:
        result = Result()
        world = self._number(self.scenario.world())
        start = _Node(world, (self.positions.of(begin("evt_1", self.scenario.first)),), False, kills)
        came_from: dict[_Node, tuple[_Node, str] | None] = {start: None}
        stack = [start]
        while stack and not (until_wrong and result.wrong):
            node = stack.pop()
            result.states += 1
            following = [(name, each) for name, each in self._following(node) if each != node]
            if self.exposed[node.world] and not self.scenario.by_hand:
                result.wrong.append(_path(node, came_from))
            if not following:
                result.ends += 1
                if not self._right(node, kills):
                    result.wrong.append(_path(node, came_from))
            for name, each in following:
                if each not in came_from:
                    came_from[each] = (node, name)
                    stack.append(each)
        return result

    def _right(self, node: _Node, kills: int) -> bool:
        over = node.changed and all(
            self.positions.things[run].state in ("Fulfilled", "Deleted") or self._needless(run, node.world)
            for run in node.runs
        )
        world = self._world(node.world)
        told = world.tells_the_truth(repetitions=kills > 0) and world.lets_in_whom_it_should()
        return over and self.scenario.right(world) and told

    def _needless(self, run: int, world: int) -> bool:
        """Whether a killed run's order was closed by another run, before it could be run again."""
        position = self.positions.things[run]
        return position.killed and position.event_id in self.fulfilled[world]

    def _following(self, node: _Node) -> Iterator[tuple[str, _Node]]:
        for index, number in enumerate(node.runs):
            run = self.positions.things[number]
            if run.done or self._needless(number, node.world):
                continue
            if self.patient and run.refused and self.deleting[node.world]:
                continue
            changed, after = self._advance(number, node.world)
            yield f"{run.event_id}:{run.state}", self._moved(node, index, after, changed, node.kills)
            if node.kills and not run.killed:
                left = node.kills - 1
                if run.replies:
                    again = self._canonical(kill_invocation(run, self._world(node.world).clock), node.world)
                    yield f"kill invocation of {run.event_id}", self._moved(node, index, again, node.world, left)
                dead = self._canonical(kill_execution(run), node.world)
                yield f"kill {run.event_id}", self._moved(node, index, dead, node.world, left)
        if self.starting[node.world]:
            yield "a deletion's execution starts", self._started(node)
        for customer in self.due[node.world]:
            yield f"RunDue looks at {customer}", self._looked_at(node, customer)
        if not node.changed and not (self.scenario.under_lease and self.owners[node.world]):
            second = self.positions.of(begin("evt_2", self.scenario.second))
            yield "change at Stripe", _Node(self._change(node.world), (*node.runs, second), True, node.kills)
        yield from self._time_passes(node)

    def _started(self, node: _Node) -> _Node:
        """One that ResumeDeletion took up again, after the one before it had ended."""
        world = self._world(node.world)
        world.starting = False
        run = self.positions.of(begin("evt_deletion", DELETION))
        others = [each for each in node.runs if self.positions.things[each].payer != DELETION]
        return node._replace(world=self._number(world), runs=(*others, run))

    def _looked_at(self, node: _Node, customer: str) -> _Node:
        """A run of its own."""
        world = self._world(node.world)
        world.due -= {customer}
        number = sum(self.positions.things[run].event_id.startswith("evt_due_") for run in node.runs)
        run = self.positions.of(begin(f"evt_due_{number}", customer))
        return node._replace(world=self._number(world), runs=(*node.runs, run))

    def _moved(self, node: _Node, index: int, position: int, world: int, kills: int) -> _Node:
        return _Node(world, (*node.runs[:index], position, *node.runs[index + 1 :]), node.changed, kills)

    def _advance(self, position: int, world: int) -> tuple[int, int]:
        if (position, world) not in self.advanced:
            after = self._world(world)
            moved = advance(self.positions.things[position], after, self.handlers)
            number = self._number(after)
            self.advanced[position, world] = (number, self._canonical(moved, number))
        return self.advanced[position, world]

    def _canonical(self, position: Position, world: int) -> int:
        """The position's number. Who held a lease is forgotten with the lease."""
        if position.lives and not any(owner.startswith(f"{position.event_id}/") for owner in self.owners[world]):
            position = replace(position, lives=0)
        return self.positions.of(position)

    def _change(self, world: int) -> int:
        if world not in self.after_the_change:
            changed = self._world(world)
            self.scenario.then(changed)
            self.after_the_change[world] = self._number(changed)
        return self.after_the_change[world]

    def _time_passes(self, node: _Node) -> Iterator[tuple[str, _Node]]:
        """A lease whose owner is dead expires."""
        runs = [self.positions.things[run] for run in node.runs]
        abandoned = self.owners[node.world] - {run.owner for run in runs if not run.done}
        if abandoned:
            if (node.world, abandoned) not in self.expired:
                world = self._world(node.world)
                world.leases = {each: held for each, held in world.leases.items() if held[0] not in abandoned}
                self.expired[node.world, abandoned] = self._number(world)
            later = self.expired[node.world, abandoned]
            yield (
                "a lease expires",
                node._replace(world=later, runs=tuple(self._canonical(run, later) for run in runs)),
            )

    def _world(self, number: int) -> World:
        world: World = pickle.loads(self.worlds.things[number])  # noqa: S301 - our own
        return world

    def _number(self, world: World) -> int:
        for name, rows in vars(world).items():
            if isinstance(rows, dict):
                setattr(world, name, dict(sorted(rows.items())))
        number = self.worlds.of(_pickled(world))
        if number not in self.owners:
            self.owners[number] = frozenset(owner for owner, _ in world.leases.values())
            self.fulfilled[number] = world.fulfilled
            self.starting[number] = world.starting
            self.exposed[number] = world.lets_in_the_disabled()
            self.due[number] = world.due
            self.deleting[number] = any(each.state == "RUNNING" for each in world.tombstones.values())
        return number


def _path(node: _Node, came_from: dict[_Node, tuple[_Node, str] | None]) -> tuple[str, ...]:
    path = []
    step = came_from[node]
    while step is not None:
        path.append(step[1])
        step = came_from[step[0]]
    return tuple(reversed(path))
