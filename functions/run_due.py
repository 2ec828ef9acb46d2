"""RunDue, every five minutes: runs open orders again, and people whose access changes at a moment of its own.

in      a schedule's event (not read)
out     {"started": number of executions}
raises  LedgerThrottled, LedgerUnavailable, Start…: the next call, five minutes later, goes on
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.events import recheck
from gateway.fulfillment import Fulfillment
from gateway.ledger import DUE_SHARDS, MAX_ATTEMPTS, Attempt, DuePerson, Ledger
from gateway.settings import required
from gateway.telemetry import logger, metrics

LIVEMODE = required("STRIPE_MODE") == "live"
SPARE_SECONDS = 15  # stop before the Lambda's own time-out; what is left is due at the next call

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))
fulfillment = Fulfillment(aws.client("stepfunctions"), required("STATE_MACHINE_ARN"))


@metrics.log_metrics
def handler(event: object, context: Any) -> dict[str, Any]:
    logger.append_keys(function=context.function_name)
    now = int(time.time())
    started = 0
    for shard in range(DUE_SHARDS):
        for due in ledger.due(shard, now):
            if context.get_remaining_time_in_millis() < SPARE_SECONDS * 1000:
                break
            attempt = _of_person(due, now) if isinstance(due, DuePerson) else _next(due, now)
            if attempt is not None:
                fulfillment.start(attempt)
                started += 1
                logger.info("started", event_id=attempt.event_id, execution_name=attempt.execution_name)
    metrics.add_metric("DueStarted", MetricUnit.Count, started)
    return {"started": started}


def _next(attempt: Attempt, now: int) -> Attempt | None:
    """The next attempt of an open order, unless its attempts are used up without a word."""
    if attempt.number < MAX_ATTEMPTS:
        return ledger.next_attempt(attempt, now)
    error = "NoAnswer: the last run ended without a word; see its execution, then run the order again"
    ledger.fail(attempt.event_id, execution=attempt.execution_name, error=error, retry_at=None)
    metrics.add_metric("OrderGivenUp", MetricUnit.Count, 1)
    return None


def _of_person(person: DuePerson, now: int) -> Attempt | None:
    """A recheck becomes an order of our own, so that it has attempts, an outcome and an end like any other."""
    order = recheck(person.sub, person.party, now, livemode=LIVEMODE)
    ledger.record(order, now)
    ledger.rechecked(person)
    return Attempt(order.event_id, order.order_id, order.customer_id, 1, "RECEIVED", now)
