"""What the endpoints share: their requests, their answers, and who asks.

in   HTTP API event (payload 2.0); of operators: of an IAM-authorised route with a JSON object {"email": …, …} of at
     most 10 kB; of users: of a route that Authorize authorises, where needed with a JSON object {"id": …}
out  JSON; 400 says what is wrong with the request, 403 nobody signed it, 404 nobody has this address, 409 the address
     leads to several users or is being deleted, 413 too large, 503 passing (ask again), 502 lasting (README, errors)
"""

import base64
import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gateway.defects import defect
from gateway.errors import (
    AccountAmbiguous,
    AccountUnknown,
    DeletionUnderWay,
    GatewayError,
    PersonBusy,
    RequestInvalid,
    SecretUnavailable,
    UnusableEvent,
)
from gateway.events import email_address
from gateway.step import Handler
from gateway.telemetry import count, count_throttle, logger

MAX_BODY = 10_000  # bytes

# Nothing that a path or a DynamoDB key would have to escape; no "." or ".." either.
_DAPP = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")

Field = Callable[[Any], Any]
_Asked = TypeVar("_Asked", "Request", "UserRequest")


@dataclass(frozen=True, slots=True)
class Request:
    """A request that can be used. `values` holds every field that the endpoint knows; `caller` is an IAM ARN; `owner`
    names this invocation (ledger leases); `seconds_left` until the answer must be there.
    """

    email: str
    values: Mapping[str, Any]
    caller: str
    owner: str
    seconds_left: Callable[[], float]


@dataclass(frozen=True, slots=True)
class UserRequest:
    """A request of a user whom the authorizer has let in."""

    sub: str
    event: Mapping[str, Any]

    @property
    def dapp(self) -> str:
        """The dapp that the body names; RequestInvalid when it names none."""
        content = _content(self.event)
        if content.keys() - {"id"}:
            raise RequestInvalid('the body knows one field, "id"')
        return _dapp(content.get("id"))

    @property
    def dapp_in_path(self) -> str:
        """The dapp that the path names."""
        return _dapp((self.event.get("pathParameters") or {}).get("id"))

    @property
    def next(self) -> str | None:
        """The dapp that a page goes on after; None: the first page."""
        value = (self.event.get("queryStringParameters") or {}).get("next")
        return None if value is None else _dapp(value, "next")


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a JSON document."""

    document: Mapping[str, Any]
    status: int = 200


def flag(value: Any) -> bool:
    """true or false; false when it is not said."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise RequestInvalid("is neither true nor false")
    return value


def said(value: Any) -> bool:
    """true or false, and it must be said."""
    if value is None:
        raise RequestInvalid("is missing: say true or false")
    return flag(value)


def text(length: int) -> Field:
    """Printable text of at most this many characters; None when it is not said."""

    def field(value: Any) -> str | None:
        if value is None:
            return None
        if not isinstance(value, str) or not value.isprintable():
            raise RequestInvalid("is not printable text")
        if not value.strip() or len(value) > length:
            raise RequestInvalid(f"is empty, or longer than {length} characters")
        return value.strip()

    return field


def endpoint(**fields: Field) -> Callable[[Callable[[Request], Answer]], Handler]:
    """Make a Lambda handler of what answers a Request with these fields besides the e-mail."""

    def decorate(task: Callable[[Request], Answer]) -> Handler:
        return _handler(task, lambda event, context: _request(event, context, fields))

    return decorate


def user_endpoint(task: Callable[[UserRequest], Answer]) -> Handler:
    """Make a Lambda handler of what answers a user's request."""
    return _handler(task, _user_request, _outward)


def _outward(answer: Answer, request_id: str) -> Answer:
    """What a user is told of what went wrong inside: nothing but how to name it."""
    if answer.status < 500:
        return answer
    error, todo = ("Unavailable", "ask again") if answer.status == 503 else ("Failed", "tell whoever runs this API")
    return Answer({"error": error, "message": f"request {request_id} could not be answered: {todo}"}, answer.status)


def _handler(
    task: Callable[[_Asked], Answer],
    read: Callable[[Mapping[str, Any], Any], _Asked],
    told: Callable[[Answer, str], Answer] = lambda answer, request_id: answer,
) -> Handler:
    @functools.wraps(task)
    def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
        logger.append_keys(function=context.function_name, caller=None, request_id=context.aws_request_id)
        try:
            answer = task(read(event, context))
        except GatewayError as error:
            answer = _refusal(error)
            count_throttle(error)
            logger.warning("%s: %s", type(error).__name__, error, status=answer.status)
        except Exception as error:
            logger.error("UnexpectedError: %s", defect(error))
            answer = Answer({"error": "UnexpectedError", "message": defect(error)}, 500)
        else:
            logger.info("answered", status=answer.status)
        answer = told(answer, context.aws_request_id)
        return {
            "statusCode": answer.status,
            "headers": {"content-type": "application/json", "cache-control": "no-store"},
            "body": json.dumps(answer.document, default=int),  # DynamoDB's numbers are decimals
        }

    return count(handler)


class _NotSigned(GatewayError):
    """No caller: the route has lost its authorizer."""


class _TooLarge(GatewayError):
    """The body is over MAX_BODY."""


_STATUSES: dict[type[GatewayError], int] = {
    _NotSigned: 403,
    _TooLarge: 413,
    AccountAmbiguous: 409,
    AccountUnknown: 404,
    DeletionUnderWay: 409,
    PersonBusy: 503,
    RequestInvalid: 400,
    SecretUnavailable: 502,  # lasting, whatever its name says
}


def _refusal(error: GatewayError) -> Answer:
    name = type(error).__name__
    passing = name.endswith(("Throttled", "Unavailable"))
    status = _STATUSES.get(type(error), 503 if passing else 502)
    return Answer({"error": name.removeprefix("_"), "message": str(error)}, status)


def _request(event: Mapping[str, Any], context: Any, fields: Mapping[str, Field]) -> Request:
    signed = ((event.get("requestContext") or {}).get("authorizer") or {}).get("iam") or {}
    caller = signed.get("userArn")
    if not caller:
        raise _NotSigned("nobody signed this request: is the route IAM-authorised?")
    logger.append_keys(caller=caller)
    content = _content(event)
    if unknown := content.keys() - fields.keys() - {"email"}:
        known = ", ".join(["email", *fields])
        raise RequestInvalid(f"{len(unknown)} of the fields are not known here; known are {known}")
    try:
        email = email_address(content.get("email"))
    except UnusableEvent as error:
        raise RequestInvalid(str(error)) from None
    values = {}
    for name, field in fields.items():
        try:
            values[name] = field(content.get(name))
        except RequestInvalid as error:
            raise RequestInvalid(f"{name} {error}") from None
    return Request(email, values, caller, context.aws_request_id, lambda: context.get_remaining_time_in_millis() / 1000)


def _user_request(event: Mapping[str, Any], context: Any) -> UserRequest:
    authorized = ((event.get("requestContext") or {}).get("authorizer") or {}).get("lambda") or {}
    sub = authorized.get("sub")
    if not sub:
        raise _NotSigned("nobody authorised this request: has the route lost its authorizer?")
    logger.append_keys(caller=sub)
    return UserRequest(str(sub), event)


def _dapp(value: Any, name: str = "id") -> str:
    if value is None:
        raise RequestInvalid(f"{name} is missing")
    if not isinstance(value, str) or not _DAPP.fullmatch(value):
        raise RequestInvalid(f"{name} must be 1 to 128 letters, digits or . _ : - and begin with a letter or digit")
    return value


def _content(event: Mapping[str, Any]) -> dict[str, Any]:
    body = event.get("body") or ""
    try:
        raw = base64.b64decode(body, validate=True) if event.get("isBase64Encoded") else body.encode()
        if len(raw) > MAX_BODY:
            raise _TooLarge(f"the body is larger than {MAX_BODY} bytes")
        content = json.loads(raw)
    except (ValueError, RecursionError):
        raise RequestInvalid("the body is not JSON") from None
    if not isinstance(content, dict):
        raise RequestInvalid("the body is not a JSON object")
    return content
