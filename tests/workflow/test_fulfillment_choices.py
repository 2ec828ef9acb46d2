"""Every branch of DecideAccess and every state of the machine, in the real interpreter."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from gateway.access import Live
from tests.local import moto_fixes
from tests.workflow.conftest import (
    EMAIL,
    World,
    bought_before_the_deletion,
    definition,
    first_purchase,
    invitation_expired,
    lapse,
    new_address,
    recovery,
    unknown_to_the_authorizer,
    upgrade,
)

DEFINITION = definition()
DECISION = DEFINITION["States"]["DecideAccess"]


def _nothing_known(world: World) -> None:
    world.billing.subscribe("cus_first", 3, status="incomplete")


def _event_after_the_deletion(world: World) -> None:
    world.add_payer()
    assert world.delete().status == "SUCCEEDED"


def _comped(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user(linked=("cus_first",), payment_provider="ADMIN")


def _comped_long_ago(world: World) -> None:
    _comped_by_hand(world)
    world.happens()


def _held(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user(enabled=False, linked=("cus_first",), payment_provider="STRIPE")


def _never_paid(world: World) -> None:
    world.billing.subscribe("cus_first", 3, status="canceled")


def _pays_with_the_email_of_a_strangers_user(world: World) -> None:
    world.billing.subscribe("cus_first", 3)
    world.add_user()


def _stopped_before_the_link(world: World) -> None:
    world.billing.subscribe("cus_first", 3, status="canceled")
    world.ledger.claim_email("cus_first", EMAIL)
    world.add_user(payment_provider="STRIPE")


def _was_not_enabled_to_the_end(world: World) -> None:
    world.users.enable(world.add_lapsed())
    world.billing.subscribe("cus_first", 3)


def _was_not_disabled_to_the_end(world: World) -> None:
    world.users.enable(world.add_lapsed())


def _pays_late(world: World) -> None:
    world.add_payer()
    world.billing.change_status("cus_first", "past_due", first_unpaid=int(world.clock.now))


def _has_no_limit_yet(world: World) -> None:
    world.billing.subscribe("cus_first", 0)
    world.add_user(linked=("cus_first",), payment_status="ACTIVE", payment_provider="STRIPE")


def _mail_did_not_leave(world: World) -> None:
    moto_fixes.mail.fail(1)
    world.billing.subscribe("cus_first", 3)
    world.happens()
    world.clock.pass_by(3600)


def _has_another_address_that_nobody_follows(world: World) -> None:
    new_address(world)
    world.parameter("LookupUser", "FOLLOW", False)


def _lapsed_long_ago(world: World) -> None:
    world.add_lapsed()


def _comped_by_hand(world: World) -> None:
    world.write_by_hand(world.add_payer(), payment_provider="ADMIN", num_dapps="40")


def _banned_by_hand(world: World) -> None:
    world.disable_by_hand(world.add_payer())


def _enabled_by_hand_in_spite_of_a_ban(world: World) -> None:
    sub = world.add_payer()
    world.ban(sub)
    world.users.enable(sub)


def _does_not_pay_and_is_enabled_in_spite_of_a_ban(world: World) -> None:
    _enabled_by_hand_in_spite_of_a_ban(world)
    world.billing.change_status("cus_first", "canceled")


def _is_left_alone_and_was_disabled(world: World) -> None:
    world.ledger.set_live(world.add_lapsed(), Live(True, 3), 1)
    world.billing.subscribe("cus_first", 3, status="frozen_by_martians")


def _deleted_by_hand(world: World) -> None:
    world.delete_user(world.add_payer())


def _the_authorizer_has_another_limit(world: World) -> None:
    world.ledger.set_live(world.add_payer(), Live(True, 2), 1)


# Position in DecideAccess (its length: Default) -> what leads there.
BRANCHES: list[tuple[int, Callable[[World], object]]] = [
    (0, bought_before_the_deletion),
    (1, _enabled_by_hand_in_spite_of_a_ban),
    (1, _does_not_pay_and_is_enabled_in_spite_of_a_ban),
    (2, _comped_by_hand),
    (2, _banned_by_hand),
    (2, _is_left_alone_and_was_disabled),
    (2, _deleted_by_hand),
    (3, _nothing_known),
    (3, _event_after_the_deletion),
    (4, _comped),
    (4, _held),
    (4, _comped_long_ago),
    (5, first_purchase),
    (6, _never_paid),
    (7, _pays_with_the_email_of_a_strangers_user),
    (7, _stopped_before_the_link),
    (8, recovery),
    (8, _was_not_enabled_to_the_end),
    (9, lapse),
    (9, _was_not_disabled_to_the_end),
    (10, upgrade),
    (10, _pays_late),
    (10, _has_no_limit_yet),
    (11, unknown_to_the_authorizer),
    (11, _the_authorizer_has_another_limit),
    (12, invitation_expired),
    (12, _mail_did_not_leave),
    (13, new_address),
    (14, World.add_payer),
    (14, _lapsed_long_ago),
    (14, _has_another_address_that_nobody_follows),
]


def _with_signs(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition with a state between DecideAccess and wherever each of its branches leads."""
    signed = copy.deepcopy(definition)
    decision = signed["States"]["DecideAccess"]
    for position, choice in enumerate(decision["Choices"]):
        signed["States"][f"Branch{position}"] = {"Type": "Pass", "Next": choice["Next"]}
        choice["Next"] = f"Branch{position}"
    default = f"Branch{len(decision['Choices'])}"
    signed["States"][default] = {"Type": "Pass", "Next": decision["Default"]}
    decision["Default"] = default
    return signed


def test_every_branch_has_a_case() -> None:
    assert sorted({position for position, _ in BRANCHES}) == list(range(len(DECISION["Choices"]) + 1))


@pytest.mark.parametrize(("position", "arrange"), BRANCHES)
def test_a_person_takes_the_branch_that_is_meant_for_them(
    world: World, position: int, arrange: Callable[[World], object]
) -> None:
    world.use(_with_signs(DEFINITION))
    arrange(world)

    ended = world.happens()

    targets = [*(choice["Next"] for choice in DECISION["Choices"]), DECISION["Default"]]
    assert ended.status == "SUCCEEDED"
    assert ended.path[3:5] == (f"Branch{position}", targets[position])


def test_every_state_is_reached(world: World) -> None:
    reached: set[str] = set()

    def run() -> None:
        reached.update(world.happens().path)
        world.clock.pass_by(60)

    world.billing.subscribe("cus_first", 3)
    run()  # CreateUser
    world.billing.subscribe("cus_first", 5)
    run()  # SetDappLimit
    world.billing.change_status("cus_first", "canceled")
    run()  # DisableUser
    world.billing.subscribe("cus_first", 5)
    run()  # EnableUser
    world.ledger.set_live(world.user().sub, Live(), 1)
    run()  # SetLiveAccess
    world.billing.subscribe("cus_second", 1)
    reached.update(world.happens("cus_second").path)  # LinkUser
    world.clock.pass_by(8 * 86_400)
    run()  # ResendInvitation
    world.parameter("LookupUser", "FOLLOW", True)
    for email in ("thirdmailbox@markeddomain.example", "fourthmailbox@markeddomain.example"):
        world.billing.subscribe("cus_third", 1, email=email)
        reached.update(world.happens("cus_third").path)  # CreateUser, then ChangeEmail
    world.fail("LookupUser", "CognitoRejected")
    run()  # MarkUnfulfilled
    created = int(world.clock.now)
    world.clock.pass_by(60)
    assert world.delete(sub=world.ledger.party("cus_first").sub).status == "SUCCEEDED"
    world.billing.subscribe("cus_late", 1, created=created)
    reached.update(world.happens("cus_late").path)  # ResumeDeletion

    assert reached == set(DEFINITION["States"])
