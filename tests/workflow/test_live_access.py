"""What the authorizer lets a person do, at every turn of their life; in the real interpreter."""

import pytest

from gateway.access import Live
from tests.workflow.conftest import BAN, World


def test_follows_a_customer_through_their_life(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.happens()
    assert world.person().live == Live(True, 3)
    world.billing.subscribe("cus_first", 5)
    world.happens()
    assert world.person().live == Live(True, 5)
    world.billing.subscribe("cus_first", 2)
    world.happens()
    assert world.person().live == Live(True, 2)
    world.clock.pass_by(60)
    world.billing.change_status("cus_first", "canceled")
    world.happens()
    assert world.person().live == Live()
    assert world.person().signed_out_at == int(world.clock.now)
    world.clock.pass_by(60)
    world.billing.subscribe("cus_first", 4)
    world.happens()
    assert world.person().live == Live(True, 4)
    assert world.person().signed_out_at == int(world.clock.now) - 60


def test_adds_up_what_the_customers_of_a_person_pay_for(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.happens()
    world.billing.subscribe("cus_second", 4)
    world.happens("cus_second")
    assert world.person().live == Live(True, 7)


def test_does_not_see_the_status_of_a_payer_in_grace(world: World) -> None:
    world.add_payer()
    world.billing.change_status("cus_first", "past_due", first_unpaid=int(world.clock.now))
    world.happens()
    assert world.person().live == Live(True, 3)


def test_of_an_adopted_user_ends_with_the_grant_although_cognito_lets_them_sign_in(world: World) -> None:
    world.add_user(num_dapps="2", payment_status="VIP")
    world.billing.subscribe("cus_first", 5)
    world.happens()
    assert world.person().live == Live(True, 5)
    world.billing.change_status("cus_first", "canceled")
    world.happens()
    assert world.person().live == Live()
    assert (world.user().enabled, world.user().limit) == (True, "2")


def test_is_left_as_it_is_while_nobody_can_tell_what_is_paid(world: World) -> None:
    world.write_by_hand(world.add_payer(), num_dapps="40")
    world.billing.subscribe("cus_first", 3, status="frozen_by_martians")
    world.happens()
    assert world.person().live == Live(True, 3)


def test_ends_with_a_ban_in_the_console_at_the_next_look(world: World) -> None:
    world.disable_by_hand(world.add_payer())
    world.happens()
    assert world.person().live == Live()


def test_comes_back_when_that_ban_is_lifted_by_hand(world: World) -> None:
    sub = world.add_payer()
    world.disable_by_hand(sub)
    world.happens()
    world.users.enable(sub)
    world.happens()
    assert world.person().live == Live(True, 3)


@pytest.mark.parametrize("dapps", [3, 5])
def test_does_not_come_back_by_a_run_as_long_as_an_operator_holds_them(world: World, dapps: int) -> None:
    """The ban was not finished, so Cognito does not know of it until the next run."""
    sub = world.add_payer()
    world.ledger.hold(sub, BAN)
    world.billing.subscribe("cus_first", dapps)
    order = world.receive()
    world.run(order)
    assert world.person().live == Live()
    assert (world.user().enabled, world.user().disabled_by, world.user().limit) == (False, "operator", "3")
    assert world.order(order.event_id)["outcome"] == "held"
    world.lift(sub)
    world.happens()
    assert world.person().live == Live(True, dapps)
    assert (world.user().enabled, world.user().disabled_by) == (True, "")


@pytest.mark.parametrize("status", ["active", "canceled", "frozen_by_martians"])
def test_of_a_banned_user_does_not_come_back_when_somebody_enables_them(world: World, status: str) -> None:
    sub = world.add_payer()
    world.ban(sub)
    world.users.enable(sub)
    world.write_by_hand(sub, disabled_by="")
    world.billing.change_status("cus_first", status)
    order = world.receive()
    world.run(order)
    assert (world.user().enabled, world.user().disabled_by, world.user().limit) == (False, "operator", "3")
    assert (world.person().live, world.order(order.event_id)["outcome"]) == (Live(), "held")
    assert world.cognito.calls.count("admin_user_global_sign_out") == 1


def test_comes_back_when_a_ban_is_lifted_before_a_run_renews_it(world: World) -> None:
    """The run has seen the banned user enabled when the operator lifts the ban."""
    sub = world.add_payer()
    world.ban(sub)
    world.users.enable(sub)
    world.write_by_hand(sub, disabled_by="")
    world.meanwhile("DisableUser", lambda: world.lift(sub))
    ended = world.happens()
    assert ended.path.count("DisableUser") == 1
    assert (world.user().enabled, world.user().disabled_by, world.person().live) == (True, "", Live(True, 3))


def test_of_a_comped_user_follows_cognito(world: World) -> None:
    world.write_by_hand(world.add_payer(), payment_provider="ADMIN", num_dapps="40")
    world.billing.change_status("cus_first", "canceled")
    world.happens()
    assert world.person().live == Live(True, 40)


def test_of_a_user_who_was_deleted_by_hand_ends_and_the_new_one_has_theirs(world: World) -> None:
    old = world.add_payer()
    world.delete_user(old)
    world.happens()
    assert world.person(old).live == Live()
    assert world.person().sub != old
    assert world.person().live == Live(True, 3)


def test_of_a_user_who_was_deleted_by_hand_ends_although_nobody_pays(world: World) -> None:
    old = world.add_payer()
    world.delete_user(old)
    world.billing.change_status("cus_first", "canceled")
    world.happens()
    assert world.person(old).live == Live()


def test_of_a_row_from_an_earlier_version_comes_with_the_next_run(world: World) -> None:
    sub = world.add_payer()
    world.ledger.set_live(sub, Live(), 0)
    world.happens()
    assert world.person().live == Live(True, 3)
