"""The reconciliation as deployed: the real definition, the real handlers, and the runs that they start.

Each kind of drift, in several ways to get it, is found, counted and mended, and nobody else is touched; who looks
strange and is right is left alone; whatever goes wrong on the way, nobody loses anything by it.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from gateway import events, searches
from gateway.access import Item, Live, Purchase
from gateway.billing import Billing, Customer
from gateway.drift import KINDS
from gateway.errors import CognitoThrottled, GatewayError, StripeThrottled, StripeUnavailable
from gateway.events import Mark, OrderItem
from gateway.events import Purchase as KnownPurchase
from gateway.ledger import ATTEMPT_SECONDS
from tests.local.stripe_account import StripeAccount
from tests.local.stripe_api import StripeApi
from tests.workflow.conftest import Searched, World
from tests.workflow.lives import StripeWire

Rows = Mapping[tuple[str, str], Mapping[str, Any]]

HOUR, DAY = 3600, 86_400
DONE = ("MarkReconciled", "Reconciled")
FAILED = ("MarkNotReconciled", "NotReconciled")


@pytest.fixture(autouse=True)
def few_shards(world: World) -> None:
    """What is here is little, and every shard is an execution."""
    world.parameter("PlanReconciliation", "SHARDS", 3)
    world.parameter("PlanReconciliation", "SEGMENTS", 2)


# ------------------------------------------------------------------ who there is


def address(name: str) -> str:
    return f"{name}@markeddomain.example"


def bought(world: World, name: str, dapps: int = 3, **facts: Any) -> str:
    """Somebody bought a subscription, and the event came; their sub."""
    world.billing.subscribe(f"cus_{name}", dapps, email=address(name), **facts)
    return settled(world, name)


def settled(world: World, name: str) -> str:
    """An event of this customer is run to its end; the sub of their user."""
    assert world.happens(f"cus_{name}", email=address(name)).status == "SUCCEEDED"
    world.clock.pass_by(60)
    return sub_of(world, name)


def sub_of(world: World, name: str) -> str:
    return next((each.sub for each in world.everybody() if each.attributes["email"] == address(name)), "")


def lapsed(world: World, name: str) -> str:
    bought(world, name)
    world.billing.change_status(f"cus_{name}", "canceled")
    return settled(world, name)


def banned(world: World, name: str) -> str:
    sub = bought(world, name)
    world.ban(sub)
    return settled(world, name)


def guest(world: World, name: str, dapps: int = 2) -> str:
    """Somebody bought once, without a customer; their sub."""
    return once(world, name, f"cs_{name}", None, dapps)


def once(world: World, name: str, order: str, customer: str | None, dapps: int = 2) -> str:
    """Somebody bought once, and the event came; their sub."""
    world.billing.purchases[order] = Purchase(order, "paid", (Item("price_dapp", dapps, "1"),), 1)
    known = KnownPurchase(order, "session", 0, (OrderItem("sku_dapp", dapps),))
    ended = world.happens(customer, order_id=order, email=address(name), purchase=known)
    assert ended.status == "SUCCEEDED"
    assert name in {user.attributes["email"].partition("@")[0] for user in world.everybody()}
    return sub_of(world, name)


def payers(world: World, count: int, *, first: int = 0) -> list[str]:
    """So many people who pay, with nothing missing, made without runs; their subs."""
    subs = []
    for number in range(first, first + count):
        name = f"cus_many{number}"
        world.billing.subscribe(name, 1, email=address(name))
        sub = world.add_user(
            address(name),
            linked=(name,),
            num_dapps="1",
            payment_status="ACTIVE",
            payment_provider="STRIPE",
            stripe_customer_id=name,
        )
        world.ledger.note_party(name, email=address(name), subscribed=True)
        world.ledger.told(sub, {"enabled": True, "dapp_limit": 1, "payment_status": "ACTIVE"}, 1)
        world.ledger.settle(sub, read_at=int(world.clock.now), recheck_at=None, granted={f"sub_{name}": 1})
        subs.append(sub)
    return subs


def others(world: World) -> None:
    """People with whom everything is right."""
    payers(world, 2)
    world.add_user(address("stranger"))
    world.add_user(address("friend"), payment_provider="ADMIN", num_dapps="50")


def rows(world: World) -> Rows:
    """The ledger without what a search notes for itself."""
    kept = {}
    for row in world.table():
        if not row["pk"].startswith(("DRIFT#", "SEEN#")) and row["pk"] != "RECONCILIATION":
            kept[row["pk"], row["sk"]] = row
    return kept


def standing(world: World) -> dict[str, tuple[bool, Mapping[str, str]]]:
    return {user.sub: (user.enabled, user.attributes) for user in world.everybody()}


def access(world: World, name: str) -> tuple[bool, str | None, Live]:
    """What somebody has: in Cognito, and from the authorizer."""
    user = world.user(sub_of(world, name))
    return user.enabled, user.limit, world.person(user.sub).live


def changed_since(world: World, before: tuple[Rows, Mapping[str, Any]]) -> tuple[set[str], set[str]]:
    """Keys of rows, and subs, that are not as they were then."""
    after = (rows(world), standing(world))
    keys = {key[0] for key in before[0].keys() | after[0].keys() if before[0].get(key) != after[0].get(key)}
    subs = {sub for sub in before[1].keys() | after[1].keys() if before[1].get(sub) != after[1].get(sub)}
    return keys, subs


def look(world: World) -> tuple[Rows, Mapping[str, Any]]:
    return rows(world), standing(world)


def found(world: World, searched: Searched) -> dict[str, str]:
    """Whom a search found, by the name in their address (a customer without a user by their own), and their kinds."""
    names = {user.sub: user.attributes["email"].partition("@")[0] for user in world.everybody()}
    return {names.get(subject, subject): kind for subject, kind in searched.found.items()}


def kinds(searched: Searched) -> dict[str, int]:
    """What the report says was found, without what was not."""
    counted = searched.report["drift"]["kinds"]
    assert set(counted) == set(KINDS)
    return {kind: int(number) for kind, number in counted.items() if number}


def nothing_found(world: World) -> Searched:
    """A search that finds that all is well, and leaves it so."""
    before = look(world)
    started = world.runs()
    searched = world.search()
    assert found(world, searched) == {}
    assert (searched.ended.status, searched.ended.path[-2:]) == ("SUCCEEDED", DONE)
    assert (changed_since(world, before), world.runs()) == ((set(), set()), started)
    return searched


# ------------------------------------------------------------------ drift, by kind, and how one gets there

HAS_THREE = (True, "3", Live(True, 3))
HAS_NOTHING = (False, "0", Live())
Way = Callable[[World], object]
WAYS: list[Any] = []


def way(kind: str, ends: tuple[bool, str | None, Live], party: str = "cus_one") -> Callable[[Way], Way]:
    """A way to get that kind of drift for somebody called one, and how they stand when it is mended."""

    def added(arrange: Way) -> Way:
        WAYS.append(pytest.param(kind, arrange, ends, party, id=f"{kind}-{arrange.__name__[1:]}"))
        return arrange

    return added


@way("access_without_payment", HAS_NOTHING)
def _canceled(world: World) -> None:
    bought(world, "one")
    world.billing.change_status("cus_one", "canceled")


@way("access_without_payment", HAS_NOTHING)
def _enabled_by_hand(world: World) -> None:
    world.users.enable(lapsed(world, "one"))


@way("access_without_payment", HAS_NOTHING)
def _enabled_by_hand_and_unsigned(world: World) -> None:
    sub = lapsed(world, "one")
    world.users.enable(sub)
    world.write_by_hand(sub, disabled_by="", num_dapps="5", payment_status="ACTIVE")


@way("access_without_payment", HAS_NOTHING)
def _grace_is_over_and_the_recheck_is_lost(world: World) -> None:
    bought(world, "one")
    world.billing.change_status("cus_one", "past_due", first_unpaid=int(world.clock.now))
    settled(world, "one")
    world.clock.pass_by(4 * DAY)


@way("access_without_payment", HAS_NOTHING)
def _trial_is_long_over(world: World) -> None:
    bought(world, "one", status="trialing", trial_end=int(world.clock.now) + HOUR)
    world.clock.pass_by(3 * HOUR)


@way("access_without_payment", HAS_NOTHING)
def _the_authorizer_lets_in_who_lapsed(world: World) -> None:
    world.ledger.set_live(lapsed(world, "one"), Live(True, 3), 1)


@way("wrong_limit", HAS_NOTHING)
def _who_lapsed_has_a_limit_by_hand(world: World) -> None:
    world.write_by_hand(lapsed(world, "one"), num_dapps="7")


@way("access_without_payment", HAS_NOTHING, party="cs_one")
def _a_guest_was_refunded(world: World) -> None:
    guest(world, "one")
    world.ledger.remember_mark("cs_one", Mark("ch_one", "refund", "ch_one", "cs_one"))
    world.billing.marks["ch_one"] = "refunded"
    world.write_by_hand(sub_of(world, "one"), num_dapps="9")  # a refund alone is an event that was missed


@way("access_without_payment", (True, "1", Live()))
def _an_adopted_user_no_longer_pays(world: World) -> None:
    world.add_user(address("one"), num_dapps="1", payment_status="VIP")
    bought(world, "one")
    world.billing.change_status("cus_one", "canceled")


@way("paid_without_access", HAS_THREE)
def _bought_and_nobody_heard(world: World) -> None:
    world.billing.subscribe("cus_one", 3, email=address("one"))


@way("paid_without_access", HAS_THREE)
def _bought_with_the_address_of_a_user(world: World) -> None:
    world.billing.subscribe("cus_one", 3, email=address("one"))
    world.add_user(address("one"))


@way("paid_without_access", HAS_THREE)
def _paid_again(world: World) -> None:
    lapsed(world, "one")
    world.billing.add_subscription("cus_one", "sub_again", 3)


@way("paid_without_access", HAS_THREE)
def _disabled_in_the_name_of_billing(world: World) -> None:
    sub = bought(world, "one")
    world.write_by_hand(sub, disabled_by="billing")
    world.disable_by_hand(sub)


@way("paid_without_access", HAS_THREE)
def _the_authorizer_refuses_a_payer(world: World) -> None:
    world.ledger.set_live(bought(world, "one"), Live(), 1)


@way("wrong_limit", HAS_THREE)
def _raised(world: World) -> None:
    bought(world, "one", 2)
    world.billing.subscribe("cus_one", 3, email=address("one"))


@way("wrong_limit", HAS_THREE)
def _lowered(world: World) -> None:
    bought(world, "one", 5)
    world.billing.subscribe("cus_one", 3, email=address("one"))


@way("wrong_limit", HAS_THREE)
def _bought_more(world: World) -> None:
    bought(world, "one", 1)
    world.billing.add_subscription("cus_one", "sub_more", 2)


@way("wrong_limit", HAS_THREE)
def _one_of_two_ended(world: World) -> None:
    bought(world, "one", 3)
    world.billing.add_subscription("cus_one", "sub_more", 2)
    settled(world, "one")
    first, more = world.billing.customers["cus_one"].subscriptions
    canceled = (first, replace(more, status="canceled"))
    world.billing.customers["cus_one"] = replace(world.billing.customers["cus_one"], subscriptions=canceled)


@way("wrong_limit", HAS_THREE)
def _limit_by_hand(world: World) -> None:
    world.write_by_hand(bought(world, "one"), num_dapps="40")


@way("wrong_limit", HAS_THREE)
def _limit_removed_by_hand(world: World) -> None:
    world.write_by_hand(bought(world, "one"), num_dapps="")


@way("wrong_limit", HAS_THREE)
def _status_by_hand(world: World) -> None:
    world.write_by_hand(bought(world, "one"), payment_status="LAPSED")


@way("wrong_limit", HAS_THREE)
def _the_authorizer_has_another_limit(world: World) -> None:
    world.ledger.set_live(bought(world, "one"), Live(True, 30), 1)


@way("wrong_limit", (True, "9", Live(True, 9)))
def _a_comped_user_has_another_limit(world: World) -> None:
    world.write_by_hand(bought(world, "one"), payment_provider="ADMIN")
    world.write_by_hand(settled(world, "one"), num_dapps="9")


@way("wrong_limit", (True, "2", Live(True, 2)), party="cs_one")
def _limit_of_a_guest_by_hand(world: World) -> None:
    world.write_by_hand(guest(world, "one"), num_dapps="3")


@way("orphaned_link", HAS_THREE)
def _the_ledger_forgot_both(world: World) -> None:
    sub = bought(world, "one")
    world.forget(f"PERSON#{sub}")
    world.forget("PARTY#cus_one")


@way("orphaned_link", HAS_THREE)
def _the_ledger_forgot_the_person(world: World) -> None:
    world.forget(f"PERSON#{bought(world, 'one')}")


@way("orphaned_link", HAS_THREE)
def _the_ledger_forgot_the_customer(world: World) -> None:
    bought(world, "one")
    world.forget("PARTY#cus_one")


@way("orphaned_link", HAS_NOTHING)
def _the_ledger_forgot_who_no_longer_pays(world: World) -> None:
    _the_ledger_forgot_both(world)
    world.billing.change_status("cus_one", "canceled")


@way("user_deleted", HAS_THREE)
def _a_payers_user(world: World) -> None:
    world.delete_user(bought(world, "one"))


@way("user_deleted", HAS_THREE)
def _the_user_of_two_customers(world: World) -> None:
    sub = bought(world, "one", 1)
    world.billing.subscribe("cus_two", 2, email=address("one"))
    assert world.happens("cus_two", email=address("one")).status == "SUCCEEDED"
    world.delete_user(sub)


@way("user_deleted", (True, "2", Live(True, 2)), party="cs_one")
def _the_user_of_who_bought_once(world: World) -> None:
    world.delete_user(guest(world, "one"))


@way("hold_lost", (False, "3", Live()))
def _enabled_in_spite_of_a_ban(world: World) -> None:
    world.users.enable(banned(world, "one"))


@way("hold_lost", (False, "3", Live()))
def _enabled_and_unsigned_in_spite_of_a_ban(world: World) -> None:
    sub = banned(world, "one")
    world.users.enable(sub)
    world.write_by_hand(sub, disabled_by="")


@way("hold_lost", (False, "3", Live()))
def _a_ban_that_was_not_finished(world: World) -> None:
    sub = bought(world, "one")
    world.ledger.hold(sub, {"reason": "spam", "requested_by": "an operator", "at": 1})


@way("hold_lost", (False, "3", Live()))
def _disabled_by_hand_and_the_authorizer_does_not_know(world: World) -> None:
    world.disable_by_hand(bought(world, "one"))


def test_every_kind_has_a_way() -> None:
    assert {each.values[0] for each in WAYS} == set(KINDS)


@pytest.mark.parametrize(("kind", "arrange", "ends", "party"), WAYS)
def test_drift_is_found_counted_and_mended_and_nobody_else_is_touched(
    world: World, kind: str, arrange: Way, ends: tuple[bool, str | None, Live], party: str
) -> None:
    others(world)
    arrange(world)
    world.clock.pass_by(HOUR)
    before = look(world)
    theirs = {user.sub for user in world.everybody() if user.attributes["email"] == address("one")}
    theirs |= {row["sub"] for row in world.table() if row["pk"] == f"PARTY#{party}" and "sub" in row}
    counted = world.counted.copy()

    searched = world.search(find="drift")

    assert (searched.ended.status, searched.ended.path[-2:], searched.report["state"]) == (
        "SUCCEEDED",
        DONE,
        "RECONCILED",
    )
    assert [*searched.found.values()] == [kind]
    assert kinds(searched) == {kind: 1}
    assert (searched.report["drift"]["found"], searched.report["mended"]) == (1, {"started": 1, "left": 0})
    told = {name: world.counted[metric] - counted[metric] for name, metric in searches.METRICS.items()}
    assert told == {name: int(name == kind) for name in KINDS}
    assert world.runs() == [party]
    assert access(world, "one") == ends
    keys, subs = changed_since(world, before)
    theirs.add(sub_of(world, "one"))
    allowed = {f"PERSON#{sub}" for sub in theirs} | {"PARTY#cus_one", "PARTY#cus_two", f"PARTY#{party}"}
    assert {key for key in keys if not key.startswith("ORDER#recheck_")} <= allowed
    assert subs <= theirs
    world.clock.pass_by(HOUR)
    nothing_found(world)


# ------------------------------------------------------------------ who is right, however strange they look

RIGHT: list[Way] = []


def right(arrange: Way) -> Way:
    RIGHT.append(arrange)
    return arrange


@right
def a_guest(world: World) -> None:
    guest(world, "guest")


@right
def who_bought_once_as_a_customer(world: World) -> None:
    world.billing.customers["cus_once"] = Customer("cus_once", address("once"), deleted=False, subscriptions=())
    once(world, "once", "cs_once", "cus_once")


@right
def a_legacy_order(world: World) -> None:
    once(world, "legacy", "or_legacy", None)


@right
def a_comped_user(world: World) -> None:
    sub = bought(world, "comped")
    world.write_by_hand(sub, payment_provider="ADMIN", num_dapps="50")
    settled(world, "comped")
    world.billing.change_status("cus_comped", "canceled")
    settled(world, "comped")


@right
def a_lapsed_user(world: World) -> None:
    lapsed(world, "lapsed")


@right
def held_by_hand(world: World) -> None:
    world.disable_by_hand(bought(world, "held"))
    settled(world, "held")


@right
def a_banned_payer(world: World) -> None:
    banned(world, "banned")


@right
def a_banned_user_who_no_longer_pays(world: World) -> None:
    banned(world, "gone")
    world.billing.change_status("cus_gone", "canceled")
    settled(world, "gone")


@right
def adopted(world: World) -> None:
    world.add_user(address("adopted"), num_dapps="1", payment_status="VIP")
    bought(world, "adopted", 2)


@right
def an_adopted_user_who_has_stopped(world: World) -> None:
    world.add_user(address("stopped"), num_dapps="1", payment_status="VIP")
    lapsed(world, "stopped")


@right
def in_grace(world: World) -> None:
    bought(world, "late", 4)
    world.billing.change_status("cus_late", "past_due", first_unpaid=int(world.clock.now))
    settled(world, "late")


@right
def in_grace_with_more_ordered(world: World) -> None:
    """Whoever does not pay is not given more; what they order meanwhile is not theirs yet."""
    bought(world, "more", 2)
    world.billing.subscribe("cus_more", 2, email=address("more"), status="past_due", first_unpaid=int(world.clock.now))
    settled(world, "more")
    world.billing.subscribe("cus_more", 9, email=address("more"), status="past_due", first_unpaid=int(world.clock.now))


@right
def in_grace_with_less(world: World) -> None:
    bought(world, "less", 5)
    world.billing.subscribe("cus_less", 2, email=address("less"), status="past_due", first_unpaid=int(world.clock.now))
    settled(world, "less")


@right
def trialing(world: World) -> None:
    bought(world, "trial", status="trialing", trial_end=int(world.clock.now) + 7 * DAY)


@right
def two_customers_of_one_person(world: World) -> None:
    bought(world, "twice", 2)
    world.billing.subscribe("cus_twice2", 3, email=address("twice"))
    assert world.happens("cus_twice2", email=address("twice")).status == "SUCCEEDED"


@right
def refunded(world: World) -> None:
    bought(world, "refunded")
    world.billing.marks["ch_refunded"] = "refunded"
    world.ledger.remember_mark("cus_refunded", Mark("ch_refunded", "refund", "ch_refunded", "sub_cus_refunded"))
    settled(world, "refunded")


@right
def another_product_beside(world: World) -> None:
    bought(world, "beside")
    world.billing.add_subscription("cus_beside", "sub_other", 7, mapped=False)


@right
def another_product_alone(world: World) -> None:
    world.billing.subscribe("cus_other", 7, email=address("other"), mapped=False)


@right
def never_paid(world: World) -> None:
    world.billing.subscribe("cus_never", 7, email=address("never"), status="incomplete")


@right
def a_deleted_account(world: World) -> None:
    bought(world, "forgotten")
    assert world.delete(address("forgotten")).status == "SUCCEEDED"
    world.waits.clear()


@right
def a_status_that_nobody_knows(world: World) -> None:
    bought(world, "strange", 5)
    world.billing.change_status("cus_strange", "frozen_by_martians")
    settled(world, "strange")


@right
def an_order_that_is_being_run(world: World) -> None:
    """Their event came a moment ago, and the run has not done its work yet."""
    bought(world, "busy")
    world.billing.change_status("cus_busy", "canceled")
    world.clock.pass_by(2 * HOUR - 60)
    world.receive("cus_busy", email=address("busy"))


@right
def a_deleted_customer(world: World) -> None:
    bought(world, "left")
    customer = world.billing.customers["cus_left"]
    ended = tuple(replace(each, status="canceled") for each in customer.subscriptions)
    world.billing.customers["cus_left"] = replace(customer, deleted=True, email=None, subscriptions=ended)
    settled(world, "left")


def test_who_is_right_is_left_alone_and_stays_so(world: World) -> None:
    for arrange in RIGHT:
        arrange(world)
    world.clock.pass_by(60)
    searched = nothing_found(world)
    assert kinds(searched) == {}
    world.clock.pass_by(60)
    nothing_found(world)


def test_an_order_whose_run_died_is_left_to_who_runs_it_again(world: World) -> None:
    an_order_that_is_being_run(world)
    nothing_found(world)
    world.clock.pass_by(ATTEMPT_SECONDS)
    nothing_found(world)

    world.runs_due()

    assert access(world, "busy") == HAS_NOTHING
    nothing_found(world)


def test_whose_run_fails_for_good_gets_no_order_from_every_search(world: World) -> None:
    """Somebody without an address; what their one run waits for is the operator's."""
    others(world)
    world.billing.subscribe("cus_silent", 3, email=None)
    world.clock.pass_by(HOUR)
    assert world.search().found == {"cus_silent": "paid_without_access"}
    assert world.runs() == ["cus_silent"]
    (order,) = [row for row in world.table() if row.get("event_type") == "gateway.recheck"]
    assert (order["state"], order["last_error"].partition(":")[0]) == ("UNFULFILLED", "EmailUnusable")

    for _ in range(3):
        world.clock.pass_by(DAY)
        nothing_found(world)

    world.billing.subscribe("cus_silent", 3, email=address("silent"))
    world.runs_due()
    assert access(world, "silent") == HAS_THREE
    nothing_found(world)


def test_an_event_that_nobody_could_read_keeps_nobody_from_being_looked_at(world: World) -> None:
    """Its order is open, and RunDue will not run it."""
    sub = guest(world, "one")
    session = {"id": "cs_one", "object": "checkout.session"}
    world.billing.tells("evt_broken", "checkout.session.completed", session)
    broken = events.unusable(events.envelope(world.billing.happened[-1]))
    world.ledger.record(broken, int(world.clock.now), problem="UnusableEvent: it names nothing")
    assert [*world.ledger.open_orders("cs_one", int(world.clock.now) + 60)] == ["evt_broken"]
    world.write_by_hand(sub, num_dapps="9")
    world.clock.pass_by(HOUR)

    assert found(world, world.search(find="drift")) == {"one": "wrong_limit"}
    assert access(world, "one") == (True, "2", Live(True, 2))


def test_users_deleted_by_hand_are_forgotten_when_there_is_a_new_one(world: World) -> None:
    """What the old one was granted is no subscription that Stripe should list."""
    for sub in payers(world, 4):
        world.delete_user(sub)
    world.clock.pass_by(HOUR)
    assert kinds(world.search()) == {"user_deleted": 4}

    for _ in range(2):
        world.clock.pass_by(HOUR)
        nothing_found(world)
    assert len(world.everybody()) == 4


def test_users_deleted_by_hand_who_no_longer_pay_stop_no_search(world: World) -> None:
    for number, sub in enumerate(payers(world, 4)):
        world.delete_user(sub)
        world.billing.change_status(f"cus_many{number}", "canceled")
    world.clock.pass_by(HOUR)
    assert kinds(world.search()) == {"access_without_payment": 4}  # tokens of theirs may live

    for _ in range(2):
        world.clock.pass_by(HOUR)
        nothing_found(world)
    assert world.everybody() == []


# ------------------------------------------------------------------ what the ledger has lost


def forgets_person(world: World, name: str, sub: str) -> None:
    world.forget(f"PERSON#{sub}")


def forgets_customer(world: World, name: str, sub: str) -> None:
    world.forget(f"PARTY#{name}")


def forgets_both(world: World, name: str, sub: str) -> None:
    forgets_person(world, name, sub)
    forgets_customer(world, name, sub)


Forgets = Callable[[World, str, str], None]


def has_lost(world: World, forgets: Forgets, days: int, *, moved: bool) -> None:
    """Of more people than Stripe's list may lack. `moved`: each has another address there since."""
    subs = payers(world, 6)
    world.clock.pass_by(days * DAY)
    for number, sub in enumerate(subs[:4]):
        name = f"cus_many{number}"
        forgets(world, name, sub)
        if moved:
            customer = world.billing.customers[name]
            world.billing.customers[name] = replace(customer, email=address(f"moved{number}"))


@pytest.mark.parametrize("days", [1, 40])
@pytest.mark.parametrize(
    ("forgets", "moved"),
    [
        (forgets_person, False),
        (forgets_person, True),
        (forgets_customer, False),
        (forgets_customer, True),
        (forgets_both, False),
    ],
)
def test_what_the_ledger_has_lost_is_linked_again_however_long_ago_it_was_bought(
    world: World, forgets: Forgets, moved: bool, days: int
) -> None:
    has_lost(world, forgets, days, moved=moved)

    searched = world.search()

    assert (searched.ended.status, kinds(searched)) == ("SUCCEEDED", {"orphaned_link": 4})
    assert searched.report["mended"] == {"started": 4, "left": 0}
    assert world.runs() == [f"cus_many{number}" for number in range(4)]
    assert len(world.everybody()) == 6
    for number in range(6):
        user = world.user(sub_of(world, f"cus_many{number}"))
        person = world.person(user.sub)
        assert (user.enabled, user.limit, person.live) == (True, "1", Live(True, 1))
        assert person.parties == {f"cus_many{number}"}
        assert world.ledger.party(f"cus_many{number}").sub == user.sub
    world.clock.pass_by(HOUR)
    nothing_found(world)


def test_whose_address_is_not_the_customers_is_linked_by_nobody_but_an_operator(world: World) -> None:
    """An attribute alone says whose user they are; older than Stripe's events, so that no user is made either."""
    has_lost(world, forgets_both, 40, moved=True)
    before = look(world)

    for _ in range(2):
        searched = world.search()

        assert (searched.ended.status, kinds(searched)) == ("SUCCEEDED", {"orphaned_link": 4})
        assert searched.report["mended"] == {"started": 0, "left": 4}
        assert searched.report["drift"]["unadopted"] == 4
        assert (changed_since(world, before), world.runs()) == ((set(), set()), [])
        world.clock.pass_by(HOUR)


def test_a_banned_user_without_a_customer_is_reported_and_left(world: World) -> None:
    others(world)
    sub = world.add_user(address("barred"))
    world.ban(sub)
    world.clock.pass_by(HOUR)
    nothing_found(world)
    world.users.enable(sub)
    before = look(world)

    searched = world.search()

    assert (found(world, searched), kinds(searched)) == ({"barred": "hold_lost"}, {"hold_lost": 1})
    assert (searched.report["mended"], searched.report["drift"]["disabled"]) == ({"started": 0, "left": 1}, 0)
    assert (changed_since(world, before), world.runs()) == ((set(), set()), [])
    world.ban(sub)  # POST /hold again
    nothing_found(world)


# ------------------------------------------------------------------ dry run, and how many at most


def drifts(world: World) -> dict[str, str]:
    """Somebody of each of three kinds, and a missed event; whom a search is to find."""
    others(world)
    for number, sub in enumerate(payers(world, 3, first=10)):
        match number:
            case 0:
                world.billing.change_status("cus_many10", "canceled")
            case 1:
                world.write_by_hand(sub, num_dapps="40")
            case _:
                world.delete_user(sub)
    world.billing.subscribe("cus_new", 3, email=address("new"))
    world.billing.tells("evt_missed", "customer.subscription.created", of_subscription("cus_new"), taken=False)
    world.clock.pass_by(HOUR)
    return {"cus_many10": "access_without_payment", "cus_many11": "wrong_limit"}


def of_subscription(customer: str) -> dict[str, Any]:
    """What an event of it says; whatever that is decides nothing."""
    return {"id": f"sub_{customer}", "object": "subscription", "customer": customer, "status": "active"}


def everything_is_mended(world: World) -> bool:
    """Whether everybody of `drifts` has what they pay for, and no order is open."""
    has_one = (True, "1", Live(True, 1))
    right = {"cus_many10": HAS_NOTHING, "cus_many11": has_one, "cus_many12": has_one, "new": HAS_THREE}
    orders = [row for row in world.table() if row["sk"] == "ORDER"]
    fulfilled = all(row["state"] == "FULFILLED" for row in orders)
    return fulfilled and {name: access(world, name) for name in right if sub_of(world, name)} == right


def test_a_dry_run_changes_nothing_and_says_what_it_found(world: World) -> None:
    expected = drifts(world)
    before, counted = look(world), world.counted.copy()

    searched = world.search(dry_run=True, max_disabled=0)

    assert (searched.ended.status, searched.ended.path[-3:]) == ("SUCCEEDED", ("DecideMending", *DONE))
    assert (changed_since(world, before), world.runs()) == ((set(), set()), [])
    assert world.ledger.events_known_until() is None
    assert expected.items() <= found(world, searched).items()
    counts = {"access_without_payment": 1, "paid_without_access": 1, "user_deleted": 1, "wrong_limit": 1}
    assert kinds(searched) == counts
    assert (searched.report["dry_run"], searched.report["drift"]["disabled"]) == (True, 1)
    assert "mended" not in searched.report
    assert searched.report["events"]["missed"] == 1
    assert world.counted["MissedEvent"] - counted["MissedEvent"] == 1

    world.search()

    assert everything_is_mended(world)


def cancels(world: World, several: int, of: int) -> None:
    payers(world, of)
    for number in range(several):
        world.billing.change_status(f"cus_many{number}", "canceled")
    world.clock.pass_by(HOUR)


def stopped(world: World, several: int, enabled: int) -> None:
    """A search stops before the first, and says how to go on."""
    before = look(world)
    searched = world.search(find="drift")
    assert (searched.ended.status, searched.ended.error) == ("FAILED", "TooManyDisabled")
    assert searched.ended.path[-3:] == ("CheckDrift", *FAILED)
    assert (changed_since(world, before), world.runs()) == ((set(), set()), [])
    assert len(searched.found) == several
    assert searched.report["state"] == "NOT_RECONCILED"
    for text in (f"{several} of {enabled} people", "nobody was touched", f"DRIFT#{searched.name}", "max_disabled"):
        assert text in searched.report["reason"]
    assert world.counted["TooManyDisabled"] == 1


def test_more_people_than_may_be_disabled_are_left_until_an_operator_says_so(world: World) -> None:
    world.parameter("PlanReconciliation", "MAX_DISABLED", 2)
    cancels(world, 3, of=4)
    stopped(world, 3, enabled=4)

    searched = world.search(find="drift", max_disabled=3)

    assert (searched.ended.status, kinds(searched)) == ("SUCCEEDED", {"access_without_payment": 3})
    assert [each.enabled for each in world.everybody()].count(False) == 3


def test_as_many_as_may_be_disabled_are(world: World) -> None:
    world.parameter("PlanReconciliation", "MAX_DISABLED", 2)
    cancels(world, 2, of=4)
    assert world.search(find="drift").ended.status == "SUCCEEDED"
    assert [each.enabled for each in world.everybody()].count(False) == 2


def test_a_greater_part_than_may_be_disabled_is_left_until_an_operator_says_so(world: World) -> None:
    world.parameter("CheckDrift", "FEW", 2)
    cancels(world, 3, of=20)
    world.add_user(address("stranger"))
    stopped(world, 3, enabled=20)

    assert world.search(find="drift", max_disabled_percent=14).ended.error == "TooManyDisabled"
    assert world.search(find="drift", max_disabled_percent=15).ended.status == "SUCCEEDED"
    assert [each.enabled for each in world.everybody()].count(False) == 3


def test_a_few_may_be_a_great_part(world: World) -> None:
    world.parameter("CheckDrift", "FEW", 2)
    cancels(world, 2, of=2)
    assert world.search(find="drift").ended.status == "SUCCEEDED"
    assert [each.enabled for each in world.everybody()] == [False, False]


def test_drift_that_is_counted_in_many_calls_stops_before_the_first_as_well(world: World) -> None:
    in_small_steps(world)
    world.parameter("PlanReconciliation", "MAX_DISABLED", 2)
    cancels(world, 3, of=4)
    stopped(world, 3, enabled=4)
    assert world.lambdas.calls["CheckDrift"] == 4  # the last one finds nobody
    assert (world.counted["AccessWithoutPayment"], world.counted["WouldDisable"]) == (3, 3)

    searched = world.search(find="drift", max_disabled=3)

    assert searched.ended.path.count("CheckDrift") == 4
    assert (searched.ended.status, kinds(searched)) == ("SUCCEEDED", {"access_without_payment": 3})
    assert [each.enabled for each in world.everybody()].count(False) == 3


def test_a_call_of_many_that_is_refused_counts_nobody_twice(world: World) -> None:
    in_small_steps(world)
    cancels(world, 3, of=4)
    for _ in range(2):
        world.meanwhile("CheckDrift", lambda: None)
    world.meanwhile("CheckDrift", lambda: world.fail("CheckDrift", "LedgerThrottled"))

    searched = world.search(find="drift")

    assert len(world.waits) == 1
    assert kinds(searched) == {"access_without_payment": 3}
    assert (searched.report["drift"]["found"], searched.report["mended"]["started"]) == (3, 3)


def test_a_price_that_gives_nothing_by_mistake_takes_it_from_nobody(world: World) -> None:
    """They still pay, so nobody would be disabled; and nobody could use anything."""
    world.parameter("PlanReconciliation", "MAX_DISABLED", 2)
    payers(world, 4)
    for name, customer in world.billing.customers.items():
        nothing = tuple(
            replace(each, items=tuple(replace(item, dapps="0") for item in each.items))
            for each in customer.subscriptions
        )
        world.billing.customers[name] = replace(customer, subscriptions=nothing)
    world.clock.pass_by(HOUR)
    before = look(world)

    searched = world.search(find="drift")

    assert searched.ended.error == "TooManyDisabled"
    assert set(searched.found.values()) == {"wrong_limit"}
    assert (len(searched.found), world.counted["WouldDisable"]) == (4, 4)
    assert (changed_since(world, before), world.runs()) == ((set(), set()), [])


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"find": "people"}, "find is none of"),
        ({"dry_run": "yes"}, "dry_run is neither"),
        ({"backfill": 1}, "backfill is neither"),
        ({"max_disabled": -1}, "max_disabled is not"),
        ({"max_disabled_percent": True}, "max_disabled_percent is not"),
        ({"dryrun": True}, "and nothing else"),
    ],
)
def test_what_nobody_understands_is_refused(world: World, said: dict[str, Any], why: str) -> None:
    cancels(world, 1, of=2)
    before = look(world)
    searched = world.search(**said)
    assert (searched.ended.error, searched.ended.path) == ("SearchInvalid", ("PlanReconciliation", *FAILED))
    assert why in searched.report["reason"]
    assert changed_since(world, before) == (set(), set())


# ------------------------------------------------------------------ what goes wrong on the way


class OnePage:
    over = True

    def __init__(self, times: int = 1) -> None:
        """However many times as long: it is over."""


def in_small_steps(world: World) -> None:
    """Every call of a task does as little as it can, and the next goes on."""
    for state in ("FindMissedEvents", "ScanUsers", "CompareShard", "CheckDrift", "MendDrift"):
        world.parameter(state, "Turn", OnePage)
    world.billing.page = 2


def test_calls_go_on_where_the_one_before_ended(world: World) -> None:
    in_small_steps(world)
    drifts(world)
    payers(world, 70, first=100)
    world.write_by_hand(sub_of(world, "cus_many169"), num_dapps="9")
    for number in range(3):
        world.billing.tells(f"evt_more{number}", "customer.subscription.updated", of_subscription("cus_many0"))
    world.clock.pass_by(HOUR)

    searched = world.search()

    assert searched.ended.status == "SUCCEEDED"
    assert everything_is_mended(world)
    assert access(world, "cus_many169") == (True, "1", Live(True, 1))
    assert searched.report["users"]["users"] in (76, 77)  # the new customer's is made meanwhile
    assert searched.report["drift"]["subscriptions"] == 76
    assert searched.report["events"]["missed"] == 4
    assert world.lambdas.calls["ScanUsers"] == 2
    assert world.lambdas.calls["CheckDrift"] == searched.report["drift"]["found"] + 1  # the last one finds nobody
    assert world.lambdas.calls["MendDrift"] == searched.report["mended"]["started"] + 1
    for state in ("ScanUsers", "CheckDrift", "MendDrift"):
        assert searched.ended.path.count(state) == world.lambdas.calls[state]
    told = {name: world.counted[metric] for name, metric in searches.METRICS.items() if world.counted[metric]}
    assert told == kinds(searched)
    assert world.counted["WouldDisable"] == searched.report["drift"]["disabled"] == 1
    assert sum(name == "subscriptions" for name, _ in world.billing.pages) == world.lambdas.calls["CompareShard"] - 2


def once_on_page(world: World, name: str, number: int, error: GatewayError) -> None:
    """Stripe refuses to show that page, the first time that it is asked for it."""

    def before(listed: str, page: int) -> None:
        if (listed, page) == (name, number):
            world.billing.before_page = None
            raise error

    world.billing.before_page = before


@pytest.mark.parametrize("error", [StripeThrottled, StripeUnavailable])
@pytest.mark.parametrize("listed", ["subscriptions", "events", "undelivered"])
def test_a_list_goes_on_behind_the_page_that_was_refused(world: World, error: type[GatewayError], listed: str) -> None:
    in_small_steps(world)
    world.parameter("PlanReconciliation", "SHARDS", 1)
    drifts(world)
    taken = listed != "undelivered"
    for number in range(3):
        content = of_subscription(f"cus_many{number % 2}")
        world.billing.tells(f"evt_more{number}", "customer.subscription.updated", content, taken=taken)
    world.clock.pass_by(HOUR if taken else 3 * DAY)  # what is of the last window is listed with it
    once_on_page(world, listed, 1, error("in the middle"))

    searched = world.search()

    assert searched.ended.status == "SUCCEEDED"
    assert world.billing.before_page is None  # it has happened
    assert len(world.waits) == 1
    assert everything_is_mended(world)
    asked = Counter(after for name, after in world.billing.pages if name == listed and after is not None)
    assert set(asked.values()) == {1}


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("PlanReconciliation", "StripeThrottled"),
        ("FindMissedEvents", "StripeUnavailable"),
        ("ScanUsers", "CognitoThrottled"),
        ("CompareShard", "StripeThrottled"),
        ("CompareShard", "CognitoThrottled"),
        ("CheckDrift", "LedgerThrottled"),
        ("MendDrift", "LedgerThrottled"),
        ("MarkReconciled", "LedgerUnavailable"),
    ],
)
def test_what_stays_refused_ends_the_search_with_a_reason_and_the_next_one_does_the_work(
    world: World, state: str, error: str
) -> None:
    drifts(world)
    before = look(world)
    world.fail(state, error, 99)

    searched = world.search()

    assert (searched.ended.status, searched.ended.path[-2:]) == ("FAILED", FAILED)
    in_a_shard = state == "CompareShard"
    assert searched.ended.error == ("States.ExceedToleratedFailureThreshold" if in_a_shard else error)
    assert searched.report["state"] == "NOT_RECONCILED"
    reason = searched.report["reason"]
    assert reason == (
        "a shard could not be compared: the failed execution of the Map Run (Step Functions console) says why"
        if in_a_shard
        else f"{error}: injected"
    )
    assert world.counted["NotReconciled"] == 1
    assert world.ledger.events_known_until() is None
    if state != "MarkReconciled":
        assert world.runs() == []
    if state in ("PlanReconciliation", "FindMissedEvents"):
        assert changed_since(world, before) == (set(), set())

    world.lambdas.faults.clear()
    world.clock.pass_by(HOUR)
    assert world.search().ended.status == "SUCCEEDED"
    assert everything_is_mended(world)


def test_the_ledger_may_refuse_a_call_in_the_middle(world: World) -> None:
    drifts(world)
    for state in ("ScanUsers", "CheckDrift", "MendDrift"):
        world.fail(state, "LedgerThrottled", 2)
    world.cognito.before["list_users"] = lambda: refuse(CognitoThrottled("in the middle"))

    assert world.search().ended.status == "SUCCEEDED"
    assert world.waits == [1, 2, 1, 1, 2, 1, 2]
    assert everything_is_mended(world)


def refuse(error: Exception) -> None:
    raise error


# ------------------------------------------------------------------ what changes while it is listed


def test_what_begins_and_ends_while_stripe_lists_does_no_harm(world: World) -> None:
    in_small_steps(world)
    world.parameter("PlanReconciliation", "SHARDS", 1)
    payers(world, 7)
    world.billing.change_status("cus_many0", "canceled")
    world.clock.pass_by(HOUR)

    def changes(listed: str, page: int) -> None:
        if (listed, page) == ("subscriptions", 1):
            payers(world, 1, first=50)  # whose events have come
            for customer in ("cus_many1", "cus_many6"):  # on a page to come, and on one that has been
                world.billing.change_status(customer, "canceled")

    world.billing.before_page = changes
    searched = world.search()

    assert searched.ended.status == "SUCCEEDED"
    assert searched.report["drift"]["subscriptions"] == 7
    who = {"cus_many0": "access_without_payment", "cus_many1": "access_without_payment"}
    assert found(world, searched) == who
    world.clock.pass_by(HOUR)
    assert found(world, world.search()) == {"cus_many6": "access_without_payment"}
    assert [each.enabled for each in world.everybody()].count(True) == 5


def test_users_who_come_and_go_while_they_are_listed_do_no_harm(world: World) -> None:
    in_small_steps(world)
    subs = payers(world, 64)
    world.write_by_hand(subs[63], num_dapps="9")
    world.clock.pass_by(HOUR)

    def changes() -> None:
        world.delete_user(subs[0])  # was met
        payers(world, 1, first=80)

    world.meanwhile("ScanUsers", lambda: None)
    world.meanwhile("ScanUsers", changes)
    searched = world.search()

    assert searched.ended.status == "SUCCEEDED"
    assert found(world, searched) == {"cus_many63": "wrong_limit"}
    world.clock.pass_by(HOUR)
    assert [*world.search().found.values()] == ["user_deleted"]
    assert len(world.everybody()) == 65


# ------------------------------------------------------------------ an answer that is none


class Wire:
    """Stripe as its own library sees it: the stand-in of the local stack, and what comes between."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.world = world
        self.account = StripeAccount(clock=world.clock.time, tag="")
        self.account.auto_deliver = False
        self.api = StripeApi(self.account)
        self.between: Callable[[str, dict[str, Any], dict[str, Any]], Any] | None = None
        key = SimpleNamespace(text=lambda: "rk_test", refresh=lambda: False)
        for module in world.handlers.values():
            if hasattr(module, "billing"):
                billing = Billing(key, base="https://api.stripe.com", livemode=False, prices={})  # type: ignore[arg-type]
                billing._http = StripeWire(self._asked)  # type: ignore[assignment]
                patch.setattr(module, "billing", billing)
                if hasattr(module, "differences"):
                    world._looks_through(module, govern=False)

    def _asked(self, method: str, path: str, params: dict[str, Any]) -> tuple[str, int, Mapping[str, str]]:
        status, body, headers = self.api.call(method, path, params, "rk_test")
        if self.between is not None:
            answer = self.between(path, params, body)
            if isinstance(answer, tuple):
                return answer[1], answer[0], {}
            body = answer
        return json.dumps(body), status, headers

    def sells(self, several: int) -> list[str]:
        """So many people have bought and their events have come; their subscriptions."""
        product = self.account.create_product("API")["id"]
        price = self.account.create_price(product, 500, metadata={"dapps": "1"}, recurring={"interval": "month"})["id"]
        sold = []
        for number in range(several):
            session = self.account.checkout(address(f"wired{number}"), price, 3)
            assert self.world.happens(session["customer"], email=address(f"wired{number}")).status == "SUCCEEDED"
            sold.append(str(session["subscription"]))
        return sold


@pytest.fixture
def wire(world: World, monkeypatch: pytest.MonkeyPatch) -> Wire:
    return Wire(world, monkeypatch)


def lists(path: str, params: dict[str, Any]) -> bool:
    """Whether this asks for everybody's subscriptions."""
    return path.endswith("/v1/subscriptions") and "customer" not in params and params.get("limit") != "1"


Between = Callable[[str, dict[str, Any], dict[str, Any]], Any]


def _instead(of: Callable[[str, dict[str, Any]], bool], answer: Any) -> Between:
    return lambda path, params, body: answer if of(path, params) else body


def _all(path: str, params: dict[str, Any]) -> bool:
    return True


def _error(status: int, **error: str) -> tuple[int, str]:
    return status, json.dumps({"error": {"message": "", **error}})


def _other_mode(path: str, params: dict[str, Any], body: dict[str, Any]) -> Any:
    if lists(path, params):
        return {**body, "data": [{**row, "livemode": True} for row in body["data"]]}
    return body


SHARD = "States.ExceedToleratedFailureThreshold"
NOTHING = {"object": "list", "url": "/v1/subscriptions", "data": [], "has_more": False}
ANSWERS: dict[str, tuple[Between, str, str]] = {
    "429": (_instead(lists, _error(429, type="rate_limit_error")), SHARD, "a shard could not be compared"),
    "500": (_instead(lists, _error(500, type="api_error")), SHARD, "a shard could not be compared"),
    "no JSON": (_instead(lists, (200, "<html>")), SHARD, "a shard could not be compared"),
    "no list": (_instead(lists, {"object": "balance"}), SHARD, "a shard could not be compared"),
    "more, but nothing": (_instead(lists, {**NOTHING, "has_more": True}), SHARD, "a shard could not be compared"),
    "the other mode": (_other_mode, SHARD, "a shard could not be compared"),
    "nothing": (_instead(lists, NOTHING), "BillingIncomplete", "Stripe lists 0 of 2 subscriptions"),
    "wrong key": (_instead(_all, _error(401)), "StripeKeyRejected", "check the key in Secrets Manager"),
    "a right is missing": (_instead(_all, _error(403)), "StripeKeyRejected", "check the key in Secrets Manager"),
    "another account": (
        _instead(_all, _error(400, code="resource_missing", type="invalid_request_error")),
        "BillingIncomplete",
        "key of another account?",
    ),
    "an account without subscriptions": (
        _instead(lambda path, params: path.endswith("/v1/subscriptions"), NOTHING),
        "BillingIncomplete",
        "key of another account?",
    ),
}


PASSING = ("429", "500", "no JSON", "no list", "more, but nothing")  # so that it is asked again


@pytest.mark.parametrize("answer", ANSWERS)
def test_an_answer_that_is_none_never_means_that_nobody_pays(world: World, wire: Wire, answer: str) -> None:
    sold = wire.sells(2)
    wire.account.cancel(sold[0])
    world.clock.pass_by(HOUR)
    before = look(world)
    wire.between, error, reason = ANSWERS[answer]

    searched = world.search(find="drift")

    assert (searched.ended.status, searched.ended.path[-2:], searched.ended.error) == ("FAILED", FAILED, error)
    stops = {SHARD: "CompareShards"}.get(error, "CheckDrift" if answer == "nothing" else "PlanReconciliation")
    assert searched.ended.path[-3] == stops
    assert bool(world.waits) is (answer in PASSING)
    assert reason in searched.report["reason"]
    assert (changed_since(world, before), world.runs()) == ((set(), set()), [])

    wire.between = None
    assert kinds(world.search(find="drift")) == {"access_without_payment": 1}
    assert [each.enabled for each in world.everybody()].count(False) == 1


def test_the_events_of_another_account_are_not_run(world: World) -> None:
    payers(world, 2)
    strangers = {"cus_strange": world.billing.customers["cus_many0"]}
    ours, world.billing.customers = world.billing.customers, strangers
    world.billing.tells("evt_strange", "customer.subscription.updated", of_subscription("cus_strange"), taken=False)
    world.clock.pass_by(HOUR)

    searched = world.search(find="events")

    assert (searched.ended.path, searched.ended.error) == (("PlanReconciliation", *FAILED), "BillingIncomplete")
    assert (orders(world), world.ledger.events_known_until(), len(ours)) == ({}, None, 2)


def test_half_a_list_takes_nobodys_access(world: World) -> None:
    payers(world, 10)
    world.clock.pass_by(HOUR)
    before = look(world)
    hidden = {f"cus_many{number}" for number in range(5)}
    everybody = world.billing.customers
    listed = world.billing.subscriptions_made

    def half(since: int, until: int, after: str | None) -> Any:
        rows, last = listed(since, until, after)
        return [row for row in rows if row[0] not in hidden], last

    world.billing.subscriptions_made = half  # type: ignore[method-assign]
    searched = world.search(find="drift")

    assert (searched.ended.status, searched.ended.error) == ("FAILED", "BillingIncomplete")
    assert "Stripe lists 5 of 10 subscriptions" in searched.report["reason"]
    assert (changed_since(world, before), len(everybody)) == ((set(), set()), 10)


# ------------------------------------------------------------------ two at once


def test_two_searches_at_once_do_no_harm(world: World) -> None:
    drifts(world)
    both = [world.start_search(), world.start_search()]
    ended = [world.searched(name) for name in both]
    assert [each.ended.status for each in ended] == ["SUCCEEDED"] * 2
    assert everything_is_mended(world)
    assert max(Counter(world.runs()).values()) <= 2
    assert sum(each.report["events"]["missed"] for each in ended) in (1, 2)
    assert len([row for row in world.table() if row["pk"] == "ORDER#evt_missed"]) == 1
    assert world.mails() == [False, False]  # to the new customer, and to the new user of who was deleted
    world.clock.pass_by(HOUR)
    nothing_found(world)


def test_a_search_that_begins_while_another_mends_does_no_harm(world: World) -> None:
    drifts(world)
    second: list[str] = []
    world.meanwhile("MendDrift", lambda: second.append(world.start_search()))
    assert world.search().ended.status == "SUCCEEDED"
    assert world.searched(second[0]).ended.status == "SUCCEEDED"
    assert everything_is_mended(world)
    assert max(Counter(world.runs()).values()) <= 2


# ------------------------------------------------------------------ missed events


def orders(world: World) -> dict[str, str]:
    """Orders of Stripe's events, and their states."""
    return {row["event_id"]: row["state"] for row in world.table() if row["pk"].startswith("ORDER#evt_")}


def test_what_an_endpoint_has_not_taken_is_run_however_long_ago(world: World) -> None:
    world.billing.subscribe("cus_new", 3, email=address("new"))
    world.billing.tells("evt_old", "customer.subscription.created", of_subscription("cus_new"), taken=False)
    world.billing.tells("evt_taken", "customer.subscription.updated", of_subscription("cus_new"))
    world.clock.pass_by(29 * DAY)

    searched = world.search(find="events")

    assert searched.ended.path == (
        *("PlanReconciliation", "DecideSearch", "FindMissedEvents", "DecideEvents"),
        *DONE,
    )
    assert orders(world) == {"evt_old": "FULFILLED"}
    assert access(world, "new") == HAS_THREE
    assert (searched.report["events"], world.counted["MissedEvent"]) == (
        {"listed": 1, "missed": 1, "mapping_changed": False},
        1,
    )
    world.clock.pass_by(HOUR)
    assert world.search(find="events").report["events"]["missed"] == 0


def test_what_the_ledger_does_not_know_of_the_last_window_is_run(world: World) -> None:
    world.billing.subscribe("cus_new", 3, email=address("new"))
    for number, hours in enumerate((25, 23)):  # before the window and its overlap, and in it
        world.billing.tells(f"evt_{hours}", "customer.subscription.updated", of_subscription("cus_new"))
        world.billing.happened[number]["created"] -= hours * HOUR + HOUR // 2 * (hours == 25) + HOUR * (hours == 25)
    world.billing.tells("evt_young", "customer.subscription.updated", of_subscription("cus_new"))
    world.clock.pass_by(60)

    world.search(find="events")

    assert orders(world) == {"evt_23": "FULFILLED"}
    known = world.ledger.events_known_until()
    assert known == int(world.clock.now) - searches.SETTLED
    world.clock.pass_by(10 * DAY)
    world.search(find="events")  # begins where the last one ended
    assert orders(world) == {"evt_23": "FULFILLED", "evt_young": "FULFILLED"}
    assert world.ledger.events_known_until() == int(world.clock.now) - searches.SETTLED


def test_what_is_known_or_not_ours_is_not_run(world: World) -> None:
    sub = bought(world, "one")
    before = look(world)
    world.billing.tells("evt_1", "invoice.paid", {"id": "in_1"}, taken=False)  # has been run
    world.billing.tells("evt_live", "customer.subscription.updated", of_subscription("cus_one"), livemode=True)
    world.billing.tells("evt_connected", "customer.subscription.updated", of_subscription("cus_one"), account="acct_1")
    world.billing.tells("evt_other", "payout.paid", {"id": "po_1"}, taken=False)
    world.clock.pass_by(HOUR)

    searched = world.search(find="events")

    assert searched.report["events"]["missed"] == 0
    assert orders(world) == {"evt_1": "FULFILLED"}
    assert (changed_since(world, before), sub_of(world, "one")) == ((set(), set()), sub)


def test_a_missed_event_that_cannot_be_used_is_kept_for_an_operator(world: World) -> None:
    content = {**of_subscription("cus_new"), "customer": None}
    world.billing.tells("evt_strange", "customer.subscription.updated", content, taken=False)
    world.billing.tells("evt_unreadable", "customer.subscription.updated", {"id": None}, taken=False)
    world.clock.pass_by(HOUR)

    assert world.search(find="events").ended.status == "SUCCEEDED"

    assert orders(world) == {"evt_strange": "UNFULFILLED"}
    assert world.order("evt_strange")["last_error"].startswith("UnusableEvent: ")
    assert world.order("evt_strange")["attempts"] == 0


def change_of_mapping(world: World) -> None:
    """A price gives two dapps instead of one; nobody's subscription changes by it."""
    for name, customer in world.billing.customers.items():
        doubled = tuple(
            replace(each, items=tuple(replace(item, dapps="2") for item in each.items))
            for each in customer.subscriptions
        )
        world.billing.customers[name] = replace(customer, subscriptions=doubled)
    price = {"id": "price_dapp", "object": "price", "metadata": {"dapps": "2"}}
    data = {"object": price, "previous_attributes": {"metadata": {"dapps": "1"}}}
    world.billing.tells("evt_mapping", "price.updated", price, data=data)


def test_drift_is_looked_for_when_a_price_gives_another_number_of_dapps(world: World) -> None:
    payers(world, 2)
    world.clock.pass_by(HOUR)
    assert "ScanUsers" not in world.search(find="events").ended.path
    change_of_mapping(world)
    world.clock.pass_by(HOUR)

    searched = world.search(find="events")

    assert searched.report["events"]["mapping_changed"] is True
    assert kinds(searched) == {"wrong_limit": 2}
    assert [access(world, f"cus_many{number}") for number in range(2)] == [(True, "2", Live(True, 2))] * 2


def test_a_change_of_the_mapping_that_some_endpoint_never_takes_does_not_make_every_search_a_long_one(
    world: World,
) -> None:
    payers(world, 1)
    change_of_mapping(world)
    world.billing.undelivered.add("evt_mapping")
    world.clock.pass_by(HOUR)
    assert "ScanUsers" in world.search(find="events").ended.path
    world.clock.pass_by(10 * DAY)

    assert "ScanUsers" not in world.search(find="events").ended.path
    assert world.search().report["events"] == {"listed": 1, "missed": 0, "mapping_changed": False}


def test_nobody_has_bought_yet_what_a_new_price_gives(world: World) -> None:
    payers(world, 1)
    price = {"id": "price_new", "object": "price", "metadata": {"dapps": "9"}}
    world.billing.tells("evt_new_price", "price.created", price)
    world.clock.pass_by(HOUR)

    searched = world.search(find="events")

    assert "ScanUsers" not in searched.ended.path
    assert searched.report["events"] == {"listed": 1, "missed": 0, "mapping_changed": False}


def test_what_an_endpoint_has_not_taken_of_before_is_asked_for_by_the_search_for_everything(world: World) -> None:
    world.search(find="events")
    world.clock.pass_by(2 * DAY)
    world.search(find="events")
    world.billing.subscribe("cus_new", 3, email=address("new"))
    world.billing.tells("evt_late", "customer.subscription.updated", of_subscription("cus_new"), taken=False)
    world.billing.happened[-1]["created"] -= DAY
    world.clock.pass_by(HOUR)
    world.billing.pages.clear()

    assert world.search(find="events").report["events"]["listed"] == 0
    assert {name for name, _ in world.billing.pages} == {"events"}
    assert world.search(dry_run=True).report["events"]["missed"] == 1
    assert orders(world) == {}

    assert world.search().report["events"] == {"listed": 1, "missed": 1, "mapping_changed": False}
    assert orders(world) == {"evt_late": "FULFILLED"}
    assert access(world, "new") == HAS_THREE


# ------------------------------------------------------------------ an account and a pool that were there before


def existing(world: World) -> None:
    """A Stripe account and a user pool that know nothing of the gateway yet."""
    for name, status in (("old", "active"), ("ex", "canceled"), ("fresh", "active")):
        world.billing.subscribe(f"cus_{name}", 3, status=status, email=address(name))
    for name in ("old", "ex", "idle"):
        world.add_user(address(name), num_dapps="1", payment_status="VIP")
    sold_once(world, "cs_once", "once", None)
    world.clock.pass_by(40 * DAY)


def sold_once(world: World, session: str, name: str, customer: str | None, dapps: int = 2) -> None:
    """Stripe has a Checkout session of now, paid once."""
    now = int(world.clock.now)
    world.billing.purchases[session] = Purchase(session, "paid", (Item("price_dapp", dapps, "1"),), now)
    world.billing.sessions.append(
        {
            "id": session,
            "object": "checkout.session",
            "created": now,
            "mode": "payment",
            "status": "complete",
            "payment_status": "paid",
            "customer": customer,
            "customer_details": {"email": address(name), "name": "Markedgiven"},
            "livemode": False,
        }
    )


def test_customers_from_before_are_only_counted(world: World) -> None:
    existing(world)
    before = look(world)

    searched = world.search()

    assert (searched.ended.status, searched.found, world.runs()) == ("SUCCEEDED", {}, [])
    assert searched.report["drift"]["unadopted"] == 2
    assert changed_since(world, before) == (set(), set())


def test_a_backfill_shows_whom_it_would_adopt_then_adopts_them(world: World) -> None:
    world.governs()
    existing(world)
    before = look(world)
    adopted = sub_of(world, "old")

    shown = world.search(backfill=True, dry_run=True)

    assert changed_since(world, before) == (set(), set())
    expected = {"cus_old": "paid_without_access", "cus_fresh": "paid_without_access", "cs_once": "paid_without_access"}
    assert found(world, shown) == expected
    assert shown.report["backfill"] is True

    searched = world.search(backfill=True)

    assert found(world, searched).keys() == {"old", "fresh", "once"} or searched.found.keys() == shown.found.keys()
    assert {name: access(world, name)[:2] for name in ("old", "fresh", "once")} == {
        "old": (True, "3"),
        "fresh": (True, "3"),
        "once": (True, "2"),
    }
    assert sub_of(world, "old") == adopted
    for name in ("ex", "idle"):
        user = world.user(sub_of(world, name))
        assert (user.enabled, user.limit, user.status, user.disabled_by) == (True, "1", "VIP", "")
    world.clock.pass_by(HOUR)
    nothing_found(world)
    world.billing.change_status("cus_old", "canceled")
    world.clock.pass_by(HOUR)
    assert found(world, world.search()) == {"old": "access_without_payment"}
    assert access(world, "old") == HAS_NOTHING  # governed like one of our own


def test_an_adopted_user_who_has_stopped_is_governed_from_the_day_on_that_an_operator_says_so(world: World) -> None:
    an_adopted_user_who_has_stopped(world)
    nothing_found(world)
    world.governs()
    world.clock.pass_by(HOUR)

    assert found(world, world.search()) == {"stopped": "access_without_payment"}
    assert access(world, "stopped") == HAS_NOTHING


def test_a_dry_run_of_a_backfill_does_not_count_what_gives_nothing(world: World) -> None:
    """A session of another product."""
    existing(world)
    world.billing.purchases["cs_once"] = Purchase("cs_once", "paid", (Item("price_other", 2, None),), 1)
    assert "cs_once" not in world.search(backfill=True, dry_run=True).found
    assert "cs_once" not in world.search(backfill=True).found


@pytest.mark.parametrize("customer", [None, "cus_gone"])
def test_a_backfill_writes_nothing_of_a_deleted_account_down_again(world: World, customer: str | None) -> None:
    if customer is not None:
        world.billing.customers[customer] = Customer(customer, address("gone"), deleted=False, subscriptions=())
    once(world, "gone", "cs_gone", customer)
    sold_once(world, "cs_gone", "gone", customer)
    if customer is not None:
        sold_once(world, "cs_unheard", "gone", customer)  # whose event was missed
    world.clock.pass_by(HOUR)
    assert world.delete(address("gone")).status == "SUCCEEDED"
    world.waits.clear()
    world.clock.pass_by(HOUR)
    before = look(world)

    for dry_run in (True, False):
        searched = world.search(backfill=True, dry_run=dry_run)

        assert (searched.ended.status, searched.found) == ("SUCCEEDED", {})
        assert (changed_since(world, before), world.runs()) == ((set(), set()), [])
        assert "gone@" not in json.dumps(world.table(), default=str)
        world.clock.pass_by(HOUR)


def test_a_backfill_adopts_what_was_bought_after_a_deletion(world: World) -> None:
    world.billing.customers["cus_gone"] = Customer("cus_gone", address("gone"), deleted=False, subscriptions=())
    once(world, "gone", "cs_gone", "cus_gone")
    sold_once(world, "cs_gone", "gone", "cus_gone")
    world.clock.pass_by(HOUR)
    assert world.delete(address("gone")).status == "SUCCEEDED"
    world.waits.clear()
    world.clock.pass_by(HOUR)
    sold_once(world, "cs_again", "gone", "cus_gone", 5)
    world.clock.pass_by(HOUR)

    assert world.search(backfill=True).found == {"cus_gone": "paid_without_access"}
    assert access(world, "gone")[:2] == (True, "5")
