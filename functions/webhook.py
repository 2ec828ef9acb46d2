"""POST /create: a signed Stripe event becomes an order in the ledger and an execution.

in   HTTP API event (payload 2.0; REST's works too) with Stripe's raw body and its Stripe-Signature header
out  200 recorded and started, or none of our business; 400 not authentic, or not an event; 413 too large;
     503 the ledger or Step Functions cannot take it now, 500 a defect: Stripe delivers again for three days
"""

import base64
import json
import time
from collections.abc import Mapping
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit, single_metric

from gateway import aws, events, signature
from gateway.defects import defect
from gateway.errors import GatewayError, NotAuthentic, UnreadableEnvelope, UnusableEvent
from gateway.executions import StateMachine
from gateway.ledger import Attempt, Ledger
from gateway.secret import Secret
from gateway.settings import required
from gateway.telemetry import count, count_throttle, logger, metrics

LIVEMODE = required("STRIPE_MODE") == "live"
MAX_BODY = 1024 * 1024  # bytes; Stripe's events are far smaller

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
fulfillment = StateMachine(aws.client("stepfunctions"), required("STATE_MACHINE_ARN"))
signing = Secret(aws.client("secretsmanager"), required("STRIPE_WEBHOOK_SECRET_ARN"), time.monotonic)


@count
def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    logger.append_keys(function=context.function_name, request_id=context.aws_request_id)
    logger.append_keys(event_id=None, event_type=None, order_id=None)  # of the call before
    try:
        return _answer(200, _receive(event))
    except _TooLarge:
        return _refusal(413, "BodyTooLarge", f"the body is larger than {MAX_BODY} bytes")
    except NotAuthentic as error:
        return _refusal(400, "SignatureRejected", str(error))
    except UnreadableEnvelope as error:
        return _refusal(400, "EnvelopeUnreadable", str(error))
    except GatewayError as error:
        logger.error("%s: %s", type(error).__name__, error)
        count_throttle(error)
        return _refusal(503, "WebhookUnavailable", "the event cannot be taken now; deliver it again")
    except Exception as error:
        logger.error("UnexpectedError: %s", defect(error))
        return _refusal(500, "WebhookUnavailable", "the event cannot be taken now; deliver it again")


def _receive(request: Mapping[str, Any]) -> str:
    body = _body(request)
    _verify(body, _header(request, "stripe-signature"))
    envelope = events.envelope(_parsed(body))
    logger.append_keys(event_id=envelope.id, event_type=envelope.type)
    if envelope.livemode is not LIVEMODE:
        return _ignored("WrongMode", "an event of the other mode")
    if envelope.account is not None:
        return _ignored("OtherAccount", "an event of another account")
    if (metric := events.notice(envelope)) is not None:
        logger.warning("%s: %s", metric, envelope.object_id)
        return _ignored(metric, "noted; it changes nobody's access")
    try:
        order = events.order(envelope)
    except UnusableEvent as error:
        ledger.record(events.unusable(envelope), int(time.time()), problem=f"UnusableEvent: {error}")
        _count("UnusableEvent")
        logger.error("UnusableEvent: %s", error)
        return "recorded, but its content cannot be used"
    if order is None:
        return _of_no_interest(envelope.type)
    ledger.remember_purchase(order)
    now = int(time.time())  # after the purchase is known: no run that read before may close this order
    known = ledger.record(order, now)
    attempt = known or Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", now)
    return _start(attempt, now, new=known is None)


def _start(attempt: Attempt, now: int, *, new: bool) -> str:
    """Start what is to be run. A delivery again never doubles work that runs or is done; it restarts what failed."""
    logger.append_keys(order_id=attempt.order_id)
    _count("EventReceived" if new else "EventRedelivered")
    due: Attempt | None = attempt
    if attempt.over(now):
        due = None if attempt.state == "FULFILLED" else ledger.next_attempt(attempt, now)
    if due is None:
        return "known"
    fulfillment.start(due)  # by its name: starts nothing when it runs already
    logger.info("started", execution_name=due.execution_name)
    return "accepted"


def _verify(body: bytes, header: str) -> None:
    try:
        signature.verify(body, header, signature.secrets_in(signing.text()))
    except NotAuthentic:
        if not signing.refresh():  # at most once a minute: the secret may have been rotated
            raise
        signature.verify(body, header, signature.secrets_in(signing.text()))


def _body(request: Mapping[str, Any]) -> bytes:
    """The raw bytes that Stripe signed."""
    text = request.get("body") or ""
    if len(text) > MAX_BODY * 4 // 3 + 4:
        raise _TooLarge
    try:
        body = base64.b64decode(text, validate=True) if request.get("isBase64Encoded") else text.encode()
    except ValueError:
        raise NotAuthentic("the body cannot be decoded") from None
    if len(body) > MAX_BODY:
        raise _TooLarge
    return body


def _parsed(body: bytes) -> object:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise UnreadableEnvelope("the body is not JSON") from None


def _header(request: Mapping[str, Any], name: str) -> str:
    """A header whatever its case: HTTP APIs lower it, REST APIs do not."""
    headers = request.get("headers") or {}
    return next((str(value) for key, value in headers.items() if key.lower() == name), "")


def _ignored(metric: str, message: str) -> str:
    _count(metric)
    logger.info(message)
    return message


def _of_no_interest(event_type: str) -> str:
    """Counted by type: one that turns up often is on the endpoint's list for nothing, or a rule is missing."""
    with single_metric("IgnoredEvent", MetricUnit.Count, 1) as metric:
        metric.add_dimension("event_type", event_type[:255])  # a dimension has a limit
    logger.info("an event of no interest")
    return "an event of no interest"


def _refusal(status: int, metric: str, message: str) -> dict[str, Any]:
    _count(metric)
    logger.warning(message, status=status)
    return _answer(status, message)


def _answer(status: int, message: str) -> dict[str, Any]:
    return {
        "statusCode": status,
        "headers": {"content-type": "application/json"},
        "body": json.dumps({"message": message}),
    }


def _count(name: str) -> None:
    metrics.add_metric(name, MetricUnit.Count, 1)


class _TooLarge(GatewayError):
    """The body is over MAX_BODY."""
