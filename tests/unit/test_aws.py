"""gateway.aws: three names for whatever AWS answers, and none of AWS's own text."""

from typing import Any

import pytest
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ReadTimeoutError,
)

from gateway import aws, tokens
from gateway.errors import GatewayError
from tests.handlers import imported

SECRET_TEXT = "payer@example.com is not welcome"


class Throttled(GatewayError):
    """The caller's name for "later"."""


class Unavailable(GatewayError):
    """The caller's name for "no answer"."""


class Rejected(GatewayError):
    """The caller's name for "no"."""


def translated(error: ClientError | BotoCoreError) -> GatewayError:
    return aws.translated(error, "Service Action", throttled=Throttled, unavailable=Unavailable, rejected=Rejected)


def answer(code: str | None, status: int | None) -> ClientError:
    response: dict[str, Any] = {"Error": {"Message": SECRET_TEXT}, "ResponseMetadata": {}}
    if code is not None:
        response["Error"]["Code"] = code
    if status is not None:
        response["ResponseMetadata"]["HTTPStatusCode"] = status
    return ClientError(response, "Action")


@pytest.mark.parametrize(
    ("code", "status", "name"),
    [
        ("ProvisionedThroughputExceededException", 400, Throttled),
        ("RequestLimitExceeded", 400, Throttled),
        ("Throttling", 400, Throttled),
        ("ThrottlingException", 400, Throttled),
        ("ThrottledException", 400, Throttled),
        ("TooManyRequestsException", 400, Throttled),
        ("TooManyRequestsException", 429, Throttled),
        ("TransactionInProgressException", 400, Throttled),
        ("SlowDown", 503, Throttled),
        ("InternalErrorException", 500, Unavailable),
        ("InternalServerError", 400, Unavailable),
        ("InternalErrorException", 400, Unavailable),
        ("ServiceUnavailable", None, Unavailable),
        ("AnythingElse", 500, Unavailable),
        ("AnythingElse", 503, Unavailable),
        (None, 502, Unavailable),
        ("AccessDeniedException", 400, Rejected),
        ("InvalidParameterException", 400, Rejected),
        ("ResourceNotFoundException", 404, Rejected),
        ("ValidationException", 499, Rejected),
        ("AnythingElse", None, Rejected),
        (None, None, Rejected),
    ],
)
def test_an_answer_is_named_by_its_code_and_status(code: str | None, status: int | None, name: type) -> None:
    error = translated(answer(code, status))
    assert type(error) is name
    assert "Service Action" in str(error)
    assert (code or "Unknown") in str(error)
    assert SECRET_TEXT not in str(error)


def test_an_empty_answer_is_a_refusal() -> None:
    assert type(translated(ClientError({}, "Action"))) is Rejected


@pytest.mark.parametrize(
    "error",
    [
        ConnectTimeoutError(endpoint_url=SECRET_TEXT),
        ReadTimeoutError(endpoint_url=SECRET_TEXT),
        EndpointConnectionError(endpoint_url=SECRET_TEXT),
        ParamValidationError(report=SECRET_TEXT),
        NoCredentialsError(),
    ],
)
def test_no_answer_is_unavailable(error: BotoCoreError) -> None:
    found = translated(error)
    assert str(found) == f"Service Action got no answer ({type(error).__name__})"
    assert type(found) is Unavailable


def test_a_client_gives_up_before_its_lambda_does(template: dict[str, Any]) -> None:
    config = aws.client("dynamodb").meta.config
    attempts = config.retries["total_max_attempts"]
    longest = attempts * (config.connect_timeout + config.read_timeout)
    assert longest < template["Globals"]["Function"]["Timeout"]


def test_the_authorizer_gives_up_before_api_gateway_does(template: dict[str, Any]) -> None:
    config = imported("AuthorizeFunction").ledger._client.meta.config
    assert (config.connect_timeout, config.read_timeout) == (1, 2)
    longest = config.retries["total_max_attempts"] * (config.connect_timeout + config.read_timeout)
    assert longest + tokens._TIMEOUT < template["Resources"]["AuthorizeFunction"]["Properties"]["Timeout"]


KEYS = "https://cognito-idp.us-east-1.amazonaws.com/us-east-1_example"
SERVICE = "COGNITO_IDENTITY_PROVIDER"


@pytest.mark.parametrize(
    ("variables", "address"),
    [
        ({}, KEYS),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:5000"}, "http://127.0.0.1:5000/us-east-1_example"),
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:5000/"}, "http://127.0.0.1:5000/us-east-1_example"),
        ({f"AWS_ENDPOINT_URL_{SERVICE}": "http://127.0.0.1:6000"}, "http://127.0.0.1:6000/us-east-1_example"),
        (
            {"AWS_ENDPOINT_URL": "http://127.0.0.1:5000", f"AWS_ENDPOINT_URL_{SERVICE}": "http://127.0.0.1:6000"},
            "http://127.0.0.1:6000/us-east-1_example",
        ),
        ({"AWS_ENDPOINT_URL_DYNAMODB": "http://127.0.0.1:6000"}, KEYS),
        ({"AWS_ENDPOINT_URL": "", f"AWS_ENDPOINT_URL_{SERVICE}": ""}, KEYS),
    ],
)
def test_a_service_that_is_elsewhere_is_asked_there(
    variables: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert aws.address(KEYS, SERVICE) == address


def test_the_name_of_a_service_is_the_one_that_botocore_looks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"AWS_ENDPOINT_URL_{SERVICE}", "http://127.0.0.1:6000")
    assert aws.client("cognito-idp").meta.endpoint_url == "http://127.0.0.1:6000"
