"""resend_invitation.handler: one more mail to who never signed in, and what is written down about it."""

from collections.abc import Callable
from typing import Any

import pytest

from gateway.access import MAIL_RETRY, Invitation, User
from gateway.errors import CognitoRejected, CognitoThrottled, CognitoUnavailable, GatewayError
from tests.local import moto_fixes
from tests.unit.steps import EMAIL, Json, Steps, Then

UNCHANGED = {"before": None, "after": None}
BEFORE = Invitation(1_000, 1, "in_0")  # one was sent again, long ago
Resend = Callable[..., Json]


@pytest.fixture
def user(steps: Steps) -> User:
    """A buyer who never signed in."""
    user = steps.buyer()
    moto_fixes.outbox.clear()
    steps.ledger.invited(str(user.sub), BEFORE)
    return user


@pytest.fixture
def resend(steps: Steps, user: User) -> Resend:
    """ResendInvitation's answer."""
    return lambda **given: steps.run("ResendInvitation", steps.state(user), **given)


@pytest.fixture
def kept(steps: Steps, user: User) -> Callable[[], Invitation]:
    """What is known of the user's invitations."""

    def read() -> Invitation:
        person = steps.ledger.person(str(user.sub))
        assert person is not None
        return person.invitation

    return read


class Failing:
    """Users whose invitation ends like this."""

    def __init__(self, users: Any, error: BaseException) -> None:
        self._users, self._error = users, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._users, name)

    def invite_again(self, sub: str) -> None:
        raise self._error


def test_a_mail_that_leaves_is_written_down_with_the_payment_it_answers(
    steps: Steps, resend: Resend, kept: Callable[[], Invitation], counted: Callable[[], dict[str, float]]
) -> None:
    assert resend() == UNCHANGED
    assert steps.mails == [EMAIL]
    assert kept() == Invitation(int(steps.clock.now), 2, "in_1")
    assert counted() == {}


def test_it_passes_on_what_the_execution_changed_before(steps: Steps, user: User) -> None:
    change = {"before": None, "after": {"enabled": True, "dapp_limit": 5, "payment_status": "ACTIVE"}}
    assert steps.run("ResendInvitation", steps.state(user, change=change)) == change


class TestMailThatDoesNotLeave:
    def test_is_counted_and_tried_again_in_an_hour(
        self,
        steps: Steps,
        resend: Resend,
        kept: Callable[[], Invitation],
        mail: moto_fixes.Mail,
        counted: Callable[[], dict[str, float]],
        lines: list[str],
    ) -> None:
        mail.fail(1)
        assert resend() == UNCHANGED
        now = int(steps.clock.now)
        assert (steps.mails, kept()) == ([], Invitation(now, 2, "in_1", now + MAIL_RETRY))
        assert counted() == {"MailFailed": 1}
        assert not any("@" in line for line in lines)

    def test_because_of_the_quota_is_none_of_the_three(
        self,
        steps: Steps,
        resend: Resend,
        kept: Callable[[], Invitation],
        mail: moto_fixes.Mail,
        counted: Callable[[], dict[str, float]],
    ) -> None:
        mail.exhaust(1)
        assert resend() == UNCHANGED
        now = int(steps.clock.now)
        assert (steps.mails, kept()) == ([], Invitation(now, 1, "in_1", now + MAIL_RETRY))
        assert counted() == {"MailFailed": 1}

    @pytest.mark.parametrize("error", [CognitoThrottled("later"), CognitoRejected("signed in meanwhile")])
    def test_because_cognito_refused_leaves_no_trace(
        self, steps: Steps, resend: Resend, kept: Callable[[], Invitation], error: GatewayError
    ) -> None:
        """The state is entered again, and must not take it for sent."""
        with pytest.raises(type(error)):
            resend(users=Failing(steps.users, error))
        assert kept() == BEFORE
        resend()
        assert steps.mails == [EMAIL]

    @pytest.mark.parametrize(
        "error", [CognitoUnavailable("no answer"), KeyboardInterrupt()], ids=["no answer", "killed"]
    )
    def test_as_far_as_anybody_knows_is_tried_again_in_an_hour(
        self, steps: Steps, resend: Resend, kept: Callable[[], Invitation], error: BaseException
    ) -> None:
        """Written first: a kill costs a second mail, never the only one."""
        with pytest.raises(type(error)):
            resend(users=Failing(steps.users, error))
        now = int(steps.clock.now)
        assert kept() == Invitation(now, 2, "in_1", now + MAIL_RETRY)


class TestNothing:
    def test_is_sent_when_another_run_has_sent_it_meanwhile(
        self, steps: Steps, resend: Resend, user: User, kept: Callable[[], Invitation]
    ) -> None:
        sent = Invitation(int(steps.clock.now), 2, "in_2")
        steps.ledger.invited(str(user.sub), sent)
        assert resend() == UNCHANGED
        assert (steps.mails, kept()) == ([], sent)

    def test_is_sent_when_a_second_invocation_of_the_task_comes_later(
        self, steps: Steps, resend: Resend, user: User
    ) -> None:
        given = steps.state(user)
        steps.run("ResendInvitation", given)
        steps.clock.now += 25
        steps.run("ResendInvitation", given)
        assert steps.mails == [EMAIL]

    def test_is_sent_to_who_signed_in_meanwhile(
        self, steps: Steps, resend: Resend, user: User, kept: Callable[[], Invitation]
    ) -> None:
        signs_in = Then(steps.ledger, "person", lambda: steps.sign_in(str(user.sub)))
        assert resend(ledger=signs_in) == UNCHANGED
        assert (steps.mails, kept()) == ([], BEFORE)

    def test_is_sent_to_who_is_no_persons_user(self, steps: Steps) -> None:
        sub, _ = steps.users.create("other@example.com", dapp_limit=5, payment_status="ACTIVE", customer_id="cus_9")
        moto_fixes.outbox.clear()
        assert steps.run("ResendInvitation", steps.state(steps.seen(sub))) == UNCHANGED
        assert steps.mails == []
