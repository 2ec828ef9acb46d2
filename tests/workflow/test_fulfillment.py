"""The stories of a person, told to the real machine: what happens at Stripe, and how their user stands then."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from gateway.access import MAX_INVITATIONS, Item, MarkKind, Purchase
from gateway.billing import Charged, Customer
from gateway.errors import PersonBusy, StripeKeyRejected, StripeUnavailable
from gateway.events import OrderItem
from gateway.events import Purchase as KnownPurchase
from gateway.ledger import CLOCK_SKEW, MAX_ATTEMPTS, DuePerson
from tests.local import moto_fixes
from tests.workflow.conftest import (
    ACCOUNT,
    EMAIL,
    NAME,
    NEW_EMAIL,
    REGION,
    World,
    first_purchase,
    invitation_expired,
    killed,
    lapse,
    new_address,
    purchase_with_a_users_email,
    recovery,
    upgrade,
)

LOOK = ("ReadBilling", "LookupUser", "DecideAccess")
DONE = (*LOOK, "MarkFulfilled", "Fulfilled")
FAILED = ("MarkUnfulfilled", "NotFulfilled")
RETRY_AFTER = 300  # RetryAfterSeconds' default


# ------------------------------------------------------------------ one person, one customer


def test_a_first_purchase_makes_the_user_once_and_links_them(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    order = world.receive()

    ended = world.run(order)

    assert (ended.status, ended.path) == ("SUCCEEDED", (*LOOK, "CreateUser", *DONE))
    user = world.user()
    assert user.enabled
    assert dict(user.attributes) == {
        "sub": user.sub,
        "email": EMAIL,
        "email_verified": "true",
        "custom:num_dapps": "3",
        "custom:payment_status": "ACTIVE",
        "custom:payment_provider": "STRIPE",
        "custom:stripe_customer_id": "cus_first",
    }
    assert world.ledger.party("cus_first").sub == user.sub
    person = world.ledger.person(user.sub)
    assert person is not None
    assert (person.parties, person.granted, person.before) == ({"cus_first"}, {"sub_cus_first": 3}, None)
    assert [mail.to for mail in moto_fixes.outbox if mail.user_pool_id == world.pool_id] == [EMAIL]


def test_a_fulfilled_order_tells_what_changed_and_why(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    order = world.receive()
    world.run(order)
    world.billing.subscribe("cus_first", 5)
    upgrade = world.receive()
    world.clock.pass_by(60)

    world.run(upgrade)

    row = world.order(upgrade.event_id)
    machine = f"arn:aws:states:{REGION}:{ACCOUNT}:execution:FulfillmentStateMachine"
    assert world.order(order.event_id)["before"] is None
    assert row["before"] == {"enabled": True, "dapp_limit": 3, "payment_status": "ACTIVE"}
    assert row["after"] == {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
    assert (row["state"], row["status"], row["outcome"]) == ("FULFILLED", "fulfilled", "enabled")
    assert (row["reason"], row["execution"]) == ("sub_cus_first active", f"{machine}:{upgrade.event_id}")
    assert row["fulfilled_at"] == world.clock.now
    assert not {"due", "due_at", "last_error"} & row.keys()


def test_five_events_of_one_purchase_make_one_user(world: World) -> None:
    world.billing.subscribe("cus_first", 3)

    orders = [world.receive() for _ in range(5)]
    ends = [world.run(order) for order in orders]

    assert [ended.status for ended in ends] == ["SUCCEEDED"] * 5
    assert world.cognito.calls.count("admin_create_user") == 1
    assert {world.order(order.event_id)["state"] for order in orders} == {"FULFILLED"}
    assert world.user().limit == "3"


def test_five_events_of_one_purchase_at_once_make_one_user(world: World) -> None:
    world.billing.subscribe("cus_first", 3)

    orders = [world.receive() for _ in range(5)]
    started = [world.start(order) for order in orders]
    ends = [world.wait_for(execution) for execution in started]

    assert [ended.status for ended in ends] == ["SUCCEEDED"] * 5
    assert {world.order(order.event_id)["state"] for order in orders} == {"FULFILLED"}
    assert world.user().limit == "3"


@pytest.mark.parametrize(("before", "after"), [(3, 7), (7, 3), (3, 0)])
def test_the_limit_follows_the_quantity_up_and_down(world: World, before: int, after: int) -> None:
    sub = world.add_payer(dapps=before)
    world.billing.subscribe("cus_first", after)

    ended = world.happens()

    assert ended.path == (*LOOK, "SetDappLimit", *DONE)
    assert (world.user(sub).limit, world.user(sub).enabled) == (str(after), True)
    assert world.cognito.writes == ["admin_update_user_attributes"]


def test_a_lapse_takes_everything_away(world: World) -> None:
    sub = world.add_payer()
    world.billing.change_status("cus_first", "canceled")

    ended = world.happens()

    assert ended.path == (*LOOK, "DisableUser", *DONE)
    user = world.user(sub)
    assert (user.enabled, user.limit, user.status, user.disabled_by) == (False, "0", "CANCELLED", "billing")
    # Who disabled is known before the disabling, and whoever is disabled has been signed out.
    assert world.cognito.writes == [
        "admin_update_user_attributes",
        "admin_user_global_sign_out",
        "admin_disable_user",
    ]


def test_a_renewal_after_a_lapse_gives_everything_back(world: World) -> None:
    sub = world.add_lapsed()
    world.billing.subscribe("cus_first", 4)

    ended = world.happens()

    assert ended.path == (*LOOK, "EnableUser", *DONE)
    user = world.user(sub)
    assert (user.enabled, user.limit, user.status, user.disabled_by) == (True, "4", "ACTIVE", "")
    assert world.cognito.writes == [
        "admin_update_user_attributes",
        "admin_enable_user",
        "admin_update_user_attributes",
    ]


def test_a_renewal_without_a_change_writes_nothing(world: World) -> None:
    world.add_payer()

    assert world.happens().path == DONE
    assert world.cognito.writes == []


def test_a_lapse_of_a_lapsed_user_writes_nothing(world: World) -> None:
    world.add_lapsed()

    assert world.happens().path == DONE
    assert world.cognito.writes == []


def test_a_lapsed_user_whose_status_changes_stays_disabled(world: World) -> None:
    sub = world.add_lapsed()
    world.billing.change_status("cus_first", "unpaid")

    assert world.happens().path == (*LOOK, "SetDappLimit", *DONE)
    assert (world.user(sub).enabled, world.user(sub).status) == (False, "FAILED")


def test_grace_keeps_the_limit_and_ends_by_itself(world: World) -> None:
    sub = world.add_payer()
    first_unpaid = int(world.clock.now)
    world.billing.change_status("cus_first", "past_due", first_unpaid=first_unpaid)

    world.happens()

    assert (world.user(sub).enabled, world.user(sub).status) == (True, "LAPSED")
    person = world.ledger.person(sub)
    assert person is not None
    assert person.recheck_at == first_unpaid + 72 * 3600
    world.clock.pass_by(72 * 3600)
    world.happens()
    assert (world.user(sub).enabled, world.user(sub).status) == (False, "FAILED")
    person = world.ledger.person(sub)
    assert person is not None
    assert person.recheck_at is None


def test_a_recheck_that_comes_a_second_early_is_not_lost(world: World) -> None:
    """RunDue and ReadBilling run on machines of their own, whose clocks differ."""
    world.add_payer()
    ends_at = int(world.clock.now) + 3600
    world.billing.change_status("cus_first", "active", ends_at=ends_at)
    world.happens()

    (person,) = world.due(ends_at)
    assert isinstance(person, DuePerson)
    recheck = world.receive()
    world.ledger.rechecked(person)
    world.clock.now = ends_at - 1
    world.run(recheck)

    assert world.due(ends_at) == [person]


@pytest.mark.parametrize("status", ["incomplete", "incomplete_expired", "canceled", "unpaid", "frozen_by_martians"])
def test_who_never_paid_never_gets_a_user(world: World, status: str) -> None:
    world.billing.subscribe("cus_first", 3, status=status)

    assert world.happens().path == DONE
    assert world.everybody() == []


@pytest.mark.parametrize("status", ["incomplete", "frozen_by_martians"])
def test_no_verdict_leaves_the_user_alone(world: World, status: str) -> None:
    sub = world.add_payer()
    before = world.user(sub)
    world.billing.change_status("cus_first", status)
    order = world.receive()

    assert world.run(order).path == DONE
    assert world.user(sub) == before
    assert world.cognito.writes == []
    assert world.order(order.event_id)["outcome"] == "left_alone"


# ------------------------------------------------------------------ people who are not billing's business


@pytest.mark.parametrize("status", ["active", "canceled"])
def test_a_user_disabled_by_a_person_stays_so(world: World, status: str) -> None:
    sub = world.add_payer()
    world.disable_by_hand(sub)
    before = world.user(sub)
    world.billing.subscribe("cus_first", 9, status=status)
    order = world.receive()

    assert world.run(order).path == (*LOOK, "SetLiveAccess", *DONE)
    assert world.user(sub) == before
    assert world.order(order.event_id)["outcome"] == "held"


def test_a_ban_while_lapsed_survives_the_next_payment(world: World) -> None:
    sub = world.add_lapsed()
    world.users.update(sub, disabled_by="operator")
    world.billing.subscribe("cus_first", 3)

    assert world.happens().path == DONE
    assert (world.user(sub).enabled, world.user(sub).disabled_by) == (False, "operator")


@pytest.mark.parametrize("linked", [(), ("cus_first",)])
@pytest.mark.parametrize("status", ["active", "canceled"])
def test_a_comped_user_is_never_touched(world: World, linked: tuple[str, ...], status: str) -> None:
    sub = world.add_user(linked=linked, num_dapps="50", payment_provider="ADMIN")
    before = world.user(sub)
    world.billing.subscribe("cus_first", 3, status=status)
    order = world.receive()

    assert world.run(order).path == DONE
    assert world.user(sub) == before
    assert world.order(order.event_id)["outcome"] == "comped"


def test_a_strangers_email_only_grants_and_is_taken_back(world: World) -> None:
    sub = world.add_user(num_dapps="1", payment_status="GIFT")
    world.billing.subscribe("cus_stranger", 3)
    before = world.user(sub)

    granted = world.happens("cus_stranger")

    assert granted.path == (*LOOK, "LinkUser", *LOOK, "SetDappLimit", *DONE)
    assert (world.user(sub).enabled, world.user(sub).limit, world.user(sub).status) == (True, "3", "ACTIVE")
    assert "custom:payment_provider" not in world.user(sub).attributes
    world.billing.change_status("cus_stranger", "canceled")
    taken = world.happens("cus_stranger")
    assert taken.path == (*LOOK, "SetDappLimit", *DONE)
    assert world.user(sub) == before
    assert "admin_disable_user" not in world.cognito.calls


@pytest.mark.parametrize("bought", [1, 10])
def test_a_strangers_purchase_never_lowers_an_existing_user(world: World, bought: int) -> None:
    sub = world.add_user(num_dapps="10", payment_status="ACTIVE")
    world.billing.subscribe("cus_stranger", bought)

    world.happens("cus_stranger")

    assert world.user(sub).limit == "10"


@pytest.mark.parametrize("status", ["canceled", "unpaid"])
def test_a_stranger_who_does_not_pay_is_not_even_linked(world: World, status: str) -> None:
    world.add_user(num_dapps="10")
    world.billing.subscribe("cus_stranger", 3, status=status)

    assert world.happens("cus_stranger").path == DONE
    assert world.cognito.writes == []
    assert world.ledger.party("cus_stranger").sub is None


def test_a_stranger_with_a_payers_email_takes_nothing_from_them(world: World) -> None:
    sub = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_stranger", 2)

    world.happens("cus_stranger")
    assert world.user(sub).limit == "5"

    world.billing.change_status("cus_stranger", "canceled")
    world.happens("cus_stranger")
    assert (world.user(sub).limit, world.user(sub).enabled) == ("3", True)


# ------------------------------------------------------------------ one person, several customers


def test_a_returning_buyer_joins_and_the_limits_are_summed(world: World) -> None:
    sub = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_second", 4)

    ended = world.happens("cus_second")

    assert ended.path == (*LOOK, "LinkUser", *LOOK, "SetDappLimit", *DONE)
    assert (world.user().sub, world.user().limit) == (sub, "7")
    person = world.ledger.person(sub)
    assert person is not None
    assert (person.parties, person.before) == ({"cus_first", "cus_second"}, None)


def test_a_returning_buyer_who_had_lapsed_is_enabled(world: World) -> None:
    sub = world.add_lapsed("cus_first")
    world.billing.subscribe("cus_second", 4)

    ended = world.happens("cus_second")

    assert ended.path == (*LOOK, "LinkUser", *LOOK, "EnableUser", *DONE)
    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "4")


def test_an_old_subscriptions_end_takes_only_its_own_units(world: World) -> None:
    sub = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_second", 4)
    world.happens("cus_second")
    world.billing.change_status("cus_first", "canceled")

    world.happens("cus_first")

    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "4")


def test_an_email_in_another_case_is_the_same_person(world: World) -> None:
    sub = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_shouting", 4, email=EMAIL.upper())

    world.happens("cus_shouting")

    assert (world.user().sub, world.user().limit) == (sub, "7")


def test_a_guests_purchase_makes_a_user_without_a_customer(world: World) -> None:
    world.billing.purchases["cs_guest"] = Purchase("cs_guest", "paid", (Item("price_dapp", 2, "1"),))
    bought = KnownPurchase("cs_guest", "session", 0, ())

    ended = world.happens(None, order_id="cs_guest", purchase=bought)

    assert ended.path == (*LOOK, "CreateUser", *DONE)
    assert world.user().limit == "2"
    assert "custom:stripe_customer_id" not in world.user().attributes
    assert world.ledger.party("cs_guest").sub == world.user().sub


def test_a_returned_legacy_order_takes_its_units_back(world: World) -> None:
    line = (Item("sku_dapp", 2, "1"),)
    for version, status in enumerate(["paid", "returned"]):
        world.billing.purchases["or_1"] = Purchase("or_1", status, line)
        bought = KnownPurchase("or_1", status, version, (OrderItem("sku_dapp", 2),))
        world.happens(None, order_id="or_1", purchase=bought)

    user = world.user()
    assert (user.enabled, user.limit, user.status) == (False, "0", "CANCELLED")


# ------------------------------------------------------------------ somebody else writes meanwhile


def test_a_user_made_by_somebody_else_at_the_same_moment_is_joined(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.cognito.before["admin_create_user"] = world.add_user  # Cognito answers UsernameExists

    ended = world.happens()

    assert ended.path == (*LOOK, "CreateUser", *LOOK, "LinkUser", *LOOK, "SetDappLimit", *DONE)
    assert world.user().limit == "3"


def test_a_user_deleted_by_hand_is_made_again_with_all_links(world: World) -> None:
    old = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_second", 4)
    world.happens("cus_second")
    world.delete_user(old)

    ended = world.happens("cus_first")

    assert ended.path == (*LOOK, "SetLiveAccess", *LOOK, "CreateUser", *DONE)
    new = world.user()
    assert (new.sub != old, new.limit) == (True, "7")
    assert {world.ledger.party(party).sub for party in ("cus_first", "cus_second")} == {new.sub}


def test_a_user_deleted_by_hand_stays_deleted_when_nobody_pays(world: World) -> None:
    world.delete_user(world.add_lapsed())
    order = world.receive()

    assert world.run(order).path == DONE
    assert world.everybody() == []
    assert world.order(order.event_id)["outcome"] == "no_user"


def test_a_user_deleted_while_being_written_is_made_again_by_the_next_run(world: World) -> None:
    sub = world.add_payer()
    world.billing.subscribe("cus_first", 5)
    world.cognito.before["admin_update_user_attributes"] = lambda: world.delete_user(sub)
    order = world.receive()

    ended = world.run(order)
    assert (ended.path[-2:], ended.error) == (FAILED, "UserMissing")

    world.clock.pass_by(RETRY_AFTER)
    assert world.runs_again(order).status == "SUCCEEDED"
    assert world.user().limit == "5"


@pytest.mark.parametrize(
    ("state", "arrange"),
    [
        ("LinkUser", purchase_with_a_users_email),
        ("DisableUser", lapse),
        ("EnableUser", recovery),
        ("SetDappLimit", upgrade),
    ],
)
def test_a_user_who_is_not_as_decided_on_is_not_written(
    world: World, state: str, arrange: Callable[[World], None]
) -> None:
    arrange(world)
    sub = world.user().sub
    # Somebody writes between the decision and the writer's lease; what is written at the next look is our answer.
    world.meanwhile(state, lambda: world.users.update(sub, dapp_limit=77))
    writes_by_then: list[int] = []
    world.meanwhile("LookupUser", lambda: None)
    world.meanwhile("LookupUser", lambda: writes_by_then.append(len(world.cognito.writes)))

    ended = world.happens()

    assert ended.path[:6] == (*LOOK, state, *LOOK[:2])
    assert writes_by_then == [0]
    assert ended.status == "SUCCEEDED"
    assert world.user().limit != "77"


def test_a_user_who_appears_before_they_are_made_is_not_made(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.meanwhile("CreateUser", world.add_user)

    ended = world.happens()

    assert ended.path == (*LOOK, "CreateUser", *LOOK, "LinkUser", *LOOK, "SetDappLimit", *DONE)
    assert "admin_create_user" not in world.cognito.calls


def test_a_run_that_never_gets_there_gives_up_after_ten_looks(world: World) -> None:
    sub = world.add_payer()
    for _ in range(20):
        world.meanwhile("LookupUser", lambda: world.users.update(sub, dapp_limit=99))
    order = world.receive()

    ended = world.run(order)

    assert (ended.status, ended.error, ended.path[-2:]) == ("FAILED", "DidNotConverge", FAILED)
    assert ended.path.count("LookupUser") == ended.path.count("SetDappLimit") == 10
    assert world.order(order.event_id)["last_error"].startswith("DidNotConverge: 10 looks")


def test_two_customers_of_a_user_deleted_by_hand_make_one_user(world: World) -> None:
    """Both runs are about to make the user again, each under the e-mail address of its own customer."""
    old = world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_second", 4)
    world.happens("cus_second")
    world.billing.subscribe("cus_second", 4, email="othermailbox@markeddomain.example")
    world.happens("cus_second")
    world.delete_user(old)

    def the_other_run_is_kept_out() -> None:
        subject = world.ledger.party("cus_second").subject
        with pytest.raises(PersonBusy), world.ledger.lease(subject, "another invocation", int(world.clock.now)):
            raise AssertionError("both runs may write")

    world.cognito.before["admin_create_user"] = the_other_run_is_kept_out
    world.happens("cus_first")

    assert len([user for user in world.everybody() if user.enabled]) == 1
    assert {world.ledger.party(each).sub for each in ("cus_first", "cus_second")} == {world.user().sub}


# ------------------------------------------------------------------ what speaks against a charge


MONTH = 30 * 86_400


def test_a_refund_finds_its_payer_and_takes_the_access_that_was_paid_for(world: World) -> None:
    sub = world.add_payer()
    ends_at = int(world.clock.now) + MONTH
    world.billing.marks[world.billing.charge("cus_first", until=ends_at)] = "refunded"
    order = world.marked()

    ended = world.run(order)

    assert ended.path == (*LOOK, "DisableUser", *DONE)
    user = world.user(sub)
    assert (user.enabled, user.limit, user.status) == (False, "0", "CANCELLED")
    row = world.order(order.event_id)
    assert (row["state"], row["status"], row["party"]) == ("FULFILLED", "returned", "cus_first")
    assert row["reason"] == "sub_cus_first active, but refunded (ch_cus_first)"
    # The next period is paid by another charge.
    back = world.rechecks()
    assert back is not None
    assert (world.clock.now, back.path) == (ends_at, (*LOOK, "EnableUser", *DONE))
    assert world.user(sub).limit == "3"


def test_a_refund_is_remembered_by_every_later_run(world: World) -> None:
    sub = world.add_payer()
    world.billing.marks[world.billing.charge("cus_first")] = "refunded"
    world.run(world.marked())

    assert world.happens().path == DONE
    assert not world.user(sub).enabled


def test_a_refund_of_a_guests_purchase_takes_it_back(world: World) -> None:
    world.billing.purchases["cs_guest"] = Purchase("cs_guest", "paid", (Item("price_dapp", 2, "1"),))
    world.happens(None, order_id="cs_guest", purchase=KnownPurchase("cs_guest", "session", 0, ()))
    world.billing.charges["ch_guest"] = Charged(None, "cs_guest", None)
    world.billing.marks["ch_guest"] = "refunded"

    ended = world.run(world.marked(charge="ch_guest"))

    assert ended.path == (*LOOK, "DisableUser", *DONE)
    assert not world.user().enabled


def test_a_refund_of_a_part_of_what_was_paid_takes_nothing(world: World) -> None:
    world.add_payer()
    charge = world.billing.charge("cus_first")
    world.billing.charges[charge] = replace(world.billing.charges[charge], whole=False)
    world.billing.marks[charge] = "refunded"

    assert world.run(world.marked()).path == DONE
    assert world.user().enabled


def test_a_refund_of_nobody_we_know_is_left_alone_and_closed(world: World) -> None:
    world.billing.charges["ch_till"] = Charged(None, None, None)
    order = world.marked(charge="ch_till")

    assert world.run(order).path == DONE
    row = world.order(order.event_id)
    assert (row["state"], row["outcome"], row["party"]) == ("FULFILLED", "left_alone", "ch_till")


# Event, its object, what Stripe says of it now, and the payer's status then (None: disabled).
MARKS: list[tuple[str, str, MarkKind | None, bool, str, int]] = [
    ("charge.refunded", "ch_cus_first", "refunded", False, "CANCELLED", 0),
    ("charge.refunded", "ch_cus_first", None, True, "ACTIVE", 0),  # in part
    ("refund.created", "re_1", "refunded", False, "CANCELLED", 0),
    ("charge.dispute.created", "dp_1", "disputed", True, "ACTIVE", 1),
    ("charge.dispute.closed", "dp_1", "dispute_lost", False, "FAILED", 0),
    ("charge.dispute.closed", "dp_1", None, True, "ACTIVE", 0),  # won
    ("radar.early_fraud_warning.created", "issfr_1", "fraud_warning", True, "ACTIVE", 1),
]


@pytest.mark.parametrize(("event_type", "name", "now", "enabled", "status", "alarms"), MARKS)
def test_each_mark_does_what_its_parameter_says_by_default(
    world: World, event_type: str, name: str, now: MarkKind | None, enabled: bool, status: str, alarms: int
) -> None:
    sub = world.add_payer()
    charge = world.billing.charge("cus_first")
    if now is not None:
        world.billing.marks[charge if now == "refunded" else name] = now

    ended = world.run(world.marked(event_type, order_id=name))

    assert ended.status == "SUCCEEDED"
    assert (world.user(sub).enabled, world.user(sub).status) == (enabled, status)
    assert world.counted["AccessAlarm"] == alarms


def test_access_returns_with_the_last_revoking_mark(world: World) -> None:
    sub = world.add_payer()
    charge = world.billing.charge("cus_first")
    world.billing.marks |= {charge: "refunded", "dp_1": "dispute_lost"}
    world.run(world.marked())
    world.run(world.marked("charge.dispute.closed", order_id="dp_1"))
    enabled = []

    for name in (charge, "dp_1"):
        del world.billing.marks[name]
        world.happens()
        enabled.append(world.user(sub).enabled)

    assert enabled == [False, True]


def test_a_refund_whose_run_failed_is_closed_by_the_payers_next_run(world: World) -> None:
    world.add_payer()
    world.billing.marks[world.billing.charge("cus_first")] = "refunded"
    order = world.marked()
    world.fail("LookupUser", "CognitoRejected")
    world.run(order)
    world.clock.pass_by(60)

    world.happens()

    assert not world.user().enabled
    assert world.order(order.event_id)["state"] == "FULFILLED"


def test_a_run_that_read_before_a_refund_was_known_does_not_close_it(world: World) -> None:
    """Stripe is slow to tell whose charge it is; a renewal's run reads meanwhile, and ends after the refund's died."""
    world.add_payer()
    world.billing.marks[world.billing.charge("cus_first")] = "refunded"
    order = world.marked()
    read_at: list[int] = []

    def the_renewal_reads() -> None:
        world.clock.pass_by(10)
        read_at.append(int(world.clock.now))
        world.clock.pass_by(10)

    world.billing.slowly = the_renewal_reads
    world.fail("LookupUser", "CognitoRejected")
    world.run(order)

    assert list(world.ledger.open_orders("cus_first", read_at[0] - CLOCK_SKEW)) == []
    assert list(world.ledger.open_orders("cus_first", int(world.clock.now) + 1)) == [order.event_id]


def test_a_customer_deleted_in_stripe_loses_access(world: World) -> None:
    sub = world.add_payer()
    world.happens()
    world.billing.customers["cus_first"] = Customer("cus_first", None, deleted=True, subscriptions=())

    assert world.happens().path == (*LOOK, "DisableUser", *DONE)
    assert (world.user(sub).enabled, world.user(sub).status) == (False, "CANCELLED")


# ------------------------------------------------------------------ invitations


def test_a_mail_that_did_not_leave_is_sent_again_an_hour_later_at_most_three_times(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    moto_fixes.mail.fail(99)
    bought_at = world.clock.now
    assert world.happens().path == (*LOOK, "CreateUser", *DONE)
    tries = []

    while (ended := world.rechecks()) is not None:
        assert ended.path == (*LOOK, "ResendInvitation", *DONE)
        tries.append(world.clock.now - bought_at)

    assert tries == [3600, 7200, 10800]
    assert world.counted["MailFailed"] == 4
    assert world.mails() == []


def test_a_mail_that_leaves_the_second_time_is_the_last(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    moto_fixes.mail.fail(1)
    world.happens()
    assert world.user().enabled

    world.rechecks()

    assert world.mails() == [True]
    assert world.rechecks() is None


def test_a_mail_that_waits_for_tomorrows_quota_does_not_count(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    moto_fixes.mail.fail(1)
    world.happens()
    moto_fixes.mail.exhaust(10)  # the client asks twice each time
    tries = 0

    while world.rechecks() is not None:
        tries += 1

    assert tries > MAX_INVITATIONS
    assert world.mails() == [True]
    assert world.person().invitation.resent == 1


def test_a_used_up_mail_quota_leaves_the_order_open_until_there_is_one(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    moto_fixes.mail.exhaust(2)  # the client asks twice
    order = world.receive()

    ended = world.run(order)

    assert (ended.path[-3:], ended.error) == (("CreateUser", *FAILED), "MailLimitReached")
    assert world.everybody() == []
    assert world.runs_again(order).status == "SUCCEEDED"
    assert world.mails() == [False]


def test_an_expired_invitation_is_sent_again_once_for_each_new_payment(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.happens()
    resent = []

    for days, known in (
        (6, {}),  # not expired yet
        (2, {"event_type": "customer.updated"}),  # no payment
        (0, {"order_id": "in_march"}),
        (0, {"order_id": "in_april"}),  # the new one is valid
        (8, {"order_id": "in_april"}),
        (8, {"order_id": "in_april"}),  # answered already
        (0, {"order_id": "in_may"}),
        (8, {"order_id": "in_june"}),  # three are enough
    ):
        world.clock.pass_by(days * 86_400)
        before = len(world.mails())
        world.happens(**known)
        resent.append(len(world.mails()) - before)

    assert resent == [0, 0, 1, 0, 1, 0, 1, 0]


@pytest.mark.parametrize("status", ["active", "canceled"])
def test_nobody_else_is_invited_again(world: World, status: str) -> None:
    """Neither who has signed in, nor who does not pay."""
    invitation_expired(world)
    if status == "active":
        world.signs_in(world.user().sub)
    world.billing.subscribe("cus_first", 3, status=status)

    assert "ResendInvitation" not in world.happens().path
    assert world.mails() == []


def test_an_invitation_killed_before_it_was_written_down_is_sent_twice_rather_than_never(world: World) -> None:
    invitation_expired(world)
    world.cognito.after["admin_create_user"] = killed

    world.happens()

    assert world.mails() == [True]
    world.rechecks()
    assert world.mails() == [True, True]
    assert world.rechecks() is None


# ------------------------------------------------------------------ a payer's new address


def test_a_user_follows_the_payers_new_address(world: World) -> None:
    new_address(world)
    sub = world.user().sub

    ended = world.happens()

    assert ended.path == (*LOOK, "ChangeEmail", *DONE)
    assert world.user(sub).attributes["email"] == NEW_EMAIL
    assert world.ledger.party("cus_first").claimed_email == NEW_EMAIL
    assert world.happens().path == DONE


def _nobody_follows(world: World) -> None:
    world.parameter("LookupUser", "FOLLOW", False)


def _somebody_has_it(world: World) -> None:
    world.add_user(NEW_EMAIL)


def _somebody_gets_it_first(world: World) -> None:
    world.cognito.before["admin_update_user_attributes"] = lambda: world.add_user(NEW_EMAIL)


def _a_second_customer_is_linked(world: World) -> None:
    world.billing.subscribe("cus_second", 0)
    world.ledger.link(["cus_second"], world.user().sub, replacing=None)


def _the_user_was_adopted(world: World) -> None:
    world.write_by_hand(world.user().sub, payment_provider="")


def _an_operator_gave_them_another_address(world: World) -> None:
    world.users.rename(world.user().sub, "thirdmailbox@markeddomain.example")


@pytest.mark.parametrize(
    ("but", "counted", "tried"),
    [
        (_nobody_follows, "EmailDiffers", False),
        (_somebody_has_it, "EmailConflict", False),
        (_somebody_gets_it_first, "EmailConflict", True),
        (_a_second_customer_is_linked, "EmailDiffers", False),
        (_the_user_was_adopted, "EmailDiffers", False),
        (_an_operator_gave_them_another_address, "EmailDiffers", False),
    ],
)
def test_an_address_that_is_not_followed_is_counted(
    world: World, but: Callable[[World], None], counted: str, tried: bool
) -> None:
    new_address(world)
    sub = world.user().sub
    but(world)
    before = world.user(sub).attributes["email"]

    ended = world.happens()

    assert ended.path == ((*LOOK, "ChangeEmail", *DONE) if tried else DONE)
    assert world.user(sub).attributes["email"] == before
    assert world.counted[counted] == 1


# ------------------------------------------------------------------ others are told of a change


BOUGHT, RAISED, LAPSED = (True, 3, "ACTIVE"), (True, 5, "ACTIVE"), (False, 0, "CANCELLED")


def test_a_first_purchase_is_told_without_the_address(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    order = world.receive()

    world.run(order)

    sub = world.user().sub
    assert world.bus.notices == [
        {
            "id": f"{sub}-1",
            "sub": sub,
            "customer": "cus_first",
            "before": None,
            "after": {"enabled": True, "dapp_limit": 3, "payment_status": "ACTIVE"},
            "reason": "sub_cus_first active",
            "event_id": order.event_id,
            "at": world.clock.now,
        }
    ]
    assert world.bus.messages == []


def test_each_notice_begins_where_the_one_before_it_ended(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.happens()
    world.happens()  # a renewal is no change
    world.billing.subscribe("cus_first", 5)
    world.happens()
    world.billing.change_status("cus_first", "canceled")
    world.happens()
    world.happens()
    world.billing.subscribe("cus_first", 3)
    world.happens()

    assert world.bus.changes == [(None, BOUGHT), (BOUGHT, RAISED), (RAISED, LAPSED), (LAPSED, BOUGHT)]
    assert [each["id"] for each in world.bus.notices] == [f"{world.user().sub}-{n}" for n in (1, 2, 3, 4)]


def test_a_burst_of_runs_tells_a_purchase_once(world: World) -> None:
    world.billing.subscribe("cus_first", 3)

    for execution in [world.start(world.receive()) for _ in range(5)]:
        assert world.wait_for(execution).status == "SUCCEEDED"

    assert world.bus.changes == [(None, BOUGHT)]


def test_a_change_that_somebody_else_told_meanwhile_is_not_told_again(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    stands = {"enabled": True, "dapp_limit": 3, "payment_status": "ACTIVE"}
    world.meanwhile("CreateUser", lambda: None)
    world.meanwhile("MarkFulfilled", lambda: world.ledger.told(world.user().sub, stands, 1))

    world.happens()

    assert world.bus.notices == []


def test_what_is_told_is_how_the_user_stands_when_it_is_told(world: World) -> None:
    """Somebody disables the user between the run's last look and its end."""
    world.add_payer()
    world.billing.subscribe("cus_first", 5)
    world.meanwhile("MarkFulfilled", lambda: world.disable_by_hand(world.user().sub))

    world.happens()
    assert world.bus.changes == [(BOUGHT, (False, 5, "ACTIVE"))]

    world.happens()
    assert len(world.bus.changes) == 1


def test_an_adopted_users_notices_begin_with_how_they_stood_before(world: World) -> None:
    world.add_user(num_dapps="1", payment_status="GIFT")
    world.billing.subscribe("cus_stranger", 3)
    world.happens("cus_stranger")
    world.billing.change_status("cus_stranger", "canceled")
    world.happens("cus_stranger")

    before = (True, 1, "GIFT")
    assert world.bus.changes == [(before, BOUGHT), (BOUGHT, before)]


def test_a_purchase_that_changes_nothing_for_an_adopted_user_is_not_told(world: World) -> None:
    world.add_user(num_dapps="10", payment_status="ACTIVE")
    world.billing.subscribe("cus_stranger", 3)

    assert world.happens("cus_stranger").path == (*LOOK, "LinkUser", *LOOK, "SetLiveAccess", *DONE)
    assert world.bus.notices == []


def test_while_nobody_can_be_told_the_order_stays_open_and_later_it_is_told_once(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.bus.error = EndpointConnectionError(endpoint_url="https://events.example.com")
    order = world.receive()

    ended = world.run(order)

    assert (ended.path[-3:], ended.error) == (("MarkFulfilled", *FAILED), "NoticeUnavailable")
    assert world.user().enabled  # who pays need not wait for those who listen
    assert world.order(order.event_id)["state"] == "UNFULFILLED"
    world.bus.error = None
    assert world.runs_again(order).path == DONE
    assert world.bus.changes == [(None, BOUGHT)]


def test_a_bus_that_is_not_there_is_an_error_at_once(world: World) -> None:
    first_purchase(world)
    world.bus.error = ClientError({"Error": {"Code": "ResourceNotFoundException"}}, "PutEvents")

    ended = world.happens()

    assert (ended.error, world.waits) == ("NoticeRejected", [])


def test_a_notice_whose_run_was_killed_is_told_again_under_the_same_id(world: World) -> None:
    first_purchase(world)
    deaths = [killed]

    def dies_once() -> None:
        if deaths:
            deaths.pop()()

    world.bus.then = dies_once

    assert world.happens().status == "SUCCEEDED"
    assert world.bus.changes == [(None, BOUGHT)] * 2
    assert {each["id"] for each in world.bus.notices} == {f"{world.user().sub}-1"}


def test_a_notice_whose_run_was_killed_comes_before_any_other(world: World) -> None:
    """Whoever hears the first of the two only once must not take the second for its repetition."""
    first_purchase(world)
    deaths = [killed]

    def dies_once() -> None:
        if deaths:
            world.meanwhile("MarkFulfilled", lambda: world.disable_by_hand(world.user().sub))
            deaths.pop()()

    world.bus.then = dies_once

    assert world.happens().status == "SUCCEEDED"
    assert world.bus.changes == [(None, BOUGHT), (None, BOUGHT), (BOUGHT, (False, 3, "ACTIVE"))]
    assert [each["id"][-2:] for each in world.bus.notices] == ["-1", "-1", "-2"]


def test_the_address_is_told_only_if_the_operator_says_so(world: World) -> None:
    world.parameter("MarkFulfilled", "WITH_EMAIL", True)
    first_purchase(world)

    world.happens()

    assert [each["email"] for each in world.bus.notices] == [EMAIL]


def test_the_older_contract_is_kept_where_there_is_a_topic(world: World) -> None:
    world.parameter("MarkFulfilled", "TOPIC", "topic")
    first_purchase(world)
    world.happens()
    world.happens()
    world.billing.change_status("cus_first", "canceled")
    world.happens()

    assert world.bus.messages == [
        {"event": "PAYMENT_STATUS", "status": status, "email": EMAIL} for status in ("ACTIVE", "CANCELLED")
    ]
    assert not any("email" in each for each in world.bus.notices)


# ------------------------------------------------------------------ what the operator decides


@pytest.mark.parametrize(("status", "counted"), [("active", 1), ("canceled", 0)])
def test_who_pays_without_getting_anything_for_it_is_counted(world: World, status: str, counted: int) -> None:
    held = world.add_payer("cus_held")
    world.disable_by_hand(held)
    world.add_user(NEW_EMAIL, linked=("cus_comped",), payment_provider="ADMIN")
    world.billing.subscribe("cus_held", 3, status=status)
    world.billing.subscribe("cus_comped", 3, status=status, email=NEW_EMAIL)

    for customer in ("cus_held", "cus_comped"):
        world.happens(customer)

    assert (world.counted["HeldPaying"], world.counted["CompedPaying"]) == (counted, counted)


def test_an_adopted_user_who_is_governed_is_treated_like_our_own(world: World) -> None:
    world.parameter("LookupUser", "GOVERN", True)
    sub = world.add_user(num_dapps="10", payment_status="ACTIVE")
    world.billing.subscribe("cus_first", 3)
    world.happens()
    assert world.user(sub).limit == "3"

    world.billing.change_status("cus_first", "canceled")
    assert world.happens().path == (*LOOK, "DisableUser", *DONE)
    assert (world.user(sub).enabled, world.user(sub).disabled_by) == (False, "billing")

    world.billing.subscribe("cus_first", 3)
    assert world.happens().path == (*LOOK, "EnableUser", *DONE)
    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "3")


def test_a_user_who_is_governed_is_not_taken_away_by_a_stranger_who_never_paid(world: World) -> None:
    world.parameter("LookupUser", "GOVERN", True)
    sub = world.add_user(num_dapps="10")
    world.billing.subscribe("cus_stranger", 3, status="canceled")

    assert world.happens("cus_stranger").path == DONE
    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "10")


# ------------------------------------------------------------------ killed in the middle


def test_a_lambda_killed_before_it_linked_the_new_user_is_healed_by_the_same_run(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.cognito.after["admin_create_user"] = killed

    ended = world.happens()

    # The dead one's lease has to expire first; then the user is found, and claimed.
    assert sum(world.waits) >= 30
    assert ended.path == (*LOOK, "CreateUser", *LOOK, "LinkUser", *LOOK, "SetLiveAccess", *DONE)
    assert world.cognito.calls.count("admin_create_user") == 1
    assert world.ledger.party("cus_first").sub == world.user().sub


def _killed_before_the_link(world: World) -> None:
    """A first run that dies for good between AdminCreateUser and the link, then half an hour."""
    world.billing.subscribe("cus_first", 3)
    world.cognito.after["admin_create_user"] = killed
    world.meanwhile("CreateUser", lambda: world.fail("CreateUser", "CognitoRejected"))
    ended = world.happens()
    assert (ended.path[-3:], ended.error) == (("CreateUser", *FAILED), "CognitoRejected")
    assert world.ledger.party("cus_first").sub is None
    world.clock.pass_by(1800)


def test_the_next_run_links_the_user_that_a_killed_run_made(world: World) -> None:
    _killed_before_the_link(world)

    ended = world.happens()

    assert ended.path == (*LOOK, "LinkUser", *LOOK, "SetLiveAccess", *DONE)
    person = world.ledger.person(world.user().sub)
    assert person is not None
    assert person.before is None  # ours, not adopted


def test_the_next_run_finds_that_user_although_the_customers_email_has_changed(world: World) -> None:
    _killed_before_the_link(world)
    world.billing.subscribe("cus_first", 3, email="othermailbox@markeddomain.example")

    ended = world.happens()

    assert ended.path == (*LOOK, "LinkUser", *LOOK, "SetLiveAccess", *DONE)
    assert world.user().attributes["email"] == EMAIL


def test_the_next_run_disables_that_user_when_the_payer_has_stopped(world: World) -> None:
    _killed_before_the_link(world)
    world.billing.change_status("cus_first", "canceled")

    ended = world.happens()

    assert ended.path == (*LOOK, "LinkUser", *LOOK, "DisableUser", *DONE)
    user = world.user()
    assert (user.enabled, user.limit, user.disabled_by) == (False, "0", "billing")


def test_a_claim_does_not_reach_a_user_that_somebody_else_made(world: World) -> None:
    world.billing.subscribe("cus_stranger", 3, status="canceled")
    world.ledger.claim_email("cus_stranger", EMAIL)
    sub = world.add_user(num_dapps="10")

    assert world.happens("cus_stranger").path == DONE
    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "10")


DISABLING = ("admin_update_user_attributes", "admin_user_global_sign_out", "admin_disable_user")
ENABLING = ("admin_update_user_attributes", "admin_enable_user")


@pytest.mark.parametrize(
    ("arrange", "call", "enabled"),
    [
        *((lapse, call, False) for call in DISABLING),
        *((recovery, call, True) for call in ENABLING),
    ],
)
def test_a_lambda_killed_after_any_write_is_healed_by_the_same_run(
    world: World, arrange: Callable[[World], None], call: str, enabled: bool
) -> None:
    arrange(world)
    world.cognito.after[call] = killed

    ended = world.happens()

    user = world.user()
    assert ended.status == "SUCCEEDED"
    assert (user.enabled, user.limit) == ((True, "3") if enabled else (False, "0"))
    assert user.disabled_by == ("" if enabled else "billing")
    if not enabled:
        assert "admin_user_global_sign_out" in world.cognito.calls


@pytest.mark.parametrize("call", DISABLING)
def test_a_payer_who_returns_after_a_half_done_disabling_has_access(world: World, call: str) -> None:
    lapse(world)
    world.cognito.after[call] = killed
    world.meanwhile("DisableUser", lambda: world.fail("DisableUser", "CognitoRejected"))
    assert world.happens().error == "CognitoRejected"
    world.clock.pass_by(1800)
    world.billing.subscribe("cus_first", 3)

    world.happens()

    user = world.user()
    assert (user.enabled, user.limit, user.disabled_by) == (True, "3", "")


# ------------------------------------------------------------------ orders


def test_a_run_closes_every_order_of_the_person_recorded_before_it(world: World) -> None:
    world.add_payer("cus_first", 3)
    world.billing.subscribe("cus_second", 4)
    world.happens("cus_second")
    left = [world.receive(customer) for customer in ("cus_first", "cus_second", "cus_first")]
    world.clock.pass_by(6)
    too_young = world.receive()

    ended = world.happens()

    assert {world.order(order.event_id)["state"] for order in left} == {"FULFILLED"}
    assert world.order(too_young.event_id)["state"] == "RECEIVED"
    assert '\\"closed\\": 4' in ended.traces


def test_a_run_closes_no_order_of_anybody_else(world: World) -> None:
    world.add_payer("cus_first", 3)
    other = world.receive("cus_arthur")
    world.clock.pass_by(60)

    world.happens("cus_first")

    assert world.order(other.event_id)["state"] == "RECEIVED"


def test_a_failed_order_is_due_again_with_growing_waits_and_never_given_up(world: World) -> None:
    world.billing.error = StripeKeyRejected("Stripe answered 401: check the key in Secrets Manager and its rights")
    order = world.receive()
    attempt, waits = order, []

    for number in range(1, MAX_ATTEMPTS + 3):
        ended = world.run(attempt)
        assert (ended.status, ended.error) == ("FAILED", "StripeKeyRejected")
        row = world.order(order.event_id)
        assert (row["state"], row["attempts"], row["status"]) == ("UNFULFILLED", number, "paid")
        assert row["last_error"].startswith("StripeKeyRejected: Stripe answered 401")
        assert row["execution"].endswith(f":{attempt.execution_name}")
        waits.append(int(row["due_at"]) - world.clock.now)
        world.clock.pass_by(waits[-1])
        again = world.ledger.next_attempt(attempt, int(world.clock.now))
        assert again is not None
        attempt = again

    assert waits == [300, 600, 1200, 2400, 4800, 9600, 19200, *[21600] * 6, *[86400] * 3]


def test_the_next_run_mends_a_failed_order(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.billing.error = StripeUnavailable("Stripe answered 503")
    order = world.receive()
    assert world.run(order).path == ("ReadBilling", *FAILED)
    world.billing.error = None

    assert world.runs_again(order).status == "SUCCEEDED"

    row = world.order(order.event_id)
    assert (row["state"], row["attempts"]) == ("FULFILLED", 2)
    assert "last_error" not in row


def test_an_order_fulfilled_meanwhile_is_not_reopened_by_a_late_failure(world: World) -> None:
    world.add_payer()
    order = world.receive()
    ending = {"execution": "another", "outcome": "enabled", "reason": "another run"}
    world.meanwhile("ReadBilling", lambda: world.fail("LookupUser", "CognitoRejected"))
    world.meanwhile("MarkUnfulfilled", lambda: world.ledger.close(order.event_id, 1, **ending))

    assert world.run(order).status == "FAILED"
    assert world.order(order.event_id)["state"] == "FULFILLED"


# ------------------------------------------------------------------ missing is not unpaid


def test_a_customer_that_stripe_does_not_know_keeps_the_access(world: World) -> None:
    sub = world.add_payer()
    del world.billing.customers["cus_first"]

    ended = world.happens()

    assert (ended.status, ended.error) == ("FAILED", "BillingIncomplete")
    assert (world.user(sub).enabled, world.user(sub).limit) == (True, "3")


def test_an_empty_list_where_a_subscription_was_is_an_error(world: World) -> None:
    sub = world.add_payer()
    world.happens()
    world.billing.customers["cus_first"] = Customer("cus_first", EMAIL, deleted=False, subscriptions=())

    ended = world.happens()

    assert (ended.status, ended.error) == ("FAILED", "BillingIncomplete")
    assert world.user(sub).enabled


@pytest.mark.parametrize("email", [None, "", "no at sign", "a" * 129 + "@markeddomain.example"])
def test_a_payer_without_a_usable_email_is_an_error_that_says_what_to_do(world: World, email: str | None) -> None:
    world.billing.subscribe("cus_first", 3, email=email)

    ended = world.happens()

    assert (ended.path, ended.error) == ((*LOOK, "CreateUser", *FAILED), "EmailUnusable")
    assert "set one in Stripe" in (ended.cause or "")


# ------------------------------------------------------------------ no personal data in the history


def _a_defect_that_quotes_the_email(world: World) -> None:
    world.billing.error = ValueError(f"cannot read {EMAIL} of {NAME}")


def _a_lambda_that_dies(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.cognito.after["admin_create_user"] = killed


def _an_unusable_email(world: World) -> None:
    world.billing.subscribe("cus_first", 3, email=f"{EMAIL}@{EMAIL}")


@pytest.mark.parametrize(
    "arrange",
    [
        first_purchase,
        purchase_with_a_users_email,
        lapse,
        recovery,
        upgrade,
        _a_lambda_that_dies,
        _a_defect_that_quotes_the_email,
        _an_unusable_email,
        invitation_expired,
        new_address,
    ],
)
def test_an_execution_leaves_no_personal_data_behind(world: World, arrange: Callable[[World], None]) -> None:
    arrange(world)

    traces = world.happens().traces.lower()

    assert "cus_first" in traces  # the whole history is there
    for words in (EMAIL, NAME):
        assert not [word for word in words.lower().replace("@", " ").split() if word in traces]


# ------------------------------------------------------------------ what a run costs


@pytest.mark.parametrize(
    ("arrange", "transitions"),
    [
        (World.add_payer, 5),
        (first_purchase, 9),
        (upgrade, 9),
        (lapse, 9),
        (recovery, 9),
        (invitation_expired, 9),
        (new_address, 9),
    ],
    ids=["renewal", "create", "limit change", "lapse", "recovery", "invitation", "new address"],
)
def test_a_run_takes_no_more_state_transitions_than_it_must(
    world: World, arrange: Callable[[World], object], transitions: int
) -> None:
    arrange(world)

    assert len(world.happens().path) == transitions


# ------------------------------------------------------------------ what a slower run may not undo


def test_an_older_run_does_not_delete_the_recheck_of_a_newer_one(world: World) -> None:
    """The older one read Stripe before the change, and finds nothing missing after the newer one has settled."""
    world.add_payer("cus_first", 3)
    older = world.receive()
    ends_at = int(world.clock.now) + 3600

    def a_newer_run_comes_first() -> None:
        person = world.ledger.person(world.user().sub)
        assert person is not None
        world.ledger.settle(
            person.sub, read_at=int(world.clock.now) + 10, recheck_at=ends_at, granted={"sub_cus_first": 3}
        )

    world.meanwhile("MarkFulfilled", a_newer_run_comes_first)
    assert world.run(older).status == "SUCCEEDED"
    person = world.ledger.person(world.user().sub)
    assert person is not None
    assert person.recheck_at == ends_at


def test_an_order_of_a_customer_whose_billing_was_not_read_stays_open(world: World) -> None:
    """A second customer is linked while the first one's run is about to close orders."""
    world.add_payer("cus_first", 3)
    other = world.receive("cus_second")
    world.clock.pass_by(60)
    run = world.receive("cus_first")
    world.meanwhile("MarkFulfilled", lambda: world.ledger.link(["cus_second"], world.user().sub, replacing=None))
    assert world.run(run).status == "SUCCEEDED"
    assert world.order(other.event_id)["state"] == "RECEIVED"
