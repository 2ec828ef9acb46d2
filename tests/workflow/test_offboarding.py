"""The deletion of an account, told to the real machine: what is gone then, what stays, and what comes afterwards."""

import json
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.access import Item, Purchase
from gateway.errors import StripeUnavailable
from gateway.events import Purchase as KnownPurchase
from gateway.ledger import ATTEMPT_SECONDS, Attempt
from gateway.people import tombstone_id
from tests.workflow.conftest import (
    EMAIL,
    HASH_KEY,
    NAME,
    NEW_EMAIL,
    Ended,
    World,
    bought_before_the_deletion,
    definition,
    first_purchase,
    invitation_expired,
    lapse,
    new_address,
    purchase_with_a_users_email,
    recovery,
    told,
    upgrade,
)

STATES = definition("offboarding")["States"]
TASKS = [name for name, state in STATES.items() if state["Type"] == "Task"]
LOOK = ("FindRemains", "DecideRemoval")
DONE = (*LOOK, "MarkDeleted", "ConfirmDeletion", "Deleted")
CANCELED = (*LOOK, "CancelSubscriptions")
USER_GONE = (*LOOK, "DeleteUser")
ERASED = (*LOOK, "ErasePersonalData", "AwaitIndexes")
FAILED = ("MarkNotDeleted", "NotDeleted")
FULFILLMENT_LOOK = ("ReadBilling", "LookupUser", "DecideAccess")
CLOSED = (*FULFILLMENT_LOOK, "MarkFulfilled", "Fulfilled")


def account(world: World) -> str:
    """A payer with orders and dapps that name them, and a guest's purchase with their address; the payer's sub."""
    sub = world.add_payer()
    for dapp in ("markeddomain", "markedgiven"):
        assert world.ledger.reserve_dapp(sub, dapp, int(world.clock.now))
    world.receive(metadata={"note": NAME})
    world.billing.purchases["cs_guest"] = Purchase("cs_guest", "paid", (Item("price_dapp", 2, "1"),), 1)
    world.receive(None, order_id="cs_guest", purchase=KnownPurchase("cs_guest", "session", 0, ()))
    world.clock.pass_by(60)
    return sub


def personal(*texts: object) -> set[str]:
    """Which marks of a person are in there."""
    text = json.dumps(texts, default=str).lower()
    return {mark for mark in ("mailbox", "markeddomain", "markedgiven", "markedfamily") if mark in text}


def assert_deleted(world: World, email: str = EMAIL) -> None:
    """Nobody, nothing billed, nothing known."""
    tombstone = world.tombstone(email)
    assert (tombstone.state, tombstone.email, tombstone.last_error) == ("DONE", None, None)
    assert world.everybody() == []
    assert {status for customer in world.billing.customers for status in world.billing.statuses(customer).values()} <= {
        "canceled"
    }
    assert personal(world.table()) == set()


def row(world: World, pk: str) -> dict[str, Any]:
    (found,) = [each for each in world.table() if each["pk"] == pk]
    return found


# ------------------------------------------------------------------ whole deletions


def test_a_deletion_takes_everything(world: World) -> None:
    sub = account(world)
    deleted_at = int(world.clock.now)

    ended = world.delete()

    assert (ended.status, ended.path) == (
        "SUCCEEDED",
        ("WriteTombstone", *CANCELED, *USER_GONE, *ERASED, *DONE),
    )
    assert_deleted(world)
    assert world.billing.canceled == ["sub_cus_first"]
    assert world.cognito.writes == ["admin_user_global_sign_out", "admin_disable_user", "admin_delete_user"]
    assert personal(ended.traces) == set()
    assert world.counted["AccountDeleted"] == 1
    tombstone = world.tombstone()
    assert (tombstone.deleted_at, tombstone.canceled, tombstone.sub) == (deleted_at, 1, sub)
    assert tombstone.parties == {"cus_first", "cs_guest"}
    for name in ("cus_first", "cs_guest"):
        party = world.ledger.party(name)
        assert (party.deleted_at, party.tombstone, party.sub) == (deleted_at, tombstone.id, None)
        assert (party.deleting, party.email, party.claimed_email) == (False, None, None)
    assert row(world, f"PERSON#{sub}") == {
        "pk": f"PERSON#{sub}",
        "sk": "PERSON",
        "sub": sub,
        "deleted_at": deleted_at,
        "erased": True,
    }
    assert not [each for each in world.table() if each["sk"] == "LEASE"]


def test_others_are_told_of_the_end_while_the_address_is_still_known(world: World) -> None:
    sub = account(world)
    world.parameter("DeleteUser", "TOPIC", "topic")

    world.delete()

    (notice,) = world.bus.notices
    assert (notice["sub"], notice["reason"]) == (sub, "the account was deleted")
    assert (told(notice["before"]), notice["after"]) == ((True, 3, "ACTIVE"), None)
    assert world.bus.messages == [{"event": "PAYMENT_STATUS", "status": "CANCELLED", "email": EMAIL}]


def test_who_lives_from_a_first_purchase_is_deleted_with_all_orders(world: World) -> None:
    first_purchase(world)
    world.happens()
    world.billing.subscribe("cus_second", 1)
    world.happens("cus_second", metadata={"note": NAME})
    world.clock.pass_by(60)

    assert world.delete().status == "SUCCEEDED"

    assert_deleted(world)
    assert sorted(world.billing.canceled) == ["sub_cus_first", "sub_cus_second"]
    assert world.bus.changes[-1] == ((True, 4, "ACTIVE"), None)
    orders = [each for each in world.table() if each["sk"] == "ORDER"]
    assert {(each["state"], each["amount"]) for each in orders} == {("FULFILLED", 1000)}  # the books stay


def _never_paid(world: World) -> None:
    world.billing.subscribe("cus_first", 3, status="incomplete")
    world.happens()


def _guest_only(world: World) -> None:
    world.billing.purchases["cs_guest"] = Purchase("cs_guest", "paid", (Item("price_dapp", 2, "1"),), 1)
    world.happens(None, order_id="cs_guest", purchase=KnownPurchase("cs_guest", "session", 0, ()))


def _guest_without_user(world: World) -> None:
    world.billing.purchases["cs_guest"] = Purchase("cs_guest", "open", ())
    world.happens(None, order_id="cs_guest", purchase=KnownPurchase("cs_guest", "session", 0, ()))


def _user_without_purchases(world: World) -> None:
    world.add_user()


def _adopted(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user()
    world.happens()


def _comped(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user(linked=("cus_first",), payment_provider="ADMIN")
    world.happens()


def _held(world: World) -> None:
    world.disable_by_hand(world.add_payer())
    world.happens()


def _banned_by_an_operator(world: World) -> None:
    sub = world.add_payer()
    world.disable_by_hand(sub)
    world.write_by_hand(sub, disabled_by="operator")
    world.ledger.hold(sub, {"reason": NAME, "requested_by": "somebody", "at": 1})
    world.happens()


def _deleted_by_hand(world: World) -> None:
    sub = world.add_payer()
    world.happens()
    world.delete_user(sub)


def _only_stripe_knows(world: World) -> None:
    world.billing.subscribe("cus_first", 3)


def _stopped_before_the_link(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.ledger.claim_email("cus_first", EMAIL)
    world.add_user(payment_provider="STRIPE")


def _customer_deleted_at_stripe(world: World) -> None:
    world.add_payer()
    customer = world.billing.customers["cus_first"]
    world.billing.cancel("sub_cus_first", "")
    world.billing.canceled.clear()
    world.billing.customers["cus_first"] = type(customer)("cus_first", None, deleted=True, subscriptions=())


@pytest.mark.parametrize(
    "arrange",
    [
        _never_paid,
        _guest_only,
        _guest_without_user,
        _user_without_purchases,
        _adopted,
        _comped,
        _held,
        _banned_by_an_operator,
        _deleted_by_hand,
        _only_stripe_knows,
        _stopped_before_the_link,
        _customer_deleted_at_stripe,
        World.add_lapsed,
        first_purchase,
        purchase_with_a_users_email,
        invitation_expired,
    ],
)
def test_every_kind_of_account_can_be_deleted(world: World, arrange: Callable[[World], object]) -> None:
    arrange(world)
    world.clock.pass_by(60)

    ended = world.delete()

    assert ended.status == "SUCCEEDED"
    assert_deleted(world)
    assert personal(ended.traces) == set()


def test_a_subscription_that_has_ended_is_left_as_it_is(world: World) -> None:
    world.add_lapsed()

    assert "CancelSubscriptions" not in world.delete().path
    assert (world.billing.canceled, world.tombstone().canceled) == ([], 0)


def test_a_subscription_to_another_product_is_left_alone(world: World) -> None:
    world.add_payer()
    world.billing.add_subscription("cus_first", "sub_newsletter", mapped=False)

    assert world.delete().status == "SUCCEEDED"

    assert world.billing.statuses() == {"sub_cus_first": "canceled", "sub_newsletter": "active"}
    assert world.happens().path == CLOSED
    assert world.everybody() == []


def test_every_subscription_of_every_customer_is_canceled_once(world: World) -> None:
    world.add_payer()
    world.billing.add_subscription("cus_first", "sub_more")
    world.billing.add_subscription("cus_first", "sub_trial", status="trialing")
    world.billing.add_subscription("cus_first", "sub_late", status="past_due")
    world.billing.subscribe("cus_unheard", 1)

    assert world.delete().status == "SUCCEEDED"

    assert sorted(world.billing.canceled) == ["sub_cus_first", "sub_cus_unheard", "sub_late", "sub_more", "sub_trial"]
    assert world.tombstone().canceled == 5
    assert_deleted(world)


# ------------------------------------------------------------------ whose account


def another_payer_with_this_address(world: World) -> tuple[str, str]:
    """Somebody else has typed the address into Checkout once; the subs of both."""
    first = world.add_payer()
    other = world.add_user(NEW_EMAIL, linked=("cus_other",), num_dapps="1", payment_status="ACTIVE")
    world.billing.subscribe("cus_other", 1, email=NEW_EMAIL)
    world.receive("cus_other", email=EMAIL)
    return first, other


def test_who_is_meant_must_be_said_where_an_address_leads_to_several(world: World) -> None:
    first, other = another_payer_with_this_address(world)

    ended = world.delete()

    assert (ended.status, ended.error, ended.path) == ("FAILED", "AccountAmbiguous", ("WriteTombstone", *FAILED))
    assert first in (ended.cause or "")
    assert other in (ended.cause or "")
    assert personal(ended.traces) == set()
    assert len(world.everybody()) == 2
    assert world.billing.canceled == []


def test_who_is_meant_can_be_said_afterwards(world: World) -> None:
    first, other = another_payer_with_this_address(world)
    world.delete()

    assert world.delete(sub=first).status == "SUCCEEDED"

    assert [each.sub for each in world.everybody()] == [other]
    assert (world.tombstone().state, world.tombstone().sub) == ("DONE", first)


def test_a_customer_who_is_linked_to_another_user_stays(world: World) -> None:
    first, other = another_payer_with_this_address(world)

    assert world.delete(sub=first).status == "SUCCEEDED"

    assert [each.sub for each in world.everybody()] == [other]
    assert world.billing.canceled == ["sub_cus_first"]
    party = world.ledger.party("cus_other")
    assert (party.sub, party.deleted_at, party.deleting) == (other, None, False)


def test_an_order_of_a_moment_ago_is_forgotten_too(world: World) -> None:
    """Recorded while the deletion was looking: its customer is known, its address is not told to anybody."""
    world.add_payer()
    late = []
    world.meanwhile("DeleteUser", lambda: late.append(world.receive()))

    assert world.delete().status == "SUCCEEDED"

    (order,) = late
    world.clock.pass_by(60)
    assert world.run(order).status == "SUCCEEDED"
    assert world.order(order.event_id)["outcome"] == "deleted"
    assert_deleted(world)


# ------------------------------------------------------------------ what comes afterwards


def test_a_late_event_of_a_deleted_account_is_closed_and_forgotten(world: World) -> None:
    account(world)
    world.delete()
    world.clock.pass_by(60)
    writes = len(world.cognito.writes)
    order = world.receive(metadata={"note": NAME})

    ended = world.run(order)

    assert (ended.status, ended.path) == ("SUCCEEDED", CLOSED)
    found = world.order(order.event_id)
    assert (found["state"], found["outcome"]) == ("FULFILLED", "deleted")
    assert not {"email", "name", "metadata"} & found.keys()
    assert len(world.cognito.writes) == writes
    assert_deleted(world)
    assert personal(ended.traces) == set()


def test_a_late_event_of_a_deleted_guest_is_closed_and_forgotten(world: World) -> None:
    account(world)
    world.delete()
    world.clock.pass_by(60)
    order = world.receive(None, order_id="cs_guest", purchase=KnownPurchase("cs_guest", "session", 1, ()))

    assert world.run(order).path == CLOSED
    assert world.order(order.event_id)["outcome"] == "deleted"
    assert_deleted(world)


def test_a_late_refund_of_a_deleted_account_is_closed_and_forgotten(world: World) -> None:
    account(world)
    world.billing.marks[world.billing.charge("cus_first")] = "refunded"
    world.delete()
    world.clock.pass_by(60)
    order = world.marked()

    assert world.run(order).path == CLOSED
    assert world.order(order.event_id)["outcome"] == "deleted"
    assert_deleted(world)


def test_a_guest_nobody_knew_who_bought_before_is_forgotten(world: World) -> None:
    account(world)
    world.delete()
    world.billing.purchases["cs_late"] = Purchase("cs_late", "paid", (Item("price_dapp", 2, "1"),), 1)
    world.clock.pass_by(60)
    order = world.receive(None, order_id="cs_late", purchase=KnownPurchase("cs_late", "session", 0, ()))

    assert world.run(order).path == CLOSED
    assert world.order(order.event_id)["outcome"] == "deleted"
    assert_deleted(world)


def test_orders_that_were_open_when_the_account_was_deleted_are_closed_as_such(world: World) -> None:
    world.add_payer()
    world.fail("LookupUser", "CognitoRejected")
    order = world.receive()
    world.run(order)
    world.clock.pass_by(60)
    world.delete()
    world.clock.pass_by(600)

    assert world.runs_again(order).status == "SUCCEEDED"
    assert world.order(order.event_id)["outcome"] == "deleted"
    assert_deleted(world)


def test_what_was_bought_before_by_a_customer_nobody_knew_goes_as_well(world: World) -> None:
    bought_before_the_deletion(world)
    deleted_at = world.tombstone().deleted_at
    order = world.receive()

    ended = world.run(order)
    resumed = world.resumed()

    assert ended.path == (*FULFILLMENT_LOOK, "ResumeDeletion", "DecideAccess", "MarkFulfilled", "Fulfilled")
    assert resumed.status == "SUCCEEDED"
    assert world.billing.statuses() == {"sub_cus_first": "canceled"}
    assert "admin_create_user" not in world.cognito.calls
    assert world.order(order.event_id)["outcome"] == "deleted"
    tombstone = world.tombstone()
    assert (tombstone.deleted_at, tombstone.attempts) == (deleted_at, 2)
    assert "cus_first" in tombstone.parties
    assert_deleted(world)
    assert personal(ended.traces, resumed.traces) == set()
    world.clock.pass_by(60)
    assert world.happens().path == CLOSED


def test_two_customers_nobody_knew_are_both_taken_by_one_deletion(world: World) -> None:
    bought_before_the_deletion(world)
    world.billing.subscribe("cus_second", 1, created=world.tombstone().deleted_at - 1)
    started = [world.start(world.receive(name)) for name in ("cus_first", "cus_second")]

    assert [world.wait_for(execution).status for execution in started] == ["SUCCEEDED"] * 2
    world.ends()

    assert {*world.billing.statuses("cus_first").values(), *world.billing.statuses("cus_second").values()} == {
        "canceled"
    }
    assert_deleted(world)


def test_a_deletion_that_failed_is_taken_up_by_what_comes_late(world: World) -> None:
    bought_before_the_deletion(world)
    world.fail("CancelSubscriptions", "StripeRejected")
    world.happens()
    assert world.resumed().error == "StripeRejected"
    world.clock.pass_by(60)

    assert "ResumeDeletion" in world.happens().path
    assert world.resumed().status == "SUCCEEDED"
    assert_deleted(world)


def test_who_buys_again_after_the_deletion_gets_a_new_user(world: World) -> None:
    old = account(world)
    world.delete()
    world.clock.pass_by(60)
    world.billing.add_subscription("cus_first", "sub_again", 2)

    ended = world.happens()

    assert ended.path == (*FULFILLMENT_LOOK, "CreateUser", *CLOSED)
    user = world.user()
    assert (user.sub != old, user.limit, user.enabled) == (True, "2", True)
    assert world.ledger.party("cus_first").sub == user.sub
    assert world.billing.statuses() == {"sub_cus_first": "canceled", "sub_again": "active"}
    assert world.bus.changes[-1] == (None, (True, 2, "ACTIVE"))
    world.clock.pass_by(60)
    assert world.happens().path == CLOSED


def test_a_new_customer_of_a_deleted_address_gets_a_new_user(world: World) -> None:
    account(world)
    world.delete()
    world.clock.pass_by(60)
    world.billing.subscribe("cus_second", 2)

    assert world.happens("cus_second").path == (*FULFILLMENT_LOOK, "CreateUser", *CLOSED)
    assert (world.user().limit, world.ledger.party("cus_second").sub) == ("2", world.user().sub)


def _the_same_customer(world: World) -> str:
    world.billing.add_subscription("cus_first", "sub_again", 2)
    return "cus_first"


def _another_customer(world: World) -> str:
    world.billing.subscribe("cus_second", 2)
    return "cus_second"


@pytest.mark.parametrize("buys", [_the_same_customer, _another_customer])
def test_who_buys_while_the_account_is_being_deleted_gets_a_new_user_when_that_is_done(
    world: World, buys: Callable[[World], str]
) -> None:
    old = account(world)
    world.fail("DeleteUser", "CognitoRejected")
    world.delete()
    world.clock.pass_by(60)
    order = world.receive(buys(world))

    ended = world.run(order)

    assert (ended.error, ended.path[-2:]) == ("DeletionUnderWay", ("MarkUnfulfilled", "NotFulfilled"))
    found = world.order(order.event_id)
    assert (found["state"], found["due_at"]) == ("UNFULFILLED", int(world.clock.now) + 300)
    assert [each.sub for each in world.everybody()] == [old]
    assert world.delete().status == "SUCCEEDED"
    assert world.everybody() == []
    world.clock.pass_by(300)
    assert world.runs_again(order).path == (*FULFILLMENT_LOOK, "CreateUser", *CLOSED)
    assert (world.user().sub != old, world.user().limit) == (True, "2")
    assert world.billing.canceled == ["sub_cus_first"]


def test_who_bought_again_meanwhile_is_looked_at_once_more_by_itself(world: World) -> None:
    """Their event may have been fulfilled by a run that gave it to the user who is gone now."""
    account(world)
    world.fail("DeleteUser", "CognitoRejected")
    world.delete()
    world.clock.pass_by(60)
    _the_same_customer(world)

    assert world.delete().status == "SUCCEEDED"

    assert world.everybody() == []
    (recheck,) = [
        each
        for each in world.due(world.clock.now + ATTEMPT_SECONDS)
        if isinstance(each, Attempt) and each.event_id.startswith("recheck")
    ]
    assert recheck.order_id == "cus_first"
    assert world.runs_again(recheck).path == (*FULFILLMENT_LOOK, "CreateUser", *CLOSED)
    assert world.user().limit == "2"


def test_a_new_user_of_the_address_outlives_the_rest_of_the_deletion(world: World) -> None:
    account(world)
    world.fail("ErasePersonalData", "LedgerRejected")
    world.delete()
    world.clock.pass_by(60)
    assert world.happens(_another_customer(world)).status == "SUCCEEDED"

    assert world.delete().status == "SUCCEEDED"

    assert (world.user().limit, world.billing.statuses("cus_second")) == ("2", {"sub_cus_second": "active"})
    assert world.ledger.party("cus_second").sub == world.user().sub
    world.clock.pass_by(60)
    assert world.happens("cus_second").path == CLOSED


def test_an_account_that_bought_again_can_be_deleted_again(world: World) -> None:
    account(world)
    world.delete()
    first = world.tombstone()
    world.clock.pass_by(60)
    world.billing.add_subscription("cus_first", "sub_again", 2)
    world.happens()
    world.clock.pass_by(60)
    again = int(world.clock.now)

    ended = world.delete()

    assert (ended.status, ended.path) == (
        "SUCCEEDED",
        ("WriteTombstone", *CANCELED, *USER_GONE, *ERASED, *DONE),
    )
    assert_deleted(world)
    tombstone = world.tombstone()
    assert (tombstone.deleted_at, tombstone.canceled, tombstone.attempts) == (again, 1, 2)
    assert tombstone.sub != first.sub
    assert world.ledger.party("cus_first").deleted_at == again
    world.clock.pass_by(60)
    assert world.happens().path == CLOSED


def test_a_deletion_of_nothing_more_ends_at_once(world: World) -> None:
    account(world)
    world.delete()
    world.clock.pass_by(60)

    assert world.delete().status == "SUCCEEDED"
    assert_deleted(world)


# ------------------------------------------------------------------ runs that read before the deletion


def test_what_comes_late_does_not_end_a_deletion_that_does_not_know_the_account_yet(world: World) -> None:
    sub = account(world)
    world.fail("WriteTombstone", "StripeRejected")
    world.delete()
    world.billing.subscribe("cus_late", 1, created=int(world.clock.now) - 1)
    world.clock.pass_by(60)

    assert "ResumeDeletion" in world.happens("cus_late").path
    assert world.resumed().status == "SUCCEEDED"

    assert world.tombstone().sub == sub
    assert_deleted(world)


def _tombstone(world: World) -> None:
    """The deletion begins: what its first state does, at this very moment."""
    world.clock.pass_by(1)
    tombstone = tombstone_id(EMAIL, HASH_KEY)
    taken = world.ledger.begin_deletion(
        tombstone, None, int(world.clock.now), email=EMAIL, sub=None, requested_by="somebody"
    )
    assert taken is not None
    world.handlers["WriteTombstone"].handler(
        {"execution": "arn:deletion", "run": dict(taken.execution_input)},
        SimpleNamespace(function_name="WriteTombstoneFunction", aws_request_id="deletion"),
    )


@pytest.mark.parametrize(
    ("writer", "arrange"),
    [
        ("CreateUser", first_purchase),
        ("LinkUser", purchase_with_a_users_email),
        ("EnableUser", recovery),
        ("DisableUser", lapse),
        ("SetDappLimit", upgrade),
        ("ResendInvitation", invitation_expired),
        ("ChangeEmail", new_address),
    ],
)
def test_no_writer_believes_what_was_so_before_the_deletion(
    world: World, writer: str, arrange: Callable[[World], object]
) -> None:
    arrange(world)
    world.cognito.calls.clear()
    world.meanwhile(writer, lambda: _tombstone(world))
    order = world.receive()

    ended = world.run(order)

    assert writer in ended.path
    assert ended.status == "SUCCEEDED"
    assert world.order(order.event_id)["outcome"] == "deleted"
    if "ResumeDeletion" not in ended.path:
        world.offboarding.start(world.tombstone())
    assert world.resumed().status == "SUCCEEDED"
    assert set(world.cognito.writes) <= {"admin_user_global_sign_out", "admin_disable_user", "admin_delete_user"}
    assert world.everybody() == []
    assert {*world.billing.statuses().values()} == {"canceled"}


def test_a_customer_nobody_knew_who_read_before_the_deletion_makes_nobody(world: World) -> None:
    """Only the lease and the tombstone of the address say so: the deletion has never heard of the customer."""
    account(world)
    world.billing.subscribe("cus_second", 2, email=NEW_EMAIL)
    order = world.receive("cus_second", email=NEW_EMAIL)

    def deleted() -> None:
        tombstone = tombstone_id(NEW_EMAIL, HASH_KEY)
        world.clock.pass_by(1)
        now = int(world.clock.now)
        world.ledger.begin_deletion(tombstone, None, now, email=NEW_EMAIL, sub=None, requested_by="somebody")

    world.meanwhile("CreateUser", deleted)

    ended = world.run(order)

    assert ended.path[3:5] == ("CreateUser", "ReadBilling")
    assert "admin_create_user" not in world.cognito.calls
    assert world.resumed(NEW_EMAIL).status == "SUCCEEDED"
    assert world.billing.statuses("cus_second") == {"sub_cus_second": "canceled"}
    assert len(world.everybody()) == 1


def test_more_that_turns_up_while_the_end_is_written_down_is_looked_for_again(world: World) -> None:
    account(world)
    world.billing.subscribe("cus_late", 1, email=NEW_EMAIL)
    world.meanwhile("MarkDeleted", lambda: world.ledger.join_late(world.tombstone().id, "cus_late"))

    ended = world.delete()

    assert (ended.status, ended.path.count("MarkDeleted")) == ("SUCCEEDED", 2)
    assert world.billing.statuses("cus_late") == {"sub_cus_late": "canceled"}


# ------------------------------------------------------------------ what goes wrong


def arranged(world: World, state: str) -> None:
    account(world)
    if state == "MarkNotDeleted":
        world.fail("FindRemains", "StripeRejected")


def takes_up(world: World) -> Ended:
    """POST /delete, once the attempt before has ended or counts as dead."""
    world.clock.pass_by(ATTEMPT_SECONDS)
    return world.delete()


@pytest.mark.parametrize("state", TASKS)
def test_any_other_error_is_caught_at_once_and_kept(world: World, state: str) -> None:
    arranged(world, state)
    world.fail(state, "SomethingNobodyNamed")

    ended = world.delete()

    first = "StripeRejected" if state == "MarkNotDeleted" else "SomethingNobodyNamed"
    assert (ended.status, ended.error) == ("FAILED", first)
    assert (ended.path[-2:], world.waits) == (FAILED, [])
    assert "injected" in (ended.cause or "")
    tombstone = world.tombstone()
    if state == "MarkNotDeleted":
        assert (tombstone.state, tombstone.last_error) == ("RUNNING", None)
    else:
        assert (tombstone.state, tombstone.last_error) == ("FAILED", "SomethingNobodyNamed: injected")
        assert row(world, f"TOMBSTONE#{tombstone.id}")["execution"].endswith(tombstone.execution_name)

    assert takes_up(world).status == "SUCCEEDED"
    assert_deleted(world)
    assert world.billing.canceled == ["sub_cus_first"]
    assert [notice["after"] for notice in world.bus.notices] == [None]


def test_stripe_that_is_away_at_first_only_delays(world: World) -> None:
    account(world)
    world.billing.error = StripeUnavailable("away")
    assert world.delete().error == "StripeUnavailable"
    world.billing.error = None

    assert world.delete().status == "SUCCEEDED"
    assert_deleted(world)


def test_what_does_not_end_is_given_up_with_its_name(world: World) -> None:
    account(world)
    for _ in range(12):
        world.meanwhile("FindRemains", lambda: world.ledger.bury("cus_first", 1_900_000_000, "x", deleting=True))

    ended = world.delete()

    assert (ended.status, ended.error, ended.path[-2:]) == ("FAILED", "DidNotConverge", FAILED)
