"""The handlers that write to users: what all of them share, and what is not told in a file of its own."""

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import MAIL_RETRY, Before, Invitation, Live, User
from gateway.errors import CognitoUnavailable, PersonBusy
from gateway.ledger import LEASE_SECONDS, MAX_ATTEMPTS, Attempt, Ledger, Person
from tests.unit.steps import ARN, EMAIL, NOW, Json, Steps, Then

NEW_EMAIL = "new@example.com"
UNCHANGED = {"before": None, "after": None}
STOOD = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}


def buyer(steps: Steps) -> User:
    """Linked, paying, invited."""
    return steps.buyer()


def nobody(steps: Steps) -> User:
    """Pays, and has no user."""
    steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
    return User(exists=False)


def joined(steps: Steps) -> User:
    """Found by their e-mail, and another customer's user."""
    user = steps.buyer(EMAIL, "cus_other")
    return replace(user, linked=False)


def disabled(steps: Steps) -> User:
    user = steps.buyer()
    assert user.sub is not None
    steps.users.update(user.sub, disabled_by="billing", dapp_limit=0, payment_status="FAILED")
    steps.users.disable(user.sub)
    return steps.seen(user.sub)


def moved(steps: Steps) -> User:
    """Whose payer has another address by now."""
    user = steps.buyer()
    assert user.sub is not None
    steps.ledger.note_party("cus_1", email=NEW_EMAIL, subscribed=True)
    return replace(user, renamed=True)


# State -> the user for whom it is entered.
WRITERS: dict[str, Callable[[Steps], User]] = {
    "CreateUser": nobody,
    "LinkUser": joined,
    "EnableUser": disabled,
    "DisableUser": buyer,
    "SetDappLimit": buyer,
    "SetLiveAccess": buyer,
    "ResendInvitation": buyer,
    "ChangeEmail": moved,
}


def live(steps: Steps, user: User) -> Live:
    """What the authorizer lets the user do."""
    person = steps.ledger.person(str(user.sub))
    assert person is not None
    return person.live


def everything(steps: Steps) -> Any:
    """All users and all rows but leases."""
    users = steps.cognito.list_users(UserPoolId=steps.pool_id)["Users"]
    rows = steps.dynamodb.scan(TableName="orders", ConsistentRead=True)["Items"]
    kept = sorted(json.dumps(row, sort_keys=True) for row in rows if not row["pk"]["S"].startswith("LEASE#"))
    return json.dumps(users, default=str), kept, steps.mails


@pytest.mark.parametrize("state", WRITERS)
class TestAnyWriter:
    def test_does_what_it_was_entered_for(self, steps: Steps, state: str) -> None:
        given = steps.state(WRITERS[state](steps))
        given["lookup"]["target"] |= {"dapp_limit": 9}
        given["lookup"]["live_target"] |= {"dapp_limit": 9}
        before = everything(steps)
        steps.run(state, given)
        assert everything(steps) != before

    def test_writes_nothing_while_somebody_else_writes(self, steps: Steps, state: str) -> None:
        user = WRITERS[state](steps)
        subject = steps.ledger.party("cus_1").subject
        steps.ledger.acquire(subject, "another invocation", int(steps.clock.now))
        before = everything(steps)
        with pytest.raises(PersonBusy):
            steps.run(state, steps.state(user))
        assert everything(steps) == before

    def test_gives_the_lease_back(self, steps: Steps, state: str) -> None:
        user = WRITERS[state](steps)
        subject = steps.ledger.party("cus_1").subject
        steps.run(state, steps.state(user))
        steps.ledger.acquire(subject, "another invocation", int(steps.clock.now))

    def test_writes_nothing_to_a_user_who_is_not_as_they_were_seen(self, steps: Steps, state: str) -> None:
        user = WRITERS[state](steps)
        before = everything(steps)
        given = steps.state(replace(user, dapp_limit=99))
        assert steps.run(state, given) == UNCHANGED
        assert everything(steps) == before

    def test_that_writes_nothing_answers_what_was_changed_before(self, steps: Steps, state: str) -> None:
        change = {"before": None, "after": STOOD}
        given = steps.state(replace(WRITERS[state](steps), dapp_limit=99), change=change)
        assert steps.run(state, given) == change


def test_a_write_without_an_answer_keeps_the_lease_until_it_cannot_arrive_any_more(steps: Steps) -> None:
    user = steps.buyer()
    assert user.sub is not None
    now = int(steps.clock.now)

    def silence() -> None:
        raise CognitoUnavailable("no answer")

    with pytest.raises(CognitoUnavailable):
        steps.run("SetDappLimit", steps.state(user), users=Then(steps.users, "update", silence))
    with pytest.raises(PersonBusy):
        steps.ledger.acquire(user.sub, "another invocation", now + LEASE_SECONDS - 1)
    steps.ledger.acquire(user.sub, "another invocation", now + LEASE_SECONDS)


# ------------------------------------------------------------------ limit, access


class TestSetDappLimit:
    def test_writes_limit_and_status_and_why(self, steps: Steps) -> None:
        user = steps.buyer()
        given = steps.state(user, access={"dapp_limit": 9, "status": "LAPSED"})
        after = {"enabled": True, "dapp_limit": 9, "payment_status": "LAPSED"}
        assert steps.run("SetDappLimit", given) == {"before": STOOD, "after": after}
        assert steps.users.get(str(user.sub)) == replace(user, linked=False, dapp_limit=9, payment_status="LAPSED")
        expected = {"before": STOOD, "after": after, "reason": "sub_1 active", "execution": f"{ARN}evt_1"}
        assert steps.row(f"PERSON#{user.sub}", "PERSON")["last_change"] == {**expected, "at": steps.clock.now}

    def test_has_the_limit_hold_before_cognito_knows(self, steps: Steps) -> None:
        user = steps.buyer()

        def killed() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            steps.run("SetDappLimit", steps.state(user), ledger=Then(steps.ledger, "set_live", killed))
        assert live(steps, user) == Live(True, 5)


class TestSetLiveAccess:
    def test_tells_the_authorizer_and_changes_nothing_else(self, steps: Steps) -> None:
        user = steps.buyer()
        assert steps.run("SetLiveAccess", steps.state(user)) == UNCHANGED
        assert live(steps, user) == Live(True, 5)
        assert steps.users.get(str(user.sub)) == replace(user, linked=False)

    def test_tells_of_a_user_who_was_deleted_by_hand(self, steps: Steps) -> None:
        user = steps.buyer()
        steps.ledger.set_live(str(user.sub), Live(True, 5), NOW)
        steps.users.delete(str(user.sub))
        given = steps.state(User(exists=False))
        given["lookup"] |= {"live": {"sub": user.sub, "active": True, "dapp_limit": 5}}
        given["lookup"] |= {"live_target": {"active": False, "dapp_limit": 0}}
        steps.run("SetLiveAccess", given)
        assert live(steps, user) == Live()


class TestDisableUser:
    def test_has_the_authorizer_refuse_them_before_cognito_knows(self, steps: Steps) -> None:
        user = steps.buyer()
        steps.ledger.set_live(str(user.sub), Live(True, 5), NOW)
        given = steps.state(user, access={"wanted": False, "dapp_limit": 0, "status": "FAILED"})
        given["lookup"]["live_target"] = {"active": False, "dapp_limit": 0}

        def killed() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            steps.run("DisableUser", given, ledger=Then(steps.ledger, "set_live", killed))
        assert live(steps, user) == Live()
        assert steps.users.get(str(user.sub)) == replace(user, linked=False)

    @pytest.mark.parametrize("active", [True, False])
    def test_has_old_tokens_stay_refused_when_it_ends_something(self, steps: Steps, active: bool) -> None:
        user = steps.buyer()
        given = steps.state(user, access={"wanted": False, "dapp_limit": 0, "status": "FAILED"})
        given["lookup"]["live"] |= {"active": active, "dapp_limit": 5}
        given["lookup"]["live_target"] = {"active": False, "dapp_limit": 0}
        steps.run("DisableUser", given)
        person = steps.ledger.person(str(user.sub))
        assert person is not None
        assert person.signed_out_at == (int(steps.clock.now) if active else 0)

    def test_says_who_disables_before_it_does(self, steps: Steps) -> None:
        """A kill in between must not look like an operator's ban."""
        user = steps.buyer()
        given = steps.state(user, access={"wanted": False, "dapp_limit": 0, "status": "FAILED"})

        def killed() -> None:
            raise KeyboardInterrupt

        for name in ("update", "sign_out", "disable"):
            with pytest.raises(KeyboardInterrupt):
                steps.run("DisableUser", given, users=Then(steps.users, name, killed))
            found = steps.users.get(str(user.sub))
            assert found is not None
            assert (found.disabled_by, found.held, found.enabled) == ("billing", False, name != "disable")
            given = steps.state(replace(found, linked=True), access={"wanted": False, "dapp_limit": 0})
            given["lookup"]["target"] |= {"enabled": False, "payment_status": "FAILED"}

    def test_leaves_limit_and_status_of_the_target(self, steps: Steps) -> None:
        user = steps.buyer()
        given = steps.state(user, access={"wanted": False, "dapp_limit": 0, "status": "FAILED"})
        after = {"enabled": False, "dapp_limit": 0, "payment_status": "FAILED"}
        assert steps.run("DisableUser", given) == {"before": STOOD, "after": after}
        expected = replace(user, linked=False, enabled=False, disabled_by="billing", dapp_limit=0)
        assert steps.users.get(str(user.sub)) == replace(expected, payment_status="FAILED")


class TestDisableUserWhoIsBanned:
    """An operator's ban that somebody has undone by hand in Cognito is done again."""

    @pytest.fixture
    def banned(self, steps: Steps) -> User:
        """Banned in the ledger, enabled in Cognito, and let in by a row of an earlier version."""
        user = steps.buyer()
        steps.ledger.hold(str(user.sub), {"reason": "spam", "requested_by": "jo", "at": NOW})
        steps.ledger.set_live(str(user.sub), Live(True, 5), NOW)
        return user

    def unbanned(self, steps: Steps, user: User) -> Json:
        given = steps.state(user)
        given["lookup"] |= {"unbanned": True, "target": {**STOOD, "enabled": False}}
        given["lookup"] |= {"live": {"sub": user.sub, "active": True, "dapp_limit": 5}}
        given["lookup"] |= {"live_target": {"active": False, "dapp_limit": 0}}
        return given

    def test_disables_them_in_the_operators_name_and_leaves_limit_and_status(self, steps: Steps, banned: User) -> None:
        after = {**STOOD, "enabled": False}
        assert steps.run("DisableUser", self.unbanned(steps, banned)) == {"before": STOOD, "after": after}
        found = steps.users.get(str(banned.sub))
        assert found == replace(banned, linked=False, enabled=False, disabled_by="operator")
        assert found is not None
        assert found.held

    def test_ends_what_the_authorizer_lets_them_do_and_keeps_the_ban(self, steps: Steps, banned: User) -> None:
        steps.run("DisableUser", self.unbanned(steps, banned))
        person = steps.ledger.person(str(banned.sub))
        assert person is not None
        assert (person.live, person.signed_out_at) == (Live(), int(steps.clock.now))
        assert person.held == {"reason": "spam", "requested_by": "jo", "at": NOW}

    def test_writes_nothing_when_the_ban_was_lifted_meanwhile(self, steps: Steps, banned: User) -> None:
        given = self.unbanned(steps, banned)
        steps.ledger.lift(str(banned.sub))
        before = everything(steps)
        assert steps.run("DisableUser", given) == UNCHANGED
        assert everything(steps) == before
        steps.ledger.acquire(str(banned.sub), "another invocation", int(steps.clock.now))

    def test_says_who_disables_before_it_does(self, steps: Steps, banned: User) -> None:
        """A kill in between must not look as if billing had."""

        def killed() -> None:
            raise KeyboardInterrupt

        user = banned
        for name in ("update", "sign_out", "disable"):
            with pytest.raises(KeyboardInterrupt):
                steps.run("DisableUser", self.unbanned(steps, user), users=Then(steps.users, name, killed))
            user = steps.seen(str(banned.sub))
            assert (user.disabled_by, user.enabled) == ("operator", name != "disable")

    def test_reads_the_ban_for_nobody_else(self, steps: Steps) -> None:
        """Who does not pay is disabled by billing, ban or not."""
        user = steps.buyer()
        given = steps.state(user, access={"wanted": False, "dapp_limit": 0, "status": "FAILED"})
        steps.run("DisableUser", given)
        assert steps.seen(str(user.sub)).disabled_by == "billing"


class TestEnableUser:
    def test_clears_who_disabled_after_all_else(self, steps: Steps) -> None:
        """As long as it says billing, the next look comes back here."""
        user = disabled(steps)

        def killed() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            steps.run("EnableUser", steps.state(user), users=Then(steps.users, "enable", killed))
        found = steps.users.get(str(user.sub))
        assert found is not None
        assert (found.enabled, found.disabled_by, found.dapp_limit) == (True, "billing", 5)
        steps.run("EnableUser", steps.state(replace(found, linked=True)))
        assert steps.users.get(str(user.sub)) == replace(found, disabled_by="")

    def test_has_the_authorizer_let_them_in_when_all_else_is_done(self, steps: Steps) -> None:
        user = disabled(steps)
        told: list[User | None] = []

        class Told(Ledger):
            def set_live(self, sub: str, *live: Any) -> None:
                told.append(steps.users.get(sub))
                super().set_live(sub, *live)

        steps.run("EnableUser", steps.state(user), ledger=Told(steps.dynamodb, "orders"))
        assert told == [
            replace(user, linked=False, enabled=True, disabled_by="", dapp_limit=5, payment_status="ACTIVE")
        ]
        assert live(steps, user) == Live(True, 5)

    def test_answers_how_the_user_stood_and_stands(self, steps: Steps) -> None:
        user = disabled(steps)
        before = {"enabled": False, "dapp_limit": 0, "payment_status": "FAILED"}
        assert steps.run("EnableUser", steps.state(user)) == {"before": before, "after": STOOD}


# ------------------------------------------------------------------ links


class TestLinkUser:
    def test_joins_the_payer_and_changes_nothing_of_the_user(self, steps: Steps) -> None:
        user = joined(steps)
        assert steps.run("LinkUser", steps.state(user)) == {"before": STOOD, "after": STOOD}
        assert steps.ledger.person(str(user.sub)) == Person(str(user.sub), frozenset({"cus_1", "cus_other"}))
        assert steps.users.get(str(user.sub)) == user

    def test_keeps_how_an_adopted_user_stood(self, steps: Steps) -> None:
        user = replace(steps.buyer(EMAIL, "cus_other", provider="NONE"), linked=False)
        steps.run("LinkUser", steps.state(user))
        found = steps.ledger.person(str(user.sub))
        assert found is not None
        assert (found.before, found.told) == (Before(5, "ACTIVE"), STOOD)

    def test_takes_the_others_of_a_deleted_user_along(self, steps: Steps) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        user = joined(steps)
        steps.run("LinkUser", steps.state(user))
        assert {steps.ledger.party(each).sub for each in ("cus_1", "cus_2")} == {user.sub}

    @pytest.mark.parametrize("signed_in", [False, True])
    def test_has_the_mail_of_a_killed_creation_sent_again(self, steps: Steps, signed_in: bool) -> None:
        """Whether it left, nobody knows."""
        sub, _ = steps.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_1")
        steps.ledger.claim_email("cus_1", EMAIL)
        if signed_in:
            steps.sign_in(sub)
        user = replace(steps.seen(sub), linked=False, claimed=True)
        steps.run("LinkUser", steps.state(user))
        found = steps.ledger.person(sub)
        assert found is not None
        assert found.invitation == (Invitation() if signed_in else Invitation(retry_at=NOW + MAIL_RETRY))

    def test_leaves_the_invitations_of_a_user_made_for_another_customer_alone(self, steps: Steps) -> None:
        """Two customers bought with one address at once, and this one lost the race to create the user."""
        user = steps.buyer(EMAIL, "cus_other")
        steps.ledger.invited(str(user.sub), Invitation(1_000, 2, "in_0"))
        steps.ledger.claim_email("cus_1", EMAIL)
        steps.run("LinkUser", steps.state(replace(user, linked=False, claimed=True)))
        found = steps.ledger.person(str(user.sub))
        assert found is not None
        assert found.parties == {"cus_1", "cus_other"}
        assert found.invitation == Invitation(1_000, 2, "in_0")


# ------------------------------------------------------------------ what cannot be done now


class TestMarkUnfulfilled:
    @pytest.mark.parametrize(
        ("error", "message"),
        [
            ({"Error": "PersonBusy", "Cause": json.dumps({"errorMessage": "later"})}, "PersonBusy: later"),
            ({"Error": "States.Timeout", "Cause": "it took too long"}, "States.Timeout: it took too long"),
            ({"Error": "States.Timeout"}, "States.Timeout: "),
            ({"Error": "Lambda.Unknown", "Cause": "[]"}, "Lambda.Unknown: []"),
            ({"Error": "Lambda.Unknown", "Cause": "{}"}, "Lambda.Unknown: {}"),
        ],
    )
    def test_keeps_the_order_open_with_its_reason(
        self, steps: Steps, counted: Callable[[], dict[str, float]], error: Json, message: str
    ) -> None:
        steps.record()
        assert steps.run("MarkUnfulfilled", steps.state(error=error)) == {"retry_at": NOW + 300}
        order = steps.order()
        assert (order["state"], order["last_error"], order["due_at"]) == ("UNFULFILLED", message, NOW + 300)
        assert counted() == {"OrderUnfulfilled": 1}

    def test_raises_the_alarm_when_it_has_failed_too_often(
        self, steps: Steps, counted: Callable[[], dict[str, float]]
    ) -> None:
        steps.record()
        seen: Attempt | None = Attempt("evt_1", "in_1", "cus_1", 1, "RECEIVED", NOW)
        while seen is not None and seen.number < MAX_ATTEMPTS:
            seen = steps.ledger.next_attempt(seen, NOW)
        given = steps.state(error={"Error": "PersonBusy", "Cause": "later"})
        steps.run("MarkUnfulfilled", given, f"evt_1-r{MAX_ATTEMPTS - 1}")
        assert counted() == {"OrderUnfulfilled": 1}
        assert steps.run("MarkUnfulfilled", given, f"evt_1-r{MAX_ATTEMPTS}") == {"retry_at": NOW + 86_400}
        assert counted() == {"OrderUnfulfilled": 1, "OrderStuck": 1}
