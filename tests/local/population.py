"""Thousands of people at once, as if the gateway had made each of them: at Stripe, in the user pool and in the ledger.
And drift: what happens behind the gateway's back.

    population = populate(stack, stripe, 20_000)
    drifted = drift(population, share=0.01)
    before = snapshot(population)
    ...                                                   # a reconciliation
    assert wrongs(population, drifted) == []
    assert touched(population, before, snapshot(population)) == subjects(drifted)

It writes into the memory of moto and of the stand-in, which live in this process. Nobody was told of what the people
did: there are no events and no orders of it. Moments are Unix seconds.
"""

from __future__ import annotations

import gc
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from random import Random
from typing import Any

from boto3.dynamodb.types import TypeDeserializer, TypeSerializer
from moto.cognitoidp.models import CognitoIdpUser, UserStatus
from moto.core.utils import utcnow
from moto.dynamodb.models import dynamodb_backends
from moto.dynamodb.models.dynamo_type import DynamoType

from . import moto_fixes
from .stack import LocalStack
from .stripe_account import StripeAccount
from .stripe_billing import DAY
from .stripe_objects import Json, add_interval
from .stripe_store import copied

HOUR = 3600
PASSWORD = "Correct-Horse-7-Battery"
"""Of everybody who has signed in before; who has not has it as a temporary one."""

SORTS: dict[str, float] = {
    "active": 0.74,
    "trialing": 0.02,
    "past_due": 0.02,  # in grace
    "canceled": 0.04,
    "two": 0.02,  # subscriptions of one customer
    "returning": 0.02,  # a second customer with the same address
    "mixed": 0.02,  # a second subscription, to another product, which gives no access
    "other": 0.02,  # only that: no user
    "guest": 0.03,  # a one-time purchase without a customer
    "comped": 0.01,  # given access by an operator, and paying nevertheless
    "held": 0.02,  # by an operator, through /hold
    "banned": 0.01,  # by an operator, in the console
    "adopted": 0.03,  # existed before they bought
}
"""Who pays, or did, and their shares."""

STRANGERS: dict[str, float] = {"stranger": 0.02, "admin": 0.005}
"""Users of the pool who never bought anything, besides: somebody else made them, or an operator who comped them."""

_ROWS = ("PERSON", "PARTY", "PURCHASE", "MARK")
_to_dynamo = TypeSerializer().serialize
_from_dynamo = TypeDeserializer().deserialize


@dataclass(frozen=True, slots=True)
class Person:
    """One of the people. `parties`: their customers, or a guest's Checkout session; `subscriptions` are mapped to
    dapps, newest first, and have these `quantities`; a guest has only the latter."""

    sort: str
    email: str
    sub: str | None = None
    parties: tuple[str, ...] = ()
    subscriptions: tuple[str, ...] = ()
    quantities: tuple[int, ...] = ()

    @property
    def subject(self) -> str:
        """The user's sub, of who has no user the customer's id."""
        return self.sub or self.parties[0]

    @property
    def units(self) -> int:
        """What they pay for, as long as they pay."""
        return sum(self.quantities)


@dataclass(frozen=True, slots=True)
class Expected:
    """How a person stands when drift is mended. `sub`: their user, None when a new one is made; `parties`: all that
    are linked to that user."""

    email: str
    sub: str | None
    parties: tuple[str, ...]
    enabled: bool
    limit: int
    status: str
    disabled_by: str = ""
    held: bool = False


Drift = dict[str, dict[str, Expected]]
"""Kind -> subject -> what is to become of them."""


@dataclass
class Population:
    """The people, and where they live. `subjects`: whose an address, a customer, a guest's session or a sub is."""

    stack: LocalStack
    stripe: StripeAccount
    seat: str
    once: str
    other: str
    people: list[Person] = field(default_factory=list)
    subjects: dict[str, str] = field(default_factory=dict)

    @property
    def pool(self) -> Any:
        """moto's user pool; `users` by sub."""
        return self.stack._pool(self.stack.user_pool_id)

    @property
    def table(self) -> Any:
        """moto's table of the ledger."""
        return dynamodb_backends[self.stack.account_id][self.stack.region].tables[self.stack.orders_table]

    def of(self, *sorts: str) -> list[Person]:
        """The people of these sorts."""
        return [each for each in self.people if each.sort in sorts]

    def add(self, person: Person) -> None:
        self.people.append(person)
        self.know(person.subject, person.email, *person.parties, *([person.sub] if person.sub else []))

    def know(self, subject: str, *names: str) -> None:
        self.subjects |= dict.fromkeys(names, subject)

    def put(self, **row: Any) -> None:
        """Write a row of the ledger."""
        self.table.put_item({name: _to_dynamo(value) for name, value in row.items()})

    def drop(self, pk: str, sk: str) -> None:
        """Lose a row of the ledger."""
        with moto_fixes._table_lock:
            self.table.delete_item(DynamoType({"S": pk}), DynamoType({"S": sk}))

    def set_user(self, sub: str, enabled: bool | None = None, **attributes: str) -> None:
        """What a person does to a user in the console; an empty attribute is deleted."""
        with moto_fixes._cognito_lock:
            user = self.pool.users[sub]
            user.enabled = user.enabled if enabled is None else enabled
            values = {f"custom:{name}": value for name, value in attributes.items()}
            user.update_attributes([{"Name": name, "Value": value} for name, value in values.items() if value])
            user.delete_attributes([name for name in values if not values[name] and name in user.attribute_lookup])


def populate(
    stack: LocalStack,
    stripe: StripeAccount,
    count: int,
    *,
    sorts: Mapping[str, int] | None = None,
    seed: int = 8,
) -> Population:
    """`count` people who pay, or did, and a few users who never bought anything. `sorts`: exactly these instead."""
    if sorts is None:
        sorts = {name: max(1, round(count * share)) for name, share in (SORTS | STRANGERS).items()}
        sorts["active"] += count - sum(sorts[name] for name in SORTS)
    now = stripe.now()
    with stripe.unheard(now - 4 * 365 * DAY):
        product = stripe.create_product("Dapps")["id"]
        month = {"interval": "month"}
        population = Population(
            stack,
            stripe,
            seat=stripe.create_price(product, 500, metadata={"dapps": "1"}, recurring=month)["id"],
            once=stripe.create_price(product, 9900, metadata={"dapps": "1"})["id"],
            other=stripe.create_price(stripe.create_product("Support")["id"], 2000, recurring=month)["id"],
        )
    order = [name for name, many in sorts.items() for _ in range(many)]
    random = Random(seed)
    random.shuffle(order)
    maker = _Maker(population, random, now)
    with _kept_for_good(), stripe.lock, moto_fixes._table_lock, moto_fixes._cognito_lock:
        for sort in order:
            population.add(maker.make(sort))
    return population


@contextmanager
def _kept_for_good() -> Iterator[None]:
    """Python's garbage collector leaves alone what is made here: looking through millions of objects stops the process
    for seconds, now and at any time later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


class _Maker:
    """Makes one person after the other."""

    def __init__(self, population: Population, random: Random, now: int) -> None:
        self.population, self.stripe, self.random, self.now = population, population.stripe, random, now
        self.batch = self.stripe.new_id("batch").rpartition("_")[2]
        stack = population.stack
        self.executions = stack.state_machine_arn.replace(":stateMachine:", ":execution:")
        self.operator = f"arn:aws:iam::{stack.account_id}:user/local"
        self.grace = int(stack.template.parameters["GracePeriodHours"]) * HOUR

    def make(self, sort: str) -> Person:
        email = f"{sort}-{self.batch}-{len(self.population.people):06d}@example.com"
        make: Callable[[str], Person] = getattr(self, f"_{sort}")
        return make(email)

    # ------------------------------------------------------------------ the sorts

    def _active(self, email: str) -> Person:
        return self._granted("active", email, [self._subscribe(email)])

    def _two(self, email: str) -> Person:
        first = self._subscribe(email, months=(2, 35))
        return self._granted("two", email, [first, self._subscribe(email, months=(0, 1), customer=first.customer)])

    def _returning(self, email: str) -> Person:
        first = self._subscribe(email, months=(2, 35))
        return self._granted("returning", email, [first, self._subscribe(email, months=(0, 1))])

    def _mixed(self, email: str) -> Person:
        bought = self._subscribe(email, months=(2, 35))
        self._subscribe(email, months=(0, 1), customer=bought.customer, price=self.population.other)
        return self._granted("mixed", email, [bought])

    def _other(self, email: str) -> Person:
        bought = self._subscribe(email, price=self.population.other)
        self._party(bought.customer, email)
        return Person("other", email, None, (bought.customer,))

    def _trialing(self, email: str) -> Person:
        bought = self._subscribe(email, months=(0, 0), trial_days=30)
        end = self.stripe.objects["subscription"][bought.id]["trial_end"]
        return self._granted("trialing", email, [bought], recheck_at=end, how="trialing")

    def _past_due(self, email: str) -> Person:
        failed_at = self.now - self.random.randint(1, 24) * HOUR
        bought = self._subscribe(email, began=add_interval(failed_at, "month", -1), months=(0, 34))
        with self.stripe.unheard(failed_at):
            self.stripe.fail_payment(bought.id)
        return self._granted(
            "past_due",
            email,
            [bought],
            recheck_at=failed_at + self.grace,
            how="past_due, in grace",
            status="LAPSED",
            change=(_shape(True, bought.quantity), _shape(True, bought.quantity, "LAPSED")),
            changed_at=failed_at,
        )

    def _canceled(self, email: str) -> Person:
        bought = self._subscribe(email)
        ended_at = self.random.randint(bought.began, self.now)
        with self.stripe.unheard(ended_at):
            self.stripe.cancel(bought.id)
        ended = _shape(False, 0, "CANCELLED")
        sub = self._user(email, bought, limit=0, status="CANCELLED", enabled=False, disabled_by="billing")
        self._party(bought.customer, email, sub=sub, claimed=True)
        self._person(
            sub,
            [bought.customer],
            {},
            ended_at,
            live=(False, 0),
            last_change=self._change(_shape(True, bought.quantity), ended, f"{bought.id} canceled", ended_at),
            told=ended,
            tellings=2,
            signed_out_at=ended_at,
        )
        return Person("canceled", email, sub, (bought.customer,), (bought.id,), (bought.quantity,))

    def _held(self, email: str) -> Person:
        bought = self._subscribe(email)
        at = self.random.randint(bought.began, self.now)
        stood = _shape(True, bought.quantity)
        held = stood | {"enabled": False}
        sub = self._user(email, bought, enabled=False, disabled_by="operator")
        self._party(bought.customer, email, sub=sub, claimed=True)
        self._person(
            sub,
            [bought.customer],
            {bought.id: bought.quantity},
            bought.created,
            live=(False, 0),
            last_change={"before": stood, "after": held, "reason": "held", "execution": self.operator, "at": at},
            told=held,
            tellings=2,
            signed_out_at=at,
            held={"reason": "abuse", "requested_by": self.operator, "at": at},
        )
        return Person("held", email, sub, (bought.customer,), (bought.id,), (bought.quantity,))

    def _banned(self, email: str) -> Person:
        bought = self._subscribe(email)
        at = self.random.randint(bought.began, self.now)
        stood = _shape(True, bought.quantity)
        sub = self._user(email, bought, enabled=False, disabled_by="operator")
        self._party(bought.customer, email, sub=sub, claimed=True)
        self._person(
            sub,
            [bought.customer],
            {bought.id: bought.quantity},
            bought.created,
            live=(False, 0),
            last_change=self._change(None, stood, f"{bought.id} active", bought.created),
            told=stood | {"enabled": False},
            tellings=2,
            signed_out_at=at,
        )
        return Person("banned", email, sub, (bought.customer,), (bought.id,), (bought.quantity,))

    def _adopted(self, email: str) -> Person:
        bought = self._subscribe(email)
        before = _shape(True, 1, "")
        stands = _shape(True, max(1, bought.quantity))
        sub = self._user(email, None, age=bought.created - DAY, signed_in=True, limit=stands["dapp_limit"])
        self._party(bought.customer, email, sub=sub)
        self._person(
            sub,
            [bought.customer],
            {bought.id: bought.quantity},
            bought.created,
            live=(True, stands["dapp_limit"]),
            last_change=self._change(before, stands, f"{bought.id} active", bought.created),
            told=stands,
            tellings=1,
            before_adoption=before,
        )
        return Person("adopted", email, sub, (bought.customer,), (bought.id,), (bought.quantity,))

    def _comped(self, email: str) -> Person:
        bought = self._subscribe(email)
        age = bought.created - DAY
        sub = self._user(email, None, age=age, signed_in=True, limit=7, status=None, provider="ADMIN")
        self._party(bought.customer, email)
        return Person("comped", email, sub, (bought.customer,), (bought.id,), (bought.quantity,))

    def _guest(self, email: str) -> Person:
        quantity = self.random.randint(1, 5)
        at = self._began(35)
        with self.stripe.unheard(at):
            session = self.stripe.checkout(email, self.population.once, quantity, mode="payment")["id"]
        sub = self._user(email, None, age=at, limit=quantity, provider="STRIPE")
        self._row(f"PARTY#{session}", "PARTY", claimed_email=email, rank="PARTY", of_party=session, sub=sub)
        self._row(
            f"PARTY#{session}",
            f"PURCHASE#{session}",
            purchase=session,
            status="session",
            version=0,
            of_party=session,
            rank="PARTY",
            items=[],
            email=email,
        )
        stands = _shape(True, quantity)
        self._person(
            sub,
            [session],
            {session: quantity},
            at,
            live=(True, quantity),
            last_change=self._change(None, stands, f"{session} paid", at),
            told=stands,
            tellings=1,
        )
        return Person("guest", email, sub, (session,), (), (quantity,))

    def _stranger(self, email: str) -> Person:
        return Person("stranger", email, self._user(email, None, age=self._began(35), signed_in=True, status=None))

    def _admin(self, email: str) -> Person:
        age = self._began(35)
        sub = self._user(email, None, age=age, signed_in=True, limit=9, status=None, provider="ADMIN")
        return Person("admin", email, sub)

    # ------------------------------------------------------------------ Stripe

    def _began(self, months: int) -> int:
        """A moment in the past so many months."""
        return add_interval(self.now - self.random.randint(1, 27 * 24) * HOUR, "month", -self.random.randint(0, months))

    def _subscribe(
        self,
        email: str,
        *,
        months: tuple[int, int] = (0, 35),
        customer: str | None = None,
        price: str | None = None,
        began: int | None = None,
        **checkout: Any,
    ) -> _Bought:
        """A subscription that is so many months old; only the invoice of the period that it is in is kept."""
        began = began or self.now - self.random.randint(1, 27 * 24) * HOUR
        created = add_interval(began, "month", -self.random.randint(*months))
        quantity = self.random.randint(1, 5)
        with self.stripe.unheard(began):
            session = self.stripe.checkout(
                email, price or self.population.seat, quantity, customer=customer, **checkout
            )
        objects = self.stripe.objects
        subscription, invoice = (objects[name][session[name]] for name in ("subscription", "invoice"))
        objects["checkout.session"][session["id"]]["created"] = created
        if customer is None:
            objects["customer"][session["customer"]]["created"] = created
        if created < began:
            subscription |= {"created": created, "start_date": created, "billing_cycle_anchor": created}
            invoice["billing_reason"] = "subscription_cycle"
            for item in self.stripe.items_of(subscription["id"]):
                item["created"] = created
        return _Bought(session["customer"], subscription["id"], quantity, created, began)

    # ------------------------------------------------------------------ Cognito

    def _user(
        self,
        email: str,
        bought: _Bought | None,
        *,
        limit: int | None = None,
        status: str | None = "ACTIVE",
        provider: str | None = None,
        enabled: bool = True,
        disabled_by: str | None = None,
        age: int = 0,
        signed_in: bool | None = None,
    ) -> str:
        """The sub of a user; `bought`: who was made for it. One of twenty has never signed in."""
        attributes = {"email": email, "email_verified": "true"}
        if bought is not None:
            age, provider, limit = bought.created, "STRIPE", bought.quantity if limit is None else limit
        custom = {
            "num_dapps": None if limit is None else str(limit),
            "payment_status": status,
            "payment_provider": provider,
            "stripe_customer_id": None if bought is None else bought.customer,
            "disabled_by": disabled_by,
        }
        attributes |= {f"custom:{name}": value for name, value in custom.items() if value is not None}
        signed_in = self.random.random() >= 0.05 if signed_in is None else signed_in
        user = CognitoIdpUser(
            self.population.stack.user_pool_id,
            None,
            PASSWORD,
            UserStatus.CONFIRMED if signed_in else UserStatus.FORCE_CHANGE_PASSWORD,
            [{"Name": name, "Value": value} for name, value in attributes.items()],
        )
        user.enabled = enabled
        made = utcnow() - timedelta(seconds=self.now - age)
        user.__dict__ |= {"create_date": made, "last_modified_date": made, "invited_at": made}
        self.population.pool.users[user.username] = user
        return str(user.id)

    # ------------------------------------------------------------------ the ledger

    def _granted(
        self,
        sort: str,
        email: str,
        bought: Sequence[_Bought],
        *,
        recheck_at: int | None = None,
        how: str = "active",
        status: str = "ACTIVE",
        change: tuple[Json, Json] | None = None,
        changed_at: int | None = None,
    ) -> Person:
        """Somebody who pays for all this, oldest first, and has their access."""
        first, last = bought[0], bought[-1]
        units = sum(each.quantity for each in bought)
        stands = _shape(True, units, status)
        sub = self._user(email, first, limit=units, status=status)
        customers = list(dict.fromkeys(each.customer for each in bought))
        for customer in customers:
            self._party(customer, email, sub=sub, claimed=customer == first.customer)
        if change is None:
            change = (_shape(True, first.quantity), stands) if last is not first else None
        at = changed_at or last.created
        reason = "; ".join(f"{each.id} {how}" for each in reversed(bought))
        before, after = change or (None, stands)
        self._person(
            sub,
            customers,
            {each.id: each.quantity for each in bought},
            at,
            live=(True, units),
            last_change=self._change(before, after, reason, at),
            told=stands,
            tellings=2 if change else 1,
            recheck_at=recheck_at,
        )
        newest = tuple(reversed(bought))
        return Person(
            sort,
            email,
            sub,
            tuple(customers),
            tuple(each.id for each in newest),
            tuple(each.quantity for each in newest),
        )

    def _party(self, customer: str, email: str, *, sub: str | None = None, claimed: bool = False) -> None:
        known = {"email": email, "claimed_email": email if claimed else None, "sub": sub}
        self._row(f"PARTY#{customer}", "PARTY", subscribed=True, rank="PARTY", of_party=customer, **known)

    def _person(
        self,
        sub: str,
        parties: Iterable[str],
        granted: Mapping[str, int],
        settled_at: int,
        *,
        live: tuple[bool, int],
        recheck_at: int | None = None,
        **more: Any,
    ) -> None:
        due = f"DUE#{zlib.crc32(sub.encode()) % 8}" if recheck_at is not None else None
        self._row(
            f"PERSON#{sub}",
            "PERSON",
            sub=sub,
            parties=set(parties),
            granted=granted,
            settled_at=settled_at,
            active=live[0],
            dapp_limit=live[1],
            recheck_at=recheck_at,
            due=due,
            due_at=recheck_at,
            **more,
        )

    def _row(self, pk: str, sk: str, **values: Any) -> None:
        self.population.put(pk=pk, sk=sk, **{name: value for name, value in values.items() if value is not None})

    def _change(self, before: Json | None, after: Json, reason: str, at: int) -> Json:
        execution = f"{self.executions}:{self.stripe.new_id('evt')}"
        return {"before": before, "after": after, "reason": reason, "execution": execution, "at": at}


@dataclass(frozen=True, slots=True)
class _Bought:
    """A subscription: when it was made, and when the period that it is in began."""

    customer: str
    id: str
    quantity: int
    created: int
    began: int


def _shape(enabled: bool, limit: int, status: str = "ACTIVE") -> Json:
    return {"enabled": enabled, "dapp_limit": limit, "payment_status": status}


# ---------------------------------------------------------------------- drift


def drift(population: Population, share: float = 0.01, seed: int = 9) -> Drift:
    """Of every kind of drift in KINDS so much, and each of its ways at least once; nobody drifts twice.

    `share` is that of everybody for each kind. Who buys for the first time joins `population.people`.
    """
    random = Random(seed)
    wanted = round(len(population.people) * share)
    left = {sort: population.of(sort) for sort in (*SORTS, *STRANGERS)}
    for people in left.values():
        random.shuffle(people)
    drifter = _Drifter(population, random)
    found: Drift = {}
    for kind, ways in KINDS.items():
        found[kind] = {}
        for turn in range(max(wanted, len(ways))):
            sort, way = ways[turn % len(ways)]
            if sort is not None and not left[sort]:
                continue  # there are no more of them
            subject, expected = getattr(drifter, way)(left[sort].pop()) if sort else getattr(drifter, way)()
            found[kind][subject] = expected
    return found


KINDS: dict[str, tuple[tuple[str | None, str], ...]] = {
    "access_without_payment": (("canceled", "enabled_by_hand"), ("active", "ends_unheard")),
    "paid_without_access": (("active", "disabled_in_billings_name"), (None, "buys_unheard")),
    "wrong_limit": (("active", "limit_by_hand"), ("active", "quantity_unheard")),
    "orphaned_link": (("active", "rows_lost"),),
    "user_deleted": (("active", "deleted_by_hand"), ("guest", "deleted_by_hand")),
    "hold_lost": (("held", "hold_lifted_by_hand"),),
    "missed_event": (("active", "quantity_undelivered"), (None, "buys_undelivered"), ("active", "ends_undelivered")),
}
"""Each kind's ways to come about: of which sort of people (None: of nobody yet), and the method that does it."""


class _Drifter:
    """What happens to one person each; returns their subject and how they stand when it is mended."""

    def __init__(self, population: Population, random: Random) -> None:
        self.population, self.stripe, self.random = population, population.stripe, random
        self.batch = self.stripe.new_id("batch").rpartition("_")[2]
        self._newcomers = 0

    # In the console

    def enabled_by_hand(self, person: Person) -> tuple[str, Expected]:
        self.population.set_user(_sub(person), True)
        return person.subject, _lapsed(person)

    def disabled_in_billings_name(self, person: Person) -> tuple[str, Expected]:
        self.population.set_user(_sub(person), False, disabled_by="billing")
        return person.subject, _paying(person)

    def limit_by_hand(self, person: Person) -> tuple[str, Expected]:
        self.population.set_user(_sub(person), num_dapps=str(person.units + self.random.choice((-1, 1, 40))))
        return person.subject, _paying(person)

    def deleted_by_hand(self, person: Person) -> tuple[str, Expected]:
        with moto_fixes._cognito_lock:
            del self.population.pool.users[_sub(person)]
        return person.subject, _paying(person, sub=None)

    def hold_lifted_by_hand(self, person: Person) -> tuple[str, Expected]:
        self.population.set_user(_sub(person), True, **self.random.choice(({}, {"disabled_by": ""})))
        held = Expected(person.email, person.sub, person.parties, False, person.units, "ACTIVE", "operator", held=True)
        return person.subject, held

    # In the ledger

    def rows_lost(self, person: Person) -> tuple[str, Expected]:
        self.population.drop(f"PERSON#{person.sub}", "PERSON")
        for party in person.parties:
            self.population.drop(f"PARTY#{party}", "PARTY")
        return person.subject, _paying(person)

    # At Stripe, and no event tells

    def ends_unheard(self, person: Person) -> tuple[str, Expected]:
        with self._yesterday():
            self.stripe.cancel(person.subscriptions[0])
        return person.subject, _lapsed(person)

    def quantity_unheard(self, person: Person) -> tuple[str, Expected]:
        with self._yesterday():
            return self._another_quantity(person)

    def buys_unheard(self) -> tuple[str, Expected]:
        with self._yesterday():
            return self._newcomer()

    # At Stripe, and no event arrives

    def ends_undelivered(self, person: Person) -> tuple[str, Expected]:
        with self._undelivered():
            self.stripe.cancel(person.subscriptions[0])
        return person.subject, _lapsed(person)

    def quantity_undelivered(self, person: Person) -> tuple[str, Expected]:
        with self._undelivered():
            return self._another_quantity(person)

    def buys_undelivered(self) -> tuple[str, Expected]:
        with self._undelivered():
            return self._newcomer()

    def _another_quantity(self, person: Person) -> tuple[str, Expected]:
        quantity = person.quantities[0] % 5 + 1
        self.stripe.change_quantity(person.subscriptions[0], quantity)
        return person.subject, _paying(person, limit=person.units - person.quantities[0] + quantity)

    def _newcomer(self) -> tuple[str, Expected]:
        self._newcomers += 1
        email = f"newcomer-{self.batch}-{self._newcomers:06d}@example.com"
        quantity = self.random.randint(1, 5)
        session = self.stripe.checkout(email, self.population.seat, quantity)
        person = Person("newcomer", email, None, (session["customer"],), (session["subscription"],), (quantity,))
        self.population.add(person)
        return person.subject, _paying(person)

    @contextmanager
    def _yesterday(self) -> Iterator[None]:
        with self.stripe.unheard(self.stripe.now() - DAY):
            yield

    @contextmanager
    def _undelivered(self) -> Iterator[None]:
        with self.stripe.lock:
            before, self.stripe.auto_deliver = self.stripe.auto_deliver, False
            try:
                yield
            finally:
                self.stripe.auto_deliver = before


def _sub(person: Person) -> str:
    assert person.sub is not None
    return person.sub


def _paying(person: Person, *, limit: int | None = None, **changes: Any) -> Expected:
    values: Json = {"sub": person.sub, "limit": person.units if limit is None else limit, **changes}
    return Expected(person.email, parties=person.parties, enabled=True, status="ACTIVE", **values)


def _lapsed(person: Person) -> Expected:
    return Expected(person.email, person.sub, person.parties, False, 0, "CANCELLED", "billing")


def subjects(drifted: Drift) -> set[str]:
    """Everybody who drifted."""
    return {subject for kind in drifted.values() for subject in kind}


# ---------------------------------------------------------------------- the judgement


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a reconciliation may change, and Stripe's subscriptions: users by sub, the ledger's rows about people
    by their keys, subscriptions with their items by id."""

    users: Mapping[str, Json]
    rows: Mapping[tuple[str, str], Json]
    subscriptions: Mapping[str, Json]


def snapshot(population: Population) -> Snapshot:
    """How everybody stands now."""
    with moto_fixes._cognito_lock:
        users = {
            sub: {"Enabled": user.enabled, "UserStatus": str(user.status), **user.attribute_lookup}
            for sub, user in population.pool.users.items()
        }
    with moto_fixes._table_lock:
        rows = [item.to_json()["Attributes"] for item in population.table.all_items() if _about_people(item)]
    kept = [{name: plain(value) for name, value in row.items()} for row in rows]
    with population.stripe.lock:
        subscriptions = {
            id_: copied(kept) | {"items": [copied(item) for item in population.stripe.items_of(id_)]}
            for id_, kept in population.stripe.objects["subscription"].items()
        }
    return Snapshot(users, {(row["pk"], row["sk"]): row for row in kept}, subscriptions)


def _about_people(item: Any) -> bool:
    return bool(item.attrs) and str(item.attrs["sk"].value).partition("#")[0] in _ROWS


def touched(population: Population, before: Snapshot, after: Snapshot) -> set[str]:
    """The subjects of whatever is not as it was."""
    names: set[str] = set()
    for sub in _differing(before.users, after.users):
        email = (after.users.get(sub) or before.users[sub])["email"]
        names.add(email if sub not in population.subjects else sub)
    for key in _differing(before.rows, after.rows):
        pk, _ = key
        name = pk.partition("#")[2]
        if pk.startswith("PERSON#") and name not in population.subjects:
            name = (after.users.get(name) or before.users.get(name) or {"email": name})["email"]
        names.add(name)
    names |= {
        str((after.subscriptions.get(id_) or before.subscriptions[id_])["customer"])
        for id_ in _differing(before.subscriptions, after.subscriptions)
    }
    return {population.subjects.get(name, name) for name in names}


def _differing(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[Any]:
    return [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]


def wrongs(population: Population, drifted: Drift) -> list[str]:
    """Who does not stand as expected, in words: in the pool, in the ledger, and for the authorizer."""
    now = snapshot(population)
    users: dict[str, list[str]] = {}
    for sub, user in now.users.items():
        users.setdefault(user["email"].lower(), []).append(sub)
    found = []
    for kind, people in drifted.items():
        for subject, expected in people.items():
            subs = users.get(expected.email, [])
            problem = _wrong(now, expected, subs[0]) if len(subs) == 1 else f"there are {len(subs)} users"
            if problem is not None:
                found.append(f"{kind} of {subject}: {problem}")
    return found


def _wrong(now: Snapshot, expected: Expected, sub: str) -> str | None:
    user, person = now.users[sub], now.rows.get((f"PERSON#{sub}", "PERSON"), {})
    links = {party: now.rows.get((f"PARTY#{party}", "PARTY"), {}).get("sub") for party in expected.parties}
    stands = {
        "sub": expected.sub in (None, sub),
        "enabled": user["Enabled"],
        "limit": user.get("custom:num_dapps"),
        "status": user.get("custom:payment_status"),
        "disabled_by": user.get("custom:disabled_by", ""),
        "parties": sorted(person.get("parties", ())),
        "links": links,
        "held": "held" in person,
        "live": (person.get("active"), person.get("dapp_limit")),
    }
    should = {
        "sub": True,
        "enabled": expected.enabled,
        "limit": str(expected.limit),
        "status": expected.status,
        "disabled_by": expected.disabled_by,
        "parties": sorted(expected.parties),
        "links": dict.fromkeys(expected.parties, sub),
        "held": expected.held,
        "live": (True, expected.limit) if expected.enabled else (False, 0),
    }
    differs = {name: (stands[name], should[name]) for name in should if stands[name] != should[name]}
    return f"is, and should be: {json.dumps(differs, default=str)}" if differs else None


def counts(drifted: Drift) -> Counter[str]:
    """How many of each kind."""
    return Counter({kind: len(people) for kind, people in drifted.items()})


def plain(value: Any) -> Any:
    """A value of DynamoDB's, with whole numbers."""
    return _whole(_from_dynamo(value))


def _whole(value: Any) -> Any:
    match value:
        case Decimal():
            return int(value)
        case dict():
            return {name: _whole(each) for name, each in value.items()}
        case list():
            return [_whole(each) for each in value]
    return value
