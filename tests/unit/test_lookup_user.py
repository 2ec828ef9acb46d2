"""lookup_user.handler: which user it is, how they should look, and whether they get another mail or address."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import Invitation, Live, User
from gateway.errors import EmailUnverified, LedgerRejected
from gateway.events import PAYMENTS
from tests.local import moto_fixes
from tests.unit.steps import EMAIL, Json, Steps, module

DAY = 86_400
NEW_EMAIL = "new@example.com"
Lookup = Callable[..., Json]


@pytest.fixture
def look(steps: Steps) -> Lookup:
    """LookupUser's answer to a run; keywords in capitals are settings, the others the run's."""

    def answer(**given: Any) -> Json:
        settings = {name: given.pop(name) for name in list(given) if name.isupper()}
        return steps.run("LookupUser", steps.state(**given), **settings)

    return answer


# ------------------------------------------------------------------ who, and how they should look


class TestUser:
    def test_that_is_unknown_is_a_fact(self, look: Lookup) -> None:
        assert look() == {
            "user": User(exists=False).facts(),
            "target": {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"},
            "live": {"sub": None, "active": False, "dapp_limit": 0},
            "live_target": {"active": False, "dapp_limit": 0},
            "unbanned": False,
            "invite": False,
            "rename": False,
        }

    def test_that_is_linked_is_read_as_they_are(self, steps: Steps, look: Lookup) -> None:
        user = steps.buyer()
        assert look()["user"] == user.facts()

    def test_is_found_by_e_mail_and_is_not_linked_then(self, steps: Steps, look: Lookup) -> None:
        user = steps.buyer(EMAIL, "cus_other")
        found = look()
        assert found["user"] == replace(user, linked=False).facts()
        assert (found["invite"], found["rename"]) == (False, False)

    def test_is_not_found_by_an_address_that_nobody_proved(self, steps: Steps, look: Lookup) -> None:
        """It is that of another payer, whose user followed them to it."""
        user = steps.buyer("other@example.com", "cus_other")
        assert user.sub is not None
        steps.users.rename(user.sub, EMAIL)
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        with pytest.raises(EmailUnverified):
            look()

    def test_that_is_not_paid_for_should_be_disabled(self, steps: Steps, look: Lookup) -> None:
        steps.buyer()
        found = look(access={"wanted": False, "status": "FAILED", "dapp_limit": 0})
        assert found["target"] == {"enabled": False, "dapp_limit": 0, "payment_status": "FAILED"}


class TestLiveAccess:
    """What the authorizer lets the user do, and what it should."""

    NOTHING: Json = {"active": False, "dapp_limit": 0}

    def lives(self, found: Json) -> tuple[Json, Json]:
        return found["live"], found["live_target"]

    @pytest.fixture
    def sub(self, steps: Steps) -> str:
        """A buyer whom the authorizer lets in."""
        sub = str(steps.buyer().sub)
        steps.ledger.set_live(sub, Live(True, 5), 1)
        return sub

    def test_of_who_pays_is_what_they_pay_for(self, look: Lookup, sub: str) -> None:
        live = {"active": True, "dapp_limit": 5}
        assert self.lives(look()) == ({"sub": sub, **live}, live)
        assert look(access={"dapp_limit": 7})["live_target"] == {"active": True, "dapp_limit": 7}

    def test_of_a_row_from_an_earlier_version_is_nothing_yet(self, steps: Steps, look: Lookup) -> None:
        sub = steps.buyer().sub
        assert self.lives(look()) == ({"sub": sub, **self.NOTHING}, {"active": True, "dapp_limit": 5})

    def test_of_who_does_not_pay_should_be_nothing(self, look: Lookup, sub: str) -> None:
        assert look(access={"wanted": False, "dapp_limit": 0})["live_target"] == self.NOTHING

    def test_of_who_is_banned_should_be_nothing(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.users.update(sub, disabled_by="operator")
        steps.users.disable(sub)
        assert look()["live_target"] == self.NOTHING

    def test_of_who_is_held_should_be_nothing_although_cognito_does_not_know(
        self, steps: Steps, look: Lookup, sub: str
    ) -> None:
        steps.ledger.hold(sub, {"reason": "spam", "requested_by": "jo", "at": 1})
        assert self.lives(look()) == ({"sub": sub, **self.NOTHING}, self.NOTHING)

    def test_of_who_is_left_alone_is_what_it_was(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.users.update(sub, dapp_limit=3)
        assert look(access={"wanted": None})["live_target"] == {"active": True, "dapp_limit": 5}

    def test_of_an_adopted_user_whose_grant_has_ended_should_be_nothing(self, steps: Steps, look: Lookup) -> None:
        sub = str(steps.buyer(EMAIL, "cus_other", provider="NONE").sub)
        steps.ledger.link(["cus_1"], sub, replacing=None, before={"dapp_limit": 7, "payment_status": "VIP"})
        found = look(access={"wanted": False, "dapp_limit": 0})
        assert (found["target"]["enabled"], found["live_target"]) == (True, self.NOTHING)
        assert look()["live_target"] == {"active": True, "dapp_limit": 7}

    def test_of_who_is_comped_is_what_they_have(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.write(sub, **{"custom:payment_provider": "ADMIN", "custom:num_dapps": "40"})
        assert look(access={"wanted": False, "dapp_limit": 0})["live_target"] == {"active": True, "dapp_limit": 40}

    def test_of_a_user_who_was_deleted_by_hand_should_be_nothing(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.users.delete(sub)
        assert self.lives(look()) == ({"sub": sub, "active": True, "dapp_limit": 5}, self.NOTHING)

    def test_of_a_user_who_was_deleted_by_hand_should_be_nothing_although_another_has_their_address(
        self, steps: Steps, look: Lookup, sub: str
    ) -> None:
        steps.users.delete(sub)
        other = steps.buyer(EMAIL, "cus_other")
        assert look()["user"]["sub"] == other.sub
        assert self.lives(look()) == ({"sub": sub, "active": True, "dapp_limit": 5}, self.NOTHING)

    def test_is_nobodys_where_nobody_is_linked(self, steps: Steps, look: Lookup) -> None:
        steps.buyer(EMAIL, "cus_other")
        assert self.lives(look()) == ({"sub": None, **self.NOTHING}, self.NOTHING)

    def test_of_who_is_deleted_is_not_asked_for(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.ledger.bury_person(sub, 1)
        assert self.lives(look(access={"wanted": None})) == ({"sub": None, **self.NOTHING}, self.NOTHING)


class TestAdopted:
    """Users who existed before their first purchase."""

    @pytest.fixture
    def adopted(self, steps: Steps) -> User:
        user = steps.buyer(EMAIL, "cus_other", provider="NONE")
        assert user.sub is not None
        before = {"enabled": True, "dapp_limit": 7, "payment_status": "VIP"}
        steps.ledger.link(["cus_1"], user.sub, replacing=None, before=before)
        return user

    @pytest.mark.parametrize(
        ("govern", "wanted", "target"),
        [
            (False, True, {"enabled": True, "dapp_limit": 7, "payment_status": "ACTIVE"}),
            (False, False, {"enabled": True, "dapp_limit": 7, "payment_status": "VIP"}),
            (True, True, {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}),
            (True, False, {"enabled": False, "dapp_limit": 5, "payment_status": "ACTIVE"}),
        ],
    )
    def test_are_only_granted_to_unless_they_are_governed(
        self, adopted: User, look: Lookup, govern: bool, wanted: bool, target: Json
    ) -> None:
        found = look(GOVERN=govern, access={"wanted": wanted})["target"]
        assert found == (target if wanted or not govern else {**target, "dapp_limit": 0})


class TestBanned:
    """By an operator, as the ledger has it: how the user should look is disabled, and otherwise as they are."""

    HELD: Json = {"reason": "spam", "requested_by": "jo", "at": 1}
    DISABLED: Json = {"enabled": False, "dapp_limit": 5, "payment_status": "ACTIVE"}

    @pytest.fixture
    def sub(self, steps: Steps) -> str:
        """A buyer who was banned in the ledger."""
        sub = str(steps.buyer().sub)
        steps.ledger.hold(sub, self.HELD)
        return sub

    def disable(self, steps: Steps, sub: str) -> None:
        steps.users.update(sub, disabled_by="operator")
        steps.users.disable(sub)

    @pytest.mark.parametrize("wanted", [True, False, None])
    @pytest.mark.parametrize("enabled", [True, False])
    def test_users_should_stay_as_they_are_but_disabled(
        self, steps: Steps, look: Lookup, sub: str, enabled: bool, wanted: bool | None
    ) -> None:
        """Whatever they pay, and whoever has enabled them by hand."""
        if not enabled:
            self.disable(steps, sub)
        found = look(access={"wanted": wanted, "dapp_limit": 9, "status": "LAPSED"})
        assert (found["target"], found["unbanned"]) == (self.DISABLED, enabled)
        assert found["live_target"] == {"active": False, "dapp_limit": 0}

    def test_users_without_a_limit_should_get_none(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.users.update(sub, dapp_limit=-1, payment_status="")
        assert look()["target"] == {"enabled": False, "dapp_limit": -1, "payment_status": ""}

    @pytest.mark.parametrize("govern", [True, False])
    @pytest.mark.parametrize("wanted", [True, False])
    def test_users_who_were_adopted_should_be_disabled_as_well(
        self, steps: Steps, look: Lookup, sub: str, wanted: bool, govern: bool
    ) -> None:
        """Billing would leave them enabled, with what they had."""
        before = {"enabled": True, "dapp_limit": 7, "payment_status": "VIP"}
        steps.write(sub, **{"custom:payment_provider": ""})
        steps.ledger.link(["cus_1"], sub, replacing=None, before=before)
        found = look(GOVERN=govern, access={"wanted": wanted})
        assert (found["target"], found["unbanned"]) == (self.DISABLED, True)
        assert found["live_target"] == {"active": False, "dapp_limit": 0}

    def test_users_who_are_comped_should_be_disabled_as_well(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.write(sub, **{"custom:payment_provider": "ADMIN", "custom:num_dapps": "40"})
        found = look()
        assert (found["target"], found["unbanned"]) == ({**self.DISABLED, "dapp_limit": 40}, True)
        assert found["live_target"] == {"active": False, "dapp_limit": 0}

    def test_in_cognito_alone_is_no_ban_that_was_undone(self, steps: Steps, look: Lookup) -> None:
        """An operator disabled them by hand; enabling them again is the end of it."""
        sub = str(steps.buyer().sub)
        self.disable(steps, sub)
        assert look()["unbanned"] is False
        steps.users.enable(sub)
        assert look()["unbanned"] is False

    def test_no_more_is_nothing(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.ledger.lift(sub)
        found = look()
        assert (found["target"]["enabled"], found["unbanned"]) == (True, False)

    def test_whom_the_payer_is_not_linked_to_is_not_asked_for(self, steps: Steps, look: Lookup) -> None:
        """Somebody who types the address of a banned user gets no say over them, nor a way around the ban."""
        sub = str(steps.buyer(EMAIL, "cus_other").sub)
        steps.ledger.hold(sub, self.HELD)
        found = look()
        assert (found["user"]["linked"], found["unbanned"]) == (False, False)
        assert found["live_target"] == {"active": False, "dapp_limit": 0}

    @pytest.mark.parametrize("deleting", [True, False])
    def test_is_nobodys_fault_while_the_account_is_deleted(
        self, steps: Steps, look: Lookup, sub: str, deleting: bool
    ) -> None:
        """Whoever deletes it has enabled nobody, and needs no warning."""
        steps.ledger.bury("cus_1", 1, "t1", deleting=deleting)
        found = look(access={"wanted": None})
        assert (found["unbanned"], found["target"]["enabled"]) == (not deleting, False)

    def test_user_who_was_deleted_by_hand_is_nobody(self, steps: Steps, look: Lookup, sub: str) -> None:
        steps.users.delete(sub)
        found = look()
        assert (found["unbanned"], found["live_target"]) == (False, {"active": False, "dapp_limit": 0})


# ------------------------------------------------------------------ another invitation


class TestInvite:
    @pytest.fixture
    def user(self, steps: Steps) -> User:
        """A buyer whose temporary password expired unused."""
        user = steps.buyer()
        steps.clock.now = user.created_at + 7 * DAY
        return user

    @pytest.mark.parametrize("event_type", sorted(PAYMENTS))
    def test_comes_with_a_payment_after_the_first_expired_unused(
        self, steps: Steps, look: Lookup, user: User, event_type: str
    ) -> None:
        steps.record(event_type=event_type)
        assert look()["invite"] is True

    @pytest.mark.parametrize("event_type", ["customer.updated", "invoice.payment_failed", "gateway.recheck"])
    def test_comes_with_nothing_but_a_payment(self, steps: Steps, look: Lookup, user: User, event_type: str) -> None:
        steps.record(event_type=event_type)
        assert look()["invite"] is False

    def test_does_not_come_before_the_first_expired(self, steps: Steps, look: Lookup, user: User) -> None:
        steps.record()
        steps.clock.now -= 1
        assert look()["invite"] is False

    def test_does_not_come_twice_for_one_payment(self, steps: Steps, look: Lookup, user: User) -> None:
        assert user.sub is not None
        steps.ledger.invited(user.sub, Invitation(1, 1, "in_1"))
        steps.record()
        steps.record("evt_2", order_id="in_2")
        assert look()["invite"] is False
        assert look(event_id="evt_2", order_id="in_2")["invite"] is True

    @pytest.mark.parametrize(("later", "invite"), [(0, True), (-1, False)])
    def test_comes_an_hour_after_one_that_did_not_leave_whatever_the_run_is_about(
        self, steps: Steps, look: Lookup, user: User, later: int, invite: bool
    ) -> None:
        assert user.sub is not None
        steps.ledger.invited(user.sub, Invitation(retry_at=int(steps.clock.now)))
        steps.record(event_type="gateway.recheck")
        steps.clock.now += later
        assert look()["invite"] is invite

    @pytest.mark.parametrize(("resent", "invite"), [(2, True), (3, False)])
    def test_comes_three_times(self, steps: Steps, look: Lookup, user: User, resent: int, invite: bool) -> None:
        assert user.sub is not None
        steps.ledger.invited(user.sub, Invitation(1, resent, "in_0"))
        steps.record()
        assert look()["invite"] is invite

    def test_does_not_come_to_who_signed_in(self, steps: Steps, look: Lookup, user: User) -> None:
        assert user.sub is not None
        steps.sign_in(user.sub)
        steps.record()
        assert look()["invite"] is False

    def test_does_not_come_to_who_is_disabled(self, steps: Steps, look: Lookup, user: User) -> None:
        assert user.sub is not None
        steps.users.disable(user.sub)
        steps.record()
        assert look()["invite"] is False

    @pytest.mark.parametrize("wanted", [False, None])
    def test_does_not_come_to_who_does_not_pay(
        self, steps: Steps, look: Lookup, user: User, wanted: bool | None
    ) -> None:
        steps.record()
        assert look(access={"wanted": wanted})["invite"] is False

    def test_does_not_come_to_who_is_found_by_e_mail_alone(self, steps: Steps, look: Lookup) -> None:
        user = steps.buyer(EMAIL, "cus_other")
        steps.clock.now = user.created_at + 7 * DAY
        steps.record()
        assert look()["invite"] is False

    @pytest.mark.parametrize(("days", "invite"), [(7, True), (8, False)])
    def test_waits_as_long_as_the_pools_passwords_live(
        self, steps: Steps, look: Lookup, user: User, days: int, invite: bool
    ) -> None:
        steps.record()
        assert look(VALIDITY=days * DAY)["invite"] is invite

    def test_reads_the_order_only_when_that_decides(self, steps: Steps, look: Lookup, user: User) -> None:
        """Most runs are about people who have signed in."""
        with pytest.raises(LedgerRejected):
            look()
        steps.clock.now -= 1
        assert look()["invite"] is False


# ------------------------------------------------------------------ another address


class TestRename:
    @pytest.fixture
    def user(self, steps: Steps) -> User:
        """A buyer who signed in, and whose address in Stripe is another by now."""
        user = steps.buyer()
        assert user.sub is not None
        steps.ledger.claim_email("cus_1", EMAIL)
        steps.ledger.note_party("cus_1", email=NEW_EMAIL, subscribed=True)
        return user

    def test_follows_the_payer(self, look: Lookup, user: User, counted: Callable[[], dict[str, float]]) -> None:
        found = look(FOLLOW=True)
        assert found["rename"] is True
        assert found["user"] == replace(user, renamed=True).facts()
        assert counted() == {}

    def test_is_only_counted_unless_the_operator_wants_it(
        self, look: Lookup, user: User, counted: Callable[[], dict[str, float]], lines: list[str]
    ) -> None:
        found = look()
        assert (found["rename"], found["user"]["renamed"]) == (False, True)
        assert counted() == {"EmailDiffers": 1}
        assert any("EmailDiffers: cus_1" in json.loads(line)["message"] for line in lines)
        assert not any("@" in line for line in lines)

    def test_is_not_for_a_user_of_several_customers(
        self, steps: Steps, look: Lookup, user: User, counted: Callable[[], dict[str, float]]
    ) -> None:
        assert user.sub is not None
        steps.ledger.link(["cus_2"], user.sub, replacing=None)
        assert look(FOLLOW=True)["rename"] is False
        assert counted() == {"EmailDiffers": 1}

    def test_is_not_for_a_user_whom_we_did_not_make(
        self, steps: Steps, look: Lookup, user: User, counted: Callable[[], dict[str, float]]
    ) -> None:
        assert user.sub is not None
        steps.write(user.sub, **{"custom:payment_provider": "NONE"})
        assert look(FOLLOW=True)["rename"] is False
        assert counted() == {"EmailDiffers": 1}

    def test_does_not_undo_what_an_operator_wrote(
        self, steps: Steps, look: Lookup, user: User, counted: Callable[[], dict[str, float]]
    ) -> None:
        assert user.sub is not None
        steps.users.rename(user.sub, "by-hand@example.com")
        assert look(FOLLOW=True)["rename"] is False
        assert counted() == {"EmailDiffers": 1}

    @pytest.mark.parametrize("follow", [True, False])
    def test_is_never_onto_an_address_that_another_user_has(
        self,
        steps: Steps,
        look: Lookup,
        user: User,
        counted: Callable[[], dict[str, float]],
        lines: list[str],
        follow: bool,
    ) -> None:
        steps.users.create(NEW_EMAIL, dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")
        assert look(FOLLOW=follow)["rename"] is False
        assert counted() == {"EmailConflict": 1}
        assert any("EmailConflict" in json.loads(line)["message"] for line in lines)
        assert not any("@" in line for line in lines)

    def test_is_never_onto_an_address_that_another_user_got_the_same_way(
        self, steps: Steps, look: Lookup, user: User, counted: Callable[[], dict[str, float]]
    ) -> None:
        other, _ = steps.users.create("other@example.com", dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")
        steps.users.rename(other, NEW_EMAIL)
        assert look(FOLLOW=True)["rename"] is False
        assert counted() == {"EmailConflict": 1}

    @pytest.mark.parametrize(
        ("follow", "parties", "rename"), [(True, ["cus_1"], True), (False, ["cus_1"], False), (True, ["cus_2"], False)]
    )
    def test_is_ended_after_a_kill_that_came_between_address_and_note(
        self, steps: Steps, look: Lookup, user: User, follow: bool, parties: list[str], rename: bool
    ) -> None:
        assert user.sub is not None
        steps.ledger.link(parties, user.sub, replacing=None)
        steps.users.rename(user.sub, NEW_EMAIL)
        assert look(FOLLOW=follow)["rename"] is rename
        steps.ledger.claim_email("cus_1", NEW_EMAIL)
        assert look(FOLLOW=follow)["rename"] is False

    def test_of_a_user_whose_address_we_never_wrote_is_none(self, steps: Steps, look: Lookup) -> None:
        """Only joined, so nothing was claimed."""
        steps.buyer()
        assert look(FOLLOW=True)["rename"] is False

    @pytest.mark.parametrize("wanted", [False, None])
    def test_waits_until_they_pay(
        self, look: Lookup, user: User, counted: Callable[[], dict[str, float]], wanted: bool | None
    ) -> None:
        assert look(FOLLOW=True, access={"wanted": wanted})["rename"] is False
        assert counted() == {}

    @pytest.mark.parametrize("email", [EMAIL, None])
    def test_is_none_when_the_address_is_the_same_or_gone(
        self, steps: Steps, look: Lookup, user: User, counted: Callable[[], dict[str, float]], email: str | None
    ) -> None:
        steps.ledger.note_party("cus_1", email=email, subscribed=True)
        found = look(FOLLOW=True)
        assert (found["rename"], found["user"]["renamed"]) == (False, False)
        assert counted() == {}


def test_the_templates_defaults_are_the_careful_ones(resources: dict[str, Any]) -> None:
    found = module("LookupUser")
    days = resources["UserPool"]["Policies"]["PasswordPolicy"]["TemporaryPasswordValidityDays"]
    assert (False, False, int(days) * DAY) == (found.GOVERN, found.FOLLOW, found.VALIDITY)


def test_looking_changes_nothing(steps: Steps, look: Lookup) -> None:
    user = steps.buyer()
    before = steps.row(f"PERSON#{user.sub}", "PERSON"), len(moto_fixes.outbox)
    steps.record()
    steps.clock.now = user.created_at + 30 * DAY
    assert look()["invite"] is True
    assert (steps.row(f"PERSON#{user.sub}", "PERSON"), len(moto_fixes.outbox)) == before
