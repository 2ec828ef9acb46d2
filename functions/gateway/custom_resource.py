"""What CloudFormation asks of a custom resource, answered in every case: without an answer, a deployment hangs."""

import functools
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import urllib3

from gateway.defects import defect
from gateway.errors import (
    CognitoThrottled,
    CognitoUnavailable,
    GatewayError,
    LedgerThrottled,
    LedgerUnavailable,
    SecretUnavailable,
    StripeThrottled,
    StripeUnavailable,
)
from gateway.telemetry import logger

_PASSING = (
    *(CognitoThrottled, CognitoUnavailable, LedgerThrottled, LedgerUnavailable),
    *(SecretUnavailable, StripeThrottled, StripeUnavailable),
)
_PAUSES = (2, 4, 8)  # seconds; a deployment that fails for a moment's sake would be rolled back as a whole
_LONGEST_REASON = 1000  # characters; CloudFormation takes no answer of more than 4096 bytes
_HTTP = urllib3.PoolManager(
    timeout=10, retries=urllib3.Retry(4, backoff_factor=0.5, status_forcelist=(500, 502, 503), allowed_methods=None)
)


@dataclass(slots=True)
class Request:
    """What CloudFormation wants. `id` is the same when Lambda repeats it; `stack` is an ARN.

    `resource` is the physical id, `was` what it was before the request. Whoever makes a resource sets it at once:
    CloudFormation then undoes what was made, also when the rest fails. `before`: the properties until now, of an
    Update. `last_try`: what passes is no longer waited for.
    """

    kind: str
    id: str
    stack: str
    resource: str
    was: str
    properties: Mapping[str, str]
    before: Mapping[str, str]
    last_try: bool = False


def checked(request: Request, name: str, check: Callable[[Request], None]) -> None:
    """Have a resource that is nothing but a check checked when it is made or its properties change.

    CloudFormation takes a failed update back by an Update with the properties of before, or by a Delete of the id it
    was answered. Neither may fail, and Stripe may be the reason: so the id says with which properties all was right,
    and is another one at every request.
    """
    if request.kind == "Delete":
        return
    right = f"{name}-{_digest(request.properties)}"
    if request.resource.startswith(right):
        return
    request.resource = f"{name}-{request.id}"
    check(request)
    request.resource = f"{right}-{request.id}"


def _digest(properties: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(properties, sort_keys=True).encode()).hexdigest()[:16]


def custom_resource(change: Callable[[Request], None]) -> Callable[[dict[str, Any], Any], None]:
    """Make a Lambda handler of what creates, updates or deletes the resource, and may be asked twice for the same.

    in   a request of CloudFormation's
    out  nothing: its answer goes to the request's ResponseURL, FAILED with the error's message as reason
    """

    @functools.wraps(change)
    def handler(event: dict[str, Any], context: Any) -> None:
        resource = event.get("PhysicalResourceId", f"no-{event['LogicalResourceId']}")
        request = Request(
            kind=event["RequestType"],
            id=event["RequestId"],
            stack=event["StackId"],
            resource=resource,
            was=resource,
            properties=event["ResourceProperties"],
            before=event.get("OldResourceProperties", {}),
        )
        logger.append_keys(function=context.function_name, request=request.id, request_type=request.kind)
        reason = None
        try:
            _patiently(change, request)
        except GatewayError as error:
            reason = f"{type(error).__name__}: {error}"
        except Exception as error:
            reason = f"UnexpectedError: {defect(error)}"
        if reason is None:
            logger.info("done", resource=request.resource)
        else:
            logger.error(reason, resource=request.resource)
        _answer(event, request.resource, reason)

    return handler


def _patiently(change: Callable[[Request], None], request: Request) -> None:
    for pause in _PAUSES:
        try:
            return change(request)
        except _PASSING as error:
            logger.warning("%s: %s", type(error).__name__, error)
            time.sleep(pause)
    request.last_try = True
    return change(request)


def _answer(event: Mapping[str, Any], resource: str, reason: str | None) -> None:
    """Tell CloudFormation. Its URL is signed and good for anybody, so it is never logged. An answer that does not get
    there fails the Lambda, and Lambda asks again."""
    answer = {
        "Status": "SUCCESS" if reason is None else "FAILED",
        "Reason": (reason or "")[:_LONGEST_REASON],
        "PhysicalResourceId": resource,
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    try:
        # An empty content type is part of what was signed.
        told = _HTTP.request(
            "PUT", event["ResponseURL"], body=json.dumps(answer).encode(), headers={"content-type": ""}
        )
    except urllib3.exceptions.HTTPError as error:
        raise ConnectionError(f"CloudFormation did not get the answer ({type(error).__name__})") from None
    if told.status != 200:
        raise ConnectionError(f"CloudFormation answered {told.status}")
