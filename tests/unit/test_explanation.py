"""gateway.explanation: why a user is as they are, in one sentence, and what would change them next."""

from dataclasses import replace
from typing import Any

import pytest

from gateway.access import Access, Live, Target, User
from gateway.explanation import next_changes, summary

PAID = Access(True, "ACTIVE", 5, "sub_1 active")
UNPAID = Access(False, "FAILED", 0, "sub_1 past_due, grace is over")
LEFT = Access(None, "LAPSED", 0, "price price_1 has no readable units")
NOTHING = Access(None, "LAPSED", 0, "nothing bought")

ON, OFF = Target(True, 5, "ACTIVE"), Target(False, 0, "FAILED")
BEFORE = Target(True, 2, "")  # how an adopted user stood

NOBODY = User(exists=False)
USER = User(True, "u-1", linked=True, enabled=True, provider="STRIPE", dapp_limit=5, payment_status="ACTIVE")
DISABLED = replace(USER, enabled=False, disabled_by="billing", dapp_limit=0, payment_status="FAILED")
HELD = replace(USER, enabled=False, disabled_by="operator")
BY_HAND = replace(HELD, disabled_by="")
COMPED = replace(USER, provider="ADMIN", dapp_limit=99, payment_status="")
STRANGER = replace(USER, linked=False, provider="", dapp_limit=-1, payment_status="")
BAN = {"reason": "spam", "requested_by": "arn:aws:iam::123456789012:user/jo", "at": 1}

MENDS = "The next run, or POST /update, mends it."


@pytest.mark.parametrize(
    ("access", "user", "target", "held", "sentence"),
    [
        (PAID, NOBODY, ON, None, "There is no user, and a user is missing: sub_1 active."),
        (UNPAID, NOBODY, OFF, None, "There is no user, and nobody is missing: sub_1 past_due, grace is over."),
        (NOTHING, NOBODY, OFF, None, "There is no user, and nobody is missing: nothing bought."),
        (PAID, USER, ON, None, "The user is enabled, as it should be: sub_1 active."),
        (UNPAID, DISABLED, OFF, None, "The user is disabled, as it should be: sub_1 past_due, grace is over."),
        (
            UNPAID,
            replace(USER, dapp_limit=2, payment_status=""),
            BEFORE,
            None,
            "The user is enabled, as it should be: sub_1 past_due, grace is over.",
        ),
        # Out of step: in each of the three ways, and in all.
        (
            UNPAID,
            USER,
            OFF,
            None,
            "The user is enabled with limit 5 (ACTIVE), and should be disabled with limit 0 (FAILED): "
            f"sub_1 past_due, grace is over. {MENDS}",
        ),
        (
            PAID,
            DISABLED,
            ON,
            None,
            "The user is disabled with limit 0 (FAILED), and should be enabled with limit 5 (ACTIVE): "
            f"sub_1 active. {MENDS}",
        ),
        (
            PAID,
            replace(USER, dapp_limit=4),
            ON,
            None,
            "The user is enabled with limit 4 (ACTIVE), and should be enabled with limit 5 (ACTIVE): "
            f"sub_1 active. {MENDS}",
        ),
        (
            PAID,
            replace(USER, payment_status=""),
            ON,
            None,
            "The user is enabled with limit 5 (no status), and should be enabled with limit 5 (ACTIVE): "
            f"sub_1 active. {MENDS}",
        ),
        # Whom billing leaves alone, whatever is paid.
        (
            PAID,
            HELD,
            ON,
            BAN,
            "The user is disabled by an operator (spam); billing leaves them alone, and would say: sub_1 active.",
        ),
        (
            UNPAID,
            HELD,
            OFF,
            BAN,
            "The user is disabled by an operator (spam); billing leaves them alone, and would say: "
            "sub_1 past_due, grace is over.",
        ),
        (
            PAID,
            BY_HAND,
            ON,
            None,
            "The user is disabled by a person, in the console; billing leaves them alone, and would say: sub_1 active.",
        ),
        *(
            (
                access,
                user,
                ON,
                None,
                f"The user is {state} and comped (custom:payment_provider is ADMIN): billing leaves them alone.",
            )
            for access in (PAID, UNPAID, LEFT)
            for user, state in (
                (COMPED, "enabled"),
                (replace(COMPED, linked=False), "enabled"),
                (replace(COMPED, enabled=False), "disabled"),
            )
        ),
        *(
            (
                access,
                USER,
                ON,
                BAN,
                "The user is enabled, but held by an operator (spam), so that the authorizer refuses them: POST /hold "
                "again finishes the ban or lifts it.",
            )
            for access in (PAID, UNPAID, LEFT)
        ),
        (LEFT, USER, OFF, None, "The user is enabled, and left as they are: price price_1 has no readable units."),
        (LEFT, DISABLED, OFF, None, "The user is disabled, and left as they are: price price_1 has no readable units."),
        (NOTHING, STRANGER, OFF, None, "The user is enabled, and left as they are: nothing bought."),
        # By the e-mail alone a user is only ever granted to.
        (PAID, STRANGER, ON, None, "The user is enabled, and a run will join them to this customer: sub_1 active."),
        (
            UNPAID,
            STRANGER,
            OFF,
            None,
            "The user is enabled, and nothing bought is theirs: sub_1 past_due, grace is over.",
        ),
    ],
)
def test_the_summary_says_how_the_user_stands_and_why(
    access: Access, user: User, target: Target, held: dict[str, Any] | None, sentence: str
) -> None:
    known = Live(True, access.dapp_limit) if access.wanted else Live()
    assert summary(access, user, target, held, known) == sentence


def test_the_summary_says_when_the_authorizer_does_not_know_yet() -> None:
    assert summary(PAID, USER, ON, None, Live()) == (
        "The user is enabled, as it should be, but the authorizer refuses them until the next run, or POST /update: "
        "sub_1 active."
    )
    assert summary(PAID, USER, ON, None, Live(True, 4)) == (
        "The user is enabled, as it should be, but the authorizer lets them have 4 dapps until the next run, or POST "
        "/update: sub_1 active."
    )
    assert summary(UNPAID, DISABLED, OFF, None, Live(True, 4)) == (
        "The user is disabled, as it should be, but the authorizer lets them have 4 dapps until the next run, or POST "
        "/update: sub_1 past_due, grace is over."
    )


PAYS = {"at": None, "what": "the next payment"}
GRACE = replace(PAID, recheck_at=200, reason="sub_1 past_due, in grace")
BY_ITSELF = {"at": 200, "what": "the answer changes by itself: sub_1 past_due, in grace"}
LIFT = {"at": None, "what": "POST /hold with hold false lifts the ban"}
GIVE_BACK = {"at": None, "what": "another custom:payment_provider than ADMIN gives them back to billing"}


def order(event_id: str, due_at: int | None = None) -> dict[str, Any]:
    return {"event_id": event_id} | ({} if due_at is None else {"due_at": due_at})


@pytest.mark.parametrize(
    ("access", "user", "held", "orders", "changes"),
    [
        (PAID, USER, None, [], []),
        (UNPAID, DISABLED, None, [], [PAYS]),
        (LEFT, USER, None, [], [PAYS]),
        (UNPAID, NOBODY, None, [], [PAYS]),
        (PAID, NOBODY, None, [], []),
        (PAID, HELD, BAN, [], [LIFT]),
        (PAID, USER, BAN, [], [LIFT]),
        (UNPAID, HELD, BAN, [], [LIFT]),
        (PAID, BY_HAND, None, [], [LIFT]),
        (PAID, COMPED, None, [], [GIVE_BACK]),
        (UNPAID, COMPED, None, [], [GIVE_BACK]),
        (GRACE, USER, None, [], [BY_ITSELF]),
        # The soonest first; what can come at any time last.
        (
            replace(GRACE, wanted=False),
            DISABLED,
            None,
            [order("evt_late", 300), order("evt_unusable"), order("evt_soon", 100)],
            [
                {"at": 100, "what": "open order evt_soon is run again"},
                BY_ITSELF,
                {"at": 300, "what": "open order evt_late is run again"},
                PAYS,
            ],
        ),
        (
            GRACE,
            HELD,
            BAN,
            [order("evt_1", 200)],
            [BY_ITSELF, {"at": 200, "what": "open order evt_1 is run again"}, LIFT],
        ),
    ],
)
def test_what_would_change_the_user_next(
    access: Access,
    user: User,
    held: dict[str, Any] | None,
    orders: list[dict[str, Any]],
    changes: list[dict[str, Any]],
) -> None:
    assert next_changes(access, user, orders, held) == changes
