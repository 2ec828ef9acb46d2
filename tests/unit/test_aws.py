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

from gateway import aws
from gateway.errors import GatewayError

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
