"""create_user.handler: a buyer's user is made once, with the mail, the link and the limit."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import MAIL_RETRY, Invitation, User
from gateway.errors import CognitoThrottled, EmailUnusable, MailLimitReached, PersonBusy
from gateway.ledger import Person
from tests.local import moto_fixes
from tests.unit.steps import EMAIL, NOW, Json, Steps, Then

AFTER = {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}
UNCHANGED = {"before": None, "after": None}
Create = Callable[..., Json]


@pytest.fixture
def create(steps: Steps) -> Create:
    """CreateUser's answer, for a payer of whom LookupUser saw no user."""
    steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
    return lambda **given: steps.run("CreateUser", steps.state(User(exists=False)), **given)


def made(steps: Steps) -> User:
    user = steps.users.find(EMAIL)
    assert user is not None
    return user


def person(steps: Steps) -> Person:
    found = steps.ledger.person(str(made(steps).sub))
    assert found is not None
    return found


class TestUser:
    def test_is_made_invited_and_linked(
        self, steps: Steps, create: Create, counted: Callable[[], dict[str, float]]
    ) -> None:
        assert create() == {"before": None, "after": AFTER}
        user = made(steps)
        assert replace(user, created_at=0) == User(
            True, user.sub, enabled=True, provider="STRIPE", dapp_limit=5, payment_status="ACTIVE", invited=True
        )
        assert steps.mails == [EMAIL]
        assert (person(steps).parties, person(steps).invitation) == (frozenset({"cus_1"}), Invitation())
        assert steps.ledger.party("cus_1").claimed_email == EMAIL
        assert counted() == {}

    def test_names_the_customer_or_nobody(self, steps: Steps) -> None:
        steps.ledger.note_party("cs_1", email=EMAIL, subscribed=False)
        steps.run("CreateUser", steps.state(User(exists=False), parties=["cs_1"]))
        kept = steps.cognito.admin_get_user(UserPoolId=steps.pool_id, Username=EMAIL)["UserAttributes"]
        assert "custom:stripe_customer_id" not in [each["Name"] for each in kept]
        assert person(steps).parties == {"cs_1"}

    def test_needs_an_address(self, steps: Steps, create: Create) -> None:
        steps.ledger.note_party("cus_1", email=None, subscribed=True)
        with pytest.raises(EmailUnusable, match="cus_1 has no usable e-mail address"):
            create()

    def test_follows_one_that_was_deleted_by_hand_with_all_its_customers(self, steps: Steps, create: Create) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        create()
        assert person(steps).parties == {"cus_1", "cus_2"}

    def test_is_the_one_that_another_customers_killed_run_has_made(self, steps: Steps, create: Create) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        steps.ledger.claim_email("cus_2", "other@example.com")
        sub, _ = steps.users.create("other@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_2")
        assert create() == UNCHANGED
        assert {steps.ledger.party(each).sub for each in ("cus_1", "cus_2")} == {sub}
        assert steps.mails == ["other@example.com"]

    def test_is_not_somebody_elses_whom_another_customer_only_shares_an_address_with(
        self, steps: Steps, create: Create
    ) -> None:
        steps.ledger.link(["cus_1", "cus_2"], "u-gone", replacing=None)
        steps.ledger.note_party("cus_2", email="other@example.com", subscribed=True)
        steps.users.create("other@example.com", dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")
        assert create()["after"] == AFTER
        assert person(steps).parties == {"cus_1", "cus_2"}


class TestRace:
    def test_for_an_address_makes_one_user(self, steps: Steps, create: Create) -> None:
        """Another payer with the same address was first; the next look finds the user."""

        def first() -> None:
            steps.users.create(EMAIL, dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")

        assert create(ledger=Then(steps.ledger, "claim_email", first)) == UNCHANGED
        assert (made(steps).dapp_limit, steps.mails) == (1, [EMAIL])

    def test_for_the_link_is_lost_without_a_change(self, steps: Steps, create: Create) -> None:
        def first() -> None:
            steps.ledger.link(["cus_1"], "u-other", replacing=None)

        assert create(users=Then(steps.users, "create", first)) == UNCHANGED
        assert steps.ledger.party("cus_1").sub == "u-other"

    def test_for_the_lease_is_seen_by_who_has_it(self, steps: Steps, create: Create) -> None:
        """The lease is on the customer until a user is linked, and on the user from then on."""

        def first() -> None:
            steps.ledger.link(["cus_1"], "u-other", replacing=None)

        assert create(ledger=Then(steps.ledger, "party", first)) == UNCHANGED
        assert steps.users.find(EMAIL) is None

    def test_with_a_kill_leaves_a_user_that_is_recognised(self, steps: Steps, create: Create) -> None:
        def killed() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            create(users=Then(steps.users, "create", killed))
        steps.ledger.note_party("cus_1", email="changed@example.com", subscribed=True)
        found = steps.run("LookupUser", steps.state())["user"]
        assert (found["sub"], found["claimed"], found["linked"]) == (made(steps).sub, True, False)
        with pytest.raises(PersonBusy):  # a killed run gives no lease back
            steps.ledger.acquire("cus_1", "another invocation", NOW)


class TestMail:
    def test_that_did_not_leave_is_counted_and_sent_again_in_an_hour(
        self,
        steps: Steps,
        create: Create,
        mail: moto_fixes.Mail,
        counted: Callable[[], dict[str, float]],
        lines: list[str],
    ) -> None:
        mail.fail(1)
        assert create() == {"before": None, "after": AFTER}
        assert (steps.mails, person(steps).invitation) == ([], Invitation(retry_at=NOW + MAIL_RETRY))
        assert counted() == {"MailFailed": 1}
        assert any("MailFailed" in line for line in lines)
        assert not any("@" in line for line in lines)

    def test_over_the_quota_fails_the_run_and_makes_nobody(
        self, steps: Steps, create: Create, mail: moto_fixes.Mail
    ) -> None:
        mail.exhaust(1)
        with pytest.raises(MailLimitReached):
            create()
        assert steps.users.find(EMAIL) is None
        assert create()["after"] == AFTER  # the next run, with the next day's quota

    def test_waits_while_cognito_throttles(self, steps: Steps, create: Create) -> None:
        class Throttled:
            def __getattr__(self, name: str) -> Any:
                return getattr(steps.users, name)

            def create(self, *args: object, **kwargs: object) -> None:
                raise CognitoThrottled("later")

        with pytest.raises(CognitoThrottled):
            create(users=Throttled())
        assert create()["after"] == AFTER
