"""gateway.users: the pool of template.yaml where moto answers as Cognito does, scripted answers where it does not."""

import functools
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from gateway.access import User
from gateway.errors import (
    CognitoRejected,
    CognitoThrottled,
    CognitoUnavailable,
    EmailUnverified,
    GatewayError,
    MailLimitReached,
    MailNotDelivered,
    UserExists,
    UserMissing,
)
from gateway.users import BILLING, Listed, ListedUsers, Users
from tests.local import moto_fixes

EMAIL = "payer@example.com"
SUB = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
NEW_EMAIL = "other@example.com"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
STANDS = User(True, SUB, enabled=True, created_at=int(CREATED.timestamp()))


class Scripted:
    """A client that gives prepared answers by operation, and remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self._answers = answers
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**request: Any) -> Any:
            self.asked.append((operation, request))
            answer = self._answers[operation]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call


def refusal(code: str, status: int = 400) -> ClientError:
    response: Any = {"Error": {"Code": code, "Message": f"{EMAIL}: {code}"}, "ResponseMetadata": {}}
    response["ResponseMetadata"]["HTTPStatusCode"] = status
    return ClientError(response, "Operation")


def found(status: str = "CONFIRMED", **attributes: str) -> dict[str, Any]:
    """AdminGetUser's answer."""
    named = {"sub": SUB, "email": EMAIL, **attributes}
    return {
        "Enabled": True,
        "UserStatus": status,
        "UserCreateDate": CREATED,
        "UserAttributes": [{"Name": name, "Value": value} for name, value in named.items()],
    }


@pytest.fixture
def users(cognito: Any, pool_id: str) -> Users:
    return Users(cognito, pool_id)


@pytest.fixture
def user(users: Users) -> User:
    """A user as they were made."""
    made = users.get(create(users))
    assert made is not None
    return made


def invite(users: Users, email: str = EMAIL, customer_id: str | None = "cus_1") -> tuple[str, bool]:
    return users.create(email, dapp_limit=5, payment_status="ACTIVE", customer_id=customer_id)


def create(users: Users, email: str = EMAIL, customer_id: str | None = "cus_1") -> str:
    return invite(users, email, customer_id)[0]


def mails(pool_id: str) -> list[tuple[str, bool]]:
    """The invitations that left: to whom, and whether it was one more."""
    return [(each.to, each.resend) for each in moto_fixes.outbox if each.user_pool_id == pool_id]


class TestCreate:
    def test_makes_a_user_who_has_what_they_paid_for(self, users: Users) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        sub = create(users)
        user = users.get(sub)
        assert user is not None
        assert before.timestamp() <= user.created_at <= datetime.now(UTC).timestamp()
        assert replace(user, created_at=0) == User(
            True, sub, enabled=True, provider="STRIPE", dapp_limit=5, payment_status="ACTIVE", invited=True
        )

    def test_invites_them_by_mail(self, users: Users, mail: object, pool_id: str) -> None:
        assert invite(users)[1] is True
        assert mails(pool_id) == [(EMAIL, False)]

    @pytest.mark.parametrize("customer_id", ["cus_1", None])
    def test_has_cognito_send_its_welcome_mail_to_a_verified_address(self, customer_id: str | None) -> None:
        client = Scripted(admin_create_user={"User": {"Attributes": [{"Name": "sub", "Value": SUB}]}})
        assert invite(Users(client, "pool"), customer_id=customer_id) == (SUB, True)
        ((operation, request),) = client.asked
        attributes = {each["Name"]: each["Value"] for each in request.pop("UserAttributes")}
        assert operation == "admin_create_user"
        # No MessageAction: SUPPRESS would send no mail, RESEND would renew a password.
        assert request == {"UserPoolId": "pool", "Username": EMAIL, "DesiredDeliveryMediums": ["EMAIL"]}
        assert attributes == {
            "email": EMAIL,
            "email_verified": "true",
            "custom:num_dapps": "5",
            "custom:payment_status": "ACTIVE",
            "custom:payment_provider": "STRIPE",
        } | ({"custom:stripe_customer_id": customer_id} if customer_id else {})

    def test_writes_only_attributes_that_the_pool_has(
        self, resources: dict[str, Any], cognito: Any, pool_id: str
    ) -> None:
        users = Users(cognito, pool_id)
        sub = create(users)
        users.update(sub, dapp_limit=1, payment_status="FAILED", disabled_by=BILLING)
        written = cognito.admin_get_user(UserPoolId=pool_id, Username=sub)["UserAttributes"]
        declared = {f"custom:{each['Name']}" for each in resources["UserPool"]["Schema"]}
        assert {each["Name"] for each in written if each["Name"].startswith("custom:")} == declared

    def test_of_an_address_that_is_taken_says_so(self, users: Users) -> None:
        create(users)
        with pytest.raises(UserExists):
            create(users, customer_id="cus_2")

    @pytest.mark.parametrize(
        ("code", "name"),
        [
            ("UsernameExistsException", UserExists),
            ("AliasExistsException", UserExists),
            ("LimitExceededException", MailLimitReached),
            ("TooManyRequestsException", CognitoThrottled),
            ("InternalErrorException", CognitoUnavailable),
            ("InvalidParameterException", CognitoRejected),
            ("NotAuthorizedException", CognitoRejected),
            ("UserNotFoundException", UserMissing),
            ("InvalidPasswordException", CognitoRejected),
        ],
    )
    def test_that_fails_has_our_name_for_it_and_no_address(self, code: str, name: type[GatewayError]) -> None:
        with pytest.raises(name) as caught:
            create(Users(Scripted(admin_create_user=refusal(code)), "pool"))
        assert type(caught.value) is name
        assert EMAIL not in str(caught.value)

    def test_without_an_answer_is_unavailable(self) -> None:
        error = ReadTimeoutError(endpoint_url="https://cognito-idp")
        with pytest.raises(CognitoUnavailable):
            create(Users(Scripted(admin_create_user=error), "pool"))

    def test_whose_mail_could_not_leave_is_done_and_says_so(
        self, users: Users, mail: moto_fixes.Mail, pool_id: str
    ) -> None:
        mail.fail(1)
        sub, mailed = invite(users)
        assert (mailed, mails(pool_id)) == (False, [])
        assert users.find(EMAIL) == users.get(sub) is not None

    @pytest.mark.parametrize(
        ("answer", "name"),
        [
            # Cognito may refuse before it makes the user: then all of it is to be tried again.
            (refusal("UserNotFoundException"), CognitoUnavailable),
            (refusal("TooManyRequestsException"), CognitoThrottled),
            (ReadTimeoutError(endpoint_url="https://cognito-idp"), CognitoUnavailable),
            (refusal("AccessDeniedException"), CognitoRejected),
        ],
    )
    def test_whose_mail_could_not_leave_is_not_done_without_a_user(
        self, answer: Exception, name: type[GatewayError]
    ) -> None:
        client = Scripted(admin_create_user=refusal("CodeDeliveryFailureException"), admin_get_user=answer)
        with pytest.raises(name) as caught:
            create(Users(client, "pool"))
        assert type(caught.value) is name
        assert EMAIL not in str(caught.value)
        assert [operation for operation, _ in client.asked] == ["admin_create_user", "admin_get_user"]

    def test_over_the_mail_quota_makes_nobody(self, users: Users, mail: moto_fixes.Mail) -> None:
        mail.exhaust(1)
        with pytest.raises(MailLimitReached, match="configure Amazon SES"):
            create(users)
        assert users.find(EMAIL) is None
        assert invite(users)[1] is True


class TestGet:
    def test_of_an_unknown_sub_is_none(self, users: Users) -> None:
        assert users.get(SUB) is None

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({}, STANDS),
            ({"custom:num_dapps": ""}, STANDS),
            ({"custom:num_dapps": "many"}, STANDS),
            ({"custom:num_dapps": "-7"}, STANDS),
            ({"custom:num_dapps": "٣"}, STANDS),
            ({"custom:num_dapps": "0"}, replace(STANDS, dapp_limit=0)),
            ({"status": "FORCE_CHANGE_PASSWORD"}, replace(STANDS, invited=True)),
            ({"status": "RESET_REQUIRED"}, STANDS),
            (
                {
                    "custom:num_dapps": "12",
                    "custom:payment_status": "LAPSED",
                    "custom:payment_provider": "ADMIN",
                    "custom:disabled_by": "billing",
                    "custom:stripe_customer_id": "cus_1",
                },
                replace(STANDS, disabled_by="billing", provider="ADMIN", dapp_limit=12, payment_status="LAPSED"),
            ),
        ],
    )
    def test_reads_what_the_rules_need_and_no_personal_data(self, attributes: dict[str, str], expected: User) -> None:
        user = Users(Scripted(admin_get_user=found(**attributes)), "pool").get(SUB)
        assert user == expected
        assert EMAIL not in repr(user)

    @pytest.mark.parametrize(
        ("stored", "payers", "renamed"),
        [
            (EMAIL, None, False),  # nothing to compare with
            (EMAIL, EMAIL, False),
            ("Payer@Example.COM", EMAIL, False),
            (EMAIL, "PAYER@example.com", False),
            (EMAIL, NEW_EMAIL, True),
            ("", EMAIL, True),
        ],
    )
    def test_tells_whether_the_payer_has_another_address(self, stored: str, payers: str | None, renamed: bool) -> None:
        user = Users(Scripted(admin_get_user=found(email=stored)), "pool").get(SUB, payers)
        assert user == replace(STANDS, renamed=renamed)

    def test_of_an_unknown_sub_is_none_whatever_the_address(self, users: Users) -> None:
        assert users.get(SUB, EMAIL) is None


class TestEmail:
    @pytest.mark.parametrize("stored", [EMAIL, "Payer@Example.COM"])
    def test_is_the_users_address_in_lower_case(self, stored: str) -> None:
        assert Users(Scripted(admin_get_user=found(email=stored)), "pool").email(SUB) == EMAIL

    def test_of_an_unknown_sub_says_so(self, users: Users) -> None:
        with pytest.raises(UserMissing):
            users.email(SUB)


class TestFind:
    def test_by_an_address_that_nobody_has_is_none(self, users: Users) -> None:
        assert users.find(EMAIL) is None

    def test_by_address_is_the_same_user_as_by_sub(self, users: Users) -> None:
        sub = create(users)
        assert users.find(EMAIL) == users.get(sub)

    @pytest.mark.parametrize(
        ("stored", "asked"),
        [("Payer@Example.com", EMAIL), (EMAIL, "PAYER@example.COM"), ("pâyer@example.com", "PÂYER@example.com")],
    )
    def test_by_address_in_another_case_is_the_same_user(self, stored: str, asked: str) -> None:
        client = Scripted(admin_get_user=found(email=stored))
        user = Users(client, "pool").find(asked)
        assert user == STANDS  # compared with nobody's address, so never renamed
        assert client.asked == [("admin_get_user", {"UserPoolId": "pool", "Username": asked})]

    @pytest.mark.parametrize(
        ("provider", "verified", "joins"),
        [
            ("STRIPE", "true", True),
            ("STRIPE", "false", False),
            ("STRIPE", None, True),
            # Whom others made, others have to prove.
            ("", "false", True),
            ("ADMIN", "false", True),
        ],
    )
    def test_takes_no_user_of_ours_whose_address_nobody_proved(
        self, provider: str, verified: str | None, joins: bool
    ) -> None:
        attributes = {"custom:payment_provider": provider} | ({} if verified is None else {"email_verified": verified})
        users = Users(Scripted(admin_get_user=found(**attributes)), "pool")
        if joins:
            assert users.find(EMAIL) == replace(STANDS, provider=provider)
        else:
            with pytest.raises(EmailUnverified):
                users.find(EMAIL)

    @pytest.mark.parametrize(
        "attributes",
        [
            {"email": "other@example.com"},
            {"email": ""},
            {"email": "other@example.com", "email_verified": "false", "custom:payment_provider": "STRIPE"},
        ],
    )
    def test_takes_no_user_whose_user_name_looks_like_the_address(self, attributes: dict[str, str]) -> None:
        """In a pool that signs in by user name, a stranger may have chosen this address as theirs."""
        assert Users(Scripted(admin_get_user=found(**attributes)), "pool").find(EMAIL) is None


WRITES: dict[str, Any] = {
    "enable": lambda users, sub: users.enable(sub),
    "disable": lambda users, sub: users.disable(sub),
    "sign_out": lambda users, sub: users.sign_out(sub),
    "update": lambda users, sub: users.update(sub, dapp_limit=1),
    "invite_again": lambda users, sub: users.invite_again(sub),
    "rename": lambda users, sub: users.rename(sub, NEW_EMAIL),
}


class TestWrites:
    def test_change_only_the_attributes_given(self, users: Users, user: User) -> None:
        assert user.sub is not None
        users.update(user.sub, dapp_limit=9)
        users.update(user.sub, payment_status="FAILED", disabled_by=BILLING)
        expected = replace(user, disabled_by="billing", dapp_limit=9, payment_status="FAILED")
        assert users.get(user.sub) == expected
        users.update(user.sub, disabled_by="")
        assert users.get(user.sub) == replace(expected, disabled_by="")

    def test_of_no_limit_take_the_attribute_away(self, users: Users, user: User) -> None:
        """An adopted user may have had none."""
        assert user.sub is not None
        users.update(user.sub, dapp_limit=-1, payment_status="")
        assert users.get(user.sub) == replace(user, dapp_limit=-1, payment_status="")

    def test_of_an_attribute_that_is_not_ours_are_a_defect(self, users: Users) -> None:
        with pytest.raises(KeyError):
            users.update(SUB, email=EMAIL)

    def test_disable_and_enable(self, users: Users) -> None:
        sub = create(users)
        for write, enabled in ((users.disable, False), (users.disable, False), (users.enable, True)):
            write(sub)
            user = users.get(sub)
            assert user is not None
            assert user.enabled is enabled

    def test_sign_out_revokes_every_refresh_token(self) -> None:
        client = Scripted(admin_user_global_sign_out={})
        Users(client, "pool").sign_out(SUB)
        assert client.asked == [("admin_user_global_sign_out", {"UserPoolId": "pool", "Username": SUB})]

    @pytest.mark.parametrize("method", WRITES)
    def test_on_a_user_deleted_meanwhile_say_so(self, users: Users, method: str) -> None:
        with pytest.raises(UserMissing, match="deleted meanwhile"):
            WRITES[method](users, SUB)


class TestInviteAgain:
    def test_sends_a_new_invitation_to_who_never_signed_in(
        self, users: Users, user: User, mail: object, pool_id: str
    ) -> None:
        assert user.sub is not None
        first = moto_fixes.outbox[-1].temporary_password if moto_fixes.outbox else None
        users.invite_again(user.sub)
        assert mails(pool_id)[-1] == (EMAIL, True)
        assert moto_fixes.outbox[-1].temporary_password != first
        assert users.get(user.sub) == user

    def test_asks_for_mail_and_for_no_second_user(self) -> None:
        client = Scripted(admin_get_user=found(), admin_create_user={"User": {"Attributes": []}})
        Users(client, "pool").invite_again(SUB)
        request = {"UserPoolId": "pool", "Username": EMAIL, "DesiredDeliveryMediums": ["EMAIL"]}
        assert client.asked[1:] == [("admin_create_user", {**request, "MessageAction": "RESEND"})]

    def test_that_cannot_leave_says_so(self, users: Users, user: User, mail: moto_fixes.Mail) -> None:
        assert user.sub is not None
        mail.fail(1)
        with pytest.raises(MailNotDelivered):
            users.invite_again(user.sub)
        mail.exhaust(1)
        with pytest.raises(MailLimitReached):
            users.invite_again(user.sub)

    def test_of_who_signed_in_meanwhile_is_refused(self, users: Users, user: User, cognito: Any, pool_id: str) -> None:
        cognito.admin_set_user_password(
            UserPoolId=pool_id, Username=user.sub, Password="Correct-horse-7-battery", Permanent=True
        )
        assert user.sub is not None
        assert users.get(user.sub) == replace(user, invited=False)
        with pytest.raises(CognitoRejected, match="UnsupportedUserState"):
            users.invite_again(user.sub)


class TestRename:
    def test_gives_the_user_another_address(self, users: Users, user: User) -> None:
        assert user.sub is not None
        users.rename(user.sub, NEW_EMAIL)
        assert (users.find(EMAIL), users.email(user.sub), users.get(user.sub)) == (None, NEW_EMAIL, user)

    def test_lets_nobody_be_joined_by_that_address_until_it_is_verified(
        self, users: Users, user: User, cognito: Any, pool_id: str
    ) -> None:
        """Stripe proves no address: somebody else may pay with it."""
        assert user.sub is not None
        users.rename(user.sub, NEW_EMAIL)
        with pytest.raises(EmailUnverified) as caught:
            users.find(NEW_EMAIL)
        assert NEW_EMAIL not in str(caught.value)
        verified = [{"Name": "email_verified", "Value": "true"}]
        cognito.admin_update_user_attributes(UserPoolId=pool_id, Username=user.sub, UserAttributes=verified)
        assert users.find(NEW_EMAIL) == user

    def test_to_an_address_that_is_taken_says_so_and_changes_nothing(self, users: Users, user: User) -> None:
        other = create(users, NEW_EMAIL, "cus_2")
        assert user.sub is not None
        with pytest.raises(UserExists):
            users.rename(user.sub, NEW_EMAIL)
        taken = users.find(NEW_EMAIL)
        assert taken is not None
        assert (users.find(EMAIL), taken.sub) == (user, other)


@pytest.mark.parametrize(
    ("call", "operation"),
    [
        (lambda users: users.get(SUB), "admin_get_user"),
        (lambda users: users.email(SUB), "admin_get_user"),
        (lambda users: users.find(EMAIL), "admin_get_user"),
        (create, "admin_create_user"),
        *(
            (functools.partial(lambda write, users: write(users, SUB), WRITES[method]), operation)
            for method, operation in (
                ("enable", "admin_enable_user"),
                ("disable", "admin_disable_user"),
                ("sign_out", "admin_user_global_sign_out"),
                ("update", "admin_update_user_attributes"),
                ("invite_again", "admin_create_user"),
                ("rename", "admin_update_user_attributes"),
            )
        ),
    ],
)
@pytest.mark.parametrize(
    ("error", "name"),
    [
        (refusal("TooManyRequestsException"), CognitoThrottled),
        (refusal("ThrottlingException"), CognitoThrottled),
        (refusal("InternalErrorException", 500), CognitoUnavailable),
        (refusal("ServiceUnavailable", 503), CognitoUnavailable),
        (ReadTimeoutError(endpoint_url="https://cognito-idp"), CognitoUnavailable),
        (refusal("InvalidParameterException"), CognitoRejected),
        (refusal("ResourceNotFoundException"), CognitoRejected),
        (refusal("AccessDeniedException"), CognitoRejected),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_every_error_of_cognito_has_our_name_and_no_address(
    call: Callable[[Users], object], operation: str, error: Exception, name: type[GatewayError]
) -> None:
    users = Users(Scripted(**{"admin_get_user": found(), operation: error}), "pool")
    with pytest.raises(name) as caught:
        call(users)
    assert type(caught.value) is name
    assert EMAIL not in str(caught.value)


class TestWithAddress:
    """Whose e-mail it is, however they came by it: an operator asks for a user, who may be anybody's."""

    @pytest.mark.parametrize("written", [EMAIL, EMAIL.upper(), "Payer@Example.com"])
    def test_is_the_user_however_it_is_written(self, users: Users, user: User, written: str) -> None:
        found = users.with_address(written)
        assert found is not None
        assert found.sub == user.sub

    def test_is_nobody_when_there_is_none(self, users: Users) -> None:
        assert users.with_address(EMAIL) is None

    def test_is_not_a_user_whose_name_looks_like_it(self) -> None:
        """Cognito takes a sub in the place of an e-mail address."""
        client = Scripted(admin_get_user=found())
        assert Users(client, "pool").with_address(SUB) is None

    def test_need_not_be_verified(self) -> None:
        client = Scripted(admin_get_user=found(email_verified="false"))
        assert Users(client, "pool").with_address(EMAIL) is not None


class TestDelete:
    def test_leaves_no_user(self, users: Users, user: User) -> None:
        users.delete(str(user.sub))
        assert users.get(str(user.sub)) is None

    def test_of_one_who_is_gone_already_is_no_error(self, users: Users, user: User) -> None:
        for _ in range(2):
            users.delete(str(user.sub))

    @pytest.mark.parametrize(
        ("code", "name"),
        [("TooManyRequestsException", CognitoThrottled), ("NotAuthorizedException", CognitoRejected)],
    )
    def test_that_is_refused_is_not_done(self, code: str, name: type[GatewayError]) -> None:
        with pytest.raises(name):
            Users(Scripted(admin_delete_user=refusal(code)), "pool").delete(SUB)


def listed(status: str = "CONFIRMED", **attributes: str) -> dict[str, Any]:
    """A row of ListUsers' answer."""
    row = found(status, **attributes)
    return {**row, "Attributes": row.pop("UserAttributes")}


class TestListedUsers:
    """The same users, so that nobody becomes a billed one by being looked at."""

    @pytest.fixture
    def seen(self, cognito: Any, pool_id: str) -> ListedUsers:
        return ListedUsers(cognito, pool_id)

    def test_are_who_they_are_read_one_by_one(self, seen: ListedUsers, users: Users, user: User) -> None:
        sub = str(user.sub)
        users.update(sub, dapp_limit=7, payment_status="LAPSED", disabled_by=BILLING)
        users.disable(sub)
        for other in ("other@example.com", "third@example.com"):
            create(users, other)
        assert seen.get(sub) == users.get(sub)
        assert seen.get(sub, EMAIL) == users.get(sub, EMAIL)
        assert seen.get(sub, NEW_EMAIL) == users.get(sub, NEW_EMAIL)
        assert seen.find(EMAIL) == users.find(EMAIL) == users.get(sub)
        assert (seen.email(sub), seen.with_address(EMAIL)) == (EMAIL, users.get(sub))

    def test_may_be_nobody(self, seen: ListedUsers, user: User) -> None:
        assert (seen.get(SUB), seen.get(SUB, EMAIL), seen.find(NEW_EMAIL)) == (None, None, None)
        with pytest.raises(UserMissing):
            seen.email(SUB)

    @pytest.mark.parametrize(
        ("look", "wanted"),
        [
            (lambda seen: seen.get(SUB), f'sub = "{SUB}"'),
            (lambda seen: seen.get(SUB, EMAIL), f'sub = "{SUB}"'),
            (lambda seen: seen.find(EMAIL), f'email = "{EMAIL}"'),
        ],
    )
    def test_are_each_asked_for_in_one_request(self, look: Callable[[Users], User | None], wanted: str) -> None:
        client = Scripted(list_users={"Users": [listed()]})
        assert look(ListedUsers(client, "pool")) == STANDS
        assert client.asked == [("list_users", {"UserPoolId": "pool", "Filter": wanted})]

    @pytest.mark.parametrize(
        ("stored", "asked"), [("Payer@Example.com", EMAIL), (EMAIL, "PAYER@example.COM"), (EMAIL, EMAIL)]
    )
    def test_have_the_same_address_in_another_case(self, stored: str, asked: str) -> None:
        seen = ListedUsers(Scripted(list_users={"Users": [listed(email=stored)]}), "pool")
        assert seen.find(asked) == STANDS
        assert seen.get(SUB, asked) == STANDS
        assert seen.email(SUB) == EMAIL

    def test_of_ours_with_an_address_that_nobody_proved_are_not_joined(self) -> None:
        row = listed(email_verified="false", **{"custom:payment_provider": "STRIPE"})
        with pytest.raises(EmailUnverified):
            ListedUsers(Scripted(list_users={"Users": [row]}), "pool").find(EMAIL)

    def test_without_an_address_are_found_by_their_sub(self) -> None:
        row = listed()
        row["Attributes"] = [each for each in row["Attributes"] if each["Name"] != "email"]
        seen = ListedUsers(Scripted(list_users={"Users": [row]}), "pool")
        assert seen.get(SUB) == STANDS
        assert seen.get(SUB, EMAIL) == replace(STANDS, renamed=True)


class TestPage:
    @pytest.fixture
    def seen(self, cognito: Any, pool_id: str) -> ListedUsers:
        return ListedUsers(cognito, pool_id)

    def test_of_an_empty_pool_is_empty(self, seen: ListedUsers) -> None:
        assert seen.page(None) == ([], None)

    def test_has_everybody_with_their_customer_and_no_address(self, seen: ListedUsers, users: Users) -> None:
        made = {create(users): "cus_1", create(users, NEW_EMAIL, None): None}
        rows, token = seen.page(None)
        assert {each.user.sub: each.customer_id for each in rows} == made
        assert [each.user for each in rows] == [users.get(str(each.user.sub)) for each in rows]
        assert token is None
        assert "@" not in repr(rows)

    def test_reads_what_the_rules_need(self) -> None:
        attributes = {"custom:num_dapps": "12", "custom:payment_status": "LAPSED", "custom:disabled_by": "billing"}
        attributes |= {"custom:payment_provider": "STRIPE", "custom:stripe_customer_id": "cus_1"}
        row = {**listed("FORCE_CHANGE_PASSWORD", **attributes), "Enabled": False}
        rows, _ = ListedUsers(Scripted(list_users={"Users": [row]}), "pool").page(None)
        expected = replace(STANDS, enabled=False, disabled_by="billing", provider="STRIPE", dapp_limit=12)
        expected = replace(expected, payment_status="LAPSED", invited=True)
        assert rows == [Listed(expected, "cus_1")]

    @pytest.mark.parametrize("token", [None, "page-2"])
    @pytest.mark.parametrize("following", [None, "page-3"])
    def test_is_asked_for_by_the_token_of_the_one_before(self, token: str | None, following: str | None) -> None:
        client = Scripted(list_users={"Users": []} | ({"PaginationToken": following} if following else {}))
        assert ListedUsers(client, "pool").page(token) == ([], following)
        ((operation, request),) = client.asked
        assert (operation, request["UserPoolId"], request["Limit"]) == ("list_users", "pool", 60)
        assert request.get("PaginationToken", None) == token
        assert "Filter" not in request

    def test_after_page_is_everybody_once(self, seen: ListedUsers, users: Users) -> None:
        made = [create(users, f"{number}@example.com") for number in range(61)]
        first, token = seen.page(None)
        rest, last = seen.page(token)
        assert (len(first), len(rest), last) == (60, 1, None)
        assert sorted(str(each.user.sub) for each in first + rest) == sorted(made)

    @pytest.mark.parametrize(
        ("look", "error", "name"),
        [
            (look, error, name)
            for look in (
                lambda seen: seen.page(None),
                lambda seen: seen.page("page-2"),
                lambda seen: seen.get(SUB),
                lambda seen: seen.find(EMAIL),
            )
            for error, name in (
                (refusal("TooManyRequestsException"), CognitoThrottled),
                (refusal("InternalErrorException", 500), CognitoUnavailable),
                (ReadTimeoutError(endpoint_url="https://cognito-idp"), CognitoUnavailable),
                (refusal("InvalidParameterException"), CognitoRejected),
                (refusal("AccessDeniedException"), CognitoRejected),
            )
        ],
    )
    def test_that_cognito_refuses_has_our_name_for_it(
        self, look: Callable[[ListedUsers], object], error: Exception, name: type[GatewayError]
    ) -> None:
        with pytest.raises(name) as caught:
            look(ListedUsers(Scripted(list_users=error), "pool"))
        assert type(caught.value) is name
        assert EMAIL not in str(caught.value)
