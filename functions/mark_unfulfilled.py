"""MarkUnfulfilled: the run failed. The order stays open, with the reason and the moment of its next run.

in      the run, with error {"Error", "Cause"} from a Catch
out     {"retry_at": Unix seconds}
raises  LedgerThrottled, LedgerUnavailable (passing)
"""

import json
import time
from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import MAX_ATTEMPTS, Ledger, retry_delay
from gateway.settings import required, whole_number
from gateway.step import Run, step
from gateway.telemetry import count, logger, metrics

RETRY_AFTER = whole_number("RETRY_AFTER_SECONDS")

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@count
@step
def handler(run: Run) -> dict[str, Any]:
    error = run.state["error"]
    retry_at = int(time.time()) + retry_delay(run.attempt, RETRY_AFTER)
    message = f"{error['Error']}: {_message(error.get('Cause', ''))}"
    ledger.fail(run.event_id, execution=run.execution, error=message, retry_at=retry_at)
    metrics.add_metric("OrderUnfulfilled", MetricUnit.Count, 1)
    if run.attempt >= MAX_ATTEMPTS:
        metrics.add_metric("OrderStuck", MetricUnit.Count, 1)
    logger.error(message, retry_at=retry_at)
    return {"retry_at": retry_at}


def _message(cause: str) -> str:
    """The message in a Lambda's error envelope; anything else as it is."""
    try:
        return str(json.loads(cause)["errorMessage"])
    except (ValueError, KeyError, TypeError):
        return cause
