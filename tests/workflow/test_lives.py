"""Random lives: whatever people, Stripe, operators and failing machines do, all ends at Stripe's truth.

Some people buy, pay, fail to pay, return, are banned and deleted; their events are delivered late, twice and in any
order; runs take turns call by call and are killed between any two calls (`lives.py`). In the end everything is
delivered and run, and every user must stand as an independent computation from the rules says (`oracle.py`).

    LIVES=2000 pytest tests/workflow/test_lives.py     so many lives, other ones each time
    pytest -m exhaustive tests/workflow/test_lives.py  ten times as many as by default, and longer ones
    LIVES_REPORT=1 pytest -s …                         what happened how often
    LIVES_PHASES=generate pytest …                     a failure as it was found: shrinking one can take minutes

By default the lives are the same each time, so a failure is the fault of the change at hand.
"""

import functools
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.local import moto_fixes
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_faults import ApiError
from tests.workflow.lives import DAY, HOUR, NO_END, Life, World
from tests.workflow.oracle import Oracle, wrongs

LIVES = int(os.environ.get("LIVES", "0"))

PEOPLE = ("first@example.com", "second@example.com", "third@example.com")
BUYERS = (PEOPLE[0], *PEOPLE)  # one of them buys more often, so that much happens to one user

# How the user of an address stands before anybody buys with it.
BEFORE: dict[str, dict[str, Any] | None] = {
    "nobody": None,
    "adopted": {"num_dapps": "2", "payment_status": "ACTIVE"},
    "adopted, without anything": {},
    "comped": {"num_dapps": "7", "payment_provider": "ADMIN"},
    "disabled by a person": {"enabled": False, "num_dapps": "1"},
}

STANDINGS = (*["nobody"] * 8, *BEFORE)  # most people are new

MONTHLY, LISTED, PACKS, FOREIGN = "price_monthly", "price_listed", "price_packs", "price_foreign"
FORGOTTEN = "price_forgotten"  # nobody has said yet what it is worth
ONCE, ONCE_FOREIGN = "price_once", "price_once_foreign"


def fill_shop(account: StripeAccount) -> None:
    """Prices mapped in each way that there is, and those of another product."""
    month = {"interval": "month"}
    account.create_product("Dapps", product_id="prod_dapps")
    account.create_product("Packs", {"dapps": "10"}, product_id="prod_packs")
    account.create_product("Support", product_id="prod_support")
    account.create_price("prod_dapps", 900, {"dapps": "1"}, recurring=month, price_id=MONTHLY)
    account.create_price("prod_dapps", 700, recurring=month, price_id=LISTED)
    account.create_price("prod_dapps", 800, recurring=month, price_id=FORGOTTEN)
    by_two = {"divide_by": 2, "round": "up"}
    account.create_price("prod_packs", 500, recurring=month, transform_quantity=by_two, price_id=PACKS)
    account.create_price("prod_support", 300, recurring=month, price_id=FOREIGN)
    account.create_price("prod_dapps", 5000, {"dapps": "4"}, price_id=ONCE)
    account.create_price("prod_support", 1000, price_id=ONCE_FOREIGN)


# ------------------------------------------------------------------ what can happen at Stripe


@dataclass(frozen=True)
class Turn:
    """One thing that can happen to an object of this resource, while it is in one of these states (none: in any).

    `act` is the stand-in's method, to be called in one of these ways, or a function of this module.
    """

    name: str
    resource: str
    states: tuple[str, ...]
    act: str | Callable[[Life, str], object]
    ways: tuple[dict[str, Any], ...] = ({},)

    def happen(self, life: Life, id_: str, way: int) -> None:
        act = self.act if callable(self.act) else functools.partial(_call, self.act)
        act(life, id_, **self.ways[way % len(self.ways)])


def _call(method: str, life: Life, id_: str, **way: Any) -> None:
    getattr(life.account, method)(id_, **way)


def remove_an_item(life: Life, subscription: str) -> None:
    """The newest item, if it is not the last that gives anything."""
    items = life.account.items_of(subscription)
    if any(item["price"] != FOREIGN for item in items[:-1]):
        life.account.remove_item(subscription, items[-1]["id"])


def at_its_end(life: Life, subscription: str, *, then: str) -> None:
    """Time passes until the period is over: Stripe bills no next one before."""
    ends = max(item["current_period_end"] for item in life.account.items_of(subscription))
    life.pass_by(max(ends - life.clock.now, 0))
    getattr(life.account, then)(subscription)


def end_in(life: Life, subscription: str, *, days: int) -> None:
    life.account.cancel(subscription, cancel_at=life.clock.now + days * DAY)


def each_of(name: str, *values: Any) -> tuple[dict[str, Any], ...]:
    """One way for each value of an argument."""
    return tuple({name: value} for value in values)


RUNNING = ("active", "trialing")
LIVE = (*RUNNING, "past_due", "unpaid", "paused")
OPEN = ("open", "uncollectible")
PAID = ("succeeded",)
BILLED = ({"amount": 500}, {"amount": 500, "outcome": "failed"}, {"amount": 500, "outcome": "draft"}, {"amount": 0})
PAUSES = ("void", "keep_as_draft", "mark_uncollectible")
RENEWS, FAILS = each_of("then", "renew"), each_of("then", "fail_payment")
ADDRESSES = (*PEOPLE, "fourth@example.com")

TURNS = {
    turn.name: turn
    for turn in (
        Turn("the quantity changes", "subscription", LIVE, "change_quantity", each_of("quantity", 1, 2, 3, 4)),
        Turn("an item is added", "subscription", LIVE, "add_item", each_of("price", LISTED, PACKS, FOREIGN, FORGOTTEN)),
        Turn("an item is removed", "subscription", LIVE, remove_an_item),
        Turn("a change is billed", "subscription", ("active",), "bill", BILLED),
        Turn("it renews", "subscription", ("active", "past_due", "unpaid"), at_its_end, RENEWS),
        Turn("a payment fails", "subscription", ("active",), at_its_end, FAILS),
        Turn("a payment fails again", "subscription", ("past_due",), "fail_payment"),
        Turn("it is paid after all", "subscription", ("past_due", "unpaid", "incomplete"), "recover_payment"),
        Turn("dunning ends", "subscription", ("past_due",), "exhaust_dunning", each_of("to", "unpaid", "canceled")),
        Turn("nobody pays the first time", "subscription", ("incomplete",), "expire_incomplete"),
        Turn("it is canceled", "subscription", LIVE, "cancel"),
        Turn("it is to end with its period", "subscription", RUNNING, "cancel", ({"at_period_end": True},)),
        Turn("it is to end at a moment", "subscription", RUNNING, end_in, each_of("days", 1, 2, 3, 40)),
        Turn("it is to go on", "subscription", RUNNING, "keep"),
        Turn("it is paused", "subscription", RUNNING, "pause"),
        Turn("it is resumed", "subscription", ("paused",), "resume"),
        Turn("a trial begins", "subscription", ("active",), "start_trial", each_of("days", 1, 2, 3)),
        Turn(
            "the trial ends",
            "subscription",
            ("trialing",),
            "end_trial",
            each_of("outcome", "paid", "failed", "paused", "canceled"),
        ),
        Turn("collection is paused", "subscription", ("active",), "pause_collection", each_of("behavior", *PAUSES)),
        Turn("collection is resumed", "subscription", LIVE, "pause_collection", ({"behavior": None},)),
        Turn("an invoice is paid", "invoice", ("draft", *OPEN), "pay_invoice"),
        Turn("an invoice is written off", "invoice", ("open",), "mark_uncollectible"),
        Turn("an invoice is voided", "invoice", OPEN, "void_invoice"),
        Turn("the money comes", "checkout.session", ("complete",), "async_payment"),
        Turn("the money bounces", "checkout.session", ("complete",), "async_payment", ({"succeeded": False},)),
        Turn("a charge is refunded", "charge", PAID, "refund", each_of("amount", None, None, None, 100)),
        Turn("a refund fails", "refund", PAID, "fail_refund"),
        Turn("a charge is disputed", "charge", PAID, "dispute"),
        Turn("a dispute is closed", "dispute", ("needs_response",), "close_dispute", each_of("status", "lost", "won")),
        Turn("fraud is suspected", "charge", PAID, "fraud_warning"),
        Turn("an address is changed", "customer", (), "update_customer", each_of("email", *ADDRESSES)),
        Turn("a customer is deleted", "customer", (), "delete_customer"),
    )
}


# What matters most: it gives access, or takes it away.
OFTEN = ("a payment fails", "it is paid after all", "it is canceled", "it is paused", "it is resumed", "it renews")
OFTEN += ("the quantity changes", "a charge is refunded", "a refund fails")


def likely(possible: Iterable[str]) -> list[str]:
    """The names of these turns, with those that matter most more than once."""
    return [name for name in possible for _ in range(4 if name in OFTEN else 1)]


def possible_turns(account: StripeAccount) -> dict[str, list[str]]:
    """What can happen now, and to whom."""
    possible = {
        turn.name: [
            id_
            for id_, found in account.objects[turn.resource].items()
            if not found.get("deleted")
            if not turn.states or found["status"] in turn.states
            if turn.resource != "checkout.session" or found["payment_status"] == "unpaid"
        ]
        for turn in TURNS.values()
    }
    return {name: ids for name, ids in possible.items() if ids}


# ------------------------------------------------------------------ how somebody buys

OFFERS: dict[str, dict[str, Any]] = {
    "monthly": {"price": MONTHLY},
    "monthly, by the price list": {"price": LISTED},
    "monthly, in packs": {"price": PACKS},
    "monthly, of another product": {"price": FOREIGN},
    "monthly, for a forgotten price": {"price": FORGOTTEN},
    "monthly, on trial": {"price": MONTHLY, "trial_days": 2},
    "once, as a guest": {"price": ONCE, "mode": "payment"},
    "once, as a customer": {"price": ONCE, "mode": "payment", "customer_creation": "always"},
    "once, of another product": {"price": ONCE_FOREIGN, "mode": "payment"},
}
OFFERS_TO_CUSTOMERS: dict[str, dict[str, Any]] = {
    "monthly": {"price": MONTHLY},
    "monthly, but the card is refused": {"price": LISTED, "first_payment": "failed"},
    "monthly, and pays later": {"price": LISTED, "first_payment": "awaited"},
    "once": {},
}
FIRST_PAYMENTS = {"card": True, "bank debit": False}
SPELLINGS = {"as it is": str.lower, "in capitals": str.upper}


# ------------------------------------------------------------------ the machine


def an_event_arrives(life: Life, which: int, _: int, calls: int = NO_END, fault: str | None = None) -> None:
    if undelivered := life.undelivered:
        life.deliver(undelivered[which % len(undelivered)], calls, fault)


def an_event_arrives_again(life: Life, which: int, _: int) -> None:
    if events := life.subscribed:
        life.deliver(events[-1 - which % len(events)])


def a_run_goes_on(life: Life, which: int, some: int, fault: str | None = None) -> None:
    running = life.running
    same = [run for run in running if run.data["customer_id"] == running[-1].data["customer_id"]]
    going = [*life.orphans, *(same if len(same) > 1 else running)][-3:]
    if going:
        life.go_on(going[which % len(going)], some, fault)


def an_invocation_dies(life: Life, which: int, some: int, lives_on: bool = False) -> None:
    if running := life.running:
        run = running[which % len(running)]
        life.go_on(run, some)
        life.kill_invocation(run, lives_on=lives_on)


def an_execution_is_stopped(life: Life, which: int, some: int) -> None:
    if running := life.running:
        run = running[which % len(running)]
        life.go_on(run, some)
        life.kill_execution(run)


def a_turn_is_taken(life: Life, which: int, way: int) -> None:
    possible = possible_turns(life.account)
    if possible:
        names = likely(possible)
        name = names[(5 * which + way) % len(names)]
        take(life, name, possible[name][-1 - which % len(possible[name])], way)


def take(life: Life, name: str, id_: str, way: int) -> None:
    life.counts[name] += 1
    try:
        TURNS[name].happen(life, id_, way)
    except ApiError:
        life.counts["refused by Stripe"] += 1


def may_sign_in(life: Life, sub: str) -> bool:
    """Whether nobody has banned or comped them."""
    before = life.deeds.before.get(sub)
    free = before is None or (before.enabled and before.provider != "ADMIN")
    return free and sub not in {**life.deeds.banned, **life.deeds.comped}


# What the machines do, or fail to do, while life goes on.
MOVE: dict[str, Callable[[Life, int, int], None]] = {
    "an event arrives": an_event_arrives,
    "a run goes on": a_run_goes_on,
    "something happens at Stripe": a_turn_is_taken,
    "an event arrives again": an_event_arrives_again,
    "a service refuses": lambda life, which, some: a_run_goes_on(life, which, some, "throttled"),
    "an answer is lost": lambda life, which, some: a_run_goes_on(life, which, some, "no answer"),
    "an invocation dies": an_invocation_dies,
    "a connection breaks": lambda life, which, some: an_invocation_dies(life, which, some, lives_on=True),
    "an execution is stopped": an_execution_is_stopped,
    "the webhook dies": lambda life, which, some: an_event_arrives(life, which, some, calls=which % 3),
    "the webhook gets no answer": lambda life, which, some: an_event_arrives(life, which, some, fault="no answer"),
    "the schedule fires": lambda life, which, some: life.run_due() and None,
    "the schedule dies": lambda life, which, some: life.run_due(which % 12) and None,
    "a lease expires": lambda life, which, some: life.pass_by(31),
}
MOVES = (*MOVE, *["a run goes on"] * 20, *["an event arrives"] * 6, *["something happens at Stripe"] * 5)

# What a person does to a user.
ACTS = (*["sign in"] * 3, *["ban"] * 3, *["lift"] * 3, "delete", "delete", "comp")

few = st.integers(0, 3)
calls = st.sampled_from((1, 1, 2, 2, 3, 5, 8, 13, 21, NO_END))
moves = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7), calls), min_size=8, max_size=40)
Moves = list[tuple[str, int, int]]


# After one of these a notice may be told again.
MISHAPS = (
    "invocations killed",
    "executions killed",
    "invocations timed out",
    "executions timed out",
    "throttled",
    "no answer",
)


class Lives(RuleBasedStateMachine):
    """Every rule is something that happens by itself at any time."""

    world: World
    totals: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.ended = False
        self.life: Life = self.world.new_life()
        self.account = self.life.account
        fill_shop(self.account)
        self.life.open_shop()

    @initialize(before=st.tuples(*[st.sampled_from(STANDINGS)] * len(PEOPLE)))
    def some_users_exist(self, before: tuple[str, ...]) -> None:
        for email, kind in zip(PEOPLE, before, strict=True):
            attributes = BEFORE[kind]
            if attributes is not None:
                self.life.add_user(email, **attributes)

    # ---------------------------------------------------------- at Stripe

    @rule(
        email=st.sampled_from(BUYERS),
        spelling=st.sampled_from(sorted(SPELLINGS)),
        what=st.sampled_from(sorted(OFFERS)),
        quantity=st.integers(1, 3),
        payment=st.sampled_from(sorted(FIRST_PAYMENTS, reverse=True)),
        then=moves,
    )
    def somebody_buys(self, email: str, spelling: str, what: str, quantity: int, payment: str, then: Moves) -> None:
        """Checkout, with whatever address they type."""
        self.account.checkout(
            SPELLINGS[spelling](email), quantity=quantity, paid=FIRST_PAYMENTS[payment], **OFFERS[what]
        )
        self._machines_go_on(then)

    @precondition(lambda self: self._customers())
    @rule(which=few, what=st.sampled_from(sorted(OFFERS_TO_CUSTOMERS)), then=moves)
    def a_customer_buys_more(self, which: int, what: str, then: Moves) -> None:
        customers = self._customers()
        customer = customers[which % len(customers)]
        if what == "once":
            self.account.checkout(None, ONCE, mode="payment", customer=customer)
        else:
            self.account.create_subscription(customer, **OFFERS_TO_CUSTOMERS[what])
        self._machines_go_on(then)

    def _customers(self) -> list[str]:
        customers = self.account.objects["customer"].items()
        return [id_ for id_, customer in customers if not customer.get("deleted")]

    @precondition(lambda self: self.account.objects["checkout.session"])
    @rule(data=st.data(), way=few, then=moves)
    def something_happens_at_stripe(self, data: Any, way: int, then: Moves) -> None:
        if possible := possible_turns(self.account):
            name = data.draw(st.sampled_from(likely(possible)), "what")
            take(self.life, name, data.draw(st.sampled_from(possible[name]), "to whom"), way)
        self._machines_go_on(then)

    # ---------------------------------------------------------- events and runs

    @rule(seconds=st.sampled_from((31, 300, 901, HOUR, DAY, 3 * DAY, 8 * DAY)), then=moves)
    def time_passes(self, seconds: int, then: Moves) -> None:
        self.life.pass_by(seconds)
        self._machines_go_on(then)

    def _machines_go_on(self, moves: Moves) -> None:
        for move, which, some in moves:
            MOVE[move](self.life, which, some)

    @precondition(lambda self: len(self.life.undelivered) >= 12)
    @rule()
    def all_is_quiet_for_once(self) -> None:
        self._comes_to_rest()

    @precondition(lambda self: self.life.pool.users)
    @rule(what=st.sampled_from(ACTS), which=few, then=moves)
    def a_person_acts_on_a_user(self, what: str, which: int, then: Moves) -> None:
        life, linked = self.life, set(self.life.links().values())
        users = {
            "ban": [each.sub for each in life.everybody() if may_sign_in(life, each.sub)],
            "lift": [sub for sub in life.deeds.banned if sub in linked],
            "comp": [
                each.sub for each in life.everybody() if each.provider == "STRIPE" and may_sign_in(life, each.sub)
            ],
            "delete": [each.sub for each in life.everybody()],
            "sign in": [each.sub for each in life.everybody() if not each.signed_in],
        }[what]
        if users:
            act = {
                "ban": life.ban,
                "lift": life.unban,
                "comp": life.comp,
                "delete": life.delete_user,
                "sign in": life.sign_in,
            }[what]
            act(users[which % len(users)])
            life.counts[f"user: {what}"] += 1
        self._machines_go_on(then)

    # ---------------------------------------------------------- the end

    def teardown(self) -> None:
        if self.ended:
            return
        try:
            self._comes_to_rest()
            self.account.update_price(FORGOTTEN, metadata={"dapps": "2"})
            self.life.touch_everybody()
            self._comes_to_rest()
            if active := possible_turns(self.account).get("a payment fails"):
                take(self.life, "a payment fails", active[-1], 0)
            self._comes_to_rest()
            for hours in (40, 38 * 24):  # in the middle of a grace that began today; when all is over
                for _ in self.life.silence(hours * HOUR):
                    self._all_is_right()
                self.life.touch_everybody()
                self._comes_to_rest()
        finally:
            self.totals["lives"] += 1
            self.totals["events"] += len(self.life.subscribed)
            self.totals["executions"] += len(self.life.executions)
            self.totals.update(self.life.counts)

    def _comes_to_rest(self) -> None:
        """Everything is delivered and run. A user who was deleted by hand is made again at the next event."""
        if self.life.deeds.deleted:
            there, links = {user.sub for user in self.life.everybody()}, self.life.links()
            for customer in self.account.objects["customer"]:
                if links.get(customer) not in there:
                    self.life.touch(customer)
        self.ended = True  # unless all is right
        self.life.settle()
        self._all_is_right()
        self.ended = False

    def _all_is_right(self) -> None:
        life = self.life
        found = wrongs(Oracle(self.account, life.clock.now), life.everybody(), life.links(), life.deeds)
        assert found == []
        assert life.open_orders == []
        made = [mail.username for mail in moto_fixes.outbox if not mail.resend]
        ever = [*life.everybody(), *(user for user, _ in life.deeds.deleted.values())]
        assert sorted(made) == sorted(user.sub for user in ever if user.sub not in life.deeds.before)
        assert max(Counter(mail.username for mail in moto_fixes.outbox if mail.resend).values(), default=0) <= 3
        self._all_is_told()

    def _all_is_told(self) -> None:
        """Each notice begins where the one before it ended, and the last one tells how the user stands.

        Not so if MarkFulfilled, which may live longer than its lease, stood still with it: two may tell at once then.
        """
        life = self.life
        if life.counts["stalls of MarkFulfilled"]:
            return
        told: dict[str, list[Any]] = {}
        for notice in life.published:
            known = told.setdefault(notice["sub"], [])
            if notice["id"] in [each["id"] for each in known]:
                assert any(life.counts[name] for name in MISHAPS), "told twice, although nothing went wrong"
                assert notice in known
                continue
            if known:
                assert notice["before"] == known[-1]["after"]
            else:
                assert notice["before"] is None or notice["sub"] in life.deeds.before
            known.append(notice)
        for user in life.everybody():
            stands = {"enabled": user.enabled, "dapp_limit": user.dapp_limit, "payment_status": user.payment_status}
            if user.sub not in {**life.deeds.banned, **life.deeds.comped} and (
                user.sub in told or user.sub not in life.deeds.before
            ):
                assert told[user.sub][-1]["after"] == stands


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        Lives.world = World(patch)
        Lives.totals.clear()
        yield
        if os.environ.get("LIVES_REPORT"):
            for name, number in Lives.totals.most_common():
                print(f"{number:8d}  {name}")


LIFE = settings(
    max_examples=LIVES or 50,
    stateful_step_count=15,
    deadline=None,
    derandomize=not LIVES,
    database=None,
    print_blob=True,
    phases=[Phase[name] for name in os.environ.get("LIVES_PHASES", "explicit,generate,shrink,explain").split(",")],
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def test_every_life_ends_at_stripes_truth() -> None:
    run_state_machine_as_test(Lives, settings=LIFE)


@pytest.mark.exhaustive
def test_many_long_lives_end_at_stripes_truth() -> None:
    run_state_machine_as_test(
        Lives, settings=settings(LIFE, max_examples=10 * LIFE.max_examples, stateful_step_count=40)
    )
