"""Random lives: whatever people, Stripe, operators and failing machines do, all ends at Stripe's truth.

Some people buy, pay, fail to pay, return, are banned and deleted; their events are delivered late, twice and in any
order; runs take turns call by call and are killed between any two calls (`lives.py`). In the end everything is
delivered and run, and every user must stand as an independent computation from the rules says (`oracle.py`).

    LIVES=2000 pytest tests/workflow/test_lives.py     so many lives, other ones each time
    pytest -m exhaustive tests/workflow/test_lives.py  ten times as many as by default, and longer ones
    LIVES_REPORT=1 pytest -s …                         what happened how often

By default the lives are the same each time, so a failure is the fault of the change at hand.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from tests.local import moto_fixes
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_faults import ApiError
from tests.workflow.lives import DAY, HOUR, NO_END, Life, World
from tests.workflow.oracle import Oracle, wrongs

LIVES = int(os.environ.get("LIVES", "0"))

# What the gateway does not do yet is not asked of it.
FEATURES = {
    "marks": False,
    "customer deleted": False,
    "written off": False,
    "pause of collection": False,
}

PEOPLE = ("first@example.com", "second@example.com", "third@example.com")

# How the user of an address stands before anybody buys with it.
BEFORE: dict[str, dict[str, Any] | None] = {
    "nobody": None,
    "adopted": {"num_dapps": "2", "payment_status": "ACTIVE"},
    "adopted, without anything": {},
    "comped": {"num_dapps": "7", "payment_provider": "ADMIN"},
    "disabled by a person": {"enabled": False, "num_dapps": "1"},
}

MONTHLY, LISTED, PACKS, FOREIGN = "price_monthly", "price_listed", "price_packs", "price_foreign"
ONCE, ONCE_FOREIGN = "price_once", "price_once_foreign"


def fill_shop(account: StripeAccount) -> None:
    """Prices mapped in each way that there is, and those of another product."""
    month = {"interval": "month"}
    account.create_product("Dapps", product_id="prod_dapps")
    account.create_product("Packs", {"dapps": "10"}, product_id="prod_packs")
    account.create_product("Support", product_id="prod_support")
    account.create_price("prod_dapps", 900, {"dapps": "1"}, recurring=month, price_id=MONTHLY)
    account.create_price("prod_dapps", 700, recurring=month, price_id=LISTED)
    by_two = {"divide_by": 2, "round": "up"}
    account.create_price("prod_packs", 500, recurring=month, transform_quantity=by_two, price_id=PACKS)
    account.create_price("prod_support", 300, recurring=month, price_id=FOREIGN)
    account.create_price("prod_dapps", 5000, {"dapps": "4"}, price_id=ONCE)
    account.create_price("prod_support", 1000, price_id=ONCE_FOREIGN)


# ------------------------------------------------------------------ what can happen at Stripe

Act = Callable[[StripeAccount, str, int], object]


@dataclass(frozen=True)
class Turn:
    """One thing that can happen to an object of this resource, while it is in one of these states."""

    name: str
    resource: str
    states: tuple[str, ...]
    act: Act
    feature: str | None = None


RUNNING = ("active", "trialing")
LIVE = (*RUNNING, "past_due", "unpaid", "paused")
ANY: tuple[str, ...] = ()


def remove_an_item(account: StripeAccount, subscription: str, _: int) -> None:
    """The newest item, if it is not the last that gives anything."""
    items = account.items_of(subscription)
    if any(item["price"] != FOREIGN for item in items[:-1]):
        account.remove_item(subscription, items[-1]["id"])


TURNS = (
    Turn("the quantity changes", "subscription", LIVE, lambda a, s, n: a.change_quantity(s, 1 + n)),
    Turn("an item is added", "subscription", LIVE, lambda a, s, n: a.add_item(s, LISTED, 1 + n % 2)),
    Turn("a foreign item is added", "subscription", LIVE, lambda a, s, n: a.add_item(s, FOREIGN)),
    Turn("an item is removed", "subscription", LIVE, remove_an_item),
    Turn("it renews", "subscription", ("active", "past_due", "unpaid"), lambda a, s, n: a.renew(s)),
    Turn("a payment fails", "subscription", ("active", "past_due"), lambda a, s, n: a.fail_payment(s)),
    Turn(
        "it is paid after all",
        "subscription",
        ("past_due", "unpaid", "incomplete"),
        lambda a, s, n: a.recover_payment(s),
    ),
    Turn(
        "dunning is exhausted",
        "subscription",
        ("past_due",),
        lambda a, s, n: a.exhaust_dunning(s, ("unpaid", "canceled")[n % 2]),
    ),
    Turn("nobody pays the first time", "subscription", ("incomplete",), lambda a, s, n: a.expire_incomplete(s)),
    Turn("it is canceled", "subscription", LIVE, lambda a, s, n: a.cancel(s)),
    Turn("it is to end with its period", "subscription", RUNNING, lambda a, s, n: a.cancel(s, at_period_end=True)),
    Turn(
        "it is to end at a moment",
        "subscription",
        RUNNING,
        lambda a, s, n: a.cancel(s, cancel_at=a.now() + (1 + n) * DAY),
    ),
    Turn("it is to go on", "subscription", RUNNING, lambda a, s, n: a.keep(s)),
    Turn("it is paused", "subscription", ("trialing", "active"), lambda a, s, n: a.pause(s)),
    Turn("it is resumed", "subscription", ("paused",), lambda a, s, n: a.resume(s)),
    Turn("a trial begins", "subscription", ("active",), lambda a, s, n: a.start_trial(s, 1 + n)),
    Turn(
        "the trial ends",
        "subscription",
        ("trialing",),
        lambda a, s, n: a.end_trial(s, ("paid", "failed", "paused", "canceled")[n % 4]),
    ),
    Turn(
        "its collection is paused",
        "subscription",
        ("active",),
        lambda a, s, n: a.pause_collection(s, ("void", "keep_as_draft", "mark_uncollectible")[n % 3]),
        "pause of collection",
    ),
    Turn(
        "its collection is resumed",
        "subscription",
        LIVE,
        lambda a, s, n: a.pause_collection(s, None),
        "pause of collection",
    ),
    Turn("an invoice is paid", "invoice", ("open", "uncollectible", "draft"), lambda a, i, n: a.pay_invoice(i)),
    Turn(
        "an invoice is written off", "invoice", ("open",), lambda a, i, n: a.mark_uncollectible(i), "written off"
    ),
    Turn(
        "an invoice is voided", "invoice", ("open", "uncollectible"), lambda a, i, n: a.void_invoice(i), "written off"
    ),
    Turn("the money comes", "checkout.session", ("complete",), lambda a, s, n: a.async_payment(s)),
    Turn("the money bounces", "checkout.session", ("complete",), lambda a, s, n: a.async_payment(s, succeeded=False)),
    Turn("a charge is refunded", "charge", ("succeeded",), lambda a, c, n: a.refund(c), "marks"),
    Turn("a part is refunded", "charge", ("succeeded",), lambda a, c, n: a.refund(c, 100), "marks"),
    Turn("a refund fails", "refund", ("succeeded", "pending"), lambda a, r, n: a.fail_refund(r), "marks"),
    Turn("a charge is disputed", "charge", ("succeeded",), lambda a, c, n: a.dispute(c), "marks"),
    Turn(
        "a dispute is closed",
        "dispute",
        ("needs_response",),
        lambda a, d, n: a.close_dispute(d, ("won", "lost")[n % 2]),
        "marks",
    ),
    Turn("fraud is suspected", "charge", ("succeeded",), lambda a, c, n: a.fraud_warning(c), "marks"),
    Turn(
        "a customer changes their address",
        "customer",
        ANY,
        lambda a, c, n: a.update_customer(c, email=(*PEOPLE, "fourth@example.com")[n]),
    ),
    Turn("a customer is deleted", "customer", ANY, lambda a, c, n: a.delete_customer(c), "customer deleted"),
)


def turns(account: StripeAccount) -> list[tuple[str, str]]:
    """What can happen now: the turn's name and whom it happens to."""
    return [
        (turn.name, id_)
        for turn in TURNS
        if turn.feature is None or FEATURES[turn.feature]
        for id_, found in account.objects[turn.resource].items()
        if not found.get("deleted")
        if not turn.states or found["status"] in turn.states
        if turn.resource != "checkout.session" or found["payment_status"] == "unpaid"
    ]


ACTS = {turn.name: turn.act for turn in TURNS}

# ------------------------------------------------------------------ how somebody buys

FIRST_PAYMENTS = {"card": True, "bank debit": False}
SPELLINGS = {"as it is": str.lower, "in capitals": str.upper}


# ------------------------------------------------------------------ the machine

few = st.integers(0, 3)
calls = st.sampled_from((1, 2, 3, 5, 8, NO_END))
faults = st.sampled_from((None, None, None, "throttled", "no answer"))
deaths = st.sampled_from((NO_END, NO_END, NO_END, 0, 1, 2))


class Lives(RuleBasedStateMachine):
    """Every rule is something that happens by itself at any time."""

    world: World
    totals: Counter[str] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.life: Life = self.world.new_life()
        self.account = self.life.account
        fill_shop(self.account)

    @initialize(before=st.tuples(*[st.sampled_from(sorted(BEFORE, key=list(BEFORE).index))] * len(PEOPLE)))
    def some_users_exist(self, before: tuple[str, ...]) -> None:
        for email, kind in zip(PEOPLE, before, strict=True):
            attributes = BEFORE[kind]
            if attributes is not None:
                self.life.add_user(email, **attributes)

    # ---------------------------------------------------------- buying

    @rule(
        email=st.sampled_from(PEOPLE),
        spelling=st.sampled_from(sorted(SPELLINGS)),
        price=st.sampled_from((MONTHLY, MONTHLY, LISTED, PACKS, FOREIGN)),
        quantity=st.integers(1, 3),
        payment=st.sampled_from(sorted(FIRST_PAYMENTS, reverse=True)),
        trial=st.sampled_from((None, None, None, 2)),
    )
    def somebody_subscribes(
        self, email: str, spelling: str, price: str, quantity: int, payment: str, trial: int | None
    ) -> None:
        self.account.checkout(
            SPELLINGS[spelling](email), price, quantity, trial_days=trial, paid=FIRST_PAYMENTS[payment]
        )

    @rule(customer=few, price=st.sampled_from((MONTHLY, LISTED)), first=st.sampled_from(("paid", "failed", "awaited")))
    def a_customer_subscribes_again(self, customer: int, price: str, first: Any) -> None:
        if known := self._customers():
            self.account.create_subscription(known[customer % len(known)], price, first_payment=first)

    @rule(
        email=st.sampled_from(PEOPLE),
        price=st.sampled_from((ONCE, ONCE, ONCE_FOREIGN)),
        kept=st.sampled_from(("if_required", "always")),
        payment=st.sampled_from(sorted(FIRST_PAYMENTS, reverse=True)),
    )
    def somebody_buys_once(self, email: str, price: str, kept: Any, payment: str) -> None:
        self.account.checkout(email, price, mode="payment", customer_creation=kept, paid=FIRST_PAYMENTS[payment])

    @rule(customer=few)
    def a_customer_buys_once(self, customer: int) -> None:
        if known := self._customers():
            self.account.checkout(None, ONCE, mode="payment", customer=known[customer % len(known)])

    def _customers(self) -> list[str]:
        customers = self.account.objects["customer"].items()
        return [id_ for id_, customer in customers if not customer.get("deleted")]

    # ---------------------------------------------------------- what becomes of it

    @precondition(lambda self: self.account.objects["customer"] or self.account.objects["checkout.session"])
    @rule(data=st.data(), n=few)
    def something_happens_at_stripe(self, data: Any, n: int) -> None:
        possible = turns(self.account)
        if not possible:
            return
        name, id_ = data.draw(st.sampled_from(possible), "what")
        self.life.counts[name] += 1
        try:
            ACTS[name](self.account, id_, n)
        except ApiError:
            self.life.counts["refused by Stripe"] += 1

    # ---------------------------------------------------------- events and runs

    @precondition(lambda self: self.life.undelivered)
    @rule(which=st.lists(st.integers(0, 30), min_size=1, max_size=6), dies_after=deaths, fault=faults)
    def events_arrive_in_any_order(self, which: list[int], dies_after: int, fault: str | None) -> None:
        for number in which:
            if undelivered := self.life.undelivered:
                self.life.deliver(undelivered[number % len(undelivered)], dies_after, fault)

    @precondition(lambda self: self.life.delivered)
    @rule(which=st.integers(0, 30))
    def an_event_arrives_again(self, which: int) -> None:
        self.life.deliver(self.life.subscribed[-1 - which % len(self.life.subscribed)])

    @precondition(lambda self: self.life.running)
    @rule(turns=st.lists(st.tuples(few, calls), min_size=1, max_size=8), fault=faults)
    def runs_go_on(self, turns: list[tuple[int, int]], fault: str | None) -> None:
        for which, some in turns:
            if running := self.life.running:
                self.life.go_on(running[which % len(running)], some, fault)
                fault = None

    @precondition(lambda self: self.life.running)
    @rule(which=few, lives_on=st.booleans())
    def an_invocation_is_killed(self, which: int, lives_on: bool) -> None:
        running = self.life.running
        self.life.kill_invocation(running[which % len(running)], lives_on=lives_on)

    @precondition(lambda self: self.life.running)
    @rule(which=few)
    def an_execution_is_killed(self, which: int) -> None:
        running = self.life.running
        self.life.kill_execution(running[which % len(running)])

    @precondition(lambda self: self.life.orphans)
    @rule(some=calls)
    def an_invocation_nobody_waits_for_goes_on(self, some: int) -> None:
        self.life.orphan_goes_on(self.life.orphans[0], some)

    @rule(seconds=st.sampled_from((5, 31, 300, 901, HOUR, DAY, 3 * DAY, 31 * DAY)))
    def time_passes(self, seconds: int) -> None:
        self.life.pass_by(seconds)

    @rule(dies_after=deaths, fault=faults)
    def the_schedule_fires(self, dies_after: int, fault: str | None) -> None:
        self.life.run_due(dies_after, fault)

    @rule()
    def all_is_quiet_for_once(self) -> None:
        self._comes_to_rest()

    # ---------------------------------------------------------- operators

    @precondition(lambda self: self.life.pool.users)
    @rule(which=few)
    def a_user_is_banned(self, which: int) -> None:
        free = [user for user in self.life.everybody() if user.provider != "ADMIN" and self._lifted(user.sub)]
        if free:
            self.life.ban(free[which % len(free)].sub)

    def _lifted(self, sub: str) -> bool:
        before = self.life.deeds.before.get(sub)
        return sub not in self.life.deeds.banned and (before is None or before.enabled)

    @precondition(lambda self: self.life.deeds.banned)
    @rule(which=few)
    def a_ban_is_lifted(self, which: int) -> None:
        linked = set(self.life.links().values())
        banned = [sub for sub in self.life.deeds.banned if sub in linked]
        if banned:
            self.life.unban(banned[which % len(banned)])

    @precondition(lambda self: self.life.pool.users)
    @rule(which=few)
    def a_user_is_deleted_by_hand(self, which: int) -> None:
        users = self.life.everybody()
        self.life.delete_user(users[which % len(users)].sub)

    @precondition(lambda self: self.life.pool.users)
    @rule(which=few)
    def a_user_signs_in(self, which: int) -> None:
        users = self.life.everybody()
        self.life.sign_in(users[which % len(users)].sub)

    # ---------------------------------------------------------- the end

    def teardown(self) -> None:
        try:
            self._comes_to_rest()
            for _ in self.life.silence(40 * DAY):
                self._all_is_right()
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
        self.life.settle()
        self._all_is_right()

    def _all_is_right(self) -> None:
        life = self.life
        found = wrongs(Oracle(self.account, life.clock.now), life.everybody(), life.links(), life.deeds)
        assert found == []
        assert life.open_orders == []
        made = [mail.username for mail in moto_fixes.outbox if not mail.resend]
        ever = [*life.everybody(), *(user for user, _ in life.deeds.deleted.values())]
        assert sorted(made) == sorted(user.sub for user in ever if user.sub not in life.deeds.before)


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
    max_examples=LIVES or 150,
    stateful_step_count=40,
    deadline=None,
    derandomize=not LIVES,
    database=None,
    print_blob=True,
    phases=[Phase[name] for name in os.environ["LIVES_PHASES"].split(",")] if "LIVES_PHASES" in os.environ else tuple(Phase),
    report_multiple_bugs=False,
    suppress_health_check=list(HealthCheck),
)


def test_every_life_ends_at_stripes_truth() -> None:
    run_state_machine_as_test(Lives, settings=LIFE)


@pytest.mark.exhaustive
def test_many_long_lives_end_at_stripes_truth() -> None:
    run_state_machine_as_test(Lives, settings=settings(LIFE, max_examples=10 * LIFE.max_examples, stateful_step_count=80))
