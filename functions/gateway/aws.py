"""AWS clients with time-outs of our own: the Lambda must answer, or fail, before its own time is up."""

from typing import Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from gateway.errors import GatewayError
from gateway.settings import optional

_CONFIG = Config(
    retries={
        "mode": "standard",
        "total_max_attempts": 2,
    },  # the state machine does the patient retrying
    tcp_keepalive=True,
)

_THROTTLES = frozenset(
    {
        "ExecutionLimitExceeded",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "TransactionConflictException",
        "TransactionInProgressException",
        "SlowDown",
    }
)


def client(service: str, *, connect_timeout: float = 2, read_timeout: float = 5) -> Any:
    """A boto3 client of the default session; time-outs in seconds."""
    timeouts = Config(connect_timeout=connect_timeout, read_timeout=read_timeout)
    return boto3.client(service, config=_CONFIG.merge(timeouts))  # type: ignore[call-overload]


def address(url: str, service: str) -> str:
    """This address of a service; where botocore's own variables say that the service is elsewhere, the one there."""
    name = f"AWS_ENDPOINT_URL_{service}"
    elsewhere = optional(name) or optional("AWS_ENDPOINT_URL")
    return elsewhere.rstrip("/") + urlsplit(url).path if elsewhere else url


def translated(
    error: ClientError | BotoCoreError,
    action: str,
    *,
    throttled: type[GatewayError],
    unavailable: type[GatewayError],
    rejected: type[GatewayError],
) -> GatewayError:
    """One of the caller's three names for an AWS error, by its code, so the botocore version does not matter.

    AWS's own text is left out: it can repeat the request's values.
    """
    if isinstance(error, BotoCoreError):
        return unavailable(f"{action} got no answer ({type(error).__name__})")
    code = error.response.get("Error", {}).get("Code", "Unknown")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLES:
        return throttled(f"{action} was throttled ({code})")
    if status >= 500 or code in (
        "InternalErrorException",
        "InternalServerError",
        "ServiceUnavailable",
    ):
        return unavailable(f"{action} answered {status} ({code})")
    return rejected(f"{action} was refused ({code}); see CloudTrail or the README's table of errors")
