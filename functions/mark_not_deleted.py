"""MarkNotDeleted: the deletion failed. It stays open, with the reason; POST /delete takes it up where it is.

in      the deletion, with error {"Error", "Cause"} from a Catch
out     {}
raises  LedgerThrottled, LedgerUnavailable (passing)
"""

from typing import Any

from aws_lambda_powertools.metrics import MetricUnit

from gateway import aws
from gateway.ledger import Ledger
from gateway.settings import required
from gateway.step import Deletion, deletion_step, failure
from gateway.telemetry import logger, metrics

ledger = Ledger(aws.client("dynamodb"), required("ORDERS_TABLE"))


@deletion_step
def handler(run: Deletion) -> dict[str, Any]:
    message = failure(run.state["error"])
    ledger.fail_deletion(run.id, execution=run.execution, error=message)
    metrics.add_metric("DeletionFailed", MetricUnit.Count, 1)
    logger.error(message)
    return {}
