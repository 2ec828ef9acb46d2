"""RunDue, every five minutes: runs open orders again, and people whose access changes at a moment of its own.

in      a schedule's event (not read)
out     {"started": number of executions}; the metric DueStarted counts them, 0 when nothing was due, and nothing when
        an error stopped the call: RunDueSilentAlarm is about that
raises  Ledger…, Start…: the next call, five minutes later, goes on
"""

import time
from collections.abc import Iterator
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.defects import harmless
from gateway.errors import GatewayError, StartThrottled, StartUnavailable
from gateway.events import recheck
from gateway.executions import StateMachine
from gateway.ledger import DUE_SHARDS, MAX_ATTEMPTS, Attempt, DuePerson, Ledger
from gateway.settings import required
from gateway.telemetry import count, logger, metrics

LIVEMODE = required("STRIPE_MODE") == "live"
# An hour in which nothing counts these is a zero for the alarms, and no gap, as long as this runs.
COUNTED_BY_OTHERS = ("EventReceived", "Reconciled")
SPARE_SECONDS = 15  # stop before the Lambda's own time-out; what is left is due at the next call

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
fulfillment = StateMachine(aws.client("stepfunctions"), required("STATE_MACHINE_ARN"))


@count
@harmless
def handler(event: object, context: Any) -> dict[str, Any]:
    logger.append_keys(function=context.function_name, request_id=context.aws_request_id)
    now = int(time.time())
    started = 0
    for name in COUNTED_BY_OTHERS:
        metrics.add_metric(name, MetricUnit.Count, 0)
    unmeasured = _measure(now)
    try:
        for due in _due(now, context):
            attempt = _of_person(due, now) if isinstance(due, DuePerson) else _next(due, now)
            if attempt is not None:
                fulfillment.start(attempt)
                started += 1
                logger.info("started", event_id=attempt.event_id, execution_name=attempt.execution_name)
    except (StartThrottled, StartUnavailable):
        if started:  # as many as Step Functions takes: slow, and not silent
            metrics.add_metric("DueStarted", MetricUnit.Count, started)
        raise
    if unmeasured is not None:
        raise unmeasured
    metrics.add_metric("DueStarted", MetricUnit.Count, started)
    return {"started": started}


def _measure(now: int) -> GatewayError | None:
    """How long the oldest open order has been waiting; 0: none is. To look must not keep anybody from being run, so an
    error is handed back, to be raised when they are."""
    try:
        oldest = ledger.oldest_open(now)
    except GatewayError as error:
        logger.warning("%s: %s", type(error).__name__, error)
        return error
    seconds = 0
    if oldest is not None:
        received_at, event_id = oldest
        seconds = max(now - received_at, 0)
        logger.info("oldest open order", event_id=event_id, received_at=received_at)
    metrics.add_metric("OldestOpenOrderSeconds", MetricUnit.Seconds, seconds)
    return None


def _due(now: int, context: Any) -> Iterator[Attempt | DuePerson]:
    """What is due, as long as there is time; another shard first at each call, so that none starves."""
    for shard in range(DUE_SHARDS):
        for due in ledger.due((shard + now // 60) % DUE_SHARDS, now):
            if context.get_remaining_time_in_millis() < SPARE_SECONDS * 1000:
                return
            yield due


def _next(attempt: Attempt, now: int) -> Attempt | None:
    """The next attempt of an open order; None when somebody else took it."""
    taken = ledger.next_attempt(attempt, now)
    if taken is not None and taken.number > MAX_ATTEMPTS:
        metrics.add_metric("OrderStuck", MetricUnit.Count, 1)
    return taken


def _of_person(person: DuePerson, now: int) -> Attempt | None:
    """A recheck becomes an order of our own, so that it has attempts, an outcome and an end like any other."""
    order = recheck(person.sub, person.party, now, livemode=LIVEMODE)
    ledger.record(order, now)
    ledger.rechecked(person)
    return Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", now)
