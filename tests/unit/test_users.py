"""gateway.users: the pool of template.yaml where moto answers as Cognito does, scripted answers where it does not."""

from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from gateway.access import User
from gateway.errors import (
    CognitoRejected,
    CognitoThrottled,
    CognitoUnavailable,
    GatewayError,
    MailLimitReached,
    UserExists,
    UserMissing,
)
from gateway.users import BILLING, Users

EMAIL = "payer@example.com"
SUB = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"


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


def found(**attributes: str) -> dict[str, Any]:
    """AdminGetUser's answer."""
    named = {"sub": SUB, "email": EMAIL, **attributes}
    return {"Enabled": True, "UserAttributes": [{"Name": name, "Value": value} for name, value in named.items()]}


@pytest.fixture
def users(cognito: Any, pool_id: str) -> Users:
    return Users(cognito, pool_id)


def create(users: Users, email: str = EMAIL, customer_id: str | None = "cus_1") -> str:
    return users.create(email, dapp_limit=5, payment_status="ACTIVE", customer_id=customer_id)


class TestCreate:
    def test_makes_a_user_who_has_what_they_paid_for(self, users: Users) -> None:
        sub = create(users)
        assert users.get(sub) == User(
            exists=True, sub=sub, enabled=True, provider="STRIPE", dapp_limit=5, payment_status="ACTIVE"
        )

    @pytest.mark.parametrize("customer_id", ["cus_1", None])
    def test_has_cognito_send_its_welcome_mail_to_a_verified_address(self, customer_id: str | None) -> None:
        client = Scripted(admin_create_user={"User": {"Attributes": [{"Name": "sub", "Value": SUB}]}})
        assert create(Users(client, "pool"), customer_id=customer_id) == SUB
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
            ("UserNotFoundException", CognitoRejected),
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

    def test_whose_mail_could_not_leave_is_done(self) -> None:
        client = Scripted(admin_create_user=refusal("CodeDeliveryFailureException"), admin_get_user=found())
        assert create(Users(client, "pool")) == SUB
        assert [operation for operation, _ in client.asked] == ["admin_create_user", "admin_get_user"]

    @pytest.mark.parametrize(("code", "name"), [("TooManyRequestsException", CognitoThrottled)])
    def test_whose_mail_could_not_leave_may_still_fail(self, code: str, name: type[GatewayError]) -> None:
        client = Scripted(admin_create_user=refusal("CodeDeliveryFailureException"), admin_get_user=refusal(code))
        with pytest.raises(name):
            create(Users(client, "pool"))


class TestGet:
    def test_of_an_unknown_sub_is_none(self, users: Users) -> None:
        assert users.get(SUB) is None

    @pytest.mark.parametrize(
        ("attributes", "expected"),
        [
            ({}, User(True, sub=SUB, enabled=True)),
            ({"custom:num_dapps": ""}, User(True, sub=SUB, enabled=True)),
            ({"custom:num_dapps": "many"}, User(True, sub=SUB, enabled=True)),
            ({"custom:num_dapps": "-7"}, User(True, sub=SUB, enabled=True)),
            ({"custom:num_dapps": "٣"}, User(True, sub=SUB, enabled=True)),
            ({"custom:num_dapps": "0"}, User(True, sub=SUB, enabled=True, dapp_limit=0)),
            (
                {
                    "custom:num_dapps": "12",
                    "custom:payment_status": "LAPSED",
                    "custom:payment_provider": "ADMIN",
                    "custom:disabled_by": "billing",
                    "custom:stripe_customer_id": "cus_1",
                },
                User(True, SUB, False, False, True, "billing", "ADMIN", 12, "LAPSED"),
            ),
        ],
    )
    def test_reads_what_the_rules_need_and_no_personal_data(self, attributes: dict[str, str], expected: User) -> None:
        user = Users(Scripted(admin_get_user=found(**attributes)), "pool").get(SUB)
        assert user == expected
        assert EMAIL not in repr(user)


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
        assert user is not None
        assert user.sub == SUB
        assert client.asked == [("admin_get_user", {"UserPoolId": "pool", "Username": asked})]

    @pytest.mark.parametrize("attributes", [{"email": "other@example.com"}, {"email": ""}])
    def test_takes_no_user_whose_user_name_looks_like_the_address(self, attributes: dict[str, str]) -> None:
        """In a pool that signs in by user name, a stranger may have chosen this address as theirs."""
        assert Users(Scripted(admin_get_user=found(**attributes)), "pool").find(EMAIL) is None


class TestWrites:
    def test_change_only_the_attributes_given(self, users: Users) -> None:
        sub = create(users)
        users.update(sub, dapp_limit=9)
        users.update(sub, payment_status="FAILED", disabled_by=BILLING)
        assert users.get(sub) == User(True, sub, False, False, True, "billing", "STRIPE", 9, "FAILED")
        users.update(sub, disabled_by="")
        assert users.get(sub) == User(True, sub, False, False, True, "", "STRIPE", 9, "FAILED")

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

    @pytest.mark.parametrize("method", ["enable", "disable", "sign_out", "update"])
    def test_on_a_user_deleted_meanwhile_say_so(self, users: Users, method: str) -> None:
        with pytest.raises(UserMissing):
            getattr(users, method)(SUB, **({"dapp_limit": 1} if method == "update" else {}))


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("get", "admin_get_user"),
        ("find", "admin_get_user"),
        ("enable", "admin_enable_user"),
        ("disable", "admin_disable_user"),
        ("sign_out", "admin_user_global_sign_out"),
        ("update", "admin_update_user_attributes"),
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
    method: str, operation: str, error: Exception, name: type[GatewayError]
) -> None:
    users = Users(Scripted(**{operation: error}), "pool")
    with pytest.raises(name) as caught:
        getattr(users, method)(EMAIL)
    assert type(caught.value) is name
    assert EMAIL not in str(caught.value)
