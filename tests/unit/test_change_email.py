"""change_email.handler: the user follows their payer to another address, or nothing happens."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from gateway.access import User
from gateway.errors import CognitoThrottled, MailNotDelivered
from tests.unit.steps import EMAIL, Json, Steps, Then

NEW_EMAIL = "new@example.com"
UNCHANGED = {"before": None, "after": None}
Change = Callable[..., Json]


@pytest.fixture
def user(steps: Steps) -> User:
    """A buyer whose payer has another address in Stripe by now, as LookupUser saw them."""
    user = steps.buyer()
    steps.ledger.claim_email("cus_1", EMAIL)
    steps.ledger.note_party("cus_1", email=NEW_EMAIL, subscribed=True)
    return replace(user, renamed=True)


@pytest.fixture
def change(steps: Steps, user: User) -> Change:
    """ChangeEmail's answer."""
    return lambda **given: steps.run("ChangeEmail", steps.state(user), **given)


def addresses(steps: Steps, user: User) -> tuple[str, str | None]:
    """The user's own, and the one that we know to have given them."""
    return steps.users.email(str(user.sub)), steps.ledger.party("cus_1").claimed_email


def test_the_user_gets_the_address_and_it_is_written_down(
    steps: Steps, change: Change, user: User, counted: Callable[[], dict[str, float]]
) -> None:
    assert change() == UNCHANGED
    assert addresses(steps, user) == (NEW_EMAIL, NEW_EMAIL)
    assert steps.users.get(str(user.sub), NEW_EMAIL) == replace(user, linked=False, renamed=False)
    assert counted() == {}


def test_it_passes_on_what_the_execution_changed_before(steps: Steps, user: User) -> None:
    so_far = {"before": None, "after": {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}}
    assert steps.run("ChangeEmail", steps.state(user, change=so_far)) == so_far


def test_a_kill_before_it_is_written_down_is_mended(steps: Steps, change: Change, user: User) -> None:
    def killed() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change(users=Then(steps.users, "rename", killed))
    assert addresses(steps, user) == (NEW_EMAIL, EMAIL)
    steps.clock.now += 60
    assert steps.run("LookupUser", steps.state(), FOLLOW=True)["rename"] is True
    given = steps.state(replace(user, renamed=False))
    assert steps.run("ChangeEmail", given, users=Then(steps.users, "rename", pytest.fail)) == UNCHANGED
    assert addresses(steps, user) == (NEW_EMAIL, NEW_EMAIL)
    assert steps.run("LookupUser", steps.state(), FOLLOW=True)["rename"] is False


def test_a_code_that_did_not_leave_is_counted_and_the_address_is_changed(
    steps: Steps, change: Change, user: User, counted: Callable[[], dict[str, float]], lines: list[str]
) -> None:
    def undelivered() -> None:
        raise MailNotDelivered("the mail could not leave")

    assert change(users=Then(steps.users, "rename", undelivered)) == UNCHANGED
    assert addresses(steps, user) == (NEW_EMAIL, NEW_EMAIL)
    assert counted() == {"MailFailed": 1}
    assert any("MailFailed" in line for line in lines)
    assert not any("@" in line for line in lines)


class TestNothing:
    """Happens; the next look sees why."""

    def test_when_somebody_has_taken_the_address(self, steps: Steps, change: Change, user: User) -> None:
        def taken() -> None:
            steps.users.create(NEW_EMAIL, dapp_limit=1, payment_status="ACTIVE", customer_id="cus_9")

        assert change(ledger=Then(steps.ledger, "person", taken)) == UNCHANGED
        assert addresses(steps, user) == (EMAIL, EMAIL)  # nor may a later run take that user for ours

    def test_when_another_customer_was_linked_meanwhile(self, steps: Steps, change: Change, user: User) -> None:
        steps.ledger.link(["cus_2"], str(user.sub), replacing=None)
        assert change() == UNCHANGED
        assert addresses(steps, user) == (EMAIL, EMAIL)

    def test_when_the_payer_has_no_address_any_more(self, steps: Steps, change: Change, user: User) -> None:
        steps.ledger.note_party("cus_1", email=None, subscribed=True)
        assert change() == UNCHANGED
        assert addresses(steps, user) == (EMAIL, EMAIL)

    def test_when_the_payer_has_the_old_address_again(self, steps: Steps, change: Change, user: User) -> None:
        steps.ledger.note_party("cus_1", email=EMAIL, subscribed=True)
        assert change() == UNCHANGED
        assert addresses(steps, user) == (EMAIL, EMAIL)

    def test_when_the_user_is_no_persons(self, steps: Steps) -> None:
        sub, _ = steps.users.create(EMAIL, dapp_limit=5, payment_status="ACTIVE", customer_id="cus_9")
        steps.ledger.note_party("cus_1", email=NEW_EMAIL, subscribed=True)
        assert steps.run("ChangeEmail", steps.state(replace(steps.seen(sub), renamed=True))) == UNCHANGED
        assert steps.users.email(sub) == EMAIL


def test_while_cognito_throttles_the_run_waits(steps: Steps, change: Change, user: User) -> None:
    class Throttled:
        def __getattr__(self, name: str) -> Any:
            return getattr(steps.users, name)

        def rename(self, sub: str, email: str) -> None:
            raise CognitoThrottled("later")

    with pytest.raises(CognitoThrottled):
        change(users=Throttled())
    assert addresses(steps, user) == (EMAIL, EMAIL)
    change()
    assert addresses(steps, user) == (NEW_EMAIL, NEW_EMAIL)
