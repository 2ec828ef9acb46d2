"""MarkUnfulfilled: the run failed. The order stays open, with the reason and the moment of its next run.

in      the run, with error {"Error", "Cause"} from a Catch
out     {"retry_at": Unix seconds}
raises  LedgerThrottled, LedgerUnavailable (passing)
"""

import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import MAX_ATTEMPTS, Ledger, retry_delay
from gateway.settings import required, whole_number
from gateway.step import Run, failure, step
from gateway.telemetry import logger, metrics

RETRY_AFTER = whole_number("RETRY_AFTER_SECONDS")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@step
def handler(run: Run) -> dict[str, Any]:
    retry_at = int(time.time()) + retry_delay(run.attempt, RETRY_AFTER)
    message = failure(run.state["error"])
    ledger.fail(run.event_id, execution=run.execution, error=message, retry_at=retry_at)
    metrics.add_metric("OrderUnfulfilled", MetricUnit.Count, 1)
    if run.attempt >= MAX_ATTEMPTS:
        metrics.add_metric("OrderStuck", MetricUnit.Count, 1)
    logger.error(message, retry_at=retry_at)
    return {"retry_at": retry_at}
