"""gateway.drift: in which way somebody differs, and who has to be asked about."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

import pytest

from gateway.access import Access, Before, Live, Target, User
from gateway.drift import DISABLING, EVENTS_LAST, KINDS, WRITES, Kind, kind_of, subscription_suspect, user_suspect

PAYS = Access(True, "ACTIVE", 5, "sub_1 active", units={"sub_1": 5})
PAYS_NOT = Access(False, "CANCELLED", 0, "sub_1 canceled")
UNCLEAR = Access(None, "LAPSED", 0, "nothing bought")

ON = Target(True, 5, "ACTIVE")
OFF = Target(False, 0, "CANCELLED")
PUT_BACK = Target(True, 2, "OLD")

IN = Live(True, 5)
OUT = Live()

NOBODY = User(exists=False)
USER = User(True, "u-1", linked=True, enabled=True, provider="STRIPE", dapp_limit=5, payment_status="ACTIVE")
DISABLED = replace(USER, enabled=False, disabled_by="billing", dapp_limit=0, payment_status="CANCELLED")
BANNED = replace(USER, enabled=False, disabled_by="operator")
HELD = replace(USER, enabled=False)
COMPED = replace(USER, provider="ADMIN", dapp_limit=40)
STRANGER = replace(USER, linked=False, provider="")
LOST = replace(USER, linked=False)
CLAIMED = replace(LOST, claimed=True)
ADOPTED = replace(USER, provider="", dapp_limit=2, payment_status="OLD")


def differs(
    access: Access,
    user: User,
    target: Target,
    known: Live,
    should: Live,
    link_known: bool = True,
    banned: bool = False,
) -> Kind | None:
    return kind_of(access, user, target, known, should, link_known=link_known, banned=banned)


class TestKinds:
    def test_are_all_named(self) -> None:
        assert sorted(KINDS) == sorted(get_args(Kind))
        assert len(set(KINDS)) == len(KINDS)
        assert WRITES.keys() == set(KINDS)

    def test_that_take_access_away_are_two(self) -> None:
        assert {"access_without_payment", "hold_lost"} == DISABLING

    def test_cost_at_most_three_writes_and_at_least_one(self) -> None:
        """A creation, or a change of attributes, is one; who is enabled or disabled takes two changes beside it."""
        assert WRITES == {
            "access_without_payment": 3,
            "hold_lost": 3,
            "paid_without_access": 3,
            "user_deleted": 1,
            "orphaned_link": 3,
            "wrong_limit": 1,
        }

    def test_events_last_thirty_days_less_an_hour(self) -> None:
        """A list takes its time."""
        assert EVENTS_LAST == 2_592_000 - 3_600


class TestKindOf:
    @pytest.mark.parametrize(
        ("access", "user", "target", "live"),
        [
            (PAYS, USER, ON, IN),
            (PAYS, ADOPTED, replace(ON, dapp_limit=2, payment_status="OLD"), Live(True, 2)),
            (PAYS_NOT, DISABLED, OFF, OUT),
            (PAYS_NOT, ADOPTED, PUT_BACK, OUT),
            (PAYS_NOT, NOBODY, OFF, OUT),
            (PAYS_NOT, STRANGER, OFF, OUT),
            (PAYS_NOT, LOST, OFF, OUT),
            (UNCLEAR, USER, OFF, IN),
            (UNCLEAR, DISABLED, OFF, OUT),
            (UNCLEAR, NOBODY, OFF, OUT),
            (UNCLEAR, CLAIMED, OFF, OUT),
            (PAYS, COMPED, ON, Live(True, 40)),
            (PAYS_NOT, COMPED, OFF, Live(True, 40)),
            (PAYS, replace(COMPED, linked=False), ON, OUT),
            (PAYS, HELD, ON, OUT),
            (PAYS_NOT, HELD, OFF, OUT),
            (UNCLEAR, BANNED, OFF, OUT),
        ],
    )
    @pytest.mark.parametrize("link_known", [True, False])
    def test_is_none_where_nothing_is_missing(
        self, access: Access, user: User, target: Target, live: Live, link_known: bool
    ) -> None:
        assert differs(access, user, target, live, live, link_known) is None

    @pytest.mark.parametrize("access", [PAYS, PAYS_NOT, UNCLEAR])
    @pytest.mark.parametrize(
        ("user", "banned", "known", "kind"),
        [
            # By the ledger, whatever Cognito says.
            (USER, True, OUT, "hold_lost"),
            (USER, True, IN, "hold_lost"),
            (BANNED, True, IN, "hold_lost"),
            (BANNED, True, OUT, None),
            (DISABLED, True, OUT, None),
            (DISABLED, True, IN, "hold_lost"),
            (COMPED, True, OUT, "hold_lost"),
            # By hand in Cognito, whatever the ledger says.
            (HELD, False, IN, "hold_lost"),
            (HELD, False, OUT, None),
            (BANNED, False, IN, "hold_lost"),
        ],
    )
    def test_of_who_is_held_is_that_something_lets_them_in(
        self, access: Access, user: User, banned: bool, known: Live, kind: Kind | None
    ) -> None:
        target = Target(False, user.dapp_limit, user.payment_status)
        assert differs(access, user, target, known, OUT, banned=banned) == kind

    @pytest.mark.parametrize(
        ("access", "user", "target", "known", "should"),
        [
            (PAYS_NOT, USER, OFF, IN, OUT),
            (PAYS_NOT, DISABLED, OFF, IN, OUT),  # only the authorizer was not told
            (PAYS_NOT, USER, OFF, OUT, OUT),  # only Cognito was not told
            (PAYS_NOT, replace(USER, dapp_limit=0, payment_status="CANCELLED"), OFF, OUT, OUT),
            (PAYS_NOT, ADOPTED, PUT_BACK, Live(True, 2), OUT),
            (PAYS_NOT, replace(ADOPTED, dapp_limit=3), PUT_BACK, OUT, OUT),
            (PAYS_NOT, NOBODY, OFF, IN, OUT),
            (PAYS_NOT, STRANGER, OFF, IN, OUT),  # who was deleted, and has another user's address
            (UNCLEAR, DISABLED, OFF, IN, OUT),
            (UNCLEAR, NOBODY, OFF, IN, OUT),
            (UNCLEAR, STRANGER, OFF, IN, OUT),
            (PAYS, replace(COMPED, enabled=False, disabled_by="billing"), ON, IN, OUT),
            (PAYS, replace(COMPED, linked=False), ON, IN, OUT),
        ],
    )
    def test_is_access_that_nobody_pays_for(
        self, access: Access, user: User, target: Target, known: Live, should: Live
    ) -> None:
        assert differs(access, user, target, known, should) == "access_without_payment"

    @pytest.mark.parametrize(
        ("user", "target", "known", "should"),
        [
            (DISABLED, ON, OUT, IN),
            (replace(DISABLED, enabled=True), ON, OUT, IN),  # who was not enabled to the end
            (replace(USER, disabled_by="billing"), ON, IN, IN),
            (replace(USER, disabled_by="billing", dapp_limit=2), ON, IN, IN),
            (USER, ON, OUT, IN),  # only the authorizer was not told
            (replace(USER, disabled_by="operator"), ON, OUT, IN),
        ],
    )
    def test_is_payment_that_nobody_answered(self, user: User, target: Target, known: Live, should: Live) -> None:
        assert differs(PAYS, user, target, known, should) == "paid_without_access"

    def test_of_an_adopted_user_whom_billing_disabled_is_that_they_had_access(self) -> None:
        disabled = replace(ADOPTED, enabled=False, disabled_by="billing")
        assert differs(PAYS_NOT, disabled, PUT_BACK, OUT, OUT) == "paid_without_access"

    @pytest.mark.parametrize(
        ("user", "link_known", "kind"),
        [
            (NOBODY, True, "user_deleted"),
            (NOBODY, False, "paid_without_access"),
            (LOST, True, "orphaned_link"),
            (LOST, False, "orphaned_link"),
            (CLAIMED, False, "orphaned_link"),
            (STRANGER, True, "paid_without_access"),
            (STRANGER, False, "paid_without_access"),
        ],
    )
    @pytest.mark.parametrize("known", [OUT, IN, Live(True, 2)])
    def test_of_who_pays_and_has_no_user_is_how_they_lost_theirs(
        self, user: User, link_known: bool, known: Live, kind: Kind
    ) -> None:
        """Whatever the authorizer lets the user do who was deleted: the run gives access, and takes none."""
        assert differs(PAYS, user, ON, known, OUT, link_known) == kind

    @pytest.mark.parametrize("link_known", [True, False])
    @pytest.mark.parametrize(("enabled", "kind"), [(True, "access_without_payment"), (False, None)])
    def test_of_who_does_not_pay_is_a_user_whom_a_killed_run_left_enabled(
        self, enabled: bool, kind: Kind | None, link_known: bool
    ) -> None:
        user = CLAIMED if enabled else replace(DISABLED, linked=False, claimed=True)
        assert differs(PAYS_NOT, user, OFF, OUT, OUT, link_known) == kind

    @pytest.mark.parametrize(
        ("access", "user", "target", "known", "should"),
        [
            (PAYS, replace(USER, dapp_limit=4), ON, IN, IN),
            (PAYS, replace(USER, dapp_limit=6), ON, IN, IN),
            (PAYS, replace(USER, dapp_limit=-1), ON, IN, IN),
            (PAYS, replace(USER, payment_status="LAPSED"), ON, IN, IN),
            (PAYS, replace(USER, dapp_limit=4), ON, OUT, IN),
            (PAYS, USER, ON, Live(True, 4), IN),
            (PAYS, USER, ON, IN, Live(True, 4)),
            # Nobody loses anything by it.
            (PAYS_NOT, replace(DISABLED, payment_status="FAILED"), OFF, OUT, OUT),
            (PAYS_NOT, replace(DISABLED, dapp_limit=-1), OFF, OUT, OUT),
            (PAYS_NOT, replace(DISABLED, dapp_limit=5), OFF, OUT, OUT),
            (PAYS_NOT, replace(ADOPTED, payment_status="ACTIVE"), PUT_BACK, OUT, OUT),
            (PAYS_NOT, replace(ADOPTED, dapp_limit=1), PUT_BACK, OUT, OUT),
            (UNCLEAR, USER, OFF, Live(True, 4), IN),
            (UNCLEAR, USER, OFF, OUT, IN),
            (PAYS, COMPED, ON, Live(True, 5), Live(True, 40)),
            (PAYS_NOT, COMPED, OFF, OUT, Live(True, 40)),
        ],
    )
    def test_is_another_limit_or_status(
        self, access: Access, user: User, target: Target, known: Live, should: Live
    ) -> None:
        assert differs(access, user, target, known, should) == "wrong_limit"


# ------------------------------------------------------------------ who has to be asked about

STANDS = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
GONE_OFF = {"enabled": False, "dapp_limit": 0, "payment_status": "CANCELLED"}
HAD = {"enabled": True, "dapp_limit": 2, "payment_status": "OLD"}
BEFORE = Before(2, "OLD")


def suspect(
    user: User,
    granted: Mapping[str, int],
    told: Mapping[str, Any] | None,
    live: Live,
    before: Before | None = None,
    banned: bool = False,
) -> bool:
    return user_suspect(user, granted=granted, before=before, told=told, live=live, banned=banned)


class TestUserSuspect:
    @pytest.mark.parametrize(
        ("user", "granted", "told", "live", "before"),
        [
            (USER, {"sub_1": 5}, STANDS, IN, None),
            (USER, {"sub_1": 3, "sub_2": 2}, STANDS, IN, None),
            (replace(USER, dapp_limit=0), {"sub_1": 0}, {**STANDS, "dapp_limit": 0}, Live(True, 0), None),
            (ADOPTED, {"sub_1": 1}, HAD, Live(True, 2), BEFORE),
            (DISABLED, {}, GONE_OFF, OUT, None),
            (ADOPTED, {}, HAD, OUT, BEFORE),
        ],
    )
    def test_is_nobody_who_stands_as_the_last_run_left_them(
        self, user: User, granted: Mapping[str, int], told: Mapping[str, Any], live: Live, before: Before | None
    ) -> None:
        assert suspect(user, granted, told, live, before) is False

    @pytest.mark.parametrize(
        "changed",
        [
            {"enabled": False, "disabled_by": "billing"},
            {"dapp_limit": 6},
            {"dapp_limit": -1},
            {"payment_status": "LAPSED"},
            {"payment_status": ""},
            {"disabled_by": "billing"},
            {"disabled_by": "operator"},
        ],
    )
    def test_is_a_payer_who_was_changed(self, changed: dict[str, Any]) -> None:
        assert suspect(replace(USER, **changed), {"sub_1": 5}, STANDS, IN) is True

    @pytest.mark.parametrize("changed", [{"enabled": True}, {"dapp_limit": 5}, {"payment_status": "ACTIVE"}])
    def test_is_who_pays_no_more_and_was_changed(self, changed: dict[str, Any]) -> None:
        assert suspect(replace(DISABLED, **changed), {}, GONE_OFF, OUT) is True

    @pytest.mark.parametrize("told", [None, {}, {**STANDS, "dapp_limit": 4}, {**STANDS, "enabled": False}])
    def test_is_a_user_of_whom_something_else_was_told_or_nothing(self, told: Mapping[str, Any] | None) -> None:
        assert suspect(USER, {"sub_1": 5}, told, IN) is True

    @pytest.mark.parametrize("live", [OUT, Live(False, 5), Live(True, 4), Live(True, 6)])
    def test_is_a_payer_of_whom_the_authorizer_knows_something_else(self, live: Live) -> None:
        assert suspect(USER, {"sub_1": 5}, STANDS, live) is True

    @pytest.mark.parametrize(
        ("user", "told", "before"),
        [(DISABLED, GONE_OFF, None), (ADOPTED, HAD, BEFORE)],
    )
    def test_is_who_pays_no_more_and_is_let_in(
        self, user: User, told: Mapping[str, Any], before: Before | None
    ) -> None:
        assert suspect(user, {}, told, IN, before) is True

    def test_is_a_user_of_ours_who_pays_nothing_and_is_enabled(self) -> None:
        assert suspect(USER, {}, STANDS, OUT) is True
        assert suspect(USER, {}, STANDS, OUT, BEFORE) is False
        assert suspect(DISABLED, {}, GONE_OFF, OUT, BEFORE) is False

    @pytest.mark.parametrize("granted", [{}, {"sub_1": 5}])
    @pytest.mark.parametrize("told", [None, STANDS])
    @pytest.mark.parametrize(
        ("user", "banned", "live", "expected"),
        [
            (USER, True, OUT, True),
            (BANNED, True, OUT, False),
            (BANNED, True, IN, True),
            (DISABLED, True, OUT, False),
            (COMPED, True, OUT, True),
            (HELD, False, OUT, False),
            (HELD, False, IN, True),
            (BANNED, False, IN, True),
        ],
    )
    def test_is_who_is_held_and_let_in(
        self,
        user: User,
        banned: bool,
        live: Live,
        expected: bool,
        granted: Mapping[str, int],
        told: Mapping[str, Any] | None,
    ) -> None:
        assert suspect(user, granted, told, live, banned=banned) is expected

    @pytest.mark.parametrize("granted", [{}, {"sub_1": 5}])
    @pytest.mark.parametrize("told", [None, STANDS])
    @pytest.mark.parametrize(
        ("user", "live", "expected"),
        [
            (COMPED, Live(True, 40), False),
            (COMPED, IN, True),
            (COMPED, OUT, True),
            (replace(COMPED, dapp_limit=-1), Live(True, 0), False),
            (replace(COMPED, enabled=False, disabled_by="billing"), OUT, False),
            (replace(COMPED, enabled=False, disabled_by="billing"), Live(True, 40), True),
        ],
    )
    def test_is_a_comped_user_only_by_what_the_authorizer_knows(
        self, user: User, live: Live, expected: bool, granted: Mapping[str, int], told: Mapping[str, Any] | None
    ) -> None:
        assert suspect(user, granted, told, live) is expected


class TestSubscriptionSuspect:
    @pytest.mark.parametrize(
        ("verdict", "granted", "expected"),
        [
            (PAYS, {"sub_1": 5}, False),
            (PAYS, {"sub_1": 4}, True),
            (PAYS, {"sub_1": 6}, True),
            (PAYS, {}, True),
            (PAYS, {"sub_2": 5}, True),
            (PAYS, {"sub_1": 5, "sub_2": 1}, False),
            (replace(PAYS, units={"sub_1": 0}), {"sub_1": 0}, False),
            (replace(PAYS, units={"sub_1": 0}), {}, True),  # it gives none, but its customer has a user
            (PAYS_NOT, {}, False),
            (PAYS_NOT, {"sub_2": 5}, False),
            (PAYS_NOT, {"sub_1": 5}, True),
            (PAYS_NOT, {"sub_1": 0}, True),
            (replace(PAYS_NOT, units={"sub_1": 5}), {"sub_1": 5}, True),
            # Left as they are, whatever they had.
            (UNCLEAR, {}, False),
            (UNCLEAR, {"sub_1": 5}, False),
            (replace(UNCLEAR, units={"sub_1": 4}), {"sub_1": 5}, False),
        ],
    )
    def test_is_one_that_gives_something_else_than_it_gave_last(
        self, verdict: Access, granted: Mapping[str, int], expected: bool
    ) -> None:
        told = {"payment_status": verdict.status}
        assert subscription_suspect(verdict, "sub_1", granted, told) is expected

    @pytest.mark.parametrize(
        ("verdict", "granted", "told", "expected"),
        [
            (PAYS, {"sub_1": 5}, "ACTIVE", False),
            (PAYS, {"sub_1": 5}, "LAPSED", True),
            (replace(PAYS, status="LAPSED"), {"sub_1": 5}, "ACTIVE", True),
            (PAYS, {"sub_1": 5}, None, False),
            # Together with another one it need not decide about the status.
            (PAYS, {"sub_1": 5, "sub_2": 1}, "LAPSED", False),
            (PAYS_NOT, {}, "ACTIVE", False),
            (UNCLEAR, {"sub_1": 5}, "ACTIVE", False),
        ],
    )
    def test_is_the_only_one_that_gives_anything_with_another_status(
        self, verdict: Access, granted: Mapping[str, int], told: str | None, expected: bool
    ) -> None:
        known = None if told is None else {"payment_status": told}
        assert subscription_suspect(verdict, "sub_1", granted, known) is expected
