"""RULES case 10: two runs of one person, every interleaving of their reads and writes, with a kill at every point.

One of the two may be the deletion of their account.

Each scenario is explored completely (tests/workflow/machine.py). The last tests take a protection out and see the
exploration find the harm that it prevents.
"""

from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import ANY

import pytest

from gateway import telemetry
from gateway.access import Live, User, live
from gateway.events import Mark
from gateway.ledger import Party, Person
from gateway.step import shape
from tests.workflow.machine import (
    CHARGE,
    DELETION,
    EMAIL,
    LONG_AGO,
    TOMBSTONE,
    FakeLedger,
    Handlers,
    Scenario,
    World,
    explore,
    request_deletion,
)


def no_user(status: str = "active", quantity: int = 3) -> World:
    return World(stripe={"cus_1": (EMAIL, ((status, quantity, LONG_AGO),))})


def with_user(status: str, quantity: int, user: User) -> World:
    world = no_user(status, quantity)
    world.users["sub-0"] = (EMAIL, user)
    world.parties["cus_1"] = Party("cus_1", "sub-0", EMAIL, EMAIL, subscribed=True)
    allowed = Live(True, user.dapp_limit) if user.enabled else Live()
    known = Person("sub-0", frozenset({"cus_1"}), granted={"cus_1:sub_0": 3}, told=shape(user.facts()), live=allowed)
    world.people["sub-0"] = known
    return world


ENABLED = User(True, "sub-0", enabled=True, provider="STRIPE", dapp_limit=3, payment_status="ACTIVE")
LAPSED = User(True, "sub-0", disabled_by="billing", provider="STRIPE", dapp_limit=0, payment_status="CANCELLED")


def subscribe(world: World) -> None:
    world.stripe["cus_1"] = (EMAIL, (("canceled", 3, LONG_AGO), ("active", 5, LONG_AGO)))


def cancel(world: World) -> None:
    world.stripe["cus_1"] = (EMAIL, (("canceled", 3, LONG_AGO),))


def raise_to_five(world: World) -> None:
    world.stripe["cus_1"] = (EMAIL, (("active", 5, LONG_AGO),))


def deleted_by_hand() -> World:
    """Two customers with addresses of their own are linked to a user who is gone."""
    world = World(
        {"cus_1": (EMAIL, (("active", 3, LONG_AGO),)), "cus_2": ("other@example.com", (("active", 2, LONG_AGO),))}
    )
    for customer, (email, _) in world.stripe.items():
        world.parties[customer] = Party(customer, "sub-gone", email, email, subscribed=True)
    linked = frozenset({"cus_1", "cus_2"})
    world.people["sub-gone"] = Person("sub-gone", linked, granted={"cus_1:sub_0": 5}, live=Live(True, 5))
    return world


def return_as_new_customer(world: World) -> None:
    world.stripe["cus_2"] = (EMAIL, (("active", 2, LONG_AGO),))


def change_email(world: World) -> None:
    world.stripe["cus_1"] = ("other@example.com", world.stripe["cus_1"][1])


def ban(world: World) -> None:
    email, user = world.users["sub-0"]
    world.users["sub-0"] = (email, replace(user, enabled=False, disabled_by="operator"))


def hold(world: World) -> None:
    """POST /hold, under the lease."""
    hold_the_row(world)
    ban(world)


def hold_the_row(world: World) -> None:
    """The same, killed after its first write."""
    world.people["sub-0"] = replace(world.people["sub-0"], held={}, live=Live())


def lift(world: World) -> None:
    """POST /hold with false, under the lease: as functions/hold_user.py lifts."""
    email, user = world.users["sub-0"]
    world.users["sub-0"] = (email, replace(user, disabled_by="" if user.enabled else "billing"))
    world.people["sub-0"] = replace(world.people["sub-0"], held=None)


def banned_and_enabled(disabled_by: str) -> World:
    """Banned by an operator, and enabled by somebody in the console."""
    user = replace(ENABLED, disabled_by=disabled_by)
    world = with_user("active", 3, user)
    told = shape(replace(user, enabled=False).facts())
    world.people["sub-0"] = replace(world.people["sub-0"], held={}, live=Live(), told=told)
    return world


def is_held(world: World) -> bool:
    return is_banned(world) and world.people["sub-0"].held is not None


def is_refused(world: World) -> bool:
    return world.people["sub-0"].held is not None and world.people["sub-0"].live == Live()


def is_banned(world: World) -> bool:
    user = world.users["sub-0"][1]
    return not user.enabled and user.disabled_by == "operator"


def refund(world: World) -> None:
    world.refunded = True


def nothing(world: World) -> None:
    """The second event tells nothing new."""


def has(dapps: int, *, users: int = 1, mails: int = 0) -> Callable[[World], bool]:
    def right(world: World) -> bool:
        user = world.users["sub-0"][1]
        enabled = user.enabled and user.disabled_by == "" and user.payment_status == "ACTIVE"
        return enabled and user.dapp_limit == dapps and len(world.users) == users and world.mails == mails

    return right


def has_nothing(world: World) -> bool:
    user = world.users["sub-0"][1]
    return not user.enabled and user.disabled_by == "billing" and user.dapp_limit == 0


def nobody_has_access(world: World) -> bool:
    return not any(user.enabled for _, user in world.users.values())


RENEWED = Scenario(
    "canceled, then subscribed again", lambda: with_user("canceled", 3, ENABLED), "cus_1", "cus_1", subscribe, has(5)
)
BANNED = Scenario(
    "paid again, then banned by a person",
    lambda: with_user("active", 3, LAPSED),
    "cus_1",
    "cus_1",
    ban,
    is_banned,
    under_lease=True,
    by_hand=True,
)
LIFTED = Scenario(
    "banned and enabled by hand, then the ban is lifted",
    lambda: banned_and_enabled(""),
    "cus_1",
    "cus_1",
    lift,
    has(3),
    under_lease=True,
)
BOUGHT = Scenario("one purchase, two events", no_user, "cus_1", "cus_1", nothing, has(3, mails=1))
REFUNDED = Scenario(
    "raised, then refunded", lambda: with_user("active", 5, ENABLED), "cus_1", CHARGE, refund, has_nothing
)
HALF_HELD = Scenario(
    "raised, then half held", lambda: with_user("active", 5, ENABLED), "cus_1", "cus_1", hold_the_row, is_refused
)
SCENARIOS = [
    RENEWED,
    BANNED,
    Scenario(
        "lapsed, then subscribed again", lambda: with_user("active", 3, LAPSED), "cus_1", "cus_1", cancel, has_nothing
    ),
    Scenario("raised, then canceled", lambda: with_user("active", 5, ENABLED), "cus_1", "cus_1", cancel, has_nothing),
    Scenario(
        "raised, then held", lambda: with_user("active", 5, ENABLED), "cus_1", "cus_1", hold, is_held, under_lease=True
    ),
    HALF_HELD,
    LIFTED,
    Scenario(
        "banned, enabled by hand and signed by nobody else, then the ban is lifted",
        lambda: banned_and_enabled("operator"),
        "cus_1",
        "cus_1",
        lift,
        has(3),
        under_lease=True,
    ),
    Scenario(
        "banned and enabled by hand, twice looked at",
        lambda: banned_and_enabled(""),
        "cus_1",
        "cus_1",
        nothing,
        is_held,
    ),
    Scenario(
        "banned and enabled by hand, then canceled",
        lambda: banned_and_enabled(""),
        "cus_1",
        "cus_1",
        cancel,
        is_held,
    ),
    Scenario("raised twice", lambda: with_user("active", 4, ENABLED), "cus_1", "cus_1", raise_to_five, has(5)),
    BOUGHT,
    Scenario("two customers, one address", no_user, "cus_1", "cus_2", return_as_new_customer, has(5, mails=1)),
    Scenario(
        "two customers of a user deleted by hand",
        deleted_by_hand,
        "cus_1",
        "cus_2",
        nothing,
        has(5, mails=1),
        by_hand=True,
    ),
    REFUNDED,
    Scenario("bought, then refunded", no_user, "cus_1", CHARGE, refund, nobody_has_access),
    Scenario("one customer, two addresses (case 29)", no_user, "cus_1", "cus_1", change_email, has(3, mails=1)),
]


# ------------------------------------------------------------------ deletions


def recorded(world: World, *parties: str) -> World:
    """Each of these has an order that names the buyer."""
    for number, party in enumerate(parties, 1):
        world.orders[f"evt_{number}"] = (party, LONG_AGO, True)
    return world


def known_customer() -> World:
    """The ledger has heard of the customer; no user was made yet."""
    world = no_user()
    world.parties["cus_1"] = Party("cus_1", None, EMAIL, subscribed=True)
    return recorded(world, "cus_1")


def unlisted_customer() -> World:
    """The customer's address is written in another way at Stripe; the ledger has an order of theirs, without it."""
    world = no_user()
    world.unlisted = frozenset({"cus_1"})
    return world


def second_customer() -> World:
    """A user and their customer; and another customer with the same address, who is linked to nobody yet."""
    world = with_user("active", 3, ENABLED)
    return_as_new_customer(world)
    return recorded(world, "cus_2", "cus_1")


def requested(world: World) -> World:
    request_deletion(world)
    return world


def buys_again(world: World) -> None:
    """After the deletion was asked for."""
    email, subscriptions = world.stripe["cus_1"]
    world.stripe["cus_1"] = (email, (*subscriptions, ("active", 5, world.clock)))
    late_event(world)


def buys_again_as_new_customer(world: World) -> None:
    world.stripe["cus_2"] = (EMAIL, (("active", 5, world.clock),))
    world.orders["evt_2"] = ("cus_2", world.clock, True)
    world.clock += 1


def late_event(world: World) -> None:
    """An event that tells nothing new of the deleted account, recorded after the deletion was asked for."""
    world.orders["evt_2"] = ("cus_1", world.clock, True)
    world.clock += 1


def deletion_is_done(world: World) -> bool:
    """Nothing bought before is billed any more, nobody of then is there, and no row names them."""
    deletion = world.tombstones[TOMBSTONE]
    old = [
        status
        for _, subscriptions in world.stripe.values()
        for status, _, created in subscriptions
        if created <= deletion.deleted_at
    ]
    names = [order for order in world.orders.values() if order[2] and order[1] <= deletion.deleted_at]
    # A run that was killed between taking an attempt up and starting it leaves it to whoever asks for it next.
    over = deletion.state == "DONE" or deletion.execution_name not in world.executions
    return (
        over
        and deletion.email is None
        and set(old) <= {"canceled"}
        and names == []
        and not world.starting
        and not any(party.deleting for party in world.parties.values())
        and all(person.erased for person in world.people.values() if person.deleted_at is not None)
    )


def gone(world: World) -> bool:
    """And nobody has come back."""
    anonymous = all((each.email, each.claimed_email, each.sub) == (None,) * 3 for each in world.parties.values())
    nameless = not any(order[2] for order in world.orders.values())
    return deletion_is_done(world) and anonymous and nameless and not world.users


def came_back(customer: str) -> Callable[[World], bool]:
    """And there is exactly one new user, with what was bought since; or nobody, if that was before it began."""

    def right(world: World) -> bool:
        bought = max(created for _, subscriptions in world.stripe.values() for _, _, created in subscriptions)
        if bought <= world.tombstones[TOMBSTONE].deleted_at:  # asked for before, but the deletion began later
            return gone(world)
        [(sub, (email, user))] = world.users.items() if len(world.users) == 1 else [("", ("", User(exists=False)))]
        enabled = user.enabled and user.disabled_by == "" and (user.payment_status, user.dapp_limit) == ("ACTIVE", 5)
        person = world.people.get(sub)
        alive = person is not None and person.deleted_at is None and person.parties == {customer}
        linked = {name for name, party in world.parties.items() if party.sub is not None}
        mails = world.mails == 1
        return deletion_is_done(world) and email == EMAIL and enabled and alive and linked == {customer} and mails

    return right


PURCHASE_DELETED = Scenario(
    "bought for the first time, then deleted",
    lambda: recorded(no_user(), "cus_1"),
    "cus_1",
    DELETION,
    request_deletion,
    gone,
)
RECOVERY_DELETED = Scenario(
    "paid again, then deleted",
    lambda: recorded(with_user("active", 3, LAPSED), "cus_1"),
    "cus_1",
    DELETION,
    request_deletion,
    gone,
)
LINK_DELETED = Scenario(
    "bought as a second customer, then deleted", second_customer, "cus_2", DELETION, request_deletion, gone
)
BOUGHT_AGAIN = Scenario(
    "deleted, then bought again",
    lambda: requested(recorded(with_user("active", 3, ENABLED), "cus_1")),
    DELETION,
    "cus_1",
    buys_again,
    came_back("cus_1"),
)
KNOWN_DELETED = Scenario(
    "bought for the first time, known, then deleted", known_customer, "cus_1", DELETION, request_deletion, gone
)
UNLISTED_DELETED = Scenario(
    "bought with an address that Stripe does not find, then deleted",
    unlisted_customer,
    "cus_1",
    DELETION,
    request_deletion,
    gone,
)
DELETIONS = [
    PURCHASE_DELETED,
    RECOVERY_DELETED,
    LINK_DELETED,
    BOUGHT_AGAIN,
    KNOWN_DELETED,
    UNLISTED_DELETED,
    Scenario(
        "raised, then deleted",
        lambda: recorded(with_user("active", 5, ENABLED), "cus_1"),
        "cus_1",
        DELETION,
        request_deletion,
        gone,
    ),
    Scenario(
        "canceled, then deleted",
        lambda: recorded(with_user("canceled", 3, ENABLED), "cus_1"),
        "cus_1",
        DELETION,
        request_deletion,
        gone,
    ),
    Scenario(
        "deleted, then a late event",
        lambda: requested(recorded(with_user("active", 3, ENABLED), "cus_1")),
        DELETION,
        "cus_1",
        late_event,
        gone,
    ),
    Scenario(
        "deleted, then bought again as a new customer",
        lambda: requested(recorded(with_user("active", 3, ENABLED), "cus_1")),
        DELETION,
        "cus_2",
        buys_again_as_new_customer,
        came_back("cus_2"),
    ),
]


@pytest.fixture(autouse=True)
def quiet(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a million log lines and metrics help nobody."""
    silent = SimpleNamespace(**dict.fromkeys(("append_keys", "info", "warning", "error"), lambda *_, **__: None))
    monkeypatch.setattr("gateway.step.logger", silent)
    for module in handlers.values():
        if hasattr(module, "logger"):
            monkeypatch.setattr(module, "logger", silent)
    monkeypatch.setattr(telemetry.metrics.provider, "flush_metrics", lambda **_: None)
    monkeypatch.setattr(telemetry.metrics, "add_metric", lambda *_: None)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_interleaving_ends_at_stripes_truth(scenario: Scenario, handlers: Handlers) -> None:
    result = explore(scenario, handlers)
    assert result.ends > 0
    assert result.wrong == []


# Whoever buys again makes a third run, and with it millions of states.
WITHOUT_KILLS = [
    pytest.param(each, id=each.name, marks=[pytest.mark.exhaustive] if "then bought again" in each.name else [])
    for each in DELETIONS
]


@pytest.mark.parametrize("scenario", WITHOUT_KILLS)
def test_every_interleaving_with_a_deletion_ends_right(scenario: Scenario, handlers: Handlers) -> None:
    result = explore(scenario, handlers, patient=True)
    assert result.ends > 0
    assert result.wrong == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("scenario", DELETIONS, ids=lambda scenario: scenario.name)
def test_every_interleaving_with_a_deletion_and_a_kill_at_every_point_ends_right(
    scenario: Scenario, handlers: Handlers
) -> None:
    result = explore(scenario, handlers, kills=1)
    assert result.ends > 0
    assert result.wrong == []


# Two customers make millions of states with a kill: minutes, so they are explored by `make test-exhaustive`.
WITH_KILLS = [
    pytest.param(each, id=each.name, marks=[pytest.mark.exhaustive] if each.then is return_as_new_customer else [])
    for each in SCENARIOS
]


@pytest.mark.parametrize("scenario", WITH_KILLS)
def test_every_interleaving_with_a_kill_at_every_point_ends_at_stripes_truth(
    scenario: Scenario, handlers: Handlers
) -> None:
    result = explore(scenario, handlers, kills=1)
    assert result.ends > 0
    assert result.wrong == []


def test_without_the_lease_a_payer_ends_disabled_for_ever(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeLedger, "acquire", lambda self, subject, owner, now: None)
    locked_out = explore(RENEWED, handlers, until_wrong=True).wrong
    assert locked_out, "the exploration cannot see the race that the lease closes"


def test_without_reading_the_user_again_under_the_lease_harm_is_done(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    unread = SimpleNamespace(facts=lambda: ANY)
    monkeypatch.setattr(handlers["EnableUser"], "user_of", lambda party, users: unread)
    assert explore(BANNED, handlers, until_wrong=True).wrong, "the exploration cannot see what the second look prevents"


def test_without_the_claim_a_killed_creation_leaves_a_user_nobody_owns(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLedger, "claim_email", lambda self, party, email: None)
    scenario = next(each for each in SCENARIOS if "case 29" in each.name)
    assert explore(scenario, handlers, kills=1, until_wrong=True).wrong, (
        "the exploration cannot see two users of one customer"
    )


def test_without_the_lease_a_purchase_is_told_twice(handlers: Handlers, monkeypatch: pytest.MonkeyPatch) -> None:
    acquire = FakeLedger.acquire

    def only_to_write_to_the_user(self: FakeLedger, subject: str, owner: str, now: int) -> None:
        if subject not in self.world.users:  # once the user is there, nothing is left to do but tell it
            acquire(self, subject, owner, now)

    monkeypatch.setattr(FakeLedger, "acquire", only_to_write_to_the_user)
    assert explore(BOUGHT, handlers, until_wrong=True).wrong, "the exploration cannot see two notices of one change"


def test_a_notice_that_is_not_written_down_first_is_followed_by_one_that_contradicts_it(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLedger, "telling", lambda self, sub, notice: None)
    assert explore(BANNED, handlers).wrong == []
    assert explore(BANNED, handlers, kills=1, until_wrong=True).wrong, "the exploration cannot see notices out of order"


def test_a_refund_that_is_assigned_before_it_is_remembered_is_lost(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run, which does not know of it, closes its order; then the one that was to keep it is killed."""
    remember, assign = FakeLedger.remember_mark, FakeLedger.assign

    def assign_instead(self: FakeLedger, party: str, mark: Mark) -> None:
        assign(self, "evt_2", party, 0)

    def remember_instead(self: FakeLedger, event_id: str, party: str, now: int) -> None:
        remember(self, party, Mark(CHARGE, "refund", CHARGE, "cus_1:sub_0"))

    monkeypatch.setattr(FakeLedger, "remember_mark", assign_instead)
    monkeypatch.setattr(FakeLedger, "assign", remember_instead)
    assert explore(REFUNDED, handlers).wrong == []
    assert explore(REFUNDED, handlers, kills=1, until_wrong=True).wrong, (
        "the exploration cannot see a refund that nobody applies"
    )


def test_without_asking_whether_the_account_was_deleted_since_somebody_comes_back(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user is still as the run saw them: there was none."""
    monkeypatch.setattr(handlers["CreateUser"], "as_seen", lambda run, party, user: user.facts() == run.seen)
    assert explore(KNOWN_DELETED, handlers, until_wrong=True).wrong, "the exploration cannot see who comes back"


def test_without_the_tombstone_of_the_address_a_user_is_made_after_the_deletion(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The customer is not part of the deleted account, as far as its deletion knows."""
    monkeypatch.setattr(handlers["CreateUser"], "tombstone_id", lambda email, key: "another address")
    assert explore(UNLISTED_DELETED, handlers, until_wrong=True).wrong, "the exploration cannot see who comes back"


def test_without_the_condition_of_a_link_a_deleted_user_is_linked_again(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeLedger, "links_to_the_dead", True)
    assert explore(LINK_DELETED, handlers, until_wrong=True).wrong, "the exploration cannot see a link to the dead"


def test_burying_without_the_lease_brings_back_who_was_deleted(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer who has asked a moment ago writes after the burial."""
    acquire = FakeLedger.acquire

    def not_to_bury(self: FakeLedger, subject: str, owner: str, now: int) -> None:
        if not owner.startswith("evt_2/"):
            acquire(self, subject, owner, now)

    monkeypatch.setattr(FakeLedger, "acquire", not_to_bury)
    assert explore(PURCHASE_DELETED, handlers, until_wrong=True).wrong, "the exploration cannot see the race"


def test_a_party_that_turns_up_late_does_not_stand_for_the_whole_account(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ResumeDeletion may come before WriteTombstone has looked for what belongs to the account."""
    monkeypatch.setattr(
        FakeLedger, "join_late", lambda self, tombstone, party: self.join_deletion(tombstone, frozenset({party}))
    )
    assert explore(LINK_DELETED, handlers, until_wrong=True).wrong, "the exploration cannot see whom it forgets"


def test_without_telling_the_authorizer_first_it_lets_in_whom_cognito_refuses(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell = FakeLedger.set_live

    def later(self: FakeLedger, sub: str, live: Live, *more: Any, **signs_out: bool) -> None:
        if live.active or not self.world.users[sub][1].enabled:
            tell(self, sub, live, *more)

    monkeypatch.setattr(FakeLedger, "set_live", later)
    assert explore(REFUNDED, handlers, until_wrong=True).wrong, "the exploration cannot see who is let in meanwhile"


def test_without_asking_for_a_ban_a_run_lets_in_who_is_banned_by_half(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers["LookupUser"], "live", lambda *facts, banned: live(*facts, banned=False))
    assert explore(HALF_HELD, handlers, until_wrong=True).wrong, "the exploration cannot see a ban that is undone"


def test_without_asking_again_under_the_lease_a_ban_that_was_lifted_is_renewed(
    handlers: Handlers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payer would be disabled in an operator's name, which only an operator ever undoes."""
    monkeypatch.setattr(handlers["DisableUser"], "_banned", lambda sub: True)
    assert explore(LIFTED, handlers, until_wrong=True).wrong, "the exploration cannot see a ban that is renewed"
