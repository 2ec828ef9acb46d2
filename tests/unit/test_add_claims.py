"""add_claims.handler: limit and payment status in the tokens, and nothing else of them changed."""

import copy
import json
import traceback
from types import SimpleNamespace
from typing import Any

import pytest

from gateway.errors import UnexpectedError
from tests.unit.steps import Json, module

ATTRIBUTES = {
    "sub": "sub-1",
    "email": "payer@example.com",
    "email_verified": "true",
    "cognito:user_status": "CONFIRMED",
    "custom:num_dapps": "5",
    "custom:payment_status": "ACTIVE",
}
GROUPS = {
    "groupsToOverride": ["group-A"],
    "iamRolesToOverride": ["arn:aws:iam::123456789012:role/A"],
    "preferredRole": "arn:aws:iam::123456789012:role/A",
}


def event(version: str, attributes: Json | None = ATTRIBUTES, groups: Json | None = GROUPS, **changed: Any) -> Json:
    """What Cognito sends, as its developer guide has it."""
    request: Json = {"userAttributes": attributes, "groupConfiguration": groups, "clientMetadata": {"device": "phone"}}
    response: Json = {"claimsOverrideDetails": None}
    if version != "1":
        request["scopes"] = ["aws.cognito.signin.user.admin"]
        response = {"claimsAndScopeOverrideDetails": None}
    return {
        "version": version,
        "triggerSource": "TokenGeneration_Authentication",
        "region": "us-east-1",
        "userPoolId": "us-east-1_example",
        "userName": "sub-1",
        "callerContext": {"awsSdkVersion": "aws-sdk-unknown-unknown", "clientId": "client-1"},
        "request": {name: value for name, value in request.items() if value is not None},
        "response": response,
        **changed,
    }


def answered(sent: Json) -> Json:
    """The handler's answer, as Cognito gets it: the event that it sent, with another response."""
    given = copy.deepcopy(sent)
    answer: Json = json.loads(json.dumps(module("AddClaims").handler(given, None)))
    assert {**answer, "response": None} == {**sent, "response": None}
    return dict(answer["response"])


def claims(sent: Json) -> Json:
    """What it adds to every token that the event is about, and nothing but that."""
    response = answered(sent)
    if sent["version"] == "1":
        assert response.keys() == {"claimsOverrideDetails"}
        details = dict(response["claimsOverrideDetails"])
        assert details.keys() - {"groupOverrideDetails"} == {"claimsToAddOrOverride"}
        return dict(details["claimsToAddOrOverride"])
    assert response.keys() == {"claimsAndScopeOverrideDetails"}
    details = dict(response["claimsAndScopeOverrideDetails"])
    assert details.keys() - {"groupOverrideDetails"} == {"idTokenGeneration", "accessTokenGeneration"}
    assert details["idTokenGeneration"] == details["accessTokenGeneration"]
    assert details["idTokenGeneration"].keys() == {"claimsToAddOrOverride"}
    return dict(details["idTokenGeneration"]["claimsToAddOrOverride"])


def test_the_id_token_alone_says_it_in_text_where_cognito_takes_nothing_else() -> None:
    assert claims(event("1")) == {"dapp_limit": "5", "payment_status": "ACTIVE"}


@pytest.mark.parametrize("version", ["2", "3"])
def test_id_and_access_tokens_say_it_with_a_number(version: str) -> None:
    found = claims(event(version))
    assert found == {"dapp_limit": 5, "payment_status": "ACTIVE"}
    assert type(found["dapp_limit"]) is int


VERSIONS = pytest.mark.parametrize("version", ["1", "2", "3"])


@VERSIONS
@pytest.mark.parametrize(
    "source",
    ["Authentication", "NewPasswordChallenge", "AuthenticateDevice", "RefreshTokens", "HostedAuth"],
)
def test_it_is_said_whatever_the_tokens_are_given_for(version: str, source: str) -> None:
    assert claims(event(version, triggerSource=f"TokenGeneration_{source}"))["payment_status"] == "ACTIVE"


@VERSIONS
@pytest.mark.parametrize(
    ("text", "limit"),
    [("0", 0), ("1", 1), ("007", 7), ("1000000", 1_000_000), ("999999999", 999_999_999)],
)
def test_a_limit_is_a_whole_number(version: str, text: str, limit: int) -> None:
    found = claims(event(version, {**ATTRIBUTES, "custom:num_dapps": text}))
    assert found["dapp_limit"] == (str(limit) if version == "1" else limit)


@VERSIONS
@pytest.mark.parametrize(
    "text", ["", "-1", "+5", "5.0", "1e3", " 5", "5 ", "five", "0x5", "٥", "²", "1_000", "NaN", "9" * 2048, None]
)
def test_a_limit_that_is_no_whole_number_is_none(version: str, text: str | None) -> None:
    found = claims(event(version, {**ATTRIBUTES, "custom:num_dapps": text}))
    assert found == {"dapp_limit": "0" if version == "1" else 0, "payment_status": "ACTIVE"}


@VERSIONS
@pytest.mark.parametrize("attributes", [{}, {"sub": "sub-1"}, {"custom:num_dapps": "", "custom:payment_status": None}])
def test_a_user_of_whom_billing_knows_nothing_has_no_dapps(version: str, attributes: Json) -> None:
    assert claims(event(version, attributes)) == {"dapp_limit": "0" if version == "1" else 0, "payment_status": ""}


def test_a_machine_that_signs_in_has_none_either() -> None:
    sent = event("3", None, None, triggerSource="TokenGeneration_ClientCredentials")
    assert claims(sent) == {"dapp_limit": 0, "payment_status": ""}


@VERSIONS
def test_groups_stay_as_they_are(version: str) -> None:
    """Groups in a response replace those of the tokens; Cognito's guide: hand them back to keep them."""
    (details,) = answered(event(version)).values()
    assert details["groupOverrideDetails"] == GROUPS
    (details,) = answered(event(version, groups=None)).values()
    assert "groupOverrideDetails" not in details


@VERSIONS
def test_what_an_earlier_answer_said_is_replaced(version: str) -> None:
    """A retry of Cognito's may send it along."""
    sent = event(version)
    assert answered({**sent, "response": answered(sent)}) == answered(sent)


class Odd(dict[str, Any]):
    """Attributes that cannot be read."""

    def get(self, name: str, default: object = None) -> Any:
        raise ValueError(f"{name} of {ATTRIBUTES['email']}")


@VERSIONS
def test_a_defect_says_nothing_of_the_user_to_anybody(version: str, lines: list[str]) -> None:
    """Cognito hands the error's text to whoever signs in."""
    context = SimpleNamespace(function_name="AddClaims", aws_request_id="request-1")
    with pytest.raises(UnexpectedError, match=r"^ValueError at test_add_claims\.py:\d+; this is a defect$") as caught:
        module("AddClaims").handler(event(version, Odd(ATTRIBUTES)), context)
    assert ATTRIBUTES["email"] not in "".join([*lines, *traceback.format_exception(caught.value)])
    (line,) = (json.loads(each) for each in lines)
    assert (line["level"], line["function"], line["request_id"]) == ("ERROR", "AddClaims", "request-1")
